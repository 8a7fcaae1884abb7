"""Rounds of federated averaging: what an office does, what the server does, and a plain loop.

H. B. McMahan et al., "Communication-efficient learning of deep networks from decentralized data"
(AISTATS 2017). The same two classes stand behind every transport: the loop here, Flower in process,
and Flower between processes (`flower`). An office's randomness depends on the seed, its number and
the round alone, so that all transports give the same model.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pet_lab.checks import require, whole
from pet_lab.federated.aggregation import Message, Rejected, Scheme, pack, unpack
from pet_lab.federated.model import Evaluation, LocalTraining, Network
from pet_lab.federated.partition import Office
from pet_lab.parties import apart

Array = NDArray[np.float64]
Evaluations = dict[tuple[int, str], Evaluation]
Transform = Callable[[int, Array, Array], Array]
"""(round, weights received, weights trained) -> weights sent: clipping, or an attack."""

CPU_STEPS = ("train_cpu_s", "encrypt_cpu_s", "decrypt_cpu_s")
"""What is timed at an office."""

_SERVER_STREAM = 10_007  # a number that no office has


def _cpu_s() -> float:
    return time.thread_time() + apart.spent()


class RoundVoid(RuntimeError):
    """Too few usable contributions: the round gives no model."""


@dataclass(frozen=True)
class Global:
    """The model as it comes from the server. `share` is 0 for an initial model in the clear."""

    message: Message = field(repr=False)
    share: float = 0.0


@dataclass(frozen=True)
class Update:
    """An office's contribution to a round, and the CPU seconds of `CPU_STEPS`."""

    office: str
    message: Message = field(repr=False)
    cpu_s: Mapping[str, float] = field(default_factory=dict)


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
    shared_cache: dict[tuple, tuple[Array, float]] = field(default_factory=dict)

    def initial(self) -> Global:
        """A starting model, in the clear: it has seen no data."""
        rng = np.random.default_rng([self.seed, self.number, 0])
        return Global([pack(self.network.initial(rng))])

    def decrypt(self, model: Global) -> tuple[Array, float]:
        """Weights in the clear and the CPU seconds that took; Rejected if they are no model."""
        if model.share == 0:
            require(len(model.message) == 1, "Expected an initial model in one part.", Rejected)
            return unpack(model.message[0], self.network.parameters), 0.0
        cache, key = self.shared_cache, (*model.message, model.share)
        if key not in cache:
            start = _cpu_s()
            weights = self.scheme.decrypt(model.message, model.share)
            cache.clear()
            cache[key] = weights, _cpu_s() - start
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
        seconds = train_s, time.thread_time() - start, decrypt_s
        return Update(self.office.name, message, dict(zip(CPU_STEPS, seconds, strict=True)))

    def evaluate(self, model: Global) -> Evaluation:
        """Accuracy and loss on the office's own test windows."""
        weights, _ = self.decrypt(model)
        return self.network.evaluate(weights, self.office.X_test, self.office.y_test)


@dataclass
class Aggregator:
    """The central authority: checks and adds what the offices send. Holds no secret.

    shares       what each office's share is: fixed when offices join, not taken from messages
    left_out     (round, office, reason)
    evaluations  (round, office) -> accuracy and loss on the office's test windows
    costs        CPU seconds by step, "contributions" and their "up_bytes", of all rounds
    """

    scheme: Scheme
    shares: Mapping[str, float]
    left_out: list[tuple[int, str, str]] = field(default_factory=list)
    evaluations: Evaluations = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def least(self) -> int:
        """Contributions without which a round is void."""
        return min(2, len(self.shares))

    def initial(self, network: Network, seed: int) -> Global:
        """A starting model of the server's own (scenario 3)."""
        return Global([pack(network.initial(np.random.default_rng([seed, _SERVER_STREAM])))])

    def miss(self, number: int, office: str, reason: str) -> None:
        """Note that an office is not in the sum of a round, and why."""
        self.left_out.append((number, office, reason))

    def combine(self, number: int, updates: Sequence[Update]) -> Global:
        """The next model from the usable updates; RoundVoid if fewer than `least` are."""
        start = _cpu_s()
        good: dict[str, Update] = {}
        for update in sorted(updates, key=lambda u: u.office):
            office = update.office
            try:
                require(office in self.shares, f"{office!r} is not one of the offices.", Rejected)
                twice = f"{office!r} sent weights twice; the first ones count."
                require(office not in good, twice, Rejected)
                self.scheme.check(update.message)
                good[office] = update
            except Rejected as error:
                self.miss(number, office, str(error))
        require(
            len(good) >= self.least,
            f"Round {number}: {len(good)} usable contributions, {self.least} are needed. "
            + " ".join(f"{o}: {why}" for r, o, why in self.left_out if r == number),
            RoundVoid,
        )
        total = self.scheme.add([u.message for u in good.values()])
        self.costs["add_cpu_s"] += _cpu_s() - start
        for u in good.values():
            own = {**u.cpu_s, "contributions": 1, "up_bytes": sum(map(len, u.message))}
            for step, value in own.items():
                self.costs[step] += value
        return Global(total, sum(self.shares[office] for office in good))


@dataclass(frozen=True)
class History:
    """What a training leaves behind: the last weights, shape (parameters,), the records of its
    `Aggregator`, and seconds on the clock.
    """

    weights: Array = field(repr=False)
    evaluations: Evaluations = field(repr=False)
    left_out: Sequence[tuple[int, str, str]]
    costs: Mapping[str, float] = field(repr=False)
    wall_s: float

    def totals(self) -> dict[str, float]:
        """Clients, rounds, and what all rounds together cost; bytes are of one office and round."""
        return {
            "clients": len({office for _, office in self.evaluations}),
            "rounds": max((number for number, _ in self.evaluations), default=0),
            **{step: self.costs.get(step, 0.0) for step in (*CPU_STEPS, "add_cpu_s")},
            "up_bytes_office_round": self.costs["up_bytes"] / self.costs["contributions"],
            "wall_s": self.wall_s,
        }


@dataclass(frozen=True)
class Federation:
    """Who trains what, and how weights are added: what every transport runs.

    seed           root of the offices' streams
    server_starts  the server sends the first model (scenario 3), not the first office
    transform      office -> what it does to its weights before sending

    ValueError without rounds, without offices or with two of one name: one would be counted and
    both would send.
    """

    offices: Sequence[Office]
    network: Network
    training: LocalTraining
    scheme: Scheme
    rounds: int = field(kw_only=True)
    seed: int = field(kw_only=True)
    server_starts: bool = field(default=False, kw_only=True)
    transform: Mapping[str, Transform] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        whole(1, rounds=self.rounds)
        names = [o.name for o in self.offices]
        listed = ", ".join(names) or "none"
        own = f"Expected offices with a name of their own each, got {listed}."
        require(names and len(set(names)) == len(names), own)

    @cached_property
    def shares(self) -> dict[str, float]:
        """Each office's share of the training windows, by name."""
        total = sum(o.n for o in self.offices)
        return {o.name: o.n / total for o in self.offices}

    def start(self) -> tuple[list[Client], Aggregator, Global]:
        """All programs in one process and the first model."""
        how = self.network, self.training, self.scheme, self.seed
        cache: dict[tuple, tuple[Array, float]] = {}
        clients = [
            Client(o, k, self.shares[o.name], *how, self.transform.get(o.name), cache)
            for k, o in enumerate(self.offices)
        ]
        server = Aggregator(self.scheme.public_side(), self.shares)
        own = server.initial(self.network, self.seed) if self.server_starts else None
        return clients, server, own or clients[0].initial()


def simulate(
    federation: Federation, *, evaluate_every: int = 1, participation: float = 1.0
) -> History:
    """Federated averaging in a plain loop; RoundVoid if a round lacks contributions.

    evaluate_every : rounds between tests; the last round is always tested
    participation : share of the offices that train in a round, drawn anew by the server; two at
        least
    """
    require(0 < participation <= 1, f"participation is a fraction in (0, 1], got {participation}.")
    wall = time.perf_counter()
    clients, server, model = federation.start()
    for number in range(1, federation.rounds + 1):
        updates, size = [], max(server.least, round(participation * len(clients)))
        rng = np.random.default_rng([federation.seed, _SERVER_STREAM, number])
        for k in sorted(rng.choice(len(clients), size, replace=False)):
            try:
                updates.append(clients[k].fit(number, model))
            except Rejected as error:
                server.miss(number, clients[k].office.name, str(error))
        model = server.combine(number, updates)
        if number % evaluate_every == 0 or number == federation.rounds:
            for client in clients:
                server.evaluations[number, client.office.name] = client.evaluate(model)
    return history(clients[0].decrypt(model)[0], server, wall)


def history(weights: Array, server: Aggregator, began: float) -> History:
    """What a training of this process leaves behind; `began` is a time.perf_counter()."""
    seconds = time.perf_counter() - began
    return History(weights, server.evaluations, tuple(server.left_out), server.costs, seconds)
