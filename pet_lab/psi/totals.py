"""Totals of a value column by one linker under homomorphic encryption, beside additive shares.

The owner of the values encrypts them and keeps the key; the linker knows which row is in which cell
(from the tokens) and adds without seeing; the owner decrypts one number a cell. Shares between two
linkers (`tokens.tables_for_linkers`) are far cheaper but need two linkers that do not collude.

    shares     exact    two linkers, no encryption at all
    bfv        exact    8,192 values a ciphertext; the linker masks the slots: only sums appear
    ckks       approximate, about 7 digits; for values that are not whole numbers
    paillier   exact    one ciphertext a value: the report's idea
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pet_lab.shares import ring_join, ring_split

from .protocol import PsiError

Scheme = Literal["shares", "bfv", "ckks", "paillier"]
SCHEMES: tuple[Scheme, ...] = ("shares", "bfv", "ckks", "paillier")
SLOTS = {"bfv": 8192, "ckks": 4096}
# The largest prime of 56 bits that is 1 modulo 2 * 8192: sums up to 3.6e16 are exact.
PLAIN_MODULUS = 72057594037616641
_CKKS_MASK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class TotalCost:
    """Totals by cell and what they cost.

    bytes_sent : from the owner to the linker(s) and back
    error : largest absolute difference from the totals in clear
    """

    scheme: str
    totals: tuple[float, ...]
    rows: int
    owner_cpu_s: float
    linker_cpu_s: float
    bytes_sent: int
    error: float


def _tenseal() -> Any:
    try:
        import tenseal
    except ImportError:
        raise PsiError(
            "tenseal is not installed; install the extra 'he', or use shares or Paillier."
        ) from None
    return tenseal


class EncryptedColumn:
    """The owner's side of BFV or CKKS: holds the key, encrypts values, decrypts totals."""

    def __init__(self, scheme: Literal["bfv", "ckks"]) -> None:
        ts = _tenseal()
        self.scheme = scheme
        if scheme == "bfv":
            self._context = ts.context(
                ts.SCHEME_TYPE.BFV, poly_modulus_degree=8192, plain_modulus=PLAIN_MODULUS
            )
        else:
            self._context = ts.context(
                ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 40, 60]
            )
            self._context.global_scale = 2**40

    def public(self) -> bytes:
        """The context without the secret key."""
        raw: bytes = self._context.serialize(
            save_secret_key=False, save_galois_keys=False, save_relin_keys=False
        )
        return raw

    def encrypt(self, values: npt.NDArray[np.int64]) -> list[bytes]:
        """Ciphertexts of SLOTS values each, in the order given.

        Raises
        ------
        PsiError
            If the sum of absolute values does not fit the plaintext modulus (BFV).
        """
        ts = _tenseal()
        if self.scheme == "bfv" and float(np.abs(values).sum(dtype=float)) >= PLAIN_MODULUS / 2:
            raise PsiError(f"Totals may reach {PLAIN_MODULUS // 2} with BFV; use a coarser unit.")
        make = ts.bfv_vector if self.scheme == "bfv" else ts.ckks_vector
        slots = SLOTS[self.scheme]
        padded = np.zeros(-(-len(values) // slots) * slots, dtype=np.int64)
        padded[: len(values)] = values
        return [make(self._context, row.tolist()).serialize() for row in padded.reshape(-1, slots)]

    def decrypt(self, totals: Sequence[bytes]) -> list[float]:
        """One total a ciphertext: the sum of its slots (modulo the plaintext modulus for BFV)."""
        ts = _tenseal()
        load = ts.bfv_vector_from if self.scheme == "bfv" else ts.ckks_vector_from
        out: list[float] = []
        for raw in totals:
            slots = load(self._context, raw).decrypt()
            if self.scheme == "ckks":
                out.append(float(np.sum(slots)))
                continue
            total = sum(int(v) for v in slots) % PLAIN_MODULUS
            out.append(total - PLAIN_MODULUS if total > PLAIN_MODULUS // 2 else total)
        return out


def total_encrypted(
    scheme: Literal["bfv", "ckks"],
    public: bytes,
    ciphertexts: Sequence[bytes],
    cells: npt.NDArray[np.int64],
    n_cells: int,
) -> list[bytes]:
    """The linker's side: one ciphertext a cell, whose slots sum to the cell's total.

    A random vector that sums to zero is added, so that the owner learns the total of a cell and not
    the 8,192 partial sums that the slots hold.

    Parameters
    ----------
    cells : shape (n,), the cell of each row, in the order of encryption
    """
    ts = _tenseal()
    context = ts.context_from(public)
    load = ts.bfv_vector_from if scheme == "bfv" else ts.ckks_vector_from
    slots = SLOTS[scheme]
    sums: list[Any] = [None] * n_cells
    for i, raw in enumerate(ciphertexts):
        vector = load(context, raw)
        part = cells[i * slots : (i + 1) * slots]
        for cell in np.unique(part):
            mask = np.zeros(slots)
            mask[: len(part)] = part == cell
            if scheme == "bfv":
                term = vector.mul(mask.astype(int).tolist())
            else:
                term = vector.mul(mask.tolist())
            sums[cell] = term if sums[cell] is None else sums[cell] + term
    out = []
    for total in sums:
        if total is None:
            raise PsiError("A cell without rows has no ciphertext; leave empty cells out.")
        out.append((total + _zero_sum(scheme, slots)).serialize())
    return out


def _zero_sum(scheme: str, slots: int) -> list[Any]:
    if scheme == "bfv":
        half = PLAIN_MODULUS // 2
        drawn = [secrets.randbelow(PLAIN_MODULUS) for _ in range(slots - 1)]
        drawn.append(-sum(drawn) % PLAIN_MODULUS)
        return [d - PLAIN_MODULUS if d > half else d for d in drawn]
    # Bounded, because CKKS keeps about 40 bits: this hides slots, it does not hide them perfectly.
    noise = [float(secrets.randbelow(2 * _CKKS_MASK) - _CKKS_MASK) for _ in range(slots)]
    return [x - sum(noise) / slots for x in noise]


def total_by_cell(
    scheme: Scheme,
    values: npt.NDArray[np.int64],
    cells: npt.NDArray[np.int64],
    n_cells: int,
    *,
    paillier_bits: int = 2048,
) -> TotalCost:
    """Totals of `values` by cell under one scheme, with the cost of each role.

    Parameters
    ----------
    values, cells : shape (n,); whole numbers, and the cell of each row in 0..n_cells-1
    """
    if scheme not in SCHEMES:
        raise PsiError(f"Schemes are {', '.join(SCHEMES)}, got {scheme!r}.")
    clear = np.zeros(n_cells, dtype=np.int64)
    np.add.at(clear, cells, values)
    totals, owner, linker, sent = {
        "shares": _by_shares,
        "bfv": _by_vectors("bfv"),
        "ckks": _by_vectors("ckks"),
        "paillier": lambda v, c, k: _by_paillier(v, c, k, paillier_bits),
    }[scheme](values, cells, n_cells)
    return TotalCost(
        scheme=scheme,
        totals=tuple(totals),
        rows=len(values),
        owner_cpu_s=owner,
        linker_cpu_s=linker,
        bytes_sent=sent,
        error=max(
            (abs(float(t) - float(c)) for t, c in zip(totals, clear, strict=True)), default=0
        ),
    )


_Cost = tuple[list[float], float, float, int]  # totals, CPU of owner and linker, bytes


def _by_shares(values: Any, cells: Any, n_cells: int) -> _Cost:
    begun = time.process_time()
    shares = ring_split(values, 2)
    split = time.process_time()
    sums = np.zeros((2, n_cells), dtype=np.uint64)
    for sum_, share in zip(sums, shares, strict=True):
        np.add.at(sum_, cells, share)
    added = time.process_time()
    totals = ring_join(sums).tolist()
    return totals, split - begun, added - split, 16 * len(values) + 16 * n_cells


def _by_vectors(scheme: Literal["bfv", "ckks"]) -> Callable[[Any, Any, int], _Cost]:
    def work(values: Any, cells: Any, n_cells: int) -> _Cost:
        begun = time.process_time()
        owner = EncryptedColumn(scheme)
        ciphertexts, public = owner.encrypt(values), owner.public()
        encrypted = time.process_time()
        sums = total_encrypted(scheme, public, ciphertexts, cells, n_cells)
        added = time.process_time()
        totals = owner.decrypt(sums)
        ended = time.process_time()
        sent = sum(map(len, ciphertexts)) + sum(map(len, sums)) + len(public)
        return totals, encrypted - begun + ended - added, added - encrypted, sent

    return work


def _by_paillier(values: Any, cells: Any, n_cells: int, bits: int) -> _Cost:
    from phe import paillier

    begun = time.process_time()
    public, private = paillier.generate_paillier_keypair(n_length=bits)
    ciphertexts = [public.raw_encrypt(int(v) % public.n) for v in values]
    encrypted = time.process_time()
    square = public.nsquare
    sums = [1] * n_cells
    for c, cell in zip(ciphertexts, cells.tolist(), strict=True):
        sums[cell] = sums[cell] * c % square
    # Fresh randomness, so that the sum cannot be linked to its terms.
    sums = [s * public.raw_encrypt(0) % square for s in sums]
    added = time.process_time()
    totals = [private.raw_decrypt(s) for s in sums]
    totals = [t - public.n if t > public.n // 2 else t for t in totals]
    ended = time.process_time()
    sent = (len(values) + n_cells) * bits // 4
    return [float(t) for t in totals], encrypted - begun + ended - added, added - encrypted, sent
