"""Mutual TLS between parties: who is at the other end is what their certificate says.

Every connection is TLS 1.3, and both ends show a certificate of the service's authority. A name in
a message is never believed: the name in the certificate counts, and a party that was revoked or
excluded is turned away at the door. Control messages are JSON, framed by their length; shares
between processing parties go through mpyc's own messages on a second port, inside the same TLS.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .errors import Cheating, MpcError, PartyLost, Refused, TaskError

MAX_FRAME = 256 * 2**20
TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Member:
    """A party of the service, as every other party knows it.

    public      Ed25519 key in hex, for approvals, results and logs
    port        control messages
    data_port   shares, for processing parties
    """

    name: str
    host: str
    port: int
    data_port: int
    public: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Sent:
    """One message, as the pictures and the cost tables need it: never its content."""

    sender: str
    receiver: str
    kind: str
    size: int


@dataclass
class Doors:
    """TLS contexts of one party, and who may come in."""

    name: str
    folder: Path
    barred: set[str] = field(default_factory=set)

    def server(self) -> ssl.SSLContext:
        return self._context(ssl.PROTOCOL_TLS_SERVER)

    def client(self) -> ssl.SSLContext:
        return self._context(ssl.PROTOCOL_TLS_CLIENT)

    def _context(self, protocol: int) -> ssl.SSLContext:
        made = ssl.SSLContext(protocol)
        made.minimum_version = ssl.TLSVersion.TLSv1_3
        made.verify_mode = ssl.CERT_REQUIRED
        made.load_verify_locations(self.folder / "ca.pem")
        made.load_cert_chain(self.folder / "cert.pem", self.folder / "key.pem")
        return made

    def who(self, certificate: Mapping[str, Any] | None) -> str:
        """The identity of a peer.

        Raises
        ------
        Refused
            If the certificate names none or several, or one that is barred.
        """
        subject = (certificate or {}).get("subjectAltName", ())
        dns = [v for kind, v in subject if kind == "DNS"]
        if len(dns) != 1:
            raise Refused("The certificate does not name exactly one party.")
        if dns[0] in self.barred:
            raise Refused(f"{dns[0]} is revoked or excluded.")
        return str(dns[0])


# --- control messages --------------------------------------------------------------------------


async def read_frame(reader: asyncio.StreamReader) -> tuple[dict[str, Any], int]:
    size = int.from_bytes(await reader.readexactly(4), "big")
    if size > MAX_FRAME:
        raise MpcError(f"A message of {size} bytes is larger than {MAX_FRAME}.")
    made = json.loads(await reader.readexactly(size))
    if not isinstance(made, dict):
        raise MpcError("A message is a JSON object.")
    return made, size + 4


def write_frame(writer: asyncio.StreamWriter, message: Mapping[str, Any]) -> int:
    raw = json.dumps(message).encode()
    if len(raw) > MAX_FRAME:
        raise MpcError(f"A message of {len(raw)} bytes is larger than {MAX_FRAME}.")
    writer.write(len(raw).to_bytes(4, "big") + raw)
    return len(raw) + 4


def to_text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def from_text(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


_ERRORS = {"Refused": Refused, "TaskError": TaskError, "MpcError": MpcError}


def error_json(error: MpcError) -> dict[str, Any]:
    made: dict[str, Any] = {"error": str(error), "kind": type(error).__name__}
    if isinstance(error, Cheating):
        made["suspects"] = list(error.suspects)
    if isinstance(error, PartyLost):
        made["party"] = error.party
    return made


def raise_json(answer: Mapping[str, Any]) -> None:
    """Raise what the other side could not do, here."""
    if "error" not in answer:
        return
    text, kind = str(answer["error"]), answer.get("kind")
    if kind == "Cheating":
        raise Cheating(text, tuple(answer.get("suspects", ())))
    if kind == "PartyLost":
        raise PartyLost(str(answer.get("party", "")), text)
    raise _ERRORS.get(str(kind), MpcError)(text)


async def ask(
    doors: Doors,
    member: Member,
    message: Mapping[str, Any],
    sent: list[Sent],
    *,
    timeout_s: float = TIMEOUT_S,
) -> dict[str, Any]:
    """Send one request to a member and return its answer.

    Raises
    ------
    PartyLost
        If the party cannot be reached or goes away; Refused if one will not talk to the other.
    """
    if member.name in doors.barred:
        raise Refused(f"{member.name} is revoked or excluded.")
    kind, connected = str(message.get("do")), False
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(
                member.host, member.port, ssl=doors.client(), server_hostname=member.name
            )
            connected = True
            try:
                doors.who(writer.get_extra_info("peercert"))
                sent.append(Sent(doors.name, member.name, kind, write_frame(writer, message)))
                await writer.drain()
                answer, size = await read_frame(reader)
                sent.append(Sent(member.name, doors.name, kind, size))
            finally:
                writer.close()
    except ssl.SSLCertVerificationError as error:
        raise Refused(
            f"The certificate of {member.name} is not accepted: {error.verify_message}."
        ) from None
    except ssl.SSLError as error:
        raise Refused(f"{member.name} turned us away: {_alert(error)}.") from None
    except TimeoutError:
        raise PartyLost(member.name, f"{member.name} did not answer in {timeout_s:g} s.") from None
    except (OSError, asyncio.IncompleteReadError):
        if connected:  # in TLS 1.3 a client learns late that its certificate was not accepted
            said = "closed the connection: it went away, or does not accept our certificate"
        else:
            said = "cannot be reached; nothing was computed"
        raise PartyLost(member.name, f"{member.name} {said}.") from None
    raise_json(answer)
    return answer


def _alert(error: ssl.SSLError) -> str:
    return (error.reason or "the TLS handshake failed").replace("_", " ").lower()


async def serve(
    doors: Doors,
    host: str,
    answer: Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]],
    turned_away: Callable[[str], None],
) -> asyncio.Server:
    """Answer control messages; `answer` gets the certified name of the sender."""

    context = doors.server()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:  # TLS first and here, not by the server, so that a failure comes to our knowledge
            await writer.start_tls(context)
        except ssl.SSLCertVerificationError as error:
            turned_away(f"A certificate was not accepted: {error.verify_message}.")
            return writer.close()
        except OSError:
            return writer.close()
        try:
            try:
                who = doors.who(writer.get_extra_info("peercert"))
                message, _ = await read_frame(reader)
                made = await answer(who, message)
            except MpcError as error:
                if isinstance(error, Refused) and "revoked or excluded" in str(error):
                    turned_away(str(error))
                made = error_json(error)
            except (ValueError, KeyError, TypeError):
                made = error_json(MpcError("The message was not understood."))
            write_frame(writer, made)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the other side went away; whoever waits for it will notice
        finally:
            writer.close()

    return await asyncio.start_server(one, host, 0)


# --- shares between processing parties ---------------------------------------------------------


class Mesh:
    """mpyc among the processing parties of one task, over connections that we authenticate.

    mpyc's own TLS reads certificates from fixed file names and believes the seat that a peer
    claims; here the certificate decides about the seat. A lost connection or an unreadable message
    is reported in `trouble`, where mpyc would wait for ever or stop the process's event loop.
    """

    def __init__(
        self, doors: Doors, seats: Sequence[Member], threshold: int, door: socket.socket
    ) -> None:
        self.doors, self.seats, self.door = doors, list(seats), door
        self.me = [m.name for m in seats].index(doors.name)
        self.trouble: asyncio.Future[MpcError] = asyncio.get_running_loop().create_future()
        self.runtime = _runtime(self.me, self.seats, threshold)
        self.runtime.pet_lab_mesh = self
        self._links: list[Any] = []
        self._closing = False

    async def connect(self, timeout_s: float = TIMEOUT_S) -> None:
        """Connect to every other seat.

        Raises
        ------
        PartyLost
            Naming a seat that did not come.
        """
        rt, loop = self.runtime, asyncio.get_running_loop()
        for party in rt.parties:
            party.protocol = loop.create_future() if party.pid == self.me else None
        factory = _link_class()
        server = None
        try:
            async with asyncio.timeout(timeout_s):
                if self.me:
                    server = await loop.create_server(
                        lambda: factory(self, None), sock=self.door.dup(), ssl=self.doors.server()
                    )
                for seat in range(self.me + 1, len(self.seats)):
                    await self._reach(seat, factory)
                await rt.parties[self.me].protocol
        except TimeoutError:
            absent = [
                self.seats[q.pid].name
                for q in rt.parties
                if q.pid != self.me and q.protocol is None
            ]
            who = absent[0] if absent else "a party"
            raise PartyLost(who, f"{who} did not come to the computation.") from None
        finally:
            if server is not None:
                server.close()

    async def _reach(self, seat: int, factory: Any) -> None:
        member = self.seats[seat]
        while True:
            try:
                await asyncio.get_running_loop().create_connection(
                    lambda: factory(self, seat),
                    member.host,
                    member.data_port,
                    ssl=self.doors.client(),
                    server_hostname=member.name,
                )
                return
            except ssl.SSLError as error:
                raise Refused(f"{member.name} turned us away: {_alert(error)}.") from None
            except OSError:
                await asyncio.sleep(0.02)  # it may still be starting

    @property
    def bytes_sent(self) -> int:
        return sum(link.nbytes_sent for link in self._links)

    def fail(self, error: MpcError) -> None:
        if not self._closing and not self.trouble.done():
            self.trouble.set_result(error)

    def close(self) -> None:
        self._closing = True
        for link in self._links:
            if link.transport is not None:
                link.transport.close()


def _runtime(me: int, seats: Sequence[Member], threshold: int) -> Any:
    """A new mpyc runtime, made the one of this process."""
    import logging
    import sys

    argv, sys.argv = sys.argv, ["pet-lab"]  # mpyc reads the command line when it is imported
    try:
        import mpyc.asyncoro
        import mpyc.mpctools
        import mpyc.random
        import mpyc.runtime
        import mpyc.secgroups
        import mpyc.seclists
        import mpyc.secpols
        import mpyc.sectypes
        import mpyc.statistics
    finally:
        sys.argv = argv
    logging.getLogger().setLevel(logging.WARNING)
    logging.disable(logging.INFO)
    options = SimpleNamespace(
        threshold=threshold,
        no_log=True,
        no_prss=False,
        no_async=False,
        no_barrier=False,
        mix32_64bit=False,
        sec_param=30,
        bit_length=32,
        ssl=False,
    )
    parties = [mpyc.runtime.Party(i, m.host, m.data_port) for i, m in enumerate(seats)]
    loop = asyncio.get_running_loop()
    handler = loop.get_exception_handler()
    made = mpyc.runtime.Runtime(me, parties, options)
    loop.set_exception_handler(handler)  # mpyc put its own in place
    made._loop = loop
    for module in (
        mpyc.sectypes,
        mpyc.asyncoro,
        mpyc.mpctools,
        mpyc.seclists,
        mpyc.secpols,
        mpyc.secgroups,
        mpyc.random,
        mpyc.statistics,
    ):
        module.runtime = made
    mpyc.asyncoro._reconcile = _reconcile
    return made


def _reconcile(decl: Any, task: asyncio.Task[Any]) -> None:
    """As mpyc's own, but an error ends the computation instead of the process's event loop."""
    import mpyc.asyncoro as own

    own.runtime._pc_level -= 1
    if task.cancelled():
        return
    if task.exception() is not None:
        own.runtime.pet_lab_mesh.fail(Cheating("A message of another party could not be read."))
    elif decl is not None:
        own.__dict__["__reconcile"](decl, task.result())


_LINK: list[Any] = []


def _link_class() -> Any:
    """mpyc's connection, with the seat taken from the certificate."""
    if _LINK:
        return _LINK[0]
    from mpyc.asyncoro import MessageExchanger

    class Link(MessageExchanger):
        def __init__(self, mesh: Mesh, seat: int | None) -> None:
            super().__init__(mesh.runtime, seat)
            self.mesh, self.certified = mesh, seat

        def connection_made(self, transport: Any) -> None:
            try:
                who = self.mesh.doors.who(transport.get_extra_info("peercert"))
                self.certified = [m.name for m in self.mesh.seats].index(who)
            except ValueError:  # Refused is one: barred, or no seat at this task
                transport.abort()
                return
            self.mesh._links.append(self)
            super().connection_made(transport)

        def data_received(self, data: bytes) -> None:
            if self.peer_pid is None and len(self.bytes) + len(data) >= 2:
                claimed = int.from_bytes((bytes(self.bytes) + data[:2])[:2], "little")
                if claimed != self.certified:
                    self.transport.abort()
                    return
            super().data_received(data)

        def connection_lost(self, exc: Exception | None) -> None:
            if self.certified is not None:
                name = self.mesh.seats[self.certified].name
                self.mesh.fail(
                    PartyLost(name, f"{name} went away in the middle; nothing has left.")
                )

    _LINK.append(Link)
    return Link
