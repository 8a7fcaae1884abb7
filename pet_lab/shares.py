"""Secret sharing: the one set of functions that every protocol of the package uses.

Additive shares: numbers that are uniform on their own and sum to the secret; all but one of them
tell nothing. Shamir's shares (A. Shamir, "How to share a secret", CACM 1979): values of a random
polynomial whose value at 0 is the secret; any `needed` of them give it, fewer tell nothing. Here
`needed` is Shamir's k; the "threshold" t of multi-party computation is one less. Randomness comes
from the operating system (`secrets`), never from a seed.
"""

import functools
import hashlib
import itertools
import math
import operator
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pet_lab.checks import require

# 2**e - 1 is prime for each, and 3 modulo 4, as mpyc's test for zero needs it.
MERSENNE_EXPONENTS = (127, 521, 1279, 2203)


class ShareError(ValueError):
    """Shares, points or a field that do not fit; the sentence says what was expected."""


class SharesContradict(ShareError):
    """Redundant shares lie on no common polynomial, and it cannot be told whose is wrong."""


def mersenne_prime(bits: int) -> int:
    """The smallest of a few Mersenne primes that has room for `bits` bits, or ShareError.

    >>> mersenne_prime(100) == 2**127 - 1
    True
    """
    most = MERSENNE_EXPONENTS[-1]
    too_large = f"The exact result may need {bits} bits, the largest field has {most}."
    require(bits < most, too_large, ShareError)
    return 2 ** next(e for e in MERSENNE_EXPONENTS if e > bits) - 1


def additive_split(values: Sequence[int], parties: int, modulus: int) -> list[list[int]]:
    """Additive shares of each value: row j is what party j holds, as long as `values`.

    Any `parties` - 1 rows are uniform whatever the values are.
    """
    rows = [[secrets.randbelow(modulus) for _ in values] for _ in range(parties - 1)]
    last = [(v - sum(drawn)) % modulus for v, *drawn in zip(values, *rows, strict=True)]
    return [*rows, last]


def additive_join(rows: Sequence[Sequence[int]], modulus: int) -> list[int]:
    """The values of additive shares; the rows of all parties are needed.

    >>> additive_join(additive_split([3, 4], parties=3, modulus=11), 11)
    [3, 4]
    """
    return [sum(column) % modulus for column in zip(*rows, strict=True)]


def ring_split(values: NDArray[np.int64], parties: int) -> list[NDArray[np.uint64]]:
    """Additive shares modulo 2**64 of whole numbers, shape (n,): one array of it per party."""
    n = len(values)
    drawn = [np.frombuffer(secrets.token_bytes(8 * n), np.uint64) for _ in range(parties - 1)]
    last = np.asarray(values, dtype=np.int64).view(np.uint64).copy()
    for share in drawn:
        last -= share  # wraps modulo 2**64, which is the point
    return [*drawn, last]


def ring_join(shares: Iterable[NDArray[np.uint64]]) -> NDArray[np.int64]:
    """The whole numbers, or sums of them, whose shares modulo 2**64 these are.

    >>> ring_join(ring_split(np.array([-5, 7]), parties=3)).tolist()
    [-5, 7]
    """
    return np.sum(list(shares), axis=0, dtype=np.uint64).view(np.int64)


def shamir_split(
    secret: int, points: Iterable[int], *, needed: int, modulus: int
) -> dict[int, int]:
    """Shamir shares of a secret in [0, modulus): point -> value of the polynomial there.

    There is one point a party; ShareError if two are equal, or one is 0, where the secret lies, or
    `needed` is not from 1 to their number. The modulus is a prime, if they are to be joined here.
    """
    at = _points(points, modulus)
    require(1 <= needed <= len(at), f"Expected 1 to {len(at)} needed, got {needed}.", ShareError)
    inside = 0 <= secret < modulus
    require(inside, "The secret is outside the field: pick a larger modulus.", ShareError)
    drawn = [secrets.randbelow(modulus) for _ in range(needed - 1)]
    return {
        x: functools.reduce(lambda v, c: (v * x + c) % modulus, [*drawn, secret], 0) for x in at
    }


def shamir_join(shares: Mapping[int, int], *, needed: int, prime: int) -> int:
    """The secret of at least `needed` Shamir shares, point -> value; errors as `shamir_open`.

    >>> shares = shamir_split(42, points=[1, 2, 5], needed=2, modulus=101)
    >>> shamir_join({x: shares[x] for x in (5, 1)}, needed=2, prime=101)
    42
    """
    return shamir_open({x: [y] for x, y in shares.items()}, needed=needed, prime=prime).values[0]


def interpolate(shares: Mapping[int, int], prime: int, at: int = 0) -> int:
    """Value at `at` of the polynomial through the points (x, y), all x distinct, modulo a prime."""
    weights = _lagrange(_points(shares, prime, zero=True), at, prime)
    return _weighted([list(shares.values())], weights, prime)[0]


@dataclass(frozen=True)
class Opened:
    """Values of redundant shares, and the points whose shares did not fit."""

    values: list[int]
    wrong: tuple[int, ...] = ()


def shamir_open(rows: Mapping[int, Sequence[int]], *, needed: int, prime: int) -> Opened:
    """The values of rows of shares, point of a party -> its share of each, all checked.

    Up to (len(rows) - needed) // 2 wrong parties are named and corrected: of three with 2 needed
    none, of five with 3 needed one. More are detected.

    Raises
    ------
    SharesContradict
        If the shares contradict each other and it cannot be told whose is wrong.
    ShareError
        Too few rows, rows of different lengths, or points that make no sense.
    """
    points = _points(rows, prime)
    n = len(points)
    require(n >= needed, f"{n} shares are here, {needed} are needed.", ShareError)
    even = len({len(row) for row in rows.values()}) == 1
    require(even, "Parties sent share vectors of different lengths.", ShareError)
    for n_wrong in range((n - needed) // 2 + 1):
        for wrong in itertools.combinations(points, n_wrong):
            right = [x for x in points if x not in wrong]
            base, extra = tuple(right[:needed]), right[needed:]
            columns = list(zip(*(rows[x] for x in base), strict=True))
            if all(
                _weighted(columns, _lagrange(base, x, prime), prime) == [y % prime for y in rows[x]]
                for x in extra
            ):
                return Opened(_weighted(columns, _lagrange(base, 0, prime), prime), wrong)
    whose = f"with {n} parties it cannot be told whose is wrong. Nothing was opened."
    raise SharesContradict(f"The {n} shares of a result contradict each other; {whose}")


def _weighted(columns: Sequence[Sequence[int]], weights: Sequence[int], p: int) -> list[int]:
    return [sum(map(operator.mul, weights, ys)) % p for ys in columns]


def _points(points: Iterable[int], modulus: int, *, zero: bool = False) -> tuple[int, ...]:
    at = tuple(points)
    residues = {x % modulus for x in at}
    distinct = f"Points must be distinct modulo {modulus}, got {list(at)}."
    require(len(residues) == len(at), distinct, ShareError)
    at_secret = f"No share lies at 0, where the secret is; got the points {list(at)}."
    require(zero or 0 not in residues, at_secret, ShareError)
    return at


@functools.lru_cache(maxsize=1024)  # a round opens many secrets at the same points
def _lagrange(points: tuple[int, ...], at: int, p: int) -> tuple[int, ...]:
    """Weights with which values at `points` give the value at `at`."""
    rest = {x: [other for other in points if other != x] for x in points}
    return tuple(
        math.prod(at - o for o in others) * pow(math.prod(x - o for o in others), -1, p) % p
        for x, others in rest.items()
    )


def pack(values: Sequence[int], modulus: int) -> bytes:
    """A share vector as bytes: little-endian numbers of the modulus' width, one after another."""
    size = (modulus.bit_length() + 7) // 8
    return b"".join(v.to_bytes(size, "little") for v in values)


def unpack(raw: bytes, modulus: int) -> list[int]:
    """The numbers of a packed share vector; ShareError if its length or a number does not fit."""
    size = (modulus.bit_length() + 7) // 8
    whole = len(raw) % size == 0
    require(whole, f"A share vector of {len(raw)} bytes is no multiple of {size}.", ShareError)
    values = [int.from_bytes(raw[i : i + size], "little") for i in range(0, len(raw), size)]
    require(all(v < modulus for v in values), "A share is outside its field.", ShareError)
    return values


def commit(share: bytes, salt: bytes) -> str:
    """A commitment as hex: binding and, with a random salt of 32 bytes, hiding."""
    parts = (b"pet_lab share", salt, share)
    return hashlib.sha256(b"".join(len(p).to_bytes(8, "big") + p for p in parts)).hexdigest()


def check_value(row: Sequence[int], point: int, prime: int) -> int:
    """What tells a share vector, its mask last, that is used from the one that was handed out.

    The receiver of the result draws a secret point for each party; the owner of the data appends a
    random mask to each share vector and answers with sum of row[i] * point**(i + 1) + mask. Once
    the shares are in, the points are revealed and the same sums computed from what was used. A
    vector changed anywhere passes with probability at most len(row) / prime; the mask keeps the
    value from telling of the share. Linear, so it works on shares of a vector too.
    """
    total, power = row[-1], 1
    for v in row[:-1]:
        power = power * point % prime
        total += v * power
    return total % prime
