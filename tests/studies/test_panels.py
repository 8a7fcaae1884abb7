"""What the explore panels of the private machine learning notebooks compute and say."""

import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from scipy import integrate

from pet_lab import dpsgd, noise
from pet_lab.rows import Rows
from pet_lab.studies import (
    analytics,
    dp_training_vs_dp_data,
    equal_budget_attacks,
    federated_learning,
    membership_audit,
    membership_sweep,
    protocol,
    shadow_models,
    typos,
)

Y = np.arange(60) % 2
X = np.random.default_rng(1).random((60, 3))


@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 0.1), (1.0, 1e-5), (10.0, 0.0)])
def test_the_most_that_any_attack_reaches_is_the_area_under_the_largest_curve(epsilon, delta):
    rows = Rows(attack="a", epsilon=1.0)
    for mechanism in ("dp-sgd", "mst"):
        rows.add(mechanism=mechanism, metrics={"mia.auc": 0.6, "score.test": 0.9})
    how = {"epsilon": epsilon, "delta": delta, "attack_on": "DP data"}
    shown, claim = equal_budget_attacks.what_if(rows.frame(), **how)
    most = shown.set_index("attacked")["value"]["any attack, at most"]

    def power(alpha):  # the most powerful test at size alpha
        return min(
            delta + math.exp(epsilon) * alpha, 1 - math.exp(-epsilon) * (1 - delta - alpha), 1
        )

    kinks = [(1 - delta) / (1 + math.exp(epsilon)), 1 - delta]
    assert most == pytest.approx(integrate.quad(power, 0, 1, points=kinks)[0], abs=1e-6)
    assert set(shown["attacked"]) == {"mst: a", "any attack, at most"}
    assert "0.60" in claim.text


def test_an_attack_of_given_rates_is_right_as_often_as_counted():
    rng = np.random.default_rng(2)
    member = rng.random(200_000) < 0.75
    called = rng.random(member.size) < np.where(member, 0.6, 0.5)
    ran = Rows(target="dp-sgd", reading="described", attack_model="class0")
    ran.add(metrics={"accuracy": 0.7})
    how = {"members_caught": 0.6, "others_accused": 0.5, "held_out": 0.25}
    shown, claim = shadow_models.what_if(ran.frame(), **how)
    live = shown[shown["setting"] == "this attack"].set_index("metric")["value"]
    assert live["accuracy"] == pytest.approx((member == called).mean(), abs=0.005)
    assert live["balanced_accuracy"] == pytest.approx(0.55)
    assert "answering “member” to all for 75%" in claim.text


def test_hiding_an_office_takes_so_many_offices():
    s = federated_learning.Settings(rounds=3, replicates=1, seed=1)
    how = {"epsilon": 8.0, "rounds": 25, "weights": 8000}
    table, claim = federated_learning.what_if(s, offices=4, **how)
    enough = int(claim.text.split("it takes ")[1].split()[0])
    assert federated_learning.what_if(s, offices=enough, **how)[1].text.count("shorter than")
    assert federated_learning.what_if(s, offices=enough - 1, **how)[1].text.count("it takes")
    assert table.set_index("offices")["value"].is_monotonic_decreasing


def test_claimed_and_provable_follow_the_controls():
    base = dpsgd.Config(epochs=2, batch_size=10, sampling="poisson")
    plan = {"noise_multipliers": [1.0], "models": 16, "delta": 1e-5, "seed": 1}
    s = membership_audit.Settings(X=X, y=Y, base=base, **plan)
    ran = pd.DataFrame({"training": ["noise 1"], "metric": ["audit.claimed"], "value": [9.0]})
    how = {"epochs": 2, "batch_size": 10}
    few, said = membership_audit.what_if(s, ran, noise=1.0, trainings=16, **how)
    many, other = membership_audit.what_if(s, ran, noise=8.0, trainings=4096, **how)
    value = [t[t["training"] == "this setting"]["value"].tolist() for t in (few, many)]
    assert value[0][0] > value[1][0]
    assert value[0][1] < value[1][1]
    assert "cannot refute" in said.text
    assert "could prove up to" in other.text


def test_epsilon_is_accounted_anew_beside_the_stored_attack():
    base = dpsgd.Config(epochs=5, batch_size=10)
    s = membership_sweep.Settings(
        X=X,
        y=Y,
        base=base,
        learning_rates=[0.1],
        noise_multipliers=[0.0, 1.0],
        attacks=["LOGISTIC_REGRESSION"],
        slow_attacks=[],
        overfit_epochs=[1, 2],
        replicates=2,
        delta=1e-5,
        seed=1,
    )
    rows = Rows(reading="described", learning_rate=0.1, attack="LOGISTIC_REGRESSION")
    for z, area in ((0.0, 0.6), (1.0, 0.52)):
        rows.add(noise_multiplier=z, slice=membership_sweep.WHOLE, metrics={"mia.auc": area})
    how = {"learning_rate": 0.1, "batch_size": 10}
    short, long = (membership_sweep.what_if(s, rows.frame(), epochs=n, **how) for n in (1, 50))
    proven = [t[t["metric"] == "epsilon.proven"]["value"].item() for t, _ in (short, long)]
    assert proven[0] < proven[1]
    assert "mean AUC of 0.52" in short[1].text


def test_a_private_threshold_is_drawn_anew_where_values_are_stated():
    frame = pd.DataFrame({"a": np.arange(80) % 10, "c": ["x", "y"] * 40})
    frame["t"] = (frame["a"] > 4).astype(int)
    plan = {"epsilons": [1.0], "data_epsilons": [10.0], "delta": 1e-5, "learning_rate": 0.1}
    plan |= {"clip": 1.0, "batch_size": 8, "epochs": 1, "replicates": 1, "data_replicates": 1}
    made = {"frame": frame, "target": "t", "documented": False, "seed": 1} | plan
    stated = {"a": range(10), "c": ("x", "y")}
    rows = Rows(mechanism="mst", reading="described", epsilon=10.0)
    rows.add(metrics={"accuracy.original": 0.7})
    how = {"shown": "tables", "epsilon": 10.0, "records": 60}
    s = dp_training_vs_dp_data.Settings(stated=stated, **made)
    shown, claim = dp_training_vs_dp_data.what_if(s, rows.frame(), **how)
    assert shown.groupby("way")["value"].mean()["dp stump, 60 records"] > 0.9
    assert "is mst (70%)" in claim.text
    bare = dp_training_vs_dp_data.Settings(**made)
    assert set(dp_training_vs_dp_data.what_if(bare, rows.frame(), **how)[0]["way"]) == {"mst"}


def test_a_plan_is_the_measured_session_and_grows_in_proportion():
    rows = Rows(engine="ecdh")
    for n in (300, 1000):
        metrics = {"intersection_cpu_seconds": n / 5000, "bytes_per_element": 65.0}
        rows.add(keys=n, metrics=metrics)
    rows.add(keys=300, metrics={"message_turns": 6})
    how = {"engine": "ecdh", "megabits": 8}
    near, _ = protocol.planned(rows.frame(), keys=1000, round_trip_ms=0, **how)
    far, claim = protocol.planned(rows.frame(), keys=10_000, round_trip_ms=100, **how)
    assert near["value"].tolist() == pytest.approx([0.2, 0.13, 0])
    assert far["value"].tolist() == pytest.approx([2, 1.3, 0.3])
    assert "about 3.6 s, 56% of it computing" in claim.text
    rows.add(engine="rsa-2048", metrics={"message_turns": 5})
    assert protocol.measured(rows.frame()) == ["ecdh"], "of the other no time was measured"


def test_the_chance_that_noise_hides_a_count_is_as_often_as_drawn():
    shown, claim = analytics.noise_in_a_cell(epsilon=3.0, tables=10, records=100)
    drawn = np.abs([noise.discrete_laplace(Fraction(10, 3)) for _ in range(20_000)])
    for percent, chance in zip(shown["percent"], shown["value"], strict=True):
        se = math.sqrt(chance * (1 - chance) / drawn.size) + 1e-4
        assert (drawn > percent).mean() == pytest.approx(chance, abs=5 * se)
    said = float(claim.text.split("off by ")[1].split()[0])
    assert said == pytest.approx(math.sqrt((drawn.astype(float) ** 2).mean()), rel=0.05)


@pytest.mark.parametrize("error", [-0.05, 0.0, 0.05])
def test_formulas_of_expected_counts(error):
    how = {"share_of_typos": 0.2, "blocked_per_match": 5, "linked_by_chance": 0.05}
    shown, claim = typos.formulas(recall_error=error, **how)
    got = shown.set_index("estimator")["value"]
    assert got["linked pairs"] == pytest.approx(0.8 + 0.05 * 4 - 1)
    assert got["as described"] == pytest.approx(0.75 / (0.75 + error) - 1)
    assert got["as published"] == pytest.approx(1 / (0.8 + error) - 1)
    assert f"paragraph 23 by {got['as described']:+.1%}" in claim.text


def test_an_attack_refutes_a_claim_that_is_too_low():
    how = {"training": "noise 1", "trainings": 4096, "delta": 1e-5}
    for claimed, word in ((1.0, "would be wrong"), (9.0, "does not refute")):
        names = {"training": ["noise 1"], "metric": ["audit.claimed"], "value": [claimed]}
        ran = pd.DataFrame(names)
        shown, claim = membership_audit.provable(ran, caught=0.9, accused=0.1, **how)
        proven = shown.set_index("training")["value"]["this attack"]
        assert 1.5 < proven < math.log(0.9 / 0.1)
        assert word in claim.text
