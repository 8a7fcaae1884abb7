"""Secret sharing: what opens, what tells nothing, what is detected."""

import itertools
import secrets

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pet_lab import shares

P = shares.mersenne_prime(120)
elements = st.integers(0, P - 1)
vectors = st.lists(elements, min_size=1, max_size=5)
WIDE = 2**256 + 297  # as the masking protocol uses it


# --- additive ------------------------------------------------------------------------------------


@given(vectors, st.integers(2, 6))
def test_all_additive_shares_together_give_the_values(values, parties):
    assert shares.additive_join(shares.additive_split(values, parties, P), P) == values


@given(elements, st.integers(2, 6), st.data())
def test_one_share_short_leaves_every_value_possible(value, parties, data):
    """For each candidate there is exactly one last share that fits: K - 1 shares decide nothing."""
    rows = shares.additive_split([value], parties, P)
    missing = data.draw(st.integers(0, parties - 1))
    known = [rows[j] for j in range(parties) if j != missing]
    candidate = data.draw(elements)
    fits = (candidate - shares.additive_join(known, P)[0]) % P
    assert shares.additive_join([*known, [fits]], P) == [candidate]


def chi_square(counts, expected):
    return sum((n - expected) ** 2 / expected for n in counts)


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_two_of_three_additive_shares_are_uniform_whatever_the_secret(missing):
    """In a field of 5 all 25 pairs occur alike: chi-square with 24 degrees of freedom below 60."""
    for secret in (0, 3):
        seen = dict.fromkeys(itertools.product(range(5), repeat=2), 0)
        for _ in range(5000):
            rows = [r[0] for r in shares.additive_split([secret], 3, 5)]
            seen[tuple(r for j, r in enumerate(rows) if j != missing)] += 1
        assert chi_square(seen.values(), 200) < 60  # p about 7e-5


whole_numbers = arrays(np.int64, st.integers(0, 6), elements=st.integers(-(2**63), 2**63 - 1))


@given(whole_numbers, st.integers(2, 5))
def test_ring_shares_give_whole_numbers_of_either_sign(values, parties):
    parts = shares.ring_split(values, parties)
    assert [p.dtype for p in parts] == [np.uint64] * parties
    assert shares.ring_join(parts).tolist() == values.tolist()


def test_sums_of_ring_shares_are_shares_of_the_sum():
    values = np.array([-7, 12, 5], dtype=np.int64)
    sums = [part.sum(keepdims=True) for part in shares.ring_split(values, 3)]
    assert shares.ring_join(sums).tolist() == [10]


@pytest.mark.parametrize("which", [0, 1])
def test_each_ring_share_alone_is_uniform(which):
    """Top bytes of 12 800 shares of one constant: 255 degrees of freedom, 4 sd above is 346."""
    part = shares.ring_split(np.full(12_800, 5, dtype=np.int64), 2)[which]
    counts = np.bincount((part >> np.uint64(56)).astype(int), minlength=256)
    assert chi_square(counts, 50) < 346


# --- Shamir --------------------------------------------------------------------------------------


@given(elements, st.integers(1, 6), st.data())
def test_any_needed_shamir_shares_give_the_secret(secret, needed, data):
    points = data.draw(
        st.lists(st.integers(1, 10**6), min_size=needed, max_size=7, unique=True), label="points"
    )
    dealt = shares.shamir_split(secret, points, needed=needed, modulus=P)
    chosen = data.draw(st.permutations(points))[:needed]
    opened = shares.shamir_join({x: dealt[x] for x in chosen}, needed=needed, prime=P)
    assert opened == secret


@given(elements, elements)
def test_one_of_three_shares_leaves_every_shamir_secret_possible(value, other):
    dealt = shares.shamir_split(value, [1, 2, 3], needed=2, modulus=P)
    second = shares.interpolate({0: other, 1: dealt[1]}, P, at=2)
    assert shares.interpolate({1: dealt[1], 2: second}, P) == other


@pytest.mark.parametrize("known", list(itertools.combinations([1, 2, 3], 2)))
def test_fewer_than_needed_shamir_shares_are_uniform_whatever_the_secret(known):
    for secret in (0, 3):
        seen = dict.fromkeys(itertools.product(range(5), repeat=2), 0)
        for _ in range(5000):
            dealt = shares.shamir_split(secret, [1, 2, 3], needed=3, modulus=5)
            seen[tuple(dealt[x] for x in known)] += 1
        assert chi_square(seen.values(), 200) < 60


def test_interpolation_is_that_of_a_known_polynomial():
    def polynomial(x):
        return (7 + 3 * x + 11 * x**2) % 101

    at = {x: polynomial(x) for x in (1, 4, 9)}
    assert [shares.interpolate(at, 101, x) for x in range(20)] == [polynomial(x) for x in range(20)]


@pytest.mark.parametrize("points", [[0, 1, 2], [1, 2, 101], [1, 1, 2], [1, 2, 103]])
def test_points_that_would_hold_the_secret_or_coincide_are_refused(points):
    with pytest.raises(shares.ShareError, match=r"distinct|at 0"):
        shares.shamir_split(5, points, needed=2, modulus=101)
    if len(set(points)) == 3:
        with pytest.raises(shares.ShareError, match=r"distinct|at 0"):
            shares.shamir_join(dict.fromkeys(points, 1), needed=2, prime=101)


@pytest.mark.parametrize(
    ("secret", "needed", "sentence"),
    [(101, 2, "outside the field"), (-1, 2, "outside"), (5, 0, "1 to 3"), (5, 4, "1 to 3")],
)
def test_secrets_and_counts_that_make_no_sense_are_refused(secret, needed, sentence):
    with pytest.raises(shares.ShareError, match=sentence):
        shares.shamir_split(secret, [1, 2, 3], needed=needed, modulus=101)


def test_too_few_shamir_shares_are_refused():
    dealt = shares.shamir_split(77, [1, 2, 3], needed=3, modulus=WIDE)
    del dealt[2]
    with pytest.raises(shares.ShareError, match="2 shares are here, 3 are needed"):
        shares.shamir_join(dealt, needed=3, prime=WIDE)


def dealt_rows(values, parties, needed):
    columns = [shares.shamir_split(v, parties, needed=needed, modulus=P) for v in values]
    return {x: [c[x] for c in columns] for x in parties}


@pytest.mark.parametrize(("n", "needed"), [(3, 2), (4, 2), (5, 3), (7, 4)])
def test_right_shares_open(n, needed):
    values = [secrets.randbelow(P) for _ in range(3)]
    rows = dealt_rows(values, range(1, n + 1), needed)
    assert shares.shamir_open(rows, needed=needed, prime=P) == shares.Opened(values)


@pytest.mark.parametrize("liar", range(1, 6))
def test_of_five_one_wrong_share_is_named_and_corrected(liar):
    rows = dealt_rows([77, 5], range(1, 6), 3)
    rows[liar][1] = (rows[liar][1] + 1) % P
    assert shares.shamir_open(rows, needed=3, prime=P) == shares.Opened([77, 5], (liar,))


@pytest.mark.parametrize("liars", list(itertools.combinations(range(1, 8), 2)))
def test_of_seven_two_wrong_shares_are_named_and_corrected(liars):
    rows = dealt_rows([77], range(1, 8), 3)
    for x in liars:
        rows[x][0] = secrets.randbelow(P)
    assert shares.shamir_open(rows, needed=3, prime=P) == shares.Opened([77], liars)


@pytest.mark.parametrize("liars", list(itertools.combinations(range(1, 6), 2)))
def test_of_five_two_wrong_shares_are_detected(liars):
    rows = dealt_rows([77], range(1, 6), 3)
    for x in liars:
        rows[x][0] = secrets.randbelow(P)
    with pytest.raises(shares.SharesContradict):
        shares.shamir_open(rows, needed=3, prime=P)


@pytest.mark.parametrize("liar", [1, 2, 3])
def test_of_three_one_wrong_share_is_detected_but_not_named(liar):
    rows = dealt_rows([77], [1, 2, 3], 2)
    rows[liar][0] = (rows[liar][0] + 1) % P
    with pytest.raises(shares.SharesContradict, match="cannot be told"):
        shares.shamir_open(rows, needed=2, prime=P)


def test_rows_of_different_lengths_are_refused():
    with pytest.raises(shares.ShareError, match="different lengths"):
        shares.shamir_open({1: [1, 2], 2: [3]}, needed=2, prime=P)


# --- sending, committing, checking ---------------------------------------------------------------


@given(vectors)
def test_packing(values):
    assert shares.unpack(shares.pack(values, P), P) == values


def test_packed_shares_are_checked():
    with pytest.raises(shares.ShareError, match="multiple"):
        shares.unpack(b"123", P)
    with pytest.raises(shares.ShareError, match="outside"):
        shares.unpack(b"\xff" * 16, P)


def test_a_commitment_binds_and_needs_its_salt():
    share, salt = b"share", secrets.token_bytes(32)
    commitment = shares.commit(share, salt)
    assert commitment == shares.commit(share, salt)
    assert commitment != shares.commit(b"sharf", salt)
    assert commitment != shares.commit(share, secrets.token_bytes(32))
    assert shares.commit(b"ab", b"c" * 32) != shares.commit(b"b", b"a" + b"c" * 31)


@given(vectors, st.data())
def test_a_changed_share_changes_its_check_value(values, data):
    row = [*values, secrets.randbelow(P)]
    point = 1 + secrets.randbelow(P - 1)
    where = data.draw(st.integers(0, len(row) - 1))
    other = list(row)
    other[where] = (other[where] + data.draw(st.integers(1, P - 1))) % P
    assert shares.check_value(row, point, P) != shares.check_value(other, point, P)


def test_check_values_are_by_definition_and_linear_so_shares_of_them_work():
    assert shares.check_value([2, 3, 10], 5, 101) == (2 * 5 + 3 * 25 + 10) % 101
    rows = [[secrets.randbelow(P) for _ in range(4)] for _ in range(3)]
    values = [shares.check_value(row, 9, P) for row in rows]
    assert shares.check_value(shares.additive_join(rows, P), 9, P) == sum(values) % P


def test_fields_are_large_enough_or_refused():
    assert shares.mersenne_prime(126) == 2**127 - 1
    assert shares.mersenne_prime(127) == 2**521 - 1
    assert all((2**e - 1) % 4 == 3 for e in shares.MERSENNE_EXPONENTS)
    with pytest.raises(shares.ShareError, match="may need 3000"):
        shares.mersenne_prime(3000)
