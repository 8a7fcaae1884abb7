"""Record-level Bloom filters: the textbook encoding, the R package's, and what hardens them.

Every encoding is a map from (field, q-gram) to a set of bit positions; a record's filter is the
union over its q-grams, so one vectorised routine serves all: look the masks up, OR them together.

Known attacks, all on the fact that equal q-grams set equal bits: frequency alignment of whole
filters (Kuzu et al. 2011, doi:10.1007/978-3-642-22263-4_13), the hash structure of double hashing
(Niedermeyer et al. 2014; Kroll and Steinmetzer 2015, arXiv:1410.6739), frequent bit patterns
without any knowledge of the parameters (Christen et al. 2017, doi:10.1007/978-3-319-57454-7_49),
and graph matching on similarities (Vidanage et al. 2020). The positions below come from a keyed
HMAC stream and not from double hashing, which removes the second; `salt`, `balance` and `xor_fold`
weaken the others, at a price in recall. None makes a Bloom filter encryption.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from pet_lab.checks import require, whole
from pet_lab.linkage import libstdcxx
from pet_lab.linkage.filters import Filters, pack
from pet_lab.linkage.text import plain_text, whole_numbers

_TABLE_LIMIT = 1 << 20  # a larger q-gram lookup table is built from the q-grams present only
_BATCH = 4096  # rows a pass: 4096 filters of 1,000 bits stay in the second-level cache

PPRL_PASSWORDS = ("(H]$6Uh*-Z204q", "lkjg", "klh", "KJHkälk5")
"""Those of the authors' program, which are the package's documented example."""


def _keyed_permutation(key: bytes, message: bytes, n: int) -> np.ndarray:
    """A permutation of range(n) that only the holders of the key can repeat."""
    seed = hmac.new(key, b"permutation" + message, hashlib.sha256).digest()
    return np.random.default_rng(int.from_bytes(seed, "big")).permutation(n)


def _check_key(key: bytes) -> None:
    secret = isinstance(key, bytes) and len(key) >= 16
    require(secret, "key must be at least 16 secret bytes, shared by the data holders only.")


@dataclass(frozen=True, kw_only=True)
class _Keyed:
    """What the keyed encodings share."""

    key: bytes
    bits: int = 1000
    hashes: int = 20
    q: int = 2
    padding: bool = True
    cache: dict = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_key(self.key)
        whole(1, bits=self.bits, hashes=self.hashes, q=self.q)

    def _drawn(self, field_index: int, gram: str, salt: str, modulus: int) -> np.ndarray:
        """Integers below `modulus`, one a hash, from HMAC-SHA256 in counter mode.

        64-bit words taken modulo `modulus` (about 1,000): the bias is below 1e-16.
        """
        message = f"{field_index}\x1f{salt}\x1f{gram}".encode()
        blocks = [
            hmac.new(self.key, counter.to_bytes(4, "big") + message, hashlib.sha256).digest()
            for counter in range(-(-self.hashes // 4))
        ]
        words = np.frombuffer(b"".join(blocks), dtype=">u8")[: self.hashes]
        return (words % np.uint64(modulus)).astype(np.int64)

    def render(self, column: pd.Series) -> pd.Series | Whole:
        """The column, whole numbers as `Whole`."""
        numbers = whole_numbers(column)
        return column if numbers is None else Whole(numbers, "")


@dataclass(frozen=True, kw_only=True)
class RecordFilter(_Keyed):
    """The textbook record-level filter: a filter per field, a sample of its bits, one permutation.

    key         secret of the data holders; the linker must not have it
    bits        length of the record's filter
    hashes      positions drawn per q-gram (with replacement)
    field_bits  length of each field's own filter, from which its share of `bits` is sampled
    weights     share of `bits` for each field; equal when empty. More bits, more weight in the Dice
    q, padding  q-gram length; blanks at both ends so that first and last characters count twice

    Source: E. A. Durham, A framework for accurate, efficient private record linkage (2012), static
    field filters; report, paragraph 19.
    """

    field_bits: int = 500
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(1, field_bits=self.field_bits)
        total = sum(self.weights)
        one = not self.weights or np.isclose(total, 1.0)
        require(one, f"weights are shares of the filter and must sum to 1, got {total:.6g}.")

    def places(self, field_index: int, n_fields: int) -> np.ndarray:
        """Where in the record's filter each bit of the field's filter ends up, -1: not sampled."""
        if (field_index, n_fields) in self.cache:
            return self.cache[field_index, n_fields]
        shares = _shares(self.weights, n_fields, self.bits)
        start, size = int(sum(shares[:field_index])), int(shares[field_index])
        require(
            size <= self.field_bits,
            f"Field {field_index + 1} is to give {size} bits but its filter has only "
            f"{self.field_bits}; raise field_bits to at least {size} or lower its weight.",
        )
        sampled = _keyed_permutation(self.key, b"sample%d" % field_index, self.field_bits)[:size]
        mixed = _keyed_permutation(self.key, b"record", self.bits)
        places = np.full(self.field_bits, -1)
        places[sampled] = mixed[start + np.arange(size)]
        self.cache[field_index, n_fields] = places
        return places

    def positions(self, field_index: int, n_fields: int, gram: str, salt: str) -> np.ndarray:
        """Bits of the record's filter that one q-gram of one field sets."""
        drawn = self._drawn(field_index, gram, salt, self.field_bits)
        places = self.places(field_index, n_fields)[drawn]
        return places[places >= 0]


@dataclass(frozen=True, kw_only=True)
class LongTermKey(_Keyed):
    """One filter for all fields (Schnell's cryptographic long-term key, CLK).

    Parameters as in `RecordFilter`, but for field filters and weights: a field weighs by the number
    of its q-grams. Source: R. Schnell, T. Bachteler, J. Reiher, A novel error-tolerant anonymous
    linking code (2011).
    """

    def positions(self, field_index: int, n_fields: int, gram: str, salt: str) -> np.ndarray:
        """Bits of the filter that one q-gram of one field sets."""
        return self._drawn(field_index, gram, salt, self.bits)


@dataclass(frozen=True, kw_only=True)
class PprlCompat:
    """What the R package PPRL (0.3.4 to 0.3.8) does for method "StaticUniform", bug for bug.

    - no sampling: the first bits / n_fields bits of each field's filter are copied;
    - no permutation: the shuffled filter is ORed onto the unshuffled one, so a q-gram sets up to
      twice its bits;
    - 999 of the program's 1,000 bits come out: the copy to text stops one short;
    - the seed is q-gram + password (no HMAC), the generator minstd_rand0, draws with replacement;
    - doubles and dates are hashed as "%f" of a single-precision float (dates as days since 1970),
      integers as "%d": the text, and so the similarity, depends on how R happens to store a column.

    passwords  one a field
    doubles    columns that R holds as doubles though they are whole numbers here. In the published
               program the value is one (it went through floor), exporter and product are not: with
               any other choice the published recall of .949 at a Dice of 0.8 does not come out.

    The bytes of a password are taken as UTF-8 and signed, as g++ on x86 does. Source: CRAN package
    PPRL, behaviour of CreateRecordLevelBF, written anew from its description.
    """

    passwords: tuple[str, ...] = PPRL_PASSWORDS
    doubles: tuple[str, ...] = ("value",)
    cache: dict = field(default_factory=dict, repr=False, compare=False)
    bits: ClassVar[int] = 999  # of 1000
    hashes: ClassVar[int] = 20
    field_bits: ClassVar[int] = 500
    q: ClassVar[int] = 2
    padding: ClassVar[bool] = True

    @cached_property
    def _shuffled_place(self) -> np.ndarray:
        """Where the shuffle moves each bit of the record's filter."""
        return np.argsort(libstdcxx.shuffle("".join(self.passwords), self.bits + 1))

    def positions(self, field_index: int, n_fields: int, gram: str, salt: str) -> np.ndarray:
        """Bits of the record's filter that one q-gram of one field sets."""
        require(
            n_fields == len(self.passwords),
            f"The R package takes one password a field, got {n_fields} fields and "
            f"{len(self.passwords)} passwords; pass as many.",
        )
        engine = libstdcxx.MinStd(gram + self.passwords[field_index])
        drawn = [engine.below(self.field_bits) for _ in range(self.hashes)]
        shares = _shares((), n_fields, self.bits + 1)
        start, size = int(sum(shares[:field_index])), int(shares[field_index])
        # DEPARTS from the package's manual, as its code does: bit m of the record's part is bit
        # m modulo field_bits of the field's filter; the manual says they are sampled.
        part = np.arange(size)
        first = start + part[np.isin(part % self.field_bits, drawn)]
        both = np.concatenate([first, self._shuffled_place[first]])
        return both[both < self.bits]

    def render(self, column: pd.Series) -> pd.Series | Whole:
        """The column as R prints it; missing values are refused."""
        require(
            not column.isna().any(),
            f"Column {column.name!r} has missing values, which the R package would hash as the "
            "text NA and so match to each other; drop or fill them first.",
        )
        if pd.api.types.is_datetime64_any_dtype(column.dtype):
            return _as_single(column.to_numpy().astype("datetime64[D]").astype(np.int64))
        if pd.api.types.is_numeric_dtype(column.dtype):
            if column.name in self.doubles or pd.api.types.is_float_dtype(column.dtype):
                return _as_single(column.to_numpy())
            numbers = whole_numbers(column)
            return Whole(column.astype(np.int64).to_numpy() if numbers is None else numbers, "")
        text = pd.Series([str(v).upper().replace('"', "") for v in column], dtype=str)
        return text.str.replace(r"[^\x20-\x7e]", "", regex=True)


Encoding = RecordFilter | LongTermKey | PprlCompat
"""Its length, its q-grams (`q`, `padding`), and the bits that a q-gram of a field sets."""


@dataclass(frozen=True)
class Whole:
    """Whole numbers that print as digits and a constant tail: rendered without Python text."""

    numbers: np.ndarray
    tail: str


def _as_single(numbers: np.ndarray) -> pd.Series | Whole:
    single = numbers.astype(np.float32).astype(np.float64)
    if np.array_equal(single, np.rint(single)) and np.abs(single).max(initial=0) < 2**53:
        return Whole(single.astype(np.int64), ".000000")
    return pd.Series([f"{v:.6f}" for v in single])


def encode(
    frame: pd.DataFrame,
    encoding: Encoding,
    *,
    fields: Sequence[str] = ("exporter_id", "hs6", "date", "value"),
    salt: Sequence[Hashable] | np.ndarray | pd.Series | None = None,
) -> Filters:
    """Bloom filters of the rows of `frame`.

    Both parties must name the same fields in the same order. A missing or empty one sets no bit (in
    `PprlCompat` the blanks of an empty field do, as in the package, and missing values are
    refused). `salt`, n values, is hashed with every q-gram, so equal q-grams of records with
    different salts set different bits. Use a field that is never wrong (a blocking key); few
    distinct values are cheap. It is normalised as the fields are; a missing salt is none.
    """
    missing = [f for f in fields if f not in frame.columns]
    require(
        fields and not missing,
        f"fields must name columns of the frame; {missing or 'none'} not among "
        f"{list(frame.columns)}.",
    )
    words = np.zeros((len(frame), -(-encoding.bits // 64)), dtype=np.uint64)
    groups: list[tuple[str, Any]] = [("", slice(None))]
    if salt is not None:
        require(len(salt) == len(frame), f"salt has {len(salt)} values for {len(frame)} records.")
        names = pd.Series(list(salt)).map(plain_text)
        groups = [(str(name), rows) for name, rows in names.groupby(names).indices.items()]
    for index, name in enumerate(fields):
        rendered = encoding.render(frame[name])
        for salt_name, rows in groups:
            part = words[rows]  # a view where the rows are all
            of_rows = _pick(rendered, rows)
            _or_field(part, of_rows, encoding, place=(index, len(fields)), salt=salt_name)
            words[rows] = part
    return Filters(words=words, bits=encoding.bits)


def balance(filters: Filters, *, key: bytes) -> Filters:
    """Each filter followed by its complement, then permuted: every filter has the same weight.

    Hides how many q-grams a record has. Source: Schnell and Borgs (2016).
    """
    _check_key(key)
    bits = filters.unpacked()
    doubled = np.concatenate([bits, 1 - bits], axis=1)
    return pack(doubled[:, _keyed_permutation(key, b"balance", doubled.shape[1])])


def xor_fold(filters: Filters) -> Filters:
    """The two halves of each filter XORed: half the length; a bit no longer means one q-gram.

    Source: Schnell and Borgs, XOR-folding for Bloom filter-based encryptions (2016).
    """
    bits = filters.unpacked()
    if bits.shape[1] % 2:
        bits = np.concatenate([bits, np.zeros((len(filters), 1), np.uint8)], axis=1)
    half = bits.shape[1] // 2
    return pack(bits[:, :half] ^ bits[:, half:])


def frequency_attack(
    filters: Filters, plain: Sequence[Hashable] | np.ndarray, guess: Mapping[Hashable, float]
) -> float:
    """Share of records re-identified by aligning filter frequencies with known plain-text shares.

    The attacker has no key, sees only the filters, and knows how common each plain value is
    (`guess`, from public statistics; shares by value). It names the most common filter the most
    common value, and so on. `plain` holds the true values, used only to count the hits.
    """
    plain = np.asarray(plain)
    alike = plain.size == len(filters)
    require(alike, f"plain has {plain.size} values for {len(filters)} filters.")
    require(plain.size, "An attack on no record says nothing; pass at least one filter.")
    as_bytes = np.ascontiguousarray(filters.words).view(f"V{filters.words.shape[1] * 8}").ravel()
    _, code = np.unique(as_bytes, return_inverse=True)
    counts = np.bincount(code)
    ranked = np.argsort(-counts, kind="stable")
    names = np.array(sorted(guess, key=lambda v: -guess[v]), dtype=object)
    named = np.full(counts.size, None, dtype=object)
    top = min(names.size, ranked.size)
    named[ranked[:top]] = names[:top]
    return float(np.mean(named[code] == plain))


def _pick(rendered: pd.Series | Whole, rows: Any) -> pd.Series | Whole:
    if isinstance(rendered, Whole):
        return Whole(rendered.numbers[rows], rendered.tail)
    return rendered.iloc[rows]


def _or_field(
    words: np.ndarray,
    rendered: pd.Series | Whole,
    encoding: Encoding,
    *,
    place: tuple[int, int],
    salt: str,
) -> None:
    """OR the bits of one field into `words`; `place` is its index and the number of fields."""
    if words.shape[0] == 0:
        return

    def mask(gram: str) -> np.ndarray:
        key = *place, gram, words.shape[1]
        if not salt and key in encoding.cache:
            return encoding.cache[key]
        bits = np.zeros(words.shape[1] * 64, dtype=np.uint8)
        bits[encoding.positions(*place, gram, salt)] = 1
        drawn = np.packbits(bits, bitorder="little").view(np.uint64)
        if not salt:  # salts are without number; plain q-grams are a few hundred
            encoding.cache[key] = drawn
        return drawn

    if isinstance(rendered, Whole) and encoding.q > 1 + 2 * encoding.padding:
        # A number may be shorter than a q-gram: the route of texts handles that.
        rendered = pd.Series([f"{v}{rendered.tail}" for v in rendered.numbers])
    if isinstance(rendered, Whole):
        inverse, distinct = pd.factorize(rendered.numbers)
        if 2 * distinct.size < rendered.numbers.size:
            words |= _masks(_digits(distinct, rendered.tail, encoding), mask, encoding)[inverse]
        else:
            _masks(_digits(rendered.numbers, rendered.tail, encoding), mask, encoding, out=words)
        return
    inverse, values = pd.factorize(rendered)  # missing values get code -1: the "" at the end
    compat = isinstance(encoding, PprlCompat)
    texts = [str.strip(value) if compat else plain_text(value) for value in values]
    texts = [f" {t} " if encoding.padding and (t or compat) else t for t in texts] + [""]
    characters = np.array(texts, dtype=np.str_).view(np.uint32).reshape(len(texts), -1)
    table = _masks(characters, mask, encoding)  # zero where a text has ended
    for row, text in enumerate(texts):
        if 0 < len(text) < encoding.q:  # no window fits: the text itself is the only gram
            table[row] = mask(text)
    words |= table[inverse]


def _digits(numbers: np.ndarray, tail: str, encoding: Encoding) -> np.ndarray:
    """Code points of whole numbers: blank, sign and digits right-aligned after zeros, then tail."""
    magnitude = np.abs(numbers).astype(np.uint64)
    width = len(str(int(magnitude.max(initial=0))))
    ending = [ord(c) for c in tail] + ([32] if encoding.padding else [])
    matrix = np.zeros((numbers.size, 2 + width + len(ending)), dtype=np.uint32)
    rest, before = magnitude, np.full(numbers.size, 1 + width)  # column left of the first digit
    for column in range(1 + width, 1, -1):
        started = (rest > 0) | (column == 1 + width)  # zero has one digit
        quotient = rest // np.uint64(10)
        matrix[:, column] = np.where(started, rest - quotient * np.uint64(10) + np.uint64(48), 0)
        before -= started
        rest = quotient
    row, minus = np.arange(numbers.size), numbers < 0
    matrix[row[minus], before[minus]] = ord("-")
    if encoding.padding:
        matrix[row, before - minus] = ord(" ")
    matrix[:, 2 + width :] = ending
    return matrix


def _masks(
    matrix: np.ndarray,
    mask: Callable[[str], np.ndarray],
    encoding: Encoding,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """OR of the masks of all q-grams of each row of a code-point matrix (0 = no character)."""
    n_words = -(-encoding.bits // 64)
    if out is None:
        out = np.zeros((matrix.shape[0], n_words), dtype=np.uint64)
    q = encoding.q
    if matrix.shape[1] < q:
        return out
    present = np.bincount(matrix.ravel()) > 0
    present[0] = True
    alphabet, ranks = np.flatnonzero(present), (np.cumsum(present) - 1)[matrix]
    size = alphabet.size
    gram = np.zeros((matrix.shape[0], matrix.shape[1] - q + 1), dtype=np.int64)
    for offset in range(q):
        gram *= size
        gram += ranks[:, offset : offset + gram.shape[1]]
    if size**q <= _TABLE_LIMIT:
        present = np.bincount(gram.ravel(), minlength=size**q) > 0
        used, gram = np.flatnonzero(present), (np.cumsum(present) - 1)[gram]
    else:
        used, inverse = np.unique(gram, return_inverse=True)
        gram = inverse.reshape(gram.shape)
    table = np.zeros((used.size, n_words), dtype=np.uint64)
    letters = alphabet[used[:, None] // size ** np.arange(q - 1, -1, -1) % size]
    for row in np.flatnonzero(letters.all(axis=1)):  # a zero marks the end of a text: no q-gram
        table[row] = mask("".join(map(chr, letters[row])))
    constant = (gram == gram[:1]).all(axis=0)
    if constant.any():  # the tail ".000000 " is the same in every row: OR it once
        out |= np.bitwise_or.reduce(table[gram[0, constant]], axis=0)
    varying = np.flatnonzero(~constant)
    for start in range(0, matrix.shape[0], _BATCH):
        rows = slice(start, start + _BATCH)
        block = out[rows]
        for column in varying:
            block |= table[gram[rows, column]]
    return out


def _shares(weights: tuple[float, ...], n_fields: int, bits: int) -> np.ndarray:
    """Whole bits a field, largest first among equals, summing to `bits`."""
    fitting = not weights or len(weights) == n_fields
    require(fitting, f"{len(weights)} weights for {n_fields} fields; give one a field.")
    share = np.asarray(weights) if weights else np.full(n_fields, 1.0 / n_fields)
    sizes = np.floor(share * bits + 1e-9).astype(int)
    sizes[: bits - sizes.sum()] += 1
    return sizes
