"""LiRA on DP training, and what it proves about epsilon beside what the accountant claims.

Every training sees a random half of the records; each is the target in turn with all others as its
shadows (arXiv:2112.03570), and together they audit the claim (arXiv:2006.07709, 2305.08846).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import numpy as np
import pandas as pd

from pet_lab import accounting, checks, dpsgd, mia
from pet_lab import agreement as beside
from pet_lab.dpsgd.config import Engine
from pet_lab.rows import Claim, Rows, claims, concat, wide

LABELS = {
    "epsilon": "ε",
    "lira.auc": "AUC of LiRA",
    "score.others": "accuracy on other records",
    "noise_multiplier": "noise multiplier",
}
ATTACK = "LIRA_online_fixed"
LOSS = "LOSS_THRESHOLD"
RATES = (0.001, 0.01, 0.1)
BOUNDS = {
    "claimed": "claimed: at most this",
    "most_exposed_record": "proven: at least this (most exposed record)",
    "the_same_Gaussian": "proven, if its trade-off is Gaussian",
    "one_run_median": "proven by one run (median)",
    "provable_at_most": "the most that so many trainings could prove",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Settings:
    """What is run; parameters that cannot go together are refused before anything is trained.

    `models` trainings of each kind, on random halves of the records (X, shape (n, d), and y, 0 or
    1); `base` is how they are trained, but for the noise. `library_runs` of each kind are trained by
    tensorflow-privacy too.
    """

    X: np.ndarray
    y: np.ndarray
    base: dpsgd.Config
    noise_multipliers: Sequence[float]
    models: int
    delta: float
    engine: Engine = "batched"
    library_runs: int = 0
    seed: int

    def __post_init__(self) -> None:
        checks.whole(16, models=self.models)
        checks.whole(0, seed=self.seed, library_runs=self.library_runs)
        checks.one_of(get_args(Engine), engine=self.engine)
        checks.distinct(noise_multipliers=self.noise_multipliers)
        for noise in self.noise_multipliers:
            checks.between(0, 1000, noise_multiplier=noise)
        size, half = self.base.batch_size or 1, len(self.y) // 2
        mia.check_plan(self.y, batch_size=size, members=half, delta=self.delta)

    @property
    def checked(self) -> bool:
        """Whether tensorflow-privacy trains beside our engine."""
        return self.library_runs > 0 and self.engine == "batched"

    @property
    def trainings(self) -> dict[str, dpsgd.Config]:
        """By name: without DP, with clipping only (noise 0), with noise."""
        return {"no DP": replace(self.base, clip=math.inf)} | {
            f"noise {z:g}" if z else "clipping only": replace(self.base, noise_multiplier=z)
            for z in self.noise_multipliers
        }


@dataclass(frozen=True)
class Attacked:
    """Trainings on random halves and the attack's score of every record in each of them.

    config  settings of the trainings
    coins   their statistics and members
    scores  attack ("LIRA_online_fixed", ..., "LOSS_THRESHOLD") to scores, shape (models, n)
    failed  attacks that could not run, whose scores are NaN, and why
    """

    config: dpsgd.Config
    coins: mia.Coins
    scores: Mapping[str, np.ndarray]
    failed: Mapping[str, str] = field(default_factory=dict)

    def guarantee(self, delta: float) -> accounting.Guarantee:
        """What the accountant claims for the training that is protected least.

        Not always the smallest: one record more can mean one more step in every epoch. At equal
        steps the smallest is the worst, since each record is drawn more often.
        """
        sizes = sorted(map(int, self.coins.member.sum(axis=1)), reverse=True)
        smallest = {self.config.steps_per_epoch(n): n for n in sizes}
        how: dict[str, Any] = {"delta": delta, "accountant": "pld"}
        claims = [accounting.of(self.config, n=n, **how) for n in smallest.values()]
        return max(claims, key=lambda claim: claim.epsilon)


def attack(s: Settings) -> dict[str, Attacked]:
    """The trainings of each kind on the same coins, and LiRA in four variants."""
    attacked = {}
    for name, config in s.trainings.items():
        how: dict[str, Any] = {"models": s.models, "seed": s.seed, "engine": s.engine}
        coins = mia.coin_trainings(s.X, s.y, config, **how)
        all_lost = f"All {s.models} trainings ({name}) diverged; lower learning_rate or clip."
        checks.require(len(coins.member), all_lost)
        scores, failed = {}, {}
        for online in (True, False):
            for variance in ("fixed", "per-example"):
                label = f"LIRA_{'online' if online else 'offline'}_{variance}"
                try:
                    scores[label] = mia.lira_leave_one_out(
                        coins.statistics, coins.member, online=online, variance=variance
                    )
                except ValueError as error:  # too few models on a side
                    scores[label] = np.full(coins.member.shape, np.nan)
                    failed[label] = str(error)
        attacked[name] = Attacked(config, coins, scores | {LOSS: coins.statistics}, failed)
    return attacked


def measure(attacked: Mapping[str, Attacked], *, delta: float, seed: int) -> pd.DataFrame:
    """Rows: training, noise_multiplier, attack, replicate, status, metric, value.

    By target: lira.auc (threshold.auc for the loss threshold), score.gap and score.others. Over all
    targets: pooled.auc and pooled.tpr_at_*, where there are enough non-members for the rate. Over
    all trainings: audit.*, upper and lower bounds on epsilon at 95 % confidence. What could not run
    is NaN, and `status` says why.
    """
    rows, rng = Rows(), np.random.default_rng(seed)
    for name, run in attacked.items():
        coins = run.coins
        noise = run.config.noise_multiplier if run.config.private else 0.0
        factors: dict[str, Any] = {"training": name, "noise_multiplier": noise}
        for label, scores in run.scores.items():
            metric = "threshold.auc" if label == LOSS else "lira.auc"
            sides = coins.pooled(scores)
            rates = [f for f in RATES if f * len(sides[1]) > 1]
            names = [*(f"pooled.tpr_at_{f:g}" for f in rates), "pooled.auc"]
            if failure := run.failed.get(label):
                areas, pooled = [math.nan] * len(scores), dict.fromkeys(names, math.nan)
            else:
                areas, curve = coins.areas(scores), mia.roc(*sides)
                values = [*map(curve.tpr_at, rates), mia.auc(*sides)]
                pooled = dict(zip(names, values, strict=True))
            place: dict[str, Any] = {"attack": label, "status": failure or "ok", **factors}
            for r, area in enumerate(areas):
                rows.add(replicate=r, metrics={metric: area}, **place)
            rows.add(metrics=pooled, **place)
        own, held_out = coins.accuracy(members=True), coins.accuracy(members=False)
        for r, (inside, outside) in enumerate(zip(own, held_out, strict=True)):
            score = {"score.gap": inside - outside, "score.others": outside}
            rows.add(attack="", replicate=r, status="ok", metrics=score, **factors)
        audit = dict.fromkeys(BOUNDS, math.nan) | {"claimed": run.guarantee(delta).epsilon}
        audit |= {"diverged": coins.diverged, "one_class": coins.one_class}
        status = "ok"
        try:
            bound = mia.most_exposed_bound(coins.statistics, coins.member, delta=delta, rng=rng)
            audit["most_exposed_record"] = bound.epsilon
            audit["the_same_Gaussian"] = bound.gaussian_epsilon
            audit["provable_at_most"] = bound.ceiling
            pairs = zip(run.scores[ATTACK], coins.member, strict=True)
            single = [mia.one_run_epsilon_lower_bound(s, m, delta=delta) for s, m in pairs]
            audit["one_run_median"] = float(np.median(single))
        except ValueError as error:  # too few trainings or records are left
            status = str(error)
        metrics = {f"audit.{k}": v for k, v in audit.items()}
        rows.add(attack="", status=status, metrics=metrics, **factors)
    return rows.frame()


def agreement(s: Settings, attacked: Mapping[str, Attacked]) -> pd.DataFrame:
    """Our trainings beside `library_runs` by tensorflow-privacy: see `pet_lab.agreement`.

    Of each training accuracy on members and on other records, and the AUC of the loss threshold.
    """
    rows = Rows()
    how: dict[str, Any] = {"models": s.library_runs, "seed": s.seed, "engine": beside.TFP}
    for name, config in s.trainings.items():
        theirs = mia.coin_trainings(s.X, s.y, config, **how)
        for suffix, coins in (("", attacked[name].coins), (f", {beside.TFP}", theirs)):
            own: dict[str, Any] = {
                "training": name + suffix,
                "noise_multiplier": config.noise_multiplier,
            }
            values = pd.DataFrame(
                {
                    "accuracy on members": coins.accuracy(members=True),
                    "accuracy on others": coins.accuracy(members=False),
                    "AUC of the loss threshold": coins.areas(coins.statistics),
                }
            )
            for r in range(len(values)):
                rows.add(replicate=r, metrics=dict(values.iloc[r]), **own)
    libraries = dict.fromkeys(s.trainings, beside.TFP)
    return beside.agreement(rows.frame(), libraries, column="training", by=["noise_multiplier"])


def engines(s: Settings) -> pd.DataFrame:
    """`dpsgd.agreement` for the last training, on all records."""
    *_, config = s.trainings.values()
    return dpsgd.agreement(s.X, s.y, config, seed=s.seed, delta=s.delta)


def privacy(attacked: Mapping[str, Attacked], *, delta: float) -> list[str]:
    """The guarantee of each private training in words."""
    private = {name: run for name, run in attacked.items() if run.config.private}
    return [f"{name}: {run.guarantee(delta)}" for name, run in private.items()]


def curves(attacked: Mapping[str, Attacked]) -> pd.DataFrame:
    """ROC of LiRA on each training and of the loss threshold without DP: attack, fpr, tpr."""
    parts = []
    for name, label in [*((name, ATTACK) for name in attacked), ("no DP", LOSS)]:
        run = attacked[name]
        if label not in run.failed:
            frame = mia.roc(*run.coins.pooled(run.scores[label])).frame()
            attack_on = f"{'loss threshold' if label == LOSS else 'LiRA'}, {name}"
            parts.append(frame.assign(attack=attack_on))
    return pd.concat(parts, ignore_index=True)


def _table(rows: pd.DataFrame, prefix: str, index: list[str]) -> pd.DataFrame:
    part = rows[rows["metric"].str.startswith(prefix)]
    return wide(part, index=index).rename(columns=lambda c: c.removeprefix(prefix))


def strength(rows: pd.DataFrame) -> pd.DataFrame:
    """AUC and true positive rates over all targets, one line per training and attack."""
    return _table(rows, "pooled.", ["training", "attack"])


def bounds(rows: pd.DataFrame) -> pd.DataFrame:
    """The audit as a table: one line per training, one column per bound."""
    return _table(rows, "audit.", ["training", "noise_multiplier"])


def bound_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The same as rows to draw: training, bound (in words), metric "epsilon"; finite ones."""
    kind = rows["metric"].str.removeprefix("audit.")
    part = rows[rows["metric"].str.startswith("audit.") & kind.isin(BOUNDS)]
    part = part.assign(bound=kind.map(BOUNDS), metric="epsilon")
    return part[np.isfinite(part["value"])]


def overfitting(rows: pd.DataFrame) -> pd.DataFrame:
    """By training: means over targets, and how LiRA and the loss threshold follow the gap."""
    chosen = rows[rows["attack"].isin([ATTACK, LOSS]) | rows["metric"].str.startswith("score.")]
    chosen = chosen[~chosen["metric"].str.startswith("pooled.")]
    lines = []
    for name, part in chosen.groupby("training", sort=False):
        by = part.pivot(index="replicate", columns="metric", values="value")
        line = {"training": name, **by.mean()}
        line["correlation of gap and LiRA"] = by["score.gap"].corr(by["lira.auc"])
        line["correlation of gap and loss threshold"] = by["score.gap"].corr(by["threshold.auc"])
        lines.append(line)
    return pd.DataFrame(lines)


def headline(rows: pd.DataFrame) -> Claim:
    """What LiRA reaches without DP and under the strongest noise."""
    area = overfitting(rows).set_index("training")["lira.auc"]
    sentence = "LiRA tells members from others with an AUC of {area[no DP]:.2f} without DP and {quiet:.2f} at {name}."
    return Claim(sentence, area=area, quiet=area.iloc[-1], name=area.index[-1])


def takeaways(rows: pd.DataFrame) -> list[Claim]:
    """What these rows bear out."""
    power = strength(rows).set_index(["training", "attack"]).loc["no DP"]
    rate = next(c for c in power.columns if c.startswith("tpr"))
    lira, loss = power.loc[ATTACK], power.loc[LOSS]
    over, audit = overfitting(rows).set_index("training"), bounds(rows).set_index("training")
    proven = audit[["most_exposed_record", "one_run_median"]].max(axis=1)
    plain, last = over.iloc[0], over.iloc[-1]
    by_loss, by_lira = (plain[f"correlation of gap and {k}"] for k in ("loss threshold", "LiRA"))
    sentences = [
        ("Without DP LiRA is the stronger attack: AUC {lira[auc]:.2f} against {loss[auc]:.2f} of the loss threshold; among "
         "others wrongly accused at a rate of {rate} it names {a:.1%} of the members against {b:.1%}.",
         lira["auc"] > loss["auc"]),
        ("Noise stops it at a price: from no DP to {last.name}, LiRA's AUC falls from {plain[lira.auc]:.2f} to "
         "{last[lira.auc]:.2f} and the accuracy on other records from {plain[score.others]:.2f} to {last[score.others]:.2f}.",
         all(plain[k] > last[k] for k in ("lira.auc", "score.others"))),
        ("No attack proves a larger ε than the accountant claims.", not (proven > audit["claimed"]).any(),
         "An attack proves a larger ε than is claimed: chance (5 % per bound), or the claim or the program is wrong."),
        ("Without DP the loss threshold follows the accuracy gap over trainings (correlation {by_loss:.2f}), LiRA less "
         "({by_lira:.2f}): it allows for how easy a record is.", by_loss > abs(by_lira),
         "Without DP the attacks follow the accuracy gap over trainings with correlations {by_loss:.2f} (loss "
         "threshold) and {by_lira:.2f} (LiRA)."),
    ]  # fmt: skip
    rates = {"rate": rate.removeprefix("tpr_at_"), "a": lira[rate], "b": loss[rate]}
    values = {"lira": lira, "loss": loss, "plain": plain, "last": last, **rates}
    shown = claims(sentences, by_loss=by_loss, by_lira=by_lira, **values)
    lies = "{name}: ε lies between {low:.2f} (proven) and {line[claimed]:.1f} (claimed)"
    most = "{line[provable_at_most]:.2f}"
    for name, line in audit[np.isfinite(audit["claimed"])].iterrows():
        sentence = (
            f"{lies}. So few trainings could prove {most} at most: the gap above that says nothing of the attack or the accountant.",
            line["claimed"] > line["provable_at_most"],
            f"{lies}, and so many trainings could have proved up to {most}.",
        )
        shown += claims([sentence], name=str(name).capitalize(), low=proven[name], line=line)
    return shown


def what_if(
    s: Settings, rows: pd.DataFrame, *, noise: float, epochs: int, batch_size: int, trainings: int
) -> tuple[pd.DataFrame, Claim]:
    """What a training would claim, and so many trainings could prove: behind the explore panel."""
    config = replace(s.base, noise_multiplier=noise, epochs=epochs, batch_size=batch_size)
    claimed = accounting.of(config, n=len(s.y) // 2, delta=s.delta, accountant="pld").epsilon
    trials = trainings // 4  # half of them choose the record, half of the others hold it
    perfect = mia.epsilon_lower_bound(
        np.ones(trials), np.zeros(trials), delta=s.delta, rng=np.random.default_rng(s.seed)
    )
    here = Rows(training="this setting")
    for name, value in {"claimed": claimed, "provable_at_most": perfect.ceiling}.items():
        here.add(bound=BOUNDS[name], metrics={"epsilon": value})
    ran = bound_rows(rows)[["training", "bound", "metric", "value"]]
    claim = Claim(
        "At noise {noise:g} the accountant claims ε = {claimed:.2f}; {trainings} trainings can prove {most:.2f} at most, so an "
        "attack cannot refute the claim, however good.",
        holds=claimed > perfect.ceiling,
        otherwise="At noise {noise:g} the accountant claims ε = {claimed:.2f}; {trainings} trainings could prove up to "
        "{most:.2f}, enough to refute a wrong claim.",
        noise=noise, claimed=claimed, trainings=trainings, most=perfect.ceiling,
    )  # fmt: skip
    return concat(ran, here.frame()).assign(replicate=0), claim


def provable(
    rows: pd.DataFrame,
    *,
    training: str,
    trainings: int,
    caught: float,
    accused: float,
    delta: float,
) -> tuple[pd.DataFrame, Claim]:
    """What an attack of these rates would prove of a training: behind the explore panel.

    `caught` and `accused` are the shares of models with and without the record that it calls in. A
    quarter of the trainings are on each side, as in `measure`, and the threshold is fixed.
    """
    n = trainings // 4
    sides = (np.arange(n) < round(share * n) for share in (caught, accused))
    bound = mia.epsilon_lower_bound(*(s.astype(float) for s in sides), delta=delta, threshold=0.5)
    ran = bound_rows(rows)[["training", "bound", "metric", "value"]]
    claimed = ran.loc[
        (ran["training"] == training) & (ran["bound"] == BOUNDS["claimed"]), "value"
    ].max()
    claim = Claim(
        "From {trainings} trainings such an attack proves ε ≥ {proven:.2f}, more than the {claimed:.2f} "
        "claimed of {training}: the claim would be wrong.",
        holds=bound.epsilon > claimed,
        otherwise="From {trainings} trainings such an attack proves ε ≥ {proven:.2f}, which does not "
        "refute the {claimed:.2f} claimed of {training}; the most that so many could prove is "
        "{most:.2f}.",
        trainings=trainings,
        proven=bound.epsilon,
        claimed=claimed,
        training=training,
        most=bound.ceiling,
    )
    line = {
        "training": "this attack",
        "bound": "proven",
        "metric": "epsilon",
        "value": bound.epsilon,
    }
    return concat(ran, pd.DataFrame([line])).assign(replicate=0), claim
