"""Two programs for one thing: are the runs of ours and of the library told apart?

Rows name who ran in one `column`: "mst" is our engine, "mst, smartnoise-synth" the library; where
`judged` finds a difference it is the other way round, and ours becomes "mst, our engine".
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd

OURS = "our engine"
TFP: Final = "tensorflow-privacy"
SMARTNOISE: Final = "smartnoise-synth"
MARGIN = 0.05
"""Of shares of records and of areas under the ROC curve, as in the tables of the report."""


def agreement(
    rows: pd.DataFrame,
    libraries: Mapping[str, str],
    *,
    column: str,
    by: Sequence[str],
    detail: Sequence[str] = ("metric",),
) -> pd.DataFrame:
    """Our runs beside the library's: one line per kind, set-up (`by`) and metric (`detail`).

    `libraries` is the name of the library by kind, a value of `column`. Columns: column, by,
    detail; runs, mean and SD of ours; runs and mean of the library's; p, two-sided, that the
    difference is luck, both being draws of one law with the spread of ours; low and high, the 90 %
    interval of the difference; and `finding`: "equivalent" where the interval is within MARGIN (two
    one-sided tests at 5 %), "differs" where p is below 5 % shared by all lines, else "open". No
    line where a library did not run, or ours only once.
    """
    from scipy import stats

    keys, parts = [*by, *detail], []
    for kind, library in libraries.items():
        runs = rows[rows[column].isin([kind, f"{kind}, {library}", f"{kind}, {OURS}"])]
        place, plain = pd.MultiIndex.from_frame(runs[[*by]]), runs[column] == kind
        scored = place.isin(place[runs[column] == f"{kind}, {OURS}"])
        theirs = (runs[column] == f"{kind}, {library}") | (plain & scored)
        sides = (runs[side].groupby(keys)["value"] for side in (~theirs, theirs))
        ours, peer = (side.agg(["count", "mean", "std"]) for side in sides)
        part = ours.join(peer[["count", "mean"]], how="inner", rsuffix=" library").reset_index()
        parts.append(part.assign(**{column: kind}))
    table = pd.concat(parts).dropna().reset_index(drop=True)
    n, m = table["count"], table["count library"]
    difference = table["mean library"] - table["mean"]
    error = (table["std"] * np.sqrt(1 / n + 1 / m)).clip(lower=1e-12)
    table["p"] = 2 * stats.t.sf(difference.abs() / error, n - 1)
    half = stats.t.ppf(0.95, n - 1) * error
    table["low"], table["high"] = difference - half, difference + half
    within = (table["low"] > -MARGIN) & (table["high"] < MARGIN)
    differs = ~within & (table["p"] < 0.05 / max(len(table), 1))
    table["finding"] = np.select([within, differs], ["equivalent", "differs"], "open")
    names = {"count": "runs", "std": "SD", "count library": "runs library"}
    return table[[column, *table.columns.drop(column)]].rename(columns=names)


def judged(
    rows: pd.DataFrame,
    table: pd.DataFrame,
    libraries: Mapping[str, str],
    *,
    by: Sequence[str],
    reading: str = "",
) -> pd.DataFrame:
    """The rows with the library's runs in the place of ours wherever `table` says "differs".

    `table` is of `agreement`, for these `libraries` and `by`; given a `reading`, only its rows are
    exchanged.
    """
    column = str(table.columns[0])
    names = rows[column].copy()
    lines = table.loc[table["finding"] == "differs", [column, *by]].drop_duplicates()
    for kind, *place in lines.itertuples(index=False):
        here = pd.Series(data=True, index=rows.index)
        if reading:
            here &= rows["reading"] == reading
        for name, value in zip(by, place, strict=True):
            here &= rows[name] == value
        ours, theirs = (here & (rows[column] == n) for n in (kind, f"{kind}, {libraries[kind]}"))
        names[ours], names[theirs] = f"{kind}, {OURS}", kind
    return rows.assign(**{column: names})
