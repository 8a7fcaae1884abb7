"""Data: registered sets with checked content, a user's own tables, features and hold-out.

>>> from pet_lab import data
>>> dataset = data.load("student_mat", stand_in=True)
>>> encoded = data.encode(dataset.frame, target=data.student.TARGET)
"""

# ruff: noqa: F401 - the package's face
from . import hapt, shipped, student
from .entry import Dataset, Entry
from .errors import DataError, DataMismatch, DataMissing
from .own import Bins, Domain, cuts, ends
from .pairs import FilePair, open_pair
from .reader import Column, TableReading, read_table
from .registry import (
    REGISTRY,
    Verification,
    cache_dir,
    fetch,
    fingerprint,
    import_file,
    listing,
    load,
    verify,
)
from .scaling import scale_by_range, standardise, unit_range
from .tables import Encoded, binarise, encode, facts, open_table, positives, read_csv, split
