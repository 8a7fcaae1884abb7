"""The reference engine: tensorflow-privacy's own optimisers, one replica after another."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pet_lab.dpsgd.config import Config
from pet_lab.dpsgd.network import layer_shapes, layers_of
from pet_lab.dpsgd.streams import Record, Seed, Streams


def _optimiser(config: Config, vectorized: bool) -> Any:
    import tensorflow as tf
    from tensorflow_privacy.privacy.optimizers import dp_optimizer_keras as standard
    from tensorflow_privacy.privacy.optimizers import dp_optimizer_keras_vectorized as fast

    kind = "Adam" if config.optimiser == "adam" else "SGD"
    settings: dict[str, Any] = {"learning_rate": config.learning_rate}
    if config.optimiser == "momentum":
        settings["momentum"] = config.momentum
    if math.isinf(config.clip):
        return getattr(tf.keras.optimizers.legacy, kind)(**settings)
    library, prefix = (fast, "VectorizedDPKeras") if vectorized else (standard, "DPKeras")
    return getattr(library, f"{prefix}{kind}Optimizer")(
        l2_norm_clip=config.clip,
        noise_multiplier=config.noise_multiplier,
        num_microbatches=config.microbatches,
        **settings,
    )


def _model(flat: NDArray, shapes: list[tuple[int, int]], activation: str) -> Any:
    import tensorflow as tf

    hidden = [tf.keras.layers.Dense(units, activation=activation) for _, units in shapes[:-1]]
    model = tf.keras.Sequential([*hidden, tf.keras.layers.Dense(1)])
    model.build((None, shapes[0][0]))
    layers = layers_of(flat[None].astype(np.float32), shapes)
    model.set_weights([part for kernel, bias in layers for part in (kernel[0], bias[0, 0])])
    return model


def _flat(model: Any) -> NDArray[np.float32]:
    return np.concatenate([w.ravel() for w in model.get_weights()])


def _stepper(model: Any, optimiser: Any, private: bool) -> Callable[..., None]:
    import tensorflow as tf

    bce = tf.keras.losses.BinaryCrossentropy(
        from_logits=True, reduction=tf.keras.losses.Reduction.NONE
    )
    shapes = ((None, model.input_shape[-1]), (None, 1), (None,), ())

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32) for shape in shapes])
    def step(x: Any, y: Any, weight: Any, rescale: Any) -> None:
        variables = model.trainable_variables
        with tf.GradientTape(persistent=True) as tape:
            losses = bce(y, model(x, training=True)) * weight
            target = losses if private else tf.reduce_mean(losses)
        # The optimiser divides by the records in the batch. `rescale` turns that into a division
        # by the expected number where the batch is a Poisson sample; else it is 1.
        pairs = optimiser._compute_gradients(target, variables, tape=tape)
        optimiser.apply_gradients([(g * rescale, v) for g, v in pairs])

    return step


def run(
    x: NDArray,
    y: NDArray,
    *,
    configs: Sequence[Config],
    seeds: Sequence[Seed],
    members: Sequence[NDArray[np.intp]],
    record: Record,
    vectorized: bool = False,
) -> tuple[NDArray, NDArray[np.int64]]:
    """Train the replicas in turn; arguments and result as `batched.run`.

    Sets TensorFlow's global seed, because the library's optimisers take none.
    """
    import tensorflow as tf

    x, y = x.astype(np.float32), y.astype(np.float32)[:, None]
    shapes = layer_shapes(x.shape[1], configs[0].hidden)
    final, updates = [], np.zeros(len(seeds), np.int64)
    for r, (config, seed, own) in enumerate(zip(configs, seeds, members, strict=True)):
        streams = Streams(seed, own)
        tf.random.set_seed(streams.noise_bits.random_raw() >> 33)
        model = _model(streams.initial_weights(shapes), shapes, config.activation)
        step = _stepper(model, _optimiser(config, vectorized), not math.isinf(config.clip))
        steps, row = config.steps_per_epoch(own.size), np.array([r])
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            record(row, 0, _flat(model)[None])
            for epoch in range(1, config.epochs + 1):
                for batch in streams.epoch(config.sampling, config.batch_size, steps):
                    index, weight = batch.index, np.ones(batch.index.size, np.float32)
                    if index.size == 0:  # an empty Poisson sample still gets its noise
                        index, weight = own[:1], np.zeros(1, np.float32)
                    step(x[index], y[index], weight, index.size / batch.divisor)
                    updates[r] += 1
                record(row, epoch, _flat(model)[None])
        final.append(_flat(model))
        tf.keras.backend.clear_session()  # else every replica's graph stays in memory
    return np.array(final), updates
