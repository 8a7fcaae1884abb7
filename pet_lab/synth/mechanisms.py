"""MST and a task-aware star on the forest model, and the package's own MST and AIM."""

import itertools
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from io import StringIO
from typing import Any

import numpy as np
import pandas as pd

from pet_lab.noise import Noise

from .domain import Coded, whole
from .forest import Measurement, draw_rows, fit_forest

SHARE_CHOICE = 0.10  # of the budget of "task", where it chooses its columns itself
Column = tuple[np.ndarray, int]  # codes, and how many there are


def _counts(*columns: Column) -> np.ndarray:
    sizes = [size for _, size in columns]
    flat = np.ravel_multi_index([codes for codes, _ in columns], sizes)
    return np.bincount(flat, minlength=int(np.prod(sizes))).astype(float).reshape(sizes)


def _measure(
    columns: Sequence[Column], chosen: tuple[int, ...], sigma: float, noise: Noise
) -> Measurement:
    counts = _counts(*(columns[i] for i in chosen))
    values = counts + noise.gaussian(sigma, counts.size).reshape(counts.shape)
    return Measurement(columns=chosen, values=values, sigma=sigma)


def _expected(sizes: Sequence[int], ones: Sequence[Measurement], n: int) -> list[np.ndarray]:
    """Counts of each column that fit its noisy ones, by as many steps as smartnoise takes."""
    fitted = fit_forest(sizes, ones, total=float(n), iterations=1000)
    return [n * margin for margin in fitted.margins]


def draw_mst(
    coded: Coded, *, rho: float, noise: Noise, published: bool, rows: int, method: str
) -> dict[str, np.ndarray]:
    """Codes by MST (McKenna, Miklau, Sheldon, arXiv:2108.04978): a third of `rho` for each of
    one-column margins, the choice of a spanning tree by the exponential mechanism, and its pairs.

    `published` repeats smartnoise-synth 1.0.8 in one more respect: it merges the levels whose noisy
    count is below three standard deviations, divides the merged count by the root of their number
    plus one so that all noise is equal, and then uses it as if it were the count itself. Rare
    levels come out too rare. Otherwise the model's count is multiplied by the same factor, as the
    authors' own code does.
    """
    columns = list(zip(coded.codes.values(), coded.sizes.values(), strict=True))
    n, sigma = columns[0][0].size, float(np.sqrt(3 / (2 * rho)))
    s = sigma * np.sqrt(len(columns))
    ones, merged, kept = [], [], []
    for i, (codes, _) in enumerate(columns):
        one = _measure(columns, (i,), s, noise)
        keep = one.values >= 3 * s
        if keep.sum() < 2:
            keep[:] = True
        if not keep.all():
            factor = 1 / np.sqrt((~keep).sum() + 1.0)
            values = np.append(one.values[keep], one.values[~keep].sum() * factor)
            scale = None if published else np.append(np.ones(keep.sum()), factor)
            one = Measurement(columns=(i,), values=values, sigma=s, scale=scale)
        place = np.where(keep, np.cumsum(keep) - 1, keep.sum())
        merged.append((place[codes], one.values.size))
        ones.append(one)
        kept.append(keep)
    expected = _expected([size for _, size in merged], ones, n)
    errors = {
        (a, b): np.abs(_counts(merged[a], merged[b]) - np.outer(expected[a], expected[b]) / n).sum()
        for a, b in itertools.combinations(range(len(columns)), 2)
    }
    tree = _spanning_tree(errors, len(columns), rho / 3, noise)
    s = sigma * np.sqrt(max(len(tree), 1))
    pairs = [_measure(merged, pair, s, noise) for pair in tree]
    forest = fit_forest([size for _, size in merged], [*ones, *pairs], total=float(n))
    drawn = draw_rows(forest, rows, method=method, rng=noise.rows)
    # Kept levels get their old codes; the merged one becomes any of its levels, all alike.
    for codes, keep in zip(drawn, kept, strict=True):
        rare = codes == keep.sum()
        codes[~rare] = np.flatnonzero(keep)[codes[~rare]]
        if rare.any():
            codes[rare] = noise.rows.choice(np.flatnonzero(~keep), int(rare.sum()))
    return dict(zip(coded.codes, drawn, strict=True))


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


def draw_task(
    coded: Coded,
    *,
    target: str,
    strongest: int | Sequence[str],
    rho: float,
    noise: Noise,
    rows: int,
    method: str,
) -> dict[str, np.ndarray]:
    """Codes for one prediction task: the target paired with a few columns, the rest alone.

    The budget: 15 % for one-column margins (they also give every unlinked column its shape),
    SHARE_CHOICE for choosing the columns when `strongest` is a number (one exponential mechanism
    each, score = L1 distance of the pair from independence, less what noise alone would give), the
    remainder for the pairs. Columns named in `strongest` are a public choice and cost nothing.
    """
    names = list(coded.codes)
    columns = list(zip(coded.codes.values(), coded.sizes.values(), strict=True))
    n, goal = columns[0][0].size, names.index(target)
    others = [i for i in range(len(names)) if i != goal]
    private = isinstance(strongest, int)
    share_one, share_choice = 0.15, SHARE_CHOICE if private else 0.0
    s = float(np.sqrt(len(names) / (2 * share_one * rho)))
    ones = [_measure(columns, (i,), s, noise) for i in range(len(names))]
    chosen = [] if isinstance(strongest, int) else [names.index(name) for name in strongest]
    wanted = min(strongest, len(others)) if isinstance(strongest, int) else len(chosen)
    sigma = float(np.sqrt(max(wanted, 1) / (2 * (1 - share_one - share_choice) * rho)))
    epsilon = float(np.sqrt(8 * share_choice * rho / max(wanted, 1)))
    margins = _expected([size for _, size in columns], ones, n) if private else []

    def score(i: int) -> float:
        apart = np.abs(_counts(columns[goal], columns[i]) - np.outer(margins[goal], margins[i]) / n)
        return apart.sum() - np.sqrt(2 / np.pi) * sigma * columns[goal][1] * columns[i][1]

    while len(chosen) < wanted:
        left = [i for i in others if i not in chosen]
        chosen.append(left[noise.exponential(np.array([score(i) for i in left]), epsilon)])
    pairs = [_measure(columns, (goal, i), sigma, noise) for i in chosen]
    forest = fit_forest([size for _, size in columns], [*ones, *pairs], total=float(n))
    drawn = draw_rows(forest, rows, method=method, rng=noise.rows)
    return dict(zip(names, drawn, strict=True))


@contextmanager
def borrowed_randomness(noise: Noise) -> Iterator[None]:
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
    originals = mst.gaussian_noise, aim.gaussian_noise, aim.downward_closure
    # Its ties are broken in the order of a set, which differs from process to process.
    aim.downward_closure = lambda work: sorted(originals[2](work), key=lambda c: (len(c), c))
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
        mst.gaussian_noise, aim.gaussian_noise, aim.downward_closure = originals
        np.random.set_state(state)  # noqa: NPY002
        jax.config.update("jax_enable_x64", double)


def draw_smartnoise(
    frame: pd.DataFrame,
    coded: Coded | None,
    *,
    name: str,
    epsilon: float,
    delta: float,
    noise: Noise,
    rows: int,
    method: str,
    options: Mapping[str, Any],
) -> tuple[pd.DataFrame, float]:
    """A table by the MST ("mst") or AIM ("aim") of smartnoise-synth 1.0.8; epsilon spent on bounds.

    Without a `coded` table the package reads levels off the data (free of charge, a leak), and
    bounds of continuous columns for half of epsilon, as in its documentation's examples (its own
    default is to refuse such columns). `options` go to its constructor. Raises ValueError for an
    epsilon too large for its calibration (from about 1e5 on).
    """
    with borrowed_randomness(noise):
        from opendp.mod import OpenDPException
        from snsynth import Synthesizer
        from snsynth.transform import LabelTransformer, TableTransformer

        synthesiser = Synthesizer.create(name, epsilon=float(epsilon), delta=delta, **options)
        try:
            if coded is None:
                synthesiser.fit(frame, preprocessor_eps=epsilon / 2)
                spent = float(synthesiser._transformer.odometer.spent[0])
            else:
                transformers = []
                for size in coded.sizes.values():
                    transformers.append(LabelTransformer(nullable=False))
                    transformers[-1].fit(list(range(size)))
                codes = pd.DataFrame(dict(coded.codes))
                synthesiser.fit(codes, transformer=TableTransformer(transformers))
                spent = 0.0
        except OpenDPException as fault:
            given = f"epsilon = {epsilon:g} and delta = {delta:g}"
            sentence = (
                f"Expected a budget that smartnoise-synth can calibrate, got {given}; choose less."
            )
            raise ValueError(sentence) from fault
    # The package itself passes no method on.
    draw = partial(synthesiser.synthesizer.synthetic_data, method=method)
    synthesiser.synthesizer = types.SimpleNamespace(synthetic_data=draw)
    with borrowed_randomness(noise):
        drawn = synthesiser.sample(rows)
    if coded is None:
        round_to = {column: 0 for column in frame.columns if whole(frame[column].to_numpy())}
        return drawn.round(round_to).astype(dict(frame.dtypes)), spent
    by_column = {column: drawn[column].to_numpy(dtype=np.int64) for column in coded.codes}
    return coded.decode(by_column, noise.rows), spent
