"""Small dense networks with flat parameter vectors, R of them side by side.

Parameters are rows of an array (R, P): kernel, bias, kernel, bias, ... Inputs are (R, B, features),
targets (R, B, 1) for one logit and the logistic loss, or one-hot (R, B, classes) for the softmax.

The norm of each record's own gradient needs no gradient per record: for a dense layer that gradient
is the outer product of its input a_i and its back-propagated error d_i, so that its squared norm,
bias included, is |d_i|^2 (|a_i|^2 + 1), summed over layers (arXiv:1510.01799).
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Layers = list[tuple[Array, Array]]


def layer_shapes(features: int, hidden: Sequence[int], outputs: int = 1) -> list[tuple[int, int]]:
    """(inputs, outputs) of each dense layer.

    >>> layer_shapes(58, (40, 20))
    [(58, 40), (40, 20), (20, 1)]
    """
    return list(pairwise([features, *hidden, outputs]))


def parameter_count(shapes: Sequence[tuple[int, int]]) -> int:
    """Length P of the flat vector: weights and biases together."""
    return sum(a * b + b for a, b in shapes)


def initial_weights(shapes: Sequence[tuple[int, int]], rng: np.random.Generator) -> Array:
    """Keras's default, flat (P,): Glorot uniform kernels and zero biases, layer by layer."""
    parts = []
    for fan_in, fan_out in shapes:
        limit = np.sqrt(6 / (fan_in + fan_out))
        parts += [rng.uniform(-limit, limit, fan_in * fan_out), np.zeros(fan_out)]
    return np.concatenate(parts)


def layers_of(flat: Array, shapes: Sequence[tuple[int, int]]) -> Layers:
    """Views of flat parameters (R, P) as [(W (R, a, b), bias (R, 1, b)), ...]."""
    out, at = [], 0
    for a, b in shapes:
        weight = flat[:, at : at + a * b].reshape(-1, a, b)
        bias = flat[:, at + a * b : at + a * b + b].reshape(-1, 1, b)
        out.append((weight, bias))
        at += a * b + b
    return out


def forward(layers: Layers, x: Array, activation: str) -> list[Array]:
    """Inputs of every layer and, last, the logits (R, B, outputs); activation "relu" or "tanh"."""
    values = [x]
    for i, (weight, bias) in enumerate(layers):
        z = np.matmul(values[-1], weight)
        z += bias
        if i < len(layers) - 1:
            if activation == "relu":
                np.maximum(z, 0, out=z)
            else:
                np.tanh(z, out=z)
        values.append(z)
    return values


def logits(flat: Array, shapes: Sequence[tuple[int, int]], x: Array, activation: str) -> Array:
    """Logits (R, n) of R networks with one output on the same records (n, features)."""
    out = np.empty((flat.shape[0], x.shape[0]), flat.dtype)
    rows = max(1, 4096 // max(x.shape[0], 1))
    for start in range(0, flat.shape[0], rows):  # few replicas at a time stay in the cache
        part = slice(start, start + rows)
        out[part] = forward(layers_of(flat[part], shapes), x, activation)[-1][..., 0]
    return out


def output_errors(logits: Array, y: Array) -> Array:
    """Derivative of each record's own loss by its logits: probability minus target."""
    if logits.shape[-1] > 1:
        shifted = logits - logits.max(axis=-1, keepdims=True)
        return np.exp(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))) - y
    delta = np.negative(logits)
    np.exp(delta, out=delta)
    delta += 1
    np.reciprocal(delta, out=delta)
    delta -= y
    return delta


def back_propagated(
    layers: Layers, values: list[Array], delta: Array, activation: str
) -> list[Array]:
    """Derivative of each record's own loss by each layer's output before activation.

    `values` as from `forward`, `delta` as from `output_errors`.
    """
    out = [delta]
    for i in range(len(layers) - 1, 0, -1):
        weight = layers[i][0].transpose(0, 2, 1)
        delta = delta * weight if weight.shape[1] == 1 else np.matmul(delta, weight)
        a = values[i]
        if activation == "relu":
            delta *= a > 0
        else:
            delta *= 1 - a * a
        out.append(delta)
    return out[::-1]


def squared_norms(values: list[Array], deltas: list[Array], groups: int | None = None) -> Array:
    """Squared norm of the gradient of each record (R, B), or of each group's mean (R, groups)."""
    total: Array | float = 0.0
    for a, d in zip(values, deltas, strict=False):  # values holds the logits too
        if groups is None:
            aa = np.einsum("rbi,rbi->rb", a, a)
            aa += 1
            total = total + aa * np.einsum("rbi,rbi->rb", d, d)
        else:
            # |sum_i a_i d_i'|^2 = sum_ij (a_i.a_j)(d_i.d_j): Gram matrices instead of gradients.
            r, b = a.shape[0], a.shape[1] // groups
            ga = np.ascontiguousarray(a).reshape(r * groups, b, -1)
            gd = np.ascontiguousarray(d).reshape(r * groups, b, -1)
            aa = np.matmul(ga, ga.transpose(0, 2, 1))
            aa += 1
            aa *= np.matmul(gd, gd.transpose(0, 2, 1))
            total = total + aa.sum(axis=(1, 2)).reshape(r, groups) / (b * b)
    return np.asarray(total)


def clip_factors(squared: Array, clip: Array | float) -> Array:
    """1 / max(norm / clip, 1), the factor by which tensorflow-privacy's optimisers clip."""
    factor = np.sqrt(squared)
    factor /= clip
    np.maximum(factor, 1, out=factor)
    return np.reciprocal(factor, out=factor)
