"""What a machine needs before a sweep of hours is started on it."""

import importlib.metadata
import os
import shutil
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

from pet_lab.workbench.workspace import Workspace

ENOUGH_DISK_GB = 2.0


@dataclass(frozen=True)
class MachineCheck:
    """One thing that was checked.

    what, state  in words
    ok           whether it is as it should be
    fix          what to do where it is not
    """

    what: str
    ok: bool
    state: str
    fix: str = ""


def check(ws: Workspace) -> list[MachineCheck]:
    """Python, packages against the lock, kernel, folders, disk, cores."""
    from jupyter_client.kernelspec import KernelSpecManager

    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    pinned = ws.root / ".python-version"
    wanted = pinned.read_text(errors="replace").strip() if pinned.is_file() else running
    sync = "run `uv sync --frozen --all-extras`"
    kernel = "python3" in KernelSpecManager().find_kernel_specs()
    free = shutil.disk_usage(ws.root).free / 1e9
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parallel = f"{usable} (a sweep runs as many notebooks at a time)"
    return [
        MachineCheck("Python", running == wanted, running, f"expected {wanted}: {sync}"),
        _packages(ws, sync),
        MachineCheck("kernel", kernel, "python3" if kernel else "none called python3", sync),
        *(_folder(folder) for folder in (ws.runs, ws.reports)),
        MachineCheck("disk", free > ENOUGH_DISK_GB, f"{free:.0f} GB free", "free some space"),
        MachineCheck("cores", True, parallel),
    ]


def _packages(ws: Workspace, fix: str) -> MachineCheck:
    """Installed versions that differ from the lock; what is not installed belongs to an extra."""
    lock, restore = ws.root / "uv.lock", "restore it from git"
    if not lock.is_file() and not (ws.root / "pyproject.toml").is_file():  # made by `init`
        return MachineCheck("packages", True, "as pip chose them; uv.lock is in the checkout")
    if not lock.is_file():
        return MachineCheck("packages", False, "no uv.lock", restore)
    try:
        entries = tomllib.loads(lock.read_text(encoding="utf-8")).get("package", ())
    except (OSError, ValueError):
        return MachineCheck("packages", False, "uv.lock is damaged", restore)
    locked: dict[str, set[str]] = {}
    for package in entries:
        locked.setdefault(package["name"], set()).add(package.get("version", ""))
    installed = {
        ((d.metadata["Name"] or "").lower().replace("_", "-").replace(".", "-"), d.version)
        for d in importlib.metadata.distributions()
    }
    known = sorted(p for p in installed if p[0] in locked and p[0] != "pet-lab")
    odd = [f"{name} {version}" for name, version in known if version not in locked[name]]
    state = f"not as locked: {', '.join(odd[:5])}" if odd else f"{len(known)} as locked"
    return MachineCheck("packages", not odd, state, fix)


def _folder(folder: Path) -> MachineCheck:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return MachineCheck(f"folder {folder.name}", True, "writable")
    except OSError as error:
        state = error.strerror or type(error).__name__
        return MachineCheck(f"folder {folder.name}", False, state, "make it writable")
