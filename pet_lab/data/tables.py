"""A user's own table, features and target, and the part that is held out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from .entry import Dataset
from .errors import DataError
from .reader import read_table
from .registry import REGISTRY, load

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Encoded", "binarise", "encode", "open_table", "positives", "read_csv", "split"]

_COMPARISON = re.compile(r"\s*(?P<sign>>=|<=|==|!=|>|<)\s*(?P<value>.+?)\s*")
_BEFORE = re.compile(r"\s*(?P<column>.+?)\s*(>=|<=|==|!=|>|<)")
_DATE_PARTS = ("year", "month", "day")
_SIGNS: dict[str, Any] = {
    ">=": np.greater_equal,
    "<=": np.less_equal,
    ">": np.greater,
    "<": np.less,
    "==": np.equal,
    "!=": np.not_equal,
}


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
    features: tuple[tuple[str, str | None], ...]


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
    """The target as 0 and 1.

    Parameters
    ----------
    frame : DataFrame
    target : str
        A column with two values (the later one in sorted order is 1: 1 of 0/1, "yes" of no/yes),
        or a comparison of a column with a value, such as ``"G3>=10"``.
    alone : bool
        Whether one class will do, of a comparison or of a column of 0 and 1.

    Returns
    -------
    int64 array, shape (n,).

    Raises
    ------
    DataError
        If the column is absent, is missing values, has more than two values and no threshold, or
        if only one class remains.
    """
    import pandas as pd

    column, sign, value = _target_column([str(c) for c in frame.columns], target)
    series = frame[column]
    if series.isna().any():
        raise DataError(
            f"Expected a class for each row, but {column} is missing {int(series.isna().sum())} "
            "values; drop or fill those rows first."
        )
    if sign is None:
        levels = sorted(series.unique().tolist())
        if alone and set(levels) <= {0, 1}:
            return series.to_numpy(np.int64)
        if len(levels) > 2:
            number = pd.api.types.is_numeric_dtype(series)
            example = f"{column}>={series.median():g}" if number else f"{column}=={levels[-1]}"
            raise DataError(
                f"Expected a target with two values, {column} has {len(levels)}; "
                f'make it binary by a comparison, for example "{example}".'
            )
        y = (series == levels[-1]).to_numpy() if len(levels) == 2 else np.zeros(len(series))
        if len(levels) < 2:
            raise DataError(
                f"Expected two classes, {column} has the same value in all {len(series)} rows; "
                "there is nothing to predict."
            )
    elif pd.api.types.is_numeric_dtype(series):
        y = _SIGNS[sign](series.to_numpy(), _threshold(series, column, value, target))
    elif pd.api.types.is_datetime64_any_dtype(series):
        try:
            y = _SIGNS[sign](series.to_numpy(), np.datetime64(value, "ns"))
        except ValueError:
            raise DataError(
                f"Expected a day such as 2024-01-31 to compare {column} with, got {value!r}."
            ) from None
    elif sign in ("==", "!="):
        y = _SIGNS[sign](series.astype(str).to_numpy(), value.strip("'\""))
    else:
        raise DataError(
            f"Expected numbers in {column} for {target!r}, it holds text; use == or != with it."
        )
    y = np.asarray(y, dtype=np.int64)
    if y.min() == y.max() and not alone:
        raise DataError(
            f"Expected two classes, {target!r} gives only class {y[0]} in all {y.size} rows; "
            "choose another column or threshold."
        )
    return y


def _threshold(series: pd.Series, column: str, value: str, target: str) -> int | float:
    """The number to compare with; exact where column and number are whole, beyond 2^53 too."""
    import pandas as pd

    try:
        if pd.api.types.is_integer_dtype(series) and re.fullmatch(r"[+-]?\d+", value):
            return int(value)
        threshold = float(value)
    except ValueError:
        threshold = float("nan")
    if np.isnan(threshold):
        raise DataError(f"Expected a number to compare {column} with, got {value!r} in {target!r}.")
    return threshold


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
    if rest.shape[1] == 0:
        raise DataError(f"Expected at least one column beside the target {column}, got none.")
    columns = _features(rest)
    if like is not None:
        unknown = [key for key in columns if key not in like.features]
        if unknown:
            shown = ", ".join("_".join(map(str, filter(None, key))) for key in unknown[:5])
            raise DataError(
                f"Expected the {len(like.features)} features of the other table, got also "
                f"{shown}; encode both tables from the wider one."
            )
    features = tuple(columns) if like is None else like.features
    nothing = np.zeros(len(rest))
    return Encoded(
        X=np.column_stack([columns.get(key, nothing) for key in features]).astype(np.float64),
        y=y,
        feature_names=_names(features) if like is None else like.feature_names,
        features=features,
    )


def _features(frame: pd.DataFrame) -> dict[tuple[str, str | None], np.ndarray]:
    """Columns of numbers by (column, level); the level is None where the column is a number."""
    from pandas.api import types

    numbers: dict[tuple[str, str | None], np.ndarray] = {}
    levels: dict[tuple[str, str | None], np.ndarray] = {}
    for name, column in frame.items():
        if types.is_datetime64_any_dtype(column):
            for part in _DATE_PARTS:
                numbers[f"{name} ({part})", None] = getattr(column.dt, part).to_numpy(np.float64)
        elif types.is_numeric_dtype(column):
            numbers[str(name), None] = column.to_numpy(np.float64)
        else:
            texts = column.astype(str)
            for level in sorted(column.unique().tolist(), key=str):
                levels[str(name), str(level)] = (texts == str(level)).to_numpy(np.float64)
    return numbers | levels


def _names(features: Sequence[tuple[str, str | None]]) -> tuple[str, ...]:
    plain = [name if level is None else f"{name}_{level}" for name, level in features]
    twice = {name for name, n in Counter(plain).items() if n > 1}
    names: list[str] = []
    for (column, level), name in zip(features, plain, strict=True):
        unique = f"{column}={level}" if name in twice and level is not None else name
        while unique in names or (unique != name and unique in plain):
            unique += "'"
        names.append(unique)
    return tuple(names)


def _refuse_missing(frame: pd.DataFrame) -> None:
    counts = frame.isna().sum()
    holes = [f"{name} ({int(n)})" for name, n in counts.items() if n]
    if holes:
        raise DataError(
            f"Expected a complete table, values are missing in {', '.join(holes)}; "
            "drop those rows or columns, or fill them, first."
        )


def open_table(name_or_path: str, *, target: str, stand_in: bool = False) -> Dataset:
    """A registered data set by its name (`load`), else the CSV at that path (`read_csv`)."""
    if name_or_path in REGISTRY:
        return load(name_or_path, stand_in=stand_in)
    return read_csv(name_or_path, target=target)


def read_csv(path: str | Path, *, target: str) -> Dataset:
    """Read a user's own CSV and check that `target` can be predicted from it.

    Parameters
    ----------
    path : path
        See `read_table`: what is read, what is refused, what counts as missing.
    target : str
        See `positives`.

    Returns
    -------
    Dataset with kind "own", the SHA-256 of the file's bytes, and what the reader decided.

    Raises
    ------
    DataMissing
        If there is no such file.
    DataError
        If the reader refuses the file, the target is lacking or does not have two classes, or
        values are missing (the message counts them per column).
    """
    file = Path(path)
    reading = read_table(file)
    _target_column([c.name for c in reading.columns], target)
    try:
        _refuse_missing(reading.frame)
        positives(reading.frame, target)
    except DataError as error:
        raise DataError(f"{file.name}: {error}") from None
    provenance = {
        "name": file.name,
        "sha256": reading.sha256,
        "kind": "own",
        "licence": "",
        "citation": "",
        "rows": len(reading.frame),
        "address": "",
    }
    return Dataset(
        frame=reading.frame, provenance=MappingProxyType(provenance), reading=reading.table()
    )


def split(
    y: np.ndarray | int,
    *,
    fraction: float = 0.2,
    rng: np.random.Generator,
    stratify: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the training and of the held-out part.

    Parameters
    ----------
    y : array, shape (n,), or int
        Classes, or just the number of rows.
    fraction : float
        Share held out, in (0, 1), rounded to whole rows. The report holds out one fifth.
    rng : numpy Generator
    stratify : bool
        Hold out the same share of each class (rounded within each). The report does not say
        whether it did; plain random is the default.

    Returns
    -------
    (train, held_out) : int64 arrays, both in random order, disjoint, together all rows.

    Raises
    ------
    ValueError
        If `fraction` is outside (0, 1), leaves a part empty, or `stratify` lacks classes.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is a share in (0, 1), got {fraction}; for one fifth pass 0.2.")
    if np.ndim(y) == 0:
        if stratify:
            raise ValueError("stratify needs the classes, got only the number of rows.")
        groups = [np.arange(int(np.asarray(y)))]
    else:
        classes = np.asarray(y)
        groups = (
            [np.flatnonzero(classes == level) for level in np.unique(classes)]
            if stratify
            else [np.arange(classes.size)]
        )
    train, held_out = [], []
    for group in groups:
        shuffled = rng.permutation(group)
        size = round(fraction * group.size)
        held_out.append(shuffled[:size])
        train.append(shuffled[size:])
    parts = rng.permutation(np.concatenate(train)), rng.permutation(np.concatenate(held_out))
    if not all(part.size for part in parts):
        raise ValueError(
            f"fraction {fraction} of {sum(g.size for g in groups)} rows leaves a part empty."
        )
    return parts


def binarise(frame: pd.DataFrame, target: str) -> pd.DataFrame:
    """The table with the target's column replaced, in place, by its class 0 or 1.

    The new column carries the name of `target` (``"G3>=10"``), so that `encode` with the same
    target works on the result, and on synthetic tables made from it.

    Raises
    ------
    DataError
        As `positives`.
    """
    y = positives(frame, target)
    column, _, _ = _target_column([str(c) for c in frame.columns], target)
    return frame.assign(**{column: y}).rename(columns={column: target})
