"""Printed similarities and false positives: sets by definition, small filters exactly, refusals."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pet_lab.studies import encodings as study
from pet_lab.workbench import published, scorecard

KEY = bytes(range(16))


def simulate(frame, **changes):
    how = {"bits": [100, 1000], "hashes": 20, "replicates": 40, "seed": 1}
    return study.simulate(frame, **how | changes)


def grams(word, n):
    return {word[i : i + n] for i in range(len(word) - n + 1)}


@given(st.text("abcde", min_size=2, max_size=8), st.text("abcde", min_size=2, max_size=8))
def test_without_collisions_it_is_dice_of_the_sets(left, right):
    a, b = grams(left, 2), grams(right, 2)
    got = study.dice(left, right, 2, key=KEY, bits=study.WIDE, hashes=1)
    assert got == pytest.approx(2 * len(a & b) / (len(a) + len(b)))


def test_false_positives_of_two_items_by_enumeration():
    """2 items, 2 hashes, 4 bits: the mean of f^2 over all 4^4 drawings, above the formula."""
    shares = [len(set(bits)) / 4 for bits in itertools.product(range(4), repeat=4)]
    exact = np.mean(np.square(shares))
    cell = {"bits": 4, "hashes": 2, "items": 2}
    rng = np.random.default_rng(3)
    drawn = [study.value("false_positive", cell, rng.bytes(16)) for _ in range(3000)]
    assert abs(np.mean(drawn) - exact) < 4 * np.std(drawn) / math.sqrt(len(drawn))
    assert exact > (1 - (3 / 4) ** 4) ** 2
    assert study.expected(4, 2, 2) == pytest.approx(exact, rel=1e-12)


def test_a_printed_rate_meets_the_mean_over_all_keys_and_filters_stand_beside_it():
    rows = simulate(published.cells("mittweida-bloom"), replicates=300)
    exact = rows[rows["metric"] == "false_positive"]
    assert len(exact) == 5
    first = exact.iloc[1]
    assert first["value"] == study.expected(16, 3, 5)
    filters = rows[rows["metric"] == "false_positive.filters"]
    mine = filters[(filters["bits"] == 16) & (filters["items"] == first["items"])]["value"]
    assert len(mine) == 300
    assert abs(mine.mean() - first["value"]) < 4 * mine.sem()


def test_percent_and_share_are_one_number():
    cell = {"bits": 50, "hashes": 3, "items": 5}
    share = study.value("false_positive", cell, KEY)
    assert study.value("false_positive_percent", cell, KEY) == pytest.approx(100 * share)


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match=r"Expected a metric of dice.*got recall"):
        study.value("recall", {}, KEY)


@pytest.mark.parametrize("changes", [{"bits": [100, 100]}, {"hashes": 0}, {"replicates": 0}])
def test_impossible_settings_are_refused(changes):
    with pytest.raises(ValueError, match="got"):
        study.check(**({"bits": [100, 1000], "hashes": 20, "replicates": 40, "seed": 1} | changes))


def test_the_shelf_s_similarities_and_the_claims():
    tables = ["the-fuzz-dice", "strsim-dice"]
    rows = simulate(published.cells(*tables, "mittweida-bloom"))
    assert set(scorecard.score(rows, tables)["verdict"]) == {"reproduced"}
    assert all(claim.holds for claim in study.takeaways(rows))
    wide = simulate(published.cells(*tables), bits=[100_000, 200_000], replicates=3)
    assert not any(claim.holds for claim in study.takeaways(wide))


def test_collisions_add_and_a_longer_filter_has_fewer():
    rows = simulate(published.cells("strsim-dice"))
    part = rows[(rows["part"] == "collisions") & (rows["pair"] == "french, quebec")]
    means = part.groupby(["metric", "bits"])["value"].mean()
    assert means["true_dice", 100] == 0
    assert means["encoded_dice", 100] > 0.5 > means["encoded_dice", 1000] > 0.02
    assert isinstance(study.explore(bits=100, hashes=20, seed=0), pd.DataFrame)
