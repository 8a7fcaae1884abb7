"""Packed Bloom filters and their Dice similarity: whole arrays, or a compiled kernel for blocks."""

import warnings
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from pet_lab.checks import between, require

_M1 = np.uint64(0x5555555555555555)
_M2 = np.uint64(0x3333333333333333)
_M4 = np.uint64(0x0F0F0F0F0F0F0F0F)
_H01 = np.uint64(0x0101010101010101)
THRESHOLD_HINT = "it is a Dice similarity; for 80 % pass 0.8"
_BATCH = 4096  # pairs a pass: the temporaries stay in the second-level cache (6 times faster)


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Bloom filters of n records, packed little-endian into 64-bit words.

    words   uint64, shape (n, ceil(bits / 64)); bits past `bits` are zero
    bits    length of a filter
    """

    words: np.ndarray
    bits: int

    def __len__(self) -> int:
        return int(self.words.shape[0])

    @cached_property
    def popcount(self) -> np.ndarray:
        """Bits set in each filter, shape (n,)."""
        counts = np.empty(len(self), dtype=np.int64)
        for start in range(0, len(self), _BATCH):
            counts[start : start + _BATCH] = _count(self.words[start : start + _BATCH])
        return counts

    def unpacked(self) -> np.ndarray:
        """One byte per bit, shape (n, bits): for pictures and tests, not for work."""
        as_bytes = np.ascontiguousarray(self.words).view(np.uint8)
        return np.unpackbits(as_bytes, axis=1, bitorder="little")[:, : self.bits]


def pack(bits: np.ndarray) -> Filters:
    """Filters from a 0/1 array of shape (n, bits)."""
    n, width = bits.shape
    padded = np.zeros((n, -(-width // 64) * 64), dtype=np.uint8)
    padded[:, :width] = bits
    return Filters(words=np.packbits(padded, axis=1, bitorder="little").view(np.uint64), bits=width)


def _count(words: np.ndarray) -> np.ndarray:
    """Bits set in each row of packed words. (numpy < 2 has no bitwise_count.)"""
    x = words - ((words >> np.uint64(1)) & _M1)
    x = (x & _M2) + ((x >> np.uint64(2)) & _M2)
    x = (x + (x >> np.uint64(4))) & _M4
    return ((x * _H01) >> np.uint64(56)).sum(axis=1, dtype=np.int64)


def dice_pairs(a: Filters, b: Filters, rows_a: np.ndarray, rows_b: np.ndarray) -> np.ndarray:
    """Dice similarity 2 |x & y| / (|x| + |y|) of each pair (rows_a[k], rows_b[k]).

    Two filters without a bit have similarity 0: nothing is known of either, so they must not link.
    """
    _check_same(a, b)
    out = np.empty(len(rows_a))
    for start in range(0, len(rows_a), _BATCH):
        i, j = rows_a[start : start + _BATCH], rows_b[start : start + _BATCH]
        common = _count(a.words[i] & b.words[j])
        out[start : start + _BATCH] = 2 * common / np.maximum(a.popcount[i] + b.popcount[j], 1)
    return out


def dice_all(
    a: Filters, b: Filters, *, threshold: float, max_pairs: int = 20_000_000_000
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of a x b with Dice >= threshold: rows of a, rows of b, similarities.

    Uses anonlink's compiled kernel (popcount instructions); without anonlink, whole arrays.
    ValueError if the product is above `max_pairs` (hours of work: block it).
    """
    between(0, 1, threshold=threshold, hint=THRESHOLD_HINT)
    _check_same(a, b)
    require(
        len(a) * len(b) <= max_pairs,
        f"{len(a):,} x {len(b):,} = {len(a) * len(b):,} comparisons, above max_pairs = "
        f"{max_pairs:,}; use a blocking key (linkage.link) or raise max_pairs.",
    )
    kernel = dice_kernel()
    if kernel is not None:
        i, j, similarity = kernel(a.words, b.words, b.popcount, threshold)
        order = np.lexsort((j, i))
        return i[order], j[order], similarity[order]
    columns = np.arange(len(b))
    parts = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    for row in range(len(a)):
        similarity = dice_pairs(a, b, np.full(len(b), row), columns)
        hit = np.flatnonzero(similarity >= threshold)
        parts.append((np.full(hit.size, row), hit, similarity[hit]))
    rows, cols, values = (np.concatenate(part) for part in zip(*parts, strict=True))
    return rows, cols, values


Kernel = Callable[
    [np.ndarray, np.ndarray, np.ndarray, float], tuple[np.ndarray, np.ndarray, np.ndarray]
]


@cache
def dice_kernel() -> Kernel | None:
    """anonlink's many-to-many Dice on packed words, or None where the `link` extra is missing.

    Called with our packed arrays: its public function takes Python lists of bitarrays, and building
    those costs more than the comparisons of a block. Pairs at exactly the threshold are in.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its import of pkg_resources warns
            from anonlink.similarities import _dice
    except ImportError:
        return None

    def run(
        a: np.ndarray, b: np.ndarray, counts_b: np.ndarray, threshold: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        similarity, rows, cols = array("d"), array("I"), array("I")
        if a.shape[0] and b.shape[0]:
            _dice.dice_many_to_many(
                np.ascontiguousarray(a).view(np.int8).ravel(),
                np.ascontiguousarray(b).view(np.int8).ravel(),
                a.shape[0],
                b.shape[0],
                counts_b.astype(np.uint32),
                a.shape[1] * 8,
                b.shape[0],
                threshold,
                similarity,
                rows,
                cols,
            )
        return (
            np.frombuffer(rows, dtype=np.uint32).astype(np.int64),
            np.frombuffer(cols, dtype=np.uint32).astype(np.int64),
            np.frombuffer(similarity, dtype=np.float64),
        )

    return run


def _check_same(a: Filters, b: Filters) -> None:
    require(
        a.bits == b.bits,
        f"Filters of {a.bits} and {b.bits} bits cannot be compared; encode both files alike.",
    )
