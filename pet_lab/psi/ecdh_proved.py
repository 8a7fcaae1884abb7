"""Intersection by Diffie-Hellman on ristretto255, where each party proves what it answers.

    initiator -> responder   a*G; a*H(x), shuffled
    responder -> initiator   b*G; b*H(y), shuffled
    initiator -> responder   a*(b*H(y)), in the order received; proofs that this a is that of a*G
    responder -> initiator   b*(a*H(x)), and proofs, likewise

Both then compare as in `ecdh`. A proof covers up to 1024 answers, in their order, in this session
and role; so a peer can neither reorder its answers nor copy them from ours: a key passes for common
only if the peer has put it into its own set. What it puts there is not proved.

There is no cardinality: answers that are shuffled would need a proof of the shuffle.
"""

import hashlib

import numpy as np
import numpy.typing as npt

from . import ristretto
from .curve25519 import split
from .ecdh import refuse_echo
from .elements import bytes_of, common_positions, in_threads, secret_permutation
from .protocol import Bytes2D, Variant, expect
from .session import PsiSession

CONTEXT = b"pet_lab psi ecdh-proved 1"
STEP = 1024


class EcdhProvedEngine:
    """`EcdhEngine` with proofs: about two and a half times its exponentiations."""

    name = "ecdh-proved"
    symmetric = True
    variants: tuple[Variant, ...] = ("psi", "enrichment", "analytics")

    def __repr__(self) -> str:
        return self.name

    def parameters(self) -> dict[str, str | int]:
        """See `PsiEngine`."""
        return {"group": "ristretto255", "hash": "ristretto255_XMD:SHA-512_R255MAP_RO_"}

    def speak(self, talk: PsiSession) -> npt.NDArray[np.int64]:
        """See `PsiEngine`."""
        secret = ristretto.random_scalar()
        public = ristretto.times(secret, ristretto.GENERATOR)
        n = len(talk.elements)
        order = secret_permutation(n)
        mine = np.empty((n, ristretto.WIDTH), dtype=np.uint8)

        def blind(rows: slice) -> Bytes2D:
            keys = (talk.session + talk.elements[i] for i in order[rows])
            hashed = (ristretto.hash_to_group(key, CONTEXT) for key in keys)
            return bytes_of([ristretto.times(secret, h) for h in hashed], ristretto.WIDTH)

        talk.compute("hash and blind", blind, mine)
        own = bytes_of([public], ristretto.WIDTH)
        with talk.stage("exchange blinded", n):
            if talk.role == "initiator":
                talk.send("public", own)
                talk.send("blinded", mine)
            peers = talk.receive("public", width=ristretto.WIDTH, count=1)
            theirs = talk.receive("blinded", width=ristretto.WIDTH, count=talk.peer_size)
            if talk.role == "responder":
                talk.send("public", own)
                talk.send("blinded", mine)
        refuse_echo(np.concatenate([own, mine]), np.concatenate([peers, theirs]))
        m = len(theirs)
        twice = np.empty_like(theirs)

        def answer(rows: slice) -> bytes:
            before = split(theirs[rows])
            after = [ristretto.times(secret, element) for element in before]
            twice[rows] = bytes_of(after, ristretto.WIDTH)
            context = _context(talk, talk.party, rows, before, after)
            return ristretto.prove(secret, public, before, after, context)

        with talk.stage("blind again and prove", m) as cpu:
            proofs = [proof for _, proof in in_threads(answer, m, cpu=cpu, step=STEP)]
        count = -(-n // STEP)
        with talk.stage("exchange twice_blinded", m):
            if talk.role == "initiator":
                talk.send("twice_blinded", twice)
                talk.send("proof", bytes_of(proofs, ristretto.PROOF_WIDTH))
            answers = talk.receive("twice_blinded", width=ristretto.WIDTH, count=n)
            shown = talk.receive("proof", width=ristretto.PROOF_WIDTH, count=count)
            # The responder checks the initiator's answers before it hands out its own.
            _check(talk, peers[0].tobytes(), mine, answers, shown)
            if talk.role == "responder":
                talk.send("twice_blinded", twice)
                talk.send("proof", bytes_of(proofs, ristretto.PROOF_WIDTH))
        with talk.stage("compare", n + m):
            left, _ = common_positions(answers, twice)
        return order[left]


def _check(
    talk: PsiSession, public: bytes, mine: Bytes2D, answers: Bytes2D, shown: Bytes2D
) -> None:
    def check(rows: slice) -> bool:
        before, after = split(mine[rows]), split(answers[rows])
        context = _context(talk, talk.peer, rows, before, after)
        proof = shown[rows.start // STEP].tobytes()
        return ristretto.accepts(public, before, after, context, proof)

    with talk.stage("check the proofs", len(mine)) as cpu:
        right = all(ok for _, ok in in_threads(check, len(mine), cpu=cpu, step=STEP))
    expect(right, "The peer's answers are not proved: they are not ours under its one secret.")


def _context(
    talk: PsiSession, prover: str, rows: slice, before: list[bytes], after: list[bytes]
) -> bytes:
    """Session, prover, place and all pairs: see `ristretto` for why all."""
    place = prover.encode() + b"\0" + rows.start.to_bytes(8, "big")
    pairs = hashlib.sha512(b"".join([place, *before, *after])).digest()
    return CONTEXT + talk.session + pairs
