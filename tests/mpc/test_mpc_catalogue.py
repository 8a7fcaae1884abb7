"""The catalogue's own mathematics, without parties."""

import math
import operator
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpc_examples import STATISTICS, task
from msgspec.structs import replace

from pet_lab.mpc import catalogue, clear, costs
from pet_lab.mpc.errors import TaskError
from pet_lab.shares import mersenne_prime

P = mersenne_prime(120)
REGRESSION = {"key": "id", "join": "opened", "target": "income", "predictors": ["age", "region"]}


def value_at(poly, x):
    return sum(c * pow(x, i, P) for i, c in enumerate(poly)) % P


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=8, unique=True), st.integers(0, 10**6))
def test_roots_are_exactly_the_keys(keys, x):
    poly = catalogue._from_roots(keys, P)
    assert len(poly) == len(keys) + 1
    assert (value_at(poly, x) == 0) == (x in keys)


@given(st.dictionaries(st.integers(0, 10**6), st.integers(-(10**6), 10**6), min_size=1, max_size=8))
def test_a_polynomial_passes_through_the_values(points):
    poly = catalogue._polynomial(list(points), list(points.values()), P)
    assert len(poly) == len(points)
    assert all(value_at(poly, x) == y % P for x, y in points.items())


@given(st.integers(-(10**17), 10**17), st.integers(1, 10**17))
def test_a_fraction_is_told_from_its_residue(num, den):
    assert catalogue._fraction(num * pow(den, -1, P), P) == Fraction(num, den)


@given(st.lists(st.integers(0, 50), min_size=9, max_size=9))
def test_equations_are_solved_modulo_p_or_have_no_unique_solution(cells):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["pytest"])  # mpyc reads the command line
        from mpyc.finfields import GF
    matrix, right = [cells[i : i + 3] for i in (0, 3, 6)], [1, 2, 3]
    if round(np.linalg.det(np.array(matrix, float))) == 0:
        with pytest.raises(ZeroDivisionError):
            catalogue._solve(GF(P), cells, right)
    else:
        solution = catalogue._solve(GF(P), cells, right)
        products = [sum(map(operator.mul, row, solution)) % P for row in matrix]
        assert products == right


def test_the_field_holds_every_exact_answer():
    """Worst case by the bounds of the schema, against the determinant bound, in exact numbers."""
    made = task(function="joined_linear_regression", parameters=REGRESSION)
    p = catalogue.modulus(made)
    rng = np.random.default_rng(1)
    design = np.column_stack([np.ones(24, int), rng.integers(0, 101, 24), rng.integers(0, 2, 24)])
    target = rng.choice([-50_000, 500_000], 24)
    gram = [[Fraction(int(v)) for v in row] for row in design.T @ design]
    rhs = [Fraction(int(v)) for v in design.T @ target]
    for c in range(3):  # Gauss, exact
        gram[c], factor = [v / gram[c][c] for v in gram[c]], gram[c][c]
        rhs[c] /= factor
        for r in range(3):
            if r != c:
                times = gram[r][c]
                gram[r] = [v - times * w for v, w in zip(gram[r], gram[c], strict=True)]
                rhs[r] -= times * rhs[c]
    for exact in rhs:
        residue = exact.numerator * pow(exact.denominator, -1, p)
        assert catalogue._fraction(residue, p) == exact


def test_a_regression_too_large_for_every_field_is_refused():
    refs = task().inputs
    wide = replace(
        refs[1],
        schema={
            "id": refs[1].schema["id"],
            **{
                f"v{i}": replace(refs[1].schema["income"], high=1e12, decimals=9) for i in range(20)
            },
        },
    )
    parameters = {**REGRESSION, "target": "v0", "predictors": [f"v{i}" for i in range(1, 20)]}
    with pytest.raises(TaskError, match="largest field"):
        catalogue.check(
            task(function="joined_linear_regression", parameters=parameters, inputs=(refs[0], wide))
        )


def test_the_polynomial_sigmoid_is_within_four_hundredths():
    c1, c3, c5 = catalogue.sigmoid_polynomial()
    t = np.linspace(-6, 6, 1001)
    gap = 0.5 + c1 * t + c3 * t**3 + c5 * t**5 - 1 / (1 + np.exp(-t))
    assert np.abs(gap).max() < 0.04


def test_owners_hand_in_as_many_numbers_as_the_parties_expect(tables):
    rng = np.random.default_rng(0)
    for how in ("opened", "hidden", "aligned"):
        made = task(parameters={**STATISTICS, "join": how})
        for side, frame in enumerate(tables):
            owner = made.inputs[side].owner
            numbers = catalogue.encode(made, owner, frame, rng)
            assert len(numbers) == catalogue.length(made, side)
            assert all(0 <= v < catalogue.modulus(made) for v in numbers)


def test_rows_are_shuffled_so_that_a_position_tells_nothing(tables):
    made = task(function="join_size", parameters={"key": "id", "join": "opened"})
    one, two = (catalogue.encode(made, "px", tables[0], np.random.default_rng(s)) for s in (1, 2))
    assert one != two
    assert sorted(one) == sorted(two)


def test_a_table_of_another_size_is_refused(tables):
    with pytest.raises(TaskError, match="the table has 23"):
        catalogue.encode(task(), "px", tables[0].iloc[1:], np.random.default_rng(0))


def test_what_cannot_be_answered_is_said():
    made = task(function="joined_linear_regression", parameters=REGRESSION)
    with pytest.raises(TaskError, match="collinear"):
        catalogue.decode(made, [], catalogue.PublicFacts(singular=True))
    with pytest.raises(TaskError, match="too few rows"):
        catalogue.decode(made, [], catalogue.PublicFacts(withheld=(0,)))


def test_statistics_from_counts_and_sums():
    made = catalogue.decode(
        task(), [3, 600, 140_000, 1, 500, 250_000], catalogue.PublicFacts(withheld=(1,))
    )
    assert made["count"].tolist()[0] == 3
    assert made["sum"][0] == pytest.approx(6.0)
    assert made["mean"][0] == pytest.approx(2.0)
    assert made["variance"][0] == pytest.approx((140_000 - 600**2 / 3) / 2 / 1e4)
    assert math.isnan(made["count"][1])
    assert math.isnan(made["variance"][2]), "one record has no variance"


def test_the_clear_logistic_regression_is_the_maximum():
    rng = np.random.default_rng(3)
    design = np.column_stack([np.ones(400), rng.normal(size=400)])
    target = (rng.random(400) < 1 / (1 + np.exp(-design @ [0.3, 1.0]))).astype(float)
    beta = clear.logistic(design, target)
    p = 1 / (1 + np.exp(-design @ beta))
    assert np.abs(design.T @ (target - p)).max() < 1e-8


def test_noise_has_the_scale_that_the_budget_asks_for():
    """Standard deviation of discrete Laplace with scale 3 / epsilon; 4 standard errors."""
    made = task(epsilon=1.0, min_group=0)
    draws = np.array([catalogue.noise(made, 3) for _ in range(1500)], float)
    for column, scale in ((0, 3.0), (1, 3.0 * 500_000)):
        q = math.exp(-1 / scale)
        want = math.sqrt(2 * q) / (1 - q)
        # kurtosis of a Laplace is 6, so var(s) is about s^2 (6 - 1) / (4 n)
        assert draws[:, column].std() == pytest.approx(want, abs=4 * want * math.sqrt(5 / 6000))
    assert catalogue.noise(task(), 4) == [0] * 4


def test_the_noise_is_of_the_budget_that_was_charged(monkeypatch):
    """Rounded to fractions of 10,000, 0.00016 was charged and 0.0002 was used."""
    scales = []
    monkeypatch.setattr(catalogue, "discrete_laplace", lambda scale: scales.append(scale) or 0)
    size = {"function": "join_size", "parameters": {"key": "id", "join": "opened"}}
    catalogue.noise(task(**size, epsilon="0.00016"), 1)
    assert scales == [Fraction(100_000, 16)]


@pytest.mark.parametrize("k", [3, 5])
def test_the_estimate_grows_as_the_product_of_the_sizes(k):
    pps = tuple(f"pp-{i}" for i in range(k))

    def products(n):
        made = task(processing_parties=pps)
        return costs.estimate(made.with_data(*(replace(d, rows=n) for d in made.inputs))).products

    assert products(2000) / products(1000) == pytest.approx(4, rel=0.01)
