"""Attacks on a synthetic table."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pet_lab import mia

points = hnp.arrays(float, (7, 3), elements=st.floats(-5, 5))


@given(points, points)
def test_distances_by_definition(a, b):
    want = [np.sqrt(((x - b) ** 2).sum(axis=1)).min() for x in a]
    np.testing.assert_allclose(-mia.closeness_scores(a, b), want, atol=1e-6)


def test_a_table_that_copies_its_records_gives_them_away():
    rng = np.random.default_rng(0)
    members, others, reference = (rng.normal(size=(100, 4)) for _ in range(3))
    leaky = members + rng.normal(0, 0.05, members.shape)
    for score in (
        mia.closeness_scores,
        lambda r, t: mia.density_ratio_scores(r, t, reference),
    ):
        assert mia.auc(score(members, leaky), score(others, leaky)) > 0.95


def test_a_table_of_fresh_records_gives_nothing_away():
    rng = np.random.default_rng(1)
    members, others, reference, fresh = (rng.normal(size=(300, 4)) for _ in range(4))
    got = mia.auc(
        mia.density_ratio_scores(members, fresh, reference),
        mia.density_ratio_scores(others, fresh, reference),
    )
    assert abs(got - 0.5) < 4 * mia.chance_auc_sd(300, 300)


def test_density_sees_through_common_records():
    # Half of the population sits on one common profile; only rare members are copied. The plain
    # distance calls every common record a member, the density ratio does not.
    rng = np.random.default_rng(2)
    common = np.zeros((200, 3)) + rng.normal(0, 0.02, (200, 3))
    rare = rng.normal(0, 4, (100, 3))
    synthetic = np.concatenate([common[:100], rare + rng.normal(0, 0.1, rare.shape)])
    reference = np.concatenate([common[100:150], rng.normal(0, 4, (50, 3))])
    outsiders = np.concatenate([common[150:], rng.normal(0, 4, (50, 3))])
    plain = mia.auc(
        mia.closeness_scores(rare, synthetic), mia.closeness_scores(outsiders, synthetic)
    )
    ratio = mia.auc(
        mia.density_ratio_scores(rare, synthetic, reference),
        mia.density_ratio_scores(outsiders, synthetic, reference),
    )
    assert ratio > plain + 0.1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((np.zeros((3, 2)), np.zeros((3, 4))), "same columns"),
        ((np.zeros((0, 2)), np.zeros((3, 2))), "got 0 and 3"),
        ((np.full((1, 2), np.nan), np.zeros((3, 2))), "complete"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(args, words):
    with pytest.raises(ValueError, match=words):
        mia.closeness_scores(*args)
