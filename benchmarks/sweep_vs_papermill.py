"""A sweep of 12 small runs: ours against papermill in a loop, both from cold; cost per run.

Papermill starts a kernel for each run, and each kernel imports all over again; our fork server
imports once. Where the work inside a notebook takes minutes, this difference does not matter.
"""

from __future__ import annotations

from pathlib import Path

import harness
import tiny_workspace

RUNS = 12
OURS = f"""
import sys
from pathlib import Path
from pet_lab.workbench import sweep
from pet_lab.workbench.workspace import Workspace
ws = Workspace(Path(sys.argv[1]))
specs = sweep.plan(ws, "tiny", grid={{"level": [float(i) for i in range({RUNS})]}})
records = sweep.execute(ws, specs)
assert len(records) == {RUNS} and all(r.ok for r in records), [r.problem for r in records]
"""
PAPERMILL = f"""
import sys
from pathlib import Path
import papermill
root = Path(sys.argv[1])
for i in range({RUNS}):
    out = root / f"run{{i}}"
    out.mkdir()
    papermill.execute_notebook(
        root / "notebooks/group/tiny.ipynb", out / "notebook.ipynb",
        {{"level": float(i), "out": str(out)}}, progress_bar=False,
    )
    assert (out / "rows.parquet").exists()
"""


def prepared(code: str, root: Path) -> list[str]:
    """Command on a new workspace in `root`."""
    tiny_workspace.make(root, tiny_workspace.ROWS)
    return harness.python(code, root)


if __name__ == "__main__":
    harness.compare(
        f"a sweep of {RUNS} small runs takes at most a quarter of the CPU of papermill in a loop",
        peer="papermill in a loop",
        goal=4.0,
        ours_command=lambda root: prepared(OURS, root),
        peer_command=lambda root: prepared(PAPERMILL, root),
        repetitions=3,
        per=RUNS,
    )
