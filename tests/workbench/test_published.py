"""Printed numbers: every one, as printed; and a clear refusal of a file that is none."""

import csv
import math
import re
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pet_lab.workbench import published
from pet_lab.workbench.published import PublishedError, parse_where, where_text

SHARED = Path(__file__).resolve().parents[3] / "shared"

CELLS = {
    "2.2": 4,
    "2.3": 4,
    "2.4": 8,
    "2.5": 6,
    "2.5.evaluation": 1,
    "2.6": 6,
    "2.7": 16,
    "2.8": 10,
    "2.9": 10,
    "3.1": 4,
    "3.1.3": 1,
    "3.2": 11,
    "3.3": 12,
    "3.4": 18,
    "3.5": 38,
    "fig-3.10": 18,
    "psi-with-typos": 24,
}

GOOD = """
id = "1.1"
title = "t"
source = "s"
place = "p"
licence = "CC BY 4.0"
notebook = "a/b"
keys = ["k"]
metrics.m = { unit = "u", kind = "one_run", margin = 0.1 }
cells = [
  { k = 1, m = "0.80" },
  { k = 2, m = "0.90" },
]
"""


def tables():
    """The publication that this package began with; primers add tables of their own."""
    return published.load(published.PACKAGED / "unece")


def cells():
    return [(table, cell) for table in tables() for cell in table.cells]


def test_every_printed_table_is_there_with_all_its_cells():
    assert {t.id: len(t.cells) for t in tables()} == CELLS
    assert sum(CELLS.values()) == 191


def test_keys_are_unique_over_all_files():
    keys = Counter(
        (t.source, t.id, where_text(c.where), c.metric) for t in published.load() for c in t.cells
    )
    assert max(keys.values()) == 1


def test_each_row_of_the_transcription_is_one_cell():
    file = SHARED / "published" / "unece_ipp_report.csv"
    if not file.is_file():
        pytest.skip("the transcription is not beside this checkout")
    theirs = Counter()
    for row in csv.DictReader(file.open(encoding="utf-8")):
        where = parse_where(row["where"].replace("n=100000 per side", "n=100000"))
        theirs[row["table"], where_text(where), row["measure"], float(row["value"])] += 1
    ours = Counter((c.table, where_text(c.where), c.metric, c.value) for _, c in cells())
    assert ours == theirs


def test_attack_and_slice_are_those_of_the_transcription():
    file = SHARED / "published" / "unece_ipp_report.csv"
    if not file.is_file():
        pytest.skip("the transcription is not beside this checkout")
    notes = {
        (row["table"], row["where"], row["measure"]): row["note"]
        for row in csv.DictReader(file.open(encoding="utf-8"))
    }
    matched = [c for _, c in cells() if c.match]
    assert len(matched) == 12
    for cell in matched:
        note = notes[cell.table, where_text(cell.where), cell.metric]
        assert f"attack={cell.match['attack']}; slice={cell.match['slice']}" in note


def test_digits_are_those_of_the_report():
    file = SHARED / "seeds" / "unece_ipp_final_report.txt"
    if not file.is_file():
        pytest.skip("the report's text is not beside this checkout")
    text = file.read_text(encoding="utf-8")
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text) + re.sub(r"(?<=\d),(?=\d)", ".", text)
    numbers = set(re.findall(r"[\d.]*\d(?:E[+]\d+)?|inf", text))
    percents = {"0.68": "68%", "0.89": "89%"}  # the accuracy of the targets of table 3.5
    for table, cell in cells():
        if table.source == "UNECE IPP final report":
            assert cell.printed in numbers or percents[cell.printed] in text, cell


def test_totals_add_up():
    """The one rule of arithmetic that needs no interval; the others are in test_consistency."""
    known = {t.id: t for t in tables()}
    for name in ("2.2", "2.3"):
        assert sum(int(c.printed) for c in known[name].cells) == 100_000


def test_every_table_tells_source_licence_and_both_readings():
    for table in published.load():
        assert table.licence
        assert table.place
        assert table.readings
    for table in tables():
        assert table.readings == ("described", "published")
        assert re.fullmatch(r"(psi|private_ml)/[a-z_]+", table.notebook)
        if table.source == "UNECE IPP final report":
            assert table.licence == "CC BY 4.0"


def test_only_exact_cells_may_go_without_a_margin():
    for cell in (c for t in published.load() for c in t.cells):
        assert cell.unit
        assert cell.margin > 0 or cell.kind == "exact", cell


@pytest.mark.parametrize(
    ("printed", "half_a_unit"),
    [
        ("0.80", 0.005),
        ("0.8", 0.05),
        ("1.00", 0.005),
        ("35433", 0.5),
        ("2.530", 0.0005),
        ("2.92E+10", 5e7),
        ("1.39E+06", 5e3),
        ("inf", 0),
    ],
)
def test_rounding_is_half_a_unit_of_the_last_digit(tmp_path, printed, half_a_unit):
    (tmp_path / "t.toml").write_text(GOOD.replace("0.80", printed))
    assert published.load(tmp_path)[0].cells[0].rounding == pytest.approx(half_a_unit, rel=1e-12)


@given(st.integers(0, 10**6), st.integers(0, 5), st.floats(-0.499, 0.499))
def test_every_number_that_prints_as_the_cell_is_in_its_interval(digits, decimals, shift):
    printed = format(Decimal(digits).scaleb(-decimals), "f")
    cell = published.Cell(
        table="t", where={}, metric="m", printed=printed, unit="u", margin=0, kind="exact"
    )
    low, high = cell.interval
    assert low <= float(printed) + shift * 10.0**-decimals <= high
    assert high - low == pytest.approx(10.0**-decimals)


def test_decimals_that_the_text_states_outweigh_dropped_zeros():
    recall = published.load(published.PACKAGED / "unece" / "2.4.toml")[0].cells[0]
    assert recall.printed == "0.8"
    assert recall.rounding == pytest.approx(0.0005)


def test_a_printed_mean_carries_its_monte_carlo_error():
    mean, sd = published.load(published.PACKAGED / "unece" / "2.5.toml")[0].cells[:2]
    assert mean.printed_se == pytest.approx(2.116 / 10)
    assert sd.printed_se == pytest.approx(2.116 / math.sqrt(198))


def test_order_is_natural_and_a_workspace_folder_is_read(tmp_path):
    for name in ("1.10", "1.9", "fig-2"):
        (tmp_path / f"{name}.toml").write_text(GOOD.replace('"1.1"', f'"{name}"'))

    class Workspace:
        published = tmp_path

    assert [t.id for t in published.load(Workspace())] == ["1.9", "1.10", "fig-2"]


def test_a_publication_is_a_folder(tmp_path):
    for name in ("a/1.1", "primers/dp_sum"):
        file = tmp_path / f"{name}.toml"
        file.parent.mkdir()
        file.write_text(GOOD.replace('"1.1"', f'"{file.stem}"'))
    assert [t.id for t in published.load(tmp_path)] == ["1.1", "dp_sum"]
    assert {f.parent.name for f in published.PACKAGED.rglob("2.*.toml")} == {"unece"}


def test_a_cause_is_found_by_conditions_metric_and_reading(tmp_path):
    notes = 'notes = [{ where = { k = 1 }, metric = "m", as = "published", cause = "because" }]\n'
    (tmp_path / "t.toml").write_text(GOOD + notes)
    (table,) = published.load(tmp_path)
    assert table.cause(table.cells[0], "published") == "because"
    assert table.cause(table.cells[0], "described") == ""
    assert table.cause(table.cells[1], "published") == ""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("title =", "titel =", "unknown field `titel`"),
        ('title = "t"\n', "", "missing required field `title`"),
        ('unit = "u", ', "", "missing required field `unit`"),
        ('unit = "u"', 'unit = "u", unti = "u"', "unknown field `unti`"),
        ("{ k = 1,", "{ q = 1,", "unknown q"),
        ("k = 2", "k = 1", "already given"),
        ("{ k = 1, m", "{ k = 1, k = 1, m", "not valid TOML"),
        ('m = "0.80"', "m = 0.80", "as printed, in quotes"),
        ('m = "0.80"', 'm = "0,80"', "expected a printed number"),
        ('m = "0.80"', 'm = "nan"', "expected a printed number"),
        (', m = "0.80"', "", "no printed number"),
        (", margin = 0.1", "", "give margin or relative_margin"),
        ("margin = 0.1", "margin = 0.1, relative_margin = 0.1", "one of them"),
        ("margin = 0.1", "margin = -0.1", ">= 0"),
        ('"one_run"', '"roughly"', "Invalid enum value 'roughly'"),
        ('"one_run"', '"mean"', "repetitions"),
        ('"one_run", margin', '"mean", repetitions = 9, sd = "s", margin', "as its SD"),
        ("{ k = 1,", '{ k = "1",', "ambiguous"),
        ("{ k = 1,", "{ k = [1],", "number, text or flag"),
        ("margin = 0.1", 'margin = 0.1, match = ["slice"]', "matched by"),
        ("metrics.m", 'metrics.o = { unit = "u", kind = "exact" }\nmetrics.m', "have no cell"),
        ('keys = ["k"]', 'keys = ["k"]\nreadings = ["guessed"]', "Invalid enum value 'guessed'"),
        (
            'keys = ["k"]',
            'keys = ["k"]\nnotes = [{ metric = "m" }]',
            "missing required field `cause`",
        ),
        ('keys = ["k"]', 'keys = ["k"]\nnotes = [{ metric = "n", cause = "c" }]', "no cell has"),
        (
            'keys = ["k"]',
            'keys = ["k"]\nnotes = [{ as = "x", cause = "c" }]',
            "Invalid enum value 'x'",
        ),
        ("metrics.m = {", "metrics.m.n = {", "unknown field `n`"),
        ('unit = "u"', 'unit = ""', "length >= 1"),
        ('unit = "u"', "unit = 1", "Expected `str`"),
        # Percentage points beside shares: with such a margin every number would agree.
        ("margin = 0.1", "margin = 5, range = [0, 1]", "give both in the unit 'u'"),
        ('m = "0.80"', 'm = "87"', "ranges from 0.0 to 1.0"),
        ('m = "0.80"', 'm = "0.8O"', "expected a printed number"),
        ('m = "0.80"', 'm = "0_80"', "expected a printed number"),
        ('m = "0.80"', 'm = "\u0663"', "expected a printed number"),
        ('m = "0.80"', 'm = "sNaN"', "expected a printed number"),
        ('m = "0.80"', 'm = "1e400"', "more digits than can be compared"),
        ('m = "0.80"', 'm = "0.800000000000000001"', "more digits than can be compared"),
        ("margin = 0.1", "margin = 0.1, decimals = 1", "more than the 1 decimals"),
        (
            '"one_run", margin = 0.1 }',
            '"mean", repetitions = 9, sd = "s", margin = 0.1 }\n'
            'metrics.s = { unit = "u", kind = "sd", repetitions = 9, margin = 0.1 }',
            "lacks it",
        ),
    ],
)
def test_a_bad_file_is_refused_with_file_and_reason(tmp_path, old, new, says):
    assert old in GOOD
    text = GOOD.replace(old, new, 1)
    if new.endswith('"87"'):
        text = text.replace("margin = 0.1", "margin = 0.1, range = [0, 1]")
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(PublishedError, match=re.escape(says)) as error:
        published.load(tmp_path)
    assert "bad.toml" in str(error.value)
    assert str(tmp_path) not in str(error.value)


def test_infinite_prints_are_numbers_but_an_infinite_sd_is_none(tmp_path):
    file = tmp_path / "1.toml"
    for text in ("inf", "-inf", "Inf", "1e-7", "+3.", ".5"):
        file.write_text(GOOD.replace("0.80", text, 1))
        assert published.load(tmp_path)[0].cells[0].value == float(text)
    sd = 'metrics.s = { unit = "u", kind = "sd", repetitions = 9, margin = 0.1 }'
    mean = GOOD.replace('"one_run"', '"mean", repetitions = 9, sd = "s"').replace(
        "cells", f"{sd}\ncells"
    )
    file.write_text(
        mean.replace('m = "0.80"', 'm = "0.80", s = "inf"').replace("0.90", '0.9", s = "1')
    )
    with pytest.raises(PublishedError, match="infinite SD"):
        published.load(tmp_path)


def test_the_hash_of_margins_knows_margins_kinds_and_cells_and_nothing_else(tmp_path):
    file = tmp_path / "1.toml"

    def margins(text):
        file.write_text(text)
        return published.load(tmp_path)[0].margins

    before = margins(GOOD)
    assert margins(GOOD.replace("0.80", "0.81").replace('"t"', '"other title"')) == before
    for old, new in (("0.1", "0.2"), ("one_run", "exact"), ("k = 2", "k = 3")):
        assert margins(GOOD.replace(old, new)) != before


def test_the_same_table_in_two_files_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(PublishedError, match="at least one"):
        published.load(tmp_path)
    for name in "ab":
        (tmp_path / f"{name}.toml").write_text(GOOD)
    with pytest.raises(PublishedError, match="already in another file"):
        published.load(tmp_path)


NAMES = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True)
WORDS = st.from_regex(r"[a-z][a-z0-9 -]{0,8}", fullmatch=True).filter(
    lambda w: not isinstance(published._typed(w), bool | int | float)
)
VALUES = st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False), WORDS)


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_conditions_survive_their_text(where):
    back = parse_where(where_text(where))
    assert back == where
    assert [type(v) for v in back.values()] == [type(v) for v in where.values()]


def test_cells_as_rows_carry_their_conditions():
    frame = published.cells("fig-3.10", "3.4")
    assert len(frame) == CELLS["fig-3.10"] + CELLS["3.4"]
    epsilon = frame[(frame["metric"] == "epsilon") & (frame["table"] == "3.4")]
    assert epsilon["text"].tolist() == ["1.01E+07", "3.10E+06", "1.39E+06"]
    assert epsilon["printed"].tolist() == [1.01e7, 3.10e6, 1.39e6]
    assert epsilon["noise_multiplier"].tolist() == [0.4, 0.5, 0.6]
    with pytest.raises(PublishedError, match=r"There is no printed table '9\.9'"):
        published.cells("9.9")


def test_the_margins_of_every_shipped_table_have_a_hash():
    """Also where a relative margin of a printed infinity is infinite, which JSON does not know."""
    assert all(table.margins for table in published.load())
