"""Rules on one feature: by exhaustion, by the exponential mechanism's definition, on real data."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pet_lab import stump
from pet_lab.stump import Rule, best_rule, dp_stump


@pytest.fixture
def marks():
    frame = pd.DataFrame({"mark": [4, 8, 9, 12, 15], "age": [15, 16, 15, 17, 16]})
    return frame, np.array([0, 0, 1, 1, 1])


def test_best_rule_on_a_small_table(marks):
    frame, y = marks
    rule = best_rule(frame, y)
    assert (rule.feature, rule.threshold, rule.direction, rule.correct) == ("mark", 9.0, ">=", 5)
    assert list(rule.predict(frame)) == [0, 0, 1, 1, 1]
    assert str(rule) == "mark >= 9"
    assert best_rule(frame, 1 - y) == Rule(
        feature="mark", threshold=9.0, direction="<", n=5, correct=5
    )


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 5), st.booleans()), min_size=1, max_size=12
    )
)
def test_no_rule_is_better_than_the_best(rows):
    frame = pd.DataFrame(rows, columns=["a", "b", "y"]).astype({"a": int, "b": int})
    y = frame.pop("y").astype(int).to_numpy()
    best = best_rule(frame, y)
    assert best.accuracy(frame, y) == best.correct / len(y)
    for column in frame:
        for cut in range(7):
            above = (frame[column] >= cut).to_numpy()
            # Cuts at values that occur miss only "never" and "always" the other way round,
            # and those are covered by the lowest value.
            assert max((above == y).sum(), (~above == y).sum()) <= best.correct


def test_stump_is_drawn_by_the_exponential_mechanism(marks):
    """Frequencies of 4000 draws against exp(epsilon * right / 2), chi-square below its 99.9 %."""
    from scipy import stats

    frame, y = marks
    thresholds, eps, draws = {"mark": [6, 9, 13], "age": [16]}, 1.3, 4000
    right, weight = {}, {}
    for feature, cuts in thresholds.items():
        for cut in cuts:
            for direction in (">=", "<"):
                rule = Rule(feature=feature, threshold=cut, direction=direction, n=5)
                right[feature, cut, direction] = rule.accuracy(frame, y) * 5
    total = sum(np.exp(eps * r / 2) for r in right.values())
    weight = {k: np.exp(eps * r / 2) / total for k, r in right.items()}
    rng = np.random.default_rng(3)
    counts = dict.fromkeys(weight, 0)
    for _ in range(draws):
        rule = dp_stump(frame, y, thresholds=thresholds, epsilon=eps, rng=rng)
        counts[rule.feature, rule.threshold, rule.direction] += 1
        assert rule.correct is None  # the count itself would not be private
    chi2 = sum((counts[k] - draws * w) ** 2 / (draws * w) for k, w in weight.items())
    assert chi2 < stats.chi2.ppf(0.999, len(weight) - 1)


def test_stump_keeps_its_epsilon_on_neighbouring_tables(marks):
    """No candidate's probability changes by more than a factor e^epsilon when a record changes."""
    frame, y = marks
    thresholds, eps = {"mark": range(3, 17), "age": [16, 17]}, 0.7

    def probabilities(f, t):
        _, scores = stump._candidates(f, t, thresholds)
        w = np.exp(eps / 2 * scores)
        return w / w.sum()

    base = probabilities(frame, y)
    for row in range(5):
        dropped = probabilities(frame.drop(index=row), np.delete(y, row))
        changed = frame.copy()
        changed.loc[row] = [3, 17]
        flipped = y.copy()
        flipped[row] = 1 - y[row]
        for other in (dropped, probabilities(changed, flipped)):
            assert np.abs(np.log(base / other)).max() <= eps + 1e-12


def test_bad_input(marks):
    frame, y = marks
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="epsilon is a number above 0"):
        dp_stump(frame, y, thresholds={"mark": [10]}, epsilon=0, rng=rng)
    with pytest.raises(ValueError, match="no column 'grade'"):
        dp_stump(frame, y, thresholds={"grade": [10]}, epsilon=1, rng=rng)
    with pytest.raises(ValueError, match="no candidate thresholds"):
        dp_stump(frame, y, thresholds={}, epsilon=1, rng=rng)
    with pytest.raises(ValueError, match="0 and 1 only"):
        best_rule(frame, y + 1)
    with pytest.raises(ValueError, match="missing values"):
        best_rule(frame.assign(mark=np.nan), y, features=["mark"])


def test_the_rule_that_every_table_needs(real_data):
    """G2 >= 10 is right for 363 of the 395 students (0.919), and no other single cut is better."""
    frame = pd.read_csv(real_data / "student-mat.csv", sep=None, engine="python")
    y = (frame.pop("G3") >= 10).astype(int)
    rule = best_rule(frame, y)
    assert str(rule) == "G2 >= 10"
    assert rule.correct == 363
