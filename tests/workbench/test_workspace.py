"""Where things are, and that nothing is created by looking."""

import asyncio
import subprocess
from pathlib import Path

import nbformat
import pytest
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager

from pet_lab.workbench import health, runs, workspace
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


@pytest.mark.slow
def test_saving_a_notebook_that_ran_leaves_git_clean(tmp_path):
    """As JupyterLab's server writes it, with outputs, counts and what the kernel said of itself."""
    pytest.importorskip("nbstripout")
    (tmp_path / "notebooks" / "psi").mkdir(parents=True)
    for file in (".gitattributes", ".gitignore", "notebooks/psi/typos.ipynb"):
        (tmp_path / file).write_bytes((CHECKOUT / file).read_bytes())
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "pet-lab"\n')

    def git(*words):
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(tmp_path)]
        done = subprocess.run([*command, *words], check=True, capture_output=True, text=True)
        return done.stdout

    git("init", "-q")
    workspace.keep_outputs_out_of_git(Workspace(tmp_path))
    git("add", "-A")
    git("commit", "-qm", "as in the repository")
    committed = git("show", "HEAD:notebooks/psi/typos.ipynb")
    assert committed == (CHECKOUT / "notebooks" / "psi" / "typos.ipynb").read_text()

    path = tmp_path / "notebooks" / "psi" / "typos.ipynb"
    book = nbformat.read(path, nbformat.NO_CONVERT)
    for count, cell in enumerate(c for c in book.cells if c.cell_type == "code"):
        cell.execution_count = count + 1
        cell.outputs = [nbformat.v4.new_output("stream", text="a record")]
    book.metadata.language_info = {
        "codemirror_mode": {"name": "ipython", "version": 3},
        **{"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
        **{"nbconvert_exporter": "python", "pygments_lexer": "ipython3", "version": "3.11.7"},
    }
    book.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    book.metadata.kernelspec.display_name = "Python 3 (ipykernel)"  # as JupyterLab writes it
    manager = AsyncLargeFileManager(root_dir=str(tmp_path))
    manager.post_save_hook = "pet_lab.workbench.workspace.after_save"

    def save(name):
        model = {"type": "notebook", "format": "json", "content": book}
        asyncio.run(manager.save(model, f"notebooks/psi/{name}.ipynb"))

    save("typos")
    assert "a record" in path.read_text()
    assert git("status", "--porcelain") == ""
    save("of_my_own")
    assert git("status", "--porcelain") == "?? notebooks/psi/of_my_own.ipynb\n"
    (tmp_path / "notebooks" / "psi" / "of_my_own.ipynb").unlink()

    book.cells[-1].source += "\n# an edit"
    save("typos")
    assert git("status", "--porcelain") == " M notebooks/psi/typos.ipynb\n"
    assert "a record" not in git("diff")


def test_init_makes_a_workspace_that_is_found_and_refuses_to_fill_another(tmp_path, monkeypatch):
    monkeypatch.delenv("PET_LAB_HOME", raising=False)
    ws = workspace.init(tmp_path / "mine", version="1")
    assert (ws.notebooks / "psi" / "typos.ipynb").is_file()
    assert (ws.data / "student_mat_stand_in.csv").is_file()
    assert Workspace.find(ws.notebooks / "psi") == ws
    with pytest.raises(WorkspaceError, match="notebooks/ already"):
        workspace.init(tmp_path / "mine", version="1")


def test_notebooks_in_git_are_as_a_front_end_writes_them():
    """Or the first save would be a change of its own."""
    odd = []
    for path in (CHECKOUT / "notebooks").rglob("*.ipynb"):
        text = path.read_text(encoding="utf-8")
        book = nbformat.reads(text, nbformat.NO_CONVERT)
        same = nbformat.writes(book, nbformat.NO_CONVERT) + "\n" == text
        kernel = book.metadata.kernelspec.display_name == "Python 3 (ipykernel)"
        if not (same and kernel and book.metadata.language_info == {"name": "python"}):
            odd.append(path.name)
    assert odd == []
