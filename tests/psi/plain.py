"""The oracle: both files on the wire in clear; and what a transcript holds, element by element."""

import numpy as np

from pet_lab.psi.protocol import VARIANTS, MessageError

_PIECE = 256


class PlainEngine:
    """Sends every key as it is. Only for comparison: what the others must agree with."""

    name = "plain"
    symmetric = True
    variants = VARIANTS

    def __repr__(self):
        return "plain"

    def parameters(self):
        return {}

    def speak(self, talk):
        with talk.stage("exchange in clear", len(talk.elements)):
            rows = _pack(talk.elements)
            if talk.role == "initiator":
                talk.send("blob", rows)
                received = talk.receive("blob", width=_PIECE, count=talk.peer_size)
            else:
                received = talk.receive("blob", width=_PIECE, count=talk.peer_size)
                talk.send("blob", rows)
        theirs = {_unpack(bytes(r)) for r in received}
        if len(theirs) != len(received):
            raise MessageError("The received elements hold one twice; each must be sent once.")
        # Sorted by the key itself, which both sides know: the shared order of the intersection.
        both = sorted((k, i) for i, k in enumerate(talk.elements) if k in theirs)
        positions = np.array([i for _, i in both], dtype=np.int64)
        return len(positions) if talk.variant == "cardinality" else positions


def _pack(elements):
    for element in elements:
        if len(element) > _PIECE - 2:
            raise MessageError(
                f"The plain engine takes keys of at most {_PIECE - 2} bytes, got {len(element)}."
            )
    raw = b"".join(len(e).to_bytes(2, "big") + e.ljust(_PIECE - 2, b"\0") for e in elements)
    return np.frombuffer(raw, dtype=np.uint8).reshape(len(elements), _PIECE)


def _unpack(raw):
    size = int.from_bytes(raw[:2], "big")
    if size > _PIECE - 2 or any(raw[2 + size :]):
        raise MessageError("A plain key is not well formed: its length and its padding disagree.")
    return raw[2 : 2 + size]


def elements_of(transcript, *, kind, sender):
    """The elements of one kind that a party sent, in order of sending."""
    return [
        m.payload[i : i + m.width]
        for m in transcript
        if m.kind == kind and m.sender == sender and m.payload
        for i in range(0, len(m.payload), m.width)
    ]
