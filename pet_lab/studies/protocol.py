"""Private set intersection with a linker: printed counts, cost, growth, totals, leakage.

Report, sections 2.2 to 2.5, paragraphs 15 to 31: two offices with declarations of the same
transactions, one linker. Without typos the protocol must answer as a join in clear would.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pet_lab import linkage, psi
from pet_lab.parties.channel import Options
from pet_lab.psi import end_to_end, tokens, totals
from pet_lab.psi.engines import engine_named
from pet_lab.psi.protocol import schema
from pet_lab.rows import Claim, Rows, summarise

KEY = ["exporter_id", "hs6", "date", "value"]
CELL = ["exporter_size", "preferential_code"]
BY = ["cbs:exporter_size", "statcan:preferential_code"]
COLUMNS = {"statcan": ["preferential_code"], "cbs": ["exporter_size"]}
LINKERS = {"shares": 2, "paillier": 1}
LABELS = {
    "intersection_cpu_seconds": "CPU seconds, both parties",
    "intersection_wall_seconds": "seconds of wall time",
    "keys": "keys on each side",
}


@dataclass(frozen=True)
class TradeFiles:
    """Both declarations of n transactions, in clear and as the parties hold them."""

    trade: linkage.TradeDeclarations
    statcan: psi.DataHolder
    cbs: psi.DataHolder

    @property
    def provenance(self) -> list[dict[str, Any]]:
        """What `results.write` stores about the data."""
        raw = self.trade.imports.to_csv(index=False).encode()
        return [
            {
                "name": "trade declarations",
                "sha256": hashlib.sha256(raw).hexdigest(),
                "kind": "generated",
                "licence": "Apache-2.0",
                "citation": "Generator calibrated to table 2.2 and paragraph 27 of the report.",
            }
        ]

    def head(self, n: int) -> tuple[psi.DataHolder, psi.DataHolder]:
        """The first n rows of each file."""
        return (
            psi.DataHolder("statcan", self.statcan.frame.head(n)),
            psi.DataHolder("cbs", self.cbs.frame.head(n)),
        )

    def schema(self) -> pd.DataFrame:
        """One row a party: rows, distinct keys, columns."""
        return schema((self.statcan, self.cbs), KEY)


def files(n: int, *, seed: int) -> TradeFiles:
    """Declarations of n transactions without typos; all text, so no leading zero is lost."""
    trade = linkage.trade_declarations(
        n, rng=np.random.default_rng(seed), typos=linkage.Typos(error_rate=0)
    )
    statcan = psi.DataHolder("statcan", trade.imports.drop(columns="declaration").astype(str))
    cbs = psi.DataHolder("cbs", trade.exports.drop(columns="declaration").astype(str))
    return TradeFiles(trade, statcan, cbs)


def run(data: TradeFiles, *, engine: str, min_cell: int, processes: bool) -> end_to_end.EndToEnd:
    """The protocol of the report on all rows."""
    return end_to_end.run(
        data.statcan,
        data.cbs,
        on=KEY,
        by=BY,
        columns=COLUMNS,
        engine=engine,
        min_cell=min_cell,
        separate=processes,
    )


def small_run(data: TradeFiles, n: int = 500) -> end_to_end.EndToEnd:
    """The protocol on n common transactions, keeping every message for inspection."""
    common = data.trade.exports["declaration"].isin(data.trade.imports["declaration"].head(n))
    return end_to_end.run(
        psi.DataHolder("statcan", data.statcan.frame.head(n)),
        psi.DataHolder("cbs", data.cbs.frame[common]),
        on=KEY,
        by=BY[:1],
        columns=COLUMNS,
        keep_payloads=True,
    )


def _rows(n: int, **common: Any) -> Rows:
    empty = {"table": "", "exporter_size": "", "preferential_code": 0, "reading": "described"}
    return Rows(
        **{
            **empty,
            "engine": "",
            "processes": False,
            "keys": n,
            "scheme": "",
            "round_trip_ms": 0,
            **common,
        }
    )


def counts(data: TradeFiles, answer: pd.DataFrame) -> pd.DataFrame:
    """Tables 2.2 (the file) and 2.3 (the linker's answer), described and as published.

    As published: for every key, its rows here times its rows there, in clear.
    """
    trade = data.trade
    sizes = trade.exports[["declaration", "exporter_size"]]
    in_file = trade.imports.merge(sizes, on="declaration").groupby(CELL, observed=True).size()
    products = pd.merge(
        trade.imports.groupby([*KEY, CELL[1]], as_index=False, observed=True).size(),
        trade.exports.groupby([*KEY, CELL[0]], as_index=False, observed=True).size(),
        on=KEY,
    )
    by_rule = (products["size_x"] * products["size_y"]).groupby([products[c] for c in CELL]).sum()
    answered = answer.astype({"preferential_code": int}).set_index(CELL)["count"].dropna()
    rows = _rows(len(trade.imports))
    for table, reading, cells in (
        ("2.2", "described", in_file),
        ("2.2", "published", in_file),
        ("2.3", "described", answered),
        ("2.3", "published", by_rule),
    ):
        for size, code, count in cells.reset_index().itertuples(index=False):
            rows.add(
                table=table,
                reading=reading,
                exporter_size=size,
                preferential_code=code,
                metrics={"transactions": count},
            )
    return rows.frame()


def cost(outcome: end_to_end.EndToEnd, n: int, *, engine: str, processes: bool) -> pd.DataFrame:
    """Rows with the cost of the run on all rows."""
    rows = _rows(n, engine=engine, processes=processes)
    rows.add(
        metrics={
            "wall_minutes": outcome.wall_s / 60,
            "cpu_seconds": outcome.costs["cpu_s"].sum(),
            "mebibytes_sent": outcome.costs["bytes_sent"].sum() / 2**20,
            "common_keys": outcome.cardinality,
        }
    )
    return rows.frame()


def growth(data: TradeFiles, sizes: Sequence[int], rsa_sizes: Sequence[int]) -> pd.DataFrame:
    """CPU time and bytes of the intersection by engine and number of keys."""
    rows = _rows(0)
    for engine, of in (("ecdh", sizes), ("openmined", sizes), ("rsa-2048", rsa_sizes)):
        for n in of:
            result = psi.intersect(engine_named(engine), *data.head(n), on=KEY, keep_payloads=False)
            sent = sum(m.size_bytes for m in result.transcript)
            metrics = {
                "intersection_cpu_seconds": result.stages["cpu_s"].sum(),
                "bytes_per_element": sent / (2 * n),
            }
            rows.add(engine=engine, keys=n, metrics=metrics)
    return rows.frame()


def round_trips(data: TradeFiles, n: int, milliseconds: Sequence[int]) -> pd.DataFrame:
    """Wall time of a session of n keys a side when every message takes half a round trip.

    Rows: intersection_wall_seconds by engine and round_trip_ms (0: no delay), and message_turns,
    how often the direction of the messages changes: each turn waits for half a round trip.
    """
    rows = _rows(n)
    for engine in ("ecdh", "openmined", "rsa-2048"):
        for ms in (0, *milliseconds):
            begun = time.perf_counter()
            result = psi.intersect(
                engine_named(engine),
                *data.head(n),
                on=KEY,
                keep_payloads=False,
                options=Options(timeout_s=600, delay_s=ms / 2000),
            )
            seconds = time.perf_counter() - begun
            rows.add(
                engine=engine, round_trip_ms=ms, metrics={"intersection_wall_seconds": seconds}
            )
        senders = [m.sender for m in result.transcript]
        turns = 1 + sum(a != b for a, b in itertools.pairwise(senders))
        rows.add(engine=engine, round_trip_ms=0, metrics={"message_turns": turns})
    return rows.frame()


def round_trip_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Wall seconds by engine (lines) and round trip in milliseconds (columns), and turns / 2."""
    wall = rows[rows["metric"] == "intersection_wall_seconds"]
    table = wall.pivot(index="engine", columns="round_trip_ms", values="value")
    table.columns = [f"{int(ms)}" for ms in table.columns]
    turns = rows[rows["metric"] == "message_turns"].set_index("engine")["value"]
    return table.assign(**{"round trips waited for": turns / 2}).reset_index()


def totals_by_scheme(data: TradeFiles, *, paillier_rows: int) -> pd.DataFrame:
    """Totals of the value by size of firm under each scheme: cost of each role, and error."""
    cells = pd.factorize(data.trade.exports["exporter_size"], sort=True)[0].astype(np.int64)
    cents = data.trade.exports["value"].to_numpy(dtype=np.int64)
    rows = _rows(0)
    for scheme in totals.SCHEMES:
        n = min(len(cents), paillier_rows) if scheme == "paillier" else len(cents)
        total = totals.total_by_cell(scheme, cents[:n], cells[:n], 2)
        rows.add(
            scheme=scheme,
            keys=n,
            metrics={
                "total_owner_cpu_seconds": total.owner_cpu_s,
                "total_linker_cpu_seconds": total.linker_cpu_s,
                "total_absolute_error": total.error,
                "total_relative_error": total.error / max(map(abs, total.totals)),
                "total_bytes_sent": total.bytes_sent,
            },
        )
    return rows.frame()


def frequency_attack(data: TradeFiles, small: end_to_end.EndToEnd) -> pd.DataFrame:
    """The linker names the tokens of the tariff code by rank, knowing the column's margin."""
    margin = data.statcan.frame["preferential_code"].value_counts(normalize=True)
    held = small.held()["statcan"]
    return tokens.frequency_attack(held, "preferential_code", margin, link_key=small.link_key)


def leakage(data: TradeFiles, small: end_to_end.EndToEnd) -> pd.DataFrame:
    """Rows: values (or their hashes) on the wire, and labels that frequencies give away."""
    n = small.cardinality
    seen = [
        small.simulated.transcript.contains_any(party.frame["value"].head(n))
        for party in (data.statcan, data.cbs)
    ]
    attack = frequency_attack(data, small)
    rows = _rows(n)
    rows.add(
        metrics={
            "files_seen_on_the_wire": sum(seen),
            "labels": len(attack),
            "labels_named_by_frequency": (attack["guess"] == attack["label"]).sum(),
        }
    )
    return rows.frame()


def totals_table(rows: pd.DataFrame) -> pd.DataFrame:
    """What a total costs per row by scheme."""
    by = summarise(rows[rows["scheme"] != ""], ["scheme", "keys", "metric"])
    wide = by.pivot(index=["scheme", "keys"], columns="metric", values="mean")
    wide = wide.reindex(list(LINKERS), level="scheme").reset_index()
    return pd.DataFrame(
        {
            "scheme": wide["scheme"],
            "linkers": wide["scheme"].map(LINKERS),
            "rows": wide["keys"],
            "owner, µs a row": 1e6 * wide["total_owner_cpu_seconds"] / wide["keys"],
            "linker, µs a row": 1e6 * wide["total_linker_cpu_seconds"] / wide["keys"],
            "bytes a row": wide["total_bytes_sent"] / wide["keys"],
            "relative error": wide["total_relative_error"],
        }
    )


def slopes(rows: pd.DataFrame) -> dict[str, float]:
    """Slope of log CPU time on log keys by engine; 1 is growth in proportion to size."""
    cpu = rows[rows["metric"] == "intersection_cpu_seconds"]
    return {
        str(engine): float(np.polyfit(np.log(g["keys"]), np.log(g["value"]), 1)[0])
        for engine, g in cpu.groupby("engine")
        if g["keys"].nunique() > 1
    }


def _value(rows: pd.DataFrame, metric: str, **factors: Any) -> float:
    chosen = rows[rows["metric"] == metric]
    for name, value in factors.items():
        chosen = chosen[chosen[name] == value]
    return float(chosen["value"].iloc[0])


def _agreement(rows: pd.DataFrame) -> tuple[int, int]:
    """(cells, cells in which the linker's answer is the count of the file)."""
    counted = rows[(rows["metric"] == "transactions") & (rows["reading"] == "described")]
    cells = counted.pivot(index=CELL, columns="table", values="value")
    return len(cells), int((cells["2.2"] == cells["2.3"]).sum())


def headline(rows: pd.DataFrame) -> Claim:
    """The verdict in one sentence."""
    cells, equal = _agreement(rows)
    measured = rows[rows["metric"] == "cpu_seconds"].iloc[0]
    return Claim(
        "{equal} of {cells} counts of the linker are those of the file; {n:,} by {n:,} keys took "
        "{wall:.0f} s and {cpu:.0f} CPU s with {engine}, against about 10 minutes in the report.",
        equal=equal,
        cells=cells,
        n=int(measured["keys"]),
        wall=60 * _value(rows, "wall_minutes"),
        cpu=measured["value"],
        engine=measured["engine"],
    )


def takeaways(rows: pd.DataFrame) -> list[Claim]:
    """What these rows allow to be said."""
    cells, equal = _agreement(rows)
    steepest = max(slopes(rows).items(), key=lambda item: item[1])
    table = totals_table(rows).set_index("scheme")
    per_row = table["owner, µs a row"] + table["linker, µs a row"]
    lines = rows[(rows["metric"] == "intersection_wall_seconds") & (rows["engine"] == "ecdh")]
    slow = int(lines["round_trip_ms"].max())
    plain, delayed = (
        _value(lines, "intersection_wall_seconds", round_trip_ms=ms) for ms in (0, slow)
    )
    labels, named = (_value(rows, m) for m in ("labels", "labels_named_by_frequency"))
    return [
        Claim(
            "The linker's counts are those of the file in all {cells} cells: an exact key makes "
            "the protocol a join.",
            holds=cells == equal,
            otherwise="The linker's counts are those of the file in {equal} of {cells} cells; "
            "cells below the smallest count are withheld.",
            cells=cells,
            equal=equal,
        ),
        Claim(
            "Time grows at most in proportion to size: the steepest slope on logarithmic axes is "
            "{slope:.2f} ({engine}).",
            holds=steepest[1] < 1.15,
            otherwise="At these sizes time grows faster than size: slope {slope:.2f} ({engine}).",
            engine=steepest[0],
            slope=steepest[1],
        ),
        Claim(
            "A session takes {turns:.0f} turns: at a round trip of {slow} ms {keys:,} keys take "
            "{delayed:.1f} s instead of {plain:.1f}, and a larger set waits no more often.",
            holds=delayed > plain,
            turns=_value(rows, "message_turns", engine="ecdh"),
            slow=slow,
            keys=int(lines["keys"].iloc[0]),
            delayed=delayed,
            plain=plain,
        ),
        Claim(
            "Neither file's values nor their hashes crossed the wire.",
            holds=_value(rows, "files_seen_on_the_wire") == 0,
            otherwise="Values of a file, or their hashes, crossed the wire.",
        ),
        Claim(
            "The linker learns no label, but frequencies, which name {named:.0f} of {labels:.0f} "
            "labels of a column whose margin is known.",
            holds=named > 0,
            otherwise="Frequencies named no label here.",
            named=named,
            labels=labels,
        ),
        Claim(
            "Totals need no homomorphic encryption: shares between two linkers are exact and cost "
            "{shares:.2f} µs a row; the next costs {other:.1f}.",
            holds=bool(per_row.idxmin() == "shares" and table["relative error"]["shares"] == 0),
            shares=per_row["shares"],
            other=per_row.drop("shares").min(),
        ),
    ]
