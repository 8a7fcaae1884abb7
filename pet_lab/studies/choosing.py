"""Choosing: four tasks by every technique, with the cost, the error, and who reads what.

Parties are functions of one process that hand bytes over a `Wire`: a simulation of parties who
follow the protocol. Protocols are the package's own; Beaver's product here is teaching code, not
for use. Noise on sums is exact and from the system, that of training from the seed.
"""

from __future__ import annotations

import dataclasses
import secrets
import time
import timeit
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from pet_lab import accounting, enclave, paillier, psi
from pet_lab.checks import between, distinct, one_of, positive, whole
from pet_lab.federated import masking
from pet_lab.federated.model import LocalTraining, Network
from pet_lab.noise import discrete_laplace
from pet_lab.rows import Claim, Rows, claims, concat, means, only, streams, tidy, wide
from pet_lab.seal import SCALE as CKKS_SCALE
from pet_lab.seal import Seal
from pet_lab.shares import ring_join, ring_split

from . import ckks
from .enclave import recovered

Array = NDArray[np.float64]
Whole = NDArray[np.int64]
Shares = list[NDArray[np.uint64]]  # one array a server, modulo 2**64
TEXT = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
LABELS, QUESTIONS = TEXT["labels"], TEXT["questions"]
CLEAR, HE, MPC = "in the clear", "homomorphic encryption", "secret sharing"
PSI, DP, FEDERATED = "set intersection", "differential privacy", "federated"
ENCLAVE, MASKED, NOISY_HE = "enclave, simulated", "federated + DP + MPC", "HE + DP"
TECHNIQUES = (CLEAR, HE, MPC, PSI, DP, FEDERATED, ENCLAVE, MASKED, NOISY_HE)
PRIVATE = (DP, MASKED, NOISY_HE)
TASKS = ("sum", "join", "mean by group", "prediction")
PILLARS = ("training data", "input", "output", "model")
KEY_BITS, GROUPS, LARGEST, DELTA, SCALE = 2048, 3, 5000.0, 1e-5, 2.0**16
SIZE, ERROR_PERCENT = 10_000, 5.0  # of the static table: rows, and the error that it allows
SERVER, READER, PERSON, OWNER = "server", "reader", "person", "model's owner"
HELPERS, FILES = ("server 1", "server 2"), ("owner-1", "owner-2")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Parameters of the notebook, checked."""

    records: Sequence[int]
    offices: int
    epsilon: float
    rounds: int
    delay_ms: float
    megabits: float
    replicates: int
    seed: int

    def __post_init__(self) -> None:
        distinct(records=self.records)
        for n in self.records:
            whole(40, records=n)
            between(40, 10_000, records=n, hint="each row is encrypted by itself")
        whole(2, offices=self.offices)
        between(2, 10, offices=self.offices, hint="300 training records are divided among them")
        between(0.1, 50, epsilon=self.epsilon)
        whole(1, rounds=self.rounds, replicates=self.replicates)
        positive(delay_ms=self.delay_ms, megabits=self.megabits)
        whole(0, seed=self.seed)


class Wire:
    """What parties of one protocol send: bytes by (sender, receiver), and what each can read."""

    def __init__(self) -> None:
        self.sent, self._before = Counter[tuple[str, str]](), 0
        self._clock, self._held = dict[str, int](), dict[str, list[bytes]]()

    def send(self, *messages: tuple[str, str, bytes]) -> None:
        """Messages (sender, receiver, content) that leave at the same time."""
        at = [self._clock.get(sender, 0) + 1 for sender, _, _ in messages]
        for (sender, receiver, content), when in zip(messages, at, strict=True):
            self.sent[sender, receiver] += len(content)
            self._clock[receiver] = max(self._clock.get(receiver, 0), when)
            self.know(receiver, content)

    def know(self, party: str, content: bytes) -> None:
        """A party works something out for itself."""
        self._held.setdefault(party, []).append(content)

    def ran(self, size: float, rounds: int) -> None:
        """A protocol ran that counts its own bytes and messages."""
        self.sent["", ""] += round(size)
        self._before += rounds

    @property
    def rounds(self) -> int:
        """Messages in the longest chain, each sent after the one before had come."""
        return self._before + max(self._clock.values(), default=0)

    def read(self, values: Iterable[Any], *own: str) -> float:
        """Share of the first 50 values that a party other than `own` holds as they are: numbers as
        doubles or as whole hundredths, words as text."""
        others = b"\n".join(c for party, h in self._held.items() if party not in own for c in h)
        return float(np.mean([any(f in others for f in _forms(v)) for v in list(values)[:50]]))


def _forms(value: Any) -> list[bytes]:
    if isinstance(value, str):
        return [value.encode()]
    large = abs(value) >= 100  # the hundredths of smaller ones are mostly zero bytes
    return [np.float64(value).tobytes()] + [_hundredths(value).tobytes()] * large


def _hundredths(values: Any) -> Whole:
    return np.rint(100 * np.asarray(values)).astype(np.int64)


class Setup:
    """What is there before a task: fresh keys, settings, and random numbers for data and training.

    Slots of Paillier have room for noise that is exceeded with a chance below e**-40.
    """

    def __init__(self, settings: Settings, rng: np.random.Generator) -> None:
        self.settings, self.rng, self.key = settings, rng, paillier.generate(KEY_BITS)
        limit, most = LARGEST * (1 + 80 / settings.epsilon), 1 + max(1000, *settings.records)
        self.packing = paillier.Packing(
            key_bits=KEY_BITS, max_terms=most, limit=limit, value_bits=44
        )
        self.seal = Seal(8192, [60, 40, 60])


# --- pieces that several protocols use ------------------------------------------------------------


def noise(setup: Setup, columns: int, most: float = LARGEST) -> Array:
    """Discrete Laplace noise in hundredths, for one total, or for totals and counts of groups.

    Add or remove one person, who has one value of at most `most` and counts once: epsilon, half of
    it for each kind.
    """
    reach = [most] if columns == 1 else [most] * GROUPS + [1.0] * GROUPS
    epsilon = Fraction(setup.settings.epsilon) / len(set(reach))
    return np.array([discrete_laplace(Fraction(100 * r) / epsilon) / 100 for r in reach])


def encrypted_rows(setup: Setup, rows: Array) -> bytes:
    """One Paillier ciphertext a row, as sent; its columns are in the slots."""
    slots = np.zeros((len(rows), setup.packing.slots))
    slots[:, : rows.shape[1]] = rows
    return setup.key.public.encrypt(slots.ravel(), setup.packing, noise="short").to_bytes()


def rows_of(setup: Setup, message: bytes) -> list[paillier.Ciphertexts]:
    """The rows of a message, each by itself; CiphertextError if it is damaged."""
    every, slots = setup.key.public.read(message), setup.packing.slots
    return [dataclasses.replace(every, count=slots, values=(c,)) for c in every.values]


def share(wire: Wire, sender: str, values: Whole) -> Shares:
    """Additive shares of whole numbers, one array at each server."""
    parts = ring_split(values.ravel(), 2)
    wire.send(*((sender, h, p.tobytes()) for h, p in zip(HELPERS, parts, strict=True)))
    return [p.reshape(values.shape) for p in parts]


def opened(wire: Wire, reader: str, parts: Shares) -> Whole:
    """What both servers' shares add up to, at the reader."""
    wire.send(*((h, reader, p.tobytes()) for h, p in zip(HELPERS, parts, strict=True)))
    return ring_join(parts)


def beaver(wire: Wire, x: Shares, y: Shares) -> Shares:
    """Shares of products by the slides' identity, from both servers' shares of the factors; a
    dealer gives the triples. Teaching code, not for use: nothing is checked."""
    a, b = (np.frombuffer(secrets.token_bytes(x[0].nbytes), np.uint64) for _ in range(2))
    triples = [ring_split(v.view(np.int64), 2) for v in (a, b, a * b)]
    held = [[part[i].reshape(x[0].shape) for part in triples] for i in range(2)]
    wire.send(*(("dealer", h, b"".join(map(bytes, t))) for h, t in zip(HELPERS, held, strict=True)))
    masked = [(x[i] + held[i][0], y[i] + held[i][1]) for i in range(2)]
    one, two = (b"".join(map(bytes, pair)) for pair in masked)
    wire.send((HELPERS[0], HELPERS[1], one), (HELPERS[1], HELPERS[0], two))
    d, e = (left + right for left, right in zip(*masked, strict=True))
    return [c - d * b - e * a + (d * e if i == 0 else 0) for i, (a, b, c) in enumerate(held)]


def masked_sum(wire: Wire, vectors: Sequence[Array]) -> Array:
    """The sum by pairwise masking: keys, shares, vectors and answers, each but the last with a
    reply."""
    outcome = masking.aggregate(vectors)
    wire.know(SERVER, b"".join(map(bytes, outcome.seen.values())) + outcome.total.tobytes())
    wire.ran(len(vectors) * (outcome.up_bytes + outcome.down_bytes), rounds=7)
    return outcome.total


def inside(wire: Wire, program: enclave.Program, data: Mapping[str, bytes]) -> Array:
    """The output of a program in the enclave; all who sent data get it, the host sees the rest."""
    session = enclave.compute(program, data)
    wire.know("host", session.seen)
    for party in data:
        wire.know(party, session.output)
    wire.ran(32 * len(data) + sum(session.sizes.values()), rounds=4)  # the nonce has 32 bytes
    return np.frombuffer(session.output)


# --- sums: columns of rows that offices hold ------------------------------------------------------


def clear_sums(
    setup: Setup, parts: Sequence[Array], wire: Wire, *, private: bool = False, local: bool = False
) -> Array:
    """A server gets the rows, or the subtotals if offices add up `local`ly; `private`, it adds
    noise to the answer."""
    parts = [part.sum(axis=0, keepdims=True) for part in parts] if local else parts
    wire.send(*((f"office {i}", SERVER, part.tobytes()) for i, part in enumerate(parts)))
    total = np.vstack(parts).sum(axis=0)
    total = total + noise(setup, len(total)) if private else total
    wire.send((SERVER, READER, total.tobytes()))
    return np.asarray(total)


def encrypted_sums(
    setup: Setup, parts: Sequence[Array], wire: Wire, *, private: bool = False
) -> Array:
    """A server without the key adds ciphertexts; `private`, it adds encrypted noise as well."""
    messages, columns = [encrypted_rows(setup, part) for part in parts], parts[0].shape[1]
    wire.send(*((f"office {i}", SERVER, message) for i, message in enumerate(messages)))
    if private:
        messages.append(encrypted_rows(setup, noise(setup, columns)[None]))
    reply = setup.key.public.add(*(row for m in messages for row in rows_of(setup, m))).to_bytes()
    wire.send((SERVER, READER, reply))
    return setup.key.decrypt(setup.key.public.read(reply))[:columns]


def shared_sums(setup: Setup, parts: Sequence[Array], wire: Wire) -> Array:
    """Two servers get additive shares of the rows and add; the reader joins their sums."""
    held = [share(wire, f"office {i}", _hundredths(part)) for i, part in enumerate(parts)]
    sums = [np.vstack(h).sum(axis=0, dtype=np.uint64) for h in zip(*held, strict=True)]
    return opened(wire, READER, sums) / 100


def masked_sums(setup: Setup, parts: Sequence[Array], wire: Wire) -> Array:
    """Each office adds up its rows and noise enough for itself; a server adds under masks."""
    columns, room = parts[0].shape[1], max(map(len, parts)) + 80 / setup.settings.epsilon
    unit = room / 4 * np.where(np.arange(columns) < GROUPS, LARGEST, 1)  # masking takes up to 4
    noisy = [part.sum(axis=0) + noise(setup, columns) for part in parts]
    total = masked_sum(wire, [subtotal / unit for subtotal in noisy]) * unit
    wire.send((SERVER, READER, total.tobytes()))
    return np.asarray(total)


def add_columns(inputs: Mapping[str, bytes]) -> bytes:
    """Program of the enclave: sums of columns; their number is the first byte."""
    tables = [np.frombuffer(raw[1:]).reshape(-1, raw[0]) for raw in inputs.values()]
    return np.vstack(tables).sum(axis=0).tobytes()


def enclave_sums(setup: Setup, parts: Sequence[Array], wire: Wire) -> Array:
    """Offices send their rows to the enclave."""
    data = {f"office {i}": bytes([p.shape[1]]) + p.tobytes() for i, p in enumerate(parts)}
    return inside(wire, add_columns, data)


# --- the join: how many keys are in both files ----------------------------------------------------

Files = tuple[list[str], list[str], list[str]]  # keys of both owners, and all that may occur


def clear_join(setup: Setup, files: Files, wire: Wire, *, private: bool = False) -> Array:
    """A server gets both lists; `private`, it adds noise to its answer."""
    lists = ["\n".join(keys).encode() for keys in files[:2]]
    wire.send(*((owner, SERVER, raw) for owner, raw in zip(FILES, lists, strict=True)))
    count = np.array([len(set(files[0]) & set(files[1]))], float)
    count += noise(setup, 1, 1.0) if private else 0
    wire.send((SERVER, READER, count.tobytes()))
    return count


def encrypted_join(setup: Setup, files: Files, wire: Wire, *, private: bool = False) -> Array:
    """The first owner, who has the key, encrypts a bit for each key of a public list; the second
    adds those at its own keys and a fresh zero, or noise, which makes the reply a fresh one."""
    mine, theirs = (np.isin(files[2], keys) for keys in files[:2])
    message = encrypted_rows(setup, mine[:, None].astype(float))
    wire.send((*FILES, message))
    chosen = [row for row, own in zip(rows_of(setup, message), theirs, strict=True) if own]
    extra = noise(setup, 1, 1.0) if private else np.zeros(1)
    fresh = rows_of(setup, encrypted_rows(setup, extra[None]))
    reply = setup.key.public.add(*chosen, *fresh).to_bytes()
    wire.send((*FILES[::-1], reply))
    return setup.key.decrypt(setup.key.public.read(reply))[:1]


def shared_join(setup: Setup, files: Files, wire: Wire) -> Array:
    """Two servers multiply shares of both owners' bits over the public list, and add."""
    bits = [np.isin(files[2], keys).astype(np.int64) for keys in files[:2]]
    x, y = (share(wire, owner, b) for owner, b in zip(FILES, bits, strict=True))
    sums = [z.sum(keepdims=True, dtype=np.uint64) for z in beaver(wire, x, y)]
    return opened(wire, READER, sums).astype(float)


def intersection(setup: Setup, files: Files, wire: Wire) -> Array:
    """Diffie-Hellman between the owners, with every message of it."""
    tables = (pd.DataFrame({"key": keys}) for keys in files[:2])
    owners = [psi.DataHolder(owner, t) for owner, t in zip(FILES, tables, strict=True)]
    result = psi.intersect(psi.EcdhEngine(), *owners, on="key", keep_payloads=True)
    for m in result.transcript:
        payload = m.payload or b""  # the frames around it count, but hold nothing
        wire.send((m.sender, m.receiver, payload + bytes(m.size_bytes - len(payload))))
    return np.array([result.cardinality], float)


def count_common(inputs: Mapping[str, bytes]) -> bytes:
    """Program of the enclave: how many lines both texts have in common."""
    first, second = (set(raw.split()) for raw in inputs.values())
    return np.float64(len(first & second)).tobytes()


def enclave_join(setup: Setup, files: Files, wire: Wire) -> Array:
    """Both owners send their keys to the enclave."""
    lists = ["\n".join(keys).encode() for keys in files[:2]]
    return inside(wire, count_common, dict(zip(FILES, lists, strict=True)))


# --- prediction: a person's records, an owner's logistic regression -------------------------------

Scored = tuple[Array, Array]  # scores of records, above 0 for class 1, and the weights behind them
Parts = list[tuple[Array, Whole]]  # training records by office


@dataclass(frozen=True, kw_only=True)
class Patients:
    """Training records by office, held-out records, and weights and bias trained in the clear."""

    parts: Parts
    x: Array
    weights: Array
    bias: float


def patients(settings: Settings, rng: np.random.Generator) -> Patients:
    """scikit-learn's tumour data: 300 records to train on, divided among offices, 269 held out."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x, y = load_breast_cancer(return_X_y=True)
    train, test = np.split(rng.permutation(len(y)), [300])
    x = StandardScaler().fit(x[train]).transform(x)
    fit = LogisticRegression(C=0.1).fit(x[train], y[train])
    parts = [(x[i], y[i]) for i in np.array_split(train, settings.offices)]
    weights, bias = fit.coef_[0], float(fit.intercept_[0])
    return Patients(parts=parts, x=x[test], weights=weights, bias=bias)


def train(
    setup: Setup, parts: Parts, wire: Wire, *, private: bool = False, masks: bool = False
) -> tuple[Array, float]:
    """Federated averaging of a logistic regression; of one part, training in one place.

    `private`: DP-SGD with epsilon for the records of the smallest part, add or remove one.
    """
    settings, network, k = setup.settings, Network((parts[0][0].shape[1], 2)), len(parts)
    how, flat = LocalTraining(learning_rate=0.2, momentum=0.5), np.zeros(network.parameters)
    if private:
        n = min(len(y) for _, y in parts)
        z = accounting.noise_for(
            settings.epsilon, n=n, batch_size=32, epochs=settings.rounds, delta=DELTA, sampling="poisson"
        )  # fmt: skip
        how = dataclasses.replace(how, clip=1.0, noise_multiplier=z)
    for _ in range(settings.rounds):
        local = [network.train(flat, x, y, how, setup.rng) for x, y in parts]
        flat = masked_sum(wire, local) / k if masks else np.mean(local, axis=0)
        if k > 1:
            ups = ((f"office {i}", SERVER, w.tobytes()) for i, w in enumerate(local))
            wire.send(*(() if masks else ups))
            wire.send(*((SERVER, f"office {i}", flat.tobytes()) for i in range(k)))
    weights, bias = network.layers(flat)[0]
    return weights[:, 1] - weights[:, 0], float(bias[1] - bias[0])


def pooled(data: Patients) -> Parts:
    """All training records in one place."""
    x, y = (np.concatenate(v) for v in zip(*data.parts, strict=True))
    return [(x, y)]


def clear_scores(setup: Setup, data: Patients, x: Array, wire: Wire) -> Scored:
    """The person sends the records to the model's owner."""
    wire.send((PERSON, OWNER, x.tobytes()))
    answer = x @ data.weights + data.bias
    wire.know(OWNER, answer.tobytes())
    wire.send((OWNER, PERSON, answer.tobytes()))
    return answer, data.weights


def encrypted_scores(
    setup: Setup, data: Patients, x: Array, wire: Wire, *, private: bool = False
) -> Scored:
    """One CKKS ciphertext a feature, a record in each slot; `private`, by a model with DP."""
    weights, bias = data.weights, data.bias
    if private:
        weights, bias = train(setup, pooled(data), Wire(), private=True)
    seal, layer = setup.seal, (weights[:, None], np.array([bias]))
    messages = [seal.save(seal.encrypt(column)) for column in x.T]
    wire.send((PERSON, OWNER, b"".join(messages)))
    reply = seal.save(ckks.encrypted(seal, [layer], [seal.load(m) for m in messages]))
    wire.send((OWNER, PERSON, reply))
    return seal.decrypt(seal.load(reply))[: len(x)], weights


def shared_scores(setup: Setup, data: Patients, x: Array, wire: Wire) -> Scored:
    """Two servers multiply shares of the records and of the weights, in fixed point."""
    values = x, np.broadcast_to(data.weights, x.shape), np.array([data.bias])
    whole = [np.rint(v * SCALE).astype(np.int64) for v in values]
    left, right, bias = map(partial(share, wire), (PERSON, OWNER, OWNER), whole)
    sums = [p.sum(axis=1, dtype=np.uint64) for p in beaver(wire, left, right)]
    sums = [s + b * np.uint64(SCALE) for s, b in zip(sums, bias, strict=True)]
    return opened(wire, PERSON, sums) / SCALE**2, data.weights


def at_home(
    setup: Setup, data: Patients, x: Array, wire: Wire, *, offices: bool = True, **how: Any
) -> Scored:
    """A model, trained with DP, by offices, or both, goes to the person, who predicts alone."""
    weights, bias = train(setup, data.parts if offices else pooled(data), wire, **how)
    wire.send((SERVER if offices else OWNER, PERSON, np.append(weights, bias).tobytes()))
    return x @ weights + bias, weights


def score_rows(inputs: Mapping[str, bytes]) -> bytes:
    """Program of the enclave: scores of the person's records by the owner's weights and bias."""
    model = np.frombuffer(inputs["model's owner"])
    x = np.frombuffer(inputs["person"]).reshape(-1, len(model) - 1)
    return (x @ model[:-1] + model[-1]).tobytes()


def enclave_scores(setup: Setup, data: Patients, x: Array, wire: Wire) -> Scored:
    """Both send what they have to the enclave."""
    model = np.append(data.weights, data.bias).tobytes()
    return inside(wire, score_rows, {OWNER: model, PERSON: x.tobytes()}), data.weights


# --- the grid -------------------------------------------------------------------------------------

RUNS: dict[str, dict[str, Callable[..., Any]]] = {
    "sum": {
        CLEAR: clear_sums, HE: encrypted_sums, MPC: shared_sums,
        DP: partial(clear_sums, private=True), FEDERATED: partial(clear_sums, local=True),
        ENCLAVE: enclave_sums, MASKED: masked_sums, NOISY_HE: partial(encrypted_sums, private=True),
    },
    "join": {
        CLEAR: clear_join, HE: encrypted_join, MPC: shared_join, PSI: intersection,
        DP: partial(clear_join, private=True), ENCLAVE: enclave_join,
        NOISY_HE: partial(encrypted_join, private=True),
    },
    "prediction": {
        CLEAR: clear_scores, HE: encrypted_scores, MPC: shared_scores,
        DP: partial(at_home, offices=False, private=True), FEDERATED: at_home,
        ENCLAVE: enclave_scores, MASKED: partial(at_home, private=True, masks=True),
        NOISY_HE: partial(encrypted_scores, private=True),
    },
}  # fmt: skip
RUNS["mean by group"] = RUNS["sum"]  # of more columns


def people(n: int, rng: np.random.Generator) -> tuple[Array, Array, Files]:
    """Incomes (n,) and groups (n, `GROUPS`), 0 or 1, of made-up people; and two files of n keys from
    a public list of 5 n / 4, so that three quarters of each are in the other."""
    incomes = np.clip(rng.normal(2200, 700, n), 0, LARGEST).round(2)
    groups = np.eye(GROUPS)[np.append(range(GROUPS), rng.integers(0, GROUPS, n - GROUPS))]
    keys = [f"P{i:06}" for i in rng.permutation(n + n // 4)]
    return incomes, groups, (keys[:n], keys[-n:], keys)


def grid(setup: Setup, data: Patients, n: int, *, replicate: int = 0) -> pd.DataFrame:
    """Rows (task, technique): CPU seconds of all parties, bytes, rounds, `error`, the largest as a
    share of the answer, of predictions the share in another class; and `read`.

    For predictions also `output` and `model`, shares of scores and weights that others read.
    """
    incomes, groups, files = people(n, setup.rng)
    x, rows = data.x[:n], Rows(part="tasks")
    offices = [f"office {i}" for i in range(setup.settings.offices)]
    by_group = np.hstack([groups * incomes[:, None], groups])
    inputs: dict[str, tuple[Any, ...]] = {"join": (files,), "prediction": (data, x)}
    for task, table in {"sum": incomes[:, None], "mean by group": by_group}.items():
        inputs[task] = (np.array_split(table, len(offices)),)
    wanted = {"sum": incomes.sum(), "join": len(set(files[0]) & set(files[1]))}
    wanted["mean by group"] = (groups.T @ incomes) / groups.sum(axis=0)
    for task in TASKS:
        for technique, run in RUNS[task].items():
            wire, start = Wire(), time.process_time()
            answer = run(setup, *inputs[task], wire)
            metrics: dict[str, Any] = {"cpu_s": time.process_time() - start}
            metrics |= {"bytes": wire.sent.total(), "rounds": wire.rounds}
            if task == "prediction":
                got, weights = answer
                metrics |= {
                    "error": np.mean((got > 0) != (x @ data.weights + data.bias > 0)),
                    "read": wire.read(x[:, 0], PERSON),
                    "output": wire.read(got, PERSON),
                    "model": wire.read(weights, OWNER),
                }
            else:
                got = answer[:GROUPS] / answer[GROUPS:] if task == "mean by group" else answer
                metrics["error"] = np.max(np.abs(got - wanted[task]) / wanted[task])
                of_files = wire.read(files[0], FILES[0])
                metrics["read"] = of_files if task == "join" else wire.read(incomes, *offices)
            records = len(x) if task == "prediction" else n
            at: dict[str, Any] = {"task": task, "technique": technique, "records": records}
            rows.add(**at, replicate=replicate, metrics=metrics)
    return rows.frame()


# --- what the sources say -------------------------------------------------------------------------


def known_attacks(settings: Settings) -> pd.DataFrame:
    """Rows (attack), by the primers' own experiments: bits of a secret from a trace of one look-up in
    an enclave; the share of a CKKS key from a shared result with all digits, and rounded."""
    key = ckks.leak(settings.seed).set_index("shared")["value"]
    results = {
        "trace": recovered("one look-up", entry_bytes=4, granularity=64),
        "key": key["all digits"],
        "rounded": key["two digits"],
    }
    return tidy("result", results, by="attack", part="attacks")


def slowdown(setup: Setup) -> pd.DataFrame:
    """Rows (operation): `times` the time of a product of doubles, for each number in a full CKKS
    ciphertext and for one alone in it; best of five."""
    x = setup.rng.uniform(0.5, 1, setup.seal.slots)
    full = setup.seal.encrypt(x)
    calls = partial(np.multiply, x, x), partial(setup.seal.multiply, full, full)
    clear, encrypted = (min(timeit.repeat(call, number=10, repeat=5)) for call in calls)
    ratios = {"full ciphertext": encrypted / clear, "one number": encrypted / clear * len(x)}
    return tidy("times", ratios, by="operation", part="slowdown")


def polynomial() -> pd.DataFrame:
    """Rows (measure): a sigmoid as its least-squares polynomial of degree 7 on [-8, 8]: the largest
    error there and on [-16, 16], and how far its encrypted evaluation by tenseal is from it."""
    import tenseal as ts

    bits, at = [60, 40, 40, 40, 60], np.linspace(-1, 1, 401)
    context = ts.context(ts.SCHEME_TYPE.CKKS, 16384, coeff_mod_bit_sizes=bits, n_threads=1)
    context.global_scale = CKKS_SCALE
    fit = np.polynomial.Polynomial.fit(at, expit(8 * at), 7, domain=[-1, 1])
    evaluated = ts.ckks_vector(context, at.tolist()).polyval(fit.coef.tolist()).decrypt()
    errors = {
        "inside": np.abs(fit(at) - expit(8 * at)).max(),
        "outside": np.abs(fit(2 * at) - expit(16 * at)).max(),
        "encrypted": np.abs(np.array(evaluated) - fit(at)).max(),
    }
    return tidy("largest_error", errors, by="measure", part="polynomial")


def traffic(setup: Setup) -> pd.DataFrame:
    """Rows (protocol): `bytes_each`, what is sent for a row, a key, a product."""
    incomes, _, files = people(1000, setup.rng)
    shared, keys, products = Wire(), Wire(), Wire()
    parts = share(shared, "office", _hundredths(incomes))
    intersection(setup, files, keys)
    beaver(products, parts, parts)
    sizes = {
        "Paillier, a row": len(encrypted_rows(setup, incomes[:200, None])) / 200,
        "shares of two servers, a row": shared.sent.total() / 1000,
        "Diffie-Hellman, a key": keys.sent.total() / 2000,
        "Beaver, a product": (products.sent[HELPERS] + products.sent[HELPERS[::-1]]) / 1000,
    }
    return tidy("bytes_each", sizes, by="protocol", part="traffic").assign(se=0.0)


def simulate(settings: Settings) -> pd.DataFrame:
    """All rows; `part` is tasks, attacks, slowdown, polynomial or traffic."""
    tables, warm = [], False
    for replicate, stream in streams(settings.seed, settings.replicates):
        setup = Setup(settings, np.random.default_rng(stream))
        data = patients(settings, setup.rng)
        if not warm:  # the first call of each library is slower
            warm = bool(len(grid(setup, data, 40)))
        tables += [grid(setup, data, n, replicate=replicate) for n in settings.records]
    once = known_attacks(settings), slowdown(setup), polynomial(), traffic(setup)
    return concat(*tables, *once)


# --- tables ---------------------------------------------------------------------------------------


def largest(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of each task at its largest size."""
    part = only(rows, part="tasks")
    return part[part["records"] == part.groupby("task")["records"].transform("max")]


def last(rows: pd.DataFrame, task: str) -> pd.DataFrame:
    """Their means for one task, a line for each technique that ran, in order."""
    table = wide(largest(only(rows, task=task)), index=["technique", "records"]).set_index(
        "technique"
    )
    return table.loc[[t for t in TECHNIQUES if t in RUNS[task]]]


def task_table(rows: pd.DataFrame, task: str) -> pd.DataFrame:
    """Cost, error and who learns what by technique, or why it was not run."""
    columns = ["cpu_s", "bytes", "rounds", "error", "read"]
    table = last(rows, task)[columns].reindex(TECHNIQUES).rename_axis("technique").reset_index()
    words = TEXT["learns"][task] | TEXT["absent"][task]
    return table.assign(**{"who learns what": table["technique"].map(words)})


def pillars(rows: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """The four pillars by technique, on the prediction: epsilon of the training, and shares of
    input, output and model that others read."""
    table = last(rows, "prediction")
    shown = table[["read", "output", "model"]].set_axis(PILLARS[1:], axis=1)
    shown.insert(0, PILLARS[0], [settings.epsilon if t in PRIVATE else np.inf for t in table.index])
    return shown.reset_index()


def closed(rows: pd.DataFrame, settings: Settings) -> dict[str, set[str]]:
    """Pillars that a technique closes as far as messages tell: a finite epsilon, nothing read."""
    table = pillars(rows, settings).set_index("technique").to_dict("index")
    limits = dict.fromkeys(PILLARS, 1e-9) | {PILLARS[0]: np.inf}
    return {str(t): {p for p in PILLARS if line[p] < limits[p]} for t, line in table.items()}


def combinations(rows: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """The paper's combinations: pillars that the parts close, and those that a run closes."""
    alone, lines = closed(rows, settings) | {"PATE": {PILLARS[0]}}, []
    for entry in TEXT["combinations"]:
        parts = set[str]().union(*(alone[part] for part in entry["parts"]))
        here = alone.get(entry["combination"])
        words = [", ".join(p for p in PILLARS if p in s) for s in (parts, here or set())]
        lines.append((entry["combination"], words[0], words[1] or "–", entry["where"]))
    names = ["combination", "closed by a part", "closed when run", "where"]
    return pd.DataFrame(lines, columns=names)


def numbers(rows: pd.DataFrame, settings: Settings) -> dict[str, Any]:
    """Everything that the comparison and the takeaways quote."""
    total, score = last(rows, "sum"), last(rows, "prediction")
    out: dict[str, Any] = dict(means(rows, "attack", part="attacks"))
    for short, technique in {"cc": ENCLAVE, "he": HE, "mpc": MPC, "clear": CLEAR}.items():
        for task, line in {"sum": total.loc[technique], "score": score.loc[technique]}.items():
            network = (
                line["rounds"] * settings.delay_ms / 1e3 + line["bytes"] * 8e-6 / settings.megabits
            )
            out[f"{short}_{task}_net"] = network / (network + line["cpu_s"])
            out |= {f"{short}_{task}_{c}": line[c] for c in ("cpu_s", "rounds", "read")}
            out[f"{short}_{task}_bytes"] = line["bytes"] / line["records"]
    out["he_times"] = out["he_sum_cpu_s"] / out["clear_sum_cpu_s"]
    times = only(rows, part="slowdown")["value"]
    return out | {"least": times.min(), "most": times.max()}


def comparison(rows: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """The slides' table, cell by cell: what is printed, what was measured, whether that bears it out."""
    v = numbers(rows, settings)
    facts, lines = pd.DataFrame([v]), []
    for cell in TEXT["comparison"]:
        words = [cell[name] for name in ("criterion", "technique", "printed")]
        holds = all(len(facts.query(condition)) for condition in cell.get("holds", []))
        verdict = ("yes" if holds else "no") if "holds" in cell else "–"
        lines.append((*words, cell["here"].format(**v), verdict, cell["where"]))
    names = ["criterion", "technique", "printed", "measured here", "borne out", "where"]
    return pd.DataFrame(lines, columns=names)


# --- the decision aid -----------------------------------------------------------------------------


def sizes(rows: pd.DataFrame) -> pd.DataFrame:
    """Means of what was measured, by task, technique and number of records."""
    table = wide(only(rows, part="tasks"), index=["task", "technique", "records"])
    return table.set_index(["task", "technique"]).sort_index()


def cost(measured: pd.DataFrame, task: str, technique: str, records: float) -> dict[str, float]:
    """CPU seconds, megabytes, messages and error expected at a size.

    Time and bytes on a straight line through the measured sizes; the error of a noisy count or
    total falls with the number of records, other errors stay.
    """
    table = measured.loc[[(task, technique)]]
    n = table["records"].to_numpy()
    packed = task == "prediction" and technique in (HE, NOISY_HE)  # 4,096 records a ciphertext
    times, at = (-(-records // 4096), 4096) if packed and records > 4096 else (1, records)
    out = {"rounds": float(table["rounds"].iloc[-1])}
    for metric in ("cpu_s", "bytes"):
        y = table[metric].to_numpy()
        slope, start = np.polyfit(n, y, 1) if len(n) > 1 else (y[0] / n[0], 0.0)
        out[metric] = float(times * (start + slope * at if slope > 0 else y.mean()))
    noisy = technique in PRIVATE and task != "prediction"
    errors = table["error"].to_numpy()
    return out | {"error": float((errors * n).mean() / records if noisy else errors.mean())}


def remaining(
    measured: pd.DataFrame,
    *,
    holds: str,
    answer: str,
    records: int,
    error_percent: float,
    trusted: str,
) -> pd.DataFrame:
    """The techniques that five answers leave, with their cost by `sizes`, and why the others go.

    Raises
    ------
    ValueError
        If an answer is not among the choices, or a number is out of range.
    """
    for name, value in {"holds": holds, "answer": answer, "trusted": trusted}.items():
        choice: dict[str, Any] = {name: value}
        one_of(QUESTIONS[name], **choice)
    whole(1, records=records)
    between(0, 100, error_percent=error_percent)
    task, public, trust = (QUESTIONS[q][a] for q, a in
                           (("holds", holds), ("answer", answer), ("trusted", trusted)))  # fmt: skip
    trusts, lines = TEXT["trust"] | TEXT["trust_of"].get(task, {}), []
    asked = {short: words for words, short in QUESTIONS["trusted"].items()}
    for technique in TECHNIQUES:
        why = TEXT["absent"][task].get(technique, "")
        expected = {} if why else cost(measured, task, technique, records)
        if not why and trusts[technique] not in ("nobody", trust):
            why = f"needs trust in {asked[trusts[technique]]}"
        elif not why and public and technique not in PRIVATE:
            why = "published without noise, two answers give away who joined between them"
        elif not why and 100 * expected["error"] > error_percent:
            why = f"expected error {expected['error']:.1%}"
        lines.append({"technique": technique, "remains": not why, **expected, "why not": why})
    return pd.DataFrame(lines).sort_values("remains", ascending=False, kind="stable")


def advice(rows: pd.DataFrame) -> pd.DataFrame:
    """The aid as a table: what remains for `SIZE` rows, by task, trust and reader of the answer."""
    measured, lines = sizes(rows), []
    for holds, task in QUESTIONS["holds"].items():
        for trusted in QUESTIONS["trusted"]:
            line = {"task": task, "trusted": trusted}
            for answer in QUESTIONS["answer"]:
                table = remaining(
                    measured, holds=holds, answer=answer, records=SIZE,
                    error_percent=ERROR_PERCENT, trusted=trusted,
                )  # fmt: skip
                line[answer] = "; ".join(
                    f"{t['technique']} ({t['cpu_s']:.2g} s, {t['bytes'] / 1e6:.2g} MB, {t['error']:.1%})"
                    for t in table[table["remains"]].to_dict("records")
                )
            lines.append(line)
    return pd.DataFrame(lines).replace("", "nothing here")


# --- what follows ---------------------------------------------------------------------------------


def assumptions(settings: Settings) -> str:
    """The privacy statement."""
    return (
        f"Epsilon {settings.epsilon:g} for each answer of its own with {', '.join(PRIVATE)} (add or "
        f"remove one person; discrete Laplace on sums of values up to {LARGEST:g}, DP-SGD with delta "
        f"{DELTA:g} on models, the scaling of features not counted); nothing else here is private."
    )


def takeaways(rows: pd.DataFrame, settings: Settings) -> list[Claim]:
    """What these rows say; the first is the headline."""
    v, by = numbers(rows, settings), closed(rows, settings)
    single = max(len(by[t]) for t in by if t not in (MASKED, NOISY_HE))
    sigmoid = means(rows, "measure", part="polynomial")
    table = comparison(rows, settings)["borne out"]
    missing = ", ".join(p for p in PILLARS if p not in by[MASKED]) or "none"
    numbers_here: dict[str, Any] = {
        "single": single, "noisy": len(by[NOISY_HE]), "masked": len(by[MASKED]), "missing": missing,
        "model": last(rows, "prediction").loc[MASKED, "model"], "sigmoid": sigmoid,
        "yes": (table == "yes").sum(), "no": (table == "no").sum(), "cells": len(table), "s": settings,
    }  # fmt: skip
    sentences = [
        ("No single technique closes all four pillars of a prediction (at most {single}); as far as "
         "messages tell HE + DP closes {noisy}, federated + DP + MPC {masked}.",
         single < 4, "A single technique closes all four pillars of a prediction here."),
        ("The paper lists federated + DP + MPC among what satisfies all four: here it leaves open: "
         "{missing}. Each of {s.offices} offices and the person hold {model:.0%} of the weights.",
         len(by[MASKED]) < 4, "Federated + DP + MPC closes all four pillars, as the paper says."),
        ("\"Homomorphic encryption allows for non-polynomial operations\": not the schemes here, "
         "which add and multiply. A sigmoid becomes a polynomial: of degree 7 it is off by up to "
         "{sigmoid[inside]:.2f} from -8 to 8 and by {sigmoid[outside]:.0f} up to 16, while its encrypted "
         "evaluation errs by {sigmoid[encrypted]:.0e}.", sigmoid["outside"] > 1),
        ("\"100 trillion times slower\" (2009), by the slides 50 million after 2013: here {least:,.0f} "
         "to {most:,.0f} times, a number in a full ciphertext or alone in one.", v["most"] < 5e7,
         "Here {least:,.0f} to {most:,.0f} times slower, against the slides' 50 million after 2013."),
        ("Of {cells} cells of the slides' comparison {yes} are borne out, {no} are not. For a sum it is "
         "HE, not MPC, that communicates: {he_sum_bytes:,.0f} bytes a row against {mpc_sum_bytes:.0f}, both in {mpc_sum_rounds:.0f} messages; and encrypted predictions are "
         "network-bound, {he_score_net:.0%} of their time at {s.megabits:g} Mbit/s and {s.delay_ms:g} ms.",
         v["he_sum_bytes"] > v["mpc_sum_bytes"] and v["he_score_net"] > 0.5),
        ("\"Cryptographic security: enclaves no, HE yes\": a trace of a look-up in an enclave gives "
         "{trace:.0f} of 8 bits; but a CKKS result shared with all its digits gives {key:.0%} of the "
         "key.", v["trace"] > 0 and v["key"] == 1),
    ]  # fmt: skip
    return claims(sentences, **v, **numbers_here)
