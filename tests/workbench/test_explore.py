"""Panels: built by hand only, labelled, redrawn from stored rows."""

import re
from pathlib import Path

import demo
import ipywidgets
import pandas as pd
import pytest

from pet_lab.rows import Claim
from pet_lab.workbench import explore, notebooks, plots, tables
from pet_lab.workbench.workspace import Workspace

CLEARED = "\033[2K\r"  # what clear_output writes where there is no notebook


@pytest.fixture
def panel(monkeypatch):
    """Controls by label and what was drawn, of the panel that the test builds."""
    monkeypatch.delenv("PET_LAB_BATCH", raising=False)
    shown, drawn = {}, []
    monkeypatch.setattr(
        "IPython.display.display",
        lambda box: shown.update({c.description: c for c in box.children[0].children}),
    )
    monkeypatch.setattr(tables, "display", lambda data, metadata=None: drawn.append(data))
    return shown, drawn


@pytest.fixture
def rows():
    return demo.rows_of(0.2, 7, replicates=3)


def test_nothing_is_built_in_batch_without_a_run(monkeypatch, rows):
    monkeypatch.setattr("IPython.display.display", lambda *_: pytest.fail("displayed"))
    monkeypatch.setenv("PET_LAB_BATCH", "1")
    explore.rows(rows, x="threshold")
    explore.call(lambda a: pytest.fail("called"), {"a": (0, 1)})


def test_rows_draw_at_once_and_again_on_change(panel, rows):
    controls, drawn = panel
    explore.rows(rows, x="threshold", metric="recall_actual", hue="method")
    assert list(controls) == ["Metric", "Against", "Lines by", "threshold", "method"]
    assert len(drawn) == 1
    assert "recall, actual against threshold, one line per method" in drawn[0]["text/plain"]
    # They are drawn, so there is nothing to hold.
    assert controls["threshold"].layout.display == controls["method"].layout.display == "none"
    controls["Metric"].value = "total"
    controls["Lines by"].value = ""
    assert controls["Lines by"].label == "nothing"  # and not an empty box
    assert len(drawn) == 3
    assert "method = naive" in drawn[2]["text/plain"]
    assert "15 rows" in drawn[2]["text/plain"]  # five thresholds, three replicates: no other mean
    controls["method"].value = "corrected"
    assert "method = corrected" in drawn[3]["text/plain"]
    assert len({d["text/html"] for d in drawn}) == 4


def test_rows_offer_only_what_there_is(panel, rows):
    controls, drawn = panel
    none = rows[rows["method"] == "naive"].assign(method="none", epsilon=float("nan"))
    alone = rows[rows["method"] == "naive"].assign(metric="alone", method="only", epsilon=2.0)
    rows = pd.concat([rows.assign(epsilon=1.0), none, alone])
    explore.rows(rows, x="threshold", metric="total", hue="epsilon")
    assert "method = naive" in drawn[0]["text/plain"]
    controls["Lines by"].value = ""
    assert [text for text, _ in controls["privacy budget ε"].options] == ["1"]
    controls["method"].value = "none"  # which has no rows with a budget
    assert [text for text, _ in controls["privacy budget ε"].options] == ["–"]
    assert "ε = –" in drawn[-1]["text/plain"]
    assert "method = none" in drawn[-1]["text/plain"]
    controls["Metric"].value = "alone"
    assert [text for text, _ in controls["Against"].options] == ["threshold"]
    assert controls["method"].layout.display == "none"  # one value: nothing to choose
    assert [name for _, name in controls["Lines by"].options] == [""]


def test_every_combination_that_is_offered_can_be_drawn(panel, rows, capsys):
    controls, drawn = panel
    odd = rows[(rows["method"] == "naive") & (rows["threshold"] < 0.7)].assign(mode="odd")
    explore.rows(pd.concat([rows.assign(mode="even"), odd]), x="threshold")
    for metric in [value for _, value in controls["Metric"].options]:
        controls["Metric"].value = metric
        for x in [value for _, value in controls["Against"].options]:
            controls["Against"].value = x
            for hue in [value for _, value in controls["Lines by"].options]:
                controls["Lines by"].value = hue
    assert len(drawn) > 10
    assert "Choose other values" not in capsys.readouterr().out


def test_folded_rows_are_drawn_when_they_are_opened(monkeypatch, rows):
    monkeypatch.delenv("PET_LAB_BATCH", raising=False)
    shown, drawn = [], []
    monkeypatch.setattr("IPython.display.display", shown.append)
    monkeypatch.setattr(tables, "display", lambda data, metadata=None: drawn.append(data))
    explore.rows(rows, x="threshold", folded=True)
    assert (shown[0].selected_index, drawn) == (None, [])
    shown[0].selected_index = 0
    assert len(drawn) == 1


def test_rows_keep_readings_apart(panel, rows):
    controls, drawn = panel
    both = pd.concat([rows.assign(reading=r) for r in ("described", "published")])
    explore.rows(both, x="threshold")
    assert [value for _, value in controls["reading"].options] == ["described", "published"]
    assert len(drawn) == 1


def test_rows_check_their_arguments(panel, rows):
    with pytest.raises(ValueError, match="x is one of threshold, method, got 'epsilon'"):
        explore.rows(rows, x="epsilon")
    with pytest.raises(ValueError, match=r"metric is one of .*got 'auc'"):
        explore.rows(rows, x="threshold", metric="auc")


def test_call_makes_a_control_per_argument(panel):
    controls, drawn = panel
    calls = []

    def power(shift, sample, test, one_sided):
        """Power of the test."""
        calls.append((shift, sample, test, one_sided))
        return {"power": shift * sample}

    explore.call(
        power,
        {
            "shift": (0.0, 1.0, 0.1, 0.5),
            "sample": (10, 100, 10),
            "test": ["t", "z"],
            "one_sided": False,
        },
    )
    assert calls == [(0.5, 50, "t", False)]
    shift, sample = controls["shift"], controls["sample"]
    assert isinstance(shift, ipywidgets.FloatSlider)
    assert isinstance(sample, ipywidgets.IntSlider)
    assert shift.continuous_update is sample.continuous_update is False  # no slow call on drag
    shift.value = 0.7
    assert calls[-1] == (0.7, 50, "t", False)
    assert "Power of the test. (shift = 0.7" in drawn[-1]["text/plain"]


def test_call_shows_what_comes_back(panel, capsys):
    _, drawn = panel

    def draw(a):
        fig, ax = plots.figure()
        ax.plot([0, a], [0, 1])
        return fig

    explore.call(draw, {"a": [1, 2]}, caption="A line")
    assert "[figure: Figure: A line (a = 1)]" in drawn[-1]["text/plain"]
    explore.call(lambda a: pd.DataFrame({"x": [a]}), {"a": [1]}, caption="A table")
    assert "<table" in drawn[-1]["text/html"]
    explore.call(lambda a: 0.25, {"a": [1]}, caption="A number")
    assert "A number   0.25" in drawn[-1]["text/plain"]
    explore.call(lambda a: None, {"a": [1]}, caption="Nothing")
    assert capsys.readouterr().out.replace(CLEARED, "") == ""


def test_call_says_what_was_changed(panel, capsys):
    controls, _ = panel
    shown = []

    def power(shift, sample):
        return [shift], Claim("The power is {p}.", p=shift * sample)

    given = {"shift": [1, 2], "sample": [10, 20]}
    explore.call(power, given, caption="Power", draw=lambda r, words: shown.append((r, words)))
    controls["shift"].value = 2
    assert capsys.readouterr().out.replace(CLEARED, "") == (
        "The power is 10.\nChanged: shift = 2, was 1. The power is 20.\n"
    )
    assert shown[-1] == ([2], "Power (shift = 2, sample = 10)")


def test_a_refused_setting_shows_its_sentence(panel, capsys):
    def refuse(a):
        raise ValueError("fpr is a fraction in [0, 1], got 3.")

    explore.call(refuse, {"a": (0, 5)})
    assert capsys.readouterr().out.replace(CLEARED, "") == "fpr is a fraction in [0, 1], got 3.\n"


@pytest.mark.parametrize("spec", [(1,), (5, 1), [], "text", 3.0])
def test_unclear_controls_are_refused(panel, spec):
    with pytest.raises(ValueError, match=r"control 'a'|slider 'a'"):
        explore.call(lambda a: None, {"a": spec})


def test_the_start_page_links_every_notebook():
    """`pet-lab lab` opens it: a notebook that is not on it is not found."""
    root = Path(__file__).resolve().parents[2]
    text = (root / "notebooks" / "README.md").read_text()
    linked = set(re.findall(r"\]\((\w[\w/]*)\.ipynb\)", text))
    assert linked == set(notebooks.find(Workspace(root))), "add it to notebooks/README.md"
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (root / "notebooks" / target).exists(), target
