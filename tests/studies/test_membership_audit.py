"""The audit's rows on a small problem, and claims that follow the rows."""

import math

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


@pytest.fixture(scope="module")
def attacked():
    trainings = study.settings([0.0, 16.0], BASE)
    assert list(trainings) == ["no DP", "clipping only", "noise 16"]
    return study.attack(X, Y, trainings, models=24, seed=1)


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


def test_the_claim_is_for_the_smallest_training_set(attacked, rows):
    run = attacked["noise 16"]
    smallest = int(run.coins.member.sum(axis=1).min())
    want = accounting.of(run.config, n=smallest, delta=DELTA, accountant="pld").epsilon
    table = study.bounds(rows).set_index("training")
    assert table.loc["noise 16", "claimed"] == want
    assert table.loc["no DP", "claimed"] == math.inf
    assert (table["most_exposed_record"] <= table["provable_at_most"] + 1e-9).all()


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
