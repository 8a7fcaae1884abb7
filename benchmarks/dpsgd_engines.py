"""Private training of many small networks: the batched engine against tensorflow-privacy.

The claim: at 64 replicas one training (200 epochs, batches of 32, 316 records, 58-40-60-20-1, clip
1, noise) costs 0.15 CPU seconds or less and at least 60 times less than tensorflow-privacy's
standard optimiser. Both sides run here, alternating, through the same `dpsgd.train` on the same
data, initial weights and batches, and take curves at the first and last epoch only. The peer trains
one replica for fewer epochs, and the cost of building and tracing its model (a run of one epoch) is
taken off before scaling up: that favours the peer.
"""

import argparse
import json
import os
import statistics
import time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np  # noqa: E402 (BLAS reads the variables above when it loads)

from pet_lab import dpsgd  # noqa: E402

EPOCHS, REPLICAS = 200, 64
GOAL_SECONDS, GOAL_RATIO = 0.15, 60.0


def cpu_seconds(action) -> float:
    """CPU time of this process, all threads; nothing here starts another process."""
    start = time.process_time()
    action()
    return time.process_time() - start


def run(X, y, epochs: int, replicas: int, engine: str) -> None:
    config = dpsgd.Config(epochs=epochs, learning_rate=0.1, noise_multiplier=1.0)
    dpsgd.train(X, y, config, seeds=range(replicas), engine=engine, curve_every=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-epochs", type=int, default=12)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    X = rng.normal(size=(316, 58))
    y = (X[:, 0] + 0.5 * rng.normal(size=316) > 0).astype(int)
    peers = ("tensorflow-privacy", "tensorflow-privacy-vectorized")
    for engine in peers:  # imports are nobody's training time
        run(X, y, 1, 1, engine)
    times: dict[str, list[float]] = {"batched": [], **{p: [] for p in peers}}
    for repeat in range(options.repeats):
        times["batched"].append(
            cpu_seconds(lambda: run(X, y, EPOCHS, REPLICAS, "batched")) / REPLICAS
        )
        for engine in peers:
            one = cpu_seconds(lambda e=engine: run(X, y, 1, 1, e))
            more = cpu_seconds(lambda e=engine: run(X, y, 1 + options.peer_epochs, 1, e))
            times[engine].append((more - one) / options.peer_epochs * EPOCHS)
        print(
            f"repeat {repeat + 1}: "
            + ", ".join(f"{name} {values[-1]:.3f} CPU s" for name, values in times.items())
        )
    medians = {name: statistics.median(values) for name, values in times.items()}
    ours, standard = medians["batched"], medians["tensorflow-privacy"]
    vectorized = medians["tensorflow-privacy-vectorized"]
    print(
        f"against the vectorized optimiser: {vectorized:.2f} CPU s, ratio {vectorized / ours:.0f}"
    )
    print(
        json.dumps(
            {
                "claim": "one of 64 private trainings (200 epochs, batch 32, 58-40-60-20-1), CPU s",
                "ours_cpu_s": round(ours, 4),
                "peer": "tensorflow-privacy DPKerasSGDOptimizer",
                "peer_cpu_s": round(standard, 3),
                "ratio": round(standard / ours, 1),
                "goal": f"{GOAL_SECONDS} CPU s or less, and {GOAL_RATIO:g} times the peer",
                "holds": ours <= GOAL_SECONDS and standard / ours >= GOAL_RATIO,
            }
        )
    )


if __name__ == "__main__":
    main()
