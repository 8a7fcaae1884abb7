"""Shokri's attack from queries to verdict: 20 shadow models in one program, against plain Keras.

The claim: synthesis, 20 shadow models (100 epochs, batches of 32, 58-40-60-20-1), attack models and
verdict together cost at least 20 times less CPU time than only training the 20 shadow models one
after another in Keras (one timed, times 20).
"""

import json
import math
import os
import time
from dataclasses import replace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from pet_lab import dpsgd, mia
from pet_lab.studies import shadow_models as study

MODELS, RECORDS, EPOCHS, BATCH, GOAL_RATIO = 20, 395, 100, 32, 20.0


def cpu_seconds(action) -> float:
    """CPU time of this process; nothing here starts another."""
    start = time.process_time()
    action()
    return time.process_time() - start


def keras(X, y, epochs: int = EPOCHS) -> None:
    import tensorflow as tf

    layers = [tf.keras.layers.Dense(h, activation="relu") for h in (40, 60, 20)]
    model = tf.keras.Sequential([*layers, tf.keras.layers.Dense(1)])
    loss = tf.keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(optimizer=tf.keras.optimizers.SGD(0.25), loss=loss)
    model.fit(X.astype("float32"), y.astype("float32"), epochs=epochs, batch_size=BATCH, verbose=0)


def main() -> None:
    rng = np.random.default_rng(0)
    X = (rng.random((RECORDS, 58)) < 0.5).astype(float)
    y = (X[:, :5].sum(axis=1) + rng.normal(size=RECORDS) > 2.5).astype(int)
    domain = mia.Domain.of(X, [f"x{j}" for j in range(58)])
    config = dpsgd.Config(learning_rate=0.25, epochs=EPOCHS, batch_size=BATCH, clip=math.inf)
    victim = study.Victim(target="non-private", epsilon=math.inf, config=config)
    settings = study.Settings(
        X=X,
        y=y,
        domain=domain,
        plain=config,
        private=config,
        epsilon=1.0,
        delta=1e-3,
        shadow_models=MODELS,
        replicates=1,
        lira_models=16,
        seed=0,
    )
    study.shadow_attack(replace(settings, shadow_models=2, seed=1), victim)  # imports
    ours = cpu_seconds(lambda: study.shadow_attack(settings, victim))
    members = round(0.75 * RECORDS)
    keras(X[:members], y[:members], epochs=1)  # imports
    peer = MODELS * cpu_seconds(lambda: keras(X[:members], y[:members]))
    result = {
        "ours_cpu_s": round(ours, 2),
        "keras_cpu_s_projected": round(peer, 1),
        "ratio": round(peer / ours, 1),
        "goal": GOAL_RATIO,
        "holds": peer / ours >= GOAL_RATIO,
    }
    for name, value in result.items():
        print(f"{name:24s} {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
