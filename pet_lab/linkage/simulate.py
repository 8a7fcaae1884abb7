"""The two Monte Carlo studies: the published one in chunks of 100, and the same at scale.

Each replicate gives one row of a wide table; `moments` turns replicates into tidy rows of means and
standard deviations, each with its standard error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.random import Generator, SeedSequence

from pet_lab.linkage import totals
from pet_lab.linkage.blocking import Accuracy, Links, block, link, link_exact
from pet_lab.linkage.bloom import Encoding, LongTermKey, PprlCompat, RecordFilter, encode
from pet_lab.linkage.neighbours import (
    NeighbourFit,
    NotIdentified,
    SlopeFit,
    fit_many,
    fit_neighbours,
    fit_slope,
)
from pet_lab.linkage.trade import TradeDeclarations, Typos, trade_declarations

BLOCK_ON = ("exporter_id", "hs6")
COMPARE_ON = ("date", "value")
VALUE_THRESHOLD = 500_000
TOTALS = ("transactions_ge_500k_small_preferential", "value_millions_small_preferential")
Made = TypeVar("Made")


@dataclass(frozen=True, kw_only=True)
class Design:
    """What one Monte Carlo study of chunks does.

    comparison   "exact" or "bloom"
    dice         threshold of the Bloom comparison; ignored by the exact one
    chunk_size   records a chunk
    stratified   25 of every 100 records preferential, exactly, as in the authors' program;
                 otherwise plain random chunks, as the text reads
    typos, encoding  as in `trade_declarations` and `bloom`
    """

    comparison: str
    dice: float = float("nan")
    chunk_size: int = 100
    stratified: bool = True
    typos: Typos = field(default_factory=Typos)
    encoding: Encoding = field(default_factory=PprlCompat)

    def __post_init__(self) -> None:
        if self.comparison not in ("exact", "bloom"):
            raise ValueError(f'comparison is "exact" or "bloom", got {self.comparison!r}.')
        if self.chunk_size < 2:
            raise ValueError(f"A chunk needs at least 2 records, got {self.chunk_size}.")


def chunk_study(
    designs: Sequence[Design], *, replicates: int, seed: SeedSequence, chunks_per_file: int = 100
) -> pd.DataFrame:
    """Replicates of the published experiment: link a chunk, estimate its rates, correct its totals.

    Chunks are cut from files of `chunks_per_file` chunks, as the publication cuts 100 from 10,000
    records; all chunks of a file are linked at once (the chunk is one more blocking column).

    Parameters
    ----------
    designs : all applied to the same files where they share size, stratification and typos
    replicates : int
        Chunks for each design.
    seed : numpy SeedSequence
        One stream a file, so that file 7 is the same alone or in a batch.

    Returns
    -------
    DataFrame, one row a design and replicate: comparison, dice, stratified, replicate,
    recall_actual, recall_estimate, fpr_actual, fpr_estimate, and for each of
    `transactions_ge_500k_small_preferential` and `value_millions_small_preferential`:
    _actual, _naive, _adjusted_published, _adjusted_described (NaN where it is undefined).
    """
    files = -(-replicates // chunks_per_file)
    parts = []
    for number, stream in enumerate(seed.spawn(files)):
        made: dict[tuple[int, bool, Typos], _Chunks] = {}
        for design in designs:
            key = (design.chunk_size, design.stratified, design.typos)
            if key not in made:  # every design of a kind sees the same records
                rng = np.random.default_rng(
                    SeedSequence(stream.entropy, spawn_key=stream.spawn_key)
                )
                made[key] = _cut(design, chunks_per_file, rng)
            part = _link_chunks(made[key], design)
            part.insert(3, "replicate", number * chunks_per_file + np.arange(len(part)))
            parts.append(part)
    frame = pd.concat(parts, ignore_index=True)
    return frame[frame["replicate"] < replicates].reset_index(drop=True)


@dataclass(frozen=True, kw_only=True)
class _Chunks:
    trade: TradeDeclarations
    n_chunks: int
    chunk_a: np.ndarray
    truth: np.ndarray
    linked: dict


def _cut(design: Design, n_chunks: int, rng: Generator) -> _Chunks:
    n = design.chunk_size * n_chunks
    share = 0.25 if design.stratified else None
    trade = trade_declarations(n, rng=rng, typos=design.typos, preferential_share=share)
    chunk = np.arange(n) // design.chunk_size
    imports = trade.imports
    if design.stratified:
        # 25 preferential and 75 other declarations a chunk, in file order, as in the R program.
        chunk = np.empty(n, dtype=np.int64)
        for code in (100, 300):
            rows = np.flatnonzero(imports["preferential_code"].to_numpy() == code)
            chunk[rows] = np.arange(rows.size) * n_chunks // rows.size
    imports = imports.assign(chunk=chunk)
    exports = trade.exports.assign(chunk=chunk[trade.exports["declaration"].to_numpy()])
    trade = TradeDeclarations(imports=imports, exports=exports)
    return _Chunks(
        trade=trade,
        n_chunks=n_chunks,
        chunk_a=exports["chunk"].to_numpy(),
        truth=trade.truth(),
        linked={},
    )


def _link_chunks(chunks: _Chunks, design: Design) -> pd.DataFrame:
    exports, imports = chunks.trade.exports, chunks.trade.imports
    keys = ["chunk", *BLOCK_ON]
    if design.comparison == "exact":
        links = link_exact(exports, imports, block_on=keys, on=COMPARE_ON)
    else:
        # Filters are shared by the thresholds of one encoding.
        cache = chunks.linked
        if id(design.encoding) not in cache:
            cache[id(design.encoding)] = (
                encode(exports, design.encoding),
                encode(imports, design.encoding),
                block(exports, imports, keys),
            )
        a, b, blocks = cache[id(design.encoding)]
        links = link(a, b, blocks, threshold=design.dice)
    n, m = design.chunk_size, chunks.n_chunks
    link_chunk = chunks.chunk_a[links.i]
    true = chunks.truth[links.i] == links.j
    tp = np.bincount(link_chunk[true], minlength=m)
    fp = np.bincount(link_chunk[~true], minlength=m)
    recall, fpr = tp / n, fp / (n * (n - 1))

    width = int(links.n_linked.max(initial=0)) + 1
    freq = np.zeros((m, max(width, 2)))
    np.add.at(freq, (chunks.chunk_a, links.n_linked), 1)
    estimate = fit_many(freq)
    blocked_others = np.bincount(chunks.chunk_a, weights=links.n_blocked, minlength=m) / n - 1

    out = {
        "comparison": design.comparison,
        "dice": design.dice if design.comparison == "bloom" else np.nan,
        "stratified": design.stratified,
        "recall_actual": recall,
        "recall_estimate": estimate[:, 0],
        "fpr_actual": fpr,
        "fpr_estimate": estimate[:, 1] / (n - 1),
    }
    small = (exports["exporter_size"] == "small").to_numpy()
    value = exports["value"].to_numpy(dtype=float)
    preferential = (imports["preferential_code"] == 300).to_numpy(dtype=float)
    analytic = {
        "transactions_ge_500k_small_preferential": small & (value >= VALUE_THRESHOLD),
        "value_millions_small_preferential": small * value / 1e6,
    }
    block_chunk = np.zeros(links.blocks.n_blocks, dtype=np.int64)
    block_chunk[links.blocks.code_a] = chunks.chunk_a
    for name, raw in analytic.items():
        x = raw.astype(float)
        actual = np.bincount(chunks.chunk_a, weights=x * preferential[chunks.truth], minlength=m)
        naive = np.bincount(link_chunk, weights=x[links.i] * preferential[links.j], minlength=m)
        by_block = links.blocks.sums_a(x) * links.blocks.sums_b(preferential)
        blocked = np.bincount(block_chunk, weights=by_block, minlength=m)
        with np.errstate(divide="ignore", invalid="ignore"):
            as_published = (naive - fpr * blocked) / (recall - fpr)
            # Nobody has a blocked non-match: no false link is possible, the ratio is 0.
            ratio = np.where(blocked_others > 0, estimate[:, 1] / blocked_others, 0.0)
            gap = estimate[:, 0] - ratio
            as_described = np.where(gap > 0.1, (naive - ratio * blocked) / gap, np.nan)
        out |= {
            f"{name}_actual": actual,
            f"{name}_naive": naive,
            f"{name}_adjusted_published": as_published,
            f"{name}_adjusted_described": as_described,
            f"{name}_blocked": blocked,
        }
    return pd.DataFrame(out)


def scale_study(
    n: int,
    *,
    replicates: int,
    seed: SeedSequence,
    dice: float = 0.8,
    typos: Typos | None = None,
    encoding: Encoding | None = None,
    concentration: float = 0.0,
    value_effect: float = 0.0,
) -> pd.DataFrame:
    """Every estimator at one size: relative errors of totals and errors of recall, by replicate.

    Parameters
    ----------
    n : records in each file
    replicates, seed : as in `chunk_study`, one stream a replicate
    dice : threshold of the Bloom comparison
    typos, encoding, concentration, value_effect : as in `trade_declarations` and `bloom`

    Returns
    -------
    DataFrame, long: records, replicate, target, estimator, error, se, undefined. `target` is
    "recall" (error in recall) or one of the two totals (relative error); `se` is the estimator's
    own standard error on the same scale, NaN where it has none; undefined estimates have NaN and
    undefined = True.
    """
    encoding = encoding or PprlCompat()
    rows: list[dict[str, object]] = []
    for replicate, stream in enumerate(seed.spawn(replicates)):
        trade = trade_declarations(
            n,
            rng=np.random.default_rng(stream),
            typos=typos,
            concentration=concentration,
            value_effect=value_effect,
        )
        exports, imports = trade.exports, trade.imports
        truth = trade.truth()
        links = link(
            encode(exports, encoding),
            encode(imports, encoding),
            block(exports, imports, BLOCK_ON),
            threshold=dice,
        )
        actual = links.accuracy(truth)
        slope = _or_none(partial(_slope, links))
        mixture = _or_none(partial(fit_neighbours, links.n_linked, n_other=links.n_b))
        for name, fit in (("mixture", mixture), ("slope", slope)):
            rows.append(
                {
                    "replicate": replicate,
                    "target": "recall",
                    "estimator": name,
                    "error": fit.recall - actual.recall if fit else np.nan,
                    "se": fit.recall_se if fit else np.nan,
                }
            )
        small = (exports["exporter_size"] == "small").to_numpy()
        value = exports["value"].to_numpy(dtype=float)
        preferential = (imports["preferential_code"] == 300).to_numpy(dtype=float)
        for target, x in (
            ("transactions_ge_500k_small_preferential", small * (value >= VALUE_THRESHOLD)),
            ("value_millions_small_preferential", small * value / 1e6),
        ):
            total = float(x @ preferential[truth])
            if total == 0:
                continue
            for name, made in _totals(
                links, x, preferential, actual=actual, mixture=mixture, slope=slope
            ).items():
                rows.append(
                    {
                        "replicate": replicate,
                        "target": target,
                        "estimator": name,
                        "error": made.estimate / total - 1 if made else np.nan,
                        "se": made.se / total if made else np.nan,
                    }
                )
    frame = pd.DataFrame(rows)
    frame.insert(0, "records", n)
    frame["undefined"] = frame["error"].isna()
    return frame


def _slope(links: Links) -> SlopeFit:
    return fit_slope(links.n_blocked, links.n_linked, links.blocks.code_a, n_other=links.n_b)


def _totals(
    links: Links,
    x: np.ndarray,
    z: np.ndarray,
    *,
    actual: Accuracy,
    mixture: NeighbourFit | None,
    slope: SlopeFit | None,
) -> dict[str, totals.Total | None]:
    others = float(np.mean(links.n_blocked) - 1)
    makers: dict[str, Callable[[], totals.Total] | None] = {
        "naive": lambda: totals.naive(links, x, z),
        "published": lambda: totals.published(
            links,
            x,
            z,
            recall=actual.recall,
            fpr=actual.fpr,
        ),
        "para22": None,
        "para23": None,
        "weighted": lambda: totals.weighted(links, x, z),
        "within_block": None,
        "resolved": lambda: totals.resolved(links, x, z),
        "blocks_only": lambda: totals.blocks_only(links, x, z),
    }
    if mixture is not None:
        makers["para22"] = lambda: totals.para22(
            links, x, z, recall=mixture.recall, fpr=mixture.fpr
        )
        ratio = mixture.false_links / others if others > 0 else 0.0
        makers["para23"] = lambda: totals.para23(links, x, z, recall=mixture.recall, ratio=ratio)
    if slope is not None:
        makers["within_block"] = lambda: totals.within_block(links, x, z, fit=slope)
    return {name: _or_none(make) if make else None for name, make in makers.items()}


def _or_none(make: Callable[[], Made]) -> Made | None:
    """The result, or None where the estimator honestly refuses."""
    try:
        return make()
    except (totals.Undefined, NotIdentified):
        return None


def moments(frame: pd.DataFrame, columns: Sequence[str], by: Sequence[str]) -> pd.DataFrame:
    """Tidy rows of means and standard deviations over replicates, each with its standard error.

    Parameters
    ----------
    frame : wide, one row a replicate
    columns : measured quantities
    by : factors

    Returns
    -------
    DataFrame: the factors, quantity, statistic ("mean" or "standard_error"), value, se,
    replicates_n. The standard error of a standard deviation is by the delta method with the fourth
    moment, sd / 2 * sqrt((kurtosis - 1 + 2 / (n - 1)) / n), which is sd / sqrt(2 (n - 1)) for a
    normal. The publication calls the standard deviation over its 100 repetitions "standard error".
    """
    rows = []
    for key, part in frame.groupby(list(by), sort=False, dropna=False):
        factors = dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))
        for column in columns:
            values = part[column].dropna().to_numpy(dtype=float)
            n = values.size
            if n < 2:
                continue
            mean, sd = float(values.mean()), float(values.std(ddof=1))
            # A quantity that never varies is known to no more than "less than one unit in n".
            kurtosis = float(((values - mean) ** 4).mean() / max(values.var() ** 2, 1e-300))
            sd_se = sd / 2 * np.sqrt(max(kurtosis - 1, 0) / n + 2 / (n * (n - 1)))
            common = {**factors, "quantity": column, "replicates_n": n}
            rows.append({**common, "statistic": "mean", "value": mean, "se": sd / np.sqrt(n)})
            rows.append({**common, "statistic": "standard_error", "value": sd, "se": sd_se})
    return pd.DataFrame(rows)


_DEMO_KEY = b"a demonstration key, not a secret"

ENCODINGS: dict[str, Callable[[], Encoding]] = {
    "pprl-compat": PprlCompat,
    "textbook record-level filter": lambda: RecordFilter(key=_DEMO_KEY),
    "one filter for all fields (CLK)": lambda: LongTermKey(key=_DEMO_KEY),
}
"""Encodings by the name a panel or a table shows, with a demonstration key."""


def published_rows(study: pd.DataFrame) -> pd.DataFrame:
    """Rows for tables 2.4-2.9 from a chunk study with stratified and plain designs.

    "published" takes the stratified chunks and what the authors' program stores: actual rates under
    "estimate", and totals corrected with actual rates and without the division by the blocking FPR.
    "described" takes plain random chunks, the model's estimates and paragraph 23. Repetitions where
    paragraph 23 is undefined are left out of its moments; their share is a row of its own.

    Returns
    -------
    DataFrame: comparison, dice, estimator, reading, replicate (0), metric ("recall.mean", ..),
    value, se, replicates_n.
    """
    rows = []
    for reading, stratified in (("published", True), ("described", False)):
        part = study[study["stratified"] == stratified]
        estimated = "actual" if reading == "published" else "estimate"
        wide = part.assign(
            **{f"{rate}_as_estimate": part[f"{rate}_{estimated}"] for rate in ("recall", "fpr")}
        )
        columns = {
            "recall_actual": ("recall", "actual"),
            "recall_as_estimate": ("recall", "estimate"),
            "fpr_actual": ("fpr", "actual"),
            "fpr_as_estimate": ("fpr", "estimate"),
        }
        for total in TOTALS:
            columns |= {
                f"{total}_actual": (total, "actual"),
                f"{total}_naive": (total, "naive"),
                f"{total}_adjusted_{reading}": (total, "adjusted"),
            }
        made = moments(wide, list(columns), ["comparison", "dice"])
        named = made["quantity"].map(columns)
        made["metric"] = named.str[0] + "." + made["statistic"]
        made["estimator"] = named.str[1]
        rows.append(made.assign(reading=reading).drop(columns=["quantity", "statistic"]))
        lost = wide.groupby(["comparison", "dice"], dropna=False, sort=False)[
            f"{TOTALS[0]}_adjusted_{reading}"
        ].agg(value=lambda v: v.isna().mean(), replicates_n="size")
        undefined = lost.reset_index().assign(
            metric="adjusted_undefined.share", estimator="adjusted", reading=reading
        )
        share = undefined["value"]
        undefined["se"] = np.sqrt(share * (1 - share) / undefined["replicates_n"])
        rows.append(undefined)
    frame = pd.concat(rows, ignore_index=True)
    frame.insert(0, "replicate", 0)
    return frame


def summarise_errors(scale: pd.DataFrame) -> pd.DataFrame:
    """Bias, RMSE and coverage of each estimator at each size, with Monte Carlo standard errors.

    Returns
    -------
    DataFrame: target, estimator, records, bias, bias_se, rmse, rmse_se, covered (share of 95 %
    intervals that hold the truth; NaN without intervals), undefined (share), replicates.
    """
    rows = []
    keys = ["target", "estimator", "records"]
    for key, part in scale.groupby(keys, sort=False):
        error = part["error"].dropna().to_numpy()
        inside = np.abs(part["error"]) <= 1.96 * part["se"] + 1e-12
        known = part["se"].notna() & part["error"].notna()
        n = error.size
        rmse = float(np.sqrt(np.mean(error**2))) if n else np.nan
        rows.append(
            {
                **dict(zip(keys, key, strict=True)),
                "bias": error.mean() if n else np.nan,
                "bias_se": error.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan,
                "rmse": rmse,
                "rmse_se": (error**2).std(ddof=1) / (2 * rmse * np.sqrt(n))
                if n > 1 and rmse > 0
                else np.nan,
                "covered": inside[known].mean() if known.any() else np.nan,
                "undefined": part["undefined"].mean(),
                "replicates": len(part),
            }
        )
    return pd.DataFrame(rows)


def threshold_curve(
    trade: TradeDeclarations, encoding: Encoding, thresholds: Sequence[float]
) -> pd.DataFrame:
    """Recall and false links of blocked Bloom linkage at each threshold, from one comparison.

    Returns
    -------
    DataFrame: threshold, recall, false_links_per_record, share_of_blocked (false links per blocked
    non-match), precision; thresholds rising.
    """
    levels = np.sort(np.asarray(thresholds, dtype=float))
    blocks = block(trade.exports, trade.imports, BLOCK_ON)
    links = link(
        encode(trade.exports, encoding),
        encode(trade.imports, encoding),
        blocks,
        threshold=float(levels[0]),
    )
    true = trade.truth()[links.i] == links.j
    matches = int((trade.truth() >= 0).sum())
    rows = []
    for level in levels:
        hit = links.similarity >= level
        right, wrong = int((hit & true).sum()), int((hit & ~true).sum())
        rows.append(
            {
                "threshold": level,
                "recall": right / matches,
                "false_links_per_record": wrong / links.n_a,
                "share_of_blocked": wrong / max(blocks.n_pairs - matches, 1),
                "precision": right / (right + wrong) if right + wrong else np.nan,
            }
        )
    return pd.DataFrame(rows)


def glance(
    error_rate: float = 0.2,
    threshold: float = 0.8,
    chunk_size: int = 1000,
    encoding: str = "pprl-compat",
    seed: int = 1,
) -> pd.DataFrame:
    """One linkage and what each estimator makes of it: the function behind the explore panel.

    Returns
    -------
    DataFrame, one row a quantity: quantity, estimator, value, actual.
    """
    if encoding not in ENCODINGS:
        raise ValueError(f"encoding is one of {list(ENCODINGS)}, got {encoding!r}.")
    rng = np.random.default_rng(seed)
    trade = trade_declarations(chunk_size, rng=rng, typos=Typos(error_rate=error_rate))
    made = _KEPT.setdefault(encoding, ENCODINGS[encoding]())
    exports, imports = trade.exports, trade.imports
    links = link(
        encode(exports, made),
        encode(imports, made),
        block(exports, imports, BLOCK_ON),
        threshold=threshold,
    )
    actual = links.accuracy(trade.truth())
    mixture = _or_none(partial(fit_neighbours, links.n_linked, n_other=links.n_b, max_classes=2))
    slope = _or_none(partial(_slope, links))
    rows: list[dict[str, object]] = [
        {"quantity": "recall", "estimator": name, "value": fit.recall, "actual": actual.recall}
        for name, fit in (("mixture", mixture), ("slope", slope))
        if fit is not None
    ]
    x = (exports["exporter_size"] == "small").to_numpy() * exports["value"].to_numpy() / 1e6
    z = (imports["preferential_code"] == 300).to_numpy(dtype=float)
    truth = float(x @ z[trade.truth()])
    for name, total in _totals(links, x, z, actual=actual, mixture=mixture, slope=slope).items():
        rows.append(
            {
                "quantity": "value, small, preferential (M)",
                "estimator": name,
                "value": total.estimate if total else np.nan,
                "actual": truth,
            }
        )
    return pd.DataFrame(rows)


_KEPT: dict[str, Encoding] = {}
