"""Set intersection by ECDH from 1,000 to 1,000,000 keys a side: time, bytes and memory a party.

    python benchmarks/psi_growth.py                 # up to 100,000: about 1 CPU minute
    python benchmarks/psi_growth.py --million       # about 5 CPU minutes more

Both parties and the linker are processes over mutual TLS on loopback; memory is the peak resident
size of each. The claim is linear growth, and less than 2 GB a party at a million.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from psi_engines import parties

from pet_lab.psi import end_to_end


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--million", action="store_true")
    given = options.parse_args()
    sizes = [1_000, 10_000, 100_000] + ([1_000_000] if given.million else [])
    rows = []
    for n in sizes:
        run = end_to_end.run(
            *parties(n),
            on=["id"],
            by=["cbs:size", "statcan:pref"],
            columns={"statcan": ["pref"], "cbs": ["size"]},
            separate=True,
            timeout_s=3600,
        )
        assert run.cardinality == n - n // 2
        holders = run.costs[run.costs["process"] != "linker"]
        rows.append(
            {
                "n": n,
                "stage_cpu_s": round(float(holders["stage_cpu_s"].sum()), 2),
                "cpu_s": round(float(run.costs["cpu_s"].sum()), 2),
                "wall_s": round(run.wall_s, 1),
                "mib_sent": round(float(run.costs["bytes_sent"].sum()) / 2**20, 2),
                "peak_mib_a_party": float(holders["peak_mib"].max()),
            }
        )
        print(rows[-1], flush=True)
    n, cpu = (np.log([r[k] for r in rows[1:]]) for k in ("n", "stage_cpu_s"))
    slope = float(np.polyfit(n, cpu, 1)[0])
    print(
        json.dumps(
            {
                "claim": "CPU time of the stages grows linearly: slope of log time on log n",
                "ours_cpu_s": rows[-1]["cpu_s"],
                "peer": "slope 1",
                "peer_cpu_s": None,
                "ratio": round(slope, 3),
                "goal": 1.1,
                "holds": slope <= 1.1 and rows[-1]["peak_mib_a_party"] < 2000,
                "rows": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
