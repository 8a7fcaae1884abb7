"""A user's own CSV, features, hold-out."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pet_lab import data

GOOD = "age,job,grade,passed\n15,cook,9,no\n16,clerk,12,yes\n17,cook,14,yes\n"


def write(tmp_path, text):
    file = tmp_path / "own.csv"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_own_csv(tmp_path, separator):
    dataset = data.read_csv(write(tmp_path, GOOD.replace(",", separator)), target="passed")
    assert dataset.provenance["kind"] == "own"
    assert not dataset.counts
    assert list(data.positives(dataset.frame, "passed")) == [0, 1, 1]
    encoded = data.encode(dataset.frame, target="grade>=13")
    assert encoded.feature_names == ("age", "job_clerk", "job_cook", "passed_no", "passed_yes")
    assert list(encoded.y) == [0, 0, 1]


@pytest.mark.parametrize(
    ("text", "target", "said"),
    [
        ("", "x", "empty"),
        ("a,b\n", "a", "only a header"),
        (GOOD, "pased", "age, job, grade, passed"),
        (GOOD, "grade", 'for example "grade>=12"'),
        (GOOD, "job>=3", "it holds text"),
        (GOOD, "grade>=abc", "number to compare"),
        (GOOD, "grade>=99", "only class 0"),
        ("a,b\n1,x\n2,x\n", "b", "same value in all 2 rows"),
        ("a,b,c\n1,x,\n2,y,NA\n,x,3\n", "b", r"missing in a \(1\), c \(2\)"),
        ("a,a\n1,2\n", "a", "more than once"),
        ("a,b\n1,2,3\n", "a", "got 3 in line 2"),
        ("job,y\ncook,0\nclerk,1\nsmith,0\n", "job", 'for example "job==smith"'),
    ],
)
def test_bad_csv_is_refused_with_the_way_out(tmp_path, text, target, said):
    with pytest.raises(data.DataError, match=said):
        data.read_csv(write(tmp_path, text), target=target)


def test_absent_and_binary_files(tmp_path):
    with pytest.raises(data.DataMissing):
        data.read_csv(tmp_path / "absent.csv", target="x")
    file = tmp_path / "x.csv"
    file.write_bytes(b"\x89PNG\x00\xff")
    with pytest.raises(data.DataError, match="UTF-8"):
        data.read_csv(file, target="x")


def test_binarise_makes_a_column_that_its_own_name_targets():
    frame = pd.DataFrame({"x": [1, 2, 3], "G3": [9, 10, 11], "z": list("aba")})
    made = data.binarise(frame, "G3>=10")
    assert list(made.columns) == ["x", "G3>=10", "z"]
    for target in ("G3>=10",):
        assert np.array_equal(
            data.encode(made, target=target).X, data.encode(frame, target=target).X
        )
        assert list(data.positives(made, target)) == [0, 1, 1]


def test_encoding_like_another_fills_absent_levels_and_refuses_new_ones():
    full = data.encode(pd.DataFrame({"c": list("abc"), "y": [0, 1, 0]}), target="y")
    part = data.encode(pd.DataFrame({"c": list("aac"), "y": [0, 1, 0]}), target="y", like=full)
    assert part.feature_names == full.feature_names
    assert part.X[:, 1].sum() == 0
    with pytest.raises(data.DataError, match="c_d"):
        data.encode(pd.DataFrame({"c": list("ad"), "y": [0, 1]}), target="y", like=full)


def test_a_wide_table_is_encoded_in_time_that_grows_with_its_width():
    frame = pd.DataFrame(np.ones((2, 20_000)), columns=[f"c{i}" for i in range(20_000)])
    start = time.process_time()
    full = data.encode(frame.assign(y=[0, 1]), target="y")
    data.encode(frame.assign(y=[0, 1]), target="y", like=full)
    assert time.process_time() - start < 10  # comparing each name with each takes a minute
    assert full.X.shape == (2, 20_000)


CASES = Path(__file__).resolve().parents[1] / "cases"


@pytest.mark.parametrize(
    ("file", "target", "features"),
    [
        ("decimal_comma.csv", "income>=50000", 8),
        ("thousands_feature.csv", "poor", 9),
        ("semicolon_comma_header.csv", "income>=50000", 8),
        ("dummy_collision.csv", "income>=50000", 5),
        ("all_text.csv", "cls", None),
        ("rare_class.csv", "event", None),
        ("dollar_names.csv", "income>=50000", 8),
        ("operator_names.csv", "hours<40>=40", 8),
        ("operator_names.csv", "income >= 50000", 8),
    ],
)
def test_files_that_broke_something(file, target, features):
    dataset = data.read_csv(CASES / file, target=target)
    encoded = data.encode(dataset.frame, target=target)
    assert len(set(encoded.feature_names)) == encoded.X.shape[1]
    if features is not None:
        assert encoded.X.shape[1] == features


def test_missing_marks_are_named():
    with pytest.raises(data.DataError, match=r"missing_colon\.csv: .*missing in hours \(2\)"):
        data.read_csv(CASES / "missing_colon.csv", target="income>=50000")


def test_names_of_dummies_never_collide_and_a_poorer_table_keeps_them():
    frame = data.read_csv(CASES / "dummy_collision.csv", target="income>=50000").frame
    full = data.encode(frame, target="income>=50000")
    assert {"job=y_z", "job_y=z"} <= set(full.feature_names)
    part = frame[frame["job"] == "x"]
    poor = data.encode(part, target="income>=50000", like=full)
    assert poor.feature_names == full.feature_names
    at = full.features.index(("job", "y_z"))
    assert full.X[:, at].sum() == (frame["job"] == "y_z").sum() > 0
    assert poor.X[:, at].sum() == 0


def test_a_comparison_with_a_large_integer_is_exact():
    frame = pd.DataFrame({"id": [2**53, 2**53 + 1, 2**53 + 2], "x": [1, 2, 3]})
    assert list(data.positives(frame, f"id=={2**53 + 1}")) == [0, 1, 0]
    assert list(data.positives(frame, f"id>{2**53}")) == [0, 1, 1]


def test_dates_become_year_month_and_day(tmp_path):
    file = write(tmp_path, "day,y\n2020-02-29,0\n2021-12-01,1\n")
    dataset = data.read_csv(file, target="y")
    encoded = data.encode(dataset.frame, target="y")
    assert encoded.feature_names == ("day (year)", "day (month)", "day (day)")
    assert encoded.X.tolist() == [[2020, 2, 29], [2021, 12, 1]]
    later = data.read_csv(file, target="day>=2021-01-01")
    assert list(data.positives(later.frame, "day>=2021-01-01")) == [0, 1]


def test_split_holds_out_the_share_and_nothing_twice():
    y = np.repeat([0, 1], [130, 265])
    for stratify in (False, True):
        train, held_out = data.split(y, rng=np.random.default_rng(3), stratify=stratify)
        assert held_out.size == 79
        assert np.array_equal(np.sort(np.concatenate([train, held_out])), np.arange(395))
    assert y[held_out].sum() == 53  # one fifth of 265, stratified
    again = data.split(395, rng=np.random.default_rng(3))[0]
    assert np.array_equal(again, data.split(y, rng=np.random.default_rng(3))[0])


@pytest.mark.parametrize("fraction", [0.0, 1.0, 20.0, 0.0001])
def test_split_refuses_shares_that_make_no_sense(fraction):
    with pytest.raises(ValueError, match="fraction"):
        data.split(10, fraction=fraction, rng=np.random.default_rng(0))
