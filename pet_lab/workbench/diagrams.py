"""Pictures of parties: messages in order, who sends how much to whom, who holds which share.

Each takes tidy frames and draws; see `plots` for style and for showing.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from . import plots

GREY, DARK = "#555555", "#222222"
ROLES = ("#56B4E9", "#E69F00", "#009E73")


def sequence(messages: pd.DataFrame, *, parties: Sequence[str], caption: str, alt: str) -> None:
    """Arrows between life lines, from top to bottom in order of sending.

    `messages` has sender, receiver, kind and bytes; runs of messages of one kind between the same
    two of the `parties`, named from left to right, become one arrow.
    """
    fig, axes = plots.figure(height=0.6 + 0.32 * max(len(messages), 4))
    ends = messages[["sender", "receiver", "kind"]]
    runs = (ends.shift() != ends).any(axis=1).cumsum()
    arrows = messages.groupby(runs).agg(
        {"sender": "first", "receiver": "first", "kind": "first", "bytes": "sum"}
    )
    place = {name: i for i, name in enumerate(parties)}
    for name, x in place.items():
        axes.plot([x, x], [0.3, -len(arrows) - 0.2], color="0.8", lw=1, zorder=0)
        axes.text(x, 0.45, name, ha="center", va="bottom", fontweight="bold")
    style = {"arrowstyle": "-|>", "color": "0.25", "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
    for i, (sender, receiver, kind, size) in enumerate(arrows.itertuples(index=False)):
        a, b, y = place[sender], place[receiver], -i - 0.6
        axes.annotate("", xy=(b, y), xytext=(a, y), arrowprops=style)
        text = f"{kind}, {readable_bytes(size)}"
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # a long text crosses lines
        look: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 8, "bbox": paper}
        axes.text((a + b) / 2, y + 0.08, text, **look)
    axes.set(xlim=(-0.4, len(parties) - 0.6), ylim=(-len(arrows) - 0.4, 1.0))
    axes.set_axis_off()
    plots.show(fig, caption=caption, alt=alt)


def flow(
    messages: pd.DataFrame,
    *,
    columns: Sequence[Sequence[str]],
    roles: Mapping[str, str],
    ax: Axes,
    title: str = "",
) -> None:
    """Who sent how much to whom: arrows as wide as the logarithm of their bytes.

    `messages` has sender, receiver and bytes; `columns` are names from left to right, a single
    column is drawn as a ring; `roles` says of each name what it is, with one colour each.
    """
    if len(columns) == 1:
        n = len(columns[0])
        angles = [math.pi * 0.83 - i * (2 * math.pi / n) for i in range(n)]
        points = [(1 + 0.8 * math.cos(a), 0.45 + 0.6 * math.sin(a)) for a in angles]
        places = dict(zip(columns[0], points, strict=True))
    else:
        step = 2 / (len(columns) - 1)
        places = {
            name: (step * column, 1 - (i + 0.5) / len(names))
            for column, names in enumerate(columns)
            for i, name in enumerate(names)
        }
    pairs = messages.groupby(["sender", "receiver"], as_index=False)["bytes"].sum()
    pairs = pairs[pairs["sender"] != pairs["receiver"]]
    style = {"arrowstyle": "-|>", "color": GREY, "alpha": 0.65, "shrinkA": 17, "shrinkB": 17}
    style["connectionstyle"] = "arc3,rad=0.12"
    for sender, receiver, size in pairs.itertuples(index=False):
        arrow = style | {"lw": 0.4 + 0.55 * max(math.log10(max(size, 1)) - 2, 0)}
        ax.annotate("", xy=places[receiver], xytext=places[sender], arrowprops=arrow)
    colours = dict(zip(dict.fromkeys(roles.values()), ROLES, strict=False))
    for name, (x, y) in places.items():
        _party(ax, x, y, name, colours[roles[name]])
    handles = [
        ax.scatter([], [], s=60, color=c, edgecolor=DARK, label=r) for r, c in colours.items()
    ]
    ax.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=8)
    ax.set(xlim=(-0.45, 2.45), ylim=(-0.45, 1.3), title=title)
    ax.set_axis_off()


def key_holders(holders: Mapping[str, Sequence[str]], *, caption: str, alt: str) -> None:
    """One safe of locked data for each entry, and the parties that hold a share of its key."""
    fig, axes = plots.figure(1, len(holders), width=3 * len(holders), height=2.6, squeeze=False)
    for ax, (title, names) in zip(axes.ravel(), holders.items(), strict=True):
        ax.add_patch(Rectangle((0.3, 0.05), 0.4, 0.4, facecolor="#DDDDDD", edgecolor=DARK))
        ax.text(0.5, 0.25, "data\nlocked", ha="center", va="center", fontsize=8)
        for i, name in enumerate(names):
            x = (i + 0.5) / len(names)
            ax.plot([x, 0.5], [0.72, 0.45], color=GREY, lw=1, zorder=1)
            _party(ax, x, 0.78, name, ROLES[1], size=620)
        needed = "the only key" if len(names) == 1 else f"{len(names)} of {len(names)} keys needed"
        ax.text(0.5, -0.06, needed, ha="center", va="center", fontsize=8)
        ax.set(title=title, xlim=(-0.1, 1.1), ylim=(-0.12, 1))
        ax.axis("off")
    plots.show(fig, caption=caption, alt=alt)


def _party(ax: Axes, x: float, y: float, name: str, colour: str, *, size: float = 950) -> None:
    ax.scatter([x], [y], s=size, color=colour, edgecolor=DARK, zorder=3)
    ax.text(x, y, name, ha="center", va="center", zorder=4, fontsize=8)


def readable_bytes(size: float) -> str:
    """A number of bytes for people.

    >>> readable_bytes(640), readable_bytes(12_300), readable_bytes(3_250_000)
    ('640 B', '12 KiB', '3.1 MiB')
    """
    if size < 1024:
        return f"{size:.0f} B"
    return f"{size / 1024:.0f} KiB" if size < 1 << 20 else f"{size / (1 << 20):.1f} MiB"
