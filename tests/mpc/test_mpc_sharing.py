"""The safe with K keys, Shamir's shares beside it, commitments and check words."""

import itertools
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pet_lab.mpc import sharing
from pet_lab.mpc.errors import Cheating, MpcError

P = sharing.prime(120)
numbers = st.lists(st.integers(0, P - 1), min_size=1, max_size=5)


@given(numbers, st.integers(2, 6))
def test_k_shares_open_the_safe(values, k):
    assert sharing.join(sharing.split(values, k, P), P) == values


@given(st.integers(0, P - 1), st.integers(2, 6), st.data())
def test_one_key_short_leaves_every_value_possible(value, k, data):
    """For each candidate there is exactly one last share that fits: K - 1 shares decide nothing."""
    rows = sharing.split([value], k, P)
    missing = data.draw(st.integers(0, k - 1))
    known = [rows[j] for j in range(k) if j != missing]
    candidate = data.draw(st.integers(0, P - 1))
    fits = (candidate - sharing.join(known, P)[0]) % P
    assert sharing.join([*known, [fits]], P) == [candidate]


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_two_of_three_shares_are_uniform_whatever_the_secret(missing):
    """In a field of 5 all 25 pairs occur alike: chi-square with 24 degrees of freedom below 60."""
    for secret in (0, 3):
        seen = dict.fromkeys(itertools.product(range(5), repeat=2), 0)
        for _ in range(5000):
            rows = [r[0] for r in sharing.split([secret], 3, 5)]
            seen[tuple(r for j, r in enumerate(rows) if j != missing)] += 1
        assert sum((n - 200) ** 2 / 200 for n in seen.values()) < 60  # p about 7e-5


@given(st.integers(0, P - 1))
def test_two_of_three_open_shamirs_shares(value):
    """The reason why inputs do not wait as mpyc's shares."""
    shares = sharing.shamir(value, 3, 1, P)
    for a, b in itertools.combinations(range(3), 2):
        assert sharing.interpolate({a + 1: shares[a], b + 1: shares[b]}, P) == value


@given(st.integers(0, P - 1), st.integers(0, P - 1))
def test_one_of_three_tells_nothing_of_shamirs_secret(value, other):
    shares = sharing.shamir(value, 3, 1, P)
    second = sharing.interpolate({0: other, 1: shares[0]}, P, at=2)
    assert sharing.interpolate({1: shares[0], 2: second}, P) == other


@pytest.mark.parametrize(("k", "threshold"), [(3, 1), (4, 1), (5, 2), (7, 3)])
def test_right_shares_open(k, threshold):
    values = [secrets.randbelow(P) for _ in range(3)]
    rows = list(zip(*(sharing.shamir(v, k, threshold, P) for v in values), strict=True))
    assert sharing.open_shamir(rows, threshold, P) == sharing.Opened(values)


@pytest.mark.parametrize("seat", range(5))
def test_of_five_one_wrong_share_is_named_and_corrected(seat):
    rows = [[v] for v in sharing.shamir(77, 5, 2, P)]
    rows[seat][0] = (rows[seat][0] + 1) % P
    assert sharing.open_shamir(rows, 2, P) == sharing.Opened([77], (seat,))


@pytest.mark.parametrize("seats", list(itertools.combinations(range(5), 2)))
def test_of_five_two_wrong_shares_are_found(seats):
    rows = [[v] for v in sharing.shamir(77, 5, 2, P)]
    for s in seats:
        rows[s][0] = secrets.randbelow(P)
    with pytest.raises(Cheating):
        sharing.open_shamir(rows, 2, P)


@pytest.mark.parametrize("seat", range(3))
def test_of_three_one_wrong_share_is_found_but_not_named(seat):
    rows = [[v] for v in sharing.shamir(77, 3, 1, P)]
    rows[seat][0] = (rows[seat][0] + 1) % P
    with pytest.raises(Cheating, match="cannot be told") as caught:
        sharing.open_shamir(rows, 1, P)
    assert caught.value.suspects == ()


@given(numbers)
def test_packing(values):
    assert sharing.unpack(sharing.pack(values, P), P) == values


def test_packed_shares_are_checked():
    with pytest.raises(MpcError, match="multiple"):
        sharing.unpack(b"123", P)
    with pytest.raises(MpcError, match="outside"):
        sharing.unpack(b"\xff" * 16, P)


def test_a_commitment_binds_and_needs_its_salt():
    share, salt = b"share", secrets.token_bytes(32)
    made = sharing.commit(share, salt)
    assert made == sharing.commit(share, salt)
    assert made != sharing.commit(b"sharf", salt)
    assert made != sharing.commit(share, secrets.token_bytes(32))
    assert sharing.commit(b"ab", b"c" * 32) != sharing.commit(b"b", b"a" + b"c" * 31)


@given(numbers, st.data())
def test_a_changed_share_changes_its_check_word(values, data):
    row = [*values, secrets.randbelow(P)]
    point = 1 + secrets.randbelow(P - 1)
    where = data.draw(st.integers(0, len(row) - 1))
    other = list(row)
    other[where] = (other[where] + data.draw(st.integers(1, P - 1))) % P
    assert sharing.word(row, point, P) != sharing.word(other, point, P)


def test_check_words_are_linear_so_shares_of_them_work():
    rows = [[secrets.randbelow(P) for _ in range(4)] for _ in range(3)]
    total = [sum(c) % P for c in zip(*rows, strict=True)]
    words = [sharing.word(r, 9, P) for r in rows]
    assert sharing.word(total, 9, P) == sum(words) % P


def test_fields_are_large_enough_or_refused():
    assert sharing.prime(126) == 2**127 - 1
    assert sharing.prime(127) == 2**521 - 1
    assert all((2**e - 1) % 4 == 3 for e in sharing.MERSENNE)
    with pytest.raises(MpcError, match="may need 3000"):
        sharing.prime(3000)
