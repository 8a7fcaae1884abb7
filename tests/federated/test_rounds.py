"""Averaging, plain and encrypted, and offices that fail."""

import dataclasses
import re
import struct

import numpy as np
import pytest
from scipy import stats

from pet_lab import federated as fl
from pet_lab import paillier
from pet_lab.federated.aggregation import pack


def train(offices, network, training, scheme=None, **more):
    scheme = scheme or fl.Plain(network.parameters)
    how = {k: more.pop(k) for k in ("participation", "evaluate_every") if k in more}
    settings = {"rounds": 3, "seed": 5} | more
    return fl.simulate(fl.Federation(offices, network, training, scheme, **settings), **how)


def absent_in_round_2(number, received, weights):
    if number == 2:
        raise fl.Rejected("No answer in this round.")
    return weights


def test_averaging_by_definition(offices, network, training):
    """One round in the clear, written out."""
    got = train(offices, network, training, rounds=1)
    start = network.initial(np.random.default_rng([5, 0, 0]))
    total = sum(o.n for o in offices)
    want = sum(
        o.n / total * network.train(start, o.X, o.y, training, np.random.default_rng([5, k, 1]))
        for k, o in enumerate(offices)
    )
    np.testing.assert_allclose(got.weights, want, atol=1e-12)


def test_encrypted_is_plain_within_quantisation(offices, network, training, encrypted):
    plain = train(offices, network, training, rounds=1)
    ciphertexts = train(offices, network, training, encrypted, rounds=1)
    bound = len(offices) * encrypted.packing.step / 2
    assert 0 < np.abs(plain.weights - ciphertexts.weights).max() <= bound * (1 + 1e-9)
    assert ciphertexts.costs["encrypt_cpu_s"] > 0


def test_encrypted_is_exactly_the_sum_of_quantised_weights(offices, network, training, encrypted):
    """Integers do not round: cryptography changes nothing that quantising has not."""
    packing, received = encrypted.packing, []
    ciphertexts = train(offices, network, training, encrypted, rounds=1)
    train(
        offices,
        network,
        training,
        rounds=1,
        transform={o.name: lambda _, __, w: received.append(w) or w for o in offices},
    )
    total = sum(o.n for o in offices)
    digits = sum(packing.quantise(w * o.n / total) for w, o in zip(received, offices, strict=True))
    np.testing.assert_array_equal(ciphertexts.weights, digits * packing.step / 1.0)


def test_output_layer_alone(offices, network, training, key):
    partly = fl.Paillier.of(
        key, network.parameters, offices=4, encrypted_from=network.output_starts
    )
    a = train(offices, network, training, partly)
    plain = train(offices, network, training)
    np.testing.assert_allclose(a.weights, plain.weights, atol=1e-3)
    whole = fl.Paillier.of(key, network.parameters, offices=4)
    first, second = partly.encrypt(plain.weights, 0.25)
    assert len(second) < len(whole.encrypt(plain.weights, 0.25)[1]) / 10
    assert first == pack(0.25 * plain.weights[: network.output_starts])  # in the clear
    with pytest.raises(ValueError, match="encrypted_from"):
        fl.Paillier.of(key, 10, offices=4, encrypted_from=10)


def test_ckks_is_plain_up_to_its_own_error(offices, network, training):
    pytest.importorskip("tenseal", reason="TenSEAL has no wheel for this platform")
    ckks = fl.Ckks.generate(network.parameters)
    a = train(offices, network, training, ckks, rounds=1)
    b = train(offices, network, training, rounds=1)
    assert 0 < np.abs(a.weights - b.weights).max() < 1e-6
    server = ckks.public_side()
    message = ckks.encrypt(b.weights, 0.25)
    assert not server.context.has_secret_key()
    with pytest.raises(fl.Rejected, match="no private key"):
        server.decrypt(server.add([message]), 0.25)
    with pytest.raises(fl.Rejected, match="damaged"):
        server.check([message[0][:100]])
    with pytest.raises(fl.Rejected, match="ciphertexts"):
        server.check([])
    with pytest.raises(fl.Rejected, match="beyond"):
        ckks.encrypt(b.weights * 1e6, 0.25)
    for end in (0, 1, 3, 7, 23, 5000, len(message[0]) - 1):  # three bytes once ended the process
        with pytest.raises(fl.Rejected, match="damaged"):
            server.check([message[0][:end]])
    for bad in (
        bytes(len(message[0])),
        message[0][:23] + bytes(len(message[0]) - 32) + message[0][-9:],
    ):
        with pytest.raises(fl.Rejected, match="damaged"):
            server.check([bad])
    foreign = fl.Ckks.generate(network.parameters).encrypt(b.weights, 0.25)
    with pytest.raises(fl.Rejected, match="another key"):
        ckks.decrypt(ckks.add([message, foreign]), 0.5)


def test_a_reply_under_paillier_tells_the_sum_and_not_how_it_splits(key):
    """The plaintext is that of the sum; the noise is uniform among the n-th powers for each split.

    Tiny primes, so that every unit turns up: chi-square with 119 degrees of freedom, 5 sd above.
    """
    scheme = fl.Paillier.of(key, 2, offices=2)
    digits, step = [([500, -250], [250, 500]), ([0, 0], [750, 250])], scheme.packing.step
    splits = [[step * np.array(w) for w in split] for split in digits]
    replies = [scheme.add([scheme.encrypt(w, 1.0) for w in split]) for split in splits]
    plaintexts = [key.decrypt_integers(key.public.read(reply[1]).values) for reply in replies]
    np.testing.assert_allclose(scheme.decrypt(replies[0], 1.0), [750 * step, 250 * step])
    assert plaintexts[0] == plaintexts[1]
    small = type(key)(11, 13)
    n = int(small.public.n)
    units = [i for i in range(n) if np.gcd(i, n) == 1]
    for split in ((3, 4), (0, 7)):
        noise = [iter(small.noise(12_000)) for _ in split]
        seen = np.zeros(n)
        for pair in zip(*noise, strict=True):
            a, b = ((1 + n * m) * int(r) % n**2 for m, r in zip(split, pair, strict=True))
            seen[a * b % n] += 1  # modulo n only the noise is left
        assert ((seen[units] - 100) ** 2 / 100).sum() < 119 + 5 * np.sqrt(2 * 119)


def test_a_ciphertext_of_another_size_or_head_never_reaches_the_parser():
    ckks = fl.Ckks.generate(100)
    (good,) = ckks.encrypt(np.zeros(100), 0.5)

    def parse(*_):
        raise AssertionError("it was parsed")

    ckks.__dict__["_parser"] = parse
    bent = good[:5] + bytes([good[5] ^ 1]) + good[6:]
    for message in ([], [good] * 2, [b""], [good[:3]], [good[:-1]], [good + b"\0"], [bent]):
        for use in (ckks.check, lambda m: ckks.add([m, m]), lambda m: ckks.decrypt(m, 1.0)):
            with pytest.raises(fl.Rejected, match=r"damaged or of another|Expected 1 ciph"):
                use(message)
    with pytest.raises(AssertionError, match="it was parsed"):
        ckks.check([good])


def test_a_reply_under_ckks_errs_alike_however_the_sum_splits():
    """Two samples of 2,048 errors: Kolmogorov-Smirnov, and standard deviations within 4 se."""
    pytest.importorskip("tenseal", reason="TenSEAL has no wheel for this platform")
    ckks, w = fl.Ckks.generate(2048), np.random.default_rng(1).normal(0, 0.5, 2048)
    errors = [
        ckks.decrypt(ckks.add([ckks.encrypt(part, 1.0) for part in split]), 1.0) - w
        for split in ([w, 0 * w], [w / 2 + 1, w / 2 - 1])
    ]
    assert stats.ks_2samp(*errors).pvalue > 1e-4
    assert abs(np.log(errors[0].std() / errors[1].std())) < 4 / np.sqrt(2048)


def test_of_two_offices_each_reads_the_other_off_the_sum(key, network):
    scheme = fl.Paillier.of(key, network.parameters, offices=2)
    mine, yours = (np.random.default_rng(s).normal(0, 0.3, network.parameters) for s in (1, 2))
    reply = scheme.public_side().add([scheme.encrypt(w, 0.5) for w in (mine, yours)])
    other = (scheme.decrypt(reply, 1.0) - 0.5 * mine) / 0.5
    assert np.abs(other - yours).max() < 1e-6


def test_the_server_may_start_and_scenarios_repeat(offices, network, training):
    a = train(offices, network, training, server_starts=True)
    b = train(offices, network, training, server_starts=True)
    c = train(offices, network, training)
    assert np.array_equal(a.weights, b.weights)
    assert not np.array_equal(a.weights, c.weights)


def test_federation_learns(offices, network, training):
    history = train(offices, network, training, rounds=8)
    loss = {
        number: np.mean([e.loss for (n, _), e in history.evaluations.items() if n == number])
        for number in (1, 8)
    }
    assert loss[8] < loss[1]
    assert {office for _, office in history.evaluations} == {o.name for o in offices}


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w[:-1], "weights"),
        (lambda w: np.where(np.arange(w.size) == 3, np.nan, w), "Weight 3 is nan"),
        (lambda w: np.where(np.arange(w.size) == 3, -np.inf, w), "Weight 3 is -inf"),
        (lambda w: w + 1e7, "beyond|slots hold"),
    ],
)
@pytest.mark.parametrize("ciphertexts", [False, True])
def test_an_office_with_unusable_weights_is_left_out(
    offices, network, training, encrypted, change, words, ciphertexts
):
    scheme = encrypted if ciphertexts else fl.Plain(network.parameters)
    bad = offices[1].name
    history = train(
        offices,
        network,
        training,
        scheme,
        transform={bad: lambda r, _, w: change(w) if r == 2 else w},
    )
    (entry,) = history.left_out
    assert entry[:2] == (2, bad)
    assert re.search(words, entry[2])
    silent = train(offices, network, training, scheme, transform={bad: absent_in_round_2})
    np.testing.assert_array_equal(history.weights, silent.weights)


def test_a_round_without_enough_offices_is_void(offices, network, training):
    silent = {o.name: absent_in_round_2 for o in offices[1:]}
    with pytest.raises(fl.RoundVoid, match=r"Round 2: 1 usable contributions, 2 are needed"):
        train(offices, network, training, transform=silent)


def test_the_server_checks_what_it_gets(network, encrypted):
    weights = np.linspace(-1, 1, network.parameters)
    good = encrypted.encrypt(weights, 0.25)
    other = paillier.generate(512, for_tests=True)
    foreign = fl.Paillier.of(other, network.parameters, offices=4).encrypt(weights, 0.25)
    short = fl.Paillier.of(encrypted.key, network.parameters - 1, offices=4)
    summed = encrypted.add([good, good])
    server = fl.Aggregator(encrypted.public_side(), {"a": 0.25, "b": 0.25, "c": 0.25})
    assert encrypted.public_side().key is None
    cases = {
        "made under key": foreign,
        "cut short": [good[0], good[1][:-7]],
        "got 1 parts": good[:1],
        "encrypted weights": short.encrypt(weights[:-1], 0.25),
        "claims to be 2": summed,
    }
    for words, message in cases.items():
        with pytest.raises(fl.Rejected, match=words):
            server.scheme.check(message)
        updates = [fl.Update("a", good), fl.Update("b", good)]
        model = server.combine(1, [*updates, fl.Update("c", message)])
        assert model.share == 0.5
        assert words in server.left_out[-1][2]
        np.testing.assert_allclose(
            encrypted.decrypt(model.message, model.share), weights, atol=1e-6
        )
    with pytest.raises(fl.Rejected, match="no private key"):
        server.scheme.decrypt(model.message, 0.5)
    with pytest.raises(fl.RoundVoid, match="not one of the offices"):
        server.combine(2, [fl.Update("mallory", good), fl.Update("a", good)])


def test_two_offices_of_one_name_are_refused(offices, network, training):
    """One would be counted and both would send: the model would shrink to two thirds."""
    twins = [offices[0], offices[1], dataclasses.replace(offices[2], name=offices[0].name)]
    with pytest.raises(ValueError, match="a name of their own each, got statcan, ons, statcan"):
        train(twins, network, training)
    with pytest.raises(ValueError, match="a name of their own"):
        train([], network, training)
    with pytest.raises(ValueError, match="rounds is a whole number of at least 1"):
        train(offices, network, training, rounds=0)


def test_weights_that_come_twice_count_once(network):
    plain = fl.Plain(network.parameters)
    server = fl.Aggregator(plain, {"a": 0.5, "b": 0.5})
    ones, twos = (plain.encrypt(np.full(network.parameters, v), 0.5) for v in (1.0, 2.0))
    updates = [fl.Update("a", ones), fl.Update("a", twos), fl.Update("b", ones)]
    model = server.combine(1, updates)
    assert plain.decrypt(model.message, model.share) == pytest.approx(1.0)
    assert "twice" in server.left_out[0][2]


def test_partial_participation_trains_the_drawn_offices_only(offices, network, training):
    trained = []
    spies = {o.name: lambda r, _, w, name=o.name: trained.append((r, name)) or w for o in offices}
    history = train(offices, network, training, participation=0.5, rounds=12, transform=spies)
    per_round = [[name for r, name in trained if r == number] for number in range(1, 13)]
    assert {len(names) for names in per_round} == {2}
    assert len({tuple(names) for names in per_round}) > 2
    assert np.isfinite(history.weights).all()
    full = train(offices, network, training, rounds=2)
    assert np.array_equal(
        full.weights, train(offices, network, training, rounds=2, participation=1.0).weights
    )
    with pytest.raises(ValueError, match="fraction in"):
        train(offices, network, training, participation=0.0)


def test_a_share_cannot_be_inflated(network):
    plain = fl.Plain(network.parameters)
    message = plain.encrypt(np.zeros(network.parameters), 0.5)
    for share in (0.0, 2.0, float("nan")):
        with pytest.raises(fl.Rejected, match="share"):
            plain.check([struct.pack("<d", share), message[1]])


def test_an_oversized_digit_in_a_ciphertext_is_noticed_when_opened(key, network, encrypted):
    import gmpy2

    weights = np.zeros(network.parameters)
    good = encrypted.encrypt(weights, 0.25)
    ciphertexts = key.public.read(good[1])
    width = encrypted.packing.width
    forged = gmpy2.pack([2 ** (width - 1) - 1] * encrypted.packing.slots, width)
    values = ((1 + key.public.n * forged) * key.noise(1)[0] % key.public.n_squared,)
    cheat = dataclasses.replace(ciphertexts, values=values + ciphertexts.values[1:])
    server = encrypted.public_side()
    message = [good[0], cheat.to_bytes()]
    server.check(message)  # the server cannot see it
    with pytest.raises(fl.Rejected, match="more than 2 values can add up to"):
        encrypted.decrypt(server.add([good, message]), 0.5)
