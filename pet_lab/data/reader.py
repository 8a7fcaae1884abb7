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
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pet_lab.checks import require

from .errors import DataError, DataMissing

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Column", "TableReading", "read_table"]

_require = partial(require, error=DataError)

SEPARATORS = {";": "semicolon", "\t": "tab", "|": "bar", ",": "comma"}
MARKS = re.compile(r"[:?*.\-–—…]{1,3}|:\s?[a-z]{1,2}|#(N/A|NULL!|VALUE!|REF!|DIV/0!|NUM!|NAME\?)")
WORDS = frozenset({"na", "n/a", "nan", "none", "null"})
MOSTLY = 0.9  # from this share on a column is a number with odd cells
LARGEST = 1e150  # beyond it the square of a value, and with it a variance, is no finite number
EMPTY = "Expected a table with a header line, got an empty file."
SHOWN = 3  # examples in a sentence
MOST_LOOKED_AT = 10_000  # different cells that tell a long column of text from numbers
WESTERN = frozenset(
    "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜßàáâãäåæçèéêëìíîïñòóôõöøùúûüÿœŒšŠžŽŸ€£§°ºª«»‘’“”–—…\xa0"
)
BINARY = {b"PK\x03\x04": "a spreadsheet or zip archive", b"PAR1": "Parquet", b"\x1f\x8b": "gzip"}

# What has more digits than this is text: no number needs them, and reading them takes its time.
_PLAIN = re.compile(r"[+-]?(\d{1,400}(\.\d{0,400})?|\.\d{1,400})([eE][+-]?\d+)?")
_INTEGER = re.compile(r"[+-]?\d{1,400}")
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

        frame = pd.DataFrame(map(vars, self.columns), columns=[*Column.__annotations__])
        return frame.rename(columns={"name": "column"})


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
        there = f"Expected a table, but there is no {file.name[:80]} at the path given."
        try:
            require(file.is_file(), there, DataMissing)
            content = file.read_bytes()
        except OSError as error:  # a name that is too long, a file that is not ours
            raise DataMissing(f"{file.name[:80]} cannot be read: {error.strerror}.") from None
    try:
        return _read(content, as_text=as_text, separator=separator)
    except DataError as error:
        raise DataError(f"{name}: {error}" if name else str(error)) from None


def _read(content: bytes, *, as_text: bool | Sequence[str], separator: str | None) -> TableReading:
    import pandas as pd

    decoded, encoding = _decode(content)
    separator = separator or _separator(decoded)
    decisions = [f"Cells are separated by {SEPARATORS.get(separator, repr(separator))}."]
    if encoding != "UTF-8":
        decisions.append(f"The file is not UTF-8; it was read as {encoding}.")
    header, rows, lines = _rectangle(_lines(decoded, separator), decisions)
    cells = pd.DataFrame(rows, columns=header, index=lines, dtype=object)
    kept = set(header) if as_text is True else set(as_text or ())
    commas = {c for c in header if c not in kept and any(map(_proves_decimal_comma, cells[c]))}
    columns, typed = [], {}
    for name, column in cells.items():
        kind, values, decision = "text", column, ""
        missing = (column == "").sum()
        if name not in kept:
            kind, values, decision = _typed(str(name), column, separator, commas)
            missing = values.isna().sum()
        columns.append(Column(name=str(name), kind=kind, missing=int(missing), decision=decision))
        typed[name] = values
    return TableReading(
        frame=pd.DataFrame(typed, columns=header).reset_index(drop=True),
        text=cells.reset_index(drop=True),
        lines=tuple(lines),
        columns=tuple(columns),
        decisions=tuple(decisions),
        sha256=hashlib.sha256(content).hexdigest(),
    )


# --- from bytes to lines of cells ----------------------------------------------------------------


def _decode(content: bytes) -> tuple[str, str]:
    for start, what in BINARY.items():
        refusal = f"Expected a table as text, got {what}; save it as CSV first."
        _require(not content.startswith(start), refusal)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return content.decode("utf-16"), "UTF-16"
        except UnicodeDecodeError:
            raise DataError("Expected text, got a damaged UTF-16 file; save it as UTF-8.") from None
    try:
        text, encoding = content.decode("utf-8-sig"), "UTF-8"
    except UnicodeDecodeError as error:
        text, encoding = content.decode("cp1252", errors="replace"), "Windows-1252"
        western = all(c.isascii() or c in WESTERN for c in set(text)) and "\x00" not in text
        _require(
            western,
            f"Expected UTF-8 text, got bytes that are not (at byte {error.start}); "
            "is this a CSV file, saved as UTF-8?",
        )
    _require("\x00" not in text, "Expected CSV text, got binary content (a zero byte).")
    filled = text.strip("\ufeff \t\r\n;,|")
    _require(filled, EMPTY)
    return text.removeprefix("\ufeff"), encoding


def _separator(text: str) -> str:
    """The separator under which most lines have the same number of cells, more than one."""
    best, best_score = ",", (0.0, 0)
    for separator in SEPARATORS:
        try:
            sample = csv.reader(io.StringIO(text[: 2**20]), delimiter=separator)
            rows = list(itertools.islice(filter(any, sample), 200))
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
    _require(lines, EMPTY)
    return lines


def _clean(cell: str) -> str:
    cell = cell.strip()
    return cell if cell.isascii() else unicodedata.normalize("NFC", cell).strip("\ufeff\u200b ")


def _rectangle(
    lines: list[tuple[int, list[str]]], decisions: list[str]
) -> tuple[list[str], list[list[str]], list[int]]:
    """Header, rows and the rows' line numbers, every row as wide as the header."""
    (first, header), body = lines[0], lines[1:]
    filled = [sum(map(bool, row)) for _, row in lines]
    usual = Counter(filled[1:] or filled).most_common(1)[0][0]
    if len(lines) > 2 and header[0] and filled[0] <= max(1, usual // 2) and usual > 1:
        at = next(number for (number, _), n in zip(lines, filled, strict=True) if n >= usual)
        raise DataError(
            f"Line {first} looks like a title, not a header: {filled[0]} of {usual} cells are "
            f"filled; the header seems to be line {at}: delete what stands above it."
        )
    width = len(header)
    if body and all(len(row) == width + 1 and row[-1] == "" for _, row in body):
        body = [(number, row[:-1]) for number, row in body]
        decisions.append("Every row ends with a separator; the empty last cell was dropped.")
    elif width > 1 and not header[-1] and all(row[width - 1 :] in ([], [""]) for _, row in body):
        width -= 1
        header, body = header[:-1], [(number, row[:width]) for number, row in body]
        decisions.append("The header ends with a separator; the empty last column was dropped.")
    _check_header(header, first)
    for position, (number, row) in enumerate(body, start=1):
        note = "is the separator or a quotation mark wrong there?"
        if position == len(body) and sum(map(bool, row)) <= 1 < width:
            note = "it looks like a footer: delete it."
        _require(
            len(row) == width,
            f"Expected {width} cells in each line, as in the header, got {len(row)} in line "
            f"{number}; {note}",
        )
    _require(body, "Expected rows of data, got only a header.")
    last, cells = body[-1]
    footer = width > 2 and len(body) > 1 and cells[0] and not any(cells[1:])
    _require(not footer, f"Line {last} looks like a footer (one cell is filled): delete it.")
    return header, [row for _, row in body], [number for number, _ in body]


def _check_header(header: Sequence[str], line: int) -> None:
    for j, cell in enumerate(header, start=1):
        _require(cell, f"Column {j} has no name; give it one in the header, or delete it.")
    twice = ", ".join(repr(name) for name, n in Counter(header).items() if n > 1)
    _require(
        not twice,
        f"Column names must be unique, got {twice} more than once; rename one in the header.",
    )
    for j, cell in enumerate(header, start=1):
        _require(
            not _PLAIN.fullmatch(cell) or re.fullmatch(r"(1[89]|20|21)\d\d", cell),  # a year
            f"Line {line} looks like data, not a header: its cell {j} is a number; write the "
            "names of the columns into the first line.",
        )


# --- from cells to a typed column ----------------------------------------------------------------


def _bare(cell: str) -> str:
    """A number's text without signs of currency or percent, in ASCII, without space groups."""
    if not cell.isascii():
        cell = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in cell)
        cell = cell.replace("−", "-").replace("٫", ".")
    return _SPACES.sub("", _SIGNS.sub("", cell))


def _proves_decimal_comma(cell: str) -> bool:
    """Whether a cell can only be a number with a decimal comma: 40,3 or 0,125 or 1.234,5."""
    bare = _bare(cell) if "," in cell else ""
    if _POINT_GROUPS.fullmatch(bare) and "," in bare:
        return True
    thousands = _COMMA_GROUPS.fullmatch(bare) and not bare.lstrip("+-").startswith("0")
    return bool(_DECIMAL_COMMA.fullmatch(bare)) and not thousands


def _typed(
    name: str, column: pd.Series, separator: str, commas: set[str]
) -> tuple[str, pd.Series, str]:
    """(kind, values, decision in words) of a column of cells by the line in which they stand."""
    import pandas as pd

    holes = column.map(lambda cell: cell == "" or MARKS.fullmatch(cell) is not None).astype(bool)
    present = column[~holes]
    share = _share_of_numbers(present)
    for line, cell in present.items() if share >= 0.5 else ():
        if _INFINITE.fullmatch(cell):
            raise DataError(
                f"Column {name} holds {cell!r} in line {line}; expected finite numbers."
            )
    days, note = _dates(present.tolist())
    if days:
        stamps = [pd.Timestamp(day) for day in days]
        return "date", pd.Series(stamps, index=present.index).reindex(column.index), note
    note = _code(present) if share >= MOSTLY else note
    if share >= MOSTLY and not note:
        return _numbers(name, column, holes, _notation(name, present, separator, commas))
    words = Counter(cell for cell in column if cell.lower() in WORDS)
    if words:
        kept = ", ".join(f"{w!r} ({n})" for w, n in words.most_common(SHOWN))
        note = f"{note} {kept} kept as values of text.".strip()
    elif not note and len(column) > SHOWN and column.is_unique:
        note = "All values differ: is it an identifier?"
    return "text", column.mask(holes, None), note


def _share_of_numbers(present: pd.Series) -> float:
    """Share of cells that are numbers in some notation, words for missing left out."""
    counted = Counter(cell for cell in present if cell.lower() not in WORDS)
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
    bare = "" if cell.isalpha() else _bare(cell)
    return any(p.fullmatch(bare) for p in (_PLAIN, _COMMA_GROUPS, _POINT_GROUPS, _DECIMAL_COMMA))


def _code(present: pd.Series) -> str:
    """Why a column of digits is no number; "" if it is one."""
    digits = [cell for cell in present if _INTEGER.fullmatch(cell)]
    zeros = [cell for cell in digits if len(cell) > 1 and cell[0] == "0"]
    alike = len(set(map(len, digits))) == 1 or len(set(map(int, digits))) < len(set(digits))
    if zeros and alike:
        return f"Leading zeros (such as {zeros[0]}): codes, kept as text."
    largest = 2**53 if len(digits) < len(present) else 2**63 - 1
    if long := [c for c in digits if abs(int(c)) > 2**63 - 1 or abs(int(c)) > largest]:
        example = max(long, key=lambda c: abs(int(c)) > 2**63 - 1)
        return f"Integers of {len(example)} digits, which no number holds exactly: kept as text."
    return ""


def _notation(
    name: str, present: pd.Series, separator: str, commas: set[str]
) -> tuple[Callable[[str], str], str]:
    """How to turn a bare cell into Python's notation, and in words."""
    bare = [_bare(cell) for cell in present]
    groups = [c for c in bare if _COMMA_GROUPS.fullmatch(c)]
    points = [c for c in bare if _POINT_GROUPS.fullmatch(c)]
    if name in commas:
        return lambda c: c.replace(".", "").replace(",", "."), "Decimal comma."
    if groups:
        whole, decimal = groups[0].replace(",", ""), groups[0].replace(",", ".")
        _require(
            separator == "," or any(c.count(",") > 1 or "." in c for c in groups),
            f"Column {name} holds numbers such as {groups[0]}, which may be {whole} or {decimal}; "
            "write them without separators of thousands.",
        )
        return lambda c: c.replace(",", ""), "Commas between thousands."
    if any(c.count(".") > 1 for c in points):
        return lambda c: c.replace(".", ""), "Points between thousands."
    unclear = commas and points and len(points) == sum("." in c for c in bare)
    _require(
        not unclear,
        f"Column {name} holds numbers such as {next(iter(points), '')} in a file with decimal "
        "commas, which may be thousands or decimals; write them without separators of thousands.",
    )
    return lambda c: c, ""


def _numbers(
    name: str, column: pd.Series, holes: pd.Series, notation: tuple[Callable[[str], str], str]
) -> tuple[str, pd.Series, str]:
    plain, note = notation
    texts = column[~(holes | column.str.lower().isin(WORDS))].map(_bare).map(plain)
    numeric = texts.map(lambda text: bool(_PLAIN.fullmatch(text)))
    odd, texts = column[texts.index[~numeric]], texts[numeric]
    for line in texts.index[texts.map(float).abs() > LARGEST]:
        raise DataError(
            f"Column {name} holds {column[line]} in line {line}, too large for its variance to be "
            "a number; expected values up to 1e150 in size."
        )
    matches = map(_SIGNS.search, column[texts.index])
    signs = list(dict.fromkeys(match[0].strip() for match in matches if match))
    mixed = f"Column {name} mixes the signs {', '.join(signs)}; expected one unit in a column."
    _require(len(signs) < 2, mixed)
    if signs:
        note = f"{note} The sign {signs[0]} was dropped.".lstrip()
    if len(odd):
        examples = ", ".join(f"{c[:20]!r} in line {line}" for line, c in odd[:SHOWN].items())
        note = f"{note} {len(odd)} odd cells counted as missing: {examples}.".lstrip()
    if not all(map(_INTEGER.fullmatch, texts)):
        return "number", texts.map(float).reindex(column.index), note
    exact = texts.map(int)
    if len(texts) == len(column):
        return "integer", exact.astype("int64"), note
    large = any(abs(int(text)) > 2**53 for text in texts)  # a float would lose its last digits
    return "integer", exact.astype("Int64" if large else float).reindex(column.index), note


def _dates(present: Sequence[str]) -> tuple[list[datetime.date], str]:
    """The days, if all cells are days in one certain notation; else none, and why it is unclear."""
    matches, order, note = [_DAY.fullmatch(cell) for cell in present], (1, 2, 3), ""
    if not any(matches):
        matches = [_DAY_LAST.fullmatch(cell) for cell in present]
    days = [match for match in matches if match]
    if not days or len(days) < len(present):
        return [], ""
    if days[0].re is _DAY_LAST:
        day_first = any(int(m[1]) > 12 for m in days) or all("." in m[0] for m in days)
        if day_first == any(int(m[2]) > 12 for m in days):
            return [], "Dates whose order of day and month is not certain: kept as text."
        order = (3, 2, 1) if day_first else (3, 1, 2)
        note = "Day before month." if day_first else "Month before day."
    try:
        return [datetime.date(*(int(m[i]) for i in order)) for m in days], note
    except ValueError:  # the 31st of February: not dates after all
        return [], note
