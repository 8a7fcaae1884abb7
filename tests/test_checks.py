"""Arguments outside their range are refused by one sentence that names them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pet_lab import checks


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf, "0.5", None])
def test_a_value_outside_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="rate is a number from 0 to 1, got"):
        checks.between(0, 1, rate=value)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "1"])
def test_positive_is_finite_and_above_zero(value: object) -> None:
    with pytest.raises(ValueError, match="sigma is a number above 0, got"):
        checks.positive(sigma=value)


@pytest.mark.parametrize("value", [1, 2.0, True, "3"])
def test_whole_numbers_have_a_floor_and_a_type(value: object) -> None:
    with pytest.raises(ValueError, match="n is a whole number of at least 2, got"):
        checks.whole(2, n=value)


def test_what_is_inside_passes_numpy_included() -> None:
    checks.between(0, 1, first=0, last=np.float32(1))
    checks.positive(sigma=np.float64(1e-300))
    checks.whole(2, n=np.int64(2))
    checks.one_of(("a", "b"), name="b")
    checks.distinct(epsilons=(1, 2))


@pytest.mark.parametrize("values", [[], [1, 1.0]])
def test_lists_are_not_empty_and_repeat_nothing(values: list[float]) -> None:
    with pytest.raises(ValueError, match="sizes is a list of 1 or more different values"):
        checks.distinct(sizes=values)


def test_a_refusal_may_be_of_another_kind_and_carry_advice() -> None:
    with pytest.raises(KeyError, match="gone"):
        checks.require(False, "gone", KeyError)
    with pytest.raises(ValueError, match=r"rule is one of a, b, got 'c'; pass a\.$"):
        checks.one_of("ab", rule="c", hint="pass a")


def test_whole_numbers_have_a_ceiling() -> None:
    checks.whole(0, seed=checks.MOST)
    with pytest.raises(
        ValueError, match=r"seed is a whole number of at most 4294967295, got .*\.$"
    ):
        checks.whole(0, seed=checks.MOST + 1)
