"""Two data holders and a linker on a simulated network: their commands, over lines that fail.

Real are the commands of a data holder, the session, the ECDH engine, the greeting, the linker with
its server, its log (a file) and its output checks, and the files of a session. Stand-ins are TLS,
sockets and the frames' transport, the event loop's thread, CSV files, and noise (numbers that never
repeat). The synchronous code runs in greenlets, which a simulated loop resumes.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as real
import hashlib
import itertools
import os
import random
import shutil
import threading
from collections import Counter, deque
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from greenlet import getcurrent, greenlet
from simulated import LATENCY_S, Killed, Schedule, SimulatedLoop, Violation

from pet_lab.parties import channel
from pet_lab.parties.channel import Options, Refusal
from pet_lab.parties.errors import PartyError, PeerLost, Refused
from pet_lab.psi import commands, disclosure, linker, service, session
from pet_lab.psi.disclosure import OutputRules, QueryLog
from pet_lab.psi.linker import Linker, LinkerAnswer
from pet_lab.psi.protocol import encode_key

MACHINES = ("left", "right", "linker")
SPAN_S, TIMEOUT_S, WAIT_S = 900.0, 20.0, 60.0
LIMIT_S = 900.0  # of one command: its waits, 120 s for the linker's tables, and 20 s a message
MIN_CELL, EPSILON, BUDGET = 3, 0.4, 1.0
BY = ("left:tariff", "right:size")
QUESTIONS = (BY, BY[:1], BY[1:])
FAULTS = ("drop", "delay", "repeat", "stray")


def _files() -> dict[str, list[pd.DataFrame]]:
    """Two versions of each file: the second lacks one person, who would be the difference."""
    keys = [f"person-{i:04d}" for i in range(18)]
    left = pd.DataFrame({"id": keys[:15], "tariff": [f"rate-{'ab'[i % 5 < 2]}" for i in range(15)]})
    right = pd.DataFrame({"id": keys[2:], "size": [f"size-{'sl'[i < 9]}" for i in range(16)]})
    return {"left": [left, left.drop(index=5)], "right": [right, right.drop(index=4)]}


FILES = _files()
LABELS = {"left": ["tariff=rate-a", "tariff=rate-b"], "right": ["size=size-s", "size=size-l"]}
NEVER_SENT = [
    text
    for frames in FILES.values()
    for value in {v for frame in frames for v in frame.to_numpy().ravel()}
    for raw in (value.encode(), encode_key([value]))
    for text in (raw, hashlib.sha256(raw).digest(), hashlib.sha256(raw).hexdigest().encode())
]


class Line:
    """One end of a channel: in place of `BlockingChannel`."""

    def __init__(self, world: World, process: Process, peer: str, options: Options) -> None:
        self.world, self.process, self.peer, self.options = world, process, peer, options
        self.party, self.record = process.name, list[channel.Sent]()
        self.frames: deque[tuple[str, bytes]] = deque()
        self.ended: PartyError | None = None
        self.other: Line
        self.wake: Any = None
        self.due = 0.0  # when the frame sent last comes
        process.lines.append(self)

    def send(self, message: Any, *, kind: str = "") -> None:
        self.process.living()
        if isinstance(message, LinkerAnswer):
            self.world.leaves(message)
        self._send("json", msgspec.json.encode(message), kind or message.__struct_config__.tag)

    def send_bytes(self, *parts: Any, kind: str = "bytes") -> None:
        self._send("bytes", b"".join(parts), kind)

    def _send(self, form: str, payload: bytes, kind: str) -> None:
        self.process.living()
        if self.ended:
            raise self.ended
        self.record.append(channel.Sent(self.party, self.peer, kind, len(payload) + 5))
        self.world.deliver(self.other, (form, payload))

    def receive(self, message_type: Any, *, within: float | None = None) -> Any:
        payload = self._next("json", within)
        try:
            return channel._decoder(message_type).decode(payload)
        except (msgspec.MsgspecError, ValueError):
            raise Refused(f"{self.peer} sent something else.") from None

    def receive_bytes(self, *, within: float | None = None) -> bytes:
        return self._next("bytes", within)

    def _next(self, form: str, within: float | None) -> bytes:
        self.process.living()
        limit = self.options.timeout_s if within is None else within
        until = self.world.loop.now + limit
        while not self.frames and not self.ended:
            left = until - self.world.loop.now
            if left <= 0 or not self.world.wait(self, left):
                raise PeerLost(self.peer, f"{self.peer} sent nothing for {limit:g} s.")
        if not self.frames:
            raise self.ended
        came, payload = self.frames.popleft()
        if came != form:
            raise Refused(f"{self.peer} sent {came} where {form} was expected.")
        return payload

    def arrive(self, frame: tuple[str, bytes]) -> None:
        if self.ended is None and self.process.alive:
            self.frames.append(frame)
            self.awake()

    def end(self, error: PartyError) -> None:
        self.ended = self.ended or error
        self.awake()

    def awake(self) -> None:
        if self.wake:
            self.wake(True)

    def refuse(self, error: PartyError) -> None:
        self.process.living()
        self.world.sent.append(("refusal", str(error).encode()))
        told = Refusal.of(error).as_error()
        self.world.loop.call_later(2 * LATENCY_S, self.other.end, told)

    def close(self) -> None:
        self.end(PeerLost(self.peer, "The channel was closed on this side."))
        lost = PeerLost(self.party, f"{self.party} left before the end.")
        self.world.loop.call_later(3 * LATENCY_S, self.other.end, lost)

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Process:
    """A command, or the linker, until it ends or is killed."""

    def __init__(self, world: World, name: str, number: int) -> None:
        self.world, self.name, self.number, self.alive = world, name, number, True
        self.fibres: set[greenlet] = set()
        self.lines: list[Line] = []
        self.listens: set[tuple[str, int]] = set()

    def start(self, work: Any) -> None:
        def all_of_it() -> None:
            try:
                work()
            except Killed:
                pass
            except PartyError:
                self.world.refusals += 1
            except BaseException as error:
                self.world.failed = self.world.failed or error
            self.fibres.discard(fibre)

        fibre = greenlet(all_of_it, self.world.hub)
        fibre.process = self
        self.fibres.add(fibre)
        self.world.loop.call_soon(fibre.switch)

    def living(self) -> None:
        if not self.alive:
            raise Killed

    def kill(self) -> None:
        self.alive = False
        for address in self.listens:
            self.world.listeners.pop(address, None)
        for fibre in list(self.fibres):
            if fibre is not getcurrent() and fibre.gr_frame is not None:
                self.world.loop.call_soon(self.throw, fibre)
        for line in self.lines:
            line.close()

    @staticmethod
    def throw(fibre: greenlet) -> None:
        if not fibre.dead:
            fibre.throw(Killed)


class Listening:
    """In place of `BlockingServer`."""

    def __init__(self, port: int, close: Any) -> None:
        self.port, self.close = port, close

    def __enter__(self) -> Listening:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class World:
    """The three machines of one schedule."""

    def __init__(self, home: Path, schedule: Schedule, linker_type: type[Linker]) -> None:
        self.home, self.schedule, self.linker_type = home, schedule, linker_type
        self.loop = SimulatedLoop()
        self.faults: dict[int, list[tuple[Any, ...]]] = {}
        for step in schedule:
            if step[0] in FAULTS:
                self.faults.setdefault(step[1], []).append(step)
        self.writes = {(step[1], step[2]): step[0] for step in schedule if step[0] in WRITING}
        self.noisy = ("noise",) in schedule
        self.listeners: dict[tuple[str, int], Any] = {}
        self.sent: list[tuple[str, bytes]] = []
        self.written: Counter[str] = Counter()
        self.shift: Counter[str] = Counter()
        self.processes: dict[str, list[Process]] = {name: [] for name in MACHINES}
        self.versions: list[tuple[int, int]] = []
        self.of_session: dict[str, int] = {}
        self.released: dict[tuple[str, Any, Any], float] = {}
        self.events: list[dict[str, Any]] = []
        self.failed: BaseException | None = None
        self.refusals = 0
        self.noise = itertools.count(1000)
        self.hub: Any = None

    # --- time -------------------------------------------------------------------------------------

    def wait(self, line: Any, seconds: float) -> bool:
        """Sleep until `line` is awakened, or so long; whether it was."""
        me, hub = getcurrent(), self.hub
        me.process.living()
        over = False

        def resume(came: bool) -> None:
            nonlocal over
            if not over and not me.dead:
                over = True
                me.switch(came)

        # Not at once: whoever awakens another is in a greenlet itself.
        later = partial(self.loop.call_soon, resume)
        timer = self.loop.call_later(seconds, resume, False)
        if line is not None:
            line.wake = later
        try:
            return hub.switch()
        finally:
            over = True
            timer.cancel()
            if line is not None:
                line.wake = None

    def sleep(self, seconds: float) -> None:
        self.wait(None, seconds)

    def monotonic(self) -> float:
        return float(self.loop.now)

    def utc(self, *_: Any) -> real.datetime:
        seconds = self.loop.now + self.shift[getcurrent().process.name]
        return real.datetime(2026, 1, 1, tzinfo=real.UTC) + real.timedelta(seconds=seconds)

    # --- the network ------------------------------------------------------------------------------

    def deliver(self, to: Line, frame: tuple[str, bytes]) -> None:
        """Each frame of all has a number; a stray is an earlier frame in its place."""
        number = len(self.sent)
        self.sent.append(frame)
        # In the order of sending, also what is sent at one time.
        to.due = max(to.due + 1e-6, self.loop.now + LATENCY_S)
        delay = to.due - self.loop.now
        for kind, _, *more in self.faults.get(number, []):
            if kind == "drop":
                return
            if kind == "delay":
                delay += more[0]
            elif kind == "repeat":
                self.loop.call_later(delay + more[0], to.arrive, frame)
            elif kind == "stray" and number:
                frame = self.sent[more[0] % number]
        self.loop.call_later(delay, to.arrive, frame)

    def connect(
        self, credentials: Any, peer: str, host: str, port: int, *, wait_s: float, options: Any
    ) -> Line:
        me, until = getcurrent().process, self.loop.now + wait_s
        while (host, port) not in self.listeners:
            if self.loop.now >= until:
                raise PeerLost(peer, f"{peer} cannot be reached.")
            self.sleep(1.0)
        process, handle, theirs = self.listeners[host, port]
        options = options or Options()
        mine = Line(self, me, peer, options)
        other = Line(self, process, me.name, theirs or Options())
        mine.other, other.other = other, mine

        def one() -> None:  # as `channel.serve`
            try:
                handle(other)
            except PartyError as error:
                other.refuse(error)
            except Killed:
                raise
            except OSError:
                other.refuse(Refused("An internal error ended the call."))
            finally:
                if process.alive:
                    other.close()

        process.start(one)
        return mine

    def serve(
        self, credentials: Any, handle: Any, *, host: str, port: int, options: Any, turned_away: Any
    ) -> Any:
        process = getcurrent().process
        address = (host, port)
        self.listeners[address] = (process, handle, options)
        process.listens.add(address)

        return Listening(port, partial(self.listeners.pop, address, None))

    # --- machines ---------------------------------------------------------------------------------

    def fsync(self, _: int) -> None:
        """Every file that counts comes by here, when it is written."""
        if not hasattr(getcurrent(), "process"):
            return
        process = getcurrent().process
        process.living()
        self.read()
        self.written[process.name] += 1
        what = self.writes.get((process.name, self.written[process.name]))
        if what == "full":  # the line did not fit
            log = self.home / "linker.jsonl"
            if log.exists():
                log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))
            raise OSError(28, "No space left on device")
        if what == "die writing":
            self.kill(process.name, after=5.0)
            raise Killed

    def read(self) -> None:
        """As any reader: an --out file is whole, and of one session."""
        for run, versions in enumerate(self.versions):
            for side in ("left", "right"):
                path = self.home / f"{side}-{run}.csv"
                if path.exists() and path.read_text() != whole(side, versions):
                    raise Violation(f"{path.name} holds what is not the intersection.")

    def start(self, name: str, work: Any, number: int = -1) -> None:
        """A process that works for the session of that number."""
        process = Process(self, name, number)
        self.processes[name].append(process)
        process.start(work)

    def linker(self) -> None:
        rules = OutputRules(
            min_cell=MIN_CELL,
            epsilon_per_query=EPSILON if self.noisy else None,
            epsilon_total=BUDGET,
        )
        try:
            log = QueryLog.open(self.home / "linker.jsonl")
        except OSError:  # no space to mend a torn line: it does not start
            self.kill("linker", after=5.0)
            raise Killed from None
        served = self.linker_type(("left", "right"), rules=rules, log=log)
        service.LinkerServer(served, SimpleNamespace(name="linker"), "linker:1")
        while True:
            self.sleep(1e6)

    def kill(self, name: str, *, after: float) -> None:
        for process in self.processes[name]:
            process.kill()
        self.processes[name] = []
        if name == "linker":
            self.loop.call_later(after, self.again)

    def again(self) -> None:
        if not self.processes["linker"]:
            self.start("linker", self.linker)

    def command(self, work: Any, *given: Any, **more: Any) -> None:
        begun = self.loop.now
        try:
            work(*given, **more)
        finally:
            if self.loop.now - begun > LIMIT_S:
                raise Violation(f"A command took {self.loop.now - begun:.0f} s.")

    def run(self, versions: tuple[int, int]) -> None:
        """Both sides hold a session, send to the linker, and ask."""
        number = len(self.versions)
        self.versions.append(versions)
        for side, peer, role in (("right", "left", "serve"), ("left", "right", "join")):
            hold = partial(
                self.command,
                commands.hold_session.__wrapped__,
                SimpleNamespace(info_name=role),
                data=Path(f"{side}-{versions[side == 'right']}"),
                on=["id"],
                peer=peer,
                address=f"right:{1000 + number}",
                credentials=Path(side),
                variant="analytics",
                state=self.home / f"{side}-{number}.state",
                out=self.home / f"{side}-{number}.csv",
                linkers=["linker@linker:1"],
                columns=["tariff"] if side == "left" else ["size"],
                labels=LABELS[side],
                by=list(QUESTIONS[(number + (side == "left")) % 3]),
                timeout=TIMEOUT_S,
                wait=WAIT_S,
            )
            self.start(side, hold, number)

    def ask(self, side: str, number: int, question: int) -> None:
        """A later question, or with none the table again, by the session that was kept."""
        state = self.home / f"{side}-{number}.state"
        if number >= len(self.versions) or not state.exists():
            return
        credentials = SimpleNamespace(name=side)

        def later() -> None:
            link, on = commands._unpack_state(state)
            remote = commands._remote(["linker@linker:1"], credentials)
            if question < len(QUESTIONS):
                commands._query(link, remote, list(QUESTIONS[question]), None)
                return
            frame = FILES[side][self.versions[number][side == "right"]]
            columns = ["tariff"] if side == "left" else ["size"]
            holder = commands.DataHolder(side, frame)
            upload = commands._upload(holder, columns, [], LABELS[side], None, remote)
            commands._send(holder, link, on, remote, upload)

        self.start(side, partial(self.command, later), number)

    def happen(self, step: tuple[Any, ...]) -> None:
        kind, _, *more = step
        if kind == "run":
            self.run(tuple(more))
        elif kind == "ask":
            self.ask(*more)
        elif kind == "clock":
            self.shift[more[0]] += more[1]
        else:
            name, after = more
            self.kill(name, after=after)
            if kind == "tear" and name == "linker":
                with (self.home / "linker.jsonl").open("ab") as file:
                    file.write(b'{"time":"2026')

    def play(self) -> World:
        self.hub = getcurrent()
        self.start("linker", self.linker)
        timed = [step for step in self.schedule if step[0] in TIMED]
        for step in timed:
            self.loop.call_later(step[1], self.happen, step)
        try:
            self.loop.run_until_complete(asyncio.sleep(3 * SPAN_S + 2 * LIMIT_S))
            if isinstance(self.failed, Violation):
                raise self.failed
            if self.failed:
                raise Violation(f"A process failed: {self.failed!r}") from self.failed
            self.check()
        finally:
            for process in itertools.chain(*self.processes.values()):
                process.alive = False
                for fibre in list(process.fibres):
                    process.throw(fibre)
            self.loop.close()
        return self

    # --- what must never happen -------------------------------------------------------------------

    def leaves(self, answer: LinkerAnswer) -> None:
        """At the moment when an answer leaves: the log has it, and the rules allow it."""
        name = answer.query.session.hex()
        lines = (self.home / "linker.jsonl").read_bytes().splitlines()
        logged = [msgspec.json.decode(line) for line in lines]
        asked = msgspec.json.decode(msgspec.json.encode(answer.query))
        mine = [e for e in logged if (e["session"], e["state"]) == (name, "answered")]
        if not any(e["query"] == asked for e in mine):
            raise Violation("An answer leaves that the log on disk does not have.")
        key = (name, answer.query.group_by, (answer.labels, answer.values))
        self.released[key] = answer.epsilon
        spent, charged = sum(self.released.values()), sum(e["epsilon"] for e in logged)
        if spent > BUDGET + 1e-9:
            raise Violation(f"Noise for epsilon {spent:g} left, {BUDGET:g} are allowed.")
        if charged < spent - 1e-9:
            raise Violation(f"Epsilon {spent:g} left, {charged:g} are on disk.")
        sessions = {session for session, *_ in self.released}
        if not self.noisy and len(sessions) > 1:
            raise Violation(f"Exact answers of {len(sessions)} sessions left.")

    def check(self) -> None:
        self.read()
        for event in self.events:
            if event["event"] == "session":
                self.of_session.setdefault(event["session"], event["run"])
                truth = len(common(self.versions[event["run"]]))
                if event["cardinality"] != truth:
                    raise Violation(f"{event['cardinality']} rows are common, in truth {truth}.")
                if self.of_session[event["session"]] != event["run"]:
                    raise Violation("One session is that of two runs.")
        for event in self.events:
            if event["event"] == "answer" and not self.noisy:
                self.check_table(event["table"], self.versions[event["run"]])
        everything = b"\n".join(payload for _, payload in self.sent)
        if found := [text for text in NEVER_SENT if text in everything]:
            raise Violation(f"A record crossed the line: {found[0]!r}.")
        for state in self.home.glob("*.state"):
            key = commands._unpack_state(state)[0].link_key
            for form in (key, key.hex().encode(), base64.b64encode(key)):
                if form in everything:
                    raise Violation("A link key crossed the line.")

    def check_table(self, table: list[dict[str, Any]], versions: tuple[int, int]) -> None:
        """The truth or nothing, and no small count."""
        rows = common(versions)
        for cell in table:
            shown = cell["count"]
            columns = [name for name in cell if name != "count"]
            here = rows[np.logical_and.reduce([rows[c] == cell[c] for c in columns])]
            if shown is not None and (shown != len(here) or 0 < shown < MIN_CELL):
                raise Violation(f"{cell} was shown; {len(here)} rows are there.")


TIMED = ("run", "ask", "clock", "kill", "tear")
WRITING = ("die writing", "full")


def common(versions: tuple[int, int]) -> pd.DataFrame:
    """The intersection of two files."""
    if versions not in COMMON:
        COMMON[versions] = FILES["left"][versions[0]].merge(FILES["right"][versions[1]], on="id")
    return COMMON[versions]


def whole(side: str, versions: tuple[int, int]) -> str:
    """The --out file that a side may have."""
    if (side, versions) not in WHOLE:
        own = FILES[side][versions[side == "right"]]
        rows = own[own["id"].isin(common(versions)["id"])]
        WHOLE[side, versions] = rows.to_csv(index=False)
    return WHOLE[side, versions]


COMMON: dict[tuple[int, int], pd.DataFrame] = {}
WHOLE: dict[tuple[str, tuple[int, int]], str] = {}


@contextlib.contextmanager
def standing_in(patch: Any) -> Any:
    """Everything that costs time only is replaced; yields a function that plays a schedule."""
    now: dict[str, World] = {}

    def world() -> World:
        return now["world"]

    class Event:
        """In place of `threading.Event` and of a future that another fibre fulfils."""

        def __init__(self) -> None:
            self.wake: Any = None
            self.value: Any = None
            self.error: BaseException | None = None
            self.happened = False

        def set(self) -> None:
            self.happened = True
            if self.wake:
                self.wake(True)

        def wait(self, seconds: float) -> bool:
            return self.happened or bool(world().wait(self, seconds))

        def set_result(self, value: Any) -> None:
            self.value = value
            self.set()

        def set_exception(self, error: BaseException) -> None:
            self.error = error
            self.set()

        def result(self) -> Any:
            self.wait(1e9)
            if self.error:
                raise self.error
            return self.value

    class Timer:
        def __init__(self, seconds: float, work: Any) -> None:
            self.seconds, self.work = seconds, work

        def start(self) -> None:
            self.handle = world().loop.call_later(self.seconds, self.work)

        def cancel(self) -> None:
            self.handle.cancel()

    def inline(work: Any, n: int, *, cpu: list[float], step: int) -> Any:
        for start in range(0, n, step):
            rows = slice(start, min(start + step, n))
            yield rows, work(rows)

    def report(**items: Any) -> None:
        process = getcurrent().process
        process.living()
        world().events.append({"run": process.number, **items})

    clock = SimpleNamespace(
        monotonic=lambda: world().monotonic(),
        sleep=lambda s: world().sleep(s),
        process_time=lambda: 0.0,
    )
    threads = SimpleNamespace(
        Lock=threading.Lock, BoundedSemaphore=threading.BoundedSemaphore, Event=Event, Timer=Timer
    )
    dates = SimpleNamespace(datetime=SimpleNamespace(now=lambda *zone: world().utc()), UTC=real.UTC)
    line = SimpleNamespace(
        connect=lambda *a, **k: world().connect(*a, **k),
        serve=lambda *a, **k: world().serve(*a, **k),
    )
    patch.setattr(service, "blocking", line)
    patch.setattr(service, "threading", threads)
    patch.setattr(service, "Future", Event)
    patch.setattr(service, "time", clock)
    patch.setattr(commands, "time", clock)
    patch.setattr(commands, "load", lambda folder: SimpleNamespace(name=str(folder)))
    patch.setattr(commands, "_read", read_file)
    patch.setattr(commands, "_report", report)
    patch.setattr(session, "in_threads", inline)
    patch.setattr(disclosure, "datetime", dates)
    patch.setattr(linker, "discrete_laplace", lambda scale: next(world().noise))
    patch.setattr(os, "fsync", lambda handle: world().fsync(handle))

    def play(home: Path, schedule: Schedule, linker_type: type[Linker] = Linker) -> World:
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        now["world"] = World(home, schedule, linker_type)
        return now["world"].play()

    yield play


def read_file(path: Path, separator: str) -> pd.DataFrame:
    """In place of a CSV file: "left-0" is the first version of left's."""
    side, version = path.name.split("-")
    return FILES[side][int(version)]


def draw(rng: random.Random) -> Schedule:
    """One to three sessions, later questions, and up to a dozen faults."""
    at = partial(rng.uniform, 0, rng.choice((0.1, 30.0, SPAN_S)))
    runs = rng.choice((1, 1, 2, 2, 3))
    steps: Schedule = [("noise",)] if rng.random() < 0.4 else []
    steps += [("run", at(), rng.randrange(2), rng.randrange(2)) for _ in range(runs)]
    steps += [
        ("ask", rng.uniform(0, 2 * SPAN_S), rng.choice(MACHINES[:2]), rng.randrange(runs), q)
        for q in rng.choices(range(4), k=rng.choice((0, 1, 2, 4)))
    ]
    for _ in range(rng.choice((0, 1, 2, 4, 8))):
        kind = rng.choice((*FAULTS, *WRITING, "kill", "tear", "clock"))
        frame, who = rng.randrange(60 * runs), rng.choice(MACHINES)
        if kind == "drop":
            steps.append((kind, frame))
        elif kind in {"delay", "repeat"}:
            steps.append((kind, frame, rng.choice((0.005, 0.05, 1.0, 40.0))))
        elif kind == "stray":
            steps.append((kind, frame, rng.randrange(60 * runs)))
        elif kind in WRITING:
            who = who if kind == "die writing" else "linker"
            steps.append((kind, who, rng.randint(1, 6)))
        elif kind == "clock":
            steps.append((kind, at(), who, rng.choice((-7200, -60, 60, 7200))))
        else:
            steps.append((kind, at(), who, rng.choice((0.1, 30.0, 300.0))))
    return steps
