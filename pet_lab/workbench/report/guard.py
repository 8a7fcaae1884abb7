"""What a report must never hold: records, secrets, local paths, tracebacks, requests to elsewhere.

A net against mistakes, not against malice: it looks at the finished page, so whatever way something
got there, it is seen. Every objection names the cell.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bs4 import BeautifulSoup, Tag

from pet_lab.workbench.errors import WorkbenchError

FORBIDDEN_TAGS = (
    *("script", "iframe", "frame", "object", "embed", "applet", "base", "link"),
    *("form", "audio", "video", "source", "track", "portal"),
)
LOADING_ATTRIBUTES = (
    *("src", "srcset", "poster", "background", "data", "action", "formaction", "ping"),
)

# 256 bits are 77 decimal digits; a SHA-256, which a report does print, is 64 hexadecimal ones.
SECRETS = {
    "a private key": re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY"),
    "a number of more than 256 bits": re.compile(r"\d{78,}|\b(?:0x)?[0-9a-fA-F]{65,}\b"),
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
LOCAL_PATHS = re.compile(
    r"(?<![\w.:/-])(?:/home/|/root/|/Users/|/tmp/|/var/folders/|/private/var/)[\w.-]*[^\s'\"<>)]*"
    r"|\b[A-Za-z]:\\+(?:Users|Documents and Settings|Windows|Temp)\\+[^\s'\"<>)]*"
    r"|\bfile://\S*"
)
TRACEBACK = re.compile(r"Traceback \(most recent call last\)")
NUMBERED_LINE = re.compile(r"^\s*(\d+)((?:\s+\S+){3,})\s*$")
FEWEST_RECORDS = 4  # consecutive numbered lines that look like a printed frame


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


def guard(html: str, *, root: Path | None = None) -> None:
    """Refuse a page that holds what no report may hold.

    Parameters
    ----------
    html : str
        The whole page. Cells are elements with an id ``cell-N``.
    root : Path, optional
        The workspace; its path may not appear either.

    Raises
    ------
    GuardError
        With all of them: records (tables not made by `plots.table` or `scorecard.show`, printed
        frames), secrets, local paths, tracebacks, pictures without words, scripts and requests.
    """
    if against := objections(html, root=root):
        raise GuardError("The report was not written: " + "; ".join(map(str, against)) + ".")


def objections(html: str, *, root: Path | None = None) -> list[Objection]:
    """All reasons to refuse the page, without repetition."""
    soup = BeautifulSoup(html, "html.parser")
    against = [*_requests(soup), *_records(soup), *_wordless(soup)]
    for cell, text in _texts(soup):
        against += [Objection(what, cell, "remove it") for what in _secrets(text)]
        for path in sorted(set(_paths(text, root))):
            shown = path if len(path) < 40 else path[:37] + "…"
            against.append(Objection(f"the local path {shown!r}", cell, "print names, not paths"))
        if TRACEBACK.search(text):
            against.append(Objection("a traceback", cell, "let the cell fail or catch the error"))
    return list(dict.fromkeys(against))


def sanitise(text: str, *, root: Path | None = None, limit: int = 300) -> str:
    """First line of an error message, with paths and secrets replaced and its length bounded."""
    line = next((line for line in text.splitlines() if line.strip()), "").strip()
    for pattern in _own_paths(root):
        line = pattern.sub("…", line)
    line = LOCAL_PATHS.sub("…", line)
    for pattern in SECRETS.values():
        line = pattern.sub("[removed]", line)
    for value in _secret_values():
        line = line.replace(value, "[removed]")
    return line if len(line) <= limit else line[: limit - 1] + "…"


# --- where and what ----------------------------------------------------------------------------


def _cell(tag: Tag) -> int | None:
    for parent in (tag, *tag.parents):
        if match := re.fullmatch(r"cell-(\d+)", str(parent.get("id", ""))):
            return int(match[1])
    return None


def _texts(soup: BeautifulSoup) -> Iterator[tuple[int | None, str]]:
    """(cell, all its words: text, attributes, and what is drawn inside embedded SVG)."""
    cells = soup.find_all(id=re.compile(r"^cell-\d+$"))
    for tag in cells:
        yield _cell(tag), "\n".join([tag.get_text(), *_attributes(tag)])
    for tag in cells:
        tag.extract()
    yield None, "\n".join([soup.get_text(), *_attributes(soup)])


def _attributes(tag: Tag) -> Iterator[str]:
    for element in tag.find_all(True):
        for name, value in element.attrs.items():
            text = " ".join(value) if isinstance(value, list) else str(value)
            if text.startswith("data:image/svg+xml;base64,"):
                yield _svg_words(text)
            elif not text.startswith("data:") and name not in ("href", "d"):
                yield text


def _svg_words(uri: str) -> str:
    """Comments and texts of an SVG: matplotlib writes each drawn text as a comment."""
    try:
        svg = base64.b64decode(uri.partition(",")[2]).decode(errors="replace")
    except binascii.Error:
        return ""
    return "\n".join(a or b for a, b in re.findall(r"<!--(.*?)-->|>([^<]+)<", svg, re.DOTALL))


def _requests(soup: BeautifulSoup) -> Iterator[Objection]:
    fix = "a report loads nothing and runs nothing"
    for tag in soup.find_all(True):
        if tag.name in FORBIDDEN_TAGS:
            yield Objection(f"an element <{tag.name}>", _cell(tag), fix)
        if tag.name == "meta" and str(tag.get("http-equiv", "")).lower() == "refresh":
            yield Objection("a page that reloads", _cell(tag), fix)
        for name, value in tag.attrs.items():
            text = " ".join(value) if isinstance(value, list) else str(value)
            if name.startswith("on"):
                yield Objection(f"an event handler {name}", _cell(tag), fix)
            elif name in LOADING_ATTRIBUTES and not re.match(r"data:image/", text):
                yield Objection(f"a request by {name}={text[:60]!r}", _cell(tag), "embed it")
            elif name in ("href", "xlink:href") and not _may_link(tag, text):
                yield Objection(f"a link to {text[:60]!r}", _cell(tag), fix)
            elif name == "style" and _loads(text):
                yield Objection("a style that loads something", _cell(tag), fix)
        if tag.name == "style" and _loads(tag.get_text()):
            yield Objection("a style that loads something", _cell(tag), fix)


def _may_link(tag: Tag, target: str) -> bool:
    scheme = re.match(r"\s*([a-zA-Z][\w+.-]*):", target)
    if tag.name == "a":
        return scheme is None or scheme[1].lower() in ("http", "https", "mailto", "doi")
    return target.startswith("#")


def _loads(css: str) -> bool:
    return bool(re.search(r"@import|url\(\s*['\"]?(?!data:|#)", css))


def _records(soup: BeautifulSoup) -> Iterator[Objection]:
    for table in soup.find_all("table"):
        known = table.get("data-pet-lab") or "scorecard" in str(table.get("class"))
        if table.find_parent(class_="output") and not known:
            yield Objection(
                "a table that does not say what its rows are",
                _cell(table),
                "show it by plots.table(frame, caption=..., kind=...)",
            )
    for block in soup.find_all("pre", class_="out"):
        if _printed_frame(block.get_text()):
            yield Objection("printed records", _cell(block), "show a summary by plots.table")


def _printed_frame(text: str) -> bool:
    """Whether a text holds numbered lines of equally many values, as a printed frame does."""
    run, last = 0, (-2, 0)
    for line in text.splitlines():
        if match := NUMBERED_LINE.match(line):
            now = (int(match[1]), len(match[2].split()))
            run = run + 1 if now == (last[0] + 1, last[1]) else 1
            last = now
        else:
            run, last = 0, (-2, 0)
        if run >= FEWEST_RECORDS:
            return True
    return False


def _wordless(soup: BeautifulSoup) -> Iterator[Objection]:
    for image in soup.find_all("img"):
        if not str(image.get("alt", "")).strip() and image.get("role") != "presentation":
            yield Objection(
                "a picture without words", _cell(image), "show it by plots.show(alt=...)"
            )


def _secrets(text: str) -> Iterator[str]:
    yield from (name for name, pattern in SECRETS.items() if pattern.search(text))
    if any(value in text for value in _secret_values()):
        yield "the value of a secret environment variable"


def _secret_values() -> list[str]:
    return [v for k, v in os.environ.items() if len(v) >= 8 and SECRET_VARIABLES.search(k)]


def _paths(text: str, root: Path | None) -> Iterator[str]:
    yield from (m[0] for m in LOCAL_PATHS.finditer(text))
    for pattern in _own_paths(root):
        yield from (m[0] for m in pattern.finditer(text))


def _own_paths(root: Path | None) -> list[re.Pattern[str]]:
    """Folders of this machine; too short a name (/app) would also be found in honest text."""
    folders = {str(f) for f in (root, Path.home(), sys.prefix, tempfile.gettempdir()) if f}
    return [
        re.compile(r"(?<![\w.:])" + re.escape(f) + r"(?!\w)[^\s'\"<>)]*")
        for f in sorted(folders, key=len, reverse=True)
        if len(f) >= 5
    ] + _own_names()


def _own_names() -> list[re.Pattern[str]]:
    """The user where written like one (user@, /user/), the host where it looks like a host."""
    import getpass
    import platform

    patterns = []
    try:
        user = re.escape(getpass.getuser())
        patterns.append(re.compile(rf"(?<![\w.]){user}@[\w.-]+|[/\\](?:home|Users)[/\\]{user}\b"))
    except (KeyError, OSError, ImportError):  # a container may run as a user without a name
        pass
    host = platform.node()
    if len(host) >= 6 and re.search(r"[\d.-]", host) and not host.startswith("localhost"):
        patterns.append(re.compile(rf"(?<![\w.-]){re.escape(host)}(?![\w-])"))
    return patterns
