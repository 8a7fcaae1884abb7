"""Attacks on one model from its answers: TensorFlow Privacy's suite, slice by slice.

The suite is used as it is (`tensorflow-empirical-privacy`), with two things made explicit: its
randomness, which it takes from NumPy's global generator, and slices that hold too few records,
which it drops silently. Its earlier releases judged a trained attack on a random *quarter* of the
balanced records instead of by cross-validation; published numbers come from there, so
`holdout_logistic` keeps that reading.

The suite's logistic attack makes 31 fits on a few dozen records to choose C, and nearly all of
their time is scikit-learn's overhead: `GridLogistic` makes them side by side.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.random import Generator
from scipy import special

from pet_lab import checks
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


class GridLogistic:
    """Ridge logistic regression with C chosen by three-fold accuracy, all fits side by side.

    What the suite's `LogisticRegressionAttacker` does by scikit-learn's `GridSearchCV` over these
    ten C: by Newton's method to the optimum, where L-BFGS stops a little earlier.
    """

    GRID = np.logspace(-4, 2, 10)

    def train_model(self, X: np.ndarray, y: np.ndarray, **_: object) -> None:
        """Features, shape (n, d); 1 for members, 0 for others, shape (n,)."""
        from sklearn.model_selection import StratifiedKFold

        folds = [out for _, out in StratifiedKFold(3).split(X, y)]
        held = np.zeros((3, 1, len(y)), bool)
        for row, out in zip(held[:, 0], folds, strict=True):
            row[out] = True
        used = np.repeat(~held[:, 0], self.GRID.size, axis=0)
        right = (_linear(X, _ridge(X, y, used, np.tile(self.GRID, 3))) > 0) == (y > 0)
        shares = (right.reshape(3, -1, len(y)) & held).sum(axis=2) / held.sum(axis=2)
        best = self.GRID[[shares.mean(axis=0).argmax()]]
        self._fit = _ridge(X, y, np.ones((1, len(y)), bool), best)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """P(member), shape (n,)."""
        p: np.ndarray = special.expit(_linear(X, self._fit)[0])
        return p


def _linear(X: np.ndarray, fits: np.ndarray) -> np.ndarray:
    scores: np.ndarray = fits[:, :-1] @ X.T + fits[:, -1:]
    return scores


def _ridge(X: np.ndarray, y: np.ndarray, used: np.ndarray, C: np.ndarray) -> np.ndarray:
    """Coefficients and intercepts (k, d + 1) of k fits, each on its `used` records (k, n)."""
    Z = np.column_stack([X, np.ones(len(X))])
    penalty = np.append(np.ones(X.shape[1]), 1e-9)  # the intercept is free
    weight, member = C[:, None] * used, y > 0

    def objective(w: np.ndarray) -> np.ndarray:
        loss = np.logaddexp(0, np.where(member, -1, 1) * (w @ Z.T))
        total: np.ndarray = (weight * loss).sum(axis=1) + w**2 @ penalty / 2
        return total

    w = np.zeros((len(C), Z.shape[1]))
    now = objective(w)
    for _ in range(100):
        p = special.expit(w @ Z.T)
        slope = (weight * (p - member)) @ Z + penalty * w
        curvature = (Z.T * (weight * p * (1 - p))[:, None]) @ Z + np.diag(penalty)
        step = np.linalg.solve(curvature, slope[..., None])[..., 0]
        for _ in range(30):  # Newton's step can overshoot: halve it where it does
            new = objective(w - step)
            worse = ~(new <= now + 1e-12 * np.abs(now))
            if not worse.any():
                break
            step[worse] /= 2
        w, now = w - step, new
        if np.abs(step).max() < 1e-8:
            break
    return w


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
    fast: bool = False,
) -> pd.DataFrame:
    """TensorFlow Privacy's membership inference attacks on one model: a row per slice and attack.

    Columns: attack, slice ("Entire dataset", "CLASS=0", "CORRECTLY_CLASSIFIED=True", ...), auc,
    advantage (largest ``|TPR - FPR|``, as the suite reports it), members and nonmembers (records on
    which the attack is judged), and status: "ok", or why there is nothing to judge; then auc and
    advantage are NaN.

    Of the `attacks`, out of `ATTACKS`, the trained ones learn to tell members from non-members *of
    this model* by two-fold cross-validation: an auditor's attack, since no outsider has such
    labels; with `fast` the logistic one is `GridLogistic` on the suite's own folds. An empty slice
    (`slices` are out of `SLICES`) is a row, never dropped and never scored. ValueError if a side is
    empty or a name unknown.
    """
    check_attacks(attacks)
    before = np.random.get_state()  # noqa: NPY002 - the suite draws from NumPy's global generator
    np.random.seed(int(rng.integers(2**32, dtype=np.uint64)))  # noqa: NPY002
    try:
        with _quietly():
            run = partial(_suite, fast=fast)
            return _judge(members, nonmembers, attacks=attacks, slices=slices, run=run)
    finally:
        np.random.set_state(before)  # noqa: NPY002


def _suite(inside: Outputs, outside: Outputs, attack: str, *, fast: bool) -> Scores | None:
    from tensorflow_privacy.privacy.privacy_tests.membership_inference_attack import (
        data_structures,
        models,
    )
    from tensorflow_privacy.privacy.privacy_tests.membership_inference_attack import (
        membership_inference_attack as suite,
    )

    given: dict[str, Any] = {}
    for name, side in (("train", inside), ("test", outside)):
        given |= {f"labels_{name}": side.labels, f"probs_{name}": side.probabilities}
        # Given, because the suite derives the two sides' losses differently from logits alone.
        given |= {f"loss_{name}": side.loss, f"entropy_{name}": side.modified_entropy}
    asked = data_structures.AttackInputData(**given)
    if fast and attack == "LOGISTIC_REGRESSION":
        return _crosswise(models.create_attacker_data(asked), GridLogistic())
    types = [data_structures.AttackType[attack]]
    answer = suite.run_attacks(asked, attack_types=types).single_attack_results
    if not answer:
        return None
    sides = (answer[0].membership_scores_train, answer[0].membership_scores_test)
    on_members, on_others = (np.asarray(side, dtype=float) for side in sides)
    return on_members, on_others


def _crosswise(prepared: Any, attacker: GridLogistic) -> Scores:
    """Scores by an attacker of ours on the suite's own features and two folds."""
    from sklearn.model_selection import StratifiedKFold

    X, y, order = prepared.features_all, prepared.labels_all, prepared.fold_indices
    scores = np.empty(len(y))
    for used, held in StratifiedKFold(2).split(X[order], y[order]):
        attacker.train_model(X[order[used]], y[order[used]])
        scores[order[held]] = attacker.predict(X[order[held]])
    if (left := prepared.left_out_indices).size:  # of the larger side
        scores[left] = attacker.predict(X[left])
    return scores[y == 1], scores[y != 1]


def holdout_logistic(
    members: Outputs,
    nonmembers: Outputs,
    *,
    slices: Sequence[str] = SLICES,
    rng: Generator,
    fast: bool = False,
) -> pd.DataFrame:
    """The suite's logistic attack as its earlier releases judged it: rows as of `run_suite`.

    The larger side is cut down to the smaller, a random quarter of the records of both sides
    together is held out, and the attack, which sees (p, loss) of a model with one output column, is
    judged on that quarter alone, not stratified: for a class with 22 non-members on 11 records,
    most likely 4 members against 7 (7 against 8 fits the printed fractions too). `fast` as there.
    """
    from tensorflow_privacy.privacy.privacy_tests.membership_inference_attack import models

    def run(inside: Outputs, outside: Outputs, _: str) -> Scores | None:
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
        attacker = GridLogistic() if fast else models.LogisticRegressionAttacker()
        attacker.train_model(features[rest], member[rest])
        scores = attacker.predict(features[held])
        return scores[member[held] == 1], scores[member[held] == 0]

    how: dict[str, Any] = {"attacks": ["LOGISTIC_REGRESSION"], "slices": slices, "run": run}
    with _quietly():
        return _judge(members, nonmembers, one_column=True, **how)


def toolbox_auc(members: Outputs, nonmembers: Outputs, *, kind: str, rng: Generator) -> float:
    """AUC of the adversarial-robustness-toolbox's black-box attack on one model.

    `kind` is its attack model, for example "lr" (logistic regression) or "rf" (random forest). As
    in the suite the larger side is cut down to the smaller, and each half of the records is judged
    by an attack that was trained on the other. NaN where a half would hold less than two.
    """
    with _quietly():
        from art.attacks.inference.membership_inference import MembershipInferenceBlackBox
        from art.estimators.classification import BlackBoxClassifier

        size = min(members.size, nonmembers.size)
        if size < 4:
            return float("nan")
        sides = [side.take(rng.permutation(side.size)[:size]) for side in (members, nonmembers)]
        answers = [side.probabilities.astype(np.float32) for side in sides]
        model = BlackBoxClassifier(lambda x: x, (members.classes,), members.classes)
        halves = np.arange(size) % 2 == 0, np.arange(size) % 2 == 1
        scores = np.empty((2, size))
        for known, asked in (halves, halves[::-1]):
            attack = MembershipInferenceBlackBox(model, attack_model_type=kind)
            given = {"y": sides[0].labels[known], "test_y": sides[1].labels[known]}
            attack.fit(pred=answers[0][known], test_pred=answers[1][known], **given)
            for row, side, answer in zip(scores, sides, answers, strict=True):
                how = {"pred": answer[asked], "probabilities": True}
                row[asked] = attack.infer(None, side.labels[asked], **how)[:, 0]
        return auc(*scores)
