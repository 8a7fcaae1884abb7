"""Shokri's shadow-model attack and LiRA on targets with and without DP (UNECE, table 3.5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from pet_lab import accounting, data, dpsgd, mia
from pet_lab.rows import Claim, Rows, concat, fill, summarise, wide

if TYPE_CHECKING:
    import pandas as pd

LABELS = {
    "mia.auc": "AUC of the attack",
    "accuracy": "accuracy of the attack",
    "balanced_accuracy": "balanced accuracy",
    "accuracy.always_member": "accuracy of always “member”",
    "attack_model": "attack model of",
    "says_member": "share called members",
}
FULL_BATCH = "dp-sgd, all records at once"
JUDGED = ["accuracy", "accuracy.always_member", "balanced_accuracy", "mia.auc"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A target to attack: its name, stated epsilon, reading, and how it is trained."""

    target: str
    epsilon: float
    reading: str
    config: dpsgd.Config

    def guarantee(self, *, n: int, delta: float) -> accounting.Guarantee:
        """What its training on `n` records proves."""
        return accounting.of(self.config, n=n, delta=delta, accountant="pld")


def check(
    y: np.ndarray,
    *,
    held_out: float,
    batch_size: int,
    epochs: Sequence[int],
    delta: float,
    shadow_models: int,
    replicates: int,
    lira_models: int,
) -> None:
    """Refuse parameters that cannot go together before anything is trained."""
    if not 0 < held_out < 1:
        raise ValueError(f"held_out is a share in (0, 1), got {held_out:g}; usual is 0.25.")
    counts = {"shadow_models": (shadow_models, 1), "lira_models": (lira_models, 16)}
    counts |= {"replicates": (replicates, 1), "epochs": (min(epochs), 1)}
    members = min(len(y) - round(held_out * len(y)), len(y) // 2)  # of targets, and of LiRA's
    mia.check_plan(y, batch_size=batch_size, members=members, delta=delta, at_least=counts)


def settings(
    plain: dpsgd.Config,
    *,
    n: int,
    epsilon: float,
    delta: float,
    epochs: int,
    learning_rate: float,
    clip: float,
) -> list[Setting]:
    """The target without DP, and with DP in two readings of its epsilon.

    As described: Poisson samples, every record clipped, the noise that the PLD accountant asks for.
    As published: shuffled batches, `num_microbatches=1`, the noise that tensorflow-privacy's
    deprecated function states.
    """
    size: dict[str, Any] = {
        "n": n,
        "batch_size": plain.batch_size,
        "epochs": epochs,
        "delta": delta,
    }
    noise = accounting.noise_for(epsilon, sampling="poisson", accountant="pld", **size)
    private = replace(
        plain,
        epochs=epochs,
        learning_rate=learning_rate,
        clip=clip,
        sampling="poisson",
        noise_multiplier=noise,
    )
    claimed = accounting.noise_for_claim(epsilon, **size)
    published = replace(private, sampling="shuffle", microbatches=1, noise_multiplier=claimed)
    return [
        Setting(target="non-private", epsilon=math.inf, reading="described", config=plain),
        Setting(target="dp-sgd", epsilon=epsilon, reading="described", config=private),
        Setting(target="dp-sgd", epsilon=epsilon, reading="published", config=published),
    ]


def shadow_attack(
    X: np.ndarray,
    y: np.ndarray,
    domain: mia.Domain,
    config: dpsgd.Config,
    *,
    seed: int,
    replicates: int,
    models: int = 20,
    held_out: float = 0.25,
    confidence: float = 0.8,
    **factors: Any,
) -> pd.DataFrame:
    """Attack a new target of this configuration in each replicate.

    The attacker only queries the target: records of both classes are synthesised from its answers,
    `models` imitations (same configuration, as many records as the target) are trained on them in
    one program, one attack is learned per predicted class, and judged on the target's real members
    and on the share `held_out` of the records. A target that is never as sure of a class as
    `confidence` lowers it to 95 % of the best answer among 4096 random records.

    Returns rows: attack_model ("class0", "class1" or ""), samples ("member", "nonmember" or ""),
    replicate, metric, value and `factors`. Metrics target.* on the held-out records; for each
    attack model precision, recall, f1 by samples, accuracy, balanced_accuracy,
    accuracy.always_member, mia.auc; and queries, synthesis.confidence, synthesis.failed (1 where
    the target hardly ever predicts a class, or its imitations teach no attack: it then has no
    attack rows, and `status` says why).
    """
    rows = Rows(**factors)
    for r, stream in enumerate(np.random.SeedSequence(seed).spawn(replicates)):
        draw, training, work, *shadows = stream.spawn(3 + models)
        rng = np.random.default_rng(work)
        order = np.random.default_rng(draw).permutation(len(y))
        out = np.zeros(len(y), bool)
        out[order[: round(held_out * len(y))]] = True
        size = int((~out).sum())
        nowhere: dict[str, Any] = {"attack_model": "", "samples": "", "replicate": r}
        if y[~out].min() == y[~out].max():
            rows.add(metrics={"target.accuracy": math.nan}, status=mia.ONE_CLASS, **nowhere)
            continue
        target = dpsgd.train(X, y, config, seeds=[training], members=~out[None], curve_every=0)
        if target.diverged[0]:
            status = "the training diverged"
            rows.add(metrics={"target.accuracy": math.nan}, status=status, **nowhere)
            continue
        logits = target.predict(X)[0]
        # Class 1 takes the place of "member" in these metrics.
        own = mia.decision_metrics(y[out] > 0, logits[out] > 0)
        score = {"target.accuracy": own["all"]["accuracy"]}
        for metric in ("precision", "recall"):
            score[f"target.{metric}.class1"] = own["member"][metric]
            score[f"target.{metric}.class0"] = own["nonmember"][metric]
        rows.add(metrics=score, **nowhere)
        try:
            pool, labels, facts = _pool(target, domain, 2 * size, confidence, rng)
            train, test = mia.shadow_masks(models, len(labels), size=size, rng=rng)
            imitations = dpsgd.train(
                pool, labels, config, seeds=shadows, members=train, curve_every=0
            )
            ok = ~imitations.diverged
            answers = _two_columns(imitations.predict(pool)[ok])
            attack = mia.attack_models(answers, train[ok], test[ok])
        except mia.SynthesisError as error:
            rows.add(metrics={"synthesis.failed": 1.0}, status=str(error), **nowhere)
            continue
        rows.add(metrics={"synthesis.failed": 0.0, **facts}, **nowhere)
        _judge(rows, attack, mia.from_logits(logits, y), ~out, r)
    return rows.frame()


def _two_columns(logits: np.ndarray) -> np.ndarray:
    p = 1 / (1 + np.exp(-np.clip(logits.astype(float), -500, 500)))
    return np.stack([1 - p, p], axis=-1)


def _pool(
    target: dpsgd.Training,
    domain: mia.Domain,
    per_class: int,
    confidence: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Records of both classes from queries alone, their labels, and what it took."""

    def predict(X: np.ndarray) -> np.ndarray:
        return _two_columns(target.predict(X)[0])

    reach = predict(domain.draw(4096, rng)).max(axis=0)
    level = np.minimum(confidence, 0.95 * reach)
    parts = [
        mia.synthesise(predict, domain, label=c, n=per_class, rng=rng, confidence=float(level[c]))
        for c in (0, 1)
    ]
    facts = {
        "queries": float(sum(part.queries for part in parts)),
        "synthesis.confidence": float(level.min()),
    }
    return np.concatenate([part.X for part in parts]), np.repeat([0, 1], per_class), facts


def _judge(
    rows: Rows, attack: mia.AttackModels, outputs: mia.Outputs, member: np.ndarray, r: int
) -> None:
    scores = attack.score(outputs)
    for label in (0, 1):
        place: dict[str, Any] = {"attack_model": f"class{label}", "replicate": r}
        here = (outputs.predicted == label) & np.isfinite(scores)
        truth, score = member[here], scores[here]
        if not here.any():
            rows.add(samples="", metrics={"accuracy": math.nan}, **place)
            continue
        decisions = mia.decision_metrics(truth, score > 0.5)
        for samples in ("member", "nonmember"):
            rows.add(samples=samples, metrics=decisions[samples], **place)
        both = truth.any() and not truth.all()
        overall = {
            **decisions["all"],
            "accuracy.always_member": float(truth.mean()),
            "mia.auc": mia.auc(score[truth], score[~truth]) if both else math.nan,
        }
        rows.add(samples="", metrics=overall, **place)


def run(
    X: np.ndarray, y: np.ndarray, domain: mia.Domain, targets: Sequence[Setting], **how: Any
) -> pd.DataFrame:
    """Rows of the shadow attack on all targets; `how` goes to `shadow_attack`.

    The target without DP counts for both readings: nothing about it is ambiguous.
    """
    parts = [
        shadow_attack(
            X,
            y,
            domain,
            one.config,
            target=one.target,
            epsilon=one.epsilon,
            reading=one.reading,
            **how,
        )
        for one in targets
    ]
    return concat(*parts, parts[0].assign(reading="published"))


def full_batch(*, n: int, epsilon: float, delta: float) -> Setting:
    """Another way to spend the same epsilon: logistic regression by a few steps on all records."""
    config = dpsgd.Config(
        hidden=(), sampling="full", batch_size=None, epochs=20, learning_rate=0.5, clip=1.0
    )
    size: dict[str, Any] = {"n": n, "batch_size": None, "epochs": config.epochs, "delta": delta}
    noise = accounting.noise_for(epsilon, sampling="full", accountant="pld", **size)
    config = replace(config, noise_multiplier=noise)
    return Setting(target=FULL_BATCH, epsilon=epsilon, reading="described", config=config)


def run_full_batch(
    frame: pd.DataFrame,
    rival: Setting,
    *,
    target: str,
    documented: bool,
    held_out: float,
    replicates: int,
    models: int,
    seed: int,
) -> pd.DataFrame:
    """Rows of `rival` (from `full_batch`): target.accuracy by hold-out, lira.auc by training.

    Features keep their units and are centred on their documented ranges, so that scaling reads
    nothing off the data. Where the ranges are not public (`documented` false) that cannot be done:
    one row says so.
    """
    import pandas as pd

    place = {"target": rival.target, "epsilon": rival.epsilon, "reading": rival.reading}
    rows = Rows(**place, attack_model="", samples="")
    if not documented:
        rows.add(metrics={"target.accuracy": math.nan}, status="no documented ranges to scale by")
        return rows.frame()
    table = data.binarise(frame, target).drop(columns=target)
    domain: Any = data.student.DOMAIN
    ranges = {str(c): (min(domain[c]), max(domain[c])) for c in table.select_dtypes("number")}
    y = data.positives(frame, target)
    X = data.scale_by_range(pd.get_dummies(table, dtype=float), ranges, units={"absences": 46.5})
    draw, *seeds = np.random.SeedSequence(seed).spawn(1 + replicates)
    rank = np.random.default_rng(draw).random((replicates, len(y))).argsort(axis=1).argsort(axis=1)
    out = rank < round(held_out * len(y))
    runs = dpsgd.train(X, y, rival.config, seeds=seeds, members=~out, curve_every=0)
    right = (runs.predict(X) > 0) == (y > 0)
    for r, share in enumerate((right & out).sum(axis=1) / out.sum(axis=1)):
        rows.add(replicate=r, metrics={"target.accuracy": share})
    _lira(rows, X, y, rival.config, models=models, seed=seed)
    return rows.frame()


def _lira(
    rows: Rows, X: np.ndarray, y: np.ndarray, config: dpsgd.Config, *, models: int, seed: int,
    **place: Any,
) -> mia.Roc | None:  # fmt: skip
    """Adds lira.auc by training; the ROC curve over all, or None and a row that says why not."""
    try:
        coins = mia.coin_trainings(X, y, config, models=models, seed=seed)
        scores = mia.lira_leave_one_out(coins.statistics, coins.member)
    except ValueError as error:  # one class, or too few trainings with or without a record
        rows.add(metrics={"lira.auc": math.nan}, status=str(error), **place)
        return None
    for r, (s, m) in enumerate(zip(scores, coins.member, strict=True)):
        rows.add(replicate=r, metrics={"lira.auc": mia.auc(s[m], s[~m])}, **place)
    return mia.roc(scores[coins.member], scores[~coins.member])


def lira(
    X: np.ndarray, y: np.ndarray, targets: Sequence[Setting], *, models: int, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """LiRA on the targets as described: rows (lira.auc by training, lira.tpr_at_* over all), and
    the ROC curves over all trainings (target, fpr, tpr)."""
    import pandas as pd

    rows, curves = Rows(reading="described", attack_model="", samples=""), []
    for one in targets:
        if one.reading != "described":
            continue
        name = one.target + (f", ε = {one.epsilon:g}" if one.config.private else "")
        curve = _lira(rows, X, y, one.config, models=models, seed=seed, target=name)
        if curve is None:
            continue
        rates = {f"lira.tpr_at_{f:g}": curve.tpr_at(f) for f in (0.001, 0.01)}
        rows.add(target=name, metrics=rates)
        curves.append(curve.frame(floor=curve.smallest_fpr).assign(target=name))
    nothing = pd.DataFrame({"fpr": [], "tpr": [], "target": []})
    return rows.frame(), pd.concat(curves or [nothing], ignore_index=True)


def implied(cells: pd.DataFrame) -> pd.DataFrame:
    """Accuracies that the printed precisions and recalls of table 3.5 imply, by attack."""
    import pandas as pd

    attack = cells[cells["attack_model"].notna() & (cells["metric"] != "f1")]
    printed = attack.fillna({"samples": "all"}).pivot(
        index=["target", "attack_model"], columns=["metric", "samples"], values="printed"
    )
    p_m, p_n = printed["precision", "member"], printed["precision", "nonmember"]
    r_m, r_n = printed["recall", "member"], printed["recall", "nonmember"]
    ratio = r_m * (1 - p_m) / (p_m * (1 - r_n))  # non-members per member, by the members' numbers
    other = p_n * (1 - r_m) / (r_n * (1 - p_n))
    return pd.DataFrame(
        {
            "accuracy, printed": printed["accuracy", "all"],
            "implied by the members": (r_m + r_n * ratio) / (1 + ratio),
            "implied by the non-members": (r_m + r_n * other) / (1 + other),
            "balanced accuracy": (r_m + r_n) / 2,
            "always answering member": 1 / (1 + ratio),
        }
    ).reset_index()


def guarantees(targets: Sequence[Setting], *, n: int, delta: float) -> pd.DataFrame:
    """What is stated of each target, and what is proven."""
    rows = Rows()
    for one in targets:
        proven = one.guarantee(n=n, delta=delta).epsilon
        noise = one.config.noise_multiplier
        facts = {"noise multiplier": noise, "stated ε": one.epsilon, "proven ε": proven}
        rows.add(target=one.target, reading=one.reading, metrics=facts)
    return wide(rows.frame(), index=["target", "reading"])


def privacy(targets: Sequence[Setting], *, n: int, delta: float) -> list[str]:
    """The guarantees of the private targets in words."""
    return [
        f"{one.target}, as {one.reading}: {one.guarantee(n=n, delta=delta)}"
        for one in targets
        if one.config.private
    ]


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
    texts = [f"{m:.3f} ± {h:.3f}" for m, h in zip(means["mean"], half, strict=True)]
    table = means.assign(text=texts).pivot(
        index=["setting", "attack_model"], columns="metric", values="text"
    )
    return fill(table.rename_axis(columns=None).reset_index())


def called_members(rows: pd.DataFrame, *, held_out: float) -> pd.DataFrame:
    """One line per attack as described: share called members, accuracy, balanced accuracy."""
    import pandas as pd

    part = rows[(rows["reading"] == "described") & (rows["attack_model"] != "")]
    names = part["metric"] + part["samples"].map(lambda s: f".{s}" if s else "")
    index = ["target", "attack_model", "replicate"]
    table = part.assign(name=names).pivot(index=index, columns="name", values="value")
    member, other = table["recall.member"], 1 - table["recall.nonmember"]
    says = (1 - held_out) * member + held_out * other
    columns = {"says_member": says, **table[["accuracy", "balanced_accuracy"]].to_dict("series")}
    return pd.DataFrame(columns).dropna().reset_index()


def _mean(rows: pd.DataFrame, metric: str, **where: str) -> pd.Series:
    part = rows[rows["metric"] == metric]
    for column, value in where.items():
        part = part[part[column] == value]
    return part.groupby(["target", "attack_model"], sort=False)["value"].mean()


def headline(rows: pd.DataFrame) -> Claim:
    """One sentence: the shadow attack with and without DP."""
    areas = _mean(rows, "mia.auc", reading="described").groupby("target").agg(["min", "max"])
    plain, private = (areas.reindex([t]).iloc[0] for t in ("non-private", "dp-sgd"))
    return Claim(
        "The shadow attack's AUC is {low:.2f} to {high:.2f} without DP and {a:.2f} to {b:.2f} at "
        "ε = {epsilon:g}.",
        holds=not (plain.isna().any() or private.isna().any()),
        otherwise="A target that hardly ever predicts one class cannot be imitated: no shadow "
        "attack on it.",
        low=plain["min"],
        high=plain["max"],
        a=private["min"],
        b=private["max"],
        epsilon=rows.loc[rows["target"] == "dp-sgd", "epsilon"].min(),
    )


def takeaways(rows: pd.DataFrame, cells: pd.DataFrame, *, base_rate: float) -> list[Claim]:
    """What the printed table and these rows bear out."""
    table = implied(cells)
    gaps = (table["accuracy, printed"] - table["implied by the members"]).abs()
    worst = table.iloc[int(gaps.argmax())]
    beaten = table["always answering member"] > table["accuracy, printed"]
    gain = _mean(rows, "accuracy", reading="described") - _mean(
        rows, "accuracy.always_member", reading="described"
    )
    accuracy = _mean(rows, "target.accuracy", reading="described").droplevel("attack_model")
    area = _mean(rows, "lira.auc").droplevel("attack_model")
    rival = rows[(rows["target"] == FULL_BATCH) & (rows["metric"] == "target.accuracy")]["value"]
    error = 0.0 if len(rival) < 2 else float(stats.t.isf(0.025, len(rival) - 1) * rival.sem())
    area, rival_area = area.drop(FULL_BATCH, errors="ignore"), area.get(FULL_BATCH, math.nan)
    known = _mean(rows, "balanced_accuracy", reading="described")
    private = known["dp-sgd"].mean() if "dp-sgd" in known else math.nan
    return [
        Claim(
            "Table 3.5 contradicts itself: for {model} of the {target} target its precisions and "
            "recalls imply an accuracy of {a:.2f} to {b:.2f}, printed is {printed:.2f}.",
            holds=abs(worst["accuracy, printed"] - worst["implied by the members"]) > 0.05,
            model=worst["attack_model"],
            target=worst["target"],
            a=worst[["implied by the members", "implied by the non-members"]].min(),
            b=worst[["implied by the members", "implied by the non-members"]].max(),
            printed=worst["accuracy, printed"],
        ),
        Claim(
            "Answering “member” to everything beats {k} of the {n} printed attacks in accuracy; "
            "ours, without DP, come to {gain:+.3f} against that answer at best.",
            k=int(beaten.sum()),
            n=len(beaten),
            gain=gain["non-private"].max(),
        ),
        Claim(
            "The shadow attack knows more without DP (mean balanced accuracy {a:.2f}) than with it "
            "({b:.2f}); guessing is 0.50.",
            holds=known["non-private"].mean() > max(private, 0.5),
            otherwise="The shadow attack's mean balanced accuracy is {a:.2f} without DP and "
            "{b:.2f} with it (nan: no target could be imitated); guessing is 0.50.",
            a=known["non-private"].mean(),
            b=private,
        ),
        Claim(
            "LiRA knows more without DP (AUC {a:.2f}), and DP lowers it to {b:.2f}.",
            holds=area.iloc[0] > area.iloc[-1],
            a=area.iloc[0],
            b=area.iloc[-1],
        ),
        Claim(
            "The price: the private target's accuracy of {dp:.2f} does not beat the base rate of "
            "{base:.2f}; without DP it is {plain:.2f}.",
            holds=accuracy["dp-sgd"] <= base_rate,
            otherwise="The private target's accuracy is {dp:.2f}, the base rate {base:.2f}, and "
            "without DP it is {plain:.2f}.",
            dp=accuracy["dp-sgd"],
            base=base_rate,
            plain=accuracy["non-private"],
        ),
        Claim(
            "The set-up costs the accuracy, not ε: logistic regression by a few steps on all "
            "records, features scaled by public ranges, spends the same ε and has an accuracy of "
            "{accuracy:.2f} ± {error:.2f} at a base rate of {base:.2f}, and LiRA's AUC is "
            "{area:.2f} on it.",
            holds=rival.mean() - error > base_rate,
            otherwise="Steps on all records at once are not shown to beat the base rate of "
            "{base:.2f} at this ε: accuracy {accuracy:.2f} (nan: not run, no public ranges).",
            accuracy=rival.mean(),
            error=error,
            base=base_rate,
            area=rival_area,
        ),
    ]
