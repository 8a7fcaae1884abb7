"""Policies decide, approvals bind."""

from decimal import Decimal

import pytest
from mpc_examples import STATISTICS, X, task
from msgspec.structs import replace

from pet_lab.mpc import costs
from pet_lab.mpc.policy import (
    Approval,
    Policy,
    Spent,
    approve,
    check_approvals,
    objections,
)
from pet_lab.mpc.tasks import DataRef, in_hours
from pet_lab.parties.errors import PartyError, Refused
from pet_lab.parties.log import Signer

HALF = Decimal("0.5")
OPEN = Policy(functions=("joined_statistics",), min_group=3, max_queries=3, epsilon_total=1.0)


def test_a_task_within_the_policy_meets_no_objection():
    assert objections(OPEN, task(), Spent()) == []


@pytest.mark.parametrize(
    ("policy", "changes", "spent", "says"),
    [
        (Policy(), {}, Spent(), "Function 'joined_statistics' is not allowed; allowed: none"),
        (OPEN, {"purpose": "marketing"}, Spent(), "Purpose 'marketing'"),
        (replace(OPEN, levels=("checked",)), {}, Spent(), "Level 'majority'"),
        (replace(OPEN, joins=("hidden",)), {}, Spent(), "Join 'opened'"),
        (OPEN, {"min_group": 2}, Spent(), "Groups below 3"),
        (OPEN, {}, Spent(queries=3), "used 3 times"),
        (OPEN, {"epsilon": 0.6}, Spent(epsilon=HALF), "budget is 1.0, 0.5 is spent"),
        (replace(OPEN, noise_required=True), {}, Spent(), "wants noise"),
        (replace(OPEN, dominance_percent=70), {"dominance_percent": 90}, Spent(), "70 %"),
        (replace(OPEN, dominance_percent=70), {}, Spent(), "70 %"),
        (OPEN, {"expires": in_hours(-1)}, Spent(), "expired"),
    ],
)
def test_each_rule_objects(policy, changes, spent, says):
    said = objections(policy, task(**changes), spent)
    assert len(said) == 1
    assert says in said[0]


def test_noise_replaces_the_smallest_group_and_the_budget_is_exact():
    assert objections(OPEN, task(min_group=0, epsilon=0.5), Spent(epsilon=HALF)) == []
    tenths = Spent(epsilon=sum([Decimal("0.1")] * 9, Decimal(0)))
    assert objections(OPEN, task(min_group=0, epsilon=0.1), tenths) == []
    assert objections(OPEN, task(min_group=0, epsilon=0.100001), tenths) != []


@pytest.mark.parametrize("total", ["NaN", "-1", "Infinity"])
def test_a_budget_that_is_no_number_is_no_policy(total):
    with pytest.raises(PartyError, match="epsilon_total is a number"):
        Policy(epsilon_total=Decimal(total))


def test_an_excluded_party_cannot_take_any_role():
    for name in ("px", "pz", "pp-3"):
        assert "Excluded" in objections(OPEN, task(), Spent(), excluded=[name])[0]


def test_sizes_that_would_take_hours_are_refused_with_the_estimate_and_a_way_out():
    big = tuple(replace(d, rows=100_000) for d in task().inputs)
    said = costs.too_long(task(inputs=big), 600)
    assert " d " in said
    assert "private set intersection" in said
    assert "10 min are allowed" in said
    assert costs.too_long(task(), 600) == ""
    aligned = task(parameters={**STATISTICS, "join": "aligned"}, inputs=big)
    assert costs.estimate(aligned).seconds < costs.estimate(task(inputs=big)).seconds / 1e3


def test_all_k_approvals_and_no_fewer():
    signers = {n: Signer(n) for n in ("pp-1", "pp-2", "pp-3")}
    publics = {n: s.public for n, s in signers.items()}
    asked = task()
    given = [approve(s, asked) for s in signers.values()]
    check_approvals(asked, given, publics)
    with pytest.raises(Refused, match="2 of 3 approvals: pp-3 did not approve"):
        check_approvals(asked, given[:2], publics)
    with pytest.raises(Refused, match="2 of 3"):
        check_approvals(asked, [given[0], given[1], given[1]], publics)


def test_an_approval_cannot_be_replayed_for_another_task_or_forged():
    signers = {n: Signer(n) for n in ("pp-1", "pp-2", "pp-3")}
    publics = {n: s.public for n, s in signers.items()}
    first, second = task(), task()
    given = [approve(s, first) for s in signers.values()]
    assert first.sha256 != second.sha256, "two equal requests are two tasks"
    with pytest.raises(Refused, match="another task"):
        check_approvals(second, given, publics)
    relabelled = [Approval(party=a.party, task=second.sha256, signature=a.signature) for a in given]
    with pytest.raises(Refused, match="signature"):
        check_approvals(second, relabelled, publics)
    stranger = approve(Signer("pp-3"), first)
    with pytest.raises(Refused, match="signature"):
        check_approvals(first, [*given[:2], stranger], publics)
    borrowed = Approval(party="pp-3", task=first.sha256, signature=given[0].signature)
    with pytest.raises(Refused, match="signature"):
        check_approvals(first, [*given[:2], borrowed], publics)


def test_changed_data_make_the_approvals_void():
    signer = Signer("pp-1")
    asked = task()
    given = approve(signer, asked)
    other = DataRef(owner="px", schema=X, rows=24, commitments=("01", "00", "00"))
    with pytest.raises(Refused, match="another task"):
        check_approvals(asked.with_data(other, asked.inputs[1]), [given], {"pp-1": signer.public})


def test_the_keys_do_not_show():
    signer = Signer("pp-1")
    for shown in (repr(signer), str(signer), repr(vars(signer))):
        assert signer.raw().hex() not in shown
    assert "signature" not in repr(approve(signer, task()))
