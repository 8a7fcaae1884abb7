"""CKKS: the encoder by definition, the inference, the key that leaks, refusals."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pet_lab.rows import only, wide
from pet_lab.studies import ckks as study

pytest.importorskip("tenseal", reason="TenSEAL has no wheel for this platform")


def settings(**changes):
    values = {"primes": [1, 2], "degrees": [4096, 8192], "hidden": [3], "filter_bits": 200}
    return study.Settings(**values | {"records": 20, "repeats": 1, "seed": 3} | changes)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(80, 4))
    return study.simulate(x, (x @ [1, -2, 0.5, 0] > 0).astype(int), settings())


# --- the encoder


def test_the_slides_example_is_exact():
    assert study.encode([3 + 4j, 2 - 1j], 64).tolist() == [160, 91, 160, 45]


@given(st.integers(0, 4), st.integers(0, 2**32 - 1))
def test_the_polynomial_takes_the_values_at_the_roots(power, seed):
    """Evaluated one root at a time; rounding moves a value by at most n / 2 over the scale."""
    rng, n = np.random.default_rng(seed), 2 ** (power + 1)
    z = rng.normal(size=n // 2) + 1j * rng.normal(size=n // 2)
    p = study.encode(z, 2.0**20)
    for j, value in enumerate(z):
        root = np.exp(1j * np.pi * (2 * j + 1) / n)
        taken = sum(int(c) * root**k for k, c in enumerate(p)) / 2**20
        assert abs(taken - value) <= n / 2 / 2**20 + 1e-9
    assert study.decode(p, 2.0**20) == pytest.approx(z, abs=n / 2 / 2**20 + 1e-9)


@given(st.integers(0, 2**32 - 1))
def test_multiplying_polynomials_multiplies_the_values(seed):
    """Modulo X^n + 1, by the slow sum."""
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(-2, 2, (2, 4))
    p, q = (study.encode(v, 2.0**20) for v in (a, b))
    product = [0] * 8
    for i, x in enumerate(p.tolist()):
        for j, y in enumerate(q.tolist()):
            product[(i + j) % 8] += x * y * (-1) ** ((i + j) // 8)
    assert study.decode(product, 2.0**40).real == pytest.approx(a * b, abs=1e-4)


@pytest.mark.parametrize(
    ("values", "scale", "match"),
    [
        ([1, 2, 3], 64, r"Expected 2\^k values, got 3"),
        ([], 64, r"Expected 2\^k values, got 0"),
        ([np.nan, 1], 64, "Expected finite values"),
        ([1, 2], 0, "a scale above 0"),
        ([1e-3, 0], 64, "Every coefficient rounds to 0"),
        ([1, 2], 2.0**70, "take a smaller scale"),
    ],
)
def test_what_cannot_be_encoded_is_one_sentence(values, scale, match):
    with pytest.raises(ValueError, match=match):
        study.encode(values, scale)


# --- depth and costs


def test_each_rescaling_prime_is_one_multiplication(rows):
    reached = rows[rows["metric"] == "reached"]
    assert reached["value"].tolist() == reached["primes"].tolist() == [1, 2]
    assert rows.loc[(rows["part"] == "depth") & (rows["metric"] == "error"), "value"].max() < 1e-6


def test_fitted_powers_are_those_of_a_made_up_cost():
    frame = pd.DataFrame(
        [
            {"part": "costs", "operation": "rotation", "degree": n, "level": level}
            for n in (4096, 8192, 16384)
            for level in (2, 4, 8)
        ]
    )
    frame["value"] = 3e-9 * frame["degree"] ** 1.5 * frame["level"] ** 2
    fit = study.growth(frame).iloc[0]
    assert [fit["n"], fit["level"]] == pytest.approx([1.5, 2])
    assert fit["n_printed"] == pytest.approx(1 + np.log(14 / 12) / np.log(4), abs=0.01)
    assert fit["level_printed"] == pytest.approx(1)


# --- predictions, comparing, the limit


def test_folded_squares_are_the_parabolas():
    """The slow way: fit and apply a parabola at each layer."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(200, 5))
    layers = [(rng.normal(size=s), rng.normal(size=s[1])) for s in ((5, 4), (4, 3), (3, 1))]
    slow = x
    for weights, bias in layers[:-1]:
        z = slow @ weights + bias
        slow = np.polyval(np.polyfit(z.ravel(), np.maximum(z, 0).ravel(), 2), z)
    slow = (slow @ layers[-1][0] + layers[-1][1])[:, 0]
    assert study.clear(study.squared_network(layers, x), x) == pytest.approx(slow, rel=1e-6)


def test_every_encrypted_record_has_the_class_of_the_clear_polynomial(rows):
    table = wide(only(rows, part="inference"), index="model").set_index("model")
    assert list(table.index) == ["4-3-1", "logistic regression"]
    assert (table["agrees_with_clear"] == 1).all()
    assert table["error"].max() < 1e-4
    assert table.loc["logistic regression", "agrees_with_original"] == 1


def test_dice_and_look_up_are_right(rows):
    table = wide(only(rows, part="comparing"), index=["task", "how"])
    assert table["error"].max() < 1e-4


def test_a_shared_result_gives_the_key_and_a_rounded_one_does_not(rows):
    shared = rows[rows["part"] == "leak"].set_index("shared")["value"]
    assert shared.to_dict() == {"all digits": 1.0, "two digits": 0.0}


def test_claims_follow_the_rows(rows):
    worse = rows.copy()
    worse.loc[worse["metric"] == "agrees_with_clear", "value"] = 0.5
    worse.loc[worse["metric"] == "reached", "value"] = 1
    assert study.takeaways(rows)[1].holds
    claims = study.takeaways(worse)
    assert claims[0].text.startswith("Only 50.0% of 80 records")
    assert not claims[1].holds


def test_the_panel_shows_the_slides_polynomial():
    shown = study.explore(real=3, imaginary=4, second=2, scale_bits=6)
    assert shown["polynomial"][0] == "45X^3 + 160X^2 + 91X^1 + 160X^0"
    assert shown["error"].max() < 2 / 64


@pytest.mark.parametrize(
    "changes",
    [
        {"primes": []},
        {"primes": [0]},
        {"degrees": [4096]},
        {"degrees": [4096, 5000]},
        {"degrees": [2048, 4096]},
        {"hidden": [1, 2, 3, 4]},
        {"hidden": [0]},
        {"filter_bits": 5000},
        {"records": 1},
        {"repeats": 0},
        {"seed": -1},
    ],
)
def test_settings_outside_their_range_are_one_sentence(changes):
    with pytest.raises(ValueError, match=r"got .*\.$"):
        settings(**changes)
