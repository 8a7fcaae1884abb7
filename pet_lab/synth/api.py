"""`synthesise`: one call from a table to a synthetic one, with what it costs in words."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pet_lab import files
from pet_lab.accounting import rho_from_epsilon
from pet_lab.noise import Noise

from ..data.registry import cache_dir
from .domain import Bins, Coded, code, whole
from .mechanisms import fit_mst, fit_smartnoise, fit_task

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MECHANISMS", "Synthetic", "synthesise"]

MECHANISMS = ("mst", "task", "mst-smartnoise", "aim-smartnoise")
_FORMAT = 2
"""Raise it when a change alters what the same inputs give: cached tables then no longer apply."""


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """A synthetic table and what it cost.

    frame        same columns, order and types as the original
    mechanism    see `synthesise`
    epsilon, delta  of (epsilon, delta)-differential privacy, one record added or removed
    assumptions  under which that holds, and what is not covered by it, one sentence each
    seconds      wall time of the fit (the first one, if `cached`)
    cached       whether the table was read from the cache
    """

    frame: pd.DataFrame
    mechanism: str
    epsilon: float
    delta: float
    assumptions: tuple[str, ...]
    seconds: float
    cached: bool

    @property
    def unique_rows(self) -> int:
        """Number of distinct rows."""
        return len(self.frame.drop_duplicates())


def synthesise(
    frame: pd.DataFrame,
    *,
    mechanism: str = "mst",
    epsilon: float,
    delta: float = 1e-5,
    rng_seed: int | None,
    method: str = "round",
    domain: Mapping[str, Sequence[Any] | Bins] | None = None,
    target: str | None = None,
    strongest: int | Sequence[str] = 5,
    published: bool = True,
    rows: int | None = None,
    bins: int = 10,
    preprocessor_share: float = 0.5,
    iterations: int = 5000,
    tolerance: float = 1e-3,
    options: Mapping[str, Any] | None = None,
    cache: bool = True,
) -> Synthetic:
    """Make a differentially private synthetic table.

    Parameters
    ----------
    frame : DataFrame
        Complete (no missing values).
    mechanism : str
        ``"mst"``             MST, our fit (the same mechanism and estimate, without the package's
                              minute of compiling)
        ``"task"``            margins of `target` with each of its `strongest` columns
        ``"mst-smartnoise"``, ``"aim-smartnoise"``  the package itself. AIM looks at every pair in
                              every round: give it about ten columns, not thirty
    epsilon, delta : float
        The whole budget.
    rng_seed : int or None
        A seed makes the table repeatable, for experiments: whoever knows it can take the noise off.
        None draws from the operating system; use it for a table to be released. Never cached.
    method : str
        How rows are drawn: ``"round"`` (the default of mbi 1.1, with its false dependence),
        ``"sample"``, ``"shuffled"``; see `forest.draw_rows`.
    domain : mapping, optional
        Column -> values or `Bins` that are public knowledge. What is not stated is read off the
        data, which no epsilon here pays for.
    target, strongest : str, int or names
        For "task": the target column (two or few values); how many columns are chosen privately, or
        which ones by public knowledge.
    published : bool
        For "mst": repeat smartnoise's use of merged rare levels; see `mechanisms.fit_mst`.
    rows : int, optional
        Rows to draw; by default as many as in `frame`, which reveals their number.
    bins : int
        Equal-width bins of continuous columns that `domain` does not state. 10 is smartnoise's.
    preprocessor_share : float
        Share of epsilon that smartnoise may spend on bounds of continuous columns that `domain`
        does not state; nothing is spent if there are none. (Its own default is to refuse such
        columns; its documentation's examples give half.)
    iterations, tolerance : int, float
        Of the estimate, see `forest.fit_forest`; smartnoise always takes 5000 steps.
    options : mapping, optional
        Passed to smartnoise's constructor (AIM: ``rounds``, ``degree``, ``max_model_size``...).
    cache : bool
        Keep and reuse the table by a hash of all inputs and library versions.

    Returns
    -------
    Synthetic

    Raises
    ------
    ValueError
        For an unknown mechanism or method, missing values, values outside `domain`, a budget that
        is not positive.
    """
    _check(
        frame,
        mechanism,
        method=method,
        epsilon=epsilon,
        delta=delta,
        target=target,
        strongest=strongest,
    )
    n_rows = len(frame) if rows is None else rows
    inputs = {
        "format": _FORMAT,
        "table": _table_hash(frame),
        "mechanism": mechanism,
        "epsilon": float(epsilon),
        "delta": float(delta),
        "seed": rng_seed,
        "method": method,
        "domain": {k: asdict(v) if isinstance(v, Bins) else list(v) for k, v in domain.items()}
        if domain
        else None,
        "target": target,
        "strongest": strongest if isinstance(strongest, int) else list(strongest),
        "published": published,
        "rows": rows,
        "bins": bins,
        "preprocessor_share": preprocessor_share,
        "iterations": iterations,
        "tolerance": tolerance,
        "options": dict(options or {}),
        "versions": {p: version(p) for p in ("jax", "numpy", *_packages(mechanism))},
    }
    key = hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()
    store = cache_dir() / "synthetic" / key[:32]
    keep = cache and rng_seed is not None
    if keep and (stored := _recall(store)) is not None:
        return stored

    started = time.perf_counter()
    noise = Noise(rng_seed)
    limits: dict[str, Any] = {"iterations": iterations, "tolerance": tolerance}
    smartnoise = mechanism.endswith("-smartnoise")
    coded = None if smartnoise and not domain else code(frame, domain, bins=bins)
    spent = 0.0
    if smartnoise:
        draw_frame, spent = fit_smartnoise(
            frame,
            name=mechanism.removesuffix("-smartnoise"),
            epsilon=epsilon,
            delta=delta,
            noise=noise,
            coded=coded,
            preprocessor_share=preprocessor_share,
            options=options or {},
        )
        drawn = draw_frame(n_rows, method)
        if coded is None:
            round_to = {name: 0 for name in frame.columns if whole(frame[name].to_numpy())}
            synthetic = drawn.round(round_to).astype(dict(frame.dtypes))
        else:
            codes = {name: drawn[name].to_numpy(dtype=np.int64) for name in coded.codes}
            synthetic = coded.decode(codes, noise.rows)
    else:
        assert coded is not None
        rho = rho_from_epsilon(epsilon, delta)
        draw = (
            fit_mst(coded, rho=rho, noise=noise, published=published, **limits)
            if mechanism == "mst"
            else fit_task(
                coded, target=str(target), strongest=strongest, rho=rho, noise=noise, **limits
            )
        )
        synthetic = coded.decode(draw(n_rows, method), noise.rows)
    assumptions = [
        "Neighbouring tables differ by one record added or removed; changing a record instead "
        "costs twice the zCDP budget.",
        "Gaussian noise and exponential mechanism, composed in zCDP and converted to "
        "(epsilon, delta).",
        "The number of rows is taken as public: not charged."
        if rows is None
        else "The fit uses the exact number of rows as a total: not charged.",
        _on_the_domain(frame, coded),
    ]
    if spent:
        assumptions.append(
            f"Of epsilon {epsilon:g}, {spent:g} went to bounds of continuous columns."
        )
    if mechanism == "task" and not isinstance(strongest, int):
        assumptions.append("The linked columns were chosen by public knowledge, not from the data.")
    if rng_seed is not None:
        assumptions.append("Seeded noise: for repeating the experiment, not for release.")
    result = Synthetic(
        frame=synthetic,
        mechanism=mechanism,
        epsilon=float(epsilon),
        delta=float(delta),
        assumptions=tuple(assumptions),
        seconds=time.perf_counter() - started,
        cached=False,
    )
    if keep:
        _remember(store, result)
    return result


def _on_the_domain(frame: pd.DataFrame, coded: Coded | None) -> str:
    read_off = [c for c in frame.columns if coded is None or c not in coded.public]
    if not read_off:
        return "The domain of every column is stated without looking at the data."
    return (
        f"Levels or bounds of {len(read_off)} of {frame.shape[1]} columns are read off the data: "
        "not charged, so strictly no epsilon holds."
    )


def _check(
    frame: pd.DataFrame,
    mechanism: str,
    *,
    method: str,
    epsilon: float,
    delta: float,
    target: str | None,
    strongest: int | Sequence[str],
) -> None:
    if mechanism not in MECHANISMS:
        raise ValueError(f"mechanism is one of {', '.join(MECHANISMS)}, got {mechanism!r}.")
    if method not in ("round", "sample", "shuffled"):
        raise ValueError(f"method is one of round, sample, shuffled, got {method!r}.")
    if not epsilon > 0 or not 0 < delta < 1:
        raise ValueError(
            f"epsilon must be positive and delta in (0, 1), got {epsilon} and {delta}."
        )
    if frame.empty or frame.shape[1] < 2:
        raise ValueError(f"Expected rows and at least two columns, got a table of {frame.shape}.")
    holes = [str(c) for c in frame.columns if frame[c].isna().any()]
    if holes:
        raise ValueError(f"Expected a complete table, values are missing in {', '.join(holes)}.")
    if mechanism == "task":
        named = [] if isinstance(strongest, int) else list(strongest)
        if target is None or target not in frame.columns:
            raise ValueError(f"task needs a target column of the table, got {target!r}.")
        wrong = [name for name in named if name not in frame.columns or name == target]
        if wrong:
            raise ValueError(f"strongest names no other column of the table: {', '.join(wrong)}.")


def _packages(mechanism: str) -> tuple[str, ...]:
    return ("mbi", "smartnoise-synth") if mechanism.endswith("-smartnoise") else ()


# --- cache -----------------------------------------------------------------------------------


def _table_hash(frame: pd.DataFrame) -> str:
    import pandas as pd

    digest = hashlib.sha256(
        json.dumps([[str(c), str(t)] for c, t in frame.dtypes.items()]).encode()
    )
    digest.update(pd.util.hash_pandas_object(frame, index=False).to_numpy().tobytes())
    return digest.hexdigest()


def _recall(store: Path) -> Synthetic | None:
    import pandas as pd

    try:
        facts = json.loads(store.with_suffix(".json").read_text("utf-8"))
        frame = pd.read_parquet(store.with_suffix(".parquet"))
        # parquet writes str columns either way; give back the types that were there.
        frame = frame.astype(facts.pop("dtypes"))
        facts["assumptions"] = tuple(facts["assumptions"])
    except (OSError, ValueError, KeyError):
        return None
    return Synthetic(frame=frame, cached=True, **facts)


def _remember(store: Path, result: Synthetic) -> None:
    facts = {k: v for k, v in vars(result).items() if k not in ("frame", "cached")}
    facts["dtypes"] = {str(c): str(t) for c, t in result.frame.dtypes.items()}
    with suppress(OSError):  # a cache that cannot be written is no reason to fail
        store.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(store.with_suffix(".parquet")) as stream:
            result.frame.to_parquet(stream, index=False)
        # Last: what has no facts does not exist.
        files.write_json(store.with_suffix(".json"), facts)
