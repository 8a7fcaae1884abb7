"""The study of the computation service: coalitions, plans on paper, an honest table, claims."""

import ast
from pathlib import Path

import pandas as pd
import pytest

from pet_lab.data import DataError
from pet_lab.mpc import costs
from pet_lab.mpc.catalogue import check
from pet_lab.mpc.service import Service
from pet_lab.mpc.tasks import check_table
from pet_lab.parties.errors import PartyError
from pet_lab.rows import Rows
from pet_lab.studies import service as study
from pet_lab.workbench import disclosure

TESTS = Path(__file__).parents[1]
WAYS = (
    "trusted third party",
    "set intersection, two linkers",
    "MPC of three, opened join",
    "MPC of three, hidden join",
    "attested enclave, simulated",
)


@pytest.mark.parametrize("k", [3, 4, 5, 7])
def test_a_coalition_opens_exactly_what_its_size_allows(k):
    rows = Rows()
    study.coalitions(rows, k, trials=20)
    half = (k - 1) // 2 + 1
    needed = dict(zip(study.SHARINGS, (k, half, k), strict=True))
    for row in rows.frame().itertuples():
        assert row.value == float(row.coalition >= needed[row.sharing]), row


def test_what_the_panel_says():
    def learnt(**settings):
        table, claim = study.learnt(**settings)
        learns = "learn everything" if (table == "everything").any(axis=None) else "learn nothing"
        assert learns in claim.text
        return table.set_index("what")["coalition learns"]

    safe = learnt(k=3, colluders=2)
    assert safe["the inputs"] == "nothing"
    assert safe["a task without the others' approval"].startswith("cannot")
    assert learnt(k=3, colluders=3)["the inputs"] == "everything"
    computed = {"k": 3, "colluders": 2, "sharing": study.SHARINGS[1]}
    assert learnt(**computed, all_approved=True)["the inputs"] == "everything"
    assert learnt(**computed, all_approved=False)["the inputs"] == "nothing"
    assert "honest majority" in learnt(k=2, colluders=9, sharing=study.SHARINGS[1]).iloc[0]


def test_the_example_is_as_its_schema_says():
    for owned in study.example(40, seed=3).values():
        check_table(owned.frame, owned.schema)
    again = study.example(40, seed=3)["px"].frame
    pd.testing.assert_frame_equal(again, study.example(40, seed=3)["px"].frame)
    x, y = (o.frame for o in study.example(40, seed=3).values())
    assert len(x.merge(y, on="id")) == 30


def test_the_plan_on_paper():
    rows = Rows(**study.FACTORS)
    study.on_paper(rows, [100, 10_000], [3, 5])
    table = study.shown(rows.frame(), "on paper").set_index(["records", "parties", "join"])
    refused = table["refused at ten minutes"]
    assert not refused[100, 3, "opened"]
    assert refused[10_000, 3, "opened"]
    assert not refused[10_000, 5, "aligned"]
    assert table.loc[(10_000, 3, "opened"), "products"] > 1e8
    check(study.paper_task(50, 3, "hidden"))
    assert costs.estimate(study.paper_task(50, 3, "hidden")).rounds > 10


def test_a_release_of_own_files_knows_which_rows_no_record_stands_behind():
    rows = Rows(**study.FACTORS)
    study.on_paper(rows, [100], [3])
    for n in (40, 4):
        rows.add(experiment="catalogue", records=n, level="majority", metrics={"bytes": 1e6})
    rows.add(experiment="growth", records=5, level="majority", metrics={"bytes": 1e3})
    frame = rows.frame()
    cells = disclosure.cells(frame, study.contributions(frame))
    disclosure.protect(cells, disclosure.Rules())
    withheld = [c.where for c in cells if c.reasons]
    assert [(w["experiment"], w["records"]) for w in withheld] == [("catalogue", 4)]
    verdicts = {v.table: v for v in disclosure.judge(cells, personal=True, exceptions={})}
    paper = next(v for name, v in verdicts.items() if name.startswith("seconds by"))
    assert paper.why == "no record of a person or firm stands behind it, as the study declares"
    assert {v.verdict for v in verdicts.values()} == {"pass", "fail"}


@pytest.mark.slow
def test_every_forbidden_attempt_is_stopped():
    with Service(study.THREE, study.example(20, 1), module=study.DEVIATING) as service:
        service.compute("join_size", study.SIZE)
        tried = study.tried(service, "three").set_index("attempt")
    assert "answered" not in set(tried["outcome"])
    assert tried.loc["a wrong share of an input", "named"] == "pp-3"
    assert tried.loc["a wrong product, level checked", "outcome"] == "deviation found"
    for attempt, reason in (
        ("approved by two of three", "2 of 3 approvals"),
        ("refused by one, and the output party insists", "2 of 3 approvals"),
        ("a certificate of another authority", "certificate was not accepted"),
        ("a certificate that has expired", "expired"),
        ("ten thousand records in each file", " min"),
        ("an approval used twice", "used only once"),
        ("a log that its keeper changed", "was changed"),
        ("a log without its end", "cut off"),
        ("data changed after the approvals", "changed after it was approved"),
        ("a task with the excluded party", "revoked or excluded"),
    ):
        assert reason in tried.loc[attempt, "reason"], attempt


def test_every_requirement_that_is_met_names_a_test_that_exists():
    files = [
        *TESTS.glob("mpc/test_*.py"),
        *TESTS.glob("parties/test_*.py"),
        TESTS / "test_shares.py",
    ]
    names = {
        node.name
        for path in files
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef)
    }
    table = study.requirements()
    assert set(table["status"]) == {"met", "partly", "organisational", "not met"}
    assert set(table["test"]) - {""} <= names
    untested = table[(table["status"] == "met") & (table["test"] == "")]
    assert untested["requirement"].tolist() == ["Transparency, open source"]
    assert set(range(127, 132)) <= set(table["paragraph"])


# --- claims follow the rows -----------------------------------------------------------------------


def rows_of_a_run():
    """Rows as a run leaves them, with costs that are easy to reckon with."""
    rows = Rows(**study.FACTORS)

    def measured(experiment, n, value=1.0, **factors):
        counts = ["gap", "products", "rounds", "bytes", "cpu_s", "wall_s", "answer_s"]
        counts += ["estimated_bytes", "estimated_s"]
        metrics = {"equal": 1.0, **dict.fromkeys(counts, value)}
        rows.add(experiment=experiment, records=n, metrics=metrics, **factors)

    statistics = {"function": "joined_statistics", "join": "opened"}
    for level, products in (("majority", 10.0), ("checked", 25.0)):
        measured("catalogue", 10, products, level=level, **statistics)
    measured("catalogue", 10, 12.0, level="majority", **{**statistics, "join": "hidden"})
    for join, n in (("opened", 10), ("opened", 20), ("hidden", 10), ("hidden", 20)):
        measured("growth", n, float(n**2), join=join)
    for ms in (1, 100):
        for join in ("opened", "hidden"):
            measured("network", 10, ms / 10, join=join, round_trip_ms=ms)
    study.on_paper(rows, [10_000], [3])
    study.coalitions(rows, 3, trials=5)
    for attempt, named in (
        ("a wrong share of an input", 1.0),
        ("an owner accuses an honest party", 1.0),
        ("a wrong product, level checked", 0.0),
    ):
        rows.add(experiment="attempts", attempt=attempt, metrics={"stopped": 1.0, "named": named})
    for way, cost in zip(WAYS, (1.0, 2.0, 30.0, 36.0), strict=False):
        rows.add(experiment="four ways", way=way, metrics={"bytes": cost, "cpu_s": cost})
    return rows.frame()


def test_the_tables_have_the_names_that_readers_see():
    rows = rows_of_a_run()
    network = study.shown(rows, "network").set_index("round_trip_ms")
    assert network["opened join (s)"].tolist() == [0.1, 10.0]
    assert list(study.shown(rows, "growth"))[-1] == "estimated_s"
    assert study.shown(rows, "catalogue")["equal to the clear answer"].dtype == bool


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"records": 3}, "records is a whole number of at least 8"),
        ({"sizes": [30]}, "sizes is a list of 2 or more"),
        ({"many_parties": 2}, "many_parties is a whole number"),
        ({"round_trips_ms": [1, 1]}, "round_trips_ms"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, says):
    settings = {"records": 30, "sizes": [30, 60], "many_parties": 5, "iterations": 3}
    settings |= {"trials_per_coalition": 5, "round_trips_ms": [1], "seed": 1}
    with pytest.raises(ValueError, match=says):
        study.Settings(**settings | change)


def test_claims_hold_on_good_rows_and_say_so_otherwise():
    rows = rows_of_a_run()
    claims = study.takeaways(rows)
    assert all(claim.holds for claim in claims)
    assert "makes 2.5 times the products" in claims[1].text
    assert "exponent 2.0 of" in claims[3].text
    assert "3 of 3 exact tasks" in study.headline(rows).text
    assert "3 of 3 forbidden" in study.headline(rows).text
    assert "wrong products at level checked only" in study.headline(rows).text
    ours = study.takeaways(rows, own=True)
    assert "3 of 3 exact tasks on your files" in study.headline(rows, own=True).text
    assert "attempts of our own, on made-up files, were" in study.headline(rows, own=True).text
    assert "tasks on your files give" in ours[1].text
    assert "logistic" not in ours[1].text  # which own files are not asked
    assert all("made-up files" in claim.text.lower() for claim in ours[2:])
    worse = rows.copy()
    worse.loc[worse["metric"].isin(["equal", "stopped"]), "value"] = 0.0
    assert [claim.holds for claim in study.takeaways(worse)[1:3]] == [False, False]
    assert "0 of 3 exact tasks" in study.headline(worse).text


def test_the_four_ways_are_listed_with_the_one_that_was_not_run():
    table = study.ways(rows_of_a_run()).set_index("way")
    assert tuple(table.index) == WAYS
    assert table.loc["MPC of three, opened join", "bytes"] == 30.0
    assert table.loc["set intersection, two linkers", "bytes"] == 2.0
    assert table["bytes"].isna().sum() == 1


DECLARED = """[px]
id = { kind = "key" }
region = { kind = "category", levels = ["north", "south"] }

[py]
id = { kind = "key" }
income = { kind = "number", decimals = 1, low = 0, high = 100 }
"""
QUESTION = {"columns": "columns.toml", "group": "region", "value": "income"}


@pytest.fixture
def own_files(tmp_path, monkeypatch):
    ids = [f"{i:03}" for i in range(12)]
    x = pd.DataFrame({"id": ids, "region": ["north", "south"] * 6})
    y = pd.DataFrame({"id": ids[2:], "income": [i + 0.5 for i in range(10)]})
    x.to_csv(tmp_path / "x.csv", index=False)
    y.to_csv(tmp_path / "y.csv", index=False)
    (tmp_path / "columns.toml").write_text(DECLARED)
    monkeypatch.setenv("PET_LAB_FOLDER", str(tmp_path))
    return tmp_path


def test_an_own_question_is_asked_of_own_files(own_files):
    task = study.own_task("x.csv", "y.csv", **QUESTION)
    assert task.question == {"key": "id", "group": "region", "value": "income"}
    asked = {**study.STATISTICS, **task.question}
    table = study.in_the_clear(task.data, "joined_statistics", asked).set_index("region")
    assert table.loc["north", "count"] == table.loc["south", "count"] == 5
    assert table["sum"].sum() == 50
    empty = dict.fromkeys(QUESTION, "")
    assert study.own_task("", "", **empty) is None


@pytest.mark.parametrize(
    ("changed", "declared", "said"),
    [
        ({"right": ""}, DECLARED, "together; x.csv, columns.toml, region, income alone"),
        ({"group": "age"}, DECLARED, "Column 'age' must be in one of the two files"),
        ({"value": "region"}, DECLARED, "value is a number column"),
        ({"columns": "nowhere.toml"}, DECLARED, "declaration of the columns cannot be read"),
        ({}, DECLARED.replace("[py]", "[pz]"), r"in tables \[px\] and \[py\], got px, pz"),
        ({}, DECLARED.replace("= 100", "= 5"), r"income has a value outside \[0, 5\]"),
        ({}, DECLARED.replace('"south"', '"west"'), "region"),
        ({}, DECLARED.replace("region", "place"), "x.csv has no column 'place'"),
        ({}, DECLARED.replace("id =", "key =", 1), "one key in each file, of the same name"),
    ],
)
def test_own_files_that_do_not_fit_are_refused_in_one_sentence(own_files, changed, declared, said):
    (own_files / "columns.toml").write_text(declared)
    named = {"left": "x.csv", "right": "y.csv", **QUESTION, **changed}
    with pytest.raises((DataError, PartyError), match=said) as caught:
        study.own_task(named.pop("left"), named.pop("right"), **named)
    assert "\n" not in str(caught.value)
