"""Greetings and streams: what is sent is read back, and hostile messages are refused."""

import hashlib
import json
import random

import msgspec
import numpy as np
import pytest
from hostile import SEED, Canned, Line, check_hostile, mutate

from pet_lab import psi
from pet_lab.parties import channel
from pet_lab.parties.errors import PartyError
from pet_lab.psi import messages, session
from pet_lab.psi.messages import End, Hello, Stream
from pet_lab.psi.session import PsiSession

SESSION = bytes(range(16))
ROWS = np.arange(96, dtype=np.uint8).reshape(3, 32)
DIGEST = hashlib.sha256(ROWS.tobytes()).digest()


@pytest.fixture(scope="module")
def line():
    line = Line()
    yield line
    line.close()


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
        "parameters": {"bits": 3072, "group": "curve25519"},
        "nonce": b"n" * 32,
        "share": b"s" * 32,
    }
    return Hello(**{**items, **changed})


def test_a_greeting_is_read_back(line):
    assert line.decode(Hello, msgspec.json.encode(hello())) == hello()


def changed_json(**items):
    return json.dumps({**json.loads(msgspec.json.encode(hello())), **items}).encode()


def without(name):
    items = json.loads(msgspec.json.encode(hello()))
    del items[name]
    return json.dumps(items).encode()


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "truncated"),
        (b"\xff\xfe", "malformed"),
        (b"[" * 5000, "got `array`"),
        (b"[]", "got `array`"),
        (b'{"type":"hello","size": NaN}', "malformed|missing|invalid"),
        (b"{}", "missing required field"),
        (without("nonce"), "missing required field `nonce`"),
        (changed_json(extra=1), "unknown field `extra`"),
        (changed_json(type="end"), "Invalid value 'end'"),
        (changed_json(version=4), "<= 3"),
        (changed_json()[:-1] + b', "size": 2}', "a field is there twice"),
        (changed_json(parameters={"a": 1}).replace(b'"a": 1', b'"a": 1, "a": 2'), "twice"),
        (changed_json(version=True), "Expected `int`, got `bool`"),
        (changed_json(variant="all"), "Invalid enum value 'all'"),
        (changed_json(variant=[1]), "got `array`"),
        (changed_json(role="linker"), "Invalid enum value 'linker'"),
        (changed_json(size=-1), ">= 0"),
        (changed_json(size=1 << 40), "<= 67108864"),
        (changed_json(size=1.5), "got `float`"),
        (changed_json(size=True), "got `bool`"),
        (changed_json(party="../etc"), "matching regex"),
        (changed_json(party="a\n"), "matching regex"),
        (changed_json(peer=""), "matching regex"),
        (changed_json(nonce="QUJD" * 5), "length >= 32"),
        (changed_json(share=5), "Expected `bytes`, got `int`"),
        (changed_json(on="id"), "Expected `array`, got `str`"),
        (changed_json(on=["x"] * 33), "length <= 32"),
        (changed_json(on=["x" * 201]), "length <= 200"),
        (changed_json(on=["a\nb"]), "printable text"),
        (changed_json(engine="a\u202eb"), "printable text"),
        (changed_json(parameters=[]), "got `array`"),
        (changed_json(parameters={str(i): 1 for i in range(9)}), "length <= 8"),
        (changed_json(parameters={"bits": -1}), ">= 0"),
        (changed_json(parameters={"bits": None}), "got `null`"),
        (changed_json(parameters={"a\0": 1}), "printable text"),
        (changed_json(engine=""), "length >= 1"),
    ],
)
def test_a_greeting_that_is_not_one_is_refused_in_one_sentence(line, raw, reason):
    with pytest.raises(PartyError, match=f"(?s)^a sent something else than a Hello: .*({reason})"):
        line.decode(Hello, raw)


def test_the_session_is_bound_to_everything_in_both_greetings():
    other = hello(role="responder", party="cbs.example", peer="statcan.example", nonce=b"m" * 32)
    base = messages.session_id(hello(), other)
    assert len(base) == 16
    # The order of parameters on the wire does not matter, everything else does.
    swapped = hello(parameters={"group": "curve25519", "bits": 3072})
    assert messages.session_id(swapped, other) == base
    for changed in (
        {"size": 4},
        {"nonce": b"o" * 32},
        {"share": b"t" * 32},
        {"peer": "cbs.other"},
        {"on": ("id", "x")},
        {"parameters": {"bits": 2048, "group": "curve25519"}},
    ):
        assert messages.session_id(hello(**changed), other) != base
    assert messages.session_id(other, hello()) != base


# -- streams --------------------------------------------------------------------------------------


def sent(*streams):
    """The frames that a party puts on the wire: two for the ends of a stream, more between."""
    out = Canned([])
    party = PsiSession(out)
    party.session = SESSION
    for kind, rows in streams:
        party.send(kind, rows)
    return out.sent


def receive(frames, **more):
    party = PsiSession(Canned(frames))
    party.session = SESSION
    return party.receive("blinded", **{"width": 32, "count": 3, **more})


FRAMES = sent(("blinded", ROWS))


def stream(**changed):
    items = {"kind": "blinded", "session": SESSION, "number": 0, "width": 32, "count": 3}
    return (channel.JSON, msgspec.json.encode(Stream(**{**items, **changed})))


def end(kind="blinded", count=3, digest=DIGEST):
    closing = End(kind=kind, count=count, digest=digest)
    return (channel.JSON, msgspec.json.encode(closing))


def rows_of(payload):
    return (channel.BYTES, payload)


def test_a_stream_is_read_back():
    assert (receive(FRAMES) == ROWS).all()
    assert receive(sent(("blinded", ROWS[:0])), count=0).shape == (0, 32)
    many = np.arange(32 * 20_000, dtype=np.uint32).astype(np.uint8).reshape(-1, 32)
    frames = sent(("blinded", many))
    assert len(frames) == 2 + 3  # batches of bounded size
    assert max(len(payload) for _, payload in frames) <= session.BATCH_BYTES
    assert (receive(frames, count=20_000) == many).all()
    assert (receive(FRAMES, count=5, or_fewer=True) == ROWS).all()


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([*FRAMES[:2], *FRAMES], "something else"),  # begun again within a stream
        (sent(("tags", ROWS), ("blinded", ROWS))[3:], "Stream 0 was expected, got 1"),
        (FRAMES[1:], "another form"),
        (FRAMES[:1], "sent nothing for"),
        (FRAMES[:2], "sent nothing for"),
        ([stream(session=bytes(16)), *FRAMES[1:]], "another session"),
        ([stream(kind="signed"), *FRAMES[1:]], "Expected blinded, got signed"),
        ([stream(width=16), *FRAMES[1:]], "32 bytes wide, got 16"),
        ([stream(count=4), *FRAMES[1:]], "exactly 3 elements were to come, 4 are announced"),
        ([stream(count=2), *FRAMES[1:]], "exactly 3 elements were to come, 2 are announced"),
        ([FRAMES[0], rows_of(bytes(128)), end()], "more came, none, or parts"),
        ([FRAMES[0], rows_of(b""), end()], "more came, none, or parts"),
        ([FRAMES[0], rows_of(bytes(40)), end()], "more came, none, or parts"),
        ([FRAMES[0], rows_of(bytes(64)), FRAMES[2]], "more came, none, or parts"),
        ([*FRAMES[:2], rows_of(bytes(32)), FRAMES[2]], "another form"),
        ([FRAMES[0], rows_of(ROWS.tobytes()[:-1] + b"\0"), FRAMES[2]], "digests differ"),
        ([FRAMES[0], rows_of(ROWS[::-1].tobytes()), FRAMES[2]], "digests differ"),
        ([*FRAMES[:2], end(kind="tags")], "closed by the end of another"),
        ([*FRAMES[:2], end(count=2)], "counts 2 elements of blinded, 3 arrived"),
        ([*FRAMES[:2], stream()], "something else"),
    ],
)
def test_replayed_reordered_cut_and_foreign_streams_are_refused(frames, reason):
    with pytest.raises(PartyError, match=reason):
        receive(frames)


def test_a_stream_that_was_read_is_not_read_again():
    party = PsiSession(Canned([*FRAMES, *FRAMES]))
    party.session = SESSION
    party.receive("blinded", width=32, count=3)
    with pytest.raises(psi.MessageError, match="Stream 1 was expected, got 0: repeated, lost"):
        party.receive("blinded", width=32, count=3)


def test_more_than_the_greeting_announced_is_refused_at_the_announcement():
    party = PsiSession(Canned([stream(count=1 << 26)]))
    party.session = SESSION
    with pytest.raises(psi.MessageError, match="at most 7 elements were to come, 67108864"):
        party.receive("blinded", width=32, count=7, or_fewer=True)


def test_the_reason_of_a_refusal_is_made_printable_and_short():
    line = Line()
    evil = msgspec.json.encode({"error": "PsiError", "sentence": "\x1b[31mred\r\n" + "z" * 3000})
    line.put(evil, channel.REFUSAL)
    with pytest.raises(PartyError) as caught:
        line.b.receive(Stream)
    line.close()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 4000


def test_ten_thousand_hostile_greetings(line):
    originals = [
        msgspec.json.encode(hello()),
        msgspec.json.encode(hello(parameters={}, on=("a", "b"), variant="cardinality")),
    ]
    assert check_hostile(lambda raw: line.decode(Hello, raw), originals, 10_000) > 8_000


def test_ten_thousand_hostile_streams():
    rng = random.Random(SEED)

    def decode(raw):
        frames = list(FRAMES)
        at = rng.randrange(3)
        form = rng.choice([frames[at][0], channel.JSON, channel.BYTES])
        frames[at] = (form, raw if rng.random() < 0.5 else mutate(rng, frames[at][1]))
        receive(frames)

    assert check_hostile(decode, [payload for _, payload in FRAMES], 10_000) > 9_000


def test_ten_thousand_hostile_cells():
    good = [session._pack_cell(t) for t in ("LOW", "", "é" * 20)]
    assert (
        check_hostile(lambda raw: session._unpack_cell(raw.ljust(64, b"\0")[:64]), good, 10_000)
        > 2_000
    )
