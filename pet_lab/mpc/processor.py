"""A processing party: it decides by its own policy, keeps its shares, and computes with the others.

A task runs in five steps, each a message of the output party to all processing parties:

    propose -> (deposit, from the owners) -> open -> compare -> finish -> done

`open` puts the shares in, once this party has itself verified the approvals of all K; `compare`
holds them with the check values of their owners, at points that are revealed only then.
"""

import asyncio
import secrets
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from pet_lab import shares
from pet_lab.parties.errors import Refused
from pet_lab.parties.log import canonical, digest, verify_signature

from . import blame, catalogue, costs
from . import messages as m
from .arithmetic import Arithmetic
from .errors import agreed, well_formed
from .mesh import Mesh
from .party import Party, Steps, from_output_party
from .policy import approve, check_approvals, objections, spent
from .tasks import Task

T = TypeVar("T")
IDLE_S = 120.0  # a computation whose output party fell silent makes room after this


@dataclass(repr=False)
class Computation:
    """A computation under way at a processing party; without a mesh at level all-but-one."""

    task: Task
    deposits: dict[str, m.Deposit]
    points: tuple[str, ...] = ()
    mesh: Mesh | None = None
    arithmetic: Arithmetic | None = None
    inputs: list[list[list[int]]] = field(default_factory=list)  # by side and processing party
    check_values: dict[str, tuple[str, ...]] = field(default_factory=dict)  # by owner, at `points`
    finished: bool = False  # or about to be
    started: float = field(default_factory=time.monotonic)
    cpu: float = field(default_factory=time.process_time)
    touched: float = field(default_factory=time.monotonic)


class Processor(Party):
    """A party that holds shares of others' data and computes on them."""

    arithmetic_type = Arithmetic

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.costs: list[m.TaskCost] = []
        self._tasks: dict[str, Task] = {}
        self._safe: dict[str, dict[str, m.Deposit]] = {}
        self._session: Computation | None = None
        self._work: asyncio.Task[Any] | None = None

    @property
    def steps(self) -> Steps:
        """Who answers which request."""
        before: Steps = {m.Propose: self._propose, m.Deposit: self._deposit, m.Open: self._open}
        under_way: Steps = {m.Compare: self._compare, m.Finish: self._finish, m.Done: self._done}
        blaming: Steps = {m.Justify: self._justify, m.Accuse: self._accuse}
        return super().steps | before | under_way | blaming

    def _propose(self, peer: str, request: m.Propose) -> m.Approval:
        """Decide about a task by this party's policy; log it either way."""
        task = request.task
        from_output_party(peer, task)
        task.party_index(self.name)
        with self.noting("refused", task=task.sha256):
            catalogue.check(task)
            strangers = ", ".join(sorted(task.everyone - set(self.members)))
            well_formed(not strangers, f"Not a member of this service: {strangers}.")
            if not any(e.body["task"] == task.sha256 for e in self.log.of("approved")):
                self._approve(task)
        self._tasks[task.sha256] = task
        return approve(self.signer, task)

    def _approve(self, task: Task) -> None:
        """Consent, or refuse with every reason of the policy."""
        reasons = objections(
            self.policy,
            task,
            spent(self.log, "approved", task.owners),
            too_long=costs.too_long(task, self.policy.max_seconds),
            excluded=self.endpoint.barred,
        )
        agreed(not reasons, f"{self.name} refuses: {' '.join(reasons)}")
        self.log.add(
            "approved",
            task=task.sha256,
            function=task.function,
            owners=task.owners,
            output=task.output_party,
            purpose=task.purpose,
            epsilon=task.epsilon_text,
            data=[d.sha256 for d in task.inputs],
            warnings=list(task.warnings),
        )

    def _approved(self, sha256: str) -> Task:
        """A task that this party approved and that may still run."""
        agreed(sha256 in self._tasks, f"{self.name} has not approved this task.")
        task = self._tasks[sha256]
        agreed(not task.expired(), f"The task expired at {task.expires}; nothing happens then.")
        gone = ", ".join(sorted(task.everyone & self.endpoint.barred))
        agreed(not gone, f"{gone} is revoked or excluded.")
        return task

    def _deposit(self, peer: str, request: m.Deposit) -> m.Accepted:
        """Keep this party's share of an input: one of K keys, useless without the others."""
        task = self._approved(request.task)
        ref, of_peer = task.input(peer), f"The share of {peer}"
        committed = ref.commitments[task.party_index(self.name)]
        with self.noting("refused deposit", task=task.sha256, owner=peer):
            agreed(
                shares.commit(request.share, request.salt) == committed,
                f"{of_peer} does not fit its commitment: the data changed after it was approved.",
            )
        try:
            n = len(shares.unpack(request.share, catalogue.modulus(task)))
        except shares.ShareError as error:
            raise Refused(f"{of_peer} cannot be read: {error}") from None
        fits = n == catalogue.length(task, task.inputs.index(ref)) + 1
        agreed(fits, f"{of_peer} has {n} numbers, which does not fit the task.")
        safe = self._safe.setdefault(task.sha256, {})
        agreed(peer not in safe, f"{peer} handed in its share already.")
        safe[peer] = request
        self.log.add("deposited", task=task.sha256, owner=peer)
        return m.Accepted()

    async def _open(self, peer: str, request: m.Open) -> m.Accepted:
        """Verify every approval; only then put this party's shares in."""
        task = self._approved(request.task)
        from_output_party(peer, task)
        with self.noting("refused", task=task.sha256):
            started = any(e.body["task"] == task.sha256 for e in self.log.of("started"))
            agreed(not started, "This task was started before; an approval is used only once.")
            check_approvals(task, request.approvals, self.publics)
            absent = ", ".join(sorted(set(task.owners) - set(self._safe.get(task.sha256, {}))))
            agreed(not absent, f"{absent} has not handed in its data; wait for it, or ask anew.")
        if self._session is not None:
            idle = time.monotonic() - self._session.touched >= IDLE_S
            agreed(idle, f"{self.name} is computing another task; ask again later.")
            self._drop()
        self.log.add("started", task=task.sha256, approvals=msgspec.to_builtins(request.approvals))
        self._session = session = Computation(task, self._safe.pop(task.sha256))
        rows = self._deposited(session)
        if task.level == "all-but-one":
            session.inputs = [[row] for row in rows]
            return m.Accepted()
        assert self._listener is not None  # who asked this came in there
        members = [self.members[n] for n in task.processing_parties]
        session.mesh = Mesh(self.endpoint, members, task.threshold, self._listener)
        await self._guard(session, self._put_in(session, session.mesh, rows))
        return m.Accepted()

    def _deposited(self, session: Computation) -> list[list[int]]:
        """This party's share of each input."""
        p = catalogue.modulus(session.task)
        return [shares.unpack(session.deposits[d.owner].share, p) for d in session.task.inputs]

    async def _put_in(self, session: Computation, mesh: Mesh, rows: list[list[int]]) -> None:
        task = session.task
        await mesh.connect()
        session.arithmetic = a = self.arithmetic_type(
            mesh.runtime, catalogue.modulus(task), checked=task.level == "checked"
        )
        for row in rows:
            session.inputs.append(await a.put_in(row))
        await a.coin()  # nobody learns a point before everybody's shares are in everybody's hands

    async def _compare(self, peer: str, request: m.Compare) -> m.Checked:
        """Compute the check value of every share that was put in."""
        session = self._current(peer, request.task)
        points = m.as_numbers(request.points)
        once = len(points) == session.task.k and not session.points
        agreed(once, "A check needs one point for each processing party, and is made once.")
        session.points = request.points
        if session.arithmetic is not None:
            for d, rows in zip(session.task.inputs, session.inputs, strict=True):
                # Check values are linear, so they work on shares of a share too.
                a, at = session.arithmetic, zip(rows, points, strict=True)
                mine = [shares.check_value(row, point, a.p) for row, point in at]
                values = await self._guard(session, a.open(mine))
                session.check_values[d.owner] = m.as_text(values)
        return m.Checked(session.check_values)

    async def _finish(self, peer: str, request: m.Finish) -> m.Finished:
        """Compute, and give the output party this party's signed share of the answer."""
        session = self._current(peer, request.task)
        # A second answer would have fresh noise: the budget pays for one, and a mean tells more.
        agreed(not session.finished, "This task was answered before; its noise is drawn once.")
        session.finished = True
        answer = await self._compute(session)
        numbers, salt = m.as_text(answer.shares), secrets.token_hex(16)
        signed = m.SignedShares(request.task, self.name, answer.public, numbers, salt)
        content = canonical(signed)
        self.log.add("finished", task=request.task, answer=digest(content))
        self.costs.append(self._cost(session))
        return m.Finished(signed, self.signer.sign(content), self.log.head())

    async def _compute(self, session: Computation) -> catalogue.AnswerShares:
        task, p, a = session.task, catalogue.modulus(session.task), session.arithmetic
        sides = [shares.additive_join(rows, p) for rows in session.inputs]
        if a is not None:
            x, y = (side[:-1] for side in sides)  # without their masks
            return await self._guard(session, catalogue.compute(a, task, x, y))
        noise = [*catalogue.noise(task, len(sides[0]) - 1), 0]
        return catalogue.AnswerShares(shares.additive_join([*sides, noise], p))

    def _cost(self, session: Computation) -> m.TaskCost:
        a, to = session.arithmetic, session.mesh.bytes_sent if session.mesh else {}
        return m.TaskCost(
            party=self.name,
            wall_s=time.monotonic() - session.started,
            cpu_s=time.process_time() - session.cpu,
            products=a.products if a else 0,
            opened=a.opened if a else 0,
            rounds=a.rounds if a else 1,
            bytes=sum(to.values()),
            to=to,
        )

    def _done(self, peer: str, request: m.Done) -> m.Accepted:
        """The output party is through, or gave up; heads of the others' logs are kept."""
        session = self._session
        if session is not None and session.task.sha256 == request.task:
            from_output_party(peer, session.task)
            self.witness(request.heads)
            if not request.finished:
                self.log.add("aborted", task=request.task, why=request.why)
            self._drop()
        return m.Accepted()

    def _current(self, peer: str, sha256: str) -> Computation:
        session = self._session
        if session is None or session.task.sha256 != sha256:
            raise Refused("This task is not under way here.")
        from_output_party(peer, session.task)
        session.touched = time.monotonic()
        return session

    async def _guard(self, session: Computation, step: Coroutine[Any, Any, T]) -> T:
        """Run a step of a computation; a lost party, a deviation or the time limit ends it."""
        assert session.mesh is not None
        self._work = work = asyncio.ensure_future(step)
        trouble = session.mesh.trouble
        waits: set[asyncio.Future[Any]] = {work, trouble}
        try:
            with self.noting("aborted", task=session.task.sha256):
                limit = self.policy.max_seconds * 2 + 30
                await asyncio.wait(waits, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
                if trouble.done() and not work.done():
                    # What it sent before it left may be enough.
                    await asyncio.wait({work}, timeout=0.1 + 2 * self.endpoint.delay_s)
                    if not work.done():
                        raise trouble.result()
                agreed(work.done(), "The computation took more than twice its limit; stopped.")
                return work.result()
        except asyncio.CancelledError:
            raise Refused("The computation was stopped.") from None
        except Exception:
            self._drop()
            raise
        finally:
            work.cancel()
            self._work = None

    def _drop(self) -> None:
        if self._work is not None:
            self._work.cancel()
        if self._session is not None and self._session.mesh is not None:
            self._session.mesh.close()
        self._session = None

    def _justify(self, peer: str, request: m.Justify) -> m.Opening:
        """Say that the owner's check value fits, or prove by the share that it does not."""
        session = self._case(peer, request)
        task, deposit = session.task, session.deposits[request.owner]
        bare = m.Opening(task=task.sha256, owner=request.owner, party=self.name, fits=False)
        opening = replace(bare, share=deposit.share, salt=deposit.salt)
        expected = request.check_values[task.party_index(self.name)]
        if blame.opened_value(task, request, opening) == expected:
            opening = replace(bare, fits=True)
        else:
            self.log.add("opened a share", task=task.sha256, owner=request.owner)
        return replace(opening, signature=self.signer.sign(opening.signed))

    def _accuse(self, peer: str, request: m.Accuse) -> m.Accepted:
        """Exclude whoever deviated, if this party can see that for itself."""
        session, case = self._case(peer, request.case), request.case
        measured = session.check_values.get(case.owner, ())
        deviants = blame.guilty(session.task, case, request.opening, measured, self.publics)
        for name, why in deviants.items():
            self.bar(name, why=why, task=session.task.sha256)
        return m.Accepted()

    def _case(self, peer: str, case: m.Justify) -> Computation:
        """The computation under way, if the check values are its owner's, at its points."""
        session = self._current(peer, case.task)
        task, owner = session.task, session.task.input(case.owner).owner
        signed = m.signed_check_values(task.nonce, owner, case.points, case.check_values)
        agreed(
            case.points == session.points
            and len(case.check_values) == task.k
            and verify_signature(self.publics[owner], signed, case.signature),
            "The accusation does not carry the owner's signature for these points.",
        )
        return session
