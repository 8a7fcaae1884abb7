"""PSI with analytics, the report's annex: a statistical office and a bank with a common tax code.

Report, paragraphs 136 to 150: four variants on the same keys, every table of the use case, what the
linker sees, what its output checks do, and the pros and cons that the annex lists.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from pet_lab import checks, psi
from pet_lab.data import FilePair, istat_bi
from pet_lab.psi import end_to_end, tokens
from pet_lab.psi.disclosure import OutputRules
from pet_lab.psi.engines import engine_named
from pet_lab.psi.linker import Linker, Query
from pet_lab.psi.protocol import schema
from pet_lab.psi.tokens import check_upload
from pet_lab.rows import Claim, Rows

PAIR = ("CLASSE_ETA", "CLASSE_REDDITO")
MOST_LABELS = 50  # of a column that is counted
LABELS = {"count": "common records", "left_label": "label on the left"}
LABELS |= {"right_label": "label on the right", "noise": "epsilon of the noise, 0: none"}
SAME_NAME = " of the right"
ON_THE_WIRE = "a key or its hash on the wire"
PROS = (
    "other parties in the same situation can use it",
    "the linker receives only encrypted, necessary data",
    "parties exchange nothing directly but the intersection",
    "the linker can check counts before they leave",
)
CONS = (
    "enrichment is by counts only",
    "a party and the linker together see everything",
    "parties learn which of their records the other has",
)


@dataclass(frozen=True, kw_only=True)
class LinkedFiles:
    """Both parties, and where their files came from.

    key     the key column, or columns, of both
    pair    a column of each: the table that is protected and made noisy
    public  by party and column, all labels, as the linker must know them
    reading what the reader decided of own files; None: not own files
    """

    left: psi.DataHolder
    right: psi.DataHolder
    key: list[str]
    pair: tuple[str, str]
    public: Mapping[str, Mapping[str, Sequence[str]]]
    provenance: list[dict[str, Any]]
    reading: pd.DataFrame | None = None

    @property
    def parties(self) -> tuple[psi.DataHolder, psi.DataHolder]:
        """Left and right."""
        return self.left, self.right

    @property
    def real(self) -> bool:
        """Whether these are the published files."""
        return all(source["kind"] == "real" for source in self.provenance)

    def columns(self) -> dict[str, list[str]]:
        """All columns but the key, by party."""
        return {p.name: [c for c in p.frame.columns if c not in self.key] for p in self.parties}

    def axes(self, pair: tuple[str, str]) -> tuple[str, str]:
        """A column of each side as the linker calls them."""
        return f"{self.left.name}:{pair[0]}", f"{self.right.name}:{pair[1]}"

    def pairs(self) -> list[tuple[str, str]]:
        """Every column of one side with every column of the other."""
        own, other = self.columns().values()
        return list(itertools.product(own, other))

    @property
    def tables(self) -> dict[str, tuple[str, str]]:
        """The pairs by their names, the protected one first."""
        return {f"{a} by {b}": (a, b) for a, b in dict.fromkeys([self.pair, *self.pairs()])}

    def joined(self) -> pd.DataFrame:
        """The join in clear; columns are those of the left, then those of the right."""
        return self.left.frame.merge(self.right.frame, on=self.key, suffixes=("", SAME_NAME))

    def clear(self, pair: tuple[str, str]) -> pd.Series:
        """Common records by a column of each, counted in clear; cells of none are left out."""
        joined = self.joined()
        right = pair[1] + SAME_NAME if pair[1] in self.left.frame else pair[1]
        return joined.groupby([pair[0], right]).size()

    def schema(self) -> pd.DataFrame:
        """One row a party: rows, distinct keys, columns, and whether the data is real."""
        kinds = [source["kind"] for source in self.provenance]
        return schema(self.parties, self.key).assign(data=kinds)


def check(
    *, engine: str, min_cell: int, strict_cell: int, epsilon: float, replicates: int, seed: int
) -> None:
    """Refuse parameters with which the notebook cannot end, before work starts."""
    engine_named(engine)
    checks.whole(0, min_cell=min_cell, strict_cell=strict_cell, seed=seed)
    checks.whole(1, replicates=replicates)
    checks.between(0.001, 1000, epsilon=epsilon)


def files(*, seed: int, own: FilePair | None = None) -> LinkedFiles:
    """A user's own files; else the published ones where they are at hand, or a stand-in.

    Own labels are read off the files: no epsilon covers that they are there.
    """
    if own:
        columns = [[c for c in f.columns if c not in own.key] for f in (own.left, own.right)]
        checks.require(all(columns), "Each file needs a column beside the key to count by.")
        frames = {"left": own.left, "right": own.right}
        public = {
            name: {c: sorted(frame[c].unique()) for c in of}
            for (name, frame), of in zip(frames.items(), columns, strict=True)
        }
        data = LinkedFiles(
            **{name: psi.DataHolder(name, frame) for name, frame in frames.items()},
            key=own.key,
            pair=(columns[0][0], columns[1][0]),
            public=public,
            provenance=own.provenance,
            reading=own.reading,
        )
        for party in data.parties:
            check_upload(party, columns=data.columns()[party.name], public=public[party.name])
        return data
    case = istat_bi.load(rng=np.random.default_rng(seed))
    return LinkedFiles(
        left=psi.DataHolder("istat", case.istat),
        right=psi.DataHolder("bank", case.bank),
        key=[istat_bi.KEY],
        pair=PAIR,
        public=istat_bi.DOMAIN,
        provenance=list(case.provenance),
    )


def variants(data: LinkedFiles, *, engine: str) -> pd.DataFrame:
    """The annex's four variants on the same keys: what each tells, and what crossed the wire."""
    speaker = engine_named(engine)
    keys = [value for party in data.parties for c in data.key for value in party.values(c)]
    records = []
    for variant in speaker.variants:
        mine, theirs = (data.pair[:1], data.pair[1:]) if variant == "enrichment" else ((), ())
        result = psi.intersect(
            speaker,
            *data.parties,
            on=data.key,
            variant=variant,
            left_columns=mine,
            right_columns=theirs,
        )
        enriched = result.left.enriched
        records.append(
            {
                "variant": variant,
                "common": result.cardinality,
                "knows which": result.left.positions is not None,
                "columns received": 0 if enriched is None else enriched.shape[1],
                ON_THE_WIRE: result.transcript.contains_any(keys),
                "KiB": sum(m.size_bytes for m in result.transcript) / 1024,
            }
        )
    return pd.DataFrame(records)


def run(data: LinkedFiles, *, engine: str, min_cell: int) -> end_to_end.EndToEnd:
    """Intersection, upload of every column, one query."""
    return end_to_end.run(
        *data.parties,
        on=data.key,
        by=data.axes(data.pair),
        columns=data.columns(),
        engine=engine,
        public=data.public,
        min_cell=min_cell,
        keep_payloads=True,
    )


def _columns(pair: tuple[str, str]) -> dict[str, Any]:
    return {"left_column": pair[0], "right_column": pair[1]}


def _rows() -> Rows:
    return Rows(left_column="", right_column="", left_label="", right_label="")


def _table(
    linker: Linker, data: LinkedFiles, outcome: end_to_end.EndToEnd, pair: tuple[str, str]
) -> pd.DataFrame:
    """What the linker answers to the right: labels of either side, and their count."""
    query = Query(session=outcome.simulated.right.session, group_by=data.axes(pair))
    table = linker.answer(query, data.right.name).table(outcome.link_key)
    return table.set_axis(["left", "right", "count"], axis=1)


def tables(data: LinkedFiles, outcome: end_to_end.EndToEnd) -> pd.DataFrame:
    """Rows: every cell of every pair of columns, as the linker answers and as a join in clear."""
    rows, largest, shown = _rows(), 0, 0
    for pair in data.pairs():
        clear = data.clear(pair)
        for x, y, count in _table(outcome.linkers[0], data, outcome, pair).itertuples(index=False):
            metrics = {"count_in_clear": clear.get((x, y), 0)}
            largest = max(largest, metrics["count_in_clear"])
            if count is not pd.NA:
                metrics["count"] = count
                shown += 1
            rows.add(metrics=metrics, **_columns(pair), left_label=x, right_label=y)
    checks.require(
        shown,
        f"Not one count leaves the linker: cells are too small or protect one that is (the largest "
        f"holds {largest} records); lower min_cell or link larger files.",
    )
    rows.add(metrics={"common_records": outcome.cardinality})
    return rows.frame()


def contributions(rows: pd.DataFrame) -> pd.DataFrame:
    """Records behind each cell that counts common records, for the checks of a release."""
    counted = ("count", "count_in_clear", "count_protected", "common_records")
    cells = rows[rows["metric"].isin(counted)]
    return cells.assign(records=cells["value"]).drop(columns=["replicate", "value"])


def linker_view(data: LinkedFiles, outcome: end_to_end.EndToEnd) -> pd.DataFrame:
    """What the linker holds: token frequencies by column, and the labels that they give away."""
    records = []
    for party in data.parties:
        held = outcome.held()[party.name]
        for column in held.labels:
            margin = party.frame[column].value_counts(normalize=True)
            attack = tokens.frequency_attack(held, column, margin, link_key=outcome.link_key)
            records.append(
                {
                    "party": party.name,
                    "column": column,
                    "rows": len(held),
                    "frequencies": ", ".join(map(str, attack["rows"])),
                    "labels": len(margin),
                    "named by frequency": int((attack["guess"] == attack["label"]).sum()),
                    "opened with a party's key": int((attack["label"] != "").sum()),
                }
            )
    return pd.DataFrame(records)


def leakage(data: LinkedFiles, view: pd.DataFrame) -> pd.DataFrame:
    """Rows: labels of each column, and how many of them frequencies name."""
    rows = _rows()
    for record in view.to_dict("records"):
        metrics = {
            "labels": record["labels"],
            "labels_named_by_frequency": record["named by frequency"],
            "labels_opened_by_collusion": record["opened with a party's key"],
        }
        side = "left" if record["party"] == data.left.name else "right"
        rows.add(metrics=metrics, **{f"{side}_column": record["column"]})
    return rows.frame()


def _linker(data: LinkedFiles, outcome: end_to_end.EndToEnd, rules: OutputRules) -> Linker:
    """A fresh linker with other rules that holds the same uploads."""
    linker = Linker((data.left.name, data.right.name), rules=rules)
    for party, table in outcome.held().items():
        linker.accept(table, party)
    return linker


def protected(data: LinkedFiles, outcome: end_to_end.EndToEnd, *, strict_cell: int) -> pd.DataFrame:
    """Rows: cells of one table under a large smallest count, <NA> cells left out, and how many."""
    strict = (OutputRules(min_cell=strict_cell, complementary=more) for more in (False, True))
    too_small, table = (
        _table(_linker(data, outcome, rules), data, outcome, data.pair) for rules in strict
    )
    rows = _rows()
    for x, y, count in table.dropna().itertuples(index=False):
        metrics = {"count_protected": count}
        rows.add(metrics=metrics, **_columns(data.pair), left_label=x, right_label=y)
    hidden = {"cells_too_small": too_small, "cells_withheld": table}
    metrics = {name: one["count"].isna().sum() for name, one in hidden.items()}
    rows.add(metrics=metrics, **_columns(data.pair))
    return rows.frame()


def noise(
    data: LinkedFiles, outcome: end_to_end.EndToEnd, *, epsilon: float, replicates: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Noisy tables by linkers whose budget allows three questions.

    Returns rows with the mean absolute error of one table by replicate, and the query log of the
    last linker after four questions.
    """
    rules_of_noise = OutputRules(min_cell=0, epsilon_per_query=epsilon, epsilon_total=3 * epsilon)
    truth, rows = data.clear(data.pair), _rows()
    for replicate in range(replicates):
        linker = _linker(data, outcome, rules_of_noise)
        noisy = _table(linker, data, outcome, data.pair).set_index(["left", "right"])["count"]
        off = noisy.astype(float) - truth.reindex(noisy.index, fill_value=0)
        error = {"noise_mean_absolute": off.abs().mean()}
        rows.add(replicate=replicate, metrics=error, **_columns(data.pair))
    for pair in data.pairs()[:4]:
        with contextlib.suppress(psi.PsiError):
            _table(linker, data, outcome, pair)
    log = pd.DataFrame([vars(e) for e in linker.log.entries])
    log["query"] = log["query"].map(lambda q: ", ".join(q["group_by"]))
    refused = log["state"].str.startswith("refused").sum()
    rows.add(metrics={"queries": len(data.pairs()[:4]), "queries_refused": refused})
    return rows.frame(), log[["party", "query", "state", "epsilon"]]


def what_if(
    data: LinkedFiles,
    outcome: end_to_end.EndToEnd,
    *,
    table: str,
    smallest_count: int,
    noise: float,
    linker_colludes: bool,
) -> tuple[pd.DataFrame, Claim]:
    """One table as a fresh linker answers it, and what it gives away: behind the explore panel.

    `table` is a key of `LinkedFiles.tables`, `noise` the epsilon of the answer, 0 for none.
    """
    pair = data.tables[table]
    budget: dict[str, Any] = {"epsilon_per_query": noise, "epsilon_total": noise} if noise else {}
    rules = OutputRules(min_cell=0 if noise else smallest_count, **budget)
    answer = _table(_linker(data, outcome, rules), data, outcome, pair)
    shown = answer.dropna()
    checks.require(
        len(shown),
        f"At a smallest count of {smallest_count} no cell of this table leaves the linker.",
    )
    true = data.clear(pair).reindex(pd.MultiIndex.from_frame(answer[["left", "right"]]))
    off = (answer["count"].astype(float) - true.fillna(0).to_numpy()).abs().mean()
    view = linker_view(data, outcome).query("column in @pair")
    seen = "opened with a party's key" if linker_colludes else "named by frequency"
    claim = Claim(
        "All {cells} cells leave, off by {off:.1f} on average. {linker}",
        holds=noise > 0,
        otherwise="{shown} of {cells} cells leave, exact; {small} are too small and {more} more "
        "protect them. {linker}",
        linker=f"A linker that colludes with {'one party' if linker_colludes else 'nobody'} reads "
        f"{view[seen].sum()} of {view['labels'].sum()} labels of the two columns.",
        shown=len(shown),
        cells=len(answer),
        off=off,
        small=(small := int((true.fillna(0) < smallest_count).sum())),
        more=len(answer) - len(shown) - small,
    )
    rows = Rows(**_columns(pair))
    for x, y, count in shown.itertuples(index=False):
        rows.add(left_label=x, right_label=y, metrics={"count": count})
    return rows.frame(), claim


def noise_in_a_cell(*, epsilon: float, tables: int, records: int) -> tuple[pd.DataFrame, Claim]:
    """How likely the noise of a count hides it, in closed form: behind the explore panel.

    A budget `epsilon` is shared by so many tables; each count gets discrete Laplace noise, since one
    record is in one cell of each. `records` is the cell's true count.
    """
    noise, rows = stats.dlaplace(epsilon / tables), Rows()
    for percent in (1, 5, 10, 20, 50):
        rows.add(percent=percent, metrics={"chance": 2 * noise.sf(percent * records // 100)})
    claim = Claim(
        "Each of {tables} tables gets {each:.3g} of the budget: a count of {records} is off by {sd:.3g} "
        "(standard deviation), and by more than a tenth with a chance of {far:.0%}.",
        tables=tables,
        each=epsilon / tables,
        records=records,
        sd=noise.std(),
        far=2 * noise.sf(records // 10),
    )
    return rows.frame(), claim


def cross_table(rows: pd.DataFrame, metric: str, pair: tuple[str, str]) -> pd.DataFrame:
    """One table of counts; a cell that was withheld says so."""
    cells = rows[(rows["left_column"] == pair[0]) & (rows["right_column"] == pair[1])]
    every, shown = (
        cells[cells["metric"] == name]
        .pivot(index="left_label", columns="right_label", values="value")
        .convert_dtypes()
        .astype(object)
        for name in ("count_in_clear", metric)
    )
    wide = shown.reindex_like(every)
    wide = wide.where(wide.notna(), "withheld").rename_axis(index=pair[0], columns=None)
    return wide.reset_index()


def pros_and_cons(
    rows: pd.DataFrame, data: LinkedFiles, shown: pd.DataFrame, *, strict_cell: int
) -> pd.DataFrame:
    """Paragraphs 149 and 150, each with a verdict and the evidence of this run.

    `shown` is what `variants` returned.
    """
    total = rows.groupby("metric")["value"].sum().astype(int)
    common, own = total["common_records"], len(data.left.frame)
    labels, named = total["labels"], total["labels_named_by_frequency"]
    wire, opened = shown[ON_THE_WIRE].any(), total["labels_opened_by_collusion"]
    handed = shown.loc[shown["columns received"] > 0, "common"].sum()
    judged = (
        ("holds", "nothing in the protocol knows these files but their column names"),
        (
            "holds in part" if named else "holds",
            f"{common} of {own} records are sent, as tokens; frequencies name {named} of {labels} "
            "labels",
        ),
        ("fails" if wire else "holds", f"{ON_THE_WIRE}: {'yes' if wire else 'no'}"),
        (
            "holds",
            f"{total['cells_withheld']} cells withheld at {strict_cell}; the budget refused "
            f"{total['queries_refused']} of {total['queries']} noisy queries",
        ),
        (
            "holds for analytics",
            f"the enrichment variant hands over columns of {handed} records",
        ),
        (
            "holds" if opened == labels else "fails",
            f"with one party's key the linker opens {opened} of {labels} labels of both sides",
        ),
        (
            "holds",
            f"{common} of {data.left.name}'s {own}; the cardinality variant tells the number only",
        ),
    )
    table = pd.DataFrame(judged, columns=["verdict", "evidence here"])
    table.insert(0, "kind", ["pro"] * len(PROS) + ["con"] * len(CONS))
    table.insert(1, "statement", [*PROS, *CONS])
    return table


def _totals(rows: pd.DataFrame) -> dict[str, float]:
    return {str(metric): of["value"].sum() for metric, of in rows.groupby("metric")}


def headline(rows: pd.DataFrame) -> Claim:
    """The verdict in one sentence."""
    by = ["left_column", "right_column", "left_label", "right_label"]
    counts = rows[rows["metric"].isin(["count", "count_in_clear"])]
    cells = counts.pivot(index=by, columns="metric", values="value").dropna()
    equal = int((cells["count"] == cells["count_in_clear"]).sum())
    total = _totals(rows)
    return Claim(
        "All {cells} cells (tables: {tables}) equal those of a join in clear; "
        "{common_records:.0f} records are common. Frequencies alone give the linker "
        "{labels_named_by_frequency:.0f} of {labels:.0f} labels.",
        holds=len(cells) == equal,
        otherwise="{equal} of {cells} cells (tables: {tables}) equal those of a join in clear.",
        tables=len(cells.groupby(by[:2])),
        cells=len(cells),
        equal=equal,
        **total,
    )


def takeaways(rows: pd.DataFrame, *, strict_cell: int, epsilon: float) -> list[Claim]:
    """What these rows allow to be said."""
    total = _totals(rows)
    means = rows.groupby("metric")["value"].mean()
    q = np.exp(-epsilon)
    return [
        Claim(
            '"Encrypted" is not "hidden": equality of labels is visible, so frequencies are, and '
            "known margins name {labels_named_by_frequency:.0f} of {labels:.0f} labels.",
            holds=total["labels_named_by_frequency"] > 0,
            otherwise="Known margins name none of {labels:.0f} labels here.",
            **total,
        ),
        Claim(
            "A smallest count alone is not a check: {cells_too_small:.0f} of the cells lie below "
            "{strict}, and {cells_withheld:.0f} must be withheld, because each party knows its own "
            "margins.",
            holds=total["cells_withheld"] > total["cells_too_small"] > 0,
            otherwise="At a smallest count of {strict}, {cells_too_small:.0f} cells are too small "
            "and {cells_withheld:.0f} are withheld.",
            strict=strict_cell,
            **total,
        ),
        Claim(
            "Noise of epsilon {epsilon:g} moves a count by {error:.2f} on average (in theory "
            "{theory:.2f}) where counts are {mean:.0f}.",
            holds=means["noise_mean_absolute"] < 0.1 * means["count"],
            otherwise="Noise of epsilon {epsilon:g} moves a count by {error:.2f} on average, which "
            "is much beside counts of {mean:.0f}.",
            epsilon=epsilon,
            error=means["noise_mean_absolute"],
            theory=2 * q / (1 - q**2),
            mean=means["count"],
        ),
    ]
