"""Base rates, groups and single predictions."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pet_lab.studies import fairness_and_fallacies as study

RATE = st.floats(0.05, 0.95)


def test_the_lectures_example():
    rows = study.base_rates(prevalences=[0.001], true_positive_rates=[1.0], fpr=0.05)
    assert rows["value"].tolist() == pytest.approx([100 * 0.001 / 0.05095])


@pytest.mark.parametrize("bad", [(0.0, 1.0, 0.05), (0.1, 1.2, 0.05), (0.1, 1.0, 5.0)])
def test_rates_are_shares(bad):
    prevalence, tpr, fpr = bad
    with pytest.raises(ValueError, match=r"Expected shares.*5 % is 0\.05"):
        study.base_rates(prevalences=[prevalence], true_positive_rates=[tpr], fpr=fpr)


@given(RATE, RATE, RATE)
def test_the_forced_rate_is_what_a_table_of_counts_has(base_rate, ppv, fnr):
    """By definition: build the table from base rate, FNR and PPV, and read its FPR."""
    true_positives = base_rate * (1 - fnr)
    false_positives = true_positives * (1 - ppv) / ppv
    got = study.forced_fpr(base_rate, ppv=ppv, fnr=fnr)
    assert got == pytest.approx(false_positives / (1 - base_rate))


def test_a_gap_remains_exactly_where_base_rates_differ():
    rows = study.impossibility(base_rate=0.3, other_base_rates=[0.3, 0.5, 0.7])
    gaps = rows[rows["metric"] == "smallest_gap"]["value"].tolist()
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
        study.features(frame, target="y", leave_out=[], group="g")
    with pytest.raises(ValueError, match="no 'h'"):
        study.features(frame, target="y", leave_out=[], group="h")


def test_seen_and_done_agree_without_confounding_only():
    rows = study.confounded(strengths=[0.0, 0.8], people=40_000, seed=5)
    effects = rows.set_index(["confounding", "effect"])
    for strength in (0.0, 0.8):
        done = effects.loc[(strength, "done")]
        assert abs(done["value"] + 0.1) < 4 * done["se"]
    seen = effects.loc[(0.0, "seen")]
    assert abs(seen["value"] + 0.1) < 4 * seen["se"]
    # P(severe | treated) is 0.9 against 0.1: 0.4 * 0.8 - 0.1 by hand
    seen = effects.loc[(0.8, "seen")]
    assert abs(seen["value"] - 0.22) < 4 * seen["se"]


def test_what_if_finds_a_model_that_uses_the_group_and_the_proxy_that_tells_it():
    rng = np.random.default_rng(3)
    group = rng.integers(2, size=400)
    proxy = np.clip(group + rng.normal(0, 0.1, 400), 0, 1)
    X = np.column_stack([group, 1 - group, proxy, rng.random(400)])
    rows = study.single_predictions(
        X,
        group,
        np.where(group, "b", "a"),
        ["g_b", "g_a", "p", "z"],
        group="g",
        widths=[0.5, 1],
        seed=1,
    ).set_index("metric")["value"]
    assert rows["what_if"] > 0.3
    assert rows["proxy_auc"] > 0.99
    assert rows["same_sign"].iloc[0] == 1


def test_explorer_counts_people():
    shown = study.explore(prevalence_percent=0.1, tpr=1.0, fpr=0.05)
    assert shown["called rightly"] == 1000
    assert shown["called wrongly"] == 49_950
    assert shown["of those called, right (%)"] == pytest.approx(1.9627, abs=1e-4)
