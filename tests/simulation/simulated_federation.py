"""Federated rounds on a simulated network: masked sums with dropouts, and averages by Flower's way.

Real are the offices and the server of `masking` with all their cryptography, and of `rounds` the
aggregator, its clients and the strategy that Flower's loop calls. Stand-ins are the loops that ask
(here, with deadlines), the channel, and training (it adds the office's number to the weights).
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import random
from collections import Counter
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
from simulated import Network, Process, Schedule, SimulatedLoop, Violation

from pet_lab.federated import flower
from pet_lab.federated.aggregation import Plain, Rejected
from pet_lab.federated.masking import MaskingError, MaskingOffice, MaskingServer
from pet_lab.federated.model import Evaluation
from pet_lab.federated.rounds import Aggregator, Client, Global, RoundVoid
from pet_lab.parties.channel import Refusal
from pet_lab.parties.errors import Refused

OFFICES, THRESHOLD, COUNT, ROUNDS = 5, 3, 4, 2
DEADLINE_S, TRIPS = 10.0, 5  # of one trip; the last, the shares, is asked for twice
SPAN_S = 2 * TRIPS * DEADLINE_S
NUMBERS = range(1, OFFICES + 1)
EVERYBODY = ("server", *map(str, NUMBERS))
MESSAGES = ROUNDS * TRIPS * OFFICES


def vector(office: int, round_: int) -> np.ndarray:
    """Such that a sum tells whose vectors of which round are in it, and how often."""
    return np.array([4**office, 4**office * round_, office, 1], dtype=np.uint32)


class World(abc.ABC):
    """The processes of one schedule, killed and started again as it says."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule, self.network = schedule, Network(schedule)
        self.loop: Any = None
        self.trips: list[tuple[int, int]] = []  # answers that came in time, offices asked
        self.kills = 0

    def start(self, name: str) -> None:
        handle = self.nobody if name == "server" else self.office(int(name))
        self.network.processes[name] = Process(name, handle)

    async def nobody(self, line: Any) -> None:
        raise Refused("The server asks.")

    @abc.abstractmethod
    def office(self, number: int) -> Any:
        """The handler of a fresh office."""

    @abc.abstractmethod
    async def serve(self) -> None:
        """The server's program, from its start."""

    def alive(self, process: Process) -> bool:
        return self.network.processes["server"] is process and process.alive

    async def trip(self, asked: dict[int, Any], take: Any) -> None:
        """Ask the offices at once; `take` gets each answer as it comes, past the deadline too."""
        server, came = self.network.processes["server"], Counter[int]()

        def arrives(number: int, answer: Any) -> None:
            if self.alive(server) and not isinstance(answer, Exception):
                came[number] += 1
                take(number, answer)

        async def one(number: int, request: Any) -> None:
            again = partial(arrives, number)
            arrives(number, await self.network.call("server", str(number), request, again))

        if asked:
            tasks = [server.start(partial(one, i, request)) for i, request in asked.items()]
            done, _ = await asyncio.wait(tasks, timeout=DEADLINE_S)
            for task in done:
                if not task.cancelled() and task.exception():
                    raise task.exception()
        self.trips.append((len(came), len(asked)))

    async def happen(self, step: tuple[Any, ...]) -> None:
        _, at, who, after = step
        await asyncio.sleep(at)
        self.kills += 1
        self.network.processes[who].kill()
        await asyncio.sleep(after)
        if not self.network.processes[who].alive:
            self.start(who)
            if who == "server":
                await self.run()

    async def run(self) -> None:
        process, begun = self.network.processes["server"], self.loop.now
        task = process.start(self.serve)
        await asyncio.wait({task})
        if self.loop.now - begun > ROUNDS * TRIPS * (DEADLINE_S + 1):
            raise Violation("Rounds go on past the deadlines of their trips.")
        if not task.cancelled() and task.exception():
            raise task.exception()

    async def play(self) -> None:
        for name in EVERYBODY:
            self.start(name)
        kills = [step for step in self.schedule if step[0] == "kill"]
        await asyncio.gather(self.run(), *map(self.happen, kills))
        await asyncio.sleep(2 * SPAN_S)  # what was delayed or repeated still comes


def said(error: Exception) -> Refused:
    """As a channel tells it."""
    return Refusal.of(Refused(str(error))).as_error()


# --- masked sums ----------------------------------------------------------------------------------


class Masking(World):
    """A server that sums under masks; after a restart it knows nothing of the rounds before."""

    def __init__(
        self,
        schedule: Schedule,
        office_type: type[MaskingOffice] = MaskingOffice,
        server_type: type[MaskingServer] = MaskingServer,
    ) -> None:
        super().__init__(schedule)
        self.office_type, self.server_type = office_type, server_type
        self.kinds: Counter[tuple[Any, int, str]] = Counter()  # of whose secret, shares that left
        self.sums = self.void = 0

    def office(self, number: int) -> Any:
        """An office keeps its part of each round in memory only."""
        rounds: dict[int, MaskingOffice] = {}

        async def handle(line: Any) -> None:
            kind, round_, given = line.request
            if kind == "keys" and round_ not in rounds:
                rounds[round_] = self.office_type(OFFICES, THRESHOLD, number)
            try:
                if round_ not in rounds:
                    raise MaskingError("This round is not known here.")
                await line.send(self.answer(rounds[round_], kind, round_, given))
            except MaskingError as error:
                raise said(error) from None

        return handle

    def answer(self, office: MaskingOffice, kind: str, round_: int, given: Any) -> Any:
        if kind == "keys":
            return office.advertise()
        if kind == "share":
            return office.share(given)
        if kind == "mask":
            office.receive(given)
            return office.mask(vector(office.index, round_)).astype("<u4").tobytes()
        shares = office.reveal(given)
        self.note(office, shares)
        return shares

    def note(self, holder: MaskingOffice, shares: dict[int, tuple[str, bytes]]) -> None:
        """Who can open what of an office, given every answer that ever left."""
        for owner, (kind, _) in shares.items():
            secret = holder._public[owner]  # its keys name the office and its round
            self.kinds[secret, holder.index, kind] += 1
            both = [
                len({h for s, h, k in self.kinds if s == secret and k == kind})
                for kind in ("seed", "key")
            ]
            if min(both) >= THRESHOLD:
                raise Violation(f"Both secrets of office {owner} can be opened: {both} shares.")

    async def serve(self) -> None:
        greedy = any(step == ("greedy",) for step in self.schedule)
        for round_ in range(1, ROUNDS + 1):
            trips = len(self.trips)
            try:
                await (self.greedy if greedy else self.round)(round_)
                self.sums += 1
            except MaskingError as error:
                self.void += 1
                enough = all(came >= THRESHOLD for came, _ in self.trips[trips:])
                answered = len(self.trips) - trips >= TRIPS - 1 and enough
                if answered and not self.kills and not greedy:
                    raise Violation(f"{THRESHOLD} offices stayed, and yet: {error}") from error

    async def round(self, round_: int) -> None:
        server = self.server_type(OFFICES, THRESHOLD, COUNT)
        wrapped: dict[int, dict[int, bytes]] = {}

        def quietly(method: Any, number: int, answer: Any) -> None:
            with contextlib.suppress(MaskingError):  # late, or twice
                method(number, answer)

        everybody = dict.fromkeys(NUMBERS, ("keys", round_, None))
        await self.trip(everybody, partial(quietly, server.keys))
        public = dict(server.public)
        await self.trip(dict.fromkeys(public, ("share", round_, public)), wrapped.setdefault)
        shared = dict(wrapped)
        if len(shared) < THRESHOLD:
            raise MaskingError("Too few offices shared their secrets.")
        for_each = {
            i: ("mask", round_, {j: w[i] for j, w in shared.items() if j != i}) for i in shared
        }
        await self.trip(for_each, partial(quietly, server.vector))
        for _ in range(2):  # whoever did not hear is asked again
            survivors = server.survivors()
            asked = dict.fromkeys(survivors, ("reveal", round_, survivors))
            left = {i: ask for i, ask in asked.items() if i not in server._answers}
            if left:
                await self.trip(left, partial(quietly, server.answer))
            if len(server._answers) >= THRESHOLD:
                break
        total = server.total()
        if len(survivors) < THRESHOLD or len(server._answers) < THRESHOLD:
            raise Violation(f"A sum of {survivors} by {list(server._answers)} came out.")
        truth = np.sum([vector(i, round_) for i in survivors], axis=0, dtype=np.uint32)
        if not np.array_equal(total, truth):
            raise Violation(f"The sum is {total}, that of {survivors} is {truth}.")

    async def greedy(self, round_: int) -> None:
        """A server that asks for everything again, and tells two stories of who survived."""
        public: dict[int, Any] = {}
        wrapped: dict[int, Any] = {}
        keep = public.setdefault
        await self.trip(dict.fromkeys(NUMBERS, ("keys", round_, None)), keep)
        for _ in range(2):
            await self.trip(
                {i: ("share", round_, dict(public)) for i in public}, wrapped.setdefault
            )
        shared = dict(wrapped)
        for some in (shared, list(shared)[1:]):
            asked = {
                i: ("mask", round_, {j: shared[j][i] for j in some if i in shared[j]})
                for i in shared
            }
            await self.trip(asked, lambda *_: None)
        for story in (list(shared), list(shared)[:THRESHOLD], list(shared)[-THRESHOLD:]):
            asked = {i: ("reveal", round_, tuple(story)) for i in shared}
            await self.trip(asked, lambda *_: None)


# --- averages -------------------------------------------------------------------------------------


class Averaging(World):
    """Flower's strategy and the aggregator under it; offices that train by a sum."""

    def __init__(self, schedule: Schedule, server_type: type[Aggregator] = Aggregator) -> None:
        super().__init__(schedule)
        self.shares = {str(i): i / sum(NUMBERS) for i in NUMBERS}
        self.server_type = server_type
        self.sums = self.void = 0

    def office(self, number: int) -> Any:
        network = SimpleNamespace(
            parameters=1,
            train=lambda weights, X, y, training, rng: weights + 10.0**number,
            evaluate=lambda weights, X, y: Evaluation(0.5, 1.0, 1),
        )
        data = SimpleNamespace(name=str(number), n=number, X=0, y=0, X_test=0, y_test=0)
        share = self.shares[str(number)]
        client = Client(data, number, share, network, None, Plain(1), seed=1)

        async def handle(line: Any) -> None:
            work, ins = line.request
            await line.send((flower._fit if work == "fit" else flower._evaluate)(client, ins))

        return handle

    async def serve(self) -> None:
        server = self.server_type(Plain(1), self.shares)
        strategy = flower._strategy(server, Global([np.zeros(1).tobytes()]))
        proxies = {str(i): SimpleNamespace(cid=str(i)) for i in NUMBERS}
        manager = SimpleNamespace(all=lambda: proxies)
        parameters = strategy.initialize_parameters(manager)
        for round_ in range(1, 2 * ROUNDS + 1):
            ins = dict(enumerate(strategy.configure_fit(round_, parameters, manager), 1))
            results: list[Any] = []
            asked = {i: ("fit", one) for i, (_, one) in ins.items()}
            await self.trip(
                asked, lambda i, answer, to=results: to.append((proxies[str(i)], answer))
            )
            took = list(results)  # what comes later is of no round
            before = self.weights(strategy.last)
            try:
                parameters, _ = strategy.aggregate_fit(round_, took, [])
            except RoundVoid as error:
                self.void += 1
                if len({c.cid for c, _ in took}) >= 2:
                    raise Violation(f"Two offices sent usable weights: {error}") from error
                return
            names = {c.cid for c, _ in took}
            truth = sum(self.shares[i] * (before + 10.0 ** int(i)) for i in names)
            if not np.isclose(self.weights(strategy.last) * strategy.last.share, truth):
                raise Violation(f"The sum of round {round_} is not that of {sorted(names)}.")
            missed = {office for r, office, why in server.left_out if r == round_}
            if len(names) < 2 or not set(self.shares) - names <= missed:
                raise Violation(f"Round {round_} does not say that it lacks some of {missed}.")
            self.sums += 1
            asked = {
                i: ("evaluate", one)
                for i, (_, one) in enumerate(
                    strategy.configure_evaluate(round_, parameters, manager), 1
                )
            }
            tests: list[Any] = []
            await self.trip(asked, lambda i, answer, to=tests: to.append((proxies[str(i)], answer)))
            strategy.aggregate_evaluate(round_, list(tests), [])

    def weights(self, model: Global) -> Any:
        return np.frombuffer(model.message[0])[0] / (model.share or 1)


def play(world: World) -> World:
    """The world after its schedule; a Violation where something happened that must not be."""
    world.loop = loop = SimulatedLoop()
    try:
        loop.run_until_complete(world.play())
    except (MaskingError, Rejected, RoundVoid) as error:
        raise Violation(f"The server failed: {error!r}") from error
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
            task._log_destroy_pending = False
        loop.close()
    return world


def draw(rng: random.Random) -> Schedule:
    """Up to a dozen faults, or a server that is itself the fault."""
    steps: Schedule = [("greedy",)] if rng.random() < 0.15 else []
    if rng.random() < 0.1:  # most of a trip
        first = rng.randrange(MESSAGES)
        steps += [("drop", n) for n in range(first, first + OFFICES - 1)]
    for _ in range(rng.choice((0, 1, 2, 4, 8, 12))):
        kind = rng.choice(("drop", "drop answer", "delay", "repeat", "kill"))
        at = rng.randrange(MESSAGES)
        if kind in {"drop", "drop answer"}:
            steps.append((kind, at))
        elif kind in {"delay", "repeat"}:
            steps.append((kind, at, rng.choice((0.005, 5.0, 11.0, 11.0, 40.0))))
        else:
            when = rng.choice((rng.uniform(0, 0.2), rng.uniform(0, SPAN_S)))
            who = rng.choice(EVERYBODY)
            steps.append((kind, when, who, rng.choice((0.01, 5.0, 30.0))))
    return steps
