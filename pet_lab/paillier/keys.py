"""Encrypt, add, send and decrypt packed vectors, on python-paillier's keys.

A ciphertext of m is (1 + n m) R mod n^2, where R, the noise, is a random n-th power. All the cost
is in R. Two ways to get it (D. Paillier, EUROCRYPT 1999; Damgard, Jurik, Nielsen, Int. J. Inf.
Secur. 9, 2010):

fresh   R = r^n for a uniform r: the scheme as published. The holder of the private key works modulo
        p^2 and q^2 apart, where the n-th powers are the y^p for y uniform below p (q is invertible
        modulo p - 1): two short powers instead of a long one, the same distribution.
short   R = h^e, h a fixed random n-th power published with the key and e a secret of 384 bits.
        Rests on one more assumption: that h^e for such e cannot be told from a random power of h.
        Finding e from h^e by a generic method takes about 2^192 steps.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import gmpy2
import msgspec
import numpy as np
from gmpy2 import mpz
from numpy.typing import ArrayLike, NDArray

from pet_lab.checks import require
from pet_lab.paillier.packing import CiphertextError, Packing, PaillierError

Noise = Literal["fresh", "short"]

SHORT_EXPONENT_BITS = 384
_well_formed = functools.partial(require, error=CiphertextError)
SMALLEST_KEY = 2048  # bits; less is for tests


@dataclass(frozen=True)
class Ciphertexts:
    """An encrypted vector, or a sum of some."""

    key_id: bytes  # fingerprint of the public key
    packing: Packing
    count: int  # values in the vector
    terms: int  # vectors added up in it
    values: tuple[mpz, ...] = field(repr=False)  # modulo n^2

    def to_bytes(self) -> bytes:
        """For the network: each ciphertext at full width, big-endian, and what it takes to read."""
        width = _width(self.packing.key_bits)
        body = b"".join(int(c).to_bytes(width, "big") for c in self.values)
        wire = _Wire(self.key_id, self.packing, self.count, self.terms, body)
        return msgspec.msgpack.encode(wire)


class _Wire(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    key_id: bytes
    packing: Packing
    count: int
    terms: int
    body: bytes


def _width(key_bits: int) -> int:
    """Bytes of one ciphertext: a number modulo n^2."""
    return -(-2 * key_bits // 8)


class PublicKey:
    """What the server has: it can check, add and encrypt, but not decrypt.

    `base` is h of the short noise, a random n-th power modulo n^2; without it there is fresh noise
    alone.
    """

    def __init__(self, n: int, base: int | None = None) -> None:
        self.n = mpz(n)
        self.n_squared = self.n * self.n
        self.bits = self.n.bit_length()
        self.base = None if base is None else mpz(base)
        odd = "The modulus of a public key is an odd number of two primes."
        require(self.n >= 15 and self.n % 2, odd, PaillierError)

    def __repr__(self) -> str:
        return f"PublicKey({self.bits} bits, {self.id.hex()[:8]})"

    @cached_property
    def id(self) -> bytes:
        """16 bytes that name the key."""
        raw = int(self.n).to_bytes((self.bits + 7) // 8, "big")
        return hashlib.sha256(b"paillier public key" + raw).digest()[:16]

    def noise(self, count: int, kind: Noise = "fresh") -> list[mpz]:
        """`count` random n-th powers modulo n^2."""
        kinds = get_args(Noise)
        sentence = f"noise is one of {', '.join(kinds)}, got {kind!r}."
        require(kind in kinds, sentence, PaillierError)
        missing = "Short noise needs the key's published base; this key came without it."
        require(kind == "fresh" or self.base is not None, missing, PaillierError)
        return [self._fresh() if kind == "fresh" else self._short() for _ in range(count)]

    def _fresh(self) -> mpz:
        return gmpy2.powmod(random_unit(self.n), self.n, self.n_squared)  # the exponent is public

    def _short(self) -> mpz:
        return gmpy2.powmod_sec(self.base, _exponent(), self.n_squared)

    def encrypt(
        self, values: ArrayLike, packing: Packing, *, noise: Noise = "fresh"
    ) -> Ciphertexts:
        """Encrypt a vector, shape (count,), of finite values with magnitudes up to `packing.limit`.

        Errors as `Packing.quantise`; also PaillierError if the packing is for another key length.
        """
        fits = f"The packing is for keys of {packing.key_bits} bits, this one has {self.bits}."
        require(packing.key_bits == self.bits, fits, PaillierError)
        plaintexts = packing.encode(values)
        pairs = zip(plaintexts, self.noise(len(plaintexts), noise), strict=True)
        ciphertexts = tuple((1 + self.n * m) * r % self.n_squared for m, r in pairs)
        return Ciphertexts(self.id, packing, int(np.size(values)), 1, ciphertexts)

    def check(self, ciphertexts: Ciphertexts) -> Ciphertexts:
        """Return a ciphertext that is well formed under this key, or raise CiphertextError.

        It is not if it was made under another key or packing, has a wrong number of parts, a part
        outside [1, n^2) or one that shares a factor with n.
        """
        packing, count, terms = ciphertexts.packing, ciphertexts.count, ciphertexts.terms
        theirs, ours = (key_id.hex()[:8] for key_id in (ciphertexts.key_id, self.id))
        same = ciphertexts.key_id == self.id
        _well_formed(same, f"The ciphertext was made under key {theirs}, expected {ours}.")
        length = f"The ciphertext says {packing.key_bits} bits, the key has {self.bits}."
        _well_formed(packing.key_bits == self.bits, length)
        most = packing.max_terms
        room = f"The ciphertext claims {terms} terms, its packing allows up to {most}."
        _well_formed(1 <= terms <= most, room)
        n, parts = packing.plaintexts(count), len(ciphertexts.values)
        wanted = f"{count} values need {n} ciphertexts, got {parts}."
        _well_formed(count >= 1 and n == parts, wanted)
        product = mpz(1)
        for i, c in enumerate(ciphertexts.values):
            inside = 0 < c < self.n_squared
            _well_formed(inside, f"Ciphertext {i} is outside the range of this key.")
            product = product * c % self.n
        unit = gmpy2.gcd(product, self.n) == 1  # a unit's product is a unit: one gcd does for all
        _well_formed(unit, "A ciphertext shares a factor with the key, which none may.")
        return ciphertexts

    def read(self, raw: bytes) -> Ciphertexts:
        """Parse and check what `Ciphertexts.to_bytes` wrote, or raise CiphertextError."""
        try:
            wire = msgspec.msgpack.decode(raw, type=_Wire)
            packing = dataclasses.replace(wire.packing)  # with its defaults
            again = msgspec.msgpack.encode(msgspec.structs.replace(wire, packing=packing))
        except (ValueError, RecursionError):
            sentence = f"{len(raw)} bytes are none: the message was cut short, or is another."
            raise CiphertextError(f"Expected an encrypted vector; {sentence}") from None
        _well_formed(again == raw, "The ciphertext holds more than it should, or is padded.")
        body, width = wire.body, _width(self.bits)
        key = f"{len(body)} bytes are no ciphertexts of {width} bytes: made under another key?"
        _well_formed(len(body) % width == 0, key)
        values = (body[at : at + width] for at in range(0, len(body), width))
        numbers = tuple(mpz(int.from_bytes(v, "big")) for v in values)
        return self.check(Ciphertexts(wire.key_id, wire.packing, wire.count, wire.terms, numbers))

    def add(self, *ciphertexts: Ciphertexts) -> Ciphertexts:
        """Ciphertext of the sum.

        CiphertextError if the addends differ in key, length or packing, or are more than the slots
        have room for.
        """
        _well_formed(ciphertexts, "Nothing to add: expected at least one ciphertext.")
        first = ciphertexts[0]
        for other in ciphertexts:
            _well_formed(other.key_id == self.id, "An addend was made under another key.")
            shapes = [(one.count, one.packing) for one in (first, other)]
            _well_formed(shapes[0] == shapes[1], f"Addends differ: {shapes[0]}, {shapes[1]}.")
        terms, most = sum(c.terms for c in ciphertexts), first.packing.max_terms
        room = f"The slots have room for {most} addends, got {terms}; use a larger max_terms."
        _well_formed(terms <= most, room)
        columns = zip(*(c.values for c in ciphertexts), strict=True)
        products = (functools.reduce(lambda a, b: a * b % self.n_squared, c) for c in columns)
        return Ciphertexts(self.id, first.packing, first.count, terms, tuple(products))


class PrivateKey(PublicKey):
    """What an office with the shared key pair has: it decrypts too; `public` is for the others.

    Noise by the Chinese remainder theorem costs a quarter to a third.
    """

    def __init__(self, p: int, q: int, base: int | None = None) -> None:
        require(p != q, "The two primes of a key must differ.", PaillierError)
        self._p, self._q = mpz(p), mpz(q)
        self._pp, self._qq = self._p**2, self._q**2
        self._q_inverse = gmpy2.invert(self._qq, self._pp)
        self._hp = gmpy2.invert((self._p - 1) * self._q % self._p, self._p)
        self._hq = gmpy2.invert((self._q - 1) * self._p % self._q, self._q)
        self._qp_inverse = gmpy2.invert(self._q, self._p)
        super().__init__(p * q, base)
        coprime = math.gcd(p * q, (p - 1) * (q - 1)) == 1
        sentence = "These primes make no Paillier key; take two of equal length."
        require(coprime, sentence, PaillierError)
        self.base = self._fresh() if base is None else self.base
        self.public = PublicKey(p * q, self.base)

    def to_secret_bytes(self) -> bytes:
        """The whole key, for a file that only its owner can read; never for a log or a message."""
        key = {"p": hex(self._p), "q": hex(self._q), "base": hex(mpz(self.base))}
        return json.dumps(key).encode()

    @classmethod
    def from_secret_bytes(cls, raw: bytes) -> PrivateKey:
        """What `to_secret_bytes` wrote; PaillierError if it is something else."""
        try:
            values = json.loads(raw)
            return cls(int(values["p"], 16), int(values["q"], 16), int(values["base"], 16))
        except (ValueError, KeyError, TypeError, ZeroDivisionError, RecursionError):
            raise PaillierError(
                "The file holds no Paillier key of ours; restore it, or make a new key."
            ) from None

    @cached_property
    def phe(self) -> Any:
        """The same key as python-paillier holds it."""
        from phe import paillier

        public = paillier.PaillierPublicKey(int(self.n))
        return paillier.PaillierPrivateKey(public, int(self._p), int(self._q))

    def __repr__(self) -> str:
        return f"PrivateKey(of {self.public!r})"

    def __reduce__(self) -> Any:
        raise PaillierError("A private key is not pickled: it must not travel by accident.")

    def _fresh(self) -> mpz:
        # r^n mod p^2 = (r^q)^p, and r^q runs through all units modulo p as r does.
        powers = (gmpy2.powmod_sec(random_unit(r), r, r * r) for r in (self._p, self._q))
        return self._joined(*powers)

    def _short(self) -> mpz:
        e, squares = _exponent(), (self._pp, self._qq)
        return self._joined(*(gmpy2.powmod_sec(self.base % s, e, s) for s in squares))

    def _joined(self, a: mpz, b: mpz) -> mpz:
        """The number that is a modulo p^2 and b modulo q^2."""
        return b + self._qq * ((a - b) * self._q_inverse % self._pp)

    def decrypt_integers(self, values: Iterable[mpz]) -> list[mpz]:
        """Plaintexts, integers below n, of checked ciphertexts."""
        p, q, pp, qq = self._p, self._q, self._pp, self._qq
        out = []
        for c in values:
            # c^(p-1) = 1 + p k mod p^2, and k = m (p-1) q mod p.
            a = (gmpy2.powmod_sec(c % pp, p - 1, pp) - 1) // p * self._hp % p
            b = (gmpy2.powmod_sec(c % qq, q - 1, qq) - 1) // q * self._hq % q
            out.append(b + q * ((a - b) * self._qp_inverse % p))
        return out

    def decrypt(self, ciphertexts: Ciphertexts) -> NDArray[np.float64]:
        """The vector, or the sum of vectors: shape (count,).

        Raises CiphertextError as `PublicKey.check`, SlotOverflow if an addend was out of range.
        """
        self.check(ciphertexts)
        plaintexts = self.decrypt_integers(ciphertexts.values)
        return ciphertexts.packing.decode(plaintexts, ciphertexts.count, ciphertexts.terms)


def generate(bits: int = 2048, *, for_tests: bool = False) -> PrivateKey:
    """A fresh key pair, by python-paillier; PaillierError as `check_length`."""
    from phe import paillier

    check_length(bits, for_tests)
    _, private = paillier.generate_paillier_keypair(n_length=bits)
    return PrivateKey(private.p, private.q)


def check_length(bits: int, for_tests: bool) -> None:
    """PaillierError below 2048 bits, unless `for_tests`, and for what no search would ever find."""
    few = f"{bits} bits are too few to protect anything: use at least {SMALLEST_KEY}."
    require(bits >= SMALLEST_KEY or for_tests, few, PaillierError)
    sentence = f"A key of two equal primes has an even number of bits, at most 16384, got {bits}."
    require(bits % 2 == 0 and bits <= 16_384, sentence, PaillierError)


def random_unit(modulus: mpz) -> mpz:
    """Uniform among the units; a non-unit would factor the key and turns up with odds 2^-1000."""
    return mpz(1 + secrets.randbelow(int(modulus) - 1))


def _exponent() -> mpz:
    return mpz(secrets.randbits(SHORT_EXPONENT_BITS) | (1 << (SHORT_EXPONENT_BITS - 1)))
