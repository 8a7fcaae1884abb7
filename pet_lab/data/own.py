"""A user's own table made fit for learning: what is known of its columns, dates, missing values.

A file of bounds (TOML) states, without a look at the data, what a column may hold:

    age = [18, 99]                        # numbers: least and largest
    region = ["north", "south"]           # text: all its values
    joined = [2010-01-01, 2024-12-31]     # dates: first and last
    name = false                          # left out
"""

from __future__ import annotations

import datetime
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from pet_lab.checks import one_of, require

from .errors import DataError
from .reader import TableReading, content_of

POLICIES = ("refuse", "drop", "level", "median")
"""What is done with a missing value: see `prepare`."""
MISSING = "(missing)"
LEVELS = 150
"""Whole numbers with fewer levels, over a shorter range, are levels: the rule of smartnoise."""
BINS = 10
"""Bins of equal width of all other numbers: as many as smartnoise takes."""
MOST_TEXTS = 20
"""A text column of more values than this, half of the rows each with its own, is no feature."""

_require = partial(require, error=DataError)
_PARTS: Mapping[str, Sequence[int]] = {"year": (), "month": range(1, 13), "day": range(1, 32)}


@dataclass(frozen=True, kw_only=True)
class Bins:
    """A numeric column cut into bins that are stated without looking at the data.

    edges    increasing, one more than bins; a value belongs to the last edge not above it, values
             outside fall into the first or last bin
    integer  synthetic values are whole numbers in [edge, next edge - 1], the last edge included in
             the last bin; otherwise uniform between the edges
    """

    edges: tuple[float, ...]
    integer: bool = False

    def __post_init__(self) -> None:
        increasing = len(self.edges) > 1 and all(a < b for a, b in pairwise(self.edges))
        require(increasing, f"edges must be at least two, increasing, got {self.edges}.")

    @classmethod
    def between(cls, low: float, high: float, *, integer: bool) -> Bins:
        """`BINS` of equal width."""
        if integer:
            starts = {low + (high - low) * i // BINS for i in range(BINS)}
            return cls(edges=(*sorted(starts), high), integer=True)
        return cls(edges=tuple(np.linspace(low, high, BINS + 1).tolist()))

    def codes(self, values: np.ndarray) -> np.ndarray:
        """Bin numbers, shape of `values`."""
        inner = np.asarray(self.edges[1:-1], dtype=float)
        return np.searchsorted(inner, np.asarray(values, dtype=float), side="right")

    def draw(self, codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A value uniform in each bin."""
        if not self.integer:
            edges = np.asarray(self.edges, dtype=float)
            return rng.uniform(edges[codes], edges[codes + 1])
        starts = [math.ceil(edge) for edge in self.edges]
        kind: Any = np.uint64 if starts[-1] >= 2**63 else np.int64
        low = np.array(starts[:-1], dtype=kind)
        high = np.array([edge - 1 for edge in starts[1:-1]] + starts[-1:], dtype=kind)
        return rng.integers(low[codes], high[codes], endpoint=True, dtype=kind)


Domain = Mapping[str, Sequence[Any] | Bins]
"""Column -> all values it may take, or the bins of a range of numbers."""


def cuts(values: Sequence[Any] | Bins) -> tuple[float, ...]:
    """Thresholds that tell the values of a column of numbers apart: all but the least value."""
    return values.edges[1:-1] if isinstance(values, Bins) else tuple(sorted(values)[1:])


def ends(values: Sequence[Any] | Bins) -> tuple[float, float]:
    """(least, largest) value of a column of numbers."""
    known = values.edges if isinstance(values, Bins) else values
    return float(min(known)), float(max(known))


def prepare(
    reading: TableReading, *, target: str, missing: str, bounds: str, leave_out: Sequence[str]
) -> tuple[pd.DataFrame, Domain, dict[str, str], tuple[str, ...]]:
    """The table to learn from, its stated domain, decisions by column, and notes on privacy.

    Parameters
    ----------
    target : the target's column, which stays as it is.
    missing : str
        "refuse"; "drop" the row; "level": of text a level of its own, of numbers a column that says
        so, the number itself being the middle of its bounds or the median; "median": the median, of
        text the most frequent value. But for "refuse", rows without a target are dropped.
    bounds : str
        A file as above, or "": nothing is stated. Numbers outside are moved to the nearest bound.
    leave_out : names of columns that are no features

    Raises
    ------
    DataError
        For columns that do not exist, values of text outside the bounds, identifiers and free text.
    """
    one_of(POLICIES, missing=missing)
    kinds = {c.name: c.kind for c in reading.columns}
    stated = _stated(bounds, kinds) if bounds else {}
    out = [*leave_out, *(name for name, known in stated.items() if known is False)]
    unknown = ", ".join(name for name in out if name not in kinds or name == target)
    _require(not unknown, f"Expected features of the table to leave out, got {unknown}.")
    work = _Work(decisions={name: {"Left out.": None} for name in out})
    frame = work.rows(reading.frame.drop(columns=out), target, missing)
    filled: dict[str, pd.Series] = {}
    for name in map(str, frame.columns):
        if name == target:
            filled[name] = frame[name]
            continue
        columns, domain = work.feature(name, frame[name], kinds[name], stated.get(name))
        work.domain |= domain
        for part, column in columns.items():
            complete = missing == "refuse" or not column.isna().any()
            filled |= (
                {part: _typed(column, kinds[name])}
                if complete
                else work.filled(name, part, column, kinds[name], level=missing == "level")
            )
    if work.read_off:
        work.notes.append(
            f"Missing values of {', '.join(work.read_off)} were filled with a median or the most "
            "frequent value of the data, which no ε here pays for."
        )
    features = len(filled) - 1
    unstated = features - len(work.domain)
    work.notes.append(
        f"What {unstated} of {features} features may hold is read off the data, which no ε here "
        "pays for: strictly, none holds. A file of bounds for every column avoids that."
        if unstated
        else "What each feature may hold was stated beforehand, and features are scaled by it."
    )
    decisions = {name: " ".join(parts) for name, parts in work.decisions.items()}
    return pd.DataFrame(filled), work.domain, decisions, tuple(work.notes)


@dataclass
class _Work:
    """What is decided on the way."""

    decisions: dict[str, dict[str, None]]
    notes: list[str] = field(default_factory=list)
    domain: dict[str, Sequence[Any] | Bins] = field(default_factory=dict)
    read_off: dict[str, None] = field(default_factory=dict)

    def decide(self, name: str, decision: str) -> None:
        self.decisions.setdefault(name, {})[decision] = None

    def rows(self, frame: pd.DataFrame, target: str, missing: str) -> pd.DataFrame:
        """Those with a target; for "drop" those without a missing value."""
        if missing == "refuse":
            return frame
        holes = frame.isna().any(axis=1) if missing == "drop" else frame[target].isna()
        left = f"Every row lacks a value, so that {missing!r} leaves none; leave columns out first."
        _require(not holes.all(), left)
        if n := int(holes.sum()):
            what = "with a missing value" if missing == "drop" else "without a target"
            self.notes.append(
                f"{n} rows {what} were left out: each row decides for itself, which costs no ε, "
                "but the rest is no longer a random part of all."
            )
        return frame[~holes].reset_index(drop=True)

    def feature(
        self, name: str, column: pd.Series, kind: str, known: Sequence[Any] | None
    ) -> tuple[dict[str, pd.Series], dict[str, Sequence[Any] | Bins]]:
        """The features of a column, within its bounds, and their domain."""
        if kind == "text":
            _check_texts(name, column, known)
            return {name: column}, {name: tuple(known)} if known else {}
        if known:
            low, high = (pd.Timestamp(v) if kind == "date" else v for v in known)
            if outside := int(((column < low) | (column > high)).sum()):
                self.decide(name, f"Moved to the nearest bound: {outside} values.")
                column = column.clip(low, high)  # type: ignore[arg-type]
        if kind == "date":
            self.decide(name, "Year, month and day are features.")
            parts = {f"{name} ({part})": getattr(column.dt, part) for part in _PARTS}
            years = range(known[0].year, known[1].year + 1) if known else ()
            values = [months_or_days or years for months_or_days in _PARTS.values()]
            return parts, dict(zip(parts, values if known else [], strict=False))
        if not known:
            return {name: column}, {}
        whole = kind == "integer"
        few = whole and known[1] - known[0] < LEVELS
        levels = range(known[0], known[1] + 1) if few else None
        return {name: column}, {name: levels or Bins.between(*known, integer=whole)}

    def filled(
        self, name: str, part: str, column: pd.Series, kind: str, *, level: bool
    ) -> dict[str, pd.Series]:
        """The feature `part` of the column `name` without holes, and a mark of them."""
        holes, known = column.isna(), self.domain.get(part)
        _require(not holes.all(), f"Column {name} holds no value; leave it out (leave_out).")
        marked: dict[str, pd.Series] = {}
        if kind == "text":
            value, how = (MISSING, "a level of their own") if level else (column.mode()[0], "")
            if level and known is not None:
                self.domain[part] = (*known, MISSING)  # type: ignore[misc]
        else:
            value, how = column.quantile(0.5, interpolation="lower"), "the median"  # occurs
            if level:
                marked[f"{name} {MISSING}"] = holes.astype(np.int64)
                if known is not None:
                    value, how = float(sum(ends(known)) // 2), "the middle of the bounds"
                    self.domain[f"{name} {MISSING}"] = (0, 1)
                how += ", and a column that says so"
        if how.startswith("the median") or not how:
            self.read_off[name] = None
        self.decide(name, f"{int(holes.sum())} missing: {how or 'the most frequent value'}.")
        return marked | {part: _typed(column.fillna(value), kind)}


def _typed(column: pd.Series, kind: str) -> pd.Series:
    """Whole numbers as such, where a missing one had made them floats."""
    whole = kind in ("integer", "date") and column.dtype.kind == "f" and not column.isna().any()
    return column.astype(np.int64) if whole else column


def _check_texts(name: str, column: pd.Series, known: Sequence[str] | None) -> None:
    values = column.dropna()
    if known:
        outside = int((~values.isin(known)).sum())
        _require(
            not outside,
            f"Column {name} holds {outside} values that its bounds do not name; add them there.",
        )
        return
    n = values.nunique()
    _require(
        n <= max(MOST_TEXTS, len(column) // 2),
        f"Column {name} holds {n} different texts in {len(column)} rows: an identifier or free "
        "text is no feature; leave it out (leave_out), or group its values.",
    )


def _stated(file: str, kinds: Mapping[str, str]) -> dict[str, Any]:
    """The file of bounds, each entry fit for its column; False: left out."""
    try:
        stated = tomllib.loads(content_of(file, what="a file of bounds").decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise DataError(f"The file of bounds is not valid TOML: {reason}.") from None
    unknown = ", ".join(name for name in stated if name not in kinds)
    _require(not unknown, f"The file of bounds names columns that the table lacks: {unknown}.")
    return {name: _entry(name, kinds[name], value) for name, value in stated.items()}


def _entry(name: str, kind: str, value: Any) -> Any:
    if value is False:
        return value
    example = {"date": "[2010-01-01, 2024-12-31]", "text": '["north", "south"]'}
    expected = f"Expected bounds of {name} such as {example.get(kind, '[18, 99]')}, or false"
    listed = isinstance(value, list) and value
    _require(listed, f"{expected}, got {value!r}.")
    if kind == "text":
        _require(
            all(isinstance(v, str) for v in value) and len(set(value)) == len(value),
            f"{expected}, got values that are repeated or no text.",
        )
        return value
    if kind == "date":
        fits = all(type(v) is datetime.date for v in value)
    else:
        types = (int,) if kind == "integer" else (int, float)
        fits = all(type(v) in types and math.isfinite(v) and abs(v) <= 2**53 for v in value)
    _require(fits and len(value) == 2 and value[0] < value[1], f"{expected}, got {value!r}.")
    return value
