"""Graphical models whose margins form a forest: fitting to noisy margins, and drawing rows.

The estimate is mbi's: its mirror descent (arXiv:1901.09136, algorithm 1), from the same start by
the same steps, for the special case that MST needs: margins of one and two columns without cycles.
mbi compiles a new program for every set of margins, which takes most of its time on a table of this
size; here the forest is an argument of one compiled program.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np

from pet_lab.checks import require

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


def fit_forest(
    sizes: Sequence[int],
    measurements: Sequence[Measurement],
    *,
    total: float,
    iterations: int = 5000,
) -> Forest:
    """Fit the forest whose edges are the two-column measurements; ValueError for a cycle.

    Parameters
    ----------
    sizes : codes per column.
    measurements : sequence of `Measurement`
        At least one per column (a pair counts for both). Two-column ones must form a forest.
    total : number of records.
    iterations : int
        Steps taken; smartnoise takes 5000, and where the noise is large they are not the limit.
    """
    order, parent = _rooted(len(sizes), [m.columns for m in measurements if len(m.columns) == 2])
    width = np.array([sizes[column] for column in order])
    place = {column: i for i, column in enumerate(order)}
    up = np.array([place[parent[c]] if parent[c] >= 0 else -1 for c in order])
    table = np.where(up < 0, 0, width[up] * width)
    # Counts of all columns one after another, and of all pairs of a column with its parent.
    nodes, pairs = (np.concatenate([[0], np.cumsum(part)]) for part in (width, table))
    y1, w1, q1 = np.zeros(nodes[-1]), np.zeros(nodes[-1]), np.ones(nodes[-1])
    y2, w2 = np.zeros(pairs[-1]), np.zeros(pairs[-1])
    for m in measurements:
        *above, i = sorted(place[column] for column in m.columns)
        weight, counts = 1.0 / max(m.sigma, _EXACT) ** 2, m.values
        if above:
            counts = counts if place[m.columns[1]] == i else counts.T
            y2[pairs[i] : pairs[i + 1]], w2[pairs[i] : pairs[i + 1]] = counts.ravel(), weight
        else:
            own = slice(nodes[i], nodes[i + 1])
            y1[own], w1[own] = counts, weight
            q1[own] = 1.0 if m.scale is None else m.scale
    problem = (up, width, nodes, pairs, y1, w1, q1, y2, w2)
    first = 2.0 / (_steepest(problem, [m.columns for m in measurements], place) * total)
    node, joint = _descend(problem, total, first, iterations)
    margins = {c: _normal(node[nodes[i] : nodes[i + 1]]) for c, i in place.items()}
    linked = {
        c: _normal(joint[pairs[i] : pairs[i + 1]].reshape(width[up[i]], width[i]))
        for c, i in place.items()
        if up[i] >= 0
    }
    ordered = [margins[column] for column in range(len(sizes))]
    return Forest(order=order, parent=parent, margins=ordered, pairs=linked)


def _normal(values: np.ndarray) -> np.ndarray:
    return values / values.sum()


Problem = tuple[np.ndarray, ...]


def _steepest(
    problem: Problem, measured: Sequence[tuple[int, ...]], place: dict[int, int]
) -> float:
    """The largest eigenvalue of the loss's second derivative, by 50 power iterations as in mbi.

    mbi keeps one table of potentials a pair, and a column's measurement acts on the first pair
    that holds the column: it sums the table over the other column.
    """
    _, width, nodes, pairs, _, w1, q1, _, w2 = problem
    hosts: dict[int, list[int]] = {}
    edges = [sorted(place[c] for c in columns) for columns in measured if len(columns) == 2]
    for i in range(len(width)):
        hosts.setdefault(next((b for a, b in edges if i in (a, b)), -1 - i), []).append(i)
    blocks: list[tuple[np.ndarray, np.ndarray, list[tuple[np.ndarray, int]]]] = []
    for host, guests in hosts.items():
        weights = {i: (w1 * q1**2)[nodes[i] : nodes[i + 1]] for i in guests}
        if host < 0:
            blocks.append((np.ones(width[guests[0]]), weights[guests[0]], []))
            continue
        own = w2[pairs[host] : pairs[host + 1]].reshape(-1, width[host])
        sums = [(weights[i][:, None], 1) if i != host else (weights[i], 0) for i in guests]
        blocks.append((np.ones(own.shape), own, sums))
    vectors, length = [v for v, *_ in blocks], 1.0
    for _ in range(51):  # the first round only makes the start a unit vector
        length = float(np.sqrt(sum((v**2).sum() for v in vectors)))
        vectors = [v / length for v in vectors]
        vectors = [
            own * v + sum(w * v.sum(axis=axis, keepdims=True) for w, axis in sums)
            for v, (_, own, sums) in zip(vectors, blocks, strict=True)
        ]
    return float(np.sqrt(sum((v**2).sum() for v in vectors)))


@numba.njit(cache=True)
def _margins(problem, potentials, total, node, joint):  # type: ignore[no-untyped-def]
    """Belief propagation, to the roots and back: fills `node` and `joint` with expected counts."""
    up, width, nodes, pairs = problem[:4]
    belief, pair = potentials[0].copy(), potentials[1]
    for i in range(up.size - 1, -1, -1):
        for a in range(width[up[i]] if up[i] >= 0 else 0):
            row = pairs[i] + a * width[i]
            top, norm = -np.inf, 0.0
            for b in range(width[i]):
                joint[row + b] = pair[row + b] + belief[nodes[i] + b]
                top = max(top, joint[row + b])
            for b in range(width[i]):
                joint[row + b] = np.exp(joint[row + b] - top)
                norm += joint[row + b]
            for b in range(width[i]):
                joint[row + b] /= norm  # the chance of b given a
            belief[nodes[up[i]] + a] += top + np.log(norm)
    for i in range(up.size):
        own = node[nodes[i] : nodes[i + 1]]
        if up[i] < 0:
            of_root = belief[nodes[i] : nodes[i + 1]]
            own[:] = np.exp(of_root - of_root.max())
            own *= total / own.sum()
            continue
        own[:] = 0.0
        for a in range(width[up[i]]):
            row = pairs[i] + a * width[i]
            for b in range(width[i]):
                joint[row + b] *= node[nodes[up[i]] + a]
                own[b] += joint[row + b]


@numba.njit(cache=True)
def _descend(problem, total, step, iterations):  # type: ignore[no-untyped-def]
    """mbi's mirror descent: expected counts of columns and of pairs, laid out as the problem is."""
    y1, w1, q1, y2, w2 = problem[4:]
    unary, pair = np.zeros_like(y1), np.zeros_like(y2)
    node, joint = np.zeros_like(y1), np.zeros_like(y2)
    new_node, new_joint = np.zeros_like(y1), np.zeros_like(y2)
    _margins(problem, (unary, pair), total, node, joint)
    for _ in range(iterations):
        r1, r2 = q1 * node - y1, joint - y2
        g1, g2 = w1 * q1 * r1, w2 * r2
        new_unary, new_pair = unary - step * g1, pair - step * g2
        _margins(problem, (new_unary, new_pair), total, new_node, new_joint)
        s1, s2 = q1 * new_node - y1, new_joint - y2
        gain = 0.5 * ((w1 * (r1 * r1 - s1 * s1)).sum() + (w2 * (r2 * r2 - s2 * s2)).sum())
        promised = (g1 * (node - new_node)).sum() + (g2 * (joint - new_joint)).sum()
        if gain >= 0.5 * step * promised:  # longer by 1 % after a success, half after a failure
            unary, pair, step = new_unary, new_pair, 1.01 * step
            node[:], joint[:] = new_node, new_joint
        else:
            step *= 0.5
    return node, joint


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
