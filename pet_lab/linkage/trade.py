"""Synthetic trade declarations, calibrated to all that is published of the UNECE micro-data.

Each transaction is declared twice: by the importer (here the Canadian side, with the tariff
preference) and by the exporter (the Dutch side, with the size of the firm), with typos.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.random import Generator

from pet_lab.checks import between, one_of, require, whole

PUBLISHED_COUNTS = {
    ("small", 100): 35_433,
    ("small", 300): 11_923,
    ("large", 100): 39_567,
    ("large", 300): 13_077,
}
"""Table 2.2 of the report: transactions by exporter size and preferential code."""

EXPORTERS = {"small": 162, "large": 175}
PRODUCTS = 100
HS6_RANGE = (10_121, 970_599)
VALUE_RANGE = (100_000, 1_000_000)
YEAR_START = np.datetime64("2021-01-01", "D")
YEAR_DAYS = 365


@dataclass(frozen=True, kw_only=True)
class TradeDeclarations:
    """Two files about the same transactions.

    imports   declaration, exporter_id, hs6, date, value, preferential_code
    exports   the same transactions in another row order, date and value with typos:
              declaration, exporter_id, hs6, date, value, exporter_size

    `declaration` is the truth (which two rows are one transaction). Linkage must not look at it.
    """

    imports: pd.DataFrame
    exports: pd.DataFrame

    @property
    def files(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Exports and imports: the file searched for, and the file searched."""
        return self.exports, self.imports

    def sample(self, share: float, rng: Generator) -> TradeDeclarations:
        """Each row of each file kept independently with probability `share`: partial overlap."""
        require(0 < share <= 1, f"share is above 0 and at most 1, got {share}; for 70 % pass 0.7.")
        imports, exports = (
            frame[rng.random(len(frame)) < share].reset_index(drop=True)
            for frame in (self.imports, self.exports)
        )
        return TradeDeclarations(imports=imports, exports=exports)

    def cut(self, n_chunks: int, *, by: str | None = None) -> TradeDeclarations:
        """Both files with a column `chunk`: as many transactions in each, in the imports' order.

        With `by`, a column of the imports, each of its values is spread evenly over the chunks.
        """
        imports, chunk = self.imports, np.empty(len(self.imports), dtype=np.int64)
        values = imports[by].to_numpy() if by else np.zeros(len(imports))
        for value in np.unique(values):
            rows = np.flatnonzero(values == value)
            chunk[rows] = np.arange(rows.size) * n_chunks // rows.size
        of_declaration = pd.Series(chunk, index=imports["declaration"])
        of_export = of_declaration.loc[self.exports["declaration"]].to_numpy()
        return TradeDeclarations(
            imports=imports.assign(chunk=chunk), exports=self.exports.assign(chunk=of_export)
        )

    def truth(self) -> np.ndarray:
        """Row of `imports` that holds the same transaction as each row of `exports`; -1: none."""
        position = pd.Series(np.arange(len(self.imports)), index=self.imports["declaration"])
        return position.reindex(self.exports["declaration"]).fillna(-1).to_numpy().astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Typos:
    """How the exporter's copy differs: with probability `error_rate`, in date and value.

    The date shifts by a normal number of days, rounded; the value is lower by a normal share.
    Source: report, paragraph 27; rounding and floor as in the authors' program.
    """

    error_rate: float = 0.2
    date_sd_days: float = 20.0
    deflation_mean: float = 0.15
    deflation_sd: float = 0.05

    def __post_init__(self) -> None:
        between(0, 1, error_rate=self.error_rate, hint="for 20 % pass 0.2")
        require(
            min(self.date_sd_days, self.deflation_sd) >= 0,
            "Standard deviations of the typo model cannot be negative, got "
            f"date_sd_days={self.date_sd_days} and deflation_sd={self.deflation_sd}.",
        )

    def apply(
        self, days: np.ndarray, values: np.ndarray, rng: Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Perturbed copies of `days` and `values` (integers, any shape)."""
        hit = rng.random(days.shape) < self.error_rate
        shift = np.rint(rng.normal(0.0, self.date_sd_days, days.shape)).astype(np.int64)
        lower = rng.normal(self.deflation_mean, self.deflation_sd, days.shape)
        deflated = np.floor(values * (1.0 - lower)).astype(np.int64)
        return np.where(hit, days + shift, days), np.where(hit, deflated, values)


def check_correctable(error_rate: float) -> None:
    """Refuse an error rate at which a correction for typos cannot be studied."""
    require(
        0 < error_rate <= 0.9,
        f"error_rate is a share above 0 and at most 0.9, got {error_rate:g}: without typos there "
        "is nothing to correct, with more hardly a pair links; the report has 0.2.",
    )


def scaled_counts(n: int) -> dict[tuple[str, int], int]:
    """Table 2.2 scaled to `n` transactions: exact at 100,000, largest remainders elsewhere."""
    total = sum(PUBLISHED_COUNTS.values())
    shares = {cell: count * n / total for cell, count in PUBLISHED_COUNTS.items()}
    counts = {cell: int(share) for cell, share in shares.items()}
    by_remainder = sorted(shares, key=lambda cell: counts[cell] - shares[cell])
    for cell in by_remainder[: n - sum(counts.values())]:
        counts[cell] += 1
    return counts


def trade_declarations(
    n: int = 100_000,
    *,
    rng: Generator,
    typos: Typos | None = None,
    id_digits: int = 3,
    concentration: float = 0.0,
    preferential_share: float | None = None,
    value_effect: float = 0.0,
) -> TradeDeclarations:
    """Draw `n` transactions as both trading partners declare them.

    Calibrated to what is published: 337 exporters (162 small, 175 large; size belongs to the
    exporter), 100 products, HS6 codes as integers, dates over 2021, values of 100 K to 1 M, the
    report's typos, and table 2.2's counts exactly when n = 100,000. What is not published (how
    exporters and products are spread, the look of the identifiers) is uniform here.

    id_digits      digits of the exporter id: 3 gives 100-436 as in the source; 2 stands for two
                   letters-or-digits (base 36), the shortest that fits 337 exporters
    concentration  log-normal shares of the exporters with this standard deviation of the log,
                   within each size, so a few have most of the transactions; 0: equal shares
    preferential_share  replaces table 2.2's share of code 300, keeping the split by size within
                   each code; the authors' program draws 25 of every 100 records, exactly
    value_effect   larger transactions use the preference more (in standard deviations of value
                   against a standard normal), with the same counts; 0: unrelated

    Source: UNECE Input Privacy-Preservation final report, paragraphs 13 and 27, table 2.2.
    """
    whole(1, n=n)
    one_of(range(2, 7), id_digits=id_digits)
    between(0, np.inf, concentration=concentration)
    typos = typos or Typos()
    counts = scaled_counts(n)
    if preferential_share is not None:
        between(0, 1, preferential_share=preferential_share)
        counts = _split(n, preferential_share, rng)
    small = np.repeat([s == "small" for s, _ in counts], list(counts.values()))
    code = np.repeat([c for _, c in counts], list(counts.values()))
    order = rng.permutation(n)
    small, code = small[order], code[order]

    ids, is_small = _exporters(id_digits, rng)
    exporter = np.empty(n, dtype=np.int64)
    for side in (True, False):
        pool = np.flatnonzero(is_small == side)
        share = np.exp(concentration * rng.standard_normal(pool.size))
        picked = rng.choice(pool, size=int((small == side).sum()), p=share / share.sum())
        exporter[small == side] = picked
    low, high = HS6_RANGE
    products = low + rng.choice(high - low + 1, size=PRODUCTS, replace=False)
    hs6 = products[rng.integers(0, PRODUCTS, n)]
    days = rng.integers(0, YEAR_DAYS, n)
    values = rng.integers(VALUE_RANGE[0], VALUE_RANGE[1] + 1, n)

    if value_effect:
        score = value_effect * (values - values.mean()) / values.std() + rng.standard_normal(n)
        for side in (True, False):
            rows = np.flatnonzero(small == side)
            ranked = rows[np.argsort(-score[rows])]
            preferential = int((code[rows] == 300).sum())
            code[ranked[:preferential]], code[ranked[preferential:]] = 300, 100

    recorded_days, recorded_values = typos.apply(days, values, rng)
    shuffle = rng.permutation(n)
    both = {"declaration": np.arange(n), "exporter_id": ids[exporter], "hs6": hs6}
    sizes = pd.Categorical.from_codes(
        np.where(is_small[exporter], 0, 1).astype(np.int8), categories=pd.Index(["small", "large"])
    )
    imports = both | {"date": YEAR_START + days, "value": values, "preferential_code": code}
    exports = both | {"date": YEAR_START + recorded_days, "value": recorded_values}
    shuffled = pd.DataFrame(exports | {"exporter_size": sizes}).iloc[shuffle]
    return TradeDeclarations(imports=pd.DataFrame(imports), exports=shuffled.reset_index(drop=True))


def _split(n: int, share: float, rng: Generator) -> dict[tuple[str, int], int]:
    """Exactly `share` of code 300; sizes binomial within a code, as in a slice of a file."""
    preferential = round(n * share)
    counts: dict[tuple[str, int], int] = {}
    for code, total in ((100, n - preferential), (300, preferential)):
        odds = PUBLISHED_COUNTS["small", code], PUBLISHED_COUNTS["large", code]
        counts["small", code] = int(rng.binomial(total, odds[0] / sum(odds)))
        counts["large", code] = total - counts["small", code]
    return counts


def _exporters(id_digits: int, rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the exporters, and which are small; sizes in random order over the ids."""
    total = sum(EXPORTERS.values())
    if id_digits == 2:
        picked = rng.choice(36 * 36, size=total, replace=False)
        ids = np.array([np.base_repr(i, 36).zfill(2) for i in picked], dtype=object)
    elif id_digits == 3:
        ids = np.arange(100, 100 + total)
    else:
        low = 10 ** (id_digits - 1)
        ids = low + rng.choice(9 * low, size=total, replace=False)
    is_small = rng.permutation(np.repeat([True, False], [EXPORTERS["small"], EXPORTERS["large"]]))
    return ids, is_small
