"""Sweeps that are killed at any file operation: no done run is lost or repeated, no half row read.

Real are planning, claims, locks, attempts, records and their placing, on files. Stand-ins are the
kernel (it writes two halves of made-up rows) and the hashes of a notebook (a version number).
"""

import contextlib
import json
import os
import random
import shutil
from collections import Counter

import pytest
from simulated import Killed, Schedule, Violation, search, shrink

from pet_lab.workbench import locks, notebooks, runs, sweep
from pet_lab.workbench.workspace import Workspace

OPERATIONS = ("replace", "unlink", "mkdir", "rmdir")


class World:
    """One workspace, and the processes that sweep it, one inside another where they overlap."""

    def __init__(self, root, kernel):
        self.ws, self.kernel = Workspace(root), kernel
        self.specs = [runs.RunSpec.of("group/tiny", {"level": level}) for level in (1, 2)]
        self.code = self.clock = self.executed = 0
        self.processes: list[dict] = []
        self.done: dict[str, tuple] = {}  # run id -> code's version, execution of its done run
        self.replaced: list[tuple] = []  # of those, what a failed run may take the place of
        self.later: Schedule = []

    def now(self):
        self.clock += 1
        return f"{self.clock:06}"

    def tick(self):
        """A file operation: the process may die before it, and others may read now."""
        if not self.processes:
            return
        process = self.processes[-1]
        if process["dead"]:
            raise Killed
        process["left"] -= 1
        if process["left"] == 0:
            process["dead"] = True
            raise Killed
        self.read()

    def read(self):
        """As any reader: what says it is done has whole rows, of the execution that it tells of."""
        for spec in self.specs:
            record = runs.load(spec.folder(self.ws))
            if record is not None and record.ok:
                rows = (record.folder / runs.ROWS).read_text()
                if rows != 2 * record.versions["execution"]:
                    raise Violation(f"Half a table, or another's, is read as done: {rows!r}.")
                self.done[spec.run_id] = record.fingerprints["code"], rows

    def execute(self, job, attempt, stop, tell):
        """In place of papermill."""
        process, run_id = self.processes[-1], attempt.parent.name
        done = self.done.get(run_id, (None, None))
        if done[0] == process["code"] and done not in self.replaced and not process["force"]:
            raise Violation("A run that was done and fresh was executed again.")
        self.executed += 1
        execution = f"{run_id} {self.executed};"
        if self.later and self.later[0][0] == "overlap":
            self.happen(self.later.pop(0))
        fails = process["fails"] == self.executed % 3
        self.tick()
        name = runs.FAILED_NOTEBOOK if fails else runs.NOTEBOOK
        (attempt / name).write_text("{}")
        self.tick()
        self.kernel(self, attempt, execution)
        (attempt / runs.SUMMARY).write_text(json.dumps({"data": []}))
        error = {"name": "Error", "value": "failed", "cell": 1} if fails else None
        if fails:
            self.replaced.append(self.done.get(run_id))
        versions = {"execution": execution}
        return {"error": error, "started": self.now(), "ended": self.now(), "versions": versions}

    def happen(self, step):
        if step[0] == "edit":
            self.code += 1
            return
        _, left, force, fails = step
        process = {"left": left, "dead": False, "force": force, "fails": fails, "code": self.code}
        self.processes.append(process)
        try:
            self.sweep(force)
        except Killed:
            pass
        finally:
            self.processes.pop()

    def sweep(self, force):
        todo = list(sweep.pending(self.ws, self.specs, force=force))
        how = {"timeout": None, "force": force, "data_fingerprint": None, "progress": None}
        one = sweep._Sweep(self.ws, self.specs, todo, **how)
        one.executor = self.execute
        for spec in todo:
            with contextlib.suppress(locks.Busy):
                one._one(spec)
        self.read()

    def play(self, schedule):
        self.later = list(schedule)
        while self.later:
            self.happen(self.later.pop(0))
        known = dict(self.done)
        for spec in self.specs:
            with runs.claimed(self.ws, spec) as folder:  # what the next sweep does first
                record = runs.load(folder)
            done = known.get(spec.run_id)
            if done and done not in self.replaced and not (record and record.ok):
                raise Violation(f"A done run is lost: {record and record.state}.")
        self.happen(("sweep", 0, False, -1))
        if sweep.pending(self.ws, self.specs):
            raise Violation("A sweep that nobody killed leaves runs behind.")
        return self.executed


def halves(world, attempt, execution):
    """A kernel: it writes its rows in two halves."""
    with (attempt / runs.ROWS).open("w") as file:
        file.write(execution)
        file.flush()
        world.tick()
        file.write(execution)


def halves_in_place(world, attempt, execution):
    """The planted bug: it writes them where readers look, and then again."""
    halves(world, attempt.parent, execution)
    halves(world, attempt, execution)


@pytest.fixture
def play(monkeypatch, folder):
    now = {}

    def failing(operation):
        def patched(*given, **more):
            if "world" in now:
                now["world"].tick()
            return operation(*given, **more)

        return patched

    monkeypatch.setattr(os, "fsync", failing(lambda handle: None))  # power does not fail here
    for name in OPERATIONS:
        monkeypatch.setattr(os, name, failing(getattr(os, name)))
    prints = {"prose": "", "lock": None, "modules": {}}
    monkeypatch.setattr(
        runs, "fingerprints", lambda ws, name: {**prints, "code": now["world"].code}
    )
    monkeypatch.setattr(runs, "git_state", lambda root: {})
    monkeypatch.setattr(runs, "now", lambda: World.now(now["world"]))
    monkeypatch.setattr(notebooks, "path", lambda ws, name: ws.root / f"{name}.ipynb")
    monkeypatch.setattr(notebooks, "read", lambda path: {"cells": []})

    def playing(schedule, kernel=halves):
        now.clear()
        root = folder / "workspace"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        now["world"] = World(root, kernel)
        return now["world"].play(schedule)

    yield playing
    now.clear()


def draw(rng: random.Random) -> Schedule:
    """One to six sweeps, killed before some file operation, forced, failing, or inside another."""
    steps = []
    for _ in range(rng.randint(1, 6)):
        if rng.random() < 0.2:
            steps.append(("edit",))
        kind = "overlap" if steps and rng.random() < 0.3 else "sweep"
        left = rng.choice((0, rng.randint(1, 12), rng.randint(1, 60)))
        steps.append((kind, left, rng.random() < 0.3, rng.choice((-1, -1, -1, 0, 1))))
    return steps


def run(play, seeds):
    outcomes = Counter(search(draw, play, seeds))
    print(f"seeds {seeds}: executions by schedule {sorted(outcomes.items())}, no violation")
    assert len(outcomes) > 3


def test_hundreds_of_schedules(play):
    run(play, range(150))


@pytest.mark.slow
def test_many_schedules(play, schedules):
    run(play, range(1000, 1000 + schedules))


def test_a_sweep_inside_another_after_an_edit_leaves_no_runs_behind(play):
    play([("edit",), ("sweep", 0, False, 1), ("edit",), ("overlap", 0, True, 0)])
    list(search(draw, play, [3848]))


@pytest.mark.parametrize("force", [False, True])
def test_a_sweep_killed_before_any_file_operation_is_resumed(play, force):
    """Between two of its moves, too: then the next sweep puts it in place and runs nothing."""
    for left in range(1, 60):
        play([("sweep", 0, False, -1)] * force + [("sweep", left, force, -1)])


def test_rows_written_in_place_are_found(play):
    for seed in range(400):
        schedule = draw(random.Random(seed))
        try:
            play(schedule, halves_in_place)
        except Violation:
            steps = shrink(schedule, lambda s: play(s, halves_in_place))
            print(f"seed {seed}: {len(schedule)} steps, shrunk to {steps}")
            assert len(steps) <= 10
            return
    raise AssertionError("The bug was not found.")
