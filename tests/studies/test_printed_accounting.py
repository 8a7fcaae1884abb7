"""Printed epsilons: known values, what reads a cell, what is refused, the accountants' order."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from pet_lab import accounting
from pet_lab.studies import accounting as study
from pet_lab.workbench import published, scorecard

SETTING = {"way": "moments", "noise_multiplier": 4.0, "records": 100, "batch": 1, "steps": 10_000}
SETTING |= {"delta": 1e-5, "orders": "whole"}


def printed(**changes):
    cell = {"table": "t", "metric": "epsilon", "printed": 1.26, "text": "1.26", **SETTING}
    return pd.DataFrame([cell | changes])


def simulate(frame):
    return study.simulate(frame, epochs=[1, 10], rate=0.01, noise=4.0)


def test_abadi_s_epsilon_to_its_digits():
    assert round(study.value("epsilon", SETTING), 2) == 1.26


def test_old_moments_of_one_gaussian_are_their_closed_form():
    """min over a of a s + log(1/delta) / (a - 1) is s + 2 sqrt(s log(1/delta)), s = T / (2 z^2)."""
    z, steps, delta = 3.0, 7, 1e-6
    s = steps / (2 * z * z)
    best = 1 + math.sqrt(math.log(1 / delta) / s)
    got = accounting.epsilon_by(
        "moments", z, rate=1, steps=steps, delta=delta, orders=[best, best + 1]
    )
    assert got == pytest.approx(s + 2 * math.sqrt(s * math.log(1 / delta)), rel=1e-12)


def test_moments_of_a_sampled_gaussian_by_integration():
    z, q, order = 2.5, 0.01, 1.5
    x = np.linspace(-60, 60, 400_001)
    base = stats.norm.pdf(x, 0, z)
    ratio = 1 - q + q * np.exp((2 * x - 1) / (2 * z * z))
    exact = 50 * math.log(integrate.trapezoid(base * ratio**order, x)) / (order - 1)
    got = accounting.renyi_divergences(z, rate=q, steps=50, orders=[order])[1][0]
    assert got == pytest.approx(exact, rel=1e-6)
    assert exact < 6.6e-4  # a printed bound at this order is 6.71e-4


def test_today_s_conversion_is_that_of_the_library():
    how = {"rate": 256 / 60000, "steps": 3516, "delta": 1e-5}
    ours = accounting.epsilon_by("renyi", 1.3, **how, orders=study.ORDERS["library"])
    theirs = accounting.claimed_epsilon(1.3, n=60000, batch_size=256, epochs=15, delta=1e-5)
    assert ours == pytest.approx(theirs, rel=1e-12)


def test_each_bound_is_below_the_older_one():
    how = {"rate": 0.01, "steps": 10_000, "delta": 1e-5}
    ways = ("strong", "moments", "renyi", "loss")
    epsilons = [accounting.epsilon_by(way, 4.0, **how) for way in ways]
    assert epsilons == sorted(epsilons, reverse=True)
    assert len(set(epsilons)) == 4


def test_the_limit_without_sampling_is_close_to_the_gaussian_at_much_noise():
    """At rate 1 and much noise exp(1/z^2) - 1 is 1/z^2: mu = sqrt(T) / z."""
    assert accounting.clt_mu(50.0, rate=1, steps=100) == pytest.approx(0.2, rel=1e-3)
    many = accounting.clt_mu(50.0, rate=0.1, steps=100, way="clt_uniform")
    assert many == pytest.approx(math.sqrt(2) * 0.1 * 10 / 50, rel=0.5)


def test_a_replaced_record_costs_at_most_one_per_cent_too_much():
    """The limit of ever finer grids is printed by another accountant: 1.99312."""
    got = accounting.epsilon_by("replaced", 4.0, rate=0.01, steps=10_000, delta=1e-5)
    assert 1.99312 <= got <= 1.01 * 1.99312


def test_a_cell_is_read_as_it_stands_and_as_it_ran():
    rows = simulate(printed(ran_steps=40_000.0))
    mine = rows[rows["part"] == "printed"].set_index("reading")["value"]
    assert mine["described"] == pytest.approx(1.2586, abs=1e-4)
    assert mine["published"] == pytest.approx(2.5759, abs=1e-4)
    share = rows[rows["metric"] == "share_left"]["value"]
    assert share.iloc[0] == pytest.approx(2.034 / 1.26, rel=1e-3)  # of what ran


def test_a_divergence_and_a_needed_noise():
    at = SETTING | {"order": 2.0, "records": 1}
    assert study.value("divergence", at) == pytest.approx(10_000 * 2 / (2 * 16))
    noise = study.value("needed_noise", SETTING | {"target": 1.26})
    assert study.value("epsilon", SETTING | {"noise_multiplier": noise}) == pytest.approx(
        1.26, 1e-4
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"metric": "accuracy"}, "Expected a metric of epsilon.*got accuracy"),
        ({"orders": "many"}, "orders is one of whole"),
        ({"way": "zcdp"}, "way is one of strong"),
        ({"steps": None}, "Expected steps or epochs"),
        ({"noise_multiplier": 0.0}, "noise_multiplier is a number above 0"),
        ({"batch": 200}, "rate is a number from"),
        ({"delta": 0.0}, "delta"),
    ],
)
def test_what_cannot_be_computed_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        simulate(printed(**changes))


def test_a_table_without_a_setting_is_refused():
    with pytest.raises(ValueError, match=r"there is no \['batch'\]"):
        study.check(printed().drop(columns="batch"), epochs=[1], rate=0.01, noise=4.0, seed=0)


def test_claims_turn_with_their_rows():
    rows = simulate(published.cells("abadi-2016"))
    claims = study.takeaways(rows)
    assert all(claim.holds for claim in claims)
    rows.loc[rows["metric"] == "share_left", "value"] = 1.2
    assert [c.holds for c in study.takeaways(rows)][:2] == [False, False]
    assert len(study.explore(noise=1.1, batch=256, epochs=1)) == len(study.WAYS)


def test_the_shelf_s_verdicts():
    """The quick tables: which printed numbers stand, and which reading explains the others."""
    tables = ["abadi-2016", "opacus-examples"]
    scored = scorecard.score(simulate(published.cells(*tables)), tables)
    verdicts = scored.groupby(["table", "as"])["verdict"].agg(list)
    assert verdicts["abadi-2016", "described"] == ["differs", "reproduced", "differs", "differs"]
    assert set(verdicts["opacus-examples", "published"]) == {"reproduced"}
    assert verdicts["opacus-examples", "described"].count("differs") == 4
