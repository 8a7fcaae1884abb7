"""What one private training is: the settings, checked when they are written down."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from pet_lab import checks
from pet_lab.accounting import Sampling
from pet_lab.checks import require

Activation = Literal["relu", "tanh"]
Optimiser = Literal["sgd", "momentum", "adam"]
Engine = Literal["batched", "tensorflow-privacy", "tensorflow-privacy-vectorized"]

LARGEST = 1e30  # of step size and clip: beyond it 32-bit numbers and libraries overflow

# Settings that may differ between the replicas of one program; all others fix array shapes or code.
PER_REPLICA = ("learning_rate", "epochs", "clip", "noise_multiplier")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of DP-SGD for a dense network with one logit as output and the logistic loss.

    Values outside their range, and settings that exclude each other, are a ValueError.

    hidden            units of the hidden layers; () is logistic regression
    activation        of the hidden layers
    optimiser         "sgd", "momentum" (0.9 unless `momentum` says otherwise) or "adam", with the
                      update rules and defaults of Keras's legacy optimisers
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
        checks.one_of(get_args(Activation), activation=self.activation)
        checks.one_of(get_args(Optimiser), optimiser=self.optimiser)
        checks.one_of(get_args(Sampling), sampling=self.sampling)
        units = f"hidden layers need at least one unit each, got {self.hidden}."
        require(all(h > 0 for h in self.hidden), units)
        checks.positive(learning_rate=self.learning_rate)
        checks.between(0, LARGEST, learning_rate=self.learning_rate)
        checks.whole(1, epochs=self.epochs)
        require(self.clip > 0, f"clip must be > 0, got {self.clip}; inf means no clipping.")
        if math.isfinite(self.clip):
            checks.between(0, LARGEST, clip=self.clip, hint="leave the noise out to clip nothing")
        finite = f"noise_multiplier must be finite and >= 0, got {self.noise_multiplier}."
        require(0 <= self.noise_multiplier < math.inf, finite)
        require(
            self.noise_multiplier == 0 or math.isfinite(self.clip),
            "noise without clipping has no scale: the noise is noise_multiplier * clip. "
            "Give a finite clip, or noise_multiplier=0 for training without privacy.",
        )
        require(0 <= self.momentum < 1, f"momentum must be in [0, 1), got {self.momentum}.")
        if self.sampling == "full":
            whole = 'sampling="full" uses every member in each step; pass batch_size=None.'
            require(self.batch_size is None, whole)
        else:
            checks.whole(1, batch_size=self.batch_size, hint='None goes with sampling="full"')
        if self.microbatches is not None:
            checks.whole(1, microbatches=self.microbatches, hint="None clips every record")
            require(
                self.sampling != "poisson",
                "microbatches cannot be used with Poisson sampling, whose batches have no fixed "
                'size to cut into groups; use microbatches=None or sampling="shuffle".',
            )
            self._cut(self.batch_size or 0, "a batch")

    def _cut(self, records: int, batch: str) -> None:
        """Refuse a batch that is no multiple of the microbatches, as the library does."""
        require(
            records % (self.microbatches or 1) == 0,
            f"{batch} has {records} records, which cannot be cut into {self.microbatches} equal "
            "microbatches (tensorflow-privacy refuses it too); choose another batch size, or "
            "drop_remainder=True for the last batch.",
        )

    @property
    def private(self) -> bool:
        """True where both clipping and noise are at work."""
        return self.noise_multiplier > 0 and math.isfinite(self.clip)

    def steps_per_epoch(self, members: int) -> int:
        """Updates in one epoch over `members` records; ValueError where they do not fit."""
        if self.batch_size is None:
            self._cut(members, "a batch")
            return 1
        require(
            self.batch_size <= members,
            f"batch_size={self.batch_size} is larger than the {members} records to train on; use a "
            'smaller batch or sampling="full".',
        )
        if self.drop_remainder and self.sampling == "shuffle":
            return members // self.batch_size
        self._cut(members % self.batch_size, "the last batch of an epoch")
        return math.ceil(members / self.batch_size)
