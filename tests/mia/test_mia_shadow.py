"""Shadow models: synthesis, masks, one attack per class, and metrics by definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pet_lab import mia

NAMES = ["age", "job_a", "job_b", "job_c", "job_title_x", "job_title_y"]
TABLE = np.array([[1, 1, 0, 0, 1, 0], [2, 0, 1, 0, 0, 1], [3, 0, 0, 1, 1, 0]], float)
DOMAIN = mia.Domain.of(TABLE, NAMES, ["age", "job", "job_title"])


def target(X):
    """Class 1 for the old and for job b."""
    p = 1 / (1 + np.exp(-4 * (X[:, 0] + 2 * X[:, 2] - 2.5)))
    return np.stack([1 - p, p], axis=1)


def test_a_domain_keeps_one_hot_columns_together():
    assert [g.tolist() for g in DOMAIN.groups] == [[0], [1, 2, 3], [4, 5]]
    drawn = DOMAIN.draw(500, np.random.default_rng(0))
    assert (drawn[:, 1:4].sum(axis=1) == 1).all()
    assert set(drawn[:, 0]) == {1.0, 2.0, 3.0}


def test_redrawing_touches_only_so_many_attributes():
    rng = np.random.default_rng(1)
    start = DOMAIN.draw(300, rng)
    k = np.repeat([0, 1, 3], 100)
    changed = DOMAIN.redraw(start, k, rng) != start
    groups = np.stack([changed[:, g].any(axis=1) for g in DOMAIN.groups], axis=1).sum(axis=1)
    assert (groups <= k).all()
    assert groups[k == 3].max() == 3


@pytest.mark.parametrize("label", [0, 1])
def test_synthesis_gives_sure_records_of_the_class(label):
    X, queries = mia.synthesise(
        target, DOMAIN, label=label, n=200, rng=np.random.default_rng(2), confidence=0.9
    )
    assert X.shape == (200, 6)
    assert (target(X)[:, label] > 0.9).all()
    assert queries >= 200
    assert (X[:, 4:].sum(axis=1) == 1).all()


def test_synthesis_is_reproducible_and_takes_every_sure_kind_of_record():
    a, b = (
        mia.synthesise(target, DOMAIN, label=1, n=300, rng=np.random.default_rng(7))[0]
        for _ in range(2)
    )
    np.testing.assert_array_equal(a, b)
    every = DOMAIN.draw(5000, np.random.default_rng(0))
    sure = {tuple(x) for x in every[target(every)[:, 1] > 0.8]}
    assert {tuple(x) for x in a} == sure


def test_a_class_that_the_target_never_predicts():
    with pytest.raises(
        mia.SynthesisError, match=r"Only 0 of 10 records of class 0 .* lower confidence"
    ):
        mia.synthesise(
            lambda X: np.tile([0.4, 0.6], (len(X), 1)),
            DOMAIN,
            label=0,
            n=10,
            rng=np.random.default_rng(0),
        )


def test_masks_are_disjoint_of_equal_size_and_differ_between_models():
    train, test = mia.shadow_masks(20, 50, size=20, rng=np.random.default_rng(0))
    assert not (train & test).any()
    assert (train.sum(axis=1) == 20).all()
    assert (test.sum(axis=1) == 20).all()
    assert len({tuple(row) for row in train}) == 20


def test_attack_models_learn_what_the_shadows_show():
    # Class 1: members get surer answers. Class 0: no difference, so no advantage either.
    rng = np.random.default_rng(0)
    S, n = 10, 400
    train, test = mia.shadow_masks(S, n, size=150, rng=rng)
    p1 = np.where(rng.random((S, n)) < 0.5, 0.2, rng.uniform(0.55, 0.75, (S, n)))
    p1 = np.where((p1 > 0.5) & train, p1 + 0.2, p1)
    probe = mia.from_probabilities(np.array([0.93, 0.56, 0.2]), np.array([1, 1, 0]))
    scores = mia.shadow_scores(np.stack([1 - p1, p1], axis=2), train, test, probe)
    assert scores[0] > 0.5 > scores[1]
    # Class 0 answers are constant: its score is the share of members among them, 1/2 up to chance.
    asked = (p1 < 0.5) & (train | test)
    assert scores[2] == pytest.approx((asked & train).sum() / asked.sum(), abs=0.01)
    assert abs(scores[2] - 0.5) < 4 * 0.5 / np.sqrt(asked.sum()) + 0.01


def test_a_class_without_shadow_answers_has_no_attack():
    rng = np.random.default_rng(0)
    train, test = mia.shadow_masks(3, 40, size=20, rng=rng)
    p = np.full((3, 40), 0.9) + 0.05 * train
    probe = mia.from_probabilities([0.1, 0.9], [0, 1])
    scores = mia.shadow_scores(np.stack([1 - p, p], axis=2), train, test, probe)
    assert np.isnan(scores[0])
    assert np.isfinite(scores[1])


@given(hnp.arrays(bool, 25), hnp.arrays(bool, 25))
def test_metrics_by_definition(truth, called):
    from sklearn import metrics

    got = mia.decision_metrics(truth, called)
    assert got["all"]["accuracy"] == pytest.approx(np.mean(truth == called))
    for name, label in (("member", True), ("nonmember", False)):
        p, r, f, _ = metrics.precision_recall_fscore_support(
            truth, called, labels=[label], zero_division=np.nan
        )
        np.testing.assert_allclose(
            [got[name]["precision"], got[name]["recall"], got[name]["f1"]], [p[0], r[0], f[0]]
        )


@given(st.floats(0.05, 0.95))
def test_always_member_has_the_base_rate_as_accuracy(share):
    truth = np.arange(100) < round(100 * share)
    got = mia.decision_metrics(truth, np.ones(100, bool))
    assert got["all"]["accuracy"] == pytest.approx(truth.mean())
    assert got["all"]["balanced_accuracy"] == pytest.approx(0.5)
    assert np.isnan(got["nonmember"]["precision"])


def untaught(answer):
    """Scores by one shadow model that gives every record this answer, and knows no non-member."""
    everybody = np.ones((1, 4), bool)
    return mia.shadow_scores(np.full((1, 4, 2), answer), everybody, ~everybody, target(TABLE))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda r: mia.shadow_masks(3, 30, size=20, rng=r), "2 x 20 records, the pool has 30"),
        (lambda r: mia.synthesise(target, DOMAIN, label=0, n=0, rng=r), "n is a whole"),
        (
            lambda r: mia.synthesise(target, DOMAIN, label=0, n=1, confidence=1, rng=r),
            "confidence is a probability",
        ),
        (lambda r: mia.Domain.of(TABLE, NAMES[:2]), "row per record"),
        (lambda r: mia.Domain.of(TABLE, NAMES, ["age"]), "'job_a' belongs to none"),
        (
            lambda r: untaught(np.nan),
            "1 of 1 shadow models diverged",
        ),
        (
            lambda r: untaught(0.5),
            "No class has both",
        ),
        (lambda r: mia.decision_metrics([True], [True, False]), "one entry per record"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call(np.random.default_rng(0))
