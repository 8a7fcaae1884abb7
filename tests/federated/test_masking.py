"""Pairwise masking: sums by definition, with offices that fall silent, and what the server sees."""

import itertools

import numpy as np
import pytest

from pet_lab.federated import masking
from pet_lab.federated.masking import MaskingError, MaskingOffice, Quantiser, aggregate

VECTORS = [np.random.default_rng(i).uniform(-1, 1, 500) for i in range(5)]


def test_the_field_is_a_field():
    import gmpy2

    assert gmpy2.is_prime(masking.PRIME)
    assert not any(gmpy2.is_prime(2**256 + k) for k in range(1, 297))


@pytest.mark.parametrize("before", [(), (2,), (1, 5)])
@pytest.mark.parametrize("after", [(), (3,)])
def test_sum_of_the_survivors(before, after):
    if len(before) + len(after) > 2:
        with pytest.raises(MaskingError, match="3 are needed"):
            aggregate(VECTORS, dies_before_masking=before, dies_after_masking=after)
        return
    got = aggregate(VECTORS, dies_before_masking=before, dies_after_masking=after)
    alive = [i for i in range(1, 6) if i not in before]
    assert got.survivors == tuple(alive)
    want = sum(VECTORS[i - 1] for i in alive)
    np.testing.assert_allclose(got.total, want, atol=5 * Quantiser(terms=5).step / 2 + 1e-12)
    assert got.up_bytes > 4 * 500 * len(alive) / 5


def test_what_the_server_sees_is_uniform_and_never_the_same():
    zeros = [np.zeros(4000)] * 4
    a, b = aggregate(zeros), aggregate(zeros)
    for i in range(1, 5):
        assert not np.array_equal(a.seen[i], b.seen[i])
        top = np.bincount(a.seen[i] >> 28, minlength=16)
        assert ((top - 250) ** 2 / 250).sum() < 15 + 5 * np.sqrt(30)
    np.testing.assert_array_equal(a.total, 0)


def test_one_unmasking_short_reveals_nothing():
    """Without the seed of one survivor the rest of the unmasking leaves noise."""
    got = aggregate([np.zeros(4000)] * 4)
    partial = np.sum(list(got.seen.values()), axis=0, dtype=np.uint32)
    assert np.bincount(partial >> 28, minlength=16).min() > 150


@pytest.mark.parametrize(
    ("value", "words"), [(np.nan, "nan"), (np.inf, "inf"), (9.0, "at most 4"), (-5.0, "at most 4")]
)
def test_values_that_do_not_fit_are_refused(value, words):
    bad = VECTORS[0].copy()
    bad[7] = value
    with pytest.raises(MaskingError, match=rf"values\[7\].*{words}"):
        aggregate([bad, *VECTORS[1:]])


def test_vectors_of_another_length_are_refused():
    with pytest.raises(MaskingError, match="Office 2 sent 499 values, expected 500"):
        aggregate([VECTORS[0], VECTORS[1][:-1], VECTORS[2]])


def test_a_sum_beyond_what_honest_offices_can_make_is_noticed():
    q = Quantiser(terms=4)
    with pytest.raises(MaskingError, match="more than 4 honest"):
        q.decode(np.array([5 * q.half], dtype=np.uint32), 4)
    with pytest.raises(MaskingError, match="do not fit the ring"):
        Quantiser(bits=31, terms=4)


def crew(n=4, threshold=3):
    offices = {i: MaskingOffice(i, n, threshold) for i in range(1, n + 1)}
    public = {i: o.advertise() for i, o in offices.items()}
    wrapped = {i: o.share(public) for i, o in offices.items()}
    return offices, public, wrapped


def test_shares_are_for_their_receiver_only():
    offices, _, wrapped = crew()
    offices[2].receive({1: wrapped[1][2]})
    with pytest.raises(MaskingError, match="not for office 3"):
        offices[3].receive({1: wrapped[1][2]})
    with pytest.raises(MaskingError, match="damaged"):
        offices[4].receive({1: wrapped[1][4][:-1] + b"x"})
    with pytest.raises(MaskingError, match="takes no part"):
        offices[4].receive({9: wrapped[1][4]})


def test_an_office_never_gives_both_secrets_of_another():
    offices, _, wrapped = crew()
    for i, o in offices.items():
        o.receive({j: w[i] for j, w in wrapped.items() if j != i})
    with pytest.raises(MaskingError, match="below the threshold"):
        offices[1].reveal([1, 2])
    answer = offices[1].reveal([1, 2, 3])
    assert {k: kind for k, (kind, _) in answer.items()} == {
        1: "seed",
        2: "seed",
        3: "seed",
        4: "key",
    }
    with pytest.raises(MaskingError, match="asked again"):
        offices[1].reveal([1, 2, 3, 4])
    with pytest.raises(MaskingError, match="must hold me"):
        offices[2].reveal([1, 3, 4])


@pytest.mark.parametrize(("n", "threshold"), [(4, 2), (4, 5), (1, 1)])
def test_thresholds_below_a_majority_are_refused(n, threshold):
    with pytest.raises(MaskingError, match="more than half"):
        MaskingOffice(1, n, threshold)


def test_swapped_or_copied_keys_are_refused():
    offices, public, _ = crew()
    with pytest.raises(MaskingError, match="mine unchanged"):
        MaskingOffice(1, 4, 3).share(public)
    with pytest.raises(MaskingError, match="copies"):
        offices[1].share({**public, 3: public[2]})
    with pytest.raises(MaskingError, match="mine unchanged"):
        offices[1].share({1: public[1]})


def test_any_threshold_shares_join_and_wrong_ones_do_not():
    secret = bytes(range(32))
    shares = masking._split(secret, [1, 2, 3, 4], 3)
    for chosen in itertools.combinations(shares, 3):
        assert masking._join({i: shares[i] for i in chosen}, 3) == secret
    with pytest.raises(MaskingError, match="are needed"):
        masking._join({1: shares[1], 2: shares[2]}, 3)


def test_secrets_do_not_show():
    office = MaskingOffice(1, 4, 3)
    assert office._seed.hex() not in repr(office)
    assert "_seed" not in repr(office)
