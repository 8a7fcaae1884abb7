"""Two files of a user's own that share a key: read strictly, checked before any work starts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pandas as pd

from pet_lab.checks import require

from .errors import DataError
from .reader import read_table

_check = partial(require, error=DataError)


@dataclass(frozen=True, kw_only=True)
class FilePair:
    """Both files, cut to the columns in use.

    left, right  typed frames, keys and groups as text; the right key under the left's name
    key          columns of the key, by the left's names
    provenance   of each file, as a run stores it
    reading      what the reader decided of each column in use, by file
    """

    left: pd.DataFrame = field(repr=False)
    right: pd.DataFrame = field(repr=False)
    key: list[str]
    provenance: list[dict[str, Any]]
    reading: pd.DataFrame = field(repr=False)


def open_pair(
    left: str,
    right: str,
    *,
    on: Sequence[str],
    left_columns: Sequence[str] = (),
    right_columns: Sequence[str] = (),
    numbers: Sequence[str] = (),
    unique: bool = True,
    most_labels: int = 0,
) -> FilePair | None:
    """Both files, or None where neither is named: then a notebook takes the report's data.

    Parameters
    ----------
    on : key columns; "id=person_id" where the right file calls the left's id person_id
    left_columns, right_columns : further columns in use; none: all that are not in the key
    numbers : those of the columns that are numbers; all else is text, so "007" stays "007"
    unique : whether a key may be in a file once only
    most_labels : the largest number of different values of a text column; 0: any

    Raises
    ------
    DataError
        In one sentence: one file of two, no key, a column that is not there, a missing cell, a key
        that repeats, too many labels, text where numbers are needed, or no key in both files.
    """
    named = [name for name in (left, right) if name]
    given = [*on, *left_columns, *right_columns, *numbers]
    if not named:
        _check(not given, f"{given and given[0]!r} names a column of no file; name left and right.")
        return None
    _check(len(named) == 2, f"Expected two files, got only {named[0]}; name left and right.")
    _check(on, "Two files need a key that both have; name its columns in `on`.")
    key, other = zip(
        *((a, b or a) for a, _, b in (text.partition("=") for text in on)), strict=True
    )
    rules: Any = {"numbers": numbers, "unique": unique, "most_labels": most_labels}
    a, source_a, decided_a = _side(left, key, left_columns, **rules)
    b, source_b, decided_b = _side(right, other, right_columns, **rules)
    clash = ", ".join(set(key) & set(b.columns[len(key) :]))
    _check(not clash, f"{source_b['name']} has {clash} beside the key of that name; rename it.")
    b = b.rename(columns=dict(zip(other, key, strict=True)))
    keys = [set(frame[list(key)].itertuples(index=False, name=None)) for frame in (a, b)]
    _check(
        keys[0] & keys[1],
        f"No key of {source_a['name']} is in {source_b['name']} ({', '.join(key)}); check that "
        "both write it alike: leading zeros, case, dates.",
    )
    decided = pd.concat([decided_a, decided_b], ignore_index=True)
    provenance = [source_a, source_b]
    return FilePair(left=a, right=b, key=list(key), provenance=provenance, reading=decided)


def _side(
    path: str,
    key: Sequence[str],
    columns: Sequence[str],
    *,
    numbers: Sequence[str],
    unique: bool,
    most_labels: int,
) -> tuple[pd.DataFrame, dict[str, Any], pd.DataFrame]:
    """The columns in use with the key first, the file's provenance, what the reader decided."""
    name = path.replace("\\", "/").rsplit("/", 1)[-1]
    header = [column.name for column in read_table(path, as_text=True).columns]
    used = [*key, *(columns or [c for c in header if c not in key])]
    for column in used:
        known = ", ".join(header[:12]) + (", ..." if len(header) > 12 else "")
        _check(column in header, f"{name} has no column {column!r}; its columns are {known}.")
        once = f"{name}: {column} is named {used.count(column)} times; name each column once."
        _check(used.count(column) == 1, once)
    reading = read_table(path, as_text=[c for c in header if c not in numbers])
    frame = reading.frame[used]
    for column in used:
        cells = frame[column]
        holes = int((cells.isna() | (cells == "")).sum())
        _check(
            not holes,
            f"{name}: {column} is missing in {holes} of {len(frame)} rows; fill or drop them.",
        )
        number = cells.dtype.kind in "if"
        text = f"{name}: {column} must hold numbers, and some of its cells are none; mend them."
        _check(number or column not in numbers, text)
        labels = 0 if number or column in key else cells.nunique()
        _check(
            not most_labels or labels <= most_labels,
            f"{name}: {column} has {labels} different values, a table of counts takes at most "
            f"{most_labels}; group them first, or name other columns.",
        )
    again = frame.duplicated(list(key))
    _check(
        not (unique and again.any()),
        f"{name}: the key ({', '.join(key)}) repeats in {int(again.sum())} of {len(frame)} rows, "
        f"first in line {reading.lines[int(again.argmax())]}; keep one row a key.",
    )
    decided = reading.table().set_index("column").loc[used].reset_index()
    decided.insert(0, "file", name)
    source = {"name": name, "sha256": reading.sha256, "kind": "own", "licence": "", "citation": ""}
    return frame, source, decided
