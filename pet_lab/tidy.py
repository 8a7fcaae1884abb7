"""Short forms for tidy rows: of one metric, some of them, and their means.

What `pet_lab.rows` holds is for workbench and studies alike, this for studies and notebooks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pet_lab.rows import Rows

if TYPE_CHECKING:
    import pandas as pd


def tidy(metric: str, values: Mapping[Any, Any], *, by: str, **common: Any) -> pd.DataFrame:
    """Rows of one metric, a row for each of the values, whose keys are in the column `by`.

    >>> tidy("bits", {"exact": 8, "noisy": 1}, by="attack", part="leak")["value"].tolist()
    [8.0, 1.0]
    """
    rows = Rows(**common)
    for key, value in values.items():
        rows.add(**{by: key}, metrics={metric: value})
    return rows.frame()


def only(rows: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """The rows whose columns have these values, or one of a list of values.

    >>> rows = tidy("bits", {"exact": 8, "noisy": 1}, by="attack")
    >>> only(rows, metric="bits", attack=["noisy", "none"])["value"].tolist()
    [1.0]
    """
    for column, value in values.items():
        same = rows[column].isin(value) if isinstance(value, list) else rows[column] == value
        rows = rows[same]
    return rows


def means(rows: pd.DataFrame, *by: str, **values: Any) -> pd.Series[Any]:
    """Mean value of `only` these rows, by the columns `by` (a missing value is a group).

    >>> rows = tidy("bits", {"exact": 8, "noisy": 1}, by="attack")
    >>> means(rows, "metric")["bits"], means(rows, "attack", metric="bits")["exact"]
    (4.5, 8.0)
    """
    return only(rows, **values).groupby([*by], dropna=False)["value"].mean()
