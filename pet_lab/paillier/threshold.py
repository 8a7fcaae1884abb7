"""Threshold decryption: any `threshold` of the offices together decrypt, fewer learn nothing.

I. Damgard, M. Jurik, "A generalisation, a simplification and some applications of Paillier's
probabilistic public-key system" (PKC 2001), section 4.1, after V. Shoup's threshold RSA. The key is
dealt: whoever runs `deal` sees it whole, once, and must forget it. Proofs of correct decryption are
batched: one proof for the ciphertexts of a message, over a random combination of them.
"""

import hashlib
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

import gmpy2
import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray

from pet_lab.checks import require
from pet_lab.paillier.keys import Ciphertexts, PublicKey, check_length, random_unit
from pet_lab.paillier.packing import CiphertextError, PaillierError
from pet_lab.shares import shamir_split

_CHALLENGE_BITS = 128
_SIEVE = 1 << 16


@dataclass(frozen=True)
class KeyShare:
    """One office's part of the private key; `index` counts from 1."""

    index: int
    value: mpz = field(repr=False)

    def __reduce__(self) -> str:
        raise PaillierError("A key share is not pickled: it must not travel by accident.")


@dataclass(frozen=True)
class Partial:
    """One office's contribution to the decryption of one message, with the proof that it is right.

    The Fiat-Shamir proof says that all values have the exponent that the key was dealt with.
    """

    index: int
    values: tuple[mpz, ...] = field(repr=False)  # c^(2 D s_i) mod n^2 for each ciphertext c
    challenge: int
    response: mpz = field(repr=False)

    def size_bytes(self, public: PublicKey) -> int:
        """Bytes on the network."""
        width, proof = -(-2 * public.bits // 8), _CHALLENGE_BITS + self.response.bit_length()
        return 8 + len(self.values) * width - (-proof // 8)


@dataclass(frozen=True)
class ThresholdKey:
    """The public side of a dealt key: `threshold` of `parties` shares decrypt."""

    public: PublicKey  # encrypts and adds as any other
    parties: int
    threshold: int
    # What proofs are held against: v, a random square, and v^(D s_i) for each share.
    check_base: mpz = field(repr=False)
    check_values: tuple[mpz, ...] = field(repr=False)

    @property
    def _delta(self) -> mpz:
        return mpz(math.factorial(self.parties))

    def partial(self, share: KeyShare, ciphertexts: Ciphertexts) -> Partial:
        """What the office with `share` contributes to decrypting checked `ciphertexts`.

        An office must do this for the sum of all offices only; `ciphertexts.terms` is what the
        server claims.
        """
        self.public.check(ciphertexts)
        square = self.public.n_squared
        secret = self._delta * share.value
        values = tuple(gmpy2.powmod_sec(c, 2 * secret, square) for c in ciphertexts.values)
        base, _ = self._combined(ciphertexts, values)
        # The mask must hide challenge * secret: longer than both by a security margin.
        mask = mpz(secrets.randbits(int(secret.bit_length()) + 2 * _CHALLENGE_BITS) | 1)
        first = gmpy2.powmod_sec(base, mask, square)
        second = gmpy2.powmod_sec(self.check_base, mask, square)
        challenge = self._challenge(share.index, ciphertexts, values, first, second)
        return Partial(share.index, values, challenge, mask + challenge * secret)

    def verify(self, ciphertexts: Ciphertexts, partial: Partial) -> None:
        """CiphertextError if a contribution is not what the share of this index gives."""
        public, square = self.public, self.public.n_squared
        i, values, response = partial.index, partial.values, partial.response
        numbered = f"Shares are numbered 1 to {self.parties}, got a contribution of {i}."
        require(1 <= i <= self.parties, numbered, CiphertextError)
        n = len(ciphertexts.values)
        parts = f"Contribution {i} has {len(values)} parts, expected {n}."
        require(len(values) == n, parts, CiphertextError)
        units = all(0 < v < square and gmpy2.gcd(v, public.n) == 1 for v in values)
        right = units and response >= 0 and response.bit_length() <= 6 * public.bits + 4096
        if right:
            known = (self.check_base, self.check_values[i - 1])
            first, second = (
                gmpy2.powmod(b, response, square)
                * gmpy2.powmod(v, -partial.challenge, square)
                % square
                for b, v in (self._combined(ciphertexts, values), known)
            )
            right = self._challenge(i, ciphertexts, values, first, second) == partial.challenge
        wrong = f"The contribution of share {i} is not what its key gives; ask another office."
        require(right, wrong, CiphertextError)

    def combine(self, ciphertexts: Ciphertexts, partials: Sequence[Partial]) -> NDArray:
        """The vector or sum, shape (count,), from `threshold` contributions of different offices.

        Raises
        ------
        PaillierError
            Too few contributions, or two of one office; CiphertextError, naming the share, for one
            that is wrong; SlotOverflow as `Packing.decode`.
        """
        indices, n_given = [p.index for p in partials], len(partials)
        different = f"Contributions must come from different offices, got {indices}."
        require(len(set(indices)) == n_given, different, PaillierError)
        few = f"Decryption takes {self.threshold} of {self.parties} offices, got {n_given}."
        require(n_given >= self.threshold, few, PaillierError)
        self.public.check(ciphertexts)
        for partial in partials:
            self.verify(ciphertexts, partial)
        used = sorted(partials, key=lambda p: p.index)[: self.threshold]
        at = [p.index for p in used]
        delta, square, n = self._delta, self.public.n_squared, self.public.n
        rest = {i: [j for j in at if j != i] for i in at}
        # D times the Lagrange coefficients at 0 are whole numbers.
        exponents = [
            2 * (delta * math.prod(others) // math.prod(j - i for j in others))
            for i, others in rest.items()
        ]
        unscale = gmpy2.invert(4 * delta * delta, n)
        plaintexts = []
        for k in range(len(ciphertexts.values)):
            product = mpz(1)
            for partial, exponent in zip(used, exponents, strict=True):
                product = product * gmpy2.powmod(partial.values[k], exponent, square) % square
            plaintexts.append((product - 1) // n * unscale % n)
        return ciphertexts.packing.decode(plaintexts, ciphertexts.count, ciphertexts.terms)

    def _combined(self, ciphertexts: Ciphertexts, values: Sequence[mpz]) -> tuple[mpz, mpz]:
        """Random combinations of the c^4 and of the claimed c^(4 D s_i), the same for both."""
        square = self.public.n_squared
        seed = self._hash(b"batch", ciphertexts, values)
        base, claimed = mpz(1), mpz(1)
        for k, (c, v) in enumerate(zip(ciphertexts.values, values, strict=True)):
            rho = int.from_bytes(hashlib.sha256(seed + k.to_bytes(4, "big")).digest()[:16], "big")
            base = base * gmpy2.powmod(c, 4 * rho, square) % square
            claimed = claimed * gmpy2.powmod(v, 2 * rho, square) % square
        return base, claimed

    def _challenge(
        self, index: int, ciphertexts: Ciphertexts, values: Sequence[mpz], first: mpz, second: mpz
    ) -> int:
        seed = self._hash(b"proof", ciphertexts, values)
        raw = hashlib.sha256(
            seed + index.to_bytes(4, "big") + self._raw(first) + self._raw(second)
        ).digest()
        return int.from_bytes(raw[: _CHALLENGE_BITS // 8], "big")

    def _hash(self, label: bytes, ciphertexts: Ciphertexts, values: Sequence[mpz]) -> bytes:
        digest = hashlib.sha256(label + self.public.id + self._raw(self.check_base))
        for v in (*self.check_values, *ciphertexts.values, *values):
            digest.update(self._raw(v))
        return digest.digest()

    def _raw(self, value: mpz) -> bytes:
        return int(value).to_bytes(-(-2 * self.public.bits // 8), "big")


def deal(
    parties: int, threshold: int, *, bits: int = 2048, for_tests: bool = False
) -> tuple[ThresholdKey, tuple[KeyShare, ...]]:
    """A key in shares, one for each office; any `threshold` of them decrypt.

    The dealer must be trusted, once. The modulus is a product of two safe primes: some 10 s at 2048
    bits, and PaillierError for fewer unless `for_tests`.
    """
    shared = f"Expected 2 <= threshold <= parties, got {threshold} of {parties}."
    require(2 <= threshold <= parties, shared, PaillierError)
    check_length(bits, for_tests)
    p = q = safe_prime(bits // 2)
    while q == p or (p * q).bit_length() != bits:
        q = safe_prime(bits // 2)
    n, m = p * q, (p - 1) // 2 * ((q - 1) // 2)
    square, order = n * n, n * m
    d = m * gmpy2.invert(m, n)  # 0 modulo m, 1 modulo n
    # The order is no prime: shares are joined over the integers, with D = parties! in front.
    values = shamir_split(int(d), range(1, parties + 1), needed=threshold, modulus=int(order))
    shares = tuple(KeyShare(i, mpz(value)) for i, value in values.items())
    delta = mpz(math.factorial(parties))
    base = gmpy2.powmod(random_unit(square), 2, square)
    checks = tuple(gmpy2.powmod_sec(base, delta * s.value, square) for s in shares)
    short = gmpy2.powmod(random_unit(n), n, square)
    public = PublicKey(int(n), int(short))
    return ThresholdKey(public, parties, threshold, base, checks), shares


def safe_prime(bits: int) -> mpz:
    """A random prime p of this length, its two top bits set, with (p - 1) / 2 prime as well."""
    small = [p for p in range(3, _SIEVE) if gmpy2.is_prime(p)]
    while True:
        # Candidates x, x + 2, ...: strike out those where x or 2 x + 1 has a small factor.
        x = mpz(secrets.randbits(bits - 1) | (3 << (bits - 3)) | 1)
        alive = np.ones(_SIEVE, bool)
        for s in small:
            inverse = (s + 1) // 2
            for root in (-x * inverse % s, -(2 * x + 1) * inverse * inverse % s):
                alive[int(root) :: s] = False
        for k in np.flatnonzero(alive):
            half = x + 2 * int(k)
            p = 2 * half + 1
            # A cheap test each first; is_prime repeats with random bases.
            if (
                gmpy2.is_strong_prp(half, 2)
                and gmpy2.is_strong_prp(p, 2)
                and gmpy2.is_prime(half, 40)
                and gmpy2.is_prime(p, 40)
                and p.bit_length() == bits
            ):
                return p
