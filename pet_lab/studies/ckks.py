"""CKKS: approximate numbers under encryption, what each operation costs, and where it ends.

The scheme is Microsoft SEAL's, through tenseal (J. H. Cheon, A. Kim, M. Kim, Y. Song, ASIACRYPT
2017). The encoder is teaching code, not for use. Every context holds SEAL's 128-bit limit.
"""

from __future__ import annotations

import time
import timeit
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from pet_lab.checks import between, distinct, require, whole
from pet_lab.rows import Claim, Rows, claims, concat, means, only, tidy, wide
from pet_lab.seal import SCALE, Seal

Array = NDArray[np.float64]
repeat = partial(timeit.repeat, timer=time.process_time)
LABELS = {
    "multiplications": "multiplications one after another",
    "primes": "rescaling primes",
    "error": "largest error",
    "expansion": "bytes per byte of data",
    "largest_ms": "largest ms",
    "n": "power of n",
    "n_printed": "printed",
    "level": "power of level",
    "level_printed": "printed",
    "agrees_with_clear": "agrees with clear",
    "agrees_with_original": "agrees with ReLUs",
    "accuracy.test": "accuracy",
    "accuracy.original": "accuracy as trained",
    "sent_mb": "MB sent",
    "reply_mb": "MB back",
    "keys_mb": "MB of keys",
    "megabytes": "MB",
}
ASSUMPTIONS = (
    "No epsilon: a server without the key sees ciphertexts of CKKS at SEAL's 128-bit parameters and "
    "follows the protocol; whoever decrypts learns the results, and nothing here is made for sharing "
    "them."
)
# The slides' "native operations cheat sheet" for CKKS, as powers of (n, log n, levels); log Q is
# proportional to the levels.
PRINTED = {
    "addition": (1, 0, 1),
    "multiplication": (1, 0, 1),
    "rescaling": (1, 1, 1),
    "rotation": (1, 1, 1),
    "relinearisation": (1, 1, 2),
    "modulus switching": (1, 1, 1),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Parameters of the notebook, checked."""

    primes: Sequence[int]
    degrees: Sequence[int]
    hidden: Sequence[int]
    filter_bits: int
    records: int
    repeats: int
    seed: int

    def __post_init__(self) -> None:
        distinct(primes=self.primes)
        distinct(least=2, degrees=self.degrees)
        for degree in self.degrees:
            power = degree >= 4096 and degree & (degree - 1) == 0
            require(power, f"degrees are powers of 2 from 4096 on, got {degree}.")
        between(1, 18, primes=min(self.primes), more_primes=max(self.primes))
        whole(1, repeats=self.repeats, hidden=min(self.hidden, default=1))
        whole(0, seed=self.seed)
        whole(2, filter_bits=self.filter_bits, records=self.records)
        sizes = {"filter_bits": self.filter_bits, "records": self.records}
        between(2, 4096, **sizes, hint="they fill the slots of one ciphertext")
        few = f"hidden is up to three layers (the modulus ends there), got {len(self.hidden)}."
        require(len(self.hidden) <= 3, few)


# --- the encoder: teaching code, not for use ------------------------------------------------------


def encode(values: ArrayLike, scale: float) -> NDArray[np.int64]:
    """Coefficients p_0..p_(n-1), n twice the values, of the polynomial with p(root) = scale value.

    The roots of X^n + 1 are powers 1, 3, 5, ... of exp(i pi / n), and the second half of them, the
    conjugates, take conjugate values: so the coefficients are real, and are rounded.

    Raises
    ------
    ValueError
        If the number of values is no power of 2, or the scale is too small or too large for them.
    """
    z = np.asarray(values, complex).ravel()
    require(len(z) and len(z) & (len(z) - 1) == 0, f"Expected 2^k values, got {len(z)}.")
    require(np.isfinite(z).all() and scale > 0, "Expected finite values and a scale above 0.")
    whole_vector = np.concatenate([z, z[::-1].conj()])
    exact = (_roots(2 * len(z)).conj().T @ whole_vector).real * scale / (2 * len(z))
    reach = np.abs(exact).max()
    require(reach < 2**62, f"Coefficients reach {reach:.2g}, over 2^62: take a smaller scale.")
    require(reach >= 0.5 or not z.any(), f"Every coefficient rounds to 0 at scale {scale:g}.")
    return np.rint(exact).astype(np.int64)


def decode(coefficients: ArrayLike, scale: float) -> NDArray[np.complex128]:
    """The values that a polynomial takes at the first half of the roots, over the scale."""
    p = np.asarray(coefficients, float)
    values: NDArray[np.complex128] = (_roots(len(p)) @ p)[: len(p) // 2] / scale
    return values


def _roots(n: int) -> NDArray[np.complex128]:
    """Powers 0..n-1 (columns) of the n roots (rows)."""
    odd = 2 * np.arange(n) + 1
    matrix: NDArray[np.complex128] = np.exp(1j * np.pi / n * np.outer(odd, np.arange(n)))
    return matrix


def encoding() -> pd.DataFrame:
    """Rows (power): `coefficient` of the slides' example."""
    coefficients = dict(enumerate(encode([3 + 4j, 2 - 1j], 64)))
    return tidy("coefficient", coefficients, by="power", part="encoding")


# --- depth and costs ------------------------------------------------------------------------------


def depth(settings: Settings) -> pd.DataFrame:
    """Rows (primes, multiplications): `error` and `expansion` of a vector squared until no rescaling
    prime is left, and `reached`, how often that went.
    """
    rows, rng = Rows(part="depth"), np.random.default_rng(settings.seed)
    for primes in settings.primes:
        degree = next(n for n in (8192, 16384, 32768) if 40 * primes + 120 <= 218 * n // 8192)
        seal = Seal(degree, [60, *[40] * primes, 60])
        values = rng.choice([-1, 1], seal.slots) * rng.uniform(0.9, 1, seal.slots)
        ciphertext, done = seal.encrypt(values), 0
        here: dict[str, Any] = {"primes": primes, "degree": degree}
        while True:
            error = float(np.abs(seal.decrypt(ciphertext) - values).max())
            size = len(seal.save(ciphertext)) / values.nbytes
            rows.add(**here, multiplications=done, metrics={"error": error, "expansion": size})
            try:
                ciphertext = seal.multiply(ciphertext, ciphertext)
            except ValueError:
                break
            values, done = values**2, done + 1
        rows.add(**here, multiplications=done, metrics={"reached": done})
    return rows.frame()


def costs(settings: Settings) -> pd.DataFrame:
    """Rows (operation, degree, level): CPU `milliseconds` of SEAL's native operations.

    The level is the number of primes under the ciphertext, from 2 to what the degree allows with
    primes of 40 bits, at most 8.
    """
    rows = Rows(part="costs")
    for degree in settings.degrees:
        most = min(8, 109 * degree // 4096 // 36 - 1)
        seal = Seal(degree, [36] * (most + 1))
        ciphertext, out = seal.encrypt([0.5], 2.0**30), seal.new()
        for level in range(most, 1, -1):
            product = seal.new()
            seal.run.multiply(ciphertext, ciphertext, product)
            calls: dict[str, tuple[Any, ...]] = {
                "addition": (seal.run.add, ciphertext, ciphertext),
                "multiplication": (seal.run.multiply, ciphertext, ciphertext),
                "rescaling": (seal.run.rescale_to_next, ciphertext),
                "rotation": (seal.run.rotate_vector, ciphertext, 1, seal.galois_keys),
                "relinearisation": (seal.run.relinearize, product, seal.relin_keys),
                "modulus switching": (seal.run.mod_switch_to_next, ciphertext),
            }
            for operation, (call, *inputs) in calls.items():
                spent = repeat(partial(call, *inputs, out), number=1, repeat=settings.repeats)
                metrics = {"milliseconds": 1000 * min(spent)}
                rows.add(operation=operation, degree=degree, level=level, metrics=metrics)
            seal.run.mod_switch_to_next_inplace(ciphertext)
    return rows.frame()


def growth(rows: pd.DataFrame) -> pd.DataFrame:
    """Powers of n and of the level that fit the log of the cost best, beside the printed ones.

    A printed n log n counts as the power of n that fits it over the same degrees.
    """
    here, table = only(rows, part="costs"), []
    for operation, part in here.groupby("operation", sort=False):
        logs = np.log(part[["degree", "level"]].to_numpy(float))
        design = np.column_stack([logs, np.ones(len(part))])
        a, b, c = PRINTED[str(operation)]
        printed = a * logs[:, 0] + b * np.log(logs[:, 0]) + c * logs[:, 1]
        fits = (np.linalg.lstsq(design, y, rcond=None)[0] for y in (np.log(part["value"]), printed))
        (n, level, _), (n_printed, level_printed, _) = fits
        milliseconds = part["value"].max()
        table.append((operation, milliseconds, n, n_printed, level, level_printed))
    names = ["operation", "largest_ms", "n", "n_printed", "level", "level_printed"]
    return pd.DataFrame(table, columns=names)


# --- predictions on encrypted records -------------------------------------------------------------

Layers = list[tuple[Array, Array]]  # weights (inputs, outputs) and biases; squares between them


def squared_network(relu: Layers, x: Array) -> Layers:
    """The network with each ReLU replaced by its least-squares parabola on the records x, folded
    into weights and biases so that nothing but a square is left: one multiplication a layer.

    a z^2 + b z + c = (sqrt(a) (z + b / 2a))^2 + c - b^2 / 4a. The fit looks at the training data.
    """
    folded, shift = Layers(), np.zeros(x.shape[1])
    for weights, bias in relu[:-1]:
        z = (x + shift) @ weights + bias
        a, b, c = np.polyfit(z.ravel(), np.maximum(z, 0).ravel(), 2)
        require(a > 0, "A parabola fitted to ReLU opened downwards: train on more records.")
        offset = np.sqrt(a) * (shift @ weights + bias + b / (2 * a))
        folded.append((np.sqrt(a) * weights, offset))
        x, shift = (x @ folded[-1][0] + offset) ** 2, np.full(weights.shape[1], c - b * b / (4 * a))
    weights, bias = relu[-1]
    return [*folded, (weights, shift @ weights + bias)]


def clear(layers: Layers, x: Array) -> Array:
    """Scores (records,) of the network with squares, without encryption."""
    for weights, bias in layers[:-1]:
        x = (x @ weights + bias) ** 2
    return ((x @ layers[-1][0]) + layers[-1][1])[:, 0]


def encrypted(seal: Seal, layers: Layers, columns: list[Any]) -> Any:
    """The same from one ciphertext a feature, a record in each slot; the weights stay in clear."""
    for layer, (weights, bias) in enumerate(layers):
        require(columns[0].coeff_modulus_size() > 1, "No rescaling prime is left to multiply with.")
        modulus = float(seal.moduli[columns[0].coeff_modulus_size() - 1])
        outputs, product = [], seal.new()
        for row, offset in zip(weights.T, bias, strict=True):
            total = seal.new()
            used = [(c, float(w)) for c, w in zip(columns, row, strict=True) if abs(w) > 1e-9]
            require(used, "A neuron without any weight cannot be encrypted: retrain.")
            for i, (column, weight) in enumerate(used):
                constant = seal.plain(weight, modulus, like=column)
                seal.run.multiply_plain(column, constant, product if i else total)
                if i:
                    seal.run.add_inplace(total, product)
            seal.run.rescale_to_next_inplace(total)
            total = seal.shift(total, float(offset))
            outputs.append(total if layer == len(layers) - 1 else seal.multiply(total, total))
        columns = outputs
    return columns[0]


def inference(x: Array, y: NDArray[np.int64], settings: Settings) -> pd.DataFrame:
    """Rows (model): the report's network and a logistic regression on encrypted records.

    agrees_with_clear : records with the same class as the same polynomial in clear
    agrees_with_original : records with the same class as the network with ReLUs
    accuracy.test, accuracy.original : on held-out records, encrypted and as trained
    error : largest difference of a score from that in clear; seconds: CPU, for all records
    sent_mb, reply_mb : size of all ciphertexts to and from the server
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    from pet_lab.data import scaling, split

    train, test = split(len(y), rng=np.random.default_rng(settings.seed))
    x = scaling.standardise(x, x[train])
    network = MLPClassifier(
        settings.hidden, alpha=1.0, tol=1e-3, max_iter=500, random_state=settings.seed
    )
    logistic = LogisticRegression(C=0.1).fit(x[train], y[train])
    network.fit(x[train], y[train])
    relu = list(zip(network.coefs_, network.intercepts_, strict=True))
    name = "-".join(map(str, [x.shape[1], *settings.hidden, 1]))
    models = {
        name: (squared_network(relu, x[train]), network),
        "logistic regression": ([(logistic.coef_.T, logistic.intercept_)], logistic),
    }
    rows = Rows(part="inference")
    for model, (layers, original) in models.items():
        primes = 2 * len(layers) - 1
        degree = 8192 if primes <= 2 else 16384
        seal = Seal(degree, [60, *[40] * primes, 60])
        columns = [seal.encrypt(column) for column in x.T]
        start = time.process_time()
        reply = encrypted(seal, layers, columns)
        seconds = time.process_time() - start
        got, want = seal.decrypt(reply)[: len(x)], clear(layers, x)
        metrics = {
            "records": len(x),
            "agrees_with_clear": np.mean((got > 0) == (want > 0)),
            "agrees_with_original": np.mean((got > 0) == original.predict(x)),
            "accuracy.test": np.mean((got > 0)[test] == y[test]),
            "accuracy.original": original.score(x[test], y[test]),
            "error": np.abs(got - want).max(),
            "seconds": seconds,
            "sent_mb": len(columns) * len(seal.save(columns[0])) / 1e6,
            "reply_mb": len(seal.save(reply)) / 1e6,
        }
        rows.add(model=model, degree=degree, primes=primes, metrics=metrics)
    return rows.frame()


# --- comparing and looking up ---------------------------------------------------------------------


def comparing(settings: Settings) -> pd.DataFrame:
    """Rows (task, how): `seconds`, `megabytes` both ways and `error` of Dice on two encrypted bit
    vectors beside Dice on Bloom filters in clear, and of one record looked up in a table of
    `records` by an encrypted unit vector beside sending the whole table.

    Evaluation keys, sent once, are `keys_mb`.
    """
    import tenseal as ts

    from pet_lab.linkage.filters import dice_pairs, pack

    context = ts.context(
        ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 40, 60], n_threads=1
    )
    context.global_scale = SCALE
    context.generate_galois_keys()
    rng, rows, one = np.random.default_rng(settings.seed), Rows(part="comparing"), np.array([0])
    a = (rng.random(settings.filter_bits) < 0.3).astype(int)
    b = np.where(rng.random(settings.filter_bits) < 0.1, 1 - a, a)
    filters = pack(a[None]), pack(b[None])
    want = float(dice_pairs(*filters, one, one)[0])
    bloom = min(repeat(lambda: dice_pairs(*filters, one, one), number=1, repeat=20))
    metrics = {"seconds": bloom, "megabytes": 2 * len(a) / 8e6, "error": 0.0}
    rows.add(task="Dice", how="Bloom filters in clear", metrics=metrics)
    keys = len(context.serialize(save_secret_key=False)) / 1e6
    start = time.process_time()
    x, y = (ts.ckks_vector(context, v.tolist()) for v in (a, b))
    common, bits = x.dot(y), x.sum() + y.sum()
    got = 2 * common.decrypt()[0] / bits.decrypt()[0]
    spent = time.process_time() - start
    metrics = {"seconds": spent, "error": abs(got - want), "keys_mb": keys}
    metrics["megabytes"] = sum(len(v.serialize()) for v in (x, y, common, bits)) / 1e6
    rows.add(task="Dice", how="encrypted bits", metrics=metrics)
    table = rng.uniform(0, 100, settings.records)
    wanted = int(rng.integers(settings.records))
    start = time.process_time()
    question = ts.ckks_vector(context, np.eye(1, settings.records, wanted)[0].tolist())
    reply = question.dot(table.tolist())
    metrics = {"error": abs(reply.decrypt()[0] - table[wanted]), "keys_mb": keys}
    metrics |= {"seconds": time.process_time() - start}
    metrics["megabytes"] = (len(question.serialize()) + len(reply.serialize())) / 1e6
    rows.add(task="look-up", how="encrypted index", metrics=metrics)
    whole_table = {"seconds": 0.0, "megabytes": table.nbytes / 1e6, "error": 0.0}
    rows.add(task="look-up", how="whole table in clear", metrics=whole_table)
    return rows.frame()


# --- the limit: a shared result -------------------------------------------------------------------


def key_from_result(seal: Seal, ciphertext: Any, values: NDArray[np.complex128]) -> Array:
    """Coefficients of the secret key, transformed, by the first prime, from a ciphertext and its
    decrypted values as complex numbers (B. Li, D. Micciancio, EUROCRYPT 2021).

    c0 + c1 s = m, noise included; values with enough digits give m back exactly, so each of the n
    equations has one unknown: s = (m - c0) / c1.
    """
    n, q, plain = 2 * seal.slots, seal.moduli[0], seal.api.Plaintext()
    seal.encoder.encode(values.tolist(), ciphertext.parms_id(), ciphertext.scale, plain)
    numbers, second = ciphertext.dyn_array(), n * ciphertext.coeff_modulus_size()
    c0, c1 = ([numbers.at(i + start) for i in range(n)] for start in (0, second))
    key = [(plain.data(i) - c0[i]) * pow(c1[i], -1, q) % q for i in range(n)]
    return np.array(key, float)


def leak(seed: int) -> pd.DataFrame:
    """Rows (shared): `key_recovered`, the share of the secret key's coefficients that follow from a
    ciphertext and its decrypted numbers, shared with all digits and rounded to two."""
    seal, rows = Seal(4096, [36, 36, 36]), Rows(part="leak")
    plain, key = seal.api.Plaintext(), seal.secret_key.data()
    truth = np.array([key.data(i) for i in range(2 * seal.slots)], float)
    rng = np.random.default_rng(seed)
    ciphertext = seal.encrypt(rng.uniform(-1, 1, seal.slots), 2.0**30)
    seal.api.Decryptor(seal.context, seal.secret_key).decrypt(ciphertext, plain)
    values = np.array(seal.encoder.decode_complex(plain))
    for shared, numbers in {"all digits": values, "two digits": values.round(2)}.items():
        same = key_from_result(seal, ciphertext, numbers) == truth
        rows.add(shared=shared, metrics={"key_recovered": same.mean()})
    return rows.frame()


# --- the whole study ------------------------------------------------------------------------------


def simulate(x: Array, y: NDArray[np.int64], settings: Settings) -> pd.DataFrame:
    """All rows; `part` is encoding, depth, costs, inference, comparing or leak."""
    return concat(
        encoding(),
        depth(settings),
        costs(settings),
        inference(x, y, settings),
        comparing(settings),
        leak(settings.seed),
    )


def takeaways(rows: pd.DataFrame) -> list[Claim]:
    """What these rows say; the first is the headline."""
    networks = wide(only(rows, part="inference"), index=["model", "primes"])
    network = networks.sort_values("primes").iloc[-1]
    tasks = wide(only(rows, part="comparing"), index=["task", "how"]).set_index("how")
    by = means(rows, "operation", "degree", "level", part="costs").unstack("operation")
    fits = growth(rows).set_index("operation")
    near = fits.index[(fits["n"] - fits["n_printed"]).abs() <= 0.25]
    reached, key = only(rows, metric="reached"), means(rows, "shared", part="leak")
    seconds = tasks["seconds"].replace(0, np.nan)  # clocks tick in steps
    values = {
        "few": reached["primes"].min(), "many": reached["primes"].max(),
        "ratio": (by["rotation"] / by["relinearisation"]).median(), "level": fits["level"],
        "near": ", ".join(near), "far": ", ".join(fits.index.difference(near)) or "none",
        "slow": seconds["encrypted bits"] / seconds["Bloom filters in clear"],
        "dice": tasks.loc["encrypted bits"], "hidden": tasks.loc["encrypted index"],
        "table": tasks.loc["whole table in clear"], "key": key,
    }  # fmt: skip
    sentences = [
        ("The network {model} classifies {records:.0f} encrypted records in {seconds:.1f} CPU seconds "
         "as its polynomials do in clear, every one (largest error {error:.1g}); the network with "
         "ReLUs agrees on {agrees_with_original:.1%}.", network["agrees_with_clear"] == 1,
         "Only {agrees_with_clear:.1%} of {records:.0f} records get under encryption the class that "
         "the same polynomials give in clear."),
        ("From {few:.0f} to {many:.0f} rescaling primes, each allows exactly one multiplication more.",
         (reached["value"] == reached["primes"]).all()),
        ("A rotation costs {ratio:.2f} times a relinearisation (median): both switch keys, yet the "
         "slides print growth with the level for one and with its square for the other; here the "
         "fitted powers are {level[rotation]:.1f} and {level[relinearisation]:.1f}.",
         0.8 < values["ratio"] < 1.25),
        ("Growth with n is as printed, to a quarter in the power, for: {near}; not for: {far}.",
         len(near) > 0, "No operation grows with n as printed, to a quarter in the power."),
        ("Dice of two encrypted bit vectors takes {slow:,.0f} times the CPU time of Bloom filters in "
         "clear and {dice[megabytes]:.1f} MB. Hiding which record is looked up sends {hidden[megabytes]:.2f} MB (and once "
         "{hidden[keys_mb]:.0f} MB of keys), more than the whole table with its {table[megabytes]:.3f} MB.",
         values["slow"] > 1 and values["hidden"]["megabytes"] > values["table"]["megabytes"],
         "Dice of two encrypted bit vectors takes {slow:,.0f} times the CPU time of Bloom filters in "
         "clear; hiding which record is looked up sends {hidden[megabytes]:.2f} MB, the whole table has "
         "{table[megabytes]:.3f} MB."),
        ("A ciphertext and its decrypted numbers, all digits of them, give {key[all digits]:.0%} of the "
         "secret key's coefficients; rounded to two digits this equation gives {key[two digits]:.0%}.",
         key["all digits"] == 1),
    ]  # fmt: skip
    return claims(sentences, **network, **values)


def explore(real: float, imaginary: float, second: float, scale_bits: int) -> pd.DataFrame:
    """The polynomial of two numbers, and what it decodes to."""
    values, scale = [complex(real, imaginary), complex(second, -1)], 2.0**scale_bits
    coefficients = encode(values, scale)
    back = decode(coefficients, scale)
    terms = " + ".join(f"{c}X^{i}" for i, c in reversed(list(enumerate(coefficients))))
    lines = [(f"{v:.2f}", f"{b:.4f}", abs(b - v)) for v, b in zip(values, back, strict=True)]
    table = pd.DataFrame(lines, columns=["number", "decoded", "error"])
    return table.assign(polynomial=[terms, ""])
