"""Scaling by public ranges, by moments and by extremes."""

import numpy as np
import pandas as pd
import pytest

from pet_lab.data import scale_by_range, standardise, unit_range


def test_scaling_by_public_ranges():
    frame = pd.DataFrame({"mark": [0, 10, 25], "urban": [True, False, True]})
    got = scale_by_range(frame, {"mark": (0, 20)})
    np.testing.assert_allclose(got, [[-1, 1], [0, -1], [1, 1]])
    natural = scale_by_range(frame, {"mark": (0, 20)}, units={})
    np.testing.assert_allclose(natural, [[-10, 0.5], [0, -0.5], [10, 0.5]])
    fifths = scale_by_range(frame, {"mark": (0, 20)}, units={"mark": 5})
    np.testing.assert_allclose(fifths[:, 0], [-2, 0, 2])
    with pytest.raises(ValueError, match="column 'mark' has values other than 0 and 1"):
        scale_by_range(frame, {})
    with pytest.raises(ValueError, match="must rise"):
        scale_by_range(frame, {"mark": (20, 0)})
    with pytest.raises(ValueError, match="unit of 'mark' must be > 0"):
        scale_by_range(frame, {"mark": (0, 20)}, units={"mark": 0})
    with pytest.raises(ValueError, match="missing values"):
        scale_by_range(pd.DataFrame({"mark": [np.nan]}), {"mark": (0, 20)})


def test_moments_and_extremes_are_those_of_the_reference():
    X = np.array([[1.0, 5.0], [3.0, 5.0]])
    np.testing.assert_allclose(standardise(X), [[-1, 0], [1, 0]])
    np.testing.assert_allclose(standardise(X + 2, X), [[1, 2], [3, 2]])
    np.testing.assert_allclose(unit_range(X), [[0, 0], [1, 0]])
    np.testing.assert_allclose(unit_range(X + 2, X), [[1, 2], [2, 2]])
