"""Rows are checked when written and trusted only by their hash when read."""

import errno
import json
import os

import numpy as np
import pandas as pd
import pytest

from pet_lab import files
from pet_lab.workbench import results, sweep
from pet_lab.workbench.errors import ResultsError

GOOD = [
    {"eps": 1.0, "way": "a", "replicate": r, "metric": m, "value": v}
    for r, m, v in [(0, "acc", 0.5), (0, "tpr", 1), (1, "acc", 0.7), (1, "tpr", 2)]
]
SAY = {"headline": "It holds."}


def changed(**columns):
    return pd.DataFrame(GOOD).assign(**columns)


def test_standard_types():
    frame = results.write(GOOD, "", **SAY)
    assert dict(frame.dtypes.astype(str)) == {
        "eps": "float64",
        "way": "object",
        "replicate": "int64",
        "metric": "object",
        "value": "float64",
    }


def test_nothing_is_written_by_hand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results.write(GOOD, "", **SAY)
    assert not list(tmp_path.iterdir())


def test_written_and_read_back(tmp_path):
    item = {"name": "x", "sha256": "0", "kind": "own", "licence": "none", "citation": ""}
    results.write(
        changed(way=pd.Categorical(["a", "a", "b", "b"])),
        tmp_path,
        headline=" It holds. ",
        privacy=["Epsilon 1."],
        data=[item],
        counts=False,
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.parquet", "summary.json"]
    assert pd.read_parquet(tmp_path / "rows.parquet")["way"].tolist() == ["a", "a", "b", "b"]
    assert results.summary(tmp_path) == {
        "headline": "It holds.",
        "claims": [],
        "privacy": ["Epsilon 1."],
        "simulation": True,
        "counts": False,
        "data": [item],
        "rows": 4,
        "metrics": ["acc", "tpr"],
    }


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "no rows"),
        ([{"metric": "m", "value": 1}], "Rows lack replicate"),
        (changed(run_id=1), "run_id is reserved"),
        (changed(**{"delay s": 1}), "no plain name"),
        (changed(value=["a", 1, 2, 3]), "Column value holds 'a'"),
        (changed(value="1"), "Column value holds '1'"),
        (changed(value=1j), "expected numbers"),
        (changed(replicate=0.5), "whole number"),
        (changed(replicate=np.nan), "whole number"),
        (changed(metric=None), "Column metric"),
        (changed(metric="same", replicate=0), "4 rows share their factors"),
        (changed(way=["a", None, "b", "c"]), "Column way holds None"),
        (changed(way=["a", 1, "b", "c"]), "Column way holds 1"),
        (changed(way=[[1], [2], [3], [4]]), r"Column way holds \[1\]"),
        (changed(when=pd.Timestamp("2024-01-01")), "type datetime64"),
        (changed(reading="imagined"), "holds 'imagined'"),
        (pd.concat([pd.DataFrame(GOOD)] * 2, axis=1), "there twice"),
    ],
)
def test_rows_that_are_not_tidy_are_refused(rows, says):
    with pytest.raises(ResultsError, match=says):
        results.write(rows, "", **SAY)


@pytest.mark.parametrize(
    ("summary", "says"),
    [
        ({"headline": ""}, "one sentence"),
        ({"headline": "a\nb"}, "one sentence"),
        ({"headline": "x.", "privacy": "Epsilon 1."}, "list of sentences"),
        ({"headline": "x.", "data": [{"name": "d"}]}, "lacks sha256, kind"),
        ({"headline": "x.", "data": [{"name": "d", "sha256": "", "kind": "odd"}]}, "of kind 'odd'"),
    ],
)
def test_an_incomplete_summary_is_refused(summary, says):
    with pytest.raises(ResultsError, match=says):
        results.write(GOOD, "", **summary)


def test_readings_and_metrics_tell_rows_apart():
    both = pd.concat([changed(reading="described"), changed(reading="published")])
    assert len(results.write(both, "", **SAY)) == 8


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "No space is left"),
        (errno.EROFS, "cannot be written"),
        (errno.EIO, "Input/output"),
    ],
)
def test_a_full_or_read_only_folder_is_one_sentence_and_leaves_nothing(
    tmp_path, monkeypatch, number, says
):
    def fail(handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(ResultsError, match=says):
        results.write(GOOD, tmp_path, **SAY)
    assert not list(tmp_path.iterdir())


def test_reading_adds_parameters_and_distrusts_a_changed_file(make_workspace):
    ws = make_workspace()
    records = sweep.execute(ws, sweep.plan(ws, "tiny", {}, {"level": [1.0, 2.0]}), jobs=1)
    rows = results.read(ws, "tiny")
    assert set(rows["run_id"]) == {r.run_id for r in records}
    assert rows.loc[rows["run_id"] == records[0].run_id, "value"].tolist() == [10.0, 11.0]
    assert set(rows["sizes"]) == {"[1, 2]"}
    assert results.read(ws, "tiny", [records[1].run_id])["level"].unique().tolist() == [2.0]

    with open(records[0].folder / "rows.parquet", "ab") as stream:
        stream.write(b"x")
    assert set(results.read(ws, "tiny")["run_id"]) == {records[1].run_id}
    (records[1].folder / "run.json").write_text('{"state": "done"')
    assert results.read(ws, "tiny").empty
    why = list(sweep.pending(ws, sweep.plan(ws, "tiny", {}, {"level": [1.0, 2.0]})).values())
    assert why == ["interrupted", "its run.json is damaged"]


def test_a_summary_that_is_missing_is_told(tmp_path):
    with pytest.raises(ResultsError, match="no readable summary"):
        results.summary(tmp_path)
    (tmp_path / "summary.json").write_text(json.dumps({})[:1])
    with pytest.raises(ResultsError, match="no readable summary"):
        results.summary(tmp_path)
