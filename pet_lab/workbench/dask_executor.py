"""The same runs on a running Dask cluster, given by its address.

A run travels as data: the notebook, its parameters, and the hashes of the code it relies on. The
worker refuses if its own pet_lab differs, executes in a folder of its own, and sends the files
back; this side puts them in place exactly as for a local run. A worker that dies loses nothing:
the scheduler gives its runs to another one.
"""

import contextlib
import functools
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pet_lab import files
from pet_lab.workbench import closure, execute, notebooks, runs
from pet_lab.workbench.errors import ExecutorError
from pet_lab.workbench.kernels import Kernels, cores
from pet_lab.workbench.progress import Tell

CONNECT_S = 10  # an address that does not answer by then is wrong
POLL_S = 0.5
SILENT_S = 10  # without a worker for so long, it is said
ALONE_S = 600  # and after this, or the time limit of a run, the sweep ends
RETRIES = 2
QUEUED = 64  # runs handed to the scheduler at a time, so that workers that join find work
RESULTS = (*(runs.NOTEBOOK, runs.FAILED_NOTEBOOK, runs.ROWS, runs.SUMMARY, runs.CONTRIBUTIONS),)


class DaskExecutor:
    """Runs on the cluster whose scheduler is at `address`, such as tcp://127.0.0.1:8786.

    `prints` holds `runs.fingerprints` of each notebook; `say` gets a sentence once the cluster has
    been without a worker for ten seconds. An ExecutorError if no scheduler answers in that time.
    """

    def __init__(
        self, address: str, prints: Mapping[str, Mapping[str, Any]], say: Callable[[str], object]
    ) -> None:
        self._prints, self._say, self._address = prints, say, address
        self._client = _connected(address)
        self._lock = threading.Lock()
        self._alone_since: float | None = None
        self._looked = 0.0
        self._warned = False

    def slots(self) -> int:
        """Runs to keep at the scheduler at a time."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        return max(QUEUED, 2 * sum(w["nthreads"] for w in workers))

    def run(
        self, job: Mapping[str, Any], folder: Path, cancelled: Callable[[], bool], tell: Tell
    ) -> dict[str, Any]:
        """Execute `job` on some worker and leave its files in `folder`."""
        from concurrent.futures import CancelledError

        from distributed import KilledWorker

        started = runs.now()
        payload = {**job, "modules": self._prints[job["notebook"]]["modules"]}
        key = f"pet_lab-{secrets.token_hex(8)}"
        self._client.subscribe_topic(key, lambda event: tell(*event[1]))
        future = self._client.submit(perform, payload, key=key, pure=False, retries=RETRIES)
        try:
            while True:
                try:
                    answer = future.result(timeout=POLL_S)
                    break
                except TimeoutError:
                    if cancelled():  # its worker notices within a second
                        future.cancel(force=True)
                        return execute.not_run(started, "the sweep was stopped")
                    self._check_workers(job["timeout"] or ALONE_S)
        except KilledWorker:
            reason = "every worker that took this run died; see their logs"
        except ModuleNotFoundError as error:
            reason = f"a worker has no {error.name}; install the same environment there"
        except (CancelledError, OSError) as error:
            reason = f"the cluster gave this run up ({type(error).__name__}: {error})"
        else:
            return take(answer, folder)
        finally:
            with contextlib.suppress(OSError, ValueError):
                self._client.unsubscribe_topic(key)
        return execute.not_run(started, reason)

    def _check_workers(self, limit: float) -> None:
        """Say that the cluster has no worker after a while; ExecutorError after `limit` seconds."""
        start = f"start one with `dask worker {self._address}`"
        with self._lock:  # asked by all slots, every half second
            now = time.monotonic()
            if now - self._looked > 4 * POLL_S:
                self._looked = now
                workers = self._client.scheduler_info(n_workers=1)["workers"]
                self._alone_since = None if workers else self._alone_since or now
            alone = now - (self._alone_since or now)
            if alone > limit:
                raise ExecutorError(
                    f"The cluster at {self._address} had no worker for {limit:g} s; {start} and "
                    "run the same command again."
                )
            if alone > SILENT_S and not self._warned:
                self._warned = True
                self._say(f"the cluster has no worker yet; {start} (waiting at most {limit:g} s)")

    def close(self) -> None:
        """Leave the cluster."""
        with contextlib.suppress(OSError, TimeoutError):
            self._client.close(timeout=CONNECT_S)


def _connected(address: str) -> Any:
    """A client, made once a scheduler answers: one that never connects complains when it is freed.

    In a thread, because Dask's own limits fail where something else answers.
    """
    import asyncio

    from distributed import Client, Security
    from distributed.comm import connect

    answers: list[Any] = [f"silent for {1.5 * CONNECT_S:g} s"]

    async def greet() -> None:
        options = Security().get_connection_args("client")
        comm = await connect(address, timeout=CONNECT_S, **options)
        await comm.close()

    def start() -> None:
        try:
            asyncio.run(greet())
            answers[0] = Client(address, timeout=CONNECT_S, set_as_default=False)
        except Exception as error:  # whatever Dask makes of an address
            answers[0] = str(error).partition("\n")[0] or type(error).__name__

    thread = threading.Thread(target=start, daemon=True)
    thread.start()
    thread.join(1.5 * CONNECT_S)
    if isinstance(answers[0], Client):
        return answers[0]
    raise ExecutorError(
        f"No Dask scheduler answers at {address} ({answers[0]}); check the address, or start one "
        "with `dask scheduler` and `dask worker ADDRESS`."
    )


# On the worker from here on.


def take(answer: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Store what a worker sent back into `folder`, and return the outcome.

    A worker names only the files of a run: whatever else it sends is not written.
    """
    for name, content in answer["files"].items():
        if name in RESULTS:
            files.write_atomic(folder / name, content)
    return dict(answer["outcome"])


def perform(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Execute one run on a Dask worker: `outcome` (of `execute.run`) and `files` (bytes by name).

    Code that differs from the sender's is an outcome with an error: other code, other rows.
    """
    from distributed import get_worker

    worker = get_worker()
    mine = closure.modules(notebooks.code(payload["source"]))
    theirs = payload["modules"]
    differ = sorted(n for n in {*mine, *theirs} if mine.get(n) != theirs.get(n))
    if differ:
        reason = f"the worker's pet_lab differs from yours in {', '.join(differ[:3])}"
        reason += "; bring both to the same commit"
        return {"outcome": execute.not_run(runs.now(), reason, "OtherCode"), "files": {}}
    root = Path(worker.local_directory) / f"pet_lab-{secrets.token_hex(6)}"
    folder = root / payload["out"]
    try:
        folder.mkdir(parents=True)
        copy = root / "notebooks" / f"{payload['notebook']}.ipynb"
        copy.parent.mkdir(parents=True)
        files.write_json(copy, payload["source"])
        job = {**payload, "cwd": str(root), "env": {**payload["env"], "PET_LAB_HOME": str(root)}}
        packages = tuple(sorted(closure.third_party(notebooks.code(payload["source"]))))
        threads = max(1, cores() // max(1, worker.state.nthreads))
        topic = str(worker.get_current_task())
        outcome = execute.run(
            job,
            folder,
            _taken_back(worker),
            lambda *cell: worker.log_event(topic, cell),
            kernels=_kernels(threads, packages),
        )
        outcome["versions"] = runs.versions()
        written = {n: (folder / n).read_bytes() for n in RESULTS if (folder / n).is_file()}
        return {"outcome": outcome, "files": written}
    finally:
        shutil.rmtree(root, ignore_errors=True)


@functools.lru_cache(maxsize=2)
def _kernels(threads: int, packages: tuple[str, ...]) -> Kernels:
    """One for all runs of a worker process."""
    return Kernels(threads, packages)


def _taken_back(worker: Any) -> Callable[[], bool]:
    """Whether the scheduler has taken the current task back: Dask cannot stop a running one."""
    key = worker.get_current_task()

    def gone() -> bool:
        task = worker.state.tasks.get(key)
        return task is None or task.state in ("cancelled", "forgotten", "released")

    return gone
