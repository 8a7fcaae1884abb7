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

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd

from pet_lab.checks import require
from pet_lab.files import sha256

from .entry import Entry, Parsed
from .errors import DataError

_SIGNAL = re.compile(r"(acc|gyro)_exp(\d+)_user(\d+)\.txt", re.IGNORECASE)
_OTHERS = ("labels.txt", "activity_labels.txt")


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
        words = " ".join(self.activities).encode(), len(self.activities)
        contents["labels.txt"] = self.labels.astype("<i8").tobytes(), self.labels.size
        contents["activity_labels.txt"] = words
        return {name: (sha256(c), items) for name, (c, items) in sorted(contents.items())}

    @property
    def sha256(self) -> str:
        """SHA-256 of the canonical content, in hexadecimal."""
        lines = (json.dumps([name, *digest]) for name, digest in self.digests.items())
        return sha256("".join(f"{line}\n" for line in lines).encode())

    def frame(self) -> pd.DataFrame:
        """Tidy form: one row per sample.

        ``experiment``, ``user`` (int16), ``sample`` (int32, from 0 within the experiment, 50 a
        second), ``acc_x`` to ``acc_z`` (g), ``gyro_x`` to ``gyro_z`` (rad/s), ``activity`` (int8):
        0 outside every label, 1 to 3 walking, upstairs, downstairs, 4 to 6 sitting, standing,
        lying, 7 to 12 from one posture to another.
        """
        parts = []
        for name in sorted(n for n in self.signals if n.startswith("acc")):
            experiment, user = map(int, re.findall(r"\d+", name))
            acc, gyro = self.signals[name], self.signals[name.replace("acc", "gyro", 1)]
            activity = np.zeros(len(acc), dtype=np.int8)
            for _, _, code, first, last in self.labels[self.labels[:, 0] == experiment]:
                activity[first - 1 : last] = code
            part = pd.DataFrame({"experiment": experiment, "user": user, "sample": range(len(acc))})
            part = part.astype({"experiment": np.int16, "user": np.int16, "sample": np.int32})
            for kind, array in (("acc", acc), ("gyro", gyro)):
                part[[f"{kind}_{axis}" for axis in "xyz"]] = array
            parts.append(part.assign(activity=activity))
        return pd.concat(parts, ignore_index=True)


def read(files: Mapping[str, bytes]) -> Recordings:
    """Parse the raw files, {base name: content}; other names are passed over.

    DataError, which names the file, if ``labels.txt`` or all signals are missing, a signal lacks
    its partner of equal length, or a file does not hold numbers in the expected layout.
    """
    contents = {name.lower(): content for name, content in files.items()}
    signals = {
        name: _numbers(name, content, per_row=3)
        for name, content in contents.items()
        if _SIGNAL.fullmatch(name)
    }
    lacking = [name for name in _OTHERS if name not in contents]
    lacking += [] if signals else ["acc_exp*_user*.txt"]
    parts = f"Expected the raw files of HAPT, found no {' and no '.join(lacking)}."
    require(not lacking, parts, DataError)
    labels = _numbers("labels.txt", contents["labels.txt"], per_row=5).astype(np.int64)
    for name, array in signals.items():
        kind, other = ("acc", "gyro") if name.startswith("acc") else ("gyro", "acc")
        partner = name.replace(kind, other, 1)
        missing = f"Expected {partner} beside {name}, it is missing."
        require(partner in signals, missing, DataError)
        samples, ours = len(signals[partner]), len(array)
        alike = f"Expected as many samples in {partner} as in {name} ({ours}), got {samples}."
        require(samples == ours, alike, DataError)
    activities = contents["activity_labels.txt"].decode("utf-8-sig").split()
    return Recordings(signals=signals, labels=labels, activities=tuple(activities))


def _numbers(name: str, content: bytes, *, per_row: int) -> np.ndarray:
    try:
        text = content.decode("utf-8-sig")
        with warnings.catch_warnings():
            # numpy stops at the first thing that is no number and only warns.
            warnings.simplefilter("error", DeprecationWarning)
            array = np.fromstring(text, sep=" ")
    except (UnicodeDecodeError, DeprecationWarning):
        raise DataError(f"Expected only numbers in {name}, got other characters.") from None
    require(
        array.size and array.size % per_row == 0,
        f"Expected {per_row} numbers a row in {name}, got {array.size} numbers in all; the file is "
        "cut short or damaged.",
        DataError,
    )
    return array.reshape(-1, per_row)


def differences(recordings: Recordings, pinned: Mapping[str, Sequence[Any]]) -> list[str]:
    """Say in what the recordings differ from the pinned ``{name: [sha256, items]}``."""
    here = recordings.digests
    missing = [name for name in pinned if name not in here]
    extra = [name for name in here if name not in pinned]
    sentences = [f"{len(missing)} files missing, the first is {missing[0]}"] if missing else []
    if extra:
        sentences.append(f"{len(extra)} files that do not belong, the first is {extra[0]}")
    changed = [name for name in pinned if name in here and here[name] != tuple(pinned[name])]
    for name in changed[:1]:
        ours, items = here[name][1], pinned[name][1]
        size = "" if ours == items else f" ({ours} items instead of {items})"
        sentences.append(f"{name} differs{size}")
    return sentences


def _parse(files: Mapping[str, bytes]) -> Parsed:
    recordings = read(files)
    pins = (resources.files("pet_lab.data") / "pins" / "hapt.json").read_text("utf-8")
    problems = differences(recordings, json.loads(pins)["files"])
    return Parsed(recordings.sha256, tuple(problems), recordings.frame)


ENTRY = Entry(
    name="hapt",
    title="UCI HAPT (smartphone activities and postural transitions), raw signals",
    file="hapt_raw.zip",
    also=(
        "HAPT Data Set.zip",
        "smartphone+based+recognition+of+human+activities+and+postural+transitions.zip",
        "HAPT Data Set",
    ),
    sha256="884c1fc38c0ab5fb260df949ba36ad3b76be6a98bf5857962b1e1a245d20a8f5",
    rows=1122772,
    address="https://archive.ics.uci.edu/static/public/341/"
    "smartphone+based+recognition+of+human+activities+and+postural+transitions.zip",
    licence="CC BY 4.0",
    citation="J. Reyes-Ortiz, D. Anguita, L. Oneto, X. Parra (2015). Smartphone-Based "
    "Recognition of Human Activities and Postural Transitions. UCI Machine Learning Repository. "
    "https://doi.org/10.24432/C54G7M",
    wanted=lambda name: name.lower() in _OTHERS or _SIGNAL.fullmatch(name) is not None,
    parse=_parse,
    keep_frame=True,
)
"""61 recordings of 30 people."""
