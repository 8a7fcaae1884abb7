"""An executed notebook as the body of a report: prose, figures, tables, folded code.

nbconvert walks the notebook through a template of ours; mathematics becomes MathML on the way, so
that no script is needed to read it. What comes out is mended once as a tree: heading order, scoped
table heads, numbered captions, links between notebooks.
"""

from __future__ import annotations

import base64
import copy
import html
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from bs4 import BeautifulSoup, Comment
from latex2mathml.converter import convert as latex_to_mathml
from nbconvert.exporters import TemplateExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath, MathInlineParser
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from traitlets.config import Config

from pet_lab.workbench.report.guard import GuardError, parse

TEMPLATES = Path(__file__).resolve().parents[1] / "templates"
IMAGES = ("image/svg+xml", "image/png", "image/jpeg")
INTERACTIVE = "application/vnd.jupyter.widget-view+json"
SCRIPTS = ("application/javascript", "application/vnd.jupyter.widget-state+json")
HIDDEN_TAGS = {"parameters", "injected-parameters", "remove-cell"}
EXPLORE = re.compile(r"^\s*explore\.\w+\(", re.MULTILINE)
WRITE = re.compile(r"^\s*results\.write\(", re.MULTILINE)
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass
class Body:
    """What a page needs of a notebook.

    html      the sections
    contents  (anchor, heading) of each section
    """

    html: str
    contents: list[tuple[str, str]]


# --- markdown ----------------------------------------------------------------------------------


class _Inline(MathInlineParser):
    """Dollars are mathematics only where they hug it: "$5 and $6" is money."""

    SPECIFICATION: ClassVar[dict[str, str]] = {
        **MathInlineParser.SPECIFICATION,
        "inline_math_tex": (
            r"(?<![$\\])\$(?=[^\s$])(?P<math_inline_tex>[^$`]*?[^\s$`\\])\$(?![\d$])"
        ),
    }


class _Renderer(IPythonRenderer):
    """Mathematics as MathML; headings are numbered and anchored later, on the whole page."""

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        return f"<h{level}>{text}</h{level}>\n"

    def block_math(self, body: str) -> str:
        return f'<div class="math" tabindex="0">{mathml(body, display=True)}</div>'

    def inline_math(self, body: str) -> str:
        return mathml(body)

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(rf"\begin{{{name}}}{body}\end{{{name}}}")


def mathml(latex: str, *, display: bool = False) -> str:
    """LaTeX as MathML that carries its source as words; the source itself where it is unknown."""
    latex = latex.strip()
    try:
        formula = latex_to_mathml(latex, display="block" if display else "inline")
    except Exception:  # the converter raises what it likes; a formula must not cost the report
        return f"<code>{html.escape(latex)}</code>"
    return formula.replace("<math ", f'<math alttext="{html.escape(latex)}" ', 1)


def _reader(attachments: Mapping[str, Any] | None = None, *, escape: bool) -> MarkdownWithMath:
    renderer = _Renderer(escape=escape, attachments=dict(attachments or {}))
    return MarkdownWithMath(renderer, inline=_Inline(hard_wrap=False))


def markdown(text: str, attachments: Mapping[str, Any] | None = None) -> str:
    """Markdown as whole HTML: the author's own markup stays, and ends where the text ends."""
    return whole(_reader(attachments, escape=False).render(text))


def from_rows(text: str) -> str:
    """Markdown that holds data, such as takeaways: markup in it is text."""
    return whole(_reader(escape=True).render(text))


def inline(text: str) -> str:
    """One line of markdown that may hold data: captions, headlines. Markup in it is text."""
    reader = _reader(escape=True)
    tokens = reader.inline(" ".join(text.split()), {"ref_links": {}})
    return whole(reader.renderer(tokens, reader.block.state_cls()))


def whole(markup: str) -> str:
    """A fragment as a browser reads it alone: every element closed, no comment."""
    soup = parse(markup)
    for comment in soup.find_all(string=lambda text: isinstance(text, Comment)):
        comment.extract()
    return _content(soup)


def _content(soup: BeautifulSoup) -> str:
    return "".join(part.decode_contents() for part in (soup.head, soup.body) if part)


# --- the notebook ------------------------------------------------------------------------------


class _BodyExporter(TemplateExporter):
    """The template `notebook` with our filters; no preprocessor of nbconvert is needed."""

    output_mimetype = "text/html"
    template_name = "notebook"

    def __init__(self) -> None:
        # Pictures first: plots.show adds an HTML twin for JupyterLab.
        order = [*IMAGES, "text/html", "text/markdown", "text/latex", "text/plain"]
        config = Config({"NbConvertBase": {"display_data_priority": order}})
        super().__init__(config=config, extra_template_basedirs=[str(TEMPLATES)])

    def _file_extension_default(self) -> str:
        return ".html"

    def default_filters(self) -> Any:
        yield from super().default_filters()
        yield "prose", lambda cell: markdown(cell.source, cell.get("attachments"))
        yield "caption", inline
        yield "math", from_rows
        yield "whole", whole
        yield "python", lambda code: highlight(code, PythonLexer(), HtmlFormatter(nowrap=True))
        yield "data_uri", _data_uri
        yield "words", _words
        yield "plain", lambda text: html.escape(ANSI.sub("", text))


def export(notebook: Any, *, link: Callable[[str], str | None]) -> Body:
    """Body of the report of an executed notebook.

    Parameters
    ----------
    notebook : NotebookNode of format 4, executed
    link : callable
        Target of a link as written in the notebook -> target in the report; None: no link.

    Raises
    ------
    GuardError
        If a cell ended in an error, or a picture has no words.
    """
    page, _ = _BodyExporter().from_notebook_node(prepare(notebook))
    soup = parse(page)
    contents = _order_headings(soup)
    _mend_tables(soup)
    _number_captions(soup)
    _mend_links(soup, link)
    return Body(_content(soup), contents)


def prose(text: str, link: Callable[[str], str | None]) -> Body:
    """A document of markdown as a body: its title is left to the page, links go through `link`."""
    soup = parse(markdown(_without_title(text)))
    contents = _order_headings(soup)
    _mend_tables(soup)
    _mend_links(soup, link)
    return Body(_content(soup), contents)


def first_picture(notebook: Any) -> tuple[str, str] | None:
    """Data URI and words of the first picture of an executed notebook."""
    for output in (o for c in prepare(notebook).cells for o in c.get("outputs", ())):
        for mime in IMAGES:
            if mime in output.get("data", {}):
                return _data_uri(output, mime), _words(output, mime, "alt")
    return None


def prepare(notebook: Any) -> Any:
    """The cells and outputs that readers need; cells keep the number they have in the notebook."""
    kept = copy.deepcopy(notebook)
    cells: list[Any] = []
    for number, cell in enumerate(kept.cells, start=1):
        cell.metadata["cell"] = number
        if HIDDEN_TAGS & set(cell.metadata.get("tags", ())) or cell.cell_type == "raw":
            continue
        if cell.cell_type == "markdown":
            if re.match(r"\s*#+\s*Explore\b", cell.source):
                continue  # its panel is not built in batch
            cell.source = _without_title(cell.source) if number == 1 else cell.source
        elif EXPLORE.search(cell.source) and not cell.outputs:
            continue
        else:
            if WRITE.search(cell.source):  # it returns the rows, which a notebook then shows
                cell.outputs = [o for o in cell.outputs if o.output_type != "execute_result"]
            cell.outputs = [o for o in cell.outputs if _shown(o, number)]
            for output in cell.outputs:  # a last value is shown like any other output
                if output.output_type == "execute_result":
                    output.output_type = "display_data"
            previous = cells[-1] if cells else None
            if previous and previous.cell_type == "code" and not previous.outputs:
                cell.source = f"{previous.source}\n\n{cell.source}"  # one fold, not a row of them
                cells.pop()
        if cell.source.strip():
            cells.append(cell)
    kept.cells = cells
    kept.metadata.pop("widgets", None)
    return kept


def _without_title(text: str) -> str:
    return re.sub(r"\A\s*#\s+.*(\n|\Z)", "", text)


def _shown(output: Any, number: int) -> bool:
    """Whether readers need an output: no warnings, no widgets, no scripts."""
    kind = output.output_type
    if kind == "error":
        raise GuardError(f"The report was not written: cell {number} ended with {output.ename}.")
    if kind == "stream":
        return output.name == "stdout" and bool(output.text.strip())
    if INTERACTIVE in output.data or any(mime in output.data for mime in SCRIPTS):
        return False
    images = [mime for mime in IMAGES if mime in output.data]
    if images and not str(output.metadata.get(images[0], {}).get("alt", "")).strip():
        raise GuardError(
            f"The report was not written: the picture of cell {number} has no words; "
            "show it by plots.show(fig, alt=..., caption=...)."
        )
    return bool(output.data)


def _data_uri(output: Any, mime: str) -> str:
    data = output.data[mime]
    coded = base64.b64encode(data.encode()).decode() if mime == "image/svg+xml" else data.strip()
    return f"data:{mime};base64,{coded}"


def _words(output: Any, mime: str, key: str) -> Any:
    return output.metadata.get(mime, {}).get(key, "")


# --- mending the tree --------------------------------------------------------------------------


def slug(text: str) -> str:
    """An anchor made of the words of a heading."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or "section"


def _order_headings(soup: BeautifulSoup) -> list[tuple[str, str]]:
    """Start at h2, skip no level, anchor each; returns the contents list."""
    contents, taken, last = [], set[str](), 1
    for tag in soup.find_all(re.compile(r"^h[1-6]$")):
        last = max(2, min(int(tag.name[1]), last + 1))
        tag.name = f"h{last}"
        text = " ".join(tag.get_text().split())
        anchor = base = slug(text)
        count = 1
        while anchor in taken:
            count += 1
            anchor = f"{base}-{count}"
        taken.add(anchor)
        tag["id"] = anchor
        if last == 2:
            contents.append((anchor, text))
    return contents


def _mend_tables(soup: BeautifulSoup) -> None:
    """Scoped heads, and a region that scrolls."""
    for table in soup.find_all("table"):
        for head in table.find_all("th"):
            if not head.get("scope"):
                head["scope"] = "row" if head.find_parent("tbody") else "col"
        if not table.find_parent(class_="pl-table"):
            words = table.caption.get_text() if table.caption else "Table"
            attrs = {"class": "pl-table", "role": "region", "tabindex": "0", "aria-label": words}
            table.wrap(soup.new_tag("div", attrs=attrs))


def _number_captions(soup: BeautifulSoup) -> None:
    for word, captions in (
        ("Figure", soup.find_all("figcaption")),
        ("Table", [c for c in soup.find_all("caption") if c.get_text().strip()]),
    ):
        for number, caption in enumerate(captions, start=1):
            if word == "Table":  # plots.table keeps its caption as text
                words = caption.get_text()
                caption.clear()
                caption.extend(list(parse(inline(words)).body.contents))
            mark = soup.new_tag("b", attrs={"class": "no"})
            mark.string = f"{word} {number}."
            caption.insert(0, mark, " ")


def _mend_links(soup: BeautifulSoup, link: Callable[[str], str | None]) -> None:
    for anchor in soup.find_all("a", href=True):
        target = str(anchor["href"])
        if re.match(r"(https?:|mailto:|#)", target):
            continue
        here = link(target)
        if here is None:
            anchor.unwrap()
        else:
            anchor["href"] = here
