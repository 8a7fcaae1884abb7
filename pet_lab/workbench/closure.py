"""What a notebook's rows depend on inside pet_lab, found without importing anything.

A run is stale when code that it uses changed. Taking the whole package for that would make a
half-hour run stale when only the report's colours changed, so the imports are followed by `ast`,
and a module is hashed by its syntax tree: comments, docstrings and layout do not count. Data
files beside it count with it: those of its name (`x.toml` of `x.py`) and those that it names.
"""

import ast
import contextlib
import functools
import hashlib
import threading
from collections.abc import Iterable
from pathlib import Path

PACKAGE = "pet_lab"
ROOT = Path(__file__).resolve().parents[1]
_parsing = threading.Lock()

# These carry parameters and files to and from a run; they never touch a number in it.
MACHINERY = frozenset(
    f"{PACKAGE}.workbench.{name}"
    for name in (
        *("closure", "dask_executor", "errors", "execute", "kernels"),
        *("locks", "notebooks", "runs", "sweep", "workspace"),
    )
)


def modules(code: Iterable[str], root: Path = ROOT) -> dict[str, str]:
    """Modules of pet_lab that code cells reach by imports, each with 16 digits of a SHA-256.

    Imports inside functions count, IPython magic does not. Code that is not Python counts as using
    the whole package, whose folder is `root`.
    """
    try:
        start = {name for cell in code for name in _imported(_parse_cell(cell), "", root)}
    except SyntaxError:
        start = _inside(PACKAGE, root)
    todo, seen = list(start), set[str]()
    while todo:
        name = todo.pop()
        if name in seen or name in MACHINERY:
            continue
        seen.add(name)
        todo += _module(_stats(_file(name, root)), name, root)[1]
    return {name: _module(_stats(_file(name, root)), name, root)[0] for name in sorted(seen)}


def third_party(code: Iterable[str], root: Path = ROOT) -> set[str]:
    """Top-level packages that `code` and the modules behind it import when they are imported."""
    cells = list(code)
    packages: set[str] = set()
    for cell in cells:
        with contextlib.suppress(SyntaxError):
            packages |= _outside(_parse_cell(cell))
    for name in modules(cells, root):
        packages |= _module(_stats(_file(name, root)), name, root)[2]
    return packages


def _parse_cell(cell: str) -> ast.Module:
    lines = ("" if line.lstrip().startswith(("%", "!")) else line for line in cell.splitlines())
    return _parse("\n".join(lines))


def _parse(text: str | bytes) -> ast.Module:
    with _parsing:  # two threads at once can end in "AST constructor recursion depth mismatch"
        return ast.parse(text)


def _file(name: str, root: Path) -> Path:
    base = root.joinpath(*name.split(".")[1:])
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def _inside(package: str, root: Path) -> set[str]:
    folder = root.joinpath(*package.split(".")[1:])
    names = set()
    for path in folder.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        names.add(".".join((PACKAGE, *(parts[:-1] if parts[-1] == "__init__" else parts))))
    return names


def _stats(path: Path) -> tuple[tuple[Path, int, int], ...]:
    """A module's file and the data files beside it, with times and sizes: a safe cache's key."""
    folders = [path.parent, *(p for p in path.parent.iterdir() if p.is_dir())]
    plain = [f for f in folders if f == path.parent or not (f / "__init__.py").exists()]
    data = sorted(p for f in plain for p in f.glob("*.*") if p.is_file())
    kept = [path, *(p for p in data if p.suffix not in (".py", ".pyc"))]
    return tuple((p, (status := p.stat()).st_mtime_ns, status.st_size) for p in kept)


@functools.lru_cache(maxsize=512)
def _module(
    stats: tuple[tuple[Path, int, int], ...], name: str, root: Path
) -> tuple[str, frozenset[str], frozenset[str]]:
    """Hash, pet_lab imports and other imports of one file."""
    path, *beside = [path for path, *_ in stats]
    source = path.read_bytes()
    tree = _parse(source)
    outside = frozenset(_outside(tree))
    is_package = path.name == "__init__.py"
    imports = _imported(tree, name if is_package else name.rpartition(".")[0], root)
    lazy = any(isinstance(n, ast.FunctionDef) and n.name == "__getattr__" for n in tree.body)
    if is_package and lazy and name not in (PACKAGE, f"{PACKAGE}.workbench"):
        imports |= _inside(name, root)  # names resolved at run time cannot be followed
    digest = hashlib.sha256(ast.dump(_strip(tree)).encode())
    for file in beside:
        if file.stem == path.stem or file.name.encode() in source:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16], frozenset(imports - {name}), outside


def _imported(tree: ast.AST, package: str, root: Path) -> set[str]:
    reached: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                parts = parts[: len(parts) - node.level + 1]
                base = ".".join([*parts, base] if base else parts)
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            # Importing a.b.c runs a/__init__ and a.b/__init__ too.
            pieces = name.split(".")
            prefixes = (".".join(pieces[:i]) for i in range(1, len(pieces) + 1))
            if pieces[0] == PACKAGE:
                reached |= {prefix for prefix in prefixes if _file(prefix, root).is_file()}
    return reached


def _outside(tree: ast.Module) -> set[str]:
    packages = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            packages.add(node.module.split(".")[0])
    return packages - {PACKAGE}


def _strip(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        with_words = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, with_words) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return tree
