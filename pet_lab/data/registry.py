"""Registered data sets: where they are looked for, how they are recognised, what they come with.

Look-up order: the path given, the folder `PET_LAB_DATA`, the cache (`PET_LAB_CACHE`, by default
the user's cache folder), a download. Whatever is found must have the registered content: the hash
is over the parsed table (`canonical`, `hapt`), not over the bytes of a file.

Environment
-----------
PET_LAB_DATA     folder with data files of the user
PET_LAB_CACHE    folder for downloads and derived files
PET_LAB_OFFLINE  "1": never try to download
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import tempfile
import threading
import time
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from . import canonical, hapt
from .archives import members
from .errors import DataError, DataMismatch, DataMissing

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "REGISTRY",
    "Dataset",
    "Entry",
    "Verification",
    "cache_dir",
    "fetch",
    "fingerprint",
    "import_file",
    "listing",
    "load",
    "verify",
]

_CONNECT_S, _READ_S = 3.0, 20.0
_RETRY_AFTER_S = 600.0
_DAMAGED = (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, RuntimeError)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A table and where it comes from.

    frame       the data
    provenance  name, sha256 (of the canonical content), kind ("real", "stand-in", "own"),
                licence, citation, rows, address; never a local path
    reading     of an own file: what the reader decided of each column
    """

    frame: pd.DataFrame
    provenance: Mapping[str, Any]
    reading: pd.DataFrame | None = None

    @property
    def counts(self) -> bool:
        """Whether results from it may be held against published numbers: only real data counts."""
        return self.provenance["kind"] == "real"


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """A source that was read: its hash, what is wrong with it (if anything), and its table."""

    sha256: str
    problems: tuple[str, ...]
    rows: int
    make_frame: Callable[[], pd.DataFrame]
    files: Mapping[str, bytes]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One registered data set.

    name, title  how it is called here and by its authors
    file         the name it is looked for under, and kept under in the cache
    also         other names accepted in PET_LAB_DATA: archives and unpacked folders
    sha256       hash of the canonical content
    rows         rows of the frame
    address      where it is downloaded from
    licence, citation  as its publisher states them
    stand_in     file name of the synthetic stand-in in the folder data/, or None
    """

    name: str
    title: str
    file: str
    also: tuple[str, ...]
    sha256: str
    rows: int
    address: str
    licence: str
    citation: str
    stand_in: str | None
    wanted: Callable[[str], bool]
    parse: Callable[[Mapping[str, bytes]], Parsed]

    def provenance(self, kind: str, sha256: str, rows: int) -> Mapping[str, Any]:
        """The mapping that goes with a table of this entry."""
        return MappingProxyType(
            {
                "name": self.name,
                "sha256": sha256,
                "kind": kind,
                "licence": self.licence,
                "citation": self.citation,
                "rows": rows,
                "address": self.address,
            }
        )


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What `verify` found. `where` is one of path, PET_LAB_DATA, cache, absent."""

    name: str
    where: str
    expected: str
    sha256: str | None
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Found, and the content is the registered one."""
        return self.sha256 == self.expected


# --- parsers ---------------------------------------------------------------------------------


@cache
def _pin(name: str) -> Any:
    text = (resources.files("pet_lab.data") / "pins" / f"{name}.json").read_text("utf-8")
    return canonical.Pin.from_json(text) if name == "student_mat" else json.loads(text)


def _parse_student(files: Mapping[str, bytes]) -> Parsed:
    if len(files) != 1:
        raise DataError(f"Expected one file student-mat.csv, found {len(files)}.")
    (content,) = files.values()
    table = canonical.parse_csv(content)
    return Parsed(
        sha256=table.sha256,
        problems=tuple(canonical.differences(table, _pin("student_mat"))),
        rows=len(table.rows),
        make_frame=lambda: table_frame(table),
        files={"student-mat.csv": content},
    )


def _parse_hapt(files: Mapping[str, bytes]) -> Parsed:
    recordings = hapt.parse(files.items())
    return Parsed(
        sha256=recordings.sha256,
        problems=tuple(hapt.differences(recordings, _pin("hapt")["files"])),
        rows=sum(len(a) for n, a in recordings.signals.items() if n.startswith("acc")),
        make_frame=recordings.frame,
        files=files,
    )


def table_frame(table: canonical.Table) -> pd.DataFrame:
    """The canonical table as a DataFrame: int64, float64 and str columns."""
    import pandas as pd

    kinds: dict[str, Any] = {"integer": "int64", "number": "float64", "text": object}
    columns = list(zip(*table.rows, strict=True)) or [()] * len(table.columns)
    return pd.DataFrame(
        {
            name: pd.Series(list(cells), dtype=object).astype(kinds[kind])
            for name, kind, cells in zip(table.columns, table.types, columns, strict=True)
        }
    )


REGISTRY: Mapping[str, Entry] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Entry(
                name="student_mat",
                title="UCI Student Performance (mathematics)",
                file="student-mat.csv",
                also=("student.zip", "student+performance.zip", "student"),
                sha256="7b027dc5ca391dbf12af0e1cd728713d1f736c6314b3760b9e4232462eb175bf",
                rows=395,
                address="https://archive.ics.uci.edu/static/public/320/student+performance.zip",
                licence="CC BY 4.0",
                citation="P. Cortez (2008). Student Performance. UCI Machine Learning Repository. "
                "https://doi.org/10.24432/C5TG7T",
                stand_in="student_mat_stand_in.csv",
                wanted=lambda name: name.lower() == "student-mat.csv",
                parse=_parse_student,
            ),
            Entry(
                name="hapt",
                title="UCI HAPT (smartphone activities and postural transitions), raw signals",
                file="hapt_raw.zip",
                also=(
                    "HAPT Data Set.zip",
                    "smartphone+based+recognition+of+human+activities+and+postural+transitions.zip",
                    "HAPT Data Set",
                ),
                sha256="884c1fc38c0ab5fb260df949ba36ad3b76be6a98bf5857962b1e1a245d20a8f5",
                rows=1122772,
                address="https://archive.ics.uci.edu/static/public/341/"
                "smartphone+based+recognition+of+human+activities+and+postural+transitions.zip",
                licence="CC BY 4.0",
                citation="J. Reyes-Ortiz, D. Anguita, L. Oneto, X. Parra (2015). Smartphone-Based "
                "Recognition of Human Activities and Postural Transitions. UCI Machine Learning "
                "Repository. https://doi.org/10.24432/C54G7M",
                stand_in=None,
                wanted=hapt.wanted,
                parse=_parse_hapt,
            ),
        )
    }
)


def _entry(name: str) -> Entry:
    if name not in REGISTRY:
        raise DataError(f"Unknown data set {name!r}; registered are {', '.join(REGISTRY)}.")
    return REGISTRY[name]


# --- places ----------------------------------------------------------------------------------


def cache_dir() -> Path:
    """Folder of downloads and derived files: PET_LAB_CACHE, else the user's cache folder."""
    if given := os.environ.get("PET_LAB_CACHE"):
        return Path(given)
    import platformdirs

    return Path(platformdirs.user_cache_dir("pet_lab"))


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends without error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(name)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def _candidates(entry: Entry) -> Iterator[tuple[str, Path]]:
    if folder := os.environ.get("PET_LAB_DATA"):
        for name in (entry.file, *entry.also):
            yield "PET_LAB_DATA", Path(folder) / name
    yield "cache", cache_dir() / entry.file


def _find(entry: Entry, path: str | Path | None) -> tuple[str, Path] | None:
    if path is not None:
        if not Path(path).exists():
            raise DataMissing(
                f"Expected {entry.name} at the path given, but there is no file {Path(path).name}."
            )
        return "path", Path(path)
    return next(((where, file) for where, file in _candidates(entry) if file.exists()), None)


def _read(entry: Entry, source: Path) -> Parsed:
    """Parse a source; a damaged one raises DataMismatch with the reason."""
    try:
        files = dict(members(source, entry.wanted))
        if not files:
            raise DataError(f"Expected {entry.file} or its contents, found nothing of it.")
        return entry.parse(files)
    except (*_DAMAGED, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise DataMismatch(f"{source.name} is not {entry.name}: {reason.rstrip('.')}.") from None


def _checked(entry: Entry, source: Path) -> Parsed:
    parsed = _read(entry, source)
    if parsed.sha256 != entry.sha256:
        raise DataMismatch(
            f"{source.name} is not the registered {entry.name}: {'; '.join(parsed.problems)} "
            f"(content hash {parsed.sha256[:12]}, expected {entry.sha256[:12]}). "
            "Replace it by the original from "
            f"{entry.address}, or use it as your own data."
        )
    return parsed


def _missing(entry: Entry, reason: str) -> DataMissing:
    return DataMissing(
        f"{entry.title} is not on this machine and could not be fetched ({reason}). "
        f"Get {entry.file} (content SHA-256 {entry.sha256}) from {entry.address} and run "
        f"`pet-lab data import FILE`, or put it into a folder named by PET_LAB_DATA."
    )


# --- download --------------------------------------------------------------------------------


def _reachable(address: str) -> str | None:
    """None if the host answers within `_CONNECT_S`, else why not.

    In a thread, because a name look-up has no time limit of its own. Behind a proxy only the proxy
    can tell, so there the download itself is the test.
    """
    parts = urllib.parse.urlsplit(address)
    host = parts.hostname or ""
    if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
        return None
    outcome: list[str | None] = ["no answer in time"]

    def attempt() -> None:
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            socket.create_connection((host, port), timeout=_CONNECT_S).close()
            outcome[0] = None
        except OSError as error:
            outcome[0] = error.strerror or type(error).__name__

    worker = threading.Thread(target=attempt, daemon=True)
    worker.start()
    worker.join(_CONNECT_S + 0.5)
    return outcome[0]


def _download(entry: Entry, *, patient: bool) -> Path:
    """Download, check, and keep in the cache; DataMissing or DataMismatch if that fails.

    An impatient caller (one that has a stand-in) does not try again within ten minutes of a
    failure, so that a sweep of many runs waits for an absent network once.
    """
    if os.environ.get("PET_LAB_OFFLINE", "") not in ("", "0"):
        raise _missing(entry, "PET_LAB_OFFLINE is set")
    mark = cache_dir() / f".{entry.name}.unreachable"
    with suppress(OSError):
        if not patient and time.time() - mark.stat().st_mtime < _RETRY_AFTER_S:
            raise _missing(entry, "not reachable a few minutes ago")
    reason = _reachable(entry.address)
    if reason is None:
        import pooch
        import requests

        downloader = pooch.HTTPDownloader(timeout=(_CONNECT_S, _READ_S))
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(2):
                try:
                    pooch.retrieve(
                        entry.address,
                        known_hash=None,  # what is pinned is the content, checked below
                        fname="download.zip",
                        path=folder,
                        downloader=downloader,
                    )
                    reason = None
                    break
                except (requests.RequestException, OSError) as error:
                    reason = type(error).__name__
            if reason is None:
                try:
                    return _keep(entry, _checked(entry, Path(folder) / "download.zip"))
                except DataMismatch as error:
                    raise DataMismatch(
                        f"The download of {entry.name} from {entry.address} is damaged or has "
                        f"changed and was discarded: {error} Try again, or get {entry.file} "
                        "by other means and run `pet-lab data import FILE`."
                    ) from None
    with suppress(OSError):
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    raise _missing(entry, reason)


def _keep(entry: Entry, parsed: Parsed) -> Path:
    """Put checked content into the cache under the name it is looked for."""
    target = cache_dir() / entry.file
    with atomic(target) as temporary:
        if target.suffix == ".zip":
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                for name in sorted(parsed.files):
                    archive.writestr(name, parsed.files[name])
        else:
            (content,) = parsed.files.values()
            temporary.write_bytes(content)
    with suppress(OSError):
        (target.parent / f".{entry.name}.unreachable").unlink()
    _remember(target, parsed.sha256)
    return target


# --- hashes that are cheap to ask for twice --------------------------------------------------


def _stat_key(source: Path) -> Path:
    files = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
    stats = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return cache_dir() / "hashes" / hashlib.sha256(json.dumps(stats).encode()).hexdigest()


def _remember(source: Path, sha256: str) -> None:
    with suppress(OSError), atomic(_stat_key(source)) as temporary:  # a cache may be read-only
        temporary.write_text(sha256)


def _recall(source: Path) -> str | None:
    try:
        return _stat_key(source).read_text() or None
    except OSError:
        return None


# --- the public functions --------------------------------------------------------------------


def load(name: str, *, path: str | Path | None = None, stand_in: bool = False) -> Dataset:
    """Load a registered data set.

    Parameters
    ----------
    name : str
        ``student_mat`` or ``hapt``.
    path : path, optional
        A file, zip or folder to take it from; then nowhere else is looked.
    stand_in : bool
        If the data cannot be had (absent, and no download), return the shipped synthetic stand-in
        of the same schema; its ``provenance["kind"]`` is ``"stand-in"``. Data that is there but
        wrong still raises.

    Returns
    -------
    Dataset. ``student_mat``: 395 rows, 33 columns as published. ``hapt``: one row per sample, see
    `hapt.Recordings.frame`; parsed once, then read from the cache.

    Raises
    ------
    DataMissing
        If it is nowhere to be had; the message names file, hash, address and the import command.
    DataMismatch
        If what was found differs from what is registered; the message says in what.
    DataError
        If the name is unknown.
    """
    entry = _entry(name)
    found = _find(entry, path)
    if found is None:
        try:
            source = _download(entry, patient=not (stand_in and entry.stand_in))
        except DataMissing:
            if stand_in and entry.stand_in:
                return _load_stand_in(entry)
            raise
    else:
        source = found[1]
    frame = _parsed_frame(entry, source)
    return Dataset(frame=frame, provenance=entry.provenance("real", entry.sha256, len(frame)))


def _parsed_frame(entry: Entry, source: Path) -> pd.DataFrame:
    """The frame of a source; large ones are parsed once and then read from the cache."""
    if entry.name != "hapt":
        return _checked(entry, source).make_frame()
    import pandas as pd

    store = cache_dir() / f"{entry.name}-{entry.sha256[:16]}.parquet"
    if _recall(source) == entry.sha256 and store.is_file():
        with suppress(OSError, ValueError):  # an unreadable cache is made anew
            return pd.read_parquet(store)
    parsed = _checked(entry, source)
    frame = parsed.make_frame()
    with suppress(OSError), atomic(store) as temporary:
        frame.to_parquet(temporary, index=False)
    _remember(source, parsed.sha256)
    return frame


def stand_in_path(entry: Entry) -> Path:
    """Where the stand-in lies: ``data/`` of the workspace, else of the checkout of this package."""
    file = entry.stand_in or ""
    places = [Path(__file__).resolve().parents[2] / "data" / file]
    if home := os.environ.get("PET_LAB_HOME"):
        places.insert(0, Path(home) / "data" / file)
    for place in places:
        if place.is_file():
            return place
    raise DataMissing(
        f"The stand-in {file} is shipped in the folder data/ of a checkout of pet_lab, not in the "
        "installed package; set PET_LAB_HOME to a checkout, or run `pet-lab data import FILE` "
        f"with the real {entry.file}."
    )


def _load_stand_in(entry: Entry) -> Dataset:
    table = canonical.parse_csv(stand_in_path(entry).read_bytes())
    frame = table_frame(table)
    provenance = dict(entry.provenance("stand-in", table.sha256, len(frame)))
    provenance["citation"] = (
        f"Synthetic stand-in of pet_lab (see data/README.md), fitted to: {entry.citation}"
    )
    return Dataset(frame=frame, provenance=MappingProxyType(provenance))


def fetch(name: str) -> Path:
    """Make sure that the real data is in a place where `load` finds it, and return that place.

    Raises
    ------
    DataMissing, DataMismatch
        As `load`; a damaged download is discarded and never enters the cache.
    """
    entry = _entry(name)
    found = _find(entry, None)
    if found is None:
        return _download(entry, patient=True)
    if _recall(found[1]) != entry.sha256:
        _remember(found[1], _checked(entry, found[1]).sha256)
    return found[1]


def verify(name: str, *, path: str | Path | None = None) -> Verification:
    """Read the data anew and compare it with what is registered; never raises for wrong content."""
    entry = _entry(name)
    found = _find(entry, path)
    if found is None:
        return Verification(
            name=name, where="absent", expected=entry.sha256, sha256=None, problems=("absent",)
        )
    where, source = found
    try:
        parsed = _read(entry, source)
    except DataMismatch as error:
        return Verification(
            name=name, where=where, expected=entry.sha256, sha256=None, problems=(str(error),)
        )
    _remember(source, parsed.sha256)
    return Verification(
        name=name,
        where=where,
        expected=entry.sha256,
        sha256=parsed.sha256,
        problems=parsed.problems,
    )


def import_file(path: str | Path, name: str | None = None) -> str:
    """Copy a file, zip or folder of registered data into the cache.

    Parameters
    ----------
    path : path
        Recognised by its content, whatever its name.
    name : str, optional
        Which data set it should be; then only that one is tried.

    Returns
    -------
    str : the name of the data set it is.

    Raises
    ------
    DataMissing
        If there is no such file.
    DataMismatch
        If its content is none of the registered ones; the message says what differs from each.
    """
    source = Path(path)
    if not source.exists():
        raise DataMissing(f"Expected a file to import, but there is no {source.name}.")
    reasons = []
    for entry in [_entry(name)] if name else REGISTRY.values():
        try:
            parsed = _checked(entry, source)
        except DataMismatch as error:
            reasons.append(str(error))
            continue
        _keep(entry, parsed)
        return entry.name
    raise DataMismatch(" ".join(reasons))


def fingerprint(name_or_path: str | Path, *, stand_in: bool = True) -> str | None:
    """Hash of the content that `load` would use now; cheap when asked again, never a download.

    Parameters
    ----------
    name_or_path : str or path
        A registered name, or a CSV file of the user.
    stand_in : bool
        Whether the stand-in counts when the real data is not on this machine.

    Returns
    -------
    str : the canonical hash for registered data (and for the stand-in), the hash of the bytes for
    a file of the user; None if there is nothing, or nothing readable.
    """
    if str(name_or_path) in REGISTRY:
        entry = REGISTRY[str(name_or_path)]
        found = _find(entry, None)
        if found is not None:
            source, read = found[1], lambda: _read(entry, found[1]).sha256
        elif stand_in and entry.stand_in:
            try:
                source = stand_in_path(entry)
            except DataMissing:
                return None
            read = lambda: canonical.parse_csv(source.read_bytes()).sha256  # noqa: E731
        else:
            return None
    else:
        source = Path(name_or_path)
        if not source.is_file():
            return None
        read = lambda: hashlib.sha256(source.read_bytes()).hexdigest()  # noqa: E731
    known = _recall(source)
    if known is None:
        try:
            known = read()
        except (DataError, ValueError, OSError):
            return None
        _remember(source, known)
    return known


def listing() -> list[dict[str, Any]]:
    """One mapping per registered data set, for people and for ``--json``.

    Keys: name, title, rows, licence, citation, address, file, sha256, state ("PET_LAB_DATA",
    "cache" or "absent"), ok (content as registered; None when absent), kind (what `load` with
    ``stand_in=True`` would give without a download: "real", "stand-in" or None).
    """
    items = []
    for entry in REGISTRY.values():
        found = _find(entry, None)
        ok = None if found is None else fingerprint(entry.name) == entry.sha256
        kind = "stand-in" if entry.stand_in and found is None else None
        items.append(
            {
                "name": entry.name,
                "title": entry.title,
                "rows": entry.rows,
                "licence": entry.licence,
                "citation": entry.citation,
                "address": entry.address,
                "file": entry.file,
                "sha256": entry.sha256,
                "state": "absent" if found is None else found[0],
                "ok": ok,
                "kind": "real" if ok else kind,
            }
        )
    return items
