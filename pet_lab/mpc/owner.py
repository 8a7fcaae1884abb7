"""An owner of data: it encodes and splits them for a task, and hands in shares once all approve."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from msgspec.structs import replace

from pet_lab import shares
from pet_lab.parties.errors import PartyError, Refused
from pet_lab.parties.state import kept

from . import catalogue
from . import messages as m
from .errors import agreed
from .party import Party, Steps, from_output_party
from .policy import check_approvals, objections, spent
from .tasks import ColumnSchema, DataRef, Task

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

RESERVED_S = 600.0  # how long an owner keeps prepared data, and their budget, for a task


@dataclass(repr=False)
class PreparedData:
    """What an owner keeps between preparing data for a task and handing it in: a reservation."""

    draft: Task
    ref: DataRef
    rows: list[list[int]]
    salts: list[bytes]
    until: float = field(default_factory=lambda: time.monotonic() + RESERVED_S)


class Owner(Party):
    """A party that offers data, if its folder holds `data.csv` and `schema.json`."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._prepared: dict[str, PreparedData] = {}

    @property
    def steps(self) -> Steps:
        """Who answers which request."""
        mine: Steps = {m.Describe: self._describe, m.Prepare: self._prepare}
        return super().steps | mine | {m.HandIn: self._hand_in, m.Withdraw: self._withdraw}

    def _read(self) -> tuple[dict[str, ColumnSchema], pd.DataFrame]:
        """Columns and table of the data."""
        path = self.home / "schema.json"
        agreed(
            path.exists(),
            f"{self.name} offers no data; put data.csv and schema.json into its folder.",
        )
        from pet_lab.data.reader import read_table  # only owners need it, and it is slow to load

        with self._discreet():
            decode = functools.partial(msgspec.json.decode, type=dict[str, ColumnSchema])
            schema = kept(path, decode, what="the columns of the data")
            text = [k for k, c in schema.items() if c.kind != "number"]
            return schema, read_table(self.home / "data.csv", as_text=text).frame

    @contextlib.contextmanager
    def _discreet(self) -> Iterator[None]:
        """What is wrong with the data is for this party's own operator alone (stderr)."""
        try:
            yield
        except (PartyError, ValueError) as error:
            log.warning("the data of %s: %s", self.name, error)
            sentence = "are not as their schema says; its operator knows more."
            raise Refused(f"The data of {self.name} {sentence}") from None

    def _describe(self, peer: str, request: m.Describe) -> m.Description:
        schema, frame = self._read()
        return m.Description(rows=len(frame), schema=schema)

    def _prepare(self, peer: str, request: m.Prepare) -> m.Prepared:
        """Encode and split data for a draft; only commitments and check values leave."""
        draft = request.task
        from_output_party(peer, draft)
        catalogue.check(draft)
        self._within_limits(draft)
        p, points = catalogue.modulus(draft), m.as_numbers(request.points)
        fit = len(points) == draft.k and all(0 < v < p for v in points)
        agreed(fit, "A check needs one point for each processing party.")
        _, frame = self._read()
        with self._discreet():
            self._prepared[draft.nonce] = split = self._split(draft, frame)
        checked = zip(split.rows, points, strict=True)
        values = m.as_text(shares.check_value(row, at, p) for row, at in checked)
        signed = m.signed_check_values(draft.nonce, self.name, request.points, values)
        self.log.add("prepared", data=split.ref.sha256, function=draft.function)
        return m.Prepared(split.ref, values, self.signer.sign(signed))

    def _within_limits(self, task: Task) -> None:
        """Refuse what this owner's policy, with all that is spent and reserved, does not allow."""
        now = time.monotonic()
        self._prepared = {k: v for k, v in self._prepared.items() if v.until > now}
        reserved = [v.draft.epsilon for v in self._prepared.values()]
        used = spent(self.log, "handed in", [self.name], reserved)
        reasons = objections(self.policy, task, used, excluded=self.endpoint.barred)
        with self.noting("refused", function=task.function):
            agreed(not reasons, f"{self.name} gives no data: {' '.join(reasons)}")

    def _split(self, draft: Task, frame: pd.DataFrame) -> PreparedData:
        p = catalogue.modulus(draft)
        rng = np.random.default_rng(secrets.randbits(128))
        rows = shares.additive_split(catalogue.encode(draft, self.name, frame, rng), draft.k, p)
        for row in rows:
            row.append(secrets.randbelow(p))  # the mask of the check value
        salts = [secrets.token_bytes(32) for _ in rows]
        salted = zip(rows, salts, strict=True)
        commitments = tuple(shares.commit(shares.pack(row, p), salt) for row, salt in salted)
        ref = replace(draft.input(self.name), commitments=commitments)
        return PreparedData(draft, ref, rows, salts)

    async def _hand_in(self, peer: str, request: m.HandIn) -> m.Accepted:
        """Send each processing party its share, if the task is the one prepared for."""
        task = request.task
        split = self._prepared.pop(task.nonce, None)
        if split is None or peer != task.output_party or split.until < time.monotonic():
            raise Refused(
                "No data was prepared for this task, or it was handed in already; ask anew."
            )
        bare = (replace(d, commitments=("",) * task.k) for d in task.inputs)
        same = task.with_data(*bare) == split.draft and task.input(self.name) == split.ref
        agreed(same, "The task is not the one that the data was prepared for.")
        check_approvals(task, request.approvals, self.publics)
        self._within_limits(task)
        self.log.add(
            "handed in",
            task=task.sha256,
            data=split.ref.sha256,
            epsilon=task.epsilon_text,
            owners=task.owners,
        )
        p = catalogue.modulus(task)
        to = zip(task.processing_parties, split.rows, split.salts, strict=True)
        await asyncio.gather(
            *(
                self.ask(name, m.Deposit(task.sha256, shares.pack(row, p), salt), m.Accepted)
                for name, row, salt in to
            )
        )
        return m.Accepted(head=self.log.head())

    def _withdraw(self, peer: str, request: m.Withdraw) -> m.Accepted:
        split = self._prepared.get(request.nonce)
        if split is not None and peer == split.draft.output_party:
            del self._prepared[request.nonce]
        return m.Accepted()
