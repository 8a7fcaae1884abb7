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

from .errors import TaskError

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
    """One column as everybody may know it.

    kind      "key", "category" or "number"
    levels    categories: all values that may occur
    decimals  numbers: digits kept after the point
    low, high numbers: bounds of a value, checked by the input party; they set the size of the field
    """

    kind: str
    levels: Names = ()
    decimals: Annotated[int, Meta(ge=0, le=9)] = 0
    low: Annotated[float, Meta(ge=-LARGEST, le=LARGEST)] = 0.0
    high: Annotated[float, Meta(ge=-LARGEST, le=LARGEST)] = 0.0

    def __post_init__(self) -> None:
        if self.kind not in {"key", "category", "number"}:
            raise TaskError(f"A column is a key, category or number, got {self.kind!r}.")
        if self.kind == "category" and not 0 < len(set(self.levels)) == len(self.levels):
            raise TaskError("A category lists its levels, each once.")
        if self.kind == "number" and not (
            self.low < self.high and math.isfinite(self.low) and math.isfinite(self.high)
        ):
            raise TaskError(f"A number has bounds low < high, got {self.low} and {self.high}.")
        if not 0 <= self.decimals <= 9:
            raise TaskError(f"decimals lies between 0 and 9, got {self.decimals}.")
        for name in ("low", "high"):  # 0 and 0.0 would be two hashes
            force_setattr(self, name, float(getattr(self, name)))

    @property
    def largest(self) -> int:
        """Largest absolute value after scaling to whole numbers."""
        return math.ceil(max(abs(self.low), abs(self.high)) * 10**self.decimals)


Schema = Mapping[str, ColumnSchema]


def number(column: ColumnSchema, name: str, value: Any) -> int:
    """A cell as a scaled whole number; outside the schema's bounds or digits it is refused."""
    try:
        exact = Decimal(str(value)) * 10**column.decimals
        whole = int(exact)
    except (InvalidOperation, ValueError, OverflowError):
        raise TaskError(f"Column {name} holds a value that is not a number.") from None
    if exact != whole:
        raise TaskError(f"Column {name} keeps {column.decimals} decimals; round it first.")
    if not column.low <= float(value) <= column.high:
        raise TaskError(f"Column {name} has a value outside [{column.low:g}, {column.high:g}].")
    return whole


def check_table(frame: pd.DataFrame, schema: Schema) -> None:
    """Refuse a table that is not as its schema says; values are never quoted in the message."""
    missing = sorted(set(schema) - set(frame.columns))
    if missing:
        raise TaskError(f"The schema names {', '.join(missing)}, which the table lacks.")
    for name, column in schema.items():
        cells = frame[name]
        if cells.isna().any() or (cells.astype(str) == "").any():
            raise TaskError(f"Column {name} has missing cells; drop or fill those rows first.")
        if column.kind == "key" and cells.astype(str).duplicated().any():
            raise TaskError(f"Key {name} repeats; an exact join needs each key once in a file.")
        if column.kind == "category" and not set(cells.astype(str)) <= set(column.levels):
            raise TaskError(f"Column {name} has a level that its schema does not list.")
        if column.kind == "number":
            for value in cells:
                number(column, name, value)


class DataRef(Record, frozen=True, kw_only=True):
    """A data set inside a task: its owner, its schema, and what binds the owner to its content.

    rows         number of records (public)
    commitments  one a processing party, in the order of the task: of that party's share
    """

    owner: Name
    schema: Annotated[dict[Name, ColumnSchema], Meta(max_length=100)]
    rows: Annotated[int, Meta(ge=0, le=10_000_000)]
    commitments: Annotated[tuple[Hex, ...], Meta(max_length=100)]

    @property
    def sha256(self) -> str:
        """The hash by which the task names the data."""
        return digest(canonical(self))


class Task(Record, frozen=True, kw_only=True):
    """[Px, Py, Pz, Dx, Dy, f] and the terms under which it may run.

    function, parameters  an entry of the catalogue and its settings
    inputs                two data sets, Dx and Dy, each with its owner
    output_party          Pz; it may be one of the owners
    processing_parties    K names, in the order of their indices
    model                 "fixed": outsiders process; "mixed": users are among them
    level                 see LEVELS
    min_group             a group of 1 to min_group - 1 records does not leave; 0 switches this off
    dominance_percent     a total does not leave if one record is more than this share; 0: no rule
    epsilon               with noise for this budget, or None for exact results; an exact decimal
    expires               UTC, ISO 8601; nothing happens after it
    nonce                 makes two equal requests two tasks
    """

    function: Name
    parameters: Annotated[dict[Name, Parameter], Meta(max_length=20)]
    inputs: tuple[DataRef, DataRef]
    output_party: Name
    processing_parties: Annotated[tuple[Name, ...], Meta(max_length=100)]
    model: str = "fixed"
    level: str = "majority"
    purpose: Name = "statistics"
    min_group: Annotated[int, Meta(ge=0, le=1000)] = 3
    dominance_percent: Annotated[int, Meta(ge=0, lt=100)] = 0
    epsilon: Decimal | None = None
    expires: str
    nonce: Name = field(default_factory=lambda: secrets.token_hex(16))

    def __post_init__(self) -> None:
        owners, parties = [d.owner for d in self.inputs], self.processing_parties
        if len(parties) < 2:
            raise TaskError(
                f"K = {len(parties)}: one party that holds every key is a trusted third party; "
                "name at least two processing parties, better three."
            )
        if len(set(parties)) != len(parties):
            raise TaskError("Each processing party is named once; a name is repeated.")
        if len(self.inputs) != 2 or owners[0] == owners[1]:
            raise TaskError("A task has two data sets of two different owners.")
        if self.model not in MODELS:
            raise TaskError(f"model is {' or '.join(MODELS)}, got {self.model!r}.")
        users = {*owners, self.output_party}
        if self.model == "fixed" and users & set(parties):
            raise TaskError("In the fixed model no user processes; here one does. Say mixed.")
        if self.model == "mixed" and not users & set(parties):
            raise TaskError("In the mixed model a user processes; here none does. Say fixed.")
        if self.level not in LEVELS:
            raise TaskError(f"level is one of {', '.join(LEVELS)}, got {self.level!r}.")
        if len(parties) == 2 and self.level != "all-but-one":
            raise TaskError(
                f"Level {self.level} needs an honest majority, which two parties cannot have: "
                "take three, or a function that level all-but-one can do."
            )
        if not 0 <= self.min_group <= 1000 or not 0 <= self.dominance_percent < 100:
            raise TaskError(
                "min_group is a count up to 1000 and dominance_percent a share below 100."
            )
        if any(len(d.commitments) != len(parties) for d in self.inputs):
            raise TaskError("Each data set carries one commitment for each processing party.")
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
    def warnings(self) -> tuple[str, ...]:
        """What is allowed, and should still be known before it is approved."""
        warnings = []
        if self.k == 2:
            warnings.append("Only two processing parties: if one fails, nothing can be computed.")
        if self.model == "mixed" and self.parameters.get("join") == "opened":
            warnings.append(
                "An input party that processes sees which of its own records have a match."
            )
        if self.parameters.get("join") == "aligned":
            warnings.append("Aligned rows: both input parties already know who is in both files.")
        if self.model == "mixed" and self.level == "all-but-one":
            warnings.append("A user that processes could shift the result without being noticed.")
        if self.epsilon is not None:
            warnings.append("Noise is the parties' own: one could shift the answer unnoticed.")
        elif not self.min_group:
            warnings.append("No output check: the result may single out a record.")
        return tuple(warnings)

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
        for ref in self.inputs:
            if ref.owner == owner:
                return ref
        raise TaskError(f"{owner} provides no data to this task.")

    def party_index(self, party: str) -> int:
        """The place of a processing party among all, or a TaskError."""
        if party not in self.processing_parties:
            raise TaskError(f"{party} is no processing party of this task.")
        return self.processing_parties.index(party)

    def expired(self, now: datetime.datetime | None = None) -> bool:
        """Whether nothing may happen any more."""
        return (now or datetime.datetime.now(datetime.UTC)) >= _time(self.expires)

    def with_data(self, *inputs: DataRef) -> Task:
        """The same task about other data."""
        return replace(self, inputs=inputs)


def read_task(terms: Mapping[str, Any]) -> Task:
    """A task from the terms that a user wrote.

    Raises
    ------
    TaskError
        If a field is missing, unknown or of the wrong form.
    """
    try:
        return msgspec.convert(terms, Task)
    except msgspec.ValidationError as error:
        raise TaskError(f"This is not a task: {error}.") from None


def in_hours(hours: float) -> str:
    """A time from now, as `expires` wants it."""
    then = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours)
    return then.isoformat(timespec="seconds")


def _epsilon(given: Any) -> Decimal:
    """A budget as an exact number, so that what is charged is what is used; one form, one hash."""
    exact = Decimal(str(given))
    if not exact.is_finite() or not EPSILON_LEAST <= exact <= EPSILON_MOST or exact % EPSILON_STEP:
        raise TaskError(
            f"epsilon is None or between {EPSILON_LEAST} and {EPSILON_MOST} with at most six "
            f"decimals, got {str(given)[:40]}."
        )
    return exact.normalize()


def _time(text: str) -> datetime.datetime:
    try:
        then = datetime.datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise TaskError(
            f"expires is a time like 2026-01-31T12:00:00+00:00, got {text!r}."
        ) from None
    if then.tzinfo is None:
        raise TaskError("expires names no time zone; write it in UTC.")
    return then


def key_number(value: Any) -> int:
    """A key as a whole number below 2**120: equal keys, and practically only those, agree."""
    return int.from_bytes(
        hashlib.sha256(b"pet_lab key\0" + str(value).encode()).digest()[:15], "big"
    )


def listed(items: Sequence[str]) -> str:
    """Names in a sentence."""
    return ", ".join(items) or "none"
