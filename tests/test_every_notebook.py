"""Every notebook: in the house form, listed, with profiles, and its smallest run works offline."""

import ast
import json
import re
import subprocess
import sys

import browser
import pytest
from jupyter_client.manager import start_new_kernel

from pet_lab.workbench import notebooks, report, results, runs, sweep, trace, whatif
from pet_lab.workbench.workspace import Workspace

WS = Workspace.find(__file__)
NAMES = notebooks.find(WS)
MOST_CELLS = 30
MOST_LINES = 200  # of code, blank lines not counted
MOST_LINES_A_CELL = 25


def cells(name):
    return notebooks.read(notebooks.path(WS, name))["cells"]


@pytest.mark.parametrize("name", NAMES)
def test_house_form(name):
    notebooks.check_form(notebooks.path(WS, name))
    found = cells(name)
    assert len(found) <= MOST_CELLS, "an argument, not a program"
    code = [notebooks.source_of(c) for c in found if c["cell_type"] == "code"]
    assert not any(c.get("outputs") or c.get("execution_count") for c in found), "no outputs in git"
    defined = [
        node
        for text in code
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    ]
    assert not defined, "functions live in the package"
    lines = [sum(bool(line.strip()) for line in text.splitlines()) for text in code]
    assert sum(lines) <= MOST_LINES
    assert max(lines) <= MOST_LINES_A_CELL
    private = re.findall(r"\b(?!self\b)\w+\._[a-z]\w*", "\n".join(code))
    assert not private, "a notebook calls what is public"
    params = notebooks.parameters(notebooks.path(WS, name))
    assert params["seed"].type == "int"
    assert all(p.help for p in params.values()), "each parameter says what it is"
    text = json.dumps(found)
    for word in ("**Claim.**", "**Source.**", "## Takeaways", "## Differences", "results.write("):
        assert word in text, f"{word} is missing"
    assert re.search(r"explore\.(rows|call)\(", text), "it ends with an Explore panel"


@pytest.mark.parametrize("name", NAMES)
def test_profiles_fit_the_notebook(name):
    for profile in ("smoke", "quick", "full"):
        assert sweep.plan_profile(WS, name, profile)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_ends_under_plain_papermill_from_any_folder(name, tmp_path, monkeypatch):
    """No runner of ours, nothing set, another working folder: the user's own command."""
    monkeypatch.setenv("PET_LAB_OFFLINE", "1")
    monkeypatch.setenv("PET_LAB_CACHE", str(tmp_path / "cache"))
    for variable in ("PET_LAB_DATA", "PET_LAB_BATCH"):
        monkeypatch.delenv(variable, raising=False)
    smallest = sweep.profile(WS, name, "smoke")
    parameters = tmp_path / "smoke.yaml"
    parameters.write_text(json.dumps(smallest.parameters | {"out": ""}))
    source = notebooks.path(WS, name)
    done = subprocess.run(
        [sys.executable, "-m", "papermill", source, "out.ipynb", "-f", parameters],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    executed = notebooks.read(tmp_path / "out.ipynb")["cells"]
    assert all(c["execution_count"] for c in executed if c["cell_type"] == "code")


def flaws(executed):
    """What a reader should not see: a returned object's repr, a library's complaint."""
    for cell in executed:
        for output in cell.get("outputs", []):
            text = "".join(output.get("text", ""))
            if complaint := re.search(r"(Future|Deprecation)Warning: .*", text):
                yield complaint[0]
            data = output.get("data", {})
            plain = "".join(data.get("text/plain", ""))
            if set(data) == {"text/plain"} and re.match(r"\W*<[\w.]+[: ]", plain):
                yield plain


def test_a_repr_and_a_complaint_are_flaws():
    shown = {"text/html": "<p>", "text/plain": "<IPython.core.display.HTML object>"}
    texts = ["<Axes: >", "[<matplotlib.lines.Line2D at 0x7f>]", "1 < 2"]
    outputs = [{"data": shown}, *({"data": {"text/plain": [text]}} for text in texts)]
    outputs += [{"name": "stderr", "text": ["x.py:1: FutureWarning: old\n", "  f()\n"]}]
    assert [*flaws([{"outputs": outputs}])] == [*texts[:2], "FutureWarning: old"]


# Their panel draws or accounts anew and is live only: the report's points are the stored rows, of
# which this profile has few.
STORED = {"private_ml/dp_training_vs_dp_data", "private_ml/membership_sweep"}


# Real pages for axe-core: the widest formulas, the most panels, a table as the panel.
LOOKED_AT = {"psi/linkage_simulation", "psi/protocol", "primers/private_data_science"}


def points(executed):
    """Computed points of each panel of a report, as its caption says."""
    outputs = [output for cell in executed for output in cell.get("outputs", [])]
    panels = [o["data"][whatif.MIME] for o in outputs if whatif.MIME in o.get("data", {})]
    return [int(re.search(r"\((\d+) computed points\)", p["caption"])[1]) for p in panels]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["literature/encodings", "psi/analytics", "psi/typos"])
def test_ends_under_a_client_that_asks_as_vs_code_does(name, tmp_path, monkeypatch):
    """Its Jupyter extension sends one cell at a time, with these flags, from the notebook's folder.

    Nobody answers what a panel sends, as before its view is on the screen; no request for input may
    come, and the last cell has a panel to show.
    """
    monkeypatch.setenv("PET_LAB_OFFLINE", "1")
    monkeypatch.setenv("PET_LAB_CACHE", str(tmp_path / "cache"))
    for variable in ("PET_LAB_DATA", "PET_LAB_BATCH"):
        monkeypatch.delenv(variable, raising=False)
    smallest = sweep.profile(WS, name, "smoke").parameters
    outputs = []

    def hears(message):
        outputs.append((message["msg_type"], message["content"]))

    def is_asked(message):
        raise AssertionError(message["content"])

    manager, client = start_new_kernel(cwd=str(notebooks.path(WS, name).parent))
    flags = {"silent": False, "store_history": True, "allow_stdin": True, "stop_on_error": False}
    try:
        for count, cell in enumerate([c for c in cells(name) if c["cell_type"] == "code"], 1):
            code = notebooks.source_of(cell)
            if "parameters" in cell["metadata"].get("tags", []):
                code += "".join(f"\n{key} = {value!r}" for key, value in smallest.items())
            outputs.clear()
            reply = client.execute_interactive(
                code, timeout=300, output_hook=hears, stdin_hook=is_asked, **flags
            )["content"]
            assert reply["status"] == "ok", reply
            assert reply["execution_count"] == count
        shown = [c["data"] for kind, c in outputs if kind == "display_data"]
        assert any("application/vnd.jupyter.widget-view+json" in data for data in shown)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_smallest_run_works_offline(name, tmp_path, monkeypatch):
    """The smoke profile in a workspace of its own, with neither network nor real data."""
    for folder in ("notebooks", "data"):
        (tmp_path / folder).symlink_to(WS.root / folder)
    (tmp_path / "pyproject.toml").write_text((WS.root / "pyproject.toml").read_text())
    monkeypatch.setenv("PET_LAB_OFFLINE", "1")
    monkeypatch.setenv("PET_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PET_LAB_DATA", raising=False)
    ws = Workspace(tmp_path)
    specs = sweep.plan_profile(ws, name, "smoke")
    records = sweep.execute(ws, specs, jobs=1)
    assert [r.problem for r in records] == [""] * len(specs)
    rows = results.read(ws, name)
    assert len(rows)
    for record in records:
        summary = results.summary(record.folder)
        assert summary["headline"].endswith(".")
        real = {d["kind"] for d in summary["data"]} <= {"real", "generated"}
        assert real or not summary["counts"], "a stand-in must not count"
        assert (record.folder / runs.NOTEBOOK).is_file()
        executed = notebooks.read(record.folder / runs.NOTEBOOK)["cells"]
        assert [*flaws(executed)] == []
        if name not in STORED and any("explore.call(" in "".join(c["source"]) for c in executed):
            assert max(points(executed), default=0) >= whatif.POINTS, "a what-if for the report"
        if name in LOOKED_AT:
            page = report.build_run(ws, record)
            assert page.stat().st_size < 3e6
            with browser.chromium() as chrome:
                looks = ((390, True), (1280, False))  # all four take minutes on such pages
                assert browser.violations(chrome, page, looks) == []
                assert browser.width_on_a_phone(chrome, page) <= 390
        assert trace.check_run(ws, record) == [], "a number that no claim or parameter holds"
