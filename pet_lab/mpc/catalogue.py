"""The functions a task may name: how owners encode, what is computed, how an answer is read.

pooled_statistics           count, sum, mean, variance by group over the rows of both files
join_size                   how many keys are in both files
joined_statistics           count, sum, mean, variance by group over the join
joined_linear_regression    exact least-squares coefficients on the join
joined_logistic_regression  logistic coefficients on the join, sigmoid by a polynomial

Numbers are scaled to whole numbers, so all but the logistic regression is exact. A least-squares
solution is a vector of fractions: it is computed modulo a prime large enough that each fraction can
be told from its residue, so X'X never leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from pet_lab.noise import discrete_laplace
from pet_lab.shares import ShareError, mersenne_prime

from .arithmetic import Arithmetic, Vector
from .errors import TaskError
from .tasks import JOINS, ColumnSchema, Record, Task, check_table, key_number, listed, number

if TYPE_CHECKING:
    import pandas as pd

X_BITS, B_BITS, C_BITS = 8, 16, 14  # fractional bits of predictors, coefficients, polynomial
SIGMOID_RANGE = 6.0


@dataclass(frozen=True)
class Function:
    """An entry of the catalogue.

    needs  parameter -> kind of column it names, or "columns", or "int"
    levels at which it can run
    """

    name: str
    title: str
    needs: Mapping[str, str]
    levels: tuple[str, ...]
    joins: bool = True


CATALOGUE = {
    f.name: f
    for f in (
        Function(
            "pooled_statistics",
            "count, sum, mean and variance by group over both files",
            {"group": "category", "value": "number"},
            ("all-but-one", "majority", "checked"),
            joins=False,
        ),
        Function("join_size", "number of keys in both files", {}, ("majority", "checked")),
        Function(
            "joined_statistics",
            "count, sum, mean and variance by group over the join",
            {"group": "category", "value": "number"},
            ("majority", "checked"),
        ),
        Function(
            "joined_linear_regression",
            "least squares on the join",
            {"target": "number", "predictors": "columns"},
            ("majority", "checked"),
        ),
        Function(
            "joined_logistic_regression",
            "logistic regression on the join",
            {"target": "number", "predictors": "columns", "iterations": "int"},
            ("majority",),
        ),
    )
}


# --- what a task says --------------------------------------------------------------------------


def check(task: Task) -> Function:
    """The catalogue's entry for a task, once everything in the task fits it.

    Raises
    ------
    TaskError
        Naming what does not fit.
    """
    if task.function not in CATALOGUE:
        raise TaskError(
            f"{task.function!r} is not in the catalogue; it lists {listed(list(CATALOGUE))}."
        )
    f = CATALOGUE[task.function]
    wanted = {*f.needs, *(("join", "key") if f.joins else ())}
    if set(task.parameters) != wanted:
        raise TaskError(
            f"{f.name} takes {listed(sorted(wanted))}, got {listed(sorted(task.parameters))}."
        )
    for name, given in task.parameters.items():
        if f.needs.get(name) not in {"columns", "int"} and not isinstance(given, str):
            raise TaskError(f"{name} is text, got {given!r}.")
    _check_terms(task, f)
    if f.joins:
        _check_join(task)
    for name, kind in f.needs.items():
        _check_need(task, name, kind)
    if any(d.rows < 1 for d in task.inputs):
        raise TaskError("A data set has no rows.")
    modulus(task)
    return f


def _check_terms(task: Task, f: Function) -> None:
    if task.level not in f.levels:
        raise TaskError(f"{f.name} runs at {listed(f.levels)}, not at {task.level!r}.")
    if task.level == "all-but-one" and task.min_group and task.epsilon is None:
        raise TaskError(
            "Level all-but-one cannot look at a count before it leaves: add noise (epsilon), "
            "or set min_group to 0, or choose another level."
        )
    if task.dominance_percent and (f.name != "joined_statistics" or task.level != "majority"):
        raise TaskError("The dominance rule is for joined_statistics at level majority.")
    if task.dominance_percent and _column(task, task.parameters["value"])[1].low < 0:
        raise TaskError("The dominance rule needs values that are never negative.")
    if task.epsilon is not None and "statistics" not in f.name and f.name != "join_size":
        raise TaskError(f"{f.name} cannot add noise; set epsilon to None.")
    if task.epsilon is not None and task.level == "checked":
        raise TaskError(
            "Level checked does not cover noise, so one party could shift the answer unnoticed: "
            "take level majority and trust all parties with the noise, or set epsilon to None."
        )


def _check_join(task: Task) -> None:
    how, key = task.parameters["join"], task.parameters["key"]
    if how not in JOINS:
        raise TaskError(f"join is one of {listed(list(JOINS))}, got {how!r}.")
    if how == "hidden" and task.level == "checked":
        raise TaskError("A hidden join is not covered by the check of products; take join opened.")
    if how == "opened" and task.model == "mixed" and (task.epsilon or task.min_group > 1):
        raise TaskError(
            "A user that processes an opened join counts its matches, whatever noise or smallest "
            "group the task asks: take join hidden, or outsiders as processing parties."
        )
    if how == "aligned" and task.function == "join_size":
        raise TaskError("Of aligned files the join's size is public: it is their number of rows.")
    if how == "aligned" and task.inputs[0].rows != task.inputs[1].rows:
        raise TaskError("Aligned files have the same rows; run a private set intersection first.")
    for d in task.inputs:
        if key not in d.schema or d.schema[key].kind != "key":
            raise TaskError(f"{d.owner} has no key column {key!r}.")


def _check_need(task: Task, name: str, kind: str) -> None:
    given = task.parameters[name]
    if kind == "int":
        if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= 200:
            raise TaskError(f"{name} is a whole number from 1 to 200, got {given!r}.")
        return
    if kind == "columns":
        if not isinstance(given, list | tuple) or not given or len(set(given)) != len(given):
            raise TaskError(f"{name} lists columns, each once.")
        for one in given:
            if _column(task, one)[1].kind == "key":
                raise TaskError(f"{one} is a key, not a predictor.")
        return
    if CATALOGUE[task.function].joins:
        columns = [_column(task, given)[1]]
    else:
        columns = [d.schema[given] for d in task.inputs if given in d.schema]
        if len(columns) != 2 or columns[0] != columns[1]:
            raise TaskError(f"Both files need column {given!r} with the same description.")
    if any(c.kind != kind for c in columns):
        raise TaskError(f"{name} is a {kind} column; {given!r} is not.")


def _column(task: Task, name: str) -> tuple[int, ColumnSchema]:
    """(side, column) of a column that one of the two files has."""
    places = [(i, d.schema[name]) for i, d in enumerate(task.inputs) if name in d.schema]
    if len(places) != 1:
        raise TaskError(f"Column {name!r} must be in one of the two files, it is in {len(places)}.")
    return places[0]


def parts(task: Task) -> list[tuple[int, str, str, ColumnSchema]]:
    """Numbers that a joined function needs from each row: (side, column, level or "", column)."""
    p = task.parameters
    wanted = [p[n] for n in ("group", "value", "target") if n in p] + list(p.get("predictors", ()))
    needed = []
    for name in dict.fromkeys(wanted):
        side, column = _column(task, name)
        levels = column.levels if column.kind == "category" else ("",)
        needed += [(side, name, level, column) for level in levels]
    return needed


def modulus(task: Task) -> int:
    """A prime in which the exact answer fits.

    Raises
    ------
    TaskError
        If none of ours is large enough.
    """
    try:
        return mersenne_prime(_bits(task))
    except ShareError as error:
        raise TaskError(str(error)) from None


def _bits(task: Task) -> int:
    p, n = task.parameters, max(d.rows for d in task.inputs)
    if task.function == "joined_linear_regression":
        sizes = [_size(c) for c in _design(task)]
        target = _column(task, p["target"])[1].largest
        # |det X'X| is at most the product of its diagonal (Hadamard); Cramer's numerators alike.
        den = sum(math.log2(max(n * s * s, 2)) for s in sizes)
        num = den + math.log2(max(n * target * max(sizes), 2)) + len(sizes)
        return math.ceil(den + num) + 4
    if task.function == "joined_logistic_regression":
        return _room(task) + 72
    if "value" in p:
        column = _column(task, p["value"])[1] if "join" in p else task.inputs[0].schema[p["value"]]
        return max(120, 2 * math.ceil(math.log2(n * column.largest + 2)) + 48)
    return 120


def _design(task: Task) -> list[ColumnSchema | None]:
    """Columns of the design matrix; None is the intercept. A category drops its first level."""
    design: list[ColumnSchema | None] = [None]
    for name in task.parameters["predictors"]:
        column = _column(task, name)[1]
        design += [column] * (len(column.levels) - 1 if column.kind == "category" else 1)
    return design


def design_names(task: Task) -> list[str]:
    """Names of the coefficients of a regression, in the order of its answer."""
    terms = ["intercept"]
    for name in task.parameters["predictors"]:
        column = _column(task, name)[1]
        terms += [f"{name}={v}" for v in column.levels[1:]] if column.levels else [name]
    return terms


def _size(column: ColumnSchema | None) -> int:
    return column.largest if column is not None and column.kind == "number" else 1


# --- what an owner encodes ---------------------------------------------------------------------


def encode(task: Task, owner: str, frame: pd.DataFrame, rng: np.random.Generator) -> list[int]:
    """The numbers that an owner splits into shares.

    Parameters
    ----------
    frame : its table; checked against the schema of the task first
    rng : shuffles rows, so that a position tells nothing

    Raises
    ------
    TaskError
        If the table is not as the schema says.
    """
    ref = task.input(owner)
    check_table(frame, ref.schema)
    if len(frame) != ref.rows:
        raise TaskError(f"The task names {ref.rows} rows of {owner}, the table has {len(frame)}.")
    if task.function == "pooled_statistics":
        return _encode_pooled(task, ref.schema, frame)
    p, side = modulus(task), task.inputs.index(ref)
    keys = frame[task.parameters["key"]].astype(str)
    order = np.argsort(keys.to_numpy()) if task.parameters["join"] == "aligned" else None
    frame = frame.iloc[rng.permutation(len(frame)) if order is None else order]
    numbers = [key_number(v) for v in frame[task.parameters["key"]]]
    columns = [
        _cells(task, frame[name], name, level, column)
        for s, name, level, column in parts(task)
        if s == side
    ]
    how = task.parameters["join"]
    if how == "hidden" and side == 1:
        points = [_from_roots(numbers, p)] + [_polynomial(numbers, c, p) for c in columns]
        return [v for poly in points for v in poly]
    return [v % p for v in ([] if how == "aligned" else numbers)] + [
        v % p for c in columns for v in c
    ]


def length(task: Task, side: int) -> int:
    """How many numbers an owner hands in: what the processing parties expect."""
    n = task.inputs[side].rows
    if task.function == "pooled_statistics":
        return 3 * len(task.inputs[side].schema[task.parameters["group"]].levels)
    columns = sum(s == side for s, *_ in parts(task))
    how = task.parameters["join"]
    if how == "hidden" and side == 1:
        return n + 1 + n * columns
    return n * (columns + (how != "aligned"))


def _cells(task: Task, cells: pd.Series, name: str, level: str, column: ColumnSchema) -> list[int]:
    if column.kind == "category":
        return [int(str(v) == level) for v in cells]
    if task.function == "joined_logistic_regression" and name == task.parameters["target"]:
        if not set(cells) <= {0, 1}:
            raise TaskError(f"A logistic target is 0 or 1; {name} is not.")
        return [int(v) for v in cells]
    if task.function == "joined_logistic_regression":
        middle, half = (column.low + column.high) / 2, (column.high - column.low) / 2
        return [round((float(v) - middle) / half * 2**X_BITS) for v in cells]
    return [number(column, name, v) for v in cells]


def _encode_pooled(
    task: Task, schema: Mapping[str, ColumnSchema], frame: pd.DataFrame
) -> list[int]:
    group, value, p = task.parameters["group"], task.parameters["value"], modulus(task)
    numbers = []
    for level in schema[group].levels:
        mine = frame.loc[(frame[group].astype(str) == level).to_numpy(), value]
        cells = [number(schema[value], value, v) for v in mine]
        numbers += [len(cells), sum(cells) % p, sum(v * v for v in cells) % p]
    return numbers


def _from_roots(roots: Sequence[int], p: int) -> list[int]:
    """Coefficients, lowest first, of the product of (t - root)."""
    poly = [1]
    for r in roots:
        lifted = [0, *poly]
        for i, c in enumerate(poly):
            lifted[i] = (lifted[i] - r * c) % p
        poly = lifted
    return poly


def _polynomial(at: Sequence[int], values: Sequence[int], p: int) -> list[int]:
    """Coefficients of the polynomial of degree len - 1 through the points (Newton's form)."""
    table = [v % p for v in values]
    for step in range(1, len(at)):
        for i in range(len(at) - 1, step - 1, -1):
            table[i] = (table[i] - table[i - 1]) * pow(at[i] - at[i - step], -1, p) % p
    poly = [0] * len(at)
    for i in range(len(at) - 1, -1, -1):
        shifted = [0, *poly[:-1]]
        poly = [(s - at[i] * c) % p for s, c in zip(shifted, poly, strict=True)]
        poly[0] = (poly[0] + table[i]) % p
    return poly


# --- what the processing parties compute -------------------------------------------------------


class PublicFacts(Record, frozen=True):
    """What the output party gets beside its numbers: what the output checks decided, no counts.

    withheld  groups that do not leave, by position; a regression is group 0
    singular  whether a regression has no unique solution
    """

    withheld: tuple[int, ...] = ()
    singular: bool = False


@dataclass(frozen=True)
class AnswerShares:
    """A party's shares of the answer, for the output party alone, and the facts beside it."""

    shares: list[int] = field(repr=False)
    public: PublicFacts


@dataclass(repr=False)
class Joined:
    """Rows of the join; with a hidden join all rows of x, zero where there is no match."""

    n: int
    one: Vector
    columns: dict[tuple[str, str], Vector]
    matches: int | None = None


async def compute(a: Arithmetic, task: Task, x: list[int], y: list[int]) -> AnswerShares:
    """Run the function of a task on Shamir shares of its two encoded inputs."""
    if task.function == "pooled_statistics":
        both = a.add(await a.vector(x), await a.vector(y))
        cells = [both[3 * g : 3 * g + 3] for g in range(group_count(task))]
        return await _release(a, task, cells)
    rows = await _join(a, task, await a.vector(x), await a.vector(y))
    answer: AnswerShares = await _STEPS[task.function](a, task, rows)
    return answer


def group_count(task: Task) -> int:
    """Number of groups of statistics: levels of a column that a checked task has."""
    name = task.parameters["group"]
    return next(len(d.schema[name].levels) for d in task.inputs if name in d.schema)


async def _join(a: Arithmetic, task: Task, x: Vector, y: Vector) -> Joined:
    nx, ny = (d.rows for d in task.inputs)
    how = task.parameters["join"]
    wanted = parts(task)
    mine = [[(name, level) for s, name, level, _ in wanted if s == side] for side in (0, 1)]
    if how == "aligned":
        cut = {
            k: v[i * nx : (i + 1) * nx]
            for v, m in ((x, mine[0]), (y, mine[1]))
            for i, k in enumerate(m)
        }
        return Joined(nx, a.constant(1, nx), cut, nx)
    left = {k: x[(i + 1) * nx : (i + 2) * nx] for i, k in enumerate(mine[0])}
    if how == "hidden":
        return await _hidden_join(a, x[:nx], left, y, mine[1], ny)
    # One masked difference a pair: zero for a match, uniform for none.
    differences = a.concat(
        [a.add(a.concat([x[i : i + 1]] * ny), y[:ny], times=-1) for i in range(nx)]
    )
    same = await a.zero(differences)
    at = [(k // ny, k % ny) for k, yes in enumerate(same) if yes]
    if len({i for i, _ in at}) != len(at) or len({j for _, j in at}) != len(at):
        raise TaskError("A key matches twice: an owner handed in a key that is not unique.")
    cut = {k: v.take([i for i, _ in at]) for k, v in left.items()}
    for i, k in enumerate(mine[1]):
        cut[k] = y[(i + 1) * ny : (i + 2) * ny].take([j for _, j in at])
    return Joined(len(at), a.constant(1, len(at)), cut, len(at))


async def _hidden_join(  # noqa: PLR0917
    a: Arithmetic,
    keys: Vector,
    left: dict[tuple[str, str], Vector],
    y: Vector,
    right: list[tuple[str, str]],
    ny: int,
) -> Joined:
    """y comes as polynomials: one with its keys as roots, one through each column's values."""
    nx = len(keys)
    powers = [a.constant(1, nx), keys]  # powers[k] holds the k-th power of every key
    while len(powers) <= ny:
        top, more = powers[-1], min(len(powers) - 1, ny + 1 - len(powers))
        new = await a.mul(a.concat(powers[1 : more + 1]), a.concat([top] * more))
        powers += [new[k * nx : (k + 1) * nx] for k in range(more)]
    by_row = [a.concat([q[i : i + 1] for q in powers]) for i in range(nx)]
    polys = [y[: ny + 1]] + [y[ny + 1 + c * ny : ny + 1 + (c + 1) * ny] for c in range(len(right))]
    values = await a.dots([(q, row[: len(q)]) for q in polys for row in by_row])
    match = await a.hidden_zero(values[:nx])
    cells = a.concat([*left.values(), values[nx:]])
    masked = await a.mul(cells, a.concat([match] * (len(left) + len(right))))
    cut = {k: masked[i * nx : (i + 1) * nx] for i, k in enumerate([*left, *right])}
    return Joined(nx, match, cut)


async def _join_size(a: Arithmetic, task: Task, rows: Joined) -> AnswerShares:
    count = a.total(rows.one) if rows.n else a.constant(0)
    return await _release(a, task, [count])


async def _statistics(a: Arithmetic, task: Task, rows: Joined) -> AnswerShares:
    group, value = task.parameters["group"], task.parameters["value"]
    levels = [v for k, v in rows.columns.items() if k[0] == group]
    if not rows.n:
        return await _release(a, task, [a.constant(0, 3) for _ in levels])
    v = rows.columns[value, ""]
    square = await a.mul(v, v)
    sums = await a.dots([(g, w) for g in levels for w in (v, square)])
    cells = [a.concat([a.total(g), sums[2 * i : 2 * i + 2]]) for i, g in enumerate(levels)]
    dominated: list[bool] = []
    if task.dominance_percent:
        totals = a.concat([c[1:2] for c in cells])
        own = await a.dots(
            [(a.concat([g[i : i + 1] for g in levels]), totals) for i in range(rows.n)]
        )
        over = await a.less(a.scale(own, task.dominance_percent), a.scale(v, 100))
        dominated = [not zero for zero in await a.zero(await a.dots([(g, over) for g in levels]))]
    return await _release(a, task, cells, dominated)


async def _release(
    a: Arithmetic, task: Task, cells: list[Vector], dominated: Sequence[bool] = ()
) -> AnswerShares:
    """Output checks, noise, the check of all products; only then shares that may leave."""
    small = [False] * len(cells)
    if task.min_group > 1 and task.epsilon is None:
        counts = a.concat([c[:1] for c in cells])
        small = await a.zero(await _product(a, counts, range(1, task.min_group)))
    withheld = {g for g in range(len(cells)) if small[g] or (dominated and dominated[g])}
    if any(small) and task.parameters.get("join", "aligned") == "aligned":
        # The numbers of rows are public: without a second group they give away the first.
        empty = await a.zero(a.concat([c[:1] for c in cells]))
        withheld |= {*[g for g in range(len(cells)) if g not in withheld and not empty[g]][:1]}
    shares = [v for g, c in enumerate(cells) if g not in withheld for v in c.z]
    await a.verify()
    if task.epsilon is not None:
        rows = await a.put_in(noise(task, len(shares)))
        shares = [(s + sum(n)) % a.p for s, *n in zip(shares, *rows, strict=True)]
    return AnswerShares(shares, PublicFacts(withheld=tuple(sorted(withheld))))


async def _product(a: Arithmetic, counts: Vector, steps: Sequence[int]) -> Vector:
    """For each count c the product of (c - s) over steps: zero if c is one of them."""
    layers = [a.add(counts, a.constant(s, len(counts)), times=-1) for s in steps]
    while len(layers) > 1:
        half = len(layers) // 2
        merged = await a.mul(a.concat(layers[:half]), a.concat(layers[half : 2 * half]))
        n = len(counts)
        layers = [merged[i * n : (i + 1) * n] for i in range(half)] + layers[2 * half :]
    return layers[0]


def noise(task: Task, n: int) -> list[int]:
    """One party's noise for n released numbers, as whole numbers.

    Every party adds noise that is enough alone, so K - 1 of them cannot take it away; the total
    has K times the variance. Discrete Laplace; adding or removing one record changes a count by 1,
    a sum by its bound, a sum of squares by the bound's square; the budget is shared equally among
    the three kinds. Groups are disjoint.
    """
    if task.epsilon is None:
        return [0] * n
    bound = 1
    if "value" in task.parameters:
        name = task.parameters["value"]
        bound = max(d.schema[name].largest for d in task.inputs if name in d.schema)
    kinds = [1] if task.function == "join_size" else [1, bound, bound * bound]
    budget = Fraction(task.epsilon) / len(kinds)
    return [discrete_laplace(Fraction(kinds[i % len(kinds)]) / budget) for i in range(n)]


async def _enough_rows(
    a: Arithmetic, task: Task, rows: Joined, columns: int
) -> AnswerShares | None:
    """None if there are enough rows for a regression, else the answer that says so."""
    least = max(task.min_group, columns + 1)
    if rows.matches is not None:
        few = rows.matches < least
    else:
        few = (await a.zero(await _product(a, a.total(rows.one), range(least))))[0]
    if not few:
        return None
    await a.verify()
    return AnswerShares([], PublicFacts(withheld=(0,)))


def _matrix(task: Task, rows: Joined) -> list[Vector]:
    columns = [rows.one]
    for name in task.parameters["predictors"]:
        column = _column(task, name)[1]
        columns += [rows.columns[name, v] for v in (column.levels[1:] or ("",))]
    return columns


async def _linear(a: Arithmetic, task: Task, rows: Joined) -> AnswerShares:
    """Solve X'X b = X'y: open R X'X for a secret random R, invert that, apply it to R X'y."""
    columns = _matrix(task, rows)
    d, y = len(columns), rows.columns[task.parameters["target"], ""]
    few = await _enough_rows(a, task, rows, d)
    if few:
        return few
    pairs = [(i, j) for i in range(d) for j in range(i, d)]
    moments = await a.dots([(columns[i], columns[j]) for i, j in pairs] + [(c, y) for c in columns])
    at = {**{(i, j): k for k, (i, j) in enumerate(pairs)}}
    rhs = moments[len(pairs) :]
    gram = [[moments[(k := at[min(i, j), max(i, j)]) : k + 1] for j in range(d)] for i in range(d)]
    masks = a.random(d * d)
    # The product keeps its twin through the moments, so the mask needs none of its own.
    product = await a.dots(
        [
            (a.concat([gram[i][j] for i in range(d)]), masks[r * d : (r + 1) * d])
            for r in range(d)
            for j in range(d)
        ]
        + [(rhs, masks[r * d : (r + 1) * d]) for r in range(d)]
    )
    opened = await a.open(product.z[: d * d])
    inverse = _inverse([opened[r * d : (r + 1) * d] for r in range(d)], a.p)
    if inverse is None:
        await a.verify()
        return AnswerShares([], PublicFacts(singular=True))
    masked = product[d * d :]
    solution = [sum(inverse[i][r] * masked.z[r] for r in range(d)) % a.p for i in range(d)]
    count = a.total(rows.one)
    await a.verify()
    return AnswerShares([*solution, *count.z], PublicFacts())


def _inverse(matrix: list[list[int]], p: int) -> list[list[int]] | None:
    """Inverse modulo p by elimination; None if there is none."""
    d = len(matrix)
    work = [[*row, *(int(i == j) for j in range(d))] for i, row in enumerate(matrix)]
    for c in range(d):
        pivot = next((r for r in range(c, d) if work[r][c] % p), None)
        if pivot is None:
            return None
        work[c], work[pivot] = work[pivot], work[c]
        factor = pow(work[c][c], -1, p)
        work[c] = [v * factor % p for v in work[c]]
        for r in range(d):
            if r != c and work[r][c]:
                times = work[r][c]
                work[r] = [(v - times * w) % p for v, w in zip(work[r], work[c], strict=True)]
    return [row[d:] for row in work]


def sigmoid_polynomial() -> tuple[float, float, float]:
    """(c1, c3, c5) of 1/2 + c1 t + c3 t^3 + c5 t^5, least squares on [-6, 6]."""
    t = np.linspace(-SIGMOID_RANGE, SIGMOID_RANGE, 2001)
    odd = np.column_stack([t, t**3, t**5])
    c1, c3, c5 = np.linalg.lstsq(odd, 1 / (1 + np.exp(-t)) - 0.5, rcond=None)[0].tolist()
    return c1, c3, c5


ETA_BITS = X_BITS + B_BITS
P_BITS = 5 * ETA_BITS + C_BITS + 10  # fractional bits of a probability


def _room(task: Task) -> int:
    """Bits that a scaled gradient step needs."""
    n = max(d.rows for d in task.inputs)
    d = len(design_names(task))
    # |eta| <= d * |b|; the polynomial leaves its range by at most (d * 16)**5 before it is absurd.
    return (
        P_BITS
        + X_BITS
        + B_BITS
        + math.ceil(math.log2(n + 1))
        + 5 * math.ceil(math.log2(16 * d))
        + 4
    )


async def _logistic(a: Arithmetic, task: Task, rows: Joined) -> AnswerShares:
    """Nesterov's gradient steps; the coefficients stay shared, only their scale is cut back."""
    columns = [a.scale(rows.one, 2**X_BITS)]
    for name in task.parameters["predictors"]:
        column = _column(task, name)[1]
        for v in column.levels[1:] or ("",):
            raw = rows.columns[name, v]
            columns.append(a.scale(raw, 2**X_BITS) if column.levels else raw)
    d, n, y = len(columns), rows.n, rows.columns[task.parameters["target"], ""]
    few = await _enough_rows(a, task, rows, d)
    if few:
        return few
    c1, c3, c5 = (round(c * 2 ** (C_BITS + 10)) for c in sigmoid_polynomial())
    step = round(4 / (n * d) * 2**B_BITS * 2**10)  # 1 / (bound on the curvature), 10 bits more
    by_row = [a.concat([c[i : i + 1] for c in columns]) for i in range(n)]
    wanted = a.scale(a.add(a.scale(y, 2), rows.one, times=-1), 2 ** (P_BITS - 1))  # y - 1/2
    beta = ahead = a.constant(0, d)
    for k in range(task.parameters["iterations"]):
        eta = await a.dots([(row, ahead) for row in by_row])
        square = await a.mul(eta, eta)
        fourth = await a.mul(square, square)
        inner = a.add(
            a.add(a.constant(c1 << (4 * ETA_BITS), n), square, times=c3 << (2 * ETA_BITS)),
            fourth,
            times=c5,
        )
        curve = await a.mul(inner, eta)
        gradient = await a.dots([(c, a.add(wanted, curve, times=-1)) for c in columns])
        cut = P_BITS + X_BITS + 10
        moved = await a.truncate(a.scale(gradient, step), cut, _room(task) + 10)
        new = a.add(ahead, moved)
        push = round(k / (k + 3) * 2**8)
        onward = a.add(a.scale(new, 2**8 + push), beta, times=-push)
        ahead = await a.truncate(onward, 8, B_BITS + 30)
        beta = new
    return AnswerShares([*beta.z, *a.total(rows.one).z], PublicFacts())


_STEPS: dict[str, Callable[..., Any]] = {
    "join_size": _join_size,
    "joined_statistics": _statistics,
    "joined_linear_regression": _linear,
    "joined_logistic_regression": _logistic,
}


# --- how the output party reads the answer -----------------------------------------------------


def decode(task: Task, opened: Sequence[int], public: PublicFacts) -> pd.DataFrame:
    """The answer as a table, from the numbers that only the output party opened.

    Returns
    -------
    DataFrame: for statistics group, count, sum, mean, variance (withheld groups are NaN); for a
    regression term, coefficient, rows; for join_size count.

    Raises
    ------
    TaskError
        If a regression has no unique solution or too few rows.
    """
    import pandas as pd

    p = modulus(task)
    numbers = [v if v <= p // 2 else v - p for v in opened]
    withheld = set(public.withheld)
    if task.function == "join_size":
        return pd.DataFrame({"count": [math.nan if withheld else numbers[0]]})
    if "statistics" in task.function:
        return _decode_statistics(task, numbers, withheld)
    if withheld:
        raise TaskError("The join has too few rows for this regression; nothing left.")
    if public.singular:
        raise TaskError("The predictors are collinear on the join; there is no unique solution.")
    terms = design_names(task)
    if task.function == "joined_logistic_regression":
        coefficients = _unscale(task, np.array(numbers[:-1]) / 2**B_BITS)
    else:
        target = 10 ** _column(task, task.parameters["target"])[1].decimals
        coefficients = [
            float(_fraction(v, p))
            * (10**c.decimals if c is not None and c.kind == "number" else 1)
            / target
            for v, c in zip(opened[:-1], _design(task), strict=True)
        ]
    return pd.DataFrame({"term": terms, "coefficient": coefficients, "rows": numbers[-1]})


def _decode_statistics(task: Task, cells: Sequence[int], withheld: set[int]) -> pd.DataFrame:
    import pandas as pd

    group, value = task.parameters["group"], task.parameters["value"]
    columns = {k: c for d in task.inputs for k, c in d.schema.items()}
    unit, rows, at = 10 ** columns[value].decimals, [], 0
    for g, level in enumerate(columns[group].levels):
        if g in withheld:
            rows.append((level, *[math.nan] * 4))
            continue
        n, total, squares = cells[at : at + 3]
        at += 3
        mean = total / n if n > 0 else math.nan
        variance = (squares - total * total / n) / (n - 1) if n > 1 else math.nan
        rows.append((level, float(n), total / unit, mean / unit, variance / unit**2))
    return pd.DataFrame(rows, columns=[group, "count", "sum", "mean", "variance"])


def _fraction(residue: int, p: int) -> Fraction:
    """The fraction num / den = residue modulo p with |num|, den below sqrt(p / 2) (Wang 1981)."""
    bound = math.isqrt(p // 2)
    r0, r1, t0, t1 = p, residue % p, 0, 1
    while r1 > bound:
        q = r0 // r1
        r0, r1, t0, t1 = r1, r0 - q * r1, t1, t0 - q * t1
    return Fraction(r1, t1)


def _unscale(task: Task, scaled: np.ndarray) -> list[float]:
    """Coefficients on the original scale; predictors were moved to [-1, 1] by their bounds."""
    coefficients = [float(scaled[0])]
    for b, column in zip(scaled[1:], _design(task)[1:], strict=True):
        if column is None or column.kind == "category":
            coefficients.append(float(b))
            continue
        half = (column.high - column.low) / 2
        coefficients.append(float(b) / half)
        coefficients[0] -= float(b) / half * (column.low + column.high) / 2
    return coefficients
