"""LiRA: against slow twins, against the likelihood ratio that is known, and against bad input."""

import numpy as np
import pytest
from scipy import stats

from pet_lab import mia


def simulate(models, records, shift, seed, spread_in=1.0):
    """Statistics that are normal, raised by `shift` where the record was used."""
    rng = np.random.default_rng(seed)
    member = mia.random_halves(models, records, rng=rng)
    base = rng.normal(0, 3, records)  # records differ in difficulty far more than by membership
    noise = rng.normal(0, 1, (models, records))
    return base + np.where(member, shift + spread_in * noise, noise), member


def lira_by_definition(target, s, m, online, variance):
    out = np.empty(target.size)
    res_in = np.concatenate([s[m[:, i], i] - s[m[:, i], i].mean() for i in range(target.size)])
    res_out = np.concatenate([s[~m[:, i], i] - s[~m[:, i], i].mean() for i in range(target.size)])
    for i in range(target.size):
        a, b = s[m[:, i], i], s[~m[:, i], i]
        if variance == "per-example":
            sd_in, sd_out = a.std(ddof=1), b.std(ddof=1)
        else:
            sd_in = np.sqrt((res_in**2).sum() / (m.sum() - target.size))
            sd_out = np.sqrt((res_out**2).sum() / ((~m).sum() - target.size))
        log_out = stats.norm.logpdf(target[i], b.mean(), sd_out)
        if online:
            out[i] = stats.norm.logpdf(target[i], a.mean(), sd_in) - log_out
        else:
            out[i] = -stats.norm.logsf(target[i], b.mean(), sd_out)
    return out


@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("variance", ["fixed", "per-example"])
def test_the_fast_scores_are_the_slow_ones(online, variance):
    s, m = simulate(24, 15, 0.7, 3)
    each = mia.lira_leave_one_out(s, m, online=online, variance=variance)
    for r in (0, 17):
        rest = np.arange(24) != r
        want = lira_by_definition(s[r], s[rest], m[rest], online, variance)
        np.testing.assert_allclose(each[r], want, rtol=1e-7, atol=1e-9)


def test_a_score_does_not_depend_on_the_answer():
    s, m = simulate(24, 15, 0.7, 3)
    flipped = m.copy()
    flipped[5] = ~m[5]
    np.testing.assert_allclose(
        mia.lira_leave_one_out(s, flipped)[5], mia.lira_leave_one_out(s, m)[5], rtol=1e-7
    )


def test_many_shadows_reach_the_exact_likelihood_ratio():
    # With known normals the best test is a shift: AUC = Phi(shift / sqrt 2) whatever the base.
    shift = 1.0
    s, m = simulate(600, 60, shift, 5)
    scores = mia.lira_leave_one_out(s, m)
    want = stats.norm.cdf(shift / np.sqrt(2))
    got = mia.auc(scores[m], scores[~m])
    n = m.sum()
    assert abs(got - want) < 4 * np.sqrt(want * (1 - want) / n) * 1.5 + 1 / 300
    # A single threshold on the raw statistic drowns in the records' own difficulty.
    assert mia.auc(s[m], s[~m]) < got - 0.1


def test_offline_is_weaker_where_members_spread_less():
    s, m = simulate(300, 80, 0.5, 6, spread_in=0.3)
    online = mia.lira_leave_one_out(s, m)
    offline = mia.lira_leave_one_out(s, m, online=False)
    assert mia.auc(online[m], online[~m]) > mia.auc(offline[m], offline[~m]) + 0.02


def test_the_two_spreads_are_estimated_apart():
    # The research script of TensorFlow Privacy uses the members' spread for both: equal here only
    # if the spreads are equal, which they are not.
    s, m = simulate(200, 40, 0.0, 9, spread_in=0.25)
    scores = mia.lira_leave_one_out(s, m)
    assert mia.auc(scores[m], scores[~m]) > 0.7  # nothing but the spread tells them apart


def test_guessing_stays_at_one_half():
    s, m = simulate(400, 50, 0.0, 1)
    scores = mia.lira_leave_one_out(s, m)
    assert abs(mia.auc(scores[m], scores[~m]) - 0.5) < 4 * mia.chance_auc_sd(m.sum(), (~m).sum())


def test_coins_are_fair_and_independent():
    m = mia.random_halves(400, 100, rng=np.random.default_rng(0))
    assert abs(m.mean() - 0.5) < 4 * 0.5 / np.sqrt(m.size)
    assert m.sum(axis=1).std() == pytest.approx(5.0, rel=4 / np.sqrt(2 * 400))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s, m: (s, m | (np.arange(12) == 3)), "Record 3 is a non-member of 0 of 30"),
        (lambda s, m: (np.where(np.arange(30)[:, None] == 2, np.nan, s), m), "1 of 30 shadow"),
        (lambda s, m: (s[:, :4], m), "shape \\(models, records\\)"),
    ],
)
def test_bad_shadow_models_are_refused_in_a_sentence(change, words):
    s, m = change(*simulate(30, 12, 1.0, 0))
    with pytest.raises(ValueError, match=words):
        mia.lira_leave_one_out(s, m)


def test_other_bad_input():
    s, m = simulate(30, 12, 1.0, 0)
    with pytest.raises(ValueError, match="per-example"):
        mia.lira_leave_one_out(s, m, variance="both")
    with pytest.raises(ValueError, match="models is a whole number of at least 1, got 0"):
        mia.random_halves(0, 3, rng=np.random.default_rng(0))
