"""A picture of the messages of a session: who sent what to whom, in order, and how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .protocol import Transcript

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WORDS = {
    "hello": "greeting: names, sizes, key shares",
    "blinded": "own elements, blinded, shuffled",
    "twice_blinded": "the other's elements, blinded again",
    "signed": "blind signatures",
    "tags": "tags of own elements, shuffled",
    "matched": "tags found",
    "blob": "public key or opaque blob",
    "plain": "every key in clear",
    "attributes": "columns of the intersection",
    "tokens": "tokens of the intersection",
    "answer": "checked answer",
}


def draw(
    transcript: Transcript,
    *,
    parties: Sequence[str],
    ax: Axes,
    more: Sequence[tuple[str, str, str, int]] = (),
) -> Axes:
    """Arrows between life lines, from top to bottom in order of sending.

    Parameters
    ----------
    parties : names from left to right
    more : further arrows (sender, receiver, kind, bytes) that were not part of the session
    """
    arrows: list[tuple[str, str, str, int]] = []
    for m in transcript:
        if m.kind in ("end", "abort"):
            continue
        if arrows and arrows[-1][:3] == (m.sender, m.receiver, m.kind):
            arrows[-1] = (*arrows[-1][:3], arrows[-1][3] + m.size_bytes)
        else:
            arrows.append((m.sender, m.receiver, m.kind, m.size_bytes))
    arrows += list(more)
    place: Mapping[str, int] = {name: i for i, name in enumerate(parties)}
    for name, x in place.items():
        ax.plot([x, x], [0.3, -len(arrows) - 0.2], color="0.8", lw=1, zorder=0)
        ax.text(x, 0.45, name, ha="center", va="bottom", fontweight="bold")
    for i, (sender, receiver, kind, size) in enumerate(arrows):
        a, b, y = place[sender], place[receiver], -i - 0.6
        style = {"arrowstyle": "-|>", "color": "0.25", "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", xy=(b, y), xytext=(a, y), arrowprops=style)
        text = f"{WORDS.get(kind, kind)}, {readable(size)}"
        ax.text((a + b) / 2, y + 0.08, text, ha="center", va="bottom", fontsize=8)
    ax.set(xlim=(-0.4, len(parties) - 0.6), ylim=(-len(arrows) - 0.4, 1.0))
    ax.set_axis_off()
    return ax


def readable(size: int) -> str:
    """A number of bytes for people: 640 B, 12 KiB, 3.1 MiB."""
    if size < 1024:
        return f"{size} B"
    if size < 1 << 20:
        return f"{size / 1024:.0f} KiB"
    return f"{size / (1 << 20):.1f} MiB"
