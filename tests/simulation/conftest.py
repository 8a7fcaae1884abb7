"""Where the simulations find the examples of the rooms that they drive."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "mpc"))


@pytest.fixture
def folder(tmp_path):
    """Where files live that a schedule writes and removes: in memory where the system has that."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="pet_lab_", dir=memory) as name:
        yield Path(name)


@pytest.fixture(scope="session")
def schedules():
    """Schedules of the slow search: a thousand, by hand more (PET_LAB_SCHEDULES=10000)."""
    return int(os.environ.get("PET_LAB_SCHEDULES", "1000"))
