"""Shared fixtures: where the real data is, and what a test may do to the outside world."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Tests run side by side, one a core: threads of a linear algebra library would only get in each
# other's way. Set before anything imports numpy.
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(name, "1")

# A busy machine may stall any example; how long one takes is not what these tests are about.
settings.register_profile("pet_lab", deadline=None)
settings.load_profile("pet_lab")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the real data files, or a skip with the reason."""
    for candidate in (os.environ.get("PET_LAB_DATA"), ROOT.parent / "shared" / "data"):
        if candidate and (Path(candidate) / "student-mat.csv").is_file():
            return Path(candidate)
    pytest.skip("no real data: set PET_LAB_DATA to a folder that holds student-mat.csv")
