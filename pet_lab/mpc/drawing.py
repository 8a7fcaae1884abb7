"""Figures 4.2 and 4.3 of the report, drawn from what the parties really sent; on given axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes

USER, PROCESSOR, BOTH = "#56B4E9", "#E69F00", "#009E73"


def flow(
    messages: pd.DataFrame,
    *,
    inputs: Sequence[str],
    processing: Sequence[str],
    output: str,
    ax: Axes,
) -> Axes:
    """Who sent how much to whom in one task: arrows as wide as the logarithm of their bytes.

    Parameters
    ----------
    messages : DataFrame with sender, receiver, kind, bytes, as a `Result` holds it
    inputs, processing, output : who plays which role; a name may play several
    """
    places = _places(inputs, processing, output)
    pairs = messages.groupby(["sender", "receiver"], as_index=False)["bytes"].sum()
    pairs = pairs[pairs["sender"] != pairs["receiver"]]
    for sender, receiver, size in pairs.itertuples(index=False):
        (x0, y0), (x1, y1) = places[sender], places[receiver]
        ax.annotate(
            "",
            xy=(x1, y1),
            xytext=(x0, y0),
            arrowprops={
                "arrowstyle": "-|>",
                "lw": 0.4 + 0.55 * max(math.log10(size) - 2, 0),
                "color": "#555555",
                "alpha": 0.65,
                "shrinkA": 17,
                "shrinkB": 17,
                "connectionstyle": "arc3,rad=0.12",
            },
        )
    for name, (x, y) in places.items():
        user, processor = name in {*inputs, output}, name in processing
        colour = BOTH if user and processor else USER if user else PROCESSOR
        ax.scatter([x], [y], s=950, color=colour, edgecolor="#222222", zorder=3)
        ax.text(x, y, name, ha="center", va="center", zorder=4, fontsize=8)
    ax.set(xlim=(-0.45, 2.45), ylim=(-0.3, 1.3))
    ax.axis("off")
    return ax


def _places(
    inputs: Sequence[str], processing: Sequence[str], output: str
) -> dict[str, tuple[float, float]]:
    middle = [p for p in processing if p not in {*inputs, output}]
    if not middle:  # users alone: a triangle or ring
        everyone = list(dict.fromkeys([*inputs, output, *processing]))
        turn = 2 * math.pi / len(everyone)
        return {
            n: (
                1 + 0.8 * math.cos(math.pi * 0.83 - i * turn),
                0.45 + 0.6 * math.sin(math.pi * 0.83 - i * turn),
            )
            for i, n in enumerate(everyone)
        }
    columns: list[tuple[float, list[str]]] = [
        (0.0, list(inputs)),
        (1.0, middle),
        (2.0, [] if output in inputs else [output]),
    ]
    made = {}
    for x, names in columns:
        for i, name in enumerate(names):
            made[name] = (x, 1 - (i + 0.5) / len(names))
    return made


def keys(holders: Mapping[str, Sequence[str]], *, axes: Sequence[Axes]) -> None:
    """A safe for each paradigm and who holds a key-share of it (figure 4.3)."""
    from matplotlib.patches import Rectangle

    for ax, (title, names) in zip(axes, holders.items(), strict=True):
        ax.add_patch(Rectangle((0.3, 0.05), 0.4, 0.4, facecolor="#DDDDDD", edgecolor="#222222"))
        ax.text(0.5, 0.25, "data\nlocked", ha="center", va="center", fontsize=8)
        for i, name in enumerate(names):
            x = (i + 0.5) / len(names)
            colour = PROCESSOR if name.startswith("pp") or name == "TTP" else BOTH
            ax.plot([x, 0.5], [0.72, 0.45], color="#555555", lw=1, zorder=1)
            ax.scatter([x], [0.78], s=620, color=colour, edgecolor="#222222", zorder=2)
            ax.text(x, 0.78, name, ha="center", va="center", fontsize=8, zorder=3)
        said = "the only key" if len(names) == 1 else f"{len(names)} of {len(names)} keys needed"
        ax.text(0.5, -0.06, said, ha="center", va="center", fontsize=8)
        ax.set(title=title, xlim=(-0.1, 1.1), ylim=(-0.12, 1))
        ax.axis("off")
