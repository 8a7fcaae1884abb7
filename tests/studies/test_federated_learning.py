"""The study: tidy rows that say what they should on a tiny federation, and claims made of them."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from pet_lab import federated as fl
from pet_lab import paillier
from pet_lab.federated import costs
from pet_lab.rows import concat
from pet_lab.studies import federated_learning as study


@pytest.fixture(scope="module")
def setting():
    frame, _ = fl.stand_in(np.random.default_rng(1), people=25, seconds=8)
    return study.Federation(
        windows=fl.windows(frame),
        network=fl.Network((147, 50, 6)),
        training=fl.LocalTraining(learning_rate=0.02),
        rounds=2,
        seed=1,
        replicates=2,
    )


@pytest.fixture(scope="module")
def key():
    return paillier.generate(512, for_tests=True)


@pytest.fixture(scope="module")
def parts(setting, key):
    """Every experiment once."""
    split = setting.divide()
    return {
        "scenarios": study.scenarios(setting, key=key, encrypted_replicates=1, transport="loop"),
        "comparison": study.comparison(setting),
        "transports": study.transports(setting, key=key, rounds=0),
        "adding": study.adding(setting, split, key=key, naive_sample=3, threshold=3),
        "inversion": study.inversions(setting, split[0]),
        "privacy of records": study.record_privacy(
            setting, noise_multipliers=[1.0, 3.0], delta=1e-5
        ),
        "privacy of offices": study.office_privacy(setting, delta=1e-5),
        "membership": study.membership(setting),
        "backdoor": study.backdoors(setting, poisoned=0.2),
        "skew": study.skews(setting, offices=[2, 3], skews=[0.0, 2.0], participation=0.7),
    }


@pytest.fixture(scope="module")
def rows(parts):
    return concat(*parts.values())


def test_rows_are_tidy(parts, rows):
    assert parts["transports"].empty
    for name, part in parts.items():
        assert set(part.get("experiment", [])) <= {name}
        assert np.isfinite(part["value"]).all() if len(part) else True
    factors = [c for c in rows.columns if c != "value"]
    assert not rows.duplicated(factors).any()
    assert set(rows["replicate"]) == set(range(6))  # thrice as many for inversions


def test_scenarios_are_those_of_the_table_and_four_is_two_up_to_rounding(parts):
    ends = parts["scenarios"].query("round == 0")
    clients = ends[ends["metric"] == "clients"].groupby("scenario")["value"].unique()
    assert {k: v.tolist() for k, v in clients.items()} == {1: [2], 2: [4], 3: [4], 4: [4]}
    assert (ends[ends["metric"] == "rounds"]["value"] == 2).all()
    fourth = ends[ends["scenario"] == 4].groupby("metric")["value"].max()
    assert 0 < fourth["weight_difference"] < 1e-4
    assert 0 < fourth["first_round_loss_difference"] < 1e-5
    assert fourth["encrypt_cpu_s"] > 0
    offices = parts["scenarios"].query("round == 2 and scenario == 2")["office"]
    assert set(offices) == set(fl.OFFICES)


def test_an_unknown_transport_is_refused(setting, key):
    with pytest.raises(ValueError, match="transport is one of loop, flower, processes"):
        study.scenarios(setting, key=key, encrypted_replicates=0, transport="pigeon")


def test_the_loop_and_flower_end_with_the_same_model(setting, key, monkeypatch):
    pytest.importorskip("flwr", reason="Flower is in the extra 'fl'")
    monkeypatch.delitem(study.TRANSPORTS, "processes")  # tested beside `flower.processes`
    same = study.transports(setting, key=key, rounds=1).query("metric == 'same_model'")
    assert same["value"].tolist() == [1.0] * 4


def test_costs_of_adding_cover_every_method(parts):
    pytest.importorskip("tenseal", reason="TenSEAL has no wheel for this platform")
    ways = parts["adding"].pivot_table(index="method", columns="metric", values="value")
    assert set(ways.index) == {*study.TRUST, "Paillier, 3 of 4 decrypt"}
    assert (ways["error"] < 1e-6).all()
    packed, naive = ways.loc[costs.PACKED], ways.loc[costs.NAIVE]
    assert naive["up_bytes"] > 10 * packed["up_bytes"]
    assert ways.loc["masking", "up_bytes"] < ways.loc["plain", "up_bytes"]


def test_one_step_leaks_single_records_and_an_epoch_none(parts):
    leaks = parts["inversion"].query("metric == 'recovered'")
    share = leaks.groupby(["update", "batch"])["value"].mean()
    assert share["one step", 1] == 1
    assert share["one step", 64] == share["one epoch", 64] == 0


def test_more_noise_is_a_smaller_epsilon_and_more_offices_drown_less(parts):
    records = parts["privacy of records"].query("metric == 'epsilon'")
    epsilon = records.groupby("noise_multiplier")["value"].mean()
    assert epsilon[1.0] > epsilon[3.0] > 0
    offices = parts["privacy of offices"].query("metric == 'noise_to_signal'")
    ratio = offices.groupby(["epsilon", "offices"])["value"].mean()
    np.testing.assert_allclose(ratio[:, 4], 4 * ratio[:, 16])


def test_membership_shows_where_labels_are_learnt_by_heart_and_not_under_dp_sgd(setting):
    """Shuffled labels can only be memorised: members then stand out, unless clipped and noisy."""
    windows = setting.windows
    shuffled = np.random.default_rng(5).permutation(windows.y)
    by_heart = dataclasses.replace(
        setting, windows=dataclasses.replace(windows, y=shuffled), rounds=20, replicates=1
    )
    guesses = study.membership(by_heart, noise_multiplier=4.0)
    auc = guesses.query("metric == 'mia_auc' and round == 40").set_index("training")["value"]
    m, n = (guesses.query("metric == @side")["value"].iloc[0] for side in ("members", "others"))
    assert m + n == sum(o.n for o in by_heart.divide())
    se = np.sqrt((m + n + 1) / (12 * m * n))  # of an AUC of 0.5
    assert auc["plain"] > 0.5 + 5 * se
    assert abs(auc["DP-SGD"] - 0.5) < 4 * se


def test_a_half_that_is_easier_by_chance_is_no_membership(setting):
    """A model that ignores its training: every office sends one and the same weights."""
    fixed = setting.network.initial(np.random.default_rng(3))
    deaf = dataclasses.replace(setting, replicates=1, rounds=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fl.Network, "train", lambda *_: fixed)
        guesses = study.membership(deaf)
    auc = guesses.query("metric == 'mia_auc'")["value"]
    np.testing.assert_allclose(auc, 0.5, atol=1e-12)


def test_skew_rows_say_the_participation_and_fewer_offices_learn_something_else(parts, setting):
    assert set(parts["skew"]["participation"]) == {0.7}
    full = study.skews(setting, offices=[3], skews=[0.0])
    part = parts["skew"].query("offices == 3 and skew == 0")
    assert set(full["participation"]) == {1.0}
    assert full["value"].tolist() != part["value"].tolist()


def test_a_backdoor_needs_poison_and_robust_rules_are_all_tried(setting):
    long = dataclasses.replace(setting, rounds=8, replicates=1)
    rows = study.backdoors(long, poisoned=0.3)
    success = rows.query("metric == 'backdoor_success'").set_index(["rule", "poisoned", "boost"])
    assert {rule for rule, _, _ in success.index} == set(fl.robust.RULES)
    assert success["value"]["mean", 0.3, 4.0] > success["value"]["mean", 0.0, 1.0] + 0.3


def test_summaries_have_a_line_per_set_up_method_and_factor(rows):
    reached = study.accuracies(rows).set_index("set-up")
    assert set(reached.index) == {
        *study.SET_UPS.values(),
        "all data in one hand",
        "each office alone (mean)",
    }
    assert reached["n"].tolist() == [2, 2, 2, 1, 1, 2, 8]
    totals = study.totals(rows).set_index("set-up")
    scenario = rows[(rows["scenario"] == 2) & (rows["metric"] == "wall_s")]["value"].mean()
    assert totals.loc[study.SET_UPS[2, "nothing"], "wall_s"] == pytest.approx(scenario / 2)
    ways = study.side_by_side(rows).set_index("method")
    assert ways.loc[costs.NAIVE, "times less than naive"] == 1
    assert ways["who is trusted with what"].str.len().gt(0).all()
    assert len(study.table(rows, "backdoor")) == 3 * len(fl.robust.RULES)


def test_claims_turn_with_the_rows(rows):
    first, second, *_ = study.takeaways(rows)
    assert "Federation reaches" in first.text
    assert second.holds
    worse = rows.copy()
    worse.loc[worse["metric"] == "changed_answers", "value"] = 0.5
    assert not study.takeaways(worse)[1].holds
    assert study.takeaways(worse)[1].text.startswith("Not here: ")
    better = rows.copy()
    is_accuracy = better["metric"] == "accuracy_pooled"
    better.loc[is_accuracy, "value"] = np.where(better[is_accuracy]["setting"] == "alone", 0.5, 0.9)
    assert study.takeaways(better)[0].holds


def test_the_headline_and_the_guarantees_carry_their_numbers(rows):
    text = study.headline(rows, generated=True).text
    assert text.startswith("On generated signals")
    assert text.endswith(".")
    reached = study.numbers(rows)["federated"]
    assert f"{reached:.3f}" in text
    assert not study.headline(rows, generated=False).text.startswith("On generated")
    none, record, _ = study.privacy(rows, delta=1e-5)
    assert "no differential privacy" in none
    assert f"ε = {study.numbers(rows)['record_epsilon']:.2f}" in record
    assert "δ = 1e-05" in record


def test_missing_recordings_are_replaced_only_if_allowed(monkeypatch):
    def missing(name):
        raise study.data.DataMissing("not here")

    monkeypatch.setattr(study.data, "load", missing)
    with pytest.raises(study.data.DataMissing):
        study.recordings(seed=1, stand_in=False)
    windows, provenance, counts = study.recordings(seed=1, stand_in=True)
    assert provenance["kind"] == "generated"
    assert not counts
    assert windows.size > 1000


def test_holdings_count_every_training_window(setting):
    split = setting.divide()
    held = study.holdings(split)
    assert isinstance(held, pd.DataFrame)
    assert held[[c.lower() for c in fl.CLASSES]].sum(axis=1).tolist() == [o.n for o in split]
