"""Missing values, dates, identifiers and stated bounds of a user's own table."""

import numpy as np
import pytest

from pet_lab import data, synth

TEXT = """id,age,hours,area,joined,left
p1,31,40.5,north,2020-02-29,yes
p2,,38,south,2021-12-01,no
p3,45,,south,,yes
p4,28,20,,2019-05-05,no
p5,99,41.5,north,2022-01-31,no
p6,50,39,south,2020-07-01,
"""
BOUNDS = """
age = [18, 90]
hours = [0, 60.0]
area = ["east", "north", "south"]
joined = [2015-01-01, 2021-12-31]
id = false
"""


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.setenv("PET_LAB_FOLDER", str(tmp_path))  # relative paths mean the user's folder
    (tmp_path / "own.csv").write_text(TEXT)

    def reading(target="left", bounds="", **how):
        (tmp_path / "b.toml").write_text(bounds)
        return data.open_table("own.csv", target=target, bounds="b.toml" if bounds else "", **how)

    return reading


def decision(dataset, column):
    return dataset.reading.set_index("column").loc[column, "decision"]


def test_a_missing_value_is_refused_by_name_until_a_policy_is_chosen(read):
    with pytest.raises(data.DataError, match=r'missing in age \(1\).* \(missing="drop"'):
        read()


def test_drop_keeps_complete_rows_and_types(read):
    dataset = read(missing="drop", leave_out=["id"])
    assert dataset.frame["age"].tolist() == [31, 99]
    assert dataset.frame["age"].dtype == np.int64
    assert dataset.provenance["rows"] == 2
    assert "4 rows with a missing value were left out" in dataset.notes[0]
    assert "strictly, none holds" in dataset.notes[-1]


def test_median_fills_with_what_occurs_and_says_that_no_epsilon_pays(read):
    dataset = read(missing="median", leave_out=["id"])
    assert dataset.frame["age"].tolist() == [31, 31, 45, 28, 99]  # the row without target is out
    assert dataset.frame["area"].tolist()[3] in ("north", "south")
    assert dataset.frame["joined (year)"].tolist() == [2020, 2021, 2020, 2019, 2022]
    assert "age, hours, area, joined were filled" in dataset.notes[1]
    assert "most frequent value" in decision(dataset, "area")
    assert "Year, month and day are features." in decision(dataset, "joined")


def test_level_marks_what_was_missing(read):
    dataset = read(missing="level", leave_out=["id"])
    frame = dataset.frame
    assert frame["area"].tolist()[3] == "(missing)"
    assert frame["age (missing)"].tolist() == [0, 1, 0, 0, 0]
    assert frame["joined (missing)"].tolist() == [0, 0, 1, 0, 0]
    assert data.encode(frame, target="left").X.shape[0] == 5


def test_stated_bounds_make_domain_features_and_scale(read):
    dataset = read(missing="level", bounds=BOUNDS)
    assert set(dataset.domain) == set(dataset.frame) - {"left"}
    assert dataset.frame["age"].tolist() == [31, 54, 45, 28, 90]
    assert "Moved to the nearest bound: 1 values" in decision(dataset, "age")
    assert "Left out." in decision(dataset, "id")
    assert dataset.notes[-1].startswith("What each feature may hold was stated")
    assert not any("filled" in note for note in dataset.notes)
    encoded = data.encode(dataset.frame, target="left", domain=dataset.domain)
    assert "area_east" in encoded.feature_names, "a level that does not occur"
    ends = dict(zip(encoded.feature_names, encoded.ranges.tolist(), strict=True))
    assert ends["age"] == [18, 90]
    assert ends["joined (year)"] == [2015, 2021]
    unit = dict(zip(encoded.feature_names, encoded.unit.T.tolist(), strict=True))
    assert unit["age"][0] == pytest.approx((31 - 18) / (90 - 18))
    table = data.binarise(dataset.frame, "left")
    domain = {**dataset.domain, "left": (0, 1)}
    how = {"epsilon": 10.0, "rng_seed": 1, "domain": domain, "cache": False}
    made = synth.synthesise(table, method="sample", **how)
    assert "The domain of every column is stated without looking at the data." in made.assumptions
    again = data.encode(made.frame, target="left", like=encoded)
    assert again.ranges is not None


def test_bounds_of_some_columns_leave_the_scale_to_the_data(read):
    dataset = read(missing="drop", bounds="age = [18, 120]\nid = false\n")
    assert list(dataset.domain) == ["age"]
    assert data.encode(dataset.frame, target="left", domain=dataset.domain).ranges is None
    assert "What 5 of 6 features may hold is read off" in dataset.notes[-1]


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ("age = [90, 18]", r"Expected bounds of age such as \[18, 99\]"),
        ("age = [18, 99.5]", "Expected bounds of age"),
        ("age = [18, 30, 99]", "Expected bounds of age"),
        ("area = ['south']", "Column area holds 2 values that its bounds do not name"),
        ("area = ['south', 'south']", "repeated"),
        ("joined = ['2010', '2024']", r"Expected bounds of joined such as \[2010-01-01"),
        ("wage = [1, 2]", "columns that the table lacks: wage"),
        ("age = [", "not valid TOML"),
        ("left = false", "Expected features of the table to leave out, got left"),
    ],
)
def test_bad_bounds_are_refused_in_one_sentence(read, bounds, said):
    with pytest.raises(data.DataError, match=said) as refusal:
        read(missing="level", bounds=bounds, leave_out=["id"])
    assert "\n" not in str(refusal.value)


def test_what_is_no_feature_is_refused_by_name(tmp_path):
    lines = [f"name {i},{i % 2}" for i in range(60)]
    (tmp_path / "x.csv").write_text("\n".join(["who,y", *lines]))
    with pytest.raises(data.DataError, match="Column who holds 60 different texts in 60 rows"):
        data.read_csv(tmp_path / "x.csv", target="y")
    (tmp_path / "x.csv").write_text("a,b,y\n1,,0\n2,,1\n")
    with pytest.raises(data.DataError, match="Column b holds no value; leave it out"):
        data.read_csv(tmp_path / "x.csv", target="y", missing="median")


def test_an_absent_file_of_bounds_is_named(read):
    read(missing="drop", leave_out=["id"])
    with pytest.raises(data.DataMissing, match="Expected a file of bounds, but there is no x"):
        data.open_table("own.csv", target="left", bounds="x.toml", missing="drop")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"missing": "mean"}, "missing is one of refuse, drop, level, median"),
        ({"bounds": "b.toml"}, "student_mat is described"),
        ({"leave_out": ["age"]}, "student_mat is described"),
    ],
)
def test_a_registered_table_takes_no_bounds(given, said):
    with pytest.raises(ValueError, match=said):
        data.open_table("student_mat", target="G3>=10", stand_in=True, **given)
