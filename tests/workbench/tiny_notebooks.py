"""Tiny notebooks as text; a module of its own, since several folders have a conftest."""

import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nbformat

from pet_lab.workbench.workspace import Workspace

PARAMETERS = """
level: float = 1.0  # a factor
steps: int = 2  # how many rows
label: str = "a"  # any text
wide: bool = False
sizes: list[int] = [1, 2]
seed: int = 7  # root of every random stream
out: str = ""  # run folder; empty when exploring by hand
"""
IMPORTS = "from pet_lab.workbench import results"
ROWS = """
rows = [
    {"level": level, "replicate": r, "metric": "m", "value": level * 10 + r} for r in range(steps)
]
"""
WRITE = 'results.write(rows, out, headline="It holds.", privacy=["None: made-up numbers."])'
BODY = (IMPORTS, ROWS, WRITE)
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def notebook_text(
    *cells: str,
    parameters: str | None = PARAMETERS,
    title: str = "# A tiny notebook\n\n**Claim.** It holds.",
    kernel: Mapping[str, Any] | None = KERNEL,
) -> str:
    """A notebook as JSON text: a title, the parameters cell, then code cells."""
    made = [nbformat.v4.new_markdown_cell(title)]
    if parameters is not None:
        cell = nbformat.v4.new_code_cell(parameters.strip(), metadata={"tags": ["parameters"]})
        made.append(cell)
    made += [nbformat.v4.new_code_cell(textwrap.dedent(c).strip()) for c in cells]
    metadata = {"kernelspec": dict(kernel)} if kernel is not None else {}
    return nbformat.writes(nbformat.v4.new_notebook(cells=made, metadata=metadata))


def build_workspace(folder: Path) -> Callable[..., Workspace]:
    """The factory behind the fixture `make_workspace`, for a folder of one's own."""

    def make(
        notebooks: Mapping[str, str | tuple[str, ...]] | None = None,
        *,
        sweep: Mapping[str, str] | None = None,
        name: str = "workspace",
    ) -> Workspace:
        root = folder / name
        (root / "notebooks").mkdir(parents=True, exist_ok=True)
        (root / "pyproject.toml").write_text('[project]\nname = "pet-lab"\n')
        for title, content in (notebooks or {"group/tiny": BODY}).items():
            path = root / "notebooks" / f"{title}.ipynb"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content if isinstance(content, str) else notebook_text(*content))
        for group, text in (sweep or {}).items():
            (root / "notebooks" / group / "sweep.toml").write_text(textwrap.dedent(text))
        return Workspace(root)

    return make
