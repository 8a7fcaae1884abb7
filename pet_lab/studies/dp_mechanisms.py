"""Mechanisms of differential privacy: what each costs, local against global, and the last bits.

Releases are OpenDP's and smartnoise-sql's, on the system's generator; simulations are seeded. The
unary encoding (Wang et al. 2017), the 1-bit mean (Ding et al. 2017, arXiv:1712.01524), the naive
Laplace sampler and the attack on it (Mironov 2012) are teaching code, not for use.
"""

from __future__ import annotations

import itertools
import math
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import optimize

from pet_lab import accounting
from pet_lab.checks import between, distinct, require, whole
from pet_lab.rows import Claim, Rows, claims, concat, means, only, wide

Array = NDArray[np.float64]
LABELS = {
    "share_of_outputs": "share of outputs",
    "privacy_loss": "privacy loss: log of the ratio of both shares",
    "output": "released count, minus the smaller true count",
    "loss_of_score": "votes lost by the choice (mean)",
    "answers": "answers released",
    "epsilon_total": "epsilon of all answers",
    "rmse": "error of the share (RMS)",
    "users": "users",
    "answer": "true answer (the neighbour's is one more)",
    "certain": "outputs on which the attacker is certain",
    "success": "attacker's share of right guesses",
    "epsilon_spent": "epsilon spent",
}
VOTES = (150, 145, 130, 80, 20)  # made-up counts, from which the largest is to be chosen
AGES = (0, 100)  # bounds of an age, known without looking at the data
LEVELS = np.array([0.0, 0.25, 0.5, 0.75, 1.0])  # hours of use, as a share of the most
PEOPLE = 1000
QUERIES = {
    "count": "SELECT COUNT(*) AS n FROM main.people",
    "sum": "SELECT SUM(age) AS s FROM main.people",
    "mean": "SELECT AVG(age) AS m FROM main.people",
}
EVERYTHING = "SELECT COUNT(*) AS n, SUM(age) AS s, AVG(age) AS m FROM main.people"
EACH, REAL_DELTA = 0.1, 1e-6  # of each answer, in composition and in the last bits
NAIVE, LIBRARY, CURATOR = "textbook sampler", "OpenDP", "trusted curator (Laplace)"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Parameters of the notebook, checked; `share` of the users hold the item that is counted."""

    epsilon: float
    delta: float
    epsilons: Sequence[float]
    users: Sequence[int]
    share: float
    answers: Sequence[int]
    draws: int
    replicates: int
    seed: int

    def __post_init__(self) -> None:
        distinct(epsilons=self.epsilons, users=self.users, answers=self.answers)
        for epsilon in (self.epsilon, *self.epsilons):
            hint = "more is no privacy, and with less the noise overflows"
            between(1e-4, 50, epsilon=epsilon, hint=hint)
        require(0 < self.delta < 1, f"delta is a number between 0 and 1, got {self.delta}.")
        between(0, 1, share=self.share)
        whole(1, smallest_number_of_users=min(self.users))
        whole(0, smallest_answer=min(self.answers), seed=self.seed)
        whole(2, replicates=self.replicates)
        whole(100, draws=self.draws, hint="fewer draws show no distribution")


def library() -> Any:
    """OpenDP's prelude, with the features that this study needs."""
    import opendp.prelude as dp

    dp.enable_features("contrib", "floating-point")
    return dp


# --- the definition ------------------------------------------------------------------------------


def sigma(epsilon: float, delta: float) -> float:
    """Smallest standard deviation of Gaussian noise on a count for (epsilon, delta), exactly."""

    def over(mu: float) -> float:
        return accounting.gaussian_epsilon(mu=mu, delta=delta) - epsilon

    return 1 / float(optimize.brentq(over, 1e-6, 100.0))


def definition(settings: Settings) -> pd.DataFrame:
    """Rows (mechanism, output): share of OpenDP's outputs at true counts 0 and 1, and the loss.

    `privacy_loss` is the log of the ratio where both counts have 50 outputs or more.
    """
    dp, rows, spread = library(), Rows(part="definition"), sigma(settings.epsilon, settings.delta)
    domain = dp.vector_domain(dp.atom_domain(T=int))
    mechanisms = {
        "Laplace": dp.m.make_laplace(domain, dp.l1_distance(T=int), 1 / settings.epsilon),
        "Gaussian": dp.m.make_gaussian(domain, dp.l2_distance(T=float), spread),
    }
    for mechanism, release in mechanisms.items():
        counts = [
            pd.Series(release([true] * settings.draws)).value_counts().sort_index()
            for true in (0, 1)
        ]
        for true, seen in enumerate(counts):
            for output, n in seen.loc[-8:8].items():
                share = {"share_of_outputs": n / settings.draws}
                rows.add(mechanism=mechanism, output=output, true_count=true, metrics=share)
        both = pd.concat(counts, axis=1, keys=[0, 1]).fillna(0)
        for output, (n0, n1) in both[both.min(axis=1) >= 50].iterrows():
            loss, se = math.log(n0 / n1), {"privacy_loss": math.sqrt(1 / n0 + 1 / n1)}
            rows.add(mechanism=mechanism, output=output, metrics={"privacy_loss": loss}, se=se)
    return rows.frame()


def choosing(settings: Settings) -> pd.DataFrame:
    """Rows (mechanism, epsilon): votes lost by a private choice of the largest of `VOTES`.

    OpenDP's report-noisy-max is the exponential mechanism with Gumbel noise and permute-and-flip
    with exponential noise (Ding et al. 2021), here at scale 2 / epsilon.
    """
    dp, rows = library(), Rows(part="choosing")
    space = dp.vector_domain(dp.atom_domain(T=int)), dp.linf_distance(T=int)
    measures = {
        "exponential mechanism": dp.zero_concentrated_divergence(),
        "permute-and-flip": dp.max_divergence(),
    }
    for epsilon in (0.02, 0.05, 0.1, 0.3):
        for mechanism, measure in measures.items():
            choose = dp.m.make_noisy_max(*space, measure, scale=2 / epsilon)
            chosen = [choose(list(VOTES)) for _ in range(settings.draws // 20)]
            lost = max(VOTES) - np.array(VOTES)[chosen]
            loss, se = lost.mean(), {"loss_of_score": lost.std() / math.sqrt(len(lost))}
            rows.add(mechanism=mechanism, epsilon=epsilon, metrics={"loss_of_score": loss}, se=se)
    return rows.frame()


def composition(settings: Settings) -> pd.DataFrame:
    """Rows (answers, rule): epsilon of k answers of `EACH`, and of Gaussian ones as exact.

    Simple addition; dp-accounting's numerical composition of Laplace; the Gaussian mechanism with
    noise of the same standard deviation. The last two hold at `REAL_DELTA`.
    """
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    rows = Rows(part="composition")
    for k in (1, 4, 16, 64, 256):
        account = PLDAccountant(value_discretization_interval=1e-3)
        account.compose(dp_accounting.LaplaceDpEvent(1 / EACH), k)
        gaussian = accounting.gaussian_epsilon(mu=EACH * math.sqrt(k / 2), delta=REAL_DELTA)
        totals = {
            "Laplace, added up": k * EACH,
            "Laplace, composed": account.get_epsilon(REAL_DELTA),
            "Gaussian": gaussian,
        }
        for rule, total in totals.items():
            rows.add(rule=rule, answers=k, metrics={"epsilon_total": total})
    return rows.frame()


# --- local against global: teaching code, not for use ---------------------------------------------


METHODS = ("randomised response", "unary encoding (OUE)", "1-bit mean", CURATOR)


def bits(method: str, epsilon: float) -> tuple[float, float]:
    """Probabilities that a user's bit is 1, at a value of 0 and of 1."""
    low = 1 / (math.exp(epsilon) + 1)
    return low, 0.5 if method == METHODS[1] else 1 - low


def shares_of_ones(method: str, epsilon: float, share: float) -> list[tuple[float, float]]:
    """(share of users, probability that their bit is 1), by kind of user."""
    low, high = bits(method, epsilon)
    if method == "1-bit mean":
        return [(1 / len(LEVELS), low + x * (high - low)) for x in LEVELS]
    return [(share, high), (1 - share, low)]


def estimates(
    method: str, *, epsilon: float, users: int, share: float, draws: int, rng: Generator
) -> tuple[Array, float]:
    """`draws` estimates of a share (or mean) from all users, and their true value.

    Sums of bits are drawn as binomials, not bit by bit: the distribution is the same.
    """
    if method == CURATOR:
        true = round(share * users) / users
        return true + rng.laplace(0, 1 / (epsilon * users), draws), true
    kinds = shares_of_ones(method, epsilon, share)
    cuts = np.rint(np.cumsum([0.0, *(part for part, _ in kinds)]) * users).astype(int)
    sizes = np.diff(cuts)
    ones = sum(rng.binomial(n, p, draws) for n, (_, p) in zip(sizes, kinds, strict=True))
    low, high = bits(method, epsilon)
    values = LEVELS if len(kinds) > 2 else np.array([1.0, 0.0])
    return (np.asarray(ones) / users - low) / (high - low), float(sizes @ values) / users


def theory(method: str, *, epsilon: float, users: int, share: float) -> float:
    """Standard deviation of `estimates`, in closed form."""
    if method == CURATOR:
        return math.sqrt(2) / (epsilon * users)
    low, high = bits(method, epsilon)
    spread = sum(part * p * (1 - p) for part, p in shares_of_ones(method, epsilon, share))
    return math.sqrt(spread / users) / (high - low)


def local_and_global(settings: Settings) -> pd.DataFrame:
    """Rows (method, epsilon, users): `rmse` simulated and in closed form; and the variance of OUE
    for an item that nobody holds, times the number of users, by replicate of 2,000 draws."""
    rng, rows = np.random.default_rng(settings.seed), Rows()
    for epsilon, users in itertools.product(settings.epsilons, settings.users):
        at: dict[str, Any] = {"epsilon": epsilon, "users": users}
        for method in METHODS:
            how = {**at, "share": settings.share}
            got, true = estimates(method, **how, draws=settings.draws, rng=rng)
            rmse, closed = math.sqrt(np.mean((got - true) ** 2)), theory(method, **how)
            metrics = {"rmse": rmse, "rmse_theory": closed}
            rows.add(part="local", **at, method=method, metrics=metrics)
        for replicate in range(settings.replicates):
            got, _ = estimates(METHODS[1], **at, share=0.0, draws=2000, rng=rng)
            metrics = {"oue_variance_times_users": got.var(ddof=1) * users}
            rows.add(part="oue", **at, replicate=replicate, metrics=metrics)
    return rows.frame()


# --- the same queries by two libraries ------------------------------------------------------------


def people(seed: int) -> pd.DataFrame:
    """Made-up ages of `PEOPLE` people."""
    ages = np.random.default_rng(seed).integers(18, 90, PEOPLE)
    return pd.DataFrame({"age": ages})


def smartnoise(
    connection: Any, epsilon: float, engine: str = "sqlite", schema: str = "main"
) -> Any:
    """A private reader of the table `people` behind `connection`; epsilon is for each column."""
    import snsql

    table = {
        "row_privacy": True,
        "rows": PEOPLE,
        "age": {"type": "int", "lower": AGES[0], "upper": AGES[1]},
    }
    return snsql.from_connection(
        connection,
        privacy=snsql.Privacy(epsilon=epsilon, delta=REAL_DELTA),
        metadata={"": {schema: {"people": table}}},
        engine=engine,
    )


def sql(settings: Settings) -> pd.DataFrame:
    """Rows (engine, query): RMS error of count, sum and mean, and the epsilon spent.

    Both engines get `epsilon` for each noisy column; what a query then costs is their own account.
    """
    dp, rows, e = library(), Rows(part="sql"), settings.epsilon
    frame = people(settings.seed)
    true = np.array([len(frame), frame["age"].sum(), frame["age"].mean()])
    with sqlite3.connect(":memory:") as connection:
        frame.to_sql("people", connection, index=False)
        reader = smartnoise(connection, e)
        answers = [reader.execute(EVERYTHING)[1:] for _ in range(settings.replicates)]
        # It leaves out a row whose noisy count is not positive, as half are at a tiny epsilon.
        theirs = [answer[0] if answer else (np.nan,) * len(true) for answer in answers]
        costs = [reader.get_privacy_cost(query)[0] for query in QUERIES.values()]
        ages = [age for (age,) in connection.execute("SELECT age FROM people")]
    table = dp.vector_domain(dp.atom_domain(T=int)), dp.symmetric_distance()
    count = table >> dp.t.then_count() >> dp.m.then_laplace(1 / e)
    total = table >> dp.t.then_clamp(AGES) >> dp.t.then_sum() >> dp.m.then_laplace(AGES[1] / e)
    pairs = [(count(ages), total(ages)) for _ in range(settings.replicates)]
    each = [count.map(1), total.map(1)]
    runs = {
        "smartnoise-sql": (np.array(theirs, float), costs),
        "OpenDP": (np.array([(n, s, s / n) for n, s in pairs], float), [*each, sum(each)]),
    }
    for engine, (got, epsilons) in runs.items():
        errors = np.sqrt(np.mean((got - true) ** 2, axis=0))
        for query, error, spent in zip(QUERIES, errors, epsilons, strict=True):
            rows.add(engine=engine, query=query, metrics={"error": error, "epsilon_spent": spent})
    return rows.frame()


# --- low-order bits: teaching code, not for use ---------------------------------------------------

_log = np.frompyfunc(math.log, 1, 1)  # the one that both sampler and attacker call
GRID = 2.0**53  # a uniform double is a multiple of 1 / GRID


def naive_laplace(answer: float, scale: float, size: int, rng: Generator) -> Array:
    """answer +- scale * log(u), as in a textbook: NOT private, whatever the scale."""
    noise = scale * _log(1 - rng.random(size)).astype(float)
    return answer + np.where(rng.random(size) < 0.5, noise, -noise)


def possible(outputs: Array, answer: float, scale: float) -> NDArray[np.bool_]:
    """Whether `naive_laplace` can give each output at this answer: some u on the grid leads to it."""
    nearest = np.rint(GRID * np.exp(-np.abs(outputs - answer) / scale))
    u = np.clip(nearest[:, None] + np.arange(-8, 9), 1, GRID) / GRID
    noise = scale * _log(u).astype(float)
    hit = (answer + noise == outputs[:, None]) | (answer - noise == outputs[:, None])
    return np.asarray(hit.any(axis=1))


def last_bits(settings: Settings) -> pd.DataFrame:
    """Rows (sampler, answer): how well an attacker tells `answer` from `answer` + 1 by one output.

    The attacker knows both and the noise. It is certain where the textbook's sampler could give the
    output at one of them only, and tosses a coin elsewhere.
    """
    dp, rows, scale = library(), Rows(part="bits"), 1 / EACH
    space = dp.vector_domain(dp.atom_domain(T=float, nan=False)), dp.l1_distance(T=float)
    release = dp.m.make_laplace(*space, scale)
    rng, n = np.random.default_rng(settings.seed), settings.draws // 10
    samplers = {
        NAIVE: lambda true: naive_laplace(true, scale, n, rng),
        LIBRARY: lambda true: np.array(release([float(true)] * n)),
    }
    for answer in settings.answers:
        for sampler, draw in samplers.items():
            right, certain = [], []
            for true, other in ((answer, answer + 1), (answer + 1, answer)):
                outputs = draw(true)
                here, there = (possible(outputs, a, scale) for a in (true, other))
                certain.append(here != there)
                right.append(np.where(here == there, 0.5, here))
            metrics = {"certain": np.mean(certain), "success": np.mean(right)}
            error = np.std(right) / math.sqrt(2 * n)
            rows.add(sampler=sampler, answer=answer, metrics=metrics, se={"success": error})
    return rows.frame()


# --- the whole study ------------------------------------------------------------------------------


def simulate(settings: Settings) -> pd.DataFrame:
    """All rows; `part`: definition, choosing, composition, local, oue, sql, bits."""
    return concat(
        definition(settings),
        choosing(settings),
        composition(settings),
        local_and_global(settings),
        sql(settings),
        last_bits(settings),
    )


def sql_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Errors and cost of the three queries, by engine."""
    return wide(only(rows, part="sql"), index=["engine", "query"])


def ceiling() -> float:
    """Most that an attacker can guess right of two neighbours, equally likely, at `EACH`."""
    return math.exp(EACH) / (1 + math.exp(EACH))


def assumptions(settings: Settings) -> str:
    """The privacy statement of what the libraries release."""
    return (
        f"Made-up data. OpenDP and smartnoise-sql release at epsilon {settings.epsilon:g} a column "
        f"(add or remove one person; Gaussian noise: delta {settings.delta:g}, large so that it can "
        "be seen); each is repeated to measure it, so that all together are not private."
    )


def takeaways(rows: pd.DataFrame, settings: Settings) -> list[Claim]:
    """What these rows say; the first is the headline."""
    laplace = only(rows, metric="privacy_loss", mechanism="Laplace")
    excess = (laplace["value"].abs() - settings.epsilon) / laplace["se"]
    few, many, answer = min(settings.epsilons), max(settings.users), min(settings.answers)
    error = means(rows, "method", epsilon=few, users=many, metric="rmse")
    oue, curator = error[METHODS[1]], error[CURATOR]
    local = wide(only(rows, part="local"), index=["method", "epsilon", "users"])
    gap = (local["rmse"] / local["rmse_theory"] - 1).abs().max()
    total = means(rows, "answers", "rule", part="composition").unstack().iloc[-1]
    attack: Any = only(rows, part="bits", answer=answer).set_index(["metric", "sampler"])
    naive, ours = (attack.loc[("success", sampler)] for sampler in (NAIVE, LIBRARY))
    spent = sql_table(rows).set_index(["engine", "query"])["epsilon_spent"]
    theirs, here = spent["smartnoise-sql", "mean"], spent["OpenDP", "mean"]
    sentences = [
        ("Without a trusted curator the error of a share is {times:,.0f} times as large (OUE, "
         "epsilon {few:g}, {many:,.0f} users: {oue:.2g} against {curator:.2g}).", oue > curator),
        ("A textbook Laplace sampler of epsilon {each:g} tells {answer} from its neighbour with "
         "certainty in {sure:.0%} of its outputs; the attacker is right in {naive[value]:.0%} of cases, "
         "with OpenDP's sampler in {ours[value]:.1%}, where epsilon allows {ceiling:.1%}.",
         naive["value"] > ceiling() >= ours["value"] - 3 * ours["se"]),
        ("The largest privacy loss seen of Laplace noise is {worst:.2f}, which epsilon = "
         "{epsilon:g} explains within its error.", excess.max() < 4),
        ("{total.name:.0f} answers of epsilon {each:g} cost {total[Laplace, added up]:.1f} by addition, "
         "{total[Laplace, composed]:.1f} by composition, {total[Gaussian]:.1f} with Gaussian noise of the "
         "same size (delta {real:g}).",
         total["Gaussian"] < total["Laplace, composed"] < total["Laplace, added up"]),
        ("For one mean smartnoise-sql accounts for epsilon {theirs:.2g}, for the same by OpenDP "
         "{here:.2g} is spent: the first also charges a count that it adds to each query.", theirs > here),
        ("No simulated error of a share is more than {gap:.0%} off its closed form.",
         gap < 4 / math.sqrt(settings.draws),
         "Simulated errors of a share are up to {gap:.0%} off their closed forms."),
    ]  # fmt: skip
    return claims(
        sentences, answer=answer, sure=attack.loc[("certain", NAIVE), "value"], naive=naive, ours=ours,
        each=EACH, ceiling=ceiling(), epsilon=settings.epsilon, worst=laplace["value"].abs().max(),
        few=few, many=many, oue=oue, curator=curator, times=oue / curator, total=total, real=REAL_DELTA,
        theirs=theirs, here=here, gap=gap,
    )  # fmt: skip


def explore(epsilon: float, users: int, share: float) -> pd.DataFrame:
    """Error of a share by method, in closed form."""
    closed = [theory(m, epsilon=epsilon, users=users, share=share) for m in METHODS]
    return pd.DataFrame({"method": METHODS, "error (RMS)": closed})
