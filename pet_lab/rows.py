"""The two small records that studies and workbench share: tidy rows, and claims about them.

Rows are long and tidy: factor columns (typed, with the unit in the name), `replicate`, `metric`,
`value`, optionally `se` and `reading`. A claim is a sentence whose numbers come from such rows,
with the condition under which it holds.
"""

import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import inf, isfinite
from typing import Any

import numpy as np
import pandas as pd

from pet_lab.checks import require


class Rows:
    """Collects tidy rows, one per metric and replicate; `common` factors are in every row.

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
            known = {"se": float(se[metric])} if se and metric in se else {}
            row = {"replicate": replicate, "metric": metric, "value": float(value), **known}
            self._records.append({**self._common, **factors, **row})

    def __len__(self) -> int:
        return len(self._records)

    def frame(self) -> pd.DataFrame:
        """The rows so far; a text factor that a row lacks is "", a number it lacks is NaN."""
        return fill(pd.DataFrame(self._records))


def concat(*parts: pd.DataFrame) -> pd.DataFrame:
    """Rows of several experiments under one another; a text factor that a part lacks is ""."""
    return fill(pd.concat([part for part in parts if len(part)], ignore_index=True))


def fill(frame: pd.DataFrame) -> pd.DataFrame:
    """The same rows with "" where a column of text holds nothing, as storing needs it."""
    for name in frame.columns[frame.isna().any()]:
        if frame[name].map(lambda v: isinstance(v, str)).any():
            frame[name] = frame[name].fillna("")
    return frame


def streams(seed: int, replicates: int) -> Iterator[tuple[int, np.random.SeedSequence]]:
    """(replicate, random stream) pairs: replicate 7 is the same alone or in a batch.

    >>> [stream.spawn_key for _, stream in streams(seed=1, replicates=2)]
    [(0,), (1,)]
    """
    return enumerate(np.random.SeedSequence(seed).spawn(replicates))


def summarise(rows: pd.DataFrame, by: str | Sequence[str]) -> pd.DataFrame:
    """Mean over replicates, one row per group of the columns `by` (a missing value is a group).

    Returns `by`, mean, sd (n - 1 in the denominator), se = sd / sqrt(n), and n; a group of one row
    takes its own `se` and `replicates_n` where it has them, else its se is NaN. ValueError if a
    column of `by` is missing, or a group would mix several metrics or readings.
    """
    keys = [by] if isinstance(by, str) else list(by)
    there = ", ".join(map(str, rows.columns))
    for key in keys:
        require(key in rows, f"Rows have no column {key}; there are: {there}.")
    for name in ("metric", "reading"):
        n = rows[name].nunique() if name in rows and name not in keys else 1
        require(
            n <= 1,
            f"Rows hold {n} values of {name}: a mean over them has no meaning; add {name!r} to "
            "`by` or select one.",
        )
    groups = rows.groupby(keys, sort=False, dropna=False)
    table = groups["value"].agg(mean="mean", sd="std", n="size").reset_index()
    table["se"] = table["sd"] / np.sqrt(table["n"])
    alone = table["n"] == 1
    for name, own in (("se", "se"), ("n", "replicates_n")):
        if alone.any() and own in rows:
            table.loc[alone, name] = groups[own].first().to_numpy()[alone]
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


def means(rows: pd.DataFrame, *by: str, **values: Any) -> pd.Series:
    """Mean value of `only` these rows, by the columns `by` (a missing value is a group).

    >>> rows = tidy("bits", {"exact": 8, "noisy": 1}, by="attack")
    >>> means(rows, "metric")["bits"], means(rows, "attack", metric="bits")["exact"]
    (4.5, 8.0)
    """
    return only(rows, **values).groupby([*by], dropna=False)["value"].mean()


NOBODY = inf  # for a number of records: none of a person or firm stands behind a cell


def contributions(
    records: pd.DataFrame, *, by: Sequence[str], metric: str, of: str | None = None
) -> pd.DataFrame:
    """Who stands behind the cells of a table of `records` by the columns `by`, for output checks.

    One row a cell: `by`, metric, records (how many), and for a sum or mean of the column `of` also
    its total, largest and second largest contribution, and how many are negative.

    >>> import pandas as pd
    >>> firms = pd.DataFrame({"region": ["n", "n", "s"], "turnover": [5.0, 2.0, 1.0]})
    >>> contributions(firms, by=["region"], metric="sum", of="turnover").to_dict("records")[0]
    {'region': 'n', 'metric': 'sum', 'records': 2, 'total': 7.0, 'largest': 5.0, 'second': 2.0, \
'negative': 0}
    """
    cells = []
    groups = records.groupby(list(by), sort=False) if by else [((), records)]
    for key, group in groups:
        cell: dict[str, Any] = dict(zip(by, key, strict=True)) | {"metric": metric}
        cell["records"] = len(group)
        if of is not None:
            top = [*group[of].nlargest(2), 0.0, 0.0]
            cell |= {"total": group[of].sum(), "largest": top[0], "second": top[1]}
            cell["negative"] = int((group[of] < 0).sum())
        cells.append(cell)
    return pd.DataFrame(cells)


OPEN = "Open here, for lack of the numbers shown as –"
_NOT_A_NUMBER = re.compile(r"(?<![\w'])[-+]?nan\b%?")
_INFINITE = re.compile(r"(?<![\w'])([-+]?)inf\b%?")


def symbols(text: str) -> str:
    """The text with "–" where Python wrote nan, and "∞" where it wrote inf.

    >>> symbols("0.5 ± nan at ε = inf")
    '0.5 ± – at ε = ∞'
    """
    return _INFINITE.sub(r"\1∞", _NOT_A_NUMBER.sub("–", text))


_FIELDS = string.Formatter()
_CHANGE = ("from ", "From ", "by ")  # after these, "a to b" is a step, not a range


def filled(template: str, values: Mapping[str, Any]) -> str:
    """The template with the value of each field, written as the field says.

    A range "{a} to {b}" whose ends are written alike is one number.

    >>> filled("{p[0]:.1f} of {n}", {"p[0]": 0.25, "n": "nan"})
    '0.2 of nan'
    >>> filled("{a:.1f} to {b:.1f}, from {a:.1f} to {b:.1f}", {"a": 0.51, "b": 0.52})
    '0.5, from 0.5 to 0.5'
    """
    parts: list[str] = []
    for text, field, form, _ in _FIELDS.parse(template):
        value = values[field] if field else ""
        value = float(value) if value in ("nan", "inf", "-inf") else value
        shown = format(value, form or "")
        alike = text == " to " and parts[-1:] == [shown] and not parts[-2].endswith(_CHANGE)
        parts += [] if alike else [text, shown]
    return "".join(parts)


def retold(template: str, values: Mapping[str, Any]) -> str:
    """The text of a claim, anew from its template and values; it says so if a number is missing."""
    text = filled(template, values)
    if _NOT_A_NUMBER.search(text):
        text = f"{OPEN}: {text.removeprefix('Not here: ')}"
    return symbols(text)


def _plain(value: Any) -> Any:
    """A number of numpy's as Python's; what JSON does not know as text."""
    value = value.item() if hasattr(value, "item") else value
    return value if isinstance(value, bool | int | float | str) else str(value)


class Claim:
    """A sentence about rows, its numbers, and the condition under which it holds.

    `sentence` and `otherwise`, which is said where it does not hold (by default "Not here: " and
    the sentence), are templates; their fields are filled from `values`.

    >>> Claim("A stump reaches {best:.0%}.", best=0.92).text
    'A stump reaches 92%.'
    >>> Claim("A stump reaches {best:.0%}.", holds=False, best=0.5).text
    'Not here: A stump reaches 50%.'

    A sentence whose number is missing (NaN) is neither borne out nor refuted:

    >>> Claim("A stump reaches {best:.0%}.", best=float("nan")).text
    'Open here, for lack of the numbers shown as –: A stump reaches –.'
    """

    def __init__(
        self, sentence: str, *, holds: bool = True, otherwise: str = "", **values: Any
    ) -> None:
        self.template = sentence if holds else otherwise or f"Not here: {sentence}"
        self.values = {
            field: _plain(_FIELDS.get_field(field, (), values)[0])
            for _, field, _, _ in _FIELDS.parse(self.template)
            if field
        }
        self.text = retold(self.template, self.values)
        self.holds = bool(holds) and not self.text.startswith(OPEN)

    @property
    def record(self) -> dict[str, Any]:
        """Template, values and text as JSON, by which each number can be traced."""
        values = {
            k: str(v) if isinstance(v, float) and not isfinite(v) else v
            for k, v in self.values.items()
        }
        return {"template": self.template, "values": values, "text": self.text}

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Claim({self.text!r}, holds={self.holds})"


def claims(sentences: Iterable[Sequence[Any]], **values: Any) -> list[Claim]:
    """Claims that share their values, from (sentence, condition, otherwise); a tail may be missing.

    >>> claims([("{n} rows.",), ("{n} is few.", False, "{n} is many.")], n=9)[1].text
    '9 is many.'
    """
    return [
        Claim(sentence, holds=all(rest[:1]), otherwise="".join(rest[1:]), **values)
        for sentence, *rest in sentences
    ]
