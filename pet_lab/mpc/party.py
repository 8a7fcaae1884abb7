"""One party of the service: an input, output or processing party, or several of these at once.

Nobody is in charge. The output party asks; each processing party decides by its own policy, keeps
its share of every input, and uses it only when it has itself verified the approvals of all K. What
one party wants from another it asks over mutual TLS; its own operator speaks to it on stdin.

A task runs in five steps, each a message of the output party to all processing parties:

    propose -> (deposit, from the owners) -> open -> compare -> finish -> done

`open` puts the shares in, `compare` holds them with the check values of their owners at points
that are revealed only then, `finish` computes.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np
from msgspec.structs import replace

from pet_lab import shares
from pet_lab.parties import channel
from pet_lab.parties.channel import Channel, Options, Sent
from pet_lab.parties.errors import PartyError, PeerLost, Refused
from pet_lab.parties.log import (
    Head,
    SignedLog,
    Signer,
    canonical,
    digest,
    verify,
    verify_signature,
)

from . import catalogue, costs
from . import messages as m
from .arithmetic import Arithmetic
from .errors import Cheating, TaskError
from .mesh import Endpoint, Mesh
from .policy import Approval, Policy, Spent, approve, check_approvals, objections
from .tasks import ColumnSchema, DataRef, Record, Task, read_task

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

T = TypeVar("T")
RESERVED_S = 600.0  # how long an owner keeps prepared data, and their budget, for a task
IDLE_S = 120.0  # a computation whose output party fell silent makes room after this
MAX_FRAME = 2**27  # shares of one input of a party, in JSON


@dataclass(repr=False)
class PreparedData:
    """What an owner keeps between preparing data for a task and handing it in: a reservation."""

    draft: Task
    ref: DataRef
    rows: list[list[int]]
    salts: list[bytes]
    until: float = field(default_factory=lambda: time.monotonic() + RESERVED_S)


@dataclass(repr=False)
class Computation:
    """A computation under way at a processing party."""

    task: Task
    deposits: dict[str, m.Deposit]
    points: tuple[str, ...] = ()
    mesh: Mesh | None = None
    arithmetic: Arithmetic | None = None
    inputs: list[list[list[int]]] = field(default_factory=list)  # by side, by processing party
    check_values: dict[str, list[int]] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    cpu: float = field(default_factory=time.process_time)
    touched: float = field(default_factory=time.monotonic)


class TaskOutcome(Record, frozen=True):
    """What the output party has when a task is over, or after its approvals alone.

    table  the answer as {"columns", "data"}; None if only approvals were asked for
    """

    task: Task
    decisions: dict[str, str]
    estimate: costs.Estimate
    table: dict[str, list[Any]] | None = None
    public: catalogue.PublicFacts | None = None
    suspects: tuple[str, ...] = ()
    wall_s: float = 0.0


class ServiceParty:
    """One party; see the module.

    Parameters
    ----------
    home : folder of its credentials, its log and, for an owner, its data
    endpoint, signer : its identity on the network and under what it signs
    policy : what it agrees to
    schema : columns of its data; None if it offers none
    """

    arithmetic_type = Arithmetic

    def __init__(
        self,
        home: Path,
        endpoint: Endpoint,
        signer: Signer,
        policy: Policy,
        *,
        schema: Mapping[str, ColumnSchema] | None = None,
    ) -> None:
        self.home, self.endpoint, self.signer, self.policy = home, endpoint, signer, policy
        self.name, self.schema = signer.name, schema
        self.log = SignedLog(signer, home / "audit.jsonl")
        self.members: dict[str, m.Member] = {}
        self.sent: list[Sent] = []
        self.costs: list[m.TaskCost] = []
        self._halted = ""
        self._options = Options(max_frame=MAX_FRAME, delay_s=endpoint.delay_s)
        self._listener: socket.socket | None = None
        self._tasks: dict[str, Task] = {}
        self._safe: dict[str, dict[str, m.Deposit]] = {}
        self._prepared: dict[str, PreparedData] = {}
        self._session: Computation | None = None
        self._work: asyncio.Task[Any] | None = None
        self.endpoint.barred |= {str(e.body["party"]) for e in self.log.of("excluded")}

    # --- on the network -----------------------------------------------------------------------

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
        return m.Member(
            name=self.name,
            host=host,
            port=server.port,
            data_port=self._listener.getsockname()[1],
            public=self.signer.public,
        )

    def _turned_away(self, sentence: str) -> None:
        self.log.add("turned away", why=sentence)

    async def _serve(self, line: Channel) -> None:
        try:
            self.endpoint.admit(line.peer)
        except Refused as error:
            self._turned_away(str(error))
            raise
        if line.peer not in self.members:
            raise Refused(f"{line.peer} is not a member of this service.")
        request: m.Request = await line.receive(m.AnyRequest)  # type: ignore[arg-type]
        answer = await self.answer(line.peer, request)
        await line.send(answer, kind=str(request.__struct_config__.tag))

    async def answer(self, peer: str, request: m.Request) -> Record:
        """The answer to a request of a certified peer; a PartyError is what it gets instead."""
        steps: dict[type[m.Request], Callable[[str, Any], Any]] = {
            m.Describe: self._describe,
            m.Prepare: self._prepare,
            m.HandIn: self._hand_in,
            m.Withdraw: self._withdraw,
            m.Propose: self._decide,
            m.Deposit: self._deposit,
            m.Open: self._open,
            m.Compare: self._check,
            m.Finish: self._finish,
            m.Done: self._done,
            m.Justify: self._justify,
            m.Accuse: self._accuse,
            m.SendLog: self._send_log,
            m.SendHead: self._send_head,
        }
        if self._halted:
            raise Refused(self._halted)
        answer = steps[type(request)](peer, request)
        return await answer if inspect.isawaitable(answer) else answer

    async def ask(
        self, name: str, request: m.Request, answer_type: type[T], *, within: float = 30.0
    ) -> T:
        """Send one request to another member and return its answer.

        Raises
        ------
        PartyError
            Its refusal; PeerLost if it cannot be reached, or goes away.
        """
        if name not in self.members:
            raise Refused(f"{name} is not a member of this service.")
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

    def bar(self, name: str, *, why: str, task: str = "") -> None:
        """Exclude a party from now on, here; kept in the log, so also after a restart."""
        if name not in {self.name, *self.endpoint.barred}:
            self.endpoint.barred.add(name)
            self.log.add("excluded", party=name, why=why, task=task)

    async def compare_log(self) -> None:
        """Hold the own log against what the members kept of it; one that lost its end stops here.

        Raises
        ------
        PartyError
            Also for every request from then on.
        """

        async def kept(name: str) -> Head | None:
            try:
                return (await self.ask(name, m.SendHead(), m.KeptHead, within=5.0)).head
            except PartyError:
                return None  # not up yet, or gone: its head can be compared another time

        heads = await asyncio.gather(*(kept(n) for n in self.members if n != self.name))
        # A member can witness only what was signed here, so its lies do not stop this party.
        known = [
            h
            for h in heads
            if h is not None and verify_signature(self.signer.public, h.signed, h.signature)
        ]
        try:
            verify(self.log.entries, self.name, self.signer.public, known)
        except PartyError as error:
            self._halted = f"{self.name} does nothing until its log is restored: {error}"
            raise PartyError(self._halted) from None

    def _publics(self) -> dict[str, str]:
        return {name: member.public for name, member in self.members.items()}

    # --- as an owner of data ------------------------------------------------------------------

    def _table(self) -> pd.DataFrame:
        if self.schema is None:
            raise Refused(f"{self.name} offers no data.")
        from pet_lab.data.reader import read_table  # only owners need it, and it is slow to load

        text = [k for k, c in self.schema.items() if c.kind != "number"]
        with self._discreet():
            return read_table(self.home / "data.csv", as_text=text).frame

    @contextlib.contextmanager
    def _discreet(self) -> Iterator[None]:
        """What is wrong with the data is for this party's own operator alone (stderr)."""
        try:
            yield
        except (TaskError, ValueError) as error:
            log.warning("the data of %s: %s", self.name, error)
            raise Refused(
                f"The data of {self.name} are not as their schema says; its operator knows more."
            ) from None

    def _describe(self, peer: str, request: m.Describe) -> m.Description:
        return m.Description(rows=len(self._table()), schema=dict(self.schema or {}))

    def _prepare(self, peer: str, request: m.Prepare) -> m.Prepared:
        """Encode and split data for a draft; only commitments and check values leave."""
        draft = request.task
        if peer != draft.output_party:
            raise Refused("Only the output party of a task prepares it.")
        catalogue.check(draft)
        self._within_limits(draft)
        p, points = catalogue.modulus(draft), _numbers(request.points)
        if len(points) != draft.k or not all(0 < v < p for v in points):
            raise Refused("A check needs one point for each processing party.")
        frame = self._table()
        with self._discreet():
            self._prepared[draft.nonce] = split = self._split(draft, frame)
        values = _hex(
            shares.check_value(row, at, p) for row, at in zip(split.rows, points, strict=True)
        )
        signed = m.signed_check_values(draft, self.name, request.points, values)
        self.log.add("prepared", data=split.ref.sha256, function=draft.function)
        return m.Prepared(
            ref=split.ref, check_values=values, signature=self.signer.sign(canonical(signed))
        )

    def _within_limits(self, task: Task) -> None:
        """Refuse what this owner's policy, with all that is spent and reserved, does not allow."""
        now = time.monotonic()
        self._prepared = {k: v for k, v in self._prepared.items() if v.until > now}
        spent = self._spent("handed in", self.name, (v.draft for v in self._prepared.values()))
        reasons = objections(self.policy, task, spent, excluded=self.endpoint.barred)
        if reasons:
            self.log.add("refused", function=task.function, why=reasons)
            raise Refused(f"{self.name} gives no data: {' '.join(reasons)}")

    def _spent(self, kind: str, owner: str, reserved: Iterable[Task] = ()) -> Spent:
        """What was agreed to on one owner's data, by the log and by what is reserved.

        An owner offers one data set, and its account goes on when the file changes: the people in
        it may be the same. All tasks count, whoever the other owner is.
        """
        used = [e.body["epsilon"] for e in self.log.of(kind) if owner in e.body["owners"]]
        used += [task.epsilon for task in reserved]
        budgets = [Decimal(str(v or 0)) for v in used]
        if not all(v.is_finite() and v >= 0 for v in budgets):
            raise Refused(f"The log of {self.name} holds a budget that is no number.")
        return Spent(len(used), sum(budgets, Decimal(0)))

    def _split(self, draft: Task, frame: pd.DataFrame) -> PreparedData:
        p = catalogue.modulus(draft)
        rng = np.random.default_rng(secrets.randbits(128))
        numbers = catalogue.encode(draft, self.name, frame, rng)
        rows = shares.additive_split(numbers, draft.k, p)
        for row in rows:
            row.append(secrets.randbelow(p))  # the mask of the check value
        salts = [secrets.token_bytes(32) for _ in rows]
        commitments = tuple(
            shares.commit(shares.pack(r, p), s) for r, s in zip(rows, salts, strict=True)
        )
        return PreparedData(
            draft, replace(draft.input(self.name), commitments=commitments), rows, salts
        )

    async def _hand_in(self, peer: str, request: m.HandIn) -> m.Accepted:
        """Send each processing party its share, if the task is the one prepared for."""
        task = request.task
        split = self._prepared.pop(task.nonce, None)
        if split is None or peer != task.output_party or split.until < time.monotonic():
            raise Refused("No data was prepared for this task, or it was handed in already.")
        as_drafted = replace(
            task, inputs=tuple(replace(d, commitments=("",) * task.k) for d in task.inputs)
        )
        if as_drafted != split.draft or task.input(self.name) != split.ref:
            raise Refused("The task is not the one that the data was prepared for.")
        check_approvals(task, request.approvals, self._publics())
        self._within_limits(task)
        p = catalogue.modulus(task)
        deposits = [
            m.Deposit(task=task.sha256, share=shares.pack(row, p), salt=salt)
            for row, salt in zip(split.rows, split.salts, strict=True)
        ]
        body = {"task": task.sha256, "data": split.ref.sha256, "epsilon": _text(task.epsilon)}
        self.log.add("handed in", **body, owners=task.owners)
        to = zip(task.processing_parties, deposits, strict=True)
        await asyncio.gather(*(self.ask(name, deposit, m.Accepted) for name, deposit in to))
        return m.Accepted(head=self.log.head())

    def _withdraw(self, peer: str, request: m.Withdraw) -> m.Accepted:
        split = self._prepared.get(request.nonce)
        if split is not None and peer == split.draft.output_party:
            del self._prepared[request.nonce]
        return m.Accepted()

    # --- as a processing party ----------------------------------------------------------------

    def _decide(self, peer: str, request: m.Propose) -> m.Approved:
        """Decide about a task by this party's policy; log it either way."""
        task = request.task
        if peer != task.output_party:
            raise Refused("Only the output party of a task proposes it.")
        task.party_index(self.name)
        try:
            catalogue.check(task)
            strangers = sorted(task.everyone - set(self.members))
            if strangers:
                raise TaskError(f"Not a member of this service: {', '.join(strangers)}.")
        except PartyError as error:
            self.log.add("refused", task=task.sha256, why=[str(error)])
            raise
        if not any(e.body["task"] == task.sha256 for e in self.log.of("approved")):
            both = [self._spent("approved", owner) for owner in task.owners]
            reasons = objections(
                self.policy,
                task,
                Spent(max(s.queries for s in both), max(s.epsilon for s in both)),
                too_long=costs.too_long(task, self.policy.max_seconds),
                excluded=self.endpoint.barred,
            )
            if reasons:
                self.log.add("refused", task=task.sha256, why=reasons)
                raise Refused(f"{self.name} refuses: {' '.join(reasons)}")
            self.log.add(
                "approved",
                task=task.sha256,
                function=task.function,
                owners=task.owners,
                output=task.output_party,
                purpose=task.purpose,
                epsilon=_text(task.epsilon),
                data=[d.sha256 for d in task.inputs],
                warnings=list(task.warnings),
            )
        self._tasks[task.sha256] = task
        return m.Approved(approval=approve(self.signer, task))

    def _known(self, sha256: str) -> Task:
        task = self._tasks.get(sha256)
        if task is None:
            raise Refused(f"{self.name} has not approved this task.")
        if task.expired():
            raise Refused(f"The task expired at {task.expires}; nothing happens after that.")
        gone = sorted(task.everyone & self.endpoint.barred)
        if gone:
            raise Refused(f"{', '.join(gone)} is revoked or excluded.")
        return task

    def _deposit(self, peer: str, request: m.Deposit) -> m.Accepted:
        """Keep this party's share of an input: one of K keys, useless without the others."""
        task = self._known(request.task)
        ref, index = task.input(peer), task.party_index(self.name)
        if shares.commit(request.share, request.salt) != ref.commitments[index]:
            self.log.add("refused deposit", task=task.sha256, owner=peer)
            raise Refused(
                f"The share of {peer} does not fit the commitment in the task: the data changed "
                "after it was approved."
            )
        try:
            row = shares.unpack(request.share, catalogue.modulus(task))
        except shares.ShareError as error:
            raise Refused(f"The share of {peer} cannot be read: {error}") from None
        if len(row) != catalogue.length(task, task.inputs.index(ref)) + 1:
            raise Refused(
                f"The share of {peer} has {len(row)} numbers, which does not fit the task."
            )
        if peer in self._safe.setdefault(task.sha256, {}):
            raise Refused(f"{peer} handed in its share already.")
        self._safe[task.sha256][peer] = request
        self.log.add("deposited", task=task.sha256, owner=peer)
        return m.Accepted()

    async def _open(self, peer: str, request: m.Open) -> m.Accepted:
        """Verify every approval; only then put this party's shares in."""
        task = self._known(request.task)
        if peer != task.output_party:
            raise Refused("Only the output party of a task starts it.")
        try:
            if any(e.body["task"] == task.sha256 for e in self.log.of("started")):
                raise Refused("This task was started before; an approval is used only once.")
            check_approvals(task, request.approvals, self._publics())
            safe = self._safe.get(task.sha256, {})
            absent = [d.owner for d in task.inputs if d.owner not in safe]
            if absent:
                raise Refused(f"{', '.join(absent)} has not handed in its data.")
        except Refused as error:
            self.log.add("refused", task=task.sha256, why=[str(error)])
            raise
        if self._session is not None:
            if time.monotonic() - self._session.touched < IDLE_S:
                raise Refused(f"{self.name} is computing another task; ask again later.")
            self._drop()
        approvals = msgspec.to_builtins(request.approvals)
        self.log.add("started", task=task.sha256, approvals=approvals)
        self._session = session = Computation(task, self._safe.pop(task.sha256))
        rows = self._deposited(session)
        if task.level == "all-but-one":
            session.inputs = [[row] for row in rows]
        else:
            await self._guard(self._put_in(session, rows))
        return m.Accepted()

    def _deposited(self, session: Computation) -> list[list[int]]:
        """This party's share of each input."""
        p = catalogue.modulus(session.task)
        return [shares.unpack(session.deposits[d.owner].share, p) for d in session.task.inputs]

    async def _put_in(self, session: Computation, rows: list[list[int]]) -> None:
        task, p = session.task, catalogue.modulus(session.task)
        if self._listener is None:
            raise Refused("This party does not listen.")
        members = [self.members[n] for n in task.processing_parties]
        session.mesh = mesh = Mesh(self.endpoint, members, task.threshold, self._listener)
        await mesh.connect()
        checked = task.level == "checked"
        session.arithmetic = self.arithmetic_type(mesh.runtime, p, checked=checked)
        for row in rows:
            session.inputs.append(await session.arithmetic.put_in(row))
        # Nobody learns a point before everybody's shares are in everybody's hands.
        await session.arithmetic.coin()

    async def _check(self, peer: str, request: m.Compare) -> m.Checked:
        """Compute the check value of every share that was put in."""
        session = self._current(peer, request.task)
        points = _numbers(request.points)
        if len(points) != session.task.k or session.points:
            raise Refused("A check needs one point for each processing party, and is made once.")
        session.points = request.points
        if session.arithmetic is not None:
            await self._guard(self._open_check_values(session, session.arithmetic, points))
        return m.Checked(check_values={k: _hex(v) for k, v in session.check_values.items()})

    async def _open_check_values(
        self, session: Computation, a: Arithmetic, points: Sequence[int]
    ) -> None:
        for d, rows in zip(session.task.inputs, session.inputs, strict=True):
            # Check values are linear, so they work on shares of a share too.
            mine = [shares.check_value(r, at, a.p) for r, at in zip(rows, points, strict=True)]
            session.check_values[d.owner] = await a.open(mine)

    async def _finish(self, peer: str, request: m.Finish) -> m.Finished:
        """Compute, and give the output party this party's signed share of the answer."""
        session = self._current(peer, request.task)
        answer = await self._compute(session)
        signed = m.SignedShares(
            task=request.task,
            party=self.name,
            public=answer.public,
            shares=_hex(answer.shares),
            salt=secrets.token_hex(16),
        )
        self.log.add("finished", task=request.task, answer=digest(canonical(signed)))
        self.costs.append(self._cost(session))
        return m.Finished(
            answer=signed,
            signature=self.signer.sign(canonical(signed)),
            head=self.log.head(),
        )

    async def _compute(self, session: Computation) -> catalogue.AnswerShares:
        task, p = session.task, catalogue.modulus(session.task)
        sides = [[sum(column) % p for column in zip(*rows, strict=True)] for rows in session.inputs]
        if session.arithmetic is not None:
            unmasked = [side[:-1] for side in sides]
            answer: catalogue.AnswerShares = await self._guard(
                catalogue.compute(session.arithmetic, task, *unmasked)
            )
            return answer
        sums = [(u + v) % p for u, v in zip(*sides, strict=True)]
        noise = [*catalogue.noise(task, len(sums) - 1), 0]
        return catalogue.AnswerShares(
            [(s + e) % p for s, e in zip(sums, noise, strict=True)], catalogue.PublicFacts()
        )

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
            if peer != session.task.output_party:
                raise Refused("Only the output party of a task ends it.")
            for head in request.heads:
                self._witness(head)
            if not request.finished:
                self.log.add("aborted", task=request.task, why=request.why)
            self._drop()
        return m.Accepted()

    def _witness(self, head: Head) -> None:
        member = self.members.get(head.party)
        if member and verify_signature(member.public, head.signed, head.signature):
            self.log.add("witnessed", **msgspec.to_builtins(head))

    def _justify(self, peer: str, request: m.Justify) -> m.Opening:
        """Say that the owner's check value fits, or prove by the share that it does not."""
        task = self._case(peer, request).task
        deposit = self._current(peer, request.task).deposits[request.owner]
        bare = m.Opening(task=task.sha256, owner=request.owner, party=self.name, fits=False)
        opened = replace(bare, share=deposit.share, salt=deposit.salt)
        if _opened(task, request, opened) == request.check_values[task.party_index(self.name)]:
            opened = replace(bare, fits=True)
        else:
            self.log.add("opened a share", task=task.sha256, owner=request.owner)
        return replace(opened, signature=self.signer.sign(opened.signed))

    def _accuse(self, peer: str, request: m.Accuse) -> m.Named:
        """Exclude whoever deviated, if this party can see that for itself."""
        session = self._case(peer, request.case)
        guilty = self._guilty(
            session.task,
            request.case,
            request.opening,
            _hex(session.check_values.get(request.case.owner, ())),
        )
        for name, why in guilty.items():
            self.bar(name, why=why, task=session.task.sha256)
        return m.Named(wrong=tuple(guilty))

    def _case(self, peer: str, case: m.Justify) -> Computation:
        """The computation under way, if the check values are its owner's, at its points."""
        session = self._current(peer, case.task)
        owner = session.task.input(case.owner).owner
        signed = m.signed_check_values(session.task, owner, case.points, case.check_values)
        if (
            case.points != session.points
            or len(case.check_values) != session.task.k
            or not verify_signature(self.members[owner].public, canonical(signed), case.signature)
        ):
            raise Refused("The accusation does not carry the owner's signature for these points.")
        return session

    def _guilty(
        self, task: Task, case: m.Justify, opening: m.Opening, measured: Sequence[str]
    ) -> dict[str, str]:
        """Who deviated in a case, and how, by what the accused opened; nobody if it opened nothing.

        An honest party can always show which it is, and a signed opening is no one else's word.
        """
        owner, party, i = case.owner, opening.party, task.party_index(opening.party)
        about = (opening.task, opening.owner) == (task.sha256, owner) and len(measured) == task.k
        if not about or measured[i] == case.check_values[i]:
            return {}
        if not verify_signature(self.members[party].public, opening.signed, opening.signature):
            return {}
        value, guilty = _opened(task, case, opening), {}
        if value is not None and value != case.check_values[i]:
            guilty[owner] = f"signed a check value that its share for {party} does not have"
        if value != measured[i]:
            guilty[party] = f"used a share other than the one {owner} gave it"
        return guilty

    def _send_head(self, peer: str, request: m.SendHead) -> m.KeptHead:
        heads = [e.body for e in self.log.of("witnessed") if e.body["party"] == peer]
        last = max(heads, key=lambda head: head["n"], default=None)
        return m.KeptHead(head=msgspec.convert(last, Head | None))

    def _send_log(self, peer: str, request: m.SendLog) -> m.LogCopy:
        return m.LogCopy(entries=tuple(self.log.entries), public=self.signer.public)

    def _current(self, peer: str, sha256: str) -> Computation:
        session = self._session
        if session is None or session.task.sha256 != sha256:
            raise Refused("This task is not under way here.")
        if peer != session.task.output_party:
            raise Refused("Only the output party of a task takes it further.")
        session.touched = time.monotonic()
        return session

    async def _guard(self, work: Any) -> Any:
        """Run a step of a computation; a lost party, an abort or the time limit ends it.

        Raises
        ------
        PeerLost, Cheating, Refused
        """
        session = self._session
        self._work = task = asyncio.ensure_future(work)
        end = time.monotonic() + self.policy.max_seconds * 2 + 30
        try:
            while not task.done():
                trouble = session.mesh.trouble if session and session.mesh else None
                waits = {task, trouble} if trouble else {task}
                await asyncio.wait(waits, timeout=0.25, return_when=asyncio.FIRST_COMPLETED)
                if trouble and trouble.done() and not task.done():
                    # What it sent before it left may be enough.
                    await asyncio.sleep(0.1 + 2 * self.endpoint.delay_s)
                    if not task.done():
                        raise trouble.result()
                if time.monotonic() > end:
                    raise Refused("The computation took more than twice its limit; stopped.")
            return task.result()
        except asyncio.CancelledError:
            raise Refused("The computation was stopped.") from None
        except PartyError as error:
            if session is not None:
                self.log.add("aborted", task=session.task.sha256, why=str(error))
            self._drop()
            raise
        finally:
            task.cancel()
            self._work = None

    def _drop(self) -> None:
        if self._work is not None:
            self._work.cancel()
        if self._session is not None and self._session.mesh is not None:
            self._session.mesh.close()
        self._session = None

    # --- as the output party ------------------------------------------------------------------

    async def request(
        self, owners: Sequence[str], terms: Mapping[str, Any], *, approve_only: bool = False
    ) -> TaskOutcome:
        """Have a task computed.

        Parameters
        ----------
        owners : the two input parties
        terms : fields of `Task`, without inputs and output party
        approve_only : stop once every processing party has decided

        Raises
        ------
        PartyError
            Whatever stopped it: a refusal with the reasons, a lost party, a deviation.
        """
        if self._halted:
            raise Refused(self._halted)
        begun = time.monotonic()
        draft = await self._draft(owners, terms)
        points = _hex(1 + secrets.randbelow(catalogue.modulus(draft) - 1) for _ in range(draft.k))
        ask_owner = m.Prepare(task=draft, points=points)
        prepared = {o: await self.ask(o, ask_owner, m.Prepared, within=300.0) for o in owners}
        task = draft.with_data(*(prepared[o].ref for o in owners))
        self.log.add("requested", task=task.sha256, function=task.function)
        decisions, approvals = await self._collect(task)
        outcome = TaskOutcome(task, decisions, costs.estimate(task))
        not_needed = m.Withdraw(nonce=task.nonce)
        if approve_only:
            await self._tell(not_needed, owners)
            return outcome
        try:
            self._require_all(task, approvals, decisions)
        except Refused:
            await self._tell(not_needed, owners)
            raise
        hand_in = m.HandIn(task=task, approvals=approvals)
        handed = await asyncio.gather(
            *(self.ask(o, hand_in, m.Accepted, within=300.0) for o in owners)
        )
        try:
            started = m.Open(task=task.sha256, approvals=approvals)
            await self._ask_all(task, started, m.Accepted)
            check = m.Compare(task=task.sha256, points=points)
            checked = await self._ask_all(task, check, m.Checked)
            await self._compare_check_values(task, points, prepared, checked)
            answers = await self._ask_all(task, m.Finish(task=task.sha256), m.Finished)
            rows = self._signed_rows(task, answers)
            if task.level == "all-but-one":
                await self._compare_sums(task, points, prepared, rows)
            numbers, suspects = self._read(task, rows)
        except PartyError as error:
            await self._tell(m.Done(task=task.sha256, why=str(error)), task.processing_parties)
            self.log.add("aborted", task=task.sha256, why=str(error))
            raise
        heads = (*(a.head for a in answers), *(h.head for h in handed if h.head))
        done = m.Done(task=task.sha256, finished=True, heads=heads)
        await self._tell(done, task.processing_parties)
        for head in heads:
            self._witness(head)
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
        if reason:
            raise Refused(reason)
        return draft

    async def _collect(self, task: Task) -> tuple[dict[str, str], tuple[Approval, ...]]:
        decisions, approvals = {}, []
        for name in task.processing_parties:
            try:
                answer = await self.ask(name, m.Propose(task=task), m.Approved)
                approvals.append(answer.approval)
                decisions[name] = "approved"
            except PartyError as error:
                decisions[name] = str(error)
        return decisions, tuple(approvals)

    def _require_all(
        self, task: Task, approvals: Sequence[Approval], decisions: Mapping[str, str]
    ) -> None:
        if len(approvals) < task.k:
            why = " ".join(v for v in decisions.values() if v != "approved")
            self.log.add("aborted", task=task.sha256, why=why)
            raise Refused(f"{len(approvals)} of {task.k} approvals, so the data stay locked. {why}")

    async def _ask_all(
        self, task: Task, request: m.Open | m.Compare | m.Finish, answer_type: type[T]
    ) -> list[T]:
        """Ask all processing parties at once.

        The first that fails stops the others, and the gravest reason is raised.
        """
        names, limit = task.processing_parties, 2 * self.policy.max_seconds + 60
        asked = [
            asyncio.ensure_future(self.ask(n, request, answer_type, within=limit)) for n in names
        ]
        await asyncio.wait(asked, return_when=asyncio.FIRST_EXCEPTION)
        errors = [t.exception() for t in asked if t.done() and t.exception()]
        if errors:
            # Those who wait for the one that failed learn it themselves in a moment, or here.
            await asyncio.wait(asked, timeout=1.5)
            waiting = [n for n, t in zip(names, asked, strict=True) if not t.done()]
            await self._tell(m.Done(task=task.sha256, why=str(errors[0])), waiting)
            await asyncio.wait(asked, timeout=5.0)
            errors = [t.exception() for t in asked if t.done() and t.exception()]
            for t in asked:
                t.cancel()
            for kind in (Cheating, Refused, PeerLost, Exception):
                for error in errors:
                    if isinstance(error, kind):
                        raise error
        return [t.result() for t in asked]

    async def _compare_check_values(
        self,
        task: Task,
        points: tuple[str, ...],
        prepared: Mapping[str, m.Prepared],
        checked: Sequence[m.Checked],
    ) -> None:
        """Stop if a share that was put in is not the one that its owner gave; name and exclude."""
        if task.level == "all-but-one":
            return
        values = checked[0].check_values
        if any(c.check_values != values for c in checked) or set(values) != set(prepared):
            raise Cheating("The processing parties report different check values.")
        guilty: dict[str, str] = {}
        unclear: dict[str, str] = {}
        for owner, split in prepared.items():
            for accused in _wrong(task, split.check_values, values[owner]):
                case, opening = await self._ask_to_open(task, owner, accused, points, split)
                verdict = opening and self._guilty(task, case, opening, values[owner])
                if not opening or not verdict:
                    unclear |= {accused: owner}
                    continue
                guilty |= verdict
                accusation = m.Accuse(case=case, opening=opening)
                asked = (self.ask(n, accusation, m.Named) for n in task.processing_parties)
                await asyncio.gather(*asked, return_exceptions=True)
        self._exclude(task, guilty, unclear)

    async def _ask_to_open(
        self,
        task: Task,
        owner: str,
        accused: str,
        points: tuple[str, ...],
        split: m.Prepared,
    ) -> tuple[m.Justify, m.Opening | None]:
        case = m.Justify(
            task=task.sha256,
            owner=owner,
            points=points,
            check_values=split.check_values,
            signature=split.signature,
        )
        try:
            opening = await self.ask(accused, case, m.Opening)
        except PartyError:
            return case, None
        its_own = (opening.task, opening.owner, opening.party) == (task.sha256, owner, accused)
        signed = verify_signature(self.members[accused].public, opening.signed, opening.signature)
        return case, opening if its_own and signed else None

    def _exclude(
        self,
        task: Task,
        guilty: Mapping[str, str],
        unclear: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
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

    async def _compare_sums(
        self,
        task: Task,
        points: tuple[str, ...],
        prepared: Mapping[str, m.Prepared],
        rows: Sequence[Sequence[int]],
    ) -> None:
        """At level all-but-one: every sum fits its shares. Noise is the parties' own: no check."""
        if task.epsilon is not None:
            return
        p, guilty, unclear = catalogue.modulus(task), {}, {}
        for i, name in enumerate(task.processing_parties):
            sent = shares.check_value(rows[i], int(points[i], 16), p)
            if sent == sum(int(s.check_values[i], 16) for s in prepared.values()) % p:
                continue
            values = []
            for owner, split in prepared.items():
                case, opening = await self._ask_to_open(task, owner, name, points, split)
                if opening is None:
                    unclear[name] = owner
                    continue
                values.append(_opened(task, case, opening))
                if values[-1] not in {None, split.check_values[i]}:
                    guilty[owner] = f"signed a check value that its share for {name} does not have"
            complete = name not in unclear
            if complete and (None in values or sent != sum(int(v, 16) for v in values if v) % p):
                guilty[name] = "sent a sum that does not fit its shares"
        self._exclude(task, guilty, unclear)

    def _signed_rows(self, task: Task, answers: Sequence[m.Finished]) -> list[list[int]]:
        """The shares of the answer, one row a party, each signed by it."""
        rows, names = [], task.processing_parties
        for name, a in zip(names, answers, strict=True):
            its_own = (a.answer.party, a.answer.task) == (name, task.sha256)
            public = self.members[name].public
            if not its_own or not verify_signature(public, canonical(a.answer), a.signature):
                raise Cheating(f"The answer of {name} does not carry its signature.", (name,))
            rows.append(_numbers(a.answer.shares))
        if len({a.answer.public for a in answers}) != 1 or len({*map(len, rows)}) != 1:
            raise Cheating("The processing parties report different facts about the answer.")
        return rows

    def _read(self, task: Task, rows: list[list[int]]) -> tuple[list[int], tuple[str, ...]]:
        """Open the answer from all shares; returns its numbers, and parties corrected."""
        p, names = catalogue.modulus(task), task.processing_parties
        if task.level == "all-but-one":
            return shares.additive_join(rows, p)[:-1], ()
        if not rows[0]:
            return [], ()
        by_point = {i + 1: row for i, row in enumerate(rows)}
        try:
            opened = shares.shamir_open(by_point, needed=task.threshold + 1, prime=p)
        except shares.SharesContradict as error:
            raise Cheating(str(error)) from None
        suspects = tuple(names[point - 1] for point in opened.wrong)
        for name in suspects:
            why = "sent a share of the answer that contradicts all others"
            self.bar(name, why=why, task=task.sha256)
        return opened.values, suspects

    async def _tell(self, news: m.Done | m.Withdraw, names: Iterable[str]) -> None:
        """Tell parties that a task is over; one that does not answer does not matter any more."""
        asked = (self.ask(n, news, m.Accepted, within=5.0) for n in names)
        await asyncio.gather(*asked, return_exceptions=True)


def _hex(numbers: Iterable[int]) -> tuple[str, ...]:
    return tuple(f"{v:x}" for v in numbers)


def _numbers(texts: Iterable[str]) -> list[int]:
    return [int(text or "0", 16) for text in texts]


def _wrong(task: Task, expected: Sequence[str], computed: Sequence[str]) -> tuple[str, ...]:
    """Processing parties whose check value is not the expected one."""
    if not len(expected) == len(computed) == task.k:
        raise Cheating("There must be one check value for each processing party.")
    return tuple(
        name
        for name, a, b in zip(task.processing_parties, expected, computed, strict=True)
        if a != b
    )


def _opened(task: Task, case: m.Justify, opening: m.Opening) -> str | None:
    """The check value of an opened share; None if it is not the share in the commitment."""
    i, p = task.party_index(opening.party), catalogue.modulus(task)
    if opening.fits:
        return case.check_values[i]
    if shares.commit(opening.share, opening.salt) != task.input(case.owner).commitments[i]:
        return None
    try:
        row = shares.unpack(opening.share, p)
    except shares.ShareError:
        return None
    return f"{shares.check_value(row, int(case.points[i], 16), p):x}"


def _text(epsilon: Decimal | None) -> str | None:
    return None if epsilon is None else f"{epsilon:f}"
