"""Shadow models (Shokri et al. 2017): synthesise records from the target's answers, train
imitations of the target on them, and learn from those what membership looks like.

References: arXiv:1610.05820, algorithm 1 and section V.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pet_lab.mia.scores import Outputs

_REJECTIONS = 5  # steps without an improvement before fewer attributes are redrawn

Predict = Callable[[np.ndarray], np.ndarray]


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
        """The domain that an encoded table spans.

        Parameters
        ----------
        X : array, shape (n, features)
        feature_names : sequence of str
            ``column`` for a number, ``column_level`` for a one-hot level.
        columns : sequence of str, optional
            The table's columns before encoding; without it each feature is its own attribute.

        Returns
        -------
        Domain with the distinct values that occur. An attacker knows at least these where he
        knows the documentation of the data.
        """
        x = np.asarray(X, dtype=float)
        if x.ndim != 2 or x.shape[1] != len(feature_names) or not len(x):
            raise ValueError(
                f"X has a row per record and a column per feature name ({len(feature_names)}), "
                f"got shape {x.shape}."
            )
        names = list(feature_names) if columns is None else list(columns)
        owner: dict[str, list[int]] = {}
        for j, feature in enumerate(feature_names):
            fits = [c for c in names if feature == c or feature.startswith(f"{c}_")]
            if not fits:
                raise ValueError(f"Feature {feature!r} belongs to none of the columns {names[:8]}.")
            owner.setdefault(max(fits, key=len), []).append(j)
        groups = tuple(np.array(cols) for cols in owner.values())
        return cls(groups, tuple(np.unique(x[:, g], axis=0) for g in groups))

    @property
    def features(self) -> int:
        """Number of encoded columns."""
        return sum(g.size for g in self.groups)

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
        return self.redraw(np.zeros((n, self.features)), np.full(n, len(self.groups)), rng)


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """Records that the target assigns to a class with confidence.

    X        shape (n, features)
    queries  answers asked of the target
    tried    starting points, of which n led to a record
    """

    X: np.ndarray
    queries: int
    tried: int


def synthesise(
    predict: Predict,
    domain: Domain,
    *,
    label: int,
    n: int,
    rng: np.random.Generator,
    confidence: float = 0.8,
    k_max: int | None = None,
    max_steps: int = 200,
    parallel: int = 512,
) -> Synthesis:
    """Model-based synthesis by hill climbing on the target's confidence, many starts at once.

    Parameters
    ----------
    predict : callable
        Array (m, features) to probabilities (m, classes): the target's only interface.
    domain : Domain
    label : int
        Class to synthesise.
    n : int
        Records wanted.
    rng : numpy Generator
    confidence : float
        A record is taken with the probability that the target gives to `label`, and only where
        that exceeds `confidence` and `label` is the predicted class.
    k_max : int, optional
        Attributes redrawn per step at first, all by default; halved after 5 steps without an
        improvement.
    max_steps : int
        So many steps without success end a start.
    parallel : int
        Starts that climb together; the law of the result does not depend on it.

    Returns
    -------
    Synthesis

    Raises
    ------
    SynthesisError
        If the target hardly ever predicts `label` with `confidence`: none in 4 rounds of
        parallel starts, or still too few after 20 starts per wanted record.
    ValueError
        If a number is out of its range.

    References
    ----------
    arXiv:1610.05820, algorithm 1.
    """
    if n < 1 or not 0 <= confidence < 1:
        raise ValueError(
            f"Expected n >= 1 records and a confidence in [0, 1), got {n} and {confidence}."
        )
    top = len(domain.groups) if k_max is None else k_max
    if not 1 <= top <= len(domain.groups):
        raise ValueError(f"Expected 1 <= k_max <= {len(domain.groups)} attributes, got {top}.")
    taken: list[np.ndarray] = []
    count = queries = tried = 0
    while count < n:
        if tried >= 20 * max(n, parallel) or (tried >= 4 * parallel and not count):
            raise SynthesisError(
                f"Only {count} of {n} records of class {label} after {tried} starts: the target "
                f"rarely gives this class more than {confidence:g}; lower confidence, or attack "
                "another model."
            )
        records, asked = _climb(
            predict,
            domain,
            label=label,
            starts=parallel,
            rng=rng,
            confidence=confidence,
            k_max=top,
            max_steps=max_steps,
        )
        taken.append(records)
        count, queries, tried = count + len(records), queries + asked, tried + parallel
    return Synthesis(X=np.concatenate(taken)[:n], queries=queries, tried=tried)


def _climb(
    predict: Predict,
    domain: Domain,
    *,
    label: int,
    starts: int,
    rng: np.random.Generator,
    confidence: float,
    k_max: int,
    max_steps: int,
) -> tuple[np.ndarray, int]:
    current = domain.draw(starts, rng)
    best = current.copy()
    level = np.zeros(starts)
    rejections = np.zeros(starts, dtype=int)
    k = np.full(starts, k_max)
    active = np.arange(starts)
    accepted: list[np.ndarray] = []
    queries = 0
    for _ in range(max_steps):
        answers = np.asarray(predict(current[active]), dtype=float)
        queries += active.size
        own = answers[:, label]
        better = own >= level[active]
        sure = better & (own > confidence) & (answers.argmax(axis=1) == label)
        success = sure & (rng.random(active.size) < own)
        accepted.append(current[active[success]])
        up, down = active[better], active[~better]
        best[up], level[up], rejections[up] = current[up], own[better], 0
        rejections[down] += 1
        tired = down[rejections[down] > _REJECTIONS]
        k[tired] = -(-k[tired] // 2)
        rejections[tired] = 0
        active = active[~success]
        if not active.size:
            break
        current[active] = domain.redraw(best[active], k[active], rng)
    return np.concatenate(accepted), queries


def shadow_masks(
    models: int, records: int, *, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Training and test records of each shadow model, drawn from one pool.

    Parameters
    ----------
    models, records : int
    size : int
        Records that each model trains on; as many others test it.
    rng : numpy Generator

    Returns
    -------
    (train, test) : bool arrays, shape (models, records), disjoint in each row.
    """
    if models < 1 or size < 1 or 2 * size > records:
        raise ValueError(
            f"Each of {models} shadow models needs 2 x {size} records, the pool has {records}; "
            "synthesise more or train on fewer."
        )
    rank = rng.random((models, records)).argsort(axis=1).argsort(axis=1)
    return rank < size, (rank >= size) & (rank < 2 * size)


@dataclass(frozen=True)
class AttackModels:
    """One fitted attack per class of the target's *prediction*, as in the report's text.

    models  class to classifier; a class without enough shadow answers is absent
    """

    models: Mapping[int, Any] = field(repr=False)

    def score(self, outputs: Outputs) -> np.ndarray:
        """P(member) of each record, shape (n,); NaN where its class has no attack model."""
        result = np.full(outputs.size, np.nan)
        for label, model in self.models.items():
            rows = outputs.predicted == label
            if rows.any():
                result[rows] = model.predict_proba(outputs.probabilities[rows])[:, 1]
        return result


def attack_models(answers: ArrayLike, train: ArrayLike, test: ArrayLike) -> AttackModels:
    """Learn membership from the shadow models' answers: a logistic regression per predicted class.

    Parameters
    ----------
    answers : array, shape (models, records, classes)
        Probabilities that each shadow model gives to every record of the pool.
    train, test : bool arrays, shape (models, records)
        Its members and its non-members.

    Returns
    -------
    AttackModels

    Raises
    ------
    ValueError
        If shapes differ, answers are NaN, or no class has members and non-members.
    """
    from sklearn.linear_model import LogisticRegression

    p = np.asarray(answers, dtype=float)
    inside, outside = np.asarray(train, dtype=bool), np.asarray(test, dtype=bool)
    if p.ndim != 3 or p.shape[:2] != inside.shape or inside.shape != outside.shape:
        raise ValueError(
            "answers have shape (models, records, classes) and both masks (models, records), got "
            f"{p.shape}, {inside.shape} and {outside.shape}."
        )
    diverged = int((~np.isfinite(p).all(axis=(1, 2))).sum())
    if diverged:
        raise ValueError(
            f"{diverged} of {len(p)} shadow models diverged (NaN answers); drop them from answers "
            "and masks and report how many."
        )
    used = inside | outside
    features, member = p[used], inside[used]
    predicted = features.argmax(axis=1)
    fitted = {}
    for label in range(p.shape[2]):
        rows = predicted == label
        if member[rows].any() and not member[rows].all():
            fitted[label] = LogisticRegression().fit(features[rows], member[rows].astype(int))
    if not fitted:
        raise SynthesisError("No class has both members and non-members among the shadow answers.")
    return AttackModels(fitted)


def decision_metrics(member: ArrayLike, called: ArrayLike) -> dict[str, dict[str, float]]:
    """Accuracy, and precision, recall and F1 for members and for non-members.

    Parameters
    ----------
    member, called : bool arrays, shape (n,)
        The truth and the attack's decision.

    Returns
    -------
    ``{"all": {"accuracy", "balanced_accuracy"}, "member": {"precision", "recall", "f1"},
    "nonmember": {...}}``. A share of nothing (for example the precision of an attack that calls
    nobody a member) is NaN.
    """
    truth, accused = np.asarray(member, dtype=bool), np.asarray(called, dtype=bool)
    if truth.shape != accused.shape or truth.ndim != 1:
        raise ValueError(
            f"member and called have one entry per record, got {truth.shape} and {accused.shape}."
        )

    def share(a: int, b: int) -> float:
        return a / b if b else float("nan")

    result: dict[str, dict[str, float]] = {}
    for name, t, s in (("member", truth, accused), ("nonmember", ~truth, ~accused)):
        hit = int((t & s).sum())
        result[name] = {
            "precision": share(hit, int(s.sum())),
            "recall": share(hit, int(t.sum())),
            "f1": share(2 * hit, int(s.sum() + t.sum())),
        }
    result["all"] = {
        "accuracy": share(int((truth == accused).sum()), truth.size),
        "balanced_accuracy": (result["member"]["recall"] + result["nonmember"]["recall"]) / 2,
    }
    return result
