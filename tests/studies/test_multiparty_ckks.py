"""Multiparty CKKS: products by the slow sum, decryption by all, refresh, training, refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pet_lab.studies import multiparty_ckks as study


def chosen(**changes):
    values = {"parties": [2, 3], "features": [31, 256], "steps": 2, "step_size": 0.4}
    values |= {"penalty": 0.01, "neurons": 4, "replicates": 1, "seed": 3}
    return study.Settings(**values | changes)


@pytest.fixture
def session():
    return study.KeySession(3, np.random.default_rng(8))


def integers(digits):
    """Coefficients as whole numbers around 0."""
    return sum(row.astype(object) << study.DIGIT * i for i, row in enumerate(digits))


def shares(session, ciphertext):
    return {i: session.share(i, ciphertext[1]) for i in range(session.parties)}


def read(session, ciphertext, count):
    """Numbers of refreshed weights: by the identity, for their own scale drowns in smudging."""
    product = study.apply(session, np.eye(count), ciphertext, np.zeros(count))
    return session.decrypt(product, shares(session, product))[study.places(count, count)]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_products_are_those_of_the_slow_sum(seed):
    rng, n = np.random.default_rng(seed), study.N
    i, a, left = rng.integers(0, n, 6), rng.integers(-(2**20), 2**20, 6), np.zeros(n, np.int64)
    left[i] = a
    right = study.large(rng)
    slow, numbers = np.zeros(n, object), integers(right)
    for x in np.flatnonzero(left):
        turned = np.roll(numbers, x)
        turned[:x] *= -1
        slow += int(left[x]) * turned
    assert ((slow - integers(study.times(right, left))) % 2**140 == 0).all()


def test_full_products_of_the_largest_numbers_are_exact():
    """Modulo X - 2 with 2^N = -1, a product of polynomials is one of whole numbers."""
    rng, n = np.random.default_rng(3), study.N
    a, small = study.large(rng), rng.choice([-(2**20), 2**20], n)
    modulus = 2**n + 1

    def at_two(numbers):
        return sum(int(v) << i for i, v in enumerate(numbers)) % modulus

    for digit in a:  # each by itself, so that nothing is reduced modulo 2^140
        alone = np.vstack([digit, np.zeros((study.DIGITS - 1, n), np.int64)])
        product = integers(study.times(alone, small))
        assert at_two(product) == at_two(digit) * at_two(small) % modulus


def test_digits_carry_shift_and_round():
    numbers = study.large(np.random.default_rng(1), 124)
    assert (integers(study.carry(3 * numbers)) == 3 * integers(numbers)).all()
    assert (integers(study.shifted(numbers, 1)) == integers(numbers) << 14).all()
    rounded = integers(study.shifted(numbers, -1))
    assert (abs(integers(numbers) - (rounded << 14)) <= 2**13).all()
    assert 2**122 < max(abs(integers(numbers))) <= 2**124


def test_a_product_of_rows_and_encrypted_weights(session):
    rng = np.random.default_rng(4)
    rows, w, constants = rng.normal(size=(7, 5)), rng.normal(size=5), rng.normal(size=7)
    product = study.apply(session, rows, session.encrypt(w), constants)
    numbers = session.decrypt(product, shares(session, product))[study.places(7, 5)]
    assert numbers == pytest.approx(rows @ w + constants, abs=5e-3)


def test_the_noise_stays_below_its_bound(session):
    """NOISE_BITS is what smudging is made for; here without smudging, for ten parties' data."""
    w = session.encrypt(np.zeros(31))
    rows = study.matrix(np.random.default_rng(2).uniform(-1, 1, (31, 31)))
    zero = session.zero()
    c0, c1 = (study.carry(study.times(w[i], rows) + zero[i]) for i in (0, 1))
    noise = integers(study.carry(c0 + study.times(c1, sum(session.secrets))))
    assert 10 * max(abs(noise)) < 2**study.NOISE_BITS


def test_a_refresh_moves_divides_and_forgets_the_rest(session):
    rng = np.random.default_rng(5)
    rows, w = rng.normal(size=(4, 4)), rng.normal(size=4)
    product = study.apply(session, rows, session.encrypt(w), np.zeros(4))
    fresh = session.refresh(product, study.places(4, 4))
    assert read(session, fresh, 4) == pytest.approx(rows @ w, abs=2e-2)
    assert read(session, fresh, 8)[4:] == pytest.approx(np.zeros(4), abs=2e-2)


def test_without_one_party_nothing_is_decrypted(session):
    product = study.apply(session, np.eye(3), session.encrypt(np.array([1, 2, 3])), np.zeros(3))
    partial = shares(session, product)
    del partial[1]
    with pytest.raises(ValueError, match=r"shares of 3 parties, missing: \[1\]"):
        session.decrypt(product, partial)
    with pytest.raises(ValueError, match="missing"):
        session.add([product])


def test_shares_of_another_session_or_ciphertext_are_refused(session):
    product = study.apply(session, np.eye(3), session.encrypt(np.array([1, 2, 3])), np.zeros(3))
    other = study.KeySession(3, np.random.default_rng(9))
    fresh = session.encrypt(np.zeros(3))
    for foreign in (other.share(0, product[1]), session.share(0, fresh[1])):
        with pytest.raises(ValueError, match="another key, session or ciphertext"):
            session.decrypt(product, shares(session, product) | {0: foreign})


def test_training_under_encryption_is_training_in_clear(session):
    rng, how = np.random.default_rng(6), chosen(steps=4)
    x = rng.normal(size=(90, 6))
    y = (x @ rng.normal(size=6) > 0).astype(float)
    parts = [(x[i], y[i]) for i in np.array_split(np.arange(90), 3)]
    weights = study.train_encrypted(session, parts, how)
    clear = study.descend(x, y, how, study.line)
    assert read(session, weights, 6) == pytest.approx(clear, abs=3e-2)
    assert study.predict(session, weights, x) == pytest.approx(x @ clear, abs=0.1)
    with pytest.raises(ValueError, match="records of 3 parties, got 2"):
        study.train_encrypted(session, parts[:2], how)


@pytest.fixture(scope="module")
def rows():
    return study.simulate(chosen())


def test_bytes_are_counted_and_linear_in_the_parties(rows):
    sent = study.costs(rows).groupby("parties")["megabytes"].max()
    polynomial = study.N * 140 / 8e6
    assert sent[2] == pytest.approx(2 * 2 * polynomial * (1 + 2 * 4))  # key, two steps of four sums
    assert rows.loc[rows["metric"] == "slope", "value"].iloc[0] == pytest.approx(1)
    panel = study.explore(parties=2, features=31, steps=2)["MB"]
    assert panel[0] + panel[1] == pytest.approx(sent[2])


def test_a_reply_hides_the_partys_data_by_an_encryption_of_zero(session):
    """The product alone, over what it was multiplied with, is the data: here c1 is one monomial."""
    own, one = np.random.default_rng(7).normal(size=(20, 20)), np.zeros((study.DIGITS, study.N))
    one[0, 0] = 1
    weights, truth = (one.astype(np.int64), one.astype(np.int64)), study.matrix(own)
    assert (integers(study.times(weights[1], truth)) == truth).all()
    hidden = integers(study.apply(session, own, weights, np.zeros(20))[1])
    assert np.mean(hidden == truth) < 0.01


def test_claims_follow_the_rows(rows):
    claims = study.takeaways(rows)
    assert claims[0].text.startswith("2 to 3 parties train")
    worse = rows.copy()
    worse.loc[worse["metric"] == "slope", "value"] = 2.0
    worse.loc[worse["how"] == "federated, sigmoid as a line", "value"] = 0.5
    turned = study.takeaways(worse)
    assert "not within a point of both" in turned[1].text
    assert turned[3].text == "Bytes grow with the parties to the power 2.00, not 1."


@pytest.mark.parametrize(("features", "needed"), [(8, 1), (90, 1), (91, 2), (1024, 128)])
def test_ciphertexts_of_a_step(features, needed):
    assert study.ciphertexts(features) == needed
    assert needed == -(-features // (8192 // features))


def test_what_does_not_fit_is_one_sentence():
    with pytest.raises(ValueError, match="100 rows of 100 numbers do not fit 8192"):
        study.matrix(np.zeros((100, 100)))
    with pytest.raises(ValueError, match="Numbers reach 100, expected at most 64"):
        study.fixed(np.array([100.0]), 14)
    with pytest.raises(ValueError, match="got 9000"):
        study.ciphertexts(9000)


@pytest.mark.parametrize(
    "changes",
    [
        {"parties": [3]},
        {"parties": [1, 3]},
        {"parties": [3, 20]},
        {"features": [0]},
        {"steps": 0},
        {"step_size": 0},
        {"penalty": -1},
        {"neurons": 60},
        {"replicates": 0},
        {"seed": -1},
    ],
)
def test_settings_outside_their_range_are_one_sentence(changes):
    with pytest.raises(ValueError, match=r"got .*\.$"):
        chosen(**changes)
