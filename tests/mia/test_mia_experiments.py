"""The experiments: splits, the report's accountant, rows, and what a diverged training does."""

import math

import numpy as np
import pytest

from pet_lab import dpsgd, mia

RNG = np.random.default_rng(0)
X = RNG.random((90, 6))
Y = (X[:, 0] + 0.4 * RNG.normal(size=90) > 0.5).astype(int)
SMALL = {"hidden": (8,), "epochs": 4, "batch_size": 12, "learning_rate": 0.5}


def test_the_split_has_the_sizes_of_the_report():
    split = mia.report_split(395, np.random.default_rng(0))
    parts = (split.train, split.validation, split.test)
    assert [p.size for p in parts] == [252, 64, 79]
    assert sorted(np.concatenate(parts)) == list(range(395))
    with pytest.raises(ValueError, match="too few to hold out"):
        mia.report_split(3, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("noise", "decimals", "printed"),
    [
        (0.2, 6, "2.92E+10"),
        (0.4, 6, "1.01E+09"),
        (0.4, 4, "1.01E+07"),
        (0.5, 4, "3.10E+06"),
        (0.6, 4, "1.39E+06"),
    ],
)
def test_printed_epsilons_are_ours_without_their_decimal_point(noise, decimals, printed):
    value = mia.report_epsilon(noise, n=252, batch_size=22, epochs=200)
    assert f"{round(value * 10**decimals):.2E}" == printed
    assert math.isinf(mia.report_epsilon(0.0, n=252, batch_size=22, epochs=200))


def test_a_sweep_gives_every_metric_for_every_setting_and_is_reproducible():
    configs = [dpsgd.Config(noise_multiplier=z, **SMALL) for z in (0.0, 1.0)]
    first, again = (
        mia.attack_sweep(X, Y, configs, seed=3, replicates=2, holdout=True) for _ in range(2)
    )
    assert first.equals(again)
    alone = mia.attack_sweep(X, Y, configs[1:], seed=3, replicates=2, holdout=True)
    joint = first[first.noise_multiplier == 1.0].reset_index(drop=True)
    assert np.allclose(joint.value, alone.value, equal_nan=True)
    assert set(first.metric) == {
        "score.train",
        "score.validation",
        "score.test",
        "score.gap",
        "mia.auc",
        "mia.attacker_advantage",
    }
    keys = ["epochs", "learning_rate", "noise_multiplier", "attack", "slice", "replicate", "metric"]
    assert not first.duplicated(keys).any()


@pytest.mark.filterwarnings("ignore:.*diverged")
def test_a_diverged_training_is_a_nan_row_and_no_attack():
    wild = dpsgd.Config(**{**SMALL, "learning_rate": 1e30, "clip": math.inf, "epochs": 8})
    rows = mia.attack_sweep(X * 1e6, Y, [wild], seed=0, replicates=2, holdout=True)
    assert rows[rows.metric.str.startswith("score")].value.isna().all()
    assert not rows.metric.str.startswith("mia").any()
    coins = mia.coin_trainings(X * 1e6, Y, wild, models=3, seed=0)
    assert coins.diverged >= 2
    assert len(coins.statistics) == 3 - coins.diverged


def test_coins_are_the_same_for_every_setting():
    a, b = (
        mia.coin_trainings(X, Y, dpsgd.Config(noise_multiplier=z, **SMALL), models=6, seed=5)
        for z in (0.0, 2.0)
    )
    np.testing.assert_array_equal(a.member, b.member)
    assert a.diverged == 0
    assert a.statistics.shape == (6, 90)
    assert not np.allclose(a.statistics, b.statistics)


def test_an_overfitted_target_is_caught_and_a_private_one_much_less():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(160, 30)), rng.integers(0, 2, 160)  # nothing to learn but the records
    loud = dpsgd.Config(hidden=(40,), epochs=80, batch_size=20, learning_rate=0.5, clip=math.inf)
    quiet = dpsgd.Config(
        hidden=(40,), epochs=80, batch_size=20, learning_rate=0.5, noise_multiplier=8.0
    )
    areas = {}
    for name, config in (("loud", loud), ("quiet", quiet)):
        coins = mia.coin_trainings(x, y, config, models=24, seed=1)
        scores = mia.lira_leave_one_out(coins.statistics, coins.member)
        areas[name] = mia.auc(scores[coins.member], scores[~coins.member])
    assert areas["loud"] > 0.9
    assert areas["quiet"] < 0.65


def test_shadow_attack_reports_every_cell():
    domain = mia.Domain.of(X, [f"x{j}" for j in range(6)])
    config = dpsgd.Config(hidden=(8,), epochs=30, batch_size=12, learning_rate=0.5, clip=math.inf)
    rows = mia.shadow_attack(X, Y, domain, config, seed=1, replicates=1, models=4)
    got = set(zip(rows.metric, rows.attack_model, rows.samples, strict=True))
    for model in ("class0", "class1"):
        assert ("accuracy", model, "") in got
        for samples in ("member", "nonmember"):
            assert {(m, model, samples) for m in ("precision", "recall", "f1")} <= got
    assert ("target.accuracy", "", "") in got
    assert (rows[rows.metric == "queries"].value > 0).all()


def test_equal_budgets_are_attacked_on_equal_splits():
    configs = {
        e: dpsgd.Config(noise_multiplier=z, **SMALL) for e, z in ((1.0, 4.0), (math.inf, 0.0))
    }
    rows = mia.attack_training(X, Y, configs, seed=3, replicates=3)
    assert set(rows.epsilon) == {1.0, math.inf}
    assert rows.groupby(["epsilon", "metric"]).size().eq(3).all()


def test_a_table_of_the_members_themselves_is_the_worst_case():
    import pandas as pd

    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(120, 5)), columns=list("abcde"))
    frame["pass"] = np.where(frame["a"] > 0, "yes", "no")
    rows = mia.attack_synthetic(
        frame,
        target="pass",
        epsilons=[math.inf],
        config=dpsgd.Config(clip=math.inf, **SMALL),
        seed=0,
        replicates=2,
    )
    areas = rows[rows.metric == "mia.auc"].groupby("attack").value.mean()
    assert areas["distance to the table"] == 1.0
    assert areas["density ratio"] > 0.9


def test_a_target_that_predicts_one_class_only_is_counted_not_attacked():
    domain = mia.Domain.of(X, [f"x{j}" for j in range(6)])
    lazy = dpsgd.Config(hidden=(4,), epochs=1, batch_size=30, learning_rate=1e-6)
    ones = (np.arange(90) > 3).astype(int)
    rows = mia.shadow_attack(X, ones, domain, lazy, seed=0, replicates=1, models=2, held_out=0.1)
    failed = rows[rows.metric == "synthesis.failed"].value
    assert failed.tolist() in ([1.0], [0.0])
    assert rows.metric.eq("accuracy").any() == (failed.iloc[0] == 0)
