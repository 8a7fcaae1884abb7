"""The loops of the trade-off: hold-outs, streams, and metrics by their definition."""

import numpy as np
import pandas as pd
import pytest

from pet_lab import data, dpsgd, tradeoff

PLAIN = dpsgd.Config(hidden=(8,), epochs=8, batch_size=16, clip=float("inf"))


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(11)
    frame = pd.DataFrame(
        {
            "a": rng.integers(0, 4, 120),
            "b": rng.choice(["x", "y", "z"], 120),
            "c": rng.integers(0, 3, 120),
        }
    )
    noise = rng.random(120) < 0.1
    return frame.assign(t=np.where(((frame["a"] > 1) | (frame["b"] == "x")) ^ noise, "yes", "no"))


def test_a_replicate_is_the_same_alone_or_among_many(table):
    encoded = data.encode(table, target="t")
    X = tradeoff.standardise(encoded.X)
    configs = tradeoff.with_noise(
        dpsgd.Config(hidden=(8,), epochs=8, batch_size=16), {1.0: 2.0, np.inf: 0.0}
    )
    one, many = (
        tradeoff.private_training(X, encoded.y, configs, seed=3, replicates=r) for r in (1, 3)
    )
    pd.testing.assert_frame_equal(one, many.query("replicate == 0"))
    assert set(many["epsilon"]) == {1.0, np.inf}
    assert many.groupby(["epsilon", "metric"]).size().eq(3).all()
    assert many["value"].between(0, 1).all()


def test_metrics_are_shares_of_the_records_they_name(table):
    """With a memorised key as a feature, training is perfect and the hold-out is not."""
    rng = np.random.default_rng(5)
    y = rng.integers(0, 2, 60)
    X = np.eye(60)
    config = dpsgd.Config(
        hidden=(), epochs=200, batch_size=12, clip=float("inf"), learning_rate=5.0
    )
    rows = tradeoff.private_training(X, y, {np.inf: config}, seed=1, replicates=4)
    means = rows.groupby("metric")["value"].mean()
    assert means["accuracy.train"] == 1.0
    assert means["accuracy.validation"] < 0.85
    shares = rows.query("metric == 'accuracy.validation'")["value"] * 12  # a fifth of 60
    assert np.allclose(shares, shares.round())


def test_a_diverged_training_is_nan_and_not_averaged_away(table):
    encoded = data.encode(table, target="t")
    wild = dpsgd.Config(hidden=(8,), epochs=8, batch_size=16, clip=float("inf"), learning_rate=1e30)
    with pytest.warns(RuntimeWarning, match="diverged"):
        rows = tradeoff.private_training(
            encoded.X * 1e6, encoded.y, {np.inf: wild}, seed=1, replicates=1
        )
    assert rows["value"].isna().all()


def test_private_data_seen_and_unseen(table, tmp_path, monkeypatch):
    monkeypatch.setenv("PET_LAB_CACHE", str(tmp_path))
    how = {
        "target": "t",
        "epsilons": [100.0],
        "config": PLAIN,
        "seed": 2,
        "replicates": 2,
        "mechanism": "mst",
        "method": "sample",
    }
    seen = tradeoff.private_data(table, **how)
    assert set(seen["metric"]) == {
        "accuracy.train",
        "accuracy.validation",
        "accuracy.original",
        "unique_rows",
    }
    unseen = tradeoff.private_data(table, unseen=True, **how)
    assert set(unseen["metric"]) == {"accuracy.heldout"}
    assert (unseen["value"] * 24 % 1).abs().lt(1e-9).all(), "24 of 120 records are held out"
    told = []
    again = tradeoff.private_data(table, progress=lambda words, share: told.append(share), **how)
    pd.testing.assert_frame_equal(seen, again)
    assert told == [0.5, 1.0]


def test_standardise_uses_the_moments_it_is_told():
    X = np.array([[1.0, 5.0], [3.0, 5.0]])
    assert np.allclose(tradeoff.standardise(X), [[-1, 0], [1, 0]])
    assert np.allclose(tradeoff.standardise(X + 2, X), [[1, 2], [3, 2]])
