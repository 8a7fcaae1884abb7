"""The audit's rows on a small problem, and claims that follow the rows."""

import math
from dataclasses import replace

import numpy as np
import pytest

from pet_lab import accounting, dpsgd, mia
from pet_lab.studies import membership_audit as study

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(120, 20)), RNG.integers(0, 2, 120)  # nothing to learn but the records
BASE = dpsgd.Config(
    hidden=(30,), epochs=40, batch_size=20, learning_rate=0.5, clip=1.0, sampling="poisson"
)
DELTA = 1e-3


def settings(**changes):
    good = {"X": X, "y": Y, "base": BASE, "noise_multipliers": [0.0, 16.0], "models": 24}
    return study.Settings(**(good | {"delta": DELTA, "seed": 1} | changes))


@pytest.fixture(scope="module")
def attacked():
    attacked = study.attack(settings())
    assert list(attacked) == ["no DP", "clipping only", "noise 16"]
    return attacked


@pytest.fixture(scope="module")
def rows(attacked):
    return study.measure(attacked, delta=DELTA, seed=1)


def test_rows_are_by_definition(attacked, rows):
    run = attacked["no DP"]
    scores = mia.lira_leave_one_out(run.coins.statistics, run.coins.member)
    mine = rows[(rows["training"] == "no DP") & (rows["attack"] == study.ATTACK)]
    want = [mia.auc(s[m], s[~m]) for s, m in zip(scores, run.coins.member, strict=True)]
    assert mine[mine["metric"] == "lira.auc"]["value"].tolist() == want
    pooled = mine.set_index("metric")["value"]["pooled.tpr_at_0.01"]
    assert pooled == mia.tpr_at_fpr(scores[run.coins.member], scores[~run.coins.member], fpr=0.01)
    keys = ["training", "attack", "replicate", "metric"]
    assert not rows.duplicated(keys).any()


def test_the_claim_is_for_the_training_that_is_protected_least(attacked, rows):
    run = attacked["noise 16"]
    sizes = {int(n) for n in run.coins.member.sum(axis=1)}
    want = max(accounting.of(run.config, n=n, delta=DELTA, accountant="pld").epsilon for n in sizes)
    table = study.bounds(rows).set_index("training")
    assert table.loc["noise 16", "claimed"] == want
    assert table.loc["no DP", "claimed"] == math.inf
    assert (table["most_exposed_record"] <= table["provable_at_most"] + 1e-9).all()


def test_trainings_that_all_diverge_are_one_sentence():
    base = replace(BASE, learning_rate=1e12)
    with pytest.raises(ValueError, match=r"All 24 trainings \(no DP\) diverged; lower"):
        study.attack(settings(base=base))


def test_one_record_more_can_mean_one_more_step_and_less_privacy():
    config = dpsgd.Config(
        epochs=200, batch_size=32, noise_multiplier=0.5, sampling="poisson", learning_rate=0.1
    )
    member = np.arange(200) < np.array([[192], [193], [199]])
    run = study.Attacked(config, mia.Coins(statistics=member * 1.0, member=member, diverged=0), {})
    claim = run.guarantee(1e-5).epsilon
    each = [
        accounting.of(config, n=n, delta=1e-5, accountant="pld").epsilon for n in (192, 193, 199)
    ]
    assert claim == max(each) == each[1]
    assert claim == pytest.approx(293.39, abs=0.005)


def test_what_cannot_run_is_a_row_that_says_why():
    coins = mia.coin_trainings(X, Y, BASE, models=24, seed=1)
    few = mia.Coins(statistics=coins.statistics[:3], member=coins.member[:3], diverged=21)
    nan = np.full(few.member.shape, np.nan)
    run = study.Attacked(
        BASE, few, {study.ATTACK: nan, study.LOSS: few.statistics}, {study.ATTACK: "too few"}
    )
    rows = study.measure({"no DP": run}, delta=DELTA, seed=0)
    lira = rows[rows["attack"] == study.ATTACK]
    assert lira["value"].isna().all()
    assert lira["status"].eq("too few").all()
    exposed = rows[rows["metric"] == "audit.most_exposed_record"].iloc[0]
    assert np.isnan(exposed["value"])
    assert "at least 16 trainings" in exposed["status"]
    assert rows[rows["metric"] == "pooled.auc"]["value"].notna().any()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"models": 8}, "models is a whole number of at least 16, got 8"),
        ({"base": replace(BASE, batch_size=61)}, "batch_size = 61 is larger than the 60 records"),
        ({"noise_multipliers": []}, "noise_multipliers is a list of 1 or more"),
        ({"delta": 1.5}, "delta is strictly between"),
    ],
)
def test_parameters_are_checked_against_each_other(changes, words):
    with pytest.raises(ValueError, match=words):
        settings(**changes)


def test_claims_follow_the_rows(rows):
    texts = [claim.text for claim in study.takeaways(rows)]
    assert texts[0].startswith("Without DP LiRA is the stronger attack")
    assert "No attack proves a larger ε than the accountant claims." in texts
    cheated = rows.copy()
    cheated.loc[cheated["metric"] == "audit.claimed", "value"] = 1e-6
    assert study.takeaways(cheated)[2].text.startswith("An attack proves a larger ε")
    assert "AUC of" in study.headline(rows).text
    assert len(study.privacy({}, delta=DELTA)) == 0


def test_curves_end_where_everybody_is_accused(attacked):
    curves = study.curves(attacked)
    assert set(curves["attack"]) == {
        "LiRA, no DP",
        "LiRA, clipping only",
        "LiRA, noise 16",
        "loss threshold, no DP",
    }
    assert (curves.groupby("attack")["tpr"].last() == 1).all()


@pytest.mark.slow
def test_tensorflow_privacy_trains_the_same_models(attacked):
    table = study.agreement(settings(library_runs=2, models=16), attacked)
    assert set(table["training"]) == set(attacked)
    assert table["runs library"].eq(2).all()
    assert table["runs"].eq(24).all()
    assert not table["finding"].eq("differs").any()
    assert study.engines(settings()).loc[0, "difference"] < 1e-5
