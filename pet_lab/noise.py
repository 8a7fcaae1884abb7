"""Where noise comes from: exact samplers on the system's generator, and seeded streams.

Exact sampling matters for a release: the gaps between floating-point numbers tell a reader which
values noise cannot have produced (Mironov 2012, "On significance of the least significant bits for
differential privacy"). Seeded noise is for experiments that others repeat.
"""

import secrets
from fractions import Fraction

import numpy as np

from pet_lab import checks


def discrete_laplace(scale: Fraction) -> int:
    """One draw with P(x) proportional to exp(-|x| / scale), exact, from the system's CSPRNG.

    With scale = sensitivity / epsilon, a whole number plus one draw is epsilon-private. Standard
    deviation: about sqrt(2) scale. Source: Canonne, Kamath, Steinke 2020, arXiv:2004.00010,
    algorithms 1 and 2.
    """
    checks.positive(scale=scale)
    t, s = scale.numerator, scale.denominator
    while True:
        u = secrets.randbelow(t)
        if not _bernoulli_exp(Fraction(u, t)):
            continue
        v = 0
        while _bernoulli_exp(Fraction(1)):
            v += 1
        size = (u + t * v) // s
        negative = secrets.randbelow(2) == 1
        if not (negative and size == 0):
            return -size if negative else size


def _bernoulli_exp(gamma: Fraction) -> bool:
    """True with probability exp(-gamma), for gamma in [0, 1], exactly."""
    k = 1
    while secrets.randbelow(gamma.denominator * k) < gamma.numerator:
        k += 1
    return k % 2 == 1


class Noise:
    """Random streams of one fit: noise, private choices, and the drawing of rows.

    With a seed, all three are numpy streams: results can be repeated, and whoever knows the seed
    can subtract the noise. That is for experiments. Without a seed (None), noise is opendp's
    Gaussian mechanism on the operating system's generator (exact sampling, no floating-point
    attack) and choices use `secrets`: that is for a table that leaves the house. No privacy depends
    on the generator `rows`.
    """

    def __init__(self, seed: int | None) -> None:
        self.seed = seed
        entropy = secrets.randbits(128) if seed is None else seed
        streams = np.random.SeedSequence(entropy).spawn(3)
        self._noise, self._choice, self.rows = (np.random.default_rng(s) for s in streams)

    def gaussian(self, sigma: float, size: int) -> np.ndarray:
        """Gaussian noise of standard deviation `sigma`, shape (size,)."""
        if self.seed is not None:
            return self._noise.normal(0.0, sigma, size)
        import opendp.prelude as dp

        dp.enable_features("contrib", "floating-point")
        space = dp.vector_domain(dp.atom_domain(T=float, nan=False)), dp.l2_distance(T=float)
        return np.asarray(dp.m.make_gaussian(*space, float(sigma))([0.0] * size))

    def exponential(self, scores: np.ndarray, epsilon: float, sensitivity: float = 1.0) -> int:
        """Exponential mechanism: position i with probability prop. to exp(eps score_i / 2 s).

        Costs epsilon^2 / 8 in zCDP (arXiv:2004.07223, bounded range).
        """
        logits = 0.5 * epsilon / sensitivity * np.asarray(scores, dtype=float)
        # The largest of logits plus Gumbel noise has just that distribution.
        if self.seed is not None:
            uniform = self._choice.random(logits.size)
        else:
            draw = secrets.SystemRandom().random
            uniform = np.array([draw() for _ in range(logits.size)])
        gumbel = -np.log(-np.log(np.clip(uniform, 1e-300, 1 - 1e-16)))
        return int(np.argmax(logits + gumbel))
