"""The protocol end to end by one call: intersection, upload to the linkers, one query.

In this process (a simulation of all parties) or as separate processes over mutual TLS.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from pet_lab.parties.certificates import ENVIRONMENT, TestAuthority, save
from pet_lab.parties.channel import Options
from pet_lab.parties.launch import Process

from .disclosure import OutputRules
from .engines import engine_named
from .linker import Linker, Query, combine
from .protocol import DataHolder, PsiError, PsiResult, Stage, ensure, measured
from .session import intersect
from .tokens import TokenTable, tables_for_linkers, whole_numbers

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
SENT = "send tokens"
ANSWERED = "join, check and answer"


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
        """Both outcomes and the transcript; separate processes have none (PsiError)."""
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
            if stage.stage == SENT:
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
    """Intersect on the key columns `on`, send tokens, let the responder ask one query.

    Parameters
    ----------
    by : what to group by, as "party:column"
    columns : by party, the columns that it sends as tokens
    total, values : "party:column" to total over two linkers, and by party the value columns as
        "column:decimals"; without, pairs are counted at one linker
    joins : further keys that the linker compares (one process only), see `tables_for_linkers`
    public : by party and column, all its labels, where they are public (one process only)
    separate : three processes (four for totals) over mutual TLS on loopback
    keep_payloads : keep what crossed the wire in the transcript (one process only)
    timeout_s : seconds to wait for a message, and for a process to report

    Raises PsiError: the first refusal of any party, in one sentence.
    """
    holders, values = (initiator, responder), values or {}
    if separate:
        alone = not (joins or public)
        sentence = "Joins and public labels are for one process; leave out them or separate."
        ensure(alone, sentence)
        common = {"on": on, "engine": engine, "timeout": timeout_s, "variant": "analytics"}
        asks = {"by": by, "total": total}
        own = [
            {**common, "column": columns.get(h.name), "value": values.get(h.name), **more}
            for h, more in zip(holders, ({}, asks), strict=True)
        ]
        return _as_processes(holders, own, linkers=2 if total else 1, min_cell=min_cell)
    begun = time.perf_counter()
    result = intersect(
        engine_named(engine),
        *holders,
        on=on,
        variant="analytics",
        keep_payloads=keep_payloads,
        options=Options(timeout_s=timeout_s),
    )
    parties, rules = (initiator.name, responder.name), OutputRules(min_cell=min_cell)
    linkers = tuple(Linker(parties, rules=rules) for _ in range(2 if total else 1))
    later: list[Stage] = []
    sizes: list[int] = []
    for holder, outcome in zip(holders, (result.left, result.right), strict=True):
        with measured(later, holder.name, SENT, result.cardinality, lambda: sum(sizes)):
            tables = tables_for_linkers(
                holder,
                outcome,
                on=on,
                columns=columns.get(holder.name, ()),
                values=whole_numbers(holder, values.get(holder.name, ())),
                joins=joins,
                public=(public or {}).get(holder.name),
                linkers=len(linkers),
            )
            for linker, table in zip(linkers, tables, strict=True):
                linker.accept(table, holder.name)
                sizes.append(table.pack().nbytes + sum(t.nbytes for t in table.labels.values()))
    with measured(later, "linker", ANSWERED, result.cardinality, lambda: sum(sizes)):
        query = Query.of(result.right.session, by, total)
        answers = [linker.answer(query, responder.name) for linker in linkers]
        sizes.extend(len(msgspec.json.encode(answer)) for answer in answers)
        answer = combine(answers, result.right.link_key)
    stages = pd.concat([result.stages, pd.DataFrame(map(vars, later))], ignore_index=True)
    costs = stages.groupby("party", sort=False, as_index=False)[["cpu_s", "bytes_sent"]].sum()
    return EndToEnd(
        table=answer,
        cardinality=result.cardinality,
        wall_s=time.perf_counter() - begun,
        costs=costs.rename(columns={"party": "process"}),
        stages=stages,
        result=result,
        linkers=linkers,
    )


def party_process(
    name: str, arguments: Sequence[str], credentials: Path, *, remove: Path | None = None
) -> Process:
    """Start `pet-lab party ...` as a process of its own; it ends with this one, `remove` too."""
    environment = {ENVIRONMENT: str(credentials)}
    return Process(name, "pet_lab.psi.commands", arguments, environment=environment, remove=remove)


def _options(**options: Any) -> list[str]:
    """Command line options, one for each value of a list; None leaves an option out."""
    return [
        word
        for name, value in options.items()
        for item in (value if isinstance(value, list | tuple) else [value])
        if item is not None
        for word in (f"--{name.replace('_', '-')}", str(item))
    ]


def _as_processes(
    holders: Sequence[DataHolder],
    own: Sequence[Mapping[str, Any]],
    *,
    linkers: int,
    min_cell: int,
) -> EndToEnd:
    """Every party a process with its own credentials; this one only starts them and reads.

    `own` are the command line options of each data holder.
    """
    timeout_s, begun = own[0]["timeout"], time.monotonic()
    parties = [holder.name for holder in holders]
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder, authority = Path(temporary), TestAuthority()

        def start(name: str, *arguments: str, **options: Any) -> Process:
            home = save(authority.issue(name), folder / name)
            words = [*arguments, *_options(**options)]
            return stack.enter_context(party_process(name, words, home, remove=folder))

        def listening(process: Process) -> str:
            return f"127.0.0.1:{process.wait_for('listening', 60)['port']}"

        names = ["linker"] if linkers == 1 else ["linker-a", "linker-b"]
        serving = [start(name, "linker", party=parties, min_cell=min_cell) for name in names]
        addresses = [f"{one.name}@{listening(one)}" for one in serving]
        for holder in holders:
            holder.frame.to_csv(folder / f"{holder.name}.csv", index=False)

        def hold(command: str, which: int, **more: Any) -> Process:
            name, peer = parties[which], parties[1 - which]
            files = {"data": folder / f"{name}.csv", "peer": peer, "linker": addresses}
            return start(name, command, **files, **own[which], **more)

        second = hold("serve", 1)
        first = hold("join", 0, connect=listening(second))
        session = second.wait_for("session", timeout_s, partner=first)
        answer = second.wait_for("answer", timeout_s, partner=first)
        for event in ("session", *["sent"] * linkers):
            first.wait_for(event, timeout_s)
        for one in serving:
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
            for one in (first, second, *serving)
        ]
    return EndToEnd(
        table=pd.DataFrame(answer["table"]),
        cardinality=session["cardinality"],
        costs=pd.DataFrame(costs),
        wall_s=time.monotonic() - begun,
    )
