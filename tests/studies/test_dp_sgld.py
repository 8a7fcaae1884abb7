"""Langevin dynamics: spreads and shifts in closed form, mixing, claims that turn, and refusals."""

import numpy as np
import pytest

from pet_lab.studies import dp_sgld as study


def settings(**changes):
    values = {"records": 50, "batch": 10, "temperature": 1.0, "delta": 1e-5, "steps": [0.1, 1.0]}
    values |= {"barriers": [1.0, 8.0], "chains": 2000, "replicates": 2, "seed": 3}
    return study.Settings(**values | changes)


@pytest.fixture(scope="module")
def rows():
    return study.simulate(settings())


def closed_form(method, how, step):
    """Stationary standard deviation with full gradients."""
    return study.noise(method, how, step) / np.sqrt(1 - (1 - step) ** 2)


@pytest.mark.parametrize("method", [study.SGD, study.DP_SGD, study.SGLD])
def test_the_stationary_spread_is_its_closed_form(rows, method):
    here = rows[(rows["gradients"] == study.FULL) & (rows["method"] == method)]
    for step, sd in here[here["metric"] == "sd"].groupby("step")["value"].mean().items():
        assert sd == pytest.approx(closed_form(method, settings(), step), rel=0.08)


def test_small_steps_have_the_spread_of_the_posterior_and_a_step_of_one_twice_its_variance():
    how = settings()
    assert closed_form(study.SGLD, how, 1e-6) == pytest.approx(how.posterior_sd, rel=1e-5)
    assert closed_form(study.SGLD, how, 1.0) == pytest.approx(how.posterior_sd * np.sqrt(2))
    assert how.posterior_sd == pytest.approx(1 / np.sqrt(51))


def test_the_mean_is_the_posteriors(rows):
    how = settings()
    here = rows[(rows["gradients"] == study.FULL) & (rows["metric"] == "mean")]
    centre = study.records(how).sum() / 51
    assert (np.abs(here["value"] - centre) < 5 * how.posterior_sd * np.sqrt(2 / 2000)).all()


def test_the_shift_of_the_last_iterate_is_that_of_the_recursion():
    how, step, h = settings(), 0.3, 51.0
    moved = variance = 0.0
    for n in range(1, 30):
        moved = (1 - step) * moved + step / h * 2
        variance = (1 - step) ** 2 * variance + 2 * step / h
        seen = study.shift(study.LAST, how, step=step, steps=n)
        assert seen == pytest.approx(moved / np.sqrt(variance))
        assert seen <= study.shift(study.ALL, how, step=step, steps=n) * (1 + 1e-12)


def test_the_last_iterate_of_many_small_steps_costs_what_the_posterior_costs():
    how = settings()
    last = study.shift(study.LAST, how, step=1e-4, steps=10**6)
    assert last == pytest.approx(study.shift(study.POSTERIOR, how, step=1e-4, steps=1), rel=1e-3)


def test_a_low_barrier_is_crossed_and_a_high_one_is_not(rows):
    here = rows[(rows["metric"] == "distance") & (rows["steps"] == 1024)]
    far = here.set_index("barrier")["value"]
    assert far[1.0] < 0.05 < 0.4 < far[8.0]


def test_a_longer_chain_is_closer_to_the_posterior(rows):
    far = rows[(rows["metric"] == "distance") & (rows["barrier"] == 8.0)].sort_values("steps")
    assert (far["value"].diff().dropna() < 1e-9).all()


def test_densities_integrate_to_one_and_claims_turn(rows):
    curves = study.densities(rows, settings())
    for name, curve in curves.groupby("method"):
        width = curve["theta"].diff().iloc[1]
        assert curve["value"].sum() * width == pytest.approx(1, abs=0.01), name
    assert study.takeaways(rows, settings())[0].holds
    wide = rows.assign(value=rows["value"].mask(rows["metric"] == "sd", 1.0))
    texts = [claim.text for claim in study.takeaways(wide, settings())]
    assert any(text.startswith("A step of 0.1 is too large") for text in texts)
    assert any(text.startswith("Batches hardly widen") for text in texts)


def test_the_panel_agrees_with_the_rows(rows):
    table = study.explore(50, 1.0, 0.1, 1024).set_index("released")["epsilon"]
    here = rows[(rows["metric"] == "epsilon_spent") & (rows["part"] == "budget")]
    seen = here[here["steps"] == 1024].set_index("released")["value"]
    assert table.to_dict() == pytest.approx(seen.to_dict())


def test_one_seed_one_result(rows):
    again = study.spreads(settings())
    before = rows[rows["part"] == "spread"]
    assert again["value"].tolist() == before["value"].tolist()


@pytest.mark.parametrize(
    "changes",
    [
        {"records": 0},
        {"batch": 51},
        {"temperature": 0.0},
        {"delta": 0.0},
        {"delta": 1.0},
        {"steps": []},
        {"steps": [2.0]},
        {"steps": [0.0]},
        {"barriers": [0.5]},
        {"barriers": [60.0]},
        {"chains": 1},
        {"replicates": 1},
        {"seed": -1},
    ],
)
def test_settings_outside_their_range_are_one_sentence(changes):
    with pytest.raises(ValueError, match=r"got .*\.$"):
        settings(**changes)
