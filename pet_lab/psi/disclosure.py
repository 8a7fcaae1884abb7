"""Output checks: what a linker does before anything leaves it.

A count below `min_cell` is withheld, and so are other cells until no data holder can work it out
from everything released so far **and from its own file**: each data holder knows which of its rows
are in the intersection, so it knows the margin over its own columns. Instead of this, discrete
Laplace noise with a stated budget. Every query is logged.

Row tags differ from session to session, so no audit reaches across them: exact answers leave one
session of a pair of parties (`exact_sessions`), or the same files without one person would tell
that person by the difference. Exact totals of large groups only go to the owner of the values, who
could find the subset of its own values that adds up to a small one.

Not covered: a cell that holds all of a group tells the attribute of everyone in it, however large
the group; totals can be dominated by one unit, which a linker that sees only shares cannot check.
"""

from __future__ import annotations

import datetime
import functools
import logging
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from pet_lab import checks
from pet_lab.files import write_atomic
from pet_lab.parties.state import kept

from .protocol import PsiError, ensure

MAX_CELLS = 4096
AUDIT_CPU_S = 10.0
log = logging.getLogger(__name__)
Counts = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class AuditTooLong(PsiError):
    """A table whose check takes too long: refused, and not tried again."""


@dataclass(frozen=True, kw_only=True)
class OutputRules:
    """What a linker allows out.

    min_cell           counts from 1 to min_cell - 1 are withheld; 0 or 1 switches this off
    complementary      withhold further cells so that the first cannot be worked out
    epsilon_per_query  discrete Laplace noise of scale 1/epsilon on every cell; None = no noise
    epsilon_total      budget of all queries of all sessions together
    value_bound        largest absolute value of one row, for noise on totals; owners clip to it
    owner_total_min    smallest group whose exact total is told to the owner of the values; 0 = all
    exact_sessions     sessions from which answers without noise leave
    """

    min_cell: int = 10
    complementary: bool = True
    epsilon_per_query: float | None = None
    epsilon_total: float = 1.0
    value_bound: int | None = None
    owner_total_min: int = 1000
    exact_sessions: int = 1

    def __post_init__(self) -> None:
        checks.whole(0, min_cell=self.min_cell, hint="0 switches the check off")
        checks.whole(0, owner_total_min=self.owner_total_min)
        checks.whole(1, exact_sessions=self.exact_sessions)
        if self.epsilon_per_query is not None:
            checks.positive(epsilon_per_query=self.epsilon_per_query)
            checks.between(0, self.epsilon_total, epsilon_per_query=self.epsilon_per_query)


@dataclass(frozen=True)
class Released:
    """One answer that left: the axes of its table, the counts, and which cells were shown."""

    axes: tuple[str, ...]
    counts: Counts
    shown: Mask


def protect(
    counts: Counts,
    axes: Sequence[str],
    *,
    rules: OutputRules,
    full: Counts,
    full_axes: Sequence[str],
    earlier: Sequence[Released] = (),
) -> Mask:
    """Which cells of a table, one axis for each column "party:column", may be shown.

    `full` counts the same rows by every column of this table and of earlier answers. A withheld
    cell has, for each party, a feasible interval at least min(min_cell, what that party's own
    margin leaves open) wide.

    Cells are added greedily, smallest first, and taken back where they prove unnecessary: safe, not
    the smallest possible set. Feasibility is over real numbers; for tables of two ways that is also
    feasibility over whole numbers.
    """
    small = _small(counts, rules)
    hidden = small.copy()
    # A margin without a small cell can still give away a small cell of an earlier table.
    at_stake = small.any() or any((_small(e.counts, rules) & ~e.shown).any() for e in earlier)
    if not rules.complementary or not at_stake:
        return ~hidden
    ensure(
        full.size <= MAX_CELLS,
        f"The check against working out a withheld cell covers {MAX_CELLS} cells, here are "
        f"{full.size}; group by fewer columns.",
    )
    give_up = time.thread_time() + AUDIT_CPU_S

    def exposed(mask: Mask) -> bool:
        answer = Released(tuple(axes), counts, ~mask)
        return _exposed([*earlier, answer], full, list(full_axes), rules, give_up)

    by_size = sorted(np.ndindex(counts.shape), key=lambda i: int(counts[i]))
    order = [i for i in by_size if counts[i] and not small[i]]
    order += [i for i in by_size if not counts[i]]  # last: an empty cell hides little
    added = []
    for cell in order:
        if not exposed(hidden):
            break
        hidden[cell] = True
        added.append(cell)
    if not exposed(hidden):
        for cell in reversed(added[:-1]):
            hidden[cell] = False
            if exposed(hidden):
                hidden[cell] = True
    return ~hidden


def _small(counts: Counts, rules: OutputRules) -> Mask:
    small: Mask = (counts > 0) & (counts < rules.min_cell)
    return small


def _exposed(
    released: Sequence[Released],
    full: Counts,
    full_axes: list[str],
    rules: OutputRules,
    give_up: float,
) -> bool:
    """Whether a party can pin a withheld small cell down too closely, by linear programmes."""
    from scipy.optimize import linprog

    everything = full.ravel()
    place = np.indices(full.shape).reshape(full.ndim, -1)

    def sums(axes: Sequence[str]) -> npt.NDArray[np.float64]:
        """Matrix of shape (cells of the margin over these axes, cells of the full table)."""
        at = [full_axes.index(a) for a in axes]
        shape = [full.shape[i] for i in at]
        cell = np.ravel_multi_index(tuple(place[at]), shape) if at else np.zeros(full.size, int)
        return (np.arange(math.prod(shape))[:, None] == cell).astype(float)

    small = [(_small(r.counts, rules) & ~r.shown).ravel() for r in released]
    targets = np.concatenate([sums(r.axes)[rows] for r, rows in zip(released, small, strict=True)])
    shown = [sums(r.axes)[r.shown.ravel()] for r in released]
    for party in sorted({a.split(":")[0] for a in full_axes}):
        own = sums([a for a in full_axes if a.split(":")[0] == party])
        matrix = np.concatenate([own, *shown])
        for target in targets:
            if time.thread_time() > give_up:
                raise AuditTooLong(
                    "The check against working out a withheld cell takes longer than "
                    f"{AUDIT_CPU_S:g} s for this table; group by fewer columns or labels."
                )
            # No interval can be wider than the party's own margin around the cell.
            reach = sum(float(line @ everything) for line in own if (line * target).any())
            low, high = (
                linprog(sign * target, A_eq=matrix, b_eq=matrix @ everything, method="highs")
                for sign in (1, -1)
            )
            if -high.fun - low.fun < min(rules.min_cell, reach) - 1e-6:
                return True
    return False


@dataclass(frozen=True)
class QueryEntry:
    """One query as the log keeps it: never a value, only what was asked and what was allowed."""

    time: str
    party: str
    session: str
    query: dict[str, Any]
    state: str
    cells: int = 0
    withheld: int = 0
    epsilon: Annotated[float, msgspec.Meta(ge=0)] = 0.0


@dataclass
class QueryLog:
    """All queries, also the refused ones; appended to a file as JSON lines if a path is given."""

    path: Path | None = None
    entries: list[QueryEntry] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path) -> QueryLog:
        """Read a log that exists, so that a restarted linker still knows what was spent.

        A last line without its end was being written when the linker stopped; its answer had not
        left. It is removed, with a warning. Any other line that is damaged is a PsiError.
        """
        entries: list[QueryEntry] = []
        content = kept(path, bytes, what="a query log") if path.exists() else b""
        *lines, torn = content.split(b"\n")
        for i, line in enumerate(lines):
            try:
                entries.append(msgspec.json.decode(line, type=QueryEntry))
            except (ValueError, RecursionError):
                raise PsiError(
                    f"Line {i + 1} of the query log is damaged; restore it from a copy."
                ) from None
        if torn:
            write_atomic(path, b"".join(line + b"\n" for line in lines), secret=True)
            log.warning(
                "Line %d of the query log was cut off when the linker stopped; it is removed.",
                len(lines) + 1,
            )
        return cls(path, entries)

    def add(self, party: str, session: str, query: dict[str, Any], state: str, **more: Any) -> None:
        """Append one query, and write it to the file if there is one."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        entry = QueryEntry(now, party, session, query, state, **more)
        self.entries.append(entry)
        if self.path is not None:
            with open(self.path, "ab", opener=functools.partial(os.open, mode=0o600)) as file:
                file.write(msgspec.json.encode(entry) + b"\n")
                file.flush()
                os.fsync(file.fileno())  # on disk before the answer leaves

    def spent(self) -> float:
        """Epsilon of all answered queries, by simple composition."""
        return sum(e.epsilon for e in self.entries)

    def answered(self, *, exactly: bool = False) -> set[str]:
        """Sessions (hexadecimal) that were answered, or only those answered without noise."""
        noisy = {e.session for e in self.entries if exactly and e.epsilon}
        return {e.session for e in self.entries if e.state == "answered"} - noisy
