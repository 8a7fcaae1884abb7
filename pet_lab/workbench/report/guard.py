"""What a report must never hold: records, secrets, local paths, tracebacks, requests to elsewhere.

A net against mistakes, not against malice. It reads the finished page by the rules that browsers
follow, lets outputs of a few kinds pass (pictures, tables and scorecards of the house, takeaways,
printed sentences) and compares their cells with hashes of the records that the notebook handed
over (`results.row_hashes`). It cannot see what a picture draws, records of fewer than three cells,
records that were rounded, recoded, put in another order of columns or spread over sentences, a
small count that names somebody, or a key that was written as words: a person still has to look.
Every objection names the cell.
"""

import base64
import binascii
import csv
import getpass
import hashlib
import itertools
import math
import os
import platform
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup, Tag

from pet_lab.workbench.errors import WorkbenchError
from pet_lab.workbench.tables import KINDS

FORBIDDEN_TAGS = (
    *("script", "iframe", "frame", "object", "embed", "applet", "base", "link"),
    *("textarea", "plaintext", "xmp", "noscript", "noembed", "noframes", "template", "select"),
    *("form", "audio", "video", "source", "track", "portal"),
)
LOADING_ATTRIBUTES = (
    *("src", "srcset", "poster", "background", "data", "action", "formaction", "ping"),
)
UNREAD_ATTRIBUTES = ("href", "d", "id", "class", "style", "alttext", "content")

# 256 bits are 77 decimal digits; a SHA-256, which a report does print, is 64 hexadecimal ones.
SECRETS = {
    "a private key": re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY"),
    "a key in PEM": re.compile(r"-----BEGIN (?![A-Z0-9 ]*PRIVATE KEY)[A-Z0-9 ]+-----"),
    "bytes": re.compile(
        r"(?:\\x[0-9a-f]{2}.{0,3}){4,}|(?:[0-9a-fA-F]{2}[:\s-]){15,}[0-9a-fA-F]{2}"
    ),
    "a number of more than 256 bits": re.compile(r"\d{78,}|\b(?:0x)?[0-9a-fA-F]{65,}\b"),
    "a number of more than 127 bits": re.compile(r"(?<![\d.])\d{39,77}(?!\d)"),
    "an access token": re.compile(
        r"\b(?:gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}|xox[abpr]-[\w-]{10,}|"
        r"AKIA[0-9A-Z]{16}|sk-\w{20,}|hf_\w{20,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]+)"
    ),
    "a secret called by its name": re.compile(
        r"(?i)\b(?:password|passwd|secret|secret_?key|private_?key|signing_?key|api_?key|token)"
        r"['\"]?\s*[=:]\s*b?['\"]?(?=[\w+/-]*\d)[\w+/-]{16,}"
    ),
}
SECRET_VARIABLES = re.compile(r"(?i)TOKEN|SECRET|PASSW|API_?KEY|PRIVATE_?KEY|CREDENTIAL")
_NAME = r"[^\s'\"<>()|,;:\\/]+"
LOCAL_PATHS = re.compile(
    rf"(?<![\w.:/~<>)\]}}-])(?:~[\w.-]*)?/{_NAME}(?:/{_NAME})+/?"  # /mnt/a/b, ~anna/b, /srv/a
    r"|(?<![\w.:/-])/[\w-]+\.[A-Za-z]\w{1,6}\b"  # /a.csv
    r"|(?<![\w.:/-])~[\w.-]*/[^\s'\"<>)]+"
    r"|\b[A-Za-z]:\\+[^\s'\"<>)]+|\b[A-Za-z]:/(?!/)[\w.-]+[^\s'\"<>)]*"
    r"|(?<!\\)\\\\[\w.$-]+\\+[\w.$-]+[^\s'\"<>)]*"  # \\server\share
    r"|(?<![\w:])//[\w.-]+/[\w.$-]+[^\s'\"<>)]*"
    r"|\bfile:/\S*"
)
DOWNLOAD = re.compile(
    r"data:(?:text/csv;charset=utf-8|image/svg\+xml|image/png|image/jpeg);base64,"
)
SCRIPTED = re.compile(r"(?i)<script|\bon\w+\s*=|javascript:|<foreignObject")
ADDRESS = re.compile(r"\b(?:https?|doi|mailto):[^\s'\"<>)]+")
TRACEBACK = re.compile(r"Traceback \(most recent call last\)")
FEWEST_RECORDS = 3  # lines of equally many values that look like printed records
_VALUE = r"(?:b?'[^']*'|\"[^\"]*\"|[\w.]*\([^()]*\)|[-+\w.]+)"
LITERALS = re.compile(
    r"[{(,]\s*['\"][\w .-]+['\"]\s*:(?:[^{}:]*['\"][\w .-]+['\"]\s*:){1,}"  # a dict or JSON
    rf"|[\[(](?=[^\])]*['\"\d])\s*{_VALUE}(?:\s*,\s*{_VALUE}){{2,}}\s*,?\s*[\])]"  # a tuple
    r"|\[\s*[-+\d.]+(?:\s+[-+\d.e]+){2,}"  # an array
    r"|\b\w+\(\w+=[^()]*,\s*\w+=[^()]*,\s*\w+="  # a class of records
    r"|<(\w+)>[^<>]*</\1>\s*<(\w+)>[^<>]*</\2>"  # XML
)
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
TOKEN = re.compile(r"[A-Za-z0-9+/_-]{22,}={0,2}")


class GuardError(WorkbenchError):
    """A page that must not be written; the text lists what was found and where."""


@dataclass(frozen=True)
class Objection:
    """One reason to refuse a page: what, in which cell (None: outside the cells), and the fix."""

    what: str
    cell: int | None
    fix: str

    def __str__(self) -> str:
        place = "outside the cells" if self.cell is None else f"in cell {self.cell}"
        return f"{self.what} {place} ({self.fix})"


def parse(markup: str) -> BeautifulSoup:
    """HTML as a browser reads it, by html5lib: the guard sees what readers see."""
    return BeautifulSoup(markup, "html5lib")


def content(soup: BeautifulSoup) -> str:
    """The markup that was parsed, whole; the parser puts some of it into a head."""
    return "".join(part.decode_contents() for part in (soup.head, soup.body) if part)


def guard(html: str, *, root: Path | None = None, rows: Mapping[str, Any] | None = None) -> None:
    """GuardError, with every objection, if the page holds what no report may hold.

    Parameters
    ----------
    html : str
        The whole page. Cells are elements with an id ``cell-N``, outputs of the class ``output``.
    root : the workspace; its path may not appear either.
    rows : `results.row_hashes` of the records that the run read.
    """
    if against := objections(html, root=root, rows=rows):
        raise GuardError("The report was not written: " + "; ".join(map(str, against)) + ".")


def objections(
    html: str, *, root: Path | None = None, rows: Mapping[str, Any] | None = None
) -> list[Objection]:
    """All reasons to refuse the page, without repetition: records, outputs of an unknown kind,
    secrets, local paths, tracebacks, pictures without words, scripts and requests, markup that
    swallows the rest of the page.
    """
    soup = parse(html)
    against = [*_requests(soup), *_outputs(soup, rows)]
    for image in soup.find_all("img"):
        if not str(image.get("alt", "")).strip() and image.get("role") != "presentation":
            fix = "show it by plots.show(alt=...)"
            against.append(Objection("a picture without words", _cell(image), fix))
    # A page of ours ends with its footer; what is left open swallows it.
    ours = html.lstrip()[:9].lower() == "<!doctype" and soup.main
    if ours and not soup.select("body > footer"):
        what = "markup that swallows the rest of the page"
        against.append(Objection(what, None, "close every element"))
    declared = {t for dd in soup.select("#provenance ~ dl dd") for t in dd.get_text().split()}
    own = _own_paths(root)
    for cell, words in _texts(soup):
        text = ADDRESS.sub(" ", words)
        against += [Objection(what, cell, "remove it") for what in _secrets(text, declared)]
        for path in sorted({m[0] for p in (LOCAL_PATHS, *own) for m in p.finditer(text)}):
            shown = path if len(path) < 40 else path[:37] + "…"
            against.append(Objection(f"the local path {shown!r}", cell, "print names, not paths"))
        if TRACEBACK.search(text):
            against.append(Objection("a traceback", cell, "let the cell fail or catch the error"))
    return list(dict.fromkeys(against))


def sanitise(text: str, *, root: Path | None = None, limit: int = 300) -> str:
    """First line of an error message, with paths and secrets replaced and its length bounded."""
    line = next((line for line in text.splitlines() if line.strip()), "").strip()
    for pattern in (*_own_paths(root), LOCAL_PATHS):
        line = pattern.sub("…", line)
    for pattern in (*SECRETS.values(), *map(re.compile, map(re.escape, _secret_values()))):
        line = pattern.sub("[removed]", line)
    return line if len(line) <= limit else line[: limit - 1] + "…"


# --- where and what ----------------------------------------------------------------------------


def _cell(tag: Tag) -> int | None:
    for parent in (tag, *tag.parents):
        if match := re.fullmatch(r"cell-(\d+)", str(parent.get("id", ""))):
            return int(match[1])
    return None


def _texts(soup: BeautifulSoup) -> Iterator[tuple[int | None, str]]:
    """(cell, all its words: text, attributes, and what is drawn inside embedded SVG)."""
    for block in soup.find_all(["td", "th", "dt", "dd", "li", "p"]):
        block.append("\n")  # words of neighbours are not one word
    cells = soup.find_all(id=re.compile(r"^cell-\d+$"))
    for tag in cells:
        yield _cell(tag), "\n".join([tag.get_text(), *_attribute_words(tag)])
    for tag in cells:
        tag.extract()
    yield None, "\n".join([soup.get_text(), *_attribute_words(soup)])


def _attributes(tag: Tag) -> Iterator[tuple[str, str]]:
    for name, value in tag.attrs.items():
        yield name, " ".join(value) if isinstance(value, list) else str(value)


def _attribute_words(tag: Tag) -> Iterator[str]:
    for name, text in (pair for element in tag.find_all(True) for pair in _attributes(element)):
        if text.startswith("data:image/svg+xml;base64,"):
            # matplotlib writes each drawn text as a comment
            drawn = re.findall(r"<!--(.*?)-->|>([^<]+)<", _decoded(text), re.DOTALL)
            yield "\n".join(a or b for a, b in drawn)
        elif text.startswith("data:text/csv"):
            yield _decoded(text)
        elif not text.startswith("data:") and name not in UNREAD_ATTRIBUTES:
            yield text


def _decoded(uri: str) -> str:
    """The text in a data URI, empty where there is none."""
    try:
        return base64.b64decode(uri.partition(",")[2]).decode(errors="replace")
    except binascii.Error:
        return ""


def _requests(soup: BeautifulSoup) -> Iterator[Objection]:
    fix = "a report loads nothing and runs nothing"
    for tag in soup.find_all(True):
        if tag.name in FORBIDDEN_TAGS:
            yield Objection(f"an element <{tag.name}>", _cell(tag), fix)
        if tag.name == "meta" and str(tag.get("http-equiv", "")).lower() == "refresh":
            yield Objection("a page that reloads", _cell(tag), fix)
        for name, text in _attributes(tag):
            if name.startswith("on"):
                yield Objection(f"an event handler {name}", _cell(tag), fix)
            elif name in LOADING_ATTRIBUTES and not re.match(r"data:image/", text):
                yield Objection(f"a request by {name}={text[:60]!r}", _cell(tag), "embed it")
            elif name in ("href", "xlink:href") and not _may_link(tag, text):
                yield Objection(f"a link to {text[:60]!r}", _cell(tag), fix)
        styles = (str(tag.get("style", "")), tag.decode_contents() if tag.name == "style" else "")
        if any(re.search(r"@import|url\(\s*['\"]?(?!data:|#)", css) for css in styles):
            yield Objection("a style that loads something", _cell(tag), fix)


def _may_link(tag: Tag, target: str) -> bool:
    scheme = re.match(r"\s*([a-zA-Z][\w+.-]*):", target)
    if tag.name == "a" and tag.has_attr("download"):  # what it stores is read like the page
        return bool(DOWNLOAD.match(target)) and not (
            "svg" in target[:16] and SCRIPTED.search(_decoded(target))
        )
    if tag.name == "a":
        return scheme is None or scheme[1].lower() in ("http", "https", "mailto", "doi")
    return target.startswith("#")


# --- outputs -----------------------------------------------------------------------------------


def _outputs(soup: BeautifulSoup, rows: Mapping[str, Any] | None) -> Iterator[Objection]:
    """Only pictures, tables of the house, takeaways and sentences; no loaded record in them."""
    for output in soup.select(".output"):
        cell = _cell(output)
        for table in output.find_all("table"):
            classes = table.get("class") or ()
            known = table.get("data-pet-lab") in KINDS and table.caption is not None
            if not ("scorecard" in classes or (known and "dataframe" not in classes)):
                fix = "show it by plots.table(frame, caption=..., kind=...)"
                yield Objection("a table that does not say what its rows are", cell, fix)
        for part in output.find_all(True, recursive=False):
            kinds = set(part.get("class") or ())
            plain = bool(kinds & {"out", "prose"})
            if not (
                plain
                or kinds & {"pl-table", "scorecard", "whatif"}
                or part.name in ("figure", "table")
            ):
                fix = "show it by plots.show, plots.table, scorecard.show or results.takeaways"
                yield Objection(f"an output of an unknown kind <{part.name}>", cell, fix)
            texts = [t.get_text() for t in part.find_all(["figcaption", "caption"])]
            if plain:
                items = part.find_all("li") if "prose" in kinds else []
                texts = ["\n".join(" ".join(i.get_text().split()) for i in items), part.get_text()]
            unread = "prose" in kinds and part.find(["table", "pre", "dl", "textarea"])
            if unread or any(map(printed_records, texts)):
                yield Objection("printed records", cell, "show a summary by plots.table")
        if rows and any(r in rows["rows"] for r in _hashed(output, rows)):
            fix = "show a summary, not the records themselves"
            yield Objection("a record of the data that was read", cell, fix)


def printed_records(text: str) -> bool:
    """Whether a text holds lines of equally many values, or a literal of several values."""
    if LITERALS.search(text):
        return True
    run, last = 0, frozenset[int | str]()
    for line in filter(str.strip, text.splitlines()):
        fields = re.split(r"[,;\t|]", THOUSANDS.sub("", line))
        if len(fields) >= 4 and all(len(field.split()) <= 2 for field in fields):  # no clauses
            return True
        now = _counts(line)
        run = run + 1 if now & last else 1
        last = now
        if run >= FEWEST_RECORDS and now:
            return True
    return False


def _counts(line: str) -> frozenset[int | str]:
    """How many values the line holds, by each way of separating them; none for a sentence."""
    words = line.split()
    plain = sum(bool(re.fullmatch(r"[A-Za-z’'-]+[,;:.]?", w)) for w in words)
    if plain >= 5 and re.search(r"[.!?:]$", line.strip()):
        return frozenset()
    counts: set[int | str] = {len(words)}
    counts |= {f"{mark}{line.count(mark)}" for mark in ",;\t|=:" if mark in line}
    if gaps := len(re.findall(r"\S(?:\s{2,}|\t)(?=\S)", line.strip())):
        counts.add(f"gaps{gaps}")
    return frozenset(counts)


def row_hash(cells: Sequence[Any], salt: str) -> str:
    """Salted hash of the values of a record as a table of the house or a print would show them."""
    words = "\x1f".join(_normal(cell) for cell in cells)
    return hashlib.blake2b(words.encode(), key=bytes.fromhex(salt), digest_size=8).hexdigest()


def _normal(cell: Any) -> str:
    text = str(cell).strip().strip("'\"[](){}").replace("−", "-").casefold()
    try:
        return f"{float(text.replace(',', '')):.4g}"
    except ValueError:
        return {"yes": "true", "no": "false", "–": "nan"}.get(text, text)


def _hashed(output: Tag, rows: Mapping[str, Any]) -> Iterator[str]:
    """Hashes of every tuple of neighbouring cells, of the widths that were handed over."""
    lines = [[c.get_text() for c in tr.find_all(["td", "th"])] for tr in output.find_all("tr")]
    for link in output.select("a[download][href^='data:text/csv']"):
        lines += csv.reader(_decoded(str(link["href"])).splitlines())
    for part in output.select("pre.out, .prose, figcaption"):
        for line in part.get_text().splitlines():
            lines += [line.split(), re.split(r"[,;\t|]", line), re.split(r"[\s,;|=:]+", line)]
    for cells in lines:
        for width in rows["widths"]:
            for start in range(len(cells) - width + 1):
                yield row_hash(cells[start : start + width], rows["salt"])


# --- secrets and paths -------------------------------------------------------------------------


def _secrets(text: str, declared: Collection[str]) -> Iterator[str]:
    yield from (name for name, pattern in SECRETS.items() if pattern.search(text))
    if any(_keylike(token) for token in TOKEN.findall(text) if token not in declared):
        yield "what looks like a key"
    if any(value in text for value in _secret_values()):
        yield "the value of a secret environment variable"


def _keylike(token: str) -> bool:
    """Whether a word of 16 bytes or more has the entropy of a key: hexadecimal or base64."""
    token = token.rstrip("=")
    size = len(token)
    entropy = -sum(n / size * math.log2(n / size) for n in Counter(token).values())
    if re.fullmatch(r"(?:0[xX])?[0-9a-fA-F]{32,}", token):
        return entropy > 2.8 and bool(re.search(r"[a-fA-F]", token))
    kinds = [
        "A" if c.isupper() else "a" if c.islower() else "0" if c.isdigit() else c for c in token
    ]
    changes = sum(a != b for a, b in itertools.pairwise(kinds))
    return entropy > 3.3 and {"A", "a"} <= set(kinds) and changes >= 0.36 * size


def _secret_values() -> list[str]:
    return [v for k, v in os.environ.items() if len(v) >= 8 and SECRET_VARIABLES.search(k)]


def _own_paths(root: Path | None) -> list[re.Pattern[str]]:
    """Folders, user and host of this machine, each where it is written like one."""
    folders = {str(f) for f in (root, Path.home(), sys.prefix, tempfile.gettempdir()) if f}
    patterns = [  # too short a name (/app) would also be found in honest text
        r"(?<![\w.:])" + re.escape(f) + r"(?!\w)[^\s'\"<>)]*"
        for f in sorted(folders, key=len, reverse=True)
        if len(f) >= 5
    ]
    try:
        user = re.escape(getpass.getuser())
        patterns.append(rf"(?<![\w.]){user}@[\w.-]+|[/\\](?:home|Users)[/\\]{user}\b")
    except (KeyError, OSError, ImportError):  # a container may run as a user without a name
        pass
    host = platform.node()
    if len(host) >= 6 and re.search(r"[\d.-]", host) and not host.startswith("localhost"):
        patterns.append(rf"(?<![\w.-]){re.escape(host)}(?![\w-])")
    return [re.compile(p) for p in patterns]
