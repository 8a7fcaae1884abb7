"""Pictures and tables carry words, and helpers draw what they are given."""

import base64

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from matplotlib.figure import Figure

from pet_lab.workbench import plots


@pytest.fixture
def summary():
    return pd.DataFrame(
        [
            {
                "epsilon": e,
                "way": w,
                "metric": "accuracy",
                "mean": 0.5 + e / 1e4,
                "se": 0.01,
                "n": 9,
            }
            for w in ("training", "data")
            for e in (1.0, 10.0, 1000.0)
        ]
    )


@pytest.fixture
def displayed(monkeypatch):
    """What the functions put on the page: a list of (data, metadata)."""
    shown = []
    monkeypatch.setattr(
        plots, "_display", lambda data, metadata=None: shown.append((data, metadata))
    )
    return shown


def test_show_carries_words_in_metadata_and_in_html(displayed):
    fig, ax = plots.figure()
    ax.plot([1, 2], [3, 4])
    plots.show(fig, alt='A "rising" line', caption="It rises, with $x < y$.")
    (data, metadata) = displayed[0]
    assert metadata["image/svg+xml"]["alt"] == 'A "rising" line'
    assert metadata["image/svg+xml"]["caption"] == "It rises, with $x < y$."
    page = BeautifulSoup(data["text/html"], "html.parser")
    assert page.img["alt"] == 'A "rising" line'
    coded = page.img["src"].removeprefix("data:image/svg+xml;base64,")
    assert base64.b64decode(coded).decode() == data["image/svg+xml"]
    assert page.figcaption.text == "It rises, with $x < y$."


def test_many_points_become_pixels_at_double_resolution(displayed):
    _fig, ax = plots.figure(width=5)
    rng = np.random.default_rng(3)
    ax.scatter(*rng.normal(size=(2, 6000)))
    plots.show(ax, alt="A cloud", caption="Round.")
    data, metadata = displayed[0]
    png = base64.b64decode(data["image/png"])
    width = int.from_bytes(png[16:20], "big")
    assert 1.8 < width / metadata["image/png"]["width"] < 2.1


@pytest.mark.parametrize(
    ("alt", "caption"), [("", "c"), ("  ", "c"), ("a", ""), (None, "c"), ("same", "same")]
)
def test_show_refuses_to_be_wordless(alt, caption):
    fig, _ = plots.figure()
    with pytest.raises(ValueError, match=r"alt|caption"):
        plots.show(fig, alt=alt, caption=caption)


def test_the_same_figure_has_the_same_bytes():
    def draw():
        fig, ax = plots.figure()
        ax.fill_between([1, 2, 3], [1, 2, 1], [2, 3, 2])
        return plots.render(fig)[1]

    first = draw()
    assert first == draw()
    assert "matplotlib.org" not in first


def test_table_is_accessible_and_escaped(displayed):
    frame = pd.DataFrame({"way": ["<b>", "data"], "epsilon": [1.0, np.inf], "n": [12345, 7]})
    plots.table(frame, caption="What ran", formats={"n": "{:,} runs"})
    page = BeautifulSoup(displayed[0][0]["text/html"], "html.parser")
    assert page.caption.text == "What ran"
    assert [th["scope"] for th in page.thead.find_all("th")] == ["col"] * 3
    assert page.thead.find_all("th")[1].text == "privacy budget ε"
    cells = [td.text for td in page.tbody.find_all("td")]
    assert cells == ["<b>", "1", "12,345 runs", "data", "∞", "7 runs"]
    assert "right" in page.tbody.find_all("td")[1]["style"]
    assert page.table["data-pet-lab"] == "aggregate"
    assert page.div["tabindex"] == "0"  # a scrolling region is reachable by keyboard


def test_table_refuses_records():
    frame = pd.DataFrame({"a": range(plots.MOST_ROWS + 1)})
    with pytest.raises(ValueError, match="no summary"):
        plots.table(frame, caption="all")
    with pytest.raises(ValueError, match="real records have none"):
        plots.table(frame.head(), caption="head", kind="records")
    with pytest.raises(ValueError, match="no column"):
        plots.table(frame.head(), caption="head", formats={"b": ".2f"})


def test_missing_index_and_multiindex(displayed):
    frame = pd.DataFrame({"v": [1.5, None]}, index=pd.Index(["x", "y"], name="error_rate"))
    plots.table(frame, caption="c", index=True, formats={"v": ".2f"})
    page = BeautifulSoup(displayed[0][0]["text/html"], "html.parser")
    assert page.th.text == "share of records with a typo"
    assert [td.text for td in page.find_all("td")] == ["x", "1.50", "y", "–"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.1235"),
        (-2.0, "−2"),
        (1e6, "1,000,000"),
        (123456.7, "123,457"),
        (1e-7, "1e-07"),
        (np.float64("nan"), "–"),
        (-np.inf, "−∞"),
        (np.int64(3), "3"),
        (True, "yes"),
        (None, "–"),
        ("word", "word"),
    ],
)
def test_number(value, text):
    assert plots.number(value) == text


def test_errorbars_draw_mean_and_interval_and_name_the_axes(summary):
    _, ax = plots.figure()
    plots.errorbars(summary, x="epsilon", metric="accuracy", hue="way", ax=ax)
    bars = ax.containers
    assert [b.get_label() for b in bars] == ["training", "data"]
    (segments,) = bars[0].lines[2]
    low, high = segments.get_segments()[1][:, 1]
    assert (low, high) == pytest.approx((0.501 - 1.96 * 0.01, 0.501 + 1.96 * 0.01))
    assert ax.get_xscale() == "log"
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "10", "1,000"]
    assert ax.get_xlabel() == "privacy budget ε"
    assert ax.get_ylabel() == "accuracy (share right)"
    assert ax.get_legend().get_title().get_text() == "way"


@pytest.mark.parametrize("nothing", [np.inf, np.nan])
def test_no_privacy_is_a_place_on_the_axis_not_a_lost_point(summary, nothing):
    summary = summary.assign(epsilon=summary["epsilon"].replace(1000.0, nothing))
    _, ax = plots.figure()
    plots.errorbars(summary, x="epsilon", metric="accuracy", hue="way", ax=ax)
    labels = [t.get_text() for t in ax.get_xticklabels()]
    assert labels == ["1", "10", plots.number(nothing)]
    low, high = ax.get_xlim()
    assert low < 0
    assert high > 2


def test_all_drawn_points_are_inside_the_axis(summary):
    rows = pd.concat([summary.assign(value=summary["mean"] + d) for d in (-0.3, 0, 0.4)])
    _, ax = plots.figure()
    plots.dots(rows, x="epsilon", metric="accuracy", hue="way", ax=ax)
    low, high = ax.get_ylim()
    assert low < rows["value"].min()
    assert high > rows["value"].max()


def test_errorband_and_missing_se(summary):
    _, ax = plots.figure()
    plots.errorband(summary.assign(se=np.nan), x="epsilon", metric="accuracy", hue="way", ax=ax)
    assert len(ax.lines) == 2
    with pytest.raises(ValueError, match="no rows of metric"):
        plots.errorband(summary, x="epsilon", metric="auc", ax=ax)


def test_every_group_differs_in_more_than_colour():
    frame = pd.DataFrame({"g": list("abcdefg"), "x": 1.0, "mean": 1.0, "se": 0.1})
    looks = [(m, str(line)) for _, _, _, m, line in plots._parts(frame, None, "g")]
    assert len({m for m, _ in looks}) == len({line for _, line in looks}) == 7


def test_agreement_counts_verdicts_and_what_was_not_run():
    scored = pd.DataFrame(
        {
            "published": ["1,000", "0.80", "50 %", "7"],
            "ours": [1001.0, 0.7, 50, None],
            "se": [1.0, 0.01, np.nan, None],
            "verdict": ["reproduced", "differs", "inconclusive", "not run"],
        }
    )
    _, ax = plots.figure()
    plots.agreement(scored, ax=ax)
    words = {t.get_text() for t in ax.get_legend().get_texts()}
    assert words == {"reproduced (1)", "differs (1)", "inconclusive (1)", "not run (1)"}


def test_roc_shows_nothing_below_what_the_sample_resolves():
    curve = pd.DataFrame({"fpr": [0, 1e-4, 0.01, 1], "tpr": [0, 0.2, 0.3, 1]})
    _, ax = plots.figure()
    plots.roc(curve, ax=ax, smallest_fpr=0.001)
    assert min(ax.lines[0].get_xdata()) == 0.01
    with pytest.raises(ValueError, match="1 / number of non-members"):
        plots.roc(curve, ax=ax, smallest_fpr=1000)


def test_heatmaps_share_one_scale():
    frame = pd.DataFrame(np.eye(3), list("abc"), list("abc"))
    fig, axes = plots.figure(1, 2)
    plots.heatmaps({"original": frame, "synthetic": frame / 2}, axes=axes)
    assert [ax.images[0].get_clim() for ax in axes] == [(-1, 1), (-1, 1)]
    with pytest.raises(ValueError, match="as many axes"):
        plots.heatmaps({"original": frame}, axes=axes)
    assert isinstance(fig, Figure)


def test_printed_and_reference_keep_the_legend_title(summary):
    _, ax = plots.figure()
    plots.errorbars(summary, x="epsilon", metric="accuracy", hue="way", ax=ax)
    plots.printed(ax, [1, 10], [0.56, 0.86])
    plots.reference(ax, 0.67, "base rate")
    assert ax.get_legend().get_title().get_text() == "way"
    assert len(ax.get_legend().get_texts()) == 3
