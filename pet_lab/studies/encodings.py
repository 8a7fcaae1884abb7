"""Printed similarities and false positives beside those of our encodings, and what collisions add.

Definitions: Dice's coefficient of sets of n-grams; Bloom filters as record-level encodings
(Schnell, Bachteler and Reiher 2009, 2011), whose bits are drawn by a keyed hash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pet_lab.checks import distinct, require, whole
from pet_lab.linkage.bloom import LongTermKey, encode
from pet_lab.linkage.filters import dice_pairs
from pet_lab.rows import Claim, Rows, claims, concat, streams

LABELS = {
    "bits": "bits of a filter",
    "encoded_dice": "Dice similarity of the filters",
    "pair": "words",
}
WIDE = 2**20  # bits: a few hundred of them set do not collide
PAIRS = (("french", "quebec"), ("night", "nacht"), ("context", "contact"), ("feris", "ferris"))
SMALL = 1000  # items; of larger filters ten are enough


def check(*, bits: Sequence[int], hashes: int, replicates: int, seed: int) -> None:
    """Refuse what `simulate` cannot use, before its work; ValueError in one sentence."""
    distinct(bits=bits)
    whole(1, hashes=hashes, replicates=replicates, shortest_filter=min(bits))
    whole(0, seed=seed)


def simulate(
    printed: pd.DataFrame, *, bits: Sequence[int], hashes: int, replicates: int, seed: int
) -> pd.DataFrame:
    """Every printed number computed anew, and similarities in filters of several lengths.

    `printed` holds one printed number a row: `metric`, `table` and the conditions of its cell.
    Returns rows (table and conditions, replicate, `part` = "printed"): the metric, a rate of false
    positives exactly and, as false_positive.filters, of filters under a key each; (pair, bits,
    replicate, `part` = "collisions"): `encoded_dice`, a key each, and `true_dice` of the sets.
    """
    parts, collisions = [], Rows(part="collisions")
    for record in printed.to_dict("records"):
        kept = {k: v for k, v in record.items() if k not in ("printed", "text") and pd.notna(v)}
        cell = {str(k): v for k, v in kept.items()}
        metric = cell.pop("metric")
        few = metric == "dice" or cell["items"] > SMALL
        n = 10 if few else replicates
        keys = (np.random.default_rng(stream).bytes(16) for _, stream in streams(seed, n))
        values = [value(metric, cell, key) for key in keys]
        facts = {"part": "printed", **cell, "replicate": range(len(values)), "metric": metric}
        simulated = pd.DataFrame(facts | {"value": values})
        if metric == "false_positive":
            exact = expected(*(int(cell[name]) for name in ("bits", "hashes", "items")))
            parts.append(simulated.head(1).assign(value=exact))
            simulated["metric"] = "false_positive.filters"
        parts.append(simulated)
    for left, right in PAIRS:
        true = dice(left, right, 2, key=bytes(16), bits=WIDE, hashes=hashes)
        for width in bits:
            factors: Any = {"pair": f"{left}, {right}", "bits": width}
            for replicate, stream in streams(seed, min(replicates, 200)):
                key = np.random.default_rng(stream).bytes(16)
                seen = dice(left, right, 2, key=key, bits=width, hashes=hashes)
                metrics = {"encoded_dice": seen, "true_dice": true}
                collisions.add(**factors, replicate=replicate, metrics=metrics)
    return concat(*parts, collisions.frame())


def dice(left: str, right: str, n: int, *, key: bytes, bits: int, hashes: int) -> float:
    """Dice similarity of the long-term keys of two words, n-grams without blanks at the ends."""
    encoding = LongTermKey(key=key, bits=bits, hashes=hashes, q=n, padding=False)
    both = encode(pd.DataFrame({"word": [left, right]}), encoding, fields=["word"])
    return float(dice_pairs(both, both, np.array([0]), np.array([1]))[0])


def value(metric: str, cell: Mapping[str, Any], key: bytes) -> float:
    """One number from the conditions of its cell, by filters under one key.

    A false positive has all its positions, drawn with replacement, among the bits that are set: at
    a share f of them f^hashes, given the filter.

    Raises
    ------
    ValueError
        If the metric is unknown.
    """
    known = ("dice", "false_positive", "false_positive_percent")
    require(metric in known, f"Expected a metric of {', '.join(known)}, got {metric}.")
    if metric == "dice":
        words = cell["left"], cell["right"], int(cell["gram"])
        return dice(*words, key=key, bits=WIDE, hashes=1)
    bits, hashes = int(cell["bits"]), int(cell["hashes"])
    encoding = LongTermKey(key=key, bits=bits, hashes=hashes)
    filled = np.zeros(bits, dtype=bool)
    for item in range(int(cell["items"])):
        filled[encoding.positions(0, 1, str(item), "")] = True
    share = float(filled.mean() ** hashes)
    return 100 * share if metric == "false_positive_percent" else share


def expected(bits: int, hashes: int, items: int) -> float:
    """Mean of that rate over all keys: by the chance of each number of bits that are set."""
    filled = np.arange(bits + 1) / bits
    chance = np.zeros(bits + 1)
    chance[0] = 1.0
    for _ in range(hashes * items):
        chance = chance * filled + np.append(0.0, (chance * (1 - filled))[:-1])
    return float(chance @ filled**hashes)


def takeaways(rows: pd.DataFrame) -> list[Claim]:
    """What these rows say; the first is the headline."""
    part = rows[rows["part"] == "collisions"]
    means = part.groupby(["metric", "pair", "bits"])["value"].mean()
    pair = ", ".join(PAIRS[0])
    strange, bits = means["encoded_dice", pair].sort_index(), sorted(part["bits"].unique())
    near = 1000 if 1000 in bits else bits[len(bits) // 2]
    ratios: dict[Any, float] = {}
    rates = rows[rows["metric"] == "false_positive"]
    for at, mine in rates.groupby(["bits", "hashes", "items"] if len(rates) else ["bits"]):
        m, k, n = np.asarray(at, dtype=float)
        ratios[m, k, n] = mine["value"].mean() / (1 - (1 - 1 / m) ** (k * n)) ** k
    worst = max(ratios, key=ratios.__getitem__, default=(1, 1, 1))
    numbers = {
        "pair": pair, "bits": near, "at": strange[near], "short": bits[0], "at_short": strange.iloc[0],
        "m": worst[0], "k": worst[1], "n": worst[2], "ratio": ratios.get(worst, 1.0),
    }  # fmt: skip
    sentences = [
        ("Two words that share no bigram ({pair}) have similarity {at:.2f} in filters of {bits:,.0f} bits, "
         "{at_short:.2f} in {short:,.0f}: collisions look like agreement.", strange[near] > 0.02),
        ("The usual formula of false positives is too small by a factor of {ratio:.2f} at {m:.0f} bits, "
         "{k:.0f} hashes and {n:.0f} items.", numbers["ratio"] > 1.05,
         "The usual formula of false positives fits (factor {ratio:.2f})."),
    ]  # fmt: skip
    return claims(sentences, **numbers)


def explore(bits: int, hashes: int, seed: int) -> pd.DataFrame:
    """Similarity of word pairs in filters of this length, under one key, and of their bigrams."""
    key = np.random.default_rng(seed).bytes(16)
    encoded = [dice(a, b, 2, key=key, bits=bits, hashes=hashes) for a, b in PAIRS]
    true = [dice(a, b, 2, key=key, bits=WIDE, hashes=1) for a, b in PAIRS]
    words = [f"{a}, {b}" for a, b in PAIRS]
    return pd.DataFrame({"words": words, "of bigrams": true, "of filters": encoded})
