"""Who holds what: windows divided among offices, by person, evenly or with skewed labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pet_lab.checks import require
from pet_lab.federated.features import Windows

OFFICES = ("statcan", "ons", "istat", "cbs")
"""Names of the four offices, as identities on the network."""


@dataclass(frozen=True, kw_only=True)
class Office:
    """What one office holds: standardised features, no other office ever sees a row of it."""

    name: str
    X: NDArray[np.float64]
    y: NDArray[np.int64]
    X_test: NDArray[np.float64]
    y_test: NDArray[np.int64]
    users: tuple[int, ...]
    stretches: NDArray[np.int64]

    @property
    def n(self) -> int:
        """Training windows."""
        return len(self.y)

    def halves(self, rng: np.random.Generator) -> tuple[Office, Office]:
        """The training windows in two, by whole stretches: the halves share no sample."""
        stretches = rng.permutation(np.unique(self.stretches))
        inside = np.isin(self.stretches, stretches[::2])
        first, second = (
            replace(self, X=self.X[w], y=self.y[w], stretches=self.stretches[w])
            for w in (inside, ~inside)
        )
        return first, second


def divide(
    data: Windows,
    *,
    offices: int | None = None,
    rng: np.random.Generator,
    skew: float = 0.0,
    same_data: bool = False,
) -> list[Office]:
    """Give each office its people, or some of each person's activities.

    Features are scaled by mean and standard deviation: as if even between their stated ends, or
    else pooled over the training windows. In a deployment the offices get the pooled ones from sums
    that are added like the weights are; no epsilon of `private` charges them. ValueError if there
    are fewer people than offices, or an office would be left without windows.

    offices : None: as many as hold the data, where that is given and rows stay there; else four
    skew : 0: whole people, as many for each office as can be. Above: the blocks (person, class) of
        the training windows are dealt by class shares drawn from Dirichlet(1 / skew): 1 is strong,
        10 leaves an office with hardly more than one or two classes. Tests stay by person: every
        office wants to recognise all activities.
    same_data : every office holds all windows (the report's scenario 1)
    """
    testing, given = data.testing, offices is None and data.holders is not None
    offices = (len(data.names) or 4) if offices is None else offices
    people = [np.unique(data.users[mask]) for mask in (~testing, testing)]
    enough = offices >= 1 and (same_data or min(map(len, people)) >= 1)
    require(enough, "Expected at least one office, one person to train on and one to test on.")
    require(
        same_data or len(people[0]) >= offices,
        f"{offices} offices need as many people to train on, there are {len(people[0])}; use fewer "
        "offices.",
    )
    require(skew >= 0, f"skew is 0 (even) or positive, got {skew}.")
    owner = np.full(data.size, -1)
    for group in people:
        for k, user in enumerate(rng.permutation(group)):
            owner[data.users == user] = k % offices
    owner = data.holders if given and data.holders is not None else owner
    if skew > 0 and not same_data:
        _deal_blocks(data, ~testing, owner, skew, rng)
    if data.stated is None:
        mean, scale = (f(data.X[~testing], axis=0) for f in (np.mean, np.std))
    else:
        mean, scale = data.stated.mean(axis=0), np.ptp(data.stated, axis=0) / np.sqrt(12)
    x = np.clip((data.X - mean) / np.where(scale > 1e-12, scale, 1.0), -8, 8)
    parts, names = [], data.names if given else OFFICES
    for k in range(offices):
        mine = np.ones(data.size, bool) if same_data else owner == k
        train, test = mine & ~testing, mine & testing
        if not test.any():  # more offices than people to test on: they share the whole test
            test = testing
        lost = f"Office {k + 1} of {offices} has no windows left; lower the skew."
        require(train.any(), lost)
        office = Office(
            name=names[k] if offices <= len(names) else f"office-{k + 1}",
            X=x[train],
            y=data.y[train],
            X_test=x[test],
            y_test=data.y[test],
            users=tuple(np.unique(data.users[train]).tolist()),
            stretches=data.stretches[train],
        )
        parts.append(office)
    return parts


def _deal_blocks(
    data: Windows,
    training: NDArray[np.bool_],
    owner: NDArray[np.int64],
    skew: float,
    rng: np.random.Generator,
) -> None:
    offices = owner.max() + 1
    for c in range(len(data.classes)):
        shares = rng.dirichlet(np.full(offices, 1 / skew))
        users = rng.permutation(np.unique(data.users[training & (data.y == c)]))
        ends = np.rint(np.cumsum(shares) * len(users)).astype(int)
        for k, user in enumerate(users):
            block = training & (data.y == c) & (data.users == user)
            owner[block] = int(np.searchsorted(ends, k, side="right"))
    for k in range(offices):  # nobody goes empty-handed: one block from the richest
        while not (training & (owner == k)).any():
            richest = int(np.argmax(np.bincount(owner[training], minlength=offices)))
            row = np.flatnonzero(training & (owner == richest))[0]
            owner[training & (data.users == data.users[row]) & (data.y == data.y[row])] = k


def pooled(offices: Sequence[Office]) -> Office:
    """All windows in one hand: the comparison that nobody may run."""
    users = tuple(sorted({u for o in offices for u in o.users}))
    arrays = ("X", "y", "X_test", "y_test", "stretches")
    joined = {k: np.concatenate([getattr(o, k) for o in offices]) for k in arrays}
    return Office(name="all", users=users, **joined)
