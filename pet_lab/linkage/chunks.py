"""Many small linkages at once: each chunk's rates and corrected totals, in whole arrays.

Files are cut into chunks by making the chunk one more blocking column; one linkage then holds
thousands of small ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pet_lab.linkage.blocking import Links
from pet_lab.linkage.neighbours import fit_many


@dataclass(frozen=True, kw_only=True)
class ChunkRates:
    """Actual and estimated error rates, one value a chunk.

    chunk                 chunk of each record of the first file, shape (n_a,)
    truth                 row of the second file that each record matches, shape (n_a,)
    recall, fpr           actual rates
    recall_estimate, fpr_estimate   from the neighbours of the chunk's records; NaN without a link
    ratio_estimate        false links per blocked non-match; 0 where no non-match is blocked
    """

    chunk: np.ndarray
    truth: np.ndarray
    recall: np.ndarray
    fpr: np.ndarray
    recall_estimate: np.ndarray
    fpr_estimate: np.ndarray
    ratio_estimate: np.ndarray


def chunk_rates(links: Links, chunk: np.ndarray, truth: np.ndarray) -> ChunkRates:
    """Rates of every chunk of a linkage that is blocked by chunk; chunks 0, 1, .. of equal size."""
    m = int(chunk.max()) + 1
    n = chunk.size // m
    true = truth[links.i] == links.j
    freq = np.zeros((m, max(int(links.n_linked.max(initial=0)) + 1, 2)))
    np.add.at(freq, (chunk, links.n_linked), 1)
    recall, false_links = fit_many(freq).T
    blocked_others = np.bincount(chunk, weights=links.n_blocked, minlength=m) / n - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(blocked_others > 0, false_links / blocked_others, 0.0)
    return ChunkRates(
        chunk=chunk,
        truth=truth,
        recall=np.bincount(chunk[links.i[true]], minlength=m) / n,
        fpr=np.bincount(chunk[links.i[~true]], minlength=m) / (n * (n - 1)),
        recall_estimate=recall,
        fpr_estimate=false_links / (n - 1),
        ratio_estimate=ratio,
    )


def chunk_totals(
    links: Links, rates: ChunkRates, x: np.ndarray, z: np.ndarray, *, smallest_gap: float = 0.1
) -> dict[str, np.ndarray]:
    """Totals of x[i] z[j] of every chunk.

    Returns
    -------
    actual, naive (over the links), blocked (over the blocked pairs), adjusted_published (by the
    actual rates and without the blocking FPR, as in the published program), adjusted_described
    (paragraph 23 with estimated rates; NaN where recall - ratio is at most `smallest_gap`).
    """
    chunk, m = rates.chunk, rates.recall.size
    actual = np.bincount(chunk, weights=x * z[rates.truth], minlength=m)
    naive = np.bincount(chunk[links.i], weights=x[links.i] * z[links.j], minlength=m)
    chunk_of_block = np.zeros(links.blocks.n_blocks, dtype=np.int64)
    chunk_of_block[links.blocks.code_a] = chunk
    by_block = links.blocks.sums_a(x) * links.blocks.sums_b(z)
    blocked = np.bincount(chunk_of_block, weights=by_block, minlength=m)
    gap = rates.recall_estimate - rates.ratio_estimate
    with np.errstate(divide="ignore", invalid="ignore"):
        described = np.where(
            gap > smallest_gap, (naive - rates.ratio_estimate * blocked) / gap, np.nan
        )
        published = (naive - rates.fpr * blocked) / (rates.recall - rates.fpr)
    return {
        "actual": actual,
        "naive": naive,
        "blocked": blocked,
        "adjusted_published": published,
        "adjusted_described": described,
    }
