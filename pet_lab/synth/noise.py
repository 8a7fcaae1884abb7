"""Budgets in zero-concentrated differential privacy, and where the noise comes from."""

from __future__ import annotations

import math
import secrets

import numpy as np

__all__ = ["Noise", "epsilon_from_rho", "rho_from_epsilon"]


def epsilon_from_rho(rho: float, delta: float) -> float:
    """The least epsilon for which rho-zCDP gives (epsilon, delta)-DP by the bound below.

    Source: Canonne, Kamath, Steinke, arXiv:2004.00010, proposition 12: delta is at most
    ``min over a > 1 of exp((a - 1)(a rho - epsilon)) / (a - 1) * (1 - 1/a)^a``.
    """
    if not (rho >= 0 and 0 < delta < 1):
        raise ValueError(f"rho must be >= 0 and delta in (0, 1), got {rho} and {delta}.")
    if rho == 0:
        return 0.0
    from scipy import optimize

    def epsilon_at(log_gap: float) -> float:
        a = 1 + math.exp(log_gap)
        return a * rho + (a * math.log1p(-1 / a) - math.log((a - 1) * delta)) / (a - 1)

    best = optimize.minimize_scalar(epsilon_at, bounds=(-20, 20), method="bounded")
    return max(0.0, float(best.fun))


def rho_from_epsilon(epsilon: float, delta: float) -> float:
    """The largest rho whose `epsilon_from_rho` does not exceed `epsilon`.

    Raises
    ------
    ValueError
        If epsilon is not positive or delta is outside (0, 1).
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}.")
    if not 0 < delta < 1:
        raise ValueError(f"delta must be in (0, 1), got {delta}; 1e-5 is usual for small tables.")
    low, high = 0.0, epsilon + 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if epsilon_from_rho(middle, delta) <= epsilon:
            low = middle
        else:
            high = middle
    return low


class Noise:
    """Random streams of one fit: noise, private choices, and the drawing of rows.

    With a seed, all three are numpy streams: results can be repeated, and whoever knows the seed
    can subtract the noise. That is for experiments. Without a seed (None), noise is opendp's
    Gaussian mechanism on the operating system's generator (exact sampling, no floating-point
    attack) and choices use `secrets`: that is for a table that leaves the house.
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
