"""Panels without a kernel: which points are computed, and what a report makes of them."""

import itertools
import math

import demo
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st

from pet_lab.rows import Claim
from pet_lab.workbench import explore, tables, whatif
from pet_lab.workbench.report import exporter, objections


@pytest.fixture
def shown(monkeypatch):
    panels = []
    monkeypatch.setattr(tables, "display", lambda data: panels.append(data.get(whatif.MIME)))
    return panels


whole = st.tuples(st.integers(0, 50), st.integers(1, 500), st.integers(1, 9), st.floats(0, 1))
fractional = st.tuples(st.floats(0.01, 5), st.integers(1, 500), st.floats(0.01, 2), st.floats(0, 1))


@given(st.one_of(whole, fractional), st.integers(3, whatif.MOST_OPTIONS))
def test_a_slider_is_cut_from_end_to_end_and_keeps_its_start(limits, n):
    low, steps, step, share = limits
    start = low + round(share * steps) * step
    values = whatif._steps((low, low + steps * step, step, start), n)
    assert values == sorted(set(values))
    assert len(values) <= max(n, 3)
    assert start in values
    assert (values[0], values[-1]) == pytest.approx((low, low + steps * step))
    assert all(
        math.isclose((v - low) / step, round((v - low) / step), abs_tol=1e-6) for v in values
    )


def test_wide_sliders_are_cut_by_factors():
    assert whatif._steps((1, 1000, 1, 10), 4) == [1, 10, 100, 1000]


@pytest.mark.parametrize(
    ("controls", "points"),
    [
        ({"x": (0, 10, 1, 3), "y": (0, 10, 1, 4)}, 100),
        (
            {"a": (0.0, 1.0, 0.01, 0.5), "b": (1, 99, 1, 5), "c": (1, 9, 1, 5), "d": (0, 9, 1, 0)},
            108,
        ),
        ({"a": list("abcd"), "b": True, "c": (0, 100, 1, 7)}, 96),  # no more than 12 buttons
        ({"a": (0, 1, 1, 0)}, 2),
    ],
)
def test_a_grid_has_a_hundred_points_where_the_controls_can(controls, points):
    grid = whatif.grid(controls)
    assert math.prod(map(len, grid.values())) == points
    assert all(len(v) <= whatif.MOST_OPTIONS for v in grid.values())


def test_every_point_is_called_once_and_stands_where_its_settings_say(shown):
    calls = []

    def area(a, b):
        calls.append((a, b))
        return {"area": a * b, "sum": a + b}

    explore.call(area, {"a": (1, 10), "b": (1, 10, 1, 3)}, caption="A box.", out="a/run")
    (panel,) = shown
    assert sorted(calls) == [*itertools.product(range(1, 11), range(1, 11))]
    assert panel["caption"] == "A box (100 computed points)."
    assert [c["start"] for c in panel["controls"]] == [4, 2]
    rows = {(*r["at"], r["cells"][0][0]): r["cells"][1] for r in panel["rows"]}
    assert rows[3, 6, "area"] == ["28", 28.0]  # of 100
    assert rows[9, 9, "sum"] == ["20", 100.0]  # of its own kind


def test_a_refused_setting_is_its_sentence_and_a_broken_one_an_error(shown):
    def refuse(a):
        if a > 1:
            raise ValueError("a is at most 1.")
        return 1.0 / a

    explore.call(refuse, {"a": [1, 2]}, out="a/run")
    texts = [r.get("text") or r["cells"][1][0] for r in shown[0]["rows"]]
    assert texts == ["1", "a is at most 1."]
    with pytest.raises(ZeroDivisionError):
        explore.call(refuse, {"a": [0]}, out="a/run")


def test_a_slow_function_and_a_picture_get_no_panel(shown, monkeypatch):
    clock = itertools.count(0, whatif.SECONDS / 3)
    monkeypatch.setattr(whatif.time, "thread_time", lambda: next(clock))
    calls = []
    explore.call(lambda a, b: calls.append(a) or a, {"a": (0, 99), "b": (0, 99)}, out="a/run")
    explore.call(lambda a: None, {"a": [1, 2]}, out="a/run")
    assert shown == []
    assert len(calls) < 5


def test_stored_rows_are_all_there_under_free_and_held_factors(shown):
    rows = demo.rows_of(0.2, 7, replicates=3)
    explore.rows(rows, x="threshold", metric="total", hue="method", out="a/run")
    (panel,) = shown
    assert [c["label"] for c in panel["controls"]] == ["Metric", "threshold", "method"]
    assert panel["controls"][0]["options"] == ["total", "recall, actual"]
    assert [c["start"] for c in panel["controls"]] == [0, 0, 0]
    assert len(panel["rows"]) == 2 * 5 * 2
    picked = rows[(rows["metric"] == "total") & (rows["threshold"] == 0.5)]
    mean = picked[picked["method"] == "naive"]["value"].mean()
    row = next(r for r in panel["rows"] if r["at"] == [0, 1, 2])
    assert [text for text, _ in row["cells"]][:3] == ["0.5", "naive", f"{mean:,.0f}"]


def test_a_factor_that_is_empty_has_a_choice_with_a_name(shown):
    rows = demo.rows_of(0.2, 7, replicates=3).replace({"method": {"naive": ""}})
    explore.rows(rows, x="threshold", metric="total", out="a/run")
    assert shown[0]["controls"][2]["options"] == ["any", "none", "corrected"]


def test_a_metric_is_not_hidden_by_what_was_held_for_another(shown):
    rows = demo.rows_of(0.2, 7, replicates=3)
    recall = rows["metric"] != "total"
    rows = rows.assign(
        source=np.where(recall, "links", "files"), epochs=np.where(recall, rows.threshold * 10, 9.0)
    )
    explore.rows(rows, x="threshold", metric="total", hue="method", out="a/run")
    labels = [c["label"] for c in shown[0]["controls"]]
    assert labels == ["Metric", "threshold", "method", "epochs"], (
        "the source follows from the metric"
    )
    assert shown[0]["controls"][-1]["start"] == 0


def test_a_choice_of_numbers_is_in_their_order_and_starts_where_it_says(shown):
    explore.call(lambda a: a, {"a": [3, 1, 2]}, out="a/run")
    assert shown[0]["controls"][0] == {"label": "a", "options": ["1", "2", "3"], "start": 2}


def test_bars_are_shares_of_like_values_and_logarithmic_over_decades():
    shares = whatif._shares(pd.Series([0.0, 5.0, 10.0]))
    assert shares.tolist() == [0, 50, 100]
    wide = whatif._shares(pd.Series([1.0, 100.0, 10_000.0, 0.0]))
    assert wide.tolist() == [4, 52, 100, 0]
    assert whatif._shares(pd.Series([-1.0, 1.0])).isna().all()
    assert whatif._shares(pd.Series([float("nan")])).isna().all()


def test_the_report_shows_one_table_without_a_script_and_escapes_what_it_holds():
    rows = demo.rows_of(0.2, 7, replicates=2)
    notebook = demo.notebook(outputs=demo.executed(rows, demo_scored()))
    page = exporter.export(notebook, link=lambda _: None).html
    soup = BeautifulSoup(page, "html5lib")
    panels = soup.select(".whatif")
    assert len(panels) == 2
    names = {i["name"] for p in panels for i in p.select("input")}
    assert len(names) == 3 + 4  # of their own, or one panel's choice would undo the other's
    assert all(len(p.select(f'input[name="{n}"][checked]')) <= 1 for p in panels for n in names)
    assert "got <few>." in panels[1].text
    assert not soup.find("few")
    assert not soup.find("script")
    assert objections(f"<main>{page}</main>") == []


def demo_scored():
    from pet_lab.workbench import scorecard

    return scorecard.score(pd.DataFrame(), "2.4", contradictions=())


def test_of_a_result_that_is_drawn_the_report_keeps_the_sentence(shown, monkeypatch, tmp_path):
    monkeypatch.setattr(explore, "batch", bool)

    def double(x):
        return pd.DataFrame({"y": [x, 2 * x]}), Claim("Twice {x} is {y}.", x=x, y=2 * x)

    explore.call(double, {"x": (0, 3)}, out=str(tmp_path), caption="Twice", draw=print)
    (panel,) = shown
    assert [row["cells"] for row in panel["rows"]] == [
        [[f"Twice {x} is {2 * x}.", None]] for x in range(4)
    ]
    assert panel["head"] == [["what follows", False]]
