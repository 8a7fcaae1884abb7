"""Is a printed number a plausible outcome of ours? The rules behind the scorecard's verdicts.

What a print may be is an interval around ours: where the publication is one run, a prediction
interval of one run of ours; where it is a mean or an SD over repetitions, its own standard error.
Let ``gap`` be the distance that the print's rounding cannot explain. The first that applies:

    undefined      ours, or the print, is 0/0
    undecided      our replicates are too few to tell; the note says how many would do
    differs        gap above the margin, and the print outside the family-wise interval
    reproduced     gap surely within the margin, or the print inside the 95 % interval and that
                   interval narrow (half-width at most 3 margins)
    compatible     the print inside the family-wise interval, and that interval excludes at least a
                   quarter of the metric's range
    uninformative  hardly any print could be excluded: a statement about the publication

The family of a family-wise interval is all cells and readings of a printed table, so that a table
in which every number is right shows any "differs" in about 5 % of reproductions at most. The margin
is a floor of every interval, never added on top of luck: agreement within the margin is agreement.

Who runs more replicates until nothing is undecided looks several times. At the k-th look the family
counts k (k + 1) times (:func:`at_look`): the shares of ALPHA add up to ALPHA, so the error rate
holds however long one goes on.

From ENOUGH runs on, intervals of one run come from the quantiles of those that are defined
(:func:`empirical`), if these are DEFINED at least. With fewer they are Student's, and a verdict
stands only if it holds whatever the spread of runs is within its own 95 % interval; where ENOUGH
runs leave so few, the others being 0/0, a cell without such a verdict is undefined, and none of
them "differs": few runs cannot know of a rare outlier.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, hypot, inf, isfinite, isinf, isnan, nan, sqrt
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri, ndtri, stdtrit

from pet_lab.workbench.published import Cell

Verdict = Literal[
    "reproduced", "compatible", "differs", "uninformative", "undecided", "undefined", "not run"
]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

ALPHA = 0.05
ENOUGH = 400  # replicates from which quantiles of a single run are known well enough
DEFINED = 200  # of these, where the others are 0/0
NARROW = 3.0  # margins: the half-width up to which an interval is evidence of agreement
BEYOND = 1.25  # times a cell's farthest replicate: no family-wise interval reaches further
INFORMATIVE = 0.25  # share of the metric's range that an interval must exclude

# Values this close, relative to their size, are equal: sums in another order, decimals in binary.
TINY = 1e-9

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Ours:
    """What our rows say about one cell.

    mean        average over finite replicates
    se          its standard error; NaN where one replicate has none
    sd          spread from run to run; NaN where unknown
    replicates  number of finite replicates behind it
    df          degrees of freedom of `se`; inf where it is not estimated from replicates
    undefined   replicates left out because their value is NaN (0/0)
    diverged    replicates left out because their value is infinite beside finite ones
    values      the finite replicates themselves; None where only their summary is known
    """

    mean: float
    se: float = nan
    sd: float = nan
    replicates: int = 1
    df: float = inf
    undefined: int = 0
    diverged: int = 0
    values: Floats | None = None

    @property
    def runs(self) -> int:
        """Replicates, with those that were left out."""
        return self.replicates + self.undefined + self.diverged

    @property
    def enough(self) -> bool:
        """Whether the spread of one run is known from quantiles."""
        return self.values is not None and self.runs >= ENOUGH and self.replicates >= DEFINED


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Intervals in which a print lies if it is a draw of ours: one at 95 %, one family-wise."""

    one: tuple[float, float]
    family: tuple[float, float]


def critical(cells: int, df: float = inf) -> float:
    """Two-sided 5 % critical value, Bonferroni-corrected over `cells`; Student's t with `df`."""
    p = 1 - ALPHA / (2 * cells)
    return float(ndtri(p) if isinf(df) else stdtrit(df, p))


def at_look(cells: int, look: int) -> int:
    """Size of the family at the `look`-th look at a growing number of replicates; 0: the only one.

    1 / (1 * 2) + 1 / (2 * 3) + 1 / (3 * 4) + ... is 1.
    """
    return cells * look * (look + 1) if look else cells


def wanted(note: str) -> int:
    """Replicates that the note of an undecided cell says would do; 0 where it names none."""
    numbers = re.search(r"(\d+) (?:replicates )?would", note)
    return int(numbers[1]) if numbers else 0


# ------------------------------------------------------------------ intervals of one run


def _scaled(values: Floats, floor: float) -> tuple[float, float, float]:
    """Median, and the distances from it to the 2.5 % and 97.5 % quantiles, at least `floor`."""
    low, middle, high = np.quantile(values, [0.025, 0.5, 0.975])
    return float(middle), max(float(middle - low), floor), max(float(high - middle), floor)


def _distance(x: Any, scale: tuple[float, float, float]) -> Any:
    """How far from the median, in units of the 95 % interval's half on that side."""
    middle, below, above = scale
    return np.where(x < middle, (middle - x) / below, (x - middle) / above)


def empirical(samples: Sequence[Floats], floors: Sequence[float], *, cells: int) -> list[Spread]:
    """Prediction intervals of one run for each of `samples`, family-wise over `cells` of them.

    Every sample is measured from its median, in units of its own 95 % interval's half on that side,
    so skew is kept. The family's critical value c is common: the pooled distances of all samples
    exceed it in a share of ALPHA / cells, which a single sample could never show (400 replicates
    end at 1 in 400, a table of 50 needs 1 in 1,000); but no interval reaches further than BEYOND
    times the farthest replicate of its own sample. `floors` are the smallest scales allowed, for
    samples that hardly vary (the rounding of the print).

    The dependence of cells is not used: Bonferroni over the pooled tail holds under any.
    """
    if not samples:
        return []
    scales = [_scaled(v, max(f, TINY)) for v, f in zip(samples, floors, strict=True)]
    distances = [_distance(v, scale) for v, scale in zip(samples, scales, strict=True)]
    pooled = np.sort(np.concatenate(distances))
    # The largest rank that leaves at most that share beyond, the print being one more draw.
    rank = ceil((1 - ALPHA / cells) * (len(pooled) + 1))
    common = inf if rank > len(pooled) else float(pooled[rank - 1])
    spreads = []
    for (m, below, above), own in zip(scales, distances, strict=True):
        c = max(1.0, min(common, BEYOND * float(own.max())))
        spreads.append(Spread(one=(m - below, m + above), family=(m - c * below, m + c * above)))
    return spreads


def student(mean: float, sd: float, n: int, *, cells: int) -> Spread:
    """Prediction intervals of one run from a mean and SD of n replicates, as for normal runs."""
    wide = sd * sqrt(1 + 1 / n)
    t_one, t_family = critical(1, n - 1) * wide, critical(cells, n - 1) * wide
    return Spread(one=(mean - t_one, mean + t_one), family=(mean - t_family, mean + t_family))


# ------------------------------------------------------------------ the rule


def verdict(
    cell: Cell, ours: Ours, *, cells: int, spread: Spread | None = None
) -> tuple[Verdict, str]:
    """Verdict on one cell of a family of `cells`, and a sentence on how it came about.

    `spread` is the cell's :func:`empirical` one, where its replicates are ENOUGH. The sentence is
    empty where the verdict needs none. The rule is in the module's docstring.
    """
    if isnan(cell.value) or not ours.replicates:
        return "undefined", "0/0 in " + ("the print." if isnan(cell.value) else "every replicate.")
    if isinf(cell.value) or isinf(ours.mean):
        same = cell.value == ours.mean
        return ("reproduced" if same else "differs"), ("" if same else "one side is infinite.")
    gap = max(0.0, abs(ours.mean - cell.value) - cell.rounding)
    if gap <= TINY * max(1.0, abs(cell.value)):
        gap = 0.0
    margin, remark = cell.margin, ""
    if cell.kind == "exact":
        if not ours.se > 0:
            return ("reproduced" if gap <= margin else "differs"), ""
        margin = max(margin, cell.rounding)
        remark = "printed as exact, but ours is random, so compared as a mean. "
    if isnan(ours.se):
        return "undecided", f"one replicate has no error; {ENOUGH} would do."
    error = critical(cells, ours.df) * ours.se
    if gap + error <= margin:
        return "reproduced", remark.strip()
    word, note = _of_interval(cell, ours, gap, margin, error, cells=cells, spread=spread)
    return word, (remark + note).strip()


def _of_interval(
    cell: Cell,
    ours: Ours,
    gap: float,
    margin: float,
    error: float,
    *,
    cells: int,
    spread: Spread | None,
) -> tuple[Verdict, str]:
    """Of a cell that is not surely within its margin."""
    if cell.kind == "one_run":
        if isnan(ours.sd):
            return "undecided", "the print is one run and our rows do not tell the spread of runs."
        return _of_run(cell, ours, gap, margin, cells=cells, spread=spread)
    if cell.printed_se:
        luck = hypot(cell.printed_se, ours.se)
        one, family = critical(1, ours.df) * luck, critical(cells, ours.df) * luck
        spread = Spread(
            one=(ours.mean - one, ours.mean + one), family=(ours.mean - family, ours.mean + family)
        )
        return _place(cell, gap, margin, spread)
    if gap - error > margin:
        return "differs", ""
    return "undecided", f"{_wanted(ours, gap, margin, error)} replicates would do."


def _of_run(
    cell: Cell, ours: Ours, gap: float, margin: float, *, cells: int, spread: Spread | None
) -> tuple[Verdict, str]:
    if spread:
        return _place(cell, gap, margin, spread)
    n = max(2, ours.replicates)
    # Bounds of the SD: chdtri(df, p) is the value that chi squared exceeds with probability p. The
    # smaller one goes with infinitely many replicates, so that "uninformative" blames no print for
    # what more replicates of ours would tell.
    low, high = (sqrt((n - 1) / chdtri(n - 1, p)) for p in (ALPHA / 2, 1 - ALPHA / 2))
    likely = ((1.0, n), (low, 10**9), (high, n)) if n < ENOUGH else ((1.0, n),)
    answers = [
        _place(cell, gap, margin, student(ours.mean, ours.sd * factor, of, cells=cells))
        for factor, of in likely
    ]
    words = {word for word, _ in answers}
    few = ours.runs > ours.replicates and ours.runs >= ENOUGH
    if few and (len(words) > 1 or "differs" in words):
        return (
            "undefined",
            f"{ours.replicates} runs that are a number do not tell the spread of one.",
        )
    if len(words) > 1:
        return "undecided", f"{ENOUGH} replicates would tell the spread of runs."
    return answers[0]


def _place(cell: Cell, gap: float, margin: float, spread: Spread) -> tuple[Verdict, str]:
    """Where the print lies; the margin is the floor of both intervals."""
    low, high = cell.interval
    inside_one, inside = (
        high >= a - TINY * max(1.0, abs(a)) and low <= b + TINY * max(1.0, abs(b))
        for a, b in (spread.one, spread.family)
    )
    if gap > margin and not inside:
        return "differs", ""
    narrow = (spread.one[1] - spread.one[0]) / 2 <= NARROW * margin
    if narrow and (inside_one or gap <= margin):
        return "reproduced", ""
    excluded = _excluded(cell, spread.family)
    a, b = spread.family
    where = f"a single run may lie anywhere from {_bounded(cell, a):.3g} to {_bounded(cell, b):.3g}"
    if excluded >= INFORMATIVE:
        share = "" if isinf(cell.range[1]) else f", which excludes {excluded:.0%} of the range"
        return "compatible", f"{where}{share}."
    return "uninformative", f"{where}: hardly any print could be excluded."


def _bounded(cell: Cell, value: float) -> float:
    return min(max(value, cell.range[0]), cell.range[1])


def _excluded(cell: Cell, interval: tuple[float, float]) -> float:
    """Share of the metric's range outside the interval; 1 where the range has no end."""
    low, high = cell.range
    if not (isfinite(low) and isfinite(high)):
        return 1.0
    return 1 - max(0.0, _bounded(cell, interval[1]) - _bounded(cell, interval[0])) / (high - low)


def _wanted(ours: Ours, gap: float, margin: float, error: float) -> str:
    """Replicates that bring the error below the distance from the margin, in words."""
    distance = abs(gap - margin)
    if not distance or isinf(ours.df):
        return "more"
    n = max(2, ours.replicates) * (error / distance) ** 2
    return f"about {float(f'{ceil(n):.2g}'):.0f}" if n < 10**6 else "over a million"


# ------------------------------------------------------------------ a table as a whole


def joint(values: Floats, printed: Floats) -> float:
    """Probability that a run of ours lies as far out as the whole printed vector, in [0, 1].

    Each row of `values` (replicates, cells) is one run of the table, so their dependence is in the
    distribution; `printed` has one number a cell. The statistic is the sum over cells of squared
    distances from the median in units of the 95 % interval's half on that side; its rank among the
    replicates' is the answer. The print takes part in medians and scales as one more run, which
    makes print and replicates exchangeable, and the test exact, for any number of replicates. In
    the place of a NaN (0/0) stands the distance of another run, drawn with a fixed seed.
    """
    rng = np.random.default_rng(0)
    all_runs = np.vstack([values, printed])
    statistic = np.zeros(len(all_runs))
    for column in all_runs.T:
        known = ~np.isnan(column)
        spread = float(np.ptp(column[known]))
        if spread > TINY * max(1.0, float(np.abs(column[known]).max())):
            squared = _distance(column, _scaled(column[known], 1e-3 * spread)) ** 2
            statistic += np.where(
                known, squared, rng.choice(squared[:-1][known[:-1]], squared.size)
            )
    return float((statistic >= statistic[-1] * (1 - TINY)).mean())
