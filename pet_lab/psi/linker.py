"""The linker: matches row tags of two uploads, counts tokens, sums shares, checks what leaves.

It holds no key: it sees how many rows there are, which rows agree in which column, and the shape of
the queries. It serves exactly two parties.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from pet_lab.checks import require
from pet_lab.noise import discrete_laplace
from pet_lab.shares import ring_join

from .disclosure import (
    MAX_CELLS,
    AuditTooLong,
    Counts,
    Mask,
    OutputRules,
    QueryLog,
    Released,
    protect,
)
from .elements import strings
from .messages import SessionId, checked
from .protocol import Bytes2D, PsiError, ensure
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
        require(len(set(self.group_by)) == len(self.group_by), "A query names a column twice")
        named = (self.measure == "total") == (self.value is not None)
        require(named, "A total names its value column; a count names none")

    @classmethod
    def of(cls, session: bytes, by: Sequence[str], total: str | None) -> Query:
        """Totals of `total`, else counts, held to the limits that a linker holds them to."""
        measure = "total" if total else "count"
        return checked(cls, session=session, group_by=by, measure=measure, value=total)


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
        lists = len(self.labels) == len(self.query.group_by)
        require(lists, "An answer has one list of labels for each column")
        size = math.prod(map(len, self.labels))
        require(len(self.values) == size, f"An answer has one value for each of its {size} cells")
        fit = all(v is None or -(1 << 63) <= v < 1 << 64 for v in self.values)
        require(fit, "A value of an answer has at most 64 bits")

    def __repr__(self) -> str:
        cells = len(self.values)
        return f"LinkerAnswer(query={self.query}, {cells} cells, epsilon={self.epsilon:g})"

    def table(self, link_key: bytes) -> pd.DataFrame:
        """Decrypt the labels: one row a cell, columns `group_by` and the measure.

        Withheld cells are <NA>. Column names lose their party where that is not ambiguous. Raises
        MessageError if a label was not made with this key.
        """
        import pandas as pd

        cipher, measure = ColumnCipher(link_key), self.query.measure
        pairs = [name.split(":") for name in self.query.group_by]
        axes = [
            [cipher.decrypt(token, party=party, column=column) for token in tokens]
            for (party, column), tokens in zip(pairs, self.labels, strict=True)
        ]
        bare = [column for _, column in pairs]
        names = [c if bare.count(c) == 1 else f"{party}:{c}" for party, c in pairs]
        cells = pd.MultiIndex.from_product(axes, names=names)
        values = pd.array([pd.NA if v is None else v for v in self.values], dtype="object")
        table = pd.DataFrame({measure: values}, index=cells)
        if measure == "count":
            table[measure] = table[measure].astype("Int64")
        return table.reset_index().sort_values(names, ignore_index=True)


@dataclass
class _Linked:
    """Two uploads of a session, joined: `pairs` holds the rows of each party, pair by pair."""

    tables: dict[str, TokenTable]
    pairs: dict[str, npt.NDArray[np.int64]]
    released: list[Released] = field(default_factory=list)
    remembered: dict[Query, LinkerAnswer] = field(default_factory=dict)
    too_long: dict[frozenset[str], AuditTooLong] = field(default_factory=dict)

    @property
    def part(self) -> int:
        """Which linker of the session this one is; both parties say the same."""
        return next(iter(self.tables.values())).header.part

    def column(self, name: str, kind: Literal["codes", "shares"]) -> npt.NDArray[Any]:
        """The codes or shares of the column "party:column", pair by pair."""
        party, column = name.split(":")
        held = getattr(self.tables[party], kind) if party in self.tables else {}
        value = "value " if kind == "shares" else ""
        unknown = f"There is no {value}column {name!r} here; ask {party} what it sent."
        ensure(column in held, unknown)
        values: npt.NDArray[Any] = held[column][self.pairs[party]]
        return values

    def tokens(self, name: str) -> Bytes2D:
        """The tokens that the codes of "party:column" stand for."""
        party, column = name.split(":")
        return self.tables[party].labels[column]

    def cells(self, names: Sequence[str]) -> tuple[npt.NDArray[np.int64], list[int]]:
        """The cell of each pair in the table by these columns, flat, and the table's shape."""
        codes = [self.column(name, "codes").astype(np.int64) for name in names]
        shape = [len(self.tokens(name)) for name in names]
        size = math.prod(shape)
        many = f"An answer has at most {MAX_CELLS} cells, this one {size}; use fewer columns."
        ensure(size <= MAX_CELLS, many)
        if not len(codes[0]):
            return np.empty(0, dtype=np.int64), shape
        return np.ravel_multi_index(codes, shape), shape

    def counts(self, names: Sequence[str]) -> Counts:
        """Pairs by these columns, one axis each."""
        cells, shape = self.cells(names)
        return np.bincount(cells, minlength=math.prod(shape)).reshape(shape).astype(np.int64)


class Linker:
    """Accepts tables from two named parties and answers their queries; all others are refused.

    The log is the history of releases across sessions and restarts; a fresh one if not given. Where
    totals are shared between linkers, the tables say which linker is the first. It alone counts, so
    that no party asks one linker for a table and another for its margin, and it alone adds noise.
    """

    def __init__(
        self,
        parties: tuple[str, str],
        *,
        rules: OutputRules | None = None,
        log: QueryLog | None = None,
    ) -> None:
        different = f"A linker serves two different parties, got {parties}."
        ensure(len(set(parties)) == 2, different)
        self.parties = parties
        self.rules = rules or OutputRules()
        self.log = log or QueryLog()
        self._waiting: dict[bytes, dict[str, TokenTable]] = {}
        self._linked: dict[bytes, _Linked] = {}
        self._lock = threading.Lock()

    def check_sender(self, sender: str) -> None:
        """Refuse whoever is not one of the two parties."""
        served = f"This linker serves {self.parties[0]} and {self.parties[1]} only."
        ensure(sender in self.parties, served)

    def accept(self, table: TokenTable, sender: str) -> int:
        """Take an upload; returns the number of linked pairs once both are here, else -1.

        A party has at most 8 tables that wait for the other's, and 64 sessions are held: the oldest
        makes room, so no party can fill the linker.

        Raises PsiError: wrong sender, a table in another's name or for another linker, a second
        table for a session, a session that was answered and is no longer held.
        """
        self.check_sender(sender)
        header = table.header
        ensure(
            header.party == sender and {sender, header.peer} == set(self.parties),
            f"A table from {sender} must be in its own name and name the other party.",
        )
        with self._lock:
            name = header.session
            here = self._waiting.get(name, {})
            ensure(
                name not in self._linked and sender not in here,
                f"{sender} has already sent its table for this session.",
            )
            ensure(
                name.hex() not in self.log.answered(),
                "This session was answered before the linker restarted or made room, and what "
                "was released is no longer known in full; it cannot be sent again.",
            )
            ensure(
                all(other.header.part == header.part for other in here.values()),
                "The parties name the linkers of this session in another order.",
            )
            if not here:
                mine = [n for n, tables in self._waiting.items() if sender in tables]
                _make_room(self._waiting, mine, MAX_WAITING)
                self._waiting[name] = {sender: table}
                return -1
            both = {**here, sender: table}
            pairs = join(*(both[p] for p in self.parties))
            del self._waiting[name]
            _make_room(self._linked, list(self._linked), MAX_SESSIONS)
            self._linked[name] = _Linked(both, dict(zip(self.parties, pairs, strict=True)))
            return len(pairs[0])

    def is_linked(self, session: bytes) -> bool:
        """True once both tables of a session are here."""
        with self._lock:
            return session in self._linked

    def held(self, session: bytes) -> dict[str, TokenTable]:
        """The tables of a session that are here, by party: all that a linker knows of it."""
        linked = self._linked.get(session)
        tables = linked.tables if linked is not None else self._waiting.get(session)
        ensure(tables, "No table of this session is here; send it.")
        return dict(tables or {})

    def answer(self, query: Query, sender: str) -> LinkerAnswer:
        """Answer a query of one of the parties, or refuse it; both are logged."""
        self.check_sender(sender)
        asked, session = msgspec.to_builtins(query), query.session.hex()
        with self._lock:
            try:
                answer, cost = self._answer(query, sender)
            except PsiError as error:
                self.log.add(sender, session, asked, f"refused: {error}")
                raise
            cells, withheld = len(answer.values), answer.values.count(None)
            more = {"cells": cells, "withheld": withheld, "epsilon": cost}
            self.log.add(sender, session, asked, "answered", **more)
            # Only now: what could not be charged must not be given for nothing when asked again.
            self._linked[query.session].remembered[query] = answer
            return answer

    def _answer(self, query: Query, sender: str) -> tuple[LinkerAnswer, float]:
        """The answer, and what it costs now: a remembered one is paid for."""
        linked = self._linked.get(query.session)
        if linked is None:
            missing = [p for p in self.parties if p not in self._waiting.get(query.session, {})]
            raise PsiError(
                f"No table of {' and '.join(missing)} is here for this session; send it."
            )
        counts_here = linked.part == 0 or query.measure == "total"
        only_shares = "Counts come from the first linker of a session; this one has shares."
        ensure(counts_here, only_shares)
        values: npt.NDArray[Any] = linked.counts(query.group_by)
        counts: Counts = values
        if query.value is not None:
            values = np.zeros(counts.size, dtype=np.uint64)
            cells, shape = linked.cells(query.group_by)
            np.add.at(values, cells, linked.column(query.value, "shares"))  # wraps modulo 2^64
            values = values.reshape(shape)
        if self.rules.epsilon_per_query is None:
            self._check_exact(query, counts, sender)
        if query in linked.remembered:  # the same noise again: averaging gains nothing
            return linked.remembered[query], 0.0
        epsilon = self.rules.epsilon_per_query or 0.0
        if epsilon:
            shown, values = self._noisy(linked, counts, values, query, epsilon)
        else:
            shown = self._protected(linked, query, counts)
        flat = zip(values.ravel().tolist(), shown.ravel().tolist(), strict=True)
        answer = LinkerAnswer(
            query=query,
            labels=tuple(tuple(t.tobytes() for t in linked.tokens(n)) for n in query.group_by),
            values=tuple(int(v) if ok else None for v, ok in flat),
            epsilon=epsilon,
        )
        return answer, epsilon

    def _check_exact(self, query: Query, counts: Counts, sender: str) -> None:
        """Refuse what exact answers would give away beyond this session and this table."""
        others = self.log.answered(exactly=True) - {query.session.hex()}
        ensure(
            len(others) < self.rules.exact_sessions,
            f"Exact answers of {len(others)} other session(s) have left this linker, and two "
            "sessions of nearly the same files tell their difference; ask with noise.",
        )
        least = self.rules.owner_total_min
        owned = query.value is not None and query.value.split(":")[0] == sender
        ensure(
            not (owned and ((counts > 0) & (counts < least)).any()),
            f"The owner of {query.value} gets exact totals of groups of at least {least}: it "
            "could tell who is in a smaller one; ask with noise or by larger groups.",
        )

    def _protected(self, linked: _Linked, query: Query, counts: Counts) -> Mask:
        asked = frozenset(query.group_by)
        if asked in linked.too_long:  # more has left since, so the check is no shorter
            raise linked.too_long[asked]
        axes = [*query.group_by, *(axis for r in linked.released for axis in r.axes)]
        names = list(dict.fromkeys(axes))
        size = math.prod(len(linked.tokens(name)) for name in names)
        needs_full = self.rules.complementary and self.rules.min_cell > 1 and size <= MAX_CELLS
        full = linked.counts(names) if needs_full else np.zeros(size, dtype=np.int64)
        earlier = linked.released
        try:
            shown = protect(
                counts,
                query.group_by,
                rules=self.rules,
                full=full,
                full_axes=names,
                earlier=earlier,
            )
        except AuditTooLong as error:
            linked.too_long[asked] = error
            raise
        earlier.append(Released(query.group_by, counts, shown))
        return shown

    def _noisy(
        self, linked: _Linked, counts: Counts, values: Any, query: Query, epsilon: float
    ) -> tuple[Mask, Any]:
        rules, spent = self.rules, self.log.spent()
        ensure(
            spent + epsilon <= rules.epsilon_total + 1e-12,
            f"The budget of epsilon {rules.epsilon_total:g} is spent ({spent:g}); no further query "
            "is answered.",
        )
        for party, column in (name.split(":") for name in query.group_by):
            ensure(
                column in linked.tables[party].header.public,
                f"With noise the labels of {party}:{column} must be a public list, because one "
                "that one person has would show; its owner sends it with --label.",
            )
        unique = all(len(np.unique(rows)) == len(rows) for rows in linked.pairs.values())
        ensure(unique, "Noise is calibrated to keys that are unique; these repeat.")
        budget = Fraction(epsilon)  # exactly what is charged
        bound = 1
        if query.value is not None:
            if rules.value_bound is None:
                raise PsiError(
                    "Noise on totals needs a bound on one row's value; the linker has none."
                )
            bound = rules.value_bound
            party, column = query.value.split(":")
            ensure(
                (linked.tables[party].header.bound or bound + 1) <= bound,
                f"Noise is made for values up to {bound}, and {party} did not clip {column} "
                "to that; it sends them with --value-bound.",
            )
            budget /= 2  # half for the counts that decide what is shown
        drawn = [discrete_laplace(1 / budget) for _ in range(counts.size)]
        noisy_counts = counts + np.array(drawn, dtype=np.int64).reshape(counts.shape)
        shown = noisy_counts >= rules.min_cell
        if query.value is None:
            return shown | (rules.min_cell <= 1), noisy_counts
        if linked.part:
            return np.ones_like(shown), values
        noise = [discrete_laplace(Fraction(bound) / budget) % (1 << 64) for _ in range(values.size)]
        return shown, values + np.array(noise, dtype=np.uint64).reshape(values.shape)


def _make_room(sessions: dict[bytes, Any], oldest_first: list[bytes], most: int) -> None:
    for name in oldest_first[: max(0, len(oldest_first) + 1 - most)]:
        del sessions[name]


def join(a: TokenTable, b: TokenTable) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """All pairs of rows with equal tags: m rows with n rows of one tag are m * n pairs.

    Raises PsiError if there were more than 50 million pairs: the key is too coarse to link on.
    """
    _, code = np.unique(strings(np.concatenate([a.tags, b.tags])), return_inverse=True)
    left, right = code[: len(a)], code[len(a) :]
    if not len(left) or not len(right):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    order = np.argsort(right, kind="stable")
    starts = np.searchsorted(right[order], left, side="left")
    many = np.searchsorted(right[order], left, side="right") - starts
    total = int(many.sum())
    coarse = f"These keys link {total} pairs, more than {MAX_PAIRS}; use a finer key."
    ensure(total <= MAX_PAIRS, coarse)
    offsets = np.arange(total) - np.repeat(np.cumsum(many) - many, many)
    return np.repeat(np.arange(len(a)), many), order[np.repeat(starts, many) + offsets]


def combine(answers: Sequence[LinkerAnswer], link_key: bytes) -> pd.DataFrame:
    """The table of one count, or of totals: the shares of all linkers added, as whole numbers.

    Raises PsiError if the answers are not to one query, or the linkers hold different tables.
    """
    first = answers[0]
    same = all((a.query, a.labels) == (first.query, first.labels) for a in answers)
    different = "The linkers answered different queries or hold different tables."
    ensure(same, different)
    cells = [
        None
        if None in shares
        else int(ring_join(np.array([v % (1 << 64) for v in shares], dtype=np.uint64)))
        for shares in zip(*(a.values for a in answers), strict=True)
    ]
    return msgspec.structs.replace(first, values=tuple(cells)).table(link_key)


def agreement(linker: Linker, session: bytes, party: str, *, join: str) -> pd.DataFrame:
    """Neighbours by the key of the session and, among them, by a further key (`joins`).

    Returns one row for each uploaded row of `party`: n_blocked, n_linked, and block, a number that
    rows of one key share. It stays with the linker, which fits an error model to it.
    """
    import pandas as pd

    linked = linker._linked[session]
    for table in linked.tables.values():
        unknown = f"{table.header.party} sent no join named {join!r}."
        ensure(join in table.codes, unknown)
    names = [f"{one}:{join}" for one in linker.parties]
    a, b = (linked.tokens(name)[linked.column(name, "codes")] for name in names)
    rows, table = linked.pairs[party], linked.tables[party]
    return pd.DataFrame(
        {
            "n_blocked": np.bincount(rows, minlength=len(table)),
            "n_linked": np.bincount(rows[(a == b).all(axis=1)], minlength=len(table)),
            "block": np.unique(strings(table.tags), return_inverse=True)[1],
        }
    )
