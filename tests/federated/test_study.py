"""The notebook's experiments: tidy rows that say what they should, on a tiny federation."""

import numpy as np
import pytest

from pet_lab import federated as fl
from pet_lab.federated import study

SMALL = {"rounds": 2, "seed": 1, "replicates": 2}
HOW = fl.Training(learning_rate=0.02)


def tidy(frame):
    assert {"replicate", "metric", "value"} <= set(frame.columns)
    factors = [c for c in frame.columns if c != "value"]
    assert not frame.duplicated(factors).any()
    assert np.isfinite(frame["value"]).all()
    return frame


def test_scenarios_are_those_of_the_table_and_four_equals_two(data, network, key):
    rows = tidy(
        study.scenarios(
            data, network, HOW, key=key, encrypted_replicates=1, transport="loop", **SMALL
        )
    )
    ends = rows[rows["round"] == 0]
    clients = ends[ends["metric"] == "clients"].groupby("scenario")["value"].unique()
    assert {k: v.tolist() for k, v in clients.items()} == {1: [2], 2: [4], 3: [4], 4: [4]}
    assert (ends[ends["metric"] == "rounds"]["value"] == 2).all()
    fourth = ends[ends["scenario"] == 4].groupby("metric")["value"].max()
    assert fourth["weight_difference"] < 1e-4
    assert fourth["first_round_loss_difference"] < 1e-5
    assert fourth["encrypt_cpu_s"] > 0
    offices = rows[(rows["round"] == 2) & (rows["scenario"] == 2)]["office"]
    assert set(offices) == set(fl.OFFICES)
    with pytest.raises(ValueError, match="transport is one of"):
        study.scenarios(
            data, network, HOW, key=key, encrypted_replicates=0, transport="pigeon", **SMALL
        )


def test_comparisons_and_skews(data, network):
    alone = tidy(study.alone(data, network, HOW, **SMALL))
    assert set(alone["office"]) == {"all", *fl.OFFICES}
    rows = tidy(study.skews(data, network, HOW, offices=[2, 3], skews=[0.0, 2.0], **SMALL))
    assert set(rows["offices"]) == {2, 3}


def test_costs_of_adding_cover_every_method(key, network):
    pytest.importorskip("tenseal", reason="TenSEAL has no wheel for this platform")
    rng = np.random.default_rng(0)
    vectors = [rng.normal(0, 0.1, network.parameters) for _ in range(4)]
    rows = tidy(
        study.aggregation_costs(
            vectors, key=key, output_starts=network.output_starts, sample=3, threshold=3
        )
    )
    wide = rows.pivot_table(index="method", columns="metric", values="value")
    assert len(wide) == 9
    assert (wide["error"] < 1e-6).all()
    packed, naive = (
        wide.loc[m] for m in ("Paillier, packed, short noise", "Paillier, one weight each (phe)")
    )
    assert naive["up_bytes"] > 10 * packed["up_bytes"]
    assert wide.loc["masking", "up_bytes"] < wide.loc["plain", "up_bytes"]


def test_leaks_and_defences_give_rows(data, offices, network):
    wide = fl.Network((147, 50, 6))
    leaks = tidy(study.inversions(offices[0], wide, HOW, batches=[1, 32], seed=1, replicates=2))
    share = leaks[leaks["metric"] == "recovered"].groupby(["update", "batch"])["value"].mean()
    assert share["one step", 1] == 1
    assert share["one epoch", 64] == 0
    backdoor = fl.attacks.Backdoor(columns=(3, 40), value=5.0, target=5)
    doors = tidy(study.backdoors(data, network, HOW, backdoor, shares=[0.0, 0.2], **SMALL))
    assert set(doors["rule"]) == set(fl.robust.RULES)
    private = fl.Training(learning_rate=0.02, clip=1.0, batch_size=16)
    records = tidy(
        study.record_privacy(
            data, network, private, noise_multipliers=[1.0, 3.0], delta=1e-5, **SMALL
        )
    )
    epsilon = records[records["metric"] == "epsilon"].groupby("noise_multiplier")["value"].mean()
    assert epsilon[1.0] > epsilon[3.0] > 0
    tidy(
        study.office_privacy(
            data, network, HOW, epsilons=[8.0], offices=[4], clip=0.1, delta=1e-5, **SMALL
        )
    )
    noisy = fl.Training(learning_rate=0.02, clip=1.0, batch_size=16, noise_multiplier=1.0)
    guesses = tidy(
        study.membership(data, network, HOW, noisy=noisy, rounds=[2], seed=1, replicates=2)
    )
    auc = guesses[guesses["metric"] == "mia_auc"]["value"]
    assert auc.between(0.3, 0.7).all()
