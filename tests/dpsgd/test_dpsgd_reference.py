"""The batched engine against tensorflow-privacy itself; only this file imports TensorFlow."""

import math
import re

import dpsgd_tensorflow_privacy as twin
import numpy as np
import pytest

from pet_lab import accounting, dpsgd
from pet_lab.dpsgd import Config, network

CASES = {
    "per record": {},
    "vectorized": {"vectorized": True},
    "one microbatch": {"microbatches": 1},
    "four microbatches": {"microbatches": 4, "drop_remainder": True},
    "poisson": {"sampling": "poisson"},
    "momentum": {"optimiser": "momentum", "learning_rate": 0.03},
    "adam": {"optimiser": "adam", "learning_rate": 0.003},
    "no clipping": {"clip": math.inf},
}


def mean_losses(weights, X, y, config):
    """Mean logistic loss under each row of flat weights."""
    z = network.logits(weights, network.layer_shapes(X.shape[1], config.hidden), X, "relu")
    return (np.logaddexp(0, z) - y * z).mean(axis=1)


@pytest.mark.slow
@pytest.mark.parametrize("changes", CASES.values(), ids=CASES.keys())
def test_same_loss_curve_without_noise(student_like, changes):
    """The report's network, 3 epochs. Both sides compute in float32 (unit roundoff 6e-8), so equal
    mathematics can still differ by about 1e-6 in a loss near 0.6."""
    X, y = student_like
    changes = dict(changes)
    vectorized = changes.pop("vectorized", False)
    config = Config(**({"epochs": 3, "learning_rate": 0.1} | changes))
    ours = dpsgd.train(X[:96], y[:96], config, seeds=[5], validation=(X[96:], y[96:]))
    weights = twin.train(X[:96], y[:96], config, 5, vectorized=vectorized)
    theirs = mean_losses(weights, X[:96].astype("float32"), y[:96], config)
    validation = mean_losses(weights, X[96:].astype("float32"), y[96:], config)
    assert np.abs(ours.loss[0] - theirs).max() < 1e-6
    assert np.abs(ours.validation_loss[0] - validation).max() < 1e-6
    assert theirs[-1] < theirs[0]  # and it is a training, not two standstills


@pytest.mark.slow
@pytest.mark.parametrize("vectorized", [False, True])
@pytest.mark.parametrize(("microbatches", "divisor"), [(None, 32), (1, 1)])
def test_noise_of_the_library_has_the_same_size(student_like, vectorized, microbatches, divisor):
    """One step: what noise adds to the weights, in units of z * C / divisor, is standard normal.
    `test_noise_has_the_stated_size` shows the same of the batched engine."""
    X, y = student_like
    settings = {"epochs": 1, "microbatches": microbatches, "clip": 2.0, "learning_rate": 0.5}
    noisy = Config(noise_multiplier=0.7, **settings)
    weights = np.array(
        [twin.train(X[:32], y[:32], noisy, seed, vectorized=vectorized)[-1] for seed in (1, 2)]
    )
    plain = dpsgd.train(X[:32], y[:32], Config(**settings), seeds=[1, 2])
    unit = (weights - plain.weights) * divisor / (0.5 * 0.7 * 2.0)
    n = unit.size
    assert abs(unit.mean()) < 4 / np.sqrt(n)
    assert abs(unit.var() - 1) < 4 * np.sqrt(2 / n)


@pytest.mark.slow
@pytest.mark.parametrize("microbatches", [None, 1])
def test_readings_are_what_the_library_states(microbatches):
    from tensorflow_privacy.privacy.analysis import compute_dp_sgd_privacy_lib as library

    setting = {"n": 316, "batch_size": 32, "epochs": 50, "delta": 1e-5}
    claim, _ = library.compute_dp_sgd_privacy(316, 32, 1.42, 50, 1e-5)
    assert accounting.claimed_epsilon(1.42, **setting) == pytest.approx(claim)
    statement = library.compute_dp_sgd_privacy_statement(
        316, 32, 50, 1.42, 1e-5, used_microbatching=microbatches is not None
    )
    once, sampled = (
        float(re.search(rf"Epsilon {label}[^:]*:\s*([\d.]+)", statement)[1])
        for label in ("with each example", "assuming Poisson")
    )
    table = accounting.readings(
        Config(noise_multiplier=1.42, microbatches=microbatches), n=316, delta=1e-5
    )
    rdp = table[table["accountant"] == "rdp"].groupby("reading")["epsilon"].first()
    assert rdp["library, no sampling"] == pytest.approx(once, abs=6e-4)
    assert rdp["library, Poisson"] == pytest.approx(sampled, abs=6e-4)
