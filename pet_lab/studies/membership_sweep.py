"""What a membership attack learns under DP training, over noise, step size and training length.

UNECE final report, section 3.2.2, figure 3.10 and table 3.4. Two readings of the set-up: as
"described" every record's gradient is clipped and attacks are judged by cross-validation; as
"published" the mean gradient of a batch is clipped (`num_microbatches=1`) and the attack is judged
on a random quarter of the records.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from pet_lab import accounting, dpsgd, mia
from pet_lab.dpsgd.config import Engine
from pet_lab.rows import Claim, Rows, concat, summarise, wide

if TYPE_CHECKING:
    import pandas as pd

LABELS = {
    "mia.auc": "AUC of the attack",
    "mia.attacker_advantage": "attacker's advantage",
    "overfit.mia.auc": "AUC of the loss threshold",
    "overfit.score.gap": "training minus test accuracy",
    "score.gap": "training minus test accuracy",
    "score.test": "test accuracy",
    "noise_multiplier": "noise multiplier",
    "epsilon.proven": "proven ε",
}
REPORT_MEMBERS = 252  # the printed training accuracies are multiples of 1 / 252
REPORT_BATCH = 22  # the batch size that gives all printed epsilons
WHOLE = "Entire dataset"
BEST = "maximum over slices"
SETTING = ["learning_rate", "noise_multiplier"]


def configs(
    learning_rates: Sequence[float], noise_multipliers: Sequence[float], **common: Any
) -> list[dpsgd.Config]:
    """Every step size with every noise, as described; `common` as in `dpsgd.Config`."""
    return [
        dpsgd.Config(learning_rate=rate, noise_multiplier=noise, **common)
        for rate in learning_rates
        for noise in noise_multipliers
    ]


def check(
    y: np.ndarray,
    *,
    attacks: Sequence[str],
    replicates: int,
    epochs: Sequence[int],
    batch_size: int,
    delta: float,
    **lists: Sequence[float],
) -> None:
    """Refuse parameters that cannot go together before anything is trained; `lists` by name."""
    mia.check_attacks(attacks)
    mia.check_plan(
        y,
        batch_size=batch_size,
        members=len(y) and mia.report_split(max(len(y), 6), np.random.default_rng(0)).train.size,
        delta=delta,
        at_least={"replicates": (replicates, 1), "epochs": (min(epochs, default=1), 1)},
        **lists,
    )


def attack(
    X: np.ndarray,
    y: np.ndarray,
    settings: Sequence[dpsgd.Config],
    *,
    seed: int,
    replicates: int,
    attacks: Sequence[str] = mia.ATTACKS[:1],
    slices: Sequence[str] = mia.SLICES,
    holdout: bool = False,
    reading: str = "described",
    prefix: str = "",
    engine: Engine = "batched",
) -> pd.DataFrame:
    """Train under each setting on fresh hold-outs and attack; members against test records.

    `holdout` judges as earlier releases of the suite did, by the logistic attack only.

    Returns rows: epochs, learning_rate, noise_multiplier, attack, slice, members, nonmembers,
    reading, replicate, status, metric, value. Metrics score.train, .validation, .test and .gap
    without attack; mia.auc and mia.attacker_advantage by attack and slice, and their maximum over
    slices, which is what the suite's summary of its best result prints. What could not run is NaN,
    and `status` says why. `prefix` goes before each metric.
    """
    rows = Rows(reading=reading)
    metrics = [f"{prefix}mia.auc", f"{prefix}mia.attacker_advantage"]
    for target in mia.train_targets(
        X, y, settings, seed=seed, replicates=replicates, engine=engine
    ):
        factors: dict[str, Any] = {
            "epochs": target.config.epochs,
            "learning_rate": target.config.learning_rate,
            "noise_multiplier": target.config.noise_multiplier,
            "replicate": target.replicate,
        }
        split = target.split
        parts = {"train": split.train, "validation": split.validation, "test": split.test}
        score = {f"{prefix}score.{k}": target.accuracy(part, y) for k, part in parts.items()}
        score[f"{prefix}score.gap"] = score[f"{prefix}score.train"] - score[f"{prefix}score.test"]
        sizes: dict[str, Any] = {"members": split.train.size, "nonmembers": split.test.size}
        rows.add(attack="", slice="", status=target.status, metrics=score, **sizes, **factors)
        if target.status != "ok":
            continue
        inside, outside = (
            mia.from_logits(target.logits[part], y[part]) for part in (split.train, split.test)
        )
        # The same folds for every setting: they are compared like with like.
        rng = np.random.default_rng(target.seed)
        results = (
            mia.holdout_logistic(inside, outside, slices=slices, rng=rng)
            if holdout
            else mia.run_suite(inside, outside, attacks=attacks, slices=slices, rng=rng)
        )
        best: dict[str, list[list[float]]] = {}
        for one in results:
            values = [one.auc, one.advantage]
            best.setdefault(one.attack, []).append(values)
            rows.add(
                attack=one.attack,
                slice=one.slice,
                status=one.status,
                members=one.member_scores.size,
                nonmembers=one.nonmember_scores.size,
                metrics=dict(zip(metrics, values, strict=True)),
                **factors,
            )
        for name, over_slices in best.items():
            if len(over_slices) > 1 and np.isfinite(over_slices).any():
                most = dict(zip(metrics, np.nanmax(over_slices, axis=0), strict=True))
                rows.add(attack=name, slice=BEST, status="ok", metrics=most, **factors)
    return rows.frame()


def run(
    X: np.ndarray,
    y: np.ndarray,
    settings: Sequence[dpsgd.Config],
    *,
    seed: int,
    replicates: int,
    attacks: Sequence[str],
    slow_attacks: Sequence[str],
    overfit_epochs: Sequence[int],
    delta: float,
    engine: Engine = "batched",
) -> pd.DataFrame:
    """All rows of the notebook: both readings, slow attacks on one setting, longer training, ε."""
    common: dict[str, Any] = {"seed": seed, "replicates": replicates, "engine": engine}
    published = [replace(config, microbatches=1) for config in settings]
    plain = [
        replace(settings[0], learning_rate=0.1, noise_multiplier=0.0, clip=math.inf, epochs=e)
        for e in overfit_epochs
    ]
    parts = [
        attack(X, y, settings, attacks=attacks, **common),
        attack(X, y, published, holdout=True, reading="published", **common),
        attack(X, y, plain, slices=[WHOLE], prefix="overfit.", **common),
        epsilons(
            settings, n=mia.report_split(len(y), np.random.default_rng(0)).train.size, delta=delta
        ),
    ]
    if slow_attacks:
        common["replicates"] = 2
        slow: dict[str, Any] = {"attacks": slow_attacks, "slices": [WHOLE], "prefix": "slow."}
        parts.append(attack(X, y, settings[:1], **slow, **common))
    return concat(*parts)


def agreement(
    X: np.ndarray, y: np.ndarray, settings: Sequence[dpsgd.Config], *, seed: int, delta: float
) -> pd.DataFrame:
    """`dpsgd.agreement` on these records for the last setting, in both readings."""
    import pandas as pd

    return pd.concat(
        dpsgd.agreement(
            X, y, replace(settings[-1], microbatches=groups), seed=seed, delta=delta
        ).assign(reading=reading)
        for reading, groups in (("described", None), ("published", 1))
    )


def epsilons(settings: Sequence[dpsgd.Config], *, n: int, delta: float) -> pd.DataFrame:
    """Rows: ε as the report computes it ("published") or as shuffled batches guarantee it
    ("described"), and for both readings `epsilon.proven`, for what really ran."""
    rows = Rows()
    for config in settings:
        noise = config.noise_multiplier
        report = accounting.report_epsilon(
            noise, n=n, batch_size=config.batch_size or n, epochs=config.epochs
        )
        for reading, setting in (
            ("described", config),
            ("published", replace(config, microbatches=1)),
        ):
            proven = accounting.of(setting, n=n, delta=delta, accountant="pld").epsilon
            stated = report if reading == "published" else proven
            rows.add(
                reading=reading,
                epochs=config.epochs,
                learning_rate=config.learning_rate,
                noise_multiplier=noise,
                metrics={"epsilon": stated, "epsilon.proven": proven},
                se={"epsilon": 0.0, "epsilon.proven": 0.0},
            )
    return rows.frame()


def privacy(settings: Sequence[dpsgd.Config], *, n: int, delta: float) -> list[str]:
    """The guarantee at each noise in words, as described."""
    private = {config.noise_multiplier: config for config in settings if config.private}
    return [
        f"Noise {noise:g}: {accounting.of(config, n=n, delta=delta, accountant='pld')}"
        for noise, config in private.items()
    ]


def accuracies(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracies, one line per reading and setting."""
    return wide(rows[rows["metric"].str.startswith("score.")], index=["reading", *SETTING])


def decimal_points(cells: pd.DataFrame, *, delta: float) -> pd.DataFrame:
    """The printed epsilons (`cells`) beside what the tutorial's accountant gives for them.

    A print is explained where the recomputed number with some decimals, read without its decimal
    point, has the printed digits.
    """
    import pandas as pd

    lines = []
    for cell in cells[(cells["metric"] == "epsilon") & np.isfinite(cells["printed"])].itertuples():
        size: dict[str, Any] = {
            "n": REPORT_MEMBERS,
            "batch_size": REPORT_BATCH,
            "epochs": int(cell.epochs),
        }
        value = accounting.report_epsilon(cell.noise_multiplier, **size)
        decimals = round(math.log10(cell.printed / value))
        proven = accounting.epsilon(
            cell.noise_multiplier, **size, delta=delta, sampling="shuffle", accountant="pld"
        )
        lines.append(
            {
                "table": cell.table,
                "learning_rate": cell.learning_rate,
                "noise_multiplier": cell.noise_multiplier,
                "printed": cell.text,
                "recomputed": value,
                "decimals": decimals,
                "without its decimal point": f"{round(value * 10**decimals):.2E}",
                "proven as described": proven.epsilon,
            }
        )
    return pd.DataFrame(lines)


def class_0(rows: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Mean and SD of a guess on 4 against 7 records (the most likely sizes), and of our attack."""
    guess = Rows(attacker="guessing, 4 against 7 (most likely)")
    chance = mia.chance_advantage(4, 7, rng=np.random.default_rng(seed), two_sided=True)
    guess.add(metrics={"mean": 0.5, "sd": mia.chance_auc_sd(4, 7)}, of="mia.auc")
    guess.add(metrics={"mean": chance.mean(), "sd": chance.std()}, of="mia.attacker_advantage")
    ours = rows[(rows["slice"] == "CLASS=0") & (rows["attack"] == "LOGISTIC_REGRESSION")]
    moments = summarise(ours, ["reading", "metric"]).rename(columns={"metric": "of"})
    moments["attacker"] = "ours, as " + moments["reading"]
    return concat(wide(guess.frame(), index=["attacker", "of"]), moments)[
        ["attacker", "of", "mean", "sd"]
    ]


def figure(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows behind figure 3.10: test accuracy, and the logistic attack on the whole data set."""
    logistic = (rows["attack"] == "LOGISTIC_REGRESSION") & (rows["slice"] == WHOLE)
    chosen = rows[logistic | rows["metric"].isin(["score.test", "epsilon.proven"])]
    chosen = chosen[np.isfinite(chosen["value"])]
    setup = chosen["reading"] + ", step " + chosen["learning_rate"].astype(str)
    return chosen.assign(setup=setup).drop(columns="reading")


def figure_printed(cells: pd.DataFrame) -> pd.DataFrame:
    """Printed points for `figure`: accuracy in every row, the attack where it saw all records."""
    attacked = cells["metric"].str.startswith("mia.") & (cells["slice"] == WHOLE)
    chosen = cells[(cells["metric"] == "score.test") | attacked]
    return chosen[["noise_multiplier", "metric", "printed"]]


def best_slices(rows: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Each printed AUC, its slice, and ours as published on that slice and over all slices."""
    import pandas as pd

    ours = rows[(rows["reading"] == "published") & (rows["metric"] == "mia.auc")]
    lines = []
    cell: Any
    for cell in cells[cells["metric"] == "mia.auc"].itertuples():
        here = ours[
            np.isclose(ours["learning_rate"], cell.learning_rate)
            & np.isclose(ours["noise_multiplier"], cell.noise_multiplier)
        ]
        line: dict[str, Any] = {"table": cell.table, **{k: getattr(cell, k) for k in SETTING}}
        line |= {"printed": cell.printed, "printed slice": cell.slice}
        for name, part in (("that slice", cell.slice), (BEST, BEST)):
            values = here[here["slice"] == part]["value"]
            line |= {f"ours, {name}": values.mean(), f"sd, {name}": values.std()}
        lines.append(line)
    return pd.DataFrame(lines)


def by_attack(rows: pd.DataFrame, metric: str = "mia.auc") -> pd.DataFrame:
    """Mean AUC as described over all settings: a line per slice, the maximum over them the last."""
    part = rows[(rows["reading"] == "described") & (rows["metric"] == metric)]
    return wide(part, index="slice", columns="attack")


def best_afterwards(rows: pd.DataFrame) -> dict[str, float]:
    """Mean over trainings of the best AUC of all attacks and slices, by reading."""
    areas = rows[(rows["metric"] == "mia.auc") & (rows["slice"] != BEST)]
    best = areas.groupby(["reading", *SETTING, "replicate"])["value"].max()
    return {str(name): float(v) for name, v in best.groupby("reading").mean().items()}


def gap_and_attack(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per training as described: score.gap, and mia.auc of the loss threshold."""
    threshold = (rows["attack"] == "THRESHOLD_ATTACK") & (rows["slice"] == WHOLE)
    chosen = rows[(rows["reading"] == "described") & (threshold | (rows["metric"] == "score.gap"))]
    pairs = chosen.pivot_table(index=[*SETTING, "replicate"], columns="metric", values="value")
    return pairs.rename_axis(columns=None).reset_index()


def correlations(pairs: pd.DataFrame) -> dict[str, float]:
    """Correlation of gap and attack within settings, with its 95 % interval, and between them."""
    columns = ["score.gap", "mia.auc"]
    settings = pairs.groupby(SETTING)[columns]
    within = pairs[columns] - settings.transform("mean")
    r: Any = within.corr().iloc[0, 1]
    free = max(len(within) - settings.ngroups - 2, 1)
    half_width = stats.t.isf(0.025, free) / math.sqrt(free)
    fisher = np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12))
    low, high = np.tanh([fisher - half_width, fisher + half_width])
    return {"within": r, "low": low, "high": high, "between": settings.mean().corr().iloc[0, 1]}


def logistic_range(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean AUC of the logistic attack on all records as described, by setting."""
    part = figure(rows[rows["reading"] == "described"])
    return summarise(part[part["metric"] == "mia.auc"], SETTING)


def headline(rows: pd.DataFrame, points: pd.DataFrame) -> Claim:
    """One sentence: what the suite's attack reaches, and what the printed epsilons are."""
    means = logistic_range(rows)["mean"]
    explained = points["printed"] == points["without its decimal point"]
    return Claim(
        "The suite's logistic attack on all records has a mean AUC of {low:.2f} to {high:.2f} over "
        "the settings as described; {n} printed epsilons lost their decimal points "
        "({printed} is {value:,.0f}).",
        holds=len(means) > 0 and bool(explained.all()),
        otherwise="Over the settings as described the suite's logistic attack on all records has a "
        "mean AUC of {low:.2f} to {high:.2f}.",
        low=means.min(),
        high=means.max(),
        n=len(points),
        printed=points["printed"].iloc[0],
        value=points["recomputed"].iloc[0],
    )


def takeaways(rows: pd.DataFrame, points: pd.DataFrame, cells: pd.DataFrame) -> list[Claim]:
    """What these rows bear out; `points` from `decimal_points`, `cells` as printed."""
    return [
        Claim(
            "All {n} finite printed epsilons are recomputed ones of {low:,.0f} to {high:,.0f}, "
            "written with {decimals} decimals and read without the decimal point.",
            holds=bool((points["printed"] == points["without its decimal point"]).all()),
            n=len(points),
            low=points["recomputed"].min(),
            high=points["recomputed"].max(),
            decimals=" or ".join(map(str, sorted(set(points["decimals"])))),
        ),
        _printed_order(rows, cells),
        *(
            _fall(part, float(part["learning_rate"].iloc[0]))
            for _, part in logistic_range(rows).groupby("learning_rate")
        ),
        _longer(rows),
        _within(correlations(gap_and_attack(rows))),
    ]


def _printed_order(rows: pd.DataFrame, cells: pd.DataFrame) -> Claim:
    printed = cells[(cells["metric"] == "mia.auc") & (cells["table"] == "3.4")]["printed"]
    ours = rows[
        (rows["slice"] == "CLASS=0")
        & (rows["reading"] == "published")
        & (rows["metric"] == "mia.auc")
    ]
    spread = math.sqrt(ours.groupby(SETTING)["value"].var().mean())
    width = float(printed.max() - printed.min())
    # The range of k draws exceeds q standard deviations in 5 % of cases.
    q = float(stats.studentized_range.ppf(0.95, len(printed), np.inf))
    return Claim(
        "Table 3.4 rests on CLASS=0, where equal settings give AUCs with a standard deviation of "
        "{spread:.2f} as published: {n} equal settings would often differ by as much as its rows "
        "do ({width:.2f}), so their order says nothing.",
        holds=width < q * spread,
        otherwise="The rows of table 3.4 differ by {width:.2f}, more than equal settings would "
        "(standard deviation {spread:.2f} as published).",
        spread=spread,
        width=width,
        n=len(printed),
    )


def _t(n: float) -> float:
    """Half-width of a 95 % interval for a mean of `n`, in standard errors."""
    return float(stats.t.isf(0.025, n - 1)) if n > 1 else math.inf


def _fall(part: pd.DataFrame, rate: float) -> Claim:
    ordered = part.sort_values("noise_multiplier")
    first, last = ordered.iloc[0], ordered.iloc[-1]
    return Claim(
        "At step size {rate:g}, as described, noise lowers the logistic attack on all records: "
        "mean AUC {a:.2f} at noise {z:g}, {b:.2f} at noise {w:g}.",
        # Conservative: the hold-outs are the same, so that the difference is known better.
        holds=first["mean"] - last["mean"] > _t(first["n"]) * math.hypot(first["se"], last["se"]),
        otherwise="At step size {rate:g}, as described, no fall of the logistic attack with the "
        "noise can be shown: mean AUC {a:.2f} at noise {z:g}, {b:.2f} at noise {w:g}.",
        rate=rate,
        a=first["mean"],
        b=last["mean"],
        z=first["noise_multiplier"],
        w=last["noise_multiplier"],
    )


def _longer(rows: pd.DataFrame) -> Claim:
    table = rows[rows["metric"].isin(["overfit.score.gap", "overfit.mia.auc"])].pivot_table(
        index="replicate", columns=["metric", "epochs"], values="value"
    )
    gap, auc = table["overfit.score.gap"], table["overfit.mia.auc"]
    first, last = gap.columns.min(), gap.columns.max()
    changes = [t[last] - t[first] for t in (gap, auc)]  # on the same hold-outs
    return Claim(
        "Overfitting drives the attack: from {first:g} to {last:g} epochs without DP, on the same "
        "hold-outs, the accuracy gap widens by {gap:.2f} and the AUC of the loss threshold rises "
        "by {auc:.2f} to {level:.2f}.",
        holds=all(d.mean() > _t(len(d)) * d.sem() for d in changes),
        otherwise="From {first:g} to {last:g} epochs without DP gap and attack are not shown to "
        "rise (by {gap:.2f} and {auc:.2f}).",
        first=first,
        last=last,
        gap=changes[0].mean(),
        auc=changes[1].mean(),
        level=auc[last].mean(),
    )


def _within(r: Mapping[str, float]) -> Claim:
    return Claim(
        "Among trainings of equal settings a wider gap goes with a better attack too (correlation "
        "{within:.2f}, 95 %: {low:.2f} to {high:.2f}); an unlucky hold-out moves both.",
        holds=r["low"] > 0,
        otherwise="Among trainings of equal settings gap and attack are not shown to go together "
        "(correlation {within:.2f}, 95 %: {low:.2f} to {high:.2f}).",
        **r,
    )
