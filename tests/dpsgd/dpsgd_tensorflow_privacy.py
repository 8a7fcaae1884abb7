"""The twin by tensorflow-privacy's own optimisers: Keras model, DPKeras optimiser, one replica."""

from __future__ import annotations

import math

import numpy as np

from pet_lab.dpsgd.network import layer_shapes
from pet_lab.dpsgd.streams import Streams


def _optimiser(config, vectorized):
    import tensorflow as tf
    from tensorflow_privacy.privacy.optimizers import (
        dp_optimizer_keras as standard,
    )
    from tensorflow_privacy.privacy.optimizers import (
        dp_optimizer_keras_vectorized as fast,
    )

    adam = config.optimiser == "adam"
    settings = {"learning_rate": config.learning_rate}
    if config.optimiser == "momentum":
        settings["momentum"] = config.momentum
    if math.isinf(config.clip):
        legacy = tf.keras.optimizers.legacy
        return (legacy.Adam if adam else legacy.SGD)(**settings)
    if vectorized:
        kind = fast.VectorizedDPKerasAdamOptimizer if adam else fast.VectorizedDPKerasSGDOptimizer
    else:
        kind = standard.DPKerasAdamOptimizer if adam else standard.DPKerasSGDOptimizer
    return kind(
        l2_norm_clip=config.clip,
        noise_multiplier=config.noise_multiplier,
        num_microbatches=config.microbatches,
        **settings,
    )


def _model(features, config):
    import tensorflow as tf

    layers = [tf.keras.layers.Dense(h, activation=config.activation) for h in config.hidden]
    model = tf.keras.Sequential([*layers, tf.keras.layers.Dense(1)])
    model.build((None, features))
    return model


def _set_flat(model, flat):
    at, parts = 0, []
    for w in model.get_weights():
        parts.append(flat[at : at + w.size].reshape(w.shape))
        at += w.size
    model.set_weights(parts)


def _get_flat(model):
    return np.concatenate([w.ravel() for w in model.get_weights()])


def _stepper(model, optimiser, private):
    import tensorflow as tf

    bce = tf.keras.losses.BinaryCrossentropy(
        from_logits=True, reduction=tf.keras.losses.Reduction.NONE
    )

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, model.input_shape[-1]), tf.float32),
            tf.TensorSpec((None, 1), tf.float32),
            tf.TensorSpec((None,), tf.float32),
            tf.TensorSpec((), tf.float32),
        ]
    )
    def step(x, y, weight, rescale):
        variables = model.trainable_variables
        with tf.GradientTape(persistent=True) as tape:
            losses = bce(y, model(x, training=True)) * weight
            target = losses if private else tf.reduce_mean(losses)
        # The optimiser divides by the records in the batch. `rescale` turns that into a division
        # by the expected number where the batch is a Poisson sample; else it is 1.
        pairs = optimiser._compute_gradients(target, variables, tape=tape)
        optimiser.apply_gradients([(g * rescale, v) for g, v in pairs])

    return step


def train(X, y, config, seed, *, vectorized=False):
    """Flat weights (epochs + 1, P) of one replica, before the first epoch and after each.

    Initial weights and batches are those of `pet_lab.dpsgd`; the noise is TensorFlow's own, whose
    global seed is set here because the library's optimisers take none.
    """
    import tensorflow as tf

    x, y = X.astype(np.float32), y.astype(np.float32)[:, None]
    shapes = layer_shapes(x.shape[1], config.hidden)
    own = np.arange(len(x))
    streams = Streams(seed, own)
    tf.random.set_seed(streams.noise_bits.random_raw() >> 33)
    model = _model(x.shape[1], config)
    _set_flat(model, streams.initial_weights(shapes).astype(np.float32))
    step = _stepper(model, _optimiser(config, vectorized), not math.isinf(config.clip))
    weights = [_get_flat(model)]
    for _ in range(config.epochs):
        for batch in streams.epoch(
            config.sampling, config.batch_size, config.steps_per_epoch(own.size)
        ):
            index, weight = batch.index, np.ones(batch.index.size, np.float32)
            if index.size == 0:  # an empty Poisson sample still gets its noise
                index, weight = own[:1], np.zeros(1, np.float32)
            step(x[index], y[index], weight, index.size / batch.divisor)
        weights.append(_get_flat(model))
    tf.keras.backend.clear_session()  # else every replica's graph stays in memory
    return np.array(weights)
