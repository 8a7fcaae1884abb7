"""Graphical models whose margins form a forest: fitting to noisy margins, and drawing rows.

The estimate is the one of mbi's mirror descent (the joint distribution of maximal entropy that
best fits the noisy margins, arXiv:1901.09136), for the special case that MST needs: margins of one
and two columns without cycles. mbi compiles a new program for every set of margins, which takes
most of its time on a table of this size; here the forest is an argument of one compiled program.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pet_lab.checks import require

_NEVER = -1e30
_CHECK_EVERY = 100
_EXACT = 1e-9
"""Stands for a noise of zero, which would make weights infinite."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A noisy margin.

    columns  one or two positions of columns
    values   noisy counts, shape (size,) or (size of first, size of second)
    sigma    standard deviation of the noise in `values`
    scale    factors by which the true counts were multiplied before the noise; one-column only
    """

    columns: tuple[int, ...]
    values: np.ndarray
    sigma: float
    scale: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Forest:
    """A fitted model.

    order    columns, each after its parent
    parent   of each column, -1 for a root
    margins  probabilities of each column, shape (size,)
    pairs    column -> joint probabilities with its parent, shape (size of parent, size)
    """

    order: list[int]
    parent: list[int]
    margins: list[np.ndarray]
    pairs: dict[int, np.ndarray]

    def pair(self, a: int, b: int) -> np.ndarray:
        """Joint probabilities of two linked columns, shape (size of a, size of b)."""
        return self.pairs[b] if self.parent[b] == a else self.pairs[a].T


def _rooted(n: int, edges: Sequence[tuple[int, ...]]) -> tuple[list[int], list[int]]:
    """(order, parent): every column after its parent; roots have parent -1."""
    import networkx as nx

    graph = nx.Graph()
    graph.add_nodes_from(range(n))
    graph.add_edges_from(edges)
    acyclic = graph.number_of_edges() == n - nx.number_connected_components(graph)
    require(acyclic, "The linked columns must form a forest, got a cycle.")
    order = list(nx.dfs_postorder_nodes(graph))[::-1]
    place = {node: i for i, node in enumerate(order)}
    parent = [-1] * n
    for edge in graph.edges:
        first, second = sorted(edge, key=place.__getitem__)
        parent[second] = first
    return order, parent


def closest_counts(m: Measurement, total: float) -> np.ndarray:
    """Non-negative counts with sum `total` that fit a one-column measurement best.

    The least-squares projection on a scaled simplex; the limit of mbi's mirror descent for a model
    without links. With factors `scale` the closed form no longer holds; bisection on the multiplier
    of the sum works for both.
    """
    q = np.ones_like(m.values) if m.scale is None else m.scale
    low, high = -1e9, 1e9
    for _ in range(200):
        middle = (low + high) / 2
        x = np.maximum((q * m.values - middle) / q**2, 0.0)
        low, high = (middle, high) if x.sum() > total else (low, middle)
    return x


def fit_forest(
    sizes: Sequence[int],
    measurements: Sequence[Measurement],
    *,
    total: float,
    iterations: int = 5000,
    tolerance: float = 1e-3,
) -> Forest:
    """Fit the forest whose edges are the two-column measurements; ValueError for a cycle.

    Parameters
    ----------
    sizes : sequence of int
        Codes per column.
    measurements : sequence of `Measurement`
        At least one per column (a pair counts for both). Two-column ones must form a forest.
    total : float
        Number of records.
    iterations : int
        Most steps taken; smartnoise takes 5000, always.
    tolerance : float
        Stop when 100 steps improve the loss by less than this share of (loss + the loss that the
        true counts would leave); 0 takes all steps.
    """
    order, parent = _rooted(len(sizes), [m.columns for m in measurements if len(m.columns) == 2])
    linked = {column for m in measurements if len(m.columns) == 2 for column in m.columns}
    # A column without links is on its own: no iteration needed.
    margins = {
        m.columns[0]: _normal(closest_counts(m, total))
        for m in measurements
        if m.columns[0] not in linked
    }
    pairs: dict[int, np.ndarray] = {}
    if linked:
        chain = [column for column in order if column in linked]
        problem = _pad(sizes, measurements, chain, parent)
        node, joint = _solve(problem, total=total, iterations=iterations, tolerance=tolerance)
        for i, column in enumerate(chain):
            margins[column] = _normal(node[i, : sizes[column]])
            if (above := parent[column]) >= 0:
                pairs[column] = _normal(joint[i, : sizes[above], : sizes[column]])
    ordered = [margins[column] for column in range(len(sizes))]
    return Forest(order=order, parent=parent, margins=ordered, pairs=pairs)


def _pad(
    sizes: Sequence[int],
    measurements: Sequence[Measurement],
    chain: Sequence[int],
    parent: Sequence[int],
) -> tuple[np.ndarray, ...]:
    """Arrays of one width for the columns in `chain`: (up, mask, y1, w1, q1, y2, w2).

    up[i] is the row of the parent; y, w, q are values, weights (0 = not measured) and factors.
    """
    n, width = len(chain), -(-max(sizes[c] for c in chain) // 8) * 8
    place = {column: i for i, column in enumerate(chain)}
    mask = np.arange(width) < np.array([[sizes[column]] for column in chain])
    y1, w1, q1 = np.zeros((n, width)), np.zeros((n, width)), np.ones((n, width))
    y2, w2 = np.zeros((n, width, width)), np.zeros((n, width, width))
    for m in measurements:
        if m.columns[0] not in place:
            continue
        weight = 1.0 / max(m.sigma, _EXACT) ** 2
        if len(m.columns) == 1:
            i, size = place[m.columns[0]], sizes[m.columns[0]]
            y1[i, :size], w1[i, :size] = m.values, weight
            if m.scale is not None:
                q1[i, :size] = m.scale
        else:
            a, b = m.columns
            values = m.values
            if parent[b] != a:
                a, b, values = b, a, values.T
            y2[place[b], : sizes[a], : sizes[b]] = values
            w2[place[b], : sizes[a], : sizes[b]] = weight
    # The root of a second tree hangs on the first by a table that stays flat, thus independent.
    up = np.array([place[parent[c]] if parent[c] >= 0 else 0 for c in chain])
    return up, mask, y1, w1, q1, y2, w2


def _normal(values: np.ndarray) -> np.ndarray:
    return values / values.sum()


def _warm_start(problem: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Potentials whose margins are the noisy ones, cut off at a tenth of their noise.

    The problem is convex, so the start changes the number of steps, not where they lead.
    """
    up, mask, y1, w1, q1, y2, w2 = problem
    unary, pair = np.zeros_like(y1), np.zeros_like(y2)
    for i in range(len(mask)):
        linked = i > 0 and w2[i].any()
        if not linked and w1[i].any():
            floor = 0.1 / np.sqrt(w1[i].max())
            unary[i] = np.where(mask[i], np.log(np.maximum(y1[i] / q1[i], floor)), 0.0)
        elif linked:
            valid = mask[up[i]][:, None] & mask[i][None, :]
            table = np.where(valid, np.maximum(y2[i], 0.1 / np.sqrt(w2[i].max())), 1.0)
            rows = np.where(valid, table, 0.0).sum(axis=1, keepdims=True)
            pair[i] = np.where(valid, np.log(table / np.maximum(rows, 1e-300)), 0.0)
    return unary, pair


def _solve(
    problem: tuple[np.ndarray, ...], *, total: float, iterations: int, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Counts of the nodes and of the joints with their parents, padded as the problem is."""
    from jax.experimental import enable_x64

    w1, w2 = problem[3], problem[6]
    step = 1.0 / (2.0 * total * max(w1.max(), w2.max()))
    # The truth itself would leave a loss of about half the measured cells.
    slack = 0.5 * (np.count_nonzero(w1) + np.count_nonzero(w2))
    limits = step, iterations, float(tolerance), slack
    # Double precision only in here: the switch is global, and other programs want single.
    with enable_x64():
        node, joint = _program()(problem, _warm_start(problem), total, limits)
        return np.asarray(node), np.asarray(joint)


@functools.cache
def _program() -> Any:
    """The compiled mirror descent of mbi on a forest."""
    import jax
    import jax.numpy as jnp

    def logsumexp(a: Any, axis: int) -> Any:
        top = a.max(axis=axis, keepdims=True)
        return (top + jnp.log(jnp.exp(a - top).sum(axis=axis, keepdims=True))).squeeze(axis)

    def margins(unary: Any, pair: Any, up: Any, total: Any) -> Any:
        """Belief propagation: to the root, then back. Rows are columns in rooted order."""
        n, width = unary.shape

        def collect(belief: Any, i: Any) -> Any:
            message = logsumexp(pair[i] + belief[i][None, :], 1)
            return belief.at[up[i]].add(message), message

        belief, messages = jax.lax.scan(collect, unary, jnp.arange(n - 1, 0, -1))
        messages = messages[::-1]

        def distribute(node: Any, i: Any) -> Any:
            given_parent = pair[i] + belief[i][None, :] - messages[i - 1][:, None]
            joint = jnp.exp(node[up[i]][:, None] + given_parent)
            return node.at[i].set(jnp.log(jnp.maximum(joint.sum(axis=0), 1e-300))), joint

        root = jnp.full((n, width), _NEVER).at[0].set(belief[0] - logsumexp(belief[0], 0))
        node, joints = jax.lax.scan(distribute, root, jnp.arange(1, n))
        joints = jnp.concatenate([jnp.zeros((1, width, width)), joints])
        return jnp.exp(node) * total, joints * total

    def solve(problem: Any, start: Any, total: Any, limits: Any) -> Any:
        step, iterations, tolerance, slack = limits
        up, mask, y1, w1, q1, y2, w2 = problem
        closed = jnp.where(mask, 0.0, _NEVER)

        def evaluate(unary: Any, pair: Any) -> Any:
            node, joint = margins(unary + closed, pair, up, total)
            r1, r2 = q1 * node - y1, joint - y2
            loss = 0.5 * (w1 * r1 * r1).sum() + 0.5 * (w2 * r2 * r2).sum()
            return node, joint, loss, w1 * q1 * r1, w2 * r2

        def body(carry: Any) -> Any:
            t, unary, pair, here, step, reference, _ = carry
            node, joint, loss, g1, g2 = here
            unary_next, pair_next = unary - step * g1, pair - step * g2
            there = evaluate(unary_next, pair_next)
            promised = (g1 * (node - there[0])).sum() + (g2 * (joint - there[1])).sum()
            accept = loss - there[2] >= 0.5 * step * promised
            unary, pair, here = jax.tree.map(
                lambda new, old: jnp.where(accept, new, old),
                (unary_next, pair_next, there),
                (unary, pair, here),
            )
            check = (t + 1) % _CHECK_EVERY == 0
            done = check & (reference - here[2] < tolerance * (here[2] + slack))
            reference = jnp.where(check, here[2], reference)
            # The step of mbi: longer by 1 % after a success, half after a failure.
            step = jnp.where(accept, 1.01 * step, 0.5 * step)
            return t + 1, unary, pair, here, step, reference, done

        first = evaluate(*start)
        carry = (0, *start, first, jnp.asarray(step), jnp.asarray(jnp.inf), jnp.asarray(False))
        final = jax.lax.while_loop(lambda c: (c[0] < iterations) & ~c[-1], body, carry)
        return final[3][:2]

    return jax.jit(solve)


def draw_rows(
    forest: Forest, rows: int, *, method: str, rng: np.random.Generator | np.random.RandomState
) -> list[np.ndarray]:
    """Draw codes from the model, column after column, each given the one it is linked to.

    The method is one of:

    ``"sample"``    independent rows.
    ``"round"``     what mbi 1.1 does by default: among rows of equal parent the numbers that decide
                    the child are spread evenly *in the order of the rows*. Two children of one
                    column then rise together although the model has them independent, and rows
                    repeat.
    ``"shuffled"``  the same even spread, in random order: as close to the margins, without the
                    false dependence.

    Returns a list of int64 arrays, shape (rows,), one per column.
    """
    drawn: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(forest.order)
    for column in forest.order:
        if forest.parent[column] < 0:
            drawn[column] = _draw_root(forest.margins[column], rows, method, rng)
            continue
        joint = forest.pairs[column]
        below = joint.sum(axis=1, keepdims=True)
        chance = np.divide(joint, below, out=np.zeros_like(joint), where=below > 0)
        levels, inverse, counts = np.unique(
            drawn[forest.parent[column]], return_inverse=True, return_counts=True
        )
        if method == "sample":
            u = rng.random(rows)
        else:
            key = inverse if method == "round" else inverse + rng.random(rows)
            by_group = np.argsort(key, kind="stable")
            starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
            rank = np.empty(rows, dtype=int)
            rank[by_group] = np.arange(rows) - starts[inverse[by_group]]
            u = (rank + rng.random(rows)) / counts[inverse]
        cumulated = chance.cumsum(axis=1)[levels][inverse]
        chosen = np.minimum((u[:, None] >= cumulated).sum(axis=1), joint.shape[1] - 1)
        drawn[column] = chosen.astype(np.int64)
    return drawn


def _draw_root(
    margin: np.ndarray, rows: int, method: str, rng: np.random.Generator | np.random.RandomState
) -> np.ndarray:
    if method == "sample":
        return rng.choice(margin.size, rows, True, _normal(margin)).astype(np.int64)
    fraction, whole = np.modf(_normal(margin) * rows)
    counts = whole.astype(int)
    extra = rows - counts.sum()
    if extra > 0:
        counts[rng.choice(margin.size, extra, False, _normal(fraction))] += 1
    values = np.repeat(np.arange(margin.size), counts)
    rng.shuffle(values)
    return values.astype(np.int64)
