"""Differential privacy in federated averaging: for records, and for whole offices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pet_lab import accounting
from pet_lab.federated.aggregation import Plain
from pet_lab.federated.model import LocalTraining, Network
from pet_lab.federated.partition import Office
from pet_lab.federated.rounds import History, simulate

__all__ = ["OfficeLevel", "noise_to_signal", "office_level", "record_epsilon", "train_office_level"]


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
    return max(
        accounting.epsilon(
            training.noise_multiplier,
            n=o.n,
            batch_size=min(training.batch_size, o.n),
            epochs=rounds * training.epochs,
            delta=delta,
            sampling="poisson",
            accountant="rdp",
            neighbouring="add_remove",
        ).epsilon
        for o in offices
    )


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
        return accounting.gaussian_epsilon(
            mu=math.sqrt(rounds) / self.noise_multiplier, delta=delta
        )


def office_level(target_epsilon: float, *, clip: float, rounds: int, delta: float) -> OfficeLevel:
    """The noise that gives an epsilon for offices."""
    z = accounting.noise_for(
        target_epsilon,
        n=1,
        batch_size=None,
        epochs=rounds,
        delta=delta,
        sampling="full",
        accountant="pld",
        neighbouring="add_remove",
    )
    return OfficeLevel(clip=clip, noise_multiplier=z)


def noise_to_signal(how: OfficeLevel, *, offices: int, parameters: int) -> float:
    """Norm of the noise on the average over the norm of the largest possible average change.

    z sqrt(parameters) / offices: the clip cancels; only more offices or fewer parameters help.
    """
    return how.noise_multiplier * float(np.sqrt(parameters)) / offices


def train_office_level(
    offices: Sequence[Office],
    network: Network,
    training: LocalTraining,
    how: OfficeLevel,
    *,
    rounds: int,
    seed: int,
) -> History:
    """Federated averaging with clipped changes, equal shares and noise on the average.

    The server adds the noise, so it is trusted with the single changes or, under encrypted adding,
    with the noise alone.
    """
    rng = np.random.default_rng([seed, 20_011])
    deviation = how.noise_multiplier * how.clip / len(offices)

    def clipped(
        number: int, received: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        change = weights - received
        return received + change / max(float(np.linalg.norm(change)) / how.clip, 1.0)

    def noisy(weights: NDArray[np.float64], shares: NDArray[np.float64]) -> NDArray[np.float64]:
        return weights.mean(axis=0) + rng.normal(0, deviation, weights.shape[1])

    return simulate(
        offices,
        network,
        training,
        Plain(network.parameters, rule=noisy),
        rounds=rounds,
        seed=seed,
        transform={o.name: clipped for o in offices},
        evaluate_every=rounds,
    )
