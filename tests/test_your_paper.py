"""docs/your-paper.md, followed to the letter in a folder outside of the repository."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from pet_lab.workbench import published, scorecard
from pet_lab.workbench.workspace import Workspace

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "your-paper.md").read_text()
FENCE = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


@pytest.fixture
def folder(tmp_path):
    """The page's files in a folder of the name that it uses."""
    root = tmp_path / "mypaper"
    name, toml = re.search(r"`(published/[\w./]+)`:\n\n```toml\n(.*?)```", PAGE, re.DOTALL).groups()
    notebook = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    )
    for kind, text in FENCE.findall(PAGE):
        if kind in ("markdown", "python"):
            make = nbformat.v4.new_code_cell if kind == "python" else nbformat.v4.new_markdown_cell
            notebook.cells.append(make(text.rstrip()))
    notebook.cells[1].metadata["tags"] = ["parameters"]
    for path in (root / name, root / "notebooks" / "mine" / "gaussian.ipynb"):
        path.parent.mkdir(parents=True)
    (root / name).write_text(toml)
    nbformat.write(notebook, root / "notebooks" / "mine" / "gaussian.ipynb")
    return root


def run(line: str, cwd: Path) -> subprocess.CompletedProcess:
    program, *arguments = line.split()
    assert program == "pet-lab"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PET_LAB_")}
    return subprocess.run(
        [sys.executable, "-m", "pet_lab.cli", *arguments],
        cwd=cwd,
        env=environment | {"PET_LAB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_the_page_works_as_written(folder):
    commands = [c for kind, text in FENCE.findall(PAGE) if kind == "sh" for c in text.splitlines()]
    assert len(commands) == 2
    for command in commands:
        done = run(command, folder.parent)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "Of 2 printed cells, 1 is reproduced, 1 differs." in done.stdout
    page = (folder / "reports" / "scorecard.html").read_text()
    assert "Dwork and Roth 2014" in page
    assert "better than it says" in page
    assert "UNECE" not in page, "a stranger's scorecard holds the stranger's numbers"
    assert (folder / "reports" / "mine-gaussian.html").is_file()
    assert list(folder.glob("papermill_runs/mine/gaussian/*/rows.parquet"))


def test_a_folder_without_notebooks_is_refused_in_a_sentence(tmp_path):
    done = run("pet-lab --workspace . list", tmp_path)
    assert done.returncode == 2
    assert "no folder notebooks/ in it" in done.stderr
    assert "Traceback" not in done.stderr


def test_own_tables_stand_beside_the_shipped_ones_and_a_scorecard_holds_the_own(
    folder, monkeypatch
):
    ws = Workspace(folder)
    assert ws.published == folder / "published"
    assert [t.id for t in published.load(ws)] == ["textbook-gaussian"]
    monkeypatch.delenv("PET_LAB_HOME", raising=False)
    shipped = {t.id for t in published.load()}
    assert "textbook-gaussian" not in shipped
    monkeypatch.setenv("PET_LAB_HOME", str(folder))
    assert {t.id for t in published.load()} == shipped | {"textbook-gaussian"}
    assert published.named("textbook-gaussian")[0].publication == "textbook_2014"


def test_an_id_of_the_shipped_ones_is_refused(folder, monkeypatch):
    file = folder / "published" / "textbook_2014" / "gaussian.toml"
    file.write_text(file.read_text().replace("textbook-gaussian", "abadi-2016"))
    monkeypatch.setenv("PET_LAB_HOME", str(folder))
    with pytest.raises(published.PublishedError, match=r"abadi-2016.*already in another file"):
        published.load()


def test_the_scorecard_is_grouped_by_publication():
    tables = published.load()
    scored = scorecard.score(
        scorecard.read(Path(__file__).parents[1] / "reports/scorecard.csv")[:0]
    )
    parts = scorecard.by_publication(scored, tables)
    assert sum(map(len, parts.values())) == len(scored)
    assert {
        "UNECE IPP final report",
        "Primers",
        "Opacus (PyTorch), examples and documentation",
    } <= set(parts)
    tests = parts["tensorflow-privacy, tutorials and analysis scripts"]["table"].unique()
    assert list(tests) == ["tensorflow-privacy-tests", "tensorflow-privacy-tutorials"]
