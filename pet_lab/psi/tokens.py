"""What the data holders send to a linker: row tags, column tokens, additive shares.

A row tag is an HMAC of the row's key; a column token is the AES-SIV encryption of its value, padded
to one length, with party and column bound. Both are keyed by the link key of the session, which the
two data holders agreed on and no linker has. Equal values of one column have equal tokens, so a
linker can count them; the data holders can open the tokens of an answer.

What a linker can still see is the frequency of each token: see `frequency_attack`.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Meta

from pet_lab.checks import require
from pet_lab.shares import ring_split

from .elements import bytes_of, secret_permutation, strings
from .messages import Count, Identity, SessionId, checked
from .protocol import Bytes2D, DataHolder, Link, MessageError, PsiError, ensure, expect

if TYPE_CHECKING:
    import pandas as pd  # loaded where it is used: a linker never needs it

TAG_WIDTH = 16
LABEL_BYTES = 31
TOKEN_WIDTH = 16 + 1 + LABEL_BYTES
MAX_COLUMNS = 32
MAX_PUBLIC = 4096
MAX_LABELS = 1 << 24  # a join column has about as many tokens as rows
ANYONE = "*"
COLUMN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_ .-]{0,62}")
ColumnName = Annotated[str, Meta(pattern=f"^{COLUMN_NAME.pattern}\\Z")]
ColumnNames = Annotated[tuple[ColumnName, ...], Meta(max_length=MAX_COLUMNS)]
Size = Annotated[int, Meta(ge=0, le=MAX_LABELS)]


def derive(link_key: bytes, purpose: Literal["row tags", "column tokens"], size: int) -> bytes:
    """A key for one purpose, which is bound into the derivation, from the link key."""
    return HKDF(SHA256(), size, None, b"pet_lab psi " + purpose.encode()).derive(link_key)


class ColumnCipher:
    """Deterministic, authenticated, fixed-length tokens for the values of named columns."""

    def __init__(self, link_key: bytes) -> None:
        self._siv = AESSIV(derive(link_key, "column tokens", 64))

    def encrypt(self, value: str, *, party: str, column: str) -> bytes:
        """The token of a value; 48 bytes whatever the value."""
        raw = value.encode()
        ensure(
            len(raw) <= LABEL_BYTES,
            f"Values of a token column have at most {LABEL_BYTES} bytes; {column} has one of "
            f"{len(raw)}: shorten its labels.",
        )
        padded = bytes([len(raw)]) + raw.ljust(LABEL_BYTES, b"\0")
        return self._siv.encrypt(padded, _bound(party, column))

    def column(
        self,
        party: str,
        column: str,
        text: npt.NDArray[np.object_],
        public: Sequence[str] | None = None,
    ) -> tuple[Bytes2D, npt.NDArray[np.uint32]]:
        """The distinct tokens of a column in ascending order, and which of them each row has.

        Where its labels are public, all of them have a token, whether a row has them or not.
        """
        import pandas as pd

        code, distinct = pd.factorize(text)
        if public is not None:
            distinct = np.array(sorted(set(public)), dtype=object)
            code = pd.Index(distinct).get_indexer(pd.Index(text))
        unlisted = f"Column {column} has labels that are not in its public list; complete it."
        ensure((code >= 0).all(), unlisted)
        many = f"Column {column} has {len(distinct)} values, at most {MAX_LABELS} are sent."
        ensure(len(distinct) <= MAX_LABELS, many)
        encrypted = [self.encrypt(label, party=party, column=column) for label in distinct]
        tokens = bytes_of(encrypted, TOKEN_WIDTH)
        place = np.argsort(strings(tokens))
        return tokens[place], np.argsort(place).astype(np.uint32)[code]

    def decrypt(self, token: bytes, *, party: str, column: str) -> str:
        """The value of a token; MessageError if it is not of this key, party and column."""
        try:
            padded = self._siv.decrypt(token, _bound(party, column))
            return padded[1 : 1 + padded[0]].decode()
        except (InvalidTag, ValueError, IndexError):
            raise MessageError(f"The answer holds a token that is not one of {column}.") from None


def _bound(party: str, column: str) -> list[bytes]:
    return [b"pet_lab column token 1", party.encode(), column.encode()]


class TableHeader(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="table"
):
    """Announces an upload: names, rows, distinct tokens of each column.

    part     which linker of the session this is for; the first counts and adds noise, others add
    public   columns whose tokens are all labels of a public list, whether a row has them or not
    bound    what the owner clipped the absolute values of `shares` to
    """

    session: SessionId
    party: Identity
    peer: Identity
    rows: Count
    columns: Annotated[dict[ColumnName, Size], Meta(max_length=MAX_COLUMNS)]
    shares: ColumnNames
    part: Annotated[int, Meta(ge=0, lt=MAX_COLUMNS)] = 0
    public: ColumnNames = ()
    bound: Annotated[int, Meta(ge=1, lt=1 << 62)] | None = None

    def __post_init__(self) -> None:
        names = (*self.columns, *self.shares)
        require(len(names) <= MAX_COLUMNS, f"A table has at most {MAX_COLUMNS} columns")
        require(len(set(names)) == len(names), "A column is named twice")
        known = set(self.public) <= set(self.columns)
        require(known, "A column with public labels is one of the columns")
        for name, size in self.columns.items():
            most = MAX_PUBLIC if name in self.public else self.rows
            require(size <= most, "A column has at most as many values as rows")

    @property
    def width(self) -> int:
        """Bytes of a packed row."""
        return TAG_WIDTH + 4 * len(self.columns) + 8 * len(self.shares)


@dataclass(frozen=True)
class TokenTable:
    """One party's upload; everything in it is pseudorandom to who lacks the link key.

    tags     shape (n, 16), in ascending order, so the order of the file is not in it
    labels   per column, its distinct tokens, shape (k, 48), in ascending order
    codes    per column, which of its tokens each row has, uint32 of shape (n,)
    shares   per value column, uint64 of shape (n,): one additive share, uniform on its own
    """

    header: TableHeader
    tags: Bytes2D = field(repr=False)
    labels: Mapping[str, Bytes2D] = field(repr=False)
    codes: Mapping[str, npt.NDArray[np.uint32]] = field(repr=False)
    shares: Mapping[str, npt.NDArray[np.uint64]] = field(repr=False)

    def __len__(self) -> int:
        return len(self.tags)

    def pack(self) -> Bytes2D:
        """All rows as one array of fixed width: tag, codes, shares."""
        parts: list[Bytes2D] = [self.tags]
        parts += [c.astype(">u4").view(np.uint8).reshape(-1, 4) for c in self.codes.values()]
        parts += [s.astype(">u8").view(np.uint8).reshape(-1, 8) for s in self.shares.values()]
        return np.concatenate(parts, axis=1)


def unpack(header: TableHeader, labels: Mapping[str, Bytes2D], rows: Bytes2D) -> TokenTable:
    """Assemble an upload from its parts.

    Raises MessageError: wrong shapes, a code without a token, tokens or tags out of order.
    """

    announced = f"{header.rows} rows of {header.width} bytes were announced."
    expect(rows.shape == (header.rows, header.width), announced)
    widths = [TAG_WIDTH, *[4] * len(header.columns), *[8] * len(header.shares)]
    tags, *numbers = map(np.ascontiguousarray, np.split(rows, np.cumsum(widths[:-1]), axis=1))
    codes, shares = {}, {}
    for name, raw in zip((*header.columns, *header.shares), numbers, strict=True):
        if name in header.shares:
            shares[name] = raw.view(">u8").ravel().astype(np.uint64)
            continue
        tokens, size = labels[name], header.columns[name]
        shape = f"Column {name} has {size} tokens of {TOKEN_WIDTH} bytes."
        expect(tokens.shape == (size, TOKEN_WIDTH), shape)
        text = strings(tokens)
        rising = np.greater(text[1:], text[:-1]).all()
        expect(rising, f"The tokens of {name} are distinct and in ascending order.")
        code = codes[name] = raw.view(">u4").ravel().astype(np.uint32)
        expect((code < size).all(), f"A row of {name} names a token that does not exist.")
    text = strings(tags)
    rising = np.greater_equal(text[1:], text[:-1]).all()
    expect(rising, "The row tags of a table are in ascending order.")
    return TokenTable(header, tags, labels, codes, shares)


def row_tags(keys: Sequence[bytes], link_key: bytes) -> Bytes2D:
    """16 bytes for each key: the linker can match them, not guess the keys."""
    secret = derive(link_key, "row tags", 32)
    return bytes_of([hmac.digest(secret, k, hashlib.sha256)[:TAG_WIDTH] for k in keys], TAG_WIDTH)


def tables_for_linkers(
    party: DataHolder,
    outcome: Link,
    *,
    on: str | Sequence[str],
    columns: Sequence[str] = (),
    values: Mapping[str, npt.ArrayLike] | None = None,
    joins: Mapping[str, Sequence[str]] | None = None,
    public: Mapping[str, Sequence[str]] | None = None,
    value_bound: int | None = None,
    linkers: int = 1,
    missing: Literal["refuse", "drop"] = "refuse",
) -> list[TokenTable]:
    """What a party sends after a session: only rows whose key is in the intersection.

    Parameters
    ----------
    columns : categorical columns; their values are taken as text
    values : integer value columns by name, one entry per row of the party's file, e.g. cents; they
        are split into additive shares modulo 2^64, one a linker, so need at least two linkers
    joins : further keys by name, each of one or more columns: their tokens are the same on both
        sides, so that the linker sees which linked rows also agree in them (`agreement`), and
        neither party learns it
    public : all labels that a column may have, as published: all are sent, so that a label that
        one person has does not show by being there; a linker that adds noise insists on them
    value_bound : values are clipped to -value_bound..value_bound, on which noise is calibrated; a
        linker that sees only shares cannot do it
    linkers : number of tables to make; they differ in the shares only

    Raises PsiError: a session that told this side no rows, values with one linker, values that are
    not whole numbers or could overflow 63 bits when summed.
    """
    if outcome.rows is None:
        raise PsiError("After this session nobody here knows the rows; choose analytics and ecdh.")
    values, public = dict(values or {}), dict(public or {})
    check_upload(party, columns=columns, values=values, joins=joins, public=public, linkers=linkers)
    keys = party.key_set(on, missing=missing)
    # Rows of one key must not stay in the order of the file.
    rows = outcome.rows[secret_permutation(len(outcome.rows))]
    unique_tags = np.zeros((len(keys), TAG_WIDTH), dtype=np.uint8)
    common = np.unique(keys.codes[rows])
    unique_tags[common] = row_tags([keys.encoded[i] for i in common], outcome.link_key)
    tags = unique_tags[keys.codes[rows]]
    order = np.argsort(strings(tags), kind="stable")
    tags, rows = tags[order], rows[order]
    texts: dict[str, tuple[str, npt.NDArray[np.object_]]] = {}  # whose tokens they are; labels
    for name in columns:
        texts[name] = (party.name, party.frame[name].astype(str).to_numpy(dtype=object)[rows])
    for name, parts in (joins or {}).items():
        further = party.key_set(parts, missing=missing)
        hashed = [t.tobytes()[:15].hex() for t in row_tags(further.encoded, outcome.link_key)]
        # A row without this key agrees with none: its token is random.
        alone = [os.urandom(15).hex() if c < 0 else hashed[c] for c in further.codes[rows]]
        texts[name] = (ANYONE, np.array(alone, dtype=object))
    cipher = ColumnCipher(outcome.link_key)
    labels, codes = {}, {}
    for name, (owner, text) in texts.items():
        labels[name], codes[name] = cipher.column(owner, name, text, public.get(name))
    shares = {}
    for name, given in values.items():
        number = _summable(np.asarray(given), len(party.frame), name)[rows]
        if value_bound is not None:
            number = number.clip(-value_bound, value_bound)
        shares[name] = ring_split(number, linkers)
    header = {
        "session": outcome.session,
        "party": party.name,
        "peer": outcome.peer,
        "rows": len(rows),
        "columns": {name: len(tokens) for name, tokens in labels.items()},
        "shares": tuple(values),
        "public": tuple(public),
        "bound": value_bound,
    }
    tables = []
    for part in range(linkers):
        own = {name: split[part] for name, split in shares.items()}
        header_of_part = checked(TableHeader, part=part, **header)
        tables.append(TokenTable(header_of_part, tags, labels, codes, own))
    return tables


def check_upload(
    party: DataHolder,
    *,
    columns: Sequence[str] = (),
    values: Mapping[str, npt.ArrayLike] | None = None,
    joins: Mapping[str, Sequence[str]] | None = None,
    public: Mapping[str, Sequence[str]] | None = None,
    linkers: int = 1,
) -> None:
    """Refuse (PsiError) what `tables_for_linkers` could not send, before anything is disclosed.

    The whole file is looked at, so that a refusal says nothing about the intersection.
    """
    values, public, joins = values or {}, public or {}, joins or {}
    party.check_columns(columns)
    sent = set(public) <= set(columns)
    ensure(sent, "Public labels belong to columns that are sent; name those too.")
    ensure(
        not values or linkers >= 2,
        "Totals by additive shares need two linkers that do not collude; with one linker use "
        "pet_lab.psi.totals.",
    )
    for name in joins:
        ensure(name not in columns, f"A join needs a name of its own, got {name!r}.")
    for name in (*columns, *joins, *values):
        named = f"A column name has 1 to 63 letters, digits, dots, dashes or spaces, not {name!r}."
        ensure(COLUMN_NAME.fullmatch(name), named)
    for name in columns:
        labels = party.frame[name].unique()
        lacks = f"{party.name}: column {name} has missing values; give them a label."
        ensure(not party.frame[name].isna().any() and "" not in labels, lacks)
        longest = max((len(str(label).encode()) for label in labels), default=0)
        ensure(
            longest <= LABEL_BYTES,
            f"Values of a token column have at most {LABEL_BYTES} bytes; {name} has one of "
            f"{longest}: shorten its labels.",
        )
        unlisted = f"Column {name} has labels that are not in its public list; complete it."
        ensure(set(map(str, labels)) <= set(public.get(name, map(str, labels))), unlisted)
    for name, given in values.items():
        _summable(np.asarray(given), len(party.frame), name)


def _summable(raw: npt.NDArray[np.generic], n: int, name: str) -> npt.NDArray[np.int64]:
    shape = f"Value column {name} has one number per row, shape ({n},), got {raw.shape}."
    ensure(raw.shape == (n,), shape)
    fraction = f"Value column {name} holds {raw.dtype}; scale it to whole numbers, e.g. cents."
    ensure(raw.dtype.kind in "iu", fraction)
    largest = max(abs(int(raw.max())), abs(int(raw.min()))) if n else 0
    long = f"Totals of {name} could exceed 63 bits; use a coarser unit."
    ensure(largest * n < 1 << 63, long)
    return raw.astype(np.int64)


def whole_numbers(holder: DataHolder, values: Sequence[str]) -> dict[str, npt.NDArray[np.int64]]:
    """Value columns written "column:decimals" as whole numbers, e.g. cents for 2 decimals.

    Raises PsiError for an unknown column, another notation, or entries that are no numbers.
    """
    import pandas as pd

    numbers = {}
    for value in values:
        column, _, decimals = value.partition(":")
        ensure(
            column in holder.frame.columns and decimals.isdecimal() and len(decimals) == 1,
            f"A value is written COLUMN:DECIMALS with a known column, got {value[:80]!r}.",
        )
        read = pd.to_numeric(holder.frame[column], errors="coerce").to_numpy(dtype=float)
        finite = np.isfinite(read).all()
        ensure(finite, f"Column {column} holds entries that are no numbers.")
        numbers[column] = np.rint(read * 10 ** int(decimals)).astype(np.int64)
    return numbers


def frequency_attack(
    table: TokenTable, column: str, margin: pd.Series[float], *, link_key: bytes
) -> pd.DataFrame:
    """The linker's attack: match tokens to labels by rank of frequency.

    Works whenever the shares are far enough apart: it is the price of tokens that can be counted.
    `margin` is the share of each label, as anyone could know it from a published table; the linker
    has no `link_key`: it serves to say how often the attack is right.

    Returns one row a token, most frequent first: token (hexadecimal), rows, guess, label.
    """
    import pandas as pd

    tokens = [token.tobytes() for token in table.labels[column]]
    rows = np.bincount(table.codes[column].astype(np.int64), minlength=len(tokens))
    by_share = margin.sort_values(ascending=False, kind="stable").index.tolist()
    by_share += [""] * (len(tokens) - len(by_share))
    cipher = ColumnCipher(link_key)
    seen = [
        (
            tokens[code].hex(),
            int(rows[code]),
            guess,
            cipher.decrypt(tokens[code], party=table.header.party, column=column),
        )
        for code, guess in zip(np.argsort(-rows, kind="stable"), by_share, strict=False)
    ]
    return pd.DataFrame(seen, columns=["token", "rows", "guess", "label"])
