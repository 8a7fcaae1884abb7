"""One party of the service: an input, output or processing party, or several of these at once.

Nobody is in charge. The output party asks; each processing party decides by its own policy, keeps
its share of every input, and uses it only when it has itself verified the approvals of all K. What
one party wants from another it asks over mutual TLS; its own operator speaks to it on stdin.

A task runs in five steps, each a message of the output party to all processing parties:

    propose -> (deposit, from the owners) -> open -> check -> finish -> done

`open` puts the shares in, `check` reveals the points of the check words, `finish` computes.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import catalogue, costs, sharing
from .arithmetic import Arithmetic
from .audit import AuditLog, Head
from .errors import Cheating, MpcError, PartyLost, Refused, TaskError
from .policy import (
    Approval,
    Policy,
    Signer,
    Spent,
    approve,
    check_approvals,
    everyone,
    objections,
    verify_signature,
)
from .tasks import Column, DataRef, Task, canonical, digest
from .wire import Doors, Member, Mesh, Sent, ask, from_text, serve, to_text

if TYPE_CHECKING:
    import pandas as pd

IDLE_S = 120.0  # a computation whose output party fell silent makes room after this


@dataclass
class Prepared:
    """What an owner keeps between preparing data for a task and handing it in."""

    draft: Task
    ref: DataRef
    rows: list[list[int]]
    salts: list[bytes]


@dataclass
class Session:
    """A computation under way at a processing party."""

    task: Task
    mesh: Mesh | None = None
    arithmetic: Arithmetic | None = None
    inputs: list[list[list[int]]] = field(default_factory=list)  # by side, by seat
    words: dict[str, list[int]] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    cpu: float = field(default_factory=time.process_time)
    touched: float = field(default_factory=time.monotonic)


class Party:
    """See the module. `faults` make it misbehave, for tests and demonstrations only:

    ignore_policy  approves all; start_early  uses its share without all approvals;
    wrong_share, wrong_product, wrong_result  deviate; die  ends in the middle;
    change_data  alters a cell after the approvals; push  starts a task that was refused.
    """

    def __init__(  # noqa: PLR0917
        self,
        home: Path,
        doors: Doors,
        signer: Signer,
        policy: Policy,
        faults: Iterable[str] = (),
        schema: Mapping[str, Column] | None = None,
    ) -> None:
        self.home, self.doors, self.signer, self.policy = home, doors, signer, policy
        self.faults, self.schema = set(faults), schema
        self.name = signer.name
        self.log = AuditLog(signer, home / "audit.jsonl")
        self.members: dict[str, Member] = {}
        self.sent: list[Sent] = []
        self.door: socket.socket | None = None
        self._tasks: dict[str, Task] = {}
        self._safe: dict[str, dict[str, list[int]]] = {}
        self._prepared: dict[str, Prepared] = {}
        self._session: Session | None = None
        self._work: asyncio.Task[Any] | None = None
        self.doors.barred |= {str(e.body["party"]) for e in self.log.of("excluded")}

    # --- door ---------------------------------------------------------------------------------

    async def listen(self, host: str) -> tuple[int, int]:
        """Open both doors; returns (control port, data port)."""
        server = await serve(self.doors, host, self.answer, self._turned_away)
        self.door = socket.create_server((host, 0))
        self.door.setblocking(False)
        return server.sockets[0].getsockname()[1], self.door.getsockname()[1]

    def _turned_away(self, sentence: str) -> None:
        self.log.add("turned away", why=sentence)

    async def answer(self, who: str, message: dict[str, Any]) -> dict[str, Any]:
        """One control message; `who` is the name in the sender's certificate."""
        if who not in self.members:
            raise Refused(f"{who} is not a member of this service.")
        steps: dict[str, Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "describe": self._describe,
            "prepare": self._prepare,
            "hand in": self._hand_in,
            "propose": self._propose,
            "deposit": self._deposit,
            "open": self._open,
            "check": self._check,
            "finish": self._finish,
            "done": self._done,
            "accuse": self._accuse,
            "log": self._send_log,
        }
        step = steps.get(str(message.get("do")))
        if step is None:
            raise Refused("There is no such request.")
        return await step(who, message)

    # --- as an owner of data ------------------------------------------------------------------

    def _table(self) -> pd.DataFrame:
        if self.schema is None:
            raise Refused(f"{self.name} offers no data.")
        import pandas as pd  # only owners need it, and it is slow to load

        text = {k: str for k, c in self.schema.items() if c.kind != "number"}
        return pd.read_csv(self.home / "data.csv", dtype=text)

    async def _describe(self, who: str, message: dict[str, Any]) -> dict[str, Any]:
        frame, schema = self._table(), self.schema or {}
        return {"rows": len(frame), "schema": {k: asdict(c) for k, c in schema.items()}}

    async def _prepare(self, who: str, message: dict[str, Any]) -> dict[str, Any]:
        """Encode and split the data for a draft; nothing leaves but commitments and check words."""
        draft = Task.from_json(message["task"])
        if who != draft.output_party:
            raise Refused("Only the output party of a task prepares it.")
        catalogue.check(draft)
        handed = [e.body for e in self.log.of("handed in") if e.body["owners"] == _owners(draft)]
        spent = Spent(len(handed), sum(b["epsilon"] or 0.0 for b in handed))
        why = objections(self.policy, draft, spent, excluded=self.doors.barred)
        if why:
            self.log.add("refused", function=draft.function, why=why)
            raise Refused(f"{self.name} gives no data: {' '.join(why)}")
        p, points = catalogue.modulus(draft), [int(v, 16) for v in message["points"]]
        if len(points) != draft.k or not all(0 < v < p for v in points):
            raise Refused("A check needs one point for each processing party.")
        self._prepared[draft.nonce] = prepared = self._split(draft, self._table())
        words = [f"{v:x}" for v in sharing.check_words(prepared.rows, points, p)]
        said = {
            "nonce": draft.nonce,
            "owner": self.name,
            "points": message["points"],
            "words": words,
        }
        self.log.add("prepared", data=prepared.ref.sha256, function=draft.function)
        return {
            "ref": prepared.ref.as_json(),
            "words": words,
            "signature": self.signer.sign(canonical(said)),
        }

    def _split(self, draft: Task, frame: pd.DataFrame) -> Prepared:
        p = catalogue.modulus(draft)
        rng = np.random.default_rng(secrets.randbits(128))
        numbers = catalogue.encode(draft, self.name, frame, rng)
        rows = sharing.split(numbers, draft.k, p)
        for row in rows:
            row.append(secrets.randbelow(p))  # the mask of the check word
        salts = [secrets.token_bytes(32) for _ in rows]
        commitments = tuple(
            sharing.commit(sharing.pack(r, p), s) for r, s in zip(rows, salts, strict=True)
        )
        ref = replace(draft.input(self.name), commitments=commitments)
        return Prepared(draft, ref, rows, salts)

    async def _hand_in(self, who: str, message: dict[str, Any]) -> dict[str, Any]:
        """Send each processing party its share, if the task is the one prepared for."""
        task = Task.from_json(message["task"])
        prepared = self._prepared.pop(task.nonce, None)
        if prepared is None or who != task.output_party:
            raise Refused("No data was prepared for this task, or it was handed in already.")
        drafted = {d.owner: replace(d, commitments=()) for d in prepared.draft.inputs}
        same = all(replace(d, commitments=()) == drafted[d.owner] for d in task.inputs)
        if (
            not same
            or replace(task, inputs=prepared.draft.inputs) != prepared.draft
            or dict(task.parameters) != dict(prepared.draft.parameters)
            or task.input(self.name) != prepared.ref
        ):
            raise Refused("The task is not the one that the data was prepared for.")
        if task.expired():
            raise Refused(f"The task expired at {task.expires}.")
        check_approvals(
            task,
            [Approval(**a) for a in message["approvals"]],
            {n: m.public for n, m in self.members.items()},
        )
        if "change_data" in self.faults:
            prepared = self._split(task, _changed(self._table(), self.schema or {}))
        p = catalogue.modulus(task)
        await asyncio.gather(
            *(
                self._ask(
                    name,
                    {
                        "do": "deposit",
                        "task": task.sha256,
                        "share": to_text(sharing.pack(row, p)),
                        "salt": salt.hex(),
                    },
                )
                for name, row, salt in zip(
                    task.processing_parties, prepared.rows, prepared.salts, strict=True
                )
            )
        )
        self.log.add(
            "handed in",
            task=task.sha256,
            data=prepared.ref.sha256,
            owners=_owners(task),
            epsilon=task.epsilon,
        )
        return {}

    # --- as a processing party ----------------------------------------------------------------

    async def _propose(self, who: str, message: dict[str, Any]) -> dict[str, Any]:
        """Decide about a task by this party's policy; log it either way."""
        task = Task.from_json(message["task"])
        if who != task.output_party:
            raise Refused("Only the output party of a task proposes it.")
        task.seat(self.name)
        try:
            catalogue.check(task)
            strangers = sorted(everyone(task) - set(self.members))
            if strangers:
                raise TaskError(f"Not a member of this service: {', '.join(strangers)}.")
            slow = costs.too_long(task, self.policy.max_seconds)
        except MpcError as error:
            self.log.add("refused", task=task.sha256, why=[str(error)])
            raise
        owners = _owners(task)
        known = [e for e in self.log.of("approved") if e.body["task"] == task.sha256]
        mine = [e.body for e in self.log.of("approved") if e.body["owners"] == owners]
        spent = Spent(len(mine), sum(b["epsilon"] or 0.0 for b in mine))
        if not known and "ignore_policy" not in self.faults:
            why = objections(self.policy, task, spent, too_long=slow, excluded=self.doors.barred)
            if why:
                self.log.add("refused", task=task.sha256, why=why)
                raise Refused(f"{self.name} refuses: {' '.join(why)}")
        if not known:
            self.log.add(
                "approved",
                task=task.sha256,
                function=task.function,
                owners=owners,
                output=task.output_party,
                purpose=task.purpose,
                epsilon=task.epsilon,
                data=[d.sha256 for d in task.inputs],
                warnings=list(task.warnings),
            )
        self._tasks[task.sha256] = task
        return {"approval": asdict(approve(self.signer, task))}

    def _known(self, message: dict[str, Any]) -> Task:
        task = self._tasks.get(str(message.get("task")))
        if task is None:
            raise Refused(f"{self.name} has not approved this task.")
        if task.expired():
            raise Refused(f"The task expired at {task.expires}; nothing happens after that.")
        gone = sorted(everyone(task) & self.doors.barred)
        if gone:
            raise Refused(f"{', '.join(gone)} is revoked or excluded.")
        return task

    async def _deposit(self, who: str, message: dict[str, Any]) -> dict[str, Any]:
        """Keep this party's share of an input: one of K keys, useless without the others."""
        task = self._known(message)
        ref, seat = task.input(who), task.seat(self.name)
        raw = from_text(message["share"])
        if sharing.commit(raw, bytes.fromhex(message["salt"])) != ref.commitments[seat]:
            self.log.add("refused deposit", task=task.sha256, owner=who)
            raise Refused(
                f"The share of {who} does not fit the commitment in the task: the data changed "
                "after it was approved."
            )
        row = sharing.unpack(raw, catalogue.modulus(task))
        if len(row) != catalogue.length(task, task.inputs.index(ref)) + 1:
            raise Refused(
                f"The share of {who} has {len(row)} numbers, which does not fit the task."
            )
        if who in self._safe.setdefault(task.sha256, {}):
            raise Refused(f"{who} handed in its share already.")
        self._safe[task.sha256][who] = row
        self.log.add("deposited", task=task.sha256, owner=who)
        return {}

    async def _open(self, who: str, message: dict[str, Any]) -> dict[str, Any]:
        """Verify every approval; only then put this party's shares in."""
        task = self._known(message)
        if who != task.output_party:
            raise Refused("Only the output party of a task starts it.")
        approvals = [Approval(**a) for a in message["approvals"]]
        try:
            if any(e.body["task"] == task.sha256 for e in self.log.of("started")):
                raise Refused("This task was started before; an approval is used only once.")
            if "start_early" not in self.faults:
                check_approvals(task, approvals, {n: m.public for n, m in self.members.items()})
            absent = [
                d.owner for d in task.inputs if d.owner not in self._safe.get(task.sha256, {})
            ]
            if absent:
                raise Refused(f"{', '.join(absent)} has not handed in its data.")
        except Refused as error:
            self.log.add("refused", task=task.sha256, why=[str(error)])
            raise
        if self._session is not None:
            if time.monotonic() - self._session.touched < IDLE_S:
                raise Refused(f"{self.name} is computing another task; ask again later.")
            self._drop()
        self.log.add("started", task=task.sha256, approvals=[asdict(a) for a in approvals])
        self._session = session = Session(task)
        safe = self._safe.pop(task.sha256)
        rows = [list(safe[d.owner]) for d in task.inputs]
        if "wrong_share" in self.faults:
            rows[0][0] = (rows[0][0] + 1) % catalogue.modulus(task)
        if task.level == "all-but-one":
            session.inputs = [[row] for row in rows]
            return {}
        await self._guard(self._put_in(session, rows))
        return {}

    async def _put_in(self, session: Session, rows: list[list[int]]) -> None:
        task, p = session.task, catalogue.modulus(session.task)
        if self.door is None:
            raise MpcError("This party does not listen.")
        seats = [self.members[n] for n in task.processing_parties]
        session.mesh = mesh = Mesh(self.doors, seats, task.threshold, self.door)
        await mesh.connect()
        fault = "product" if "wrong_product" in self.faults else ""
        session.arithmetic = Arithmetic(
            mesh.runtime, p, checked=task.level == "checked", fault=fault
        )
        for row in rows:
            session.inputs.append(await session.arithmetic.put_in(row))
        # Nobody learns a point before everybody's shares are in everybody's hands.
        await session.arithmetic.coin()

    async def _check(self, who: str, message: dict[str, Any]) -> dict[str, Any]:
        """Compute the check word of every share that was put in."""
        session = self._current(who, message)
        points = [int(v, 16) for v in message["points"]]
        if session.arithmetic is not None:
            await self._guard(self._words(session, session.arithmetic, points))
        return {"words": {k: [f"{v:x}" for v in w] for k, w in session.words.items()}}

    async def _words(self, session: Session, a: Arithmetic, points: list[int]) -> None:
        for d, by_seat in zip(session.task.inputs, session.inputs, strict=True):
            mine = [sharing.word(r, at, a.p) for r, at in zip(by_seat, points, strict=True)]
            session.words[d.owner] = await a.open(mine)

    async def _finish(self, who: str, message: dict[str, Any]) -> dict[str, Any]:
        """Compute, and give the output party this party's signed share of the answer."""
        session = self._current(who, message)
        task, p = session.task, catalogue.modulus(session.task)
        if "die" in self.faults:
            os._exit(9)
        if session.arithmetic is None:
            x, y = (by_seat[0] for by_seat in session.inputs)
            shares, public = [(u + v) % p for u, v in zip(x, y, strict=True)], {}
            noise = catalogue.noise(task, len(shares) - 1)
            shares = [(s + e) % p for s, e in zip(shares, [*noise, 0], strict=True)]
        else:
            made = await self._guard(self._compute(session, session.arithmetic))
            shares, public = made.shares, made.public
        if "wrong_result" in self.faults and shares:
            shares[0] = (shares[0] + 1) % p
        said: dict[str, Any] = {"task": task.sha256, "party": self.name, "public": public}
        said["shares"] = [f"{v:x}" for v in shares]
        self.log.add("finished", task=task.sha256, public=public, answer=digest(canonical(said)))
        return {
            "said": said,
            "signature": self.signer.sign(canonical(said)),
            "head": asdict(self.log.head()),
            "cost": self._cost(session),
        }

    async def _compute(self, session: Session, a: Arithmetic) -> catalogue.Answer:
        p = a.p
        sides = [
            [sum(column) % p for column in zip(*(r[:-1] for r in by_seat), strict=True)]
            for by_seat in session.inputs
        ]
        return await catalogue.compute(a, session.task, *sides)

    def _cost(self, session: Session) -> dict[str, Any]:
        a, mesh = session.arithmetic, session.mesh
        peers: dict[str, int] = {}
        for link in mesh._links if mesh else []:
            peers[mesh.seats[link.certified].name] = link.nbytes_sent  # type: ignore[union-attr]
        return {
            "party": self.name,
            "wall_s": time.monotonic() - session.started,
            "cpu_s": time.process_time() - session.cpu,
            "products": a.products if a else 0,
            "opened": a.opened if a else 0,
            "rounds": a.rounds if a else 1,
            "bytes": sum(peers.values()),
            "to": peers,
        }

    async def _done(self, who: str, message: dict[str, Any]) -> dict[str, Any]:
        """The output party is through, or gave up; heads of the others' logs are kept."""
        session = self._session
        if session is not None and session.task.sha256 == message.get("task"):
            if who != session.task.output_party:
                raise Refused("Only the output party of a task ends it.")
            for head in message.get("heads", ()):
                self._witness(Head(**head))
            if not message.get("finished"):
                self.log.add("aborted", task=session.task.sha256, why=str(message.get("why", "")))
            self._drop()
        return {}

    def _witness(self, head: Head) -> None:
        member = self.members.get(head.party)
        if member and verify_signature(member.public, head.signed, head.signature):
            self.log.add("witnessed", **asdict(head))

    async def _accuse(self, who: str, message: dict[str, Any]) -> dict[str, Any]:
        """Exclude a party whose share did not fit, if this party can see that for itself."""
        session = self._current(who, message)
        task, owner = session.task, str(message["owner"])
        said = {"nonce": task.nonce, "owner": owner}
        said |= {"points": message["points"], "words": message["words"]}
        if not verify_signature(
            self.members[task.input(owner).owner].public, canonical(said), message["signature"]
        ):
            raise Refused("The accusation does not carry the owner's signature.")
        expected = [int(v, 16) for v in message["words"]]
        wrong = [
            task.processing_parties[s]
            for s, (a, b) in enumerate(zip(expected, session.words[owner], strict=True))
            if a != b
        ]
        for name in wrong:
            if name != self.name:
                self.bar(name, f"used a share other than the one {owner} gave it", task.sha256)
        return {"wrong": wrong}

    def bar(self, name: str, why: str, task: str = "") -> None:
        """Exclude a party from now on, here; kept in the log, so also after a restart."""
        self.doors.barred.add(name)
        self.log.add("excluded", party=name, why=why, task=task)

    async def _send_log(self, who: str, message: dict[str, Any]) -> dict[str, Any]:
        return {"entries": [asdict(e) for e in self.log.entries], "public": self.signer.public}

    def _current(self, who: str, message: dict[str, Any]) -> Session:
        session = self._session
        if session is None or session.task.sha256 != message.get("task"):
            raise Refused("This task is not under way here.")
        if who != session.task.output_party:
            raise Refused("Only the output party of a task takes it further.")
        session.touched = time.monotonic()
        return session

    async def _guard(self, work: Any) -> Any:
        """Run a step of a computation; a lost party, an abort or the time limit ends it.

        Raises
        ------
        PartyLost, Cheating
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
                    await asyncio.sleep(0.1)  # what it sent before it left may be enough
                    if not task.done():
                        raise trouble.result()
                if time.monotonic() > end:
                    raise MpcError("The computation took more than twice its limit; stopped.")
            return task.result()
        except asyncio.CancelledError:
            raise MpcError("The computation was stopped.") from None
        except MpcError as error:
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

    async def _ask(
        self, name: str, message: dict[str, Any], timeout_s: float = 30.0
    ) -> dict[str, Any]:
        if name not in self.members:
            raise Refused(f"{name} is not a member of this service.")
        return await ask(self.doors, self.members[name], message, self.sent, timeout_s=timeout_s)

    async def request(
        self, *, owners: list[str], approve_only: bool = False, **terms: Any
    ) -> dict[str, Any]:
        """Have a task computed; returns the answer, its costs and every party's decision.

        Parameters
        ----------
        owners : the two input parties
        **terms : fields of `Task`, without inputs and output party

        Raises
        ------
        MpcError
            Whatever stopped it: a refusal with the reasons, a lost party, a deviation.
        """
        begun = time.monotonic()
        refs = []
        for owner in owners:
            told = await self._ask(owner, {"do": "describe"})
            empty = [""] * len(terms.get("processing_parties", ()))
            refs.append(DataRef.from_json({**told, "owner": owner, "commitments": empty}))
        draft = Task.from_json(
            {**terms, "inputs": [r.as_json() for r in refs], "output_party": self.name}
            | {"nonce": secrets.token_hex(16)}
        )
        catalogue.check(draft)
        slow = costs.too_long(draft, self.policy.max_seconds)
        if slow:
            raise Refused(slow)
        p = catalogue.modulus(draft)
        points = [f"{1 + secrets.randbelow(p - 1):x}" for _ in range(draft.k)]
        message = {"do": "prepare", "task": draft.as_json(), "points": points}
        prepared = {o: await self._ask(o, message, timeout_s=300) for o in owners}
        task = draft.with_data(*(DataRef.from_json(prepared[o]["ref"]) for o in owners))
        self.log.add("requested", task=task.sha256, function=task.function)
        decisions, approvals = await self._collect(task)
        given = [asdict(a) for a in approvals]
        base = {"task": task.as_json(), "sha256": task.sha256, "decisions": decisions}
        base |= {"warnings": list(task.warnings), "estimate": asdict(costs.estimate(task))}
        if approve_only:
            return base
        pps = task.processing_parties
        if len(approvals) < task.k and "push" not in self.faults:
            why = " ".join(v for v in decisions.values() if v != "approved")
            self.log.add("aborted", task=task.sha256, why=why)
            raise Refused(f"{len(approvals)} of {task.k} approvals, so the data stay locked. {why}")
        hand_in = {"do": "hand in", "task": task.as_json(), "approvals": given}
        await asyncio.gather(*(self._ask(o, hand_in, 300) for o in owners))
        try:
            limit = 2 * self.policy.max_seconds + 60
            await self._all(pps, {"do": "open", "task": task.sha256, "approvals": given}, limit)
            checked = await self._all(
                pps, {"do": "check", "task": task.sha256, "points": points}, limit
            )
            await self._compare_words(task, points, prepared, checked)
            answers = await self._all(pps, {"do": "finish", "task": task.sha256}, limit)
            heads = [a["head"] for a in answers]
            opened, public, suspects = self._read(task, points, prepared, answers)
        except MpcError as error:
            await self._tell_done(task, finished=False, why=str(error))
            self.log.add("aborted", task=task.sha256, why=str(error))
            raise
        await self._tell_done(task, finished=True, heads=heads)
        for head in heads:
            self._witness(Head(**head))
        table = catalogue.decode(task, opened, public)
        self.log.add("received", task=task.sha256, answer=digest(canonical(table.to_json())))
        return base | {
            "table": json.loads(table.to_json(orient="split", double_precision=15)),
            "public": public,
            "suspects": list(suspects),
            "costs": [a["cost"] for a in answers],
            "wall_s": time.monotonic() - begun,
        }

    async def _collect(self, task: Task) -> tuple[dict[str, str], list[Approval]]:
        decisions, approvals = {}, []
        for name in task.processing_parties:
            try:
                told = await self._ask(name, {"do": "propose", "task": task.as_json()})
                approvals.append(Approval(**told["approval"]))
                decisions[name] = "approved"
            except MpcError as error:
                decisions[name] = str(error)
        return decisions, approvals

    async def _all(
        self, names: Iterable[str], message: dict[str, Any], timeout_s: float
    ) -> list[dict[str, Any]]:
        """Ask all at once; the first that fails stops the others, the gravest reason is raised."""
        asked = [asyncio.ensure_future(self._ask(n, message, timeout_s)) for n in names]
        await asyncio.wait(asked, return_when=asyncio.FIRST_EXCEPTION)
        failed = [t.exception() for t in asked if t.done() and t.exception()]
        if failed and not all(t.done() for t in asked):
            # Those who wait for the one that failed learn it themselves in a moment, or here.
            await asyncio.wait(asked, timeout=1.5)
            for name, t in zip(names, asked, strict=True):
                if not t.done():
                    quiet = {"do": "done", "task": message["task"], "why": str(failed[0])}
                    await asyncio.gather(self._ask(name, quiet, 5.0), return_exceptions=True)
            await asyncio.wait(asked, timeout=5.0)
            failed = [t.exception() for t in asked if t.done() and t.exception()]
            for t in asked:
                t.cancel()
        for kind in (Cheating, Refused, PartyLost, MpcError):
            for error in failed:
                if isinstance(error, kind):
                    raise error
        for error in failed:
            if error is not None:
                raise error
        return [t.result() for t in asked]

    async def _compare_words(
        self,
        task: Task,
        points: list[str],
        prepared: Mapping[str, dict[str, Any]],
        told: list[dict[str, Any]],
    ) -> None:
        """Stop if a share that was put in is not the one that its owner gave; name and exclude."""
        if task.level == "all-but-one":
            return
        if any(t["words"] != told[0]["words"] for t in told):
            raise Cheating("The processing parties report different check words.")
        for owner, made in prepared.items():
            wrong = [
                task.processing_parties[s]
                for s, (a, b) in enumerate(zip(made["words"], told[0]["words"][owner], strict=True))
                if a != b
            ]
            if not wrong:
                continue
            message = {"do": "accuse", "task": task.sha256, "owner": owner, "points": points}
            message |= {"words": made["words"], "signature": made["signature"]}
            others = [n for n in task.processing_parties if n not in wrong]
            await asyncio.gather(*(self._ask(n, message) for n in others), return_exceptions=True)
            for name in wrong:
                if name not in self.doors.barred:
                    self.bar(name, f"used a share other than the one {owner} gave it", task.sha256)
            raise Cheating(
                f"{', '.join(wrong)} used a share other than the one {owner} gave it, and is "
                "excluded. Nothing was computed.",
                tuple(wrong),
            )

    def _read(
        self,
        task: Task,
        points: list[str],
        prepared: Mapping[str, dict[str, Any]],
        answers: list[dict[str, Any]],
    ) -> tuple[list[int], dict[str, Any], tuple[str, ...]]:
        """Open the answer from all signed shares; returns numbers, public facts, wrong parties."""
        p, rows = catalogue.modulus(task), []
        for name, a in zip(task.processing_parties, answers, strict=True):
            if not verify_signature(
                self.members[name].public, canonical(a["said"]), a["signature"]
            ):
                raise Cheating(f"The answer of {name} does not carry its signature.", (name,))
            rows.append([int(v, 16) for v in a["said"]["shares"]])
        public = answers[0]["said"]["public"]
        if any(a["said"]["public"] != public for a in answers) or len({*map(len, rows)}) != 1:
            raise Cheating("The processing parties report different facts about the answer.")
        if task.level == "all-but-one":
            wrong = self._wrong_sums(task, points, prepared, rows, p)
            if wrong:
                for name in wrong:
                    self.bar(name, "sent a sum that does not fit its shares", task.sha256)
                raise Cheating(
                    f"{', '.join(wrong)} sent a sum that does not fit its shares.", wrong
                )
            return sharing.join(rows, p)[:-1], public, ()
        if not rows[0]:
            return [], public, ()
        made = sharing.open_shamir(rows, task.threshold, p)
        suspects = tuple(task.processing_parties[s] for s in made.wrong_seats)
        for name in suspects:
            self.bar(name, "sent a share of the answer that contradicts all others", task.sha256)
        return made.values, public, suspects

    @staticmethod
    def _wrong_sums(
        task: Task,
        points: list[str],
        prepared: Mapping[str, dict[str, Any]],
        rows: list[list[int]],
        p: int,
    ) -> tuple[str, ...]:
        """Whose sums do not fit; with noise that cannot be told, for the noise is theirs."""
        if task.epsilon is not None:
            return ()
        return tuple(
            name
            for s, name in enumerate(task.processing_parties)
            if sharing.word(rows[s], int(points[s], 16), p)
            != sum(int(made["words"][s], 16) for made in prepared.values()) % p
        )

    async def _tell_done(self, task: Task, **more: Any) -> None:
        message = {"do": "done", "task": task.sha256, **more}
        await asyncio.gather(
            *(self._ask(n, message, 5.0) for n in task.processing_parties), return_exceptions=True
        )


def _owners(task: Task) -> list[str]:
    return sorted(d.owner for d in task.inputs)


def _changed(frame: pd.DataFrame, schema: Mapping[str, Column]) -> pd.DataFrame:
    """The table with one number changed within its bounds: the fault `change_data`."""
    name = next(k for k, c in schema.items() if c.kind == "number")
    made = frame.copy()
    at = made.columns.get_loc(name)
    low = schema[name].low
    made.iloc[0, at] = low if made.iloc[0, at] != low else schema[name].high  # type: ignore[index]
    return made
