"""A grid becomes runs with stable ids; those that are not done and fresh are executed.

Done and fresh is skipped, stale is rerun, failed is tried again. One thread per slot takes the next
run, claims its folder, lets the executor work, and puts the result in place; the main thread
reports progress and waits for Ctrl-C.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import itertools
import os
import queue
import shutil
import signal
import statistics
import sys
import threading
import time
import tomllib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from pet_lab import files
from pet_lab.workbench import closure, locks, notebooks, runs
from pet_lab.workbench.errors import ExecutorError, ParameterError, WorkbenchError, WorkspaceError
from pet_lab.workbench.runs import DataFingerprint, RunRecord, RunSpec
from pet_lab.workbench.workspace import Workspace

PROFILES = ("quick", "full")


# --- planning ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Profile:
    """A named choice of runs: fixed parameters, and a grid of values to combine.

    Both are typed and checked against the notebook's parameters cell.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)


def profile(ws: Workspace, notebook: str, name: str) -> Profile:
    """Profile `name` of a notebook from the sweep.toml beside it.

    Without an entry "quick" and "full" are one run with the notebook's defaults.

    Raises
    ------
    ParameterError
        If the profile is unknown or sweep.toml does not fit the notebook.
    """
    full_name = notebooks.resolve(ws, notebook)
    source = notebooks.path(ws, full_name)
    tables = _sweep_file(source)
    own = tables.get(source.stem, {})
    if name not in own:
        if name in PROFILES:
            return Profile(name)
        known = ", ".join(dict.fromkeys([*PROFILES, *own]))
        raise ParameterError(f"{full_name} has no profile {name!r}; there are: {known}.")
    where = f"{source.parent.name}/sweep.toml, [{source.stem}.{name}]"
    table = own[name]
    odd = [k for k in table if k not in ("parameters", "grid")] if isinstance(table, dict) else [""]
    if odd:
        raise ParameterError(f"{where}: expected the tables parameters and grid, got {odd[0]!r}.")
    params = notebooks.parameters(source)
    try:
        fixed, grid = table.get("parameters", {}), table.get("grid", {})
        typed = notebooks.check(params, fixed)
        return Profile(name, {k: typed[k] for k in fixed}, _checked_grid(params, fixed, grid))
    except ParameterError as error:
        raise ParameterError(f"{where}: {error}") from None


def _sweep_file(source: Path) -> dict[str, Any]:
    path = source.parent / "sweep.toml"
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ParameterError(
            f"{source.parent.name}/sweep.toml is not valid TOML: {error}."
        ) from None
    stems = [p.stem for p in source.parent.glob("*.ipynb")]
    for name in tables:
        if name not in stems:
            near = difflib.get_close_matches(name, stems, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(sorted(stems))}."
            raise ParameterError(
                f"{source.parent.name}/sweep.toml names {name!r}, "
                f"but there is no such notebook beside it; {hint}"
            )
    return tables


def _checked_grid(
    params: Mapping[str, notebooks.Parameter],
    fixed: Mapping[str, Any],
    grid: Mapping[str, Iterable[Any]],
) -> dict[str, list[Any]]:
    checked: dict[str, list[Any]] = {}
    for name, values in grid.items():
        if name in fixed:
            raise ParameterError(f"Parameter {name} is both fixed and in the grid; choose one.")
        if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
            raise ParameterError(f"Grid values of {name} must be a list, got {values!r}.")
        checked[name] = [notebooks.check(params, {name: v})[name] for v in values]
        if not checked[name]:
            raise ParameterError(f"The grid of {name} is empty; give at least one value.")
    return checked


def plan(
    ws: Workspace,
    notebook: str,
    parameters: Mapping[str, Any] | None = None,
    grid: Mapping[str, Iterable[Any]] | None = None,
    *,
    profile: str = "",
) -> list[RunSpec]:
    """Runs for every combination of the grid, in its order, each once.

    Parameters
    ----------
    ws : Workspace
    notebook : str
        Full name or unique last part.
    parameters : mapping, optional
        Values that differ from the notebook's defaults (typed; see `notebooks.parse`).
    grid : mapping of name to values, optional
    profile : str
        Name to note in the runs' records; the values of a profile come in by
        `plan_profile`.

    Raises
    ------
    NotebookError, ParameterError
        Before anything is executed.
    """
    full_name = notebooks.resolve(ws, notebook)
    source = notebooks.path(ws, full_name)
    content = notebooks.read(source)
    notebooks.check_form(source, content)
    params = notebooks.parameters(source, content)
    fixed = dict(parameters or {})
    values = _checked_grid(params, fixed, grid or {})
    specs = [
        RunSpec.of(
            full_name,
            notebooks.check(params, {**fixed, **dict(zip(values, combination, strict=True))}),
            profile,
        )
        for combination in itertools.product(*values.values())
    ]
    return list(dict.fromkeys(specs))


def plan_profile(
    ws: Workspace,
    notebook: str,
    name: str,
    parameters: Mapping[str, Any] | None = None,
    grid: Mapping[str, Iterable[Any]] | None = None,
) -> list[RunSpec]:
    """Runs of a profile; `parameters` and `grid` of the caller override those of the profile."""
    chosen = profile(ws, notebook, name)
    mine, more = dict(parameters or {}), dict(grid or {})
    fixed = {k: v for k, v in chosen.parameters.items() if k not in more} | mine
    values = {k: v for k, v in chosen.grid.items() if k not in mine} | more
    return plan(ws, notebook, fixed, values, profile=name)


@dataclass(frozen=True)
class Pending:
    """A run that should execute, and why: "new", "failed before", "stale: ...", "forced"."""

    spec: RunSpec
    why: str


def pending(
    ws: Workspace,
    specs: Iterable[RunSpec],
    *,
    data_fingerprint: DataFingerprint | None = None,
    force: bool = False,
) -> list[Pending]:
    """Those of `specs` that are not done and fresh, each with the reason that a dry run shows."""
    todo = []
    prints: dict[str, dict[str, Any]] = {}
    for spec in specs:
        if spec.notebook not in prints:
            prints[spec.notebook] = runs.fingerprints(ws, spec.notebook)
        why = _why(ws, spec, prints[spec.notebook], data_fingerprint, force)
        if why:
            todo.append(Pending(spec, why))
    return todo


def _why(
    ws: Workspace,
    spec: RunSpec,
    now: Mapping[str, Any],
    data_fingerprint: DataFingerprint | None,
    force: bool,
) -> str:
    folder = spec.folder(ws)
    record = runs.load(folder)
    if record is None:
        if (folder / runs.RECORD).exists():
            return "its run.json is damaged"
        return "interrupted" if any(folder.glob(f"{runs.ATTEMPT}*")) else "new"
    if record.state == runs.FAILED:
        return f"failed before: {record.problem}"
    if not record.ok:
        return "interrupted"
    reasons = runs.stale(record, now, data_fingerprint, Path.cwd())
    if reasons:
        return f"stale: {'; '.join(reasons)}"
    return "forced" if force else ""


def profile_records(
    ws: Workspace,
    notebook: str,
    name: str,
    *,
    data_fingerprint: DataFingerprint | None = None,
) -> list[RunRecord]:
    """One record per run of a profile, whatever its state; `record.stale` holds the reasons."""
    specs = plan_profile(ws, notebook, name)
    prints = runs.fingerprints(ws, specs[0].notebook)
    records = []
    for spec in specs:
        record = runs.current(ws, spec)
        reasons = runs.stale(record, prints, data_fingerprint) if record.ok else []
        records.append(dataclasses.replace(record, stale=tuple(reasons)))
    return records


def profile_runs(
    ws: Workspace,
    notebook: str,
    name: str,
    *,
    data_fingerprint: DataFingerprint | None = None,
    stale: bool = False,
) -> list[RunRecord]:
    """Done runs of a profile: those that are fresh, or all of them with `stale=True`."""
    records = profile_records(ws, notebook, name, data_fingerprint=data_fingerprint)
    return [record for record in records if record.ok and (stale or not record.stale)]


# --- progress ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """What just happened in a sweep.

    kind      skipped | started | waiting | done | failed | interrupted
    spec      the run
    record    its record, once it ended
    finished  runs that ended or were skipped, of `total`
    failed    how many of those failed
    left_s    estimate of the seconds left, or None while nothing is known
    """

    kind: str
    spec: RunSpec
    record: RunRecord | None
    finished: int
    total: int
    failed: int
    left_s: float | None


Progress = Callable[[Event], None]


def print_progress(stream: TextIO | None = None) -> Progress:
    """A progress callback that prints one plain line per ended run to `stream` (default stderr)."""

    def show(event: Event) -> None:
        if event.kind == "started":
            return
        left = ""
        if event.left_s is not None and event.finished < event.total:
            left = f", about {files.duration(event.left_s)} left"
        took = why = ""
        if event.record and event.kind == "done":
            took = f" in {files.duration(event.record.wall_s)}"
        elif event.record and event.kind in ("failed", "waiting"):
            why = f": {event.record.problem}"
        line = f"{event.kind}{took} {event.spec.notebook} {event.spec.run_id}{left}{why}"
        counter = f"[{event.finished}/{event.total}]"
        print(counter, line, file=stream or sys.stderr, flush=True)

    return show


class _Clock:
    """Estimates the time left from done runs of the same notebooks, of this sweep and before."""

    def __init__(self, ws: Workspace, todo: Sequence[RunSpec], slots: int) -> None:
        self._slots = max(1, slots)
        self._by_run: dict[str, float] = {}
        self._by_notebook: dict[str, list[float]] = {}
        for name in {spec.notebook for spec in todo}:
            for record in runs.records(ws, name):
                self.ended(record)

    def ended(self, record: RunRecord) -> None:
        if record.ok and record.wall_s > 0:
            self._by_run[record.run_id] = record.wall_s
            self._by_notebook.setdefault(record.notebook, []).append(record.wall_s)

    def left(self, waiting: Iterable[RunSpec], running: Mapping[RunSpec, float]) -> float | None:
        """Seconds left, or None; `running` holds when each began."""
        begun = {**dict.fromkeys(waiting), **running}
        rests = []
        for spec, since in begun.items():
            expected = self._by_run.get(spec.run_id)
            if expected is None:
                times = self._by_notebook.get(spec.notebook)
                if not times:
                    return None
                expected = statistics.median(times)
            passed = 0.0 if since is None else time.monotonic() - since
            # A run that takes longer than the last is never said to be over.
            rests.append((max(expected / 10, expected - passed), since is not None))
        longest = max((rest for rest, runs_now in rests if runs_now), default=0.0)
        return max(sum(rest for rest, _ in rests) / self._slots, longest)


# --- executing ---------------------------------------------------------------------------------


# Executes a job in a folder, gives up when the callable says so, returns `execute.run`'s outcome.
Executor = Callable[[Mapping[str, Any], Path, Callable[[], bool]], dict[str, Any]]


class Interrupted(KeyboardInterrupt):
    """The sweep was stopped by Ctrl-C or SIGTERM; everything can be resumed.

    records  of all specs, in order: done, failed, interrupted or planned
    """

    def __init__(self, records: list[RunRecord]) -> None:
        super().__init__("stopped; the same command resumes where it was")
        self.records = records


def execute(
    ws: Workspace,
    specs: Sequence[RunSpec],
    *,
    jobs: int | None = None,
    executor: str = "local",
    timeout: float | None = None,
    force: bool = False,
    progress: Progress | None = None,
    data_fingerprint: DataFingerprint | None = None,
) -> list[RunRecord]:
    """Execute those of `specs` that are not done and fresh; a failure does not stop the others.

    Parameters
    ----------
    ws : Workspace
    specs : sequence of RunSpec
        From `plan`.
    jobs : int, optional
        Runs at a time; default: the cores of this machine, or all threads of a cluster.
    executor : str
        "local", or "dask:ADDRESS" of a running scheduler.
    timeout : float, optional
        Seconds after which a run is stopped and counts as failed.
    force : bool
        Run also what is done and fresh.
    progress : callable, optional
        Called with an `Event` in this thread.
    data_fingerprint : callable, optional
        See `runs.stale`.

    Returns
    -------
    list of RunRecord, one per spec and in their order; `skipped` marks those not executed.

    Raises
    ------
    ParameterError, WorkspaceError, ExecutorError
        If an option is wrong, the run folders cannot be written, or the cluster cannot be reached
        or has no worker until the time limit.
    Interrupted
        On Ctrl-C or SIGTERM, after everything that was running has been ended.
    """
    if jobs is not None and jobs < 1:
        raise ParameterError(f"jobs is {jobs}; expected at least 1.")
    if timeout is not None and not 0 < timeout < float("inf"):
        raise ParameterError(f"timeout is {timeout} s; expected more than 0.")
    if executor != "local" and (not executor.startswith("dask:") or executor == "dask:"):
        raise ParameterError(
            f"Unknown executor {executor!r}; expected local or dask:ADDRESS, "
            "such as dask:tcp://127.0.0.1:8786."
        )
    todo = [p.spec for p in pending(ws, specs, data_fingerprint=data_fingerprint, force=force)]
    if todo:
        _probe(ws)
    how: dict[str, Any] = {"timeout": timeout, "data_fingerprint": data_fingerprint}
    sweep = _Sweep(ws, list(specs), todo, **how, progress=progress)
    return sweep.run(sweep.open(executor, jobs))


def _probe(ws: Workspace) -> None:
    """Say once that the folder is read-only or full, rather than once per run."""
    try:
        ws.runs.mkdir(parents=True, exist_ok=True)
        probe = ws.runs / f".probe-{os.getpid()}-{threading.get_ident()}"
        files.write_atomic(probe, b"x" * 4096)
        probe.unlink()
    except OSError as error:
        raise WorkspaceError(files.why(error, ws.runs.name)) from error


class _Sweep:
    """The state of one call of `execute`; slots share it under one lock."""

    def __init__(
        self,
        ws: Workspace,
        specs: list[RunSpec],
        todo: Sequence[RunSpec],
        *,
        timeout: float | None,
        data_fingerprint: DataFingerprint | None,
        progress: Progress | None,
    ) -> None:
        self.ws, self.specs, self.timeout = ws, specs, timeout
        self.data_fingerprint, self.progress = data_fingerprint, progress
        self.todo = {spec.run_id: spec for spec in todo}
        self.waiting = deque(self.todo.values())
        self.running: dict[RunSpec, float] = {}
        self.records: dict[str, RunRecord] = {}
        self.events: queue.Queue[tuple[str, RunSpec, RunRecord | None]] = queue.Queue()
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.started = runs.now()
        self.user_folder = Path.cwd()
        names = {spec.notebook for spec in specs}
        self.sources = {n: notebooks.read(notebooks.path(ws, n)) for n in names}
        self.prints = {n: runs.fingerprints(ws, n) for n in names}
        self.git = runs.git_state(ws.root) if todo else {}
        self.executor: Executor | None = None
        self.fatal: ExecutorError | None = None
        self.close: Callable[[], None] = lambda: None
        self.clock: _Clock | None = None

    def open(self, where: str, jobs: int | None) -> int:
        """Prepare the executor; returns the number of slots."""
        if not self.todo:
            return 0
        if where == "local":
            # Imported here: what only reads runs need not load papermill.
            from pet_lab.workbench import execute, kernels

            slots = min(jobs or kernels.cores(), len(self.todo))
            code = [cell for source in self.sources.values() for cell in notebooks.code(source)]
            threads = max(1, kernels.cores() // slots)
            ours = kernels.Kernels(threads, closure.third_party(code))
            self.executor = functools.partial(execute.run, kernels=ours)
        else:
            from pet_lab.workbench import dask_executor

            address = where.removeprefix("dask:")
            cluster = dask_executor.DaskExecutor(address, self.prints, self._waiting)
            slots = min(jobs or cluster.slots(), len(self.todo))
            self.executor, self.close = cluster.run, cluster.close
        self.clock = _Clock(self.ws, list(self.todo.values()), slots)
        return slots

    def run(self, slots: int) -> list[RunRecord]:
        """Skip, execute, report; returns the records in the order of the specs."""
        for spec in self.specs:
            if spec.run_id not in self.todo and spec.run_id not in self.records:
                runs.refresh_prose(self.ws, spec, self.prints[spec.notebook]["prose"])
                record = runs.load(spec.folder(self.ws)) or runs.of_spec(spec, self.ws)
                self.records[spec.run_id] = dataclasses.replace(record, skipped=True)
                self._tell("skipped", spec, self.records[spec.run_id])
        threads = [
            threading.Thread(target=self._slot, name=f"slot-{i}", daemon=True) for i in range(slots)
        ]
        with _sigterm_as_interrupt():
            try:
                for thread in threads:
                    thread.start()
                while any(t.is_alive() for t in threads) or not self.events.empty():
                    try:
                        self._tell(*self.events.get(timeout=0.2))
                    except queue.Empty:
                        continue
                if self.fatal:
                    raise self.fatal
            except BaseException as problem:
                self._stop(threads)
                if isinstance(problem, KeyboardInterrupt):
                    raise Interrupted(self._all()) from None
                raise
            finally:
                self.close()
        return self._all()

    def _all(self) -> list[RunRecord]:
        return [self.records.get(s.run_id) or runs.current(self.ws, s) for s in self.specs]

    def _stop(self, threads: Sequence[threading.Thread]) -> None:
        self.stopping.set()  # each run's own watch ends it
        for thread in threads:
            if thread.ident is not None:
                thread.join(timeout=30)

    def _tell(self, kind: str, spec: RunSpec, record: RunRecord | None) -> None:
        if record is not None and self.clock and not record.skipped:
            self.clock.ended(record)
        if self.progress is None:
            return
        with self.lock:
            left = self.clock.left(self.waiting, self.running) if self.clock else 0.0
            ended = list(self.records.values())
        failed = sum(r.state == runs.FAILED for r in ended)
        total = len({s.run_id for s in self.specs})
        self.progress(Event(kind, spec, record, len(ended), total, failed, left))

    # In the slots' threads from here on.

    def _waiting(self, words: str) -> None:
        spec = next(iter(self.running))
        error = {"name": "NoWorker", "value": words}
        self.events.put(("waiting", spec, runs.of_spec(spec, self.ws, error=error)))

    def _slot(self) -> None:
        while not self.stopping.is_set():
            with self.lock:
                if not self.waiting:
                    return
                spec = self.waiting.popleft()
                self.running[spec] = time.monotonic()
            try:
                record = self._one(spec)
            except locks.Busy:
                # Another sweep has it: take others first, then see what became of it.
                with self.lock:
                    self.running.pop(spec)
                    self.waiting.append(spec)
                self.stopping.wait(0.2)
                continue
            except ExecutorError as problem:  # no other run would fare better
                self.fatal = problem
                self.stopping.set()
                return
            except Exception as problem:  # the sweep goes on; this run says what happened
                error = {"name": type(problem).__name__, "value": str(problem), "cell": None}
                if isinstance(problem, WorkbenchError):
                    error["name"] = "NotStored"
                record = runs.of_spec(spec, self.ws, state=runs.FAILED, error=error)
            with self.lock:
                self.running.pop(spec)
                self.records[spec.run_id] = record
            self.events.put((record.state if not record.skipped else "skipped", spec, record))

    def _one(self, spec: RunSpec) -> RunRecord:
        with runs.claimed(self.ws, spec) as folder:
            other = runs.load(folder)
            if (
                other is not None
                and other.ok
                and other.ended > self.started
                and not runs.stale(
                    other, self.prints[spec.notebook], self.data_fingerprint, self.user_folder
                )
            ):
                return dataclasses.replace(other, skipped=True)
            inputs = runs.inputs(spec.parameters, self.user_folder)
            self.events.put(("started", spec, None))
            attempt = runs.new_attempt(folder)
            try:
                assert self.executor is not None
                outcome = self.executor(self._job(spec, attempt), attempt, self.stopping.is_set)
                if self.stopping.is_set() and outcome["error"] is not None:
                    return self._interrupted(spec, folder, outcome)
                self._final_out(attempt, spec)
                return runs.finish(attempt, folder, self._record(spec, outcome, inputs))
            finally:
                shutil.rmtree(attempt, ignore_errors=True)

    def _interrupted(self, spec: RunSpec, folder: Path, outcome: Mapping[str, Any]) -> RunRecord:
        record = dataclasses.replace(
            self._record(spec, outcome), state=runs.INTERRUPTED, error=None
        )
        before = runs.load(folder)
        if before is None or not before.ok:  # a done run, even a stale one, is worth more
            files.write_json(folder / runs.RECORD, record.to_json())
        return record

    def _job(self, spec: RunSpec, attempt: Path) -> dict[str, Any]:
        return {
            "notebook": spec.notebook,
            "source": self.sources[spec.notebook],
            "parameters": dict(spec.parameters),
            # Relative to the kernel's working folder: no path of this machine gets into a notebook.
            "out": attempt.relative_to(self.ws.root).as_posix(),
            "cwd": str(self.ws.root),
            # The kernel works in the workspace; relative paths of a user's files mean the user's.
            "env": {"PET_LAB_HOME": str(self.ws.root), "PET_LAB_FOLDER": str(self.user_folder)},
            "timeout": self.timeout,
        }

    def _final_out(self, attempt: Path, spec: RunSpec) -> None:
        """Let the executed notebook name the folder it ends up in, not the attempt's."""
        final = spec.folder(self.ws).relative_to(self.ws.root).as_posix()
        for name in (runs.NOTEBOOK, runs.FAILED_NOTEBOOK):
            path = attempt / name
            if path.is_file():
                text = path.read_bytes()
                path.write_bytes(text.replace(f"{final}/{attempt.name}".encode(), final.encode()))

    def _record(
        self, spec: RunSpec, outcome: Mapping[str, Any], inputs: Mapping[str, str] | None = None
    ) -> RunRecord:
        return runs.of_spec(
            spec,
            self.ws,
            state=runs.FAILED if outcome["error"] else runs.DONE,
            started=outcome["started"],
            ended=outcome["ended"],
            wall_s=outcome["wall_s"],
            cpu_s=outcome["cpu_s"],
            versions=outcome.get("versions") or runs.versions(),
            git=self.git,
            fingerprints=self.prints[spec.notebook],
            inputs=inputs or {},
            user_folder=_relative(self.user_folder, self.ws.root) if inputs else "",
            error=outcome["error"],
        )


def _relative(folder: Path, root: Path) -> str:
    try:
        return Path(os.path.relpath(folder, root)).as_posix()
    except ValueError:  # another drive
        return ""


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Within the block SIGTERM does what Ctrl-C does, where signals can be handled."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
