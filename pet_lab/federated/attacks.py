"""What leaks through the weights: records from updates, and a backdoor into the average."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pet_lab.checks import between
from pet_lab.federated.model import Network
from pet_lab.federated.partition import Office
from pet_lab.federated.rounds import Transform

Array = NDArray[np.float64]


def invert_first_layer(
    weight_change: Array, bias_change: Array, *, rng: np.random.Generator, draws: int = 200_000
) -> Array:
    """Input records, exactly, from the first layer's part of one gradient step.

    The weights' change is W = X' D with X (b, inputs) the records and D (b, hidden) their
    back-propagated errors; that of the biases is the column sum of D. One record: any hidden unit
    that it moved gives it, as W[:, j] / bias[j]. More: W has rank b, so its right factor R (b,
    hidden) is known up to an invertible matrix, and ReLU leaves D sparse: a row of D vanishes
    where its record is inactive. Take b - 1 columns of R at random: a vector orthogonal to them
    is, if one record is inactive in all of them, that record's row of the wanted matrix, and it
    shows by zeros elsewhere too. Works while b is below the number of active hidden units, in
    practice up to a dozen records for fifty units. (After D. Dimitrov et al., "SPEAR: Exact
    gradient inversion of batches in federated learning", NeurIPS 2024; our program.)

    `weight_change` (inputs, hidden) and `bias_change` (hidden,) are the same multiple of the
    gradient; `draws` column sets are tried. Returns candidate records, shape (candidates, inputs).
    """
    inputs = weight_change.shape[0]
    nothing = np.empty((0, inputs))
    if not np.any(weight_change):
        return nothing
    _, singular, right = np.linalg.svd(weight_change, full_matrices=False)
    b = int((singular > 1e-10 * singular[0]).sum())
    if b == 1:
        j = int(np.argmax(np.abs(bias_change)))
        return (weight_change[:, j] / bias_change[j])[None]
    rows = right[:b]
    size = np.linalg.norm(rows, axis=0)
    active = np.flatnonzero(size > 1e-9 * size.max())
    if b >= min(active.size, inputs):
        return nothing  # no room left: every column of D is then explained by something
    unit = rows[:, active] / size[active]
    # No mixture of rows of D has as many zeros as its sparsest part: the sparsest independent
    # directions are the rows, and taking them greedily is optimal.
    enough = b + 1  # a direction by chance has just b - 1 zeros
    pool: list[tuple[int, Array]] = []
    rows_of_d: list[Array] = []
    quiet = 0
    for _ in range(0, draws, 500):
        sets = np.argsort(rng.random((500, active.size)), axis=1)[:, : b - 1]
        columns = np.moveaxis(unit[:, sets], 1, 0)  # (500, b, b - 1)
        q, r = np.linalg.qr(columns, mode="complete")
        apart = np.abs(np.diagonal(r, axis1=1, axis2=2)).min(axis=1) > 1e-5
        full = q[:, :, -1]
        zeros = (np.abs(full @ unit) < 1e-8).sum(axis=1)
        before = len(pool)
        for z, d in zip(zeros[apart], full[apart], strict=True):
            if z >= enough and all(abs(d @ p) < 1 - 1e-7 for _, p in pool):
                pool.append((int(z), d))
        quiet = 0 if len(pool) > before else quiet + 1
        if len(pool) > 40 * b:
            pool = sorted(pool, key=lambda item: -item[0])[: 20 * b]
        rows_of_d = _sparsest(pool, b)
        if len(rows_of_d) == b and quiet >= 20:
            break
    if not rows_of_d:
        return nothing
    directions = np.array(rows_of_d)
    # bias = sum_i scale_i (q_i R): found rows that belong to no record get weight 0 and drop out.
    products = directions @ rows
    scale, *_ = np.linalg.lstsq(products.T, bias_change, rcond=None)
    keep = np.abs(scale) > 1e-9 * np.abs(scale).max()
    if len(rows_of_d) < b:  # some are missing and their records mix into the bias: one by one
        return _one_by_one(weight_change, bias_change, products)
    errors = scale[keep, None] * products[keep]
    return (weight_change @ np.linalg.pinv(errors)).T


def _sparsest(pool: list[tuple[int, Array]], b: int) -> list[Array]:
    """Independent directions, those with most zeros first."""
    out: list[Array] = []
    basis = np.empty((0, b))
    for _, direction in sorted(pool, key=lambda item: -item[0]):
        rest = direction - basis.T @ (basis @ direction)
        if np.linalg.norm(rest) > 1e-4:
            out.append(direction)
            basis = np.vstack([basis, rest / np.linalg.norm(rest)])
            if len(out) == b:
                break
    return out


def _one_by_one(weight_change: Array, bias_change: Array, products: Array) -> Array:
    """Records whose hidden units nobody else of the missing ones moved: read off single units."""
    out = []
    for row in products:
        alone = np.abs(row) > 1e-8 * np.abs(row).max()
        others = np.abs(products).sum(axis=0) - np.abs(row)
        unit = np.flatnonzero(alone & (others < 1e-8) & (np.abs(bias_change) > 0))
        if unit.size:
            out.append(weight_change[:, unit[0]] / bias_change[unit[0]])
    return np.array(out).reshape(-1, weight_change.shape[0])


def recovered(truth: Array, candidates: Array, *, tolerance: float = 1e-6) -> tuple[float, float]:
    """Share of true records hit by a candidate, and the median relative error of the hits.

    A hit is off by at most `tolerance` relative to the record's norm. The error is NaN without
    hits.
    """
    if len(candidates) == 0:
        return 0.0, float("nan")
    distance = np.linalg.norm(truth[:, None] - candidates[None], axis=2).min(axis=1)
    relative = distance / np.linalg.norm(truth, axis=1)
    hit = relative <= tolerance
    return float(hit.mean()), float(np.median(relative[hit])) if hit.any() else float("nan")


@dataclass(frozen=True, kw_only=True)
class Backdoor:
    """A stamp on the features and the class that stamped records shall get.

    columns  features that are set
    value    to this many standard deviations
    target   class
    """

    columns: tuple[int, ...]
    value: float
    target: int

    def stamp(self, x: Array) -> Array:
        """Records with the stamp; shape (n, inputs) as given."""
        out = x.copy()
        out[:, list(self.columns)] = self.value
        return out

    def poison(self, office: Office, *, share: float, rng: np.random.Generator) -> Office:
        """The office's data with a share of the training rows stamped and relabelled."""
        between(0, 1, share=share)
        rows = rng.choice(office.n, round(share * office.n), replace=False)
        x, y = office.X.copy(), office.y.copy()
        x[rows], y[rows] = self.stamp(x[rows]), self.target
        return replace(office, X=x, y=y)

    def success(self, network: Network, weights: Array, office: Office) -> float:
        """Share of stamped test records of *other* classes that are taken for the target."""
        others = office.y_test != self.target
        logits = network.logits(weights, self.stamp(office.X_test[others]))
        return float(np.mean(np.argmax(logits, axis=1) == self.target))


def boosted(factor: float) -> Transform:
    """A dishonest office's trick: send its change `factor` times as large, to outvote the others.

    Source: E. Bagdasaryan et al., "How to backdoor federated learning" (AISTATS 2020).
    """

    return lambda number, received, weights: received + factor * (weights - received)
