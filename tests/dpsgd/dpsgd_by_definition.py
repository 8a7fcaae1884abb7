"""The slow twin: DP-SGD as it is defined, one gradient per record by jax.vmap(jax.grad)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import enable_x64

from pet_lab.dpsgd.network import layer_shapes
from pet_lab.dpsgd.streams import Streams


def unflatten(flat, shapes):
    out, at = [], 0
    for a, b in shapes:
        out.append((flat[at : at + a * b].reshape(a, b), flat[at + a * b : at + a * b + b]))
        at += a * b + b
    return out


def loss_of(flat, x, y, shapes, activation):
    h = x
    for i, (w, b) in enumerate(unflatten(flat, shapes)):
        h = h @ w + b
        if i < len(shapes) - 1:
            h = jax.nn.relu(h) if activation == "relu" else jnp.tanh(h)
    return jnp.logaddexp(0, h[0]) - y * h[0]


def clip(vector, bound):
    norm = np.linalg.norm(vector)
    return vector * min(1.0, bound / norm) if norm > 0 else vector


def train(X, y, config, seed, members):
    """Final flat weights of one replica without noise, in float64."""
    with enable_x64():
        shapes = layer_shapes(X.shape[1], config.hidden)
        gradients = jax.jit(
            jax.vmap(
                jax.grad(lambda f, a, t: loss_of(f, a, t, shapes, config.activation)),
                in_axes=(None, 0, 0),
            )
        )
        streams = Streams(seed, members)
        flat = streams.initial_weights(shapes)
        m, v = np.zeros_like(flat), np.zeros_like(flat)
        step = 0
        for _ in range(config.epochs):
            steps = config.steps_per_epoch(members.size)
            for batch in streams.epoch(config.sampling, config.batch_size, steps):
                if batch.index.size:
                    each = np.asarray(gradients(flat, X[batch.index], y[batch.index]))
                else:
                    each = np.zeros((1, flat.size))
                if config.microbatches is None:
                    groups, divisor = each, batch.divisor
                else:
                    groups = each.reshape(config.microbatches, -1, flat.size).mean(axis=1)
                    divisor = config.microbatches
                if math.isinf(config.clip):
                    g = each.sum(axis=0) / batch.divisor
                else:
                    g = sum(clip(row, config.clip) for row in groups) / divisor
                step += 1
                if config.optimiser == "sgd":
                    flat = flat - config.learning_rate * g
                elif config.optimiser == "momentum":
                    m = config.momentum * m - config.learning_rate * g
                    flat = flat + m
                else:
                    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
                    rate = config.learning_rate * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
                    flat = flat - rate * m / (np.sqrt(v) + 1e-7)
        return flat
