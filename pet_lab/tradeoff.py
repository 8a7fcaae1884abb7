"""The privacy-utility trade-off of one prediction task: private training against private data.

Both ways end in the same network, judged on the same records. *Private training* adds noise to the
gradients (`dpsgd`); *private data* makes a synthetic table once (`synth`) and trains on it without
further noise. What follows are the loops over budgets and random streams: each replicate has its
own hold-out, initial weights, batches and noise, spawned from one seed, so replicate 7 is the same
alone or among many.

Rows are tidy: epsilon, replicate, metric, value. The metrics are shares of records classified
rightly: `accuracy.train` on the records trained on, `accuracy.validation` on those of the same
table held out, `accuracy.original` on all original records, `accuracy.heldout` on original records
that neither the synthesiser nor the network has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pet_lab import accounting, baselines, data, dpsgd, synth

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[str, float], None]
HOLD_OUT = 0.2


def standardise(
    X: NDArray[np.float64], like: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Columns with mean 0 and standard deviation 1 in `like` (default: in `X` itself).

    Moments of the data are not private: whoever claims an epsilon for what follows must charge for
    them or take public ranges (`unit_range`) instead.
    """
    reference = X if like is None else like
    spread = reference.std(axis=0)
    return (X - reference.mean(axis=0)) / np.where(spread > 0, spread, 1.0)


def private_training(
    X: NDArray[np.float64],
    y: NDArray[np.int64],
    configs: Mapping[float, dpsgd.Config],
    *,
    seed: int,
    replicates: int,
    hold_out: float = HOLD_OUT,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Train on the original records at several budgets; a fresh hold-out for each replicate.

    Parameters
    ----------
    X, y : arrays, shapes (n, d), (n,)
        Scaled features, and targets 0 or 1.
    configs : mapping from epsilon to Config
        May differ in noise, clip and learning rate (`dpsgd.PER_REPLICA`).
    seed : int
        Root of all random streams.
    replicates : int
    hold_out : float
        Share of records held out.
    progress : callable (words, share done), optional

    Returns
    -------
    DataFrame with epsilon, replicate, metric ("accuracy.train", "accuracy.validation"), value.
    A diverged training has NaN, which no mean hides.

    Raises
    ------
    ValueError
        As `dpsgd.train`.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for replicate, stream in enumerate(np.random.SeedSequence(seed).spawn(replicates)):
        splitting, *seeds = stream.spawn(1 + len(configs))
        train, held_out = data.split(
            len(y), fraction=hold_out, rng=np.random.default_rng(splitting)
        )
        done = dpsgd.train(
            X[train],
            y[train],
            list(configs.values()),
            seeds=seeds,
            validation=(X[held_out], y[held_out]),
            curve_every=0,
        )
        validation = done.final_validation_accuracy
        assert validation is not None
        for i, epsilon in enumerate(configs):
            shared = {"epsilon": float(epsilon), "replicate": replicate}
            for metric, values in (("train", done.final_accuracy), ("validation", validation)):
                value = np.nan if done.diverged[i] else values[i]
                rows.append({**shared, "metric": f"accuracy.{metric}", "value": float(value)})
        if progress:
            progress("private training", (replicate + 1) / replicates)
    return pd.DataFrame(rows)


def private_data(
    frame: pd.DataFrame,
    *,
    target: str,
    epsilons: Sequence[float],
    config: dpsgd.Config,
    seed: int,
    replicates: int,
    hold_out: float = HOLD_OUT,
    unseen: bool = False,
    progress: Progress | None = None,
    **how: Any,
) -> pd.DataFrame:
    """Make a synthetic table, train on it without further noise, and test on the original.

    Parameters
    ----------
    frame : DataFrame
        The original table.
    target : str
        As in `data.positives`.
    epsilons : sequence of float
    config : Config
        Of the network; without noise.
    seed, replicates, hold_out, progress
        As in `private_training`.
    unseen : bool
        False: synthesise from all records, as the report did, and test on them
        ("accuracy.original", with "accuracy.train" and "accuracy.validation" on parts of the
        synthetic table). True: synthesise from the records not held out, and test on those that
        are ("accuracy.heldout").
    **how
        Passed to `synth.synthesise`: mechanism, method, delta, domain, strongest, ...

    Returns
    -------
    DataFrame with epsilon, replicate, metric, value; and "unique_rows", the share of synthetic rows
    that occur once.
    """
    import pandas as pd

    table = data.binarise(frame, target)
    original = data.encode(table, target=target)
    X = standardise(original.X)
    if how.get("mechanism") == "task":
        how = {"target": target, **how}
    rows: list[dict[str, Any]] = []
    for replicate, stream in enumerate(np.random.SeedSequence(seed).spawn(replicates)):
        rng, held_rng, *seeds = (*stream.spawn(2), *stream.spawn(len(epsilons)))
        held_out = data.split(len(table), fraction=hold_out, rng=np.random.default_rng(held_rng))[1]
        seen = table.drop(index=table.index[held_out]) if unseen else table
        for i, epsilon in enumerate(epsilons):
            made = synth.synthesise(
                seen, epsilon=epsilon, rng_seed=int(seeds[i].generate_state(1)[0]), **how
            )
            coded = data.encode(made.frame, target=target, like=original)
            train, test = data.split(
                len(coded.y), fraction=hold_out, rng=np.random.default_rng(rng)
            )
            synthetic = standardise(coded.X, original.X)
            use = slice(None) if unseen else train
            done = dpsgd.train(
                synthetic[use],
                coded.y[use],
                config,
                seeds=[seeds[i]],
                validation=(synthetic[test], coded.y[test]),
                curve_every=0,
            )
            right = (done.predict(X)[0] > 0) == (original.y == 1)
            assert done.final_validation_accuracy is not None
            values = (
                {"accuracy.heldout": right[held_out].mean()}
                if unseen
                else {
                    "accuracy.train": done.final_accuracy[0],
                    "accuracy.validation": done.final_validation_accuracy[0],
                    "accuracy.original": right.mean(),
                    "unique_rows": made.unique_rows / len(made.frame),
                }
            )
            shared = {"epsilon": float(epsilon), "replicate": replicate}
            rows += [
                {**shared, "metric": metric, "value": np.nan if done.diverged[0] else float(value)}
                for metric, value in values.items()
            ]
            if progress:
                share = (replicate + (i + 1) / len(epsilons)) / replicates
                progress(f"private data at epsilon {epsilon:g}", share)
    return pd.DataFrame(rows)


def simple_rivals(
    frame: pd.DataFrame,
    *,
    target: str,
    domain: Mapping[str, Sequence[Any]] | None,
    units: Mapping[str, float] | None = None,
    epsilons: Sequence[float],
    delta: float,
    hidden: Sequence[int],
    seed: int,
    replicates: int,
    hold_out: float = HOLD_OUT,
) -> pd.DataFrame:
    """What is there to beat: one threshold on one column, and full-batch DP gradient descent.

    Parameters
    ----------
    frame, target, seed, replicates, hold_out
        As in `private_data`.
    domain : mapping from column to its possible values, or None
        Public knowledge, for candidate thresholds and scaling. Without it only the rule without
        privacy is run: everything else would have to look at the data first.
    units : mapping from column to unit, optional
        Public knowledge for gradient descent, see `baselines.scale_by_range`.
    epsilons : sequence of float
    delta : float
        Of gradient descent; the stump has delta = 0.
    hidden : sequence of int
        Layers of the network among the rivals.

    Returns
    -------
    DataFrame with mechanism ("rule", "dp stump", "dp logistic regression", "dp network, full
    batch"), epsilon (inf for the rule), replicate, metric "accuracy.validation", value.
    """
    import pandas as pd

    y = data.positives(frame, target)
    table = data.binarise(frame, target).drop(columns=target)
    numeric = table.select_dtypes("number")
    rows: list[dict[str, Any]] = []

    def add(mechanism: str, epsilon: float, replicate: int, right: NDArray[np.bool_]) -> None:
        shared = {"mechanism": mechanism, "epsilon": float(epsilon), "replicate": replicate}
        rows.append({**shared, "metric": "accuracy.validation", "value": float(right.mean())})

    n_train = len(y) - round(hold_out * len(y))
    gradient: dict[str, dict[float, dpsgd.Config]] = {}
    X = np.empty((len(y), 0))
    thresholds: dict[str, Sequence[float]] = {}
    if domain is not None:
        ranges = {name: (min(domain[name]), max(domain[name])) for name in numeric.columns}
        encoded = pd.get_dummies(table, dtype=float)
        X = baselines.scale_by_range(encoded, ranges, units=units)
        thresholds = {name: sorted(domain[name])[1:] for name in numeric.columns}
        for words, layers in {"logistic regression": (), "network, full batch": hidden}.items():
            config = baselines.full_batch(layers)
            noise = {
                epsilon: accounting.noise_for(
                    epsilon,
                    n=n_train,
                    batch_size=None,
                    epochs=config.epochs,
                    delta=delta,
                    sampling="full",
                    accountant="pld",
                )
                for epsilon in epsilons
            }
            gradient[f"dp {words}"] = with_noise(config, noise)
    for replicate, stream in enumerate(np.random.SeedSequence(seed).spawn(replicates)):
        splitting, drawing, *seeds = stream.spawn(2 + len(epsilons))
        train, held_out = data.split(
            len(y), fraction=hold_out, rng=np.random.default_rng(splitting)
        )
        seen, unseen = numeric.iloc[train], numeric.iloc[held_out]
        rule = baselines.best_rule(seen, y[train])
        add("rule", np.inf, replicate, rule.predict(unseen) == y[held_out])
        rng = np.random.default_rng(drawing)
        for epsilon in epsilons if thresholds else ():
            stump = baselines.dp_stump(
                seen, y[train], thresholds=thresholds, epsilon=epsilon, rng=rng
            )
            add("dp stump", epsilon, replicate, stump.predict(unseen) == y[held_out])
        for mechanism, configs in gradient.items():
            done = dpsgd.train(
                X[train], y[train], list(configs.values()), seeds=seeds, curve_every=0
            )
            right = (done.predict(X[held_out]) > 0) == (y[held_out] == 1)
            for i, epsilon in enumerate(configs):
                add(mechanism, epsilon, replicate, right[i])
    return pd.DataFrame(rows)


def with_noise(config: dpsgd.Config, noise: Mapping[float, float]) -> dict[float, dpsgd.Config]:
    """One Config per epsilon from its noise multiplier; 0 means no privacy: no clipping either."""
    return {
        epsilon: replace(config, noise_multiplier=z)
        if z
        else replace(config, noise_multiplier=0.0, clip=float("inf"))
        for epsilon, z in noise.items()
    }
