"""DP training and DP data attacked at equal epsilon, on equal hold-outs.

Our engines train and synthesise; tensorflow-privacy and smartnoise-synth do `library_runs` of it
too, and `agreement` holds the two against each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, get_args

import numpy as np
import pandas as pd
from scipy import stats

from pet_lab import accounting, checks, data, dpsgd, mia, synth
from pet_lab import agreement as beside
from pet_lab.dpsgd.config import Engine
from pet_lab.rows import Claim, Rows, claims, concat, means, only, summarise

LABELS = {
    "epsilon": "ε",
    "mia.auc": "AUC of the attack",
    "score.test": "test accuracy",
    "attacked": "attack on",
}
LOSS = "loss of the network"
WAYS = {"both": ("dp-sgd", "mst"), "DP training": ("dp-sgd",), "DP data": ("mst",)}
"""What the panel shows."""
LIBRARIES = {"dp-sgd": beside.TFP, "mst": beside.SMARTNOISE}
DISTANCE, DENSITY = "distance to the table", "density ratio"


@dataclass(frozen=True, kw_only=True, eq=False)
class Settings:
    """What is run; parameters that cannot go together are refused before anything is trained.

    At each of `epsilons` and without privacy (inf), `target` (as in `data.positives`) of `frame` is
    learned by `base` with noise on `replicates` hold-outs, and from a synthetic table on the first
    `data_replicates` of them. `domain`: what columns may hold, as far as it was stated.
    """

    frame: pd.DataFrame
    target: str
    base: dpsgd.Config
    epsilons: Sequence[float]
    replicates: int
    data_replicates: int
    delta: float
    engine: Engine = "batched"
    mechanism: str = "mst"
    library_runs: int = 0
    seed: int
    domain: data.Domain = field(default_factory=dict)

    def __post_init__(self) -> None:
        checks.whole(1, replicates=self.replicates, data_replicates=self.data_replicates)
        checks.whole(0, seed=self.seed, library_runs=self.library_runs)
        checks.one_of(get_args(Engine), engine=self.engine)
        checks.one_of(("mst", "mst-smartnoise"), mechanism=self.mechanism)
        checks.distinct(epsilons=self.epsilons)
        checks.positive(epsilons=min(self.epsilons), hint="leave it out")
        mia.check_plan(self.encoded.y, batch_size=self.base.batch_size or 1, delta=self.delta)
        for epsilon in self.epsilons:
            mia.check_spend(epsilon, self.base, n=self.members, delta=self.delta)

    @property
    def checked(self) -> bool:
        """Whether a library runs beside an engine of ours."""
        return self.library_runs > 0 and (self.engine == "batched" or self.mechanism == "mst")

    @cached_property
    def encoded(self) -> data.Encoded:
        """The table as numbers."""
        return data.encode(self.frame, target=self.target, domain=self.domain)

    @cached_property
    def members(self) -> int:
        """Records that a network is trained on."""
        return mia.report_split(len(self.frame), np.random.default_rng(0)).train.size

    @cached_property
    def configs(self) -> dict[float, dpsgd.Config]:
        """DP-SGD that spends each epsilon; for inf no noise, and a clip that no gradient reaches."""
        size: dict[str, Any] = {"n": self.members, "delta": self.delta}
        spent = {e: mia.spend(e, self.base, **size) for e in self.epsilons}
        return spent | {math.inf: replace(self.base, clip=1e6)}


def simulate(s: Settings) -> pd.DataFrame:
    """Rows of both ways; those of a library by a mechanism of its own, "mst, smartnoise-synth"."""
    parts = [attack_training(s), attack_synthetic(s)]
    runs = s.library_runs
    few = replace(s, replicates=max(runs, 1), data_replicates=max(runs, 1))
    few = replace(few, engine=beside.TFP, mechanism="mst-smartnoise")
    if s.checked and s.engine == "batched":
        parts.append(attack_training(few).assign(mechanism=f"dp-sgd, {beside.TFP}"))
    if s.checked and s.mechanism == "mst":
        parts.append(attack_synthetic(few).assign(mechanism=f"mst, {beside.SMARTNOISE}"))
    return concat(*parts)


def agreement(rows: pd.DataFrame) -> pd.DataFrame:
    """Our engines beside the libraries: see `pet_lab.agreement`."""
    part = only(rows, metric=["mia.auc", "score.test"])
    how: dict[str, Any] = {"by": ["epsilon"], "detail": ["attack", "metric"]}
    return beside.agreement(part, LIBRARIES, column="mechanism", **how)


def engines(s: Settings) -> pd.DataFrame:
    """`dpsgd.agreement` at the smallest budget, on all records."""
    X, config = s.encoded.unit, s.configs[min(s.epsilons)]
    return dpsgd.agreement(X, s.encoded.y, config, seed=s.seed, delta=s.delta)


def _ours(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["mechanism"].isin(LIBRARIES)]


def _attack(rows: Rows, scores: np.ndarray, split: mia.Split, **factors: Any) -> None:
    members, others = scores[split.train], scores[split.test]
    nan = not (np.isfinite(members).all() and np.isfinite(others).all())
    metrics = {"mia.auc": mia.auc, "mia.attacker_advantage": mia.advantage}
    values = {k: math.nan if nan else f(members, others) for k, f in metrics.items()}
    rows.add(metrics=values, **factors)


def attack_training(s: Settings) -> pd.DataFrame:
    """Loss attack on DP-SGD at each budget, on the hold-outs of `attack_synthetic`.

    Rows: mechanism ("dp-sgd"), epsilon, attack, replicate, metric (mia.auc, mia.attacker_advantage,
    score.test), value, status. NaN where `status` says why not.
    """
    rows, y = Rows(mechanism="dp-sgd"), s.encoded.y
    replicates = max(s.replicates, s.data_replicates)
    how: dict[str, Any] = {"seed": s.seed, "replicates": replicates, "engine": s.engine}
    targets = mia.train_targets(s.encoded.unit, y, [*s.configs.values()], **how)
    for i, target in enumerate(targets):
        factors: dict[str, Any] = {"epsilon": [*s.configs][i // replicates]}
        factors |= {"replicate": target.replicate, "status": target.status}
        scores = mia.signed_logits(target.logits, y)
        _attack(rows, scores, target.split, attack=LOSS, **factors)
        score = target.accuracy(target.split.test, y)
        rows.add(attack="", metrics={"score.test": score}, **factors)
    return rows.frame()


def attack_synthetic(s: Settings) -> pd.DataFrame:
    """Attack synthetic tables, and a network trained on them, at each budget; rows as above.

    Three attackers: the distance to the closest synthetic row, a density ratio against the
    validation records (which nothing was made from), and the loss of a network that was trained on
    the synthetic table without further noise. Epsilon inf gives the members themselves as the
    "synthetic" table, the worst case.
    """
    table = data.binarise(s.frame, s.target)
    original, domain = data.encode(table, target=s.target, domain=s.domain), dict(s.domain)
    x, y = original.unit, original.y
    records, rows = np.column_stack([x, y]), Rows(mechanism="mst")
    config = replace(s.configs[math.inf], clip=math.inf, sampling="shuffle")
    streams = mia.split_streams(len(y), seed=s.seed, replicates=s.data_replicates)
    for r, (split, training, tables) in enumerate(streams):
        for k, epsilon in enumerate(s.configs):
            factors: dict[str, Any] = {"epsilon": float(epsilon), "replicate": r}
            scores = {name: np.full(len(y), np.nan) for name in (DISTANCE, DENSITY, LOSS)}
            released: tuple[np.ndarray, np.ndarray] | None = x[split.train], y[split.train]
            status = network = "ok"
            if math.isfinite(epsilon):
                child = np.random.SeedSequence(tables.entropy, spawn_key=(*tables.spawn_key, k))
                try:
                    synthetic = synth.synthesise(
                        table.iloc[split.train].reset_index(drop=True),
                        epsilon=float(epsilon),
                        delta=s.delta,
                        rng_seed=int(child.generate_state(1)[0]),
                        mechanism=s.mechanism,
                        method="sample",
                        domain=domain and {**domain, s.target: (0, 1)},
                    )
                    coded = data.encode(synthetic.frame, target=s.target, like=original)
                    ends = original.X if original.ranges is None else original.ranges.T
                    scaled = data.unit_range(coded.X, ends)
                    released = scaled, coded.y
                except ValueError as error:
                    status, released = f"no table to attack: {error}", None
                    network = status
            if released:
                near = np.column_stack(released)
                scores[DISTANCE] = mia.closeness_scores(records, near)
                outside = records[split.validation]
                scores[DENSITY] = mia.density_ratio_scores(records, near, outside)
                if len(np.unique(released[1])) < 2:
                    network = mia.ONE_CLASS
                else:
                    trained = dpsgd.train(*released, config, seeds=[training], curve_every=0)
                    if trained.diverged[0]:
                        network = "the training diverged"
                    else:
                        scores[LOSS] = mia.signed_logits(trained.predict(x)[0], y)
            for name, values in scores.items():
                why = network if name == LOSS else status
                _attack(rows, values, split, attack=name, status=why, **factors)
            right = scores[LOSS][split.test] > 0
            score = float(right.mean()) if network == "ok" else math.nan
            rows.add(attack="", status=network, metrics={"score.test": score}, **factors)
    return rows.frame()


def privacy(s: Settings) -> list[str]:
    """The guarantees in words."""
    how: dict[str, Any] = {"n": s.members, "delta": s.delta, "accountant": "pld"}
    private = [config for config in s.configs.values() if config.private]
    sentences = [f"DP-SGD: {accounting.of(config, **how)}" for config in private]
    budgets = ", ".join(f"{e:g}" for e in s.epsilons)
    bins = "bins stated" if s.encoded.ranges is not None else "bins not counted"
    tables = f"MST tables: epsilon = {budgets} at delta = {s.delta:g}, {bins}."
    return [*sentences, tables]


def attacked(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the attacks with one column for what is attacked and how."""
    part = _ours(rows[rows["attack"] != ""])
    return part.assign(attacked=part["mechanism"] + ": " + part["attack"])


def _best(rows: pd.DataFrame) -> pd.DataFrame:
    """The largest mean AUC at finite budgets of each way, and out of how many tries."""
    part = _ours(rows[np.isfinite(rows["epsilon"]) & (rows["metric"] == "mia.auc")])
    table = summarise(part, ["mechanism", "attack", "epsilon"]).dropna(subset="mean")
    by = table.groupby("mechanism")["mean"]
    return table.assign(tries=by.transform("size")).loc[by.idxmax()].set_index("mechanism")


def headline(rows: pd.DataFrame) -> Claim:
    """One sentence: the best attack on either way at finite budgets."""
    sentence = (
        "At equal finite budgets the best attack reaches an AUC of {top[dp-sgd]:.2f} on DP training and of {top[mst]:.2f} on "
        "DP data (largest mean over attacks and budgets)."
    )
    return Claim(sentence, top=_best(rows)["mean"].reindex(["dp-sgd", "mst"]))


def takeaways(rows: pd.DataFrame, *, base_rate: float) -> list[Claim]:
    """What these rows bear out."""
    shown, rows = [], _ours(rows)
    best, area = "{line[attack]} at ε = {line[epsilon]:g}", "AUC {line[mean]:.2f} ± {width:.2f}"
    for _, line in _best(rows).iterrows():
        width = stats.t.isf(0.025 / line["tries"], line["n"] - 1) * line["se"]
        sentence = (
            f"On {{line.name}} {best} does better than guessing: {area}, the best of {{line[tries]}} allowed for.",
            line["mean"] - width > 0.5,
            "On {line.name} no attack is shown to do better than guessing at a finite budget: the best of "
            f"{{line[tries]}}, {best}, has {area}.",
        )
        shown += claims([sentence], line=line, width=width)
    distance = only(rows, epsilon=math.inf, attack=DISTANCE, metric="mia.auc")["value"].mean()
    released = "Releasing the members themselves gives them away: the distance to the table has an AUC of {area:.2f}."
    shown.append(Claim(released, holds=distance > 0.9, area=distance))
    scores = means(rows, "epsilon", "mechanism", metric="score.test")
    for epsilon in sorted(set(rows["epsilon"]) - {math.inf}):
        by, rest = (
            scores[epsilon],
            "network beats the base rate of {base:.2f}: test accuracy {values}.",
        )
        values = ", ".join(f"{v:.2f} by {k}" for k, v in by.items())
        sentence = (
            "At ε = {epsilon:g} a " + rest,
            (by > base_rate).any(),
            "At ε = {epsilon:g} no " + rest,
        )
        shown += claims([sentence], epsilon=epsilon, base=base_rate, values=values)
    return shown


def what_if(
    rows: pd.DataFrame, *, epsilon: float, delta: float, attack_on: str
) -> tuple[pd.DataFrame, Claim]:
    """The attacks beside what the guarantee alone allows any attack: behind the explore panel.

    The area under the largest ROC curve that (epsilon, delta) allows is 1 - (1 - delta)^2 /
    (1 + e^epsilon).
    """
    most = 1 - (1 - delta) ** 2 / (1 + math.exp(min(epsilon, 700)))
    part = attacked(rows[rows["metric"] == "mia.auc"])
    part = part[part["mechanism"].isin(WAYS[attack_on])]
    bound = {"epsilon": epsilon, "attacked": "any attack, at most", "metric": "mia.auc"}
    shown = concat(part, pd.DataFrame([bound | {"value": most, "replicate": 0}]))
    reached = part[np.isfinite(part["epsilon"])].groupby(["attacked", "epsilon"])["value"].mean()
    claim = Claim(
        "At ε = {epsilon:g} and δ = {delta:g} no attack, known or not, has an AUC above {most:.3f}; the best here reaches "
        "{best:.2f} at any finite budget.",
        epsilon=epsilon, delta=delta, most=most, best=reached.max(),
    )  # fmt: skip
    return shown[["attacked", "epsilon", "replicate", "metric", "value"]], claim
