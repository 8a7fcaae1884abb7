"""One threshold on one feature, chosen with or without privacy: what any network has to beat.

On the report's student data "G2 >= 10" alone predicts 363 of 395 outcomes. A table of accuracies
that leaves such a rule out says little.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from pet_lab import checks
from pet_lab.checks import require


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Class 1 where `feature` `direction` `threshold`, else class 0.

    direction    ">=" or "<"
    correct, n   records it classified rightly and records in all, on the data it was chosen from;
                 `correct` is None for a rule chosen with privacy, where the count would leak
    """

    feature: str
    threshold: float
    direction: str
    n: int
    correct: int | None = None

    def predict(self, frame: pd.DataFrame) -> NDArray[np.int64]:
        """0 or 1 for each row of `frame`, which has a column `feature`."""
        above = frame[self.feature].to_numpy() >= self.threshold
        return (above if self.direction == ">=" else ~above).astype(np.int64)

    def accuracy(self, frame: pd.DataFrame, y: ArrayLike) -> float:
        """Share of rows that the rule gets right."""
        return float(np.mean(self.predict(frame) == np.asarray(y)))

    def __str__(self) -> str:
        return f"{self.feature} {self.direction} {self.threshold:g}"


def _candidates(
    frame: pd.DataFrame, y: ArrayLike, thresholds: Mapping[str, Sequence[float]]
) -> tuple[list[Rule], NDArray[np.int64]]:
    """Every rule that the thresholds allow, and how many records it gets right."""
    target = np.asarray(y)
    shape = f"y must have shape ({len(frame)},) like the table, got {target.shape}."
    require(target.shape == (len(frame),), shape)
    values = f"y must hold 0 and 1 only, got {np.unique(target)[:5]}."
    require(np.isin(target, (0, 1)).all(), values)
    rules: list[Rule] = []
    scores: list[int] = []
    for feature, cuts in thresholds.items():
        columns = f"the table has no column {feature!r}; it has {list(frame.columns)}."
        require(feature in frame.columns, columns)
        column = frame[feature].to_numpy(dtype=float)
        holes = f"column {feature!r} has missing values; fill or drop them first."
        require(not np.isnan(column).any(), holes)
        for cut in map(float, cuts):
            right = int(((column >= cut) == target.astype(bool)).sum())
            for direction, score in ((">=", right), ("<", len(target) - right)):
                rule = Rule(feature=feature, threshold=cut, direction=direction, n=len(target))
                rules.append(rule)
                scores.append(score)
    require(rules, "no candidate thresholds given; pass {feature: [threshold, ...]}.")
    return rules, np.array(scores)


def best_rule(frame: pd.DataFrame, y: ArrayLike, *, features: Sequence[str] | None = None) -> Rule:
    """The threshold on one feature that is right most often: no privacy, no training.

    Thresholds are all values that occur in the numeric columns, or in `features`; `y` holds 0 and
    1, shape (n,). Ties go to the first feature and the lowest threshold.
    """
    names = list(frame.select_dtypes(["number", "bool"]).columns) if features is None else features
    rules, scores = _candidates(frame, y, {f: np.unique(frame[f]) for f in names})
    best = int(np.argmax(scores))
    return replace(rules[best], correct=int(scores[best]))


def dp_stump(
    frame: pd.DataFrame,
    y: ArrayLike,
    *,
    thresholds: Mapping[str, Sequence[float]],
    epsilon: float,
    rng: np.random.Generator,
) -> Rule:
    """A threshold rule chosen with pure epsilon-differential privacy by the exponential mechanism.

    Each candidate (feature, threshold, direction) is drawn with probability proportional to
    exp(epsilon * right / 2), where `right` counts the records that it classifies rightly. One
    record more, less or replaced changes each count by at most 1, so the choice is epsilon-private
    with delta = 0 for both neighbouring relations. (With add/remove alone, where all counts move
    the same way, exp(epsilon * right) would do; that factor is not taken here.)

    `thresholds` ({column: candidate values}) are **public**: from a codebook or common sense, never
    from the data. Source: McSherry and Talwar 2007, "Mechanism design via differential privacy".
    """
    checks.positive(epsilon=epsilon)
    rules, scores = _candidates(frame, y, thresholds)
    # The maximum under Gumbel noise has that distribution, and nothing can overflow.
    return rules[int(np.argmax(scores * (epsilon / 2) + rng.gumbel(size=len(rules))))]
