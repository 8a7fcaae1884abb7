"""How much of the original a synthetic table keeps, and how much it gives away."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .domain import Coded, code

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Utility", "risk", "utility"]


@dataclass(frozen=True, kw_only=True)
class Utility:
    """Distances between an original and a synthetic table.

    univariate        column -> total variation distance of the margins, in [0, 1], 0 = equal
    pairwise          square table of total variation distances of the two-column margins
    association_real, association_synthetic  Cramér's V of each pair (bias-corrected), in [0, 1]
    correlation_real, correlation_synthetic  Pearson's r of numeric and two-level columns (the later
                      level is 1), in [-1, 1]; 0 where a column is constant
    unique_real, unique_synthetic  numbers of distinct rows
    copies            synthetic rows that also stand in the original
    """

    univariate: pd.Series
    pairwise: pd.DataFrame
    association_real: pd.DataFrame
    association_synthetic: pd.DataFrame
    correlation_real: pd.DataFrame
    correlation_synthetic: pd.DataFrame
    unique_real: int
    unique_synthetic: int
    copies: int

    @property
    def mean_pairwise(self) -> float:
        """Mean over the pairs of different columns."""
        upper = np.triu_indices(len(self.pairwise), 1)
        return float(self.pairwise.to_numpy()[upper].mean())

    def correlation_with(self, target: str) -> pd.DataFrame:
        """Pearson's r with one column; columns ``real`` and ``synthetic``."""
        import pandas as pd

        return pd.DataFrame(
            {
                "real": self.correlation_real[target],
                "synthetic": self.correlation_synthetic[target],
            }
        ).drop(index=target)


def utility(real: pd.DataFrame, synthetic: pd.DataFrame, *, bins: int = 10) -> Utility:
    """Compare a synthetic table with its original.

    Parameters
    ----------
    real, synthetic : DataFrame
        The same columns.
    bins : int
        Numeric columns with more levels than this (in both tables together) are cut into so many
        bins of equal width before distances and Cramér's V; correlations use the numbers.

    Raises
    ------
    ValueError
        If the columns differ or a table is empty.
    """
    import pandas as pd

    if list(real.columns) != list(synthetic.columns):
        raise ValueError("Expected both tables to have the same columns in the same order.")
    if real.empty or synthetic.empty:
        raise ValueError(f"Expected rows in both tables, got {len(real)} and {len(synthetic)}.")
    both = pd.concat([real, synthetic], ignore_index=True)
    reduced = pd.DataFrame(
        {
            name: pd.cut(both[name].astype(float), bins, labels=False)
            if pd.api.types.is_numeric_dtype(both[name]) and both[name].nunique() > bins
            else both[name].astype(str)
            for name in both.columns
        }
    )
    coded = code(reduced, None)
    first = np.arange(len(both)) < len(real)
    names = list(real.columns)
    pairwise = pd.DataFrame(0.0, index=names, columns=names)
    v_real, v_synthetic = (pd.DataFrame(np.eye(len(names)), names, names) for _ in range(2))
    univariate = pd.Series(
        {name: _distance(*_tables(coded, (name,), first)) for name in names}, dtype=float
    )
    for a, b in itertools.combinations(names, 2):
        x, y = _tables(coded, (a, b), first)
        pairwise.loc[a, b] = pairwise.loc[b, a] = _distance(x, y)
        v_real.loc[a, b] = v_real.loc[b, a] = _cramer(x)
        v_synthetic.loc[a, b] = v_synthetic.loc[b, a] = _cramer(y)
    numbers = _numbers(both)
    seen = set(real.astype(str).itertuples(index=False, name=None))
    return Utility(
        univariate=univariate,
        pairwise=pairwise,
        association_real=v_real,
        association_synthetic=v_synthetic,
        correlation_real=_pearson(numbers[first]),
        correlation_synthetic=_pearson(numbers[~first]),
        unique_real=len(real.drop_duplicates()),
        unique_synthetic=len(synthetic.drop_duplicates()),
        copies=sum(row in seen for row in synthetic.astype(str).itertuples(index=False, name=None)),
    )


def _tables(
    coded: Coded, names: tuple[str, ...], first: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    sizes = [coded.sizes[name] for name in names]
    flat = np.ravel_multi_index([coded.codes[name] for name in names], sizes)
    cells = int(np.prod(sizes))
    return (
        np.bincount(flat[first], minlength=cells).reshape(sizes),
        np.bincount(flat[~first], minlength=cells).reshape(sizes),
    )


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(0.5 * np.abs(a / a.sum() - b / b.sum()).sum())


def _cramer(table: np.ndarray) -> float:
    """Cramér's V with Bergsma's correction (J. Korean Stat. Soc. 42, 2013); 0 if constant."""
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0].astype(float)
    n, (r, k) = table.sum(), table.shape
    if min(r, k) < 2 or n < 2:
        return 0.0
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / n
    phi2 = ((table - expected) ** 2 / expected).sum() / n
    phi2 = max(0.0, phi2 - (r - 1) * (k - 1) / (n - 1))
    smaller = min(r - (r - 1) ** 2 / (n - 1), k - (k - 1) ** 2 / (n - 1)) - 1
    return float(min(1.0, np.sqrt(phi2 / smaller))) if smaller > 0 else 0.0


def _numbers(frame: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    columns = {}
    for name in frame.columns:
        if pd.api.types.is_numeric_dtype(frame[name]):
            columns[name] = frame[name].astype(float)
        elif frame[name].nunique() == 2:
            columns[name] = (frame[name] == sorted(frame[name].unique())[-1]).astype(float)
    return pd.DataFrame(columns)


def _pearson(numbers: pd.DataFrame) -> pd.DataFrame:
    return numbers.corr().fillna(0.0)


def risk(
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    *,
    control: pd.DataFrame,
    secret: str,
    linked: tuple[Sequence[str], Sequence[str]] | None = None,
    n_attacks: int = 200,
    seed: int,
) -> pd.DataFrame:
    """Attacks of anonymeter: singling out, linkability, attribute inference.

    Parameters
    ----------
    real : DataFrame
        The records the synthetic table was made from.
    synthetic : DataFrame
    control : DataFrame
        Records of the same kind that were *not* used. What works on them as well is knowledge of
        the population, not a leak of a record.
    secret : str
        Column to be inferred from all others.
    linked : two lists of columns, optional
        What the two sources know that are to be linked; by default the two halves of the columns.
    n_attacks : int
        Attempts per attack, at most the number of rows.
    seed : int
        anonymeter draws from numpy's global state: it is seeded inside and put back afterwards.

    Returns
    -------
    DataFrame, a row per attack: ``attack``, ``n_attacks``, ``rate`` (successes on `real`),
    ``rate_control``, ``rate_baseline`` (guessing), ``risk`` in [0, 1] (excess over control) with
    its 95 % interval ``risk_low``, ``risk_high``. Where ``rate`` is not above ``rate_baseline`` the
    attack itself is too weak to say anything.

    Raises
    ------
    ImportError
        Without the extra ``attacks`` (anonymeter).
    ValueError
        If columns differ.
    """
    import pandas as pd

    if not (list(real.columns) == list(synthetic.columns) == list(control.columns)):
        raise ValueError("Expected the three tables to have the same columns in the same order.")
    try:
        from anonymeter.evaluators import (
            InferenceEvaluator,
            LinkabilityEvaluator,
            SinglingOutEvaluator,
        )
    except ImportError as error:
        raise ImportError(
            "risk needs anonymeter; install the extra: uv sync --extra attacks"
        ) from error
    names = list(real.columns)
    half = len(names) // 2
    aux = linked or (names[:half], names[half:])
    attacks = min(n_attacks, len(real), len(control))
    tables: dict[str, Any] = {"ori": real, "syn": synthetic, "control": control}
    tables["n_attacks"] = attacks
    state = np.random.get_state()  # noqa: NPY002 - anonymeter draws from it
    np.random.seed(seed)  # noqa: NPY002
    try:
        with warnings.catch_warnings():
            # "Attack is as good or worse as baseline": the columns of the result say so.
            warnings.simplefilter("ignore")
            singled = SinglingOutEvaluator(**tables, seed=seed, max_attempts=50 * attacks)
            linking = LinkabilityEvaluator(**tables, aux_cols=(list(aux[0]), list(aux[1])))
            others = [name for name in names if name != secret]
            guessing = InferenceEvaluator(
                **tables, aux_cols=others, secret=secret, regression=False
            )
            results = {
                "singling_out": singled.evaluate("multivariate").results(),
                "linkability": linking.evaluate(n_jobs=1).results(),
                "inference": guessing.evaluate(n_jobs=1).results(),
            }
            lines = [
                {
                    "attack": name,
                    "n_attacks": attacks,
                    "rate": result.attack_rate.value,
                    "rate_control": result.control_rate.value,
                    "rate_baseline": result.baseline_rate.value,
                    "risk": result.risk().value,
                    "risk_low": result.risk().ci[0],
                    "risk_high": result.risk().ci[1],
                }
                for name, result in results.items()
            ]
        return pd.DataFrame(lines)
    finally:
        np.random.set_state(state)  # noqa: NPY002
