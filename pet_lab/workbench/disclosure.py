"""Output checks: which cells of a run's tables may leave the house, by the rules that ACRO applies.

A table is all rows of one metric that name the same factors; a cell is one setting of them. What
stands behind a cell (`rows.contributions`) stays in the run's folder; the rules see it, readers do
not. Not covered: bounds (a withheld cell may be known to lie in an interval), and figures.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from pet_lab import checks
from pet_lab.rows import NOBODY

NUMBERS = ("replicate", "metric", "value", "se", "replicates_n")
BEHIND = ("records", "differs", "total", "largest", "second", "negative")
MOST_ATOMS = 4096
_OTHER = object()  # everybody whose level is not printed
PASS, FAIL, REVIEW = "pass", "fail", "review"
EXCEPTION = "exception"
UNKNOWN = " for small cells or dominance, because the run does not say who stands behind its cells"


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a house allows out; the defaults are ACRO's.

    threshold   fewest records behind a cell
    nk_k        the two largest contributions are less than this share of a total
    p_ratio     all contributions but the two largest are at least this share of the largest
    round_base  counts are rounded to multiples of this; 1 leaves them as they are
    """

    threshold: int = 10
    nk_k: float = 0.9
    p_ratio: float = 0.1
    round_base: int = 5

    def __post_init__(self) -> None:
        checks.whole(1, threshold=self.threshold, round_base=self.round_base)
        checks.between(0, 1, nk_k=self.nk_k, p_ratio=self.p_ratio)


@dataclass
class OutputCell:
    """One setting of a table's factors: its rows, who stands behind it, why it is withheld."""

    metric: str
    where: dict[str, Any]
    rows: list[int]
    behind: dict[str, float] | None = None
    reasons: list[str] = field(default_factory=list)

    @property
    def records(self) -> float:
        """How many records stand behind it; NaN where that is not known."""
        return self.behind["records"] if self.behind else float("nan")

    @property
    def is_count(self) -> bool:
        """Whether it counts records, so that no contribution is larger than another."""
        return bool(self.behind) and not np.isfinite((self.behind or {}).get("largest", np.nan))

    @property
    def table(self) -> str:
        """Metric and factors, as `--exception` names the table."""
        return self.metric + (f" by {', '.join(self.where)}" if self.where else "")


@dataclass(frozen=True)
class Verdict:
    """What the rules say of one table.

    verdict  "pass", "fail" (the cells of `withheld` stay) or "review" (all of it stays)
    why      in words, for a checker
    """

    table: str
    verdict: str
    cells: int
    withheld: int
    why: str


def cell_reasons(behind: Mapping[str, float], rules: Rules) -> list[str]:
    """The rules that a cell breaks, by ACRO's names; "negative" where dominance has no meaning."""
    fewest = np.fmin(behind["records"], behind.get("differs", np.nan))
    reasons = ["threshold"] * bool(fewest < rules.threshold)
    total, largest, second = (behind.get(k, np.nan) for k in ("total", "largest", "second"))
    if not np.isfinite(largest):  # a count
        return reasons
    if behind.get("negative", 0) > 0:
        return [*reasons, "negative"]
    rest = total - largest - second
    reasons += ["p-ratio"] * bool(largest > 0 and rest / largest < rules.p_ratio)
    return reasons + ["nk-rule"] * bool(total > 0 and (largest + second) / total >= rules.nk_k)


def cells(rows: pd.DataFrame, behind: pd.DataFrame | None) -> list[OutputCell]:
    """The cells of all tables of a run; rows that differ in their replicate alone are one cell."""
    factors = [str(c) for c in rows.columns if c not in NUMBERS]
    grouped: dict[tuple[Any, ...], OutputCell] = {}
    for i, row in enumerate(rows.to_dict("records")):
        where = _setting(row, factors)
        key = (row["metric"], *where.items())
        grouped.setdefault(key, OutputCell(str(row["metric"]), where, [])).rows.append(i)
    for entry in [] if behind is None else behind.to_dict("records"):
        key = (entry["metric"], *_setting(entry, factors).items())
        known = {k: float(entry[k]) for k in BEHIND if k in entry}
        known["records"] = float(entry.get("units", entry["records"]))
        cell = grouped.get(key)
        if cell and (cell.behind is None or known["records"] < cell.records):
            cell.behind = known
    return list(grouped.values())


def _setting(row: Mapping[Any, Any], factors: Sequence[str]) -> dict[str, Any]:
    """The factors that a row names; `x_column` and `x_label` together are one: column -> label."""
    where = {f: row[f] for f in factors if f in row and row[f] != "" and row[f] == row[f]}
    for side in [f.removesuffix("_column") for f in where if f.endswith("_column")]:
        if f"{side}_label" in where:
            where[f"{side}:{where.pop(f'{side}_column')}"] = where.pop(f"{side}_label")
    return where


def protect(every: Sequence[OutputCell], rules: Rules) -> None:
    """Give each cell that must stay its reasons: the rules, then what would give such a cell away.

    A cell that was withheld, and a difference of fewer than `threshold` records between two
    groups, must not be a linear combination of what is released: of the same metric, or of any
    count, across tables (across every two of them, where all together are too many cells). The
    smallest cell that takes part is withheld until none is.
    """
    alike: dict[str, list[OutputCell]] = {}
    for cell in every:
        if cell.behind and cell.records < NOBODY:
            cell.reasons += cell_reasons(cell.behind, rules)
            alike.setdefault("" if cell.is_count else cell.metric, []).append(cell)
    for known in alike.values():
        lines = _atoms(known)
        if lines is not None:
            _against_differences(known, lines, rules)
            continue
        tables: dict[tuple[str, ...], list[OutputCell]] = {}
        for cell in known:
            tables.setdefault(tuple(cell.where), []).append(cell)
        for pair in itertools.combinations_with_replacement(tables.values(), 2):
            both = pair[0] + pair[1] * (pair[0] is not pair[1])
            lines = _atoms(both)
            if lines is not None:
                _against_differences(both, lines, rules)
            else:
                for cell in both:
                    cell.reasons.append("too many cells for the check of differences")


def _against_differences(known: list[OutputCell], lines: np.ndarray, rules: Rules) -> None:
    targets = [(line, c) for line, c in zip(lines, known, strict=True) if c.reasons]
    for (a, small), (b, large) in itertools.permutations(zip(lines, known, strict=True), 2):
        inside = large.where.items() < small.where.items()
        if inside and 0 < large.records - small.records < rules.threshold:
            targets.append((b - a, small))
    for target, about in targets:
        while True:
            shown = [i for i, c in enumerate(known) if not c.reasons]
            used = _combination(lines[shown], target)
            if not used:
                break
            least = min((known[shown[i]] for i in used), key=lambda c: (c.records, len(c.where)))
            least.reasons.append(f"differencing ({_words(about)} could be worked out)")


def _words(cell: OutputCell) -> str:
    return ", ".join(f"{k}={v}" for k, v in cell.where.items()) or "the total"


def _atoms(known: Sequence[OutputCell]) -> np.ndarray | None:
    """Each cell as a 0/1 line over the finest groups; None where there are too many.

    A factor has a level for everybody else where its printed levels do not add up to their whole.
    """
    names = list(dict.fromkeys(name for c in known for name in c.where))
    by_where: dict[frozenset[Any], float] = {}
    for c in known:
        here = frozenset(c.where.items())
        by_where[here] = min(c.records, by_where.get(here, np.inf))
    levels: list[list[Any]] = []
    for name in names:
        levels.append(list(dict.fromkeys(c.where[name] for c in known if name in c.where)))
        inside: dict[frozenset[Any], float] = {}
        for c in known:
            if name in c.where:
                whole = frozenset(item for item in c.where.items() if item[0] != name)
                inside[whole] = inside.get(whole, 0.0) + c.records
        wholes = [(by_where[w], n) for w, n in inside.items() if w in by_where]
        if any(whole > parts for whole, parts in wholes):
            levels[-1].append(_OTHER)
    if np.prod([len(level) for level in levels], initial=1.0) > MOST_ATOMS:
        return None
    atoms = list(itertools.product(*levels))
    at = {name: i for i, name in enumerate(names)}
    lines = [[all(atom[at[k]] == v for k, v in c.where.items()) for atom in atoms] for c in known]
    return np.array(lines, dtype=float)


def _combination(lines: np.ndarray, target: np.ndarray) -> list[int]:
    """Which lines, added and subtracted, give the target; empty where none do."""
    if not len(lines):
        return []
    weights, *_ = np.linalg.lstsq(lines.T, target, rcond=None)
    if np.abs(lines.T @ weights - target).max() > 1e-8:
        return []
    return [int(i) for i in np.flatnonzero(np.abs(weights) > 1e-8)]


def judge(
    every: Sequence[OutputCell], *, personal: bool, exceptions: Mapping[str, str]
) -> list[Verdict]:
    """One verdict a table. `personal`: real or own records were read; `exceptions`: table -> reason
    of the checker, which lets a table out whose records are not known, never a cell that fails.
    """
    verdicts = []
    for table in dict.fromkeys(c.table for c in every):
        mine = [c for c in every if c.table == table]
        failing = [c for c in mine if c.reasons]
        unknown = personal and any(c.behind is None for c in mine)
        kinds = sorted({r.split(" (")[0] for c in failing for r in c.reasons})
        verdict, why, stay = PASS, "all rules hold", len(failing)
        if not personal and all(c.behind is None for c in mine):
            why = "no record of a person or firm was read"
        elif all(c.records == NOBODY for c in mine):
            why = "no record of a person or firm stands behind it, as the study declares"
        if failing:
            verdict, why = FAIL, ", ".join(kinds)
        if unknown and table in exceptions:
            failed = f"; {why}" if failing else ""
            why = f"{EXCEPTION}: {exceptions[table]}{failed}; not checked{UNKNOWN}"
        elif unknown:
            verdict, stay = REVIEW, len(mine)
            why = f"context: not checked{UNKNOWN}"
            for cell in mine:
                cell.reasons.append("context")
        verdicts.append(Verdict(table, verdict, len(mine), stay, why))
    return verdicts


def released(rows: pd.DataFrame, every: Sequence[OutputCell], rules: Rules) -> pd.DataFrame:
    """The rows that may leave; counts of records rounded to the base of the rules."""
    keep = sorted(i for c in every if not c.reasons for i in c.rows)
    out = rows.copy()
    for c in every:
        if c.is_count and (rows["value"].iloc[c.rows] == c.records).all():
            places = out.index[c.rows]
            out.loc[places, "value"] = round(c.records / rules.round_base) * rules.round_base
    return out.iloc[keep].reset_index(drop=True)
