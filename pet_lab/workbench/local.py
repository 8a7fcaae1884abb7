"""Runs on this machine: one process per run, and no process outlives the sweep."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pet_lab.workbench import files, runner


class ProcessExecutor:
    """Starts `python -m pet_lab.workbench.runner` for every run: portable, a new interpreter each.

    Safe to use from several threads, one run each.
    """

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._alive: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._closed = False

    def run(self, job: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """Execute `job` in `folder`; returns the outcome (see `runner.perform`)."""
        started = runner.now()
        files.write_json(folder / runner.JOB, job)
        with open(folder / runner.KERNEL_LOG, "wb") as log, self._lock:
            if self._closed:
                return died(started, "the sweep was stopped")
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "pet_lab.workbench.runner", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **runner.thread_limits(self._threads)},
                start_new_session=True,
            )
            self._alive.add(process)
        try:
            code = process.wait()
        finally:
            with self._lock:
                self._alive.discard(process)
        try:
            return json.loads((folder / runner.OUTCOME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return died(started, f"its process ended with status {code} before it was finished")

    def stop(self) -> None:
        """Kill what is running; `run` then returns a failure in its thread."""
        with self._lock:
            self._closed = True
            for process in self._alive:
                kill_tree(process.pid)

    close = stop


def kill_tree(pid: int) -> None:
    """Kill a process and all its descendants."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in [*root.children(recursive=True), root]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))


def died(started: str, how: str) -> dict[str, Any]:
    """Outcome of a run whose process is gone."""
    return {
        "started": started,
        "ended": runner.now(),
        "wall_s": 0.0,
        "cpu_s": 0.0,
        "error": {"name": "RunnerDied", "value": how, "cell": None},
    }


def cores() -> int:
    """Cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def remove(folder: Path) -> None:
    """Remove a folder and never fail."""
    shutil.rmtree(folder, ignore_errors=True)
