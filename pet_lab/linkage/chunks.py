"""Many small linkages at once: each chunk's rates and corrected totals, in whole arrays.

The chunk is one more blocking column, so that one linkage holds thousands of small ones.
"""

from collections.abc import Mapping

import numpy as np

from pet_lab.linkage.blocking import Links
from pet_lab.linkage.neighbours import fit_many


def chunk_estimates(
    links: Links, chunk: np.ndarray, truth: np.ndarray, x: Mapping[str, np.ndarray], z: np.ndarray
) -> dict[str, np.ndarray]:
    """Rates of every chunk and totals of x[i] z[j] for every named x, one value a chunk.

    `chunk` (0, 1, .., of equal size, in the blocking key) and `truth` (matching row of the second
    file) are of the records of the first. Columns: recall_actual, fpr_actual; recall_estimate,
    fpr_estimate from the neighbours of the chunk's records, NaN without a link; and, after the name
    of x, actual, naive (over the links), blocked, adjusted_published (by the actual rates and
    without the blocking FPR, as in the published program) and adjusted_described (paragraph 23 with
    estimated rates, NaN where recall - ratio is at most 0.1).
    """
    m = int(chunk.max()) + 1
    n = chunk.size // m
    true = truth[links.i] == links.j
    freq = np.zeros((m, max(int(links.n_linked.max(initial=0)) + 1, 2)))
    np.add.at(freq, (chunk, links.n_linked), 1)
    recall_estimate, false_links = fit_many(freq).T
    others = np.bincount(chunk, weights=links.n_blocked, minlength=m) / n - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(others > 0, false_links / others, 0.0)  # per blocked non-match
    recall = np.bincount(chunk[links.i[true]], minlength=m) / n
    fpr = np.bincount(chunk[links.i[~true]], minlength=m) / (n * (n - 1))
    columns: dict[str, np.ndarray] = {"recall_actual": recall, "recall_estimate": recall_estimate}
    columns |= {"fpr_actual": fpr, "fpr_estimate": false_links / (n - 1)}
    chunk_of_block = np.zeros(links.blocks.n_blocks, dtype=np.int64)
    chunk_of_block[links.blocks.code_a] = chunk
    gap = recall_estimate - ratio
    for name, values in x.items():
        actual = np.bincount(chunk, weights=values * z[truth], minlength=m)
        naive = np.bincount(chunk[links.i], weights=values[links.i] * z[links.j], minlength=m)
        by_block = links.blocks.sums_a(values) * links.blocks.sums_b(z)
        blocked = np.bincount(chunk_of_block, weights=by_block, minlength=m)
        with np.errstate(divide="ignore", invalid="ignore"):
            described = np.where(gap > 0.1, (naive - ratio * blocked) / gap, np.nan)
            published = (naive - fpr * blocked) / (recall - fpr)
        columns |= {
            f"{name}_actual": actual,
            f"{name}_naive": naive,
            f"{name}_blocked": blocked,
            f"{name}_adjusted_published": published,
            f"{name}_adjusted_described": described,
        }
    return columns
