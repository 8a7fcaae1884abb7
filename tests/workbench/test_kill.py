"""SIGKILL at random moments: nothing done is lost or repeated, nothing half-written is read."""

import os
import random
import signal
import subprocess
import sys
import time

import psutil
import pytest
from tiny_notebooks import IMPORTS, ROWS, WRITE

from pet_lab.workbench import results, runs, sweep

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is a POSIX signal"),
]

KILLS = 20  # of each kind
LEVELS = [float(i) for i in range(10)]
# Every execution leaves a line, so that a repetition shows.
TALLY = """
import os, time
with open("executed", "a") as tally:
    tally.write(f"{level}\\n")
time.sleep(0.15)
"""
SWEEPER = """
import sys
from pathlib import Path
from pet_lab.workbench import sweep
from pet_lab.workbench.workspace import Workspace
ws = Workspace(Path(sys.argv[1]))
specs = sweep.plan(ws, "tiny", {"steps": 2000}, {"level": [float(i) for i in range(10)]})
records = sweep.execute(ws, specs, jobs=2, progress=lambda e: print(e.kind, flush=True))
raise SystemExit(not all(r.ok for r in records))
"""


@pytest.fixture
def ws(make_workspace):
    return make_workspace({"group/tiny": (IMPORTS, TALLY, ROWS, WRITE)})


def specs_of(ws):
    return sweep.plan(ws, "tiny", {"steps": 2000}, {"level": LEVELS})


def start(ws):
    return subprocess.Popen(
        [sys.executable, "-c", SWEEPER, str(ws.root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def done(ws):
    return {r.run_id for r in runs.records(ws) if r.ok}


def check_readable(ws):
    """What a reader sees at this moment is complete runs only."""
    rows = results.read(ws, "tiny")
    if len(rows):
        counts = rows.groupby("run_id")["value"].agg(["size", "nunique"])
        assert (counts == 2000).all().all()


def below(pid):
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def assert_all_gone(processes, within_s=5.0):
    _, alive = psutil.wait_procs(processes, timeout=within_s)
    alive = [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not alive, alive


def test_killing_the_whole_sweep(ws):
    """Each round gets a little further; rounds go on until every run is done."""
    rng = random.Random(20240607)
    kills = 0
    while kills < KILLS:
        before = done(ws)
        if len(before) == len(LEVELS):  # all done: begin anew, so that kills go on meeting work
            for spec in specs_of(ws)[: len(LEVELS) // 2]:
                (spec.folder(ws) / runs.RECORD).unlink()
            before = done(ws)
        (ws.root / "executed").unlink(missing_ok=True)
        process = start(ws)
        # Half of the kills come while processes start, half while runs execute and are stored.
        if kills % 2:
            while process.poll() is None and not (ws.root / "executed").exists():
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 1.5))
        else:
            time.sleep(rng.uniform(0, 1.5))
        family = below(process.pid)
        process.kill()
        process.communicate()
        kills += 1
        check_readable(ws)
        assert_all_gone(family)
        after = done(ws)
        assert before <= after, "what was done stays done"
        assert executed(ws).isdisjoint(before), "what was done is not repeated"
    process = start(ws)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert done(ws) == {s.run_id for s in specs_of(ws)}
    assert not list(ws.runs.rglob(".attempt-*"))
    assert not list(ws.runs.rglob("*.tmp"))
    check_readable(ws)


def executed(ws):
    """Run ids of what was executed since the file was removed."""
    path = ws.root / "executed"
    lines = set(path.read_text().split()) if path.exists() else set()
    return {s.run_id for s in specs_of(ws) if str(s.parameters["level"]) in lines}


def test_killing_kernels(ws):
    """A killed kernel fails its own run and no other; the next sweep does only that one."""
    rng = random.Random(7)
    specs = specs_of(ws)
    kills = 0
    while kills < KILLS:
        for spec in specs:  # everything is stale anew in each round
            (spec.folder(ws) / runs.RECORD).unlink(missing_ok=True)
        process = start(ws)
        process.stdout.readline()
        while process.poll() is None and kills < KILLS:
            time.sleep(rng.uniform(0.05, 0.4))
            kernels = [p for p in below(process.pid) if is_kernel(p)]
            if kernels:
                victim = rng.choice(kernels)
                try:
                    victim.send_signal(signal.SIGKILL)
                    kills += 1
                except psutil.NoSuchProcess:
                    continue
            check_readable(ws)
        process.communicate(timeout=300)
        records = {r.run_id: r for r in runs.records(ws)}
        assert records.keys() == {s.run_id for s in specs}
        for record in records.values():
            assert record.state in ("done", "failed")
            if record.state == "failed":
                assert record.error["name"] in ("DeadKernel", "RuntimeError"), record.problem
                assert record.path.is_file()
        finished = done(ws)
        (ws.root / "executed").unlink(missing_ok=True)
        process = start(ws)
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        assert executed(ws) == {s.run_id for s in specs} - finished
        check_readable(ws)


def is_kernel(process):
    """A kernel leads a session of its own; the fork server is in that of the sweep."""
    try:
        return os.getsid(process.pid) == process.pid and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ProcessLookupError):
        return False
