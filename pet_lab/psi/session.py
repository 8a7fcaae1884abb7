"""A session: greeting, streams of elements, timings; over a channel that carries whole messages.

The engines speak through `PsiSession` and know neither sockets nor threads of the other side. The
same code therefore runs in one process (`intersect`) and between processes (`service`).
"""

from __future__ import annotations

import functools
import hashlib
import os
import struct
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pet_lab.parties.blocking import BlockingChannel, memory_pair
from pet_lab.parties.channel import Options
from pet_lab.parties.errors import PartyError, PeerLost, Refused

from .elements import bytes_of
from .messages import NO_SESSION, End, Hello, Kind, Stream, session_id
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
)

if TYPE_CHECKING:
    import pandas as pd

CELL = struct.Struct(">B63s")
BATCH_BYTES = 1 << 18


class StageTimer:
    """Measures one stage: CPU of this thread and of the workers that report to it."""

    def __init__(self, session: PsiSession, name: str, elements: int) -> None:
        self._session, self._name, self._elements = session, name, elements
        self._cpu = 0.0

    def __enter__(self) -> StageTimer:
        self._wall, self._own = time.perf_counter(), time.thread_time()
        self._sent = self._session.bytes_sent
        return self

    def add_cpu(self, seconds: float) -> None:
        """Add the CPU seconds of a worker thread."""
        self._cpu += seconds

    def __exit__(self, *_: object) -> None:
        self._session.stages.append(
            Stage(
                self._session.party,
                self._name,
                self._elements,
                self._cpu + time.thread_time() - self._own,
                time.perf_counter() - self._wall,
                self._session.bytes_sent - self._sent,
            )
        )


class PsiSession:
    """One side of a session over a channel; `greet` binds it to both greetings.

    Parameters
    ----------
    channel : BlockingChannel
        To the peer; who speaks here and there is what the channel says.
    transcript : Transcript, optional
        Where messages sent from here are noted, with their payloads if `keep_payloads`.
    """

    def __init__(
        self,
        channel: BlockingChannel,
        *,
        role: Role = "initiator",
        variant: Variant = "analytics",
        transcript: Transcript | None = None,
        keep_payloads: bool = True,
    ) -> None:
        self.channel, self.party, self.peer = channel, channel.party, channel.peer
        self.role, self.variant = role, variant
        self.transcript, self.keep_payloads = transcript, keep_payloads
        self.session = NO_SESSION
        self.elements: list[bytes] = []
        self.peer_size, self.peer_columns = 0, tuple[str, ...]()
        self.stages: list[Stage] = []
        self._sent = self._received = 0

    @property
    def bytes_sent(self) -> int:
        """Bytes that left from here, frame headers included."""
        return sum(sent.size for sent in self.channel.record)

    def stage(self, name: str, elements: int) -> StageTimer:
        """Measure what is done inside this context."""
        return StageTimer(self, name, elements)

    def tell(self, message: msgspec.Struct, kind: str) -> None:
        """Send a typed message."""
        self.channel.send(message, kind=kind)
        self._note(kind, 1, msgspec.json.encode(message))

    def _note(self, kind: str, count: int, payload: bytes) -> None:
        if self.transcript is not None:
            size, kept = self.channel.record[-1].size, payload if self.keep_payloads else None
            self.transcript.messages.append(
                Message(self.party, self.peer, kind, count, len(payload) // count, size, kept)
            )

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

    def receive(
        self, kind: Kind, *, width: int, count: int | None = None, at_most: int | None = None
    ) -> Bytes2D:
        """Read a stream into one array of shape (n, width): exactly `count` rows, or `at_most`.

        The array is reserved once for what was announced, and a peer that announces or sends more
        than may come is refused at the first row too many.

        Raises
        ------
        MessageError
            If the stream is another one, of another size, or not what was sent.
        """
        stream = self.channel.receive(Stream)
        if stream.session != self.session:
            raise MessageError("This message belongs to another session.")
        if stream.number != self._received:
            raise MessageError(
                f"Stream {self._received} was expected, got {stream.number}: "
                "repeated, lost or out of order."
            )
        self._received += 1
        if stream.kind != kind:
            raise MessageError(f"Expected {kind}, got {stream.kind}.")
        if stream.width != width:
            raise MessageError(f"Elements of {kind} are {width} bytes wide, got {stream.width}.")
        limit = count if count is not None else at_most if at_most is not None else self.peer_size
        if stream.count > limit or (count is not None and stream.count != count):
            exactly = "exactly" if count is not None else "at most"
            raise MessageError(
                f"Of {kind} {exactly} {limit} elements were to come, {stream.count} are announced."
            )
        # Reserved lazily by the system: an announced size costs nothing until rows arrive.
        rows = np.empty((stream.count, width), dtype=np.uint8)
        have, digest = 0, hashlib.sha256()
        while have < stream.count:
            payload = self.channel.receive_bytes()
            # Full batches only: a stream that trickles in would last as long as its sender likes.
            batch = min(max(1, BATCH_BYTES // width), stream.count - have)
            if len(payload) != batch * width:
                raise MessageError(
                    f"{stream.count} elements of {kind} of {width} bytes were announced; more came,"
                    " none, or parts."
                )
            rows[have : have + batch] = np.frombuffer(payload, dtype=np.uint8).reshape(batch, width)
            have += batch
            digest.update(payload)
        end = self.channel.receive(End)
        if end.kind != kind:
            raise MessageError(f"The stream {kind} was closed by the end of another.")
        if end.count != have:
            raise MessageError(f"The sender counts {end.count} elements of {kind}, {have} arrived.")
        if end.digest != digest.digest():
            raise MessageError(
                f"The elements of {kind} are not those that were sent: digests differ."
            )
        return rows


def greet(
    session: PsiSession, engine: PsiEngine, keys: KeySet, on: Sequence[str], columns: Sequence[str]
) -> bytes:
    """Exchange greetings, bind the session to both, and agree on a key with the other data holder.

    Returns
    -------
    32 bytes: the link key, from an ephemeral X25519 exchange and the session. The linker sees
    neither greeting, so it cannot have it.

    Raises
    ------
    MessageError
        If the parties do not agree on who they are or what they do, or the key share is weak.
    """
    private = X25519PrivateKey.generate()
    try:
        mine = msgspec.convert(
            {
                "type": "hello",
                "engine": engine.name,
                "variant": session.variant,
                "role": session.role,
                "party": session.party,
                "peer": session.peer,
                "size": len(keys),
                "on": tuple(on),
                "columns": tuple(columns),
                "parameters": engine.parameters(),
                "nonce": os.urandom(32),
                "share": private.public_key().public_bytes_raw(),
            },
            Hello,
        )
    except msgspec.ValidationError as error:
        raise PsiError(f"This cannot be put into a greeting: {error}.") from None
    if session.role == "initiator":
        session.tell(mine, "hello")
        theirs = session.channel.receive(Hello)
    else:
        theirs = session.channel.receive(Hello)
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
    if theirs.party != mine.peer or theirs.peer != mine.party:
        raise MessageError(
            f"This session is between {mine.party} and {mine.peer}; the greeting is from "
            f"{theirs.party} to {theirs.peer}."
        )
    if theirs.role == mine.role:
        raise MessageError(f"Both parties want to be the {mine.role}; one must be the other role.")
    if len(set(theirs.columns)) != len(theirs.columns):
        raise MessageError("The peer names a column twice.")
    if theirs.nonce == mine.nonce or theirs.share == mine.share:
        raise MessageError("The greeting repeats our own.")
    for name in ("engine", "variant", "on", "parameters"):
        a, b = getattr(mine, name), getattr(theirs, name)
        if a != b:
            raise MessageError(
                f"The parties do not agree on {name}: here {str(a)[:200]}, there {str(b)[:200]}."
            )


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
    keep_payloads: bool = False,
) -> PsiOutcome:
    """Speak one data holder's side of a session to its end, and close the channel.

    Parameters
    ----------
    on : str or sequence of str
        Key column or columns, the same names on both sides.
    columns : sequence of str
        Own columns that the peer is to learn for the intersection; variant "enrichment" only.
    missing : str
        Rows without a key: "refuse" them, or "drop" them from the intersection.

    Raises
    ------
    PartyError
        One sentence; the peer has then received the same sentence, nothing else.
    """
    names = [on] if isinstance(on, str) else list(on)
    session = PsiSession(
        channel, role=role, variant=variant, transcript=transcript, keep_payloads=keep_payloads
    )
    try:
        return _speak(engine, session, holder, names, columns, missing)
    except PeerLost:
        raise
    except OwnFileError:
        channel.refuse(Refused(f"The file of {session.party} does not fit this session."))
        raise
    except PartyError as error:
        channel.refuse(error)
        raise
    except Exception:
        channel.refuse(Refused("An internal error ended the session."))  # details stay here
        raise
    finally:
        channel.close()


def _speak(  # noqa: PLR0917 - `run_party` names them
    engine: PsiEngine,
    session: PsiSession,
    holder: DataHolder,
    names: list[str],
    columns: Sequence[str],
    missing: Literal["refuse", "drop"],
) -> PsiOutcome:
    if holder.name != session.party:
        raise PsiError(f"The certificate is for {session.party}, the data holder is {holder.name}.")
    variant = session.variant
    if variant not in engine.variants:
        raise PsiError(
            f"The engine {engine.name} cannot answer {variant}; "
            f"it answers {', '.join(engine.variants)}."
        )
    holder.check_columns(columns)
    with session.stage("read keys", len(holder.frame)):
        keys = holder.key_set(names, missing=missing)
    if variant == "enrichment" and not keys.unique:
        raise OwnFileError(
            f"{holder.name}: enrichment needs a unique key, but some keys of {names} repeat."
        )
    if columns and variant != "enrichment":
        raise PsiError(
            "Columns are handed over in the enrichment variant only; choose it, or name none."
        )
    with session.stage("greet", 0):
        link_key = greet(session, engine, keys, names, columns)
    session.elements = keys.encoded
    answer = engine.speak(session)
    positions = answer if isinstance(answer, np.ndarray) else None
    enriched = None
    if variant == "enrichment":
        if positions is None:
            raise PsiError(f"The engine {engine.name} tells this side no positions to enrich.")
        with session.stage("enrich", len(positions)):
            enriched = _exchange_columns(session, holder, keys, positions, columns)
    return PsiOutcome(
        party=holder.name,
        peer=session.peer,
        role=session.role,
        variant=variant,
        session=session.session,
        cardinality=len(answer) if isinstance(answer, np.ndarray) else answer,
        positions=positions,
        own_size=len(keys),
        peer_size=session.peer_size,
        link_key=link_key,
        enriched=enriched,
        stages=tuple(session.stages),
    )


def _exchange_columns(
    session: PsiSession,
    holder: DataHolder,
    keys: KeySet,
    positions: np.ndarray,
    columns: Sequence[str],
) -> pd.DataFrame:
    """Swap the named columns of the intersection, in the shared order, without any key."""
    import pandas as pd

    row_of = np.full(len(keys), -1, dtype=np.int64)
    present = keys.codes >= 0
    row_of[keys.codes[present]] = np.flatnonzero(present)
    cells = holder.frame.iloc[row_of[positions]][list(columns)].astype(str).to_numpy().ravel()
    mine = bytes_of([_pack_cell(cell) for cell in cells], CELL.size)
    count = len(positions) * len(session.peer_columns)
    if session.role == "initiator":
        session.send("attributes", mine)
        theirs = session.receive("attributes", width=CELL.size, count=count)
    else:
        theirs = session.receive("attributes", width=CELL.size, count=count)
        session.send("attributes", mine)
    texts = np.array([_unpack_cell(row.tobytes()) for row in theirs], dtype=object)
    table = texts.reshape(len(positions), len(session.peer_columns))
    return pd.DataFrame(table, columns=list(session.peer_columns))


def _pack_cell(text: str) -> bytes:
    raw = text.encode()
    if len(raw) > CELL.size - 1:
        raise OwnFileError(
            f"A cell to hand over has at most {CELL.size - 1} bytes, this one has {len(raw)}."
        )
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
    timeout_s: float = 600.0,
    delay_s: float = 0.0,
    keep_payloads: bool = True,
) -> PsiResult:
    """Run both parties in this process, each in its own thread: a simulation, not a deployment.

    DEPARTS from the house rule that randomness is an argument: keys, blinds and shuffles come from
    the system's CSPRNG; a seeded one would be a hole, and no result depends on it.

    Parameters
    ----------
    timeout_s : float
        Seconds to wait for a message.
    delay_s : float
        One-way delay of every message: half of a round trip.

    Raises
    ------
    PartyError
        The first party's reason.
    """
    transcript = Transcript()
    options = Options(timeout_s=timeout_s, delay_s=delay_s)
    ends = memory_pair(left.name, right.name, options=options)
    speak = functools.partial(
        run_party,
        engine,
        on=on,
        variant=variant,
        missing=missing,
        transcript=transcript,
        keep_payloads=keep_payloads,
    )

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(speak, ends[0], left, role="initiator", columns=left_columns)
        second = threads.submit(speak, ends[1], right, role="responder", columns=right_columns)
    failed = [error for side in (first, second) if (error := side.exception())]
    if failed:
        # Who has the reason says most; who only lost the other says least.
        raise min(failed, key=lambda e: isinstance(e, PeerLost) - isinstance(e, OwnFileError))
    a, b = first.result(), second.result()
    names = [on] if isinstance(on, str) else list(on)
    rows = [
        None
        if outcome.positions is None
        else holder.key_set(names, missing=missing).rows_of(outcome.positions)
        for holder, outcome in ((left, a), (right, b))
    ]
    keys = None
    if rows[0] is not None:
        part = left.frame.iloc[rows[0]][names]
        several = part.itertuples(index=False, name=None)
        keys = frozenset(part[names[0]] if len(names) == 1 else several)
    return PsiResult(
        keys=keys, left=a, right=b, left_rows=rows[0], right_rows=rows[1], transcript=transcript
    )
