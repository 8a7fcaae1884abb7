"""A user's own table, features and target, and the part that is held out."""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from pet_lab.checks import require

from .entry import Dataset
from .errors import DataError
from .reader import read_table
from .registry import REGISTRY, load

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Encoded", "binarise", "encode", "open_table", "positives", "read_csv", "split"]

_COMPARISON = re.compile(r"\s*(?P<sign>>=|<=|==|!=|>|<)\s*(?P<value>.+?)\s*")
_BEFORE = re.compile(r"\s*(?P<column>.+?)\s*(>=|<=|==|!=|>|<)")
_SIGNS: dict[str, Any] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
    "!=": operator.ne,
}
Feature = tuple[str, str | None]


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A table as numbers.

    X              float64, shape (n, features)
    y              int64, shape (n,): 1 for the positive class
    feature_names  one name per column of `X`, all different
    features       what each is: (column, level), the level None where the column is a number
    """

    X: np.ndarray
    y: np.ndarray
    feature_names: tuple[str, ...]
    features: tuple[Feature, ...]


def _target_column(columns: Sequence[str], target: str) -> tuple[str, str | None, str]:
    """(column, comparison or None, value). The longest column that fits comes first."""
    if target in columns:
        return target, None, ""
    for column in sorted(columns, key=len, reverse=True):  # a name may hold an operator itself
        start = target.lstrip()
        if start.startswith(column) and (match := _COMPARISON.fullmatch(start[len(column) :])):
            return column, match["sign"], match["value"]
    match = _BEFORE.match(target)
    shown = ", ".join(list(columns)[:12]) + (", ..." if len(columns) > 12 else "")
    raise DataError(
        f"Expected the target column {match['column'] if match else target!r}, the table has "
        f'{shown}; name one of them, with a threshold if it is a number: "grade>=10".'
    )


def positives(frame: pd.DataFrame, target: str, *, alone: bool = False) -> np.ndarray:
    """The target as 0 and 1, int64, shape (n,).

    Parameters
    ----------
    target : str
        A column with two values (the later one in sorted order is 1: 1 of 0/1, "yes" of no/yes),
        or a comparison of a column with a value, such as ``"G3>=10"``.
    alone : bool
        Whether one class will do, of a comparison or of a column of 0 and 1.

    Raises
    ------
    DataError
        If the column is absent, is missing values, has more than two values and no threshold, or
        if only one class remains.
    """
    column, sign, value = _target_column([str(c) for c in frame.columns], target)
    series = frame[column]
    holes = int(series.isna().sum())
    require(
        not holes,
        f"Expected a class for each row, but {column} is missing {holes} values; "
        "drop or fill those rows first.",
        DataError,
    )
    if sign is None:
        levels = sorted(series.unique().tolist())
        if alone and set(levels) <= {0, 1}:
            return series.to_numpy(np.int64)
        if len(levels) > 2:
            number = series.dtype.kind in "biuf"
            example = f"{column}>={series.median():g}" if number else f"{column}=={levels[-1]}"
            raise DataError(
                f"Expected a target with two values, {column} has {len(levels)}; "
                f'make it binary by a comparison, for example "{example}".'
            )
        require(
            len(levels) == 2,
            f"Expected two classes, {column} has the same value in all {len(series)} rows; "
            "there is nothing to predict.",
            DataError,
        )
        y = (series == levels[-1]).to_numpy(np.int64)
    else:
        y = _compared(series, _SIGNS[sign], value, target).astype(np.int64)
    require(
        alone or y.min() != y.max(),
        f"Expected two classes, {target!r} gives only class {y[0]} in all {y.size} rows; "
        "choose another column or threshold.",
        DataError,
    )
    return y


def _compared(series: pd.Series, compare: Any, value: str, target: str) -> np.ndarray:
    """The column against the value: exact where both are whole, beyond 2^53 too."""
    from pandas.api import types

    if types.is_numeric_dtype(series):
        try:
            whole = types.is_integer_dtype(series) and re.fullmatch(r"[+-]?\d+", value)
            threshold = int(value) if whole else float(value)
        except ValueError:
            threshold = float("nan")
        require(
            not np.isnan(threshold),
            f"Expected a number to compare {series.name} with, got {value!r} in {target!r}.",
            DataError,
        )
        return compare(series.to_numpy(), threshold)
    if types.is_datetime64_any_dtype(series):
        try:
            return compare(series.to_numpy(), np.datetime64(value, "ns"))
        except ValueError:
            raise DataError(
                f"Expected a day such as 2024-01-31 to compare {series.name} with, got {value!r}."
            ) from None
    require(
        compare in (operator.eq, operator.ne),
        f"Expected numbers in {series.name} for {target!r}, it holds text; use == or != with it.",
        DataError,
    )
    return compare(series.astype(str).to_numpy(), value.strip("'\""))


def encode(frame: pd.DataFrame, *, target: str, like: Encoded | None = None) -> Encoded:
    """Features of every column but the target's, and the target.

    Parameters
    ----------
    frame : DataFrame
        Complete: no missing values.
    target : str
        See `positives`. ``"G3>=10"`` on ``student_mat`` gives 265 positives and 58 features.
    like : Encoded, optional
        Give exactly these features in this order: a level that does not occur becomes a column of
        zeros (a synthetic table may lack a rare level, or one class). A level unknown to `like` is
        an error.

    Returns
    -------
    Encoded : numbers first in their order (a date as year, month and day), then one 0/1 column per
    level, named ``column_level``; ``column=level`` where two columns would give one name.

    Raises
    ------
    DataError
        As `positives`; also for missing values, or features that `like` does not know.
    """
    y = positives(frame, target, alone=like is not None)
    column, _, _ = _target_column([str(c) for c in frame.columns], target)
    rest = frame.drop(columns=column)
    _refuse_missing(rest)
    alone = f"Expected at least one column beside the target {column}, got none."
    require(rest.shape[1], alone, DataError)
    columns = _features(rest)
    features, names = (like.features, like.feature_names) if like else (tuple(columns), None)
    known = set(features)
    unknown = ["_".join(filter(None, key)) for key in columns if key not in known]
    require(
        not unknown,
        f"Expected the {len(features)} features of the other table, got also "
        f"{', '.join(unknown[:5])}; encode both tables from the wider one.",
        DataError,
    )
    nothing = np.zeros(len(rest))
    X = np.column_stack([columns.get(key, nothing) for key in features]).astype(np.float64)
    return Encoded(X=X, y=y, feature_names=names or _names(features), features=features)


def _features(frame: pd.DataFrame) -> dict[Feature, np.ndarray]:
    """Columns of numbers by (column, level); the level is None where the column is a number."""
    from pandas.api import types

    numbers: dict[Feature, np.ndarray] = {}
    levels: dict[Feature, np.ndarray] = {}
    for name, column in frame.items():
        if types.is_datetime64_any_dtype(column):
            for part in ("year", "month", "day"):
                numbers[f"{name} ({part})", None] = getattr(column.dt, part).to_numpy(np.float64)
        elif types.is_numeric_dtype(column):
            numbers[str(name), None] = column.to_numpy(np.float64)
        else:
            texts = column.astype(str)
            for level in sorted(texts.unique()):
                levels[str(name), level] = (texts == level).to_numpy(np.float64)
    return numbers | levels


def _names(features: Sequence[Feature]) -> tuple[str, ...]:
    plain = [name if level is None else f"{name}_{level}" for name, level in features]
    first, twice = set(plain), {name for name, n in Counter(plain).items() if n > 1}
    names: dict[str, None] = {}
    for (column, level), name in zip(features, plain, strict=True):
        unique = f"{column}={level}" if name in twice and level is not None else name
        while unique in names or (unique != name and unique in first):
            unique += "'"
        names[unique] = None
    return tuple(names)


def _refuse_missing(frame: pd.DataFrame) -> None:
    holes = ", ".join(f"{name} ({int(n)})" for name, n in frame.isna().sum().items() if n)
    require(
        not holes,
        f"Expected a complete table, values are missing in {holes}; "
        "drop those rows or columns, or fill them, first.",
        DataError,
    )


def open_table(name_or_path: str, *, target: str, stand_in: bool = False) -> Dataset:
    """A registered data set by its name (`load`), else the CSV at that path (`read_csv`)."""
    if name_or_path in REGISTRY:
        return load(name_or_path, stand_in=stand_in)
    return read_csv(name_or_path, target=target)


def read_csv(path: str | Path, *, target: str) -> Dataset:
    """Read a user's own CSV (`read_table`) and check that `target` (`positives`) can be predicted.

    The Dataset is of kind "own", with the SHA-256 of the file's bytes and what the reader decided.
    DataMissing if there is no such file; DataError if the reader refuses it, the target is lacking
    or does not have two classes, or values are missing (the message counts them per column).
    """
    file = Path(path)
    reading = read_table(file)
    _target_column([c.name for c in reading.columns], target)
    try:
        _refuse_missing(reading.frame)
        positives(reading.frame, target)
    except DataError as error:
        raise DataError(f"{file.name}: {error}") from None
    provenance = {"name": file.name, "sha256": reading.sha256, "kind": "own"}
    provenance |= {"licence": "", "citation": "", "address": ""}
    return Dataset(
        frame=reading.frame,
        provenance=MappingProxyType(provenance | {"rows": len(reading.frame)}),
        reading=reading.table(),
    )


def split(
    y: np.ndarray | int,
    *,
    fraction: float = 0.2,
    rng: np.random.Generator,
    stratify: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the training and of the held-out part: int64, both in random order.

    `y` holds the classes, shape (n,), or is just the number of rows. A share of `fraction`, in
    (0, 1), is held out, rounded to whole rows; with `stratify` of each class. The report holds out
    one fifth and does not say whether by class; plain random is the default. ValueError if a part
    would be empty, or `stratify` lacks classes.
    """
    inside = 0 < fraction < 1
    require(inside, f"fraction is a share in (0, 1), got {fraction}; for one fifth pass 0.2.")
    classes = np.asarray(y) if np.ndim(y) else np.zeros(int(np.asarray(y)))
    if not stratify:
        classes = np.zeros(classes.size)
    elif not np.ndim(y):
        raise ValueError("stratify needs the classes, got only the number of rows.")
    groups = [np.flatnonzero(classes == level) for level in np.unique(classes)]
    train, held_out = [], []
    for group in groups:
        shuffled = rng.permutation(group)
        size = round(fraction * group.size)
        held_out.append(shuffled[:size])
        train.append(shuffled[size:])
    parts = rng.permutation(np.concatenate(train)), rng.permutation(np.concatenate(held_out))
    empty = f"fraction {fraction} of {classes.size} rows leaves a part empty."
    require(all(part.size for part in parts), empty)
    return parts


def binarise(frame: pd.DataFrame, target: str) -> pd.DataFrame:
    """The table with the target's column replaced, in place, by its class 0 or 1.

    The new column carries the name of `target` (``"G3>=10"``), so that `encode` with the same
    target works on the result, and on synthetic tables made from it. DataError as `positives`.
    """
    y = positives(frame, target)
    column, _, _ = _target_column([str(c) for c in frame.columns], target)
    return frame.assign(**{column: y}).rename(columns={column: target})
