"""A lower bound on epsilon from an attack: the other end of the accountant's upper bound.

An (epsilon, delta)-DP training caps every attack: ``TPR <= e^epsilon FPR + delta``, and the same
with the roles changed. So an attack that does better proves, up to its sampling error, that epsilon
is at least so much. A bound far below the claim means a weak attack as well as a loose claim; a
bound *above* the claim means that the claim or the program is wrong.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from pet_lab import checks
from pet_lab.accounting import gaussian_epsilon
from pet_lab.mia.lira import check_statistics
from pet_lab.mia.roc import checked_scores, roc


def _check(confidence: float, delta: float = 0.0) -> None:
    checks.require(
        0.5 < confidence < 1, f"confidence is a share in (0.5, 1), got {confidence}; usual is 0.95."
    )
    checks.require(0 <= delta < 1, f"delta is a probability in [0, 1), got {delta}.")


def clopper_pearson(
    successes: ArrayLike, trials: ArrayLike, *, confidence: float = 0.95
) -> tuple[Any, Any]:
    """Two-sided exact interval (low, high) for a binomial share, element by element.

    Half of the error goes to each end; it covers with at least this probability at every share.
    """
    _check(confidence)
    k, n = np.asarray(successes, dtype=float), np.asarray(trials, dtype=float)
    checks.require(
        (n >= 1).all() and (k >= 0).all() and (k <= n).all(),
        f"Expected 0 <= successes <= trials and trials >= 1, got {successes!r} of {trials!r}.",
    )
    a = (1 - confidence) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        low = np.where(k == 0, 0.0, stats.beta.ppf(a, k, n - k + 1))
        high = np.where(k == n, 1.0, stats.beta.isf(a, k + 1, n - k))
    return low[()], high[()]


@dataclass(frozen=True, kw_only=True)
class EpsilonBound:
    """What an attack proves about epsilon.

    epsilon, delta  with probability `confidence` over the trials epsilon is at least this at delta
    tpr_low         lower end of P(called in | in)
    fpr_high        upper end of P(called in | out)
    n_in, n_out     trials that the bound rests on, those that chose the threshold not counted
    """

    epsilon: float
    delta: float
    confidence: float
    tpr_low: float
    fpr_high: float
    n_in: int
    n_out: int

    @property
    def ceiling(self) -> float:
        """The most that so many trials could have proved, by a perfect attack.

        128 on each side prove at most 3.5 at 95 %: above that, a low bound says nothing.
        """
        how = {"delta": self.delta, "confidence": self.confidence}
        return max(0.0, float(_log_ratios(self.n_in, self.n_in, 0, self.n_out, **how)[0]))

    @property
    def gaussian_epsilon(self) -> float:
        """The bound if the training's whole trade-off curve is a Gaussian mechanism's.

        True for noisy full-batch steps whose outcome is seen, a good approximation for many sampled
        ones, and then much tighter than the ratio of two rates (arXiv:2302.07956).
        """
        mu = float(stats.norm.ppf(self.tpr_low) - stats.norm.ppf(self.fpr_high))
        if self.delta == 0:  # no Gaussian mechanism has a finite epsilon there
            return float("inf") if mu > 0 else 0.0
        return gaussian_epsilon(mu=mu, delta=self.delta)


def _log_ratios(
    tp: ArrayLike, n_in: int, fp: ArrayLike, n_out: int, *, delta: float, confidence: float
) -> tuple[Any, Any, Any]:
    """The larger log ratio of rates, -inf where none is defined; the bounds on TPR and FPR."""
    # Each interval's one end errs with (1 - confidence) / 2, both together with 1 - confidence.
    tpr_low = clopper_pearson(tp, n_in, confidence=confidence)[0]
    fpr_high = clopper_pearson(fp, n_out, confidence=confidence)[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        rarely_wrong_in = np.log((tpr_low - delta) / fpr_high)
        rarely_wrong_out = np.log((1 - fpr_high - delta) / (1 - tpr_low))
    best = np.maximum(rarely_wrong_in, rarely_wrong_out)
    return np.nan_to_num(best, nan=-np.inf, posinf=np.inf, neginf=-np.inf), tpr_low, fpr_high


def _best_threshold(
    members: np.ndarray, nonmembers: np.ndarray, delta: float, confidence: float
) -> float:
    """Where the bound of these trials is largest: all thresholds at once, as one array."""
    curve, n_in, n_out = roc(members, nonmembers), members.size, nonmembers.size
    tp, fp = np.round(curve.tpr * n_in), np.round(curve.fpr * n_out)
    ratios, _, _ = _log_ratios(tp, n_in, fp, n_out, delta=delta, confidence=confidence)
    return float(curve.thresholds[int(np.argmax(ratios))])


def epsilon_lower_bound(
    in_scores: ArrayLike,
    out_scores: ArrayLike,
    *,
    delta: float,
    confidence: float = 0.95,
    threshold: float | None = None,
    rng: np.random.Generator | None = None,
) -> EpsilonBound:
    """Lower bound from independent trials with and without one record, by Clopper and Pearson.

    Parameters
    ----------
    in_scores, out_scores : array, shapes (n_in,), (n_out,)
        One score per *independent training*: of the same record, in models trained with it and
        in models trained without it. Scores of many records from one model are not independent;
        for those use `one_run_epsilon_lower_bound`.
    threshold : float, optional
        Fixed beforehand. Otherwise a random half (`rng`) of the trials, at least 2 on each side,
        chooses it and only the other half counts, since the best of all would flatter the attack.

    References
    ----------
    arXiv:2006.07709 (the bound), arXiv:2101.04535.
    """
    _check(confidence, delta)
    members = checked_scores(in_scores, "member")
    nonmembers = checked_scores(out_scores, "non-member")
    if threshold is None:
        if rng is None:
            raise ValueError("Choosing a threshold splits the trials at random: pass rng=.")
        sides = f"{members.size} in and {nonmembers.size} out"
        checks.require(
            min(members.size, nonmembers.size) >= 2,
            f"Expected at least 2 trials on each side to choose and to count, got {sides}.",
        )
        members, nonmembers = rng.permutation(members), rng.permutation(nonmembers)
        half_m, half_n = members.size // 2, nonmembers.size // 2
        threshold = _best_threshold(members[:half_m], nonmembers[:half_n], delta, confidence)
        members, nonmembers = members[half_m:], nonmembers[half_n:]
    tp, fp = (int((side > threshold).sum()) for side in (members, nonmembers))
    n_in, n_out = members.size, nonmembers.size
    claim = {"delta": delta, "confidence": confidence}
    ratio, tpr_low, fpr_high = map(float, _log_ratios(tp, n_in, fp, n_out, **claim))
    return EpsilonBound(
        epsilon=max(0.0, ratio), tpr_low=tpr_low, fpr_high=fpr_high, n_in=n_in, n_out=n_out, **claim
    )


def most_exposed_bound(
    statistics: ArrayLike,
    member: ArrayLike,
    *,
    delta: float,
    confidence: float = 0.95,
    rng: np.random.Generator,
) -> EpsilonBound:
    """Lower bound from the record that membership moves most, over many trainings.

    A random half of the trainings chooses the record (largest standardised difference between
    trainings with and without it) and its threshold; the other half is counted, so that having
    searched costs nothing in validity. The trials are independent trainings: for one record, the
    coins of all others are part of the mechanism, which is as private as its worst case.

    `statistics`, shape (models, n), are the signed logits of every record in every training, at
    least 16 of them, all finite; `member`, bool of the same shape, are independent fair coins
    (`random_halves`). The other arguments are those of `epsilon_lower_bound`.
    """
    s, m = np.asarray(statistics, dtype=float), np.asarray(member, dtype=bool)
    check_statistics(s, m)
    checks.require(len(s) >= 16, f"Expected at least 16 trainings, got {len(s)}; train more.")
    order = rng.permutation(len(s))
    first, second = order[: len(s) // 2], order[len(s) // 2 :]
    inside, outside = (np.where(w, s, np.nan)[first] for w in (m, ~m))
    usable = (m[first].sum(axis=0) > 1) & ((~m[first]).sum(axis=0) > 1)
    usable &= m[second].any(axis=0) & (~m[second]).any(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # records that a half never or always used
        spread = np.sqrt((np.nanvar(inside, axis=0) + np.nanvar(outside, axis=0)) / 2)
        moved = (np.nanmean(inside, axis=0) - np.nanmean(outside, axis=0)) / spread
    i = int(np.argmax(np.where(usable & np.isfinite(moved), moved, -np.inf)))
    checks.require(
        usable[i], "No record has trainings with and without it in both halves; train more."
    )
    (chooses_in, chooses_out), counted = (
        (s[half][m[half, i], i], s[half][~m[half, i], i]) for half in (first, second)
    )
    threshold = _best_threshold(chooses_in, chooses_out, delta, confidence)
    return epsilon_lower_bound(*counted, delta=delta, confidence=confidence, threshold=threshold)


def _one_run_p(records: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Largest probability of at least `right` right guesses under (epsilon, delta)-DP."""
    q = 1 / (1 + np.exp(-epsilon))
    tail = float(stats.binom.sf(right - 1, guesses, q))
    if delta == 0:
        return min(1.0, tail)
    i = np.arange(1, right + 1)
    # P(right - i <= W < right) / i, largest over i: what failures of probability delta can buy.
    mass = np.cumsum(stats.binom.pmf(right - i, guesses, q))
    return min(1.0, tail + 2 * records * delta * float(np.max(mass / i)) if right else 1.0)


def one_run_bound(records: int, guesses: int, right: int, *, delta: float, error: float) -> float:
    """The largest epsilon that so many right guesses refute, with error at most `error`.

    The guesses are on `records` records, each in the training by a fair coin; their number is fixed
    beforehand (arXiv:2305.08846, corollary 5.4 and appendix D).
    """
    checks.whole(0, right=right)
    checks.require(
        right <= guesses <= records,
        f"Expected right <= guesses <= records, got {right}, {guesses} and {records}.",
    )
    checks.require(0 < error < 1, f"error is a probability in (0, 1), got {error}.")

    def excess(epsilon: float) -> float:
        return _one_run_p(records, guesses, right, epsilon, delta) - error

    if excess(0.0) > 0:
        return 0.0
    high = 1.0
    while high < 64 and excess(high) <= 0:
        high *= 2
    return float(optimize.brentq(excess, 0.0, high, xtol=1e-6))


def one_run_epsilon_lower_bound(
    scores: ArrayLike,
    member: ArrayLike,
    *,
    delta: float,
    confidence: float = 0.95,
    guesses: tuple[int, ...] = (16, 32, 64, 128),
) -> float:
    """Lower bound from a *single* training whose records were each included by a fair coin.

    Parameters
    ----------
    scores : array, shape (n,)
        Higher = "more likely a member". They may use anything but the coins.
    member : bool array, shape (n,)
        The coins: independent, probability 1/2 (`lira.random_halves`).
    guesses : tuple of int
        Numbers of guesses to try, fixed beforehand: half of each on the highest scores ("in"),
        half on the lowest ("out"). All are tested, each with its share of the error probability.

    Returns
    -------
    float >= 0. With n records at most about ``log(n / 3)`` can be proved at 95 %.

    References
    ----------
    arXiv:2305.08846, theorem for (epsilon, delta).
    """
    _check(confidence, delta)
    s, coins = checked_scores(scores, "record"), np.asarray(member, dtype=bool)
    checks.require(
        coins.shape == s.shape,
        f"scores and member have one entry per record, got {s.shape} and {coins.shape}.",
    )
    tries = [g for g in guesses if 2 <= g <= s.size]
    checks.require(tries, f"guesses {guesses} do not fit {s.size} records; pass smaller numbers.")
    order = np.argsort(-s, kind="stable")
    error = (1 - confidence) / len(tries)
    best = 0.0
    for g in tries:
        half = g // 2
        right = int(coins[order[:half]].sum() + (~coins[order[-half:]]).sum())
        best = max(best, one_run_bound(s.size, 2 * half, right, delta=delta, error=error))
    return best
