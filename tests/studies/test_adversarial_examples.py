"""Adversarial examples: against closed forms, by brute force, and what must be refused."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pet_lab.studies import adversarial_examples as study


@pytest.fixture(scope="module")
def trained():
    rng = np.random.default_rng(3)
    train, held_out = study.digits(100, rng)
    return study.fit(*train, rng=rng), *held_out


def linear(weights):
    """A network without hidden layer whose first class scores w.x, its second 0."""
    w = np.stack([weights, np.zeros_like(weights)], axis=1)
    return study.Net([(w[None], np.zeros((1, 1, 2)))])


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.3))
def test_on_a_linear_model_both_attacks_are_optimal(seed, epsilon):
    """Closed form: the score w.(x - 0.5) falls by epsilon |w|_1, where no pixel is at its end."""
    rng = np.random.default_rng(seed)
    weights, x = rng.normal(size=6), rng.uniform(0.3, 0.7, (40, 6))
    net, y = linear(weights), np.zeros(40, np.int64)
    score = x @ weights
    for steps, start in ((1, False), (20, True)):
        points = study.pgd(net, x, y, epsilon=epsilon, steps=steps, rng=rng, start=start)
        lowest = score - epsilon * np.abs(weights).sum()
        assert points @ weights == pytest.approx(lowest, abs=1e-9)


@pytest.mark.parametrize("epsilon", [0.0, -0.1, 1.5, float("nan")])
def test_a_budget_is_above_zero_and_within_the_data(trained, epsilon):
    net, x, y = trained
    with pytest.raises(ValueError, match="budget is above 0 and at most 1"):
        study.pgd(net, x, y, epsilon=epsilon, steps=3, rng=np.random.default_rng(0))


def test_points_stay_in_the_budget_and_in_the_image(trained):
    net, x, y = trained
    points = study.pgd(net, x, y, epsilon=0.1, steps=7, restarts=3, rng=np.random.default_rng(0))
    assert np.abs(points - x).max() <= 0.1 + 1e-12
    assert points.min() >= 0
    assert points.max() <= 1


def test_input_gradients_are_those_of_finite_differences(trained):
    net, x, y = trained
    gradient = net.input_gradient(x[None, :1], y[:1])[0, 0]

    def loss(point):
        z = net.logits(point[None, None])[0, 0]
        return np.log(np.exp(z - z.max()).sum()) + z.max() - z[y[0]]

    steps = 1e-6 * np.eye(64)
    slow = [(loss(x[0] + s) - loss(x[0] - s)) / 2e-6 for s in steps]
    assert gradient == pytest.approx(slow, abs=1e-6)


def test_more_restarts_never_help_the_defender(trained):
    net, x, y = trained
    accuracy = [
        np.mean(net.predict(study.pgd(net, x, y, epsilon=0.07, steps=10, restarts=r, rng=rng)) == y)
        for r in (1, 8)
        for rng in [np.random.default_rng(5)]
    ]
    assert accuracy[1] <= accuracy[0] + 0.02


def test_vanished_gradients_are_counted_and_said(trained):
    net, x, y = trained
    assert study.vanished(net, x, y) == 0
    saturated = study.Net([(weights * 1e4, biases * 1e4) for weights, biases in net.layers])
    right = saturated.predict(x) == y
    assert study.vanished(saturated, x[right], y[right]) > 0.9


def test_the_toolbox_flips_the_same_share(trained):
    net, x, y = trained
    ours = study.pgd(net, x, y, epsilon=0.1, steps=15, restarts=2, rng=np.random.default_rng(1))
    library = study.art_points(net, x, y, epsilon=0.1, steps=15, restarts=2)
    gap = (net.predict(ours) != y).astype(float) - (net.predict(library) != y)
    assert abs(gap.mean()) <= 3 * max(gap.std() / 10, 0.01)


@given(st.integers(0, 2**32 - 1))
def test_the_fewest_changes_are_those_of_a_search(seed):
    rng = np.random.default_rng(seed)
    gains, margins = rng.normal(size=(5, 4)), rng.uniform(0.1, 3, 5)
    shares = study.flipped("any", gains, margins, 4)["value"]
    for k, share in enumerate(shares, start=1):
        best = [
            max(sum(max(g, 0) for g in row[list(c)]) for c in combinations(range(4), k))
            for row in gains
        ]
        assert share == np.mean(np.array(best) > margins)


def test_fields_that_are_no_columns_are_refused():
    frame = pd.DataFrame({"a": [0, 1] * 10, "b": ["x", "y"] * 10})
    with pytest.raises(ValueError, match="columns of the table"):
        study.answers(frame, np.arange(20) < 10, ["c"])


def test_radii_are_those_of_the_papers():
    """Cohen: sigma * Phi^-1(p); Lecuyer's never reaches further, and neither without a majority."""
    votes = np.array([100, 300, 500, 990, 1000])
    both = study.radii(votes, 1000, 0.5)
    p = stats.beta.ppf(0.001, votes, 1000 - votes + 1)
    assert both["Cohen 2019"] == pytest.approx(np.maximum(0.5 * stats.norm.ppf(p), 0))
    assert (both["Lecuyer 2019 (DP)"] <= both["Cohen 2019"] + 1e-12).all()
    assert both["Lecuyer 2019 (DP)"][-1] > 0
    assert both["Cohen 2019"][:2].tolist() == [0, 0]


def settings(**changes):
    values = {"epsilons": [0.1], "steps": 5, "restarts": 2, "images": 60, "trained_at": 0.2}
    return study.Settings(**values | {"sigma": 0.3, "noise_draws": 200, "seed": 1} | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"epsilons": []},
        {"epsilons": [2.0]},
        {"steps": 0},
        {"images": 1},
        {"sigma": 0},
        {"seed": -1},
    ],
)
def test_settings_outside_their_range_are_one_sentence(changes):
    with pytest.raises(ValueError, match=r"got .*\.$"):
        settings(**changes)


def test_no_certified_point_is_broken():
    rng = np.random.default_rng(11)
    train, (x, y) = study.digits(80, rng)
    net = study.fit(*train, rng=rng, sigma=0.3)
    rows = study.smoothed(net, x, y, settings(), rng).groupby("metric")["value"].sum()
    assert rows["attacked"] > 40
    assert rows["broken"] == 0


def test_noise_hides_an_attack_from_the_detector(trained):
    net, x, y = trained
    honest = study.digits(100, np.random.default_rng(3))[0][0]
    rows = study.stateful(net, honest, x, y, epsilon=0.2, rng=np.random.default_rng(2))
    flagged = rows[rows["metric"] == "flagged"].groupby("sender")["value"].mean()
    assert flagged["an attack"] > 0.9
    assert flagged["honest users"] < 0.01
    assert flagged[study.HIDDEN] < 0.1
