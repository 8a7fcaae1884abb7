"""Corrected totals: by definition, unbiased where theory says so, calibrated, and refusing."""

import math

import numpy as np
import pandas as pd
import pytest

from pet_lab.linkage import Links, block, resolve
from pet_lab.linkage.neighbours import SlopeFit, fit_neighbours, fit_slope
from pet_lab.linkage.totals import (
    Undefined,
    blocks_only,
    every,
    naive,
    para22,
    para23,
    published,
    resolved,
    weighted,
    within_block,
)

DRAWS = 1000


def draw(rng, *, n_blocks=150, recall=0.9, ratio=0.3, effect=0.0, dependent=0.0):
    """A file of complete blocks with links drawn pair by pair; x and z related by `effect`.

    dependent > 0: records with a large x link more often (breaks paragraph 22's condition).
    """
    size = 1 + rng.poisson(2.0, n_blocks)
    key = np.repeat(np.arange(n_blocks), size)
    n = key.size
    x = rng.lognormal(0, 0.5, n)
    z = (effect * (np.log(x) - 0.0) + rng.standard_normal(n) > 0.5).astype(float)
    order = rng.permutation(n)  # row of b that holds record i
    key_b, z_b = np.empty(n, int), np.empty(n)
    key_b[order], z_b[order] = key, z
    blocks = block(pd.DataFrame({"k": key}), pd.DataFrame({"k": key_b}), ["k"])
    i, j = blocks.pairs()
    p = np.clip(recall + dependent * (x - x.mean()), 0, 1)
    chance = np.where(order[i] == j, p[i], ratio)
    hit = rng.random(i.size) < chance
    links = Links(
        i=i[hit],
        j=j[hit],
        similarity=np.where(order[i] == j, 0.9, 0.85)[hit],
        n_blocked=blocks.neighbours,
        blocks=blocks,
    )
    return links, x, z_b, order


def truth(x, z, order):
    return float(x @ z[order])


def test_each_formula_is_its_definition():
    links, x, z, _ = draw(np.random.default_rng(1))
    linked = sum(x[a] * z[b] for a, b in zip(links.i, links.j, strict=True))
    i, j = links.blocks.pairs()
    blocked = sum(x[a] * z[b] for a, b in zip(i, j, strict=True))
    product = x.sum() * z.sum()
    r, k, f = 0.9, 0.3, 0.01
    assert naive(links, x, z).estimate == pytest.approx(linked)
    assert para22(links, x, z, recall=r, fpr=f).estimate == pytest.approx(
        (linked - f * product) / (r - f)
    )
    assert para23(links, x, z, recall=r, ratio=k).estimate == pytest.approx(
        (linked - k * blocked) / (r - k)
    )
    assert published(links, x, z, recall=r, fpr=f).estimate == pytest.approx(
        (linked - f * blocked) / (r - f)
    )


def test_perfect_links_give_the_truth_by_every_estimator():
    links, x, z, order = draw(np.random.default_rng(2), recall=1.0, ratio=0.0)
    want = truth(x, z, order)
    for name, total in {
        "naive": naive(links, x, z),
        "para22": para22(links, x, z, recall=1.0, fpr=0.0),
        "para23": para23(links, x, z, recall=1.0, ratio=0.0),
        "published": published(links, x, z, recall=1.0, fpr=0.0),
        "weighted": weighted(links, x, z),
        "within_block": within_block(links, x, z),
        "resolved": resolved(links, x, z),
    }.items():
        assert total.estimate == pytest.approx(want), name
        if name in ("naive", "para22", "published"):
            assert np.isnan(total.se), f"{name} claims to know its standard error"
        else:
            assert total.se == pytest.approx(0, abs=1e-6), name


def replicate(estimators, **design):
    rng = np.random.default_rng(20240607)
    errors = {name: [] for name in estimators}
    hits = dict.fromkeys(estimators, 0)
    for _ in range(DRAWS):
        links, x, z, order = draw(rng, **design)
        want = truth(x, z, order)
        for name, estimator in estimators.items():
            total = estimator(links, x, z)
            low, high = total.interval()
            errors[name].append(total.estimate / want - 1)
            hits[name] += low <= want <= high
    return {n: np.array(e) for n, e in errors.items()}, {n: h / DRAWS for n, h in hits.items()}


def with_known_rates(links, x, z):
    return para23(links, x, z, recall=0.9, ratio=0.3)


KNOWN = SlopeFit(recall=0.9, ratio=0.3, cov=np.zeros((2, 2)), n=450)


def unbiased(errors, slack=0.002):
    return abs(errors.mean()) < 4 * errors.std() / math.sqrt(len(errors)) + slack


def covers(share):
    return 0.95 - 4 * 0.0069 - 0.015 < share < 0.95 + 4 * 0.0069 + 0.02


def test_unbiased_and_calibrated_where_links_do_not_depend_on_the_variables():
    """x and z are related inside blocks here (effect = 1), which only blocks_only minds."""
    errors, share = replicate(
        {
            "para23": with_known_rates,
            "weighted": weighted,
            "within": within_block,
            "within_known": lambda a, x, z: within_block(a, x, z, fit=KNOWN),
            "blocks_only": blocks_only,
        },
        effect=1.0,
    )
    for name in ("para23", "weighted", "within", "within_known"):
        assert unbiased(errors[name]), name
        assert covers(share[name]), (name, share[name])
    assert errors["blocks_only"].mean() < -0.1  # the price of assuming x and z unrelated
    # The reason for the within-block form, measured: a third of the error of paragraph 23.
    assert errors["within"].std() < 0.6 * errors["weighted"].std()
    assert errors["weighted"].std() < errors["para23"].std()


def test_weighting_with_x_removes_the_bias_of_links_that_depend_on_x():
    errors, share = replicate(
        {"para23": with_known_rates, "weighted": weighted}, recall=0.8, dependent=0.2
    )
    assert errors["para23"].mean() > 0.01 or errors["para23"].mean() < -0.01
    assert unbiased(errors["weighted"])
    assert covers(share["weighted"])


def test_blocks_only_is_calibrated_when_x_and_z_are_unrelated():
    errors, share = replicate({"blocks_only": blocks_only, "within": within_block}, effect=0.0)
    for name in errors:
        assert unbiased(errors[name]), name
        assert covers(share[name]), (name, share[name])


def test_resolved_is_never_undefined_and_its_bound_holds():
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(300):
        links, x, z, order = draw(rng, recall=0.95, ratio=0.9)
        total = resolved(links, x, z)
        hits += abs(total.estimate - truth(x, z, order)) <= 1.96 * total.se
    assert hits / 300 > 0.95
    twice = resolve(links)
    with pytest.raises(ValueError, match="resolves the links itself"):
        resolved(twice, x, z)


def test_size_of_the_exporter_needs_no_linkage():
    """x constant inside blocks: the between-block part is the whole total, links or not."""
    links, _, z, order = draw(np.random.default_rng(4))
    x = (links.blocks.code_a % 2).astype(float)
    want = truth(x, z, order)
    for total in (within_block(links, x, z), resolved(links, x, z), blocks_only(links, x, z)):
        assert total.estimate == pytest.approx(want)
        assert total.se == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("ratio", [0.9, 0.95, 0.899999999])
def test_a_ratio_near_or_above_recall_is_refused(ratio):
    links, x, z, _ = draw(np.random.default_rng(5))
    if ratio < 0.9:
        with pytest.raises(Undefined, match="not clearly above zero"):
            para23(links, x, z, recall=0.9, ratio=ratio, recall_se=0.01)
    else:
        with pytest.raises(Undefined, match="these links say no more than the blocks"):
            para23(links, x, z, recall=0.9, ratio=ratio)


def test_all_blocked_pairs_linked_is_refused_but_not_by_resolved():
    links, x, z, _ = draw(np.random.default_rng(6), recall=1.0, ratio=1.0)
    for estimator in (weighted, within_block):
        with pytest.raises(Undefined):
            estimator(links, x, z)
    assert np.isfinite(resolved(links, x, z).estimate)


def test_every_estimator_by_name_and_none_where_it_is_undefined():
    links, x, z, order = draw(np.random.default_rng(11))
    actual = links.accuracy(order)
    counts = links.n_blocked, links.n_linked, links.blocks.code_a
    slope = fit_slope(*counts)
    mixture = fit_neighbours(links.n_linked, n_other=links.n_b)
    totals = every(links, x, z, actual=actual, mixture=mixture, slope=slope)
    ratio = mixture.false_links / (links.n_blocked.mean() - 1)
    expected = {
        "naive": naive(links, x, z),
        "published": published(links, x, z, recall=actual.recall, fpr=actual.fpr),
        "para22": para22(links, x, z, recall=mixture.recall, fpr=mixture.fpr),
        "para23": para23(links, x, z, recall=mixture.recall, ratio=ratio),
        "weighted": weighted(links, x, z),
        "within_block": within_block(links, x, z, fit=slope),
        "resolved": resolved(links, x, z),
        "blocks_only": blocks_only(links, x, z),
    }
    for name, total in expected.items():
        assert totals[name].estimate == total.estimate, name
        assert totals[name].se == pytest.approx(total.se, nan_ok=True), name
    assert list(totals) == list(expected)
    unknown = every(links, x, z, actual=actual, mixture=None, slope=slope)
    assert [name for name, total in unknown.items() if total is None] == ["para22", "para23"]


def test_no_links_are_refused():
    links, x, z, _ = draw(np.random.default_rng(7), recall=0.0, ratio=0.0)
    assert len(links) == 0
    assert naive(links, x, z).estimate == 0
    for estimator in (weighted, within_block, resolved):
        with pytest.raises(Undefined):
            estimator(links, x, z)


def test_partial_overlap_is_refused_by_the_within_block_forms():
    links, x, z, _ = draw(np.random.default_rng(8))
    b = pd.DataFrame({"k": links.blocks.code_b[:-1]})
    blocks = block(pd.DataFrame({"k": links.blocks.code_a}), b, ["k"])
    part = Links(
        i=links.i[links.j < len(b)],
        j=links.j[links.j < len(b)],
        similarity=links.similarity[links.j < len(b)],
        n_blocked=blocks.neighbours,
        blocks=blocks,
    )
    for estimator in (within_block, resolved):
        with pytest.raises(ValueError, match="do not hold the same units"):
            estimator(part, x, z[:-1])


def test_shapes_and_missing_values_are_refused():
    links, x, z, _ = draw(np.random.default_rng(9))
    with pytest.raises(ValueError, match="one value a record"):
        naive(links, x[:-1], z)
    with pytest.raises(ValueError, match="finite"):
        naive(links, np.where(x > 1, np.nan, x), z)
    with pytest.raises(ValueError, match="not all zero"):
        weighted(links, np.zeros_like(x), z)
