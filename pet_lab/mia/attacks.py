"""Attacks on one model from its answers: TensorFlow Privacy's suite, slice by slice.

The suite is used as it is (`tensorflow-empirical-privacy`), with two things made explicit: its
randomness, which it takes from NumPy's global generator, and slices that hold too few records,
which it drops silently. Its earlier releases judged a trained attack on a random *quarter* of the
balanced records instead of by cross-validation; published numbers come from there, so
`holdout_logistic` keeps that reading.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pet_lab.mia.roc import advantage, auc
from pet_lab.mia.scores import Outputs

ATTACKS: tuple[str, ...] = (
    "THRESHOLD_ATTACK",
    "THRESHOLD_ENTROPY_ATTACK",
    "LOGISTIC_REGRESSION",
    "K_NEAREST_NEIGHBORS",
    "MULTI_LAYERED_PERCEPTRON",
    "RANDOM_FOREST",
)
"""Ordered by cost: milliseconds for the first two, about 100 s a model for the last."""

SLICES: tuple[str, ...] = ("Entire dataset", "CLASS", "CORRECTLY_CLASSIFIED")

# Two folds of the suite, each with an inner three-fold search: fewer than six on a side cannot do.
_FEWEST = 6


@dataclass(frozen=True, kw_only=True)
class AttackResult:
    """One attack on one slice of the records.

    attack            name as in `ATTACKS`
    slice             "Entire dataset", "CLASS=0", "CORRECTLY_CLASSIFIED=True", ...
    member_scores     scores on which the attack is judged, higher = "more likely a member"
    nonmember_scores
    status            "ok", or why there is nothing to judge; then both scores are empty
    """

    attack: str
    slice: str
    member_scores: np.ndarray
    nonmember_scores: np.ndarray
    status: str = "ok"

    @property
    def auc(self) -> float:
        """Area under the ROC curve; NaN where the status is not "ok"."""
        if self.status != "ok":
            return float("nan")
        return auc(self.member_scores, self.nonmember_scores)

    @property
    def advantage(self) -> float:
        """Largest ``|TPR - FPR|``, as the suite reports it; NaN where not "ok"."""
        if self.status != "ok":
            return float("nan")
        return max(
            advantage(self.member_scores, self.nonmember_scores),
            advantage(-self.member_scores, -self.nonmember_scores),
        )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """One thread and no warnings around many small scikit-learn fits.

    A second BLAS thread makes fits on 100 rows ten times slower. The suite itself causes the
    warnings: settings that scikit-learn no longer knows (max_features="auto"), early stops.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _seeded(rng: np.random.Generator) -> Iterator[None]:
    """NumPy's global generator, which the suite draws from, set from `rng` and then put back."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(int(rng.integers(2**32, dtype=np.uint64)))  # noqa: NPY002
    try:
        with _quietly():
            yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


def slice_masks(
    outputs: Outputs, slices: Sequence[str] = SLICES, *, classes: int, one_column: bool = False
) -> dict[str, np.ndarray]:
    """Which records belong to which slice.

    Parameters
    ----------
    outputs : Outputs
    slices : sequence of str
        Out of `SLICES`.
    classes : int
        Number of classes.
    one_column : bool
        As the suite slices a model with a *single* output column: it takes the arg max of one
        number, which is always 0, so "correctly classified" means "of class 0".

    Returns
    -------
    dict from the slice's name to a bool array, shape (n,).
    """
    unknown = [s for s in slices if s not in SLICES]
    if unknown or not slices:
        raise ValueError(f"slices are some of {', '.join(SLICES)}, got {list(slices)}.")
    masks: dict[str, np.ndarray] = {}
    for kind in slices:
        if kind == "Entire dataset":
            masks[kind] = np.ones(outputs.size, dtype=bool)
        elif kind == "CLASS":
            masks |= {f"CLASS={c}": outputs.labels == c for c in range(classes)}
        else:
            predicted = np.zeros(outputs.size) if one_column else outputs.predicted
            right = predicted == outputs.labels
            masks |= {f"{kind}=True": right, f"{kind}=False": ~right}
    return masks


def _sliced(
    members: Outputs, nonmembers: Outputs, slices: Sequence[str], one_column: bool = False
) -> Iterator[tuple[str, Outputs, Outputs]]:
    """Name, members and non-members of each slice."""
    if not members.size or not nonmembers.size:
        raise ValueError(
            f"An attack needs members and non-members, got {members.size} and {nonmembers.size} "
            "records; hold some records out of the training."
        )
    classes = members.probabilities.shape[1]
    if classes != nonmembers.probabilities.shape[1]:
        raise ValueError("Members and non-members must be answered by the same model.")
    inside, outside = (
        slice_masks(side, slices, classes=classes, one_column=one_column)
        for side in (members, nonmembers)
    )
    for name, mask in inside.items():
        yield name, members.take(mask), nonmembers.take(outside[name])


def _judged(
    attack: str,
    name: str,
    inside: Outputs,
    outside: Outputs,
    run: Callable[[Outputs, Outputs, str], tuple[np.ndarray, np.ndarray] | None],
) -> AttackResult:
    """The result of `run` on one slice, or why there is none."""
    trained = not attack.startswith("THRESHOLD")
    sizes = f"({inside.size} members, {outside.size} non-members"
    scores = None
    if not inside.size or not outside.size:
        status = f"empty slice {sizes})"
    elif trained and min(inside.size, outside.size) < _FEWEST:
        status = f"too few to train an attack {sizes}; {_FEWEST} of each are needed)"
    else:
        scores = run(inside, outside, attack)
        status = "ok" if scores else f"too few to train an attack {sizes})"
    members, nonmembers = scores or (np.empty(0), np.empty(0))
    return AttackResult(
        attack=attack,
        slice=name,
        member_scores=members,
        nonmember_scores=nonmembers,
        status=status,
    )


def check_attacks(attacks: Sequence[str]) -> None:
    """Refuse names that the suite does not know, and none at all."""
    if not attacks or set(attacks) - set(ATTACKS):
        raise ValueError(f"attacks are some of {', '.join(ATTACKS)}, got {list(attacks)}.")


def run_suite(
    members: Outputs,
    nonmembers: Outputs,
    *,
    attacks: Sequence[str] = ATTACKS[:3],
    slices: Sequence[str] = SLICES,
    rng: np.random.Generator,
) -> list[AttackResult]:
    """TensorFlow Privacy's membership inference attacks on one model.

    Parameters
    ----------
    members, nonmembers : Outputs
        The model's answers for records it was and was not trained on.
    attacks : sequence of str
        Out of `ATTACKS`. The trained ones learn to tell members from non-members *of this model*
        by two-fold cross-validation: an auditor's attack, since no outsider has such labels.
    slices : sequence of str
        Out of `SLICES`.
    rng : numpy Generator
        For balancing, folds and attack models.

    Returns
    -------
    One `AttackResult` per attack and slice. An empty slice is reported with its reason in
    `status`, never dropped and never scored.

    Raises
    ------
    ValueError
        If a side is empty or a name unknown. NaN answers never get here: `Outputs` refuses them.
    """
    check_attacks(attacks)
    with _seeded(rng):
        return [
            _judged(attack, name, inside, outside, _one)
            for name, inside, outside in _sliced(members, nonmembers, slices)
            for attack in attacks
        ]


def _one(inside: Outputs, outside: Outputs, attack: str) -> tuple[np.ndarray, np.ndarray] | None:
    from tensorflow_privacy.privacy.privacy_tests.membership_inference_attack import (
        data_structures,
    )
    from tensorflow_privacy.privacy.privacy_tests.membership_inference_attack import (
        membership_inference_attack as suite,
    )

    given: dict[str, Any] = {
        "labels_train": inside.labels,
        "labels_test": outside.labels,
        "probs_train": inside.probabilities,
        "probs_test": outside.probabilities,
        # Given, because the suite derives the two sides' losses differently from logits alone.
        "loss_train": inside.loss,
        "loss_test": outside.loss,
        "entropy_train": inside.modified_entropy,
        "entropy_test": outside.modified_entropy,
    }
    answer = suite.run_attacks(
        data_structures.AttackInputData(**given),
        attack_types=[data_structures.AttackType[attack]],
    ).single_attack_results
    if not answer:
        return None
    return (
        np.asarray(answer[0].membership_scores_train, dtype=float),
        np.asarray(answer[0].membership_scores_test, dtype=float),
    )


def holdout_logistic(
    members: Outputs,
    nonmembers: Outputs,
    *,
    slices: Sequence[str] = SLICES,
    share: float = 0.25,
    rng: np.random.Generator,
) -> list[AttackResult]:
    """The suite's logistic attack as its earlier releases judged it.

    The larger side is cut down to the smaller, a random `share` of the records of both sides
    together is held out, and the attack, which sees (p, loss) of a model with one output column, is
    judged on that share alone, not stratified: for a class with 22 non-members on 11 records, most
    likely 4 members against 7.

    Parameters
    ----------
    members, nonmembers : Outputs
    slices : sequence of str
    share : float
        Share held out, in (0, 1).
    rng : numpy Generator

    Returns
    -------
    One `AttackResult` per slice, whose scores are those of the held-out records only.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is a fraction in (0, 1), got {share}; the suite used 0.25.")
    run = functools.partial(_holdout_one, share=share, rng=rng)
    return [
        _judged("LOGISTIC_REGRESSION", name, inside, outside, run)
        for name, inside, outside in _sliced(members, nonmembers, slices, True)
    ]


def _holdout_one(
    inside: Outputs,
    outside: Outputs,
    attack: str,
    *,
    share: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray] | None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    size = min(inside.size, outside.size)
    parts = []
    for side in (inside, outside):
        kept = side.take(rng.permutation(side.size)[:size])
        parts.append(np.column_stack([kept.probabilities[:, 1:], kept.loss]))
    features = np.concatenate(parts)
    member = np.repeat([1, 0], size)
    order = rng.permutation(2 * size)
    test = int(np.ceil(share * 2 * size))
    held, rest = order[:test], order[test:]
    counts = [np.bincount(member[part], minlength=2).min() for part in (held, rest)]
    if counts[0] < 1 or counts[1] < 3:  # one of each to judge on, three folds to choose C on
        return None
    search = GridSearchCV(LogisticRegression(solver="lbfgs"), {"C": np.logspace(-4, 2, 10)}, cv=3)
    with _quietly():
        search.fit(features[rest], member[rest])
        scores = search.predict_proba(features[held])[:, 1]
    return scores[member[held] == 1], scores[member[held] == 0]


def table(results: Sequence[AttackResult]) -> Any:
    """The results as a DataFrame, one row per attack and slice, with sizes and status."""
    import pandas as pd

    return pd.DataFrame(
        {
            "attack": r.attack,
            "slice": r.slice,
            "auc": r.auc,
            "advantage": r.advantage,
            "members": r.member_scores.size,
            "nonmembers": r.nonmember_scores.size,
            "status": r.status,
        }
        for r in results
    )
