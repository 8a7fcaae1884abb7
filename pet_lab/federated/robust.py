"""Averages that one dishonest office cannot move at will. They need every office's weights.

So they and encrypted adding exclude each other here: a server that only sees the sum can neither
take a median nor leave anybody out.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pet_lab.checks import require

Array = NDArray[np.float64]
Rule = Callable[[Array, Array], Array]
"""(weights (offices, parameters), shares (offices,)) -> (parameters,)"""


def mean(weights: Array, shares: Array) -> Array:
    """Weighted by shares: the rule of federated averaging."""
    return shares @ weights / shares.sum()


def median(weights: Array, shares: Array) -> Array:
    """Of each weight apart; shares do not count. D. Yin et al. (ICML 2018)."""
    return np.median(weights, axis=0)


def trimmed_mean(weights: Array, shares: Array, *, cut: int = 1) -> Array:
    """Of each weight apart, without the `cut` largest and smallest; shares do not count.

    Of four offices with cut 1 it is the median. D. Yin et al. (ICML 2018).
    """
    n = len(weights)
    require(0 <= 2 * cut < n, f"Cutting {cut} at each end leaves nothing of {n} offices.")
    return np.sort(weights, axis=0)[cut : n - cut].mean(axis=0)


def krum(weights: Array, shares: Array, *, dishonest: int = 1) -> Array:
    """The one office's weights that are closest to their n - dishonest - 2 nearest neighbours.

    P. Blanchard et al. (NeurIPS 2017), whose proof asks for n >= 2 dishonest + 3: five offices for
    one dishonest. With four it still runs, without that promise.
    """
    n = len(weights)
    nearest = n - dishonest - 2
    few = f"Krum against {dishonest} needs at least {dishonest + 3} offices, got {n}."
    require(nearest >= 1, few)
    squared = ((weights[:, None] - weights[None]) ** 2).sum(axis=2)
    np.fill_diagonal(squared, np.inf)
    scores = np.sort(squared, axis=1)[:, :nearest].sum(axis=1)
    return weights[int(np.argmin(scores))].copy()


RULES: dict[str, Rule]
RULES = {"mean": mean, "median": median, "trimmed mean": trimmed_mean, "Krum": krum}
"""By name, with their defaults."""
