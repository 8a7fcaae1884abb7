"""The anonymisation game: by hand, by closed form, and what is refused."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pet_lab.studies import anonymisation_game as study


def settings(**changes):
    values = {"known": ["a", "b"], "sensitive": "s", "group": "a", "sites": [1, 8]}
    values |= {"epsilons": [0.5, 5.0], "largest_wage": 4e5, "notes": 30, "replicates": 5, "seed": 1}
    return study.Settings(**values | changes)


@pytest.fixture
def people():
    rng = np.random.default_rng(4)
    return pd.DataFrame(
        {"a": rng.integers(0, 3, 60), "b": rng.integers(0, 9, 60), "s": rng.integers(0, 2, 60)}
    )


def test_the_slides_joiner():
    rows = study.joiner(before=(120, 180_000), after=(121, 181_000), rounded_to=1000)
    assert rows["value"].tolist() == [301_000, 500 * 241]


@given(st.integers(1, 500), st.integers(0, 10**6), st.integers(0, 10**6))
def test_exact_averages_give_the_wage_and_rounded_ones_an_interval(n, total, wage):
    before, after = total / n, (total + wage) / (n + 1)
    exact = study.joiner(before=(n, before), after=(n + 1, after), rounded_to=0)
    assert exact["value"].iloc[0] == pytest.approx(wage, abs=1e-3)
    rounded = study.joiner(
        before=(n, round(before, -3)), after=(n + 1, round(after, -3)), rounded_to=1000
    )
    guess, half_width = rounded["value"]
    assert abs(guess - wage) <= half_width + 1e-3


def test_a_joiner_is_one_person():
    with pytest.raises(ValueError, match="One person joins 5 people: expected 6"):
        study.joiner(before=(5, 1.0), after=(7, 1.0), rounded_to=0)


def test_the_chance_of_a_guess_is_its_closed_form():
    rows = study.protected_averages(
        settings(replicates=200), people=120, average=180_000, wage=301_000
    )
    by = rows.set_index(["epsilon", "metric"])
    for epsilon in (0.5, 5.0):
        seen, theory = by.loc[(epsilon, "within")], by.loc[(epsilon, "within_theory")]
        assert abs(seen["value"] - theory["value"]) < 4 * seen["se"]


def test_k_and_unique_are_those_of_counting(people):
    sizes = people.groupby(["a", "b"]).size()
    measured = study.anonymity(people, ["a", "b"], "s")
    assert measured["k"] == sizes.min()
    assert measured["unique"] == (sizes == 1).sum() / len(people)
    distinct = people.groupby(["a", "b"])["s"].nunique().min()
    assert measured["l"] == distinct


def test_the_slides_table_step_by_step():
    k = study.steps_table(study.deletion()).set_index("step")["k"].to_dict()
    assert k["name deleted"] == 1
    assert k[study.GROUPED] == 2
    assert k["everything but the wage deleted"] == 6


def test_more_fields_never_hide_anyone_better(people):
    table = study.fields_table(study.uniqueness(people, settings()))
    assert table["unique"].is_monotonic_increasing
    assert table["linked"].is_monotonic_increasing
    assert table["k"].is_monotonic_decreasing


def test_a_single_person_at_each_site_has_nothing_to_hide_behind(people):
    rows = study.site_tables(people, settings(sites=[1, 10**6]))
    mean = rows.groupby("sites")["value"].mean()
    assert mean[10**6] > 0.95
    assert mean[1] < 0.2


def test_a_dictionary_misses_what_it_does_not_hold():
    caught = study.free_text(settings()).set_index("kind")["value"]
    assert caught["name"] == caught["date"] == caught["number"] == caught["address"] == 1
    assert caught["misspelt name"] == caught["role"] == 0
    assert study.redact("Anna, 01.02.2003, 123-4567") == "[...], [...], [...]"


@pytest.mark.parametrize(
    "changes",
    [
        {"epsilons": [0.0]},
        {"epsilons": []},
        {"largest_wage": 0},
        {"known": ["a", "a"]},
        {"sites": [0]},
        {"seed": -1},
    ],
)
def test_settings_outside_their_range_are_one_sentence(changes):
    with pytest.raises(ValueError, match=r"got .*\.$"):
        settings(**changes)


def test_columns_and_people_that_are_not_there_are_named(people):
    with pytest.raises(ValueError, match=r"it has no \['c'\]"):
        study.simulate(people, settings(known=["a", "c"]))
    with pytest.raises(ValueError, match="two people or more, the table has 1"):
        study.simulate(people[:1], settings())


def test_claims_turn_where_nobody_is_alone(people):
    same = people.assign(a=0, b=0)
    claims = study.takeaways(study.simulate(same, settings()), settings())
    assert claims[0].text.startswith("Not here")
