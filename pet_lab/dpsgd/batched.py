"""The fast engine: R replicas of a small network trained as one NumPy program.

Every array carries a leading replica axis. Measured against the same program in JAX 0.4 (scan over
steps, donated buffers) plain NumPy won: for 64 replicas of 58-40-60-20-1 and batches of 32 its
stacked matrix products run at about 100 GFLOP/s on one core (OpenBLAS) against 45 for XLA's batched
dot, its Box-Muller noise costs 2.3 ns a number against 3.3 (best JAX generator) to 15 (default),
and nothing is compiled.

Clipping is exact without ever holding a gradient per record (`network.squared_norms`). The sum of
clipped gradients is one matrix product with the errors scaled by the clip factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pet_lab.dpsgd.config import Config
from pet_lab.dpsgd.network import (
    Array,
    back_propagated,
    clip_factors,
    forward,
    layer_shapes,
    layers_of,
    output_errors,
    parameter_count,
    squared_norms,
)
from pet_lab.dpsgd.streams import Batch, Record, Seed, Streams, normals

ADAM_BETA1, ADAM_BETA2, ADAM_EPSILON = 0.9, 0.999, 1e-7  # Keras's defaults
_NOISE_BLOCK = 24_000  # numbers drawn at a time: long enough for vector units, short enough for L2
_ROWS_AT_A_TIME = 2048  # replicas x records in one step: keeps activations near the cache


@dataclass
class _State:
    """Parameters and optimiser slots of the replicas still in training."""

    weights: Array
    gradient: Array
    slots: list[Array]
    updates: NDArray[np.int64]

    @classmethod
    def start(cls, weights: Array, optimiser: str) -> _State:
        slots = {"sgd": 0, "momentum": 1, "adam": 2}[optimiser]
        return cls(
            weights,
            np.zeros_like(weights),
            [np.zeros_like(weights) for _ in range(slots)],
            np.zeros(weights.shape[0], np.int64),
        )

    def keep(self, rows: NDArray[np.bool_]) -> _State:
        return _State(
            self.weights[rows],
            self.gradient[rows],
            [s[rows] for s in self.slots],
            self.updates[rows],
        )


@dataclass(frozen=True)
class _Scales:
    """Per-replica numbers of a program, each of shape (R, 1)."""

    rate: Array
    clip: Array
    noise: Array  # noise_multiplier * clip, 0 without noise

    @classmethod
    def of(cls, configs: Sequence[Config], dtype: np.dtype) -> _Scales:
        def column(values: Sequence[float]) -> Array:
            return np.asarray(values, dtype)[:, None]

        return cls(
            column([c.learning_rate for c in configs]),
            column([c.clip for c in configs]),
            column([c.noise_multiplier * c.clip if c.private else 0.0 for c in configs]),
        )

    def keep(self, rows: NDArray[np.bool_]) -> _Scales:
        return _Scales(self.rate[rows], self.clip[rows], self.noise[rows])


def _apply(state: _State, config: Config, rate: Array, live: NDArray[np.bool_]) -> None:
    """Keras's legacy optimisers; replicas whose epoch is already over keep their slots."""
    state.updates += live
    if config.optimiser == "sgd":
        state.weights -= state.gradient  # the rate is folded into the gradient
        return
    rows = slice(None) if live.all() else np.flatnonzero(live)
    grad = state.gradient[rows]
    if config.optimiser == "momentum":
        speed = state.slots[0][rows] * config.momentum - rate[rows] * grad
        state.slots[0][rows] = speed
        state.weights[rows] += speed
        return
    t = state.updates[rows][:, None].astype(grad.dtype)
    m = state.slots[0][rows]
    m = m + (grad - m) * (1 - ADAM_BETA1)
    v = state.slots[1][rows]
    v = v + (grad * grad - v) * (1 - ADAM_BETA2)
    state.slots[0][rows], state.slots[1][rows] = m, v
    corrected = rate[rows] * np.sqrt(1 - ADAM_BETA2**t) / (1 - ADAM_BETA1**t)
    state.weights[rows] -= corrected * m / (np.sqrt(v) + ADAM_EPSILON)


def _gather(
    batches: Sequence[Batch | None], x: Array, y: Array
) -> tuple[Array, Array, Array | None, NDArray[np.bool_], Array]:
    """Stack the replicas' batches, padded with records of weight 0 where their sizes differ."""
    sizes = np.array([0 if b is None else b.index.size for b in batches])
    live = np.array([b is not None for b in batches])
    divisor = np.array([1 if b is None else b.divisor for b in batches], x.dtype)[:, None]
    width = max(int(sizes.max()), 1)
    index = np.zeros((len(batches), width), np.intp)
    for row, b in zip(index, batches, strict=True):
        if b is not None:
            row[: b.index.size] = b.index
    weight = None
    if (sizes != width).any():
        weight = (np.arange(width) < sizes[:, None]).astype(x.dtype)
    return x[index], y[index][..., None], weight, live, divisor


def gradient_step(
    layers: list[tuple[Array, Array]],
    into: list[tuple[Array, Array]],
    data: tuple[Array, Array, Array | None, Array],
    *,
    config: Config,
    clip: Array,
    scale: Array,
) -> Array:
    """Clipped mean gradient (R, P as layers, written to `into`), times `scale` (R, 1).

    `data` holds records (R, B, d), targets (R, B, 1), weights (R, B) or None, divisors (R, 1).
    Returns the factor (R, 1) that turns clip * noise_multiplier into the noise of this step.
    """
    x, y, weight, divisor = data
    values = forward(layers, x, config.activation)
    deltas = back_propagated(layers, values, output_errors(values[-1], y), config.activation)
    unclipped = bool(np.isinf(clip).all())
    groups = config.microbatches
    whole = None  # clip factor of the whole batch mean, where groups == 1
    if unclipped:
        factor, share = np.ones(x.shape[:2], x.dtype), 1 / divisor
    elif groups is None:
        factor, share = clip_factors(squared_norms(values, deltas, None), clip), 1 / divisor
    elif groups == 1:
        factor, share, whole = np.ones(x.shape[:2], x.dtype), 1 / divisor, True
    else:
        per_group = x.shape[1] // groups
        factor = clip_factors(squared_norms(values, deltas, groups), clip).repeat(per_group, axis=1)
        share = np.full_like(divisor, 1 / (per_group * groups))
    if weight is not None:
        factor *= weight
    factor *= share if whole else share * scale
    factor = factor[..., None]
    for a, d, (into_w, into_b) in zip(values, deltas, into, strict=False):
        np.multiply(d, factor, out=d)
        np.matmul(a.transpose(0, 2, 1), d, out=into_w)
        np.sum(d, axis=1, keepdims=True, out=into_b)
    if whole:
        squared = sum(
            np.einsum("rij,rij->r", w, w) + np.einsum("rij,rij->r", b, b) for w, b in into
        )
        shrink = clip_factors(np.asarray(squared)[:, None], clip) * scale
        for part in (part for layer in into for part in layer):
            np.multiply(part, shrink[..., None], out=part)
    noise_share = 1 / divisor if groups is None else np.full_like(divisor, 1 / groups)
    return noise_share * scale


@dataclass
class _Program:
    """A chunk of replicas and everything one epoch of them needs."""

    x: Array
    y: Array
    shapes: list[tuple[int, int]]
    config: Config  # of any replica: the settings that all share
    streams: list[Streams]
    scales: _Scales
    state: _State
    noise: NDArray[np.float32] | None = None  # buffer for a few steps of all replicas

    def epoch(self) -> None:
        config, replicas = self.config, len(self.streams)
        steps = [config.steps_per_epoch(s.members.size) for s in self.streams]
        plans = [
            s.epoch(config.sampling, config.batch_size, k)
            for s, k in zip(self.streams, steps, strict=True)
        ]
        noisy = np.flatnonzero(self.scales.noise[:, 0])
        parameters = self.state.weights.shape[1]
        block = max(1, _NOISE_BLOCK // parameters)
        if noisy.size and self.noise is None:
            # Zeros: the rows of replicas without noise are never written to.
            self.noise = np.zeros((replicas, block * parameters), np.float32)
        noise = self.noise if noisy.size else None
        # Noise is drawn at the size it has in a batch of the usual divisor: nearly all steps.
        usual = 1 / self._usual_divisor()
        if config.optimiser == "sgd":
            usual = usual * self.scales.rate
        usual = usual * self.scales.noise  # in the order of the steps below, to the same last bit
        layers = layers_of(self.state.weights, self.shapes)
        into = layers_of(self.state.gradient, self.shapes)
        for step in range(max(steps)):
            if noise is not None and step % block == 0:
                for r in noisy:
                    # Only the replica's own steps: its stream must not depend on the others.
                    own = min(max(steps[r] - step, 0), block)
                    if own:
                        target = noise[r, : own * parameters]
                        normals(self.streams[r].noise_bits, target, float(usual[r, 0]))
            batches = [p[step] if step < k else None for p, k in zip(plans, steps, strict=True)]
            x, y, weight, live, divisor = _gather(batches, self.x, self.y)
            scale = self.scales.rate if config.optimiser == "sgd" else np.ones_like(divisor)
            scale = scale * live[:, None]
            noise_scale = gradient_step(
                layers,
                into,
                (x, y, weight, divisor),
                config=config,
                clip=self.scales.clip,
                scale=scale,
            )
            if noise is not None:
                at = (step % block) * parameters
                draw = noise[:, at : at + parameters]
                actual = noise_scale * self.scales.noise
                if not np.array_equal(actual, usual):
                    ratio = np.divide(actual, usual, out=np.zeros_like(usual), where=usual > 0)
                    draw *= ratio.astype(np.float32)  # in place: each number is used once
                self.state.gradient += draw
            _apply(self.state, config, self.scales.rate, live)

    def _usual_divisor(self) -> Array:
        """What each replica divides by in all but its last, smaller batch, shape (R, 1)."""
        config = self.config
        own = [config.microbatches or config.batch_size or s.members.size for s in self.streams]
        return np.asarray(own, self.x.dtype)[:, None]

    def keep(self, rows: NDArray[np.bool_]) -> None:
        self.streams = [s for s, k in zip(self.streams, rows, strict=True) if k]
        self.scales, self.state = self.scales.keep(rows), self.state.keep(rows)
        self.noise = None


def _run_chunk(
    x: Array,
    y: Array,
    *,
    configs: Sequence[Config],
    seeds: Sequence[Seed],
    members: Sequence[NDArray[np.intp]],
    record: Record,
) -> tuple[Array, NDArray[np.int64]]:
    """`run` for a few replicas side by side."""
    shapes = layer_shapes(x.shape[1], configs[0].hidden)
    streams = [Streams(s, m) for s, m in zip(seeds, members, strict=True)]
    weights = np.empty((len(seeds), parameter_count(shapes)), x.dtype)
    for row, stream in zip(weights, streams, strict=True):
        row[:] = stream.initial_weights(shapes)
    final, updates = weights.copy(), np.zeros(len(seeds), np.int64)
    program = _Program(
        x, y, shapes, configs[0], streams, _Scales.of(configs, x.dtype),
        _State.start(weights, configs[0].optimiser),
    )  # fmt: skip
    last = np.array([c.epochs for c in configs])
    rows = np.arange(len(seeds))
    # A diverging run overflows on its way to NaN; it is flagged by the caller, replica by replica.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        record(rows, 0, program.state.weights)
        for epoch in range(1, int(last.max()) + 1):
            program.epoch()
            record(rows, epoch, program.state.weights)
            done = last[rows] == epoch
            if done.any():
                final[rows[done]] = program.state.weights[done]
                updates[rows[done]] = program.state.updates[done]
                program.keep(~done)
                rows = rows[~done]
    return final, updates


def run(
    x: Array,
    y: Array,
    *,
    configs: Sequence[Config],
    seeds: Sequence[Seed],
    members: Sequence[NDArray[np.intp]],
    record: Record,
    workers: int = 1,
) -> tuple[Array, NDArray[np.int64]]:
    """Train the replicas, as many side by side as the cache holds.

    `record(rows, epoch, weights)` is called with the replicas in training before the first epoch
    and after each one. Returns the final weights (R, P) and the number of updates (R,).
    """
    from threadpoolctl import threadpool_limits

    per_step = configs[0].batch_size or max(i.size for i in members)
    size = int(np.clip(_ROWS_AT_A_TIME // per_step, 4, 64))
    size = min(size, -(-len(seeds) // workers))
    chunks = [np.arange(s, min(s + size, len(seeds))) for s in range(0, len(seeds), size)]

    def part(chunk: NDArray[np.intp]) -> tuple[Array, NDArray[np.int64]]:
        return _run_chunk(
            x,
            y,
            configs=[configs[r] for r in chunk],
            seeds=[seeds[r] for r in chunk],
            members=[members[r] for r in chunk],
            record=lambda rows, epoch, weights: record(chunk[rows], epoch, weights),
        )

    # One BLAS thread: the products are small, and a second thread costs more than it brings.
    with threadpool_limits(limits=1), ThreadPoolExecutor(workers) as pool:
        results = list((pool.map if workers > 1 else map)(part, chunks))
    return np.concatenate([w for w, _ in results]), np.concatenate([u for _, u in results])
