"""How long a sweep will still take: a small model of runtimes, learnt from the runs that ended.

Runtimes mostly follow the parameters (twice the records, four times the pairs), so the logarithm of
the runtime is a line in them, with a penalty that keeps a few runs from telling too much. Runs from
the edges of the grid are executed first, since a line through the edges is known best.
"""

import heapq
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pet_lab.workbench import runs
from pet_lab.workbench.runs import RunRecord, RunSpec
from pet_lab.workbench.workspace import Workspace

FIRST = 64  # runs at most that are chosen to teach
SHARE = 0.25  # of a sweep that are
PENALTY = 0.1  # a runtime's own scatter against what a parameter does to it, as variances
LEAST_S = 1.0  # what is left while anything is


class Clock:
    """Estimates the time left from done runs of the same notebooks, of this sweep and before."""

    def __init__(self, ws: Workspace, todo: Sequence[RunSpec], slots: int) -> None:
        self._slots = slots
        self._todo = todo
        self._starts: dict[RunSpec, float] = {}
        self._expected: dict[RunSpec, float] | None = None
        self._now: dict[str, dict[RunSpec, float]] = {}
        self._before: dict[str, dict[RunSpec, float]] = {}
        for name in {spec.notebook for spec in todo}:
            for record in runs.records(ws, name):
                if record.ok and record.wall_s > 0:
                    spec = RunSpec.of(name, record.parameters)
                    self._before.setdefault(name, {})[spec] = record.wall_s

    def started(self, spec: RunSpec, seconds: float) -> None:
        """A run's kernel took so long to start; the first ones load what later ones have."""
        self._starts[spec] = seconds

    def ended(self, record: RunRecord) -> None:
        """Learn from a run that has ended."""
        if record.ok and record.wall_s > 0 and not record.skipped:
            spec = RunSpec.of(record.notebook, record.parameters)
            work = record.wall_s - self._starts.get(spec, 0.0)
            self._now.setdefault(record.notebook, {})[spec] = max(work, record.wall_s / 100)
            self._expected = None

    def left(self, waiting: Sequence[RunSpec], running: Mapping[RunSpec, float]) -> float | None:
        """Seconds left, or None where nothing is known; `running` holds when each began."""
        if not waiting and not running:
            return 0.0
        if self._expected is None:
            self._expected = {}
            for name in {spec.notebook for spec in self._todo}:
                self._expected |= self._learnt(name)
        later = [*self._starts.values()][self._slots :]
        start = statistics.median(later) if later else 0.0
        expected = {spec: start + seconds for spec, seconds in self._expected.items()}
        now = time.monotonic()
        if not expected.keys() >= {*waiting, *running}:
            return None
        # A run that takes longer than expected is never said to be over.
        slots = [max(expected[s] / 10, expected[s] - (now - t)) for s, t in running.items()]
        slots += [0.0] * (self._slots - len(slots))
        heapq.heapify(slots)
        for spec in waiting:
            heapq.heapreplace(slots, slots[0] + expected[spec])
        return max(LEAST_S, *slots)

    def _learnt(self, name: str) -> dict[RunSpec, float]:
        """Seconds that each run of a notebook will take; empty where nothing is known."""
        before, now = self._before.get(name, {}), self._now.get(name, {})
        specs = [spec for spec in self._todo if spec.notebook == name]
        if now:  # what ran before ran beside other things: only its proportions count
            again = [s / before[spec] for spec, s in now.items() if spec in before]
            pace = statistics.median(again) if again else 1.0
            known = {s: pace * before[s] for s in specs if s in before} | now
        else:
            known = before
        if not known:
            return {}
        learnt = predict(list(known), list(known.values()), specs)
        return dict(zip(specs, learnt, strict=True)) | known


def _features(specs: Sequence[RunSpec]) -> Any:
    """One row per run: each parameter that varies as a column, or several, of spread one."""
    import numpy as np

    columns: list[Any] = []
    for name in dict.fromkeys(key for spec in specs for key in spec.parameters):
        values = [spec.parameters.get(name) for spec in specs]
        numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        if numeric and name != "seed":
            x = np.array(values, float)
            columns.append(np.log(x) if x.min() > 0 else x)
        elif name != "seed":
            texts = np.array([str(v) for v in values])
            columns += [(texts == t).astype(float) for t in np.unique(texts)]
    kept = [(c - c.mean()) / c.std() for c in columns if c.std() > 1e-12]
    return np.array(kept).T.reshape(len(specs), len(kept))


def predict(
    known: Sequence[RunSpec], seconds: Sequence[float], wanted: Sequence[RunSpec]
) -> list[float]:
    """Runtimes of the wanted runs, from those of the known ones."""
    import numpy as np

    n, y = len(known), np.log(seconds)
    features = _features([*known, *wanted])
    x, at = features[:n], features[n:]
    middle, penalty = x.mean(axis=0), PENALTY * np.eye(x.shape[1])
    slope = np.linalg.solve(
        (x - middle).T @ (x - middle) + penalty, (x - middle).T @ (y - y.mean())
    )
    inside, outside = (x - middle) @ slope, (at - middle) @ slope
    # In seconds, not in logarithms, the known ones must come out right as a whole.
    scale = float(np.sum(seconds) / np.sum(np.exp(inside)))
    return [scale * float(s) for s in np.exp(outside)]


def teaching_order(specs: Iterable[RunSpec]) -> list[RunSpec]:
    """The same runs: first some far from each other, by which the others are known, then the rest.

    Each of the first is the one whose settings are the farthest from all before it.
    """
    import numpy as np

    rest = list(specs)
    teach: list[RunSpec] = []
    for name in dict.fromkeys(spec.notebook for spec in rest):
        mine = [spec for spec in rest if spec.notebook == name]
        x = _features(mine)
        wanted = min(FIRST, max(2, round(SHARE * len(mine))))
        if len(mine) <= 2 or not x.shape[1]:
            continue
        chosen = [int(np.argmax((x**2).sum(axis=1)))]
        distance = ((x - x[chosen[0]]) ** 2).sum(axis=1)
        while len(chosen) < wanted and distance.max() > 1e-12:
            chosen.append(int(np.argmax(distance)))
            distance = np.minimum(distance, ((x - x[chosen[-1]]) ** 2).sum(axis=1))
        teach += [mine[i] for i in chosen]
    first = set(teach)
    return [*teach, *(spec for spec in rest if spec not in first)]
