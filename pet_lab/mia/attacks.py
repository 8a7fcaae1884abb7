"""Attacks on one model from its answers: TensorFlow Privacy's suite, slice by slice.

The suite is used as it is (`tensorflow-empirical-privacy`), with two things made explicit: its
randomness, which it takes from NumPy's global generator, and slices that hold too few records,
which it drops silently. Its earlier releases judged a trained attack on a random *quarter* of the
balanced records instead of by cross-validation; published numbers come from there, so
`holdout_logistic` keeps that reading.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pet_lab import checks
from pet_lab.mia.roc import advantage, auc
from pet_lab.mia.scores import Outputs

if TYPE_CHECKING:
    import pandas as pd

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

# Of members and of non-members.
Scores = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class AttackResult:
    """One attack on one slice of the records.

    The slice is "Entire dataset", "CLASS=0", "CORRECTLY_CLASSIFIED=True", ...; the attack is judged
    on its scores, higher = "more likely a member". Where the status, why there is nothing to judge,
    is not "ok", both are empty, and AUC and advantage NaN.
    """

    attack: str
    slice: str
    member_scores: np.ndarray
    nonmember_scores: np.ndarray
    status: str = "ok"

    @property
    def auc(self) -> float:
        """Area under the ROC curve."""
        ok = self.status == "ok"
        return auc(self.member_scores, self.nonmember_scores) if ok else float("nan")

    @property
    def advantage(self) -> float:
        """Largest ``|TPR - FPR|``, as the suite reports it."""
        if self.status != "ok":
            return float("nan")
        members, nonmembers = self.member_scores, self.nonmember_scores
        return max(advantage(members, nonmembers), advantage(-members, -nonmembers))


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


def slice_masks(
    outputs: Outputs, slices: Sequence[str] = SLICES, *, one_column: bool = False
) -> dict[str, np.ndarray]:
    """Which records belong to which slice: its name to a bool array, shape (n,).

    `one_column` slices as the suite does for a model with a *single* output column: it takes the
    arg max of one number, which is always 0, so "correctly classified" means "of class 0".
    """
    masks: dict[str, np.ndarray] = {}
    for kind in slices:
        if kind == "Entire dataset":
            masks[kind] = np.ones(outputs.size, dtype=bool)
        elif kind == "CLASS":
            masks |= {f"CLASS={c}": outputs.labels == c for c in range(outputs.classes)}
        else:
            predicted = np.zeros(outputs.size) if one_column else outputs.predicted
            right = predicted == outputs.labels
            masks |= {f"{kind}=True": right, f"{kind}=False": ~right}
    return masks


def check_attacks(attacks: Sequence[str]) -> None:
    """Refuse names that the suite does not know, and none at all."""
    checks.distinct(attacks=attacks)
    for attack in attacks:
        checks.one_of(ATTACKS, attack=attack)


def _judge(
    members: Outputs,
    nonmembers: Outputs,
    *,
    attacks: Sequence[str],
    slices: Sequence[str],
    run: Callable[[Outputs, Outputs, str], Scores | None],
    one_column: bool = False,
) -> list[AttackResult]:
    """What `run` gives for each slice and attack, or why there is nothing."""
    checks.distinct(slices=slices)
    for kind in slices:
        checks.one_of(SLICES, slice=kind)
    checks.require(
        members.size and nonmembers.size,
        f"An attack needs members and non-members, got {members.size} and {nonmembers.size} "
        "records; hold some records out of the training.",
    )
    alike = members.classes == nonmembers.classes
    checks.require(alike, "Members and non-members must be answered by the same model.")
    masks_in, masks_out = (
        slice_masks(side, slices, one_column=one_column) for side in (members, nonmembers)
    )
    results = []
    for name, mask in masks_in.items():
        inside, outside = members.take(mask), nonmembers.take(masks_out[name])
        sizes = f"({inside.size} members, {outside.size} non-members"
        fewest = min(inside.size, outside.size)
        for attack in attacks:
            scores = None
            if not fewest:
                status = f"empty slice {sizes})"
            elif fewest < _FEWEST and not attack.startswith("THRESHOLD"):
                status = f"too few to train an attack {sizes}; {_FEWEST} of each are needed)"
            else:
                scores = run(inside, outside, attack)
                status = "ok" if scores else f"too few to train an attack {sizes})"
            on_members, on_others = scores or (np.empty(0), np.empty(0))
            results.append(AttackResult(attack, name, on_members, on_others, status))
    return results


def run_suite(
    members: Outputs,
    nonmembers: Outputs,
    *,
    attacks: Sequence[str] = ATTACKS[:3],
    slices: Sequence[str] = SLICES,
    rng: np.random.Generator,
) -> list[AttackResult]:
    """TensorFlow Privacy's membership inference attacks on one model, by slice and attack.

    Of the `attacks`, out of `ATTACKS`, the trained ones learn to tell members from non-members *of
    this model* by two-fold cross-validation: an auditor's attack, since no outsider has such
    labels. An empty slice (`slices` are out of `SLICES`) is reported with its reason in `status`,
    never dropped and never scored. ValueError if a side is empty or a name unknown.
    """
    check_attacks(attacks)
    before = np.random.get_state()  # noqa: NPY002 - the suite draws from NumPy's global generator
    np.random.seed(int(rng.integers(2**32, dtype=np.uint64)))  # noqa: NPY002
    try:
        with _quietly():
            return _judge(members, nonmembers, attacks=attacks, slices=slices, run=_suite)
    finally:
        np.random.set_state(before)  # noqa: NPY002


def _suite(inside: Outputs, outside: Outputs, attack: str) -> Scores | None:
    from tensorflow_privacy.privacy.privacy_tests.membership_inference_attack import (
        data_structures,
    )
    from tensorflow_privacy.privacy.privacy_tests.membership_inference_attack import (
        membership_inference_attack as suite,
    )

    given: dict[str, Any] = {}
    for name, side in (("train", inside), ("test", outside)):
        given |= {f"labels_{name}": side.labels, f"probs_{name}": side.probabilities}
        # Given, because the suite derives the two sides' losses differently from logits alone.
        given |= {f"loss_{name}": side.loss, f"entropy_{name}": side.modified_entropy}
    answer = suite.run_attacks(
        data_structures.AttackInputData(**given),
        attack_types=[data_structures.AttackType[attack]],
    ).single_attack_results
    if not answer:
        return None
    scores = (answer[0].membership_scores_train, answer[0].membership_scores_test)
    return np.asarray(scores[0], dtype=float), np.asarray(scores[1], dtype=float)


def holdout_logistic(
    members: Outputs,
    nonmembers: Outputs,
    *,
    slices: Sequence[str] = SLICES,
    rng: np.random.Generator,
) -> list[AttackResult]:
    """The suite's logistic attack as its earlier releases judged it, by slice.

    The larger side is cut down to the smaller, a random quarter of the records of both sides
    together is held out, and the attack, which sees (p, loss) of a model with one output column, is
    judged on that quarter alone, not stratified: for a class with 22 non-members on 11 records,
    most likely 4 members against 7. The results hold the scores of those records only.
    """

    def run(inside: Outputs, outside: Outputs, _: str) -> Scores | None:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV

        size = min(inside.size, outside.size)
        kept = [side.take(rng.permutation(side.size)[:size]) for side in (inside, outside)]
        features = np.concatenate(
            [np.column_stack([side.probabilities[:, 1:], side.loss]) for side in kept]
        )
        member = np.repeat([1, 0], size)
        held, rest = np.split(rng.permutation(2 * size), [int(np.ceil(0.25 * 2 * size))])
        on_held, on_rest = (np.bincount(member[part], minlength=2).min() for part in (held, rest))
        if on_held < 1 or on_rest < 3:  # one of each to judge on, three folds to choose C on
            return None
        grid = {"C": np.logspace(-4, 2, 10)}
        search = GridSearchCV(LogisticRegression(solver="lbfgs"), grid, cv=3)
        search.fit(features[rest], member[rest])
        scores = search.predict_proba(features[held])[:, 1]
        return scores[member[held] == 1], scores[member[held] == 0]

    logistic = ["LOGISTIC_REGRESSION"]
    with _quietly():
        return _judge(
            members, nonmembers, attacks=logistic, slices=slices, run=run, one_column=True
        )


def table(results: Sequence[AttackResult]) -> pd.DataFrame:
    """The results as a DataFrame, one row per attack and slice, with sizes and status."""
    import pandas as pd

    lines = [
        (
            r.attack,
            r.slice,
            r.auc,
            r.advantage,
            r.member_scores.size,
            r.nonmember_scores.size,
            r.status,
        )
        for r in results
    ]
    names = ["attack", "slice", "auc", "advantage", "members", "nonmembers", "status"]
    return pd.DataFrame(lines, columns=names)
