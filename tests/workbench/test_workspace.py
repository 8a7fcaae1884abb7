"""Where things are, and that nothing is created by looking."""

from pathlib import Path

import pytest

from pet_lab.workbench import health, runs
from pet_lab.workbench.errors import WorkspaceError
from pet_lab.workbench.workspace import Workspace

CHECKOUT = Path(__file__).resolve().parents[2]


def test_folders_hang_below_the_root(make_workspace):
    ws = make_workspace()
    assert ws.notebooks == ws.root / "notebooks"
    assert ws.runs == ws.root / "papermill_runs"
    assert ws.reports == ws.root / "reports"
    assert ws.data == ws.root / "data"
    assert not ws.runs.exists()


def test_found_upwards_from_a_folder_inside(make_workspace, monkeypatch):
    monkeypatch.delenv("PET_LAB_HOME", raising=False)
    ws = make_workspace()
    assert Workspace.find(ws.notebooks / "group") == ws


def test_the_variable_wins(make_workspace, monkeypatch, tmp_path):
    ws = make_workspace()
    monkeypatch.setenv("PET_LAB_HOME", str(ws.root))
    assert Workspace.find(tmp_path) == ws


def test_elsewhere_it_is_the_checkout_of_the_package(monkeypatch, tmp_path):
    monkeypatch.delenv("PET_LAB_HOME", raising=False)
    assert Workspace.find(tmp_path).root == CHECKOUT


def test_a_wrong_variable_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PET_LAB_HOME", str(tmp_path))
    with pytest.raises(WorkspaceError, match=r"PET_LAB_HOME .* no folder notebooks/"):
        Workspace.find()


def test_a_project_of_another_name_is_none(tmp_path, monkeypatch, make_workspace):
    monkeypatch.delenv("PET_LAB_HOME", raising=False)
    ws = make_workspace()
    inner = ws.root / "notebooks" / "other"
    (inner / "notebooks").mkdir(parents=True)
    (inner / "pyproject.toml").write_text('[project]\nname = "something"\n')
    assert Workspace.find(inner) == ws


def test_published_numbers_of_the_package_serve_a_bare_workspace(make_workspace):
    ws = make_workspace()
    assert ws.published == CHECKOUT / "pet_lab" / "published"
    own = ws.root / "pet_lab" / "published"
    own.mkdir(parents=True)
    assert ws.published == own


@pytest.mark.parametrize("content", [b"[[package]\n", b"\xff\xfe"])
def test_a_damaged_lock_is_a_finding_and_no_crash(make_workspace, content):
    ws = make_workspace()
    (ws.root / "uv.lock").write_bytes(content)
    (packages,) = [c for c in health.check(ws) if c.what == "packages"]
    assert (packages.ok, packages.state) == (False, "uv.lock is damaged")
    assert runs.lock_hash(ws)
