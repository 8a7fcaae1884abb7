"""The two kinds of message of a session, greeting and frame, with decoders that refuse.

A frame is 37 bytes of header and `count` elements of `width` bytes each, big endian:

    magic 4 | version 1 | kind 1 | session 16 | sequence 4 | width 4 | count 4 | reserved 3 (zero)

A stream of elements is sent as frames of one kind with rising sequence numbers and closed by an END
frame that holds the kind, the number of elements and a SHA-256 of all of them. So a message that is
cut, repeated, reordered or taken from another session is noticed.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from .protocol import MAX_ELEMENTS, VARIANTS, Bytes2D, MessageError

VERSION = 1
MAGIC = b"PLAB"
HEADER = struct.Struct(">4sBB16sIII3s")
MAX_FRAME_BYTES = 1 << 20
MAX_WIDTH = 4096
MAX_HELLO_BYTES = 8192
NO_SESSION = bytes(16)

KINDS = {
    "hello": 1,
    "end": 2,
    "abort": 3,
    "blinded": 4,
    "twice_blinded": 5,
    "signed": 6,
    "tags": 7,
    "matched": 8,
    "plain": 9,
    "blob": 10,
    "attributes": 11,
    "tokens": 12,
    "answer": 13,
}
NAMES = {code: name for name, code in KINDS.items()}
IDENTITY = re.compile(r"[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?")


@dataclass(frozen=True)
class Frame:
    """One batch of elements of one kind; `payload` has exactly `width * count` bytes."""

    kind: str
    session: bytes
    sequence: int
    width: int
    payload: bytes = field(repr=False)

    @property
    def count(self) -> int:
        return len(self.payload) // self.width if self.width else 0

    def encode(self) -> bytes:
        head = HEADER.pack(
            MAGIC,
            VERSION,
            KINDS[self.kind],
            self.session,
            self.sequence,
            self.width,
            self.count,
            bytes(3),
        )
        return head + self.payload

    def rows(self) -> Bytes2D:
        """The elements as an array of shape (count, width), read-only."""
        return np.frombuffer(self.payload, dtype=np.uint8).reshape(self.count, self.width)


def decode_frame(raw: bytes) -> Frame:
    """Read a frame.

    Raises
    ------
    MessageError
        For anything but a frame of this version whose length is what its header says.
    """
    if len(raw) < HEADER.size:
        raise MessageError(f"A frame has at least {HEADER.size} bytes, got {len(raw)}.")
    if len(raw) > HEADER.size + MAX_FRAME_BYTES:
        raise MessageError(f"A frame holds at most {MAX_FRAME_BYTES} bytes, got {len(raw)}.")
    magic, version, kind, session, sequence, width, count, reserved = HEADER.unpack_from(raw)
    if magic != MAGIC:
        raise MessageError("This is not a frame: it does not begin with the four bytes PLAB.")
    if version != VERSION:
        raise MessageError(f"Frames of version {VERSION} are spoken here, got version {version}.")
    if kind not in NAMES:
        raise MessageError(f"There is no message kind {kind}.")
    if reserved != bytes(3):
        raise MessageError("The reserved bytes of a frame are zero, got others.")
    if not 1 <= width <= MAX_WIDTH:
        raise MessageError(f"Elements are 1 to {MAX_WIDTH} bytes wide, got {width}.")
    if len(raw) - HEADER.size != width * count:
        raise MessageError(
            f"The header promises {count} elements of {width} bytes, but "
            f"{len(raw) - HEADER.size} bytes follow."
        )
    return Frame(NAMES[kind], session, sequence, width, bytes(raw[HEADER.size :]))


def strict_json(raw: bytes, *, limit: int, what: str) -> dict[str, Any]:
    """Read one JSON object of at most `limit` bytes, without repeated names or special numbers."""
    if len(raw) > limit:
        raise MessageError(f"A {what} has at most {limit} bytes, got {len(raw)}.")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(items)
        if len(made) != len(items):
            raise MessageError(f"A {what} names each field once; one is repeated.")
        return made

    def constant(text: str) -> None:
        raise MessageError(f"A {what} holds no {text}.")

    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=pairs, parse_constant=constant)
    except MessageError:
        raise
    except (ValueError, RecursionError):
        raise MessageError(f"A {what} is one JSON object in UTF-8; this is not.") from None
    if not isinstance(value, dict):
        raise MessageError(f"A {what} is one JSON object, got a {type(value).__name__}.")
    return value


@dataclass(frozen=True, kw_only=True)
class Hello:
    """The greeting: who speaks to whom, about what, with which key share.

    nonce  32 random bytes, hexadecimal; share  an ephemeral X25519 public key, hexadecimal
    """

    engine: str
    variant: str
    role: str
    party: str
    peer: str
    size: int
    on: tuple[str, ...]
    columns: tuple[str, ...]
    parameters: tuple[tuple[str, str | int], ...]
    nonce: str
    share: str
    version: int = VERSION

    def encode(self) -> bytes:
        """Canonical JSON: equal greetings have equal bytes, so both sides derive one session."""
        items = {f.name: getattr(self, f.name) for f in fields(self)}
        items["parameters"] = dict(self.parameters)
        raw = json.dumps(items, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
        if len(raw) > MAX_HELLO_BYTES:
            raise MessageError(
                f"The greeting would have {len(raw)} bytes, at most {MAX_HELLO_BYTES} are sent; "
                "use fewer or shorter column names."
            )
        return raw


def _text(value: Any, name: str, limit: int = 200) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= limit or not value.isprintable():
        raise MessageError(
            f"The field {name} of a greeting is printable text of 1 to {limit} signs."
        )
    return value


def _texts(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > 32:
        raise MessageError(f"The field {name} of a greeting is a list of at most 32 names.")
    return tuple(_text(v, name) for v in value)


def _hex32(value: Any, name: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise MessageError(f"The field {name} of a greeting is 64 hexadecimal digits.")
    return value


def decode_hello(raw: bytes) -> Hello:
    """Read a greeting; refuses unknown, missing and ill-typed fields."""
    items = strict_json(raw, limit=MAX_HELLO_BYTES, what="greeting")
    expected = {f.name for f in fields(Hello)}
    if set(items) != expected:
        odd = sorted(str(k)[:40] for k in set(items) ^ expected)[:3]
        raise MessageError(f"A greeting has the fields {sorted(expected)}; check {odd}.")
    if type(items["version"]) is not int or items["version"] != VERSION:
        raise MessageError(f"Version {VERSION} is spoken here; the greeting names another.")
    if items["variant"] not in VARIANTS:
        raise MessageError(f"A variant is one of {', '.join(VARIANTS)}.")
    if items["role"] not in ("initiator", "responder"):
        raise MessageError("A role is initiator or responder.")
    size = items["size"]
    if type(size) is not int or not 0 <= size <= MAX_ELEMENTS:
        raise MessageError(f"A set has 0 to {MAX_ELEMENTS} elements.")
    for name in ("party", "peer"):
        if not isinstance(items[name], str) or not IDENTITY.fullmatch(items[name]):
            raise MessageError(
                f"The field {name} is a name of small letters, digits, dots and dashes."
            )
    given = items["parameters"]
    if not isinstance(given, dict) or len(given) > 8:
        raise MessageError("The parameters of a greeting are an object of at most 8 fields.")
    for key, value in given.items():
        _text(key, "parameters", 40)
        if type(value) is int:
            if not 0 <= value < 1 << 32:
                raise MessageError("A number among the parameters lies between 0 and 2^32.")
        else:
            _text(value, "parameters", 2048)
    return Hello(
        engine=_text(items["engine"], "engine", 40),
        variant=items["variant"],
        role=items["role"],
        party=items["party"],
        peer=items["peer"],
        size=size,
        on=_texts(items["on"], "on"),
        columns=_texts(items["columns"], "columns"),
        parameters=tuple(sorted(given.items())),
        nonce=_hex32(items["nonce"], "nonce"),
        share=_hex32(items["share"], "share"),
    )


END = struct.Struct(">BI32s")


def encode_end(kind: str, count: int, digest: bytes) -> bytes:
    """The payload of an END frame."""
    return END.pack(KINDS[kind], count, digest)


def check_end(payload: bytes, kind: str, count: int, digest: bytes) -> None:
    """Refuse an END that does not close the stream that was received."""
    if len(payload) != END.size:
        raise MessageError(f"An end has {END.size} bytes, got {len(payload)}.")
    code, said, theirs = END.unpack(payload)
    if code != KINDS[kind]:
        raise MessageError(f"The stream {kind} was closed by the end of another.")
    if said != count:
        raise MessageError(f"The sender counts {said} elements of {kind}, {count} arrived.")
    if theirs != digest:
        raise MessageError(f"The elements of {kind} are not those that were sent: digests differ.")


def session_id(first: Hello, second: Hello) -> bytes:
    """16 bytes that both greetings, so both identities, nonces and key shares, are bound into."""
    digest = hashlib.sha256(b"pet_lab psi session 1")
    for hello in (first, second):
        raw = hello.encode()
        digest.update(len(raw).to_bytes(4, "big") + raw)
    return digest.digest()[:16]
