"""Parties and linkers as processes that speak Arrow Flight over mutual TLS.

Who speaks is what the certificate says: the server compares the client's identity with the one peer
it waits for, the client checks the server's certificate against the name of that peer, and the
greeting must name the same two. Refusals are one sentence; a traceback never leaves the process.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import pyarrow as pa
from pyarrow import flight

from . import tokens
from .certificates import Credentials
from .linker import Answer, Linker, Query, decode_answer, decode_query
from .messages import strict_json
from .protocol import MessageError, Outcome, Party, PeerLost, PsiEngine, PsiError, Variant
from .session import Channel, Session, run_party
from .tokens import TOKEN_WIDTH, TokenTable

log = logging.getLogger(__name__)
SESSION, TABLE = b"pet_lab session 1", b"pet_lab table 1"
QUERY, STATUS = "pet_lab query 1", "pet_lab status 1"
_DETAIL = re.compile(r"(\.\. |\. )?(Detail|gRPC client debug context): .*", re.DOTALL)


class _ServerChannel:
    """The responder's end of an exchange. Reading cannot be interrupted, so silence is watched."""

    def __init__(self, reader: Any, writer: Any) -> None:
        self._reader, self._writer = reader, writer
        self.waiting_since: float | None = None

    def send(self, raw: bytes) -> None:
        try:
            self._writer.write_metadata(raw)
        except (flight.FlightError, OSError, ValueError):
            raise PeerLost("The other party left the session before it was over.") from None

    def receive(self, timeout_s: float) -> bytes:
        self.waiting_since = time.monotonic()
        try:
            chunk = self._reader.read_chunk()
        except (StopIteration, flight.FlightError, OSError, ValueError):
            raise PeerLost("The other party left the session before it was over.") from None
        finally:
            self.waiting_since = None
        return _payload(chunk)

    def close(self) -> None:
        return None


class _ClientChannel:
    """The initiator's end of an exchange."""

    def __init__(self, reader: Any, writer: Any, peer: str) -> None:
        self._reader, self._writer, self._peer = reader, writer, peer

    def send(self, raw: bytes) -> None:
        try:
            self._writer.write_metadata(raw)
        except (flight.FlightError, OSError, ValueError) as error:
            self._raise(error)

    def receive(self, timeout_s: float) -> bytes:
        silent = threading.Event()

        def give_up() -> None:
            silent.set()
            self._reader.cancel()

        timer = threading.Timer(timeout_s, give_up)
        timer.daemon = True
        timer.start()
        try:
            return _payload(self._reader.read_chunk())
        except (StopIteration, flight.FlightError, OSError, ValueError) as error:
            if silent.is_set():
                raise PeerLost(f"{self._peer} sent nothing for {timeout_s:g} s.") from None
            self._raise(error)
        finally:
            timer.cancel()

    def _raise(self, error: BaseException) -> NoReturn:
        # The server's own sentence, if it sent one, is at the end of the stream.
        raise _as_refusal(error, self._peer, "") from None

    def close(self) -> None:
        # Say that nothing more follows, then wait for the server to have read everything.
        with contextlib.suppress(StopIteration, flight.FlightError, OSError, ValueError):
            self._writer.done_writing()
            timer = threading.Timer(30, self._reader.cancel)
            timer.daemon = True
            timer.start()
            try:
                while True:
                    self._reader.read_chunk()
            finally:
                timer.cancel()


def _payload(chunk: Any) -> bytes:
    if chunk.data is not None or chunk.app_metadata is None:
        raise MessageError("Messages travel as metadata here; a record batch came.")
    raw: bytes = chunk.app_metadata.to_pybytes()
    return raw


def _as_refusal(error: BaseException, peer: str, address: str) -> PsiError:
    """What a failed call says, in one sentence of ours."""
    where = f"{peer} at {address}" if address else peer
    if isinstance(error, flight.FlightUnavailableError):
        return PeerLost(
            f"No secure connection to {where}: nobody answers, or one of the certificates is "
            "expired, of another authority or for another name."
        )
    if isinstance(error, flight.FlightTimedOutError):
        return PeerLost(f"{where} did not answer in time.")
    if isinstance(error, flight.FlightServerError | flight.FlightUnauthorizedError):
        said = _DETAIL.sub("", str(error)).strip()
        said = "".join(c for c in said if c.isprintable())[:400].rstrip(".")
        return PsiError(f"{peer} refuses: {said}.")
    return PeerLost(f"{where} left before the end.")


class _Refusing(flight.FlightServerBase):
    """Refuses every call in one sentence, without the traceback that Flight would send."""

    def __init__(self, credentials: Credentials, listen: str) -> None:
        super().__init__(
            f"grpc+tls://{listen}",
            tls_certificates=[(credentials.certificate, credentials.key)],
            verify_client=True,
            root_certificates=credentials.ca,
        )

    def _no(self) -> NoReturn:
        raise flight.FlightServerError("This service has no such call.")

    def list_flights(self, context: Any, criteria: Any) -> NoReturn:
        self._no()

    def get_flight_info(self, context: Any, descriptor: Any) -> NoReturn:
        self._no()

    def get_schema(self, context: Any, descriptor: Any) -> Any:
        # Flight sends the traceback of whatever this call raises, so it answers with nothing.
        return flight.SchemaResult(pa.schema([]))

    def do_get(self, context: Any, ticket: Any) -> NoReturn:
        self._no()

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> NoReturn:
        self._no()

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        self._no()

    def do_action(self, context: Any, action: Any) -> Iterator[Any]:
        self._no()

    def list_actions(self, context: Any) -> NoReturn:
        self._no()

    def stop(self) -> None:
        """Stop without waiting for calls that hang."""
        threading.Thread(target=self.shutdown, daemon=True).start()


@contextlib.contextmanager
def _one_sentence() -> Iterator[None]:
    """Turn whatever goes wrong in a call into what the peer may see."""
    try:
        yield
    except flight.FlightError:
        raise
    except PsiError as error:
        log.warning("refused: %s", error)
        raise flight.FlightServerError(str(error)) from None
    except Exception:
        log.exception("internal error")
        raise flight.FlightServerError("An internal error ended the call.") from None


def _identity(context: Any) -> str:
    return str(context.peer_identity().decode("ascii", "replace"))


class PartyServer(_Refusing):
    """Holds one session with one peer, then is done."""

    def __init__(
        self, credentials: Credentials, listen: str, peer: str, run: Callable[[Channel], Outcome]
    ):
        super().__init__(credentials, listen)
        self._peer, self._run = peer, run
        self._lock = threading.Lock()
        self._taken = False
        self.channel: _ServerChannel | None = None
        self.done = threading.Event()
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        with _one_sentence():
            caller = _identity(context)
            if caller != self._peer:
                raise PsiError("This party waits for another peer.")
            if descriptor.command != SESSION:
                raise PsiError("This service has no such call.")
            with self._lock:
                if self._taken:
                    raise PsiError("A session is already under way or over; start a new one.")
                self._taken = True
            self.channel = _ServerChannel(reader, writer)
            try:
                self.outcome = self._run(self.channel)
            except BaseException as error:
                self.error = error
                raise
            finally:
                self.done.set()


def serve(
    party: Party,
    *,
    peer: str,
    engine: PsiEngine,
    credentials: Credentials,
    on: str | Sequence[str],
    listen: str = "127.0.0.1:0",
    variant: Variant = "psi",
    columns: Sequence[str] = (),
    missing: str = "refuse",
    timeout_s: float = 120.0,
    wait_s: float = 600.0,
    started: Callable[[int], None] | None = None,
) -> Outcome:
    """Wait for the peer, hold one session as the responder, return what was learned.

    Parameters
    ----------
    timeout_s : longest silence of the peer within the session
    wait_s : longest wait for the session to begin
    started : called with the port once the server listens

    Raises
    ------
    PsiError
        One sentence: the peer did not come, fell silent, died, or broke the protocol.
    """
    _check_name(party, credentials)

    def run(channel: Channel) -> Outcome:
        return run_party(
            engine,
            channel,
            party=party,
            peer=peer,
            role="responder",
            on=on,
            variant=variant,
            columns=columns,
            missing=missing,
            timeout_s=timeout_s,
        )

    server = PartyServer(credentials, listen, peer, run)
    try:
        if started is not None:
            started(server.port)
        begun = time.monotonic()
        while not server.done.wait(0.05):
            now = time.monotonic()
            if server.channel is None:
                if now - begun > wait_s:
                    raise PeerLost(f"{peer} did not come within {wait_s:g} s.")
                continue
            since = server.channel.waiting_since
            if since is not None and now - since > timeout_s:
                raise PeerLost(f"{peer} sent nothing for {timeout_s:g} s.")
    finally:
        server.stop()
    if server.error is not None:
        raise server.error
    assert server.outcome is not None
    return server.outcome


def join(
    party: Party,
    *,
    peer: str,
    engine: PsiEngine,
    credentials: Credentials,
    address: str,
    on: str | Sequence[str],
    variant: Variant = "psi",
    columns: Sequence[str] = (),
    missing: str = "refuse",
    timeout_s: float = 120.0,
    wait_s: float = 60.0,
) -> Outcome:
    """Connect to the peer that serves, hold one session as the initiator, return the outcome."""
    _check_name(party, credentials)
    with _connect(credentials, peer, address) as client:
        channel = _open(client, SESSION, peer, address, wait_s)
        return run_party(
            engine,
            channel,
            party=party,
            peer=peer,
            role="initiator",
            on=on,
            variant=variant,
            columns=columns,
            missing=missing,
            timeout_s=timeout_s,
        )


def _check_name(party: Party, credentials: Credentials) -> None:
    if party.name != credentials.name:
        raise PsiError(f"The certificate is for {credentials.name}, the party is {party.name}.")


def _connect(credentials: Credentials, peer: str, address: str) -> Any:
    if not re.fullmatch(r"[A-Za-z0-9.-]+:\d{1,5}", address):
        raise PsiError(f"An address is host:port, got {address[:80]!r}.")
    return flight.FlightClient(
        f"grpc+tls://{address}",
        tls_root_certs=credentials.ca,
        cert_chain=credentials.certificate,
        private_key=credentials.key,
        override_hostname=peer,
    )


def _open(client: Any, command: bytes, peer: str, address: str, wait_s: float) -> _ClientChannel:
    """Open an exchange; tries again while the server is not there yet."""
    host, port = address.rsplit(":", 1)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=2).close()
            break
        except (OSError, OverflowError):
            if time.monotonic() > deadline:
                raise PeerLost(f"Nobody answers at {address}, where {peer} should be.") from None
            time.sleep(0.05)
    try:
        writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(command))
    except flight.FlightError as error:
        raise _as_refusal(error, peer, address) from None
    return _ClientChannel(reader, writer, peer)


# -- the linker -----------------------------------------------------------------------------------


class LinkerServer(_Refusing):
    """A `Linker` behind mutual TLS: tables by exchange, queries by action."""

    def __init__(
        self,
        linker: Linker,
        credentials: Credentials,
        listen: str = "127.0.0.1:0",
        *,
        timeout_s: float = 120.0,
        max_rows: int = 10_000_000,
    ) -> None:
        super().__init__(credentials, listen)
        self.linker, self._name = linker, credentials.name
        self._timeout_s, self._max_rows = timeout_s, max_rows
        self._busy: dict[str, threading.Lock] = {p: threading.Lock() for p in linker.parties}

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        with _one_sentence():
            sender = _identity(context)
            self.linker.check_sender(sender)
            if descriptor.command != TABLE:
                raise PsiError("This service has no such call.")
            if not self._busy[sender].acquire(blocking=False):
                raise PsiError(f"An upload of {sender} is already under way.")
            try:
                line = _line(_ServerChannel(reader, writer), self._name, sender, self._timeout_s)
                table = self._receive(line)
                pairs = self.linker.accept(table, sender)
                line.send_frame("answer", json.dumps({"pairs": pairs}).encode(), 1)
            finally:
                self._busy[sender].release()

    def _receive(self, line: Session) -> TokenTable:
        header = tokens.decode_header(line.receive_frame("tokens").payload)
        if header.rows > self._max_rows:
            raise PsiError(f"This linker takes at most {self._max_rows} rows, got {header.rows}.")
        labels = {
            name: line.receive("tokens", width=TOKEN_WIDTH, count=size)
            for name, size in header.columns.items()
        }
        return tokens.unpack(
            header, labels, line.receive("tokens", width=header.width, count=header.rows)
        )

    def do_action(self, context: Any, action: Any) -> Iterator[Any]:
        with _one_sentence():
            sender = _identity(context)
            self.linker.check_sender(sender)
            body = action.body.to_pybytes()
            if action.type == QUERY:
                answer = self.linker.answer(decode_query(body), sender).encode()
            elif action.type == STATUS and len(body) == 16:
                answer = json.dumps({"linked": self.linker.is_linked(body)}).encode()
            else:
                raise PsiError("This service has no such call.")
        return iter([flight.Result(answer)])


def _line(channel: Channel, me: str, peer: str, timeout_s: float) -> Session:
    return Session(
        channel, party=me, peer=peer, role="responder", variant="analytics", timeout_s=timeout_s
    )


def send_table(
    table: TokenTable,
    *,
    linker: str,
    address: str,
    credentials: Credentials,
    timeout_s: float = 120.0,
    wait_s: float = 60.0,
) -> tuple[int, int]:
    """Upload a table to a linker.

    Returns
    -------
    (pairs, size) : linked pairs, or -1 while the other table is missing; bytes sent
    """
    with _connect(credentials, linker, address) as client:
        channel = _open(client, TABLE, linker, address, wait_s)
        line = _line(channel, credentials.name, linker, timeout_s)
        try:
            line.send_frame("tokens", table.header(), 1)
            for labels in table.labels.values():
                line.send("tokens", labels)
            line.send("tokens", table.pack())
            receipt = strict_json(line.receive_frame("answer").payload, limit=200, what="receipt")
        finally:
            channel.close()
    pairs = receipt.get("pairs")
    if set(receipt) != {"pairs"} or type(pairs) is not int:
        raise MessageError("A receipt holds the number of pairs.")
    return pairs, line.bytes_sent


def ask(
    query: Query, *, linker: str, address: str, credentials: Credentials, timeout_s: float = 120.0
) -> Answer:
    """Send a query to a linker and read its answer."""
    with _connect(credentials, linker, address) as client:
        raw = _act(
            client, QUERY, query.encode(), linker=linker, address=address, timeout_s=timeout_s
        )
    answer = decode_answer(raw)
    if answer.query != query:
        raise MessageError("The answer is to another query.")
    return answer


def wait_until_linked(
    session: bytes, *, linker: str, address: str, credentials: Credentials, wait_s: float = 120.0
) -> None:
    """Return once both tables of a session are at the linker."""
    deadline = time.monotonic() + wait_s
    with _connect(credentials, linker, address) as client:
        while True:
            raw = _act(client, STATUS, session, linker=linker, address=address, timeout_s=wait_s)
            if strict_json(raw, limit=200, what="status") == {"linked": True}:
                return
            if time.monotonic() > deadline:
                raise PeerLost(f"The other party's table did not reach {linker} in {wait_s:g} s.")
            time.sleep(0.05)


def _act(
    client: Any, kind: str, body: bytes, *, linker: str, address: str, timeout_s: float
) -> bytes:
    options = flight.FlightCallOptions(timeout=timeout_s)
    try:
        results = list(client.do_action(flight.Action(kind, body), options))
    except (flight.FlightError, OSError, ValueError) as error:
        raise _as_refusal(error, linker, address) from None
    if len(results) != 1:
        raise MessageError("A call has one answer.")
    raw: bytes = results[0].body.to_pybytes()
    return raw
