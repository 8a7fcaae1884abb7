"""Intersection by blind RSA signatures: the report's protocol (De Cristofaro and Tsudik 2010).

    responder -> initiator   n (e is 65537), and e-th roots of eight hashes of n
    initiator -> responder   H(x) * r^e, shuffled
    responder -> initiator   (H(x) * r^e)^d, same order;  t(H(y)^d), shuffled
    initiator                H(x)^d = signed / r, each checked against H(x); compares t(H(x)^d)
    initiator -> responder   p(H(x)^d) of the tags found, so that both sides know the intersection

Where the published program differs: full-domain hash onto Z_n (SHAKE-256 with 128 bits to spare), a
modulus of 3072 bits, blinds from the CSPRNG, shuffled tags that are bound to the session, no header
row, and at most as many signatures as the greeting announced, for the one authenticated peer.

With a key where e divides phi(n) a key holder could recognise blinded elements, so it must show
roots first: a hash has one with probability 1/e then, and eight make 2^-128 (Goldberg, Reyzin,
Sagga, Baldimtsi 2019). Tags are public in the session, so a tag claims nothing: p, a second hash of
the signature, shows that the initiator has the signature. Swapped signatures do not verify.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence

import gmpy2
import numpy as np
import numpy.typing as npt

from .elements import bytes_of, common_positions, in_threads, secret_permutation, strings
from .protocol import Bytes2D, MessageError, PsiError, Variant
from .rsa_raw import Backend, E, RsaPrivateKey
from .session import PsiSession

_HASH_DST = b"pet_lab psi rsa full-domain hash 1"
_TAG_DST = b"pet_lab psi rsa tag 1"
_PROOF_DST = b"pet_lab psi rsa proof 1"
TAG_WIDTH = 32
ROOTS = 8


def full_domain_hash(key: bytes, *, modulus: int, session: bytes) -> int:
    """Hash onto 2..n-2: SHAKE-256, 128 bits wider than n, reduced; bound to n and the session."""
    width = (modulus.bit_length() + 7) // 8
    shake = hashlib.shake_256(_HASH_DST + session + modulus.to_bytes(width, "big"))
    shake.update(key)
    return 2 + int.from_bytes(shake.digest(width + 16), "big") % (modulus - 3)


def check_blinded(rows: Bytes2D, modulus: int) -> None:
    """Refuse rows, big-endian numbers, that are not units of Z_n other than 1 and n - 1.

    Raises
    ------
    MessageError
        For 0, 1, -1, n, anything above, and anything that shares a factor with n.
    """
    n = gmpy2.mpz(modulus)
    product = gmpy2.mpz(1)
    values = [gmpy2.mpz(int.from_bytes(bytes(r), "big")) for r in rows]
    for i, x in enumerate(values):
        if not 1 < x < n - 1:
            raise MessageError(f"Element {i} is not between 2 and n - 2.")
        product = product * x % n
    # One gcd for all: a common factor of any element is one of the product.
    if gmpy2.gcd(product, n) != 1:
        raise MessageError("An element shares a factor with the modulus.")


def check_modulus(modulus: int, bits: int) -> None:
    """Refuse a modulus of another size, with a small factor, or that is prime or a power."""
    n = gmpy2.mpz(modulus)
    if n.bit_length() != bits:
        raise MessageError(f"The modulus has {n.bit_length()} bits, agreed were {bits}.")
    if gmpy2.gcd(n, gmpy2.primorial(1 << 12)) != 1:
        raise MessageError("The modulus has a small factor.")
    if gmpy2.is_prime(n) or gmpy2.is_power(n):
        raise MessageError("The modulus is a prime or a power, not a product of two primes.")


def root_hashes(modulus: int, session: bytes) -> list[int]:
    """The numbers whose e-th roots show that e is prime to phi(n): hashes that nobody chooses."""
    return [
        full_domain_hash(b"root %d" % i, modulus=modulus, session=b"roots" + session)
        for i in range(ROOTS)
    ]


class RsaEngine:
    """Blind RSA signatures; the responder holds the key.

    Parameters
    ----------
    bits : 3072 by default; 2048 and 4096 are allowed, the published 1024 are not
    backend : of the private operation, see `rsa_raw`; None takes the fastest present
    """

    name = "rsa"
    private = True
    symmetric = True
    variants: tuple[Variant, ...] = ("psi", "enrichment", "analytics")

    def __init__(self, bits: int = 3072, *, backend: Backend | None = None) -> None:
        if bits not in (2048, 3072, 4096):
            raise PsiError(f"RSA moduli of 2048, 3072 or 4096 bits are offered, got {bits}.")
        self.bits, self.backend = bits, backend

    def __repr__(self) -> str:
        return f"rsa-{self.bits}"

    def parameters(self) -> dict[str, str | int]:
        """What both sides must agree on, beyond the name; see `PsiEngine`."""
        return {"bits": self.bits, "e": E}

    def speak(self, talk: PsiSession) -> npt.NDArray[np.int64] | int:
        """Own positions of the common elements, or their number; see `PsiEngine`."""
        return self._sign(talk) if talk.role == "responder" else self._ask(talk)

    # -- the key holder -----------------------------------------------------------------------
    def _sign(self, talk: PsiSession) -> npt.NDArray[np.int64]:
        with talk.stage("make key", 1):
            key = RsaPrivateKey(self.bits, self.backend)
            hashes = root_hashes(key.modulus, talk.session)
            roots = key.power([h.to_bytes(key.width, "big") for h in hashes])
        talk.send("blob", bytes_of([key.modulus.to_bytes(key.width, "big"), *roots], key.width))
        n = len(talk.elements)
        order = secret_permutation(n)
        tags, proofs = np.empty((2, n, TAG_WIDTH), dtype=np.uint8)
        with talk.stage("sign own elements", n) as cpu:

            def sign(start: int, stop: int) -> tuple[Bytes2D, Bytes2D]:
                hashed = [
                    full_domain_hash(talk.elements[i], modulus=key.modulus, session=talk.session)
                    for i in order[start:stop]
                ]
                return _tags(
                    key.power([h.to_bytes(key.width, "big") for h in hashed]), talk.session
                )

            for start, stop, parts in in_threads(sign, n, cpu=cpu, step=256):
                tags[start:stop], proofs[start:stop] = parts
        with talk.stage("receive blinded", talk.peer_size):
            theirs = talk.receive("blinded", width=key.width, count=talk.peer_size)
        with talk.stage("check and sign", len(theirs)) as cpu:

            def answer(start: int, stop: int) -> Bytes2D:
                part = theirs[start:stop]
                check_blinded(part, key.modulus)
                return bytes_of(key.power([r.tobytes() for r in part]), key.width)

            for start, stop, part in in_threads(answer, len(theirs), cpu=cpu, step=256):
                theirs[start:stop] = part
        with talk.stage("send signatures and tags", n + len(theirs)):
            talk.send("signed", theirs)
            talk.send("tags", tags)
        with talk.stage("receive the proofs", n):
            matched = talk.receive("matched", width=TAG_WIDTH, count=n, or_fewer=True)
            mine, theirs_too = common_positions(proofs, matched)
            if len(theirs_too) != len(matched):
                raise MessageError("The peer claims a match without a signature that proves it.")
            mine = mine[np.argsort(strings(tags[mine]))]  # the order that both sides share
        return order[mine]

    # -- the one who asks ---------------------------------------------------------------------
    def _ask(self, talk: PsiSession) -> npt.NDArray[np.int64]:
        width = self.bits // 8
        with talk.stage("receive key", 1):
            sent = talk.receive("blob", width=width, count=1 + ROOTS)
            modulus, *roots = (int.from_bytes(row.tobytes(), "big") for row in sent)
            check_modulus(modulus, self.bits)
            if not verify(roots, root_hashes(modulus, talk.session), modulus):
                raise MessageError("The key is not shown to be one: e may divide phi(n).")
        n = len(talk.elements)
        order = secret_permutation(n)
        hashed: list[list[gmpy2.mpz]] = []
        unblind: list[list[gmpy2.mpz]] = []
        blinded = np.empty((n, width), dtype=np.uint8)
        with talk.stage("hash and blind", n) as cpu:

            def blind(start: int, stop: int) -> tuple[list[gmpy2.mpz], list[gmpy2.mpz], Bytes2D]:
                h = [
                    gmpy2.mpz(
                        full_domain_hash(talk.elements[i], modulus=modulus, session=talk.session)
                    )
                    for i in order[start:stop]
                ]
                r = [gmpy2.mpz(2 + secrets.randbelow(modulus - 3)) for _ in h]
                # The exponent is public and the list call releases Python's lock.
                raised = gmpy2.powmod_base_list(r, E, gmpy2.mpz(modulus))
                rows = [
                    int(a * b % modulus).to_bytes(width, "big")
                    for a, b in zip(h, raised, strict=True)
                ]
                return h, invert_all(r, modulus), bytes_of(rows, width)

            for start, stop, (h, inverses, rows) in in_threads(blind, n, cpu=cpu, step=256):
                hashed.append(h)
                unblind.append(inverses)
                blinded[start:stop] = rows
        with talk.stage("send blinded", n):
            talk.send("blinded", blinded)
        with talk.stage("receive signatures", n + talk.peer_size):
            signed = talk.receive("signed", width=width, count=n)
            theirs = talk.receive("tags", width=TAG_WIDTH, count=talk.peer_size)
        mine, proofs = np.empty((2, n, TAG_WIDTH), dtype=np.uint8)
        with talk.stage("unblind and compare", n) as cpu:

            def finish(start: int, stop: int) -> tuple[Bytes2D, Bytes2D]:
                h, inverses = hashed[start // 256], unblind[start // 256]
                values = [int.from_bytes(r.tobytes(), "big") for r in signed[start:stop]]
                signatures = [s * i % modulus for s, i in zip(values, inverses, strict=True)]
                if not verify(signatures, h, modulus):
                    raise MessageError("The key holder's signatures are wrong: they do not verify.")
                return _tags([int(s).to_bytes(width, "big") for s in signatures], talk.session)

            for start, stop, parts in in_threads(finish, n, cpu=cpu, step=256):
                mine[start:stop], proofs[start:stop] = parts
            left, _ = common_positions(mine, theirs)
        with talk.stage("send the proofs", len(left)):
            talk.send("matched", proofs[left])
        return order[left]


def invert_all(values: Sequence[gmpy2.mpz], modulus: int) -> list[gmpy2.mpz]:
    """Inverses modulo n with one inversion and three multiplications each (Montgomery's trick)."""
    n = gmpy2.mpz(modulus)
    running, prefix = gmpy2.mpz(1), []
    for v in values:
        prefix.append(running)
        running = running * v % n
    try:
        inverse = gmpy2.invert(running, n)
    except ZeroDivisionError:
        raise MessageError(
            "A blind shares a factor with the modulus: the key is not an RSA key."
        ) from None
    out = [inverse] * len(prefix)
    for i in range(len(prefix) - 1, -1, -1):
        out[i] = inverse * prefix[i] % n
        inverse = inverse * values[i] % n
    return out


def verify(signatures: Sequence[int], hashed: Sequence[int], modulus: int) -> bool:
    """Whether each signature is an e-th root of its own hash: a product would hide a swap."""
    raised = gmpy2.powmod_base_list([gmpy2.mpz(s) for s in signatures], E, gmpy2.mpz(modulus))
    return all(a == b for a, b in zip(raised, hashed, strict=True))


def _tags(signatures: Sequence[bytes], session: bytes) -> tuple[Bytes2D, Bytes2D]:
    """What is shown of each signature, and what proves that one has it."""
    tags, proofs = (
        bytes_of([hashlib.sha256(dst + session + s).digest() for s in signatures], TAG_WIDTH)
        for dst in (_TAG_DST, _PROOF_DST)
    )
    return tags, proofs
