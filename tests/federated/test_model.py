"""The network: gradients by definition, clipping by definition."""

import numpy as np
import pytest

from pet_lab import federated as fl

NET = fl.Network((5, 4, 3))
RNG = np.random.default_rng(1)
X, Y = RNG.normal(size=(7, 5)), RNG.integers(0, 3, 7)
W = NET.initial(RNG)


def total_loss(w):
    e = NET.evaluate(w, X, Y)
    return e.loss * e.n


def test_gradient_is_the_slope_of_the_loss():
    got, h = NET.gradient(W, X, Y), 1e-6
    slope = [
        (total_loss(W + h * e) - total_loss(W - h * e)) / (2 * h) for e in np.eye(NET.parameters)
    ]
    np.testing.assert_allclose(got, slope, atol=1e-6)


@pytest.mark.parametrize("clip", [0.1, 1.0, 100.0])
def test_clipped_gradient_is_the_sum_of_clipped_gradients(clip):
    by_definition = np.zeros(NET.parameters)
    for i in range(len(Y)):
        g = NET.gradient(W, X[i : i + 1], Y[i : i + 1])
        by_definition += g / max(np.linalg.norm(g) / clip, 1)
    np.testing.assert_allclose(NET.gradient(W, X, Y, clip=clip), by_definition, atol=1e-12)


def test_layers_fill_the_vector_and_the_output_layer_is_last():
    assert NET.parameters == 5 * 4 + 4 + 4 * 3 + 3
    assert NET.output_starts == 24
    assert sum(w.size + b.size for w, b in NET.layers(W)) == NET.parameters


def test_training_lowers_the_loss_repeats_and_leaves_its_input_alone():
    before = W.copy()
    how = fl.LocalTraining(epochs=30, batch_size=4, learning_rate=0.05)
    a = NET.train(W, X, Y, how, np.random.default_rng(3))
    b = NET.train(W, X, Y, how, np.random.default_rng(3))
    assert np.array_equal(a, b)
    assert np.array_equal(W, before)
    assert total_loss(a) < 0.5 * total_loss(W)


def test_private_training_adds_the_noise_it_says():
    """One step with next to no gradient: the change is the noise."""
    how = fl.LocalTraining(
        batch_size=7, learning_rate=1.0, momentum=0.0, clip=1e-9, noise_multiplier=2e9
    )
    moved = np.concatenate(
        [NET.train(W, X, Y, how, np.random.default_rng(s)) - W for s in range(40)]
    )
    want = 2.0 / 7
    assert abs(moved.std() - want) < 5 * want / np.sqrt(2 * moved.size)


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"momentum": 1.0},
        {"clip": -1.0},
        {"noise_multiplier": 1.0},
    ],
)
def test_trainings_that_make_no_sense_are_refused(bad):
    (name,) = bad
    with pytest.raises(ValueError, match="set clip" if name == "noise_multiplier" else name):
        fl.LocalTraining(**bad)


def test_networks_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="sizes"):
        fl.Network((5,))
