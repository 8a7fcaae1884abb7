"""Identity and freshness of a run, and its way into its folder."""

import itertools
import json
import shutil
import textwrap
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_notebooks import BODY, IMPORTS, notebook_text

from pet_lab import files
from pet_lab.workbench import closure, locks, notebooks, runs, sweep
from pet_lab.workbench.runs import RunSpec

json_values = st.one_of(
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.text(),
    st.lists(st.integers()),
)
parameter_sets = st.dictionaries(st.text(min_size=1), json_values)


# --- identity ----------------------------------------------------------------------------------


def run_id(notebook, parameters):
    return RunSpec.of(notebook, parameters).run_id


@given(parameter_sets, st.randoms())
def test_the_id_does_not_depend_on_order_or_on_out(parameters, random):
    items = list(parameters.items())
    random.shuffle(items)
    shuffled = {**dict(items), "out": "anywhere"}
    assert run_id("g/n", shuffled) == run_id("g/n", {**parameters, "out": ""})


@given(parameter_sets, parameter_sets)
def test_different_parameters_have_different_ids(one, other):
    def text(p):
        return files.canonical_json({k: v for k, v in p.items() if k != "out"})

    assert (run_id("n", one) == run_id("n", other)) == (text(one) == text(other))


def test_the_id_is_what_it_has_always_been():
    """A changed id would orphan every stored run."""
    parameters = {"epsilon": 1.0, "seed": 7, "name": "ä", "sizes": [1, 2], "wide": True}
    assert run_id("private_ml/x", parameters) == "ccf7b44e493c"
    assert len(run_id("x", {})) == 12


@given(st.integers(-(2**53), 2**53))
def test_an_int_given_for_a_float_is_the_same_run(number):
    params = notebooks.parse_cell('x: float = 0.5\nout: str = ""')
    ids = {
        RunSpec.of("n", notebooks.check(params, {"x": x})).run_id for x in (number, float(number))
    }
    assert len(ids) == 1


def test_minus_zero_is_zero():
    params = notebooks.parse_cell('x: float = 0.5\nout: str = ""')
    ids = {run_id("n", notebooks.check(params, {"x": x})) for x in (0, 0.0, -0.0)}
    assert len(ids) == 1


# --- what a notebook relies on -----------------------------------------------------------------


@pytest.fixture
def package(tmp_path):
    root = tmp_path / "pet_lab"
    sources = {
        "__init__.py": "",
        "data.py": "import numpy\nfrom pet_lab import errors\n",
        "errors.py": "class E(Exception): pass\n",
        "synth.py": "def f():\n    from . import data\n    return data\n",
        "psi/__init__.py": "from .engines import E\n",
        "psi/engines.py": "from ..errors import E\n",
        "psi/extra.py": "x = 1\n",
        "dpsgd/__init__.py": "def __getattr__(name): ...\n",
        "dpsgd/slow.py": "import pandas\nx = 1\n",
        "workbench/__init__.py": "",
        "workbench/plots.py": "import matplotlib\n",
        "workbench/report.py": "x = 1\n",
        "workbench/results.py": "from pet_lab.workbench import runs\n",
        "workbench/runs.py": "x = 1\n",
    }
    for name, text in sources.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("code", "reached"),
    [
        ("import numpy", set()),
        ("from pet_lab import data", {"", "data", "errors"}),
        ("from pet_lab import synth", {"", "synth", "data", "errors"}),
        ("import pet_lab.psi.engines", {"", "psi", "psi.engines", "errors"}),
        ("from pet_lab.psi import E", {"", "psi", "psi.engines", "errors"}),
        ("from pet_lab.workbench import plots as p", {"", "workbench", "workbench.plots"}),
        ("from pet_lab.workbench import results", {"", "workbench", "workbench.results"}),
        ("from pet_lab import dpsgd", {"", "dpsgd", "dpsgd.slow"}),
        ("%matplotlib inline\n!ls\nfrom pet_lab import errors", {"", "errors"}),
    ],
)
def test_imports_are_followed_inside_the_package(package, code, reached):
    found = closure.modules([code], package)
    assert {n.removeprefix("pet_lab").removeprefix(".") for n in found} == reached


def test_what_is_not_python_counts_as_everything(package):
    assert "pet_lab.workbench.report" in closure.modules(["x ="], package)


def test_comments_docstrings_and_layout_do_not_count(package):
    def digest(text):
        (package / "errors.py").write_text(textwrap.dedent(text))
        return closure.modules(["from pet_lab import errors"], package)["pet_lab.errors"]

    first = digest('''\
        """Words."""
        from __future__ import annotations
        def f(x):
            """More."""
            return x in {"a", "b"} and (1, 2)
        ''')
    same = digest('''\
        """Other words."""

        from __future__ import annotations

        def f(x):  # a comment
            return (
                x in {"a", "b"} and (1, 2)
            )
        ''')
    other = digest("""\
        from __future__ import annotations
        def f(x):
            return x in {"a", "b"} and (1, 3)
        """)
    assert first == same != other


def test_data_files_count_with_the_module_that_reads_them(package):
    names = ("pet_lab.synth", "pet_lab.errors")
    (package / "synth.py").write_text("PINS = 'pins.json'\n")
    (package / "pins").mkdir()

    def digests():
        hashes = closure.modules(["from pet_lab import errors, synth"], package)
        return [hashes[name] for name in names]

    seen = [digests()]
    for file in ("synth.toml", "pins/pins.json", "other.toml"):
        (package / file).write_text("x = 1")
        seen.append(digests())
    (package / "synth.toml").write_text("x = 22")
    seen.append(digests())
    of_synth, of_errors = zip(*seen, strict=True)
    assert len(set(of_errors)) == 1
    assert [a == b for a, b in itertools.pairwise(of_synth)] == [False, False, True, False]


def test_hashes_are_the_same_in_another_process(package):
    import subprocess
    import sys

    cell = "import pet_lab.workbench.results"
    code = f"from pet_lab.workbench import closure; print(closure.modules([{cell!r}]))"
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert said == {f"{closure.modules([cell])}\n"}


def test_third_party_packages_at_import_time(package):
    code = ["import scipy.stats\nfrom pet_lab import data, dpsgd"]
    assert closure.third_party(code, package) >= {"scipy", "numpy", "pandas"}


# --- freshness ---------------------------------------------------------------------------------


@pytest.fixture
def done(make_workspace):
    """A workspace with one done run, the executed part faked: only its files matter here."""
    ws = make_workspace()
    (spec,) = sweep.plan(ws, "tiny")
    fake_run(ws, spec)
    return ws, spec


def fake_run(ws, spec, **known):
    with runs.claimed(ws, spec) as folder:
        attempt = runs.new_attempt(folder)
        fill(attempt, known.pop("data", []))
        return runs.finish(attempt, folder, record_of(ws, spec, **known))


def record_of(ws, spec, **known):
    known = {
        "state": runs.DONE,
        "started": runs.now(),
        "ended": runs.now(),
        "fingerprints": runs.fingerprints(ws, spec.notebook),
        **known,
    }
    return runs.of_spec(spec, ws, **known)


def fill(attempt, data=()):
    source = json.loads(notebook_text(*BODY))
    (attempt / runs.NOTEBOOK).write_text(json.dumps(source))
    (attempt / runs.ROWS).write_bytes(b"rows")
    (attempt / runs.SUMMARY).write_text(json.dumps({"data": list(data)}))


def why(ws, spec, **options):
    return list(sweep.pending(ws, [spec], **options).values())


def test_done_and_fresh_is_skipped_and_force_is_not(done):
    ws, spec = done
    assert why(ws, spec) == []
    assert why(ws, spec, force=True) == ["forced"]
    assert runs.current(ws, spec).ok


def test_changed_code_is_stale_and_changed_text_is_not(done):
    ws, spec = done
    path = notebooks.path(ws, "tiny")
    path.write_text(notebook_text(*BODY, title="# Better words\n\n**Claim.** It really holds."))
    assert why(ws, spec) == []
    path.write_text(notebook_text(*BODY, "1"))
    assert why(ws, spec) == ["stale: the notebook's code changed"]


def test_changed_text_is_brought_into_the_stored_notebook(done):
    ws, spec = done
    notebooks.path(ws, "tiny").write_text(notebook_text(*BODY, title="# Better words"))
    (record,) = sweep.execute(ws, [spec])
    assert record.skipped
    assert notebooks.title(record.path) == "Better words"
    assert runs.load(record.folder).ok
    assert (
        runs.load(record.folder).fingerprints["prose"]
        == runs.fingerprints(ws, "group/tiny")["prose"]
    )


def test_a_changed_module_is_named(done, monkeypatch):
    ws, spec = done
    real = closure.modules
    monkeypatch.setattr(
        closure, "modules", lambda code: {**real(code), "pet_lab.workbench.results": "other"}
    )
    assert why(ws, spec) == ["stale: pet_lab.workbench.results changed"]


def test_a_changed_lock_is_stale_but_not_our_own_version(done):
    ws, spec = done
    lock = 'name = "numpy"\nversion = "1"\n\n[[package]]\nname = "pet-lab"\nversion = "{}"\n'
    (ws.root / "uv.lock").write_text(lock.format("0.1"))
    assert why(ws, spec) == ["stale: the locked environment changed"]
    before = runs.lock_hash(ws)
    (ws.root / "uv.lock").write_text(lock.format("0.2.0"))
    assert runs.lock_hash(ws) == before


def test_changed_data_is_stale_and_unknown_data_is_not(make_workspace):
    ws = make_workspace()
    (spec,) = sweep.plan(ws, "tiny")
    fake_run(ws, spec, data=[{"name": "students", "sha256": "abc", "kind": "real"}])
    assert why(ws, spec, data_fingerprint=lambda *_: "abc") == []
    assert why(ws, spec, data_fingerprint=lambda *_: None) == []
    changed = why(ws, spec, data_fingerprint=lambda *_: "def")
    assert changed == ["stale: the data set students changed"]


def test_real_data_that_is_not_visible_any_more_leaves_the_evidence(make_workspace, monkeypatch):
    from pet_lab import data
    from pet_lab.cli import shared

    entry = data.REGISTRY["student_mat"]
    monkeypatch.setenv("PET_LAB_CACHE", str(make_workspace().root / "cache"))
    monkeypatch.delenv("PET_LAB_DATA", raising=False)
    ws = make_workspace()
    (spec,) = sweep.plan(ws, "tiny")
    item = {"name": entry.name, "sha256": entry.sha256, "kind": "real"}
    fake_run(ws, spec, data=[item])
    assert why(ws, spec, data_fingerprint=shared.data_fingerprint) == []
    now = data.fingerprint(entry.name)
    fake_run(ws, spec, data=[item | {"kind": "stand-in", "sha256": now}])
    assert why(ws, spec, data_fingerprint=shared.data_fingerprint) == []
    fake_run(ws, spec, data=[item | {"kind": "stand-in", "sha256": "older"}])
    changed = why(ws, spec, data_fingerprint=shared.data_fingerprint)
    assert changed == ["stale: the data set student_mat changed"]


OWN = (
    IMPORTS,
    "from pet_lab.data import read_table",
    "own = read_table(label)",
    'rows = [{"replicate": 0, "metric": "m", "value": float(own.frame["x"].sum())}]',
    """
    item = {"name": label.split("/")[-1], "sha256": own.sha256, "kind": "own"}
    results.write(rows, out, headline="It holds.", data=[item])
    """,
)


def test_the_content_of_an_own_file_decides_wherever_one_stands(
    make_workspace, tmp_path, monkeypatch
):
    """Edited: run again. Another file of its name elsewhere, or no file any more: no matter."""
    ws = make_workspace({"group/own": OWN})
    for name, number in (("mine", 1), ("yours", 2), ("nobody", None)):
        (tmp_path / name).mkdir()
        if number:
            (tmp_path / name / "my.csv").write_text(f"x,y\n{number},0\n")
    mine = tmp_path / "mine" / "my.csv"
    monkeypatch.chdir(mine.parent)
    (relative,) = sweep.plan(ws, "own", {"label": "my.csv"})
    (absolute,) = sweep.plan(ws, "own", {"label": str(mine)})
    first, second = sweep.execute(ws, [relative, absolute], jobs=1)
    assert (first.ok, second.ok) == (True, True), (first.problem, second.problem)
    assert first.inputs == {"my.csv": files.sha256_file(mine)}
    assert str(tmp_path) not in (first.folder / runs.RECORD).read_text() + first.path.read_text()

    def stale(record):
        return runs.stale(runs.load(record.folder), runs.fingerprints(ws, "group/own"))

    monkeypatch.chdir(tmp_path / "nobody")
    assert why(ws, relative) == why(ws, absolute) == stale(first) == []
    monkeypatch.chdir(tmp_path / "yours")
    assert why(ws, absolute) == stale(first) == stale(second) == []
    assert why(ws, relative) == ["stale: the file my.csv changed"], "here the path means another"
    (tmp_path / "yours" / "my.csv").write_bytes(mine.read_bytes())
    assert why(ws, relative) == []

    mine.write_text("x,y\n30,0\n")
    assert why(ws, absolute) == ["stale: the file my.csv changed"]
    assert stale(first) == ["the file my.csv changed"]
    (again,) = sweep.execute(ws, [absolute], jobs=1)
    assert (again.ok, again.skipped) == (True, False)
    mine.unlink()
    assert why(ws, absolute) == []


def test_failed_before_and_interrupted_are_tried_again(make_workspace):
    ws = make_workspace()
    (spec,) = sweep.plan(ws, "tiny")
    assert why(ws, spec) == ["new"]
    error = {"name": "E", "value": "no", "cell": 3}
    fake_run(ws, spec, state=runs.FAILED, error=error)
    assert why(ws, spec) == ["failed before: E: no (cell 3)"]
    fake_run(ws, spec, state=runs.INTERRUPTED)
    assert why(ws, spec) == ["interrupted"]


# --- the way into the folder -------------------------------------------------------------------


def test_a_record_holds_no_path_and_reads_back(done):
    ws, spec = done
    folder = spec.folder(ws)
    text = (folder / runs.RECORD).read_text()
    assert str(ws.root) not in text
    record = runs.load(folder)
    assert record.seed == 7
    assert record.parameters == spec.parameters
    assert json.loads(text)["hashes"].keys() == {runs.ROWS, runs.SUMMARY}


def test_a_crash_at_any_move_loses_neither_the_old_nor_the_new(make_workspace, monkeypatch):
    """Stop before the n-th file operation of a commit, for every n; then look, then settle."""
    ws = make_workspace()
    (spec,) = sweep.plan(ws, "tiny")
    folder = spec.folder(ws)

    class Crash(BaseException):
        pass

    for stop_at in range(12):
        shutil.rmtree(ws.runs, ignore_errors=True)
        fake_run(ws, spec, wall_s=1.0)
        calls = 0

        def counted(real, stop_at=stop_at):
            def call(*args, **kwargs):
                nonlocal calls
                calls += 1
                if calls > stop_at:
                    raise Crash
                return real(*args, **kwargs)

            return call

        crashed = False
        with runs.claimed(ws, spec), monkeypatch.context() as patch:
            attempt = runs.new_attempt(folder)
            fill(attempt)
            (attempt / runs.ROWS).write_bytes(b"newer rows")
            (attempt / runs.NOTEBOOK).write_text("newer notebook")
            patch.setattr(runs.os, "replace", counted(runs.os.replace))
            patch.setattr(runs.files.os, "fsync", counted(runs.files.os.fsync))
            try:
                runs.finish(attempt, folder, record_of(ws, spec, wall_s=2.0))
            except Crash:
                crashed = True
        record = runs.load(folder)
        if record.ok:  # what a reader may trust is of one piece
            rows = (folder / runs.ROWS).read_bytes()
            assert rows == (b"rows" if record.wall_s == 1.0 else b"newer rows")
            newer = (folder / runs.NOTEBOOK).read_text() == "newer notebook"
            assert newer == (record.wall_s == 2.0)
        recorded = any(folder.glob(f"{runs.ATTEMPT}*/{runs.RECORD}"))
        with runs.claimed(ws, spec):
            settled = runs.load(folder)
        assert settled.ok
        assert settled.wall_s == (2.0 if recorded or not crashed else 1.0)
        assert not list(folder.glob(f"{runs.ATTEMPT}*"))
        if not crashed:
            return
    pytest.fail("the commit has more steps than this test walks through")


def test_an_unfinished_attempt_is_interrupted_and_then_swept_away(make_workspace):
    ws = make_workspace()
    (spec,) = sweep.plan(ws, "tiny")
    folder = spec.folder(ws)
    folder.mkdir(parents=True)
    attempt = runs.new_attempt(folder)
    (attempt / runs.ROWS).write_bytes(b"half")
    assert runs.current(ws, spec).state == runs.INTERRUPTED
    with runs.claimed(ws, spec):
        assert runs.current(ws, spec).state == runs.RUNNING
    assert not attempt.exists()
    assert runs.current(ws, spec).state == runs.PLANNED


def test_one_holder_at_a_time(make_workspace):
    ws = make_workspace()
    (spec,) = sweep.plan(ws, "tiny")
    with runs.claimed(ws, spec), pytest.raises(locks.Busy), runs.claimed(ws, spec):
        pass
    with runs.claimed(ws, spec):
        pass


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "\ud800", '{"state": "done"}', '{"state": 3}'),
        *({"hashes": ["a"]}, {"data": [3]}, {"parameters": None}, {"wall_s": "long"}, {"error": 1}),
    ],
)
def test_a_damaged_record_is_no_record_and_is_named(done, text):
    ws, spec = done
    path = spec.folder(ws) / runs.RECORD
    if isinstance(text, dict):
        text = json.dumps(json.loads(path.read_text()) | text)
    path.write_bytes(text.encode(errors="surrogatepass"))
    assert runs.load(spec.folder(ws)) is None
    assert why(ws, spec) == ["its run.json is damaged"]
    (sentence,) = runs.damaged(ws, spec.notebook)
    assert f"{spec.run_id}/run.json is damaged" in sentence


def test_done_without_hashes_is_not_done(done):
    ws, spec = done
    path = spec.folder(ws) / runs.RECORD
    stored = json.loads(path.read_text())
    stored["hashes"] = {}
    path.write_text(json.dumps(stored))
    assert why(ws, spec) == ["interrupted"]


def test_a_failure_replaces_rows_that_no_longer_stand(done):
    ws, spec = done
    with runs.claimed(ws, spec) as folder:
        attempt = runs.new_attempt(folder)
        (attempt / runs.FAILED_NOTEBOOK).write_text("{}")
        record = record_of(ws, spec, state=runs.FAILED, error={"name": "E", "value": "", "cell": 1})
        runs.finish(attempt, folder, record)
    assert sorted(p.name for p in folder.iterdir()) == [".lock", "failed.ipynb", "run.json"]


def test_what_an_extra_brings_is_named(tmp_path):
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert set(runs.EXTRAS) < set(declared["project"]["optional-dependencies"])
    error = {"name": "ModuleNotFoundError", "value": "No module named 'tenseal'", "cell": 3}
    record = runs.RunRecord(notebook="a", run_id="b", parameters={}, state="failed", error=error)
    assert record.problem.endswith("(cell 3); install it with the extra he, as the README says")
