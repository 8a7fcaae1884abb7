"""Two files of a user's own: what is read, and the one sentence in which each fault is refused."""

import pytest

from pet_lab.data import DataError, DataMissing, open_pair

LEFT = "id,region,income\n007,north,1000\n008,south,2000.5\n009,north,1500\n"
RIGHT = "person,size\n007,small\n009,large\n010,large\n"


@pytest.fixture
def files(tmp_path, monkeypatch):
    (tmp_path / "left.csv").write_text(LEFT)
    (tmp_path / "right.csv").write_text(RIGHT)
    monkeypatch.setenv("PET_LAB_FOLDER", str(tmp_path))  # relative paths mean the user's folder
    return tmp_path


def open_files(**changed):
    return open_pair(**{"left": "left.csv", "right": "right.csv", "on": ["id=person"], **changed})


def test_keys_keep_their_zeros_and_numbers_are_numbers(files):
    pair = open_files(numbers=["income"])
    assert pair.key == ["id"]
    assert list(pair.left.columns) == ["id", "region", "income"]
    assert list(pair.right.columns) == ["id", "size"]
    assert list(pair.left["id"]) == ["007", "008", "009"]
    assert list(pair.left["income"]) == [1000, 2000.5, 1500]
    assert [source["kind"] for source in pair.provenance] == ["own", "own"]
    assert list(pair.reading["column"]) == ["id", "region", "income", "person", "size"]


def test_without_files_the_report_data_are_meant():
    assert open_pair("", "", on=[]) is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"right": ""}, "Expected two files, got only left.csv"),
        ({"left": "", "right": ""}, "'id=person' names a column of no file"),
        ({"on": []}, "need a key that both have"),
        ({"on": ["id"]}, "right.csv has no column 'id'; its columns are person, size"),
        ({"left_columns": ["age"]}, "left.csv has no column 'age'"),
        ({"left_columns": ["region", "region"]}, "region is named 2 times"),
        ({"left_columns": ["id"]}, "id is named 2 times"),
        ({"numbers": ["region"]}, "region must hold numbers"),
        ({"most_labels": 1}, "region has 2 different values"),
        ({"left": "nowhere.csv"}, "there is no nowhere.csv"),
    ],
)
def test_bad_arguments(files, changed, said):
    with pytest.raises((DataError, DataMissing), match=said):
        open_files(**changed)


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("left.csv", LEFT + "007,south,1\n", r"the key \(id\) repeats in 1 of 4 rows, .*line 5"),
        ("left.csv", LEFT + ",south,1\n", "id is missing in 1 of 4 rows"),
        ("left.csv", LEFT + "011,,1\n", "region is missing in 1 of 4 rows"),
        ("right.csv", "person,size\n7,small\n9,large\n", "No key of left.csv is in right.csv"),
        ("right.csv", "person,id\n007,1\n009,2\n", "has id beside the key of that name"),
    ],
)
def test_bad_files(files, file, text, said):
    (files / file).write_text(text)
    with pytest.raises(DataError, match=said) as caught:
        open_files()
    assert "\n" not in str(caught.value)
