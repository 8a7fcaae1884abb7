"""primitives <- studies <- notebooks, command line -> workbench; neutral modules serve them all."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pet_lab"
MAY_END = {"commands.py", "__main__.py"}  # the command line's own modules


def imported(path: Path, *, deep: bool = True) -> set[str]:
    """Absolute dotted names that a module imports, relative imports resolved.

    `deep` counts imports inside functions; those for type checkers alone never count as shallow.
    """
    package = ".".join(path.relative_to(ROOT).with_suffix("").parts[:-1])
    names = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if deep else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parts, base] if base else parts)
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


def modules() -> list[Path]:
    return [p for p in sorted(PACKAGE.rglob("*.py")) if PACKAGE / "cli" not in p.parents]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_what_it_may(path):
    ours = {name for name in imported(path) if name.split(".")[0] == "pet_lab"}
    workbench = {name for name in ours if name.startswith("pet_lab.workbench")}
    studies = {name for name in ours if name.startswith("pet_lab.studies")}
    if (PACKAGE / "workbench") in path.parents:
        shared = {"pet_lab", "pet_lab.__version__"}
        neutral = ("pet_lab.rows", "pet_lab.files", "pet_lab.checks")
        shared |= {n for n in ours if n.startswith(neutral)}
        assert ours - workbench <= shared
    else:
        assert not workbench, "a primitive or study knows nothing of notebooks, runs or reports"
        assert "pet_lab.cli" not in ours
        if (PACKAGE / "studies") not in path.parents:
            assert not studies, "a primitive knows no study"


def test_every_notebook_has_a_study_of_its_name():
    notebooks = {p.stem for p in (ROOT / "notebooks").rglob("*.ipynb")}
    studies = {p.stem for p in (PACKAGE / "studies").glob("*.py")} - {"__init__"}
    assert studies == notebooks


ENDS = {"sys.exit", "exit", "quit", "os._exit", "os.abort"}


def test_only_the_command_line_ends_the_process():
    for path in modules():
        calls = [
            node.lineno
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ENDS
        ]
        assert not calls or path.name in MAY_END, (path, calls)
