"""Arithmetic on shared numbers: mpyc computes, this counts, checks openings and products.

Vectors hold a party's own Shamir shares as plain whole numbers; sums are local, a product costs one
exchange. All randomness and all resharing is mpyc's. Two things are added to it:

- every opening uses the shares of *all* parties and stops if they contradict each other (mpyc opens
  from the first t + 1);
- at level "checked" every number x travels with r * x for a secret random r. A party that puts an
  error into a product has to put r times it into the twin, and does not know r. Before anything
  leaves, one random combination of all pairs is opened (Chida et al. 2018): a deviation passes with
  probability about 2 / p. This detects; it does not name the party.

Nothing here calls mpyc's `transfer` or `shutdown`: they unpickle what a peer sent.

References
----------
Chida, Genkin, Hamada, Ikarashi, Kikuchi, Lindell, Nof: Fast large-scale honest-majority MPC for
malicious adversaries, CRYPTO 2018, protocol 5.3. mpyc 0.11 for everything below.
"""

from __future__ import annotations

import functools
import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pet_lab.shares import ShareError, SharesContradict, shamir_open, unpack

from .errors import Cheating

Ints = list[int]


@dataclass
class Vector:
    """Shares of numbers and, at level "checked", of r times each of them."""

    z: Ints
    twin: Ints | None = None

    def __len__(self) -> int:
        return len(self.z)

    def __getitem__(self, where: slice) -> Vector:
        return Vector(self.z[where], None if self.twin is None else self.twin[where])

    def take(self, order: Sequence[int]) -> Vector:
        """The elements at these positions, in this order."""
        return Vector(
            [self.z[i] for i in order],
            None if self.twin is None else [self.twin[i] for i in order],
        )


class Arithmetic:
    """One party's view of a computation.

    Parameters
    ----------
    runtime : mpyc Runtime, connected
    p : prime modulus
    checked : carry the twins
    """

    def __init__(self, runtime: Any, p: int, *, checked: bool = False) -> None:
        from mpyc.sectypes import SecInt

        self.rt, self.p, self.checked = runtime, p, checked
        self.bits = p.bit_length() - 40  # room for mpyc's statistical masks of 30 bits
        self.secint = SecInt(self.bits, p=p)
        self.field = self.secint.field
        self.products = self.opened = self.rounds = 0
        self._pairs: list[Vector] = []
        self._r = int(runtime._random(self.field).value) if checked else 0

    # --- in and out ---------------------------------------------------------------------------

    async def put_in(self, mine: Ints) -> list[Ints]:
        """Each party's vector, all of one length, as Shamir shares; one row a party."""
        if not mine:
            return [[] for _ in self.rt.parties]
        self.rounds += 1
        rows = await self.rt.input([self.field(v) for v in mine])
        return [[int(v.value) for v in row] for row in rows]

    async def vector(self, shares: Ints) -> Vector:
        """Give shares their twins."""
        if not self.checked or not shares:
            return Vector(shares, [] if self.checked else None)
        pair = Vector(shares, await self._reshare([self._r * v % self.p for v in shares]))
        self._pairs.append(pair)
        return pair

    def constant(self, value: int, n: int = 1) -> Vector:
        """Public numbers as shares."""
        v = value % self.p
        return Vector([v] * n, [self._r * v % self.p] * n if self.checked else None)

    async def open(self, shares: Ints) -> Ints:
        """Open to all processing parties, from all shares.

        Raises
        ------
        Cheating
            If the shares contradict each other.
        """
        if not shares:
            return []
        self.rounds += 1
        self.opened += len(shares)
        raw = await _exchange(self.rt, self.field, shares)
        try:
            rows = [unpack(r, self.p) for r in raw]
        except ShareError as error:
            raise Cheating(str(error)) from None
        if len({len(r) for r in rows}) != 1:
            raise Cheating("A party sent too many or too few shares.")
        return self._open_three(rows) if len(rows) == 3 else self._open(rows)

    def _open_three(self, rows: list[Ints]) -> Ints:
        """The check of `_open` in closed form: threshold 1."""
        p = self.p
        if any((a - 2 * b + c) % p for a, b, c in zip(*rows, strict=True)):
            raise Cheating("The shares of an opened number contradict each other.")
        return [(2 * a - b) % p for a, b in zip(rows[0], rows[1], strict=True)]

    def _open(self, rows: list[Ints]) -> Ints:
        points = {i + 1: row for i, row in enumerate(rows)}  # party 0 holds the polynomial at 1
        try:
            opened = shamir_open(points, needed=self.rt.threshold + 1, prime=self.p)
        except SharesContradict as error:
            raise Cheating(str(error)) from None
        if opened.wrong:
            raise Cheating("A share of an opened number does not fit the others.")
        return opened.values

    # --- without exchange ---------------------------------------------------------------------

    def add(self, a: Vector, b: Vector, *, times: int = 1) -> Vector:
        """a + times * b, element by element."""
        p = self.p
        z = [(u + times * v) % p for u, v in zip(a.z, b.z, strict=True)]
        if a.twin is None or b.twin is None:
            return Vector(z)
        return Vector(z, [(u + times * v) % p for u, v in zip(a.twin, b.twin, strict=True)])

    def scale(self, a: Vector, times: int) -> Vector:
        """times * a."""
        p = self.p
        twin = None if a.twin is None else [times * v % p for v in a.twin]
        return Vector([times * v % p for v in a.z], twin)

    def total(self, a: Vector) -> Vector:
        """The sum of all elements, as a vector of one."""
        return Vector([sum(a.z) % self.p], None if a.twin is None else [sum(a.twin) % self.p])

    def concat(self, parts: Sequence[Vector]) -> Vector:
        """One vector after another."""
        z = [v for part in parts for v in part.z]
        return Vector(z, [v for part in parts for v in part.twin or []] if self.checked else None)

    # --- with exchange ------------------------------------------------------------------------

    async def mul(self, a: Vector, b: Vector) -> Vector:
        """Products element by element, one exchange."""
        p = self.p
        z = [u * v % p for u, v in zip(a.z, b.z, strict=True)]
        return await self._multiplied(
            z, [u * v % p for u, v in zip(a.twin or [], b.z, strict=False)]
        )

    async def dots(self, pairs: Sequence[tuple[Vector, Vector]]) -> Vector:
        """Inner products, one exchange for all and one number each, however long they are."""
        p = self.p
        z = [sum(u * v for u, v in zip(a.z, b.z, strict=True)) % p for a, b in pairs]
        twin = [
            sum(u * v for u, v in zip(a.twin, b.z, strict=True)) % p
            for a, b in pairs
            if a.twin is not None
        ]
        return await self._multiplied(z, twin)

    async def _multiplied(self, z: Ints, twin: Ints) -> Vector:
        """Local products, of double degree, as fresh shares."""
        if not z:
            return Vector([], [] if self.checked else None)
        shares = await self._reshare(z + twin)
        if not self.checked:
            return Vector(shares)
        pair = Vector(shares[: len(z)], shares[len(z) :])
        self._pairs.append(pair)
        return pair

    async def zero(self, a: Vector) -> list[bool]:
        """Open which numbers are zero, and nothing else about them."""
        if not len(a):
            return []
        masks = Vector([int(v.value) for v in self.rt._randoms(self.field, len(a))])
        return [v == 0 for v in await self.open((await self.mul(a, masks)).z)]

    async def hidden_zero(self, a: Vector) -> Vector:
        """1 where a number is zero, else 0, still shared. mpyc's test, wrong with chance 2**-30."""
        tests = [self.rt.is_zero(self.secint(self.field(v))) for v in a.z]
        self.products += 90 * len(a)  # 30 squares, 30 openings of a product, 30 to combine
        self.rounds += 8
        return Vector([int(v.value) for v in await self.rt.gather(tests)])

    async def less(self, a: Vector, b: Vector) -> Vector:
        """1 where a < b, else 0, still shared: mpyc's comparison."""
        tests = [
            self.secint(self.field(u)) < self.secint(self.field(v))
            for u, v in zip(a.z, b.z, strict=True)
        ]
        self.products += 3 * self.bits * len(a)
        self.rounds += 10
        return Vector([int(v.value) for v in await self.rt.gather(tests)])

    async def truncate(self, a: Vector, bits: int, room: int) -> Vector:
        """a / 2**bits, rounded up or down at random (mpyc); |a| < 2**(room - 1)."""
        cut = await self.rt.trunc([self.field(v) for v in a.z], f=bits, l=room)
        self.products += bits * len(a)
        self.rounds += 3
        return Vector([int(v.value) for v in cut])

    def random(self, n: int) -> Vector:
        """Secret uniform numbers, without exchange."""
        return Vector([int(v.value) for v in self.rt._randoms(self.field, n)])

    async def coin(self) -> int:
        """A public number that no coalition below K could foresee."""
        rows = await self.put_in([secrets.randbelow(self.p)])
        return (await self.open([sum(r[0] for r in rows) % self.p]))[0]

    async def verify(self) -> None:
        """Stop unless every product so far was right.

        Raises
        ------
        Cheating
            If a product was not, or a share was sent wrongly; it cannot be told by whom.
        """
        if not self.checked:
            return
        p, seed = self.p, await self.coin()
        weights = hashlib.shake_256(b"pet_lab verify" + seed.to_bytes(512, "little"))
        n = sum(len(v) for v in self._pairs)
        stream, at, u, w = weights.digest(16 * n), 0, 0, 0
        for v in self._pairs:
            for x, y in zip(v.z, v.twin or [], strict=True):
                c = int.from_bytes(stream[at : at + 16], "little")
                at, u, w = at + 16, u + c * x, w + c * y
        r = (await self.open([self._r]))[0]
        if (await self.open([(u * r - w) % p]))[0]:
            raise Cheating(
                "A product was computed wrongly; it cannot be told by whom. Nothing has left."
            )
        self._pairs.clear()

    async def _reshare(self, values: Ints) -> Ints:
        self.rounds += 1
        self.products += len(values)
        return [int(v.value) for v in await self.rt._reshare([self.field(v) for v in values])]


def _exchange(runtime: Any, field: Any, shares: Ints) -> Any:
    return _coroutine()(runtime, field, shares)


@functools.cache
def _coroutine() -> Any:
    """Defined on first use, for mpyc reads the command line when it is imported."""
    from asyncio import Future

    from mpyc.asyncoro import mpc_coro

    async def exchange(rt: Any, field: Any, shares: Ints) -> Any:
        await rt.returnType(Future)
        raw = field.to_bytes(shares)
        for party in rt.parties:
            if party.pid != rt.pid:
                rt._send_message(party.pid, raw)
        rows = [raw if q.pid == rt.pid else rt._receive_message(q.pid) for q in rt.parties]
        return await rt.gather(rows)

    exchange.__annotations__ = {}
    return mpc_coro(exchange)
