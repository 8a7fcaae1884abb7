"""Epsilon from noise and back, with the assumptions in words.

A guarantee is only as good as its description of what ran. So nothing here has a default sampler:
whoever asks says whether the batches were shuffled, Poisson samples or the full data, and gets the
bound that holds for that.

Sensitivity, with clipping bound C and noise z * C on the sum:

* every record clipped: blanking one record moves the sum by at most C, replacing it by at most 2 C;
* microbatches of more than one record: the library clips the *mean* gradient v of a microbatch. One
  record enters that mean before clipping, unbounded, so it can turn v into any other vector: after
  clipping, from one end of the ball of radius C to the other. The sum moves by up to 2 C whatever
  the neighbouring relation, and the noise multiplier that counts is z / 2 (arXiv:2303.00654, 5.6).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from pet_lab import checks
from pet_lab.checks import require

if TYPE_CHECKING:
    from pet_lab.dpsgd.config import Config

Sampling = Literal["shuffle", "poisson", "full"]
Accountant = Literal["rdp", "pld"]
Neighbouring = Literal["add_remove", "replace_one"]
Way = Literal["strong", "moments", "renyi", "loss", "replaced", "clt", "clt_uniform"]

# tensorflow-privacy's deprecated compute_dp_sgd_privacy looks at these Renyi orders only.
_CLAIM_ORDERS = (1.25, 1.5, 1.75, 2, 2.25, 2.5, 3, 3.5, 4, 4.5, *range(5, 64), 128, 256, 512)
_NO_NOISE = 1e-100  # its square still has an inverse
_LARGEST_NOISE, _SMALLEST_NOISE = 1e6, 1e-3
_COARSEST_GRID = 200.0


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """(epsilon, delta)-differential privacy, and what has to be true for it to hold.

    epsilon       >= 0; inf means no guarantee
    delta         in (0, 1)
    neighbouring  "add_remove" (one record blanked) or "replace_one"
    accountant    "rdp" or "pld"
    assumptions   sentences, each a condition or a choice behind the number
    """

    epsilon: float
    delta: float
    neighbouring: str
    accountant: str
    assumptions: tuple[str, ...]

    def __str__(self) -> str:
        relation = {"add_remove": "add/remove", "replace_one": "replace-one"}[self.neighbouring]
        return (
            f"epsilon = {self.epsilon:.3g} at delta = {self.delta:g} ({relation}, "
            f"{self.accountant.upper()}): {' '.join(self.assumptions)}"
        )


def gaussian_delta(*, mu: float, epsilon: float) -> float:
    """Smallest delta at `epsilon` of the Gaussian mechanism with sensitivity / noise SD = `mu`.

    Exact (Balle and Wang 2018, arXiv:1805.06530, theorem 8). k repetitions of mu are one mechanism
    with sqrt(k) * mu, so this covers composition too.
    """
    from scipy import special

    if mu == 0:
        return 0.0
    a = special.log_ndtr(mu / 2 - epsilon / mu)
    b = epsilon + special.log_ndtr(-mu / 2 - epsilon / mu)
    # exp(a) - exp(b), without cancelling when both are tiny
    return float(np.exp(a) * -np.expm1(min(b - a, 0.0)))


def gaussian_epsilon(*, mu: float, delta: float) -> float:
    """Smallest epsilon at `delta` of the Gaussian mechanism with sensitivity / noise SD = `mu`.

    mu is the distance of the two outputs in standard deviations (0 or less gives 0); it also orders
    mechanisms of which only the trade-off between true and false positives is known
    (arXiv:1905.02383, Gaussian DP).
    """
    from scipy import optimize

    _check_delta(delta)
    if math.isinf(mu) and mu > 0:
        return math.inf
    if mu <= 0 or gaussian_delta(mu=mu, epsilon=0.0) <= delta:
        return 0.0
    high = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta)) + 1e-9  # the zCDP bound
    root = optimize.brentq(
        lambda epsilon: gaussian_delta(mu=mu, epsilon=epsilon) - delta, 0.0, high, xtol=1e-12
    )
    return float(root)


def epsilon_from_rho(rho: float, delta: float) -> float:
    """The least epsilon for which rho-zCDP gives (epsilon, delta)-DP by the bound below.

    Source: Canonne, Kamath, Steinke, arXiv:2004.00010, proposition 12: delta is at most
    ``min over a > 1 of exp((a - 1)(a rho - epsilon)) / (a - 1) * (1 - 1/a)^a``.
    """
    from scipy import optimize

    require(rho >= 0, f"rho is a number of at least 0, got {rho}.")
    _check_delta(delta)
    if rho == 0:
        return 0.0

    def epsilon_at(log_gap: float) -> float:
        a = 1 + math.exp(log_gap)
        return a * rho + (a * math.log1p(-1 / a) - math.log((a - 1) * delta)) / (a - 1)

    best = optimize.minimize_scalar(epsilon_at, bounds=(-20, 20), method="bounded")
    return max(0.0, float(best.fun))


def rho_from_epsilon(epsilon: float, delta: float) -> float:
    """The largest rho whose `epsilon_from_rho` does not exceed `epsilon`."""
    checks.positive(epsilon=epsilon)
    _check_delta(delta)
    low, high = 0.0, epsilon + 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if epsilon_from_rho(middle, delta) <= epsilon:
            low = middle
        else:
            high = middle
    return low


def epsilon(
    noise_multiplier: float,
    *,
    n: int,
    batch_size: int | None,
    epochs: int,
    delta: float,
    sampling: Sampling,
    microbatches: int | None = None,
    drop_remainder: bool = False,
    accountant: Accountant = "rdp",
    neighbouring: Neighbouring = "add_remove",
) -> Guarantee:
    """What DP-SGD guarantees for all its intermediate models, by the sampler that really ran.

    Parameters
    ----------
    noise_multiplier : float
        z: noise of standard deviation z * C on the sum of clipped gradients. 0 gives epsilon inf.
    n, batch_size, epochs, sampling, microbatches, drop_remainder
        As in `pet_lab.dpsgd.Config`; batch_size is None with sampling="full".
        "shuffle" gets no amplification by sampling: each record is seen once an epoch, so the bound
        composes `epochs` Gaussian mechanisms, and holds for any order of the records.
        "poisson" is amplified by sampling at the rate batch_size / n.
        "full" composes `epochs` Gaussian mechanisms.
    delta : float
        In (0, 1); usually well below 1 / n.
    accountant : "rdp" or "pld"
        Renyi orders, or the privacy loss distribution: without sampling by the exact closed form,
        with sampling the smaller of a grid that rounds upwards and the Renyi bound. Replacing under
        Poisson sampling is always of the second kind.
    neighbouring : "add_remove" or "replace_one"
        Add or remove in the usual reading: the record's gradient is blanked while the batches and
        their divisors stay as they are.
    """
    _check(noise_multiplier, n=n, batch_size=batch_size, epochs=epochs, delta=delta)
    checks.one_of(get_args(Sampling), sampling=sampling)
    checks.one_of(get_args(Accountant), accountant=accountant)
    checks.one_of(get_args(Neighbouring), neighbouring=neighbouring)
    require(
        (batch_size is None) == (sampling == "full"),
        f'batch_size={batch_size} does not fit sampling="{sampling}": it is None for "full" and a '
        "number for the others.",
    )
    size, replaced = batch_size or n, neighbouring == "replace_one"
    z, reason = noise_multiplier, "Every record's gradient is clipped to C."
    if microbatches is not None and microbatches != size:
        z /= 2
        reason = (
            f"The mean of each of {microbatches} microbatch(es) is clipped, so one record moves "
            "the sum by up to 2 C: the noise multiplier that counts is z / 2."
        )
    elif replaced and sampling != "poisson":
        z /= 2
        reason += " Replacing a record moves the sum by up to 2 C."
    if sampling == "poisson":
        steps = epochs * math.ceil(n / size)
        accountant = "pld" if replaced else accountant
        value = _poisson(z, size / n, steps, delta, accountant=accountant, replaced=replaced)
        how = f"Every batch was a Poisson sample at rate {size / n:.4g}; {steps} steps."
        if replaced:
            how += " Replacing by the dominating pair of this very mechanism (arXiv:2405.20769)."
    else:
        value = _composed(z, epochs, delta, accountant)
        how = f"Every record was used in each of {epochs} steps."
        if sampling == "shuffle":
            how = (
                f"Each record was seen once in each of {epochs} epochs, in any order: no "
                "amplification by shuffling is claimed."
            )
            if drop_remainder:
                how += " Some epochs left records out; the bound does not use that."
    assumptions = (
        how,
        reason,
        "One record is replaced by any other."
        if replaced
        else "One record is blanked (add/remove), batches and divisors stay.",
        "All intermediate models may be published.",
        "The tuning of other settings on the same data is not counted.",
    )
    return Guarantee(
        epsilon=value,
        delta=delta,
        neighbouring=neighbouring,
        accountant=accountant,
        assumptions=assumptions,
    )


def of(config: Config, **setting: Any) -> Guarantee:
    """The guarantee of `pet_lab.dpsgd.train(..., config)`: epsilon inf without clipping or noise.

    `setting` is n, delta and, where they are not the usual ones, accountant and neighbouring.
    """
    names = ("batch_size", "epochs", "sampling", "microbatches", "drop_remainder")
    ran = {name: getattr(config, name) for name in names}
    return epsilon(config.noise_multiplier if config.private else 0.0, **ran, **setting)


def noise_for(target_epsilon: float, **setting: Any) -> float:
    """The smallest noise multiplier that guarantees `target_epsilon`, to 6 digits, rounded up.

    `setting` is all other arguments of `epsilon`. ValueError if no noise multiplier between 0.001
    and a million gives it.
    """
    return _invert(lambda z: epsilon(z, **setting).epsilon, target_epsilon, setting)


def check_target(target_epsilon: float, *, claimed: bool = False, **setting: Any) -> None:
    """Refuse at once what `noise_for`, or with `claimed` `noise_for_claim`, would refuse."""
    at = claimed_epsilon if claimed else lambda z, **how: epsilon(z, **how).epsilon
    _check_reach(functools.partial(at, **setting), target_epsilon, setting)


def claimed_epsilon(
    noise_multiplier: float, *, n: int, batch_size: int, epochs: int, delta: float
) -> float:
    """The number that tensorflow-privacy's (now deprecated) `compute_dp_sgd_privacy` returns.

    It pretends that batches were Poisson samples and that every record was clipped, whatever ran.
    """
    _check(noise_multiplier, n=n, batch_size=batch_size, epochs=epochs, delta=delta)
    steps = math.ceil(epochs * n / batch_size)
    return _renyi(noise_multiplier, batch_size / n, steps, delta, _CLAIM_ORDERS)


def report_epsilon(noise_multiplier: float, *, n: int, batch_size: int, epochs: int) -> float:
    """Epsilon by the accountant that gives the report's printed digits in figure 3.10.

    Renyi orders only from 1.56 to 6.6 (100 of them, ``1 + log(1/delta)/10`` to
    ``1 + log(1/delta)``), delta = 1 / (1.1 n), Poisson sampling pretended, steps rounded down.
    With n = 252, batch 22 and 200 epochs: 29225.4, 1007.22, 309.791, 139.092 for noise 0.2, 0.4,
    0.5, 0.6. Loose at large epsilon, where lower orders are the better ones; see `epsilon` for what
    is guaranteed.
    """
    delta = 1 / (1.1 * n)
    _check(noise_multiplier, n=n, batch_size=batch_size, epochs=epochs, delta=delta)
    orders = np.linspace(1 + math.log(1 / delta) / 10, 1 + math.log(1 / delta), 100).tolist()
    return _renyi(noise_multiplier, batch_size / n, epochs * n // batch_size, delta, orders)


def noise_for_claim(target_epsilon: float, **setting: Any) -> float:
    """The noise multiplier that somebody takes who trusts `claimed_epsilon`; errors likewise."""
    return _invert(lambda z: claimed_epsilon(z, **setting), target_epsilon, setting)


def epsilon_by(
    way: Way,
    noise_multiplier: float,
    *,
    rate: float,
    steps: float,
    delta: float,
    orders: Sequence[float] | None = None,
) -> float:
    """Epsilon of Gaussian steps on Poisson samples, by the accountants of the literature.

    Parameters
    ----------
    way : str
        "strong": each step (epsilon, delta)-DP by the tail of its noise, times the rate, summed by
        strong composition (arXiv:1607.00133, section 5.1), half of delta to the steps.
        "moments": Renyi moments, converted as until 2020 (arXiv:1702.07476, proposition 3).
        "renyi": the same moments, converted as today (arXiv:2004.00010, proposition 12).
        "loss": the privacy loss distribution; "replaced": the same for replacing a record.
        "clt": a central limit, no bound (arXiv:1911.11607); "clt_uniform": for batches of one size.
    rate, steps : float
        Chance of a record to be in a batch, in (0, 1]; number of batches, at least 1. Moments and
        limits take fractions of a step, as programs did; loss distributions round up.
    orders : sequence of float, optional
        Renyi orders above 1 that the program looked at; default: dp-accounting's.
    """
    z = noise_multiplier
    checks.one_of(get_args(Way), way=way)
    checks.positive(noise_multiplier=z)
    checks.between(1e-9, 1, rate=rate)
    checks.between(1, 1e9, steps=steps)
    _check_delta(delta)
    if way in ("loss", "replaced"):
        whole, replaced = math.ceil(steps - 1e-9), way == "replaced"
        return _poisson(z, rate, whole, delta, accountant="pld", replaced=replaced)
    if way.startswith("clt"):
        return gaussian_epsilon(mu=clt_mu(z, rate=rate, steps=steps, way=way), delta=delta)
    if way == "strong":
        step = rate * math.sqrt(2 * math.log(2.5 * steps * rate / delta)) / z
        tail = math.sqrt(2 * steps * math.log(2 / delta)) * step
        return tail + steps * step * math.expm1(step)
    at, moments = renyi_divergences(z, rate=rate, steps=steps, orders=orders)
    if way == "moments":
        return float(np.min(moments + math.log(1 / delta) / (at - 1)))
    return _converted(at, moments, delta)


def _converted(at: np.ndarray, moments: np.ndarray, delta: float) -> float:
    """Epsilon at delta from divergences of the orders `at` (arXiv:2004.00010, proposition 12)."""
    shrunk = np.log1p(-1 / at) - (math.log(delta) + np.log(at)) / (at - 1)
    return max(0.0, float(np.min(moments + shrunk)))


def after_search(configs: Sequence[Config], *, n: int, delta: float) -> dict[str, float]:
    """Epsilon of the best of `configs` (Poisson samples) on the same n records, by Renyi orders.

    "one": a single setting, fixed beforehand; the largest. "all": every setting is trained, and all
    models may be seen. "random": only the best of a random number of trainings is, each with a
    setting drawn uniformly, their number geometric with mean len(configs) (Papernot and Steinke,
    arXiv:2110.03620, theorem 2). A setting drawn at random diverges at each order by no more than
    the worst. The score that says which is best must not be computed from the n records.
    """
    require(len(configs) > 0, "A search needs at least one setting, got none.")
    curves = []
    for c in configs:
        fits = c.private and c.sampling == "poisson" and c.batch_size
        require(fits, f'A search is accounted for private settings on "poisson" samples, got {c}.')
        rate = (c.batch_size or n) / n
        steps = c.epochs * math.ceil(1 / rate)
        at, moments = renyi_divergences(c.noise_multiplier, rate=rate, steps=steps)
        curves.append(moments)
    worst, trials = np.max(curves, axis=0), math.log(len(configs))
    repeated = worst + trials / (at - 1) + 2 * np.min((1 - 1 / at) * worst + trials / at)
    ways = {"one": worst, "random": repeated, "all": np.sum(curves, axis=0)}
    return {way: _converted(at, moments, delta) for way, moments in ways.items()}


def renyi_divergences(
    noise_multiplier: float, *, rate: float, steps: float, orders: Sequence[float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Orders above 1 and the divergence at each, shapes (n,): Gaussian steps on Poisson samples."""
    account = _renyi_account(noise_multiplier, rate, 1, None if orders is None else tuple(orders))
    return np.asarray(account._orders, dtype=float), np.asarray(account._rdp) * steps


def clt_mu(noise_multiplier: float, *, rate: float, steps: float, way: str = "clt") -> float:
    """mu of the Gaussian mechanism that many steps approach (arXiv:1911.11607)."""
    from scipy.special import ndtr

    inverse = 1 / noise_multiplier
    spread = math.expm1(inverse**2)
    if way == "clt_uniform":
        spread = 2 * (math.exp(inverse**2) * ndtr(1.5 * inverse) + 3 * ndtr(-0.5 * inverse) - 2)
    return rate * math.sqrt(steps * spread)


def _check_delta(delta: float) -> None:
    require(0 < delta < 1, f"delta is strictly between 0 and 1, got {delta}; 1e-5 is usual.")


def _check(z: float, *, n: int, batch_size: int | None, epochs: int, delta: float) -> None:
    require(0 <= z < math.inf, f"noise_multiplier is a finite number of at least 0, got {z}.")
    checks.whole(1, n=n, epochs=epochs)
    if batch_size is not None:
        checks.between(1, n, batch_size=batch_size, hint="n records are all there are")
    _check_delta(delta)


def _invert(at: Callable[[float], float], target: float, setting: dict[str, Any]) -> float:
    """The least noise multiplier z with at(z) <= target."""
    from scipy import optimize

    _check_reach(at, target, setting)
    floor, ceiling = min(1e-12, target / 2), max(1e12, 2 * target)  # 0 and inf have no logarithm
    log_z = optimize.brentq(
        lambda t: math.log(min(max(at(math.exp(t)), floor), ceiling)) - math.log(target),
        math.log(_SMALLEST_NOISE),
        math.log(_LARGEST_NOISE),
        xtol=2e-7,
    )
    while at(math.exp(log_z)) > target:  # the root may lie on the wrong side by the tolerance
        log_z += 2e-7
    return math.exp(log_z)


def _check_reach(at: Callable[[float], float], target: float, setting: dict[str, Any]) -> None:
    checks.positive(epsilon=target)
    least, most = at(_LARGEST_NOISE), at(_SMALLEST_NOISE)
    what = f"{setting['epochs']} epochs at delta = {setting['delta']:g}"
    require(
        least <= target,
        f"epsilon = {target:g} cannot be certified for {what}: even with a noise multiplier of "
        f"{_LARGEST_NOISE:g} it is {least:.3g}; ask for more, train for fewer epochs, or allow "
        "a larger delta.",
    )
    require(
        most >= target,
        f"epsilon = {target:g} needs a noise multiplier below {_SMALLEST_NOISE:g} for {what}, "
        f"where epsilon is already {most:.3g}; that is training without privacy: ask for less, or "
        "train without noise.",
    )


def _composed(z: float, times: int, delta: float, accountant: str) -> float:
    """Epsilon of `times` Gaussian mechanisms with noise multiplier z."""
    if z <= _NO_NOISE:
        return math.inf
    if accountant == "pld":
        return gaussian_epsilon(mu=math.sqrt(times) / z, delta=delta)
    return _renyi(z, 1.0, times, delta)


def _renyi(
    z: float, q: float, steps: int, delta: float, orders: Sequence[float] | None = None
) -> float:
    """Epsilon of Gaussian mechanisms on Poisson samples at rate q; None: dp-accounting's orders."""
    if z <= _NO_NOISE:
        return math.inf
    # At next to no noise some orders overflow; they are useless there.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        account = _renyi_account(z, q, steps, None if orders is None else tuple(orders))
        return float(account.get_epsilon(delta))


@functools.lru_cache(maxsize=4096)
def _renyi_account(z: float, q: float, steps: int, orders: tuple[float, ...] | None) -> Any:
    from dp_accounting import SelfComposedDpEvent, rdp

    account = rdp.RdpAccountant(None if orders is None else list(orders))
    try:
        account.compose(SelfComposedDpEvent(_sampled_gaussian(z, q), steps))
    except ValueError:  # noise so large that the divergence is lost in rounding: leave out sampling
        return _renyi_account(z, 1.0, steps, orders)
    # At large z rounding leaves a divergence of -1e-11, which dp-accounting 0.4.3 then refuses.
    account._rdp = np.maximum(account._rdp, 0.0)
    return account


def _sampled_gaussian(z: float, q: float) -> Any:
    import dp_accounting

    gaussian = dp_accounting.GaussianDpEvent(z)
    return dp_accounting.PoissonSampledDpEvent(q, gaussian) if q < 1 else gaussian


def _poisson(
    z: float, q: float, steps: int, delta: float, *, accountant: str, replaced: bool
) -> float:
    """Epsilon of Gaussian mechanisms on Poisson samples at rate q: the smallest of what holds."""
    if z <= _NO_NOISE:
        return math.inf
    if q >= 1:
        return _composed(z / 2 if replaced else z, steps, delta, accountant)
    bounds: list[Callable[[float], float]] = [functools.partial(_renyi, z, q, steps)]
    if accountant == "pld":
        # Sampling never hurts, so the same steps without it are a bound as well. The grid loses
        # tail below 1e-14 or so, and grows with the steps: at 10^7 of them, or at delta 1e-15,
        # Renyi orders are tighter by far.
        bounds.append(lambda delta: _composed(z, steps, delta, "pld"))
        # It also grows with epsilon: at a fixed 1e-4, z = 0.1 takes a minute for a digit nobody
        # needs. It rounds upwards, so a coarse one costs tightness (below 1 %), never validity.
        known = min(bound(delta) for bound in bounds)
        if known == 0 and not replaced:
            return 0.0  # which no grid betters, and at much noise it takes seconds
        interval = 1e-4 * max(1.0, known)
        if interval <= _COARSEST_GRID:  # else epsilon is in the millions: dp-accounting overflows
            from dp_accounting import SelfComposedDpEvent, pld

            account = pld.PLDAccountant(value_discretization_interval=interval)
            account.compose(SelfComposedDpEvent(_sampled_gaussian(z, q), steps))
            bounds.append(account.get_epsilon)

    def tightest(delta: float) -> float:
        return float(min(bound(delta) for bound in bounds))

    if not replaced:
        return tightest(delta)
    # Three bounds hold; the grid of the first loses its tail below 1e-14 and grows with the steps,
    # as above, where one of the others is tighter.
    held = [_composed(z / 2, steps, delta, accountant)]
    bound = min(held[0], tightest(delta))
    # Each step rounds up by half an interval: together below 1 % of epsilon, while memory lasts.
    interval = min(3e-5 * max(1.0, bound), max(3e-6, bound / (50 * steps)))
    if interval <= _COARSEST_GRID:
        from dp_accounting.pld import privacy_loss_distribution as losses

        one_step = losses.create_from_cdf(
            functools.partial(_replacement_loss_cdf, z=z, q=q),
            value_discretization_interval=interval,
        )
        held.append(one_step.self_compose(steps).get_epsilon_for_delta(delta))

    # Group privacy: (e, d) for add/remove gives (2 e, (1 + exp(e)) d) for replace-one. Look for the
    # d that ends at `delta`, as far as floats reach.
    def excess(log_d: float) -> float:
        return float(np.logaddexp(0.0, tightest(math.exp(log_d))) + log_d - math.log(delta))

    low, high = math.log(1e-300), math.log(delta)
    if excess(low) <= 0:
        while high - low > 1e-6:
            middle = (low + high) / 2
            low, high = (middle, high) if excess(middle) <= 0 else (low, middle)
        held.append(2 * tightest(math.exp(low)))
    return float(min(held))


def _replacement_loss_cdf(loss: float, *, z: float, q: float) -> float:
    """Probability that the privacy loss of a Poisson-sampled Gaussian is at most `loss`, replacing.

    The dominating pair is (1 - q) N(0, z^2) + q N(1, z^2) against the same with -1 for 1 (Lebeda et
    al., arXiv:2405.20769): its log ratio grows with the outcome, so the event is an outcome below
    x, where u = exp(x / z^2) solves b u^2 - a (e^loss - 1) u - b e^loss = 0.
    """
    from scipy.special import ndtr

    a, log_b = 1 - q, math.log(q) - 1 / (2 * z * z)
    if (size := abs(loss)) > 30:  # the terms in b are lost in rounding, and exp may overflow
        log_2bu = math.log(2 * a) + size
    else:
        linear = a * math.expm1(size)
        root = math.sqrt(linear**2 + 4 * math.exp(2 * log_b + size))
        log_2bu = math.log(linear + root) if root else -math.inf
    # The pair is symmetric: x changes its sign with the loss.
    x = 0.0 if loss == 0 else math.copysign(z * z * (log_2bu - math.log(2) - log_b), loss)
    return float(a * ndtr(x / z) + q * ndtr((x - 1) / z))
