"""Poisoning: gradients by definition, a backdoor that works and one that cannot, refusals."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize
from sklearn.linear_model import LogisticRegression

from pet_lab.studies import poisoning as study


def settings(**changes):
    values = {"shares": [0.0, 0.1], "backdoor_shares": [0.0, 0.05], "penalty": 0.01}
    return study.Settings(**values | {"steps": 3, "replicates": 2, "seed": 5} | changes)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 1e-2, 0.1]))
def test_the_solver_is_scikit_learns(seed, penalty):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(40, 4)), rng.integers(0, 2, 40).astype(float)
    y[:2] = 0, 1
    peer = LogisticRegression(C=1 / (penalty * 40), fit_intercept=False, tol=1e-10, max_iter=5000)
    assert study.solve(x, y, penalty=penalty) == pytest.approx(peer.fit(x, y).coef_[0], abs=1e-4)


@given(st.integers(0, 2**32 - 1))
def test_the_implicit_gradient_is_that_of_finite_differences(seed):
    rows = study.gradient_check(settings(replicates=3, seed=seed))
    assert rows["value"].to_numpy() == pytest.approx(1, abs=1e-3)


def test_the_whole_gradient_is_that_of_finite_differences():
    rng = np.random.default_rng(1)
    x, held_out, poison = rng.random((30, 3)), rng.random((20, 3)), rng.random((2, 3))
    y, truth, flipped = (rng.integers(0, 2, n).astype(float) for n in (30, 20, 2))

    def height(flat):
        everything = np.vstack([x, flat.reshape(2, 3)]), np.append(y, flipped)
        return study.loss(held_out, truth, study.solve(*everything, penalty=0.05))

    slope = study.implicit_gradient(x, y, poison, flipped, (held_out, truth), penalty=0.05)
    slow = optimize.approx_fprime(poison.ravel(), height, 1e-5)
    assert slope.ravel() == pytest.approx(slow, rel=1e-2, abs=1e-6)


def test_gradients_that_vanish_are_said():
    x, y = np.zeros((4, 2)), np.array([0.0, 1, 0, 1])
    with pytest.raises(ValueError, match="Every gradient vanished"):
        study.implicit_gradient(x, y, x[:1], y[:1], (x, y), penalty=0.1)


def test_the_ascent_never_ends_below_its_start():
    rows = study.poisoned_regression(settings(steps=8, shares=[0.1], replicates=3))
    loss = rows[rows["metric"] == "loss"].groupby("attack")["value"].mean()
    assert loss["two-level"] > loss["labels flipped"]


@pytest.mark.parametrize(("corner", "value"), [((7, 0), 1.0), ((-1, 2), 1.0), ((0, 0), 1.5)])
def test_a_trigger_stays_in_the_image(corner, value):
    with pytest.raises(ValueError, match="A trigger lies within 8 by 8 pixels"):
        study.stamp(np.zeros((1, 64)), corner=corner, value=value)


def test_a_trigger_changes_its_square_alone():
    stamped = study.stamp(np.zeros((3, 64)), corner=(2, 3)).reshape(3, 8, 8)
    assert stamped[:, 2:4, 3:5].min() == 1
    assert stamped.sum() == 3 * 4


def test_a_planted_direction_has_the_largest_signature():
    rng = np.random.default_rng(2)
    hidden = rng.normal(size=(200, 10))
    hidden[:20] += 8
    assert set(np.argsort(-study.signature(hidden))[:20]) == set(range(20))


def test_without_poison_the_trigger_does_nothing_and_with_it_works():
    rows = study.backdoored_digits(settings())
    mean = rows.groupby(["defence", "share", "metric"])["value"].mean()
    assert mean["none", 0.0, "trigger_success"] < 0.05
    assert mean["none", 0.05, "trigger_success"] > 0.8
    assert (
        mean["spectral signature", 0.05, "trigger_success"] < mean["none", 0.05, "trigger_success"]
    )
    assert mean["none", 0.05, "accuracy"] > 0.93


@pytest.mark.parametrize(
    "changes",
    [
        {"shares": [0.9]},
        {"shares": []},
        {"penalty": 0},
        {"steps": 0},
        {"replicates": 0},
        {"seed": -1},
    ],
)
def test_settings_outside_their_range_are_one_sentence(changes):
    with pytest.raises(ValueError, match=r"got .*\.$"):
        settings(**changes)


def test_a_run_without_a_trigger_has_a_table_without_rows():
    metrics = ["accuracy", "trigger_success"]
    rows = pd.DataFrame(
        {"share": 0.0, "replicate": 0, "metric": metrics, "value": [0.9, 0.1], "part": "backdoor"}
    )
    table = study.detection(rows)
    assert [*table.columns] == ["share", "found", "false_alarms"]
    assert table.empty
