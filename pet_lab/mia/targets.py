"""The models under attack: trained on hold-outs of the report's size, or on random halves.

Every replicate has its own hold-out, initial weights, batches and noise, all from its own child of
the seed, so it is the same alone or among others, and settings are compared on equal ones.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pet_lab import accounting, checks, dpsgd
from pet_lab.dpsgd.config import Engine
from pet_lab.mia.lira import random_halves
from pet_lab.mia.roc import auc
from pet_lab.mia.scores import signed_logits

ONE_CLASS = "all records to train on are of one class"


def check_plan(y: ArrayLike, *, batch_size: int, delta: float, members: int | None = None) -> None:
    """Refuse `y` (0 and 1, shape (n,)) with too few records, one class, or less than a batch.

    `members` are the records that a training sees, by default those of `report_split`.
    """
    records, classes = np.size(y), np.unique(y)
    checks.require(records >= 6, f"Expected at least 6 records, got {records}; use a larger table.")
    one_class = (
        f"Expected two classes, got {records} records of class {classes[0]:g} alone; choose "
        "another target."
    )
    checks.require(classes.size >= 2, one_class)
    if members is None:
        members = report_split(records, np.random.default_rng(0)).train.size
    checks.require(
        batch_size <= members,
        f"batch_size = {batch_size} is larger than the {members} records that a training sees; "
        "lower it.",
    )
    checks.require(0 < delta < 1, f"delta is strictly between 0 and 1, got {delta:g}.")


def spend(epsilon: float, config: dpsgd.Config, *, n: int, delta: float) -> dpsgd.Config:
    """`config` with the least noise that guarantees `epsilon` on `n` members (PLD accountant)."""
    noise = accounting.noise_for(epsilon, n=n, delta=delta, **_accounted(config))
    return replace(config, noise_multiplier=noise)


def check_spend(epsilon: float, config: dpsgd.Config, *, n: int, delta: float) -> None:
    """Refuse at once what `spend` would refuse."""
    accounting.check_target(epsilon, n=n, delta=delta, **_accounted(config))


def _accounted(config: dpsgd.Config) -> dict[str, Any]:
    names = ("batch_size", "epochs", "sampling")
    return {name: getattr(config, name) for name in names} | {"accountant": "pld"}


def _both_classes(members: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which rows of `members`, shape (replicas, n), hold records of class 0 and of class 1."""
    return (members & (y > 0)).any(axis=1) & (members & (y <= 0)).any(axis=1)


@dataclass(frozen=True)
class Split:
    """Row numbers of the members, of the validation part, and of the test part."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def report_split(records: int, rng: np.random.Generator) -> Split:
    """A fifth held out for testing, then a fifth of the rest for validation, both rounded up.

    395 records give the 252, 64 and 79 of the UNECE report.
    """
    test = math.ceil(0.2 * records)
    validation = math.ceil(0.2 * (records - test))
    few = f"{records} records are too few to hold out a fifth of them twice."
    checks.require(records - test - validation >= 2, few)
    return Split(*reversed(np.split(rng.permutation(records), [test, test + validation])))


@dataclass(frozen=True, kw_only=True)
class Target:
    """One network on one hold-out.

    config     its settings
    replicate  number of the hold-out
    split      its members (train) and others
    logits     of all records, shape (n,); NaN where the training diverged
    seed       stream for attacks on this replicate, equal for all settings
    status     "ok", or why there is nothing to attack
    """

    config: dpsgd.Config
    replicate: int
    split: Split
    logits: np.ndarray
    seed: np.random.SeedSequence
    status: str

    def accuracy(self, rows: np.ndarray, y: np.ndarray) -> float:
        """Share of `rows` whose class (`y`: 0 or 1, shape (n,)) it gets right; NaN if not "ok"."""
        right = (self.logits[rows] > 0) == (y[rows] > 0)
        return float(right.mean()) if self.status == "ok" else math.nan


def split_streams(
    records: int, *, seed: int, replicates: int
) -> list[tuple[Split, np.random.SeedSequence, np.random.SeedSequence]]:
    """(hold-out, stream of the training, stream of what else is random) of each replicate."""
    parts = [s.spawn(3) for s in np.random.SeedSequence(seed).spawn(replicates)]
    return [(report_split(records, np.random.default_rng(a)), b, c) for a, b, c in parts]


def train_targets(
    X: ArrayLike,
    y: ArrayLike,
    configs: Sequence[dpsgd.Config],
    *,
    seed: int,
    replicates: int,
    engine: Engine = "batched",
) -> Iterator[Target]:
    """A network of each setting on each hold-out, all trained by one call of `dpsgd.train`.

    X and y have shapes (n, d) and (n,); configs may differ in learning_rate, epochs, clip and
    noise_multiplier. Targets come setting by setting; within a replicate all settings start from
    the same weights and see the same batches. Where all members are of one class nothing is
    trained: see `Target.status`.
    """
    x, target = np.asarray(X, dtype=float), np.asarray(y)
    streams = split_streams(len(target), seed=seed, replicates=replicates)
    masks = np.zeros((replicates, len(target)), bool)
    for mask, (split, _, _) in zip(masks, streams, strict=True):
        mask[split.train] = True
    usable = np.flatnonzero(_both_classes(masks, target))
    logits = np.full((len(configs), replicates, len(target)), np.nan)
    status = np.full((len(configs), replicates), ONE_CLASS, object)
    if usable.size:
        runs = dpsgd.train(
            x,
            target,
            [c for c in configs for _ in usable],
            seeds=[streams[r][1] for r in usable] * len(configs),
            members=np.tile(masks[usable], (len(configs), 1)),
            engine=engine,
            curve_every=0,
        )
        shape = len(configs), usable.size
        answers = np.where(runs.diverged[:, None], np.nan, runs.predict(x))
        logits[:, usable] = answers.reshape(*shape, -1)
        status[:, usable] = np.where(runs.diverged, "the training diverged", "ok").reshape(shape)
    for i, config in enumerate(configs):
        for r, (split, _, other) in enumerate(streams):
            outcome = {"logits": logits[i, r], "status": status[i, r]}
            yield Target(config=config, replicate=r, split=split, seed=other, **outcome)


@dataclass(frozen=True, kw_only=True)
class Coins:
    """Many trainings, each on a random half of the records, and what they answer.

    statistics  signed logit of every record under every model, shape (models, n)
    member      which model was trained on which record, bool, shape (models, n)
    diverged    models that were left out because their training diverged
    one_class   models that were left out because their coins chose one class only
    """

    statistics: np.ndarray
    member: np.ndarray
    diverged: int
    one_class: int = 0

    def areas(self, scores: np.ndarray) -> list[float]:
        """AUC of each model on its row of `scores`, shape (models, n), members against others."""
        return [auc(s[m], s[~m]) for s, m in zip(scores, self.member, strict=True)]

    def pooled(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores of all members and of all non-members, over all models."""
        return scores[self.member], scores[~self.member]

    def accuracy(self, *, members: bool) -> np.ndarray:
        """Share of right answers of each model on its members, or on the others, (models,)."""
        chosen = self.member if members else ~self.member
        return ((self.statistics > 0) & chosen).sum(axis=1) / chosen.sum(axis=1)


def coin_trainings(
    X: ArrayLike,
    y: ArrayLike,
    config: dpsgd.Config,
    *,
    models: int,
    seed: int,
    engine: Engine = "batched",
) -> Coins:
    """Train `models` networks, each on the records that its own fair coins choose.

    They are the shadow models of LiRA; each is also a target in turn. `seed` gives the coins and
    the trainings, equal for all `config`, so that settings are compared on the same coins.
    """
    x, target = np.asarray(X, dtype=float), np.asarray(y)
    first, *seeds = np.random.SeedSequence(seed).spawn(models + 1)
    member = random_halves(models, len(target), rng=np.random.default_rng(first))
    both = _both_classes(member, target)
    checks.require(both.any(), f"Expected both classes in some half of the records: {ONE_CLASS}.")
    member, seeds = member[both], [seed for seed, ok in zip(seeds, both, strict=True) if ok]
    how: dict[str, Any] = {"members": member, "engine": engine, "curve_every": 0}
    runs = dpsgd.train(x, target, config, seeds=seeds, **how)
    keep = ~runs.diverged
    return Coins(
        statistics=signed_logits(runs.predict(x), target)[keep],
        member=member[keep],
        diverged=int((~keep).sum()),
        one_class=int((~both).sum()),
    )
