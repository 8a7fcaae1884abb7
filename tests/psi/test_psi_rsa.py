"""Blind RSA: the arithmetic against its definition, and every element that must be refused."""

import secrets

import gmpy2
import numpy as np
import pandas as pd
import pytest
from plain import elements_of

from pet_lab import psi
from pet_lab.psi import rsa_blind, rsa_raw
from pet_lab.psi.elements import bytes_of

SESSION = bytes(range(16))


@pytest.fixture(scope="module")
def key():
    return rsa_raw.RsaPrivateKey(2048)


@pytest.mark.parametrize("backend", rsa_raw.backends())
@pytest.mark.parametrize("bits", [1024, 2048])
def test_the_private_operation_is_the_inverse_of_the_public_one(backend, bits):
    key = rsa_raw.RsaPrivateKey(bits, backend)
    values = [2, key.modulus - 2, *(secrets.randbelow(key.modulus) for _ in range(5))]
    signed = key.power([v.to_bytes(key.width, "big") for v in values])
    for v, s in zip(values, signed, strict=True):
        assert pow(int.from_bytes(s, "big"), rsa_raw.E, key.modulus) == v


def test_an_unknown_backend_is_named():
    with pytest.raises(ValueError, match="not on this machine"):
        rsa_raw.RsaPrivateKey(2048, "abacus")


def test_the_hash_fills_the_whole_domain(key):
    values = [
        rsa_blind.full_domain_hash(b"%d" % i, modulus=key.modulus, session=SESSION)
        for i in range(400)
    ]
    shares = np.array([float(gmpy2.mpfr(v) / key.modulus) for v in values])
    # Uniform on (0, 1): mean within 5 standard errors of 1/2; a plain SHA-256 would sit at 0.
    assert abs(shares.mean() - 0.5) < 5 / np.sqrt(12 * 400)
    assert shares.max() > 0.95
    assert shares.min() < 0.05
    other = rsa_blind.full_domain_hash(b"0", modulus=key.modulus, session=bytes(16))
    assert other != values[0]


def test_all_inverses_with_one_inversion(key):
    values = [gmpy2.mpz(2 + secrets.randbelow(key.modulus - 3)) for _ in range(20)]
    for v, i in zip(values, rsa_blind.invert_all(values, key.modulus), strict=True):
        assert v * i % key.modulus == 1
    assert rsa_blind.invert_all([], key.modulus) == []
    with pytest.raises(psi.MessageError, match="not an RSA key"):
        rsa_blind.invert_all([gmpy2.mpz(key._numbers.p)], key.modulus)


@pytest.mark.parametrize("name", ["zero", "one", "minus one", "n", "above n", "p", "multiple of q"])
def test_elements_that_are_not_units_are_refused(key, name):
    n = key.modulus
    bad = {
        "zero": 0,
        "one": 1,
        "minus one": n - 1,
        "n": n,
        "above n": n + 1,
        "p": key._numbers.p,
        "multiple of q": key._numbers.q * 12345,
    }[name]
    rows = bytes_of([v.to_bytes(key.width, "big") for v in (5, bad, 7)], key.width)
    with pytest.raises(psi.MessageError, match=r"between 2 and n - 2|shares a factor"):
        rsa_blind.check_blinded(rows, n)
    rsa_blind.check_blinded(rows[[0, 2]], n)


def test_a_modulus_that_is_none_is_refused(key):
    prime = int(gmpy2.next_prime(1 << 2047))
    half = int(gmpy2.next_prime(3 << 1022))
    for bad, said in (
        (key.modulus >> 8, "bits, agreed were 2048"),
        (key.modulus - 1 | 1 << 2047, "small factor"),
        (prime, "a prime or a power"),
        (half * half, "a prime or a power"),
    ):
        with pytest.raises(psi.MessageError, match=said):
            rsa_blind.check_modulus(bad, 2048)
    rsa_blind.check_modulus(key.modulus, 2048)


def test_one_wrong_signature_among_many_is_noticed(key):
    hashed = [gmpy2.mpz(2 + secrets.randbelow(key.modulus - 3)) for _ in range(10)]
    signed = [
        int.from_bytes(s, "big")
        for s in key.power([int(h).to_bytes(key.width, "big") for h in hashed])
    ]
    assert rsa_blind.verify(signed, hashed, key.modulus)
    signed[3] += 1
    assert not rsa_blind.verify(signed, hashed, key.modulus)
    signed[3] -= 1
    signed[0], signed[1] = signed[1], signed[0]  # the product of all stays what it was
    assert not rsa_blind.verify(signed, hashed, key.modulus)


def test_short_moduli_are_not_offered():
    for bits in (512, 1024, 2047):
        with pytest.raises(psi.PsiError, match=f"2048, 3072 or 4096 bits are offered, got {bits}"):
            rsa_blind.RsaEngine(bits)


def test_blinded_elements_are_unlinkable_across_sessions_and_not_the_hash(key):
    sides = [psi.DataHolder(n, pd.DataFrame({"id": ["a", "b"]})) for n in ("x", "y")]
    seen = set()
    for _ in range(3):
        result = psi.intersect(rsa_blind.RsaEngine(2048), *sides, on="id")
        seen |= set(elements_of(result.transcript, kind="blinded", sender="x"))
    assert len(seen) == 6
