"""The messages of a session between two data holders, as types that decode strictly or not at all.

A stream of elements is announced by `Stream`, follows as frames of raw bytes, and is closed by
`End`, which holds the number of elements and a SHA-256 of all of them. The announcement carries
the session and a running number. So a stream that is cut, repeated, reordered or taken from another
session is noticed, whatever carries it.
"""

import hashlib
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from pet_lab.checks import require
from pet_lab.parties.certificates import IDENTITY

from .protocol import MAX_ELEMENTS, PsiError, Role, Variant

M = TypeVar("M", bound=msgspec.Struct)

VERSION = 3
MAX_WIDTH = 4096
NO_SESSION = bytes(16)
Kind = Literal[
    "public",
    "blinded",
    "commitment",
    "salt",
    "twice_blinded",
    "proof",
    "signed",
    "tags",
    "matched",
    "blob",
    "attributes",
    "tokens",
]
Identity = Annotated[str, Meta(pattern=f"^(?:{IDENTITY.pattern})\\Z")]
SessionId = Annotated[bytes, Meta(min_length=16, max_length=16)]
Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
Count = Annotated[int, Meta(ge=0, le=MAX_ELEMENTS)]
Text = Annotated[str, Meta(min_length=1, max_length=200)]
Parameter = Annotated[int, Meta(ge=0, lt=1 << 32)] | Text


class Hello(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="hello"):
    """The greeting: who speaks to whom, about what, with which key share.

    nonce  32 random bytes
    share  an ephemeral X25519 public key
    """

    engine: Text
    variant: Variant
    role: Role
    party: Identity
    peer: Identity
    size: Count
    on: Annotated[tuple[Text, ...], Meta(max_length=32)]
    columns: Annotated[tuple[Text, ...], Meta(max_length=32)]
    parameters: Annotated[dict[Text, Parameter], Meta(max_length=8)]
    nonce: Digest
    share: Digest
    version: Annotated[int, Meta(ge=VERSION, le=VERSION)] = VERSION

    def __post_init__(self) -> None:
        texts = [self.engine, *self.on, *self.columns, *self.parameters, *self.parameters.values()]
        shown = all(t.isprintable() for t in texts if isinstance(t, str))
        require(shown, "Names are printable text")


class Stream(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="stream"):
    """What follows: `count` elements of `width` bytes each, the `number`-th message of its side."""

    kind: Kind
    session: SessionId
    number: Count
    width: Annotated[int, Meta(ge=1, le=MAX_WIDTH)]
    count: Count


class End(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="end"):
    """Closes a stream; `digest` is the SHA-256 of all its bytes."""

    kind: Kind
    count: Count
    digest: Digest


def session_id(first: Hello, second: Hello) -> bytes:
    """16 bytes that both greetings, so both identities, nonces and key shares, are bound into."""
    digest = hashlib.sha256(b"pet_lab psi session 2")
    for hello in (first, second):
        raw = msgspec.json.encode(hello, order="sorted")  # equal greetings have equal bytes
        digest.update(len(raw).to_bytes(4, "big") + raw)
    return digest.digest()[:16]


def checked(kind: type[M], **fields: Any) -> M:
    """A message of these fields, held to the limits that its receiver holds it to, or PsiError."""
    try:
        return msgspec.convert({"type": kind.__struct_config__.tag, **fields}, kind)
    except msgspec.ValidationError as error:
        raise PsiError(f"This is not a {kind.__name__} that others accept: {error}.") from None
