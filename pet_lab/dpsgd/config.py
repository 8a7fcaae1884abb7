"""What one private training is: the settings, checked when they are written down."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from pet_lab.accounting import Sampling

Activation = Literal["relu", "tanh"]
Optimiser = Literal["sgd", "momentum", "adam"]
Engine = Literal["batched", "tensorflow-privacy", "tensorflow-privacy-vectorized"]

# Settings that may differ between the replicas of one program; all others fix array shapes or code.
PER_REPLICA = ("learning_rate", "epochs", "clip", "noise_multiplier")


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a `value` that is none of the allowed ones."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}.")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of DP-SGD for a dense network with one logit as output and the logistic loss.

    hidden            units of the hidden layers; () is logistic regression
    activation        of the hidden layers
    optimiser         "sgd", "momentum" (0.9 unless `momentum` says otherwise) or "adam", with the
                      update rules and defaults of Keras's legacy optimisers
    learning_rate     step size, > 0
    epochs            passes over the members; with sampling="full" this is the number of steps
    batch_size        records per step (expected number under "poisson"); None with "full"
    clip              L2 bound C on each clipped gradient, > 0; inf means no clipping
    noise_multiplier  z: the noise on the *sum* of clipped gradients has standard deviation z * C
    microbatches      None: every record's gradient is clipped (DP-SGD as published).
                      k: as `num_microbatches=k` of tensorflow-privacy: the batch is cut into k
                      groups, the *mean* gradient of each is clipped, noise z * C is added to
                      their sum, and the total is divided by k. At k = 1 the noise is not divided
                      at all, and one record can move the sum by 2 C: see
                      `pet_lab.accounting.epsilon(microbatches=...)`.
    sampling          "shuffle": a new permutation each epoch, cut into batches; "poisson": each
                      step takes each member with probability batch_size / members, and divides by
                      batch_size, never by the number drawn; "full": all members in each step
    drop_remainder    with "shuffle", leave out the last, smaller batch of an epoch
    momentum          decay of the "momentum" optimiser

    Raises
    ------
    ValueError
        Where a value is outside its range or two settings exclude each other.
    """

    hidden: tuple[int, ...] = (40, 60, 20)
    activation: Activation = "relu"
    optimiser: Optimiser = "sgd"
    learning_rate: float = 0.25
    epochs: int = 50
    batch_size: int | None = 32
    clip: float = 1.0
    noise_multiplier: float = 0.0
    microbatches: int | None = None
    sampling: Sampling = "shuffle"
    drop_remainder: bool = False
    momentum: float = 0.9

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(int(h) for h in self.hidden))
        one_of("activation", self.activation, get_args(Activation))
        one_of("optimiser", self.optimiser, get_args(Optimiser))
        one_of("sampling", self.sampling, get_args(Sampling))
        if any(h < 1 for h in self.hidden):
            raise ValueError(f"hidden layers need at least one unit each, got {self.hidden}.")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate must be finite and > 0, got {self.learning_rate}.")
        if self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {self.epochs}.")
        if not self.clip > 0:
            raise ValueError(f"clip must be > 0, got {self.clip}; inf means no clipping.")
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier >= 0):
            raise ValueError(
                f"noise_multiplier must be finite and >= 0, got {self.noise_multiplier}."
            )
        if self.noise_multiplier > 0 and math.isinf(self.clip):
            raise ValueError(
                "noise without clipping has no scale: the noise is noise_multiplier * clip. "
                "Give a finite clip, or noise_multiplier=0 for training without privacy."
            )
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}.")
        self._check_batches()

    def _check_batches(self) -> None:
        if self.sampling == "full":
            if self.batch_size is not None:
                raise ValueError(
                    f'sampling="full" uses every member in each step, got batch_size='
                    f"{self.batch_size}; pass batch_size=None."
                )
        elif self.batch_size is None or self.batch_size < 1:
            raise ValueError(
                f'sampling="{self.sampling}" needs batch_size >= 1, got {self.batch_size}.'
            )
        if self.microbatches is not None:
            if self.microbatches < 1:
                raise ValueError(
                    f"microbatches must be at least 1, got {self.microbatches}; "
                    "None clips every record's gradient."
                )
            if self.sampling == "poisson":
                raise ValueError(
                    "microbatches cannot be used with Poisson sampling, whose batches have no "
                    'fixed size to cut into groups; use microbatches=None or sampling="shuffle".'
                )
            if self.batch_size is not None and self.batch_size % self.microbatches:
                raise ValueError(
                    f"batch_size={self.batch_size} cannot be cut into {self.microbatches} equal "
                    "microbatches; choose a divisor of the batch size."
                )

    @property
    def private(self) -> bool:
        """True where both clipping and noise are at work."""
        return self.noise_multiplier > 0 and math.isfinite(self.clip)

    def steps_per_epoch(self, members: int) -> int:
        """Updates in one epoch over `members` records."""
        if self.batch_size is None:
            return 1
        if self.batch_size > members:
            raise ValueError(
                f"batch_size={self.batch_size} is larger than the {members} records to train on; "
                'use a smaller batch or sampling="full".'
            )
        if self.drop_remainder and self.sampling == "shuffle":
            return members // self.batch_size
        return math.ceil(members / self.batch_size)
