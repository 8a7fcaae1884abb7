"""What a membership attack learns under DP training (UNECE, section 3.2.2, figure 3.10, table 3.4).

As "described" every record's gradient is clipped and attacks are judged by cross-validation; as
"published" the mean gradient of a batch is clipped (`num_microbatches=1`) and the logistic attack
is judged on a random quarter of the records. Our engine trains; `library_runs` hold-outs of the
printed settings are trained by tensorflow-privacy too, and scored where the two are told apart.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import pandas as pd
from scipy import stats

from pet_lab import accounting, checks, dpsgd, mia
from pet_lab import agreement as beside
from pet_lab.dpsgd.config import Engine
from pet_lab.rows import Claim, Rows, concat, summarise, wide

LABELS = {
    "mia.auc": "AUC of the attack",
    "mia.attacker_advantage": "attacker's advantage",
    "overfit.mia.auc": "AUC of the loss threshold",
    "overfit.score.gap": "training minus test accuracy",
    "cause.mia.auc": "AUC of the loss threshold",
    "tools.mia.auc": "AUC of the attack",
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
MICROBATCHES = {"described": None, "published": 1}
LIBRARIES = {"published": beside.TFP}
TOOLS = {"lr": "toolbox, logistic regression", "rf": "toolbox, random forest"}
# Two classes of so many clusters of so wide a spread, in ten dimensions: one is varied at a time.
CAUSES = {"clusters of a class": (1, 4, 16), "spread within a cluster": (0.25, 0.5, 1.0)}
SHOWN = ["score.train", "score.test", "mia.auc"]  # of the agreement; the attack on all records


@dataclass(frozen=True, kw_only=True, eq=False)
class Settings:
    """What is run; parameters that cannot go together are refused before anything is trained.

    The records (X, shape (n, d), and y, 0 or 1) are trained on by `base` (epochs, batch size and
    clip as described) at every step size with every noise, and for each of `overfit_epochs` without
    DP; `slow_attacks` see two models of the first setting only. `replicates` are hold-outs, each
    with its own weights and noise; settings that are not among the `printed` pairs of step size and
    noise, if any are given, and longer training get at most `others`.
    """

    X: np.ndarray
    y: np.ndarray
    base: dpsgd.Config
    learning_rates: Sequence[float]
    noise_multipliers: Sequence[float]
    attacks: Sequence[str] = mia.ATTACKS[:1]
    slow_attacks: Sequence[str] = ()
    overfit_epochs: Sequence[int]
    replicates: int
    others: int = 40
    printed: Sequence[tuple[float, float]] = ()
    delta: float
    engine: Engine = "batched"
    library_runs: int = 0
    seed: int

    def __post_init__(self) -> None:
        mia.check_attacks(self.attacks)
        if self.slow_attacks:
            mia.check_attacks(self.slow_attacks)
        checks.distinct(learning_rates=self.learning_rates, overfit_epochs=self.overfit_epochs)
        checks.distinct(noise_multipliers=self.noise_multipliers)
        for noise in self.noise_multipliers:
            checks.between(0, 1000, noise_multiplier=noise)
        for rate in self.learning_rates:
            checks.positive(learning_rate=rate)
        checks.whole(0, seed=self.seed, library_runs=self.library_runs)
        checks.one_of(get_args(Engine), engine=self.engine)
        checks.whole(1, replicates=self.replicates, others=self.others)
        checks.whole(1, overfit_epochs=min(self.overfit_epochs))
        mia.check_plan(self.y, batch_size=self.base.batch_size or 1, delta=self.delta)

    @property
    def configs(self) -> list[dpsgd.Config]:
        """Every step size with every noise, as described."""
        return [
            replace(self.base, learning_rate=rate, noise_multiplier=noise)
            for rate in self.learning_rates
            for noise in self.noise_multipliers
        ]

    @property
    def checked(self) -> bool:
        """Whether tensorflow-privacy trains beside our engine."""
        return self.library_runs > 0 and self.engine == "batched"

    @property
    def split(self) -> mia.Split:
        """One hold-out, to show something on."""
        return mia.report_split(len(self.y), np.random.default_rng(self.seed))


def _factors(config: dpsgd.Config) -> dict[str, Any]:
    return {name: getattr(config, name) for name in ("epochs", *SETTING)}


def attack(
    s: Settings,
    configs: Sequence[dpsgd.Config],
    *,
    reading: str = "described",
    slices: Sequence[str] = mia.SLICES,
    prefix: str = "",
) -> pd.DataFrame:
    """Train by each of `configs` on fresh hold-outs and attack; members against test records.

    Rows: epochs, learning_rate, noise_multiplier, attack, slice, reading, replicate, status,
    metric, value. Metrics score.train, .validation, .test and .gap without attack; mia.auc and
    mia.attacker_advantage by attack and slice, and their maximum over slices, which is what the
    suite's summary of its best result prints. What could not run is NaN, and `status` says why.
    `prefix` goes before each metric.
    """
    rows = Rows(reading=reading)
    for target in mia.train_targets(
        s.X, s.y, configs, seed=s.seed, replicates=s.replicates, engine=s.engine
    ):
        split, factors = target.split, _factors(target.config) | {"replicate": target.replicate}
        score = {part: target.accuracy(which, s.y) for part, which in vars(split).items()}
        score["gap"] = score["train"] - score["test"]
        metrics = {f"{prefix}score.{part}": value for part, value in score.items()}
        rows.add(attack="", slice="", status=target.status, metrics=metrics, **factors)
        if target.status != "ok":
            continue
        sides = [mia.from_logits(target.logits[i], s.y[i]) for i in (split.train, split.test)]
        # The same folds for every setting: they are compared like with like.
        rng = np.random.default_rng(target.seed)
        results = (
            mia.holdout_logistic(*sides, slices=slices, rng=rng, fast=True)
            if reading == "published"
            else mia.run_suite(*sides, attacks=s.attacks, slices=slices, rng=rng, fast=True)
        )
        if results["slice"].nunique() > 1:
            ok = results[results["status"] == "ok"].groupby("attack", sort=False, as_index=False)
            best = ok[["auc", "advantage"]].max().assign(slice=BEST, status="ok")
            results = pd.concat([results, best])
        for one in results.to_dict("records"):
            metrics = {f"{prefix}mia.auc": one["auc"]}
            metrics[f"{prefix}mia.attacker_advantage"] = one["advantage"]
            place = {name: one[name] for name in ("attack", "slice", "status")}
            rows.add(metrics=metrics, **place, **factors)
    return rows.frame()


def simulate(s: Settings) -> pd.DataFrame:
    """All rows of the notebook: both readings, slow attacks on one setting, longer training, ε."""
    first, *_ = s.configs
    plain = replace(first, learning_rate=0.1, noise_multiplier=0.0, clip=math.inf)
    longer = [replace(plain, epochs=epochs) for epochs in s.overfit_epochs]
    few = replace(s, replicates=min(s.replicates, s.others))
    printed = {
        config: (config.learning_rate, config.noise_multiplier) in s.printed for config in s.configs
    }
    parts = [
        attack(replace(few, attacks=mia.ATTACKS[:1]), longer, slices=[WHOLE], prefix="overfit."),
        epsilons(s),
        causes(s),
        toolbox(s),
    ]
    for how, wanted in ((s, True), (few, False)):
        chosen = [c for c, known in printed.items() if (known or not s.printed) == wanted]
        for reading, groups in MICROBATCHES.items() if chosen else ():
            configs = [replace(c, microbatches=groups) for c in chosen]
            parts.append(attack(how, configs, reading=reading))
    if s.slow_attacks:
        slow = replace(s, attacks=s.slow_attacks, replicates=2)
        parts.append(attack(slow, [first], slices=[WHOLE], prefix="slow."))
    if s.checked:
        peer = replace(s, engine=beside.TFP, replicates=s.library_runs)
        configs = [replace(c, microbatches=1) for c, known in printed.items() if known]
        theirs = attack(peer, configs or [replace(first, microbatches=1)], reading="published")
        rows = concat(*parts, theirs.assign(reading=f"published, {beside.TFP}"))
        return beside.judged(rows, agreement(rows), LIBRARIES, by=SETTING)
    return concat(*parts)


def causes(s: Settings) -> pd.DataFrame:
    """What else may drive the attack (paragraph 92): classes' complexity, spread, type of model.

    Invented records, as many members and others as in the report, and the loss threshold. Rows:
    cause, level, model, replicate, metric (cause.score.gap, cause.mia.auc); at most 8 replicates.
    """
    from sklearn.datasets import make_blobs
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.tree import DecisionTreeClassifier

    middle = {name: levels[1] for name, levels in CAUSES.items()}
    rows = Rows(reading="described")
    for r, stream in enumerate(np.random.SeedSequence(s.seed).spawn(min(s.replicates, 8))):
        state = int(stream.generate_state(1)[0])
        models = {
            "logistic regression": LogisticRegression(max_iter=1000),
            "tree": DecisionTreeClassifier(random_state=state),
            "forest": RandomForestClassifier(50, random_state=state),
            "network": MLPClassifier((40, 60, 20), max_iter=200, random_state=state),
        }
        for cause, levels in CAUSES.items():
            for level in levels:
                clusters, spread = (middle | {cause: level}).values()
                centres = np.random.default_rng(state).normal(size=(2 * int(clusters), 10))
                how: dict[str, Any] = {"centers": centres, "cluster_std": spread}
                X, cluster = make_blobs(2 * REPORT_MEMBERS, **how, random_state=state)
                parts = np.split(np.arange(2 * REPORT_MEMBERS), 2)
                for name, model in models.items():
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # the network stops at 200 epochs
                        model.fit(X[parts[0]], cluster[parts[0]] % 2)
                    inside, outside = (
                        mia.from_estimator(model, X[i], cluster[i] % 2) for i in parts
                    )
                    metrics = {"cause.score.gap": inside.accuracy - outside.accuracy}
                    metrics["cause.mia.auc"] = mia.auc(-inside.loss, -outside.loss)
                    place: dict[str, Any] = {"cause": cause, "level": float(level), "model": name}
                    rows.add(replicate=r, metrics=metrics, **place)
    return rows.frame()


def toolbox(s: Settings) -> pd.DataFrame:
    """The second tool that paragraph 87 names, on the same models as the suite, as described.

    Rows: attack (`TOOLS`, and the suite's logistic one), learning_rate, noise_multiplier,
    replicate, metric tools.mia.auc, on all records; the first step size, at most 12 hold-outs.
    """
    rows, few = Rows(reading="described", slice=WHOLE), min(s.replicates, 12)
    configs = [config for config in s.configs if config.learning_rate == s.learning_rates[0]]
    same: dict[str, Any] = {"seed": s.seed, "replicates": few, "engine": s.engine}
    for target in mia.train_targets(s.X, s.y, configs, **same):
        if target.status != "ok":
            continue
        parts = target.split.train, target.split.test
        sides = [mia.from_logits(target.logits[i], s.y[i]) for i in parts]
        how: dict[str, Any] = {"attacks": ["LOGISTIC_REGRESSION"], "slices": [WHOLE], "fast": True}
        suite = mia.run_suite(*sides, **how, rng=np.random.default_rng(target.seed))
        areas = {"suite, logistic regression": suite["auc"][0]}
        for kind, name in TOOLS.items():
            rng = np.random.default_rng(target.seed)
            areas[name] = mia.toolbox_auc(*sides, kind=kind, rng=rng)
        factors = _factors(target.config) | {"replicate": target.replicate}
        for name, area in areas.items():
            rows.add(attack=name, metrics={"tools.mia.auc": area}, **factors)
    return rows.frame()


def why(rows: pd.DataFrame) -> list[Claim]:
    """What `causes` and `toolbox` bear out: one claim a cause, one on the type of model, one on tools."""
    claims = []
    area = rows[rows["metric"] == "cause.mia.auc"]
    for cause, part in area.groupby("cause", sort=False) if len(area) else ():
        table = part.pivot_table(index=["model", "replicate"], columns="level", values="value")
        first, last = table.columns.min(), table.columns.max()
        rise = (table[last] - table[first]).groupby("model").agg(["mean", "sem"])
        text = f"From {{first:g}} to {{last:g}} ({cause}) the AUC of the loss threshold "
        each = ", ".join(f"{{rise[{i}]:+.2f}} {name}" for i, name in enumerate(rise.index))
        n = part["replicate"].nunique()
        claims.append(
            Claim(
                f"{text}rises for every type of model: {each}.",
                holds=bool((rise["mean"] > _t(n) * rise["sem"]).all()),
                otherwise=f"{text}changes by {each}.",
                first=first,
                last=last,
                rise=rise["mean"].tolist(),
            )
        )
    if len(area):
        by = area.groupby("model")["value"].mean().sort_values()
        each = ", ".join(f"{{by[{i}]:.2f}} {name}" for i, name in enumerate(by.index))
        gap = rows[rows["metric"] == "cause.score.gap"].groupby("model")["value"].mean()
        claims.append(
            Claim(
                f"The type of model matters as much: mean AUC {each}, in the order of their accuracy gaps.",
                holds=list(gap.sort_values().index) == list(by.index),
                otherwise=f"By type of model the mean AUC is {each}; the accuracy gaps have another order.",
                by=by.tolist(),
            )
        )
    both = rows[rows["metric"] == "tools.mia.auc"]
    if len(both):
        tools = both.groupby("attack", sort=False)["value"].mean()
        each = ", ".join(f"{{tools[{i}]:.2f}} {name}" for i, name in enumerate(tools.index))
        claims.append(
            Claim(
                f"Neither tool knows more than the other: mean AUC on the same models {each}.",
                holds=bool(np.ptp(tools) < beside.MARGIN),
                otherwise=f"The tools differ on the same models: mean AUC {each}.",
                tools=tools.tolist(),
            )
        )
    return claims


def agreement(rows: pd.DataFrame) -> pd.DataFrame:
    """Our engine beside tensorflow-privacy's optimiser, as published: see `pet_lab.agreement`."""
    part = rows[rows["metric"].isin(SHOWN) & rows["slice"].isin(["", WHOLE])]
    return beside.agreement(part, LIBRARIES, column="reading", by=SETTING)


def attack_agreement(s: Settings, *, models: int = 8) -> pd.DataFrame:
    """The suite's logistic attack beside `mia.GridLogistic` on equal models and folds, by slice.

    Columns: reading, slice, models (on which both ran), suite and ours (mean AUC), difference
    (mean), low and high (its 90 % interval).
    """
    rows = []
    for reading, groups in MICROBATCHES.items():
        config = replace(s.configs[-1], microbatches=groups)
        how: dict[str, Any] = {"seed": s.seed, "replicates": models}
        for target in mia.train_targets(s.X, s.y, [config], **how):
            parts = target.split.train, target.split.test
            sides = [mia.from_logits(target.logits[i], s.y[i]) for i in parts]
            for fast in (False, True) if target.status == "ok" else ():
                rng: dict[str, Any] = {"rng": np.random.default_rng(target.seed), "fast": fast}
                result = (
                    mia.holdout_logistic(*sides, **rng)
                    if groups
                    else mia.run_suite(*sides, attacks=["LOGISTIC_REGRESSION"], **rng)
                )
                rows.append(result.assign(reading=reading, fast=fast, model=target.replicate))
    table = pd.concat(rows).pivot(index=["reading", "slice", "model"], columns="fast", values="auc")
    table = table.set_axis(["suite", "ours"], axis=1).dropna()
    table["difference"] = table["ours"] - table["suite"]
    by = table.groupby(["reading", "slice"])
    summary = by.mean().assign(models=by.size())
    half = stats.t.isf(0.05, np.maximum(summary["models"] - 1, 1)) * by["difference"].sem()
    bounds = {"low": summary["difference"] - half, "high": summary["difference"] + half}
    summary = summary.assign(**bounds).reset_index()
    return summary[["reading", "slice", "models", "suite", "ours", "difference", "low", "high"]]


def epsilons(s: Settings) -> pd.DataFrame:
    """Rows: ε as the report computes it ("published") or as shuffled batches guarantee it
    ("described"), and for both readings `epsilon.proven`, for what really ran."""
    rows, n = Rows(), s.split.train.size
    for config in s.configs:
        size = {"n": n, "batch_size": config.batch_size or n, "epochs": config.epochs}
        report = accounting.report_epsilon(config.noise_multiplier, **size)
        for reading, groups in MICROBATCHES.items():
            ran = replace(config, microbatches=groups)
            proven = accounting.of(ran, n=n, delta=s.delta, accountant="pld").epsilon
            both = {"epsilon": report if groups else proven, "epsilon.proven": proven}
            exact = dict.fromkeys(both, 0.0)
            rows.add(reading=reading, metrics=both, se=exact, **_factors(config))
    return rows.frame()


def engines(s: Settings) -> pd.DataFrame:
    """`dpsgd.agreement` on one hold-out for the last setting, in both readings."""
    X, y = s.X[s.split.train], s.y[s.split.train]
    parts = []
    for reading, groups in MICROBATCHES.items():
        config = replace(s.configs[-1], microbatches=groups)
        part = dpsgd.agreement(X, y, config, seed=s.seed, delta=s.delta)
        parts.append(part.assign(reading=reading))
    return pd.concat(parts)


def privacy(s: Settings) -> list[str]:
    """The guarantee at each noise in words, as described."""
    how: dict[str, Any] = {"n": s.split.train.size, "delta": s.delta, "accountant": "pld"}
    private = {config.noise_multiplier: config for config in s.configs if config.private}
    return [f"Noise {z:g}: {accounting.of(config, **how)}" for z, config in private.items()]


def accuracies(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracies, one line per reading and setting."""
    return wide(rows[rows["metric"].str.startswith("score.")], index=["reading", *SETTING])


def decimal_points(cells: pd.DataFrame, *, delta: float) -> pd.DataFrame:
    """The printed epsilons (`cells`) beside what the tutorial's accountant gives for them.

    A print is explained where the recomputed number with some decimals, read without its decimal
    point, has the printed digits.
    """
    size: dict[str, Any] = {"n": REPORT_MEMBERS, "batch_size": REPORT_BATCH}
    how: dict[str, Any] = {"delta": delta, "sampling": "shuffle", "accountant": "pld"}
    lines = []
    shown = cells[(cells["metric"] == "epsilon") & np.isfinite(cells["printed"])]
    for cell in shown.to_dict("records"):
        noise, size["epochs"] = cell["noise_multiplier"], int(cell["epochs"])
        value = accounting.report_epsilon(noise, **size)
        decimals = round(math.log10(cell["printed"] / value))
        line = {name: cell[name] for name in ("table", *SETTING)}
        line |= {"printed": cell["text"], "recomputed": value, "decimals": decimals}
        line["without its decimal point"] = f"{round(value * 10**decimals):.2E}"
        line["explained"] = line["without its decimal point"] == line["printed"]
        line["proven as described"] = accounting.epsilon(noise, **size, **how).epsilon
        lines.append(line)
    return pd.DataFrame(lines)


def class_0(rows: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Mean and SD of a guess on 4 against 7 records (the most likely sizes), and of our attack."""
    chance = mia.chance_advantage(4, 7, rng=np.random.default_rng(seed), two_sided=True)
    guess = pd.DataFrame({"of": ["mia.auc", "mia.attacker_advantage"]}).assign(
        attacker="guessing, 4 against 7 (most likely)",
        mean=[0.5, chance.mean()],
        sd=[mia.chance_auc_sd(4, 7), chance.std()],
    )
    ours = rows[(rows["slice"] == "CLASS=0") & (rows["attack"] == "LOGISTIC_REGRESSION")]
    moments = summarise(ours, ["reading", "metric"]).rename(columns={"metric": "of"})
    moments["attacker"] = "ours, as " + moments["reading"]
    return concat(guess, moments)[["attacker", "of", "mean", "sd"]]


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
    shown = (cells["table"] == "fig-3.10") & (attacked | (cells["metric"] == "score.test"))
    return cells.loc[shown, ["noise_multiplier", "metric", "printed"]]


def best_slices(rows: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Each printed AUC, its slice, and ours as published on that slice and over all slices."""
    ours = rows[(rows["reading"] == "published") & (rows["metric"] == "mia.auc")]
    lines = []
    for cell in cells[cells["metric"] == "mia.auc"].to_dict("records"):
        here = ours[np.isclose(ours[SETTING], [cell[name] for name in SETTING]).all(axis=1)]
        line = {name: cell[name] for name in ("table", *SETTING, "printed")}
        line["printed slice"] = cell["slice"]
        for name, part in (("that slice", cell["slice"]), (BEST, BEST)):
            values = here[here["slice"] == part]["value"]
            line |= {f"ours, {name}": values.mean(), f"sd, {name}": values.std()}
        lines.append(line)
    return pd.DataFrame(lines)


def by_attack(rows: pd.DataFrame, metric: str = "mia.auc") -> pd.DataFrame:
    """Mean AUC as described over all settings: a line per slice, the maximum over them the last."""
    part = rows[(rows["reading"] == "described") & (rows["metric"] == metric)]
    return wide(part, index="slice", columns="attack")


def best_afterwards(rows: pd.DataFrame) -> pd.Series:
    """Mean over trainings of the best AUC of all attacks and slices, by reading."""
    areas = rows[(rows["metric"] == "mia.auc") & (rows["slice"] != BEST)]
    best = areas.groupby(["reading", *SETTING, "replicate"])["value"].max()
    return best.groupby("reading").mean()


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


def _by_setting(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean AUC of the logistic attack on all records as described."""
    part = figure(rows[rows["reading"] == "described"])
    return summarise(part[part["metric"] == "mia.auc"], SETTING)


def headline(rows: pd.DataFrame, points: pd.DataFrame, *, counts: bool = True) -> Claim:
    """One sentence: what the suite's attack reaches; if the run `counts`, what the printed epsilons
    are."""
    means, point = _by_setting(rows)["mean"], points.iloc[0]
    reach = (
        "The suite's logistic attack on all records has a mean AUC of {least:.2f} to {most:.2f} "
        "over the settings as described"
    )
    return Claim(
        reach
        + "; {n} printed epsilons lost their decimal points ({printed} is {recomputed:,.0f}).",
        holds=counts and len(means) > 0 and bool(points["explained"].all()),
        otherwise=f"{reach}.",
        least=means.min(),
        most=means.max(),
        n=len(points),
        printed=point["printed"],
        recomputed=point["recomputed"],
    )


def takeaways(
    rows: pd.DataFrame, points: pd.DataFrame, cells: pd.DataFrame, *, counts: bool = True
) -> list[Claim]:
    """What these rows bear out; `points` from `decimal_points`, `cells` as printed.

    Only a run that `counts` says something of the report.
    """
    r = correlations(gap_and_attack(rows))
    correlation = (
        "correlation {within:.2f}, 95 %: {low:.2f} to {high:.2f}; between settings {between:.2f}"
    )
    values, decimals = points["recomputed"], sorted(set(points["decimals"]))
    on_the_report = [
        Claim(
            "All {n} finite printed epsilons are recomputed ones of {least:,.0f} to {most:,.0f}, "
            "written with {decimals} decimals and read without the decimal point.",
            holds=bool(points["explained"].all()),
            n=len(points),
            least=values.min(),
            most=values.max(),
            decimals=" or ".join(map(str, decimals)),
        ),
        _printed_order(rows, cells),
    ]
    return [
        *on_the_report[: 2 * counts],
        *(_fall(part) for _, part in _by_setting(rows).groupby("learning_rate")),
        _longer(rows),
        Claim(
            "Among trainings of equal settings a wider gap goes with a better attack too "
            f"({correlation}); an unlucky hold-out moves both.",
            holds=r["low"] > 0,
            otherwise="Among trainings of equal settings gap and attack are not shown to go "
            f"together ({correlation}).",
            **r,
        ),
        Claim(
            "Naming the best of all attacks and slices afterwards gives an AUC of {described:.2f} on "
            "average, and {published:.2f} when judged on a quarter of the records as published.",
            **best_afterwards(rows),
        ),
        *why(rows),
    ]


def _printed_order(rows: pd.DataFrame, cells: pd.DataFrame) -> Claim:
    printed = cells[(cells["metric"] == "mia.auc") & (cells["table"] == "3.4")]["printed"]
    published = (rows["reading"] == "published") & (rows["metric"] == "mia.auc")
    ours = rows[published & (rows["slice"] == "CLASS=0")]
    spread, width = math.sqrt(ours.groupby(SETTING)["value"].var().mean()), np.ptp(printed)
    # The range of k draws exceeds so many standard deviations in 5 % of cases.
    limit = float(stats.studentized_range.ppf(0.95, len(printed), np.inf))
    return Claim(
        "Table 3.4 rests on CLASS=0, where equal settings give AUCs with a standard deviation of "
        "{spread:.2f} as published: {n} equal settings would often differ by as much as its rows "
        "do ({width:.2f}), so their order says nothing.",
        holds=width < limit * spread,
        otherwise="The rows of table 3.4 differ by {width:.2f}, more than equal settings would "
        "(standard deviation {spread:.2f} as published).",
        spread=spread,
        n=len(printed),
        width=width,
    )


def _t(n: float) -> float:
    """Half-width of a 95 % interval for a mean of `n`, in standard errors."""
    return float(stats.t.isf(0.025, n - 1)) if n > 1 else math.inf


def _fall(part: pd.DataFrame) -> Claim:
    ordered = part.sort_values("noise_multiplier")
    a, b = ordered.iloc[0], ordered.iloc[-1]
    start = "At step size {a[learning_rate]:g}, as described, "
    means = (
        "mean AUC {a[mean]:.2f} at noise {a[noise_multiplier]:g}, {b[mean]:.2f} at noise "
        "{b[noise_multiplier]:g}."
    )
    return Claim(
        f"{start}noise lowers the logistic attack on all records: {means}",
        # Conservative: the hold-outs are the same, so that the difference is known better.
        holds=a["mean"] - b["mean"] > _t(a["n"]) * math.hypot(a["se"], b["se"]),
        otherwise=f"{start}no fall of the logistic attack with the noise can be shown: {means}",
        a=a,
        b=b,
    )


def _longer(rows: pd.DataFrame) -> Claim:
    gap, area = "overfit.score.gap", "overfit.mia.auc"
    part = rows[rows["metric"].isin([gap, area])]
    table = part.pivot_table(index="replicate", columns=["epochs", "metric"], values="value")
    first, last = part["epochs"].min(), part["epochs"].max()
    rise = table[last] - table[first]  # on the same hold-outs
    mean, start = rise.mean(), "from {first:g} to {last:g} epochs without DP"
    return Claim(
        f"Overfitting drives the attack: {start}, on the same hold-outs, the accuracy gap widens by "
        "{gap:.2f} and the AUC of the loss threshold rises by {area:.2f} to {reached:.2f}.",
        holds=bool((mean > _t(len(rise)) * rise.sem()).all()),
        otherwise=f"Gap and attack are not shown to rise {start} (by {{gap:.2f}} and {{area:.2f}}).",
        first=first,
        last=last,
        gap=mean[gap],
        area=mean[area],
        reached=table[last][area].mean(),
    )


def what_if(
    s: Settings, rows: pd.DataFrame, *, learning_rate: float, epochs: int, batch_size: int
) -> tuple[pd.DataFrame, Claim]:
    """ε at each noise, accounted anew, beside the attack that ran: behind the explore panel."""
    part = figure(rows[(rows["learning_rate"] == learning_rate) & (rows["reading"] == "described")])
    part, n = part[part["metric"] == "mia.auc"], s.split.train.size
    noises, live = [float(z) for z in sorted(set(s.noise_multipliers)) if z], Rows()
    for noise in noises:
        config = replace(s.base, epochs=epochs, batch_size=batch_size, noise_multiplier=noise)
        proven = accounting.of(config, n=n, delta=s.delta, accountant="pld").epsilon
        live.add(noise_multiplier=noise, metrics={"epsilon.proven": proven})
    shown = concat(part, live.frame())[["noise_multiplier", "replicate", "metric", "value"]]
    least = live.frame()["value"].min() if noises else math.nan
    claim = Claim(
        "{epochs} epochs in batches of {batch_size} guarantee ε = {least:,.1f} at the largest noise, {most:g}; the logistic "
        "attack of this run, at its own epochs, has a mean AUC of {area:.2f} there.",
        epochs=epochs,
        batch_size=batch_size,
        least=least,
        most=max(noises, default=math.nan),
        area=part.loc[part["noise_multiplier"] == max(noises, default=0.0), "value"].mean(),
    )
    return shown, claim
