"""One hash per table, whatever the line endings, quoting or byte-order mark of the file.

The canonical form of a table (version 1)
-----------------------------------------
1. The file is decoded as UTF-8 (a byte-order mark is dropped) and split by a CSV reader; what is
   quoted and how lines end is not content. Lines without any character are no rows.
2. Each cell loses surrounding white space.
3. A column is ``integer`` if every cell is a decimal integer, ``number`` if every cell is a finite
   decimal number, else ``text``. (``""`` is text: a column with an empty cell is a text column.)
4. Cells are written as: the integer without sign ``+`` or leading zeros; the shortest decimal that
   reads back as the same IEEE double (Python's ``repr``); the text itself.
5. The form is the UTF-8 text of compact JSON arrays, one per line, ended by ``\\n``:
   ``["pet-lab table",1]``, the column names in order, the column types in order, then the rows in
   order, cells as strings. JSON's escapes keep the form injective: two different tables never
   share it.

The hash is the SHA-256 of that form. The order of rows and columns is content.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec
import pandas as pd

from pet_lab.checks import require

_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_DELIMITERS = ";,\t|"
_DTYPES: dict[str, Any] = {"integer": "int64", "number": "float64", "text": object}


@dataclass(frozen=True, kw_only=True)
class Table:
    """A parsed table in canonical form.

    columns  names, in the order of the file
    types    "integer", "number" or "text" per column
    rows     canonical cells, one tuple of strings per row
    """

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the canonical form, in hexadecimal."""
        lines = (["pet-lab table", 1], self.columns, self.types, *self.rows)
        return hashlib.sha256(b"".join(map(_line, lines))).hexdigest()

    def frame(self) -> pd.DataFrame:
        """The same as a DataFrame: int64, float64 and str columns."""
        frame = pd.DataFrame(list(self.rows), columns=self.columns, dtype=object)
        return frame.astype({c: _DTYPES[t] for c, t in zip(self.columns, self.types, strict=True)})

    def pin(self) -> Pin:
        """What is needed to recognise this table and to say where another differs."""
        columns = list(zip(*self.rows, strict=True)) or [()] * len(self.columns)
        named = zip(self.columns, self.types, columns, strict=True)
        return Pin(
            sha256=self.sha256,
            columns=self.columns,
            types=self.types,
            column_digests=tuple(_short((name, kind, *cells), 16) for name, kind, cells in named),
            row_digests=tuple(_short(row, 8) for row in self.rows),
        )


@dataclass(frozen=True, kw_only=True)
class Pin:
    """Digests of a table: enough to name the first differing cell, not enough to show one.

    sha256          hash of the canonical form
    columns, types  as in `Table`
    column_digests  16 hexadecimal digits per column
    row_digests     8 hexadecimal digits per row
    """

    sha256: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    column_digests: tuple[str, ...]
    row_digests: tuple[str, ...]

    def to_json(self) -> str:
        """Text form, one digest list per line."""
        body = ",\n".join(f'  "{key}": {json.dumps(value)}' for key, value in vars(self).items())
        return "{\n" + body + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> Pin:
        """Read what `to_json` wrote."""
        return msgspec.json.decode(text, type=cls)


def _line(cells: Iterable[Any]) -> bytes:
    return (json.dumps(list(cells), separators=(",", ":"), ensure_ascii=False) + "\n").encode()


def _short(cells: Iterable[str], digits: int) -> str:
    return hashlib.sha256(_line(cells)).hexdigest()[:digits]


def parse_csv(content: bytes | str, *, delimiter: str | None = None) -> Table:
    """Parse CSV text, UTF-8 with or without a byte-order mark, into its canonical table.

    `delimiter` is by default the most frequent of ``, ; tab |`` outside quotes in the header.
    ValueError if the file is empty, is not UTF-8 text, repeats a column name, or a row has another
    number of cells than the header.
    """
    if isinstance(content, bytes):
        try:
            content = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"Expected UTF-8 text, got bytes that are not (at byte {error.start}); "
                "is this a CSV file, saved as UTF-8?"
            ) from None
    content = content.removeprefix("\ufeff")
    require(
        "\x00" not in content,
        "Expected CSV text, got binary content (a zero byte); save it as CSV.",
    )
    require(content.strip(), "Expected a CSV with a header line, got an empty file; fetch it anew.")
    header = re.sub(r'"[^"]*"', "", content.lstrip("\r\n").splitlines()[0])
    if delimiter is None:  # a header with none of them is that of one column
        delimiter = max(_DELIMITERS, key=header.count) if {*header} & {*_DELIMITERS} else ","
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter)
    columns, *rows = [tuple(cell.strip() for cell in row) for row in reader if row]
    repeated = ", ".join(repr(name) for name, n in sorted(Counter(columns).items()) if n > 1)
    require(
        not repeated,
        f"Column names must be unique, got {repeated} more than once; rename one in the header.",
    )
    for number, row in enumerate(rows, start=1):
        require(
            len(row) == len(columns),
            f"Expected {len(columns)} cells in each row, got {len(row)} in data row {number}; "
            "is the separator or a quote wrong there?",
        )
    typed = [_canonical([row[j] for row in rows]) for j in range(len(columns))]
    types, cells = zip(*typed, strict=True)
    return Table(columns=columns, types=types, rows=tuple(zip(*cells, strict=True)))


def _canonical(cells: Sequence[str]) -> tuple[str, list[str]]:
    """Type and canonical cells of a column."""
    if cells and all(map(_INTEGER.fullmatch, cells)):
        return "integer", [str(int(c)) for c in cells]
    if cells and all(map(_NUMBER.fullmatch, cells)):
        numbers = [float(c) + 0.0 for c in cells]  # + 0.0 makes -0.0 and 0.0 one value
        if all(map(math.isfinite, numbers)):
            return "number", [repr(x) for x in numbers]
    return "text", list(cells)


def differences(table: Table, pin: Pin) -> list[str]:
    """Say in what `table` differs from the pinned one: sentences without any cell's value.

    Empty when the tables are equal. Rows and columns are counted from 1; the header is not a row.
    """
    if table.sha256 == pin.sha256:
        return []
    sentences = []
    missing = ", ".join(c for c in pin.columns if c not in table.columns)
    extra = ", ".join(c for c in table.columns if c not in pin.columns)
    if missing:
        sentences.append(f"missing columns: {missing}")
    if extra:
        sentences.append(f"columns that do not belong: {extra}")
    if not missing and not extra and table.columns != pin.columns:
        sentences.append("the same columns in another order")
    if len(table.rows) != len(pin.row_digests):
        sentences.append(f"{len(table.rows)} rows instead of {len(pin.row_digests)}")
    types = dict(zip(table.columns, table.types, strict=True))
    for name, kind in zip(pin.columns, pin.types, strict=True):
        if types.get(name, kind) != kind:
            sentences.append(f"column {name} holds {types[name]} instead of {kind} cells")
    if table.columns == pin.columns:
        sentences += _first_difference(table.pin(), pin)
    return sentences or ["the cells differ"]


def _first_difference(ours: Pin, pin: Pin) -> list[str]:
    if ours.row_digests != pin.row_digests and sorted(ours.row_digests) == sorted(pin.row_digests):
        return ["the same rows in another order"]
    pairs = enumerate(zip(ours.row_digests, pin.row_digests, strict=False), start=1)
    rows = [i for i, (a, b) in pairs if a != b]
    if not rows:
        return []
    if len(ours.row_digests) != len(pin.row_digests):
        return [f"first differing row: {rows[0]}"]
    digests = zip(pin.columns, ours.column_digests, pin.column_digests, strict=True)
    columns = [name for name, a, b in digests if a != b]
    which = "the column that differs is" if len(columns) == 1 else "columns that differ:"
    names = ", ".join(columns[:5]) + (" ..." if len(columns) > 5 else "")
    return [f"{len(rows)} rows differ, the first is row {rows[0]}; {which} {names}"]
