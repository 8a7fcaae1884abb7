"""A small network in NumPy: dense layers, ReLU, softmax. Its parameters are one flat vector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Evaluation", "Network", "Training"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """Accuracy in [0, 1] and mean cross-entropy in nats over `n` windows."""

    accuracy: float
    loss: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Training:
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
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(
                f"epochs and batch_size must be at least 1, got {self.epochs}, {self.batch_size}."
            )
        if not self.learning_rate > 0 or not 0 <= self.momentum < 1:
            raise ValueError(
                f"Expected learning_rate > 0 and 0 <= momentum < 1, got {self.learning_rate} and "
                f"{self.momentum}."
            )
        if self.noise_multiplier < 0 or (self.clip is not None and not self.clip > 0):
            raise ValueError("clip must be positive and noise_multiplier not negative.")
        if self.noise_multiplier and self.clip is None:
            raise ValueError("Noise without a clip protects nothing: set clip as well.")

    @property
    def private(self) -> bool:
        return self.clip is not None


@dataclass(frozen=True)
class Network:
    """Sizes of the layers, input first, classes last."""

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            raise ValueError(f"A network needs at least two positive sizes, got {self.sizes}.")

    @property
    def shapes(self) -> list[tuple[int, int]]:
        return list(zip(self.sizes[:-1], self.sizes[1:], strict=True))

    @property
    def parameters(self) -> int:
        """Length of the flat vector."""
        return sum(a * b + b for a, b in self.shapes)

    @property
    def output_starts(self) -> int:
        """Where the last layer starts in the flat vector; it reaches to the end."""
        a, b = self.shapes[-1]
        return self.parameters - a * b - b

    def layers(self, flat: Array) -> list[tuple[Array, Array]]:
        """Views of the flat vector as [(W (a, b), bias (b,)), ...]."""
        out, at = [], 0
        for a, b in self.shapes:
            out.append((flat[at : at + a * b].reshape(a, b), flat[at + a * b : at + a * b + b]))
            at += a * b + b
        return out

    def initial(self, rng: np.random.Generator) -> Array:
        """Glorot-uniform weights, biases zero."""
        parts: list[Array] = []
        for a, b in self.shapes:
            bound = math.sqrt(6 / (a + b))
            parts += [rng.uniform(-bound, bound, a * b), np.zeros(b)]
        return np.concatenate(parts)

    def activations(self, flat: Array, x: Array) -> list[Array]:
        """Inputs of every layer and, last, the logits (n, classes)."""
        values = [x]
        layers = self.layers(flat)
        for i, (weight, bias) in enumerate(layers):
            z = values[-1] @ weight
            z += bias
            if i < len(layers) - 1:
                np.maximum(z, 0, out=z)
            values.append(z)
        return values

    def logits(self, flat: Array, x: Array) -> Array:
        return self.activations(flat, x)[-1]

    def evaluate(self, flat: Array, x: Array, y: NDArray[np.int64]) -> Evaluation:
        """Accuracy and mean loss; NaN loss where the weights are not finite."""
        with np.errstate(all="ignore"):
            z = self.logits(flat, x)
            lp = log_softmax(z)
        return Evaluation(
            accuracy=float(np.mean(np.argmax(z, axis=1) == y)),
            loss=float(-lp[np.arange(len(y)), y].mean()),
            n=len(y),
        )

    def deltas(self, flat: Array, values: list[Array], y: NDArray[np.int64]) -> list[Array]:
        """Derivative of each record's own loss by each layer's output before ReLU, (n, b) each."""
        delta = np.exp(log_softmax(values[-1]))
        delta[np.arange(len(y)), y] -= 1
        out = [delta]
        layers = self.layers(flat)
        for i in range(len(layers) - 1, 0, -1):
            delta = delta @ layers[i][0].T
            delta *= values[i] > 0
            out.append(delta)
        return out[::-1]

    def gradient(
        self, flat: Array, x: Array, y: NDArray[np.int64], *, clip: float | None = None
    ) -> Array:
        """Gradient of the *sum* of losses, each record's own clipped to norm `clip` if given.

        Shapes: x (n, inputs), y (n,) -> (parameters,). The norms are exact without a gradient per
        record: that of a dense layer is an outer product (arXiv:1510.01799).
        """
        values = self.activations(flat, x)
        deltas = self.deltas(flat, values, y)
        if clip is not None:
            squared = sum(
                ((a * a).sum(axis=1) + 1) * (d * d).sum(axis=1)
                for a, d in zip(values[:-1], deltas, strict=True)
            )
            factor = 1 / np.maximum(np.sqrt(squared) / clip, 1)
            deltas = [d * factor[:, None] for d in deltas]
        parts: list[Array] = []
        for a, d in zip(values[:-1], deltas, strict=True):
            parts += [(a.T @ d).ravel(), d.sum(axis=0)]
        return np.concatenate(parts)

    def train(
        self,
        flat: Array,
        x: Array,
        y: NDArray[np.int64],
        how: Training,
        rng: np.random.Generator,
    ) -> Array:
        """New weights after `how.epochs` passes over the records; `flat` stays as it is."""
        weights, speed, n = flat.copy(), np.zeros_like(flat), len(y)
        batch = min(how.batch_size, n)
        for _ in range(how.epochs):
            for chosen in _batches(n, batch, how.private, rng):
                grad = self.gradient(weights, x[chosen], y[chosen], clip=how.clip)
                if how.noise_multiplier:
                    assert how.clip is not None
                    grad += rng.normal(0, how.noise_multiplier * how.clip, grad.size)
                # Poisson batches differ in size; dividing by the expected one keeps it private.
                speed = (
                    how.momentum * speed
                    - how.learning_rate / (batch if how.private else len(chosen)) * grad
                )
                weights += speed
        return weights


def _batches(
    n: int, batch: int, poisson: bool, rng: np.random.Generator
) -> Sequence[NDArray[np.int64]]:
    steps = math.ceil(n / batch)
    if poisson:
        return [np.flatnonzero(rng.random(n) < batch / n) for _ in range(steps)]
    order = rng.permutation(n)
    return [order[at : at + batch] for at in range(0, n, batch)]


def log_softmax(z: Array) -> Array:
    shifted = z - z.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
