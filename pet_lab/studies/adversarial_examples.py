"""Adversarial examples: small changes of an input that change the answer, and what stops them.

Teaching code for a primer: projected gradient descent (Madry et al., arXiv:1706.06083), randomised
smoothing (Lecuyer et al., arXiv:1802.03471; Cohen et al., arXiv:1902.02918), costs that are no norm
(Kulynych et al., arXiv:1810.10939; Alzantot et al., arXiv:1804.07998), stateful detection (Chen et
al., arXiv:1907.05587). Images are rows of pixels in [0, 1].
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage, stats
from scipy.spatial import distance

from pet_lab import data
from pet_lab.checks import between, distinct, require, whole
from pet_lab.dpsgd import network
from pet_lab.federated.model import LocalTraining, Network
from pet_lab.rows import Claim, Rows, claims, concat, means, only, wide

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
CLASSES, SIDE = 10, 8
RECORD, TEXT, HIDDEN = "fields of a record", "words of a text", "an attack hidden by noise"
LABELS = {
    "epsilon": "largest change of a pixel (share of its range)",
    "radius": "L2 radius",
    "certified": "certified accuracy",
    "flipped": "answers that flip",
    "changes": "changes allowed",
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Parameters of the notebook, checked: a budget is a share of the range of a pixel."""

    epsilons: Sequence[float]
    steps: int
    restarts: int
    images: int
    trained_at: float
    sigma: float
    noise_draws: int
    seed: int

    def __post_init__(self) -> None:
        distinct(epsilons=self.epsilons)
        for epsilon in (*self.epsilons, self.trained_at):
            check_budget(epsilon)
        whole(1, steps=self.steps, restarts=self.restarts)
        whole(10, images=self.images)
        whole(100, noise_draws=self.noise_draws)
        whole(0, seed=self.seed)
        between(0.01, 1, sigma=self.sigma)


def check_budget(epsilon: float) -> None:
    """Refuse a budget that allows no change, or that reaches beyond the range of the data."""
    require(
        0 < epsilon <= 1,
        f"A perturbation budget is above 0 and at most 1, the range of a pixel, got {epsilon}.",
    )


@dataclass(frozen=True)
class Net:
    """A network with a softmax; layers as of `dpsgd.network`, one replica."""

    layers: network.Layers

    def logits(self, x: Array) -> Array:
        """x (..., n, inputs) -> (..., n, classes)."""
        return network.forward(self.layers, x, "relu")[-1]

    def predict(self, x: Array) -> Labels:
        """Classes (n,) of x (n, inputs)."""
        return self.logits(x[None])[0].argmax(-1)

    def input_gradient(self, x: Array, y: Labels) -> Array:
        """Derivative of each record's cross-entropy by its inputs; x (R, n, inputs), y (n,)."""
        values = network.forward(self.layers, x, "relu")
        delta = network.output_errors(values[-1], np.eye(values[-1].shape[-1])[y])
        first = network.back_propagated(self.layers, values, delta, "relu")[0]
        return np.matmul(first, self.layers[0][0].transpose(0, 2, 1))


def fit(x: Array, y: Labels, *, rng: Generator, epsilon: float = 0.0, sigma: float = 0.0) -> Net:
    """Train 64-64-10 by SGD; each batch on its own adversarial examples, or on noisy images."""
    model = Network((x.shape[1], 64, CLASSES))
    how = LocalTraining(batch_size=64, learning_rate=0.2, momentum=0.0)
    flat = model.initial(rng)
    for _ in range(60):
        for batch in np.array_split(rng.permutation(len(x)), len(x) // 32):
            here, labels = x[batch], y[batch]
            if epsilon:
                net = Net(network.layers_of(flat[None], model.shapes))
                here = pgd(net, here, labels, epsilon=epsilon, steps=5, rng=rng)
            here = here + rng.normal(0, sigma, here.shape) if sigma else here
            flat = model.train(flat, here, labels, how, rng)
    return Net(network.layers_of(flat[None], model.shapes))


# --- norms ----------------------------------------------------------------------------------------


def pgd(
    net: Net,
    x: Array,
    y: Labels,
    *,
    epsilon: float,
    steps: int,
    rng: Generator,
    restarts: int = 1,
    start: bool = True,
) -> Array:
    """Points (n, inputs) by projected gradient ascent of the loss in the L-infinity ball of `epsilon` within [0, 1].

    Steps are 2.5 epsilon / steps; one step of epsilon from x itself is FGSM (steps=1, start=False).
    Of the restarts, each record keeps the first that is misclassified.
    """
    check_budget(epsilon)
    low, high = np.maximum(x - epsilon, 0), np.minimum(x + epsilon, 1)
    at = np.repeat(x[None], restarts, axis=0)
    if start:
        at = np.clip(at + rng.uniform(-epsilon, epsilon, at.shape), low, high)
    size = 2.5 * epsilon / steps if steps > 1 else epsilon
    for _ in range(steps):
        at = np.clip(at + size * np.sign(net.input_gradient(at, y)), low, high)
    wrong = net.logits(at).argmax(-1) != y
    return at[wrong.argmax(axis=0), np.arange(len(x))]


def vanished(net: Net, x: Array, y: Labels) -> float:
    """Share of records whose gradient is exactly zero: an attack by gradients cannot move them."""
    return float(np.mean(~net.input_gradient(x[None], y)[0].any(axis=1)))


def universal(net: Net, x: Array, y: Labels, *, epsilon: float, steps: int) -> Array:
    """One perturbation (inputs,) for all images, by ascent of their mean loss."""
    delta = np.zeros(x.shape[1])
    for _ in range(steps):
        slope = net.input_gradient(np.clip(x + delta, 0, 1)[None], y)[0].mean(axis=0)
        delta = np.clip(delta + 2.5 * epsilon / steps * np.sign(slope), -epsilon, epsilon)
    return delta


def art_points(
    net: Net, x: Array, y: Labels, *, epsilon: float, steps: int, restarts: int
) -> Array:
    """The same attack by the adversarial-robustness-toolbox, on the same network."""
    from art.attacks.evasion import ProjectedGradientDescentNumpy
    from art.estimators import BaseEstimator, LossGradientsMixin
    from art.estimators.classification.classifier import ClassifierMixin

    class Wrapped(ClassifierMixin, LossGradientsMixin, BaseEstimator):
        input_shape = (x.shape[1],)

        def predict(self, x: Array, **_: Any) -> Array:
            return net.logits(np.asarray(x, float)[None])[0]

        def loss_gradient(self, x: Array, y: Array, **_: Any) -> Array:
            labels = (y.argmax(-1) if y.ndim > 1 else y).astype(np.int64)
            return net.input_gradient(np.asarray(x, float)[None], labels)[0].astype(np.float32)

        def fit(self, *_: Any, **__: Any) -> None:
            """The library asks for it; an attack on a trained network never calls it."""

    wrapped = Wrapped(model=None, clip_values=(0.0, 1.0))
    wrapped.nb_classes = CLASSES
    attack = ProjectedGradientDescentNumpy(
        wrapped,
        eps=epsilon,
        eps_step=2.5 * epsilon / steps,
        max_iter=steps,
        num_random_init=restarts,
        batch_size=len(x),
        verbose=False,
    )
    return np.asarray(attack.generate(x.astype(np.float32), np.eye(CLASSES)[y]), float)


def norm_bounded(
    nets: dict[str, Net], x: Array, y: Labels, settings: Settings, rng: Generator
) -> pd.DataFrame:
    """Rows (training, attack, epsilon): accuracy under attack, and the share without gradient."""
    rows = Rows(part="norm")
    for training, net in nets.items():
        right = net.predict(x) == y
        for epsilon in settings.epsilons:
            shared = universal(net, x, y, epsilon=epsilon, steps=settings.steps)
            noise = np.clip(x + rng.choice([-epsilon, epsilon], x.shape), 0, 1)
            attack = functools.partial(pgd, net, x, y, epsilon=epsilon, rng=rng)
            changed = {
                "none": x,
                "random noise": noise,
                "one change for all": np.clip(x + shared, 0, 1),
                "FGSM": attack(steps=1, start=False),
                "PGD": attack(steps=settings.steps),
                "PGD, restarts": attack(steps=settings.steps, restarts=settings.restarts),
            }
            for name, points in changed.items():
                accuracy = float(np.mean(right & (net.predict(points) == y)))
                metrics = {"accuracy": accuracy, "vanished": vanished(net, points, y)}
                rows.add(training=training, attack=name, epsilon=epsilon, metrics=metrics)
    return rows.frame()


def transfer(
    net: Net, train: tuple[Array, Labels], test: tuple[Array, Labels], *, epsilon: float, seed: int
) -> pd.DataFrame:
    """Rows (source, target): share of what both get right that flips when made on the source.

    The sources have gradients: two networks and a softmax regression; a forest and a support vector
    machine are targets only.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    (x, y), rng = test, np.random.default_rng(seed)
    linear = LogisticRegression(max_iter=300).fit(*train)
    weights = (linear.coef_.T[None].copy(), linear.intercept_[None, None].copy())
    sources = {
        "network": net,
        "another network": fit(*train, rng=rng),
        "softmax regression": Net([weights]),
    }
    forest = RandomForestClassifier(100, random_state=seed).fit(*train)
    targets = {name: source.predict for name, source in sources.items()}
    targets |= {"random forest": forest.predict, "SVM": SVC().fit(*train).predict}
    rows = Rows(part="transfer", epsilon=epsilon)
    for source, model in sources.items():
        points = pgd(model, x, y, epsilon=epsilon, steps=20, rng=rng)
        for target, predict in targets.items():
            right = (predict(x) == y) & (model.predict(x) == y)
            flipped = float(np.mean(predict(points)[right] != y[right]))
            rows.add(source=source, target=target, metrics={"flipped": flipped})
    return rows.frame()


def agreement(net: Net, x: Array, y: Labels, settings: Settings, rng: Generator) -> pd.DataFrame:
    """Row: success (%) of our PGD minus the toolbox's, at the smallest budget."""
    how: dict[str, Any] = {"epsilon": min(settings.epsilons), "steps": settings.steps}
    points = pgd(net, x, y, **how, restarts=2, rng=rng), art_points(net, x, y, **how, restarts=2)
    ours, library = (net.predict(p) != y for p in points)
    gap, rows = 100 * (ours.astype(float) - library), Rows(part="agreement", check="PGD")
    se = {"success_difference": gap.std(ddof=1) / np.sqrt(len(y))}
    rows.add(metrics={"success_difference": gap.mean()}, se=se)
    return rows.frame()


def shifted(nets: dict[str, Net], x: Array, y: Labels) -> pd.DataFrame:
    """Rows (training): accuracy under the worst shift by half a pixel, and its size in L2."""
    images, rows, half = x.reshape(-1, SIDE, SIDE), Rows(part="affine"), (-0.5, 0, 0.5)
    moved = [ndimage.shift(images, (0, a, b), order=1) for a in half for b in half]
    versions = [m.reshape(len(x), -1) for m in moved]
    size = float(np.max([np.linalg.norm(v - x, axis=1) for v in versions]))
    for training, net in nets.items():
        right = np.all([net.predict(v) == y for v in versions], axis=0)
        rows.add(training=training, metrics={"accuracy": right.mean(), "largest L2 change": size})
    return rows.frame()


# --- costs that are no norm -----------------------------------------------------------------------


def flipped(target: str, gains: Array, margins: Array, most: int) -> pd.DataFrame:
    """Rows (changes): share of records that flip with at most 1..most changes; optimal where
    changes add up.

    gains (n, fields), the largest push towards the other answer that one field allows; margins
    (n,) > 0, the push needed.
    """
    pushed = np.cumsum(-np.sort(-np.maximum(gains, 0), axis=1), axis=1)
    rows = Rows(part="answers", target=target)
    for k in range(1, most + 1):
        share = np.mean(pushed[:, min(k, gains.shape[1]) - 1] > margins)
        rows.add(changes=k, metrics={"flipped": share})
    return rows.frame()


def answers(
    frame: pd.DataFrame, positive: NDArray[np.bool_], changeable: Sequence[str], *, most: int = 5
) -> pd.DataFrame:
    """Rows (changes): share of a logistic model's answers that flip when records change fields.

    A field takes only values that occur in the table. The model is linear in them, so the fewest
    changes are found exactly, field by field.

    Raises
    ------
    ValueError
        If a field is not a column, or no field is left.
    """
    from sklearn.compose import make_column_selector, make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    missing = [c for c in changeable if c not in frame]
    require(changeable and not missing, f"changeable names columns of the table, not {missing}.")
    coder = make_column_transformer(
        (StandardScaler(), make_column_selector(dtype_include="number")),
        remainder=OneHotEncoder(handle_unknown="ignore"),
    )
    model = make_pipeline(coder, LogisticRegression(max_iter=1000)).fit(frame, positive)
    score = model.decision_function(frame)
    sign, gains = np.where(score > 0, 1, -1), []
    for c in changeable:
        other = [model.decision_function(frame.assign(**{c: v})) for v in frame[c].unique()]
        gains.append(np.max(sign * (score - np.array(other)), axis=0))
    return flipped(RECORD, np.stack(gains, axis=1), np.abs(score), most)


def word_swaps(*, rng: Generator, most: int = 5) -> pd.DataFrame:
    """Rows (changes): share of right answers that flip when words become synonyms of themselves.

    Made-up texts of 12 words from a language of 20, four synonyms a meaning; either class prefers
    words of its own, and naive Bayes tells them apart.
    """
    from sklearn.naive_bayes import MultinomialNB

    preferred, labels = rng.dirichlet(np.full(20, 2.0), 2), rng.integers(0, 2, 3000)
    words = np.array([rng.choice(20, 12, p=preferred[label]) for label in labels])
    counts = np.eye(20)[words].sum(axis=1)
    model = MultinomialNB().fit(counts[:2000], labels[:2000])
    weight, bias = (
        np.diff(v, axis=0)[0] for v in (model.feature_log_prob_, model.class_log_prior_)
    )
    score = counts @ weight + bias
    right = ((score > 0) == labels) & (np.arange(len(labels)) >= 2000)
    gains = weight[words][..., None] - weight.reshape(-1, 4)[words // 4]  # (n, words, synonyms)
    gains = np.max(np.where(score > 0, 1, -1)[:, None, None] * gains, axis=2)
    return flipped(TEXT, gains[right], np.abs(score[right]), most)


# --- certified and stateful defences --------------------------------------------------------------


def radii(votes: Array, draws: int, sigma: float, *, alpha: float = 0.001) -> dict[str, Array]:
    """Certified L2 radii (n,) from the votes (n,) for the leading class among noisy copies.

    "Cohen 2019": sigma * Phi^-1(p), p the lower Clopper-Pearson bound at 1 - alpha. "Lecuyer 2019":
    the noise makes the answer (epsilon, delta)-private for inputs within L = sigma * epsilon /
    sqrt(2 ln(1.25 / delta)), and p > e^(2 epsilon) (1 - p) + (1 + e^epsilon) delta then fixes it;
    the best of a grid of epsilon <= 1 and delta.
    """
    p = np.where(votes > 0, stats.beta.ppf(alpha, votes, draws - votes + 1), 0.0)
    cohen = np.where(p > 0.5, sigma * stats.norm.ppf(np.maximum(p, 0.5)), 0.0)
    epsilon, delta = np.meshgrid(np.linspace(0.01, 1, 100), np.geomspace(1e-6, 0.4, 40))
    reach = sigma * epsilon / np.sqrt(2 * np.log(1.25 / delta))
    needed = np.exp(2 * epsilon) * (1 - p[:, None, None]) + (1 + np.exp(epsilon)) * delta
    private = np.where(p[:, None, None] > needed, reach, 0.0).max(axis=(1, 2))
    return {"Cohen 2019": cohen, "Lecuyer 2019 (DP)": private}


def votes_of(net: Net, x: Array, sigma: float, draws: int, rng: Generator) -> NDArray[np.int64]:
    """How often each class (n, classes) is the answer for `draws` noisy copies of each image."""
    votes = np.zeros((len(x), CLASSES), np.int64)
    for _ in range(draws):
        votes[np.arange(len(x)), net.predict(x + rng.normal(0, sigma, x.shape))] += 1
    return votes


def smoothed(net: Net, x: Array, y: Labels, settings: Settings, rng: Generator) -> pd.DataFrame:
    """Rows (certificate, radius): certified accuracy; and `broken`: certified points that an attack
    of the smoothed answer, inside Cohen's radius, has flipped."""
    sigma, draws = settings.sigma, settings.noise_draws
    first = votes_of(net, x, sigma, 100, rng).argmax(axis=1)  # the class is chosen on other draws
    leading = votes_of(net, x, sigma, draws, rng)[np.arange(len(x)), first]
    rows = Rows(part="smoothing", sigma=sigma)
    certified = radii(leading, draws, sigma)
    for certificate, radius in certified.items():
        for r in np.linspace(0, 1.5 * sigma, 16):
            share = float(np.mean((first == y) & (radius > r)))
            rows.add(certificate=certificate, radius=r, metrics={"certified": share})
    reach, at = certified["Cohen 2019"][:, None], x.copy()
    for _ in range(20):  # ascent of the expected loss of the class that was answered
        slope = net.input_gradient(at + rng.normal(0, sigma, (20, *x.shape)), first).mean(axis=0)
        away = at + 0.25 * reach * slope / _length(slope) - x
        at = x + away * np.minimum(1, reach / _length(away))
    after = votes_of(net, at, sigma, draws, rng).argmax(axis=1)
    broken = (reach[:, 0] > 0) & (after != first)
    rows.add(metrics={"broken": float(broken.sum()), "attacked": float((reach > 0).sum())})
    return rows.frame()


def query_attack(
    net: Net, x: Array, y: int, rng: Generator, *, epsilon: float, hiding: float
) -> tuple[Array, bool]:
    """Queries (1000, inputs) of an attack that sees only answers (NES), and whether it succeeded.

    The gradient is estimated from pairs of queries; each pair is moved by noise of size `hiding`.
    """
    at, sent = x.copy(), []
    for _ in range(100):
        directions = rng.normal(size=(5, len(x)))
        centre = at + rng.normal(0, hiding, directions.shape)
        pairs = np.stack([centre + 0.01 * directions, centre - 0.01 * directions])
        loss = -net.logits(pairs)[..., y]
        at = at + 0.02 * np.sign((loss[0] - loss[1]) @ directions)
        at = np.clip(at, np.maximum(x - epsilon, 0), np.minimum(x + epsilon, 1))
        sent.append(pairs.reshape(-1, len(x)))
    return np.concatenate(sent), bool(net.predict(at[None])[0] != y)


def stateful(
    net: Net, honest: Array, x: Array, y: Labels, *, epsilon: float, rng: Generator
) -> pd.DataFrame:
    """Rows (sender): share of queries flagged by a detector that keeps its history, and successes.

    A query is flagged where its mean distance to the ten nearest earlier ones is below what one in
    a thousand honest queries has.
    """

    def distances(sent: Array) -> Array:
        gaps = distance.cdist(sent, sent)
        gaps[np.triu_indices(len(sent))] = np.inf  # only earlier queries
        return np.sort(gaps, axis=1)[10:, :10].mean(axis=1)

    threshold = np.quantile(distances(honest[:600]), 0.001)
    users = float(np.mean(distances(honest[600:1200]) < threshold))
    rows = Rows(part="stateful")
    rows.add(sender="honest users", metrics={"flagged": users})
    for sender, hiding in {"an attack": 0.0, HIDDEN: 0.3}.items():
        for i in range(5):
            sent, success = query_attack(net, x[i], int(y[i]), rng, epsilon=epsilon, hiding=hiding)
            metrics = {"flagged": float(np.mean(distances(sent) < threshold)), "succeeded": success}
            rows.add(sender=sender, replicate=i, metrics=metrics)
    return rows.frame()


# --- the whole study ------------------------------------------------------------------------------


def digits(images: int, rng: Generator) -> tuple[tuple[Array, Labels], tuple[Array, Labels]]:
    """scikit-learn's digits as (training, test) pairs of pixels in [0, 1] and classes."""
    x, y = data.shipped.digits()
    held_out, rest = np.split(rng.permutation(len(y)), [images])
    return (x[rest], y[rest]), (x[held_out], y[held_out])


def simulate(
    settings: Settings, frame: pd.DataFrame, positive: NDArray[np.bool_], changeable: Sequence[str]
) -> pd.DataFrame:
    """All rows; `part` names the experiment: norm, transfer, agreement, affine, answers, smoothing
    and stateful."""
    names = ("data", "plain", "robust", "noisy", "attacks", "text", "smoothing", "state")
    seeds = np.random.SeedSequence(settings.seed).spawn(len(names))
    rng = {name: np.random.default_rng(s) for name, s in zip(names, seeds, strict=True)}
    train, (x, y) = digits(settings.images, rng["data"])
    nets = {
        "as usual": fit(*train, rng=rng["plain"]),
        "on adversarial examples": fit(*train, rng=rng["robust"], epsilon=settings.trained_at),
    }
    plain, epsilon = nets["as usual"], settings.trained_at
    noisy = fit(*train, rng=rng["noisy"], sigma=settings.sigma)
    return concat(
        norm_bounded(nets, x, y, settings, rng["attacks"]),
        transfer(plain, train, (x, y), epsilon=epsilon, seed=settings.seed),
        agreement(plain, x, y, settings, rng["attacks"]),
        shifted(nets, x, y),
        answers(frame, positive, changeable),
        word_swaps(rng=rng["text"]),
        smoothed(noisy, x, y, settings, rng["smoothing"]),
        stateful(plain, train[0], x, y, epsilon=epsilon, rng=rng["state"]),
    )


def transfer_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Made on (index) against tried on (columns): shares that flip."""
    return wide(only(rows, part="transfer"), index="source", columns="target").set_index("source")


def _length(vectors: Array) -> Array:
    return np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def fields(frame: pd.DataFrame, *, target: str) -> tuple[pd.DataFrame, NDArray[np.bool_]]:
    """The table without its target, and which records are positive."""
    table = data.binarise(frame, target)
    return table.drop(columns=target), table[target].to_numpy() == 1


def takeaways(rows: pd.DataFrame, settings: Settings) -> list[Claim]:
    """What these rows say; the first is the headline."""
    epsilon = max(settings.epsilons)
    norm = means(rows, "metric", "training", "attack", part="norm", epsilon=epsilon)
    usual, robust = norm["accuracy"]["as usual"], norm["accuracy"]["on adversarial examples"]
    state = means(rows, "sender", "metric", part="stateful")
    smoothing = means(rows, "metric", part="smoothing")
    other, lost = transfer_table(rows).loc["network"], norm["vanished"].max()
    values = {"epsilon": epsilon, "usual": usual, "robust": robust, "other": other, "lost": lost}
    values |= {"flips": means(rows, "target", changes=2), "smoothing": smoothing}
    values |= {"caught": state["an attack"], "hidden": state[HIDDEN]}
    sentences = [
        ("Changes of at most {epsilon:.0%} of a pixel's range bring the network from {usual[none]:.0%} to "
         "{usual[PGD, restarts]:.0%}; random changes of that size leave it at {usual[random noise]:.0%}.",
         usual["PGD, restarts"] < usual["random noise"] - 0.05),
        ("Adversarial training keeps {robust[PGD, restarts]:.0%} under that attack, at {robust[none]:.0%} "
         "without one.", robust["PGD, restarts"] > usual["PGD, restarts"]),
        ("Examples made on one network flip {other[another network]:.0%} of another's answers and "
         "{other[random forest]:.0%} of a forest's: the attacker need not know the model.",
         other["another network"] > 0.1),
        ("Two changed answers flip {flips[fields of a record]:.0%} of the predictions on the table, two "
         "synonyms {flips[words of a text]:.0%} of those on the texts: no norm is involved.",),
        ("None of {smoothing[attacked]:.0f} certified points was broken by the attack inside its radius.",
         smoothing["broken"] == 0,
         "{smoothing[broken]:.0f} of {smoothing[attacked]:.0f} certified points were broken."),
        ("The stateful detector flags {caught[flagged]:.0%} of the queries of an attack and "
         "{hidden[flagged]:.0%} where noise hides them, of which {hidden[succeeded]:.0%} still succeed; "
         "one that transfers sends one query.",),
        ("No gradient vanished: what withstood the attack withstood a working one.", lost == 0,
         "Up to {lost:.0%} of gradients are exactly zero where an attack ended: there it could not "
         "move, and accuracy is no robustness."),
    ]  # fmt: skip
    return claims(sentences, **values)


@functools.cache
def _explored() -> tuple[dict[str, Net], Array, Labels]:
    rng = np.random.default_rng(0)
    train, (x, y) = digits(200, rng)
    nets = {"as usual": 0.0, "on adversarial examples": 0.2}
    return {name: fit(*train, rng=rng, epsilon=e) for name, e in nets.items()}, x, y


def explore(epsilon: float, steps: int, restarts: int) -> pd.DataFrame:
    """Accuracy of two networks on 200 digits, attacked now with these settings."""
    (nets, x, y), lines = _explored(), []
    for name, net in nets.items():
        rng = np.random.default_rng(1)
        points = pgd(net, x, y, epsilon=epsilon, steps=steps, restarts=restarts, rng=rng)
        lines.append((name, np.mean(net.predict(x) == y), np.mean(net.predict(points) == y)))
    return pd.DataFrame(lines, columns=["trained", "unharmed", "attacked"])
