"""Splitting secrets: the safe with K keys, Shamir's shares, commitments and a check word.

Additive shares modulo a prime: K numbers, all uniform, whose sum is the secret. K - 1 of them are
uniform whatever the secret is, so a locked input is locked for every coalition that lacks one key.

Shamir's shares with threshold t: any t + 1 give the secret, t tell nothing. mpyc computes on these,
with t = (K - 1) // 2: among three, *two can reconstruct*. Hence inputs wait as additive shares and
become Shamir shares only once all K parties have put theirs in.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .errors import Cheating, MpcError
from .tasks import canonical, digest

MERSENNE = (
    127,
    521,
    1279,
    2203,
)  # 2**e - 1 is prime; all are 3 modulo 4, as mpyc's zero test wants


def prime(bits: int) -> int:
    """The smallest of our primes with room for numbers of that many bits.

    Raises
    ------
    MpcError
        If none is large enough.
    """
    for e in MERSENNE:
        if e > bits:
            return 2**e - 1
    raise MpcError(f"The exact result may need {bits} bits, the largest field has {MERSENNE[-1]}.")


def split(values: Sequence[int], k: int, p: int) -> list[list[int]]:
    """K additive shares of each value modulo p; row j belongs to the party in seat j."""
    rows = [[secrets.randbelow(p) for _ in values] for _ in range(k - 1)]
    last = [(v - sum(column)) % p for v, *column in zip(values, *rows, strict=True)]
    return [*rows, last]


def join(rows: Sequence[Sequence[int]], p: int) -> list[int]:
    """The values of additive shares; all K rows are needed."""
    return [sum(column) % p for column in zip(*rows, strict=True)]


def shamir(value: int, k: int, threshold: int, p: int) -> list[int]:
    """Shamir shares of one value; seat j holds the polynomial at j + 1."""
    poly = [value, *(secrets.randbelow(p) for _ in range(threshold))]
    return [sum(c * pow(x, i, p) for i, c in enumerate(poly)) % p for x in range(1, k + 1)]


def interpolate(points: Mapping[int, int], p: int, at: int = 0) -> int:
    """Value at `at` of the polynomial through points (x, y) modulo p."""
    total = 0
    for x, y in points.items():
        weight = 1
        for z in points:
            if z != x:
                weight = weight * (at - z) * pow(x - z, -1, p) % p
        total += y * weight
    return total % p


@dataclass(frozen=True)
class Opened:
    """Values of redundant shares, and the seats whose shares did not fit."""

    values: list[int]
    wrong_seats: tuple[int, ...] = ()


def open_shamir(rows: Sequence[Sequence[int]], threshold: int, p: int) -> Opened:
    """Open Shamir shares of all K seats, using what they say twice.

    Up to (K - threshold - 1) // 2 wrong seats are named and corrected: none of three, one of five.
    More than that is detected and not opened.

    Raises
    ------
    Cheating
        If the shares contradict each other and it cannot be told who is wrong.
    """
    k = len(rows)
    for wrong in range((k - threshold - 1) // 2 + 1):
        for seats in itertools.combinations(range(k), wrong):
            good = [s for s in range(k) if s not in seats]
            base, extra = good[: threshold + 1], good[threshold + 1 :]
            if all(
                interpolate({s + 1: rows[s][i] for s in base}, p, e + 1) == rows[e][i] % p
                for e in extra
                for i in range(len(rows[0]))
            ):
                values = [
                    interpolate({s + 1: rows[s][i] for s in base}, p) for i in range(len(rows[0]))
                ]
                return Opened(values, seats)
    raise Cheating(
        f"The {k} shares of a result contradict each other; with {k} parties it cannot be told "
        "whose is wrong. Nothing was opened."
    )


def pack(values: Sequence[int], p: int) -> bytes:
    size = (p.bit_length() + 7) // 8
    return b"".join(v.to_bytes(size, "little") for v in values)


def unpack(raw: bytes, p: int) -> list[int]:
    """Numbers of a packed vector.

    Raises
    ------
    MpcError
        If the length does not fit or a number is outside the field.
    """
    size = (p.bit_length() + 7) // 8
    if len(raw) % size:
        raise MpcError(f"A share vector of {len(raw)} bytes is no multiple of {size}.")
    made = [int.from_bytes(raw[i : i + size], "little") for i in range(0, len(raw), size)]
    if any(v >= p for v in made):
        raise MpcError("A share is outside its field.")
    return made


def commit(share: bytes, salt: bytes) -> str:
    """Binding and, with a random salt of 32 bytes, hiding."""
    return digest(b"pet_lab share", salt, share)


def check_words(rows: Sequence[Sequence[int]], points: Sequence[int], p: int) -> list[int]:
    """What tells a share that is used from the one that was handed out: one number a seat.

    The output party draws a secret point for each seat; the owner appends a random mask to each
    share and answers with word = sum of share[i] * point**(i + 1) + mask. Once the shares are in,
    the points are revealed and the same words computed from what was put in. A share changed
    anywhere passes with probability at most n / p. The mask keeps a word from telling of the share.
    """
    return [word(row, point, p) for row, point in zip(rows, points, strict=True)]


def word(row: Sequence[int], point: int, p: int) -> int:
    """The check sum of a share vector with its mask last; linear, so it works on shares too."""
    total, power = row[-1], 1
    for v in row[:-1]:
        power = power * point % p
        total += v * power
    return total % p


def fingerprint(row: Sequence[int]) -> str:
    """A short name for a share vector, for tests and pictures; not a commitment."""
    return digest(canonical([str(v) for v in row]))[:12]
