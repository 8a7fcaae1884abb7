"""Pictures and tables carry words, and helpers draw what they are given."""

import base64
import warnings

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from matplotlib.cbook import is_math_text
from matplotlib.figure import Figure
from matplotlib.text import Text

from pet_lab.workbench import plots, tables


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
        tables, "display", lambda data, metadata=None: shown.append((data, metadata))
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


def test_of_a_long_schema_the_first_columns_are_shown_and_it_says_so(displayed):
    frame = pd.DataFrame({"column": [f"c{i}" for i in range(plots.MOST_ROWS + 1)]})
    plots.table(frame, caption="What the reader decided.", kind="schema")
    page = BeautifulSoup(displayed[0][0]["text/html"], "html.parser")
    assert len(page.tbody.find_all("tr")) == plots.MOST_ROWS
    assert "The first 400 of 401." in page.caption.text


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


def intervals(ax):
    """Ends of all vertical intervals on an axis, as an array of (low, high)."""
    ends = [line.get_segments() if hasattr(line, "get_segments") else [] for line in ax.collections]
    return np.array([segment[:, 1] for part in ends for segment in part if len(segment)])


@pytest.fixture
def replicates(summary):
    rng = np.random.default_rng(5)
    rows = [
        {"epsilon": e, "way": w, "metric": "accuracy", "replicate": r, "value": rng.normal()}
        for w in ("training", "data")
        for e in (1.0, 10.0, 1000.0)
        for r in range(8)
    ]
    return pd.DataFrame(rows)


def test_a_summary_is_drawn_with_its_own_intervals_and_named_axes(summary):
    ax = plots.lines(summary, x="epsilon", metric="accuracy", hue="way")
    low, high = intervals(ax)[1]
    assert (low, high) == pytest.approx((0.501 - 1.96 * 0.01, 0.501 + 1.96 * 0.01))
    assert ax.lines[0].get_ydata() == pytest.approx([0.5001, 0.501, 0.6])
    assert ax.get_xscale() == "log"
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "10", "1,000"]
    assert ax.get_xlabel() == "privacy budget ε"
    assert ax.get_ylabel() == "accuracy (share right)"
    (legend,) = ax.figure.legends
    assert legend.get_title().get_text() == "way"
    assert [t.get_text() for t in legend.get_texts()] == ["training", "data"]


def test_replicates_are_drawn_with_mean_and_interval(replicates):
    ax = plots.lines(replicates, x="epsilon", metric="accuracy", hue="way")
    values = replicates.query("way == 'training' and epsilon == 10")["value"]
    half = 1.96 * values.std() / np.sqrt(8)
    assert intervals(ax)[1] == pytest.approx([values.mean() - half, values.mean() + half])


def test_one_replicate_takes_its_own_standard_error(summary):
    rows = summary.rename(columns={"mean": "value"}).assign(replicate=0)
    assert intervals(plots.lines(rows, x="epsilon", hue="way")) == pytest.approx(
        intervals(plots.lines(summary, x="epsilon", hue="way"))
    )


def test_without_an_error_the_mean_stands_alone(summary):
    ax = plots.lines(summary.assign(se=np.nan), x="epsilon", metric="accuracy", hue="way")
    drawn = intervals(ax)
    assert drawn.size == 0 or np.isnan(drawn).all()
    with pytest.raises(ValueError, match="no rows of metric auc"):
        plots.lines(summary, x="epsilon", metric="auc")


def test_an_infinite_replicate_leaves_no_mean_of_the_others(replicates):
    replicates.loc[0, "value"] = np.inf
    ax = plots.lines(replicates, x="epsilon", hue="way")
    assert list(ax.lines[0].get_xdata()) == [10, 1000]


@pytest.mark.parametrize("nothing", [np.inf, np.nan])
def test_no_privacy_is_a_place_on_the_axis_not_a_lost_point(summary, nothing):
    summary = summary.assign(epsilon=summary["epsilon"].replace(1000.0, nothing))
    ax = plots.lines(summary, x="epsilon", metric="accuracy", hue="way")
    labels = [t.get_text() for t in ax.get_xticklabels()]
    assert labels == ["1", "10", plots.number(nothing)]
    low, high = ax.get_xlim()
    assert low < 0
    assert high > 2
    assert ax.lines[0].get_linestyle() != "None"  # numbers are joined


def test_a_mean_over_unlike_things_is_refused(summary):
    two = pd.concat([summary, summary.assign(metric="loss")])
    with pytest.raises(ValueError, match="mean over several values of metric"):
        plots.lines(two, x="epsilon", hue="way")
    two = pd.concat([summary.assign(reading="described"), summary.assign(reading="published")])
    with pytest.raises(ValueError, match="mean over several values of reading"):
        plots.lines(two, x="epsilon", metric="accuracy", hue="way")
    with pytest.raises(ValueError, match="several means at one epsilon"):
        plots.lines(summary, x="epsilon", metric="accuracy")


def test_a_line_of_one_point_warns_of_nothing(summary):
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        plots.lines(summary[1:4], x="epsilon", metric="accuracy", hue="way")


def test_several_metrics_get_a_panel_and_a_scale_each(summary):
    two = pd.concat([summary, summary.assign(metric="loss", mean=summary["mean"] * 100)])
    levels = {"accuracy": {"base rate": 0.4}}
    fig = plots.lines(two, x="epsilon", metric=["loss", "accuracy"], hue="way", reference=levels)
    loss, accuracy = fig.axes
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("loss", "accuracy (share right)")
    assert loss.get_ylim()[0] > accuracy.get_ylim()[1]
    assert [t.get_text() for t in accuracy.texts] == ["base rate"]
    assert not loss.texts
    assert len(fig.legends) == 1


def test_panels_share_the_scale_of_a_metric_and_have_titles(summary):
    two = pd.concat([summary.assign(reading=r, mean=summary["mean"] * k)
                     for k, r in enumerate(("described", "published"), 1)])  # fmt: skip
    fig = plots.lines(two, x="epsilon", metric="accuracy", hue="way", col="reading")
    assert [ax.get_title("left") for ax in fig.axes] == ["described", "published"]
    assert fig.axes[0].get_ylim() == fig.axes[1].get_ylim()
    with pytest.raises(ValueError, match="ax is one panel"):
        plots.lines(two, x="epsilon", hue="way", col="reading", ax=plots.figure()[1])


def test_a_panel_names_its_own_categories(summary):
    rows = summary.assign(
        setting=[f"{w} {e}" for w, e in zip(summary.way, summary.epsilon, strict=True)]
    )
    prints = pd.DataFrame({"setting": ["data 10.0"], "printed": [0.7]})
    fig = plots.bars(rows, x="setting", metric="accuracy", col="way", printed=prints)
    names = [[t.get_text() for t in ax.get_xticklabels()] for ax in fig.axes]
    assert names[1] == ["data 1.0", "data 10.0", "data 1000.0"]
    assert len(names[0]) == 3
    (at,) = [c.get_offsets()[0] for c in fig.axes[1].collections if len(c.get_offsets()) == 1]
    assert list(at) == [1, 0.7]


def test_printed_numbers_stand_where_they_belong(summary):
    prints = pd.DataFrame(
        {
            "epsilon": [1, 10],
            "way": ["data", "data"],
            "metric": "accuracy",
            "printed": ["56", "7"],
        }
    )
    prints = pd.concat([prints, prints.assign(metric="loss")])
    ax = plots.lines(summary, x="epsilon", metric="accuracy", hue="way", printed=prints)
    (diamonds,) = [c for c in ax.collections if len(c.get_offsets()) == 2]
    assert diamonds.get_offsets().tolist() == [[1, 56], [10, 7]]
    assert diamonds.get_edgecolor()[0][:3] == pytest.approx((0xD5 / 255, 0x5E / 255, 0))
    assert "printed in the source" in {t.get_text() for t in ax.figure.legends[0].get_texts()}
    unrun = prints.assign(way="never run")
    ax = plots.lines(summary, x="epsilon", metric="accuracy", hue="way", printed=unrun)
    assert not [c for c in ax.collections if len(c.get_offsets()) == 2]


def test_printed_numbers_stand_beside_their_hue_among_categories(summary):
    prints = pd.DataFrame({"epsilon": [10], "way": ["data"], "printed": ["0.5"]})
    ax = plots.points(summary, x="epsilon", metric="accuracy", hue="way", printed=prints)
    ours = {
        line.get_color(): line.get_xdata()[1] for line in ax.lines if len(line.get_xdata()) == 3
    }
    (at,) = [c.get_offsets()[0] for c in ax.collections if len(c.get_offsets()) == 1]
    assert list(at) == pytest.approx([ours[plots.COLOURS[1]], 0.5])


def test_bars_differ_in_more_than_colour(replicates):
    ax = plots.bars(replicates, x="epsilon", metric="accuracy", hue="way")
    assert [group[0].get_hatch() for group in ax.containers] == ["", "//"]
    means = replicates.groupby(["way", "epsilon"], sort=False)["value"].mean()
    assert [bar.get_height() for group in ax.containers for bar in group] == pytest.approx(means)


@pytest.mark.parametrize("draw", [plots.points, plots.bars])
def test_a_hue_that_is_the_axis_stays_in_the_middle(replicates, draw):
    ax = draw(replicates, x="way", metric="accuracy", hue="way")
    at = [bar.get_x() + bar.get_width() / 2 for group in ax.containers for bar in group]
    at += [x for line in ax.lines if line.get_marker() in plots.MARKERS for x in line.get_xdata()]
    assert at
    assert set(np.round(at, 6)) <= {0, 1}


def test_every_look_differs_in_more_than_colour_and_no_look_is_used_twice():
    n = len(plots.COLOURS)
    assert n == 9
    for looks in (plots.COLOURS, plots.MARKERS, plots.DASHES, plots.HATCHES):
        assert len(set(looks)) == len(looks) == n
    frame = pd.DataFrame({"g": [f"g{i}" for i in range(n + 1)], "x": 1.0, "mean": 1.0})
    plots.lines(frame[:n], x="x", hue="g")
    with pytest.raises(ValueError, match="can be told apart"):
        plots.lines(frame, x="x", hue="g")


def test_words_alone_show_the_picture(summary, displayed):
    assert plots.lines(summary, x="epsilon", hue="way", alt="Two lines.", caption="Up.") is None
    assert displayed[0][1]["image/svg+xml"]["caption"] == "Up."
    with pytest.raises(ValueError, match="alt must say in words"):
        plots.lines(summary, x="epsilon", hue="way", caption="Up.")


def test_values_that_look_alike_are_not_averaged():
    frame = pd.DataFrame({"setting": ["a", "a"], "mean": [1.0, 2.0], "g": [1.00001, 1.00002]})
    ax = plots.lines(frame, x="setting", hue="g")
    heights = {y for line in ax.lines for y in line.get_ydata() if np.isfinite(y)}
    assert heights == {1, 2}
    assert [t.get_text() for t in ax.figure.legends[0].get_texts()] == ["1.00001", "1.00002"]


def test_a_study_adds_its_words(monkeypatch, summary):
    monkeypatch.setattr(tables, "LABELS", dict(tables.LABELS))
    monkeypatch.setattr(plots, "LABELS", tables.LABELS)
    plots.use_style({"accuracy": "accuracy on new records", "data": "synthetic data"})
    ax = plots.lines(summary, x="epsilon", metric="accuracy", hue="way")
    assert ax.get_ylabel() == "accuracy on new records"
    assert ax.figure.legends[0].get_texts()[1].get_text() == "synthetic data"


def test_scatter_names_its_points():
    frame = pd.DataFrame({"gap": [0.1, 0.2], "auc": [0.5, 0.6], "epochs": [5, 80]})
    ax = plots.scatter(frame, x="gap", y="auc", label="epochs")
    assert [t.get_text() for t in ax.texts] == ["5", "80"]
    assert ax.get_ylabel() == "area under the ROC curve"


def test_agreement_counts_verdicts_and_what_was_not_run():
    scored = pd.DataFrame(
        {
            "published": ["1000", "0.80", "50", "7"],
            "ours": [1001.0, 0.7, 50, None],
            "se": [1.0, 0.01, np.nan, None],
            "verdict": ["reproduced", "differs", "undecided", "not run"],
        }
    )
    ax = plots.agreement(scored)
    words = {t.get_text() for t in ax.get_legend().get_texts()}
    assert words == {"reproduced (1)", "differs (1)", "undecided (1)", "not run (1)"}


def test_roc_shows_nothing_below_what_the_sample_resolves():
    curve = pd.DataFrame({"fpr": [0, 1e-4, 0.01, 1], "tpr": [0, 0.2, 0.3, 1]})
    ax = plots.roc(curve, smallest_fpr=0.001)
    assert ax.lines[0].get_xydata().tolist() == [[0.01, 0.3], [1, 1]]
    assert ax.lines[0].get_drawstyle() == "steps-post"
    with pytest.raises(ValueError, match="1 / number of non-members"):
        plots.roc(curve, smallest_fpr=1000)


def test_heatmaps_share_one_scale():
    frame = pd.DataFrame(np.eye(3), list("abc"), list("abc"))
    fig = plots.heatmap({"original": frame, "synthetic": frame / 2})
    limits = [ax.collections[0].get_clim() for ax in fig.axes if ax.get_title("left")]
    assert limits == [(-1, 1), (-1, 1)]
    many = pd.DataFrame(np.eye(plots.MOST_NAMES + 1))
    assert plots.heatmap(many).axes[0].get_xlabel() == f"{plots.MOST_NAMES + 1} columns"


def test_a_second_drawing_on_the_same_axis_keeps_the_legend_title(summary):
    _, ax = plots.figure()
    plots.lines(summary, x="epsilon", metric="accuracy", hue="way", ax=ax)
    prints = pd.DataFrame({"epsilon": [1], "printed": [0.6]})
    more = summary.query("way == 'data'")
    plots.lines(more, x="epsilon", metric="accuracy", printed=prints, ax=ax)
    assert ax.get_legend().get_title().get_text() == "way"
    assert len(ax.get_legend().get_texts()) == 3


def test_a_dollar_in_a_name_is_a_dollar_and_powers_of_ten_are_powers():
    """`hours $_per_$ week` is no mathematics, `$1 or $2` no italics; logarithmic ticks are."""
    names = ["US$^region$", "hours $_per_$ week", "$1 or $2"]
    matrix = plots.heatmap(pd.DataFrame(np.eye(3), names, names))
    points = plots.scatter(pd.DataFrame({"US$^x$": [1, 2, 3], "y": names}), x="US$^x$", y="y")
    for part in (matrix, points):
        fig = part if isinstance(part, Figure) else part.figure
        plots.render(fig)
        texts = [t for t in fig.findobj(Text) if "$" in t.get_text()]
        assert len(texts) >= 4
        assert not any(t.get_parse_math() and is_math_text(t.get_text()) for t in texts)
    ways = pd.DataFrame({"way": names, "x": [1, 2, 3], "value": [0.1, 1, 100]})
    ax = plots.lines(ways, x="x", hue="way", logy=True)
    plots.render(ax.figure)
    ticks = [t for t in ax.get_yticklabels() if "10^" in t.get_text()]
    assert ticks
    assert all(t.get_parse_math() for t in ticks)


@pytest.mark.parametrize("values", ["xyz", (1, 2, 3)])
def test_points_need_no_hue(values):
    rows = [
        {"a": a, "metric": "recall", "replicate": r, "value": 0.1 * r}
        for a in values
        for r in range(3)
    ]
    fig = plots.points(pd.DataFrame(rows), x="a", metric="recall")
    assert fig is not None
