"""Curve25519: hashing into the curve by RFC 9380, exponentiation by libsodium, membership.

X25519 and u-coordinates: libsodium's ladder is constant-time, clears the cofactor by clamping, and
releases Python's lock; PyNaCl does not expose ristretto255.

The NU suite and not the random-oracle suite, which costs two square roots more: the proof of
DH-based intersection must only be able to draw (r, m) with H(m) = r*G. Elligator 2 can be inverted
on the half of the curve that it reaches, so draw r until r*G lies there. Not a hash straight to 32
bytes: half of all u belong to the quadratic twist, u -> a*u stays on the side where it began, so
everyone could read off one bit of every blinded element.
"""

import hashlib
from collections.abc import Sequence

import gmpy2
import numpy as np
from nacl.bindings import crypto_scalarmult

from pet_lab.checks import require

from .elements import bytes_of
from .protocol import Bytes2D, MessageError

try:  # PyNaCl's own binding; its public functions are the fallback should it ever move
    from nacl import _sodium
except ImportError:
    _sodium = None

WIDTH = 32
_P = gmpy2.mpz(2**255 - 19)
_J = gmpy2.mpz(486662)
_MINUS_J = _P - _J
# u-coordinates of the points of order 1, 2, 4, 8 on the curve and on its twist.
SMALL_ORDER = frozenset(
    {
        0,
        1,
        2**255 - 20,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    }
)
_BLOCK = 128  # of SHA-512


def encode_to_curve(messages: Sequence[bytes], dst: bytes) -> list[bytes]:
    """u-coordinates, 32 bytes each, of suite curve25519_XMD:SHA-512_ELL2_NU_ before its cofactor.

    RFC 9380, sections 5.3.1 and 6.7.1, in one loop; the sign of v is not computed, as X25519 never
    uses it. `exponentiate` multiplies by a multiple of 8 and so clears the cofactor.
    """
    require(len(dst) <= 255, f"A domain separation tag has at most 255 bytes, got {len(dst)}.")
    tag = dst + bytes([len(dst)])
    first_tail, second_tail = b"\0\x30\0" + tag, b"\1" + tag
    start = hashlib.sha512(bytes(_BLOCK))
    jacobi, invert, mpz, sha512 = gmpy2.jacobi, gmpy2.invert, gmpy2.mpz, hashlib.sha512
    p, j, minus_j = _P, _J, _MINUS_J  # a name of the function is found faster than a global one
    out = []
    for message in messages:
        state = start.copy()
        state.update(message + first_tail)
        wide = sha512(state.digest() + second_tail).digest()[:48]
        t = mpz(int.from_bytes(wide, "big")) % p
        # 1 + 2t^2 is never zero: -1/2 is not a square modulo p.
        x = minus_j * invert(1 + 2 * t * t, p) % p
        if jacobi(((x + j) * x + 1) * x, p) < 0:
            x = (minus_j - x) % p
        out.append(int(x).to_bytes(32, "little"))
    return out


def check_elements(rows: Bytes2D) -> None:
    """Refuse rows, shape (n, 32), unless each is a canonical point of large order: not 1, 2, 4, 8.

    A small part added to a large one is harmless, as clamped scalars are multiples of 8.
    """
    raw = rows.tobytes()
    jacobi, j, p, from_bytes, mpz = gmpy2.jacobi, _J, _P, int.from_bytes, gmpy2.mpz
    for i in range(0, len(raw), WIDTH):
        x = mpz(from_bytes(raw[i : i + WIDTH], "little"))
        if x >= p or jacobi(((x + j) * x + 1) * x, p) != 1 or x in SMALL_ORDER:
            raise MessageError(
                f"Element {i // WIDTH} is not a canonical point of curve25519 of large order."
            )


def exponentiate(scalar: bytes, elements: Sequence[bytes]) -> Bytes2D:
    """scalar * element for each, by libsodium's constant-time ladder, which clamps the scalar.

    A result at infinity is a MessageError: the element had small order.
    """
    if _sodium is None:
        try:
            return bytes_of([crypto_scalarmult(scalar, e) for e in elements], WIDTH)
        except RuntimeError:
            raise MessageError("An element has small order.") from None
    # The same function without a copy and a check of types for each element: 3 % of all time.
    out = np.empty((len(elements), WIDTH), dtype=np.uint8)
    source, target = (_sodium.ffi.from_buffer(b) for b in (b"".join(elements), out))
    ladder = _sodium.lib.crypto_scalarmult
    for at in range(0, len(elements) * WIDTH, WIDTH):
        if ladder(target + at, scalar, source + at):
            raise MessageError("An element has small order.")
    return out


def split(rows: Bytes2D) -> list[bytes]:
    """Rows of 32 bytes as byte strings."""
    raw = rows.tobytes()
    return [raw[i : i + WIDTH] for i in range(0, len(raw), WIDTH)]
