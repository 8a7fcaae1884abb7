"""The wheel is a function of the sources, and pip alone makes a working core of it."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("pyproject.toml", "README.md", "LICENSE", "pet_lab", "notebooks", "data")
OFFLINE = ("error sending request", "No matching distribution", "Could not find a version")


def build(folder: Path) -> Path:
    """A wheel of a copy of the sources; copies have times of their own."""
    uv = shutil.which("uv") or ROOT / ".tools" / "bin" / "uv"
    if not Path(uv).exists():
        pytest.skip("uv is neither on the path nor in .tools")
    source, out = folder / "source", folder / "dist"
    source.mkdir(parents=True)
    for part in NEEDED:
        if (ROOT / part).is_file():
            (source / part).write_bytes((ROOT / part).read_bytes())
        else:
            skipped = shutil.ignore_patterns("__pycache__", ".*", "cache")
            shutil.copytree(
                ROOT / part, source / part, ignore=skipped, copy_function=shutil.copyfile
            )
    command = [uv, "build", "--wheel", "--quiet", "--out-dir", out, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if OFFLINE[0] in done.stderr:
        pytest.skip("the build backend cannot be fetched here")
    assert done.returncode == 0, done.stderr
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.mark.slow
def test_a_wheel_built_twice_is_identical(tmp_path):
    wheels = [build(tmp_path / name) for name in ("first", "second")]
    assert len({hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in wheels}) == 1
    inside = zipfile.ZipFile(wheels[0]).namelist()
    shipped = {p.relative_to(ROOT) for p in (ROOT / "notebooks").glob("*/*.*")}
    assert {f"pet_lab/shipped/{path.as_posix()}" for path in shipped} <= set(inside)


@pytest.mark.slow
def test_pip_alone_installs_a_core_and_init_makes_a_workspace_that_runs(tmp_path):
    """No lock, no override, no extra: minutes of CPU where pip's cache is cold."""
    wheel = build(tmp_path)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    programs = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    hidden = ("PET_LAB_HOME", "PYTHONPATH", "VIRTUAL_ENV", "PIP_NO_INDEX")
    clean = {k: v for k, v in os.environ.items() if k not in hidden}
    clean |= {"PET_LAB_OFFLINE": "1", "PET_LAB_CACHE": str(tmp_path / "cache")}

    def call(*command, where=tmp_path):
        command = [programs / command[0], *command[1:]]
        return subprocess.run(
            command, cwd=where, env=clean, capture_output=True, text=True, check=False
        )

    # Most modules are never imported here: --no-compile leaves them as they are.
    pip = (
        "pip",
        "--disable-pip-version-check",
        "install",
        "--quiet",
        "--prefer-binary",
        "--no-compile",
    )
    done = call(*pip, wheel)
    if any(words in done.stderr for words in OFFLINE):
        pytest.skip("the package registry cannot be reached from here")
    assert done.returncode == 0, done.stderr
    assert not any((programs.parent).rglob("site-packages/tensorflow"))

    assert call("pet-lab", "init", "mine").returncode == 0
    mine = tmp_path / "mine"
    listed = call("pet-lab", "list", "--json", where=mine)
    assert listed.returncode == 0, listed.stderr
    assert "psi/typos" in listed.stdout
    done = call("pet-lab", "sweep", "aggregation", "--profile", "quick", where=mine)
    assert done.returncode == 0, done.stderr
    (record,) = (mine / "papermill_runs" / "literature" / "aggregation").glob("*/run.json")
    assert '"state": "done"' in record.read_text()
    done = call("pet-lab", "sweep", "membership_sweep", "--profile", "quick", where=mine)
    assert done.returncode == 1
    assert "install it with the extra tf" in done.stderr
