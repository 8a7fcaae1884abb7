"""What one run costs beside the notebook's own work: ours against papermill, both from cold.

The notebook only stores rows, so nearly all that is measured is overhead: starting, importing,
checking, hashing, storing. A single run is where our fork server can save least, since it serves
one notebook only.
"""

from __future__ import annotations

from pathlib import Path

import harness
import tiny_workspace

OURS = """
import sys
from pathlib import Path
from pet_lab.workbench import sweep
from pet_lab.workbench.workspace import Workspace
ws = Workspace(Path(sys.argv[1]))
(record,) = sweep.execute(ws, sweep.plan(ws, "tiny"), jobs=1)
assert record.ok, record.problem
"""
PAPERMILL = """
import sys
from pathlib import Path
import papermill
root = Path(sys.argv[1])
out = root / "run"
out.mkdir()
papermill.execute_notebook(
    root / "notebooks/group/tiny.ipynb", out / "notebook.ipynb",
    {"level": 1.0, "out": str(out)}, progress_bar=False,
)
assert (out / "rows.parquet").exists()
"""


def prepared(code: str, root: Path) -> list[str]:
    """Command on a new workspace in `root`."""
    tiny_workspace.make(root, tiny_workspace.ROWS)
    return harness.python(code, root)


if __name__ == "__main__":
    harness.compare(
        "one run from cold, with checks, hashes and atomic storing, costs no more than papermill's",
        peer="papermill.execute_notebook",
        goal=1.0,
        ours_command=lambda root: prepared(OURS, root),
        peer_command=lambda root: prepared(PAPERMILL, root),
    )
