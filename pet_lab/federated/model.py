"""One small network with classes: ReLU, softmax, parameters as one flat vector, momentum SGD.

Layers, errors and clipped norms are those of `pet_lab.dpsgd.network`. That package's engine trains
many networks with one logit side by side; here one model is handed on from round to round.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pet_lab.checks import positive, require, whole
from pet_lab.dpsgd import network

Array = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Evaluation:
    """Accuracy in [0, 1] and mean cross-entropy in nats over `n` windows."""

    accuracy: float
    loss: float
    n: int


@dataclass(frozen=True, kw_only=True)
class LocalTraining:
    """How an office trains within a round: SGD with momentum over shuffled batches.

    clip, noise_multiplier   with both, DP-SGD: Poisson batches, each record's gradient clipped to
                             norm `clip`, Gaussian noise of `noise_multiplier * clip` on the sum
    """

    epochs: int = 1
    batch_size: int = 32
    learning_rate: float = 0.03
    momentum: float = 0.9
    clip: float | None = None
    noise_multiplier: float = 0.0

    def __post_init__(self) -> None:
        whole(1, epochs=self.epochs, batch_size=self.batch_size)
        positive(learning_rate=self.learning_rate)
        momentum, z = self.momentum, self.noise_multiplier
        require(0 <= momentum < 1, f"momentum is from 0 to below 1, got {momentum}.")
        require(z >= 0, f"noise_multiplier is at least 0, got {z}.")
        if self.clip is not None:
            positive(clip=self.clip)
        safe = self.private or not z
        require(safe, "Noise without a clip protects nothing: set clip as well.")

    @property
    def private(self) -> bool:
        """Whether this is DP-SGD."""
        return self.clip is not None

    def batches(self, n: int, rng: np.random.Generator) -> Sequence[NDArray[np.int64]]:
        """Rows of n records for each step of one pass."""
        size, starts = min(self.batch_size, n), range(0, n, min(self.batch_size, n))
        if self.private:
            return [np.flatnonzero(rng.random(n) < size / n) for _ in starts]
        order = rng.permutation(n)
        return [order[at : at + size] for at in starts]


@dataclass(frozen=True)
class Network:
    """Sizes of the layers, input first, classes last."""

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        ok = len(self.sizes) >= 2 and min(self.sizes) >= 1
        require(ok, f"A network needs at least two positive sizes, got {self.sizes}.")

    @cached_property
    def shapes(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each layer."""
        return network.layer_shapes(self.sizes[0], self.sizes[1:-1], self.sizes[-1])

    @cached_property
    def parameters(self) -> int:
        """Length of the flat vector."""
        return network.parameter_count(self.shapes)

    @property
    def output_starts(self) -> int:
        """Where the last layer starts in the flat vector; it reaches to the end."""
        return self.parameters - network.parameter_count(self.shapes[-1:])

    def layers(self, flat: Array) -> list[tuple[Array, Array]]:
        """Views of the flat vector as [(W (a, b), bias (b,)), ...]."""
        return [(w[0], bias[0, 0]) for w, bias in network.layers_of(flat[None], self.shapes)]

    def initial(self, rng: np.random.Generator) -> Array:
        """Glorot-uniform weights, biases zero."""
        return network.initial_weights(self.shapes, rng)

    def logits(self, flat: Array, x: Array) -> Array:
        """Outputs before the softmax: x (n, inputs) -> (n, classes)."""
        layers = network.layers_of(flat[None], self.shapes)
        return network.forward(layers, x[None], "relu")[-1][0]

    def evaluate(self, flat: Array, x: Array, y: Labels) -> Evaluation:
        """Accuracy and mean loss; NaN loss where the weights are not finite."""
        with np.errstate(all="ignore"):
            z = self.logits(flat, x)
            shifted = z - z.max(axis=1, keepdims=True)
            log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        accuracy, loss = np.mean(np.argmax(z, axis=1) == y), -log_p[np.arange(len(y)), y].mean()
        return Evaluation(float(accuracy), float(loss), len(y))

    def gradient(self, flat: Array, x: Array, y: Labels, *, clip: float | None = None) -> Array:
        """Gradient of the *sum* of losses, each record's own clipped to norm `clip` if given.

        Shapes: x (n, inputs), y (n,) -> (parameters,).
        """
        layers = network.layers_of(flat[None], self.shapes)
        values = network.forward(layers, x[None], "relu")
        delta = network.output_errors(values[-1], np.eye(self.sizes[-1])[y][None])
        deltas = network.back_propagated(layers, values, delta, "relu")
        if clip is not None:
            factor = network.clip_factors(network.squared_norms(values, deltas), clip)[..., None]
            deltas = [d * factor for d in deltas]
        out = np.empty_like(flat)
        into = network.layers_of(out[None], self.shapes)
        for a, d, (weight, bias) in zip(values[:-1], deltas, into, strict=True):
            np.matmul(a.transpose(0, 2, 1), d, out=weight)
            np.sum(d, axis=1, keepdims=True, out=bias)
        return out

    def train(
        self, flat: Array, x: Array, y: Labels, how: LocalTraining, rng: np.random.Generator
    ) -> Array:
        """New weights after `how.epochs` passes over the records; `flat` stays as it is."""
        weights, speed, n = flat.copy(), np.zeros_like(flat), len(y)
        size = min(how.batch_size, n)
        for _ in range(how.epochs):
            for chosen in how.batches(n, rng):
                grad = self.gradient(weights, x[chosen], y[chosen], clip=how.clip)
                if how.noise_multiplier:
                    assert how.clip is not None
                    grad += rng.normal(0, how.noise_multiplier * how.clip, grad.size)
                # Poisson batches differ in size; dividing by the expected one keeps it private.
                rate = how.learning_rate / (size if how.private else len(chosen))
                speed = how.momentum * speed - rate * grad
                weights += speed
        return weights
