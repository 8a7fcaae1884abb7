"""The batched engine against its definition, and what it promises about seeds and bad input."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
from dpsgd_by_definition import train as naive_train
from scipy import stats

from pet_lab import dpsgd
from pet_lab.dpsgd import Config
from pet_lab.dpsgd.streams import normals

CASES = {
    "per record": {},
    "tanh": {"activation": "tanh"},
    "logistic": {"hidden": ()},
    "momentum": {"optimiser": "momentum", "learning_rate": 0.05},
    "adam": {"optimiser": "adam", "learning_rate": 0.01},
    "one microbatch": {"microbatches": 1},
    "four microbatches": {"microbatches": 4, "drop_remainder": True},
    "no clipping": {"clip": math.inf},
    "poisson": {"sampling": "poisson"},
    "poisson, tiny batches": {"sampling": "poisson", "batch_size": 1},
    "full": {"sampling": "full", "batch_size": None},
    "full, one microbatch": {"sampling": "full", "batch_size": None, "microbatches": 1},
}


def small(**changes):
    settings = {"hidden": (5, 4), "epochs": 4, "batch_size": 8, "clip": 0.3, "learning_rate": 0.5}
    return Config(**(settings | changes))


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES.keys())
def test_float64_equals_one_gradient_per_record(small_task, changes):
    X, y = small_task
    config = small(**changes)
    members = np.ones((3, 23), bool)
    if config.microbatches != 4:
        # Different sizes, so that batches are padded and one replica runs out of steps first
        # (23 records give 3 batches of 8, 16 records give 2).
        members[1, 16:] = False
        members[2, :3] = False
    got = dpsgd.train(X, y, config, seeds=[3, 4, 5], members=members, dtype="float64")
    for r, seed in enumerate([3, 4, 5]):
        want = naive_train(X, y, config, seed, np.flatnonzero(members[r]))
        np.testing.assert_allclose(got.weights[r], want, rtol=1e-9, atol=1e-11)


def test_float32_follows_float64(student_like):
    """Ten steps of 32 records: rounding of 6e-8 a product, a few hundred of them in a row."""
    X, y = student_like
    config = Config(epochs=1, learning_rate=0.1)
    low = dpsgd.train(X, y, config, seeds=[1], dtype="float32")
    high = dpsgd.train(X, y, config, seeds=[1], dtype="float64")
    assert np.abs(low.loss - high.loss).max() < 1e-6
    assert low.weights.dtype == np.float32
    assert high.weights.dtype == np.float64


@pytest.mark.parametrize("sampling", ["shuffle", "poisson"])
def test_a_replica_is_the_same_alone_and_in_a_batch(student_like, sampling):
    X, y = student_like
    rng = np.random.default_rng(5)
    members = rng.random((9, 316)) < rng.uniform(0.3, 0.9, (9, 1))
    configs = [
        Config(
            epochs=2 + r % 3,
            noise_multiplier=0.0 if r % 4 == 3 else 0.5 + 0.1 * r,
            learning_rate=0.05 + 0.01 * r,
            clip=1.0 + r,
            sampling=sampling,
        )
        for r in range(9)
    ]
    together = dpsgd.train(X, y, configs, seeds=range(9), members=members)
    for r in (0, 3, 7):
        alone = dpsgd.train(X, y, configs[r], seeds=[r], members=members[r : r + 1])
        # A few dozen steps amplify rounding errors of 1e-7 by less than a hundred.
        np.testing.assert_allclose(alone.weights[0], together.weights[r], atol=2e-5)
        curve = together.loss[r, : configs[r].epochs + 1]
        np.testing.assert_allclose(alone.loss[0], curve, atol=2e-5)
        assert np.isnan(together.loss[r, configs[r].epochs + 1 :]).all()
        assert alone.steps[0] == together.steps[r]
    assert not together.diverged.any()


def test_seed_sequences_are_not_used_up(small_task):
    X, y = small_task
    seed = np.random.SeedSequence(3)
    first, second = (dpsgd.train(X, y, small(), seeds=[seed]) for _ in range(2))
    np.testing.assert_array_equal(first.weights, second.weights)
    np.testing.assert_array_equal(first.weights, dpsgd.train(X, y, small(), seeds=[3]).weights)


@pytest.mark.parametrize("microbatches", [None, 1, 2])
def test_noise_has_the_stated_size(student_like, microbatches):
    """One full-batch step: the difference to the step without noise is z * C / divisor."""
    X, y = student_like
    z, clip, rate, replicas = 0.7, 2.0, 0.5, 4
    settings = {
        "epochs": 1,
        "sampling": "full",
        "batch_size": None,
        "microbatches": microbatches,
        "clip": clip,
        "learning_rate": rate,
    }
    noisy = dpsgd.train(X, y, Config(noise_multiplier=z, **settings), seeds=range(replicas))
    plain = dpsgd.train(X, y, Config(**settings), seeds=range(replicas))
    divisor = {None: 316, 1: 1, 2: 2}[microbatches]
    unit = (noisy.weights - plain.weights) * divisor / (rate * z * clip)
    assert unit.shape == (replicas, 6061)
    n = unit.size
    assert abs(unit.mean()) < 4 / np.sqrt(n)
    assert abs(unit.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs(np.corrcoef(unit[0], unit[1])[0, 1]) < 4 / np.sqrt(6061)


def test_noise_is_divided_by_the_expected_poisson_batch():
    """Features that are all 0 have no gradient: what moves their weights is noise alone."""
    X, y = np.zeros((50, 3000)), np.arange(50) % 2
    config = Config(
        hidden=(),
        epochs=1,
        sampling="poisson",
        batch_size=20,
        noise_multiplier=0.5,
        clip=3.0,
        learning_rate=0.7,
    )
    noisy = dpsgd.train(X, y, config, seeds=range(4))
    plain = dpsgd.train(X, y, replace(config, noise_multiplier=0.0), seeds=range(4))
    assert (noisy.steps == 3).all()
    moved = (noisy.weights - plain.weights)[:, :3000]
    unit = moved * 20 / (0.7 * 0.5 * 3.0 * np.sqrt(3))
    assert abs(unit.var() - 1) < 4 * np.sqrt(2 / unit.size)


def test_normals_are_normal():
    out = np.empty(2_000_001, np.float32)
    normals(np.random.SFC64(1), out)
    n = out.size
    assert np.isfinite(out).all()
    assert abs(out.mean(dtype=float)) < 4 / np.sqrt(n)
    assert abs(out.var(dtype=float) - 1) < 4 * np.sqrt(2 / n)
    assert abs(stats.skew(out.astype(float))) < 4 * np.sqrt(6 / n)
    assert abs(stats.kurtosis(out.astype(float))) < 4 * np.sqrt(24 / n)
    # 1.95 / sqrt(n) is the Kolmogorov-Smirnov bound at a level of 0.001.
    assert stats.kstest(out, "norm").statistic < 1.95 / np.sqrt(n)
    for cut in (3.0, 4.0):
        want = 2 * n * stats.norm.sf(cut)
        assert abs((np.abs(out) > cut).sum() - want) < 4 * np.sqrt(want)
    # Cosine and sine of one pair must not be correlated, nor squares of neighbours.
    first, second = out[: n // 2].astype(float), out[n // 2 + 1 :].astype(float)
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(n // 2)
    assert abs(np.corrcoef(first**2, second**2)[0, 1]) < 4 / np.sqrt(n // 2)
    assert abs(np.corrcoef(out[1:], out[:-1])[0, 1]) < 4 / np.sqrt(n)


def test_learns_and_predicts(student_like):
    X, y = student_like
    got = dpsgd.train(
        X[:250], y[:250], Config(epochs=30), seeds=[0, 1], validation=(X[250:], y[250:])
    )
    assert (got.accuracy[:, -1] > 0.95).all()
    right = (got.predict(X[250:]) > 0) == (y[250:] > 0)
    np.testing.assert_allclose(right.mean(axis=1), got.validation_accuracy[:, -1])
    frame = got.curves()
    assert set(frame["metric"]) == {
        "train_loss",
        "train_accuracy",
        "validation_loss",
        "validation_accuracy",
    }
    assert len(frame) == 2 * 31 * 4


def test_curves_can_be_taken_rarely(small_task):
    X, y = small_task
    every = dpsgd.train(X, y, small(), seeds=[1])
    ends = dpsgd.train(X, y, small(), seeds=[1], curve_every=0)
    assert list(ends.epochs_recorded) == [0, 4]
    np.testing.assert_array_equal(ends.loss[0], every.loss[0, [0, 4]])


def test_a_diverged_replica_is_flagged_and_never_averaged_in(small_task):
    X, y = small_task
    configs = [small(clip=math.inf), small(clip=math.inf, learning_rate=1e30)]
    with pytest.warns(RuntimeWarning, match="1 of 2 replicas diverged"):
        got = dpsgd.train(X * 100, y, configs, seeds=[1, 2])
    assert list(got.diverged) == [False, True]
    assert np.isfinite(got.accuracy[0, -1])
    assert np.isnan(got.accuracy[1, -1])
    assert np.isnan(got.accuracy[:, -1].mean())


def test_an_ordinary_run_warns_of_nothing(small_task):
    X, y = small_task
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dpsgd.train(X, y, small(noise_multiplier=1.0), seeds=[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise_multiplier": -1.0}, "noise_multiplier must be finite and >= 0, got -1.0"),
        ({"noise_multiplier": 1.0, "clip": math.inf}, "noise without clipping"),
        ({"clip": 0.0}, "clip must be > 0"),
        ({"clip": 1e300}, "clip is a number from 0 to"),
        ({"learning_rate": 1e300}, "learning_rate is a number from 0 to"),
        ({"learning_rate": 0.0}, "learning_rate is a number above 0"),
        ({"epochs": 0}, "epochs is a whole number of at least 1"),
        ({"batch_size": 0}, "batch_size is a whole number of at least 1"),
        ({"batch_size": None}, 'got None; None goes with sampling="full"'),
        ({"sampling": "full"}, "pass batch_size=None"),
        ({"sampling": "cyclic"}, "sampling is one of"),
        ({"optimiser": "lbfgs"}, "optimiser is one of"),
        ({"activation": "gelu"}, "activation is one of"),
        ({"microbatches": 3}, "cannot be cut into 3 equal microbatches"),
        ({"microbatches": 0}, "microbatches is a whole number of at least 1"),
        ({"microbatches": 1, "sampling": "poisson"}, "Poisson"),
        ({"hidden": (4, 0)}, "at least one unit"),
        ({"momentum": 1.0}, "momentum must be"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_bad_data_is_refused(small_task):
    X, y = small_task
    run = dpsgd.train
    hole = X.copy()
    hole[4, 2] = np.nan
    with pytest.raises(ValueError, match="1 missing or infinite values, the first in row 4, col"):
        run(hole, y, small(), seeds=[1])
    with pytest.raises(ValueError, match="0 of them of class 1"):
        run(X, np.zeros(23), small(), seeds=[1])
    with pytest.raises(ValueError, match="replica 1 would train on 0 records"):
        run(X, y, small(), seeds=[1, 2], members=[[True] * 23, [False] * 23])
    with pytest.raises(ValueError, match="batch_size=24 is larger than the 23 records"):
        run(X, y, small(batch_size=24), seeds=[1])
    with pytest.raises(ValueError, match="last batch of an epoch has 7 records"):
        run(X, y, small(microbatches=4), seeds=[1])
    with pytest.raises(ValueError, match="a batch has 23 records, which cannot be cut into 2"):
        run(X, y, small(microbatches=2, sampling="full", batch_size=None), seeds=[1])
    fewer = np.arange(23) < np.array([[16], [8]])
    with pytest.raises(ValueError, match="needs the same number of members in every replica"):
        run(X, y, small(microbatches=2), seeds=[1, 2], members=fewer)
    with pytest.raises(ValueError, match="curve_every is a whole number of at least 0"):
        run(X, y, small(), seeds=[1], curve_every=-1)
    with pytest.raises(ValueError, match="must hold 0 and 1 only"):
        run(X, y + 1, small(), seeds=[1])
    with pytest.raises(ValueError, match="numbers only"):
        run([["a", "b"]], [1], small(), seeds=[1])
    with pytest.raises(ValueError, match="shape"):
        run(X, y[:-1], small(), seeds=[1])
    with pytest.raises(ValueError, match="seeds is empty"):
        run(X, y, small(), seeds=[])
    with pytest.raises(ValueError, match="2 configs for 1 seeds"):
        run(X, y, [small(), small()], seeds=[1])
    with pytest.raises(ValueError, match="replica 1 differs from replica 0"):
        run(X, y, [small(), small(batch_size=4)], seeds=[1, 2])
    with pytest.raises(ValueError, match="dtype is one of"):
        run(X, y, small(), seeds=[1], dtype="int8")
    with pytest.raises(ValueError, match="engine is one of batched, tensorflow-privacy, "):
        run(X, y, small(), seeds=[1], engine="jax")
    with pytest.raises(ValueError, match="booleans of shape"):
        run(X, y, small(), seeds=[1], members=np.ones((1, 23)))
    with pytest.raises(ValueError, match=r"validation X must have shape \(records, 6\), got"):
        run(X, y, small(), seeds=[1], validation=(X[:, :5], y))
    with pytest.raises(ValueError, match=r"X must have shape \(records, 6\), got \(23, 5\)"):
        run(X, y, small(), seeds=[1]).predict(X[:, :5])
