"""What stands behind each number in a text: `pet-lab trace`.

A numeral is a field of a claim, which carries the value it shows; or a field of a caption that the
run's parameters fill; or it is declared in `numbers.toml` beside the text, in the words around it:

    [pate]                                    # a notebook, with its study; or a document
    definition = ["within 10 % of"]           # of the method: formulas, limits, units
    reference = ["Carlini et al. 2022"]       # names: tables, paragraphs, years, standards
    publication = ["ask 50,000 records"]      # what a source says, in its own words
    measured = ["about 15 seconds"]           # on some machine, or by a test that says so
    printed."3.4" = ["AUC .8929 and .6786"]   # each must be a printed number of that table
    rows.epsilon = ["costs 2.58"]             # each must be a mean in reports/rows/

A declaration that no text holds any more is a fault too, so a number changed on either side shows.
"""

import ast
import html
import importlib.util
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pet_lab.checks import require
from pet_lab.rows import retold, symbols
from pet_lab.workbench import evidence, notebooks, published, results, runs, sweep
from pet_lab.workbench.errors import WorkbenchError
from pet_lab.workbench.runs import RunRecord
from pet_lab.workbench.workspace import Workspace

NUMERAL = re.compile(r"\.?\d(?:[\d.,_]*\d)?|[⁰¹²³⁴-⁹]+")
KINDS = ("definition", "reference", "publication", "measured")
DOCUMENTS = ("README.md", "docs/verdicts.md")
DECLARED = "numbers.toml"
FIELD = "{}"  # stands for a computed part of a text
CHECKS = {"require", "between", "positive", "whole", "one_of", "distinct", "query", "eval"}
_ORDINAL = re.compile(r"(^|\n|<summary>)(\d+)\. ")


class TraceError(WorkbenchError, ValueError):
    """A list of declared numbers that cannot be read; the message names file and place."""


@dataclass(frozen=True)
class Phrase:
    """Declared words with a numeral, and what they are: a kind, or a table or metric to look in."""

    words: str
    kind: str
    of: str = ""


# --- what is declared --------------------------------------------------------------------------


def declared(ws: Workspace, name: str) -> list[Phrase]:
    """The declared numbers of a notebook (full name) or document."""
    group, _, last = name.rpartition("/")
    file = (ws.root if name in DOCUMENTS else ws.notebooks / group) / DECLARED
    if name in DOCUMENTS:
        file, last = ws.root / "docs" / DECLARED, name
    try:
        section = tomllib.loads(file.read_text(encoding="utf-8")).get(last, {})
    except FileNotFoundError:
        section = {}
    except ValueError as error:
        raise TraceError(f"{file.name}: not valid TOML: {error}.") from None
    phrases = []
    for kind, listed in section.items():
        known = kind in (*KINDS, "printed", "rows")
        require(
            known,
            f"{file.name}, {last}: {kind!r} is none of {', '.join(KINDS)}, printed, rows.",
            TraceError,
        )
        by_source = listed.items() if isinstance(listed, Mapping) else [("", listed)]
        phrases += [Phrase(" ".join(w.split()), kind, of) for of, ws_ in by_source for w in ws_]
    for phrase in phrases:
        speaks = NUMERAL.search(phrase.words) and re.search(r"[^\W\d]", phrase.words)
        require(
            speaks,
            f"{file.name}, {last}: {phrase.words!r} needs a numeral and a word beside it.",
            TraceError,
        )
    return phrases


def _not_there(ws: Workspace, name: str, phrase: Phrase) -> list[str]:
    """Numerals of a phrase that its table of printed numbers, or summary of rows, does not hold."""
    if phrase.kind == "printed":
        known = {c.value for t in published.named(phrase.of) for c in t.cells}
        known |= {100 * value for value in known}  # as a percentage
    elif phrase.kind == "rows" and evidence.summary_path(ws, name).is_file():
        table = pd.read_csv(evidence.summary_path(ws, name))
        known = set(table.loc[table["metric"] == phrase.of, "mean"])
    else:
        return []
    numerals = [n.replace(",", "") for n in NUMERAL.findall(phrase.words)]
    return [
        n for n in numerals if float(n) not in {round(v, len(n.partition(".")[2])) for v in known}
    ]


# --- texts -------------------------------------------------------------------------------------


def texts(ws: Workspace, name: str) -> Iterator[tuple[str, str]]:
    """(place, text) of all prose of a notebook and its study, or of a document."""
    if name in DOCUMENTS:
        lines = (ws.root / name).read_text(encoding="utf-8").splitlines()
        yield name, "\n".join(line for line in lines if not line.startswith("    "))  # commands
        return
    for number, cell in enumerate(notebooks.read(notebooks.path(ws, name))["cells"], start=1):
        source, place = notebooks.source_of(cell), f"{name}, cell {number}"
        if cell["cell_type"] == "markdown":
            yield place, source
        elif cell["cell_type"] == "code" and "parameters" not in notebooks.tags(cell):
            yield from ((place, words) for _, words in _words(source))
    for study in _studies(ws, name):
        for line, words in _words(study.read_text(encoding="utf-8")):
            yield f"{study.name}, line {line}", words
        if (table := study.with_suffix(".toml")).is_file():
            for words in _leaves(tomllib.loads(table.read_text(encoding="utf-8"))):
                yield table.name, opened(words)


def _leaves(value: Any) -> Iterator[str]:
    """The texts of more than one word in a nested table."""
    if isinstance(value, str) and " " in value:
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(inner)


def _studies(ws: Workspace, name: str) -> Iterator[Path]:
    """Files of the modules that a notebook imports as `study`; nothing of them is run."""
    for source in notebooks.code(notebooks.read(notebooks.path(ws, name))):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.names[0].asname == "study":
                spec = importlib.util.find_spec(f"{node.module}.{node.names[0].name}")
                if spec and spec.origin:
                    yield Path(spec.origin)


def _words(source: str) -> Iterator[tuple[int, str]]:
    """(line, text) of the strings that readers see: neither docstrings nor refusals nor names."""
    skipped: set[ast.AST] = set()
    nodes = list(ast.walk(ast.parse(source)))  # outer ones first
    for node in nodes:
        if isinstance(node, ast.Raise) or (
            isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in CHECKS
        ):
            skipped |= set(ast.walk(node))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(node.value)
        elif isinstance(node, ast.FormattedValue) and node.format_spec:
            skipped |= set(ast.walk(node.format_spec))
        elif isinstance(node, ast.JoinedStr):
            skipped |= {part for part in node.values if isinstance(part, ast.Constant)}
    for node in nodes:
        if node not in skipped and isinstance(node, ast.JoinedStr):
            parts = [v.value if isinstance(v, ast.Constant) else FIELD for v in node.values]
            yield node.lineno, opened("".join(map(str, parts)))
        elif node not in skipped and isinstance(node, ast.Constant):
            yield from ((node.lineno, opened(words)) for words in _leaves(node.value))


def opened(template: str) -> str:
    """A template with a mark for each field.

    >>> opened("{p[0]:.1f} of 7")
    '{} of 7'
    """
    return re.sub(r"\{(?:[^{}\s]|\{\})(?:[^{}]|\{\})*\}", FIELD, template)


def _numbered(text: str) -> str:
    """The text without the numbers of its lists, as far as they count 1, 2, 3."""
    last = 0

    def count(match: re.Match[str]) -> str:
        nonlocal last
        if int(match[2]) not in (1, last + 1):
            return match[0]
        last = int(match[2])
        return match[1]

    return _ORDINAL.sub(count, text)


def unresolved(text: str, phrases: Iterable[Phrase]) -> list[str]:
    """Each numeral of the text that no declared words hold, with the words around it.

    >>> unresolved("Table 3.4 has 11 rows.", [Phrase("Table 3.4 has", "reference")])
    ['has 11 rows.']
    """
    text = " ".join(text.split())
    held = [m.span() for p in phrases for m in re.finditer(re.escape(p.words), text)]
    loose = []
    for match in NUMERAL.finditer(text):
        start, end = match.span()
        if not any(low <= start and end <= high for low, high in held):
            before, after = text[:start].rpartition(" "), text[end:].split(" ", 3)
            words = [before[0].rpartition(" ")[2], before[2] + match[0] + after[0], *after[1:3]]
            loose.append(" ".join(filter(None, words)))
    return loose


def check(ws: Workspace, name: str) -> list[str]:
    """What is wrong with the numbers in the texts of a notebook or document; [] if nothing."""
    phrases = declared(ws, name)
    prose = [(place, " ".join(_numbered(text).split())) for place, text in texts(ws, name)]
    if name in DOCUMENTS and "<!-- tally -->" in prose[0][1]:
        whole = prose[0][1]
        for mark, text in evidence.generated(ws).items():  # as the scorecard says, else it stays
            own = f"<!-- {mark} --> {' '.join(text.split())} <!-- /{mark} -->"
            whole = whole.replace(own, "")
        prose = [(name, whole)]
    faults = [f"{place}: {words}" for place, text in prose for words in unresolved(text, phrases)]
    together = "\n".join(text for _, text in prose)
    for phrase in phrases:
        if phrase.words not in together:
            faults.append(f"{name}: declared, but no longer there: {phrase.words}")
        for numeral in _not_there(ws, name, phrase):
            faults.append(f"{name}: {phrase.kind} {phrase.of} holds no {numeral}: {phrase.words}")
    return faults


# --- a run -------------------------------------------------------------------------------------


def check_run(ws: Workspace, record: RunRecord) -> list[str]:
    """What is wrong with the numbers that a run shows: headline, claims, captions."""
    name, phrases = record.notebook, declared(ws, record.notebook)
    summary = results.summary(record.folder)
    faults = _of_claims("headline", summary["headline"], summary.get("claims", []), phrases)
    known_values = _constants(ws, name) | dict(record.parameters)
    known_values["study.headline(rows).text"] = summary["headline"]  # a caption may open with it
    executed = notebooks.read(record.folder / runs.NOTEBOOK)["cells"]
    for number, cell in enumerate(executed, start=1):
        source = notebooks.source_of(cell)
        if cell["cell_type"] != "code" or "scorecard.show(" in source:
            continue  # its caption is the tally of the scorecard
        known = list(_captions(source))
        for output in cell.get("outputs", ()):
            claims = output.get("metadata", {}).get("claims", [])
            for text in shown_texts(output):
                place = f"{name} {record.run_id}, cell {number}"
                if claims:
                    faults += _of_claims(place, text, claims, phrases)
                elif not any(_made_from(text, t, known_values) for t in known):
                    faults += [f"{place}: {words}" for words in unresolved(text, phrases)]
    return faults


def shown_texts(output: Mapping[str, Any]) -> list[str]:
    """Captions, words of pictures and claims of one output of a cell."""
    data, metadata = output.get("data", {}), output.get("metadata", {})
    texts = [
        v[k] for v in metadata.values() if isinstance(v, dict) for k in ("caption", "alt") if k in v
    ]
    if not texts:
        texts = ["".join(data.get("text/markdown", ""))]
        markup = "".join(data.get("text/html", ""))
        texts += [html.unescape(t) for t in re.findall(r"<caption>(.*?)</caption>", markup)]
    return [t for t in texts if t]


def _of_claims(
    place: str, text: str, claims: Sequence[Mapping[str, Any]], phrases: Sequence[Phrase]
) -> list[str]:
    """The numbers of a text that are neither declared nor the values of its claims."""
    for claim in sorted(claims, key=lambda c: -len(c["text"])):
        text = text.replace(retold(claim["template"], claim["values"]), opened(claim["template"]))
    return [f"{place}: {words}" for words in unresolved(text, phrases)]


def _captions(source: str) -> Iterator[list[ast.expr]]:
    """The parts of each text of a cell that may be shown as a caption or as words of a picture."""
    for call in ast.walk(ast.parse(source)):
        for keyword in call.keywords if isinstance(call, ast.Call) else ():
            if keyword.arg in ("caption", "alt"):
                yield from _parts(keyword.value)


def _parts(node: ast.expr) -> list[list[ast.expr]]:
    """Each way in which a text may come out: of its sums and conditions, the strings in order."""
    match node:
        case ast.JoinedStr(values):
            return [values]
        case ast.BinOp(left, ast.Add(), right):
            return [[*a, *b] for a in _parts(left) for b in _parts(right)]
        case ast.IfExp(_, body, orelse):
            return _parts(body) + _parts(orelse)
    return [[node]]


def _made_from(text: str, parts: Sequence[ast.expr], parameters: Mapping[str, Any]) -> bool:
    """Whether a shown text is that of the cell: its fields hold parameters, or no numeral."""
    whole = ""
    for part in parts:
        if isinstance(part, ast.Constant):
            whole += str(part.value)
            continue
        value, form = part, ""
        if isinstance(part, ast.FormattedValue):
            value = part.value
            form = ast.unparse(part.format_spec)[2:-1] if part.format_spec else ""
        try:
            whole += format(_value(value, parameters), form)
        except (KeyError, ValueError):
            whole += "\0"
    pattern = re.escape(symbols(" ".join(whole.split()))).replace("\0", r"\D*?")
    return bool(re.fullmatch(pattern, text))


def _constants(ws: Workspace, name: str) -> dict[str, Any]:
    """Literals that a notebook's study assigns at its top, by the name a notebook gives them."""
    values = {}
    for study in _studies(ws, name):
        for node in ast.parse(study.read_text(encoding="utf-8")).body:
            match node:
                case ast.Assign(targets=[ast.Tuple(names)], value=ast.Tuple(literals)):
                    pairs = list(zip(names, literals, strict=True))
                case ast.Assign(targets=[target], value=value):
                    pairs = [(target, value)]
                case _:
                    continue
            for target, literal in pairs:
                with suppress(ValueError):
                    values[f"study.{ast.unparse(target)}"] = ast.literal_eval(literal)
    return values


def _value(node: ast.expr, parameters: Mapping[str, Any]) -> Any:
    """What an expression of parameters and constants is; KeyError for any other."""
    match node:
        case ast.Name() | ast.Attribute():
            return parameters[ast.unparse(node)]
        case ast.Call(func=ast.Name(id="min" | "max" | "len" as name), args=[inner]):
            call: Any = {"min": min, "max": max, "len": len}[name]
            return call(_value(inner, parameters))
    raise KeyError(ast.unparse(node))


# --- where a claim's numbers come from ---------------------------------------------------------


def sources(ws: Workspace, record: RunRecord, claims: Iterable[Mapping[str, Any]]) -> list[str]:
    """For each number of the claims: what it is, looked up by its exact value.

    A parameter, a printed number, the mean of rows at one setting, or computed by the study.
    """
    means = evidence.condensed(pd.read_parquet(record.folder / runs.ROWS))
    lines: dict[str, None] = {}
    for claim in claims:
        for name, value in claim["values"].items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                spec = re.search(rf"\{{{re.escape(name)}(?::([^{{}}]*))?\}}", claim["template"])
                shown = format(value, (spec and spec[1]) or "")
                lines[f"{shown}: {_origin(name, value, record, means)}"] = None
    return list(lines)


def _origin(name: str, value: float, record: RunRecord, means: pd.DataFrame) -> str:
    if record.parameters.get(name) == value:
        return f"the parameter {name}"
    same = means[(means["mean"] - value).abs() <= 1e-12 * abs(value)]
    if float(value).is_integer():  # other rows hold a 6 by accident: the names must agree too
        words = set(name.split("_"))
        same = same[[bool(words & set(re.split(r"[._]", m))) for m in same["metric"]]]
    if len(same) != 1:
        return f"{name.replace('_', ' ')}, computed from the rows by the study"
    row = same.iloc[0].dropna()
    at = ", ".join(
        f"{k} = {v:g}" if isinstance(v, float) else f"{k} = {v}"
        for k, v in row.items()
        if k not in ("metric", "mean", "se", "n") and v != ""
    )
    return f"mean of {row['metric']}{' where ' + at if at else ''} ({row['n']:g} rows)"


def fresh_runs(ws: Workspace, name: str, profile: str | None = None) -> list[RunRecord]:
    """Runs of a notebook that are done and up to date, all or those of a profile."""
    if profile:
        return sweep.profile_runs(ws, name, profile)
    return sweep.finished(ws, runs.records(ws, name))
