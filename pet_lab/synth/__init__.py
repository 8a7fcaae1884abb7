"""Differentially private synthetic tables: making them, and judging their utility and risk.

>>> import pandas as pd
>>> from pet_lab import synth
>>> frame = pd.DataFrame({"a": [0, 1] * 50, "b": [0, 0, 1, 1] * 25})
>>> table = synth.synthesise(frame, epsilon=10.0, rng_seed=1, cache=False)
>>> table.frame.shape
(100, 2)
>>> bool(synth.utility(frame, table.frame).univariate.max() < 0.2)
True
"""

from .api import MECHANISMS, Synthetic, synthesise
from .domain import Bins
from .quality import Utility, risk, utility

__all__ = ["MECHANISMS", "Bins", "Synthetic", "Utility", "risk", "synthesise", "utility"]
