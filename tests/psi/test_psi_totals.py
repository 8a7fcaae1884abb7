"""Totals under every scheme against the totals in clear, and what a reply tells the key holder."""

import math

import gmpy2
import numpy as np
import pytest
from phe import paillier

from pet_lab import psi
from pet_lab.psi import totals


@pytest.mark.parametrize("scheme", totals.SCHEMES)
def test_totals_are_those_in_clear(scheme):
    n = 40 if scheme == "paillier" else 9000
    rng = np.random.default_rng(3)
    values = rng.integers(-(10**6), 10**6, n)
    cells = rng.integers(0, 4, n)
    cost = totals.total_by_cell(scheme, values, cells, 5, paillier_bits=1024)
    assert list(cost.totals) == [values[cells == c].sum() for c in range(5)]
    assert cost.absolute_error == 0
    assert cost.bytes_sent > 0


def blind_of(ciphertext, public, private):
    """r of the ciphertext (1 + n)^m r^n: what its maker drew, and what a key holder can read."""
    n = public.n
    order = math.lcm(private.p - 1, private.q - 1)
    return int(gmpy2.powmod(ciphertext % n, gmpy2.invert(n, order), n))


def test_the_key_holder_cannot_tell_two_masks_apart():
    # Eight equal values: every mask of four rows has one total, so only randomness could tell which
    # rows were added. The owner knows the r of each of its ciphertexts, and reads that of a reply.
    public, private = paillier.generate_paillier_keypair(n_length=512)
    sent = [public.raw_encrypt(7) for _ in range(8)]
    blinds = [blind_of(c, public, private) for c in sent]
    assert public.raw_encrypt(7, r_value=blinds[0]) == sent[0]  # it does read it
    seen = set()
    for mask in ([0, 0, 0, 0, 1, 1, 1, 1], [0, 1, 0, 1, 0, 1, 0, 1]):
        for _ in range(3):
            replies = totals.add_encrypted(public, sent, np.array(mask), 2)
            assert [private.raw_decrypt(c) for c in replies] == [28, 28]
            read = [blind_of(c, public, private) for c in replies]
            for cell, r in enumerate(read):
                product = math.prod(b for b, m in zip(blinds, mask, strict=True) if m == cell)
                assert r != product % public.n
            seen.update(read)
    assert len(seen) == 12  # a fresh r each time: replies to one mask are as different as to two


def test_an_empty_cell_looks_like_any_other():
    public, private = paillier.generate_paillier_keypair(n_length=512)
    (empty,) = totals.add_encrypted(public, [], np.array([], dtype=int), 1)
    assert empty.bit_length() > 900
    assert private.raw_decrypt(empty) == 0


def test_what_is_not_offered_is_refused():
    for scheme in ("magic", "bfv", "ckks"):
        with pytest.raises(psi.PsiError, match="Schemes are shares, paillier"):
            totals.total_by_cell(scheme, np.zeros(1, dtype=int), np.zeros(1, dtype=int), 1)
