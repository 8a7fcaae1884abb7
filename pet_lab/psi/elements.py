"""Sets of equal-length byte strings as arrays of shape (n, width), and work on them in threads."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from .protocol import Bytes2D, expect

T = TypeVar("T")


def bytes_of(elements: Sequence[bytes], width: int) -> Bytes2D:
    """Equal-length byte strings as an array of shape (n, width)."""
    return np.frombuffer(b"".join(elements), dtype=np.uint8).reshape(len(elements), width)


def strings(rows: Bytes2D) -> npt.NDArray[np.bytes_]:
    """Rows as numpy's fixed-width strings, shape (n,), which sort and compare as bytes do.

    Fixed width, so numpy's habit of dropping trailing zero bytes cannot make two rows equal.
    """
    n, width = rows.shape
    view: npt.NDArray[np.bytes_] = np.ascontiguousarray(rows).view(f"S{width}").reshape(n)
    return view


def secret_permutation(n: int) -> npt.NDArray[np.int64]:
    """A permutation of range(n) from the system's CSPRNG.

    A statistical generator would not do: the peer sees where the elements of the intersection went,
    could solve for the generator's state and learn the file positions of all others.
    """
    order: npt.NDArray[np.int64] = np.argsort(
        np.frombuffer(os.urandom(8 * n), dtype=np.uint64), kind="stable"
    )
    return order


def common_positions(
    mine: Bytes2D, theirs: Bytes2D
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Positions in `mine` and in `theirs` of the rows that both hold, ascending by row.

    Both sides see the same rows, so they arrive at the same order without another message. A row
    that a side holds twice is a MessageError: an honest party sends distinct elements.
    """
    a, b = strings(mine), strings(theirs)
    _, left, right = np.intersect1d(a, b, return_indices=True)
    for side, name in ((a, "own"), (b, "received")):
        twice = f"The {name} elements hold one twice; each must be sent once."
        expect(len(np.unique(side)) == len(side), twice)
    return left.astype(np.int64), right.astype(np.int64)


@lru_cache(maxsize=1)
def pool() -> ThreadPoolExecutor:
    """One pool per process; the work in it runs outside Python's lock."""
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="psi")


def in_threads(
    work: Callable[[slice], T], n: int, *, cpu: list[float], step: int
) -> Iterator[tuple[slice, T]]:
    """Yield (rows, work(rows)) over range(n) in steps, in order, from all cores.

    The CPU seconds of each step are appended to `cpu`.
    """

    def timed(start: int) -> tuple[slice, T, float]:
        before, rows = time.thread_time(), slice(start, min(start + step, n))
        return rows, work(rows), time.thread_time() - before

    for rows, result, seconds in pool().map(timed, range(0, n, step)):
        cpu.append(seconds)
        yield rows, result
