"""Models under attack: splits, the same streams for every setting, and what divergence does."""

import math

import numpy as np
import pytest
from scipy import stats

from pet_lab import dpsgd, mia

RNG = np.random.default_rng(0)
X = RNG.random((90, 6))
Y = (X[:, 0] + 0.4 * RNG.normal(size=90) > 0.5).astype(int)
SMALL = {"hidden": (8,), "epochs": 4, "batch_size": 12, "learning_rate": 0.5}
WILD = dpsgd.Config(**{**SMALL, "learning_rate": 1e30, "clip": math.inf, "epochs": 8})


def test_the_split_has_the_sizes_of_the_report():
    split = mia.report_split(395, np.random.default_rng(0))
    parts = (split.train, split.validation, split.test)
    assert [p.size for p in parts] == [252, 64, 79]
    assert sorted(np.concatenate(parts)) == list(range(395))
    with pytest.raises(ValueError, match="too few to hold out"):
        mia.report_split(3, np.random.default_rng(0))


def test_a_target_is_the_same_alone_or_among_others():
    configs = [dpsgd.Config(noise_multiplier=z, **SMALL) for z in (0.0, 1.0)]
    both = list(mia.train_targets(X, Y, configs, seed=3, replicates=2))
    assert [(t.config.noise_multiplier, t.replicate) for t in both] == [
        (0.0, 0),
        (0.0, 1),
        (1.0, 0),
        (1.0, 1),
    ]
    (alone,) = mia.train_targets(X, Y, configs[1:], seed=3, replicates=1)
    np.testing.assert_array_equal(alone.split.test, both[2].split.test)
    # Both are float32 programs of another width: rounding only.
    np.testing.assert_allclose(alone.logits, both[2].logits, atol=1e-5)
    np.testing.assert_array_equal(both[0].split.train, both[2].split.train)
    right = (alone.logits[alone.split.test] > 0) == (Y[alone.split.test] > 0)
    assert alone.accuracy(alone.split.test, Y) == right.mean()


@pytest.mark.filterwarnings("ignore:.*diverged")
def test_a_diverged_target_answers_nothing():
    for target in mia.train_targets(X * 1e6, Y, [WILD], seed=0, replicates=2):
        assert target.status == "the training diverged"
        assert np.isnan(target.logits).all()
        assert np.isnan(target.accuracy(target.split.train, Y))
    coins = mia.coin_trainings(X * 1e6, Y, WILD, models=3, seed=0)
    assert coins.diverged >= 2
    assert len(coins.statistics) == len(coins.member) == 3 - coins.diverged
    assert np.isfinite(coins.statistics).all()


def test_a_hold_out_whose_members_are_of_one_class_says_so_and_the_others_run():
    rare = (np.arange(90) == 7).astype(int)  # one record of class 1: a member in about 5 of 8
    targets = list(mia.train_targets(X, rare, [dpsgd.Config(**SMALL)], seed=0, replicates=8))
    for target in targets:
        holds = 7 in target.split.train
        assert (target.status == "ok") is holds
        assert (target.status == mia.ONE_CLASS) is not holds
        assert np.isfinite(target.logits).all() == holds
    assert {t.status for t in targets} == {"ok", mia.ONE_CLASS}
    coins = mia.coin_trainings(X, rare, dpsgd.Config(**SMALL), models=8, seed=0)
    assert coins.member[:, 7].all()
    assert coins.one_class == 8 - len(coins.member) > 0


@pytest.mark.parametrize(
    ("y", "changes", "words"),
    [
        (Y[:5], {}, "at least 6 records, got 5"),
        (np.zeros(90), {}, "two classes, got 90 records of class 0 alone"),
        (Y, {"delta": 2.0}, "delta is strictly between 0 and 1, got 2"),
        (Y, {"batch_size": 58}, "batch_size = 58 is larger than the 57 records"),
        (Y, {"members": 11}, "batch_size = 12 is larger than the 11 records"),
    ],
)
def test_parameters_that_cannot_go_together_are_refused_before_training(y, changes, words):
    good = {"batch_size": 12, "delta": 1e-3}
    mia.check_plan(Y, **good)
    with pytest.raises(ValueError, match=words):
        mia.check_plan(y, **(good | changes))


def test_coins_are_the_same_for_every_setting():
    a, b = (
        mia.coin_trainings(X, Y, dpsgd.Config(noise_multiplier=z, **SMALL), models=6, seed=5)
        for z in (0.0, 2.0)
    )
    np.testing.assert_array_equal(a.member, b.member)
    assert a.diverged == 0
    assert a.statistics.shape == (6, 90)
    assert not np.allclose(a.statistics, b.statistics)
    own = [np.mean(s[m] > 0) for s, m in zip(a.statistics, a.member, strict=True)]
    np.testing.assert_allclose(a.accuracy(members=True), own)


def test_an_overfitted_target_is_caught_and_a_private_one_within_its_epsilon():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(160, 30)), rng.integers(0, 2, 160)  # nothing to learn but the records
    loud = dpsgd.Config(hidden=(40,), epochs=80, batch_size=20, learning_rate=0.5, clip=math.inf)
    quiet = dpsgd.Config(
        hidden=(40,), epochs=80, batch_size=20, learning_rate=0.5, noise_multiplier=32.0
    )
    areas = {}
    for name, config in (("loud", loud), ("quiet", quiet)):
        coins = mia.coin_trainings(x, y, config, models=24, seed=1)
        scores = mia.lira_leave_one_out(coins.statistics, coins.member)
        areas[name] = mia.auc(scores[coins.member], scores[~coins.member])
    assert areas["loud"] > 0.9
    # A record is seen in 80 Gaussian steps of sensitivity 1 / 32: no attack has a larger AUC than
    # that of a shift by mu, plus chance (the 24 x 160 scores are not independent: 24 trainings).
    mu = math.sqrt(80) / 32
    most = stats.norm.cdf(mu / math.sqrt(2))
    assert areas["quiet"] < most + 4 * mia.chance_auc_sd(12 * 160, 12 * 160)
