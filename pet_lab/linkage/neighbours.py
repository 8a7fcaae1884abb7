"""How accurate is a linkage, from neighbour counts alone? Models and a robust alternative.

A record's neighbours are the records it links to: at most one match (a Bernoulli with probability
p, the recall), the others false (Poisson with mean lambda, which the mixture of Dasylva and
Goussanou lets differ between G classes of records). The alternative needs no distribution: linked
neighbours rise with blocked ones along a line, with the recall at one blocked neighbour as
intercept and the share of blocked non-matches that link as slope.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from pet_lab.checks import one_of, require, whole

_FLAT_SE = 0.25  # above this standard error the counts do not tell recall from false links
_FEWEST_BLOCKS = 5  # with fewer, a t interval of the recall is nearly all of [0, 1]
_FITTED_FROM = 1000  # blocks from which weights may be fitted: in fewer they follow the noise
_GROUPS = 100  # of whole blocks, for the jackknife of the coverage


class NotIdentified(ValueError):
    """The neighbour counts do not determine the error rates."""


@dataclass(frozen=True, kw_only=True)
class NeighbourFit:
    """Linkage-error rates estimated from neighbour counts alone: no truth, no clerical review.

    recall       P(a record links to its true match), in [0, 1]
    false_links  expected false links per record searched, >= 0
    n, n_other   records searched for, and in the file searched
    n_params     2 G: G - 1 shares `alphas`, G means `lambdas`, one recall
    recall_se, false_links_se   standard errors from the observed information; infinite where that
                                is singular, the second NaN where no link is false
    aics         AIC of every model tried, in order of G
    """

    recall: float
    false_links: float
    n: int
    n_other: int
    loglik: float
    n_params: int
    alphas: tuple[float, ...]
    lambdas: tuple[float, ...]
    recall_se: float
    false_links_se: float
    aics: tuple[float, ...] = ()

    @property
    def precision(self) -> float:
        """Share of the links that are true; NaN if the model expects no link."""
        links = self.recall + self.false_links
        return self.recall / links if links > 0 else float("nan")

    @property
    def fpr(self) -> float:
        """False links per non-matching pair."""
        return self.false_links / (self.n_other - 1)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Interval of recall: see `proportion_interval`."""
        df = max(self.n - self.n_params, 1)
        return proportion_interval(self.recall, self.recall_se, df=df, n=self.n, level=level)


def fit_neighbours(
    counts: ArrayLike, *, n_other: int, max_classes: int = 6, reading: str = "described"
) -> NeighbourFit:
    """Maximum-likelihood fit of the neighbour error model; number of classes by AIC.

    Asks for: duplicate-free files, one contained in the other, and links decided pair by pair.
    Under partial overlap `recall` estimates coverage times recall. NotIdentified if no record has a
    neighbour, or the likelihood is so flat that the standard error of recall exceeds 0.25: recall
    and false links cannot be told apart from these counts.

    Parameters
    ----------
    counts : integers >= 0, shape (n,)
        Linked neighbours of each record searched for, among the `n_other` of the other file.
    max_classes : models with 1 .. max_classes classes are tried, until the AIC rises.
    reading : {"described", "published"}
        "described": AIC = 2 (2 G) - 2 loglik, the best model is kept.
        "published": as the authors' R program: AIC = 2 G - 2 loglik, at least two models are tried,
        and the *last* one is kept, which is the one the AIC has just rejected.
    """
    raw = np.asarray(counts)
    one_each = f"counts are one number of neighbours a record, got shape {raw.shape}."
    require(raw.ndim == 1 and raw.size, one_each)
    from_zero = np.array_equal(raw, np.rint(raw)) and raw.min() >= 0
    require(from_zero, "Neighbour counts are whole numbers from 0 on; some here are not.")
    whole(2, n_other=n_other, hint="it counts the records searched")
    one_of(("described", "published"), reading=reading)
    values, tally = np.unique(raw.astype(np.int64), return_counts=True)
    require(
        values.max() > 0,
        f"None of the {raw.size} records has a neighbour, so there is nothing to tell recall from; "
        "lower the threshold or check that both files are encoded alike.",
        NotIdentified,
    )
    described = reading == "described"
    fits: list[NeighbourFit] = []
    aics: list[float] = []
    for classes in range(1, (max_classes if described else max(max_classes, 2)) + 1):
        fits.append(_fit(values, tally.astype(float), classes, n_other))
        aics.append(2 * classes * (1 + described) - 2 * fits[-1].loglik)
        if aics[-1] > min(aics):
            break
    chosen = fits[int(np.argmin(aics))] if described else fits[-1]
    require(
        not described or chosen.recall_se <= _FLAT_SE,
        f"The likelihood is flat: recall {chosen.recall:.2f} has a standard error of "
        f"{chosen.recall_se:.2f}, with {chosen.false_links:.1f} false links a record among "
        f"{raw.size} records. Recall and false links cannot be told apart; use more records, a "
        "stricter link, or fit_slope on the blocked neighbours.",
        NotIdentified,
    )
    return replace(chosen, aics=tuple(aics))


def fit_many(freq: np.ndarray, *, max_classes: int = 2) -> np.ndarray:
    """The mixture fitted to many small files at once: recall and false links, shape (n_files, 2).

    `freq[f, n]` counts the records of file f with n neighbours; NaN where a file has no link. Of
    one to `max_classes` classes the AIC (2 G parameters) chooses. Expectation maximisation in whole
    arrays: thousands of files of 100 records in about a second.
    """
    # Small files repeat: 2,000 of 100 records have some 50 tallies.
    freq, again = np.unique(np.asarray(freq, dtype=float), axis=0, return_inverse=True)
    rates, aics = [], []
    for classes in range(1, max_classes + 1):
        p, alpha, lam, loglik = _em(freq, classes, 400)
        rates.append(np.stack([p, (alpha * lam).sum(axis=1)], axis=1))
        aics.append(4 * classes - 2 * loglik)
    best = np.stack(rates)[np.argmin(aics, axis=0), np.arange(freq.shape[0])]
    best[:, 1][best[:, 1] < 1e-9] = 0.0  # what is left of lambda where it tends to the edge
    best[freq[:, 1:].sum(axis=1) == 0] = np.nan
    return best[again.ravel()]


def class_densities(
    values: np.ndarray, recall: float, lambdas: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """P(n neighbours) by value n and class, and its derivatives by p and lambda, shapes (K, G).

    (1 - p) Poisson(n; lambda) + p Poisson(n - 1; lambda), 0 where the model cannot produce a count
    (3 neighbours with lambda = 0): that is information, so nothing is added to avoid the logarithm
    of zero. Source: Dasylva and Goussanou (2022), as stated in the report's paragraph 21.
    """
    at, below, twice = (_poisson(values[:, None] - less, lambdas[None]) for less in (0, 1, 2))
    by_lambda = (1 - recall) * (below - at) + recall * (twice - below)
    return (1 - recall) * at + recall * below, below - at, by_lambda


def _poisson(k: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """P(k) of a Poisson distribution, 0 below 0."""
    at = np.maximum(k, 0)
    return np.where(k < 0, 0.0, np.exp(special.xlogy(at, mean) - mean - special.gammaln(at + 1)))


def _spread(classes: int) -> np.ndarray:
    """Means of the classes to start from, relative to the mean of all."""
    return np.array([1.0]) if classes == 1 else np.linspace(0.3, 2.5, classes)


def _em(
    freq: np.ndarray, classes: int, iterations: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """EM over many files: p (F,), alpha (F, G), lambda (F, G), log-likelihood (F,)."""
    n_files, width = freq.shape
    n = np.arange(width)
    total = freq.sum(axis=1)
    mean = (freq @ n) / total
    p = np.minimum(np.maximum((freq[:, 1:].sum(axis=1) / total) * 0.9, 0.05), 0.95)
    lam = np.maximum(mean - p, 0.02)[:, None] * _spread(classes)
    alpha = np.full((n_files, classes), 1.0 / classes)
    previous = np.full(n_files, -np.inf)
    for _ in range(iterations):
        at = _poisson(n[None, :, None], lam[:, None, :])
        below = np.concatenate([np.zeros((n_files, 1, classes)), at[:, :-1]], axis=1)
        unmatched = alpha[:, None, :] * (1 - p)[:, None, None] * at
        matched = alpha[:, None, :] * p[:, None, None] * below
        probability = (unmatched + matched).sum(axis=2)
        with np.errstate(divide="ignore", invalid="ignore"):
            loglik = np.where(freq > 0, freq * np.log(probability), 0.0).sum(axis=1)
            scale = np.where(freq > 0, freq / probability, 0.0)[:, :, None]
        if np.nanmax(loglik - previous, initial=0.0) < 1e-10:
            break
        previous = loglik
        post_u, post_m = unmatched * scale, matched * scale
        size = (post_u + post_m).sum(axis=1)
        p = post_m.sum(axis=(1, 2)) / total
        false = (post_u * n[None, :, None]).sum(axis=1)
        false = false + (post_m * np.maximum(n - 1, 0)[None, :, None]).sum(axis=1)
        lam = false / np.maximum(size, 1e-300)
        alpha = size / total[:, None]
    return p, alpha, lam, loglik


def _fit(values: np.ndarray, freq: np.ndarray, classes: int, n_other: int) -> NeighbourFit:
    """One model: EM to get near, then a quasi-Newton step on unconstrained parameters."""
    table = np.zeros((1, int(values.max()) + 1))
    table[0, values] = freq
    n = freq.sum()
    mean = float(freq @ values / n)

    def unpack(theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        shares = np.exp(np.concatenate([[0.0], theta[: classes - 1]]))
        p = float(special.expit(theta[classes - 1]))
        return p, shares / shares.sum(), np.exp(theta[classes:])

    def negative(theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Minus the mean log-likelihood and its gradient."""
        p, alpha, lam = unpack(theta)
        each, each_by_p, each_by_lam = class_densities(values, p, lam)
        density = np.maximum(each @ alpha, 1e-300)
        scale = freq / density / n
        by_p, by_lam, by_alpha = scale @ (each_by_p @ alpha), scale @ each_by_lam, scale @ each
        gradient = np.concatenate(
            [
                alpha[1:] * (by_alpha[1:] - alpha @ by_alpha),
                [by_p * p * (1 - p)],
                by_lam * alpha * lam,
            ]
        )
        return -float(freq @ np.log(density)) / n, -gradient

    bounds = [(-12.0, 12.0)] * (classes - 1) + [(-25.0, 25.0)] + [(-25.0, 12.0)] * classes

    def climb(p: float, alpha: np.ndarray, lam: np.ndarray) -> optimize.OptimizeResult:
        a = np.maximum(alpha, 1e-5)
        odds = special.logit(np.clip(p, 1e-8, 1 - 1e-8))
        theta = np.concatenate([np.log(a[1:] / a[0]), [odds], np.log(np.maximum(lam, 1e-9))])
        theta = np.clip(theta, *np.array(bounds).T)
        options = {"ftol": 1e-15, "gtol": 1e-9}
        return optimize.minimize(
            negative, theta, jac=True, method="L-BFGS-B", bounds=bounds, options=options
        )

    near = _em(table, classes, 150)[:3]
    starts = [(float(near[0][0]), near[1][0], near[2][0])]
    for p in (0.5, 0.9) if mean > 1.05 else ():
        starts.append((p, np.full(classes, 1 / classes), max(mean - p, 0.05) * _spread(classes)))
    best = min((climb(*start) for start in starts), key=lambda result: result.fun)
    p, alpha, lam = unpack(best.x)
    order = np.argsort(lam)
    recall_se, false_links_se = _information_se(values, freq, p, alpha, lam)
    return NeighbourFit(
        recall=p,
        false_links=float(alpha @ lam),
        n=int(n),
        n_other=n_other,
        loglik=-best.fun * float(n),
        n_params=2 * classes,
        alphas=tuple(alpha[order].tolist()),
        lambdas=tuple(lam[order].tolist()),
        recall_se=recall_se,
        false_links_se=false_links_se,
    )


def _information_se(
    values: np.ndarray, freq: np.ndarray, p: float, alpha: np.ndarray, lam: np.ndarray
) -> tuple[float, float]:
    """Standard errors of recall and false links from the information of the fitted model.

    In the natural parameters (p, alpha_2.., lambda_1..). Where no link is false (lambda = 0) recall
    falls back on the binomial.
    """
    if lam.max() < 1e-6:
        return float(np.sqrt(p * (1 - p) / freq.sum())), float("nan")
    each, by_p, by_lam = (derivative.T for derivative in class_densities(values, p, lam))
    by_lam = alpha[:, None] * by_lam
    density = alpha @ each
    score = np.concatenate([(alpha @ by_p)[None], each[1:] - each[0], by_lam]) / density
    information = (score * freq) @ score.T
    gradient = np.concatenate([[0.0], lam[1:] - lam[0], alpha])
    try:
        cov = np.linalg.inv(information)
    except np.linalg.LinAlgError:
        return float("inf"), float("inf")
    spread = cov[0, 0], gradient @ cov @ gradient
    if min(spread) < 0 or np.linalg.cond(information) > 1e12:
        # Two classes alike or one empty: the shares are not identified, recall may well be. Drop to
        # the information of recall and one common mean.
        merged = np.stack([score[0], by_lam.sum(axis=0) / density])
        spread = tuple(np.diag(np.linalg.pinv((merged * freq) @ merged.T)))
    return float(np.sqrt(max(spread[0], 0))), float(np.sqrt(max(spread[1], 0)))


@dataclass(frozen=True, kw_only=True)
class SlopeFit:
    """Error rates from the line of linked on blocked neighbours.

    recall     intercept at one blocked neighbour
    ratio      slope: share of blocked non-matches that link = FPR / blocking FPR
    cov        covariance matrix of (recall, ratio): jackknife over blocks
    n_blocks   blocks of the records searched for
    df         degrees of freedom: effective number of blocks behind the recall, less one
    coef       (recall, ratio) = coef @ n_linked, shape (2, n)
    """

    recall: float
    ratio: float
    cov: np.ndarray
    n_blocks: int
    df: float
    coef: np.ndarray = field(default_factory=lambda: np.empty((2, 0)), repr=False)

    @property
    def recall_se(self) -> float:
        """Standard error of recall."""
        return float(np.sqrt(self.cov[0, 0]))

    @property
    def gap_se(self) -> float:
        """Standard error of recall - ratio."""
        return float(np.sqrt(max(self.cov[0, 0] + self.cov[1, 1] - 2 * self.cov[0, 1], 0.0)))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Interval of recall: see `proportion_interval`."""
        return proportion_interval(
            self.recall, self.recall_se, df=self.df, n=self.n_blocks, level=level
        )


@dataclass(frozen=True, kw_only=True)
class OverlapFit(SlopeFit):
    """The same where files overlap in part: recall is P(link | the match is there and blocked).

    coverage  share of the records searched for whose match is in the other file
    cov, df   of (recall, ratio, coverage), by a jackknife over groups of blocks
    """

    coverage: float

    @property
    def coverage_se(self) -> float:
        """Standard error of the coverage."""
        return float(np.sqrt(self.cov[2, 2]))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Interval of the coverage: see `proportion_interval`."""
        return proportion_interval(
            self.coverage, self.coverage_se, df=self.df, n=self.n_blocks, level=level
        )


def _one_a_record(**columns: ArrayLike) -> list[np.ndarray]:
    arrays = [np.asarray(values) for values in columns.values()]
    shapes = [array.shape for array in arrays]
    alike = len(set(shapes)) == 1 and arrays[0].size
    require(alike, f"{', '.join(columns)} are one value a record, got shapes {shapes}.")
    return arrays


def fit_slope(
    n_blocked: ArrayLike, n_linked: ArrayLike, block: ArrayLike, *, weights: ArrayLike | None = None
) -> SlopeFit:
    """Recall and the false-link ratio by regression, when every record has its match in its block.

        E[n_linked | n_blocked] = recall + ratio (n_blocked - 1)

    Weighted least squares over records, each with its numbers of blocked and linked neighbours and
    its block (residuals may be correlated inside one), all of shape (n,). Nothing is assumed on how
    blocked neighbours are spread. The line holds if neither the recall nor the ratio of a record
    depends on the size of its block. If nobody has a second blocked neighbour, recall is the share
    linked, ratio 0. Standard errors are a jackknife over blocks with the weights held. With the
    analytical variable as `weights`, shape (n,), recall and ratio are those *of the total*, so a
    link that depends on that variable does no harm.

    Raises
    ------
    ValueError
        If shapes differ, weights are negative or all zero, or a record has no blocked neighbour
        (then its match is not blocked: use `fit_overlap`).
    NotIdentified
        If all records have the same number of blocked neighbours, above one (no line), or a line
        rests on one block, or on fewer than 5 blocks.
    """
    nb, nl, blk = _one_a_record(n_blocked=n_blocked, n_linked=n_linked, block=block)
    w = np.ones(nb.size) if weights is None else np.asarray(weights, dtype=float)
    usable = w.shape == nb.shape and (w >= 0).all() and w.sum() > 0
    require(usable, "weights are one non-negative value a record, and not all zero.")
    alone = int((nb[w > 0] < 1).sum())
    require(
        not alone,
        f"{alone} records have no blocked neighbour, so their match is not in the other file or "
        "not in their block; use fit_overlap, which estimates the coverage.",
    )
    u = nb - 1.0
    codes = np.unique(blk, return_inverse=True)[1]
    inverse = _inverse_variance(u, nl, codes, w)
    coef = _line(u, w * inverse)
    recall, ratio = coef @ nl
    without = _without_each_block(u, nl, codes, w * inverse)
    n_blocks = without.shape[1]
    require(
        n_blocks >= _FEWEST_BLOCKS or not u[w > 0].any(),
        f"A line over {n_blocks} blocks says too little; it needs {_FEWEST_BLOCKS} or more: use "
        "more records, or a finer blocking key.",
        NotIdentified,
    )
    deviation = without - np.array([[recall], [ratio]])
    share = np.bincount(codes, coef[0] ** 2 / inverse)
    return SlopeFit(
        recall=float(recall),
        ratio=float(ratio),
        cov=deviation @ deviation.T * (n_blocks - 1) / n_blocks,
        n_blocks=n_blocks,
        df=max(float(share.sum() ** 2 / (share**2).sum()) - 1, 1.0),
        coef=coef,
    )


def _without_each_block(
    u: np.ndarray, n_linked: np.ndarray, codes: np.ndarray, w: np.ndarray
) -> np.ndarray:
    """(recall, ratio) without each block that has weight, shape (2, K)."""
    sums = np.stack([np.bincount(codes, row) for row in (w, w * u, w * u**2)])
    links = np.stack([np.bincount(codes, row * n_linked) for row in (w, w * u)])
    used = sums[0] > 0
    (s0, s1, s2), (y0, y1) = (
        part.sum(axis=1, keepdims=True) - part[:, used] for part in (sums, links)
    )
    spread = s0 * s2 - s1**2
    flat = spread <= 1e-9 * s0**2
    single = (s1 <= 1e-9 * s0) & flat  # no one has another record: a mean
    require(
        used.sum() < 2 or not (~single & flat).any(),
        "Without one block every record has as many blocked neighbours as any other: the line "
        "rests on that block alone. Use more records, or a finer blocking key.",
        NotIdentified,
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(single, 0.0, (s0 * y1 - s1 * y0) / spread)
        recall = (y0 - ratio * s1) / s0
    return np.nan_to_num(np.stack([recall, ratio]))


def _inverse_variance(
    u: np.ndarray, n_linked: np.ndarray, codes: np.ndarray, w: np.ndarray
) -> np.ndarray:
    """Records of its block over the variance of the block's links, for each record, shape (n,).

    Links of a block vary together (its records share partners, and blocks differ in how alike their
    values are), so a block's total of links has variance a m + b m u + c (m u)^2 with m records and
    u others each, fitted to the squares of a first line's residuals. At 100,000 trade records this
    takes the standard deviation of the recall from .006 (equal weights) to .0026. In fewer than
    1,000 blocks a fit follows the noise (intervals at a nominal 95 % covered 70 % in 30 blocks):
    there the variance is taken as m (1 + u).
    """
    recall, ratio = _line(u, w) @ n_linked
    size = np.maximum(np.bincount(codes), 1).astype(float)
    others = np.bincount(codes, weights=u) / size
    variance = size * (1 + others)
    if size.size >= _FITTED_FROM:
        basis = np.stack([size, size * others, (size * others) ** 2], axis=1)
        residual = np.bincount(codes, weights=n_linked - recall - ratio * u)
        part, _ = optimize.nnls(basis / variance[:, None], residual**2 / variance)
        # A floor: a link in blocks of one that looks perfect must not get all the weight.
        part[0] = max(part[0], 0.01)
        variance = basis @ part
    return (size / variance)[codes]


def _line(u: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Weights c with (recall, ratio) = c @ n_linked, by least squares weighted with w."""
    total = w.sum()
    mean_u = w @ u / total
    if mean_u == 0:
        return np.stack([w / total, np.zeros(u.size)])
    spread = w @ (u - mean_u) ** 2
    require(
        spread > 1e-12 * total,
        f"Every record has {mean_u + 1:.0f} blocked neighbours: with one size of block there is no "
        "line to fit. Use fit_neighbours, or a finer blocking key.",
        NotIdentified,
    )
    slope = w * (u - mean_u) / spread
    return np.stack([w / total - mean_u * slope, slope])


def fit_overlap(
    n_blocked: ArrayLike, n_linked: ArrayLike, block: ArrayLike, *, strict: ArrayLike | None = None
) -> OverlapFit:
    """Coverage, recall and ratio under partial overlap, with no model of the blocks.

    Of the blocked neighbours one may be the match, and U others are not, with any distribution. A
    record linked by a strict rule is typical but for having its match: E[n_B - 1 | linked] = E[U],

        coverage = E[n_B] - E[n_S (n_B - 1)] / E[n_S]

    with n_S the strict links. Where the strict rule has named the match, all other blocked
    neighbours are non-matches, so the share of them that the links take is the ratio; recall is
    what is left:

        ratio  = E[(n_L - 1) 1(n_S = 1)] / E[(n_B - 1) 1(n_S = 1)]
        recall = (E[n_L] - ratio E[U]) / coverage

    Arguments as in `fit_slope`, but n_blocked may be 0; `strict`, shape (n,), counts the neighbours
    by a rule with hardly any false link (exact comparison, a Dice of .9), all among n_linked.
    Default: n_linked itself, then ratio is 0. Asks that having a match does not depend on the size
    of the block. NotIdentified if nothing is linked, or the coverage comes out at or below 0.

    (The published notes read the coverage off a Poisson model of the blocked counts: with a
    log-normal spread of 1 of the exporters and 100,000 records, .80 comes out as .80 with six
    classes, and as .72 or not at all with three.)
    """
    strict = n_linked if strict is None else strict
    nb, nl, ns, blk = _one_a_record(
        n_blocked=n_blocked, n_linked=n_linked, strict=strict, block=block
    )
    linked = nl.sum() > 0 and ns.sum() > 0
    nothing = "No record is linked, so the coverage cannot be told from the links."
    require(linked, nothing, NotIdentified)
    one = ns == 1
    moments = [np.ones(nb.size), nb, nl, ns, ns * (nb - 1), one * (nl - 1), one * (nb - 1)]
    codes = np.unique(blk, return_inverse=True)[1].astype(np.uint64)
    # Blocks go to groups by a fixed hash of their number, so that the result needs no seed.
    group = (codes * np.uint64(2654435761) % np.uint64(2**32)) * np.uint64(_GROUPS) >> np.uint64(32)
    group = group.astype(np.int64)
    sums = np.stack([np.bincount(group, weights=row, minlength=_GROUPS) for row in moments])
    total, used = sums.sum(axis=1, keepdims=True), sums[0] > 0
    of_all_and_without = np.column_stack([total, total - sums[:, used]])
    with np.errstate(divide="ignore", invalid="ignore"):
        m1, l1, s1, s2, taken, offered = of_all_and_without[1:] / of_all_and_without[0]
        others = s2 / s1
        coverage = m1 - others
        ratio = np.where(offered > 0, taken / offered, 0.0)
        recall = (l1 - ratio * others) / coverage
    require(
        coverage[0] > 0,
        f"The coverage comes out at {coverage[0]:.2f}: linked records have more blocked neighbours "
        "than unlinked ones explain. Use a strict link without false links, or more records.",
        NotIdentified,
    )
    left_out = np.stack([recall, ratio, coverage])[:, 1:]
    deviation = left_out - left_out.mean(axis=1, keepdims=True)
    k = left_out.shape[1]
    return OverlapFit(
        coverage=float(coverage[0]),
        recall=float(recall[0]),
        ratio=float(ratio[0]),
        cov=(k - 1) / k * deviation @ deviation.T if k > 1 else np.full((3, 3), np.nan),
        n_blocks=int(codes.max()) + 1,
        df=max(float(total[0, 0] ** 2 / (sums[0] ** 2).sum()) - 1, 1.0),
    )


def proportion_interval(
    estimate: float, se: float, *, df: float, n: int, level: float = 0.95
) -> tuple[float, float]:
    """Interval of a share estimated from dependent records, cut to [0, 1].

    The hull of two: estimate and t quantile with `df` degrees of freedom; and Clopper-Pearson at
    the effective sample size, at most `n`, which keeps its level near 0 and 1 where the spread of
    a small sample says little (E. Korn and B. Graubard, Survey Methodology 24, 1998).
    """
    require(0 < level < 1, f"level is a fraction in (0, 1), got {level}; for 95 % pass 0.95.")
    if not np.isfinite(se):
        return 0.0, 1.0
    tail = (1 - level) / 2
    t = float(stats.t.isf(tail, df))
    share = min(max(estimate, 0.0), 1.0)
    effective = min(share * (1 - share) / se**2, n) if 0 < share < 1 and se > 0 else n
    effective *= (float(stats.norm.isf(tail)) / t) ** 2
    hits = share * effective
    low = stats.beta.ppf(tail, hits, effective - hits + 1) if hits > 0 else 0.0
    high = stats.beta.isf(tail, hits + 1, effective - hits) if hits < effective else 1.0
    return max(0.0, min(low, estimate - t * se)), min(1.0, max(high, estimate + t * se))
