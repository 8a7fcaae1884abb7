"""What every engine of private set intersection shares: parties, keys, results, the transcript.

Security model, as the report's paragraphs 15 and 143 state it: the parties are honest but curious,
the channel is mutually authenticated. Cheap checks go further where they cost little (group
membership, echo, sizes), but a party that lies about its *input* is outside the model: it can put
guesses into its own set, and each guess that is confirmed is then in the intersection.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt

from pet_lab.checks import require
from pet_lab.parties.errors import PartyError

if TYPE_CHECKING:
    import pandas as pd  # loaded where it is used: a linker never needs it

    from .session import PsiSession

Bytes2D = npt.NDArray[np.uint8]
Role = Literal["initiator", "responder"]
Variant = Literal["psi", "cardinality", "enrichment", "analytics"]
VARIANTS: tuple[Variant, ...] = ("psi", "cardinality", "enrichment", "analytics")
MAX_ELEMENTS = 1 << 26


class PsiError(PartyError):
    """A refusal, in one sentence that may be shown to the peer: it never quotes a secret."""


class OwnFileError(PsiError):
    """A refusal about one's own file; the peer hears that there was one, not what it says."""


class MessageError(PsiError):
    """A message that is malformed, out of order, of another session or not in the group."""


ensure = functools.partial(require, error=PsiError)
expect = functools.partial(require, error=MessageError)


def encode_key(parts: Sequence[str]) -> bytes:
    """One key as bytes: NFC, UTF-8, every part preceded by its length.

    The lengths keep ("ab", "c") and ("a", "bc") apart; NFC makes the two spellings of "é" one key.
    Nothing else is changed: case, spaces and leading zeros are part of the key.
    """
    texts = (part if part.isascii() else unicodedata.normalize("NFC", part) for part in parts)
    return b"".join(len(raw).to_bytes(4, "big") + raw for raw in map(str.encode, texts))


@dataclass(frozen=True)
class KeySet:
    """The distinct keys of a file and where they stand in it.

    encoded   distinct keys as bytes, in order of first appearance
    codes     int array, one per row of the file: which distinct key the row has, -1 = no key
    """

    encoded: list[bytes] = field(repr=False)
    codes: npt.NDArray[np.int64] = field(repr=False)

    def __len__(self) -> int:
        return len(self.encoded)

    def rows_of(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Rows of the file, ascending, that hold one of the distinct keys at `positions`."""
        wanted = np.zeros(len(self.encoded) + 1, dtype=bool)  # the last place serves code -1
        wanted[positions] = True
        return np.flatnonzero(wanted[self.codes])

    @property
    def unique(self) -> bool:
        """True if no two rows share a key."""
        return len(self.encoded) == int((self.codes >= 0).sum())


@dataclass(frozen=True)
class DataHolder:
    """A data holder: a name and a table whose key columns are text.

    Numbers are refused as keys because "007" read as a number is 7 and no longer the same key.
    """

    name: str
    frame: pd.DataFrame = field(repr=False)

    def values(self, column: str) -> list[str]:
        """The column as text, missing values left out."""
        self._check_text([column])
        return [str(v) for v in self.frame[column].dropna()]

    def key_set(
        self, on: str | Sequence[str], *, missing: Literal["refuse", "drop"] = "refuse"
    ) -> KeySet:
        """Distinct keys over the columns `on`, which are text.

        A row that lacks a part of its key (none, or empty text) is refused or dropped: with the
        same part missing at the peer it would link to whoever shares the rest.

        Raises PsiError for an unknown column, one that is not text, or a missing key.
        """
        columns = [on] if isinstance(on, str) else list(on)
        ensure(columns, "A key needs at least one column; got none.")
        self._check_text(columns)
        part = self.frame[columns]
        gone = (part.isna() | (part == "")).any(axis=1).to_numpy()
        require(
            missing == "drop" or not gone.any(),
            f"{self.name}: {int(gone.sum())} of {len(part)} rows lack a part of {columns}; "
            "complete them, or pass missing='drop' to leave them out.",
            OwnFileError,
        )
        codes = np.full(len(part), -1, dtype=np.int64)
        lists = [part[c].to_numpy(dtype=object)[~gone] for c in columns]
        encoded = [encode_key(parts) for parts in zip(*lists, strict=True)]
        place: dict[bytes, int] = {}
        codes[~gone] = [place.setdefault(key, len(place)) for key in encoded]
        return KeySet(list(place), codes)

    def check_columns(self, columns: Iterable[str]) -> None:
        """Refuse columns that are not in the file, by an error that names those that are."""
        known = ", ".join(map(str, self.frame.columns))
        for column in columns:
            unknown = f"{self.name} has no column {column!r}; its columns are {known}."
            require(column in self.frame.columns, unknown, OwnFileError)

    def _check_text(self, columns: Sequence[str]) -> None:
        self.check_columns(columns)
        for column in columns:
            kinds = {type(value).__name__ for value in self.frame[column].dropna()} - {"str"}
            ensure(
                not kinds,
                f"{self.name}: key column {column!r} holds {', '.join(sorted(kinds))}, not text, "
                "so leading zeros may be lost; read the file with dtype=str.",
            )


def schema(holders: Sequence[DataHolder], on: str | Sequence[str]) -> pd.DataFrame:
    """One row a data holder: rows, distinct keys over the columns `on`, names of columns."""
    import pandas as pd

    return pd.DataFrame(
        {
            "party": holder.name,
            "rows": len(holder.frame),
            "distinct keys": len(holder.key_set(on)),
            "columns": ", ".join(holder.frame.columns),
        }
        for holder in holders
    )


@dataclass(frozen=True)
class Message:
    """One frame that crossed between two parties; `payload` is None when only sizes are kept."""

    sender: str
    receiver: str
    kind: str
    count: int
    width: int
    size_bytes: int
    payload: bytes | None = field(default=None, repr=False)


@dataclass
class Transcript:
    """Every message of a session in order: what the privacy claims are asserted on."""

    messages: list[Message] = field(default_factory=list)
    keep_payloads: bool = True

    def __iter__(self) -> Iterator[Message]:
        return iter(self.messages)

    def contains_any(self, values: Iterable[str]) -> bool:
        """True if a value, or an unkeyed hash of it that anyone can recompute, was sent.

        Values of fewer than 6 bytes are looked for with their length prefix only: by themselves
        they occur among random bytes by chance.
        """
        sent = b"".join(m.payload or b"" for m in self.messages)
        needles: list[bytes] = []
        for value in values:
            raw, encoded = value.encode(), encode_key([value])
            needles += [raw, encoded] if len(raw) >= 6 else [encoded]
            for algorithm in ("md5", "sha1", "sha256", "sha512", "sha3_256"):
                for text in (raw, encoded):
                    digest = hashlib.new(algorithm, text, usedforsecurity=False).digest()
                    needles += [digest, digest.hex().encode()]
        # Eight bytes first, all at once; a full search only for the few that begin so somewhere.
        windows = np.concatenate(
            [
                np.frombuffer(sent, dtype="<u8", offset=k, count=max(0, len(sent) - k) // 8)
                for k in range(min(8, len(sent)))
            ]
            or [np.empty(0, dtype="<u8")]
        )
        heads = np.array([int.from_bytes(x[:8], "little") for x in needles], dtype="<u8")
        possible = np.isin(heads, windows)
        return any(
            needle in sent
            for needle, maybe in zip(needles, possible, strict=True)
            if maybe or len(needle) < 8
        )


@dataclass(frozen=True)
class Stage:
    """Cost of one stage at one party; CPU seconds are summed over its threads."""

    party: str
    stage: str
    elements: int
    cpu_s: float
    wall_s: float
    bytes_sent: int = 0


@contextlib.contextmanager
def measured(
    stages: list[Stage], party: str, stage: str, elements: int, sent: Callable[[], int]
) -> Iterator[list[float]]:
    """Add the cost of what is done inside: this thread's CPU and what workers add to the list."""
    before, wall = sent(), time.perf_counter()
    cpu = [-time.thread_time()]
    yield cpu
    seconds = sum(cpu) + time.thread_time()
    wall = time.perf_counter() - wall
    stages.append(Stage(party, stage, elements, seconds, wall, sent() - before))


@dataclass(frozen=True, kw_only=True)
class Link:
    """What a data holder needs of a session to send rows to linkers and to read their answers.

    link_key  32 bytes agreed between the two data holders, unknown to any linker
    rows      rows of one's own file whose key the peer also holds, ascending; None for the
              cardinality variant, and where the engine tells this side nothing
    """

    party: str
    peer: str
    session: bytes
    link_key: bytes = field(repr=False)
    rows: npt.NDArray[np.int64] | None


@dataclass(frozen=True, kw_only=True)
class PsiOutcome(Link):
    """All that one party learns from a session.

    cardinality  distinct keys that both files hold; None where the engine tells this side nothing
    positions    distinct keys of one's own that the peer also holds, in an order that both share;
                 None where there are no `rows`
    enriched     columns of the peer, aligned with `positions` (enrichment only)
    """

    cardinality: int | None
    positions: npt.NDArray[np.int64] | None
    own_size: int
    peer_size: int
    enriched: pd.DataFrame | None = field(default=None, repr=False)
    stages: tuple[Stage, ...] = field(default=(), repr=False)


@dataclass(frozen=True, kw_only=True)
class PsiResult:
    """Both outcomes of a session that ran in one process, as a simulation can see them."""

    keys: frozenset[str] | frozenset[tuple[str, ...]] | None = field(repr=False)
    left: PsiOutcome
    right: PsiOutcome
    transcript: Transcript = field(repr=False)

    @property
    def cardinality(self) -> int:
        """Distinct keys that both files hold."""
        assert self.left.cardinality is not None  # every engine tells the initiator
        return self.left.cardinality

    @property
    def stages(self) -> pd.DataFrame:
        """Cost by party and stage: the fields of `Stage` as columns."""
        import pandas as pd

        return pd.DataFrame([vars(s) for s in (*self.left.stages, *self.right.stages)])


class PsiEngine(Protocol):
    """A protocol for the intersection of two key sets, spoken through a `PsiSession`.

    Both parties learn the intersection if it is `symmetric`.
    """

    name: str
    variants: tuple[Variant, ...]
    symmetric: bool

    def parameters(self) -> dict[str, str | int]:
        """What both sides must agree on in their greetings, beyond the name."""

    def speak(self, talk: PsiSession) -> npt.NDArray[np.int64] | int | None:
        """Own positions in the shared order; only their number for the cardinality variant; None
        if this side is told nothing."""
