"""From a model's answers to membership scores: outputs, losses, confidences, a CSV of scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

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


def _checked_labels(labels: ArrayLike, n: int, classes: int) -> np.ndarray:
    y = np.asarray(labels)
    if y.shape != (n,):
        raise ValueError(f"Expected one label for each of {n} answers, got shape {y.shape}.")
    if y.size and (not np.equal(y, np.round(y)).all() or y.min() < 0 or y.max() >= classes):
        raise ValueError(
            f"labels are integers from 0 to {classes - 1}, got values from {y.min()} to {y.max()}; "
            "number the classes from 0."
        )
    return y.astype(np.int64)


def _refuse_diverged(values: np.ndarray) -> None:
    bad = ~np.isfinite(values.reshape(values.shape[0], -1)).all(axis=1)
    if bad.any():
        raise DivergedError(
            f"The model's answers are NaN or infinite for {int(bad.sum())} of {bad.size} records: "
            "its training diverged. Report the run as diverged and leave it out of every mean; "
            "a smaller learning rate or a clip usually helps."
        )


def from_logits(logits: ArrayLike, labels: ArrayLike) -> Outputs:
    """Outputs from logits.

    Parameters
    ----------
    logits : array, shape (n,) or (n, 1) for one logit of class 1, or (n, classes)
        One logit z is widened to the pair (0, z), so that "predicted class" means what it says.
    labels : array of int, shape (n,)

    Raises
    ------
    DivergedError
        If a logit is NaN or infinite.
    ValueError
        If shapes or labels do not fit.
    """
    z = np.asarray(logits, dtype=float)
    if z.ndim == 2 and z.shape[1] == 1:
        z = z[:, 0]
    if z.ndim not in (1, 2):
        raise ValueError(f"logits have shape (n,) or (n, classes), got {z.shape}.")
    _refuse_diverged(z) if z.size else None
    if z.ndim == 1:
        z = np.stack([np.zeros_like(z), z], axis=1)
    shifted = z - z.max(axis=1, keepdims=True) if z.size else z
    p = np.exp(shifted)
    p = p / p.sum(axis=1, keepdims=True) if z.size else p
    return Outputs(probabilities=p, labels=_checked_labels(labels, len(z), z.shape[1]))


def from_probabilities(probabilities: ArrayLike, labels: ArrayLike) -> Outputs:
    """Outputs from probabilities.

    Parameters
    ----------
    probabilities : array, shape (n,) of class 1, or (n, classes)
    labels : array of int, shape (n,)

    Raises
    ------
    DivergedError
        If a probability is NaN.
    ValueError
        If values lie outside [0, 1], rows do not sum to 1, or labels do not fit.
    """
    p = np.asarray(probabilities, dtype=float)
    if p.ndim == 2 and p.shape[1] == 1:
        p = p[:, 0]
    if p.ndim not in (1, 2):
        raise ValueError(f"probabilities have shape (n,) or (n, classes), got {p.shape}.")
    if p.size:
        _refuse_diverged(p)
    if p.ndim == 1:
        p = np.stack([1 - p, p], axis=1)
    if p.size and (p.min() < -1e-6 or p.max() > 1 + 1e-6):
        raise ValueError(
            f"probabilities lie in [0, 1], got values from {p.min():.3g} to {p.max():.3g}; "
            "pass logits to from_logits."
        )
    if p.size and np.abs(p.sum(axis=1) - 1).max() > 1e-3:
        raise ValueError("Each row of probabilities sums to 1; pass logits to from_logits.")
    return Outputs(
        probabilities=np.clip(p, 0.0, 1.0), labels=_checked_labels(labels, len(p), p.shape[1])
    )


def from_estimator(model: Any, X: ArrayLike, y: ArrayLike) -> Outputs:
    """Outputs of a fitted scikit-learn classifier.

    Parameters
    ----------
    model : classifier with ``predict_proba`` and ``classes_``
    X : array, shape (n, features)
    y : array, shape (n,), in the classifier's own classes

    Raises
    ------
    ValueError
        If the model gives no probabilities, or `y` holds a class that it never saw.
    """
    if not hasattr(model, "predict_proba"):
        raise ValueError(
            f"Expected a classifier with predict_proba, got {type(model).__name__}; attacks need "
            "probabilities (for an SVM pass probability=True, or wrap it in "
            "CalibratedClassifierCV)."
        )
    classes = list(model.classes_)
    unknown = sorted({str(v) for v in np.asarray(y).tolist() if v not in classes})
    if unknown:
        raise ValueError(
            f"Expected classes that the model was trained on ({classes}), got also "
            f"{', '.join(unknown[:5])}."
        )
    labels = np.array([classes.index(v) for v in np.asarray(y).tolist()], dtype=np.int64)
    return from_probabilities(model.predict_proba(X), labels)


def from_keras(model: Any, X: ArrayLike, y: ArrayLike, *, logits: bool | None = None) -> Outputs:
    """Outputs of a Keras model.

    Parameters
    ----------
    model : Keras model with one output column for two classes, or one per class
    X : array, shape (n, features)
    y : array of int, shape (n,)
    logits : bool, optional
        Whether the model answers logits. By default read from the last layer's activation:
        sigmoid and softmax give probabilities, "linear" gives logits.

    Raises
    ------
    ValueError
        If the last activation tells neither; pass `logits` then.
    """
    if logits is None:
        activation = getattr(getattr(model.layers[-1], "activation", None), "__name__", "")
        if activation not in ("linear", "sigmoid", "softmax"):
            raise ValueError(
                f"Expected a last layer with linear, sigmoid or softmax activation, got "
                f"{activation or 'none'!r}; pass logits=True or logits=False."
            )
        logits = activation == "linear"
    answers = np.asarray(model.predict(np.asarray(X), verbose=0))
    return from_logits(answers, y) if logits else from_probabilities(answers, y)


def signed_logits(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """``log(p / (1 - p))`` of the true class for models with one logit: LiRA's statistic.

    Parameters
    ----------
    logits : array, shape (..., n)
        Of class 1; leading axes (replicas) are kept.
    labels : array of 0 and 1, shape (n,)

    Returns
    -------
    float array of the shape of `logits`. NaN stays NaN: a diverged replica is for the caller to
    count and leave out.
    """
    y = np.asarray(labels)
    if not np.isin(y, (0, 1)).all():
        raise ValueError("labels are 0 or 1 for a model with one logit.")
    return np.asarray(logits, dtype=float) * (2 * y - 1)


def read_scores(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Members' and non-members' scores from a CSV with the columns ``score`` and ``member``.

    Parameters
    ----------
    path : path
        ``member`` is 1/0, true/false or yes/no; a higher ``score`` means "more likely a member"
        (for losses, write minus the loss).

    Returns
    -------
    (member_scores, nonmember_scores)

    Raises
    ------
    ValueError
        If the file lacks a column, a value is no number, or only one side occurs.
    """
    file = Path(path)
    reading = read_table(file, as_text=["member"])
    text = reading.text
    missing = [c for c in ("score", "member") if c not in text.columns]
    if missing:
        raise ValueError(
            f"{file.name}: expected the columns score and member, {' and '.join(missing)} is "
            f"missing; there are {', '.join(text.columns)}."
        )
    names = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    flags = text["member"].str.lower()
    strange = sorted(set(flags) - set(names))
    if strange:
        raise ValueError(
            f"{file.name}: member is 1 or 0 (or true/false, yes/no), got {strange[0]!r}."
        )
    scores = reading.frame["score"]
    odd = scores.isna() if scores.dtype != object else ~text["score"].str.match(r"[+-]?\.?\d")
    if odd.any() or scores.dtype == object:
        row = int(np.argmax(odd))
        raise ValueError(
            f"{file.name}: line {reading.lines[row]} has no number as score "
            f"({text['score'][row]!r}); leave out records whose model diverged."
        )
    values = scores.to_numpy(dtype=float)
    member = flags.map(names).to_numpy(dtype=bool)
    if member.all() or not member.any():
        side = "members" if member.all() else "non-members"
        raise ValueError(
            f"{file.name}: holds only {side} ({member.size} rows); an attack is judged on both."
        )
    return values[member], values[~member]
