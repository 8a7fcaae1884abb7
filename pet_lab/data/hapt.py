"""UCI HAPT: raw accelerometer and gyroscope signals of a phone at the waist, 50 samples a second.

The canonical content (version 1)
---------------------------------
The files ``acc_expNN_userNN.txt`` and ``gyro_expNN_userNN.txt``, ``labels.txt`` and
``activity_labels.txt``, by base name in lower case and sorted by it; nothing else in the archive
counts. A signal file is its numbers as little-endian IEEE doubles in reading order, three per
sample; ``labels.txt`` its integers, five per row; ``activity_labels.txt`` its words joined by
single blanks. The hash is the SHA-256 over, for each file, one line of JSON
``[name, SHA-256 of that content, number of items]``.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import DataError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ACTIVITIES", "RATE_HZ", "Recordings", "parse", "wanted"]

RATE_HZ = 50
"""Samples per second."""

ACTIVITIES = MappingProxyType(
    {
        0: "UNLABELLED",
        1: "WALKING",
        2: "WALKING_UPSTAIRS",
        3: "WALKING_DOWNSTAIRS",
        4: "SITTING",
        5: "STANDING",
        6: "LAYING",
        7: "STAND_TO_SIT",
        8: "SIT_TO_STAND",
        9: "SIT_TO_LIE",
        10: "LIE_TO_SIT",
        11: "STAND_TO_LIE",
        12: "LIE_TO_STAND",
    }
)
"""Names of the codes in the column ``activity``; 0 is ours, for samples outside every label."""

_SIGNAL = re.compile(r"(acc|gyro)_exp(\d+)_user(\d+)\.txt", re.IGNORECASE)
_OTHERS = ("labels.txt", "activity_labels.txt")


def wanted(name: str) -> bool:
    """Whether a base name belongs to the canonical content."""
    return name.lower() in _OTHERS or _SIGNAL.fullmatch(name) is not None


@dataclass(frozen=True, kw_only=True)
class Recordings:
    """The raw files, parsed.

    signals     base name -> array (samples, 3): acceleration in g, angular velocity in rad/s
    labels      array (rows, 5): experiment, user, activity, first and last sample, counted from 1
    activities  words of activity_labels.txt
    """

    signals: dict[str, np.ndarray]
    labels: np.ndarray
    activities: tuple[str, ...]

    @cached_property
    def digests(self) -> dict[str, tuple[str, int]]:
        """Base name -> (SHA-256 of the canonical content, number of items), sorted by name."""
        contents: dict[str, tuple[bytes, int]] = {
            name: ((array + 0.0).astype("<f8").tobytes(), array.size)
            for name, array in self.signals.items()
        }
        contents["labels.txt"] = (self.labels.astype("<i8").tobytes(), self.labels.size)
        contents["activity_labels.txt"] = (
            " ".join(self.activities).encode(),
            len(self.activities),
        )
        return {
            name: (hashlib.sha256(content).hexdigest(), items)
            for name, (content, items) in sorted(contents.items())
        }

    @property
    def sha256(self) -> str:
        """SHA-256 of the canonical content, in hexadecimal."""
        digest = hashlib.sha256()
        for name, (content, items) in self.digests.items():
            digest.update((json.dumps([name, content, items]) + "\n").encode())
        return digest.hexdigest()

    def frame(self) -> pd.DataFrame:
        """Tidy form: one row per sample.

        Returns
        -------
        DataFrame with the columns ``experiment``, ``user`` (int16), ``sample`` (int32, from 0
        within the experiment; divide by `RATE_HZ` for seconds), ``acc_x`` to ``acc_z`` (g),
        ``gyro_x`` to ``gyro_z`` (rad/s), ``activity`` (int8, see `ACTIVITIES`).
        """
        import pandas as pd

        parts = []
        for name in sorted(self.signals):
            match = _SIGNAL.fullmatch(name)
            if match is None or match[1] != "acc":
                continue
            experiment, user = int(match[2]), int(match[3])
            acc, gyro = self.signals[name], self.signals[name.replace("acc", "gyro", 1)]
            activity = np.zeros(len(acc), dtype=np.int8)
            for _, _, code, first, last in self.labels[self.labels[:, 0] == experiment]:
                activity[first - 1 : last] = code
            part: dict[str, Any] = {
                "experiment": np.full(len(acc), experiment, dtype=np.int16),
                "user": np.full(len(acc), user, dtype=np.int16),
                "sample": np.arange(len(acc), dtype=np.int32),
            }
            for kind, array in (("acc", acc), ("gyro", gyro)):
                part |= {f"{kind}_{axis}": array[:, j] for j, axis in enumerate("xyz")}
            parts.append(pd.DataFrame(part | {"activity": activity}))
        return pd.concat(parts, ignore_index=True)


def parse(files: Iterable[tuple[str, bytes]]) -> Recordings:
    """Parse ``(base name, content)`` pairs of the raw files; other names are passed over.

    Raises
    ------
    DataError
        If ``labels.txt`` or all signals are missing, a signal lacks its partner of equal length,
        or a file does not hold numbers in the expected layout. The message names the file.
    """
    signals: dict[str, np.ndarray] = {}
    labels = np.empty((0, 5), dtype=np.int64)
    activities: tuple[str, ...] = ()
    for original, content in files:
        name = original.lower()
        if _SIGNAL.fullmatch(name):
            signals[name] = _numbers(name, content, per_row=3)
        elif name == "labels.txt":
            labels = _numbers(name, content, per_row=5).astype(np.int64)
        elif name == "activity_labels.txt":
            activities = tuple(content.decode("utf-8-sig").split())
    if not signals or not labels.size or not activities:
        lacking = [
            what
            for what, there in (
                ("acc_exp*_user*.txt", bool(signals)),
                ("labels.txt", bool(labels.size)),
                ("activity_labels.txt", bool(activities)),
            )
            if not there
        ]
        raise DataError(f"Expected the raw files of HAPT, found no {' and no '.join(lacking)}.")
    for name, array in signals.items():
        kind = "acc" if name.startswith("acc") else "gyro"
        partner = name.replace(kind, "gyro" if kind == "acc" else "acc", 1)
        if partner not in signals:
            raise DataError(f"Expected {partner} beside {name}, it is missing.")
        if len(signals[partner]) != len(array):
            raise DataError(
                f"Expected as many samples in {partner} as in {name} ({len(array)}), "
                f"got {len(signals[partner])}."
            )
    return Recordings(signals=signals, labels=labels, activities=activities)


def _numbers(name: str, content: bytes, *, per_row: int) -> np.ndarray:
    try:
        text = content.decode("utf-8-sig")
        with warnings.catch_warnings():
            # numpy stops at the first thing that is no number and only warns.
            warnings.simplefilter("error", DeprecationWarning)
            array = np.fromstring(text, sep=" ")
    except (UnicodeDecodeError, DeprecationWarning):
        raise DataError(f"Expected only numbers in {name}, got other characters.") from None
    if array.size == 0 or array.size % per_row:
        raise DataError(
            f"Expected {per_row} numbers a row in {name}, got {array.size} numbers in all; "
            "the file is cut short or damaged."
        )
    return array.reshape(-1, per_row)


def differences(got: Recordings, want: dict[str, list[Any]]) -> list[str]:
    """Say in what the recordings differ from the pinned ``{name: [sha256, items]}``."""
    found = []
    here = got.digests
    missing = [name for name in want if name not in here]
    extra = [name for name in here if name not in want]
    if missing:
        found.append(f"{len(missing)} files missing, the first is {missing[0]}")
    if extra:
        found.append(f"{len(extra)} files that do not belong, the first is {extra[0]}")
    for name, (digest, items) in want.items():
        if name in here and here[name] != (digest, items):
            size = "" if here[name][1] == items else f" ({here[name][1]} items instead of {items})"
            found.append(f"{name} differs{size}")
            break
    return found
