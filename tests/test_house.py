"""The house rules that a machine can hold: names, docstrings, circles, dead code, dependencies."""

import ast
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from test_architecture import PACKAGE, ROOT, imported

MODULES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in MODULES}
EMPTY_NAMES = {"made", "found", "said", "told"}  # they tell a variable's history, not its content


def public(tree: ast.Module):
    """Public functions and classes of a module, and public methods of its public classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.name.startswith("_"):
                continue
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                for inner in node.body:
                    function = isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
                    if function and not inner.name.startswith("_"):
                        yield f"{node.name}.{inner.name}", inner


def test_public_names_have_docstrings():
    bare = [
        f"{path.relative_to(PACKAGE)}: {name}"
        for path, tree in TREES.items()
        for name, node in [("", tree), *public(tree)]
        if not ast.get_docstring(node)
    ]
    assert bare == []


def test_a_name_says_what_it_holds():
    history = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if (
            isinstance(node, ast.Name)
            and isinstance(node.ctx, ast.Store)
            and node.id in EMPTY_NAMES
        )
        or (isinstance(node, ast.arg) and node.arg in EMPTY_NAMES)
    ]
    assert history == []


def test_a_public_class_name_means_one_thing():
    """Only `Settings` is in every study: what that one runs."""
    where = defaultdict(list)
    for path, tree in TREES.items():
        for node in tree.body:
            one = isinstance(node, ast.ClassDef) and not node.name.startswith("_")
            if one and (node.name, path.parent.name) != ("Settings", "studies"):
                where[node.name].append(str(path.relative_to(PACKAGE)))
    assert {name: places for name, places in where.items() if len(places) > 1} == {}


def test_modules_do_not_import_each_other_in_circles():
    """By the imports at the top of modules; those inside functions cannot lock each other."""
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in MODULES}
    names = {n.removesuffix(".__init__"): p for n, p in names.items()}
    graph = {
        n: {m for m in imported(p, deep=False) if m in names and m != n} for n, p in names.items()
    }
    for name, path in names.items():  # a package's face gathers its modules: not a dependency
        if path.name == "__init__.py":
            graph[name] = set()
    resolved: set[str] = set()
    while ready := {n for n in graph if n not in resolved and graph[n] <= resolved}:
        resolved |= ready
    assert not set(graph) - resolved, "these import each other, or one that does"


def run(*command: str) -> str:
    """What a tool of the dev group prints; empty where it finds nothing."""
    program = Path(sys.executable).with_name(command[0])
    if not program.exists():
        pytest.skip(f"{command[0]} is not in this environment: it comes with the dev group")
    done = subprocess.run(
        [program, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr if done.returncode else ""


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["deptry", ".", "--no-ansi"], id="dependencies say the truth"),
        pytest.param(["codespell"], id="spelling"),
        pytest.param(["ruff", "check", "."], id="lint"),
        pytest.param(["ruff", "format", "--check", "."], id="format"),
    ],
)
def test_the_tools_find_nothing(command):
    assert run(*command) == ""


def test_nothing_is_unused(tmp_path):
    """What neither the package nor a notebook, benchmark or the allowed list calls is deleted."""
    for notebook in sorted((ROOT / "notebooks").rglob("*.ipynb")):
        cells = json.loads(notebook.read_text())["cells"]
        code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
        (tmp_path / f"{notebook.stem}.py").write_text("\n".join(code))
    where = ["pet_lab", "benchmarks", "data", "tests/vulture_allowed.py", str(tmp_path)]
    assert run("vulture", *where, "--min-confidence", "60") == ""
