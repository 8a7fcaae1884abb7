"""SEAL's CKKS against plain numbers; what it cannot do is one sentence."""

import numpy as np
import pytest

from pet_lab.seal import Seal

pytest.importorskip("tenseal", reason="TenSEAL has no wheel for this platform")


@pytest.fixture(scope="module")
def seal():
    return Seal(8192, [60, 40, 40, 60], steps=[1, 2])


def test_parameters_below_128_bits_are_refused():
    with pytest.raises(ValueError, match="less than 128-bit secure"):
        Seal(4096, [60, 60, 60])


def test_vectors_longer_than_the_slots_and_values_outside_the_scale_are_refused(seal):
    with pytest.raises(ValueError, match="4097 values do not fit 4096 slots"):
        seal.encrypt(np.zeros(4097))
    with pytest.raises(ValueError, match="do not fit scale"):
        seal.encrypt([1e60])


def test_depth_exceeded_is_refused(seal):
    half = seal.encrypt([0.5, -1])
    once = seal.multiply(half, half)
    twice = seal.multiply(once, once)
    assert seal.decrypt(twice)[:2] == pytest.approx([0.0625, 1], abs=1e-5)
    for call in (lambda: seal.multiply(twice, twice), lambda: seal.weigh(twice, 0.5)):
        with pytest.raises(ValueError, match="No rescaling prime is left"):
            call()


def test_operations_are_those_on_plain_numbers(seal):
    rng = np.random.default_rng(3)
    a, b = rng.uniform(-2, 2, (2, seal.slots))
    x, y = seal.encrypt(a), seal.encrypt(b)
    low = seal.weigh(y, b)
    cases = {
        "weigh": (low, b * b),
        "shift": (seal.shift(x, b), a + b),
        "rotate": (seal.rotate(x, 2), np.roll(a, -2)),
        "total": (seal.total([x, y, x]), 2 * a + b),
        "multiply": (seal.multiply(x, y), a * b),
        "two levels": (seal.multiply(x, low), a * b * b),
    }
    for name, (ciphertext, want) in cases.items():
        assert seal.decrypt(ciphertext) == pytest.approx(want, abs=1e-5), name


def test_what_is_weighed_has_the_level_and_scale_to_be_added(seal):
    x = seal.encrypt([0.5])
    product = seal.multiply(x, x)
    assert product.scale != seal.scale
    like = {"primes": product.coeff_modulus_size(), "scale": product.scale}
    total = seal.total([product, seal.weigh(x, 1.0, **like)])
    assert seal.decrypt(total)[0] == pytest.approx(0.75, abs=1e-6)


def test_weights_that_vanish_are_refused(seal):
    for nothing in (0.0, 1e-30, np.zeros(5)):
        with pytest.raises(ValueError, match="Weights all round to 0"):
            seal.weigh(seal.encrypt([0.5]), nothing)


def test_a_wrong_key_and_an_overflow_give_no_numbers(seal):
    other = Seal(8192, [60, 40, 40, 60])
    fresh = seal.encrypt([0.5])
    for ciphertext in (fresh, seal.weigh(seal.multiply(fresh, fresh), 1.0)):
        with pytest.raises(ValueError, match="wrong key, or the modulus overflowed"):
            seal.decrypt(ciphertext, secret_key=other.secret_key)
    with pytest.raises(ValueError, match="expected at most 4096"):
        seal.decrypt(seal.encrypt([5000.0]))


def test_ciphertexts_survive_the_wire_and_damaged_ones_are_refused(seal):
    message = seal.save(seal.encrypt([1.5]))
    assert seal.decrypt(seal.load(message))[0] == pytest.approx(1.5, abs=1e-5)
    strange = Seal(4096, [36, 36, 36], scale=2.0**30)
    foreign = strange.save(strange.encrypt([1.0]))
    for wrong in (b"", message[:100], message[:-10], b"x" * 500, foreign):
        with pytest.raises(ValueError, match="Expected a ciphertext of this context"):
            seal.load(wrong)
