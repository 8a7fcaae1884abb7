"""The study: tidy rows that say what they should on a tiny federation, and claims made of them."""

import dataclasses

import numpy as np
import pytest

from pet_lab import federated as fl
from pet_lab.federated import costs
from pet_lab.studies import federated_learning as study


@pytest.fixture(scope="module")
def windows():
    frame, _ = fl.stand_in(np.random.default_rng(1), people=25, seconds=8)
    return fl.windows(frame)


def settings(**changes):
    small = {"network": fl.Network((147, 50, 6)), "key_bits": 512, "for_tests": True}
    return study.Settings(**small | {"rounds": 2, "seed": 1, "replicates": 2} | changes)


@pytest.fixture(scope="module")
def rows(windows):
    """Every experiment once."""
    rare = {"naive_sample": 3, "poisoned": 0.2, "noise_multipliers": [1.0, 3.0]}
    uneven = {"offices": [2, 3], "skews": [0.0, 2.0], "participation": 0.7}
    return study.simulate(settings(**rare, **uneven), windows)


@pytest.fixture(scope="module")
def parts(rows):
    return {name: rows[rows["experiment"] == name] for name in study.EXPERIMENTS}


def test_rows_are_tidy(parts, rows):
    assert [name for name, part in parts.items() if part.empty] == ["transports"]
    assert np.isfinite(rows["value"]).all()
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


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"transport": "pigeon"}, "transport is one of loop, flower, processes"),
        ({"rounds": 0}, "rounds is a whole number of at least 1"),
        ({"participation": 0.0}, "participation is a fraction"),
        ({"skews": [0.0, 0.0]}, "skews is a list of 1 or more different values"),
        ({"skews": [-1.0]}, "skews are 0 or positive"),
        ({"poisoned": 5}, "poisoned is a fraction"),
        ({"threshold": 1}, "threshold is one of 2, 3, 4"),
        ({"for_tests": False}, "key_bits is a whole number of at least 2048"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(bad, words):
    with pytest.raises(ValueError, match=words):
        settings(**bad)


def test_the_loop_and_flower_end_with_the_same_model(windows, monkeypatch):
    pytest.importorskip("flwr", reason="Flower is in the extra 'fl'")
    monkeypatch.delitem(study.TRANSPORTS, "processes")  # tested beside `flower.processes`
    once = study.simulate(settings(transport_rounds=1), windows, ["transports"])
    assert once.query("metric == 'same_model'")["value"].tolist() == [1.0] * 4


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


def test_membership_shows_where_labels_are_learnt_by_heart_and_not_under_dp_sgd(windows):
    """Shuffled labels can only be memorised: members then stand out, unless clipped and noisy."""
    shuffled = np.random.default_rng(5).permutation(windows.y)
    windows = dataclasses.replace(windows, y=shuffled)
    s = settings(rounds=20, replicates=1, membership_noise=4.0)
    guesses = study.simulate(s, windows, ["membership"])
    auc = guesses.query("metric == 'mia_auc' and round == 40").set_index("training")["value"]
    m, n = (guesses.query("metric == @side")["value"].iloc[0] for side in ("members", "others"))
    assert m + n == sum(o.n for o in s.divide(windows))
    se = np.sqrt((m + n + 1) / (12 * m * n))  # of an AUC of 0.5
    assert auc["plain"] > 0.5 + 5 * se
    assert abs(auc["DP-SGD"] - 0.5) < 4 * se


def test_a_half_that_is_easier_by_chance_is_no_membership(windows):
    """A model that ignores its training: every office sends one and the same weights."""
    deaf = settings(replicates=1, rounds=1)
    fixed = deaf.network.initial(np.random.default_rng(3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fl.Network, "train", lambda *_: fixed)
        guesses = study.simulate(deaf, windows, ["membership"])
    auc = guesses.query("metric == 'mia_auc'")["value"]
    np.testing.assert_allclose(auc, 0.5, atol=1e-12)


def test_skew_rows_say_the_participation_and_fewer_offices_learn_something_else(windows, parts):
    assert set(parts["skew"]["participation"]) == {0.7}
    full = study.simulate(settings(offices=[3]), windows, ["skew"])
    part = parts["skew"].query("offices == 3 and skew == 0")
    assert set(full["participation"]) == {1.0}
    assert full["value"].tolist() != part["value"].tolist()


def test_a_backdoor_needs_poison_and_robust_rules_are_all_tried(windows):
    long = settings(rounds=8, replicates=1, poisoned=0.3)
    rows = study.simulate(long, windows, ["backdoor"])
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


def own_table(tmp_path, *, sizes=(60, 40, 20, 20)):
    """A CSV with four offices, a missing cell, and a class that one column gives away."""
    lines = ["hours,place,region,left"]
    for place, size in zip(("North Bay", "Lund", "Brno", "Alba"), sizes, strict=True):
        lines += [
            f"{(i * 7) % 50},{place},{'ab'[i % 2]},{int((i * 7) % 50 > 20)}" for i in range(size)
        ]
    lines[3] = ",Lund,a,1"
    (tmp_path / "own.csv").write_text("\n".join(lines))
    return study.data.open_table(str(tmp_path / "own.csv"), target="left", missing="median")


def test_an_own_table_trains_in_the_offices_that_hold_it(tmp_path):
    source = own_table(tmp_path)
    windows, provenance, counts = study.own_table(source, target="left", office="place", seed=1)
    assert (provenance["kind"], counts) == ("own", False)
    assert windows.X.shape == (140, 3)  # hours, region_a, region_b: the office is no feature
    s = study.fitted(settings(rounds=8, replicates=1, naive_sample=2), windows)
    assert (s.network.sizes[0], s.network.sizes[-1]) == (3, 2)
    split = s.divide(windows)
    assert [o.name for o in split] == ["Alba", "Brno", "Lund", "North Bay"]
    assert [o.n + len(o.y_test) for o in split] == [20, 20, 41, 59]
    assert study.holdings(split, windows.classes).columns[-1] == "left"
    rows = study.simulate(s, windows)
    assert np.isfinite(rows["value"]).all()
    assert study.numbers(rows)["offices"] == 4
    assert study.numbers(rows)["federated"] > 0.8
    assert "4 offices reach" in study.headline(rows, generated=False).text
    assert [c.text for c in study.takeaways(rows)]


def test_stated_bounds_and_not_the_rows_scale_an_own_table(tmp_path, rows):
    own_table(tmp_path)
    (tmp_path / "bounds.toml").write_text('hours = [0, 99]\nregion = ["a", "b"]\n')
    how = {"target": "left", "missing": "median", "bounds": str(tmp_path / "bounds.toml")}
    source = study.data.open_table(str(tmp_path / "own.csv"), **how)
    windows, *_ = study.own_table(source, target="left", office="place", seed=1)
    (office, *_) = study.fitted(settings(), windows).divide(windows)
    x = (np.unique(windows.X[windows.holders == 0, 0]) - 49.5) / (99 / np.sqrt(12))
    assert set(np.unique(np.r_[office.X[:, 0], office.X_test[:, 0]])) <= set(x)
    lines = (tmp_path / "own.csv").read_text().splitlines()
    (tmp_path / "own.csv").write_text("\n".join(lines[:-5]))  # other rows, the same scale
    source = study.data.open_table(str(tmp_path / "own.csv"), **how)
    fewer, *_ = study.own_table(source, target="left", office="place", seed=1)
    np.testing.assert_array_equal(fewer.stated, windows.stated)
    assert "not charged" in study.privacy(rows, delta=1e-5)[1]
    assert "stated bounds" in study.privacy(rows, delta=1e-5, stated=True)[1]


def test_without_a_column_of_offices_rows_are_divided_at_random(tmp_path):
    windows, *_ = study.own_table(own_table(tmp_path), target="left", seed=1)
    split = study.fitted(settings(), windows).divide(windows)
    assert [o.name for o in split] == list(fl.OFFICES)
    assert max(o.n for o in split) - min(o.n for o in split) <= 1


@pytest.mark.parametrize(
    ("sizes", "office", "said"),
    [
        ((60, 40, 9, 9), "place", "Expected 4 to 20 offices of 10 records .* in place, got 4 .* 9"),
        ((60, 40, 20, 20), "town", "office is one of hours, place, region, left, got 'town'"),
        ((30, 20, 10, 10), "", "Expected 80 records or more, got 70"),
    ],
)
def test_an_own_table_without_offices_to_train_in_is_refused(tmp_path, sizes, office, said):
    with pytest.raises(ValueError, match=said):
        study.own_table(own_table(tmp_path, sizes=sizes), target="left", office=office, seed=1)


def test_holdings_count_every_training_window(windows):
    split = settings().divide(windows)
    held = study.holdings(split)
    assert held[[c.lower() for c in fl.CLASSES]].sum(axis=1).tolist() == [o.n for o in split]
