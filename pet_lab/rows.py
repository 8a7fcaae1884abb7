"""The two small records that studies and workbench share: tidy rows, and claims about them.

Rows are long and tidy: factor columns (typed, with the unit in the name), `replicate`, `metric`,
`value`, optionally `se` and `reading`. A claim is a sentence whose numbers come from such rows,
with the condition under which it holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


class Rows:
    """Collects tidy rows, one per metric and replicate.

    Parameters
    ----------
    **common
        Factor columns that every row carries.

    Examples
    --------
    >>> rows = Rows(reading="described")
    >>> rows.add(replicate=0, epsilon=1.0, metrics={"accuracy.train": 0.9, "accuracy.test": 0.8})
    >>> rows.frame()[["epsilon", "metric", "value"]].to_numpy().tolist()
    [[1.0, 'accuracy.train', 0.9], [1.0, 'accuracy.test', 0.8]]
    """

    def __init__(self, **common: Any) -> None:
        self._common = common
        self._records: list[dict[str, Any]] = []

    def add(
        self,
        *,
        metrics: Mapping[str, float],
        replicate: int = 0,
        se: Mapping[str, float] | None = None,
        **factors: Any,
    ) -> None:
        """One row per entry of `metrics`; `se` holds standard errors by metric, where known."""
        for metric, value in metrics.items():
            record = {**self._common, **factors, "replicate": replicate, "metric": metric}
            record["value"] = float(value)
            if se is not None and metric in se:
                record["se"] = float(se[metric])
            self._records.append(record)

    def __len__(self) -> int:
        return len(self._records)

    def frame(self) -> pd.DataFrame:
        """The rows so far; a text factor that a row lacks is "", a number it lacks is NaN."""
        import pandas as pd

        return fill(pd.DataFrame(self._records))


def concat(*parts: pd.DataFrame) -> pd.DataFrame:
    """Rows of several experiments under one another; a text factor that a part lacks is ""."""
    import pandas as pd

    return fill(pd.concat([part for part in parts if len(part)], ignore_index=True))


def fill(frame: pd.DataFrame) -> pd.DataFrame:
    """The same rows with "" where a column of text holds nothing, as storing needs it."""
    for name in frame.columns[frame.isna().any()]:
        if frame[name].map(lambda v: isinstance(v, str)).any():
            frame[name] = frame[name].fillna("")
    return frame


def streams(seed: int, replicates: int) -> Iterator[tuple[int, np.random.SeedSequence]]:
    """(replicate, random stream) pairs: replicate 7 is the same alone or in a batch.

    Examples
    --------
    >>> [stream.spawn_key for _, stream in streams(seed=1, replicates=2)]
    [(0,), (1,)]
    """
    import numpy as np

    return enumerate(np.random.SeedSequence(seed).spawn(replicates))


def summarise(rows: pd.DataFrame, by: str | Sequence[str]) -> pd.DataFrame:
    """Mean over replicates with its standard error, one row per group.

    Parameters
    ----------
    rows : DataFrame
        Tidy rows.
    by : str or sequence of str
        Columns that make a group; missing values are a group of their own.

    Returns
    -------
    DataFrame with `by`, mean, sd (n - 1 in the denominator), se = sd / sqrt(n), and n. A group of
    one row takes its own `se` and `replicates_n` where it has them; else its se is NaN.

    Raises
    ------
    ValueError
        If a column of `by` is missing, or a group would mix several metrics or readings.
    """
    keys = [by] if isinstance(by, str) else list(by)
    unknown = [k for k in keys if k not in rows]
    if unknown:
        raise ValueError(
            f"Rows have no column {unknown[0]}; there are: {', '.join(map(str, rows.columns))}."
        )
    for name in ("metric", "reading"):
        if name in rows and name not in keys and rows[name].nunique() > 1:
            raise ValueError(
                f"Rows hold {rows[name].nunique()} values of {name}: a mean over them has no "
                f"meaning; add {name!r} to `by` or select one."
            )
    groups = rows.groupby(keys, sort=False, dropna=False)
    table = groups["value"].agg(mean="mean", sd="std", n="size").reset_index()
    table["se"] = table["sd"] / table["n"].map(math.sqrt)
    alone = table["n"] == 1
    if alone.any() and "se" in rows:
        table.loc[alone, "se"] = groups["se"].first().to_numpy()[alone]
    if alone.any() and "replicates_n" in rows:
        table.loc[alone, "n"] = groups["replicates_n"].first().to_numpy()[alone]
    return table[[*keys, "mean", "sd", "se", "n"]]


def wide(
    rows: pd.DataFrame, *, index: str | Sequence[str], columns: str = "metric"
) -> pd.DataFrame:
    """Means over replicates as a table to read: one line per `index`, one column per `columns`."""
    by = [index] if isinstance(index, str) else list(index)
    extra = [c for c in dict.fromkeys((columns, "metric")) if c in rows and c not in by]
    means = summarise(rows, [*by, *extra])
    table = means.pivot(index=by, columns=columns, values="mean")
    return table[list(dict.fromkeys(means[columns]))].rename_axis(columns=None).reset_index()


class Claim:
    """A sentence about rows, its numbers, and the condition under which it holds.

    Parameters
    ----------
    sentence : str
        Template; its fields are filled from `values`.
    holds : bool
        Whether these rows bear it out.
    otherwise : str
        Template of what is said where it does not hold; empty: "Not here: " and the sentence.
    **values
        What the fields of both templates are.

    Examples
    --------
    >>> Claim("A stump reaches {best:.0%}.", best=0.92).text
    'A stump reaches 92%.'
    >>> Claim("A stump reaches {best:.0%}.", holds=False, best=0.5).text
    'Not here: A stump reaches 50%.'
    """

    def __init__(
        self, sentence: str, *, holds: bool = True, otherwise: str = "", **values: Any
    ) -> None:
        self.sentence, self.holds, self.otherwise = sentence, bool(holds), otherwise
        self.values = values

    @property
    def text(self) -> str:
        """What these rows allow to be said."""
        template = self.sentence if self.holds else self.otherwise or f"Not here: {self.sentence}"
        return template.format(**self.values)

    def __repr__(self) -> str:
        return f"Claim({self.text!r}, holds={self.holds})"
