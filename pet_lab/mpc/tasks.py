"""A task as the report defines it: [Px, Py, Pz, Dx, Dy, f], and the data that it names.

A task is a frozen record. Its hash covers every field, so an approval of a task is an approval of
these data, this function, these parties and these terms, and of nothing else. The data enter by
schema, number of rows and one salted commitment for each processing party's share: whoever changes
a cell after the approvals has to change a share, and the share no longer fits its commitment.

References
----------
UNECE, Input Privacy-Preservation Project, final report, paragraphs 117-123.
"""

from __future__ import annotations

import datetime
import hashlib
import math
import secrets
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, field
from msgspec.structs import force_setattr, replace

from pet_lab.parties.log import canonical, digest

from .errors import TaskError, well_formed

if TYPE_CHECKING:
    import pandas as pd

    Parameter = Any  # `catalogue.check` knows which it is
else:
    Parameter = str | int | float | Annotated[list[str], Meta(max_length=200)]

EPSILON_LEAST, EPSILON_MOST, EPSILON_STEP = Decimal("0.0001"), Decimal(100), Decimal("0.000001")
LARGEST = 1e15  # of a bound of a column
Name = Annotated[str, Meta(min_length=1, max_length=100)]
Names = Annotated[tuple[Name, ...], Meta(max_length=1000)]
Hex = Annotated[str, Meta(max_length=1000, pattern=r"\A[0-9a-f]*\Z")]
Bound = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]

MODELS = ("fixed", "mixed")
LEVELS = {
    # level: what it withstands
    "all-but-one": "sums only; all but one processing party may pool what they see",
    "majority": "any function; fewer than half of the processing parties may pool what they see",
    "checked": "as majority, and a wrong product or share stops the task before anything leaves",
}
JOINS = {
    # how rows of two files find each other, and what that tells whom
    "opened": "processing parties see which shuffled rows match, so how many; nothing about values",
    "hidden": "nobody sees matches or their number",
    "aligned": "after a private set intersection: both input parties know who is in both files",
}


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of what parties exchange: decoded strictly, and refused if a field is unknown."""


class ColumnSchema(Record, frozen=True, kw_only=True):
    """One column as everybody may know it."""

    kind: str  # "key", "category" or "number"
    levels: Names = ()  # of a category: all values that may occur
    decimals: Annotated[int, Meta(ge=0, le=9)] = 0  # of a number: digits kept after the point
    low: Bound = 0.0  # of a number, checked by the input party; they set the size of the field
    high: Bound = 0.0

    def __post_init__(self) -> None:
        low, high, kind, levels = self.low, self.high, self.kind, self.levels
        kinds = ("key", "category", "number")
        well_formed(kind in kinds, f"A column is a key, category or number, got {kind!r}.")
        once = kind != "category" or 0 < len(set(levels)) == len(levels)
        well_formed(once, "A category lists its levels, each once.")
        bounded = kind != "number" or -math.inf < low < high < math.inf
        well_formed(bounded, f"A number has bounds low < high, got {low} and {high}.")
        well_formed(0 <= self.decimals <= 9, f"decimals is from 0 to 9, got {self.decimals}.")
        for name in ("low", "high"):  # 0 and 0.0 would be two hashes
            force_setattr(self, name, float(getattr(self, name)))

    @property
    def unit(self) -> int:
        """What a number is multiplied with to be whole."""
        return 10**self.decimals if self.kind == "number" else 1

    @property
    def largest(self) -> int:
        """Largest absolute value after scaling to whole numbers; a category's indicator has 1."""
        return max(1, math.ceil(max(abs(self.low), abs(self.high)) * self.unit))


def number(column: ColumnSchema, name: str, value: Any) -> int:
    """A cell as a scaled whole number; outside the schema's bounds or digits it is refused."""
    try:
        exact = Decimal(str(value)) * 10**column.decimals
        whole = int(exact)
    except (InvalidOperation, ValueError, OverflowError):
        raise TaskError(
            f"Column {name} holds a value that is not a number; mend the data."
        ) from None
    well_formed(exact == whole, f"Column {name} keeps {column.decimals} decimals; round it first.")
    inside = column.low <= float(value) <= column.high
    well_formed(
        inside,
        f"Column {name} has a value outside [{column.low:g}, {column.high:g}]; mend one of them.",
    )
    return whole


def check_table(frame: pd.DataFrame, schema: Mapping[str, ColumnSchema]) -> None:
    """Refuse a table that is not as its schema says; values are never quoted in the message."""
    lacks = ", ".join(sorted(set(schema) - set(frame.columns)))
    well_formed(not lacks, f"The schema names {lacks}, which the table lacks; mend one of them.")
    for name, column in schema.items():
        cells, texts = frame[name], frame[name].astype(str)
        empty = cells.isna().any() or (texts == "").any()
        well_formed(not empty, f"Column {name} has missing cells; drop or fill those rows first.")
        once = column.kind != "key" or not texts.duplicated().any()
        well_formed(once, f"Key {name} repeats; an exact join needs each key once in a file.")
        known = column.kind != "category" or set(texts) <= set(column.levels)
        well_formed(
            known, f"Column {name} has a level that its schema does not list; add it there."
        )
        if column.kind == "number":
            for value in cells:
                number(column, name, value)


class DataRef(Record, frozen=True, kw_only=True):
    """A data set inside a task: its owner, its schema, and what binds the owner to its content."""

    owner: Name
    schema: Annotated[dict[Name, ColumnSchema], Meta(max_length=100)]
    rows: Annotated[int, Meta(ge=0, le=10_000_000)]
    commitments: Annotated[tuple[Hex, ...], Meta(max_length=100)]  # to each party's share, in order

    @property
    def sha256(self) -> str:
        """The hash by which the task names the data."""
        return digest(canonical(self))


class Task(Record, frozen=True, kw_only=True):
    """[Px, Py, Pz, Dx, Dy, f] and the terms under which it may run.

    A group of 1 to `min_group` - 1 records does not leave, nor a total of which one record is more
    than `dominance_percent`; 0 switches either off.
    """

    function: Name  # an entry of the catalogue
    parameters: Annotated[dict[Name, Parameter], Meta(max_length=20)]
    inputs: tuple[DataRef, DataRef]  # Dx and Dy, each with its owner
    output_party: Name  # Pz; it may be one of the owners
    processing_parties: Annotated[tuple[Name, ...], Meta(max_length=100)]  # K, in this order
    model: str = "fixed"  # outsiders process; "mixed": users are among them
    level: str = "majority"
    purpose: Name = "statistics"
    min_group: Annotated[int, Meta(ge=0, le=1000)] = 3
    dominance_percent: Annotated[int, Meta(ge=0, lt=100)] = 0
    epsilon: Decimal | None = None  # the budget of noise; None for exact results
    expires: str  # UTC, ISO 8601; nothing happens after it
    nonce: Name = field(default_factory=lambda: secrets.token_hex(16))  # makes equal requests two

    def __post_init__(self) -> None:
        owners, parties = [d.owner for d in self.inputs], self.processing_parties
        k, model, level = len(parties), self.model, self.level
        processing = {*owners, self.output_party} & set(parties)
        well_formed(k > 1, f"K = {k}: who holds every key is a trusted third party; name three.")
        well_formed(len(set(parties)) == k, "A processing party is repeated; name each once.")
        well_formed(len(set(owners)) == 2, "A task has two data sets of two different owners.")
        well_formed(model in MODELS, f"model is {' or '.join(MODELS)}, got {model!r}.")
        outsiders = model != "fixed" or not processing
        well_formed(outsiders, "In the fixed model no user processes; here one does. Say mixed.")
        users = model != "mixed" or processing
        well_formed(users, "In the mixed model a user processes; here none does. Say fixed.")
        well_formed(level in LEVELS, f"level is one of {', '.join(LEVELS)}, got {level!r}.")
        majority = k > 2 or level == "all-but-one"
        well_formed(majority, f"Level {level} needs an honest majority: two parties have none.")
        shares = 0 <= self.min_group <= 1000 and 0 <= self.dominance_percent < 100
        well_formed(shares, "min_group is a count up to 1000, dominance_percent is below 100.")
        committed = all(len(d.commitments) == k for d in self.inputs)
        well_formed(committed, "Data sets carry one commitment for each processing party.")
        _time(self.expires)
        if self.epsilon is not None:
            force_setattr(self, "epsilon", _epsilon(self.epsilon))

    @property
    def k(self) -> int:
        """Number of processing parties."""
        return len(self.processing_parties)

    @property
    def threshold(self) -> int:
        """How many processing parties may pool what they see and still learn nothing."""
        return self.k - 1 if self.level == "all-but-one" else (self.k - 1) // 2

    @property
    def sha256(self) -> str:
        """What an approval signs: it covers every field."""
        return digest(canonical(self))

    @property
    def epsilon_text(self) -> str | None:
        """The budget as a log holds it."""
        return None if self.epsilon is None else f"{self.epsilon:f}"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is allowed, and should still be known before it is approved."""
        mixed, join = self.model == "mixed", self.parameters.get("join")
        noisy, summed = self.epsilon is not None, self.level == "all-but-one"
        warnings = (
            (self.k == 2, "Only two processing parties: if one fails, nothing can be computed."),
            (mixed and join == "opened", "An owner sees which of its own records have a match."),
            (join == "aligned", "Both input parties already know who is in both files."),
            (mixed and summed, "A user that processes could shift the result unnoticed."),
            (noisy, "Noise is the parties' own: one could shift the answer unnoticed."),
            (not noisy and not self.min_group, "No output check: a result may show a record."),
        )
        return tuple(text for applies, text in warnings if applies)

    @property
    def owners(self) -> list[str]:
        """Both input parties, sorted."""
        return sorted(d.owner for d in self.inputs)

    @property
    def everyone(self) -> set[str]:
        """All parties of this task."""
        return {*self.owners, self.output_party, *self.processing_parties}

    def input(self, owner: str) -> DataRef:
        """The data of one owner, or a TaskError."""
        well_formed(owner in self.owners, f"{owner} provides no data to this task.")
        return next(ref for ref in self.inputs if ref.owner == owner)

    def party_index(self, party: str) -> int:
        """The place of a processing party among all, or a TaskError."""
        known = party in self.processing_parties
        well_formed(known, f"{party} is no processing party of this task.")
        return self.processing_parties.index(party)

    def expired(self, now: datetime.datetime | None = None) -> bool:
        """Whether nothing may happen any more."""
        return (now or datetime.datetime.now(datetime.UTC)) >= _time(self.expires)

    def with_data(self, *inputs: DataRef) -> Task:
        """The same task about other data."""
        return replace(self, inputs=inputs)


def read_task(terms: Mapping[str, Any]) -> Task:
    """A task from the terms that a user wrote; TaskError where they are none."""
    try:
        return msgspec.convert(terms, Task)
    except msgspec.ValidationError as error:
        raise TaskError(f"This is not a task: {str(error)[:200]}.") from None


def in_hours(hours: float) -> str:
    """A time from now, as `expires` wants it."""
    then = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours)
    return then.isoformat(timespec="seconds")


def _epsilon(given: Any) -> Decimal:
    """A budget as an exact number, so that what is charged is what is used; one form, one hash."""
    exact = Decimal(str(given))
    inside = exact.is_finite() and EPSILON_LEAST <= exact <= EPSILON_MOST
    bounds = f"between {EPSILON_LEAST} and {EPSILON_MOST} with at most six decimals"
    exactly = inside and not exact % EPSILON_STEP
    well_formed(exactly, f"epsilon is None or {bounds}, got {str(given)[:40]}.")
    return exact.normalize()


def _time(text: str) -> datetime.datetime:
    try:
        then = datetime.datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise TaskError(f"expires is a time like 2026-01-31T12:00Z, got {text!r}.") from None
    well_formed(then.tzinfo, "expires names no time zone; write it in UTC.")
    return then


def key_number(value: Any) -> int:
    """A key as a whole number below 2**120: equal keys, and practically only those, agree."""
    raw = hashlib.sha256(b"pet_lab key\0" + str(value).encode()).digest()
    return int.from_bytes(raw[:15], "big")


def listed(items: Sequence[str]) -> str:
    """Names in a sentence."""
    return ", ".join(items) or "none"
