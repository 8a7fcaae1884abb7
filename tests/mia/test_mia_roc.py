"""ROC steps: by definition, by textbook, by calibration."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from pet_lab import mia

# Few distinct values, so that ties are the rule.
scores = st.lists(
    st.one_of(st.integers(-4, 4).map(float), st.sampled_from([-np.inf, np.inf])),
    min_size=1,
    max_size=30,
)


def tpr_by_definition(members, nonmembers, fpr):
    """Best share of members over all thresholds whose share of non-members is allowed."""
    best = 1.0 if fpr >= 1 else 0.0
    for t in [*members, *nonmembers]:
        if np.mean(np.array(nonmembers) > t) <= fpr + 1e-12:
            best = max(best, np.mean(np.array(members) > t))
    return best


@given(scores, scores, st.integers(0, 40))
def test_tpr_is_the_best_over_all_allowed_thresholds(members, nonmembers, k):
    fpr = min(k / len(nonmembers), 1)
    got = mia.tpr_at_fpr(members, nonmembers, fpr=fpr)
    assert got == tpr_by_definition(members, nonmembers, fpr)
    assert mia.roc(members, nonmembers).tpr_at(fpr) == pytest.approx(got)


@given(scores, scores)
def test_auc_counts_pairs_and_half_of_ties(members, nonmembers):
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in members for b in nonmembers]
    assert mia.auc(members, nonmembers) == pytest.approx(np.mean(pairs))
    curve = mia.roc(members, nonmembers)  # across a tie a straight line, which counts it half
    assert integrate.trapezoid(curve.tpr, curve.fpr) == pytest.approx(np.mean(pairs))


@given(scores, scores)
def test_advantage_is_the_largest_gap_at_any_threshold(members, nonmembers):
    m, n = np.array(members), np.array(nonmembers)
    gaps = [np.mean(m > t) - np.mean(n > t) for t in [*m, *n]]
    assert mia.advantage(members, nonmembers) == pytest.approx(max(0.0, *gaps))


@given(scores, scores)
def test_the_curve_runs_from_nobody_to_everybody_and_never_back(members, nonmembers):
    curve = mia.roc(members, nonmembers)
    assert (curve.fpr[0], curve.tpr[0], curve.fpr[-1], curve.tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(curve.fpr) >= 0).all()
    assert (np.diff(curve.tpr) >= 0).all()


def test_gaussian_shift_has_the_textbook_roc():
    n, shift, fpr = 200_000, 1.0, 0.001
    rng = np.random.default_rng(7)
    got = mia.tpr_at_fpr(rng.normal(shift, 1, n), rng.normal(0, 1, n), fpr=fpr)
    cut = stats.norm.isf(fpr)
    want = stats.norm.sf(cut - shift)
    slope = stats.norm.pdf(cut - shift) / stats.norm.pdf(cut)  # d tpr / d fpr
    se = np.hypot(slope * np.sqrt(fpr * (1 - fpr) / n), np.sqrt(want * (1 - want) / n))
    assert abs(got - want) < 4 * se


def test_gaussian_shift_has_the_textbook_auc_and_advantage():
    n, shift = 100_000, 0.8
    rng = np.random.default_rng(3)
    members, nonmembers = rng.normal(shift, 1, n), rng.normal(0, 1, n)
    area = stats.norm.cdf(shift / np.sqrt(2))
    se = np.sqrt(area * (1 - area) / n) * 1.5  # Hanley-McNeil stays below 1.5 of the binomial's
    assert abs(mia.auc(members, nonmembers) - area) < 4 * se
    gap = 2 * stats.norm.cdf(shift / 2) - 1
    # Each empirical distribution is off by more than this with probability 2e-4 (Massart).
    width = 2 * np.sqrt(np.log(1e4) / (2 * n))
    assert abs(mia.advantage(members, nonmembers) - gap) < width


@pytest.mark.parametrize(("n_members", "n_nonmembers"), [(12, 20), (60, 25)])
@pytest.mark.parametrize("shift", [0.0, 0.8, 1.5])
def test_auc_interval_covers(n_members, n_nonmembers, shift):
    rng = np.random.default_rng(11)
    want = stats.norm.cdf(shift / np.sqrt(2))
    draws = 800
    hits = 0
    for _ in range(draws):
        value = mia.auc(rng.normal(shift, 1, n_members), rng.normal(0, 1, n_nonmembers))
        low, high = mia.auc_interval(value, n_members, n_nonmembers)
        hits += low <= want <= high
    # The method is approximate: its own study finds 0.94 to 0.97. Four standard errors below 0.94.
    assert hits / draws > 0.94 - 4 * np.sqrt(0.95 * 0.05 / draws)


def test_auc_interval_at_perfect_separation_is_not_a_point():
    low, high = mia.auc_interval(1.0, 10, 10)
    assert high == 1
    assert 0.6 < low < 0.95


def test_the_frame_of_a_curve_is_its_step_function():
    rng = np.random.default_rng(0)
    curve = mia.roc(rng.normal(1, 1, 300), rng.normal(0, 1, 200))
    frame = curve.frame()
    assert (frame["fpr"].iloc[0], frame["fpr"].iloc[-1]) == pytest.approx((1 / 200, 1))
    assert frame["tpr"].tolist() == [curve.tpr_at(f) for f in frame["fpr"]]
    assert (frame["tpr"].diff().dropna() >= 0).all()
    assert curve.smallest_fpr == 1 / 200


def test_chance_has_the_moments_of_random_orders():
    rng = np.random.default_rng(2)
    draws = mia.chance_advantage(4, 7, rng=rng, draws=20_000)
    # All 330 orders of 4 members among 11 records, each equally likely.
    from itertools import combinations

    exact = []
    for places in combinations(range(11), 4):
        member = np.isin(np.arange(11), places)
        exact.append(max(0, np.where(member, 1 / 4, -1 / 7).cumsum().max()))
    assert abs(draws.mean() - np.mean(exact)) < 4 * np.std(exact) / np.sqrt(draws.size)
    areas = [mia.auc(rng.random(4), rng.random(7)) for _ in range(4000)]
    assert mia.chance_auc_sd(4, 7) == pytest.approx(0.189, abs=5e-4)
    assert np.std(areas) == pytest.approx(mia.chance_auc_sd(4, 7), rel=4 / np.sqrt(2 * 4000))


def test_published_class_0_cells_are_fractions_of_4_against_7():
    # Printed AUC and advantage of figure 3.10, row 2, and of table 3.4: multiples of 1/28.
    for value in (0.8929, 0.9643, 0.6786, 0.75, 0.8571, 0.3571, 0.73214, 0.42857):
        decimals = 5 if value in (0.73214, 0.42857) else 4
        assert round(round(value * 56) / 56, decimals) == value


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mia.auc([], [1.0]), "at least one member score"),
        (lambda: mia.auc([1.0], []), "at least one non-member score"),
        (lambda: mia.roc([1.0, np.nan], [0.0]), "1 of 2 member scores are NaN"),
        (lambda: mia.roc([[1.0]], [0.0]), "one-dimensional"),
        (
            lambda: mia.tpr_at_fpr([1.0], [0.0], fpr=5),
            "fpr is a number from 0 to 1, got 5; for 0.1 % pass 0.001",
        ),
        (lambda: mia.auc_interval(1.2, 3, 3), "value is a number from 0 to 1"),
        (lambda: mia.auc_interval(0.5, 0, 3), "n_members is a whole number of at least 1, got 0"),
        (lambda: mia.auc_interval(0.5, 3, 3, confidence=95), "0.95"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
