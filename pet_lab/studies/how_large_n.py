"""How large must n be? The open question of the report of 2023 (paragraphs 77 to 79).

On 395 records no private way trained a useful model, "likely at least in part due to the small size
of the data set". Here the number of records varies. They are drawn from a *population* fitted to
the real table: the columns by a tree of pairs (Chow and Liu 1968), the class by a chance that a
random forest gives. So the truth is known: what a rule gets right is the mean chance of its
answers on 20,000 further people, without the luck of a test set, and no rule can be better than
always answering the likelier class.

Each way is compared with its own non-private self, the same program without noise, and *needs* the
first n from which on it stays within WITHIN of it. Levels and ranges of the columns are the
population's and count as public, so each epsilon is spent on the records alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd

from pet_lab import accounting, checks, data, dpsgd, stump, synth
from pet_lab.rows import Claim, Rows, claims, means, streams
from pet_lab.synth.domain import Coded, code
from pet_lab.synth.forest import Forest, draw_rows

SGD, LOGISTIC, STUMP = "DP-SGD", "DP logistic regression", "DP stump"
MST, MARGINS = "MST table", "target-margins table"
WAYS = (SGD, LOGISTIC, STUMP, MST, MARGINS)
BASE, BEST = "larger class", "likelier class"
LABELS = {"records": "records (n)", "value": "records needed", "gap": "accuracy lost to noise"}
LABELS |= {"epsilon": "ε", "accuracy": "accuracy on the population"}
WITHIN = 0.01
PEOPLE = 20_000
NO_NOISE = 1e4  # smartnoise-synth cannot calibrate its noise from 1e5 on
"""Epsilon of the stump and of the tables where they stand for their non-private selves."""
FEW = 25
"""Whole numbers of fewer levels keep their unit (marks, years); others are scaled to [-1, 1]."""
STEPS = 300
"""Of DP-SGD, on Poisson samples of 5 sqrt(n) records: more records make larger batches."""
FULL_BATCH: dict[str, Any] = {"epochs": 60, "sampling": "full", "batch_size": None}
"""Gradient descent of logistic regression. Its steps and rate were picked from seven settings, those
of DP-SGD from five, on other draws of the student data's population: not in the epsilon."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Population:
    """People drawn from a model of `frame`, the chance of whose class is known.

    `frame` holds the target as a column of 0 and 1 named `target`.
    """

    frame: pd.DataFrame
    target: str

    @cached_property
    def coded(self) -> Coded:
        """The columns but the target as codes, with the levels or bins that are public here."""
        return code(self.frame.drop(columns=self.target), None)

    @cached_property
    def tree(self) -> Forest:
        """The likeliest tree of pairs: the spanning tree of greatest mutual information."""
        from sklearn.metrics import mutual_info_score

        codes, sizes = [*self.coded.codes.values()], [*self.coded.sizes.values()]
        graph = nx.Graph()
        graph.add_nodes_from(range(len(codes)))
        for a, b in combinations(range(len(codes)), 2):
            graph.add_edge(a, b, weight=mutual_info_score(codes[a], codes[b]))
        tree = nx.maximum_spanning_tree(graph)
        up = nx.predecessor(tree, 0)
        parent = [up[i][0] if up[i] else -1 for i in range(len(codes))]
        margins = [np.bincount(c, minlength=m) / c.size for c, m in zip(codes, sizes, strict=True)]
        pairs = {}
        for child, above in enumerate(parent):
            if above >= 0:
                pairs[child] = np.zeros((sizes[above], sizes[child]))
                np.add.at(pairs[child], (codes[above], codes[child]), 1 / codes[0].size)
        order = [0, *(child for _, child in nx.bfs_edges(tree, 0))]
        return Forest(order=order, parent=parent, margins=margins, pairs=pairs)

    @cached_property
    def forest(self) -> Any:
        """The class's chance given the columns: neither a threshold, nor linear, nor of pairs."""
        from sklearn.ensemble import RandomForestClassifier

        forest = RandomForestClassifier(100, min_samples_leaf=5, max_features=0.5, random_state=0)
        return forest.fit(self.features(self.frame), self.frame[self.target])

    def draw(self, n: int, rng: np.random.Generator) -> tuple[pd.DataFrame, np.ndarray]:
        """n people with their class, and its chance of being 1, shape (n,)."""
        codes = draw_rows(self.tree, n, method="sample", rng=rng)
        frame = self.coded.decode(dict(zip(self.coded.kinds, codes, strict=True)), rng)
        chance = self.forest.predict_proba(self.features(frame))[:, 1]
        return frame.assign(**{self.target: (rng.random(n) < chance).astype(int)}), chance

    def features(self, frame: pd.DataFrame) -> pd.DataFrame:
        """One centred column per number and per level of a text, by public ranges alone."""
        columns: list[np.ndarray] = []
        for name, codes in code(frame[list(self.coded.kinds)], self.coded.kinds).codes.items():
            kind = self.coded.kinds[name]
            if not pd.api.types.is_numeric_dtype(self.coded.dtypes[name]):
                columns.extend((np.eye(self.coded.sizes[name])[codes] - 0.5).T)
                continue
            levels: Sequence[float] = kind.edges if isinstance(kind, synth.Bins) else kind
            low, high = float(levels[0]), float(levels[-1])
            few = not isinstance(kind, synth.Bins) and len(levels) < FEW
            unit = 1.0 if few else (high - low) / 2 or 1.0
            columns.append((frame[name].to_numpy(dtype=float) - (low + high) / 2) / unit)
        return pd.DataFrame({str(i): column for i, column in enumerate(columns)})

    @cached_property
    def thresholds(self) -> dict[str, list[float]]:
        """Public candidates of a stump, at most 100 a feature: halfway between its values."""
        values = {str(name): np.unique(x) for name, x in self.features(self.frame).items()}
        most = {name: (v[1:] + v[:-1]) / 2 for name, v in values.items()}
        return {name: v[:: v.size // 100 + 1].tolist() for name, v in most.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Settings:
    """What is run; parameters that cannot go together are refused before anything is trained.

    frame, target   the table that the population is fitted to; the column to predict
    sizes           numbers of records, each drawn anew in each replicate
    mechanism       of the MST tables: "mst", or "mst-smartnoise", the package
    replicates, data_replicates     of the trained ways; of the tables
    """

    frame: pd.DataFrame
    target: str
    sizes: Sequence[int]
    epsilons: Sequence[float]
    delta: float
    replicates: int
    data_replicates: int
    mechanism: str
    seed: int

    def __post_init__(self) -> None:
        checks.whole(1, replicates=self.replicates, data_replicates=self.data_replicates)
        checks.whole(0, seed=self.seed)
        checks.distinct(sizes=self.sizes, epsilons=self.epsilons)
        for size in self.sizes:
            checks.whole(100, **{"each of sizes": size}, hint="fewer records train nothing")
        for epsilon in self.epsilons:
            checks.positive(**{"each of epsilons": epsilon}, hint="no noise is always run")
        checks.require(0 < self.delta < 1, f"delta is between 0 and 1, got {self.delta}.")
        checks.one_of(("mst", "mst-smartnoise"), mechanism=self.mechanism)
        for n, epsilon in ((n, e) for n in self.sizes for e in self.epsilons):
            for way in (SGD, LOGISTIC):
                accounting.check_target(epsilon, n=n, delta=self.delta, **_size(_program(n, way)))

    @cached_property
    def population(self) -> Population:
        """Whom the records are drawn from."""
        return Population(frame=data.binarise(self.frame, self.target), target=self.target)


def _program(n: int, way: str) -> dpsgd.Config:
    """DP-SGD or logistic regression on n records, without noise."""
    if way == LOGISTIC:
        return dpsgd.Config(hidden=(), learning_rate=2.0, **FULL_BATCH)
    batch = round(5 * math.sqrt(n))
    return dpsgd.Config(batch_size=batch, epochs=math.ceil(STEPS * batch / n), sampling="poisson")


def _size(config: dpsgd.Config) -> dict[str, Any]:
    return {name: getattr(config, name) for name in ("epochs", "batch_size", "sampling")}


def configs(s: Settings, n: int, way: str) -> dict[float, dpsgd.Config]:
    """The trainings of DP-SGD or logistic regression on n records, by epsilon; inf: no noise."""
    base = _program(n, way)
    size: dict[str, Any] = {"n": n, "delta": s.delta, "accountant": "pld", **_size(base)}
    noise = {e: accounting.noise_for(e, **size) for e in s.epsilons}
    return {math.inf: base} | {e: replace(base, noise_multiplier=z) for e, z in noise.items()}


def simulate(s: Settings) -> pd.DataFrame:
    """Accuracy on the population of each way at each n and epsilon; inf is its self without noise.

    Rows: way, records, epsilon, replicate, metric ("accuracy"), value; the ways BASE and BEST, with
    0 records, are the base rate and the best that any rule can do.
    """
    root = np.random.SeedSequence(s.seed)
    people, chance = s.population.draw(PEOPLE, np.random.default_rng(root))
    asked = s.population.features(people)
    rows = Rows()

    def right(classes: np.ndarray) -> float:
        wrong = np.where(classes <= 0, 1 - chance, math.nan)  # a diverged run is no answer
        return float(np.where(classes > 0, chance, wrong).mean())

    for way, answer in ((BASE, chance.mean() > 0.5), (BEST, chance > 0.5)):
        truth = {"accuracy": right(np.broadcast_to(answer, chance.shape))}
        rows.add(way=way, records=0, epsilon=math.inf, metrics=truth)
    trained = {n: {way: configs(s, n, way) for way in (SGD, LOGISTIC)} for n in s.sizes}
    for replicate, stream in streams(s.seed, max(s.replicates, s.data_replicates)):
        for n, child in zip(s.sizes, stream.spawn(len(s.sizes)), strict=True):
            drawing, *seeds = child.spawn(5)
            sample, _ = s.population.draw(n, np.random.default_rng(drawing))
            answers: dict[tuple[str, float], np.ndarray] = {}
            if replicate < s.replicates:
                answers |= by_training(s, sample, asked, trained[n], seeds)
            if replicate < s.data_replicates:
                answers |= by_table(s, sample, asked, trained[n][SGD][math.inf], seeds[3])
            for (way, epsilon), classes in answers.items():
                shares = {"accuracy": right(classes)}
                rows.add(way=way, records=n, epsilon=epsilon, replicate=replicate, metrics=shares)
    return rows.frame()


Answers = dict[tuple[str, float], np.ndarray]


def by_training(
    s: Settings,
    sample: pd.DataFrame,
    asked: pd.DataFrame,
    trained: dict[str, dict[float, dpsgd.Config]],
    seeds: Sequence[np.random.SeedSequence],
) -> Answers:
    """Answers to `asked` of what is learned from the records themselves, by (way, epsilon)."""
    X, y = s.population.features(sample), sample[s.target].to_numpy()
    answers: Answers = {}
    for (way, plan), seed in zip(trained.items(), seeds, strict=False):
        for epsilon, logits in zip(plan, _trained(X, y, plan, asked, seed), strict=True):
            answers[way, epsilon] = logits
    rng = np.random.default_rng(seeds[2])
    for epsilon in (math.inf, *s.epsilons):
        spent = min(epsilon, NO_NOISE)
        rule = stump.dp_stump(X, y, thresholds=s.population.thresholds, epsilon=spent, rng=rng)
        answers[STUMP, epsilon] = rule.predict(asked)
    return answers


def by_table(
    s: Settings,
    sample: pd.DataFrame,
    asked: pd.DataFrame,
    config: dpsgd.Config,
    seed: np.random.SeedSequence,
) -> Answers:
    """Answers to `asked` of networks trained without noise on synthetic tables of the sample."""
    domain = {**s.population.coded.kinds, s.target: (0, 1)}
    plain = {0.0: replace(config, clip=math.inf)}
    ways: dict[str, dict[str, Any]] = {
        MST: {"mechanism": s.mechanism},
        MARGINS: {"mechanism": "task", "target": s.target},
    }
    answers: Answers = {}
    for (way, how), child in zip(ways.items(), seed.spawn(2), strict=True):
        for epsilon in (math.inf, *s.epsilons):
            table = synth.synthesise(
                sample,
                **how,
                epsilon=min(epsilon, NO_NOISE),
                delta=s.delta,
                rng_seed=int(child.generate_state(1)[0]),
                method="sample",
                domain=domain,
                cache=s.mechanism != "mst",
            ).frame
            X, y = s.population.features(table), table[s.target].to_numpy()
            answers[way, epsilon] = _trained(X, y, plain, asked, child)[0]
    return answers


def _trained(
    X: pd.DataFrame,
    y: np.ndarray,
    plan: dict[float, dpsgd.Config],
    asked: pd.DataFrame,
    seed: np.random.SeedSequence,
) -> np.ndarray:
    """Logits (configs, asked); records of one class teach that class."""
    if y.min() == y.max():
        return np.full((len(plan), len(asked)), y[0] - 0.5)
    each = [*plan.values()]
    return dpsgd.train(X, y, each, seeds=seed.spawn(len(each)), curve_every=0).predict(asked)


# --- what the notebook shows -----------------------------------------------------------------


def facts(s: Settings) -> pd.DataFrame:
    """The table and the population drawn from it: what, number."""
    people, chance = s.population.draw(PEOPLE, np.random.default_rng(s.seed))
    numbers = [
        ("records of the table", len(s.frame)),
        ("columns beside the target", len(s.population.coded.kinds)),
        ("larger class, table", f"{_larger(s.population.frame[s.target]):.3f}"),
        ("larger class, population", f"{_larger(people[s.target]):.3f}"),
        ("right by the likelier class, population", f"{np.maximum(chance, 1 - chance).mean():.3f}"),
    ]
    return pd.DataFrame(numbers, columns=["what", "number"])


def _larger(y: pd.Series) -> float:
    return float(max(y.mean(), 1 - y.mean()))


def privacy(s: Settings) -> list[str]:
    """What the epsilons assume, and what they leave out."""
    return [
        f"One record added or removed (blanked, for the trainings); δ = {s.delta:g}, the stump's 0.",
        "Levels and ranges of columns, and the number of records, count as public.",
        "Steps and rates were picked on other draws of the same population: not charged.",
        "Every point of the sweep spends its epsilon on fresh records, none of them real.",
    ]


def levels(rows: pd.DataFrame) -> dict[str, float]:
    """The best possible and the base rate, as lines to compare with."""
    known = means(rows, "way", records=0)
    return {"best possible": float(known[BEST]), "base rate": float(known[BASE])}


def gaps(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy lost to noise: each run beside its way's non-private self on the same records."""
    keys, shown = ["way", "records", "replicate"], rows[rows["records"] > 0]
    plain = shown[np.isinf(shown["epsilon"])].set_index(keys)["value"]
    lost = shown[np.isfinite(shown["epsilon"])]
    own = plain.loc[pd.MultiIndex.from_frame(lost[keys])].to_numpy()
    return lost.assign(metric="gap", value=own - lost["value"])


def needed(rows: pd.DataFrame) -> pd.DataFrame:
    """Records from which on a way stays within WITHIN of its non-private self, by budget.

    Between two sizes of the sweep the gap is a straight line in log n; `mean` is the smallest size
    where no gap was ever larger, inf where the largest size is too small. `se` is the spread over
    400 bootstrap samples of the replicates, "never" counted as twice the largest size.
    """
    records = []
    for (way, epsilon), part in gaps(rows).groupby(["way", "epsilon"], sort=False):
        table = part.pivot(index="replicate", columns="records", values="value").sort_index(axis=1)
        sizes, values = table.columns.to_numpy(float), table.to_numpy()
        drawn = np.random.default_rng(0).integers(len(values), size=(400, len(values)))
        resampled = [min(_first(sizes, values[i].mean(axis=0)), 2 * sizes[-1]) for i in drawn]
        first = _first(sizes, values.mean(axis=0))
        records.append((way, epsilon, first, float(np.std(resampled)), len(values)))
    table = pd.DataFrame(records, columns=["way", "epsilon", "mean", "se", "n"])
    return table.sort_values("way", key=lambda way: way.map(WAYS.index), kind="stable")


def reached(rows: pd.DataFrame) -> pd.DataFrame:
    """The lines of `needed` that are to be drawn: those within the sweep."""
    table = needed(rows)
    return table[np.isfinite(table["mean"])]


def _first(sizes: np.ndarray, lost: np.ndarray) -> float:
    above = np.flatnonzero(lost > WITHIN + 1e-9)
    if not above.size:
        return float(sizes[0])
    i = above[-1]
    if i + 1 == sizes.size:
        return math.inf
    share = (lost[i] - WITHIN) / (lost[i] - lost[i + 1])
    return float(sizes[i] * (sizes[i + 1] / sizes[i]) ** share)


def words(rows: pd.DataFrame) -> pd.DataFrame:
    """`needed` as a table to read: a way a line, a budget a column."""
    table, sizes = needed(rows), rows.loc[rows["records"] > 0, "records"]
    texts = table.assign(text=[_words(n, sizes.min(), sizes.max()) for n in table["mean"]])
    wide = texts.assign(budget=[f"ε = {e:g}" for e in table["epsilon"]])
    columns = dict.fromkeys(wide.sort_values("epsilon")["budget"])
    wide = wide.pivot(index="way", columns="budget", values="text")[[*columns]]
    return wide.loc[[*dict.fromkeys(table["way"])]].rename_axis(columns=None).reset_index()


def _words(n: float, least: float, most: float) -> str:
    if math.isinf(n):
        return f"more than {most:,.0f}"
    return f"{least:,.0f} or fewer" if n <= least else f"about {float(f'{n:.2g}'):,.0f}"


def _near_one(rows: pd.DataFrame) -> float:
    finite = rows.loc[np.isfinite(rows["epsilon"]), "epsilon"].unique()
    return float(min(finite, key=lambda e: abs(math.log(e))))


def headline(rows: pd.DataFrame) -> Claim:
    """How many records each way needs at the budget nearest to 1."""
    epsilon = _near_one(rows)
    table = words(rows).set_index("way")[f"ε = {epsilon:g}"]
    needs = "; ".join(f"{way} {text}" for way, text in table.items())
    sentence = "Records needed at ε = {epsilon:g} to lose at most one point to noise: {needs}."
    return Claim(sentence, epsilon=epsilon, needs=needs)


def takeaways(rows: pd.DataFrame) -> list[Claim]:
    """What these rows say of paragraphs 77 to 79 of the report."""
    epsilon, known, sizes = _near_one(rows), levels(rows), rows.loc[rows["records"] > 0, "records"]
    base, best, least, most = known["base rate"], known["best possible"], sizes.min(), sizes.max()
    right = means(rows, "records", "epsilon", "way")
    small, large, own = right[least][epsilon], right[most][epsilon], right[most][math.inf]
    need = needed(rows).set_index(["epsilon", "way"])["mean"]
    n, by_sgd = need[epsilon], need.xs(SGD, level="way")
    text = {way: _words(n[way], least, most) for way in WAYS}
    inside = by_sgd[(by_sgd > least) & np.isfinite(by_sgd)]
    low, high = inside.index.min(), inside.index.max()
    power = math.log(inside[low] / inside[high]) / math.log(high / low) if low < high else math.nan
    networks, simple = max(small[SGD], small[MST]), min(small[LOGISTIC], small[STUMP])
    useful, ends = (base + best) / 2, [*own, *large]
    at = "At n = {least:,} and ε = {epsilon:g}"
    shares = (
        "DP-SGD gets {small[DP-SGD]:.0%} of people right, a network on MST's table {small[MST table]:.0%}; "
        "the larger class is {base:.0%}, the best possible {best:.0%}."
    )
    sentences = [
        (f"{at} networks are not useful, as paragraph 77 of the report has it: {shares}", networks < useful,
         f"{at} a network can be useful, against paragraph 77 of the report: {shares}"),
        ("But simple models are: logistic regression gets {small[DP logistic regression]:.0%} right there, "
         "one threshold {small[DP stump]:.0%}.", simple > max(useful, networks),
         "Simple models are no way out there: logistic regression gets {small[DP logistic regression]:.0%} "
         "right, one threshold {small[DP stump]:.0%}."),
        ("The size of the data is the cause, as paragraph 78 supposes: at ε = {epsilon:g} DP-SGD loses at "
         "most one point to noise with {text[DP-SGD]} records, MST's table with {text[MST table]}.",
         n[SGD] > least and math.isfinite(max(n[SGD], n[MST])),
         "The size of the data does not explain it here (paragraph 78): at ε = {epsilon:g} DP-SGD needs "
         "{text[DP-SGD]} records, MST's table {text[MST table]}."),
        ("A table made for the task pays (paragraph 79): with margins of the target it needs "
         "{text[target-margins table]} records, with MST {text[MST table]}.", n[MARGINS] < n[MST],
         "A table made for the task saves no records here (paragraph 79): it needs "
         "{text[target-margins table]}, MST {text[MST table]}."),
        ("Records buy privacy: between ε = {low:g} and {high:g} the n that DP-SGD needs falls as ε to the "
         "power {power:.2f}.", power > 0),
        ("At n = {most:,} and ε = {epsilon:g} noise costs no way more than a point; with noise or without "
         "they get {min:.1%} to {max:.1%} right.", (own - large <= WITHIN + 1e-9).all(),
         "At n = {most:,} and ε = {epsilon:g} noise still costs some ways more than a point; with noise or "
         "without they get {min:.1%} to {max:.1%} right."),
    ]  # fmt: skip
    return claims(
        sentences, epsilon=epsilon, base=base, best=best, least=least, most=most, small=small, text=text,
        low=low, high=high, power=-power, min=min(ends), max=max(ends),
    )  # fmt: skip
