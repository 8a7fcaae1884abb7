"""Corrected totals: by definition, unbiased where theory says so, calibrated, and refusing."""

import math
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pandas as pd
import pytest

from pet_lab.linkage import Links, block, link_exact, resolve
from pet_lab.linkage.neighbours import (
    SlopeFit,
    fit_neighbours,
    fit_slope,
)
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


def draw(rng, *, n_blocks=150, mean=2.0, recall=0.9, ratio=0.3, effect=0.0, dependent=0.0):
    """A file of complete blocks with links drawn pair by pair; x and z related by `effect`.

    dependent > 0: records with a large x link more often (breaks paragraph 22's condition).
    """
    size = 1 + rng.poisson(mean, n_blocks)
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


KNOWN = SlopeFit(recall=0.9, ratio=0.3, cov=np.zeros((2, 2)), n_blocks=150, df=100)


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


def by_block(links, x, z):
    """(x, z) of the records of each block."""
    a, b = links.blocks.code_a, links.blocks.code_b
    return [(x[a == k], z[b == k]) for k in range(links.blocks.n_blocks)]


def test_blocks_only_is_its_definition():
    rng = np.random.default_rng(12)
    links, x, z, _ = draw(rng, n_blocks=40)
    z = rng.lognormal(size=z.size)
    total = blocks_only(links, x, z)
    parts = by_block(links, x, z)
    assert total.estimate == pytest.approx(sum(u.sum() * v.mean() for u, v in parts))
    variance = sum(
        ((u - u.mean()) ** 2).sum() * ((v - v.mean()) ** 2).sum() / max(len(u) - 1, 1)
        for u, v in parts
    )
    assert total.se == pytest.approx(math.sqrt(variance))


def test_blocks_only_of_files_of_other_sizes():
    """Two exports and three imports in one block; an import and an export alone in others."""
    a, b = pd.DataFrame({"k": [0, 0, 2]}), pd.DataFrame({"k": [0, 0, 0, 1]})
    links = link_exact(a, b, block_on=["k"], on=[])
    total = blocks_only(links, [1.0, 3.0, 7.0], [0.0, 1.0, 1.0, 9.0])
    assert total.estimate == pytest.approx(4 * 2 / 3)
    assert total.se == pytest.approx(math.sqrt(2 * (2 / 3) / (2 - 1)))


def test_resolved_is_its_definition():
    rng = np.random.default_rng(13)
    links, x, z, _ = draw(rng, n_blocks=60, recall=0.85, ratio=0.4)
    links = replace(links, similarity=np.where(rng.random(len(links)) < 0.4, 1.0, links.similarity))
    total, kept = resolved(links, x, z), resolve(links)
    parts, n = by_block(links, x, z), links.n_a
    between = sum(u.sum() * v.mean() for u, v in parts)
    mean_x, mean_z = np.array([[u.mean(), v.mean()] for u, v in parts]).T
    code = links.blocks.code_a
    within = sum(
        (x[i] - mean_x[code[i]]) * (z[j] - mean_z[code[i]])
        for i, j in zip(kept.i, kept.j, strict=True)
    )
    assert total.estimate == pytest.approx(between + within * n / len(kept))
    exact = links.similarity == 1
    doubtful = 0
    for i, j, similarity in zip(kept.i, kept.j, kept.similarity, strict=True):
        rivals = max((links.i == i).sum(), (links.j == j).sum()) > 1
        alone = ((links.i == i) & exact).sum() == ((links.j == j) & exact).sum() == 1
        doubtful += rivals and not (alone and similarity == 1)
    spread = sum(
        ((u - u.mean()) ** 2).sum() * ((v - v.mean()) ** 2).sum() / max(len(u) - 1, 1)
        for u, v in parts
    )
    wrong = (1 - len(kept) / n) + 2 * doubtful / n
    assert 0 < doubtful < len(kept) < n
    assert total.se == pytest.approx(math.sqrt(spread * wrong))


def link_noise(linked, blocked, r, k):
    """Variance of a sum over links: matches link with r, other blocked pairs with k."""
    matches = (linked - k * blocked) / (r - k)
    assert 0 < matches < blocked
    return r * (1 - r) * matches + k * (1 - k) * (blocked - matches)


def test_standard_errors_are_their_definition():
    rng = np.random.default_rng(14)
    links, x, z, _ = draw(rng, n_blocks=300, effect=1.0)
    z = z + rng.lognormal(size=z.size)  # not 0 or 1: the square must be there
    i, j = links.blocks.pairs()
    linked, blocked = (x[links.i] * z[links.j]), (x[i] * z[j])
    r, k, r_se, k_se = 0.9, 0.3, 0.02, 0.01
    total = para23(links, x, z, recall=r, ratio=k, recall_se=r_se, ratio_se=k_se)
    noise = link_noise((linked**2).sum(), (blocked**2).sum(), r, k)
    rates = (total.estimate * r_se) ** 2 + ((total.estimate - blocked.sum()) * k_se) ** 2
    assert total.se == pytest.approx(math.sqrt(noise + rates) / (r - k))

    fit = SlopeFit(recall=r, ratio=k, cov=np.diag([r_se**2, k_se**2]), n_blocks=300, df=200)
    inside = within_block(links, x, z, fit=fit)
    parts = by_block(links, x, z)
    spreads = [((u - u.mean()) ** 2).sum() * ((v - v.mean()) ** 2).sum() for u, v in parts]
    matches = sum(s / len(u) for s, (u, _) in zip(spreads, parts, strict=True))
    noise = r * (1 - r) * matches + k * (1 - k) * (sum(spreads) - matches)
    within = inside.estimate - sum(u.sum() * v.mean() for u, v in parts)
    variance = (noise + within**2 * (r_se**2 + k_se**2)) / (r - k) ** 2
    assert inside.se == pytest.approx(math.sqrt(variance))

    slope = fit_slope(links.n_blocked, links.n_linked, links.blocks.code_a, weights=x)
    r, k = slope.recall, slope.ratio
    total = weighted(links, x, z)
    assert total.estimate == pytest.approx((linked.sum() - k * blocked.sum()) / (r - k))
    assert slope.coef @ links.n_linked == pytest.approx([r, k])
    share = -total.estimate * slope.coef[0] + (total.estimate - blocked.sum()) * slope.coef[1]
    on_links = ((linked + share[links.i]) ** 2).sum()
    noise = link_noise(on_links, ((blocked + share[i]) ** 2).sum(), r, k)
    assert total.se == pytest.approx(math.sqrt(noise) / (r - k))


def test_noise_of_impossible_rates_is_cut_to_the_possible():
    """A recall above 1 has no noise of its own; matches are at most all blocked pairs."""
    links, x, z, _ = draw(np.random.default_rng(15), recall=1.0, ratio=0.0)
    x = x * 1e-3  # in small units too: cut to 0 and not to 1
    assert para23(links, x, z, recall=1.05, ratio=0.0).se == 0
    assert para23(links, x, z, recall=0.9, ratio=-0.05).se > 0
    i, j = links.blocks.pairs()
    blocked = ((x[i] * z[j]) ** 2).sum()
    matches = min((links.total(x**2, z**2)) / 0.5, blocked)
    total = para23(links, x, z, recall=0.5, ratio=0.0)
    assert total.se == pytest.approx(math.sqrt(0.25 * matches) / 0.5)
    assert matches < blocked
    total = para23(links, x, z, recall=0.1, ratio=0.0)  # says more matches than blocked pairs
    assert links.total(x**2, z**2) / 0.1 > blocked
    assert total.se == pytest.approx(math.sqrt(0.09 * blocked) / 0.1)
    none = links.keep(np.zeros(len(links), bool))  # says fewer matches than none
    for unit in (1.0, 1e6):
        total = para23(none, unit * x, z, recall=0.9, ratio=0.3)
        assert total.se == pytest.approx(unit * math.sqrt(0.21 * blocked) / 0.6)


def test_the_gap_must_be_two_standard_errors():
    links, x, z, _ = draw(np.random.default_rng(16))
    ok = para23(links, x, z, recall=0.9, ratio=0.88, recall_se=0.006, ratio_se=0.007999)
    assert np.isfinite(ok.estimate)
    with pytest.raises(Undefined, match=r"0\.900 - 0\.880 \(standard error 0\.010\)"):
        para23(links, x, z, recall=0.9, ratio=0.88, recall_se=0.006, ratio_se=0.008001)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(Undefined):
            para23(links, x, z, recall=bad, ratio=0.1)
    assert np.isfinite(para22(links, x, z, recall=0.1 + 1e-6, fpr=0.1).estimate)


def test_intervals_are_normal():
    total = naive(*draw(np.random.default_rng(17))[:3])
    with pytest.raises(FrozenInstanceError):
        total.estimate = 0.0
    with pytest.raises(TypeError):
        type(total)(1.0, 2.0)
    assert all(math.isnan(end) for end in total.interval())
    total = replace(total, estimate=10.0, se=2.0)
    assert total.interval() == pytest.approx((10 - 1.959964 * 2, 10 + 1.959964 * 2))
    assert total.interval(0.5) == pytest.approx((10 - 0.6744898 * 2, 10 + 0.6744898 * 2))


def test_size_of_the_exporter_needs_no_linkage():
    """x constant inside blocks: the between-block part is the whole total, links or not."""
    links, _, z, order = draw(np.random.default_rng(4))
    x = 0.1 + 0.7 * (links.blocks.code_a % 2)  # means of blocks are not exact in binary
    want = truth(x, z, order)
    for total in (within_block(links, x, z), resolved(links, x, z), blocks_only(links, x, z)):
        assert total.estimate == pytest.approx(want)
        assert total.se == pytest.approx(0, abs=1e-7)


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
    sparse, x1, z1, order1 = draw(np.random.default_rng(18), mean=0.2)
    few = fit_neighbours(sparse.n_linked, n_other=sparse.n_b)
    others = sparse.n_blocked.mean() - 1
    known = {"actual": sparse.accuracy(order1), "slope": None}
    assert 0 < others < 1
    assert every(sparse, x1, z1, mixture=few, **known)["para23"] == para23(
        sparse, x1, z1, recall=few.recall, ratio=few.false_links / others
    )
    alone, x2, z2, order2 = draw(np.random.default_rng(19), mean=0.0)
    rates = fit_neighbours(alone.n_linked, n_other=alone.n_b)
    known = {"actual": alone.accuracy(order2), "slope": None}
    total = every(alone, x2, z2, mixture=rates, **known)["para23"]
    assert total.estimate == pytest.approx(naive(alone, x2, z2).estimate / rates.recall)
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
        with pytest.raises(ValueError, match=r"^1 blocks .* do not hold the same units"):
            estimator(part, x, z[:-1])


@pytest.mark.filterwarnings("ignore:.*lack a part of the key")
def test_a_missing_key_is_refused_by_the_within_block_forms():
    """As many without a key on either side: sizes agree, but who is in the blocks is not known."""
    frame = pd.DataFrame({"k": [1, 1, None]})
    links = link_exact(frame, frame, block_on=["k"], on=[])
    for estimator in (within_block, resolved):
        with pytest.raises(ValueError, match="the blocking key has errors"):
            estimator(links, [1.0, 2.0, 3.0], [0.0, 1.0, 1.0])


def test_shapes_and_missing_values_are_refused():
    links, x, z, _ = draw(np.random.default_rng(9))
    with pytest.raises(ValueError, match="one value a record"):
        naive(links, x[:-1], z)
    for longer in ((np.append(x, 1.0), z), (x, np.append(z, 1.0))):
        with pytest.raises(ValueError, match="one value a record"):
            naive(links, *longer)
    with pytest.raises(ValueError, match="finite"):
        naive(links, np.where(x > 1, np.nan, x), z)
    with pytest.raises(ValueError, match="not all zero"):
        weighted(links, np.zeros_like(x), z)


def test_a_variable_that_is_zero_everywhere_has_no_weighted_recall():
    links, x, z, _ = draw(np.random.default_rng(18))
    with pytest.raises(Undefined, match="x is zero for every record"):
        weighted(links, 0 * x, z)
