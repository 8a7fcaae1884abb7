"""Blocking in whole arrays, linkage by exact keys or by Dice, one-to-one resolution.

Memory is bounded: pairs are made in batches and only links are kept. Totals over blocked pairs need
no pairs at all (a sum of products of block sums).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from scipy import sparse

from pet_lab.checks import between, one_of, require
from pet_lab.linkage.filters import THRESHOLD_HINT, Filters, Kernel, dice_kernel, dice_pairs
from pet_lab.linkage.text import text_codes

DEFAULT_MAX_PAIRS = 50_000_000
"""Pairs that may be held at once: about 1.2 GB of indices and similarities."""

DEFAULT_MAX_BLOCK = 1_000_000_000
"""Comparisons one block may ask for: about ten seconds of the compiled kernel."""

_KERNEL_FROM = 64  # pairs a block from which one call of the kernel beats whole arrays (measured)


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Two files cut into blocks that agree on a key.

    code_a, code_b  block of each record, shapes (n_a,), (n_b,); -1: key missing, in no block
    columns         columns of the key, for messages
    """

    code_a: np.ndarray
    code_b: np.ndarray
    n_blocks: int
    columns: tuple[str, ...]

    @cached_property
    def size_a(self) -> np.ndarray:
        """Records of a in each block, shape (n_blocks,)."""
        return np.bincount(self.code_a[self.code_a >= 0], minlength=self.n_blocks)

    @cached_property
    def size_b(self) -> np.ndarray:
        """Records of b in each block, shape (n_blocks,)."""
        return np.bincount(self.code_b[self.code_b >= 0], minlength=self.n_blocks)

    @property
    def pairs_per_block(self) -> np.ndarray:
        """Pairs of each block, shape (n_blocks,)."""
        return self.size_a * self.size_b

    @property
    def n_pairs(self) -> int:
        """Blocked pairs in all."""
        return int(self.pairs_per_block.sum())

    @cached_property
    def neighbours(self) -> np.ndarray:
        """Records of b in the block of each record of a, shape (n_a,)."""
        return np.append(self.size_b, 0)[self.code_a]  # -1 takes the 0

    def sums_a(self, x: np.ndarray) -> np.ndarray:
        """Sum of x over the a-records of each block, shape (n_blocks,)."""
        inside = self.code_a >= 0
        return np.bincount(self.code_a[inside], weights=x[inside], minlength=self.n_blocks)

    def sums_b(self, z: np.ndarray) -> np.ndarray:
        """Sum of z over the b-records of each block, shape (n_blocks,)."""
        inside = self.code_b >= 0
        return np.bincount(self.code_b[inside], weights=z[inside], minlength=self.n_blocks)

    def total(self, x: np.ndarray, z: np.ndarray) -> float:
        """Sum of x[i] * z[j] over all blocked pairs, without making a pair."""
        return float(self.sums_a(x) @ self.sums_b(z))

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Rows of a and of b in the order of their blocks, and where each block starts."""
        starts, orders = [], []
        for code, size in ((self.code_a, self.size_a), (self.code_b, self.size_b)):
            # A stable sort of small codes in linear time: scipy's coo -> csr.
            at, shape = np.arange(code.size), (self.n_blocks + 1, max(code.size, 1))
            order = sparse.csr_matrix((at, (code + 1, at)), shape=shape).data.astype(np.int64)
            orders.append(order[int((code < 0).sum()) :])
            starts.append(np.concatenate([[0], np.cumsum(size)]))
        return orders[0], orders[1], starts[0], starts[1]

    def rows(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of a and rows of b in a range of blocks, block by block."""
        order_a, order_b, start_a, start_b = self._sorted
        return order_a[start_a[first] : start_a[last]], order_b[start_b[first] : start_b[last]]

    def batches(self, max_pairs: int) -> Iterator[tuple[int, int]]:
        """Ranges of blocks of at most `max_pairs` pairs; a larger block comes alone."""
        ends = np.concatenate([[0], np.cumsum(self.pairs_per_block)])
        first = 0
        while first < self.n_blocks:
            last = int(np.searchsorted(ends, ends[first] + max_pairs, side="right")) - 1
            last = max(last, first + 1)
            yield first, last
            first = last

    def pairs(self, *, max_pairs: int = DEFAULT_MAX_PAIRS) -> tuple[np.ndarray, np.ndarray]:
        """All blocked pairs, rows of a and rows of b; ValueError if more than `max_pairs`."""
        self.limit("pairs", self.n_pairs, max_pairs)
        return self.pairs_of(0, self.n_blocks)

    def pairs_of(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """The pairs of a range of blocks: rows of a, rows of b."""
        rows, cols = self.rows(first, last)
        block = np.repeat(np.arange(last - first), self.size_a[first:last])
        partners = self.size_b[first:last][block]
        ends = np.cumsum(partners)
        offset = np.arange(int(ends[-1]) if ends.size else 0) - np.repeat(ends - partners, partners)
        start_b = self._sorted[3][first:last] - self._sorted[3][first]
        return np.repeat(rows, partners), cols[np.repeat(start_b[block], partners) + offset]

    def limit(self, what: str, count: int, most: int) -> None:
        """Refuse what asks for too much: says how much, how much memory, and which block."""
        if count > most:
            worst = int(np.argmax(self.pairs_per_block))
            raise ValueError(
                f"Blocking on {', '.join(self.columns)} asks for {count:,} {what} "
                f"({count * 24 / 2**30:,.1f} GiB if held at once), above the limit of {most:,}; "
                f"its largest block has {self.size_a[worst]:,} x {self.size_b[worst]:,} records. "
                "Add a column to the blocking key, or raise the limit."
            )


def block(a: pd.DataFrame, b: pd.DataFrame, on: Sequence[str]) -> Blocks:
    """Cut two files into blocks that agree on every column of `on`, columns of both.

    Values agree as their normal forms do (`text.plain_text`, as for encoding). A record with a
    missing or blank value in the key is in no block, since two unknowns are not an agreement; a
    warning says how many.
    """
    on = [on] if isinstance(on, str) else list(on)
    for name, frame in (("first", a), ("second", b)):
        missing = [c for c in on if c not in frame.columns]
        require(
            on and not missing,
            f"A blocking key names columns of both files; {missing or 'no column'} not in the "
            f"{name} file, which has {list(frame.columns)}.",
        )
    n_a = len(a)
    code = np.zeros(n_a + len(b), dtype=np.int64)
    absent = np.zeros(code.size, dtype=bool)
    n_codes = 1
    for column in on:
        part, n_values = text_codes([a[column], b[column]])
        absent |= part < 0
        code = code * n_values + np.maximum(part, 0)
        n_codes *= max(n_values, 1)
        if n_codes > 2**40:  # room for one more column, whatever its size
            code, seen = pd.factorize(code)
            n_codes = len(seen)
    code[~absent], seen = pd.factorize(code[~absent])
    code[absent] = -1
    columns = tuple(map(str, on))
    if absent.any():
        warnings.warn(
            f"{absent[:n_a].sum():,} of {n_a:,} records of the first file and "
            f"{absent[n_a:].sum():,} of {len(b):,} of the second lack a part of the key "
            f"({', '.join(columns)}) and are compared with nothing; fill it, or block on further "
            "keys.",
            stacklevel=2,
        )
    return Blocks(code_a=code[:n_a], code_b=code[n_a:], n_blocks=len(seen), columns=columns)


@dataclass(frozen=True, kw_only=True)
class Links:
    """The links of two files, and what the neighbour error model needs of them.

    i, j          linked rows of the first and second file, shape (n_links,)
    similarity    Dice of each link; 1 where keys were compared exactly
    n_blocked     blocked neighbours of each record of the first file, shape (n_a,)
    blocks        the blocks of the first blocking key
    one_to_one    whether the links were resolved: their number per record then says nothing about
                  false links
    """

    i: np.ndarray
    j: np.ndarray
    similarity: np.ndarray
    n_blocked: np.ndarray
    blocks: Blocks
    one_to_one: bool = False

    def __len__(self) -> int:
        return int(self.i.size)

    @property
    def n_a(self) -> int:
        """Records of the first file."""
        return int(self.blocks.code_a.size)

    @property
    def n_b(self) -> int:
        """Records of the second file."""
        return int(self.blocks.code_b.size)

    @cached_property
    def n_linked(self) -> np.ndarray:
        """Linked neighbours of each record of the first file, shape (n_a,)."""
        return np.bincount(self.i, minlength=self.n_a)

    def sole(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Whether the records i and j have just one link each here."""
        return (self.n_linked[i] == 1) & (np.bincount(self.j, minlength=self.n_b)[j] == 1)

    def keep(self, chosen: np.ndarray, *, one_to_one: bool = False) -> Links:
        """Some of the links: `chosen` holds their positions, or a mask."""
        i, j, similarity = self.i[chosen], self.j[chosen], self.similarity[chosen]
        return replace(self, i=i, j=j, similarity=similarity, one_to_one=one_to_one)

    def at_least(self, similarity: float) -> Links:
        """The links of at least this similarity."""
        return self.keep(self.similarity >= similarity)

    def total(self, x: np.ndarray, z: np.ndarray) -> float:
        """Sum of x[i] * z[j] over the links."""
        return float(x[self.i] @ z[self.j])

    def accuracy(self, truth: np.ndarray) -> Accuracy:
        """Actual rates; `truth` is the row of b that each row of a matches, -1 for none."""
        true_links = int((truth[self.i] == self.j).sum())
        matches = int((truth >= 0).sum())
        return Accuracy(
            true_links=true_links,
            false_links=len(self) - true_links,
            matches=matches,
            unmatched_pairs=self.n_a * self.n_b - matches,
        )


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Counts of the confusion matrix (report, table 2.1) and their rates, NaN where undefined."""

    true_links: int
    false_links: int
    matches: int
    unmatched_pairs: int

    @property
    def recall(self) -> float:
        """Share of the matches that are linked."""
        return self.true_links / self.matches if self.matches else float("nan")

    @property
    def precision(self) -> float:
        """Share of the links that are matches."""
        links = self.true_links + self.false_links
        return self.true_links / links if links else float("nan")

    @property
    def fpr(self) -> float:
        """False links per non-matching pair of the Cartesian product."""
        return self.false_links / self.unmatched_pairs if self.unmatched_pairs else float("nan")


def link_exact(
    a: pd.DataFrame,
    b: pd.DataFrame,
    *,
    block_on: Sequence[str],
    on: Sequence[str],
    max_pairs: int = DEFAULT_MAX_PAIRS,
) -> Links:
    """Link the pairs that agree on every column of `on` and of the blocking key.

    Source: first scenario of the report, paragraph 34.
    """
    blocks = block(a, b, block_on)
    fine = block(a, b, list(dict.fromkeys([*block_on, *on])))
    i, j = fine.pairs(max_pairs=max_pairs)
    same = np.ones(i.size)
    return Links(i=i, j=j, similarity=same, n_blocked=blocks.neighbours, blocks=blocks)


def link(
    a: Filters,
    b: Filters,
    blocks: Blocks | Sequence[Blocks],
    *,
    threshold: float,
    max_block: int = DEFAULT_MAX_BLOCK,
    batch_pairs: int = 2_000_000,
) -> Links:
    """Link the blocked pairs whose filters have a Dice of at least `threshold`, block by block.

    A pair at exactly the threshold is linked; with several blocking keys it is compared once, if it
    agrees on at least one. `max_block` bounds the comparisons that one block may ask for,
    `batch_pairs` the pairs compared at once, and so the memory (about 200 bytes a pair).
    """
    between(0, 1, threshold=threshold, hint=THRESHOLD_HINT)
    keys = [blocks] if isinstance(blocks, Blocks) else list(blocks)
    require(keys, "link needs at least one blocking key; for none use dice_all.")
    for key in keys:
        n_a, n_b = key.code_a.size, key.code_b.size
        require(
            (n_a, n_b) == (len(a), len(b)),
            f"The blocks are of files with {n_a} and {n_b} records, the filters of {len(a)} and "
            f"{len(b)}; pass both of the same files.",
        )
        largest = int(key.pairs_per_block.max(initial=0))
        key.limit("comparisons in one block", largest, max_block)
    kernel = dice_kernel()
    parts = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    n_blocked = keys[0].neighbours.copy()
    for rank, key in enumerate(keys):
        for first, last in key.batches(batch_pairs):
            large = key.pairs_per_block[first:last] >= _KERNEL_FROM
            if rank == 0 and kernel is not None and large.mean() > 0.5:
                parts += _by_kernel(kernel, a, b, key, span=(first, last), threshold=threshold)
                continue
            for i, j in _slices(key, first, last, batch_pairs):
                if rank:
                    fresh = ~_agree(keys[:rank], i, j)
                    i, j = i[fresh], j[fresh]  # noqa: PLW2901 - the pairs not compared before
                    n_blocked += np.bincount(i, minlength=len(a))
                similarity = dice_pairs(a, b, i, j)
                hit = similarity >= threshold
                parts.append((i[hit], j[hit], similarity[hit]))
    i, j, similarity = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Links(i=i, j=j, similarity=similarity, n_blocked=n_blocked, blocks=keys[0])


def resolve(links: Links, *, method: str = "greedy") -> Links:
    """Keep at most one link a record on either side.

    "greedy": best similarity first; ties go to the smaller rows. "optimal": the largest sum of
    similarities among the matchings (scipy's sparse bipartite matching). The neighbour error model
    no longer applies to the result: it asks that the decision to link two records involves no other
    record (report, paragraph 21).
    """
    one_of(("greedy", "optimal"), method=method)
    if method == "optimal":
        return links.keep(_optimal(links), one_to_one=True)
    order = np.lexsort((links.j, links.i, -links.similarity))
    free_a, free_b = np.ones(links.n_a, bool), np.ones(links.n_b, bool)
    keep = links.sole(links.i, links.j)  # the loop is only over contested links
    for k in order[~keep[order]]:
        if free_a[links.i[k]] and free_b[links.j[k]]:
            free_a[links.i[k]] = free_b[links.j[k]] = False
            keep[k] = True
    return links.keep(keep, one_to_one=True)


def _optimal(links: Links) -> np.ndarray:
    """Mask of the links of the best matching; a row left over takes a column of its own."""
    row = np.arange(links.n_a)
    weight = np.concatenate([links.similarity + 1e-9, np.full(row.size, 1e-12)])  # 0 is no edge
    i, j = np.concatenate([links.i, row]), np.concatenate([links.j, links.n_b + row])
    graph = sparse.csr_matrix((weight, (i, j)), shape=(links.n_a, links.n_b + links.n_a))
    matched = np.empty(links.n_a, dtype=np.int64)
    rows, columns = sparse.csgraph.min_weight_full_bipartite_matching(graph, maximize=True)
    matched[rows] = columns
    return matched[links.i] == links.j


def _slices(
    key: Blocks, first: int, last: int, batch_pairs: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of a range of blocks; a single block above the batch is cut by rows of a."""
    if last - first > 1 or int(key.pairs_per_block[first]) <= batch_pairs:
        yield key.pairs_of(first, last)
        return
    rows, cols = key.rows(first, last)
    step = max(1, batch_pairs // max(cols.size, 1))
    for start in range(0, rows.size, step):
        part = rows[start : start + step]
        yield np.repeat(part, cols.size), np.tile(cols, part.size)


def _by_kernel(
    kernel: Kernel, a: Filters, b: Filters, key: Blocks, *, span: tuple[int, int], threshold: float
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The links of a range of blocks, one call of the kernel a block."""
    first, last = span
    rows, cols = key.rows(first, last)
    words_a, words_b, counted = a.words[rows], b.words[cols], b.popcount[cols]
    ends_a, ends_b = np.cumsum(key.size_a[first:last]), np.cumsum(key.size_b[first:last])
    start_a = start_b = 0
    for end_a, end_b in zip(ends_a.tolist(), ends_b.tolist(), strict=True):
        ra, rb = slice(start_a, end_a), slice(start_b, end_b)
        i, j, similarity = kernel(words_a[ra], words_b[rb], counted[rb], threshold)
        if i.size:
            yield rows[ra][i], cols[rb][j], similarity
        start_a, start_b = end_a, end_b


def _agree(keys: Sequence[Blocks], i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Which pairs agree on one of the keys."""
    same = np.zeros(i.size, dtype=bool)
    for key in keys:
        left = key.code_a[i]
        same |= (left >= 0) & (left == key.code_b[j])
    return same
