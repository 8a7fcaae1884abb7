"""Finds notebooks and reads what can be known without running them: title, claim, parameters.

Notebooks are read as JSON and their parameters by `ast`: importing nbformat or papermill for that
would cost more than all the rest, and papermill's own inspection takes defaults as text.
"""

import ast
import difflib
import io
import json
import math
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pet_lab import files
from pet_lab.workbench.errors import NotebookError, ParameterError
from pet_lab.workbench.workspace import Workspace

SCALARS: dict[str, type] = {"int": int, "float": float, "bool": bool, "str": str}
TYPES = (*SCALARS, *(f"list[{name}]" for name in SCALARS))
LONGEST_INT = 1000  # bits
RUNNER_SETS = "out"  # the one parameter that belongs to the runner, not to the user


@dataclass(frozen=True)
class Parameter:
    """One line of a notebook's parameters cell.

    name     as assigned
    type     one of int, float, bool, str or list[...] of those
    default  a value of that type
    help     the trailing comment
    """

    name: str
    type: str
    default: Any
    help: str = ""


# --- finding -----------------------------------------------------------------------------------


def find(ws: Workspace) -> list[str]:
    """Names of all notebooks, such as "private_ml/dp_training_vs_dp_data", sorted."""
    paths = (p.relative_to(ws.notebooks) for p in ws.notebooks.rglob("*.ipynb") if not p.is_dir())
    plain = (p for p in paths if not any(part.startswith(".") for part in p.parts))
    return sorted(p.with_suffix("").as_posix() for p in plain)


def resolve(ws: Workspace, name: str) -> str:
    """Full name of the notebook that `name` means: the full name, its unique last part, or a path.

    A NotebookError lists near matches if none or several match.
    """
    known = find(ws)
    asked = name.strip().removesuffix(".ipynb").strip("/").removeprefix("notebooks/")
    if asked in known:
        return asked
    ends = [k for k in known if k.endswith("/" + asked)]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise NotebookError(f"{name!r} means several notebooks: {', '.join(ends)}; give one.")
    by_last = {k.rsplit("/", 1)[-1]: k for k in known}
    near = [by_last.get(n, n) for n in difflib.get_close_matches(asked, [*known, *by_last], n=3)]
    near += [k for k in known if asked and asked in k]
    there = hint(asked, known, near) if known else f"there are none in {ws.notebooks}."
    folder = (ws.notebooks / f"{asked}.ipynb").is_dir()
    what = f"{asked}.ipynb is a folder" if folder else f"No notebook is called {name!r}"
    raise NotebookError(f"{what}; {there}")


def hint(word: str, known: Sequence[str], near: Sequence[str] | None = None) -> str:
    """What to write instead of an unknown word: the nearest ones (at most three), or all."""
    near = difflib.get_close_matches(word, known, n=1) if near is None else near
    if near:
        return f"did you mean {' or '.join(dict.fromkeys(near[:3]))}?"
    return f"there are: {', '.join(known) or 'none'}."


def path(ws: Workspace, name: str) -> Path:
    """File of the notebook `name` (a full name, or what `resolve` accepts)."""
    direct = ws.notebooks / f"{name}.ipynb"
    return direct if direct.is_file() else ws.notebooks / f"{resolve(ws, name)}.ipynb"


# --- reading -----------------------------------------------------------------------------------


def read(source: Path) -> dict[str, Any]:
    """The notebook as nested JSON; a NotebookError if missing, not JSON, or older than format 4."""
    try:
        notebook = json.loads(source.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotebookError(
            f"There is no notebook {source.name} in {source.parent}; see pet-lab list."
        ) from None
    except (ValueError, RecursionError) as error:  # also bytes that are no UTF-8
        raise NotebookError(
            f"{source.name} is no notebook: it is not valid JSON ({error}); restore it from git."
        ) from None
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        raise NotebookError(
            f"{source.name} has no list of cells: expected notebook format 4; "
            "open it in JupyterLab and save it again."
        )
    return notebook


def source_of(cell: Mapping[str, Any]) -> str:
    """A cell's source as one string (the format allows a list of lines)."""
    text = cell.get("source", "")
    return text if isinstance(text, str) else "".join(text)


def tags(cell: Mapping[str, Any]) -> Sequence[str]:
    """A cell's tags."""
    return cell.get("metadata", {}).get("tags", ())


def code(notebook: Mapping[str, Any]) -> list[str]:
    """Sources of the code cells, in order."""
    return [source_of(c) for c in notebook["cells"] if c.get("cell_type") == "code"]


def code_hash(notebook: Mapping[str, Any]) -> str:
    """SHA-256 of what decides the rows: the code cells alone."""
    return files.sha256(files.canonical_json(code(notebook)).encode())


def prose_hash(notebook: Mapping[str, Any]) -> str:
    """SHA-256 of the markdown cells and of their places among the code cells."""
    cells = [[i, source_of(c)] for i, c in enumerate(notebook["cells"]) if c["cell_type"] != "code"]
    return files.sha256(files.canonical_json(cells).encode())


def _markdown(source: Path) -> list[str]:
    return [source_of(c) for c in read(source)["cells"] if c.get("cell_type") == "markdown"]


def title(source: Path) -> str:
    """Text of the first heading, or the file's name where there is none."""
    heading = re.search(r"^#+\s+(.+?)\s*#*\s*$", "\n".join(_markdown(source)), re.MULTILINE)
    return heading.group(1) if heading else source.stem.replace("_", " ")


def claim(source: Path) -> str:
    """The paragraph marked "Claim", else the first paragraph below the heading, else ""."""
    text = "\n\n".join(_markdown(source))
    marked = re.search(r"\*\*Claim\.?\*\*[.:]?\s*(.+?)(?=\n\s*\n|\n\s*\*\*|\Z)", text, re.DOTALL)
    blocks = re.split(r"\n\s*\n", re.sub(r"^#.*$", "\n", text, flags=re.MULTILINE))
    paragraph = marked.group(1) if marked else next(filter(str.strip, blocks), "")
    return " ".join(paragraph.split())


def check_form(source: Path) -> dict[str, Parameter]:
    """Parameters of a notebook that can be run in batch; a NotebookError for any other.

    The kernel must be Python, the parameters cell readable, with a text `out`.
    """
    notebook = read(source)
    spec = notebook.get("metadata", {}).get("kernelspec")
    if not spec or not spec.get("name"):
        raise NotebookError(
            f"{source.name} names no kernel: its metadata needs a kernelspec called python3; "
            "open it in JupyterLab, choose the Python 3 kernel and save it."
        )
    if not (spec["name"].startswith("python") or spec.get("language") == "python"):
        raise NotebookError(
            f"{source.name} asks for the kernel {spec['name']!r}, but only python3 is supported; "
            "choose that one in JupyterLab."
        )
    declared = parameters(source)
    if RUNNER_SETS not in declared:
        raise NotebookError(
            f'{source.name} has no parameter {RUNNER_SETS}: add `out: str = ""` to its parameters '
            "cell and call `results.write(rows, out, ...)`."
        )
    if declared[RUNNER_SETS].type != "str":
        raise NotebookError(
            f"{source.name}: the parameter out is of type {declared[RUNNER_SETS].type}, "
            'but it is a folder; write `out: str = ""`.'
        )
    return declared


# --- parameters --------------------------------------------------------------------------------


def parameters(source: Path) -> dict[str, Parameter]:
    """Parameters of a notebook, in the order of its parameters cell (`out` included).

    A NotebookError if no cell is tagged `parameters`, or a line of it is not a (typed) literal.
    """
    cells = read(source)["cells"]
    tagged = [
        source_of(c) for c in cells if c.get("cell_type") == "code" and "parameters" in tags(c)
    ]
    if not tagged:
        raise NotebookError(
            f"{source.name} has no parameters cell: tag one code cell with `parameters` "
            "(JupyterLab: property inspector, cell tags)."
        )
    if len(tagged) > 1:
        raise NotebookError(f"{source.name} has {len(tagged)} cells tagged `parameters`; keep one.")
    return parse_cell(tagged[0], source.name)


def parse_cell(text: str, where: str = "the notebook") -> dict[str, Parameter]:
    """Parameters of the source of a parameters cell; `where` names it in errors."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise NotebookError(
            f"The parameters cell of {where} is not Python (line {error.lineno}: {error.msg})."
        ) from None
    except (ValueError, RecursionError, MemoryError):  # a zero byte; brackets in brackets
        raise NotebookError(
            f"The parameters cell of {where} is no Python that can be read; mend its syntax."
        ) from None
    numbers = (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant))
    if any(isinstance(n, int) and n.bit_length() > LONGEST_INT for n in numbers):
        raise NotebookError(
            f"The parameters cell of {where} holds an integer of over 300 digits; shorten it."
        )
    helps = {
        token.start[0]: token.string.lstrip("#").strip()
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT and token.line[: token.start[1]].strip()
    }
    declared: dict[str, Parameter] = {}
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        name, annotation, value = _assignment(node, where)
        try:
            default = ast.literal_eval(value)
        except (ValueError, TypeError):  # TypeError: {[]: 1}
            raise NotebookError(
                f"{where}: the default of {name} is {ast.unparse(value)}, but a parameter is a "
                "literal: compute in a later cell, since overrides are injected after this one."
            ) from None
        kind = annotation or _type_of(default)
        if kind not in TYPES:
            raise NotebookError(
                f"{where}: {name} is declared as {kind or type(default).__name__}, but a parameter "
                f"is one of {', '.join(TYPES)}."
            )
        if name in declared:
            raise NotebookError(f"{where}: the parameter {name} is assigned twice; keep one line.")
        try:
            default = convert(kind, default)
        except ValueError as error:
            raise NotebookError(f"{where}: the default of {name} {error}.") from None
        lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        help_text = next((helps[i] for i in lines if i in helps), "")
        declared[name] = Parameter(name, kind, default, help_text)
    if not declared:
        raise NotebookError(
            f"The parameters cell of {where} is empty: it needs at least "
            '`seed: int = 1` and `out: str = ""`.'
        )
    return declared


def _assignment(node: ast.stmt, where: str) -> tuple[str, str | None, ast.expr]:
    match node:
        case ast.AnnAssign(target=ast.Name(id=name), annotation=kind, value=ast.expr() as value):
            return name, ast.unparse(kind).replace(" ", ""), value
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return name, None, value
    raise NotebookError(
        f"{where}: the parameters cell holds `{ast.unparse(node).splitlines()[0]}`; expected only "
        "lines like `error_rate: float = 0.2  # share of records with a typo`."
    )


def _type_of(default: Any) -> str | None:
    if isinstance(default, list):
        inner = {_type_of(item) for item in default}
        if inner == {"int", "float"}:
            inner = {"float"}
        kind = inner.pop() if len(inner) == 1 else None
        return f"list[{kind}]" if kind in SCALARS else None
    return next((name for name, kind in SCALARS.items() if type(default) is kind), None)


def convert(kind: str, value: Any) -> Any:
    """`value` as the parameter type `kind`: an int is accepted for a float, nothing else is bent.

    A ValueError holds the end of a sentence: "is 'x', but a float is expected".
    """
    if hasattr(value, "item") and not isinstance(value, (list, tuple, str)):
        value = value.item()  # a numpy scalar, as in a grid from np.linspace
    if kind.startswith("list["):
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"is {value!r}, but a {kind} is expected")
        return [convert(kind[5:-1], item) for item in value]
    expected: Any = SCALARS[kind]
    if expected is float and type(value) is int:
        try:
            value = float(value)
        except OverflowError:
            raise ValueError(f"is {value}, which is too large for a float") from None
    if type(value) is not expected:
        raise ValueError(f"is {value!r}, but {_article(kind)} is expected")
    if expected is float:
        if not math.isfinite(value):
            raise ValueError(f"is {value}, but a finite number is expected")
        return value + 0.0  # -0.0 and 0.0 are one value, hence one run
    return value


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def check(params: Mapping[str, Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    """Full typed set of parameters: defaults overridden by `given`; `out` is left to the runner.

    A ParameterError if a name is unknown, or a value has the wrong Python type (text: `parse`).
    """
    full = {name: p.default for name, p in params.items() if name != RUNNER_SETS}
    return full | {name: _fit(_known(params, name), convert, v) for name, v in given.items()}


def _fit(parameter: Parameter, reader: Callable[[str, Any], Any], value: Any) -> Any:
    """What `reader` makes of the value for the parameter's type; its ValueError as a sentence."""
    try:
        return reader(parameter.type, value)
    except ValueError as error:
        raise ParameterError(
            f"Parameter {parameter.name} {error}; its default is {parameter.default!r}."
        ) from None


def _known(params: Mapping[str, Parameter], name: str) -> Parameter:
    if name == RUNNER_SETS:
        raise ParameterError("Parameter out is set by the runner; leave it out.")
    if name in params:
        return params[name]
    others = [p for p in params if p != RUNNER_SETS]
    raise ParameterError(f"Unknown parameter {name!r}; {hint(name, others)}")


def parse(params: Mapping[str, Parameter], items: str | Iterable[str]) -> dict[str, Any]:
    """Typed values of command-line texts `name=value`.

    Numbers and true/false as usual; a list as JSON or with commas; a str unchanged. A
    ParameterError if there is no "=", a name is unknown or given twice, or a value does not fit.
    """
    return {p.name: _fit(p, _value, text) for p, text in _pairs(params, items, "epsilon=1")}


def parse_grid(params: Mapping[str, Parameter], items: str | Iterable[str]) -> dict[str, list[Any]]:
    """Typed grid of command-line texts `name=v1,v2`; values of list parameters are split by ";"."""
    return {
        p.name: [_fit(p, _value, t) for t in text.split(";" if p.type.startswith("list[") else ",")]
        for p, text in _pairs(params, items, "epsilon=1,10")
    }


def _pairs(
    params: Mapping[str, Parameter], items: str | Iterable[str], example: str
) -> Iterator[tuple[Parameter, str]]:
    """Parameter and text of each `name=text`; each name once."""
    given = set()
    for item in [items] if isinstance(items, str) else items:
        name, equals, text = item.partition("=")
        if not equals or not name.strip():
            raise ParameterError(f"Expected name=value, such as {example}, but got {item!r}.")
        parameter = _known(params, name.strip())
        if parameter.name in given:
            raise ParameterError(f"Parameter {parameter.name} is given twice; give it once.")
        given.add(parameter.name)
        yield parameter, text


def _value(kind: str, text: str) -> Any:
    if kind == "str":
        if not text.isprintable() and any("\ud800" <= c <= "\udfff" for c in text):
            raise ValueError(f"is {text!r}, but text in UTF-8 is expected")
        return text
    stripped = text.strip()
    if kind.startswith("list["):
        inner = kind[5:-1]
        if stripped.startswith("["):
            try:
                return convert(kind, json.loads(stripped))
            except (json.JSONDecodeError, RecursionError):
                raise ValueError(
                    f"is {text!r}, but a {kind} is expected, as JSON or 1,2,3"
                ) from None
        parts = stripped.split(",") if stripped else []
        return [_value(inner, part.strip() if inner == "str" else part) for part in parts]
    if kind == "bool":
        if stripped.lower() not in ("true", "false"):
            raise ValueError(f"is {text!r}, but true or false is expected")
        return stripped.lower() == "true"
    try:
        number = int(stripped) if kind == "int" else float(stripped)
    except ValueError:
        raise ValueError(f"is {text!r}, but {_article(kind)} is expected") from None
    return convert(kind, number)
