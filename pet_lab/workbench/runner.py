"""Executes one notebook in a folder: the innermost step of every run, here or on a cluster.

Run as a program (`python -m pet_lab.workbench.runner FOLDER`) it takes FOLDER/job.json, executes,
and leaves FOLDER/outcome.json. It stands on papermill's parts rather than on its one big function,
because that function saves the notebook twice per cell and loses it when the kernel dies.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pet_lab import files
from pet_lab.workbench import locks
from pet_lab.workbench.runs import FAILED_NOTEBOOK, NOTEBOOK, now

JOB, OUTCOME, KERNEL_LOG = "job.json", "outcome.json", "kernel.log"
START_TIMEOUT_S = 180  # a loaded machine can take a minute to start a kernel
SAVE_EVERY_S = 10.0
SOCKETS = "pet_lab-run-"
OPTIONS = (
    # Runs in parallel must not share IPython's SQLite history: it locks.
    "--HistoryManager.enabled=False",
    "--InteractiveShell.history_length=0",
)


def die_with(parent: int) -> None:
    """Ask the system to kill this process when `parent`, its parent, ends (Linux only).

    The system takes the thread that started this process for the parent. Elsewhere ipykernel's own
    poller notices within a second.
    """
    if sys.platform == "linux":
        _on_parents_death(signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the request
            os.kill(os.getpid(), signal.SIGKILL)


def outlive_parent() -> None:
    """Take `die_with` back."""
    if sys.platform == "linux":
        _on_parents_death(0)


def _on_parents_death(number: int) -> None:
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, number)


def skip_costly_imports() -> None:
    """Leave out what validation of notebooks imports and never calls (for processes of our own).

    jsonschema compiles a grammar of international addresses at import: over a third of the time
    that papermill takes to load.
    """
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]


def thread_limits(threads: int) -> dict[str, str]:
    """Environment that keeps numerical libraries to `threads` threads each."""
    n = str(max(1, threads))
    single = ["--xla_cpu_multi_thread_eigen=false"] if threads <= 1 else []
    # XLA ends the process at a flag it does not know, so it gets this one only.
    flags = [os.environ.get("XLA_FLAGS", ""), *single]
    return {
        "OMP_NUM_THREADS": n,
        "OPENBLAS_NUM_THREADS": n,
        "MKL_NUM_THREADS": n,
        "NUMEXPR_NUM_THREADS": n,
        "VECLIB_MAXIMUM_THREADS": n,
        "TF_NUM_INTRAOP_THREADS": n,
        "TF_NUM_INTEROP_THREADS": n,
        "XLA_FLAGS": " ".join(f for f in flags if f),
    }


def kernel_environment(job: Mapping[str, Any]) -> dict[str, str]:
    """Variables a kernel gets on top of the process's own."""
    return {
        "PET_LAB_BATCH": "1",
        # Sets of strings iterate in the same order in every run.
        "PYTHONHASHSEED": "0",
        "JPY_PARENT_PID": str(os.getpid()),
        # TensorFlow's start-up chatter would end up in the stored notebook; errors still do.
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2"),
        **job.get("env", {}),
    }


def perform(job: Mapping[str, Any], folder: Path, kernel: Any = None) -> dict[str, Any]:
    """Execute the notebook of `job` and leave it in `folder`.

    Parameters
    ----------
    job : mapping
        notebook (name), source (the notebook as JSON), parameters, out and cwd (the run's folder
        as the notebook sees it, and the kernel's working folder), env, timeout (seconds or None).
    folder : Path
        Gets notebook.ipynb, or failed.ipynb with the cells up to the error.
    kernel : optional
        A prepared kernel process of `forkserver`; without it a new one is started.

    Returns
    -------
    dict with started, ended, wall_s, cpu_s, error (None, or name, value, cell).
    """
    started, clock, cpu = now(), time.perf_counter(), _cpu()
    session = _Session(job, folder, kernel)
    try:
        error = session.execute()
    except Exception as problem:  # the boundary: whatever papermill raises is this run's failure
        error = {"name": type(problem).__name__, "value": _one_line(str(problem)), "cell": None}
    session.save(NOTEBOOK if error is None else FAILED_NOTEBOOK)
    return {
        "started": started,
        "ended": now(),
        "wall_s": round(time.perf_counter() - clock, 3),
        "cpu_s": round(_cpu() - cpu, 3),
        "error": error,
    }


class _Session:
    """One execution: the notebook as far as it got, its kernel, and its time limit."""

    def __init__(self, job: Mapping[str, Any], folder: Path, kernel: Any) -> None:
        import nbformat

        self.job, self.folder, self.kernel = job, folder, kernel
        self.timed_out = False
        self.notebook = nbformat.from_dict(job["source"])

    def execute(self) -> dict[str, Any] | None:
        """Run all cells; returns the error or None."""
        from papermill.iorw import load_notebook_node
        from papermill.parameterize import parameterize_notebook

        injected = {**self.job["parameters"], "out": self.job["out"]}
        prepared = parameterize_notebook(
            load_notebook_node(self.notebook), injected, kernel_name="python3", language="python"
        )
        self.notebook = prepared
        # papermill adds these; they would hold paths of this machine.
        self.notebook.metadata.papermill.update(input_path=None, output_path=None)
        # Not in the run's folder: the path of a local socket is limited to about 100 characters.
        with (
            tempfile.TemporaryDirectory(prefix=SOCKETS) as sockets,
            locks.lock(Path(sockets) / ".lock"),
        ):
            return self._with_kernel(Path(sockets))

    def _with_kernel(self, sockets: Path) -> dict[str, Any] | None:
        from nbclient.exceptions import DeadKernelError
        from papermill.clientwrap import PapermillNotebookClient
        from papermill.log import logger

        from pet_lab.workbench.kernels import manager

        logger.disabled = True
        keeper = _keeper(self)
        keeper.notebook_start()
        kernels = manager(sockets, self.kernel)
        client = PapermillNotebookClient(
            keeper,
            km=kernels,
            kernel_name="python3",
            startup_timeout=START_TIMEOUT_S,
            log=logger,
            log_output=False,
            extra_arguments=list(OPTIONS),
        )
        guard = self._guard(kernels)
        with open(self.folder / KERNEL_LOG, "wb") as log:
            try:
                client.execute(
                    cleanup_kc=True,  # end the kernel by asking it, so that its atexit hooks run
                    cwd=self.job["cwd"],
                    env={**os.environ, **kernel_environment(self.job)},
                    stdout=log,
                    stderr=log,
                )
            except (DeadKernelError, RuntimeError) as problem:
                return self._dead(problem)
            finally:
                if guard:
                    guard.cancel()
                kernels.kill_now()  # and what it left running
                keeper.notebook_complete()
        if self.timed_out:
            return self._dead(None)
        return self._error()

    def _guard(self, kernels: Any) -> threading.Timer | None:
        limit = self.job.get("timeout")
        if not limit:
            return None

        def stop() -> None:
            self.timed_out = True
            kernels.kill_now()

        timer = threading.Timer(float(limit), stop)
        timer.daemon = True
        timer.start()
        return timer

    def _dead(self, problem: Exception | None) -> dict[str, Any]:
        cell = next(
            (
                i
                for i, c in enumerate(self.notebook.cells)
                if c.metadata.get("papermill", {}).get("status") in ("running", "failed")
            ),
            None,
        )
        # The kernel's death stops the client inside a cell, which papermill then calls complete.
        if cell is None:
            ran = [
                i
                for i, c in enumerate(self.notebook.cells)
                if c.cell_type == "code" and c.metadata.get("papermill", {}).get("start_time")
            ]
            cell = ran[-1] if ran else None
        if self.timed_out:
            value = f"stopped after the time limit of {float(self.job['timeout']):g} s"
            return {"name": "Timeout", "value": value, "cell": cell}
        value = "the kernel died (killed by the system, for example out of memory, or crashed)"
        said = _last_line(self.folder / KERNEL_LOG)
        if said:
            value += f"; its last words: {said}"
        return {"name": "DeadKernel", "value": value, "cell": cell}

    def _error(self) -> dict[str, Any] | None:
        for index, cell in enumerate(self.notebook.cells):
            for output in cell.get("outputs", ()):
                if output.output_type == "error" and not (
                    output.ename == "SystemExit" and output.evalue in ("", "0")
                ):
                    return {
                        "name": output.ename,
                        "value": _one_line(output.evalue),
                        "cell": index,
                    }
            if cell.metadata.get("papermill", {}).get("exception") is True:
                return {"name": "CellExecutionError", "value": "a cell failed", "cell": index}
        return None

    def save(self, name: str) -> None:
        """Write the notebook as far as it got."""
        import nbformat

        text = nbformat.writes(self.notebook, version=4)
        files.write_atomic(self.folder / name, text.encode())


def _keeper(session: _Session) -> Any:
    """papermill's bookkeeping of cells, saving every SAVE_EVERY_S at most, not twice a cell."""
    from papermill.engines import NotebookExecutionManager

    class Keeper(NotebookExecutionManager):
        last_save_time: Any

        def save(self, **_: Any) -> None:
            moment = self.now()
            if (moment - self.last_save_time).total_seconds() >= SAVE_EVERY_S:
                session.notebook = self.nb
                session.save(FAILED_NOTEBOOK)
                self.last_save_time = moment

        def autosave_cell(self, **_: Any) -> None:
            self.save()

    return Keeper(session.notebook, progress_bar=False)


def _cpu() -> float:
    """CPU seconds of this process and of its ended children."""
    mine = os.times()
    return mine.user + mine.system + mine.children_user + mine.children_system


def _one_line(text: str, limit: int = 500) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    said = [line.strip() for line in lines if line.strip()]
    return _one_line(said[-1], 200) if said else ""


def main(folder: str) -> None:
    """Program entry: FOLDER/job.json in, FOLDER/outcome.json out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the sweep, which ends this
    skip_costly_imports()
    place = Path(folder)
    job = json.loads((place / JOB).read_text(encoding="utf-8"))
    die_with(job["parent"])
    outcome = perform(job, place)
    files.write_json(place / OUTCOME, outcome)


def sweep_sockets(older_than_s: float = 60.0) -> None:
    """Remove socket folders whose runner was killed: nobody holds their lock any more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{SOCKETS}*"):
        with contextlib.suppress(OSError):
            old = time.time() - folder.stat().st_mtime > older_than_s
            if old and os.access(folder, os.W_OK) and not locks.is_locked(folder / ".lock"):
                shutil.rmtree(folder, ignore_errors=True)


def clean(folder: Path) -> None:
    """Remove what only the execution needed."""
    for name in (JOB, OUTCOME, KERNEL_LOG):
        with contextlib.suppress(OSError):
            (folder / name).unlink()
    shutil.rmtree(folder / ".ipynb_checkpoints", ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
