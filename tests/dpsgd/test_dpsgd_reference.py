"""The batched engine against tensorflow-privacy itself; only this file imports TensorFlow."""

import math
import re

import numpy as np
import pytest

from pet_lab import accounting, dpsgd
from pet_lab.dpsgd import Config, batched

CASES = {
    "per record": {},
    "vectorized": {"engine": "tensorflow-privacy-vectorized"},
    "one microbatch": {"microbatches": 1},
    "four microbatches": {"microbatches": 4, "drop_remainder": True},
    "poisson": {"sampling": "poisson"},
    "momentum": {"optimiser": "momentum", "learning_rate": 0.03},
    "adam": {"optimiser": "adam", "learning_rate": 0.003},
    "no clipping": {"clip": math.inf},
}


@pytest.mark.slow
@pytest.mark.parametrize("changes", CASES.values(), ids=CASES.keys())
def test_same_loss_curve_without_noise(student_like, changes):
    """The report's network, 3 epochs. Both sides compute in float32 (unit roundoff 6e-8), so equal
    mathematics can still differ by about 1e-6 in a loss near 0.6."""
    X, y = student_like
    changes = dict(changes)
    engine = changes.pop("engine", "tensorflow-privacy")
    config = Config(**({"epochs": 3, "learning_rate": 0.1} | changes))
    ours, theirs = (
        dpsgd.train(X[:96], y[:96], config, seeds=[5], validation=(X[96:], y[96:]), engine=which)
        for which in ("batched", engine)
    )
    assert np.abs(ours.loss - theirs.loss).max() < 1e-6
    assert np.abs(ours.validation_loss - theirs.validation_loss).max() < 1e-6
    assert (ours.steps == theirs.steps).all()
    assert theirs.loss[0, -1] < theirs.loss[0, 0]  # and it is a training, not two standstills


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["tensorflow-privacy", "tensorflow-privacy-vectorized"])
@pytest.mark.parametrize(("microbatches", "divisor"), [(None, 32), (1, 1)])
def test_noise_of_the_library_has_the_same_size(student_like, engine, microbatches, divisor):
    """One step: what noise adds to the weights, in units of z * C / divisor, is standard normal.
    `test_noise_has_the_stated_size` shows the same of the batched engine."""
    X, y = student_like
    settings = {"epochs": 1, "microbatches": microbatches, "clip": 2.0, "learning_rate": 0.5}
    noisy = Config(noise_multiplier=0.7, **settings)
    with_noise = dpsgd.train(X[:32], y[:32], noisy, seeds=[1, 2], engine=engine)
    plain = dpsgd.train(X[:32], y[:32], Config(**settings), seeds=[1, 2])
    unit = (with_noise.weights - plain.weights) * divisor / (0.5 * 0.7 * 2.0)
    n = unit.size
    assert abs(unit.mean()) < 4 / np.sqrt(n)
    assert abs(unit.var() - 1) < 4 * np.sqrt(2 / n)


@pytest.mark.slow
@pytest.mark.parametrize("microbatches", [None, 1])
def test_the_agreement_table_agrees_and_sees_another_program(
    student_like, microbatches, monkeypatch
):
    X, y = student_like
    config = Config(epochs=9, microbatches=microbatches, noise_multiplier=0.5, learning_rate=0.1)
    table = dpsgd.agreement(X, y, config, seed=1, delta=1e-5, epochs=2)
    weights, noise, epsilon, cpu = table.itertuples(index=False)
    assert weights.difference < 1e-6
    assert abs(noise.batched - 1) < 4 / np.sqrt(2 * 6061)
    assert abs(noise[1] - 1) < 4 / np.sqrt(2 * 6061)
    assert epsilon.difference == pytest.approx(0, abs=1e-6)
    assert cpu.ratio > 1
    monkeypatch.setattr(batched, "clip_factors", lambda squared, clip: 1 + 0 * squared)
    X[:] *= 9  # gradients above the clip: what does not clip must be seen
    assert dpsgd.agreement(X, y, config, seed=1, delta=1e-5, epochs=2)["difference"][0] > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("microbatches", [None, 1])
def test_epsilons_are_what_the_library_states(microbatches):
    from tensorflow_privacy.privacy.analysis import compute_dp_sgd_privacy_lib as library

    setting = {"n": 320, "batch_size": 32, "epochs": 50, "delta": 1e-5}
    claim, _ = library.compute_dp_sgd_privacy(320, 32, 1.42, 50, 1e-5)
    assert accounting.claimed_epsilon(1.42, **setting) == pytest.approx(claim)
    statement = library.compute_dp_sgd_privacy_statement(
        320, 32, 50, 1.42, 1e-5, used_microbatching=microbatches is not None
    )
    for label, sampling in (("with each example", "shuffle"), ("assuming Poisson", "poisson")):
        stated = float(re.search(rf"Epsilon {label}[^:]*:\s*([\d.]+)", statement)[1])
        ours = accounting.epsilon(1.42, sampling=sampling, microbatches=microbatches, **setting)
        assert ours.epsilon == pytest.approx(stated, abs=6e-4)
