"""Secret sharing: identities by enumeration, processes against the clear, and refusals."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pet_lab import data
from pet_lab.rows import concat, wide
from pet_lab.shares import ShareError, SharesContradict
from pet_lab.studies import secret_sharing as study

number = st.integers(0, 255)


def settings(**changes):
    values = {"draws": [1210], "flaws": [0.0, 0.2], "bits": [8], "rows_predicted": 1}
    values |= {"delay_ms": 20.0, "replicates": 3, "seed": 1}
    return study.Settings(**values | changes)


@given(st.lists(st.integers(0, 10), min_size=5, max_size=5))
def test_beavers_product_is_the_slides_identity(numbers):
    x, y, a, b, _ = numbers
    held = study.deal([x, y, a, b, a * b % study.Q])
    triple = [s.values[2:] for s in held]
    shares = study.times([s.values[0] for s in held], [s.values[1] for s in held], triple)
    opened = (x + a) * (y + b) - (x + a) * b - a * (y + b) + a * b
    assert sum(shares) % study.Q == opened % study.Q == x * y % study.Q


def test_a_wrong_triple_gives_a_wrong_product():
    held = study.deal([3, 4, 5, 6, 5 * 6 + 1])
    triple = [s.values[2:] for s in held]
    shares = study.times([s.values[0] for s in held], [s.values[1] for s in held], triple)
    assert sum(shares) % study.Q == 3 * 4 % study.Q + 1


def test_shares_of_another_session_or_too_few_are_refused():
    here, there = study.deal([3, 4]), study.deal([5, 6])
    assert study.join(here) == [3, 4]
    with pytest.raises(ValueError, match="in one session, got 2 sessions"):
        study.join([*here[:2], there[2]])
    with pytest.raises(ValueError, match=r"all 3 parties in one session, got parties \[0, 1\]"):
        study.join(here[:2])
    with pytest.raises(ValueError, match=r"got parties \[0, 1, 1\]"):
        study.join([*here[:2], here[1]])
    cut = dataclasses.replace(here[2], values=here[2].values[:1])
    with pytest.raises(ValueError, match=r"equal length, got \[1, 2\]"):
        study.join([*here[:2], cut])


def test_power_in_theory_is_that_of_a_flaw_that_is_planted():
    rows = study.uniformity(settings(draws=[2420], flaws=[0.0, 0.05], replicates=60))
    table = wide(rows, index="flaw").set_index("flaw")
    assert table.loc[0.0, "power"] == pytest.approx(study.LEVEL, rel=1e-6)
    false = stats.binom.isf(1e-7, 60, study.LEVEL) / 60
    assert table.loc[0.0, "rejected"] <= false
    seen, power = table.loc[0.05, ["rejected", "power"]]
    assert 0.3 < power < 0.9
    assert abs(seen - power) < 5 * np.sqrt(power * (1 - power) / 60)


@given(number, number)
def test_a_garbled_circuit_compares(x, y):
    answer, cost = study.richer(x, y, bits=8)
    assert answer == (x > y)
    assert cost["and_gates"] == 8
    assert cost["bytes"] == 64 * 8 + 16 * (8 + 3) + 32 + 96 * 8


def test_garbled_circuits_refuse_what_does_not_fit():
    circuit, zero, _ = study.garble(4)
    _, labels, _ = study.garble(4)
    with pytest.raises(ValueError, match="Labels of another circuit came"):
        study.evaluate(circuit, labels)
    with pytest.raises(ValueError, match="Expected labels of 4 bits, got 3"):
        study.evaluate(circuit, zero[:3])
    cut = dataclasses.replace(circuit, tables=[circuit.tables[0][:2], *circuit.tables[1:]])
    with pytest.raises(ValueError, match="a table is cut off"):
        study.evaluate(cut, zero)
    with pytest.raises(ValueError, match="y is a whole number of at most 4 bits, got 16"):
        study.richer(1, 16, bits=4)
    assert study.evaluate(circuit, zero) is False


def test_transfer_gives_the_chosen_label_only():
    pairs = [(1, 2), (3, 4), (5, 6)]
    got, sent = study.transfer(pairs, [1, 0, 1])
    assert got == [2, 3, 6]
    assert sent == 32 + 3 * 96


def test_fixed_point_numbers_come_back_or_are_refused():
    values = np.array([-3.5, 0.0, 2.25])
    assert study.signed(study.fixed(values)).tolist() == values.tolist()
    with pytest.raises(
        ValueError, match=r"Expected numbers below 2\.68435e\+08 in size, got 1e\+12"
    ):
        study.fixed([1e12])


def test_results_are_opened_from_all_shares_or_not_at_all():
    rows = study._shared([5])
    parts = [{"shares": row} for row in rows]
    assert study._opened(parts) == [5]
    wrong = [*parts[:2], {"shares": study.as_text([study.as_numbers(rows[2])[0] ^ 1])}]
    with pytest.raises(SharesContradict, match="contradict each other"):
        study._opened(wrong)
    with pytest.raises(ShareError, match="1 shares are here, 2 are needed"):
        study._opened(parts[:1])
    with pytest.raises(ShareError, match="different lengths"):
        study._opened([*parts[:2], {"shares": []}])


@pytest.fixture(scope="module")
def rows():
    table = data.open_table("student_mat", target="G3>=10", stand_in=True)
    return study.simulate(table.frame, "G3>=10", settings())


def test_three_processes_compute_what_the_clear_computes(rows):
    table = study.layers_table(rows).set_index("step")
    assert (table["gap"] == 0).all()
    assert table.loc[study.LINEAR, "bytes"] < table.loc[study.CHECKED, "bytes"]
    assert table.loc[study.RELU, "rounds"] > table.loc[study.LINEAR, "rounds"]
    network = rows[rows["part"] == "network"].set_index("metric")["value"]
    assert network["agree"] == 1
    assert network["gap"] < 0.05


def test_claims_turn_with_their_rows(rows):
    claims = study.takeaways(rows)
    assert claims[0].text.startswith("Two of three shares")
    assert all(claims[i].holds for i in (0, 2, 3, 4, 5, 6))
    wrong = rows.assign(value=rows["value"].where(rows["metric"] != "wrong", 1.0))
    assert [c.holds for c in study.takeaways(wrong)][2::4] == [False, False]
    no_flaw = concat(rows[rows["part"] != "uniform"], rows[rows["flaw"] == 0])
    assert "none of these flaws" in study.takeaways(no_flaw)[1].text


def test_an_intersection_in_the_circuit_grows_as_said():
    small, large = (study.intersection_bytes(n, 64) for n in (1000, 2000))
    assert large["all pairs"] == 4 * small["all pairs"]
    assert 2 < large["sorted files"] / small["sorted files"] < 2.5
    assert small["all pairs"] == 64 * 63 * 10**6


def test_every_move_of_the_panel_deals_anew_and_gives_the_product():
    for _ in range(20):
        table = study.explore(3, 4)
        whole = table.iloc[-1]
        assert isinstance(table, pd.DataFrame)
        assert whole["xy"] == 3 * 4 % study.Q
        assert (whole["x"] + whole["a"]) % study.Q == whole["x + a"]


@pytest.mark.parametrize(
    "changes",
    [
        {"draws": [10]},
        {"draws": []},
        {"flaws": [1.5]},
        {"bits": [0]},
        {"bits": [500]},
        {"rows_predicted": 0},
        {"delay_ms": 0},
        {"replicates": 0},
        {"seed": -1},
    ],
)
def test_settings_outside_their_range_are_one_sentence(changes):
    with pytest.raises(ValueError, match=r"got .*\.$"):
        settings(**changes)


def test_more_rows_than_are_held_out_are_refused():
    table = data.open_table("student_mat", target="G3>=10", stand_in=True)
    with pytest.raises(ValueError, match="Expected at most 99 rows to predict, got 400"):
        study.network_case(table.frame, "G3>=10", settings(rows_predicted=400))
