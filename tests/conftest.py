"""Shared fixtures: where the real data is, and what a test may do to the outside world."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the real data files, or a skip with the reason."""
    for candidate in (os.environ.get("PET_LAB_DATA"), ROOT.parent / "shared" / "data"):
        if candidate and (Path(candidate) / "student-mat.csv").is_file():
            return Path(candidate)
    pytest.skip("no real data: set PET_LAB_DATA to a folder that holds student-mat.csv")
