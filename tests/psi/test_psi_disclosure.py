"""Output checks: nobody works out a withheld cell; noise has its distribution; the budget holds."""

import itertools
import time
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from test_psi_linker import BOTH, files, linked, query

from pet_lab import psi
from pet_lab.psi import disclosure, tokens
from pet_lab.psi import linker as linker_module
from pet_lab.psi.disclosure import OutputRules, QueryLog, Released, protect
from pet_lab.psi.linker import combine


def shown(counts, *, min_cell=10, owners=("a", "b"), earlier=(), complementary=True):
    counts = np.array(counts)
    axes = [f"{o}:x{i}" for i, o in enumerate(owners)]
    return protect(
        counts,
        axes,
        rules=OutputRules(min_cell=min_cell, complementary=complementary),
        full=counts,
        full_axes=axes,
        earlier=earlier,
    )


def test_without_small_cells_everything_is_shown_zeros_too():
    assert shown([[50, 10], [0, 70]]).all()
    assert shown([[5, 1], [0, 7]], min_cell=0).all()


def test_in_a_table_of_two_by_two_one_small_cell_hides_three():
    # Each party knows its own margin only: a shown neighbour in its row or column would give the
    # small cell away, the cell across does not.
    assert shown([[5, 40], [30, 60]]).tolist() == [[False, False], [False, True]]
    only_primary = shown([[5, 40], [30, 60]], complementary=False)
    assert only_primary.tolist() == [[False, True], [True, True]]


def feasible(counts, mask, owners):
    """What one party is left with: each line of the table, what is shown of it, the open rest."""
    for owner_axis, _ in enumerate(owners):
        margin = counts.sum(axis=1 - owner_axis)
        lines = []
        for i, total in enumerate(margin):
            line = counts[i] if owner_axis == 0 else counts[:, i]
            ok = mask[i] if owner_axis == 0 else mask[:, i]
            free = int(total - line[ok].sum())
            lines.append((line, ok, free))
        yield owner_axis, lines


@pytest.mark.parametrize("seed", range(8))
def test_no_party_can_pin_a_small_cell_down(seed):
    rng = np.random.default_rng(seed)
    counts = rng.choice([2, 4, 12, 20, 35, 60], size=(3, 4))
    min_cell = 10
    mask = shown(counts, min_cell=min_cell)
    assert not mask[counts < min_cell].any()
    for _, lines in feasible(counts, mask, ("a", "b")):
        for line, ok, free in lines:
            hidden = np.flatnonzero(~ok)
            if not (line[hidden] < min_cell).any():
                continue
            # With k hidden cells in one line of known sum, each may lie anywhere in 0..free.
            width = free if len(hidden) > 1 else 0
            assert width >= min(min_cell, line.sum())


def test_complementary_cells_are_few():
    counts = np.full((4, 5), 50)
    counts[1, 2] = 3
    mask = shown(counts)
    assert (~mask).sum() == 3  # one more in its row, one more in its column


def test_an_earlier_margin_is_remembered():
    # Shown first: the margin over b's column, which a does not know. Then the table is asked for.
    counts = np.array([[4, 40], [30, 60], [25, 20]])
    margin = counts.sum(axis=0)
    earlier = [Released(("b:x1",), margin, np.ones(2, dtype=bool))]
    mask = shown(counts, earlier=earlier)
    assert not mask[0].any()  # a knows the sum of this row
    hidden = ~mask[:, 0]
    assert hidden.sum() >= 2  # else the column sum shown before would give the small cell
    assert shown(counts).sum() >= mask.sum()


def test_large_tables_with_small_cells_are_refused_not_shown_unchecked():
    big = np.full((70, 70), 3)
    with pytest.raises(psi.PsiError, match="group by fewer columns"):
        shown(big)


def test_the_linker_withholds_and_says_so():
    left, right, values = files(n=60)
    made, result = linked(
        left, right, values={"v": values}, linkers=2, rules=OutputRules(min_cell=15)
    )
    answer = made[0].answer(query(result, *BOTH), "cbs")
    clear = left.frame.merge(right.frame, on="id").groupby(["size", "pref"]).size()
    assert clear.min() < 15
    table = answer.table(result.right.link_key)
    assert table["count"].isna().sum() >= 3
    q = query(result, *BOTH, measure="total", value="statcan:v")
    totals = combine([one.answer(q, "cbs") for one in made], result.right.link_key)
    assert (totals["total"].isna() == table["count"].isna()).all()
    assert made[0].log.entries[0].withheld == table["count"].isna().sum()


def test_differencing_over_queries_is_stopped():
    # First the margin by pref, then by size, then the table: what is hidden in the table must not
    # follow from the margins.
    left, right, _ = files(n=200, seed=3)
    (one,), result = linked(left, right, rules=OutputRules(min_cell=20))
    for names in itertools.chain([("statcan:pref",)], [("cbs:size",)]):
        answer = one.answer(query(result, *names), "cbs")
        assert None not in answer.values
    table = one.answer(query(result, *BOTH), "cbs")
    clear = left.frame.merge(right.frame, on="id").groupby(["size", "pref"]).size()
    assert clear.min() < 20
    assert table.values.count(None) == 4


def test_a_margin_asked_for_later_does_not_undo_a_withheld_cell():
    left, right, _ = files(n=200, seed=3)
    (one,), result = linked(left, right, rules=OutputRules(min_cell=20))
    table = one.answer(query(result, *BOTH), "cbs")
    assert table.values.count(None) == 3
    # The margin over size has no small cell, but would tell statcan the sum of a withheld column.
    answers = [one.answer(query(result, name), "statcan") for name in BOTH]
    assert any(None in a.values for a in answers)


def test_the_budget_is_spent_once_per_question_and_then_ends():
    left, right, _ = files(n=400)
    rules = OutputRules(min_cell=0, epsilon_per_query=0.5, epsilon_total=1.0)
    (one,), result = linked(left, right, rules=rules)
    first = one.answer(query(result, *BOTH), "cbs")
    assert first.epsilon == 0.5
    assert one.answer(query(result, *BOTH), "statcan").values == first.values  # remembered, free
    assert one.log.spent() == 0.5
    one.answer(query(result, "cbs:size"), "cbs")
    with pytest.raises(psi.PsiError, match="budget of epsilon 1 is spent"):
        one.answer(query(result, "statcan:pref"), "cbs")
    clear = left.frame.merge(right.frame, on="id").groupby(["size", "pref"]).size()
    table = first.table(result.left.link_key).set_index(["size", "pref"])["count"]
    assert (table.astype(int) - clear).abs().max() < 80  # 40 scales: chance below 1e-16


def test_the_linkers_noise_is_of_the_budget_that_is_charged(monkeypatch):
    """Not of a rounded one: 0.00006 was once charged and 0.0001 used."""
    scales, draw = [], linker_module.discrete_laplace
    monkeypatch.setattr(
        linker_module, "discrete_laplace", lambda scale: scales.append(scale) or draw(scale)
    )
    left, right, _ = files(n=40)
    (one,), result = linked(left, right, rules=OutputRules(min_cell=0, epsilon_per_query=0.00006))
    one.answer(query(result, *BOTH), "cbs")
    assert set(scales) == {1 / Fraction(0.00006)}
    assert one.log.spent() == 0.00006


def test_noisy_totals_need_a_bound_and_have_it_once():
    left, right, values = files(n=400)
    q_rules = OutputRules(min_cell=0, epsilon_per_query=1.0, epsilon_total=2.0)
    made, result = linked(left, right, values={"v": values}, linkers=2, rules=q_rules)
    q = query(result, *BOTH, measure="total", value="statcan:v")
    with pytest.raises(psi.PsiError, match="needs a bound"):
        made[0].answer(q, "cbs")
    bounded = OutputRules(min_cell=0, epsilon_per_query=1.0, epsilon_total=2.0, value_bound=10**9)
    made, result = linked(left, right, values={"v": values}, linkers=2, rules=bounded)
    with pytest.raises(psi.PsiError, match="statcan did not clip v"):
        made[0].answer(query(result, *BOTH, measure="total", value="statcan:v"), "cbs")
    made, result = linked(
        left, right, values={"v": values}, linkers=2, rules=bounded, value_bound=10**9
    )
    q = query(result, *BOTH, measure="total", value="statcan:v")
    got = combine([one.answer(q, "cbs") for one in made], result.right.link_key)
    frame = left.frame.assign(v=values).merge(right.frame, on="id")
    clear = frame.groupby(["size", "pref"])["v"].sum()
    gap = got.set_index(["size", "pref"])["total"].astype(float) - clear
    assert gap.abs().max() > 0
    assert gap.abs().max() < 40 * 2e9


def test_noise_is_refused_for_keys_that_repeat():
    left = psi.DataHolder("statcan", pd.DataFrame({"id": ["k", "k"], "pref": ["100", "300"]}))
    right = psi.DataHolder("cbs", pd.DataFrame({"id": ["k"], "size": ["small"]}))
    rules = OutputRules(epsilon_per_query=1.0)
    (one,), result = linked(left, right, rules=rules)
    with pytest.raises(psi.PsiError, match="these repeat"):
        one.answer(query(result, *BOTH), "cbs")


# -- what a party gets that merely asks ------------------------------------------------------------


def test_the_owner_of_the_values_gets_no_exact_totals_of_small_groups():
    # With its own values it could search for the subset that adds up to a total: who has a label.
    left, right, values = files(n=240)
    made, result = linked(left, right, values={"v": values}, linkers=2)
    q = query(result, "cbs:size", measure="total", value="statcan:v")
    for one in made:
        one.answer(q, "cbs")  # does not know the values
        with pytest.raises(psi.PsiError, match="exact totals of groups of at least 1000"):
            one.answer(q, "statcan")
    few = OutputRules(min_cell=0, owner_total_min=70)
    made, result = linked(left, right, values={"v": values}, linkers=2, rules=few)
    sizes = right.frame["size"][right.frame["id"].isin(left.frame["id"])].value_counts()
    assert sizes.min() >= 70
    q = query(result, "cbs:size", measure="total", value="statcan:v")
    assert None not in made[0].answer(q, "statcan").values


def test_a_margin_is_not_to_be_had_at_another_linker():
    left, right, values = files(n=60)
    made, result = linked(left, right, values={"v": values}, linkers=2)
    made[0].answer(query(result, *BOTH), "cbs")
    for names in (BOTH, BOTH[:1], BOTH[1:]):
        with pytest.raises(psi.PsiError, match="Counts come from the first linker"):
            made[1].answer(query(result, *names), "cbs")


def test_two_sessions_do_not_tell_their_difference(tmp_path):
    left, right, _ = files(n=60)
    log = QueryLog.open(tmp_path / "queries.jsonl")
    (one,), result = linked(left, right, log=log)
    one.answer(query(result, *BOTH), "cbs")
    one.answer(query(result, *BOTH[:1]), "cbs")  # within the session the audit sees both
    without = psi.DataHolder("statcan", left.frame.drop(index=40))
    again = linked(without, right, log=QueryLog.open(tmp_path / "queries.jsonl"))
    with pytest.raises(psi.PsiError, match="Exact answers of 1 other session"):
        again[0][0].answer(query(again[1], *BOTH), "cbs")
    rules = OutputRules(min_cell=0, epsilon_per_query=0.5)
    noisy = linked(without, right, log=QueryLog.open(tmp_path / "queries.jsonl"), rules=rules)
    noisy[0][0].answer(query(noisy[1], *BOTH), "cbs")
    more = OutputRules(min_cell=0, exact_sessions=2)  # for those who know that the files differ
    allowed = linked(without, right, log=QueryLog.open(tmp_path / "queries.jsonl"), rules=more)
    allowed[0][0].answer(query(allowed[1], *BOTH), "cbs")


def test_under_noise_a_label_that_one_person_has_does_not_show():
    left, right, _ = files(n=60)
    left.frame.loc[50, "pref"] = "300"
    left.frame.loc[left.frame.index != 50, "pref"] = "100"
    rules = OutputRules(min_cell=0, epsilon_per_query=0.5)
    (one,), result = linked(left, right, rules=rules, public=False)
    with pytest.raises(psi.PsiError, match="statcan:pref must be a public list"):
        one.answer(query(result, "statcan:pref"), "cbs")
    shown = []
    for one_person in ("300", "100"):
        left.frame.loc[50, "pref"] = one_person
        (one,), result = linked(left, right, rules=rules)
        table = one.answer(query(result, "statcan:pref"), "cbs").table(result.right.link_key)
        shown.append(table["pref"].tolist())
    assert shown == [["100", "300"]] * 2
    left.frame.loc[50, "pref"] = "900"
    with pytest.raises(psi.PsiError, match="labels that are not in its public list"):
        tokens.tables_for_linkers(
            left, result.left, on="id", columns=["pref"], public={"pref": ["100", "300"]}
        )


def test_values_are_clipped_by_their_owner_to_what_the_noise_is_made_for():
    left, right, _ = files(n=60)
    values = np.full(60, 3)
    values[50] = 10**9
    made, result = linked(left, right, values={"v": values}, linkers=2, value_bound=5)
    q = query(result, "statcan:pref", measure="total", value="statcan:v")
    got = combine([one.answer(q, "cbs") for one in made], result.right.link_key)
    assert got["total"].sum() == 3 * 44 + 5
    rules = OutputRules(min_cell=0, epsilon_per_query=0.5, value_bound=4)
    made, result = linked(left, right, values={"v": values}, linkers=2, rules=rules, value_bound=5)
    q = query(result, "statcan:pref", measure="total", value="statcan:v")
    with pytest.raises(psi.PsiError, match="made for values up to 4, and statcan did not clip v"):
        made[0].answer(q, "cbs")


def test_the_audit_of_a_large_table_ends_in_time_and_is_not_tried_twice(monkeypatch):
    rng = np.random.default_rng(1)
    left, right = (
        psi.DataHolder(
            name,
            pd.DataFrame(
                {"id": [f"{i}" for i in range(3000)], c: rng.integers(0, 28, 3000).astype(str)}
            ),
        )
        for name, c in (("statcan", "pref"), ("cbs", "size"))
    )
    monkeypatch.setattr(disclosure, "AUDIT_CPU_S", 0.5)
    (one,), result = linked(left, right, rules=OutputRules(min_cell=10))
    for q in (query(result, *BOTH), query(result, *BOTH[::-1])):
        begun = time.thread_time()
        with pytest.raises(
            psi.PsiError, match=r"takes longer than 0\.5 s for this table; group by"
        ):
            one.answer(q, "cbs")
        spent = time.thread_time() - begun
    assert spent < 0.4  # the second time it is known


def test_rules_that_make_no_sense_are_refused():
    with pytest.raises(
        ValueError, match="min_cell is a whole number of at least 0, got -1; 0 switches"
    ):
        OutputRules(min_cell=-1)
    with pytest.raises(ValueError, match=r"epsilon_per_query is a number from 0 to 1\.0"):
        OutputRules(epsilon_per_query=2.0, epsilon_total=1.0)
