"""All parties of a service as processes of one machine: what tests and the notebook run.

This module stands for the operators: it makes certificates and keys, starts one process for each
party, tells each who the others are, and types the orders. It never sees a share. In a deployment
every operator does this alone, at home, and this module has no part in it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pandas as pd

from pet_lab.files import write_atomic
from pet_lab.parties.certificates import TestAuthority, save
from pet_lab.parties.channel import Refusal
from pet_lab.parties.errors import PartyError
from pet_lab.parties.launch import Process, stop_all
from pet_lab.parties.log import Head, SignedEntry, Signer, verify

from . import node
from .catalogue import CATALOGUE, PublicFacts
from .costs import Estimate
from .mesh import check_installed
from .messages import LogCopy, Member
from .output import TaskOutcome
from .policy import Policy
from .tasks import ColumnSchema, Task, in_hours

T = TypeVar("T")
START_S = 60.0
ORDER_S = 3600.0  # an order may be a long computation, which has limits of its own
PERMISSIVE = Policy(
    functions=tuple(CATALOGUE), min_group=0, max_queries=1000, epsilon_total=Decimal(100)
)


@dataclass(frozen=True)
class Owned:
    """A data set at its owner."""

    frame: pd.DataFrame = field(repr=False)
    schema: Mapping[str, ColumnSchema]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What the output party has after a task, and what the operators together know of it."""

    table: pd.DataFrame
    task: Task
    decisions: Mapping[str, str]  # processing party -> "approved" or its refusal
    estimate: Estimate  # as it was before the run
    public: PublicFacts
    suspects: tuple[str, ...]  # parties whose share of the answer was wrong and was corrected
    wall_s: float
    costs: pd.DataFrame  # a row a processing party: wall_s, cpu_s, products, opened, rounds, bytes
    messages: pd.DataFrame  # a row a sender, receiver and kind: how many, bytes


class Service:
    """Parties as processes, on loopback, over mutual TLS; stopped on leaving.

    Parameters
    ----------
    processing : names of the processing parties; an owner's name makes the mixed model
    data : owner -> its data
    delay_s : one-way delay of every message, to study slow networks
    module : what `python -m` runs for each party; see `node`
    """

    def __init__(
        self,
        processing: Sequence[str],
        data: Mapping[str, Owned],
        output: str = "pz",
        *,
        delay_s: float = 0.0,
        module: str = node.__name__,
    ) -> None:
        check_installed()
        self.processing, self.output = tuple(processing), output
        self.data: dict[str, Owned] = {}
        self._temporary = tempfile.TemporaryDirectory(prefix="pet-lab-mpc-")
        self.folder = Path(self._temporary.name)
        self.authority = TestAuthority()
        self.processes: dict[str, Process] = {}
        config = msgspec.json.encode(node.NodeConfig(policy=PERMISSIVE, delay_s=delay_s))
        try:
            for name in dict.fromkeys([*processing, *data, output]):
                home = save(self.authority.issue(name), self.folder / name)
                write_atomic(home / "sign.key", Signer(name).raw(), secret=True)
                (home / "config.json").write_bytes(config)
                self.processes[name] = Process(name, module, [str(home)], remove=self.folder)
            self.members = {
                name: msgspec.convert(process.read(START_S), Member)
                for name, process in self.processes.items()
            }
            self.load(data)
            everybody = node.Members(tuple(self.members.values()))
            for name in self.processes:
                self.order(name, everybody)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop every process and remove every file."""
        stop_all(list(self.processes.values()))
        self._temporary.cleanup()

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def order(self, party: str, order: node.Order, answer_type: type[T] | None = None) -> T:
        """The answer of a party's console to one order.

        PartyError is what it says instead of an answer, PeerLost that its process has ended.
        """
        process = self.processes[party]
        process.write(msgspec.to_builtins(order))
        answer = process.read(ORDER_S)
        if "refusal" in answer:
            raise msgspec.convert(answer["refusal"], Refusal).as_error()
        return msgspec.convert(answer["answer"], answer_type or Any)  # type: ignore[return-value]

    def set_policy(self, party: str, policy: Policy) -> None:
        """Give a party another policy."""
        self.order(party, node.SetPolicy(policy))

    def load(self, data: Mapping[str, Owned]) -> None:
        """Owners put these files in place of their data."""
        for owner, owned in data.items():
            home, csv = self.folder / owner, owned.frame.to_csv(index=False)
            write_atomic(home / "data.csv", csv.encode(), secret=True)
            (home / "schema.json").write_bytes(msgspec.json.encode(owned.schema))
            self.data[owner] = owned

    def _request(
        self, function: str, parameters: Mapping[str, Any], approve_only: bool, more: dict[str, Any]
    ) -> TaskOutcome:
        terms: dict[str, Any] = {
            "function": function,
            "parameters": dict(parameters),
            "processing_parties": list(self.processing),
            "expires": in_hours(1),
            "min_group": 0,
        } | more
        mixed = {*self.data, self.output} & set(terms["processing_parties"])
        terms = {"model": "mixed" if mixed else "fixed"} | terms
        order = node.Compute(tuple(self.data), terms, approve_only)
        return self.order(self.output, order, TaskOutcome)

    def decisions(
        self, function: str, parameters: Mapping[str, Any], **more: Any
    ) -> dict[str, str]:
        """What every processing party answers to a task, without computing it."""
        return self._request(function, parameters, True, more).decisions

    def compute(self, function: str, parameters: Mapping[str, Any], **more: Any) -> Result:
        """Order the output party to have a task computed, with `more` terms of it.

        What stops it is a PartyError: Refused, TaskError, PeerLost or Cheating.
        """
        self._take_sent()  # forget earlier messages and costs
        outcome = self._request(function, parameters, False, more)
        fields = msgspec.structs.asdict(outcome)
        table = pd.DataFrame(**fields.pop("table"))
        numeric = [c for c in table.columns if c not in {"term", parameters.get("group")}]
        sent = self._take_sent()
        costs = [cost for one in sent for cost in one.costs]
        rows = [(s.sender, s.receiver, s.kind, 1, s.size) for one in sent for s in one.sent]
        rows += [(c.party, to, "shares", c.rounds, n) for c in costs for to, n in c.to.items()]
        keys = ["sender", "receiver", "kind"]
        frame = pd.DataFrame(rows, columns=[*keys, "messages", "bytes"])
        return Result(
            **fields,
            table=table.astype(dict.fromkeys(numeric, float)),
            costs=pd.DataFrame(msgspec.to_builtins(costs)).drop(columns="to"),
            messages=frame.groupby(keys, as_index=False)[["messages", "bytes"]].sum(),
        )

    def _take_sent(self) -> list[node.Messages]:
        alive = [name for name, process in self.processes.items() if process.alive]
        return [self.order(name, node.TakeSent(), node.Messages) for name in alive]

    def log(self, party: str) -> tuple[tuple[SignedEntry, ...], str]:
        """A party's audit log and its public key."""
        copy = self.order(party, node.ShowLog(), LogCopy)
        return copy.entries, copy.public

    def audit(self) -> pd.DataFrame:
        """Verify every log against its signature chain and what the other parties witnessed."""
        logs = {name: self.log(name) for name, p in self.processes.items() if p.alive}
        witnessed = [head for entries, _ in logs.values() for head in heads(entries)]
        rows = []
        for name, (entries, public) in logs.items():
            mine, verdict = [head for head in witnessed if head.party == name], "holds"
            try:
                verify(entries, name, public, mine)
            except PartyError as error:
                verdict = str(error)
            rows.append((name, len(entries), len(mine), verdict))
        return pd.DataFrame(rows, columns=["party", "entries", "witnesses", "verdict"])


def heads(entries: Iterable[SignedEntry], party: str = "") -> list[Head]:
    """Heads of others' logs (or of one party's) that a log witnessed."""
    witnessed = [msgspec.convert(e.body, Head) for e in entries if e.kind == "witnessed"]
    return [head for head in witnessed if party in {"", head.party}]
