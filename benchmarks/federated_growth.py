"""A round of federated averaging from 4 to 64 offices: CPU time by scheme.

    python benchmarks/federated_growth.py            # about 1 CPU minute

The claim: what one office pays for encrypting and decrypting does not grow with the number of
offices under packed Paillier (beyond the headroom bits of the slots) or CKKS, and the server's
adding grows linearly. Masking agrees on a key with every other office, so there an office's part
grows linearly and all together quadratically; it is shown, not claimed.
"""

from __future__ import annotations

import json
import time

import numpy as np

from pet_lab import paillier
from pet_lab.federated import Ckks, Paillier, masking
from pet_lab.parties import apart

WEIGHTS, COUNTS = 8742, (4, 8, 16, 32, 64)


def timed(action):
    start = time.process_time() + apart.spent()
    out = action()
    return out, time.process_time() + apart.spent() - start


def main() -> None:
    key = paillier.generate(2048)
    rng = np.random.default_rng(1)
    base = rng.normal(0, 0.2, WEIGHTS)
    rows = []
    for k in COUNTS:
        vectors = [base + rng.normal(0, 0.01, WEIGHTS) for _ in range(k)]
        mean = np.mean(vectors, axis=0)
        for scheme in (Paillier.of(key, WEIGHTS, offices=k), Ckks.generate(WEIGHTS)):
            some, encrypt_s = timed(
                lambda s=scheme, v=vectors: [s.encrypt(x, 1 / len(v)) for x in v[:4]]
            )
            # Encrypting costs most: the other offices' messages are those of the first four again.
            total, add = timed(lambda s=scheme, m=some, n=k: s.add([m[i % 4] for i in range(n)]))
            average, decrypt_s = timed(lambda s=scheme, t=total: s.decrypt(t, 1.0))
            repeated = np.mean([vectors[i % 4] for i in range(k)], axis=0)
            assert np.abs(average - repeated).max() < 1e-4
            rows.append(
                {
                    "offices": k,
                    "scheme": scheme.name,
                    "office_cpu_s": round(encrypt_s / 4 + decrypt_s, 4),
                    "server_cpu_s": round(add, 4),
                }
            )
            print(rows[-1], flush=True)
        outcome = masking.aggregate(vectors)
        assert np.abs(outcome.total / k - mean).max() < 1e-5
        rows.append(
            {
                "offices": k,
                "scheme": "masking",
                "office_cpu_s": round(outcome.office_cpu_s, 4),
                "server_cpu_s": round(outcome.server_cpu_s, 4),
            }
        )
        print(rows[-1], flush=True)
    office = {r["offices"]: r["office_cpu_s"] for r in rows if r["scheme"] == "paillier"}
    growth = office[COUNTS[-1]] / office[COUNTS[0]]
    print(
        json.dumps(
            {
                "claim": "an office's CPU under packed Paillier at 64 offices over that at 4",
                "ours_cpu_s": office[COUNTS[-1]],
                "peer": "the same at 4 offices",
                "peer_cpu_s": office[COUNTS[0]],
                "ratio": round(growth, 3),
                "goal": 1.3,
                "holds": growth <= 1.3,
                "rows": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
