"""A small classification task that all tests of the training engines share."""

import numpy as np
import pytest


@pytest.fixture
def small_task():
    """23 records, 6 features, both classes; 23 is no multiple of any batch size used."""
    rng = np.random.default_rng(11)
    X = rng.normal(size=(23, 6))
    y = (X[:, 0] - X[:, 1] + 0.3 * rng.normal(size=23) > 0).astype(int)
    return X, y


@pytest.fixture
def student_like():
    """316 records of 58 standardised features: the size of the report's training set."""
    rng = np.random.default_rng(12)
    X = rng.normal(size=(316, 58))
    y = (X[:, 0] + 0.5 * rng.normal(size=316) > 0).astype(int)
    return X, y
