"""What adding one round of weights costs by each method: CPU seconds, bytes, error.

Every function returns these metrics: encrypt_cpu_s and decrypt_cpu_s of one office, add_cpu_s of
the server, up_bytes and down_bytes that one office sends and receives, and error, the largest of
the mean of the weights. `vectors` are those of the offices, shapes (parameters,).
"""

import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pet_lab import paillier
from pet_lab.federated import masking
from pet_lab.federated.aggregation import Ckks, Message, Paillier, Plain, Scheme
from pet_lab.parties import apart

NAIVE, PACKED = "Paillier, one weight each (phe)", "Paillier, packed, short noise"

T = TypeVar("T")
Vectors = Sequence[NDArray[np.float64]]
Costs = dict[str, float]


def every_method(
    vectors: Vectors,
    *,
    key: paillier.PrivateKey,
    output_starts: int,
    naive_sample: int,
    threshold: int,
) -> dict[str, Costs]:
    """Costs of each method by its name, on the same vectors, with the offices' shared key.

    From `output_starts` on weights are encrypted where only the output layer is; one ciphertext
    per weight is timed on `naive_sample` weights; `threshold` offices decrypt together.
    """
    count, k = len(vectors[0]), len(vectors)
    packed = Paillier.of(key, count, offices=k)
    partly = replace(packed, encrypted_from=output_starts)
    costs = {
        "plain": of_scheme(Plain(count), vectors),
        NAIVE: of_naive_paillier(vectors, key, min(naive_sample, count)),
        "Paillier, packed, fresh noise": of_scheme(replace(packed, noise="fresh"), vectors),
        PACKED: of_scheme(packed, vectors),
        "Paillier, output layer only": of_scheme(partly, vectors),
    }
    if importlib.util.find_spec("tenseal"):  # no wheel for every platform
        costs["CKKS"] = of_scheme(Ckks.generate(count), vectors)
    costs["masking"] = of_masking(vectors)
    costs["masking, one drops out"] = of_masking(vectors, drops_out=[k])
    costs[f"Paillier, {threshold} of {k} decrypt"] = of_threshold(vectors, threshold, key.bits)
    return costs


def of_scheme(scheme: Scheme, vectors: Vectors) -> Costs:
    """A scheme with equal shares."""
    k, server = len(vectors), scheme.public_side()
    messages, encrypt_s = _timed(lambda: [scheme.encrypt(v, 1 / k) for v in vectors])

    def check_and_add() -> Message:
        for message in messages:
            server.check(message)
        return server.add(messages)

    total, add_s = _timed(check_and_add)
    average, decrypt_s = _timed(lambda: scheme.decrypt(total, 1.0))
    up, down = sum(len(part) for m in messages for part in m) / k, sum(map(len, total))
    return _costs((encrypt_s / k, decrypt_s, add_s), up, down, average, vectors)


def of_naive_paillier(vectors: Vectors, key: paillier.PrivateKey, sample: int) -> Costs:
    """One ciphertext per weight by python-paillier, timed on `sample` weights and scaled up."""
    values, k, count = [float(v) for v in vectors[0][:sample]], len(vectors), len(vectors[0])
    ciphertexts, encrypt_s = _timed(lambda: [key.phe.public_key.encrypt(v) for v in values])
    totals, add_s = _timed(lambda: [sum([c] * (k - 1), c) for c in ciphertexts])
    sums, decrypt_s = _timed(lambda: [key.phe.decrypt(c) for c in totals])
    seconds = np.array([encrypt_s, decrypt_s, add_s]) * count / sample
    size = -(-2 * key.bits // 8) * count
    return _costs(seconds, size, size, np.array(sums) / k, [np.array(values)])


def of_threshold(vectors: Vectors, threshold: int, key_bits: int) -> Costs:
    """Packed Paillier where `threshold` offices decrypt together.

    Decrypting is an office's contribution plus combining; dealing the key is not in it.
    """
    k = len(vectors)
    key, shares = paillier.deal(k, threshold, bits=key_bits, for_tests=key_bits < 2048)
    packing = paillier.Packing(key_bits=key_bits, max_terms=k, limit=1.0)
    messages, encrypt_s = _timed(
        lambda: [key.public.encrypt(v / k, packing, noise="short").to_bytes() for v in vectors]
    )
    total, add_s = _timed(lambda: key.public.add(*map(key.public.read, messages)))
    parts, contribute_s = _timed(lambda: [key.partial(s, total) for s in shares[:threshold]])
    average, combine_s = _timed(lambda: key.combine(total, parts))
    seconds = encrypt_s / k, contribute_s / threshold + combine_s, add_s
    size = parts[0].size_bytes(key.public)
    up, down = len(messages[0]) + size, len(total.to_bytes()) + threshold * size
    return _costs(seconds, up, down, average, vectors)


def of_masking(vectors: Vectors, *, drops_out: Sequence[int] = ()) -> Costs:
    """Pairwise masking; `drops_out` lists offices (from 1) that fall silent before sending."""
    outcome = masking.aggregate(vectors, dies_before_masking=drops_out)
    alive = [vectors[i - 1] for i in outcome.survivors]
    seconds = outcome.office_cpu_s, 0.0, outcome.server_cpu_s
    average = outcome.total / len(alive)
    return _costs(seconds, outcome.up_bytes, outcome.down_bytes, average, alive)


def _timed(action: Callable[[], T]) -> tuple[T, float]:
    start = time.process_time() + apart.spent()
    result = action()
    return result, time.process_time() + apart.spent() - start


def _costs(
    seconds: Sequence[float] | NDArray[np.float64],
    up: float,
    down: float,
    average: NDArray[np.float64],
    vectors: Vectors,
) -> Costs:
    names = ("encrypt_cpu_s", "decrypt_cpu_s", "add_cpu_s", "up_bytes", "down_bytes", "error")
    error = np.abs(average - np.mean(vectors, axis=0)).max()
    return dict(zip(names, map(float, (*seconds, up, down, error)), strict=True))
