"""Printed audits: known values, closed forms, a hull by definition, and what is refused."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pet_lab import mia
from pet_lab.mia.audit import one_run_bound
from pet_lab.studies import audits as study
from pet_lab.workbench import published, scorecard


def simulate(frame):
    return study.simulate(frame, records=1000, guesses=[10, 100])


def test_the_paper_s_example_to_its_digits():
    got = one_run_bound(1000, 100, 75, delta=1e-4, error=0.05)
    assert round(got, 3) == 0.673
    assert one_run_bound(1000, 100, 75, delta=0, error=0.05) > got  # delta costs


def test_all_right_is_a_closed_form():
    """q^r = error at the bound: epsilon = logit(error^(1/r))."""
    q = 0.05 ** (1 / 30)
    got = one_run_bound(500, 30, 30, delta=0, error=0.05)
    assert got == pytest.approx(math.log(q / (1 - q)), abs=1e-5)
    assert one_run_bound(500, 30, 15, delta=0, error=0.05) == 0


@pytest.mark.parametrize(
    ("counts", "error", "sentence"),
    [((10, 20, 5), 0.1, "right <= guesses <= records"), ((10, 5, 5), 0.0, "error is a prob")],
)
def test_impossible_counts_are_refused(counts, error, sentence):
    with pytest.raises(ValueError, match=sentence):
        one_run_bound(*counts, delta=0, error=error)


def test_a_hull_by_definition():
    """Corners: points with no mixture of two others on or above them; each gets its share."""
    rng = np.random.default_rng(5)
    members, others = rng.normal(3, 1, 40), rng.normal(0, 1, 40)
    curve = mia.roc(members, others)
    points = sorted(
        {(round(x * 40), round(y * 40)) for x, y in zip(curve.fpr, curve.tpr, strict=True)}
    )

    def below(p, a, b):
        line = (b[1] - a[1]) * (p[0] - a[0]) - (p[1] - a[1]) * (b[0] - a[0])
        return a < p < b and line >= 0

    corners = [
        p for p in points if not any(below(p, a, b) for a, b in itertools.combinations(points, 2))
    ]
    share = 0.2 / len(corners)
    slow = max(
        one_run_bound(80, x + y, y, delta=0, error=share) for x, y in corners if (x, y) != (0, 0)
    )
    assert slow > 0
    assert study.best_of_hull(members, others, delta=0, error=0.2) == pytest.approx(slow, abs=1e-5)


def test_a_share_by_its_definition():
    low = study.value("share_low", {"successes": 3, "trials": 15, "confidence": 0.9})
    assert stats.binom.sf(2, 15, low) == pytest.approx(0.05)


def test_unknown_metrics_and_scores_are_refused():
    with pytest.raises(ValueError, match=r"Expected a metric of proved_epsilon.*got recall"):
        study.value("recall", {})
    with pytest.raises(ValueError, match=r"scores is one of two, four, ramp, got 'six'"):
        study.value("auc", {"scores": "six"})


def test_the_shelf_s_verdicts():
    tables = ["steinke-2023", "scipy-binomtest"]
    rows = simulate(published.cells(*tables))
    verdicts = scorecard.score(rows, tables)["verdict"].tolist()
    assert sorted(verdicts) == ["differs", "reproduced", "reproduced"]
    assert all(claim.holds for claim in study.takeaways(rows, records=1000))
    even = rows.assign(value=rows["value"].where(rows["metric"] != "ceiling", 1.0))
    assert not any(claim.holds for claim in study.takeaways(even, records=1000))


def test_own_numbers_are_read_from_their_conditions():
    cell = {"table": "mine", "metric": "auc", "scores": "four", "printed": 0.69, "text": "0.69"}
    rows = simulate(pd.DataFrame([cell]))
    assert rows.set_index("metric")["value"]["auc"] == 11 / 16
    assert len(study.explore(guesses=2000, right_percent=75, records=1000)) == 2
