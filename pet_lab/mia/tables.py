"""Membership inference against a synthetic table: how close does it come to the real records?

The attacker sees only the released table, and asks of a record whether it was in the data that the
table was made from.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy import spatial

from pet_lab import checks


def nearest_distances(records: ArrayLike, table: ArrayLike) -> np.ndarray:
    """Euclidean distance from each record to its nearest row of the table, shape (n,), exact.

    Both, of shapes (n, features) and (m, features), are complete and scaled so that features are
    comparable (for example 0 to 1, one-hot for categories); ValueError where they are not alike.
    """
    a, b = np.asarray(records, dtype=float), np.asarray(table, dtype=float)
    checks.require(
        a.ndim == b.ndim == 2 and a.shape[1] == b.shape[1],
        f"records and table have the same columns, got shapes {a.shape} and {b.shape}; encode "
        "both alike.",
    )
    checks.require(
        a.size and b.size, f"Expected records and rows in the table, got {len(a)} and {len(b)}."
    )
    checks.require(
        not (np.isnan(a).any() or np.isnan(b).any()),
        "records and table must be complete; fill or drop missing values first.",
    )
    return spatial.KDTree(b).query(a)[0]


def closeness_scores(records: ArrayLike, synthetic: ArrayLike) -> np.ndarray:
    """Minus the distance to the closest synthetic row: the plain attack, blind to rarity.

    Shape (n,), higher = "more likely a member".
    """
    return -nearest_distances(records, synthetic)


def density_ratio_scores(
    records: ArrayLike, synthetic: ArrayLike, reference: ArrayLike
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

    Returns
    -------
    float array, shape (n,): ``log(distance to the nearest reference row / to the nearest synthetic
    row)``, a nearest-neighbour estimate of the log density ratio up to scale and shift. Higher =
    "more likely a member".

    References
    ----------
    arXiv:2302.12580.
    """
    # A record that is in the table has distance 0: the strongest evidence, but finite.
    near, usual = (
        np.maximum(nearest_distances(records, rows), 1e-9) for rows in (synthetic, reference)
    )
    return np.log(usual) - np.log(near)
