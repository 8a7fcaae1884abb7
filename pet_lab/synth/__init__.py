"""Differentially private synthetic tables: making them, and judging their utility and risk.

>>> from pet_lab import synth
>>> made = synth.synthesise(frame, epsilon=1.0, rng_seed=1)          # doctest: +SKIP
>>> synth.utility(frame, made.frame).univariate                       # doctest: +SKIP
"""

from .api import MECHANISMS, Synthetic, synthesise
from .domain import Bins
from .noise import epsilon_from_rho, rho_from_epsilon
from .quality import Utility, risk, utility

__all__ = [
    "MECHANISMS",
    "Bins",
    "Synthetic",
    "Utility",
    "epsilon_from_rho",
    "rho_from_epsilon",
    "risk",
    "synthesise",
    "utility",
]
