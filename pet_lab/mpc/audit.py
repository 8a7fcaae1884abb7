"""A log that each party keeps, that nobody can rewrite unseen, and that anyone can verify.

Every entry carries the hash of the one before it and the keeper's signature. Changing, removing,
inserting or swapping entries breaks the chain. Cutting off the end, or a keeper that signs a new
history, leaves a valid chain: that shows against a *witness*, a signed head that somebody else kept
earlier. Parties exchange heads at every task for this.

Bodies hold what was asked and decided, never data, shares or keys.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .errors import MpcError
from .policy import Signer, verify_signature
from .tasks import canonical, digest

START = "0" * 64


@dataclass(frozen=True)
class Entry:
    """One event: number, UTC time, kind, body, hash of the entry before, signature of all that."""

    n: int
    time: str
    kind: str
    body: dict[str, Any] = field(hash=False)
    previous: str
    signature: str = ""

    @property
    def signed(self) -> bytes:
        return canonical({k: v for k, v in asdict(self).items() if k != "signature"})

    @property
    def sha256(self) -> str:
        return digest(self.signed, self.signature.encode())


@dataclass(frozen=True)
class Head:
    """The state of a party's log at one moment, signed: what a witness keeps."""

    party: str
    n: int
    sha256: str
    signature: str = ""

    @property
    def signed(self) -> bytes:
        return canonical({"party": self.party, "n": self.n, "sha256": self.sha256})


class AuditLog:
    """Append-only. With a path, every entry is on disk before the party acts on it."""

    def __init__(self, signer: Signer, path: Path | None = None) -> None:
        self.signer, self.path = signer, path
        self.entries: list[Entry] = []
        if path is not None and path.exists():
            self.entries = read(path)
            verify(self.entries, signer.public)

    def add(self, kind: str, **body: Any) -> Entry:
        before = self.entries[-1].sha256 if self.entries else START
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        bare = Entry(len(self.entries), now, kind, body, before)
        entry = Entry(**{**asdict(bare), "signature": self.signer.sign(bare.signed)})
        self.entries.append(entry)
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(asdict(entry)) + "\n")
                file.flush()
        return entry

    def head(self) -> Head:
        last = self.entries[-1].sha256 if self.entries else START
        bare = Head(self.signer.name, len(self.entries), last)
        return Head(bare.party, bare.n, bare.sha256, self.signer.sign(bare.signed))

    def of(self, kind: str) -> Iterable[Entry]:
        return (e for e in self.entries if e.kind == kind)


def read(path: Path) -> list[Entry]:
    """Entries of a log file, not yet verified."""
    made = []
    for i, line in enumerate(path.read_text().splitlines()):
        try:
            made.append(Entry(**json.loads(line)))
        except (ValueError, TypeError):
            raise MpcError(f"Line {i + 1} of the audit log is damaged.") from None
    return made


def verify(entries: Sequence[Entry], public: str, witnesses: Iterable[Head] = ()) -> None:
    """Check a log against its keeper's public key, and against heads that others kept.

    Raises
    ------
    MpcError
        Naming the first entry that does not fit, or the witness that saw another history.
    """
    before = START
    for i, entry in enumerate(entries):
        if entry.n != i:
            raise MpcError(
                f"The audit log has entry {entry.n} in place {i}: one is missing or moved."
            )
        if entry.previous != before:
            raise MpcError(f"Entry {i} of the audit log does not follow the one before it.")
        if not verify_signature(public, entry.signed, entry.signature):
            raise MpcError(f"Entry {i} of the audit log was changed after it was signed.")
        before = entry.sha256
    for head in witnesses:
        if not verify_signature(public, head.signed, head.signature):
            raise MpcError("A witnessed head does not carry the keeper's signature.")
        if head.n > len(entries):
            raise MpcError(
                f"The audit log has {len(entries)} entries, but a witness saw {head.n}: "
                "its end was cut off."
            )
        seen = entries[head.n - 1].sha256 if head.n else START
        if seen != head.sha256:
            raise MpcError(f"The audit log differs from what a witness saw at entry {head.n}.")
