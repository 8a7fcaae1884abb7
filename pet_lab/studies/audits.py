"""Printed audits beside ours: what guesses, canaries and counts prove of a privacy budget.

Definitions: one-run audits (Steinke et al. 2023, arXiv:2305.08846), Clopper and Pearson's exact
interval, ROC curves as step functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from pet_lab import mia
from pet_lab.checks import distinct, require, whole
from pet_lab.mia.audit import clopper_pearson, one_run_bound
from pet_lab.rows import Claim, Rows, claims, concat

LABELS = {
    "guesses": "guesses",
    "ceiling": "epsilon that is proved",
    "share_right": "share of right guesses",
}
RAMP = np.arange(100.0)
SCORES: Mapping[str, tuple[Any, Any]] = {  # members, others
    "two": ([1, 3], [0, 2]),
    "four": ([0, 4, 6, 7], [1, 2, 3, 5]),
    "ramp": (RAMP + 9.5, RAMP),
}
SHARES = (1.0, 0.95, 0.75)


def check(*, records: int, guesses: Sequence[int], seed: int) -> None:
    """Refuse what `simulate` cannot use, before its work; ValueError in one sentence."""
    distinct(guesses=guesses)
    whole(2, records=records, smallest_number_of_guesses=min(guesses))
    whole(0, seed=seed)


def simulate(printed: pd.DataFrame, *, records: int, guesses: Sequence[int]) -> pd.DataFrame:
    """Every printed number computed anew, and what guesses can prove at all.

    `printed` holds one printed number a row: `metric`, `table` and the conditions of its cell.
    Returns rows (table and conditions, `part` = "printed"): the metric; (guesses, share_right,
    delta; `part` = "ceiling"): `ceiling`, the epsilon that so many right guesses on `records`
    records prove at 95 %.
    """
    rows, ceiling = Rows(part="printed"), Rows(part="ceiling")
    for record in printed.to_dict("records"):
        kept = {k: v for k, v in record.items() if k not in ("printed", "text") and pd.notna(v)}
        cell = {str(k): v for k, v in kept.items()}
        metric = cell.pop("metric")
        rows.add(**cell, metrics={metric: value(metric, cell)})
    for share in SHARES:
        for delta in (0.0, 1e-5):
            for count in guesses:
                bound = one_run_bound(records, count, int(share * count), delta=delta, error=0.05)
                factors: Any = {"guesses": count, "share_right": share, "delta": delta}
                ceiling.add(**factors, metrics={"ceiling": bound})
    return concat(rows.frame(), ceiling.frame())


def value(metric: str, cell: Mapping[str, Any]) -> float:
    """One number from the conditions of its cell.

    Raises
    ------
    ValueError
        If the metric or the scores are unknown.
    """
    known = ("proved_epsilon", "canary_epsilon", "tpr", "auc", "share_low")
    require(metric in known, f"Expected a metric of {', '.join(known)}, got {metric}.")
    if metric == "share_low":
        how = {"confidence": cell["confidence"]}
        return float(clopper_pearson(int(cell["successes"]), int(cell["trials"]), **how)[0])
    if metric == "proved_epsilon":
        counts = [int(cell[name]) for name in ("records", "guesses", "right")]
        return one_run_bound(*counts, delta=cell["delta"], error=1 - cell["confidence"])
    if metric == "canary_epsilon":
        half = int(cell["records"]) // 2
        middle = stats.norm.ppf((np.arange(half) + 0.5) / half)
        error = 1 - cell["confidence"]
        return best_of_hull(middle + cell["shift"], middle, delta=cell["delta"], error=error)
    scores = cell["scores"]
    require(scores in SCORES, f"scores is one of {', '.join(SCORES)}, got {scores!r}.")
    if metric == "auc":
        return mia.auc(*SCORES[scores])
    return mia.tpr_at_fpr(*SCORES[scores], fpr=cell["fpr"])


def best_of_hull(members: Any, others: Any, *, delta: float, error: float) -> float:
    """One-run bound from guesses "member" above a threshold, the best on the curve's convex hull.

    Every corner of the hull is one hypothesis, each with its share of `error` (jax-privacy's way;
    `mia.one_run_epsilon_lower_bound` fixes numbers of guesses beforehand and guesses both ways).
    """
    curve = mia.roc(members, others)
    tp, fp = np.round(curve.tpr * len(members)), np.round(curve.fpr * len(others))
    order = np.lexsort((tp, fp))
    hull: list[tuple[float, float]] = []
    for x, y in zip(fp[order], tp[order], strict=True):
        while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (x - hull[-1][0]) <= (
            y - hull[-1][1]
        ) * (hull[-1][0] - hull[-2][0]):
            hull.pop()
        hull.append((float(x), float(y)))
    share, best, n = error / len(hull), 0.0, len(members) + len(others)
    corners = sorted(hull[1:], key=lambda c: -c[1] / (c[0] + c[1]))
    for false, right in corners:
        # A bound without delta is never smaller: what it cannot better is not worth a search.
        tail = stats.binom.sf(right - 1, right + false, 1 / (1 + np.exp(-best)))
        if tail <= share:
            counts = n, int(right + false), int(right)
            best = max(best, one_run_bound(*counts, delta=delta, error=share))
    return best


def takeaways(rows: pd.DataFrame, *, records: int) -> list[Claim]:
    """What these rows say; the first is the headline."""
    ceiling = rows[rows["metric"] == "ceiling"].set_index(["share_right", "delta", "guesses"])
    values = ceiling["value"].sort_index()
    most = int(values.index.get_level_values("guesses").max())
    perfect, private = values[1.0, 0.0, most], values[1.0, 1e-5, most]
    few = values[1.0, 0.0]
    numbers = {
        "most": most, "records": records, "perfect": perfect, "private": private,
        "by_95": values[0.95, 0.0, most], "by_75": values[0.75, 0.0, most],
        "least": int(few.index[0]), "at_least": few.iloc[0],
    }  # fmt: skip
    sentences = [
        ("{least} perfect guesses prove at most epsilon {at_least:.2f}, {most:,} prove {perfect:.2f}: "
         "what one run shows is capped by how often one dares to guess.", perfect > few.iloc[0],
         "{most:,} perfect guesses prove no more than {least}."),
        ("Of {most:,} guesses all right prove {perfect:.2f}, 95 % right {by_95:.2f}, 75 % right "
         "{by_75:.2f}.", perfect > numbers["by_95"] > numbers["by_75"]),
        ("A delta of 1e-5 takes {perfect:.2f} to {private:.2f} on {records:,} records.",
         private < perfect),
    ]  # fmt: skip
    return claims(sentences, **numbers)


def explore(guesses: int, right_percent: int, records: int) -> pd.DataFrame:
    """Epsilon that so many right guesses prove at 95 %, without and with delta 1e-5."""
    count = min(guesses, records)
    right = count * right_percent // 100
    deltas = (0.0, 1e-5)
    proved = [one_run_bound(records, count, right, delta=d, error=0.05) for d in deltas]
    return pd.DataFrame({"delta": deltas, "epsilon proved": proved})
