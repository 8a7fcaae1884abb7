"""The protocol end to end by one call: intersection, upload to the linkers, one query.

In this process (a simulation of all parties) or as separate processes over mutual TLS.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd

from pet_lab.parties.certificates import ENVIRONMENT, TestAuthority, save
from pet_lab.parties.launch import Process

from .disclosure import OutputRules
from .engines import engine_named
from .linker import Linker, Query, combine_totals
from .protocol import DataHolder, PsiError, PsiResult
from .session import intersect
from .tokens import TokenTable, tables_for_linkers

ARROWS = {
    "hello": "greeting: names, sizes, key shares",
    "blinded": "own elements, blinded, shuffled",
    "commitment": "commitment to the answer",
    "salt": "salt of the commitment",
    "twice_blinded": "the other's elements, blinded again",
    "signed": "blind signatures",
    "tags": "tags of own elements, shuffled",
    "matched": "proofs of the tags found",
    "blob": "public key or opaque blob",
    "attributes": "columns of the intersection",
    "tokens": "tokens of the intersection",
    "answer": "checked answer",
}


@dataclass(frozen=True, kw_only=True)
class EndToEnd:
    """LinkerAnswer and cost of one run of intersection, upload and query.

    table      the answer as the querying party reads it
    costs      one row a party: cpu_s, bytes_sent; with separate processes also peak_mib
    stages     in one process only: cost by party and stage
    result     in one process only: both outcomes and the transcript
    linkers    in one process only: what the linkers hold
    """

    table: pd.DataFrame
    cardinality: int
    wall_s: float
    costs: pd.DataFrame
    stages: pd.DataFrame | None = None
    result: PsiResult | None = field(default=None, repr=False)
    linkers: tuple[Linker, ...] = field(default=(), repr=False)

    @property
    def simulated(self) -> PsiResult:
        """Both outcomes and the transcript.

        Raises
        ------
        PsiError
            After a run as separate processes: nobody there sees both sides.
        """
        if self.result is None:
            raise PsiError("Separate processes keep no transcript; run the protocol in one.")
        return self.result

    @property
    def link_key(self) -> bytes:
        """What the two data holders agreed on; see `simulated`."""
        return self.simulated.right.link_key

    def held(self, linker: int = 0) -> dict[str, TokenTable]:
        """What a linker holds of the session, by party; see `simulated`."""
        return self.linkers[linker].held(self.simulated.right.session)

    def messages(self) -> pd.DataFrame:
        """One row a message, in order: sender, receiver, kind in words, bytes; see `simulated`."""
        right = self.simulated.right.party
        messages: list[tuple[Any, ...]] = [
            (m.sender, m.receiver, ARROWS[m.kind], m.size_bytes)
            for m in self.simulated.transcript
            if m.kind not in ("stream", "end")
        ]
        assert self.stages is not None
        for stage in self.stages.itertuples():
            if stage.stage == "send tokens":
                messages.append((stage.party, "linker", ARROWS["tokens"], stage.bytes_sent))
            elif stage.party == "linker":
                messages.append(("linker", right, ARROWS["answer"], stage.bytes_sent))
        return pd.DataFrame(messages, columns=["sender", "receiver", "kind", "bytes"])


def run(
    initiator: DataHolder,
    responder: DataHolder,
    *,
    on: Sequence[str],
    by: Sequence[str],
    columns: Mapping[str, Sequence[str]],
    total: str | None = None,
    values: Mapping[str, Sequence[str]] | None = None,
    joins: Mapping[str, Sequence[str]] | None = None,
    public: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
    engine: str = "ecdh",
    min_cell: int = 10,
    separate: bool = False,
    keep_payloads: bool = False,
    timeout_s: float = 600.0,
) -> EndToEnd:
    """Intersect, send tokens, let the responder ask one query.

    Parameters
    ----------
    on : sequence of str
        Key columns.
    by : sequence of str
        What to group by, as "party:column".
    columns : mapping
        DataHolder name -> columns that it sends as tokens.
    total, values : str, mapping
        "party:column" to total over two linkers, and the value columns as "column:decimals" by
        party; without, pairs are counted at one linker.
    joins : mapping
        Further keys that the linker compares (one process only), see `tables_for_linkers`.
    public : mapping
        DataHolder name -> column -> all its labels, where they are public (one process only).
    separate : bool
        True runs three processes (four for totals) over mutual TLS on loopback.
    keep_payloads : bool
        Keep what crossed the wire in the transcript (one process only).
    timeout_s : float
        Seconds to wait for a message, and for a process to report.

    Raises
    ------
    PsiError
        The first refusal of any party, in one sentence.
    """
    if separate and (joins or public):
        raise PsiError("Joins and public labels are for one process; leave out them or separate.")
    if separate:
        common = {"on": list(on), "engine": engine, "timeout": timeout_s}
        own = {
            holder.name: {
                "column": list(columns.get(holder.name, ())),
                "value": list((values or {}).get(holder.name, ())),
            }
            for holder in (initiator, responder)
        }
        asked = {"by": list(by), "total": total}
        return _as_processes(initiator, responder, common, own, asked, min_cell)
    begun = time.perf_counter()
    result = intersect(
        engine_named(engine),
        initiator,
        responder,
        on=on,
        variant="analytics",
        keep_payloads=keep_payloads,
        timeout_s=timeout_s,
    )
    parties = (initiator.name, responder.name)
    linkers = tuple(
        Linker(parties, rules=OutputRules(min_cell=min_cell)) for _ in range(2 if total else 1)
    )
    later = []
    for party, outcome in ((initiator, result.left), (responder, result.right)):
        cpu, wall = time.process_time(), time.perf_counter()
        numbers = whole_numbers(party, (values or {}).get(party.name, ()))
        tables = tables_for_linkers(
            party,
            outcome,
            on=on,
            columns=columns.get(party.name, ()),
            values=numbers,
            joins=joins,
            public=(public or {}).get(party.name),
            linkers=len(linkers),
        )
        size = 0
        for linker, sent in zip(linkers, tables, strict=True):
            linker.accept(sent, party.name)
            size += sent.pack().nbytes + sum(t.nbytes for t in sent.labels.values())
        later.append(_stage(party.name, "send tokens", len(tables[0]), cpu, wall, size))
    cpu, wall = time.process_time(), time.perf_counter()
    query = Query(
        session=result.right.session,
        group_by=tuple(by),
        measure="total" if total else "count",
        value=total,
    )
    answers = [linker.answer(query, responder.name) for linker in linkers]
    table = (
        combine_totals(answers, result.right) if total else answers[0].table(result.right.link_key)
    )
    size = sum(len(msgspec.json.encode(answer)) for answer in answers)
    later.append(_stage("linker", "join, check and answer", result.cardinality, cpu, wall, size))
    stages = pd.concat([result.stages, pd.DataFrame(later)], ignore_index=True)
    costs = stages.groupby("party", sort=False, as_index=False)[["cpu_s", "bytes_sent"]].sum()
    return EndToEnd(
        table=table,
        cardinality=result.cardinality,
        wall_s=time.perf_counter() - begun,
        costs=costs.rename(columns={"party": "process"}),
        stages=stages,
        result=result,
        linkers=linkers,
    )


def _stage(  # noqa: PLR0917 - a row in the order of its columns
    party: str, stage: str, elements: int, cpu: float, wall: float, size: int
) -> dict[str, object]:
    return {
        "party": party,
        "stage": stage,
        "elements": elements,
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - wall,
        "bytes_sent": size,
    }


def whole_numbers(holder: DataHolder, values: Sequence[str]) -> dict[str, npt.NDArray[np.int64]]:
    """Value columns written "column:decimals" as whole numbers, e.g. cents for 2 decimals.

    Raises
    ------
    PsiError
        For an unknown column, another notation, or entries that are no numbers.
    """
    numbers = {}
    for value in values:
        column, _, decimals = value.partition(":")
        if column not in holder.frame.columns or not decimals.isdecimal() or len(decimals) > 1:
            raise PsiError(
                f"A value is written COLUMN:DECIMALS with a known column, got {value[:80]!r}."
            )
        read = pd.to_numeric(holder.frame[column], errors="coerce").to_numpy(dtype=float)
        if not np.isfinite(read).all():
            raise PsiError(f"Column {column} holds entries that are no numbers.")
        numbers[column] = np.rint(read * 10 ** int(decimals)).astype(np.int64)
    return numbers


def party_process(
    name: str, arguments: Sequence[str], credentials: Path, *, remove: Path | None = None
) -> Process:
    """Start `pet-lab party ...` as a process of its own; it ends with this one, `remove` too."""
    environment = {ENVIRONMENT: str(credentials)}
    return Process(name, "pet_lab.psi.commands", arguments, environment=environment, remove=remove)


def _options(**options: Any) -> list[str]:
    """Command line options, one for each value of a list; None leaves an option out."""
    pairs = [
        (f"--{name.replace('_', '-')}", str(item))
        for name, value in options.items()
        for item in (value if isinstance(value, list | tuple) else [value])
        if item is not None
    ]
    return [word for pair in pairs for word in pair]


def _as_processes(  # noqa: PLR0917 - called once
    initiator: DataHolder,
    responder: DataHolder,
    common: Mapping[str, Any],
    own: Mapping[str, Mapping[str, Any]],
    query: Mapping[str, Any],
    min_cell: int,
) -> EndToEnd:
    """Every party a process with its own credentials; this one only starts them and reads.

    `common`, `own` by party, and `query` are command line options.
    """
    timeout_s = common["timeout"]
    names = ["linker-a", "linker-b"] if query["total"] else ["linker"]
    parties = (initiator.name, responder.name)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder, authority = Path(temporary), TestAuthority()

        def start(name: str, *arguments: str) -> Process:
            home = save(authority.issue(name), folder / name)
            return stack.enter_context(party_process(name, arguments, home, remove=folder))

        linkers = [
            start(name, "linker", *_options(party=parties, min_cell=min_cell)) for name in names
        ]
        addresses = [
            f"{one.name}@127.0.0.1:{one.wait_for('listening', 60)['port']}" for one in linkers
        ]

        def arguments_of(holder: DataHolder, peer: DataHolder) -> list[str]:
            path = folder / f"{holder.name}.csv"
            holder.frame.to_csv(path, index=False)
            more = {**common, **own[holder.name], "variant": "analytics", "linker": addresses}
            return _options(data=path, peer=peer.name, **more)

        asks = _options(**query)
        second = start(responder.name, "serve", *arguments_of(responder, initiator), *asks)
        address = f"127.0.0.1:{second.wait_for('listening', 60)['port']}"
        first = start(
            initiator.name, "join", *arguments_of(initiator, responder), "--connect", address
        )
        session = second.wait_for("session", timeout_s, partner=first)
        answer = second.wait_for("answer", timeout_s, partner=first)
        for event in ("session", *["sent"] * len(linkers)):
            first.wait_for(event, timeout_s)
        for one in linkers:
            one.popen.terminate()
            one.wait_for("stopped", 30)
        costs = [
            {
                "process": one.name,
                "cpu_s": max(e.get("cpu_s", 0.0) for e in one.events),
                "stage_cpu_s": sum(e.get("stage_cpu_s", 0.0) for e in one.events),
                "peak_mib": max(e.get("peak_mib", 0.0) for e in one.events),
                "bytes_sent": sum(e.get("bytes_sent", 0) for e in one.events),
            }
            for one in (first, second, *linkers)
        ]
    return EndToEnd(
        table=pd.DataFrame(answer["table"]),
        cardinality=session["cardinality"],
        costs=pd.DataFrame(costs),
        wall_s=time.monotonic() - begun,
    )
