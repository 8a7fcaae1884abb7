"""Differentially private training of small networks, many at once.

`train(X, y, config, seeds=[...])` trains one replica per seed, all as one NumPy program, or, with
engine="tensorflow-privacy", by that library's optimisers; `agreement` holds one against the other.
"""

from pet_lab.dpsgd.agreement import agreement
from pet_lab.dpsgd.config import Config
from pet_lab.dpsgd.training import Training, train

__all__ = ["Config", "Training", "agreement", "train"]
