"""PATE: bounds against exact divergences, votes by hand, one record's vote, and what is refused."""

import hypothesis
import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from pet_lab.studies import pate as study

BOUNDS = {stats.laplace: study.lnmax_rdp, stats.norm: study.gnmax_rdp}


def settings(**changes):
    values = {"teachers": 20, "table_teachers": 4, "noise": [0.1, 0.2], "threshold": 0.5}
    values |= {"delta": 1e-4, "budget": 20.0, "left_out": 6, "replicates": 2, "seed": 3}
    return study.Settings(**values | changes)


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(8)
    a = rng.normal(size=120)
    return pd.DataFrame({"a": a, "b": rng.normal(size=120), "y": (a + rng.normal(size=120) > 0)})


@pytest.fixture(scope="module")
def rows(frame):
    return study.simulate(frame, "y", settings())


votes = st.lists(st.integers(0, 40), min_size=2, max_size=4).filter(lambda v: sum(v) > 0)


@hypothesis.settings(max_examples=30)
@example([1, 21], 1.0, stats.norm)  # a loser of 1e-45, which a short range of integration misses
@given(votes, st.sampled_from([1.0, 3.0, 10.0]), st.sampled_from(list(BOUNDS)))
def test_no_neighbour_diverges_by_more_than_the_bound(votes, scale, noise):
    histogram = np.array(votes, float)
    dependent, flat = BOUNDS[noise](histogram[None], scale)
    exact = study.exact_rdp(histogram, noise(scale=scale))
    assert (exact <= dependent[0] * (1 + 1e-4) + 1e-8).all()
    assert (dependent[0] <= flat).all()


@pytest.mark.parametrize("noise", BOUNDS, ids=lambda noise: noise.name)
def test_the_chance_to_win_is_that_of_drawing(noise):
    histogram, n = np.array([9.0, 7.0, 2.0]), 200_000
    rng = np.random.default_rng(5)
    drawn = histogram + noise(scale=4).rvs(size=(n, 3), random_state=rng)
    seen = np.bincount(drawn.argmax(axis=1), minlength=3) / n
    chance = study.winner(histogram, noise(scale=4))
    assert chance.sum() == pytest.approx(1, abs=1e-6)
    assert (np.abs(seen - chance) < 4 * np.sqrt(chance / n)).all()


@pytest.mark.parametrize("lead", [0, 6, 22, 40])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_two_classes_have_a_closed_form_however_unlikely_the_loser(lead, scale):
    ballots, far = np.array([8.0 + lead, 8.0]), lead / scale
    loser = study.winner(ballots, stats.laplace(scale=scale))[1]
    assert loser == pytest.approx((2 + far) / 4 * np.exp(-far), rel=1e-5, abs=0)
    loser = study.winner(ballots, stats.norm(scale=scale))[1]
    assert loser == pytest.approx(stats.norm.sf(far / np.sqrt(2)), rel=1e-5, abs=0)


def test_the_bound_is_theorem_3_written_out():
    gamma, order = 0.2, 3.0  # moment 2
    q = (2 + gamma * 30) / 4 * np.exp(-gamma * 30)
    moment = np.log(
        (1 - q) * ((1 - q) / (1 - np.exp(2 * gamma) * q)) ** 2 + q * np.exp(2 * gamma * 2)
    )
    bound = study.lnmax_rdp(np.array([[30.0, 0.0]]), 1 / gamma)[0][0]
    assert bound[np.isclose(study.ORDERS, order)] == pytest.approx(moment / 2)


def test_unanimous_votes_are_cheap_and_ties_are_not():
    clear, tie = np.array([[60.0, 0.0]]), np.array([[30.0, 30.0]])
    for bound in BOUNDS.values():
        cheap, flat = bound(clear, 4.0)
        assert cheap[0].min() < flat.min() / 100
        assert bound(tie, 4.0)[0][0] == pytest.approx(flat)


def test_worst_case_epsilon_is_its_closed_form(rows):
    seen = rows.set_index("metric")["value"]["worst_epsilon"]
    closed = 2 * 100 * 0.05**2 + 2 * 0.05 * np.sqrt(2 * 100 * np.log(1e5))
    assert seen == pytest.approx(closed, rel=2e-3)
    assert seen >= closed


def test_votes_are_counted():
    predictions = np.array([[0, 1], [0, 2], [1, 2]])
    assert study.count(predictions, 3).tolist() == [[2, 1, 0], [0, 1, 2]]


def test_without_noise_the_answer_is_the_majority_and_the_threshold_holds():
    ballots = np.array([[18.0, 2.0], [9.0, 11.0]])
    rng, how = np.random.default_rng(0), settings(threshold=0.8)
    labels, given, spent = study.answer(ballots, study.GNMAX, 1e-9, how, rng)
    assert labels.tolist() == [0, 1]
    assert given.tolist() == [True, False]
    assert spent["epsilon"] <= spent["worst_case"]


def test_a_record_that_decides_a_tie_is_exposed_and_agreement_has_two_borders():
    before, after = np.array([[2.0, 3.0, 0.0]]), np.array([[3.0, 2.0, 0.0]])
    assert before.argmax() != after.argmax()
    assert study._agreed(before)[0] == 1
    assert study._agreed(np.array([[2.0, 2.0, 1.0]]))[0] == -1


def test_more_noise_costs_less_whatever_the_votes(rows):
    table = study.settings_table(rows)
    for _, group in table[table["mechanism"] != study.NO_NOISE].groupby(["task", "mechanism"]):
        assert group.sort_values("noise")["worst_case"].is_monotonic_decreasing
        assert (group["epsilon"] <= group["worst_case"] + 1e-9).all()


def test_no_exact_divergence_is_above_its_bound_and_a_wrong_bound_would_be_seen(rows, monkeypatch):
    assert (rows.loc[rows["metric"] == "excess", "value"] == 0).all()
    right = study.lnmax_rdp
    monkeypatch.setattr(study, "lnmax_rdp", lambda v, s: (right(v, s)[0] / 4, right(v, s)[1]))
    broken = study.cost_of_answers(settings())
    assert broken.loc[broken["check"] == "LNMax, exact", "value"].iloc[0] > 0


def test_claims_turn(rows):
    texts = [c.text for c in study.takeaways(rows, settings(budget=1e-3))]
    assert texts[0] == "On digits no setting of PATE stays within epsilon 0.001."
    still = rows.assign(value=rows["value"].mask(rows["metric"] == "exposed", 0.0))
    texts = [c.text for c in study.takeaways(still, settings())]
    assert "On table no record of the sample changed an answer of the majority." in texts


def test_one_seed_one_result(frame, rows):
    how = settings()
    again = study.students("table", study.tasks(frame, "y", how)["table"], how)
    before = rows[(rows["part"] == "students") & (rows["task"] == "table")]
    assert again["value"].tolist() == before["value"].tolist()


@pytest.mark.parametrize(
    "changes",
    [
        {"teachers": 1},
        {"noise": []},
        {"noise": [0.0]},
        {"threshold": 1.5},
        {"delta": 0},
        {"delta": 1},
        {"budget": 0},
        {"left_out": 0},
        {"seed": -1},
    ],
)
def test_settings_outside_their_range_are_one_sentence(changes):
    with pytest.raises(ValueError, match=r"got .*\.$"):
        settings(**changes)


def test_more_teachers_than_records_and_a_single_class_are_refused():
    rng, x, y = np.random.default_rng(1), np.ones((20, 2)), np.arange(20) % 2
    with pytest.raises(ValueError, match="got 13 teachers for 12 private records"):
        study.split(x, y, 13, rng)
    with pytest.raises(ValueError, match="two classes or more, got one in 20 records"):
        study.split(x, 0 * y, 2, rng)


def test_teachers_and_students_of_one_class_repeat_it():
    x = np.ones((5, 2))
    assert study.fit(x, np.full(5, 3)).predict(x).tolist() == [3] * 5
    task = study.split(np.eye(30), np.arange(30) % 2, 18, np.random.default_rng(2))
    assert study.teach(task).shape == (18, 6)
