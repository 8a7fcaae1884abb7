"""The annex's use case: files of a statistical office and a bank with a common tax code.

Both files are published with the project's code (final report, paragraph 141). They are read from a
folder of the user's; where there is none, a stand-in with the same columns, categories, sizes and
overlap is drawn.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.random import Generator

from pet_lab.checks import require
from pet_lab.files import sha256

from .errors import DataError
from .reader import read_table

FILES = {"istat": "DATASET_A_ISTAT.csv", "bank": "DATASET_B_BANCA_ITALIA.csv"}
KEY = "IDKEY"
SIZES = {"istat": 1000, "bank": 3479}
OVERLAP = 732
DOMAIN = {
    "istat": {"CLASSE_ETA": ["< 20", "20-28", "29-35"], "NUMERO_FIGLI": ["0", "1-2", ">2"]},
    "bank": {
        "TIPO_RATA_MUTUO": ["BASSA", "MEDIA", "ALTA"],
        "PAGATORE_RATA_MUTUO": ["SI", "NO"],
        "CLASSE_REDDITO": ["BASSA", "MEDIA", "ALTA"],
    },
}
SHARES = {"PAGATORE_RATA_MUTUO": [2 / 3, 1 / 3]}


@dataclass(frozen=True, kw_only=True)
class UseCase:
    """Both files, all columns text, and the provenance of each as `results.write` wants it."""

    istat: pd.DataFrame = field(repr=False)
    bank: pd.DataFrame = field(repr=False)
    provenance: tuple[dict[str, Any], ...]

    @property
    def real(self) -> bool:
        """Whether these are the published files."""
        return all(p["kind"] == "real" for p in self.provenance)


def load(*, rng: Generator, folder: Path | None = None) -> UseCase:
    """The published files if they are here, else a stand-in drawn from `rng`.

    `folder` holds the two CSV files; by default it is istat_bi in PET_LAB_DATA, or beside the
    checkout under shared/data. DataError if it lacks a file, or a file has other columns.
    """
    folder = folder or default_folder()
    if folder is None:
        return stand_in(rng)
    frames, provenance = {}, []
    for name, file in FILES.items():
        absent = f"{file} is not in the folder; put it there, or name another folder."
        require((folder / file).is_file(), absent, DataError)
        table = read_table(folder / file, as_text=True, separator=";")
        columns = f"{file} has the columns {KEY}, {', '.join(DOMAIN[name])}; check it."
        require(list(table.frame.columns) == [KEY, *DOMAIN[name]], columns, DataError)
        frames[name] = table.frame
        provenance.append(_provenance(name, "real", table.sha256))
    return UseCase(**frames, provenance=tuple(provenance))


def default_folder() -> Path | None:
    """Where both published files are on this machine; None where they are not."""
    root = Path(__file__).resolve().parents[2]
    for base in (os.environ.get("PET_LAB_DATA"), root.parent / "shared" / "data"):
        if base and all((Path(base) / "istat_bi" / f).is_file() for f in FILES.values()):
            return Path(base) / "istat_bi"
    return None


def stand_in(rng: Generator) -> UseCase:
    """Two files of the published shape, drawn at random: nobody's tax codes."""
    n = sum(SIZES.values()) - OVERLAP
    letters = np.array(list("ABCDEFGHJKLMNPRSTUVZ"))
    digits = np.array(list("0123456789"))
    codes: list[str] = []
    while len(codes) < n:  # the shape of an Italian tax code; Z in the place code: nobody's
        parts = [*rng.choice(letters, 6), *rng.choice(digits, 2), rng.choice(letters)]
        parts += [*rng.choice(digits, 2), "Z", *rng.choice(digits, 3), rng.choice(letters)]
        codes = list(dict.fromkeys([*codes, "".join(parts)]))
    taken = {"istat": codes[: SIZES["istat"]], "bank": codes[SIZES["istat"] - OVERLAP :]}
    frames, provenance = {}, []
    for name, keys in taken.items():
        frame = pd.DataFrame({KEY: rng.permutation(np.array(keys, dtype=object))})
        for column, labels in DOMAIN[name].items():
            values = np.array(labels, dtype=object)
            frame[column] = rng.choice(values, len(frame), p=SHARES.get(column))
        frames[name] = frame
        digest = sha256(frame.to_csv(index=False).encode())
        provenance.append(_provenance(name, "stand-in", digest))
    return UseCase(**frames, provenance=tuple(provenance))


def _provenance(name: str, kind: str, digest: str) -> dict[str, Any]:
    return {
        "name": f"istat_bi/{name}",
        "sha256": digest,
        "kind": kind,
        "licence": "as of the UNECE IPP repository" if kind == "real" else "Apache-2.0",
        "citation": "Bruno et al. (2021), Privacy set intersection with analytics, UNECE IPP.",
    }
