"""MST and a task-aware star on the forest model, and the package's own MST and AIM."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

from pet_lab.noise import Noise

from .domain import Coded
from .forest import Measurement, closest_counts, draw_rows, fit_forest

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["fit_mst", "fit_smartnoise", "fit_task"]

Draw = Callable[[int, str], dict[str, np.ndarray]]


def _counts(coded: Coded, *columns: str) -> np.ndarray:
    sizes = [coded.sizes[c] for c in columns]
    flat = np.ravel_multi_index([coded.codes[c] for c in columns], sizes)
    return np.bincount(flat, minlength=int(np.prod(sizes))).astype(float).reshape(sizes)


def _noisy(counts: np.ndarray, sigma: float, noise: Noise) -> np.ndarray:
    return counts + noise.gaussian(sigma, counts.size).reshape(counts.shape)


def fit_mst(
    coded: Coded,
    *,
    rho: float,
    noise: Noise,
    published: bool,
    iterations: int,
    tolerance: float,
) -> Draw:
    """MST (McKenna, Miklau, Sheldon, arXiv:2108.04978): a third of `rho` for each of one-column
    margins, the choice of a spanning tree by the exponential mechanism, and its pairs.

    Parameters
    ----------
    published : bool
        True repeats smartnoise-synth 1.0.8 in one more respect: it merges the levels whose noisy
        count is below three standard deviations, divides the merged count by the root of their
        number plus one so that all noise is equal, and then uses it as if it were the count itself.
        Rare levels come out too rare. False multiplies the model's count by the same factor, as the
        authors' own code does.

    Returns
    -------
    A function of (rows, method) that draws codes per column.
    """
    names = list(coded.codes)
    n = coded.codes[names[0]].size
    sigma = float(np.sqrt(3 / (2 * rho)))
    ones, kept = [], {}
    for i, name in enumerate(names):
        s = sigma * np.sqrt(len(names))
        values = _noisy(_counts(coded, name), s, noise)
        keep = values >= 3 * s
        if keep.sum() < 2 or keep.all():
            keep = np.ones(values.size, dtype=bool)
            ones.append(Measurement(columns=(i,), values=values, sigma=s))
        else:
            factor = 1 / np.sqrt((~keep).sum() + 1.0)
            merged = np.append(values[keep], values[~keep].sum() * factor)
            scale = None if published else np.append(np.ones(keep.sum()), factor)
            ones.append(Measurement(columns=(i,), values=merged, sigma=s, scale=scale))
        kept[name] = keep
    small = _merge(coded, kept)
    expected = [closest_counts(m, n) for m in ones]
    errors = {
        (a, b): np.abs(
            _counts(small, names[a], names[b]) - np.outer(expected[a], expected[b]) / n
        ).sum()
        for a, b in itertools.combinations(range(len(names)), 2)
    }
    tree = _spanning_tree(errors, len(names), rho / 3, noise)
    s = sigma * np.sqrt(max(len(tree), 1))
    pairs = [
        Measurement(
            columns=(a, b),
            values=_noisy(_counts(small, names[a], names[b]), s, noise),
            sigma=s,
        )
        for a, b in tree
    ]
    draw = _fitted(small, [*ones, *pairs], noise, iterations=iterations, tolerance=tolerance)
    return lambda rows, method: _unmerge(draw(rows, method), kept, noise)


def _fitted(coded: Coded, measurements: Sequence[Measurement], noise: Noise, **limits: Any) -> Draw:
    total = float(next(iter(coded.codes.values())).size)
    forest = fit_forest(list(coded.sizes.values()), measurements, total=total, **limits)

    def draw(rows: int, method: str) -> dict[str, np.ndarray]:
        columns = draw_rows(forest, rows, method=method, rng=noise.rows)
        return dict(zip(coded.codes, columns, strict=True))

    return draw


def _merge(coded: Coded, kept: Mapping[str, np.ndarray]) -> Coded:
    """The coded table with the levels not kept as one last level."""
    codes, kinds = {}, {}
    for name, keep in kept.items():
        new = np.where(keep, np.cumsum(keep) - 1, keep.sum())
        codes[name] = new[coded.codes[name]]
        kinds[name] = tuple(range(int(keep.sum()) + int(not keep.all())))
    return Coded(codes=codes, kinds=kinds, public=frozenset(), dtypes=coded.dtypes)


def _unmerge(
    codes: dict[str, np.ndarray], kept: Mapping[str, np.ndarray], noise: Noise
) -> dict[str, np.ndarray]:
    """Kept levels to their old codes; the merged one to any of its levels, all alike."""
    out = {}
    for name, keep in kept.items():
        old = np.flatnonzero(keep)
        rare = np.flatnonzero(~keep)
        merged = codes[name] == old.size
        values = np.empty_like(codes[name])
        values[~merged] = old[codes[name][~merged]]
        if merged.any():
            values[merged] = noise.rows.choice(rare, int(merged.sum()))
        out[name] = values
    return out


def _spanning_tree(
    errors: Mapping[tuple[int, int], float], n: int, rho: float, noise: Noise
) -> list[tuple[int, int]]:
    """Kruskal's algorithm with each edge chosen by the exponential mechanism.

    A record changes a pair's counts by 1 in L1 norm, hence sensitivity 1. `rho` is spread evenly.
    """
    component = list(range(n))
    tree: list[tuple[int, int]] = []
    epsilon = float(np.sqrt(8 * rho / max(n - 1, 1)))
    for _ in range(n - 1):
        open_edges = [e for e in errors if component[e[0]] != component[e[1]]]
        a, b = open_edges[noise.exponential(np.array([errors[e] for e in open_edges]), epsilon)]
        tree.append((a, b))
        component = [component[a] if c == component[b] else c for c in component]
    return tree


def fit_task(
    coded: Coded,
    *,
    target: str,
    strongest: int | Sequence[str],
    rho: float,
    noise: Noise,
    iterations: int,
    tolerance: float,
) -> Draw:
    """Margins for one prediction task: the target with each of a few columns, the rest alone.

    The budget: 15 % for one-column margins (they also give every unlinked column its shape), 10 %
    for choosing the columns when `strongest` is a number (one exponential mechanism each, score =
    L1 distance of the pair from independence, less what noise alone would give), the remainder for
    the pairs. Columns named in `strongest` are a public choice and cost nothing.

    Returns
    -------
    A function of (rows, method) that draws codes per column.
    """
    names = list(coded.codes)
    n = coded.codes[names[0]].size
    position = {name: i for i, name in enumerate(names)}
    private_choice = isinstance(strongest, int)
    share_one, share_choice = 0.15, 0.10 if private_choice else 0.0
    others = [name for name in names if name != target]
    s = float(np.sqrt(len(names) / (2 * share_one * rho)))
    ones = [
        Measurement(columns=(i,), values=_noisy(_counts(coded, name), s, noise), sigma=s)
        for i, name in enumerate(names)
    ]
    n_pairs = min(strongest, len(others)) if isinstance(strongest, int) else len(strongest)
    sigma = float(np.sqrt(max(n_pairs, 1) / (2 * (1 - share_one - share_choice) * rho)))
    if isinstance(strongest, int):
        margins = {name: closest_counts(m, n) for name, m in zip(names, ones, strict=True)}
        chosen: list[str] = []
        epsilon = float(np.sqrt(8 * share_choice * rho / max(n_pairs, 1)))
        for _ in range(n_pairs):
            left = [name for name in others if name not in chosen]
            scores = [
                np.abs(
                    _counts(coded, target, name) - np.outer(margins[target], margins[name]) / n
                ).sum()
                - np.sqrt(2 / np.pi) * sigma * coded.sizes[target] * coded.sizes[name]
                for name in left
            ]
            chosen.append(left[noise.exponential(np.array(scores), epsilon)])
    else:
        chosen = list(strongest)
    pairs = [
        Measurement(
            columns=(position[target], position[name]),
            values=_noisy(_counts(coded, target, name), sigma, noise),
            sigma=sigma,
        )
        for name in chosen
    ]
    return _fitted(coded, [*ones, *pairs], noise, iterations=iterations, tolerance=tolerance)


# --- the package itself ----------------------------------------------------------------------


@contextmanager
def _borrowed_randomness(noise: Noise) -> Iterator[None]:
    """smartnoise and mbi draw from numpy's global state, and add opendp's unseeded noise.

    Inside, the global state is seeded (from the system's entropy without a seed) and, with a seed,
    the noise comes from our stream; outside, the caller's global state is as it was. JAX's switch
    to double precision, which `import mbi` throws for the whole process, is put back too.
    """
    import jax

    double = jax.config.read("jax_enable_x64")
    from snsynth.aim import aim
    from snsynth.mst import mst

    jax.config.update("jax_enable_x64", True)
    state = np.random.get_state()  # noqa: NPY002 - the libraries draw from it
    np.random.seed(int(noise.rows.integers(2**32)))  # noqa: NPY002
    originals = mst.gaussian_noise, aim.gaussian_noise
    if noise.seed is not None:
        mst.gaussian_noise = aim.gaussian_noise = lambda sigma, size: noise.gaussian(
            float(sigma), int(size)
        )
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            # One deprecation warning per margin, and prints of internals.
            warnings.simplefilter("ignore")
            yield
    finally:
        mst.gaussian_noise, aim.gaussian_noise = originals
        np.random.set_state(state)  # noqa: NPY002
        jax.config.update("jax_enable_x64", double)


def fit_smartnoise(
    frame: pd.DataFrame,
    *,
    name: str,
    epsilon: float,
    delta: float,
    noise: Noise,
    coded: Coded | None,
    preprocessor_share: float,
    options: Mapping[str, Any],
) -> tuple[Callable[[int, str], pd.DataFrame], float]:
    """MST or AIM by smartnoise-synth 1.0.8.

    Parameters
    ----------
    frame : DataFrame
        The table; used when `coded` is None: the package then reads levels off the data (free of
        charge, a leak), and bounds of continuous columns for `preprocessor_share` of epsilon.
    name : "mst" or "aim"
    coded : Coded, optional
        A table coded by a stated domain: nothing is inferred.
    options : mapping
        Passed to the synthesiser's constructor (AIM: rounds, degree, max_cells, ...).

    Returns
    -------
    (draw, spent) : a function of (rows, method), and the epsilon spent on bounds.
    """
    import pandas as pd

    with _borrowed_randomness(noise):
        from snsynth import Synthesizer
        from snsynth.transform import LabelTransformer, TableTransformer

        synthesiser = Synthesizer.create(name, epsilon=float(epsilon), delta=delta, **options)
        if coded is None:
            synthesiser.fit(frame, preprocessor_eps=preprocessor_share * epsilon)
        else:
            transformers = []
            for size in coded.sizes.values():
                transformer = LabelTransformer(nullable=False)
                transformer.fit(list(range(size)))
                transformers.append(transformer)
            synthesiser.fit(
                pd.DataFrame(dict(coded.codes)), transformer=TableTransformer(transformers)
            )
    model = synthesiser.synthesizer
    spent = float(synthesiser._transformer.odometer.spent[0]) if coded is None else 0.0

    def draw(rows: int, method: str) -> pd.DataFrame:
        if method == "shuffled":
            raise ValueError("smartnoise draws by round or sample, not shuffled.")

        class Drawing:
            @staticmethod
            def synthetic_data(rows: int) -> Any:
                return model.synthetic_data(rows=rows, method=method)

        with _borrowed_randomness(noise):
            synthesiser.synthesizer = Drawing()
            try:
                return synthesiser.sample(rows)
            finally:
                synthesiser.synthesizer = model

    return draw, spent
