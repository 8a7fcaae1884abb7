"""Intersection by Diffie-Hellman on Curve25519: each element is raised to both parties' secrets.

    initiator -> responder   a*H(x), shuffled
    responder -> initiator   b*H(y), shuffled
    initiator -> responder   a*(b*H(y)), in the order received (cardinality: shuffled again)
    responder -> initiator   b*(a*H(x)), likewise

Both then hold ab*H(x) and ab*H(y) and compare. The scalars are fresh in every session, and the
session is part of what is hashed, so nothing of one session means anything in another.

References
----------
C. Meadows 1986; B. Huberman, M. Franklin, T. Hogg 1999; RFC 9380 for H; RFC 7748 for the ladder.
"""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from . import curve25519 as curve
from .elements import common_positions, in_threads, secret_permutation
from .messages import Kind
from .protocol import (
    VARIANTS,
    Bytes2D,
    MessageError,
    Variant,
)
from .session import PsiSession

DST = b"pet_lab-psi-V01-CS01-with-curve25519_XMD:SHA-512_ELL2_NU_"


class EcdhEngine:
    """The default engine: four exponentiations a pair of elements; both parties learn."""

    name = "ecdh"
    private = True
    symmetric = True
    variants: tuple[Variant, ...] = VARIANTS

    def __repr__(self) -> str:
        return "ecdh"

    def parameters(self) -> dict[str, str | int]:
        """What both sides must agree on, beyond the name; see `PsiEngine`."""
        return {"group": "curve25519", "hash": "curve25519_XMD:SHA-512_ELL2_NU_"}

    def speak(self, talk: PsiSession) -> npt.NDArray[np.int64] | int:
        """Own positions of the common elements, or their number; see `PsiEngine`."""
        secret = os.urandom(32)
        n = len(talk.elements)
        order = secret_permutation(n)
        mine = np.empty((n, curve.WIDTH), dtype=np.uint8)
        with talk.stage("hash and blind", n) as timer:

            def blind(start: int, stop: int) -> Bytes2D:
                keys = [talk.session + talk.elements[i] for i in order[start:stop]]
                return curve.exponentiate(secret, curve.encode_to_curve(keys, DST))

            for start, stop, part in in_threads(blind, n, timer=timer):
                mine[start:stop] = part
        theirs = self._swap(talk, "blinded", mine, n_received=talk.peer_size)
        _refuse_echo(mine, theirs)
        m = len(theirs)
        del mine
        with talk.stage("check and blind again", m) as timer:

            def blind_again(start: int, stop: int) -> Bytes2D:
                part = theirs[start:stop]
                curve.check_elements(part)
                return curve.exponentiate(secret, curve.split(part))

            for start, stop, part in in_threads(blind_again, m, timer=timer):
                theirs[start:stop] = part  # in place: a million elements are held once, not twice
        returned = theirs[secret_permutation(m)] if talk.variant == "cardinality" else theirs
        mine_twice = self._swap(talk, "twice_blinded", returned, n_received=n)
        # What came back is compared and no more, so it need not be checked to be in the group: a
        # wrong element matches nothing, as if the peer had lied about its set.
        with talk.stage("compare", n + m):
            left, _ = common_positions(mine_twice, theirs)
        if talk.variant == "cardinality":
            return len(left)
        return order[left]

    def _swap(self, talk: PsiSession, kind: Kind, rows: Bytes2D, *, n_received: int) -> Bytes2D:
        """Send, then receive, or the other way round: never both at once, so no side can block."""
        with talk.stage(f"exchange {kind}", len(rows)):
            if talk.role == "initiator":
                talk.send(kind, rows)
                return talk.receive(kind, width=curve.WIDTH, count=n_received)
            received = talk.receive(kind, width=curve.WIDTH, count=n_received)
            talk.send(kind, rows)
            return received


def _refuse_echo(mine: Bytes2D, theirs: Bytes2D) -> None:
    """A peer that returns our own blinded elements as its own would appear to share all of them."""
    # Eight bytes decide: honest elements are random, so a chance hit has probability n*m / 2^64.
    heads = [np.ascontiguousarray(rows[:, :8]).view(np.uint64).ravel() for rows in (theirs, mine)]
    if np.isin(heads[0], heads[1]).any():
        raise MessageError("The peer sent our own blinded elements back as its own.")
