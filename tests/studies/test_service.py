"""What the notebook argues with: coalitions, plans on paper, and an honest table."""

import ast
from pathlib import Path

import pandas as pd
import pytest

from pet_lab.mpc import costs, requirements, trials
from pet_lab.mpc.catalogue import check
from pet_lab.mpc.service import Service
from pet_lab.mpc.tasks import check_table


@pytest.mark.parametrize("k", [3, 4, 5, 7])
def test_a_coalition_opens_exactly_what_its_size_allows(k):
    made = trials.coalitions(k, trials=20)
    needed = {trials.SHARINGS[0]: k, trials.SHARINGS[1]: (k - 1) // 2 + 1, trials.SHARINGS[2]: k}
    for how, size, opened in made.itertuples(index=False):
        assert opened == float(size >= needed[how]), (how, size)


def test_what_the_panel_says():
    safe = trials.learnt(k=3, colluders=2).set_index("what")["coalition learns"]
    assert safe["the inputs"] == "nothing"
    assert safe["a task without the others' approval"].startswith("cannot")
    during = trials.learnt(k=3, colluders=2, sharing_=trials.SHARINGS[1], all_approved=True)
    assert "everything" in set(during["coalition learns"])
    before = trials.learnt(k=3, colluders=2, sharing_=trials.SHARINGS[1], all_approved=False)
    assert "everything" not in set(before["coalition learns"])
    two = trials.learnt(k=2, colluders=9, sharing_=trials.SHARINGS[1])
    assert "honest majority" in two["coalition learns"][0]


def test_the_example_is_as_its_schema_says():
    for owned in trials.example(40, seed=3).values():
        check_table(owned.frame, owned.schema)
    again = trials.example(40, seed=3)["px"].frame
    pd.testing.assert_frame_equal(again, trials.example(40, seed=3)["px"].frame)
    x, y = (o.frame for o in trials.example(40, seed=3).values())
    assert len(x.merge(y, on="id")) == 30


def test_the_plan_on_paper():
    made = trials.on_paper([100, 10_000], [3, 5]).set_index(["records", "parties", "join"])
    assert not made.loc[(100, 3, "opened"), "refused"]
    assert made.loc[(10_000, 3, "opened"), "refused"]
    assert not made.loc[(10_000, 5, "aligned"), "refused"]
    assert made.loc[(10_000, 3, "opened"), "products"] > 1e8
    assert check(trials.paper_task(50, 3, "hidden")).name == "joined_statistics"
    assert costs.estimate(trials.paper_task(50, 3, "hidden")).rounds > 10


def test_every_forbidden_attempt_is_stopped():
    with Service(("pp-1", "pp-2", "pp-3"), trials.example(20, 1)) as service:
        service.compute("join_size", trials.SIZE)
        made = trials.attempts(service).set_index("attempt")
    assert "answered" not in set(made["outcome"])
    assert made.loc["a wrong share of an input", "named"] == "pp-3"
    assert "expired" in made.loc["a certificate that has expired", "said"]
    assert "minutes" in made.loc["ten thousand records in each file", "said"]


def test_every_requirement_that_is_met_names_a_test_that_exists():
    here = Path(__file__).parent
    names = {
        node.name
        for path in here.glob("test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef)
    }
    made = requirements.table()
    assert set(made["status"]) == {"met", "partly", "organisational", "not met"}
    assert set(made["test"]) - {""} <= names
    untested = made[(made["status"] == "met") & (made["test"] == "")]
    assert untested["requirement"].tolist() == ["Transparency, open source"]
    assert set(range(127, 132)) <= set(made["paragraph"])
