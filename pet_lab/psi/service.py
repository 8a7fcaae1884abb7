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
from dataclasses import replace
from typing import Annotated

import msgspec

from pet_lab.parties import blocking
from pet_lab.parties.blocking import BlockingChannel
from pet_lab.parties.certificates import Credentials
from pet_lab.parties.channel import Options
from pet_lab.parties.errors import PartyError, PeerLost

from .linker import Linker, LinkerAnswer, Query
from .messages import SessionId
from .protocol import MessageError, PsiError, PsiOutcome
from .session import PsiSession
from .tokens import TOKEN_WIDTH, TableHeader, TokenTable, unpack

log = logging.getLogger(__name__)
MAX_CALLS = 4
Speak = Callable[[BlockingChannel], PsiOutcome]


class StatusRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="status"):
    """Asks a linker whether both tables of a session are there."""

    session: SessionId


class Status(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="linked"):
    """A linker's answer to `StatusRequest`."""

    linked: bool


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="receipt"):
    """A linker's answer to an upload: linked pairs, or -1 while the other table is missing."""

    pairs: Annotated[int, msgspec.Meta(ge=-1)]


# -- two data holders -----------------------------------------------------------------------------


def serve(
    speak: Speak,
    *,
    peer: str,
    credentials: Credentials,
    listen: str = "127.0.0.1:0",
    options: Options | None = None,
    wait_s: float = 600.0,
    started: Callable[[int], None] = lambda port: None,
) -> PsiOutcome:
    """Wait for the peer, hold one session, return what was learned.

    Parameters
    ----------
    speak : callable
        Holds the session over a channel: `run_party` with all its other arguments.
    peer : str
        The name in the peer's certificate; everyone else is turned away.
    options : Options
        Seconds to wait for a message, and an artificial delay.
    wait_s : float
        Seconds to wait for the session to begin.
    started : callable
        Gets the port once this side listens.

    Raises
    ------
    PartyError
        One sentence: the peer did not come, fell silent, died, or broke the protocol.
    """
    taken, begun, done = threading.Lock(), threading.Event(), threading.Event()
    results: list[PsiOutcome | BaseException] = []

    def handle(channel: BlockingChannel) -> None:
        if channel.peer != peer:
            raise PsiError("This party waits for another peer.")
        if not taken.acquire(blocking=False):
            raise PsiError("A session is already under way or over; start a new one.")
        begun.set()
        try:
            results.append(speak(channel))
        except BaseException as error:
            results.append(error)  # the peer has been told by `speak`
        finally:
            done.set()

    host, port = _host_and_port(listen)
    with blocking.serve(
        credentials, handle, host=host, port=port, options=options, turned_away=log.warning
    ) as server:
        started(server.port)
        if not begun.wait(wait_s):
            raise PeerLost(peer, f"{peer} did not come within {wait_s:g} s.")
        done.wait()  # every message has its own time limit
    result = results[0]
    if isinstance(result, BaseException):
        raise result
    return result


def join(
    speak: Speak,
    *,
    peer: str,
    credentials: Credentials,
    address: str,
    options: Options | None = None,
    wait_s: float = 60.0,
) -> PsiOutcome:
    """Connect to the peer that serves, hold one session, return the outcome; see `serve`."""
    return speak(_connect(credentials, peer, address, options=options, wait_s=wait_s))


def _connect(
    credentials: Credentials,
    peer: str,
    address: str,
    *,
    options: Options | None = None,
    wait_s: float = 0.0,
) -> BlockingChannel:
    host, port = _host_and_port(address)
    return blocking.connect(credentials, peer, host, port, wait_s=wait_s, options=options)


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    plain = all(c.isalnum() or c in ".-" for c in host)
    if not (host and plain and port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise PsiError(f"An address is host:port, got {address[:80]!r}.")
    return host, int(port)


# -- the linker -----------------------------------------------------------------------------------


class LinkerServer:
    """A `Linker` behind mutual TLS: each connection is one upload, query or status request.

    Parameters
    ----------
    max_rows : int
        Largest table.
    call_s : float
        Longest time of one call from its first message to its answer, however it trickles in; each
        party has at most 4 calls at a time, so neither keeps the other out.
    """

    def __init__(
        self,
        linker: Linker,
        credentials: Credentials,
        listen: str = "127.0.0.1:0",
        *,
        options: Options | None = None,
        max_rows: int = 10_000_000,
        call_s: float = 900.0,
    ) -> None:
        self.linker, self.max_rows, self.call_s = linker, max_rows, call_s
        self._calls = {party: threading.BoundedSemaphore(MAX_CALLS) for party in linker.parties}
        self._uploading = {party: threading.Lock() for party in linker.parties}
        host, port = _host_and_port(listen)
        self._server = blocking.serve(
            credentials,
            self._handle,
            host=host,
            port=port,
            options=options,
            turned_away=log.warning,
        )
        self.port = self._server.port

    def close(self) -> None:
        """Stop listening."""
        self._server.close()

    def _handle(self, channel: BlockingChannel) -> None:
        self.linker.check_sender(channel.peer)
        if not self._calls[channel.peer].acquire(blocking=False):
            raise PsiError(f"{channel.peer} has {MAX_CALLS} calls under way; end one first.")
        in_time = threading.Timer(self.call_s, channel.close)  # then every read ends
        in_time.daemon = True
        in_time.start()
        try:
            self._serve(channel)
        finally:
            in_time.cancel()
            self._calls[channel.peer].release()

    def _serve(self, channel: BlockingChannel) -> None:
        request = channel.receive(TableHeader | Query | StatusRequest)  # type: ignore[arg-type]
        if isinstance(request, TableHeader):
            with self._upload_of(channel.peer):
                table = self._receive(channel, request)
                channel.send(Receipt(self.linker.accept(table, channel.peer)))
        elif isinstance(request, Query):
            channel.send(self.linker.answer(request, channel.peer))
        else:
            channel.send(Status(self.linker.is_linked(request.session)))

    @contextlib.contextmanager
    def _upload_of(self, sender: str) -> Iterator[None]:
        if not self._uploading[sender].acquire(blocking=False):
            raise PsiError(f"An upload of {sender} is already under way.")
        try:
            yield
        finally:
            self._uploading[sender].release()

    def _receive(self, channel: BlockingChannel, header: TableHeader) -> TokenTable:
        if header.rows > self.max_rows:
            raise PsiError(f"This linker takes at most {self.max_rows} rows, got {header.rows}.")
        session = PsiSession(channel)
        labels = {
            name: session.receive("tokens", width=TOKEN_WIDTH, count=size)
            for name, size in header.columns.items()
        }
        rows = session.receive("tokens", width=header.width, count=header.rows)
        return unpack(header, labels, rows)


@contextlib.contextmanager
def _call(
    credentials: Credentials,
    linker: str,
    address: str,
    *,
    options: Options | None = None,
    wait_s: float = 0.0,
) -> Iterator[BlockingChannel]:
    """A channel to a linker for one request; what goes wrong here is told to it too."""
    with _connect(credentials, linker, address, options=options, wait_s=wait_s) as channel:
        try:
            yield channel
        except PeerLost:
            raise
        except PartyError as error:
            channel.refuse(error)
            raise


def send_table(
    table: TokenTable,
    *,
    linker: str,
    address: str,
    credentials: Credentials,
    options: Options | None = None,
    wait_s: float = 60.0,
) -> tuple[int, int]:
    """Upload a table to a linker.

    Returns
    -------
    (pairs, size) : linked pairs, or -1 while the other table is missing; bytes sent
    """
    with _call(credentials, linker, address, options=options, wait_s=wait_s) as channel:
        session = PsiSession(channel)
        channel.send(table.header())
        for labels in table.labels.values():
            session.send("tokens", labels)
        session.send("tokens", table.pack())
        return channel.receive(Receipt).pairs, session.bytes_sent


def ask(
    query: Query,
    *,
    linker: str,
    address: str,
    credentials: Credentials,
    options: Options | None = None,
) -> LinkerAnswer:
    """Send a query to a linker and read its answer.

    Raises
    ------
    PartyError
        Why the linker refuses, or that the answer is to another query.
    """
    with _call(credentials, linker, address, options=options) as channel:
        channel.send(query)
        answer = channel.receive(LinkerAnswer)
        if answer.query != query:
            raise MessageError("The answer is to another query.")
        return answer


def wait_until_linked(
    session: bytes,
    *,
    linker: str,
    address: str,
    credentials: Credentials,
    options: Options | None = None,
    wait_s: float = 120.0,
) -> None:
    """Return once both tables of a session are at the linker; asks again until then."""
    deadline, pause = time.monotonic() + wait_s, 0.02
    options = replace(options or Options(), timeout_s=wait_s)
    while True:
        with _call(credentials, linker, address, options=options) as channel:
            channel.send(StatusRequest(session))
            if channel.receive(Status).linked:
                return
        if time.monotonic() > deadline:
            raise PeerLost(
                linker, f"The other party's table did not reach {linker} in {wait_s:g} s."
            )
        time.sleep(pause)
        pause = min(2 * pause, 1.0)  # a new handshake each time
