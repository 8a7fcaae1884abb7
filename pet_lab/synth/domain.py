"""Which values a column may take: stated by someone (public), or read off the data (a leak)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pet_lab.checks import require
from pet_lab.data.own import LEVELS, Bins


@dataclass(frozen=True, kw_only=True)
class Coded:
    """A table as codes 0 .. size - 1 per column, and the way back.

    codes   column -> int64 array, shape (n,)
    kinds   column -> the levels in order, or `Bins`
    public  columns whose domain was stated; the others' was read off the data
    dtypes  of the original columns
    """

    codes: Mapping[str, np.ndarray]
    kinds: Mapping[str, tuple[Any, ...] | Bins]
    public: frozenset[str]
    dtypes: Mapping[str, Any]

    @property
    def sizes(self) -> dict[str, int]:
        """Column -> number of codes."""
        return {
            name: len(kind.edges) - 1 if isinstance(kind, Bins) else len(kind)
            for name, kind in self.kinds.items()
        }

    def decode(self, codes: Mapping[str, np.ndarray], rng: np.random.Generator) -> pd.DataFrame:
        """Codes back to a table with the original columns, order and types."""
        columns = {}
        for name, kind in self.kinds.items():
            dtype = self.dtypes[name]
            if isinstance(kind, Bins):
                drawn = kind.draw(codes[name], rng)
                if drawn.dtype.kind == "f" and pd.api.types.is_integer_dtype(dtype):
                    drawn = np.floor(drawn)
                columns[name] = pd.Series(drawn).astype(dtype)
            else:
                levels = pd.Series(list(kind), dtype=dtype)
                columns[name] = levels.take(codes[name]).reset_index(drop=True)
        return pd.DataFrame(columns)


def code(frame: pd.DataFrame, domain: Mapping[str, Sequence[Any] | Bins] | None) -> Coded:
    """Code a complete table by the stated domain (column -> allowed values, or `Bins`).

    Other columns are read off the data, which reveals something: text, bool and whole numbers of
    fewer than 150 levels get the levels that occur; other numbers get ten bins of equal width
    between their least and largest value, whole numbers in them if all values are. ValueError where
    a stated column does not exist or holds a value outside its domain (the value is not shown).
    """
    domain = dict(domain or {})
    unknown = ", ".join(name for name in domain if name not in frame.columns)
    require(not unknown, f"domain names columns that the table lacks: {unknown}; drop them there.")
    codes: dict[str, np.ndarray] = {}
    kinds: dict[str, tuple[Any, ...] | Bins] = {}
    for name in frame.columns:
        values = frame[name].to_numpy()
        kind = domain.get(name, _levels_or_bins(values))
        if isinstance(kind, Bins):
            codes[name], kinds[name] = kind.codes(values), kind
            continue
        levels = kinds[name] = tuple(kind)
        place = {level: i for i, level in enumerate(levels)}
        number, met = pd.factorize(values, use_na_sentinel=False)
        codes[name] = np.array([place.get(v, -1) for v in met.tolist()], dtype=np.int64)[number]
        outside = int((codes[name] < 0).sum())
        require(
            not outside,
            f"Column {name} holds {outside} values outside the stated domain; widen the domain, or "
            "map them first.",
        )
    dtypes = {name: frame[name].dtype for name in frame.columns}
    return Coded(codes=codes, kinds=kinds, public=frozenset(domain), dtypes=dtypes)


def whole(values: np.ndarray) -> bool:
    """Whether all values are whole numbers, floats up to 2^53 in size included."""
    if values.dtype.kind == "f":
        return bool(np.all((values == np.round(values)) & (np.abs(values) <= 2.0**53)))
    return values.dtype.kind in "iu"


def _levels_or_bins(values: np.ndarray) -> tuple[Any, ...] | Bins:
    if values.dtype.kind not in "iuf":
        return tuple(sorted(set(values.tolist()), key=lambda v: (str(type(v)), v)))
    if whole(values):
        levels = np.unique(values)
        low, high = int(levels[0]), int(levels[-1])
        if levels.size < LEVELS and high - low < LEVELS:
            return tuple(levels.tolist())
        return Bins.between(low, high, integer=True)
    least, most = float(values.min()), float(values.max())
    most = most if most > least else least + 1.0
    return Bins.between(least, most, integer=False)
