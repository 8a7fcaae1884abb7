"""The linker: matches row tags of two uploads, counts tokens, sums shares, checks what leaves.

It holds no key: it sees how many rows there are, which rows agree in which column, and the shape of
the queries. It serves exactly two parties.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from .disclosure import (
    MAX_CELLS,
    Counts,
    OutputRules,
    QueryLog,
    Released,
    discrete_laplace,
    protect,
)
from .messages import strict_json
from .protocol import MessageError, Outcome, PsiError
from .tokens import TOKEN_WIDTH, ColumnCipher, TokenTable

if TYPE_CHECKING:
    import pandas as pd  # loaded where it is used: a linker never needs it

MAX_PAIRS = 50_000_000
MAX_SESSIONS = 64
Measure = Literal["count", "total"]


@dataclass(frozen=True, kw_only=True)
class Query:
    """A table to count or to total.

    group_by : columns as "party:column"
    measure : "count" of linked pairs, or "total" of the shares of `value`
    """

    session: bytes
    group_by: tuple[str, ...]
    measure: Measure = "count"
    value: str | None = None

    def encode(self) -> bytes:
        items = {
            "session": self.session.hex(),
            "group_by": list(self.group_by),
            "measure": self.measure,
            "value": self.value,
        }
        return json.dumps(items).encode()


def decode_query(raw: bytes) -> Query:
    """Read a query; refuses anything that is not one."""
    items = strict_json(raw, limit=8192, what="query")
    if set(items) != {"session", "group_by", "measure", "value"}:
        raise MessageError("A query has session, group_by, measure and value.")
    session, group_by, value = items["session"], items["group_by"], items["value"]
    if not isinstance(session, str) or not re.fullmatch(r"[0-9a-f]{32}", session):
        raise MessageError("The session of a query is 32 hexadecimal digits.")
    if not isinstance(group_by, list) or not 0 < len(group_by) <= 8:
        raise MessageError("A query groups by 1 to 8 columns.")
    for name in group_by if value is None else [*group_by, value]:
        if not isinstance(name, str) or len(name) > 130 or name.count(":") != 1:
            raise MessageError("A column of a query is written party:column.")
    if len(set(group_by)) != len(group_by):
        raise MessageError("A query names a column twice.")
    if items["measure"] not in ("count", "total"):
        raise MessageError("A query measures count or total.")
    if (items["measure"] == "total") != (value is not None):
        raise MessageError("A total names its value column; a count names none.")
    return Query(
        session=bytes.fromhex(session),
        group_by=tuple(group_by),
        measure=items["measure"],
        value=value,
    )


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A table that passed the output checks; the labels are still tokens.

    values   one whole number a cell, None where withheld; for a total, this linker's share
    epsilon  what this answer cost; 0 without noise
    """

    query: Query
    labels: tuple[tuple[str, ...], ...] = field(repr=False)
    values: tuple[int | None, ...]
    epsilon: float

    def encode(self) -> bytes:
        items = {
            "query": json.loads(self.query.encode()),
            "labels": [list(axis) for axis in self.labels],
            "values": [None if v is None else str(v) for v in self.values],
            "epsilon": self.epsilon,
        }
        return json.dumps(items).encode()

    def table(self, link_key: bytes) -> pd.DataFrame:
        """Open the labels with the link key: one row a cell, columns `group_by` and the measure.

        Withheld cells are <NA>. Column names lose their party where that is not ambiguous.
        """
        import pandas as pd

        cipher = ColumnCipher(link_key)
        axes = []
        for name, tokens in zip(self.query.group_by, self.labels, strict=True):
            party, column = name.split(":")
            axes.append([cipher.open(bytes.fromhex(t), party=party, column=column) for t in tokens])
        index = pd.MultiIndex.from_product(axes, names=_short(self.query.group_by))
        values = pd.array(list(self.values), dtype="object")
        out = pd.DataFrame({self.query.measure: values}, index=index)
        out[self.query.measure] = out[self.query.measure].where(
            out[self.query.measure].notna(), pd.NA
        )
        if self.query.measure == "count":
            out["count"] = out["count"].astype("Int64")
        return out.reset_index().sort_values(_short(self.query.group_by), ignore_index=True)


def _short(names: Sequence[str]) -> list[str]:
    bare = [n.split(":")[1] for n in names]
    return [b if bare.count(b) == 1 else n for b, n in zip(bare, names, strict=True)]


def decode_answer(raw: bytes) -> Answer:
    """Read an answer; refuses anything whose cells do not fit its axes."""
    items = strict_json(raw, limit=1 << 20, what="answer")
    if set(items) != {"query", "labels", "values", "epsilon"}:
        raise MessageError("An answer has query, labels, values and epsilon.")
    if not isinstance(items["query"], dict):
        raise MessageError("An answer repeats its query.")
    query = decode_query(json.dumps(items["query"]).encode())
    labels, values, epsilon = items["labels"], items["values"], items["epsilon"]
    if not isinstance(labels, list) or len(labels) != len(query.group_by):
        raise MessageError("An answer has one list of labels for each column.")
    size = 1
    for axis in labels:
        if not isinstance(axis, list) or len(axis) > MAX_CELLS:
            raise MessageError("The labels of a column are a list of tokens.")
        for token in axis:
            if not isinstance(token, str) or not re.fullmatch(
                f"[0-9a-f]{{{2 * TOKEN_WIDTH}}}", token
            ):
                raise MessageError(f"A label is a token of {TOKEN_WIDTH} bytes in hexadecimal.")
        size *= len(axis)
    if not isinstance(values, list) or len(values) != size:
        raise MessageError(f"An answer has one value for each of its {size} cells.")
    for v in values:
        if v is not None and (not isinstance(v, str) or not re.fullmatch(r"-?\d{1,20}", v)):
            raise MessageError("A value of an answer is a whole number in digits, or nothing.")
    if not isinstance(epsilon, int | float) or isinstance(epsilon, bool) or not 0 <= epsilon < 1e6:
        raise MessageError("The epsilon of an answer is a number that is not negative.")
    return Answer(
        query=query,
        labels=tuple(map(tuple, labels)),
        values=tuple(None if v is None else int(v) for v in values),
        epsilon=float(epsilon),
    )


@dataclass
class _Linked:
    """Two uploads of a session, joined."""

    tables: dict[str, TokenTable]
    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    released: list[Released] = field(default_factory=list)
    remembered: dict[bytes, Answer] = field(default_factory=dict)


class Linker:
    """Accepts tables from two named parties and answers their queries.

    Parameters
    ----------
    parties : the two identities; everyone else is refused
    rules : the output checks
    log : the query log; a fresh one in memory if not given
    add_noise : False for every linker but one when totals are shared between several, so that the
        noise is added once
    """

    def __init__(
        self,
        parties: tuple[str, str],
        *,
        rules: OutputRules | None = None,
        log: QueryLog | None = None,
        add_noise: bool = True,
    ) -> None:
        if len(set(parties)) != 2:
            raise PsiError(f"A linker serves two different parties, got {parties}.")
        self.parties = parties
        self.rules = rules or OutputRules()
        self.log = log or QueryLog()
        self.add_noise = add_noise
        self._waiting: dict[bytes, dict[str, TokenTable]] = {}
        self._linked: dict[bytes, _Linked] = {}
        self._lock = threading.Lock()
        self._before_restart = {e.session for e in self.log.entries if e.state == "answered"}

    def check_sender(self, sender: str) -> None:
        """Refuse whoever is not one of the two parties."""
        if sender not in self.parties:
            raise PsiError(f"This linker serves {self.parties[0]} and {self.parties[1]} only.")

    def accept(self, table: TokenTable, sender: str) -> int:
        """Take an upload; returns the number of linked pairs once both are here, else -1.

        Raises
        ------
        PsiError
            Wrong sender, a table in another's name, a second table for a session, a session that
            was already answered before a restart.
        """
        self.check_sender(sender)
        if table.party != sender or table.peer not in self.parties or table.peer == sender:
            raise PsiError(
                f"A table from {sender} must be in its own name and name the other party."
            )
        with self._lock:
            name = table.session
            if name.hex() in self._before_restart:
                raise PsiError(
                    "This session was answered before the linker restarted, and what was released "
                    "is no longer known here; run the intersection again."
                )
            if name in self._linked or sender in self._waiting.get(name, {}):
                raise PsiError(f"{sender} has already sent its table for this session.")
            if name not in self._waiting and len(self._waiting) + len(self._linked) >= MAX_SESSIONS:
                raise PsiError(f"The linker holds {MAX_SESSIONS} sessions, which is its limit.")
            here = self._waiting.setdefault(name, {})
            here[sender] = table
            if len(here) < 2:
                return -1
            del self._waiting[name]
            a, b = (here[p] for p in self.parties)
            left, right = join(a, b)
            self._linked[name] = _Linked(here, left, right)
            return len(left)

    def is_linked(self, session: bytes) -> bool:
        """True once both tables of a session are here."""
        with self._lock:
            return session in self._linked

    def answer(self, query: Query, sender: str) -> Answer:
        """Answer a query of one of the parties, or refuse it; both are logged."""
        self.check_sender(sender)
        asked: dict[str, Any] = json.loads(query.encode())
        session = asked.pop("session")
        with self._lock:
            try:
                answer, withheld = self._answer(query)
            except PsiError as error:
                self.log.add(sender, session, asked, f"refused: {error}")
                raise
            known = query.encode() in self._linked[query.session].remembered
            self._linked[query.session].remembered[query.encode()] = answer
            self.log.add(
                sender,
                session,
                asked,
                "answered",
                cells=len(answer.values),
                withheld=withheld,
                epsilon=0.0 if known else answer.epsilon,
            )
            return answer

    def _answer(self, query: Query) -> tuple[Answer, int]:
        linked = self._linked.get(query.session)
        if linked is None:
            missing = [p for p in self.parties if p not in self._waiting.get(query.session, {})]
            raise PsiError(
                f"No table of {' and '.join(missing)} is here for this session; send it."
            )
        if query.encode() in linked.remembered:  # the same noise again: averaging gains nothing
            answer = linked.remembered[query.encode()]
            return answer, sum(v is None for v in answer.values)
        axes = [self._axis(linked, name) for name in query.group_by]
        counts = _cross(axes)
        values = counts
        if query.value is not None:
            values = self._totals(linked, query.value, axes)
        noise = self.rules.epsilon_per_query
        epsilon = 0.0
        if noise is not None:
            shown, values, epsilon = self._noisy(linked, counts, values, query)
        else:
            shown = self._protected(linked, query, counts)
        labels = tuple(tuple(t.tobytes().hex() for t in tokens) for _, tokens in axes)
        flat = [
            int(v) if ok else None
            for v, ok in zip(values.ravel().tolist(), shown.ravel(), strict=True)
        ]
        answer = Answer(query=query, labels=labels, values=tuple(flat), epsilon=epsilon)
        return answer, int((~shown).sum())

    def _axis(self, linked: _Linked, name: str) -> tuple[npt.NDArray[np.int64], Any]:
        party, column = name.split(":")
        table = linked.tables.get(party)
        if table is None or column not in table.codes:
            known = [f"{p}:{c}" for p, t in sorted(linked.tables.items()) for c in t.codes]
            raise PsiError(f"There is no column {name!r}; columns here are {', '.join(known)}.")
        pairs = linked.left if party == self.parties[0] else linked.right
        return table.codes[column].astype(np.int64)[pairs], table.labels[column]

    def _totals(self, linked: _Linked, name: str, axes: list[Any]) -> Any:
        party, column = name.split(":")
        table = linked.tables.get(party)
        if table is None or column not in table.shares:
            known = [f"{p}:{c}" for p, t in sorted(linked.tables.items()) for c in t.shares]
            raise PsiError(
                f"There is no value column {name!r}; here are {', '.join(known) or 'none'}."
            )
        pairs = linked.left if party == self.parties[0] else linked.right
        share = table.shares[column][pairs]
        shape = [len(tokens) for _, tokens in axes]
        out = np.zeros(int(np.prod(shape)), dtype=np.uint64)
        np.add.at(out, _cell_of(axes), share)  # wraps modulo 2^64
        return out.reshape(shape)

    def _protected(self, linked: _Linked, query: Query, counts: Counts) -> Any:
        names = list(query.group_by)
        for said in linked.released:
            names += [a for a in said.axes if a not in names]
        axes = [self._axis(linked, name) for name in names]
        size = int(np.prod([len(tokens) for _, tokens in axes]))
        needs_full = self.rules.complementary and self.rules.min_cell > 1
        full = _cross(axes) if needs_full and size <= MAX_CELLS else np.zeros(size, dtype=np.int64)
        shown = protect(
            counts,
            query.group_by,
            rules=self.rules,
            full=full,
            full_axes=names,
            owners=[n.split(":")[0] for n in names],
            earlier=linked.released,
        )
        linked.released.append(Released(query.group_by, counts, shown))
        return shown

    def _noisy(self, linked: _Linked, counts: Counts, values: Any, query: Query) -> Any:
        epsilon = float(self.rules.epsilon_per_query or 0)
        if self.log.spent() + epsilon > self.rules.epsilon_total + 1e-12:
            raise PsiError(
                f"The budget of epsilon {self.rules.epsilon_total:g} is spent ("
                f"{self.log.spent():g}); no further query is answered."
            )
        for pairs in (linked.left, linked.right):
            if len(np.unique(pairs)) != len(pairs):
                raise PsiError("Noise is calibrated to keys that are unique; these repeat.")
        budget = Fraction(epsilon).limit_denominator(10**6)
        bound = 1
        if query.measure == "total":
            if self.rules.value_bound is None:
                raise PsiError(
                    "Noise on totals needs a bound on one row's value; the linker has none."
                )
            bound = self.rules.value_bound
            budget /= 2  # half for the counts that decide what is shown
        noisy_counts = np.array(
            [int(c) + discrete_laplace(1 / budget) for c in counts.ravel()], dtype=np.int64
        ).reshape(counts.shape)
        shown = noisy_counts >= self.rules.min_cell
        if query.measure == "count":
            return shown | (self.rules.min_cell <= 1), noisy_counts, epsilon
        if not self.add_noise:
            return np.ones_like(shown), values, epsilon
        noise = [discrete_laplace(Fraction(bound) / budget) % (1 << 64) for _ in range(values.size)]
        return shown, values + np.array(noise, dtype=np.uint64).reshape(values.shape), epsilon

    def sees(self, session: bytes) -> pd.DataFrame:
        """What this linker holds of a session: one row a column, with its token frequencies."""
        import pandas as pd

        tables = self._linked[session].tables if session in self._linked else self._waiting[session]
        rows = []
        for party, table in tables.items():
            for column, code in table.codes.items():
                seen = np.sort(np.bincount(code, minlength=len(table.labels[column])))[::-1]
                rows.append((party, column, len(table), len(seen), seen.tolist()))
        return pd.DataFrame(rows, columns=["party", "column", "rows", "tokens", "frequencies"])


def join(a: TokenTable, b: TokenTable) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """All pairs of rows with equal tags: m rows with n rows of one tag are m * n pairs.

    Raises
    ------
    PsiError
        If there were more than 50 million pairs: the key is too coarse to link on.
    """
    tags = np.concatenate([a.tags, b.tags]).view(f"S{a.tags.shape[1]}").ravel()
    _, code = np.unique(tags, return_inverse=True)
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
    made: npt.NDArray[np.int64] = np.ravel_multi_index([code for code, _ in axes], shape)
    return made


def _cross(axes: list[Any]) -> Counts:
    shape = [len(tokens) for _, tokens in axes]
    size = int(np.prod(shape))
    if size > MAX_CELLS:
        raise PsiError(
            f"An answer has at most {MAX_CELLS} cells, this one {size}; use fewer columns."
        )
    return np.bincount(_cell_of(axes), minlength=size).reshape(shape).astype(np.int64)


def combine_totals(answers: Sequence[Answer], outcome: Outcome) -> pd.DataFrame:
    """Add the shares of all linkers: the exact totals, as whole numbers.

    Raises
    ------
    PsiError
        If the answers are not to one query, or the linkers hold different tables.
    """
    first = answers[0]
    if any(a.query != first.query or a.labels != first.labels for a in answers):
        raise PsiError("The linkers answered different queries or hold different tables.")
    table: list[int | None] = []
    for shares in zip(*(a.values for a in answers), strict=True):
        if any(s is None for s in shares):
            table.append(None)
            continue
        total = sum(int(s) for s in shares if s is not None) % (1 << 64)
        table.append(total - (1 << 64) if total >= 1 << 63 else total)
    summed = Answer(
        query=first.query, labels=first.labels, values=tuple(table), epsilon=first.epsilon
    )
    return summed.table(outcome.link_key)


def neighbours(linker: Linker, session: bytes, party: str) -> npt.NDArray[np.int64]:
    """How many rows of the other file each uploaded row of `party` is linked to.

    What an error model needs of the linker; rows that were not uploaded have no neighbour.
    """
    linked = linker._linked[session]
    pairs = linked.left if party == linker.parties[0] else linked.right
    return np.bincount(pairs, minlength=len(linked.tables[party])).astype(np.int64)


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
    tags = np.ascontiguousarray(table.tags).view(f"S{table.tags.shape[1]}").ravel()
    return pd.DataFrame(
        {
            "n_blocked": np.bincount(pairs, minlength=len(table)),
            "n_linked": np.bincount(pairs[agree], minlength=len(table)),
            "block": np.unique(tags, return_inverse=True)[1],
        }
    )
