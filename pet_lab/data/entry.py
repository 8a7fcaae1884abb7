"""What a registered data set is: its names, content hash, source, and the parser that knows it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import pandas as pd

from .own import Domain


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A table and where it comes from.

    frame       the data
    provenance  name, sha256 (of the canonical content), kind ("real", "stand-in", "own"),
                licence, citation, rows, address; never a local path
    reading     of an own file: what the reader decided of each column
    domain      of an own file: what its columns may hold, as far as that was stated
    notes       of an own file: what no epsilon covers, for the report
    record      what one row is, in words
    """

    frame: pd.DataFrame
    provenance: Mapping[str, Any]
    reading: pd.DataFrame | None = None
    domain: Domain = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    record: str = "a row of the file"

    @property
    def title(self) -> str:
        """What is used, in a sentence."""
        kind = f"{self.provenance['kind']} data"
        return f"The table {self.provenance['name']} ({kind}): one record is {self.record}."

    @property
    def counts(self) -> bool:
        """Whether results from it may be held against published numbers: only real data counts."""
        return self.provenance["kind"] == "real"


@dataclass(frozen=True)
class Parsed:
    """Files that were read: their content's hash, what is wrong with it (if anything), the table.

    frame  makes the table; not called before the hash is checked
    """

    sha256: str
    problems: tuple[str, ...]
    frame: Callable[[], pd.DataFrame]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One registered data set.

    name, title  how it is called here and by its authors
    file         the name it is looked for under, and kept under in the cache
    also         other names accepted in PET_LAB_DATA: archives and unpacked folders
    sha256       hash of the canonical content
    rows         rows of the frame
    address      where it is downloaded from
    licence, citation  as its publisher states them
    wanted       whether a file of this base name belongs to the content
    parse        base name -> bytes of the wanted files, parsed; ValueError if they are damaged
    stand_in     file name of the synthetic stand-in in the folder data/, or None
    keep_frame   whether parsing takes so long that the frame is kept in the cache
    record       what one row is, in words
    """

    name: str
    title: str
    file: str
    also: tuple[str, ...]
    sha256: str
    rows: int
    address: str
    licence: str
    citation: str
    wanted: Callable[[str], bool]
    parse: Callable[[Mapping[str, bytes]], Parsed]
    stand_in: str | None = None
    keep_frame: bool = False
    record: str = "a row"

    def dataset(self, frame: pd.DataFrame, kind: str, sha256: str, citation: str = "") -> Dataset:
        """The frame with its provenance."""
        source = {"name": self.name, "licence": self.licence, "address": self.address}
        content = {"sha256": sha256, "kind": kind, "rows": len(frame)}
        provenance = source | content | {"citation": citation or self.citation}
        return Dataset(frame=frame, provenance=MappingProxyType(provenance), record=self.record)
