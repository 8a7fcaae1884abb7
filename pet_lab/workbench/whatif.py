"""A panel that needs no kernel: its points are computed while the notebook runs as a run.

The notebook keeps them as data. The report shows radio buttons above one table, and style alone
(`:has()`) leaves the rows of the chosen settings: one file, no script, no request.
"""

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from pet_lab.rows import summarise
from pet_lab.workbench import tables
from pet_lab.workbench.tables import label, number

MIME = "application/vnd.pet-lab.whatif+json"
POINTS = 100  # that a grid of settings has at least
SECONDS = 60  # of its thread that the calls may take; a slower function gets no panel
WIDE = 100  # bars that span more are logarithmic
MOST_CONTROLS, MOST_OPTIONS = 8, 12  # for which the report's style has rules
MOST_ROWS = 600
FACTOR = 10  # a slider that spans more is divided by factors, not by differences


def grid(controls: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Values of each control: all of a choice, as many of each slider as `POINTS` points need.

    A slider is (low, high, step, start), a choice a list (numbers in their order), a tick box a
    bool.
    """
    choices = {k: [v, not v] if isinstance(v, bool) else v for k, v in controls.items()}
    for name, v in choices.items():
        if isinstance(v, list) and all(isinstance(option, int | float) for option in v):
            choices[name] = sorted(v)
    values = {k: v if isinstance(v, list) else _steps(v, 3) for k, v in choices.items()}
    for n, name in itertools.product(range(4, MOST_OPTIONS + 1), controls):
        if math.prod(map(len, values.values())) >= POINTS:
            break
        if isinstance(controls[name], tuple):
            values[name] = _steps(controls[name], n)
    return values


def _steps(slider: tuple[Any, ...], n: int) -> list[Any]:
    """At most `n` settings of a slider: its ends, its start, and others evenly between them."""
    low, high, step, start = slider
    last, own = round((high - low) / step), round((start - low) / step)
    places = {round(i / (n - 1) * last) for i in range(n)}
    if low > 0 and high / low >= FACTOR:
        by_factor = {round(low * ((high / low) ** (i / (n - 1)) - 1) / step) for i in range(n)}
        places = by_factor if len(by_factor) == n else places
    inside = places - {0, last}
    if own not in (0, last):
        inside = inside - {min(inside, key=lambda i: abs(i - own), default=own)} | {own}
    return [low + i * step if i != own else start for i in sorted({0, last} | inside)]


def from_calls(
    fn: Callable[..., Any],
    controls: Mapping[str, Any],
    table_of: Callable[[Any], pd.DataFrame | None],
    caption: str,
) -> None:
    """Show the panel of a function over a grid; nothing if it is too slow or returns pictures.

    `table_of` makes a table of a result. A ValueError is a point, too: its sentence.
    """
    began, parts, refused, values = time.thread_time(), [], [], grid(controls)
    indices = [*itertools.product(*(range(len(options)) for options in values.values()))]
    with threadpool_limits(1):  # for calls this small, more threads only wait for one another
        for at in indices:
            chosen = {k: options[i] for (k, options), i in zip(values.items(), at, strict=True)}
            try:
                frame = table_of(fn(**chosen))
            except ValueError as error:
                refused.append({"at": at, "text": str(error)})
                continue
            if frame is None or time.thread_time() - began > SECONDS:
                return
            parts.append((at, frame))
    if not parts:
        return
    shown = []
    for k, v in values.items():
        own = controls[k]
        start = v.index(own if isinstance(own, bool) else own[3 if isinstance(own, tuple) else 0])
        shown.append({"label": label(k), "options": [*map(number, v)], "start": start})
    frame = pd.concat([f for _, f in parts], ignore_index=True)
    places = [place for place, f in parts for _ in range(len(f))]
    like = frame.get("quantity")  # without it all rows hold like numbers
    numbers = [c for c in frame if tables.is_number(frame[c])]
    rows = _rows(frame, places, bars=numbers, like=like)
    _show(frame, shown, [*rows, *refused], f"{caption} ({len(indices)} computed points)")


def from_rows(
    rows: pd.DataFrame, names: Sequence[str], *, metric: str, x: str, hue: str | None
) -> None:
    """Show every stored mean below a choice of the metric and of each factor of `names`.

    At first `x` and `hue` are free and the others as in the first row, as in the live panel.
    """
    settings = rows.groupby("metric", sort=False)[list(names)].nunique(dropna=False)
    table = summarise(rows, [*names, "metric"])
    names = [f for f in names if f in (x, hue) or (settings[f] > 1).any()]  # not the metric alone
    sizes = table["metric"].value_counts(sort=False)
    metrics = [metric, *(m for m in sizes.index if m != metric)][:MOST_OPTIONS]
    metrics = [m for m, n in sizes[metrics].cumsum().items() if m == metric or n <= MOST_ROWS]
    table = pd.concat([table[table["metric"] == m] for m in metrics], ignore_index=True)
    words = {f: table[f].map(number).replace("", "none") for f in names}  # a choice has a name
    options = {f: list(dict.fromkeys(words[f][table[f].sort_values().index])) for f in names}
    chosen = [f for f in names if 1 < len(options[f]) < MOST_OPTIONS][: MOST_CONTROLS - 1]
    controls: list[Any] = [{"label": "Metric", "options": [*map(label, metrics)], "start": 0}]
    for f in chosen:
        free = f in (x, hue) or settings.loc[metric, f] == 1
        start = 0 if free else options[f].index(words[f][0]) + 1
        choices = ["any", *options[f]]
        controls.append({"label": label(f), "options": choices, "start": start, "free": True})
    at = [
        (metrics.index(m), *(options[f].index(words[f][i]) + 1 for f in chosen))
        for i, m in enumerate(table["metric"])
    ]
    low, high = (table["mean"] + side * 1.96 * table["se"] for side in (-1, 1))
    interval = [
        " to ".join(dict.fromkeys([number(a), number(b)])) if a < b else "–"  # written alike: one
        for a, b in zip(low, high, strict=True)
    ]
    kept = [n for n in (x, *(f for f in names if f != x)) if n in table]
    frame = table[[*kept, "mean"]].assign(**{"95 % interval": interval, "replicates": table["n"]})
    lines = _rows(frame, at, bars=["mean"], like=table["metric"])
    _show(frame, controls, lines, f"Means over replicates ({len(table)} computed points)")


def _rows(
    frame: pd.DataFrame, at: Sequence[Any], *, bars: Sequence[Any], like: pd.Series | None
) -> list[dict[str, Any]]:
    """Cells as text; beside a number of `bars` its bar."""
    rows: list[dict[str, Any]] = [{"at": list(place), "cells": []} for place in at]
    for name in frame:
        share = pd.Series(math.nan, index=frame.index)
        if name in bars:
            finite = frame[name].where(frame[name].abs() < math.inf).astype(float)
            groups = finite.groupby(like if like is not None else [0] * len(finite))
            share = groups.transform(_shares)
        for row, value, percent in zip(rows, frame[name], share, strict=True):
            row["cells"].append([number(value), None if math.isnan(percent) else percent])
    return rows


def _shares(values: pd.Series) -> pd.Series:
    """Length of each bar in percent; on a logarithmic scale where they span decades."""
    low, high = values[values > 0].min(), values.max()
    if not (high > 0 and (values.dropna() >= 0).all()):
        return values * math.nan
    if high / low <= WIDE:
        return (100 * values / high).round(1)
    decades = np.log10(values.clip(lower=low) / low) / math.log10(high / low)
    return (4 + 96 * decades).where(values > 0, values).round(1)


def _show(frame: pd.DataFrame, controls: list[Any], rows: list[Any], caption: str) -> None:
    head = [[label(str(c)), tables.is_number(frame[c])] for c in frame]
    data = {"caption": f"{caption}.", "controls": controls, "head": head, "rows": rows}
    if len(controls) <= MOST_CONTROLS and all(len(c["options"]) <= MOST_OPTIONS for c in controls):
        tables.display({MIME: data, "text/plain": f"[panel of the report] {caption}"})
