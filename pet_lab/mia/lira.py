"""LiRA: a likelihood ratio per record, from many models trained with and without it.

The statistic is the logit-scaled confidence of the true class (`scores.signed_logits`), which over
trainings is roughly normal. All models are equal in law, so each can be the target in turn with the
others as its shadows: S trainings give S attacked targets, not one (arXiv:2112.03570).
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from pet_lab import checks

Variance = Literal["fixed", "per-example"]
# Far below any spread that training gives; keeps a constant statistic from dividing by zero.
_TINY = 1e-12


def check_statistics(statistics: np.ndarray, member: np.ndarray) -> None:
    """Refuse arrays that are not of one shape (models, records), or statistics not finite."""
    one, other = statistics.shape, member.shape
    checks.require(
        len(one) == 2 and one == other,
        f"statistics and member have shape (models, records), got {one} and {other}.",
    )
    diverged = int((~np.isfinite(statistics).all(axis=1)).sum())
    checks.require(
        not diverged,
        f"{diverged} of {len(member)} shadow models gave NaN or infinite statistics; drop them "
        "from both arrays and report how many diverged.",
    )


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
    statistics, member : float and bool arrays, shape (models, n)
        Each model's statistic of each record, finite, higher = fits it better; and which model was
        trained on which record. A record needs models on each side.
    online : True: log-likelihood ratio of in against out. False: only models without the record, as
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
    """
    s, m = np.asarray(statistics, dtype=float), np.asarray(member, dtype=bool)
    check_statistics(s, m)
    checks.one_of(get_args(Variance), variance=variance)
    need = 3 if variance == "per-example" else 2  # one more than the moments need: the target
    for side, mask in (("a member", m), ("a non-member", ~m)):
        count = mask.sum(axis=0)
        i = int(count.argmin())
        checks.require(
            count[i] >= need or (mask is m and not online),
            f"Record {i} is {side} of {count[i]} of {len(m)} models, {need} are needed; train more "
            "models with random halves.",
        )
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
