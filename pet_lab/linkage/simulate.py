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
from pet_lab.linkage.bloom import Encoding, PprlCompat, encode
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
