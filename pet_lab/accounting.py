"""Epsilon from noise and back, with the assumptions in words.

A guarantee is only as good as its description of what ran. So nothing here has a default sampler:
whoever asks says whether the batches were shuffled, Poisson samples or the full data, and gets the
bound that holds for that. The figure that the literature and tensorflow-privacy print for shuffled
batches, as if they had been Poisson samples, is available beside it, marked as not proven
(`readings`).

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
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from pet_lab.dpsgd.config import Config

Sampling = Literal["shuffle", "poisson", "full"]
Accountant = Literal["rdp", "pld"]
Neighbouring = Literal["add_remove", "replace_one"]

# tensorflow-privacy's deprecated compute_dp_sgd_privacy looks at these Renyi orders only.
_CLAIM_ORDERS = [1.25, 1.5, 1.75, 2, 2.25, 2.5, 3, 3.5, 4, 4.5, *range(5, 64), 128, 256, 512]
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

    Parameters
    ----------
    mu : float
        Distance of the two outputs in standard deviations; 0 or less gives 0.
    delta : float
        In (0, 1).

    References
    ----------
    arXiv:1905.02383 (Gaussian DP): mu also orders mechanisms of which only the trade-off between
    true and false positives is known.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta must be strictly between 0 and 1, got {delta}.")
    if mu <= 0:
        return 0.0
    if math.isinf(mu):
        return math.inf
    if gaussian_delta(mu=mu, epsilon=0.0) <= delta:
        return 0.0
    from scipy import optimize

    high = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta)) + 1e-9  # the zCDP bound

    def excess(epsilon: float) -> float:
        return gaussian_delta(mu=mu, epsilon=epsilon) - delta

    return float(optimize.brentq(excess, 0.0, high, xtol=1e-12))


def epsilon_from_rho(rho: float, delta: float) -> float:
    """The least epsilon for which rho-zCDP gives (epsilon, delta)-DP by the bound below.

    Source: Canonne, Kamath, Steinke, arXiv:2004.00010, proposition 12: delta is at most
    ``min over a > 1 of exp((a - 1)(a rho - epsilon)) / (a - 1) * (1 - 1/a)^a``.
    """
    if not (rho >= 0 and 0 < delta < 1):
        raise ValueError(f"rho must be >= 0 and delta in (0, 1), got {rho} and {delta}.")
    if rho == 0:
        return 0.0

    from scipy import optimize

    def epsilon_at(log_gap: float) -> float:
        a = 1 + math.exp(log_gap)
        return a * rho + (a * math.log1p(-1 / a) - math.log((a - 1) * delta)) / (a - 1)

    best = optimize.minimize_scalar(epsilon_at, bounds=(-20, 20), method="bounded")
    return max(0.0, float(best.fun))


def rho_from_epsilon(epsilon: float, delta: float) -> float:
    """The largest rho whose `epsilon_from_rho` does not exceed `epsilon`.

    Raises
    ------
    ValueError
        If epsilon is not positive or delta is outside (0, 1).
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}.")
    if not 0 < delta < 1:
        raise ValueError(f"delta must be in (0, 1), got {delta}; 1e-5 is usual for small tables.")
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
        with sampling the smaller of a grid that rounds upwards and the Renyi bound.
    neighbouring : "add_remove" or "replace_one"
        Add or remove in the usual reading: the record's gradient is blanked while the batches and
        their divisors stay as they are.

    Returns
    -------
    Guarantee

    Raises
    ------
    ValueError
        On values outside their range.
    """
    _check(noise_multiplier, n, batch_size, epochs, delta)
    for name, choice, allowed in (
        ("sampling", sampling, Sampling),
        ("accountant", accountant, Accountant),
        ("neighbouring", neighbouring, Neighbouring),
    ):
        if choice not in get_args(allowed):
            raise ValueError(
                f"{name} must be one of {', '.join(get_args(allowed))}, got {choice!r}."
            )
    if (batch_size is None) != (sampling == "full"):
        raise ValueError(
            f'batch_size={batch_size} does not fit sampling="{sampling}": it is None for "full" '
            "and a number for the others."
        )
    size = batch_size or n
    sensitivity, reason = 1.0, "Every record's gradient is clipped to C."
    if microbatches is not None and microbatches != size:
        sensitivity = 2.0
        reason = (
            f"The mean of each of {microbatches} microbatch(es) is clipped, so one record moves "
            "the sum by up to 2 C: the noise multiplier that counts is z / 2."
        )
    elif neighbouring == "replace_one" and sampling != "poisson":
        sensitivity = 2.0
        reason += " Replacing a record moves the sum by up to 2 C."
    z = noise_multiplier / sensitivity
    if sampling == "poisson":
        steps = epochs * math.ceil(n / size)
        run: dict[str, Any] = {"q": size / n, "steps": steps, "delta": delta}
        value = _poisson(z, accountant=accountant, neighbouring=neighbouring, **run)
        how = f"Every batch was a Poisson sample at rate {size / n:.4g}; {steps} steps."
        if neighbouring == "replace_one":
            how += " Replacing counts as removing and adding (group privacy)."
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
        "One record is blanked (add/remove), batches and divisors stay."
        if neighbouring == "add_remove"
        else "One record is replaced by any other.",
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


def of(
    config: Config,
    *,
    n: int,
    delta: float,
    accountant: Accountant = "rdp",
    neighbouring: Neighbouring = "add_remove",
) -> Guarantee:
    """The guarantee of `pet_lab.dpsgd.train(..., config)` on `n` members; epsilon is inf without
    clipping or without noise."""
    return epsilon(
        config.noise_multiplier if config.private else 0.0,
        n=n,
        batch_size=config.batch_size,
        epochs=config.epochs,
        delta=delta,
        sampling=config.sampling,
        microbatches=config.microbatches,
        drop_remainder=config.drop_remainder,
        accountant=accountant,
        neighbouring=neighbouring,
    )


def noise_for(target_epsilon: float, *, epochs: int, delta: float, **setting: Any) -> float:
    """The smallest noise multiplier that guarantees `target_epsilon`, to 6 digits, rounded up.

    Parameters
    ----------
    target_epsilon : float
    epochs, delta, **setting
        All other arguments of `epsilon`.

    Raises
    ------
    ValueError
        If no noise multiplier between 0.001 and a million gives it.
    """
    if not (math.isfinite(target_epsilon) and target_epsilon > 0):
        raise ValueError(f"epsilon must be finite and > 0, got {target_epsilon}.")

    def at(z: float) -> float:
        return epsilon(z, epochs=epochs, delta=delta, **setting).epsilon

    return _invert(at, target_epsilon, f"{epochs} epochs at delta = {delta:g}")


def claimed_epsilon(
    noise_multiplier: float, *, n: int, batch_size: int, epochs: int, delta: float
) -> float:
    """The number that tensorflow-privacy's (now deprecated) `compute_dp_sgd_privacy` returns.

    It pretends that batches were Poisson samples and that every record was clipped, whatever ran.
    """
    _check(noise_multiplier, n, batch_size, epochs, delta)
    steps = math.ceil(epochs * n / batch_size)
    return _rdp_accountant(noise_multiplier, batch_size / n, steps, _CLAIM_ORDERS)(delta)


def report_epsilon(noise_multiplier: float, *, n: int, batch_size: int, epochs: int) -> float:
    """Epsilon by the accountant that gives the report's printed digits in figure 3.10.

    Renyi orders only from 1.56 to 6.6 (100 of them, ``1 + log(1/delta)/10`` to
    ``1 + log(1/delta)``), delta = 1 / (1.1 n), Poisson sampling pretended, steps rounded down.
    With n = 252, batch 22 and 200 epochs: 29225.4, 1007.22, 309.791, 139.092 for noise 0.2, 0.4,
    0.5, 0.6. Loose at large epsilon, where lower orders are the better ones; see `epsilon` for what
    is guaranteed.
    """
    delta = 1 / (1.1 * n)
    _check(noise_multiplier, n, batch_size, epochs, delta)
    orders = np.linspace(1 + math.log(1 / delta) / 10, 1 + math.log(1 / delta), 100).tolist()
    steps = epochs * n // batch_size
    return _rdp_accountant(noise_multiplier, batch_size / n, steps, orders)(delta)


def noise_for_claim(
    target_epsilon: float, *, n: int, batch_size: int, epochs: int, delta: float
) -> float:
    """The noise multiplier that somebody takes who trusts `claimed_epsilon`; errors likewise."""

    claim = functools.partial(
        claimed_epsilon, n=n, batch_size=batch_size, epochs=epochs, delta=delta
    )
    return _invert(claim, target_epsilon, f"{epochs} epochs at delta = {delta:g}")


def readings(config: Config, *, n: int, delta: float) -> pd.DataFrame:
    """All epsilons that one may read off the same training, one per row, and which of them hold.

    Columns: reading, accountant, neighbouring, epsilon, proven (bool), assumptions (text). The
    readings:

    as it ran              the sampler and the clipping that really ran
    library, no sampling   tensorflow-privacy's privacy statement, "each example occurring once per
                           epoch"
    library, Poisson       the same statement's figure "assuming Poisson sampling"
    claimed                its deprecated function, which also ignores microbatches
    """
    import pandas as pd

    rows: list[tuple[Any, ...]] = []
    for accountant in get_args(Accountant):
        for neighbouring in get_args(Neighbouring):
            g = of(config, n=n, delta=delta, accountant=accountant, neighbouring=neighbouring)
            words = " ".join(g.assumptions)
            rows.append(("as it ran", accountant, neighbouring, g.epsilon, True, words))
    z = config.noise_multiplier if config.private else 0.0
    batch, epochs = config.batch_size or n, config.epochs
    grouped = config.microbatches is not None and config.microbatches != batch
    poisson = config.sampling == "poisson"
    steps, counted = math.ceil(epochs * n / batch), z / 2 if grouped else z
    once = "Each record is seen once an epoch, in any order."
    sampled = "Batches are taken for Poisson samples."
    run: dict[str, Any] = {"q": batch / n, "steps": steps, "delta": delta}
    for accountant in get_args(Accountant):
        value = _composed(counted, epochs, delta, accountant)
        rows.append(("library, no sampling", accountant, "add_remove", value, not poisson, once))
        value = _poisson(counted, accountant=accountant, neighbouring="add_remove", **run)
        rows.append(("library, Poisson", accountant, "add_remove", value, poisson, sampled))
    value = claimed_epsilon(z, n=n, batch_size=batch, epochs=epochs, delta=delta)
    taken = "Batches are taken for Poisson samples, every record for clipped."
    rows.append(("claimed", "rdp", "add_remove", value, poisson, taken))
    columns = ["reading", "accountant", "neighbouring", "epsilon", "proven", "assumptions"]
    return pd.DataFrame(rows, columns=columns)


def _check(
    noise_multiplier: float, n: int, batch_size: int | None, epochs: int, delta: float
) -> None:
    if not (math.isfinite(noise_multiplier) and noise_multiplier >= 0):
        raise ValueError(f"noise_multiplier must be finite and >= 0, got {noise_multiplier}.")
    if n < 1 or epochs < 1:
        raise ValueError(f"n and epochs must be at least 1, got {n} and {epochs}.")
    if batch_size is not None and not 1 <= batch_size <= n:
        raise ValueError(f"batch_size must be between 1 and n = {n}, got {batch_size}.")
    if not 0 < delta < 1:
        raise ValueError(f"delta must be strictly between 0 and 1, got {delta}.")


def _invert(at: Callable[[float], float], target: float, what: str) -> float:
    from scipy import optimize

    least, most = at(_LARGEST_NOISE), at(_SMALLEST_NOISE)
    if least > target:
        raise ValueError(
            f"epsilon = {target:g} cannot be certified for {what}: even with a noise multiplier of "
            f"{_LARGEST_NOISE:g} it is {least:.3g}. Ask for more, train for fewer epochs, or allow "
            "a larger delta."
        )
    if most < target:
        raise ValueError(
            f"epsilon = {target:g} needs a noise multiplier below {_SMALLEST_NOISE:g} for {what}, "
            f"where epsilon is already {most:.3g}; that is training without privacy: use 0."
        )
    log_z = optimize.brentq(
        lambda t: math.log(min(max(at(math.exp(t)), 1e-12), 1e12)) - math.log(target),
        math.log(_SMALLEST_NOISE),
        math.log(_LARGEST_NOISE),
        xtol=2e-7,
    )
    while at(math.exp(log_z)) > target:  # the root may lie on the wrong side by the tolerance
        log_z += 2e-7
    return math.exp(log_z)


def _composed(z: float, times: int, delta: float, accountant: str) -> float:
    """Epsilon of `times` Gaussian mechanisms with noise multiplier z."""
    if z == 0:
        return math.inf
    if accountant == "pld":
        return gaussian_epsilon(mu=math.sqrt(times) / z, delta=delta)
    return _rdp_accountant(z, 1.0, times)(delta)


@functools.lru_cache(maxsize=4096)
def _rdp(z: float, q: float, steps: int, orders: tuple[float, ...] | None) -> Any:
    import dp_accounting
    from dp_accounting import rdp

    event: Any = dp_accounting.GaussianDpEvent(z)
    if q < 1:
        event = dp_accounting.PoissonSampledDpEvent(q, event)
    account = rdp.RdpAccountant(None if orders is None else list(orders))
    try:
        account.compose(dp_accounting.SelfComposedDpEvent(event, steps))
    except ValueError:  # noise so large that the divergence is lost in rounding: leave out sampling
        return _rdp(z, 1.0, steps, orders)
    # At large z rounding leaves a divergence of -1e-11, which dp-accounting 0.4.3 then refuses.
    account._rdp = np.maximum(account._rdp, 0.0)
    return account


def _rdp_accountant(
    z: float, q: float, steps: int, orders: list[float] | None = None
) -> Callable[[float], float]:
    if z == 0:
        return lambda delta: math.inf
    # At next to no noise some orders overflow; they are useless there.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        account = _rdp(z, q, steps, None if orders is None else tuple(orders))
        return lambda delta: float(account.get_epsilon(delta))


def _poisson(
    z: float, *, q: float, steps: int, delta: float, accountant: str, neighbouring: str
) -> float:
    """Epsilon of Poisson-sampled Gaussian mechanisms."""
    if z == 0:
        return math.inf
    if q >= 1:
        scale = 2.0 if neighbouring == "replace_one" else 1.0
        return _composed(z / scale, steps, delta, accountant)
    by_delta = _rdp_accountant(z, q, steps)
    if accountant == "pld":
        by_renyi = by_delta
        scale = min(by_renyi(delta), gaussian_epsilon(mu=math.sqrt(steps) / z, delta=delta))
        by_losses = _pld_accountant(z, q, steps, scale)

        # A grid loses tail below 1e-14 or so, and grows with the steps: each bound holds, so take
        # the smaller (at 10^7 steps, or at delta 1e-15, Renyi orders are tighter by far).
        def by_delta(delta: float) -> float:
            return min(by_renyi(delta), by_losses(delta))

    if neighbouring == "add_remove":
        return by_delta(delta)
    # Group privacy: (e, d) for add/remove gives (2 e, (1 + exp(e)) d) for replace-one. Look for the
    # d that ends at `delta`, as far as floats reach. The bound without amplification holds too.
    bound = _composed(z / 2, steps, delta, accountant)

    def excess(log_d: float) -> float:
        return float(np.logaddexp(0.0, by_delta(math.exp(log_d))) + log_d - math.log(delta))

    low, high = math.log(1e-300), math.log(delta)
    if excess(low) > 0:
        return bound
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) <= 0 else (low, middle)
    return min(2 * by_delta(math.exp(low)), bound)


def _pld_accountant(z: float, q: float, steps: int, scale: float) -> Callable[[float], float]:
    import dp_accounting
    from dp_accounting import pld

    # The grid grows with epsilon: at a fixed 1e-4, z = 0.1 takes a minute for a digit nobody needs.
    # It rounds upwards, so a coarse grid costs tightness (below 1 %), never validity.
    interval = max(1e-4, 1e-4 * scale)
    mu = math.sqrt(steps) / z
    if interval > _COARSEST_GRID:  # epsilon in the millions: dp-accounting overflows
        return lambda delta: gaussian_epsilon(mu=mu, delta=delta)
    account = pld.PLDAccountant(value_discretization_interval=interval)
    event = dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(z))
    account.compose(dp_accounting.SelfComposedDpEvent(event, steps))
    # Sampling never hurts, so the same steps without it are a bound as well.
    return lambda delta: min(
        float(account.get_epsilon(delta)), gaussian_epsilon(mu=mu, delta=delta)
    )
