"""Real numbers as slots of one large integer, with room for sums and a check that none ran over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import gmpy2
import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["CiphertextError", "Grid", "Packing", "PaillierError", "SlotOverflow"]


class PaillierError(ValueError):
    """Something that must not be encrypted, added or decrypted."""


class SlotOverflow(PaillierError):
    """A number does not fit its slot, or a sum came out larger than its addends allow."""


class CiphertextError(PaillierError):
    """A ciphertext that is damaged, out of range, or made under another key or packing."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Real numbers as whole ones: q = round(x / step), ties to even.

    value_bits  bits of one quantised value, its sign included: |q| < 2^(value_bits - 1)
    limit       largest magnitude of a value; the step is limit / (2^(value_bits - 1) - 1)
    max_terms   how many vectors may be added
    """

    value_bits: int = 24
    limit: float = 4.0
    max_terms: int = 4

    def __post_init__(self) -> None:
        if not 2 <= self.value_bits <= 52:  # the digits pass through doubles
            raise PaillierError(f"value_bits must be between 2 and 52, got {self.value_bits}.")
        if not (math.isfinite(self.limit) and self.limit > 0):
            raise PaillierError(f"limit must be a positive number, got {self.limit}.")
        if self.max_terms < 1:
            raise PaillierError(f"max_terms must be at least 1, got {self.max_terms}.")

    @property
    def sum_bits(self) -> int:
        """Bits of a sum of `max_terms` values."""
        return self.value_bits + (self.max_terms - 1).bit_length()

    @property
    def half(self) -> int:
        """The largest |q|, and the digit of zero."""
        return (1 << (self.value_bits - 1)) - 1

    @property
    def step(self) -> float:
        """Distance of two neighbouring values; rounding errs by at most half of it."""
        return self.limit / self.half

    def quantise(self, values: ArrayLike) -> NDArray[np.int64]:
        """Whole numbers for a vector, shape (count,).

        Raises
        ------
        SlotOverflow
            If a value is beyond the limit; nothing is clipped or wrapped.
        PaillierError
            If a value is not finite, or the array is not one-dimensional or empty.
        """
        array = np.asarray(values, dtype=np.float64)
        if array.ndim != 1 or array.size == 0:
            raise PaillierError(
                f"Expected a vector with at least one value, got shape {array.shape}."
            )
        bad = np.flatnonzero(~np.isfinite(array))
        if bad.size:
            raise PaillierError(
                f"values[{bad[0]}] is {array[bad[0]]}: only finite numbers can be encrypted."
            )
        digits = np.rint(array / self.step)
        over = np.flatnonzero(np.abs(digits) > self.half)
        if over.size:
            raise SlotOverflow(
                f"values[{over[0]}] is {array[over[0]]:.6g}, but slots hold magnitudes up to "
                f"{self.limit:g}; raise limit, or clip the values first."
            )
        return digits.astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Packing(Grid):
    """How a vector becomes plaintexts. All parties of a sum use the same.

    A quantised value is stored as the non-negative digit q + 2^(value_bits - 1) - 1 in a slot of

        width = value_bits + ceil(log2(max_terms)) + guard_bits

    bits. A sum of `max_terms` honest digits leaves the guard bits at zero, so that a digit up to
    2^(guard_bits) times too large shows up after decryption instead of running into its neighbour.
    That catches mistakes of honest encoders. Whoever skips `encode` can send any plaintext, and a
    digit of 2^width is, silently, one step more of the neighbour: no check word would help, since
    a liar computes it too, and an office that may send any weights gains nothing by it.

    key_bits    length of the key's modulus n
    guard_bits  at least 1
    """

    key_bits: int
    guard_bits: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.guard_bits < 1:
            raise PaillierError(f"guard_bits must be at least 1, got {self.guard_bits}.")
        if self.width > self.key_bits - 1:
            raise PaillierError(
                f"A slot of {self.width} bits does not fit a key of {self.key_bits} bits; use "
                "fewer value_bits, fewer terms or a longer key."
            )

    @property
    def width(self) -> int:
        """Bits of a slot."""
        return self.sum_bits + self.guard_bits

    @property
    def slots(self) -> int:
        """Values per plaintext. One bit of n stays free: any filled plaintext is below n."""
        return (self.key_bits - 1) // self.width

    def plaintexts(self, count: int) -> int:
        """How many plaintexts hold `count` values."""
        return -(-count // self.slots)

    def encode(self, values: ArrayLike) -> list[gmpy2.mpz]:
        """Plaintexts of a vector, first value in the lowest slot. Errors as `quantise`."""
        digits = [int(q) for q in self.quantise(values) + self.half]
        return [
            gmpy2.pack(digits[at : at + self.slots], self.width)
            for at in range(0, len(digits), self.slots)
        ]

    def decode(
        self, plaintexts: Sequence[int | gmpy2.mpz], count: int, terms: int = 1
    ) -> NDArray[np.float64]:
        """The sum of `terms` encoded vectors, as real numbers.

        Parameters
        ----------
        plaintexts : sequence of int
            Sums of plaintexts from `encode`.
        count : int
            Values in the vector.
        terms : int
            How many vectors were added, up to `max_terms`.

        Returns
        -------
        array, shape (count,), float64; off by at most terms * step / 2 from the exact sum.

        Raises
        ------
        SlotOverflow
            If a slot holds more than `terms` honest values can add up to: some addend was not made
            by `encode`, or was not a ciphertext of it.
        """
        if not 1 <= terms <= self.max_terms:
            raise SlotOverflow(
                f"Slots have room for sums of {self.max_terms} vectors, got {terms} terms."
            )
        if len(plaintexts) != self.plaintexts(count):
            raise PaillierError(
                f"{count} values need {self.plaintexts(count)} plaintexts, got {len(plaintexts)}."
            )
        most, digits = terms * 2 * self.half, []
        for i, plaintext in enumerate(plaintexts):
            here = min(self.slots, count - i * self.slots)
            number = gmpy2.mpz(plaintext)
            if number < 0 or number.bit_length() > here * self.width:
                raise SlotOverflow(
                    f"Plaintext {i} reaches beyond its last slot: an addend ran over, or was "
                    "encrypted under another key."
                )
            part = gmpy2.unpack(number, self.width)
            digits += part + [0] * (here - len(part))
        array = np.array([int(d) for d in digits], dtype=np.float64)
        over = np.flatnonzero(array > most)
        if over.size:
            raise SlotOverflow(
                f"Slot {over[0]} holds more than {terms} values can add up to: an addend was out "
                "of range, or was encrypted under another key."
            )
        return (array - terms * self.half) * self.step
