"""Set intersection: ours, the peer library and the arithmetic floor in one run; CPU seconds.

    python benchmarks/psi_engines.py                          # 100,000 keys a side: 5 CPU minutes
    python benchmarks/psi_engines.py --n 10000 --rsa-n 2000   # a quick look

Every figure is CPU time of this process (all threads, both parties) on distinct keys of which half
are common, medians over repetitions in alternating order. The floor is the exponentiations alone:
four a pair of elements for ECDH (ten with proofs), two private operations for RSA, timed on this
machine between the repetitions. Proofs and RSA are timed on fewer keys. The published program is
not run: its line is a cost model, timed on a few elements.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import time
from collections.abc import Callable

import gmpy2
import numpy as np
import pandas as pd
from cryptography.hazmat.primitives.asymmetric import rsa
from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base

from pet_lab import psi
from pet_lab.psi import end_to_end, ristretto
from pet_lab.psi.ecdh_proved import EcdhProvedEngine
from pet_lab.psi.openmined import OpenMinedEngine
from pet_lab.psi.rsa_blind import RsaEngine
from pet_lab.psi.rsa_raw import RsaPrivateKey, backends


def parties(n: int) -> tuple[psi.DataHolder, psi.DataHolder]:
    """Two files of n keys, half of them common, with a column each to group by."""
    rng = np.random.default_rng(1)
    ids = [f"{i:08d}-{i % 97:02d}" for i in range(n + n // 2)]
    left = pd.DataFrame({"id": ids[:n], "pref": rng.choice(["100", "300"], n)})
    right = pd.DataFrame({"id": ids[n // 2 :][:n], "size": rng.choice(["small", "large"], n)})
    return psi.DataHolder("statcan", left), psi.DataHolder("cbs", right)


def cpu_of(work: Callable[[], object]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


def ecdh_floor(n: int, sample: int = 4000) -> float:
    """CPU seconds of 4 n exponentiations, from `sample` of them."""
    secret = os.urandom(32)
    points = [crypto_scalarmult_base(os.urandom(32)) for _ in range(sample)]
    each = cpu_of(lambda: [crypto_scalarmult(secret, p) for p in points]) / sample
    return 4 * n * each


def proved_floor(n: int, sample: int = 2000) -> float:
    """CPU seconds of 10 n exponentiations in ristretto255, from `sample` of them."""
    secret = ristretto.random_scalar()
    points = [ristretto.hash_to_group(b"%d" % i, b"") for i in range(sample)]
    each = cpu_of(lambda: [ristretto.times(secret, p) for p in points]) / sample
    return 10 * n * each


def rsa_floor(n: int, bits: int, sample: int = 400) -> float:
    """CPU seconds of 2 n private operations of the fastest library here, from `sample` of them."""
    key = RsaPrivateKey(bits)
    elements = [secrets.randbelow(key.modulus).to_bytes(key.width, "big") for _ in range(sample)]
    return 2 * n * cpu_of(lambda: key.power(elements)) / sample


def published_model(n: int) -> float:
    """CPU seconds of the published program's steps, extrapolated from a few elements.

    A 1024-bit private operation without CRT (by GMP) for every element of either side, and for each
    element of the client a scan of the list of the server's hashes: half of it when all are found.
    """
    numbers = rsa.generate_private_key(65537, 1024).private_numbers()
    modulus, exponent = numbers.public_numbers.n, numbers.d
    values = [secrets.randbelow(modulus) for _ in range(30)]
    each = cpu_of(lambda: [gmpy2.powmod(v, exponent, modulus) for v in values]) / len(values)
    listed = [secrets.token_hex(32) for _ in range(4000)]
    wanted = [secrets.token_hex(32) for _ in range(200)]
    scan = cpu_of(lambda: [w in listed for w in wanted]) / (len(listed) * len(wanted))
    return 2 * n * each + 0.5 * n * n * scan


def line(claim: str, ours: float, peer: str, theirs: float, goal: float, *, floor: bool) -> dict:
    """One claim; for a floor the ratio is ours / floor and must stay below the goal."""
    ratio = ours / theirs if floor else theirs / ours
    return {
        "claim": claim,
        "ours_cpu_s": round(ours, 3),
        "peer": peer,
        "peer_cpu_s": round(theirs, 3),
        "ratio": round(ratio, 3),
        "goal": goal,
        "holds": bool(ratio <= goal if floor else ratio >= goal),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--n", type=int, default=100_000)
    options.add_argument("--rsa-n", type=int, default=10_000)
    options.add_argument("--rsa-bits", type=int, default=2048)
    options.add_argument("--repetitions", type=int, default=3)
    given = options.parse_args()
    n, rsa_n = given.n, given.rsa_n
    left, right = parties(n)
    few = parties(rsa_n)
    print(f"{n:,} x {n:,} keys; RSA {rsa_n:,} x {rsa_n:,}, backends {backends()}", flush=True)

    def intersect(engine: psi.PsiEngine, sides: tuple[psi.DataHolder, psi.DataHolder]) -> float:
        results = []
        used = cpu_of(
            lambda: results.append(psi.intersect(engine, *sides, on="id", keep_payloads=False))
        )
        size = len(sides[0].frame)
        assert results[0].cardinality == size - size // 2, results[0].cardinality
        return used

    costs: dict[str, list[float]] = {}
    jobs: dict[str, Callable[[], float]] = {
        "ecdh": lambda: intersect(psi.EcdhEngine(), (left, right)),
        "ecdh floor": lambda: ecdh_floor(n),
        "ecdh-proved": lambda: intersect(EcdhProvedEngine(), few),
        "ecdh-proved floor": lambda: proved_floor(rsa_n),
        "ecdh, as few": lambda: intersect(psi.EcdhEngine(), few),
        "openmined": lambda: intersect(OpenMinedEngine(), (left, right)),
        "rsa": lambda: intersect(RsaEngine(given.rsa_bits), few),
        "rsa floor": lambda: rsa_floor(rsa_n, given.rsa_bits),
        "published model": lambda: published_model(n),
    }
    for i in range(given.repetitions):
        for name in list(jobs) if i % 2 == 0 else reversed(jobs):
            costs.setdefault(name, []).append(jobs[name]())
            print(f"{i + 1}/{given.repetitions} {name}: {costs[name][-1]:.2f} CPU s", flush=True)
    # One run of everything between processes; what the interpreters cost to start is told apart.
    full = end_to_end.run(
        left,
        right,
        on=["id"],
        by=["cbs:size", "statcan:pref"],
        columns={"statcan": ["pref"], "cbs": ["size"]},
        separate=True,
    )
    idle = end_to_end.run(
        *parties(20),
        on=["id"],
        by=["cbs:size", "statcan:pref"],
        columns={"statcan": ["pref"], "cbs": ["size"]},
        separate=True,
        min_cell=0,
    )
    assert full.table["count"].sum() == n - n // 2
    print(full.costs.to_string(index=False))
    median = {name: statistics.median(values) for name, values in costs.items()}
    total, start = full.costs["cpu_s"].sum(), idle.costs["cpu_s"].sum()
    print(
        f"end to end, three processes over TLS: {total:.1f} CPU s with interpreters, of which "
        f"{start:.1f} is a run of 20 keys; {full.wall_s:.1f} s of wall time"
    )
    ours = f"ECDH {n:,} x {n:,}"
    claims = [
        line(
            f"{ours} against OpenMined's library",
            median["ecdh"],
            "openmined-psi 2.0.5",
            median["openmined"],
            1.5,
            floor=False,
        ),
        line(
            f"{ours} near its floor",
            median["ecdh"],
            "4 n exponentiations by libsodium",
            median["ecdh floor"],
            1.4,
            floor=True,
        ),
        line(
            f"ECDH with proofs {rsa_n:,} x {rsa_n:,} near its floor",
            median["ecdh-proved"],
            "10 n exponentiations in ristretto255",
            median["ecdh-proved floor"],
            1.5,
            floor=True,
        ),
        line(
            f"ECDH with proofs {rsa_n:,} x {rsa_n:,} costs at most 5.5 times plain ECDH",
            median["ecdh-proved"],
            "plain ECDH",
            median["ecdh, as few"],
            5.5,
            floor=True,
        ),
        line(
            f"RSA-{given.rsa_bits} {rsa_n:,} x {rsa_n:,} near its floor",
            median["rsa"],
            f"2 n private operations by {backends()[0]}",
            median["rsa floor"],
            1.3,
            floor=True,
        ),
        line(
            f"end-to-end protocol {n:,} x {n:,}, interpreters and TLS included",
            total,
            "the published program, modelled",
            median["published model"],
            15.0,
            floor=False,
        ),
        line(
            f"end-to-end protocol {n:,} x {n:,}, interpreters included, at most 20 CPU s",
            total,
            "20 CPU s",
            20.0 * n / 100_000,
            1.0,
            floor=True,
        ),
        line(
            f"end-to-end protocol {n:,} x {n:,} without starting interpreters, at most 20 CPU s",
            total - start,
            "20 CPU s",
            20.0 * n / 100_000,
            1.0,
            floor=True,
        ),
    ]
    for claim in claims:
        print(
            f"{claim['claim']}: {claim['ours_cpu_s']:.2f} against {claim['peer_cpu_s']:.2f} "
            f"({claim['peer']}), ratio {claim['ratio']:.2f}, goal {claim['goal']}, "
            f"{'holds' if claim['holds'] else 'MISSED'}"
        )
    print(json.dumps({**claims[0], "n": n, "costs_cpu_s": costs, "claims": claims}))


if __name__ == "__main__":
    main()
