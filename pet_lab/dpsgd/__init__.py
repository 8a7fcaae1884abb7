"""Differentially private training of small networks, many at once.

`train(X, y, config, seeds=[...])` trains one replica per seed, all as one NumPy program. The tests
hold it against tensorflow-privacy's optimisers, on the same initial weights and batches.
"""

from pet_lab.dpsgd.config import Config
from pet_lab.dpsgd.training import Training, train

__all__ = ["Config", "Training", "train"]
