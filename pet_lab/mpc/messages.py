"""What parties of the service say to each other: one type a request, one an answer.

Each is decoded strictly; lengths have maxima. Numbers of a prime field travel as hexadecimal text.
"""

from collections.abc import Iterable
from typing import Annotated, Any

from msgspec import Meta
from msgspec.structs import replace

from pet_lab.parties.log import Head, SignedEntry, canonical

from .catalogue import PublicFacts
from .policy import Approval
from .tasks import ColumnSchema, DataRef, Hex, Name, Record, Task

Hash = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Numbers = Annotated[tuple[Hex, ...], Meta(max_length=100_000)]
Approvals = Annotated[tuple[Approval, ...], Meta(max_length=100)]
Port = Annotated[int, Meta(gt=0, lt=65536)]
Share = Annotated[bytes, Meta(max_length=2**26)]
Salt = Annotated[bytes, Meta(max_length=64)]


def as_text(numbers: Iterable[int]) -> tuple[str, ...]:
    """Numbers as they travel."""
    return tuple(f"{v:x}" for v in numbers)


def as_numbers(texts: Iterable[str]) -> list[int]:
    """Numbers that travelled."""
    return [int(text or "0", 16) for text in texts]


class Member(Record, frozen=True):
    """A party as every other knows it: its ports for messages and shares, its Ed25519 key."""

    name: Name
    host: Name
    port: Port
    data_port: Port
    public: Hex


class Request(Record, frozen=True, tag_field="do", tag=str.lower):
    """Base of all requests; the field `do` names them."""


class Describe(Request, frozen=True):
    """To an owner: schema and number of rows of its data."""


class Prepare(Request, frozen=True):
    """To an owner: split the data for a draft, and answer check values at these points."""

    task: Task
    points: Numbers


class HandIn(Request, frozen=True):
    """To an owner: give each processing party its share of what was prepared."""

    task: Task
    approvals: Approvals


class Withdraw(Request, frozen=True):
    """To an owner: what it prepared under this nonce is not needed; its reservation ends."""

    nonce: Name


class Propose(Request, frozen=True):
    """To a processing party: decide about a task."""

    task: Task


class OfTask(Request, frozen=True):
    """Base of requests to a processing party about a task that it has approved."""

    task: Hash


class Deposit(OfTask, frozen=True):
    """From an owner: this party's share of an input, with the commitment's salt."""

    share: Share
    salt: Salt

    def __repr__(self) -> str:
        return f"Deposit(task={self.task!r})"


class Open(OfTask, frozen=True):
    """Put the shares in, if all approvals are there."""

    approvals: Approvals


class Compare(OfTask, frozen=True):
    """Check values of what was put in, at points revealed only now."""

    points: Numbers


class Finish(OfTask, frozen=True):
    """Compute, and give this party's share of the answer."""


class Done(OfTask, frozen=True):
    """The task is over; heads of the others' logs to keep."""

    finished: bool = False
    why: Annotated[str, Meta(max_length=4000)] = ""
    heads: Annotated[tuple[Head, ...], Meta(max_length=100)] = ()


class Justify(OfTask, frozen=True):
    """Open a share if the check value that its owner signed is wrong."""

    owner: Name
    points: Numbers
    check_values: Numbers
    signature: Hex


class Opening(Record, frozen=True, kw_only=True):
    """What an accused party says, signed: the owner's check value fits, or the share it was given.

    An honest party opens a share only if its owner signed a wrong value, so never by another's lie.
    """

    task: Hash
    owner: Name
    party: Name
    fits: bool
    share: Share = b""
    salt: Salt = b""
    signature: Hex = ""

    @property
    def signed(self) -> bytes:
        """What the signature covers."""
        return canonical(replace(self, signature=""))


class Accuse(Request, frozen=True):
    """To a processing party: check values that a share did not fit, and what the accused opened."""

    case: Justify
    opening: Opening


class SendLog(Request, frozen=True):
    """To any party: its log."""


class SendHead(Request, frozen=True):
    """To any party: the latest head that it keeps of the asking party's log."""


AnyRequest = (
    Describe | Prepare | HandIn | Withdraw | Propose | Deposit | Open | Compare | Finish | Done
) | (Justify | Accuse | SendLog | SendHead)


class Accepted(Record, frozen=True):
    """Done as asked; with the head of a log where one was asked for, or data were handed in."""

    head: Head | None = None


class Description(Record, frozen=True):
    """What everybody may know of an owner's data."""

    rows: Annotated[int, Meta(ge=0)]
    schema: Annotated[dict[Name, ColumnSchema], Meta(max_length=100)]


class Prepared(Record, frozen=True):
    """Commitments to the shares, and signed check values of them."""

    ref: DataRef
    check_values: Numbers
    signature: Hex


class Checked(Record, frozen=True):
    """Check values of the shares that were put in, by owner, one a processing party."""

    check_values: Annotated[dict[Name, Numbers], Meta(max_length=2)]


class SignedShares(Record, frozen=True):
    """What a processing party signs: its shares of the answer to one task."""

    task: Hash
    party: Name
    public: PublicFacts
    shares: Numbers
    salt: Hex  # so that the hash in the log tells nobody what the answer may be


class Finished(Record, frozen=True):
    """A processing party's part of the answer."""

    answer: SignedShares
    signature: Hex
    head: Head


class TaskCost(Record, frozen=True):
    """What a task cost one processing party; `to` are bytes of shares by receiver.

    It stays with the party's own operator: products and bytes tell how many rows match.
    """

    party: Name
    wall_s: float
    cpu_s: float
    products: int
    opened: int
    rounds: int
    bytes: int
    to: dict[Name, int]


class LogCopy(Record, frozen=True):
    """A party's log and the key that verifies it."""

    entries: tuple[SignedEntry, ...]
    public: Hex


def signed_check_values(nonce: str, owner: str, points: Any, values: Any) -> bytes:
    """What an owner signs when it prepares data."""
    content = {"nonce": nonce, "owner": owner, "points": points, "check_values": values}
    return canonical(content)
