"""DP training and DP data attacked at equal epsilon, on equal hold-outs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from pet_lab import accounting, data, dpsgd, mia, synth
from pet_lab.rows import Claim, Rows, concat, summarise

if TYPE_CHECKING:
    import pandas as pd

LABELS = {
    "epsilon": "ε",
    "mia.auc": "AUC of the attack",
    "score.test": "test accuracy",
    "attacked": "attack on",
}


LOSS = "loss of the network"
TABLE_ATTACKS = ("distance to the table", "density ratio", LOSS)
DIVERGED = "the training diverged"


def budgets(
    epsilons: Sequence[float], base: dpsgd.Config, *, n: int, delta: float
) -> dict[float, dpsgd.Config]:
    """Settings of DP-SGD that spend each epsilon on `n` members (PLD accountant), and ∞.

    For ∞ there is no noise, and a clip that no gradient reaches.
    """
    size: dict[str, Any] = {
        "n": n,
        "batch_size": base.batch_size,
        "epochs": base.epochs,
        "delta": delta,
    }
    how: dict[str, Any] = {"sampling": base.sampling, "accountant": "pld"}
    return {
        e: replace(base, noise_multiplier=accounting.noise_for(e, **size, **how)) for e in epsilons
    } | {math.inf: replace(base, clip=1e6)}


def check(
    y: np.ndarray,
    *,
    replicates: int,
    data_replicates: int,
    epochs: int,
    batch_size: int,
    delta: float,
    epsilons: Sequence[float],
) -> None:
    """Refuse parameters that cannot go together before anything is trained."""
    mia.check_plan(
        y,
        batch_size=batch_size,
        members=mia.report_split(max(len(y), 6), np.random.default_rng(0)).train.size,
        delta=delta,
        at_least={
            "replicates": (replicates, 1),
            "data_replicates": (data_replicates, 1),
            "epochs": (epochs, 1),
        },
        epsilons=epsilons,
    )
    if min(epsilons) <= 0:
        raise ValueError(f"epsilons are above 0, got {min(epsilons):g}; leave it out.")


def _attack(rows: Rows, scores: np.ndarray, split: mia.Split, name: str, **factors: Any) -> None:
    members, others = scores[split.train], scores[split.test]
    nan = not (np.isfinite(members).all() and np.isfinite(others).all())
    metrics = {"mia.auc": mia.auc, "mia.attacker_advantage": mia.advantage}
    values = {k: math.nan if nan else f(members, others) for k, f in metrics.items()}
    rows.add(attack=name, metrics=values, **factors)


def attack_training(
    X: np.ndarray,
    y: np.ndarray,
    settings: dict[float, dpsgd.Config],
    *,
    seed: int,
    replicates: int,
) -> pd.DataFrame:
    """Loss attack on DP-SGD at each budget, on the hold-outs of `attack_synthetic`.

    Returns rows: mechanism ("dp-sgd"), epsilon, attack, replicate, metric (mia.auc,
    mia.attacker_advantage, score.test), value, status. NaN where `status` says why not.
    """
    rows = Rows(mechanism="dp-sgd")
    targets = mia.train_targets(X, y, list(settings.values()), seed=seed, replicates=replicates)
    for i, target in enumerate(targets):
        factors: dict[str, Any] = {
            "epsilon": list(settings)[i // replicates],
            "replicate": target.replicate,
        }
        scores = mia.signed_logits(target.logits, y)
        factors["status"] = target.status
        _attack(rows, scores, target.split, LOSS, **factors)
        score = target.accuracy(target.split.test, y)
        rows.add(attack="", metrics={"score.test": score}, **factors)
    return rows.frame()


def attack_synthetic(
    frame: pd.DataFrame,
    *,
    target: str,
    epsilons: Sequence[float],
    config: dpsgd.Config,
    seed: int,
    replicates: int,
    mechanism: str = "mst",
    **how: Any,
) -> pd.DataFrame:
    """Attack synthetic tables, and a network trained on them, at each budget; rows as above.

    Three attackers: the distance to the closest synthetic row, a density ratio against the
    validation records (which nothing was made from), and the loss of a network that was trained on
    the synthetic table without further noise. Epsilon inf gives the members themselves as the
    "synthetic" table, the worst case. `how` goes to `synth.synthesise`.
    """
    table = data.binarise(frame, target)
    original = data.encode(table, target=target)
    x, y = data.unit_range(original.X), original.y
    records = np.column_stack([x, y])
    rows = Rows(mechanism=mechanism)
    streams = mia.split_streams(len(y), seed=seed, replicates=replicates)
    for r, (split, training, tables) in enumerate(streams):
        for k, epsilon in enumerate(epsilons):
            factors: dict[str, Any] = {"epsilon": float(epsilon), "replicate": r}
            released_x, released_y = x[split.train], y[split.train]
            scores = {name: np.full(len(y), np.nan) for name in TABLE_ATTACKS}
            status = network = "ok"
            if math.isfinite(epsilon):
                child = np.random.SeedSequence(
                    entropy=tables.entropy, spawn_key=(*tables.spawn_key, k)
                )
                try:
                    released = synth.synthesise(
                        table.iloc[split.train].reset_index(drop=True),
                        epsilon=float(epsilon),
                        rng_seed=int(child.generate_state(1)[0]),
                        mechanism=mechanism,
                        **how,
                    )
                    coded = data.encode(released.frame, target=target, like=original)
                    released_x, released_y = data.unit_range(coded.X, original.X), coded.y
                except ValueError as error:
                    status = network = f"no table to attack: {error}"
            if status == "ok":
                released_rows = np.column_stack([released_x, released_y])
                outside = records[split.validation]
                near = mia.closeness_scores(records, released_rows)
                ratio = mia.density_ratio_scores(records, released_rows, outside)
                scores |= {"distance to the table": near, "density ratio": ratio}
                if released_y.min() == released_y.max():
                    network = mia.ONE_CLASS
                else:
                    trained = dpsgd.train(
                        released_x, released_y, config, seeds=[training], curve_every=0
                    )
                    network = DIVERGED if trained.diverged[0] else "ok"
                    if network == "ok":
                        scores[LOSS] = mia.signed_logits(trained.predict(x)[0], y)
            for name, values in scores.items():
                why = network if name == LOSS else status
                _attack(rows, values, split, name, status=why, **factors)
            right = scores[LOSS][split.test] > 0
            score = float(right.mean()) if network == "ok" else math.nan
            rows.add(attack="", status=network, metrics={"score.test": score}, **factors)
    return rows.frame()


def run(
    frame: pd.DataFrame,
    *,
    target: str,
    settings: dict[float, dpsgd.Config],
    seed: int,
    replicates: int,
    data_replicates: int,
    delta: float,
) -> pd.DataFrame:
    """Rows of both ways; `settings` from `budgets`."""
    encoded = data.encode(frame, target=target)
    common: dict[str, Any] = {"seed": seed, "replicates": max(replicates, data_replicates)}
    plain = replace(settings[math.inf], clip=math.inf, sampling="shuffle")
    return concat(
        attack_training(data.unit_range(encoded.X), encoded.y, settings, **common),
        attack_synthetic(
            frame,
            target=target,
            epsilons=list(settings),
            config=plain,
            seed=seed,
            replicates=data_replicates,
            method="sample",
            delta=delta,
        ),
    )


def privacy(settings: dict[float, dpsgd.Config], *, n: int, delta: float) -> list[str]:
    """The guarantees in words."""
    sentences = [
        f"DP-SGD: {accounting.of(config, n=n, delta=delta, accountant='pld')}"
        for config in settings.values()
        if config.private
    ]
    budgets = ", ".join(f"{e:g}" for e in settings if math.isfinite(e))
    return [*sentences, f"MST tables: epsilon = {budgets} at delta = {delta:g}, bins not counted."]


def attacked(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the attacks with one column for what is attacked and how."""
    part = rows[rows["attack"] != ""]
    return part.assign(attacked=part["mechanism"] + ": " + part["attack"])


def best(rows: pd.DataFrame) -> pd.DataFrame:
    """The largest mean AUC at finite budgets of each way, and out of how many tries."""
    part = attacked(rows[np.isfinite(rows["epsilon"]) & (rows["metric"] == "mia.auc")])
    means = summarise(part, ["mechanism", "attack", "epsilon"]).dropna(subset="mean")
    by = means.groupby("mechanism")["mean"]
    return means.assign(tries=by.transform("size")).loc[by.idxmax()].set_index("mechanism")


def headline(rows: pd.DataFrame) -> Claim:
    """One sentence: the best attack on either way at finite budgets."""
    top = best(rows)["mean"].reindex(["dp-sgd", *set(rows["mechanism"]) - {"dp-sgd"}])
    return Claim(
        "At equal finite budgets the best attack reaches an AUC of {training:.2f} on DP training "
        "and of {tables:.2f} on DP data (largest mean over attacks and budgets).",
        training=top.iloc[0],
        tables=top.iloc[-1],
    )


def takeaways(rows: pd.DataFrame, *, base_rate: float) -> list[Claim]:
    """What these rows bear out."""
    claims = []
    for mechanism, line in best(rows).iterrows():
        width = stats.t.isf(0.025 / line["tries"], line["n"] - 1) * line["se"]
        claims.append(
            Claim(
                "On {mechanism} {attack} at ε = {epsilon:g} does better than guessing: AUC "
                "{mean:.2f} ± {width:.2f}, the best of {tries} allowed for.",
                holds=line["mean"] - width > 0.5,
                otherwise="On {mechanism} no attack is shown to do better than guessing at a "
                "finite budget: the best of {tries}, {attack} at ε = {epsilon:g}, has AUC "
                "{mean:.2f} ± {width:.2f}.",
                mechanism=mechanism,
                width=width,
                **line[["attack", "epsilon", "mean", "tries"]],
            )
        )
    worst = rows[np.isinf(rows["epsilon"]) & rows["attack"].eq("distance to the table")]
    distance = worst[worst["metric"] == "mia.auc"]["value"].mean()
    claims.append(
        Claim(
            "Releasing the members themselves gives them away: the distance to the table has an "
            "AUC of {area:.2f}.",
            holds=distance > 0.9,
            area=distance,
        )
    )
    scores = rows[np.isfinite(rows["epsilon"]) & (rows["metric"] == "score.test")]
    for epsilon, part in scores.groupby("epsilon"):
        means = part.groupby("mechanism")["value"].mean()
        claims.append(
            Claim(
                "At ε = {epsilon:g} a network beats the base rate of {base:.2f}: test accuracy "
                "{values}.",
                holds=bool((means > base_rate).any()),
                otherwise="At ε = {epsilon:g} no network beats the base rate of {base:.2f}: test "
                "accuracy {values}.",
                epsilon=epsilon,
                base=base_rate,
                values=", ".join(f"{v:.2f} by {k}" for k, v in means.items()),
            )
        )
    return claims
