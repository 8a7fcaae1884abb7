"""Samplers against exact probabilities, within one budget of false alarms for the whole file.

Every test statistic gets an equal part of `BUDGET`, so correct samplers fail this file once in a
million runs, whatever the number of tests. A biased sampler must fail: the last tests plant a bias
of a few per cent, and print the power that the sample sizes give.
"""

from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from pet_lab.dpsgd.streams import normals
from pet_lab.noise import Noise, discrete_laplace

BUDGET, TESTS = 1e-6, 14
ALPHA = BUDGET / TESTS
LAPLACE_SCALES = (Fraction(1, 2), Fraction(2), Fraction(7, 3))
SCORES, EPSILON = np.array([0.0, 1.0, 2.0, 4.0]), 1.5


def chi_square(observed, probabilities):
    """The p-value of counts against exact probabilities, cells below 10 expected joined."""
    expected = np.asarray(probabilities) * np.sum(observed)
    large = expected >= 10
    cells = [*np.asarray(observed)[large], np.sum(np.asarray(observed)[~large])]
    wanted = [*expected[large], np.sum(expected[~large])]
    if wanted[-1] < 10:  # the rest is too small to be a cell of its own
        rest_seen, rest = cells.pop(), wanted.pop()
        cells[-1] += rest_seen
        wanted[-1] += rest
    return float(stats.chisquare(cells, wanted, sum_check=False).pvalue)


def laplace_p(draws, scale):
    """The p-value of whole numbers against P(x) = (1 - q) / (1 + q) q^|x|, q = exp(-1 / scale)."""
    q, most = np.exp(-1 / float(scale)), 60
    x = np.arange(-most, most + 1)
    p = (1 - q) / (1 + q) * q ** np.abs(x)
    inside = np.clip(draws, -most, most) + most
    p[[0, -1]] += q ** (most + 1) / (1 + q)  # the tails
    return chi_square(np.bincount(inside, minlength=2 * most + 1), p)


def normal_ps(values):
    """p-values of the shape (Kolmogorov-Smirnov), mean, variance and far tail of N(0, 1)."""
    n = values.size
    far, p = int((np.abs(values) > 4).sum()), 2 * stats.norm.sf(4)
    variance = stats.chi2(n).cdf(np.sum(values**2))
    return {
        "shape": stats.kstest(values, "norm").pvalue,
        "mean": 2 * stats.norm.sf(abs(values.mean()) * np.sqrt(n)),
        "variance": 2 * min(variance, 1 - variance),
        "tail": stats.binomtest(far, n, p).pvalue,
        "neighbours": 2 * stats.norm.sf(abs(values[:-1] @ values[1:]) / np.sqrt(n - 1)),
        "pairs": 2 * stats.norm.sf(abs(values[: n // 2] @ values[-(n // 2) :]) / np.sqrt(n // 2)),
    }


def exponential_p(choices):
    """The p-value of choices against P(i) proportional to exp(epsilon score_i / 2)."""
    weights = np.exp(EPSILON * SCORES / 2)
    return chi_square(np.bincount(choices, minlength=SCORES.size), weights / weights.sum())


@pytest.mark.parametrize("scale", LAPLACE_SCALES, ids=str)
def test_discrete_laplace(scale):  # 3 tests; the system's generator, so no seed
    p = laplace_p(np.array([discrete_laplace(scale) for _ in range(20_000)]), scale)
    assert p > ALPHA, p


@pytest.mark.parametrize("scale", [1.0, 3.7])
def test_normals_of_private_training(scale):  # 6 tests: both scales are one sample
    values = np.empty(200_001, np.float32)
    normals(np.random.SFC64(20240607), values, scale)
    ps = normal_ps(values.astype(float) / scale)
    assert min(ps.values()) > ALPHA, ps


@pytest.mark.parametrize("seed", [None, 11])
def test_exponential_mechanism(seed):  # 2 tests
    noise = Noise(seed)
    p = exponential_p([noise.exponential(SCORES, EPSILON) for _ in range(40_000)])
    assert p > ALPHA, p


@pytest.mark.parametrize("sigma", [1.0, 5.0])
def test_gaussian_noise_of_a_release(sigma):  # 2 tests: shape at two sizes, the library's sampler
    values = Noise(None).gaussian(sigma, 5_000)
    assert stats.kstest(values / sigma, "norm").pvalue > ALPHA


def test_every_statistic_is_counted_in_the_budget():
    """Two sizes of the same seeded normals are one sample; one test is left in reserve."""
    statistics = [*LAPLACE_SCALES, *normal_ps(np.ones(9)), *(None, 11), *(1.0, 5.0)]
    assert len(statistics) + 1 == TESTS


# --- the audit can fail ---------------------------------------------------------------------------


def power(p_value, sample, times=20):
    """Share of samples of a biased sampler that are rejected."""
    return np.mean([p_value(sample(np.random.default_rng(i))) < ALPHA for i in range(times)])


def biased_laplace(rng):
    """A scale of 2 that is 10 % too small: as if epsilon were that much larger."""
    q = np.exp(-1 / (2 * 0.9))
    return rng.geometric(1 - q, 20_000) - rng.geometric(1 - q, 20_000)


def biased_choice(rng):
    """The mechanism at an epsilon 10 % too large."""
    weights = np.exp(1.1 * EPSILON * SCORES / 2)
    return rng.choice(SCORES.size, 40_000, p=weights / weights.sum())


@pytest.mark.parametrize(
    ("name", "p_value", "sample"),
    [
        ("Laplace, scale 10 % small", lambda x: laplace_p(x, 2), biased_laplace),
        (
            "normals, 2 % small",
            lambda x: min(normal_ps(x).values()),
            lambda rng: 0.98 * rng.normal(size=200_001),
        ),
        (
            "normals, mean 0.02",
            lambda x: min(normal_ps(x).values()),
            lambda rng: 0.02 + rng.normal(size=200_001),
        ),
        ("choice, epsilon 10 % large", exponential_p, biased_choice),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_planted_bias_is_caught(name, p_value, sample):
    caught = power(p_value, sample, 8)
    print(f"{name}: power {caught:.2f} at a false alarm rate of {ALPHA:.1e}")
    assert caught > 0.8
