"""Registered data sets: where they are looked for, and how they are recognised.

Look-up order: the path given, the folder `PET_LAB_DATA`, the cache (`PET_LAB_CACHE`, by default
the user's cache folder), a download. Whatever is found must have the registered content: the hash
is over the parsed table (`canonical`, `hapt`), not over the bytes of a file.

PET_LAB_OFFLINE=1: never try to download.
"""

import json
import os
import socket
import tempfile
import threading
import time
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from pet_lab import files
from pet_lab.checks import require

from . import canonical, hapt, student
from .archives import members
from .entry import Dataset, Entry, Parsed
from .errors import DataMismatch, DataMissing, UnknownData

REGISTRY: Mapping[str, Entry] = MappingProxyType({e.name: e for e in (student.ENTRY, hapt.ENTRY)})
_CONNECT_S, _READ_S = 3.0, 20.0
_RETRY_AFTER_S = 600.0
_DAMAGED = (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, RuntimeError)


@dataclass(frozen=True)
class Verification:
    """Result of `verify`. `where` is one of path, PET_LAB_DATA, cache, absent."""

    name: str
    where: str
    expected: str
    sha256: str | None
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Present, and the content is the registered one."""
        return self.sha256 == self.expected


def _entry(name: str) -> Entry:
    listed = ", ".join(REGISTRY)
    require(name in REGISTRY, f"Unknown data set {name!r}; registered are {listed}.", UnknownData)
    return REGISTRY[name]


# --- places ----------------------------------------------------------------------------------


def cache_dir() -> Path:
    """Folder of downloads and derived files: PET_LAB_CACHE, else the user's cache folder."""
    if given := os.environ.get("PET_LAB_CACHE"):
        return Path(given)
    import platformdirs

    return Path(platformdirs.user_cache_dir("pet_lab"))


def _cached(*parts: str) -> Path:
    """A path in the cache whose folder exists (or cannot be had: then writing fails)."""
    path = cache_dir().joinpath(*parts)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _locate(entry: Entry, path: str | Path | None = None) -> tuple[str, Path] | None:
    """(where, path) of the first place that holds something under a name of the entry."""
    if path is not None:
        absent = f"Expected {entry.name} at the path given, but there is no file {Path(path).name}."
        require(Path(path).exists(), absent, DataMissing)
        return "path", Path(path)
    places = [("cache", cache_dir() / entry.file)]
    if folder := os.environ.get("PET_LAB_DATA"):
        names = (entry.file, *entry.also)
        places = [*(("PET_LAB_DATA", Path(folder) / name) for name in names), *places]
    return next((place for place in places if place[1].exists()), None)


def _read(entry: Entry, source: Path) -> tuple[Parsed, dict[str, bytes]]:
    """Parse a source; a damaged one raises DataMismatch with the reason."""
    try:
        contents = dict(members(source, entry.wanted))
        require(
            contents, f"Expected {entry.file} or its contents, found nothing of it; fetch it anew."
        )
        return entry.parse(contents), contents
    except (*_DAMAGED, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise DataMismatch(f"{source.name} is not {entry.name}: {reason.rstrip('.')}.") from None


def _checked(entry: Entry, source: Path) -> tuple[Parsed, dict[str, bytes]]:
    parsed, contents = _read(entry, source)
    require(
        parsed.sha256 == entry.sha256,
        f"{source.name} is not the registered {entry.name}: {'; '.join(parsed.problems)} (content "
        f"hash {parsed.sha256[:12]}, expected {entry.sha256[:12]}). Replace it by the original "
        f"from {entry.address}, or use it as your own data.",
        DataMismatch,
    )
    return parsed, contents


# --- download --------------------------------------------------------------------------------


def _missing(entry: Entry, reason: str) -> DataMissing:
    return DataMissing(
        f"{entry.title} is not on this machine and could not be fetched ({reason}). "
        f"Get {entry.file} (content SHA-256 {entry.sha256}) from {entry.address} and run "
        f"`pet-lab data import FILE`, or put it into a folder named by PET_LAB_DATA."
    )


def _reachable(address: str) -> str | None:
    """None if the host answers within `_CONNECT_S`, else why not.

    In a thread, because a name look-up has no time limit of its own. Behind a proxy only the proxy
    can tell, so there the download itself is the test.
    """
    parts = urllib.parse.urlsplit(address)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
        return None
    outcome: list[str | None] = ["no answer in time"]

    def attempt() -> None:
        try:
            socket.create_connection((host, port), timeout=_CONNECT_S).close()
            outcome[0] = None
        except OSError as error:
            outcome[0] = error.strerror or type(error).__name__

    worker = threading.Thread(target=attempt, daemon=True)
    worker.start()
    worker.join(_CONNECT_S + 0.5)
    return outcome[0]


def _retrieve(address: str, folder: Path) -> str | None:
    """None if ``download.zip`` is now in the folder, else why not."""
    if reason := _reachable(address):
        return reason
    import pooch
    import requests

    # What is pinned is the content, not the bytes: checked by the caller.
    how: dict[str, Any] = {"fname": "download.zip", "path": folder, "known_hash": None}
    downloader = pooch.HTTPDownloader(timeout=(_CONNECT_S, _READ_S))
    for _ in range(2):
        try:
            pooch.retrieve(address, downloader=downloader, **how)
            return None
        except (requests.RequestException, OSError) as error:
            reason = type(error).__name__
    return reason


def _download(entry: Entry, *, patient: bool) -> Path:
    """Download, check, and keep in the cache; DataMissing or DataMismatch if that fails.

    An impatient caller (one that has a stand-in) does not try again within ten minutes of a
    failure, so that a sweep of many runs waits for an absent network once.
    """
    if os.environ.get("PET_LAB_OFFLINE", "") not in ("", "0"):
        raise _missing(entry, "PET_LAB_OFFLINE is set")
    mark = _cached(f".{entry.name}.unreachable")
    with suppress(OSError):
        if not patient and time.time() - mark.stat().st_mtime < _RETRY_AFTER_S:
            raise _missing(entry, "not reachable a few minutes ago")
    with tempfile.TemporaryDirectory() as folder:
        reason = _retrieve(entry.address, Path(folder))
        if reason is None:
            try:
                return _keep(entry, *_checked(entry, Path(folder) / "download.zip"))
            except DataMismatch as error:
                raise DataMismatch(
                    f"The download of {entry.name} from {entry.address} is damaged or has "
                    f"changed and was discarded: {error} Try again, or get {entry.file} "
                    "by other means and run `pet-lab data import FILE`."
                ) from None
    with suppress(OSError):
        mark.touch()
    raise _missing(entry, reason)


def _keep(entry: Entry, parsed: Parsed, contents: Mapping[str, bytes]) -> Path:
    """Put checked content into the cache under the name it is looked for."""
    target = _cached(entry.file)
    with files.replacing(target) as stream:
        if target.suffix == ".zip":
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                for name, content in sorted(contents.items()):
                    archive.writestr(name, content)
        else:
            (content,) = contents.values()
            stream.write(content)
    with suppress(OSError):
        _cached(f".{entry.name}.unreachable").unlink()
    _remember(target, parsed.sha256)
    return target


# --- hashes that are cheap to ask for twice --------------------------------------------------


def _stat_key(source: Path) -> Path:
    paths = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
    stats = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
    return _cached("hashes", files.sha256(json.dumps(stats).encode()))


def _remember(source: Path, sha256: str) -> None:
    with suppress(OSError):  # a cache may be read-only
        files.write_atomic(_stat_key(source), sha256.encode())


def _recall(source: Path) -> str | None:
    try:
        return _stat_key(source).read_text() or None
    except (OSError, UnicodeDecodeError):
        return None


# --- the public functions --------------------------------------------------------------------


def load(name: str, *, path: str | Path | None = None, stand_in: bool = False) -> Dataset:
    """Load a registered data set, from `path` (a file, zip or folder) alone if it is given.

    ``student_mat``: 395 rows, 33 columns as published. ``hapt``: one row per sample, see
    `hapt.Recordings.frame`; parsed once, then read from the cache. With `stand_in`, data that
    cannot be had (absent, and no download) is replaced by the shipped synthetic table of the same
    schema, whose ``provenance["kind"]`` is ``"stand-in"``; data that is there but wrong still
    raises.

    Raises
    ------
    DataMissing
        If it is nowhere to be had; the message names file, hash, address and the import command.
    DataMismatch
        If what is there differs from what is registered; the message says in what.
    DataError
        If the name is unknown.
    """
    entry = _entry(name)
    replaceable = stand_in and entry.stand_in
    place = _locate(entry, path)
    try:
        source = place[1] if place else _download(entry, patient=not replaceable)
    except DataMissing:
        if not replaceable:
            raise
        table = canonical.parse_csv(_stand_in_path(entry).read_bytes())
        citation = (
            f"Synthetic stand-in of pet_lab (see data/README.md), fitted to: {entry.citation}"
        )
        return entry.dataset(table.frame(), "stand-in", table.sha256, citation)
    return entry.dataset(_frame(entry, source), "real", entry.sha256)


def _frame(entry: Entry, source: Path) -> pd.DataFrame:
    if not entry.keep_frame:
        return _checked(entry, source)[0].frame()
    store = _cached(f"{entry.name}-{entry.sha256[:16]}.parquet")
    if _recall(source) == entry.sha256 and store.is_file():
        with suppress(OSError, ValueError):  # an unreadable cache is made anew
            return pd.read_parquet(store)
    parsed, _ = _checked(entry, source)
    frame = parsed.frame()
    with suppress(OSError), files.replacing(store) as stream:
        frame.to_parquet(stream, index=False)
    _remember(source, parsed.sha256)
    return frame


def _stand_in_path(entry: Entry) -> Path:
    """Where the stand-in lies: ``data/`` of the workspace, else of the checkout or the package."""
    file, package = entry.stand_in or "", Path(__file__).resolve().parents[1]
    homes = [os.environ.get("PET_LAB_HOME"), package.parent, package / "shipped"]
    for home in homes:
        if home and (place := Path(home) / "data" / file).is_file():
            return place
    raise DataMissing(
        f"The stand-in {file} is not in the folder data/ of the workspace or package: run "
        f"`pet-lab data import FILE` with the real {entry.file}."
    )


def fetch(name: str) -> Path:
    """Make sure that the real data is in a place where `load` finds it, and return that place.

    Errors as `load`; a damaged download is discarded and never enters the cache.
    """
    entry = _entry(name)
    place = _locate(entry)
    if place is None:
        return _download(entry, patient=True)
    if _recall(place[1]) != entry.sha256:
        _remember(place[1], _checked(entry, place[1])[0].sha256)
    return place[1]


def verify(name: str, *, path: str | Path | None = None) -> Verification:
    """Read the data anew and compare it with what is registered; never raises for wrong content."""
    entry = _entry(name)
    where, source = _locate(entry, path) or ("absent", None)
    sha256: str | None = None
    problems: tuple[str, ...] = ("absent",)
    if source is not None:
        try:
            parsed, _ = _read(entry, source)
            sha256, problems = parsed.sha256, parsed.problems
            _remember(source, sha256)
        except DataMismatch as error:
            problems = (str(error),)
    return Verification(name, where, entry.sha256, sha256, problems)


def import_file(path: str | Path, name: str | None = None) -> str:
    """Copy a file, zip or folder of registered data into the cache, and return which one it is.

    It is recognised by its content, whatever its name; with `name` only that one is tried.
    DataMissing if there is no such file, DataMismatch if its content is none of the registered
    ones; the message says what differs from each.
    """
    source = Path(path)
    absent = f"Expected a file to import, but there is no {source.name}."
    require(source.exists(), absent, DataMissing)
    reasons = []
    for entry in [_entry(name)] if name else REGISTRY.values():
        try:
            _keep(entry, *_checked(entry, source))
            return entry.name
        except DataMismatch as error:
            reasons.append(str(error))
    raise DataMismatch(" ".join(reasons))


def fingerprint(name_or_path: str | Path, *, stand_in: bool = True) -> str | None:
    """Hash of the content that `load` would use now; cheap when asked again, never a download.

    The canonical hash for a registered name (and for its stand-in, if that counts), the hash of
    the bytes for istat_bi/istat, istat_bi/bank and a file of the user; None if there is nothing,
    or nothing readable.
    """
    source, entry = Path(name_or_path), REGISTRY.get(str(name_or_path))
    group, _, part = str(name_or_path).partition("/")
    hashed: Callable[[Path], str] = files.sha256_file
    try:
        if group == "istat_bi":  # two files with a loader of their own
            from . import istat_bi

            if (folder := istat_bi.default_folder()) is None:
                return None
            source = folder / istat_bi.FILES.get(part, part)
        elif entry and (place := _locate(entry)):
            source, hashed = place[1], lambda path: _read(entry, path)[0].sha256
        elif entry:
            if not stand_in:
                return None
            source = _stand_in_path(entry)
            hashed = lambda path: canonical.parse_csv(path.read_bytes()).sha256  # noqa: E731
        if (known := _recall(source)) is None:
            _remember(source, known := hashed(source))
    except (ValueError, OSError):
        return None
    return known


def listing() -> list[dict[str, Any]]:
    """One mapping per registered data set, for people and for ``--json``.

    Keys: name, title, rows, licence, citation, address, file, sha256, state ("PET_LAB_DATA",
    "cache" or "absent"), ok (content as registered; None when absent), kind (what `load` with
    ``stand_in=True`` would give without a download: "real", "stand-in" or None).
    """
    keys = ("name", "title", "rows", "licence", "citation", "address", "file", "sha256")
    items = []
    for entry in REGISTRY.values():
        place = _locate(entry)
        ok = fingerprint(entry.name) == entry.sha256 if place else None
        kind = "stand-in" if entry.stand_in and place is None else None
        state = {"state": place[0] if place else "absent", "ok": ok, "kind": "real" if ok else kind}
        items.append({key: getattr(entry, key) for key in keys} | state)
    return items
