"""One look for all pictures and tables: drawn on a given axis, shown with words beside them.

A helper draws a *summary* (computed elsewhere, see `results.summarise`) on an axis it is given; it
computes nothing, opens nothing and takes no styling arguments. `show` and `table` put the result on
the page, and refuse to do so without the text that readers who cannot see it need.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation, Transform

STYLE = Path(__file__).with_name("pet_lab.mplstyle")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
VERDICTS = {  # verdict: (colour, marker); the words are in the legend, so neither stands alone
    "reproduced": ("#009E73", "o"),
    "differs": ("#D55E00", "X"),
    "inconclusive": ("#E69F00", "D"),
}
Z95 = 1.96  # two-sided 95 % of a normal

LABELS: dict[str, str] = {
    # what a column is called on an axis or in a table head, with its unit; notebooks add theirs
    "epsilon": "privacy budget ε",
    "delta": "δ",
    "accuracy": "accuracy (share right)",
    "precision": "precision",
    "recall": "recall",
    "recall_actual": "recall, actual",
    "recall_estimated": "recall, estimated",
    "fpr": "false positive rate",
    "tpr": "true positive rate",
    "auc": "area under the ROC curve",
    "se": "standard error",
    "sd": "standard deviation",
    "replicates": "replicates",
    "error_rate": "share of records with a typo",
    "cpu_s": "CPU time (s)",
    "wall_s": "wall time (s)",
    "batch_size": "batch size (records)",
    "learning_rate": "learning rate",
    "clip": "clipping norm",
    "epochs": "epochs",
}

MOST_NAMES = 20  # rows of a matrix that can be named and still be read
Format = str | Callable[[Any], str]


# --- words and numbers -----------------------------------------------------------------------


def label(name: str) -> str:
    """Words for a column: from `LABELS`, else the name with its underscores opened up."""
    return LABELS.get(name, str(name).replace("_", " "))


def number(value: Any) -> str:
    """A value for a table or a tick: four significant digits, thousands separated, "∞" and "–"."""
    if value is None or value is pd.NA:
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if not isinstance(value, (int, float, np.integer, np.floating)):
        return str(value)
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        text = "∞" if value > 0 else "-∞"
    elif value >= 1e3 or value <= -1e3 or float(value).is_integer():
        text = f"{value:,.0f}"
    else:
        text = f"{value:.4g}"
    return text.replace("-", "−", 1) if text.startswith("-") else text


# --- a figure on the page --------------------------------------------------------------------


def use_style() -> None:
    """Apply the house style to every figure made from now on."""
    mpl.rcParams.update(mpl.rc_params_from_file(STYLE, use_default_template=False))


def figure(
    nrows: int = 1,
    ncols: int = 1,
    *,
    width: float = 6.8,
    height: float | None = None,
    **kwargs: Any,
) -> tuple[Figure, Any]:
    """An empty figure in the house style and its axes.

    Parameters
    ----------
    nrows, ncols : int
        Grid of axes; one axis is returned bare, more as an array of shape (nrows, ncols) squeezed.
    width, height : float
        Inches. The default width fills a report's column; the height follows the grid.
    **kwargs
        Passed to `Figure.subplots` (sharex, sharey, width_ratios through gridspec_kw, ...).

    Returns
    -------
    (Figure, Axes or array of Axes). Not registered with pyplot, so it needs no closing and a
    notebook never prints it a second time.
    """
    use_style()
    size = (width, height or (3.6 if nrows == 1 else 2.7 * nrows))
    fig = Figure(figsize=size, layout="constrained")
    return fig, fig.subplots(nrows, ncols, **kwargs)


# An SVG above this is mostly points: a picture of pixels is then the smaller and faster one.
SVG_LIMIT = 160_000
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))  # same data, same bytes


def show(fig: Figure | Axes, *, alt: str, caption: str) -> None:
    """Display a figure with its text alternative and caption, and close it.

    Parameters
    ----------
    fig : Figure or Axes
    alt : str
        What the picture shows, for readers who cannot see it: the kind of plot, the axes, the
        course of the lines. Not empty, and not the caption again.
    caption : str
        The finding, in a sentence. Markdown and mathematics are allowed.

    Raises
    ------
    ValueError
        If `alt` or `caption` is empty, or both are the same.

    Notes
    -----
    Displays SVG where that is small and PNG at double resolution otherwise, with metadata
    ``{mime: {"alt", "caption", "width"}}`` for reports and an HTML twin for JupyterLab, which
    ignores alternative texts in metadata.
    """
    alt, caption = _words(alt, "alt"), _words(caption, "caption")
    if alt == caption:
        raise ValueError("alt repeats the caption; describe the picture in alt, state the finding.")
    if isinstance(fig, Axes):
        fig = fig.get_figure(root=True)  # type: ignore[assignment]
    assert isinstance(fig, Figure)
    mime, data, uri = render(fig)
    if hasattr(fig, "number"):  # pyplot holds it, and a notebook would show it a second time
        import matplotlib.pyplot as plt

        plt.close(fig)
    width = round(fig.get_figwidth() * 100)
    figure_html = (
        f'<figure style="margin:0"><img src="{uri}" alt="{html.escape(alt)}" '
        f'style="width:{width}px;max-width:100%;background:white">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )
    _display(
        {mime: data, "text/html": figure_html, "text/plain": f"[figure: {alt}]\n{caption}"},
        {mime: {"alt": alt, "caption": caption, "width": width}},
    )


def _words(text: str, name: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{name} must say in words what the picture shows, got {text!r}.")
    return " ".join(text.split())


def render(fig: Figure) -> tuple[str, str, str]:
    """(mime type, data as a notebook stores it, data URI) of a figure."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="svg", bbox_inches="tight", metadata=_NO_METADATA)
    if buffer.tell() <= SVG_LIMIT:
        raw, mime = buffer.getvalue(), "image/svg+xml"
    else:
        buffer = io.BytesIO()
        fig.savefig(buffer, format="png", dpi=200, bbox_inches="tight")
        raw, mime = buffer.getvalue(), "image/png"
    coded = base64.b64encode(raw).decode()
    return mime, raw.decode() if mime == "image/svg+xml" else coded, f"data:{mime};base64,{coded}"


def _display(data: Mapping[str, Any], metadata: Mapping[str, Any] | None = None) -> None:
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is None:  # a script: words, not megabytes of markup
        print(data["text/plain"])
    else:
        display(dict(data), metadata=dict(metadata or {}), raw=True)


# --- a table on the page ---------------------------------------------------------------------

KINDS = {
    "aggregate": "each row sums up many records, runs or replicates",
    "schema": "each row describes a column",
    "synthetic": "made-up or generated records, of no real person or firm",
}
MOST_ROWS = 400  # a table of summaries that is longer is most likely a table of records


def table(
    frame: pd.DataFrame,
    *,
    caption: str,
    formats: Mapping[str, Format] | None = None,
    kind: str = "aggregate",
    index: bool = False,
) -> None:
    """Display a frame as an accessible table.

    Parameters
    ----------
    frame : DataFrame
    caption : str
        What the table says; not empty.
    formats : mapping from column to format spec (".3f", "{:.1%}") or function, optional
        Numbers in other columns get four significant digits.
    kind : {"aggregate", "schema", "synthetic"}
        Why it is safe to show. Reports refuse a table that does not say so, hence also a bare frame
        as the last value of a cell; real records have no kind.
    index : bool
        Whether the index is a (leading) column.

    Raises
    ------
    ValueError
        On an empty caption, an unknown kind, or a table of more than `MOST_ROWS` rows.
    """
    _display(
        {
            "text/html": table_html(
                frame, caption=caption, formats=formats, kind=kind, index=index
            ),
            "text/plain": f"{caption}\n{frame.to_string(index=index)}",
        }
    )


def table_html(
    frame: pd.DataFrame,
    *,
    caption: str,
    formats: Mapping[str, Format] | None = None,
    kind: str = "aggregate",
    index: bool = False,
) -> str:
    """HTML of `table`: caption, scoped heads, numbers to the right, scrolling when too wide."""
    if kind not in KINDS:
        raise ValueError(
            f"kind is one of {', '.join(KINDS)}, got {kind!r}: real records have none."
        )
    if len(frame) > MOST_ROWS:
        raise ValueError(
            f"a table of {len(frame)} rows is no summary; show at most {MOST_ROWS} or draw it."
        )
    caption, formats = _words(caption, "caption"), dict(formats or {})
    if index:
        frame = frame.reset_index()
    names = [" · ".join(map(str, c)) if isinstance(c, tuple) else str(c) for c in frame.columns]
    unknown = set(formats) - set(names)
    if unknown:
        raise ValueError(f"formats name no column: {sorted(unknown)}; columns are {names}.")
    columns = []
    for position, name in enumerate(names):
        values = frame.iloc[:, position]
        right = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
        style = f' style="text-align:{"right" if right else "left"}"'
        columns.append((label(name), style, [_cell(v, formats.get(name)) for v in values]))
    head = "".join(f'<th scope="col"{style}>{html.escape(n)}</th>' for n, style, _ in columns)
    body = "".join(
        "<tr>" + "".join(f"<td{style}>{cells[i]}</td>" for _, style, cells in columns) + "</tr>\n"
        for i in range(len(frame))
    )
    return (
        f'<div class="pl-table" role="region" tabindex="0" aria-label="{html.escape(caption)}" '
        f'style="overflow-x:auto"><table data-pet-lab="{kind}">'
        f"<caption>{html.escape(caption)}</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>"
    )


def _cell(value: Any, spec: Format | None) -> str:
    missing = value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))
    if spec is None or missing:
        text = number(value)
    elif callable(spec):
        text = spec(value)
    else:
        text = spec.format(value) if "{" in spec else format(value, spec)
    return html.escape(text)


# --- summaries drawn on an axis --------------------------------------------------------------


def errorbars(
    summary: pd.DataFrame, *, x: str, ax: Axes, metric: str | None = None, hue: str | None = None
) -> Axes:
    """Mean and 95 % Monte Carlo interval against `x`, one line per `hue`.

    Parameters
    ----------
    summary : DataFrame with columns `x`, "mean", "se" and, if named, `hue` and "metric"
        As `results.summarise` gives it. A missing `se` draws the mean alone.
    x : str
        Numbers spanning two decades or more get a logarithmic axis; a column with words, or with
        an infinite or missing number (no privacy, say), is drawn as categories in order.
    metric : str, optional
        Keeps the rows of one metric and names the y axis.
    """
    place = _Places(summary[x], ax)
    for i, (name, group, colour, marker, line) in enumerate(_parts(summary, metric, hue)):
        part = place.sort(group)
        at, half = place(part[x]), Z95 * part["se"].fillna(0)
        _reach(ax, at, part["mean"] - half, part["mean"] + half)
        ax.errorbar(
            at,
            part["mean"],
            yerr=half,
            color=colour,
            marker=marker,
            linestyle=line,
            label=name,
            transform=_nudged(ax, i, _groups(summary, hue)),
        )
    return _finish(ax, place, metric, hue)


def errorband(
    summary: pd.DataFrame, *, x: str, ax: Axes, metric: str | None = None, hue: str | None = None
) -> Axes:
    """Mean as a line in its 95 % Monte Carlo band: for many values of `x`. As `errorbars`."""
    place = _Places(summary[x], ax)
    for name, group, colour, _, line in _parts(summary, metric, hue):
        part = place.sort(group)
        at, half = place(part[x]), Z95 * part["se"].fillna(0)
        ax.fill_between(
            at, part["mean"] - half, part["mean"] + half, color=colour, alpha=0.18, lw=0
        )
        ax.plot(at, part["mean"], color=colour, linestyle=line, label=name)
    return _finish(ax, place, metric, hue)


def dots(
    rows: pd.DataFrame, *, x: str, ax: Axes, metric: str | None = None, hue: str | None = None
) -> Axes:
    """Every replicate as a small dot, spread sideways so that equal values stay visible.

    Parameters
    ----------
    rows : DataFrame with columns `x`, "value" and, if named, `hue` and "metric"
        Draw it on the same axis as `errorbars`; it adds no legend entries of its own.
    """
    lanes = 7
    place = _Places(rows[x], ax)
    for i, (_, part, colour, marker, _) in enumerate(_parts(rows, metric, hue)):
        lane = part.groupby(x, dropna=False).cumcount().to_numpy() % lanes
        at = place(part[x])
        _reach(ax, at, part["value"])
        for k in range(lanes):
            ax.scatter(
                at[lane == k],
                part["value"].to_numpy()[lane == k],
                s=9,
                color=colour,
                marker=marker,
                alpha=0.35,
                linewidths=0,
                transform=_nudged(ax, i, _groups(rows, hue), extra=1.1 * (k - lanes // 2)),
                zorder=1.5,
            )
    return _finish(ax, place, metric, hue)


def printed(ax: Axes, x: Any, y: Any, *, text: str = "printed in the source") -> Axes:
    """Mark printed numbers: open black diamonds, in front of ours. `x`, `y`: scalars or arrays."""
    ax.plot(
        np.atleast_1d(x),
        np.atleast_1d(y),
        linestyle="none",
        marker="D",
        markersize=7,
        markerfacecolor="white",
        markeredgecolor="#222222",
        markeredgewidth=1.4,
        label=text,
        zorder=4,
    )
    return _legend(ax)


def reference(ax: Axes, y: float, text: str) -> Axes:
    """A level to compare with (the base rate, chance): a thin line named at its right end."""
    ax.axhline(y, color="#555555", linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    ax.annotate(
        text,
        (1, y),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 3),
        textcoords="offset points",
        ha="right",
        color="#444444",
        fontsize="small",
    )
    return ax


def agreement(scored: pd.DataFrame, *, ax: Axes) -> Axes:
    """Ours against published, by verdict, with the line of equality.

    Parameters
    ----------
    scored : DataFrame with columns "published", "ours", "se", "verdict"
        As `scorecard.score` gives it; cells not run are counted in the legend.
    """
    data = scored.assign(published=scored["published"].map(_printed_number)).astype(
        {"ours": float, "se": float}
    )
    run = data.dropna(subset=["ours", "published"])
    for verdict, (colour, marker) in VERDICTS.items():
        part = run[run["verdict"] == verdict]
        if len(part):
            ax.errorbar(
                part["published"],
                part["ours"],
                yerr=Z95 * part["se"],
                linestyle="none",
                marker=marker,
                color=colour,
                label=f"{verdict} ({len(part)})",
            )
    if len(data) > len(run):
        ax.plot([], [], " ", label=f"not run ({len(data) - len(run)})")
    both = run[["published", "ours"]].to_numpy()
    if len(both):
        low, high = float(both.min()), float(both.max())
        if low > 0 and high / low >= 1000:
            ax.set(xscale="log", yscale="log")
        ax.plot([low, high], [low, high], color="#777777", linewidth=1, linestyle="-", zorder=1)
    ax.set(xlabel="published", ylabel="ours (95 % interval)")
    return _legend(ax, always=True)


def roc(curves: pd.DataFrame, *, ax: Axes, smallest_fpr: float, hue: str | None = None) -> Axes:
    """ROC curves on logarithmic axes, honest about what the sample can resolve.

    Parameters
    ----------
    curves : DataFrame with columns "fpr", "tpr" in [0, 1] and, if named, `hue`
        Step functions: a rate holds until the next threshold, nothing is interpolated.
    smallest_fpr : float
        1 / number of non-members: below it a curve says nothing, and the picture is shaded.
    """
    if not 0 < smallest_fpr < 1:
        raise ValueError(f"smallest_fpr is 1 / number of non-members, got {smallest_fpr}.")
    low = smallest_fpr / 3
    for name, group, colour, _, line in _parts(curves, None, hue):
        part = group[group["fpr"] >= smallest_fpr].sort_values(["fpr", "tpr"])
        ax.step(
            part["fpr"],
            part["tpr"].clip(lower=low),
            where="post",
            color=colour,
            ls=line,
            label=name,
        )
    chance = np.array([low, 1.0])
    ax.plot(chance, chance, color="#777777", linewidth=1, linestyle=(0, (2, 2)), label="chance")
    ax.axvspan(low, smallest_fpr, color="#eeeeee", zorder=0)
    ax.annotate(
        f"below 1 / {round(1 / smallest_fpr):,}:\ntoo few non-members",
        (smallest_fpr, 0.97),
        xycoords=("data", "axes fraction"),
        xytext=(4, 0),
        textcoords="offset points",
        va="top",
        fontsize="small",
        color="#444444",
    )
    ax.set(xscale="log", yscale="log", xlim=(low, 1), ylim=(low, 1.05))
    ax.set(xlabel=label("fpr"), ylabel=label("tpr"))
    return _legend(ax, title=hue, always=True)


def heatmaps(frames: Mapping[str, pd.DataFrame], *, axes: Any, text: str = "correlation") -> Any:
    """Correlation matrices side by side on one scale from −1 to 1.

    Parameters
    ----------
    frames : mapping from title to square DataFrame (columns, index: names), values in [-1, 1]
    axes : array of Axes, one per frame

    Notes
    -----
    Columns are named up to `MOST_NAMES`; above that names would be a grey smear, and are counted.
    """
    axes = np.atleast_1d(axes).ravel()
    if len(axes) != len(frames):
        raise ValueError(f"{len(frames)} matrices need as many axes, got {len(axes)}.")
    image = None
    for ax, (title, frame) in zip(axes, frames.items(), strict=True):
        image = ax.imshow(frame.to_numpy(float), cmap="RdBu_r", vmin=-1, vmax=1, aspect="equal")
        if len(frame) > MOST_NAMES:
            ax.set(xticks=[], yticks=[], xlabel=f"{len(frame)} columns")
        else:
            size = "x-small" if len(frame) > MOST_NAMES // 2 else "small"
            ax.set_xticks(range(frame.shape[1]), frame.columns, rotation=90, fontsize=size)
            ax.set_yticks(range(frame.shape[0]), frame.index, fontsize=size)
        ax.set_title(title)
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
    axes[0].figure.colorbar(image, ax=list(axes), shrink=0.75, label=text)
    return axes


# --- shared by the helpers -------------------------------------------------------------------


class _Places:
    """Where values of one column go on an x axis: numbers as they are, all else as categories."""

    def __init__(self, values: pd.Series, ax: Axes) -> None:
        self.name, self.ax = str(values.name), ax
        numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
        self.categories = not numeric or not np.isfinite(values.astype(float)).all()
        unique = list(values.drop_duplicates().sort_values() if numeric else values.unique())
        self.order = {number(v): i for i, v in enumerate(unique)}
        self.numbers = [] if self.categories else [float(v) for v in unique]
        if self.categories:  # all at once: else a group that lacks the first would shuffle the axis
            ax.xaxis.update_units(list(self.order))

    def __call__(self, values: pd.Series) -> np.ndarray:
        if self.categories:
            return np.asarray(self.ax.convert_xunits([number(v) for v in values]), float)
        return values.to_numpy(float)

    def sort(self, part: pd.DataFrame) -> pd.DataFrame:
        return part.iloc[
            np.argsort([self.order[number(v)] for v in part[self.name]], kind="stable")
        ]


def _parts(frame: pd.DataFrame, metric: str | None, hue: str | None) -> Any:
    """(name, rows, colour, marker, line) of each group that a helper draws."""
    cycle = mpl.rc_params_from_file(STYLE, use_default_template=False)["axes.prop_cycle"]
    lines = cycle.by_key()["linestyle"]
    if metric is not None:
        frame = frame[frame["metric"] == metric]
        if frame.empty:
            raise ValueError(f"no rows of metric {metric!r} to draw.")
    groups = [(None, frame)] if hue is None else list(frame.groupby(hue, sort=False, dropna=False))
    for i, (name, part) in enumerate(groups):
        k = i % len(COLOURS)
        text = None if hue is None else number(name)
        yield text, part, COLOURS[k], MARKERS[k], lines[k]


def _groups(frame: pd.DataFrame, hue: str | None) -> int:
    return 1 if hue is None else int(frame[hue].nunique(dropna=False))


def _nudged(ax: Axes, i: int, of: int, extra: float = 0.0) -> Transform:
    """Data coordinates moved sideways by some points: intervals at the same x do not overlap."""
    points = 5 * (i - (of - 1) / 2) + extra
    return ax.transData + ScaledTranslation(points / 72, 0, ax.figure.dpi_scale_trans)


def _reach(ax: Axes, at: np.ndarray, *values: pd.Series) -> None:
    """Let the axis reach these points: matplotlib does not count what is drawn off `transData`."""
    for value in values:
        xy = np.column_stack([at, value.to_numpy(float)])
        ax.update_datalim(xy[np.isfinite(xy).all(axis=1)])
    ax.autoscale_view()


def _finish(ax: Axes, place: _Places, metric: str | None, hue: str | None) -> Axes:
    ax.set_xlabel(label(place.name))
    if metric is not None:
        ax.set_ylabel(label(metric))
    if place.categories:
        ax.margins(x=0.08)
    elif len(place.numbers) > 1:
        low, high = place.numbers[0], place.numbers[-1]
        wide = low > 0 and high / low >= 100
        if wide:
            ax.set_xscale("log")
        if wide and len(place.numbers) <= 8:  # few settings: name each one that was run
            ax.set_xticks(place.numbers, [number(v) for v in place.numbers])
            ax.minorticks_off()
    return _legend(ax, title=hue)


def _legend(ax: Axes, *, title: str | None = None, always: bool = False) -> Axes:
    handles, names = ax.get_legend_handles_labels()
    old = ax.get_legend()
    if title is None and old is not None:  # drawn on before: keep the title it has
        title = old.get_title().get_text()
    if len(names) > 1 or (always and names):
        ax.legend(handles, names, title=label(title) if title else None)
    return ax


def _printed_number(text: Any) -> float:
    """The number in a printed string: thousands separators and percent signs dropped."""
    try:
        return float(str(text).replace(",", "").replace("\u2212", "-").rstrip("% "))
    except ValueError:
        return math.nan
