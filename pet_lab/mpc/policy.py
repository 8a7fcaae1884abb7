"""Policies, and approvals that bind: what a processing party decides before it uses its key-share.

Each processing party has a policy of its own and decides by itself. An approval is an Ed25519
signature over the hash of the task; it fits no other task, and a party starts a task only once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from .errors import Refused
from .tasks import Task, canonical, names


class Signer:
    """A party's Ed25519 key; only `sign` uses it, and it is never printed."""

    def __init__(self, name: str, raw: bytes | None = None) -> None:
        self.name = name
        self._key = (
            Ed25519PrivateKey.from_private_bytes(raw) if raw else Ed25519PrivateKey.generate()
        )

    @property
    def public(self) -> str:
        return self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()

    def raw(self) -> bytes:
        """The key itself, for writing to a file that only its owner can read."""
        return self._key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())

    def sign(self, message: bytes) -> str:
        return self._key.sign(message).hex()


def verify_signature(public: str, message: bytes, signature: str) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(
            bytes.fromhex(signature), message
        )
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What one processing party agrees to.

    functions      names of the catalogue; empty refuses all
    purposes, levels, joins  what a task may say
    min_group      smallest group that may leave unless noise is added
    dominance_percent  largest share of one record in a total; 0 asks for no rule
    max_queries    approved tasks that name the same pair of owners
    epsilon_total  budget of tasks with noise for the same pair of owners
    noise_required refuses exact results
    max_seconds    longest computation by the estimate
    """

    functions: tuple[str, ...] = ()
    purposes: tuple[str, ...] = ("statistics",)
    levels: tuple[str, ...] = ("all-but-one", "majority", "checked")
    joins: tuple[str, ...] = ("opened", "hidden", "aligned")
    min_group: int = 3
    dominance_percent: int = 0
    max_queries: int = 10
    epsilon_total: float = 1.0
    noise_required: bool = False
    max_seconds: float = 600.0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, made: Mapping[str, Any]) -> Policy:
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in made.items()
        }
        return cls(**fields)


@dataclass(frozen=True)
class Spent:
    """What a party has approved so far for the same pair of owners."""

    queries: int = 0
    epsilon: float = 0.0


def objections(
    policy: Policy, task: Task, spent: Spent, *, too_long: str = "", excluded: Iterable[str] = ()
) -> list[str]:
    """Every reason why this policy refuses the task; none means that it approves.

    `too_long` comes from `costs.too_long` with the policy's `max_seconds`.
    """
    said = []
    if task.expired():
        said.append(f"The task expired at {task.expires}; ask again with a later time.")
    if task.function not in policy.functions:
        said.append(
            f"Function {task.function!r} is not on this party's list: {names(policy.functions)}."
        )
    if task.purpose not in policy.purposes:
        said.append(f"Purpose {task.purpose!r} is not allowed; allowed: {names(policy.purposes)}.")
    if task.level not in policy.levels:
        said.append(f"Level {task.level!r} is not allowed; allowed: {names(policy.levels)}.")
    join = task.parameters.get("join")
    if join is not None and join not in policy.joins:
        said.append(f"Join {join!r} is not allowed; allowed: {names(policy.joins)}.")
    if policy.noise_required and task.epsilon is None:
        said.append("This party wants noise on every result; give the task an epsilon.")
    if task.epsilon is None and task.min_group < policy.min_group:
        said.append(
            f"Groups below {policy.min_group} may not leave; the task asks {task.min_group}."
        )
    if (
        policy.dominance_percent
        and task.epsilon is None
        and not 0 < task.dominance_percent <= policy.dominance_percent
    ):
        said.append(f"No record may be more than {policy.dominance_percent} % of a total.")
    if spent.queries >= policy.max_queries:
        said.append(f"These data were used {spent.queries} times, the limit of this party.")
    if task.epsilon is not None and spent.epsilon + task.epsilon > policy.epsilon_total + 1e-12:
        said.append(
            f"The budget is {policy.epsilon_total:g}, {spent.epsilon:g} is spent, "
            f"and the task asks for {task.epsilon:g}."
        )
    if too_long:
        said.append(too_long)
    gone = sorted(set(excluded) & everyone(task))
    if gone:
        said.append(f"Excluded or revoked: {names(gone)}.")
    return said


def everyone(task: Task) -> set[str]:
    return {d.owner for d in task.inputs} | {task.output_party, *task.processing_parties}


def duration(seconds: float) -> str:
    """A length of time in words."""
    for size, unit in ((86_400.0, "days"), (3_600.0, "hours"), (60.0, "minutes")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} seconds" if seconds >= 1 else "less than a second"


@dataclass(frozen=True)
class Approval:
    """One party's consent to one task."""

    party: str
    task: str
    signature: str = field(default="", repr=False)

    @property
    def signed(self) -> bytes:
        return canonical({"approves": self.task, "party": self.party})


def approve(signer: Signer, task: Task) -> Approval:
    bare = Approval(signer.name, task.sha256)
    return Approval(bare.party, bare.task, signer.sign(bare.signed))


def check_approvals(task: Task, approvals: Sequence[Approval], publics: Mapping[str, str]) -> None:
    """Pass only if every processing party approved this very task.

    Raises
    ------
    Refused
        Naming who is missing, or whose approval is of another task or not signed by them.
    """
    given = {}
    for one in approvals:
        if one.task != task.sha256:
            raise Refused(f"The approval of {one.party} is of another task; ask {one.party} again.")
        if one.party not in publics or not verify_signature(
            publics[one.party], one.signed, one.signature
        ):
            raise Refused(f"The approval of {one.party} does not carry its signature.")
        given[one.party] = one
    missing = [p for p in task.processing_parties if p not in given]
    if missing:
        raise Refused(
            f"{len(given)} of {task.k} approvals: {names(missing)} did not approve, "
            "so the data stay locked."
        )
