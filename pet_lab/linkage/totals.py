"""Totals over the matched pairs, corrected for linkage errors, with standard errors.

The target is T = sum of x[i] z[m(i)] over the matched pairs (i, m(i)): x, shape (n_a,), is known to
the first file (size of the firm, value), z, shape (n_b,), to the second (tariff preference). With
L, B and C the same sum over the linked pairs, the blocked pairs and the Cartesian product:

    naive              L
    para 22            (L - FPR C) / (recall - FPR)
    para 23            (L - k B) / (recall - k),  k = FPR / blocking FPR
    published program  (L - FPR B) / (recall - FPR): para 23 without the division
    weighted           para 23 with the recall and k *of the total*: estimated with weights x
    within block       sum over blocks of (sum of x)(sum of z) / size, plus the links' share of what
                       x and z have in common inside a block, (sum over links of the centred x z) /
                       (recall - k)
    resolved           the same, with the links resolved one to one and nothing to divide by
    blocks only        the between-block part alone

The last three are better where they apply (complete files, no error in the blocking key). A block
is then a permutation: who is in it is known, only who matches whom is not. So the part of T between
the blocks is known exactly. The centred products sum to zero over a block, so false links add
(expected) nothing but -k times the truth: an error in recall or k multiplies a small number.

Estimators raise ValueError where x or z has another shape or is not finite, and `Undefined` where
they divide by nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from pet_lab.checks import require
from pet_lab.linkage.blocking import Accuracy, Links, resolve
from pet_lab.linkage.neighbours import NeighbourFit, NotIdentified, SlopeFit, fit_slope

Result = TypeVar("Result")


class Undefined(ValueError):
    """The correction divides by (nearly) nothing: the estimate does not exist for these links."""


@dataclass(frozen=True, kw_only=True)
class Total:
    """An estimated total, in the units of x times z.

    se  standard error over the linkage errors, given the records; NaN where none is known
    """

    estimate: float
    se: float = float("nan")

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Normal interval of the total."""
        half = float(stats.norm.isf((1 - level) / 2)) * self.se
        return self.estimate - half, self.estimate + half


def naive(links: Links, x: ArrayLike, z: ArrayLike) -> Total:
    """Total over the linked pairs: what a linker that knows of no error reports."""
    return Total(estimate=links.total(*_analytic(links, x, z)))


def para22(links: Links, x: ArrayLike, z: ArrayLike, *, recall: float, fpr: float) -> Total:
    """Correction with the total over the Cartesian product (report, paragraph 22)."""
    x, z = _analytic(links, x, z)
    gap = _gap(recall, fpr)
    return Total(estimate=(links.total(x, z) - fpr * float(x.sum() * z.sum())) / gap)


def para23(
    links: Links,
    x: ArrayLike,
    z: ArrayLike,
    *,
    recall: float,
    ratio: float,
    recall_se: float = 0.0,
    ratio_se: float = 0.0,
) -> Total:
    """Correction with the total over the blocked pairs (report, paragraph 23).

    `ratio` is FPR / blocking FPR, the share of blocked non-matches that link. Undefined if recall -
    ratio is not at least two standard errors above zero: when nearly all blocked pairs link, links
    carry no information beyond blocking.
    """
    x, z = _analytic(links, x, z)
    gap = _gap(recall, ratio, float(np.hypot(recall_se, ratio_se)))
    linked, blocked = links.total(x, z), links.blocks.total(x, z)
    estimate = (linked - ratio * blocked) / gap
    noise = _link_noise(links.total(x**2, z**2), links.blocks.total(x**2, z**2), recall, ratio)
    of_rates = (estimate * recall_se) ** 2 + ((estimate - blocked) * ratio_se) ** 2
    return Total(estimate=estimate, se=float(np.sqrt(noise + of_rates) / gap))


def published(links: Links, x: ArrayLike, z: ArrayLike, *, recall: float, fpr: float) -> Total:
    """What the authors' program computes: para 23 with FPR where FPR / blocking FPR belongs."""
    return Total(estimate=para23(links, x, z, recall=recall, ratio=fpr).estimate)


def weighted(links: Links, x: ArrayLike, z: ArrayLike) -> Total:
    """Para 23 with recall and ratio estimated for this very total, by records weighted with x >= 0.

    Paragraph 22 asks that linking does not depend on the analytical variables. With typos in the
    value and a total of the value, it does. The x-weighted line has the x-weighted recall as its
    intercept, which is what the total needs, so dependence on x does no harm (dependence on z still
    would). Raises as `fit_slope` too.
    """
    x, z = _analytic(links, x, z)
    require(
        x.any(),
        "x is zero for every record; as weights of records it must be not all zero.",
        Undefined,
    )
    blocks = links.blocks
    fit = fit_slope(links.n_blocked, links.n_linked, blocks.code_a, weights=x)
    gap = _gap(fit.recall, fit.ratio, fit.gap_se)
    linked, blocked = links.total(x, z), blocks.total(x, z)
    estimate = (linked - fit.ratio * blocked) / gap
    # Recall and ratio are linear in the same links as the numerator, and largely cancel its noise:
    # the error of the estimate is a sum over pairs of (x z + a_i) times (link - expected).
    a = -estimate * fit.coef[0] + (estimate - blocked) * fit.coef[1]
    on_links, on_blocked = (
        pairs.total(x**2, z**2) + 2 * pairs.total(x * a, z) + pairs.total(a**2, np.ones_like(z))
        for pairs in (links, blocks)
    )
    noise = _link_noise(on_links, on_blocked, fit.recall, fit.ratio)
    return Total(estimate=estimate, se=float(np.sqrt(noise) / gap))


def within_block(links: Links, x: ArrayLike, z: ArrayLike, *, fit: SlopeFit | None = None) -> Total:
    """Between-block part exactly, within-block part from the links (see the module).

    `fit` holds recall and ratio, estimated from the neighbours if not given. ValueError if a block
    has not the same number of records in both files: then they do not hold the same units, or the
    blocking key has errors. The standard error takes links of different pairs as independent, given
    the truth.
    """
    x, z = _analytic(links, x, z)
    centred_x, centred_z, between, spread, size = _centred(links, x, z)
    if not spread.any():  # blocks of one, or x or z constant in each block: nothing to estimate
        return Total(estimate=between, se=0.0)
    fit = fit or fit_slope(links.n_blocked, links.n_linked, links.blocks.code_a)
    gap = _gap(fit.recall, fit.ratio, fit.gap_se)
    within = links.total(centred_x, centred_z) / gap
    # Squared weights over the matches: their mean over the ways to match a block, spread / size.
    r, k = _unit(fit.recall), _unit(fit.ratio)
    on_matches, on_blocked = float((spread / size).sum()), float(spread.sum())
    noise = r * (1 - r) * on_matches + k * (1 - k) * (on_blocked - on_matches)
    variance = (noise + (within * fit.gap_se) ** 2) / gap**2
    return Total(estimate=between + within, se=float(np.sqrt(variance)))


def resolved(links: Links, x: ArrayLike, z: ArrayLike) -> Total:
    """Between-block part exactly, within-block part from one-to-one links: nothing to divide by.

        sum over blocks of (sum of x)(sum of z) / size
          + (n / links) * sum over one-to-one links of the centred x z

    One-to-one resolution throws away most false links because the true partner competes with them,
    and centring leaves the remaining errors only the small within-block part to spoil. It needs
    neither recall nor FPR, and false links that favour similar records (which bias every other
    estimator here once z depends on what is compared) are mostly gone.

    The standard error is an upper bound: it takes every doubtful link as wrong. Doubtful is a link
    that had a competitor, unless it alone has similarity 1. It does not cover bias. ValueError as
    `within_block`, or if the links are resolved already; Undefined if there is none.
    """
    x, z = _analytic(links, x, z)
    require(
        not links.one_to_one,
        "resolved() resolves the links itself; pass those of link() or link_exact().",
    )
    centred_x, centred_z, between, spread, size = _centred(links, x, z)
    if not spread.any():
        return Total(estimate=between, se=0.0)
    require(
        len(links),
        "Nothing is linked, so nothing is known inside the blocks; link less strictly.",
        Undefined,
    )
    kept = resolve(links)
    within = kept.total(centred_x, centred_z) * links.n_a / len(kept)
    alone_exact = links.keep(links.similarity >= 1.0).sole(kept.i, kept.j) & (kept.similarity >= 1)
    doubtful = float(np.sum(~links.sole(kept.i, kept.j) & ~alone_exact)) / links.n_a
    unlinked = 1 - len(kept) / links.n_a
    variance = float((spread / np.maximum(size - 1, 1)).sum()) * (unlinked + 2 * doubtful)
    return Total(estimate=between + within, se=float(np.sqrt(variance)))


def blocks_only(links: Links, x: ArrayLike, z: ArrayLike) -> Total:
    """The between-block part alone: each record shares its block's mean. Uses no link at all.

    Right if x and z are unrelated inside blocks, or one of them is constant there (the size of the
    exporter is, when the exporter is in the blocking key: counts by size and tariff need no
    linkage). The standard error is that of a random matching inside each block.
    """
    x, z = _analytic(links, x, z)
    blocks = links.blocks
    size_a, size_b = np.maximum(blocks.size_a, 1), np.maximum(blocks.size_b, 1)
    sums_x, mean_z = blocks.sums_a(x), blocks.sums_b(z) / size_b
    spread_x = np.maximum(blocks.sums_a(x**2) - sums_x**2 / size_a, 0)
    spread_z = np.maximum(blocks.sums_b(z**2) - mean_z**2 * size_b, 0)
    variance = spread_x * spread_z / np.maximum(np.minimum(size_b, size_a) - 1, 1)
    return Total(estimate=float(sums_x @ mean_z), se=float(np.sqrt(variance.sum())))


def every(
    links: Links,
    x: ArrayLike,
    z: ArrayLike,
    *,
    actual: Accuracy,
    mixture: NeighbourFit | None,
    slope: SlopeFit | None,
) -> dict[str, Total | None]:
    """Each estimator of this module by its name; None where it is undefined.

    `actual` holds the true rates, which only the published program uses; `mixture` and `slope` are
    the estimated ones, None where they are not identified.
    """
    recall, fpr, ratio = np.nan, np.nan, np.nan  # refused as undefined
    if mixture is not None:
        others = float(np.mean(links.n_blocked) - 1)
        recall, fpr = mixture.recall, mixture.fpr
        ratio = mixture.false_links / others if others > 0 else 0.0
    calls: dict[str, Callable[[], Total]] = {
        "naive": lambda: naive(links, x, z),
        "published": lambda: published(links, x, z, recall=actual.recall, fpr=actual.fpr),
        "para22": lambda: para22(links, x, z, recall=recall, fpr=fpr),
        "para23": lambda: para23(links, x, z, recall=recall, ratio=ratio),
        "weighted": lambda: weighted(links, x, z),
        "within_block": lambda: within_block(links, x, z, fit=slope),
        "resolved": lambda: resolved(links, x, z),
        "blocks_only": lambda: blocks_only(links, x, z),
    }
    return {name: or_none(call) for name, call in calls.items()}


def or_none(estimate: Callable[[], Result]) -> Result | None:
    """The estimate, or None where it is undefined or not identified."""
    try:
        return estimate()
    except (Undefined, NotIdentified):
        return None


def _centred(
    links: Links, x: np.ndarray, z: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float, np.ndarray, np.ndarray]:
    """x and z less their block means, between-block total, product of spreads and size by block."""
    blocks = links.blocks
    differ = int((blocks.size_a != blocks.size_b).sum())
    require(
        not differ and (blocks.code_a >= 0).all(),
        f"{differ:,} blocks have different numbers of records in the two files, so the files do "
        "not hold the same units or the blocking key has errors; use para23 with fit_overlap.",
    )
    size = np.maximum(blocks.size_a, 1)
    mean_x, mean_z = blocks.sums_a(x) / size, blocks.sums_b(z) / size
    centred_x, centred_z = x - mean_x[blocks.code_a], z - mean_z[blocks.code_b]
    spread = blocks.sums_a(centred_x**2) * blocks.sums_b(centred_z**2)
    # What rounding leaves of a constant is not a spread.
    spread[spread <= 1e-18 * np.maximum(blocks.sums_a(x**2) * blocks.sums_b(z**2), 1e-300)] = 0.0
    return centred_x, centred_z, float((size * mean_x * mean_z).sum()), spread, size


def _unit(rate: float) -> float:
    return min(max(rate, 0.0), 1.0)


def _link_noise(on_links: float, on_blocked: float, recall: float, ratio: float) -> float:
    """Variance of a weighted sum over the links, the squared weights summed over links and blocked.

    A match links with variance r (1 - r), a blocked non-match with k (1 - k). The squared weights
    over the matches are themselves estimated like a total: (links - k blocked) / (r - k).
    """
    r, k = _unit(recall), _unit(ratio)
    on_matches = min(max((on_links - k * on_blocked) / (r - k), 0.0), max(on_blocked, 0.0))
    return r * (1 - r) * on_matches + k * (1 - k) * max(on_blocked - on_matches, 0.0)


def _gap(recall: float, other: float, se: float = 0.0) -> float:
    """The denominator of a correction, clearly above zero."""
    require(
        np.isfinite([recall, other]).all() and recall - other > max(2 * se, 1e-9),
        f"The correction divides by recall - ratio = {recall:.3f} - {other:.3f} (standard error "
        f"{se:.3f}), which is not clearly above zero: these links say no more than the blocks. "
        "Link more strictly, or link more records.",
        Undefined,
    )
    return recall - other


def _analytic(links: Links, x: ArrayLike, z: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, z = np.asarray(x, dtype=float), np.asarray(z, dtype=float)
    require(
        x.shape == (links.n_a,) and z.shape == (links.n_b,),
        f"x is one value a record of the first file ({links.n_a}), z of the second ({links.n_b}); "
        f"got shapes {x.shape} and {z.shape}.",
    )
    finite = np.isfinite(x).all() and np.isfinite(z).all()
    require(finite, "x and z must be finite numbers; drop or fill missing values first.")
    return x, z
