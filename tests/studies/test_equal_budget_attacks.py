"""Both ways at equal budgets: equal splits, the worst case, and claims that follow the rows."""

import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pet_lab import accounting, dpsgd
from pet_lab.studies import equal_budget_attacks as study

BASE = dpsgd.Config(
    hidden=(8,), epochs=4, batch_size=12, learning_rate=0.5, clip=1.0, sampling="poisson"
)


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(120, 5)), columns=list("abcde"))
    return table.assign(**{"pass": np.where(table["a"] > 0, "yes", "no")})


def settings(frame, **changes):
    good = {"frame": frame, "target": "pass", "base": BASE, "epsilons": [1.0], "replicates": 2}
    return study.Settings(**(good | {"data_replicates": 2, "delta": 1e-5, "seed": 0} | changes))


def test_each_budget_is_spent(frame):
    spent = settings(frame, epsilons=[1.0, 10.0])
    assert spent.members == 76
    for epsilon in (1.0, 10.0):
        config = spent.configs[epsilon]
        proven = accounting.of(config, n=76, delta=1e-5, accountant="pld").epsilon
        assert proven == pytest.approx(epsilon, rel=1e-4)
        assert proven <= epsilon
    assert spent.configs[math.inf].noise_multiplier == 0
    assert len(study.privacy(spent)) == 3


def test_equal_budgets_are_attacked_on_equal_splits(frame):
    rows = study.attack_training(settings(frame, replicates=3, seed=3))
    assert set(rows["epsilon"]) == {1.0, math.inf}
    assert rows.groupby(["epsilon", "metric"]).size().eq(3).all()
    by = rows.pivot_table(index=["epsilon", "replicate"], columns="metric", values="value")
    assert by.loc[1.0, "mia.auc"].ne(by.loc[math.inf, "mia.auc"]).any()  # noise did something


def test_a_table_of_the_members_themselves_is_the_worst_case(frame):
    rows = study.attack_synthetic(settings(frame))
    worst = rows[(rows["metric"] == "mia.auc") & np.isinf(rows["epsilon"])]
    areas = worst.groupby("attack")["value"].mean()
    assert areas["distance to the table"] == 1.0
    assert areas["density ratio"] > 0.9


@pytest.mark.parametrize("refuses", [True, False])
def test_a_table_that_cannot_be_attacked_is_a_row_that_says_why(frame, monkeypatch, refuses):
    class Released:
        def __init__(self, table):
            self.frame = table.assign(**{"pass": table["pass"].max()})  # of one class

    def synthesise(table, **_):
        if refuses:
            raise ValueError("budget too small")
        return Released(table)

    monkeypatch.setattr(study.synth, "synthesise", synthesise)
    rows = study.attack_synthetic(settings(frame))
    finite = rows[np.isfinite(rows["epsilon"])]
    if refuses:
        assert finite["value"].isna().all()
        assert finite["status"].str.startswith("no table to attack: budget too small").all()
    else:  # a table of one class is released all the same: only its network learns nothing
        learnt = ~finite["attack"].isin([study.LOSS, ""])
        assert finite["value"].notna().equals(learnt)
        assert set(finite["status"][~learnt]) == {study.mia.ONE_CLASS}
    assert rows[np.isinf(rows["epsilon"])]["value"].notna().all()  # the rest ran
    assert study.headline(rows).text
    assert study.takeaways(rows, base_rate=0.6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epsilons": []}, "epsilons is a list of 1 or more"),
        ({"epsilons": [0.0]}, "epsilons is a number above 0, got 0.0; leave it out"),
        ({"data_replicates": 0}, "data_replicates is a whole number of at least 1"),
        ({"base": replace(BASE, batch_size=77)}, "batch_size = 77 is larger than the 76 records"),
    ],
)
def test_parameters_are_checked_against_each_other(frame, changes, words):
    with pytest.raises(ValueError, match=words):
        settings(frame, **changes)


def invented(auc, replicates=5):
    rng = np.random.default_rng(0)
    lines = []
    for mechanism, attack in (("dp-sgd", "loss of the network"), ("mst", "distance to the table")):
        for epsilon in (1.0, math.inf):
            for r in range(replicates):
                level = (1.0 if mechanism == "mst" else 0.9) if epsilon == math.inf else auc
                base = {"mechanism": mechanism, "epsilon": epsilon, "replicate": r}
                value = level - 0.01 * rng.random()
                lines.append(base | {"attack": attack, "metric": "mia.auc", "value": value})
                lines.append(base | {"attack": "", "metric": "score.test", "value": auc})
    return pd.DataFrame(lines)


@pytest.mark.parametrize(("auc", "holds"), [(0.8, True), (0.5, False)])
def test_claims_follow_the_rows(auc, holds):
    rows = invented(auc)
    claims = study.takeaways(rows, base_rate=0.67)
    assert [claim.holds for claim in claims] == [holds, holds, True, holds]
    (area,) = re.findall(r"AUC of (0\.\d\d) on DP training", study.headline(rows).text)
    assert float(area) == pytest.approx(auc, abs=0.0151)  # the rows lie up to .01 below; two digits


def test_one_replicate_claims_nothing():
    claims = study.takeaways(invented(0.8, replicates=1), base_rate=0.67)
    assert not claims[0].holds


def test_the_libraries_run_beside_ours(frame, monkeypatch):
    train, synthesise, asked = dpsgd.train, study.synth.synthesise, []

    def trained(*args, engine="batched", **how):
        asked.append(engine)
        return train(*args, **how)

    def synthesised(*args, mechanism, **how):
        asked.append(mechanism)
        return synthesise(*args, mechanism="mst", **how)

    monkeypatch.setattr(dpsgd, "train", trained)
    monkeypatch.setattr(study.synth, "synthesise", synthesised)
    both = settings(frame, replicates=3, data_replicates=3, library_runs=2)
    rows = study.simulate(both)
    assert {"tensorflow-privacy", "mst-smartnoise", "mst"} <= set(asked)
    table = study.agreement(rows)
    assert set(table["mechanism"]) == {"dp-sgd", "mst"}
    assert table["runs library"].eq(2).all()
    assert set(study.attacked(rows)["mechanism"]) == {"dp-sgd", "mst"}  # the pictures are ours
    asked.clear()
    libraries = {"engine": "tensorflow-privacy", "mechanism": "mst-smartnoise"}
    alone = settings(frame, library_runs=2, **libraries)
    assert study.agreement(study.simulate(alone)).empty
    assert "mst" not in asked
    assert not alone.checked
