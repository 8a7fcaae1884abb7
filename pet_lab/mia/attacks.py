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
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.random import Generator

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
) -> pd.DataFrame:
    """What the scores by `run` tell for each slice and attack, or why there is nothing."""
    import pandas as pd

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
    lines = []
    for name, mask in masks_in.items():
        inside, outside = members.take(mask), nonmembers.take(masks_out[name])
        sizes = f"({inside.size} members, {outside.size} non-members"
        fewest = min(inside.size, outside.size)
        for attack in attacks:
            line: dict[str, Any] = {"attack": attack, "slice": name, "auc": np.nan}
            line |= {"advantage": np.nan, "members": 0, "nonmembers": 0, "status": "ok"}
            if not fewest:
                line["status"] = f"empty slice {sizes})"
            elif fewest < _FEWEST and not attack.startswith("THRESHOLD"):
                few = f"too few to train an attack {sizes}; {_FEWEST} of each are needed)"
                line["status"] = few
            elif not (scores := run(inside, outside, attack)):
                line["status"] = f"too few to train an attack {sizes})"
            else:
                m, n = scores
                line |= {"auc": auc(m, n), "advantage": max(advantage(m, n), advantage(-m, -n))}
                line |= {"members": m.size, "nonmembers": n.size}
            lines.append(line)
    return pd.DataFrame(lines)


def run_suite(
    members: Outputs,
    nonmembers: Outputs,
    *,
    attacks: Sequence[str] = ATTACKS[:3],
    slices: Sequence[str] = SLICES,
    rng: Generator,
) -> pd.DataFrame:
    """TensorFlow Privacy's membership inference attacks on one model: a row per slice and attack.

    Columns: attack, slice ("Entire dataset", "CLASS=0", "CORRECTLY_CLASSIFIED=True", ...), auc,
    advantage (largest ``|TPR - FPR|``, as the suite reports it), members and nonmembers (records on
    which the attack is judged), and status: "ok", or why there is nothing to judge; then auc and
    advantage are NaN.

    Of the `attacks`, out of `ATTACKS`, the trained ones learn to tell members from non-members *of
    this model* by two-fold cross-validation: an auditor's attack, since no outsider has such
    labels. An empty slice (`slices` are out of `SLICES`) is a row, never dropped and never scored.
    ValueError if a side is empty or a name unknown.
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
    sides = (answer[0].membership_scores_train, answer[0].membership_scores_test)
    on_members, on_others = (np.asarray(side, dtype=float) for side in sides)
    return on_members, on_others


def holdout_logistic(
    members: Outputs, nonmembers: Outputs, *, slices: Sequence[str] = SLICES, rng: Generator
) -> pd.DataFrame:
    """The suite's logistic attack as its earlier releases judged it: rows as of `run_suite`.

    The larger side is cut down to the smaller, a random quarter of the records of both sides
    together is held out, and the attack, which sees (p, loss) of a model with one output column, is
    judged on that quarter alone, not stratified: for a class with 22 non-members on 11 records,
    most likely 4 members against 7.
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

    how: dict[str, Any] = {"attacks": ["LOGISTIC_REGRESSION"], "slices": slices, "run": run}
    with _quietly():
        return _judge(members, nonmembers, one_column=True, **how)
