"""Many small linkages at once: each chunk's rates and corrected totals, in whole arrays.

The chunk is one more blocking column, so that one linkage holds thousands of small ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pet_lab.linkage.blocking import Links
from pet_lab.linkage.neighbours import fit_many


@dataclass(frozen=True, kw_only=True)
class ChunkRates:
    """Actual and estimated error rates, one value a chunk.

    chunk, truth          chunk, and matching row of the second file, of each record of the first
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
    others = np.bincount(chunk, weights=links.n_blocked, minlength=m) / n - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(others > 0, false_links / others, 0.0)
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
    links: Links, rates: ChunkRates, x: np.ndarray, z: np.ndarray
) -> dict[str, np.ndarray]:
    """Totals of x[i] z[j] of every chunk: actual, naive (over the links), blocked, and adjusted.

    adjusted_published is by the actual rates and without the blocking FPR, as in the published
    program; adjusted_described is paragraph 23 with estimated rates, NaN where recall - ratio is
    at most 0.1.
    """
    chunk, m, ratio = rates.chunk, rates.recall.size, rates.ratio_estimate
    actual = np.bincount(chunk, weights=x * z[rates.truth], minlength=m)
    naive = np.bincount(chunk[links.i], weights=x[links.i] * z[links.j], minlength=m)
    chunk_of_block = np.zeros(links.blocks.n_blocks, dtype=np.int64)
    chunk_of_block[links.blocks.code_a] = chunk
    by_block = links.blocks.sums_a(x) * links.blocks.sums_b(z)
    blocked = np.bincount(chunk_of_block, weights=by_block, minlength=m)
    gap = rates.recall_estimate - ratio
    with np.errstate(divide="ignore", invalid="ignore"):
        described = np.where(gap > 0.1, (naive - ratio * blocked) / gap, np.nan)
        published = (naive - rates.fpr * blocked) / (rates.recall - rates.fpr)
    totals = {"actual": actual, "naive": naive, "blocked": blocked}
    return totals | {"adjusted_published": published, "adjusted_described": described}
