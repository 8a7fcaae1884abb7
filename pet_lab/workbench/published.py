"""Printed numbers as data: one TOML per printed table, every cell a string as printed.

The format is explained in ``pet_lab/published/README.md``. Nothing here compares: agreement is
computed by :mod:`pet_lab.workbench.scorecard`, contradictions by
:mod:`pet_lab.workbench.consistency`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from math import isinf, isnan, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, TypeVar, cast

import msgspec

from pet_lab.workbench.errors import WorkbenchError

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["exact", "one_run", "mean", "sd"]
Reading = Literal["described", "published"]
Value = bool | int | float | str

READINGS: tuple[Reading, ...] = ("described", "published")
PACKAGED = Path(__file__).resolve().parents[1] / "published"


class PublishedError(WorkbenchError, ValueError):
    """A file of printed numbers that cannot be read as such; the message names file and place."""


class _Folders(Protocol):
    @property
    def published(self) -> Path: ...


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One printed number.

    table       id of the printed table, for example "3.2"
    where       the typed conditions under which it was printed
    metric      what was measured
    printed     the number as printed: digits kept, thousands separators dropped, point for comma
    unit        unit in words
    margin      largest difference, in `unit`, that still counts as agreement; fixed before any run
    kind        "exact" (these digits), "one_run" (one draw), "mean" or "sd" (over repetitions)
    note        a remark of the publication
    match       further factor columns a row must agree with (an attack, a slice)
    decimals    decimals the publication states, where its print drops trailing zeros
    printed_se  standard error of the printed number itself, where the print tells it; else 0
    """

    table: str
    where: Mapping[str, Value]
    metric: str
    printed: str
    unit: str
    margin: float
    kind: Kind
    note: str = ""
    match: Mapping[str, Value] = field(default_factory=dict)
    decimals: int | None = None
    printed_se: float = 0.0

    @property
    def value(self) -> float:
        """The printed number."""
        return float(self.printed)

    @property
    def rounding(self) -> float:
        """Half a unit of the last printed digit; 0 for a printed infinity."""
        if isinf(self.value):
            return 0.0
        exponent = cast(int, Decimal(self.printed).as_tuple().exponent)
        if self.decimals is not None:
            exponent = -self.decimals
        return float(Decimal(5).scaleb(exponent - 1))

    @property
    def interval(self) -> tuple[float, float]:
        """Every number that prints as this one."""
        return self.value - self.rounding, self.value + self.rounding

    @property
    def conditions(self) -> dict[str, Value]:
        """All factor columns that decide which rows belong to this cell."""
        return {**self.where, **self.match}


class Note(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"reading": "as"}):
    """Why cells differ: those whose conditions include `where`; an empty field holds for all."""

    cause: str
    where: dict[str, Value] = {}
    metric: str = ""
    reading: Reading | Literal[""] = ""

    def covers(self, cell: Cell, reading: str) -> bool:
        """Whether the note explains a difference of this cell in this reading."""
        return (
            self.metric in ("", cell.metric)
            and self.reading in ("", reading)
            and self.where.items() <= cell.conditions.items()
        )


class Metric(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the cells of one metric have in common; the fields are explained in the README."""

    unit: str
    kind: Kind
    margin: Annotated[float, msgspec.Meta(ge=0)] | None = None
    relative_margin: Annotated[float, msgspec.Meta(ge=0)] | None = None
    decimals: int | None = None
    repetitions: int = 0
    sd: str = ""
    match: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        margins = (self.margin is not None) + (self.relative_margin is not None)
        if margins > 1 or (not margins and self.kind != "exact"):
            raise ValueError(
                "give margin or relative_margin, one of them, fixed before any run; only"
                ' kind = "exact" needs none'
            )
        if self.kind in ("mean", "sd") and self.repetitions < 2:
            raise ValueError(f"kind {self.kind!r} needs the printed repetitions (2 or more)")


class _File(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    title: str
    source: str
    place: str
    licence: str
    notebook: str
    keys: tuple[str, ...]
    metrics: dict[str, Any]
    cells: list[dict[str, Any]]
    readings: tuple[Reading, ...] = READINGS
    notes: tuple[Note, ...] = ()
    checks: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class PrintedTable:
    """One printed table: its cells, where it stands, and the notebook that reproduces it."""

    id: str
    title: str
    source: str
    place: str
    licence: str
    notebook: str
    keys: tuple[str, ...]
    cells: tuple[Cell, ...]
    readings: tuple[str, ...] = READINGS
    notes: tuple[Note, ...] = ()
    checks: tuple[Mapping[str, Any], ...] = ()

    def cause(self, cell: Cell, reading: str) -> str:
        """Known cause of a difference in this cell and reading, or "" where none is known."""
        return next((n.cause for n in self.notes if n.covers(cell, reading)), "")


def load(ws_or_path: _Folders | Path | str | None = None) -> list[PrintedTable]:
    """Read printed tables, in the order of their ids.

    Parameters
    ----------
    ws_or_path : workspace, folder or file, optional
        A folder is read with its folders, one per publication. A workspace means its `published`
        folder; nothing means the tables shipped with the package.

    Raises
    ------
    PublishedError
        If a file is not TOML, has unknown keys, a cell without unit or margin, a number that is not
        a number, or if two files or cells say the same thing twice.
    """
    if ws_or_path is None:
        path = PACKAGED
    elif isinstance(ws_or_path, str | Path):
        path = Path(ws_or_path)
    else:
        path = Path(ws_or_path.published)
    files = sorted(path.rglob("*.toml")) if path.is_dir() else [path]
    if not files:
        raise PublishedError(f"{path}: expected at least one .toml of printed numbers, found none.")
    tables: dict[str, PrintedTable] = {}
    for file in files:
        table = _table(file)
        if table.id in tables:
            raise PublishedError(f"{file.name}: table {table.id!r} is already in another file.")
        tables[table.id] = table
    return sorted(tables.values(), key=lambda t: _natural(t.id))


def cells(*ids: str) -> pd.DataFrame:
    """Cells of shipped tables as rows, for a notebook that computes with printed numbers.

    Returns
    -------
    DataFrame: table, metric, printed (a number), text (as printed), and the conditions of each cell
    (keys, attack, slice, ...) as columns, NaN where a cell does not have one.

    Raises
    ------
    PublishedError
        If there is no table of such an id.
    """
    import pandas as pd

    tables = {table.id: table for table in load()}
    if unknown := [name for name in ids if name not in tables]:
        raise PublishedError(f"No table {unknown[0]!r}; there are {', '.join(tables)}.")
    return pd.DataFrame(
        {
            "table": name,
            **cell.conditions,
            "metric": cell.metric,
            "printed": cell.value,
            "text": cell.printed,
        }
        for name in ids
        for cell in tables[name].cells
    )


def where_text(where: Mapping[str, Value]) -> str:
    """Conditions in one line, ``mechanism=dp-sgd;epsilon=inf``; a flag that is true is its name."""
    return ";".join(k if v is True else f"{k}={_literal(v)}" for k, v in where.items())


def parse_where(text: str) -> dict[str, Value]:
    """The typed conditions behind :func:`where_text`."""
    parts = (part.partition("=") for part in text.split(";") if part)
    return {key: _typed(value) if eq else True for key, eq, value in parts}


def _literal(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _typed(text: str) -> Value:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key in which 3.10 comes after 3.9 and numbers before words."""
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.findall(r"\d+|[^\d.]+", text)]


def _table(file: Path) -> PrintedTable:
    name = file.name
    try:
        raw = _typed_as(_File, tomllib.loads(file.read_text(encoding="utf-8")), name)
    except FileNotFoundError:
        raise PublishedError(f"{file}: no such file of printed numbers.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        # tomllib also refuses a key given twice, and says where.
        raise PublishedError(f"{name}: not valid TOML: {error}.") from None
    metrics = {m: _typed_as(Metric, v, f"{name}, metric {m!r}") for m, v in raw.metrics.items()}
    cells: dict[tuple[str, str], Cell] = {}
    for i, row in enumerate(raw.cells, 1):
        for cell in _cells(row, raw, metrics, f"{name}, cells[{i}]"):
            key = (where_text(cell.where), cell.metric)
            if key in cells:
                raise PublishedError(
                    f"{name}, cells[{i}]: {cell.metric} at {key[0]} is already given."
                )
            cells[key] = cell
    if unused := set(metrics) - {metric for _, metric in cells}:
        raise PublishedError(f"{name}: metrics {sorted(unused)} have no cell; remove or use them.")
    for i, note in enumerate(raw.notes, 1):
        if not any(note.covers(cell, note.reading) for cell in cells.values()):
            raise PublishedError(f"{name}, notes[{i}]: no cell has these conditions and metric.")
    texts = {k: getattr(raw, k) for k in ("id", "title", "source", "place", "licence", "notebook")}
    return PrintedTable(
        **texts,
        keys=raw.keys,
        cells=tuple(cells.values()),
        readings=raw.readings,
        notes=raw.notes,
        checks=raw.checks,
    )


_T = TypeVar("_T")


def _typed_as(kind: type[_T], raw: Any, place: str) -> _T:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise PublishedError(
            f"{place}: {error}; pet_lab/published/README.md explains the fields (a name with a dot"
            " needs quotes)."
        ) from None


def _cells(
    row: Mapping[str, Any], table: _File, metrics: Mapping[str, Metric], place: str
) -> Iterable[Cell]:
    extra = {k for metric in metrics.values() for k in metric.match}
    known = {*table.keys, *metrics, *extra, "note"}
    if unknown := sorted(set(row) - known):
        raise PublishedError(
            f"{place}: unknown {', '.join(unknown)}; expected of {', '.join(sorted(known))}"
            " (a name with a dot needs quotes)."
        )
    where = {k: row[k] for k in table.keys if k in row}
    for key, value in {**where, **{k: row[k] for k in extra if k in row}}.items():
        if not isinstance(value, bool | int | float | str):
            raise PublishedError(f"{place}: {key} is a number, text or flag, got {value!r}.")
    if parse_where(where_text(where)) != where:
        raise PublishedError(
            f"{place}: {where} is ambiguous as text; avoid ; = and numbers as text."
        )
    if not set(row) & set(metrics):
        raise PublishedError(f"{place}: no printed number; expected one of {sorted(metrics)}.")
    for name, metric in metrics.items():
        if name not in row:
            continue
        value = _number(row[name], f"{place}, {name}")
        if missing := [k for k in metric.match if k not in row]:
            raise PublishedError(f"{place}: {name} is matched by {missing}, which the cell lacks.")
        margin = metric.margin
        if margin is None:
            margin = (metric.relative_margin or 0.0) * abs(value)
        yield Cell(
            table=table.id,
            where=where,
            metric=name,
            printed=row[name],
            unit=metric.unit,
            margin=margin,
            kind=metric.kind,
            note=row.get("note", ""),
            match={k: row[k] for k in metric.match},
            decimals=metric.decimals,
            printed_se=_printed_se(metric, value, row, place),
        )


def _printed_se(metric: Metric, value: float, row: Mapping[str, Any], place: str) -> float:
    """Error of a printed mean, SD / sqrt(n), or of a printed SD, SD / sqrt(2 (n - 1)) if normal."""
    if metric.kind == "sd":
        return value / sqrt(2 * (metric.repetitions - 1))
    if metric.kind == "mean" and metric.sd:
        if metric.sd not in row:
            raise PublishedError(
                f"{place}: the mean names {metric.sd!r} as its SD; the cell lacks it."
            )
        return _number(row[metric.sd], place) / sqrt(metric.repetitions)
    return 0.0


def _number(text: Any, place: str) -> float:
    if not isinstance(text, str):
        raise PublishedError(f"{place}: write the number as printed, in quotes; got {text!r}.")
    try:
        number = float(Decimal(text))
    except InvalidOperation:
        number = float("nan")
    if isnan(number):
        raise PublishedError(f"{place}: expected a printed number, got {text!r}.")
    return number
