"""Pairwise masking: sums by definition, with offices that fall silent, and what the server sees."""

import itertools

import numpy as np
import pytest

from pet_lab.federated import masking
from pet_lab.federated.masking import (
    MaskingError,
    MaskingOffice,
    MaskingServer,
    Quantiser,
    aggregate,
)

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
    np.testing.assert_allclose(got.total, want, atol=5 * Quantiser(max_terms=5).step / 2 + 1e-12)
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
    ("value", "words"), [(np.nan, "nan"), (np.inf, "inf"), (9.0, "up to 4"), (-5.0, "up to 4")]
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
    q = Quantiser(max_terms=4)
    with pytest.raises(MaskingError, match="more than 4 honest"):
        q.decode(np.array([5 * q.half], dtype=np.uint32), 4)
    with pytest.raises(MaskingError, match="do not fit the ring"):
        Quantiser(value_bits=31, max_terms=4)


def crew(n=4, threshold=3):
    offices = {i: MaskingOffice(n, threshold, i) for i in range(1, n + 1)}
    public = {i: o.advertise() for i, o in offices.items()}
    wrapped = {i: o.share(public) for i, o in offices.items()}
    return offices, public, wrapped


VECTOR = Quantiser(max_terms=4).encode(VECTORS[0])


def ready():
    """Offices that hold each other's shares."""
    offices, _, wrapped = crew()
    for i, o in offices.items():
        o.receive({j: w[i] for j, w in wrapped.items() if j != i})
    return offices


@pytest.mark.parametrize("number", [0, -1, 5, 7, 2**256 + 297, True, "1"])
def test_numbers_that_were_not_agreed_are_refused_by_office_and_server(number):
    """At 0 lies the secret itself; invented offices would collect a threshold of shares."""
    offices = {i: MaskingOffice(4, 3, i) for i in (1, 2, 3, 4)}
    spy = MaskingOffice(4, 3, 4)
    public = {i: o.advertise() for i, o in offices.items() if i != 4} | {number: spy.advertise()}
    if number is True:
        public = {i: k for i, k in public.items() if i != 1} | {number: spy.advertise()}
    asked = offices[2]
    with pytest.raises(MaskingError, match="numbered 1 to 4"):
        asked.share(public)
    assert not asked._held
    with pytest.raises(MaskingError, match="numbered 1 to 4"):
        MaskingOffice(4, 3, number)
    with pytest.raises(MaskingError, match="numbered 1 to 4"):
        MaskingServer(4, 3, 500).keys(number, spy.advertise())


def test_an_office_masks_shares_and_takes_shares_once():
    """Two vectors under one mask would open their difference."""
    offices, public, wrapped = crew()
    with pytest.raises(MaskingError, match="shared once"):
        offices[1].share(public)
    offices[1].receive({j: wrapped[j][1] for j in (2, 3)})
    with pytest.raises(MaskingError, match="came twice"):
        offices[1].receive({2: wrapped[2][1]})
    offices[1].mask(VECTOR)
    with pytest.raises(MaskingError, match="one vector a round"):
        offices[1].mask(VECTOR)
    with pytest.raises(MaskingError, match="masked already"):
        offices[1].receive({4: wrapped[4][1]})


def test_the_server_takes_each_part_once_and_from_offices_of_the_round_only():
    offices, server = ready(), MaskingServer(4, 3, VECTOR.size)
    for i in (1, 2, 3):
        server.keys(i, offices[i].advertise())
    with pytest.raises(MaskingError, match="twice"):
        server.keys(1, offices[4].advertise())
    raw = offices[1].mask(VECTOR).astype("<u4").tobytes()
    with pytest.raises(MaskingError, match="takes no part"):
        server.vector(4, raw)
    server.vector(1, raw)
    with pytest.raises(MaskingError, match="twice"):
        server.vector(1, raw)
    server.vector(2, raw)
    with pytest.raises(MaskingError, match="2 offices sent vectors, 3 are needed"):
        server.survivors()
    with pytest.raises(MaskingError, match="list of survivors is final"):
        server.answer(1, {1: ("seed", bytes(33))})
    server.keys(4, offices[4].advertise())
    server.vector(3, raw)
    assert server.survivors() == (1, 2, 3)
    with pytest.raises(MaskingError, match="office 4 came after the list"):
        server.vector(4, raw)
    with pytest.raises(MaskingError, match="takes no part"):
        server.answer(0, {})
    with pytest.raises(MaskingError, match="another share of 1"):
        server.answer(1, {1: ("key", bytes(33))})
    server.answer(1, {1: ("seed", bytes(33))})
    with pytest.raises(MaskingError, match="twice"):
        server.answer(1, {1: ("seed", bytes(33))})


@pytest.mark.parametrize("key", [bytes(32), b"short"])
def test_public_keys_that_are_none_are_refused(key):
    offices = {i: MaskingOffice(3, 2, i) for i in (1, 2, 3)}
    public = {i: o.advertise() for i, o in offices.items()} | {3: (b"x" * 32, key)}
    with pytest.raises(MaskingError, match="public key is none"):
        offices[1].share(public)


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
    offices = ready()
    with pytest.raises(MaskingError, match="not before"):
        offices[1].reveal([1, 2, 3])
    for o in offices.values():
        o.mask(VECTOR)
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
        MaskingOffice(n, threshold, 1)


def test_swapped_or_copied_keys_are_refused():
    offices, public, _ = crew()
    with pytest.raises(MaskingError, match="mine unchanged"):
        MaskingOffice(4, 3, 1).share(public)
    offices = {i: MaskingOffice(4, 3, i) for i in (1, 2, 3, 4)}
    public = {i: o.advertise() for i, o in offices.items()}
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
    office = MaskingOffice(4, 3, 1)
    assert office._seed.hex() not in repr(office)
    assert "_seed" not in repr(office)
