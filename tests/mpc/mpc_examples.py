"""Small files of two owners, and a task about them."""

import numpy as np
import pandas as pd

from pet_lab.mpc.tasks import ColumnSchema, DataRef, Task, in_hours

X = {
    "id": ColumnSchema(kind="key"),
    "region": ColumnSchema(kind="category", levels=("north", "south", "west")),
    "age": ColumnSchema(kind="number", low=0, high=100),
}
Y = {
    "id": ColumnSchema(kind="key"),
    "income": ColumnSchema(kind="number", decimals=2, low=-500, high=5000),
    "ill": ColumnSchema(kind="number", low=0, high=1),
}
POOLED = {
    "region": ColumnSchema(kind="category", levels=("north", "south", "west")),
    "age": ColumnSchema(kind="number", low=0, high=100),
}
STATISTICS = {"key": "id", "join": "opened", "group": "region", "value": "income"}


def people(n: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two files of n records that share most keys; one region has only two matches."""
    rng = np.random.default_rng(seed)
    universe = [f"P{i:04}" for i in range(n + n // 4)]
    x = pd.DataFrame({"id": universe[:n], "age": rng.integers(20, 80, n)})
    x.insert(1, "region", rng.choice(["north", "south"], n))
    x.loc[x.index[-2:], "region"] = "west"
    y = pd.DataFrame({"id": universe[-n:], "income": rng.integers(-50_000, 500_000, n) / 100})
    age = y.merge(x, on="id", how="left")["age"].fillna(50)
    y["ill"] = (rng.random(n) < 1 / (1 + np.exp(-(age - 50) / 12))).astype(int)
    return x.sample(frac=1, random_state=1), y.sample(frac=1, random_state=2)


def task(**changes) -> Task:
    """A well-formed task; its commitments are of nothing."""
    k = len(changes.get("processing_parties", "abc"))
    made = {
        "function": "joined_statistics",
        "parameters": STATISTICS,
        "inputs": (
            DataRef(owner="px", schema=X, rows=24, commitments=("00",) * k),
            DataRef(owner="py", schema=Y, rows=24, commitments=("00",) * k),
        ),
        "output_party": "pz",
        "processing_parties": ("pp-1", "pp-2", "pp-3"),
        "expires": in_hours(1),
    }
    return Task(**{**made, **changes})
