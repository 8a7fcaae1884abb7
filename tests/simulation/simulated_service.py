"""The service's own parties on a simulated network: what stands in, and what must never happen.

Real are the handlers, policies, logs (as files), shares, commitments and approvals. Stand-ins are
TLS, Ed25519 (a keyed hash), the owners' tables (a few numbers) and noise (zeros, counted).
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as real
import hashlib
import random
from collections import Counter
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mpc_examples import POOLED
from simulated import RUNNING, SPAN_S, Killed, Network, Process, Schedule, SimulatedLoop, Violation

from pet_lab.mpc import blame, catalogue, output, owner, party, policy, processor, tasks
from pet_lab.mpc import messages as m
from pet_lab.mpc.mesh import Endpoint
from pet_lab.mpc.node import ServiceParty
from pet_lab.mpc.service import PERMISSIVE
from pet_lab.parties import channel, log
from pet_lab.parties.errors import PartyError

OWNERS, PROCESSING, OUTPUTS = ("px", "py"), ("pp-1", "pp-2"), ("pw", "pz")
EVERYBODY = (*OWNERS, *PROCESSING, *OUTPUTS)
NUMBERS = {"px": [3, 5, 7, 0, 0, 0, 1, 2, 4], "py": [2, 9, 41, 1, 1, 1, 0, 0, 0]}
TOTAL = Decimal(1)
POLICY = PERMISSIVE.__class__(
    functions=("pooled_statistics",), min_group=0, max_queries=5, epsilon_total=TOTAL
)
GENEROUS = POLICY.__class__(
    functions=POLICY.functions, min_group=0, max_queries=1000, epsilon_total=Decimal(100)
)
POLICIES = {name: POLICY if name in OWNERS else GENEROUS for name in EVERYBODY}
STRICT = POLICY.__class__(functions=())


class CheapSigner(log.Signer):
    """Signs by a keyed hash under the public key: as good as Ed25519 where nobody forges."""

    def __init__(self, name: str, raw: bytes | None = None) -> None:
        self.name = name

    public = property(lambda self: self.name.encode().hex())

    def raw(self) -> bytes:
        return b"no key"

    def sign(self, message: bytes) -> str:
        return hashlib.blake2b(message, key=self.public.encode(), digest_size=16).hexdigest()


def verify(public: str, message: bytes, signature: str) -> bool:
    key = public.encode()
    return hashlib.blake2b(message, key=key, digest_size=16).hexdigest() == signature


class CheapEndpoint(Endpoint):
    """An endpoint without TLS."""

    def __init__(self, folder: Path, *, delay_s: float = 0.0) -> None:
        self.name, self.barred, self.delay_s = folder.name, set(), delay_s
        self.credentials, self.client = SimpleNamespace(name=folder.name), None


class SimulatedParty(ServiceParty):
    """A party whose table is a few numbers."""

    def _read(self) -> Any:
        return (POOLED, range(6))


class Greedy(SimulatedParty):
    """An output party that goes on without approvals, shows one twice, and asks twice."""

    async def request(self, owners: Any, terms: Any, *, approve_only: bool = False) -> Any:
        draft = await self._draft(owners, terms)
        points = ("2",) * draft.k
        prepare = m.Prepare(draft, points)
        prepared = [await self.ask(o, prepare, m.Prepared) for o in owners]
        task = draft.with_data(*(p.ref for p in prepared))
        approvals, _ = await self._propose_to_all(task)
        twice = (*approvals, *approvals)
        asked = [(o, m.HandIn(task, twice)) for o in owners]
        for step in (
            m.Open(task.sha256, twice),
            m.Compare(task.sha256, points),
            m.Finish(task.sha256),
            m.Finish(task.sha256),
        ):
            asked += [(name, step) for name in task.processing_parties]
        for name, step in asked:
            with contextlib.suppress(PartyError):
                await self.ask(name, step, object)


class World:
    """All parties of one schedule."""

    def __init__(self, home: Path, schedule: Schedule, party_type: type[SimulatedParty]) -> None:
        self.home, self.schedule, self.party_type = home, schedule, party_type
        self.network, self.shift = Network(schedule), Counter[str]()
        self.greedy = {step[1] for step in schedule if step[0] == "greedy"}
        self.strict = {step[1] for step in schedule if step[0] == "strict"}
        self.dies_at = {(step[1], step[2]) for step in schedule if step[0] == "die writing"}
        self.written: Counter[str] = Counter()
        self.parties: dict[str, SimulatedParty] = {}
        self.tables: list[list[int]] = []
        self.loop: Any = None

    def monotonic(self) -> float:
        return float(self.loop.now)

    def utc(self, *_: Any) -> real.datetime:
        running = RUNNING.get(None)
        seconds = self.loop.now + (self.shift[running.name] if running else 0)
        return real.datetime(2026, 1, 1, tzinfo=real.UTC) + real.timedelta(seconds=seconds)

    def fsync(self, handle: int) -> None:
        """Every entry of a log comes by here, when its line is written."""
        running = RUNNING.get(None)
        if running is None:
            return
        if not running.alive:
            raise Killed
        self.written[running.name] += 1
        if (running.name, self.written[running.name]) in self.dies_at:
            asyncio.get_running_loop().create_task(self.restart(running.name, 5.0))
            self.kill(running.name, torn=False)
            raise Killed

    def start(self, name: str) -> None:
        kind = Greedy if name in self.greedy else self.party_type
        one = kind(self.home / name, STRICT if name in self.strict else POLICIES[name])
        one.members = {n: m.Member(n, "memory", 1, 1, CheapSigner(n).public) for n in EVERYBODY}
        self.parties[name] = one
        self.network.processes[name] = Process(name, one._serve)

    def kill(self, name: str, *, torn: bool) -> None:
        process = self.network.processes[name]
        if process.alive and torn:
            with (self.home / name / "audit.jsonl").open("ab") as file:
                file.write(b'{"n":99,"time":')
        process.kill()

    async def restart(self, name: str, after: float) -> None:
        await asyncio.sleep(after)
        if not self.network.processes[name].alive:
            self.start(name)

    async def happen(self, step: tuple[Any, ...]) -> None:
        kind, at, who, *more = step
        await asyncio.sleep(at)
        if kind == "ask":
            await self.ask(who, Decimal(more[0]) / 10 if more[0] else None)
        elif kind == "clock":
            self.shift[who] += more[0]
        elif kind in {"kill", "tear"}:
            self.kill(who, torn=kind == "tear")
            await self.restart(who, more[0])

    async def ask(self, who: str, epsilon: Decimal | None) -> None:
        process = self.network.processes[who]
        if not process.alive:
            return
        terms = {
            "function": "pooled_statistics",
            "parameters": {"group": "region", "value": "age"},
            "processing_parties": list(PROCESSING),
            "level": "all-but-one",
            "min_group": 0,
            "epsilon": epsilon,
            "expires": tasks.in_hours(0.1),
        }
        task = process.start(partial(self.parties[who].request, OWNERS, terms))
        await asyncio.wait({task})
        if task.cancelled() or not process.alive:
            return
        error = task.exception()
        if error and not isinstance(error, PartyError):
            raise Violation(f"{who} failed: {error!r}") from error
        if error is None and task.result() is not None:
            self.tables.append(task.result().table["numbers"])

    async def play(self) -> None:
        for name in EVERYBODY:
            if not (self.home / name).exists():
                (self.home / name).mkdir(parents=True)
                (self.home / name / "sign.key").write_bytes(b"no key")
            (self.home / name / "audit.jsonl").unlink(missing_ok=True)
            self.start(name)
        timed = [s for s in self.schedule if s[0] in {"ask", "clock", "kill", "tear"}]
        await asyncio.gather(*map(self.happen, timed))
        await asyncio.sleep(2 * SPAN_S)  # what was delayed or repeated still comes

    # --- what must never happen -------------------------------------------------------------------

    def check(self) -> None:
        logs = {}
        for name in EVERYBODY:
            signer = CheapSigner(name)
            logs[name] = log.SignedLog(signer, self.home / name / "audit.jsonl")
        known = {}
        for _, _, request in self.network.requests:
            if isinstance(request, m.Propose | m.HandIn):
                known[request.task.sha256] = request.task
        answers: dict[tuple[str, str], set[str]] = {}
        for sender, _, _, answer in self.network.answers:
            if isinstance(answer, m.Finished):
                answers.setdefault((sender, answer.answer.task), set()).add(answer.answer.salt)
        for (sender, sha256), different in answers.items():
            for name in known[sha256].processing_parties:
                approved = {e.body["task"] for e in logs[name].of("approved")}
                if sha256 not in approved:
                    raise Violation(f"A share of an answer left {sender}; {name} did not approve.")
            if len(different) > 1:
                raise Violation(f"{sender} gave {len(different)} answers to one task.")
        handed: dict[str, set[str]] = {}
        for sender, _, request in self.network.requests:
            if isinstance(request, m.Deposit):
                handed.setdefault(sender, set()).add(request.task)
        for name, hashes in handed.items():
            spent = sum((known[h].epsilon or Decimal(0) for h in hashes), Decimal(0))
            if spent > TOTAL or len(hashes) > POLICY.max_queries:
                raise Violation(f"{name} gave {spent} in {len(hashes)} tasks, {TOTAL} are allowed.")
        truth = [a + b for a, b in zip(*NUMBERS.values(), strict=True)]
        for numbers in self.tables:
            if numbers != truth:
                raise Violation(f"The answer {numbers} is not that of the data, {truth}.")


async def connected(world: Any, *given: Any, **more: Any) -> Any:
    """The network of the schedule that is played now."""
    return await world().network.connect(*given, **more)


@contextlib.contextmanager
def standing_in(patch: Any) -> Any:
    """Everything that costs time only is replaced; yields a function that plays a schedule."""
    now: dict[str, World] = {}

    def world() -> World:
        return now["world"]

    clock = SimpleNamespace(monotonic=lambda: world().monotonic(), process_time=lambda: 0.0)
    dates = SimpleNamespace(
        datetime=SimpleNamespace(
            now=lambda *zone: world().utc(), fromisoformat=real.datetime.fromisoformat
        ),
        UTC=real.UTC,
        timedelta=real.timedelta,
    )
    computation = processor.Computation
    patch.setattr(
        processor,
        "Computation",
        lambda *a: computation(*a, started=clock.monotonic(), touched=clock.monotonic()),
    )
    for module in (owner, processor, output):
        patch.setattr(module, "time", clock)
    patch.setattr(tasks, "datetime", dates)
    for module in (log, party, policy, output, processor, blame):
        patch.setattr(module, "verify_signature", verify)
    patch.setattr(party, "Signer", CheapSigner)
    patch.setattr(party, "Endpoint", CheapEndpoint)
    patch.setattr(log, "os", SimpleNamespace(fsync=lambda handle: world().fsync(handle)))
    patch.setattr(channel, "connect", partial(connected, world))
    patch.setattr(catalogue, "encode", lambda task, name, frame, rng: NUMBERS[name])
    patch.setattr(catalogue, "noise", lambda task, n: [0] * n)
    patch.setattr(
        catalogue,
        "decode",
        lambda task, numbers, public: SimpleNamespace(to_dict=lambda **_: {"numbers": numbers}),
    )

    def play(home: Path, party_type: type[SimulatedParty], schedule: Schedule) -> tuple[int, int]:
        """Tables that came out, messages under way; a Violation where that must not be."""
        loop = SimulatedLoop()
        now["world"] = one = World(home, schedule, party_type)
        one.loop = loop
        try:
            loop.run_until_complete(one.play())
            one.check()
        finally:
            for task in asyncio.all_tasks(loop):
                task.cancel()
                task._log_destroy_pending = False
            loop.close()
        return len(one.tables), one.network.count

    yield play


def draw(rng: random.Random) -> Schedule:
    """One to four questions, and up to a dozen faults."""
    at = partial(rng.uniform, 0, rng.choice((0.1, 10.0, SPAN_S)))
    steps: Schedule = [
        ("ask", at(), rng.choice(OUTPUTS), rng.choice((0, 3, 4, 5)))
        for _ in range(rng.randint(1, 4))
    ]
    steps += [("greedy", name) for name in OUTPUTS if rng.random() < 0.15]
    steps += [("strict", name) for name in (*OWNERS, *PROCESSING) if rng.random() < 0.04]
    for _ in range(rng.choice((0, 1, 2, 4, 8))):
        kind = rng.choice(
            ("drop", "drop answer", "delay", "repeat", "kill", "tear", "die writing", "clock")
        )
        who = rng.choice(EVERYBODY)
        if kind in {"drop", "drop answer"}:
            steps.append((kind, rng.randrange(60)))
        elif kind in {"delay", "repeat"}:
            steps.append((kind, rng.randrange(60), rng.choice((0.05, 1.0, 40.0, 700.0))))
        elif kind == "die writing":
            steps.append((kind, who, rng.randint(1, 8)))
        elif kind == "clock":
            steps.append((kind, at(), who, rng.choice((-7200, -60, 60, 7200))))
        else:
            steps.append((kind, at(), who, rng.choice((0.1, 30.0, 300.0))))
    return steps
