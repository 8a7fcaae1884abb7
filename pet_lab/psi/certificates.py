"""Former place of `pet_lab.parties.certificates`, until its callers have moved."""

from pathlib import Path

from pet_lab.files import write_atomic
from pet_lab.parties.certificates import TestAuthority, load, save  # noqa: F401


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read."""
    write_atomic(path, content, secret=True)
