"""pyproject.toml, uv.lock, environment.yml and README name one and the same environment."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = tomllib.loads((ROOT / "uv.lock").read_text())
CONDA = (ROOT / "environment.yml").read_text()


def requirement(text: str) -> tuple[str, str, frozenset[str], frozenset[str]]:
    """A requirement as name, versions, extras and platform conditions, however it was written."""
    r = Requirement(text)
    conditions = re.findall(r"(\w+) == ['\"]([^'\"]+)['\"]", str(r.marker or ""))
    platforms = frozenset(value for variable, value in conditions if variable != "extra")
    return r.name.lower(), str(r.specifier), frozenset(r.extras), platforms


def locked(entry: dict) -> str:
    extras = f"[{','.join(entry['extras'])}]" if entry.get("extras") else ""
    marker = f" ; {entry['marker']}" if entry.get("marker") else ""
    return entry["name"] + extras + entry.get("specifier", "") + marker


def test_the_lock_was_made_from_this_pyproject():
    package = next(p for p in LOCK["package"] if p["name"] == PROJECT["project"]["name"])
    declared = list(PROJECT["project"]["dependencies"])
    for extra in PROJECT["project"]["optional-dependencies"].values():
        declared += extra
    want = {requirement(text) for text in declared}
    got = {requirement(locked(entry)) for entry in package["metadata"]["requires-dist"]}
    assert got == want, "pyproject.toml and uv.lock differ: run `uv lock`"


def test_conda_brings_the_python_and_uv_that_the_lock_needs():
    python = re.search(r"- python=(\S+)", CONDA).group(1)
    assert python == (ROOT / ".python-version").read_text().strip()
    assert SpecifierSet(PROJECT["project"]["requires-python"]).contains(f"{python}.0")
    assert SpecifierSet(LOCK["requires-python"].replace(".*", "")).contains(f"{python}.0")
    uv = re.search(r"- uv(\S+)", CONDA).group(1)
    assert uv == PROJECT["tool"]["uv"]["required-version"]


def test_readme_and_conda_file_name_the_same_line():
    line = re.search(r"#\s+(UV_PROJECT_ENVIRONMENT=.*)", CONDA).group(1)
    assert line in (ROOT / "README.md").read_text()


def test_importing_the_package_loads_nothing_heavy():
    heavy = "tensorflow jax snsynth mbi flwr papermill dask pandas matplotlib numpy".split()
    code = f"import pet_lab, sys; print([m for m in {heavy!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_pylock_holds_what_the_lock_holds():
    """The file for plain pip: `make pylock` writes it from uv.lock."""
    pins = tomllib.loads((ROOT / "pylock.toml").read_text())["packages"]
    locked_versions = {(p["name"], p["version"]) for p in LOCK["package"] if "version" in p}
    ours = {(p["name"], p["version"]) for p in pins if "version" in p}
    assert ours <= locked_versions, "run `make pylock`"
    direct = {requirement(text)[0] for text in PROJECT["project"]["dependencies"]}
    assert direct <= {name for name, _ in ours}, "run `make pylock`"
