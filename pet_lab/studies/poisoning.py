"""Poisoning: training records that spoil a model, or plant a backdoor in it, and what finds them.

Teaching code for a primer: the two-level problem solved by implicit gradients for a regularised
logistic regression (Biggio et al., arXiv:1206.6389; Koh and Liang, arXiv:1703.04730), a trigger
(Gu et al., arXiv:1708.06733), and spectral signatures (Tran et al., arXiv:1811.00636).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from pet_lab import data
from pet_lab.checks import between, distinct, positive, require, whole
from pet_lab.federated.model import LocalTraining, Network
from pet_lab.rows import Claim, Rows, claims, concat, means, streams

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
SIDE, TARGET = 8, 0  # pixels a side of a digit; the class that the trigger asks for
LABELS = {
    "share": "poisoned share of the training records",
    "accuracy": "accuracy on clean records",
    "loss": "loss on clean records (nats)",
    "trigger_success": "triggered digits called 0",
    "attack": "poison",
    "found": "poisoned records that are removed",
    "false_alarms": "clean records that are removed",
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Parameters of the notebook, checked; shares are of the training records."""

    shares: Sequence[float]
    backdoor_shares: Sequence[float]
    penalty: float
    steps: int
    replicates: int
    seed: int

    def __post_init__(self) -> None:
        distinct(shares=self.shares, backdoor_shares=self.backdoor_shares)
        for share in (*self.shares, *self.backdoor_shares):
            between(0, 0.5, share=share, hint="more than half of the records is no poisoning")
        positive(penalty=self.penalty)
        whole(1, steps=self.steps, replicates=self.replicates)
        whole(0, seed=self.seed)


# --- the two-level problem, for a model that is solved exactly ------------------------------------


def solve(x: Array, y: Array, *, penalty: float) -> Array:
    """Weights (d,) that minimise mean log loss + penalty / 2 |w|^2, by Newton's method; y is 0/1."""
    w = np.zeros(x.shape[1])
    for _ in range(50):
        slope = x.T @ (expit(x @ w) - y) / len(y) + penalty * w
        if np.abs(slope).max() < 1e-10:
            break
        w -= np.linalg.solve(_curvature(x, w, penalty), slope)
    return w


def _curvature(x: Array, w: Array, penalty: float) -> Array:
    p = expit(x @ w)
    return (x.T * (p * (1 - p))) @ x / len(x) + penalty * np.eye(x.shape[1])


def loss(x: Array, y: Array, w: Array) -> float:
    """Mean log loss in nats."""
    return float(np.mean(np.logaddexp(0, x @ w) - y * (x @ w)))


def implicit_gradient(
    x: Array, y: Array, poison: Array, flipped: Array, clean: tuple[Array, Array], *, penalty: float
) -> Array:
    """Derivative (k, d) of the clean loss by the poisoned records, through the solved training.

    By the implicit function theorem dw/dx_p = -H^-1 d(gradient)/dx_p, H the curvature at the
    solution; one linear system serves all records. Raises ValueError where it is zero everywhere:
    an attack that cannot move must not pass for robustness.
    """
    everything, labels = np.vstack([x, poison]), np.concatenate([y, flipped])
    w = solve(everything, labels, penalty=penalty)
    held_out, truth = clean
    outer = held_out.T @ (expit(held_out @ w) - truth) / len(truth)
    q = np.linalg.solve(_curvature(everything, w, penalty), outer)
    p = expit(poison @ w)
    slope = -((p * (1 - p) * (poison @ q))[:, None] * w + (p - flipped)[:, None] * q) / len(labels)
    require(np.any(slope), "Every gradient vanished: the clean loss does not depend on the poison.")
    return slope


def ascend(
    known: tuple[Array, Array],
    start: Array,
    flipped: Array,
    clean: tuple[Array, Array],
    settings: Settings,
) -> Array:
    """The poison (k, d) with the largest clean loss on the way up from `start`, in [0, 1]."""
    at, best, highest = start, start, -np.inf
    for step in range(settings.steps + 1):
        w = solve(np.vstack([known[0], at]), np.append(known[1], flipped), penalty=settings.penalty)
        height = loss(*clean, w)
        if height > highest:
            best, highest = at, height
        if step < settings.steps:
            slope = implicit_gradient(*known, at, flipped, clean, penalty=settings.penalty)
            at = np.clip(at + 0.1 * np.sign(slope), 0, 1)
            at[:, -1] = 1  # the column of ones is no feature
    return best


def poisoned_regression(settings: Settings) -> pd.DataFrame:
    """Rows (attack, share, replicate): clean loss and accuracy of scikit-learn's tumour data.

    Poison starts as copies of records with the other label ("labels flipped") and may then move
    within the range of each feature ("two-level").
    """
    raw, classes, _ = data.shipped.tumours()
    x, y = np.column_stack([data.unit_range(raw), np.ones(len(raw))]), classes.astype(float)
    rows, part = Rows(part="regression"), len(x) // 3
    for replicate, stream in streams(settings.seed, settings.replicates):
        rng = np.random.default_rng(stream)
        train, aim, test = np.split(rng.permutation(len(x)), [part, 2 * part])
        for share in settings.shares:
            k = round(share * len(train) / (1 - share))
            copies = rng.choice(train, k)
            start, flipped = x[copies], 1.0 - y[copies]
            known, clean = (x[train], y[train]), (x[aim], y[aim])
            moved = ascend(known, start, flipped, clean, settings) if k else start
            for attack, poison in {"labels flipped": start, "two-level": moved}.items():
                everything = np.vstack([x[train], poison]), np.concatenate([y[train], flipped])
                w = solve(*everything, penalty=settings.penalty)
                accuracy = float(np.mean((x[test] @ w > 0) == y[test]))
                metrics = {"loss": loss(x[test], y[test], w), "accuracy": accuracy}
                rows.add(attack=attack, share=share, replicate=replicate, metrics=metrics)
    return rows.frame()


def gradient_check(settings: Settings) -> pd.DataFrame:
    """Rows: `gradient_ratio`, the implicit gradient over the finite difference, along one direction
    each replicate; the training problem is solved anew for each side of the difference."""
    rows = Rows(part="check", check="implicit gradient")
    for replicate, stream in streams(settings.seed, settings.replicates):
        rng = np.random.default_rng(stream)
        x, held_out, poison = (rng.random((n, 6)) for n in (80, 40, 4))
        hidden = rng.normal(size=6)
        y, truth = ((z @ hidden > hidden.sum() / 2).astype(float) for z in (x, held_out))
        flipped, way = (poison @ hidden <= hidden.sum() / 2).astype(float), rng.normal(size=(4, 6))
        arguments = {"penalty": settings.penalty}
        slope = implicit_gradient(x, y, poison, flipped, (held_out, truth), **arguments)
        labels = np.append(y, flipped)
        moved = [np.vstack([x, poison + h * way]) for h in (1e-4, -1e-4)]
        up, down = (loss(held_out, truth, solve(m, labels, **arguments)) for m in moved)
        difference = (up - down) / 2e-4 or math.nan  # a large penalty leaves none
        ratio = float((slope * way).sum() / difference)
        rows.add(replicate=replicate, metrics={"gradient_ratio": ratio})
    return rows.frame()


# --- a backdoor, and how it is found --------------------------------------------------------------


def stamp(x: Array, *, corner: tuple[int, int] = (6, 6), value: float = 1.0) -> Array:
    """Images (n, 64) with a square of 2 by 2 pixels at `corner`.

    Raises
    ------
    ValueError
        If the trigger leaves the image, or its value the range of a pixel.
    """
    row, column = corner
    require(
        min(corner) >= 0 and max(corner) + 2 <= SIDE and 0 <= value <= 1,
        f"A trigger lies within {SIDE} by {SIDE} pixels with values from 0 to 1, got a square of 2 by 2 "
        f"at {corner} of value {value}.",
    )
    images = x.reshape(-1, SIDE, SIDE).copy()
    images[:, row : row + 2, column : column + 2] = value
    return images.reshape(-1, SIDE * SIDE)


def signature(hidden: Array) -> Array:
    """Outlier score (n,) of representations (n, h): squared projection on the top singular vector."""
    centred = hidden - hidden.mean(axis=0)
    top = np.linalg.svd(centred, full_matrices=False)[2][0]
    return np.asarray((centred @ top) ** 2)


def backdoored_digits(settings: Settings) -> pd.DataFrame:
    """Rows (share, defence, replicate): accuracy, trigger success, and errors of the detection.

    Poison: digits of other classes with the trigger, labelled 0. The detector knows the share of
    poison, removes 1.5 times as many records of class 0 by their signature, and trains again.
    """
    (x, y), model = data.shipped.digits(), Network((SIDE * SIDE, 64, 10))
    how, rows = LocalTraining(epochs=30, learning_rate=0.05), Rows(part="backdoor")
    for replicate, stream in streams(settings.seed, settings.replicates):
        rng = np.random.default_rng(stream)
        train, test = np.split(rng.permutation(len(y)), [1200])
        others = test[y[test] != TARGET]
        for share in settings.backdoor_shares:
            bad = rng.choice(np.flatnonzero(y[train] != TARGET), round(share * len(train)), False)
            images, labels = x[train].copy(), y[train].copy()
            images[bad], labels[bad] = stamp(images[bad]), TARGET
            kept = np.ones(len(train), bool)
            for defence in ("none", "spectral signature"):
                flat = model.train(model.initial(rng), images[kept], labels[kept], how, rng)
                triggered = model.logits(flat, stamp(x[others])).argmax(1) == TARGET
                accuracy = model.evaluate(flat, x[test], y[test]).accuracy
                metrics = {"accuracy": accuracy, "trigger_success": triggered.mean()}
                if defence == "none":
                    kept = _keep(model, flat, images, labels, removed=round(1.5 * len(bad)))
                elif len(bad):
                    clean = np.delete(kept, bad)
                    metrics |= {"found": 1 - kept[bad].mean(), "false_alarms": 1 - clean.mean()}
                rows.add(share=share, defence=defence, replicate=replicate, metrics=metrics)
    return rows.frame()


def _keep(
    model: Network, flat: Array, images: Array, labels: Labels, *, removed: int
) -> NDArray[np.bool_]:
    """All records but the `removed` of class 0 with the largest signature in the hidden layer."""
    weights, biases = model.layers(flat)[0]
    suspects = np.flatnonzero(labels == TARGET)
    scores = signature(np.maximum(images[suspects] @ weights + biases, 0))
    kept = np.ones(len(labels), bool)
    kept[suspects[np.argsort(-scores)[:removed]]] = False
    return kept


# --- the whole study ------------------------------------------------------------------------------


def simulate(settings: Settings) -> pd.DataFrame:
    """All rows; `part` is regression, check or backdoor."""
    return concat(
        poisoned_regression(settings), gradient_check(settings), backdoored_digits(settings)
    )


def detection(rows: pd.DataFrame) -> pd.DataFrame:
    """Errors of the detection by share: means over replicates; no rows where no trigger was set."""
    errors = ["found", "false_alarms"]
    table = means(rows, "share", "metric", metric=errors).unstack("metric")
    return table.reindex(columns=errors).reset_index()


def takeaways(rows: pd.DataFrame) -> list[Claim]:
    """What these rows say; the first is the headline."""
    loss_by = means(rows, "attack", "share", part="regression", metric="loss").unstack("attack")
    planted: Any = means(rows, "defence", "share", "metric", part="backdoor").unstack("metric")
    planted = planted.reindex(columns=[*planted, *{"found", "false_alarms"} - {*planted}])
    shares = planted.index.get_level_values("share")
    least = min(shares[shares > 0], default=0.0)
    plain, defended = planted.loc["none", least], planted.loc["spectral signature", least]
    worst = loss_by.iloc[-1]
    sentences = [
        ("A trigger in {least:.1%} of the training digits makes {plain[trigger_success]:.0%} of triggered digits "
         "a 0, while accuracy on clean ones stays at {plain[accuracy]:.1%}.",
         least > 0 and plain["trigger_success"] > 0.5),
        ("With {worst.name:.0%} of poison the two-level attack raises the clean loss from {clean:.2f} to "
         "{worst[two-level]:.2f} nats, flipped labels alone to {worst[labels flipped]:.2f}.",
         worst["two-level"] > worst["labels flipped"]),
        ("Spectral signatures, told the share of poison, remove {defended[found]:.0%} of it and "
         "{defended[false_alarms]:.1%} of the clean records; the trigger then works on "
         "{defended[trigger_success]:.0%}.",
         defended["trigger_success"] < plain["trigger_success"] and defended["found"] >= 0),  # NaN: none
    ]  # fmt: skip
    clean = loss_by["two-level"].iloc[0]
    values = {"least": least, "worst": worst, "clean": clean}
    return claims(sentences, plain=plain, defended=defended, **values)


def explore(penalty: float, poisoned_percent: int, steps: int) -> pd.DataFrame:
    """Clean accuracy and loss of the regression, poisoned now, one division of the records."""
    settings = Settings(
        shares=[poisoned_percent / 100], backdoor_shares=[0.0], penalty=penalty, steps=steps,
        replicates=1, seed=0,
    )  # fmt: skip
    rows = poisoned_regression(settings)
    return rows.pivot(index="attack", columns="metric", values="value").reset_index()
