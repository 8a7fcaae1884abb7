"""Base rates, groups and single predictions."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pet_lab.studies import fairness_and_fallacies as study

RATE = st.floats(0.05, 0.95)


def settings(**changes):
    frame = pd.DataFrame({"g": ["a", "b"] * 40, "x": range(80), "y": [0, 1] * 40})
    fixed = {"frame": frame, "target": "y", "group": "g", "leave_out": []}
    return study.Settings(**fixed | {"replicates": 1, "seed": 1} | changes)


def test_the_lectures_example():
    (_, record) = study.base_rates(settings())
    assert record["tpr"] == 1
    assert record["metrics"]["ppv_percent"] == pytest.approx(100 * 0.001 / 0.05095)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"prevalences": [0.0]}, "between 0 and 1, got 0"),
        ({"base_rates_b": [1.0]}, "between 0 and 1, got 1"),
        ({"fpr": 5.0}, r"fpr is a number from 0 to 1.*5 % is 0\.05"),
        ({"epsilons": []}, "epsilons is a list"),
        ({"replicates": 0}, "replicates is a whole number"),
        ({"frame": pd.DataFrame({"g": ["a", "b"] * 20, "y": [0, 1] * 20})}, "fill a batch of 32"),
        ({"group": "h"}, "no 'h'"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(bad, words):
    with pytest.raises(ValueError, match=words):
        settings(**bad)


@given(RATE, RATE, RATE)
def test_the_forced_rate_is_what_a_table_of_counts_has(base_rate, ppv, fnr):
    """By definition: build the table from base rate, FNR and PPV, and read its FPR."""
    true_positives = base_rate * (1 - fnr)
    false_positives = true_positives * (1 - ppv) / ppv
    got = study.forced_fpr(base_rate, ppv=ppv, fnr=fnr)
    assert got == pytest.approx(false_positives / (1 - base_rate))


def test_a_gap_remains_exactly_where_base_rates_differ():
    gaps = [study.smallest_gap(0.3, other) for other in (0.3, 0.5, 0.7)]
    assert gaps[0] == 0
    assert 0.02 < gaps[1] < gaps[2]


def test_errors_by_group_are_those_of_each_group_alone():
    y = np.array([1, 1, 0, 0, 1, 0, 0, 0])
    answers = np.array([1, 0, 1, 0, 0, 0, 0, 0])
    table = study.by_group(y, answers, np.array(list("aaaabbbb")))
    assert table.loc["a", ["base_rate", "accuracy", "fpr", "fnr", "ppv"]].tolist() == [0.5] * 5
    assert table.loc["b", ["base_rate", "fpr", "fnr"]].tolist() == [0.25, 0, 1]
    assert np.isnan(table.loc["b", "ppv"]), "nobody was called: 0/0 is no number"


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        (["a"] * 40, "two or more groups"),
        (["a"] * 39 + ["b"], r"b \(1\)"),
        (["a"] * 35 + ["b"] * 5, r"at least 10 members.*b \(5\)"),
    ],
)
def test_an_empty_or_tiny_group_is_refused(groups, sentence):
    frame = pd.DataFrame({"g": groups, "x": range(40), "y": [0, 1] * 20})
    with pytest.raises(ValueError, match=sentence):
        settings(frame=frame)


def test_seen_and_done_agree_without_confounding_only():
    effects = {
        (r["confounding"], r["effect"]): (r["metrics"][study.EFFECT], r["se"][study.EFFECT])
        for r in study.confounded([0.0, 0.8], people=40_000, seed=5)
    }
    # P(severe | treated) is 0.9 against 0.1: 0.4 * 0.8 - 0.1 by hand
    for where, want in {(0.0, "done"): -0.1, (0.8, "done"): -0.1, (0.0, "seen"): -0.1}.items():
        value, se = effects[where]
        assert abs(value - want) < 4 * se
    value, se = effects[0.8, "seen"]
    assert abs(value - 0.22) < 4 * se


def test_what_if_finds_a_model_that_uses_the_group_and_the_proxy_that_tells_it():
    rng = np.random.default_rng(3)
    group = rng.integers(2, size=400)
    proxy = np.clip(group + rng.normal(0, 0.1, 400), 0, 1)
    frame = pd.DataFrame({"g": np.where(group, "b", "a"), "p": proxy, "z": rng.random(400)})
    records = list(study.single_predictions(settings(frame=frame.assign(y=group))))
    first = records[0]["metrics"]
    assert first["what_if"] > 0.3
    assert first["proxy_auc"] > 0.99
    same_sign = [r["metrics"]["same_sign"] for r in records if "kernel_width" in r]
    assert same_sign[0] == 1


def test_explorer_counts_people():
    shown = study.explore(prevalence_percent=0.1, tpr=1.0, fpr=0.05)
    assert shown["called rightly"] == 1000
    assert shown["called wrongly"] == 49_950
    assert shown["of those called, right (%)"] == pytest.approx(1.9627, abs=1e-4)
