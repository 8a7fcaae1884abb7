"""Signatures, and a log that each party keeps, that nobody rewrites unseen and anyone can verify.

Every entry carries the hash of the one before it and the keeper's Ed25519 signature. Changing,
removing, inserting or swapping entries breaks the chain. Cutting off the end, or a keeper that
signs a new history, leaves a valid chain: that shows against a *witness*, a signed head that
somebody else kept earlier. Bodies hold what was asked and decided, never data, shares or keys.
"""

import datetime
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec.structs import asdict, replace

from pet_lab.files import canonical_json, sha256

from .errors import PartyError
from .state import kept


def _start(party: str) -> str:
    """What the first entry follows: the keeper's name, so that no log passes for another's."""
    return digest(b"log", party.encode())


def canonical(value: Any) -> bytes:
    """The one byte string of a record or JSON value that is hashed and signed."""
    try:
        return canonical_json(msgspec.to_builtins(value)).encode()
    except (ValueError, RecursionError):
        raise PartyError(
            "A record is nested too deep to be signed, or no JSON can hold it."
        ) from None


def digest(*parts: bytes) -> str:
    """SHA-256 over length-prefixed parts, as hex."""
    return sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts))


class Signer:
    """A party's Ed25519 key; only `sign` uses it, and it is never printed."""

    def __init__(self, name: str, raw: bytes | None = None) -> None:
        self.name = name
        self._key = (
            Ed25519PrivateKey.generate()
            if raw is None
            else Ed25519PrivateKey.from_private_bytes(raw)
        )

    @property
    def public(self) -> str:
        """The public key, hexadecimal."""
        return self._key.public_key().public_bytes_raw().hex()

    def raw(self) -> bytes:
        """The key itself, for a file that only its owner can read."""
        return self._key.private_bytes_raw()

    def sign(self, message: bytes) -> str:
        """The signature of a message, hexadecimal."""
        return self._key.sign(message).hex()


def verify_signature(public: str, message: bytes, signature: str) -> bool:
    """Whether this hexadecimal signature of the message is by the holder of the public key."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(
            bytes.fromhex(signature), message
        )
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


class SignedEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One event: number, UTC time, kind, body, hash of the entry before, signature of all that."""

    n: int
    time: str
    kind: str
    body: dict[str, Any]
    previous: str
    signature: str = ""

    @property
    def signed(self) -> bytes:
        """What the signature covers."""
        return canonical({k: v for k, v in asdict(self).items() if k != "signature"})

    @property
    def sha256(self) -> str:
        """The hash that the next entry carries."""
        return digest(self.signed, self.signature.encode())


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The state of a party's log at one moment, signed: what a witness keeps."""

    party: str
    n: int
    sha256: str
    signature: str = ""

    @property
    def signed(self) -> bytes:
        """What the signature covers."""
        return canonical({"party": self.party, "n": self.n, "sha256": self.sha256})


class SignedLog:
    """Append-only. With a path, every entry is on disk before the party acts on it.

    A last line without its end was never acted on: it is cut off, and an entry `repaired` says so.
    """

    def __init__(self, signer: Signer, path: Path | None = None) -> None:
        self.signer, self.path = signer, path
        self.entries: list[SignedEntry] = []
        if path is not None and path.exists():
            torn = len(kept(path, bytes, what="a log").rpartition(b"\n")[2])
            if torn:
                with path.open("r+b") as file:
                    file.truncate(path.stat().st_size - torn)
            self.entries = read(path)
            verify(self.entries, signer.name, signer.public)
            if torn:
                self.add("repaired", bytes_cut=torn)

    def add(self, kind: str, **body: Any) -> SignedEntry:
        """Sign and append one event."""
        previous = self.entries[-1].sha256 if self.entries else _start(self.signer.name)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        bare = SignedEntry(len(self.entries), now, kind, body, previous)
        entry = replace(bare, signature=self.signer.sign(bare.signed))
        if self.path is not None:
            with self.path.open("ab") as file:
                file.write(msgspec.json.encode(entry) + b"\n")
                file.flush()
                os.fsync(file.fileno())
        self.entries.append(entry)
        return entry

    def head(self) -> Head:
        """The signed state of the log, for others to keep."""
        last = self.entries[-1].sha256 if self.entries else _start(self.signer.name)
        bare = Head(self.signer.name, len(self.entries), last)
        return replace(bare, signature=self.signer.sign(bare.signed))

    def of(self, kind: str) -> Iterable[SignedEntry]:
        """Entries of one kind, oldest first."""
        return (e for e in self.entries if e.kind == kind)


def read(path: Path) -> list[SignedEntry]:
    """Entries of a log file, not yet verified."""
    entries = []
    for i, line in enumerate(kept(path, bytes.splitlines, what="a log")):
        try:
            entries.append(msgspec.json.decode(line, type=SignedEntry))
        except (ValueError, RecursionError):
            raise PartyError(
                f"Line {i + 1} of the log is damaged; restore the log from a copy."
            ) from None
    return entries


def verify(
    entries: Sequence[SignedEntry], party: str, public: str, witnesses: Iterable[Head] = ()
) -> None:
    """Check a log against its keeper's name and public key, and against heads that others kept.

    A PartyError names the first entry that does not fit, or that a witness saw another history.
    """
    previous = _start(party)
    for i, entry in enumerate(entries):
        if entry.n != i:
            raise PartyError(
                f"The log has entry {entry.n} in place {i}: one is missing or moved; restore a "
                "copy."
            )
        if entry.previous != previous:
            before = "the one before it" if i else f"the start of a log of {party}"
            raise PartyError(f"Entry {i} of the log does not follow {before}.")
        if not verify_signature(public, entry.signed, entry.signature):
            raise PartyError(
                f"Entry {i} of the log was changed after it was signed; restore a copy."
            )
        previous = entry.sha256
    for head in witnesses:
        if head.party != party or not verify_signature(public, head.signed, head.signature):
            raise PartyError("A witnessed head does not carry the keeper's signature.")
        if head.n > len(entries):
            raise PartyError(
                f"The log has {len(entries)} entries, but a witness saw {head.n}: "
                "its end was cut off."
            )
        seen = entries[head.n - 1].sha256 if head.n else _start(party)
        if seen != head.sha256:
            raise PartyError(f"The log differs from what a witness saw at entry {head.n}.")
