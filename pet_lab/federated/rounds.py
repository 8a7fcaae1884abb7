"""Rounds of federated averaging: what an office does, what the server does, and a plain loop.

H. B. McMahan et al., "Communication-efficient learning of deep networks from decentralized data"
(AISTATS 2017). The same two classes stand behind every transport: the loop here, Flower in process,
and Flower between processes (`flower`). An office's randomness depends on the seed, its number and
the round alone, so that all transports give the same model.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pet_lab.federated.aggregation import Message, Rejected, Scheme, pack, unpack
from pet_lab.federated.model import Evaluation, LocalTraining, Network
from pet_lab.federated.partition import Office

__all__ = [
    "Aggregator",
    "Client",
    "Cost",
    "Global",
    "History",
    "RoundVoid",
    "Transform",
    "Update",
    "simulate",
    "start",
]

Array = NDArray[np.float64]
Evaluations = Mapping[tuple[int, str], Evaluation]
Transform = Callable[[int, Array, Array], Array]
"""(round, weights received, weights trained) -> weights sent: clipping, or an attack."""

CPU_STEPS = ("train_cpu_s", "encrypt_cpu_s", "decrypt_cpu_s")
"""What is timed at an office."""

_SERVER_STREAM = 10_007  # a number that no office has


class RoundVoid(RuntimeError):
    """Too few usable contributions: the round gives no model."""


@dataclass(frozen=True)
class Global:
    """The model as it comes from the server. `share` is 0 for an initial model in the clear."""

    message: Message = field(repr=False)
    share: float = 0.0


@dataclass(frozen=True)
class Update:
    """An office's contribution to a round."""

    office: str
    message: Message = field(repr=False)
    train_cpu_s: float = 0.0
    encrypt_cpu_s: float = 0.0
    decrypt_cpu_s: float = 0.0

    @property
    def size_bytes(self) -> int:
        """Bytes that the office sends."""
        return sum(map(len, self.message))


@dataclass(frozen=True)
class Cost:
    """CPU seconds or bytes of one step of one round, `office` "server" for the server's."""

    round: int
    office: str
    step: str
    value: float


@dataclass
class Client:
    """One office's program: decrypts the model, trains, encrypts its weights, tests.

    shared_cache   offices of one process that hold one key decrypt a model once, not four times;
                   what decrypting costs is then booked for each
    """

    office: Office
    number: int
    share: float
    network: Network
    training: LocalTraining
    scheme: Scheme
    seed: int
    transform: Transform | None = None
    shared_cache: dict[bytes, tuple[Array, float]] = field(default_factory=dict)

    def initial(self) -> Global:
        """A starting model, in the clear: it has seen no data."""
        rng = np.random.default_rng([self.seed, self.number, 0])
        return Global([pack(self.network.initial(rng))])

    def decrypt(self, model: Global) -> tuple[Array, float]:
        """Weights in the clear and the CPU seconds that took.

        Raises
        ------
        Rejected
            If the message is no model of this shape, or does not decrypt to one.
        """
        if model.share == 0:
            if len(model.message) != 1:
                raise Rejected("Expected an initial model in one part.")
            return unpack(model.message[0], self.network.parameters), 0.0
        cache, digest = self.shared_cache, hashlib.sha256(repr(model.share).encode())
        for part in model.message:
            digest.update(len(part).to_bytes(8, "big") + part)
        if (key := digest.digest()) not in cache:
            start = time.thread_time()
            weights = self.scheme.decrypt(model.message, model.share)
            cache.clear()
            cache[key] = weights, time.thread_time() - start
        return cache[key]

    def fit(self, number: int, model: Global) -> Update:
        """Contribution to round `number` (from 1)."""
        received, decrypt_s = self.decrypt(model)
        rng = np.random.default_rng([self.seed, self.number, number])
        start = time.thread_time()
        weights = self.network.train(received, self.office.X, self.office.y, self.training, rng)
        train_s = time.thread_time() - start
        if self.transform is not None:
            weights = self.transform(number, received, weights)
        start = time.thread_time()
        message = self.scheme.encrypt(weights, self.share)
        encrypt_s = time.thread_time() - start
        return Update(self.office.name, message, train_s, encrypt_s, decrypt_s)

    def evaluate(self, model: Global) -> Evaluation:
        """Accuracy and loss on the office's own test windows."""
        weights, _ = self.decrypt(model)
        return self.network.evaluate(weights, self.office.X_test, self.office.y_test)


@dataclass
class Aggregator:
    """The central authority: checks and adds what the offices send. Holds no secret.

    least   contributions without which a round is void
    shares  what each office's share is: fixed when the offices join, not taken from messages
    """

    scheme: Scheme
    shares: Mapping[str, float]
    least: int = 2
    left_out: list[tuple[int, str, str]] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)

    def initial(self, network: Network, seed: int) -> Global:
        """A starting model of the server's own (scenario 3)."""
        return Global([pack(network.initial(np.random.default_rng([seed, _SERVER_STREAM])))])

    def miss(self, number: int, office: str, reason: str) -> None:
        """Note that an office is not in the sum of a round, and why."""
        self.left_out.append((number, office, reason))

    def combine(self, number: int, updates: Sequence[Update]) -> Global:
        """The next model from the usable updates.

        Raises
        ------
        RoundVoid
            If fewer than `least` are usable.
        """
        start = time.thread_time()
        good: list[Update] = []
        for update in sorted(updates, key=lambda u: u.office):
            try:
                if update.office not in self.shares:
                    raise Rejected(f"{update.office!r} is not one of the offices.")
                if update.office in {u.office for u in good}:
                    raise Rejected(f"{update.office!r} sent weights twice; the first ones count.")
                self.scheme.check(update.message)
            except Rejected as error:
                self.miss(number, update.office, str(error))
            else:
                good.append(update)
        if len(good) < self.least:
            raise RoundVoid(
                f"Round {number}: {len(good)} usable contributions, {self.least} are needed. "
                + " ".join(f"{o}: {why}" for r, o, why in self.left_out if r == number)
            )
        total = self.scheme.add([u.message for u in good])
        self.costs.append(Cost(number, "server", "add_cpu_s", time.thread_time() - start))
        for u in good:
            for step in CPU_STEPS:
                self.costs.append(Cost(number, u.office, step, getattr(u, step)))
            self.costs.append(Cost(number, u.office, "up_bytes", u.size_bytes))
        self.costs.append(Cost(number, "server", "down_bytes", sum(map(len, total))))
        return Global(total, sum(self.shares[u.office] for u in good))

    def history(self, weights: Array, evaluations: Evaluations, wall_s: float) -> History:
        """What the training leaves behind."""
        return History(weights, evaluations, tuple(self.left_out), tuple(self.costs), wall_s)


@dataclass(frozen=True)
class History:
    """What a training leaves behind.

    weights      the last model, shape (parameters,)
    evaluations  (round, office) -> accuracy and loss on the office's test windows
    left_out     (round, office, reason)
    costs        CPU seconds and bytes by round, office and step
    wall_s       seconds on the clock
    """

    weights: Array = field(repr=False)
    evaluations: Evaluations = field(repr=False)
    left_out: tuple[tuple[int, str, str], ...]
    costs: tuple[Cost, ...] = field(repr=False)
    wall_s: float

    def cost(self, step: str) -> float:
        """Sum of one kind of cost over all rounds and offices."""
        return float(sum(c.value for c in self.costs if c.step == step))

    def totals(self) -> dict[str, float]:
        """Clients, rounds, and what all rounds together cost; bytes are of one office and round."""
        sent = [c.value for c in self.costs if c.step == "up_bytes"]
        return {
            "clients": len({office for _, office in self.evaluations}),
            "rounds": max((number for number, _ in self.evaluations), default=0),
            **{step: self.cost(step) for step in (*CPU_STEPS, "add_cpu_s")},
            "up_bytes_office_round": sum(sent) / max(len(sent), 1),
            "wall_s": self.wall_s,
        }


def shares_of(offices: Sequence[Office]) -> dict[str, float]:
    """Each office's share of the training windows, by name.

    Raises
    ------
    ValueError
        Without offices or with two of one name: one would be counted and both would send.
    """
    names = [o.name for o in offices]
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"Expected offices with a name of their own each, got {', '.join(names) or 'none'}."
        )
    total = sum(o.n for o in offices)
    return {o.name: o.n / total for o in offices}


def start(
    offices: Sequence[Office],
    network: Network,
    training: LocalTraining,
    scheme: Scheme,
    *,
    seed: int,
    server_starts: bool = False,
    transform: Mapping[str, Transform] | None = None,
) -> tuple[list[Client], Aggregator, Global]:
    """All programs in one process and the first model.

    Parameters
    ----------
    offices, network, training, scheme
        Who, what, how, and how weights are added.
    seed : int
        Root of the offices' streams.
    server_starts : bool
        The server sends the first model (scenario 3), not the first office.
    transform : mapping from office to function, optional
        What an office does to its weights before sending: clipping, or an attack.

    Raises
    ------
    ValueError
        As `shares_of`.
    """
    shares, transforms = shares_of(offices), transform or {}
    cache: dict[bytes, tuple[Array, float]] = {}
    clients = [
        Client(o, k, shares[o.name], network, training, scheme, seed, transforms.get(o.name), cache)
        for k, o in enumerate(offices)
    ]
    server = Aggregator(scheme.public_side(), shares, least=min(2, len(clients)))
    return clients, server, server.initial(network, seed) if server_starts else clients[0].initial()


def simulate(
    offices: Sequence[Office],
    network: Network,
    training: LocalTraining,
    scheme: Scheme,
    *,
    rounds: int,
    seed: int,
    evaluate_every: int = 1,
    participation: float = 1.0,
    **how: Any,
) -> History:
    """Federated averaging in a plain loop; `how` and the rest as of `start`.

    Parameters
    ----------
    rounds : int
    evaluate_every : int
        Rounds between tests; the last round is always tested.
    participation : float
        Share of the offices that train in a round, drawn anew by the server; two at least.

    Raises
    ------
    RoundVoid
        If a round lacks contributions.
    ValueError
        As `start`; also without rounds, and for a participation outside (0, 1].
    """
    if rounds < 1:
        raise ValueError(f"Expected at least one round, got {rounds}.")
    if not 0 < participation <= 1:
        raise ValueError(f"participation is a fraction in (0, 1], got {participation}.")
    wall = time.perf_counter()
    clients, server, model = start(offices, network, training, scheme, seed=seed, **how)
    evaluations = {}
    for number in range(1, rounds + 1):
        updates, size = [], max(server.least, round(participation * len(clients)))
        rng = np.random.default_rng([seed, _SERVER_STREAM, number])
        for k in sorted(rng.choice(len(clients), size, replace=False)):
            client = clients[k]
            try:
                updates.append(client.fit(number, model))
            except Rejected as error:
                server.miss(number, client.office.name, str(error))
        model = server.combine(number, updates)
        if number % evaluate_every == 0 or number == rounds:
            for client in clients:
                evaluations[number, client.office.name] = client.evaluate(model)
    weights, _ = clients[0].decrypt(model)
    return server.history(weights, evaluations, time.perf_counter() - wall)
