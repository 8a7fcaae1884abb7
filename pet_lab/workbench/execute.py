"""Executes one notebook in a folder: the innermost step of every run, here or on a cluster.

The execution is papermill's own: its parameters, its client, its bookkeeping. `papermill`'s one
big function is left aside, because it saves the notebook twice per cell and loses it when the
kernel dies.
"""

import contextlib
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from pet_lab import files
from pet_lab.workbench.kernels import Kernels, end, kill_tree
from pet_lab.workbench.progress import Tell
from pet_lab.workbench.runs import FAILED_NOTEBOOK, NOTEBOOK, now

KERNEL_LOG = "kernel.log"
START_TIMEOUT_S = 180  # a loaded machine can take a minute to start a kernel
POLL_S = 0.25
MAY_FAIL = "raises-exception"  # nbclient goes on after an error in a cell of this tag
OPTIONS = (
    # Runs in parallel must not share IPython's SQLite history: it locks.
    "--HistoryManager.enabled=False",
    "--InteractiveShell.history_length=0",
)


def run(
    job: Mapping[str, Any],
    folder: Path,
    cancelled: Callable[[], bool] = lambda: False,
    tell: Tell = lambda *_: None,
    *,
    kernels: Kernels,
) -> dict[str, Any]:
    """Execute the notebook of `job` on a kernel of its own.

    `job` holds source (the notebook as JSON), parameters, out and cwd (the run's folder as the
    notebook sees it, and the kernel's working folder), env, timeout (seconds or None). `folder`
    gets notebook.ipynb, or failed.ipynb with the cells up to the error. `cancelled` is asked every
    quarter of a second; when it says yes, the run is ended. `tell` is called as a code cell begins.

    Returns started, ended, wall_s, cpu_s, error (None, or name, value, cell) and undrawn: the same
    of each cell after `results.write` that failed, which costs the run only what the cell shows.
    Whatever goes wrong is this run's error; nothing is raised but what the file system refuses.
    """
    import nbformat
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    started, clock, cpu = now(), time.perf_counter(), time.thread_time()
    parameters = {**job["parameters"], "out": job["out"]}
    source = load_notebook_node(nbformat.from_dict(job["source"]))
    notebook = parameterize_notebook(source, parameters, kernel_name="python3", language="python")
    # papermill's command line adds these; they would hold paths of this machine.
    notebook.metadata.papermill.update(input_path=None, output_path=None)
    # Not in the run's folder: the path of a local socket is limited to about 100 characters.
    with tempfile.TemporaryDirectory(prefix="pet_lab-run-", ignore_cleanup_errors=True) as sockets:
        execution = _Execution(job, notebook, folder / KERNEL_LOG, kernels, tell)
        with _pictures_may_fail(notebook) as undrawn:
            error = execution.run(Path(sockets), cancelled)
    name = NOTEBOOK if error is None else FAILED_NOTEBOOK
    files.write_atomic(folder / name, nbformat.writes(notebook, version=4).encode())
    return {
        "started": started,
        "ended": now(),
        "wall_s": round(time.perf_counter() - clock, 3),
        "cpu_s": round(time.thread_time() - cpu + execution.kernel_cpu_s, 3),
        "error": error,
        "undrawn": undrawn,
    }


@contextlib.contextmanager
def _pictures_may_fail(notebook: Any) -> Iterator[list[dict[str, Any]]]:
    """Within the block a cell that only shows stored rows may fail; then a note replaces its error.

    Yields a list that is filled at the end: cell, name and value of each error.
    """
    from nbformat.v4 import new_output

    undrawn: list[dict[str, Any]] = []
    cells = [(i, c) for i, c in enumerate(notebook.cells) if c.cell_type == "code"]
    stored = [i for i, c in cells if "results.write(" in c.source] or [len(notebook.cells)]
    shows = [(i, c) for i, c in cells if i > stored[-1] and "results." not in c.source]
    for _, cell in shows:
        cell.metadata["tags"] = [*cell.metadata.get("tags", ()), MAY_FAIL]
    yield undrawn
    for index, cell in shows:
        cell.metadata["tags"].remove(MAY_FAIL)
        for at, output in enumerate(cell.outputs):
            if output.output_type == "error":
                error = {"name": output.ename, "value": _line(output.evalue), "cell": index}
                text = f"This figure could not be drawn: {error['name']}: {error['value']}"
                undrawn.append(error)
                cell.outputs[at] = new_output("stream", name="stdout", text=text)


class _Execution:
    """One execution: the notebook as far as it got, its kernel, its time limit."""

    def __init__(
        self, job: Mapping[str, Any], notebook: Any, log: Path, kernels: Kernels, tell: Tell
    ) -> None:
        self.job, self.notebook, self.log, self.kernels = job, notebook, log, kernels
        self.tell, self.began = tell, time.perf_counter()
        self.kernel_cpu_s = 0.0
        self.timed_out = False

    def run(self, sockets: Path, cancelled: Callable[[], bool]) -> dict[str, Any] | None:
        """Run all cells; returns the error or None."""
        from nbclient.exceptions import DeadKernelError
        from papermill.clientwrap import PapermillNotebookClient
        from papermill.engines import NotebookExecutionManager
        from papermill.log import logger

        logger.disabled = True  # the run's record says what happened
        keeper = NotebookExecutionManager(self.notebook, progress_bar=False)
        places, begin = _places(self.notebook), keeper.cell_start

        def cell_start(cell: Any, cell_index: int) -> None:
            begin(cell, cell_index)
            if cell_index in places:
                self.tell(*places[cell_index], time.perf_counter() - self.began)

        keeper.cell_start = cell_start
        keeper.notebook_start()
        manager = self.kernels.manager(sockets)
        client = PapermillNotebookClient(
            keeper,
            km=manager,
            kernel_name="python3",
            startup_timeout=START_TIMEOUT_S,
            log=logger,
            extra_arguments=list(OPTIONS),
        )
        try:
            with open(self.log, "wb") as log, self._watched(manager, cancelled):
                try:
                    client.execute(
                        cwd=self.job["cwd"], env=self._environment(), stdout=log, stderr=log
                    )
                finally:
                    self._note_cpu(manager)
                    if client.kc is not None:
                        client.kc.stop_channels()
                    end(manager)
        except (DeadKernelError, RuntimeError, psutil.Error):
            return self._dead()
        except Exception as problem:  # the boundary: whatever papermill raises is this run's
            return {"name": type(problem).__name__, "value": _line(str(problem)), "cell": None}
        finally:
            keeper.notebook_complete()
        return self._dead() if self.timed_out else self._cell_error()

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            **self.kernels.environment,
            "PET_LAB_BATCH": "1",
            # Sets of strings iterate in the same order in every run.
            "PYTHONHASHSEED": "0",
            # TensorFlow's start-up chatter would end up in the stored notebook; errors still do.
            "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2"),
            **self.job.get("env", {}),
        }

    @contextlib.contextmanager
    def _watched(self, manager: Any, cancelled: Callable[[], bool]) -> Iterator[None]:
        """Within the block: kill the kernel at the time limit or when the run is cancelled."""
        ended = threading.Event()

        def watch() -> None:
            deadline = None
            while not ended.wait(POLL_S):
                if not manager.has_kernel:
                    continue
                deadline = deadline or time.monotonic() + (self.job["timeout"] or float("inf"))
                self.timed_out |= time.monotonic() > deadline
                if self.timed_out or cancelled():
                    self._note_cpu(manager)
                    kill_tree(manager.provisioner.pid)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _note_cpu(self, manager: Any) -> None:
        if manager.has_kernel:
            with contextlib.suppress(psutil.Error):
                times = psutil.Process(manager.provisioner.pid).cpu_times()[:4]  # children included
                self.kernel_cpu_s = max(self.kernel_cpu_s, sum(times))

    def _dead(self) -> dict[str, Any]:
        """The error of a run whose kernel was killed, by us or by something else."""
        begun = [
            index
            for index, cell in enumerate(self.notebook.cells)
            if cell.cell_type == "code" and cell.metadata.papermill.get("start_time")
        ]
        cell = begun[-1] if begun else None
        if self.timed_out:
            limit = float(self.job["timeout"])
            value = f"stopped after the time limit of {limit:g} s"
            return {"name": "Timeout", "value": value, "cell": cell}
        value = "the kernel died (killed by the system, for example out of memory, or crashed)"
        printed = self.log.read_text(encoding="utf-8", errors="replace").strip()
        if printed:
            value += f"; the last line it printed: {_line(printed.splitlines()[-1], 200)}"
        return {"name": "DeadKernel", "value": value, "cell": cell}

    def _cell_error(self) -> dict[str, Any] | None:
        for index, cell in enumerate(self.notebook.cells):
            if MAY_FAIL in cell.metadata.get("tags", ()):
                continue
            for output in cell.get("outputs", ()):
                if output.output_type == "error" and not (
                    output.ename == "SystemExit" and output.evalue in ("", "0")
                ):
                    value = _line(output.evalue)
                    return {"name": output.ename, "value": value, "cell": index}
            if cell.metadata.papermill.get("exception") is True:
                return {"name": "CellExecutionError", "value": "a cell failed", "cell": index}
        return None


def _places(notebook: Any) -> dict[int, tuple[int, int, str]]:
    """For each code cell of the notebook as written: its number, how many, the heading above."""
    places, heading = dict[int, tuple[int, str]](), ""
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            headings = re.findall(r"^#+\s+(.+?)\s*#*\s*$", cell.source, re.MULTILINE)
            heading = [heading, *headings][-1]
        elif "injected-parameters" not in cell.metadata.get("tags", ()):
            places[index] = (len(places) + 1, heading)
    return {index: (number, len(places), text) for index, (number, text) in places.items()}


def not_run(started: str, reason: str, name: str = "NotRun") -> dict[str, Any]:
    """The outcome of a run that no kernel could finish."""
    error = {"name": name, "value": reason, "cell": None}
    return {"started": started, "ended": now(), "wall_s": 0.0, "cpu_s": 0.0, "error": error}


def _line(text: str, limit: int = 500) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
