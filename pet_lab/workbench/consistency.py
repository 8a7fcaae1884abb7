"""Do printed numbers contradict each other? Computed from rounding intervals, never asserted.

A printed number stands for every number that prints as it does. A contradiction: no choice within
these intervals makes the printed numbers true together. Each rule tests a *necessary*
condition: numbers from real data are never flagged, and unflagged ones may still be wrong.

Which rules apply to a table, and the facts they need (a sample size, a total), is declared in the
table's TOML under ``checks``; the verdict is always computed here.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from inspect import signature
from itertools import combinations
from math import ceil, floor, isinf

import numpy as np

from pet_lab.checks import between
from pet_lab.workbench.published import Cell, PrintedTable, PublishedError, Value

Interval = tuple[float, float]
Tables = Mapping[str, PrintedTable]
Objections = Iterator[tuple[Cell, str]]

# Decimal digits in binary arithmetic; far below any printed digit.
_TINY = 1e-9


@dataclass(frozen=True, kw_only=True)
class Contradiction:
    """A printed cell that contradicts other printed cells, and how, in one sentence."""

    table: str
    where: Mapping[str, Value]
    metric: str
    sentence: str


def check(tables: Iterable[PrintedTable]) -> list[Contradiction]:
    """All contradictions that the declared checks of `tables` find, in their order.

    A check that needs a table which is not among `tables` uses what is there. PublishedError if a
    check names an unknown rule, lacks a field, or has one that the rule does not know.
    """
    known = {table.id: table for table in tables}
    contradictions = []
    for table in known.values():
        for spec in table.checks:
            rule = _RULES.get(spec.get("rule", ""))
            if rule is None:
                raise PublishedError(
                    f"table {table.id}: a check's rule is one of {sorted(_RULES)}, got {spec}."
                )
            facts = {k: v for k, v in spec.items() if k != "rule"}
            try:
                signature(rule).bind(table, known, **facts)
            except TypeError as error:
                raise PublishedError(f"table {table.id}: check {spec}: {error}.") from None
            contradictions += [
                Contradiction(table=c.table, where=c.where, metric=c.metric, sentence=sentence)
                for c, sentence in rule(table, known, **facts)
            ]
    return contradictions


def confusion_range(
    precision: tuple[Interval, Interval], recall: tuple[Interval, Interval]
) -> Interval | None:
    """Smallest and largest accuracy of a two-class table with these precisions and recalls.

    (low, high), each given for the first and the second class; None if no table at all has these
    values. The unknowns are the four shares (a called a, a called b, b called a, b called b), none
    negative, summing to one. "Recall of a is in [l, h]" is ``l (aa + ab) <= aa <= h (aa + ab)``:
    linear in the shares, and so is precision, ``.. (aa + ba)``. So the set of possible tables is a
    polytope, and the extremes of the accuracy ``aa + bb`` are two linear programs: exact, with no
    grid and no assumed share of classes. A denominator of zero leaves its ratio free.
    """
    from scipy.optimize import linprog  # here, because it is slow to import and rarely needed

    # Shares in the order aa, ab, ba, bb; each row: numerator and denominator of a printed ratio.
    ratios = [
        ((1, 0, 0, 0), (1, 1, 0, 0), recall[0]),
        ((0, 0, 0, 1), (0, 0, 1, 1), recall[1]),
        ((1, 0, 0, 0), (1, 0, 1, 0), precision[0]),
        ((0, 0, 0, 1), (0, 1, 0, 1), precision[1]),
    ]
    rows = []
    for top, bottom, (low, high) in ratios:
        rows.append((low - _TINY) * np.array(bottom) - top)
        rows.append(np.array(top) - (high + _TINY) * np.array(bottom))
    ends = []
    for sign in (1, -1):
        best = linprog(
            np.array([1, 0, 0, 1]) * sign,
            A_ub=np.array(rows),
            b_ub=np.zeros(len(rows)),
            A_eq=np.ones((1, 4)),
            b_eq=[1],
        )
        if best.status == 2:
            return None
        if not best.success:
            raise ArithmeticError(f"The linear program of a confusion table failed: {best.message}")
        ends.append(float(sign * best.fun))
    return ends[0], ends[1]


def f1_range(precision: Interval, recall: Interval) -> Interval:
    """Range of ``2 p r / (p + r)``, which grows in both; 0 where both are 0."""
    low, high = (
        2 * p * r / (p + r) if p + r > 0 else 0.0 for p, r in zip(precision, recall, strict=True)
    )
    return low, high


def is_share_of(n: int, interval: Interval) -> bool:
    """Whether some whole number of `n` records gives a share in `interval`: the GRIM test.

    Source: Brown and Heathers (2017), doi:10.1177/1948550616673876.
    """
    return floor(n * (interval[1] + _TINY)) >= ceil(n * (interval[0] - _TINY))


def auc_bounds(advantage: float) -> Interval:
    """Smallest and largest area under a ROC curve whose largest ``|TPR - FPR|`` is `advantage`.

    A ROC curve y(x) rises from (0, 0) to (1, 1); with A, the advantage as TensorFlow Privacy
    defines it, y <= x + A and y <= 1 everywhere, so the area is at most the integral of
    min(1, x + A), which is 1 - (1 - A)^2 / 2. Curves with many points come arbitrarily close. The
    curve may lie below the diagonal, where y >= x - A and y >= 0: the same bound reflected. (The
    tighter AUC >= (1 + A) / 2 holds only above it, and only for the *convex hull* of a curve.)
    """
    between(0, 1, advantage=advantage)
    rest = (1 - advantage) ** 2 / 2
    return rest, 1 - rest


def _confusion(
    table: PrintedTable,
    known: Tables,
    *,
    accuracy: str,
    precision: str | list[str],
    recall: str | list[str],
    f1: str = "",
    by: str = "",
) -> Objections:
    """Accuracy, precisions, recalls and F1 of a two-class table.

    Either `precision` and `recall` are two metrics each, printed beside the accuracy, or one metric
    each, printed once per value of the key `by`.
    """
    for total in _cells(table, accuracy):
        here = [
            c for c in table.cells if _without(c, {by}) == total.where and (not by or by in c.where)
        ]
        p, r = (
            [c for name in ([names] if by else names) for c in here if c.metric == name]
            for names in (precision, recall)
        )
        f = [c for c in here if by and c.metric == f1]
        if len(p) != 2 or [c.where for c in p] != [c.where for c in r]:
            raise PublishedError(
                f"table {table.id}: {accuracy} at {dict(total.where)} needs precision and recall of"
                f" two classes, found {len(p)} and {len(r)}."
            )
        printed = (
            f"the printed precisions ({p[0].printed}, {p[1].printed}) and recalls"
            f" ({r[0].printed}, {r[1].printed})"
        )
        possible = confusion_range(_two(p), _two(r))
        if possible is None:
            for cell in (*p, *r):
                yield cell, f"no table of two classes has {printed}."
        elif not _meet(possible, total.interval):
            implied = f"imply an accuracy of {_span(possible)}; {total.printed} is printed."
            yield total, f"{printed} {implied}"
        for cell in f:
            own = [c for c in (*p, *r) if c.where == cell.where]
            span = f1_range(*_two(own))
            if not _meet(span, cell.interval):
                yield (
                    cell,
                    f"precision {own[0].printed} and recall {own[1].printed} imply an F1 of"
                    f" {_span(span)}; {cell.printed} is printed.",
                )


def _sum(table: PrintedTable, known: Tables, *, metric: str, total: int) -> Objections:
    """Counts that must add up; counts have no rounding."""
    cells = _cells(table, metric)
    if (added := sum(Decimal(c.printed) for c in cells)) != total:
        for cell in cells:
            yield cell, f"the printed counts add up to {added}, not to {total}."


def _equal(table: PrintedTable, known: Tables, *, metric: str, same_as: str) -> Objections:
    """The same numbers printed in another table, to the same digits."""
    others = _cells(known[same_as], metric) if same_as in known else []
    for cell in _cells(table, metric):
        for same in others:
            if same.where == cell.where and Decimal(same.printed) != Decimal(cell.printed):
                there, here = same.printed, cell.printed
                yield cell, f"table {same_as} prints {there} for the same; {here} here."


def _whole_counts(
    table: PrintedTable,
    known: Tables,
    *,
    n: Mapping[str, int],
    where: Mapping[str, Value] | None = None,
) -> Objections:
    """Shares of n records are multiples of 1 / n."""
    for metric, size in n.items():
        for cell in _cells(table, metric):
            concerned = (where or {}).items() <= cell.where.items()
            if concerned and not is_share_of(size, cell.interval):
                yield cell, f"{cell.printed} is no whole number of {size} within rounding."


def _roc(table: PrintedTable, known: Tables, *, auc: str, advantage: str) -> Objections:
    """AUC and the attacker's advantage of one curve."""
    for area in _cells(table, auc):
        for edge in _cells(table, advantage):
            if edge.conditions != area.conditions:
                continue
            span = auc_bounds(min(max(edge.interval[1], 0.0), 1.0))  # they widen as it grows
            if not _meet(span, area.interval):
                implied = f"an advantage of {edge.printed} implies an AUC of {_span(span)}"
                yield area, f"{implied}; {area.printed} is printed."


def _epsilon(
    table: PrintedTable,
    known: Tables,
    *,
    metric: str,
    noise: str,
    free: list[str],
    tables: Sequence[str] = (),
) -> Objections:
    """Epsilon depends on the noise, and not on the `free` parameters; it falls as noise grows."""
    sources = [table, *(known[t] for t in tables if t in known)]
    for a, b in combinations((c for source in sources for c in _cells(source, metric)), 2):
        if _without(a, {*free, noise}) != _without(b, {*free, noise}):
            continue
        low, high = sorted((a, b), key=lambda c: float(c.where[noise]))
        if a.where[noise] == b.where[noise]:
            if not _meet(a.interval, b.interval):
                same = ": the same digits with another power of ten" * (_digits(a) == _digits(b))
                for cell, twin in ((a, b), (b, a)):
                    place = "" if cell.table == twin.table else f" in {twin.table}"
                    yield (
                        cell,
                        f"epsilon cannot depend on {' or '.join(free)}, but {twin.printed} is"
                        f" printed{place} for the same {noise} {cell.where[noise]}{same}.",
                    )
        elif low.interval[1] < high.interval[0]:
            for cell in (a, b):
                yield (
                    cell,
                    f"epsilon must fall as {noise} grows, but {low.printed} is printed at"
                    f" {low.where[noise]} and {high.printed} at {high.where[noise]}.",
                )


_RULES: dict[str, Callable[..., Objections]] = {
    "confusion": _confusion,
    "sum": _sum,
    "equal": _equal,
    "whole_counts": _whole_counts,
    "roc": _roc,
    "epsilon": _epsilon,
}


def _cells(table: PrintedTable, metric: str) -> list[Cell]:
    cells = [c for c in table.cells if c.metric == metric]
    if not cells:
        raise PublishedError(f"table {table.id}: a check names {metric!r}, which no cell has.")
    return cells


def _without(cell: Cell, keys: set[str]) -> dict[str, Value]:
    return {k: v for k, v in cell.where.items() if k not in keys}


def _two(cells: Sequence[Cell]) -> tuple[Interval, Interval]:
    return cells[0].interval, cells[1].interval


def _meet(a: Interval, b: Interval) -> bool:
    return a[0] <= b[1] + _TINY and b[0] <= a[1] + _TINY


def _span(span: Interval) -> str:
    low, high = (f"{end:.3f}" for end in span)
    return low if low == high else f"{low} to {high}"


def _digits(cell: Cell) -> tuple[int, ...]:
    return () if isinf(cell.value) else Decimal(cell.printed).normalize().as_tuple().digits
