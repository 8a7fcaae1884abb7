"""docs/own-data.md: every walk-through followed to the letter, in a folder of its own."""

import html
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "own-data.md").read_text()
FENCE = re.compile(r"```(\w+)(?: (\w+))?\n(.*?)```", re.DOTALL)
NAMED = re.compile(r"`([\w./]+)`:\n\n```\w+\n(.*?)```", re.DOTALL)
SECTIONS = dict(re.findall(r"^## (\d)\. (?:.*?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project, in which runs and reports may be written."""
    root = tmp_path_factory.mktemp("project")
    for folder in ("pet_lab", "notebooks", "data"):
        shutil.copytree(ROOT / folder, root / folder)
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


@pytest.fixture
def environment(project):
    """What the commands run with: the copy, a cache of its own, no network."""
    own = {"PYTHONPATH": project, "PET_LAB_HOME": project, "PET_LAB_CACHE": project / "cache"}
    own |= {"PET_LAB_OFFLINE": "1", "COLUMNS": "200"}
    return os.environ | {name: str(value) for name, value in own.items()}


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def write_files(section: str, folder: Path) -> None:
    for name, text in NAMED.findall(section):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def commands(text: str) -> list[list[str]]:
    """The lines of a shell box, each a command of pet-lab."""
    lines = [shlex.split(line) for line in text.splitlines() if line.strip()]
    assert all(words[0] == "pet-lab" for words in lines)
    return [[sys.executable, "-m", "pet_lab.cli", *words[1:]] for words in lines]


def follow(section: str, folder: Path, environment: dict[str, str]) -> str:
    """Do what a walk-through says; all that was printed, and the text of all reports."""
    write_files(section, folder)
    output, waiting = [], []
    for kind, place, text in FENCE.findall(section):
        if kind == "python":
            how = {"cwd": folder, "env": environment, "timeout": 120}
            run = [sys.executable, "-c", text]
            output.append(
                subprocess.run(run, check=True, capture_output=True, text=True, **how).stdout
            )
        if kind != "sh":
            continue
        for command in commands(text):
            where = folder / place
            where.mkdir(exist_ok=True)
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            process = subprocess.Popen(command, cwd=where, env=environment, **pipes)
            if place:  # a shell of its own: the next command may need it
                waiting.append(process)
                if "--listen" in command:
                    output.append(process.stdout.readline())
            else:
                output.append(process.communicate(timeout=900)[0])
                assert process.returncode == 0, output[-1]
    *served, last = waiting or [None]
    if last:
        output.append(last.communicate(timeout=120)[0])
        assert last.returncode == 0, output[-1]
        for process in reversed(served):  # who runs until it is stopped comes first in the text
            if process is served[0]:
                process.terminate()
            output.append(process.communicate(timeout=120)[0])
    pages = Path(environment["PET_LAB_HOME"]).glob("reports/*.html")
    output += [html.unescape(re.sub(r"<[^>]+>", " ", page.read_text())) for page in pages]
    return re.sub(r"\s+", " ", "\n".join(output))


@pytest.mark.slow
@pytest.mark.parametrize("number", SECTIONS)
def test_the_page_works_as_written(number, tmp_path, environment):
    section = SECTIONS[number]
    for port in ("9101", "9102"):  # of a machine that runs tests side by side
        section = section.replace(port, free_port())
    printed = follow(section, tmp_path, environment)
    promised = [t for kind, _, t in FENCE.findall(SECTIONS[number]) if kind == "text"]
    assert promised, "a walk-through says what comes out"
    for line in "\n".join(promised).splitlines():
        assert line in printed, printed[-3000:]


def test_every_file_of_the_page_is_read_without_a_doubt(tmp_path):
    from pet_lab.data import read_table

    for number, section in SECTIONS.items():
        write_files(section, tmp_path / number)
    files = list(tmp_path.rglob("*.csv"))
    assert len(files) >= 4
    for file in files:
        assert len(read_table(file).frame) > 0
