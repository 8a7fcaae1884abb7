"""The command line: what it prints, and its exit codes."""

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from tiny_notebooks import BODY, IMPORTS, WRITE

from pet_lab import __version__, cli, data
from pet_lab.cli import shared
from pet_lab.data import DataMissing
from pet_lab.workbench import locks


@pytest.fixture
def call(make_workspace, monkeypatch, capsys):
    """`call("list", ...)` in a workspace -> (exit code, stdout, stderr)."""
    ws = make_workspace(
        {
            "group/tiny": BODY,
            "group/broken": (IMPORTS, "raise ValueError('no such luck')"),
            "group/needs_data": (
                "from pet_lab.data import DataMissing",
                "raise DataMissing('thing.csv is not here')",
            ),
        },
        sweep={"group": "[tiny.quick]\nparameters = {steps = 1}\ngrid = {level = [1.0, 2.0]}\n"},
    )
    monkeypatch.setenv("PET_LAB_HOME", str(ws.root))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*args):
        with pytest.raises(SystemExit) as end:
            cli.main(args)
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err

    run.ws = ws
    return run


def test_version_and_help(call):
    assert call("--version") == (0, f"pet-lab {__version__}\n", "")
    commands = "list describe run sweep status report scorecard reproduce data lab doctor".split()
    for words in ([], *([c] for c in commands), *(["data", c] for c in ("list", "fetch"))):
        code, out, _ = call(*words, "--help")
        assert code == 0
        assert "Usage" in out


def test_party_is_a_group_of_its_own(call):
    code, out, _ = call("party", "--help")
    assert code == 0
    assert all(word in out for word in ("pet-lab party", "serve", "join", "send", "query"))
    assert call("party", "nonsense")[0] == 2


def test_list_and_describe_say_the_same_in_json(call):
    code, out, _ = call("list", "--json")
    assert code == 0
    assert [i["name"] for i in json.loads(out)] == [
        "group/broken",
        "group/needs_data",
        "group/tiny",
    ]
    code, out, _ = call("describe", "tiny", "--json")
    told = json.loads(out)
    assert told["claim"] == "It holds."
    assert told["parameters"][0] == {
        "name": "level",
        "type": "float",
        "default": 1.0,
        "help": "a factor",
    }
    assert told["profiles"]["quick"]["runs"] == 2
    assert "out" not in [p["name"] for p in told["parameters"]]
    assert "a factor" in call("describe", "tiny")[1]


@pytest.mark.parametrize(
    ("words", "tells"),
    [
        (["run", "tiny", "-p", "levle=2"], "level"),
        (["run", "tiny", "-p", "steps=many"], "steps"),
        (["run", "tiny", "-p", "steps"], "steps"),
        (["run", "tini"], "group/tiny"),
        (["sweep", "tiny", "--grid", "levels=1,2"], "level"),
        (["sweep", "tiny", "--jobs", "0"], "jobs"),
        (["run", "tiny", "--timeout", "-1"], "timeout"),
        (["reproduce", "--profile", "huge"], "quick"),
        (["rnu"], "rnu"),
        (["sweep", "tiny", "--executor", "slurm"], "dask:ADDRESS"),
        (["sweep", "tiny", "--executor", "dask:"], "such as dask:tcp"),
        (["run", "tiny", "--timeout", "nan"], "timeout"),
        (["run", "tiny", "-p", "label=\udcff"], "UTF-8"),
        (["data", "fetch", "nothing"], "student_mat"),
        (["lab", "--port", "70000"], "port"),
        (["rows", "tini"], "group/tiny"),
        (["report", "--run", "abc"], "abc"),
    ],
)
def test_usage_errors_exit_2_in_words_and_run_nothing(call, words, tells):
    code, _, err = call(*words)
    assert code == 2
    assert tells in err
    assert "Traceback" not in err
    assert not call.ws.runs.exists()


def test_no_workspace_is_a_usage_error(call, tmp_path):
    code, _, err = call("--workspace", str(tmp_path / "nowhere"), "list")
    assert code == 2
    assert "no folder notebooks/" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tiny = 3", "group/sweep.toml, [tiny]: expected a table of names and values, got 3."),
        ("[tiny]\nquick = [1]", "[tiny.quick]: expected a table of names and values, got [1]."),
        ("[tiny.quick]\nstep = 1", "expected the tables parameters and grid, got 'step'."),
        ("[tiny.quick]\ngrid = 1", "[tiny.quick.grid]: expected a table"),
        ('[tiny.quick]\nparameters = "a"', "[tiny.quick.parameters]: expected a table"),
        ("[tiny.quick.grid]\nlevel = 1", "Grid values of level must be a list, got 1."),
        ("[[tiny]]\nquick = 1", "[tiny]: expected a table of names and values"),
        (None, "group/sweep.toml cannot be read: Is a directory."),
    ],
)
def test_a_sweep_file_of_a_wrong_shape_is_one_sentence(call, text, says):
    file = call.ws.notebooks / "group" / "sweep.toml"
    file.unlink()
    file.mkdir() if text is None else file.write_text(text)
    for words in ("sweep tiny --profile quick --dry-run", "describe tiny", "report tiny"):
        code, _, err = call(*words.split())
        assert code == 2, words
        assert says in err
        assert err.count("\n") == 1


def test_a_folder_in_place_of_a_notebook_is_one_sentence(call):
    (call.ws.notebooks / "group" / "odd.ipynb").mkdir()
    code, _, err = call("run", "group/odd")
    assert code == 2
    assert err.startswith("pet-lab: group/odd.ipynb is a folder; ")
    assert err.count("\n") == 1
    code, out, _ = call("list", "--json")
    assert code == 0
    assert len(json.loads(out)) == 3, "the others are there"


@pytest.mark.skipif(os.name == "nt", reason="POSIX rights")
@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("papermill_runs", "run tiny"),
        ("reports", "report"),
        ("reports", "rows tiny --csv reports/r.csv"),
    ],
)
def test_a_read_only_folder_is_one_sentence(call, monkeypatch, folder, words):
    (call.ws.root / folder).mkdir()
    monkeypatch.chdir(call.ws.root)
    real = os.open

    def refuse(path, flags, *rest, **how):  # root may write anywhere, so rights alone do not do
        if flags & os.O_CREAT and f"/{folder}/" in os.path.abspath(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, flags, *rest, **how)

    monkeypatch.setattr(os, "open", refuse)
    code, _, err = call(*words.split())
    assert code == 1
    assert err.startswith("pet-lab: ")
    assert "cannot be written (Permission denied)" in err
    assert err.count("\n") == 1
    assert ".tmp" not in err


def complete(ws, *words):
    """What the shell is offered for the last of the words."""
    program = str(Path(sys.executable).with_name("pet-lab"))
    line = {"COMP_WORDS": " ".join(["pet-lab", *words]), "COMP_CWORD": str(len(words))}
    mode = {"_PET_LAB_COMPLETE": "complete_bash", "PET_LAB_HOME": str(ws.root)}
    done = subprocess.run(
        [program], env={**os.environ, **mode, **line}, capture_output=True, text=True, check=False
    )
    return done.stdout.split()


def test_the_shell_is_offered_notebooks_and_parameters(call):
    assert complete(call.ws, "run", "ti") == ["tiny"]
    assert complete(call.ws, "report", "group/") == [
        "group/broken",
        "group/needs_data",
        "group/tiny",
    ]
    assert complete(call.ws, "run", "tiny", "-p", "s") == ["steps=", "sizes=", "seed="]
    assert complete(call.ws, "sweep", "tiny", "--grid", "l") == ["level=", "label="]
    assert complete(call.ws, "run", "nothing", "-p", "s") == []


def test_the_doctor_is_not_red_where_a_stand_in_serves(call, monkeypatch, tmp_path):
    monkeypatch.delenv("PET_LAB_DATA", raising=False)
    monkeypatch.setenv("PET_LAB_CACHE", str(tmp_path / "cache"))
    out = call("doctor")[1]
    for name in data.REGISTRY:
        assert f"ok   data {name}: absent: a stand-in is used" in out
    item = next(iter(data.listing())) | {"state": "cache", "ok": False}
    monkeypatch.setattr(data, "listing", lambda: [item])
    code, out, _ = call("doctor")
    assert code == 1
    assert f"FIX  data {item['name']}: cache: not as registered" in out


@pytest.mark.skipif(os.name == "nt", reason="signals are sent the POSIX way")
def test_lab_hands_signals_on_and_says_what_root_must_do(call, monkeypatch, tmp_path):
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))
    started = []
    monkeypatch.setattr(os, "execve", lambda *call: started.append(call))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    code, _, err = call("lab", "--no-browser")
    assert (code, started) == (1, [])
    assert "pet-lab lab -- --allow-root" in err
    call("lab", "--no-browser", "--", "--allow-root")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    call("lab", "--no-browser")
    assert [command[0] for _, command, _ in started] == [sys.executable] * 2
    assert "--allow-root" in started[0][1]


def test_a_sweep_runs_resumes_and_reports_failures(call):
    code, out, _ = call("sweep", "tiny", "--profile", "quick", "--dry-run")
    assert code == 0
    assert "2 of 2 runs would be executed" in out

    code, out, err = call("sweep", "tiny", "--profile", "quick", "--json", "--jobs", "2")
    assert code == 0
    assert [r["state"] for r in json.loads(out)] == ["done", "done"]
    assert re.search(r"\[2/2\]", err), "progress goes to stderr"

    code, out, _ = call("sweep", "tiny", "--profile", "quick")
    assert code == 0
    assert "0 done now, 2 done before" in out

    code, _, err = call("run", "broken")
    assert code == 1
    assert "no such luck" in err
    code, _, err = call("run", "needs_data")
    assert code == 3
    assert "thing.csv is not here" in err

    code, out, _ = call("status", "--json")
    states = {i["notebook"]: i["state"] for i in json.loads(out)}
    assert states == {
        "group/tiny": "done",
        "group/broken": "failed",
        "group/needs_data": "failed",
    }


def test_a_sweep_ends_with_a_page_and_a_run_can_be_forgotten(call):
    code, out, _ = call("sweep", "tiny", "--grid", "level=3,4,5", "--set", "steps=4")
    assert code == 0
    page = re.search(r"^Page: (reports/group-tiny-sweep-[0-9a-f]{8}\.html)$", out, re.MULTILINE)
    text = (call.ws.root / page[1]).read_text()
    ids = [r.run_id for r in shared.sweep.runs.records(call.ws, "group/tiny")]
    assert all(f'<a href="group-tiny-{run}.html">' in text for run in ids)

    code, out, _ = call("status")
    assert all(f"level={value}.0 " in out for value in (3, 4, 5))
    assert "steps" not in out, "it is the same in all"
    code, _, err = call("forget", ids[0], "zzz")
    assert code == 2
    assert "'zzz'" in err
    code, out, _ = call("forget", ids[0], ids[1][:6])
    assert (code, out) == (0, f"forgotten: group/tiny/{ids[0]}\nforgotten: group/tiny/{ids[1]}\n")
    assert [i["run_id"] for i in json.loads(call("status", "--json")[1])] == ids[2:]
    assert {p.name for p in call.ws.reports.glob("group-tiny-??????*.html")} == {
        page[1].rpartition("/")[2],
        f"group-tiny-{ids[2]}.html",
    }
    assert not (call.ws.runs / "group" / "tiny" / ids[0]).exists()


def test_a_running_run_is_not_forgotten(call):
    assert call("run", "tiny")[0] == 0
    (record,) = call.ws.runs.rglob("run.json")
    with locks.lock(record.parent / ".lock"):
        code, _, err = call("forget", record.parent.name)
    assert code == 1
    assert "is being executed" in err
    assert record.exists()


def test_reproduce_prints_the_tally_and_where_the_page_is(call):
    code, out, _ = call("reproduce", "tiny")
    assert code == 0
    lines = out.splitlines()
    assert re.match(r"Of \d+ printed cells", lines[0])
    assert lines[-1] == "Reports: reports/index.html"
    assert len(lines) <= 5
    assert call("scorecard")[1].startswith("  ") or "verdict" in call("scorecard")[1]


def test_missing_data_exits_3_with_the_fix(call, monkeypatch, tmp_path):
    monkeypatch.delenv("PET_LAB_DATA", raising=False)
    monkeypatch.setenv("PET_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PET_LAB_OFFLINE", "1")
    code, _, err = call("data", "fetch", "student_mat")
    assert code == 3
    for part in ("student-mat.csv", data.REGISTRY["student_mat"].sha256, "pet-lab data import"):
        assert part in err
    assert call("data", "verify", "student_mat")[0] == 3
    (tmp_path / "odd.csv").write_text("a,b\n1,2\n")
    code, _, err = call("data", "import", str(tmp_path / "odd.csv"))
    assert code == 1
    assert "odd.csv is not" in err
    assert issubclass(DataMissing, ValueError)


def test_data_check_says_what_the_reader_decides(call, tmp_path):
    (tmp_path / "my.csv").write_text("id;share;day\n007;1,5;2024-01-31\n008;:;2024-02-01\n")
    code, out, _ = call("data", "check", str(tmp_path / "my.csv"))
    assert code == 0
    for words in ("my.csv: 2 rows, 3 columns", "separated by semicolon", "missing", "number"):
        assert words in out
    code, out, _ = call("data", "check", str(tmp_path / "my.csv"), "--json")
    facts = json.loads(out)
    kinds = {c["name"]: (c["kind"], c["missing"]) for c in facts["columns"]}
    assert code == 0
    assert kinds == {"id": ("text", 0), "share": ("number", 1), "day": ("date", 0)}
    assert facts["rows"] == 2
    (tmp_path / "bad.csv").write_text("a,b\n1,2,3\n")
    code, out, err = call("data", "check", str(tmp_path / "bad.csv"))
    assert (code, out) == (1, "")
    assert err.startswith("pet-lab: bad.csv: ")
    assert err.count("\n") == 1
    assert call("data", "check", str(tmp_path / "absent.csv"))[0] == 3


def test_rows_can_be_taken_away(call, tmp_path):
    assert call("run", "tiny")[0] == 0
    code, out, _ = call("rows", "tiny")
    printed = pd.read_csv(io.StringIO(out))
    assert code == 0
    assert printed["value"].tolist() == [10.0, 11.0]
    files = {"--csv": tmp_path / "r.csv", "--parquet": tmp_path / "r.parquet"}
    code, out, err = call("rows", "tiny", *(str(w) for pair in files.items() for w in pair))
    assert (code, out) == (0, "")
    assert "2 rows: " in err
    assert pd.read_csv(files["--csv"])["run_id"].tolist() == printed["run_id"].tolist()
    assert pd.read_parquet(files["--parquet"])["value"].tolist() == [10.0, 11.0]
    code, _, err = call("rows", "tiny", "--csv", str(tmp_path / "nowhere" / "r.csv"))
    assert code == 1
    assert err.count("\n") == 1


def test_a_damaged_record_is_one_sentence_in_status(call):
    assert call("run", "tiny")[0] == 0
    (record,) = call.ws.runs.rglob("run.json")
    record.write_text("{")
    code, _, err = call("status")
    assert code == 0
    assert err.startswith("pet-lab: papermill_runs/group/tiny/")
    assert "is damaged" in err
    assert "its run.json is damaged" in call("sweep", "tiny", "--dry-run")[1]


STATE = ["group/tiny.ipynb", "group/sweep.toml", "run.json", "summary.json", "rows.parquet"]
DAMAGED = [b"", b"\xff\xfe\x00", b"{", b"[]", b"null", b'{"a": 1}', b"[" * 5000]


@pytest.mark.parametrize(
    "file",
    [*STATE, "notebook.ipynb", "pyproject.toml"],
)
def test_a_damaged_file_of_any_kind_is_never_a_bare_exception(call, file):
    """`main` lets a defect of ours through, so this test would see it."""
    assert call("run", "tiny")[0] == 0
    (damaged,) = [p for p in call.ws.root.rglob("*") if p.as_posix().endswith(f"/{file}")]
    for content in DAMAGED:
        damaged.write_bytes(content)
        for words in ("list", "status", "scorecard", "rows tiny", "sweep tiny --dry-run"):
            code, _, err = call(*words.split())
            assert code in (0, 1, 2), (content, words)
            assert all(line.startswith("pet-lab: ") for line in err.splitlines()), err


@pytest.mark.slow
@pytest.mark.parametrize("file", ["run.json", "summary.json", "rows.parquet", "notebook.ipynb"])
def test_a_run_with_a_damaged_file_is_reported_or_run_again(call, file):
    assert call("run", "tiny")[0] == 0
    (damaged,) = call.ws.runs.rglob(file)
    for content in DAMAGED:
        damaged.write_bytes(content)
        assert call("report", "tiny")[0] in (0, 1), content
        assert call("run", "tiny")[0] == 0, content


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_what_the_file_system_refuses_is_one_sentence(call, monkeypatch, number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number), "/somewhere/scorecard.csv")

    monkeypatch.setattr(cli.files.os, "open", refuse)
    code, _, err = call("rows", "tiny", "--csv", "scorecard.csv")
    assert code == 1
    assert err.startswith("pet-lab: ")
    assert err.count("\n") == 1
    assert "scorecard.csv" in err
    assert "/somewhere" not in err


def test_scorecard_lists_every_printed_cell_run_or_not(call):
    code, out, _ = call("scorecard", "--json")
    cells = json.loads(out)
    assert code == 0
    assert {c["verdict"] for c in cells} == {"not run"}
    wanted = "source table where metric published ours se replicates verdict as note".split()
    assert all(set(wanted) <= set(c) for c in cells)
    assert all(isinstance(c["where"], dict) for c in cells)


def test_a_defect_of_ours_is_not_hidden(call, monkeypatch):
    monkeypatch.setattr(shared.notebooks, "find", lambda ws: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["list"])


@pytest.mark.skipif(os.name == "nt", reason="signals are sent the POSIX way")
@pytest.mark.parametrize(
    "sign",
    [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)],
    ids=["ctrl-c", "sigterm"],
)
def test_a_stopped_sweep_says_that_it_resumes(make_workspace, sign):
    ws = make_workspace(
        {"group/slow": (IMPORTS, "import time; time.sleep(60)", "rows = []", WRITE)}
    )
    # A test run started in the background is born with Ctrl-C ignored, and hands that on.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{heed}; from pet_lab import cli; cli.main(['run', 'slow'])"]
    sweep = subprocess.Popen(
        command,
        env={**os.environ, "PET_LAB_HOME": str(ws.root)},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(ws.runs.rglob(".attempt-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1.0)
    sweep.send_signal(sign)
    _, err = sweep.communicate(timeout=60)
    assert sweep.returncode == 130
    assert "resume" in err
    assert "Traceback" not in err
