"""Short forms for tidy rows: nothing lost, nothing mixed."""

import math

import pandas as pd
import pytest

from pet_lab.rows import Rows, concat
from pet_lab.tidy import means, only, tidy


def test_rows_of_one_metric_are_those_added_one_by_one():
    slow = Rows(part="leak")
    slow.add(attack="exact", metrics={"bits": 8})
    slow.add(attack="noisy", metrics={"bits": 1})
    ours = tidy("bits", {"exact": 8, "noisy": 1}, by="attack", part="leak")
    pd.testing.assert_frame_equal(ours, slow.frame())


def test_only_takes_values_and_lists_and_never_what_is_missing():
    rows = pd.DataFrame({"epsilon": [1.0, 2.0, math.inf, math.nan], "metric": list("abab")})
    assert only(rows, epsilon=math.inf).index.tolist() == [2]
    assert only(rows, epsilon=[1.0, 2.0], metric="b").index.tolist() == [1]
    assert only(rows, epsilon=math.nan).empty
    assert only(rows).equals(rows)


def test_means_keep_the_group_without_a_value_of_its_column():
    one = tidy("x", {1.0: 2.0, 2.0: 5.0}, by="epsilon", replicate_of="a")
    rows = concat(
        one, tidy("x", {1.0: 4.0}, by="epsilon"), tidy("x", {math.nan: 7.0}, by="epsilon")
    )
    got = means(rows, "epsilon", metric="x")
    assert got[1.0] == pytest.approx(3.0)
    assert got[2.0] == 5.0
    assert got[math.nan] == 7.0
