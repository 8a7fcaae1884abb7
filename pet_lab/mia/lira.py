"""LiRA: a likelihood ratio per record, from many models trained with and without it.

The statistic is the logit-scaled confidence of the true class (`scores.signed_logits`), which over
trainings is roughly normal. All models are equal in law, so each can be the target in turn with the
others as its shadows: S trainings give S attacked targets, not one (arXiv:2112.03570).
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from pet_lab import checks

Variance = Literal["fixed", "per-example"]
# Far below any spread that training gives; keeps a constant statistic from dividing by zero.
_TINY = 1e-12


def random_halves(models: int, records: int, *, rng: np.random.Generator) -> np.ndarray:
    """Which model trains on which record, bool, (models, records): a fair coin for each pair.

    Independent coins are what the one-run audit assumes (`audit.one_run_epsilon_lower_bound`);
    a split into exact halves would not do.
    """
    checks.whole(1, models=models, records=records)
    return rng.random((models, records)) < 0.5


def lira_leave_one_out(
    statistics: ArrayLike,
    member: ArrayLike,
    *,
    online: bool = True,
    variance: Variance = "fixed",
) -> np.ndarray:
    """Score of each record against every model as target in turn, all others being its shadows.

    Parameters
    ----------
    statistics : array, shape (models, n)
        Each model's statistic of each record, higher = fits it better.
    member : bool array, shape (models, n)
        Which model was trained on which record.
    online : bool
        True: log-likelihood ratio of in against out. False: only models without the record, as
        for an attacker who cannot train with it; the score is ``-log P(out >= target)``.
    variance : "fixed" or "per-example"
        One spread of residuals over all records, or one for each record. Fixed is the better with
        few models. The members' and the non-members' spreads are *each* estimated from their own
        models: TensorFlow Privacy's research script takes the non-members' from the members.

    Returns
    -------
    float array, shape (models, n), higher = "more likely a member". Row r does not depend on
    ``member[r]``: compare its members ``[member[r]]`` with its non-members. A single target of
    one's own is one more row. In O(models * n) by removing each model from running sums.

    Raises
    ------
    ValueError
        If shapes differ, statistics are not finite, or a record has too few models on a side.
    """
    s, m = np.asarray(statistics, dtype=float), np.asarray(member, dtype=bool)
    _check(s, m, variance, online)
    # Centred first: sums of squares of numbers around 1e3 would lose the spread to rounding.
    centred = s - s.mean(axis=0)
    moments = []
    for mask in (m, ~m):
        own = mask.astype(float)
        count = own.sum(axis=0) - own
        total = (own * centred).sum(axis=0) - own * centred
        squares = (own * centred**2).sum(axis=0) - own * centred**2
        mean = total / count if online or mask is not m else np.zeros_like(total)
        residual = np.maximum(squares - count * mean**2, 0.0)
        free = (count - 1).clip(0)
        if variance == "fixed":
            residual, free = (part.sum(axis=1, keepdims=True) for part in (residual, free))
        moments.append((mean, np.maximum(np.sqrt(residual / np.maximum(free, 1)), _TINY)))
    inside, outside = moments
    if not online:
        # How far out the target lies among models that never saw the record: -log of the upper
        # tail, which stays exact where the cumulative probability rounds to 1.
        return -stats.norm.logsf(centred, *outside)
    return np.asarray(stats.norm.logpdf(centred, *inside) - stats.norm.logpdf(centred, *outside))


def _check(s: np.ndarray, m: np.ndarray, variance: str, online: bool) -> None:
    checks.require(
        s.ndim == 2 and s.shape == m.shape,
        f"statistics and member have shape (models, records), got {s.shape} and {m.shape}.",
    )
    checks.one_of(get_args(Variance), variance=variance)
    diverged = int((~np.isfinite(s).all(axis=1)).sum())
    checks.require(
        not diverged,
        f"{diverged} of {len(s)} shadow models gave NaN or infinite statistics; drop those "
        "models from both arrays and report how many diverged.",
    )
    need = 3 if variance == "per-example" else 2  # one more than the moments need: the target
    sides = {"a member": m, "a non-member": ~m} if online else {"a non-member": ~m}
    for side, mask in sides.items():
        count = mask.sum(axis=0)
        i = int(count.argmin())
        checks.require(
            count[i] >= need,
            f"Record {i} is {side} of {count[i]} of {len(m)} models, {need} are needed; train more "
            "models with random halves.",
        )
