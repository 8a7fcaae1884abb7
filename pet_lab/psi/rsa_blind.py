"""Intersection by blind RSA signatures: the report's protocol (De Cristofaro and Tsudik 2010).

    responder -> initiator   n (e is 65537), and e-th roots of eight hashes of n
    initiator -> responder   H(x) * r^e, shuffled
    responder -> initiator   (H(x) * r^e)^d, same order;  t(H(y)^d), shuffled
    initiator                H(x)^d = signed / r, each checked against H(x); compares t(H(x)^d)
    initiator -> responder   p(H(x)^d) of the tags found, so that both sides know the intersection

Unlike the published program: a full-domain hash onto Z_n, 3072 bits, blinds from the CSPRNG,
shuffled tags that are bound to the session, no header row, and at most as many signatures as the
greeting announced, for the one authenticated peer.

With a key where e divides phi(n) a key holder could recognise blinded elements, so it must show
roots first: a hash has one with probability 1/e then, and eight make 2^-128 (Goldberg, Reyzin,
Sagga, Baldimtsi 2019). Tags are public in the session, so a tag claims nothing: p, a second hash of
the signature, shows that the initiator has the signature.
"""

import hashlib
import secrets
from collections.abc import Sequence

import gmpy2
import numpy as np
import numpy.typing as npt

from .elements import bytes_of, common_positions, secret_permutation, strings
from .protocol import Bytes2D, MessageError, Variant, ensure, expect
from .rsa_raw import Backend, E, RsaPrivateKey
from .session import PsiSession

_HASH_DST = b"pet_lab psi rsa full-domain hash 1"
_TAG_DST = b"pet_lab psi rsa tag 1"
_PROOF_DST = b"pet_lab psi rsa proof 1"
TAG_WIDTH = 32
ROOTS = 8
STEP = 256


def full_domain_hash(key: bytes, *, modulus: int, session: bytes) -> int:
    """Hash onto 2..n-2: SHAKE-256, 128 bits wider than n, reduced; bound to n and the session."""
    width = (modulus.bit_length() + 7) // 8
    shake = hashlib.shake_256(_HASH_DST + session + modulus.to_bytes(width, "big"))
    shake.update(key)
    return 2 + int.from_bytes(shake.digest(width + 16), "big") % (modulus - 3)


def check_blinded(rows: Bytes2D, modulus: int) -> None:
    """Refuse rows, big-endian numbers, that are not units of Z_n other than 1 and n - 1."""
    n = gmpy2.mpz(modulus)
    product = gmpy2.mpz(1)
    for i, row in enumerate(rows):
        x = gmpy2.mpz(int.from_bytes(bytes(row), "big"))
        if not 1 < x < n - 1:
            raise MessageError(f"Element {i} is not between 2 and n - 2.")
        product = product * x % n
    # One gcd for all: a common factor of any element is one of the product.
    expect(gmpy2.gcd(product, n) == 1, "An element shares a factor with the modulus.")


def check_modulus(modulus: int, bits: int) -> None:
    """Refuse a modulus of another size, with a small factor, or that is prime or a power."""
    n = gmpy2.mpz(modulus)
    size = n.bit_length()
    expect(size == bits, f"The modulus has {size} bits, agreed were {bits}.")
    expect(gmpy2.gcd(n, gmpy2.primorial(1 << 12)) == 1, "The modulus has a small factor.")
    composite = not (gmpy2.is_prime(n) or gmpy2.is_power(n))
    expect(composite, "The modulus is a prime or a power, not a product of two primes.")


def root_hashes(modulus: int, session: bytes) -> list[int]:
    """The numbers whose e-th roots show that e is prime to phi(n): hashes that nobody chooses."""
    return [
        full_domain_hash(b"root %d" % i, modulus=modulus, session=b"roots" + session)
        for i in range(ROOTS)
    ]


class RsaEngine:
    """Blind RSA signatures; the responder holds the key.

    Moduli of 2048, 3072 and 4096 bits are allowed, the published 1024 are not. The backend of the
    private operation is the fastest present unless named, see `rsa_raw`.
    """

    name = "rsa"
    symmetric = True
    variants: tuple[Variant, ...] = ("psi", "enrichment", "analytics")

    def __init__(self, bits: int = 3072, *, backend: Backend | None = None) -> None:
        offered = f"RSA moduli of 2048, 3072 or 4096 bits are offered, got {bits}."
        ensure(bits in (2048, 3072, 4096), offered)
        self.bits, self.backend = bits, backend

    def __repr__(self) -> str:
        return f"rsa-{self.bits}"

    def parameters(self) -> dict[str, str | int]:
        """See `PsiEngine`."""
        return {"bits": self.bits, "e": E}

    def speak(self, talk: PsiSession) -> npt.NDArray[np.int64] | int:
        """See `PsiEngine`."""
        return self._sign(talk) if talk.role == "responder" else self._ask(talk)

    def _sign(self, talk: PsiSession) -> npt.NDArray[np.int64]:
        """The key holder's side."""
        with talk.stage("make key", 1):
            key = RsaPrivateKey(self.bits, self.backend)
            hashes = root_hashes(key.modulus, talk.session)
            roots = key.power([h.to_bytes(key.width, "big") for h in hashes])
        talk.send("blob", bytes_of([key.modulus.to_bytes(key.width, "big"), *roots], key.width))
        n = len(talk.elements)
        order = secret_permutation(n)
        tags, proofs = np.empty((2, n, TAG_WIDTH), dtype=np.uint8)

        def sign(rows: slice) -> tuple[Bytes2D, Bytes2D]:
            hashed = [
                full_domain_hash(talk.elements[i], modulus=key.modulus, session=talk.session)
                for i in order[rows]
            ]
            signed = key.power([h.to_bytes(key.width, "big") for h in hashed])
            return _tags(signed, talk.session)

        talk.compute("sign own elements", sign, tags, proofs, step=STEP)
        with talk.stage("receive blinded", talk.peer_size):
            theirs = talk.receive("blinded", width=key.width, count=talk.peer_size)

        def answer(rows: slice) -> Bytes2D:
            check_blinded(theirs[rows], key.modulus)
            return bytes_of(key.power([r.tobytes() for r in theirs[rows]]), key.width)

        talk.compute("check and sign", answer, theirs, step=STEP)
        with talk.stage("send signatures and tags", n + len(theirs)):
            talk.send("signed", theirs)
            talk.send("tags", tags)
        with talk.stage("receive the proofs", n):
            matched = talk.receive("matched", width=TAG_WIDTH, count=n, or_fewer=True)
            mine, proved = common_positions(proofs, matched)
            claimed = "The peer claims a match without a signature that proves it."
            expect(len(proved) == len(matched), claimed)
            mine = mine[np.argsort(strings(tags[mine]))]  # the order that both sides share
        return order[mine]

    def _ask(self, talk: PsiSession) -> npt.NDArray[np.int64]:
        """The side of who asks for signatures."""
        width = self.bits // 8
        with talk.stage("receive key", 1):
            sent = talk.receive("blob", width=width, count=1 + ROOTS)
            modulus, *roots = (int.from_bytes(row.tobytes(), "big") for row in sent)
            check_modulus(modulus, self.bits)
            shown = verify(roots, root_hashes(modulus, talk.session), modulus)
            expect(shown, "The key is not shown to be one: e may divide phi(n).")
        n = len(talk.elements)
        order = secret_permutation(n)
        hashed, unblind = np.empty((2, n), dtype=object)
        blinded = np.empty((n, width), dtype=np.uint8)

        def blind(rows: slice) -> tuple[list[gmpy2.mpz], list[gmpy2.mpz], Bytes2D]:
            h = [
                gmpy2.mpz(full_domain_hash(talk.elements[i], modulus=modulus, session=talk.session))
                for i in order[rows]
            ]
            r = [gmpy2.mpz(2 + secrets.randbelow(modulus - 3)) for _ in h]
            # The exponent is public and the list call releases Python's lock.
            raised = gmpy2.powmod_base_list(r, E, gmpy2.mpz(modulus))
            products = (int(a * b % modulus) for a, b in zip(h, raised, strict=True))
            return (
                h,
                invert_all(r, modulus),
                bytes_of([x.to_bytes(width, "big") for x in products], width),
            )

        talk.compute("hash and blind", blind, hashed, unblind, blinded, step=STEP)
        with talk.stage("send blinded", n):
            talk.send("blinded", blinded)
        with talk.stage("receive signatures", n + talk.peer_size):
            signed = talk.receive("signed", width=width, count=n)
            theirs = talk.receive("tags", width=TAG_WIDTH, count=talk.peer_size)
        mine, proofs = np.empty((2, n, TAG_WIDTH), dtype=np.uint8)

        def finish(rows: slice) -> tuple[Bytes2D, Bytes2D]:
            values = (int.from_bytes(r.tobytes(), "big") for r in signed[rows])
            signatures = [s * i % modulus for s, i in zip(values, unblind[rows], strict=True)]
            right = verify(signatures, hashed[rows], modulus)
            expect(right, "The key holder's signatures are wrong: they do not verify.")
            return _tags([int(s).to_bytes(width, "big") for s in signatures], talk.session)

        talk.compute("unblind", finish, mine, proofs, step=STEP)
        with talk.stage("compare", n + len(theirs)):
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
