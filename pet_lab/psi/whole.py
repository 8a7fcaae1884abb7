"""The whole protocol by one call: in this process, or as three processes over mutual TLS."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from . import processes
from .commands import engine_named
from .disclosure import OutputRules
from .linker import Linker, Query, combine_totals
from .protocol import Party, PsiError, PsiResult
from .session import intersect
from .tokens import tables_for_linkers


@dataclass(frozen=True, kw_only=True)
class Whole:
    """Answer and cost of one run of intersection, upload and query.

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


def run(
    initiator: Party,
    responder: Party,
    *,
    on: Sequence[str],
    by: Sequence[str],
    columns: Mapping[str, Sequence[str]],
    total: str | None = None,
    values: Mapping[str, Sequence[str]] | None = None,
    joins: Mapping[str, Sequence[str]] | None = None,
    engine: str = "ecdh",
    min_cell: int = 10,
    separate: bool = False,
    keep_payloads: bool = False,
) -> Whole:
    """Intersect, send tokens, let the responder ask one query.

    Parameters
    ----------
    on : key columns
    by : what to group by, as "party:column"
    columns : party name -> columns that it sends as tokens
    total, values : "party:column" to total over two linkers, and the value columns as
        "column:decimals" by party; without, pairs are counted at one linker
    joins : further keys that the linker compares (one process only), see `tables_for_linkers`
    separate : True runs three processes over mutual TLS on loopback
    keep_payloads : keep what crossed the wire in the transcript (one process only)
    """
    if separate and joins:
        raise PsiError("Joins are compared in one process here; leave out joins or separate.")
    if separate:
        made = processes.run(
            initiator,
            responder,
            on=on,
            by=by,
            columns=columns,
            total=total,
            values=values,
            engine=engine,
            min_cell=min_cell,
        )
        return Whole(
            table=made.table, cardinality=made.cardinality, wall_s=made.wall_s, costs=made.costs
        )
    begun = time.perf_counter()
    result = intersect(
        engine_named(engine),
        initiator,
        responder,
        on=on,
        variant="analytics",
        keep_payloads=keep_payloads,
    )
    names = ["linker-a", "linker-b"] if total else ["linker"]
    parties = (initiator.name, responder.name)
    linkers = tuple(Linker(parties, rules=OutputRules(min_cell=min_cell)) for _ in names)
    tail = []
    for party, outcome in ((initiator, result.left), (responder, result.right)):
        cpu, wall = time.process_time(), time.perf_counter()
        numbers = {}
        for value in (values or {}).get(party.name, ()):
            column, _, decimals = value.partition(":")
            scaled = party.frame[column].astype(float).to_numpy() * 10 ** int(decimals)
            numbers[column] = np.rint(scaled).astype(np.int64)
        tables = tables_for_linkers(
            party,
            outcome,
            on=on,
            columns=columns.get(party.name, ()),
            values=numbers,
            joins=joins,
            linkers=len(linkers),
        )
        size = 0
        for one, sent in zip(linkers, tables, strict=True):
            one.accept(sent, party.name)
            size += sent.pack().nbytes + sum(t.nbytes for t in sent.labels.values())
        tail.append(_stage(party.name, "send tokens", len(tables[0]), cpu, wall, size))
    cpu, wall = time.process_time(), time.perf_counter()
    asked = Query(
        session=result.right.session,
        group_by=tuple(by),
        measure="total" if total else "count",
        value=total,
    )
    answers = [one.answer(asked, responder.name) for one in linkers]
    table = (
        combine_totals(answers, result.right) if total else answers[0].table(result.right.link_key)
    )
    size = sum(len(a.encode()) for a in answers)
    tail.append(_stage("linker", "join, check and answer", result.cardinality, cpu, wall, size))
    stages = pd.concat([result.stages, pd.DataFrame(tail)], ignore_index=True)
    costs = stages.groupby("party", sort=False, as_index=False)[["cpu_s", "bytes_sent"]].sum()
    return Whole(
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
