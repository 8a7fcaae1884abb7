"""One reader for every table that comes from outside: strict, and it says what it decided.

A file is read whole or refused in one sentence; nothing is guessed in silence. Cells lose
surrounding white space and are brought to Unicode's NFC. What a column holds is decided from all
its cells:

integer, number  all cells but the missing ones are numbers in one notation: decimal point or comma,
                 thousands in groups of three, currency or percent signs, any script's digits; a
                 column of which nine tenths are numbers is a number with named odd cells
date             all cells are days in one notation whose order of day and month is certain
text             all else; also codes with leading zeros, and integers that a number cannot hold

Missing is an empty cell, or a mark that holds no letter (`: . .. - ? *` and spreadsheet errors such
as #N/A); the words NA, N/A, NaN, None and null are missing among numbers and values among text,
where NA may be Namibia.
"""

from __future__ import annotations

import csv
import datetime
import hashlib
import io
import itertools
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import DataError, DataMissing

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Column", "TableReading", "read_table"]

SEPARATORS = {";": "semicolon", "\t": "tab", "|": "bar", ",": "comma"}
MARKS = re.compile(r"[:?*.\-–—…]{1,3}|:\s?[a-z]{1,2}|#(N/A|NULL!|VALUE!|REF!|DIV/0!|NUM!|NAME\?)")
WORDS = frozenset({"na", "n/a", "nan", "none", "null"})
MOSTLY = 0.9  # from this share on a column is a number with odd cells
LARGEST = 1e150  # beyond it the square of a value, and with it a variance, is no finite number
SHOWN = 3  # examples in a sentence
MOST_LOOKED_AT = 10_000  # different cells that tell a long column of text from numbers
WESTERN = frozenset(
    "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜßàáâãäåæçèéêëìíîïñòóôõöøùúûüÿœŒšŠžŽŸ€£§°ºª«»‘’“”–—…\xa0"
)
BINARY = {b"PK\x03\x04": "a spreadsheet or zip archive", b"PAR1": "Parquet", b"\x1f\x8b": "gzip"}

_PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_INTEGER = re.compile(r"[+-]?\d+")
_SPACES = re.compile(r"(?<=\d)[ '’\u00a0\u2009\u202f](?=\d{3}(?!\d))")
_SIGNS = re.compile(r"^(?:[€$£¥]|EUR|USD|GBP|CHF)\s?|\s?(?:[€$£¥%‰]|EUR|USD|GBP|CHF)$")
_COMMA_GROUPS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")
_POINT_GROUPS = re.compile(r"[+-]?\d{1,3}(\.\d{3})+(,\d+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_INFINITE = re.compile(r"[+-]?(inf|infinity|∞)", re.IGNORECASE)
_DAY = re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?Z?)?")
_DAY_LAST = re.compile(r"(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})")


@dataclass(frozen=True, kw_only=True)
class Column:
    """What the reader decided of one column.

    kind      "integer", "number", "date" or "text"
    missing   cells without a value, odd cells of a number column among them
    decision  in words; empty where there was nothing to decide
    """

    name: str
    kind: str
    missing: int
    decision: str


@dataclass(frozen=True, kw_only=True)
class TableReading:
    """A table as read, and how.

    frame      typed: int64, float64 (missing: NaN), datetime64, or str (missing: None)
    text       the same cells as text, NFC, without surrounding white space
    lines      the line of the file in which each row begins, counted from 1
    columns    one `Column` each
    decisions  sentences on the file as a whole
    sha256     of the file's bytes
    """

    frame: pd.DataFrame
    text: pd.DataFrame
    lines: tuple[int, ...]
    columns: tuple[Column, ...]
    decisions: tuple[str, ...]
    sha256: str

    def table(self) -> pd.DataFrame:
        """Columns column, kind, missing, decision: what a report shows of a user's file."""
        import pandas as pd

        return pd.DataFrame(
            [(c.name, c.kind, c.missing, c.decision) for c in self.columns],
            columns=["column", "kind", "missing", "decision"],
        )


def read_table(
    source: Path | str | bytes,
    *,
    name: str = "",
    as_text: bool | Sequence[str] = (),
    separator: str | None = None,
) -> TableReading:
    """Read a table of text with a header, strictly.

    Parameters
    ----------
    source : path, or the bytes of a file
        A relative path is looked for in the folder PET_LAB_FOLDER, if set: where the user works.
    name : str
        What the file is called in sentences; by default its own name.
    as_text : bool or names
        Columns that stay text whatever they hold, such as keys; True: all of them.
    separator : str, optional
        One character; by default the one under which the lines have equal numbers of cells.

    Raises
    ------
    DataMissing
        If there is no such file.
    DataError
        In one sentence, with the line counted from 1 and blank lines counted: no text, title lines
        or footers, an unnamed or repeated column, a line with another number of cells than the
        header, a number that may be read in two ways, an infinite or overflowing number.
    """
    if isinstance(source, bytes):
        content = source
    else:
        file = Path(os.environ.get("PET_LAB_FOLDER", ""), source)
        name = name or file.name
        if not file.is_file():
            raise DataMissing(f"Expected a table, but there is no {file.name} at the path given.")
        content = file.read_bytes()
    try:
        return _read(content, as_text=as_text, separator=separator)
    except DataError as error:
        raise DataError(f"{name}: {error}" if name else str(error)) from None


def _read(content: bytes, *, as_text: bool | Sequence[str], separator: str | None) -> TableReading:
    import pandas as pd

    decoded, encoding = _decode(content)
    separator = separator or _separator(decoded)
    lines = _lines(decoded, separator)
    decisions = [f"Cells are separated by {SEPARATORS.get(separator, repr(separator))}."]
    if encoding != "UTF-8":
        decisions.append(f"The file is not UTF-8; it was read as {encoding}.")
    header, rows, numbers = _rectangle(lines, decisions)
    cells = {column: [row[j] for row in rows] for j, column in enumerate(header)}
    kept = set(header) if as_text is True else set(as_text or ())
    commas = {c for c in header if c not in kept and _proves_decimal_comma(cells[c])}
    columns, series = [], {}
    for column in header:
        if column in kept:
            holes = sum(cell == "" for cell in cells[column])
            columns.append(Column(name=column, kind="text", missing=holes, decision=""))
            series[column] = pd.Series(cells[column], dtype=object)
            continue
        reading, values = _column(column, cells[column], numbers, separator, commas)
        columns.append(reading)
        series[column] = values
    return TableReading(
        frame=pd.DataFrame(series, columns=header),
        text=pd.DataFrame(cells, columns=header, dtype=object),
        lines=tuple(numbers),
        columns=tuple(columns),
        decisions=tuple(decisions),
        sha256=hashlib.sha256(content).hexdigest(),
    )


# --- from bytes to lines of cells ----------------------------------------------------------------


def _decode(content: bytes) -> tuple[str, str]:
    for start, what in BINARY.items():
        if content.startswith(start):
            raise DataError(f"Expected a table as text, got {what}; save it as CSV first.")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return content.decode("utf-16"), "UTF-16"
        except UnicodeDecodeError:
            raise DataError("Expected text, got a damaged UTF-16 file; save it as UTF-8.") from None
    try:
        text, encoding = content.decode("utf-8-sig"), "UTF-8"
    except UnicodeDecodeError as error:
        try:
            text, encoding = content.decode("cp1252"), "Windows-1252"
        except UnicodeDecodeError:
            text = "\x00"
        if any(not c.isascii() and c not in WESTERN for c in set(text)) or "\x00" in text:
            raise DataError(
                f"Expected UTF-8 text, got bytes that are not (at byte {error.start}); "
                "is this a CSV file, saved as UTF-8?"
            ) from None
    if "\x00" in text:
        raise DataError("Expected CSV text, got binary content (a zero byte).")
    if not text.strip("\ufeff \t\r\n;,|"):
        raise DataError("Expected a table with a header line, got an empty file.")
    return text.removeprefix("\ufeff"), encoding


def _separator(text: str) -> str:
    """The separator under which most lines have the same number of cells, more than one."""
    best, best_score = ",", (0.0, 0)
    sample = text[: 2**20]
    for separator in SEPARATORS:
        try:
            sample_rows = csv.reader(io.StringIO(sample), delimiter=separator)
            rows = list(itertools.islice(filter(any, sample_rows), 200))
        except csv.Error:
            continue
        for trailing in (False, True):  # a separator at the end of each line is no cell
            widths = [len(row) - (trailing and len(row) > 1 and row[-1] == "") for row in rows]
            width, count = Counter(widths).most_common(1)[0] if widths else (1, 0)
            score = (count / max(len(widths), 1), width)
            if width > 1 and score > best_score:
                best, best_score = separator, score
    return best


def _lines(text: str, separator: str) -> list[tuple[int, list[str]]]:
    """(line number in the file, cells) of every line that holds anything."""
    limit = csv.field_size_limit(max(len(text) + 1, csv.field_size_limit()))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    lines, begun = [], 1
    try:
        for row in reader:
            if row and any(row):
                lines.append((begun, [_clean(cell) for cell in row]))
            begun = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"Line {begun} cannot be split into cells ({error}); is a quotation mark wrong there?"
        ) from None
    finally:
        csv.field_size_limit(limit)
    return lines


def _clean(cell: str) -> str:
    cell = cell.strip()
    return cell if cell.isascii() else unicodedata.normalize("NFC", cell).strip("\ufeff\u200b ")


def _rectangle(
    lines: list[tuple[int, list[str]]], decisions: list[str]
) -> tuple[list[str], list[list[str]], list[int]]:
    """Header, rows and the rows' line numbers, every row as wide as the header."""
    first, header = lines[0]
    filled = [sum(map(bool, row)) for _, row in lines]
    usual = Counter(filled[1:] or filled).most_common(1)[0][0]
    if len(lines) > 2 and header[0] and filled[0] <= max(1, usual // 2) and usual > 1:
        at = next(number for (number, _), n in zip(lines, filled, strict=True) if n >= usual)
        raise DataError(
            f"Line {first} looks like a title, not a header: {filled[0]} of {usual} cells are "
            f"filled; the header seems to be line {at}: delete what stands above it."
        )
    body = lines[1:]
    over = len(header) + 1
    if body and all(len(row) == over and row[-1] == "" for _, row in body):
        body = [(number, row[:-1]) for number, row in body]
        decisions.append("Every row ends with a separator; the empty last cell was dropped.")
    elif (
        len(header) > 1
        and header[-1] == ""
        and all(row[len(header) - 1 :] in ([], [""]) for _, row in body)
    ):
        header = header[:-1]
        body = [(number, row[: len(header)]) for number, row in body]
        decisions.append("The header ends with a separator; the empty last column was dropped.")
    _check_header(header, first)
    for position, (number, row) in enumerate(body, start=1):
        if len(row) == len(header):
            continue
        note = "is the separator or a quotation mark wrong there?"
        if position == len(body) and sum(map(bool, row)) <= 1 < len(header):
            note = "it looks like a footer: delete it."
        raise DataError(
            f"Expected {len(header)} cells in each line, as in the header, got {len(row)} in line "
            f"{number}; {note}"
        )
    if len(header) > 2 and len(body) > 1 and sum(map(bool, body[-1][1])) == 1 and body[-1][1][0]:
        raise DataError(f"Line {body[-1][0]} looks like a footer (one cell is filled): delete it.")
    if not body:
        raise DataError("Expected rows of data, got only a header.")
    return header, [row for _, row in body], [number for number, _ in body]


def _check_header(header: Sequence[str], line: int) -> None:
    if nameless := [j for j, cell in enumerate(header, start=1) if not cell]:
        raise DataError(
            f"Column {nameless[0]} has no name; give it one in the header, or delete it."
        )
    if twice := [repr(name) for name, n in Counter(header).items() if n > 1]:
        raise DataError(
            f"Column names must be unique, got {', '.join(twice)} more than once; "
            "rename one in the header."
        )
    for j, cell in enumerate(header, start=1):
        year = re.fullmatch(r"(1[89]|20|21)\d\d", cell)
        if _PLAIN.fullmatch(cell) and not year:
            raise DataError(
                f"Line {line} looks like data, not a header: its cell {j} is a number; write the "
                "names of the columns into the first line."
            )


# --- from cells to a typed column ----------------------------------------------------------------


def _missing(cell: str) -> bool:
    return cell == "" or MARKS.fullmatch(cell) is not None


def _bare(cell: str) -> str:
    """A number's text without signs of currency or percent, in ASCII, without space groups."""
    if not cell.isascii():
        cell = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in cell)
        cell = cell.replace("−", "-").replace("٫", ".")
    return _SPACES.sub("", _SIGNS.sub("", cell))


def _proves_decimal_comma(cells: Sequence[str]) -> bool:
    """Whether a cell can only be a number with a decimal comma: 40,3 or 0,125 or 1.234,5."""
    for cell in cells:
        bare = _bare(cell) if "," in cell else ""
        if _POINT_GROUPS.fullmatch(bare) and "," in bare:
            return True
        if _DECIMAL_COMMA.fullmatch(bare) and not (
            _COMMA_GROUPS.fullmatch(bare) and not bare.lstrip("+-").startswith("0")
        ):
            return True
    return False


def _column(
    name: str, cells: list[str], lines: list[int], separator: str, commas: set[str]
) -> tuple[Column, pd.Series]:
    import pandas as pd

    empty = [_missing(cell) for cell in cells]
    present = [cell for cell, hole in zip(cells, empty, strict=True) if not hole]
    for cell, line in zip(cells, lines, strict=True):
        if cell and _INFINITE.fullmatch(cell) and _share_of_numbers(present) >= 0.5:
            raise DataError(
                f"Column {name} holds {cell!r} in line {line}; expected finite numbers."
            )
    dates, note = _dates(present)
    if dates:
        days = iter(dates)
        values = pd.Series([pd.NaT if hole else pd.Timestamp(next(days)) for hole in empty])
        return Column(name=name, kind="date", missing=sum(empty), decision=note), values
    if _share_of_numbers(present) < MOSTLY:
        return _as_text(name, cells, empty, note)
    if reason := _code(present):
        return _as_text(name, cells, empty, reason)
    return _as_number(
        name, cells, lines, _notation(name, present, separator, name in commas, commas)
    )


def _share_of_numbers(present: Sequence[str]) -> float:
    """Share of cells that are numbers in some notation, words for missing left out."""
    counted = Counter(present)
    for word in [cell for cell in counted if cell.lower() in WORDS]:
        del counted[word]
    if not counted:
        return 0.0
    first = list(itertools.islice(counted, MOST_LOOKED_AT))
    share = sum(map(_is_number, first)) / len(first)
    if len(first) == len(counted) or share >= 0.5:
        return sum(n for cell, n in counted.items() if _is_number(cell)) / counted.total()
    return share  # a long column of text: the rest cannot make it a number


def _is_number(cell: str) -> bool:
    if _PLAIN.fullmatch(cell):
        return True
    if cell.isalpha():
        return False
    bare = _bare(cell)
    return any(p.fullmatch(bare) for p in (_PLAIN, _COMMA_GROUPS, _POINT_GROUPS, _DECIMAL_COMMA))


def _as_text(name: str, cells: list[str], empty: list[bool], note: str) -> tuple[Column, pd.Series]:
    import pandas as pd

    words = Counter(c for c in cells if c.lower() in WORDS)
    if words:
        kept = ", ".join(f"{w!r} ({n})" for w, n in words.most_common(SHOWN))
        note = f"{note} {kept} kept as values of text.".strip()
    elif not note and len(cells) > SHOWN and len(set(cells)) == len(cells):
        note = "All values differ: is it an identifier?"
    values = pd.Series(
        [None if hole else c for c, hole in zip(cells, empty, strict=True)], dtype=object
    )
    return Column(name=name, kind="text", missing=sum(empty), decision=note), values


def _code(present: Sequence[str]) -> str:
    """Why a column of digits is no number; "" if it is one."""
    digits = [cell for cell in present if _INTEGER.fullmatch(cell)]
    zeros = [cell for cell in digits if len(cell) > 1 and cell[0] == "0"]
    if zeros and (
        len({len(cell) for cell in digits}) == 1 or len({int(c) for c in digits}) < len(set(digits))
    ):
        return f"Leading zeros (such as {zeros[0]}): codes, kept as text."
    long = [cell for cell in digits if abs(int(cell)) >= 2**63]
    mixed = [c for c in digits if len(digits) < len(present) and abs(int(c)) > 2**53]
    if long or mixed:
        example = [*long, *(mixed or [])][0]
        return f"Integers of {len(example)} digits, which no number holds exactly: kept as text."
    return ""


def _notation(
    name: str, present: Sequence[str], separator: str, proven: bool, commas: set[str]
) -> tuple[Callable[[str], str], str]:
    """How to turn a bare cell into Python's notation, and in words."""
    bare = [_bare(cell) for cell in present]
    groups = [c for c in bare if _COMMA_GROUPS.fullmatch(c)]
    points = [c for c in bare if _POINT_GROUPS.fullmatch(c)]
    if proven:
        return lambda c: c.replace(".", "").replace(",", "."), "Decimal comma."
    if groups:
        certain = separator == "," or any(c.count(",") > 1 or "." in c for c in groups)
        if not certain:
            raise DataError(
                f"Column {name} holds numbers such as {groups[0]}, which may be "
                f"{groups[0].replace(',', '')} or {groups[0].replace(',', '.')}; "
                "write them without separators of thousands."
            )
        return lambda c: c.replace(",", ""), "Commas between thousands."
    if any(c.count(".") > 1 for c in points):
        return lambda c: c.replace(".", ""), "Points between thousands."
    if commas and points and len(points) == sum("." in c for c in bare):
        raise DataError(
            f"Column {name} holds numbers such as {points[0]} in a file with decimal commas, which "
            "may be thousands or decimals; write them without separators of thousands."
        )
    return lambda c: c, ""


def _as_number(
    name: str, cells: list[str], lines: list[int], notation: tuple[Callable[[str], str], str]
) -> tuple[Column, pd.Series]:
    import numpy as np
    import pandas as pd

    plain, note = notation
    texts: list[str | None] = []
    odd: list[tuple[str, int]] = []
    signs: Counter[str] = Counter()
    for cell, line in zip(cells, lines, strict=True):
        if _missing(cell) or cell.lower() in WORDS:
            texts.append(None)
            continue
        text = plain(_bare(cell))
        if not _PLAIN.fullmatch(text):
            odd.append((cell, line))
            texts.append(None)
            continue
        if sign := _SIGNS.search(cell):
            signs[sign[0].strip()] += 1
        if not abs(float(text)) <= LARGEST:
            raise DataError(
                f"Column {name} holds {cell} in line {line}, too large for its variance to be a "
                "number; expected values up to 1e150 in size."
            )
        texts.append(text)
    notes = [note] if note else []
    if len(signs) > 1:
        raise DataError(
            f"Column {name} mixes the signs {', '.join(signs)}; expected one unit in a column."
        )
    if signs:
        notes.append(f"The sign {next(iter(signs))} was dropped.")
    if odd:
        examples = ", ".join(f"{cell[:20]!r} in line {line}" for cell, line in odd[:SHOWN])
        notes.append(f"{len(odd)} odd cells counted as missing: {examples}.")
    missing = sum(text is None for text in texts)
    whole = all(text is None or _INTEGER.fullmatch(text) for text in texts)
    decision = " ".join(notes)
    if whole and not missing:
        values: Any = np.array([int(text) for text in texts if text is not None], dtype=np.int64)
        return Column(name=name, kind="integer", missing=0, decision=decision), pd.Series(values)
    if whole and any(text is not None and abs(int(text)) > 2**53 for text in texts):
        integers = [pd.NA if text is None else int(text) for text in texts]
        column = Column(name=name, kind="integer", missing=missing, decision=decision)
        return column, pd.Series(integers, dtype="Int64")
    values = pd.Series([math.nan if text is None else float(text) for text in texts])
    kind = "integer" if whole else "number"
    return Column(name=name, kind=kind, missing=missing, decision=decision), values


def _dates(present: Sequence[str]) -> tuple[list[datetime.date], str]:
    """The days, if all cells are days in one certain notation; else none, and why it is unclear."""
    if not present:
        return [], ""
    if matches := [m for c in present if (m := _DAY.fullmatch(c))]:
        return (
            (_days([(int(m[1]), int(m[2]), int(m[3])) for m in matches]), "")
            if len(matches) == len(present)
            else ([], "")
        )
    matches = [m for c in present if (m := _DAY_LAST.fullmatch(c))]
    if not matches or len(matches) < len(present):
        return [], ""
    day_first = any(int(m[1]) > 12 for m in matches) or all("." in m[0] for m in matches)
    month_first = any(int(m[2]) > 12 for m in matches)
    if day_first == month_first:
        return [], "Dates whose order of day and month is not certain: kept as text."
    order = (3, 2, 1) if day_first else (3, 1, 2)
    note = "Day before month." if day_first else "Month before day."
    return _days([tuple(int(m[i]) for i in order) for m in matches]), note


def _days(parts: Sequence[tuple[int, ...]]) -> list[datetime.date]:
    try:
        return [datetime.date(*part) for part in parts]
    except ValueError:  # the 31st of February: not dates after all
        return []
