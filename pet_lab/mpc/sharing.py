"""Former names of `pet_lab.shares`, with this package's errors; to go once callers use those."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pet_lab import shares
from pet_lab.shares import additive_join as join
from pet_lab.shares import additive_split as split
from pet_lab.shares import check_value as word
from pet_lab.shares import commit, interpolate, pack

from .errors import Cheating, MpcError

__all__ = ["Opened", "check_words", "commit", "interpolate", "join", "open_shamir", "pack"]
__all__ += ["prime", "shamir", "split", "unpack", "word"]


def prime(bits: int) -> int:
    """As `shares.mersenne_prime`, MpcError if none is large enough."""
    try:
        return shares.mersenne_prime(bits)
    except shares.ShareError as error:
        raise MpcError(str(error)) from None


def unpack(raw: bytes, p: int) -> list[int]:
    """As `shares.unpack`, MpcError if it does not fit."""
    try:
        return shares.unpack(raw, p)
    except shares.ShareError as error:
        raise MpcError(str(error)) from None


def check_words(rows: Sequence[Sequence[int]], points: Sequence[int], p: int) -> list[int]:
    """The check value of each party's row."""
    return [word(row, point, p) for row, point in zip(rows, points, strict=True)]


def shamir(value: int, k: int, threshold: int, p: int) -> list[int]:
    """As `shares.shamir_split`: party j is at point j + 1, threshold + 1 shares are needed."""
    return list(
        shares.shamir_split(value, range(1, k + 1), needed=threshold + 1, modulus=p).values()
    )


@dataclass(frozen=True)
class Opened:
    """Values of redundant shares, and the indices of the parties whose shares did not fit."""

    values: list[int]
    wrong_seats: tuple[int, ...] = ()


def open_shamir(rows: Sequence[Sequence[int]], threshold: int, p: int) -> Opened:
    """As `shares.shamir_open`: party j is at point j + 1, threshold + 1 shares are needed."""
    at = {j + 1: row for j, row in enumerate(rows)}
    try:
        opened = shares.shamir_open(at, needed=threshold + 1, prime=p)
    except shares.SharesContradict as error:
        raise Cheating(str(error)) from None
    return Opened(opened.values, tuple(x - 1 for x in opened.wrong))
