"""One look for all pictures: tidy rows in, a picture with words beside it out.

seaborn does the statistics and draws; this module adds the house style, a marker and a dash beside
each colour, axes named in words, printed numbers and levels to compare with, and the caption and
alternative text without which nothing is shown.
"""

import base64
import html
import io
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from pet_lab.checks import require
from pet_lab.rows import Claim
from pet_lab.workbench import results, tables
from pet_lab.workbench.tables import (  # noqa: F401  (plots is the one name that notebooks know)
    LABELS,
    MOST_ROWS,
    label,
    number,
    table,
    table_html,
)

STYLE = mpl.rc_params_from_file(
    Path(__file__).with_name("pet_lab.mplstyle"), use_default_template=False
)
_CYCLE = STYLE["axes.prop_cycle"].by_key()
COLOURS, LINES = tuple(_CYCLE["color"]), tuple(_CYCLE["linestyle"])
DASHES = tuple("" if line == "-" else line[1] for line in LINES)  # as seaborn writes them
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*")
HATCHES = ("", "//", "..", "\\\\", "xx", "--", "oo", "||", "++")
VERDICTS = {  # verdict: (colour, marker); the words are in the legend, so neither stands alone
    "reproduced": ("#009E73", "o"),
    "compatible": ("#56B4E9", "s"),
    "differs": ("#D55E00", "X"),
    "uninformative": ("#999999", "P"),
    "undecided": ("#E69F00", "D"),
}
Z95 = 1.96  # two-sided 95 % of a normal
FEW = 12  # settings that are drawn as points with bars; more become a line in its band
MOST_NAMES = 20  # rows of a matrix that can be named and still be read
SVG_LIMIT = 160_000  # a larger one is mostly points: pixels are then smaller and faster
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))  # same data, same bytes
_NOTE: dict[str, Any] = {"textcoords": "offset points", "fontsize": "small", "color": "#444444"}
Picture = Axes | Figure | None
Draw = Callable[[pd.DataFrame, Axes, dict[str, Any], dict[str, str]], None]


def use_style(labels: Mapping[str, str] | None = None) -> None:
    """Apply the house style to every later figure, and add a study's words for its columns."""
    mpl.rcParams.update(STYLE)
    LABELS.update(labels or {})


def figure(
    nrows: int = 1,
    ncols: int = 1,
    *,
    width: float = 6.8,
    height: float | None = None,
    **kwargs: Any,
) -> tuple[Figure, Any]:
    """An empty figure in the house style and its axes, as `Figure.subplots` returns them.

    `width` and `height` are inches: the default width fills a report's column, the height follows
    the grid. pyplot does not know the figure, so that a notebook never prints it a second time.
    """
    use_style()
    size = (width, height or (3.6 if nrows == 1 else 2.7 * nrows))
    fig = Figure(figsize=size, layout="constrained")
    return fig, fig.subplots(nrows, ncols, **kwargs)


def show(fig: Figure | Axes, *, alt: str | Claim, caption: str | Claim) -> None:
    """Display a figure with its text alternative and caption, and close it.

    `alt` says what the picture shows to readers who cannot see it: the kind of plot, the axes, the
    course of the lines. `caption` is the finding, in a sentence; markdown and mathematics are
    allowed. ValueError if one of them is empty, or both are the same. Reports read the metadata
    ``{mime: {"alt", "caption", "width"}}``, JupyterLab, which ignores those, an HTML twin.
    """
    claims = tables.traced(alt, caption)
    alt, caption = (tables.sentence(t, n) for t, n in ((alt, "alt"), (caption, "caption")))
    require(
        alt != caption, "alt repeats the caption; describe the picture in alt, state the finding."
    )
    fig = _root(fig)
    mime, data, uri = render(fig)
    plt.close(fig)  # a figure that pyplot holds would be shown a second time
    width = round(fig.get_figwidth() * 100)
    twin = (
        f'<figure style="margin:0"><img src="{uri}" alt="{html.escape(alt)}" '
        f'style="width:{width}px;max-width:100%;background:white">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )
    tables.display(
        {mime: data, "text/html": twin, "text/plain": f"[figure: {alt}]\n{caption}"},
        {mime: {"alt": alt, "caption": caption, "width": width}, **claims},
    )


def render(fig: Figure) -> tuple[str, str, str]:
    """(mime type, data as a notebook stores it, data URI): SVG if small, else PNG at 200 dpi."""
    texts = fig.findobj(Text)
    with mpl.rc_context({"text.parse_math": False}):
        for text in texts:
            text.set_parse_math(False)
        fig.draw_without_rendering()  # ticks have their text only now
    sides = [axis for axes in fig.axes for axis in (axes.xaxis, axes.yaxis)]
    ticks = [tick for axis in sides for tick in (*axis.majorTicks, *axis.minorTicks)]
    spare = [text for tick in ticks for text in (tick.label1, tick.label2)]  # saving may need them
    for text in [*fig.findobj(Text), *spare]:  # a dollar in a column's name is no mathematics
        text.set_parse_math("$" not in text.get_text() or "\\" in text.get_text())
    buffer = io.BytesIO()
    fig.savefig(buffer, format="svg", bbox_inches="tight", metadata=_NO_METADATA)
    if buffer.tell() <= SVG_LIMIT:
        coded = base64.b64encode(buffer.getvalue()).decode()
        return "image/svg+xml", buffer.getvalue().decode(), f"data:image/svg+xml;base64,{coded}"
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=200, bbox_inches="tight")
    coded = base64.b64encode(buffer.getvalue()).decode()
    return "image/png", coded, f"data:image/png;base64,{coded}"


# --- pictures --------------------------------------------------------------------------------


def lines(
    rows: pd.DataFrame,
    *,
    x: str,
    metric: str | Sequence[str] | None = None,
    printed: pd.DataFrame | None = None,
    reference: Mapping[str, Any] | None = None,
    logx: bool | None = None,
    logy: bool = False,
    kind: Literal["lines", "points", "bars"] = "lines",
    **layout: Any,
) -> Picture:
    """Means with 95 % intervals against `x`: a line per `hue`, a panel per `col` and `row`.

    Parameters
    ----------
    rows : tidy rows with "value" (intervals over replicates, or from "se" where a setting has one
        row), or a summary with "mean" and "se". Where no error is known the mean stands alone.
    x : numbers; words, or numbers with an infinite or missing one among them (no privacy, say), are
        categories and drawn as by `points`.
    metric : keeps one metric and names the y axis; of several, each gets a panel and a scale.
    printed : numbers from the source, as open diamonds: a column "printed" and those of `x`, `hue`,
        `col`, `row` and "metric" that say where they belong.
    reference : levels to compare with, {text: y} or {metric: {text: y}}.
    logx : default: logarithmic if at most twelve settings span two decades or more.
    **layout
        hue, style, col, row: columns told apart by colour, by marker and dash (default: as `hue`)
        and by panel; sharey; height in inches; ax to draw on; caption and alt to show the picture
        with (see `show`).

    Returns
    -------
    None if the picture was shown, else its Axes, or the Figure if it has several.

    Raises
    ------
    ValueError
        If nothing is to draw, if a mean would mix metrics or readings, or if there are more lines
        than looks that can be told apart.
    """
    panels = _Layout(**layout)
    if metric is None and "metric" in (panels.row, panels.col):
        metric = list(dict.fromkeys(rows["metric"]))
    if metric is not None and not isinstance(metric, str):
        if "metric" not in panels.columns:
            panels.row = "metric" if panels.col else panels.row
            panels.col = panels.col or "metric"
        panels.sharey = panels.sharey and panels.col != "metric"
    hue = panels.hue
    frame = _chosen(rows, metric, list(dict.fromkeys([x, *panels.columns])))
    numeric = tables.is_number(frame[x])
    if kind == "lines" and not (numeric and np.isfinite(frame[x]).all()):
        kind = "points"
    ordered = numeric or isinstance(frame[x].dtype, pd.CategoricalDtype)

    def draw(part: pd.DataFrame, axes: Axes, looks: dict[str, Any], place: dict[str, str]) -> None:
        if kind != "lines":  # a panel names its own categories, not those of the others
            part = part.assign(**{x: part[x].cat.remove_unused_categories()})
        spread = _means(part, axes, looks, kind=kind, x=x, ordered=ordered)
        name = place.get("metric", metric if isinstance(metric, str) else "value")
        if printed is not None and results.against_print(rows):
            here = printed[_same(printed, {"metric": name} | place)]
            _diamonds(here, part, axes, x=x, hue=hue, spread=spread)
        levels = dict(reference or {})
        if any(isinstance(level, Mapping) for level in levels.values()):
            levels = levels.get(name, {})
        for text, y in levels.items():  # a thin line named at its right end
            axes.axhline(y, color="#555555", linewidth=1, linestyle=(0, (2, 2)), zorder=1)
            end: Any = ("axes fraction", "data")
            axes.annotate(text, (1, y), xycoords=end, xytext=(-2, 3), ha="right", **_NOTE)
        axes.set(xlabel=label(x), ylabel=label(name), yscale="log" if logy else "linear")
        if kind == "lines":
            _scale(axes, np.unique(frame[x]), logx)
        else:
            _tilt(axes)

    return panels.picture(frame, draw, words=[] if kind == "lines" else [x])


def points(rows: pd.DataFrame, *, x: str, **options: Any) -> Picture:
    """As `lines` with the settings of `x` as categories and the intervals side by side."""
    return lines(rows, x=x, kind="points", **options)


def bars(rows: pd.DataFrame, *, x: str, **options: Any) -> Picture:
    """As `points`, drawn as bars from zero: for counts and amounts."""
    return lines(rows, x=x, kind="bars", **options)


def scatter(
    frame: pd.DataFrame, *, x: str, y: str, label: str | None = None, **layout: Any
) -> Picture:
    """`x` against `y`, a point per row of a wide frame, annotated with its column `label`."""

    def draw(part: pd.DataFrame, axes: Axes, looks: dict[str, Any], _: Any) -> None:
        looks = {k: v for k, v in looks.items() if k not in ("dashes", "marker")}
        size, alpha = (36, 0.9) if len(part) <= 100 else (14, 0.5)
        sns.scatterplot(part, x=x, y=y, s=size, alpha=alpha, ax=axes, **looks)
        for name, *at in part[[label, x, y]].to_numpy() if label else ():
            axes.annotate(number(name), (at[0], at[1]), xytext=(5, 3), **_NOTE)
        axes.set(xlabel=tables.label(x), ylabel=tables.label(y))

    return _Layout(**layout).picture(frame, draw)


def roc(curves: pd.DataFrame, *, smallest_fpr: float, **layout: Any) -> Picture:
    """ROC curves on logarithmic axes, honest about what the sample can resolve.

    `curves` has "fpr", "tpr" in [0, 1] and the columns that `layout` names, as for `lines`: step
    functions, a rate holds until the next threshold. Below `smallest_fpr`, 1 / number of
    non-members, a curve says nothing, and the picture is shaded.
    """
    inside = 0 < smallest_fpr < 1
    require(inside, f"smallest_fpr is 1 / number of non-members, got {smallest_fpr}.")
    low = smallest_fpr / 3

    def draw(part: pd.DataFrame, axes: Axes, looks: dict[str, Any], _: Any) -> None:
        part = part[part["fpr"] >= smallest_fpr].sort_values(["fpr", "tpr"])
        part = part.assign(tpr=part["tpr"].clip(lower=low))
        steps = {"drawstyle": "steps-post", "estimator": None, "sort": False}
        sns.lineplot(part, x="fpr", y="tpr", ax=axes, **_bare(looks), **steps)
        axes.plot([low, 1], [low, 1], color="#777777", lw=1, ls=(0, (2, 2)), label="chance")
        axes.axvspan(low, smallest_fpr, color="#eeeeee", zorder=0)
        text = f"below 1 / {round(1 / smallest_fpr):,}:\ntoo few non-members"
        edge = ("data", "axes fraction")
        axes.annotate(text, (smallest_fpr, 0.97), xycoords=edge, xytext=(4, 0), va="top", **_NOTE)
        axes.set(xscale="log", yscale="log", xlim=(low, 1), ylim=(low, 1.05))
        axes.set(xlabel=label("fpr"), ylabel=label("tpr"))

    return _Layout(**layout).picture(curves, draw)


def agreement(scored: pd.DataFrame, **layout: Any) -> Picture:
    """Ours against published, by verdict, with the line of equality.

    `scored` is what `scorecard.score` returns; cells not run are counted in the legend.
    """
    data = scored.astype({"published": float, "ours": float, "se": float})

    def draw(part: pd.DataFrame, axes: Axes, _looks: Any, _place: Any) -> None:
        run = part.dropna(subset=["ours", "published"])
        for verdict, (colour, marker) in VERDICTS.items():
            cells = run[run["verdict"] == verdict]
            look: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": "none"}
            if len(cells):
                text, half = f"{verdict} ({len(cells)})", Z95 * cells["se"]
                axes.errorbar(cells["published"], cells["ours"], yerr=half, label=text, **look)
        if len(part) > len(run):
            axes.plot([], [], " ", label=f"not run ({len(part) - len(run)})")
        both = run[["published", "ours"]].to_numpy()
        if len(both):
            low, high = both.min(), both.max()
            scale = "log" if low > 0 and high / low >= 1000 else "linear"
            axes.plot([low, high], [low, high], color="#777777", linewidth=1, ls="-", zorder=1)
            axes.set(xscale=scale, yscale=scale)
        axes.set(xlabel="published", ylabel="ours (95 % interval)")
        axes.legend()  # of its own: the counts differ from panel to panel

    panels = _Layout(legend=False, sharey=False, **layout)
    return panels.picture(data, draw)


def heatmap(
    frames: pd.DataFrame | Mapping[str, pd.DataFrame],
    *,
    text: str = "correlation",
    limits: tuple[float, float] = (-1, 1),
    caption: str | None = None,
    alt: str | None = None,
) -> Picture:
    """Matrices side by side on one scale, `limits`, named `text`.

    Rows and columns are named up to `MOST_NAMES`: above that they are counted.
    """
    frames = {"": frames} if isinstance(frames, pd.DataFrame) else frames
    _, grid = figure(1, len(frames), width=min(10, 3.4 * len(frames) + 1), squeeze=False)
    cmap = "RdBu_r" if limits[0] < 0 else "cividis"
    scale = dict(zip(("vmin", "vmax"), limits, strict=True)) | {"cmap": cmap}
    for axes, (title, frame) in zip(grid.ravel(), frames.items(), strict=True):
        named = len(frame) <= MOST_NAMES
        index, columns = (  # seaborn measures the names
            [name.replace("$", r"\$") for name in ax.map(str)]
            for ax in (frame.index, frame.columns)
        )
        escaped = pd.DataFrame(frame.to_numpy(float), index, columns)
        looks = {"square": True, "cbar": False, "xticklabels": named, "yticklabels": named}
        sns.heatmap(escaped, ax=axes, **scale, **looks)
        axes.set(title=title, ylabel="", xlabel="" if named else f"{len(frame)} columns")
        size = "small" if len(frame) <= MOST_NAMES // 2 else "x-small"
        axes.tick_params(length=0, labelsize=size)
        axes.tick_params(axis="y", rotation=0)
    image = grid[0, 0].collections[0]
    grid[0, 0].figure.colorbar(image, ax=list(grid.ravel()), shrink=0.75, label=text)
    return _shown(grid[0, 0], caption, alt)


# --- what the pictures share -----------------------------------------------------------------


@dataclass(kw_only=True)
class _Layout:
    """What all pictures share: looks, panels, one legend, and the words that show it."""

    hue: str | None = None
    style: str | None = None
    col: str | None = None
    row: str | None = None
    height: float | None = None
    sharey: bool = True
    ax: Axes | None = None
    caption: str | Claim | None = None
    alt: str | None = None
    legend: bool = True

    @property
    def columns(self) -> list[str]:
        return [k for k in (self.hue, self.style, self.col, self.row) if k]

    def picture(self, frame: pd.DataFrame, draw: Draw, words: Sequence[str] = ()) -> Picture:
        """Call `draw(rows, axes, looks, place)` for each panel; show it or hand it back."""
        self.style = self.style or self.hue
        frame = _worded(frame, [*self.columns, *words])
        old = self.ax.get_legend() if self.ax else None
        title = label(self.hue) if self.hue and self.style == self.hue else ""
        title = title or (old.get_title().get_text() if old else "")
        looks, drawn = self._looks(frame), []
        for axes, part, place in self._panels(frame):
            draw(part, axes, looks, place)
            drawn.append(axes)
        if self.legend:
            _legend(drawn, title, inside=self.ax is not None)
        return self.ax or _shown(drawn[0], self.caption, self.alt)

    def _looks(self, frame: pd.DataFrame) -> dict[str, Any]:
        """seaborn's arguments for colour by `hue`, marker and dash by `style`."""
        sizes = {k: len(frame[k].cat.categories) for k in (self.hue, self.style) if k}
        for name, n in sizes.items():
            require(
                n <= len(COLOURS),
                f"{n} values of {name} need more looks than the {len(COLOURS)} that can be told "
                "apart: draw fewer, or give them panels (col).",
            )
        looks: dict[str, Any] = {"color": COLOURS[0]}
        if self.hue:
            looks = {"hue": self.hue, "palette": list(COLOURS[: sizes[self.hue]])}
        if not self.style:
            return looks | {"marker": "o"}
        markers, dashes = (list(look[: sizes[self.style]]) for look in (MARKERS, DASHES))
        return looks | {"style": self.style, "markers": markers, "dashes": dashes}

    def _panels(self, frame: pd.DataFrame) -> Iterator[tuple[Axes, pd.DataFrame, dict[str, str]]]:
        """(axes, rows, {column: its value}) of each panel; panels of `col` alone wrap."""
        names = [k for k in (self.row, self.col) if k]
        values = itertools.product(*(frame[k].cat.categories for k in names))
        places = [dict(zip(names, at, strict=True)) for at in values]
        if self.ax is not None:
            asked = " and ".join(names)
            require(len(places) == 1, f"ax is one panel, but {asked} ask for {len(places)}.")
            yield self.ax, frame, places[0]
            return
        n = len(frame[self.col].cat.categories) if self.col else 1
        ncols = n if self.row or n <= 3 else 2 if n == 4 else 3
        size: dict[str, Any] = {"width": {1: 6.8, 2: 8.6}.get(ncols, 10.4), "height": self.height}
        share = "row" if self.row and self.sharey else self.sharey
        _, grid = figure(math.ceil(len(places) / ncols), ncols, sharey=share, squeeze=False, **size)
        for axes in grid.ravel()[len(places) :]:
            axes.remove()
        for axes, place in zip(grid.ravel(), places, strict=False):
            shown = {k: v for k, v in place.items() if k != "metric"}
            titles = [v if v[:1].isalpha() else f"{label(k)} {v}" for k, v in shown.items()]
            wide = len(", ".join(titles)) > 60 / ncols
            axes.set_title((",\n" if wide else ", ").join(titles))
            yield axes, frame[_same(frame, place)], place


def _legend(drawn: Sequence[Axes], title: str, *, inside: bool) -> None:
    """One legend for all panels: inside, beside a single one, or below several."""
    entries: dict[str, Any] = {}
    for axes in drawn:
        if old := axes.get_legend():
            old.remove()
        handles, names = axes.get_legend_handles_labels()
        entries |= {LABELS.get(n, n): h for n, h in zip(names, handles, strict=True)}
    given: dict[str, Any] = {"handles": list(entries.values()), "labels": list(entries)}
    if entries and inside:
        drawn[0].legend(**given, title=title)
    elif entries:
        place: dict[str, Any] = {"loc": "outside right upper"}
        if len(drawn) > 1:
            place = {"loc": "outside lower center", "ncols": min(len(entries), 4)}
        drawn[0].figure.legend(**given, title=title, **place, frameon=False)


def _root(picture: Figure | Axes) -> Figure:
    fig = picture.get_figure(root=True)
    assert isinstance(fig, Figure)
    return fig


def _shown(axes: Axes, caption: str | Claim | None, alt: str | None) -> Picture:
    """Show the picture where it has words, else hand it back."""
    fig = _root(axes)
    if caption is None and alt is None:
        return axes if len(fig.axes) == 1 else fig
    show(fig, caption=caption or "", alt=alt or "")
    return None


def _chosen(
    rows: pd.DataFrame, metric: str | Sequence[str] | None, keys: Sequence[str]
) -> pd.DataFrame:
    """Columns `keys`, "value" and "se" of the rows of `metric`, checked."""
    names = [metric] if isinstance(metric, str) else list(metric or ())
    if names and "metric" in rows:
        rows = rows[rows["metric"].isin(names)]
        absent = sorted(set(names) - set(rows["metric"]))
        require(not absent, f"no rows of metric {', '.join(absent)} to draw.")
        rows = rows.assign(metric=pd.Categorical(rows["metric"], names))
    summary = "value" not in rows
    rows = rows.rename(columns={"mean": "value"}) if summary else rows
    there = ", ".join(map(str, rows.columns))
    require(
        len(rows) and {*keys, "value"} <= set(rows),
        f"nothing to draw: {len(rows)} rows with the columns {there}.",
    )
    for name in ("metric", "reading"):
        mixed = name in rows and name not in keys and rows[name].nunique() > 1
        require(not mixed, f"a mean over several values of {name}: select one or draw it by hue.")
    if summary:
        several = f"several means at one {', '.join(keys)}: draw what tells them apart."
        require(not rows.duplicated(keys).any(), several)
    frame = rows[[*keys, "value"]].assign(se=rows.get("se", np.nan))
    # A mean over the finite replicates would flatter: with an infinite one there is no mean.
    settings = [frame[k] for k in keys]
    endless = np.isinf(frame["value"]).groupby(settings, dropna=False, observed=True)
    return frame.assign(value=frame["value"].mask(endless.transform("any")))


def _word(value: Any) -> str:
    return LABELS.get(value) or number(value)


def _worded(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """These columns as words, in order: numbers and categories by size, all else as it comes."""
    for name in dict.fromkeys(names):
        values = frame[name].drop_duplicates()
        if tables.is_number(values) or isinstance(values.dtype, pd.CategoricalDtype):
            values = values.sort_values()
        # A metric is named on its axis or in the legend; values that look alike stay apart.
        alike = len({_word(v) for v in values}) < len(values)
        word = str if alike or name == "metric" else _word
        column = pd.Categorical([*map(word, frame[name])], [*map(word, values)], ordered=True)
        frame = frame.assign(**{name: column})
    return frame


def _same(frame: pd.DataFrame, place: Mapping[str, str]) -> np.ndarray:
    """Which rows belong to a panel: those that agree in what they have of its `place`."""
    same = np.ones(len(frame), bool)
    for name in place.keys() & set(frame):
        same &= np.array([place[name] in (v, _word(v)) for v in frame[name]], bool)
    return same


def _bare(looks: Mapping[str, Any]) -> dict[str, Any]:
    """The same looks without markers, which would turn a dense line into a row of blobs."""
    return {**looks, "markers": False} if "style" in looks else {**looks, "marker": ""}


def _means(
    part: pd.DataFrame, axes: Axes, looks: Mapping[str, Any], *, kind: str, x: str, ordered: bool
) -> float:
    """Means and intervals by seaborn; returns the width over which the hues stand side by side."""
    keys = list(dict.fromkeys(k for k in (x, looks.get("hue"), looks.get("style")) if k))
    alone = ~part.duplicated(keys, keep=False) & (part["se"] > 0)
    # Two values, m - se and m + se, have the mean m and the standard error se: exactly.
    half = part["se"].where(alone, 0)
    above = part.assign(value=part["value"] + half)[alone]
    twins = pd.concat([part.assign(value=part["value"] - half), above])
    means: dict[str, Any] = {"data": twins, "x": x, "y": "value", "ax": axes}
    means["errorbar"] = ("se", Z95)
    if kind == "lines":
        if part[x].nunique() > FEW:
            sns.lineplot(**means, **_bare(looks))
        else:
            caps = {"capsize": 2.5, "elinewidth": 1.4}
            with warnings.catch_warnings():  # seaborn hands a line of one point over as a Series
                warnings.filterwarnings("ignore", "Calling float on a single", FutureWarning)
                sns.lineplot(**means, **looks, err_style="bars", err_kws=caps)
        return 0.0
    means |= {k: looks[k] for k in ("hue", "palette", "color") if k in looks}
    levels = len(looks.get("palette", "1"))
    n = 1 if looks.get("hue") == x else levels  # how many stand side by side
    solid: dict[str, Any] = {"linestyle": "-", "linewidth": 1.4}
    if kind == "bars":
        sns.barplot(**means, saturation=1, capsize=0.3 / n, err_kws=solid | {"color": "#222222"})
        handles = axes.get_legend_handles_labels()[0][-levels:]
        for i, group in enumerate(axes.containers[-levels:]):
            for patch in (*group, *handles[i : i + 1]):
                patch.set_hatch(HATCHES[i])
        return 0.8 * (n - 1) / n
    spread = min(0.1 * (n - 1), 0.5)
    # Without a hue seaborn takes one look, not a list of them.
    markers, joined = (
        list(look[:levels]) if looks.get("hue") else look[0] for look in (MARKERS, LINES)
    )
    ends: dict[str, Any] = {"capsize": 0.05, "linewidth": 1.6, "markersize": 6, "err_kws": solid}
    joined = joined if ordered else "none"
    sns.pointplot(**means, **ends, markers=markers, linestyles=joined, dodge=spread or False)
    return spread


def _diamonds(
    printed: pd.DataFrame, ours: pd.DataFrame, axes: Axes, *, x: str, hue: str | None, spread: float
) -> None:
    """Printed numbers in front of ours, beside their hue; settings that were not run stay out."""
    for name in dict.fromkeys((x, hue)):
        if name in printed and isinstance(ours[name].dtype, pd.CategoricalDtype):
            words = printed[name].map(_word)
            index = ours[name].cat.categories.get_indexer(pd.Index(words))
            printed = printed.assign(**{str(name): index})[index >= 0]
    at, colours = printed[x].to_numpy(float), ["#222222"]
    if hue is not None and hue in printed:
        last = len(ours[hue].cat.categories) - 1
        at = at + spread * (printed[hue] / max(last, 1) - 0.5)
        colours = [COLOURS[i] for i in printed[hue]]
    look: dict[str, Any] = {"marker": "D", "s": 46, "facecolors": "white"}
    look |= {"linewidths": 1.4, "zorder": 4}
    axes.scatter(at, printed["printed"].astype(float), edgecolors=colours, **look)
    axes.scatter([], [], edgecolors="#222222", label="printed in the source", **look)


def _scale(axes: Axes, settings: np.ndarray, logx: bool | None) -> None:
    """Logarithmic where asked, or where few settings span decades; few settings are all named."""
    spans = settings[0] > 0 and settings[-1] / settings[0] >= 100 and len(settings) <= FEW
    if spans if logx is None else logx:
        axes.set_xscale("log")
        if len(settings) <= 8:
            axes.set_xticks(settings, [number(v) for v in settings])
            axes.minorticks_off()


def _tilt(axes: Axes) -> None:
    """Turn the names of categories where they would run into one another."""
    names, spec = axes.get_xticklabels(), axes.get_subplotspec()
    room = 60 - 8 * (spec.get_gridspec().ncols if spec else 1)  # letters
    look: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
    if len(names) > 10:
        look = {"rotation": 90, "ha": "center"}
    if len(names) * max(len(name.get_text()) + 2 for name in names) > room:
        for name in names:
            name.set(**look)
