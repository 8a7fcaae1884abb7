"""A grid becomes runs with stable ids; those that are not done and fresh are executed.

Done and fresh is skipped, stale is rerun, failed is tried again. A pool of threads executes the
runs; the calling thread alone keeps the records, reports progress and waits for Ctrl-C.
"""

import contextlib
import dataclasses
import functools
import itertools
import os
import queue
import secrets
import shutil
import signal
import threading
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pet_lab import files
from pet_lab.workbench import closure, locks, notebooks, published, runs
from pet_lab.workbench.clock import Clock, teaching_order
from pet_lab.workbench.errors import ExecutorError, ParameterError, WorkbenchError, WorkspaceError
from pet_lab.workbench.progress import Event, Progress, Running, Tell
from pet_lab.workbench.runs import DataFingerprint, RunRecord, RunSpec
from pet_lab.workbench.workspace import Workspace

PROFILES = ("quick", "full")


# --- planning ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Profile:
    """A named choice of runs: fixed parameters and a grid of values to combine, all typed."""

    parameters: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)


def profile(ws: Workspace, notebook: str, name: str) -> Profile:
    """Profile `name` of a notebook from the sweep.toml beside it.

    Without an entry "quick" and "full" are one run with the notebook's defaults. An unknown
    profile, or a sweep.toml that does not fit the notebook, is a ParameterError.
    """
    full_name = notebooks.resolve(ws, notebook)
    source = notebooks.path(ws, full_name)
    own = _sweep_file(source).get(source.stem, {})
    where = f"{source.parent.name}/sweep.toml, [{source.stem}.{name}]"
    _tables(where.replace(f".{name}", ""), own)
    if name not in own:
        if name in PROFILES:
            return Profile()
        known = ", ".join(dict.fromkeys([*PROFILES, *own]))
        raise ParameterError(f"{full_name} has no profile {name!r}; there are: {known}.")
    table = own[name]
    _tables(where, table, ("parameters", "grid"))
    for part, values in table.items():
        _tables(f"{where[:-1]}.{part}]", values)
    params, fixed = notebooks.parameters(source), table.get("parameters", {})
    try:
        typed = notebooks.check(params, fixed)
        grid = _checked_grid(params, fixed, table.get("grid", {}))
    except ParameterError as error:
        raise ParameterError(f"{where}: {error}") from None
    return Profile({k: typed[k] for k in fixed}, grid)


def _sweep_file(source: Path) -> dict[str, Any]:
    path, file = source.parent / "sweep.toml", f"{source.parent.name}/sweep.toml"
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ParameterError(f"{file} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ParameterError(f"{file} is not valid TOML: {error}.") from None
    stems = sorted(p.stem for p in source.parent.glob("*.ipynb"))
    for name in tables:
        if name not in stems:
            raise ParameterError(
                f"{file} names {name!r}, but there is no such notebook beside it; "
                f"{notebooks.hint(name, stems)}"
            )
    return tables


def _tables(where: str, table: Any, known: Sequence[str] = ()) -> None:
    """A ParameterError where a part of a sweep.toml is no table, or has others than the known."""
    if not isinstance(table, dict):
        raise ParameterError(f"{where}: expected a table of names and values, got {table!r}.")
    for name in table if known else ():
        if name not in known:
            raise ParameterError(
                f"{where}: expected the tables {' and '.join(known)}, got {name!r}."
            )


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

    `notebook` is a full name or its unique last part; `parameters` are typed values that differ
    from its defaults; `profile` is only noted in the records (see `plan_profile`). A NotebookError
    or ParameterError comes before anything is executed.
    """
    full_name, fixed = notebooks.resolve(ws, notebook), dict(parameters or {})
    params = notebooks.check_form(notebooks.path(ws, full_name))
    values = _checked_grid(params, fixed, grid or {})
    combinations = (dict(zip(values, c, strict=True)) for c in itertools.product(*values.values()))
    specs = (
        RunSpec.of(full_name, notebooks.check(params, fixed | c), profile) for c in combinations
    )
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


def pending(
    ws: Workspace,
    specs: Iterable[RunSpec],
    *,
    data_fingerprint: DataFingerprint | None = None,
    force: bool = False,
) -> dict[RunSpec, str]:
    """Those of `specs` that are not done and fresh, each with the reason that a dry run shows."""
    fingerprints = functools.cache(functools.partial(runs.fingerprints, ws))

    def why(spec: RunSpec) -> str:
        folder = spec.folder(ws)
        record = runs.load(folder)
        if record is None and (folder / runs.RECORD).exists():
            return "its run.json is damaged"
        if record is None:
            return "interrupted" if any(folder.glob(f"{runs.ATTEMPT}*")) else "new"
        if not record.ok:
            failed = record.state == runs.FAILED
            return f"failed before: {record.problem}" if failed else "interrupted"
        reasons = runs.stale(record, fingerprints(spec.notebook), data_fingerprint, Path.cwd())
        return f"stale: {'; '.join(reasons)}" if reasons else "forced" * force

    return {spec: reason for spec in specs if (reason := why(spec))}


def finished(
    ws: Workspace,
    records: Iterable[RunRecord],
    *,
    data_fingerprint: DataFingerprint | None = None,
    stale: bool = False,
) -> list[RunRecord]:
    """Those of a notebook's records that are done and fresh; with `stale` all that are done."""
    done = [record for record in records if record.ok]
    if stale or not done:
        return done
    prints = runs.fingerprints(ws, done[0].notebook)
    return [r for r in done if not runs.stale(r, prints, data_fingerprint)]


def profile_runs(ws: Workspace, notebook: str, name: str, **chosen: Any) -> list[RunRecord]:
    """Runs of a profile, in its order, that are `finished`."""
    records = [runs.current(ws, spec) for spec in plan_profile(ws, notebook, name)]
    return finished(ws, records, **chosen)


_LOOK = ", look "


def look(record: RunRecord) -> int:
    """At which look at the verdicts a run was asked for: 1 for a profile's own."""
    return int(record.profile.partition(_LOOK)[2] or 1)


def further(ws: Workspace, notebook: str, name: str, *, seeds: int, at: int) -> list[RunSpec]:
    """The runs of a profile with the next seeds, `seeds` with its own, asked for at a look."""
    return [
        RunSpec.of(
            s.notebook, {**s.parameters, "seed": s.parameters["seed"] + i}, f"{name}{_LOOK}{at}"
        )
        for i in range(1, seeds)
        for s in plan_profile(ws, notebook, name)
        if "seed" in s.parameters
    ]


def further_runs(ws: Workspace, notebook: str, name: str, **chosen: Any) -> list[RunRecord]:
    """Runs of `further` that are `finished`."""
    tagged = [r for r in runs.records(ws, notebook) if r.profile.startswith(name + _LOOK)]
    return finished(ws, tagged, **chosen)


# --- executing ---------------------------------------------------------------------------------


# Executes a job in a folder, gives up when the first callable says so, tells the second of cells;
# returns `execute.run`'s outcome.
Executor = Callable[[Mapping[str, Any], Path, Callable[[], bool], Tell], dict[str, Any]]
TICK_S = 1.0  # so often the runs in execution are told


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
    jobs : runs at a time; default: the cores of this machine, or all threads of a cluster.
    executor : "local", or "dask:ADDRESS" of a running scheduler.
    timeout : seconds after which a run is stopped and counts as failed.
    force : run also what is done and fresh.
    progress : called with an `Event` in this thread.
    data_fingerprint : see `runs.stale`.

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
    todo = teaching_order(pending(ws, specs, data_fingerprint=data_fingerprint, force=force))
    if todo:
        try:  # say once that the folder is read-only or full, rather than once per run
            ws.runs.mkdir(parents=True, exist_ok=True)
            probe = ws.runs / f".probe-{secrets.token_hex(4)}"
            files.write_atomic(probe, b"x" * 4096)
            probe.unlink()
        except OSError as error:
            raise WorkspaceError(files.why(error, ws.runs.name)) from error
    how: dict[str, Any] = {
        "timeout": timeout,
        "force": force,
        "data_fingerprint": data_fingerprint,
    }
    return _Sweep(ws, specs, todo, **how, progress=progress).run(executor, jobs)


class _Sweep:
    """One call of `execute`. Its threads only read it and send events."""

    executor: Executor

    def __init__(
        self,
        ws: Workspace,
        specs: Sequence[RunSpec],
        todo: Sequence[RunSpec],
        *,
        timeout: float | None,
        force: bool,
        data_fingerprint: DataFingerprint | None,
        progress: Progress | None,
    ) -> None:
        self.ws, self.specs, self.todo, self.timeout = ws, specs, todo, timeout
        self.force = force
        self.data_fingerprint, self.progress = data_fingerprint, progress
        self.started, self.user_folder, self.total = runs.now(), Path.cwd(), len({*specs})
        names = {spec.notebook for spec in specs}
        self.sources = {n: notebooks.read(notebooks.path(ws, n)) for n in names}
        self.prints = {n: runs.fingerprints(ws, n) for n in names}
        self.margins = {n: published.margins(ws, n) for n in names} if todo else {}
        self.git = runs.git_state(ws.root) if todo else {}
        self.running: dict[RunSpec, float] = {}
        self.cells: dict[RunSpec, list[Any]] = {}
        self.began: dict[RunSpec, float] = {}  # on a cluster later than it was handed over
        self.told = time.monotonic()
        self.records: dict[RunSpec, RunRecord] = {}
        self.events: queue.Queue[tuple[str, RunSpec, Any]] = queue.Queue()
        self.tasks: queue.SimpleQueue[RunSpec] = queue.SimpleQueue()
        self.over, self.stopping = threading.Event(), threading.Event()
        self.gave_up = False
        self.close: Callable[[], None] = lambda: None

    def run(self, where: str, jobs: int | None) -> list[RunRecord]:
        """Skip, execute, report; returns the records in the order of the specs."""
        slots = min(self._open(where, jobs), len(self.todo)) if self.todo else 1
        clock = Clock(self.ws, self.todo, slots)
        todo = set(self.todo)
        for spec in (s for s in dict.fromkeys(self.specs) if s not in todo):
            runs.refresh_prose(self.ws, spec, self.prints[spec.notebook]["prose"])
            record = runs.load(spec.folder(self.ws)) or runs.of_spec(spec, self.ws)
            self._tell("skipped", spec, dataclasses.replace(record, skipped=True), clock)
        for spec in self.todo:
            self.tasks.put(spec)
        # Daemons: a thread that hangs in a broken cluster must not keep the program from ending.
        threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(slots)]
        with _sigterm_as_interrupt():
            try:
                for thread in threads:
                    thread.start()
                while len(self.records) < self.total:
                    self._tick(clock)
                    with contextlib.suppress(queue.Empty):
                        kind, spec, news = self.events.get(timeout=0.2)
                        if kind == "busy":
                            self.tasks.put(spec)
                        elif kind == "fatal":
                            self.gave_up = True
                            raise news
                        elif kind == "cell":
                            self._begun(spec, *news, clock=clock)
                        else:
                            self._tell(kind, spec, news, clock)
            except KeyboardInterrupt:
                raise Interrupted(self._stop(threads)) from None
            except BaseException:
                self._stop(threads)
                raise
            finally:
                self.over.set()
                self.close()
        return [self.records[spec] for spec in self.specs]

    def _open(self, where: str, jobs: int | None) -> int:
        """Prepare the executor; returns how many runs it takes at a time."""
        if where == "local":
            # Imported here: what only reads runs need not load papermill.
            from pet_lab.workbench import execute, kernels

            slots = jobs or kernels.cores()
            code = [cell for source in self.sources.values() for cell in notebooks.code(source)]
            threads = max(1, kernels.cores() // min(slots, len(self.todo)))
            ours = kernels.Kernels(threads, closure.third_party(code))
            self.executor = functools.partial(execute.run, kernels=ours)
            return slots
        from pet_lab.workbench import dask_executor

        def waiting(words: str) -> None:
            spec = next(iter(self.running))
            record = runs.of_spec(spec, self.ws, error={"name": "NoWorker", "value": words})
            self.events.put(("waiting", spec, record))

        cluster = dask_executor.DaskExecutor(where.removeprefix("dask:"), self.prints, waiting)
        self.executor, self.close = cluster.run, cluster.close
        return jobs or cluster.slots()

    def _stop(self, threads: Iterable[threading.Thread]) -> list[RunRecord]:
        """End what is running; the records as they are then."""
        self.over.set()
        self.stopping.set()  # each run's own watch ends it
        until = time.monotonic() + 30
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        while not self.events.empty():
            _, spec, news = self.events.get()
            if isinstance(news, RunRecord) and news.ended:
                self.records[spec] = news
        return [self.records.get(spec) or runs.current(self.ws, spec) for spec in self.specs]

    def _tick(self, clock: Clock) -> None:
        """Tell of the runs in execution where nothing was told for a second."""
        running = next(iter(self.running.copy()), None)
        if running and time.monotonic() - self.told > TICK_S:
            self._tell("running", running, None, clock)

    def _begun(self, spec: RunSpec, *cell: Any, clock: Clock) -> None:
        *self.cells[spec], seconds = cell
        if spec not in self.began:
            self.began[spec] = time.monotonic() - seconds
            clock.started(spec, seconds)
        self._tell("running", spec, None, clock)

    def _tell(self, kind: str, spec: RunSpec, record: RunRecord | None, clock: Clock) -> None:
        if record is not None and kind != "waiting":
            self.records[spec] = record
            clock.ended(record)
        if self.progress:
            now = self.told = time.monotonic()
            running = self.running.copy() | self.began
            running = {s: t for s, t in running.items() if s not in self.records}
            waiting = [s for s in self.todo if s not in self.records and s not in running]
            left = clock.left(waiting, running)
            cells = [Running(s, now - t, *self.cells.get(s, ())) for s, t in running.items()]
            finished = len(self.records)
            self.progress(Event(kind, spec, record, finished, self.total, left, tuple(cells)))

    # In a thread of its own from here on.

    def _serve(self) -> None:
        while not self.over.is_set():
            with contextlib.suppress(queue.Empty):
                self._work(self.tasks.get(timeout=0.1))

    def _work(self, spec: RunSpec) -> None:
        self.running[spec] = time.monotonic()
        try:
            record = self._one(spec)
        except locks.Busy:
            # Another sweep has it: take others first, then see what became of it.
            self.stopping.wait(0.2)
            self.events.put(("busy", spec, None))
        except ExecutorError as problem:  # no other run would fare better
            self.events.put(("fatal", spec, problem))
        except Exception as problem:  # the sweep goes on; this run says what happened
            name = "NotStored" if isinstance(problem, WorkbenchError) else type(problem).__name__
            error = {"name": name, "value": str(problem), "cell": None}
            record = runs.of_spec(spec, self.ws, state=runs.FAILED, error=error)
            self.events.put((runs.FAILED, spec, record))
        else:
            self.events.put(("skipped" if record.skipped else record.state, spec, record))
        finally:
            del self.running[spec]

    def _one(self, spec: RunSpec) -> RunRecord:
        root, prints = self.ws.root, self.prints[spec.notebook]
        with runs.claimed(self.ws, spec) as folder:
            before = runs.load(folder)
            done = before is not None and before.ok
            # By another sweep meanwhile, or one that was killed before all was in place.
            if before and done and (before.ended > self.started or not self.force):
                stale = runs.stale(before, prints, self.data_fingerprint, self.user_folder)
                if not stale:
                    return dataclasses.replace(before, skipped=True)
            inputs = runs.inputs(spec.parameters, self.user_folder)
            self.events.put(("started", spec, None))
            attempt = runs.new_attempt(folder)
            job = {
                "notebook": spec.notebook,
                "source": self.sources[spec.notebook],
                "parameters": dict(spec.parameters),
                # Relative to the kernel's working folder: no path of this machine in a notebook.
                "out": attempt.relative_to(root).as_posix(),
                "cwd": str(root),
                # The kernel works in the workspace; a relative path of a user's file means theirs.
                "env": {"PET_LAB_HOME": str(root), "PET_LAB_FOLDER": str(self.user_folder)},
                "timeout": self.timeout,
            }
            try:
                outcome = self.executor(
                    job,
                    attempt,
                    self.stopping.is_set,
                    lambda *at: self.events.put(("cell", spec, at)),
                )
                record = runs.of_spec(
                    spec,
                    self.ws,
                    state=runs.FAILED if outcome["error"] else runs.DONE,
                    git=self.git,
                    fingerprints={**prints, "margins": self.margins[spec.notebook]},
                    inputs=inputs,
                    user_folder=_relative(self.user_folder, root) if inputs else "",
                    **{"versions": runs.versions(), **outcome},
                )
                if not (self.stopping.is_set() and record.error):
                    return runs.finish(attempt, folder, record)
                record = dataclasses.replace(record, state=runs.INTERRUPTED, error=None)
                # A done run, even a stale one, is worth more; without a cluster none began.
                if not (done or self.gave_up):
                    files.write_json(folder / runs.RECORD, record.to_json())
                return record
            finally:
                shutil.rmtree(attempt, ignore_errors=True)


def _relative(folder: Path, root: Path) -> str:
    try:
        return Path(os.path.relpath(folder, root)).as_posix()
    except ValueError:  # another drive
        return ""


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Within the block SIGTERM does what Ctrl-C does, where signals can be handled."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
