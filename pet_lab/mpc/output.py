"""The output party: it has a task approved and computed, and alone opens the answer."""

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from pet_lab import shares
from pet_lab.checks import require
from pet_lab.parties.errors import PartyError, PeerLost, Refused
from pet_lab.parties.log import canonical, digest, verify_signature

from . import blame, catalogue, costs
from . import messages as m
from .errors import Cheating, agreed
from .party import Party
from .policy import Approval
from .tasks import DataRef, Record, Task, read_task

T = TypeVar("T")


class TaskOutcome(Record, frozen=True):
    """What the output party has when a task is over, or after its approvals alone."""

    task: Task
    decisions: dict[str, str]
    estimate: costs.Estimate
    table: dict[str, list[Any]] | None = None  # the answer as {"columns", "data"}
    public: catalogue.PublicFacts = catalogue.PublicFacts()
    suspects: tuple[str, ...] = ()
    wall_s: float = 0.0


@dataclass(frozen=True)
class Case:
    """A task with what its owners prepared, and the secret points of their check values."""

    task: Task
    points: tuple[str, ...]
    prepared: Mapping[str, m.Prepared]


class OutputParty(Party):
    """A party that asks for answers."""

    async def request(
        self, owners: Sequence[str], terms: Mapping[str, Any], *, approve_only: bool = False
    ) -> TaskOutcome:
        """Have a task computed, with these fields of it, on data of two owners.

        With `approve_only` it ends once every processing party has decided.

        Raises
        ------
        PartyError
            Whatever stopped it: a refusal with the reasons, a lost party, a deviation.
        """
        agreed(not self._halted, self._halted)
        begun = time.monotonic()
        draft = await self._draft(owners, terms)
        drawn = (1 + secrets.randbelow(catalogue.modulus(draft) - 1) for _ in range(draft.k))
        points = m.as_text(drawn)
        ask_owner = m.Prepare(draft, points)
        prepared = {o: await self.ask(o, ask_owner, m.Prepared, within=300.0) for o in owners}
        task = draft.with_data(*(prepared[o].ref for o in owners))
        self.log.add("requested", task=task.sha256, function=task.function)
        approvals, decisions = await self._propose_to_all(task)
        outcome = TaskOutcome(task, decisions, costs.estimate(task))
        missing = self._missing(task, approvals, decisions)
        if approve_only or missing:
            await self.tell(owners, m.Withdraw(task.nonce))
            if approve_only:
                return outcome
            self.log.add("aborted", task=task.sha256, why=missing)
            raise Refused(missing)
        hand_in = m.HandIn(task, approvals)
        asked = (self.ask(o, hand_in, m.Accepted, within=300.0) for o in owners)
        handed = await asyncio.gather(*asked)
        try:
            with self.noting("aborted", task=task.sha256):
                case = Case(task, points, prepared)
                answers, numbers, suspects = await self._run(case, approvals)
        except PartyError as error:
            await self.tell(task.processing_parties, m.Done(task.sha256, why=str(error)))
            raise
        heads = (*(a.head for a in answers), *(h.head for h in handed if h.head))
        await self.tell(task.processing_parties, m.Done(task.sha256, finished=True, heads=heads))
        self.witness(heads)
        public = answers[0].answer.public
        table = catalogue.decode(task, numbers, public)
        hashes = [digest(canonical(a.answer)) for a in answers]  # those in the parties' logs
        self.log.add("received", task=task.sha256, answers=hashes)
        return replace(
            outcome,
            table=table.to_dict(orient="split", index=False),
            public=public,
            suspects=suspects,
            wall_s=time.monotonic() - begun,
        )

    async def _draft(self, owners: Sequence[str], terms: Mapping[str, Any]) -> Task:
        """The task without commitments, checked, from what the owners say of their data."""
        empty = ("",) * len(terms.get("processing_parties", ()))
        refs = []
        for owner in owners:
            data = await self.ask(owner, m.Describe(), m.Description)
            refs.append(DataRef(owner=owner, rows=data.rows, schema=data.schema, commitments=empty))
        own = {"output_party": self.name, "nonce": secrets.token_hex(16)}
        draft = read_task({**terms, "inputs": msgspec.to_builtins(refs), **own})
        catalogue.check(draft)
        reason = costs.too_long(draft, self.policy.max_seconds)
        agreed(not reason, reason)
        return draft

    async def _propose_to_all(self, task: Task) -> tuple[tuple[Approval, ...], dict[str, str]]:
        """Approvals, and each party's "approved" or reason."""
        decisions, approvals = {}, []
        for name in task.processing_parties:
            try:
                approvals.append(await self.ask(name, m.Propose(task), Approval))
                decisions[name] = "approved"
            except PartyError as error:
                decisions[name] = str(error)
        return tuple(approvals), decisions

    def _missing(
        self, task: Task, approvals: Sequence[Approval], decisions: Mapping[str, str]
    ) -> str:
        """What to say if somebody did not approve; else nothing."""
        if len(approvals) == task.k:
            return ""
        why = " ".join(v for v in decisions.values() if v != "approved")
        return f"{len(approvals)} of {task.k} approvals, so the data stay locked. {why}"

    async def _run(
        self, case: Case, approvals: tuple[Approval, ...]
    ) -> tuple[list[m.Finished], list[int], tuple[str, ...]]:
        """Signed answers, their numbers, and the parties whose share was wrong and corrected."""
        task, sha256 = case.task, case.task.sha256
        await self._ask_all(task, m.Open(sha256, approvals), m.Accepted)
        checked = await self._ask_all(task, m.Compare(sha256, case.points), m.Checked)
        if task.level != "all-but-one":
            await self._compare_check_values(case, [c.check_values for c in checked])
        answers = await self._ask_all(task, m.Finish(sha256), m.Finished)
        rows = self._signed_rows(task, answers)
        p, names = catalogue.modulus(task), task.processing_parties
        if task.level == "all-but-one":
            # Noise is the parties' own: nothing to hold it against.
            if task.epsilon is None:
                await self._compare_sums(case, rows)
            return answers, shares.additive_join(rows, p)[:-1], ()
        if not rows[0]:
            return answers, [], ()
        by_point = {i + 1: row for i, row in enumerate(rows)}
        try:
            opened = shares.shamir_open(by_point, needed=task.threshold + 1, prime=p)
        except shares.SharesContradict as error:
            raise Cheating(str(error)) from None
        suspects = tuple(names[point - 1] for point in opened.wrong)
        for name in suspects:
            why = "sent a share of the answer that contradicts all others"
            self.bar(name, why=why, task=sha256)
        return answers, opened.values, suspects

    async def _ask_all(self, task: Task, request: m.OfTask, answer_type: type[T]) -> list[T]:
        """Ask all processing parties at once.

        The first that fails stops the others, and the gravest reason is raised.
        """
        limit = 2 * self.policy.max_seconds + 60
        asked = {
            asyncio.ensure_future(self.ask(name, request, answer_type, within=limit)): name
            for name in task.processing_parties
        }

        def errors() -> list[BaseException]:
            return [error for t in asked if t.done() and (error := t.exception())]

        await asyncio.wait(asked, return_when=asyncio.FIRST_EXCEPTION)
        if failed := errors():
            # Those who wait for the one that failed learn it themselves in a moment, or here.
            await asyncio.wait(asked, timeout=1.5)
            waiting = [name for t, name in asked.items() if not t.done()]
            await self.tell(waiting, m.Done(task.sha256, why=str(failed[0])))
            await asyncio.wait(asked, timeout=5.0)
            for t in asked:
                t.cancel()
            gravest = (Cheating, Refused, PeerLost, BaseException)
            raise next(e for kind in gravest for e in errors() if isinstance(e, kind))
        return [t.result() for t in asked]

    def _signed_rows(self, task: Task, answers: Sequence[m.Finished]) -> list[list[int]]:
        """The shares of the answer, one row a party, each signed by it."""
        for name, a in zip(task.processing_parties, answers, strict=True):
            its_own = (a.answer.party, a.answer.task) == (name, task.sha256)
            signed = verify_signature(self.publics[name], canonical(a.answer), a.signature)
            if not its_own or not signed:
                raise Cheating(f"The answer of {name} does not carry its signature.", (name,))
        rows = [m.as_numbers(a.answer.shares) for a in answers]
        alike = len({a.answer.public for a in answers}) == 1 and len({*map(len, rows)}) == 1
        require(alike, "The processing parties report different facts about the answer.", Cheating)
        return rows

    async def _compare_check_values(
        self, case: Case, reports: Sequence[Mapping[str, tuple[str, ...]]]
    ) -> None:
        """Stop if a share that was put in is not the one that its owner gave; name and exclude."""
        task, values = case.task, reports[0]
        guilty: dict[str, str] = {}
        unclear: dict[str, str] = {}
        alike = all(r == values for r in reports) and set(values) == set(case.prepared)
        require(alike, "The processing parties report different check values.", Cheating)
        for owner, split in case.prepared.items():
            complete = len(split.check_values) == len(values[owner]) == task.k
            require(complete, "There must be one check value for each processing party.", Cheating)
            rows = zip(task.processing_parties, split.check_values, values[owner], strict=True)
            for accused in [name for name, expected, value in rows if expected != value]:
                justify, opening = await self._ask_to_open(case, owner, accused)
                blamed = (values[owner], self.publics)
                deviants = opening and blame.guilty(task, justify, opening, *blamed)
                if not opening or not deviants:
                    unclear[accused] = owner
                    continue
                guilty |= deviants
                await self.tell(task.processing_parties, m.Accuse(justify, opening))
        self._exclude(task, guilty, unclear)

    async def _compare_sums(self, case: Case, rows: Sequence[Sequence[int]]) -> None:
        """At level all-but-one: every sum fits its shares."""
        task, p = case.task, catalogue.modulus(case.task)
        guilty: dict[str, str] = {}
        unclear: dict[str, str] = {}
        for i, name in enumerate(task.processing_parties):
            sent = shares.check_value(rows[i], int(case.points[i], 16), p)
            if sent == sum(int(s.check_values[i], 16) for s in case.prepared.values()) % p:
                continue
            values = []
            for owner, split in case.prepared.items():
                justify, opening = await self._ask_to_open(case, owner, name)
                if opening is None:
                    unclear[name] = owner
                    continue
                values.append(blame.opened_value(task, justify, opening))
                if values[-1] not in {None, split.check_values[i]}:
                    guilty[owner] = f"signed a check value that its share for {name} does not have"
            complete = name not in unclear
            if complete and (None in values or sent != sum(int(v, 16) for v in values if v) % p):
                guilty[name] = "sent a sum that does not fit its shares"
        self._exclude(task, guilty, unclear)

    async def _ask_to_open(
        self, case: Case, owner: str, accused: str
    ) -> tuple[m.Justify, m.Opening | None]:
        split, task = case.prepared[owner], case.task
        justify = m.Justify(task.sha256, owner, case.points, split.check_values, split.signature)
        try:
            opening = await self.ask(accused, justify, m.Opening)
        except PartyError:
            return justify, None
        signed = blame.signed_opening(task, justify, opening, self.publics)
        return justify, opening if signed and opening.party == accused else None

    def _exclude(self, task: Task, guilty: Mapping[str, str], unclear: Mapping[str, str]) -> None:
        """Exclude who deviated, and stop; where that stays open, name both and exclude nobody."""
        for name, why in guilty.items():
            self.bar(name, why=why, task=task.sha256)
        sentences = [f"{name} {why}, and is excluded." for name, why in guilty.items()]
        sentences += [
            f"{accused} and {owner} contradict each other about a share, and {accused} did not "
            "open it: one of them deviated, and nobody is excluded."
            for accused, owner in unclear.items()
        ]
        if sentences:
            named = dict.fromkeys([*guilty, *unclear, *unclear.values()])
            raise Cheating(" ".join([*sentences, "Nothing has left."]), tuple(named))
