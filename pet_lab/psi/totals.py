"""Totals of a value column by cell: additive shares between two linkers, or Paillier at one.

The linker knows which row is in which cell (from the tokens) and adds without seeing a value.

    shares     exact    two linkers that do not collude, no encryption at all
    paillier   exact    one linker, one ciphertext a value: the report's idea

BFV and CKKS are not offered. There the linker multiplies a ciphertext by the 0/1 mask of a cell,
and the owner, who holds the key, divides the reply by what it sent and reads the mask: the other
party's column. Only noise flooding at parameters made for it hides the mask, and tenseal has none.
Paillier has no noise: times a fresh encryption of zero, a reply is a uniform encryption of its
total, whatever the mask was.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pet_lab.shares import ring_join, ring_split

from .protocol import ensure


@dataclass(frozen=True, kw_only=True)
class TotalCost:
    """Totals by cell and what they cost.

    bytes_sent : from the owner to the linker(s) and back
    absolute_error : largest difference from the totals in clear; relative to the largest total
    """

    totals: tuple[float, ...]
    owner_cpu_seconds: float
    linker_cpu_seconds: float
    bytes_sent: int
    absolute_error: float
    relative_error: float


def add_encrypted(
    public: Any, ciphertexts: Sequence[int], cells: npt.NDArray[np.int64], n_cells: int
) -> list[int]:
    """The linker's side of Paillier: one ciphertext a cell, which tells its total and no more.

    `public` is a phe.PaillierPublicKey, `cells` the cell of each ciphertext.
    """
    sums = [public.raw_encrypt(0) for _ in range(n_cells)]  # re-randomises each product
    for ciphertext, cell in zip(ciphertexts, cells.tolist(), strict=True):
        sums[cell] = sums[cell] * ciphertext % public.nsquare
    return sums


def _by_shares(values: Any, cells: Any, n_cells: int, bits: int) -> Iterator[list[int] | None]:
    shares = ring_split(values, 2)
    yield None
    sums = np.zeros((2, n_cells), dtype=np.uint64)
    for sum_, share in zip(sums, shares, strict=True):
        np.add.at(sum_, cells, share)
    yield None
    yield ring_join(sums).tolist()


def _by_paillier(values: Any, cells: Any, n_cells: int, bits: int) -> Iterator[list[int] | None]:
    from phe import paillier

    public, private = paillier.generate_paillier_keypair(n_length=bits)
    ciphertexts = [public.raw_encrypt(int(v) % public.n) for v in values]
    yield None
    sums = add_encrypted(public, ciphertexts, cells, n_cells)
    yield None
    totals = map(private.raw_decrypt, sums)
    yield [t - public.n if t > public.n // 2 else t for t in totals]


# What the owner encrypts, the linker adds, the owner decrypts: one step of the generator each.
SCHEMES = {"shares": _by_shares, "paillier": _by_paillier}


def total_by_cell(
    scheme: str,
    values: npt.NDArray[np.int64],
    cells: npt.NDArray[np.int64],
    n_cells: int,
    *,
    paillier_bits: int = 2048,
) -> TotalCost:
    """Totals of whole `values`, shape (n,), by cell, 0..n_cells-1, and the cost of each role."""
    ensure(scheme in SCHEMES, f"Schemes are {', '.join(SCHEMES)}, got {scheme!r}.")
    clear = np.zeros(n_cells, dtype=np.int64)
    np.add.at(clear, cells, values)
    times, totals = [time.process_time()], list[int]()
    for step in SCHEMES[scheme](values, cells, n_cells, paillier_bits):
        times.append(time.process_time())
        totals = step or []
    encrypt, add, decrypt = np.diff(times)
    number = 16 if scheme == "shares" else paillier_bits // 4  # bytes, each way
    error = max((abs(float(t - int(c))) for t, c in zip(totals, clear, strict=True)), default=0)
    return TotalCost(
        totals=tuple(map(float, totals)),
        owner_cpu_seconds=encrypt + decrypt,
        linker_cpu_seconds=add,
        bytes_sent=number * (len(values) + n_cells),
        absolute_error=error,
        relative_error=error / max(map(abs, totals), default=1) if error else 0.0,
    )
