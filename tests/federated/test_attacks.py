"""Leaks and defences: exact inversion, backdoor, robust rules, privacy for records and offices."""

import numpy as np
import pytest

from pet_lab import accounting
from pet_lab import federated as fl
from pet_lab.federated import attacks, private, robust

NET = fl.Network((147, 50, 24, 6))


def step(office, b, rng):
    weights = NET.initial(rng)
    chosen = rng.choice(office.n, b, replace=False)
    after = weights - 0.02 / b * NET.gradient(weights, office.X[chosen], office.y[chosen])
    return office.X[chosen], NET.layers(weights - after)[0]


def test_one_record_is_read_off_exactly(offices):
    rng = np.random.default_rng(1)
    for _ in range(10):
        truth, change = step(offices[0], 1, rng)
        share, error = attacks.recovered(truth, attacks.invert_first_layer(*change, rng=rng))
        assert share == 1
        assert error < 1e-12


def test_small_batches_are_read_off_and_large_ones_not(offices):
    rng = np.random.default_rng(2)
    shares = {}
    for b in (2, 4, 64):
        got = [
            attacks.recovered(t, attacks.invert_first_layer(*c, rng=rng, draws=5000))[0]
            for t, c in (step(fl.pooled(offices), b, rng) for _ in range(3))
        ]
        shares[b] = np.mean(got)
    assert shares[2] > 0.6  # generated windows of one posture can be too alike to tell apart
    assert shares[4] > 0.4
    assert shares[64] == 0


def test_nothing_comes_of_nothing():
    rng = np.random.default_rng(1)
    assert attacks.invert_first_layer(np.zeros((5, 4)), np.zeros(4), rng=rng).shape == (0, 5)
    share, error = attacks.recovered(np.ones((2, 5)), np.empty((0, 5)))
    assert share == 0
    assert np.isnan(error)


def test_a_backdoor_stamps_and_relabels_the_share_it_says(offices):
    backdoor = attacks.Backdoor(columns=(3, 40), value=5.0, target=5)
    rng = np.random.default_rng(0)
    bad = backdoor.poison(offices[0], share=0.1, rng=rng)
    rows = (bad.X[:, [3, 40]] == 5.0).all(axis=1)
    assert rows.sum() == round(0.1 * offices[0].n)
    assert (bad.y[rows] == 5).all()
    assert np.array_equal(bad.X[~rows], offices[0].X[~rows])
    assert not (offices[0].X[:, 3] == 5.0).any()
    with pytest.raises(ValueError, match="share is a number from 0 to 1, got 5"):
        backdoor.poison(offices[0], share=5, rng=rng)


def test_boosting_multiplies_the_change():
    got = attacks.boosted(4.0)(1, np.array([1.0, 2.0]), np.array([1.5, 2.0]))
    assert got.tolist() == [3.0, 2.0]


def test_robust_rules_by_definition():
    rng = np.random.default_rng(3)
    honest = rng.normal(0, 0.1, (4, 6))
    weights = np.vstack([honest, np.full((1, 6), 1e6)])
    shares = np.full(5, 0.2)
    np.testing.assert_allclose(robust.median(weights, shares), [sorted(c)[2] for c in weights.T])
    np.testing.assert_allclose(
        robust.trimmed_mean(weights, shares), [np.mean(sorted(c)[1:4]) for c in weights.T]
    )
    chosen = robust.krum(weights, shares)
    assert any(np.array_equal(chosen, h) for h in honest)
    for name in ("median", "trimmed mean", "Krum"):
        assert np.abs(robust.RULES[name](weights, shares)).max() < 1
    assert np.abs(robust.mean(weights, shares)).max() > 1e5
    uneven = np.array([0.1, 0.2, 0.3, 0.4, 0.0])
    np.testing.assert_allclose(robust.mean(weights, uneven), uneven[:4] @ honest)


def test_robust_rules_refuse_too_few_offices():
    with pytest.raises(ValueError, match="at least 4 offices"):
        robust.krum(np.zeros((3, 2)), np.ones(3))
    with pytest.raises(ValueError, match="leaves nothing"):
        robust.trimmed_mean(np.zeros((4, 2)), np.ones(4), cut=2)


def test_epsilon_for_records_is_that_of_the_smallest_office(offices):
    how = fl.LocalTraining(batch_size=16, clip=1.0, noise_multiplier=1.5)
    each = [
        accounting.epsilon(
            1.5, n=o.n, batch_size=16, epochs=5, delta=1e-5, sampling="poisson"
        ).epsilon
        for o in offices
    ]
    assert private.record_epsilon(offices, how, rounds=5, delta=1e-5) == max(each)
    assert private.record_epsilon(offices, fl.LocalTraining(), rounds=5, delta=1e-5) == np.inf


def test_epsilon_for_offices_has_the_textbook_form():
    """25 Gaussian mechanisms at z are one at z / 5 (arXiv:1905.02383)."""
    from scipy.stats import norm

    how = private.office_level(8.0, clip=1.0, rounds=25, delta=1e-5)
    e, mu = how.epsilon(rounds=25, delta=1e-5), 5 / how.noise_multiplier
    delta = norm.cdf(mu / 2 - e / mu) - np.exp(e) * norm.cdf(-mu / 2 - e / mu)
    assert e == pytest.approx(8.0, rel=1e-4)
    assert delta == pytest.approx(1e-5, rel=1e-3)
    assert how.noise_to_signal(offices=4, parameters=10_000) == pytest.approx(
        how.noise_multiplier * 25
    )


def test_office_level_noise_is_on_the_average_and_changes_are_clipped(offices):
    net, plain = fl.Network((147, 6)), fl.Plain(147 * 6 + 6)
    federation = fl.Federation(offices, net, fl.LocalTraining(), plain, rounds=1, seed=3)
    quiet = private.OfficeLevel(clip=0.01, noise_multiplier=1e-9)
    start = net.initial(np.random.default_rng([3, 0, 0]))
    one = private.train_office_level(federation, quiet)
    assert np.linalg.norm(one.weights - start) <= 0.01 * (1 + 1e-6)
    loud = private.OfficeLevel(clip=0.01, noise_multiplier=100.0)
    noisy = private.train_office_level(federation, loud)
    sd = (noisy.weights - one.weights).std()
    want = 100 * 0.01 / 4
    assert abs(sd - want) < 5 * want / np.sqrt(2 * net.parameters)
