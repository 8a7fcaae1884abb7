"""Verdicts: by their definition, with their promised error rate, and in every form they take."""

import json
import math
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import demo
import msgspec
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from scipy import stats

from pet_lab.cli import shared
from pet_lab.workbench import published, runs, scorecard
from pet_lab.workbench.consistency import Contradiction
from pet_lab.workbench.published import Cell, Note, PrintedTable, PublishedError
from pet_lab.workbench.scorecard import headline, score, tally, to_json
from pet_lab.workbench.workspace import Workspace

LINES = sum(len(t.cells) * len(t.readings) for t in published.load())  # of the whole scorecard


def cell(printed="0.50", kind="mean", margin=0.1, metric="m", where=None, **more):
    return Cell(
        table="t",
        where=where or {"k": 1},
        metric=metric,
        printed=printed,
        unit="u",
        margin=margin,
        kind=kind,
        **more,
    )


def table(*cells, **more):
    known = {"id": "t", "title": "", "source": "s", "place": "", "licence": "", "notebook": "a/b"}
    return PrintedTable(**known | {"keys": (), "cells": cells} | more)


def rows(values, metric="m", k=1, **more):
    return pd.DataFrame(
        {"k": k, "replicate": range(len(values)), "metric": metric, "value": values, **more}
    )


def one(frame, printed_cell, reading="described", **more):
    df = score(frame, table(printed_cell, **more), contradictions=())
    return df[df["as"] == reading].iloc[0]


# ------------------------------------------------------------------ which rows


def test_rows_are_matched_by_type_and_value():
    where = {"epsilon": 1000000, "lr": 0.1, "mechanism": "dp", "flag": True, "bound": math.inf}
    at = cell("1.0", "exact", 0, where=where)
    good = {"epsilon": 1e6, "lr": 0.1, "mechanism": "dp", "flag": True, "bound": np.inf}
    others = [
        {"epsilon": 1e5},
        {"lr": 0.01},
        {"mechanism": "mst"},
        {"flag": False},
        {"bound": np.nan},
    ]
    frame = pd.DataFrame(
        [good | {"value": 1.0}] + [good | o | {"value": 9.0} for o in others]
    ).assign(metric="m", replicate=0)
    got = one(frame, at)
    assert (got["ours"], got["replicates"]) == (1.0, 1)


def test_an_attack_is_matched_by_its_slice():
    at = cell("0.50", "exact", 0, match={"slice": "CLASS=0"})
    frame = pd.concat([rows([0.5], slice="CLASS=0"), rows([0.9], slice="CLASS=1")])
    assert one(frame, at)["ours"] == 0.5
    assert one(rows([0.5]), at)["verdict"] == "not run"
    assert at.conditions == {"k": 1, "slice": "CLASS=0"}
    assert one(frame, at)["where"] == {"k": 1}


def test_rows_may_be_reserved_for_one_table():
    frame = pd.concat([rows([0.5], table="t"), rows([0.9], table="u"), rows([0.7], k=2, table="")])
    assert one(frame, cell())["ours"] == 0.5
    assert one(frame, cell(where={"k": 2}))["ours"] == 0.7


def test_readings_are_kept_apart_and_absent_means_described():
    frame = pd.concat([rows([0.5] * 3), rows([0.9] * 3, reading="published")])
    assert one(frame, cell())["ours"] == 0.5
    assert one(frame, cell(), "published")["ours"] == 0.9
    only = one(rows([0.5] * 3), cell(), "published")
    assert only["verdict"] == "not run"
    assert "do not cover the reading 'published'" in only["note"]


def test_rows_that_mix_settings_are_not_averaged():
    frame = pd.concat([rows([0.1, 0.2], batch=32), rows([0.5, 0.6], batch=64)])
    got = one(frame, cell())
    assert (got["verdict"], got["replicates"]) == ("undecided", 0)
    assert "mix several values of batch" in got["note"]


def test_the_same_replicate_written_by_several_runs_counts_once():
    frame = pd.concat([rows([0.1, 0.2], seed=1, run_id="a"), rows([0.1, 0.2], seed=1, run_id="b")])
    assert one(frame, cell())["replicates"] == 2
    seeds = pd.concat([rows([0.1, 0.2], seed=1), rows([0.3, 0.4], seed=2)])
    assert one(seeds, cell())["replicates"] == 4


def test_the_average_and_its_error():
    values = [0.4, 0.5, 0.7]
    got = one(rows(values), cell())
    assert got["ours"] == pytest.approx(np.mean(values))
    assert got["sd"] == pytest.approx(np.std(values, ddof=1))
    assert got["se"] == pytest.approx(stats.sem(values))


def test_every_cell_and_reading_is_listed_with_a_reason():
    both = table(cell(), cell(where={"k": 2}))
    none = score(pd.DataFrame(), both, contradictions=())
    assert list(none["as"]) == ["described", "published"] * 2
    assert set(none["verdict"]) == {"not run"}
    assert set(none["note"]) == {"no run yet"}
    explained = score(pd.DataFrame(), both, contradictions=(), not_run="stand-in data")
    assert set(explained["note"]) == {"stand-in data"}
    some = score(rows([0.5] * 3), both, contradictions=())
    assert some[some["where"] == {"k": 2}]["note"].iloc[0].startswith("no row has this metric")


def test_a_difference_carries_its_cause_or_is_open():
    note = Note(cause="their batch is of one", where={"k": 1}, reading="described")
    frame = pd.concat([rows([9.0] * 3), rows([9.0] * 3, reading="published")])
    assert one(frame, cell(), notes=(note,))["note"] == "their batch is of one"
    assert one(frame, cell(), "published", notes=(note,))["note"] == "cause not known"
    fine = one(rows([0.5] * 3), cell(), notes=(note,))
    assert (fine["verdict"], fine["note"]) == ("reproduced", "")


def test_contradictions_are_computed_and_stand_beside_the_verdict():
    df = score(pd.DataFrame(), ["3.4"])  # the rule needs figure 3.10, which is not asked for
    odd = df[df["inconsistent"] != ""]
    assert set(odd["metric"]) == {"epsilon"}
    assert len(odd) == 2
    given_ones = [
        Contradiction(table="t", where={"k": 1}, metric="m", sentence=s) for s in ("a.", "b.", "a.")
    ]
    assert set(score(pd.DataFrame(), table(cell()), contradictions=given_ones)["inconsistent"]) == {
        "a. b."
    }


def test_tables_are_named_or_given_and_a_typo_is_answered():
    assert set(score(pd.DataFrame(), "3.2", contradictions=())["table"]) == {"3.2"}
    mixed = score(pd.DataFrame(), ["3.2", table(cell())], contradictions=())
    assert list(dict.fromkeys(mixed["table"])) == ["3.2", "t"]
    assert len(score(pd.DataFrame(), contradictions=())) == LINES
    with pytest.raises(PublishedError, match=r"take one of .*fig-3\.10"):
        score(pd.DataFrame(), "fig3.10")
    with pytest.raises(ValueError, match="metric and value"):
        score(pd.DataFrame({"k": [1]}), table(cell()))


# ------------------------------------------------------------------ telling


@pytest.fixture(scope="module")
def scored():
    """Table 3.2 with cells of every verdict, a NaN, an infinity and an awkward note."""
    table_32 = next(t for t in published.load() if t.id == "3.2")
    frame = pd.concat(
        [
            rows([0.54] * 4, "accuracy.train").assign(mechanism="dp-sgd", epsilon=1.0),
            rows([0.9, 0.901, 0.899], "accuracy.validation").assign(
                mechanism="dp-sgd", epsilon=1.0
            ),
            rows([0.5, 0.6, 0.7], "accuracy.train").assign(mechanism="dp-sgd", epsilon=10.0),
            rows([np.inf], "accuracy").assign(base_rate=True),
        ]
    )
    note = Note(cause='a "quoted", <b>awkward</b>\ncause; with = and é', reading="described")
    return score(frame, msgspec.structs.replace(table_32, notes=(note,)))


def test_the_tally_counts_cells_and_readings(scored):
    got = tally(scored)
    assert got["cells"] == 11
    assert {k: n for k, n in got["described"].items() if n} == {
        **{"reproduced": 1, "differs": 2, "undecided": 1, "not run": 7}
    }
    assert got["published"]["not run"] == 11
    assert got["sentence"] == headline(scored)
    json.dumps(got)


def test_the_headline_is_a_sentence(scored):
    assert headline(scored) == (
        "Of 11 printed cells, 1 is reproduced, 2 differ, 1 is undecided, 7 are not run."
    )
    assert headline(scored.iloc[:0]) == "Of 0 printed cells, none has been run."
    nothing = score(pd.DataFrame(), table(cell()), contradictions=())
    assert headline(nothing) == "Of 1 printed cell, none has been run."
    frame = pd.concat([rows([0.5] * 3), rows([9.0] * 3, reading="published")])
    odd = [Contradiction(table="t", where={"k": 1}, metric="m", sentence="odd.")]
    assert headline(score(frame, table(cell()), contradictions=odd)) == (
        "Of 1 printed cell, as described: 1 is reproduced; as published: 1 differs;"
        " 1 contradicts other printed numbers."
    )
    two = table(cell(), cell(where={"k": 2}))
    odd += [Contradiction(table="t", where={"k": 2}, metric="m", sentence="odd.")]
    df = score(pd.DataFrame(), two, contradictions=odd)
    assert headline(df) == (
        "Of 2 printed cells, none has been run; 2 contradict other printed numbers."
    )
    assert tally(df)["inconsistent"] == 2
    many = pd.concat([rows([0.5] * 3), rows([0.5] * 3, k=2)])
    assert headline(score(many, two, contradictions=())) == "Of 2 printed cells, 2 are reproduced."


def test_json_has_the_agreed_keys_and_is_strict(scored):
    objects = json.loads(json.dumps(to_json(scored), allow_nan=False))
    assert len(objects) == 22
    wanted = (
        "source table where metric published ours se replicates verdict as note inconsistent joint"
    )
    assert list(objects[0]) == wanted.split()
    assert objects[0]["where"] == {"mechanism": "dp-sgd", "epsilon": 1}
    assert objects[0]["ours"] == 0.54
    assert {"mechanism": "dp-sgd", "epsilon": "inf"} in [o["where"] for o in objects]
    assert objects[-2]["ours"] == "inf"
    assert objects[-1]["ours"] is None
    assert objects[-1]["as"] == "published"


def test_the_csv_loses_nothing_and_is_stable(scored, tmp_path):
    scorecard.write(scored, tmp_path / "a.csv")
    back = scorecard.read(tmp_path / "a.csv")
    pd.testing.assert_frame_equal(back, scored, check_exact=True)
    scorecard.write(back, tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert b"\r" not in (tmp_path / "a.csv").read_bytes()
    everything = score(pd.DataFrame())
    scorecard.write(everything, tmp_path / "c.csv")
    pd.testing.assert_frame_equal(scorecard.read(tmp_path / "c.csv"), everything)


def test_a_csv_of_another_shape_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("table,verdict\n3.2,differs\n")
    with pytest.raises(ValueError, match="expected the columns source, table"):
        scorecard.read(tmp_path / "a.csv")


class _Outline(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_html_is_accessible_and_escaped(scored):
    html = scorecard.show(scored)
    outline = _Outline(html)
    names = [t for t, _ in outline.tags]
    assert names.count("caption") == 1
    assert headline(scored) in outline.text
    assert names.count("tr") == 12  # a printed cell a row, its readings side by side
    scopes = [a.get("scope") for t, a in outline.tags if t == "th"]
    assert scopes == ["col"] * 6 + ["row"] * 11
    assert "b" not in names  # the note's markup is text
    for word in ("reproduced", "differs", "undecided", "not run"):
        assert f"</span> {word}</span>" in html  # a word, not only a colour or a sign
    assert html._repr_html_() == html
    assert repr(html) == headline(scored)
    assert "data-pet-lab" in dict(outline.tags)["table"]
    assert 'aria-label="mine"' in scorecard.show(scored, caption="mine")


def lines_of(frame, *cells_, **more):
    """The cells of each line of the table shown, as texts."""
    page = BeautifulSoup(scorecard.show(score(frame, table(*cells_), **more)), "html.parser")
    return [
        [" ".join(c.get_text().split()) for c in tr.find_all(["th", "td"])]
        for tr in page.select("tbody tr")
    ]


def test_a_line_shows_two_digits_of_the_error_and_why():
    at = cell(where={"epsilon": 1, "private": True}, metric="recall")
    frame = rows([0.41, 0.52, 0.63], "recall").assign(epsilon=1.0, private=True)
    odd = [Contradiction(table="t", where=at.where, metric="recall", sentence="It is odd.")]
    (line,) = lines_of(frame, at, contradictions=odd)
    distance = 0.1 - 0.015  # of the gap of .02, less rounding, from the margin
    error = stats.t.isf(0.025, 2) * 0.11 / 3**0.5
    wanted = f"about {math.ceil(3 * (error / distance) ** 2)}"
    assert line == [
        *("t", "epsilon = 1, private", "recall (u)", "0.50 Inconsistent: It is odd."),
        f"0.520 ± 0.064 (n = 3) ? undecided {wanted} replicates would do",
        "– not run the runs do not cover the reading 'published'",
    ]


def test_a_scorecard_of_no_cells_is_a_table_without_lines(scored):
    page = BeautifulSoup(scorecard.show(scored.iloc[:0]), "html.parser")
    assert page.caption.get_text() == "Of 0 printed cells, none has been run."
    assert not page.select("tbody tr")


def test_conditions_of_all_cells_stand_in_the_caption_and_a_common_note_once():
    both = cell(where={"batch_size": 22, "k": 1}), cell(where={"batch_size": 22, "k": 2})
    page = BeautifulSoup(scorecard.show(score(pd.DataFrame(), table(*both))), "html.parser")
    assert page.caption.get_text().endswith(" All at batch size = 22.")
    for line, k in zip(page.select("tbody tr"), (1, 2), strict=True):
        _, where, _, printed, *ours = (c.get_text() for c in line.find_all(["th", "td"]))
        assert where == f"k = {k}"
        assert "no run yet" in printed
        assert not any("no run yet" in text for text in ours)


@pytest.mark.parametrize(
    ("values", "more", "text"),
    [
        ([0.123456789], {}, "0.123457"),
        ([0.25, 0.25], {}, "0.25 (n = 2)"),
        ([35433.0], {"se": 12.0, "replicates_n": 4}, "35433 ± 12 (n = 4)"),
        ([2.0], {"se": 0.00123, "replicates_n": 4}, "2.0000 ± 0.0012 (n = 4)"),
        ([np.inf], {}, "inf"),
    ],
)
def test_ours_is_written_as_precisely_as_it_is_known(values, more, text):
    assert lines_of(rows(values, **more), cell(), contradictions=())[0][4].startswith(f"{text} ")


def test_badges_have_contrast():
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    for _, style in scorecard._BADGES.values():
        if "background:" in style:
            assert 1.05 / (luminance(style.split("background:")[1]) + 0.05) > 5


# ------------------------------------------------------------------ from the runs of a workspace


@pytest.fixture
def workspace(tmp_path):
    """One notebook with one printed cell, two runs in each of its profiles, none of them done."""
    ws = Workspace(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "pet-lab"\n')
    demo.save(ws.notebooks / "a" / "b.ipynb", demo.notebook())
    (ws.notebooks / "a" / "sweep.toml").write_text(
        "[b.quick.grid]\nerror_rate = [0.1, 0.2]\n[b.full.grid]\nerror_rate = [0.3, 0.4]\n"
    )
    folder = tmp_path / "pet_lab" / "published" / "paper"
    folder.mkdir(parents=True)
    (folder / "1.toml").write_text(
        'id = "1"\ntitle = "t"\nsource = "s"\nplace = "p"\nlicence = "l"\nnotebook = "a/b"\n'
        'keys = ["k"]\nmetrics.m = { unit = "u", kind = "mean", repetitions = 9, margin = 0.1 }\n'
        'cells = [{ k = 1, m = "0.50" }]\n'
    )
    return ws


def finish(ws, error_rate, value, **summary):
    """Leave a finished run with two replicates near `value`."""
    values = rows([value, value + error_rate / 1000], seed=round(100 * error_rate))
    settings = {"error_rate": error_rate}
    demo.add_run(ws, "a/b", demo.notebook(), values, parameters=settings, **summary)


def described(ws, profile=None, **chosen):
    """The one printed cell, as described."""
    df = scorecard.from_runs(ws, profile, **chosen)
    assert df["as"].tolist() == ["described", "published"]
    return df.iloc[0]


def test_the_full_profile_counts_where_it_is_complete(workspace):
    finish(workspace, 0.1, 0.5)
    finish(workspace, 0.3, 0.9)
    part = described(workspace)
    assert (part["replicates"], part["ours"]) == (2, pytest.approx(0.50005))
    assert described(workspace, "full")["ours"] == pytest.approx(0.90015)
    finish(workspace, 0.4, 0.9)
    whole = described(workspace)
    assert (whole["replicates"], whole["ours"]) == (4, pytest.approx(0.900175))
    assert described(workspace, "quick")["replicates"] == 2


def test_each_reason_for_not_running_is_given(workspace):
    assert described(workspace)["note"] == "no finished run"
    finish(workspace, 0.1, 0.5)
    assert described(workspace)["note"] != "no finished run"
    source = workspace.notebooks / "a" / "b.ipynb"
    source.write_text(source.read_text().replace("recall", "precision"))
    assert described(workspace)["note"] == "its runs are out of date"
    assert described(workspace, stale=True)["replicates"] == 2
    source.unlink()
    demo.save(workspace.notebooks / "a" / "c.ipynb", demo.notebook())
    assert described(workspace)["note"] == "there is no notebook a/b yet"


def test_runs_on_a_stand_in_are_not_held_against_print(workspace):
    finish(workspace, 0.1, 0.5, counts=False)
    cell_ = described(workspace)
    assert (cell_["verdict"], cell_["replicates"]) == ("not run", 0)
    assert cell_["note"] == "its runs used stand-in or own data, which cannot be held against print"
    finish(workspace, 0.2, 0.5)
    assert described(workspace)["replicates"] == 2  # of the run that may be


def test_further_seeds_are_run_until_no_cell_is_undecided(workspace, monkeypatch, capsys):
    """Two replicates a run, about .585; the printed .50 has a margin of .1: few cannot tell."""
    from pet_lab.cli import app, shared

    rng, asked = np.random.default_rng(4), []
    sweep_file = workspace.notebooks / "a" / "sweep.toml"
    sweep_file.write_text("[b.quick.parameters]\nerror_rate = 0.1\n")

    def execute(ws, specs, **how):
        """In the place of kernels: leave the rows."""
        asked.append([(s.parameters["seed"], s.profile) for s in specs])
        for s in specs:
            values = rows(rng.normal(0.585, 0.02, 2), seed=s.parameters["seed"])
            record = demo.add_run(
                ws, "a/b", demo.notebook(), values, parameters=dict(s.parameters), profile=s.profile
            )
        return [record]

    monkeypatch.setattr(shared, "execute", execute)
    monkeypatch.setattr(Workspace, "find", lambda: workspace)
    monkeypatch.setattr("pet_lab.workbench.report.build", lambda *_: None)
    app(["reproduce", "--until-decided"], standalone_mode=False)
    seed = asked[0][0][0]
    assert asked[0] == [(seed, "quick")]
    assert asked[1] == [(seed + i, "quick, look 2") for i in (1, 2, 3)]
    assert all(tag == f"quick, look {k}" for k, more in enumerate(asked[1:], 2) for _, tag in more)
    df = scorecard.from_runs(workspace, "quick")
    assert df["verdict"].iloc[0] == "reproduced"
    assert df["replicates"].iloc[0] == 2 * (
        1 + len({pair for more in asked[1:] for pair, _ in more})
    )
    assert scorecard.further(workspace, df, "quick") == []
    assert "1 cells are undecided: 3 runs with further seeds" in capsys.readouterr().err


def test_both_readings_are_one_family():
    """A mean just decided alone is not beside ten more cells' worth of the other reading."""
    near = [cell("0.50", where={"k": k}) for k in range(6)]
    values = pd.concat(rows(0.545 + 0.05 * np.array([-1, 1] * 5), k=k) for k in range(6))
    other = values.assign(reading="published")
    of_one, of_both = (
        score(frame, table(*near), contradictions=())["verdict"].iloc[0]
        for frame in (values, pd.concat([values.assign(reading="described"), other]))
    )
    assert (of_one, of_both) == ("reproduced", "undecided")


def test_a_look_asks_for_more_certainty():
    """A mean just decided at the only look is not at the first of several, whose share is half."""
    near = cell("0.50", margin=0.1)
    values = rows(0.5 + 0.05 * np.array([-1, 1] * 5) + 0.06)
    plain, first = (
        score(values, table(near), contradictions=(), look=look)["verdict"].iloc[0]
        for look in (0, 3)
    )
    assert (plain, first) == ("reproduced", "undecided")


def test_a_margin_set_after_the_rows_is_warned_of_with_both_times(workspace, capsys):
    settings, values = {"error_rate": 0.1}, rows([0.5, 0.5001])
    table = published.load(workspace)[0]
    demo.add_run(workspace, "a/b", demo.notebook(), values, parameters=settings)
    df = scorecard.from_runs(workspace, "quick")
    assert df.attrs["warnings"] == []
    assert "Margins" not in df["note"].iloc[0]
    file = workspace.published / "paper" / "1.toml"
    file.write_text(file.read_text().replace("margin = 0.1", "margin = 0.9"))
    later = scorecard.from_runs(workspace, "quick")
    (warning,) = later.attrs["warnings"]
    ended = runs.records(workspace)[0].ended
    assert f"rows of {ended[:19]}, margins of {table.written[:13]}" in warning
    assert warning in later["note"].iloc[0]
    shared.print_tally(later)
    assert warning in capsys.readouterr().err


def test_the_workspace_scorecard_lists_every_printed_cell():
    df = scorecard.from_runs(
        SimpleNamespace(published=published.PACKAGED, notebooks=Path("/nonexistent"))
    )
    assert len(df) == LINES >= 2 * 191
    assert list(dict.fromkeys(df["table"])) == [t.id for t in published.load()]
    assert tally(df)["inconsistent"] == 3


def test_a_number_that_some_runs_do_not_have_is_undefined_there():
    """Of 400 runs of a table, 3 have no row for one of its cells and 217 have NaN."""
    rng = np.random.default_rng(11)
    both = {"whole": rng.normal(0.5, 0.1, 400), "part": rng.normal(0.5, 0.1, 397)}
    both["part"][180:] = math.nan
    frame = pd.concat([rows(values, metric=name) for name, values in both.items()])
    cells = [replace(cell("0.95", "one_run", 0.05), metric=name) for name in both]
    printed = table(*cells, readings=("described",))
    whole, part = score(frame, printed, contradictions=()).to_dict("records")
    assert (whole["verdict"], part["verdict"]) == ("differs", "undefined")
    assert part["note"].endswith("220 of our runs undefined (0/0), left out")
    few = frame[frame["replicate"] < 300]  # 300 runs: more would tell
    _, part = score(few, printed, contradictions=()).to_dict("records")
    assert part["verdict"] != "undefined"
