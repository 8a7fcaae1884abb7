"""Membership inference against a synthetic table: how close does it come to the real records?

The attacker sees only the released table, and asks of a record whether it was in the data that the
table was made from.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import spatial


def nearest_distances(records: ArrayLike, table: ArrayLike, *, k: int = 1) -> np.ndarray:
    """Euclidean distance from each record to its k-th nearest row of the table.

    Parameters
    ----------
    records : array, shape (n, features)
        Scaled so that features are comparable (for example 0 to 1, one-hot for categories).
    table : array, shape (m, features)
    k : int
        1 is the nearest.

    Returns
    -------
    float array, shape (n,), exact.

    Raises
    ------
    ValueError
        If widths differ, either is empty, values are missing, or the table has fewer than k rows.
    """
    a, b = np.asarray(records, dtype=float), np.asarray(table, dtype=float)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(
            f"records and table have the same columns, got shapes {a.shape} and {b.shape}; encode "
            "both alike."
        )
    if not a.size or len(b) < k or k < 1:
        raise ValueError(
            f"Expected records and at least k={k} rows in the table, got {len(a)} and {len(b)}."
        )
    if np.isnan(a).any() or np.isnan(b).any():
        raise ValueError("records and table must be complete; fill or drop missing values first.")
    distances, _ = spatial.KDTree(b).query(a, k=[k])
    return distances[:, 0]


def closeness_scores(records: ArrayLike, synthetic: ArrayLike) -> np.ndarray:
    """Minus the distance to the closest synthetic row: the plain attack, blind to rarity.

    Returns
    -------
    float array, shape (n,), higher = "more likely a member".
    """
    return -nearest_distances(records, synthetic)


def density_ratio_scores(
    records: ArrayLike, synthetic: ArrayLike, reference: ArrayLike, *, k: int = 1
) -> np.ndarray:
    """Is the table denser around the record than the population is? (as in DOMIAS)

    Parameters
    ----------
    records : array, shape (n, features)
        Records whose membership is asked.
    synthetic : array, shape (m, features)
        The released table.
    reference : array, shape (r, features)
        Records of the same population that were certainly not used, and not among `records`.
    k : int
        Neighbours of the density estimate.

    Returns
    -------
    float array, shape (n,): ``log(distance to the k-th reference row / to the k-th synthetic
    row)``, a nearest-neighbour estimate of the log density ratio up to scale and shift. Higher =
    "more likely a member".

    References
    ----------
    arXiv:2302.12580.
    """
    near = nearest_distances(records, synthetic, k=k)
    usual = nearest_distances(records, reference, k=k)
    # A record that occurs k times in the table has distance 0: the strongest evidence, but finite.
    tiny = 1e-9
    return np.log(np.maximum(usual, tiny)) - np.log(np.maximum(near, tiny))
