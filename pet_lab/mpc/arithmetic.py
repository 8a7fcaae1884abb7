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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pet_lab.checks import require
from pet_lab.shares import ShareError, shamir_open, unpack

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
        return local(lambda z: z[where], self)

    def take(self, order: Sequence[int]) -> Vector:
        """The elements at these positions, in this order."""
        return local(lambda z: [z[i] for i in order], self)


def local(step: Callable[..., Ints], *vectors: Vector) -> Vector:
    """A linear step without exchange, on the numbers and on their twins alike."""
    twins = [v.twin for v in vectors]
    return Vector(step(*(v.z for v in vectors)), None if None in twins else step(*twins))


class Arithmetic:
    """One party's view of a computation modulo a prime p, on a connected mpyc runtime."""

    def __init__(self, runtime: Any, p: int, *, checked: bool = False) -> None:
        from mpyc.sectypes import SecInt

        self.rt, self.p, self.checked = runtime, p, checked
        self.bits = p.bit_length() - 40  # room for mpyc's statistical masks of 30 bits
        self.secint = SecInt(self.bits, p=p)
        self.field = self.secint.field
        self.products = self.opened = self.rounds = 0
        self._pairs: list[Vector] = []
        self._r = int(runtime._random(self.field).value) if checked else 0

    async def put_in(self, mine: Ints) -> list[Ints]:
        """Each party's vector, all of one length, as Shamir shares; one row a party."""
        if not mine:
            return [[] for _ in self.rt.parties]
        self.rounds += 1
        rows = await self.rt.input([self.field(v) for v in mine])
        return [_numbers(row, len(mine)) for row in rows]

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
        """Open to all processing parties, from all shares; Cheating if they contradict."""
        if not shares:
            return []
        self.rounds += 1
        self.opened += len(shares)
        try:
            rows = [unpack(raw, self.p) for raw in await _exchange()(self.rt, self.field, shares)]
            alike = len({len(row) for row in rows}) == 1
            require(alike, "A party sent too many or too few shares.", Cheating)
            if len(rows) == 3:  # the same check in closed form: threshold 1
                straight = not any((a - 2 * b + c) % self.p for a, b, c in zip(*rows, strict=True))
                require(straight, "The shares of a number contradict each other.", Cheating)
                return [(2 * a - b) % self.p for a, b, _ in zip(*rows, strict=True)]
            points = {i + 1: row for i, row in enumerate(rows)}  # party 0 holds the one at 1
            opened = shamir_open(points, needed=self.rt.threshold + 1, prime=self.p)
        except ShareError as error:
            raise Cheating(str(error)) from None
        require(not opened.wrong, "A share of a number does not fit the others.", Cheating)
        return opened.values

    def add(self, a: Vector, b: Vector, *, times: int = 1) -> Vector:
        """a + times * b, element by element."""
        p = self.p
        return local(lambda x, y: [(u + times * v) % p for u, v in zip(x, y, strict=True)], a, b)

    def scale(self, a: Vector, times: int) -> Vector:
        """times * a."""
        return local(lambda z: [times * v % self.p for v in z], a)

    def total(self, a: Vector) -> Vector:
        """The sum of all elements, as a vector of one."""
        return local(lambda z: [sum(z) % self.p], a)

    def concat(self, parts: Sequence[Vector]) -> Vector:
        """One vector after another."""
        z = [v for part in parts for v in part.z]
        return Vector(z, [v for part in parts for v in part.twin or []] if self.checked else None)

    async def mul(self, a: Vector, b: Vector) -> Vector:
        """Products element by element, one exchange."""
        sides = [a.z] if a.twin is None else [a.z, a.twin]
        products = ([u * v % self.p for u, v in zip(z, b.z, strict=True)] for z in sides)
        return await self._multiplied(*products)

    async def dots(self, pairs: Sequence[tuple[Vector, Vector]]) -> Vector:
        """Inner products, one exchange for all and one number each, however long they are."""
        twins = [(a.twin, b.z) for a, b in pairs if a.twin is not None]
        sums = (
            [sum(u * v for u, v in zip(x, y, strict=True)) % self.p for x, y in side]
            for side in ([(a.z, b.z) for a, b in pairs], twins)
        )
        return await self._multiplied(*sums)

    async def _multiplied(self, z: Ints, twin: Ints | None = None) -> Vector:
        """Local products, of double degree, as fresh shares."""
        if not z:
            return Vector([], [] if self.checked else None)
        shares = await self._reshare([*z, *(twin or ())])
        if not self.checked:
            return Vector(shares)
        pair = Vector(shares[: len(z)], shares[len(z) :])
        self._pairs.append(pair)
        return pair

    async def zero(self, a: Vector) -> list[bool]:
        """Open which numbers are zero, and nothing else about them."""
        if not len(a):
            return []
        masked = await self.mul(a, self.random(len(a)))
        return [v == 0 for v in await self.open(masked.z)]

    async def hidden_zero(self, a: Vector) -> Vector:
        """1 where a number is zero, else 0, still shared. mpyc's test, wrong with chance 2**-30."""
        tests = [self.rt.is_zero(self.secint(self.field(v))) for v in a.z]
        self.products += 90 * len(a)  # 30 squares, 30 openings of a product, 30 to combine
        self.rounds += 8
        return Vector(_numbers(await self.rt.gather(tests), len(a)))

    async def less(self, a: Vector, b: Vector) -> Vector:
        """1 where a < b, else 0, still shared: mpyc's comparison."""
        shared = ([self.secint(self.field(v)) for v in side.z] for side in (a, b))
        tests = [u < v for u, v in zip(*shared, strict=True)]
        self.products += 3 * self.bits * len(a)
        self.rounds += 10
        return Vector(_numbers(await self.rt.gather(tests), len(a)))

    async def truncate(self, a: Vector, bits: int, room: int) -> Vector:
        """a / 2**bits, rounded up or down at random (mpyc); |a| < 2**(room - 1)."""
        cut = await self.rt.trunc([self.field(v) for v in a.z], f=bits, l=room)
        self.products += bits * len(a)
        self.rounds += 3
        return Vector(_numbers(cut, len(a)))

    def random(self, n: int) -> Vector:
        """Secret uniform numbers, without exchange."""
        return Vector([int(v.value) for v in self.rt._randoms(self.field, n)])

    async def coin(self) -> int:
        """A public number that no coalition below K could foresee."""
        rows = await self.put_in([secrets.randbelow(self.p)])
        return (await self.open([sum(r[0] for r in rows) % self.p]))[0]

    async def verify(self) -> None:
        """Stop unless every product so far was right; Cheating cannot tell who made a wrong one."""
        if not self.checked:
            return
        p, seed = self.p, await self.coin()
        weights = hashlib.shake_256(b"pet_lab verify" + seed.to_bytes(512, "little"))
        pairs = [xy for v in self._pairs for xy in zip(v.z, v.twin or [], strict=True)]
        stream, u, w = weights.digest(16 * len(pairs)), 0, 0
        for i, (x, y) in enumerate(pairs):
            c = int.from_bytes(stream[16 * i : 16 * i + 16], "little")
            u, w = u + c * x, w + c * y
        r = (await self.open([self._r]))[0]
        wrong = (await self.open([(u * r - w) % p]))[0]
        sentence = "A product was computed wrongly; it cannot be told by whom. Nothing has left."
        require(not wrong, sentence, Cheating)
        self._pairs.clear()

    async def _reshare(self, values: Ints) -> Ints:
        self.rounds += 1
        self.products += len(values)
        return _numbers(await self.rt._reshare([self.field(v) for v in values]), len(values))


def _numbers(shares: Sequence[Any], count: int) -> Ints:
    """What mpyc returns, which is as long as a message that it was made from."""
    require(len(shares) == count, "A party sent too many or too few shares.", Cheating)
    return [int(share.value) for share in shares]


@functools.cache
def _exchange() -> Any:
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
