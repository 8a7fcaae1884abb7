"""No module needs what only Unix has: all are imported, and one run is made, without it.

The blocks are in a `sitecustomize`, so that kernels and other children meet them too. Libraries
see the system as it is: only imports from pet_lab are refused. And without the extras each notebook
that needs one says which, in one sentence.
"""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from pet_lab.psi import commands
from pet_lab.workbench import notebooks, runs, sweep
from pet_lab.workbench.workspace import Workspace

sys.path.insert(0, str(Path(__file__).parent / "workbench"))
from tiny_notebooks import build_workspace

BLOCKS = """
import builtins, errno, fcntl, os, types

ordinary = builtins.__import__

def guarded(name, globals=None, *rest, **more):
    if (globals or {}).get("__name__", "").startswith("pet_lab"):
        if name in ("resource", "fcntl", "pwd", "grp", "termios", "pty", "prctl"):
            raise ImportError(f"{name} is not on this system")
        if name == "msvcrt":
            return types.SimpleNamespace(locking=locking, LK_NBLCK=2)
    return ordinary(name, globals, *rest, **more)

def locking(handle, mode, size):
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(errno.EACCES, "locked") from None

builtins.__import__ = guarded
for name in ("fork", "forkpty", "killpg", "setsid", "sched_getaffinity"):
    delattr(os, name)
"""
NO_EXTRAS = f"""
import sys

class Missing:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {[m for brought in runs.EXTRAS.values() for m in brought]}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing)
"""
# All in one process: fourteen kernels that import the same libraries would take minutes.
TO_THE_END = """
import contextlib, io, json, sys
from pet_lab.workbench import notebooks, runs, sweep
from pet_lab.workbench.workspace import Workspace

ws, said = Workspace.find(), {}
for name in sys.argv[1:]:
    (spec, *_) = sweep.plan_profile(ws, name, "smoke")
    code = notebooks.code(notebooks.read(notebooks.path(ws, name)))[1:]
    error = None
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec("\\n".join(code), {**spec.parameters, "out": ""})
    except Exception as e:
        error = {"name": type(e).__name__, "value": str(e)}
    said[name] = runs.of_spec(spec, ws, error=error).problem
print(json.dumps(said))
"""
NEEDS = {  # the notebooks that stop in a core without extras
    "attacks": (
        *("primers/adversarial_examples", "primers/anonymisation_game"),
        *("primers/fairness_and_fallacies", "primers/private_data_science"),
    ),
    "fl": ("private_ml/federated_learning",),
    "he": ("primers/choosing", "primers/ckks", "primers/encrypted_trees"),
    "link": ("psi/linkage_simulation",),
    "mpc": ("primers/secret_sharing", "shared_computation/service"),
    "synth": ("primers/dp_mechanisms",),
    "tf": ("private_ml/membership_sweep",),
}
MODULES = """
import importlib, pkgutil, pet_lab
names = [m.name for m in pkgutil.walk_packages(pet_lab.__path__, "pet_lab.")]
names = [n for n in names if not n.endswith("__main__")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


@pytest.fixture
def elsewhere(tmp_path):
    """Runs `python ...` where nothing of Unix is left; returns what it prints."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BLOCKS)

    def python(*arguments, **environment):
        path = os.pathsep.join([str(tmp_path / "site"), str(Path(__file__).parents[1])])
        env = os.environ | {"PYTHONPATH": path} | environment
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return python


@pytest.mark.slow
def test_every_module_can_be_imported(elsewhere):
    assert int(elsewhere("-c", MODULES)) > 150


@pytest.mark.slow
def test_a_run_is_made_and_found_again(elsewhere, tmp_path):
    ws = build_workspace(tmp_path)()
    command = ("-m", "pet_lab.cli", "run", "tiny")
    assert elsewhere(*command, PET_LAB_HOME=str(ws.root)).startswith("done: ")
    assert elsewhere(*command, PET_LAB_HOME=str(ws.root)).startswith("done before: ")
    (record,) = ws.runs.rglob("run.json")
    assert json.loads(record.read_text())["state"] == "done"


def test_two_processes_do_not_hold_one_lock(elsewhere, tmp_path):
    code = (
        "import pathlib, sys; from pet_lab.workbench import locks\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "with locks.lock(path):\n    print(locks.is_locked(path))\nprint(locks.is_locked(path))"
    )
    assert elsewhere("-c", code, str(tmp_path / "lock")).split() == ["True", "False"]


@pytest.mark.parametrize(("platform", "reported"), [("linux", 5 << 10), ("darwin", 5 << 20)])
def test_memory_is_in_mib_whatever_the_system_counts_in(monkeypatch, platform, reported):
    used = types.SimpleNamespace(ru_maxrss=reported)
    fake = types.SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda _: used)
    monkeypatch.setitem(sys.modules, "resource", fake)
    monkeypatch.setattr(commands.sys, "platform", platform)
    assert commands.peak_mib() == 5


def test_memory_on_windows_is_what_psutil_knows(monkeypatch):
    psutil = pytest.importorskip("psutil")
    monkeypatch.setitem(sys.modules, "resource", None)
    memory = types.SimpleNamespace(peak_wset=7 << 20)
    monkeypatch.setattr(psutil.Process, "memory_info", lambda self: memory)
    assert commands.peak_mib() == 7


@pytest.mark.slow
def test_without_extras_a_notebook_names_the_one_it_needs(tmp_path, monkeypatch):
    source = Workspace.find(__file__)
    for folder in ("notebooks", "data"):
        (tmp_path / folder).symlink_to(source.root / folder)
    (tmp_path / "pyproject.toml").write_bytes((source.root / "pyproject.toml").read_bytes())
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NO_EXTRAS)
    # A fork server that an earlier test started knows the extras.
    monkeypatch.setenv("PET_LAB_NO_FORK", "1")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv("PET_LAB_HOME", str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("PET_LAB_BATCH", "1")
    monkeypatch.setenv("PET_LAB_OFFLINE", "1")
    monkeypatch.setenv("PET_LAB_CACHE", str(tmp_path / "cache"))
    ws = Workspace(tmp_path)
    needs = {name: extra for extra, names in NEEDS.items() for name in names}
    assert set(needs) < set(notebooks.find(ws))
    done = subprocess.run(
        [sys.executable, "-c", TO_THE_END, *needs], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    problems = json.loads(done.stdout.splitlines()[-1])
    (record,) = sweep.execute(ws, sweep.plan_profile(ws, "psi/linkage_simulation", "smoke"))
    assert record.problem.startswith(problems["psi/linkage_simulation"].partition(";")[0])
    for name, said in [*problems.items(), (record.notebook, record.problem)]:
        assert said.startswith("ModuleNotFoundError: No module named '"), (name, said)
        assert said.endswith(f"; install it with the extra {needs[name]}, as the README says"), said
        assert len(said) < 150
