"""Full runs go into what git keeps: cells, summaries of rows, the README's marks."""

import dataclasses
import shutil
import subprocess

import demo
import numpy as np
import pandas as pd
import pytest

from pet_lab import cli, files
from pet_lab.workbench import evidence, runs, scorecard
from pet_lab.workbench.workspace import Workspace

MARKS = "Before.\n\n" + "".join(
    f"<!-- {mark} -->\nold\n<!-- /{mark} -->\n\nbetween\n" for mark in ("tally", "runs", "shelf")
)
TABLE = """
id = "{id}"
title = "t"
source = "s"
place = "p"
licence = "l"
notebook = "{notebook}"
keys = ["k"]
metrics.m = {{ unit = "u", kind = "mean", repetitions = 9, margin = 0.1 }}
cells = [{{ k = 1, m = "0.50" }}, {{ k = 2, m = "0.50" }}]
"""


@pytest.fixture
def ws(tmp_path, monkeypatch):
    """Two notebooks with two printed cells each, the table of `b` printed between those of `c`."""
    ws = Workspace(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "pet-lab"\n')
    (tmp_path / "README.md").write_text(MARKS)
    papers = tmp_path / "pet_lab" / "published" / "paper"
    papers.mkdir(parents=True)
    for id, notebook in (("1", "a/c"), ("2", "a/b"), ("3", "a/c")):
        (papers / f"{id}.toml").write_text(TABLE.format(id=id, notebook=notebook))
        demo.save(ws.notebooks / f"{notebook}.ipynb", demo.notebook())
    (ws.notebooks / "a" / "sweep.toml").write_text("[b.full.grid]\nerror_rate = [0.3, 0.4]\n")
    monkeypatch.setenv("PET_LAB_HOME", str(tmp_path))
    return ws


def finish(ws, name, value, error_rate=None, **changed):
    """Leave a full run with four replicates of both cells near `value`."""
    rows = pd.DataFrame(
        {"k": k, "replicate": r, "seed": hash(error_rate), "metric": "m", "value": value + r / 1e4}
        for k in (1, 2)
        for r in range(4)
    )
    settings = {"error_rate": error_rate} if error_rate else {}
    record = demo.add_run(ws, name, demo.notebook(), rows, parameters=settings, profile="full")
    record = dataclasses.replace(record, **changed)
    files.write_json(record.folder / runs.RECORD, record.to_json())


def write(*words):
    with pytest.raises(SystemExit) as end:
        cli.main(["scorecard", "--write", *words])
    return end.value.code or 0


def kept(ws):
    """The content of every file that git would keep."""
    paths = [*ws.reports.rglob("*.csv"), ws.root / "README.md"]
    return {ws.shown(path): path.read_text() for path in sorted(paths)}


def test_full_runs_of_one_notebook_replace_its_own_cells_alone(ws, capsys):
    finish(ws, "a/c", 0.9)
    for rate in (0.3, 0.4):
        finish(ws, "a/b", 0.5, rate)
    assert write() == 0
    before = scorecard.read(ws.reports / "scorecard.csv")
    assert (
        before["verdict"].tolist()
        == ["differs", "not run"] * 2
        + ["reproduced", "not run"] * 2
        + [
            "differs",
            "not run",
        ]
        * 2
    )
    # In another clone: the scorecard that was committed, the rows of one notebook alone.
    shutil.rmtree(ws.runs / "a" / "c")
    for rate in (0.3, 0.4):
        finish(ws, "a/b", 0.9, rate, git={"commit": "1e34567890", "dirty": rate == 0.4})
    assert write("b") == 0
    after = scorecard.read(ws.reports / "scorecard.csv")
    assert after.columns.tolist() == list(scorecard.COLUMNS)
    own = before["notebook"] == "a/b"
    pd.testing.assert_frame_equal(after[~own], before[~own])
    keys = ["table", "where", "metric", "as"]
    pd.testing.assert_frame_equal(after[keys], before[keys])
    assert (after.loc[own, "verdict"] == ["differs", "not run"] * 2).all()
    lines = pd.read_csv(ws.reports / "rows" / "runs.csv", index_col="notebook", dtype=str)
    assert lines.loc["a/b", ["commit", "tree", "cpu_s"]].tolist() == ["1e34567", "changed", "122"]
    assert lines.loc["a/c", ["commit", "tree", "cpu_s"]].tolist() == ["0123456", "clean", "61"]
    rows = pd.read_csv(ws.reports / "rows" / "a-b.csv")
    assert rows["error_rate"].tolist() == [0.3, 0.3, 0.4, 0.4]
    assert rows["mean"].tolist() == pytest.approx([0.90015] * 4)
    readme = (ws.root / "README.md").read_text()
    assert "old" not in readme
    assert readme.count("between") == 3
    assert max(map(len, readme.splitlines())) <= evidence.WIDTH
    words = " ".join(readme.split())
    assert "<!-- tally --> Of 6 printed cells, 6 differ. <!-- /tally -->" in words
    assert (
        "at 1e34567, 0123456: 3 minutes of CPU; the tree had uncommitted changes for a/b." in words
    )
    assert "kept: a/b, run at 1e34567, changed tree\n" in capsys.readouterr().err


def test_keeping_again_changes_nothing_and_a_readme_without_marks_is_left_alone(ws):
    finish(ws, "a/c", 0.9)
    unmarked = b"No marks.\r\n<!-- tally -->\n"
    (ws.root / "README.md").write_bytes(unmarked)
    assert write("c") == 0
    assert (ws.root / "README.md").read_bytes() == unmarked
    (ws.root / "README.md").write_text(MARKS)
    assert write("c") == 0
    first = kept(ws)
    assert write("c") == 0
    assert write() == 0
    assert kept(ws) == first


def test_what_has_no_full_run_that_counts_stays_as_it_was(ws, capsys):
    for rate in (0.3, 0.4):
        finish(ws, "a/b", 0.5, rate)
    finish(ws, "a/c", 0.5)
    write()
    first = kept(ws)
    shutil.rmtree(next((ws.runs / "a" / "b").iterdir()))
    (ws.runs / "a" / "c").rename(ws.root / "gone")
    capsys.readouterr()
    assert write("b", "c") == 1
    err = capsys.readouterr().err
    assert "a/b stays as it was kept: 1 of its 2 full runs are missing." in err
    assert "a/c stays as it was kept: no finished run." in err
    assert write("--profile", "quick") == 2
    assert kept(ws) == first


def test_a_run_whose_sources_have_changed_since_is_one_of_its_commit(ws, capsys):
    finish(ws, "a/c", 0.5)
    source = ws.notebooks / "a" / "c.ipynb"
    source.write_text(source.read_text().replace("recall", "precision"))
    assert write("c") == 0
    err = capsys.readouterr().err
    assert "kept: a/c, run at 0123456, clean tree; since then the notebook's code changed\n" in err
    assert "reproduced" in (ws.reports / "scorecard.csv").read_text()


def test_reports_and_readme_do_not_make_a_tree_dirty(ws):
    def git(*words):
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", "-C", str(ws.root), *who, *words], check=True, capture_output=True)

    git("init")
    finish(ws, "a/c", 0.5)
    write()
    git("add", "-f", ".")
    git("commit", "-m", "x")
    assert runs.git_state(ws.root)["dirty"] is False
    for name in ("README.md", "reports/scorecard.csv"):
        (ws.root / name).write_text("other")
    assert runs.git_state(ws.root)["dirty"] is False
    (ws.notebooks / "a" / "sweep.toml").write_text("")
    assert runs.git_state(ws.root)["dirty"] is True


def test_the_committed_scorecard_survives_reading_and_writing(tmp_path):
    path = Workspace.find(__file__).reports / "scorecard.csv"
    card = scorecard.read(path)
    scorecard.write(scorecard.merged(card, card, {"psi/typos"}), tmp_path / "same.csv")
    assert (tmp_path / "same.csv").read_bytes() == path.read_bytes()
    other = card.assign(ours=np.nan)
    mine = scorecard.merged(other, card, {"psi/typos"})["ours"].isna()
    typos = (card["notebook"] == "psi/typos") | card["ours"].isna()
    assert (mine == typos).all()
