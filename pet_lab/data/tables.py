"""A user's own table, features and target, and the part that is held out."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from . import canonical
from .errors import DataError, DataMissing
from .registry import REGISTRY, Dataset, load, table_frame

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Encoded", "binarise", "encode", "open_table", "positives", "read_csv", "split"]

_MISSING = frozenset({"", "na", "n/a", "nan", "null", "?"})
_TARGET = re.compile(r"\s*(?P<column>.+?)\s*(?P<sign>>=|<=|>|<|==|!=)\s*(?P<value>.+?)\s*")
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
    feature_names  one name per column of `X`
    """

    X: np.ndarray
    y: np.ndarray
    feature_names: tuple[str, ...]


def _target_column(columns: Sequence[str], target: str) -> tuple[str, str | None, str]:
    """(column, comparison or None, value). A column of exactly that name comes first."""
    if target in columns:
        return target, None, ""
    match = _TARGET.fullmatch(target)
    column = match["column"] if match else target
    if column not in columns:
        shown = ", ".join(list(columns)[:12]) + (", ..." if len(columns) > 12 else "")
        raise DataError(
            f"Expected the target column {column!r}, the table has {shown}; "
            'name one of them, with a threshold if it is a number: "grade>=10".'
        )
    return (column, match["sign"], match["value"]) if match else (column, None, "")


def positives(frame: pd.DataFrame, target: str) -> np.ndarray:
    """The target as 0 and 1.

    Parameters
    ----------
    frame : DataFrame
    target : str
        A column with two values (the later one in sorted order is 1: 1 of 0/1, "yes" of no/yes),
        or a comparison of a column with a value, such as ``"G3>=10"``.

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
        try:
            threshold = float(value)
        except ValueError:
            raise DataError(
                f"Expected a number to compare {column} with, got {value!r} in {target!r}."
            ) from None
        y = _SIGNS[sign](series.to_numpy(), threshold)
    elif sign in ("==", "!="):
        y = _SIGNS[sign](series.astype(str).to_numpy(), value.strip("'\""))
    else:
        raise DataError(
            f"Expected numbers in {column} for {target!r}, it holds text; use == or != with it."
        )
    y = np.asarray(y, dtype=np.int64)
    if y.min() == y.max():
        raise DataError(
            f"Expected two classes, {target!r} gives only class {y[0]} in all {y.size} rows; "
            "choose another column or threshold."
        )
    return y


def encode(
    frame: pd.DataFrame, *, target: str, like: Encoded | Sequence[str] | None = None
) -> Encoded:
    """Features by `pandas.get_dummies` of every column but the target's, and the target.

    Parameters
    ----------
    frame : DataFrame
        Complete: no missing values.
    target : str
        See `positives`. ``"G3>=10"`` on ``student_mat`` gives 265 positives and 58 features.
    like : Encoded or feature names, optional
        Give exactly these features in this order: a level that does not occur becomes a column of
        zeros (a synthetic table may lack a rare level). A level unknown to `like` is an error.

    Returns
    -------
    Encoded : numbers first in their order, then one 0/1 column per level, named ``column_level``.

    Raises
    ------
    DataError
        As `positives`; also for missing values, or features that `like` does not know.
    """
    import pandas as pd

    y = positives(frame, target)
    column, _, _ = _target_column([str(c) for c in frame.columns], target)
    rest = frame.drop(columns=column)
    _refuse_missing(rest)
    if rest.shape[1] == 0:
        raise DataError(f"Expected at least one column beside the target {column}, got none.")
    dummies = pd.get_dummies(rest, dtype=np.float64)
    if like is not None:
        names = list(like.feature_names if isinstance(like, Encoded) else like)
        unknown = [c for c in dummies.columns if c not in names]
        if unknown:
            raise DataError(
                f"Expected the {len(names)} features of the other table, got also "
                f"{', '.join(unknown[:5])}; encode both tables from the wider one."
            )
        dummies = dummies.reindex(columns=names, fill_value=0.0)
    return Encoded(
        X=dummies.to_numpy(dtype=np.float64),
        y=y,
        feature_names=tuple(str(c) for c in dummies.columns),
    )


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
        UTF-8 text with a header; the separator (``, ; tab |``) is found from the header.
        Empty cells and NA, N/A, NaN, null, ? in any case count as missing.
    target : str
        See `positives`.

    Returns
    -------
    Dataset with kind "own" and the SHA-256 of the file's bytes.

    Raises
    ------
    DataMissing
        If there is no such file.
    DataError
        If the file is empty, is no CSV, repeats column names, lacks the target, is missing values
        (the message counts them per column), or if the target does not have two classes.
    """
    file = Path(path)
    if not file.is_file():
        raise DataMissing(f"Expected a CSV file, but there is no {file.name} at the path given.")
    content = file.read_bytes()
    try:
        table = canonical.parse_csv(content)
    except ValueError as error:
        raise DataError(f"{file.name}: {error}") from None
    if not table.rows:
        raise DataError(f"{file.name}: Expected rows of data, got only a header.")
    _target_column(table.columns, target)
    holes = [
        f"{name} ({count})"
        for j, name in enumerate(table.columns)
        if (count := sum(row[j].lower() in _MISSING for row in table.rows))
    ]
    if holes:
        raise DataError(
            f"{file.name}: Expected a complete table, values are missing in {', '.join(holes)}; "
            "drop those rows or columns, or fill them, first."
        )
    frame = table_frame(table)
    positives(frame, target)
    provenance = {
        "name": file.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "kind": "own",
        "licence": "",
        "citation": "",
        "rows": len(frame),
        "address": "",
    }
    return Dataset(frame=frame, provenance=MappingProxyType(provenance))


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
