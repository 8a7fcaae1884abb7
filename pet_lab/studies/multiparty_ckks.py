"""Several parties train one model whose weights stay encrypted under a key that nobody holds.

Teaching code, not for use: the multiparty scheme of C. Mouchet et al. (PoPETs 2021) with numbers in
coefficients, as SPINDLE (arXiv:2005.09532) and POSEIDON (NDSS 2021) build on it: collective key,
distributed decryption, collective refresh. Degree 8,192 and the modulus 2^140 are within the 218 bits
of modulus that the homomorphicencryption.org tables allow for 128 bits of security. It lacks: products of
ciphertexts, protection from parties that deviate, constant time, a proper random generator.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.special import expit

from pet_lab.checks import between, distinct, positive, require, whole
from pet_lab.data import scaling, shipped, split
from pet_lab.rows import Claim, Rows, claims, concat, means, only, streams, tidy, wide

Array = NDArray[np.float64]
Poly = NDArray[np.int64]  # (DIGITS, N): coefficients modulo 2^140, in digits of 14 bits
Small = NDArray[np.int64]  # (N,): coefficients below 2^21 in size
Ciphertext = tuple[Poly, Poly]
LABELS = {
    "parties": "parties",
    "megabytes": "MB sent in all",
    "setup_mb": "of it, MB for the key",
    "score_error": "largest error of a score",
    "ciphertexts": "ciphertexts a step",
    "features": "features and neurons",
    "accuracy": "accuracy on held-out records",
}
N, DIGIT, DIGITS = 8192, 14, 10
WEIGHT_BITS, DATA_BITS = 5 * DIGIT, DIGIT  # scales of weights and of a party's own numbers
POLYNOMIAL = N * DIGIT * DIGITS // 8  # bytes, as sent
TURNS = np.exp(1j * np.pi * np.arange(N) / N)
NOISE_BITS, HIDING_BITS = 34, 40  # bound on the noise of a sum; statistical distance 2^-40
SMUDGE_BITS = NOISE_BITS + HIDING_BITS
LARGEST = 2.0**6  # of weights and scores: larger numbers come from a wrong key or share
MASK_BITS = WEIGHT_BITS + DATA_BITS + 6 + HIDING_BITS
SLOPE, OFFSET = 0.15, 0.5  # least-squares line for the sigmoid on about [-5, 5]
ASSUMPTIONS = (
    "No epsilon: up to all parties but one may pool what they see, and follow the protocol; the "
    "querier sees predictions. Weights, gradients and data stay encrypted or at home."
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Parameters of the notebook, checked."""

    parties: Sequence[int]
    features: Sequence[int]
    steps: int
    step_size: float
    penalty: float
    neurons: int
    replicates: int
    seed: int

    def __post_init__(self) -> None:
        distinct(least=2, parties=self.parties)
        distinct(features=self.features)
        between(2, 16, fewest_parties=min(self.parties), most_parties=max(self.parties))
        between(1, N, features=min(self.features), most_features=max(self.features))
        positive(step_size=self.step_size, penalty=self.penalty)
        between(1, 59, neurons=self.neurons, hint="weights of one model fill one ciphertext")
        whole(1, steps=self.steps, replicates=self.replicates)
        whole(0, seed=self.seed)


# --- the ring of polynomials modulo X^N + 1 and 2^140: teaching code, not for use -----------------


def carry(a: Poly) -> Poly:
    """The same coefficients modulo 2^140 in digits from -2^13 to 2^13 - 1."""
    a, half = a.copy(), 1 << DIGIT - 1
    for i in range(DIGITS):
        over = (a[i] + half) >> DIGIT
        a[i] -= over << DIGIT
        a[i + 1 : i + 2] += over
    return a


def shifted(a: Poly, digits: int) -> Poly:
    """Times a power of 2^14; of a negative one, divided and rounded to the nearest."""
    out = np.zeros_like(a)
    out[max(digits, 0) : DIGITS + min(digits, 0)] = a[max(-digits, 0) : DIGITS - max(digits, 0)]
    return out


def times(a: Poly, small: Small) -> Poly:
    """The product, by the fast Fourier transform of digits: rounding errors stay far below 1/2."""
    spectrum = np.fft.fft(a * TURNS) * np.fft.fft(small * TURNS)  # turned: X^N is -1, not 1
    return carry(np.rint((np.fft.ifft(spectrum) / TURNS).real).astype(np.int64))


def noise(rng: Generator) -> Poly:
    """Noise of standard deviation 3.2."""
    return np.vstack([np.rint(rng.normal(0, 3.2, N)), np.zeros((DIGITS - 1, N))]).astype(np.int64)


def ternary(rng: Generator) -> Small:
    """Coefficients -1, 0, 1."""
    return rng.integers(-1, 2, N)


def large(rng: Generator, bits: int = DIGIT * DIGITS - 1) -> Poly:
    """Uniform whole numbers up to about 2^bits in size; by default a uniform element."""
    full, rest = divmod(bits + 1, DIGIT)
    out = np.zeros((DIGITS, N), np.int64)
    out[:full] = rng.integers(-(1 << DIGIT - 1), 1 << DIGIT - 1, (full, N))
    if rest:
        out[full] = rng.integers(-(1 << rest - 1), 1 << rest - 1, N)
    return out


@dataclass
class KeySession:
    """Parties with shares of one key, and a count of what they send.

    Every share goes to a coordinator, which adds them and sends the sum to every party.
    """

    parties: int
    rng: Generator
    sent: int = 0
    secrets: list[Small] = field(init=False)
    public: Ciphertext = field(init=False)

    def __post_init__(self) -> None:
        self.secrets = [ternary(self.rng) for _ in range(self.parties)]
        a = large(self.rng)
        self.public = self._collect([noise(self.rng) - times(a, s) for s in self.secrets]), a

    def _collect(self, shares: Sequence[Poly]) -> Poly:
        self.sent += 2 * self.parties * POLYNOMIAL  # a share up, the sum down
        return carry(np.sum(shares, axis=0))

    def zero(self, *, smudge: bool = False) -> Ciphertext:
        """A fresh encryption of 0 under the collective key; `smudge` adds noise of SMUDGE_BITS that
        hides what multiplied a ciphertext."""
        u = ternary(self.rng)
        first, second = (carry(times(part, u) + noise(self.rng)) for part in self.public)
        return (carry(first + large(self.rng, SMUDGE_BITS)) if smudge else first), second

    def encrypt(self, numbers: Array) -> Ciphertext:
        """Weights, shape (n,), n at most N."""
        c0, c1 = self.zero()
        return carry(c0 + fixed(numbers, WEIGHT_BITS)), c1

    def share(self, party: int, c1: Poly, *, mask: Poly | None = None) -> Poly:
        """A party's part of a decryption: s_i c1, smudging noise, and its mask in a refresh."""
        hidden = times(c1, self.secrets[party]) + large(self.rng, SMUDGE_BITS)
        return carry(hidden if mask is None else hidden + mask)

    def decrypt(self, ciphertext: Ciphertext, shares: Mapping[int, Poly]) -> Array:
        """A product's numbers (N,) from all parties' shares, which only the receiver sees.

        Raises
        ------
        ValueError
            If a party's share is missing, or the numbers show a share of another key or ciphertext.
        """
        self._all(shares)
        self.sent += self.parties * POLYNOMIAL
        digits = carry(ciphertext[0] + np.sum(list(shares.values()), axis=0))
        numbers = 2.0 ** (DIGIT * np.arange(DIGITS) - WEIGHT_BITS - DATA_BITS) @ digits
        text = "Decrypted numbers are too large: a share is of another key, session or ciphertext."
        require(np.abs(numbers).max() <= LARGEST, text)
        return np.asarray(numbers)

    def refresh(self, ciphertext: Ciphertext, places: NDArray[np.int64]) -> Ciphertext:
        """The same weights, fresh: number `places[j]` of the ciphertext, divided by 2^DATA_BITS,
        becomes number j; everything else becomes 0.

        Each party masks its share by R_i 2^DATA_BITS; the coordinator sees the sum masked and moves
        and divides it in clear; a fresh encryption of the R_i, moved, takes the masks off.
        """
        masks = [large(self.rng, MASK_BITS - DATA_BITS) for _ in range(self.parties)]
        masked = self._collect(
            [self.share(i, ciphertext[1], mask=shifted(r, 1)) for i, r in enumerate(masks)]
        )

        def moved(a: Poly) -> Poly:
            out = np.zeros_like(a)
            out[:, : len(places)] = a[:, places]
            return out

        a = large(self.rng)
        pairs = zip(self.secrets, masks, strict=True)
        again = [carry(noise(self.rng) - times(a, s) - moved(r)) for s, r in pairs]
        total = carry(ciphertext[0] + masked)
        return carry(moved(shifted(total, -1)) + self._collect(again)), a

    def add(self, ciphertexts: Sequence[Ciphertext]) -> Ciphertext:
        """The sum of one ciphertext of each party."""
        self._all(range(len(ciphertexts)))
        first, second = (self._collect([c[i] for c in ciphertexts]) for i in (0, 1))
        return first, second

    def _all(self, there: Collection[int]) -> None:
        missing = sorted(set(range(self.parties)) - set(there))
        require(not missing, f"Expected shares of {self.parties} parties, missing: {missing}.")


# --- linear algebra by one product of polynomials -------------------------------------------------


def fixed(numbers: Array, bits: int) -> Poly:
    """Numbers (n,), at most LARGEST each, times 2^bits, a power of 2^14 from the third on."""
    reach = np.abs(numbers).max(initial=0)
    require(reach <= LARGEST, f"Numbers reach {reach:.3g}, expected at most {LARGEST:g}: rescale.")
    out = np.zeros((DIGITS, N), np.int64)
    out[bits // DIGIT - 3, : len(numbers)] = np.rint(numbers * 2.0 ** (3 * DIGIT))
    return carry(out)


def matrix(rows: Array) -> Small:
    """A matrix (r, d) as a polynomial: its product with weights w_0..w_(d-1) has (rows @ w)_k as
    coefficient k d + d - 1. ValueError if r d numbers do not fit one polynomial."""
    r, d = rows.shape
    require(r * d <= N, f"{r} rows of {d} numbers do not fit {N} coefficients: send them in parts.")
    reach = np.abs(rows).max(initial=0)
    require(reach <= LARGEST, f"Numbers reach {reach:.3g}, expected at most {LARGEST:g}: rescale.")
    return np.pad(np.rint(rows[:, ::-1] * 2.0**DATA_BITS).astype(np.int64).ravel(), (0, N - r * d))


def places(r: int, d: int) -> NDArray[np.int64]:
    """Where the product of `matrix` holds its r numbers."""
    return np.arange(r) * d + d - 1


def apply(session: KeySession, rows: Array, weights: Ciphertext, constants: Array) -> Ciphertext:
    """Encrypted rows @ w + constants, hidden by an encryption of 0.

    Without it c1 of the result over c1 of the weights is the party's data in clear.
    """
    zero, product, offset = session.zero(smudge=True), matrix(rows), np.zeros(N)
    offset[places(*rows.shape)] = constants
    c0, c1 = (times(part, product) + hiding for part, hiding in zip(weights, zero, strict=True))
    return carry(c0 + fixed(offset, WEIGHT_BITS + DATA_BITS)), carry(c1)


# --- training -------------------------------------------------------------------------------------


def line(z: Array) -> Array:
    """The sigmoid as the least-squares line: what needs no product of ciphertexts."""
    return OFFSET + SLOPE * z


def descend(x: Array, y: Array, settings: Settings, activation: object = expit) -> Array:
    """Weights (d,) after gradient descent in clear on all records: the same steps as encrypted.

    Plain federated learning, which averages gradients at every step, gives these numbers too.
    """
    w = np.zeros(x.shape[1])
    for _ in range(settings.steps):
        slope = x.T @ (activation(x @ w) - y) / len(y) + settings.penalty * w  # type: ignore[operator]
        w = w - settings.step_size * slope
    return w


def train_encrypted(
    session: KeySession, parts: Sequence[tuple[Array, Array]], settings: Settings
) -> Ciphertext:
    """Encrypted weights after the steps of `descend` with `line`; one (x, y) for each party.

    w - step gradient is affine in w, so each party sends its share (I / parties - step A_i) w - step
    b_i, with A_i and b_i from its own records; all are added and refreshed.
    """
    require(
        len(parts) == session.parties,
        f"Expected records of {session.parties} parties, got {len(parts)}.",
    )
    d, n = parts[0][0].shape[1], sum(len(y) for _, y in parts)
    keep, rate = (
        (1 - settings.step_size * settings.penalty) / session.parties,
        settings.step_size / n,
    )
    local = [
        (keep * np.eye(d) - rate * SLOPE * x.T @ x, -rate * x.T @ (OFFSET - y)) for x, y in parts
    ]
    weights = session.encrypt(np.zeros(d))
    for _ in range(settings.steps):
        total = session.add([apply(session, a, weights, b) for a, b in local])
        weights = session.refresh(total, places(d, d))
    return weights


def predict(session: KeySession, weights: Ciphertext, x: Array) -> Array:
    """Scores (n,) for the querier, who alone receives the decryption shares; x never leaves it."""
    r, d = x.shape
    scores, at_once = [], N // d
    for start in range(0, r, at_once):
        part = x[start : start + at_once]
        encrypted = apply(session, part, weights, np.zeros(len(part)))
        shares = {i: session.share(i, encrypted[1]) for i in range(session.parties)}
        scores.append(session.decrypt(encrypted, shares)[places(*part.shape)])
    return np.concatenate(scores)


def models(x: Array, settings: Settings, rng: Generator) -> dict[str, Array]:
    """What is trained on: the features and a 1; or also neurons with fixed random weights, public,
    so that only the last layer of a network is trained."""
    one = np.ones((len(x), 1))
    hidden = np.tanh(x @ rng.normal(size=(x.shape[1], settings.neurons)) / np.sqrt(x.shape[1]))
    return {
        "logistic regression": np.hstack([x, one]),
        "network, last layer": np.hstack([x, hidden, one]),
    }


def training(settings: Settings) -> pd.DataFrame:
    """Rows (model, replicate): `accuracy` by `how`; the first division of the records is also
    trained under encryption, by each number of parties, with `score_error`, the largest difference
    of a score from the same steps in clear, `agreement` of classes, `setup_mb` and `megabytes`.
    """
    from sklearn.linear_model import LogisticRegression

    raw, y, _ = shipped.tumours()
    rows = Rows(part="training")
    for replicate, stream in streams(settings.seed, settings.replicates):
        rng = np.random.default_rng(stream)
        train, test = split(len(y), rng=rng)
        x = scaling.standardise(raw, raw[train])
        for model, inputs in models(x, settings, rng).items():
            here, truth = inputs[train], y[train].astype(float)
            clear = descend(here, truth, settings, line)
            peer = LogisticRegression(max_iter=5000).fit(here, truth)
            federated = descend(here, truth, settings)
            results = {
                "centralised, scikit-learn": peer.predict(inputs[test]),
                "federated, in clear": inputs[test] @ federated > 0,
                "federated, sigmoid as a line": inputs[test] @ clear > 0,
            }
            for how, predicted in results.items():
                accuracy = np.mean(predicted == y[test])
                rows.add(model=model, how=how, replicate=replicate, metrics={"accuracy": accuracy})
            for parties in settings.parties if not replicate else ():
                session = KeySession(parties, rng)
                setup = session.sent
                indices = np.array_split(np.arange(len(train)), parties)
                parts = [(here[i], truth[i]) for i in indices]
                weights = train_encrypted(session, parts, settings)
                sent = session.sent
                got, want = predict(session, weights, inputs[test]), inputs[test] @ clear
                metrics = {
                    "accuracy": np.mean((got > 0) == y[test]),
                    "agreement": np.mean((got > 0) == (want > 0)),
                    "score_error": np.abs(got - want).max(),
                    "setup_mb": setup / 1e6,
                    "megabytes": sent / 1e6,
                }
                rows.add(model=model, how="encrypted", parties=parties, metrics=metrics)
    all_sent = only(rows.frame(), metric="megabytes")
    slope = np.polyfit(np.log(all_sent["parties"]), np.log(all_sent["value"]), 1)[0]
    return concat(rows.frame(), tidy("slope", {"parties": slope}, by="check", part="scaling"))


def ciphertexts(features: int) -> int:
    """Ciphertexts that a step's product needs: weights and rows of d numbers, N a ciphertext."""
    require(features <= N, f"Up to {N} features fit one ciphertext of weights, got {features}.")
    return -(-features // (N // features))


# --- the whole study ------------------------------------------------------------------------------


def simulate(settings: Settings) -> pd.DataFrame:
    """All rows; `part` is training, scaling or packing."""
    sizes = {features: ciphertexts(features) for features in settings.features}
    packing = tidy("ciphertexts", sizes, by="features", part="packing")
    return concat(training(settings), packing)


def accuracies(rows: pd.DataFrame) -> pd.DataFrame:
    """Of what runs in clear, means over divisions of the records: a line a model."""
    chosen = (rows["metric"] == "accuracy") & (rows["how"] != "encrypted")
    return wide(rows[chosen], index="model", columns="how")


def costs(rows: pd.DataFrame) -> pd.DataFrame:
    """What encrypted training sent, and how far it is from the same steps in clear."""
    return wide(only(rows, how="encrypted"), index=["model", "parties"])


def takeaways(rows: pd.DataFrame) -> list[Claim]:
    """What these rows say; the first is the headline."""
    table: Any = accuracies(rows).set_index("model")
    regression, network = (table.loc[m] for m in ("logistic regression", "network, last layer"))
    runs, packed = costs(rows), means(rows, "features", part="packing")
    slope = means(rows, "metric")["slope"]
    names = ["federated, in clear", "centralised, scikit-learn", "federated, sigmoid as a line"]
    in_clear, central, by_line = (regression[name] for name in names)
    gap = 100 * (max(in_clear, central) - by_line)
    least, most, first, last = *map(float, packed.index[[0, -1]]), packed.iloc[0], packed.iloc[-1]
    sentences = [
        ("{few:.0f} to {many:.0f} parties train a logistic regression, and the last layer of a network, "
         "that none of them can read: {agreement:.1%} of classes at least are those of the same steps "
         "in clear (largest error of a score {error:.1g}).", runs["agreement"].min() >= 0.99,
         "Only {agreement:.1%} of encrypted classes are those of the same steps in clear."),
        ("The sigmoid as a line gives {line:.1%}, against {plain:.1%} for federated learning in clear "
         "and {central:.1%} for centralised training: no more than a point below either.", gap <= 1,
         "The sigmoid as a line gives {line:.1%}, against {plain:.1%} for federated learning in clear "
         "and {central:.1%} for centralised training: up to {gap:.1f} points below, not within a point "
         "of both."),
        ("With a fixed hidden layer, in clear, the line reaches {network[federated, sigmoid as a line]:.1%}, "
         "the sigmoid on the same layer {network[federated, in clear]:.1%}.",),
        ("Bytes grow with the parties to the power {slope:.2f}, as the lecture says; exactly 1, "
         "by construction, for each party exchanges the same number of polynomials with the "
         "coordinator. {many:.0f} parties send {mb:,.0f} MB.", abs(slope - 1) <= 0.05,
         "Bytes grow with the parties to the power {slope:.2f}, not 1."),
        ("From {least:.0f} to {most:.0f} features a step needs {first:.0f} to {last:.0f} ciphertexts: "
         "flat while one holds all, then with the square; the lecture's logarithm is not that of "
         "this packing.", last / first > np.log(most) / np.log(least),
         "From {least:.0f} to {most:.0f} features a step needs {first:.0f} to {last:.0f} "
         "ciphertexts."),
    ]  # fmt: skip
    return claims(
        sentences, few=runs["parties"].min(), many=runs["parties"].max(), error=runs["score_error"].max(),
        agreement=runs["agreement"].min(), line=by_line, plain=in_clear, central=central, gap=gap,
        network=network, slope=slope, mb=runs["megabytes"].max(), least=least, most=most, first=first,
        last=last,
    )  # fmt: skip


def explore(parties: int, features: int, steps: int) -> pd.DataFrame:
    """Megabytes of a training by this scheme: counted, not run."""
    each = 2 * ciphertexts(features) + 2  # sums of both parts, and two shares of a refresh
    key, own = 2 * parties * POLYNOMIAL / 1e6, POLYNOMIAL / 1e6 * each * steps
    lines = {"key": key, "training": 2 * parties * own, "of it, by one party": own}
    return pd.DataFrame(lines.items(), columns=["what", "MB"])
