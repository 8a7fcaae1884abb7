"""From a model's answers to membership scores: outputs, losses, confidences, a CSV of scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from pet_lab import checks
from pet_lab.data import read_table

# The clip of TensorFlow Privacy's `log_loss`, so that both rank saturated records alike.
_SMALL = 1e-8


class DivergedError(ValueError):
    """The model's answers hold NaN or infinities: its training diverged."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a model answers for some records whose classes are known.

    probabilities  shape (n, classes), rows sum to 1
    labels         int, shape (n,), in 0 .. classes - 1
    """

    probabilities: np.ndarray
    labels: np.ndarray

    @property
    def size(self) -> int:
        """Number of records."""
        return int(self.labels.size)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.probabilities.shape[1]

    @property
    def true_class(self) -> np.ndarray:
        """Probability given to the true class, shape (n,)."""
        return self.probabilities[np.arange(self.size), self.labels]

    @property
    def loss(self) -> np.ndarray:
        """Cross-entropy of each record in nats, at most -log(1e-8) = 18.4."""
        return -np.log(np.maximum(self.true_class, _SMALL))

    @property
    def modified_entropy(self) -> np.ndarray:
        """Song and Mittal's entropy, low where the model is sure *and* right (arXiv:2003.10595)."""
        p, n = self.probabilities, np.arange(self.size)
        tiny = 1e-30
        terms = -p * np.log(np.maximum(1 - p, tiny))
        own = p[n, self.labels]
        terms[n, self.labels] = -(1 - own) * np.log(np.maximum(own, tiny))
        return terms.sum(axis=1)

    @property
    def predicted(self) -> np.ndarray:
        """Class with the largest probability; of two equal ones the first."""
        return np.argmax(self.probabilities, axis=1)

    @property
    def accuracy(self) -> float:
        """Share of records whose predicted class is right; NaN of none."""
        return float(np.mean(self.predicted == self.labels)) if self.size else float("nan")

    def take(self, which: ArrayLike) -> Outputs:
        """The records that a mask or a list of row numbers names."""
        index = np.asarray(which)
        return Outputs(probabilities=self.probabilities[index], labels=self.labels[index])


def _columns(values: ArrayLike, kind: str) -> np.ndarray:
    """Finite answers, shape (n,) for one column or (n, classes)."""
    answers = np.asarray(values, dtype=float)
    if answers.ndim == 2 and answers.shape[1] == 1:
        answers = answers[:, 0]
    checks.require(
        answers.ndim in (1, 2), f"{kind} have shape (n,) or (n, classes), got {answers.shape}."
    )
    finite = np.isfinite(answers) if answers.ndim == 1 else np.isfinite(answers).all(axis=1)
    checks.require(
        finite.all(),
        f"The model's answers are NaN or infinite for {int((~finite).sum())} of {finite.size} "
        "records: its training diverged. Report it as such and leave it out of every mean.",
        DivergedError,
    )
    return answers


def _outputs(p: np.ndarray, labels: ArrayLike) -> Outputs:
    y, (n, classes) = np.asarray(labels), p.shape
    checks.require(
        y.shape == (n,), f"Expected one label for each of {n} answers, got shape {y.shape}."
    )
    strange = np.setdiff1d(y, np.arange(classes))
    checks.require(
        not strange.size, f"labels are integers from 0 to {classes - 1}, got {strange[:3]}."
    )
    return Outputs(probabilities=p, labels=y.astype(np.int64))


def from_logits(logits: ArrayLike, labels: ArrayLike) -> Outputs:
    """Outputs from logits, shape (n,) or (n, 1) for one logit of class 1, or (n, classes).

    One logit z is widened to the pair (0, z), so that "predicted class" means what it says.
    DivergedError if a logit is NaN or infinite, ValueError if shapes or labels do not fit.
    """
    z = _columns(logits, "logits")
    if z.ndim == 1:
        z = np.stack([np.zeros_like(z), z], axis=1)
    return _outputs(special.softmax(z, axis=1), labels)


def from_probabilities(probabilities: ArrayLike, labels: ArrayLike) -> Outputs:
    """Outputs from probabilities, shape (n,) of class 1, or (n, classes).

    DivergedError if one is NaN; ValueError if they lie outside [0, 1], rows do not sum to 1, or
    labels do not fit.
    """
    p = _columns(probabilities, "probabilities")
    if p.ndim == 1:
        p = np.stack([1 - p, p], axis=1)
    outside = p[(p < -1e-6) | (p > 1 + 1e-6)]
    fits = not outside.size and (np.abs(p.sum(axis=1) - 1) <= 1e-3).all()
    checks.require(
        fits,
        "Probabilities lie in [0, 1] and each row of them sums to 1, got "
        f"{outside[:3] if outside.size else 'other sums'}; pass logits to from_logits.",
    )
    return _outputs(np.clip(p, 0.0, 1.0), labels)


def from_estimator(model: Any, X: ArrayLike, y: ArrayLike) -> Outputs:
    """Outputs of a fitted scikit-learn classifier; `y`, shape (n,), in its own classes.

    ValueError if the model gives no probabilities, or `y` holds a class that it never saw.
    """
    checks.require(
        hasattr(model, "predict_proba"),
        f"Expected a classifier with predict_proba, got {type(model).__name__}; wrap it in "
        "CalibratedClassifierCV, or pass an SVM probability=True.",
    )
    classes, truth = list(model.classes_), np.asarray(y).tolist()
    unknown = sorted({str(v) for v in truth if v not in classes})
    checks.require(
        not unknown, f"The model was trained on the classes {classes}, got also {unknown[:5]}."
    )
    return from_probabilities(model.predict_proba(X), [classes.index(v) for v in truth])


def from_keras(model: Any, X: ArrayLike, y: ArrayLike, *, logits: bool | None = None) -> Outputs:
    """Outputs of a Keras model with one output column for two classes, or one per class.

    Parameters
    ----------
    model : Keras model
    X, y : arrays, shapes (n, features), (n,)
    logits : whether the model answers logits. By default read from the last layer's activation:
        sigmoid and softmax give probabilities, "linear" gives logits; others are refused.
    """
    if logits is None:
        activation = getattr(getattr(model.layers[-1], "activation", None), "__name__", "none")
        checks.require(
            activation in ("linear", "sigmoid", "softmax"),
            f"The last activation is {activation!r}; pass logits=True or logits=False.",
        )
        logits = activation == "linear"
    answers = np.asarray(model.predict(np.asarray(X), verbose=0))
    return from_logits(answers, y) if logits else from_probabilities(answers, y)


def signed_logits(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """``log(p / (1 - p))`` of the true class for models with one logit: LiRA's statistic.

    Logits of class 1, shape (..., n), leading axes (replicas) are kept; labels are 0 or 1, shape
    (n,). NaN stays NaN: a diverged replica is for the caller to count and leave out.
    """
    y = np.asarray(labels)
    checks.require(np.isin(y, (0, 1)).all(), "labels are 0 or 1 for a model with one logit.")
    return np.asarray(logits, dtype=float) * (2 * y - 1)


def read_scores(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Members' and non-members' scores from a CSV with the columns ``score`` and ``member``.

    ``member`` is 1/0, true/false or yes/no; a higher ``score`` means "more likely a member" (for
    losses, write minus the loss). ValueError if the file lacks a column, a value is no number, or
    only one side occurs.
    """
    name, reading = Path(path).name, read_table(Path(path), as_text=["member"])
    text = reading.text
    missing = [c for c in ("score", "member") if c not in text.columns]
    checks.require(
        not missing,
        f"{name}: expected the columns score and member, {' and '.join(missing)} is missing; "
        f"there are {', '.join(text.columns)}.",
    )
    flags = text["member"].str.lower()
    member = flags.isin(["1", "true", "yes"]).to_numpy()
    strange = sorted(set(flags[~member]) - {"0", "false", "no"})
    checks.require(
        not strange, f"{name}: member is 1 or 0 (or true/false, yes/no), got {[*strange, ''][0]!r}."
    )
    scores = reading.frame["score"]
    odd = scores.isna() if scores.dtype != object else ~text["score"].str.match(r"[+-]?\.?\d")
    if odd.any() or scores.dtype == object:
        row = int(np.argmax(odd))
        raise ValueError(
            f"{name}: line {reading.lines[row]} has no number as score ({text['score'][row]!r}); "
            "leave out records whose model diverged."
        )
    side = "members" if member.all() else "non-members"
    checks.require(
        0 < member.sum() < member.size,
        f"{name}: holds only {side} ({member.size} rows); an attack is judged on both.",
    )
    values = scores.to_numpy(dtype=float)
    return values[member], values[~member]
