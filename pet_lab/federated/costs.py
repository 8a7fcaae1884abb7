"""What adding one round of weights costs by each method: CPU seconds, bytes, error."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pet_lab import paillier
from pet_lab.federated import masking
from pet_lab.federated.aggregation import Ckks, Message, Paillier, Plain, Scheme

__all__ = ["NAIVE", "PACKED", "AddingCosts", "every_method", "of_masking", "of_naive_paillier"]
__all__ += ["of_scheme", "of_threshold"]

NAIVE, PACKED = "Paillier, one weight each (phe)", "Paillier, packed, short noise"

T = TypeVar("T")
Vectors = Sequence[NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class AddingCosts:
    """One round of adding the offices' weights.

    encrypt_cpu_s, decrypt_cpu_s   of one office
    add_cpu_s                      of the server
    up_bytes, down_bytes           one office sends and receives
    error                          largest, of the mean of the weights
    """

    encrypt_cpu_s: float
    decrypt_cpu_s: float
    add_cpu_s: float
    up_bytes: float
    down_bytes: float
    error: float


def every_method(
    vectors: Vectors,
    *,
    key: paillier.PrivateKey,
    output_starts: int,
    naive_sample: int,
    threshold: int,
) -> dict[str, AddingCosts]:
    """Costs of each method by its name, on the same vectors, shapes (parameters,).

    Parameters
    ----------
    key : PrivateKey
        The offices' shared key.
    output_starts : int
        First weight that is encrypted where only the output layer is.
    naive_sample : int
        Weights on which one ciphertext per weight is timed.
    threshold : int
        Offices that decrypt together in the threshold variant.
    """
    count, k = len(vectors[0]), len(vectors)
    packed = Paillier.of(key, count, offices=k)
    sample = min(naive_sample, count)
    costs = {
        "plain": of_scheme(Plain(count), vectors),
        NAIVE: of_naive_paillier(vectors, key=key, sample=sample),
        "Paillier, packed, fresh noise": of_scheme(replace(packed, noise="fresh"), vectors),
        PACKED: of_scheme(packed, vectors),
        "Paillier, output layer only": of_scheme(
            replace(packed, encrypted_from=output_starts), vectors
        ),
    }
    if importlib.util.find_spec("tenseal"):  # no wheel for every platform
        costs["CKKS"] = of_scheme(Ckks.generate(count), vectors)
    costs["masking"] = of_masking(vectors)
    costs["masking, one drops out"] = of_masking(vectors, drops_out=[k])
    bits = key.public.bits
    name = f"Paillier, {threshold} of {k} decrypt"
    costs[name] = of_threshold(vectors, threshold=threshold, key_bits=bits)
    return costs


def of_scheme(scheme: Scheme, vectors: Vectors) -> AddingCosts:
    """Costs of a scheme on the offices' vectors, shapes (parameters,), with equal shares."""
    k, server = len(vectors), scheme.public_side()
    messages, encrypt_s = _timed(lambda: [scheme.encrypt(v, 1 / k) for v in vectors])

    def check_and_add() -> Message:
        for message in messages:
            server.check(message)
        return server.add(messages)

    total, add_s = _timed(check_and_add)
    average, decrypt_s = _timed(lambda: scheme.decrypt(total, 1.0))
    return AddingCosts(
        encrypt_cpu_s=encrypt_s / k,
        decrypt_cpu_s=decrypt_s,
        add_cpu_s=add_s,
        up_bytes=float(np.mean([sum(map(len, m)) for m in messages])),
        down_bytes=float(sum(map(len, total))),
        error=_error(average, vectors),
    )


def of_naive_paillier(vectors: Vectors, *, key: paillier.PrivateKey, sample: int) -> AddingCosts:
    """One ciphertext per weight by python-paillier, timed on `sample` weights and scaled up."""
    values = [float(v) for v in vectors[0][:sample]]
    ciphertexts, encrypt_s = _timed(lambda: [key.phe.public_key.encrypt(v) for v in values])
    totals, add_s = _timed(lambda: [sum([c] * (len(vectors) - 1), c) for c in ciphertexts])
    sums, decrypt_s = _timed(lambda: [key.phe.decrypt(c) for c in totals])
    count = len(vectors[0])
    factor = count / len(values)
    size = -(-2 * key.public.bits // 8) * count
    return AddingCosts(
        encrypt_cpu_s=encrypt_s * factor,
        decrypt_cpu_s=decrypt_s * factor,
        add_cpu_s=add_s * factor,
        up_bytes=size,
        down_bytes=size,
        error=float(np.abs(np.array(sums) / len(vectors) - np.array(values)).max()),
    )


def of_threshold(vectors: Vectors, *, threshold: int, key_bits: int) -> AddingCosts:
    """Packed Paillier where `threshold` offices decrypt together.

    Decrypting is an office's contribution plus combining; dealing the key is not in it.
    """
    k = len(vectors)
    key, shares = paillier.deal(k, threshold, bits=key_bits, for_tests=key_bits < 2048)
    packing = paillier.Packing(key_bits=key_bits, max_terms=k, limit=1.0)
    messages, encrypt_s = _timed(
        lambda: [key.public.encrypt(v / k, packing, noise="short").to_bytes() for v in vectors]
    )
    total, add_s = _timed(lambda: key.public.add(*(key.public.read(m) for m in messages)))
    parts, contribute_s = _timed(lambda: [key.partial(s, total) for s in shares[:threshold]])
    average, combine_s = _timed(lambda: key.combine(total, parts))
    size = parts[0].size_bytes(key.public)
    return AddingCosts(
        encrypt_cpu_s=encrypt_s / k,
        decrypt_cpu_s=contribute_s / threshold + combine_s,
        add_cpu_s=add_s,
        up_bytes=float(len(messages[0]) + size),
        down_bytes=float(len(total.to_bytes()) + threshold * size),
        error=_error(average, vectors),
    )


def of_masking(vectors: Vectors, *, drops_out: Sequence[int] = ()) -> AddingCosts:
    """Pairwise masking; `drops_out` lists offices (from 1) that fall silent before sending."""
    outcome = masking.aggregate(vectors, dies_before_masking=drops_out)
    alive = [v for i, v in enumerate(vectors, 1) if i not in drops_out]
    return AddingCosts(
        encrypt_cpu_s=outcome.office_cpu_s,
        decrypt_cpu_s=0.0,
        add_cpu_s=outcome.server_cpu_s,
        up_bytes=outcome.up_bytes,
        down_bytes=outcome.down_bytes,
        error=_error(outcome.total / len(alive), alive),
    )


def _timed(action: Callable[[], T]) -> tuple[T, float]:
    start = time.process_time()
    result = action()
    return result, time.process_time() - start


def _error(average: NDArray[np.float64], vectors: Vectors) -> float:
    return float(np.abs(average - np.mean(vectors, axis=0)).max())
