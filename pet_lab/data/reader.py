"""One reader for every table that comes from outside: strict, and it says what it decided.

A file is read whole or refused in one sentence; nothing is guessed in silence. Cells lose
surrounding white space and are brought to Unicode's NFC. What a column holds is decided from all
its cells:

integer, number  all cells but the missing ones are numbers in one notation: decimal point or comma,
                 thousands in groups of three, currency or percent signs, flags of statistical
                 offices, negatives in brackets, any script's digits; a column of which nine tenths
                 are numbers, or of many numbers and a few words, is a number with named odd cells
date             all cells are days in one notation whose order of day and month is certain
text             all else; also codes with leading zeros, and integers that a number cannot hold

Missing is an empty cell, or a mark that holds no letter (`: . .. - ? * /` and spreadsheet errors
such as #N/A); the words NA, N/A, NaN, None and null are missing among numbers and values among
text, where NA may be Namibia.
"""

import csv
import datetime
import hashlib
import io
import itertools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pet_lab.checks import require

from .errors import DataError, DataMissing

_require = partial(require, error=DataError)

# In this order where several fit: a comma is the one that cells hold most often themselves.
SEPARATORS = {"\t": "tab", ";": "semicolon", "|": "bar", ",": "comma"}
MARKS = re.compile(
    r"[:?*./\-–—…]{1,3}|:\s?[a-z]{1,2}|\.[a-zA-Z_]|#(N/A|NULL!|VALUE!|REF!|DIV/0!|NUM!|NAME\?)"
)
WORDS = frozenset({"na", "n/a", "n.a.", "nan", "none", "null"})
# What offices print in place of a number that they hold back.
SUPPRESSED = re.compile(r"[\[(]?[cszx][\])]?|<\s?\d+|~", re.IGNORECASE)
MOSTLY = 0.9  # from this share on a column is a number with odd cells
FEW, MANY = 5, 20  # so many different odd cells beside so many different numbers do not make text
LARGEST = 1e150  # beyond it the square of a value, and with it a variance, is no finite number
EMPTY = "Expected a table with a header line, got an empty file; save the table again."
SHOWN = 3  # examples in a sentence
MOST_LOOKED_AT = 10_000  # different cells that tell a long column of text from numbers
WESTERN = frozenset(
    "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜßàáâãäåæçèéêëìíîïñòóôõöøùúûüÿœŒšŠžŽŸ€£§°ºª«»‘’“”–—…\xa0"
)
BINARY = {b"PK\x03\x04": "a spreadsheet or zip archive", b"PAR1": "Parquet", b"\x1f\x8b": "gzip"}
BINARY |= {b"\xd0\xcf\x11\xe0": "an old spreadsheet (.xls)", b"%PDF": "PDF"}
_MARKUP = re.compile(r"\s*<(\?xml|!doctype|html|table|stata_dta)\b", re.IGNORECASE)
_JSON = re.compile(r'\s*[\[{]\s*[\[{"]')

# What has more digits than this is text: no number needs them, and reading them takes its time.
_PLAIN = re.compile(r"[+-]?(\d{1,400}(\.\d{0,400})?|\.\d{1,400})([eE][+-]?\d+)?")
_INTEGER = re.compile(r"[+-]?\d{1,400}")
_SPACES = re.compile(r"(?<=\d)[ '’\u00a0\u2009\u202f](?=\d{3}(?!\d))")
_CURRENCY = r"(?:[$£¥¢\u20a0-\u20bf]|EUR|USD|GBP|CHF|SEK|NOK|DKK|PLN|CZK|HUF)"
_SIGNS = re.compile(rf"^([+-]?)({_CURRENCY})\s?|\s?({_CURRENCY}|[%‰])$")
_FLAG = re.compile(r"(?<=\d)\s([bcdefinprsuz]{1,3})$")  # 12.3 p: provisional, estimated, ...
_BRACKETS = re.compile(r"\(([^-+()]+)\)")
_COMMA_GROUPS = re.compile(r"[+-]?\d{1,3}(,\d{2,3})*,\d{3}(\.\d+)?")  # 1,234,567 and 12,34,567
_POINT_GROUPS = re.compile(r"[+-]?\d{1,3}(\.\d{3})+(,\d+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_INFINITE = re.compile(r"[+-]?(inf|infinity|∞)", re.IGNORECASE)
_DAY = re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?:[T ]\d\d:\d\d\S*)?")
_DAY_FIRST = re.compile(r"(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = re.compile(rf"(?<=\d)[- ]?({'|'.join(MONTHS)})[- ]?(?=\d{{4}}$)", re.IGNORECASE)
_UNSEEN = "\ufeff\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069 "
_NOTE = re.compile(r"(foot)?(notes?|sources?|remarks?)\s*:", re.IGNORECASE)
_UNIT = re.compile(r"[\[(]?([^\W\d_]\D+|[%‰€$£°])[\])]?")  # one letter is a mark of offices
_QUOTED = re.compile(r'(?<![^;\t|,\r\n])"[^"]*(?:""[^"]*)*"')  # a cell in quotation marks


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
    name : what the file is called in sentences; by default its own name.
    as_text : bool or names
        Columns that stay text whatever they hold, such as keys; True: all of them.
    separator : one character; by default the one under which the lines have equal numbers of cells.

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
        name, content = name or Path(source).name, content_of(source)
    try:
        return _read(content, as_text=as_text, separator=separator)
    except DataError as error:
        raise DataError(f"{name}: {error}" if name else str(error)) from None


def content_of(source: Path | str, *, what: str = "a table") -> bytes:
    """The bytes of a user's file; a relative path begins in PET_LAB_FOLDER, as in `read_table`."""
    file = Path(os.environ.get("PET_LAB_FOLDER", ""), source)
    there = f"Expected {what}, but there is no {file.name[:80]} at the path given; check it."
    try:
        require(file.is_file(), there, DataMissing)
        return file.read_bytes()
    except OSError as error:  # a name that is too long, a file that is not ours
        raise DataMissing(
            f"{file.name[:80]} cannot be read ({error.strerror}); check the path."
        ) from None


def _read(content: bytes, *, as_text: bool | Sequence[str], separator: str | None) -> TableReading:
    decoded, encoding = _decode(content)
    decisions = []
    if stated := re.match(r"sep=(.)(?=\r?\n)", decoded):  # spreadsheets write such a first line
        separator, decoded = separator or stated[1], decoded[stated.end() :]
    if not separator:
        separator, note = _separator(decoded)
        decisions += [note] if note else []
    decisions.insert(0, f"Cells are separated by {SEPARATORS.get(separator, repr(separator))}.")
    if encoding != "UTF-8":
        decisions.append(f"The file is not UTF-8; it was read as {encoding}.")
    header, rows, lines = _rectangle(_lines(decoded, separator), decisions)
    kept = set(header) if as_text is True else set(as_text or ())
    cells = dict(zip(header, zip(*rows, strict=True), strict=True))
    _check_second_header({k: v for k, v in cells.items() if k not in kept}, lines[0])
    commas = {
        name
        for name, column in cells.items()
        if name not in kept and any("," in c and _proves_decimal_comma(c) for c in column)
    }
    columns, typed = [], {}
    for name, column in cells.items():
        kind, values, missing, decision = "text", np.array(column, object), column.count(""), ""
        if name not in kept:
            kind, values, missing, decision = _typed(name, column, lines, separator, commas)
        columns.append(Column(name=name, kind=kind, missing=missing, decision=decision))
        typed[name] = values
    return TableReading(
        frame=pd.DataFrame(typed, columns=header),
        text=pd.DataFrame(rows, columns=header, dtype=object),
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
    if content.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")):
        name = "UTF-32" if b"\x00\x00" in content[:4] else "UTF-16"
        try:
            return content.decode(name), name
        except UnicodeDecodeError:
            raise DataError(
                f"Expected text, got a damaged {name} file; save it as UTF-8."
            ) from None
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
        mixed = re.search(rb"[\xc3\xc5][\x80-\xbf]", content)  # Ã§: a letter of UTF-8
        mixed = mixed or re.search(rb"[A-Za-z][\x93\x94\xa7\xab\xbb\xb0][A-Za-z]", content)
        _require(
            not mixed,
            "Expected UTF-8 text, got a file that seems to mix encodings or to be from DOS "
            f"(near byte {mixed.start() if mixed else 0}); save it as UTF-8.",
        )
    _require(
        "\x00" not in text, "Expected CSV text, got binary content (a zero byte); save it as CSV."
    )
    _require(
        not _MARKUP.match(text), "Expected CSV text, got a page of HTML or XML; save it as CSV."
    )
    _require(not _JSON.match(text), "Expected CSV text, got JSON; save it as CSV.")
    filled = text.strip("\ufeff \t\r\n;,|")
    _require(filled, EMPTY)
    return text.removeprefix("\ufeff"), encoding


def _separator(text: str) -> tuple[str, str]:
    """The separator that splits all lines, or else most of them, alike; a note on rivals."""
    lines = [line for line in re.split(r"[\r\n]+", _QUOTED.sub("", text)) if line.strip()]
    scores: dict[str, tuple[float, int]] = {}
    for separator in SEPARATORS:
        for trailing in (False, True):  # a separator at the end of each line is no cell
            counts = Counter(
                line.count(separator) - (trailing and line.endswith(separator)) for line in lines
            )
            number, alike = counts.most_common(1)[0] if counts else (0, 0)
            if number:
                score = (alike / len(lines), alike == len(lines) or number)
                scores[separator] = max(scores.get(separator, score), score)
    if not scores:
        words = [line.split() for line in lines[1:]]
        widths, numbers = set(map(len, words)), sum(_is_number(cell) for w in words for cell in w)
        _require(
            len(widths) != 1 or 1 in widths or 2 * numbers < sum(map(len, words)),
            "Expected cells separated by comma, semicolon, tab or bar, got a file that has only "
            "white space between them; save it as CSV, or put cells into quotation marks.",
        )
        for other in "~^:#&":  # whose number of cells is the same in every line, the header's too
            _require(
                len(lines) < 2
                or len({line.count(other) for line in lines}) > 1
                or other not in lines[0],
                "Expected cells separated by comma, semicolon, tab or bar, got a file that seems "
                f"to be separated by {other!r}; save it as CSV.",
            )
        return ",", ""
    best = max(scores, key=lambda separator: scores[separator])  # of equal ones the first
    rivals = [SEPARATORS[s] for s in scores if s != best and scores[s] == scores[best]]
    note = f"Separation by {' or '.join(rivals)} would fit all lines too."
    return best, note if rivals and scores[best][0] == 1 else ""


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
    return cell if cell.isascii() else unicodedata.normalize("NFC", cell).strip(_UNSEEN)


def _rectangle(
    lines: list[tuple[int, list[str]]], decisions: list[str]
) -> tuple[list[str], list[list[str]], list[int]]:
    """Header, rows and the rows' line numbers, every row as wide as the header."""
    (first, header), body = lines[0], lines[1:]
    for number, row in body:
        _require(row != header, f"Line {number} repeats the header; delete it.")
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
    _require(body, "Expected rows of data, got only a header; add them below it.")
    last, cells = body[-1]
    footer = width > 2 and len(body) > 1 and cells[0] and not any(cells[1:])
    _require(
        not _NOTE.match(cells[0]) or any(map(_is_number, cells)),
        f"Line {last} looks like a footer ({cells[0][:20]}); delete it.",
    )
    _require(not footer, f"Line {last} looks like a footer (one cell is filled): delete it.")
    if width == 1 and (blank := last - first - len(body)) > 0:
        decisions.append(f"{blank} blank lines were left out; in one column they may be missing.")
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


def _check_second_header(cells: Mapping[str, Sequence[str]], line: int) -> None:
    """Refuse a first row that holds units, or names, above columns of numbers."""
    if any(_is_number(column[0]) for column in cells.values()):
        return
    above, beside = [], []
    for name, (cell, *rest) in cells.items():
        below = [other for other in rest if other and not MARKS.fullmatch(other)]
        if len(below) >= 2 and all(map(_is_number, below)):
            above.append((name, cell))
        else:
            beside.append(cell)
    units = all(not cell or MARKS.fullmatch(cell) or cell[0] in "[(" for cell in beside)
    years = any(_PLAIN.fullmatch(name) for name, _ in above)
    named = all(_UNIT.fullmatch(cell) and cell.lower() not in WORDS for _, cell in above)
    _require(
        not above or not named or not (units or years),
        f"Line {line} looks like a second header ({', '.join(c for _, c in above[:SHOWN])} above "
        "numbers): keep one line of names, with the units in it.",
    )


# --- from cells to a typed column ----------------------------------------------------------------


def _bare(cell: str) -> str:
    """A number's text in ASCII: no signs of currency or percent, flags, brackets, space groups."""
    if not cell.isascii():
        cell = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in cell)
        cell = cell.replace("−", "-").replace("٫", ".").replace("٬", "")
    cell = _SIGNS.sub(r"\1", _FLAG.sub("", cell))
    if negative := _BRACKETS.fullmatch(cell):
        cell = "-" + _SIGNS.sub(r"\1", negative[1].strip())
    return _SPACES.sub("", cell)


def _proves_decimal_comma(cell: str) -> bool:
    """Whether a cell can only be a number with a decimal comma: 40,3 or 0,125 or 1.234,5."""
    bare = _bare(cell)
    if _POINT_GROUPS.fullmatch(bare) and "," in bare:
        return True
    thousands = _COMMA_GROUPS.fullmatch(bare) and not bare.lstrip("+-").startswith("0")
    return bool(_DECIMAL_COMMA.fullmatch(bare)) and not thousands


def _typed(
    name: str, cells: Sequence[str], lines: Sequence[int], separator: str, commas: set[str]
) -> tuple[str, Any, int, str]:
    """(kind, values, how many are missing, decision in words) of a column."""
    counted = Counter(cells)
    holes = {cell for cell in counted if not cell or MARKS.fullmatch(cell)}
    present = {cell: n for cell, n in counted.items() if cell not in holes}
    words = {cell for cell in present if cell.lower() in WORDS}
    share = _share_of_numbers({cell: n for cell, n in present.items() if cell not in words})
    infinite = [c for c in present if _INFINITE.fullmatch(c)] if share >= 0.5 else []
    if infinite:
        at = lines[cells.index(infinite[0])]
        raise DataError(
            f"Column {name} holds {infinite[0]!r} in line {at}; expected finite numbers: write "
            "the value itself, or leave the cell empty."
        )
    days, note = _dates([cell for cell in present if cell not in words])
    if days:
        return "date", *_filled(cells, days, "datetime64[s]"), note
    if share >= 0.5:
        bare = {cell: _bare(cell) for cell in present if cell not in words and _is_number(cell)}
        odd = len(present) - len(words) - len(bare)
        held_back = [c for c in present if c not in words and c not in bare]
        held_back = [c for c in held_back if SUPPRESSED.fullmatch(c)]
        mostly = share >= MOSTLY or (odd <= FEW and len(bare) >= MANY)
        if mostly or odd == len(held_back) <= 2:
            note = _code(bare)
            if not note:
                plain, note = _notation(name, list(bare.values()), separator, commas)
                texts = {cell: plain(text) for cell, text in bare.items()}
                return _numbers(name, cells, lines, holes | words, texts=texts, note=note)
    if words:
        shown = sorted(words, key=lambda word: -present[word])[:SHOWN]
        kept = ", ".join(f"{word!r} ({present[word]})" for word in shown)
        note = f"{note} {kept} kept as values of text.".strip()
    elif unit := _common_unit(list(present)):
        note = f"Numbers with the unit {unit}, kept as text: write the unit into the header."
    elif not note and len(counted) == len(cells) > SHOWN:
        note = "All values differ: is it an identifier?"
    values = np.array([None if cell in holes else cell for cell in cells], object)
    return "text", values, sum(counted[cell] for cell in holes), note


def _common_unit(present: Sequence[str]) -> str:
    """What stands behind the number in every cell, such as kg."""
    matches = [re.fullmatch(r"[+-]?\d[\d.,]*\s?([^\W\d_][^\d]{0,9})", c) for c in present]
    units = {match[1] if match else "" for match in matches}
    return units.pop() if len(units) == 1 and len(present) > 1 else ""


def _filled(cells: Sequence[str], values: Mapping[str, Any], dtype: str) -> tuple[Any, int]:
    """The column with what each cell stands for, and how many stand for nothing."""
    nothing = float("nan") if dtype == "float64" else None
    filled = [values.get(cell, nothing) for cell in cells]
    return np.array(filled, dtype), sum(cell not in values for cell in cells)


def _share_of_numbers(counted: Mapping[str, int]) -> float:
    """Share of cells that are numbers in some notation."""
    if not counted:
        return 0.0
    first = list(itertools.islice(counted, MOST_LOOKED_AT))
    share = sum(map(_is_number, first)) / len(first)
    if len(first) == len(counted) or share >= 0.5:
        numbers = sum(n for cell, n in counted.items() if _is_number(cell))
        return numbers / sum(counted.values())
    return share  # a long column of text: the rest cannot make it a number


def _is_number(cell: str) -> bool:
    if _PLAIN.fullmatch(cell):
        return True
    bare = "" if cell.isalpha() else _bare(cell)
    return any(p.fullmatch(bare) for p in (_PLAIN, _COMMA_GROUPS, _POINT_GROUPS, _DECIMAL_COMMA))


def _code(bare: Mapping[str, str]) -> str:
    """Why a column of numbers is text after all; "" if it is not."""
    zeros = [cell for cell in bare if re.match(r"[+-]?0\d", cell)]
    texts = (text.replace(",", ".") for text in bare.values())
    values = [float(text) for text in texts if _PLAIN.fullmatch(text)]
    if zeros and (len(set(map(len, bare))) == 1 or len(set(values)) < len(values)):
        return f"Leading zeros (such as {zeros[0]}): codes, kept as text."
    whole = (re.sub(r"\.0*$", "", text) for text in bare.values())
    digits = [text for text in whole if _INTEGER.fullmatch(text)]
    largest = 2**63 - 1 if len(digits) == len(bare) else 2**53
    if long := [text for text in digits if abs(int(text)) > largest]:
        example = max(long, key=lambda text: abs(int(text)) > 2**63 - 1)
        return f"Integers of {len(example)} digits, which no number holds exactly: kept as text."
    return ""


def _notation(
    name: str, bare: Sequence[str], separator: str, commas: set[str]
) -> tuple[Callable[[str], str], str]:
    """How to turn a bare cell into Python's notation, and in words."""
    groups = [c for c in bare if _COMMA_GROUPS.fullmatch(c)]
    points = [c for c in bare if _POINT_GROUPS.fullmatch(c)]
    if name in commas:
        odd = next((c for c in bare if "." in c and not _POINT_GROUPS.fullmatch(c)), "")
        _require(
            not odd,
            f"Column {name} holds numbers with a decimal comma and others such as {odd}; write all "
            "of them with one sign.",
        )
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
    name: str,
    cells: Sequence[str],
    lines: Sequence[int],
    holes: set[str],
    *,
    texts: Mapping[str, str],
    note: str,
) -> tuple[str, Any, int, str]:
    """As `_typed`, of a column whose cells hold the numbers `texts`, or nothing, or are odd."""
    numeric = {cell: text for cell, text in texts.items() if _PLAIN.fullmatch(text)}
    values: dict[str, Any] = {cell: float(text) for cell, text in numeric.items()}
    for cell, value in values.items():
        _require(
            abs(value) <= LARGEST,
            f"Column {name} holds {cell} in line {lines[cells.index(cell)]}, too large for its "
            "variance to be a number; expected values up to 1e150 in size: change the unit.",
        )
    notes = [note, *_dropped(name, numeric), _code_for_missing(cells, values)]
    odd = [i for i, cell in enumerate(cells) if cell not in numeric and cell not in holes]
    if odd:
        examples = ", ".join(f"{cells[i][:20]!r} in line {lines[i]}" for i in odd[:SHOWN])
        notes.append(f"{len(odd)} odd cells counted as missing: {examples}.")
    kind, dtype = "number", "float64"
    if all(map(_INTEGER.fullmatch, numeric.values())):
        kind, values = "integer", {cell: int(text) for cell, text in numeric.items()}
        complete = all(cell in values for cell in cells)
        if complete or any(abs(value) > 2**53 for value in values.values()):
            dtype = "int64" if complete else "object"  # a float would lose the last digits
    first: dict[float, str] = {}
    pairs = ((first.setdefault(value, cell), cell) for cell, value in values.items())
    if twice := next((pair for pair in pairs if pair[0] != pair[1]), None):
        notes.append(f"Different texts of one number, such as {' and '.join(twice)}, are equal.")
    column, missing = _filled(cells, values, dtype)
    if dtype == "object":
        column = pd.array(column, dtype="Int64")
    return kind, column, missing, " ".join(filter(None, notes))


def _code_for_missing(cells: Sequence[str], values: Mapping[str, float]) -> str:
    """A doubt about 99, 999, -9, -99 and so on, far from all other numbers of the column."""
    by_value = sorted(values, key=lambda cell: values[cell])
    for cell, others in ((by_value[-1], by_value[:-1]), (by_value[0], by_value[1:])):
        value, nines = values[cell], set(cell.lstrip("-")) == {"9"}
        far = others and max(abs(values[c]) for c in others) < abs(value) / 2
        alone = value < 0 and others and min(values[c] for c in others) >= 0
        if nines and ((value > 9 and far) or alone):
            return f"{cell} ({cells.count(cell)} cells) may stand for missing: if so, empty them."
    return ""


def _dropped(name: str, numeric: Mapping[str, str]) -> list[str]:
    """Sentences on what the cells hold beside their numbers."""
    special = [cell for cell in numeric if not _PLAIN.fullmatch(cell)]
    flags = Counter(match[1] for match in map(_FLAG.search, special) if match)
    matches = (match for cell in special for match in _SIGNS.finditer(cell.strip("()")))
    signs = Counter(match[2] or match[3] for match in matches)
    _require(
        len(signs) < 2,
        f"Column {name} mixes the signs {', '.join(signs)}; expected one unit in a column: "
        "convert the others.",
    )
    notes = [f"The sign {sign} was dropped." for sign in signs]
    if signs and signs.total() < sum(float(text) != 0 for text in numeric.values()):
        notes.append("Some numbers have no sign; they were taken to be in the same unit.")
    if flags:
        notes.append(f"Flags behind the numbers were dropped: {', '.join(sorted(flags))}.")
    if negative := [cell for cell in special if cell.startswith("(")]:
        notes.append(
            f"Numbers in brackets, such as {negative[0]}, were read as negative, as in accounting."
        )
    if powers := [cell for cell in numeric if "e" in cell.lower() and cell not in special]:
        notes.append(f"Numbers with an exponent, such as {powers[0]}, are powers of ten.")
    return notes


def _dates(present: Sequence[str]) -> tuple[dict[str, datetime.date], str]:
    """The day of each cell, if all are days in one certain notation; else none, and why not."""
    named = {
        cell: _MONTH.sub(lambda m: f"/{MONTHS.index(m[1].lower()) + 1}/", cell) for cell in present
    }
    matches, order, note = [_DAY.fullmatch(text) for text in named.values()], (1, 2, 3), ""
    if not any(matches):
        matches = [_DAY_FIRST.fullmatch(text) for text in named.values()]
    days = [match for match in matches if match]
    if not days or len(days) < len(present):
        return {}, ""
    if days[0].re is _DAY_FIRST:
        sure = all("." in m[0] for m in days) or all(c != text for c, text in named.items())
        day_first = sure or any(int(m[1]) > 12 for m in days)
        if day_first == any(int(m[2]) > 12 for m in days):
            return {}, "Dates whose order of day and month is not certain: kept as text."
        order = (3, 2, 1) if day_first else (3, 1, 2)
        note = "Day before month." if day_first else "Month before day."
    elif any(":" in cell for cell in present):
        note = "The time of day was dropped."
    try:
        dates = [datetime.date(*(int(m[i]) for i in order)) for m in days]
    except ValueError:  # the 31st of February: not dates after all
        return {}, note
    return dict(zip(present, dates, strict=True)), note
