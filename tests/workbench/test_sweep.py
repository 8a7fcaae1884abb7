"""Planning and executing grids: skipped when done, isolated when failing, refused when wrong."""

import dataclasses
import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from tiny_notebooks import (
    BODY,
    IMPORTS,
    PARAMETERS,
    ROWS,
    WRITE,
    build_workspace,
    notebook_text,
)

from pet_lab import files
from pet_lab.workbench import kernels, notebooks, report, results, runs, sweep
from pet_lab.workbench.errors import ParameterError, WorkspaceError
from pet_lab.workbench.workspace import Workspace

# --- planning ----------------------------------------------------------------------------------


def test_a_plan_is_the_product_in_order_each_run_once(make_workspace):
    ws = make_workspace()
    specs = sweep.plan(ws, "tiny", {"steps": 1}, {"level": [1, 2, 1.0], "wide": [False, True]})
    assert [(s.parameters["level"], s.parameters["wide"]) for s in specs] == [
        (1.0, False),
        (1.0, True),
        (2.0, False),
        (2.0, True),
    ]
    assert all(s.parameters["steps"] == 1 and s.notebook == "group/tiny" for s in specs)
    assert "out" not in specs[0].parameters
    assert specs[0] == sweep.plan(ws, "tiny", {"steps": 1, "level": 1, "wide": False})[0]


@pytest.mark.parametrize(
    ("parameters", "grid", "says"),
    [
        ({"levl": 1}, {}, "did you mean level"),
        ({}, {"levl": [1]}, "did you mean level"),
        ({"level": "x"}, {}, "a float is expected"),
        ({}, {"level": [1, "x"]}, "a float is expected"),
        ({"level": 1}, {"level": [1]}, "both fixed and in the grid"),
        ({}, {"level": []}, "is empty"),
        ({}, {"label": "abc"}, "must be a list"),
        ({}, {"level": 3}, "must be a list"),
    ],
)
def test_wrong_values_are_refused_before_anything_runs(make_workspace, parameters, grid, says):
    ws = make_workspace()
    with pytest.raises(ParameterError, match=says):
        sweep.plan(ws, "tiny", parameters, grid)
    assert not ws.runs.exists()


SWEEP = """
    [tiny.quick]
    parameters = { steps = 1 }
    grid = { level = [1, 2] }
    [tiny.full]
    grid = { level = [1, 2, 3], sizes = [[1], [2, 3]] }
    [tiny.wide]
    parameters = { wide = true }
"""


def test_profiles_come_from_sweep_toml(make_workspace):
    ws = make_workspace(sweep={"group": SWEEP})
    quick = sweep.profile(ws, "tiny", "quick")
    assert quick.parameters == {"steps": 1}
    assert quick.grid == {"level": [1.0, 2.0]}
    assert len(sweep.plan_profile(ws, "tiny", "full")) == 6
    assert sweep.plan_profile(ws, "tiny", "wide")[0].profile == "wide"
    # What the user says goes before the profile, whether there it is fixed or in the grid.
    assert len(sweep.plan_profile(ws, "tiny", "full", {"level": 5.0})) == 2
    assert len(sweep.plan_profile(ws, "tiny", "quick", grid={"steps": [1, 2, 3]})) == 6


def test_without_an_entry_a_profile_is_the_defaults(make_workspace):
    ws = make_workspace()
    assert sweep.plan_profile(ws, "tiny", "quick") == sweep.plan(ws, "tiny")
    with pytest.raises(ParameterError, match="no profile 'qick'; there are: quick, full"):
        sweep.profile(ws, "tiny", "qick")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[tiny.quick]\ngrid = { levl = [1] }", r"sweep.toml, \[tiny.quick\]: Unknown .* level"),
        ("[tiny.quick]\nparameters = { level = 'x' }", "a float is expected"),
        ("[tiny.quick]\nparams = {}", "expected the tables parameters and grid, got 'params'"),
        ("[tinny.quick]\n", "names 'tinny'.*did you mean tiny"),
        ("[tiny", "not valid TOML"),
    ],
)
def test_a_wrong_sweep_toml_is_told(make_workspace, text, says):
    ws = make_workspace(sweep={"group": text})
    with pytest.raises(ParameterError, match=says):
        sweep.profile(ws, "tiny", "quick")


# --- executing ---------------------------------------------------------------------------------

CHECKS = """
import os, sys, subprocess, warnings
import numpy as np, matplotlib.pyplot as plt
assert os.environ["PET_LAB_BATCH"] == "1"
assert os.environ["OMP_NUM_THREADS"] == os.environ["TF_NUM_INTRAOP_THREADS"]
assert not out.startswith("/"), "no path of this machine in a notebook"
fig, ax = plt.subplots()
ax.plot([1, 2])
plt.show()
print("the generator of numpy says", np.random.random())
"""


@dataclasses.dataclass
class Swept:
    """One sweep whose runs differ in how they end, since starting a sweep costs seconds."""

    ws: Workspace
    specs: list
    records: dict
    events: list
    mark: str


ENDS = """
import os, signal, subprocess, sys, time, psutil
if label == "raises":
    raise KeyError("the second level")
if label == "kills the kernel":
    os.kill(os.getpid(), signal.SIGKILL)
if label.startswith("leaves a"):
    ours = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(1000)", str(mark)],
        start_new_session=label == "leaves a session",
    )
"""
FORKED = ("fine", "raises", "kills the kernel", "fine too", "leaves a process")
LABELS = {
    "fork": (*FORKED, "leaves a session", "writes nothing"),
    "process": ("fine", "kills the kernel", "leaves a session"),
}


@pytest.fixture(scope="module", params=["fork", pytest.param("process", marks=pytest.mark.slow)])
def swept(request, tmp_path_factory):
    """With forked kernels, and with a new interpreter each as where forking is not safe."""
    if request.param == "fork" and sys.platform != "linux":
        pytest.skip("only Linux forks safely")
    mark = f"mark-{os.getpid()}-{request.param}"
    root = tmp_path_factory.mktemp(request.param)
    make = build_workspace(root)
    parameters = f'{PARAMETERS}mark: str = "{mark}"'
    write = f'if label != "writes nothing":\n    {WRITE}'
    ws = make(
        {"group/tiny": notebook_text(IMPORTS, CHECKS, ENDS, ROWS, write, parameters=parameters)}
    )
    specs = sweep.plan(ws, "tiny", {"steps": 3}, {"label": LABELS[request.param]})
    events = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PET_LAB_NO_FORK", "1" if request.param == "process" else "0")
        records = sweep.execute(ws, specs, jobs=2, progress=events.append)
    by_label = {s.parameters["label"]: r for s, r in zip(specs, records, strict=True)}
    return Swept(ws, specs, by_label, events, mark)


def problems(records):
    return [r.problem for r in records if not r.ok]


def test_a_failure_does_not_stop_the_others(swept):
    fine = {"fine", "fine too", "leaves a process", "leaves a session"}
    for label, record in swept.records.items():
        assert record.state == ("done" if label in fine else "failed"), (label, record.problem)
        assert record.parameters["label"] == label
    assert not list(swept.ws.runs.rglob(".attempt-*"))


DRAWS = """
from pet_lab.workbench import plots
import pandas as pd
plots.lines(pd.DataFrame(rows)[:0], x="level", metric="m", caption="Nothing.", alt="Empty axes.")
"""


def test_a_figure_that_fails_costs_the_figure_only(make_workspace):
    """Whether the call raises or what it is given; a failure before the rows are stored is one."""
    again = "plots.table(pd.DataFrame(rows).pivot(nothing), caption='No.')"
    last = 'print("the end")'
    ws = make_workspace({"group/tiny": (*BODY, DRAWS, again, last), "group/no": (DRAWS, *BODY)})
    specs = [sweep.plan(ws, name)[0] for name in ("tiny", "no")]
    record, failed = sweep.execute(ws, specs)
    assert (record.state, failed.state) == ("done", "failed")
    assert [(e["name"], e["cell"]) for e in record.undrawn] == [("ValueError", 6), ("NameError", 7)]
    assert record.problem.count("a figure could not be drawn: ") == 2
    assert record.undrawn == runs.load(record.folder).undrawn
    executed = notebooks.read(record.folder / runs.NOTEBOOK)["cells"]
    texts = ["".join(c["outputs"][0]["text"]) for c in executed[-3:]]
    assert texts[0].startswith("This figure could not be drawn: ValueError: no rows of metric m")
    assert texts[1].startswith("This figure could not be drawn: NameError")
    assert texts[2].strip() == "the end"
    assert not any("raises-exception" in c["metadata"].get("tags", ()) for c in executed)
    assert len(results.read(ws, record.notebook)) == 2
    pages = report.build(ws, [record.notebook])
    assert "This figure could not be drawn" in pages[0].read_text()
    report.build_index(ws)
    assert "a figure could not be drawn" in (ws.reports / "failures.html").read_text()


def test_a_failure_keeps_the_notebook_as_far_as_it_got(swept):
    for label, name, cell, words in [
        ("raises", "KeyError", 5, "the second level"),
        ("kills the kernel", "DeadKernel", 5, "the kernel died"),
        ("writes nothing", "NoRows", None, "must call results.write"),
    ]:
        record = swept.records.get(label)
        if record is None:
            continue
        assert (record.error["name"], record.error["cell"]) == (name, cell), record.problem
        assert words in record.problem
        kept = sorted(p.name for p in record.folder.iterdir())
        assert kept == [".lock", "failed.ipynb", "run.json"]
        half = json.loads(record.path.read_text())
        outputs = [o for c in half["cells"] for o in c.get("outputs", ())]
        assert any("the generator" in str(o.get("text")) for o in outputs)
        assert any(o["output_type"] == "error" for o in outputs) == (label == "raises")


def test_a_done_run_has_its_files_and_no_path_of_this_machine(swept):
    done = swept.records["fine"]
    there = [".lock", "notebook.ipynb", "rows.parquet", "run.json", "summary.json"]
    assert sorted(p.name for p in done.folder.iterdir()) == there
    assert 0 < done.cpu_s < 60
    assert done.wall_s > 0
    assert done.started < done.ended
    assert done.versions["python"].startswith("3.")
    stored = done.path.read_text()
    assert str(swept.ws.root) not in stored + (done.folder / "run.json").read_text()
    assert ".attempt-" not in stored
    assert f"papermill_runs/group/tiny/{done.run_id}" in stored
    assert "image/png" in stored
    assert len(results.read(swept.ws, "tiny", [done.run_id])) == 3


def test_each_kernel_is_its_own(swept):
    """The global stream of numpy is not shared by a fork."""
    said = {
        label: o["text"]
        for label, record in swept.records.items()
        if record.ok
        for c in json.loads(record.path.read_text())["cells"]
        for o in c.get("outputs", ())
        if "the generator" in str(o.get("text"))
    }
    assert len({str(text) for text in said.values()}) == len(said) > 0


def test_nothing_is_left_running(swept):
    assert_gone(swept.mark)
    assert_gone(str(swept.ws.root))


def test_progress_tells_every_run_and_an_estimate(swept):
    ended = [e for e in swept.events if e.kind not in ("started", "running")]
    assert {e.kind for e in ended} == {"done", "failed"}
    assert ended[-1].finished == ended[-1].total == len(swept.specs)
    assert ended[-1].left_s == 0
    assert all(e.left_s is None or e.left_s >= 1 for e in ended[:-1]), "while work remains"
    fine = [s for s in swept.specs if s.parameters["label"] == "fine"]
    cells = [
        (r.cell, r.cells) for e in swept.events for r in e.running if r.spec in fine and r.cell
    ]
    assert [*dict.fromkeys(cells)] == [(n, 6) for n in range(1, 7)]
    headings = {r.heading for e in swept.events for r in e.running if r.cell}
    assert headings == {"A tiny notebook"}


def test_only_what_is_not_done_runs_again(swept):
    todo = {s.parameters["label"]: why for s, why in sweep.pending(swept.ws, swept.specs).items()}
    assert todo.keys() == {label for label, r in swept.records.items() if not r.ok}
    assert all(text.startswith("failed before: ") for text in todo.values())
    done = [s for s in swept.specs if s.parameters["label"] not in todo]
    again = sweep.execute(swept.ws, done)
    assert all(r.skipped for r in again)


def assert_gone(mark, within_s=5.0):
    """No process whose command line holds `mark` is alive, at the latest after `within_s`."""
    deadline = time.monotonic() + within_s
    while alive := running(mark):
        assert time.monotonic() < deadline, alive
        time.sleep(0.1)


def running(mark):
    return [
        p.pid
        for p in psutil.process_iter(["cmdline", "status"])
        if mark in " ".join(p.info["cmdline"] or ()) and p.info["status"] != psutil.STATUS_ZOMBIE
    ]


@pytest.mark.parametrize("no_fork", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_a_run_over_its_time_limit_is_ended_and_keeps_its_notebook(
    make_workspace, monkeypatch, no_fork
):
    monkeypatch.setenv("PET_LAB_NO_FORK", no_fork)
    ws = make_workspace({"group/tiny": ("import time; print('begun'); time.sleep(600)", WRITE)})
    limit = 4 if no_fork == "0" else 15
    (record,) = sweep.execute(ws, sweep.plan(ws, "tiny"), timeout=limit)
    assert (record.error["name"], record.error["cell"]) == ("Timeout", 3), record.problem
    assert f"stopped after the time limit of {limit} s" in record.problem
    assert sorted(p.name for p in record.folder.iterdir()) == [".lock", "failed.ipynb", "run.json"]
    assert "begun" in record.path.read_text()


def test_a_dead_fork_server_hurts_no_run_and_is_replaced(make_workspace, monkeypatch):
    if sys.platform != "linux":
        pytest.skip("only Linux forks safely")
    monkeypatch.setenv("PET_LAB_NO_FORK", "0")
    kill = """
    import psutil
    server = psutil.Process().parent()
    print("server", server.pid)
    if level == 1:
        server.kill()
    """
    ws = make_workspace({"group/tiny": (IMPORTS, kill, ROWS, WRITE)})
    records = sweep.execute(ws, sweep.plan(ws, "tiny", {}, {"level": [1, 2]}), jobs=1)
    assert [r.state for r in records] == ["done", "done"], problems(records)
    servers = {re.search(r"server \d+", r.path.read_text()).group() for r in records}
    assert len(servers) == 2


def test_two_sweeps_at_once_share_the_work(make_workspace):
    ws = make_workspace({"group/tiny": (IMPORTS, "import time; time.sleep(0.3)", ROWS, WRITE)})
    specs = sweep.plan(ws, "tiny", {}, {"level": [float(i) for i in range(6)]})
    found = {}

    def go(name):
        found[name] = sweep.execute(ws, specs, jobs=2)

    threads = [threading.Thread(target=go, args=(n,)) for n in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems(found["a"] + found["b"])
    executed = [r.run_id for r in found["a"] + found["b"] if not r.skipped]
    assert sorted(executed) == sorted(s.run_id for s in specs), "each run once, whoever took it"


# --- stopping ----------------------------------------------------------------------------------

SWEEPER = """
import signal
# A test run started in the background is born with Ctrl-C ignored, and hands that on.
signal.signal(signal.SIGINT, signal.default_int_handler)
import sys
from pathlib import Path
from pet_lab.workbench import sweep
from pet_lab.workbench.workspace import Workspace
ws = Workspace(Path(sys.argv[1]))
specs = sweep.plan(ws, "tiny", {}, {"level": [1.0, 2.0, 3.0]})
try:
    sweep.execute(ws, specs, jobs=2, progress=lambda e: print(e.kind, flush=True))
except sweep.Interrupted as stop:
    print(*[r.state for r in stop.records], flush=True)
    raise SystemExit(1)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("no_fork", "number"), [("0", signal.SIGINT), ("0", signal.SIGTERM), ("1", signal.SIGTERM)]
)
def test_stopping_leaves_no_process_and_resumes(make_workspace, no_fork, number):
    wait = """
    import time, subprocess, sys
    from pathlib import Path
    ours = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)", label])
    while not Path("go-on").exists():
        time.sleep(0.1)
    ours.kill()
    """
    mark = f"mark-{os.getpid()}-{no_fork}-{number}"
    parameters = f'label: str = "{mark}"\nlevel: float = 1.0\nsteps: int = 1\nout: str = ""'
    ws = make_workspace(
        {"group/tiny": notebook_text(IMPORTS, wait, ROWS, WRITE, parameters=parameters)}
    )
    process = subprocess.Popen(
        [sys.executable, "-c", SWEEPER, str(ws.root)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PET_LAB_NO_FORK": no_fork},
        start_new_session=True,
    )
    wait_for(lambda: len(running(mark)) == 2, 60)
    os.killpg(process.pid, number)  # as a terminal sends Ctrl-C: to the whole group
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    # The first two begun need not be the first two asked for: see `clock.teaching_order`.
    assert sorted(said.split()[-3:]) == ["interrupted", "interrupted", "planned"]
    assert_gone(mark)
    assert_gone(str(ws.root))
    assert not list(ws.runs.rglob(".attempt-*"))

    specs = sweep.plan(ws, "tiny", {}, {"level": [1.0, 2.0, 3.0]})
    pending = sorted(sweep.pending(ws, specs).values())
    assert pending == ["interrupted", "interrupted", "new"]
    if number == signal.SIGINT:
        (ws.root / "go-on").touch()
        assert not problems(sweep.execute(ws, specs, jobs=2))


def wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


# --- bad places --------------------------------------------------------------------------------


@pytest.fixture
def small_disk(make_workspace):
    """A workspace whose run folder is a file system of 64 KiB; root may mount one."""
    ws = make_workspace({"group/tiny": BODY})
    ws.runs.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(ws.runs)]
    if (
        sys.platform != "linux"
        or subprocess.run(mount, check=False, capture_output=True).returncode
    ):
        pytest.skip("a small file system can be mounted by root on Linux only")
    yield ws
    subprocess.run(["umount", "-l", str(ws.runs)], check=False)


def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(small_disk):
    ws = small_disk
    specs = sweep.plan(ws, "tiny", {}, {"steps": [1, 30_000]})
    records = sweep.execute(ws, specs, jobs=1)
    assert [r.state for r in records] == ["done", "failed"], problems(records)
    assert "No space is left" in records[1].problem
    assert not list(ws.runs.rglob("*.tmp"))
    assert not list(ws.runs.rglob(".attempt-*"))
    assert len(results.read(ws, "tiny")) == 1

    (ws.runs / "ballast").write_bytes(b"x" * 4096)
    with pytest.raises(OSError, match="No space"):
        (ws.runs / "more").write_bytes(b"x" * 200_000)
    with pytest.raises(
        WorkspaceError, match=r"No space is left to write papermill_runs: free some"
    ):
        sweep.execute(ws, specs, jobs=1)


def test_a_read_only_folder_is_told_before_anything_runs(make_workspace, monkeypatch):
    ws = make_workspace()

    def fail(path, data):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(files, "write_atomic", fail)
    with pytest.raises(WorkspaceError, match="papermill_runs cannot be written"):
        sweep.execute(ws, sweep.plan(ws, "tiny"))


def test_a_run_that_cannot_be_stored_does_not_stop_the_others(make_workspace, monkeypatch):
    ws = make_workspace()
    specs = sweep.plan(ws, "tiny", {}, {"level": [1, 2]})
    real = runs.finish

    def sometimes(attempt, folder, record):
        if folder.name == specs[0].run_id:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(attempt, folder, record)

    monkeypatch.setattr(runs, "finish", sometimes)
    records = sweep.execute(ws, specs, jobs=1)
    assert [r.state for r in records] == ["failed", "done"]
    assert records[0].problem.startswith(
        "NotStored: No space is left to write papermill_runs/group"
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"jobs": 0}, "expected at least 1"),
        ({"timeout": 0}, "expected more than 0"),
        ({"timeout": float("nan")}, "expected more than 0"),
        ({"executor": "slurm"}, "expected local or dask:ADDRESS"),
        ({"executor": "dask:"}, "such as dask:tcp"),
    ],
)
def test_wrong_options_are_refused(make_workspace, options, says):
    ws = make_workspace()
    with pytest.raises(ParameterError, match=says):
        sweep.execute(ws, sweep.plan(ws, "tiny"), **options)


# --- progress ----------------------------------------------------------------------------------


def test_profile_runs_are_those_done_and_fresh(make_workspace):
    ws = make_workspace(sweep={"group": SWEEP})
    specs = sweep.plan_profile(ws, "tiny", "quick")
    sweep.execute(ws, specs[:1], jobs=1)
    assert [r.run_id for r in sweep.profile_runs(ws, "tiny", "quick")] == [specs[0].run_id]
    assert [runs.current(ws, spec).state for spec in specs] == ["done", "planned"]
    path = ws.notebooks / "group" / "tiny.ipynb"
    path.write_text(notebook_text(*BODY, "1"))
    assert sweep.profile_runs(ws, "tiny", "quick") == []
    assert len(sweep.profile_runs(ws, "tiny", "quick", stale=True)) == 1
    assert sweep.pending(ws, specs[:1])[specs[0]] == "stale: the notebook's code changed"


def test_cores_are_those_we_may_use():
    assert 1 <= kernels.cores() <= (os.cpu_count() or 1)
