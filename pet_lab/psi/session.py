"""A session: greeting, ordered frames, timings; over any channel that carries whole messages.

The engines speak through `Session` and know neither sockets nor threads of the other side. The same
code therefore runs in one process (`MemoryChannel`) and between processes (`flight`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from . import messages
from .messages import Frame, Hello
from .protocol import (
    Bytes2D,
    KeySet,
    Message,
    MessageError,
    Outcome,
    Party,
    PeerLost,
    PsiEngine,
    PsiError,
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
T = TypeVar("T")


class Channel(Protocol):
    """Carries whole messages in order; closing makes the other side's `receive` raise PeerLost."""

    def send(self, raw: bytes) -> None: ...
    def receive(self, timeout_s: float) -> bytes: ...
    def close(self) -> None: ...


class MemoryChannel:
    """One end of a pair of queues between two threads of a process."""

    def __init__(self, inbox: queue.Queue[bytes | None], outbox: queue.Queue[bytes | None]) -> None:
        self._inbox, self._outbox = inbox, outbox

    @classmethod
    def pair(cls) -> tuple[MemoryChannel, MemoryChannel]:
        a: queue.Queue[bytes | None] = queue.Queue()
        b: queue.Queue[bytes | None] = queue.Queue()
        return cls(a, b), cls(b, a)

    def send(self, raw: bytes) -> None:
        self._outbox.put(raw)

    def receive(self, timeout_s: float) -> bytes:
        try:
            raw = self._inbox.get(timeout=timeout_s)
        except queue.Empty:
            raise PeerLost(f"The other party sent nothing for {timeout_s:g} s.") from None
        if raw is None:
            raise PeerLost("The other party left the session before it was over.")
        return raw

    def close(self) -> None:
        self._outbox.put(None)


class _Timer:
    """Measures one stage: CPU of this thread and of the workers that report to it."""

    def __init__(self, session: Session, name: str, elements: int) -> None:
        self._session, self._name, self._elements = session, name, elements
        self._cpu = 0.0

    def __enter__(self) -> _Timer:
        self._wall, self._own, self._sent = (
            time.perf_counter(),
            time.thread_time(),
            self._session.bytes_sent,
        )
        return self

    def add_cpu(self, seconds: float) -> None:
        self._cpu += seconds

    def __exit__(self, *exc: object) -> None:
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


class Session:
    """One party's side of a session, after the greeting; see `greet`."""

    def __init__(
        self,
        channel: Channel,
        *,
        party: str,
        peer: str,
        role: Role,
        variant: Variant,
        timeout_s: float,
        transcript: Transcript | None = None,
        keep_payloads: bool = True,
    ) -> None:
        self.party, self.peer, self.role, self.variant = party, peer, role, variant
        self.channel, self.timeout_s = channel, timeout_s
        self.transcript, self.keep_payloads = transcript, keep_payloads
        self.session = messages.NO_SESSION
        self.elements: list[bytes] = []
        self.peer_size = 0
        self.stages: list[Stage] = []
        self.bytes_sent = 0
        self._out = self._in = 0

    def stage(self, name: str, elements: int) -> _Timer:
        return _Timer(self, name, elements)

    def send_frame(self, kind: str, payload: bytes, width: int) -> None:
        raw = Frame(kind, self.session, self._out, width, payload).encode()
        self._out += 1
        self.bytes_sent += len(raw)
        if self.transcript is not None:
            kept = payload if self.keep_payloads else None
            count = len(payload) // width
            self.transcript.messages.append(
                Message(self.party, self.peer, kind, count, width, len(raw), kept)
            )
        self.channel.send(raw)

    def receive_frame(self, *kinds: str) -> Frame:
        frame = messages.decode_frame(self.channel.receive(self.timeout_s))
        if frame.session != self.session:
            raise MessageError("This message belongs to another session.")
        if frame.sequence != self._in:
            raise MessageError(
                f"Message {self._in} was expected, got {frame.sequence}: "
                "repeated, lost or out of order."
            )
        self._in += 1
        if frame.kind == "abort":
            # Shown, so kept printable and short whatever the peer put there.
            said = "".join(c for c in frame.payload.decode("utf-8", "replace") if c.isprintable())
            raise PeerLost(f"The other party ended the session: {said[:300]}")
        if frame.kind not in kinds:
            raise MessageError(f"Expected {' or '.join(kinds)}, got {frame.kind}.")
        return frame

    def send(self, kind: str, rows: Bytes2D) -> None:
        """Stream rows, shape (n, width), in batches, and close the stream."""
        n, width = rows.shape
        step = max(1, BATCH_BYTES // width)
        digest = hashlib.sha256()
        for start in range(0, n, step):
            payload = np.ascontiguousarray(rows[start : start + step]).tobytes()
            digest.update(payload)
            self.send_frame(kind, payload, width)
        end = messages.encode_end(kind, n, digest.digest())
        self.send_frame("end", end, len(end))

    def receive(
        self, kind: str, *, width: int, count: int | None = None, at_most: int | None = None
    ) -> Bytes2D:
        """Read a stream into one array of shape (n, width): exactly `count` rows, or `at_most`.

        The array is reserved once for what the greeting announced, and a peer that sends more is
        refused at the first row too many.
        """
        limit = count if count is not None else at_most if at_most is not None else self.peer_size
        # Reserved lazily by the system: an announced size costs nothing until rows arrive.
        out = np.empty((limit, width), dtype=np.uint8)
        have = 0
        digest = hashlib.sha256()
        while True:
            frame = self.receive_frame(kind, "end")
            if frame.kind == "end":
                messages.check_end(frame.payload, kind, have, digest.digest())
                break
            if frame.width != width:
                raise MessageError(f"Elements of {kind} are {width} bytes wide, got {frame.width}.")
            if frame.count == 0 or have + frame.count > limit:
                raise MessageError(
                    f"At most {limit} elements of {kind} were announced; more came, or none."
                )
            out[have : have + frame.count] = frame.rows()
            have += frame.count
            digest.update(frame.payload)
        if count is not None and have != count:
            raise MessageError(f"{count} elements of {kind} were announced, {have} came.")
        return out[:have]

    def abort(self, reason: str) -> None:
        with contextlib.suppress(Exception):  # the channel may be gone: the peer notices by itself
            self.send_frame("abort", reason.encode()[:400] or b"-", 1)


def greet(
    session: Session, engine: PsiEngine, keys: KeySet, on: Sequence[str], columns: Sequence[str]
) -> bytes:
    """Exchange greetings, bind the session to both, and agree on a key with the other data holder.

    Returns
    -------
    32 bytes: the link key, from an ephemeral X25519 exchange and the session. The linker sees
    neither greeting, so it cannot have it.
    """
    private = X25519PrivateKey.generate()
    mine = Hello(
        engine=engine.name,
        variant=session.variant,
        role=session.role,
        party=session.party,
        peer=session.peer,
        size=len(keys),
        on=tuple(on),
        columns=tuple(columns),
        parameters=tuple(sorted(engine.parameters().items())),
        nonce=os.urandom(32).hex(),
        share=private.public_key().public_bytes_raw().hex(),
    )
    raw = mine.encode()
    if session.role == "initiator":
        session.send_frame("hello", raw, 1)
        theirs = messages.decode_hello(session.receive_frame("hello").payload)
    else:
        theirs = messages.decode_hello(session.receive_frame("hello").payload)
        session.send_frame("hello", raw, 1)
    _check_greeting(mine, theirs)
    session.peer_size = theirs.size
    pair = (mine, theirs) if session.role == "initiator" else (theirs, mine)
    session.session = messages.session_id(*pair)
    try:
        shared = private.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(theirs.share)))
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
    if theirs.nonce == mine.nonce or theirs.share == mine.share:
        raise MessageError("The greeting repeats our own.")
    for name in ("engine", "variant", "on", "parameters"):
        a, b = getattr(mine, name), getattr(theirs, name)
        if a != b:
            raise MessageError(
                f"The parties do not agree on {name}: here {_shown(a)}, there {_shown(b)}."
            )


def _shown(value: object) -> str:
    return str(
        dict(value) if isinstance(value, tuple) and value and isinstance(value[0], tuple) else value
    )[:200]


def run_party(
    engine: PsiEngine,
    channel: Channel,
    *,
    party: Party,
    peer: str,
    role: Role,
    on: str | Sequence[str],
    variant: Variant = "psi",
    columns: Sequence[str] = (),
    missing: str = "refuse",
    timeout_s: float = 120.0,
    transcript: Transcript | None = None,
    keep_payloads: bool = False,
) -> Outcome:
    """Speak one party's side of a session to its end.

    Parameters
    ----------
    on : key column or columns, the same names on both sides
    columns : own columns that the peer is to learn for the intersection; variant "enrichment" only
    timeout_s : longest silence of the peer that is borne

    Raises
    ------
    PsiError
        One sentence; the peer has then received the same sentence, nothing else.
    """
    names = [on] if isinstance(on, str) else list(on)
    session = Session(
        channel,
        party=party.name,
        peer=peer,
        role=role,
        variant=variant,
        timeout_s=timeout_s,
        transcript=transcript,
        keep_payloads=keep_payloads,
    )
    try:
        if variant not in engine.variants:
            raise PsiError(
                f"The engine {engine.name} cannot answer {variant}; "
                f"it answers {', '.join(engine.variants)}."
            )
        with session.stage("read keys", len(party.frame)):
            keys = party.key_set(names, missing=missing)  # type: ignore[arg-type]
        if variant == "enrichment" and not keys.unique:
            raise PsiError(
                f"{party.name}: enrichment needs a unique key, but some keys of {names} repeat."
            )
        if columns and variant != "enrichment":
            raise PsiError(
                "Columns are handed over in the enrichment variant only; choose it, or name none."
            )
        with session.stage("greet", 0):
            link_key = greet(session, engine, keys, names, columns)
        session.elements = keys.encoded
        answer = engine.speak(session)
        positions = None if isinstance(answer, int) else answer
        enriched = None
        if variant == "enrichment":
            if positions is None:
                raise PsiError(f"The engine {engine.name} tells this side no positions to enrich.")
            with session.stage("enrich", len(positions)):
                enriched = _exchange_columns(session, party, keys, positions, columns)
        return Outcome(
            party=party.name,
            peer=peer,
            role=role,
            variant=variant,
            session=session.session,
            cardinality=answer if isinstance(answer, int) else len(answer),
            positions=positions,
            own_size=len(keys),
            peer_size=session.peer_size,
            link_key=link_key,
            enriched=enriched,
            stages=tuple(session.stages),
        )
    except PeerLost:
        raise
    except PsiError as error:
        session.abort(str(error))
        raise
    except Exception:
        session.abort("An internal error ended the session.")  # details stay with their owner
        raise
    finally:
        channel.close()


def _exchange_columns(
    session: Session, party: Party, keys: KeySet, positions: np.ndarray, columns: Sequence[str]
) -> pd.DataFrame:
    """Swap the named columns of the intersection, in the shared order, without any key."""
    import pandas as pd

    row_of = np.full(len(keys), -1, dtype=np.int64)
    present = keys.codes >= 0
    row_of[keys.codes[present]] = np.flatnonzero(present)
    names = list(columns)
    cells = party.frame.iloc[row_of[positions]][names].astype(str)
    width = CELL.size * max(1, len(names))
    packed = b"".join(_pack_cell(c) for row in cells.itertuples(index=False) for c in row)
    mine = np.frombuffer(packed, dtype=np.uint8).reshape(len(cells) if names else 0, width)
    header = np.frombuffer(b"".join(_pack_cell(n) for n in names), dtype=np.uint8).reshape(
        -1, CELL.size
    )

    def receive() -> tuple[list[str], Bytes2D]:
        got = [
            _unpack_cell(bytes(r))
            for r in session.receive("attributes", width=CELL.size, at_most=32)
        ]
        rows = len(positions) if got else 0
        return got, session.receive("attributes", width=CELL.size * max(1, len(got)), count=rows)

    if session.role == "initiator":
        session.send("attributes", header)
        session.send("attributes", mine)
        their_names, theirs = receive()
    else:
        their_names, theirs = receive()
        session.send("attributes", header)
        session.send("attributes", mine)
    if len(set(their_names)) != len(their_names):
        raise MessageError("The peer names a column twice.")
    data = {
        name: [_unpack_cell(bytes(r[i * CELL.size : (i + 1) * CELL.size])) for r in theirs]
        for i, name in enumerate(their_names)
    }
    return pd.DataFrame(data, index=pd.RangeIndex(len(positions)))


def _pack_cell(text: str) -> bytes:
    raw = text.encode()
    if len(raw) > CELL.size - 1:
        raise PsiError(
            f"A cell to hand over has at most {CELL.size - 1} bytes; shorten {text[:20]!r}..."
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
    left: Party,
    right: Party,
    *,
    on: str | Sequence[str],
    variant: Variant = "psi",
    left_columns: Sequence[str] = (),
    right_columns: Sequence[str] = (),
    missing: str = "refuse",
    timeout_s: float = 600.0,
    keep_payloads: bool = True,
) -> PsiResult:
    """Run both parties in this process, each in its own thread: a simulation, not a deployment.

    DEPARTS from the house rule that randomness is an argument: keys, blinds and shuffles come from
    the system's CSPRNG; a seeded one would be a hole, and no result depends on it.

    Raises
    ------
    PsiError
        The first party's reason.
    """
    transcript = Transcript()
    ends = MemoryChannel.pair()
    found: dict[str, Outcome] = {}
    failed: list[BaseException] = []

    def side(party: Party, peer: str, role: Role, channel: Channel, columns: Sequence[str]) -> None:
        try:
            found[role] = run_party(
                engine,
                channel,
                party=party,
                peer=peer,
                role=role,
                on=on,
                variant=variant,
                columns=columns,
                missing=missing,
                timeout_s=timeout_s,
                transcript=transcript,
                keep_payloads=keep_payloads,
            )
        except BaseException as error:
            failed.append(error)

    threads = [
        threading.Thread(target=side, args=(left, right.name, "initiator", ends[0], left_columns)),
        threading.Thread(target=side, args=(right, left.name, "responder", ends[1], right_columns)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise next((e for e in failed if not isinstance(e, PeerLost)), failed[0])
    a, b = found["initiator"], found["responder"]
    names = [on] if isinstance(on, str) else list(on)
    rows: list[np.ndarray | None] = []
    for party, outcome in ((left, a), (right, b)):
        if outcome.positions is None:
            rows.append(None)
        else:
            rows.append(party.key_set(names, missing=missing).rows_of(outcome.positions))  # type: ignore[arg-type]
    keys = None
    if rows[0] is not None:
        part = left.frame.iloc[rows[0]][names]
        keys = (
            frozenset(part[names[0]])
            if len(names) == 1
            else frozenset(part.itertuples(index=False, name=None))
        )
    return PsiResult(
        keys=keys, left=a, right=b, left_rows=rows[0], right_rows=rows[1], transcript=transcript
    )


@lru_cache(maxsize=1)
def pool() -> ThreadPoolExecutor:
    """One pool per process; the work in it runs outside Python's lock."""
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="psi")


def in_threads(
    work: Callable[[int, int], T], n: int, *, timer: object, step: int = 1024
) -> Iterator[tuple[int, int, T]]:
    """Yield (start, stop, work(start, stop)) over range(n) in steps, in order, from all cores."""

    def timed(bounds: tuple[int, int]) -> tuple[int, int, T, float]:
        before = time.thread_time()
        made = work(*bounds)
        return *bounds, made, time.thread_time() - before

    bounds = [(i, min(i + step, n)) for i in range(0, n, step)]
    for start, stop, made, cpu in pool().map(timed, bounds):
        timer.add_cpu(cpu)  # type: ignore[attr-defined]
        yield start, stop, made


def bytes_of(elements: Sequence[bytes], width: int) -> Bytes2D:
    """Equal-length byte strings as an array of shape (n, width)."""
    return np.frombuffer(b"".join(elements), dtype=np.uint8).reshape(len(elements), width)
