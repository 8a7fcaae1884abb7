"""The content hash: blind to how a file is written, awake to every cell."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pet_lab.data.canonical import Pin, differences, parse_csv

cells = st.text(alphabet=st.sampled_from("ab;,\"\n é5.-0'"), max_size=6)


@st.composite
def tables(draw):
    width = draw(st.integers(1, 4))
    rows = draw(st.lists(st.lists(cells, min_size=width, max_size=width), min_size=1, max_size=6))
    # A lone empty cell is an empty line, and an empty line is no row.
    return [[c or "x" for c in row] if width == 1 else row for row in rows]


def written(rows, *, delimiter=",", newline="\n", quoting=csv.QUOTE_MINIMAL, bom=False):
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator=newline, quoting=quoting)
    writer.writerow([f"col{j}" for j in range(len(rows[0]))])
    writer.writerows(rows)
    return out.getvalue().encode("utf-8-sig" if bom else "utf-8")


@given(
    tables(),
    st.sampled_from(";,\t|"),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.booleans(),
)
def test_the_way_of_writing_does_not_matter(rows, delimiter, newline, quoting, bom):
    variant = written(rows, delimiter=delimiter, newline=newline, quoting=quoting, bom=bom)
    plain = parse_csv(written(rows, quoting=csv.QUOTE_ALL), delimiter=",")
    assert parse_csv(variant, delimiter=delimiter).sha256 == plain.sha256


@given(tables(), st.data())
def test_any_changed_cell_changes_the_hash(rows, data):
    i = data.draw(st.integers(0, len(rows) - 1))
    j = data.draw(st.integers(0, len(rows[0]) - 1))
    changed = [list(row) for row in rows]
    changed[i][j] += "z"
    before, after = (parse_csv(written(r), delimiter=",") for r in (rows, changed))
    assert before.sha256 != after.sha256
    assert any(f"row {i + 1}" in line for line in differences(after, before.pin()))


@given(st.lists(st.lists(st.integers(-50, 50), min_size=3, max_size=3), min_size=1, max_size=5))
def test_leading_zeros_and_plus_signs_are_no_content(rows):
    plain = parse_csv(written(rows))
    odd = parse_csv(written([[f"{n:+05d}" for n in row] for row in rows]))
    assert plain.sha256 == odd.sha256
    assert plain.types == ("integer",) * 3


def test_numbers_are_compared_as_doubles():
    a, b = (parse_csv(f"x,y\n{v},k\n") for v in ("1.50", "15e-1"))
    assert a.sha256 == b.sha256
    assert a.sha256 != parse_csv("x,y\n1.5000001,k\n").sha256


TABLE = "a;b;c\n1;x;2.5\n2;y;3.5\n3;z;4.5\n"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("a;b\n1;x\n2;y\n3;z\n", "missing columns: c"),
        ("a;b;c;d\n1;x;2.5;0\n2;y;3.5;0\n3;z;4.5;0\n", "do not belong: d"),
        ("b;a;c\nx;1;2.5\ny;2;3.5\nz;3;4.5\n", "another order"),
        ("a;b;c\n1;x;2.5\n2;y;3.5\n", "2 rows instead of 3"),
        ("a;b;c\n1;x;2.5\n3;z;4.5\n2;y;3.5\n", "same rows in another order"),
        ("a;b;c\n1;x;2.5\n2;SECRET;3.5\n3;z;4.5\n", "row 2; the column that differs is b"),
        ("a;b;c\n1;x;2.5\nno;y;3.5\n3;z;4.5\n", "column a holds text instead of integer"),
    ],
)
def test_a_difference_is_said_in_words_without_values(changed, said):
    text = "; ".join(differences(parse_csv(changed), parse_csv(TABLE).pin()))
    assert said in text
    assert "SECRET" not in text


def test_equal_tables_have_no_differences_and_a_pin_survives_its_text():
    pin = parse_csv(TABLE).pin()
    assert Pin.from_json(pin.to_json()) == pin
    assert differences(parse_csv(TABLE.replace("\n", "\r\n")), pin) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"\n \r\n", "empty"),
        (b"a,b\n1,2,3\n", "data row 1"),
        (b"a,a\n1,2\n", "more than once"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"PK\x03\x04\x00", "binary"),
    ],
)
def test_bad_files_are_named(content, said):
    with pytest.raises(ValueError, match=said):
        parse_csv(content)
