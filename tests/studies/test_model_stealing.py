"""Model stealing: equations by hand, noise by its law, streams and people that are controls."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pet_lab.studies import model_stealing as study


def settings(**changes):
    values = {"features": [3], "queries": [31, 62], "decimals": [1], "epsilon": 3.0, "alarm": 0.9}
    values |= {"sensitive": "s", "target": "y", "replicates": 2, "seed": 5}
    return study.Settings(**values | changes)


@pytest.fixture
def people():
    """Three fields of no use, a sensitive one, and outcomes that are coins."""
    rng = np.random.default_rng(4)
    frame = {name: rng.integers(0, 9, 200) for name in "abc"}
    return pd.DataFrame(
        {**frame, "s": rng.choice(["f", "m"], 200), "y": rng.choice(["no", "yes"], 200)}
    )


@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_as_many_equations_as_unknowns_give_the_weights_and_fewer_do_not(d, seed):
    rng = np.random.default_rng(seed)
    points, weights = study.with_constant(rng.uniform(-1, 1, (d + 1, d))), rng.normal(size=d + 1)
    slow = np.linalg.inv(points) @ (points @ weights)
    # the error of either is that of rounding times the condition of the points
    close = 1e-13 * np.linalg.cond(points)
    assert study.solve(points, points @ weights) == pytest.approx(weights, abs=close)
    assert slow == pytest.approx(weights, abs=close)
    fewer = study.solve(points[:-1], points[:-1] @ weights)
    assert np.abs(fewer - weights).max() > 1e-9


def test_two_classes_and_ten_take_one_query_more_than_features():
    rows = study.equation_solving(settings(features=[3, 30]))
    needed = rows[rows["metric"] == "queries_needed"]
    assert (needed["value"] == needed["features"] + 1).all()
    assert set(needed["features"]) == {3, 30, 64}
    error = rows[rows["metric"] == "error"]
    assert error.loc[error["beyond"] == 0, "value"].min() > 1e-3
    assert error.loc[error["beyond"] == 1, "value"].max() < study.TOLERANCE


def test_answers_are_what_they_say():
    z, rng = np.array([-9.0, -0.3, 0.0, 2.0]), np.random.default_rng(1)
    say = {"scale": 2.0, "rng": rng}
    assert study.answered(z, study.NO_DEFENCE, **say) is z
    assert study.answered(z, study.LABEL, **say).tolist() == [-1, -1, -1, 1]
    shown = 1 / (1 + np.exp(-study.answered(z, "rounded 1", **say)))
    assert shown == pytest.approx([0.05, 0.4, 0.5, 0.9])  # 0.0 is shown as 0.05: logit(0) is none
    noise = study.answered(np.zeros(200_000), study.EACH, **say)
    assert abs(np.abs(noise).mean() - 2) < 4 * 2 / np.sqrt(len(noise))  # Laplace: E|x| = scale = sd


def test_one_record_moves_a_log_odds_by_at_most_one():
    x, y = study.tumours()
    x = x / np.sqrt(x.shape[1])
    assert np.linalg.norm(x, axis=1).max() <= 1 + 1e-12
    rng, whole = np.random.default_rng(2), study.fitted(x[:100], y[:100], strength=1).coef_[0]
    for out in rng.choice(100, 20, replace=False):
        kept = np.arange(100) != out
        less = study.fitted(x[:100][kept], y[:100][kept], strength=1).coef_[0]
        assert np.linalg.norm(whole - less) <= 1


def test_defences_cost_what_they_say_and_a_private_model_is_stolen():
    rows = study.defended_regression(settings(replicates=3))
    mean = rows.groupby(["defence", "queries", "metric"])["value"].mean()
    assert mean["none", 31, "agreement"] == mean[study.ONCE, 31, "agreement"] == 1
    assert mean[study.EACH, 62, "spent"] == 62 * 3
    assert mean[study.ALL, 62, "spent"] == mean[study.ONCE, 62, "spent"] == 3
    assert mean[study.ALL, 62, "useful"] < mean[study.EACH, 62, "useful"]
    assert np.isinf(mean["rounded 1", 62, "spent"])


def test_distances_are_to_the_nearest_earlier_query_with_the_same_answer():
    rng = np.random.default_rng(3)
    stream, answers = rng.normal(size=(80, 4)), rng.integers(0, 2, 80)
    slow = []
    for i in range(80):
        earlier = [j for j in range(i) if answers[j] == answers[i]]
        if earlier:
            slow.append(min(np.linalg.norm(stream[i] - stream[j]) for j in earlier))
    slow = np.array(slow)
    slow = slow[np.abs(slow - slow.mean()) <= 3 * slow.std()]
    from scipy.stats import shapiro

    assert study.normality(stream, answers) == pytest.approx(shapiro(slow).statistic)
    with pytest.raises(ValueError, match="three queries with an earlier one, got 1"):
        study.normality(stream[:2], np.zeros(2, int))


@pytest.mark.parametrize("kind", study.COPIED)
def test_streams_have_the_asked_length_and_stay_in_range(kind):
    own = np.random.default_rng(1).random((100, 64))
    stream = study.query_stream(kind, own, 50, np.random.default_rng(2))
    assert stream.shape == (50, 64)
    assert 0 <= stream.min() <= stream.max() <= 1
    unmoved = sum(any((row == record).all() for record in own) for row in stream)
    assert unmoved == {study.OWN: 50, study.COPIES: 10, study.HIDDEN: 30}[kind]


def test_copies_alarm_and_honest_records_do_not():
    rows = study.stolen_network(settings(queries=[100], replicates=2))
    mean = rows.groupby(["stream", "metric"])["value"].mean()
    assert mean[study.COPIES, "alarm"] == 1
    assert mean[study.OWN, "alarm"] == 0
    assert mean[study.OWN, "agreement"] > mean[study.CONTROL, "agreement"]


def test_a_forest_gives_its_members_away_and_nobody_else(people):
    rows = study.inversion(people, settings(replicates=8))
    hit = rows.groupby(["model", "people"])["value"].mean()
    assert hit["forest", "members"] > 0.7
    assert abs(hit["forest", "others"] - 0.5) < 0.1
    assert abs(hit["prior", "members"] - 0.5) < 0.1


@pytest.mark.parametrize(
    "changes",
    [
        {"features": [31]},
        {"features": []},
        {"queries": [5]},
        {"queries": [701]},
        {"decimals": [0]},
        {"epsilon": 0},
        {"epsilon": -1.0},
        {"alarm": 2},
        {"replicates": 0},
        {"seed": -1},
    ],
)
def test_settings_outside_their_range_are_one_sentence(changes):
    with pytest.raises(ValueError, match=r"got .*\.$"):
        settings(**changes)


def test_a_field_that_is_not_there_and_one_outcome_are_refused(people):
    for field in ("z", "y"):
        with pytest.raises(ValueError, match=f"a column beside the target, got '{field}'"):
            study.inversion(people, settings(sensitive=field))
    with pytest.raises(ValueError, match=r"one class|two classes"):
        study.inversion(people.assign(y="yes"), settings())


def test_claims_turn_where_the_model_knows_nothing_of_its_members(people):
    chosen = settings()
    rows = study.simulate(people, chosen)
    assert study.takeaways(rows, chosen)[0].holds
    silent = rows.copy()
    silent.loc[silent["part"] == "inversion", "value"] = 0.5
    silent.loc[silent["metric"] == "queries_needed", "value"] = np.nan
    claims = study.takeaways(silent, chosen)
    assert not claims[0].holds
    assert not claims[-1].holds


def test_the_panel_falls_off_the_cliff_too():
    at = {q: study.explore(10, q, "exact")["value"] for q in (10, 11)}
    assert at[10][1] > 1e-3
    assert at[11][1] < 1e-9
    assert at[11][2] == 1
