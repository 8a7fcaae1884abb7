"""How much of the original a synthetic table keeps, and how much it gives away."""

import itertools
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pet_lab import checks


@dataclass(frozen=True, kw_only=True)
class Utility:
    """Distances between an original and a synthetic table.

    univariate        column -> total variation distance of the margins, in [0, 1], 0 = equal
    mean_pairwise     mean total variation distance of the two-column margins
    correlation_real, correlation_synthetic  Pearson's r of numeric and two-level columns (the later
                      level is 1), in [-1, 1]; 0 where a column is constant
    unique_synthetic  number of distinct rows
    copies            synthetic rows that also stand in the original
    """

    univariate: pd.Series
    mean_pairwise: float
    correlation_real: pd.DataFrame
    correlation_synthetic: pd.DataFrame
    unique_synthetic: int
    copies: int

    def correlation_with(self, target: str) -> pd.DataFrame:
        """Pearson's r with one column; columns ``real`` and ``synthetic``."""
        both = {"real": self.correlation_real, "synthetic": self.correlation_synthetic}
        return pd.DataFrame({name: r[target] for name, r in both.items()}).drop(index=target)


def utility(real: pd.DataFrame, synthetic: pd.DataFrame, *, bins: int = 10) -> Utility:
    """Compare a synthetic table with its original of the same columns (else ValueError).

    Numeric columns with more than `bins` levels in both tables together are cut into so many bins
    of equal width before distances; correlations use the numbers.
    """
    same = list(real.columns) == list(synthetic.columns)
    checks.require(same, "Both tables need the same columns in the same order.")
    sizes = f"{len(real)} and {len(synthetic)}"
    checks.require(len(real) and len(synthetic), f"Both tables need rows, they have {sizes}.")
    both = pd.concat([real, synthetic], ignore_index=True)
    first = np.arange(len(both)) < len(real)
    codes, numbers = {}, {}
    for name, column in both.items():
        numeric, levels = pd.api.types.is_numeric_dtype(column), column.nunique()
        if numeric:
            numbers[name] = column.astype(float)
        elif levels == 2:
            numbers[name] = (column == sorted(column.unique())[-1]).astype(float)
        cut = pd.cut(column.astype(float), bins) if numeric and levels > bins else column
        codes[name] = pd.factorize(cut, use_na_sentinel=False)[0]

    def distance(*names: Any) -> float:
        chosen = [codes[name] for name in names]
        cells = np.ravel_multi_index(chosen, [int(code.max()) + 1 for code in chosen])
        shares = [
            np.bincount(cells[part], minlength=cells.max() + 1) / part.sum()
            for part in (first, ~first)
        ]
        return float(0.5 * np.abs(shares[0] - shares[1]).sum())

    correlated = pd.DataFrame(numbers)
    seen = set(real.astype(str).itertuples(index=False, name=None))
    return Utility(
        univariate=pd.Series({name: distance(name) for name in codes}, dtype=float),
        mean_pairwise=float(np.mean([distance(*p) for p in itertools.combinations(codes, 2)])),
        correlation_real=correlated[first].corr().fillna(0.0),
        correlation_synthetic=correlated[~first].corr().fillna(0.0),
        unique_synthetic=len(synthetic.drop_duplicates()),
        copies=sum(row in seen for row in synthetic.astype(str).itertuples(index=False, name=None)),
    )


def risk(
    real: pd.DataFrame,
    synthetic: pd.DataFrame,
    *,
    control: pd.DataFrame,
    secret: str,
    n_attacks: int = 200,
    seed: int,
) -> pd.DataFrame:
    """Attacks of anonymeter (extra ``attacks``): singling out, linkability, attribute inference.

    Parameters
    ----------
    real, synthetic, control : DataFrame
        The records used, the table made from them, and records of the same kind that were *not*
        used: what works on those as well is knowledge of the population, not a leak of a record.
    secret : column to be inferred from all others. Linkability joins the two halves of the columns.
    n_attacks : attempts per attack, at most the number of rows.

    Returns
    -------
    DataFrame, a row per attack: ``attack``, ``n_attacks``, ``rate`` (successes on `real`),
    ``rate_control``, ``rate_baseline`` (guessing), ``risk`` in [0, 1] (excess over control) with
    its 95 % interval ``risk_low``, ``risk_high``. Where ``rate`` is not above ``rate_baseline`` the
    attack itself is too weak to say anything.
    """
    try:
        from anonymeter import evaluators
    except ImportError as error:
        raise ImportError("risk needs anonymeter: uv sync --extra attacks") from error
    names = list(real.columns)
    same = names == list(synthetic.columns) == list(control.columns)
    checks.require(same, "The three tables need the same columns in the same order.")
    attacks = min(n_attacks, len(real), len(control))
    tables: dict[str, Any] = {"ori": real, "syn": synthetic, "control": control}
    tables["n_attacks"] = attacks
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    guess: dict[str, Any] = {"aux_cols": [name for name in names if name != secret]}
    guess |= {"secret": secret, "regression": False}
    state = np.random.get_state()  # noqa: NPY002 - anonymeter draws from it
    np.random.seed(seed)  # noqa: NPY002
    try:
        with warnings.catch_warnings():
            # "Attack is as good or worse as baseline": the columns of the result say so.
            warnings.simplefilter("ignore")
            singled = evaluators.SinglingOutEvaluator(
                **tables, seed=seed, max_attempts=50 * attacks
            )
            linking = evaluators.LinkabilityEvaluator(**tables, aux_cols=halves)
            guessing = evaluators.InferenceEvaluator(**tables, **guess)
            results = {
                "singling_out": singled.evaluate("multivariate").results(),
                "linkability": linking.evaluate(n_jobs=1).results(),
                "inference": guessing.evaluate(n_jobs=1).results(),
            }
            return pd.DataFrame(
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
            )
    finally:
        np.random.set_state(state)  # noqa: NPY002
