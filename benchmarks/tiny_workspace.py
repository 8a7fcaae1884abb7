"""A workspace with one tiny notebook, for the benchmarks of the runner."""

from __future__ import annotations

import json
from pathlib import Path

PARAMETERS = 'level: float = 1.0\nseed: int = 1\nout: str = ""'
ROWS = """from pet_lab.workbench import results
rows = [{"level": level, "replicate": r, "metric": "m", "value": level + r} for r in range(100)]
results.write(rows, out, headline="It holds.")"""


def make(root: Path, *cells: str) -> Path:
    """Build it below `root`; returns the notebook's path."""
    notebook = root / "notebooks" / "group" / "tiny.ipynb"
    notebook.parent.mkdir(parents=True)
    (root / "pyproject.toml").write_text('[project]\nname = "pet-lab"\n')
    made = [cell(PARAMETERS, "parameters"), *map(cell, cells)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    content = {
        "cells": made,
        "metadata": {"kernelspec": kernel},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    notebook.write_text(json.dumps(content))
    return notebook


def cell(source: str, *tags: str) -> dict[str, object]:
    """One code cell."""
    return {
        "cell_type": "code",
        "id": f"c{abs(hash(source)):x}"[:16],
        "metadata": {"tags": list(tags)},
        "source": source,
        "outputs": [],
        "execution_count": None,
    }
