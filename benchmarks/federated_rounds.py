"""Time per round by scenario and transport: a loop, Flower in process, five processes over TLS.

    python benchmarks/federated_rounds.py            # about 2 CPU minutes

On generated signals, so that it runs anywhere. The peer of scenario 4 is scenario 2: what is
measured is the run-time overhead of encryption that the report mentions and does not give. There is
no goal but that all transports end with the same model.
"""

from __future__ import annotations

import json

import numpy as np

from pet_lab import federated as fl
from pet_lab.studies import federated_learning as study


def main() -> None:
    frame, _ = fl.stand_in(np.random.default_rng(1))
    windows = fl.windows(frame)
    settings = study.Settings(rounds=5, transport_rounds=5, seed=1, replicates=1)
    rows = study.simulate(settings, windows, ["transports"])
    wide = rows.pivot_table(index=["scenario", "transport"], columns="metric", values="value")
    print(wide.to_string(float_format=lambda v: f"{v:.3f}"))
    second, fourth = (wide.loc[(s, "loop"), "wall_s_round"] for s in (2, 4))
    print(
        json.dumps(
            {
                "claim": "scenario 2 against 4, and the same model over every transport",
                "ours_wall_s": round(float(fourth), 3),
                "peer": "scenario 2, in the clear",
                "peer_wall_s": round(float(second), 3),
                "ratio": round(float(second / fourth), 5),
                "goal": None,
                "holds": bool((wide["same_model"] == 1).all()),
            }
        )
    )


if __name__ == "__main__":
    main()
