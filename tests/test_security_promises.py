"""Every promise of SECURITY.md and docs/threat-model.md names a test, and the tests exist."""

import ast
import os
import re
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pet_lab import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("SECURITY.md", "docs/threat-model.md")
NAME = re.compile(r"\btests/[\w/.-]+::\w+")


def functions(file: Path) -> set[str]:
    """Names of the test functions of a file that pytest would collect."""
    return {
        node.name
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def missing(text: str) -> list[str]:
    """Tests that a text names and that are not there."""
    files = {name.partition("::")[0] for name in NAME.findall(text)}
    known = {f: functions(ROOT / f) if (ROOT / f).is_file() else set() for f in files}
    return [
        name
        for name in NAME.findall(text)
        if name.partition("::")[2] not in known[name.partition("::")[0]]
    ]


def unproven(text: str) -> list[str]:
    """First cells of table rows that name no test."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [row.split("|")[1].strip() for row in rows[2:] if not NAME.search(row)]


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_a_page_names_exists(page):
    text = (ROOT / page).read_text()
    assert NAME.search(text)
    assert missing(text) == []
    # A name that is written another way would not be looked up.
    assert len(NAME.findall(text)) == text.count("::test_")


def test_every_promise_names_a_test():
    text = (ROOT / "SECURITY.md").read_text()
    assert text.count("\n|") > 5
    assert unproven(text) == []


def test_where_the_threat_model_has_no_test_it_says_none():
    """Rows of tables with a column `test`: a test, or the word."""
    columns, at = [], None
    for line in (ROOT / "docs" / "threat-model.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            at = None
        elif at is None:
            at = cells.index("test") if "test" in cells else -1
        elif at >= 0 and not set(line) <= set("|- "):
            columns.append(cells[at])
    assert len(columns) > 50
    assert [c for c in columns if not (NAME.search(c) or c.startswith("none"))] == []


def test_a_false_name_and_an_empty_promise_are_noticed():
    here = "tests/test_security_promises.py"
    real = f"`{here}::test_every_promise_names_a_test`"
    false = [f"{here}::test_of_nothing", f"{here}::missing", "tests/test_no_file.py::test_x"]
    assert missing(real) == []
    assert missing(real + " ".join(false)) == false
    table = f"| part | shown by |\n|---|---|\n| a | {real} |\n| b | surely |\n"
    assert unproven(table) == ["b"]


def test_jupyterlab_listens_on_the_loopback_address_and_keeps_its_token(monkeypatch):
    commands = []

    def run(command, **_):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(os, "geteuid", lambda: 1000, raising=False)
    monkeypatch.setattr(os, "execve", lambda _, command, __: commands.append(command))
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(os, "name", "posix")
    assert CliRunner().invoke(cli.app, ["lab", "--no-browser"]).exit_code == 0
    command = next(c for c in commands if "jupyterlab" in c)
    assert "--ServerApp.ip=127.0.0.1" in command
    assert not [word for word in command if re.search(r"(?i)token|password|allow_", word)]
