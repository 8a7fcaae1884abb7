"""Windows and features of motion signals: 2.56 s with half overlap, 147 numbers each.

After D. Anguita et al., "A public domain dataset for human activity recognition using smartphones"
(ESANN 2013): noise filter, gravity taken apart from body motion at 0.3 Hz, derivatives, magnitudes,
statistics in time and frequency. Fewer numbers than their 561, by the same means.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pet_lab.checks import require
from pet_lab.files import sha256

if TYPE_CHECKING:
    import pandas as pd

CLASSES = ("WALKING", "WALKING_UPSTAIRS", "WALKING_DOWNSTAIRS", "SITTING", "STANDING", "LAYING")
"""The six classes of the report; the transitions between postures are left out."""

TEST_USERS = (2, 4, 9, 10, 12, 13, 18, 20, 24)
"""The people that the literature on these recordings keeps for testing."""

RATE_HZ, LENGTH, HOP = 50, 128, 64
_SIGNALS = (
    *(f"{kind}_{axis}" for kind in ("body", "gravity", "jerk", "gyro", "spin") for axis in "xyz"),
    *("body_size", "jerk_size", "gyro_size", "spin_size"),
)
_STATISTICS = ("mean", "sd", "mad", "min", "max")
_SPECTRA = (*(f"{kind}_{a}" for kind in ("body", "gyro") for a in "xyz"), "body_size", "gyro_size")
_FREQUENCY = ("peak_hz", "mean_hz", "entropy", "low_share", "log_power")
_PAIRS = tuple(
    (f"{s}_{a}", f"{s}_{b}")
    for s in ("body", "jerk", "gyro", "spin")
    for a, b in ("xy", "xz", "yz")
)
_CHANNELS = [f"{kind}_{axis}" for kind in ("acc", "gyro") for axis in "xyz"]
FEATURES: tuple[str, ...] = (
    *(f"{s}_{t}" for s in _SIGNALS for t in _STATISTICS),
    *(f"{s}_{f}" for s in _SPECTRA for f in _FREQUENCY),
    *(f"{a}_{b}_correlation" for a, b in _PAIRS),
)
"""Names of the columns of `Windows.X`."""


@dataclass(frozen=True, kw_only=True)
class Windows:
    """One row per window, or per record of another table.

    X      float64, shape (n, 147): `FEATURES` in their own units (g, rad/s, Hz, ...)
    y      int, shape (n,): index into `classes`
    users  int, shape (n,): the person
    stretches  int, shape (n,): the stretch of one activity; only windows of one share samples
    classes    what is told apart
    tests      bool, shape (n,): kept for testing; by default the windows of `TEST_USERS`
    holders    who holds each row, index into `names`, where that is given
    stated     float64, shape (2, features): least and largest value of each, where that is public
    """

    X: NDArray[np.float64]
    y: NDArray[np.int64]
    users: NDArray[np.int64]
    stretches: NDArray[np.int64]
    classes: tuple[str, ...] = CLASSES
    tests: NDArray[np.bool_] | None = None
    holders: NDArray[np.int64] | None = None
    names: tuple[str, ...] = ()
    stated: NDArray[np.float64] | None = None

    @property
    def testing(self) -> NDArray[np.bool_]:
        """Which rows are kept for testing, shape (n,)."""
        return np.isin(self.users, TEST_USERS) if self.tests is None else self.tests

    @property
    def size(self) -> int:
        """Windows."""
        return int(self.y.size)


def windows(frame: pd.DataFrame) -> Windows:
    """Cut labelled recordings into windows of 128 samples and describe each.

    `frame` has one row per sample at 50 Hz, in order of time within an experiment: `experiment`,
    `user`, `acc_x` to `acc_z` (g), `gyro_x` to `gyro_z` (rad/s), `activity` (1 to 6 as in
    `CLASSES`, anything else is left out). A new window starts every 64 samples, each within one
    stretch of one activity. ValueError if a column is missing, a number is not finite, or no
    stretch is long enough.
    """
    for name in ("experiment", "user", *_CHANNELS, "activity"):
        listed = ", ".join(map(str, frame.columns[:12]))
        column = f"Expected one row per sample with the column {name!r}; columns are {listed}."
        require(name in frame, column)
    finite = np.isfinite(frame[_CHANNELS].to_numpy()).all()
    require(finite, "Signals must be finite numbers; drop or fill the gaps first.")
    parts = []
    for number, (_, recording) in enumerate(frame.groupby("experiment", sort=True)):
        activity, users = recording[["activity", "user"]].to_numpy(np.int64).T
        starts = list(_starts(activity))
        if starts:
            signals = _signals(recording[_CHANNELS].to_numpy(np.float64))
            x = _features(np.stack([signals[at : at + LENGTH] for at in starts]))
            stretches = number * len(frame) + np.cumsum(np.diff(activity, prepend=0) != 0)
            parts.append((x, activity[starts] - 1, users[starts], stretches[starts]))
    require(parts, f"No stretch of one activity lasts {LENGTH} samples (2.56 s).")
    x, y, people, begun = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Windows(X=x, y=y, users=people, stretches=begun)


def _starts(activity: NDArray) -> Iterator[int]:
    edges = np.flatnonzero(np.diff(activity)) + 1
    for first, last in zip([0, *edges], [*edges, len(activity)], strict=True):
        if 1 <= activity[first] <= len(CLASSES):
            yield from range(int(first), int(last) - LENGTH + 1, HOP)


def _signals(raw: NDArray[np.float64]) -> NDArray[np.float64]:
    """The 19 signals of a recording: shape (samples, 19), in the order of `_SIGNALS`."""
    from scipy import signal

    clean = signal.medfilt(raw, (3, 1))
    clean = signal.sosfiltfilt(signal.butter(3, 20, fs=RATE_HZ, output="sos"), clean, axis=0)
    acc, gyro = clean[:, :3], clean[:, 3:]
    gravity = signal.sosfiltfilt(signal.butter(3, 0.3, fs=RATE_HZ, output="sos"), acc, axis=0)
    body = acc - gravity
    jerk, spin = (np.gradient(s, 1 / RATE_HZ, axis=0) for s in (body, gyro))
    sizes = [np.linalg.norm(s, axis=1, keepdims=True) for s in (body, jerk, gyro, spin)]
    return np.concatenate([body, gravity, jerk, gyro, spin, *sizes], axis=1)


def _features(cut: NDArray[np.float64]) -> NDArray[np.float64]:
    """Describe windows (n, 128, 19) by (n, 147) numbers."""
    middle = np.median(cut, axis=1, keepdims=True)
    spread = np.median(np.abs(cut - middle), axis=1)
    time = [cut.mean(axis=1), cut.std(axis=1), spread, cut.min(axis=1), cut.max(axis=1)]
    chosen = cut[:, :, [_SIGNALS.index(s) for s in _SPECTRA]]
    power = np.abs(np.fft.rfft(chosen - chosen.mean(axis=1, keepdims=True), axis=1)[:, 1:]) ** 2
    hz = np.fft.rfftfreq(LENGTH, 1 / RATE_HZ)[1:, None]
    total = power.sum(axis=1) + 1e-12  # a phone on a table has no power, and no spectrum either
    share = power / total[:, None]
    frequency = [
        hz[np.argmax(power, axis=1), 0],
        (share * hz).sum(axis=1),
        -(share * np.log(share + 1e-12)).sum(axis=1),
        (share * (hz <= 3)).sum(axis=1),
        np.log(total),
    ]
    centred = cut - cut.mean(axis=1, keepdims=True)
    scale = np.sqrt((centred**2).sum(axis=1)) + 1e-12
    correlations = [
        (centred[:, :, i] * centred[:, :, j]).sum(axis=1) / (scale[:, i] * scale[:, j])
        for i, j in ((_SIGNALS.index(a), _SIGNALS.index(b)) for a, b in _PAIRS)
    ]
    by_signal = [np.stack(kind, axis=2).reshape(len(cut), -1) for kind in (time, frequency)]
    return np.concatenate([*by_signal, np.stack(correlations, axis=1)], axis=1)


def stand_in(
    rng: np.random.Generator, *, people: int = 30, seconds: float = 20.0
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Generated recordings as `windows` takes them, where the real ones are not at hand.

    Walks are sums of harmonics of a step frequency, postures a direction of gravity with tremor;
    people differ in frequency, strength and how they wear the phone. Good for trying the program
    out; numbers got from it say nothing about people. `seconds` is of each activity and person.
    Returns the frame and its provenance (kind "generated").
    """
    import pandas as pd

    least = LENGTH / RATE_HZ
    sentence = f"Expected people >= 1 and at least {least} s, got {people} and {seconds}."
    require(people >= 1 and seconds * RATE_HZ >= LENGTH, sentence)
    samples = int(seconds * RATE_HZ)
    time = np.arange(samples) / RATE_HZ
    walks = {1: (1.9, 0.25, 0.0), 2: (1.6, 0.22, 0.15), 3: (2.1, 0.38, -0.15)}
    postures = {4: (0.93, 0.05, 0.35), 5: (1.0, -0.1, 0.05), 6: (0.05, 0.95, 0.3)}
    blocks = []
    for user in range(1, people + 1):
        pace, strength = rng.normal(1, 0.08), rng.lognormal(0, 0.2)
        worn = rng.normal(0, 0.06, 3)
        for code in range(1, 7):
            signals = np.zeros((samples, 6))
            if code in walks:
                hz, size, lean = walks[code]
                down = np.array([1.0, -0.15 + lean, 0.1]) + worn
                hz, size = hz * pace * rng.normal(1, 0.03), size * strength
                for channel in range(6):
                    gain = rng.lognormal(0, 0.25) * (size if channel < 3 else 3 * size)
                    signals[:, channel] = sum(
                        gain / k * np.sin(2 * np.pi * k * hz * time + rng.uniform(0, 2 * np.pi))
                        for k in (1, 2, 3)
                    )
                noise = 0.12
            else:
                down, noise = np.array(postures[code]) + 2.2 * worn, 0.02
            signals[:, :3] += down
            signals += rng.normal(0, noise, signals.shape)
            block = pd.DataFrame(signals, columns=_CHANNELS)
            blocks.append(block.assign(experiment=user, user=user, activity=code))
    frame = pd.concat(blocks, ignore_index=True)
    frame = frame.astype({"experiment": np.int16, "user": np.int16, "activity": np.int8})
    raw = np.round(frame.to_numpy(np.float64), 9).tobytes()
    provenance = {
        "name": "hapt_generated",
        "sha256": sha256(raw),
        "kind": "generated",
        "licence": "Apache-2.0",
        "citation": "Generated by pet_lab.federated.stand_in; no person's data.",
    }
    return frame, provenance
