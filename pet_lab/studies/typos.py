"""Linking with typos over the protocol: are the published counts what a calibrated file gives?

UNECE IPP repository, Code/PSI_WITH_TYPOS, and final report, paragraphs 18 to 25 and 39. Two exact
intersections, on a blocking key and on the full key; error rates from the numbers of neighbours.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pet_lab import linkage, psi
from pet_lab.checks import require, whole
from pet_lab.data import FilePair
from pet_lab.linkage import totals
from pet_lab.linkage.trade import TradeDeclarations, Typos, check_correctable, trade_declarations
from pet_lab.psi import end_to_end
from pet_lab.psi.linker import agreement
from pet_lab.psi.tokens import check_upload
from pet_lab.rows import Claim, Rows, summarise, wide

BLOCK_ON = ["exporter_id", "hs6"]
LINK_ON = [*BLOCK_ON, "date", "value"]
CELL = ["exporter_size", "preferential_code"]
OWN_CELL = ["right_label", "left_label"]
RATES: dict[str, Any] = {"exporter_size": "all", "preferential_code": 0, "reading": "described"}
LABELS = {"cell": "exporter size and preferential code", "relative_error": "relative error"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Parameters as in the notebook."""

    n: int
    error_rate: float
    sample_share: float
    replicates: int
    protocol_n: int
    processes: bool = False
    seed: int

    def __post_init__(self) -> None:
        share = self.sample_share
        require(0 < share <= 1, f"sample_share is above 0 and at most 1, got {share:g}.")
        check_correctable(self.error_rate)
        whole(1000, n=self.n)
        whole(2, replicates=self.replicates)
        whole(1, protocol_n=self.protocol_n)
        whole(0, seed=self.seed)
        linked = min(self.n, self.protocol_n) * share**2 * (1 - self.error_rate)
        require(
            linked >= 30,
            f"Some {linked:.0f} pairs of the smallest sample would link, which says nothing of its "
            "rates; raise protocol_n or sample_share until 30 do.",
        )

    def first_pairs(self, n: int) -> dict[str, TradeDeclarations]:
        """The pair that is shown, and at `protocol_n` records run through the protocol."""
        stream = np.random.SeedSequence(self.seed).spawn(1)[0]
        return self.pairs(n, np.random.default_rng(stream), np.random.default_rng(stream))

    def pairs(
        self, n: int, rng: np.random.Generator, of_sample: np.random.Generator
    ) -> dict[str, TradeDeclarations]:
        """Full files of n transactions and a sample of them, by the name in the rows."""
        full = trade_declarations(n, rng=rng, typos=Typos(error_rate=self.error_rate))
        share = self.sample_share
        return {"full": full, f"sample{round(100 * share)}": full.sample(share, of_sample)}


def described(trade: TradeDeclarations) -> pd.DataFrame:
    """Rows and distinct keys of both files."""
    files = {"imports (statcan)": trade.imports, "exports (cbs)": trade.exports}
    of_keys = {"distinct blocking keys": BLOCK_ON, "distinct linkage keys": LINK_ON}
    return pd.DataFrame(
        {"file": name, "rows": len(file)}
        | {title: file.groupby(key).ngroups for title, key in of_keys.items()}
        for name, file in files.items()
    )


def provenance(trade: TradeDeclarations) -> list[dict[str, str]]:
    """What is stored about the data."""
    return [
        {
            "name": "trade declarations with typos",
            "sha256": hashlib.sha256(trade.exports.to_csv(index=False).encode()).hexdigest(),
            "kind": "generated",
            "licence": "Apache-2.0",
            "citation": "Generator calibrated to paragraph 27 of the report.",
        }
    ]


def simulate(settings: Settings) -> pd.DataFrame:
    """Blocked, linked and corrected counts of full files and samples, linked in clear.

    "published" puts the rates into the formula of the program, "described" into paragraph 23.
    """
    rows = Rows()
    streams = np.random.SeedSequence(settings.seed).spawn(settings.replicates + 1)[1:]
    for replicate, stream in enumerate(streams):
        rng = np.random.default_rng(stream)
        for files, pair in settings.pairs(settings.n, rng, rng).items():
            links, truth = exact_links(pair), pair.truth()
            if files == "full":
                fit = linkage.fit_neighbours(links.n_linked, n_other=links.n_b)
                others = float(np.mean(links.n_blocked)) - 1
                recall, ratio = fit.recall, fit.false_links / others if others else 0.0
            else:
                overlap = linkage.fit_overlap(links.n_blocked, links.n_linked, links.blocks.code_a)
                recall, ratio = overlap.recall, overlap.ratio
            rates = {"recall_estimated": recall, "recall_actual": links.accuracy(truth).recall}
            rows.add(files=files, replicate=replicate, metrics=rates, **RATES)
            fpr = ratio * links.blocks.n_pairs / (links.n_a * links.n_b)
            for cell, x, z in cell_variables(pair):
                counts = {
                    "blocked_pairs": links.blocks.total(x, z),
                    "linked_pairs": links.total(x, z),
                }
                by_text = totals.para23(links, x, z, recall=recall, ratio=ratio).estimate
                by_program = totals.published(links, x, z, recall=recall, fpr=fpr).estimate
                true = float(x @ np.where(truth >= 0, z[truth], 0.0))
                metrics = {
                    "described": counts | {"corrected_count": by_text, "true_count": true},
                    "published": counts | {"corrected_count": by_program},
                }
                for reading, values in metrics.items():
                    factors = cell | {"files": files, "reading": reading}
                    rows.add(replicate=replicate, metrics=values, **factors)
    return rows.frame()


def exact_links(pair: TradeDeclarations) -> linkage.Links:
    """Pairs that agree in exporter, product, date and value."""
    return linkage.link_exact(*pair.files, block_on=BLOCK_ON, on=["date", "value"])


def cell_variables(pair: TradeDeclarations) -> Iterator[tuple[dict, np.ndarray, np.ndarray]]:
    """Each cell of the published tables, with the indicators of its exports and imports."""
    sizes = pair.exports["exporter_size"].to_numpy()
    codes = pair.imports["preferential_code"].to_numpy()
    for cell in itertools.product(["small", "large"], [100, 300]):
        x, z = (sizes == cell[0]).astype(float), (codes == cell[1]).astype(float)
        yield dict(zip(CELL, cell, strict=True)), x, z


@dataclass(frozen=True, kw_only=True)
class HeldFiles:
    """Two files at their holders, and what counts of pairs are by.

    left, right  statcan and cbs, or of a user's own files; the right asks the linker
    links        the pairs of the right and the left that link, in clear
    groups       the column of the left and of the right that the counts are by
    cell         what these two are called in the rows: of the right, then of the left
    truth        row of the left that each row of the right matches, -1: none; None: nobody knows
    """

    left: psi.DataHolder
    right: psi.DataHolder
    links: linkage.Links
    block_on: list[str]
    link_on: list[str]
    groups: tuple[str, str]
    cell: list[str]
    truth: np.ndarray | None = None

    @property
    def query(self) -> dict[str, Any]:
        """What both send, and what the right asks for."""
        columns = {self.left.name: [self.groups[0]], self.right.name: [self.groups[1]]}
        by = [f"{self.right.name}:{self.groups[1]}", f"{self.left.name}:{self.groups[0]}"]
        return {"by": by, "columns": columns, "min_cell": 0}

    def cells(self) -> Iterator[tuple[tuple[str, str], np.ndarray, np.ndarray]]:
        """Labels of the right and of the left, with the indicators of their rows."""
        of_right = self.right.frame[self.groups[1]].to_numpy()
        of_left = self.left.frame[self.groups[0]].to_numpy()
        for cell in itertools.product(dict.fromkeys(of_right), dict.fromkeys(of_left)):
            yield cell, (of_right == cell[0]).astype(float), (of_left == cell[1]).astype(float)


def own_files(own: FilePair, *, block_on: int) -> HeldFiles:
    """A user's files, of whose key the first `block_on` columns are the blocking key."""
    group = [[c for c in f.columns if c not in own.key] for f in (own.left, own.right)]
    one = "Name one column of each file to count by, with left_column and right_column."
    require(all(len(columns) == 1 for columns in group), one)
    names = own.key[:block_on], own.key[block_on:]
    compared_too = "Links need columns that may have typos beside the blocking key; name them in "
    require(all(names), f"{compared_too}`also_on`.")
    links = linkage.link_exact(own.right, own.left, block_on=names[0], on=names[1])
    files = HeldFiles(
        left=psi.DataHolder("left", own.left),
        right=psi.DataHolder("right", own.right),
        links=links,
        block_on=names[0],
        link_on=own.key,
        groups=(group[0][0], group[1][0]),
        cell=OWN_CELL,
    )
    for party in (files.left, files.right):
        check_upload(party, columns=files.query["columns"][party.name])
    linkage.fit_overlap(links.n_blocked, links.n_linked, links.blocks.code_a)  # or one sentence
    return files


def through_protocol(settings: Settings) -> pd.DataFrame:
    """The counts of both keys by the protocol and in clear, and the rates that the linker fits.

    Metrics end in ".protocol", ".clear" and, for coverage and recall, ".actual".
    """
    rows = Rows(reading="described")
    for name, pair in settings.first_pairs(settings.protocol_n).items():
        left, right = (
            psi.DataHolder(party, file.drop(columns="declaration").astype(str))
            for party, file in (("statcan", pair.imports), ("cbs", pair.exports))
        )
        files = HeldFiles(
            left=left,
            right=right,
            links=exact_links(pair),
            block_on=BLOCK_ON,
            link_on=LINK_ON,
            groups=("preferential_code", "exporter_size"),
            cell=CELL,
            truth=pair.truth(),
        )
        _compare(rows, files, name, separate=settings.processes)
    return rows.frame().astype({"preferential_code": int})


def own_rows(files: HeldFiles, *, processes: bool) -> pd.DataFrame:
    """The same of a user's files, with the corrected count of each cell; nobody knows the truth."""
    rows = Rows(reading="described")
    linker = _compare(rows, files, "own", separate=processes)
    gap = linker.recall - linker.ratio
    for cell, x, z in files.cells():
        linked, blocked = files.links.total(x, z), files.links.blocks.total(x, z)
        metrics: dict[str, float] = {"linked_pairs": linked, "blocked_pairs": blocked}
        metrics["corrected_count"] = (linked - linker.ratio * blocked) / gap
        factors: Any = dict(zip(files.cell, cell, strict=True))
        rows.add(files="own", metrics=metrics, **factors)
    return rows.frame()


def _compare(
    rows: Rows, files: HeldFiles, name: str, *, separate: bool
) -> linkage.neighbours.OverlapFit:
    """Adds counts and rates by the protocol and in clear; returns the linker's rates."""
    links, holders = files.links, (files.left, files.right)
    for metric, key, pairs in (
        ("blocked_pairs", files.block_on, links.blocks),
        ("linked_pairs", files.link_on, links),
    ):
        run = end_to_end.run(*holders, on=key, separate=separate, **files.query)
        counts = {(a, b): n for a, b, n in run.table.itertuples(index=False)}
        for cell, x, z in files.cells():
            both: dict[str, float] = {f"{metric}.protocol": int(counts.get(cell, 0))}
            both[f"{metric}.clear"] = pairs.total(x, z)
            factors: Any = dict(zip(files.cell, cell, strict=True))
            rows.add(files=name, metrics=both, **factors)
    # Rates need each record's blocked and linked neighbours together: the blocked rows are sent
    # with a token of the linkage key, and the linker compares it within the blocked pairs.
    joins = {"linkage key": files.link_on}
    run = end_to_end.run(*holders, on=files.block_on, joins=joins, **files.query)
    session = run.simulated.right.session
    seen = agreement(run.linkers[0], session, files.right.name, join="linkage key")
    alone = len(files.right.frame) - len(seen)  # of no common block: no neighbours at all
    numbers = seen["block"].max() + 1 + np.arange(alone)
    absent = pd.DataFrame({"n_blocked": 0, "n_linked": 0, "block": numbers})
    seen = pd.concat([seen, absent], ignore_index=True)
    linker = linkage.fit_overlap(seen["n_blocked"], seen["n_linked"], seen["block"])
    clear = linkage.fit_overlap(links.n_blocked, links.n_linked, links.blocks.code_a)
    rates = {}
    if files.truth is not None:
        rates["coverage.actual"] = (files.truth >= 0).mean()
        rates["recall.actual"] = links.accuracy(files.truth).recall
    for by, fit in (("protocol", linker), ("clear", clear)):
        rates |= {f"coverage.{by}": fit.coverage, f"recall.{by}": fit.recall}
    whole_files: dict[str, Any] = dict(zip(files.cell, ("all", "all"), strict=True))
    rows.add(files=name, metrics=rates, **(RATES if files.cell == CELL else whole_files))
    return linker


def duplicates() -> pd.DataFrame:
    """The linker's answer where two records on each side have one key."""
    statcan = pd.DataFrame({"key": ["k", "k"], "preferential_code": ["100", "300"]})
    cbs = pd.DataFrame({"key": ["k", "k"], "exporter_size": ["small", "large"]})
    query: dict[str, Any] = {
        "by": ["cbs:exporter_size", "statcan:preferential_code"],
        "min_cell": 0,
    }
    columns = {"statcan": ["preferential_code"], "cbs": ["exporter_size"]}
    holders = psi.DataHolder("statcan", statcan), psi.DataHolder("cbs", cbs)
    return end_to_end.run(*holders, on=["key"], columns=columns, **query).table


def compared(rows: pd.DataFrame, *, rates: bool = False) -> pd.DataFrame:
    """By the protocol, in clear and actual side by side: counts of cells, or rates of files."""
    parts = rows["metric"].str.extract(r"^(?P<what>\w+)\.(?P<by>protocol|clear|actual)$")
    cell = CELL if CELL[0] in rows else OWN_CELL
    chosen = parts["by"].notna() & ((rows[cell[0]] == "all") == rates)
    index = ["files", "what"] if rates else ["files", "what", *cell]
    return wide(rows.join(parts)[chosen].drop(columns="metric"), index=index, columns="by")


def own_counts(rows: pd.DataFrame) -> pd.DataFrame:
    """Blocked, linked and corrected counts of a user's files, by cell."""
    plain = rows[~rows["metric"].str.contains(".", regex=False)]
    return wide(plain, index=OWN_CELL)


def _as_in_clear(counts: pd.DataFrame, rates: pd.DataFrame) -> Claim:
    return Claim(
        "The protocol counts as a join in clear does, in all {n} cells, and the linker's "
        "estimates of coverage and recall are those in clear.",
        holds=(counts["protocol"] == counts["clear"]).all()
        and np.allclose(rates["protocol"], rates["clear"]),
        n=len(counts),
    )


def own_takeaways(rows: pd.DataFrame) -> list[Claim]:
    """What the rows of a user's files bear out; the first is the headline."""
    counts, rates = compared(rows), compared(rows, rates=True).set_index("what")
    cells = own_counts(rows)
    linked, corrected = cells["linked_pairs"].sum(), cells["corrected_count"].sum()
    by_linker = rates["protocol"]
    return [
        Claim(
            "{linked:,.0f} pairs link; with a recall of {recall:.1%}, told from neighbours alone, "
            "some {corrected:,.0f} belong together.",
            linked=linked,
            corrected=corrected,
            recall=by_linker["recall"],
        ),
        _as_in_clear(counts, rates),
        Claim(
            "Some {coverage:.1%} of the right file's records have a match in the left; nobody "
            "reviewed a pair, and the estimate asks that having a match does not depend on the size "
            "of the block.",
            coverage=by_linker["coverage"],
        ),
    ]


def what_if(
    *, share_of_typos: float, records: int, share_kept: float, seed: int
) -> tuple[pd.DataFrame, Claim]:
    """Two files drawn anew and linked in clear: behind the explore panel."""
    settings = Settings(
        n=records,
        error_rate=share_of_typos,
        sample_share=share_kept,
        replicates=2,
        protocol_n=records,
        seed=seed,
    )
    errors = relative_errors(simulate(settings))
    worst = errors["value"].abs().groupby(errors["estimator"]).max()
    claim = Claim(
        "Linked pairs miss up to {linked:.0%} of a cell, the corrected count is off by at most "
        "{corrected:.1%}.",
        holds=worst["corrected count"] < worst["linked pairs"],
        otherwise="Here the correction does not help: it is off by up to {corrected:.1%}, linked "
        "pairs by {linked:.1%}; the files are too small for it.",
        linked=worst["linked pairs"],
        corrected=worst["corrected count"],
    )
    return errors, claim


def formulas(
    *, share_of_typos: float, blocked_per_match: int, linked_by_chance: float, recall_error: float
) -> tuple[pd.DataFrame, Claim]:
    """Relative errors of a cell's expected counts by formula: behind the explore panel.

    Of a match's `blocked_per_match` blocked pairs one is the match, and of the others the share
    `linked_by_chance` links too. The recall that is used differs by `recall_error` from the true
    one. The program's FPR is per pair of the two files: next to nothing where these are large.
    """
    recall, k = 1 - share_of_typos, linked_by_chance
    used = recall + recall_error
    require(used > k + 0.01, f"Expected a recall well above {k:g}, got {used:.2f}; fewer typos.")
    linked = recall + k * (blocked_per_match - 1)
    described = (linked - k * blocked_per_match) / (used - k)
    counts = {"linked pairs": linked, "as described": described, "as published": linked / used}
    errors = {name: round(count - 1, 9) + 0.0 for name, count in counts.items()}
    claim = Claim(
        "Linked pairs are off by {linked:+.1%}, the formula of paragraph 23 by {described:+.1%}, the "
        "published program's by {published:+.1%}.",
        linked=errors["linked pairs"],
        described=errors["as described"],
        published=errors["as published"],
    )
    shown = pd.DataFrame({"estimator": list(errors), "value": list(errors.values())})
    return shown.assign(metric="relative_error", replicate=0), claim


def cell_means(rows: pd.DataFrame) -> pd.DataFrame:
    """Means and standard deviations of the described counts over the files drawn, by cell."""
    chosen = rows[(rows["reading"] == "described") & (rows["exporter_size"] != "all")]
    chosen = chosen[~chosen["metric"].str.contains(".", regex=False)]
    means = summarise(chosen, ["files", *CELL, "metric"])
    sds = means.assign(mean=means["sd"], metric=means["metric"] + ", sd")
    both = pd.concat([means, sds]).assign(value=lambda t: t["mean"])
    return wide(both.drop(columns="se"), index=["files", *CELL])


def relative_errors(rows: pd.DataFrame) -> pd.DataFrame:
    """Relative errors of linked pairs and of the corrected count, by cell and replicate."""
    index, names = ["files", *CELL, "replicate"], ["linked_pairs", "corrected_count"]
    counts = rows[rows["reading"] == "described"].pivot_table("value", index, "metric")
    counts = counts[[*names, "true_count"]].dropna()
    errors = counts[names].div(counts["true_count"], axis=0) - 1
    tidy = errors.reset_index().melt(index, var_name="estimator")
    return tidy.assign(
        metric="relative_error",
        estimator=tidy["estimator"].str.replace("_", " "),
        cell=[f"{s} {c}" for s, c in zip(tidy[CELL[0]], tidy[CELL[1]], strict=True)],
    )


def headline(rows: pd.DataFrame) -> Claim:
    """How near the corrected counts are to the truth, on average, in the worst cell."""
    bias = _bias(rows).abs().groupby("estimator").max()
    return Claim(
        "Corrected counts are within {corrected:.1%} of the truth on average in every cell, linked "
        "pairs are off by up to {linked:.0%}.",
        holds=bias["corrected count"] < 0.02,
        otherwise="Corrected counts are off by {corrected:.1%} on average in one cell.",
        corrected=bias["corrected count"],
        linked=bias["linked pairs"],
    )


def _bias(rows: pd.DataFrame) -> pd.Series:
    return relative_errors(rows).groupby(["estimator", "files", "cell"])["value"].mean()


def takeaways(rows: pd.DataFrame) -> list[Claim]:
    """What the rows bear out."""
    counts, rates, bias = compared(rows), compared(rows, rates=True), _bias(rows).abs()
    linked, corrected = bias["linked pairs"], bias["corrected count"]
    sample = rates[rates["files"] != "full"].set_index("what")
    by_linker, actual = sample["protocol"], sample["actual"]
    return [
        _as_in_clear(counts, rates),
        Claim(
            "Exact comparison loses {low:.1%} to {high:.1%} of a cell to typos; the corrected "
            "count is off by at most {rest:.1%} on average, without a look at any pair.",
            holds=corrected.max() < linked.min(),
            low=linked.min(),
            high=linked.max(),
            rest=corrected.max(),
        ),
        Claim(
            "In samples the neighbours tell the coverage ({coverage:.3f}, actual {there:.3f}) apart "
            "from the recall ({recall:.3f}, actual {linked:.3f}).",
            holds=abs(by_linker / actual - 1).max() < 0.1,
            coverage=by_linker["coverage"],
            there=actual["coverage"],
            recall=by_linker["recall"],
            linked=actual["recall"],
        ),
    ]
