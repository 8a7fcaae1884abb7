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
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from pet_lab import files
from pet_lab.workbench import closure, locks, notebooks
from pet_lab.workbench.errors import NotebookError, ParameterError, WorkspaceError
from pet_lab.workbench.workspace import Workspace

STATES = ("planned", "running", "done", "failed", "interrupted")
PLANNED, RUNNING, DONE, FAILED, INTERRUPTED = STATES
NOTEBOOK, FAILED_NOTEBOOK = "notebook.ipynb", "failed.ipynb"
ROWS, SUMMARY, RECORD = "rows.parquet", "summary.json", "run.json"
CONTRIBUTIONS = "contributions.parquet"  # for output checks; only where the notebook knows them
LOCK, ATTEMPT = ".lock", ".attempt-"
KEY_PACKAGES = (
    *("pet-lab", "dp-accounting", "jax", "numpy", "pandas", "papermill", "pyarrow", "scikit-learn"),
    *("scipy", "smartnoise-synth", "tensorflow-cpu", "tensorflow-empirical-privacy"),
    "tensorflow-privacy",
)
# Modules that only an extra of ours brings.
EXTRAS = {
    "tf": ("tensorflow", "tensorflow_privacy", "tf_privacy"),
    "synth": ("snsynth", "snsql", "mbi", "jax"),
    "fl": ("flwr", "grpc"),
    "link": ("anonlink", "splink", "duckdb"),
    "he": ("tenseal",),
    "mpc": ("mpyc",),
    "attacks": ("anonymeter", "art", "fairlearn", "pycanon"),
}

# (name of a data set, kind with which it was read) -> hash of what would be read now, None: unknown
DataFingerprint = Callable[[str, str], "str | None"]


@dataclass(frozen=True)
class RunSpec:
    """What to run. Two specs are equal when notebook and parameters are.

    parameters  full typed set, without `out`
    run_id      12 hexadecimal digits of a SHA-256 of notebook and parameters
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
        identity = f"{notebook}\n{files.canonical_json(chosen)}"
        return cls(notebook, chosen, files.sha256(identity.encode())[:12], profile)

    def folder(self, ws: Workspace) -> Path:
        """Where the run is, or will be."""
        return ws.runs / self.notebook / self.run_id


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What is known of one run, as stored in run.json.

    state         planned | running | done | failed | interrupted
    seed          the parameter `seed`, or None
    started       UTC, ISO 8601; so is `ended`
    wall_s, cpu_s seconds; CPU with the kernel and its children included
    versions      Python and key packages where the run executed
    git           {"commit", "dirty"}, or {} outside a checkout
    fingerprints  {"code", "prose", "lock", "modules": {module: hash}}, and what was fixed before
                  the run: "margins", {printed table: hash of its margins}
    data          the data sets, as given to results.write
    inputs        SHA-256 of each file that a parameter names, by the path as given
    user_folder   what relative paths among those mean, as seen from the workspace
    error         {"name", "value", "cell"}, or None
    undrawn       the same of each figure that failed after the rows were stored
    hashes        SHA-256 of the files that readers trust
    folder        where it lies on this machine; not stored
    skipped       the run was done and fresh, nothing was executed; not stored
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
    undrawn: Sequence[Mapping[str, Any]] = ()
    hashes: Mapping[str, str] = field(default_factory=dict)
    folder: Path = field(default=Path(), compare=False)
    skipped: bool = field(default=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether the run is done."""
        return self.state == DONE

    @property
    def path(self) -> Path:
        """The executed notebook, or the half-executed one of a failed run."""
        return self.folder / (NOTEBOOK if self.ok else FAILED_NOTEBOOK)

    @property
    def written(self) -> float:
        """When its record was stored, in seconds as files count them."""
        return (self.folder / RECORD).stat().st_mtime

    @property
    def problem(self) -> str:
        """What went wrong as one line, or ""."""
        if self.error is None:
            return "; ".join(f"a figure could not be drawn: {_told(e)}" for e in self.undrawn)
        return _told(self.error)

    def to_json(self) -> dict[str, Any]:
        """The record as stored: no path, user or host name in it."""
        stored = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.compare}
        return {"format": 1, **stored}


def _told(error: Mapping[str, Any]) -> str:
    name, value, cell = error.get("name", ""), error.get("value", ""), error.get("cell")
    advice = ""
    if name in ("ModuleNotFoundError", "PackageNotFoundError"):
        words = set(re.findall(r"\w+", str(value)))
        extra = next((extra for extra, brought in EXTRAS.items() if words & set(brought)), "")
        advice = f"; install it with the extra {extra}, as the README says" if extra else ""
    return f"{name}: {value}" + (f" (cell {cell})" if cell is not None else "") + advice


def of_spec(spec: RunSpec, ws: Workspace, *, state: str = PLANNED, **known: Any) -> RunRecord:
    """A record of `spec` with its identity filled in."""
    seed = spec.parameters.get("seed")
    return RunRecord(
        notebook=spec.notebook,
        run_id=spec.run_id,
        parameters=dict(spec.parameters),
        state=state,
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
        record = dataclasses.replace(msgspec.convert(stored, RunRecord), folder=folder)
    except (OSError, ValueError, RecursionError):
        return None
    if record.state not in STATES or not all("name" in item for item in record.data):
        return None
    if record.ok and not (record.hashes and _hashes_hold(record.hashes, folder)):
        return dataclasses.replace(record, state=INTERRUPTED)
    return record


def _hashes_hold(hashes: Mapping[str, str], *folders: Path) -> bool:
    """Whether each file, in the first of the folders that has it, is the one recorded."""
    try:
        paths = {n: [f / n for f in folders if (f / n).exists()][:1] for n in hashes}
        return all(p and files.sha256_file(p[0]) == hashes[n] for n, p in paths.items())
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return False


def records(ws: Workspace, notebook: str | None = None) -> list[RunRecord]:
    """All recorded runs of one notebook, or of all, sorted by notebook and start."""
    loaded = [load(folder) for folder in _folders(ws, notebook)]
    return sorted((r for r in loaded if r is not None), key=lambda r: (r.notebook, r.started))


def varied(records: Sequence[RunRecord]) -> list[str]:
    """Parameters that differ between runs; the seed alone is a replicate, not a factor."""
    names = dict.fromkeys(key for record in records for key in record.parameters)
    seen = {n: {files.canonical_json(r.parameters.get(n)) for r in records} for n in names}
    differ = [name for name, values in seen.items() if len(values) > 1]
    return [name for name in differ if name != "seed"] or differ


def by_id(ws: Workspace, start: str) -> Path:
    """Folder of the one recorded run whose id starts so; a ParameterError if it is not one."""
    matches = [f for f in _folders(ws, None) if start and f.name.startswith(start)]
    if len(matches) != 1:
        word = "No run has" if not matches else f"{len(matches)} runs have"
        raise ParameterError(f"{word} the id {start!r}; `pet-lab status` lists them.")
    return matches[0]


def forget(ws: Workspace, starts: Sequence[str]) -> list[str]:
    """Remove runs, given by the start of their ids, with all that they left; returns their names.

    ParameterError before anything is removed if one is unknown; WorkspaceError if one is running.
    """
    folders = list(dict.fromkeys(by_id(ws, start) for start in starts))
    for folder in folders:
        try:
            with locks.lock(folder / LOCK):
                (folder / RECORD).unlink()  # first: from now on it is no run
        except locks.Busy:
            raise WorkspaceError(f"Run {folder.name} is being executed; stop it first.") from None
        shutil.rmtree(folder)
    return [folder.relative_to(ws.runs).as_posix() for folder in folders]


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
    text = path.read_text(encoding="utf-8", errors="replace")
    pairs = re.findall(r'^name = "(.+)"\nversion = "(.+)"', text, re.MULTILINE)
    locked = sorted(pair for pair in pairs if pair[0] != "pet-lab")
    return files.sha256(files.canonical_json(locked).encode())


def inputs(parameters: Mapping[str, Any], user_folder: Path) -> dict[str, str]:
    """SHA-256 of each file that a text parameter names, by the path as given."""
    lists = (value if isinstance(value, list) else [value] for value in parameters.values())
    texts = (value for values in lists for value in values if isinstance(value, str))
    return {text: digest for text in texts if (digest := _file_hash(user_folder / text))}


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

    `now` is what `fingerprints` returns for the notebook, `user_folder` what relative paths mean
    now (default: what they meant then). What cannot be compared is not stale.
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
    if user_folder is None and record.folder.name:
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
    """Commit of the checkout and whether tracked files differ from it; {} outside a checkout.

    What is kept of earlier runs (reports, README) is no source of a run and may differ.
    """

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]  # looked up on PATH, like the user does
        return subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()

    sources = (":/", ":!reports", ":!README.md")
    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no", "--", *sources)),
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

    locks.Busy if another process is executing this run; WorkspaceError if it cannot be written.
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
        place(attempt, folder)
        shutil.rmtree(attempt, ignore_errors=True)
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def place(attempt: Path, folder: Path) -> RunRecord | None:
    """Move a finished attempt, whose run.json is written, into the run's folder."""
    try:
        stored = json.loads((attempt / RECORD).read_text(encoding="utf-8"))
        done, hashes = stored["state"] == DONE, stored["hashes"]
    except (OSError, ValueError, KeyError):
        return None
    if done and not _hashes_hold(hashes, attempt, folder):
        return None
    # The rows first: from then on the old record, whose hash they break, is not taken for whole.
    kept = (ROWS, SUMMARY, CONTRIBUTIONS, NOTEBOOK) if done else (FAILED_NOTEBOOK,)
    for name in kept:
        if (attempt / name).exists():
            os.replace(attempt / name, folder / name)
    os.replace(attempt / RECORD, folder / RECORD)
    for name in {NOTEBOOK, ROWS, SUMMARY, FAILED_NOTEBOOK} - set(kept):
        (folder / name).unlink(missing_ok=True)
    return load(folder)


def finish(attempt: Path, folder: Path, record: RunRecord) -> RunRecord:
    """Store `record` and put the attempt in place; returns what is stored.

    A run without rows becomes a failure.
    """
    for path in attempt.glob("*.ipynb"):  # let it name the folder it ends up in
        path.write_bytes(path.read_bytes().replace(f"/{attempt.name}".encode(), b""))
    missing = [name for name in (ROWS, SUMMARY) if not (attempt / name).is_file()]
    if record.ok and missing:
        value = f"the notebook ended without writing {' and '.join(missing)}; "
        value += "it must call results.write(rows, out, ...)"
        error = {"name": "NoRows", "value": value, "cell": None}
        record = dataclasses.replace(record, state=FAILED, error=error)
        if (attempt / NOTEBOOK).exists():
            os.replace(attempt / NOTEBOOK, attempt / FAILED_NOTEBOOK)
    elif record.ok:
        data = json.loads((attempt / SUMMARY).read_text(encoding="utf-8")).get("data", [])
        own = {item["name"]: item["sha256"] for item in data if item.get("kind") == "own"}
        # The notebook knows better what it read, where the names tell the files apart.
        count = Counter(Path(given).name for given in record.inputs)
        known = {g: own[n] for g in record.inputs if count[n := Path(g).name] == 1 and n in own}
        left = [n for n in (ROWS, SUMMARY, CONTRIBUTIONS) if (attempt / n).is_file()]
        hashes = {name: files.sha256_file(attempt / name) for name in left}
        record = dataclasses.replace(
            record, data=data, inputs={**record.inputs, **known}, hashes=hashes
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
        try:
            executed = notebooks.read(folder / NOTEBOOK)
        except NotebookError:  # a stored notebook that is damaged: its rows stand all the same
            return
        ran = [c for c in executed["cells"] if c["cell_type"] == "code"]
        injected = [c for c in ran if "injected-parameters" in notebooks.tags(c)]
        ran = [c for c in ran if c not in injected]
        if [notebooks.source_of(c) for c in ran] != notebooks.code(source):
            return
        executed["cells"] = []
        for cell in source["cells"]:
            executed["cells"].append(ran.pop(0) if cell["cell_type"] == "code" else cell)
            executed["cells"] += injected if "parameters" in notebooks.tags(cell) else []
        files.write_json(folder / NOTEBOOK, executed)
        updated = dataclasses.replace(record, fingerprints={**record.fingerprints, "prose": prose})
        files.write_json(folder / RECORD, updated.to_json())
