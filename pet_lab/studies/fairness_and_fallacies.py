"""Base rates, groups and single predictions: what a classifier's accuracy does not tell.

Definitions of fairness are those of Chouldechova (arXiv:1610.07524) and Dwork et al.
(arXiv:1104.3913); a local explanation follows Ribeiro et al. (arXiv:1602.04938).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, precision_score, roc_auc_score
from sklearn.model_selection import cross_val_predict

from pet_lab import accounting, data, dpsgd
from pet_lab.checks import between, distinct, require, whole
from pet_lab.rows import Claim, Rows, claims, means, only, streams, summarise, wide

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
SMALLEST_GROUP = 10
MOST_MISSED = 0.5  # a classifier that misses more is of no use
EFFECT = "effect on the risk"
PRIVATE: dict[str, Any] = {"batch_size": 32, "epochs": 60, "sampling": "poisson"}
Records = Iterator[dict[str, Any]]
"""Factors, metrics and standard errors as `Rows.add` takes them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Settings:
    """Parameters as in the notebook; ValueError if they or the groups of `frame` do not fit."""

    frame: pd.DataFrame
    target: str
    leave_out: Sequence[str]
    group: str
    prevalences: Sequence[float] = (0.001,)
    fpr: float = 0.05
    base_rate_a: float = 0.3
    base_rates_b: Sequence[float] = (0.7,)
    epsilons: Sequence[float] = (1.0,)
    delta: float = 1e-5
    replicates: int
    seed: int

    def __post_init__(self) -> None:
        column = f"Expected a column of groups, the table has no {self.group!r}."
        require(self.group in self.frame, column)
        sizes = pd.Series(self.groups).value_counts()
        require(
            len(sizes) >= 2 and sizes.min() >= SMALLEST_GROUP,
            f"Expected two or more groups of at least {SMALLEST_GROUP} members, {self.group} has "
            f"{', '.join(f'{name} ({n})' for name, n in sizes.items())}; choose another column.",
        )
        between(0, 1, fpr=self.fpr, hint="5 % is 0.05")
        distinct(prevalences=self.prevalences, base_rates_b=self.base_rates_b)
        distinct(epsilons=self.epsilons)
        for rate in (*self.prevalences, self.base_rate_a, *self.base_rates_b):
            require(0 < rate < 1, f"Prevalences and base rates are between 0 and 1, got {rate}.")
        for epsilon in self.epsilons:
            between(0.01, 1e6, epsilon=epsilon, hint="training without noise is always shown")
        require(0 < self.delta < 1, f"delta is between 0 and 1, got {self.delta}.")
        whole(1, replicates=self.replicates)
        whole(0, seed=self.seed)
        batch, records = PRIVATE["batch_size"], len(self.frame)
        few = f"Half of the records fill a batch of {batch}, got {records} records; add some."
        require(records // 2 >= batch, few)

    @cached_property
    def groups(self) -> NDArray[np.str_]:
        """Group of each record."""
        return self.frame[self.group].astype(str).to_numpy()

    @cached_property
    def encoded(self) -> data.Encoded:
        """The table as numbers, without the columns left out."""
        left_out = [c for c in self.leave_out if c in self.frame]
        return data.encode(self.frame.drop(columns=left_out), target=self.target)

    @cached_property
    def X(self) -> NDArray[np.float64]:
        """Features from 0 to 1."""
        return data.unit_range(self.encoded.X)


def simulate(s: Settings) -> pd.DataFrame:
    """Rows of all parts, by the column `part`."""
    rows = Rows()
    parts = {
        "base rate": base_rates(s),
        "groups": group_errors(s),
        "impossible": impossibility(s),
        "private": private_training(s),
        "single": single_predictions(s),
        "cause": confounded([0.0, 0.4, 0.8], people=20_000, seed=s.seed),
    }
    for part, records in parts.items():
        for record in records:
            rows.add(part=part, **record)
    return rows.frame()


def positive_value(prevalence: float, tpr: float, fpr: float) -> float:
    """Share of positive answers that are right, by Bayes' rule."""
    right = tpr * prevalence
    return right / (right + fpr * (1 - prevalence))


def base_rates(s: Settings) -> Records:
    """`ppv_percent` of a classifier that misses some or none."""
    for prevalence in s.prevalences:
        for tpr in (0.8, 1.0):
            metrics = {"ppv_percent": 100 * positive_value(prevalence, tpr, s.fpr)}
            yield {"fpr": s.fpr, "prevalence": prevalence, "tpr": tpr, "metrics": metrics}


# --- groups --------------------------------------------------------------------------------------


def by_group(
    y: NDArray[np.int64], answers: NDArray[np.int64], groups: NDArray[np.str_]
) -> pd.DataFrame:
    """Base rate, accuracy, FPR, FNR and PPV of each group, by fairlearn; NaN where 0/0."""
    from fairlearn import metrics as fl

    chosen = {
        "base_rate": lambda truth, _: float(np.mean(truth)),
        "accuracy": accuracy_score,
        "fpr": fl.false_positive_rate,
        "fnr": fl.false_negative_rate,
        "ppv": lambda truth, called: precision_score(truth, called, zero_division=np.nan),
    }
    frame = fl.MetricFrame(metrics=chosen, y_true=y, y_pred=answers, sensitive_features=groups)
    return frame.by_group


def group_errors(s: Settings) -> Records:
    """Base rate, accuracy, FPR, FNR and PPV on held-out records of each group, by training.

    Trainings: "on all", "on the largest group" (deployed where it was not trained), and
    "equalised" (fairlearn's ThresholdOptimizer on the first, for equalised odds).
    """
    from fairlearn.postprocessing import ThresholdOptimizer

    X, y, groups = s.X, s.encoded.y, s.groups
    largest = pd.Series(groups).value_counts().index[0]
    model = LogisticRegression(max_iter=1000)
    how = {"constraints": "equalized_odds", "predict_method": "predict_proba", "grid_size": 200}
    for replicate, stream in streams(s.seed, s.replicates):
        train, test = data.split(y, fraction=0.5, rng=np.random.default_rng(stream), stratify=True)
        inside = train[groups[train] == largest]
        fair = ThresholdOptimizer(estimator=model, **how)
        fair.fit(X[train], y[train], sensitive_features=groups[train])
        known = {"sensitive_features": groups[test], "random_state": replicate}
        answers = {
            "on all": model.fit(X[train], y[train]).predict(X[test]),
            "on the largest group": model.fit(X[inside], y[inside]).predict(X[test]),
            "equalised": fair.predict(X[test], **known),
        }
        for training, predicted in answers.items():
            table = by_group(y[test], np.asarray(predicted), groups[test])
            for name, line in table.iterrows():
                who = {"training": training, "group": str(name), "replicate": replicate}
                yield who | {"metrics": dict(line)}


def forced_fpr(base_rate: float, *, ppv: float, fnr: float) -> float:
    """The FPR that base rate, PPV and FNR leave no choice about (Chouldechova, equation 2.6)."""
    return base_rate / (1 - base_rate) * (1 - ppv) / ppv * (1 - fnr)


def smallest_gap(base_rate: float, other: float, *, separation: float = 1.5) -> float:
    """The largest difference in PPV, FPR and FNR between two groups, made as small as can be.

    By thresholds that miss at most half; scores are normal with unit variance, `separation` apart
    by class.
    """
    cuts = np.linspace(-1.5, separation + 1.5, 121)
    cuts = cuts[stats.norm.cdf(cuts, separation) <= MOST_MISSED]  # else: call nobody, and agree
    fnr, fpr = stats.norm.cdf(cuts, separation), stats.norm.sf(cuts)
    a, b = (
        np.stack([positive_value(share, 1 - fnr, fpr), fpr, fnr], axis=1)
        for share in (base_rate, other)
    )
    return float(np.abs(a[:, None] - b[None]).max(axis=2).min())


def impossibility(s: Settings) -> Records:
    """`forced_fpr_ratio` at equal PPV and FNR, and `smallest_gap`, by the other base rate."""
    first = forced_fpr(s.base_rate_a, ppv=0.8, fnr=0.3)
    for other in s.base_rates_b:
        ratio = forced_fpr(other, ppv=0.8, fnr=0.3) / first
        gap = smallest_gap(s.base_rate_a, other)
        metrics = {"smallest_gap": gap, "forced_fpr_ratio": ratio}
        yield {"base_rate_a": s.base_rate_a, "base_rate_b": other, "metrics": metrics}


def private_training(s: Settings) -> Records:
    """Accuracy of each group under DP logistic regression, and without noise at epsilon inf.

    Every record clipped to 1, noise by the PLD accountant for add/remove neighbours. Features are
    scaled by their extremes, which epsilon does not cover.
    """
    X, y, n = s.X, s.encoded.y, len(s.groups) - round(len(s.groups) / 2)
    how: dict[str, Any] = {"n": n, "delta": s.delta, "accountant": "pld"} | PRIVATE
    noise = {e: accounting.noise_for(e, **how) for e in s.epsilons} | {np.inf: 0.0}
    configs = [
        dpsgd.Config(hidden=(), learning_rate=0.5, noise_multiplier=z, **PRIVATE)
        for z in noise.values()
    ]
    for replicate, stream in streams(s.seed, s.replicates):
        split_stream, *seeds = stream.spawn(1 + len(configs))
        train, test = data.split(y, fraction=0.5, rng=np.random.default_rng(split_stream))
        run = dpsgd.train(X[train], y[train], configs, seeds=seeds)
        for epsilon, logits in zip(noise, run.predict(X[test]), strict=True):
            right = pd.Series((logits > 0) == y[test]).groupby(s.groups[test]).mean()
            for name, accuracy in right.items():
                who = {"epsilon": epsilon, "group": name, "replicate": replicate}
                yield who | {"metrics": {"accuracy": accuracy}}


# --- single predictions --------------------------------------------------------------------------


def single_predictions(s: Settings) -> Records:
    """What-if, proxies, individual fairness and a local explanation of one forest.

    Metrics: `what_if` (largest change of the probability when only the group is flipped),
    `proxy_auc` (the group, predicted from all other features), `lipschitz` at quantiles of pairs
    (|f(x) - f(x')| over the distance), `same_sign` by kernel width (share of a local linear
    model's weights that keep their sign against the narrowest width).
    """
    X, y, rng = s.X, s.encoded.y, np.random.default_rng(s.seed)
    forest = RandomForestClassifier(100, min_samples_leaf=5, random_state=s.seed).fit(X, y)
    own = [j for j, (column, _) in enumerate(s.encoded.features) if column == s.group]
    flipped = X.copy()
    flipped[:, own] = 1 - flipped[:, own]
    base = forest.predict_proba(X)[:, 1]
    change = np.abs(forest.predict_proba(flipped)[:, 1] - base)
    member, others = s.groups == s.groups[0], np.delete(X, own, axis=1)
    how = {"cv": 5, "method": "predict_proba"}
    guess = cross_val_predict(LogisticRegression(max_iter=1000), others, member, **how)[:, 1]
    yield {"metrics": {"what_if": change.max(), "proxy_auc": roc_auc_score(member, guess)}}
    i, j = rng.integers(len(X), size=(2, 20_000))
    distance = np.linalg.norm(X[i] - X[j], axis=1)
    ratio = np.abs(base[i] - base[j])[distance > 0] / distance[distance > 0]
    for quantile in (0.5, 0.99, 1.0):
        yield {"quantile": quantile, "metrics": {"lipschitz": np.quantile(ratio, quantile)}}
    centre = X[np.argmin(np.abs(base - 0.5))]
    near = np.clip(centre + rng.normal(0, 0.5, (2000, X.shape[1])), 0, 1)
    answers, signs = forest.predict_proba(near)[:, 1], []
    for width in (0.3, 0.5, 1.0):
        kernel = np.exp(-np.sum((near - centre) ** 2, axis=1) / (width**2 * X.shape[1]))
        signs.append(np.sign(Ridge(alpha=1.0).fit(near, answers, sample_weight=kernel).coef_))
        yield {"kernel_width": width, "metrics": {"same_sign": np.mean(signs[-1] == signs[0])}}


def confounded(strengths: Sequence[float], *, people: int, seed: int) -> Records:
    """Risk of the treated minus the others, "seen" and "done" (randomised), by confounding.

    Severity raises both the chance of a treatment and of a bad outcome; the treatment itself lowers
    the risk by 0.1. What is seen may say the opposite of what is done.
    """
    rng = np.random.default_rng(seed)
    for strength in strengths:
        severe = rng.random(people) < 0.5
        chosen = rng.random(people) < 0.5 + strength * (severe - 0.5)
        drawn = rng.random(people) < 0.5
        for effect, treated in (("seen", chosen), ("done", drawn)):
            bad = rng.random(people) < 0.2 + 0.4 * severe - 0.1 * treated
            sides = bad[treated], bad[~treated]
            error = np.sqrt(sum(side.var() / side.size for side in sides))
            value = {"metrics": {EFFECT: sides[0].mean() - sides[1].mean()}, "se": {EFFECT: error}}
            yield {"confounding": strength, "effect": effect} | value


# --- what is said --------------------------------------------------------------------------------

QUESTIONS = {  # and what the answer leaves open
    "what_if": ("Largest change when only the group is flipped", "other features still tell it"),
    "proxy_auc": ("AUC of the group, guessed from all other features", "which of them are causes"),
    "lipschitz": ("Change per unit of distance, quantile {0.quantile:g}", "which distance is just"),
    "same_sign": (
        "Local weights with the narrowest kernel's sign, width {0.kernel_width:g}",
        "which width is right",
    ),
}


def single_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Question, value and what it leaves open, of the single predictions."""
    lines = []
    for line in only(rows, part="single").itertuples():
        question, left_open = QUESTIONS[str(line.metric)]
        lines.append((question.format(line), line.value, left_open))
    return pd.DataFrame(lines, columns=["question", "value", "left open"])


def assumptions(s: Settings) -> str:
    """The privacy statement of `private_training`."""
    shown = ", ".join(f"{e:g}" for e in s.epsilons)
    return (
        f"Private training at epsilon {shown}, delta {s.delta:g} (PLD accountant, Poisson samples, "
        "add or remove one record); scaling by the table's extremes and everything else in this "
        "notebook is not private."
    )


def explore(prevalence_percent: float = 0.1, tpr: float = 1.0, fpr: float = 0.05) -> dict[str, Any]:
    """Of a million people: who is called, and how many of those rightly."""
    cases = 1e6 * prevalence_percent / 100
    right, wrong = cases * tpr, (1e6 - cases) * fpr
    return {
        "called rightly": round(right),
        "called wrongly": round(wrong),
        "missed": round(cases - right),
        "of those called, right (%)": 100 * right / (right + wrong) if right + wrong else 0.0,
    }


def takeaways(rows: pd.DataFrame) -> list[Claim]:
    """The notebook's sentences, with their numbers."""
    ppv = only(rows, metric="ppv_percent", tpr=rows["tpr"].max())
    rare, gap = ppv.nsmallest(1, "prevalence").iloc[0], only(rows, metric="smallest_gap").iloc[-1]
    groups = wide(only(rows, part="groups"), index=["training", "group"])
    table: Any = groups.pivot(index="group", columns="training")
    base = table["base_rate", "on all"]
    low, high = base.idxmin(), base.idxmax()
    apart = (table["fpr"].loc[low] - table["fpr"].loc[high]).abs()
    auc = only(rows, metric="proxy_auc")["value"].iloc[0]
    cause = means(rows, "confounding", "effect", part="cause").unstack()
    worst = cause.loc[cause.index.max()]
    private = summarise(only(rows, part="private"), ["group", "epsilon"])
    by: Any = private.pivot(index="group", columns="epsilon")
    budget = private["epsilon"].min()
    lost = by["mean", np.inf] - by["mean", budget]
    error: Any = np.hypot(by["se", np.inf], by["se", budget])
    one, two = lost.index[:2]
    errors = abs(lost[one] - lost[two]) / np.hypot(error[one], error[two])
    sentences = [
        ("At a prevalence of {rare[prevalence]:g} a classifier with {rare[fpr]:.0%} false alarms is right "
         "in {rare[value]:.1f}% of its alarms, although it misses {missed:.0%} of the cases.",),
        ("Base rates are {base_low:.0%} ({low}) and {base_high:.0%} ({high}); the false positive rates "
         "lie {apart[on all]:.0%} apart, {apart[equalised]:.0%} once odds are equalised.",
         apart["equalised"] < apart["on all"],
         "Equalising odds did not bring the false positive rates of {low} and {high} together "
         "on held-out records: {apart[on all]:.0%} apart before, {apart[equalised]:.0%} after."),
        ("PPV, FPR and FNR cannot agree at once where base rates differ: the closest pair of thresholds "
         "leaves a gap of {gap[value]:.2f} at {gap[base_rate_b]:.0%} against {gap[base_rate_a]:.0%}.",
         gap["value"] > 0.01),
        ("Leaving the group out does not hide it: from the other features it is guessed with an AUC of "
         "{auc:.2f}.", auc > 0.6, "The other features hardly tell the group (AUC {auc:.2f})."),
        ("A treatment that lowers the risk by {lowers:.2f} looks as if it changed it by {seen:+.2f} where "
         "the severely ill get it more often.", worst["seen"] > 0 > worst["done"],
         "Seen and done effects have the same sign here: {seen:+.2f} and -{lowers:.2f}."),
        ("At epsilon {epsilon:g} group {one} loses {lost_one:.1%} of accuracy and {two} {lost_two:.1%}, a "
         "difference of {errors:.1f} standard errors.", errors > 2,
         "At epsilon {epsilon:g} group {one} loses {lost_one:.1%} of accuracy and {two} {lost_two:.1%}; "
         "the difference is within its error ({errors:.1f} standard errors), so these records do not "
         "tell who pays more."),
    ]  # fmt: skip
    return claims(
        sentences, rare=rare, missed=1 - rare["tpr"], low=low, high=high, base_low=base[low],
        base_high=base[high], apart=apart, gap=gap, auc=auc, seen=worst["seen"],
        lowers=-worst["done"], epsilon=budget, one=one, two=two, lost_one=lost[one],
        lost_two=lost[two], errors=errors,
    )  # fmt: skip
