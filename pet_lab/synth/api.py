"""`synthesise`: one call from a table to a synthetic one, with what it costs in words."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from pet_lab import checks, files
from pet_lab.accounting import rho_from_epsilon
from pet_lab.noise import Noise

from ..data.registry import cache_dir
from .domain import Bins, Coded, code
from .mechanisms import SHARE_CHOICE, draw_mst, draw_smartnoise, draw_task

MECHANISMS = ("mst", "task", "mst-smartnoise", "aim-smartnoise")
METHODS = ("round", "sample", "shuffled")
_FORMAT = 6
"""Raise it when a change alters what the same inputs give: cached tables then no longer apply."""


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """A synthetic table and what it cost.

    frame        same columns, order and types as the original
    mechanism    see `synthesise`
    epsilon, delta  of (epsilon, delta)-differential privacy, one record added or removed
    assumptions  under which that holds, and what is not covered by it, one sentence each
    """

    frame: pd.DataFrame
    mechanism: str
    epsilon: float
    delta: float
    assumptions: tuple[str, ...]

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
    options: Mapping[str, Any] | None = None,
    cache: bool = True,
) -> Synthetic:
    """Make a differentially private synthetic table.

    Parameters
    ----------
    frame : complete (no missing values).
    mechanism : str
        ``"mst"``             MST, our fit (the same mechanism and estimate, without the package's
                              minute of compiling)
        ``"task"``            margins of `target` with each of its `strongest` columns
        ``"mst-smartnoise"``, ``"aim-smartnoise"``  the package itself. AIM looks at every pair in
                              every round: give it about ten columns, not thirty
    epsilon, delta : the whole budget.
    rng_seed : int or None
        A seed makes the table repeatable, for experiments: whoever knows it can take the noise off.
        None draws from the operating system; use it for a table to be released. Never cached.
    method : how rows are drawn: ``"round"`` (the default of mbi 1.1, with its false dependence),
        ``"sample"``, ``"shuffled"`` (not by smartnoise); see `forest.draw_rows`.
    domain : column -> values or `Bins` that are public knowledge. What is not stated is read off
        the data, which no epsilon here pays for.
    target, strongest : str, int or names
        For "task": the target column (two or few values); how many columns are chosen privately, or
        which ones by public knowledge.
    published : for "mst": repeat smartnoise's use of merged rare levels; see `mechanisms.draw_mst`.
    rows : rows to draw; by default as many as in `frame`, which reveals their number.
    options : mapping, optional
        Passed to smartnoise's constructor (AIM: ``rounds``, ``degree``, ``max_model_size``...).
    cache : keep and reuse the table by a hash of all inputs and library versions.

    Raises
    ------
    ValueError
        For an unknown mechanism or method, missing values, values outside `domain`, a budget that
        is not positive.
    """
    smartnoise = mechanism.endswith("-smartnoise")
    n_rows = len(frame) if rows is None else rows
    checks.one_of(MECHANISMS, mechanism=mechanism)
    checks.one_of(METHODS[:2] if smartnoise else METHODS, method=method)
    checks.positive(epsilon=epsilon)
    checks.require(0 < delta < 1, f"delta is between 0 and 1, got {delta}; 1e-5 is usual.")
    shape = f"A table needs rows and at least two columns, got {frame.shape}."
    checks.require(len(frame) and frame.shape[1] > 1, shape)
    holes = ", ".join(str(c) for c in frame.columns if frame[c].isna().any())
    checks.require(not holes, f"Expected a complete table, values are missing in {holes}.")
    checks.whole(1, rows=n_rows)
    if mechanism == "task":
        needs = f"task needs a target column of the table, got {target!r}."
        checks.require(target in frame.columns, needs)
        others = set(frame.columns) - {target}
        wrong = [] if isinstance(strongest, int) else [n for n in strongest if n not in others]
        unknown = f"strongest names no other column of the table: {', '.join(wrong)}."
        checks.require(not wrong, unknown)

    inputs = (mechanism, float(epsilon), float(delta), rng_seed, method, target, strongest)
    store = _place(frame, domain, *inputs, published, rows, options)
    budget: dict[str, Any] = {"mechanism": mechanism, "epsilon": float(epsilon), "delta": delta}
    keep = cache and rng_seed is not None
    if keep and (stored := _recall(store)) is not None:
        return Synthetic(frame=stored[0], assumptions=stored[1], **budget)

    noise, spent = Noise(rng_seed), 0.0
    draw: dict[str, Any] = {"noise": noise, "rows": n_rows, "method": method}
    coded = None if smartnoise and not domain else code(frame, domain)
    if smartnoise:
        how: dict[str, Any] = {"epsilon": epsilon, "delta": delta, "options": options or {}}
        name = mechanism.removesuffix("-smartnoise")
        synthetic, spent = draw_smartnoise(frame, coded, name=name, **how, **draw)
    else:
        assert coded is not None
        draw["rho"] = rho_from_epsilon(epsilon, delta)
        if mechanism == "mst":
            codes = draw_mst(coded, published=published, **draw)
        else:
            codes = draw_task(coded, target=str(target), strongest=strongest, **draw)
        synthetic = coded.decode(codes, noise.rows)
    assumptions = [
        _changed(mechanism, strongest),
        "Gaussian noise and exponential mechanism, composed in zCDP and converted to "
        "(epsilon, delta).",
        "The number of rows is taken as public: not charged."
        if rows is None
        else "The fit uses the exact number of rows as a total: not charged.",
        _on_the_domain(frame, coded),
    ]
    if spent:
        went = f"Of epsilon {epsilon:g}, {spent:g} went to bounds of continuous columns."
        assumptions.append(went)
    if mechanism == "task" and not isinstance(strongest, int):
        assumptions.append("The linked columns were chosen by public knowledge, not from the data.")
    if rng_seed is not None:
        assumptions.append("Seeded noise: for repeating the experiment, not for release.")
    if keep:
        _remember(store, synthetic, assumptions)
    return Synthetic(frame=synthetic, assumptions=tuple(assumptions), **budget)


def _changed(mechanism: str, strongest: int | Sequence[str]) -> str:
    """What changing a record costs: noisy counts move by sqrt(2) in L2 norm (rho twice), the score
    of a choice by 2 instead of 1 (four times)."""
    choice = 1 / 3 if mechanism.startswith("mst") else SHARE_CHOICE * isinstance(strongest, int)
    times = "up to four times" if "aim" in mechanism else f"{2 + 2 * choice:.3g} times"
    return (
        "Neighbouring tables differ by one record added or removed; changing a record instead "
        f"costs {times} the zCDP budget."
    )


def _on_the_domain(frame: pd.DataFrame, coded: Coded | None) -> str:
    read_off = [c for c in frame.columns if coded is None or c not in coded.public]
    if not read_off:
        return "The domain of every column is stated without looking at the data."
    return (
        f"Levels or bounds of {len(read_off)} of {frame.shape[1]} columns are read off the data: "
        "not charged, so strictly no epsilon holds."
    )


def _place(
    frame: pd.DataFrame, domain: Mapping[str, Sequence[Any] | Bins] | None, *inputs: Any
) -> Path:
    """Where the table made from all this by these versions is kept."""
    stated = {k: asdict(v) if isinstance(v, Bins) else list(v) for k, v in (domain or {}).items()}
    versions = [version(name) for name in ("jax", "numba", "numpy", "mbi", "smartnoise-synth")]
    types = [[str(column), str(dtype)] for column, dtype in frame.dtypes.items()]
    facts = json.dumps([_FORMAT, stated, versions, types, inputs], sort_keys=True, default=str)
    digest = hashlib.sha256(facts.encode())
    digest.update(pd.util.hash_pandas_object(frame, index=False).to_numpy().tobytes())
    return cache_dir() / "synthetic" / f"{digest.hexdigest()[:32]}.parquet"


def _recall(store: Path) -> tuple[pd.DataFrame, tuple[str, ...]] | None:
    try:
        frame = pd.read_parquet(store)
        facts, frame.attrs = frame.attrs, {}
        # parquet writes str columns either way; give back the types that were there.
        return frame.astype(facts["dtypes"]), tuple(facts["assumptions"])
    except (OSError, ValueError, KeyError):
        return None


def _remember(store: Path, frame: pd.DataFrame, assumptions: Sequence[str]) -> None:
    kept = frame.copy()
    kept.attrs = {"assumptions": list(assumptions)}
    kept.attrs["dtypes"] = {str(c): str(t) for c, t in frame.dtypes.items()}
    with suppress(OSError):  # a cache that cannot be written is no reason to fail
        store.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(store) as stream:
            kept.to_parquet(stream, index=False)
