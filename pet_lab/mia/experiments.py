"""The experiments of the two notebooks as functions from arrays to tidy rows.

Each draws its own hold-outs: replicate r of a sweep has its own members, initial weights, batches
and noise, all from child r of the seed, so it is the same alone or among others. A diverged
training gives NaN rows, so that it is counted and never averaged in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from pet_lab import dpsgd
from pet_lab.accounting import report_epsilon
from pet_lab.mia import shadow, tables
from pet_lab.mia.attacks import ATTACKS, SLICES, AttackResult, holdout_logistic, run_suite
from pet_lab.mia.lira import random_halves
from pet_lab.mia.roc import advantage, auc
from pet_lab.mia.scores import from_logits, signed_logits

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Coins",
    "Split",
    "attack_sweep",
    "attack_synthetic",
    "attack_training",
    "coin_trainings",
    "report_epsilon",
    "report_split",
    "scaled",
    "shadow_attack",
]


def scaled(X: ArrayLike, like: ArrayLike | None = None) -> np.ndarray:
    """Features scaled to [0, 1] by the smallest and largest values of `like` (default: `X`)."""
    x = np.asarray(X, dtype=float)
    base = x if like is None else np.asarray(like, dtype=float)
    low, span = base.min(axis=0), np.ptp(base, axis=0)
    return (x - low) / np.where(span > 0, span, 1.0)


@dataclass(frozen=True)
class Split:
    """Row numbers of the members, of the validation part, and of the test part."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def report_split(records: int, rng: np.random.Generator, *, share: float = 0.2) -> Split:
    """A fifth held out for testing, then a fifth of the rest for validation, both rounded up.

    395 records give the 252, 64 and 79 of the report.
    """
    test = math.ceil(share * records)
    validation = math.ceil(share * (records - test))
    if records - test - validation < 2:
        raise ValueError(f"{records} records are too few to hold out a share of {share} twice.")
    order = rng.permutation(records)
    return Split(
        train=order[test + validation :],
        validation=order[test : test + validation],
        test=order[:test],
    )


def _children(seed: int, replicates: int, parts: int) -> list[list[np.random.SeedSequence]]:
    return [s.spawn(parts) for s in np.random.SeedSequence(seed).spawn(replicates)]


def attack_sweep(
    X: ArrayLike,
    y: ArrayLike,
    configs: Sequence[dpsgd.Config],
    *,
    seed: int,
    replicates: int,
    attacks: Sequence[str] = ATTACKS[:3],
    slices: Sequence[str] = SLICES,
    holdout: bool = False,
    workers: int = 1,
) -> pd.DataFrame:
    """Train under each setting on the report's split, anew in each replicate, and attack.

    Parameters
    ----------
    X, y : arrays, shapes (n, d), (n,)
    configs : sequence of Config
        They may differ in learning_rate, epochs, clip and noise_multiplier: one batched program.
    seed, replicates : int
    attacks, slices : sequences of str
        As for `run_suite`; members are the training records, non-members the test records.
    holdout : bool
        Judge as earlier releases of the suite did, see `holdout_logistic`; then only the logistic
        attack is run.
    workers : int
        Threads of the training engine.

    Returns
    -------
    DataFrame: epochs, learning_rate, noise_multiplier, attack, slice, members, nonmembers,
    replicate, metric, value. Metrics ``score.train``, ``score.validation``, ``score.test``,
    ``score.gap`` (train - test) with empty attack and slice; ``mia.auc`` and
    ``mia.attacker_advantage`` for each attack and slice (NaN where the slice is empty or the
    training diverged).
    """
    import pandas as pd

    x, target = np.asarray(X, dtype=float), np.asarray(y)
    streams = _children(seed, replicates, 3)
    splits = [report_split(len(target), np.random.default_rng(s[0])) for s in streams]
    masks = np.zeros((replicates, len(target)), bool)
    for r, split in enumerate(splits):
        masks[r, split.train] = True
    done = dpsgd.train(
        x,
        target,
        [c for c in configs for _ in range(replicates)],
        # Every setting of a replicate starts from the same weights and sees the same batches.
        seeds=[s[1] for s in streams] * len(configs),
        members=np.tile(masks, (len(configs), 1)),
        curve_every=0,
        workers=workers,
    )
    logits = done.predict(x)
    rows: list[dict[str, Any]] = []
    for i, config in enumerate(configs):
        for r, split in enumerate(splits):
            at = i * replicates + r
            common = {
                "epochs": config.epochs,
                "learning_rate": config.learning_rate,
                "noise_multiplier": config.noise_multiplier,
                "replicate": r,
            }
            broken = bool(done.diverged[at])
            rows += _score_rows(logits[at], target, split, common, broken)
            # The same folds for every setting: they are compared like with like.
            rng = np.random.default_rng(streams[r][2])
            results: list[AttackResult] = []
            if not broken:
                inside = from_logits(logits[at][split.train], target[split.train])
                outside = from_logits(logits[at][split.test], target[split.test])
                results = (
                    holdout_logistic(inside, outside, slices=slices, rng=rng)
                    if holdout
                    else run_suite(inside, outside, attacks=attacks, slices=slices, rng=rng)
                )
            rows += _attack_rows(results, common)
    return pd.DataFrame(rows)


def _score_rows(
    logits: np.ndarray, y: np.ndarray, split: Split, common: Mapping[str, Any], broken: bool
) -> list[dict[str, Any]]:
    right = (logits > 0) == (y > 0)
    score = {
        name: float("nan") if broken else float(right[part].mean())
        for name, part in (
            ("train", split.train),
            ("validation", split.validation),
            ("test", split.test),
        )
    }
    score["gap"] = score["train"] - score["test"]
    empty = {"attack": "", "slice": "", "members": split.train.size, "nonmembers": split.test.size}
    return [{**common, **empty, "metric": f"score.{k}", "value": v} for k, v in score.items()]


def _attack_rows(
    results: Sequence[AttackResult], common: Mapping[str, Any]
) -> list[dict[str, Any]]:
    return [
        {
            **common,
            "attack": result.attack,
            "slice": result.slice,
            "members": result.member_scores.size,
            "nonmembers": result.nonmember_scores.size,
            "metric": metric,
            "value": value,
        }
        for result in results
        for metric, value in (
            ("mia.auc", result.auc),
            ("mia.attacker_advantage", result.advantage),
        )
    ]


@dataclass(frozen=True, kw_only=True)
class Coins:
    """Many trainings, each on a random half of the records, and what they answer.

    statistics  signed logit of every record under every model, shape (models, n)
    member      which model was trained on which record, bool, shape (models, n)
    diverged    models that were left out because their training diverged
    accuracy    on the records that a model was not trained on, shape (models,)
    """

    statistics: np.ndarray
    member: np.ndarray
    diverged: int
    accuracy: np.ndarray


def coin_trainings(
    X: ArrayLike,
    y: ArrayLike,
    config: dpsgd.Config,
    *,
    models: int,
    seed: int,
    workers: int = 1,
) -> Coins:
    """Train `models` networks, each on the records that its own fair coins choose.

    Parameters
    ----------
    X, y : arrays, shapes (n, d), (n,)
    config : Config
    models : int
        The shadow models of LiRA; each is also a target in turn.
    seed : int
        The coins and the trainings; equal for all `config`, so that settings are compared on the
        same coins.
    workers : int

    Returns
    -------
    Coins
    """
    x, target = np.asarray(X, dtype=float), np.asarray(y)
    first, *seeds = np.random.SeedSequence(seed).spawn(models + 1)
    member = random_halves(models, len(target), rng=np.random.default_rng(first))
    done = dpsgd.train(
        x, target, config, seeds=seeds, members=member, curve_every=0, workers=workers
    )
    keep = ~done.diverged
    statistics = signed_logits(done.predict(x), target)[keep]
    member = member[keep]
    right = np.where(member, np.nan, statistics > 0)
    return Coins(
        statistics=statistics,
        member=member,
        diverged=int((~keep).sum()),
        accuracy=np.nanmean(right, axis=1) if keep.any() else np.empty(0),
    )


def shadow_attack(
    X: ArrayLike,
    y: ArrayLike,
    domain: shadow.Domain,
    config: dpsgd.Config,
    *,
    seed: int,
    replicates: int,
    models: int = 20,
    held_out: float = 0.25,
    confidence: float = 0.8,
    workers: int = 1,
) -> pd.DataFrame:
    """Shokri's attack on a target of this configuration, a new target in each replicate.

    The attacker only queries the target: he synthesises records of both classes from its answers,
    trains `models` imitations (same configuration, as many records as the target) in one program,
    learns one attack per predicted class, and is judged on the target's real members and on the
    records held out from it.

    Parameters
    ----------
    X, y : arrays, shapes (n, d), (n,)
    domain : Domain
        Values that the attacker believes possible, encoded and scaled as `X`.
    config : Config
    seed, replicates, models : int
    held_out : float
        Share of the records that the target is not trained on.
    confidence : float
        Threshold of the synthesis. A target that never is so sure of a class lowers it to 95 % of
        the best answer among 4096 random records.
    workers : int

    Returns
    -------
    DataFrame: attack_model ("class0", "class1" or ""), samples ("member", "nonmember" or ""),
    replicate, metric, value. Metrics ``target.*`` on the held-out records; for each attack model
    precision, recall, f1 by samples, accuracy, balanced_accuracy, ``accuracy.always_member``,
    ``mia.auc``; and ``queries``, ``synthesis.confidence``, ``synthesis.failed`` (1 where the target
    hardly ever predicts a class: it then has no attack rows).
    """
    import pandas as pd

    x, target = np.asarray(X, dtype=float), np.asarray(y)
    rows: list[dict[str, Any]] = []
    for r, streams in enumerate(_children(seed, replicates, 3 + models)):
        draw, target_seed, work, *model_seeds = streams
        rng = np.random.default_rng(work)
        order = np.random.default_rng(draw).permutation(len(target))
        out = np.zeros(len(target), bool)
        out[order[: round(held_out * len(target))]] = True
        one = dpsgd.train(x, target, config, seeds=[target_seed], members=~out[None], curve_every=0)
        if one.diverged[0]:
            rows.append(_shadow_row(r, "target.accuracy", float("nan")))
            continue
        rows += _target_rows(one.predict(x)[0][out] > 0, target[out] > 0, r)
        try:
            pool, labels, facts = _pool(one, domain, int((~out).sum()), confidence, rng)
        except shadow.SynthesisError:
            rows.append(_shadow_row(r, "synthesis.failed", 1.0))
            continue
        rows += [_shadow_row(r, k, v) for k, v in facts.items()]
        train, test = shadow.shadow_masks(models, len(labels), size=int((~out).sum()), rng=rng)
        imitations = dpsgd.train(
            pool, labels, config, seeds=model_seeds, members=train, curve_every=0, workers=workers
        )
        ok = ~imitations.diverged
        logits = imitations.predict(pool)[ok].astype(float)
        p1 = 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
        attack = shadow.attack_models(np.stack([1 - p1, p1], axis=2), train[ok], test[ok])
        rows += _verdict_rows(attack, from_logits(one.predict(x)[0], target), ~out, r)
    return pd.DataFrame(rows)


def _shadow_row(
    replicate: int, metric: str, value: float, model: str = "", samples: str = ""
) -> dict[str, Any]:
    return {
        "attack_model": model,
        "samples": samples,
        "replicate": replicate,
        "metric": metric,
        "value": value,
    }


def _target_rows(said: np.ndarray, truth: np.ndarray, r: int) -> list[dict[str, Any]]:
    found = shadow.decision_metrics(truth, said)  # "member" stands for class 1 here
    rows = [_shadow_row(r, "target.accuracy", found["all"]["accuracy"])]
    for name, side in (("class1", "member"), ("class0", "nonmember")):
        rows += [
            _shadow_row(r, f"target.{m}.{name}", found[side][m]) for m in ("precision", "recall")
        ]
    return rows


def _pool(
    target: dpsgd.Training,
    domain: shadow.Domain,
    size: int,
    confidence: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Twice the records that one shadow model needs, half of each class, from queries alone."""

    def predict(X: np.ndarray) -> np.ndarray:
        z = np.clip(target.predict(X)[0].astype(float), -500, 500)
        p = 1 / (1 + np.exp(-z))
        return np.stack([1 - p, p], axis=1)

    per_class = 2 * size
    reach = predict(domain.draw(4096, rng)).max(axis=0)
    level = np.minimum(confidence, 0.95 * reach)
    made = [
        shadow.synthesise(
            predict, domain, label=c, n=per_class, rng=rng, confidence=float(level[c])
        )
        for c in (0, 1)
    ]
    facts = {
        "synthesis.failed": 0.0,
        "queries": float(sum(m.queries for m in made)),
        "synthesis.confidence": float(level.min()),
    }
    labels = np.repeat([0, 1], per_class)
    return np.concatenate([m.X for m in made]), labels, facts


def _verdict_rows(
    attack: shadow.AttackModels, outputs: Any, member: np.ndarray, r: int
) -> list[dict[str, Any]]:
    rows = []
    scores = attack.score(outputs)
    for label in (0, 1):
        name = f"class{label}"
        here = (outputs.predicted == label) & np.isfinite(scores)
        truth, score = member[here], scores[here]
        if not here.any():
            rows.append(_shadow_row(r, "accuracy", float("nan"), name))
            continue
        found = shadow.decision_metrics(truth, score > 0.5)
        for samples in ("member", "nonmember"):
            rows += [_shadow_row(r, m, v, name, samples) for m, v in found[samples].items()]
        rows += [_shadow_row(r, m, v, name) for m, v in found["all"].items()]
        rows.append(_shadow_row(r, "accuracy.always_member", float(truth.mean()), name))
        both = truth.any() and not truth.all()
        area = auc(score[truth], score[~truth]) if both else float("nan")
        rows.append(_shadow_row(r, "mia.auc", area, name))
    return rows


def _equal_rows(
    member: np.ndarray, nonmember: np.ndarray, common: Mapping[str, Any], attack: str
) -> list[dict[str, Any]]:
    broken = not (np.isfinite(member).all() and np.isfinite(nonmember).all())
    return [
        {
            **common,
            "attack": attack,
            "metric": metric,
            "value": float("nan") if broken else fn(member, nonmember),
        }
        for metric, fn in (("mia.auc", auc), ("mia.attacker_advantage", advantage))
    ]


def attack_training(
    X: ArrayLike,
    y: ArrayLike,
    configs: Mapping[float, dpsgd.Config],
    *,
    seed: int,
    replicates: int,
    workers: int = 1,
) -> pd.DataFrame:
    """Loss attack on DP training at stated budgets, on the splits of `attack_synthetic`.

    Parameters
    ----------
    X, y : arrays
    configs : mapping from epsilon to Config
        They may differ in noise_multiplier and clip.

    Returns
    -------
    DataFrame: mechanism ("dp-sgd"), epsilon, attack, replicate, metric (``mia.auc``,
    ``mia.attacker_advantage``, ``score.test``), value.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    x, target = np.asarray(X, dtype=float), np.asarray(y)
    streams = _children(seed, replicates, 3)
    splits = [report_split(len(target), np.random.default_rng(s[0])) for s in streams]
    masks = np.zeros((replicates, len(target)), bool)
    for r, split in enumerate(splits):
        masks[r, split.train] = True
    done = dpsgd.train(
        x,
        target,
        [c for c in configs.values() for _ in range(replicates)],
        seeds=[s[1] for s in streams] * len(configs),
        members=np.tile(masks, (len(configs), 1)),
        curve_every=0,
        workers=workers,
    )
    statistic = signed_logits(done.predict(x), target)
    for i, epsilon in enumerate(configs):
        for r, split in enumerate(splits):
            at = i * replicates + r
            own = np.where(done.diverged[at], np.nan, statistic[at])
            common = {"mechanism": "dp-sgd", "epsilon": float(epsilon), "replicate": r}
            rows += _equal_rows(own[split.train], own[split.test], common, "loss of the network")
            hit = float("nan") if done.diverged[at] else float((own[split.test] > 0).mean())
            rows.append({**common, "attack": "", "metric": "score.test", "value": hit})
    return pd.DataFrame(rows)


def attack_synthetic(
    frame: pd.DataFrame,
    *,
    target: str,
    epsilons: Sequence[float],
    config: dpsgd.Config,
    seed: int,
    replicates: int,
    **how: Any,
) -> pd.DataFrame:
    """Attack synthetic tables, and a network trained on them, at stated budgets.

    Three attackers: the distance to the closest synthetic row, a density ratio against the
    validation records (which nothing was made from), and the loss of a network that was trained on
    the synthetic table without further noise.

    Parameters
    ----------
    frame : DataFrame
    target : str
        As in `data.positives`.
    epsilons : sequence of float
        Budgets; inf gives the members themselves as the "synthetic" table, the worst case.
    config : Config
        Of the network, without noise.
    seed, replicates : int
    **how
        Passed to `synth.synthesise`: mechanism, method, delta, domain, ...

    Returns
    -------
    DataFrame: mechanism, epsilon, attack, replicate, metric, value.
    """
    import pandas as pd

    from pet_lab import data, synth

    table = data.binarise(frame, target)
    original = data.encode(table, target=target)
    x, y = scaled(original.X), original.y
    rows: list[dict[str, Any]] = []
    for r, streams in enumerate(_children(seed, replicates, 3)):
        split = report_split(len(y), np.random.default_rng(streams[0]))
        for k, epsilon in enumerate(epsilons):
            if math.isinf(epsilon):
                made_x, made_y = x[split.train], y[split.train]
            else:
                child = np.random.SeedSequence(
                    entropy=streams[2].entropy, spawn_key=(*streams[2].spawn_key, k)
                )
                made = synth.synthesise(
                    table.iloc[split.train].reset_index(drop=True),
                    epsilon=float(epsilon),
                    rng_seed=int(child.generate_state(1)[0]),
                    **how,
                )
                coded = data.encode(made.frame, target=target, like=original)
                made_x, made_y = scaled(coded.X, original.X), coded.y
            common = {
                "mechanism": str(how.get("mechanism", "mst")),
                "epsilon": float(epsilon),
                "replicate": r,
            }
            with_target = np.column_stack([x, y])
            released = np.column_stack([made_x, made_y])
            near = tables.closeness_scores(with_target, released)
            ratio = tables.density_ratio_scores(
                with_target, released, with_target[split.validation]
            )
            done = dpsgd.train(made_x, made_y, config, seeds=[streams[1]], curve_every=0)
            loss = np.where(done.diverged[0], np.nan, signed_logits(done.predict(x)[0], y))
            for name, s in (
                ("distance to the table", near),
                ("density ratio", ratio),
                ("loss of the network", loss),
            ):
                rows += _equal_rows(s[split.train], s[split.test], common, name)
            hit = float((loss[split.test] > 0).mean()) if not done.diverged[0] else float("nan")
            rows.append({**common, "attack": "", "metric": "score.test", "value": hit})
    return pd.DataFrame(rows)
