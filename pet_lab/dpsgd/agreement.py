"""Does the batched engine do what tensorflow-privacy does? A table that costs a few seconds."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pet_lab import accounting
from pet_lab.dpsgd import batched, reference
from pet_lab.dpsgd.config import Config
from pet_lab.dpsgd.network import layer_shapes, logits

if TYPE_CHECKING:
    import pandas as pd

_SIDE_BY_SIDE = 32  # replicas of the batched engine, fewer where a step holds many records


def _watched(
    engine: Any, x: NDArray, y: NDArray, config: Config, *, seed: int, copies: int = 1
) -> tuple[NDArray, float]:
    """Weights (epochs + 1, P) of the first replica, and CPU seconds per epoch and replica.

    The first epoch, in which TensorFlow builds its graph, is not timed.
    """
    weights, clock = [], []

    def record(rows: NDArray[np.intp], epoch: int, flat: NDArray) -> None:
        weights.append(flat[0].astype(float))
        clock.append(time.process_time())

    replicas: dict[str, Any] = {"configs": [config] * copies, "seeds": range(seed, seed + copies)}
    engine(x, y, **replicas, members=[np.arange(len(y))] * copies, record=record)
    return np.array(weights), (clock[-1] - clock[1]) / max(config.epochs - 1, 1) / copies


def agreement(
    X: NDArray, y: NDArray, config: Config, *, seed: int, delta: float, epochs: int = 5
) -> pd.DataFrame:
    """tensorflow-privacy's optimiser beside the batched engine, on equal weights and batches.

    X and y have shapes (n, d) and (n,). `config` has a finite clip; its noise, if any, counts for
    epsilon (of `config.epochs`) and for the size of the noise. At least 2 `epochs` are trained.

    Columns: quantity, tensorflow-privacy, batched, difference, ratio. Without noise the mean loss
    and, as difference, the largest over all weights and epochs; one step's noise (SD) in units of
    noise_multiplier * clip / divisor, 1 by definition; epsilon as the library states it for the
    noise (its function `compute_dp_sgd_privacy`); CPU seconds per epoch of one training, for the
    batched engine as one of up to 32 side by side.
    """
    import pandas as pd
    from tensorflow_privacy.privacy.analysis import compute_dp_sgd_privacy_lib as library

    x, y = np.asarray(X, np.float32), np.asarray(y, np.float32)
    noise, batch = config.noise_multiplier or 1.0, config.batch_size or len(y)
    copies = min(_SIDE_BY_SIDE, max(4, 2048 // batch))
    quiet = replace(config, noise_multiplier=0.0, epochs=epochs)
    theirs, their_cpu = _watched(reference.run, x, y, quiet, seed=seed)
    ours, our_cpu = _watched(batched.run, x, y, quiet, seed=seed, copies=copies)
    shapes = layer_shapes(x.shape[1], config.hidden)
    z = logits(np.array([theirs[-1], ours[-1]]), shapes, x, config.activation)
    losses = (np.logaddexp(0, z) - y * z).mean(axis=1)

    groups = config.microbatches or 1
    part = slice(0, len(y) - len(y) % groups)
    once = replace(quiet, sampling="full", batch_size=None, epochs=1, optimiser="sgd")
    still, _ = _watched(batched.run, x[part], y[part], once, seed=seed)
    divisor = config.microbatches or len(y[part])
    unit = divisor / (noise * config.clip * config.learning_rate)
    noisy = replace(once, noise_multiplier=noise)
    spreads = [
        float(
            np.std(_watched(engine, x[part], y[part], noisy, seed=seed)[0][-1] - still[-1]) * unit
        )
        for engine in (reference.run, batched.run)
    ]

    absl = logging.getLogger("absl")
    absl.disabled = True  # it warns that the function is deprecated: the caption says what it is
    claim, _ = library.compute_dp_sgd_privacy(len(y), batch, noise, config.epochs, delta)
    absl.disabled = False
    size = {"n": len(y), "batch_size": batch, "epochs": config.epochs}
    own = accounting.claimed_epsilon(noise, **size, delta=delta)
    table = pd.DataFrame(
        [
            ("mean loss and weights without noise", *losses),
            ("noise of one step, 1 by definition", *spreads),
            (f"ε as the library states it, noise {noise:g}", claim, own),
            ("CPU seconds per epoch", their_cpu, our_cpu),
        ],
        columns=["quantity", "tensorflow-privacy", "batched"],
    )
    table["difference"] = (table["tensorflow-privacy"] - table["batched"]).abs()
    table.loc[0, "difference"] = max(table.loc[0, "difference"], np.abs(theirs - ours).max())
    table["ratio"] = table["tensorflow-privacy"] / table["batched"]
    return table
