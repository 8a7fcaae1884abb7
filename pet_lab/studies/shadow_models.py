"""Shokri's shadow-model attack and LiRA on targets with and without DP (UNECE, table 3.5).

The targets as published, and those without DP, are trained by our engine; tensorflow-privacy trains
`library_runs` of them and all their imitations too, and is scored where the two are told apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, get_args

import numpy as np
import pandas as pd
from scipy import stats

from pet_lab import accounting, checks, data, dpsgd, mia
from pet_lab import agreement as beside
from pet_lab.dpsgd.config import Engine
from pet_lab.rows import Claim, Rows, concat, fill, streams, summarise, symbols, wide

LABELS = {
    "mia.auc": "AUC of the attack",
    "accuracy": "accuracy of the attack",
    "balanced_accuracy": "balanced accuracy",
    "accuracy.always_member": "accuracy of always “member”",
    "attack_model": "attack model of",
    "says_member": "share called members",
    "rebuilt.called": "share called members",
    "rebuilt.members": "of these members",
    "rebuilt.training_set": "share of the training set",
    "rebuilt.copies": "synthesised records in the training set",
    "search.accuracy": "accuracy",
    "search.recall.class0": "recall of class 0",
    "search.recall.class1": "recall of class 1",
    "distance": "farthest from print",
}
FULL_BATCH = "dp-sgd, all records at once"
FEW_STEPS = dpsgd.Config(  # on all records
    hidden=(), sampling="full", batch_size=None, epochs=20, learning_rate=0.5, clip=1.0
)
SEARCHED = {"learning_rate": (0.1, 0.25, 0.5, 1.0, 2.0, 4.0), "epochs": (2, 5, 10, 20)}
SEARCHES = 100  # at most so many trainings of each of these settings
PRINTED = ("target.accuracy", "target.recall.class0", "target.recall.class1")  # what they go by
REBUILT = [f"rebuilt.{x}" for x in ("called", "members", "training_set", "copies")]
LIBRARIES = {"published": beside.TFP}
SHOWN = ["target.accuracy", "target.recall.class0", "accuracy", "mia.auc"]  # of the agreement
JUDGED = ["accuracy", "accuracy.always_member", "balanced_accuracy", "mia.auc"]


@dataclass(frozen=True, kw_only=True)
class Victim:
    """A kind of target to attack: its name, stated epsilon, reading, and how it is trained."""

    target: str
    epsilon: float
    reading: str = "described"
    config: dpsgd.Config


@dataclass(frozen=True, kw_only=True, eq=False)
class Settings:
    """What is run; parameters that cannot go together are refused before anything is trained.

    The attacker knows the `domain` of the records (X from 0 to 1, y 0 or 1) and attacks `plain`
    and, with noise for epsilon at delta, `private`; `natural` are the features in their units, see
    `natural_units`, or None. A target is not trained on the share `held_out`; it has as many
    imitations as `shadow_models`. `confidence` is the threshold of the synthesis.
    """

    X: np.ndarray
    y: np.ndarray
    domain: mia.Domain
    natural: np.ndarray | None = None
    plain: dpsgd.Config
    private: dpsgd.Config
    epsilon: float
    delta: float
    confidence: float = 0.8
    held_out: float = 0.25
    shadow_models: int
    replicates: int
    lira_models: int
    engine: Engine = "batched"
    library_runs: int = 0
    seed: int

    def __post_init__(self) -> None:
        sentence = f"held_out is a share in (0, 1), got {self.held_out:g}; usual is 0.25."
        checks.require(0 < self.held_out < 1 and self.members < len(self.y), sentence)
        checks.whole(1, shadow_models=self.shadow_models, replicates=self.replicates)
        checks.whole(16, lira_models=self.lira_models)
        checks.between(0, 1, confidence=self.confidence)
        checks.positive(dp_epsilon=self.epsilon)
        checks.whole(0, seed=self.seed, library_runs=self.library_runs)
        checks.one_of(get_args(Engine), engine=self.engine)
        smallest = min(self.members, len(self.y) // 2)  # of targets, and of LiRA's
        size = self.plain.batch_size or 1
        mia.check_plan(self.y, batch_size=size, members=smallest, delta=self.delta)
        how: dict[str, Any] = {"n": self.members, "delta": self.delta}
        for config in (replace(self.private, sampling="poisson"), FEW_STEPS):
            mia.check_spend(self.epsilon, config, **how)
        how |= {"batch_size": self.private.batch_size, "epochs": self.private.epochs}
        accounting.check_target(self.epsilon, claimed=True, **how)

    @property
    def members(self) -> int:
        """Records that a target is trained on."""
        return len(self.y) - round(self.held_out * len(self.y))

    @cached_property
    def victims(self) -> list[Victim]:
        """Without DP; with DP in two readings of its epsilon; another way to spend the same.

        As described: Poisson samples, every record clipped, the noise that the PLD accountant asks
        for. As published: shuffled batches, `num_microbatches=1`, the noise that
        tensorflow-privacy's deprecated function states. Last: logistic regression by a few steps on
        all records.
        """
        e, private = self.epsilon, self.private
        size: dict[str, Any] = {"n": self.members, "delta": self.delta}
        described = mia.spend(e, replace(private, sampling="poisson"), **size)
        full = mia.spend(e, FEW_STEPS, **size)
        size |= {"batch_size": private.batch_size, "epochs": private.epochs}
        stated = accounting.noise_for_claim(e, **size)
        published = replace(private, sampling="shuffle", microbatches=1, noise_multiplier=stated)
        return [
            Victim(target="non-private", epsilon=math.inf, config=self.plain),
            Victim(target="dp-sgd", epsilon=e, config=described),
            Victim(target="dp-sgd", epsilon=e, reading="published", config=published),
            Victim(target=FULL_BATCH, epsilon=e, config=full),
        ]

    @property
    def checked(self) -> bool:
        """Whether tensorflow-privacy trains beside our engine."""
        return self.library_runs > 0 and self.engine == "batched"

    def guarantee(self, victim: Victim) -> accounting.Guarantee:
        """What its training proves."""
        return accounting.of(victim.config, n=self.members, delta=self.delta, accountant="pld")


def natural_units(source: data.Dataset, target: str) -> np.ndarray | None:
    """Features centred on documented or stated ranges, so that scaling reads nothing off the data.

    Of the student table in their units, of an own one from -1 to 1; None where nothing is stated.
    """
    if source.provenance["name"] != data.student.ENTRY.name:
        encoded = data.encode(source.frame, target=target, domain=source.domain)
        return None if encoded.ranges is None else 2 * encoded.unit - 1
    table = data.binarise(source.frame, target).drop(columns=target)
    domain: Any = data.student.DOMAIN
    ranges = {str(c): (min(domain[c]), max(domain[c])) for c in table.select_dtypes("number")}
    one_hot = pd.get_dummies(table, dtype=float)
    return data.scale_by_range(one_hot, ranges, units={"absences": 46.5})


def simulate(s: Settings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All rows of the notebook, and LiRA's ROC curves (target, fpr, tpr).

    The target without DP counts for both readings: nothing about it is ambiguous.
    """
    *networks, rival = s.victims
    attacked = [shadow_attack(s, victim) for victim in networks]
    lira_rows, curves = lira(s, [v for v in networks if v.reading == "described"])
    twice = attacked[0].assign(reading="published")
    parts = [*attacked, twice, lira_rows, full_batch(s, rival), search(s)]
    if not s.checked:
        return concat(*parts), curves
    peer = replace(s, engine=beside.TFP, replicates=s.library_runs)
    name = f"published, {beside.TFP}"
    theirs = [shadow_attack(peer, v).assign(reading=name) for v in (networks[0], networks[2])]
    rows = concat(*parts, *theirs)
    return beside.judged(rows, agreement(rows), LIBRARIES, by=["target", "epsilon"]), curves


def agreement(rows: pd.DataFrame) -> pd.DataFrame:
    """Our engine beside tensorflow-privacy's optimisers, as published: see `pet_lab.agreement`."""
    part, by = rows[rows["metric"].isin(SHOWN)], ["target", "epsilon"]
    how: dict[str, Any] = {"column": "reading", "by": by, "detail": ["attack_model", "metric"]}
    return beside.agreement(part, LIBRARIES, **how)


def engines(s: Settings) -> pd.DataFrame:
    """`dpsgd.agreement` for the private target as published, on all records."""
    config = s.victims[2].config
    return dpsgd.agreement(s.X, s.y, config, seed=s.seed, delta=s.delta)


def shadow_attack(s: Settings, victim: Victim) -> pd.DataFrame:
    """Attack a new target of this kind in each replicate, by queries alone; judged on its real
    members and on the records held out.

    Rows: factors of the victim, attack_model ("class0", "class1" or ""), samples ("member",
    "nonmember" or ""), replicate, metric, value. Metrics target.* on the held-out records; for each
    attack model precision, recall, f1 by samples, and `JUDGED`; and queries, synthesis.confidence,
    rebuilt.* (of all records: share called members, share of those that are, share of the training
    set among them; synthesised records that are in it); synthesis.failed: 1 where the target hardly ever predicts a class, or its imitations teach no
    attack. It then has no attack rows, and `status` says why.
    """
    rows = Rows(target=victim.target, epsilon=victim.epsilon, reading=victim.reading)
    for r, stream in streams(s.seed, s.replicates):
        draw, training, *others = stream.spawn(3 + s.shadow_models)
        whole: dict[str, Any] = {"attack_model": "", "samples": "", "replicate": r}
        out = np.random.default_rng(draw).permutation(len(s.y)).argsort() < len(s.y) - s.members
        one_class = len(np.unique(s.y[~out])) < 2
        if not one_class:
            how: dict[str, Any] = {"members": ~out[None], "engine": s.engine, "curve_every": 0}
            target = dpsgd.train(s.X, s.y, victim.config, seeds=[training], **how)
        if one_class or target.diverged[0]:
            status = mia.ONE_CLASS if one_class else "the training diverged"
            rows.add(metrics={"target.accuracy": math.nan}, status=status, **whole)
            continue
        outputs = mia.from_logits(target.predict(s.X)[0], s.y)
        # Class 1 takes the place of "member" in these metrics.
        own = mia.decision_metrics(s.y[out] > 0, outputs.predicted[out] > 0)
        score = {"target.accuracy": own["all"]["accuracy"]}
        for label, side in (("class1", "member"), ("class0", "nonmember")):
            score |= {f"target.{m}.{label}": own[side][m] for m in ("precision", "recall")}
        rows.add(metrics=score, **whole)
        try:
            scores, facts = _scores(s, target, outputs, others, s.X[~out])
        except mia.SynthesisError as error:
            rows.add(metrics={"synthesis.failed": 1.0}, status=str(error), **whole)
            continue
        named = scores > 0.5
        facts["rebuilt.called"] = named.mean()
        facts["rebuilt.members"] = (~out)[named].mean() if named.any() else math.nan
        facts["rebuilt.training_set"] = named[~out].mean()
        rows.add(metrics={"synthesis.failed": 0.0, **facts}, **whole)
        for c in (0, 1):
            here = (outputs.predicted == c) & np.isfinite(scores)
            for samples, metrics in _judge(~out[here], scores[here]).items():
                rows.add(attack_model=f"class{c}", samples=samples, replicate=r, metrics=metrics)
    return rows.frame()


def _two_columns(logits: np.ndarray) -> np.ndarray:
    p = 1 / (1 + np.exp(-np.clip(logits.astype(float), -500, 500)))
    return np.stack([1 - p, p], axis=-1)


def _scores(
    s: Settings,
    target: dpsgd.Training,
    outputs: mia.Outputs,
    seeds: Sequence[Any],
    trained_on: np.ndarray,
) -> tuple[np.ndarray, dict[str, float]]:
    """The attack's scores of the real records, and what they took.

    Records of both classes are synthesised from the target's answers, and imitations (same
    configuration, as many records) trained on them in one program teach an attack per predicted
    class. A target that is never as sure of a class as `confidence` lowers that to 95 % of the best
    answer among 4096 random records.
    """
    rng = np.random.default_rng(seeds[0])

    def predict(X: np.ndarray) -> np.ndarray:
        return _two_columns(target.predict(X)[0])

    level = np.minimum(s.confidence, 0.95 * predict(s.domain.draw(4096, rng)).max(axis=0))
    how: dict[str, Any] = {"n": 2 * s.members, "rng": rng}
    parts = [
        mia.synthesise(predict, s.domain, label=c, confidence=float(level[c]), **how)
        for c in (0, 1)
    ]
    pool, labels = np.concatenate([X for X, _ in parts]), np.repeat([0, 1], 2 * s.members)
    train, test = mia.shadow_masks(s.shadow_models, len(pool), size=s.members, rng=rng)
    how = {"seeds": seeds[1:], "members": train, "engine": s.engine, "curve_every": 0}
    imitations = dpsgd.train(pool, labels, target.configs[0], **how)
    ok = ~imitations.diverged
    answers = _two_columns(imitations.predict(pool)[ok])
    scores = mia.shadow_scores(answers, train[ok], test[ok], outputs)
    known = {record.tobytes() for record in trained_on}
    facts = {
        "queries": sum(asked for _, asked in parts),
        "synthesis.confidence": float(level.min()),
        "rebuilt.copies": sum(record.tobytes() in known for record in pool),
    }
    return scores, facts


def _judge(member: np.ndarray, scores: np.ndarray) -> dict[str, dict[str, float]]:
    """Metrics of one attack model for members, non-members, and ("") all."""
    if not len(member):
        return {"": {"accuracy": math.nan}}
    decisions = mia.decision_metrics(member, scores > 0.5)
    both = member.any() and not member.all()
    area = mia.auc(scores[member], scores[~member]) if both else math.nan
    overall = decisions.pop("all") | {"accuracy.always_member": member.mean(), "mia.auc": area}
    return decisions | {"": overall}


def full_batch(s: Settings, rival: Victim) -> pd.DataFrame:
    """Rows of steps on all records: target.accuracy by hold-out, lira.auc by training.

    Where the ranges are not public (`natural` is None) one row says so.
    """
    place = {"target": rival.target, "epsilon": rival.epsilon, "reading": rival.reading}
    rows = Rows(**place, attack_model="", samples="")
    if s.natural is None:
        rows.add(metrics={"target.accuracy": math.nan}, status="no documented ranges to scale by")
        return rows.frame()
    draw, *seeds = np.random.SeedSequence(s.seed).spawn(1 + s.replicates)
    rank = np.random.default_rng(draw).random((s.replicates, len(s.y))).argsort(axis=1)
    out = rank.argsort(axis=1) < len(s.y) - s.members
    runs = dpsgd.train(s.natural, s.y, rival.config, seeds=seeds, members=~out, curve_every=0)
    right = (runs.predict(s.natural) > 0) == (s.y > 0)
    for r, share in enumerate((right & out).sum(axis=1) / out.sum(axis=1)):
        rows.add(replicate=r, metrics={"target.accuracy": share})
    _lira(rows, s, s.natural, rival.config)
    return rows.frame()


def search(s: Settings) -> pd.DataFrame:
    """The search for the DP target's step size and epochs, as described, and what it costs.

    Rows: learning_rate, epochs, replicate, metrics search.accuracy, search.recall.class0 and
    .class1 on the held-out records; and tuning.epsilon by `release`, see `accounting.after_search`.
    All settings spend `s.epsilon`, on the same hold-outs, initial weights and batches.
    """
    size: dict[str, Any] = {"n": s.members, "delta": s.delta}
    grid = []
    for epochs in SEARCHED["epochs"]:
        base = replace(s.private, sampling="poisson", epochs=int(epochs))
        base = mia.spend(s.epsilon, base, **size)
        grid += [replace(base, learning_rate=rate) for rate in SEARCHED["learning_rate"]]
    rows = Rows(target="search", epsilon=s.epsilon, reading="described")
    for release, epsilon in accounting.after_search(grid, **size).items():
        rows.add(release=release, metrics={"tuning.epsilon": epsilon})
    parts = [stream.spawn(2) for _, stream in streams(s.seed, min(s.replicates, SEARCHES))]
    out = np.array([np.random.default_rng(a).permutation(len(s.y)) for a, _ in parts])
    out = out.argsort(axis=1) < len(s.y) - s.members
    runs = dpsgd.train(
        s.X,
        s.y,
        [c for c in grid for _ in parts],
        seeds=[b for _, b in parts] * len(grid),
        members=np.tile(~out, (len(grid), 1)),
        curve_every=0,
    )
    answers = runs.predict(s.X).reshape(len(grid), len(parts), -1) > 0
    for config, predicted in zip(grid, answers, strict=True):
        place: Any = {"learning_rate": config.learning_rate, "epochs": config.epochs}
        for r, (held, positive) in enumerate(zip(out, predicted, strict=True)):
            own = mia.decision_metrics(s.y[held] > 0, positive[held])
            recalls = {f"class{c}": own[k]["recall"] for c, k in enumerate(("nonmember", "member"))}
            metrics = {"search.accuracy": own["all"]["accuracy"]}
            metrics |= {f"search.recall.{name}": value for name, value in recalls.items()}
            rows.add(replicate=r, metrics=metrics, **place)
    return rows.frame()


def searched(rows: pd.DataFrame, cells: pd.DataFrame) -> tuple[pd.DataFrame, Claim]:
    """Means of the settings searched, nearest to the printed DP target first; the cost in words.

    The distance is the largest of the three.
    """
    part = rows[rows["metric"].str.startswith("search.")]
    table = wide(part, index=["learning_rate", "epochs"])
    private = cells[(cells["target"] == "dp-sgd") & cells["attack_model"].isna()]
    printed = private.set_index("metric")["printed"].reindex(PRINTED).to_numpy(float)
    table["distance"] = np.abs(table.iloc[:, 2:] - printed).max(axis=1)
    cost = rows[rows["metric"] == "tuning.epsilon"].set_index("release")["value"]
    claim = Claim(
        "The {k} settings searched for the DP target, nearest to print first. Each spends ε = {epsilon:g} "
        "({one:.2f} by Rényi orders). Who keeps the best of a geometric number of trainings, {k} on "
        "average, spends {random:.2f} (Papernot and Steinke 2021, theorem 2); who trains all {k} spends "
        "{all:.2f} by composition, all at the same δ; a plain sum is {plain:.1f} at {k} δ. The score "
        "(print, records held out) must need no protection.",
        k=len(table),
        epsilon=part["epsilon"].iloc[0],
        plain=len(table) * part["epsilon"].iloc[0],
        **cost,
    )
    return table.sort_values("distance", ignore_index=True), claim


def lira(s: Settings, victims: Sequence[Victim]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """LiRA: rows (lira.auc by training, lira.tpr_at_* over all), and the ROC curves over all
    trainings (target, fpr, tpr)."""
    rows = Rows(reading="described", attack_model="", samples="")
    curves = [pd.DataFrame(columns=["fpr", "tpr", "target"])]
    for victim in victims:
        name = victim.target + (f", ε = {victim.epsilon:g}" if victim.config.private else "")
        if (curve := _lira(rows, s, s.X, victim.config, target=name)) is not None:
            rates = {f"lira.tpr_at_{f:g}": curve.tpr_at(f) for f in (0.001, 0.01)}
            rows.add(target=name, metrics=rates)
            curves.append(curve.frame().assign(target=name))
    return rows.frame(), concat(*curves) if curves[1:] else curves[0]


def _lira(
    rows: Rows, s: Settings, X: np.ndarray, config: dpsgd.Config, **place: Any
) -> mia.Roc | None:
    """Adds lira.auc by training; the ROC curve over all, or None and a row that says why not."""
    try:
        coins = mia.coin_trainings(X, s.y, config, models=s.lira_models, seed=s.seed)
        scores = mia.lira_leave_one_out(coins.statistics, coins.member)
    except ValueError as error:  # one class, or too few trainings with or without a record
        rows.add(metrics={"lira.auc": math.nan}, status=str(error), **place)
        return None
    for r, area in enumerate(coins.areas(scores)):
        rows.add(replicate=r, metrics={"lira.auc": area}, **place)
    return mia.roc(*coins.pooled(scores))


def implied(cells: pd.DataFrame) -> pd.DataFrame:
    """Accuracies that the printed precisions and recalls of table 3.5 imply, by attack."""
    attack = cells[cells["attack_model"].notna() & (cells["metric"] != "f1")]
    printed = attack.fillna({"samples": "all"}).pivot(
        index=["target", "attack_model"], columns=["metric", "samples"], values="printed"
    )
    p_m, p_n = printed["precision", "member"], printed["precision", "nonmember"]
    r_m, r_n = printed["recall", "member"], printed["recall", "nonmember"]
    ratio = r_m * (1 - p_m) / (p_m * (1 - r_n))  # non-members per member, by the members' numbers
    other = p_n * (1 - r_m) / (r_n * (1 - p_n))
    columns = {
        "accuracy, printed": printed["accuracy", "all"],
        "implied by the members": (r_m + r_n * ratio) / (1 + ratio),
        "implied by the non-members": (r_m + r_n * other) / (1 + other),
        "balanced accuracy": (r_m + r_n) / 2,
        "always answering member": 1 / (1 + ratio),
    }
    return pd.DataFrame(columns).reset_index()


def guarantees(s: Settings) -> pd.DataFrame:
    """What is stated of each target, and what is proven."""
    rows = Rows()
    for one in s.victims:
        facts = {"noise multiplier": one.config.noise_multiplier, "stated ε": one.epsilon}
        facts["proven ε"] = s.guarantee(one).epsilon
        rows.add(target=one.target, reading=one.reading, metrics=facts)
    return wide(rows.frame(), index=["target", "reading"])


def privacy(s: Settings) -> list[str]:
    """The guarantees of the private targets in words."""
    private = [one for one in s.victims if one.config.private]
    return [f"{one.target}, as {one.reading}: {s.guarantee(one)}" for one in private]


def target_accuracies(rows: pd.DataFrame) -> pd.DataFrame:
    """Means of the targets on held-out records, and how many could not be imitated."""
    part = rows[rows["metric"].str.startswith(("target.", "synthesis.failed"))]
    return wide(part, index=["target", "reading"])


def judged(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of what the attacks reach, by `setting`; the target without DP once."""
    part = rows[rows["metric"].isin(JUDGED)]
    part = part[(part["target"] != "non-private") | (part["reading"] == "described")]
    setting = part["target"] + ", as " + part["reading"]
    return part.assign(setting=setting).drop(columns="reading")


def verdicts(rows: pd.DataFrame) -> pd.DataFrame:
    """The same as a table of means with 95 % intervals."""
    means = summarise(judged(rows), ["setting", "attack_model", "metric"])
    half = means["se"] * stats.t.isf(0.025, np.maximum(means["n"] - 1, 1))
    texts = [symbols(f"{m:.3f} ± {h:.3f}") for m, h in zip(means["mean"], half, strict=True)]
    table = means.assign(text=texts).pivot(
        index=["setting", "attack_model"], columns="metric", values="text"
    )
    return fill(table.rename_axis(columns=None).reset_index())


def called_members(rows: pd.DataFrame, *, held_out: float) -> pd.DataFrame:
    """One line per attack as described: share called members, accuracy, balanced accuracy."""
    part = rows[(rows["reading"] == "described") & (rows["attack_model"] != "")]
    names = part["metric"] + part["samples"].map(lambda s: f".{s}" if s else "")
    index = ["target", "attack_model", "replicate"]
    table = part.assign(name=names).pivot(index=index, columns="name", values="value")
    others = 1 - table["recall.nonmember"]
    table["says_member"] = (1 - held_out) * table["recall.member"] + held_out * others
    return table[["says_member", "accuracy", "balanced_accuracy"]].dropna().reset_index()


def rebuilt(rows: pd.DataFrame, *, held_out: float) -> tuple[pd.DataFrame, Claim]:
    """How much of the training set the attack models let one rebuild, as described; the same in
    words."""
    part = rows[(rows["reading"] == "described") & rows["metric"].str.startswith("rebuilt.")]
    table = wide(part, index=["target"]).reindex(columns=["target", *REBUILT])
    first = table.set_index("target").reindex(["non-private"]).iloc[0]
    base = 1 - held_out
    numbers = {str(name).split(".")[1]: value for name, value in first.items()} | {"base": base}
    sentence = (
        "Without DP the attack calls {called:.0%} of all records members. They hold {training_set:.0%} "
        "of the training set, and {members:.0%} of them are members, where {base:.0%} of all records are"
    )
    claim = Claim(
        f"{sentence}: whoever has no list of candidates rebuilds nothing, for of the records that are "
        "synthesised {copies:.2g} a target are in the training set.",
        holds=first["rebuilt.copies"] < 1,
        otherwise=f"{sentence}; of the records that are synthesised {{copies:.2g}} a target are in the "
        "training set (nan: no target could be imitated).",
        **numbers,
    )
    return table, claim


def _means(rows: pd.DataFrame, metric: str) -> pd.Series:
    """By target and attack model, as described."""
    part = rows[(rows["metric"] == metric) & (rows["reading"] == "described")]
    return part.groupby(["target", "attack_model"], sort=False)["value"].mean()


def headline(rows: pd.DataFrame) -> Claim:
    """One sentence: the shadow attack with and without DP."""
    areas = _means(rows, "mia.auc").groupby("target").agg(["min", "max"])
    ends = areas.reindex(["non-private", "dp-sgd"])
    plain, private = ends.to_numpy()
    epsilon = rows.loc[rows["target"] == "dp-sgd", "epsilon"].min()
    return Claim(
        "The shadow attack's AUC is {plain[0]:.2f} to {plain[1]:.2f} without DP and {private[0]:.2f} "
        "to {private[1]:.2f} at ε = {epsilon:g}.",
        holds=bool(ends.notna().all(axis=None)),
        otherwise="A target that hardly ever predicts one class cannot be imitated: no shadow "
        "attack on it.",
        plain=plain,
        private=private,
        epsilon=epsilon,
    )


def takeaways(rows: pd.DataFrame, cells: pd.DataFrame, *, base_rate: float) -> list[Claim]:
    """What the printed table and these rows bear out."""
    table = implied(cells)
    gaps = (table["accuracy, printed"] - table["implied by the members"]).abs()
    worst = table.iloc[int(gaps.argmax())]
    low, high = sorted(worst[["implied by the members", "implied by the non-members"]])
    beaten = int((table["always answering member"] > table["accuracy, printed"]).sum())
    gains = _means(rows, "accuracy") - _means(rows, "accuracy.always_member")
    gain = gains[gains.index.get_level_values("target") == "non-private"].max()  # NaN: diverged
    known = _means(rows, "balanced_accuracy").groupby("target").mean()
    knows, private_knows = known.reindex(["non-private", "dp-sgd"])
    known_text = "{knows:.2f} without DP and {private:.2f} with it"
    accuracy = _means(rows, "target.accuracy").droplevel("attack_model")
    plain, private = accuracy["non-private"], accuracy["dp-sgd"]
    area = _means(rows, "lira.auc").droplevel("attack_model")
    on_networks = area.drop(FULL_BATCH, errors="ignore")
    first, last = on_networks.iloc[0], on_networks.iloc[-1]
    rival = rows[(rows["target"] == FULL_BATCH) & (rows["metric"] == "target.accuracy")]["value"]
    error = 0.0 if len(rival) < 2 else float(stats.t.isf(0.025, len(rival) - 1) * rival.sem())
    return [
        Claim(
            "Table 3.5 contradicts itself: for {worst[attack_model]} of the {worst[target]} target "
            "its precisions and recalls imply an accuracy of {low:.2f} to {high:.2f}, printed is "
            "{worst[accuracy, printed]:.2f}.",
            holds=gaps.max() > 0.05,
            worst=worst,
            low=low,
            high=high,
        ),
        Claim(
            "Answering “member” to everything beats {beaten} of the {n} printed attacks in "
            "accuracy; ours, without DP, come to {gain:+.3f} against that answer at best.",
            beaten=beaten,
            n=len(table),
            gain=gain,
        ),
        Claim(
            f"The shadow attack knows more without DP: its mean balanced accuracy is {known_text}; "
            "guessing is 0.50.",
            holds=knows > max(private_knows, 0.5),
            otherwise=f"The shadow attack's mean balanced accuracy is {known_text}; guessing is 0.50."
            + ("" if known.notna().all() else " Where it is open, no target could be imitated."),
            knows=knows,
            private=private_knows,
        ),
        Claim(
            "LiRA knows more without DP (AUC {first:.2f}), and DP lowers it to {last:.2f}.",
            holds=first > last,
            first=first,
            last=last,
        ),
        Claim(
            "The price: the private target's accuracy of {private:.2f} does not beat the base "
            "rate of {base:.2f}; without DP it is {plain:.2f}.",
            holds=private <= base_rate,
            otherwise="The private target's accuracy is {private:.2f}, the base rate {base:.2f}, "
            "and without DP it is {plain:.2f}.",
            private=private,
            base=base_rate,
            plain=plain,
        ),
        Claim(
            "The set-up costs the accuracy, not ε: logistic regression by a few steps on all "
            "records, features scaled by public ranges, spends the same ε and has an accuracy of "
            "{rival:.2f} ± {error:.2f} at a base rate of {base:.2f}, and LiRA's AUC is {area:.2f} "
            "on it.",
            holds=rival.mean() - error > base_rate,
            otherwise="Steps on all records at once are not shown to beat the base rate of "
            "{base:.2f} at this ε: accuracy {rival:.2f}."
            + (
                ""
                if rival.notna().any()
                else " They were not run: the features have no public ranges."
            ),
            rival=rival.mean(),
            error=error,
            base=base_rate,
            area=area.get(FULL_BATCH, math.nan),
        ),
    ]


def what_if(
    rows: pd.DataFrame, *, members_caught: float, others_accused: float, held_out: float
) -> tuple[pd.DataFrame, Claim]:
    """An attack of given rates beside those that ran: behind the explore panel."""
    accuracy = (1 - held_out) * members_caught + held_out * (1 - others_accused)
    balanced, always = (1 + members_caught - others_accused) / 2, 1 - held_out
    metrics = {
        "accuracy": accuracy,
        "accuracy.always_member": always,
        "balanced_accuracy": balanced,
    }
    chosen = Rows(setting="this attack", attack_model="chosen")
    chosen.add(metrics=metrics)
    ran = judged(rows[rows["attack_model"] != ""])
    claim = Claim(
        "This attack is right for {accuracy:.0%} of the records, but answering “member” to all for {always:.0%}: "
        "what it knows, its balanced accuracy, is {balanced:.0%}.",
        holds=accuracy < always,
        otherwise="This attack is right for {accuracy:.0%} of the records, answering “member” to all for {always:.0%}; its "
        "balanced accuracy is {balanced:.0%}.",
        accuracy=accuracy,
        always=always,
        balanced=balanced,
    )
    shown = concat(ran[ran["metric"].isin(metrics)], chosen.frame())
    return shown[["setting", "attack_model", "replicate", "metric", "value"]], claim
