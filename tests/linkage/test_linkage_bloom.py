"""Encodings: against the slow definition, the compiled C++ library, and their own promises."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pet_lab.linkage import LongTermKey, PprlCompat, RecordFilter, block, dice_pairs, encode
from pet_lab.linkage.bloom import balance, frequency_attack, xor_fold
from pet_lab.linkage.filters import pack
from pet_lab.linkage.text import plain_text

HERE = Path(__file__).parent
KEY = b"sixteen secret bytes"
ENCODINGS = [RecordFilter(key=KEY), LongTermKey(key=KEY), LongTermKey(key=KEY, q=3, padding=False)]
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


def qgrams(text, *, q, padding):
    """The q-grams of a text, first to last."""
    if padding:
        text = f" {text} "
    if not text:
        return []
    if len(text) <= q:
        return [text]
    return [text[i : i + q] for i in range(len(text) - q + 1)]


def by_definition(values, encoding, salt=""):
    """Bits of one record, q-gram by q-gram."""
    bits = np.zeros(encoding.bits, dtype=np.uint8)
    for index, value in enumerate(values):
        text = plain_text(value)
        if text:
            for gram in qgrams(text, q=encoding.q, padding=encoding.padding):
                bits[encoding.positions(index, len(values), gram, salt)] = 1
    return bits


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda e: f"{type(e).__name__}-q{e.q}")
@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(st.tuples(texts, st.integers(-(10**7), 10**7)), min_size=1, max_size=6),
)
def test_encode_is_the_union_of_its_qgrams(encoding, rows):
    frame = pd.DataFrame({"name": [r[0] for r in rows], "number": [r[1] for r in rows]})
    got = encode(frame, encoding, fields=["name", "number"]).unpacked()
    want = np.stack([by_definition(r, encoding) for r in rows])
    assert np.array_equal(got, want)


def known_frame(records):
    columns = list(zip(*[r["fields"] for r in records], strict=True))
    return pd.DataFrame(dict(zip("abcd", columns, strict=True)))


def known_bits(record):
    return np.array([int(c) for c in format(int(record["hex"], 16), "0999b")])


def test_pprl_compat_gives_the_known_filters():
    """Answers of a separate C++ program on libstdc++: engine, seeding, distribution and shuffle."""
    records = json.loads((HERE / "pprl_known_filters.json").read_text())["records"]
    got = encode(known_frame(records), PprlCompat(), fields=list("abcd")).unpacked()
    assert got.shape == (len(records), 999)
    for row, record in zip(got, records, strict=True):
        assert row.sum() == record["ones"]
        assert np.array_equal(row, known_bits(record))


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler to make the answers again")
def test_the_known_filters_are_what_the_compiler_says(tmp_path):
    records = json.loads((HERE / "pprl_known_filters.json").read_text())["records"]
    program = tmp_path / "filters"
    source = HERE / "libstdcxx_filters.cpp"
    subprocess.run(["g++", "-O1", "-std=c++17", source, "-o", program], check=True)
    lines = "\n".join("\t".join(r["fields"]) for r in records) + "\n"
    out = subprocess.run([program], input=lines, text=True, capture_output=True, check=True)
    for line, record in zip(out.stdout.split(), records, strict=True):
        assert np.array_equal([int(c) for c in line], known_bits(record))


def test_pprl_compat_prints_numbers_as_r_stores_them():
    frame = pd.DataFrame(
        {
            "exporter_id": [100],
            "hs6": [10121],
            "date": np.array(["2021-01-01"], dtype="datetime64[s]"),
            "value": [550_000],
        }
    )
    text = pd.DataFrame(
        {
            "exporter_id": ["100"],
            "hs6": ["10121"],
            "date": ["18628.000000"],
            "value": ["550000.000000"],
        }
    )
    assert np.array_equal(
        encode(frame, PprlCompat()).words, encode(text, PprlCompat(doubles=())).words
    )
    as_integer = encode(frame, PprlCompat(doubles=()))
    assert not np.array_equal(as_integer.words, encode(frame, PprlCompat()).words)


def test_missing_and_empty_set_no_bit_and_link_to_nobody():
    frame = pd.DataFrame({"name": ["", None, np.nan, "  "]})
    filters = encode(frame, LongTermKey(key=KEY), fields=["name"])
    assert not filters.words.any()
    pairs = np.arange(4), np.arange(4)
    assert not dice_pairs(filters, filters, *pairs).any()


def test_pprl_compat_refuses_missing_values():
    frame = pd.DataFrame({"a": ["x", None], "b": "", "c": "", "d": ""})
    with pytest.raises(ValueError, match="has missing values, which the R package would hash"):
        encode(frame, PprlCompat(), fields=list("abcd"))


def test_unicode_is_composed_before_it_is_hashed():
    frame = pd.DataFrame({"name": ["Kjh\u00e4lk", "Kjha\u0308lk", "KJH\u00c4LK", "Kjhalk"]})
    filters = encode(frame, LongTermKey(key=KEY), fields=["name"])
    assert np.array_equal(filters.words[0], filters.words[1])
    assert np.array_equal(filters.words[0], filters.words[2])
    assert not np.array_equal(filters.words[0], filters.words[3])


@pytest.mark.parametrize("start", [0, 2**53 + 1, 2**63 - 4, 2**64 - 9])
def test_ids_of_any_size_are_one_however_they_are_stored(start):
    """Those beyond 2 ** 63 wrapped to negative numbers: a Dice of .72 with their own text."""
    ids = [start + i for i in range(8)]
    stored = [
        pd.Series(ids, dtype="uint64"),
        pd.Series(ids, dtype="UInt64"),
        pd.Series(ids, dtype=object),
        pd.Series([str(i) for i in ids]),
        pd.Series([f" {i}\u00a0" for i in ids]),
        *([pd.Series(ids, dtype="int64")] if ids[-1] < 2**63 else []),
    ]
    rows = np.arange(8)
    for encoding in (LongTermKey(key=KEY), LongTermKey(key=KEY, q=4)):
        first, *others = (encode(c.to_frame("id"), encoding, fields=["id"]) for c in stored)
        for other in others:
            assert dice_pairs(first, other, rows, rows).tolist() == [1.0] * 8
        assert len(np.unique(first.words, axis=0)) == 8
    for column in stored[1:]:
        blocks = block(stored[0].to_frame("id"), column.to_frame("id"), ["id"])
        assert np.array_equal(blocks.code_a, blocks.code_b)
        assert blocks.n_pairs == 8


def test_missing_truth_values_and_salts_are_not_text():
    frame = pd.DataFrame({"f": pd.array([True, False, None], dtype="boolean")})
    filters = encode(frame, LongTermKey(key=KEY), fields=["f"])
    assert (filters.popcount > 0).tolist() == [True, True, False]
    one, other = (
        encode(pd.DataFrame({"v": ["x"] * 4}), LongTermKey(key=KEY), fields=["v"], salt=salt)
        for salt in ([1.0, "Bo ", None, ""], ["1", "bo", np.nan, " "])
    )
    assert np.array_equal(one.words, other.words)
    assert np.array_equal(one.words[2], one.words[3])


def test_negative_values_differ_from_positive_ones():
    frame = pd.DataFrame({"value": [-123_456, 123_456, 0]})
    words = encode(frame, LongTermKey(key=KEY), fields=["value"]).words
    assert len(np.unique(words, axis=0)) == 3


def test_key_and_salt_change_every_filter_but_not_the_similarity_inside_a_salt():
    frame = pd.DataFrame({"value": [123_456, 123_457]})
    plain = encode(frame, LongTermKey(key=KEY), fields=["value"])
    other = encode(frame, LongTermKey(key=KEY[::-1]), fields=["value"])
    salted = encode(frame, LongTermKey(key=KEY), fields=["value"], salt=["s", "s"])
    apart = encode(frame, LongTermKey(key=KEY), fields=["value"], salt=["s", "t"])
    similar = [dice_pairs(f, f, [0], [1])[0] for f in (plain, salted, apart)]
    assert not np.array_equal(plain.words, other.words)
    assert similar[0] > 0.6
    assert similar[1] > 0.6
    assert similar[2] < 0.5


def test_every_bit_of_a_record_belongs_to_one_field():
    encoding = RecordFilter(key=KEY, weights=(0.3, 0.7), bits=100, field_bits=200)
    places = [encoding.places(i, 2) for i in (0, 1)]
    used = [set(p[p >= 0].tolist()) for p in places]
    assert len(used[0]) == 30
    assert len(used[1]) == 70
    assert used[0] | used[1] == set(range(100))


def test_hardening_changes_length_and_weight():
    rng = np.random.default_rng(3)
    filters = pack((rng.random((20, 999)) < 0.3).astype(np.uint8))
    balanced = balance(filters, key=KEY)
    assert balanced.bits == 2 * 999
    assert set(balanced.popcount.tolist()) == {999}
    folded = xor_fold(filters)
    assert folded.bits == 500
    bits = np.concatenate([filters.unpacked(), np.zeros((20, 1), np.uint8)], axis=1)
    assert np.array_equal(folded.unpacked(), bits[:, :500] ^ bits[:, 500:])


def test_frequency_attack_names_all_in_a_skewed_field_and_salt_stops_it():
    rng = np.random.default_rng(11)
    share = 0.5 ** np.arange(1, 9)
    plain = rng.choice(8, size=20_000, p=share / share.sum())
    frame = pd.DataFrame({"product": plain + 1000})
    guess = dict(zip(range(8), share, strict=True))
    open_filters = encode(frame, LongTermKey(key=KEY), fields=["product"])
    salted = encode(frame, LongTermKey(key=KEY), fields=["product"], salt=np.arange(20_000) % 500)
    assert frequency_attack(open_filters, plain, guess) == 1.0
    assert frequency_attack(salted, plain, guess) < 0.02


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: LongTermKey(key=b"short"), "at least 16 secret bytes"),
        (lambda: LongTermKey(key=KEY, bits=0), "bits is a whole number of at least 1"),
        (lambda: RecordFilter(key=KEY, weights=(0.5, 0.4)), "must sum to 1"),
        (lambda: encode(pd.DataFrame({"a": [1]}), LongTermKey(key=KEY), fields=["b"]), "not among"),
        (
            lambda: encode(pd.DataFrame({"a": [1]}), PprlCompat(), fields=["a"]),
            "one password a field",
        ),
        (
            lambda: encode(
                pd.DataFrame({"a": [1]}), LongTermKey(key=KEY), fields=["a"], salt=["x", "y"]
            ),
            "2 values for 1 records",
        ),
        (
            lambda: encode(
                pd.DataFrame({"a": ["x", "y"]}),
                RecordFilter(key=KEY, field_bits=100),
                fields=["a"],
            ),
            "raise field_bits to at least 1000",
        ),
    ],
)
def test_bad_input_is_one_clear_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
