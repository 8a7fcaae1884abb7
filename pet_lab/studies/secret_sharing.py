"""Secret sharing: uniform shares, Beaver's products, layers of a network, and a garbled circuit.

Definitions: additive and Shamir (1979) shares; multiplication by Beaver's triples (CRYPTO 1991);
layers among three mpyc processes with Shamir shares, threshold 1. The garbled circuit (Yao 1986;
point-and-permute; free XOR, Kolesnikov and Schneider 2008) is teaching code, not for use: parties
that follow the protocol, no constant time. Shares and labels come from the system, not the seed.
"""

from __future__ import annotations

import functools
import hashlib
import secrets
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from pet_lab import shares
from pet_lab.checks import between, distinct, require, whole
from pet_lab.data.tables import encode
from pet_lab.mpc.mesh import check_installed
from pet_lab.mpc.messages import as_numbers, as_text
from pet_lab.parties.certificates import TestAuthority, save
from pet_lab.parties.launch import Process, stop_all
from pet_lab.rows import Claim, Rows, claims, concat, means, only, wide

from .layers.__main__ import FRACTION, PRIME

Array = NDArray[np.float64]
PARTIES, Q = 3, 11  # parties; a small modulus, so that everything can be counted
LEVEL = 0.001  # of the test for uniform shares
HIDDEN = (40, 60, 20)  # the report's network: 58-40-60-20-1
LINEAR, RELU = "linear 58 to 40, shared weights", "ReLU of 16"
CHECKED = "the same, products checked"
LABELS = {
    "guess": "sum of the shares that are held, modulo 11",
    "share": "share of secrets",
    "held": "shares held",
    "flaw": "chance that the dealer forgets a mask",
    "rejected": "share of tests that notice",
    "draws": "secrets shared",
    "bits": "bits of each number",
    "and_gates": "AND gates",
    "tables_bytes": "bytes of tables",
    "labels_bytes": "bytes of labels",
    "transfer_bytes": "bytes of oblivious transfer",
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Parameters of the notebook, checked."""

    draws: Sequence[int]
    flaws: Sequence[float]
    bits: Sequence[int]
    rows_predicted: int
    delay_ms: float
    replicates: int
    seed: int

    def __post_init__(self) -> None:
        distinct(draws=self.draws, flaws=self.flaws, bits=self.bits)
        whole(1000, smallest_draws=min(self.draws))  # eight of each pair, for the chi-square test
        between(0, 1, smallest_flaw=min(self.flaws), largest_flaw=max(self.flaws))
        whole(1, rows_predicted=self.rows_predicted, smallest_bits=min(self.bits))
        between(1, 128, bits=max(self.bits), hint="a transfer a bit makes longer numbers slow")
        between(1, 1000, delay_ms=self.delay_ms)
        whole(1, replicates=self.replicates)
        whole(0, seed=self.seed)


# --- shares ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Share:
    """One party's additive shares of the numbers of one session."""

    session: str
    party: int
    values: list[int]


def deal(values: Sequence[int]) -> list[Share]:
    """Shares of numbers modulo `Q`, one record a party, with a fresh name for the session."""
    session = secrets.token_hex(4)
    rows = shares.additive_split(values, PARTIES, Q)
    return [Share(session, party, row) for party, row in enumerate(rows)]


def join(parts: Sequence[Share]) -> list[int]:
    """The numbers that were dealt; ValueError unless every party's shares of one session came.

    Wrong values inside a record go unnoticed: additive shares carry no redundancy.
    """
    sessions, parties = {s.session for s in parts}, sorted(s.party for s in parts)
    came = f"{len(sessions)} sessions" if len(sessions) != 1 else f"parties {parties}"
    all_here = len(sessions) == 1 and parties == list(range(PARTIES))
    require(all_here, f"Expected shares of all {PARTIES} parties in one session, got {came}.")
    lengths = {len(s.values) for s in parts}
    require(len(lengths) == 1, f"Expected shares of equal length, got {sorted(lengths)}.")
    return shares.additive_join([s.values for s in parts], Q)


def times(x: Sequence[int], y: Sequence[int], triple: Sequence[Sequence[int]]) -> list[int]:
    """Beaver's product on shares: x and y of each party, and (a, b, ab) of each party, modulo Q.

    Opened are x + a and y + b, uniform both. Party 0 adds the public product.
    """
    d, e = (sum(v) + sum(row[i] for row in triple) for i, v in enumerate((x, y)))
    return [
        (c - d * b - e * a + (d * e if party == 0 else 0)) % Q
        for party, (a, b, c) in enumerate(triple)
    ]


def beaver() -> pd.DataFrame:
    """Rows: wrong products over all x, y, a, b modulo Q, and pairs (x + a, y + b) that were seen."""
    wrong, views = 0, set()
    numbers = np.ndindex(Q, Q, Q, Q)
    for x, y, a, b in numbers:
        held = deal([x, y, a, b, a * b % Q])
        triple = [s.values[2:] for s in held]
        product = times([s.values[0] for s in held], [s.values[1] for s in held], triple)
        wrong += sum(product) % Q != x * y % Q
        views.add((x, y, (x + a) % Q, (y + b) % Q))
    rows = Rows(part="beaver", check="Beaver's product, all numbers modulo 11")
    rows.add(metrics={"wrong": wrong, "products": Q**4, "views": len(views) / Q**2, "openings": 2})
    return rows.frame()


def coalition(settings: Settings, secret: int = 3) -> pd.DataFrame:
    """Rows (held, guess): how often the first shares of one secret sum to each number."""
    rows, n = Rows(part="coalition"), max(settings.draws)
    values = np.array([s.values for s in deal([secret] * n)])
    for held in range(1, PARTIES + 1):
        counts = np.bincount(values[:held].sum(axis=0) % Q, minlength=Q) / n
        for guess, share in enumerate(counts):
            rows.add(held=f"{held} of {PARTIES}", guess=guess, metrics={"share": share})
    return rows.frame()


def uniformity(settings: Settings) -> pd.DataFrame:
    """Rows (draws, flaw, replicate): `rejected`, whether a chi-square test of level `LEVEL` notices
    that a dealer forgets the first mask (it is 0) with chance `flaw`, and `power`, in theory.

    The test counts the pairs that two of three parties hold. The theory is a noncentral chi-square
    with n * flaw**2 * (Q - 1).
    """
    rows, cells = Rows(part="uniform"), Q**2
    rng = np.random.default_rng(settings.seed)
    limit = stats.chi2.isf(LEVEL, cells - 1)
    for n in settings.draws:
        for flaw in settings.flaws:
            power = float(stats.ncx2.sf(limit, cells - 1, n * flaw**2 * (Q - 1) + 1e-12))
            for replicate in range(settings.replicates):
                first, second, _ = (np.array(s.values) for s in deal([3] * n))
                first[rng.random(n) < flaw] = 0  # the last share would make up for it
                seen = np.bincount(first * Q + second, minlength=cells)
                rejected = ((seen - n / cells) ** 2).sum() / (n / cells) > limit
                metrics = {"rejected": float(rejected), "power": power}
                rows.add(draws=n, flaw=flaw, replicate=replicate, metrics=metrics)
    return rows.frame()


# --- layers among three processes -----------------------------------------------------------------


def fixed(values: Any, fraction: int = FRACTION) -> list[int]:
    """Numbers as multiples of 2**-fraction, modulo `PRIME`; ValueError if one is out of range."""
    flat = np.asarray(values, float).ravel()
    largest = float(np.abs(flat).max(initial=0))
    top = 2.0 ** (40 - fraction)
    require(largest < top, f"Expected numbers below {top:g} in size, got {largest:g}.")
    return [round(v * 2**fraction) % PRIME for v in flat.tolist()]


def signed(numbers: Sequence[int], fraction: int = FRACTION) -> Array:
    """The numbers that `fixed` made, or sums and products of them."""
    return np.array([(v - PRIME if v > PRIME // 2 else v) / 2**fraction for v in numbers])


def order(
    step: str, *inputs: list[int], delay_ms: float = 0.0, checked: bool = False, **options: Any
) -> dict[str, Any]:
    """One step for `compute`; the inputs are shared, the options public."""
    how = {"delay_s": delay_ms / 1000, "checked": checked, "options": options}
    return {"step": step, "inputs": inputs, **how}


def compute(steps: Sequence[Mapping[str, Any]]) -> list[tuple[list[int], pd.Series]]:
    """Let three processes carry out steps; of each the opened numbers and its mean cost a party.

    This function stands for owners who share their numbers and open the results from all three
    shares: ShareError if these contradict each other.
    """
    check_installed()
    names, started = [f"pp-{i + 1}" for i in range(PARTIES)], []
    with tempfile.TemporaryDirectory(prefix="pet-lab-shares-") as folder:
        authority = TestAuthority()
        try:
            for name in names:
                home = save(authority.issue(name), Path(folder) / name)
                module = "pet_lab.studies.layers"
                started.append(Process(name, module, [str(home)], remove=Path(folder)))
            members = [p.wait_for("listening", 60) for p in started]
            for member in members:
                member.pop("event")
            dealt = [[_shared(numbers) for numbers in step["inputs"]] for step in steps]
            for party, process in enumerate(started):
                parts = [[rows[party] for rows in given] for given in dealt]
                own = [{**s, "inputs": part} for s, part in zip(steps, parts, strict=True)]
                process.write({"members": members, "steps": own})
            results = [[p.wait_for("result", 300) for p in started] for _ in steps]
        finally:
            stop_all(started)
    costs = ["bytes", "wall_s", "cpu_s"]
    return [(_opened(parts), pd.DataFrame(parts)[costs].mean()) for parts in results]


def _shared(numbers: Sequence[int]) -> list[tuple[str, ...]]:
    points = range(1, PARTIES + 1)
    split = [shares.shamir_split(v, points, needed=2, modulus=PRIME) for v in numbers]
    return [as_text(s[point] for s in split) for point in points]


def _opened(parts: Sequence[Mapping[str, Any]]) -> list[int]:
    rows = {point: as_numbers(part["shares"]) for point, part in enumerate(parts, start=1)}
    return shares.shamir_open(rows, needed=2, prime=PRIME).values


def layer_cases(settings: Settings) -> dict[str, tuple[dict[str, Any], Array, int]]:
    """Steps on made-up numbers: name -> (order, result in the clear, fraction of the result)."""
    rng, two = np.random.default_rng(settings.seed), 2 * FRACTION
    drawn = [rng.normal(size=size) for size in (58, (40, 58), 40, (8, 8), (3, 3))]
    x, w, b, image, kernel = (signed(fixed(v)).reshape(v.shape) for v in drawn)
    parts, flat, few = [fixed(x), fixed(w), fixed(b, two)], fixed(image), image.ravel()[:16]
    windows = np.lib.stride_tricks.sliding_window_view(image, (3, 3))
    shared = order("linear", *parts, inputs=58, cut=False)
    return {
        LINEAR: (shared, w @ x + b, two),
        CHECKED: ({**shared, "checked": True}, w @ x + b, two),
        "convolution 3 x 3 of 8 x 8": (
            order("convolution", flat, fixed(kernel), side=8),
            np.einsum("ijkl,kl->ij", windows, kernel).ravel(),
            two,
        ),
        RELU: (order("relu", fixed(few)), np.maximum(few, 0), FRACTION),
        "max-pool 16 to 4": (
            order("max_pool", fixed(few), window=4),
            few.reshape(4, 4).max(axis=1),
            FRACTION,
        ),
    }


def network_case(
    frame: pd.DataFrame, target: str, settings: Settings
) -> tuple[dict[str, Any], Array, dict[str, float]]:
    """The report's network, trained in the clear: order, its numbers before the sigmoid for
    held-out rows, and its accuracy."""
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier
    from sklearn.preprocessing import StandardScaler

    table, k = encode(frame, target=target), settings.rows_predicted
    train, test, y, truth = train_test_split(
        table.X, table.y, test_size=0.25, random_state=settings.seed, stratify=table.y
    )
    require(k <= len(test), f"Expected at most {len(test)} rows to predict, got {k}.")
    scaler = StandardScaler().fit(train)
    train, test = scaler.transform(train), scaler.transform(test)
    model = MLPClassifier(HIDDEN, max_iter=40, random_state=settings.seed)
    with warnings.catch_warnings():  # 40 passes do not converge, and need not
        warnings.simplefilter("ignore")
        model.fit(train, y)
    numbers = list(zip(model.coefs_, model.intercepts_, strict=True))
    clear = functools.reduce(lambda x, wb: np.maximum(x, 0) @ wb[0] + wb[1], numbers[1:],
                             test[:k] @ numbers[0][0] + numbers[0][1]).ravel()  # fmt: skip
    parameters = [v for w, b in numbers for v in (fixed(w.T), fixed(b, 2 * FRACTION))]
    sizes = [train.shape[1], *HIDDEN, 1]
    facts = {"accuracy": float(model.score(test, truth)), "features": sizes[0], "predicted": k}
    return order("network", fixed(test[:k]), *parameters, sizes=sizes), clear, facts


def three_processes(frame: pd.DataFrame, target: str, settings: Settings) -> pd.DataFrame:
    """Rows (part layers, step): cost a party and `gap`, the largest difference from the clear; and
    (part network): the same a row, and `agree`, rows with the class of the clear network.

    `rounds` is how much longer a step takes on a network with a one-way delay, in delays.
    """
    cases, delay = layer_cases(settings), settings.delay_ms / 1000
    network, clear, facts = network_case(frame, target, settings)
    near = [case[0] for case in cases.values()]
    warm = order("max_pool", [0] * 16, window=4)  # the first comparison also makes mpyc's tables
    far = [{**case, "delay_s": delay} for case in near]
    results, rows = compute([warm, *near, *far, network])[1:], Rows(part="layers")
    for i, (step, (_, expected, fraction)) in enumerate(cases.items()):
        opened, cost = results[i]
        late = (results[len(cases) + i][1]["wall_s"] - cost["wall_s"]) / delay
        gap = np.abs(signed(opened, fraction) - expected).max()
        more = {"rounds": max(0.0, late), "numbers": len(expected), "gap": gap}
        rows.add(step=step, metrics={**cost, **more})
    shared, cost = signed(results[-1][0]), results[-1][1] / len(clear)
    agree = {"agree": np.mean((shared > 0) == (clear > 0)), "gap": np.abs(shared - clear).max()}
    rows.add(part="network", step="network", metrics={**agree, **facts, **cost})
    return rows.frame()


# --- a garbled circuit (teaching code, not for use) -----------------------------------------------


def _hash(*labels: int, gate: int) -> int:
    raw = b"".join(label.to_bytes(16, "big") for label in labels) + gate.to_bytes(4, "big")
    return int.from_bytes(hashlib.sha256(raw).digest()[:16], "big")


@dataclass(frozen=True)
class Garbled:
    """What the evaluator gets: a table of four rows for each AND gate, and how to read the answer."""

    tables: list[tuple[int, ...]]
    start: int  # label of the first carry, which is 0
    answers: tuple[int, int]  # hashes of the labels of 0 and of 1 of the last carry


def garble(bits: int) -> tuple[Garbled, list[tuple[int, int]], int]:
    """A circuit for x > y: tables, labels of 0 for each bit of (x, y), and the global offset.

    From the lowest bit up, one AND gate each: carry' = carry ^ ((x ^ carry) & ~(y ^ carry)), which
    is x where x and y differ, else carry.
    """
    offset = secrets.randbits(128) | 1  # labels of 0 and 1 differ by it; last bits are colours
    zero = [(secrets.randbits(128), secrets.randbits(128)) for _ in range(bits)]
    start = carry = secrets.randbits(128)
    tables = []
    for gate, (x, y) in enumerate(zero):
        left, right = x ^ carry, y ^ carry ^ offset  # the offset negates
        out = secrets.randbits(128)
        rows = [0] * 4
        for i in (0, 1):
            for j in (0, 1):
                a, b = left ^ i * offset, right ^ j * offset
                rows[2 * (a & 1) + (b & 1)] = _hash(a, b, gate=gate) ^ out ^ (i & j) * offset
        tables.append(tuple(rows))
        carry ^= out
    answers = (_hash(carry, gate=bits), _hash(carry ^ offset, gate=bits))
    return Garbled(tables, start, answers), zero, offset


def evaluate(circuit: Garbled, labels: Sequence[tuple[int, int]]) -> bool:
    """The answer, from one label of each bit of (x, y).

    Raises
    ------
    ValueError
        If labels and tables do not fit: too few, cut off, or of another circuit.
    """
    n, m = len(circuit.tables), len(labels)
    require(n == m, f"Expected labels of {n} bits, got {m}.")
    whole_tables = all(len(table) == 4 for table in circuit.tables)
    require(whole_tables, "Expected four rows in each garbled table; a table is cut off.")
    carry = circuit.start
    for gate, ((x, y), table) in enumerate(zip(labels, circuit.tables, strict=True)):
        left, right = x ^ carry, y ^ carry
        carry ^= table[2 * (left & 1) + (right & 1)] ^ _hash(left, right, gate=gate)
    last = _hash(carry, gate=n)
    require(last in circuit.answers, "Labels of another circuit came: they open no answer here.")
    return last == circuit.answers[1]


def transfer(pairs: Sequence[tuple[int, int]], choices: Sequence[int]) -> tuple[list[int], int]:
    """Oblivious transfer (Bellare and Micali 1989, on ristretto255): what was chosen, and bytes.

    The sender does not learn the choices; the receiver knows the discrete logarithm of one of two
    keys, and so opens one of two labels.
    """
    import rbcl

    times_base = rbcl.crypto_scalarmult_ristretto255_base
    multiply = rbcl.crypto_scalarmult_ristretto255
    sum_of_keys = rbcl.crypto_core_ristretto255_random()
    got, sent = [], 32
    for i, ((zero, one), choice) in enumerate(zip(pairs, choices, strict=True)):
        k, r = (rbcl.crypto_core_ristretto255_scalar_random() for _ in range(2))
        own = times_base(k)
        other = rbcl.crypto_core_ristretto255_sub(sum_of_keys, own)
        keys = (other, own) if choice else (own, other)  # the receiver sends the first
        masks = [_mask(multiply(r, key), i) for key in keys]
        boxes = (zero ^ masks[0], one ^ masks[1])
        got.append(boxes[choice] ^ _mask(multiply(k, times_base(r)), i))
        sent += 32 + 32 + 2 * 16
    return got, sent


def _mask(point: bytes, i: int) -> int:
    return int.from_bytes(hashlib.sha256(point + i.to_bytes(4, "big")).digest()[:16], "big")


def richer(x: int, y: int, *, bits: int) -> tuple[bool, dict[str, float]]:
    """Whether x > y, by a circuit that x's owner garbles and y's owner evaluates, and the cost.

    Raises
    ------
    ValueError
        If a number does not fit into so many bits.
    """
    for name, value in {"x": x, "y": y}.items():
        fits = 0 <= value < 2**bits
        require(fits, f"{name} is a whole number of at most {bits} bits, got {value}.")
    began = time.perf_counter()
    circuit, zero, offset = garble(bits)
    of_x = [label ^ (x >> i & 1) * offset for i, (label, _) in enumerate(zero)]
    choices = [y >> i & 1 for i in range(bits)]
    of_y, moved = transfer([(label, label ^ offset) for _, label in zero], choices)
    answer = evaluate(circuit, list(zip(of_x, of_y, strict=True)))
    sizes = {"tables_bytes": 64 * bits, "labels_bytes": 16 * (bits + 3), "transfer_bytes": moved}
    spent = {"wall_s": time.perf_counter() - began, "bytes": sum(sizes.values())}
    return answer, {"and_gates": len(circuit.tables), **sizes, **spent}


def intersection_bytes(n: int, bits: int) -> dict[str, float]:
    """Bytes of garbled tables to count common keys of two files of n, at 64 bytes an AND gate.

    All pairs: n**2 equality tests of bits - 1 gates. Sorted (Huang, Evans and Katz 2012, without
    their shuffle): a bitonic merge of n log2(2n) compare-and-swap of 2 * bits gates, then 2n - 1
    tests of neighbours. Beside them Diffie-Hellman: three messages of n points of 32 bytes.
    """
    merge = n * np.log2(2 * n) * 2 * bits + (2 * n - 1) * (bits - 1)
    pairs = 64.0 * n * n * (bits - 1)
    return {"all pairs": pairs, "sorted files": 64.0 * merge, "Diffie-Hellman": 96.0 * n}


def garbled(settings: Settings) -> pd.DataFrame:
    """Rows (bits, replicate): wrong answers and costs; then (way): bytes of an intersection."""
    rng, rows = np.random.default_rng(settings.seed), Rows(part="garbled")
    for bits in settings.bits:
        for replicate in range(settings.replicates):
            x = int.from_bytes(rng.bytes(16), "big") % 2**bits
            y = x if replicate == 0 else int.from_bytes(rng.bytes(16), "big") % 2**bits
            answer, cost = richer(x, y, bits=bits)
            metrics = {"wrong": float(answer != (x > y)), **cost}
            rows.add(bits=bits, check=f"x > y, {bits} bits", replicate=replicate, metrics=metrics)
    for way, size in intersection_bytes(100_000, 64).items():
        rows.add(way=way, metrics={"gigabytes": size / 1e9})
    return rows.frame()


# --- the whole study ------------------------------------------------------------------------------


def simulate(frame: pd.DataFrame, target: str, settings: Settings) -> pd.DataFrame:
    """All rows; `part` is coalition, uniform, beaver, layers, network or garbled."""
    return concat(
        coalition(settings),
        uniformity(settings),
        beaver(),
        three_processes(frame, target, settings),
        garbled(settings),
    )


def layers_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Cost of each step: of a party, and of a result."""
    part = rows[rows["part"] == "layers"]
    table = wide(part, index="step").set_index("step").loc[part["step"].unique()].reset_index()
    table["bytes a result"] = table["bytes"] / table["numbers"]
    return table[["step", "numbers", "rounds", "bytes", "bytes a result", "wall_s", "gap"]]


def garbled_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Cost of a comparison by the length of its numbers."""
    names = ["and_gates", "tables_bytes", "labels_bytes", "transfer_bytes", "wall_s", "wrong"]
    part = rows[(rows["part"] == "garbled") & rows["metric"].isin(names)]
    return wide(part, index="bits")[["bits", *names]]


def takeaways(rows: pd.DataFrame) -> list[Claim]:
    """What these rows say; the first is the headline."""
    mean = means(rows, "part", "metric")
    seen = means(rows, "guess", "held", part="coalition").unstack()
    few, always, n = seen.iloc[:, :-1].to_numpy(), seen.iloc[:, -1].max(), rows["draws"].max()
    tests = wide(only(rows, part="uniform", draws=n), index=["draws", "flaw"])
    first = tests[(tests["power"] >= 0.9) & (tests["flaw"] > 0)].head(1)
    sound = tests.loc[tests["flaw"] == 0, "rejected"].mean()
    step = layers_table(rows).set_index("step")
    flat, checked, relu = (step.loc[name] for name in (LINEAR, CHECKED, RELU))
    network, beaver = mean["network"], mean["beaver"]
    wrong = only(rows, part="garbled", metric="wrong")["value"]
    limit = 5 * np.sqrt((Q - 1) / n) / Q  # five standard errors
    a_number = "bytes a result"
    sentences = [
        ("Two of three shares of one secret sum to every number about equally often, {low:.2%} "
         "to {high:.2%} of {n:,.0f} times; all three sum to the secret, {always:.0%} of them.",
         np.abs(few - 1 / Q).max() < limit and always == 1),
        ("With {n:,.0f} secrets the test notices a mask forgotten {first[flaw]:.0%} of the time with a "
         "chance of {first[power]:.0%} (seen: {first[rejected]:.0%}); of a sound dealer it rejected "
         "{sound:.1%}.", len(first) > 0 and sound <= 0.05,
         "With {n:,.0f} secrets none of these flaws is noticed nine times in ten, or a sound dealer is "
         "rejected too often ({sound:.1%})."),
        ("Beaver's product is wrong for {beaver[wrong]:.0f} of {beaver[products]:,.0f} combinations of "
         "factors and masks, and each pair of factors shows all {beaver[views]:.0f} pairs of opened "
         "numbers.", beaver["wrong"] == 0 and beaver["views"] == Q**2),
        ("A ReLU sends {relu_ratio:.0f} times the bytes of an inner product of 58 numbers "
         "({relu[bytes a result]:,.0f} to {flat[bytes a result]:.0f} a party) and takes about "
         "{relu[rounds]:.0f} rounds instead of {flat[rounds]:.0f}: comparisons, not matrices, are what "
         "sharing makes dear.", relu[a_number] > 10 * flat[a_number]),
        ("Three processes gave the class of the clear network for {network[agree]:.0%} of "
         "{network[predicted]:.0f} rows (largest gap before the sigmoid {network[gap]:.4f}), for "
         "{kilobytes:,.0f} kB a party and {network[wall_s]:.1f} s a row on this machine.",
         network["agree"] == 1,
         "Three processes gave the class of the clear network for only {network[agree]:.0%} of "
         "{network[predicted]:.0f} rows; the largest gap before the sigmoid was {network[gap]:.4f}."),
        ("The price of malicious security: with products checked, the shared layer sends "
         "{checked_ratio:.1f} times the bytes in {checked[rounds]:.0f} rounds instead of "
         "{flat[rounds]:.0f}, and one number more for each input before.", checked["bytes"] > flat["bytes"]),
        ("{wrong:.0f} of {compared} garbled comparisons were wrong; {longest[bits]:.0f} bits take "
         "{longest[and_gates]:.0f} AND gates. To count the common keys of two files of 100,000 the tables "
         "alone would be {size[all pairs]:,.0f} GB for all pairs, {size[sorted files]:.0f} GB for sorted "
         "files; Diffie-Hellman takes {size[Diffie-Hellman]:.2f} GB.", wrong.sum() == 0),
    ]  # fmt: skip
    return claims(
        sentences, low=few.min(), high=few.max(), n=n, always=always, first=first.sum(), sound=sound,
        beaver=beaver, relu=relu, flat=flat, checked=checked, network=network, wrong=wrong.sum(),
        relu_ratio=relu[a_number] / flat[a_number], checked_ratio=checked["bytes"] / flat["bytes"],
        kilobytes=network["bytes"] / 1e3, compared=len(wrong), longest=garbled_table(rows).iloc[-1],
        size=means(rows, "way", metric="gigabytes"),
    )  # fmt: skip


def explore(x: int, y: int) -> pd.DataFrame:
    """A product by a fresh triple, party by party: everything it holds, and all together."""
    a, b = (secrets.randbelow(Q) for _ in range(2))
    held = [s.values for s in deal([x % Q, y % Q, a, b, a * b % Q])]
    product = times([h[0] for h in held], [h[1] for h in held], [h[2:] for h in held])
    lines = [[*h, z] for h, z in zip(held, product, strict=True)]
    lines += [[sum(column) % Q for column in zip(*lines, strict=True)]]
    table = pd.DataFrame(lines, columns=["x", "y", "a", "b", "ab", "xy"])
    table.insert(0, "share of", [*(f"party {i + 1}" for i in range(PARTIES)), "all together"])
    return table.assign(
        **{"x + a": (table["x"] + table["a"]) % Q, "y + b": (table["y"] + table["b"]) % Q}
    )
