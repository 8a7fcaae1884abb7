"""The files of two owners."""

import pytest
from mpc_examples import X, Y, people

from pet_lab.mpc.service import Owned


@pytest.fixture(scope="session")
def tables():
    return people(24, seed=5)


@pytest.fixture(scope="session")
def owned(tables):
    return {"px": Owned(tables[0], X), "py": Owned(tables[1], Y)}
