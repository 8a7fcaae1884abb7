"""Frames and greetings: what is said is read back, and hostile messages are refused."""

import hashlib
import json
import random
import time

import numpy as np
import pytest

from pet_lab import psi
from pet_lab.psi import messages
from pet_lab.psi.messages import Frame, Hello, decode_frame, decode_hello
from pet_lab.psi.protocol import Transcript
from pet_lab.psi.session import MemoryChannel, Session

SEED = 20240607
SESSION = bytes(range(16))


def hello(**changed):
    items = {
        "engine": "ecdh",
        "variant": "psi",
        "role": "initiator",
        "party": "statcan.example",
        "peer": "cbs.example",
        "size": 3,
        "on": ("id",),
        "columns": (),
        "parameters": (("bits", 3072), ("group", "curve25519")),
        "nonce": "ab" * 32,
        "share": "cd" * 32,
    }
    return Hello(**{**items, **changed})


def frame(**changed):
    items = {
        "kind": "blinded",
        "session": SESSION,
        "sequence": 7,
        "width": 32,
        "payload": bytes(range(96)),
    }
    return Frame(**{**items, **changed})


def test_what_is_said_is_read_back():
    assert decode_frame(frame().encode()) == frame()
    assert frame().rows().shape == (3, 32)
    assert decode_hello(hello().encode()) == hello()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda b: b[:10], "at least 37 bytes"),
        (lambda b: b[:-1], "promises 3 elements"),
        (lambda b: b + b"\0", "promises 3 elements"),
        (lambda b: b"HTTP" + b[4:], "does not begin"),
        (lambda b: b[:4] + b"\x02" + b[5:], "got version 2"),
        (lambda b: b[:5] + b"\xc8" + b[6:], "no message kind 200"),
        (lambda b: b[:36] + b"\x01" + b[37:], "reserved bytes"),
        (lambda b: b[:26] + bytes(4) + b[30:], "1 to 4096 bytes wide, got 0"),
        (lambda b: b[:26] + b"\xff\xff\xff\xff" + b[30:], "1 to 4096 bytes wide"),
        (lambda b: b[:30] + b"\xff\xff\xff\xff" + b[34:], "promises 4294967295"),
        (lambda b: b + bytes(messages.MAX_FRAME_BYTES), "at most 1048576 bytes"),
    ],
)
def test_a_frame_that_is_not_one_is_refused_in_one_sentence(change, said):
    with pytest.raises(psi.MessageError, match=said):
        decode_frame(change(frame().encode()))


def changed_json(**items):
    return json.dumps({**json.loads(hello().encode()), **items}).encode()


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "one JSON object"),
        (b"\xff\xfe", "one JSON object"),
        (b"[" * 5000, "one JSON object"),
        (b"[]", "got a list"),
        (b"x" * 9000, "at most 8192 bytes"),
        (b'{"size": NaN}', "holds no NaN"),
        (b'{"size": 1, "size": 2}', "repeated"),
        (b"{}", "has the fields"),
        (changed_json(extra=1), "has the fields"),
        (changed_json(version=2), "names another"),
        (changed_json(version=True), "names another"),
        (changed_json(variant="all"), "A variant is one of"),
        (changed_json(variant=[1]), "A variant is one of"),
        (changed_json(role="linker"), "initiator or responder"),
        (changed_json(size=-1), "A set has 0 to"),
        (changed_json(size=1 << 40), "A set has 0 to"),
        (changed_json(size=1.5), "A set has 0 to"),
        (changed_json(size=True), "A set has 0 to"),
        (changed_json(party="../etc"), "a name of small letters"),
        (changed_json(peer=""), "a name of small letters"),
        (changed_json(nonce="AB" * 32), "64 hexadecimal digits"),
        (changed_json(share=5), "64 hexadecimal digits"),
        (changed_json(on="id"), "a list of at most 32"),
        (changed_json(on=["x"] * 33), "a list of at most 32"),
        (changed_json(on=["a\nb"]), "printable text"),
        (changed_json(parameters=[]), "an object of at most 8"),
        (changed_json(parameters={"bits": -1}), "A number among the parameters"),
        (changed_json(parameters={"bits": None}), "printable text"),
        (changed_json(engine=""), "printable text"),
    ],
)
def test_a_greeting_that_is_not_one_is_refused_in_one_sentence(raw, said):
    with pytest.raises(psi.MessageError, match=said):
        decode_hello(raw)


def sessions():
    ends = MemoryChannel.pair()
    made = []
    for channel, name, peer, role in zip(ends, "ab", "ba", ("initiator", "responder"), strict=True):
        s = Session(
            channel,
            party=name,
            peer=peer,
            role=role,
            variant="psi",
            timeout_s=0.2,
            transcript=Transcript(),
        )
        s.session = SESSION
        made.append(s)
    return (*made, ends[0])


ROWS = np.arange(96, dtype=np.uint8).reshape(3, 32)


def sent_frames():
    a, b, _ = sessions()
    a.send("blinded", ROWS)
    out = []
    for _ in range(2):
        out.append(b.channel.receive(1))
    return out


def test_a_stream_is_read_back():
    a, b, _ = sessions()
    a.send("blinded", ROWS)
    a.send("blinded", ROWS[:0])
    assert (b.receive("blinded", width=32, count=3) == ROWS).all()
    assert b.receive("blinded", width=32, count=0).shape == (0, 32)


def other_session(raw):
    return raw[:6] + bytes(16) + raw[22:]


@pytest.mark.parametrize(
    ("deliver", "said"),
    [
        (lambda f: [f[0], f[0], f[1]], "repeated, lost or out of order"),
        (lambda f: [f[1], f[0]], "repeated, lost or out of order"),
        (lambda f: [f[1]], "repeated, lost or out of order"),
        (lambda f: [f[0]], "sent nothing for"),
        (lambda f: [other_session(f[0])], "another session"),
        (lambda f: [frame(sequence=0, kind="signed").encode()], "Expected blinded or end"),
        (lambda f: [frame(sequence=0, width=16).encode()], "32 bytes wide, got 16"),
        (lambda f: [frame(sequence=0, payload=bytes(128)).encode()], "At most 3 elements"),
        (lambda f: [frame(sequence=0, payload=b"").encode()], "At most 3 elements"),
        (
            lambda f: [f[0][:-1] + b"\0", f[1]],
            "digests differ",
        ),
        (
            lambda f: [frame(sequence=0, payload=bytes(64)).encode(), f[1]],
            "counts 3 elements of blinded, 2 arrived",
        ),
        (
            lambda f: [
                f[0],
                frame(
                    kind="end",
                    sequence=1,
                    width=37,
                    payload=messages.encode_end("tags", 3, bytes(32)),
                ).encode(),
            ],
            "closed by the end of another",
        ),
        (
            lambda f: [f[0], frame(kind="end", sequence=1, width=5, payload=b"12345").encode()],
            "An end has 37 bytes",
        ),
        (
            lambda f: [
                frame(
                    kind="end",
                    sequence=0,
                    width=37,
                    payload=messages.encode_end("blinded", 0, hashlib.sha256().digest()),
                ).encode()
            ],
            "were announced, 0 came",
        ),
    ],
)
def test_replayed_reordered_cut_and_foreign_messages_are_refused(deliver, said):
    _, b, line = sessions()
    for raw in deliver(sent_frames()):
        line.send(raw)
    with pytest.raises(psi.PsiError, match=said):
        b.receive("blinded", width=32, count=3)


def test_the_reason_of_an_abort_is_made_printable_and_short():
    _, b, line = sessions()
    evil = b"\x1b[31mred\r\n" + b"z" * 5000
    line.send(frame(kind="abort", sequence=0, width=1, payload=evil).encode())
    with pytest.raises(psi.PeerLost) as caught:
        b.receive("blinded", width=32, count=3)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def mutate(rng, raw):
    """One hostile variant of a message: flipped, cut, stretched, spliced or made up."""
    raw = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        how = rng.randrange(7)
        at = rng.randrange(len(raw) + 1)
        if how == 0 and raw:
            raw[min(at, len(raw) - 1)] ^= 1 << rng.randrange(8)
        elif how == 1:
            del raw[at:]
        elif how == 2:
            raw[at:at] = rng.randbytes(rng.randint(1, 40))
        elif how == 3:
            raw[at : at + rng.randint(1, 8)] = rng.choice(
                [b"\xff" * 4, bytes(4), b"\x80\0\0\0", b'"', b"null", b"1e999", b"[[[[", b"\xff"]
            )
        elif how == 4:
            raw = bytearray(rng.randbytes(rng.randint(0, 80)))
        elif how == 5:
            del raw[at : at + rng.randint(1, 20)]
        else:
            raw[at:at] = raw[: rng.randint(0, 60)]
    return bytes(raw)


def check_hostile(decode, originals, count, seed=SEED):
    """Every mutant is read as a proper message or refused in one sentence, quickly."""
    rng = random.Random(seed)
    refused, slowest = 0, 0.0
    for _ in range(count):
        raw = mutate(rng, rng.choice(originals))
        before = time.perf_counter()
        try:
            decode(raw)
        except psi.PsiError as error:
            refused += 1
            said = str(error)
            assert "\n" not in said, raw
            assert len(said) < 600, raw
            assert said.endswith("."), said
        slowest = max(slowest, time.perf_counter() - before)
    print(f"seed {seed}: {refused} of {count} hostile messages refused, slowest {slowest:.4f} s")
    assert slowest < 2
    return refused


def test_ten_thousand_hostile_frames():
    originals = [frame().encode(), frame(kind="end", width=37, payload=bytes(37)).encode()]
    assert check_hostile(decode_frame, originals, 10_000) > 5_000


def test_ten_thousand_hostile_greetings():
    originals = [
        hello().encode(),
        hello(parameters=(), on=("a", "b"), variant="cardinality").encode(),
    ]
    assert check_hostile(decode_hello, originals, 10_000) > 8_000


def test_ten_thousand_hostile_streams():
    frames = sent_frames()

    def decode(raw):
        _, b, line = sessions()
        b.timeout_s = 0.001
        line.send(raw)
        line.send(frames[1])
        b.receive("blinded", width=32, count=3)

    assert check_hostile(decode, frames, 10_000) > 9_000


def test_ten_thousand_hostile_cells():
    from pet_lab.psi import session

    good = [session._pack_cell(t) for t in ("LOW", "", "é" * 20)]
    assert (
        check_hostile(lambda raw: session._unpack_cell(raw.ljust(64, b"\0")[:64]), good, 10_000)
        > 2_000
    )
