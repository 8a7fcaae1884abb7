"""One run: its identity, its folder, whether it is still fresh, and how it gets into place.

A run lives in `papermill_runs/<notebook>/<run id>/`. It executes in a folder `.attempt-*` inside
and is moved into place file by file, `run.json` last, so a kill at any moment leaves the old state
or the new one. `run.json` holds the hash of the rows: readers trust rows only by that.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import os
import platform
import re
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pet_lab import files
from pet_lab.workbench import closure, locks, notebooks
from pet_lab.workbench.errors import WorkspaceError
from pet_lab.workbench.workspace import Workspace

STATES = ("planned", "running", "done", "failed", "interrupted")
PLANNED, RUNNING, DONE, FAILED, INTERRUPTED = STATES
NOTEBOOK, FAILED_NOTEBOOK = "notebook.ipynb", "failed.ipynb"
ROWS, SUMMARY, RECORD = "rows.parquet", "summary.json", "run.json"
LOCK, ATTEMPT = ".lock", ".attempt-"
KEY_PACKAGES = (
    *("pet-lab", "dp-accounting", "jax", "numpy", "pandas", "papermill", "pyarrow", "scikit-learn"),
    *("scipy", "smartnoise-synth", "tensorflow-cpu", "tensorflow-empirical-privacy"),
    "tensorflow-privacy",
)

# (name of a data set, kind with which it was read) -> hash of what would be read now, None: unknown
DataFingerprint = Callable[[str, str], "str | None"]


@dataclass(frozen=True)
class RunSpec:
    """What to run. Two specs are equal when notebook and parameters are.

    notebook    full name, such as "private_ml/dp_training_vs_dp_data"
    parameters  full typed set, without `out`
    run_id      12 hexadecimal digits of a SHA-256 of the two
    profile     name of the profile that planned it, or ""
    """

    notebook: str
    parameters: Mapping[str, Any] = field(hash=False)
    run_id: str
    profile: str = field(default="", compare=False)

    @classmethod
    def of(cls, notebook: str, parameters: Mapping[str, Any], profile: str = "") -> RunSpec:
        """The spec with its id computed."""
        chosen = {k: v for k, v in parameters.items() if k != notebooks.RUNNER_SETS}
        return cls(notebook, chosen, run_id(notebook, chosen), profile)

    def folder(self, ws: Workspace) -> Path:
        """Where the run is, or will be."""
        return ws.runs / self.notebook / self.run_id


def run_id(notebook: str, parameters: Mapping[str, Any]) -> str:
    """Stable id of a run: hash of notebook and canonical JSON of all parameters except `out`."""
    chosen = {k: v for k, v in parameters.items() if k != notebooks.RUNNER_SETS}
    return files.sha256(f"{notebook}\n{files.canonical_json(chosen)}".encode())[:12]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What is known of one run, as stored in run.json.

    state         planned | running | done | failed | interrupted
    seed          the parameter `seed`, or None
    started       UTC, ISO 8601; so is `ended`
    wall_s, cpu_s seconds; CPU with the kernel and its children included
    versions      Python and key packages where the run executed
    git           {"commit", "dirty"}, or {} outside a checkout
    fingerprints  {"code", "prose", "lock", "modules": {module: hash}}
    data          the data sets, as given to results.write
    inputs        SHA-256 of each file that a parameter names, by the path as given
    user_folder   what relative paths among those mean, as seen from the workspace
    error         {"name", "value", "cell"}, or None
    hashes        SHA-256 of the files that readers trust
    folder        where it lies on this machine; not stored
    skipped       the run was done and fresh, nothing was executed; not stored
    stale         why a done run is no longer fresh, where that was asked for; not stored
    """

    notebook: str
    run_id: str
    parameters: Mapping[str, Any]
    state: str
    seed: int | None = None
    started: str = ""
    ended: str = ""
    wall_s: float = 0.0
    cpu_s: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)
    git: Mapping[str, Any] = field(default_factory=dict)
    fingerprints: Mapping[str, Any] = field(default_factory=dict)
    data: Sequence[Mapping[str, Any]] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    user_folder: str = ""
    profile: str = ""
    error: Mapping[str, Any] | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = field(default=None, compare=False)
    skipped: bool = field(default=False, compare=False)
    stale: tuple[str, ...] = field(default=(), compare=False)

    @property
    def ok(self) -> bool:
        """Whether the run is done."""
        return self.state == DONE

    @property
    def path(self) -> Path | None:
        """The executed notebook, or the half-executed one of a failed run."""
        if self.folder is None:
            return None
        return self.folder / (NOTEBOOK if self.ok else FAILED_NOTEBOOK)

    @property
    def problem(self) -> str:
        """What went wrong as one line, or ""."""
        if self.error is None:
            return ""
        name, value = self.error.get("name", ""), self.error.get("value", "")
        cell = self.error.get("cell")
        return f"{name}: {value}" + (f" (cell {cell})" if cell is not None else "")

    def to_json(self) -> dict[str, Any]:
        """The record as stored: no path, user or host name in it."""
        stored = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name not in ("folder", "skipped", "stale")
        }
        return {"format": 1, **stored}


def of_spec(spec: RunSpec, ws: Workspace, **known: Any) -> RunRecord:
    """A record of `spec` with its identity filled in."""
    seed = spec.parameters.get("seed")
    known.setdefault("state", PLANNED)
    return RunRecord(
        notebook=spec.notebook,
        run_id=spec.run_id,
        parameters=dict(spec.parameters),
        seed=seed if isinstance(seed, int) else None,
        profile=spec.profile,
        folder=spec.folder(ws),
        **known,
    )


# --- reading -----------------------------------------------------------------------------------


def load(folder: Path) -> RunRecord | None:
    """The record in `folder`; None where there is none or it is not readable.

    A run that says "done" but whose files do not have the recorded hashes is reported as
    interrupted: something wrote into the folder that was not the runner, or was cut off.
    """
    try:
        stored = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        stored.pop("format", None)
        known = {f.name for f in dataclasses.fields(RunRecord)}
        record = RunRecord(**{k: v for k, v in stored.items() if k in known}, folder=folder)
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    if record.state not in STATES or not _well_formed(record):
        return None
    if record.ok and not _hashes_hold(folder, record.hashes):
        return dataclasses.replace(record, state=INTERRUPTED)
    return record


def _well_formed(record: RunRecord) -> bool:
    """Whether each field is of its type, so that a reader need not look twice."""
    types: dict[type, Any] = {str: str, float: (int, float), dict: dict, tuple: (list, tuple)}
    blank = RunRecord(notebook="", run_id="", parameters={}, state="", error={}).to_json()
    values = {"error": {}} | {k: v for k, v in record.to_json().items() if v is not None}
    return all(
        isinstance(values.get(name), types.get(type(default), object))
        for name, default in blank.items()
    ) and all(isinstance(item, dict) and "name" in item for item in record.data)


def _hashes_hold(folder: Path, hashes: Mapping[str, str]) -> bool:
    try:
        return bool(hashes) and all(
            files.sha256_file(folder / name) == digest for name, digest in hashes.items()
        )
    except OSError:
        return False


def records(ws: Workspace, notebook: str | None = None) -> list[RunRecord]:
    """All recorded runs of one notebook, or of all, sorted by notebook and start."""
    loaded = [load(folder) for folder in _folders(ws, notebook)]
    return sorted((r for r in loaded if r is not None), key=lambda r: (r.notebook, r.started))


def damaged(ws: Workspace, notebook: str) -> list[str]:
    """Sentences on the records of a notebook that cannot be read."""
    return [
        f"{ws.shown(folder / RECORD)} is damaged, so this run counts as not done: "
        "run it again, or remove its folder."
        for folder in _folders(ws, notebook)
        if load(folder) is None
    ]


def _folders(ws: Workspace, notebook: str | None) -> list[Path]:
    base = ws.runs / notebook if notebook else ws.runs
    return [path.parent for path in base.rglob(RECORD) if ATTEMPT not in path.parent.name]


def current(ws: Workspace, spec: RunSpec) -> RunRecord:
    """State of `spec` now, whether or not it ever ran."""
    folder = spec.folder(ws)
    record = load(folder)
    if locks.is_locked(folder / LOCK):
        return of_spec(spec, ws, state=RUNNING)
    if record is None and any(folder.glob(f"{ATTEMPT}*")):
        return of_spec(spec, ws, state=INTERRUPTED)
    return record or of_spec(spec, ws)


# --- freshness ---------------------------------------------------------------------------------


def fingerprints(ws: Workspace, notebook: str) -> dict[str, Any]:
    """Hashes of what the rows of `notebook` depend on, beside parameters and data."""
    content = notebooks.read(notebooks.path(ws, notebook))
    return {
        "code": notebooks.code_hash(content),
        "prose": notebooks.prose_hash(content),
        "lock": lock_hash(ws),
        "modules": closure.modules(notebooks.code(content)),
    }


def lock_hash(ws: Workspace) -> str | None:
    """Hash of the locked package versions, pet_lab itself left out; None without a uv.lock."""
    path = ws.root / "uv.lock"
    if not path.is_file():
        return None
    status = path.stat()
    return _lock_hash(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=8)
def _lock_hash(path: Path, _mtime: int, _size: int) -> str:
    text = path.read_text(encoding="utf-8", errors="replace")
    pairs = re.findall(r'^name = "(.+)"\nversion = "(.+)"', text, re.MULTILINE)
    locked = sorted(pair for pair in pairs if pair[0] != "pet-lab")
    return files.sha256(files.canonical_json(locked).encode())


def inputs(parameters: Mapping[str, Any], user_folder: Path) -> dict[str, str]:
    """SHA-256 of each file that a text parameter names, by the path as given."""
    texts: list[str] = []
    for value in parameters.values():
        texts += [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str)]
    hashes = {text: _file_hash(user_folder / text) for text in texts}
    return {text: digest for text, digest in hashes.items() if digest is not None}


def _file_hash(path: Path) -> str | None:
    """SHA-256 of a file's bytes; None where there is no file, or none that can be read."""
    try:
        status = path.stat()
        return _hash_of(path, status.st_mtime_ns, status.st_size) if path.is_file() else None
    except (OSError, ValueError):
        return None


@functools.lru_cache(maxsize=64)
def _hash_of(path: Path, _mtime: int, _size: int) -> str:
    return files.sha256_file(path)


def stale(
    record: RunRecord,
    now: Mapping[str, Any],
    data_fingerprint: DataFingerprint | None = None,
    user_folder: Path | None = None,
) -> list[str]:
    """Reasons why a done run no longer stands for what would run now; empty if it is fresh.

    Parameters
    ----------
    record : RunRecord
    now : mapping
        What `fingerprints` returns for the notebook.
    data_fingerprint : callable, optional
        (name, kind) of a data set -> SHA-256 of what would be loaded, or None where that is
        unknown: what cannot be compared is not stale.
    user_folder : Path, optional
        What relative paths mean now; by default what they meant then.
    """
    then = record.fingerprints
    reasons = []
    if then.get("code") != now["code"]:
        reasons.append("the notebook's code changed")
    old, new = then.get("modules", {}), now["modules"]
    changed = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        reasons.append(f"{', '.join(changed[:3])}{more} changed")
    if then.get("lock") != now["lock"]:
        reasons.append("the locked environment changed")
    for item in record.data:
        if data_fingerprint and item.get("sha256") and item.get("kind") in ("real", "stand-in"):
            known = data_fingerprint(item["name"], item["kind"])
            if known not in (None, item["sha256"]):
                reasons.append(f"the data set {item['name']} changed")
    if user_folder is None and record.folder is not None:
        root = record.folder.parents[record.notebook.count("/") + 2]
        user_folder = root / record.user_folder
    for given, digest in record.inputs.items():
        if user_folder and _file_hash(user_folder / given) not in (None, digest):
            reasons.append(f"the file {Path(given).name} changed")
    return reasons


@functools.lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide numbers, where installed."""
    installed = {"python": platform.python_version(), "platform": platform.system().lower()}
    for name in KEY_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed


def git_state(root: Path) -> dict[str, Any]:
    """Commit of the checkout and whether tracked files differ from it; {} outside a checkout."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]  # looked up on PATH, like the user does
        return subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return {}


def now() -> str:
    """UTC time as ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


# --- writing -----------------------------------------------------------------------------------


@contextlib.contextmanager
def claimed(ws: Workspace, spec: RunSpec) -> Iterator[Path]:
    """Hold the run's folder against other processes, after settling what a dead one left in it.

    Yields
    ------
    Path of the run's folder.

    Raises
    ------
    locks.Busy
        If another process is executing this run.
    WorkspaceError
        If the folder cannot be written.
    """
    folder = spec.folder(ws)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locks.lock(folder / LOCK):
            settle(folder)
            yield folder
    except OSError as error:
        raise WorkspaceError(files.why(error, ws.shown(folder))) from error


def new_attempt(folder: Path) -> Path:
    """A fresh folder to execute in; its name never returns, so a dying process cannot meddle."""
    attempt = folder / f"{ATTEMPT}{secrets.token_hex(4)}"
    attempt.mkdir()
    return attempt


def settle(folder: Path) -> None:
    """Finish or remove what dead processes left in a run's folder (its lock must be held).

    An attempt that already holds its own run.json had finished its work: it is put in place, so
    not even a kill between the moves loses it. Everything else is removed.
    """
    for attempt in folder.glob(f"{ATTEMPT}*"):
        if (attempt / RECORD).is_file():
            place(attempt, folder)
        shutil.rmtree(attempt, ignore_errors=True)
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def place(attempt: Path, folder: Path) -> RunRecord | None:
    """Move a finished attempt, whose run.json is written, into the run's folder."""
    try:
        stored = json.loads((attempt / RECORD).read_text(encoding="utf-8"))
        state, hashes = stored["state"], stored["hashes"]
    except (OSError, ValueError, KeyError):
        return None
    if state == DONE and not all(_complete(attempt, folder, n, h) for n, h in hashes.items()):
        return None
    kept = (NOTEBOOK, ROWS, SUMMARY) if state == DONE else (FAILED_NOTEBOOK,)
    for name in kept:
        if (attempt / name).exists():
            os.replace(attempt / name, folder / name)
    os.replace(attempt / RECORD, folder / RECORD)
    for name in {NOTEBOOK, ROWS, SUMMARY, FAILED_NOTEBOOK} - set(kept):
        (folder / name).unlink(missing_ok=True)
    return load(folder)


def _complete(attempt: Path, folder: Path, name: str, digest: str) -> bool:
    where = attempt if (attempt / name).exists() else folder
    return _hashes_hold(where, {name: digest})


def finish(attempt: Path, folder: Path, record: RunRecord) -> RunRecord:
    """Store `record` and put the attempt in place; a run without rows becomes a failure.

    Returns
    -------
    RunRecord as stored.
    """
    if record.ok:
        missing = [name for name in (ROWS, SUMMARY) if not (attempt / name).is_file()]
        if missing:
            value = f"the notebook ended without writing {' and '.join(missing)}; "
            value += "it must call results.write(rows, out, ...)"
            error = {"name": "NoRows", "value": value, "cell": None}
            record = dataclasses.replace(record, state=FAILED, error=error)
            if (attempt / NOTEBOOK).exists():
                os.replace(attempt / NOTEBOOK, attempt / FAILED_NOTEBOOK)
        else:
            data = json.loads((attempt / SUMMARY).read_text(encoding="utf-8")).get("data", [])
            own = {item["name"]: item["sha256"] for item in data if item.get("kind") == "own"}
            names = [Path(given).name for given in record.inputs]
            record = dataclasses.replace(
                record,
                data=data,
                # The notebook knows better what it read, where the names tell the files apart.
                inputs={
                    given: own.get(name, digest) if names.count(name) == 1 else digest
                    for (given, digest), name in zip(record.inputs.items(), names, strict=True)
                },
                hashes={name: files.sha256_file(attempt / name) for name in (ROWS, SUMMARY)},
            )
    files.write_json(attempt / RECORD, record.to_json())
    placed = place(attempt, folder)
    shutil.rmtree(attempt, ignore_errors=True)
    return placed or dataclasses.replace(record, folder=folder)


def refresh_prose(ws: Workspace, spec: RunSpec, prose: str) -> None:
    """Bring the markdown of a done run up to date with its notebook, without running it again.

    Text does not change rows, so a corrected sentence must not cost half an hour, yet reports
    show the stored notebook. Does nothing where code differs or another process holds the run.
    """
    folder = spec.folder(ws)
    record = load(folder)
    if record is None or not record.ok or record.fingerprints.get("prose") == prose:
        return
    source = notebooks.read(notebooks.path(ws, spec.notebook))
    with contextlib.suppress(locks.Busy), claimed(ws, spec):
        executed = json.loads((folder / NOTEBOOK).read_text(encoding="utf-8"))
        ran = [c for c in executed["cells"] if c["cell_type"] == "code"]
        injected = [c for c in ran if "injected-parameters" in _tags(c)]
        ran = [c for c in ran if "injected-parameters" not in _tags(c)]
        if [notebooks.source_of(c) for c in ran] != notebooks.code(source):
            return
        cells = []
        for cell in source["cells"]:
            if cell["cell_type"] != "code":
                cells.append(cell)
                continue
            cells.append(ran.pop(0))
            if "parameters" in _tags(cell):
                cells += injected
        executed["cells"] = cells
        files.write_json(folder / NOTEBOOK, executed)
        updated = dataclasses.replace(record, fingerprints={**record.fingerprints, "prose": prose})
        files.write_json(folder / RECORD, updated.to_json())


def _tags(cell: Mapping[str, Any]) -> Sequence[str]:
    return cell.get("metadata", {}).get("tags", ())
