"""Printed numbers as data: one TOML per printed table, every cell a string as printed.

The format is explained in ``pet_lab/published/README.md``. Nothing here compares: agreement is
computed by :mod:`pet_lab.workbench.scorecard`, contradictions by
:mod:`pet_lab.workbench.consistency`.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from difflib import get_close_matches
from math import inf, isfinite, isinf, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, cast, get_args

import msgspec

from pet_lab import files
from pet_lab.checks import require
from pet_lab.workbench.errors import WorkbenchError

if TYPE_CHECKING:
    import pandas as pd

    from pet_lab.workbench.workspace import Workspace

Kind = Literal["exact", "one_run", "mean", "sd"]
Reading = Literal["described", "published"]
Value = bool | int | float | str

READINGS: tuple[Reading, ...] = get_args(Reading)
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|[-+]?inf", re.ASCII | re.IGNORECASE)
_MOST_DIGITS = 17  # of a number that can be told from its neighbours
PACKAGED = Path(__file__).resolve().parents[1] / "published"


class PublishedError(WorkbenchError, ValueError):
    """A file of printed numbers that cannot be read as such; the message names file and place."""


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
    range       smallest and largest value that the metric can take
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
    range: tuple[float, float] = (-inf, inf)

    @property
    def value(self) -> float:
        """The printed number."""
        return float(self.printed)

    @property
    def rounding(self) -> float:
        """Half a unit of the last printed digit; 0 for a printed infinity."""
        if isinf(self.value):
            return 0.0
        printed = cast(int, Decimal(self.printed).as_tuple().exponent)
        exponent = printed if self.decimals is None else -self.decimals
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

    unit: Annotated[str, msgspec.Meta(min_length=1)]
    kind: Kind
    margin: Annotated[float, msgspec.Meta(ge=0)] | None = None
    relative_margin: Annotated[float, msgspec.Meta(ge=0)] | None = None
    decimals: Annotated[int, msgspec.Meta(ge=-99, le=99)] | None = None
    repetitions: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 0
    sd: str = ""
    match: tuple[str, ...] = ()
    range: tuple[float, float] = (-inf, inf)

    def __post_init__(self) -> None:
        margins = (self.margin is not None) + (self.relative_margin is not None)
        require(
            margins == 1 or (not margins and self.kind == "exact"),
            "give margin or relative_margin, one of them, fixed before any run; only"
            ' kind = "exact" needs none',
        )
        low, high = self.range
        require(
            (self.margin or 0.0) < high - low,
            f"margin {self.margin} covers the whole range from {low} to {high}; give both in the"
            f" unit {self.unit!r}",
        )
        require(
            self.repetitions >= 2 or self.kind not in ("mean", "sd"),
            f"kind {self.kind!r} needs the printed repetitions (2 or more)",
        )


class _Heading(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    id: str
    title: str
    source: str
    place: str
    licence: str
    notebook: str
    keys: tuple[str, ...]
    readings: tuple[Reading, ...] = READINGS
    notes: tuple[Note, ...] = ()
    checks: tuple[dict[str, Any], ...] = ()


class PrintedTable(_Heading, frozen=True, kw_only=True):
    """One printed table: its cells, where it stands, and the notebook that reproduces it.

    publication  the folder it lies in
    written      when its file last changed, UTC
    """

    cells: tuple[Cell, ...]
    publication: str = ""
    written: str = ""

    @property
    def margins(self) -> str:
        """Hash of what was fixed before any run: each cell's kind and margin."""
        fixed = [[where_text(c.where), c.metric, c.kind, str(c.margin)] for c in self.cells]
        return files.sha256(files.canonical_json(sorted(fixed)).encode())

    def cause(self, cell: Cell, reading: str) -> str:
        """Known cause of a difference in this cell and reading, or "" where none is known."""
        return next((n.cause for n in self.notes if n.covers(cell, reading)), "")


class _File(_Heading, frozen=True, kw_only=True):
    metrics: dict[str, Any]
    cells: tuple[dict[str, Any], ...]


def load(ws_or_path: Workspace | Path | str | None = None) -> list[PrintedTable]:
    """Read printed tables, in the order of their ids.

    A folder is read with its folders, one per publication; a workspace means its `published`
    folder; nothing means the tables shipped with the package and, in a workspace of the user's own
    (the variable PET_LAB_HOME), those of its `published` folder. PublishedError if a file is not
    TOML, has unknown keys, a cell without unit or margin, a number that is not a number, or if two
    files or cells say the same thing twice.
    """
    given: Any = ws_or_path
    if given is None:
        own = Path(os.environ.get("PET_LAB_HOME") or PACKAGED.parent) / "published"
        folders = [PACKAGED, own] if own.is_dir() and own != PACKAGED else [PACKAGED]
    else:
        folders = [Path(given if isinstance(given, str | Path) else given.published)]
    sources = [
        file
        for path in folders
        for file in (sorted(path.rglob("*.toml")) if path.is_dir() else [path])
    ]
    if not sources:
        raise PublishedError(
            f"{folders[0]}: expected at least one .toml of printed numbers, found none."
        )
    tables: dict[str, PrintedTable] = {}
    for file in sources:
        table = _table(file)
        if table.id in tables:
            raise PublishedError(f"{file.name}: table {table.id!r} is already in another file.")
        tables[table.id] = table
    return sorted(tables.values(), key=lambda t: _natural(t.id))


def margins(ws: Workspace, notebook: str) -> dict[str, str]:
    """`PrintedTable.margins` of each table that a notebook reproduces; {} if none can be read."""
    with suppress(PublishedError):
        return {t.id: t.margins for t in load(ws) if t.notebook == notebook}
    return {}


def named(*tables: PrintedTable | str) -> list[PrintedTable]:
    """The tables, those given by their id as `load` knows them; PublishedError if there is none."""
    if all(isinstance(t, PrintedTable) for t in tables):
        return cast(list[PrintedTable], list(tables))
    known = {t.id: t for t in load()}
    for name in tables:
        if isinstance(name, str) and name not in known:
            near = get_close_matches(name, known, n=3, cutoff=0.3) or sorted(known)
            shown = name if len(name) <= 40 else f"{name[:40]}..."
            listed = ", ".join(near)
            raise PublishedError(f"There is no printed table {shown!r}; take one of {listed}.")
    return [known[t] if isinstance(t, str) else t for t in tables]


def cells(*ids: str) -> pd.DataFrame:
    """Cells of shipped tables as rows, for a notebook that computes with printed numbers.

    Columns: table, metric, printed (a number), text (as printed), and the conditions of each cell
    (keys, attack, slice, ...), NaN where a cell does not have one. PublishedError as for `named`.
    """
    import pandas as pd

    return pd.DataFrame(
        {
            "table": table.id,
            **cell.conditions,
            "metric": cell.metric,
            "printed": cell.value,
            "text": cell.printed,
        }
        for table in named(*ids)
        for cell in table.cells
    )


def where_text(where: Mapping[str, Value]) -> str:
    """Conditions in one line, ``mechanism=dp-sgd;epsilon=inf``; a flag that is true is its name."""
    texts = {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in where.items()}
    return ";".join(k if where[k] is True else f"{k}={text}" for k, text in texts.items())


def parse_where(text: str) -> dict[str, Value]:
    """The typed conditions behind :func:`where_text`."""
    parts = (part.partition("=") for part in text.split(";") if part)
    return {key: _typed(value) if eq else True for key, eq, value in parts}


def _typed(text: str) -> Value:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key in which 3.10 comes after 3.9 and numbers before words."""
    parts = re.findall(r"\d{1,99}|[^\d.]+", text)
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts]


def _table(file: Path) -> PrintedTable:
    name = file.name
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PublishedError(f"{file}: no such file of printed numbers.") from None
    except (ValueError, RecursionError) as error:
        # tomllib also refuses a key given twice, and says where.
        raise PublishedError(f"{name}: not valid TOML: {error}.") from None
    raw = _typed_as(_File, content, name)
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
    heading = {k: getattr(raw, k) for k in _Heading.__struct_fields__}
    publication = file.resolve().parent.name
    written = datetime.fromtimestamp(file.stat().st_mtime, UTC).isoformat(timespec="seconds")
    known: dict[str, Any] = {"publication": publication, "written": written}
    return PrintedTable(**heading, cells=tuple(cells.values()), **known)


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
) -> Iterator[Cell]:
    def check(holds: object, sentence: str) -> None:
        require(holds, f"{place}: {sentence}", PublishedError)

    def number(name: str) -> float:
        text = row[name]
        check(
            isinstance(text, str), f"{name}: write the number as printed, in quotes; got {text!r}."
        )
        check(_NUMBER.fullmatch(text), f"{name}: expected a printed number, got {text!r}.")
        value = float(text)
        digits = 0 if "inf" in text.lower() else len(Decimal(text).as_tuple().digits)
        fits = digits <= _MOST_DIGITS and (not digits or isfinite(value))
        check(fits, f"{name}: {text} has more digits than can be compared ({_MOST_DIGITS}).")
        low, high = metrics[name].range
        check(low <= value <= high, f"{name}: printed {text}, but it ranges from {low} to {high}.")
        return value

    matched = {k for metric in metrics.values() for k in metric.match}
    known = {*table.keys, *metrics, *matched, "note"}
    check(
        row.keys() <= known,
        f"unknown {', '.join(sorted(set(row) - known))}; expected of {', '.join(sorted(known))}"
        " (a name with a dot needs quotes).",
    )
    where = {k: row[k] for k in table.keys if k in row}
    for key in (k for k in (*table.keys, *matched) if k in row):
        scalar = isinstance(row[key], bool | int | float | str)
        check(scalar, f"{key} is a number, text or flag, got {row[key]!r}.")
    unambiguous = parse_where(where_text(where)) == where
    check(unambiguous, f"{where} is ambiguous as text; avoid ; = and numbers as text.")
    check(row.keys() & metrics.keys(), f"no printed number; expected one of {sorted(metrics)}.")
    for name, metric in metrics.items():
        if name not in row:
            continue
        value = number(name)
        stated, shown = metric.decimals, Decimal(row[name]).as_tuple().exponent
        fits = stated is None or not isinstance(shown, int) or -shown <= stated
        check(fits, f"{name}: {row[name]} has more than the {stated} decimals that are stated.")
        missing = [k for k in metric.match if k not in row]
        check(not missing, f"{name} is matched by {missing}, which the cell lacks.")
        has_sd = not metric.sd or metric.sd in row
        check(has_sd, f"the mean names {metric.sd!r} as its SD; the cell lacks it.")
        printed_se = 0.0
        if metric.kind == "sd":  # of records that are about normal
            printed_se = value / sqrt(2 * (metric.repetitions - 1))
        elif metric.kind == "mean" and metric.sd:
            printed_se = number(metric.sd) / sqrt(metric.repetitions)
        check(isfinite(printed_se), f"{name}: an infinite SD tells nothing; leave the cell out.")
        relative = (metric.relative_margin or 0.0) * abs(value)
        yield Cell(
            table=table.id,
            where=where,
            metric=name,
            printed=row[name],
            unit=metric.unit,
            margin=relative if metric.margin is None else metric.margin,
            kind=metric.kind,
            note=row.get("note", ""),
            match={k: row[k] for k in metric.match},
            decimals=metric.decimals,
            printed_se=printed_se,
            range=metric.range,
        )
