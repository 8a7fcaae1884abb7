"""Printed epsilons beside ours: what a published budget says depends on the accountant of its day.

Definitions: strong composition and the moments accountant (Abadi et al. 2016), Renyi divergences
(Mironov 2017), privacy loss distributions (Koskela et al. 2020), a central limit (Bu et al. 2020).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize

from pet_lab import accounting
from pet_lab.checks import between, distinct, positive, require, whole
from pet_lab.rows import Claim, Rows, claims, concat

LABELS = {
    "epsilon": "epsilon",
    "training": "printed epsilon, in the order of the tables",
    "passed": "epochs of training",
    "epsilon_at": "epsilon",
    "shown": "accountant",
    "share_left": "today's epsilon / printed",
}
WAYS: dict[accounting.Way, str] = {
    "strong": "strong composition",
    "moments": "moments, as until 2020",
    "renyi": "moments, as today",
    "loss": "privacy loss",
    "clt": "central limit (no bound)",
}
# The Renyi orders that a source looked at; "today" are dp-accounting's.
_TENTHS = [1 + x / 10 for x in range(1, 100)]
ORDERS: Mapping[str, list[float] | None] = {
    "whole": [float(x) for x in range(2, 34)],
    "tenths": [*_TENTHS, *map(float, range(12, 64))],
    "fifths": [*_TENTHS, *(12 + x / 5 for x in range(240)), *map(float, range(60, 100))],
    "library": [1.25, 1.5, 1.75, 2, 2.25, 2.5, 3, 3.5, 4, 4.5, *range(5, 64), 128, 256, 512],
    "thousandths": [x / 1000 for x in range(1001, 40000)],
    "today": None,
    "none": None,
}
SETTING = ("records", "batch", "way")


def check(
    printed: pd.DataFrame, *, epochs: Sequence[int], rate: float, noise: float, seed: int
) -> None:
    """Refuse what `simulate` cannot use, before its work; ValueError in one sentence."""
    missing = [name for name in SETTING if name not in printed]
    require(
        not missing, f"Expected printed numbers with {', '.join(SETTING)}; there is no {missing}."
    )
    distinct(epochs=epochs)
    whole(1, fewest_epochs=min(epochs), most_epochs=max(epochs))
    whole(0, seed=seed)
    positive(rate=rate)
    between(0.01, 1e6, noise=noise)  # below it a step's epsilon has no exponential


def simulate(
    printed: pd.DataFrame, *, epochs: Sequence[int], rate: float, noise: float
) -> pd.DataFrame:
    """Every printed number computed anew, and the accountants beside each other as epochs pass.

    `printed` holds one printed number a row, its conditions as columns (those of the tables: way,
    noise_multiplier, records, batch, steps or epochs, delta, orders, and order or target where
    the number is a divergence or a noise), `table`, and `metric`. A column ran_x holds the value
    of x that the authors seem to have run: reading "published".

    Returns rows (table and conditions, `part` = "printed"): the metric; (training, `part` =
    "shelf"): `today`, the least epsilon known for the same training, and `share_left`, by what it
    is of the print; (shown, passed, `part` = "curve"): `epsilon_at` delta 1e-5.
    """
    rows = Rows(part="printed")
    for record in printed.to_dict("records"):
        described, ran = _conditions(record)
        metric = described.pop("metric")
        readings = {"described": described, "published": ran}
        for reading, actual in readings.items():
            rows.add(**described, reading=reading, metrics={metric: value(metric, actual)})
    return concat(rows.frame(), _today(printed), _curve(epochs, rate, noise))


def value(metric: str, cell: Mapping[str, Any]) -> float:
    """One number by the definition that its table names, from the conditions of its cell.

    Raises
    ------
    ValueError
        If the metric or a list of orders is unknown, or a condition is missing.
    """
    known = ("epsilon", "matched_epsilon", "mu", "divergence", "needed_noise")
    require(metric in known, f"Expected a metric of {', '.join(known)}, got {metric}.")
    orders = cell.get("orders", "none")
    require(orders in ORDERS, f"orders is one of {', '.join(ORDERS)}, got {orders!r}.")
    at = {"rate": cell["batch"] / cell["records"], "steps": _steps(cell)}
    if metric == "mu":
        return accounting.clt_mu(cell["noise_multiplier"], **at, way=cell["way"])
    if metric == "divergence":
        order = [float(cell["order"])]
        return float(
            accounting.renyi_divergences(cell["noise_multiplier"], **at, orders=order)[1][0]
        )

    def epsilon(noise: float) -> float:
        how = {**at, "delta": cell["delta"], "orders": ORDERS[orders]}
        return accounting.epsilon_by(cell["way"], noise, **how)

    if metric == "needed_noise":
        return float(optimize.brentq(lambda z: epsilon(z) - cell["target"], 0.3, 20, xtol=1e-6))
    return epsilon(cell["noise_multiplier"])


def _steps(cell: Mapping[str, Any]) -> float:
    if "steps" in cell:
        return float(cell["steps"])
    require(
        "epochs" in cell, f"Expected steps or epochs among the conditions, got {', '.join(cell)}."
    )
    return float(cell["epochs"] * cell["records"] / cell["batch"])


def _conditions(record: Mapping[Any, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The conditions that a printed number states, and those under which it seems to have run."""
    stated = {k: v for k, v in record.items() if k not in ("printed", "text") and pd.notna(v)}
    ran = {k.removeprefix("ran_"): v for k, v in stated.items() if k.startswith("ran_")}
    return stated, {**stated, **ran}


def _today(printed: pd.DataFrame) -> pd.DataFrame:
    """Rows (training): a bound printed by moments or strong composition, and today's for it."""
    rows = Rows(part="shelf", reading="described")
    old = printed[printed["way"].isin(["moments", "strong"]) & (printed["metric"] == "epsilon")]
    for i, record in enumerate(old.to_dict("records")):
        _, ran = _conditions(record)
        at: Any = {
            "rate": ran["batch"] / ran["records"],
            "steps": _steps(ran),
            "delta": ran["delta"],
        }
        today = accounting.epsilon_by("loss", ran["noise_multiplier"], **at)
        rows.add(
            training=f"{i + 1}: {record['text'][:6]}",
            earlier=ran["way"],
            metrics={"today": today, "share_left": today / record["printed"]},
        )
    return rows.frame() if len(rows) else pd.DataFrame()


def _curve(epochs: Sequence[int], rate: float, noise: float) -> pd.DataFrame:
    rows = Rows(part="curve", reading="described")
    for way, shown in WAYS.items():
        for passed in epochs:
            at: Any = {"rate": rate, "steps": passed / rate, "delta": 1e-5}
            epsilon = accounting.epsilon_by(way, noise, **at)
            rows.add(shown=shown, passed=passed, metrics={"epsilon_at": epsilon})
    return rows.frame()


def takeaways(rows: pd.DataFrame) -> list[Claim]:
    """What these rows say; the first is the headline."""
    left = rows[rows["metric"] == "share_left"].set_index("earlier")["value"]
    moments, strong = (
        left.get("moments", pd.Series(dtype=float)),
        left.get("strong", pd.Series(dtype=float)),
    )
    moments, strong = np.atleast_1d(moments), np.atleast_1d(strong)
    curve = rows[rows["metric"] == "epsilon_at"].pivot(
        index="passed", columns="shown", values="value"
    )
    last, loss = curve.iloc[-1], curve.iloc[-1][WAYS["loss"]]
    numbers = {
        "n": moments.size, "median": np.median(moments), "least": moments.min(), "most": moments.max(),
        "strong": np.median(strong), "epochs": curve.index[-1], "by_moments": last[WAYS["moments"]],
        "by_loss": loss, "by_strong": last[WAYS["strong"]], "by_clt": last[WAYS["clt"]],
    }  # fmt: skip
    sentences = [
        ("A printed epsilon is that of an accountant: for the same {n} trainings whose budgets were "
         "printed by moments, today's bound is {median:.0%} of the print (from {least:.0%} to {most:.0%}).",
         moments.max() < 1),
        ("Strong composition printed budgets of which {strong:.0%} are left.", strong.max() < 0.5),
        ("After {epochs:.0f} epochs the same training is {by_strong:.2f} by strong composition, "
         "{by_moments:.2f} by moments and {by_loss:.2f} by its privacy loss.", loss < last[WAYS["moments"]]),
        ("The central limit, {by_clt:.3f}, is below what is proved, {by_loss:.3f}: it is no bound.",
         last[WAYS["clt"]] < loss, "Here the central limit, {by_clt:.3f}, is not below the bound {by_loss:.3f}."),
    ]  # fmt: skip
    return claims(sentences, **numbers)


def explore(noise: float, batch: int, epochs: int) -> pd.DataFrame:
    """Epsilon of a training on 60,000 records at delta 1e-5, by each accountant."""
    at: Any = {"rate": batch / 60000, "steps": epochs * 60000 / batch, "delta": 1e-5}
    values = [accounting.epsilon_by(way, noise, **at) for way in WAYS]
    return pd.DataFrame({"accountant": list(WAYS.values()), "epsilon": values})
