"""Encrypted trees: the layers by walking the trees, SEAL against the layers, the mask, refusals."""

import numpy as np
import pytest
from numpy.polynomial import chebyshev

from pet_lab.studies import encrypted_trees as study

pytest.importorskip("tenseal", reason="TenSEAL has no wheel for this platform")


def settings(**changes):
    values = {"depths": [1, 2], "trees": [2, 3], "degrees": [4], "steepness": 8.0}
    return study.Settings(**values | {"records": 3, "replicates": 2, "seed": 3} | changes)


def forest(*, depth=2, trees=3, degree=4, seed=4):
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(150, 5))
    y = (x[:, 0] + x[:, 1] * x[:, 2] > 0.8).astype(int)
    return x, *study.fitted(x, y, depth=depth, trees=trees, degree=degree, steepness=8.0)


@pytest.fixture(scope="module")
def small():
    x, _, _, packed = forest()
    return study.keys(4, packed.width), packed, x


@pytest.fixture(scope="module")
def rows():
    return study.simulate(settings())


# --- the layers


@pytest.mark.parametrize(("depth", "trees"), [(1, 1), (3, 2), (4, 5)])
def test_hard_comparisons_give_the_forest(depth, trees):
    """With the sign for the polynomial, layers must be scikit-learn's own average, tie by tie."""
    x, sklearn_forest, grown, _ = forest(depth=depth, trees=trees)
    v = np.where(grown.compared(x) > grown.threshold, 1.0, -1.0)
    sums = np.einsum("rtk,tlk->rtl", v, grown.path) - grown.above + 1
    reached = sums > 0
    assert (reached.sum(axis=2) == 1).all()
    assert sums[reached] == pytest.approx(1)
    scores = np.einsum("rtl,tl->r", np.where(reached, 1.0, -1.0), grown.values) + grown.bias
    assert scores + 0.5 == pytest.approx(sklearn_forest.predict_proba(x)[:, 1])


@pytest.mark.parametrize("degree", [3, 4, 7, 8, 16])
def test_no_sum_leaves_the_interval_of_the_polynomial(degree):
    """Where it did, a Chebyshev polynomial would explode."""
    x, _, grown, _ = forest(depth=4, trees=4, degree=degree)
    corners = np.random.default_rng(2).integers(0, 2, (200, 5)).astype(float)
    for records in (x, corners):
        v = grown.soften(grown.compared(records) - grown.threshold)
        sums = np.einsum("rtk,tlk->rtl", v, grown.path) - grown.above + 1
        assert np.abs(sums).max() <= grown.reach


def test_the_polynomial_meets_tanh_at_chebyshev_points():
    nodes = chebyshev.chebpts1(17)
    values = chebyshev.chebval(nodes, study.soft(16.0, 16))
    assert values == pytest.approx(np.tanh(16 * nodes), abs=1e-12)


def test_slots_hold_each_record_and_tree_in_its_place():
    _, _, _, packed = forest(depth=1, trees=3)
    assert packed.width == 16
    blocks = np.arange(12.0).reshape(2, 3, 2)
    one = [0, 1, 0, 1, 2, 3, 2, 3, 4, 5, 4, 5, 0, 0, 0, 0]
    assert packed.spread(blocks, twice=True)[:16].tolist() == one
    assert packed.spread(blocks)[16:28].tolist() == [6, 7, 0, 0, 8, 9, 0, 0, 10, 11, 0, 0]
    every = packed.spread(blocks[0], twice=True)
    assert len(every) == 8192
    assert (every.reshape(-1, 16) == one).all()


# --- under encryption


@pytest.mark.parametrize(("degree", "steepness"), [(3, 8.0), (5, 8.0), (16, 8.0), (16, 1.0)])
def test_an_encrypted_polynomial_is_that_polynomial(degree, steepness):
    """At steepness 1 the last coefficients are less than the scale can say."""
    seal, z = study.keys(degree, 1), np.linspace(-1, 1, 500)
    coefficients, x = study.soft(steepness, degree), seal.encrypt(z)
    result = study.polynomial(seal, x, coefficients)
    got = seal.decrypt(result)[:500]
    assert got == pytest.approx(chebyshev.chebval(z, coefficients), abs=2e-3)
    used = x.coeff_modulus_size() - result.coeff_modulus_size()
    assert 2 * used + 3 == study.levels(degree)


def test_encrypted_scores_are_those_in_clear_and_nothing_else_is_sent(small):
    seal, packed, x = small
    most = seal.slots // packed.width
    reply = study.evaluate(seal, packed, study.encrypt(seal, packed, x[:most]))
    slots = seal.decrypt(reply).reshape(most, packed.width)
    assert slots[: len(x), 0] == pytest.approx(packed.scores(x), abs=1e-3)
    assert slots[:, 1:] == pytest.approx(0, abs=1e-3)


def test_levels_and_rotations_are_those_of_the_formulas_and_one_level_less_is_refused(
    small, monkeypatch
):
    seal, packed, x = small
    records, steps, rotate = study.encrypt(seal, packed, x[:1]), [], seal.rotate
    monkeypatch.setattr(seal, "rotate", lambda c, step: steps.append(step) or rotate(c, step))
    reply = study.evaluate(seal, packed, records)
    assert steps == [1, 1, 1, 1, 2, 4, 8, 16]
    assert len(steps) == packed.rotations
    assert records.coeff_modulus_size() - reply.coeff_modulus_size() == study.levels(4) == 9
    short = study.keys(4, packed.width, primes=8)
    with pytest.raises(ValueError, match="No rescaling prime is left"):
        study.evaluate(short, packed, study.encrypt(short, packed, x[:1]))


def test_a_truncated_or_foreign_ciphertext_and_a_wrong_key_give_no_score(small):
    seal, packed, x = small
    sent = seal.save(study.encrypt(seal, packed, x[:1]))
    with pytest.raises(ValueError, match="Expected a ciphertext of this context"):
        seal.load(sent[: len(sent) // 2])
    other = study.keys(4, packed.width)
    under_another_key = study.evaluate(seal, packed, study.encrypt(other, packed, x[:1]))
    own = study.evaluate(seal, packed, seal.load(sent))
    for reply, key in ((under_another_key, None), (own, other.secret_key)):
        with pytest.raises(ValueError, match="wrong key"):
            seal.decrypt(reply, secret_key=key)


def test_records_that_do_not_fit_the_forest_are_one_sentence(small):
    seal, packed, x = small
    for wrong in (x[:, :4], x[0]):
        with pytest.raises(ValueError, match="Expected records of 5 features, got shape"):
            study.encrypt(seal, packed, wrong)
    for wrong in (x[:1] + 1, np.full((1, 5), np.nan)):
        with pytest.raises(ValueError, match=r"Expected features in \[0, 1\]"):
            study.encrypt(seal, packed, wrong)
    for wrong in (x[:0], np.repeat(x, 3, axis=0)):
        with pytest.raises(ValueError, match="A ciphertext holds 1 to 256 records"):
            study.encrypt(seal, packed, wrong)


# --- the study


def test_the_grid_varies_one_thing_at_a_time():
    assert study.grid(settings(depths=[2, 3], trees=[4], degrees=[8, 16])) == [
        {"depth": 3, "trees": 4, "degree": 16},
        {"depth": 2, "trees": 4, "degree": 16},
        {"depth": 3, "trees": 4, "degree": 8},
    ]


def test_claims_follow_the_rows(rows):
    claims = study.takeaways(rows)
    assert claims[0].text.startswith("A forest of 3 trees of depth 2 gives all 3 encrypted records")
    assert claims[1].text.startswith("Polynomials of degree 4 use 9 rescaling primes")
    worse = rows.copy()
    worse.loc[worse["metric"] == "agrees_with_clear", "value"] = 1 / 3
    worse.loc[worse["metric"] == "levels", "value"] = 7
    worse.loc[worse["metric"] == "accuracy", "value"] = 0.5
    turned = study.takeaways(worse)
    assert turned[0].text.startswith("Under encryption 1 of 3 records get the class")
    assert turned[1].text.endswith("are not those of the formula.")
    assert "no gain beyond chance" in turned[2].text


def test_the_panel_computes_in_clear():
    shown = study.explore(depth=2, trees=3, degree=8, steepness=8.0)
    assert shown["agrees with forest"][0] == 1
    assert shown["rescaling primes"].tolist() == [0, 11, 11]
    assert shown["slots"].tolist() == [0, 32, 32]


@pytest.mark.parametrize(
    "changes",
    [
        {"depths": []},
        {"depths": [0]},
        {"depths": [7]},
        {"trees": [0]},
        {"trees": [2, 2]},
        {"degrees": [2, 4]},
        {"degrees": [32]},
        {"steepness": 0.5},
        {"records": 0},
        {"replicates": 1},
        {"seed": -1},
    ],
)
def test_settings_outside_their_range_are_one_sentence(changes):
    with pytest.raises(ValueError, match=r"got .*\.$"):
        settings(**changes)


def test_a_forest_wider_than_a_ciphertext_is_refused():
    with pytest.raises(ValueError, match="512 trees of depth 4 take 16384 slots, of 8192"):
        settings(depths=[4], trees=[512])
