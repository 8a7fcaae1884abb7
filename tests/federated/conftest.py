"""Small federations that train in a blink."""

import numpy as np
import pytest

from pet_lab import federated as fl
from pet_lab import paillier


@pytest.fixture(scope="session")
def data():
    frame, _ = fl.stand_in(np.random.default_rng(1), people=14, seconds=8)
    return fl.windows(frame)


@pytest.fixture(scope="session")
def offices(data):
    return fl.divide(data, rng=np.random.default_rng(2))


@pytest.fixture(scope="session")
def network():
    return fl.Network((147, 12, 6))


@pytest.fixture(scope="session")
def training():
    return fl.LocalTraining(learning_rate=0.02)


@pytest.fixture(scope="session")
def key():
    return paillier.generate(512, for_tests=True)


@pytest.fixture(scope="session")
def encrypted(key, network):
    return fl.Paillier.of(key, network.parameters, offices=4)
