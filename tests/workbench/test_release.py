"""What may leave: the rules beside ACRO's own, differences between tables, sign-offs, the pack."""

import io
import json
import os
import shutil
import subprocess
import sys
import warnings
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from importlib import resources

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_notebooks import build_workspace

from pet_lab import rows as tidy_rows
from pet_lab.cli import main
from pet_lab.workbench import disclosure, release, results, runs, sweep
from pet_lab.workbench.disclosure import Rules
from pet_lab.workbench.errors import ParameterError, ResultsError, WorkbenchError
from pet_lab.workbench.runs import RunSpec
from pet_lab.workbench.workspace import Workspace

# --- the rules, beside ACRO --------------------------------------------------------------------


SHARES = [0.4, 0.3, 0.2, 0.05, 0.03, 0.02]
ACRO = {"MinimumThresholdCheck": "threshold", "PPercentCheck": "p-ratio", "NKCheck": "nk-rule"}


def firms(seed, n=400):
    """Turnover by region and size, skewed so that every rule has something to find."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "region": rng.choice([f"r{i}" for i in range(6)], n, p=SHARES),
            "size": rng.choice(["small", "large"], n, p=[0.8, 0.2]),
            "turnover": rng.pareto(0.7, n).round(2),
        }
    )
    frame.loc[frame["region"] == "r2", "turnover"] += 1000.0
    return frame


def by_acro(frame, aggfunc):
    """(region, size) -> the rules that ACRO says are broken; its progress is not shown."""
    acro = pytest.importorskip("acro")
    words = io.StringIO()
    with redirect_stdout(words), redirect_stderr(words), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        session = acro.ACRO(suppress=False)
        more = {"values": frame["turnover"], "aggfunc": aggfunc} if aggfunc else {}
        session.crosstab(frame["region"], frame["size"], **more)
        outcome = session.results.get_index(0).outcome
    return {
        (region, str(size if isinstance(size, str) else size[-1])): {
            ACRO[word.strip()] for word in str(text).split(";") if word.strip() not in ("", "ok")
        }
        for (region, size), text in outcome.stack(list(range(outcome.columns.nlevels))).items()
    }


@pytest.mark.slow  # its import alone takes seconds
@pytest.mark.parametrize("aggfunc", [None, "sum", "mean"])
@pytest.mark.parametrize("seed", range(3))
def test_every_cell_breaks_the_rules_that_acro_says(seed, aggfunc):
    frame = firms(seed)
    theirs = by_acro(frame, aggfunc)
    of = "turnover" if aggfunc else None
    behind = tidy_rows.contributions(frame, by=["region", "size"], metric="m", of=of)
    ours = {
        (c["region"], c["size"]): set(disclosure.cell_reasons(c, Rules()))
        for c in behind.to_dict("records")
    }
    assert {cell: theirs[cell] for cell in ours} == ours
    broken = set().union(*ours.values())
    assert broken == ({"threshold", "p-ratio", "nk-rule"} if aggfunc else {"threshold"})


@pytest.mark.parametrize(
    ("contributions", "broken"),
    [
        ([10] * 9, ["threshold"]),
        ([10] * 20, []),
        ([1000, 10, *[9] * 11], ["p-ratio", "nk-rule"]),  # the rest is 99, under a tenth of 1000
        ([1000, 10, *[10] * 10], ["nk-rule"]),  # exactly a tenth; two of them are 91 %
        ([500, 500, *[10] * 12], []),
    ],
)
def test_the_rules_by_hand(contributions, broken):
    firms = pd.DataFrame({"all": "x", "turnover": contributions})
    behind = tidy_rows.contributions(firms, by=["all"], metric="sum", of="turnover")
    assert disclosure.cell_reasons(behind.to_dict("records")[0], Rules()) == broken


def test_negative_contributions_are_a_matter_for_a_person():
    behind = {"records": 20, "total": 5.0, "largest": 3.0, "second": 1.0, "negative": 2}
    assert disclosure.cell_reasons(behind, Rules()) == ["negative"]


@pytest.mark.parametrize("bad", [{"threshold": 0}, {"nk_k": 2.0}, {"p_ratio": -1.0}])
def test_rules_that_mean_nothing_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Rules(**bad)


# --- differences -------------------------------------------------------------------------------


def counted(*cells):
    """Rows and contributions of counts, from (factors, records)."""
    base = {"region": "", "sex": "", "replicate": 0, "metric": "count"}
    frame = pd.DataFrame([base | factors | {"value": n} for factors, n in cells])
    behind = frame.drop(columns=["replicate", "value"]).assign(records=frame["value"])
    every = disclosure.cells(frame, behind)
    disclosure.protect(every, Rules())
    return {tuple(c.where.values()): c.reasons for c in every}


def test_one_small_cell_beside_its_total_takes_a_second_one_with_it():
    reasons = counted(({}, 125), ({"sex": "f"}, 70), ({"sex": "m"}, 50), ({"sex": "x"}, 5))
    assert reasons["x",] == ["threshold"]
    assert reasons["m",][0].startswith("differencing (sex=x")
    assert reasons["f",] == reasons[()] == []


def test_two_tables_that_differ_by_a_few_people_do_not_both_leave():
    reasons = counted(({}, 100), ({"region": "north"}, 96))
    assert reasons["north",][0].startswith("differencing")
    assert reasons[()] == []


def test_a_small_cell_that_another_table_gives_away_by_two_steps():
    """North/x is small; north's total and the margin over regions give it away together."""
    cells = [({"region": r, "sex": s}, n) for (r, s), n in TWO_WAY.items()]
    margins = [({"region": r}, sum(n for (a, _), n in TWO_WAY.items() if a == r)) for r in "ns"]
    margins += [({"sex": s}, sum(n for (_, b), n in TWO_WAY.items() if b == s)) for s in "fmx"]
    reasons = counted(*cells, *margins)
    assert reasons["n", "x"] == ["threshold"]
    hidden = {where for where, why in reasons.items() if why}
    assert len(hidden) >= 4  # a cell of a table with both margins needs a rectangle around it


TWO_WAY = {
    **{("n", "f"): 40, ("n", "m"): 30, ("n", "x"): 3},
    **{("s", "f"): 50, ("s", "m"): 60, ("s", "x"): 20},
}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=6, max_size=6), st.booleans(), st.booleans())
def test_no_withheld_cell_follows_from_what_is_shown(counts, by_region, by_sex):
    """By rank, a definition of its own: adding a withheld cell to the shown ones raises it."""
    names = list(TWO_WAY)
    cells = [({"region": r, "sex": s}, n) for (r, s), n in zip(names, counts, strict=True)]
    lines = np.eye(6)
    if by_region:
        for r in "ns":
            inside = np.array([a == r for a, _ in names], dtype=float)
            cells.append(({"region": r}, int(inside @ counts)))
            lines = np.vstack([lines, inside])
    if by_sex:
        for s in "fmx":
            inside = np.array([b == s for _, b in names], dtype=float)
            cells.append(({"sex": s}, int(inside @ counts)))
            lines = np.vstack([lines, inside])
    reasons = list(counted(*cells).values())
    shown = lines[[not why for why in reasons]]
    rank = np.linalg.matrix_rank(shown) if len(shown) else 0
    for line, why in zip(lines, reasons, strict=True):
        if "threshold" in why:
            assert np.linalg.matrix_rank(np.vstack([shown, line])) == rank + 1


# --- a run, from its notebook to the pack ------------------------------------------------------

IMPORTS = """
import pandas as pd
from pet_lab import rows as tidy
from pet_lab.workbench import results
"""
COUNTS = """
regions = {"north": 43, "south": 31, "west": 27, "isle": 4}
people = pd.DataFrame({"region": [r for r, n in regions.items() for _ in range(n)]})
counts = people.value_counts("region").rename("value").reset_index()
rows = counts.assign(replicate=0, metric="persons").to_dict("records")
rows += [{"region": "", "replicate": r, "metric": "accuracy", "value": 0.5 + r / 9} for r in (0, 1)]
behind = tidy.contributions(people, by=["region"], metric="persons")
data = [{"name": "people", "sha256": "0" * 64, "kind": "own", "licence": "", "citation": ""}]
"""
WRITE = 'results.write(rows, out, headline="Most live north.", data=data, contributions=behind)'
BY_LABEL = """
rows = [r for r in rows if r["metric"] == "persons"]
rows = pd.DataFrame(rows).rename(columns={"region": "left_label"}).assign(left_column="region")
behind = behind.rename(columns={"region": "left_label"}).assign(left_column="region")
"""
BARE = 'results.write(rows, out, headline="Most live north.")'


@pytest.fixture(scope="module")
def workspace_that_ran(tmp_path_factory):
    made = {"group/people": (IMPORTS, COUNTS, WRITE), "group/made_up": (IMPORTS, COUNTS, BARE)}
    made["group/labels"] = (IMPORTS, COUNTS, BY_LABEL, WRITE)
    ws = build_workspace(tmp_path_factory.mktemp("release"))(made)
    specs = [spec for name in made for spec in sweep.plan(ws, name)]
    assert all(r.ok for r in sweep.execute(ws, specs, jobs=1))
    return ws


@pytest.fixture
def ran(workspace_that_ran, tmp_path, monkeypatch):
    """A workspace of one's own and the record of one of its runs, by the notebook's name."""
    root = shutil.copytree(workspace_that_ran.root, tmp_path / "mine")
    monkeypatch.setenv("PET_LAB_HOME", str(root))
    ws = Workspace(root)
    return lambda name="people": (ws, runs.records(ws, f"group/{name}")[0])


def call(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main(["release", *words])
    said = capsys.readouterr()
    return end.value.code, said.out, said.err


CONTEXT = ("--context", "Residents of four regions, January 2024, persons.")


def test_two_sign_and_the_pack_runs_again_to_the_same_verdicts(ran, capsys, tmp_path):
    ws, record = ran()
    code, out, _ = call(capsys, record.run_id)
    assert code == 0
    assert "threshold" in out
    assert "2 of 4" not in out  # no total is printed, so one small cell stays alone
    withheld = pd.read_csv(ws.root / "releases" / record.run_id / "withheld.csv")
    assert withheld[["cell", "reason"]].iloc[0].tolist() == ["region=isle", "threshold"]
    assert withheld["table"].tolist() == ["persons by region", "accuracy"]

    sign = ("--sign", "A. Checker", "--reason", "counts are rounded")
    code, _, err = call(capsys, record.run_id, *sign)
    assert code == 1
    assert "--context" in err
    code, out, _ = call(capsys, record.run_id, *CONTEXT, *sign)
    assert code == 0
    assert "1 of 2" in out
    code, _, err = call(capsys, record.run_id, "--sign", "a. checker ", "--reason", "again")
    assert code == 1
    assert "another" in err
    code, out, _ = call(capsys, record.run_id, "--sign", "B. Second", "--reason", "agreed")
    assert "Packed: releases/" in out

    (pack,) = (ws.root / "releases").rglob("*.zip")
    with zipfile.ZipFile(pack) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    rows = pd.read_csv(io.BytesIO(content["rows.csv"]))
    assert dict(zip(rows["region"], rows["value"], strict=True)) == {
        "north": 45, "south": 30, "west": 25,
    }  # fmt: skip
    assert "report.html" not in content
    everything = b" ".join(content.values())
    assert b"isle" in everything  # named as withheld
    assert str(ws.root).encode() not in everything
    page = content["index.html"].decode()
    assert "A. Checker" in page
    assert "withheld" in page
    assert "January 2024" in page
    assert not any(f'"{value}"' in page or f">{value}<" in page for value in (43, 31, 27, 4))

    code, out, err = call(capsys, "--verify", str(pack))
    assert code == 0, err
    assert "same verdicts" in out


def test_a_table_of_labels_by_column_is_shown_under_its_column(ran):
    ws, record = ran("labels")
    for name in ("A", "B"):
        *_, pack = release.ask(ws, record, context=CONTEXT[1], sign=name, reason="agreed")
    with zipfile.ZipFile(pack) as archive:
        page = BeautifulSoup(archive.read("index.html"), "html.parser")
    heads, *lines = [[c.get_text() for c in tr.find_all(["th", "td"])] for tr in page.table("tr")]
    assert heads == ["left:region", "value"]
    assert dict(lines) == {"north": "45", "south": "30", "west": "25", "isle": "withheld"}


def test_a_sign_off_is_void_once_anything_changed(ran):
    ws, record = ran()
    words = {"context": "Residents.", "reason": "seen"}
    _, first, _ = release.ask(ws, record, sign="A", **words)
    assert len(first.sign_offs) == 1
    table = {"accuracy": "of 101 held-out residents"}
    checked, second, pack = release.ask(ws, record, exceptions=table, sign="B", **words)
    assert [s.name for s in second.sign_offs] == ["B"]
    assert pack is None
    assert {"accuracy", "persons"} == set(checked.rows["metric"])
    assert not checked.untouched
    (excepted,) = [v for v in checked.verdicts if v.table == "accuracy"]
    assert excepted.why == (
        "exception: of 101 held-out residents; not checked for small cells or dominance, because "
        "the run does not say who stands behind its cells"
    )
    (ws.root / "release.toml").write_text("threshold = 30\n")
    checked, third, _ = release.ask(ws, record)
    assert third.sign_offs == ()
    assert set(checked.rows["region"]) == {"north", "south", ""}


def test_what_cannot_count_is_refused(ran, capsys):
    ws, record = ran()
    with pytest.raises(ParameterError, match="No table is called persons; there are: persons by"):
        release.ask(ws, record, exceptions={"persons": "why not"})
    with pytest.raises(WorkbenchError, match="a name"):
        release.ask(ws, record, context="Residents.", sign="A")
    (ws.root / "release.toml").write_text("threshold = 1000\n")
    with pytest.raises(WorkbenchError, match="Nothing may leave"):
        release.ask(ws, record, context="Residents.", sign="A", reason="seen")
    assert call(capsys, record.run_id)[0] == 1
    (ws.root / "release.toml").write_text("threshold = 'many'\n")
    with pytest.raises(ParameterError, match=r"release\.toml"):
        release.rules(ws)
    assert call(capsys)[0] == 2


def test_a_pack_that_was_changed_is_refused(ran, tmp_path):
    ws, record = ran("made_up")
    for name in "AB":
        _, _, pack = release.ask(ws, record, sign=name, reason="no record was read")
    with zipfile.ZipFile(pack) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    assert "report.html" in content  # nothing was withheld or rounded
    crate = json.loads(content["ro-crate-metadata.json"])
    kinds = [e["@type"] for e in crate["@graph"]]
    assert "CreateAction" in kinds
    for name in ("rows.csv", "notebook.ipynb"):
        changed = tmp_path / f"changed-{name}.zip"
        with zipfile.ZipFile(changed, "w") as archive:
            for other, data in content.items():
                archive.writestr(other, data + b" " if other == name else data)
        with pytest.raises(WorkbenchError, match=f"was changed: {name}"):
            release.verify(changed)


def test_a_pack_with_other_verdicts_is_refused(ran, tmp_path, monkeypatch):
    ws, record = ran()
    for name in "AB":
        _, _, pack = release.ask(ws, record, context="Residents.", sign=name, reason="seen")
    monkeypatch.setattr(disclosure, "cell_reasons", lambda behind, rules: [])
    with pytest.raises(WorkbenchError, match="other verdicts come out: persons by region"):
        release.verify(pack)


@pytest.mark.parametrize(
    "odd", [{"metric": ["m"]}, {"metric": ["m"], "records": [1], "town": ["a"]}]
)
def test_contributions_must_fit_the_rows(odd):
    rows = [{"replicate": 0, "metric": "m", "value": 1.0}]
    behind = pd.DataFrame({"metric": ["m"]} | odd)
    with pytest.raises(ResultsError, match="contributions lack, or do not share"):
        results.write(rows, "", headline="It holds.", contributions=behind)


def test_contributions_of_an_earlier_run_do_not_count(ran):
    ws, record = ran()
    path = ws.notebooks / "group" / "people.ipynb"
    path.write_text(path.read_text().replace(", contributions=behind", ""))
    (again,) = sweep.execute(ws, [RunSpec.of("group/people", record.parameters)], jobs=1)
    assert runs.CONTRIBUTIONS not in again.hashes
    verdicts = release.check(again, Rules(), {}).verdicts
    assert {v.verdict for v in verdicts} == {disclosure.REVIEW}


@pytest.mark.parametrize("most", [4096, 40])
def test_a_small_cell_of_one_pair_of_columns_is_not_worked_out_from_another(monkeypatch, most):
    """Tables a x b and a x c share the margin over a, also where all tables are checked by twos."""
    monkeypatch.setattr(disclosure, "MOST_ATOMS", most)
    cells = []
    for column, counts in (
        ("b", [(3, 37), (20, 20)]),
        ("c", [(15, 25), (20, 20)]),
        ("d", [(20,) * 2] * 2),
    ):
        for first, line in enumerate(counts):
            for second, n in enumerate(line * (1 + 3 * (column == "d"))):
                labels = {"left_label": f"a{first}", "right_label": f"{column}{second}"}
                columns = {"left_column": "a", "right_column": column}
                cells.append({**columns, **labels, "metric": "count", "records": n})
    behind = pd.DataFrame(cells)
    frame = behind.drop(columns="records").assign(replicate=0, value=behind["records"])
    every = disclosure.cells(frame, behind)
    disclosure.protect(every, Rules())
    reasons = [" ".join(c.reasons) for c in every if c.reasons]
    assert reasons[0] == "threshold"
    assert reasons[1].startswith("differencing (left:a=a0, right:b=b0")
    assert not any("too many" in r for r in reasons)


VALIDATOR = "roc-validator>=0.13,<0.14"
VALIDATE = """
import sys
from pathlib import Path
from requests import Response
from rocrate_validator import services
from rocrate_validator.models import Severity
from rocrate_validator.utils import http

def get(self, url, *args, **how):
    assert url == "https://w3id.org/ro/crate/1.1/context", url
    answer = Response()
    answer.status_code, answer.url = 200, url
    answer.headers["Content-Type"] = "application/ld+json"
    answer._content = Path(sys.argv[2]).read_bytes()
    return answer

http.HttpRequester.get = get
how = {"profile_identifier": "process-run-crate", "requirement_severity": Severity.RECOMMENDED}
result = services.validate({"rocrate_uri": sys.argv[1], **how})
assert len(result.executed_checks) > 50
for issue in result.get_issues():
    print(issue.severity.name, issue.check.identifier, issue.message)
"""


@pytest.mark.slow
def test_a_pack_is_a_valid_process_run_crate(ran, tmp_path):
    """By roc-validator, which does not fit the lock, in an environment of its own.

    The one page that it would fetch is the context of RO-Crate, which rocrate ships (of a later
    version). Of organisations nothing is known: publisher and affiliations stay open.
    """
    ws, record = ran()
    for name in ("A. Checker", "B. Second"):
        how = {"context": "Residents.", "sign": name, "reason": "seen"}
        _, _, pack = release.ask(ws, record, **how)
    zipfile.ZipFile(pack).extractall(tmp_path / "crate")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    programs = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    install = [programs / "pip", "install", "--quiet", VALIDATOR]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1]
        pytest.skip(f"roc-validator cannot be installed here: {last}")
    context = resources.files("rocrate") / "data" / "ro-crate.jsonld"
    command = [programs / "python", "-c", VALIDATE, tmp_path / "crate", str(context)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = {tuple(line.split()[:2]) for line in done.stdout.splitlines()}
    organisations = {("RECOMMENDED", f"ro-crate-1.1_{n}") for n in ("22.3", "30.2", "30.3")}
    assert found == organisations, done.stdout
