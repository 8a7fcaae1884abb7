"""Lower bounds on epsilon: textbook numbers, and coverage on mechanisms whose epsilon is known."""

import numpy as np
import pytest
from scipy import stats

from pet_lab import accounting, mia
from pet_lab.mia.audit import clopper_pearson


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_clopper_pearson_covers_at_every_share(share):
    n = 40
    k = np.arange(n + 1)
    ends = np.array([clopper_pearson(int(i), n, confidence=0.9) for i in k])
    inside = (ends[:, 0] <= share) & (share <= ends[:, 1])
    assert stats.binom.pmf(k, n, share)[inside].sum() >= 0.9  # exact, no simulation


def test_clopper_pearson_in_closed_form_at_the_ends():
    low, high = clopper_pearson(0, 20, confidence=0.95)
    assert (low, high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 20)))
    assert clopper_pearson(20, 20)[0] == pytest.approx(0.025 ** (1 / 20))


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_clopper_pearson_covers_few_trials_up_to_the_edges(n):
    k = np.arange(n + 1)
    ends = np.array([clopper_pearson(int(i), n) for i in k])
    for share in (0.0, 1e-12, 1e-3, 0.025, 0.5, 0.975, 0.999, 1.0):
        inside = (ends[:, 0] <= share) & (share <= ends[:, 1])
        assert stats.binom.pmf(k, n, share)[inside].sum() >= 0.95 - 1e-12
    assert (ends[:, 0] < k / n + 1e-12).all()
    assert (ends[:, 1] > k / n - 1e-12).all()


def test_few_trials_prove_little_and_every_reading_of_the_bound_is_a_number():
    for inside, outside in (([0.0], [1.0]), ([1.0], [1.0]), ([1.0], [0.0]), ([1.0] * 9, [0.0] * 9)):
        for delta in (0.0, 1e-3):
            bound = mia.epsilon_lower_bound(inside, outside, delta=delta, threshold=0.5)
            assert 0 <= bound.epsilon <= bound.ceiling + 1e-9
            assert bound.gaussian_epsilon >= 0
    # At delta = 0 no Gaussian mechanism has a finite epsilon, once anything is proven.
    assert bound.gaussian_epsilon < np.inf
    exact = mia.epsilon_lower_bound([1.0] * 9, [0.0] * 9, delta=0.0, threshold=0.5)
    assert exact.gaussian_epsilon == np.inf


def test_what_a_perfect_attack_could_prove():
    # 128 of 128 and 0 of 128 at 97.5 % each: log(x / (1 - x)) with x = 0.025^(1/128).
    x = 0.025 ** (1 / 128)
    rng = np.random.default_rng(0)
    bound = mia.epsilon_lower_bound(np.ones(128), np.zeros(128), delta=0.0, threshold=0.5)
    assert bound.ceiling == pytest.approx(np.log(x / (1 - x)))
    assert bound.epsilon == pytest.approx(bound.ceiling)
    assert mia.epsilon_lower_bound(np.ones(256), np.zeros(256), delta=0, rng=rng).n_in == 128


def test_coverage_on_randomised_response():
    # The answer is right with e^eps / (1 + e^eps): exactly eps-DP, and the bound is about it.
    epsilon, n, draws = 1.0, 150, 400
    rng = np.random.default_rng(4)
    right = np.exp(epsilon) / (1 + np.exp(epsilon))
    above, bounds = 0, []
    for _ in range(draws):
        inside, outside = rng.random(n) < right, rng.random(n) >= right
        bound = mia.epsilon_lower_bound(inside * 1.0, outside * 1.0, delta=0.0, rng=rng)
        above += bound.epsilon > epsilon
        bounds.append(bound.epsilon)
    assert above / draws <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / draws)
    assert np.mean(bounds) > 0.2  # and it says something


def test_coverage_on_a_gaussian_mechanism_also_of_its_gaussian_form():
    mu, delta, n, draws = 1.5, 1e-3, 200, 200
    epsilon = accounting.gaussian_epsilon(mu=mu, delta=delta)
    rng = np.random.default_rng(6)
    above = above_gaussian = 0
    ratio, shape = [], []
    for _ in range(draws):
        bound = mia.epsilon_lower_bound(
            rng.normal(mu, 1, n), rng.normal(0, 1, n), delta=delta, rng=rng
        )
        above += bound.epsilon > epsilon
        above_gaussian += bound.gaussian_epsilon > epsilon
        ratio.append(bound.epsilon)
        shape.append(bound.gaussian_epsilon)
    limit = 0.05 + 4 * np.sqrt(0.05 * 0.95 / draws)
    assert above / draws <= limit
    assert above_gaussian / draws <= limit
    assert np.mean(shape) > 1.5 * np.mean(ratio)  # knowing the shape is worth a lot


def one_run(n, epsilon, rng):
    """Scores of a mechanism that answers each coin by randomised response."""
    coins = rng.random(n) < 0.5
    truthful = rng.random(n) < np.exp(epsilon) / (1 + np.exp(epsilon))
    return np.where(coins == truthful, 1.0, -1.0) + rng.normal(0, 0.01, n), coins


def test_one_run_covers_and_finds():
    rng = np.random.default_rng(8)
    epsilon, draws = 1.0, 200
    bounds = []
    for _ in range(draws):
        s, coins = one_run(395, epsilon, rng)
        bounds.append(mia.one_run_epsilon_lower_bound(s, coins, delta=0.0))
    bounds = np.array(bounds)
    assert (bounds > epsilon).mean() <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / draws)
    assert bounds.mean() > 0.3


def test_one_run_by_definition_without_delta():
    s = np.arange(40.0)
    coins = np.arange(40) >= 20
    coins[[39, 0]] = [False, True]  # two wrong of 32
    got = mia.one_run_epsilon_lower_bound(s, coins, delta=0.0, guesses=(32,))
    q = 1 / (1 + np.exp(-got))
    assert stats.binom.sf(29, 32, q) == pytest.approx(0.05, rel=1e-3)
    weaker = mia.one_run_epsilon_lower_bound(s, coins, delta=1e-4, guesses=(32,))
    assert 0 < weaker < got


def test_a_useless_attack_proves_nothing():
    rng = np.random.default_rng(3)
    coins = rng.random(300) < 0.5
    assert mia.one_run_epsilon_lower_bound(rng.random(300), coins, delta=1e-3) == 0


def test_the_most_exposed_record_is_found_and_its_bound_covers():
    # Record 3 leaks exactly like a Gaussian mechanism with mu = 2; all others not at all.
    mu, delta, above, bounds = 2.0, 1e-3, 0, []
    rng = np.random.default_rng(12)
    epsilon = accounting.gaussian_epsilon(mu=mu, delta=delta)
    for _ in range(100):
        member = mia.random_halves(256, 20, rng=rng)
        s = rng.normal(0, 1, member.shape)
        s[:, 3] += mu * member[:, 3]
        bound = mia.most_exposed_bound(s, member, delta=delta, rng=rng)
        above += bound.gaussian_epsilon > epsilon
        bounds.append(bound.epsilon)
    assert above / 100 <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / 100)
    assert np.mean(bounds) > 0.5
    nothing = [
        mia.most_exposed_bound(
            rng.normal(size=(128, 50)), mia.random_halves(128, 50, rng=rng), delta=0, rng=rng
        ).epsilon
        for _ in range(100)
    ]
    assert np.mean(np.array(nothing) > 0) <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / 100)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mia.epsilon_lower_bound([1.0], [0.0], delta=0, threshold=None), "pass rng="),
        (
            lambda: mia.epsilon_lower_bound(
                [1.0], [0.0, 0.1], delta=0, rng=np.random.default_rng(0)
            ),
            "at least 2 trials on each side .* got 1 in and 2 out",
        ),
        (lambda: mia.epsilon_lower_bound([1.0], [0.0], delta=2, threshold=0.5), "delta"),
        (
            lambda: mia.epsilon_lower_bound([1.0], [0.0], delta=0, threshold=0.5, confidence=0.05),
            "usual is 0.95",
        ),
        (
            lambda: mia.most_exposed_bound(
                np.zeros((4, 2)), np.ones((4, 2), bool), delta=0, rng=np.random.default_rng(0)
            ),
            "at least 16 trainings",
        ),
        (lambda: clopper_pearson(3, 2), "3 of 2"),
        (
            lambda: mia.one_run_epsilon_lower_bound([1.0], [True, False], delta=0),
            "one entry per record",
        ),
        (
            lambda: mia.one_run_epsilon_lower_bound([1.0, 2.0], [True, False], delta=0),
            "do not fit 2 records",
        ),
    ],
)
def test_bad_input_is_refused_in_a_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
