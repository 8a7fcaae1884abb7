"""A session: greeting, streams of elements, timings; over a channel that carries whole messages.

The engines speak through `PsiSession` and know neither sockets nor threads of the other side. The
same code therefore runs in one process (`intersect`) and between processes (`service`).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pet_lab.checks import require
from pet_lab.parties.blocking import BlockingChannel, memory_pair
from pet_lab.parties.channel import Options
from pet_lab.parties.errors import PartyError, PeerLost, Refused

from .elements import bytes_of, in_threads
from .messages import NO_SESSION, End, Hello, Kind, Stream, checked, session_id
from .protocol import (
    Bytes2D,
    DataHolder,
    KeySet,
    Message,
    MessageError,
    OwnFileError,
    PsiEngine,
    PsiError,
    PsiOutcome,
    PsiResult,
    Role,
    Stage,
    Transcript,
    Variant,
    ensure,
    expect,
    measured,
)

if TYPE_CHECKING:
    import pandas as pd

CELL = struct.Struct(">B63s")
BATCH_BYTES = 1 << 18


class PsiSession:
    """One side of a session over a channel, whose parties it takes from there.

    `greet` binds it to both greetings; what is sent from here is noted in the transcript, if any.
    """

    def __init__(
        self,
        channel: BlockingChannel,
        *,
        role: Role = "initiator",
        variant: Variant = "analytics",
        transcript: Transcript | None = None,
    ) -> None:
        self.channel, self.party, self.peer = channel, channel.party, channel.peer
        self.role, self.variant, self.transcript = role, variant, transcript
        self.session = NO_SESSION
        self.elements: list[bytes] = []
        self.peer_size, self.peer_columns = 0, tuple[str, ...]()
        self.stages: list[Stage] = []
        self._sent = self._received = 0

    def compute(
        self, stage: str, work: Callable[[slice], Any], *outputs: np.ndarray, step: int = 1024
    ) -> None:
        """Fill arrays of one length, slice by slice on all cores, with what `work` returns."""
        n = len(outputs[0])
        with self.stage(stage, n) as cpu:
            for rows, result in in_threads(work, n, cpu=cpu, step=step):
                parts = result if len(outputs) > 1 else [result]
                for output, part in zip(outputs, parts, strict=True):
                    output[rows] = part

    @property
    def bytes_sent(self) -> int:
        """Bytes that left from here, frame headers included."""
        return sum(sent.size for sent in self.channel.record)

    def stage(self, name: str, elements: int) -> contextlib.AbstractContextManager[list[float]]:
        """Measure what is done inside; worker threads append their CPU seconds to the list."""
        return measured(self.stages, self.party, name, elements, lambda: self.bytes_sent)

    def tell(self, message: msgspec.Struct, kind: str) -> None:
        """Send a typed message."""
        self.channel.send(message, kind=kind)
        self._note(kind, 1, msgspec.json.encode(message))

    def _note(self, kind: str, count: int, payload: bytes) -> None:
        if self.transcript is not None:
            size, width = self.channel.record[-1].size, len(payload) // count
            kept = payload if self.transcript.keep_payloads else None
            message = Message(self.party, self.peer, kind, count, width, size, kept)
            self.transcript.messages.append(message)

    def send(self, kind: Kind, rows: Bytes2D) -> None:
        """Announce rows, shape (n, width), stream them in batches, and close the stream."""
        n, width = rows.shape
        step = max(1, BATCH_BYTES // width)
        stream = Stream(kind=kind, session=self.session, number=self._sent, width=width, count=n)
        self._sent += 1
        self.tell(stream, "stream")
        digest = hashlib.sha256()
        for start in range(0, n, step):
            payload = np.ascontiguousarray(rows[start : start + step]).tobytes()
            digest.update(payload)
            self.channel.send_bytes(payload, kind=kind)
            self._note(kind, len(payload) // width, payload)
        self.tell(End(kind=kind, count=n, digest=digest.digest()), "end")

    def receive(self, kind: Kind, *, width: int, count: int, or_fewer: bool = False) -> Bytes2D:
        """Read a stream into one array of shape (n, width), n = `count` or at most that.

        The array is reserved once for what was announced, and a peer that announces or sends more
        than may come is refused at the first row too many.

        Raises MessageError if the stream is another one, of another size, or not what was sent.
        """
        stream = self.channel.receive(Stream)
        n, number = stream.count, self._received
        expect(stream.session == self.session, "This message belongs to another session.")
        lost = f"Stream {number} was expected, got {stream.number}: repeated, lost or out of order."
        expect(stream.number == number, lost)
        self._received += 1
        expect(stream.kind == kind, f"Expected {kind}, got {stream.kind}.")
        wide = f"Elements of {kind} are {width} bytes wide, got {stream.width}."
        expect(stream.width == width, wide)
        bound = "at most" if or_fewer else "exactly"
        other = f"Of {kind} {bound} {count} elements were to come, {n} are announced."
        expect(n <= count if or_fewer else n == count, other)
        # Reserved lazily by the system: an announced size costs nothing until rows arrive.
        rows = np.empty((n, width), dtype=np.uint8)
        step, digest = max(1, BATCH_BYTES // width), hashlib.sha256()
        parts = (
            f"{n} elements of {kind} of {width} bytes were announced; more came, none, or parts."
        )
        for start in range(0, n, step):
            payload = self.channel.receive_bytes()
            batch = rows[start : start + step]
            # Full batches only: a stream that trickles in would last as long as its sender likes.
            expect(len(payload) == batch.size, parts)
            batch[:] = np.frombuffer(payload, dtype=np.uint8).reshape(batch.shape)
            digest.update(payload)
        end = self.channel.receive(End)
        expect(end.kind == kind, f"The stream {kind} was closed by the end of another.")
        expect(end.count == n, f"The sender counts {end.count} elements of {kind}, {n} arrived.")
        changed = f"The elements of {kind} are not those that were sent: digests differ."
        expect(end.digest == digest.digest(), changed)
        return rows

    def swap(self, kind: Kind, rows: Bytes2D, *, count: int) -> Bytes2D:
        """Send rows and receive `count` as wide of the peer: in turn, so that no side can block."""
        if self.role == "initiator":
            self.send(kind, rows)
        theirs = self.receive(kind, width=rows.shape[1], count=count)
        if self.role == "responder":
            self.send(kind, rows)
        return theirs


@contextlib.contextmanager
def refusing(channel: BlockingChannel) -> Iterator[None]:
    """Close the channel in the end; what goes wrong here is told to the peer in one sentence."""
    try:
        yield
    except PeerLost:
        raise
    except OwnFileError:
        channel.refuse(Refused(f"The file of {channel.party} does not fit this session."))
        raise
    except PartyError as error:
        channel.refuse(error)
        raise
    except Exception:
        channel.refuse(Refused("An internal error ended the session."))  # details stay here
        raise
    finally:
        channel.close()


def greet(
    session: PsiSession, engine: PsiEngine, keys: KeySet, on: Sequence[str], columns: Sequence[str]
) -> bytes:
    """Exchange greetings, bind the session to both, and agree on a key with the other data holder.

    Returns the link key, 32 bytes from an ephemeral X25519 exchange and the session: the linker
    sees neither greeting, so it cannot have it. Raises MessageError if the parties do not agree on
    who they are or what they do, or the key share is weak.
    """
    private = X25519PrivateKey.generate()
    mine = checked(
        Hello,
        engine=engine.name,
        variant=session.variant,
        role=session.role,
        party=session.party,
        peer=session.peer,
        size=len(keys),
        on=tuple(on),
        columns=tuple(columns),
        parameters=engine.parameters(),
        nonce=os.urandom(32),
        share=private.public_key().public_bytes_raw(),
    )
    if session.role == "initiator":
        session.tell(mine, "hello")
    theirs = session.channel.receive(Hello)
    if session.role == "responder":
        session.tell(mine, "hello")
    _check_greeting(mine, theirs)
    session.peer_size, session.peer_columns = theirs.size, theirs.columns
    session.session = session_id(*(mine, theirs) if mine.role == "initiator" else (theirs, mine))
    try:
        shared = private.exchange(X25519PublicKey.from_public_bytes(theirs.share))
    except ValueError:
        raise MessageError("The key share of the greeting has small order.") from None
    return HKDF(SHA256(), 32, session.session, b"pet_lab psi link key 1").derive(shared)


def _check_greeting(mine: Hello, theirs: Hello) -> None:
    expect(
        (theirs.party, theirs.peer) == (mine.peer, mine.party),
        f"This session is between {mine.party} and {mine.peer}; the greeting is from "
        f"{theirs.party} to {theirs.peer}.",
    )
    same = f"Both parties want to be the {mine.role}; one must be the other role."
    expect(theirs.role != mine.role, same)
    expect(len(set(theirs.columns)) == len(theirs.columns), "The peer names a column twice.")
    fresh = theirs.nonce != mine.nonce and theirs.share != mine.share
    expect(fresh, "The greeting repeats our own.")
    for name in ("engine", "variant", "on", "parameters"):
        a, b = getattr(mine, name), getattr(theirs, name)
        differ = f"The parties do not agree on {name}: here {str(a)[:200]}, there {str(b)[:200]}."
        expect(a == b, differ)


def run_party(
    engine: PsiEngine,
    channel: BlockingChannel,
    holder: DataHolder,
    *,
    role: Role,
    on: str | Sequence[str],
    variant: Variant = "psi",
    columns: Sequence[str] = (),
    missing: Literal["refuse", "drop"] = "refuse",
    transcript: Transcript | None = None,
) -> PsiOutcome:
    """Speak one data holder's side of a session to its end, and close the channel.

    `on` names the key columns, alike on both sides; `columns` are own columns that the peer is to
    learn for the intersection (variant "enrichment" only); rows without a key are refused, or
    dropped from the intersection (`missing`).

    Raises PartyError, one sentence; the peer has then received the same sentence, nothing else.
    """
    names = [on] if isinstance(on, str) else list(on)
    enriches = variant == "enrichment"
    with refusing(channel):
        session = PsiSession(channel, role=role, variant=variant, transcript=transcript)
        other = f"The certificate is for {session.party}, the data holder is {holder.name}."
        ensure(holder.name == session.party, other)
        check_variant(engine, variant)
        with session.stage("read keys", len(holder.frame)):
            keys = check_file(holder, on=names, columns=columns, unique=enriches, missing=missing)
        alone = "Columns are handed over in the enrichment variant only; choose it, or name none."
        ensure(enriches or not columns, alone)
        with session.stage("greet", 0):
            link_key = greet(session, engine, keys, names, columns)
        session.elements = keys.encoded
        answer = engine.speak(session)
        positions = answer if isinstance(answer, np.ndarray) else None
        enriched = None
        if enriches:
            if positions is None:
                raise PsiError(f"The engine {engine.name} tells this side no positions to enrich.")
            with session.stage("enrich", len(positions)):
                enriched = _exchange_columns(session, holder, keys, positions, columns)
    return PsiOutcome(
        party=holder.name,
        peer=session.peer,
        session=session.session,
        cardinality=len(answer) if isinstance(answer, np.ndarray) else answer,
        positions=positions,
        rows=None if positions is None else keys.rows_of(positions),
        own_size=len(keys),
        peer_size=session.peer_size,
        link_key=link_key,
        enriched=enriched,
        stages=tuple(session.stages),
    )


def check_file(
    holder: DataHolder,
    *,
    on: Sequence[str],
    columns: Sequence[str] = (),
    unique: bool = False,
    missing: Literal["refuse", "drop"] = "refuse",
) -> KeySet:
    """The keys of a file that can take part in a session, or OwnFileError.

    `columns` are those to hand over, of which no cell is too long; `unique`: no key may repeat.
    """
    holder.check_columns(columns)
    keys = holder.key_set(on, missing=missing)
    repeat = f"{holder.name}: enrichment needs a unique key, but some keys of {[*on]} repeat."
    require(keys.unique or not unique, repeat, OwnFileError)
    for column in columns:
        for cell in holder.frame[column].astype(str).unique():
            _pack_cell(cell)
    return keys


def check_variant(engine: PsiEngine, variant: str) -> None:
    """Refuse a variant that the engine cannot answer."""
    answers = ", ".join(engine.variants)
    sentence = f"The engine {engine.name} cannot answer {variant[:40]}; it answers {answers}."
    ensure(variant in engine.variants, sentence)


def _exchange_columns(
    session: PsiSession,
    holder: DataHolder,
    keys: KeySet,
    positions: np.ndarray,
    columns: Sequence[str],
) -> pd.DataFrame:
    """Swap the named columns of the intersection, in the shared order, without any key."""
    import pandas as pd

    row_of = np.flatnonzero(keys.codes >= 0)  # keys are unique and numbered as they appear
    cells = holder.frame.iloc[row_of[positions]][list(columns)].astype(str).to_numpy().ravel()
    mine = bytes_of([_pack_cell(cell) for cell in cells], CELL.size)
    shape = len(positions), len(session.peer_columns)
    theirs = session.swap("attributes", mine, count=shape[0] * shape[1])
    texts = np.array([_unpack_cell(row.tobytes()) for row in theirs], dtype=object)
    return pd.DataFrame(texts.reshape(shape), columns=list(session.peer_columns))


def _pack_cell(text: str) -> bytes:
    raw, most = text.encode(), CELL.size - 1
    long = f"A cell to hand over has at most {most} bytes, this one has {len(raw)}."
    require(len(raw) <= most, long, OwnFileError)
    return CELL.pack(len(raw), raw)


def _unpack_cell(raw: bytes) -> str:
    size, body = CELL.unpack(raw)
    if size >= CELL.size or any(body[size:]):
        raise MessageError("A cell is not well formed: its length and its padding disagree.")
    try:
        return str(body[:size].decode())
    except UnicodeDecodeError:
        raise MessageError("A cell is text in UTF-8; this is not.") from None


def intersect(
    engine: PsiEngine,
    left: DataHolder,
    right: DataHolder,
    *,
    on: str | Sequence[str],
    variant: Variant = "psi",
    left_columns: Sequence[str] = (),
    right_columns: Sequence[str] = (),
    missing: Literal["refuse", "drop"] = "refuse",
    options: Options | None = None,
    keep_payloads: bool = True,
) -> PsiResult:
    """Run both parties in this process, each in its own thread: a simulation, not a deployment.

    DEPARTS from the house rule that randomness is an argument: keys, blinds and shuffles come from
    the system's CSPRNG; a seeded one would be a hole, and no result depends on it.

    Raises PartyError: the first party's reason.
    """
    names = [on] if isinstance(on, str) else list(on)
    transcript = Transcript(keep_payloads=keep_payloads)
    ends = memory_pair(left.name, right.name, options=options or Options(timeout_s=600))
    speak = functools.partial(
        run_party, engine, on=names, variant=variant, missing=missing, transcript=transcript
    )
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(speak, ends[0], left, role="initiator", columns=left_columns)
        second = threads.submit(speak, ends[1], right, role="responder", columns=right_columns)
    failed = [error for side in (first, second) if (error := side.exception())]
    if failed:
        # Who has the reason says most; who only lost the other says least.
        raise min(failed, key=lambda e: isinstance(e, PeerLost) - isinstance(e, OwnFileError))
    a, b = first.result(), second.result()
    keys = None
    if a.rows is not None:
        part = left.frame.iloc[a.rows][names]
        several = part.itertuples(index=False, name=None)
        keys = frozenset(part[names[0]] if len(names) == 1 else several)
    return PsiResult(keys=keys, left=a, right=b, transcript=transcript)
