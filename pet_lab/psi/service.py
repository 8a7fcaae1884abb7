"""Data holders and linkers as processes that speak over mutual TLS.

Who speaks is what the certificate says: a data holder that serves compares it with the one peer it
waits for, a linker with its two parties, and the greeting must name the same two. A refusal is one
sentence; a traceback never leaves the process.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import msgspec

from pet_lab.parties import blocking
from pet_lab.parties.blocking import BlockingChannel, BlockingServer
from pet_lab.parties.certificates import Credentials
from pet_lab.parties.channel import Options
from pet_lab.parties.errors import PeerLost

from .linker import Linker, LinkerAnswer, Query
from .messages import NO_SESSION, SessionId
from .protocol import PsiOutcome, ensure, expect
from .session import PsiSession, refusing
from .tokens import TOKEN_WIDTH, TableHeader, TokenTable, unpack

log = logging.getLogger(__name__)
MAX_CALLS = 4


class StatusRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="status"):
    """Asks a linker whether both tables of a session are there."""

    session: SessionId


class Status(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="linked"):
    """A linker's answer to `StatusRequest`."""

    linked: bool


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="receipt"):
    """A linker's answer to an upload: linked pairs, or -1 while the other table is missing."""

    pairs: Annotated[int, msgspec.Meta(ge=-1)]


def serve(
    speak: Callable[[BlockingChannel], PsiOutcome],
    *,
    peer: str,
    credentials: Credentials,
    listen: str = "127.0.0.1:0",
    options: Options | None = None,
    wait_s: float = 600.0,
    started: Callable[[int], None] = lambda port: None,
) -> PsiOutcome:
    """Wait at most `wait_s` for the peer, hold one session by `speak`, return what was learned.

    `speak` is `run_party` with all its other arguments; `started` gets the port once this side
    listens. Whoever has no certificate in the name `peer` is turned away.

    Raises PartyError: the peer did not come, fell silent, died, or broke the protocol.
    """
    taken, begun = threading.Lock(), threading.Event()
    session: Future[PsiOutcome] = Future()

    def handle(channel: BlockingChannel) -> None:
        ensure(channel.peer == peer, "This party waits for another peer.")
        free = taken.acquire(blocking=False)
        ensure(free, "A session is already under way or over; start a new one.")
        begun.set()
        try:
            session.set_result(speak(channel))
        except BaseException as error:
            session.set_exception(error)  # the peer has been told by `speak`

    with _listen(listen, credentials, handle, options) as server:
        started(server.port)
        if not begun.wait(wait_s):
            raise PeerLost(
                peer, f"{peer} did not come within {wait_s:g} s; start both sides, or wait longer."
            )
        return session.result()  # every message has its own time limit


def connect(
    credentials: Credentials,
    peer: str,
    address: str,
    *,
    options: Options | None = None,
    wait_s: float = 0.0,
) -> BlockingChannel:
    """A channel to the party of that name that listens at "host:port", within `wait_s` seconds."""
    host, port = host_and_port(address)
    return blocking.connect(credentials, peer, host, port, wait_s=wait_s, options=options)


def _listen(
    address: str,
    credentials: Credentials,
    handle: Callable[[BlockingChannel], None],
    options: Options | None,
) -> BlockingServer:
    host, port = host_and_port(address)
    more: dict[str, Any] = {"options": options, "turned_away": log.warning}
    return blocking.serve(credentials, handle, host=host, port=port, **more)


def host_and_port(address: str) -> tuple[str, int]:
    """Both parts of "host:port"; PsiError if it is not written so."""
    host, _, port = address.rpartition(":")
    plain = host and all(c.isalnum() or c in ".-" for c in host)
    number = port.isascii() and port.isdigit() and int(port) < 1 << 16
    ensure(
        plain and number, f"An address is host:port, such as 10.0.0.2:7000, got {address[:80]!r}."
    )
    return host, int(port)


class LinkerServer:
    """A `Linker` behind mutual TLS: each connection is one upload, query or status request.

    A call takes at most `call_s` seconds from its first message to its answer, however it trickles
    in, and each party has at most 4 at a time, so neither keeps the other out.
    """

    max_rows, call_s = 10_000_000, 900.0

    def __init__(
        self,
        linker: Linker,
        credentials: Credentials,
        listen: str = "127.0.0.1:0",
        *,
        options: Options | None = None,
    ) -> None:
        self.linker = linker
        self._calls = {party: threading.BoundedSemaphore(MAX_CALLS) for party in linker.parties}
        self._uploading = {party: threading.Lock() for party in linker.parties}
        self._server = _listen(listen, credentials, self._handle, options)
        self.port, self.close = self._server.port, self._server.close

    def _handle(self, channel: BlockingChannel) -> None:
        sender = channel.peer
        self.linker.check_sender(sender)
        busy = f"{sender} has {MAX_CALLS} calls under way; end one first."
        with _taken(self._calls[sender], busy):
            in_time = threading.Timer(self.call_s, channel.close)  # then every read ends
            in_time.daemon = True
            in_time.start()
            try:
                self._answer(channel, sender)
            finally:
                in_time.cancel()

    def _answer(self, channel: BlockingChannel, sender: str) -> None:
        request = channel.receive(TableHeader | Query | StatusRequest)  # type: ignore[arg-type]
        if isinstance(request, Query):
            channel.send(self.linker.answer(request, sender))
        elif isinstance(request, StatusRequest):
            channel.send(Status(self.linker.is_linked(request.session)))
        else:
            with _taken(self._uploading[sender], f"An upload of {sender} is already under way."):
                table = self._receive(channel, request)
                channel.send(Receipt(self.linker.accept(table, sender)))

    def _receive(self, channel: BlockingChannel, header: TableHeader) -> TokenTable:
        most = f"This linker takes at most {self.max_rows} rows, got {header.rows}."
        ensure(header.rows <= self.max_rows, most)
        session = PsiSession(channel)
        labels = {
            name: session.receive("tokens", width=TOKEN_WIDTH, count=size)
            for name, size in header.columns.items()
        }
        rows = session.receive("tokens", width=header.width, count=header.rows)
        return unpack(header, labels, rows)


@contextlib.contextmanager
def _taken(lock: threading.Lock | threading.Semaphore, busy: str) -> Iterator[None]:
    ensure(lock.acquire(blocking=False), busy)
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class RemoteLinker:
    """A linker that listens at "host:port"; every request is a call of its own."""

    name: str
    address: str
    credentials: Credentials = field(repr=False)
    options: Options = field(default_factory=Options)

    @contextlib.contextmanager
    def _call(self, wait_s: float = 0.0) -> Iterator[BlockingChannel]:
        where = (self.credentials, self.name, self.address)
        channel = connect(*where, options=self.options, wait_s=wait_s)
        with refusing(channel):
            yield channel

    def send(self, table: TokenTable, *, wait_s: float = 60.0) -> tuple[int, int]:
        """Upload a table: linked pairs, or -1 while the other table is missing, and bytes sent."""
        with self._call(wait_s) as channel:
            session = PsiSession(channel)
            channel.send(table.header)
            for labels in table.labels.values():
                session.send("tokens", labels)
            session.send("tokens", table.pack())
            return channel.receive(Receipt).pairs, session.bytes_sent

    def check(self, *, wait_s: float = 0.0) -> None:
        """PartyError unless the linker is there, is who it should be, and serves this party."""
        with self._call(wait_s) as channel:
            channel.send(StatusRequest(NO_SESSION))
            channel.receive(Status)

    def ask(self, query: Query) -> LinkerAnswer:
        """The answer to a query, or PartyError: a refusal, or an answer to another query."""
        with self._call() as channel:
            channel.send(query)
            answer = channel.receive(LinkerAnswer)
            expect(answer.query == query, "The answer is to another query.")
            return answer

    def wait_until_linked(self, session: bytes, *, wait_s: float = 120.0) -> None:
        """Return once both tables of a session are at the linker; asks again until then."""
        deadline, pause = time.monotonic() + wait_s, 0.02
        patient = replace(self, options=replace(self.options, timeout_s=wait_s))
        while True:
            with patient._call() as channel:
                channel.send(StatusRequest(session))
                if channel.receive(Status).linked:
                    return
            if time.monotonic() > deadline:
                late = f"The other party's table did not reach {self.name} in {wait_s:g} s."
                raise PeerLost(self.name, late)
            time.sleep(pause)
            pause = min(2 * pause, 1.0)  # a new handshake each time
