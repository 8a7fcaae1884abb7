"""Real numbers as slots of one large integer, with room for sums and a check that none ran over."""

from collections.abc import Sequence
from dataclasses import dataclass

import gmpy2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from pet_lab.checks import require


class PaillierError(ValueError):
    """Something that must not be encrypted, added or decrypted."""


class SlotOverflow(PaillierError):
    """A number does not fit its slot, or a sum came out larger than its addends allow."""


class CiphertextError(PaillierError):
    """A ciphertext that is damaged, out of range, or made under another key or packing."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Real numbers as whole ones: q = round(x / step), ties to even."""

    value_bits: int = 24  # of one quantised value, with its sign: |q| < 2^(value_bits - 1)
    limit: float = 4.0  # largest magnitude of a value
    max_terms: int = 4  # how many vectors may be added

    def __post_init__(self) -> None:
        bits, limit, terms = self.value_bits, self.limit, self.max_terms
        # The digits pass through doubles.
        require(2 <= bits <= 52, f"value_bits is from 2 to 52, got {bits}.", PaillierError)
        require(0 < limit < np.inf, f"limit is a positive number, got {limit}.", PaillierError)
        require(terms >= 1, f"max_terms is at least 1, got {terms}.", PaillierError)

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
        """Whole numbers for a vector, shape (count,); nothing is clipped or wrapped.

        Raises SlotOverflow if a value is beyond the limit, PaillierError if one is not finite or
        this is no vector with at least one value.
        """
        array = np.asarray(values, dtype=np.float64)
        vector = f"Expected a vector with at least one value, got shape {array.shape}."
        require(array.ndim == 1 and array.size, vector, PaillierError)
        for i in np.flatnonzero(~np.isfinite(array))[:1]:
            raise PaillierError(f"values[{i}] is {array[i]}: only finite numbers can be encrypted.")
        digits = np.rint(array / self.step)
        for i in np.flatnonzero(np.abs(digits) > self.half)[:1]:
            slots = f"slots hold magnitudes up to {self.limit:g}; raise limit, or clip first."
            raise SlotOverflow(f"values[{i}] is {array[i]:.6g}, but {slots}")
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
    """

    key_bits: int  # length of the key's modulus n
    guard_bits: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        guarded = f"guard_bits is at least 1, got {self.guard_bits}."
        require(self.guard_bits >= 1, guarded, PaillierError)
        fit = f"A slot of {self.width} bits does not fit {self.key_bits}: use fewer value_bits."
        require(self.width < self.key_bits, fit, PaillierError)

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
        starts = range(0, len(digits), self.slots)
        return [gmpy2.pack(digits[at : at + self.slots], self.width) for at in starts]

    def decode(
        self, plaintexts: Sequence[int | gmpy2.mpz], count: int, terms: int = 1
    ) -> NDArray[np.float64]:
        """The sum of `terms` encoded vectors of `count` values, off by terms * step / 2 at most.

        Raises
        ------
        SlotOverflow
            If a slot holds more than `terms` honest values can add up to: some addend was not made
            by `encode`, or was not a ciphertext of it; or more terms than `max_terms`.
        """
        room = f"Slots have room for sums of {self.max_terms} vectors, got {terms} terms."
        require(1 <= terms <= self.max_terms, room, SlotOverflow)
        n = self.plaintexts(count)
        wanted = f"{count} values need {n} plaintexts, got {len(plaintexts)}."
        require(len(plaintexts) == n, wanted, PaillierError)
        cause = "an addend was out of range, or was encrypted under another key."
        digits: list[gmpy2.mpz] = []
        for i, plaintext in enumerate(plaintexts):
            here = min(self.slots, count - i * self.slots)
            number = gmpy2.mpz(plaintext)
            inside = number >= 0 and number.bit_length() <= here * self.width
            require(inside, f"Plaintext {i} reaches beyond its last slot: {cause}", SlotOverflow)
            part = gmpy2.unpack(number, self.width)
            digits += part + [0] * (here - len(part))
        array = np.array([int(d) for d in digits], dtype=np.float64)
        for i in np.flatnonzero(array > terms * 2 * self.half)[:1]:
            raise SlotOverflow(f"Slot {i} holds more than {terms} values can add up to: {cause}")
        return (array - terms * self.half) * self.step
