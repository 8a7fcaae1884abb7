"""A service party that deviates on order: `python -m pet_lab.studies.deviating FOLDER`.

`Service(..., module="pet_lab.studies.deviating")` starts all parties so. Without an order `Faults`
they behave; the production classes know nothing of faults.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import msgspec
from msgspec import structs

from pet_lab.mpc import catalogue, messages, node
from pet_lab.mpc.arithmetic import Arithmetic
from pet_lab.mpc.messages import AnyRequest
from pet_lab.mpc.party import Computation, PreparedData, ServiceParty
from pet_lab.parties.errors import Refused
from pet_lab.parties.log import canonical


class Faults(node.Order, frozen=True):
    """How to deviate from now on.

    push           start a task that was refused
    change_data    alter a cell after the approvals
    wrong_check_value  sign another check value for the first processing party, as an owner
    silent         open nothing when accused
    wrong_share    put in another share of an input than was deposited
    wrong_product  compute the first product of a task wrongly
    wrong_result   send a wrong share of the answer
    die            end in the middle of a task
    """

    faults: tuple[str, ...] = ()


class Send(node.Order, frozen=True):
    """Send a message out of turn; its answer is only printed."""

    to: str
    message: dict[str, Any]


class WrongProduct(Arithmetic):
    """Shifts this party's part of the first product."""

    shifted = False

    async def _multiplied(self, z: list[int], twin: list[int]) -> Any:
        if z and not self.shifted:
            z[0], self.shifted = (z[0] + 10**12) % self.p, True
        return await super()._multiplied(z, twin)


class Deviating(ServiceParty):
    """A party with faults."""

    faults: frozenset[str] = frozenset()

    def _require_all(self, *arguments: Any) -> None:
        if "push" not in self.faults:
            super()._require_all(*arguments)

    async def _hand_in(self, peer: str, request: messages.HandIn) -> messages.Accepted:
        split = self._prepared.get(request.task.nonce)
        if "change_data" in self.faults and split is not None:
            name, column = next(
                (k, c) for k, c in (self.schema or {}).items() if c.kind == "number"
            )
            frame = self._table()
            low = frame[name].astype(float) == column.low
            frame[name] = frame[name].where(frame.index != 0, column.high if low[0] else column.low)
            other: PreparedData = self._split(split.draft, frame)
            self._prepared[request.task.nonce] = replace(other, ref=split.ref)
        return await super()._hand_in(peer, request)

    def _prepare(self, peer: str, request: messages.Prepare) -> messages.Prepared:
        prepared = super()._prepare(peer, request)
        if "wrong_check_value" not in self.faults:
            return prepared
        values = ("1", *prepared.check_values[1:])
        signed = messages.signed_check_values(request.task, self.name, request.points, values)
        signature = self.signer.sign(canonical(signed))
        return structs.replace(prepared, check_values=values, signature=signature)

    def _justify(self, peer: str, request: messages.Justify) -> messages.Opening:
        if "silent" in self.faults:
            raise Refused("I say nothing.")
        return super()._justify(peer, request)

    def _deposited(self, session: Computation) -> list[list[int]]:
        rows = super()._deposited(session)
        if "wrong_share" in self.faults:
            rows[0][0] = (rows[0][0] + 1) % catalogue.modulus(session.task)
        return rows

    async def _put_in(self, session: Computation, rows: list[list[int]]) -> None:
        wrong = "wrong_product" in self.faults
        self.arithmetic_type = WrongProduct if wrong else Arithmetic
        await super()._put_in(session, rows)

    async def _compute(self, session: Computation) -> catalogue.AnswerShares:
        if "die" in self.faults:
            os.kill(os.getpid(), signal.SIGKILL)
        answer = await super()._compute(session)
        if "wrong_result" in self.faults and answer.shares:
            answer.shares[0] = (answer.shares[0] + 1) % catalogue.modulus(session.task)
        return answer


class DeviatingConsole(node.Console):
    """Obeys two orders more."""

    party_type = Deviating
    orders: ClassVar[Any] = node.Console.orders | Faults | Send

    async def obey(self, order: Any) -> Any:
        """Carry out one order; returns a record, or None."""
        if isinstance(order, Faults):
            self.party.faults = frozenset(order.faults)  # type: ignore[attr-defined]
            return None
        if isinstance(order, Send):
            request = msgspec.convert(order.message, AnyRequest)
            return await self.party.ask(order.to, request, Any)
        return await super().obey(order)


if __name__ == "__main__":
    asyncio.run(node.run(Path(sys.argv[1]), DeviatingConsole))
