"""Policies, and approvals that bind: what a processing party decides before it uses its key-share.

Each processing party has a policy of its own and decides by itself. An approval is an Ed25519
signature over the hash of the task; it fits no other task, and a party starts a task only once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from msgspec.structs import force_setattr, replace

from pet_lab.parties.errors import PartyError, Refused
from pet_lab.parties.log import Signer, canonical, verify_signature

from .tasks import Name, Names, Record, Task, listed


class Policy(Record, frozen=True):
    """What one processing party agrees to.

    functions      names of the catalogue; empty refuses all
    purposes, levels, joins  what a task may say
    min_group      smallest group that may leave unless noise is added
    dominance_percent  largest share of one record in a total; 0 asks for no rule
    max_queries    tasks on the data of one owner, whoever the other owner is
    epsilon_total  budget of tasks with noise on the data of one owner
    noise_required refuses exact results
    max_seconds    longest computation by the estimate
    """

    functions: Names = ()
    purposes: Names = ("statistics",)
    levels: Names = ("all-but-one", "majority", "checked")
    joins: Names = ("opened", "hidden", "aligned")
    min_group: int = 3
    dominance_percent: int = 0
    max_queries: int = 10
    epsilon_total: Decimal = Decimal(1)
    noise_required: bool = False
    max_seconds: float = 600.0

    def __post_init__(self) -> None:
        total = Decimal(str(self.epsilon_total))
        if not (total.is_finite() and total >= 0):
            raise PartyError(f"epsilon_total is a number from 0 on, got {total}.")
        force_setattr(self, "epsilon_total", total)


@dataclass(frozen=True)
class Spent:
    """What a party has agreed to so far on the data of one owner."""

    queries: int = 0
    epsilon: Decimal = Decimal(0)


def objections(
    policy: Policy, task: Task, spent: Spent, *, too_long: str = "", excluded: Iterable[str] = ()
) -> list[str]:
    """Every reason why this policy refuses the task; none means that it approves.

    `too_long` comes from `costs.too_long` with the policy's `max_seconds`.
    """
    reasons = []
    if task.expired():
        reasons.append(f"The task expired at {task.expires}; ask again with a later time.")
    if task.function not in policy.functions:
        reasons.append(
            f"Function {task.function!r} is not on this party's list: {listed(policy.functions)}."
        )
    if task.purpose not in policy.purposes:
        reasons.append(
            f"Purpose {task.purpose!r} is not allowed; allowed: {listed(policy.purposes)}."
        )
    if task.level not in policy.levels:
        reasons.append(f"Level {task.level!r} is not allowed; allowed: {listed(policy.levels)}.")
    join = task.parameters.get("join")
    if join is not None and join not in policy.joins:
        reasons.append(f"Join {join!r} is not allowed; allowed: {listed(policy.joins)}.")
    if policy.noise_required and task.epsilon is None:
        reasons.append("This party wants noise on every result; give the task an epsilon.")
    if task.epsilon is None and task.min_group < policy.min_group:
        reasons.append(
            f"Groups below {policy.min_group} may not leave; the task asks {task.min_group}."
        )
    if (
        policy.dominance_percent
        and task.epsilon is None
        and not 0 < task.dominance_percent <= policy.dominance_percent
    ):
        reasons.append(f"No record may be more than {policy.dominance_percent} % of a total.")
    if spent.queries >= policy.max_queries:
        reasons.append(f"These data were used {spent.queries} times, the limit of this party.")
    if task.epsilon is not None and spent.epsilon + task.epsilon > policy.epsilon_total:
        reasons.append(
            f"The budget is {policy.epsilon_total:f}, {spent.epsilon:f} is spent or reserved, "
            f"and the task asks for {task.epsilon:f}."
        )
    if too_long:
        reasons.append(too_long)
    gone = sorted(set(excluded) & task.everyone)
    if gone:
        reasons.append(f"Excluded or revoked: {listed(gone)}.")
    return reasons


class Approval(Record, frozen=True):
    """One party's consent to one task."""

    party: Name
    task: Name
    signature: str = ""

    @property
    def signed(self) -> bytes:
        """What the signature covers."""
        return canonical({"approves": self.task, "party": self.party})

    def __repr__(self) -> str:
        return f"Approval(party={self.party!r}, task={self.task!r})"


def approve(signer: Signer, task: Task) -> Approval:
    """This party's signed approval of a task."""
    bare = Approval(party=signer.name, task=task.sha256)
    return replace(bare, signature=signer.sign(bare.signed))


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
            f"{len(given)} of {task.k} approvals: {listed(missing)} did not approve, "
            "so the data stay locked."
        )
