"""What each message looks like on the wire, frozen; and near misses, each of which is refused.

A change of these bytes is a change of the protocol: older parties no longer understand. Write the
file again, after raising the version, with `python tests/fuzz/test_wire_vectors.py`.
"""

import json
from pathlib import Path

import examples
import msgspec
import pytest
import targets

from pet_lab.mpc import messages as service
from pet_lab.paillier import CiphertextError
from pet_lab.parties.errors import PartyError
from pet_lab.psi.linker import Query
from pet_lab.psi.messages import End, Hello, Stream
from pet_lab.psi.service import StatusRequest
from pet_lab.psi.tokens import TableHeader

FILE = Path(__file__).with_name("wire_vectors.json")
RECEIVED_AS = {
    "psi": Hello | Stream | End,
    "linker requests": TableHeader | Query | StatusRequest,
    "service requests": service.AnyRequest,
}
GROUPS = {
    "psi": examples.PSI,
    "linker requests": examples.LINKER_REQUESTS,
    "linker answers": examples.LINKER_ANSWERS,
    "service requests": examples.SERVICE_REQUESTS,
    "service answers": examples.SERVICE_ANSWERS,
    "log": [examples.ENTRY, examples.NEXT_ENTRY, examples.HEAD],
    "refusal": [examples.REFUSAL],
}
OBJECTS = {
    f"{group}/{i} {type(message).__name__}": message
    for group, messages in GROUPS.items()
    for i, message in enumerate(messages)
}


def frozen() -> dict[str, bytes]:
    return {name: bytes.fromhex(raw) for name, raw in json.loads(FILE.read_text()).items()}


def decode(name: str, raw: bytes):
    """As the receiver of that kind of message reads it."""
    kind = RECEIVED_AS.get(name.partition("/")[0]) or type(OBJECTS[name])
    return targets.first(raw, kind)


def near_misses(raw: bytes) -> dict[str, bytes]:
    """Messages that are almost this one."""
    fields = json.loads(raw)
    text = raw.decode()
    misses = {
        "unknown field": json.dumps({**fields, "extra": 1}),
        "trailing bytes": text + "{}",
        "cut short": text[:-1],
        "another type": f"[{text}]",
    }
    for name, value in fields.items():
        more = f"{json.dumps(name)}:{json.dumps(value)}"
        misses[f"{name} twice"] = f"{text[:-1]},{more}}}"
        wrong = [[]] if isinstance(value, dict) else {"no": ["such"]}
        misses[f"{name} of a wrong type"] = json.dumps({**fields, name: wrong})
        if isinstance(value, str):
            misses[f"{name} over-long"] = json.dumps({**fields, name: "A" * 70_000})
    return {what: miss.encode() for what, miss in misses.items()}


def test_every_message_has_a_vector():
    assert frozen().keys() == {*OBJECTS, "paillier ciphertext"}


@pytest.mark.parametrize("name", OBJECTS)
def test_a_message_is_written_and_read_as_it_was_frozen(name):
    raw = frozen()[name]
    assert decode(name, raw) == OBJECTS[name]
    assert msgspec.json.encode(OBJECTS[name]) == raw
    assert msgspec.json.encode(decode(name, raw)) == raw


@pytest.mark.parametrize("name", OBJECTS)
def test_a_message_that_is_almost_one_is_refused(name):
    read = []
    for what, raw in near_misses(frozen()[name]).items():
        try:
            decode(name, raw)
        except PartyError:
            continue
        read.append(what)
    assert read == []


@pytest.mark.parametrize("name", OBJECTS)
def test_a_field_without_a_default_must_be_there(name):
    kind, fields = type(OBJECTS[name]), json.loads(frozen()[name])
    required = {f.encode_name for f in msgspec.structs.fields(kind) if f.required}
    tag = kind.__struct_config__.tag_field
    unions = name.partition("/")[0] in RECEIVED_AS
    for field in required | ({tag} & fields.keys() if unions else set()):
        rest = {k: v for k, v in fields.items() if k != field}
        with pytest.raises(PartyError):
            decode(name, json.dumps(rest).encode())


def test_a_ciphertext_is_written_and_read_as_it_was_frozen():
    raw, key = frozen()["paillier ciphertext"], examples.paillier_key()
    assert examples.ciphertexts().to_bytes() == raw
    read = key.public.read(raw)
    assert (read, read.to_bytes()) == (examples.ciphertexts(), raw)
    key_id, packing, count, terms, body = msgspec.msgpack.decode(raw)
    wire = [key_id, packing, count, terms, body]
    wrong = [
        raw + b"\0",
        raw[:-1],
        msgspec.msgpack.encode([*wire, 1]),
        msgspec.msgpack.encode(wire[:-1]),
        msgspec.msgpack.encode([key_id, {**packing, "extra": 1}, count, terms, body]),
        msgspec.msgpack.encode(
            [key_id, {"key_bits": packing["key_bits"], "limit": 1.0}, count, terms, body]
        ),
        msgspec.msgpack.encode([key_id, packing, str(count), terms, body]),
        msgspec.msgpack.encode([key_id, packing, count, 0, body]),
        msgspec.msgpack.encode([key_id, packing, count, 5, body]),
        msgspec.msgpack.encode([key_id, packing, count, terms, body + body]),
        msgspec.msgpack.encode([key_id, packing, count, terms, bytes(len(body))]),
        msgspec.msgpack.encode([key_id[:-1] + b"\0", packing, count, terms, body]),
    ]
    for i, other in enumerate(wrong):
        with pytest.raises(CiphertextError):
            pytest.fail(f"{i} was read: {key.public.read(other)}")


if __name__ == "__main__":
    vectors = {name: msgspec.json.encode(message).hex() for name, message in OBJECTS.items()}
    vectors["paillier ciphertext"] = examples.ciphertexts().to_bytes().hex()
    FILE.write_text(json.dumps(vectors, indent=0) + "\n")
