"""Policies decide, approvals bind, logs cannot be rewritten."""

import json
from dataclasses import replace

import pytest
from mpc_examples import STATISTICS, X, task

from pet_lab.mpc import costs
from pet_lab.mpc.audit import AuditLog, Entry, read, verify
from pet_lab.mpc.errors import MpcError, Refused
from pet_lab.mpc.policy import (
    Approval,
    Policy,
    Signer,
    Spent,
    approve,
    check_approvals,
    objections,
)
from pet_lab.mpc.tasks import DataRef, in_hours

OPEN = Policy(functions=("joined_statistics",), min_group=3, max_queries=3, epsilon_total=1.0)


def test_a_task_within_the_policy_meets_no_objection():
    assert objections(OPEN, task(), Spent()) == []


@pytest.mark.parametrize(
    ("policy", "changes", "spent", "says"),
    [
        (Policy(), {}, Spent(), "not on this party's list: none"),
        (OPEN, {"purpose": "marketing"}, Spent(), "Purpose 'marketing'"),
        (replace(OPEN, levels=("checked",)), {}, Spent(), "Level 'majority'"),
        (replace(OPEN, joins=("hidden",)), {}, Spent(), "Join 'opened'"),
        (OPEN, {"min_group": 2}, Spent(), "Groups below 3"),
        (OPEN, {}, Spent(queries=3), "used 3 times"),
        (OPEN, {"epsilon": 0.6}, Spent(epsilon=0.5), "budget is 1, 0.5 is spent"),
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
    assert objections(OPEN, task(min_group=0, epsilon=0.5), Spent(epsilon=0.5)) == []


def test_an_excluded_party_cannot_take_any_role():
    for name in ("px", "pz", "pp-3"):
        assert "Excluded" in objections(OPEN, task(), Spent(), excluded=[name])[0]


def test_sizes_that_would_take_hours_are_refused_with_the_estimate_and_a_way_out():
    big = tuple(replace(d, rows=100_000) for d in task().inputs)
    said = costs.too_long(task(inputs=big), 600)
    assert "days" in said
    assert "private set intersection" in said
    assert "10 minutes are allowed" in said
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
    relabelled = [Approval(a.party, second.sha256, a.signature) for a in given]
    with pytest.raises(Refused, match="signature"):
        check_approvals(second, relabelled, publics)
    stranger = approve(Signer("pp-3"), first)
    with pytest.raises(Refused, match="signature"):
        check_approvals(first, [*given[:2], stranger], publics)
    borrowed = Approval("pp-3", first.sha256, given[0].signature)
    with pytest.raises(Refused, match="signature"):
        check_approvals(first, [*given[:2], borrowed], publics)


def test_changed_data_make_the_approvals_void():
    signer = Signer("pp-1")
    asked = task()
    given = approve(signer, asked)
    other = DataRef(owner="px", schema=X, rows=24, commitments=("01", "00", "00"))
    with pytest.raises(Refused, match="another task"):
        check_approvals(asked.with_data(other, asked.inputs[1]), [given], {"pp-1": signer.public})


# --- the log -----------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path):
    made = AuditLog(Signer("pp-1"), tmp_path / "audit.jsonl")
    for i in range(5):
        made.add("approved", task=f"{i:064x}", epsilon=0.1 * i)
    return made


def test_a_log_verifies_and_continues_after_a_restart(log):
    verify(log.entries, log.signer.public, [log.head()])
    again = AuditLog(log.signer, log.path)
    again.add("excluded", party="pp-2")
    verify(read(log.path), log.signer.public, [log.head(), again.head()])


@pytest.mark.parametrize("field", ["time", "kind", "body", "previous"])
def test_a_changed_entry_is_found(log, field):
    entries = list(log.entries)
    value = {"task": "ff"} if field == "body" else "0" * 64
    entries[2] = replace(entries[2], **{field: value})
    with pytest.raises(MpcError, match="Entry 2"):
        verify(entries, log.signer.public)


@pytest.mark.parametrize(
    "edit",
    [
        lambda e: e[:2] + e[3:],
        lambda e: [e[1], e[0], *e[2:]],
        lambda e: [*e[:3], e[2], *e[3:]],
        lambda e: e[1:],
    ],
    ids=["removed", "swapped", "doubled", "beheaded"],
)
def test_moved_entries_are_found(log, edit):
    with pytest.raises(MpcError, match="missing or moved"):
        verify(edit(list(log.entries)), log.signer.public)


def test_a_cut_end_shows_only_against_a_witness(log):
    seen = log.head()
    short = log.entries[:3]
    verify(short, log.signer.public)
    with pytest.raises(MpcError, match="its end was cut off"):
        verify(short, log.signer.public, [seen])


def test_a_keeper_that_signs_a_new_history_is_found_by_a_witness(log):
    seen, forged = log.head(), AuditLog(log.signer)
    for entry in log.entries:
        forged.add(entry.kind, **{**entry.body, "epsilon": 0.0})
    verify(forged.entries, log.signer.public)
    with pytest.raises(MpcError, match="differs from what a witness saw"):
        verify(forged.entries, log.signer.public, [seen])


def test_another_partys_log_does_not_pass(log):
    with pytest.raises(MpcError, match="changed after it was signed"):
        verify(log.entries, Signer("pp-2").public)


def test_a_party_does_not_start_on_a_damaged_log(log):
    lines = log.path.read_text().splitlines()
    edited = json.loads(lines[1]) | {"kind": "refused"}
    log.path.write_text("\n".join([lines[0], json.dumps(edited), *lines[2:]]) + "\n")
    with pytest.raises(MpcError, match="Entry 1"):
        AuditLog(log.signer, log.path)
    log.path.write_text("not json\n")
    with pytest.raises(MpcError, match="Line 1"):
        AuditLog(log.signer, log.path)


def test_the_keys_do_not_show():
    signer = Signer("pp-1")
    assert signer.raw().hex() not in repr(vars(signer))
    assert Signer("pp-1", signer.raw()).public == signer.public
    assert "signature" not in repr(approve(signer, task()))
    assert isinstance(AuditLog(signer).add("x"), Entry)
