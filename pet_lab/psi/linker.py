"""The linker: matches row tags of two uploads, counts tokens, sums shares, checks what leaves.

It holds no key: it sees how many rows there are, which rows agree in which column, and the shape of
the queries. It serves exactly two parties.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from pet_lab.noise import discrete_laplace
from pet_lab.shares import ring_join

from .disclosure import (
    MAX_CELLS,
    AuditTooLong,
    Counts,
    OutputRules,
    QueryLog,
    Released,
    protect,
)
from .elements import strings
from .messages import SessionId
from .protocol import Bytes2D, PsiError, PsiOutcome
from .tokens import TOKEN_WIDTH, ColumnCipher, TokenTable

if TYPE_CHECKING:
    import pandas as pd  # loaded where it is used: a linker never needs it

MAX_PAIRS = 50_000_000
MAX_SESSIONS = 64
MAX_WAITING = 8
ColumnOf = Annotated[str, Meta(max_length=130, pattern="^[^:\n]*:[^:\n]*\\Z")]
Token = Annotated[bytes, Meta(min_length=TOKEN_WIDTH, max_length=TOKEN_WIDTH)]


class Query(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="query"):
    """A table to count or to total.

    group_by  columns as "party:column"
    measure   "count" of linked pairs, or "total" of the shares of `value`
    """

    session: SessionId
    group_by: Annotated[tuple[ColumnOf, ...], Meta(min_length=1, max_length=8)]
    measure: Literal["count", "total"] = "count"
    value: ColumnOf | None = None

    def __post_init__(self) -> None:
        if len(set(self.group_by)) != len(self.group_by):
            raise ValueError("A query names a column twice")
        if (self.measure == "total") != (self.value is not None):
            raise ValueError("A total names its value column; a count names none")


class LinkerAnswer(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="answer"
):
    """A table that passed the output checks; the labels are still tokens.

    values   one whole number a cell, None where withheld; for a total, this linker's share
    epsilon  what this answer cost; 0 without noise
    """

    query: Query
    labels: tuple[Annotated[tuple[Token, ...], Meta(max_length=MAX_CELLS)], ...]
    values: Annotated[tuple[int | None, ...], Meta(max_length=MAX_CELLS)]
    epsilon: Annotated[float, Meta(ge=0, lt=1e6)]

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.query.group_by):
            raise ValueError("An answer has one list of labels for each column")
        size = int(np.prod([len(axis) for axis in self.labels], dtype=object))
        if len(self.values) != size:
            raise ValueError(f"An answer has one value for each of its {size} cells")
        if any(v is not None and not -(1 << 63) <= v < 1 << 64 for v in self.values):
            raise ValueError("A value of an answer has at most 64 bits")

    def __repr__(self) -> str:
        return (
            f"LinkerAnswer(query={self.query}, {len(self.values)} cells, epsilon={self.epsilon:g})"
        )

    def table(self, link_key: bytes) -> pd.DataFrame:
        """Decrypt the labels: one row a cell, columns `group_by` and the measure.

        Withheld cells are <NA>. Column names lose their party where that is not ambiguous.

        Raises
        ------
        MessageError
            If a label was not made with this key.
        """
        import pandas as pd

        cipher, measure = ColumnCipher(link_key), self.query.measure
        axes = []
        for name, tokens in zip(self.query.group_by, self.labels, strict=True):
            party, column = name.split(":")
            axes.append([cipher.decrypt(t, party=party, column=column) for t in tokens])
        bare = [name.split(":")[1] for name in self.query.group_by]
        names = [
            b if bare.count(b) == 1 else name
            for b, name in zip(bare, self.query.group_by, strict=True)
        ]
        cells = pd.MultiIndex.from_product(axes, names=names)
        table = pd.DataFrame({measure: pd.array(list(self.values), dtype="object")}, index=cells)
        table[measure] = table[measure].where(table[measure].notna(), pd.NA)
        if measure == "count":
            table[measure] = table[measure].astype("Int64")
        return table.reset_index().sort_values(names, ignore_index=True)


@dataclass
class _Linked:
    """Two uploads of a session, joined."""

    tables: dict[str, TokenTable]
    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    released: list[Released] = field(default_factory=list)
    remembered: dict[Query, LinkerAnswer] = field(default_factory=dict)
    too_long: dict[frozenset[str], AuditTooLong] = field(default_factory=dict)

    @property
    def part(self) -> int:
        """Which linker of the session this one is; both parties say the same."""
        return next(iter(self.tables.values())).part


class Linker:
    """Accepts tables from two named parties and answers their queries.

    Parameters
    ----------
    parties : the two identities; everyone else is refused
    rules : the output checks
    log : the query log; a fresh one in memory if not given. It is the history of releases across
        sessions and restarts

    Notes
    -----
    Where totals are shared between linkers, the tables say which linker is the first. It alone
    counts, so that no party asks one linker for a table and another for its margin, and it alone
    adds noise.
    """

    def __init__(
        self,
        parties: tuple[str, str],
        *,
        rules: OutputRules | None = None,
        log: QueryLog | None = None,
    ) -> None:
        if len(set(parties)) != 2:
            raise PsiError(f"A linker serves two different parties, got {parties}.")
        self.parties = parties
        self.rules = rules or OutputRules()
        self.log = log or QueryLog()
        self._waiting: dict[bytes, dict[str, TokenTable]] = {}
        self._linked: dict[bytes, _Linked] = {}
        self._lock = threading.Lock()

    def check_sender(self, sender: str) -> None:
        """Refuse whoever is not one of the two parties."""
        if sender not in self.parties:
            raise PsiError(f"This linker serves {self.parties[0]} and {self.parties[1]} only.")

    def accept(self, table: TokenTable, sender: str) -> int:
        """Take an upload; returns the number of linked pairs once both are here, else -1.

        Raises
        ------
        PsiError
            Wrong sender, a table in another's name or for another linker, a second table for a
            session, a session that was answered and is no longer held.

        Notes
        -----
        A party has at most 8 tables that wait for the other's, and 64 sessions are held: the oldest
        makes room, so no party can fill the linker.
        """
        self.check_sender(sender)
        if table.party != sender or table.peer not in self.parties or table.peer == sender:
            raise PsiError(
                f"A table from {sender} must be in its own name and name the other party."
            )
        with self._lock:
            name = table.session
            here = self._waiting.get(name, {})
            if name in self._linked or sender in here:
                raise PsiError(f"{sender} has already sent its table for this session.")
            if name.hex() in self.log.answered():
                raise PsiError(
                    "This session was answered before the linker restarted or made room, and what "
                    "was released is no longer known in full; it cannot be sent again."
                )
            if any(other.part != table.part for other in here.values()):
                raise PsiError("The parties name the linkers of this session in another order.")
            if not here:
                mine = [n for n, tables in self._waiting.items() if sender in tables]
                for oldest in mine[: max(0, len(mine) + 1 - MAX_WAITING)]:
                    del self._waiting[oldest]
                self._waiting[name] = {sender: table}
                return -1
            both = {**here, sender: table}
            left, right = join(*(both[p] for p in self.parties))
            del self._waiting[name]
            for oldest in list(self._linked)[: max(0, len(self._linked) + 1 - MAX_SESSIONS)]:
                del self._linked[oldest]
            self._linked[name] = _Linked(both, left, right)
            return len(left)

    def is_linked(self, session: bytes) -> bool:
        """True once both tables of a session are here."""
        with self._lock:
            return session in self._linked

    def answer(self, query: Query, sender: str) -> LinkerAnswer:
        """LinkerAnswer a query of one of the parties, or refuse it; both are logged."""
        self.check_sender(sender)
        asked = msgspec.to_builtins(query)
        session = query.session.hex()
        with self._lock:
            try:
                known = query in self._remembered(query.session)
                answer = self._answer(query, sender)
            except PsiError as error:
                self.log.add(sender, session, asked, f"refused: {error}")
                raise
            self.log.add(
                sender,
                session,
                asked,
                "answered",
                cells=len(answer.values),
                withheld=answer.values.count(None),
                epsilon=0.0 if known else answer.epsilon,
            )
            return answer

    def _remembered(self, session: bytes) -> dict[Query, LinkerAnswer]:
        linked = self._linked.get(session)
        return {} if linked is None else linked.remembered

    def _answer(self, query: Query, sender: str) -> LinkerAnswer:
        linked = self._linked.get(query.session)
        if linked is None:
            missing = [p for p in self.parties if p not in self._waiting.get(query.session, {})]
            raise PsiError(
                f"No table of {' and '.join(missing)} is here for this session; send it."
            )
        if linked.part and query.measure == "count":
            raise PsiError("Counts come from the first linker of a session; this one has shares.")
        axes = [self._axis(linked, name) for name in query.group_by]
        counts = _cross(axes)
        values: npt.NDArray[Any] = counts
        if query.value is not None:
            values = self._totals(linked, query.value, axes)
        if self.rules.epsilon_per_query is None:
            self._check_exact(query, counts, sender)
        if query in linked.remembered:  # the same noise again: averaging gains nothing
            return linked.remembered[query]
        noise = self.rules.epsilon_per_query
        epsilon = 0.0
        if noise is not None:
            shown, values, epsilon = self._noisy(linked, counts, values, query)
        else:
            shown = self._protected(linked, query, counts)
        flat = zip(values.ravel().tolist(), shown.ravel().tolist(), strict=True)
        answer = LinkerAnswer(
            query=query,
            labels=tuple(tuple(t.tobytes() for t in tokens) for _, tokens in axes),
            values=tuple(int(v) if ok else None for v, ok in flat),
            epsilon=epsilon,
        )
        linked.remembered[query] = answer
        return answer

    def _check_exact(self, query: Query, counts: Counts, sender: str) -> None:
        """Refuse what exact answers would give away beyond this session and this table."""
        others = self.log.answered(exactly=True) - {query.session.hex()}
        if len(others) >= self.rules.exact_sessions:
            raise PsiError(
                f"Exact answers of {len(others)} other session(s) have left this linker, and two "
                "sessions of nearly the same files tell their difference; ask with noise."
            )
        least = self.rules.owner_total_min
        owned = query.value is not None and query.value.split(":")[0] == sender
        if owned and ((counts > 0) & (counts < least)).any():
            raise PsiError(
                f"The owner of {query.value} gets exact totals of groups of at least {least}: it "
                "could tell who is in a smaller one; ask with noise or by larger groups."
            )

    def _axis(self, linked: _Linked, name: str) -> tuple[npt.NDArray[np.int64], Bytes2D]:
        """The code of each linked pair in one column, and the tokens that codes stand for."""
        party, column = name.split(":")
        table = linked.tables.get(party)
        if table is None or column not in table.codes:
            raise PsiError(f"There is no column {name!r} here; ask {party} what it sent.")
        pairs = linked.left if party == self.parties[0] else linked.right
        return table.codes[column].astype(np.int64)[pairs], table.labels[column]

    def _totals(self, linked: _Linked, name: str, axes: list[Any]) -> npt.NDArray[np.uint64]:
        party, column = name.split(":")
        table = linked.tables.get(party)
        if table is None or column not in table.shares:
            raise PsiError(f"There is no value column {name!r} here; ask {party} what it sent.")
        pairs = linked.left if party == self.parties[0] else linked.right
        shape = [len(tokens) for _, tokens in axes]
        totals = np.zeros(int(np.prod(shape)), dtype=np.uint64)
        np.add.at(totals, _cell_of(axes), table.shares[column][pairs])  # wraps modulo 2^64
        return totals.reshape(shape)

    def _protected(self, linked: _Linked, query: Query, counts: Counts) -> Any:
        names = list(query.group_by)
        for released in linked.released:
            names += [a for a in released.axes if a not in names]
        axes = [self._axis(linked, name) for name in names]
        size = int(np.prod([len(tokens) for _, tokens in axes]))
        needs_full = self.rules.complementary and self.rules.min_cell > 1
        full = _cross(axes) if needs_full and size <= MAX_CELLS else np.zeros(size, dtype=np.int64)
        asked = frozenset(query.group_by)
        if asked in linked.too_long:  # more has left since, so the check is no shorter
            raise linked.too_long[asked]
        try:
            shown = protect(
                counts,
                query.group_by,
                rules=self.rules,
                full=full,
                full_axes=names,
                owners=[n.split(":")[0] for n in names],
                earlier=linked.released,
            )
        except AuditTooLong as error:
            linked.too_long[asked] = error
            raise
        linked.released.append(Released(query.group_by, counts, shown))
        return shown

    def _noisy(self, linked: _Linked, counts: Counts, values: Any, query: Query) -> Any:
        epsilon = float(self.rules.epsilon_per_query or 0)
        if self.log.spent() + epsilon > self.rules.epsilon_total + 1e-12:
            raise PsiError(
                f"The budget of epsilon {self.rules.epsilon_total:g} is spent ("
                f"{self.log.spent():g}); no further query is answered."
            )
        for party, column in (name.split(":") for name in query.group_by):
            if column not in linked.tables[party].public:
                raise PsiError(
                    f"With noise the labels of {party}:{column} must be a public list, because one "
                    "that one person has would show; its owner sends it with --label."
                )
        for pairs in (linked.left, linked.right):
            if len(np.unique(pairs)) != len(pairs):
                raise PsiError("Noise is calibrated to keys that are unique; these repeat.")
        budget = Fraction(epsilon)  # exactly what is charged
        bound = 1
        if query.measure == "total":
            if self.rules.value_bound is None:
                raise PsiError(
                    "Noise on totals needs a bound on one row's value; the linker has none."
                )
            bound = self.rules.value_bound
            party, column = str(query.value).split(":")
            if (linked.tables[party].bound or bound + 1) > bound:
                raise PsiError(
                    f"Noise is made for values up to {bound}, and {party} did not clip {column} "
                    "to that; it sends them with --value-bound."
                )
            budget /= 2  # half for the counts that decide what is shown
        noisy_counts = np.array(
            [int(c) + discrete_laplace(1 / budget) for c in counts.ravel()], dtype=np.int64
        ).reshape(counts.shape)
        shown = noisy_counts >= self.rules.min_cell
        if query.measure == "count":
            return shown | (self.rules.min_cell <= 1), noisy_counts, epsilon
        if linked.part:
            return np.ones_like(shown), values, epsilon
        noise = [discrete_laplace(Fraction(bound) / budget) % (1 << 64) for _ in range(values.size)]
        return shown, values + np.array(noise, dtype=np.uint64).reshape(values.shape), epsilon

    def held(self, session: bytes) -> dict[str, TokenTable]:
        """The tables of a session that are here, by party: all that a linker knows of it.

        Raises
        ------
        PsiError
            If nothing of that session is here.
        """
        linked = self._linked.get(session)
        tables = linked.tables if linked is not None else self._waiting.get(session)
        if tables is None:
            raise PsiError("No table of this session is here; send it.")
        return dict(tables)


def join(a: TokenTable, b: TokenTable) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """All pairs of rows with equal tags: m rows with n rows of one tag are m * n pairs.

    Raises
    ------
    PsiError
        If there were more than 50 million pairs: the key is too coarse to link on.
    """
    _, code = np.unique(strings(np.concatenate([a.tags, b.tags])), return_inverse=True)
    left, right = code[: len(a)], code[len(a) :]
    if not len(left) or not len(right):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    order = np.argsort(right, kind="stable")
    starts = np.searchsorted(right[order], left, side="left")
    many = np.searchsorted(right[order], left, side="right") - starts
    total = int(many.sum())
    if total > MAX_PAIRS:
        raise PsiError(f"These keys link {total} pairs, more than {MAX_PAIRS}; use a finer key.")
    offsets = np.arange(total) - np.repeat(np.cumsum(many) - many, many)
    return np.repeat(np.arange(len(a)), many), order[np.repeat(starts, many) + offsets]


def _cell_of(axes: list[Any]) -> npt.NDArray[np.int64]:
    shape = tuple(len(tokens) for _, tokens in axes)
    if not len(axes[0][0]):
        return np.empty(0, dtype=np.int64)
    cells: npt.NDArray[np.int64] = np.ravel_multi_index([code for code, _ in axes], shape)
    return cells


def _cross(axes: list[Any]) -> Counts:
    shape = [len(tokens) for _, tokens in axes]
    size = int(np.prod(shape))
    if size > MAX_CELLS:
        raise PsiError(
            f"An answer has at most {MAX_CELLS} cells, this one {size}; use fewer columns."
        )
    return np.bincount(_cell_of(axes), minlength=size).reshape(shape).astype(np.int64)


def combine_totals(answers: Sequence[LinkerAnswer], outcome: PsiOutcome) -> pd.DataFrame:
    """Add the shares of all linkers: the exact totals, as whole numbers.

    Raises
    ------
    PsiError
        If the answers are not to one query, or the linkers hold different tables.
    """
    first = answers[0]
    if any(a.query != first.query or a.labels != first.labels for a in answers):
        raise PsiError("The linkers answered different queries or hold different tables.")
    totals = [
        None
        if None in shares
        else int(ring_join(np.array([v % (1 << 64) for v in shares], dtype=np.uint64)))
        for shares in zip(*(a.values for a in answers), strict=True)
    ]
    summed = msgspec.structs.replace(first, values=tuple(totals))
    return summed.table(outcome.link_key)


def agreement(linker: Linker, session: bytes, party: str, *, join: str) -> pd.DataFrame:
    """Neighbours by the key of the session and, among them, by a further key (`joins`).

    Returns
    -------
    DataFrame with one row for each uploaded row of `party`: n_blocked, n_linked, and block, a
    number that rows of one key share. It stays with the linker, which fits an error model to it.
    """
    import pandas as pd

    linked = linker._linked[session]
    first, second = (linked.tables[p] for p in linker.parties)
    for table in (first, second):
        if join not in table.codes:
            raise PsiError(f"{table.party} sent no join named {join!r}.")
    a, b = (
        t.labels[join][t.codes[join][rows].astype(np.int64)]
        for t, rows in ((first, linked.left), (second, linked.right))
    )
    agree = (a == b).all(axis=1)
    pairs = linked.left if party == linker.parties[0] else linked.right
    table = linked.tables[party]
    return pd.DataFrame(
        {
            "n_blocked": np.bincount(pairs, minlength=len(table)),
            "n_linked": np.bincount(pairs[agree], minlength=len(table)),
            "block": np.unique(strings(table.tags), return_inverse=True)[1],
        }
    )
