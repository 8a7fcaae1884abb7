"""docs/first-notebook.md, followed to the letter in a copy of the project."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "first-notebook.md").read_text()
FENCE = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
NAMED = re.compile(r"`([\w./]+)`[^`\n]*:\n\n```\w+\n(.*?)```", re.DOTALL)


@pytest.fixture
def project(tmp_path):
    for folder in ("pet_lab", "notebooks", "data"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def follow(project: Path) -> list[list[str]]:
    """Write every file of the page; returns its commands."""
    files = dict(NAMED.findall(PAGE))
    section = PAGE.split("## 3.")[1].split("## 4.")
    cells = FENCE.findall(section[0])
    files["notebooks/primers/sweep.toml"] = FENCE.search(section[1])[2]
    for name, text in files.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    notebook = nbformat.v4.new_notebook(
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        }
    )
    for kind, text in cells:
        make = nbformat.v4.new_code_cell if kind == "python" else nbformat.v4.new_markdown_cell
        notebook.cells.append(make(text.rstrip()))
    notebook.cells[1].metadata["tags"] = ["parameters"]
    nbformat.write(notebook, project / "notebooks" / "primers" / "randomised_response.ipynb")
    shell = "\n".join(text for kind, text in FENCE.findall(PAGE) if kind == "sh")
    return [line.split() for line in shell.splitlines() if line]


@pytest.mark.slow
def test_the_page_works_as_written(project, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(project))
    monkeypatch.setenv("PET_LAB_CACHE", str(project / "cache"))
    commands = follow(project)
    assert len(commands) == 4
    modules = {"pet-lab": ["-m", "pet_lab.cli"], "papermill": ["-m", "papermill"]}
    for program, *arguments in commands:
        done = subprocess.run(
            [sys.executable, *modules[program], *arguments],
            cwd=project,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    page = (project / "reports" / "index.html").read_text()
    assert "Randomised response" in page
    scores = [pd.read_parquet(p) for p in project.glob("papermill_runs/primers/*/*/rows.parquet")]
    assert len(scores) == 2
    assert (project / "out.ipynb").is_file()
    assert "differs" in (project / "out.ipynb").read_text(), "500 people are not 1000"
    report = (project / "reports" / "primers-randomised_response.html").read_text()
    assert "reproduced" in report


def test_its_study_and_notebook_keep_the_house_rules(project):
    follow(project)
    notebook = nbformat.read(project / "notebooks/primers/randomised_response.ipynb", as_version=4)
    lines = [c.source.count("\n") + 1 for c in notebook.cells if c.cell_type == "code"]
    assert sum(lines) <= 150
    assert max(lines) <= 25
