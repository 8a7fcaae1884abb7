"""Does the time of an operation depend on its secret? By hand, on a quiet machine:

    python tests/timing/leaks.py [SAMPLES]

After dudect (Reparaz, Balasch, Verbauwhede 2017): a fixed secret and random ones, drawn in random
order, timed one by one; Welch's t of the two classes after the slowest tenth is cut off, as they
were disturbed. |t| > 10 says that time depends on the secret. Less says that these samples, of
these classes, on this machine, show nothing; it proves no more.
"""

import hmac
import secrets
import statistics
import sys
import time

import numpy as np

from pet_lab import paillier
from pet_lab.psi import curve25519
from pet_lab.psi.rsa_raw import RsaPrivateKey, backends


def welch(run, fixed, draw, samples):
    """Welch's t, and both means in microseconds."""
    classes = [secrets.randbelow(2) for _ in range(samples)]
    inputs = [draw() if random else fixed for random in classes]
    times = []
    for value in inputs:
        start = time.perf_counter_ns()
        run(value)
        times.append((time.perf_counter_ns() - start) / 1000)
    cut = np.quantile(times, 0.9)
    split = [
        [t for t, mine in zip(times, classes, strict=True) if mine == c and t <= cut]
        for c in (0, 1)
    ]
    means = [statistics.fmean(one) for one in split]
    spread = sum(statistics.variance(one) / len(one) for one in split)
    return (means[0] - means[1]) / spread**0.5, *means


def operations():
    """name, what is timed, the fixed secret, how a random one is drawn, samples as a share."""
    point = curve25519.encode_to_curve([b"a key"], b"timing")
    yield (
        "X25519, scalar (libsodium)",
        lambda scalar: curve25519.exponentiate(scalar, point),
        bytes(32),
        lambda: secrets.token_bytes(32),
        1.0,
    )
    yield (
        "hash to the curve, own key (gmpy2)",
        lambda key: curve25519.encode_to_curve([key], b"timing"),
        b"0" * 16,
        lambda: secrets.token_hex(8).encode(),
        1.0,
    )
    for backend in backends():
        key = RsaPrivateKey(2048, backend)
        one = (2).to_bytes(256, "big")
        yield (
            f"RSA signing, blinded element ({backend})",
            lambda element, key=key: key.power([element]),
            one,
            lambda: b"\0" + secrets.token_bytes(255),
            0.05,
        )
    private = paillier.generate(2048)
    packed = [private.noise(1)[0] for _ in range(50)]
    zero = packed[0]
    yield (
        "Paillier decryption, number (gmpy2)",
        lambda c: private.decrypt_integers([c]),
        zero,
        lambda: (
            (1 + private.n * secrets.randbelow(2**2000)) * secrets.choice(packed) % private.n**2
        ),
        0.05,
    )
    right = secrets.token_bytes(32)
    yield (
        "hmac.compare_digest, equal or not",
        lambda guess: hmac.compare_digest(right, guess),
        bytes(bytearray(right)),
        lambda: secrets.token_bytes(32),
        1.0,
    )


def main(samples: int) -> None:
    """Print a row for each operation."""
    for name, run, fixed, draw, share in operations():
        n = int(samples * share)
        run(fixed)
        t, first, second = welch(run, fixed, draw, n)
        verdict = "depends on the secret" if abs(t) > 10 else "no dependence seen"
        print(f"{name:44} n {n:7} t {t:8.1f}  {first:9.2f} {second:9.2f} us  {verdict}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
