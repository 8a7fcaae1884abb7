"""A user's own table, features and target, and the part that is held out."""

import operator
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from pet_lab.checks import one_of, require

from .entry import Dataset
from .errors import DataError
from .own import POLICIES, Domain, ends, prepare
from .reader import read_table
from .registry import REGISTRY, load
from .scaling import unit_range

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
    ranges         (least, largest) of each feature where all were stated, shape (features, 2)
    """

    X: np.ndarray
    y: np.ndarray
    feature_names: tuple[str, ...]
    features: tuple[Feature, ...]
    ranges: np.ndarray | None = None

    @property
    def unit(self) -> np.ndarray:
        """`X` from 0 to 1, between the stated ends or else those of the data (`unit_range`)."""
        return unit_range(self.X, None if self.ranges is None else self.ranges.T)


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
    target : a column with two values (the later one in sorted order is 1: 1 of 0/1, "yes" of
        no/yes), or a comparison of a column with a value, such as ``"G3>=10"``.
    alone : whether one class will do, of a comparison or of a column of 0 and 1.

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


def encode(
    frame: pd.DataFrame,
    *,
    target: str,
    like: Encoded | None = None,
    domain: Domain = MappingProxyType({}),
) -> Encoded:
    """Features of every column but the target's, and the target.

    Parameters
    ----------
    frame : complete, without missing values.
    target : see `positives`. ``"G3>=10"`` on ``student_mat`` gives 265 positives and 58 features.
    like : give exactly these features in this order: a level that does not occur becomes a column
        of zeros (a synthetic table may lack a rare level, or one class). A level unknown to `like`
        is an error.
    domain : mapping, optional
        What columns may hold (`Dataset.domain`): levels and ranges are then not read off the data.

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
    columns = _features(rest, domain)
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
    ranges = like.ranges if like else None
    if set(rest) <= set(domain):
        ranges = np.array(
            [ends(domain[name]) if level is None else (0, 1) for name, level in features]
        )
    names = names or _names(features)
    return Encoded(X=X, y=y, feature_names=names, features=features, ranges=ranges)


def _features(frame: pd.DataFrame, domain: Domain) -> dict[Feature, np.ndarray]:
    """Columns of numbers by (column, level); the level is None where the column is a number."""
    from pandas.api import types

    numbers: dict[Feature, np.ndarray] = {}
    levels: dict[Feature, np.ndarray] = {}
    for key, column in frame.items():
        name = str(key)
        if types.is_datetime64_any_dtype(column):
            for part in ("year", "month", "day"):
                numbers[f"{name} ({part})", None] = getattr(column.dt, part).to_numpy(np.float64)
        elif types.is_numeric_dtype(column):
            numbers[name, None] = column.to_numpy(np.float64)
        else:
            texts = column.astype(str)
            for level in sorted(domain.get(name, texts.unique())):  # type: ignore[arg-type]
                levels[name, level] = (texts == level).to_numpy(np.float64)
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
        'drop those rows or columns, or fill them, first (missing="drop", "level" or "median").',
        DataError,
    )


def open_table(
    name_or_path: str,
    *,
    target: str,
    stand_in: bool = False,
    missing: str = "refuse",
    bounds: str = "",
    leave_out: Sequence[str] = (),
) -> Dataset:
    """A registered data set by its name (`load`), else the CSV at that path (`read_csv`)."""
    if name_or_path not in REGISTRY:
        own: dict[str, Any] = {"missing": missing, "bounds": bounds, "leave_out": leave_out}
        return read_csv(name_or_path, target=target, **own)
    one_of(POLICIES, missing=missing)
    only = (
        f"bounds and leave_out are for an own table, {name_or_path} is described; leave them empty."
    )
    require(not bounds and not leave_out, only, DataError)
    return load(name_or_path, stand_in=stand_in)


def read_csv(
    path: str | Path,
    *,
    target: str,
    missing: str = "refuse",
    bounds: str = "",
    leave_out: Sequence[str] = (),
) -> Dataset:
    """Read a user's own CSV (`read_table`), fit it for learning `target` (`own.prepare`).

    The Dataset is of kind "own", with the SHA-256 of the file's bytes and what was decided.
    DataMissing if there is no such file; DataError if the reader refuses it, the target is lacking
    or does not have two classes, or values are missing (the message counts them per column).
    """
    file = Path(path)
    reading = read_table(file)
    column, _, _ = _target_column([c.name for c in reading.columns], target)
    how: dict[str, Any] = {"missing": missing, "bounds": bounds, "leave_out": leave_out}
    try:
        frame, domain, decisions, notes = prepare(reading, target=column, **how)
        _refuse_missing(frame)
        positives(frame, target)
    except DataError as error:
        raise type(error)(f"{file.name}: {error}") from None
    provenance = {"name": file.name, "sha256": reading.sha256, "kind": "own"}
    provenance |= {"licence": "", "citation": "", "address": ""}
    table = reading.table()
    both = [
        f"{d} {decisions.get(c, '')}"
        for c, d in zip(table["column"], table["decision"], strict=True)
    ]
    return Dataset(
        frame=frame,
        provenance=MappingProxyType(provenance | {"rows": len(frame)}),
        reading=table.assign(decision=[text.strip() for text in both]),
        domain=domain,
        notes=notes,
    )


def facts(source: Dataset, *, target: str) -> pd.DataFrame:
    """What a report says of the table: one line per fact, columns what and number."""
    encoded = encode(source.frame, target=target, domain=source.domain)
    share = encoded.y.mean()
    numbers = {
        "question": target,
        "records": len(source.frame),
        "features": encoded.X.shape[1],
        "of the positive class": int(encoded.y.sum()),
        "share of the larger class": f"{max(share, 1 - share):.3f}",
    }
    return pd.DataFrame(numbers.items(), columns=["what", "number"])


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
