"""The same sweep on a real scheduler with two real workers, one of which dies."""

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from tiny_notebooks import IMPORTS, PARAMETERS, ROWS, WRITE, build_workspace, notebook_text

from pet_lab.workbench import dask_executor, results, sweep
from pet_lab.workbench.errors import ExecutorError

pytestmark = pytest.mark.slow
WHERE = """
import os, time
from pathlib import Path
if label == "waits":
    while not Path(flag).exists():
        time.sleep(0.05)
if label == "fails":
    raise KeyError("far away")
"""


class Cluster:
    """A scheduler and two workers as processes of their own, each with its own folder."""

    def __init__(self, folder: Path, workers: tuple[str, ...] = ("one", "two")) -> None:
        self.folder = folder
        file = folder / "scheduler.json"
        self.processes = [
            self._start("scheduler", ["--scheduler-file", str(file), "--port", "0"]),
        ]
        deadline = time.monotonic() + 60
        while not file.exists():
            assert time.monotonic() < deadline, (folder / "scheduler.log").read_text()
            time.sleep(0.1)
        self.address = json.loads(file.read_text())["address"]
        for name in workers:
            options = [self.address, "--nthreads", "1", "--no-nanny", "--name", name]
            place = ["--local-directory", str(folder / name)]
            self.processes.append(self._start("worker", [*options, *place], name))

    def _start(self, kind: str, options: list[str], name: str = "scheduler") -> subprocess.Popen:
        (self.folder / name).mkdir()
        code = "import sys; from dask.__main__ import main; sys.exit(main())"
        words = [kind, *options, "--host", "127.0.0.1", "--no-dashboard"]
        with open(self.folder / f"{name}.log", "wb") as log:
            return subprocess.Popen(
                [sys.executable, "-c", code, *words],
                cwd=self.folder / name,
                stdout=log,
                stderr=log,
                env={
                    **os.environ,
                    "PET_LAB_HOME": "",
                    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "3",
                },
            )

    def close(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.close()


def test_an_address_without_scheduler_is_one_sentence_within_seconds(make_workspace):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
    ws = make_workspace()
    start = time.monotonic()
    with pytest.raises(
        ExecutorError, match=f"No Dask scheduler answers at {address} .*dask worker"
    ):
        sweep.execute(ws, sweep.plan(ws, "tiny"), executor=f"dask:{address}")
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("address", ["nowhere", "tcp://127.0.0.1:1"])
def test_an_address_that_does_not_answer_is_one_sentence_and_no_more(make_workspace, address):
    """A process of its own: what Dask says, it says as the interpreter ends."""
    code = (
        "from pet_lab import cli; from pet_lab.workbench import dask_executor as d; "
        f"d.CONNECT_S = 2; cli.main(['sweep', 'tiny', '--executor', 'dask:{address}'])"
    )
    env = os.environ | {"PET_LAB_HOME": str(make_workspace().root)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"pet-lab: No Dask scheduler answers at {address} (")
    assert done.stderr.count("\n") == 1


def test_an_address_that_answers_http_is_no_scheduler_and_does_not_hang(
    make_workspace, monkeypatch
):
    monkeypatch.setattr(dask_executor, "CONNECT_S", 2)
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), http.server.BaseHTTPRequestHandler
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"tcp://127.0.0.1:{server.server_port}"
        ws = make_workspace()
        start = time.monotonic()
        with pytest.raises(ExecutorError, match=f"No Dask scheduler answers at {address}"):
            sweep.execute(ws, sweep.plan(ws, "tiny"), executor=f"dask:{address}")
        assert time.monotonic() - start < 30
        server.shutdown()


def test_a_cluster_without_workers_is_named_and_given_up(make_workspace, monkeypatch, tmp_path):
    monkeypatch.setattr(dask_executor, "SILENT_S", 1)
    cluster = Cluster(tmp_path, workers=())
    ws, events = make_workspace(), []
    specs = sweep.plan(ws, "tiny", {}, {"level": [1.0, 2.0]})
    try:
        with pytest.raises(ExecutorError, match=r"had no worker for 8 s; start one with `dask wor"):
            sweep.execute(
                ws, specs, executor=f"dask:{cluster.address}", timeout=8, progress=events.append
            )
    finally:
        cluster.close()
    (waiting,) = [e for e in events if e.kind == "waiting"]
    assert "the cluster has no worker yet; start one with `dask worker" in waiting.record.problem
    assert list(sweep.pending(ws, specs).values()) == ["new", "new"], "they can be run later"


def test_a_sweep_on_the_cluster_ends_as_it_would_here(cluster, make_workspace):
    ws = make_workspace({"group/tiny": (IMPORTS, WHERE, ROWS, WRITE)})
    specs = sweep.plan(ws, "tiny", {"steps": 3}, {"label": ["a", "b", "fails", "d"]})
    records = sweep.execute(ws, specs, executor=f"dask:{cluster.address}")
    assert [r.state for r in records] == ["done", "done", "failed", "done"], [
        r.problem for r in records
    ]
    assert records[2].error["name"] == "KeyError"
    assert records[2].path.is_file()
    assert len(results.read(ws, "tiny")) == 9
    for record in records:
        stored = record.path.read_text() + (record.folder / "run.json").read_text()
        assert str(cluster.folder) not in stored
        assert str(ws.root) not in stored
        assert f"papermill_runs/group/tiny/{record.run_id}" in stored
    assert records[0].versions["python"] == ".".join(map(str, sys.version_info[:3]))
    # Nothing of a run stays on the workers.
    assert not list(cluster.folder.glob("*/**/pet_lab-*"))
    again = sweep.execute(ws, specs, executor="local", jobs=1)
    assert [r.skipped for r in again] == [True, True, False, True]


def test_other_code_on_the_worker_is_refused(cluster, make_workspace, monkeypatch):
    ws = make_workspace()
    from pet_lab.workbench import closure

    real = closure.modules
    name = "pet_lab.workbench.results"
    monkeypatch.setattr(closure, "modules", lambda code: {**real(code), name: "other"})
    (record,) = sweep.execute(ws, sweep.plan(ws, "tiny"), executor=f"dask:{cluster.address}")
    assert record.error["name"] == "OtherCode"
    assert f"differs from yours in {name}; bring both to the same commit" in record.problem


def test_a_stopped_sweep_leaves_nothing_running_on_the_cluster(cluster, tmp_path):
    text = f"""
import signal, sys, threading, time, _thread
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell had it ignored
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from tiny_notebooks import *
from pet_lab.workbench import sweep
ws = build_workspace(Path({str(tmp_path)!r}))({{"group/tiny": (IMPORTS, {WHERE!r}, ROWS, WRITE)}})
"""
    text += f"""
parameters = PARAMETERS + 'flag: str = "never"'
(ws.notebooks / "group" / "tiny.ipynb").write_text(
    notebook_text(IMPORTS, {WHERE!r}, ROWS, WRITE, parameters=parameters))
specs = sweep.plan(ws, "tiny", {{"label": "waits"}}, {{"level": [1.0, 2.0, 3.0]}})
try:
    sweep.execute(ws, specs, executor="dask:{cluster.address}")
except sweep.Interrupted as stop:
    print(*[r.state for r in stop.records])
"""
    workers = [psutil.Process(p.pid) for p in cluster.processes[1:]]
    process = subprocess.Popen(
        [sys.executable, "-c", text], stdout=subprocess.PIPE, start_new_session=True, text=True
    )
    wait_for(lambda: all(kernels(w) for w in workers), 90)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=150)
    assert said.split() == ["interrupted"] * 3
    wait_for(lambda: not any(kernels(w) for w in workers), 30)


def kernels(worker):
    """Kernels of runs going on: processes below the worker's fork server."""
    return [q for p in worker.children() for q in p.children(recursive=True)]


def wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def test_a_worker_that_dies_in_the_middle_loses_and_repeats_nothing(cluster, tmp_path):
    """The last test: it leaves the cluster with one worker."""
    ws = build_workspace(tmp_path)()
    flag = tmp_path / "flag"
    parameters = f'{PARAMETERS}flag: str = "{flag}"'
    (ws.notebooks / "group" / "tiny.ipynb").write_text(
        notebook_text(IMPORTS, WHERE, ROWS, WRITE, parameters=parameters)
    )
    specs = sweep.plan(ws, "tiny", {"label": "waits"}, {"level": [1.0, 2.0, 3.0, 4.0]})
    one, two = (psutil.Process(p.pid) for p in cluster.processes[1:])

    def kill_one():
        try:
            wait_for(lambda: kernels(one) and kernels(two), 90)
            below = one.children(recursive=True)
            one.kill()
            _, alive = psutil.wait_procs(below, timeout=10)
            found.extend(p for p in alive if p.status() != psutil.STATUS_ZOMBIE)
        finally:
            flag.touch()

    found = []
    killer = threading.Thread(target=kill_one)
    killer.start()
    records = sweep.execute(ws, specs, executor=f"dask:{cluster.address}")
    killer.join()
    assert [r.state for r in records] == ["done"] * 4, [r.problem for r in records]
    assert found == [], "kernels of the dead worker"
    assert len(results.read(ws, "tiny")) == 8


def test_a_worker_writes_nothing_but_a_runs_files(tmp_path):
    from pet_lab.workbench import dask_executor

    folder = tmp_path / "run"
    folder.mkdir()
    sent = {"rows.parquet": b"rows", "../outside": b"x", "run.json": b"{}", "/tmp/absolute": b"x"}
    outcome = dask_executor.take({"outcome": {"state": "done"}, "files": sent}, folder)
    assert outcome == {"state": "done"}
    assert [p.name for p in folder.iterdir()] == ["rows.parquet"]
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
