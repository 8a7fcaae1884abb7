"""Runs on this machine: every run in processes of its own, and no process outlives the sweep."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pet_lab import files
from pet_lab.workbench import forkserver, runner

POLL_S = 0.5


class ProcessExecutor:
    """Starts `python -m pet_lab.workbench.runner` for every run: portable, a new interpreter each.

    Safe to use from several threads, one run each.
    """

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._alive: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._closed = False

    def run(
        self, job: Mapping[str, Any], folder: Path, cancelled: Callable[[], bool] | None = None
    ) -> dict[str, Any]:
        """Execute `job` in `folder`; returns the outcome (see `runner.perform`).

        `cancelled` is asked twice a second; when it says yes, the run is ended.
        """
        started = runner.now()
        files.write_json(folder / runner.JOB, {**job, "parent": os.getpid()})
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
            code = None
            while code is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = process.wait(POLL_S if cancelled else None)
                if code is None and cancelled and cancelled():
                    kill_tree(process.pid)
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


class ForkExecutor:
    """Keeps one fork server (see `forkserver`) and lets it execute runs, several at a time.

    A server that dies takes its runs with it; they fail with that reason, and the next run starts
    a new server. Safe to use from several threads.
    """

    def __init__(self, threads: int = 1, packages: Iterable[str] = ()) -> None:
        self._threads, self._packages = threads, sorted(packages)
        self._lock = threading.Lock()
        self._server: subprocess.Popen[bytes] | None = None
        self._waiting: dict[str, queue.Queue[str]] = {}
        self._closed = False

    def run(
        self, job: Mapping[str, Any], folder: Path, cancelled: Callable[[], bool] | None = None
    ) -> dict[str, Any]:
        """Execute `job` in `folder`; returns the outcome (see `runner.perform`).

        `cancelled` is asked twice a second; when it says yes, the run is ended.
        """
        started = runner.now()
        files.write_json(folder / runner.JOB, {**job, "parent": os.getpid()})
        key, answer = secrets.token_hex(8), queue.Queue[str](1)
        with self._lock:
            if self._closed:
                return died(started, "the sweep was stopped")
            server = self._running()
            self._waiting[key] = answer
            try:
                self._send(server, {"id": key, "folder": str(folder)})
            except OSError:
                self._waiting.pop(key)
                return died(started, "the process that starts runs is gone")
        how = None
        while how is None:
            with contextlib.suppress(queue.Empty):
                how = answer.get(timeout=POLL_S if cancelled else None)
            if how is None and cancelled and cancelled():
                with self._lock, contextlib.suppress(OSError):
                    self._send(server, {"kill": key})
        try:
            return json.loads((folder / runner.OUTCOME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return died(started, how)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._server is not None and self._server.poll() is None:
            return self._server
        # -P: a file in the working folder must not shadow a library.
        self._server = subprocess.Popen(
            [sys.executable, "-P", "-m", "pet_lab.workbench.forkserver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **runner.thread_limits(self._threads), "PYTHONHASHSEED": "0"},
            start_new_session=True,
        )
        preload = forkserver.shareable(self._packages)
        self._send(self._server, {"preload": preload, "parent": os.getpid()})
        threading.Thread(target=self._listen, args=(self._server,), daemon=True).start()
        return self._server

    @staticmethod
    def _send(server: subprocess.Popen[bytes], message: Mapping[str, Any]) -> None:
        assert server.stdin is not None
        server.stdin.write(json.dumps(message).encode() + b"\n")
        server.stdin.flush()

    def _listen(self, server: subprocess.Popen[bytes]) -> None:
        assert server.stdout is not None
        for line in server.stdout:
            message = json.loads(line)
            if "id" in message:
                with self._lock:
                    answer = self._waiting.pop(message["id"], None)
                if answer is not None:
                    answer.put(f"its process ended with status {message['status']}")
        with self._lock:
            if self._server is server or self._closed:
                self._give_up()

    def _give_up(self) -> None:
        """Answer all that still wait; the lock must be held."""
        lost, self._waiting = self._waiting, {}
        for answer in lost.values():
            answer.put("the process that starts runs is gone")

    def stop(self) -> None:
        """End the server and with it everything it started; `run` then returns a failure."""
        with self._lock:
            self._closed = True
            server, self._server = self._server, None
        if server is None:
            return
        assert server.stdin is not None
        with contextlib.suppress(OSError):
            server.stdin.close()  # the server kills its runs and ends
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            kill_tree(server.pid)
        with self._lock:  # not left to the listener: whatever holds the pipe open delays its end
            self._give_up()

    close = stop


def best(threads: int, packages: Iterable[str] = ()) -> ForkExecutor | ProcessExecutor:
    """The cheapest executor that works here; PET_LAB_NO_FORK=1 forces a new interpreter per run.

    Forking a process that has loaded Apple's frameworks is not safe, and Windows has no fork.
    """
    if sys.platform == "linux" and os.environ.get("PET_LAB_NO_FORK", "") in ("", "0"):
        return ForkExecutor(threads, packages)
    return ProcessExecutor(threads)


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
