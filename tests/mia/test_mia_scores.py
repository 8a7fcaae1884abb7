"""Outputs from logits, probabilities, estimators, Keras and CSV files."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pet_lab import mia

logits = hnp.arrays(float, (6, 3), elements=st.floats(-8, 8))


@given(logits, hnp.arrays(np.int64, 6, elements=st.integers(0, 2)))
def test_loss_and_entropy_by_definition(z, labels):
    out = mia.from_logits(z, labels)
    for i, label in enumerate(labels):
        p = np.exp(z[i]) / np.exp(z[i]).sum()
        assert out.loss[i] == pytest.approx(-np.log(p[label]), abs=1e-9)
        entropy = -(1 - p[label]) * np.log(p[label])
        entropy -= sum(p[c] * np.log(1 - p[c]) for c in range(3) if c != label)
        assert out.modified_entropy[i] == pytest.approx(entropy, abs=1e-9)


@given(hnp.arrays(float, 5, elements=st.floats(-30, 30)))
def test_one_logit_is_a_pair_and_the_signed_logit_its_log_odds(z):
    labels = np.array([0, 1, 0, 1, 1])
    out = mia.from_logits(z, labels)
    assert out.probabilities.shape == (5, 2)
    odds = out.true_class / out.probabilities[np.arange(5), 1 - labels]
    np.testing.assert_allclose(np.log(odds), mia.signed_logits(z, labels), atol=1e-9)
    same = mia.from_probabilities(out.probabilities[:, 1], labels)
    np.testing.assert_allclose(same.true_class, out.true_class, atol=1e-12)


@pytest.mark.slow
def test_losses_agree_with_tensorflow_privacy():
    from tensorflow_privacy.privacy.privacy_tests import utils
    from tensorflow_privacy.privacy.privacy_tests.membership_inference_attack.data_structures import (  # noqa: E501
        AttackInputData,
    )

    rng = np.random.default_rng(0)
    out = mia.from_logits(rng.normal(0, 6, (50, 2)), rng.integers(0, 2, 50))
    np.testing.assert_allclose(utils.log_loss(out.labels, out.probabilities), out.loss)
    theirs = AttackInputData._get_entropy(out.probabilities, out.labels)
    np.testing.assert_allclose(theirs, out.modified_entropy, rtol=1e-5, atol=1e-12)


def test_an_estimator_with_text_classes():
    from sklearn.ensemble import RandomForestClassifier

    rng = np.random.default_rng(1)
    X = rng.normal(size=(60, 3))
    y = np.where(X[:, 0] > 0, "pass", "fail")
    forest = RandomForestClassifier(n_estimators=20, random_state=0).fit(X[:30], y[:30])
    inside, outside = (
        mia.from_estimator(forest, X[:30], y[:30]),
        mia.from_estimator(forest, X[30:], y[30:]),
    )
    assert inside.accuracy == 1
    assert mia.auc(-inside.loss, -outside.loss) > 0.5


class _Activation:
    def __init__(self, name):
        self.__name__ = name


class _Layer:
    def __init__(self, name):
        self.activation = _Activation(name)


class _Keras:
    """The part of a Keras model that is used, without TensorFlow's import."""

    def __init__(self, name):
        self.layers = [_Layer(name)]

    def predict(self, X, verbose):
        z = X[:, :1]
        return z if self.layers[0].activation.__name__ == "linear" else 1 / (1 + np.exp(-z))


def test_keras_logits_and_probabilities_are_told_apart():
    X, y = np.array([[2.0], [-1.0]]), np.array([1, 1])
    a, b = mia.from_keras(_Keras("linear"), X, y), mia.from_keras(_Keras("sigmoid"), X, y)
    np.testing.assert_allclose(a.probabilities, b.probabilities)
    with pytest.raises(ValueError, match="logits=True or logits=False"):
        mia.from_keras(_Keras("relu"), X, y)


def test_a_csv_of_scores(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("id,score,member\n1,0.5,yes\n2,-1e3,0\n3,2,TRUE\n")
    members, nonmembers = mia.read_scores(path)
    assert members.tolist() == [0.5, 2.0]
    assert nonmembers.tolist() == [-1000.0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("score\n1\n", "member is missing"),
        ("score,member\n1,1\n2,1\n", "holds only members"),
        ("score,member\n1,0\n2,0\n", "holds only non-members"),
        ("score,member\nnan,1\n2,0\n", "line 2 has no number"),
        ("score,member\n1,maybe\n", "got 'maybe'"),
        ("score,member\n0.2,1,9\n0.3,0,9\n", "got 3 in line 2"),
        ("score,member\n0.2,1\n\ninf,0\n", "holds 'inf' in line 4"),
    ],
)
def test_a_bad_csv_is_refused_in_a_sentence(tmp_path, text, words):
    path = tmp_path / "scores.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        mia.read_scores(path)


def test_a_missing_csv_names_the_file_but_not_its_folder(tmp_path):
    with pytest.raises(ValueError, match=r"no absent\.csv") as caught:
        mia.read_scores(tmp_path / "absent.csv")
    assert str(tmp_path) not in str(caught.value)


def test_a_diverged_run_is_reported_as_such():
    with pytest.raises(mia.DivergedError, match="1 of 3 records: its training diverged"):
        mia.from_logits([0.0, np.nan, 1.0], [0, 1, 1])
    with pytest.raises(mia.DivergedError, match="diverged"):
        mia.from_probabilities([[0.5, np.nan]], [0])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mia.from_probabilities([1.5, 0.2], [0, 1]), "pass logits to from_logits"),
        (lambda: mia.from_probabilities([[0.9, 0.9]], [0]), "sums to 1"),
        (lambda: mia.from_logits([0.1], [2]), "from 0 to 1"),
        (lambda: mia.from_logits([0.1, 0.2], [1]), "one label for each of 2"),
        (lambda: mia.from_estimator(object(), [[1]], [1]), "predict_proba"),
        (lambda: mia.signed_logits([0.1], [3]), "0 or 1"),
    ],
)
def test_bad_answers_are_refused_in_a_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
