"""What a sweep says while it runs: in a terminal, in a log, in a notebook."""

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO

from pet_lab import files
from pet_lab.workbench.runs import RunRecord, RunSpec

QUIET_S = 30.0  # a log gets a line at least so often


@dataclass(frozen=True)
class Running:
    """A run in execution: since when, and in which of its code cells, below which heading."""

    spec: RunSpec
    seconds: float
    cell: int = 0
    cells: int = 0
    heading: str = ""

    def __str__(self) -> str:
        place = f"cell {self.cell} of {self.cells}" if self.cell else "starting"
        where = ", ".join(filter(None, (place, self.heading, files.duration(self.seconds))))
        return f"{self.spec.notebook} {self.spec.run_id}: {where}"


@dataclass(frozen=True)
class Event:
    """What just happened in a sweep.

    kind      skipped | started | waiting | running | done | failed | interrupted
    record    the run's record, once it ended
    finished  runs that ended or were skipped, of `total`
    left_s    estimate of the seconds left, or None while nothing is known
    running   the runs in execution; told anew every second, and whenever one begins a cell
    """

    kind: str
    spec: RunSpec
    record: RunRecord | None
    finished: int
    total: int
    left_s: float | None
    running: tuple[Running, ...] = ()

    @property
    def left(self) -> str:
        """The time left in words, with a comma before; empty where nothing is known or left."""
        known = self.left_s is not None and self.finished < self.total
        return f", about {files.duration(self.left_s or 0)} left" if known else ""


Progress = Callable[[Event], None]
# A code cell begins: its number, of how many, the heading above, seconds since the run began.
Tell = Callable[[int, int, str, float], object]


class Printer:
    """Shows events: a line when a run has ended or must wait, and what runs now.

    What runs now is the last line of a terminal, written anew; one output of a notebook, written
    anew; in a log, a line where nothing else was said for half a minute.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._width = 0  # of the line that is written anew
        self._said = time.monotonic()
        self._lines: list[str] = []
        self._output = None if stream else _notebook_output()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        ended = "" if event.kind in ("started", "running") else _ended(event)
        status = "; ".join(map(str, event.running))
        status = status and f"[{event.finished}/{event.total}]{event.left[1:]}: {status}"
        if self._output is not None:
            self._lines += [ended] * bool(ended)
            text = "\n".join([*self._lines[-10:], status.replace("; ", "\n    ")])
            self._output.update({"text/plain": text}, raw=True)
        elif self._stream.isatty():
            self._write(f"\r{' ' * self._width}\r" + (f"{ended}\n" if ended else ""))
            line = status[: shutil.get_terminal_size().columns - 1]
            self._width = len(line)
            self._write(line)
        elif ended or (status and time.monotonic() - self._said > QUIET_S):
            self._write(f"{ended or status}\n")

    def _write(self, text: str) -> None:
        self._said = time.monotonic()
        self._stream.write(text)
        self._stream.flush()


def _ended(event: Event) -> str:
    took = why = ""
    if event.record and event.kind == "done":
        took = f" in {files.duration(event.record.wall_s)}"
        why = f": {event.record.problem}" if event.record.undrawn else ""
    elif event.record and event.kind in ("failed", "waiting"):
        why = f": {event.record.problem}"
    name = f"{event.spec.notebook} {event.spec.run_id}"
    return f"[{event.finished}/{event.total}] {event.kind}{took} {name}{event.left}{why}"


def _notebook_output() -> Any:
    """An output of the cell that is being executed, to be written anew; None outside a kernel."""
    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython
    from IPython.display import display

    if getattr(get_ipython(), "kernel", None) is None:
        return None
    return display({"text/plain": ""}, raw=True, display_id=True)
