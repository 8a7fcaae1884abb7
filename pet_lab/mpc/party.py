"""What every party of the service does: it listens, asks, keeps a signed log, and bars deviants.

Nobody is in charge. What one party wants from another it asks over mutual TLS; its own operator
speaks to it on stdin. The modules `owner`, `processor` and `output` add the three roles.
"""

import asyncio
import contextlib
import functools
import inspect
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pet_lab.parties import channel
from pet_lab.parties.channel import Channel, Options, Sent
from pet_lab.parties.errors import PartyError
from pet_lab.parties.log import Head, SignedLog, Signer, verify, verify_signature
from pet_lab.parties.state import kept

from . import messages as m
from .errors import agreed
from .mesh import Endpoint
from .policy import Policy
from .tasks import Record, Task

T = TypeVar("T")
Steps = dict[type[m.Request], Callable[[str, Any], Record | Awaitable[Record]]]
MAX_FRAME = 2**27  # shares of one input of a party, in JSON


class Party:
    """A member of the service, without a role, that agrees to what its policy allows.

    Its home is a folder with its credentials, its signing key, its log and, for an owner, its data.
    """

    def __init__(self, home: Path, policy: Policy, delay_s: float = 0.0) -> None:
        self.home, self.policy = home, policy
        self.endpoint = Endpoint(home, delay_s=delay_s)
        self.name = self.endpoint.name
        self.signer = kept(
            home / "sign.key", functools.partial(Signer, self.name), what="the key of a log"
        )
        self.log = SignedLog(self.signer, home / "audit.jsonl")
        self.members: dict[str, m.Member] = {}
        self.sent: list[Sent] = []
        self._halted = ""
        self._options = Options(max_frame=MAX_FRAME, delay_s=delay_s)
        self._listener: socket.socket | None = None
        self.endpoint.barred |= {str(e.body["party"]) for e in self.log.of("excluded")}

    @property
    def steps(self) -> Steps:
        """Who answers which request; each role adds its own."""
        return {
            m.SendLog: lambda peer, request: self.log_copy(),
            m.SendHead: lambda peer, request: m.Accepted(head=self._kept_head(peer)),
        }

    @property
    def publics(self) -> dict[str, str]:
        """The members' keys."""
        return {name: member.public for name, member in self.members.items()}

    async def listen(self, host: str) -> m.Member:
        """Listen for messages and for shares; returns what others need to know."""
        server = await channel.serve(
            self.endpoint.credentials,
            self._serve,
            host=host,
            options=self._options,
            record=self.sent,
            turned_away=self._turned_away,
        )
        self._listener = socket.create_server((host, 0))
        self._listener.setblocking(False)
        data_port = self._listener.getsockname()[1]
        return m.Member(self.name, host, server.port, data_port, self.signer.public)

    def _turned_away(self, sentence: str) -> None:
        self.log.add("turned away", why=sentence)

    async def _serve(self, line: Channel) -> None:
        with self.noting("turned away"):
            self.endpoint.admit(line.peer)
        agreed(line.peer in self.members, f"{line.peer} is not a member of this service.")
        request: m.Request = await line.receive(m.AnyRequest)  # type: ignore[arg-type]
        answer = await self.answer(line.peer, request)
        await line.send(answer, kind=str(request.__struct_config__.tag))

    async def answer(self, peer: str, request: m.Request) -> Record:
        """The answer to a request of a certified peer; a PartyError is what it gets instead."""
        agreed(not self._halted, self._halted)
        answer = self.steps[type(request)](peer, request)
        return await answer if inspect.isawaitable(answer) else answer

    async def ask(
        self, name: str, request: m.Request, answer_type: type[T], *, within: float = 30.0
    ) -> T:
        """The answer of another member; PartyError if it refuses, PeerLost if it goes away."""
        agreed(name in self.members, f"{name} is not a member of this service.")
        self.endpoint.admit(name)
        member = self.members[name]
        async with await channel.connect(
            self.endpoint.credentials,
            name,
            member.host,
            member.port,
            options=self._options,
            record=self.sent,
            context=self.endpoint.client,
        ) as line:
            await line.send(request)
            return await line.receive(answer_type, within=within)

    async def tell(self, names: Iterable[str], news: m.Request) -> None:
        """Say something to others; whether they answer does not matter."""
        asked = (self.ask(name, news, m.Accepted, within=5.0) for name in names)
        await asyncio.gather(*asked, return_exceptions=True)

    @contextlib.contextmanager
    def noting(self, kind: str, **body: Any) -> Iterator[None]:
        """What is refused or fails inside is also in the log."""
        try:
            yield
        except PartyError as error:
            self.log.add(kind, **body, why=str(error))
            raise

    def bar(self, name: str, *, why: str, task: str = "") -> None:
        """Exclude a party from now on, here; kept in the log, so also after a restart."""
        if name not in {self.name, *self.endpoint.barred}:
            self.endpoint.barred.add(name)
            self.log.add("excluded", party=name, why=why, task=task)

    def log_copy(self) -> m.LogCopy:
        """The log and the key that verifies it."""
        return m.LogCopy(tuple(self.log.entries), self.signer.public)

    def witness(self, heads: Iterable[Head]) -> None:
        """Keep heads of the members' logs."""
        for head in heads:
            public = self.publics.get(head.party, "")
            if verify_signature(public, head.signed, head.signature):
                self.log.add("witnessed", **msgspec.to_builtins(head))

    def _kept_head(self, party: str) -> Head | None:
        heads = [e.body for e in self.log.of("witnessed") if e.body["party"] == party]
        last = max(heads, key=lambda head: head["n"], default=None)
        return msgspec.convert(last, Head | None)

    async def compare_log(self) -> None:
        """Hold the own log against what the members kept of it.

        Of one that lost its end this raises PartyError, and so does every request from then on.
        """
        others = [name for name in self.members if name != self.name]
        asked = (self.ask(name, m.SendHead(), m.Accepted, within=5.0) for name in others)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        # Who is not up yet can be asked another time. A member can witness only what was signed
        # here, so its lies do not stop this party.
        known = [
            a.head
            for a in answers
            if isinstance(a, m.Accepted)
            and a.head is not None
            and verify_signature(self.signer.public, a.head.signed, a.head.signature)
        ]
        try:
            verify(self.log.entries, self.name, self.signer.public, known)
        except PartyError as error:
            self._halted = f"{self.name} does nothing until its log is restored: {error}"
            raise PartyError(self._halted) from None


def from_output_party(peer: str, task: Task) -> None:
    """Refuse a step of a task that another party than its output party wants."""
    agreed(peer == task.output_party, "Only the output party of a task takes it further.")
