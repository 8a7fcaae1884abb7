"""A service party that deviates on order: `python -m pet_lab.studies.deviating FOLDER`.

`Service(..., module="pet_lab.studies.deviating")` starts all parties so. Without an order `Faults`
they behave; the production classes know nothing of faults.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import psutil

from pet_lab.mpc import catalogue, messages, node
from pet_lab.mpc.arithmetic import Arithmetic
from pet_lab.mpc.errors import agreed
from pet_lab.mpc.processor import Computation


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

    async def _multiplied(self, z: list[int], twin: list[int] | None = None) -> Any:
        if z and not self.shifted:
            z[0], self.shifted = (z[0] + 10**12) % self.p, True
        return await super()._multiplied(z, twin)


class Deviating(node.ServiceParty):
    """A party with faults."""

    faults: frozenset[str] = frozenset()

    def _missing(self, *arguments: Any) -> str:
        return "" if "push" in self.faults else super()._missing(*arguments)

    async def _hand_in(self, peer: str, request: messages.HandIn) -> messages.Accepted:
        split = self._prepared.get(request.task.nonce)
        if "change_data" in self.faults and split is not None:
            schema, frame = self._read()
            name, column = next((k, c) for k, c in schema.items() if c.kind == "number")
            low = frame[name].astype(float) == column.low
            frame[name] = frame[name].where(frame.index != 0, column.high if low[0] else column.low)
            other = replace(self._split(split.draft, frame), ref=split.ref)
            self._prepared[request.task.nonce] = other
        return await super()._hand_in(peer, request)

    def _prepare(self, peer: str, request: messages.Prepare) -> messages.Prepared:
        prepared = super()._prepare(peer, request)
        if "wrong_check_value" not in self.faults:
            return prepared
        values = ("1", *prepared.check_values[1:])
        signed = messages.signed_check_values(request.task.nonce, self.name, request.points, values)
        return messages.Prepared(prepared.ref, values, self.signer.sign(signed))

    def _justify(self, peer: str, request: messages.Justify) -> messages.Opening:
        agreed("silent" not in self.faults, "I say nothing.")
        return super()._justify(peer, request)

    def _deposited(self, session: Computation) -> list[list[int]]:
        rows = super()._deposited(session)
        if "wrong_share" in self.faults:
            rows[0][0] = (rows[0][0] + 1) % catalogue.modulus(session.task)
        return rows

    async def _compute(self, session: Computation) -> catalogue.AnswerShares:
        if "die" in self.faults:
            psutil.Process().kill()
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
        match order:
            case Faults(faults):
                self.party.faults = frozenset(faults)  # type: ignore[attr-defined]
                wrong = "wrong_product" in faults
                self.party.arithmetic_type = WrongProduct if wrong else Arithmetic
            case Send(to, message):
                request = msgspec.convert(message, messages.AnyRequest)
                return await self.party.ask(to, request, Any)
            case _:
                return await super().obey(order)
        return None


if __name__ == "__main__":
    asyncio.run(node.run(Path(sys.argv[1]), DeviatingConsole))
