"""Memorisation: what a language model keeps of single lines, measured by exposure, and DP training.

Teaching code for a primer, not for use: canaries and exposure (Carlini et al., arXiv:1802.08232), DP-SGD
with whole lines as records, and the metrics 1 - X and 1 - F of a representation (Coavoux et al.,
arXiv:1808.09408). The model reads `CONTEXT` characters and predicts the next one.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special
from threadpoolctl import threadpool_limits

from pet_lab import accounting
from pet_lab.checks import distinct, positive, require, whole
from pet_lab.dpsgd import network
from pet_lab.federated.model import LocalTraining, Network
from pet_lab.rows import Claim, Rows, claims, concat, only, streams, wide

Array = NDArray[np.floating]
Labels = NDArray[np.int64]
ALPHABET, CONTEXT, LENGTH, CODES = " abcdefghijklmnopqrstuvwxyz0123456789", 9, 22, 10**4
ONE_HOT = np.eye(len(ALPHABET), dtype=np.float32)
HIDDEN, BATCH = 64, 32
MODEL = Network((CONTEXT * len(ALPHABET), HIDDEN, len(ALPHABET)))
PLAIN, PRIVATE = "without privacy", "DP"
OWNERS, CONTROL = ("anna", "bela", "dora", "emil", "gina", "hugo", "ivan", "jana"), "zora"
NAMES = ("emma", "otto", "lena", "karl", "ruth", "paul", "nora", "hans")
VERBS, ADJECTIVES = ("saw", "met", "lost", "drew"), ("red", "old", "small", "loud", "late", "mild")
NOUNS = ("house", "cat", "train", "lamp", "river", "bread")
LABELS = {
    "exposure": "exposure (bits)",
    "insertions": "times the canary is in the text",
    "training": "training",
    "epoch": "epoch",
    "validation_loss": "validation loss (bits a character)",
    "extracted": "canaries that the search finds",
    "expanded": "prefixes the search looks at",
    "latent": "numbers in the representation",
    "one_minus_x": "1 - X (gender, age)",
    "one_minus_f": "1 - F (names)",
    "blind_x": "1 - X of a blind guess",
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Parameters of the notebook, checked."""

    lines: int
    insertions: Sequence[int]
    epochs: int
    epsilon: float
    delta: float
    latent: Sequence[int]
    replicates: int
    seed: int

    def __post_init__(self) -> None:
        distinct(insertions=self.insertions, latent=self.latent)
        whole(50, lines=self.lines)
        whole(1, epochs=self.epochs, replicates=self.replicates)
        whole(1, smallest_latent=min(self.latent), smallest_insertions=min(self.insertions))
        whole(0, seed=self.seed)
        room = len(self.insertions) <= len(OWNERS) and sum(self.insertions) <= self.lines
        require(
            room,
            f"Room for {len(OWNERS)} canaries in {self.lines} lines, got {list(self.insertions)[:9]} "
            "insertions; insert fewer, or write more lines.",
        )
        require(max(self.latent) <= HIDDEN, f"latent is at most {HIDDEN}, got {max(self.latent)}.")
        positive(epsilon=self.epsilon)
        require(0 < self.delta < 1, f"delta is strictly between 0 and 1, got {self.delta}.")
        accounting.check_target(self.epsilon, **self.training)

    @property
    def training(self) -> dict[str, Any]:
        """What the accountant is told of the private training."""
        n = self.lines + sum(self.insertions)
        how: dict[str, Any] = {"n": n, "batch_size": BATCH, "epochs": self.epochs}
        return how | {"delta": self.delta, "sampling": "poisson"}


# --- text, canaries, model ------------------------------------------------------------------------


def sentences(n: int, rng: np.random.Generator) -> tuple[list[str], dict[str, Labels]]:
    """Made-up lines, and of each what should stay private: the author's gender and age, the name.

    Gender shifts the adjectives, age the nouns: half of either list is three times as likely.
    """
    gender, age, name = rng.integers(0, 2, n), rng.integers(0, 2, n), rng.integers(0, 8, n)
    leaning = np.array([[3, 3, 3, 1, 1, 1], [1, 1, 1, 3, 3, 3]]) / 12
    lines = [
        f"{NAMES[name[i]]} {rng.choice(VERBS)} {rng.choice(ADJECTIVES, p=leaning[gender[i]])} "
        f"{rng.choice(NOUNS, p=leaning[age[i]])}"
        for i in range(n)
    ]
    return lines, {"gender": gender, "age": age, "name": name}


def numbered(texts: Sequence[str]) -> Labels:
    """Places in the alphabet (n, characters) of texts of one length."""
    return np.array([[ALPHABET.index(c) for c in text] for text in texts])


def read(lines: Sequence[str]) -> tuple[Array, Labels]:
    """One-hot contexts (n, LENGTH, inputs) and next characters of lines, filled up with spaces."""
    codes = numbered([" " * CONTEXT + line.ljust(LENGTH) for line in lines])
    views = np.lib.stride_tricks.sliding_window_view(codes[:, :-1], CONTEXT, axis=1)
    return ONE_HOT[views].reshape(*views.shape[:2], -1), codes[:, CONTEXT:]


def log_probabilities(flat: Array, x: Array) -> Array:
    """Natural logarithms of the chance of each next character, (..., characters)."""
    z = MODEL.logits(flat, x.reshape(-1, x.shape[-1])).astype(float)
    return np.asarray(special.log_softmax(z, axis=1).reshape(*x.shape[:-1], -1))


def loss(flat: Array, x: Array, y: Labels) -> float:
    """Mean cross-entropy in bits a character."""
    chances = np.take_along_axis(log_probabilities(flat, x), y[..., None], -1)
    return float(-chances.mean() / np.log(2))


def gradient(flat: Array, x: Array, y: Labels, *, clip: float | None) -> Array:
    """Sum over lines of the gradient of each line's mean loss, clipped line by line if asked."""
    layers = network.layers_of(flat[None], MODEL.shapes)
    values = network.forward(layers, x.reshape(1, y.size, x.shape[-1]), "relu")
    errors = network.output_errors(values[-1], ONE_HOT[y.ravel()][None])
    deltas = network.back_propagated(layers, values, errors, "relu")
    if clip is not None and len(y):
        factor = network.clip_factors(network.squared_norms(values, deltas, len(y)), clip)
        deltas = [d * factor.repeat(y.shape[1], axis=1)[..., None] for d in deltas]
    pairs = zip(values[:-1], deltas, strict=True)
    parts = [part.ravel() for a, d in pairs for part in (a[0].T @ d[0], d[0].sum(axis=0))]
    return np.concatenate(parts) / y.shape[1]


def train(
    x: Array, y: Labels, how: LocalTraining, rng: np.random.Generator
) -> Iterator[tuple[int, Array]]:
    """SGD with momentum over lines: epoch and weights, after each epoch.

    Raises
    ------
    ValueError
        If the training diverges.
    """
    flat = MODEL.initial(rng).astype(np.float32)
    speed, n = np.zeros_like(flat), len(y)
    for epoch in range(1, how.epochs + 1):
        for chosen in how.batches(n, rng):
            slope = gradient(flat, x[chosen], y[chosen], clip=how.clip)
            noise = rng.normal(0, how.noise_multiplier * (how.clip or 0), slope.size)
            slope += noise.astype(np.float32)
            size = min(how.batch_size, n) if how.private else len(chosen)
            speed = how.momentum * speed - how.learning_rate / size * slope
            flat = flat + speed
        finite = np.isfinite(flat).all()
        require(finite, f"Training diverged in epoch {epoch}; take a smaller learning rate.")
        yield epoch, flat


# --- exposure, and extraction by search -----------------------------------------------------------


def code_scores(flat: Array, owner: str) -> Array:
    """Log-likelihood (10^4,) of each code after "pin OWNER ": all of them, in order of the code."""
    scores = np.zeros(1)
    for digits in range(4):
        known = [f"{i:0{digits}}" if digits else "" for i in range(10**digits)]
        scores = (scores[:, None] + next_digit(flat, owner, known)).ravel()
    return scores


def next_digit(flat: Array, owner: str, known: Sequence[str]) -> Array:
    """Log-probabilities (n, 10) of the digit after "pin OWNER " and each known prefix."""
    contexts = [f"pin {owner} {digits}"[-CONTEXT:] for digits in known]
    x = ONE_HOT[numbered(contexts)].reshape(len(known), -1)
    return log_probabilities(flat, x)[:, ALPHABET.index("0") :]


def exposure(scores: Array, code: int) -> float:
    """log2 |R| - log2 rank, in bits; codes that score the same come before."""
    rank = int(np.sum(scores >= scores[code]))
    return float(np.log2(len(scores)) - np.log2(rank))


def search(flat: Array, owner: str) -> tuple[int, int]:
    """(most likely code, prefixes looked at): best first, so that few of all codes are scored."""
    heap, looked = [(0.0, "")], 0
    while len(heap[0][1]) < 4:
        cost, prefix = heapq.heappop(heap)
        looked += 1
        for digit, score in enumerate(next_digit(flat, owner, [prefix])[0]):
            heapq.heappush(heap, (cost - float(score), f"{prefix}{digit}"))
    return int(heap[0][1]), looked


# --- the experiments ------------------------------------------------------------------------------


def hows(settings: Settings) -> dict[str, LocalTraining]:
    """Training without and with privacy of whole lines, Poisson batches in the latter."""
    z = accounting.noise_for(settings.epsilon, **settings.training)
    shared: dict[str, Any] = {"epochs": settings.epochs, "batch_size": BATCH}
    plain = LocalTraining(**shared, learning_rate=0.8, momentum=0.9)
    return {PLAIN: plain, PRIVATE: replace(plain, learning_rate=1.0, clip=0.1, noise_multiplier=z)}


@threadpool_limits.wrap(limits=1)  # small products: a second thread only waits
def simulate(settings: Settings) -> pd.DataFrame:
    """Rows of part "canaries": exposure (training, insertions, epoch), loss (training, epoch), at the
    end `extracted` and `expanded` (training, insertions); and of part "representation"."""
    rows, owners = Rows(part="canaries"), OWNERS[: len(settings.insertions)]
    trainings, latent = hows(settings), []
    for replicate, stream in streams(settings.seed, settings.replicates):
        rng = np.random.default_rng(stream)
        codes = rng.integers(0, CODES, len(owners))
        planted = zip(owners, codes, settings.insertions, strict=True)
        canaries = [f"pin {o} {c:04}" for o, c, times in planted for _ in range(times)]
        x, y = read(sentences(settings.lines, rng)[0] + canaries)
        held_out = read(sentences(300, rng)[0])
        for training, how in trainings.items():
            at: dict[str, Any] = {"training": training, "replicate": replicate}
            own, flat = np.random.default_rng([settings.seed, replicate]), np.empty(0)
            for epoch, flat in train(x, y, how, own):
                rows.add(**at, epoch=epoch, metrics={"validation_loss": loss(flat, *held_out)})
                for owner, code, times in zip(owners, codes, settings.insertions, strict=True):
                    bits = {"exposure": exposure(code_scores(flat, owner), code)}
                    rows.add(**at, epoch=epoch, insertions=times, metrics=bits)
            for owner, code, times in zip(owners, codes, settings.insertions, strict=True):
                best, looked = search(flat, owner)
                ends = {"extracted": best == code, "expanded": looked}
                rows.add(**at, insertions=times, metrics=ends)
            if training == PLAIN:
                most = int(np.argmax(settings.insertions))
                ceiling = exposure(code_scores(flat, owners[most]), codes[most])
                rows.add(check="most insertions", replicate=replicate, metrics={"bits": ceiling})
                scores, drawn = code_scores(flat, CONTROL), rng.integers(0, CODES, 200)
                never = float(np.mean([exposure(scores, code) for code in drawn]))
                rows.add(check="never inserted", replicate=replicate, metrics={"bits": never})
                latent.append(representation(flat, settings, rng).assign(replicate=replicate))
    return concat(rows.frame(), *latent)


def representation(flat: Array, settings: Settings, rng: np.random.Generator) -> pd.DataFrame:
    """Rows (latent): 1 - X and 1 - F of the model's mean hidden layer, cut down by PCA.

    X: mean accuracy of an attacker on the author's gender and age; F: micro F-score on eight names,
    present or not. The attacker learns on 600 lines with their secrets, and is tested on 300.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score

    lines, secrets = sentences(900, rng)
    weights, bias = MODEL.layers(flat)[0]
    hidden = np.maximum(read(lines)[0] @ weights + bias, 0).mean(axis=1)
    names = secrets["name"][:, None] == np.arange(len(NAMES))
    rows = Rows(part="representation")
    for size in settings.latent:
        z = PCA(size, random_state=0).fit_transform(hidden)
        z = z / z.std()

        def guess(y: Labels, z: Array = z) -> Labels:
            attacker = LogisticRegression(C=100, max_iter=300).fit(z[:600], y[:600])
            return np.asarray(attacker.predict(z[600:]))

        both = secrets["gender"], secrets["age"]
        right = [np.mean(guess(secret) == secret[600:]) for secret in both]
        blind = [max(share, 1 - share) for share in (np.mean(secret[600:]) for secret in both)]
        present = np.column_stack([guess(names[:, j]) for j in range(len(NAMES))])
        f = f1_score(names[600:], present, average="micro", zero_division=0)
        metrics = {
            "one_minus_x": 1 - np.mean(right),
            "one_minus_f": 1 - f,
            "blind_x": 1 - np.mean(blind),
        }
        rows.add(latent=size, metrics=metrics)
    return rows.frame()


# --- what the rows say ----------------------------------------------------------------------------


def final_table(rows: pd.DataFrame) -> pd.DataFrame:
    """After the last epoch, one line per training and number of insertions."""
    ends = only(rows, metric=["exposure", "extracted", "expanded"])
    ends = ends[ends["epoch"].isna() | (ends["epoch"] == ends["epoch"].max())]
    return wide(ends, index=["training", "insertions"])


def peaks(rows: pd.DataFrame) -> dict[str, float]:
    """Without privacy: by how many epochs exposure first peaks after validation loss is lowest.

    `after` and its standard error `after_se` are those of the least inserted code; `rise` is what
    validation loss gains after its lowest.
    """
    plain = rows[(rows["training"] == PLAIN) & rows["epoch"].notna()]
    at = {"index": "epoch", "columns": "replicate", "values": "value"}
    loss, bits = only(plain, metric="validation_loss").pivot(**at), only(plain, metric="exposure")
    gap = only(bits, insertions=bits["insertions"].min()).pivot(**at).idxmax() - loss.idxmin()
    rise = (loss.iloc[-1] - loss.min()).mean()
    return {"after": gap.mean(), "after_se": gap.std() / np.sqrt(len(gap)), "rise": rise}


def extraction_bound(epsilon: float, delta: float, insertions: int = 1) -> float:
    """Largest chance of naming one of 10^4 codes that is in `insertions` lines, by group privacy."""
    with np.errstate(over="ignore"):
        times = np.expm1(insertions * epsilon) / np.expm1(epsilon)
        return float(np.minimum(1, np.exp(insertions * epsilon) / CODES + times * delta))


def assumptions(settings: Settings) -> str:
    """The privacy statement of the DP training."""
    guarantee = accounting.epsilon(hows(settings)[PRIVATE].noise_multiplier, **settings.training)
    return (
        f"Training marked DP only, one line of text is the record: {guarantee} For a code in m lines "
        "epsilon is up to m times as large (group privacy)."
    )


def takeaways(rows: pd.DataFrame, settings: Settings) -> list[Claim]:
    """What these rows say; the first is the headline."""
    few, many = min(settings.insertions), max(settings.insertions)
    table: Any = final_table(rows).set_index(["training", "insertions"])
    plain, private, repeated = (
        table.loc[at] for at in ((PLAIN, few), (PRIVATE, few), (PRIVATE, many))
    )
    latent: Any = wide(only(rows, part="representation"), index="latent").sort_values("latent")
    small, large, when = latent.iloc[0], latent.iloc[-1], peaks(rows)
    bound = extraction_bound(settings.epsilon, settings.delta, few)
    sentences = [
        ("A code that is in {few} of the lines has {plain[exposure]:.1f} of at most {ceiling:.2f} bits of exposure after "
         "{epochs} epochs, and the search extracts {plain[extracted]:.0%} of such codes; with DP at epsilon {epsilon:g} it "
         "is {private[exposure]:.1f} bits and {private[extracted]:.0%}.", private["exposure"] < plain["exposure"]),
        ("The source's peaks do not coincide here: a code in {few} of the lines is exposed most {after:+.1f} epochs from the "
         "lowest validation loss (standard error {after_se:.1f}).", abs(when["after"]) > 2 * when["after_se"],
         "On average the peaks of a code in {few} of the lines coincide, as the source says, within the error: exposure is "
         "highest {after:+.1f} epochs from the lowest validation loss (standard error {after_se:.1f})."),
        ("Overfitting is not needed: at the end validation loss is {rise:.3f} bits a character above its lowest.",
         when["rise"] < 0.1, "The text is overfitted: validation loss ends {rise:.2f} bits above its lowest."),
        ("The guarantee alone, at epsilon {epsilon:g}, allows {bound:.0%} of such codes to be named.", bound < 1,
         "The guarantee at epsilon {epsilon:g} alone excludes nothing for such codes."),
        ("DP hides lines, not what many lines share: a code in {many} lines still has {repeated:.1f} bits.",
         repeated["exposure"] > private["exposure"] + 1,
         "Even a code in {many} lines has only {repeated:.1f} bits under DP."),
        ("From {large[latent]:.0f} numbers of the hidden layer 1 - X is {large[one_minus_x]:.2f} (a blind guess: "
         "{large[blind_x]:.2f}) and 1 - F {large[one_minus_f]:.2f}; from {small[latent]:.0f} numbers they are "
         "{small[one_minus_x]:.2f} and {small[one_minus_f]:.2f}.", large["one_minus_x"] < large["blind_x"]),
    ]  # fmt: skip
    return claims(
        sentences, few=few, many=many, epochs=settings.epochs, ceiling=np.log2(CODES), plain=plain,
        private=private, repeated=repeated["exposure"], epsilon=settings.epsilon, bound=bound, small=small,
        large=large, **when,
    )  # fmt: skip


def explore(epsilon: float, log10_delta: int, insertions: int, rank: int) -> pd.DataFrame:
    """Exposure of a rank, and the largest chance of extraction that DP allows."""
    bits = np.log2(CODES) - np.log2(rank)
    chance = extraction_bound(epsilon, 10.0**log10_delta, insertions)
    lines = {"exposure (bits)": bits, "largest chance of naming the code": chance}
    lines["chance of a blind guess"] = 1 / CODES
    return pd.DataFrame(lines.items(), columns=["quantity", "value"])
