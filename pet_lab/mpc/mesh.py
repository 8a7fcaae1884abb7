"""mpyc among the processing parties of a task, over connections that we authenticate.

mpyc's own TLS reads certificates from fixed file names and believes the index that a peer claims;
here the certificate decides about it. A lost connection or an unreadable message is reported in
`trouble`, where mpyc would wait for ever or stop the process's event loop. Private parts of mpyc
0.11 are replaced here and nowhere else, so it is pinned to that version.
"""

import asyncio
import collections
import functools
import importlib
import importlib.util
import logging
import os
import socket
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pet_lab.parties.certificates import client_context, identity, load, server_context
from pet_lab.parties.errors import PartyError, PeerLost, Refused

from .errors import Cheating, agreed
from .messages import Member

CONNECT_S = 10.0
MOST_UNPROVEN = 64  # connections that have shown no certificate yet
MOST_UNREAD = 2**28
"""Bytes that a party may send ahead; a number's share has 16 or more."""
MPYC = ("asyncoro", "mpctools", "random", "secgroups", "seclists", "secpols", "sectypes")


def check_installed() -> None:
    """ModuleNotFoundError where mpyc is missing, once, and not in each party's own words.

    It is not imported: it would change how this process runs.
    """
    if importlib.util.find_spec("mpyc") is None:
        raise ModuleNotFoundError("No module named 'mpyc'", name="mpyc")


class Endpoint:
    """One party on the network: its credentials, its TLS contexts, and whom it does not talk to.

    Messages arrive `delay_s` late, to study slow networks.
    """

    def __init__(self, folder: Path, *, delay_s: float = 0.0) -> None:
        self.credentials = load(folder)
        self.name = self.credentials.name
        self.server, self.client = (f(self.credentials) for f in (server_context, client_context))
        self.barred: set[str] = set()
        self.delay_s = delay_s

    def admit(self, name: str) -> None:
        """Refuse a party that is revoked or excluded."""
        agreed(name not in self.barred, f"{name} is revoked or excluded.")


class Mesh:
    """This party's connections to the others of one task, in its order, and mpyc's runtime on them.

    Those with a smaller index connect to the listener.
    """

    def __init__(
        self, endpoint: Endpoint, parties: Sequence[Member], threshold: int, listener: socket.socket
    ) -> None:
        self.endpoint, self.listener, self.parties = endpoint, listener, list(parties)
        self.names = [m.name for m in parties]
        self.party_index = self.names.index(endpoint.name)
        self.trouble: asyncio.Future[PartyError] = asyncio.get_running_loop().create_future()
        self.runtime = _runtime(self.party_index, self.parties, threshold)
        self.runtime.pet_lab_mesh = self
        self._links: list[Any] = []
        self._closing = False

    async def connect(self, within: float = CONNECT_S) -> None:
        """Connect to every other party; PeerLost names one that did not come."""
        rt, loop, link = self.runtime, asyncio.get_running_loop(), _link_class()
        for party in rt.parties:
            party.protocol = loop.create_future() if party.pid == self.party_index else None
        door = loop.create_task(self._let_in(link)) if self.party_index else None
        try:
            async with asyncio.timeout(within):
                for index in range(self.party_index + 1, len(self.names)):
                    await self._reach(index, link)
                await rt.parties[self.party_index].protocol
        except TimeoutError:
            absent = [self.names[q.pid] for q in rt.parties if q.protocol is None]
            who = absent[0] if absent else "a party"
            raise PeerLost(
                who, f"{who} did not come to the computation; start it and ask again."
            ) from None
        finally:
            if door is not None:
                door.cancel()

    async def _let_in(self, link: Any) -> None:
        """Accept connections; of those without a certificate so far the oldest makes room."""
        loop, unproven = asyncio.get_running_loop(), list[asyncio.Task[Any]]()
        try:
            while True:
                sock, _ = await loop.sock_accept(self.listener)
                unproven = [task for task in unproven if not task.done()]
                if len(unproven) >= MOST_UNPROVEN:
                    unproven.pop(0).cancel()
                handshake = loop.connect_accepted_socket(
                    lambda: link(self, None), sock, ssl=self.endpoint.server
                )
                unproven.append(loop.create_task(handshake))
                unproven[-1].add_done_callback(lambda task: task.cancelled() or task.exception())
        finally:
            for task in unproven:
                task.cancel()

    async def _reach(self, index: int, link: Any) -> None:
        member = self.parties[index]
        while True:
            try:
                await asyncio.get_running_loop().create_connection(
                    lambda: link(self, index),
                    member.host,
                    member.data_port,
                    ssl=self.endpoint.client,
                    server_hostname=member.name,
                )
                return
            except ssl.SSLError as error:
                raise Refused(f"{member.name} turned us away: {error.reason}.") from None
            except OSError:
                await asyncio.sleep(0.02)  # it may still be starting

    @property
    def bytes_sent(self) -> dict[str, int]:
        """Bytes of shares sent so far, by receiver."""
        return {self.names[link.certified]: link.nbytes_sent for link in self._links}

    def fail(self, error: PartyError) -> None:
        """Report what ends the computation; the first report counts."""
        if not self._closing and not self.trouble.done():
            self.trouble.set_result(error)

    def close(self) -> None:
        """Close all connections."""
        self._closing = True
        for link in self._links:
            if link.transport is not None:
                link.transport.close()


def _runtime(party_index: int, members: Sequence[Member], threshold: int) -> Any:
    """A new mpyc runtime, made the one of this process."""
    argv, sys.argv = sys.argv, ["pet-lab"]  # mpyc reads the command line when it is imported
    logging.disable(logging.INFO)
    os.environ["MPYC_NOUVLOOP"] = "1"  # else it changes the loops of the process, where it can
    try:
        runtimes = importlib.import_module("mpyc.runtime")
        modules = [importlib.import_module(f"mpyc.{name}") for name in (*MPYC, "statistics")]
    finally:
        sys.argv = argv
    logging.getLogger().setLevel(logging.WARNING)
    off = ("no_prss", "no_async", "no_barrier", "mix32_64bit", "ssl")
    options = SimpleNamespace(
        threshold=threshold, no_log=True, sec_param=30, bit_length=32, **dict.fromkeys(off, False)
    )
    parties = [runtimes.Party(i, m.host, m.data_port) for i, m in enumerate(members)]
    loop = asyncio.get_running_loop()
    handler = loop.get_exception_handler()
    runtime = runtimes.Runtime(party_index, parties, options)
    loop.set_exception_handler(handler)  # mpyc put its own in place
    runtime._loop = loop
    for module in modules:
        module.runtime = runtime  # type: ignore[attr-defined]
    sys.modules["mpyc.asyncoro"]._reconcile = _reconcile  # type: ignore[attr-defined]
    return runtime


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


@functools.cache
def _link_class() -> Any:
    """mpyc's connection, with the party's index taken from its certificate."""
    from mpyc.asyncoro import MessageExchanger

    class Link(MessageExchanger):
        def __init__(self, mesh: Mesh, index: int | None) -> None:
            super().__init__(mesh.runtime, index)
            self.mesh, self.certified = mesh, index
            self.delayed: collections.deque[bytes] = collections.deque()
            self.unread = 0

        def connection_made(self, transport: Any) -> None:
            try:
                name = identity(transport.get_extra_info("peercert"))
                self.mesh.endpoint.admit(name)
                self.certified = self.mesh.names.index(name)
            except (Refused, ValueError):  # ValueError: it is no party of this task
                transport.abort()
                return
            self.mesh._links.append(self)
            super().connection_made(transport)

        def data_received(self, data: bytes) -> None:
            if not self.mesh.endpoint.delay_s:
                self.deliver(data)
                return
            self.delayed.append(data)
            # Each timer delivers the oldest, so that equal times cannot change the order.
            asyncio.get_running_loop().call_later(
                self.mesh.endpoint.delay_s, lambda: self.deliver(self.delayed.popleft())
            )

        def deliver(self, data: bytes) -> None:
            if self.peer_pid is None and len(self.bytes) + len(data) >= 2:
                claimed = int.from_bytes((bytes(self.bytes) + data[:2])[:2], "little")
                if claimed != self.certified:
                    self.transport.abort()
                    return
            super().data_received(data)
            self.unread += len(data)
            if self.unread > MOST_UNREAD:  # at most: what was read meanwhile is still counted
                waiting = (len(b) for b in self.buffers.values() if isinstance(b, bytes))
                self.unread = len(self.bytes) + sum(waiting)
            if self.unread > MOST_UNREAD:
                name = self.mesh.names[self.certified or 0]
                self.mesh.fail(Cheating(f"{name} sent more than anybody waits for."))
                self.transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            if self.certified is not None:
                name = self.mesh.names[self.certified]
                self.mesh.fail(PeerLost(name, f"{name} went away in the middle; nothing has left."))

    return Link
