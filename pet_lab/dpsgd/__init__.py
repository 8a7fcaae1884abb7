"""Differentially private training of small networks: one function, two engines.

`train(X, y, config, seeds=[...])` trains one replica per seed. The engine "batched" (default) runs
all replicas as one NumPy program; "tensorflow-privacy" is the reference that it is tested against.
Importing this package loads neither TensorFlow nor JAX.
"""

from pet_lab.dpsgd.config import ENGINES, Config
from pet_lab.dpsgd.training import Training, train

__all__ = ["ENGINES", "Config", "Training", "train"]
