"""Framed, typed, timed messages between two authenticated parties, on asyncio.

Every connection is TLS 1.3 with certificates on both sides; a name in a message is never believed,
the name in the certificate counts. A frame is its length (4 bytes, big endian), its form (1 byte)
and its payload: JSON of a `msgspec.Struct`, raw bytes, or a refusal. Whatever comes in has a
maximum length and a deadline, is decoded strictly into the type that the caller expects, and is
otherwise refused in one sentence. Raw bytes are sent without copying, in frames of bounded size;
a reader that falls behind stops the sender, so memory stays bounded too.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec

from .certificates import Credentials, client_context, identity, server_context
from .errors import PartyError, PeerLost, Refused

log = logging.getLogger(__name__)

TIMEOUT_S = 30.0
HANDSHAKE_S = 10.0
LINGER_S = 2.0
MAX_FRAME = 2 * 2**20
HEADER = struct.Struct(">IB")
JSON, BYTES, REFUSAL = 1, 2, 3
AHEAD = 4  # frames that are read before they are asked for
WINDOW = 128  # the same on a line with a delay, where frames are under way

T = TypeVar("T")
Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Sent:
    """One message, as pictures and tables of costs need it: never its content."""

    sender: str
    receiver: str
    kind: str
    size: int


class Refusal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an error crosses the wire: the name of its class, its sentence, who it is about."""

    error: Annotated[str, msgspec.Meta(max_length=64)]
    sentence: Annotated[str, msgspec.Meta(max_length=4000)]
    parties: Annotated[
        tuple[Annotated[str, msgspec.Meta(max_length=64)], ...], msgspec.Meta(max_length=64)
    ] = ()

    @classmethod
    def of(cls, error: PartyError) -> Refusal:
        """The refusal that tells of an error."""
        return cls(type(error).__name__, str(error)[:4000], error.parties[:64])

    def as_error(self) -> PartyError:
        """The error to raise here; only subclasses of PartyError can be named by a peer."""
        kind = PartyError.by_name.get(self.error, Refused)
        names = tuple(printable(name, 64) for name in self.parties)
        return kind.received(printable(self.sentence, 4000), names)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Limits of a channel.

    timeout_s  longest wait for a message, or for the peer to take one, unless the call says more
    delay_s    one-way delay added to every message that arrives here, to study slow networks
    max_frame  largest payload, in bytes, in either direction
    """

    timeout_s: float = TIMEOUT_S
    delay_s: float = 0.0
    max_frame: int = MAX_FRAME


class Channel:
    """One connection to one peer; see `connect`, `serve` and `memory_pair`.

    `party` speaks here, `peer` is at the other end according to its certificate; messages sent
    from here are noted in `record`.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        party: str,
        peer: str,
        options: Options,
        record: list[Sent] | None = None,
    ) -> None:
        self.party, self.peer, self.options = party, peer, options
        self.record: list[Sent] = [] if record is None else record
        self._reader, self._writer = reader, writer
        self._frames: asyncio.Queue[tuple[float, int, bytes] | PartyError] = asyncio.Queue(
            WINDOW if options.delay_s else AHEAD
        )
        self._ended: PartyError | None = None
        # Reads ahead, so that a refusal also reaches a party that is busy sending.
        self._pump = asyncio.create_task(self._read_ahead())

    # --- sending ------------------------------------------------------------------------------

    async def send(self, message: msgspec.Struct, *, kind: str = "") -> None:
        """Send a typed message; `kind` names it in the record (default: its tag or type).

        PeerLost if the peer is gone or takes nothing for `timeout_s`; its refusal, if it sent one.
        """
        name = kind or str(message.__struct_config__.tag or type(message).__name__.lower())
        await self._send(JSON, (msgspec.json.encode(message),), name)

    async def send_bytes(self, *parts: Buffer, kind: str = "bytes") -> None:
        """Send buffers as one frame of raw bytes, without joining them."""
        await self._send(BYTES, parts, kind)

    async def refuse(self, error: PartyError) -> None:
        """Tell the peer why nothing more will come, and give it a moment to read that."""
        with contextlib.suppress(PartyError, TimeoutError):
            await self._send(REFUSAL, (msgspec.json.encode(Refusal.of(error)),), "refusal")
            async with asyncio.timeout(LINGER_S):
                while not isinstance(await self._frames.get(), PartyError):
                    pass  # closing with unread input would destroy the refusal on its way

    async def _send(self, form: int, parts: tuple[Buffer, ...], kind: str) -> None:
        views = [memoryview(part).cast("B") for part in parts if len(part)]
        size = sum(view.nbytes for view in views)
        if size > self.options.max_frame:
            raise Refused(f"A message has at most {self.options.max_frame} bytes, got {size}.")
        if self._ended is not None:
            raise self._ended
        try:
            async with asyncio.timeout(self.options.timeout_s):
                self._writer.writelines([HEADER.pack(size, form), *views])
                await self._writer.drain()
        except TimeoutError:
            seconds = self.options.timeout_s
            raise PeerLost(self.peer, f"{self.peer} took nothing for {seconds:g} s.") from None
        except OSError:
            await asyncio.sleep(0)  # the pump knows better why
            raise self._ended or self._left() from None
        self.record.append(Sent(self.party, self.peer, kind, size + HEADER.size))

    # --- receiving ----------------------------------------------------------------------------

    async def receive(self, message_type: type[T], *, within: float | None = None) -> T:
        """The next message, decoded into a Struct (or a union of tagged ones).

        PeerLost if nothing came within the time limit or the peer is gone, Refused if it is no
        such message, or the PartyError that the peer sent instead.
        """
        payload = await self._next(JSON, within)
        try:
            decoded: T = _decoder(message_type).decode(payload)  # type: ignore[arg-type]
            json.loads(payload, object_pairs_hook=_once)  # msgspec takes the last of two
            return decoded
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            expected = getattr(message_type, "__name__", "message that is known here")
            reason = printable(str(error), 200).rstrip(".")
            raise Refused(f"{self.peer} sent something else than a {expected}: {reason}.") from None

    async def receive_bytes(self, *, within: float | None = None) -> bytes:
        """The next frame of raw bytes, at most `max_frame` of them."""
        return await self._next(BYTES, within)

    async def _next(self, form: int, within: float | None) -> bytes:
        seconds = self.options.timeout_s if within is None else within
        try:
            async with asyncio.timeout(seconds):
                frame = await self._frames.get()
                if not isinstance(frame, PartyError):
                    await asyncio.sleep(max(0.0, frame[0] - asyncio.get_running_loop().time()))
        except TimeoutError:
            raise PeerLost(self.peer, f"{self.peer} sent nothing for {seconds:g} s.") from None
        if isinstance(frame, PartyError):
            self._frames.put_nowait(frame)  # for whoever asks again
            raise frame
        if frame[1] != form:
            names = {JSON: "a typed message", BYTES: "raw bytes"}
            raise Refused(
                f"{self.peer} sent {names.get(frame[1], 'an unknown form')} "
                f"where {names[form]} was expected."
            )
        return frame[2]

    async def _read_ahead(self) -> None:
        try:
            while True:
                size, form = HEADER.unpack(await self._reader.readexactly(HEADER.size))
                if size > self.options.max_frame:
                    raise Refused(
                        f"A message has at most {self.options.max_frame} bytes, "
                        f"{self.peer} announced {size}."
                    )
                payload = await self._reader.readexactly(size)
                if form == REFUSAL:
                    raise _decoder(Refusal).decode(payload).as_error()
                due = asyncio.get_running_loop().time() + self.options.delay_s
                await self._frames.put((due, form, payload))
        except PartyError as error:
            self._ended = error
        except (msgspec.MsgspecError, UnicodeDecodeError):  # of a refusal
            self._ended = Refused(f"{self.peer} refused, in words that cannot be read.")
        except ssl.SSLError as error:  # in TLS 1.3 a client learns late that it is not accepted
            self._ended = Refused(f"{self.peer} turned us away: {_alert(error)}.")
        except (OSError, asyncio.IncompleteReadError):
            self._ended = self._left()
        await self._frames.put(self._ended)

    def _left(self) -> PeerLost:
        return PeerLost(self.peer, f"{self.peer} left before the end.")

    async def close(self) -> None:
        """Send what is still buffered, then close; safe to call twice."""
        transport = self._writer.transport
        if not transport.is_closing():  # of TLS that was closed twice asyncio keeps no limits
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(min(self.options.timeout_s, HANDSHAKE_S)):
                    transport.set_write_buffer_limits(high=1)  # then drain waits for everything
                    await self._writer.drain()
        self._pump.cancel()
        self._ended = self._ended or PeerLost(self.peer, "The channel was closed on this side.")
        with contextlib.suppress(asyncio.QueueFull):  # whoever still waits for a message is told
            self._frames.put_nowait(self._ended)
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(LINGER_S):
                self._writer.close()
                await self._writer.wait_closed()
        transport.abort()

    async def __aenter__(self) -> Channel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


@functools.lru_cache(maxsize=256)
def _decoder(message_type: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(message_type)


def _once(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a field is there twice")


def printable(text: str, limit: int) -> str:
    """Foreign text that may be shown: printable signs only, not too many."""
    return "".join(c for c in text[:limit] if c.isprintable())


def _alert(error: ssl.SSLError) -> str:
    return (error.reason or "the TLS handshake failed").replace("_", " ").lower()


# --- connecting and listening ---------------------------------------------------------------------


async def connect(
    credentials: Credentials,
    peer: str,
    host: str,
    port: int,
    *,
    wait_s: float = 0.0,
    options: Options | None = None,
    record: list[Sent] | None = None,
    context: ssl.SSLContext | None = None,
) -> Channel:
    """Open a channel to a party that listens, and whose certificate carries the name `peer`.

    Tries again for `wait_s` while nobody listens there; `context` is `client_context(credentials)`,
    for callers that connect often. PeerLost if nobody answers, or not in time; Refused if one side
    does not accept the other's certificate.
    """
    options, loop = options or Options(), asyncio.get_running_loop()
    context = context or client_context(credentials)
    give_up = loop.time() + wait_s
    while True:
        try:
            async with asyncio.timeout(min(options.timeout_s, HANDSHAKE_S)):
                reader, writer = await asyncio.open_connection(
                    host, port, ssl=context, server_hostname=peer, limit=2**18
                )
            if identity(writer.get_extra_info("peercert")) != peer:  # not only a match, as of "*.x"
                raise Refused(
                    f"The certificate at {host}:{port} is not that of {peer}; check the address."
                )
            break
        except ssl.SSLCertVerificationError as error:
            raise Refused(
                f"The certificate of {peer} is not accepted: {error.verify_message}."
            ) from None
        except ssl.SSLError as error:
            raise Refused(f"{peer} turned us away: {_alert(error)}.") from None
        except TimeoutError:
            raise PeerLost(
                peer, f"{peer} at {host}:{port} did not answer in time; ask who runs it."
            ) from None
        except (OSError, OverflowError):
            if loop.time() >= give_up:
                raise PeerLost(
                    peer,
                    f"{peer} cannot be reached: nobody answers at {host}:{port}; start it, or "
                    "check the address.",
                ) from None
            await asyncio.sleep(0.05)
    await asyncio.sleep(4 * options.delay_s)  # handshakes of TCP and TLS 1.3: two round trips
    return Channel(
        reader, writer, party=credentials.name, peer=peer, options=options, record=record
    )


@dataclass
class ChannelServer:
    """A party that listens at `port` until it is closed."""

    port: int
    _server: asyncio.Server
    _tasks: set[asyncio.Task[Any]]

    async def close(self) -> None:
        """Stop listening and end the calls that are under way."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def serve(
    credentials: Credentials,
    handle: Callable[[Channel], Awaitable[None]],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    options: Options | None = None,
    record: list[Sent] | None = None,
    turned_away: Callable[[str], None] = lambda sentence: None,
    at_most: int = 64,
) -> ChannelServer:
    """Listen, and call `handle` with a channel to each peer whose certificate is accepted.

    A PartyError from `handle` is sent to the peer, of any other error only that there was one.
    `turned_away` gets one sentence for each peer whose certificate is not accepted. Of `at_most`
    connections at one time the oldest that has shown no certificate makes room for another; with
    calls on all of them the other is closed at once.
    """
    options, context = options or Options(), server_context(credentials)
    tasks: set[asyncio.Task[Any]] = set()
    unproven: dict[asyncio.StreamWriter, asyncio.Task[Any]] = {}

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(tasks) >= at_most:
            oldest = next(iter(unproven), writer)
            oldest.transport.abort()
            if oldest is writer:
                return
            unproven.pop(oldest).cancel()
        unproven[writer] = task = asyncio.create_task(one(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:  # TLS here and not in the server, so that a failure comes to our knowledge
            async with asyncio.timeout(HANDSHAKE_S):
                await writer.start_tls(context)
            peer = identity(writer.get_extra_info("peercert"))
        except (OSError, TimeoutError, Refused) as error:
            if isinstance(error, ssl.SSLError):
                reason = getattr(error, "verify_message", "") or _alert(error)
                turned_away(f"A certificate was not accepted: {reason}.")
            elif isinstance(error, Refused):
                turned_away(str(error))
            writer.transport.abort()
            return
        finally:
            unproven.pop(writer, None)
        channel = Channel(
            reader, writer, party=credentials.name, peer=peer, options=options, record=record
        )
        try:
            await handle(channel)
        except PartyError as error:
            log.info("refused %s: %s", peer, error)
            await channel.refuse(error)
        except Exception:
            log.exception("internal error in a call of %s", peer)
            await channel.refuse(Refused("An internal error ended the call."))
        finally:
            await channel.close()

    try:
        server = await asyncio.start_server(accept, host, port, limit=2**18)
    except OSError as error:  # the port is in use or not ours, the host is not this machine
        number = error.errno or 0
        reason = os.strerror(number) if number > 0 else error.strerror  # < 0: no such host
        raise PartyError(
            f"{host}:{port} cannot be listened at ({reason}); choose a port that is free, or 0, "
            "at an address of this machine."
        ) from None
    return ChannelServer(server.sockets[0].getsockname()[1], server, tasks)


async def memory_pair(
    first: str, second: str, *, options: Options | None = None
) -> tuple[Channel, Channel]:
    """Two ends of one channel inside a process, without TLS: for tests and single-process runs."""
    ends = []
    for end, party, peer in zip(socket.socketpair(), (first, second), (second, first), strict=True):
        reader, writer = await asyncio.open_connection(sock=end, limit=2**18)
        ends.append(Channel(reader, writer, party=party, peer=peer, options=options or Options()))
    return ends[0], ends[1]
