"""Stealing a model through its answers, what slows that down, and inverting a model for a field.

Teaching code for a primer, not for use: equation solving (Tramer et al., arXiv:1609.02943), a test of
query streams after PRADA (Juuti et al., arXiv:1805.02628), and inversion of one field (Fredrikson et
al., USENIX Security 2014) with people outside of the training data as control.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.special import expit, logit

from pet_lab import data
from pet_lab.checks import between, distinct, positive, require, whole
from pet_lab.rows import Claim, Rows, claims, concat, means, only, streams, wide

Array = NDArray[np.float64]
LABELS = {
    "queries": "queries",
    "error": "largest error of a stolen weight",
    "agreement": "agreement of the copy",
    "beyond": "queries beyond the number of features",
    "spent": "epsilon of all answers",
    "useful": "answers that keep their label",
    "normality": "W of the distances between queries (1: normal)",
    "alarm": "streams with an alarm",
    "hit": "people whose field is guessed",
    "stream": "queries are",
    "people": "asked about",
}
OWN, COPIES, HIDDEN = "own records", "altered copies", "copies among own"
COPIED = {OWN: 0.0, COPIES: 1.0, HIDDEN: 0.5}  # share of the queries that are copies
CONTROL = "control: no queries, true labels"
NO_DEFENCE, LABEL = "none", "label only"
EACH, ALL, ONCE = "noise in each answer", "noise, all answers", "private model"
TOLERANCE = 1e-6  # the stolen weights equal the true ones to this


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Parameters of the notebook, checked."""

    features: Sequence[int]
    queries: Sequence[int]
    decimals: Sequence[int]
    epsilon: float
    alarm: float
    sensitive: str
    target: str
    replicates: int
    seed: int

    def __post_init__(self) -> None:
        distinct(features=self.features, queries=self.queries, decimals=self.decimals)
        for number in self.features:
            whole(1, features=number)
            between(1, 30, features=number, hint="the tumour data have 30")
        for number in self.queries:
            between(10, 700, queries=number, hint="the attacker has 700 digits of his own")
            whole(10, queries=number)
        for number in self.decimals:
            whole(1, decimals=number)
        positive(epsilon=self.epsilon)
        between(0, 1, alarm=self.alarm)
        whole(1, replicates=self.replicates)
        whole(0, seed=self.seed)


# --- a regression, by solving equations -----------------------------------------------------------


def fitted(x: Array, y: NDArray[Any], *, strength: float) -> Any:
    """scikit-learn's penalised logistic regression (its C is `strength`), the constant penalised."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, fit_intercept=False, max_iter=10_000, tol=1e-8)
    return model.fit(x, y)


def with_constant(x: Array) -> Array:
    """The records with a feature that is 1."""
    return np.column_stack([x, np.ones(len(x))])


def tumours(features: int = 30) -> tuple[Array, NDArray[np.int64]]:
    """scikit-learn's tumour data, each feature scaled to [-1, 1]; the ranges count as public."""
    raw, y, _ = data.shipped.tumours()
    return with_constant(2 * data.unit_range(raw[:, :features]) - 1), y


def solve(points: Array, log_odds: Array) -> Array:
    """Weights that give these log odds at the points (n, d + 1): least squares, shortest solution."""
    return np.asarray(np.linalg.lstsq(points, log_odds, rcond=None)[0])


def equation_solving(settings: Settings) -> pd.DataFrame:
    """Rows: `error` of the weights stolen with each number of queries around d + 1, and
    `queries_needed`, the first number whose error is at most `TOLERANCE`.

    Each query gives a linear equation of the log odds. Weights of several classes are known up to a
    vector common to all: both sides are centred over the classes.
    """
    images, label = data.shipped.digits()
    models = [*map(tumours, settings.features), (with_constant(images), label)]
    rows = Rows(part="equations")
    for x, y in models:
        model, d, classes = fitted(x, y, strength=0.1), x.shape[1] - 1, len(np.unique(y))
        truth = model.coef_ / (2 if classes == 2 else 1)
        truth = np.vstack([-truth, truth]) if classes == 2 else truth
        for replicate, stream in streams(settings.seed, settings.replicates):
            points = with_constant(np.random.default_rng(stream).uniform(-1, 1, (d + 5, d)))
            answers = np.log(model.predict_proba(points))
            answers -= answers.mean(axis=1, keepdims=True)
            aim, needed = (truth - truth.mean(axis=0)).T, np.nan
            here: dict[str, Any] = {"features": d, "classes": classes, "replicate": replicate}
            for asked in range(max(1, d - 3), d + 6):
                error = np.abs(solve(points[:asked], answers[:asked]) - aim).max()
                needed = asked if np.isnan(needed) and error <= TOLERANCE else needed
                rows.add(**here, beyond=asked - d, metrics={"error": error})
            rows.add(**here, metrics={"queries_needed": needed})
    return rows.frame()


def answered(z: Array, defence: str, *, scale: float, rng: Generator) -> Array:
    """What an answer gives away of the log odds z (n,): rounded, their sign, noisy, or themselves.

    "rounded n": the probability to n decimals; "noise": Laplace of this scale on the log odds.
    """
    kind, _, rest = defence.partition(" ")
    if kind == "rounded":
        least = 0.5 * 10.0 ** -int(rest)
        return np.asarray(logit(np.clip(np.round(expit(z), int(rest)), least, 1 - least)))
    if defence == LABEL:
        return np.where(z > 0, 1.0, -1.0)
    return z + rng.laplace(0, scale, len(z)) if defence in (EACH, ALL) else z


def defended_regression(settings: Settings) -> pd.DataFrame:
    """Rows (defence, queries): `agreement` of the copy with the model that is served, on records of
    neither; `useful`, single answers with the label of the undisturbed model; `spent`, the epsilon
    of all answers (infinite without noise).

    Records have norm 1 or less and C is 1, so one record added or removed moves the weights by at
    most 1, and a log odds too: Laplace noise of scale 1 / epsilon on it is epsilon-private, and q
    answers cost q epsilon. The private model has noise of density ~ exp(-epsilon |noise|) added to
    its weights once, which pays for all answers. The thief solves equations; where he sees labels
    alone he fits a logistic regression.
    """
    x, y = tumours()
    x, rows, epsilon = x / np.sqrt(x.shape[1]), Rows(part="defended"), settings.epsilon
    names = [NO_DEFENCE, *(f"rounded {n}" for n in settings.decimals), LABEL, EACH, ALL, ONCE]
    for replicate, stream in streams(settings.seed, settings.replicates):
        rng = np.random.default_rng(stream)
        train, test = np.split(rng.permutation(len(x)), [380])
        weights = fitted(x[train], y[train], strength=1).coef_[0]
        way = rng.normal(size=len(weights))
        noisy = weights + way / np.linalg.norm(way) * rng.gamma(len(way), 1 / epsilon)
        for defence in names:
            served = noisy if defence == ONCE else weights
            for asked in settings.queries:
                scale = (asked if defence == ALL else 1) / epsilon
                points = with_constant(rng.uniform(-1, 1, (asked, x.shape[1] - 1)))
                points /= np.sqrt(x.shape[1])
                seen = answered(points @ served, defence, scale=scale, rng=rng)
                both = defence == LABEL and abs(seen.mean()) < 1
                copy = fitted(points, seen, strength=1e4).coef_[0] if both else solve(points, seen)
                once = answered(x[test] @ served, defence, scale=scale, rng=rng)
                spent = {EACH: asked * epsilon, ALL: epsilon, ONCE: epsilon}
                metrics = {
                    "agreement": np.mean((x[test] @ copy > 0) == (x[test] @ served > 0)),
                    "useful": np.mean((once > 0) == (x[test] @ weights > 0)),
                    "spent": spent.get(defence, np.inf),
                }
                rows.add(defence=defence, queries=asked, replicate=replicate, metrics=metrics)
    return rows.frame()


# --- a network, by agreement, and what its owner could notice -------------------------------------


def normality(stream: Array, answers: NDArray[np.int64]) -> float:
    """W of Shapiro and Wilk for the distances of queries to the nearest earlier one with the same
    answer, those more than three standard deviations off left out: near 1 for independent queries.

    Raises
    ------
    ValueError
        If fewer than three queries have an earlier one.
    """
    from scipy.spatial.distance import cdist
    from scipy.stats import shapiro

    apart = cdist(stream, stream)
    apart[(answers[:, None] != answers) | np.triu(np.ones_like(apart, bool))] = np.inf
    near = apart.min(axis=1)
    near = near[np.isfinite(near)]
    near = near[np.abs(near - near.mean()) <= 3 * near.std()] if len(near) else near
    require(len(near) > 2, f"A stream needs three queries with an earlier one, got {len(near)}.")
    return float(shapiro(near).statistic)


def query_stream(kind: str, own: Array, asked: int, rng: Generator) -> Array:
    """The thief's queries (asked, d): records of his own, and by `COPIED` copies of a few of them
    with every pixel moved by 0.1 (a fifth of the copies unmoved)."""
    copies = int(COPIED[kind] * asked)
    seeds = own[: max(1, copies // 5)]
    moved = seeds[rng.integers(0, len(seeds), copies - len(seeds) if copies else 0)]
    moved = np.clip(moved + 0.1 * rng.choice([-1.0, 1.0], moved.shape), 0, 1)
    return rng.permutation(np.vstack([own[: asked - len(moved)], moved]))


def stolen_network(settings: Settings) -> pd.DataFrame:
    """Rows (stream, queries): `agreement` with a network 64-64-10 on digits that neither
    saw, `normality` of the stream and whether it is below the `alarm`.

    The thief trains a network of that shape on log probabilities. The control has the thief's own
    digits with their true labels, and asks nothing.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    (x, y), rows = data.shipped.digits(), Rows(part="network")
    for replicate, stream in streams(settings.seed, settings.replicates):
        rng = np.random.default_rng(stream)
        train, own, test = np.split(rng.permutation(len(x)), [600, 1300])
        net = {"hidden_layer_sizes": (64,), "random_state": int(rng.integers(2**31))}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = MLPClassifier(max_iter=100, **net).fit(x[train], y[train])
            served = model.predict(x[test])
            for asked in settings.queries:
                at: dict[str, Any] = {"queries": asked, "replicate": replicate}
                control = MLPClassifier(max_iter=100, **net).fit(x[own[:asked]], y[own[:asked]])
                agreement = np.mean(control.predict(x[test]) == served)
                rows.add(**at, stream=CONTROL, metrics={"agreement": agreement})
                for kind in COPIED:
                    points = query_stream(kind, x[own], asked, rng)
                    copy = MLPRegressor(learning_rate_init=0.003, **net)
                    copy.fit(points, model.predict_log_proba(points))
                    agreement = np.mean(copy.predict(x[test]).argmax(axis=1) == served)
                    w = normality(points, model.predict(points))
                    metrics = {"normality": w, "alarm": w < settings.alarm, "agreement": agreement}
                    rows.add(**at, stream=kind, metrics=metrics)
    return rows.frame()


# --- a field of a person, by inversion ------------------------------------------------------------


def inversion(frame: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Rows (model, people): `hit`, people whose sensitive field the attacker guesses.

    He knows their other fields, their outcome y, the field's distribution among the members, and the
    model's confidences: his guess has the largest P(value) P(y | fields, value). Asked about people
    who were in the training, people who were not, and ("prior") without the model.

    Raises
    ------
    ValueError
        If the field is no column beside the target, or the members have one outcome.
    """
    from sklearn.ensemble import RandomForestClassifier

    base = data.encode(frame, target=settings.target)
    there = {column for column, _ in base.features}
    known = settings.sensitive in there
    require(known, f"sensitive is a column beside the target, got {settings.sensitive!r}.")
    field, rows = frame[settings.sensitive], Rows(part="inversion")
    values = sorted(field.unique())
    changed = [frame.assign(**{settings.sensitive: value}) for value in values]
    asked = [data.encode(table, target=settings.target, like=base).X for table in changed]
    for replicate, stream in streams(settings.seed, settings.replicates):
        rng = np.random.default_rng(stream)
        members = rng.permutation(len(field)) < len(field) // 2
        x, y = base.X[members], base.y[members]
        one = "Expected both outcomes among the members, got one; choose another target."
        require(len(np.unique(y)) == 2, one)
        forest = RandomForestClassifier(50, random_state=int(rng.integers(2**31))).fit(x, y)
        prior = np.array([(field[members] == v).mean() for v in values])
        chances = {
            "forest": [forest.predict_proba(x_v) for x_v in asked],
            "prior": [np.ones((len(field), 2)) for _ in asked],
        }
        for name, p in chances.items():
            likely = np.array(p)[:, np.arange(len(field)), base.y]
            guess = np.argmax(prior[:, None] * likely, axis=0)
            hit = np.array(values, dtype=object)[guess] == field.to_numpy()
            for people, chosen in (("members", members), ("others", ~members)):
                metrics = {"hit": float(np.mean(hit[chosen]))}
                rows.add(model=name, people=people, replicate=replicate, metrics=metrics)
    return rows.frame()


# --- the whole study ------------------------------------------------------------------------------


def simulate(frame: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """All rows; `part` is equations, defended, network or inversion."""
    return concat(
        inversion(frame, settings),
        equation_solving(settings),
        defended_regression(settings),
        stolen_network(settings),
    )


def defences(rows: pd.DataFrame) -> pd.DataFrame:
    """Agreement, usefulness and epsilon spent by defence, at the most queries."""
    here = only(rows, part="defended")
    return wide(only(here, queries=here["queries"].max()), index="defence")


def detection(rows: pd.DataFrame) -> pd.DataFrame:
    """W, alarms and agreement by kind of queries, at the most queries."""
    here = only(rows, part="network", stream=list(COPIED))
    return wide(only(here, queries=here["queries"].max()), index="stream")


def assumptions(settings: Settings) -> str:
    """The privacy statement of the private answers and of the private model."""
    return (
        f"Regression with noise: epsilon {settings.epsilon:g} an answer, or for all answers together "
        "where the table says so (Laplace, or noise on the weights once; delta 0; one record added "
        "or removed; records of norm 1 or less by public ranges; solved to 1e-8, floating-point "
        "noise). Everything else in this notebook is not private."
    )


def takeaways(rows: pd.DataFrame, settings: Settings) -> list[Claim]:
    """What these rows say; the first is the headline."""
    needed = only(rows, metric="queries_needed")
    few, many = min(settings.queries), max(settings.queries)
    served: Any = means(rows, "defence", "queries", "metric", part="defended").unstack()
    net = means(rows, "stream", "queries", part="network", metric="agreement")
    coarse = served["agreement"][f"rounded {min(settings.decimals)}"]
    once, each, split = (served.loc[(defence, many)] for defence in (ONCE, EACH, ALL))
    watched = detection(rows).set_index("stream")
    guess = means(rows, "model", "people", part="inversion")
    forest, prior = guess["forest"], guess["prior", "members"]
    sentences = [
        ("A model with {features:.0f} features is stolen to a millionth by {queries:.0f} queries, one for "
         "each unknown of a class; with one fewer it is not.",
         (needed["value"] == needed["features"] + 1).all()),
        ("Confidences rounded to {decimals} decimal hold the copy at {coarse:.0%} agreement after {few} "
         "queries, and at {coarse_many:.1%} after {many}.", coarse[few] < coarse[many]),
        ("A model that is private once and for all (epsilon {epsilon:g}) is stolen like any other: the "
         "copy agrees with it in {once[agreement]:.1%} of answers. It protects records, not the model.",
         once["agreement"] > 0.99),
        ("Fresh noise of epsilon {epsilon:g} an answer adds up to {each[spent]:,.0f} over {many} answers, "
         "and the copy still agrees in {each[agreement]:.1%}; where these answers share one epsilon, the "
         "noise leaves {split[useful]:.0%} of labels as they were.",
         each["agreement"] > 0.9 and split["useful"] < 0.75),
        ("{few} queries give a network that agrees in {copy:.0%} of answers; the same records with true "
         "labels and no query give {control:.0%}.", net[OWN, few] > net[CONTROL, few]),
        ("The test of streams raises an alarm on {seen:.0%} of streams of altered copies, on "
         "{hidden[alarm]:.0%} where half of the queries are honest, and on {false:.0%} of honest ones; "
         "the half-honest thief reaches {hidden[agreement]:.0%} agreement.",
         watched["alarm"][HIDDEN] < watched["alarm"][COPIES]),
        ("Inverting a forest tells {field} of {forest[members]:.0%} of its members and of "
         "{forest[others]:.0%} of other people; the most common value is right for {prior:.0%}.",
         forest["members"] > max(forest["others"], prior)),
    ]  # fmt: skip
    return claims(
        sentences, features=needed["features"].max(), queries=needed["value"].max(), few=few, many=many,
        epsilon=settings.epsilon, decimals=min(settings.decimals), coarse=coarse[few],
        coarse_many=coarse[many], once=once, each=each, split=split, copy=net[OWN, few],
        control=net[CONTROL, few], seen=watched["alarm"][COPIES],
        hidden=watched.loc[HIDDEN], false=watched["alarm"][OWN], field=settings.sensitive,
        forest=forest, prior=prior,
    )  # fmt: skip


def explore(features: int, queries: int, answers: str) -> pd.DataFrame:
    """A regression on the tumour data, stolen now by equations: what the copy is worth."""
    x, y = tumours(features)
    weights = fitted(x, y, strength=10).coef_[0]
    rng = np.random.default_rng(0)
    points = with_constant(rng.uniform(-1, 1, (queries, features)))
    copy = solve(points, answered(points @ weights, answers, scale=0, rng=rng))
    agreement = np.mean((x @ copy > 0) == (x @ weights > 0))
    measures = {
        "unknown weights": features + 1,
        "largest error of a weight": np.abs(copy - weights).max(),
        "agreement on the records": agreement,
    }
    return pd.DataFrame({"quantity": list(measures), "value": list(measures.values())})
