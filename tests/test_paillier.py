"""Packed Paillier: against python-paillier, against plain sums, and against bad input."""

import dataclasses
import pickle

import gmpy2
import numpy as np
import pytest
from gmpy2 import mpz
from hypothesis import given, settings
from hypothesis import strategies as st

from pet_lab import paillier
from pet_lab.paillier import CiphertextError, Packing, PaillierError, SlotOverflow
from pet_lab.paillier.threshold import safe_prime

BITS = 512


@pytest.fixture(scope="module")
def key():
    return paillier.generate(BITS, for_tests=True)


@pytest.fixture(scope="module")
def other_key():
    return paillier.generate(BITS, for_tests=True)


@pytest.fixture(scope="module")
def dealt():
    return paillier.deal(4, 3, bits=BITS, for_tests=True)


def packing(**changes):
    return Packing(**({"key_bits": BITS, "value_bits": 16, "limit": 2.0, "max_terms": 4} | changes))


def weights(count=100, seed=1, limit=2.0):
    return np.random.default_rng(seed).uniform(-limit, limit, count)


# ------------------------------------------------------------------ packing


@settings(max_examples=60)
@given(
    st.integers(1, 40),
    st.integers(1, 9),
    st.integers(2, 40),
    st.integers(1, 3),
    st.integers(0, 2**32 - 1),
)
def test_sums_of_packed_vectors_are_sums_by_definition(count, terms, value_bits, guard, seed):
    p = Packing(key_bits=256, value_bits=value_bits, limit=3.0, max_terms=terms, guard_bits=guard)
    rng = np.random.default_rng(seed)
    vectors = rng.uniform(-3, 3, (terms, count))
    vectors[0, 0], vectors[-1, -1] = 3.0, -3.0  # the ends of the range
    columns = [p.encode(v) for v in vectors]
    sums = [sum(c) for c in zip(*columns, strict=True)]
    assert all(s < 2 ** (256 - 1) for s in sums)
    by_definition = np.array([[round(x / p.step) for x in v] for v in vectors]).sum(axis=0)
    np.testing.assert_array_equal(np.rint(p.decode(sums, count, terms) / p.step), by_definition)
    np.testing.assert_allclose(
        p.decode(sums, count, terms), vectors.sum(axis=0), atol=terms * p.step / 2 + 1e-9
    )


def test_slot_widths_hold_the_largest_sum_below_the_guard():
    for terms in (1, 2, 3, 4, 5, 64):
        p = packing(max_terms=terms)
        assert terms * 2 * p.half < 2 ** (p.width - p.guard_bits)
        assert p.slots * p.width < BITS


def test_a_value_beyond_the_limit_is_refused_not_wrapped():
    p = packing()
    with pytest.raises(
        SlotOverflow, match=r"values\[2\] is 2\.1, but slots hold magnitudes up to 2"
    ):
        p.encode([0.0, -2.0, 2.1])
    assert np.allclose(p.decode(p.encode([2.0, -2.0]), 2), [2.0, -2.0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_only_finite_numbers_are_packed(bad):
    with pytest.raises(PaillierError, match=r"values\[1\] is .*only finite"):
        packing().encode([0.0, bad])


@pytest.mark.parametrize("shape", [(0,), (2, 3), ()])
def test_only_vectors_are_packed(shape):
    with pytest.raises(PaillierError, match="Expected a vector"):
        packing().encode(np.zeros(shape))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"value_bits": 1}, "value_bits"),
        ({"limit": 0.0}, "limit"),
        ({"limit": float("nan")}, "limit"),
        ({"max_terms": 0}, "max_terms"),
        ({"guard_bits": 0}, "guard_bits"),
        ({"key_bits": 16}, "does not fit"),
    ],
)
def test_a_packing_that_cannot_work_is_refused(changes, words):
    with pytest.raises(PaillierError, match=words):
        packing(**changes)


# ------------------------------------------------------------------ encryption


@pytest.mark.parametrize("noise", ["fresh", "short"])
@pytest.mark.parametrize("side", ["private", "public"])
def test_python_paillier_decrypts_ours(key, noise, side):
    p, w = packing(), weights(20)
    encrypted = (key if side == "private" else key.public).encrypt(w, p, noise=noise)
    assert [key.phe.raw_decrypt(int(c)) for c in encrypted.values] == p.encode(w)


def test_ours_decrypts_python_paillier(key):
    numbers = [0, 1, 12345, int(key.public.n) - 1]
    encrypted = [mpz(key.phe.public_key.raw_encrypt(m)) for m in numbers]
    assert key.decrypt_integers(encrypted) == numbers


def test_sum_of_encrypted_vectors_over_the_wire(key):
    vectors = [weights(seed=s) for s in range(4)]
    p = packing()
    raw = [key.encrypt(v, p).to_bytes() for v in vectors]
    total = key.public.add(*(key.public.read(r) for r in raw))
    assert total.terms == 4
    np.testing.assert_allclose(key.decrypt(total), sum(vectors), atol=2 * p.step + 1e-12)


def test_noise_is_an_nth_power_and_never_the_same(key):
    n, order = key.public.n, (key._p - 1) * (key._q - 1)
    for source in (key, key.public):
        for kind in ("fresh", "short"):
            items = source.noise(5, kind)
            assert len(set(items)) == 5
            assert all(gmpy2.powmod(r, order, n * n) == 1 for r in items)  # n-th powers only
    p = packing()
    assert key.encrypt([0.5], p).values != key.encrypt([0.5], p).values


def test_fresh_noise_by_the_remainder_theorem_covers_all_residues():
    """With tiny primes every unit modulo n must turn up, each as often as the others."""
    small = paillier.PrivateKey(11, 13)
    seen = np.bincount([int(r % 143) for r in small.noise(12_000)], minlength=143)
    units = [i for i in range(143) if gmpy2.gcd(i, 143) == 1]
    assert set(np.flatnonzero(seen)) == set(units)
    expected = 12_000 / len(units)
    chi2 = ((seen[units] - expected) ** 2 / expected).sum()
    assert chi2 < len(units) - 1 + 5 * np.sqrt(2 * (len(units) - 1))


def test_noise_of_no_kind_is_refused(key):
    with pytest.raises(PaillierError, match="noise is one of"):
        key.encrypt([0.1], packing(), noise="none")
    bare = paillier.PublicKey(int(key.public.n))
    with pytest.raises(PaillierError, match="published base"):
        bare.encrypt([0.1], packing(), noise="short")


def test_secrets_do_not_show_or_travel(key, dealt):
    text = repr(key) + repr(dealt[1][0]) + repr(key.public)
    assert str(key._p) not in text
    assert str(dealt[1][0].value) not in text
    for secret in (key, dealt[1][0]):
        with pytest.raises(PaillierError, match="not pickled"):
            pickle.dumps(secret)


def test_short_keys_are_for_tests_only():
    with pytest.raises(PaillierError, match="too few"):
        paillier.generate(1024)
    with pytest.raises(PaillierError, match="too few"):
        paillier.deal(4, 3, bits=1024)


# ------------------------------------------------------------------ bad ciphertexts


def test_a_ciphertext_under_another_key_is_refused(key, other_key):
    raw = other_key.encrypt([0.1, 0.2], packing()).to_bytes()
    with pytest.raises(CiphertextError, match="made under key"):
        key.public.read(raw)
    with pytest.raises(CiphertextError, match="another key"):
        key.public.add(other_key.encrypt([0.1], packing()))
    with pytest.raises(CiphertextError, match="made under key"):
        key.decrypt(other_key.encrypt([0.1], packing()))


def test_a_ciphertext_under_another_key_that_lies_about_it_shows_on_decryption(key, other_key):
    p = packing()
    foreign = other_key.encrypt(weights(p.slots), p)
    values = tuple(c % key.public.n_squared for c in foreign.values)
    lie = dataclasses.replace(foreign, key_id=key.public.id, values=values)
    total = key.public.add(key.encrypt(weights(p.slots), p), lie)
    with pytest.raises(SlotOverflow, match="another key"):
        key.decrypt(total)


@pytest.mark.parametrize("cut", [1, 10, 64, 600])
def test_a_truncated_ciphertext_is_refused(key, cut):
    raw = key.encrypt(weights(), packing()).to_bytes()
    with pytest.raises(CiphertextError, match=r"cut short|are none"):
        key.public.read(raw[:-cut])
    with pytest.raises(CiphertextError):
        key.public.read(raw + b"\0" * cut)


@settings(max_examples=40)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(raw):
    public = paillier.PublicKey((2**127 - 1) * (2**89 - 1))
    with pytest.raises(CiphertextError):
        public.read(raw)
    with pytest.raises(CiphertextError):
        public.read(b"\x95\xc4\x10" + public.id + raw)


@pytest.mark.parametrize("make", [lambda k: 0, lambda k: k.n_squared, lambda k: k.n])
def test_values_outside_the_group_are_refused(key, make):
    good = key.encrypt([0.1], packing())
    bad = dataclasses.replace(good, values=(mpz(make(key.public)),))
    with pytest.raises(CiphertextError, match=r"range|shares a factor"):
        key.public.check(bad)
    with pytest.raises(CiphertextError, match=r"range|shares a factor"):
        key.decrypt(bad)


def test_a_multiple_of_a_prime_is_refused(key):
    good = key.encrypt([0.1], packing())
    with pytest.raises(CiphertextError, match="shares a factor"):
        key.public.check(dataclasses.replace(good, values=(key._p * 5,)))


def test_addends_must_match_and_not_be_too_many(key):
    p = packing()
    a = key.encrypt(weights(5), p)
    with pytest.raises(CiphertextError, match="differ"):
        key.public.add(a, key.encrypt(weights(6), p))
    with pytest.raises(CiphertextError, match="differ"):
        key.public.add(a, key.encrypt(weights(5), packing(limit=3.0)))
    with pytest.raises(CiphertextError, match="room for 4 addends, got 5"):
        key.public.add(*[a] * 5)
    with pytest.raises(CiphertextError, match="Nothing to add"):
        key.public.add()
    with pytest.raises(CiphertextError, match="claims 9 terms"):
        key.public.check(dataclasses.replace(a, terms=9))


def test_an_oversized_slot_made_by_hand_is_noticed_not_wrapped(key):
    """A client that skips `encode` and puts a digit of twice the honest range into a slot."""
    p = packing()
    honest = key.encrypt(weights(p.slots), p)
    digits = [p.half] * p.slots
    digits[3] = 2 ** (p.width - 1) - 1
    forged = (1 + key.public.n * gmpy2.pack(digits, p.width)) * key.noise(1)[0]
    cheat = dataclasses.replace(honest, values=(forged % key.public.n_squared,))
    with pytest.raises(SlotOverflow, match="Slot 3 holds more"):
        key.decrypt(key.public.add(honest, cheat))


def test_a_digit_as_wide_as_its_slot_is_one_step_of_the_neighbour_and_shows_nowhere(key):
    """What the docstring of Packing says of a client that skips `encode`: 2^width, 2^18 here."""
    p = packing(guard_bits=1)
    honest = key.encrypt(np.zeros(p.slots), p)
    lie = (1 + key.public.n * gmpy2.mpz(2) ** p.width) * key.noise(1)[0]
    cheat = dataclasses.replace(honest, values=(honest.values[0] * lie % key.public.n_squared,))
    got = key.decrypt(key.public.add(honest, cheat)) / p.step
    np.testing.assert_allclose(got, np.eye(p.slots)[1], atol=1e-9)


def test_a_packing_for_another_key_length_is_refused(key):
    with pytest.raises(PaillierError, match="keys of 1024 bits"):
        key.encrypt([0.1], packing(key_bits=1024))


# ------------------------------------------------------------------ threshold


def test_safe_primes_are_safe():
    for bits in (64, 96, 256):
        p = safe_prime(bits)
        assert p.bit_length() == bits
        assert gmpy2.is_prime(p)
        assert gmpy2.is_prime((p - 1) // 2)


@pytest.mark.parametrize("missing", [None, 0, 1, 2, 3])
def test_any_three_of_four_offices_decrypt(dealt, missing):
    public, shares = dealt
    p = packing()
    vectors = [weights(seed=s) for s in range(4)]
    total = public.public.add(*(public.public.encrypt(v, p, noise="short") for v in vectors))
    parts = [public.partial(s, total) for i, s in enumerate(shares) if i != missing]
    np.testing.assert_allclose(public.combine(total, parts), sum(vectors), atol=2 * p.step + 1e-12)
    assert parts[0].size_bytes(public.public) > len(total.values) * BITS // 4


def test_two_offices_cannot_decrypt(dealt):
    public, shares = dealt
    encrypted = public.public.encrypt(weights(5), packing())
    parts = [public.partial(s, encrypted) for s in shares[:2]]
    with pytest.raises(PaillierError, match="takes 3 of 4 offices, got 2"):
        public.combine(encrypted, parts)
    with pytest.raises(PaillierError, match="different offices"):
        public.combine(encrypted, [*parts, parts[0]])


def test_a_wrong_contribution_is_noticed_and_named(dealt):
    public, shares = dealt
    encrypted = public.public.encrypt(weights(40), packing())
    parts = [public.partial(s, encrypted) for s in shares]
    n2 = public.public.n_squared
    changed = list(parts[1].values)
    changed[-1] = changed[-1] * 2 % n2
    forgeries = [
        dataclasses.replace(parts[1], values=tuple(changed)),
        dataclasses.replace(parts[1], index=3),
        dataclasses.replace(parts[1], response=parts[1].response + 1),
        dataclasses.replace(parts[1], values=(mpz(0), *parts[1].values[1:])),
        public.partial(dataclasses.replace(shares[1], value=shares[1].value + 1), encrypted),
    ]
    for forgery in forgeries:
        with pytest.raises(CiphertextError, match=r"contribution of share [23] is not what"):
            public.verify(encrypted, forgery)
    with pytest.raises(CiphertextError, match="share 2"):
        public.combine(encrypted, [parts[0], forgeries[0], parts[2]])
    with pytest.raises(CiphertextError, match="parts, expected"):
        public.verify(encrypted, dataclasses.replace(parts[0], values=parts[0].values[:1]))
    with pytest.raises(CiphertextError, match="numbered 1 to 4"):
        public.verify(encrypted, dataclasses.replace(parts[0], index=7))


def test_a_dealt_key_is_an_ordinary_public_key(dealt):
    public, shares = dealt
    p = packing()
    encrypted = public.public.read(public.public.encrypt(weights(), p).to_bytes())
    got = public.combine(encrypted, [public.partial(s, encrypted) for s in shares[:3]])
    np.testing.assert_allclose(got, weights(), atol=p.step)


@pytest.mark.parametrize(("parties", "threshold"), [(4, 1), (4, 5), (1, 1)])
def test_thresholds_that_make_no_sense_are_refused(parties, threshold):
    with pytest.raises(PaillierError, match="threshold"):
        paillier.deal(parties, threshold, bits=BITS, for_tests=True)


@pytest.mark.parametrize("bits", [2049, 1025, 2**20])
def test_a_length_that_no_key_has_is_refused_at_once(bits):
    with pytest.raises(PaillierError, match=f"an even number of bits, at most 16384, got {bits}"):
        paillier.generate(bits, for_tests=True)
