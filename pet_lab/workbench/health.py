"""What a machine needs before a sweep of hours is started on it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import tempfile
import tomllib
from dataclasses import dataclass

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
    return [_python(ws), _packages(ws), _kernel(), *_folders(ws), _disk(ws), _cores()]


def _python(ws: Workspace) -> MachineCheck:
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    pinned = ws.root / ".python-version"
    pinned_version = pinned.read_text(errors="replace").strip() if pinned.is_file() else running
    return MachineCheck(
        "Python",
        running == pinned_version,
        running,
        f"expected {pinned_version}: run `uv sync --frozen`",
    )


def _packages(ws: Workspace) -> MachineCheck:
    """Installed versions that differ from the lock; what is not installed belongs to an extra."""
    lock = ws.root / "uv.lock"
    if not lock.is_file():
        return MachineCheck("packages", False, "no uv.lock", "restore it from git")
    locked: dict[str, set[str]] = {}
    try:
        entries = tomllib.loads(lock.read_text(encoding="utf-8")).get("package", ())
    except (OSError, ValueError):
        return MachineCheck("packages", False, "uv.lock is damaged", "restore it from git")
    for package in entries:
        locked.setdefault(package["name"], set()).add(package.get("version", ""))
    odd = []
    count = 0
    for distribution in importlib.metadata.distributions():
        name = (distribution.metadata["Name"] or "").lower().replace("_", "-").replace(".", "-")
        if name in locked and name != "pet-lab":
            count += 1
            if distribution.version not in locked[name]:
                odd.append(f"{name} {distribution.version}")
    state = f"{count} as locked" if not odd else f"not as locked: {', '.join(sorted(odd)[:5])}"
    return MachineCheck("packages", not odd, state, "run `uv sync --frozen --all-extras`")


def _kernel() -> MachineCheck:
    from jupyter_client.kernelspec import KernelSpecManager

    known = KernelSpecManager().find_kernel_specs()
    words = "python3" if "python3" in known else "none called python3"
    return MachineCheck("kernel", "python3" in known, words, "run `uv sync --frozen --all-extras`")


def _folders(ws: Workspace) -> list[MachineCheck]:
    checks = []
    for folder in (ws.runs, ws.reports):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
            checks.append(MachineCheck(f"folder {folder.name}", True, "writable"))
        except OSError as error:
            state = error.strerror or type(error).__name__
            checks.append(MachineCheck(f"folder {folder.name}", False, state, "make it writable"))
    return checks


def _disk(ws: Workspace) -> MachineCheck:
    free = shutil.disk_usage(ws.root).free / 1e9
    return MachineCheck("disk", free > ENOUGH_DISK_GB, f"{free:.0f} GB free", "free some space")


def _cores() -> MachineCheck:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return MachineCheck("cores", True, f"{usable} (a sweep runs as many notebooks at a time)")
