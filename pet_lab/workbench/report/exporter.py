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
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jinja2
from bs4 import BeautifulSoup, Comment
from latex2mathml.converter import convert as latex_to_mathml
from nbconvert.exporters import TemplateExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath, MathInlineParser
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from traitlets.config import Config

from pet_lab.workbench import tables, whatif
from pet_lab.workbench.report.guard import GuardError, content, parse

TEMPLATES = Path(__file__).resolve().parents[1] / "templates"
IMAGES = ("image/svg+xml", "image/png", "image/jpeg")
INTERACTIVE = "application/vnd.jupyter.widget-view+json"
UNSHOWN = {INTERACTIVE, "application/javascript", "application/vnd.jupyter.widget-state+json"}
HIDDEN_TAGS = {"parameters", "injected-parameters", "remove-cell"}
EXPLORE = re.compile(r"^\s*explore\.\w+\(", re.MULTILINE)
EXPLORE_HEADING = re.compile(r"\A\s*#+\s*Explore\b.*\n?")
WRITE = re.compile(r"^\s*results\.write\(", re.MULTILINE)
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
Link = Callable[[str], str | None]


class Body(NamedTuple):
    """What a page needs of a notebook: the sections, and (anchor, heading) of each."""

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
        return f'<div class="math" tabindex="0">{mathml(body, display="block")}</div>'

    def inline_math(self, body: str) -> str:
        return mathml(body)

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(rf"\begin{{{name}}}{body}\end{{{name}}}")


def mathml(latex: str, *, display: str = "inline") -> str:
    """LaTeX as MathML that carries its source as words; the source itself where it is unknown."""
    source = html.escape(latex.strip())
    try:
        formula = latex_to_mathml(latex.strip(), display=display)
    except Exception:  # the converter raises what it likes; a formula must not cost the report
        return f"<code>{source}</code>"
    return formula.replace("<math ", f'<math alttext="{source}" ', 1)


def markdown(
    text: str, attachments: Mapping[str, Any] | None = None, *, escape: bool = False
) -> str:
    """Markdown as whole HTML: markup in it ends where the text ends; with `escape` it is text."""
    renderer = _Renderer(escape=escape, attachments=dict(attachments or {}))
    return whole(MarkdownWithMath(renderer, inline=_Inline(hard_wrap=False)).render(text))


def from_rows(text: str) -> str:
    """Markdown that holds data, such as takeaways: markup in it is text."""
    return markdown(text, escape=True)


def inline(text: str) -> str:
    """One line of markdown that may hold data: captions, headlines. Markup in it is text."""
    renderer = _Renderer(escape=True)
    reader = MarkdownWithMath(renderer, inline=_Inline(hard_wrap=False))
    tokens = reader.inline(" ".join(text.split()), {"ref_links": {}})
    return whole(renderer(tokens, reader.block.state_cls()))


def numbers(sources: Iterable[str] | None) -> str:
    """A folded note on where the numbers of a claim come from; nothing where there are none."""
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in sources or ())
    title = "<summary>Where these numbers come from</summary>"
    return f'<details class="fold numbers">{title}<ul>{lines}</ul></details>' if lines else ""


def whole(markup: str) -> str:
    """A fragment as a browser reads it alone: every element closed, no comment."""
    soup = parse(markup)
    for comment in soup.find_all(string=lambda text: isinstance(text, Comment)):
        comment.extract()
    return content(soup)


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
        yield "numbers", numbers
        yield "math", from_rows
        yield "whole", whole
        yield "python", lambda code: highlight(code, PythonLexer(), HtmlFormatter(nowrap=True))
        yield "data_uri", _data_uri
        yield "words", _words
        yield "plain", lambda text: html.escape(ANSI.sub("", text))


def export(notebook: Any, *, link: Link, terms: Terms | None = None) -> Body:
    """Body of the report of an executed notebook, its terms explained where they are first used.

    `link` turns the target of a link in the notebook into one in the report; None: no link.
    GuardError if a cell ended in an error, or a picture has no words.
    """
    page, _ = _BodyExporter().from_notebook_node(prepare(notebook))
    body = _mended(page, link)
    return body._replace(html=terms.explain(body.html)) if terms else body


def prose(text: str, link: Link, *, terms: bool = False) -> Body:
    """A document of markdown as a body: its title is left to the page, links go through `link`.

    With `terms` a paragraph that opens with bold words, such as "**Clip.**", is anchored by them.
    """
    body = _mended(markdown(_without_title(text)), link)
    if terms:
        named = re.compile(r"<p>(?=<strong>(.+?)\.?</strong>)")
        body = body._replace(html=named.sub(lambda m: f'<p id="{slug(m[1])}">', body.html))
    return body


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
    panels, exploring, question = 0, False, ""
    for number, cell in enumerate(kept.cells, start=1):
        cell.metadata["cell"] = number
        if HIDDEN_TAGS & set(cell.metadata.get("tags", ())) or cell.cell_type == "raw":
            continue
        if cell.cell_type == "markdown":
            opens = bool(EXPLORE_HEADING.match(cell.source))
            exploring = opens or (exploring and not cell.source.lstrip().startswith("#"))
            if exploring:  # shown with the panel that it asks for, if the run has left one
                question = EXPLORE_HEADING.sub("", cell.source)
                continue
            cell.source = _without_title(cell.source) if number == 1 else cell.source
        elif EXPLORE.search(cell.source) and not cell.outputs:
            question = ""
            continue
        else:
            if WRITE.search(cell.source):  # it returns the rows, which a notebook then shows
                cell.outputs = [o for o in cell.outputs if o.output_type != "execute_result"]
            cell.outputs = [o for o in cell.outputs if _shown(o, number)]
            for place, output in enumerate(cell.outputs):
                if _as_shown(output, f"{number}-{place}", question, heading=panels == 0):
                    panels, question = panels + 1, ""
            if cells and cells[-1].cell_type == "code" and not cells[-1].outputs:
                cell.source = f"{cells.pop().source}\n\n{cell.source}"  # one fold, not a row
        if cell.source.strip():
            cells.append(cell)
    kept.cells = cells
    kept.metadata.pop("widgets", None)
    return kept


def _as_shown(output: Any, name: str, question: str, *, heading: bool) -> bool:
    """A last value like any other output, a panel's data as the panel; whether it is one."""
    if output.output_type == "execute_result":
        output.output_type = "display_data"
    panel = output.get("data", {}).get(whatif.MIME)
    if panel:
        template = (TEMPLATES / "whatif.html.j2").read_text(encoding="utf-8")
        page = jinja2.Template(template, autoescape=True)
        bars = any(share for row in panel["rows"] for _, share in row.get("cells", ()))
        asked, shown = markdown(question), {"breakable": tables.breakable, "bars": bars}
        text = page.render(panel, name=name, heading=heading, question=asked, **shown)
        output.data = {"text/html": text}
    return panel is not None


def _without_title(text: str) -> str:
    return re.sub(r"\A\s*#\s+.*(\n|\Z)", "", text)


def _shown(output: Any, number: int) -> bool:
    """Whether readers need an output: no warnings, no widgets, no scripts."""
    if output.output_type == "error":
        raise GuardError(f"The report was not written: cell {number} ended with {output.ename}.")
    if output.output_type == "stream":
        return output.name == "stdout" and bool(output.text.strip())
    if UNSHOWN & set(output.data):
        return False
    image = next((mime for mime in IMAGES if mime in output.data), None)
    if image and not str(_words(output, image, "alt")).strip():
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


# --- terms -------------------------------------------------------------------------------------


class Terms:
    """The terms of a glossary: at its first use on a page each is linked, short forms spelt out.

    The text of a glossary has a paragraph "**Name (SHORT).** Meaning." or "**SHORT.** Name: ..." a
    term.
    """

    UNTOUCHED = ("a", "code", "pre", "math", "summary", "b", "strong", "table", "figure", "label")

    def __init__(self, text: str = "") -> None:
        self.words: dict[str, tuple[str, str]] = {}  # form -> anchor, what it is short for
        self.used: set[str] = set()
        for name, meaning in re.findall(r"^\*\*(.+?)\.\*\* (.+)", text, re.MULTILINE):
            long, _, short = name.rstrip(")").partition(" (")
            anchor, before = slug(name), meaning.partition(":")[0]
            if re.fullmatch(r"[A-Z]\w*-?[A-Z]+", name):  # a short form by itself
                plain = before != meaning and len(before.split()) <= 6
                expansion = before[:1].lower() + before[1:] if before[1:2].islower() else before
                self.words[name] = anchor, expansion if plain else ""
                continue
            if re.fullmatch("[A-Z]{2,}", short):
                self.words[short] = anchor, long.lower()
            for form in (long, long[:1].lower() + long[1:]):
                self.words[form] = anchor, ""
        forms = sorted(map(re.escape, self.words), key=len, reverse=True)
        self.pattern = re.compile(rf"(?<![\w-])({'|'.join(forms)})(?![\w-])")

    def explain(self, markup: str) -> str:
        """The markup with each term linked that was not used before."""
        soup = parse(markup)
        for text in soup.find_all(string=self.pattern) if self.words else ():
            if text.find_parent(self.UNTOUCHED) or text.find_parent(re.compile("^h[1-6]$")):
                continue
            around = text.parent.get_text().lower() if text.parent else ""
            parts = self.pattern.split(str(text))
            for place in range(1, len(parts), 2):
                anchor, expansion = self.words[parts[place]]
                if anchor in self.used:
                    continue
                self.used.add(anchor)
                link = soup.new_tag("a", href=f"glossary.html#{anchor}", attrs={"class": "term"})
                link.string = parts[place]
                parts[place] = link
                if expansion and expansion.lower() not in around:
                    parts[place + 1] = f" ({expansion}){parts[place + 1]}"
            text.replace_with(*parts)
        return content(soup)


# --- mending the tree --------------------------------------------------------------------------


def slug(text: str) -> str:
    """An anchor made of the words of a heading."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or "section"


def _mended(page: str, link: Link) -> Body:
    """Headings in order, tables with scoped heads that scroll, numbered captions, links mended."""
    soup = parse(page)
    contents = _order_headings(soup)
    for table in soup.find_all("table"):
        for head in table.find_all("th"):
            if not head.get("scope"):
                head["scope"] = "row" if head.find_parent("tbody") else "col"
        if not table.find_parent(class_="pl-table"):
            words = table.caption.get_text() if table.caption else "Table"
            attrs = {"class": "pl-table", "role": "group", "tabindex": "0", "aria-label": words}
            table.wrap(soup.new_tag("div", attrs=attrs))
    captions = [c for c in soup.find_all("caption") if c.get_text().strip()]
    for caption in captions:  # plots.table keeps its caption as text
        whole_caption = parse(inline(caption.get_text())).select("body")[0]
        caption.clear()
        caption.extend(list(whole_caption.contents))
    for word, numbered in (("Figure", soup.find_all("figcaption")), ("Table", captions)):
        for number, caption in enumerate(numbered, start=1):
            mark = soup.new_tag("b", attrs={"class": "no"})
            mark.string = f"{word} {number}."
            caption.insert(0, mark, " ")
    for picture in soup.select("figure img"):
        _offer(picture)
    for anchor in soup.find_all("a", href=True):
        if re.match(r"(https?:|mailto:|data:|#)", str(anchor["href"])):
            continue
        if here := link(str(anchor["href"])):
            anchor["href"] = here
        else:
            anchor.unwrap()
    return Body(content(soup), contents)


def _offer(picture: Any) -> None:
    """Put a link to the picture as a file at the end of its caption."""
    figure, uri = picture.find_parent("figure"), str(picture["src"])
    kind = "SVG" if uri.startswith("data:image/svg") else "PNG"
    words = figure.figcaption.get_text() if figure.figcaption else str(picture.get("alt", ""))
    link = parse(tables.download(uri, " ".join(words.split()), kind)).a
    (figure.figcaption or figure).extend([" ", link])


def _order_headings(soup: BeautifulSoup) -> list[tuple[str, str]]:
    """Start at h2, skip no level, anchor each; returns the contents list."""
    contents, taken, last = [], set[str](), 1
    for tag in soup.find_all(re.compile(r"^h[1-6]$")):
        last = max(2, min(int(tag.name[1]), last + 1))
        tag.name = f"h{last}"
        text = " ".join(tag.get_text().split())
        anchor, count = slug(text), 1
        while anchor in taken:
            count += 1
            anchor = f"{slug(text)}-{count}"
        taken.add(anchor)
        tag["id"] = anchor
        if last == 2:
            contents.append((anchor, text))
    return contents
