"""The error models: slow definition, textbook forms, and calibration over 1,000 draws."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pet_lab.linkage.neighbours import (
    NotIdentified,
    class_densities,
    fit_many,
    fit_neighbours,
    fit_overlap,
    fit_slope,
    proportion_interval,
)

DRAWS = 1000
# 95 % intervals cover between these shares in 1,000 draws unless something is wrong (4 sigma), with
# 1.5 points for the Wald approximation itself.
LOW, HIGH = 0.95 - 4 * math.sqrt(0.95 * 0.05 / DRAWS) - 0.015, 0.95 + 4 * 0.0069 + 0.015


def slow_loglik(counts, p, lambdas, alphas):
    total = 0.0
    for n in counts:
        like = 0.0
        for a, lam in zip(alphas, lambdas, strict=True):
            like += a * (1 - p) * stats.poisson.pmf(n, lam)
            if n > 0:
                like += a * p * stats.poisson.pmf(n - 1, lam)
        total += math.log(like) if like > 0 else -math.inf
    return total


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=20),
    st.floats(0, 1),
    st.lists(st.floats(0, 5), min_size=1, max_size=3),
)
def test_likelihood_is_its_slow_definition(counts, p, lambdas):
    alphas = np.arange(1, len(lambdas) + 1) / sum(range(1, len(lambdas) + 1))
    with np.errstate(divide="ignore"):
        got = np.log(class_densities(np.array(counts), p, np.array(lambdas))[0] @ alphas).sum()
    want = slow_loglik(counts, p, lambdas, alphas)
    assert got == pytest.approx(want, rel=1e-9) or (got == want == -math.inf)


def test_impossible_counts_have_probability_zero_and_not_epsilon():
    assert class_densities(np.array([3]), 0.8, np.array([0.0]))[0] == 0


def draw(rng, n, p, lam):
    return (rng.random(n) < p) + rng.poisson(lam, n)


def test_wald_intervals_of_recall_cover():
    rng = np.random.default_rng(42)
    hits = 0
    for _ in range(DRAWS):
        fit = fit_neighbours(draw(rng, 1000, 0.9, 0.5), n_other=1000, max_classes=1)
        low, high = fit.interval()
        hits += low <= 0.9 <= high
    assert LOW < hits / DRAWS < HIGH


def test_two_classes_are_found_and_cost_four_parameters():
    rng = np.random.default_rng(5)
    lam = np.where(rng.random(20_000) < 0.3, 2.0, 0.2)
    fit = fit_neighbours(draw(rng, 20_000, 0.9, lam), n_other=20_000)
    assert len(fit.lambdas) == 2
    assert fit.n_params == 4
    assert 2 * fit.n_params - 2 * fit.loglik == pytest.approx(min(fit.aics))
    assert abs(fit.recall - 0.9) < 4 * fit.recall_se
    assert abs(fit.false_links - 0.74) < 4 * fit.false_links_se + 4 * 0.83 / math.sqrt(20_000)


def test_as_published_keeps_the_model_that_its_aic_rejected():
    rng = np.random.default_rng(6)
    counts = draw(rng, 3000, 0.9, 0.4)
    ours = fit_neighbours(counts, n_other=3000)
    theirs = fit_neighbours(counts, n_other=3000, reading="published")
    assert len(ours.lambdas) == 1
    assert len(theirs.lambdas) == 2
    assert theirs.aics[-1] > theirs.aics[-2]


def test_the_fit_agrees_with_the_closed_form_of_blakely_and_salmond():
    """One class: odds of recall = sqrt(a^2 - 2 b), a = f_1 / f_0, b = f_2 / f_0 (2002)."""
    counts = draw(np.random.default_rng(7), 200_000, 0.8, 0.3)
    f = np.bincount(counts)
    a, b = f[1] / f[0], f[2] / f[0]
    odds = math.sqrt(a * a - 2 * b)
    fit = fit_neighbours(counts, n_other=1000, max_classes=1)
    assert fit.recall == pytest.approx(odds / (1 + odds), abs=4 * fit.recall_se)
    assert fit.false_links == pytest.approx(a - odds, abs=4 * fit.false_links_se)
    assert fit.fpr == fit.false_links / 999
    each = [slow_loglik([n], fit.recall, fit.lambdas, fit.alphas) for n in range(len(f))]
    assert fit.loglik == pytest.approx(f @ each)


def test_many_small_files_are_fitted_as_one_by_one():
    rng = np.random.default_rng(8)
    freq = np.stack([np.bincount(draw(rng, 100, 0.85, 0.05), minlength=6)[:6] for _ in range(60)])
    many = fit_many(freq, max_classes=1)
    for row, tally in zip(many, freq, strict=True):
        one = fit_neighbours(np.repeat(np.arange(6), tally), n_other=100, max_classes=1)
        assert row[0] == pytest.approx(one.recall, abs=2e-4)
        assert row[1] == pytest.approx(one.false_links, abs=2e-4)


def blocked_file(rng, n_blocks, p, ratio, *, mean=3.0, coverage=1.0, spread=0.0):
    """Blocked and linked neighbours of complete blocks, links drawn pair by pair."""
    mean = mean * np.exp(spread * rng.standard_normal(n_blocks) - spread**2 / 2)
    size = rng.poisson(mean)
    code = np.repeat(np.arange(n_blocks), size)
    in_b = rng.random(code.size) < coverage
    others_b = np.bincount(code[in_b], minlength=n_blocks)[code] - in_b
    keep = rng.random(code.size) < coverage
    match = rng.random(code.size) < p
    linked = in_b * match + rng.binomial(others_b, ratio)
    blocked = others_b + in_b
    strict = in_b & match & (rng.random(code.size) < 0.8)
    return blocked[keep], linked[keep], code[keep], strict[keep].astype(int), in_b[keep].mean()


def test_slope_intervals_cover_and_the_slope_is_unbiased():
    rng = np.random.default_rng(9)
    hits, errors = 0, []
    for _ in range(DRAWS):
        nb, nl, code, _, _ = blocked_file(rng, 400, 0.9, 0.3)
        fit = fit_slope(nb, nl, code)
        low, high = fit.interval()
        hits += low <= 0.9 <= high
        errors.append((fit.recall - 0.9, fit.ratio - 0.3))
    errors = np.array(errors)
    assert LOW < hits / DRAWS < HIGH
    assert np.all(np.abs(errors.mean(axis=0)) < 4 * errors.std(axis=0) / math.sqrt(DRAWS) + 5e-4)


SMALL = [(1.3, 0.95, 0.1), (3, 0.9, 0.3), (3, 0.95, 0.1), (3, 0.8, 0.05), (3, 0.99, 0.02)]


@pytest.mark.slow
@pytest.mark.parametrize(("mean", "recall", "ratio"), [*SMALL, (10, 0.95, 0.05), (3, 0.8, 0.5)])
def test_intervals_hold_their_level_in_files_of_100_records(mean, recall, ratio):
    """Sandwich errors and normal quantiles covered 70 to 86 % here."""
    rng, hits, draws = np.random.default_rng(14), 0, 400
    for _ in range(draws):
        nb, nl, code, _, _ = blocked_file(rng, int(100 / mean), recall, ratio, mean=mean)
        low, high = fit_slope(nb, nl, code).interval()
        hits += low <= recall <= high
    assert hits / draws > 0.95 - 2.6 * math.sqrt(0.95 * 0.05 / draws)


@pytest.mark.slow
@pytest.mark.parametrize(("mean", "recall", "ratio"), SMALL)
def test_other_intervals_hold_their_level_in_files_of_100_records(mean, recall, ratio):
    """Of the coverage by `fit_overlap`, and of the recall by the mixture (one class)."""
    rng, draws, hits, of_mixture = np.random.default_rng(15), 400, 0, 0
    for _ in range(draws):
        nb, nl, code, strict, _ = blocked_file(
            rng, int(125 / mean), recall, ratio, mean=mean, coverage=0.8
        )
        low, high = fit_overlap(nb, nl, code, strict=strict).interval()
        hits += low <= 0.8 <= high
        fit = fit_neighbours(draw(rng, 100, recall, ratio), n_other=100, max_classes=1)
        low, high = fit.interval()
        of_mixture += low <= recall <= high
    lowest = 0.95 - 2.6 * math.sqrt(0.95 * 0.05 / draws)
    assert hits / draws > lowest
    assert of_mixture / draws > lowest


def test_few_degrees_of_freedom_widen_by_students_quantile():
    """At 5 degrees of freedom a textbook's table says 2.571; the normal says 1.96."""
    low, high = proportion_interval(0.5, 0.01, df=5, n=10**6)
    assert 0.02570 < (high - low) / 2 < 0.0262  # the hull with Clopper-Pearson is a little wider
    # At the edge: Clopper-Pearson of 20 hits in 20 at Korn and Graubard's 20 (1.96 / 2.093)^2.
    low, high = proportion_interval(1.0, 0.0, df=19, n=20)
    assert low == pytest.approx(0.025 ** (1 / (20 * (1.96 / 2.093) ** 2)), abs=2e-4)
    assert high == 1.0


def test_the_mean_of_six_blocks_is_covered_as_often_as_is_said():
    """Six normal blocks have a t of 5 degrees of freedom; a normal quantile covers 89 %."""
    rng, draws = np.random.default_rng(17), 800
    blocks = rng.normal(0.5, 0.01, (draws, 6))
    means, errors = blocks.mean(axis=1), blocks.std(axis=1, ddof=1) / math.sqrt(6)
    ends = [proportion_interval(m, e, df=5, n=10**6) for m, e in zip(means, errors, strict=True)]
    hits = sum(low <= 0.5 <= high for low, high in ends)
    assert abs(hits / draws - 0.95) < 4 * math.sqrt(0.95 * 0.05 / draws)


def test_a_perfect_small_sample_is_not_certainty():
    """Nobody missed in 20: Clopper-Pearson's lower end is .025 ** (1 / 20), not 1."""
    blocks = np.arange(20)
    low, high = fit_slope(np.ones(20), np.ones(20), blocks).interval()
    assert low < 0.025 ** (1 / 20) < high == 1.0
    assert low == pytest.approx(0.025 ** (1 / 20), abs=0.03)
    assert fit_neighbours(np.ones(20, int), n_other=20).interval()[0] < 0.84


def test_few_blocks_or_one_that_decides_are_refused():
    nb, code = np.array([1, 2, 2, 3, 3, 3]), np.array([0, 1, 1, 2, 2, 2])
    with pytest.raises(NotIdentified, match="needs 5 or more"):
        fit_slope(nb, nb > 0, code)
    nb = np.array([2, 2] * 6 + [3, 3, 3])
    code = np.array([*np.repeat(np.arange(6), 2), 6, 6, 6])
    with pytest.raises(NotIdentified, match="rests on that block alone"):
        fit_slope(nb, nb > 0, code)


def test_standard_errors_are_the_jackknife_by_its_definition():
    rng = np.random.default_rng(16)
    nb, nl, code, _, _ = blocked_file(rng, 30, 0.9, 0.3)
    u = nb - 1.0

    def line(rows):
        design = np.stack([np.ones(rows.sum()), u[rows]], axis=1) / np.sqrt(nb[rows, None])
        return np.linalg.lstsq(design, nl[rows] / np.sqrt(nb[rows]), rcond=None)[0]

    every, k = line(code >= 0), np.unique(code).size
    away = np.stack([line(code != c) for c in np.unique(code)]) - every
    fit = fit_slope(nb, nl, code)
    assert (fit.recall, fit.ratio) == pytest.approx(tuple(every))
    assert fit.cov == pytest.approx(away.T @ away * (k - 1) / k)


def test_coverage_intervals_cover_on_heterogeneous_blocks():
    rng = np.random.default_rng(10)
    hits = 0
    for _ in range(DRAWS):
        nb, nl, code, strict, _ = blocked_file(rng, 600, 0.9, 0.3, coverage=0.8, spread=0.7)
        low, high = fit_overlap(nb, nl, code, strict=strict).interval()
        hits += low <= 0.8 <= high
    assert LOW < hits / DRAWS < HIGH


def test_overlap_recovers_recall_and_ratio_where_the_poisson_model_collapses():
    rng = np.random.default_rng(11)
    nb, nl, code, strict, covered = blocked_file(rng, 30_000, 0.9, 0.3, coverage=0.8, spread=1.0)
    fit = fit_overlap(nb, nl, code, strict=strict)
    assert fit.coverage == pytest.approx(covered, abs=4 * fit.coverage_se)
    assert fit.recall == pytest.approx(0.9, abs=4 * fit.recall_se)
    assert fit.ratio == pytest.approx(0.3, abs=0.01)
    with pytest.raises(NotIdentified):
        fit_neighbours(nb, n_other=len(nb), max_classes=1)


def test_weights_give_the_weighted_recall():
    rng = np.random.default_rng(12)
    nb, _, code, _, _ = blocked_file(rng, 20_000, 1.0, 0.0)
    heavy = rng.random(nb.size) < 0.5
    linked = (rng.random(nb.size) < np.where(heavy, 0.95, 0.65)) + rng.binomial(nb - 1, 0.2)
    fit = fit_slope(nb, linked, code, weights=np.where(heavy, 3.0, 1.0))
    want = (0.95 * 3 + 0.65) / 4
    assert fit.recall == pytest.approx(want, abs=4 * fit.recall_se)


@pytest.mark.parametrize("counts", [[0] * 50, [5] * 50])
def test_counts_that_no_model_fits_are_refused_with_the_reason(counts):
    with pytest.raises(NotIdentified, match=r"nothing to tell recall from|likelihood is flat"):
        fit_neighbours(counts, n_other=100)


def test_crowded_neighbours_have_a_flat_likelihood_and_it_is_said():
    rng = np.random.default_rng(13)
    with pytest.raises(NotIdentified, match="The likelihood is flat"):
        fit_neighbours(rng.poisson(20, 200), n_other=200)


def test_all_linked_once_is_a_perfect_recall():
    fit = fit_neighbours(np.ones(200, int), n_other=200)
    assert fit.recall == pytest.approx(1.0)
    assert fit.false_links == pytest.approx(0.0, abs=1e-6)
    assert fit.precision == pytest.approx(1.0)


def test_degrees_of_freedom_are_effective_blocks_less_one():
    """Kish's effective number, of the shares of the blocks in the variance of the recall."""
    ones, linked, each = np.ones(20), np.arange(20) < 15, np.arange(20)
    assert fit_slope(ones, linked, each).df == pytest.approx(19)
    assert fit_slope(ones, linked, each // 2).df == pytest.approx(9)
    heavy = np.where(each < 5, 3.0, 1.0)
    assert fit_slope(ones, linked, each, weights=heavy).df == pytest.approx(60**2 / 420 - 1)
    alone = np.where(each < 1, 100.0, 1.0)
    assert fit_slope(ones, linked, each, weights=alone).df == 1


def test_no_second_blocked_neighbour_means_recall_is_the_share_linked():
    fit = fit_slope(np.ones(100), np.arange(100) < 80, np.arange(100))
    assert (fit.recall, fit.ratio) == (pytest.approx(0.8), 0.0)


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: fit_neighbours([], n_other=5), ValueError, "one number of neighbours a record"),
        (lambda: fit_neighbours([0, -1], n_other=5), ValueError, "whole numbers from 0 on"),
        (lambda: fit_neighbours([0, 1.5], n_other=5), ValueError, "whole numbers from 0 on"),
        (lambda: fit_neighbours([0, 1], n_other=1), ValueError, "at least 2"),
        (lambda: fit_neighbours([0, 1], n_other=5, reading="x"), ValueError, "described"),
        (lambda: fit_slope([2, 2], [1, 1], [0, 0]), NotIdentified, "one size of block"),
        (lambda: fit_slope([0, 2], [0, 1], [0, 1]), ValueError, "use fit_overlap"),
        (lambda: fit_slope([1], [1, 1], [0]), ValueError, "one value a record"),
        (lambda: fit_overlap([1, 2], [0, 0], [0, 1]), NotIdentified, "No record is linked"),
        (
            lambda: fit_neighbours([0, 1, 1] * 50, n_other=9).interval(level=95),
            ValueError,
            "pass 0.95",
        ),
    ],
)
def test_bad_input_is_one_clear_sentence(make, error, sentence):
    with pytest.raises(error, match=sentence):
        make()
