"""Tasks: what makes one, what its hash covers, and what is not a task."""

import datetime
from decimal import Decimal

import msgspec
import pandas as pd
import pytest
from mpc_examples import POOLED, STATISTICS, X, Y, task

from pet_lab.mpc import catalogue
from pet_lab.mpc.errors import TaskError
from pet_lab.mpc.tasks import ColumnSchema, DataRef, Task, check_table, in_hours, read_task
from pet_lab.parties.log import canonical, digest


def test_a_task_survives_the_wire():
    made = task()
    again = msgspec.json.decode(msgspec.json.encode(made), type=Task)
    assert again.sha256 == made.sha256
    assert again == made


@pytest.mark.parametrize(
    "change",
    [
        {"function": "join_size"},
        {"parameters": {**STATISTICS, "value": "ill"}},
        {"output_party": "py"},
        {"processing_parties": ("pp-1", "pp-3", "pp-2")},
        {"level": "checked"},
        {"purpose": "audit"},
        {"min_group": 9},
        {"dominance_percent": 80},
        {"epsilon": 0.5},
        {"expires": in_hours(2)},
        {"nonce": "another"},
    ],
    ids=lambda c: next(iter(c)),
)
def test_the_hash_covers_every_term(change):
    assert task(nonce="n", expires="2030-01-01T00:00:00+00:00").sha256 != (
        task(**{"nonce": "n", "expires": "2030-01-01T00:00:00+00:00", **change}).sha256
    )


def test_the_hash_covers_the_data():
    one = task(nonce="n")
    other = one.with_data(
        one.inputs[0], DataRef(owner="py", schema=Y, rows=24, commitments=("00", "00", "01"))
    )
    assert one.sha256 != other.sha256


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"processing_parties": ("pp-1",)}, "K = 1"),
        ({"processing_parties": ("pp-1", "pp-1", "pp-2")}, "repeated"),
        ({"processing_parties": ("pp-1", "pp-2")}, "honest majority"),
        ({"processing_parties": ("px", "pp-1", "pp-2")}, "Say mixed"),
        ({"model": "mixed"}, "Say fixed"),
        ({"model": "loose"}, "fixed or mixed"),
        ({"level": "perfect"}, "level is one of"),
        ({"epsilon": 0.0}, "between 0.0001 and 100"),
        ({"epsilon": 1e-9}, "between 0.0001 and 100"),
        ({"epsilon": 6e-5}, "between 0.0001 and 100"),
        ({"epsilon": 10**400}, "between 0.0001 and 100"),
        ({"epsilon": "NaN"}, "between 0.0001 and 100"),
        ({"epsilon": 0.1234567}, "at most six decimals"),
        ({"min_group": 10**400}, "count up to 1000"),
        ({"min_group": -1}, "count"),
        ({"expires": "tomorrow"}, "time like"),
        ({"expires": "2030-01-01T00:00:00"}, "time zone"),
        ({"inputs": (task().inputs[0],) * 2}, "two different owners"),
    ],
)
def test_what_is_not_a_task(change, says):
    with pytest.raises(TaskError, match=says):
        task(**change)


def test_two_processing_parties_are_allowed_and_warned_about():
    made = task(
        processing_parties=("pp-1", "pp-2"),
        level="all-but-one",
        function="pooled_statistics",
        parameters={"group": "region", "value": "age"},
    )
    assert made.threshold == 1
    assert any("Only two" in w for w in made.warnings)


def test_that_one_party_can_shift_a_noisy_answer_is_warned_about():
    assert any("unnoticed" in w for w in task(epsilon=0.5).warnings)
    assert not any("unnoticed" in w for w in task().warnings)


def test_thresholds():
    assert task().threshold == 1
    assert task(processing_parties=tuple("abcde")).threshold == 2
    assert task(level="all-but-one").threshold == 2


def test_expiry():
    made = task(expires="2026-05-01T12:00:00+00:00")
    noon = datetime.datetime(2026, 5, 1, 12, tzinfo=datetime.UTC)
    assert made.expired(noon)
    assert not made.expired(noon - datetime.timedelta(seconds=1))


WHOLE = msgspec.to_builtins(task())
WIDE = {"kind": "number", "low": 0, "high": 1.1e15}


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"inputs": 3},
        {**WHOLE, "extra": 1},
        {**WHOLE, "epsilon": "one"},
        {**WHOLE, "min_group": 10**9},
        {**WHOLE, "min_group": 10**400},
        {**WHOLE, "inputs": [{**WHOLE["inputs"][0], "rows": 10**400}, WHOLE["inputs"][1]]},
        {**WHOLE, "inputs": [{**WHOLE["inputs"][0], "schema": {"a": WIDE}}, WHOLE["inputs"][1]]},
        {**WHOLE, "processing_parties": ["x" * 101, "y", "z"]},
        {**WHOLE, "parameters": {"key": {"a": 1}}},
        {**WHOLE, "inputs": WHOLE["inputs"][:1]},
    ],
)
def test_damaged_terms_are_one_clear_error(broken):
    with pytest.raises(TaskError, match="not a task"):
        read_task(broken)


def test_a_number_has_one_hash_however_it_is_written():
    whole = ColumnSchema(kind="number", low=0, high=100)
    assert whole == ColumnSchema(kind="number", low=0.0, high=100.0)
    assert digest(canonical(whole)) == digest(
        canonical(msgspec.json.decode(msgspec.json.encode(whole), type=ColumnSchema))
    )
    same = {"nonce": "n", "expires": "2030-01-01T00:00:00+00:00"}
    assert len({task(**same, epsilon=e).sha256 for e in (1, 1.0, "1.000", Decimal("1E+0"))}) == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"function": "median"}, "not in the catalogue"),
        ({"parameters": {"key": "id"}}, "takes"),
        ({"parameters": {**STATISTICS, "join": "magic"}}, "join is one of"),
        ({"parameters": {**STATISTICS, "value": ["income"]}}, "value is text"),
        ({"parameters": {**STATISTICS, "key": 3}}, "key is text"),
        ({"parameters": {**STATISTICS, "join": "hidden"}, "level": "checked"}, "hidden join"),
        ({"parameters": {**STATISTICS, "key": "name"}}, "no key column"),
        ({"parameters": {**STATISTICS, "value": "weight"}}, "in 0"),
        ({"parameters": {**STATISTICS, "value": "region"}}, "number column"),
        ({"level": "all-but-one"}, "runs at"),
        ({"level": "checked", "epsilon": 1.0}, "does not cover noise"),
        (
            {"model": "mixed", "processing_parties": ("px", "py", "pz")},
            "A user that processes an opened join counts its matches",
        ),
        ({"dominance_percent": 50}, "never negative"),
        ({"dominance_percent": 50, "level": "checked"}, "dominance rule"),
        (
            {
                "function": "joined_linear_regression",
                "parameters": {
                    "key": "id",
                    "join": "opened",
                    "target": "income",
                    "predictors": ["id"],
                },
            },
            "in 2",
        ),
        (
            {
                "function": "joined_logistic_regression",
                "parameters": {
                    "key": "id",
                    "join": "opened",
                    "target": "ill",
                    "predictors": ["age"],
                    "iterations": 0,
                },
            },
            "1 to 200",
        ),
        (
            {
                "function": "joined_logistic_regression",
                "parameters": {
                    "key": "id",
                    "join": "opened",
                    "target": "ill",
                    "predictors": ["age"],
                    "iterations": 5,
                },
                "level": "checked",
            },
            "runs at majority, not 'checked'",
        ),
        (
            {"function": "join_size", "parameters": {"key": "id", "join": "aligned"}},
            "Of aligned files the join's size is public",
        ),
    ],
)
def test_what_the_catalogue_refuses(change, says):
    with pytest.raises(TaskError, match=says):
        catalogue.check(task(**change))


def test_aligned_files_have_the_same_rows():
    refs = task().inputs
    short = DataRef(owner="py", schema=Y, rows=9, commitments=("00",) * 3)
    with pytest.raises(TaskError, match="same rows"):
        catalogue.check(task(parameters={**STATISTICS, "join": "aligned"}, inputs=(refs[0], short)))


def test_sums_alone_cannot_check_a_count():
    refs = [DataRef(owner=o, schema=POOLED, rows=9, commitments=("",) * 3) for o in ("px", "py")]
    terms = {
        "function": "pooled_statistics",
        "parameters": {"group": "region", "value": "age"},
        "level": "all-but-one",
        "inputs": tuple(refs),
    }
    with pytest.raises(TaskError, match="cannot look at a count"):
        catalogue.check(task(**terms, min_group=5))
    catalogue.check(task(**terms, min_group=0))
    catalogue.check(task(**terms, min_group=5, epsilon=1.0))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"id": "P0"}, "repeats"),
        ({"region": "east"}, "level"),
        ({"age": 101}, "outside"),
        ({"age": 30.5}, "decimals"),
        ({"age": None}, "missing"),
        ({"id": ""}, "missing"),
    ],
)
def test_a_table_that_is_not_as_its_schema_says(change, says):
    frame = pd.DataFrame({"id": ["P0", "P1"], "region": "west", "age": [30, 40]}).astype(object)
    check_table(frame, X)
    for column, value in change.items():
        frame.loc[1, column] = value
    with pytest.raises(TaskError, match=says) as caught:
        check_table(frame, X)
    assert "P0" not in str(caught.value), "a message never quotes data"


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "date"},
        {"kind": "category"},
        {"kind": "category", "levels": ("a", "a")},
        {"kind": "number", "low": 1, "high": 1},
        {"kind": "number", "low": 0, "high": 1, "decimals": 12},
    ],
)
def test_what_is_not_a_column(wrong):
    with pytest.raises(TaskError):
        ColumnSchema(**wrong)
