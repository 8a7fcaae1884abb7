"""Party processes on one machine: start, wait until ready, read what they report, stop them all.

A process runs `python -m MODULE` in a session of its own and reports in JSON lines on stdout. When
its parent dies, however it dies, it ends with everything that it started. Secrets never are
arguments: a process gets the folder of its credentials in its environment.
"""

from __future__ import annotations

import collections
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from .errors import PeerLost

TAIL_LINES = 40


class Process:
    """A started party, called `name` in errors; use it as a context manager, or call `stop`.

    It runs `python -m module arguments` (no secrets there) with `environment` added to ours. The
    folder `remove`, of keys and data, goes away with the parent, however the parent ends.
    """

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str] = (),
        *,
        environment: Mapping[str, str] | None = None,
        remove: Path | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.events: list[dict[str, Any]] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
        self._writing = threading.Lock()
        tied = [__name__, str(os.getpid()), str(remove or ""), module, *arguments]
        self.popen = subprocess.Popen(  # noqa: S603 - our own interpreter and module, no shell
            [sys.executable, "-m", *tied],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
            cwd=cwd or Path(__file__).resolve().parents[2],
            start_new_session=True,
        )
        assert self.popen.stdout is not None
        assert self.popen.stderr is not None
        self._readers = [
            threading.Thread(target=self._read_events, args=(self.popen.stdout,), daemon=True),
            threading.Thread(target=self._read_tail, args=(self.popen.stderr,), daemon=True),
        ]
        for thread in self._readers:
            thread.start()

    def _read_events(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self._lines.put(line)
        self._lines.put(None)

    def _read_tail(self, stream: IO[str]) -> None:
        with stream:
            self._tail.extend(line.rstrip() for line in stream)

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.popen.poll() is None

    def write(self, message: Mapping[str, Any]) -> None:
        """Type one JSON line at its console (stdin)."""
        assert self.popen.stdin is not None
        with self._writing:
            try:
                self.popen.stdin.write(json.dumps(message) + "\n")
                self.popen.stdin.flush()
            except (OSError, ValueError):
                raise PeerLost(self.name, f"{self.name} has ended.") from None

    def read(self, within: float) -> dict[str, Any]:
        """The next JSON object that it prints; other lines join the tail of its stderr.

        PeerLost if it ended, with what it wrote last, or printed nothing in time.
        """
        report = self._read(time.monotonic() + within)
        if report is None:
            raise PeerLost(self.name, f"{self.name} reported nothing within {within:g} s.")
        return report

    def _read(self, deadline: float) -> dict[str, Any] | None:
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return None
            if line is None:
                self._lines.put(None)  # for whoever asks again
                raise PeerLost(self.name, self.last_words())
            try:
                event = json.loads(line)
            except ValueError:
                event = None
            if isinstance(event, dict):
                self.events.append(event)
                return event
            self._tail.append(line.rstrip())

    def wait_for(
        self, event: str, within: float, *, partner: Process | None = None
    ) -> dict[str, Any]:
        """The next report whose field `event` is this.

        PeerLost if the process ended, with its last words, or was too slow; or if `partner` failed
        meanwhile, with the partner's.
        """
        deadline = time.monotonic() + within
        while (now := time.monotonic()) < deadline:
            report = self._read(min(deadline, now + 0.2))
            if report is not None and report.get("event") == event:
                return report
            if report is None and partner is not None and partner.popen.poll():
                raise PeerLost(partner.name, partner.last_words())
        raise PeerLost(self.name, f"{self.name} did not report {event!r} within {within:g} s.")

    def last_words(self) -> str:
        """The last lines of its stderr in one, or how it ended."""
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(5)
            self._readers[1].join(5)
        text = " ".join(list(self._tail)).strip()
        return text or f"{self.name} ended with {self.popen.returncode}."

    def stop(self, grace_s: float = 5.0) -> None:
        """Close its console, ask it to end, and kill whatever is left of it and its children."""
        if self.popen.stdin is not None:
            with suppress(OSError):
                self.popen.stdin.close()
        if self.alive:
            self.popen.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.popen.wait(grace_s)
        _kill_tree(self.popen.pid)
        self.popen.wait()
        for thread in self._readers:
            thread.join(5)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def stop_all(processes: Sequence[Process], grace_s: float = 5.0) -> None:
    """Stop several processes at once instead of one after the other."""
    for process in processes:
        if process.alive:
            process.popen.terminate()
    for process in processes:
        process.stop(grace_s)


def _kill_tree(leader: int) -> None:
    """Kill a process and everything in its session's group."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGKILL)
    else:  # Windows
        import psutil

        with suppress(psutil.Error):
            parent = psutil.Process(leader)
            for child in [*parent.children(recursive=True), parent]:
                child.kill()


def _gone(parent: int) -> bool:
    import psutil

    return os.getppid() != parent or not psutil.pid_exists(parent)


def _end_with(parent: int, remove: str) -> None:
    """End this process, its children and a folder as soon as `parent` is gone."""
    while not _gone(parent):
        time.sleep(0.3)
    if remove:
        shutil.rmtree(remove, ignore_errors=True)
    _kill_tree(os.getpid())


def main(arguments: Sequence[str]) -> None:
    """Run a module as `python -m` does, tied to its parent: PARENT REMOVE MODULE ARGUMENTS."""
    import runpy

    import psutil

    parent, remove, module, *rest = arguments
    threading.Thread(target=_end_with, args=(int(parent), remove), daemon=True).start()
    sys.argv = [module, *rest]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                child.kill()
        if remove:
            time.sleep(0.1)  # the console may have closed because the parent is dying
            if _gone(int(parent)):
                shutil.rmtree(remove, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])
