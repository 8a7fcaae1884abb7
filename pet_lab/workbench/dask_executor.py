"""The same runs on a running Dask cluster, given by its address.

A run travels as data: the notebook, its parameters, and the hashes of the code it relies on. The
worker refuses if its own pet_lab differs, executes in a folder of its own, and sends the files
back; this side puts them in place exactly as for a local run. A worker that dies loses nothing:
the scheduler gives its runs to another one.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pet_lab import files
from pet_lab.workbench import closure, local, notebooks, runner, runs
from pet_lab.workbench.errors import ExecutorError

CONNECT_S = 10  # an address that does not answer by then is wrong
RETRIES = 2
QUEUED = 64  # runs handed to the scheduler at a time, so that workers that join find work
RESULTS = (runs.NOTEBOOK, runs.FAILED_NOTEBOOK, runs.ROWS, runs.SUMMARY)


class DaskExecutor:
    """Runs on the cluster whose scheduler is at `address`, such as tcp://127.0.0.1:8786.

    Raises
    ------
    ExecutorError
        If no scheduler answers there within ten seconds.
    """

    def __init__(self, address: str, prints: Mapping[str, Mapping[str, Any]]) -> None:
        from distributed import Client

        if not address:
            raise ExecutorError("dask: needs an address, such as dask:tcp://127.0.0.1:8786.")
        self._prints = prints
        self._futures: set[Any] = set()
        self._stopped = False
        try:
            self._client = Client(address, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise ExecutorError(
                f"No Dask scheduler answers at {address} ({type(error).__name__}); check the "
                "address, or start one with `dask scheduler` and `dask worker ADDRESS`."
            ) from None

    def slots(self) -> int:
        """Runs to keep at the scheduler at a time."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        return max(QUEUED, 2 * sum(w["nthreads"] for w in workers))

    def run(self, job: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """Execute `job` on some worker and leave its files in `folder`."""
        from concurrent.futures import CancelledError

        from distributed import KilledWorker

        started = runner.now()
        payload = {**job, "modules": self._prints[job["notebook"]]["modules"]}
        if self._stopped:
            return local.died(started, "the sweep was stopped")
        future = self._client.submit(
            perform, payload, key=f"pet_lab-{secrets.token_hex(8)}", pure=False, retries=RETRIES
        )
        self._futures.add(future)
        try:
            answer = future.result()
        except KilledWorker:
            return local.died(started, "every worker that took this run died; see their logs")
        except ModuleNotFoundError as error:
            return local.died(
                started, f"a worker has no {error.name}; install the same environment there"
            )
        except (CancelledError, OSError) as error:
            reason = (
                "the sweep was stopped" if self._stopped else f"{type(error).__name__}: {error}"
            )
            return local.died(started, f"the cluster gave this run up ({reason})")
        finally:
            self._futures.discard(future)
        for name, content in answer["files"].items():
            files.write_atomic(folder / name, content)
        return answer["outcome"]

    def stop(self) -> None:
        """Cancel what is queued or running; workers notice within a second."""
        self._stopped = True
        futures = list(self._futures)
        if futures:
            with contextlib.suppress(OSError, TimeoutError):
                self._client.cancel(futures, force=True)

    def close(self) -> None:
        """Leave the cluster."""
        with contextlib.suppress(OSError, TimeoutError):
            self._client.close(timeout=CONNECT_S)


# On the worker from here on.


def perform(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Execute one run on a Dask worker.

    Returns
    -------
    dict with `outcome` (see `runner.perform`, and the worker's versions) and `files` (bytes by
    name). Code that differs from the sender's is an outcome with an error: other code, other rows.
    """
    from distributed import get_worker

    worker = get_worker()
    started = runner.now()
    mine = closure.modules(notebooks.code(payload["source"]))
    theirs = payload["modules"]
    differ = sorted(n for n in {*mine, *theirs} if mine.get(n) != theirs.get(n))
    if differ:
        outcome = local.died(
            started,
            f"the worker's pet_lab differs from yours in {', '.join(differ[:3])}; "
            "bring both to the same commit",
        )
        outcome["error"]["name"] = "OtherCode"
        return {"outcome": outcome, "files": {}}
    root = Path(worker.local_directory) / f"pet_lab-{secrets.token_hex(6)}"
    folder = root / payload["out"]
    try:
        folder.mkdir(parents=True)
        copy = root / "notebooks" / f"{payload['notebook']}.ipynb"
        copy.parent.mkdir(parents=True)
        files.write_json(copy, payload["source"])
        job = {**payload, "cwd": str(root), "env": {**payload["env"], "PET_LAB_HOME": str(root)}}
        job.pop("modules")
        packages = tuple(sorted(closure.third_party(notebooks.code(payload["source"]))))
        threads = max(1, local.cores() // max(1, worker.state.nthreads))
        outcome = _executor(threads, packages).run(job, folder, cancelled=_cancelled(worker))
        outcome["versions"] = runs.versions()
        found = {n: (folder / n).read_bytes() for n in RESULTS if (folder / n).is_file()}
        return {"outcome": outcome, "files": found}
    finally:
        shutil.rmtree(root, ignore_errors=True)


@functools.lru_cache(maxsize=2)
def _executor(
    threads: int, packages: tuple[str, ...]
) -> local.ForkExecutor | local.ProcessExecutor:
    """One executor per worker process, kept for its later runs; it ends with the process."""
    return local.best(threads, packages)


def _cancelled(worker: Any) -> Callable[[], bool]:
    """Tells whether the scheduler has taken this task back: Dask cannot stop a running one."""
    key = worker.get_current_task()

    def gone() -> bool:
        task = worker.state.tasks.get(key)
        return task is None or task.state in ("cancelled", "forgotten", "released")

    return gone
