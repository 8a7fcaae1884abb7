"""Simulated time, a network and machines that fail on schedule, and schedules that shrink.

A schedule is a list of steps: what is asked, and which faults happen when. Playing it is a function
of the schedule alone: time jumps to the next event, messages are objects in memory, nothing waits.
A check raises `Violation` where an outcome is impossible by design. `search` plays one schedule for
each seed; `shrink` drops the steps of one that are not needed to see its violation.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pet_lab.parties.channel import Refusal
from pet_lab.parties.errors import PartyError, PeerLost, Refused

Step = tuple[Any, ...]
Schedule = list[Step]
LATENCY_S = 0.01
SPAN_S = 900.0  # everything is asked, and every machine fails, within this time


class Violation(AssertionError):
    """An outcome that must be impossible."""


class Killed(BaseException):
    """A process ends here, as by SIGKILL: what it does after this never happens."""


def search(
    draw: Callable[[random.Random], Schedule], play: Callable[[Schedule], Any], seeds: Iterable[int]
) -> Iterator[Any]:
    """What each schedule comes to, one at a time: ten thousand worlds are too many to keep.

    Of the first violation the seed and the shrunk schedule.
    """
    for seed in seeds:
        schedule = draw(random.Random(seed))
        try:
            yield play(schedule)
        except Violation as violation:
            steps = "\n".join(map(str, shrink(schedule, play)))
            raise Violation(f"{violation}\nseed {seed}, shrunk to:\n{steps}") from violation


def shrink(schedule: Schedule, play: Callable[[Schedule], Any]) -> Schedule:
    """A schedule with a violation and without a step that could be left out."""
    steps, size = list(schedule), max(1, len(schedule) // 2)
    while size:
        for at in range(len(steps) - size, -1, -size):
            shorter = steps[:at] + steps[at + size :]
            try:
                play(shorter)
            except Violation:
                steps = shorter
        size //= 2
    return steps


# --- time -----------------------------------------------------------------------------------------


class SimulatedLoop(asyncio.BaseEventLoop):
    """An event loop whose clock jumps to the next timer when nothing is left to do."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self._selector = 1000.0, self
        self.set_exception_handler(lambda loop, context: None)  # of a killed party nobody asks

    def time(self) -> float:
        return self.now

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise Violation("Somebody waits for what will never happen.")
        self.now += timeout
        return []

    def _process_events(self, events: Any) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


# --- machines and the network ---------------------------------------------------------------------

RUNNING: contextvars.ContextVar[Process] = contextvars.ContextVar("the process that runs now")


class Process:
    """One incarnation of a party, until it is killed; `handle` serves a line."""

    def __init__(self, name: str, handle: Callable[[Any], Any]) -> None:
        self.name, self.handle, self.alive = name, handle, True
        self.tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Callable[[], Any]) -> asyncio.Task[Any]:
        """Call an asynchronous function as this process."""

        async def mine() -> Any:
            RUNNING.set(self)
            return await work()

        task = asyncio.get_running_loop().create_task(mine())
        self.tasks.add(task)
        return task

    def kill(self) -> None:
        self.alive = False
        for task in self.tasks:
            task.cancel()


class Network:
    """Delivers requests and answers to the processes that live; faults are by number of message.

    A fault ("drop", n), ("drop answer", n), ("delay", n, seconds) or ("repeat", n, seconds) is of
    the n-th request of all; a repeated one is also served a second time, that much later.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.faults: dict[int, dict[str, float]] = {}
        for kind, *numbers in schedule:
            if kind in {"drop", "drop answer", "delay", "repeat"}:
                self.faults.setdefault(numbers[0], {})[kind] = sum(numbers[1:])
        self.count = 0
        self.processes: dict[str, Process] = {}
        self.answers: list[tuple[str, str, Any, Any]] = []  # what left: from, to, request, answer
        self.requests: list[tuple[str, str, Any]] = []

    async def connect(self, credentials: Any, peer: str, *_: Any, **__: Any) -> ClientLine:
        """In place of `channel.connect`."""
        return ClientLine(self, credentials.name, peer)

    async def call(
        self, sender: str, receiver: str, request: Any, again: Callable[[Any], Any] | None = None
    ) -> Any:
        """What comes back for one request; it never comes back if either is lost.

        `again` gets the second answer to a request that is repeated.
        """
        faults = self.faults.get(self.count, {})
        self.count += 1
        self.requests.append((sender, receiver, request))
        await asyncio.sleep(LATENCY_S + faults.get("delay", 0.0))
        if "drop" in faults:
            await asyncio.sleep(1e6)
        if "repeat" in faults:
            second = self._repeat(sender, receiver, request, faults["repeat"], again)
            contextvars.Context().run(asyncio.get_running_loop().create_task, second)
        answer = await self._serve(sender, receiver, request)
        if "drop answer" in faults:
            await asyncio.sleep(1e6)
        await asyncio.sleep(LATENCY_S)
        return answer

    async def _repeat(
        self, sender: str, receiver: str, request: Any, after: float, again: Any
    ) -> None:
        await asyncio.sleep(after)
        answer = await self._serve(sender, receiver, request)
        if again is not None:
            again(answer)

    async def _serve(self, sender: str, receiver: str, request: Any) -> Any:
        process = self.processes.get(receiver)
        lost = PeerLost(receiver, f"{receiver} cannot be reached.")
        if process is None or not process.alive:
            return lost
        line = ServerLine(sender, request)
        task = process.start(lambda: process.handle(line))
        await asyncio.wait({task})
        if task.cancelled() or not process.alive:
            return lost
        if error := task.exception():
            if not isinstance(error, PartyError):
                raise Violation(f"{receiver} failed at {request!r}: {error!r}") from error
            return Refusal.of(error).as_error()
        self.answers.append((receiver, sender, request, line.answer))
        return line.answer


class ServerLine:
    """A line as a handler sees it: one request of a certified peer, one answer."""

    def __init__(self, peer: str, request: Any) -> None:
        self.peer, self.request, self.answer = peer, request, None

    async def receive(self, message_type: Any) -> Any:
        return self.request

    async def send(self, answer: Any, *, kind: str = "") -> None:
        self.answer = answer


class ClientLine:
    """A line as the asking side sees it."""

    def __init__(self, network: Network, name: str, peer: str) -> None:
        self.network, self.name, self.peer = network, name, peer

    async def __aenter__(self) -> ClientLine:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def send(self, request: Any) -> None:
        if not RUNNING.get().alive:
            raise Killed
        loop, call = asyncio.get_running_loop(), self.network.call(self.name, self.peer, request)
        self.call = loop.create_task(call)  # goes on when the asking side gives up

    async def receive(self, answer_type: Any, *, within: float) -> Any:
        await asyncio.wait({self.call}, timeout=within)
        if not RUNNING.get().alive:
            raise Killed
        if not self.call.done():
            raise PeerLost(self.peer, f"{self.peer} sent nothing for {within:g} s.")
        answer = self.call.result()
        if isinstance(answer, PartyError):
            raise answer
        if not isinstance(answer, answer_type):
            raise Refused(f"{self.peer} sent something else.")
        return answer
