"""Panels to explore a notebook by hand: they redraw from stored rows or from one cheap call.

A batch run has no use for widgets; in a run's folder it leaves the same panel as data instead, with
points that are computed at once, and the report shows it without a kernel (`whatif`).
"""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pet_lab.checks import one_of, require
from pet_lab.workbench import plots, whatif

Control = tuple[Any, ...] | Sequence[Any] | bool
MEASURES = {"metric", "value", "se", "replicate", "replicates_n", "run_id", "seed"}
WIDE = {"description_width": "initial"}  # never cut a label off
CELL = {"width": "auto", "max_width": "100%"}
MOST_SETTINGS = 40  # a factor with more values than this is a measurement, not a choice


def batch(out: str = "") -> bool:
    """Whether nobody can use a panel: a run folder is given, PET_LAB_BATCH is set, or the cell was
    sent by a program (papermill, nbclient, nbconvert) and not from a front end.

    A program says with each request that no input can be asked for. A panel there is worse than
    useless: nbclient answers the messages of its output widget on the channel it reads replies
    from, can miss the cell's own reply that way, and waits for it forever.
    """
    if out or os.environ.get("PET_LAB_BATCH"):
        return True
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None:  # plain Python or a terminal
        return False
    return not kernel.get_parent("shell").get("content", {}).get("allow_stdin", True)


def rows(
    rows: pd.DataFrame,
    *,
    x: str,
    metric: str | None = None,
    hue: str | None = None,
    out: str = "",
    folded: bool = False,
) -> None:
    """Panel over tidy rows: choose metric, axis, lines, and a value for each remaining factor.

    `x`, `metric` and `hue` are drawn first; a control offers only what the ones before it leave.
    `folded`: behind a title, under a panel with a question of its own. Where `out` is the folder of
    a run, the panel is the report's. Means are over replicates alone: a factor that is neither axis
    nor line is held at one value.
    """
    if batch(out) and not out:
        return
    metrics = list(dict.fromkeys(rows["metric"]))
    parts = {name: rows[rows["metric"] == name] for name in metrics}
    names = list(dict.fromkeys(f for part in parts.values() for f in factors(part)))
    metric = metric or metrics[0]
    one_of(metrics, metric=metric)
    if batch(out):
        whatif.from_rows(rows, factors(rows), metric=metric, x=x, hue=hue)
        return
    one_of(names, x=x, hue=hue or x)
    axes = {name: plots.label(name) for name in names}
    controls: dict[str, Any] = {
        "metric": _choice("Metric", [(plots.label(m), m) for m in metrics], metric),
        "x": _choice("Against", [(axes[x], x)], x),
        "hue": _choice("Lines by", [("nothing", ""), *((axes[n], n) for n in names)], hue or ""),
    }
    controls |= {f"at {name}": _choice(axes[name], [""], "") for name in names}
    settling = False

    def settle() -> tuple[pd.DataFrame, dict[str, Any]]:
        """Offer only what there is; the rows and values that are left to draw."""
        part = parts[controls["metric"].value]
        varying = factors(part) or [controls["x"].value]
        _offer(controls["x"], [(axes.get(n, n), n) for n in varying])
        lines = [n for n in varying if n != controls["x"].value]
        _offer(controls["hue"], [("nothing", ""), *((axes.get(n, n), n) for n in lines)])
        held = {}
        for name in names:
            control, drawn = controls[f"at {name}"], (controls["x"].value, controls["hue"].value)
            free = name in varying and name not in drawn
            control.layout.display = "" if free else "none"
            if free:
                values = {plots.number(v): v for v in part[name].drop_duplicates().sort_values()}
                first = plots.number(part[name].iloc[0])
                _offer(control, [(text, text) for text in values], first)
                held[name] = values[control.value]
                part = hold(part, {name: held[name]})
        return part, held

    def draw(**_: Any) -> None:
        nonlocal settling
        if settling:  # a control that was changed by what another leaves
            return
        settling = True
        try:
            kept, held = settle()
        finally:
            settling = False
        metric, x, hue = (controls[name].value for name in ("metric", "x", "hue"))
        try:
            fig, what = picture(rows, x=x, metric=metric, hue=hue or None, held=held)
        except ValueError as error:
            print(f"{error} Choose other values.")
            return
        alt = f"Chart of {what}. Means with 95 % intervals."
        plots.show(fig, alt=alt, caption=f"{what[:1].upper()}{what[1:]}; {len(kept):,} rows.")

    _panel(draw, controls, "All rows of this run" if folded else "")


def _offer(control: Any, options: Sequence[tuple[str, Any]], first: Any = None) -> None:
    """Give a choice these options; what was chosen stays if it is still there, else `first`."""
    if list(control.options) != list(options):
        chosen, values = control.value, [value for _, value in options]
        control.options = options
        control.value = next(v for v in (chosen, first, values[0]) if v in values)


def call(
    fn: Callable[..., Any],
    controls: Mapping[str, Control],
    *,
    out: str = "",
    caption: str = "",
    draw: Callable[[Any, str], Any] | None = None,
    live: bool = False,
) -> None:
    """Panel over one cheap function: its keyword arguments become controls.

    Parameters
    ----------
    fn : called with one keyword per control. A Figure, Axes, DataFrame, record (dataclass or
        mapping) or plain value it returns is shown; nothing is shown for None. With a pair of
        result and `Claim`, the claim is said first, after what was changed. A ValueError is shown
        as its sentence.
    controls : (low, high), (low, high, step) or (low, high, step, start): a slider, whole numbers
        if all are; a list: a choice, the first one chosen; a bool: a tick box.
    out : the notebook's run folder. Where it is given, the function is called for at least 100
        points, and the panel is the report's.
    caption : what the result is; needed for tables and figures, default the function's first line.
    draw : draws the result, given it and the caption with its settings, in place of a table.
    live : whether it is only for whoever sits there: too slow for the points of a report.
    """
    if batch(out) and (live or not out):
        return
    words = caption or (fn.__doc__ or "").strip().partition("\n")[0] or "Result of the settings"
    full = {name: _spec(name, spec) for name, spec in controls.items()}
    if batch(out):
        table_of = _sentence if draw else functools.partial(_frame, words=words)
        whatif.from_calls(fn, full, table_of, words.rstrip("."))
        return

    before: dict[str, Any] = {}

    def redraw(**chosen: Any) -> None:
        texts = {k: f"{plots.label(k)} = {plots.number(v)}" for k, v in chosen.items()}
        changes = [f"{texts[k]}, was {plots.number(before[k])}" for k in before if k in texts]
        changed = [c for c, k in zip(changes, before, strict=True) if before[k] != chosen[k]]
        before.update(chosen)
        try:
            result = fn(**chosen)
            if isinstance(result, tuple):
                result, claim = result
                print(f"Changed: {'; '.join(changed)}. {claim.text}" if changed else claim.text)
            settings = f"{words} ({', '.join(texts.values())})"
            if draw:
                draw(result, settings)
            else:
                _show(result, words, settings)
        except ValueError as error:
            print(error)

    _panel(redraw, {name: _control(name, spec) for name, spec in full.items()})


def _show(result: Any, words: str, caption: str) -> None:
    frame = _frame(result, words)
    if isinstance(result, Figure | Axes):
        plots.show(result, alt=f"Figure: {caption}", caption=caption)
    elif frame is not None:
        plots.table(frame, caption=caption)


def _sentence(result: Any) -> pd.DataFrame | None:
    """The claim of a result that is drawn, as the one cell of a table; None where there is none."""
    if not isinstance(result, tuple):
        return None
    return pd.DataFrame({"what follows": [result[1].text]})


def _frame(result: Any, words: str) -> pd.DataFrame | None:
    """The result, without its claim, as a table; None for a picture and for nothing."""
    result = result[0] if isinstance(result, tuple) else result
    if is_dataclass(result) and not isinstance(result, type):
        result = asdict(result)
    if isinstance(result, Mapping):
        return pd.DataFrame({"quantity": list(result), "value": list(result.values())})
    if result is None or isinstance(result, pd.DataFrame | Figure | Axes):
        return result if isinstance(result, pd.DataFrame) else None
    return pd.DataFrame({"quantity": [words], "value": [result]})


def picture(
    rows: pd.DataFrame, *, x: str, metric: str, hue: str | None, held: Mapping[str, Any]
) -> tuple[Figure, str]:
    """Chart of one metric with every factor but axis and line held, and what it shows in words.

    ValueError if there are no such rows, or more lines than can be told apart.
    """
    what = f"{plots.label(metric)} against {plots.label(x)}"
    what += f", one line per {plots.label(hue)}" if hue else ""
    at = ", ".join(f"{plots.label(f)} = {plots.number(v)}" for f, v in held.items())
    what += f"; at {at}" if at else ""
    kept = hold(rows[rows["metric"] == metric], held)
    require(len(kept), f"There are no rows of {what}.")
    axes = plots.lines(kept, x=x, metric=metric, hue=hue)
    assert isinstance(axes, Axes)
    fig = axes.figure
    assert isinstance(fig, Figure)
    return fig, what


def factors(rows: pd.DataFrame) -> list[str]:
    """Columns of tidy rows with more than one setting, few enough to choose from."""
    counts = {c: rows[c].nunique(dropna=False) for c in rows.columns if c not in MEASURES}
    return [name for name, n in counts.items() if 1 < n <= MOST_SETTINGS]


def hold(rows: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Rows in which every named factor has the given value; missing equals missing."""
    for name, value in settings.items():
        same = rows[name].isna() if pd.isna(value) else rows[name] == value
        rows = rows[same]
    return rows


def _choice(description: str, options: Sequence[Any], value: Any) -> Any:
    import ipywidgets

    return ipywidgets.Dropdown(
        options=options, value=value, description=description, style=WIDE, layout=CELL
    )


def _spec(name: str, spec: Control) -> Any:
    """The specification with all its parts: (low, high, step, start), a list, or a bool."""
    if isinstance(spec, bool) or (isinstance(spec, list) and spec):
        return spec
    slider = isinstance(spec, tuple) and 2 <= len(spec) <= 4
    refusal = f"control {name!r} is (low, high[, step[, start]]), a list or a bool, got {spec!r}."
    require(slider, refusal)
    whole, (low, high, *more) = all(isinstance(v, int) for v in spec), spec
    require(low < high, f"slider {name!r} needs low < high, got {spec}.")
    step = more[0] if more else (1 if whole else (high - low) / 20)
    start = more[1] if more[1:] else low + (high - low) // (2 * step) * step
    return low, high, step, start


def _control(name: str, spec: Any) -> Any:
    """The widget of a whole specification; sliders report when let go, not while dragged."""
    import ipywidgets

    description = plots.label(name)
    if isinstance(spec, bool):
        return ipywidgets.Checkbox(value=spec, description=description, indent=False)
    if isinstance(spec, list):
        return _choice(description, [(plots.number(v), v) for v in spec], spec[0])
    low, high, step, start = spec
    limits = {"value": start, "min": low, "max": high, "step": step}
    look = {"description": description, "style": WIDE, "layout": CELL}
    whole = all(isinstance(v, int) for v in spec)
    kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
    return kind(**limits, **look, continuous_update=False)


def _panel(draw: Callable[..., None], controls: Mapping[str, Any], title: str = "") -> None:
    """Show the controls above an output that is redrawn whenever one of them changes.

    With a title it is folded, and drawn when it is opened first.
    """
    import ipywidgets
    from IPython.display import display

    # A label is never cut, so that a column must hold the longest one and room for its slider.
    widest = 16 + max((len(c.description) for c in controls.values()), default=0) // 2
    tracks = f"repeat(auto-fit, minmax(min(100%, {widest}em), 1fr))"
    columns = {"grid_template_columns": tracks}
    layout = ipywidgets.Layout(grid_gap="4px 16px", **columns)
    panel = ipywidgets.VBox([ipywidgets.GridBox(list(controls.values()), layout=layout)])

    def fill(_: Any = None) -> None:
        if len(panel.children) == 1:
            drawn = ipywidgets.interactive_output(draw, dict(controls))
            panel.children = (*panel.children, drawn)

    if not title:
        fill()
        display(panel)
        return
    fold = ipywidgets.Accordion([panel], titles=(title,), selected_index=None)
    fold.observe(fill, "selected_index")
    display(fold)
