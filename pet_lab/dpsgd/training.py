"""`train` and what it returns."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pet_lab import checks
from pet_lab.checks import require
from pet_lab.dpsgd import batched, network
from pet_lab.dpsgd.config import PER_REPLICA, Config, Engine
from pet_lab.dpsgd.network import layer_shapes
from pet_lab.dpsgd.streams import Seed

if TYPE_CHECKING:
    import pandas as pd

Pair = tuple[ArrayLike, ArrayLike]


@dataclass(frozen=True, kw_only=True)
class Training:
    """R finished trainings: curves, weights, and which of them broke.

    configs               one for each replica
    epochs_recorded       epochs at which the curves were taken, shape (E,), starting with 0
    loss, accuracy        on each replica's own members, shape (R, E); NaN after a replica's last
                          epoch and wherever a run has diverged
    validation_loss, validation_accuracy
                          the same on the validation records, or None without any
    weights               flat parameters (R, P): kernel, bias, kernel, bias, ...
    features              columns of X
    steps                 updates each replica made, shape (R,)
    """

    configs: tuple[Config, ...]
    epochs_recorded: NDArray[np.int64]
    loss: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    validation_loss: NDArray[np.float64] | None = None
    validation_accuracy: NDArray[np.float64] | None = None
    weights: NDArray[np.floating]
    features: int
    steps: NDArray[np.int64]

    @property
    def diverged(self) -> NDArray[np.bool_]:
        """Replicas with a weight or a recorded loss that is not finite, shape (R,).

        Leave them out, and say how many: their curves are NaN, so that a mean over all replicas
        is NaN rather than quietly wrong.
        """
        ends = np.array([c.epochs for c in self.configs])
        reached = self.epochs_recorded[None, :] <= ends[:, None]
        broken_loss = (reached & ~np.isfinite(self.loss)).any(axis=1)
        return broken_loss | ~np.isfinite(self.weights).all(axis=1)

    def predict(self, X: ArrayLike) -> NDArray[np.floating]:
        """Logits (R, n) of every replica on the records X (n, features); positive means class 1."""
        x = _features(X, "X", self.features).astype(self.weights.dtype)
        shapes = layer_shapes(self.features, self.configs[0].hidden)
        with np.errstate(over="ignore", invalid="ignore"):
            return network.logits(self.weights, shapes, x, self.configs[0].activation)

    def curves(self) -> pd.DataFrame:
        """Tidy curves: replicate, epoch, the settings that may differ by replica, metric, value."""
        import pandas as pd

        named = {
            "train_loss": self.loss,
            "train_accuracy": self.accuracy,
            "validation_loss": self.validation_loss,
            "validation_accuracy": self.validation_accuracy,
        }
        parts = []
        for r, config in enumerate(self.configs):
            keep = self.epochs_recorded <= config.epochs
            settings = {k: v for k, v in asdict(config).items() if k in PER_REPLICA}
            at = {"replicate": r, **settings, "epoch": self.epochs_recorded[keep]}
            parts += [
                pd.DataFrame({**at, "metric": metric, "value": curve[r, keep]})
                for metric, curve in named.items()
                if curve is not None
            ]
        return pd.concat(parts, ignore_index=True)


def _features(X: ArrayLike, name: str, columns: int | None = None) -> NDArray[np.float64]:
    try:
        # In C order: how a caller's array lies in memory must not decide the last bit of a logit.
        x = np.asarray(X, dtype=np.float64, order="C")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must be numbers only ({error}); encode text columns first, for example with "
            "pandas.get_dummies."
        ) from error
    shape = f"{name} must have shape (records, {columns or 'features'}), got {x.shape}."
    require(x.ndim == 2 and 0 not in x.shape and columns in (None, x.shape[1]), shape)
    holes = np.argwhere(~np.isfinite(x))
    if len(holes):
        raise ValueError(
            f"{name} has {len(holes)} missing or infinite values, the first in row {holes[0][0]}, "
            f"column {holes[0][1]}; fill or drop them first."
        )
    return x


def _targets(y: ArrayLike, records: int, name: str) -> NDArray[np.float64]:
    target = np.asarray(y)
    shape = f"{name} must have shape ({records},) like X, got {target.shape}."
    require(target.shape == (records,), shape)
    target = target.astype(np.float64)
    values = f"{name} must hold 0 and 1 only, got {np.unique(target)[:5]}."
    require(np.isin(target, (0.0, 1.0)).all(), values)
    return target


def _membership(
    members: ArrayLike | None, y: NDArray[np.float64], replicas: int
) -> NDArray[np.bool_]:
    shape = (replicas, y.size)
    mask = np.ones(shape, bool) if members is None else np.asarray(members)
    require(
        mask.dtype == bool and mask.shape == shape,
        f"members must be booleans of shape (replicas, records) = {shape}, got {mask.dtype} of "
        f"shape {mask.shape}.",
    )
    positives, size = mask @ y, mask.sum(axis=1)
    one_class = np.flatnonzero((positives == 0) | (positives == size))
    if one_class.size:
        r = int(one_class[0])
        raise ValueError(
            f"replica {r} would train on {int(size[r])} records, {int(positives[r])} of them of "
            "class 1; both classes are needed."
        )
    return mask


def _configs(config: Config | Sequence[Config], seeds: Sequence[Seed]) -> list[Config]:
    require(len(seeds), "seeds is empty; give one seed for each replica.")
    configs = [config] * len(seeds) if isinstance(config, Config) else list(config)
    counts = f"{len(configs)} configs for {len(seeds)} seeds; give one for each seed."
    require(len(configs) == len(seeds), counts)
    base = configs[0]
    for r, other in enumerate(configs):
        require(
            replace(other, **{k: getattr(base, k) for k in PER_REPLICA}) == base,
            f"replica {r} differs from replica 0 in a setting that one program must share; only "
            f"{', '.join(PER_REPLICA)} may differ. Train the groups one after another.",
        )
    return configs


class _Curves:
    """Collects loss and accuracy during training."""

    def __init__(
        self,
        x: NDArray,
        y: NDArray,
        *,
        mask: NDArray[np.bool_],
        validation: tuple[NDArray, NDArray] | None,
        configs: Sequence[Config],
        every: int,
    ) -> None:
        self.n, self.mask, self.configs = x.shape[0], mask, configs
        self.x = x if validation is None else np.concatenate([x, validation[0]])
        self.y = y if validation is None else np.concatenate([y, validation[1]])
        self.shapes = layer_shapes(x.shape[1], configs[0].hidden)
        ends = {c.epochs for c in configs}
        self.epochs = sorted({0, *ends, *(range(0, max(ends) + 1, every) if every else ())})
        names = ["loss", "accuracy"]
        names += [] if validation is None else ["validation_loss", "validation_accuracy"]
        self.values = {k: np.full((len(configs), len(self.epochs)), np.nan) for k in names}

    def record(self, rows: NDArray[np.intp], epoch: int, weights: NDArray) -> None:
        if epoch not in self.epochs:
            return
        at = self.epochs.index(epoch)
        z = network.logits(weights, self.shapes, self.x, self.configs[0].activation)
        loss = np.maximum(z, 0) - z * self.y + np.log1p(np.exp(-np.abs(z)))
        # A logit that is not a number is no prediction: it must not count as "class 0".
        right = np.where(np.isfinite(z), (z > 0) == (self.y > 0), np.nan)
        mask, n = self.mask[rows], self.n
        for name, values in (("loss", loss), ("accuracy", right)):
            own = np.where(mask, values[:, :n], 0).sum(axis=1, dtype=np.float64)
            self.values[name][rows, at] = own / mask.sum(axis=1)
            if "validation_loss" in self.values:
                held_out = values[:, n:].mean(axis=1, dtype=np.float64)
                self.values[f"validation_{name}"][rows, at] = held_out


def train(
    X: ArrayLike,
    y: ArrayLike,
    config: Config | Sequence[Config],
    *,
    seeds: Sequence[Seed],
    members: ArrayLike | None = None,
    validation: Pair | None = None,
    engine: Engine = "batched",
    curve_every: int = 1,
    dtype: str = "float32",
) -> Training:
    """Train one small network per seed by DP-SGD (or without privacy: clip=inf, no noise).

    For simulation: the noise generator is statistical, not cryptographic; see `streams.normals`.

    Parameters
    ----------
    X, y : arrays, shapes (n, d), (n,)
        Features, finite numbers, and targets 0 or 1; `validation` is a pair of the same kind, for
        the validation curves only.
    config : replicas of one call may differ in learning_rate, epochs, clip and noise_multiplier.
    seeds : each seed alone decides its replica's initial weights, batches and noise.
    members : array of bool, shape (R, n), optional
        The records that each replica trains on; all by default.
    engine : "batched", "tensorflow-privacy" or "tensorflow-privacy-vectorized"
        One NumPy program, or the library's DPKeras or VectorizedDPKeras optimisers, one replica
        after another from the same weights and on the same batches. The library's noise is
        TensorFlow's own: with noise the engines agree in distribution (see `agreement`).
    curve_every : int
        Take the curves at every k-th epoch, the first and the last in any case; 0: only those two.
    dtype : "float32" or "float64"
        Arithmetic of the batched engine (its noise is always float32).

    Diverged replicas are flagged in the result, and a RuntimeWarning says how many. A ValueError:
    missing values, a single class, a batch larger than the members, or settings that one program
    cannot share.
    """
    configs = _configs(config, seeds)
    checks.one_of(get_args(Engine), engine=engine)
    checks.one_of(("float32", "float64"), dtype=dtype)
    checks.whole(0, curve_every=curve_every)
    x = _features(X, "X")
    target = _targets(y, x.shape[0], "y")
    mask = _membership(members, target, len(seeds))
    held_out = None
    if validation is not None:
        x_out = _features(validation[0], "validation X", x.shape[1])
        y_out = _targets(validation[1], len(x_out), "validation y")
        held_out = x_out.astype(dtype), y_out.astype(dtype)
    x, target = x.astype(dtype), target.astype(dtype)
    indices = [np.flatnonzero(row) for row in mask]
    sizes = {index.size for index in indices}
    for size in sizes:
        configs[0].steps_per_epoch(size)  # refuses batches that do not fit
    require(
        len(sizes) == 1 or configs[0].microbatches in (None, 1),
        f"microbatches={configs[0].microbatches} needs the same number of members in every replica "
        "of one program; train replicas of different sizes in separate calls.",
    )
    curves = _Curves(x, target, mask=mask, validation=held_out, configs=configs, every=curve_every)
    replicas: dict[str, Any] = {"configs": configs, "seeds": seeds, "members": indices}
    replicas["record"] = curves.record
    if engine == "batched":
        weights, steps = batched.run(x, target, **replicas)
    else:
        from pet_lab.dpsgd import reference

        vectorized = engine.endswith("vectorized")
        weights, steps = reference.run(x, target, **replicas, vectorized=vectorized)
    result = Training(
        configs=tuple(configs),
        epochs_recorded=np.array(curves.epochs),
        weights=weights,
        features=x.shape[1],
        steps=steps,
        **curves.values,
    )
    if result.diverged.any():
        warnings.warn(
            f"{int(result.diverged.sum())} of {len(seeds)} replicas diverged (weights or losses "
            "that are not finite); see Training.diverged, and lower the learning rate.",
            RuntimeWarning,
            stacklevel=2,
        )
    return result
