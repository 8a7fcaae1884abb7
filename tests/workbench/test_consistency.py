"""Contradictions among printed numbers: none in numbers from real tables, found in spoilt ones."""

from fractions import Fraction

import msgspec
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

from pet_lab.workbench import consistency, published
from pet_lab.workbench.consistency import auc_bounds, check, confusion_range, f1_range, is_share_of
from pet_lab.workbench.published import Cell, PrintedTable, PublishedError

CONFUSION = (
    {
        "rule": "confusion",
        "by": "side",
        "accuracy": "a",
        "precision": "p",
        "recall": "r",
        "f1": "f",
    },
)


def cell(metric, printed, table="t", **where):
    return Cell(
        table=table, where=where, metric=metric, printed=printed, unit="u", margin=0, kind="exact"
    )


def table(*cells, checks, name="t"):
    return PrintedTable(
        id=name,
        title="",
        source="",
        place="",
        licence="",
        notebook="",
        keys=(),
        cells=cells,
        checks=checks,
    )


def ratio(top, bottom):
    """As libraries print it: 0 where nothing is divided by nothing."""
    return top / bottom if bottom else 0.0


def printed_confusion(aa, ab, ba, bb, digits):
    """Cells of a table with aa, ab records of class a and ba, bb of class b, called a or b."""

    def text(x):
        return f"{x:.{digits}f}"

    return [
        cell("a", text((aa + bb) / (aa + ab + ba + bb))),
        *(
            cell(metric, text(value), side=side)
            for side, hit, actual, called in (
                ("a", aa, aa + ab, aa + ba),
                ("b", bb, bb + ba, bb + ab),
            )
            for metric, value in (
                ("p", ratio(hit, called)),
                ("r", ratio(hit, actual)),
                ("f", ratio(2 * hit, actual + called)),
            )
        ),
    ]


COUNTS = st.tuples(*[st.integers(0, 60)] * 4).filter(sum)


@given(COUNTS, st.integers(1, 4))
@example((0, 5, 0, 7), 2)  # class a never called: its precision is 0 / 0
@example((0, 0, 3, 4), 2)  # no record of class a
@example((5, 0, 0, 0), 1)
def test_a_real_confusion_table_is_never_flagged(counts, digits):
    assert check([table(*printed_confusion(*counts, digits), checks=CONFUSION)]) == []


@given(COUNTS, st.integers(2, 4), st.sampled_from([-0.3, 0.3]))
def test_a_spoilt_accuracy_is_flagged_whenever_the_rest_determines_it(counts, digits, shift):
    cells = printed_confusion(*counts, digits)
    by = {c.metric: [d for d in cells if d.metric == c.metric] for c in cells}
    span = confusion_range(*[tuple(c.interval for c in by[m]) for m in "pr"])
    spoilt = cells[0].value + shift
    assume(0 <= spoilt <= 1)
    assume(not span[0] - 0.01 <= spoilt <= span[1] + 0.01)
    contradictions = check([table(cell("a", f"{spoilt:.{digits}f}"), *cells[1:], checks=CONFUSION)])
    assert [f.metric for f in contradictions] == ["a"]
    assert f"{spoilt:.{digits}f} is printed" in contradictions[0].sentence


@given(st.tuples(*[st.integers(5, 60)] * 4))
def test_classes_with_unlike_rates_determine_the_accuracy(counts):
    """Where rates are known to four digits and differ, hardly anything is left free."""
    aa, ab, ba, bb = counts
    assume(abs(aa * bb - ab * ba) > 0.1 * (aa + ab) * (ba + bb))  # better or worse than guessing
    cells = printed_confusion(*counts, 4)
    by = {m: tuple(c.interval for c in cells if c.metric == m) for m in "pr"}
    low, high = confusion_range(by["p"], by["r"])
    assert low - 1e-6 <= (aa + bb) / sum(counts) <= high + 1e-6
    assert high - low < 0.02


def test_the_linear_program_agrees_with_a_search_over_class_shares():
    """The slow definition: for each share of class a, scan what the rounded recalls allow."""
    p, r = ((0.275, 0.285), (0.845, 0.855)), ((0.925, 0.935), (0.125, 0.135))
    share, ra, rb = np.meshgrid(
        np.linspace(0.001, 0.999, 999), np.linspace(*r[0], 41), np.linspace(*r[1], 41)
    )
    pa = share * ra / (share * ra + (1 - share) * (1 - rb))
    pb = (1 - share) * rb / ((1 - share) * rb + share * (1 - ra))
    ok = (p[0][0] <= pa) & (pa <= p[0][1]) & (p[1][0] <= pb) & (pb <= p[1][1])
    accuracy = (share * ra + (1 - share) * rb)[ok]
    low, high = confusion_range(p, r)
    assert low <= accuracy.min()
    assert accuracy.max() <= high
    assert (accuracy.min(), accuracy.max()) == pytest.approx((low, high), abs=1e-3)


def test_precisions_and_recalls_that_no_table_has():
    """Recall 1 of both classes means no error at all, so no precision can be below 1."""
    cells = [cell("a", "0.90")]
    cells += [cell(m, v, side=s) for s in "ab" for m, v in (("p", "0.60"), ("r", "1.00"))]
    checks = ({k: v for k, v in CONFUSION[0].items() if k != "f1"},)
    contradictions = check([table(*cells, checks=checks)])
    assert len(contradictions) == 4
    assert all("no table of two classes" in f.sentence for f in contradictions)


@given(COUNTS)
def test_a_spoilt_f1_is_flagged(counts):
    cells = printed_confusion(*counts, 3)
    at = next(i for i, c in enumerate(cells) if c.metric == "f")
    spoilt = cells[at].value + (0.1 if cells[at].value < 0.5 else -0.1)
    span = f1_range(*(c.interval for c in cells if c.where == {"side": "a"} and c.metric in "pr"))
    assume(not span[0] - 0.001 <= spoilt <= span[1] + 0.001)
    cells[at] = cell("f", f"{spoilt:.3f}", side="a")
    contradictions = check([table(*cells, checks=CONFUSION)])
    assert ("f", {"side": "a"}) in [(f.metric, f.where) for f in contradictions]


@given(st.integers(1, 400), st.data(), st.integers(1, 5))
def test_a_rounded_share_of_n_passes_and_grim_is_exact(n, data, digits):
    k = data.draw(st.integers(0, n))
    shown = cell("m", f"{k / n:.{digits}f}")
    assert is_share_of(n, shown.interval)
    assert check([table(shown, checks=({"rule": "whole_counts", "n": {"m": n}},))]) == []


@given(st.integers(2, 90), st.integers(0, 10_000))
def test_grim_by_its_definition(n, units):
    value, half = Fraction(units, 10_000), Fraction(1, 20_000)
    by_definition = any(abs(Fraction(k, n) - value) <= half for k in range(n + 1))
    assert is_share_of(n, cell("m", f"{units / 10_000:.4f}").interval) == by_definition


def test_a_share_that_no_count_gives_is_flagged():
    contradictions = check(
        [table(cell("m", "0.86100"), checks=({"rule": "whole_counts", "n": {"m": 79}},))]
    )
    assert "no whole number of 79" in contradictions[0].sentence


SUM = ({"rule": "sum", "metric": "m", "total": 100},)


@given(st.lists(st.integers(0, 50), min_size=2, max_size=6), st.integers(-3, 3))
def test_a_sum_is_flagged_if_and_only_if_it_is_wrong(parts, shift):
    checks = ({"rule": "sum", "metric": "m", "total": sum(parts) + shift},)
    cells = [cell("m", str(v), row=i) for i, v in enumerate(parts)]
    assert len(check([table(*cells, checks=checks)])) == (len(parts) if shift else 0)


def test_a_table_that_repeats_another_must_say_the_same():
    checks = ({"rule": "equal", "metric": "m", "same_as": "t"},)
    first = table(cell("m", "10", row=1), cell("m", "11", row=2), checks=())
    second = [cell("m", "10", "u", row=1), cell("m", "13", "u", row=2)]
    (only,) = check([first, table(*second, checks=checks, name="u")])
    assert (only.table, only.where) == ("u", {"row": 2})
    assert "prints 11 for the same; 13 here" in only.sentence
    assert check([table(*second, checks=checks, name="u")]) == []  # the other table is not at hand


# ------------------------------------------------------------------ ROC


def curve(steps):
    """ROC of a threshold attack, by trapezoids as libraries do: area, max|t - f|."""
    tpr = np.cumsum([0, *[s[0] for s in steps]]) / max(sum(s[0] for s in steps), 1)
    fpr = np.cumsum([0, *[s[1] for s in steps]]) / max(sum(s[1] for s in steps), 1)
    area = float(np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2))
    return area, float(np.abs(tpr - fpr).max())


STEPS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=12).filter(
    lambda s: sum(a for a, _ in s) and sum(b for _, b in s)
)
ROC = ({"rule": "roc", "auc": "auc", "advantage": "adv"},)


@given(STEPS)
def test_every_curve_is_within_the_bounds(steps):
    area, advantage = curve(steps)
    low, high = auc_bounds(advantage)
    assert low - 1e-12 <= area <= high + 1e-12


@given(STEPS, st.integers(1, 5))
def test_a_real_curve_is_never_flagged(steps, digits):
    area, advantage = curve(steps)
    cells = [cell("auc", f"{area:.{digits}f}"), cell("adv", f"{advantage:.{digits}f}")]
    assert check([table(*cells, checks=ROC)]) == []


@pytest.mark.parametrize("advantage", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_the_bounds_are_reached(advantage):
    n = 1000
    a = round(advantage * n)
    staircase = [(a, 0), *[(1, 1)] * (n - a), (0, a)]  # rise by A, then run along y = x + A
    steps = [s for unit in staircase for s in ([(1, 0), (0, 1)] if unit == (1, 1) else [unit])]
    assert curve(steps)[0] == pytest.approx(auc_bounds(advantage)[1], abs=2 / n)
    low = curve([(s[1], s[0]) for s in steps])  # reflected: below the diagonal
    assert low[0] == pytest.approx(auc_bounds(advantage)[0], abs=2 / n)


def test_a_curve_below_its_convex_hull_bound_exists_so_that_bound_is_not_used():
    area, advantage = curve([(5, 0), (0, 10), (5, 0)])
    assert advantage == 0.5
    assert area == 0.5 < (1 + advantage) / 2


def test_an_area_above_its_bound_is_flagged():
    limit = auc_bounds(0.2)[1]
    for area, wrong in ((limit - 0.01, False), (limit + 0.01, True)):
        cells = [cell("auc", f"{area:.3f}"), cell("adv", "0.200")]
        assert bool(check([table(*cells, checks=ROC)])) == wrong


def test_bounds_refuse_what_is_no_advantage():
    with pytest.raises(ValueError, match=r"from 0 to 1, got 1\.5"):
        auc_bounds(1.5)


# ------------------------------------------------------------------ epsilon

EPSILON = ({"rule": "epsilon", "metric": "e", "noise": "sigma", "free": ["lr"], "tables": ["u"]},)


def gaussian_epsilon(sigma, delta=1e-5):
    """Exact epsilon of one Gaussian mechanism of sensitivity 1 (Balle and Wang 2018)."""

    def excess(e):
        a, b = 1 / (2 * sigma), e * sigma
        return ndtr(a - b) - np.exp(e + log_ndtr(-a - b)) - delta

    return brentq(excess, 0, 2000)


@given(
    st.lists(st.floats(0.1, 5), min_size=2, max_size=5, unique=True),
    st.integers(1, 4),
    st.sampled_from([0.1, 0.01]),
)
def test_true_epsilons_are_never_flagged(sigmas, digits, lr):
    cells = [
        cell("e", f"{gaussian_epsilon(s):.{digits}E}", sigma=s, lr=lr if i % 2 else 0.5)
        for i, s in enumerate(sigmas)
    ]
    cells += [cell("e", cells[0].printed, sigma=sigmas[0], lr=9), cell("e", "inf", sigma=0, lr=1)]
    assert check([table(*cells, checks=EPSILON)]) == []


@given(st.floats(0.1, 5), st.integers(1, 9))
def test_a_lost_decimal_point_is_flagged_in_both_tables(sigma, power):
    e = gaussian_epsilon(sigma)
    here = table(cell("e", f"{e:.2E}", sigma=sigma, lr=0.1), checks=EPSILON)
    there = table(cell("e", f"{e * 10**power:.2E}", "u", sigma=sigma, lr=0.01), checks=(), name="u")
    contradictions = check([here, there])
    assert [f.table for f in contradictions] == ["t", "u"]
    assert all("the same digits with another power of ten" in f.sentence for f in contradictions)


def test_epsilon_must_fall_as_noise_grows_and_zero_noise_is_infinite():
    cells = [cell("e", "10.0", sigma=1, lr=1), cell("e", "11.0", sigma=2, lr=2)]
    contradictions = check([table(*cells, checks=EPSILON)])
    assert len(contradictions) == 2
    assert (
        "must fall as sigma grows, but 10.0 is printed at 1 and 11.0 at 2"
        in contradictions[0].sentence
    )
    cells = [cell("e", "3.0", sigma=0, lr=1), cell("e", "inf", sigma=1, lr=1)]
    assert len(check([table(*cells, checks=EPSILON)])) == 2


# ------------------------------------------------------------------ the publication


def test_what_the_report_contradicts():
    """Computed. By hand: recalls .93/.13 and precisions .28/.85 leave a share of non-members of
    about .26, hence an accuracy of .26 x .93 + .74 x .13 = .34."""
    contradictions = {
        (f.table, published.where_text(f.where), f.metric): f for f in check(published.load())
    }
    dp_class0 = contradictions.pop(
        ("3.5", "target=dp-sgd;epsilon=1.1;attack_model=class0", "accuracy")
    )
    assert "imply an accuracy of 0.338 to 0.351; 0.55 is printed" in dp_class0.sentence
    assert {(f.table, f.metric) for f in contradictions.values()} == {
        ("fig-3.10", "epsilon"),
        ("3.4", "epsilon"),
    }
    assert all(f.where["noise_multiplier"] == 0.4 for f in contradictions.values())
    assert all("another power of ten" in f.sentence for f in contradictions.values())


def test_every_declared_check_looks_at_something():
    """Spoil one number a check speaks of, and it speaks: no check is idle."""
    tables = {t.id: t for t in published.load()}
    spoilt = {
        "2.2": ("transactions", "35434"),
        "2.3": ("transactions", "35434"),
        "2.5": ("transactions_ge_500k_small_preferential.mean", "6.375"),
        "2.8": ("transactions_ge_500k_small_preferential.mean", "6.315"),
        "3.2": ("accuracy.validation", "0.83"),
        "3.3": ("accuracy.validation", "0.50"),
        "3.4": ("score.test", "0.8200"),
        "fig-3.10": ("mia.auc", "0.99000"),
        "3.5": ("target.accuracy", "0.75"),
    }
    before = {(f.table, f.metric) for f in check(tables.values())}
    for name, (metric, printed) in spoilt.items():
        cells = list(tables[name].cells)
        at = next(i for i, c in enumerate(cells) if c.metric == metric)
        known = vars(cells[at]) | {"printed": printed}
        cells[at] = Cell(**known)
        changed = tables | {name: msgspec.structs.replace(tables[name], cells=tuple(cells))}
        after = {(f.table, f.metric) for f in check(changed.values())}
        assert (name, metric) in after - before, name
    assert {t.id for t in tables.values() if t.checks} == set(spoilt)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"rule": "guess"}, "rule is one of"),
        ({}, "rule is one of"),
        ({"rule": "sum", "metric": "m"}, "missing a required argument"),
        ({"rule": "sum", "metric": "m", "total": 1, "tolerance": 2}, "unexpected keyword"),
        ({"rule": "sum", "metric": "x", "total": 1}, "no cell has"),
        ({"rule": "confusion", "accuracy": "m", "precision": "m", "recall": "m"}, "two classes"),
    ],
)
def test_a_check_that_makes_no_sense_is_refused(spec, says):
    with pytest.raises(PublishedError, match=says):
        check([table(cell("m", "1"), checks=(spec,))])


def test_the_rules_are_those_the_readme_explains():
    text = (published.PACKAGED / "README.md").read_text(encoding="utf-8")
    assert all(f"`{rule}`" in text for rule in consistency._RULES)
