"""A party as a process: `python -m pet_lab.mpc.node FOLDER`.

The folder holds the party's credentials and signing key, its policy and, for an owner, its data.
The operator's orders come on stdin, one JSON object a line, and the answers go to stdout: whoever
sits at this console speaks for this party, and for no other. No secret is ever an argument.

A module of another name that calls `run` with a subclass of `Console` is started in the same way.
"""

import asyncio
import functools
import sys
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from pet_lab.parties.channel import Refusal, Sent
from pet_lab.parties.errors import PartyError, Refused
from pet_lab.parties.state import kept

from .messages import Member, TaskCost
from .output import OutputParty
from .owner import Owner
from .policy import Policy
from .processor import Processor
from .tasks import Record

MAX_LINE = 2**26


class NodeConfig(Record, frozen=True):
    """`config.json`: what an operator sets before the start."""

    host: str = "127.0.0.1"
    policy: Policy = Policy()
    delay_s: float = 0.0


class Order(Record, frozen=True, tag_field="do", tag=str.lower):
    """Base of what an operator can order."""


class Members(Order, frozen=True):
    """Who belongs to the service."""

    members: tuple[Member, ...]


class Compute(Order, frozen=True):
    """Ask for a task, as its output party; or only for the decisions about it."""

    owners: tuple[str, ...]
    terms: dict[str, Any]
    approve_only: bool = False


class SetPolicy(Order, frozen=True):
    """Decide by another policy from now on."""

    policy: Policy


class Bar(Order, frozen=True):
    """Exclude a party, for example because its certificate was revoked."""

    party: str
    why: str


class ShowLog(Order, frozen=True):
    """The party's log and the key that verifies it."""


class TakeSent(Order, frozen=True):
    """What was sent since this was last asked, without content."""


class Messages(Record, frozen=True):
    """The answer to `TakeSent`: messages, and what computing cost this party since then."""

    sent: list[Sent]
    costs: list[TaskCost]


class ServiceParty(Owner, Processor, OutputParty):
    """A party that takes any role that a task gives it."""


class Console:
    """Where the operator of one party gives orders."""

    party_type: ClassVar[type[ServiceParty]] = ServiceParty
    orders: ClassVar[Any] = Members | Compute | SetPolicy | Bar | ShowLog | TakeSent

    def __init__(self, home: Path) -> None:
        decode = functools.partial(msgspec.json.decode, type=NodeConfig)
        config = kept(home / "config.json", decode, what="host and policy of a party")
        self.host, self.party = config.host, self.party_type(home, config.policy, config.delay_s)

    async def obey(self, order: Any) -> Any:
        """Carry out one order; returns a record, or None."""
        party = self.party
        match order:
            case Members():
                party.members = {one.name: one for one in order.members}
                await party.compare_log()
            case Compute(owners, terms, approve_only):
                return await party.request(owners, terms, approve_only=approve_only)
            case SetPolicy():
                party.policy = order.policy
                party.log.add("policy", **msgspec.to_builtins(order.policy))
            case Bar():
                party.bar(order.party, why=order.why)
            case ShowLog():
                return party.log_copy()
            case TakeSent():
                answer = Messages(party.sent[:], party.costs[:])
                party.sent.clear()
                party.costs.clear()
                return answer
        return None

    async def answer(self, line: bytes | None) -> bytes:
        """The answer to one line of the console: {"answer": ...} or {"refusal": ...}."""
        try:
            if line is None:
                raise Refused(f"An order is one line of at most {MAX_LINE} bytes; split it.")
            order = msgspec.json.decode(line, type=self.orders)
            return msgspec.json.encode({"answer": await self.obey(order)})
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            refusal: PartyError = Refused(f"No such order: {str(error)[:200]}.")
        except PartyError as error:
            refusal = error
        except Exception as error:  # the console must answer, whatever happened
            traceback.print_exc()
            refusal = Refused(f"{type(error).__name__}: {str(error)[:200]}")
        return msgspec.json.encode({"refusal": Refusal.of(refusal)})


async def run(home: Path, console_type: type[Console] = Console) -> None:
    """Listen, report who this is, and obey the console until it is closed."""
    answers, sys.stdout = sys.stdout, sys.stderr  # mpyc and others print: not among the answers
    try:
        console = console_type(home)
    except PartyError as error:  # what the operator, or the caller of this process, reads
        raise SystemExit(str(error)) from None
    member = await console.party.listen(console.host)
    print(msgspec.json.encode(member).decode(), flush=True, file=answers)
    reader = asyncio.StreamReader(limit=MAX_LINE)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    async for line in lines(reader):
        print((await console.answer(line)).decode(), flush=True, file=answers)


async def lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes | None]:
    """Lines until the stream ends; None stands for one that is too long, however long it is."""
    whole = True
    while True:
        try:
            line = await reader.readuntil(b"\n")
        except asyncio.LimitOverrunError as error:
            await reader.readexactly(error.consumed)
            whole = False
            continue
        except asyncio.IncompleteReadError:
            return
        yield line if whole else None
        whole = True


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1])))
