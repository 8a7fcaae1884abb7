"""Policies, and approvals that bind: what a processing party decides before it uses its key-share.

Each processing party has a policy of its own and decides by itself. An approval is an Ed25519
signature over the hash of the task; it fits no other task, and a party starts a task only once.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from msgspec.structs import force_setattr, replace

from pet_lab.checks import require
from pet_lab.parties.errors import PartyError
from pet_lab.parties.log import SignedLog, Signer, canonical, verify_signature

from .errors import agreed
from .tasks import Name, Names, Record, Task, listed


class Policy(Record, frozen=True):
    """What one party agrees to; queries and budget are counted by owner of the data used."""

    functions: Names = ()  # of the catalogue; none allows nothing
    purposes: Names = ("statistics",)
    levels: Names = ("all-but-one", "majority", "checked")
    joins: Names = ("opened", "hidden", "aligned")
    min_group: int = 3  # smallest group that may leave unless noise is added
    dominance_percent: int = 0  # largest share of one record in a total; 0 asks for no rule
    max_queries: int = 10
    epsilon_total: Decimal = Decimal(1)
    noise_required: bool = False
    max_seconds: float = 600.0  # longest computation by the estimate

    def __post_init__(self) -> None:
        total = Decimal(str(self.epsilon_total))
        fits = total.is_finite() and total >= 0
        require(fits, f"epsilon_total is a number from 0 on, got {total}.", PartyError)
        force_setattr(self, "epsilon_total", total)


@dataclass(frozen=True)
class Spent:
    """What a party has agreed to so far on the data of one owner."""

    queries: int = 0
    epsilon: Decimal = Decimal(0)


def spent(
    log: SignedLog, kind: str, owners: Iterable[str], reserved: Sequence[Decimal | None] = ()
) -> Spent:
    """What was agreed to, by entries of this kind in the log and what is reserved; most of owners.

    An owner offers one data set, and its account goes on when the file changes: the people in it
    may be the same. All tasks count, whoever the other owner is.
    """
    accounts = []
    for owner in owners:
        used = [e.body["epsilon"] for e in log.of(kind) if owner in e.body["owners"]]
        budgets = [Decimal(str(v or 0)) for v in (*used, *reserved)]
        numbers = all(v.is_finite() and v >= 0 for v in budgets)
        agreed(numbers, f"The log of {log.signer.name} holds a budget that is no number.")
        accounts.append((len(budgets), sum(budgets, Decimal(0))))
    queries, budgets_spent = zip(*accounts, strict=True)
    return Spent(max(queries), max(budgets_spent))


def objections(
    policy: Policy, task: Task, used: Spent, *, too_long: str = "", excluded: Collection[str] = ()
) -> list[str]:
    """Every reason why this policy refuses the task; `too_long` comes from `costs.too_long`."""
    exact, join, reasons = task.epsilon is None, task.parameters.get("join"), []

    def object_if(applies: object, reason: str) -> None:
        if applies:
            reasons.append(reason)

    object_if(task.expired(), f"The task expired at {task.expires}; ask again with a later time.")
    for what, value, allowed in (
        ("Function", task.function, policy.functions),
        ("Purpose", task.purpose, policy.purposes),
        ("Level", task.level, policy.levels),
        ("Join", join, policy.joins),
    ):
        excused = value is None or value in allowed
        object_if(not excused, f"{what} {value!r} is not allowed; allowed: {listed(allowed)}.")
    object_if(policy.noise_required and exact, "This party wants noise on results: set epsilon.")
    object_if(
        exact and task.min_group < policy.min_group,
        f"Groups below {policy.min_group} may not leave; the task asks {task.min_group}.",
    )
    most = policy.dominance_percent
    dominance = most and exact and not 0 < task.dominance_percent <= most
    object_if(dominance, f"No record may be more than {most} % of a total.")
    object_if(
        used.queries >= policy.max_queries,
        f"These data were used {used.queries} times, the limit of this party.",
    )
    object_if(
        task.epsilon is not None and used.epsilon + task.epsilon > policy.epsilon_total,
        f"The budget is {policy.epsilon_total:f}, {used.epsilon:f} is spent or reserved, "
        f"and the task asks for {task.epsilon_text}.",
    )
    object_if(too_long, too_long)
    gone = sorted(set(excluded) & task.everyone)
    object_if(gone, f"Excluded or revoked: {listed(gone)}.")
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
    """Pass only if every processing party approved this very task, signed; else Refused."""
    for one in approvals:
        other = f"The approval of {one.party} is of another task; ask {one.party} again."
        agreed(one.task == task.sha256, other)
        genuine = verify_signature(publics.get(one.party, ""), one.signed, one.signature)
        agreed(genuine, f"The approval of {one.party} does not carry its signature.")
    given = {one.party for one in approvals}
    missing = listed([p for p in task.processing_parties if p not in given])
    agreed(
        given >= set(task.processing_parties),
        f"{len(given)} of {task.k} approvals: {missing} did not approve, so the data stay locked.",
    )
