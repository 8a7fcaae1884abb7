"""One threshold on one feature, chosen with or without privacy: what any network has to beat.

On the report's student data "G2 >= 10" alone predicts 363 of 395 outcomes. A table of accuracies
that leaves such a rule out says little.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Rule", "best_rule", "dp_stump"]

Direction = Literal[">=", "<"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Class 1 where `feature` `direction` `threshold`, else class 0.

    correct, n   records it classified rightly and records in all, on the data it was chosen from;
                 `correct` is None for a rule chosen with privacy, where the count would leak
    """

    feature: str
    threshold: float
    direction: Direction
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


def _targets(frame: pd.DataFrame, y: ArrayLike) -> NDArray[np.bool_]:
    target = np.asarray(y)
    if target.shape != (len(frame),):
        raise ValueError(f"y must have shape ({len(frame)},) like the table, got {target.shape}.")
    if not np.isin(target, (0, 1)).all():
        raise ValueError(f"y must hold 0 and 1 only, got {np.unique(target)[:5]}.")
    return target.astype(bool)


def _candidates(
    frame: pd.DataFrame, y: NDArray[np.bool_], thresholds: Mapping[str, Sequence[float]]
) -> tuple[list[tuple[str, float, Direction]], NDArray[np.int64]]:
    """Every (feature, threshold, direction) and how many records it gets right."""
    rules: list[tuple[str, float, Direction]] = []
    scores: list[int] = []
    for feature, cuts in thresholds.items():
        if feature not in frame.columns:
            raise ValueError(f"the table has no column {feature!r}; it has {list(frame.columns)}.")
        values = frame[feature].to_numpy(dtype=float)
        if np.isnan(values).any():
            raise ValueError(f"column {feature!r} has missing values; fill or drop them first.")
        for cut in cuts:
            right = int(((values >= cut) == y).sum())
            rules += [(feature, float(cut), ">="), (feature, float(cut), "<")]
            scores += [right, len(y) - right]
    if not rules:
        raise ValueError("no candidate thresholds given; pass {feature: [threshold, ...]}.")
    return rules, np.array(scores)


def best_rule(frame: pd.DataFrame, y: ArrayLike, *, features: Sequence[str] | None = None) -> Rule:
    """The threshold on one feature that is right most often: no privacy, no training.

    Thresholds are all values that occur. Ties go to the first feature and the lowest threshold.

    Parameters
    ----------
    frame : DataFrame, n rows
        Numeric columns.
    y : array of 0 and 1, shape (n,)
    features : column names, optional
        All numeric columns by default.
    """
    target = _targets(frame, y)
    names = list(frame.select_dtypes(["number", "bool"]).columns) if features is None else features
    rules, scores = _candidates(frame, target, {f: np.unique(frame[f]) for f in names})
    best = int(np.argmax(scores))
    feature, threshold, direction = rules[best]
    return Rule(
        feature=feature,
        threshold=threshold,
        direction=direction,
        n=len(target),
        correct=int(scores[best]),
    )


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

    Parameters
    ----------
    frame, y
        As in `best_rule`.
    thresholds : {column: candidate values}
        **Public**: from a codebook or common sense, never from the data.
    epsilon : float
        > 0.
    rng : Generator

    References
    ----------
    McSherry and Talwar 2007, "Mechanism design via differential privacy".
    """
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ValueError(f"epsilon must be finite and > 0, got {epsilon}.")
    target = _targets(frame, y)
    rules, scores = _candidates(frame, target, thresholds)
    # The maximum under Gumbel noise has that distribution, and nothing can overflow.
    chosen = int(np.argmax(scores * (epsilon / 2) + rng.gumbel(size=len(rules))))
    feature, threshold, direction = rules[chosen]
    return Rule(feature=feature, threshold=threshold, direction=direction, n=len(target))
