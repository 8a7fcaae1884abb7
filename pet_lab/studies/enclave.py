"""SIMULATED: attestation, key release and training in an enclave that is an ordinary object here.

The protocol is `pet_lab.enclave`; the use case that of the slides: agree on code, verify, send data
and keys, receive the output. What remains is a side channel: the lines or pages that a look-up
touches (Osvik, Shamir and Tromer 2006; Xu, Cui and Peinado 2015), traced in a simulated memory.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pet_lab import enclave
from pet_lab.checks import between, distinct, one_of, require, whole
from pet_lab.parties.errors import Refused
from pet_lab.parties.log import Signer
from pet_lab.rows import Claim, Rows, claims, concat, means, only, wide

Array = NDArray[np.float64]
ENTRIES = 256  # of the table that is looked up: one for each secret byte
HONEST = "everything as agreed"
LABELS = {
    "entry_bytes": "bytes of an entry of the table",
    "bits": "bits that a trace gives",
    "granularity": "bytes that the observer cannot tell apart",
    "accuracy": "accuracy on held-out records",
    "facility": "who trains",
    "way": "how the table is read",
}
UNITS = {64: "cache line, 64 bytes", 4096: "page, 4096 bytes"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Parameters of the notebook, checked."""

    facilities: int
    entry_bytes: Sequence[int]
    replicates: int
    seed: int

    def __post_init__(self) -> None:
        whole(2, facilities=self.facilities)
        between(2, 20, facilities=self.facilities, hint="each needs some records of its own")
        distinct(entry_bytes=self.entry_bytes)
        for size in self.entry_bytes:
            one_of([2**k for k in range(13)], entry_bytes=size)
        whole(1, replicates=self.replicates)
        whole(0, seed=self.seed)


# --- the programs: their text is what is measured -------------------------------------------------


def train(inputs: Mapping[str, bytes]) -> bytes:
    """Weights of a logistic regression on the records of all parties, in the parties' order."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    records = np.vstack([np.frombuffer(inputs[party]).reshape(-1, 31) for party in sorted(inputs)])
    scaler = StandardScaler().fit(records[:, :-1])
    model = LogisticRegression(max_iter=500).fit(scaler.transform(records[:, :-1]), records[:, -1])
    weights = model.coef_[0] / scaler.scale_
    bias = model.intercept_[0] - weights @ scaler.mean_
    return np.append(weights, bias).tobytes()


def train_and_keep(inputs: Mapping[str, bytes]) -> bytes:
    """The same, tampered with: the first record of every party comes out too."""
    return train(inputs) + b"".join(blob[-248:] for blob in inputs.values())


# --- what must not work ---------------------------------------------------------------------------


class Scene:
    """A maker, an author with versions 1 and 2 of the code, a platform, a party with data."""

    def __init__(self) -> None:
        self.maker, self.author = enclave.Maker(), Signer("author")
        self.old, self.code = (enclave.release(train, v, self.author) for v in (1, 2))
        self.platform = self.maker.platform()
        self.inside = self.platform.start(train, self.code)
        measured, author = self.code.measurement, self.author.public
        self.verifier = enclave.Verifier(self.maker.root, measured, author, least_version=2)
        self.party = enclave.Participant("a", b"records", self.verifier)

    def quoted(self, inside: enclave.Enclave | None = None) -> bytes:
        """The quote that a challenge gets, of the enclave as agreed or of another."""
        return (inside or self.inside).quote(self.verifier.challenge())

    def other(self, *, maker: Any = None, code: Any = None, program: Any = train) -> bytes:
        """The quote of an enclave on another platform, of other code, or of another program."""
        platform = (maker or self.maker).platform()
        return self.quoted(platform.start(program, code or self.code))


def changed(s: Scene, **fields: Any) -> bytes:
    """A field of a quote is changed on its way."""
    quote = msgspec.json.decode(s.quoted(), type=enclave.Quote)
    return msgspec.json.encode(msgspec.structs.replace(quote, **fields))


def replayed(s: Scene) -> bytes:
    """A quote that was accepted comes again."""
    quote = s.quoted()
    s.verifier.check(quote)
    return quote


QUOTES: dict[str, Callable[[Scene], bytes]] = {
    HONEST: Scene.quoted,
    "tampered code": lambda s: s.other(
        program=train_and_keep, code=enclave.release(train_and_keep, 2, s.author)
    ),
    "old version": lambda s: s.other(code=s.old),
    "code of another author": lambda s: s.other(code=enclave.release(train, 2, Signer("x"))),
    "replayed quote": replayed,
    "wrong nonce": lambda s: s.inside.quote("0" * 64),
    "signed by another maker's platform": lambda s: s.other(maker=enclave.Maker()),
    "platform's certificate expired": lambda s: s.quoted(
        s.maker.platform(days=-1).start(train, s.code)
    ),
    "public key exchanged on the way": lambda s: changed(s, public="11" * 32),
    "quote cut off": lambda s: s.quoted()[:-40],
}


def exchanged_data(s: Scene) -> None:
    """The host changes a byte of uploaded data."""
    s.inside.accept("a", s.party.wrap(s.quoted()))
    s.inside.run({"a": s.party.upload[:-1] + bytes([s.party.upload[-1] ^ 1])})


def state_back(s: Scene) -> None:
    """An old state of the right version is put back."""
    first = s.inside.seal(b"budget 1")
    s.inside.seal(b"budget 0")
    s.inside.unseal(first)


LATER: dict[str, Callable[[Scene], Any]] = {
    "key handed to another enclave": lambda s: s.platform.start(train, s.code).accept(
        "a", s.party.wrap(s.quoted())
    ),
    "uploaded data changed": exchanged_data,
    "version rolled back": lambda s: s.platform.start(train, s.old).unseal(s.inside.seal(b"state")),
    "sealed state rolled back": state_back,
}


def attempts() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows (attempt): `accepted`; and a table with the sentence that refuses each."""
    rows, lines = Rows(part="attempts"), []
    quoted = {name: lambda s, f=f: s.party.wrap(f(s)) for name, f in QUOTES.items()}
    for name, act in (quoted | LATER).items():
        try:
            act(Scene())
            accepted, sentence = True, ""
        except Refused as refused:
            accepted, sentence = False, str(refused)
        rows.add(attempt=name, metrics={"accepted": accepted})
        lines.append((name, "accepted" if accepted else "refused", sentence))
    return rows.frame(), pd.DataFrame(lines, columns=["attempt", "outcome", "why"])


# --- training on the data of several parties ------------------------------------------------------


def facilities(settings: Settings) -> pd.DataFrame:
    """Rows (facility, replicate): accuracy alone, pooled in the clear, and pooled inside, on
    scikit-learn's tumour data; for the last also `gap` (largest difference of a weight from pooled
    in the clear), `leaked` (whether the host saw a record), bytes and seconds."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    records, rows = np.column_stack([x, y]).astype(float), Rows(part="training")
    for replicate in range(settings.replicates):
        rng = np.random.default_rng([settings.seed, replicate])
        own, test = np.split(rng.permutation(len(records)), [len(records) * 2 // 3])
        names = [f"facility {i + 1:02}" for i in range(settings.facilities)]
        parts = [records[part].tobytes() for part in np.array_split(own, len(names))]
        data = dict(zip(names, parts, strict=True))
        alone = [_accuracy(train({name: blob}), records[test]) for name, blob in data.items()]
        began = time.perf_counter()
        clear = train(data)
        middle = time.perf_counter()
        session = enclave.compute(train, data)
        wall, clear_s = time.perf_counter() - middle, middle - began
        inside, outside = np.frombuffer(session.output), np.frombuffer(clear)
        rows_seen = [record.tobytes() in session.seen for record in records[own]]
        at: dict[str, Any] = {"replicate": replicate}
        rows.add(facility="each alone", **at, metrics={"accuracy": float(np.mean(alone))})
        accuracy = {"accuracy": _accuracy(clear, records[test])}
        rows.add(facility="together, in the clear", **at, metrics=accuracy | {"wall_s": clear_s})
        metrics = {
            "accuracy": _accuracy(session.output, records[test]),
            "gap": np.abs(inside - outside).max(),
            "leaked": float(any(rows_seen)),
            "wall_s": wall,
            "protocol_bytes": session.sizes["quotes"] + session.sizes["keys"],
            "data_bytes": session.sizes["data"],
            "clear_bytes": sum(map(len, data.values())),
        }
        rows.add(facility="together, inside", **at, metrics=metrics)
    return rows.frame()


def _accuracy(weights: bytes, records: Array) -> float:
    w = np.frombuffer(weights)
    return float(np.mean((records[:, :-1] @ w[:-1] + w[-1] > 0) == records[:, -1]))


# --- the side channel -----------------------------------------------------------------------------


WAYS = {"one look-up": lambda secret: [secret], "scan of all": lambda _: range(ENTRIES)}


def trace(way: str, secret: int, *, entry_bytes: int, granularity: int) -> tuple[int, ...]:
    """Units (lines or pages) that reading the table for a secret byte touches, in order."""
    starts = [index * entry_bytes for index in WAYS[way](secret)]
    spans = [(start // granularity, (start + entry_bytes - 1) // granularity) for start in starts]
    return tuple(unit for first, last in spans for unit in range(first, last + 1))


def recovered(way: str, *, entry_bytes: int, granularity: int) -> float:
    """Bits that a trace gives of a uniform secret byte, on average, by going through all of them."""
    how = {"entry_bytes": entry_bytes, "granularity": granularity}
    traces = Counter(trace(way, secret, **how) for secret in range(ENTRIES))
    share = np.array(list(traces.values())) / ENTRIES
    return float(-(share * np.log2(share)).sum()) + 0.0


def side_channel(settings: Settings) -> pd.DataFrame:
    """Rows (way, entry_bytes, granularity): bits of a secret byte that the trace gives."""
    rows = Rows(part="side channel")
    for way in WAYS:
        for granularity, name in UNITS.items():
            for size in settings.entry_bytes:
                bits = recovered(way, entry_bytes=size, granularity=granularity)
                rows.add(way=way, entry_bytes=size, granularity=name, metrics={"bits": bits})
    return rows.frame()


# --- the whole study ------------------------------------------------------------------------------


def simulate(settings: Settings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All rows, `part` is attempts, training or side channel; and the table of `attempts`."""
    tried, table = attempts()
    return concat(tried, facilities(settings), side_channel(settings)), table


def training_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy, seconds and bytes, by who trains."""
    table = wide(only(rows, part="training"), index="facility")
    return table[["facility", "accuracy", "wall_s", "clear_bytes", "data_bytes", "protocol_bytes"]]


def takeaways(rows: pd.DataFrame) -> list[Claim]:
    """What these rows say; the first is the headline."""
    accepted = means(rows, "attempt", part="attempts")
    bad, mean = accepted.drop(HONEST), means(rows, "facility", "metric", part="training")
    inside, alone = mean["together, inside"], mean["each alone", "accuracy"]
    side = means(rows, "way", "granularity", "entry_bytes", part="side channel", metric="bits")
    line, page = (side["one look-up", UNITS[unit]] for unit in UNITS)
    scan, clear = side["scan of all"].max(), mean["together, in the clear", "accuracy"]
    sentences = [
        ("In this simulation {refused} of {n} attempts to cheat are refused, each with a sentence "
         "that says why, and the honest run is accepted.", bad.sum() == 0 and accepted[HONEST] == 1,
         "In this simulation {refused} of {n} attempts to cheat are refused, or the honest run is not "
         "accepted: the protocol does not hold."),
        ("Trained inside, the model is the one trained on all records in the clear (largest "
         "difference of a weight {inside[gap]:g}), {inside[accuracy]:.1%} accurate; a facility alone "
         "reaches {alone:.1%}.", inside["gap"] == 0 and clear > alone),
        ("What the host saw held no record as it is; encryption added {overhead:.2%} to the data, "
         "quotes and keys {inside[protocol_bytes]:,.0f} bytes a run.", inside["leaked"] == 0,
         "The host saw records in the clear."),
        ("Who sees which cache line a look-up touches learns {line:g} of 8 bits of the secret with "
         "entries of {small:g} bytes and {most:g} with {large:g}; who sees pages, {page:g} to {pages:g}. "
         "A scan of all entries gives {scan:g} bits and reads {reads} times as many.",
         line.iloc[-1] > 0 and scan == 0),
    ]  # fmt: skip
    return claims(
        sentences, refused=int((bad == 0).sum()), n=len(bad), inside=inside, alone=alone,
        overhead=(inside["data_bytes"] - inside["clear_bytes"]) / inside["clear_bytes"],
        line=line.iloc[0], small=line.index[0], most=line.iloc[-1], large=line.index[-1],
        page=page.iloc[0], pages=page.iloc[-1], scan=scan, reads=ENTRIES,
    )  # fmt: skip


def explore(entry_bytes: int, granularity: int, secret: int) -> pd.DataFrame:
    """What an observer writes down of one look-up, and which secrets remain possible."""
    require(0 <= secret < ENTRIES, f"secret is from 0 to {ENTRIES - 1}, got {secret}.")
    lines = []
    for way in WAYS:
        how = {"entry_bytes": entry_bytes, "granularity": granularity}
        traces = [trace(way, candidate, **how) for candidate in range(ENTRIES)]
        fits = [c for c in range(ENTRIES) if traces[c] == traces[secret]]
        seen = sorted(set(traces[secret]))
        touched = f"{seen[0]}" if len(seen) == 1 else f"{seen[0]} to {seen[-1]}"
        lines.append((way, touched, len(fits), f"{fits[0]} to {fits[-1]}"))
    return pd.DataFrame(lines, columns=["how", "units touched", "secrets left", "which"])
