"""Blocking, Dice and resolution: against loops and sets, and at their limits."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from pet_lab.linkage import LongTermKey, block, encode, filters, link, link_exact, resolve
from pet_lab.linkage.filters import dice_all, dice_pairs, pack

bit_sets = st.lists(st.sets(st.integers(0, 69)), min_size=1, max_size=7)
keys = st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=1, max_size=12)


def packed(sets, bits=70):
    array = np.zeros((len(sets), bits), dtype=np.uint8)
    for row, positions in enumerate(sets):
        array[row, list(positions)] = 1
    return pack(array)


@given(bit_sets, bit_sets)
def test_dice_is_that_of_sets(left, right):
    a, b = packed(left), packed(right)
    rows, cols = np.divmod(np.arange(len(left) * len(right)), len(right))
    got = dice_pairs(a, b, rows, cols)
    want = [
        2 * len(x & y) / (len(x) + len(y)) if x or y else 0.0
        for x, y in itertools.product(left, right)
    ]
    assert got.tolist() == want
    assert a.popcount.tolist() == [len(x) for x in left]


@settings(max_examples=40, deadline=None)
@given(bit_sets, bit_sets, st.sampled_from([0.0, 0.25, 0.5, 0.8, 1.0]))
def test_compiled_kernel_and_whole_arrays_agree(left, right, threshold):
    a, b = packed(left), packed(right)
    fast = dice_all(a, b, threshold=threshold)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filters, "dice_kernel", lambda: None)
        slow = dice_all(a, b, threshold=threshold)
    for one, other in zip(fast, slow, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.filterwarnings("ignore:.*lack a part of the key")
@given(keys, keys)
def test_blocked_pairs_are_those_of_the_double_loop(left, right):
    a, b = (pd.DataFrame({"k": pd.Series(k, dtype=object)}) for k in (left, right))
    blocks = block(a, b, ["k"])
    got = set(zip(*(v.tolist() for v in blocks.pairs()), strict=True))
    want = {
        (i, j) for i, x in enumerate(left) for j, y in enumerate(right) if x is not None and x == y
    }
    assert got == want
    assert blocks.n_pairs == len(want)
    x, z = np.arange(len(left)) + 1.0, np.arange(len(right)) ** 2.0
    assert blocks.total(x, z) == pytest.approx(sum(x[i] * z[j] for i, j in want))
    assert blocks.neighbours.tolist() == [sum(i == p for p, _ in want) for i in range(len(left))]


def files(seed, n_a=60, n_b=70):
    rng = np.random.default_rng(seed)
    a, b = (
        pd.DataFrame({"k": rng.integers(0, 4, n), "h": rng.integers(0, 3, n)}) for n in (n_a, n_b)
    )
    fa, fb = (pack((rng.random((n, 64)) < 0.5).astype(np.uint8)) for n in (n_a, n_b))
    return a, b, fa, fb


@pytest.mark.parametrize("batch_pairs", [1, 50, 10**6])
@pytest.mark.parametrize("use_kernel", [True, False])
def test_link_is_the_filtered_double_loop_whatever_the_batch(batch_pairs, use_kernel, monkeypatch):
    a, b, fa, fb = files(1)
    if not use_kernel:
        monkeypatch.setattr("pet_lab.linkage.blocking.dice_kernel", lambda: None)
    links = link(fa, fb, block(a, b, ["k"]), threshold=0.55, batch_pairs=batch_pairs)
    rows, cols = np.divmod(np.arange(len(a) * len(b)), len(b))
    similarity = dice_pairs(fa, fb, rows, cols)
    same = a["k"].to_numpy()[rows] == b["k"].to_numpy()[cols]
    hit = same & (similarity >= 0.55)
    assert set(zip(links.i, links.j, strict=True)) == set(zip(rows[hit], cols[hit], strict=True))
    assert np.array_equal(links.n_linked, np.bincount(rows[hit], minlength=len(a)))
    assert np.array_equal(links.n_blocked, np.bincount(rows[same], minlength=len(a)))


def test_several_blocking_keys_compare_a_pair_once():
    a, b, fa, fb = files(2)
    both = [block(a, b, ["k"]), block(a, b, ["h"])]
    links = link(fa, fb, both, threshold=0.5)
    rows, cols = np.divmod(np.arange(len(a) * len(b)), len(b))
    same = (a["k"].to_numpy()[rows] == b["k"].to_numpy()[cols]) | (
        a["h"].to_numpy()[rows] == b["h"].to_numpy()[cols]
    )
    hit = same & (dice_pairs(fa, fb, rows, cols) >= 0.5)
    found = list(zip(links.i.tolist(), links.j.tolist(), strict=True))
    assert len(found) == len(set(found))
    assert set(found) == set(zip(rows[hit].tolist(), cols[hit].tolist(), strict=True))
    assert np.array_equal(links.n_blocked, np.bincount(rows[same], minlength=len(a)))


def test_exact_links_and_their_accuracy():
    a = pd.DataFrame({"k": [1, 1, 2, 3], "v": [5, 6, 7, 8]})
    b = pd.DataFrame({"k": [1, 1, 2, 4], "v": [5, 5, 9, 8]})
    links = link_exact(a, b, block_on=["k"], on=["v"])
    assert set(zip(links.i.tolist(), links.j.tolist(), strict=True)) == {(0, 0), (0, 1)}
    assert links.n_blocked.tolist() == [2, 2, 1, 0]
    actual = links.accuracy(np.array([0, 1, 2, -1]))
    assert (actual.true_links, actual.false_links, actual.matches) == (1, 1, 3)
    assert actual.recall == pytest.approx(1 / 3)
    assert actual.precision == 0.5
    assert actual.fpr == 1 / 13


@pytest.mark.parametrize("method", ["greedy", "optimal"])
def test_resolution_is_one_to_one_and_optimal_beats_greedy(method):
    a, b, fa, fb = files(4)
    links = link(fa, fb, block(a, b, ["k"]), threshold=0.4)
    kept = resolve(links, method=method)
    assert len(set(kept.i.tolist())) == len(set(kept.j.tolist())) == len(kept)
    weight = np.zeros((len(a), len(b)))
    weight[links.i, links.j] = links.similarity
    best = weight[linear_sum_assignment(weight, maximize=True)].sum()
    assert kept.one_to_one
    if method == "optimal":
        assert kept.similarity.sum() == pytest.approx(best)
    else:
        assert kept.similarity.sum() <= best + 1e-9
        # Greedy is maximal: every link left out shares a record with one that stayed.
        left = ~(np.isin(links.i, kept.i) | np.isin(links.j, kept.j))
        assert not left.any()


def test_blank_and_partly_blank_keys_block_with_nothing_and_are_counted():
    a = pd.DataFrame({"name": ["bob", "bob", " ", None], "zip": ["", "1", "1", "1"]})
    b = pd.DataFrame({"name": ["bob", "bob", "", "\u00a0"], "zip": [" ", "1", "1", "1"]})
    sentence = r"3 of 4 records of the first file and 3 of 4 of the second lack a part .*name, zip"
    with pytest.warns(UserWarning, match=sentence):
        blocks = block(a, b, ["name", "zip"])
    assert blocks.code_a.tolist() == blocks.code_b.tolist() == [-1, 0, -1, -1]
    assert (blocks.n_blocks, blocks.n_pairs) == (1, 1)
    with pytest.warns(UserWarning, match="lack a part"):
        links = link_exact(a, b, block_on=["name"], on=["zip"])
    assert list(zip(links.i, links.j, strict=True)) == [(1, 1)]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (["Zo\u00eb"], ["ZOE\u0308 "]),
        (["van  der Berg"], [" Van der\tberg"]),
        (["stra\u00dfe"], ["STRASSE"]),
        ([100], ["100"]),
        ([100], [100.0]),
        (pd.Series([100], dtype="float32"), ["100"]),
        (pd.Series([2**63 + 7], dtype="uint64"), [str(2**63 + 7)]),
        (pd.to_datetime(["2021-03-04"]), ["2021-03-04"]),
        (pd.Categorical(["x"]), ["X"]),
        ([True], ["true"]),
    ],
)
def test_blocking_normalises_as_encoding_does(left, right):
    a, b = pd.DataFrame({"k": left}), pd.DataFrame({"k": right})
    assert block(a, b, ["k"]).n_pairs == 1
    encoding = LongTermKey(key=b"sixteen secret bytes")
    one, other = (encode(f, encoding, fields=["k"]) for f in (a, b))
    assert np.array_equal(one.words, other.words)


def test_texts_that_differ_stay_apart():
    a = pd.DataFrame({"k": ["007", "Zoe", "1.50", str(2**53 + 1)]})
    b = pd.DataFrame({"k": ["7", "Zo\u00eb", "1.5", str(2**53)]})
    assert block(a, b, ["k"]).n_pairs == 0


@pytest.mark.filterwarnings("ignore:.*lack a part of the key")
def test_all_records_in_one_block_and_no_record_in_any():
    a, b, fa, fb = files(5)
    one = block(a.assign(c="x"), b.assign(c="x"), ["c"])
    assert one.n_pairs == len(a) * len(b)
    assert len(link(fa, fb, one, threshold=0.0, batch_pairs=37)) == len(a) * len(b)
    none = block(a.assign(c=None), b.assign(c=None), ["c"])
    assert none.n_pairs == 0
    assert len(link(fa, fb, none, threshold=0.0)) == 0


def test_a_block_larger_than_memory_is_refused_with_its_size_and_the_fix():
    n = 200_000
    a = pd.DataFrame({"country": np.zeros(n, dtype=int)})
    blocks = block(a, a, ["country"])
    with pytest.raises(ValueError, match=r"largest block has 200,000 x 200,000.*Add a column"):
        blocks.pairs()
    filters_ = pack(np.zeros((n, 64), np.uint8))
    with pytest.raises(ValueError, match="40,000,000,000 comparisons in one block"):
        link(filters_, filters_, blocks, threshold=0.8)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, 80, float("nan")])
def test_thresholds_outside_zero_and_one_are_refused(threshold):
    a, b, fa, fb = files(6)
    with pytest.raises(ValueError, match=r"from 0 to 1, got .* Dice similarity"):
        link(fa, fb, block(a, b, ["k"]), threshold=threshold)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda a, b, fa, fb: block(a, b, ["zip"]), "not in the first file"),
        (lambda a, b, fa, fb: block(a, b, []), "names columns of both files"),
        (lambda a, b, fa, fb: link(fa, fb, [], threshold=0.5), "at least one blocking key"),
        (
            lambda a, b, fa, fb: link(fb, fa, block(a, b, ["k"]), threshold=0.5),
            "blocks are of files",
        ),
        (lambda a, b, fa, fb: dice_all(fa, fb, threshold=0.5, max_pairs=10), "use a blocking key"),
        (
            lambda a, b, fa, fb: dice_pairs(fa, pack(np.zeros((1, 10), np.uint8)), [0], [0]),
            "encode both files alike",
        ),
    ],
)
def test_bad_input_is_one_clear_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(*files(7))
