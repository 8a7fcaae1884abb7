"""Printed costs of secure aggregation beside what our rounds send, message by message.

Protocol: pairwise masking with recovery from dropouts (Bonawitz et al. 2017), `federated.masking`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pet_lab.checks import distinct, require, whole
from pet_lab.federated import masking
from pet_lab.rows import Claim, Rows, claims, concat

LABELS = {
    "users": "users",
    "expansion_by": "bits sent and received / bits of the vector",
    "counted": "how it is counted",
}
PAPER, PACKED, WIRE = "keys and shares of 256 bits", "our messages, smallest ring", "our messages"
ITEM_BITS = 256  # of a key, and of a share, in the paper


class RoundCounts(NamedTuple):
    """What one user sends and receives in a round, the sum that comes back not counted."""

    keys: float
    shares: float
    overhead_bytes: float


def one_round(users: int, entries: int = 4) -> RoundCounts:
    """A round of our own protocol in which nobody falls silent, its messages counted."""
    threshold = users // 2 + 1
    offices = {i: masking.MaskingOffice(users, threshold, i) for i in range(1, users + 1)}
    server = masking.MaskingServer(users, threshold, entries)
    for i, office in offices.items():
        server.keys(i, office.advertise())
    wrapped = {i: office.share(server.public) for i, office in offices.items()}
    for i, office in offices.items():
        office.receive({j: sent[i] for j, sent in wrapped.items() if j != i})
    zeros = np.zeros(entries, dtype=np.uint32)
    for i, office in offices.items():
        server.vector(i, office.mask(zeros).astype("<u4").tobytes())
    revealed = offices[1].reveal(server.survivors())
    costs = masking.aggregate([np.zeros(entries)] * users)
    vectors = 2 * 4 * entries  # the own one up, the sum down
    keys = len(server.public[1]) * users  # the own ones up, those of all others down
    pairs = len(wrapped[1]) + sum(1 in sent for sent in wrapped.values())
    overhead = costs.up_bytes + costs.down_bytes - vectors
    return RoundCounts(keys, 2 * pairs + len(revealed), overhead)


def of_many(users: int) -> RoundCounts:
    """`one_round` of any number of users: every count grows by the same with each user."""
    few, more = one_round(3), one_round(7)
    slope = [(b - a) / 4 for a, b in zip(few, more, strict=True)]
    return RoundCounts(*(a + s * (users - 3) for a, s in zip(few, slope, strict=True)))


def expansions(users: int, entries: int, value_bits: int) -> dict[str, float]:
    """Bits of a round per bit of the vector in the clear, by way of counting.

    ValueError if a sum needs more than the 32 bits of our ring.
    """
    whole(3, users=users)
    whole(1, entries=entries, value_bits=value_bits)
    ring = math.ceil(math.log2(users * 2**value_bits))
    require(
        ring <= 32, f"A sum of {users} values of {value_bits} bits needs {ring}, the ring has 32."
    )
    sent, clear = of_many(users), entries * value_bits
    overhead = 8 * sent.overhead_bytes
    return {
        PAPER: (ITEM_BITS * (sent.keys + sent.shares) + entries * ring) / clear,
        PACKED: (overhead + entries * ring) / clear,
        WIRE: (overhead + entries * 32) / clear,
    }


def check(*, users: Sequence[int], entries: int, value_bits: int, seed: int) -> None:
    """Refuse what `simulate` cannot use, before its work; ValueError in one sentence."""
    distinct(users=users)
    whole(2, fewest_users=min(users), most_users=max(users))
    whole(1, entries=entries, value_bits=value_bits)
    whole(0, seed=seed)


def simulate(
    printed: pd.DataFrame, *, users: Sequence[int], entries: int, value_bits: int
) -> pd.DataFrame:
    """Every printed number computed anew, and the same for other numbers of users.

    `printed` holds one printed number a row: `metric` (expansion), `table`, users, entries and
    value_bits. Returns rows (users, entries, value_bits, `part` = "printed"): the metric; (users,
    counted, `part` = "curve"): `expansion_by`; (users, `part` = "round"): keys, shares and
    overhead_bytes of rounds that ran.
    """
    rows, curve, rounds = (Rows(part=part) for part in ("printed", "curve", "round"))
    for record in printed.to_dict("records"):
        known = record["metric"] == "expansion"
        require(known, f"Expected the metric expansion, got {record['metric']}.")
        sizes: Any = {name: int(record[name]) for name in ("users", "entries", "value_bits")}
        metrics = {"expansion": expansions(**sizes)[PAPER]}
        rows.add(table=record["table"], **sizes, metrics=metrics)
    for n in users:
        for counted, ratio in expansions(n, entries, value_bits).items():
            curve.add(users=n, counted=counted, metrics={"expansion_by": ratio})
    for n in (3, 5, 7, 10):
        rounds.add(users=n, metrics=one_round(n)._asdict())
    return concat(rows.frame(), curve.frame(), rounds.frame())


def takeaways(rows: pd.DataFrame) -> list[Claim]:
    """What these rows say; the first is the headline."""
    rounds = rows[rows["part"] == "round"].pivot(index="users", columns="metric", values="value")
    n = rounds.index.to_numpy()
    linear = bool((rounds["keys"] == 2 * n).all() and (rounds["shares"] == 5 * n - 4).all())
    curve = rows[rows["part"] == "curve"].pivot(index="users", columns="counted", values="value")
    last = curve.iloc[-1]
    numbers = {
        "most": int(n.max()), "keys": rounds["keys"].iloc[-1], "shares": rounds["shares"].iloc[-1],
        "users": int(curve.index[-1]), "paper": last[PAPER], "packed": last[PACKED], "wire": last[WIRE],
    }  # fmt: skip
    sentences = [
        ("A user of our rounds handles 2 n keys and 5 n - 4 shares, as the paper counts ({keys:.0f} and "
         "{shares:.0f} of {most}).", linear),
        ("With {users:,} users a round moves {paper:.2f} times the vector by the paper's count, "
         "{packed:.2f} with the bytes of our messages, {wire:.2f} in our ring of 32 bits.",
         last[PAPER] < last[PACKED] <= last[WIRE]),
    ]  # fmt: skip
    return claims(sentences, **numbers)


def explore(log2_users: int, log2_entries: int, value_bits: int) -> pd.DataFrame:
    """Expansion of one round by way of counting."""
    ratios = expansions(2**log2_users, 2**log2_entries, value_bits)
    return pd.DataFrame({"counted as": list(ratios), "expansion": list(ratios.values())})
