"""A random forest on encrypted records: soft comparisons by polynomials, packed into slots.

As D. Huynh's cryptotree does it (arXiv:2006.08299): a tree becomes two layers, of comparisons and of
leaves, their tanh a polynomial, and all trees lie side by side in one ciphertext of SEAL's CKKS.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from pet_lab.checks import between, distinct, require, whole
from pet_lab.data import scaling, shipped, split
from pet_lab.rows import Claim, Rows, claims, concat, streams, wide
from pet_lab.seal import Seal

Array = NDArray[np.float64]
LABELS = {
    "difference": "feature minus threshold",
    "output": "soft comparison",
    "agrees_with_forest": "agrees with forest",
    "agrees_with_clear": "agrees with clear",
    "error": "largest error",
    "per_ciphertext": "records at once",
    "keys_mb": "MB of keys",
    "sent_mb": "MB sent",
}
ASSUMPTIONS = (
    "No epsilon: a server without the key sees ciphertexts of CKKS at SEAL's 128-bit parameters and "
    "follows the protocol. The client has the key, knows which features the nodes compare, and "
    "learns scores."
)
DEGREE, BITS, HEADROOM = 16384, 438, 9  # of the ring; SEAL's 128-bit limit there; above the scale
MOST_BITS = 38  # of a scale: more buys nothing
FACTORS = ["depth", "trees", "degree"]
REFITTED = "polynomials, refitted"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Parameters of the notebook, checked."""

    depths: Sequence[int]
    trees: Sequence[int]
    degrees: Sequence[int]
    steepness: float
    records: int
    replicates: int
    seed: int

    def __post_init__(self) -> None:
        distinct(depths=self.depths, trees=self.trees, degrees=self.degrees)
        between(1, 6, shallowest=min(self.depths), deepest=max(self.depths))
        between(1, 512, fewest_trees=min(self.trees), most_trees=max(self.trees))
        hint = f"{DEGREE} coefficients hold no modulus for more"
        between(3, 16, hint=hint, least_degree=min(self.degrees), most_degree=max(self.degrees))
        between(1, 100, steepness=self.steepness)
        whole(1, records=self.records)
        whole(2, replicates=self.replicates)
        whole(0, seed=self.seed)
        slots(max(self.depths), max(self.trees))


def levels(degree: int) -> int:
    """Rescaling primes: two polynomials (powers, then coefficients), leaves, values, mask."""
    return 2 * (math.ceil(math.log2(degree)) + 1) + 3


def slots(depth: int, trees: int) -> int:
    """What a record takes: for each tree, their number rounded up to a power of 2, its comparisons
    twice. ValueError where a ciphertext has fewer."""
    needed = int(2 ** (depth + 1 + math.ceil(math.log2(trees))))
    sentence = f"{trees} trees of depth {depth} take {needed} slots, of {DEGREE // 2}: take fewer."
    require(needed <= DEGREE // 2, sentence)
    return needed


def soft(steepness: float, degree: int) -> Array:
    """Chebyshev coefficients of the polynomial that interpolates tanh(steepness z) on [-1, 1]."""
    coefficients = chebyshev.chebinterpolate(lambda z: np.tanh(steepness * z), degree)
    coefficients[::2] = 0  # tanh is odd: what stands there is rounding
    return np.trim_zeros(coefficients, "b")


# --- the forest as layers -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A forest as layers over T trees of K = 2^depth leaves, padded with zeros.

    feature (T, K), -1 for none; threshold (T, K); path (T, K leaves, K comparisons) of -1 for left
    and 1 for right; above (T, K), comparisons above a leaf; values (T, K), of leaves; bias of the sum
    """

    features: int
    depth: int
    coefficients: Array
    feature: NDArray[np.int64]
    threshold: Array
    path: Array
    above: Array
    values: Array
    bias: float

    def soften(self, z: Array) -> Array:
        """The polynomial that stands for a comparison."""
        return np.asarray(chebyshev.chebval(z, self.coefficients))

    @cached_property
    def reach(self) -> float:
        """Bound on a leaf's sum, which must stay in [-1, 1]; soft comparisons overshoot a little."""
        most = np.abs(self.soften(np.linspace(-1, 1, 4001))).max()
        return float(self.depth * max(1.0, most) * 1.001 + self.depth - 1)

    def compared(self, x: Array) -> Array:
        """Features (records, T, K) in the order in which nodes compare them: the client's part.

        Raises
        ------
        ValueError
            If records have another number of features, or one outside [0, 1].
        """
        fits = x.ndim == 2 and x.shape[1] == self.features
        require(fits, f"Expected records of {self.features} features, got shape {x.shape}.")
        inside = ((x >= 0) & (x <= 1)).all()
        require(inside, "Expected features in [0, 1], where comparisons hold: scale and clip them.")
        return np.where(self.feature < 0, 0, x[:, self.feature])

    def leaves(self, x: Array) -> Array:
        """Terms (records, T, K), near 1 for the leaf that a record reaches, near -1 for others."""
        v = self.soften(self.compared(x) - self.threshold)
        return self.soften((np.einsum("rtk,tlk->rtl", v, self.path) - self.above + 1) / self.reach)

    def scores(self, x: Array) -> Array:
        """Scores (records,) in clear, above 0 for class 1."""
        return np.einsum("rtl,tl->r", self.leaves(x), self.values) + self.bias

    @property
    def width(self) -> int:
        """Slots of a record."""
        return slots(self.depth, len(self.values))

    @property
    def rotations(self) -> int:
        """Of one evaluation: to match K leaves, and to add up the slots of a record."""
        return 2**self.depth - 1 + int(math.log2(self.width))

    def spread(self, blocks: Array, *, twice: bool = False) -> Array:
        """Blocks (records, T, K), or (T, K) the same for every record, as a vector of slots."""
        if blocks.ndim == 2:
            blocks = np.broadcast_to(blocks, (DEGREE // 2 // self.width, *blocks.shape))
        blocks = np.concatenate([blocks, blocks if twice else 0 * blocks], axis=2)
        flat = blocks.reshape(len(blocks), -1)
        return np.pad(flat, [(0, 0), (0, self.width - flat.shape[1])]).ravel()


def fitted(
    x: Array, y: NDArray[np.int64], *, depth: int, trees: int, degree: int, steepness: float
) -> tuple[Any, Packed, Packed]:
    """A random forest for two classes; the same as layers, a leaf worth its share of class 1 less
    1/2; and with leaf values of a logistic regression on the leaf terms, as cryptotree refits."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    forest = RandomForestClassifier(trees, max_depth=depth, random_state=0).fit(x, y)
    k = 2**depth
    feature, threshold = np.full((trees, k), -1), np.zeros((trees, k))
    path, above, values = np.zeros((trees, k, k)), np.full((trees, k), 2.0 * depth), 0 * threshold
    for t, tree in enumerate(e.tree_ for e in forest.estimators_):
        nodes, leaf, waiting = iter(range(k)), iter(range(k)), [(0, dict[int, int]())]
        while waiting:
            node, way = waiting.pop()
            left, right = tree.children_left[node], tree.children_right[node]
            if left < 0:
                at, counts = next(leaf), tree.value[node, 0]
                path[t, at, list(way)], above[t, at] = list(way.values()), len(way)
                values[t, at] = (counts[1] / counts.sum() - 0.5) / 2 / trees
            else:
                at = next(nodes)
                feature[t, at], threshold[t, at] = tree.feature[node], tree.threshold[node]
                waiting += [(left, way | {at: -1}), (right, way | {at: 1})]
    grown = Packed(
        features=x.shape[1], depth=depth, coefficients=soft(steepness, degree), feature=feature,
        threshold=threshold, path=path, above=above, values=values, bias=float(values.sum()),
    )  # fmt: skip
    head = LogisticRegression(max_iter=5000).fit(grown.leaves(x).reshape(len(x), -1), y)
    weights, bias = head.coef_.reshape(values.shape), float(head.intercept_[0])
    return forest, grown, replace(grown, values=weights, bias=bias)


# --- under encryption -----------------------------------------------------------------------------


def keys(degree: int, width: int, *, primes: int = 0) -> Seal:
    """The client's context for polynomials of this degree and records of up to this width, with
    rotations by powers of 2; 0: as many rescaling primes as it takes."""
    primes = primes or levels(degree)
    bits = min(MOST_BITS, (BITS - 2 * HEADROOM) // (primes + 2))
    chain = [bits + HEADROOM, *[bits] * primes, bits + HEADROOM]
    steps = [2**i for i in range(int(math.log2(width)))]
    return Seal(DEGREE, chain, scale=2.0**bits, steps=steps)


def encrypt(seal: Seal, packed: Packed, x: Array) -> Any:
    """The client's records, at most slots / width, as one ciphertext."""
    most = seal.slots // packed.width
    fits = 0 < len(x) <= most
    require(fits, f"A ciphertext holds 1 to {most} records, got {len(x)}: send them in parts.")
    return seal.encrypt(packed.spread(packed.compared(x), twice=True))


def polynomial(seal: Seal, x: Any, coefficients: Array) -> Any:
    """The odd Chebyshev series of x by T_a+b = 2 T_a T_b - T_a-b, a the largest power of 2 below."""
    terms, degree = {1: x}, len(coefficients) - 1
    powers = {2**i for i in range(1, degree) if 2**i < degree}
    for i in sorted(powers | set(range(3, degree + 1, 2))):
        a = 1 << (i - 1).bit_length() - 1
        product = seal.multiply(terms[a], terms[i - a])
        seal.run.add_inplace(product, product)
        if i < 2 * a:
            at = {"primes": product.coeff_modulus_size(), "scale": product.scale}
            seal.run.sub_inplace(product, seal.weigh(terms[2 * a - i], 1.0, **at))
        terms[i] = product if i < 2 * a else seal.shift(product, -1.0)
    primes = min(t.coeff_modulus_size() for t in terms.values()) - 1
    odd = [i for i in range(1, degree + 1, 2) if abs(coefficients[i]) * seal.scale > 1]
    parts = [seal.weigh(terms[i], float(coefficients[i]), primes=primes) for i in odd]
    return seal.total(parts)


def evaluate(seal: Seal, packed: Packed, records: Any) -> Any:
    """Encrypted scores, each in the first slot of its record; needs no secret key.

    A mask takes sums of some of the leaf terms off the other slots.
    """
    nodes = seal.shift(records, packed.spread(-packed.threshold, twice=True))
    nodes, parts = polynomial(seal, nodes, packed.coefficients), []
    i = np.arange(packed.path.shape[2])
    for step in i:  # path times nodes, a diagonal at a time
        nodes = seal.rotate(nodes, 1) if step else nodes
        diagonal = packed.path[:, i, (i + step) % len(i)] / packed.reach
        parts += [seal.weigh(nodes, packed.spread(diagonal))] if diagonal.any() else []
    leaves = seal.shift(seal.total(parts), packed.spread((1 - packed.above) / packed.reach))
    leaves = polynomial(seal, leaves, packed.coefficients)
    scores = seal.weigh(leaves, packed.spread(packed.values))
    for power in range(int(math.log2(packed.width))):
        scores = seal.total([scores, seal.rotate(scores, 2**power)])
    scores = seal.shift(scores, packed.bias)
    first = np.tile(np.eye(1, packed.width)[0], seal.slots // packed.width)
    return seal.weigh(scores, first)


# --- the experiment -------------------------------------------------------------------------------


def grid(settings: Settings) -> list[dict[str, Any]]:
    """The largest forest, and each of depth, trees and degree varied alone."""
    axes = dict(zip(FACTORS, (settings.depths, settings.trees, settings.degrees), strict=True))
    most = {name: max(values) for name, values in axes.items()}
    varied = [most | {name: v} for name, values in axes.items() for v in values if v < most[name]]
    return [most, *varied]


def comparisons(settings: Settings) -> pd.DataFrame:
    """Rows (how, difference): `output` of a soft comparison, by tanh and by each polynomial."""
    rows, z = Rows(part="comparison"), np.linspace(-1, 1, 81)
    curves = {"tanh": np.tanh(settings.steepness * z)}
    for degree in sorted(settings.degrees):
        curves[f"degree {degree}"] = chebyshev.chebval(z, soft(settings.steepness, degree))
    for how, values in curves.items():
        for difference, value in zip(z, values, strict=True):
            rows.add(how=how, difference=difference, metrics={"output": value})
    return rows.frame()


def ways(
    x: Array, y: NDArray[np.int64], train: Any, test: Any, **here: Any
) -> tuple[dict[str, NDArray[Any]], Packed]:
    """Classes of the test records by how they are computed in clear, and the last model."""
    forest, grown, packed = fitted(x[train], y[train], **here)
    return {
        "forest": forest.predict(x[test]),
        "polynomials": grown.scores(x[test]) > 0,
        REFITTED: packed.scores(x[test]) > 0,
    }, packed


def predictions(settings: Settings, seals: dict[int, Seal]) -> pd.DataFrame:
    """Rows (part, depth, trees, degree): in part "clear" `accuracy` and `agrees_with_forest` by `how`
    and replicate; in part "encrypted", for held-out records of the first replicate, what `measured`
    says.
    """
    raw, y, _ = shipped.tumours()
    clear, secret = Rows(part="clear"), Rows(part="encrypted")
    for replicate, stream in streams(settings.seed, settings.replicates):
        train, test = split(len(y), rng=np.random.default_rng(stream))
        x = scaling.unit_range(raw, raw[train]).clip(0, 1)
        for here in grid(settings):
            classes, packed = ways(x, y, train, test, steepness=settings.steepness, **here)
            for how, predicted in classes.items():
                metrics = {"accuracy": np.mean(predicted == y[test])}
                metrics["agrees_with_forest"] = np.mean(predicted == classes["forest"])
                clear.add(metrics=metrics, how=how, replicate=replicate, **here)
            if not replicate:
                seal, some = seals[here["degree"]], test[: settings.records]
                metrics = measured(seal, packed, x[some], y[some], classes["forest"][: len(some)])
                secret.add(metrics=metrics, **here)
    return concat(clear.frame(), secret.frame())


def measured(
    seal: Seal, packed: Packed, x: Array, y: NDArray[np.int64], forest: Array
) -> dict[str, float]:
    """Of encrypted records: `accuracy`, `agrees_with_clear`, `agrees_with_forest`, largest `error`
    of a score; of one ciphertext: `rotations`, `levels` used, CPU `seconds` at the server, sizes."""
    most, scores, seconds = seal.slots // packed.width, [], []
    for start in range(0, len(x), most):
        sent = seal.save(encrypt(seal, packed, x[start : start + most]))
        records, began = seal.load(sent), time.process_time()
        reply = evaluate(seal, packed, records)
        seconds.append(time.process_time() - began)
        scores.append(seal.decrypt(reply)[:: packed.width])
    got, want = np.concatenate(scores)[: len(x)], packed.scores(x)
    return {
        "records": len(x),
        "accuracy": np.mean((got > 0) == y),
        "agrees_with_clear": np.mean((got > 0) == (want > 0)),
        "agrees_with_forest": np.mean((got > 0) == forest),
        "error": np.abs(got - want).max(),
        "rotations": packed.rotations,
        "levels": records.coeff_modulus_size() - reply.coeff_modulus_size(),
        "per_ciphertext": most,
        "seconds": min(seconds),
        "sent_mb": len(sent) / 1e6,
        "keys_mb": seal.key_bytes / 1e6 * (1 + math.log2(packed.width)),
    }


# --- the whole study ------------------------------------------------------------------------------


def simulate(settings: Settings) -> pd.DataFrame:
    """All rows; `part` is comparison, clear or encrypted."""
    width = slots(max(settings.depths), max(settings.trees))
    seals = {degree: keys(degree, width) for degree in settings.degrees}
    return concat(comparisons(settings), predictions(settings, seals))


def accuracies(rows: pd.DataFrame) -> pd.DataFrame:
    """In clear, means over divisions, a line for each forest: `accuracy` by how, and `agreement` of
    the refitted polynomials with the forest."""
    part = rows[rows["part"] == "clear"]
    frame = wide(part[part["metric"] == "accuracy"], index=FACTORS, columns="how")
    agreed = part[(part["metric"] == "agrees_with_forest") & (part["how"] == REFITTED)]
    return frame.merge(wide(agreed, index=FACTORS), on=FACTORS)


def costs(rows: pd.DataFrame) -> pd.DataFrame:
    """Under encryption, a line for each forest."""
    return wide(rows[rows["part"] == "encrypted"], index=FACTORS)


def takeaways(rows: pd.DataFrame) -> list[Claim]:
    """What these rows say; the first is the headline."""
    table = costs(rows)
    most, least = (dict(table[FACTORS].agg(end)) for end in ("max", "min"))
    turns = table.set_index(FACTORS)["rotations"].to_dict()
    full = table[(table[FACTORS] == most).all(axis=1)].iloc[0]
    fewer = {f"turns_{n}": turns[tuple((most | {n: least[n]}).values())] for n in FACTORS}
    clear = rows[(rows["part"] == "clear") & (rows[FACTORS] == most).all(axis=1)]
    by = clear.pivot(index=["metric", "replicate"], columns="how", values="value")
    gain = by[REFITTED]["accuracy"] - by["forest"]["accuracy"]
    means = by.groupby("metric").mean()
    numbers = {
        **full, **{f"least_{n}": v for n, v in least.items()}, **fewer,
        "same": full["agrees_with_clear"] * full["records"],
        "as_forest": full["agrees_with_forest"] * full["records"],
        "low": table["levels"].min(), "high": table["levels"].max(),
        "forest": means["forest"]["accuracy"], "grown": means["polynomials"]["accuracy"],
        "refitted": means[REFITTED]["accuracy"], "n": len(gain),
        "agrees": means[REFITTED]["agrees_with_forest"],
    }  # fmt: skip
    sentences = [
        ("A forest of {trees:.0f} trees of depth {depth:.0f} gives all {records:.0f} encrypted records "
         "the class that its polynomials give in clear, and {as_forest:.0f} of them that of the forest "
         "itself; one ciphertext, of one record or of {per_ciphertext:.0f}, takes {seconds:.1f} CPU "
         "seconds.", full["agrees_with_clear"] == 1,
         "Under encryption {same:.0f} of {records:.0f} records get the class that the same polynomials "
         "give in clear."),
        ("Polynomials of degree {least_degree:.0f} to {degree:.0f} use {low:.0f} to {high:.0f} "
         "rescaling primes, as by the formula; the depth of the trees takes none.",
         bool((table["levels"] == table["degree"].map(levels)).all()),
         "The rescaling primes used, {low:.0f} to {high:.0f}, are not those of the formula."),
        ("With refitted leaf values the polynomials are more accurate than the forest that they come "
         "from, {refitted:.1%} against {forest:.1%} (mean of {n} divisions), as cryptotree's author "
         "found on another table, and another model: {agrees:.1%} of classes agree; with its own leaf "
         "values they reach {grown:.1%}.",
         bool(gain.mean() > 2 * gain.sem()),
         "With refitted leaf values the polynomials reach {refitted:.1%}, the forest {forest:.1%} "
         "(mean of {n} divisions): no gain beyond chance; with its own leaf values they reach "
         "{grown:.1%}."),
        ("Trees lie side by side: {trees:.0f} of depth {depth:.0f} take {rotations:.0f} rotations, "
         "{least_trees:.0f} take {turns_trees:.0f}; at depth {least_depth:.0f}, with half the leaves "
         "for each level less, {trees:.0f} take {turns_depth:.0f}.",
         fewer["turns_depth"] < fewer["turns_trees"],
         "{trees:.0f} trees of depth {depth:.0f} take {rotations:.0f} rotations, {least_trees:.0f} take "
         "{turns_trees:.0f}; at depth {least_depth:.0f} {trees:.0f} take {turns_depth:.0f}."),
        ("A client sends {keys_mb:,.0f} MB of evaluation keys once, then {sent_mb:.1f} MB a "
         "ciphertext.",),
    ]  # fmt: skip
    return claims(sentences, **numbers)


def explore(depth: int, trees: int, degree: int, steepness: float) -> pd.DataFrame:
    """One division, in clear: what a forest gains or loses as polynomials, and what it would take."""
    raw, y, _ = shipped.tumours()
    train, test = split(len(y), rng=np.random.default_rng(0))
    x = scaling.unit_range(raw, raw[train]).clip(0, 1)
    here = {"depth": depth, "trees": trees, "degree": degree, "steepness": steepness}
    classes, packed = ways(x, y, train, test, **here)
    frame = pd.DataFrame({"how": list(classes)})
    frame["accuracy"] = [np.mean(c == y[test]) for c in classes.values()]
    frame["agrees with forest"] = [np.mean(c == classes["forest"]) for c in classes.values()]
    frame["rescaling primes"], frame["slots"] = levels(degree), packed.width
    frame.loc[0, ["rescaling primes", "slots"]] = 0
    return frame
