"""A cache of its own for each test, and no network."""

import pytest


@pytest.fixture(autouse=True)
def _own_places(tmp_path, monkeypatch):
    monkeypatch.setenv("PET_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PET_LAB_DATA", raising=False)
    monkeypatch.setenv("PET_LAB_OFFLINE", "1")
