"""Tables that scikit-learn ships, and where they come from."""

import numpy as np
from numpy.typing import NDArray

from pet_lab import files


def tumours() -> tuple[NDArray[np.float64], NDArray[np.int64], dict[str, str]]:
    """Features (569, 30) and classes of the breast cancer table, and where it comes from; its hash
    is of the bytes of features and classes."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    provenance = {
        "name": "breast_cancer",
        "kind": "real",
        "sha256": files.sha256(x.astype("<f8").tobytes() + y.astype("<i8").tobytes()),
        "licence": "CC BY 4.0",
        "citation": "W. Wolberg, O. Mangasarian, N. Street, W. Street (1993). Breast Cancer "
        "Wisconsin (Diagnostic). UCI Machine Learning Repository, doi.org/10.24432/C5DW2B, as "
        "shipped with scikit-learn.",
    }
    return x, y, provenance


def digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Images (1797, 64) of 8 by 8 pixels in [0, 1], and the digits they show."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return x / 16, y
