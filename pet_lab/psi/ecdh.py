"""Intersection by Diffie-Hellman on Curve25519: each element is raised to both parties' secrets.

    initiator -> responder   a*H(x), shuffled
    responder -> initiator   b*H(y), shuffled; SHA-256 of a salt and of b*(a*H(x))
    initiator -> responder   a*(b*H(y)), in the order received (cardinality: shuffled again)
    responder -> initiator   the salt, and b*(a*H(x)), likewise

Both then hold ab*H(x) and ab*H(y) and compare. The scalars are fresh in every session, and the
session is part of what is hashed, so nothing of one session means anything in another.

The responder is bound to its answer before it sees a*(b*H(y)): what it then copies from there is
not what it committed to and is refused. Some trust remains: who truly shares k keys can return its
answers in another order, and then k other keys of the victim pass for common. `ecdh_proved` closes
this at its price.

C. Meadows 1986; B. Huberman, M. Franklin, T. Hogg 1999; RFC 9380 for H; RFC 7748 for the ladder.
"""

import hashlib
import hmac
import os

import numpy as np
import numpy.typing as npt

from . import curve25519 as curve
from .elements import bytes_of, common_positions, secret_permutation
from .protocol import VARIANTS, Bytes2D, Variant, expect
from .session import PsiSession

SALT_WIDTH = DIGEST_WIDTH = 32
DST = b"pet_lab-psi-V01-CS01-with-curve25519_XMD:SHA-512_ELL2_NU_"


class EcdhEngine:
    """The default engine: four exponentiations a pair of elements; both parties learn."""

    name = "ecdh"
    symmetric = True
    variants: tuple[Variant, ...] = VARIANTS

    def __repr__(self) -> str:
        return "ecdh"

    def parameters(self) -> dict[str, str | int]:
        """See `PsiEngine`."""
        return {"group": "curve25519", "hash": "curve25519_XMD:SHA-512_ELL2_NU_"}

    def speak(self, talk: PsiSession) -> npt.NDArray[np.int64] | int:
        """See `PsiEngine`."""
        secret = os.urandom(32)
        n = len(talk.elements)
        order = secret_permutation(n)
        mine = np.empty((n, curve.WIDTH), dtype=np.uint8)

        def blind(rows: slice) -> Bytes2D:
            keys = [talk.session + talk.elements[i] for i in order[rows]]
            return curve.exponentiate(secret, curve.encode_to_curve(keys, DST))

        talk.compute("hash and blind", blind, mine)
        with talk.stage("exchange blinded", n):
            theirs = talk.swap("blinded", mine, count=talk.peer_size)
        refuse_echo(mine, theirs)
        m = len(theirs)
        del mine

        def blind_again(rows: slice) -> Bytes2D:
            curve.check_elements(theirs[rows])
            return curve.exponentiate(secret, curve.split(theirs[rows]))

        # In place: a million elements are held once, not twice.
        talk.compute("check and blind again", blind_again, theirs)
        returned = theirs[secret_permutation(m)] if talk.variant == "cardinality" else theirs
        with talk.stage("exchange twice_blinded", m):
            if talk.role == "responder":
                salt = os.urandom(SALT_WIDTH)
                talk.send("commitment", bytes_of([_commitment(salt, returned)], DIGEST_WIDTH))
                mine_twice = talk.receive("twice_blinded", width=curve.WIDTH, count=n)
                talk.send("salt", bytes_of([salt], SALT_WIDTH))
                talk.send("twice_blinded", returned)
            else:
                bound = talk.receive("commitment", width=DIGEST_WIDTH, count=1).tobytes()
                talk.send("twice_blinded", returned)
                salt = talk.receive("salt", width=SALT_WIDTH, count=1).tobytes()
                mine_twice = talk.receive("twice_blinded", width=curve.WIDTH, count=n)
                expect(
                    hmac.compare_digest(bound, _commitment(salt, mine_twice)),
                    "The peer's answer is not the one that it committed to before it saw ours.",
                )
        # What came back is compared and no more, so it need not be checked to be in the group: a
        # wrong element matches nothing, as if the peer had lied about its set.
        with talk.stage("compare", n + m):
            left, _ = common_positions(mine_twice, theirs)
        return len(left) if talk.variant == "cardinality" else order[left]


def _commitment(salt: bytes, rows: Bytes2D) -> bytes:
    return hashlib.sha256(b"pet_lab psi commitment 1" + salt + rows.tobytes()).digest()


def refuse_echo(mine: Bytes2D, theirs: Bytes2D) -> None:
    """A peer that returns our own blinded elements as its own would appear to share all of them."""
    # Eight bytes decide: honest elements are random, so a chance hit has probability n*m / 2^64.
    heads = [np.ascontiguousarray(rows[:, :8]).view(np.uint64).ravel() for rows in (theirs, mine)]
    echo = np.isin(heads[0], heads[1]).any()
    expect(not echo, "The peer sent our own blinded elements back as its own.")
