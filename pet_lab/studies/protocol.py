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

from pet_lab import checks, linkage, psi
from pet_lab.data import FilePair
from pet_lab.parties.channel import Options
from pet_lab.psi import end_to_end, tokens, totals
from pet_lab.psi.engines import engine_named
from pet_lab.psi.protocol import schema
from pet_lab.psi.tokens import check_upload
from pet_lab.rows import Claim, Rows, concat, wide

KEY = ["exporter_id", "hs6", "date", "value"]
CELL = ["exporter_size", "preferential_code"]
LIVE = ["ecdh", "ecdh-proved"]  # engines that are quick enough to be asked live
OWN_CELL = ["right_label", "left_label"]
ENGINES = ["ecdh", "ecdh-proved", "openmined", "rsa-2048"]
LINKERS = {"shares": 2, "paillier": 1}
MOST_LABELS = 50  # of a column that is counted
LABELS = {
    "intersection_cpu_seconds": "CPU seconds, both parties",
    "intersection_wall_seconds": "seconds of wall time",
    "keys": "keys on each side",
}


@dataclass(frozen=True, kw_only=True)
class CommonFiles:
    """Two files with a common key, as their holders have them, and what is true of both.

    left, right  the holders: statcan and cbs, or of a user's own files
    key          columns of the key, unique in each file
    groups       the column of the left and of the right that the query counts by
    cell         what these two are called in the rows: of the right, then of the left
    amounts      per row of the right, a whole number to total by its group; none: nothing
    common       the common records with both groups, joined in clear
    probe        the column whose values are looked for on the wire
    reading      what the reader decided of own files; None: the report's data
    """

    left: psi.DataHolder
    right: psi.DataHolder
    key: list[str]
    groups: tuple[str, str]
    cell: list[str]
    amounts: np.ndarray | None
    common: pd.DataFrame
    probe: str
    provenance: list[dict[str, Any]]
    reading: pd.DataFrame | None = None

    @property
    def own(self) -> bool:
        """Whether these are a user's files."""
        return self.reading is not None

    @property
    def n(self) -> int:
        """Records of the smaller file."""
        return min(len(self.left.frame), len(self.right.frame))

    @property
    def by(self) -> list[str]:
        """What the query counts by, as the linker calls it."""
        return [f"{self.right.name}:{self.groups[1]}", f"{self.left.name}:{self.groups[0]}"]

    @property
    def query(self) -> dict[str, Any]:
        """The key and the columns that travel as tokens."""
        columns = {self.left.name: [self.groups[0]], self.right.name: [self.groups[1]]}
        return {"on": self.key, "columns": columns}

    def head(self, n: int) -> list[psi.DataHolder]:
        """The first n rows of each file."""
        return [psi.DataHolder(h.name, h.frame.head(n)) for h in (self.left, self.right)]

    def sizes(self, wanted: Sequence[int], *, least: int = 1) -> list[int]:
        """These sizes, none above the files; at least so many."""
        sizes = sorted({min(size, self.n) for size in wanted})
        return sizes if len(sizes) >= least else [self.n // 2, self.n]

    def schema(self) -> pd.DataFrame:
        """One row a party: rows, distinct keys, columns."""
        return schema((self.left, self.right), self.key)


def check(
    n: int,
    *,
    engine: str,
    sessions: int = 1,
    growth: Sequence[int],
    rsa_sizes: Sequence[int],
    round_trip_keys: int,
    round_trips: Sequence[int],
    total_rows: int,
    min_cell: int,
    seed: int,
) -> None:
    """Refuse parameters with which the notebook cannot end, before work starts."""
    engine_named(engine)
    checks.require(
        engine != "openmined", "openmined answers with a count only, which no linker can use."
    )
    checks.whole(500, n=n)
    checks.distinct(least=2, growth=growth)
    checks.distinct(rsa_sizes=rsa_sizes, round_trips=round_trips)
    sizes = {"growth": growth, "rsa_sizes": rsa_sizes, "round_trip_keys": [round_trip_keys]}
    for name, of in sizes.items():
        least: dict[str, Any] = {name: min(of)}
        checks.whole(1, **least)
        checks.require(max(of) <= n, f"{name} is at most n = {n}, got {max(of)}; raise n.")
    for milliseconds in round_trips:
        checks.between(1, 10_000, round_trips=milliseconds, hint="no delay is always timed")
    checks.whole(1, total_rows=total_rows, sessions=sessions)
    checks.whole(0, min_cell=min_cell, seed=seed)


def files(n: int, *, seed: int, own: FilePair | None = None, value: str = "") -> CommonFiles:
    """A user's own files, else declarations of n transactions without typos.

    All keys are text, so no leading zero is lost. `value` is a column of the right file to total.
    """
    if own:
        return _own_files(own, value)
    typos = linkage.Typos(error_rate=0)
    trade = linkage.trade_declarations(n, rng=np.random.default_rng(seed), typos=typos)
    left, right = (
        psi.DataHolder(name, frame.drop(columns="declaration").astype(str))
        for name, frame in (("statcan", trade.imports), ("cbs", trade.exports))
    )
    raw = trade.imports.to_csv(index=False).encode()
    source = {"name": "trade declarations", "sha256": hashlib.sha256(raw).hexdigest()}
    source |= {"kind": "generated", "licence": "Apache-2.0"}
    cited = "Generator calibrated to table 2.2 and paragraph 27 of the report."
    sizes = trade.exports[["declaration", "exporter_size"]]
    return CommonFiles(
        left=left,
        right=right,
        key=KEY,
        groups=("preferential_code", "exporter_size"),
        cell=CELL,
        amounts=trade.exports["value"].to_numpy(dtype=np.int64),
        common=trade.imports.merge(sizes, on="declaration")[[*KEY, *CELL]],
        probe="value",
        provenance=[source | {"citation": cited}],
    )


def _own_files(own: FilePair, value: str) -> CommonFiles:
    """Common records come first in both, so that a part of the files has some too."""
    groups = [[c for c in f.columns if c not in (*own.key, value)] for f in (own.left, own.right)]
    for side, columns in zip(("left", "right"), groups, strict=True):
        one = (
            f"Name one column of each file to count by; {side} has {', '.join(columns) or 'none'}."
        )
        checks.require(len(columns) == 1, one)
    group = groups[0][0], groups[1][0]
    keys = own.left[own.key].merge(own.right[own.key])
    left, right = (
        pd.concat([keys.merge(f, how="left"), f]).drop_duplicates(own.key)
        for f in (own.left, own.right)
    )
    checks.require(min(len(left), len(right)) >= 4, "Files of fewer than four rows show nothing.")
    labelled = (
        f[[*own.key, column]].set_axis([*own.key, label], axis=1)
        for f, column, label in zip((left, right), group, OWN_CELL[::-1], strict=True)
    )
    common = next(labelled).merge(next(labelled), on=own.key)
    amounts = np.rint(right[value].to_numpy(float) * 100).astype(np.int64) if value else None
    holders = [
        psi.DataHolder(name, f[[*own.key, column]].reset_index(drop=True))
        for name, f, column in zip(("left", "right"), (left, right), group, strict=True)
    ]
    for holder, column in zip(holders, group, strict=True):
        check_upload(holder, columns=[column])
    return CommonFiles(
        left=holders[0],
        right=holders[1],
        key=own.key,
        groups=group,
        cell=OWN_CELL,
        amounts=amounts,
        common=common,
        probe=own.key[0],
        provenance=own.provenance,
        reading=own.reading,
    )


def run(data: CommonFiles, *, engine: str, min_cell: int, processes: bool) -> end_to_end.EndToEnd:
    """The protocol of the report on all rows."""
    options: dict[str, Any] = {"engine": engine, "min_cell": min_cell, "separate": processes}
    return end_to_end.run(data.left, data.right, by=data.by, **data.query, **options)


def small_run(data: CommonFiles, n: int = 500) -> end_to_end.EndToEnd:
    """The protocol on the first n records of the left, keeping every message for inspection."""
    left = data.head(n)[0]
    common = left.frame[data.key].merge(data.right.frame)
    right = psi.DataHolder(data.right.name, common)
    return end_to_end.run(left, right, by=data.by[:1], keep_payloads=True, **data.query)


def _rows(n: int, **common: Any) -> Rows:
    empty: dict[str, Any] = {
        "table": "",
        "exporter_size": "",
        "preferential_code": 0,
        "right_label": "",
        "left_label": "",
        "reading": "described",
    }
    empty |= {"engine": "", "processes": False, "keys": n, "scheme": "", "round_trip_ms": 0}
    return Rows(**empty | common)


def counts(data: CommonFiles, answer: pd.DataFrame) -> pd.DataFrame:
    """Tables 2.2 (the file) and 2.3 (the linker's answer), described and as published.

    As published: for every key, its rows here times its rows there, in clear. Of own files the same
    counts, in the file and by the linker; a cell that the linker withholds has none.
    """
    kinds: dict[str, type] = {} if data.own else {"preferential_code": int}
    in_file: pd.Series = data.common.groupby(data.cell, observed=True).size()
    answer = answer.set_axis([*data.cell, "count"], axis=1).astype(kinds)
    answered = answer.set_index(data.cell)["count"].dropna()
    tables: list[tuple[str, str, pd.Series]] = [
        ("2.2", "described", in_file),
        ("2.3", "described", answered),
    ]
    if not data.own:
        sides = zip((data.left, data.right), data.groups, strict=True)
        by_key = [h.frame.groupby([*KEY, c], as_index=False).size() for h, c in sides]
        products = by_key[0].merge(by_key[1], on=KEY).astype(kinds)
        by_rule = (products["size_x"] * products["size_y"]).groupby([products[c] for c in CELL])
        tables += [("2.2", "published", in_file), ("2.3", "published", by_rule.sum())]
    rows = _rows(data.n)
    for table, reading, cells in tables:
        for *labels, count in cells.reset_index().itertuples(index=False):
            factors: Any = dict(zip(data.cell, labels, strict=True))
            rows.add(table=table, reading=reading, metrics={"transactions": count}, **factors)
    return rows.frame()


def cost(
    outcome: end_to_end.EndToEnd,
    data: CommonFiles,
    *,
    engine: str,
    processes: bool,
    sessions: int = 1,
) -> pd.DataFrame:
    """Rows with the cost of the run on all rows, and of as many more as make `sessions`."""
    rows = _rows(data.n, engine=engine, processes=processes)
    how: dict[str, Any] = {"engine": engine, "min_cell": 1, "processes": processes}
    for replicate in range(sessions):
        one = run(data, **how) if replicate else outcome
        metrics = {
            "wall_minutes": one.wall_s / 60,
            "cpu_seconds": one.costs["cpu_s"].sum(),
            "mebibytes_sent": one.costs["bytes_sent"].sum() / 2**20,
            "common_keys": one.cardinality,
            "left_keys": len(data.left.frame),
            "right_keys": len(data.right.frame),
        }
        rows.add(replicate=replicate, metrics=metrics)
    return rows.frame()


def _session(data: CommonFiles, engine: str, n: int, delay_s: float = 0.0) -> psi.PsiResult:
    options = Options(timeout_s=600, delay_s=delay_s)
    speaker = engine_named(engine)
    return psi.intersect(speaker, *data.head(n), on=data.key, keep_payloads=False, options=options)


def growth(data: CommonFiles, sizes: Sequence[int], rsa_sizes: Sequence[int]) -> pd.DataFrame:
    """CPU time and bytes of the intersection by engine and number of keys."""
    rows = _rows(0)
    for engine in ENGINES:
        for n in data.sizes(rsa_sizes) if engine == "rsa-2048" else data.sizes(sizes, least=2):
            result = _session(data, engine, n)
            sent = sum(m.size_bytes for m in result.transcript)
            metrics = {
                "intersection_cpu_seconds": result.stages["cpu_s"].sum(),
                "bytes_per_element": sent / (2 * n),
            }
            rows.add(engine=engine, keys=n, metrics=metrics)
    return rows.frame()


def round_trips(data: CommonFiles, n: int, milliseconds: Sequence[int]) -> pd.DataFrame:
    """Wall time of a session of n keys a side when every message takes half a round trip.

    Rows: intersection_wall_seconds by engine and round_trip_ms (0: no delay), and message_turns,
    how often the direction of the messages changes: each turn waits for half a round trip.
    """
    n = min(n, data.n)
    rows = _rows(n)
    for engine in ENGINES:
        for ms in (0, *milliseconds):
            begun = time.perf_counter()
            result = _session(data, engine, n, ms / 2000)
            wall = {"intersection_wall_seconds": time.perf_counter() - begun}
            rows.add(engine=engine, round_trip_ms=ms, metrics=wall)
        turns = 1 + sum(a.sender != b.sender for a, b in itertools.pairwise(result.transcript))
        rows.add(engine=engine, round_trip_ms=0, metrics={"message_turns": turns})
    return rows.frame()


def round_trip_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Wall seconds by engine (lines) and round trip in milliseconds (columns), and turns / 2."""
    wall = rows[rows["metric"] == "intersection_wall_seconds"]
    table = wall.pivot(index="engine", columns="round_trip_ms", values="value")
    table.columns = [f"{int(ms)}" for ms in table.columns]
    turns = rows[rows["metric"] == "message_turns"].set_index("engine")["value"]
    return table.assign(**{"round trips waited for": turns / 2}).reset_index()


def totals_by_scheme(data: CommonFiles, *, paillier_rows: int) -> pd.DataFrame:
    """Totals of the amounts by group under each scheme: cost of each role, and error; or nothing."""
    codes, labels = pd.factorize(data.right.frame[data.groups[1]], sort=True)
    cells, cents, rows = codes.astype(np.int64), data.amounts, _rows(0)
    if cents is None:
        return pd.DataFrame()
    for scheme in totals.SCHEMES:
        n = min(len(cents), paillier_rows) if scheme == "paillier" else len(cents)
        total = totals.total_by_cell(scheme, cents[:n], cells[:n], len(labels))
        metrics = {f"total_{name}": v for name, v in vars(total).items() if name != "totals"}
        rows.add(scheme=scheme, keys=n, metrics=metrics)
    return rows.frame()


def frequency_attack(data: CommonFiles, small: end_to_end.EndToEnd) -> pd.DataFrame:
    """The linker names the tokens of the left's column by rank, knowing the column's margin."""
    column = data.groups[0]
    margin = data.left.frame[column].value_counts(normalize=True)
    held = small.held()[data.left.name]
    return tokens.frequency_attack(held, column, margin, link_key=small.link_key)


def leakage(data: CommonFiles, small: end_to_end.EndToEnd) -> pd.DataFrame:
    """Rows: values (or their hashes) on the wire, and labels that frequencies give away."""
    n, crossed = small.cardinality, small.simulated.transcript
    attack, rows = frequency_attack(data, small), _rows(n)
    seen = [crossed.contains_any(party.frame[data.probe]) for party in data.head(n)]
    metrics = {
        "files_seen_on_the_wire": sum(seen),
        "labels": len(attack),
        "labels_named_by_frequency": (attack["guess"] == attack["label"]).sum(),
    }
    rows.add(metrics=metrics)
    return rows.frame()


def totals_table(rows: pd.DataFrame) -> pd.DataFrame:
    """What a total costs per row by scheme."""
    table = wide(rows[rows["scheme"] != ""], index=["scheme", "keys"])
    table = table.set_index("scheme").loc[list(LINKERS)].reset_index()
    return pd.DataFrame(
        {
            "scheme": table["scheme"],
            "linkers": table["scheme"].map(LINKERS),
            "rows": table["keys"],
            "owner, µs a row": 1e6 * table["total_owner_cpu_seconds"] / table["keys"],
            "linker, µs a row": 1e6 * table["total_linker_cpu_seconds"] / table["keys"],
            "bytes a row": table["total_bytes_sent"] / table["keys"],
            "relative error": table["total_relative_error"],
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


def _first(rows: pd.DataFrame) -> dict[str, float]:
    first = rows.drop_duplicates("metric")
    return dict(zip(first["metric"], first["value"], strict=True))


def what_if(
    data: CommonFiles,
    rows: pd.DataFrame,
    *,
    engine: str,
    keys: int,
    round_trip_ms: int,
    both_follow_the_protocol: bool,
) -> tuple[pd.DataFrame, Claim]:
    """A session of your choice beside the growth that was measured: behind the explore panel."""
    begun = time.perf_counter()
    result = _session(data, engine, keys, round_trip_ms / 2000)
    wall, cpu = time.perf_counter() - begun, result.stages["cpu_s"].sum()
    own = Rows(engine="your session", keys=keys)
    own.add(metrics={"intersection_cpu_seconds": cpu})
    grown = rows[rows["metric"] == "intersection_cpu_seconds"]
    trusted = both_follow_the_protocol or engine == "ecdh-proved"
    claim = Claim(
        "{keys:,} keys a side with {engine}: {wall:.2f} s on the clock at {ms} ms a round trip, "
        "{cpu:.2f} CPU s, {kib:,.0f} KiB sent; {common:,} keys are common. {trust}",
        trust="A party may still put guesses into its own set."
        if trusted
        else "A party that lies may reorder its answers, and others pass for common.",
        keys=keys,
        engine=engine,
        wall=wall,
        cpu=cpu,
        ms=round_trip_ms,
        kib=sum(m.size_bytes for m in result.transcript) / 1024,
        common=result.cardinality,
    )
    return concat(grown, own.frame()), claim


def contributions(rows: pd.DataFrame) -> pd.DataFrame:
    """Records behind each cell of the tables of counts, for the checks of a release."""
    cells = rows[rows["metric"] == "transactions"]
    return cells.assign(records=cells["value"]).drop(columns=["replicate", "value"])


def measured(rows: pd.DataFrame) -> list[str]:
    """Engines of which these rows hold all that `planned` needs."""
    turns, cpu = (
        rows.loc[rows["metric"] == metric, "engine"]
        for metric in ("message_turns", "intersection_cpu_seconds")
    )
    return turns[turns.isin(cpu)].tolist()


def planned(
    rows: pd.DataFrame, *, engine: str, keys: int, round_trip_ms: int, megabits: int
) -> tuple[pd.DataFrame, Claim]:
    """Seconds of a session over a line, each part in proportion: behind the explore panel.

    CPU time and bytes grow from the largest size measured of this engine; each turn of the messages
    waits for half a round trip; nothing runs at the same time as anything else.
    """
    last = rows[rows["engine"] == engine].sort_values("keys").groupby("metric")["value"].last()
    size = rows.loc[
        (rows["engine"] == engine) & (rows["metric"] == "intersection_cpu_seconds"), "keys"
    ].max()
    parts = {
        "computing": last["intersection_cpu_seconds"] * keys / size,
        "sending": 2 * keys * last["bytes_per_element"] * 8 / (megabits * 1e6),
        "waiting": last["message_turns"] * round_trip_ms / 2000,
    }
    total, largest = sum(parts.values()), max(parts, key=lambda part: parts[part])
    claim = Claim(
        "{keys:,} keys a side with {engine} take about {total:,.1f} s, {share:.0%} of it {largest}.",
        keys=keys,
        engine=engine,
        total=total,
        share=parts[largest] / total,
        largest=largest,
    )
    shown = pd.DataFrame({"part": list(parts), "value": list(parts.values())})
    return shown.assign(metric="seconds", replicate=0), claim


def headline(rows: pd.DataFrame) -> Claim:
    """The verdict in one sentence."""
    counted = rows[(rows["metric"] == "transactions") & (rows["reading"] == "described")]
    own = (counted["left_label"] != "").any()
    cells = counted.pivot(index=OWN_CELL if own else CELL, columns="table", values="value").dropna()
    first = _first(rows)
    return Claim(
        "{equal} of {cells} counts of the linker are those of the file; {left:,.0f} by {right:,.0f} keys took "
        "{wall:.0f} s and {cpu:.0f} CPU s with {engine}{printed}.",
        printed="" if own else ", against about 10 minutes in the report",
        equal=int((cells["2.2"] == cells["2.3"]).sum()),
        cells=len(cells),
        left=first["left_keys"],
        right=first["right_keys"],
        wall=60 * first["wall_minutes"],
        cpu=first["cpu_seconds"],
        engine=rows.loc[rows["metric"] == "cpu_seconds", "engine"].iloc[0],
    )


def takeaways(rows: pd.DataFrame) -> list[Claim]:
    """What these rows allow to be said."""
    engine, slope = max(slopes(rows).items(), key=lambda item: item[1])
    lines = rows[(rows["engine"] == "ecdh") & (rows["metric"] == "intersection_wall_seconds")]
    wall = lines.set_index("round_trip_ms")["value"]
    slow = int(wall.index.max())
    first = _first(rows)
    cpu = rows[rows["metric"] == "intersection_cpu_seconds"]
    cpu = cpu.pivot(index="keys", columns="engine", values="value").dropna(subset="ecdh-proved")
    proved = cpu.iloc[-1]
    return [
        Claim(
            "Time grows at most in proportion to size: the steepest slope on logarithmic axes is "
            "{slope:.2f} ({engine}).",
            holds=slope < 1.15,
            otherwise="At these sizes time grows faster than size: slope {slope:.2f} ({engine}).",
            engine=engine,
            slope=slope,
        ),
        Claim(
            "A session takes {turns:.0f} turns: at a round trip of {slow} ms {keys:,} keys take "
            "{delayed:.1f} s instead of {plain:.1f}, and a larger set waits no more often.",
            holds=wall[slow] > wall[0],
            turns=_first(rows[rows["engine"] == "ecdh"])["message_turns"],
            slow=slow,
            keys=int(lines["keys"].iloc[0]),
            delayed=wall[slow],
            plain=wall[0],
        ),
        Claim(
            "In the small session neither the values of a file nor plain hashes of them were found on "
            "the wire.",
            holds=first["files_seen_on_the_wire"] == 0,
            otherwise="Values of a file, or their hashes, crossed the wire in the small session.",
        ),
        Claim(
            "A linker that colludes with neither party reads no label, but sees frequencies, which "
            "name {labels_named_by_frequency:.0f} of {labels:.0f} labels of a column whose margin "
            "is known.",
            holds=first["labels_named_by_frequency"] > 0,
            otherwise="Frequencies named no label here.",
            **first,
        ),
        *_of_totals(rows),
        Claim(
            "Proofs that both parties' answers are true cost {times:.1f} times the CPU time of plain "
            "Diffie-Hellman ({keys:,} keys a side); they say nothing of what a party put into its set.",
            holds=proved["ecdh-proved"] > proved["ecdh"],
            otherwise="At {keys:,} keys a side the proofs cost nothing that could be measured.",
            times=proved["ecdh-proved"] / proved["ecdh"],
            keys=int(cpu.index[-1]),
        ),
    ]


def _of_totals(rows: pd.DataFrame) -> list[Claim]:
    """What totals cost, where there was a value to total."""
    if not (rows["scheme"] != "").any():
        return []
    table = totals_table(rows).set_index("scheme")
    per_row = table["owner, µs a row"] + table["linker, µs a row"]
    return [
        Claim(
            "Totals need no homomorphic encryption where two linkers do not collude: shares between "
            "them are exact and cost {shares:.2f} µs a row; the next costs {other:.1f}.",
            holds=bool(per_row.idxmin() == "shares" and table["relative error"]["shares"] == 0),
            shares=per_row["shares"],
            other=per_row.drop("shares").min(),
        )
    ]
