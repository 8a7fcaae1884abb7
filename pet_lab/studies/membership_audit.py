"""LiRA on DP training, and what it proves about epsilon beside what the accountant claims.

Every training sees a random half of the records; each is the target in turn with all others as its
shadows (arXiv:2112.03570), and together they audit the claim (arXiv:2006.07709, 2305.08846).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pet_lab import accounting, dpsgd, mia
from pet_lab.rows import Claim, Rows, summarise, wide

if TYPE_CHECKING:
    import pandas as pd

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


def settings(noise_multipliers: Sequence[float], base: dpsgd.Config) -> dict[str, dpsgd.Config]:
    """Trainings to attack, by name: without DP, with clipping only (noise 0), with noise."""
    return {"no DP": replace(base, clip=float("inf"))} | {
        f"noise {z:g}" if z else "clipping only": replace(base, noise_multiplier=z)
        for z in noise_multipliers
    }


def check(
    y: np.ndarray, *, models: int, epochs: int, batch_size: int, delta: float, **lists: Any
) -> None:
    """Refuse parameters that cannot go together before anything is trained; `lists` by name."""
    needed = {"models": (models, 16), "epochs": (epochs, 1)}
    half = len(y) // 2
    mia.check_plan(y, batch_size=batch_size, members=half, delta=delta, at_least=needed, **lists)


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

    def pooled(self, attack: str) -> tuple[np.ndarray, np.ndarray]:
        """Scores of all members and of all non-members, over all targets."""
        return self.scores[attack][self.coins.member], self.scores[attack][~self.coins.member]


def attack(
    X: np.ndarray, y: np.ndarray, trainings: Mapping[str, dpsgd.Config], *, models: int, seed: int
) -> dict[str, Attacked]:
    """`models` trainings of each setting on the same coins, and LiRA in four variants."""
    attacked = {}
    for name, config in trainings.items():
        coins = mia.coin_trainings(X, y, config, models=models, seed=seed)
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
        config, coins = run.config, run.coins
        noise = config.noise_multiplier if config.private else 0.0
        factors: dict[str, Any] = {"training": name, "noise_multiplier": noise}
        for label, scores in run.scores.items():
            metric = "threshold.auc" if label == LOSS else "lira.auc"
            failure = run.failed.get(label)
            place: dict[str, Any] = {"attack": label, "status": failure or "ok", **factors}
            for r, (s, m) in enumerate(zip(scores, coins.member, strict=True)):
                area = math.nan if failure else mia.auc(s[m], s[~m])
                rows.add(replicate=r, metrics={metric: area}, **place)
            members, others = run.pooled(label)
            pooled = {
                f"pooled.tpr_at_{f:g}": math.nan
                if failure
                else mia.tpr_at_fpr(members, others, fpr=f)
                for f in RATES
                if f * len(others) > 1
            }
            pooled["pooled.auc"] = math.nan if failure else mia.auc(members, others)
            rows.add(metrics=pooled, **place)
        own, held_out = coins.accuracy(members=True), coins.accuracy(members=False)
        for r, (inside, outside) in enumerate(zip(own, held_out, strict=True)):
            score = {"score.gap": inside - outside, "score.others": outside}
            rows.add(attack="", replicate=r, status="ok", metrics=score, **factors)
        audit = dict.fromkeys([*BOUNDS, "diverged", "one_class"], math.nan)
        audit |= {"diverged": coins.diverged, "one_class": coins.one_class}
        audit["claimed"] = guarantee(run, delta=delta).epsilon
        status = "ok"
        try:
            bound = mia.most_exposed_bound(coins.statistics, coins.member, delta=delta, rng=rng)
            audit["most_exposed_record"] = bound.epsilon
            audit["the_same_Gaussian"] = bound.gaussian_epsilon
            audit["provable_at_most"] = bound.ceiling
            single = [
                mia.one_run_epsilon_lower_bound(s, m, delta=delta)
                for s, m in zip(run.scores[ATTACK], coins.member, strict=True)
            ]
            audit["one_run_median"] = float(np.median(single))
        except ValueError as error:  # too few trainings or records are left
            status = str(error)
        metrics = {f"audit.{k}": v for k, v in audit.items()}
        rows.add(attack="", status=status, metrics=metrics, **factors)
    return rows.frame()


def guarantee(run: Attacked, *, delta: float) -> accounting.Guarantee:
    """What the accountant claims for the training that is protected least.

    Not always the smallest: one record more can mean one more step in every epoch. At equal steps
    the smallest is the worst, since each record is drawn more often.
    """
    smallest: dict[int, int] = {}
    for n in sorted(map(int, run.coins.member.sum(axis=1)), reverse=True):
        smallest[run.config.steps_per_epoch(n)] = n
    claims = [
        accounting.of(run.config, n=n, delta=delta, accountant="pld") for n in smallest.values()
    ]
    return max(claims, key=lambda claim: claim.epsilon)


def privacy(attacked: Mapping[str, Attacked], *, delta: float) -> list[str]:
    """The guarantee of each private training in words."""
    return [
        f"{name}: {guarantee(run, delta=delta)}"
        for name, run in attacked.items()
        if run.config.private
    ]


def curves(attacked: Mapping[str, Attacked]) -> pd.DataFrame:
    """ROC of LiRA on each training and of the loss threshold without DP: attack, fpr, tpr."""
    import pandas as pd

    pairs = [(name, ATTACK) for name in attacked] + [("no DP", LOSS)]
    parts = []
    for name, label in pairs:
        if label in attacked[name].failed:
            continue
        curve = mia.roc(*attacked[name].pooled(label))
        attack_on = f"{'loss threshold' if label == LOSS else 'LiRA'}, {name}"
        parts.append(curve.frame(floor=curve.smallest_fpr).assign(attack=attack_on))
    return pd.concat(parts, ignore_index=True)


def strength(rows: pd.DataFrame) -> pd.DataFrame:
    """AUC and true positive rates over all targets, one line per training and attack."""
    part = rows[rows["metric"].str.startswith("pooled.")]
    table = wide(part, index=["training", "attack"])
    return table.rename(columns=lambda c: c.removeprefix("pooled."))


def overfitting(rows: pd.DataFrame) -> pd.DataFrame:
    """By training: means over targets, and how LiRA and the loss threshold follow the gap."""
    import pandas as pd

    chosen = rows[rows["attack"].isin([ATTACK, LOSS]) | rows["metric"].str.startswith("score.")]
    chosen = chosen[~chosen["metric"].str.startswith("pooled.")]
    table = {}
    for name, part in chosen.groupby("training", sort=False):
        by = part.pivot(index="replicate", columns="metric", values="value")
        table[name] = {
            **by.mean().to_dict(),
            "correlation of gap and LiRA": by["score.gap"].corr(by["lira.auc"]),
            "correlation of gap and loss threshold": by["score.gap"].corr(by["threshold.auc"]),
        }
    return pd.DataFrame(table).T.rename_axis("training").reset_index()


def bounds(rows: pd.DataFrame) -> pd.DataFrame:
    """The audit as a table: one line per training, one column per bound."""
    part = rows[rows["metric"].str.startswith("audit.")]
    table = wide(part, index=["training", "noise_multiplier"])
    return table.rename(columns=lambda c: c.removeprefix("audit."))


def bound_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The same as rows to draw: training, bound (in words), metric "epsilon"; finite ones."""
    kind = rows["metric"].str.removeprefix("audit.")
    part = rows[rows["metric"].str.startswith("audit.") & kind.isin(BOUNDS)]
    part = part.assign(bound=kind.map(BOUNDS), metric="epsilon")
    return part[np.isfinite(part["value"])]


def headline(rows: pd.DataFrame) -> Claim:
    """What LiRA reaches without DP and under the strongest noise."""
    means = summarise(rows[rows["metric"].eq("lira.auc") & rows["attack"].eq(ATTACK)], "training")
    area = means.set_index("training")["mean"]
    return Claim(
        "LiRA tells members from others with an AUC of {plain:.2f} without DP and {quiet:.2f} at "
        "{name}.",
        plain=area["no DP"],
        quiet=area.iloc[-1],
        name=area.index[-1],
    )


def takeaways(rows: pd.DataFrame) -> list[Claim]:
    """What these rows bear out."""
    power = strength(rows)
    power = power[power["training"] == "no DP"].drop(columns="training").set_index("attack")
    rate = next(c for c in power.columns if c.startswith("tpr"))
    with_lira, with_loss = (power.T[attack] for attack in (ATTACK, LOSS))
    over, audit = overfitting(rows).set_index("training"), bounds(rows).set_index("training")
    finite = audit[np.isfinite(audit["claimed"])]
    proven = audit[["most_exposed_record", "one_run_median"]].max(axis=1)
    plain, last = over.iloc[0], over.iloc[-1]
    claims = [
        Claim(
            "Without DP LiRA is the stronger attack: AUC {lira:.2f} against {loss:.2f} of the loss "
            "threshold; among others wrongly accused at a rate of {rate} it names {a:.1%} of the "
            "members against {b:.1%}.",
            holds=with_lira["auc"] > with_loss["auc"],
            lira=with_lira["auc"],
            loss=with_loss["auc"],
            rate=rate.removeprefix("tpr_at_"),
            a=with_lira[rate],
            b=with_loss[rate],
        ),
        Claim(
            "Noise stops it at a price: from no DP to {name}, LiRA's AUC falls from {a:.2f} to "
            "{b:.2f} and the accuracy on other records from {c:.2f} to {d:.2f}.",
            holds=plain["lira.auc"] > last["lira.auc"]
            and plain["score.others"] > last["score.others"],
            name=over.index[-1],
            a=plain["lira.auc"],
            b=last["lira.auc"],
            c=plain["score.others"],
            d=last["score.others"],
        ),
        Claim(
            "No attack proves a larger ε than the accountant claims.",
            holds=not bool((proven > audit["claimed"]).any()),
            otherwise="An attack proves a larger ε than is claimed: chance (5 % per bound), or the "
            "claim or the program is wrong.",
        ),
        Claim(
            "Without DP the loss threshold follows the accuracy gap over trainings (correlation "
            "{loss:.2f}), LiRA less ({lira:.2f}): it allows for how easy a record is.",
            holds=plain["correlation of gap and loss threshold"]
            > abs(plain["correlation of gap and LiRA"]),
            otherwise="Without DP the attacks follow the accuracy gap over trainings with "
            "correlations {loss:.2f} (loss threshold) and {lira:.2f} (LiRA).",
            loss=plain["correlation of gap and loss threshold"],
            lira=plain["correlation of gap and LiRA"],
        ),
    ]
    for name, line in finite.iterrows():
        claims.append(
            Claim(
                "{name}: ε lies between {low:.2f} (proven) and {claimed:.1f} (claimed). So few "
                "trainings could prove {ceiling:.2f} at most: the gap above that says nothing of "
                "the attack or the accountant.",
                holds=line["claimed"] > line["provable_at_most"],
                otherwise="{name}: ε lies between {low:.2f} (proven) and {claimed:.1f} (claimed), "
                "and so many trainings could have proved up to {ceiling:.2f}.",
                name=str(name).capitalize(),
                low=proven[name],
                claimed=line["claimed"],
                ceiling=line["provable_at_most"],
            )
        )
    return claims
