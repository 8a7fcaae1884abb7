"""All parties of a service as processes of one machine: what tests and the notebook run.

This module stands for the operators: it makes certificates and keys, starts one process for each
party, tells each who the others are, and types the orders. It never sees a share. In a deployment
every operator does this alone, at home, and this module has no part in it.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from pet_lab.psi.certificates import TestAuthority, save, write_private

from .audit import Entry, Head, verify
from .errors import MpcError
from .policy import Policy, Signer
from .tasks import Column, Task, in_hours
from .wire import raise_json

PERMISSIVE = Policy(
    functions=(
        "pooled_statistics",
        "join_size",
        "joined_statistics",
        "joined_linear_regression",
        "joined_logistic_regression",
    ),
    min_group=0,
    max_queries=1000,
    epsilon_total=100.0,
)


@dataclass(frozen=True)
class Owned:
    """A data set at its owner."""

    frame: pd.DataFrame = field(repr=False)
    schema: Mapping[str, Column]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What the output party has after a task.

    table      the answer
    task       as it was approved
    decisions  processing party -> "approved" or its refusal
    costs      one row a processing party: wall_s, cpu_s, products, opened, rounds, bytes
    estimate   as it was before the run
    suspects   parties whose share of the answer was wrong and was corrected
    messages   one row a sender, receiver and kind: how many, bytes
    """

    table: pd.DataFrame
    task: Task
    decisions: Mapping[str, str]
    costs: pd.DataFrame
    estimate: Mapping[str, Any]
    public: Mapping[str, Any]
    suspects: tuple[str, ...]
    warnings: tuple[str, ...]
    messages: pd.DataFrame
    wall_s: float


class Node:
    """One process and its console."""

    def __init__(self, name: str, home: Path) -> None:
        self.name, self.home = name, home
        self._lock = threading.Lock()
        self._errors = (home / "stderr").open("w")
        self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and module, no shell
            [sys.executable, "-m", "pet_lab.mpc.node", str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=Path(__file__).resolve().parents[2],
        )

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(10)
            raise MpcError(f"{self.name} has ended.")
        return dict(json.loads(line))

    def order(self, do: str, **more: Any) -> dict[str, Any]:
        """Type one order and wait for its answer.

        Raises
        ------
        MpcError
            What the party said instead of an answer, or that its process has ended.
        """
        assert self.process.stdin is not None
        with self._lock:
            try:
                self.process.stdin.write(json.dumps({"do": do, **more}) + "\n")
                self.process.stdin.flush()
            except (BrokenPipeError, OSError):
                raise MpcError(f"{self.name} has ended.") from None
            answer = self.read()
        raise_json(answer)
        return answer

    def stop(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._errors.close()


class Service(AbstractContextManager["Service"]):
    """Parties as processes, on loopback, over mutual TLS; stopped on leaving.

    Parameters
    ----------
    processing : names of the processing parties; an owner's name makes the mixed model
    data : owner -> its data
    output : the output party; may be one of the others
    policies : party -> policy, also of owners; default PERMISSIVE, which checks nothing
    faults : party -> how it misbehaves, see `Party`
    expired, strangers : parties whose certificate has expired, or is of another authority
    """

    def __init__(
        self,
        processing: Sequence[str],
        data: Mapping[str, Owned],
        output: str = "pz",
        *,
        policies: Mapping[str, Policy] | None = None,
        faults: Mapping[str, Iterable[str]] | None = None,
        expired: Iterable[str] = (),
        strangers: Iterable[str] = (),
    ) -> None:
        self.processing, self.output, self.data = tuple(processing), output, dict(data)
        self._temporary = tempfile.TemporaryDirectory(prefix="pet-lab-mpc-")
        self.folder = Path(self._temporary.name)
        self.authority, other = TestAuthority(), TestAuthority("another authority")
        self.nodes: dict[str, Node] = {}
        try:
            for name in dict.fromkeys([*processing, *data, output]):
                authority = other if name in set(strangers) else self.authority
                days = -1.0 if name in set(expired) else 7.0
                home = save(authority.issue(name, days=days), self.folder / name)
                if name in set(strangers):
                    (home / "ca.pem").write_bytes(self.authority.certificate)
                write_private(home / "sign.key", Signer(name).raw())
                config = {
                    "name": name,
                    "policy": ((policies or {}).get(name, PERMISSIVE)).as_json(),
                    "faults": list((faults or {}).get(name, ())),
                }
                (home / "config.json").write_text(json.dumps(config))
                if name in data:
                    self._write_data(home, data[name])
                self.nodes[name] = Node(name, home)
            self.members = [node.read() for node in self.nodes.values()]
            for node in self.nodes.values():
                node.order("members", members=self.members)
        except BaseException:
            self.__exit__()
            raise

    @staticmethod
    def _write_data(home: Path, owned: Owned) -> None:
        write_private(home / "data.csv", owned.frame.to_csv(index=False).encode())
        schema = {k: asdict(c) for k, c in owned.schema.items()}
        (home / "schema.json").write_text(json.dumps(schema))

    def close(self) -> None:
        """Stop every process and remove every file."""
        self.__exit__()

    def __exit__(self, *_: object) -> None:
        for node in self.nodes.values():
            node.stop()
        self._temporary.cleanup()

    # --- orders -------------------------------------------------------------------------------

    def terms(self, function: str, parameters: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """The fields of a task, with defaults that fit this service."""
        users = {*self.data, self.output}
        made: dict[str, Any] = {
            "function": function,
            "parameters": dict(parameters),
            "processing_parties": list(self.processing),
            "expires": in_hours(1),
            "min_group": 0,
        }
        made |= more
        made.setdefault("model", "mixed" if users & set(made["processing_parties"]) else "fixed")
        return made

    def compute(self, function: str, parameters: Mapping[str, Any], **more: Any) -> Result:
        """Order the output party to have a task computed.

        Raises
        ------
        MpcError
            What stopped it: Refused, TaskError, PartyLost or Cheating.
        """
        for node in self.nodes.values():
            if node.process.poll() is None:
                node.order("sent")  # forget earlier messages
        made = self.nodes[self.output].order(
            "request", owners=list(self.data), **self.terms(function, parameters, **more)
        )
        costs = pd.DataFrame(made["costs"])
        table = pd.DataFrame(made["table"]["data"], columns=made["table"]["columns"])
        numeric = [c for c in table.columns if c not in {"term", parameters.get("group")}]
        table[numeric] = table[numeric].astype(float)
        return Result(
            table=table,
            task=Task.from_json(made["task"]),
            decisions=made["decisions"],
            costs=costs.drop(columns="to"),
            estimate=made["estimate"],
            public=made["public"],
            suspects=tuple(made["suspects"]),
            warnings=tuple(made["warnings"]),
            messages=self._messages(costs),
            wall_s=made["wall_s"],
        )

    def _messages(self, costs: pd.DataFrame) -> pd.DataFrame:
        sent = [s for n in self.nodes.values() for s in n.order("sent")["sent"]]
        rows = [{**s, "messages": 1} for s in sent]
        for cost in costs.to_dict("records"):
            for to, size in dict(cost["to"]).items():
                rows.append(
                    {"sender": cost["party"], "receiver": to, "kind": "shares", "size": size}
                    | {"messages": int(cost["rounds"])}
                )
        frame = pd.DataFrame(rows).rename(columns={"size": "bytes"})
        keys = ["sender", "receiver", "kind"]
        return frame.groupby(keys, as_index=False)[["messages", "bytes"]].sum()

    def decisions(
        self, function: str, parameters: Mapping[str, Any], **more: Any
    ) -> dict[str, str]:
        """What every processing party says to a task, without computing it."""
        made = self.nodes[self.output].order(
            "request",
            owners=list(self.data),
            approve_only=True,
            **self.terms(function, parameters, **more),
        )
        return dict(made["decisions"])

    def set(
        self, party: str, *, policy: Policy | None = None, faults: Iterable[str] | None = None
    ) -> None:
        if policy is not None:
            self.nodes[party].order("policy", policy=policy.as_json())
        if faults is not None:
            self.nodes[party].order("faults", faults=list(faults))

    def load(self, owner: str, owned: Owned) -> None:
        """An owner puts another file in place of its data."""
        self._write_data(self.folder / owner, owned)
        self.data[owner] = owned
        self.nodes[owner].order("reload")

    def revoke(self, party: str, why: str = "certificate revoked") -> None:
        """Every other operator bars a party."""
        for name, node in self.nodes.items():
            if name != party:
                node.order("bar", party=party, why=why)

    def log(self, party: str) -> tuple[list[Entry], str]:
        """A party's audit log and its public key."""
        made = self.nodes[party].order("log")
        return [Entry(**e) for e in made["entries"]], made["public"]

    def audit(self) -> pd.DataFrame:
        """Verify every log against its signature chain and what the other parties witnessed."""
        logs = {n: self.log(n) for n, node in self.nodes.items() if node.process.poll() is None}
        heads: dict[str, list[Head]] = {n: [] for n in logs}
        for entries, _ in logs.values():
            for e in entries:
                if e.kind == "witnessed" and e.body["party"] in heads:
                    heads[e.body["party"]].append(Head(**e.body))
        rows = []
        for name, (entries, public) in logs.items():
            try:
                verify(entries, public, heads[name])
                state = "holds"
            except MpcError as error:
                state = str(error)
            rows.append(
                {"party": name, "entries": len(entries), "witnesses": len(heads[name])}
                | {"verdict": state}
            )
        return pd.DataFrame(rows)


def same(a: pd.DataFrame, b: pd.DataFrame, *, relative: float = 1e-9) -> bool:
    """Whether two answers agree, NaN with NaN."""
    if list(a.columns) != list(b.columns) or len(a) != len(b):
        return False
    for x, y in zip(a.to_numpy().ravel(), b.to_numpy().ravel(), strict=True):
        if isinstance(x, str) or isinstance(y, str):
            if str(x) != str(y):
                return False
        elif math.isnan(x) != math.isnan(y) or (
            not math.isnan(x) and abs(x - y) > relative * max(1.0, abs(y))
        ):
            return False
    return True
