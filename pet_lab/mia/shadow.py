"""Shadow models (Shokri et al. 2017): synthesise records from the target's answers, train
imitations of the target on them, and learn from those what membership looks like.

References: arXiv:1610.05820, algorithm 1 and section V.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pet_lab import checks
from pet_lab.mia.scores import Outputs

_STARTS = 512  # climb together; the law of the result does not depend on it
_STEPS = 200  # without success end a start
_REJECTIONS = 5  # steps without an improvement before fewer attributes are redrawn


class SynthesisError(ValueError):
    """The target's answers lead to no records of a class, or its imitations to no attack."""


@dataclass(frozen=True)
class Domain:
    """What a record may look like: encoded columns in groups, each with its allowed values.

    groups  for each attribute the columns it fills, for example the five columns of a one-hot job
    values  for each attribute its values, shape (k, columns of the group)
    """

    groups: tuple[np.ndarray, ...]
    values: tuple[np.ndarray, ...]

    @classmethod
    def of(
        cls, X: ArrayLike, feature_names: Sequence[str], columns: Sequence[str] | None = None
    ) -> Domain:
        """The distinct values of an encoded table, which its documentation tells an attacker.

        Features, the columns of X, are named ``column``, or ``column_level`` for a one-hot level of
        one of the table's `columns`; without those each feature is its own attribute.
        """
        x = np.asarray(X, dtype=float)
        checks.require(
            x.ndim == 2 and x.shape[1] == len(feature_names) and len(x),
            f"X has a row per record and a column per feature name ({len(feature_names)}), got "
            f"shape {x.shape}.",
        )
        names = list(feature_names if columns is None else columns)
        owner: dict[str, list[int]] = {}
        for j, feature in enumerate(feature_names):
            fits = [c for c in names if feature == c or feature.startswith(f"{c}_")]
            checks.require(fits, f"Feature {feature!r} belongs to none of the columns {names[:8]}.")
            owner.setdefault(max(fits, key=len), []).append(j)
        groups = tuple(np.array(cols) for cols in owner.values())
        return cls(groups, tuple(np.unique(x[:, g], axis=0) for g in groups))

    def redraw(self, X: np.ndarray, k: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Copies of the rows of `X` with `k[i]` randomly chosen attributes drawn anew."""
        out = X.copy()
        rank = rng.random((len(X), len(self.groups))).argsort(axis=1).argsort(axis=1)
        for a, (group, values) in enumerate(zip(self.groups, self.values, strict=True)):
            rows = np.flatnonzero(rank[:, a] < k)
            out[np.ix_(rows, group)] = values[rng.integers(len(values), size=rows.size)]
        return out

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """`n` records with every attribute uniform over its values, shape (n, features)."""
        features = sum(group.size for group in self.groups)
        return self.redraw(np.zeros((n, features)), np.full(n, len(self.groups)), rng)


def synthesise(
    predict: Callable[[np.ndarray], np.ndarray],
    domain: Domain,
    *,
    label: int,
    n: int,
    rng: np.random.Generator,
    confidence: float = 0.8,
) -> tuple[np.ndarray, int]:
    """Model-based synthesis by hill climbing on the target's confidence, many starts at once.

    `predict`, array (m, features) to probabilities (m, classes), is the target's only interface. A
    record is taken with the probability that the target gives to `label`, and only where that
    exceeds `confidence` and `label` is the predicted class.

    Returns
    -------
    `n` records, shape (n, features), and the number of answers asked of the target.

    Raises
    ------
    SynthesisError
        If the target hardly ever predicts `label` with `confidence`: none in 4 rounds of 512
        starts, or still too few after 20 starts per wanted record.
    """
    checks.whole(1, n=n)
    checks.require(0 <= confidence < 1, f"confidence is a probability in [0, 1), got {confidence}.")
    taken: list[np.ndarray] = []
    count = queries = tried = 0
    while count < n:
        checks.require(
            tried < 20 * max(n, _STARTS) and (count or tried < 4 * _STARTS),
            f"Only {count} of {n} records of class {label} after {tried} starts are surer than "
            f"{confidence:g}; lower confidence, or attack another model.",
            SynthesisError,
        )
        tried += _STARTS
        for records, asked in _climb(predict, domain, label, confidence, rng):
            taken.append(records)
            count, queries = count + len(records), queries + asked
    return np.concatenate(taken)[:n], queries


def _climb(
    predict: Callable[[np.ndarray], np.ndarray],
    domain: Domain,
    label: int,
    confidence: float,
    rng: np.random.Generator,
) -> Iterator[tuple[np.ndarray, int]]:
    """One round of starts: the records that each step takes, and how many it asked about."""
    current = domain.draw(_STARTS, rng)
    best, level = current.copy(), np.zeros(_STARTS)
    rejections, k = np.zeros(_STARTS, dtype=int), np.full(_STARTS, len(domain.groups))
    active = np.arange(_STARTS)
    for _ in range(_STEPS):
        answers = np.asarray(predict(current[active]), dtype=float)
        own = answers[:, label]
        better = own >= level[active]
        sure = better & (own > confidence) & (answers.argmax(axis=1) == label)
        success = sure & (rng.random(active.size) < own)
        yield current[active[success]], active.size
        up, down = active[better], active[~better]
        best[up], level[up], rejections[up] = current[up], own[better], 0
        rejections[down] += 1
        tired = down[rejections[down] > _REJECTIONS]
        k[tired] = -(-k[tired] // 2)  # half as many, rounded up
        rejections[tired] = 0
        active = active[~success]
        if not active.size:
            return
        current[active] = domain.redraw(best[active], k[active], rng)


def shadow_masks(
    models: int, records: int, *, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The `size` training and as many test records of each shadow model, drawn from one pool.

    Two bool arrays, shape (models, records), disjoint in each row.
    """
    checks.whole(1, models=models, size=size)
    checks.require(
        2 * size <= records,
        f"Each of {models} shadow models needs 2 x {size} records, the pool has {records}; "
        "synthesise more or train on fewer.",
    )
    rank = rng.random((models, records)).argsort(axis=1).argsort(axis=1)
    return rank < size, (rank >= size) & (rank < 2 * size)


def shadow_scores(
    answers: ArrayLike, train: ArrayLike, test: ArrayLike, outputs: Outputs
) -> np.ndarray:
    """P(member) of the target's records, by what the shadow models' answers show of membership.

    One logistic regression per class of the *prediction*, as in the report's text, learns from the
    `answers`, shape (models, records, classes), that each shadow model gives to its members `train`
    and non-members `test`, bool, shape (models, records); `outputs` are the target's. NaN where the
    predicted class has not both among the shadow answers; SynthesisError if no class has.
    """
    from sklearn.linear_model import LogisticRegression

    p = np.asarray(answers, dtype=float)
    inside, outside = np.asarray(train, dtype=bool), np.asarray(test, dtype=bool)
    checks.require(
        p.ndim == 3 and p.shape[:2] == inside.shape == outside.shape,
        "answers have shape (models, records, classes) and both masks (models, records), got "
        f"{p.shape}, {inside.shape} and {outside.shape}.",
    )
    diverged = int((~np.isfinite(p).all(axis=(1, 2))).sum())
    checks.require(
        not diverged,
        f"{diverged} of {len(p)} shadow models diverged; drop them, and report how many.",
    )
    used = inside | outside
    features, member = p[used], inside[used]
    predicted = features.argmax(axis=1)
    taught = [c for c in range(p.shape[2]) if len(np.unique(member[predicted == c])) == 2]
    sentence = "No class has both members and non-members among the shadow answers."
    checks.require(taught, sentence, SynthesisError)
    scores = np.full(outputs.size, np.nan)
    for label in taught:
        rows, asked = predicted == label, outputs.predicted == label
        model = LogisticRegression().fit(features[rows], member[rows].astype(int))
        if asked.any():
            scores[asked] = model.predict_proba(outputs.probabilities[asked])[:, 1]
    return scores


def decision_metrics(member: ArrayLike, called: ArrayLike) -> dict[str, dict[str, float]]:
    """Accuracy, and precision, recall and F1 for members and for non-members.

    `member` and `called`, bool, shape (n,), are the truth and the attack's decision. The result is
    ``{"all": {"accuracy", "balanced_accuracy"}, "member": {"precision", "recall", "f1"},
    "nonmember": {...}}``; a share of nothing (for example the precision of an attack that calls
    nobody a member) is NaN.
    """
    truth, accused = np.asarray(member, dtype=bool), np.asarray(called, dtype=bool)
    checks.require(
        truth.shape == accused.shape and truth.ndim == 1,
        f"member and called have one entry per record, got {truth.shape} and {accused.shape}.",
    )

    def share(part: int, whole: int) -> float:
        return part / whole if whole else float("nan")

    result: dict[str, dict[str, float]] = {}
    for name, t, s in (("member", truth, accused), ("nonmember", ~truth, ~accused)):
        hit, actual, stated = (int(mask.sum()) for mask in (t & s, t, s))
        result[name] = {
            "precision": share(hit, stated),
            "recall": share(hit, actual),
            "f1": share(2 * hit, stated + actual),
        }
    result["all"] = {
        "accuracy": share(int((truth == accused).sum()), truth.size),
        "balanced_accuracy": (result["member"]["recall"] + result["nonmember"]["recall"]) / 2,
    }
    return result
