"""The functions a task may name: what they ask of it, how owners encode, what is computed.

Numbers are scaled to whole numbers, so all but the logistic regression is exact. A least-squares
solution is a vector of fractions: it is computed modulo a prime large enough that each fraction can
be told from its residue, so X'X never leaves. `clear` computes the same on clear data.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from pet_lab.noise import discrete_laplace
from pet_lab.shares import ShareError, mersenne_prime

from .arithmetic import Arithmetic, Vector
from .errors import TaskError, well_formed
from .tasks import JOINS, ColumnSchema, Record, Task, check_table, key_number, listed, number

if TYPE_CHECKING:
    import pandas as pd

X_BITS, B_BITS, C_BITS = 8, 16, 14  # fractional bits of predictors, coefficients, polynomial
ETA_BITS = X_BITS + B_BITS
P_BITS = 5 * ETA_BITS + C_BITS + 10  # fractional bits of a probability
SIGMOID_RANGE = 6.0

Cell = tuple[str, str]  # a column and, of a category, one of its levels, else ""


# --- what a task says -----------------------------------------------------------------------------


def check(task: Task) -> Function:
    """The catalogue's entry for a task, or a TaskError that names what does not fit it."""
    name, p = task.function, task.parameters
    well_formed(name in CATALOGUE, f"{name!r} is not in the catalogue: {listed(list(CATALOGUE))}.")
    f = CATALOGUE[name]
    wanted = sorted({*f.needs, *(("join", "key") if f.joins else ())})
    well_formed(sorted(p) == wanted, f"{name} takes {listed(wanted)}, got {listed(sorted(p))}.")
    for parameter, given in p.items():
        text = isinstance(given, str) or f.needs.get(parameter) in {"columns", "int"}
        well_formed(text, f"{parameter} is text, got {given!r}.")
    well_formed(task.level in f.levels, f"{name} runs at {listed(f.levels)}, not {task.level!r}.")
    noisy, summed = task.epsilon is not None, task.level == "all-but-one"
    seen = noisy or not summed or not task.min_group
    well_formed(seen, "Level all-but-one cannot look at a count: set epsilon, or min_group to 0.")
    ruled = name == "joined_statistics" and task.level == "majority"
    rule = "The dominance rule is for joined_statistics at level majority."
    well_formed(ruled or not task.dominance_percent, rule)
    well_formed(f.noise or not noisy, f"{name} cannot add noise; set epsilon to None.")
    trusted = not noisy or task.level != "checked"
    well_formed(trusted, "Level checked does not cover noise: take majority, or no epsilon.")
    if f.joins:
        _check_join(task)
    for parameter, kind in f.needs.items():
        _check_need(task, f, parameter, kind)
    positive = not task.dominance_percent or column(task, p["value"]).low >= 0
    well_formed(positive, "The dominance rule needs values that are never negative.")
    well_formed(all(d.rows > 0 for d in task.inputs), "A data set has no rows.")
    modulus(task)
    return f


def _check_join(task: Task) -> None:
    how, key, level = task.parameters["join"], task.parameters["key"], task.level
    well_formed(how in JOINS, f"join is one of {listed(list(JOINS))}, got {how!r}.")
    covered = how != "hidden" or level != "checked"
    well_formed(covered, "A hidden join is not covered by the check of products; take join opened.")
    counted = how == "opened" and task.model == "mixed"
    open_count = not counted or not (task.epsilon or task.min_group > 1)
    well_formed(open_count, "A user that processes an opened join counts its matches: hide them.")
    secret = how != "aligned" or task.function != "join_size"
    well_formed(secret, "Of aligned files the join's size is public: their number of rows.")
    even = how != "aligned" or task.inputs[0].rows == task.inputs[1].rows
    well_formed(even, "Aligned files have the same rows; run a private set intersection first.")
    for d in task.inputs:
        keyed = key in d.schema and d.schema[key].kind == "key"
        well_formed(keyed, f"{d.owner} has no key column {key!r}; name one of its schema.")


def _check_need(task: Task, f: Function, name: str, kind: str) -> None:
    given = task.parameters[name]
    if kind == "int":
        counts = isinstance(given, int) and not isinstance(given, bool) and 1 <= given <= 200
        well_formed(counts, f"{name} is a whole number from 1 to 200, got {given!r}.")
        return
    if kind == "columns":
        listing = isinstance(given, list | tuple) and 0 < len(set(given)) == len(given)
        well_formed(listing, f"{name} lists columns, each once.")
    for one in given if kind == "columns" else [given]:
        there = [d.schema[one] for d in task.inputs if one in d.schema]
        if f.joins:
            place = f"Column {one!r} must be in one of the two files, it is in {len(there)}."
            well_formed(len(there) == 1, place)
        else:
            alike = len(there) == 2 and there[0] == there[1]
            well_formed(alike, f"Both files need column {one!r} with the same description.")
        if kind == "columns":
            well_formed(there[0].kind != "key", f"{one} is a key, not a predictor.")
        else:
            well_formed(there[0].kind == kind, f"{name} is a {kind} column; {one!r} is not.")


def column(task: Task, name: str) -> ColumnSchema:
    """A column that a checked task names."""
    return next(d.schema[name] for d in task.inputs if name in d.schema)


def parts(task: Task, side: int) -> list[Cell]:
    """Numbers that a joined function needs from each row of one file."""
    p, schema = task.parameters, task.inputs[side].schema
    wanted = [p[n] for n in ("group", "value", "target") if n in p] + list(p.get("predictors", ()))
    mine = [(name, schema[name]) for name in dict.fromkeys(wanted) if name in schema]
    return [(n, v) for n, c in mine for v in (c.levels if c.kind == "category" else ("",))]


def design(task: Task) -> list[Cell]:
    """Terms of a regression after its intercept; a category drops its first level."""
    named = [(name, column(task, name)) for name in task.parameters["predictors"]]
    return [(n, v) for n, c in named for v in (c.levels[1:] if c.kind == "category" else ("",))]


def group_count(task: Task) -> int:
    """Number of groups of statistics."""
    return len(column(task, task.parameters["group"]).levels)


def modulus(task: Task) -> int:
    """A prime in which the exact answer fits; TaskError if none of ours is large enough."""
    p, n = task.parameters, max(d.rows for d in task.inputs)
    bits = 120
    if "iterations" in p:
        bits = _room(task) + 72
    elif "target" in p:
        sizes = [1, *(column(task, name).largest for name, _ in design(task))]
        # |det X'X| is at most the product of its diagonal (Hadamard); Cramer's numerators alike.
        den = sum(math.log2(max(n * s * s, 2)) for s in sizes)
        most = max(n * column(task, p["target"]).largest * max(sizes), 2)
        bits = math.ceil(2 * den + math.log2(most) + len(sizes)) + 4
    elif "value" in p:
        most = n * column(task, p["value"]).largest
        bits = max(120, 2 * math.ceil(math.log2(most + 2)) + 48)
    try:
        return mersenne_prime(bits)
    except ShareError as error:
        raise TaskError(str(error)) from None


# --- what an owner encodes ------------------------------------------------------------------------


def encode(task: Task, owner: str, frame: pd.DataFrame, rng: np.random.Generator) -> list[int]:
    """The numbers that an owner splits into shares; TaskError if its table is not as agreed.

    `rng` shuffles rows, so that a position tells nothing.
    """
    ref, p, how = task.input(owner), modulus(task), task.parameters.get("join")
    check_table(frame, ref.schema)
    n = len(frame)
    well_formed(n == ref.rows, f"The task names {ref.rows} rows of {owner}, the table has {n}.")
    if how is None:
        return _encode_pooled(task, frame, p)
    side, names = task.inputs.index(ref), frame[task.parameters["key"]].astype(str)
    frame = frame.iloc[np.argsort(names.to_numpy()) if how == "aligned" else rng.permutation(n)]
    keys = [key_number(v) for v in frame[task.parameters["key"]]]
    columns = [_cells(task, frame[name], name, level) for name, level in parts(task, side)]
    if how == "hidden" and side == 1:
        columns = [_from_roots(keys, p)] + [_polynomial(keys, values, p) for values in columns]
    elif how != "aligned":
        columns = [keys, *columns]
    return [v % p for values in columns for v in values]


def length(task: Task, side: int) -> int:
    """How many numbers an owner hands in: what the processing parties expect."""
    how, n = task.parameters.get("join"), task.inputs[side].rows
    if how is None:
        return 3 * group_count(task)
    roots = how == "hidden" and side == 1  # a polynomial has one coefficient more than roots
    return n * (len(parts(task, side)) + (how != "aligned")) + roots


def _cells(task: Task, cells: pd.Series, name: str, level: str) -> list[int]:
    schema = column(task, name)
    if schema.kind == "category":
        return [int(str(v) == level) for v in cells]
    if "iterations" not in task.parameters:
        return [number(schema, name, v) for v in cells]
    if name == task.parameters["target"]:
        well_formed(set(cells) <= {0, 1}, f"A logistic target is 0 or 1; {name} is not.")
        return [int(v) for v in cells]
    middle, half = (schema.low + schema.high) / 2, (schema.high - schema.low) / 2
    return [round((float(v) - middle) / half * 2**X_BITS) for v in cells]


def _encode_pooled(task: Task, frame: pd.DataFrame, p: int) -> list[int]:
    group, value = task.parameters["group"], task.parameters["value"]
    numbers = []
    for level in column(task, group).levels:
        mine = frame.loc[(frame[group].astype(str) == level).to_numpy(), value]
        cells = [number(column(task, value), value, v) for v in mine]
        numbers += [len(cells), sum(cells) % p, sum(v * v for v in cells) % p]
    return numbers


def _from_roots(roots: Sequence[int], p: int) -> list[int]:
    """Coefficients, lowest first, of the product of (t - root)."""
    poly = [1]
    for r in roots:
        poly = [(a - r * b) % p for a, b in zip([0, *poly], [*poly, 0], strict=True)]
    return poly


def _polynomial(at: Sequence[int], values: Sequence[int], p: int) -> list[int]:
    """Coefficients of the polynomial of degree len - 1 through the points (Newton's form)."""
    table, n = [v % p for v in values], len(at)
    for step in range(1, n):
        for i in range(n - 1, step - 1, -1):
            table[i] = (table[i] - table[i - 1]) * pow(at[i] - at[i - step], -1, p) % p
    poly: list[int] = []
    for x, value in zip(reversed(at), reversed(table), strict=True):
        poly = [(a - x * b) % p for a, b in zip([0, *poly], [*poly, 0], strict=True)]
        poly[0] = (poly[0] + value) % p
    return poly


# --- what the processing parties compute ----------------------------------------------------------


class PublicFacts(Record, frozen=True):
    """What the output party gets beside its numbers: what the output checks decided, no counts."""

    withheld: tuple[int, ...] = ()  # groups that do not leave, by position; a regression is group 0
    singular: bool = False  # whether a regression has no unique solution


@dataclass(frozen=True)
class AnswerShares:
    """A party's shares of the answer, for the output party alone, and the facts beside it."""

    shares: list[int] = field(repr=False)
    public: PublicFacts = field(default_factory=PublicFacts)


@dataclass(repr=False)
class Joined:
    """Rows of the join; with a hidden join all rows of x, zero where there is no match."""

    n: int
    one: Vector
    columns: dict[Cell, Vector]
    matches: int | None = None


async def compute(a: Arithmetic, task: Task, x: list[int], y: list[int]) -> AnswerShares:
    """Run the function of a task on Shamir shares of its two encoded inputs."""
    rows = await _join(a, task, await a.vector(x), await a.vector(y))
    if "target" in task.parameters and await _too_few(a, task, rows):
        await a.verify()
        return AnswerShares([], PublicFacts(withheld=(0,)))
    return await CATALOGUE[task.function].compute(a, task, rows)


async def _join(a: Arithmetic, task: Task, x: Vector, y: Vector) -> Joined:
    nx, ny = (d.rows for d in task.inputs)
    mine, how = [parts(task, side) for side in (0, 1)], task.parameters.get("join")
    if how is None:  # pooled sums are the one column of all groups
        return Joined(0, a.constant(1, 0), {("", ""): a.add(x, y)})
    if how == "aligned":
        cut = {k: v for side, v in zip(mine, (x, y), strict=True) for k, v in _cut(side, v, nx)}
        return Joined(nx, a.constant(1, nx), cut, nx)
    left = dict(_cut(mine[0], x[nx:], nx))
    if how == "hidden":
        return await _hidden_join(a, x[:nx], left, y, mine[1], ny)
    # One masked difference a pair: zero for a match, uniform for none.
    pairs = [(i, j) for i in range(nx) for j in range(ny)]
    differences = a.add(x.take([i for i, _ in pairs]), y.take([j for _, j in pairs]), times=-1)
    at = [pair for pair, same in zip(pairs, await a.zero(differences), strict=True) if same]
    rows = [[pair[side] for pair in at] for side in (0, 1)]
    once = all(len(set(one)) == len(at) for one in rows)
    well_formed(once, "A key matches twice: an owner handed in a key that is not unique.")
    cut = {k: v.take(rows[0]) for k, v in left.items()}
    cut |= {k: v.take(rows[1]) for k, v in _cut(mine[1], y[ny:], ny)}
    return Joined(len(at), a.constant(1, len(at)), cut, len(at))


def _cut(cells: Sequence[Cell], v: Vector, n: int) -> list[tuple[Cell, Vector]]:
    """Columns of n numbers, one after another in a vector."""
    return [(cell, v[i * n : (i + 1) * n]) for i, cell in enumerate(cells)]


async def _hidden_join(  # noqa: PLR0917
    a: Arithmetic, keys: Vector, left: dict[Cell, Vector], y: Vector, right: list[Cell], ny: int
) -> Joined:
    """y comes as polynomials: one with its keys as roots, one through each column's values."""
    nx = len(keys)
    powers = [a.constant(1, nx), keys]  # powers[k] holds the k-th power of every key
    while len(powers) <= ny:
        top, more = powers[-1], min(len(powers) - 1, ny + 1 - len(powers))
        new = await a.mul(a.concat(powers[1 : more + 1]), a.concat([top] * more))
        powers += [new[k * nx : (k + 1) * nx] for k in range(more)]
    by_row = [a.concat([q[i : i + 1] for q in powers]) for i in range(nx)]
    polys = [y[: ny + 1], *(v for _, v in _cut(right, y[ny + 1 :], ny))]
    values = await a.dots([(q, row[: len(q)]) for q in polys for row in by_row])
    match = await a.hidden_zero(values[:nx])
    cells = a.concat([*left.values(), values[nx:]])
    masked = await a.mul(cells, a.concat([match] * (len(left) + len(right))))
    return Joined(nx, match, dict(_cut([*left, *right], masked, nx)))


# --- counts and sums ------------------------------------------------------------------------------


async def _pooled(a: Arithmetic, task: Task, rows: Joined) -> AnswerShares:
    both = rows.columns["", ""]
    return await _release(a, task, [both[3 * g : 3 * g + 3] for g in range(group_count(task))])


async def _join_size(a: Arithmetic, task: Task, rows: Joined) -> AnswerShares:
    return await _release(a, task, [a.total(rows.one) if rows.n else a.constant(0)])


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
        by_row = [a.concat([g[i : i + 1] for g in levels]) for i in range(rows.n)]
        own = await a.dots([(row, totals) for row in by_row])
        over = await a.less(a.scale(own, task.dominance_percent), a.scale(v, 100))
        dominated = [not zero for zero in await a.zero(await a.dots([(g, over) for g in levels]))]
    return await _release(a, task, cells, dominated)


async def _release(
    a: Arithmetic, task: Task, cells: list[Vector], dominated: Sequence[bool] = ()
) -> AnswerShares:
    """Output checks, noise, the check of all products; only then shares that may leave."""
    withheld, groups = {g for g, yes in enumerate(dominated) if yes}, range(len(cells))
    if task.min_group > 1 and task.epsilon is None:
        counts = a.concat([c[:1] for c in cells])
        small = await a.zero(await _product(a, counts, range(1, task.min_group)))
        withheld |= {g for g in groups if small[g]}
        if any(small) and task.parameters.get("join", "aligned") == "aligned":
            # The numbers of rows are public: without a second group they give away the first.
            empty = await a.zero(counts)
            withheld |= {*[g for g in groups if g not in withheld and not empty[g]][:1]}
    shares = [v for g in groups if g not in withheld for v in cells[g].z]
    await a.verify()
    if task.epsilon is not None:
        rows = await a.put_in(noise(task, len(shares)))
        shares = [(s + sum(n)) % a.p for s, *n in zip(shares, *rows, strict=True)]
    return AnswerShares(shares, PublicFacts(withheld=tuple(sorted(withheld))))


async def _product(a: Arithmetic, counts: Vector, steps: Sequence[int]) -> Vector:
    """For each count c the product of (c - s) over steps: zero if c is one of them."""
    n = len(counts)
    layers = [a.add(counts, a.constant(s, n), times=-1) for s in steps]
    while len(layers) > 1:
        half = len(layers) // 2
        merged = await a.mul(a.concat(layers[:half]), a.concat(layers[half : 2 * half]))
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
    kinds = [1]
    if "value" in task.parameters:
        bound = column(task, task.parameters["value"]).largest
        kinds = [1, bound, bound * bound]
    budget = Fraction(task.epsilon) / len(kinds)
    return [discrete_laplace(Fraction(kinds[i % len(kinds)]) / budget) for i in range(n)]


# --- regressions ----------------------------------------------------------------------------------


async def _too_few(a: Arithmetic, task: Task, rows: Joined) -> bool:
    """Whether there are too few rows for a regression."""
    least = max(task.min_group, len(design(task)) + 2)
    if rows.matches is not None:
        return rows.matches < least
    return (await a.zero(await _product(a, a.total(rows.one), range(least))))[0]


async def _linear(a: Arithmetic, task: Task, rows: Joined) -> AnswerShares:
    """Solve X'X b = X'y: open R X'X for a secret random R, invert that, apply it to R X'y."""
    columns = [rows.one, *(rows.columns[cell] for cell in design(task))]
    d, y = len(columns), rows.columns[task.parameters["target"], ""]
    pairs = [(i, j) for i in range(d) for j in range(i, d)]
    moments = await a.dots([(columns[i], columns[j]) for i, j in pairs] + [(c, y) for c in columns])
    at, rhs = {pair: k for k, pair in enumerate(pairs)}, moments[len(pairs) :]
    # X'X is symmetric, so its columns are its rows.
    gram = [moments.take([at[min(i, j), max(i, j)] for i in range(d)]) for j in range(d)]
    masks = a.random(d * d)
    by_row = [masks[r * d : (r + 1) * d] for r in range(d)]
    # The product keeps its twin through the moments, so the mask needs none of its own.
    product = await a.dots([(g, m) for m in by_row for g in gram] + [(rhs, m) for m in by_row])
    opened = await a.open(product.z[: d * d])
    try:
        solution = _solve(a.field, opened, product.z[d * d :])
    except ZeroDivisionError:
        await a.verify()
        return AnswerShares([], PublicFacts(singular=True))
    await a.verify()
    return AnswerShares([*solution, *a.total(rows.one).z])


def _solve(field: Any, matrix: Sequence[int], right: Sequence[int]) -> list[int]:
    """Solution of linear equations in a field, the matrix row by row; or ZeroDivisionError."""
    rows, column = (field.array(list(v)).reshape(len(right), -1) for v in (matrix, right))
    solution: Any = np.linalg.solve(rows, column)
    return [int(v) for v in solution.value.ravel()]


def sigmoid_polynomial() -> tuple[float, float, float]:
    """(c1, c3, c5) of 1/2 + c1 t + c3 t^3 + c5 t^5, least squares on [-6, 6]."""
    t = np.linspace(-SIGMOID_RANGE, SIGMOID_RANGE, 2001)
    odd = np.column_stack([t, t**3, t**5])
    c1, c3, c5 = np.linalg.lstsq(odd, 1 / (1 + np.exp(-t)) - 0.5, rcond=None)[0].tolist()
    return c1, c3, c5


def _room(task: Task) -> int:
    """Bits that a scaled gradient step needs."""
    n, d = max(d.rows for d in task.inputs), len(design(task)) + 1
    # |eta| <= d * |b|; the polynomial leaves its range by at most (d * 16)**5 before it is absurd.
    absurd = 5 * math.ceil(math.log2(16 * d))
    return P_BITS + X_BITS + B_BITS + math.ceil(math.log2(n + 1)) + absurd + 4


async def _logistic(a: Arithmetic, task: Task, rows: Joined) -> AnswerShares:
    """Nesterov's gradient steps; the coefficients stay shared, only their scale is cut back."""
    # Numbers come scaled, indicators do not.
    cells = [a.scale(rows.columns[n, v], 2**X_BITS if v else 1) for n, v in design(task)]
    columns = [a.scale(rows.one, 2**X_BITS), *cells]
    d, n, y = len(columns), rows.n, rows.columns[task.parameters["target"], ""]
    c1, c3, c5 = (round(c * 2 ** (C_BITS + 10)) for c in sigmoid_polynomial())
    step = round(4 / (n * d) * 2**B_BITS * 2**10)  # 1 / (bound on the curvature), 10 bits more
    by_row = [a.concat([c[i : i + 1] for c in columns]) for i in range(n)]
    wanted = a.scale(a.add(a.scale(y, 2), rows.one, times=-1), 2 ** (P_BITS - 1))  # y - 1/2
    beta = ahead = a.constant(0, d)
    for k in range(task.parameters["iterations"]):
        eta = await a.dots([(row, ahead) for row in by_row])
        square = await a.mul(eta, eta)
        fourth = await a.mul(square, square)
        inner = a.add(a.constant(c1 << (4 * ETA_BITS), n), square, times=c3 << (2 * ETA_BITS))
        curve = await a.mul(a.add(inner, fourth, times=c5), eta)
        gradient = await a.dots([(c, a.add(wanted, curve, times=-1)) for c in columns])
        cut = P_BITS + X_BITS + 10
        moved = await a.truncate(a.scale(gradient, step), cut, _room(task) + 10)
        new = a.add(ahead, moved)
        push = round(k / (k + 3) * 2**8)
        onward = a.add(a.scale(new, 2**8 + push), beta, times=-push)
        ahead = await a.truncate(onward, 8, B_BITS + 30)
        beta = new
    return AnswerShares([*beta.z, *a.total(rows.one).z])


# --- how the output party reads the answer --------------------------------------------------------


def decode(task: Task, opened: Sequence[int], public: PublicFacts) -> pd.DataFrame:
    """The answer as a table, from the numbers that only the output party opened.

    Statistics have group, count, sum, mean, variance, NaN where withheld; join_size has count; a
    regression has term, coefficient, rows, or a TaskError if it has no unique solution.
    """
    import pandas as pd

    p = modulus(task)
    numbers = [v if v <= p // 2 else v - p for v in opened]
    if task.function == "join_size":
        return pd.DataFrame({"count": [math.nan if public.withheld else numbers[0]]})
    if "group" in task.parameters:
        return _decode_statistics(task, numbers, public.withheld)
    well_formed(
        not public.withheld, "The join has too few rows for this regression; use fewer columns."
    )
    well_formed(
        not public.singular,
        "The predictors are collinear: there is no unique solution; leave one out.",
    )
    cells = design(task)
    schemas = [column(task, name) for name, _ in cells]
    if "iterations" in task.parameters:
        intercept, *slopes = np.array(numbers[:-1]) / 2**B_BITS
        # Predictors were moved to [-1, 1] by their bounds; indicators were not.
        moves = [
            (0.0, 1.0) if level else ((c.low + c.high) / 2, (c.high - c.low) / 2)
            for c, (_, level) in zip(schemas, cells, strict=True)
        ]
        slopes = [b / half for b, (_, half) in zip(slopes, moves, strict=True)]
        shift = sum(b * middle for b, (middle, _) in zip(slopes, moves, strict=True))
        coefficients = [float(intercept - shift), *map(float, slopes)]
    else:
        unit = column(task, task.parameters["target"]).unit
        units = [1, *(c.unit for c in schemas)]
        exact = zip(opened[:-1], units, strict=True)
        coefficients = [float(_fraction(v, p)) * scale / unit for v, scale in exact]
    terms = ["intercept", *(f"{name}={v}" if v else name for name, v in cells)]
    return pd.DataFrame({"term": terms, "coefficient": coefficients, "rows": numbers[-1]})


def _decode_statistics(task: Task, numbers: Sequence[int], withheld: Sequence[int]) -> pd.DataFrame:
    import pandas as pd

    group, value = task.parameters["group"], task.parameters["value"]
    unit, rows, left = column(task, value).unit, [], iter(numbers)
    for g, level in enumerate(column(task, group).levels):
        if g in withheld:
            rows.append((level, *[math.nan] * 4))
            continue
        n, total, squares = next(left), next(left), next(left)
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


# --- the catalogue --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Function:
    """An entry of the catalogue."""

    compute: Callable[[Arithmetic, Task, Joined], Awaitable[AnswerShares]]
    needs: Mapping[str, str]  # parameter -> kind of column it names, or "columns", or "int"
    levels: tuple[str, ...] = ("majority", "checked")
    joins: bool = True  # about the join of the files, or about their rows together
    noise: bool = True  # whether it can be added


_GROUPED = {"group": "category", "value": "number"}
_REGRESSION = {"target": "number", "predictors": "columns"}
CATALOGUE = {
    # count, sum, mean and variance by group, over the rows of both files or over the join
    "pooled_statistics": Function(
        _pooled, _GROUPED, ("all-but-one", "majority", "checked"), joins=False
    ),
    "joined_statistics": Function(_statistics, _GROUPED),
    # how many keys are in both files
    "join_size": Function(_join_size, {}),
    # exact least-squares coefficients on the join
    "joined_linear_regression": Function(_linear, _REGRESSION, noise=False),
    # logistic coefficients on the join, sigmoid by a polynomial
    "joined_logistic_regression": Function(
        _logistic, {**_REGRESSION, "iterations": "int"}, ("majority",), noise=False
    ),
}
