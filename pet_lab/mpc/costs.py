"""What a task will cost, before anyone works on it: counts on paper, seconds from measured growth.

The counts are those of the protocol as it is written here; a test compares them with what a run
counted. Seconds use constants measured on one machine whose two cores all parties share: good to a
factor of about two when nothing else runs, enough to tell minutes from days.
"""

import math

from msgspec.structs import replace

from pet_lab.files import duration

from .catalogue import P_BITS, X_BITS, design, group_count, length, modulus, parts
from .tasks import Record, Task

PRODUCT_S = 6e-6  # CPU seconds of one of three parties for one product; grows with K squared
BIT_S = 50e-6  # the same for one secret random bit, which truncation needs
ROUND_S = 2e-3  # a round on loopback
CORES = 2


class Estimate(Record, frozen=True):
    """Cost of one processing party. products: resharings; bytes: sent to all others together."""

    products: int
    opened: int
    rounds: int
    bytes: int
    seconds: float


def estimate(task: Task) -> Estimate:
    """Cost of a task from its sizes alone."""
    products, opened, rounds, bits = _counts(task)
    k, size = task.k, (modulus(task).bit_length() + 7) // 8
    inputs = sum(length(task, s) + 1 for s in (0, 1)) * k
    if task.level == "all-but-one":
        size *= sum(length(task, s) for s in (0, 1))
        return Estimate(products=0, opened=0, rounds=1, bytes=size, seconds=0.01)
    if task.level == "checked":
        products, rounds = 2 * products + inputs // k, rounds + 5
    # Of more than 2 t + 1 parties not all reshare; the bytes are an average over the parties.
    numbers = (products + bits) * (2 * task.threshold + 1) / k + opened + inputs / k + 2 * bits
    work = (products + opened / 3 + inputs / 3) * PRODUCT_S + bits * BIT_S
    cpu = work * (k / 3) ** 2 * (1 + size / 64)
    seconds = cpu * max(k / CORES, 1) + rounds * ROUND_S
    return Estimate(
        products=products + bits,
        opened=opened,
        rounds=rounds,
        bytes=round(numbers * (k - 1) * size),
        seconds=seconds,
    )


def too_long(task: Task, limit_s: float) -> str:
    """Why a task is refused before anyone works on it, and what would be faster; else empty."""
    seconds = estimate(task).seconds
    if seconds <= limit_s:
        return ""
    reason = f"It would take about {duration(seconds)}, and {duration(limit_s)} are allowed."
    if task.parameters.get("join") in {"opened", "hidden"}:
        n = min(d.rows for d in task.inputs)
        aligned = task.with_data(*(replace(d, rows=n) for d in task.inputs))
        aligned = replace(aligned, parameters={**task.parameters, "join": "aligned"})
        after = duration(max(estimate(aligned).seconds, 0.1))
        reason += (
            f" After a private set intersection (join aligned) it would take at most {after}, but "
            "both owners then know who is in both."
        )
    return reason


def _counts(task: Task) -> tuple[int, int, int, int]:
    """(products, opened numbers, rounds, random bits), without the price of level checked."""
    p, (nx, ny) = task.parameters, (d.rows for d in task.inputs)
    products = opened = bits = 0
    rounds, n = 5, min(nx, ny)
    if task.function == "pooled_statistics":
        groups = group_count(task)
        small = groups * (max(task.min_group - 2, 0) + 1) if task.min_group > 1 else 0
        return small, groups, rounds + 3, 0
    if p["join"] == "opened":
        products, opened, rounds = nx * ny, nx * ny, rounds + 2
    elif p["join"] == "hidden":
        n, left, right = nx, *(len(parts(task, side)) for side in (0, 1))
        products = nx * (ny - 1) + nx * (1 + right) + 90 * nx + nx * (left + right)
        opened, rounds = 30 * nx, rounds + math.ceil(math.log2(max(ny, 2))) + 10
    if task.function == "joined_statistics":
        products, rounds = products + n + 5 * group_count(task), rounds + 6
        if task.dominance_percent:
            products, rounds = products + n * 270, rounds + 20
    elif task.function == "joined_linear_regression":
        d = len(design(task)) + 1
        products, rounds = products + d * (d + 1) // 2 + d + d * d * (d + 1), rounds + 4
    elif task.function == "joined_logistic_regression":
        d, steps = len(design(task)) + 1, p["iterations"]
        products, rounds = products + steps * (4 * n + d), rounds + 12 * steps
        bits = steps * d * (P_BITS + X_BITS + 10 + 8)
    return products, opened, rounds, bits
