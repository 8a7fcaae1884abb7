"""ristretto255 by libsodium, and RFC 9497's proof that many elements were raised to one secret.

The proof (`prove`, `accepts`) is the batched DLEQ of suite ristretto255-SHA512 in VOPRF mode. The
group's operations are rbcl's, which brings a libsodium with ristretto255; PyNaCl's has none.

RFC 9497 weighs each pair by a hash of that pair alone. Then who proves may search for wrong answers
whose errors cancel: a sum over as many lists as there are pairs, for which the algorithm of Wagner
(2002) takes about 2^31 steps at 2^15 pairs. So a caller binds all pairs into `context`: any change
redraws all weights.
"""

import contextlib
import hashlib
import hmac
import sys
from collections.abc import Sequence
from pathlib import Path

import rbcl

from .protocol import MessageError

with contextlib.suppress(OSError):  # rbcl loads its library from a file that it leaves behind
    Path(sys.modules["rbcl._sodium"].lib_path).unlink()

WIDTH = 32
PROOF_WIDTH = 64
ORDER = 2**252 + 27742317777372353535851937790883648493
GENERATOR = rbcl.crypto_scalarmult_ristretto255_base((1).to_bytes(32, "little"))
_START = hashlib.sha512(bytes(128))  # a block of zeros


def expand(message: bytes, dst: bytes) -> bytes:
    """64 bytes by expand_message_xmd with SHA-512: RFC 9380, section 5.3.1."""
    tag = dst + bytes([len(dst)])
    first = _START.copy()
    first.update(message + b"\0\x40\0" + tag)
    return hashlib.sha512(first.digest() + b"\1" + tag).digest()


def hash_to_group(message: bytes, context: bytes) -> bytes:
    """RFC 9497, section 4.1: an element whose logarithm nobody knows."""
    element: bytes = rbcl.crypto_core_ristretto255_from_hash(
        expand(message, b"HashToGroup-" + context)
    )
    return element


def hash_to_scalar(message: bytes, context: bytes) -> bytes:
    """RFC 9497, section 4.1: a number below the order of the group, little-endian."""
    wide = expand(message, b"HashToScalar-" + context)
    scalar: bytes = rbcl.crypto_core_ristretto255_scalar_reduce(wide)
    return scalar


def random_scalar() -> bytes:
    """A secret from the system's CSPRNG: not 0, below the order of the group."""
    scalar: bytes = rbcl.crypto_core_ristretto255_scalar_random()
    return scalar


def times(scalar: bytes, element: bytes) -> bytes:
    """scalar * element in constant time; MessageError unless a canonical element other than 0."""
    try:
        product: bytes = rbcl.crypto_scalarmult_ristretto255(scalar, element)
    except RuntimeError:
        raise MessageError("An element is not one of ristretto255, or it is zero.") from None
    return product


def prove(
    secret: bytes,
    public: bytes,
    before: Sequence[bytes],
    after: Sequence[bytes],
    context: bytes,
    *,
    nonce: bytes | None = None,
) -> bytes:
    """64 bytes that show after[i] = secret * before[i] for all i, and public = secret * GENERATOR.

    RFC 9497, section 2.2.1. `nonce` is for its vectors only: used twice it tells the secret.
    """
    middle = _weighed(_weights(public, before, after, context), before)
    image = times(secret, middle)
    r = nonce or random_scalar()
    commitments = times(r, GENERATOR), times(r, middle)
    c = _challenge(context, public, middle, image, *commitments)
    product = rbcl.crypto_core_ristretto255_scalar_mul(c, secret)
    return c + bytes(rbcl.crypto_core_ristretto255_scalar_sub(r, product))


def accepts(
    public: bytes, before: Sequence[bytes], after: Sequence[bytes], context: bytes, proof: bytes
) -> bool:
    """Whether `proof` shows after[i] = k * before[i] for all i, with public = k * GENERATOR.

    RFC 9497, section 2.2.2. Raises MessageError if something sent is no element, or zero.
    """
    if int.from_bytes(proof[32:], "little") >= ORDER:
        return False  # not canonical
    weights = _weights(public, before, after, context)
    middle, image = _weighed(weights, before), _weighed(weights, after)
    c, s = proof[:32], proof[32:]
    add = rbcl.crypto_core_ristretto255_add
    commitments = (
        add(times(s, GENERATOR), times(c, public)),
        add(times(s, middle), times(c, image)),
    )
    return hmac.compare_digest(c, _challenge(context, public, middle, image, *commitments))


def _sized(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)


def _weights(
    public: bytes, before: Sequence[bytes], after: Sequence[bytes], context: bytes
) -> list[bytes]:
    seed = hashlib.sha512(_sized(public, b"Seed-" + context)).digest()
    return [
        hash_to_scalar(_sized(seed) + i.to_bytes(2, "big") + _sized(a, b) + b"Composite", context)
        for i, (a, b) in enumerate(zip(before, after, strict=True))
    ]


def _weighed(weights: Sequence[bytes], elements: Sequence[bytes]) -> bytes:
    total = bytes(WIDTH)  # zero
    for weight, element in zip(weights, elements, strict=True):
        total = rbcl.crypto_core_ristretto255_add(total, times(weight, element))
    return total


def _challenge(context: bytes, *elements: bytes) -> bytes:
    return hash_to_scalar(_sized(*elements) + b"Challenge", context)
