"""Measures ours and the peer side by side, the same way for every claim of speed.

Each repetition starts a new interpreter for ours and one for the peer, in turns and in alternating
order, so that a slow minute of the machine hits both. What counts is CPU seconds, of the process
and of all processes it started and waited for; wall time is shown beside it. Figures are medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Cost:
    """Seconds of one child process and its children."""

    cpu_s: float
    wall_s: float


def measure(command: Sequence[str], cwd: Path, threads: int | None = 1) -> Cost:
    """Run a command and take its cost.

    Raises
    ------
    RuntimeError
        If it does not end with status 0; its last output is in the message.
    """
    environment = dict(os.environ)
    if threads:
        environment |= dict.fromkeys(THREADS, str(threads))
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=cwd, stdout=said, stderr=said, env=environment)
        if hasattr(os, "wait4"):
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            cpu = usage.ru_utime + usage.ru_stime
        else:  # Windows: the process alone
            import psutil

            watched, cpu = psutil.Process(process.pid), 0.0
            while process.poll() is None:
                times = watched.cpu_times()
                cpu = times.user + times.system
                time.sleep(0.05)
        wall = time.perf_counter() - start
        if process.returncode:
            said.seek(0)
            tail = said.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{' '.join(command[:4])} ended with {process.returncode}:\n{tail}")
    return Cost(cpu, wall)


def compare(
    claim: str,
    *,
    peer: str,
    goal: float,
    ours_command: Callable[[Path], Sequence[str]],
    peer_command: Callable[[Path], Sequence[str]],
    repetitions: int = 5,
    per: int = 1,
    threads: int | None = 1,
) -> dict[str, object]:
    """Measure, print a table and, as the last line, one JSON object.

    Parameters
    ----------
    claim : str
        What is said to be faster, in one sentence.
    peer : str
        What it is held against.
    goal : float
        The claim holds if the peer takes at least this many times our CPU seconds.
    ours_command, peer_command : callable
        From an empty folder of its own to the command to measure; what they prepare is not counted.
    repetitions : int
        Of each; overridden by `--repetitions` on the command line.
    per : int
        Costs are divided by this, for example the number of runs.
    threads : int or None
        Threads of numerical libraries for both; None leaves them alone.

    Returns
    -------
    dict as printed: claim, ours_cpu_s, peer, peer_cpu_s, ratio (peer / ours), goal, holds.
    """
    options = argparse.ArgumentParser(description=claim)
    options.add_argument("--repetitions", type=int, default=repetitions)
    repetitions = options.parse_args().repetitions
    commands = {"ours": ours_command, "peer": peer_command}
    costs: dict[str, list[Cost]] = {"ours": [], "peer": []}
    for i in range(repetitions):
        for who in ("ours", "peer") if i % 2 == 0 else ("peer", "ours"):
            with tempfile.TemporaryDirectory(prefix="bench-") as folder:
                command = commands[who](Path(folder))
                cost = measure(command, Path(folder), threads)
            costs[who].append(Cost(cost.cpu_s / per, cost.wall_s / per))
            print(f"{i + 1}/{repetitions} {who}: {cost.cpu_s:.2f} CPU s", file=sys.stderr)
    cpu = {who: statistics.median(c.cpu_s for c in costs[who]) for who in costs}
    wall = {who: statistics.median(c.wall_s for c in costs[who]) for who in costs}
    print(claim)
    print(f"medians of {repetitions}" + (f", each divided by {per}" if per != 1 else ""))
    print(f"{'':34} {'CPU s':>9} {'wall s':>9}")
    for who, label in (("ours", "ours"), ("peer", peer)):
        print(f"{label:34} {cpu[who]:9.3f} {wall[who]:9.3f}")
    ratio = cpu["peer"] / cpu["ours"]
    result = {
        "claim": claim,
        "ours_cpu_s": round(cpu["ours"], 4),
        "peer": peer,
        "peer_cpu_s": round(cpu["peer"], 4),
        "ratio": round(ratio, 3),
        "goal": goal,
        "holds": ratio >= goal,
    }
    print(json.dumps(result), flush=True)
    return result


def python(code: str, *arguments: object) -> list[str]:
    """Command that runs `code` in this interpreter."""
    return [sys.executable, "-c", code, *map(str, arguments)]
