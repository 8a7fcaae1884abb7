"""PATE: teachers that vote with noise, what an answer costs, and what a vote without noise reveals.

Teaching code for a primer, not for use: LNMax with the moments bound of Papernot et al. 2017
(arXiv:1610.05755, theorems 2 and 3), Confident GNMax with the Renyi bound of Papernot et al. 2018
(arXiv:1802.08908, theorem 6, propositions 7, 8 and 10). No library installed here accounts for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import integrate, special, stats
from threadpoolctl import threadpool_limits

from pet_lab import accounting, data
from pet_lab.checks import between, distinct, positive, require, whole
from pet_lab.data.scaling import standardise
from pet_lab.federated.model import LocalTraining, Network
from pet_lab.rows import Claim, Rows, claims, concat, means, only, streams, summarise, wide

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
LNMAX, GNMAX, DPSGD = "LNMax", "Confident GNMax", "DP-SGD"
NO_NOISE, EXACT, DEPENDENT, WORST = "no noise", "exact", "data-dependent", "worst case"
ORDERS = np.array(
    [*np.arange(1.1, 4, 0.1), *np.arange(4, 12, 0.5), *range(12, 40, 2), 64, 128, 256]
)
LABELS = {
    "noise": "noise / teachers",
    "margin": "votes by which the winner leads",
    "epsilon": "epsilon, data-dependent",
    "worst_case": "epsilon, whatever the votes",
    "cost": "epsilon of 100 answers",
    "answered": "questions answered",
    "right": "answers that are right",
    "task": "data",
    "accuracy": "accuracy on test records",
    "student": "accuracy of the student",
    "dpsgd": "accuracy of DP-SGD at that epsilon",
    "exposed": "records that change an answer",
    "agreed": "the same, answers of more than half",
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Parameters of the notebook, checked; noise and threshold are shares of the teachers."""

    teachers: int
    table_teachers: int
    noise: Sequence[float]
    threshold: float
    delta: float
    budget: float
    left_out: int
    replicates: int
    seed: int

    def __post_init__(self) -> None:
        whole(2, teachers=self.teachers, table_teachers=self.table_teachers)
        whole(1, left_out=self.left_out, replicates=self.replicates)
        whole(0, seed=self.seed)
        distinct(noise=self.noise)
        for share in self.noise:
            between(0.01, 100, noise=share, hint="it is a share of the teachers")
        between(0, 1, threshold=self.threshold, hint="it is a share of the teachers")
        require(0 < self.delta < 1, f"delta is strictly between 0 and 1, got {self.delta}.")
        positive(budget=self.budget)

    @property
    def middle(self) -> float:
        """The noise of the answers whose cost is drawn, as a share of the teachers."""
        return sorted(self.noise)[(len(self.noise) - 1) // 2]


@dataclass(frozen=True)
class Division:
    """Features (n, d), classes 0, 1, ..., which rows are private, public (no labels) and test."""

    x: Array
    y: Labels
    private: Labels
    public: Labels
    test: Labels
    teachers: int

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.y.max()) + 1

    @property
    def parts(self) -> list[Labels]:
        """Private rows of each teacher."""
        return np.array_split(self.private, self.teachers)


def split(x: Array, y: Labels, teachers: int, rng: np.random.Generator) -> Division:
    """60 % private, 20 % public and 20 % test, scaled by the public part, which costs no privacy.

    Raises
    ------
    ValueError
        If there is one class, or there are more teachers than private records.
    """
    require(
        len(np.unique(y)) > 1,
        f"Expected two classes or more, got one in {len(y)} records; choose another target.",
    )
    order, cuts = rng.permutation(len(y)), [int(0.6 * len(y)), int(0.8 * len(y))]
    private, public, test = np.split(order, cuts)
    require(
        teachers <= len(private) and len(public),
        f"Each teacher needs a private record of its own, got {teachers} teachers for "
        f"{len(private)} private records; take fewer teachers.",
    )
    return Division(standardise(x, x[public]), y, private, public, test, teachers)


def tasks(frame: pd.DataFrame, target: str, settings: Settings) -> dict[str, list[Division]]:
    """scikit-learn's digits and the table, each divided anew for every replicate."""
    table = data.encode(frame, target=target)
    sources = {
        "digits": (*data.shipped.digits(), settings.teachers),
        "table": (table.X, table.y, settings.table_teachers),
    }
    division = list(streams(settings.seed, settings.replicates))
    return {
        name: [split(*source, np.random.default_rng(stream)) for _, stream in division]
        for name, source in sources.items()
    }


# --- what an answer costs: Renyi divergence at ORDERS ---------------------------------------------


def lnmax_rdp(votes: Array, scale: float) -> tuple[Array, Array]:
    """(data-dependent, worst-case) Renyi bounds of each answer, shapes (n, orders) and (orders,).

    One record moves one vote: gamma = 1 / scale, and an answer is 2 gamma-DP. Moments alpha(l) of
    theorems 2 and 3 are Renyi divergences of order l + 1, times l.
    """
    pure, order = 2 / scale, ORDERS - 1
    gaps = _gaps(votes) / scale
    q = np.minimum(((2 + gaps) * np.exp(-gaps) / 4).sum(axis=1), 1 - 1 / votes.shape[1])[:, None]
    flat = np.minimum(pure**2 / 2 * ORDERS, pure)
    with np.errstate(divide="ignore", invalid="ignore"):
        likely = np.log1p(-q) + order * (np.log1p(-q) - np.log1p(-np.exp(pure) * q))
        bound = np.logaddexp(likely, np.log(q) + pure * order) / order
    return np.where(q < 1 / (np.exp(pure) + 1), np.clip(bound, 0, flat), flat), flat


def gnmax_rdp(votes: Array, sigma: float) -> tuple[Array, Array]:
    """As `lnmax_rdp` for the noisy maximum with Gaussian noise: theorem 6 with mu by proposition 10."""
    order, flat = ORDERS - 1, ORDERS / sigma**2
    tails = special.logsumexp(stats.norm.logsf(_gaps(votes) / (np.sqrt(2) * sigma)), axis=1)
    log_q = np.minimum(tails, np.log1p(-1 / votes.shape[1]))[:, None]
    mu2 = sigma * np.sqrt(-log_q)
    mu1 = mu2 + 1
    e1, e2 = mu1 / sigma**2, mu2 / sigma**2
    with np.errstate(divide="ignore", invalid="ignore"):
        limit = (mu2 - 1) * e2 - mu2 * (np.log(mu1 / (mu1 - 1)) + np.log(mu2 / (mu2 - 1)))
        valid = (mu2 > 1) & (mu1 >= ORDERS) & (log_q <= limit) & (log_q + e2 < 0)
        stay = np.log1p(-np.exp(log_q))
        a = stay - np.log1p(-np.exp((log_q + e2) * (1 - 1 / mu2)))
        b = e1 - log_q / (mu1 - 1)
        bound = np.logaddexp(stay + order * a, log_q + order * b) / order
    return np.where(valid, np.clip(bound, 0, flat), flat), flat


def _gaps(votes: Array) -> Array:
    """Votes by which the winner leads each other class, (n, classes - 1)."""
    ranked = -np.sort(-np.asarray(votes, float), axis=1)
    return ranked[:, :1] - ranked[:, 1:]


def epsilon(rdp: Array, delta: float) -> float:
    """The least epsilon over all orders, by dp-accounting's conversion."""
    from dp_accounting.rdp import rdp_privacy_accountant

    return float(rdp_privacy_accountant.compute_epsilon(ORDERS, rdp, delta)[0])


def winner(votes: Array, noise: Any) -> Array:
    """Exact chance (classes,) that each class wins under a frozen scipy distribution of the noise."""
    # The loser wins by noise of about half its deficit: the range must reach well beyond that.
    z = np.linspace(-1, 1, 12001) * (noise.isf(1e-20) + np.ptp(votes))
    beaten = noise.cdf(votes[:, None, None] - votes[None, :, None] + z)
    beaten[np.arange(len(votes)), np.arange(len(votes))] = noise.pdf(z)
    chance = integrate.simpson(beaten.prod(axis=1), x=z, axis=1)
    return np.asarray(chance / chance.sum())  # the rule's own error is about 1e-8


def exact_rdp(votes: Array, noise: Any) -> Array:
    """Largest Renyi divergence (orders,) from these votes to those with one vote moved."""
    here, worst = np.log(winner(votes, noise)), np.zeros(len(ORDERS))
    for a, b in np.ndindex(len(votes), len(votes)):
        if a != b and votes[a] > 0:
            moved = votes.copy()
            moved[[a, b]] += [-1, 1]
            there = np.log(winner(moved, noise))
            terms = ORDERS[:, None] * here - (ORDERS[:, None] - 1) * there
            worst = np.maximum(worst, special.logsumexp(terms, axis=1) / (ORDERS - 1))
    return worst


def cost_of_answers(settings: Settings) -> pd.DataFrame:
    """Rows (mechanism, margin, bound): epsilon of 100 answers with one margin, of three classes.

    `bound` is the worst case, the data-dependent one, or the exact divergence; `excess` counts the
    margins and orders at which the exact one is above the data-dependent bound.
    """
    n, rows = settings.teachers, Rows(part="cost")
    scale = settings.middle * n
    for mechanism in (LNMAX, GNMAX):
        excess = 0
        for loser in range(0, n // 2 + 1, max(1, n // 30)):
            votes = np.array([n - loser, loser, 0.0])
            bounds = answer_rdp(votes, mechanism, scale)
            excess += int(np.sum(bounds[EXACT] > bounds[DEPENDENT] * (1 + 1e-4) + 1e-8))
            for name, rdp in bounds.items():
                cost = {"cost": epsilon(100 * rdp, settings.delta)}
                rows.add(mechanism=mechanism, margin=n - 2 * loser, bound=name, metrics=cost)
        rows.add(check=f"{mechanism}, exact", metrics={"excess": excess})
    _, flat = lnmax_rdp(np.ones((1, 10)), 20.0)
    closed = (100 * flat + np.log(1e5) / (ORDERS - 1)).min()
    rows.add(check="LNMax, 100 answers", metrics={"worst_epsilon": closed})
    return rows.frame()


def answer_rdp(votes: Array, mechanism: str, scale: float) -> dict[str, Array]:
    """Worst-case, data-dependent and exact Renyi divergence of one answer, without a threshold."""
    bound, noise = (lnmax_rdp, stats.laplace) if mechanism == LNMAX else (gnmax_rdp, stats.norm)
    dependent, flat = bound(votes[None], scale)
    return {WORST: flat, DEPENDENT: dependent[0], EXACT: exact_rdp(votes, noise(scale=scale))}


# --- teachers, votes, student ---------------------------------------------------------------------


def fit(x: Array, y: Labels, c: float = 1.0) -> Any:
    """Logistic regression of strength `c`, or the only class there is."""
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression

    several = len(np.unique(y)) > 1
    return (LogisticRegression(C=c, max_iter=200) if several else DummyClassifier()).fit(x, y)


def teach(task: Division) -> Labels:
    """What teachers on disjoint parts say of the public records, (teachers, public)."""
    models = [fit(task.x[part], task.y[part]) for part in task.parts]
    return np.array([model.predict(task.x[task.public]) for model in models])


def count(predictions: Labels, classes: int) -> Array:
    """Votes (public, classes)."""
    return (predictions[:, :, None] == np.arange(classes)).sum(axis=0).astype(float)


def answer(
    votes: Array, mechanism: str, share: float, settings: Settings, rng: np.random.Generator
) -> tuple[Labels, NDArray[np.bool_], dict[str, float]]:
    """Labels, which questions are answered, and epsilons; a question's threshold has noise 2 sigma."""
    teachers, given, asking = votes[0].sum(), np.ones(len(votes), bool), np.zeros(len(ORDERS))
    scale = share * teachers
    noise, bound = (rng.laplace, lnmax_rdp) if mechanism == LNMAX else (rng.normal, gnmax_rdp)
    labels = (votes + noise(0, scale, votes.shape)).argmax(axis=1)
    if mechanism == GNMAX:
        most = votes.max(axis=1) + rng.normal(0, 2 * scale, len(votes))
        given = most >= settings.threshold * teachers
        asking = len(votes) * ORDERS / (2 * (2 * scale) ** 2)  # one record moves the maximum by one
    each, flat = bound(votes, scale)
    spent = {"epsilon": asking + each[given].sum(axis=0), "worst_case": asking + len(votes) * flat}
    return labels, given, {name: epsilon(rdp, settings.delta) for name, rdp in spent.items()}


def students(name: str, tasks: Sequence[Division], settings: Settings) -> pd.DataFrame:
    """Rows (task, mechanism, noise, replicate): epsilons, answers, accuracy of the student, and
    `dpsgd`, that of DP-SGD on the private records at the mean data-dependent epsilon.

    A student without any answer guesses.
    """
    rows, ballots = Rows(part="students", task=name), [count(teach(t), t.classes) for t in tasks]
    for mechanism in (LNMAX, GNMAX):
        for share in settings.noise:
            spent: list[float] = []
            at: dict[str, Any] = {"mechanism": mechanism, "noise": f"{share:g}"}
            for replicate, (task, votes) in enumerate(zip(tasks, ballots, strict=True)):
                rng = np.random.default_rng([settings.seed, replicate, 1])
                labels, given, metrics = answer(votes, mechanism, share, settings, rng)
                spent.append(metrics["epsilon"])
                public, right = task.public[given], labels[given] == task.y[task.public[given]]
                metrics |= {"answered": given.mean(), "student": 1 / task.classes}
                if given.any():
                    student = fit(task.x[public], labels[given], 0.05)
                    metrics["student"] = student.score(task.x[task.test], task.y[task.test])
                    metrics["right"] = right.mean()
                rows.add(**at, replicate=replicate, metrics=metrics)
            for replicate, accuracy in enumerate(dpsgd(tasks, float(np.mean(spent)), settings)):
                rows.add(**at, replicate=replicate, metrics={"dpsgd": accuracy})
    for replicate, (task, votes) in enumerate(zip(tasks, ballots, strict=True)):
        test, labels = (task.x[task.test], task.y[task.test]), votes.argmax(axis=1)
        plain = {
            "student": fit(task.x[task.public], labels, 0.05).score(*test),
            "dpsgd": fit(task.x[task.private], task.y[task.private]).score(*test),
            "right": np.mean(labels == task.y[task.public]),
            "base": np.mean(task.y[task.test] == np.bincount(task.y[task.private]).argmax()),
        }
        rows.add(mechanism=NO_NOISE, noise="0", replicate=replicate, metrics=plain)
    return rows.frame()


def dpsgd(tasks: Sequence[Division], target: float, settings: Settings) -> list[float]:
    """Test accuracy of softmax regression by DP-SGD at epsilon `target`: 60 steps on all records."""
    n, steps = len(tasks[0].private), 60
    run: dict[str, Any] = {"n": n, "batch_size": None, "epochs": steps, "sampling": "full"}
    z = accounting.noise_for(target, delta=settings.delta, **run)
    optimiser: dict[str, float] = {"learning_rate": 2.0, "momentum": 0.0, "clip": 1.0}
    how, out = LocalTraining(epochs=steps, batch_size=n, noise_multiplier=z, **optimiser), []
    for replicate, task in enumerate(tasks):
        rng = np.random.default_rng([settings.seed, replicate, 2])
        model = Network((task.x.shape[1], task.classes))
        private = task.x[task.private], task.y[task.private]
        flat = model.train(np.zeros(model.parameters), *private, how, rng)
        out.append(model.evaluate(flat, task.x[task.test], task.y[task.test]).accuracy)
    return out


# --- the source's sentence, without noise ---------------------------------------------------------


def majority(name: str, tasks: Sequence[Division], settings: Settings) -> pd.DataFrame:
    """Rows (task, replicate): what leaving out one private record does to answers without noise.

    `exposed`: share of a sample of `left_out` records that change the answer to a public question,
    so that whoever knows all others knows whether this one was there; `agreed`: the same where
    only more than half of the teachers are an answer.
    """
    rows = Rows(part="majority", task=name)
    for replicate, task in enumerate(tasks):
        rng, predictions = np.random.default_rng([settings.seed, replicate, 3]), teach(task)
        before, exposed, agreed = count(predictions, task.classes), [], []
        for record in rng.permutation(task.private)[: settings.left_out]:
            teacher = next(i for i, part in enumerate(task.parts) if record in part)
            rest, after = np.setdiff1d(task.parts[teacher], [record]), predictions.copy()
            if len(rest):
                after[teacher] = fit(task.x[rest], task.y[rest]).predict(task.x[task.public])
            votes = count(after, task.classes)
            exposed.append((votes.argmax(axis=1) != before.argmax(axis=1)).any())
            agreed.append((_agreed(votes) != _agreed(before)).any())
        metrics = {"exposed": np.mean(exposed), "agreed": np.mean(agreed)}
        rows.add(replicate=replicate, metrics=metrics | {"questions": len(before)})
    return rows.frame()


def _agreed(votes: Array) -> Labels:
    """The class with more than half of the votes, else -1."""
    return np.where(votes.max(axis=1) > votes.sum(axis=1) / 2, votes.argmax(axis=1), -1)


# --- the whole study ------------------------------------------------------------------------------


@threadpool_limits.wrap(limits=1)  # fits are small: a second thread only waits for the first
def simulate(frame: pd.DataFrame, target: str, settings: Settings) -> pd.DataFrame:
    """All rows; `part` is cost, students or majority."""
    parts = [cost_of_answers(settings)]
    for name, here in tasks(frame, target, settings).items():
        parts += [students(name, here, settings), majority(name, here, settings)]
    return concat(*parts)


def trade_off(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy (task, mechanism, epsilon): of students at their mean data-dependent epsilon,
    and of DP-SGD there."""
    here = only(rows, part="students").query("mechanism != @NO_NOISE")
    keys, parts = ["task", "mechanism", "noise"], []
    spent = means(here, *keys, metric="epsilon")
    for metric in ("student", "dpsgd"):
        table = summarise(only(here, metric=metric), keys).set_index(keys)
        table = table.assign(epsilon=spent).reset_index()
        parts.append(table.assign(mechanism=DPSGD) if metric == "dpsgd" else table)
    return pd.concat(parts)[["task", "mechanism", "epsilon", "mean", "se"]]


def settings_table(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per setting: epsilons, answers and accuracies, means over replicates."""
    columns = ["epsilon", "worst_case", "answered", "right", "student", "dpsgd"]
    keys = ["task", "mechanism", "noise"]
    return wide(only(rows, part="students"), index=keys)[[*keys, *columns]].sort_values(keys)


def majority_table(rows: pd.DataFrame) -> pd.DataFrame:
    """What one record changes, by data set."""
    return wide(only(rows, part="majority"), index="task")


def assumptions(settings: Settings) -> str:
    """The privacy statement."""
    return (
        f"PATE: data-dependent epsilon at delta = {settings.delta:g}, computed from the votes and not sanitised, "
        "so it must not be published as it is; one record of one teacher changes, is added or removed; "
        "number, order and features of the questions are public. DP-SGD: one record is blanked, same delta. The choice "
        "of settings is not counted, and the majority without noise has no guarantee."
    )


def takeaways(rows: pd.DataFrame, settings: Settings) -> list[Claim]:
    """What these rows say; the first is the headline."""
    table = settings_table(rows)
    base, excess = means(rows, "task", metric="base"), only(rows, metric="excess")["value"].sum()
    shown: list[Claim] = []
    for task in ("digits", "table"):
        within = only(table, task=task).query("epsilon <= @settings.budget").sort_values("student")
        best: dict[Any, Any] = dict(within.iloc[-1]) if len(within) else {"task": task}
        sentence = (
            "On {task} the best student within epsilon {budget:g} is right on {student:.0%} ({mechanism}, "
            "epsilon {epsilon:.1f} data-dependent, {worst_case:.1f} whatever the votes), DP-SGD at that "
            "epsilon on {dpsgd:.0%}, the most frequent class on {base:.0%}.",
            len(within) > 0, "On {task} no setting of PATE stays within epsilon {budget:g}.",
        )  # fmt: skip
        shown += claims([sentence], budget=settings.budget, base=base[task], **best)
    for _, row in majority_table(rows).iterrows():
        sentence = (
            "A majority's answers do reveal something without noise: on {row[task]}, leaving out one record "
            "changes an answer to one of {row[questions]:.0f} questions for {row[exposed]:.0%} of the records, "
            "and for {row[agreed]:.0%} where only more than half of the teachers are an answer.",
            row["exposed"] > 0, "On {row[task]} no record of the sample changed an answer of the majority.",
        )  # fmt: skip
        shown += claims([sentence], row=row)
    bound = (
        "At no margin and order is the exact divergence above its data-dependent bound.", excess == 0,
        "The exact divergence is above its data-dependent bound in {excess:.0f} places.",
    )  # fmt: skip
    return shown + claims([bound], excess=excess)


def explore(teachers: int, loser: int, noise: int, answers: int) -> pd.DataFrame:
    """Epsilon at delta 1e-5 of answers that all have one margin, three classes."""
    votes = np.array([teachers - min(loser, teachers // 2), min(loser, teachers // 2), 0.0])
    by = {mechanism: answer_rdp(votes, mechanism, noise) for mechanism in (LNMAX, GNMAX)}
    table = pd.DataFrame(by).map(lambda rdp: epsilon(answers * rdp, 1e-5))
    return table.T.rename_axis("mechanism").reset_index()
