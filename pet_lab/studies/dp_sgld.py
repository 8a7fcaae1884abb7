"""Langevin dynamics as a private mechanism: one sample of a posterior against all iterates.

Teaching code, not for use (numpy's noise): SGD, DP-SGD and stochastic gradient Langevin dynamics
(Welling et al. 2011) of a mean under squared loss, where every density is Gaussian and every
epsilon exact; and of two wells, where densities are computed on a grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import stats

from pet_lab import accounting
from pet_lab.checks import between, distinct, positive, require, whole
from pet_lab.rows import Claim, Rows, claims, concat, means, streams

Array = NDArray[np.float64]
LABELS = {
    "records": "records",
    "sd": "spread of the last iterate (SD)",
    "stationary_sd": "spread of the last iterate (SD)",
    "step": "step, in units of 1 / curvature",
    "steps": "steps before the release",
    "released": "what is released",
    "epsilon_spent": "epsilon",
    "distance": "total variation to the posterior",
    "barrier": "barrier between the wells / temperature",
    "theta": "parameter",
    "density": "density",
}
PENALTY, CHANGE = 1.0, 2.0  # of the squared parameter; how far a record in [-1, 1] can move
SGD, DP_SGD, SGLD = "SGD", "DP-SGD", "Langevin (SGLD)"
FULL, BATCHES, EXACT = "full gradients", "gradients in batches", "exact posterior"
LAST, ALL, POSTERIOR = "last iterate", "all iterates", "one posterior sample"
GRID = np.linspace(-2.0, 2.0, 321)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Parameters of the notebook, checked; steps are in units of 1 / (records + penalty)."""

    records: int
    batch: int
    temperature: float
    delta: float
    steps: Sequence[float]
    barriers: Sequence[float]
    chains: int
    replicates: int
    seed: int

    def __post_init__(self) -> None:
        distinct(steps=self.steps, barriers=self.barriers)
        whole(1, records=self.records, batch=self.batch)
        require(
            self.batch <= self.records,
            f"batch is at most the {self.records} records, got {self.batch}.",
        )
        positive(temperature=self.temperature)
        for step in self.steps:
            positive(step=step)
            require(step < 2, f"step is below 2, where training diverges, got {step}.")
        for barrier in self.barriers:
            between(1, 50, barrier=barrier, hint="the grid of the two wells resolves no other")
        require(0 < self.delta < 1, f"delta is a number between 0 and 1, got {self.delta}.")
        whole(2, chains=self.chains, replicates=self.replicates)
        whole(0, seed=self.seed)

    @property
    def curvature(self) -> float:
        """Second derivative of the loss sum (theta - x)^2 / 2 + penalty theta^2 / 2."""
        return self.records + PENALTY

    @property
    def posterior_sd(self) -> float:
        """Standard deviation of the exact posterior, a Gaussian for this loss."""
        return math.sqrt(self.temperature / self.curvature)


def noise(method: str, settings: Settings, step: float) -> float:
    """Standard deviation of what a step adds: the slides' 2 rho sigma, or sqrt(2 rho sigma)."""
    rho = step / settings.curvature
    return {
        SGD: 0.0,
        DP_SGD: 2 * rho * settings.temperature,
        SGLD: math.sqrt(2 * rho * settings.temperature),
    }[method]


def last_iterates(
    x: Array, method: str, settings: Settings, *, step: float, batch: int, rng: Generator
) -> Array:
    """Last iterates of `chains` chains from 0, long enough to forget the start; shape (chains,).

    A batch smaller than the data is drawn with replacement and its gradient scaled up.
    """
    n, chains, sd = settings.records, settings.chains, noise(method, settings, step)
    rho, theta = step / settings.curvature, np.zeros(chains)
    for _ in range(math.ceil(6 / min(step, 2 - step))):
        mean = np.full(chains, x.mean())
        if batch < n:
            mean = x[rng.integers(0, n, (chains, batch))].mean(axis=1)
        slope = n * (theta - mean) + PENALTY * theta
        theta = theta - rho * slope + rng.normal(0, 1, chains) * sd
    return theta


def records(settings: Settings) -> Array:
    """Made-up records in [-1, 1], the same for all replicates."""
    x = np.random.default_rng(settings.seed).normal(0.27, 0.4, settings.records)
    return np.clip(x, -1, 1)


def spreads(settings: Settings) -> pd.DataFrame:
    """Rows (gradients, method, step, replicate): mean and SD of last iterates, beside the posterior's
    SD; `stationary_sd` is Langevin's with the smallest step and full gradients."""
    x, loss = records(settings), {"records": settings.records, "temperature": settings.temperature}
    rows = Rows(part="spread", **loss)
    for replicate, stream in streams(settings.seed, settings.replicates):
        for step in settings.steps:
            for gradients, batch in ((FULL, settings.records), (BATCHES, settings.batch)):
                at: dict[str, Any] = {"gradients": gradients, "step": step, "replicate": replicate}
                for method, child in zip((SGD, DP_SGD, SGLD), stream.spawn(3), strict=True):
                    rng = np.random.default_rng(child)
                    got = last_iterates(x, method, settings, step=step, batch=batch, rng=rng)
                    metrics = {"mean": got.mean(), "sd": got.std(ddof=1)}
                    if method == SGLD and gradients == FULL and step == min(settings.steps):
                        metrics["stationary_sd"] = metrics["sd"]
                    rows.add(**at, method=method, metrics=metrics)
                rows.add(**at, method=EXACT, metrics={"sd": settings.posterior_sd})
    return rows.frame()


# --- epsilon, exact: every release is a Gaussian of known shift and spread -------------------------


def shift(released: str, settings: Settings, *, step: float, steps: int) -> float:
    """Largest shift of what is released, in standard deviations, as one record is replaced.

    All iterates: each step is a Gaussian mechanism, and their shifts add up in squares. The last
    iterate: shift and variance are geometric sums. A posterior sample: the limit of small steps.
    """
    h, sd = settings.curvature, noise(SGLD, settings, step)
    if released == POSTERIOR:
        return CHANGE / h / settings.posterior_sd
    if released == ALL:
        return step / h * CHANGE / sd * math.sqrt(steps)
    a = 1 - step
    moved = CHANGE / h * (1 - a**steps)
    return moved / (sd * math.sqrt((1 - a ** (2 * steps)) / (1 - a * a)))


def budgets(settings: Settings) -> pd.DataFrame:
    """Rows (released, steps): epsilon at `delta`, replacing one record, full gradients."""
    rows, step = Rows(part="budget"), min(settings.steps)
    for steps in (1, 4, 16, 64, 256, 1024, 4096):
        for released in (ALL, LAST, POSTERIOR):
            mu = shift(released, settings, step=step, steps=steps)
            epsilon = accounting.gaussian_epsilon(mu=mu, delta=settings.delta)
            rows.add(released=released, steps=steps, metrics={"epsilon_spent": epsilon})
    # On [-1, 1] a record moves the loss by at most 2: the exponential mechanism, with delta 0.
    rows.add(metrics={"exponential": 2 * 2.0 / settings.temperature})
    return rows.frame()


# --- two wells, on a grid --------------------------------------------------------------------------


def two_wells(settings: Settings) -> pd.DataFrame:
    """Rows (barrier, steps): distance of the last iterate to the posterior exp(-b (t^2 - 1)^2), from a
    start in the left well; the densities of Langevin steps on a grid, without sampling."""
    rows, start = Rows(part="wells"), np.abs(GRID + 1) < 1e-9
    for b in settings.barriers:
        posterior, rho = np.exp(-b * (GRID**2 - 1) ** 2), 0.02 / b
        centre = GRID - rho * 4 * b * GRID * (GRID**2 - 1)
        power = np.exp(-((GRID[:, None] - centre) ** 2) / (4 * rho))  # [to, from]
        posterior, power = posterior / posterior.sum(), power / power.sum(axis=0)
        for doubling in range(17):
            far = np.abs(power @ start - posterior).sum() / 2
            rows.add(barrier=b, steps=2**doubling, metrics={"distance": far})
            power = power @ power
    return rows.frame()


def simulate(settings: Settings) -> pd.DataFrame:
    """All rows; `part`: spread, budget, wells."""
    return concat(spreads(settings), budgets(settings), two_wells(settings))


def densities(rows: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """Langevin's stationary density at each step (a Gaussian of the measured mean and SD), and the
    exact posterior."""
    mean = means(rows, "step", "metric", part="spread", gradients=FULL, method=SGLD)
    centre, exact = records(settings).sum() / settings.curvature, settings.posterior_sd
    theta = np.linspace(centre - 4 * exact, centre + 4 * exact, 161)
    curves = {f"Langevin, step {s:g}": (mean[s, "mean"], mean[s, "sd"]) for s in settings.steps}
    curves[EXACT] = (centre, exact)
    parts = [
        pd.DataFrame({"method": name, "theta": theta, "value": stats.norm(m, s).pdf(theta)})
        for name, (m, s) in curves.items()
    ]
    return pd.concat(parts, ignore_index=True).assign(metric="density")


def assumptions(settings: Settings) -> str:
    """The privacy statement."""
    return (
        f"Langevin dynamics: epsilon at delta = {settings.delta:g}, one record in [-1, 1] replaced, full gradients "
        "of a squared loss; the adversary sees the last iterate, or all, and knows all other records, the loss, step "
        "and start. The noise is numpy's: a simulation, not a release. Batches and two wells have no guarantee here."
    )


def takeaways(rows: pd.DataFrame, settings: Settings) -> list[Claim]:
    """What these rows say; the first is the headline."""
    small, large = min(settings.steps), max(settings.steps)
    mean = means(rows, "gradients", "method", "metric", "step", metric=["mean", "sd"])
    spent = means(rows, "steps", "released", part="budget", metric="epsilon_spent")
    final, pure = spent[spent.index[-1][0]], means(rows, "metric")["exponential"]
    barrier = max(settings.barriers)
    numbers = {
        "mean": mean[FULL, SGLD, "mean", small], "sd": mean[FULL, SGLD, "sd", small],
        "centre": records(settings).sum() / settings.curvature, "exact": settings.posterior_sd,
        "dpsgd": mean[FULL, DP_SGD, "sd", small], "small": small, "large": large,
        "fine": mean[BATCHES, SGLD, "sd", small], "batch": mean[BATCHES, SGLD, "sd", large],
        "full": mean[FULL, SGLD, "sd", large], "steps": spent.index[-1][0],
        "all": final[ALL], "last": final[LAST], "one": final[POSTERIOR], "delta": settings.delta,
        "pure": pure, "barrier": barrier,
        "distance": means(rows, "barrier", steps=1024, metric="distance")[barrier],
    }  # fmt: skip
    sentences = [
        ("After {steps:,.0f} steps the last iterate costs epsilon {last:.2g}, all iterates {all:.3g} "
         "(delta {delta:g}, one record replaced).", numbers["last"] < numbers["all"],
         "After {steps:,.0f} steps the last iterate costs as much as all: epsilon {last:.2g}."),
        ("At a step of {small:g} Langevin dynamics ends at {mean:.3f} ± {sd:.3f}; the posterior is "
         "{centre:.3f} ± {exact:.3f}.", abs(numbers["sd"] / numbers["exact"] - 1) < 0.05,
         "A step of {small:g} is too large: Langevin dynamics ends at {mean:.3f} ± {sd:.3f}, the "
         "posterior is {centre:.3f} ± {exact:.3f}."),
        ("DP-SGD with the same parameter has a spread of {dpsgd:.4f}, far from the posterior's.",
         numbers["dpsgd"] < numbers["exact"] / 2,
         "DP-SGD with the same parameter has a spread of {dpsgd:.4f}, the posterior {exact:.4f}."),
        ("Batches add noise of their own: at a step of {large:g} they widen Langevin's spread from "
         "{full:.4f} to {batch:.4f}, at {small:g} from {sd:.4f} to {fine:.4f}.",
         numbers["batch"] > 1.02 * numbers["full"],
         "Batches hardly widen Langevin's spread here: {batch:.3f} against {full:.3f} with full "
         "gradients, at a step of {large:g}."),
        ("The same posterior as an exponential mechanism on [-1, 1] is private at epsilon {pure:.2g} "
         "with delta 0; as a Gaussian at {one:.2g} with delta {delta:g}.", pure > numbers["one"],
         "As an exponential mechanism on [-1, 1] the posterior costs epsilon {pure:.2g} with delta "
         "0, no more than the {one:.2g} of the Gaussian with delta {delta:g}."),
        ("Across a barrier of {barrier:g} the iterate after 1,024 steps is still {distance:.0%} away "
         "from the posterior: what the posterior guarantees does not hold for the release.",
         numbers["distance"] > 0.05,
         "Across a barrier of {barrier:g} the iterate after 1,024 steps is within {distance:.0%} of "
         "the posterior."),
    ]  # fmt: skip
    return claims(sentences, **numbers)


def explore(records: int, temperature: float, step: float, steps: int) -> pd.DataFrame:
    """Epsilon at delta = 1e-5 of what is released."""
    settings = Settings(
        records=records, batch=1, temperature=temperature, delta=1e-5, steps=[step],
        barriers=[1.0], chains=2, replicates=2, seed=0,
    )  # fmt: skip
    what = [ALL, LAST, POSTERIOR]
    shifts = [shift(released, settings, step=step, steps=steps) for released in what]
    epsilons = [accounting.gaussian_epsilon(mu=mu, delta=1e-5) for mu in shifts]
    return pd.DataFrame({"released": what, "epsilon": epsilons})
