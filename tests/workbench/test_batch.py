"""A notebook with an Explore cell ends under the plain tools, with nothing of ours set."""

import os
import subprocess
import sys

import nbformat
import pytest
from tiny_notebooks import notebook_text

LIMIT_S = 90  # it used to wait forever
# As many factors as make papermill miss the last cell's reply when the panel is shown.
ROWS = """
import pandas as pd
from pet_lab.workbench import explore
rows = pd.DataFrame(
    {"x": x, "line": a, "other": b, "replicate": r, "metric": "m", "value": float(x + r)}
    for x in range(6) for a in "abcdefg" for b in "uvw" for r in range(5)
)
"""
EXPLORE = 'explore.rows(rows, x="x", metric="m", hue="line", out=out)'
COMMANDS = {
    "papermill": ["-m", "papermill", "in.ipynb", "out.ipynb", "-p", "steps", "3"],
    "nbclient": ["-m", "jupyter", "execute", "in.ipynb", "--output=out"],
    "nbconvert": ["-m", "nbconvert", "--to=notebook", "--execute", "in.ipynb", "--output=out"],
}


@pytest.mark.parametrize(
    "tool", ["papermill", *(pytest.param(t, marks=pytest.mark.slow) for t in list(COMMANDS)[1:])]
)
def test_an_explore_cell_does_not_wait_for_a_front_end(tmp_path, tool):
    (tmp_path / "in.ipynb").write_text(notebook_text(ROWS, EXPLORE))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PET_LAB_")}
    command = [sys.executable, *COMMANDS[tool]]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=LIMIT_S)
    executed = nbformat.read(tmp_path / "out.ipynb", 4)
    cell = executed.cells[-1]
    assert cell.source == EXPLORE
    assert cell.execution_count
    assert not cell.outputs, "a panel that nobody can use"
