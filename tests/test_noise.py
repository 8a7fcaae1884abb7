"""Noise has the distribution that it names, exact or seeded."""

import math
from fractions import Fraction

import numpy as np
import pytest

from pet_lab.noise import Noise, discrete_laplace


def test_discrete_laplace_has_its_variance_and_its_share_of_zeros():
    scale, n = Fraction(5, 2), 4000
    draws = np.array([discrete_laplace(scale) for _ in range(n)])
    q = math.exp(-1 / float(scale))
    variance = 2 * q / (1 - q) ** 2
    # Kurtosis of the discrete Laplace is below 6 + a little: var(sample variance) < 6 var^2 / n.
    assert abs(draws.mean()) < 5 * math.sqrt(variance / n)
    assert abs(draws.var() / variance - 1) < 5 * math.sqrt(6 / n)
    zero = (1 - q) / (1 + q)
    assert abs((draws == 0).mean() - zero) < 5 * math.sqrt(zero * (1 - zero) / n)
    with pytest.raises(ValueError, match="above 0"):
        discrete_laplace(Fraction(0))


@pytest.mark.parametrize("seed", [7, None])
def test_noise_has_its_standard_deviation_and_choices_their_odds(seed):
    # opendp's exact sampler takes milliseconds per draw.
    noise, n = Noise(seed), 4000 if seed else 400
    draws = noise.gaussian(3.0, n)
    assert abs(draws.std() - 3) < 5 * 3 / np.sqrt(2 * n)
    assert abs(draws.mean()) < 5 * 3 / np.sqrt(n)
    picks = np.bincount([noise.exponential(np.array([0.0, 2.0]), 1.0) for _ in range(n)])
    p = np.e / (1 + np.e)
    assert abs(picks[1] / n - p) < 5 * np.sqrt(p * (1 - p) / n)
