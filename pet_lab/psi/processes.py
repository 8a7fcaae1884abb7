"""The whole protocol as processes on loopback ports: what tests, notebooks and benchmarks run.

Two data holders and one linker (two for totals), each its own process with its own credentials;
this module only starts them, hands them files and reads what they print.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from .certificates import TestAuthority, save
from .protocol import Party, PsiError


@dataclass
class Running:
    """A process of ours; `events` are the JSON lines that it printed."""

    name: str
    process: subprocess.Popen[str]
    events: list[dict[str, Any]] = field(default_factory=list)
    _lines: queue.Queue[str | None] = field(default_factory=queue.Queue, repr=False)

    def __post_init__(self) -> None:
        def pump() -> None:
            assert self.process.stdout is not None
            for line in self.process.stdout:
                self._lines.put(line)
            self._lines.put(None)

        threading.Thread(target=pump, daemon=True).start()

    def wait_for(
        self, event: str, timeout_s: float, *, partner: Running | None = None
    ) -> dict[str, Any]:
        """The next line that says `event`; a partner that failed meanwhile ends the wait.

        Raises
        ------
        PsiError
            With what the process wrote to stderr, if it ended first or was too slow.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                line = self._lines.get(timeout=0.2)
            except queue.Empty:
                if partner is not None and partner.process.poll():
                    raise PsiError(partner.last_words()) from None
                if time.monotonic() < deadline:
                    continue
                raise PsiError(f"{self.name} did not say {event} within {timeout_s:g} s.") from None
            if line is None:
                raise PsiError(self.last_words())
            said = json.loads(line)
            self.events.append(said)
            if said["event"] == event:
                return dict(said)

    def last_words(self) -> str:
        """What it wrote to stderr, without the TLS library's own notes."""
        self.process.wait(10)
        assert self.process.stderr is not None
        lines = self.process.stderr.read().splitlines()
        ours = [x for x in lines if x[:1] != "E" or "] " not in x]
        return " ".join(ours).strip() or f"{self.name} ended with {self.process.returncode}."


@contextmanager
def start(name: str, arguments: Sequence[str], credentials: Path) -> Iterator[Running]:
    """Start `pet-lab party ...` as a process; it is stopped on leaving."""
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and module, no shell
        [sys.executable, "-m", "pet_lab.psi.commands", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PET_LAB_CREDENTIALS": str(credentials), "GRPC_VERBOSITY": "NONE"},
        cwd=Path(__file__).resolve().parents[2],
    )
    try:
        yield Running(name, process)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None and process.poll() is not None:
                stream.close()


@dataclass(frozen=True, kw_only=True)
class ProcessRun:
    """What a run as processes gave: the answer, and its cost by process.

    costs : one row a process: cpu_s (with start of the interpreter), peak_mib, bytes_sent
    """

    table: pd.DataFrame
    cardinality: int
    costs: pd.DataFrame
    wall_s: float


def run(
    initiator: Party,
    responder: Party,
    *,
    on: Sequence[str],
    by: Sequence[str],
    columns: Mapping[str, Sequence[str]],
    total: str | None = None,
    values: Mapping[str, Sequence[str]] | None = None,
    engine: str = "ecdh",
    min_cell: int = 10,
    timeout_s: float = 600.0,
) -> ProcessRun:
    """Run intersection, upload and one query between processes over mutual TLS on loopback.

    Parameters
    ----------
    by : what to group by, as "party:column"
    columns : party name -> columns that it sends as tokens
    total : "party:column" to total over two linkers; None counts at one linker
    values : party name -> value columns as "column:decimals", needed for `total`
    """
    values = values or {}
    linkers = ["linker-a", "linker-b"] if total else ["linker"]
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder, authority = Path(temporary), TestAuthority()
        homes = {
            name: save(authority.issue(name), folder / name)
            for name in (initiator.name, responder.name, *linkers)
        }
        served = []
        for name in linkers:
            arguments = ["linker", "--min-cell", str(min_cell)]
            for party in (initiator, responder):
                arguments += ["--party", party.name]
            served.append(stack.enter_context(start(name, arguments, homes[name])))
        addresses = [
            f"{one.name}@127.0.0.1:{one.wait_for('listening', 60)['port']}" for one in served
        ]

        def arguments_of(party: Party, peer: Party) -> list[str]:
            path = folder / f"{party.name}.csv"
            party.frame.to_csv(path, index=False)
            made = ["--data", str(path), "--peer", peer.name, "--engine", engine]
            made += ["--variant", "analytics", "--timeout", str(timeout_s)]
            for option, items in (
                ("--on", on),
                ("--linker", addresses),
                ("--column", columns.get(party.name, ())),
                ("--value", values.get(party.name, ())),
            ):
                for item in items:
                    made += [option, item]
            return made

        asks = [x for name in by for x in ("--by", name)]
        asks += ["--total", total] if total else []
        second = stack.enter_context(
            start(
                responder.name,
                ["serve", *arguments_of(responder, initiator), *asks],
                homes[responder.name],
            )
        )
        port = second.wait_for("listening", 60)["port"]
        first = stack.enter_context(
            start(
                initiator.name,
                ["join", *arguments_of(initiator, responder), "--connect", f"127.0.0.1:{port}"],
                homes[initiator.name],
            )
        )
        session = second.wait_for("session", timeout_s, partner=first)
        answer = second.wait_for("answer", timeout_s, partner=first)
        first.wait_for("session", timeout_s)
        for _ in addresses:
            first.wait_for("sent", timeout_s)
        costs = [_cost(p) for p in (first, second)]
        for one in served:
            one.process.terminate()
            one.wait_for("stopped", 30)
            costs.append(_cost(one))
    table = pd.DataFrame(answer["table"])
    return ProcessRun(
        table=table,
        cardinality=session["cardinality"],
        costs=pd.DataFrame(costs),
        wall_s=time.monotonic() - begun,
    )


def _cost(one: Running) -> dict[str, Any]:
    return {
        "process": one.name,
        "cpu_s": max(e.get("cpu_s", 0.0) for e in one.events),
        "stage_cpu_s": sum(e.get("stage_cpu_s", 0.0) for e in one.events),
        "peak_mib": max(e.get("peak_mib", 0.0) for e in one.events),
        "bytes_sent": sum(e.get("bytes_sent", 0) for e in one.events),
    }
