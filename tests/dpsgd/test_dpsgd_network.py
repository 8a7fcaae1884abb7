"""The network's pieces by definition: slopes of the loss, and norms of gradients written out."""

import numpy as np
import pytest

from pet_lab.dpsgd import network

RNG = np.random.default_rng(4)
X = RNG.normal(size=(1, 5, 4))


def loss(flat, shapes, x, y, activation):
    """Sum over records of the softmax loss (one-hot y) or the logistic loss (one column)."""
    z = network.forward(network.layers_of(flat[None], shapes), x, activation)[-1][0]
    if z.shape[1] == 1:
        return float((np.logaddexp(0, z) - y[0] * z).sum())
    return float((np.log(np.exp(z).sum(axis=1)) - (y[0] * z).sum(axis=1)).sum())


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_gradients_and_their_norms(activation, outputs):
    shapes = network.layer_shapes(4, (6, 5), outputs)
    flat = network.initial_weights(shapes, RNG)
    assert flat.size == network.parameter_count(shapes)
    classes = RNG.integers(0, max(outputs, 2), 5)
    y = (classes[:, None] if outputs == 1 else np.eye(3)[classes])[None].astype(float)
    layers = network.layers_of(flat[None], shapes)
    values = network.forward(layers, X, activation)
    delta = network.output_errors(values[-1], y)
    deltas = network.back_propagated(layers, values, delta, activation)
    squared = network.squared_norms(values, deltas)
    h = 1e-6
    for i in range(5):
        parts = []
        for a, d in zip(values[:-1], deltas, strict=True):
            parts += [np.outer(a[0, i], d[0, i]).ravel(), d[0, i]]
        gradient = np.concatenate(parts)
        own = (shapes, X[:, i : i + 1], y[:, i : i + 1], activation)
        slope = [
            (loss(flat + h * e, *own) - loss(flat - h * e, *own)) / (2 * h)
            for e in np.eye(flat.size)
        ]
        # Central differences: truncation of order h^2, rounding of order 1e-16 / h.
        np.testing.assert_allclose(gradient, slope, atol=1e-8)
        assert squared[0, i] == pytest.approx(gradient @ gradient)
    pairs = network.squared_norms([v[:, :4] for v in values], [d[:, :4] for d in deltas], groups=2)
    assert pairs.shape == (1, 2)


def test_a_clip_factor_never_enlarges():
    factors = network.clip_factors(np.array([0.0, 0.25, 4.0]), 1.0)
    np.testing.assert_allclose(factors, [1, 1, 0.5])
