"""Base rates, groups and single predictions: what a classifier's accuracy does not tell.

Definitions of fairness are those of Chouldechova (arXiv:1610.07524) and Dwork et al.
(arXiv:1104.3913); a local explanation follows Ribeiro et al. (arXiv:1602.04938).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pet_lab import accounting, data, dpsgd
from pet_lab.rows import Claim, Rows, streams, summarise

LABELS = {
    "prevalence": "prevalence (share of true cases)",
    "ppv_percent": "PPV (% of positive answers that are right)",
    "fnr": "false negative rate",
    "ppv": "positive predictive value",
    "base_rate": "base rate",
    "training": "trained",
    "base_rate_b": "base rate of the other group",
    "smallest_gap": "smallest possible largest gap",
    "forced_fpr_ratio": "FPR of the other group (times)",
}
GROUP_METRICS = ("base_rate", "accuracy", "fpr", "fnr", "ppv")
SMALLEST_GROUP = 10
MOST_MISSED = 0.5  # a classifier that misses more is of no use
EFFECT = "effect on the risk"


def base_rates(
    *, prevalences: Sequence[float], true_positive_rates: Sequence[float], fpr: float
) -> pd.DataFrame:
    """Rows (prevalence, tpr, fpr): `ppv_percent`, by Bayes' rule.

    Raises
    ------
    ValueError
        If a rate is outside (0, 1] for prevalence and TPR, or [0, 1] for FPR.
    """
    rows = Rows(fpr=fpr, part="base rate")
    for prevalence in prevalences:
        for tpr in true_positive_rates:
            if not (0 < prevalence <= 1 and 0 < tpr <= 1 and 0 <= fpr <= 1):
                raise ValueError(
                    "Expected shares: prevalence and TPR in (0, 1], FPR in [0, 1], got "
                    f"{prevalence}, {tpr} and {fpr}; 5 % is 0.05."
                )
            right = tpr * prevalence
            ppv = right / (right + fpr * (1 - prevalence))
            rows.add(prevalence=prevalence, tpr=tpr, metrics={"ppv_percent": 100 * ppv})
    return rows.frame()


# --- groups --------------------------------------------------------------------------------------


def features(
    frame: pd.DataFrame, *, target: str, leave_out: Sequence[str], group: str
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.str_], tuple[str, ...]]:
    """Scaled features without those left out, classes, group of each row, and the features' names.

    Raises
    ------
    ValueError
        If there is no such column, or a group has fewer than ten members.
    """
    if group not in frame:
        raise ValueError(f"Expected a column of groups, the table has no {group!r}.")
    groups = frame[group].astype(str).to_numpy()
    sizes = pd.Series(groups).value_counts()
    if len(sizes) < 2 or sizes.min() < SMALLEST_GROUP:
        raise ValueError(
            f"Expected two or more groups of at least {SMALLEST_GROUP} members, {group} has "
            f"{', '.join(f'{name} ({n})' for name, n in sizes.items())}; choose another column."
        )
    coded = data.encode(frame.drop(columns=[c for c in leave_out if c in frame]), target=target)
    return data.unit_range(coded.X), coded.y, groups, coded.feature_names


def by_group(
    y: NDArray[np.int64], answers: NDArray[np.int64], groups: NDArray[np.str_]
) -> pd.DataFrame:
    """Base rate, accuracy, FPR, FNR and PPV of each group, by fairlearn; NaN where 0/0."""
    from fairlearn import metrics as fl
    from sklearn.metrics import accuracy_score, precision_score

    chosen = {
        "base_rate": lambda truth, _: float(np.mean(truth)),
        "accuracy": accuracy_score,
        "fpr": fl.false_positive_rate,
        "fnr": fl.false_negative_rate,
        "ppv": lambda truth, called: precision_score(truth, called, zero_division=np.nan),
    }
    frame = fl.MetricFrame(metrics=chosen, y_true=y, y_pred=answers, sensitive_features=groups)
    return frame.by_group


def group_errors(
    X: NDArray[np.float64],
    y: NDArray[np.int64],
    groups: NDArray[np.str_],
    *,
    seed: int,
    replicates: int,
) -> pd.DataFrame:
    """Rows (training, group, replicate): GROUP_METRICS on held-out records of each group.

    Trainings: "on all", "on the largest group" (deployed where it was not trained), and
    "equalised" (fairlearn's ThresholdOptimizer on the first, for equalised odds).
    """
    from fairlearn.postprocessing import ThresholdOptimizer
    from sklearn.linear_model import LogisticRegression

    largest = pd.Series(groups).value_counts().index[0]
    rows = Rows(part="groups")
    for replicate, stream in streams(seed, replicates):
        train, test = data.split(y, fraction=0.5, rng=np.random.default_rng(stream), stratify=True)
        inside = train[groups[train] == largest]
        model = LogisticRegression(max_iter=1000)
        fair = ThresholdOptimizer(
            estimator=model,
            constraints="equalized_odds",
            predict_method="predict_proba",
            grid_size=200,
        ).fit(X[train], y[train], sensitive_features=groups[train])
        answers = {
            "on all": LogisticRegression(max_iter=1000).fit(X[train], y[train]).predict(X[test]),
            "on the largest group": model.fit(X[inside], y[inside]).predict(X[test]),
            "equalised": fair.predict(
                X[test], sensitive_features=groups[test], random_state=replicate
            ),
        }
        for training, predicted in answers.items():
            table = by_group(y[test], np.asarray(predicted), groups[test])
            for name, line in table.iterrows():
                rows.add(
                    training=training, group=str(name), replicate=replicate, metrics=dict(line)
                )
    return rows.frame()


def forced_fpr(base_rate: float, *, ppv: float, fnr: float) -> float:
    """The FPR that base rate, PPV and FNR leave no choice about (Chouldechova, equation 2.6)."""
    return base_rate / (1 - base_rate) * (1 - ppv) / ppv * (1 - fnr)


def impossibility(
    *, base_rate: float, other_base_rates: Sequence[float], separation: float = 1.5
) -> pd.DataFrame:
    """Rows (base_rate_b): `forced_fpr_ratio` at equal PPV and FNR, and `smallest_gap`.

    The gap is the largest difference in PPV, FPR and FNR between group a and group b, made as small
    as thresholds that miss at most half can make it: scores are normal with unit variance, `separation` apart by class.
    """
    from scipy import stats

    cuts = np.linspace(-1.5, separation + 1.5, 121)
    cuts = cuts[stats.norm.cdf(cuts, separation) <= MOST_MISSED]  # else: call nobody, and agree
    fnr, fpr = stats.norm.cdf(cuts, separation), stats.norm.sf(cuts)

    def rates(share: float) -> NDArray[np.float64]:
        ppv = share * (1 - fnr) / (share * (1 - fnr) + (1 - share) * fpr)
        return np.stack([ppv, fpr, fnr], axis=1)

    first, rows = rates(base_rate), Rows(part="impossible", base_rate_a=base_rate)
    for other in other_base_rates:
        gaps = np.abs(first[:, None] - rates(other)[None]).max(axis=2)
        ratio = forced_fpr(other, ppv=0.8, fnr=0.3) / forced_fpr(base_rate, ppv=0.8, fnr=0.3)
        rows.add(base_rate_b=other, metrics={"smallest_gap": gaps.min(), "forced_fpr_ratio": ratio})
    return rows.frame()


def private_training(
    X: NDArray[np.float64],
    y: NDArray[np.int64],
    groups: NDArray[np.str_],
    *,
    epsilons: Sequence[float],
    delta: float,
    seed: int,
    replicates: int,
) -> pd.DataFrame:
    """Rows (epsilon, group, replicate): accuracy of DP logistic regression, and without noise
    at epsilon inf.

    Poisson samples of 32 for 60 epochs, every record clipped to 1, noise by the PLD accountant for
    add/remove neighbours. Features are scaled by their extremes, which epsilon does not cover.
    """
    rows = Rows(part="private")
    settings: dict[str, Any] = {"batch_size": 32, "epochs": 60, "sampling": "poisson"}
    training_size = len(y) - round(len(y) / 2)
    noise = {
        e: accounting.noise_for(e, n=training_size, delta=delta, accountant="pld", **settings)
        for e in epsilons
    } | {np.inf: 0.0}
    configs = [
        dpsgd.Config(hidden=(), learning_rate=0.5, noise_multiplier=z, **settings)
        for z in noise.values()
    ]
    for replicate, stream in streams(seed, replicates):
        split_stream, *seeds = stream.spawn(1 + len(configs))
        train, test = data.split(y, fraction=0.5, rng=np.random.default_rng(split_stream))
        run = dpsgd.train(X[train], y[train], configs, seeds=seeds)
        for epsilon, logits in zip(noise, run.predict(X[test]), strict=True):
            for name in np.unique(groups[test]):
                own = groups[test] == name
                right = np.mean((logits[own] > 0) == y[test][own])
                rows.add(
                    epsilon=epsilon, group=name, replicate=replicate, metrics={"accuracy": right}
                )
    return rows.frame()


# --- single predictions --------------------------------------------------------------------------


def single_predictions(
    X: NDArray[np.float64],
    y: NDArray[np.int64],
    groups: NDArray[np.str_],
    names: Sequence[str],
    *,
    group: str,
    widths: Sequence[float],
    seed: int,
) -> pd.DataFrame:
    """What-if, proxies, individual fairness and a local explanation of one forest.

    Metrics: `what_if` (largest change of the probability when only the group is flipped),
    `proxy_auc` (the group, predicted from all other features), `lipschitz` at quantiles of pairs
    (|f(x) - f(x')| over the distance), `same_sign` by kernel width (share of a local linear
    model's weights that keep their sign against the narrowest width).
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import cross_val_predict

    rng = np.random.default_rng(seed)
    rows = Rows(part="single")
    forest = RandomForestClassifier(100, min_samples_leaf=5, random_state=seed).fit(X, y)
    own = [j for j, name in enumerate(names) if name.startswith(f"{group}_")]
    flipped = X.copy()
    flipped[:, own] = 1 - flipped[:, own]
    base = forest.predict_proba(X)[:, 1]
    change = np.abs(forest.predict_proba(flipped)[:, 1] - base)
    member = groups == groups[0]
    others = np.delete(X, own, axis=1)
    guess = cross_val_predict(
        LogisticRegression(max_iter=1000), others, member, cv=5, method="predict_proba"
    )[:, 1]
    rows.add(metrics={"what_if": change.max(), "proxy_auc": roc_auc_score(member, guess)})
    i, j = rng.integers(len(X), size=(2, 20_000))
    distance = np.linalg.norm(X[i] - X[j], axis=1)
    ratio = np.abs(base[i] - base[j])[distance > 0] / distance[distance > 0]
    for quantile in (0.5, 0.99, 1.0):
        rows.add(quantile=quantile, metrics={"lipschitz": np.quantile(ratio, quantile)})
    weights = {}
    centre = X[np.argmin(np.abs(base - 0.5))]
    near = np.clip(centre + rng.normal(0, 0.5, (2000, X.shape[1])), 0, 1)
    answers = forest.predict_proba(near)[:, 1]
    for width in widths:
        kernel = np.exp(-np.sum((near - centre) ** 2, axis=1) / (width**2 * X.shape[1]))
        weights[width] = Ridge(alpha=1.0).fit(near, answers, sample_weight=kernel).coef_
        same = np.mean(np.sign(weights[width]) == np.sign(weights[widths[0]]))
        rows.add(kernel_width=width, metrics={"same_sign": same})
    return rows.frame()


def confounded(*, strengths: Sequence[float], people: int, seed: int) -> pd.DataFrame:
    """Rows (confounding, effect): risk of the treated minus the others, "seen" and "done" (randomised).

    Severity raises both the chance of a treatment and of a bad outcome; the treatment itself lowers
    the risk by 0.1. What is seen may say the opposite of what is done.
    """
    rng, rows = np.random.default_rng(seed), Rows(part="cause")
    for strength in strengths:
        severe = rng.random(people) < 0.5
        chosen = rng.random(people) < 0.5 + strength * (severe - 0.5)
        drawn = rng.random(people) < 0.5
        for effect, treated in (("seen", chosen), ("done", drawn)):
            bad = rng.random(people) < 0.2 + 0.4 * severe - 0.1 * treated
            value = bad[treated].mean() - bad[~treated].mean()
            error = np.sqrt(
                bad[treated].var() / treated.sum() + bad[~treated].var() / (~treated).sum()
            )
            rows.add(
                confounding=strength, effect=effect, metrics={EFFECT: value}, se={EFFECT: error}
            )
    return rows.frame()


# --- what is said --------------------------------------------------------------------------------


def group_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over replicates by training and group, one column a metric."""
    part = rows[rows["part"] == "groups"]
    means = summarise(part, ["training", "group", "metric"])
    table = means.pivot(index=["training", "group"], columns="metric", values="mean")
    return table[list(GROUP_METRICS)].rename_axis(columns=None).reset_index()


def single_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Question, value and what it leaves open, of the single predictions."""
    part = rows[rows["part"] == "single"]
    questions = {
        "what_if": (
            "Largest change when only the group is flipped",
            "other features still tell the group",
        ),
        "proxy_auc": (
            "AUC of the group, guessed from all other features",
            "which of them are causes",
        ),
        "lipschitz": (
            "Change of the answer per unit of distance, quantile {quantile:g}",
            "which distance is just",
        ),
        "same_sign": (
            "Local weights with the sign of the narrowest kernel, width {kernel_width:g}",
            "which width is right",
        ),
    }
    lines = [
        {"question": question.format(**line), "value": line["value"], "left open": left_open}
        for line in ({str(k): v for k, v in row.items()} for row in part.to_dict("records"))
        for question, left_open in [questions[line["metric"]]]
    ]
    return pd.DataFrame(lines)


def assumptions(epsilons: Sequence[float], delta: float) -> str:
    """The privacy statement of `private_training`."""
    shown = ", ".join(f"{e:g}" for e in epsilons)
    return (
        f"Private training at epsilon {shown}, delta {delta:g} (PLD accountant, Poisson samples, add or remove one "
        "record); scaling by the table's extremes and everything else in this notebook is not private."
    )


def explore(
    prevalence_percent: float = 0.1, tpr: float = 1.0, fpr: float = 0.05
) -> Mapping[str, Any]:
    """Of a million people: who is called, and how many of those rightly."""
    cases = 1e6 * prevalence_percent / 100
    right, wrong = cases * tpr, (1e6 - cases) * fpr
    return {
        "called rightly": round(right),
        "called wrongly": round(wrong),
        "missed": round(cases - right),
        "of those called, right (%)": 100 * right / (right + wrong) if right + wrong else 0.0,
    }


def _mean(rows: pd.DataFrame, **where: Any) -> tuple[float, float]:
    part: Any = rows.dropna(subset=["value"])
    for column, value in where.items():
        part = part[part[column] == value]
    return float(part["value"].mean()), float(part["value"].sem())


def takeaways(rows: pd.DataFrame) -> list[Claim]:
    """The notebook's sentences, with their numbers."""
    ppv = rows[(rows["metric"] == "ppv_percent") & (rows["tpr"] == rows["tpr"].max())]
    rare = ppv.loc[ppv["prevalence"].idxmin()]
    table: Any = group_table(rows).set_index(["training", "group"])
    sizes = table.loc["on all"]
    low, high = sizes["base_rate"].idxmin(), sizes["base_rate"].idxmax()
    fpr = {
        t: abs(table.loc[t].loc[low, "fpr"] - table.loc[t].loc[high, "fpr"])
        for t in table.index.levels[0]
    }
    gaps = rows[rows["metric"] == "smallest_gap"].set_index("base_rate_b")["value"]
    equal = rows["base_rate_a"].dropna().iloc[0]
    single = rows[rows["part"] == "single"].set_index("metric")["value"]
    cause = rows[rows["part"] == "cause"].pivot_table(
        index="confounding", columns="effect", values="value"
    )
    worst = cause.loc[cause.index.max()]
    private = rows[rows["part"] == "private"]
    budget = private["epsilon"].min()
    losses = {}
    for name in private["group"].unique():
        free = _mean(private, group=name, epsilon=np.inf)
        noisy = _mean(private, group=name, epsilon=budget)
        losses[name] = (free[0] - noisy[0], float(np.hypot(free[1], noisy[1])))
    (one, (loss_a, se_a)), (two, (loss_b, se_b)) = list(losses.items())[:2]
    apart = abs(loss_a - loss_b) / np.hypot(se_a, se_b)
    return [
        Claim(
            "At a prevalence of {prevalence:g} a classifier with {fpr:.0%} false alarms is right in {ppv:.1f}% of "
            "its alarms, although it misses {missed:.0%} of the cases.",
            prevalence=rare["prevalence"],
            fpr=rare["fpr"],
            ppv=rare["value"],
            missed=1 - rare["tpr"],
        ),
        Claim(
            "Base rates are {a:.0%} ({low}) and {b:.0%} ({high}); the false positive rates lie {gap:.0%} apart, "
            "{after:.0%} once odds are equalised.",
            holds=fpr["equalised"] < fpr["on all"],
            otherwise="Equalising odds did not bring the false positive rates of {low} and {high} together on "
            "held-out records: {gap:.0%} apart before, {after:.0%} after.",
            low=low,
            high=high,
            a=sizes.loc[low, "base_rate"],
            b=sizes.loc[high, "base_rate"],
            gap=fpr["on all"],
            after=fpr["equalised"],
        ),
        Claim(
            "PPV, FPR and FNR cannot agree at once where base rates differ: the closest pair of thresholds leaves a "
            "gap of {gap:.2f} at {far:.0%} against {equal:.0%}.",
            holds=gaps.iloc[-1] > 0.01,
            gap=gaps.iloc[-1],
            far=gaps.index[-1],
            equal=equal,
        ),
        Claim(
            "Leaving the group out does not hide it: from the other features it is guessed with an AUC of {auc:.2f}.",
            holds=single["proxy_auc"] > 0.6,
            otherwise="The other features hardly tell the group (AUC {auc:.2f}).",
            auc=single["proxy_auc"],
        ),
        Claim(
            "A treatment that lowers the risk by {done:.2f} looks as if it changed it by {seen:+.2f} where the severely "
            "ill get it more often.",
            holds=worst["seen"] > 0 > worst["done"],
            done=-worst["done"],
            seen=worst["seen"],
            otherwise="Seen and done effects have the same sign here: {seen:+.2f} and -{done:.2f}.",
        ),
        Claim(
            "At epsilon {epsilon:g} group {one} loses {a:.1%} of accuracy and {two} {b:.1%}, a difference of {apart:.1f} "
            "standard errors.",
            holds=apart > 2,
            epsilon=budget,
            one=one,
            two=two,
            a=loss_a,
            b=loss_b,
            apart=apart,
            otherwise="At epsilon {epsilon:g} group {one} loses {a:.1%} of accuracy and {two} {b:.1%}; the difference is "
            "within its error ({apart:.1f} standard errors), so these records do not tell who pays more.",
        ),
    ]
