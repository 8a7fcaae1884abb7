"""Differential privacy in federated averaging: for records, and for whole offices."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pet_lab import accounting
from pet_lab.federated.aggregation import Array, Plain
from pet_lab.federated.model import LocalTraining
from pet_lab.federated.partition import Office
from pet_lab.federated.rounds import Federation, History, simulate


def record_epsilon(
    offices: Sequence[Office], training: LocalTraining, *, rounds: int, delta: float
) -> float:
    """Epsilon of the worst-protected record when every office trains by DP-SGD.

    A record is in one office only, so offices compose in parallel: the largest epsilon counts.
    Batches are Poisson samples; the relation is add or remove one window. All models of all rounds
    may be seen, by the server and by the other offices. Not in it: the pooled mean and standard
    deviation that scale the features; and a moment of a recording lies in two windows, since they
    overlap by half, so that for a moment the relation is two windows.
    """
    if not training.private:
        return float("inf")
    how: dict[str, Any] = {"epochs": rounds * training.epochs, "delta": delta}
    how |= {"sampling": "poisson", "accountant": "rdp", "neighbouring": "add_remove"}
    sizes = [(o.n, min(training.batch_size, o.n)) for o in offices]
    z = training.noise_multiplier
    return max(accounting.epsilon(z, n=n, batch_size=b, **how).epsilon for n, b in sizes)


@dataclass(frozen=True, kw_only=True)
class OfficeLevel:
    """Noise on the average that hides whether an office took part at all.

    clip              largest norm of an office's change in a round
    noise_multiplier  standard deviation of the noise on the sum of changes, over `clip`
    """

    clip: float
    noise_multiplier: float

    def epsilon(self, *, rounds: int, delta: float) -> float:
        """All offices in every round: Gaussian mechanisms, composed; add or remove an office."""
        mu = math.sqrt(rounds) / self.noise_multiplier
        return accounting.gaussian_epsilon(mu=mu, delta=delta)

    def noise_to_signal(self, *, offices: int, parameters: int) -> float:
        """Norm of the noise on the average over the norm of the largest possible average change.

        z sqrt(parameters) / offices: the clip cancels; only more offices or fewer parameters help.
        """
        return self.noise_multiplier * math.sqrt(parameters) / offices


def office_level(target_epsilon: float, *, clip: float, rounds: int, delta: float) -> OfficeLevel:
    """The noise that gives an epsilon for offices."""
    how: dict[str, Any] = {"n": 1, "batch_size": None, "sampling": "full"}
    how |= {"accountant": "pld", "neighbouring": "add_remove"}
    z = accounting.noise_for(target_epsilon, epochs=rounds, delta=delta, **how)
    return OfficeLevel(clip=clip, noise_multiplier=z)


def train_office_level(federation: Federation, how: OfficeLevel) -> History:
    """Federated averaging with clipped changes, equal shares and noise on the average.

    The server adds the noise, so it is trusted with the single changes or, under encrypted adding,
    with the noise alone. It takes the place of the federation's scheme and transform.
    """
    offices, rng = federation.offices, np.random.default_rng([federation.seed, 20_011])
    deviation = how.noise_multiplier * how.clip / len(offices)

    def clipped(number: int, received: Array, weights: Array) -> Array:
        change = weights - received
        return received + change / max(float(np.linalg.norm(change)) / how.clip, 1.0)

    def noisy(weights: Array, shares: Array) -> Array:
        return weights.mean(axis=0) + rng.normal(0, deviation, weights.shape[1])

    scheme = Plain(federation.network.parameters, rule=noisy)
    transform = {o.name: clipped for o in offices}
    return simulate(
        replace(federation, scheme=scheme, transform=transform), evaluate_every=federation.rounds
    )
