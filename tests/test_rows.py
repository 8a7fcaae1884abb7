"""The two small records that studies and workbench share: tidy rows, and claims about them."""

import math

import numpy as np
import pandas as pd
import pytest

from pet_lab.rows import OPEN, Claim, Rows, concat, means, only, streams, summarise, tidy, wide

GOOD = [
    {"eps": 1.0, "way": "a", "replicate": r, "metric": m, "value": v}
    for r, m, v in [(0, "acc", 0.5), (0, "tpr", 1), (1, "acc", 0.7), (1, "tpr", 2)]
]


def changed(**columns):
    return pd.DataFrame(GOOD).assign(**columns)


def test_rows_carry_their_factors_and_errors():
    rows = Rows(reading="described")
    rows.add(metrics={"a": 1, "b": 2}, se={"b": 0.5}, eps=1.0)
    rows.add(metrics={"a": 3}, replicate=1, way="x")
    frame = rows.frame()
    assert len(rows) == len(frame) == 3
    assert set(frame["reading"]) == {"described"}
    assert frame["value"].tolist() == [1, 2, 3]
    assert frame["way"].tolist() == ["", "", "x"]
    assert frame["eps"].isna().tolist() == [False, False, True]
    assert frame["se"].isna().tolist() == [True, False, True]


def test_parts_lie_under_one_another_and_empty_ones_leave_no_trace():
    frame = concat(changed(), pd.DataFrame(), changed().drop(columns="way"))
    assert frame["way"].tolist() == ["a"] * 4 + [""] * 4
    assert frame.index.tolist() == list(range(8))


def test_a_replicate_has_the_same_stream_alone_and_in_a_batch():
    def draws(replicates):
        return {r: np.random.default_rng(s).integers(2**60) for r, s in streams(7, replicates)}

    many = draws(5)
    assert len(set(many.values())) == 5
    assert draws(2) == {0: many[0], 1: many[1]}


def test_a_wide_table_has_means_in_the_order_of_the_rows():
    table = wide(changed(), index="eps")
    assert table.columns.tolist() == ["eps", "acc", "tpr"]
    assert table.iloc[0].tolist() == pytest.approx([1.0, 0.6, 1.5])


def test_a_claim_that_does_not_hold_never_reads_as_if_it_did():
    claim = Claim(
        "It reaches {best:.0%}.", holds=False, otherwise="It stops at {best:.0%}.", best=0.5
    )
    assert claim.text == "It stops at 50%."
    assert not claim.holds
    assert Claim("It reaches {best:.0%}.", holds=np.bool_(True), best=0.5).text == "It reaches 50%."
    assert Claim("It holds.", holds=False).text == "Not here: It holds."


# --- summarise ---------------------------------------------------------------------------------


def test_a_claim_whose_number_is_missing_says_so_instead_of_nan():
    for holds in (True, False):
        claim = Claim("{a:.0%} of {b:g} at ε = {c:g}.", holds=holds, a=math.nan, b=2, c=math.inf)
        assert not claim.holds
        assert claim.text == f"{OPEN}: – of 2 at ε = ∞."
    assert Claim("In Nancy, infrared.").text == "In Nancy, infrared."
    given = Claim("{best} is best.", best="0.5 ± nan")
    assert (given.text, given.holds) == (f"{OPEN}: 0.5 ± – is best.", False)


def test_mean_and_standard_error_by_their_definition():
    table = summarise(pd.DataFrame(GOOD), ["eps", "metric"]).set_index("metric")
    sd = np.std([0.5, 0.7], ddof=1)
    assert table.loc["acc", "mean"] == pytest.approx(0.6)
    assert table.loc["acc", "sd"] == pytest.approx(sd)
    assert table.loc["acc", "se"] == pytest.approx(sd / np.sqrt(2))
    assert table.loc["acc", "n"] == 2


def test_a_single_row_brings_its_own_error():
    rows = pd.DataFrame(
        {
            "metric": ["a", "b", "b"],
            "replicate": [0, 0, 1],
            "value": [1.0, 2.0, 4.0],
            "se": [0.25, np.nan, np.nan],
            "replicates_n": [100, 1, 1],
        }
    )
    table = summarise(rows, "metric").set_index("metric")
    assert table.loc["a", "se"] == 0.25
    assert table.loc["a", "n"] == 100
    assert table.loc["b", "se"] == pytest.approx(1.0)
    assert table.loc["b", "n"] == 2


def test_missing_factors_are_a_group_of_their_own():
    rows = changed(eps=[1.0, np.nan, 1.0, np.nan])
    assert len(summarise(rows, ["eps", "metric"])) == 2


def test_mixing_metrics_is_refused():
    with pytest.raises(ValueError, match="2 values of metric"):
        summarise(pd.DataFrame(GOOD), "eps")
    with pytest.raises(ValueError, match="no column epsilon"):
        summarise(pd.DataFrame(GOOD), "epsilon")


# --- short forms: of one metric, some rows, their means ----------------------------------------


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
