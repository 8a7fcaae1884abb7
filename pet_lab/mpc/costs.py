"""What a task will cost, before anyone works on it: counts on paper, seconds from measured growth.

The counts are exact for the protocol as it is written here; a test compares them with what a run
counted. Seconds use constants measured on one machine with two cores (`benchmarks/mpc_growth.py`
prints new ones): good to a factor of about two, enough to tell minutes from days.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from .catalogue import design_names, length, modulus, parts
from .policy import duration
from .tasks import Task

PRODUCT_S = {3: 14e-6, 5: 40e-6}  # CPU seconds of one party for one product modulo 2**127 - 1
ROUND_S = 2e-3  # a round on loopback with all parties on one machine


@dataclass(frozen=True)
class Estimate:
    """Cost of one processing party. products: resharings; bytes: sent to all others together."""

    products: int
    opened: int
    rounds: int
    bytes: int
    seconds: float


def estimate(task: Task) -> Estimate:
    """Cost of a task from its sizes alone."""
    products, opened, rounds = _counts(task)
    k, size = task.k, (modulus(task).bit_length() + 7) // 8
    inputs = sum(length(task, s) + 1 for s in (0, 1)) * k
    if task.level == "all-but-one":
        return Estimate(0, 0, 1, sum(length(task, s) for s in (0, 1)) * size, 0.01)
    if task.level == "checked":
        products, rounds = 2 * products + inputs // k, rounds + 5
    # Of five parties each reshares in turn; the bytes are an average over the seats.
    numbers = products * (2 * task.threshold + 1) / k + opened + inputs / k
    per = PRODUCT_S.get(k, PRODUCT_S[5] * (k / 5) ** 2) * (1 + size / 64)
    seconds = (products + opened / 3 + inputs / 3) * per * k / 2 + rounds * ROUND_S
    return Estimate(products, opened, rounds, round(numbers * (k - 1) * size), seconds)


def too_long(task: Task, limit_s: float) -> str:
    """Why a task is refused before anyone works on it, and what would be faster; else empty."""
    seconds = estimate(task).seconds
    if seconds <= limit_s:
        return ""
    said = f"It would take about {duration(seconds)}, and {duration(limit_s)} are allowed."
    if task.parameters.get("join") in {"opened", "hidden"}:
        n = min(d.rows for d in task.inputs)
        aligned = replace(
            task,
            parameters={**task.parameters, "join": "aligned"},
            inputs=tuple(replace(d, rows=n) for d in task.inputs),
        )
        said += (
            f" After a private set intersection (join aligned) it would take at most "
            f"{duration(estimate(aligned).seconds)}, but both owners then know who is in both."
        )
    return said


def _counts(task: Task) -> tuple[int, int, int]:
    """(products, opened numbers, rounds) of the function, without the price of level checked."""
    p = task.parameters
    nx, ny = (d.rows for d in task.inputs)
    products = opened = 0
    rounds = 3
    if task.function == "pooled_statistics":
        groups = length(task, 0) // 3
        small = groups * (max(task.min_group - 2, 0) + 1) if task.min_group > 1 else 0
        return small, groups, rounds + 3
    n = min(nx, ny)
    if p["join"] == "opened":
        products, opened, rounds = nx * ny, nx * ny, rounds + 2
    elif p["join"] == "hidden":
        n, columns = nx, len(parts(task))
        right = sum(s == 1 for s, *_ in parts(task))
        products = nx * (ny - 1) + nx * (1 + right) + 90 * nx + nx * columns
        opened, rounds = 30 * nx, rounds + math.ceil(math.log2(max(ny, 2))) + 10
    if task.function == "joined_statistics":
        products += n + 5 * _groups(task)
        rounds += 6
        if task.dominance_percent:
            products, rounds = products + n * 300, rounds + 20
    elif task.function == "joined_linear_regression":
        d = len(design_names(task))
        products += d * (d + 1) // 2 + d + d * d * (d + 1)
        rounds += 4
    elif task.function == "joined_logistic_regression":
        d = len(design_names(task))
        products += p["iterations"] * (4 * n + d + 200 * d)
        rounds += 12 * p["iterations"]
    return products, opened, rounds


def _groups(task: Task) -> int:
    name = task.parameters["group"]
    return len(next(d.schema[name].levels for d in task.inputs if name in d.schema))
