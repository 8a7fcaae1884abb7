"""What parties of the service say to each other: one type a request, one an answer.

Each is decoded strictly; lengths have maxima. Numbers of a prime field travel as hexadecimal text.
"""

from __future__ import annotations

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
Text = Annotated[str, Meta(max_length=4000)]
Share = Annotated[bytes, Meta(max_length=2**26)]
Salt = Annotated[bytes, Meta(max_length=64)]


class Member(Record, frozen=True):
    """A party of the service, as every other party knows it.

    public  Ed25519 key in hexadecimal, for approvals, results and logs
    port, data_port  where it listens for messages; where for shares, as a processing party
    """

    name: Name
    host: Name
    port: Annotated[int, Meta(gt=0, lt=65536)]
    data_port: Annotated[int, Meta(gt=0, lt=65536)]
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


class Deposit(Request, frozen=True):
    """From an owner to a processing party: its share of an input, with the commitment's salt."""

    task: Hash
    share: Share
    salt: Salt

    def __repr__(self) -> str:
        return f"Deposit(task={self.task!r})"


class Open(Request, frozen=True):
    """To a processing party: put its shares in, if all approvals are there."""

    task: Hash
    approvals: Approvals


class Compare(Request, frozen=True):
    """To a processing party: check values of what was put in, at points revealed only now."""

    task: Hash
    points: Numbers


class Finish(Request, frozen=True):
    """To a processing party: compute, and give its share of the answer."""

    task: Hash


class Done(Request, frozen=True):
    """To a processing party: the task is over; heads of the others' logs to keep."""

    task: Hash
    finished: bool = False
    why: Text = ""
    heads: Annotated[tuple[Head, ...], Meta(max_length=100)] = ()


class Justify(Request, frozen=True):
    """To a processing party: open a share if the check value that its owner signed is wrong."""

    task: Hash
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
    Describe
    | Prepare
    | HandIn
    | Withdraw
    | Propose
    | Deposit
    | Open
    | Compare
    | Finish
    | Done
    | Justify
    | Accuse
    | SendLog
    | SendHead
)


# --- answers --------------------------------------------------------------------------------------


class Accepted(Record, frozen=True):
    """Done as asked; an owner that handed in data adds the head of its log."""

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


class Approved(Record, frozen=True):
    """A processing party's consent."""

    approval: Approval


class Checked(Record, frozen=True):
    """Check values of the shares that were put in, by owner, one a processing party."""

    check_values: Annotated[dict[Name, Numbers], Meta(max_length=2)]


class SignedShares(Record, frozen=True):
    """What a processing party signs: its shares of the answer to one task.

    salt  random, so that the hash in the log tells nobody what the answer may be
    """

    task: Hash
    party: Name
    public: PublicFacts
    shares: Numbers
    salt: Hex


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
    to: Annotated[dict[Name, int], Meta(max_length=100)]


class Finished(Record, frozen=True):
    """A processing party's part of the answer."""

    answer: SignedShares
    signature: Hex
    head: Head


class Named(Record, frozen=True):
    """Parties whose share does not fit, as this party sees it."""

    wrong: Annotated[tuple[Name, ...], Meta(max_length=100)]


class KeptHead(Record, frozen=True):
    """The latest head of the asking party's log that this party witnessed, if any."""

    head: Head | None


class LogCopy(Record, frozen=True):
    """A party's log and the key that verifies it."""

    entries: tuple[SignedEntry, ...]
    public: Hex


def signed_check_values(task: Task, owner: str, points: Any, values: Any) -> dict[str, Any]:
    """What an owner signs when it prepares data."""
    return {"nonce": task.nonce, "owner": owner, "points": points, "check_values": values}
