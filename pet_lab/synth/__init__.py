"""Differentially private synthetic tables: making them, and judging their utility and risk.

>>> from pet_lab import synth
>>> made = synth.synthesise(frame, epsilon=1.0, rng_seed=1)          # doctest: +SKIP
>>> synth.utility(frame, made.frame).univariate                       # doctest: +SKIP
"""

from .api import MECHANISMS, Synthetic, synthesise
from .domain import Bins
from .quality import Utility, risk, utility

__all__ = [
    "MECHANISMS",
    "Bins",
    "Synthetic",
    "Utility",
    "risk",
    "synthesise",
    "utility",
]
