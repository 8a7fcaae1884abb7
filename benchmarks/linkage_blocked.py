"""Blocked linkage at scale: ours against anonlink's blocked search on the same filters; CPU time.

    python benchmarks/linkage_blocked.py                 # 100,000 x 100,000 records
    python benchmarks/linkage_blocked.py --million       # and 1,000,000 x 1,000,000, ours alone
    python benchmarks/linkage_blocked.py --splink        # and Splink on 20,000 x 20,000

Two figures of ours: encoding both files plus blocking plus linking, and linking alone, which is
what anonlink's `find_candidate_pairs` does with filters that are already there. The published R
program compares every pair in two nested loops; its cost is measured only where its results are
given by path (`--published-seconds FILE`, a text file with one number), and is not in the ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from pet_lab import linkage
from pet_lab.linkage.filters import dice_kernel
from pet_lab.psi.commands import peak_mib
from pet_lab.studies.linkage_simulation import chunk_study

T = TypeVar("T")


def cpu_of(work: Callable[[], T]) -> tuple[float, T]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def ours(trade: linkage.TradeDeclarations) -> tuple[float, float, linkage.Links]:
    """CPU seconds of everything and of linking alone, and the links."""
    encoding = linkage.PprlCompat()
    encoding_s, filters = cpu_of(
        lambda: [linkage.encode(f, encoding) for f in (trade.exports, trade.imports)]
    )
    blocking_s, blocks = cpu_of(
        lambda: linkage.block(trade.exports, trade.imports, ["exporter_id", "hs6"])
    )
    linking_s, links = cpu_of(lambda: linkage.link(*filters, blocks, threshold=0.8))
    return encoding_s + blocking_s + linking_s, blocking_s + linking_s, links


def anonlinks(trade: linkage.TradeDeclarations) -> tuple[float, int]:
    """CPU seconds of anonlink's blocked search, filters ready as bitarrays, and its pairs."""
    warnings.simplefilter("ignore")
    import anonlink
    from bitarray import bitarray

    encoding = linkage.PprlCompat()
    data = []
    for frame in (trade.exports, trade.imports):
        words = linkage.encode(frame, encoding).words
        rows = []
        for row in words.view(np.uint8):
            one = bitarray(endian="little")
            one.frombytes(row.tobytes())
            rows.append(one)
        data.append(rows)
    keys = [
        list(zip(f["exporter_id"].tolist(), f["hs6"].tolist(), strict=True))
        for f in (trade.exports, trade.imports)
    ]
    seconds, pairs = cpu_of(
        lambda: anonlink.candidate_generation.find_candidate_pairs(
            data,
            anonlink.similarities.dice_coefficient_accelerated,
            0.8,
            blocking_f=lambda i, j, _: (keys[i][j],),
        )
    )
    return seconds, len(pairs[0])


def line(claim: str, ours_s: float, peer: str, peer_s: float, goal: float) -> None:
    ratio = peer_s / ours_s
    result = {
        "claim": claim,
        "ours_cpu_s": round(ours_s, 4),
        "peer": peer,
        "peer_cpu_s": round(peer_s, 4),
        "ratio": round(ratio, 3),
        "goal": goal,
        "holds": bool(ratio >= goal),
    }
    print(json.dumps(result), flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--repetitions", type=int, default=3)
    options.add_argument("--million", action="store_true")
    options.add_argument("--splink", action="store_true")
    options.add_argument("--published-seconds", type=Path)
    given = options.parse_args()

    trade = linkage.trade_declarations(rng=np.random.default_rng(1))
    dice_kernel()  # the import of anonlink is not what is measured
    whole, alone, theirs = [], [], []
    for _ in range(given.repetitions):
        total_s, link_s, links = ours(trade)
        peer_s, pairs = anonlinks(trade)
        if pairs != len(links):
            raise SystemExit(f"anonlink found {pairs} pairs, ours {len(links)}: not the same work.")
        whole.append(total_s)
        alone.append(link_s)
        theirs.append(peer_s)
    if given.splink:
        small = linkage.trade_declarations(20_000, rng=np.random.default_rng(1))
        splink_s, _ = cpu_of(lambda: linkage.splink_links(small.exports, small.imports))
        line(
            "20,000 x 20,000 Bloom filters, encoded and linked, against a Splink model",
            ours(small)[0],
            "Splink, fit and predict",
            splink_s,
            1.0,
        )
    for name, dices in {"exact": [None], "Bloom, two thresholds": [0.9, 0.8]}.items():
        each = []
        for s in range(given.repetitions + 1):
            seed = np.random.SeedSequence(s)
            work = partial(chunk_study, dices=dices, repetitions=100, seed=seed, stratified=[True])
            each.append(cpu_of(work)[0])
        each = each[1:]  # the first warms up
        print(f"100 repetitions of 100 records, {name}: {statistics.median(each) * 1e3:.0f} ms CPU")
    if given.published_seconds:
        print(f"published R program, as given: {given.published_seconds.read_text().strip()} s")
    if given.million:
        big = linkage.trade_declarations(1_000_000, rng=np.random.default_rng(1))
        before = peak_mib()
        total_s, link_s, links = ours(big)
        peak = peak_mib()
        print(
            f"1 M x 1 M: {links.blocks.n_pairs:,} pairs compared, {len(links):,} links, "
            f"{total_s:.2f} CPU s with encoding, {link_s:.2f} linking alone; memory at most "
            f"{peak:.0f} MiB, {before:.0f} before"
        )
    print(f"100,000 x 100,000 encoded, blocked and linked: {statistics.median(whole):.2f} CPU s")
    line(
        "100,000 x 100,000 blocked Bloom linkage, filters given, same pairs found",
        statistics.median(alone),
        "anonlink, find_candidate_pairs",
        statistics.median(theirs),
        3.0,
    )


if __name__ == "__main__":
    main()
