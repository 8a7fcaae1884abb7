"""The same functions on the clear data: what every joint computation is checked against."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .tasks import ColumnSchema


def answer(
    function: str,
    parameters: Mapping[str, Any],
    x: pd.DataFrame,
    y: pd.DataFrame,
    schema: Mapping[str, ColumnSchema],
) -> pd.DataFrame:
    """What a trusted third party would answer that sees both tables, with the columns of `schema`.

    The table has the form of that of `catalogue.decode`.
    """
    if function == "pooled_statistics":
        return statistics(pd.concat([x, y]), parameters["group"], parameters["value"], schema)
    joined = x.merge(y, on=parameters["key"])
    if function == "join_size":
        return pd.DataFrame({"count": [float(len(joined))]})
    if function == "joined_statistics":
        return statistics(joined, parameters["group"], parameters["value"], schema)
    terms, design = _design(joined, parameters["predictors"], schema)
    target = joined[parameters["target"]].to_numpy(float)
    if function == "joined_linear_regression":
        coefficients = np.linalg.lstsq(design, target, rcond=None)[0]
    else:
        coefficients = logistic(design, target)
    return pd.DataFrame({"term": terms, "coefficient": coefficients, "rows": float(len(joined))})


def statistics(
    frame: pd.DataFrame, group: str, value: str, schema: Mapping[str, ColumnSchema]
) -> pd.DataFrame:
    """Count, sum, mean and variance of a column for each level of another."""
    levels = pd.CategoricalIndex(frame[group].astype(str), schema[group].levels)
    cells = frame[value].astype(float).groupby(levels, observed=False)
    table = cells.agg(["count", "sum", "mean", "var"]).rename(columns={"var": "variance"})
    return table.astype({"count": float}).rename_axis(group).reset_index().astype({group: str})


def _design(
    frame: pd.DataFrame, predictors: Sequence[str], schema: Mapping[str, ColumnSchema]
) -> tuple[list[str], np.ndarray]:
    terms, columns = ["intercept"], [np.ones(len(frame))]
    for name in predictors:
        for level in schema[name].levels[1:]:
            terms.append(f"{name}={level}")
            columns.append((frame[name].astype(str) == level).to_numpy(float))
        if not schema[name].levels:
            terms.append(name)
            columns.append(frame[name].to_numpy(float))
    return terms, np.column_stack(columns)


def logistic(design: np.ndarray, target: np.ndarray, steps: int = 50) -> np.ndarray:
    """Maximum-likelihood coefficients by Newton's method."""
    beta = np.zeros(design.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-design @ beta))
        hessian = design.T @ (design * (p * (1 - p))[:, None])
        move = np.linalg.solve(hessian, design.T @ (target - p))
        beta = beta + move
        if np.abs(move).max() < 1e-12:
            break
    return beta


def same(a: pd.DataFrame, b: pd.DataFrame, *, tolerance: float = 1e-9) -> bool:
    """Whether two answers agree up to a relative tolerance, NaN with NaN."""
    try:
        pd.testing.assert_frame_equal(a, b, check_dtype=False, rtol=tolerance, atol=tolerance)
    except AssertionError:
        return False
    return True
