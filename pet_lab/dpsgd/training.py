"""`train` and what it returns."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pet_lab.dpsgd import batched, network
from pet_lab.dpsgd.config import PER_REPLICA, Config, Engine, one_of
from pet_lab.dpsgd.network import layer_shapes
from pet_lab.dpsgd.streams import Seed

if TYPE_CHECKING:
    import pandas as pd

Pair = tuple[ArrayLike, ArrayLike]


@dataclass(frozen=True, kw_only=True)
class Training:
    """R finished trainings: curves, weights, and which of them broke.

    configs, seeds        one for each replica
    epochs_recorded       epochs at which the curves were taken, shape (E,), starting with 0
    loss, accuracy        on each replica's own members, shape (R, E); NaN after a replica's last
                          epoch and wherever a run has diverged
    validation_loss, validation_accuracy
                          the same on the validation records, or None without any
    weights               flat parameters (R, P): kernel, bias, kernel, bias, ...
    features              columns of X
    members               which records each replica trained on, bool, shape (R, n)
    steps                 updates each replica made, shape (R,)
    """

    configs: tuple[Config, ...]
    seeds: tuple[Seed, ...]
    epochs_recorded: NDArray[np.int64]
    loss: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    validation_loss: NDArray[np.float64] | None
    validation_accuracy: NDArray[np.float64] | None
    weights: NDArray[np.floating]
    features: int
    members: NDArray[np.bool_]
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
        x = _features(X, "X")
        if x.shape[1] != self.features:
            raise ValueError(
                f"the networks were trained on {self.features} features, X has {x.shape[1]}."
            )
        with np.errstate(over="ignore", invalid="ignore"):
            return network.logits(
                self.weights,
                layer_shapes(self.features, self.configs[0].hidden),
                x.astype(self.weights.dtype),
                self.configs[0].activation,
            )

    def _last(self, curve: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
        if curve is None:
            return None
        ends = np.searchsorted(self.epochs_recorded, [c.epochs for c in self.configs])
        return curve[np.arange(len(curve)), ends]

    @property
    def final_accuracy(self) -> NDArray[np.float64]:
        """Accuracy on the members after each replica's last epoch, shape (R,)."""
        return np.asarray(self._last(self.accuracy))

    @property
    def final_validation_accuracy(self) -> NDArray[np.float64] | None:
        """The same on the validation records, or None without any."""
        return self._last(self.validation_accuracy)

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


def _features(X: ArrayLike, name: str) -> NDArray[np.float64]:
    try:
        # In C order: how a caller's array lies in memory must not decide the last bit of a logit.
        x = np.asarray(X, dtype=np.float64, order="C")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must be numbers only ({error}); encode text columns first, for example with "
            "pandas.get_dummies."
        ) from error
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"{name} must have shape (records, features), got {x.shape}.")
    bad = ~np.isfinite(x)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(
            f"{name} has {int(bad.sum())} missing or infinite values, the first in row {row}, "
            f"column {column}; fill or drop them first."
        )
    return x


def _targets(y: ArrayLike, records: int, name: str) -> NDArray[np.float64]:
    target = np.asarray(y)
    if target.shape != (records,):
        raise ValueError(f"{name} must have shape ({records},) like X, got {target.shape}.")
    target = target.astype(np.float64)
    if not np.isin(target, (0.0, 1.0)).all():
        raise ValueError(f"{name} must hold 0 and 1 only, got {np.unique(target)[:5]}.")
    return target


def _membership(
    members: ArrayLike | None, y: NDArray[np.float64], replicas: int
) -> NDArray[np.bool_]:
    n = y.size
    if members is None:
        mask = np.ones((replicas, n), bool)
    else:
        mask = np.asarray(members)
        if mask.dtype != bool or mask.shape != (replicas, n):
            raise ValueError(
                f"members must be booleans of shape (replicas, records) = ({replicas}, {n}), got "
                f"{mask.dtype} of shape {mask.shape}."
            )
    positives = mask @ y
    size = mask.sum(axis=1)
    one_class = np.flatnonzero((positives == 0) | (positives == size))
    if one_class.size:
        r = int(one_class[0])
        raise ValueError(
            f"replica {r} would train on {int(size[r])} records, {int(positives[r])} of them of "
            "class 1; both classes are needed."
        )
    return mask


def _validation(validation: Pair, features: int, dtype: str) -> tuple[NDArray, NDArray]:
    x = _features(validation[0], "validation X")
    if x.shape[1] != features:
        raise ValueError(f"validation X has {x.shape[1]} features, X has {features}.")
    y = _targets(validation[1], x.shape[0], "validation y")
    return x.astype(dtype), y.astype(dtype)


def _configs(config: Config | Sequence[Config], seeds: Sequence[Seed]) -> list[Config]:
    if len(seeds) == 0:
        raise ValueError("seeds is empty; give one seed for each replica.")
    configs = [config] * len(seeds) if isinstance(config, Config) else list(config)
    if len(configs) != len(seeds):
        raise ValueError(f"{len(configs)} configs for {len(seeds)} seeds; give one for each seed.")
    base = configs[0]
    for r, other in enumerate(configs):
        if replace(other, **{k: getattr(base, k) for k in PER_REPLICA}) != base:
            raise ValueError(
                f"replica {r} differs from replica 0 in a setting that one program must share; "
                f"only {', '.join(PER_REPLICA)} may differ. Train the groups one after another."
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
        self.column = {e: i for i, e in enumerate(self.epochs)}
        names = ["loss", "accuracy"]
        names += [] if validation is None else ["validation_loss", "validation_accuracy"]
        self.values = {k: np.full((len(configs), len(self.epochs)), np.nan) for k in names}

    def record(self, rows: NDArray[np.intp], epoch: int, weights: NDArray) -> None:
        if epoch not in self.column:
            return
        at = self.column[epoch]
        z = network.logits(weights, self.shapes, self.x, self.configs[0].activation)
        loss = np.maximum(z, 0) - z * self.y + np.log1p(np.exp(-np.abs(z)))
        # A logit that is not a number is no prediction: it must not count as "class 0".
        right = np.where(np.isfinite(z), (z > 0) == (self.y > 0), np.nan)
        mask, n = self.mask[rows], self.n
        for name, values in (("loss", loss), ("accuracy", right)):
            own = np.where(mask, values[:, :n], 0).sum(axis=1, dtype=np.float64)
            self.values[name][rows, at] = own / mask.sum(axis=1)
            if "validation_loss" in self.values:
                self.values[f"validation_{name}"][rows, at] = values[:, n:].mean(
                    axis=1, dtype=np.float64
                )


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
    workers: int = 1,
    dtype: str = "float32",
) -> Training:
    """Train one small network per seed by DP-SGD (or without privacy: clip=inf, no noise).

    Parameters
    ----------
    X, y : arrays, shapes (n, d), (n,)
        Features, finite numbers, and targets 0 or 1.
    config : Config or one Config per seed
        Replicas of one call may differ in learning_rate, epochs, clip and noise_multiplier.
    seeds : sequence of int or SeedSequence, length R
        Each seed alone decides its replica's initial weights, batches and noise.
    members : array of bool, shape (R, n), optional
        The records that each replica trains on; all by default.
    validation : (X, y), optional
        Records for the validation curves only.
    engine : "batched", "tensorflow-privacy" or "tensorflow-privacy-vectorized"
        One NumPy program, or the library's DPKeras or VectorizedDPKeras optimisers, one replica
        after another from the same weights and on the same batches. The library's noise is
        TensorFlow's own: with noise the engines agree in distribution (see `agreement`).
    curve_every : int
        Take the curves at every k-th epoch, the first and the last in any case; 0: only those two.
    workers : int
        Threads of the batched engine.
    dtype : "float32" or "float64"
        Arithmetic of the batched engine (its noise is always float32).

    Returns
    -------
    Training. Diverged replicas are flagged there, and a RuntimeWarning says how many.

    Raises
    ------
    ValueError
        On missing values, a single class, a batch larger than the members, or settings that one
        program cannot share.

    Notes
    -----
    For simulation: the noise generator is statistical, not cryptographic; see `streams.normals`.
    """
    configs = _configs(config, seeds)
    one_of("engine", engine, get_args(Engine))
    one_of("dtype", dtype, ("float32", "float64"))
    for name, number, least in (("curve_every", curve_every, 0), ("workers", workers, 1)):
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}.")
    x = _features(X, "X")
    target = _targets(y, x.shape[0], "y")
    mask = _membership(members, target, len(seeds))
    held_out = None if validation is None else _validation(validation, x.shape[1], dtype)
    x, target = x.astype(dtype), target.astype(dtype)
    indices = [np.flatnonzero(row) for row in mask]
    _check_batches(configs[0], [index.size for index in indices])
    curves = _Curves(x, target, mask=mask, validation=held_out, configs=configs, every=curve_every)
    replicas: dict[str, Any] = {"configs": configs, "seeds": seeds, "members": indices}
    if engine == "batched":
        weights, steps = batched.run(x, target, **replicas, record=curves.record, workers=workers)
    else:
        from pet_lab.dpsgd import reference

        weights, steps = reference.run(
            x, target, **replicas, record=curves.record, vectorized=engine.endswith("vectorized")
        )
    result = Training(
        configs=tuple(configs),
        seeds=tuple(seeds),
        epochs_recorded=np.array(curves.epochs),
        loss=curves.values["loss"],
        accuracy=curves.values["accuracy"],
        validation_loss=curves.values.get("validation_loss"),
        validation_accuracy=curves.values.get("validation_accuracy"),
        weights=weights,
        features=x.shape[1],
        members=mask,
        steps=steps,
    )
    if result.diverged.any():
        warnings.warn(
            f"{int(result.diverged.sum())} of {len(seeds)} replicas diverged (weights or losses "
            "that are not finite); see Training.diverged, and lower the learning rate.",
            RuntimeWarning,
            stacklevel=2,
        )
    return result


def _check_batches(config: Config, sizes: Sequence[int]) -> None:
    """Refuse a last batch that cannot be cut into the microbatches, as the library does."""
    for size in sizes:
        config.steps_per_epoch(size)  # refuses a batch larger than the members
    groups = config.microbatches
    if groups is None or groups == 1:
        return
    if len(set(sizes)) > 1:
        raise ValueError(
            f"microbatches={groups} needs the same number of members in every replica of one "
            "program; train replicas of different sizes in separate calls."
        )
    if config.batch_size is None:
        rest = sizes[0]
    else:
        rest = 0 if config.drop_remainder else sizes[0] % config.batch_size
    if rest % groups:
        raise ValueError(
            f"the last batch of an epoch has {rest} records, which cannot be cut into {groups} "
            "equal microbatches (tensorflow-privacy refuses it too); set drop_remainder=True or "
            "another batch size."
        )
