"""Printed costs of secure aggregation: counts of real rounds, the paper's formula, refusals."""

import pandas as pd
import pytest

from pet_lab.studies import aggregation as study
from pet_lab.workbench import published, scorecard


def simulate(frame, users=(16, 1024)):
    return study.simulate(frame, users=list(users), entries=2**20, value_bits=16)


def test_counts_of_a_round_are_the_paper_s_and_do_not_depend_on_the_vector():
    for users in (3, 6):
        sent = study.one_round(users)
        assert (sent.keys, sent.shares) == (2 * users, 5 * users - 4)
        assert study.one_round(users, entries=33) == sent


def test_many_users_follow_from_few():
    for users in (5, 9):
        assert study.of_many(users) == pytest.approx(study.one_round(users))


def test_expansion_by_the_formula_of_the_paper():
    n, m = 1024, 2**20
    bits = 256 * (2 * n + 5 * n - 4) + 26 * m
    assert study.expansions(n, m, 16)[study.PAPER] == pytest.approx(bits / (16 * m))


def test_a_sum_that_wraps_is_refused():
    assert study.expansions(2**16, 10, 16)
    with pytest.raises(ValueError, match="needs 33, the ring has 32"):
        study.expansions(2**16 + 1, 10, 16)


@pytest.mark.parametrize(
    ("users", "entries", "bits"), [(2, 10, 16), (10, 0, 16), (10, 10, 0), (10, 10, 31)]
)
def test_impossible_rounds_are_refused(users, entries, bits):
    with pytest.raises(ValueError, match=r"got|needs"):
        study.expansions(users, entries, bits)


def test_another_metric_is_refused():
    cell = {"table": "t", "metric": "seconds", "users": 10, "entries": 10, "value_bits": 16}
    with pytest.raises(ValueError, match="Expected the metric expansion, got seconds"):
        simulate(pd.DataFrame([cell]))


def test_the_shelf_s_verdicts_and_claims():
    rows = simulate(published.cells("bonawitz-2017"))
    assert set(scorecard.score(rows, "bonawitz-2017")["verdict"]) == {"reproduced"}
    assert all(claim.holds for claim in study.takeaways(rows))
    wrong = rows.assign(value=rows["value"].where(rows["metric"] != "shares", 1.0))
    assert not study.takeaways(wrong)[0].holds
    assert len(study.explore(log2_users=4, log2_entries=10, value_bits=8)) == 3
