"""The suite's attacks: agreement with its own numbers, slices, reproducibility, old reading."""

import numpy as np
import pytest

from pet_lab import mia
from pet_lab.mia.attacks import GridLogistic, slice_masks


def outputs(n, shift, seed, failing=0.4):
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) >= failing).astype(int)
    return mia.from_logits((2 * labels - 1) * rng.normal(shift, 1.0, n), labels)


MEMBERS, NONMEMBERS = outputs(120, 2.0, 0), outputs(50, 1.0, 1)


@pytest.fixture(scope="module")
def results():
    return mia.run_suite(MEMBERS, NONMEMBERS, attacks=mia.ATTACKS[:4], rng=np.random.default_rng(0))


def test_every_attack_on_every_slice(results):
    assert set(results["attack"]) == set(mia.ATTACKS[:4])
    assert set(results["slice"]) == {
        "Entire dataset",
        "CLASS=0",
        "CLASS=1",
        "CORRECTLY_CLASSIFIED=True",
        "CORRECTLY_CLASSIFIED=False",
    }
    assert len(results) == 20


def test_threshold_attack_is_minus_the_loss(results):
    whole = results.set_index(["attack", "slice"]).loc[("THRESHOLD_ATTACK", "Entire dataset")]
    assert whole["auc"] == mia.auc(-MEMBERS.loss, -NONMEMBERS.loss)
    assert (whole["members"], whole["nonmembers"]) == (120, 50)


def test_numbers_are_those_the_suite_itself_reports():
    from tensorflow_privacy.privacy.privacy_tests.membership_inference_attack import (
        data_structures as ds,
    )
    from tensorflow_privacy.privacy.privacy_tests.membership_inference_attack import (
        membership_inference_attack as suite,
    )

    given = ds.AttackInputData(
        probs_train=MEMBERS.probabilities,
        probs_test=NONMEMBERS.probabilities,
        labels_train=MEMBERS.labels,
        labels_test=NONMEMBERS.labels,
        loss_train=MEMBERS.loss,
        loss_test=NONMEMBERS.loss,
    )
    spec = ds.SlicingSpec(entire_dataset=True, by_class=True, by_classification_correctness=True)
    theirs = suite.run_attacks(given, spec, [ds.AttackType.THRESHOLD_ATTACK])
    ours = mia.run_suite(
        MEMBERS, NONMEMBERS, attacks=["THRESHOLD_ATTACK"], rng=np.random.default_rng(0)
    )
    by_name = ours.set_index("slice")
    assert len(theirs.single_attack_results) == 5
    for one in theirs.single_attack_results:
        mine = by_name.loc[str(one.slice_spec)]
        assert mine["auc"] == pytest.approx(one.get_auc())
        assert mine["advantage"] == pytest.approx(one.get_attacker_advantage())


def test_the_same_seed_gives_the_same_scores_and_leaves_numpy_alone(results):
    np.random.seed(5)  # noqa: NPY002
    want = np.random.random()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    again = mia.run_suite(
        MEMBERS,
        NONMEMBERS,
        attacks=["LOGISTIC_REGRESSION"],
        slices=["Entire dataset"],
        rng=np.random.default_rng(9),
    )
    assert np.random.random() == want  # noqa: NPY002
    twice = mia.run_suite(
        MEMBERS,
        NONMEMBERS,
        attacks=["LOGISTIC_REGRESSION"],
        slices=["Entire dataset"],
        rng=np.random.default_rng(9),
    )
    assert again.equals(twice)


def test_an_empty_slice_is_reported_and_never_scored():
    sure = mia.from_logits([3.0, 3.0, -3.0], [1, 1, 0])  # all right: no misclassified record
    results = mia.run_suite(
        sure, NONMEMBERS, attacks=["THRESHOLD_ATTACK"], rng=np.random.default_rng(0)
    )
    empty = results.set_index("slice").loc["CORRECTLY_CLASSIFIED=False"]
    assert "empty slice (0 members" in empty["status"]
    assert np.isnan(empty["auc"])
    assert np.isnan(empty["advantage"])


def test_too_few_records_to_train_an_attack():
    few = outputs(4, 1.0, 3)
    results = mia.run_suite(
        few,
        NONMEMBERS,
        attacks=["LOGISTIC_REGRESSION"],
        slices=["Entire dataset"],
        rng=np.random.default_rng(0),
    )
    assert "too few to train an attack (4 members" in results["status"].item()
    assert results["members"].item() == 0


def test_one_column_outputs_turn_correctness_into_class_0():
    # The suite takes the arg max of a single column, which is 0 for every record.
    from tensorflow_privacy.privacy.privacy_tests.membership_inference_attack import (
        data_structures as ds,
    )
    from tensorflow_privacy.privacy.privacy_tests.membership_inference_attack import (
        dataset_slicing,
    )

    data = ds.AttackInputData(
        probs_train=MEMBERS.probabilities[:, 1:],
        probs_test=NONMEMBERS.probabilities[:, 1:],
        labels_train=MEMBERS.labels,
        labels_test=NONMEMBERS.labels,
    )
    spec = ds.SingleSliceSpec(ds.SlicingFeature.CORRECTLY_CLASSIFIED, True)
    theirs = dataset_slicing.get_slice(data, spec)
    ours = slice_masks(MEMBERS, one_column=True)
    np.testing.assert_array_equal(ours["CORRECTLY_CLASSIFIED=True"], MEMBERS.labels == 0)
    assert theirs.labels_train.size == ours["CORRECTLY_CLASSIFIED=True"].sum()


def test_the_old_reading_judges_class_0_on_a_dozen_records():
    nonmembers = outputs(64, 1.0, 1, failing=0.33)
    n0 = int((nonmembers.labels == 0).sum())
    results = mia.holdout_logistic(MEMBERS, nonmembers, rng=np.random.default_rng(4))
    judged = results.set_index("slice").loc["CLASS=0"]
    assert judged["members"] + judged["nonmembers"] == int(np.ceil(n0 / 2))
    assert results["members"].iloc[0] > judged["members"]  # the first is the entire data set


def test_a_held_out_share_that_leaves_fewer_than_three_of_a_kind_is_said_not_raised():
    few = [side.take(np.arange(6)) for side in (MEMBERS, NONMEMBERS)]
    statuses = {
        mia.holdout_logistic(*few, slices=["Entire dataset"], rng=np.random.default_rng(seed)).loc[
            0, "status"
        ]
        for seed in range(12)
    }
    assert statuses == {"ok", "too few to train an attack (6 members, 6 non-members)"}


def test_the_best_of_many_guesses_flatters():
    rng = np.random.default_rng(8)
    best = []
    for _ in range(40):
        results = mia.run_suite(
            outputs(60, 1.0, rng), outputs(60, 1.0, rng), attacks=mia.ATTACKS[:2], rng=rng
        )
        best.append(results["auc"].max())
    assert np.mean(best) > 0.5 + 4 * np.std(best) / np.sqrt(len(best))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda r: mia.run_suite(MEMBERS, NONMEMBERS, attacks=["LIRA"], rng=r),
            "attack is one of .* got 'LIRA'",
        ),
        (
            lambda r: mia.run_suite(MEMBERS, NONMEMBERS, slices=["AGE"], rng=r),
            "slice is one of .* got 'AGE'",
        ),
        (
            lambda r: mia.run_suite(MEMBERS.take(np.zeros(120, bool)), NONMEMBERS, rng=r),
            "got 0 and 50",
        ),
    ],
)
def test_bad_input_is_refused_in_a_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call(np.random.default_rng(0))


def test_logistic_fits_side_by_side_are_the_optimum_that_scikit_learn_searches():
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    rng, far = np.random.default_rng(5), []
    for shift in (0.0, 0.5, 1.0, 2.0, 8.0):  # the last: separable, Newton's steps overshoot
        y = np.repeat([1, 0], 30)
        p = np.clip(rng.beta(4, 2, 60) + 0.05 * shift * y, 1e-3, 1 - 1e-3)
        X = np.column_stack([p, -np.log(p) + shift * y])
        model = LogisticRegression(tol=1e-10, max_iter=10_000)
        search = GridSearchCV(model, {"C": GridLogistic.GRID}, cv=3).fit(X, y)
        ours = GridLogistic()
        ours.train_model(X, y)
        far.append(np.abs(ours.predict(X) - search.predict_proba(X)[:, 1]).max())
    assert max(far) < 1e-4


def test_fast_attacks_on_the_suites_own_folds():
    sides = [(outputs(100, 2.0, s), outputs(40, 1.5, 100 + s)) for s in range(6)]
    for run in (mia.run_suite, mia.holdout_logistic):
        how = {"attacks": ["LOGISTIC_REGRESSION"]} if run is mia.run_suite else {}
        slow, fast = (
            [
                run(*pair, slices=["Entire dataset"], fast=f, **how, rng=np.random.default_rng(2))
                for pair in sides
            ]
            for f in (False, True)
        )
        gaps = [a["auc"][0] - b["auc"][0] for a, b in zip(slow, fast, strict=True)]
        assert [a["members"][0] for a in slow] == [b["members"][0] for b in fast]
        assert abs(np.mean(gaps)) < 0.02


def test_the_toolbox_attack_finds_what_is_there_and_nothing_else():
    told = mia.toolbox_auc(outputs(120, 6.0, 1), outputs(60, 0.0, 2), kind="rf", rng=rng(0))
    assert told > 0.8
    areas = [
        mia.toolbox_auc(outputs(120, 1.0, s), outputs(60, 1.0, 99 + s), kind="lr", rng=rng(s))
        for s in range(10)
    ]
    assert abs(np.mean(areas) - 0.5) < 0.06  # SD of one: about .053
    few = outputs(60, 1.0, 1).take(np.arange(3))
    assert np.isnan(mia.toolbox_auc(outputs(9, 1.0, 1), few, kind="lr", rng=rng(0)))


def rng(seed):
    return np.random.default_rng(seed)
