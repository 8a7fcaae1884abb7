"""Working on data that one never sees: metadata, synthetic rows, a model trained inside.

A process of its own holds the table and an accountant that says no. Teaching code for a primer, not
for use: the autoregressive model (Uria et al., arXiv:1605.02226, without hidden units) trained by
DP-SGD, and the owner, who knows one analyst and draws seeded noise.
"""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import msgspec
import numpy as np
import pandas as pd
from msgspec import Meta
from numpy.random import Generator
from numpy.typing import NDArray

from pet_lab import accounting, data, files, synth
from pet_lab.checks import distinct, one_of, positive, require, whole
from pet_lab.data import student
from pet_lab.dpsgd import Config, train
from pet_lab.parties.apart import Apart
from pet_lab.parties.errors import Refused
from pet_lab.rows import Claim, Rows, claims, concat, streams, summarise, wide
from pet_lab.synth.domain import code

Array = NDArray[np.float64]
Weights = tuple[float, ...]  # of a linear model outside: of the features, then the constant
TARGET, WRONG = "passed", "model is wrong"
MODELS = ("logistic_regression",)
MST, CHAIN = "MST", "autoregressive"
INSIDE, PLAIN, COMMON = "original, inside", "original, no privacy", "most common label"
ANNOTATED = "original, labels by a model"
RATES = ("rate", "rate_control", "rate_baseline", "excess")
Z_SIX = 2.64  # two-sided 95 % of a normal for six attacks at once
REQUESTS = 5  # what an analyst asks for here, each at the same epsilon
LABELS = {
    "table": "data used",
    "accuracy": "accuracy on people in no table",
    "distance": "mean distance of two-column margins (0: equal)",
    "rate": "attacks that succeed",
    "rate_control": "the same on people not used",
    "rate_baseline": "by guessing",
    "excess": "difference to people not used",
    "wrong": "model is wrong, synthetic rows",
    "wrong_truth": "model is wrong, original rows",
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Parameters of the notebook, checked; `total` and `delta` are what the owner grants."""

    columns: Sequence[str]
    total: float
    epsilon: float
    delta: float
    group: str
    inferred: str
    attacks: int
    replicates: int
    seed: int

    def __post_init__(self) -> None:
        distinct(columns=self.columns, least=2)
        known = [name for name in self.columns if name in student.DOMAIN]
        for name in self.columns:
            one_of(student.DOMAIN, column=name, hint="a column needs public values")
        one_of(known, group=self.group, inferred=self.inferred)
        positive(total=self.total, epsilon=self.epsilon)
        require(
            REQUESTS * exact(self.epsilon) <= exact(self.total),
            f"total pays for {REQUESTS} requests of epsilon {self.epsilon:g}, got {self.total:g}.",
        )
        require(0 < self.delta < 1, f"delta is between 0 and 1, got {self.delta}.")
        whole(10, attacks=self.attacks)
        whole(1, replicates=self.replicates)
        whole(0, seed=self.seed)

    @property
    def domain(self) -> dict[str, list[Any]]:
        """Public values of each column of the owner's table."""
        return {name: list(student.DOMAIN[name]) for name in self.columns} | {TARGET: ["no", "yes"]}


def exact(number: float) -> Fraction:
    """The decimal that was written: three times 0.1 is 0.3, which in floating point it is not."""
    return Fraction(str(number))


# --- what may be asked ----------------------------------------------------------------------------


class Listing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="list"):
    """Tables, and their columns with public values: free."""


class Synthesis(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="synthetic"):
    """Synthetic rows by `MST` or `CHAIN`; `errors_of` adds where that model is wrong."""

    table: str
    epsilon: float
    kind: str = MST
    errors_of: Weights | None = None


class TrainingRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="train"):
    """A declared model, never code, one of `MODELS`, trained on the table by DP-SGD; `labels_by` has
    a model annotate the table first."""

    table: str
    epsilon: float
    kind: str = MODELS[0]
    epochs: Annotated[int, Meta(ge=1, le=100)] = 20
    labels_by: Weights | None = None


Request = Listing | Synthesis | TrainingRequest


def features(frame: pd.DataFrame, domain: Mapping[str, Sequence[Any]]) -> Array:
    """All columns but the target in [0, 1], by their public values alone: text as one feature a
    value."""
    parts = []
    for name in [n for n in domain if n not in (TARGET, WRONG)]:
        values = domain[name]
        if isinstance(values[0], str):
            parts += [(frame[name] == value).to_numpy(float) for value in values]
        else:
            parts.append((frame[name].to_numpy(float) - min(values)) / (max(values) - min(values)))
    return np.column_stack(parts)


def predict(model: Weights, x: Array) -> NDArray[np.bool_]:
    """Whether the model says "passed" (n,)."""
    d, weights = x.shape[1], np.asarray(model)
    require(len(weights) == d + 1, f"A model here has {d + 1} weights, got {len(weights)}.")
    return np.asarray(x @ weights[:-1] + weights[-1] > 0)


# --- an autoregressive model: teaching code, not for use ------------------------------------------


def chain(
    z: Array, sizes: Sequence[int], *, noise: float, rate: float, steps: int, rng: Generator
) -> Array:
    """Weights (1 + d, d) of P(Z_i | Z_1 ... Z_i-1), a softmax of the columns before, by DP-SGD.

    z (n, d) holds the columns one-hot. One record's gradients of all conditionals are clipped
    together to norm 1, on Poisson batches of this rate.
    """
    block = np.repeat(np.arange(len(sizes)), sizes)
    mask = np.vstack([np.ones(len(block)), block[:, None] < block])
    weights = np.zeros_like(mask)
    for _ in range(steps):
        x = z[rng.random(len(z)) < rate]
        error = _softmax(x, weights, block) - x
        norm = np.sqrt(((1 + block) * error**2).sum(axis=1, keepdims=True))
        slope = np.column_stack([np.ones(len(x)), x]).T @ (error / np.maximum(norm, 1))
        weights -= 2.0 * mask * (slope + rng.normal(0, noise, mask.shape)) / (rate * len(z))
    return weights


def _softmax(x: Array, weights: Array, block: NDArray[np.int64]) -> Array:
    power = np.exp(np.clip(weights[0] + x @ weights[1:], -30, 30))
    return np.asarray(power / (power @ (block[:, None] == block)))


def sample_chain(weights: Array, sizes: Sequence[int], n: int, rng: Generator) -> NDArray[np.int64]:
    """Codes (n, columns), one column after the other."""
    block = np.repeat(np.arange(len(sizes)), sizes)
    x, codes = np.zeros((n, len(block))), np.zeros((n, len(sizes)), np.int64)
    for i in range(len(sizes)):
        p = _softmax(x, weights, block)[:, block == i].cumsum(axis=1)
        codes[:, i] = (rng.random((n, 1)) > p[:, :-1]).sum(axis=1)
        x[np.arange(n), np.flatnonzero(block == i)[codes[:, i]]] = 1
    return codes


# --- the owner's process --------------------------------------------------------------------------


class TableOwner:
    """Tables and their accountant; `answer` is all that an analyst can reach.

    For each table epsilons add up as exact decimals, each request takes its part of delta, and the
    sum is on disk before the work begins: what fails is paid, and what is spent outlives a crash.
    """

    def __init__(self, tables: Mapping[str, pd.DataFrame], given: Mapping[str, Any]) -> None:
        self._tables, self._given, self._domain = tables, given, given["domain"]
        for frame in tables.values():
            both = frame[TARGET].nunique() == 2
            require(both, f"Expected two classes in {TARGET}, got one: nothing can be learned.")
            code(frame, self._domain)  # a value outside is refused now, never in an answer

    def answer(self, parts: list[bytes]) -> list[bytes]:
        """The JSON of a request -> what it gives, as JSON; ValueError for what is refused."""
        try:
            request = msgspec.json.decode(parts[0], type=Request)
        except msgspec.MsgspecError as error:
            sentence = "A request is list, synthetic or train, and none gives raw rows"
            raise ValueError(f"{sentence}: {str(error).rstrip('.')}.") from None
        if isinstance(request, Listing):
            return [msgspec.json.encode(dict.fromkeys(self._tables, self._domain))]
        one_of(self._tables, table=request.table)
        if isinstance(request, TrainingRequest):
            hint = "a model that keeps training records, or runs code, would let raw rows out"
            one_of(MODELS, model=request.kind, hint=hint)
        else:
            one_of((MST, CHAIN), kind=request.kind)
        rng, delta = self.charge(request.table, request.epsilon)
        if isinstance(request, TrainingRequest):
            return [msgspec.json.encode(self._train(request, delta, rng))]
        return [self._synthetic(request, delta, rng).to_json(orient="split").encode()]

    def charge(self, table: str, epsilon: float) -> tuple[Generator, float]:
        """Write down what a request costs: its random numbers and its part of delta. ValueError if
        it is more than is left."""
        positive(epsilon=epsilon)
        ledger = Path(self._given["folder"]) / table
        spent = Fraction(ledger.read_text()) if ledger.exists() else Fraction(0)
        total, after = exact(self._given["total"]), spent + exact(epsilon)
        require(
            after <= total,
            f"The budget is epsilon {float(total):g}, {float(spent):g} is spent, so {epsilon:g} more "
            f"is refused; ask for {float(total - spent):g} or less.",
        )
        with files.replacing(ledger) as stream:
            stream.write(str(after).encode())
        seed = [self._given["seed"], *table.encode(), int(1e6 * after)]
        return np.random.default_rng(seed), float(self._given["delta"] * exact(epsilon) / total)

    def _train(self, request: TrainingRequest, delta: float, rng: Generator) -> Weights:
        frame = self._tables[request.table]
        x, y = features(frame, self._domain), np.asarray(frame[TARGET] == "yes")
        if request.labels_by:
            y = predict(request.labels_by, x)
        # Two made-up records: labels of one class only must not show as an error.
        x, y = np.vstack([x, np.zeros((2, x.shape[1]))]), np.append(y, [False, True])
        how: dict[str, Any] = {"epochs": request.epochs, "sampling": "poisson"}
        how |= {"batch_size": len(x) // 4}
        z = accounting.noise_for(request.epsilon, n=len(x), delta=delta, **how)
        config = Config(hidden=(), learning_rate=1.0, noise_multiplier=z, **how)
        seed = int(rng.integers(2**31))
        return tuple(map(float, train(x, y, config, seeds=[seed], curve_every=0).weights[0]))

    def _synthetic(self, request: Synthesis, delta: float, rng: Generator) -> pd.DataFrame:
        frame, domain = self._tables[request.table], dict(self._domain)
        more: dict[str, Any] = {"mechanism": "mst", "epsilon": request.epsilon, "delta": delta}
        if request.errors_of:
            wrong = predict(request.errors_of, features(frame, domain)) != (frame[TARGET] == "yes")
            frame = frame.assign(**{WRONG: np.where(wrong, "yes", "no")})
            domain[WRONG], more["mechanism"], more["target"] = ["no", "yes"], "task", WRONG
        if request.kind == MST:
            more |= {"rng_seed": int(rng.integers(2**31)), "method": "sample", "cache": False}
            return synth.synthesise(frame, domain=domain, **more).frame
        coded, size = code(frame, domain), max(1, len(frame) // 4)
        sizes = list(coded.sizes.values())
        z = np.column_stack([np.eye(k)[coded.codes[c]] for c, k in coded.sizes.items()])
        how: dict[str, Any] = {"n": len(z), "batch_size": size, "epochs": 15, "delta": delta}
        noise = accounting.noise_for(request.epsilon, sampling="poisson", **how)
        steps = 15 * int(np.ceil(len(z) / size))
        weights = chain(z, sizes, noise=noise, rate=size / len(z), steps=steps, rng=rng)
        drawn = sample_chain(weights, sizes, len(z), rng)
        return coded.decode(dict(zip(coded.sizes, drawn.T, strict=True)), rng)


def held(tables: list[bytes], given: list[bytes]) -> TableOwner:
    """What the owner's process holds, from its first message (see `pet_lab.parties.apart`)."""
    coins = pd.DataFrame({"a": ["x", "y"] * 20, "b": ["x", "y"] * 20})
    # JAX starts its threads at the first use, and does not survive the process's limit on memory.
    synth.synthesise(coins, epsilon=1.0, rng_seed=0, cache=False)
    frames = [pd.read_json(io.BytesIO(table), orient="split") for table in tables]
    return TableOwner(
        {f"table-{i}": f for i, f in enumerate(frames)}, msgspec.json.decode(given[0])
    )


def owner(frames: Sequence[pd.DataFrame], folder: str, settings: Settings) -> Apart:
    """The process, with a ledger a table in the folder; call `close` at the end."""
    given = {"domain": settings.domain, "total": settings.total, "delta": settings.delta}
    given |= {"seed": settings.seed, "folder": folder}
    tables = [frame.to_json(orient="split").encode() for frame in frames]
    parts = tables, [msgspec.json.encode(given)]
    return Apart(f"{__name__}:held", *parts, refusal=Refused, deadline_s=300)


def ask(process: Apart, request: Request) -> Any:
    """What the owner answers: public values, a table, or weights; Refused if it does not."""
    (reply,) = process("answer", [msgspec.json.encode(request)])
    if isinstance(request, Synthesis):
        return pd.read_json(io.BytesIO(reply), orient="split")
    kind = Weights if isinstance(request, TrainingRequest) else dict
    return msgspec.json.decode(reply, type=kind)


# --- the analyst, and whoever judges the whole ----------------------------------------------------


def plain_model(frame: pd.DataFrame, domain: Mapping[str, Sequence[Any]]) -> Weights:
    """scikit-learn's logistic regression on a table that may be seen; of one class, that class."""
    from sklearn.linear_model import LogisticRegression

    x, y = features(frame, domain), frame[TARGET] == "yes"
    if y.nunique() == 1:
        return (*[0.0] * x.shape[1], 2.0 * y.iloc[0] - 1)
    model = LogisticRegression(max_iter=1000).fit(x, y)
    return (*map(float, model.coef_[0]), float(model.intercept_[0]))


def workflow(process: Apart, table: str, settings: Settings) -> dict[str, Any]:
    """What the analyst gets, in the slides' order: tables and models by name, and `refused`.

    A list of tables; synthetic rows by both makers, a model prototyped on each; a model trained
    inside; synthetic rows that show its errors; the prototype annotates the table, and a model is
    trained on those labels. Then two requests too many: of more than is left, and of a model that
    keeps its records.
    """
    public, epsilon, refused = ask(process, Listing())[table], settings.epsilon, 0
    tables, models = {}, {}
    for kind in (MST, CHAIN):
        tables[kind] = ask(process, Synthesis(table, epsilon, kind))
        models[kind] = plain_model(tables[kind], public)
    models[INSIDE] = ask(process, TrainingRequest(table, epsilon))
    tables[WRONG] = ask(process, Synthesis(table, epsilon, errors_of=models[INSIDE]))
    models[ANNOTATED] = ask(process, TrainingRequest(table, epsilon, labels_by=models[MST]))
    for budget, kind in ((settings.total, MODELS[0]), (epsilon, "nearest_neighbours")):
        try:
            ask(process, TrainingRequest(table, budget, kind))
        except Refused:
            refused += 1
    return {"tables": tables, "models": models, "refused": refused}


def judged(
    got: dict[str, Any], inside: pd.DataFrame, outside: pd.DataFrame, settings: Settings
) -> pd.DataFrame:
    """Rows: what no analyst sees. Accuracy on people `outside`; distance and risk of synthetic
    tables; errors of the model trained inside by group; people alone with their columns."""
    rows, domain = Rows(part="workflow"), settings.domain
    models = got["models"] | {PLAIN: plain_model(inside, domain)}
    x, truth = features(outside, domain), outside[TARGET] == "yes"
    for name, model in models.items():
        rows.add(table=name, metrics={"accuracy": np.mean(predict(model, x) == truth)})
    common = np.mean(outside[TARGET] == inside[TARGET].mode()[0])
    rows.add(table=COMMON, metrics={"accuracy": common})
    for kind in (MST, CHAIN):
        synthetic = got["tables"][kind]
        rows.add(table=kind, metrics={"distance": synth.utility(inside, synthetic).mean_pairwise})
        attacks = synth.risk(
            inside, synthetic, control=outside, secret=settings.inferred, n_attacks=settings.attacks,
            seed=settings.seed,
        )  # fmt: skip
        attacks["excess"] = attacks["rate"] - attacks["rate_control"]
        for row in attacks.to_dict("records"):
            metrics = {name: row[name] for name in RATES}
            rows.add(table=kind, attack=str(row["attack"]).replace("_", " "), metrics=metrics)
    wrong = predict(models[INSIDE], features(inside, domain)) != (inside[TARGET] == "yes")
    shown = got["tables"][WRONG]
    seen = (shown[WRONG] == "yes").groupby(shown[settings.group]).mean()
    for group, share in wrong.groupby(inside[settings.group]).mean().items():
        shares: dict[str, Any] = {"wrong": seen.get(group, np.nan), "wrong_truth": share}
        rows.add(group=str(group), metrics=shares)
    alone = ~inside.drop(columns=TARGET).duplicated(keep=False)
    rows.add(metrics={"refused": got["refused"], "alone": alone.mean()})
    return rows.frame()


def spoilt(frame: pd.DataFrame, group: str) -> pd.DataFrame:
    """The table with the labels of the rarest group turned: an error that nobody knows of."""
    rare = frame[group] == frame[group].value_counts().index[-1]
    turned = frame[TARGET].map({"no": "yes", "yes": "no"})
    return frame.assign(**{TARGET: frame[TARGET].where(~rare, turned)})


def _attacks() -> None:
    """Import anonymeter without its compiler, which takes longer than tables of this size do."""
    from numba import config

    logging.getLogger("anonymeter").setLevel(logging.ERROR)
    compiled = config.DISABLE_JIT  # type: ignore[attr-defined]
    config.DISABLE_JIT = True  # type: ignore[attr-defined]
    from anonymeter import evaluators  # noqa: F401

    config.DISABLE_JIT = compiled  # type: ignore[attr-defined]


def workflows(frame: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Rows of `judged` (replicate): two thirds of the people are in the owner's table, whose labels
    are `spoilt`; the others, with true labels, are for judging."""
    _attacks()
    inside, outside, parts = [], [], []
    for _, stream in streams(settings.seed, settings.replicates):
        mixed = frame.iloc[np.random.default_rng(stream).permutation(len(frame))]
        mixed, cut = mixed.reset_index(drop=True), 2 * len(mixed) // 3
        inside.append(spoilt(mixed[:cut], settings.group))
        outside.append(mixed[cut:].reset_index(drop=True))
    with TemporaryDirectory() as folder:
        process = owner(inside, folder, settings)
        try:
            for replicate, sides in enumerate(zip(inside, outside, strict=True)):
                got = workflow(process, f"table-{replicate}", settings)
                parts.append(judged(got, *sides, settings).assign(replicate=replicate))
        finally:
            process.close()
    return concat(*parts)


def refusals(cases: Sequence[tuple[float, float]]) -> pd.DataFrame:
    """Rows (total, each): `answered`, how many requests a budget pays for before one is refused."""
    frame = pd.DataFrame({"a": ["x", "y"] * 20, TARGET: ["no", "yes"] * 20})
    rows = Rows(part="budget")
    for total, each in cases:
        with TemporaryDirectory() as folder:
            given = {"domain": {"a": ["x", "y"], TARGET: ["no", "yes"]}, "total": total}
            given |= {"delta": 1e-5, "seed": 0, "folder": folder}
            asked, answered = TableOwner({"made-up": frame}, given), 0
            with suppress(ValueError):
                while True:
                    asked.charge("made-up", each)
                    answered += 1
        rows.add(total=total, each=each, metrics={"answered": answered})
    return rows.frame()


def simulate(frame: pd.DataFrame, target: str, settings: Settings) -> pd.DataFrame:
    """All rows; `part` is workflow or budget. ValueError if a column is missing, or all
    people are of one class."""
    missing = [name for name in settings.columns if name not in frame]
    require(not missing, f"Expected columns of the table, it has none called {missing}.")
    passed = np.where(data.positives(frame, target) == 1, "yes", "no")
    table = frame[list(settings.columns)].assign(**{TARGET: passed})
    budgets = [(3.0, 0.5), (0.3, 0.1), (1.0, 0.3)]
    return concat(workflows(table, settings), refusals(budgets))


def accuracies(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy by what a model was trained on, and the distance of synthetic tables."""
    here = rows[rows["metric"].isin(["accuracy", "distance"])]
    return wide(here, index="table").sort_values("accuracy", ascending=False)


def risks(rows: pd.DataFrame) -> pd.DataFrame:
    """Attacks on synthetic rows beside their control."""
    return wide(rows[rows["attack"] != ""], index=["table", "attack"])


def inspection(rows: pd.DataFrame) -> pd.DataFrame:
    """Errors of the model by group, in synthetic rows and in truth."""
    return wide(rows[rows["metric"].isin(["wrong", "wrong_truth"])], index="group")


def comparison(rows: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """How it compares: accuracy, epsilon, and a measure, named, of what is given away."""
    accuracy = accuracies(rows).set_index("table")["accuracy"]
    metric = rows.groupby("metric")["value"].mean()
    excess = risks(rows).groupby("table")["excess"].max()
    gain = np.exp(settings.epsilon)
    bound = (gain - 1 + 2 * settings.delta) / (gain + 1)
    return pd.DataFrame(
        [
            ("masking: names deleted", accuracy[PLAIN], np.inf, "people alone with their columns",
             metric["alone"]),
            ("synthetic rows (MST)", accuracy[MST], settings.epsilon, "largest excess of an attack",
             excess[MST]),
            ("encrypted scores, decrypted exactly", accuracy[PLAIN], np.inf,
             "a score from two exact sums", 1.0),
            ("trained inside", accuracy[INSIDE], settings.epsilon, "membership advantage, at most",
             bound),
        ],
        columns=["approach", "accuracy", "epsilon", "measure", "given_away"],
    )  # fmt: skip


def assumptions(settings: Settings) -> str:
    """The privacy statement of everything that left the owner's process."""
    return (
        f"All that leaves the owner's process: epsilon {settings.total:g} and delta {settings.delta:g} at most "
        f"({REQUESTS} requests of epsilon {settings.epsilon:g}, summed; one record added or removed; values of columns "
        "and the number of rows public; the analyst sees every answer, not its timing). Seeded noise: for repeating "
        "the experiment, not for release. Accuracies, distances, risks and true errors are judged on the original "
        "table and are not private."
    )


def takeaways(rows: pd.DataFrame, settings: Settings) -> list[Claim]:
    """What these rows say; the first is the headline."""
    table = accuracies(rows).set_index("table")
    accuracy, distance = table["accuracy"], table["distance"]
    risk = summarise(rows[rows["metric"] == "excess"], ["table", "attack"])
    watched = inspection(rows).set_index("group")
    worst, metric = risk.sort_values("mean").iloc[-1], rows.groupby("metric")["value"].mean()
    top = str(watched["wrong"].idxmax())
    n: dict[str, Any] = {
        "inside": accuracy[INSIDE], "common": accuracy[COMMON], "plain": accuracy[PLAIN],
        "mst": accuracy[MST], "chain": accuracy[CHAIN],
        "epsilon": settings.epsilon, "total": settings.total, "replicates": settings.replicates,
        "mst_distance": distance[MST], "chain_distance": distance[CHAIN],
        "attack": worst["attack"], "excess": worst["mean"], "half": Z_SIX * worst["se"],
        "made": worst["table"], "top": top, "group": settings.group,
        "seen": watched.loc[top, "wrong"], "truth": watched.loc[top, "wrong_truth"],
        "worst": watched["wrong_truth"].idxmax(), "most": watched["wrong_truth"].max(),
    }  # fmt: skip
    sentences = [
        ("A model trained inside at epsilon {epsilon:g} reaches {inside:.0%} on new people; without "
         "privacy it is {plain:.0%}, the most common label {common:.0%}.", n["inside"] > n["common"],
         "A model trained inside at epsilon {epsilon:g} reaches {inside:.0%} on new people, no more "
         "than the most common label, {common:.0%}; without privacy it is {plain:.0%}."),
        ("In each of {replicates} workflows the owner refused the request beyond the total of {total:g} "
         "and the model that keeps its records.", metric["refused"] == 2,
         "The owner answered a request that it had to refuse."),
        ("Training inside beats training on synthetic rows: {inside:.0%} against {mst:.0%} (MST, "
         "{mst_distance:.2f} from the true margins of two columns) and {chain:.0%} (autoregressive, "
         "{chain_distance:.2f}), each at epsilon {epsilon:g}.",
         n["inside"] > max(n["mst"], n["chain"]),
         "Training inside does not beat training on synthetic rows here: {inside:.0%} against "
         "{mst:.0%} (MST) and {chain:.0%} (autoregressive), each at epsilon {epsilon:g}."),
        ("The attack that gains most, {attack} on {made} rows, succeeds in {excess:.1%} ± {half:.1%} more "
         "of its attempts on people in the table than on people not used.", n["excess"] > n["half"],
         "No attack is clearly better on people in the table than on people not used: {attack} on "
         "{made} rows gains most, {excess:.1%} ± {half:.1%} of its attempts."),
        ("Synthetic rows with the model's errors point to the spoilt labels: {group} {top}, "
         "{seen:.0%} wrong there, {truth:.0%} in truth.", top == n["worst"],
         "Synthetic rows with the model's errors point to {group} {top} ({seen:.0%} wrong, {truth:.0%} "
         "in truth); most are in {worst} ({most:.0%})."),
    ]  # fmt: skip
    return claims(sentences, **n)


def explore(total: float, epsilon: float, log10_delta: int) -> pd.DataFrame:
    """Answers that a budget pays for: by the sum of epsilons, and were each Gaussian noise and the
    ledger exact (arXiv:1805.06530); the noise of a count in each."""
    share = float(exact(epsilon) / exact(total))
    require(share <= 1, f"One answer of epsilon {epsilon:g} is more than the {total:g} granted.")
    delta = 10.0**log10_delta
    how: dict[str, Any] = {"n": 1, "batch_size": None, "epochs": 1}  # a single Gaussian answer
    how |= {"sampling": "full", "accountant": "pld"}
    one = accounting.noise_for(epsilon, delta=delta * share, **how)
    every = accounting.noise_for(total, delta=delta, **how)
    quantities = {
        "answers before one is refused": exact(total) // exact(epsilon),
        "answers, were the ledger exact for Gaussian noise": math.floor((one / every) ** 2),
        "noise of a count in each answer, standard deviation": one,
    }
    return pd.DataFrame({"quantity": list(quantities), "value": list(quantities.values())})
