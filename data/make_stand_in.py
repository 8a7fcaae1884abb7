"""Make the shipped stand-in of ``student_mat``: ``python data/make_stand_in.py``.

What is public (from the documentation of the data set): the columns, the values each may take, and
that there are 395 records. Everything else is measured with noise; `RECIPE` is the whole recipe.
The noise comes from the operating system and its state is kept nowhere, so a second run gives
another table, and tells as much again about the original: the two together cost twice the budget.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pet_lab.data import REGISTRY, load, student
from pet_lab.synth import Bins, synthesise

ROWS = 395
AT_LEAST = 8
"""Every level of a text column occurs so often, so that the stand-in has all features."""

RECIPE: dict[str, Any] = {
    "mechanism": "task",
    "target": "G3",
    "strongest": 5,
    "epsilon": 1.0,
    "delta": 1e-5,
    "method": "shuffled",
    "rows": ROWS,
}


def domain() -> dict[str, tuple[Any, ...] | Bins]:
    """The public domain; grades and absences in coarse bins, because 395 records with noise cannot
    fill 21 or 94 levels. The pass mark of 10 is an edge."""
    grades = Bins(edges=(0, 5, 10, 15, 20), integer=True)
    absences = Bins(edges=(0, 1, 5, 10, 20, 40, 93), integer=True)
    return {**student.DOMAIN, "G1": grades, "G2": grades, "G3": grades, "absences": absences}


def make(original: pd.DataFrame) -> pd.DataFrame:
    """A fresh stand-in of `original`, shape (395, 33); spends the budget of `RECIPE` once.

    Raises
    ------
    ValueError
        If `original` does not have the columns and values of ``student_mat``.
    """
    synthetic = synthesise(original, domain=domain(), rng_seed=None, **RECIPE)
    return _with_all_levels(synthetic.frame, np.random.default_rng())


def _with_all_levels(frame: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Overwrite random cells of frequent levels until each level occurs `AT_LEAST` times.

    It sees only the synthetic table, so it costs nothing.
    """
    frame = frame.copy()
    for name, levels in student.DOMAIN.items():
        if not isinstance(levels[0], str):
            continue
        for level in levels:
            counts = frame[name].value_counts()
            lacking = AT_LEAST - int(counts.get(level, 0))
            if lacking > 0:
                donors = np.flatnonzero((frame[name] == counts.index[0]).to_numpy())
                rows = rng.choice(donors, lacking, replace=False)
                frame.loc[frame.index[rows], name] = level
    return frame


def main() -> None:
    """Write ``data/student_mat_stand_in.csv`` anew."""
    target = Path(__file__).with_name(str(REGISTRY["student_mat"].stand_in))
    if target.exists() and "--again" not in sys.argv[1:]:
        raise SystemExit(
            f"{target.name} is there; a second table costs the original's records another "
            f"epsilon of {RECIPE['epsilon']:g}. Pass --again if that is meant."
        )
    make(load("student_mat").frame).to_csv(target, index=False, lineterminator="\n")


if __name__ == "__main__":
    main()
