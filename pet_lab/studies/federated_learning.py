"""Federated learning among offices: four scenarios, the price of adding, what leaks, what stops it.

UNECE Project on Input Privacy Preservation, final report (2023), section 3.1. Each experiment is a
function from `Settings` and windows to tidy rows with the column `experiment`; its factors and
metrics are what it yields.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from pet_lab import data, mia, paillier
from pet_lab import federated as fl
from pet_lab.checks import between, distinct, one_of, require, whole
from pet_lab.federated import attacks, costs, flower, private, robust
from pet_lab.rows import Claim, Rows, claims, summarise, wide

LABELS = {
    "accuracy": "accuracy on the office's test records",
    "accuracy_pooled": "accuracy on all test records",
    "loss": "loss on the office's test records",
    "noise_multiplier": "noise multiplier",
    "backdoor_success": "stamped records taken for the target",
    "train_cpu_s": "training, CPU s",
    "encrypt_cpu_s": "encrypting, CPU s",
    "decrypt_cpu_s": "decrypting, CPU s",
    "add_cpu_s": "adding, CPU s",
    "up_bytes_office_round": "bytes an office sends",
    "first_round_loss_difference": "loss after one round",
    "weight_difference": "largest weight",
    "changed_answers": "answers changed",
    "accuracy_difference": "accuracy",
    "batch": "records in the update",
    "recovered": "share of records recovered",
    "skew": "skew of the labels (0: even)",
    "mia_auc": "AUC of the attack",
    "tpr_at_fpr_1_percent": "members named at 1 % false alarms",
    "noise_to_signal": "noise over signal",
}

TRANSPORTS: dict[str, Callable[..., fl.History]] = {
    "loop": fl.simulate,
    "flower": flower.in_process,
    "processes": flower.processes,
}
"""loop: plain Python; flower: its server loop in process; processes: five, over mutual TLS."""

SET_UPS = {
    (1, "nothing"): "1: two offices, same data",
    (2, "nothing"): "2: split among offices",
    (3, "nothing"): "3: as 2, model from the server",
    (4, "all layers"): "4: as 2, encrypted",
    (4, "output layer"): "4: as 2, output layer encrypted",
}
"""Scenario of the report's table 3.1 and what is encrypted -> its name in tables."""

TRUST = {
    "plain": "the server sees every office's weights",
    costs.NAIVE: "one key for all: the server with any one office reads all",
    "Paillier, packed, fresh noise": "as above",
    costs.PACKED: "as above, and one more assumption on noise",
    "Paillier, output layer only": "the server sees all layers but the last",
    "CKKS": "one key for all; errors in what is decrypted can reveal the key to outsiders",
    "masking": "server follows the protocol, and fewer offices than a majority collude",
    "masking, one drops out": "as above",
}
THRESHOLD_TRUST = "dealer of the key, once; fewer offices than decrypt together collude"

LEAST_OFFICES, MOST_OFFICES = 4, 20  # of an own table; Krum needs four
NETWORK = fl.Network((len(fl.FEATURES), 50, 24, len(fl.CLASSES)))
TRAINING = fl.LocalTraining(learning_rate=0.02)
BACKDOOR = attacks.Backdoor(columns=(3, 40, 77, 110), value=5.0, target=5)
DP_TRAINING = fl.LocalTraining(learning_rate=0.05, batch_size=64, clip=1.0)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Parameters as in the notebook; `seed` is the root of every stream but those of keys."""

    transport: str = "loop"
    rounds: int
    replicates: int
    encrypted_replicates: int = 1
    key_bits: int = 2048
    threshold: int = 3
    naive_sample: int = 20
    offices: Sequence[int] = (4,)
    skews: Sequence[float] = (0.0,)
    participation: float = 1.0
    transport_rounds: int = 0
    noise_multipliers: Sequence[float] = (1.2,)
    delta: float = 1e-5
    poisoned: float = 0.05
    seed: int
    for_tests: bool = False  # keys shorter than 2,048 bits
    membership_noise: float = 1.2
    network: fl.Network = NETWORK
    training: fl.LocalTraining = TRAINING
    backdoor: attacks.Backdoor = BACKDOOR

    def __post_init__(self) -> None:
        one_of(TRANSPORTS, transport=self.transport)
        whole(1, rounds=self.rounds, replicates=self.replicates, naive_sample=self.naive_sample)
        whole(1, encrypted_replicates=self.encrypted_replicates)
        whole(0, transport_rounds=self.transport_rounds, seed=self.seed)
        distinct(offices=self.offices, skews=self.skews, noise_multipliers=self.noise_multipliers)
        whole(2, offices=min(self.offices))
        whole(2, offices=max(self.offices))
        for noise in self.noise_multipliers:
            between(0, 1000, noise_multiplier=noise)
        require(min(self.skews) >= 0, f"skews are 0 or positive, got {list(self.skews)}.")
        for name in ("participation", "poisoned"):
            value = getattr(self, name)
            require(0 < value <= 1, f"{name} is a fraction in (0, 1], got {value}.")
        require(0 < self.delta < 1, f"delta is between 0 and 1, got {self.delta}.")
        one_of((2, 3, 4), threshold=self.threshold, hint="of four offices, so many decrypt")
        whole(512 if self.for_tests else 2048, key_bits=self.key_bits)
        paillier.keys.check_length(self.key_bits, self.for_tests)

    @functools.cached_property
    def key(self) -> paillier.PrivateKey:
        """The offices' shared key; not of the seed."""
        return paillier.generate(self.key_bits, for_tests=self.for_tests)

    def divide(self, windows: fl.Windows, replicate: int = 0, **how: Any) -> list[fl.Office]:
        """The people divided among the offices; `how` as of `federated.divide`."""
        rng = np.random.default_rng([self.seed, replicate, 77])
        return fl.divide(windows, rng=rng, **how)

    def divisions(
        self, windows: fl.Windows, **how: Any
    ) -> Iterator[tuple[int, list[fl.Office], fl.Office]]:
        """A new division for each replicate: (replicate, offices, all in one hand)."""
        for replicate in range(self.replicates):
            offices = self.divide(windows, replicate, **how)
            yield replicate, offices, fl.pooled(offices)

    def federation(
        self,
        offices: Sequence[fl.Office],
        encrypted: str = "nothing",
        *,
        rule: robust.Rule | None = None,
        **more: Any,
    ) -> fl.Federation:
        """The offices' federation; `encrypted` is "nothing", "output layer" or "all layers"."""
        net, how = self.network, {"rounds": self.rounds, "seed": self.seed} | more
        scheme: fl.Scheme = fl.Plain(net.parameters, rule)
        if encrypted != "nothing":
            at = net.output_starts if encrypted == "output layer" else 0
            scheme = fl.Paillier.of(
                self.key, net.parameters, offices=len(offices), encrypted_from=at
            )
        return fl.Federation(offices, net, how.pop("training", self.training), scheme, **how)

    def train(self, offices: Sequence[fl.Office], replicate: int, **more: Any) -> np.ndarray:
        """Weights after rounds in a plain loop, added in the clear; `more` as of `federation`."""
        federation = self.federation(offices, seed=self.seed + replicate, **more)
        return fl.simulate(federation, evaluate_every=federation.rounds).weights

    def pooled(self, weights: np.ndarray, everyone: fl.Office) -> dict[str, float]:
        """Accuracy and loss of a model on all test windows."""
        end = self.network.evaluate(weights, everyone.X_test, everyone.y_test)
        return {"accuracy_pooled": end.accuracy, "loss_pooled": end.loss}


def recordings(*, seed: int, stand_in: bool) -> tuple[fl.Windows, dict[str, Any], bool]:
    """Windows of the real recordings, their provenance, and whether results count.

    Where the recordings cannot be had: generated signals, which do not count, or DataMissing unless
    `stand_in`.
    """
    try:
        dataset = data.load("hapt")
    except data.DataMissing:
        if not stand_in:
            raise
        frame, provenance = fl.stand_in(np.random.default_rng(seed))
        return fl.windows(frame), provenance, False
    return fl.windows(dataset.frame), dict(dataset.provenance), dataset.counts


FEW = 10
"""Records that an office needs, for it to train and to test."""


def own_table(
    source: data.Dataset, *, target: str, office: str = "", seed: int
) -> tuple[fl.Windows, dict[str, Any], bool]:
    """As `recordings`, of a user's own table: each row is a person, three tenths are for tests.

    `office` is the column that says who holds a row; "" leaves the rows to be divided at random
    among four.
    """
    frame, names = source.frame, tuple[str, ...]()
    holders = None
    if office:
        one_of([*map(str, frame.columns)], office=office)
        who = frame[office].astype(str)
        names, frame = tuple(sorted(who.unique())), frame.drop(columns=office)
        holders = np.searchsorted(names, who.to_numpy(str))
        least = int(np.bincount(holders).min())
        require(
            LEAST_OFFICES <= len(names) <= MOST_OFFICES and least >= FEW,
            f"Expected {LEAST_OFFICES} to {MOST_OFFICES} offices of {FEW} records or more in {office}, got "
            f"{len(names)} of which the smallest holds {least}; merge offices.",
        )
    encoded = data.encode(frame, target=target, domain=source.domain)
    rows = np.arange(len(encoded.y))
    require(len(rows) >= 8 * FEW, f"Expected {8 * FEW} records or more, got {len(rows)}.")
    tests = np.random.default_rng([seed, 3]).permutation(rows) % 10 < 3
    windows = fl.Windows(
        X=encoded.X,
        y=encoded.y,
        users=rows,
        stretches=rows,
        classes=(f"not {target}", target),
        tests=tests,
        holders=holders,
        names=names,
        stated=None if encoded.ranges is None else encoded.ranges.T,
    )
    return windows, dict(source.provenance), source.counts


def fitted(s: Settings, windows: fl.Windows) -> Settings:
    """The settings with a network and a backdoor that fit the data."""
    n, classes = windows.X.shape[1], windows.classes
    if classes == fl.CLASSES:
        return s
    columns = tuple(sorted({round(share * (n - 1)) for share in (0.1, 0.3, 0.6, 0.8)}))
    backdoor = replace(BACKDOOR, columns=columns, target=len(classes) - 1)
    network = fl.Network((n, *NETWORK.sizes[1:-1], len(classes)))
    return replace(s, network=network, backdoor=backdoor)


# --- experiments ---------------------------------------------------------------------------------

Records = Iterator[tuple[dict[str, Any], Mapping[str, float]]]
"""Factors of a row, and its metrics."""


def scenarios(s: Settings, windows: fl.Windows) -> Records:
    """The four scenarios of table 3.1: one division, replicates differ in weights and batches.

    Of an office, round >= 1: accuracy and loss on its own test windows. Of all, round 0: the totals
    of a run, for scenario 4 its differences to 2 too.
    """
    split, twins = s.divide(windows), s.divide(windows, offices=2, same_data=True)
    everyone, runs = fl.pooled(split), dict[int, fl.History]()
    for replicate, (scenario, encrypted) in itertools.product(range(s.replicates), SET_UPS):
        if scenario == 4 and replicate >= s.encrypted_replicates:
            continue
        offices, seed = twins if scenario == 1 else split, s.seed + 1000 * replicate
        how: dict[str, Any] = {"seed": seed, "server_starts": scenario == 3}
        runs[scenario] = run = TRANSPORTS[s.transport](s.federation(offices, encrypted, **how))
        results = {
            at: {"accuracy": e.accuracy, "loss": e.loss} for at, e in run.evaluations.items()
        }
        results[0, "all"] = s.pooled(run.weights, everyone) | run.totals()
        if scenario == 4:
            results[0, "all"] |= _differences(s.network, runs[2], run, everyone)
        where = {"transport": s.transport, "scenario": scenario, "encrypted": encrypted}
        for (number, office), metrics in sorted(results.items()):
            yield where | {"replicate": replicate, "round": number, "office": office}, metrics


def _differences(
    network: fl.Network, second: fl.History, fourth: fl.History, everyone: fl.Office
) -> dict[str, float]:
    right, runs = everyone.y_test, (second, fourth)
    answers = [np.argmax(network.logits(r.weights, everyone.X_test), axis=1) for r in runs]
    losses = [r.evaluations[min(r.evaluations)].loss for r in runs]  # first round, one office
    return {
        "weight_difference": np.abs(fourth.weights - second.weights).max(),
        "changed_answers": np.mean(answers[0] != answers[1]),
        "accuracy_difference": np.mean(answers[1] == right) - np.mean(answers[0] == right),
        "first_round_loss_difference": abs(losses[1] - losses[0]),
    }


def comparison(s: Settings, windows: fl.Windows) -> Records:
    """What scenarios are held against, with as many passes: data in one hand, and each alone."""
    offices, how = s.divide(windows), replace(s.training, epochs=s.training.epochs * s.rounds)
    everyone = fl.pooled(offices)
    for replicate in range(s.replicates):
        for k, o in enumerate([everyone, *offices]):
            rng = np.random.default_rng([s.seed, replicate, k, 5])
            weights = s.network.train(s.network.initial(rng), o.X, o.y, how, rng)
            who = {"setting": "alone" if k else "centralised", "office": o.name}
            yield who | {"replicate": replicate}, s.pooled(weights, everyone)


def transports(s: Settings, windows: fl.Windows) -> Records:
    """Scenarios 2 and 4 over each transport; same_model is 1 if every weight equals the loop's.

    One thread of linear algebra in all: sums differ by their order.
    """
    offices, rounds = s.divide(windows), s.transport_rounds
    for scenario, encrypted in [(2, "nothing"), (4, "all layers")] if rounds else []:
        federation, first = s.federation(offices, encrypted, rounds=rounds), None
        for name, transport in TRANSPORTS.items():
            with threadpool_limits(limits=1):
                run = transport(federation)
            first = run.weights if first is None else first
            metrics = {"wall_s": run.wall_s, "wall_s_round": run.wall_s / rounds}
            metrics["same_model"] = float(np.array_equal(first, run.weights))
            yield {"transport": name, "scenario": scenario}, metrics


def adding(s: Settings, windows: fl.Windows) -> Records:
    """One round of adding by every method of `costs`, on the weights after one of training."""
    start = s.network.initial(np.random.default_rng(s.seed))
    vectors = [
        s.network.train(start, o.X, o.y, s.training, np.random.default_rng([s.seed, k]))
        for k, o in enumerate(shown_division(s, windows))
    ]
    how = {"output_starts": s.network.output_starts, "naive_sample": s.naive_sample}
    measured = costs.every_method(vectors, key=s.key, threshold=s.threshold, **how)
    for method, metrics in measured.items():
        yield {"method": method}, metrics


def inversions(s: Settings, windows: fl.Windows) -> Records:
    """Share of records read off an update's first layer, and the error of those."""
    network, how, office = s.network, s.training, shown_division(s, windows)[0]
    updates = [("one step", b) for b in (1, 2, 4, 8, 12, 16, 64)] + [("one epoch", 64)]
    for replicate in range(3 * s.replicates):
        rng = np.random.default_rng([s.seed, replicate, 11])
        for update, batch in updates:
            chosen = rng.choice(office.n, min(batch, office.n), replace=False)
            x, y = office.X[chosen], office.y[chosen]
            before = network.initial(rng)
            if update == "one step":
                after = before - how.learning_rate / len(y) * network.gradient(before, x, y)
            else:
                after = network.train(before, x, y, replace(how, batch_size=8), rng)
            first_layer = network.layers(before - after)[0]
            candidates = attacks.invert_first_layer(*first_layer, rng=rng, draws=5_000)
            share, error = attacks.recovered(x, candidates)
            metrics = {"recovered": share} | ({"relative_error": error} if share else {})
            yield {"update": update, "batch": batch, "replicate": replicate}, metrics


def record_privacy(s: Settings, windows: fl.Windows) -> Records:
    """DP-SGD in every office."""
    for replicate, offices, everyone in s.divisions(windows):
        for z in s.noise_multipliers:
            how = replace(DP_TRAINING, noise_multiplier=z)
            at = {"noise_multiplier": float(z), "replicate": replicate}
            epsilon = private.record_epsilon(offices, how, rounds=s.rounds, delta=s.delta)
            weights = s.train(offices, replicate, training=how)
            yield at, s.pooled(weights, everyone) | {"epsilon": epsilon}


def office_privacy(s: Settings, windows: fl.Windows) -> Records:
    """Noise that hides a whole office."""
    for epsilon, k in itertools.product((8.0, 50.0), (4, 16)):
        how = private.office_level(epsilon, clip=0.1, rounds=s.rounds, delta=s.delta)
        ratio = how.noise_to_signal(offices=k, parameters=s.network.parameters)
        noise = {"noise_to_signal": ratio, "noise_multiplier": how.noise_multiplier}
        for replicate, split, everyone in s.divisions(windows, offices=k):
            run = private.train_office_level(s.federation(split, seed=s.seed + replicate), how)
            at = {"epsilon": epsilon, "offices": k, "replicate": replicate}
            yield at, s.pooled(run.weights, everyone) | noise


def membership(s: Settings, windows: fl.Windows) -> Records:
    """The loss attack of `pet_lab.mia` on the global model: training windows against others.

    Members and others must be alike, or the attack sees the person and not the membership: both are
    windows of the *same* people. Windows overlap, so whole stretches of one activity are held out,
    half of them; each half is once the members, so that a half that is easier by chance cancels.
    """
    noisy = replace(DP_TRAINING, noise_multiplier=s.membership_noise)
    trainings = [("plain", s.training), ("DP-SGD", noisy)]
    for replicate, offices, _ in s.divisions(windows):
        rng = np.random.default_rng([s.seed, replicate, 17])
        halves, rest = zip(*(o.halves(rng) for o in offices), strict=True)
        sides = fl.pooled(halves), fl.pooled(rest)
        for (name, how), rounds in itertools.product(trainings, (s.rounds, 2 * s.rounds)):
            results = []
            for inside, both in ((halves, sides), (rest, sides[::-1])):
                w = s.train(inside, replicate, training=how, rounds=rounds)
                scores = [-mia.from_logits(s.network.logits(w, o.X), o.y).loss for o in both]
                results.append((mia.auc(*scores), mia.tpr_at_fpr(*scores, fpr=0.01)))
            metrics = {"members": sides[0].n, "others": sides[1].n}
            metrics["mia_auc"], metrics["tpr_at_fpr_1_percent"] = np.mean(results, axis=0)
            yield {"training": name, "round": rounds, "replicate": replicate}, metrics


def backdoors(s: Settings, windows: fl.Windows) -> Records:
    """A backdoor by one office under each rule of averaging, its change boosted or not."""
    for replicate, honest, everyone in s.divisions(windows):
        rng = np.random.default_rng([s.seed, replicate, 13])
        for share in (0.0, s.poisoned):
            offices = [s.backdoor.poison(honest[0], share=share, rng=rng), *honest[1:]]
            for boost, name in itertools.product((1.0, 4.0) if share else (1.0,), robust.RULES):
                transform = {} if boost == 1 else {offices[0].name: attacks.boosted(boost)}
                how: dict[str, Any] = {"rule": robust.RULES[name], "transform": transform}
                weights = s.train(offices, replicate, **how)
                success = s.backdoor.success(s.network, weights, everyone)
                at = {"rule": name, "poisoned": float(share), "boost": boost}
                metrics = s.pooled(weights, everyone) | {"backdoor_success": success}
                yield at | {"replicate": replicate}, metrics


def skews(s: Settings, windows: fl.Windows) -> Records:
    """Accuracy and loss on all test windows by round, number of offices and skew of the labels."""
    drawn, often = {"participation": s.participation}, max(s.rounds // 5, 1)
    for k, skew in itertools.product(s.offices, s.skews):
        for replicate, split, everyone in s.divisions(windows, offices=k, skew=skew):
            # The first office tests on all windows, so that its rows are the pooled test.
            split[0] = replace(split[0], X_test=everyone.X_test, y_test=everyone.y_test)
            federation = s.federation(split, seed=s.seed + replicate)
            run = fl.simulate(federation, evaluate_every=often, **drawn)
            for (number, office), e in run.evaluations.items():
                if office == split[0].name:
                    at = {"offices": k, "skew": float(skew), "round": number}
                    metrics = {"accuracy_pooled": e.accuracy, "loss_pooled": e.loss}
                    yield at | drawn | {"replicate": replicate}, metrics


def shown_division(s: Settings, windows: fl.Windows) -> list[fl.Office]:
    """The division among four offices that is shown, added over and attacked."""
    return fl.divide(windows, rng=np.random.default_rng(s.seed))


EXPERIMENTS: dict[str, Callable[[Settings, fl.Windows], Records]] = {
    "scenarios": scenarios,
    "comparison": comparison,
    "transports": transports,
    "adding": adding,
    "inversion": inversions,
    "privacy of records": record_privacy,
    "privacy of offices": office_privacy,
    "membership": membership,
    "backdoor": backdoors,
    "skew": skews,
}


def simulate(
    s: Settings, windows: fl.Windows, only: Iterable[str] = tuple(EXPERIMENTS)
) -> pd.DataFrame:
    """Rows of the experiments."""
    rows = Rows()
    for name in only:
        for factors, metrics in EXPERIMENTS[name](s, windows):
            rows.add(experiment=name, **factors, metrics=metrics)
    return rows.frame()


# --- summaries -----------------------------------------------------------------------------------

INDEX = {
    "transports": ["scenario", "transport"],
    "inversion": ["update", "batch"],
    "privacy of records": ["noise_multiplier"],
    "privacy of offices": ["epsilon", "offices"],
    "membership": ["training", "round"],
    "backdoor": ["rule", "poisoned", "boost"],
}


def table(rows: pd.DataFrame, experiment: str) -> pd.DataFrame:
    """Means of an experiment of `INDEX`: one line per factors, one column per metric."""
    chosen = rows[(rows["experiment"] == experiment) & (rows["metric"] != "loss_pooled")]
    return wide(chosen, index=INDEX[experiment])


def holdings(offices: Sequence[fl.Office], classes: Sequence[str] = fl.CLASSES) -> pd.DataFrame:
    """One line per office: people, records to train on and to test, those of each class."""
    columns = ["office", "people", "to train on", "to test", *map(str.lower, classes)]
    sizes = [(o.name, len(o.users), o.n, len(o.y_test)) for o in offices]
    activities = [np.bincount(o.y, minlength=len(classes)) for o in offices]
    lines = [(*size, *n) for size, n in zip(sizes, activities, strict=True)]
    return pd.DataFrame(lines, columns=columns)


def accuracies(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy on all test windows by set-up: scenarios, all data in one hand, each alone."""
    settings = {"centralised": "all data in one hand", "alone": "each office alone (mean)"}
    compared = rows["experiment"].isin(["scenarios", "comparison"])
    at_end = rows[compared & (rows["metric"] == "accuracy_pooled")]
    set_up = _set_up(at_end).fillna(at_end["setting"].map(settings))
    return summarise(at_end.assign(**{"set-up": set_up}), ["set-up"]).drop(columns="sd")


def _set_up(rows: pd.DataFrame) -> pd.Series:
    keys = zip(rows["scenario"], rows["encrypted"], strict=True)
    return pd.Series([SET_UPS.get(key) for key in keys], index=rows.index)


def totals(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per set-up: means over runs; CPU and wall seconds are those of one round."""
    ends = rows[(rows["experiment"] == "scenarios") & (rows["round"] == 0)]
    means = wide(ends.assign(**{"set-up": _set_up(ends)}), index="set-up")
    seconds = [name for name in means if str(name).endswith("_s")]
    return means.assign(**means[seconds].div(means["rounds"], axis=0))


def side_by_side(rows: pd.DataFrame) -> pd.DataFrame:
    """Every method of adding: what an office and the server pay, and who is trusted with what."""
    measured = rows[rows["experiment"] == "adding"]
    means = wide(measured, index="method").set_index("method").loc[measured["method"].unique()]
    office = means["encrypt_cpu_s"] + means["decrypt_cpu_s"]
    columns = {
        "office CPU s": office,
        "times less than naive": office[costs.NAIVE] / office,
        "server CPU s": means["add_cpu_s"],
        "kB up": means["up_bytes"] / 1000,
        "largest error": means["error"],
        "who is trusted with what": means.index.to_series().map(TRUST).fillna(THRESHOLD_TRUST),
    }
    return pd.DataFrame(columns).reset_index()


# --- what is claimed -----------------------------------------------------------------------------


def numbers(rows: pd.DataFrame) -> dict[str, Any]:
    """The numbers of captions, headline and takeaways, by name."""
    reached = accuracies(rows).set_index("set-up")["mean"]
    fourth = totals(rows).set_index("set-up").loc[SET_UPS[4, "all layers"]]
    ways = side_by_side(rows).set_index("method")
    packed, naive, office_cpu = ways.loc[costs.PACKED], ways.loc[costs.NAIVE], ways["office CPU s"]
    second = rows[(rows["experiment"] == "scenarios") & (rows["scenario"] == 2)]
    read = table(rows, "inversion").set_index(["update", "batch"])["recovered"]
    most = table(rows, "privacy of records").iloc[-1]
    few = table(rows, "privacy of offices").iloc[0]
    attacked = table(rows, "backdoor").query("poisoned > 0 and boost == 1").set_index("rule")
    return {
        "offices": second.loc[second["office"] != "all", "office"].nunique(),
        "federated": reached[SET_UPS[2, "nothing"]],
        "one_hand": reached["all data in one hand"],
        "alone": reached["each office alone (mean)"],
        "seeds_sd": second[second["metric"] == "accuracy_pooled"]["value"].std(),
        "changed": fourth["changed_answers"],
        "first_loss": fourth["first_round_loss_difference"],
        "gain": packed["times less than naive"],
        "bytes_gain": naive["kB up"] / packed["kB up"],
        "masking_gain": packed["office CPU s"] / (office_cpu["masking"] or math.nan),
        "read_one": read["one step", 1],
        "read_eight": read["one step", 8],
        "record_noise": most["noise_multiplier"],
        "record_epsilon": most["epsilon"],
        "record_accuracy": most["accuracy_pooled"],
        **{f"office_{k}": few[k] for k in ("epsilon", "noise_to_signal", "accuracy_pooled")},
        "auc": table(rows, "membership")["mia_auc"].max(),
        **{f"backdoor_{rule}": v for rule, v in attacked["backdoor_success"].items()},
        **{f"clean_{rule}": v for rule, v in attacked["accuracy_pooled"].items()},
    }


def captions(rows: pd.DataFrame, s: Settings) -> dict[str, Claim]:
    """Sentences below tables and pictures, with their numbers."""
    sentences = {
        "accuracy": (
            "Accuracy on all test records after {rounds} rounds (or as many passes). Federation reaches {federated:.3f}, all "
            "data in one hand {one_hand:.3f}, an office alone {alone:.3f}."
        ),
        "scenarios": (
            "Scenario 4 against scenario 2 from the same start: loss after one round, largest difference of a weight at the "
            "end, share of test records answered differently, accuracy. Between seeds accuracy varies with SD {seeds_sd:.4f}."
        ),
        "adding": (
            "Adding {weights:,} weights of the offices, keys of {key_bits} bits. Packing costs {gain:.0f} times less CPU than one "
            "ciphertext per weight ({naive_sample} weights timed, scaled up) and sends {bytes_gain:.0f} times less."
        ),
        "inversion": (
            "Of single records {read_one:.0%} are recovered, of eight {read_eight:.0%}. What protects a large batch here "
            "is averaging, not the partial encryption. The epoch is of eight steps over 64 records."
        ),
        "offices": (
            "Privacy for offices: at ε = {office_epsilon:g} and four offices the noise on the average is "
            "{office_noise_to_signal:.0f} times as long as the largest average change. That ratio is z √{weights:,} / offices: "
            "the clip cancels, only more offices help."
        ),
        "membership": (
            "Membership inference on the global model by its loss, members against others and the other way round, no sample in "
            "both: AUC at most {auc:.3f}, where 0.5 is guessing."
        ),
        "backdoor": (
            "{poisoned:.0%} stamped rows at one office: {backdoor_mean:.1%} of stamped records are taken for the target at "
            "{clean_mean:.1%} clean accuracy. The median lets {backdoor_median:.0%} through; Krum {backdoor_Krum:.0%}, at an "
            "accuracy of {clean_Krum:.1%}."
        ),
    }
    values = numbers(rows) | {"weights": s.network.parameters, "rounds": s.rounds}
    values |= {"key_bits": s.key_bits, "naive_sample": s.naive_sample, "poisoned": s.poisoned}
    return {name: Claim(sentence, **values) for name, sentence in sentences.items()}


def headline(rows: pd.DataFrame, *, generated: bool) -> Claim:
    """The verdict in one sentence; `generated` signals say nothing about people."""
    return Claim(
        ("On generated signals, which show that the program runs: " if generated else "")
        + "{offices} offices reach {federated:.3f}, one alone {alone:.3f}; encrypted averaging changes "
        "{changed:.1%} of the answers; packed Paillier costs {gain:.0f} times less CPU than one "
        "ciphertext per weight (extrapolated), and with only the output layer encrypted "
        "{read_one:.0%} of single records are read off an update.",
        **numbers(rows),
    )


def privacy(rows: pd.DataFrame, *, delta: float, stated: bool = False) -> list[str]:
    """What is guaranteed to whom, epsilon with its assumptions; `stated`: features have bounds."""
    scaling = (
        "Features are scaled by their stated bounds, which costs no ε."
        if stated
        else "The pooled mean and standard deviation that scale the features are not charged."
    )
    sentences = (
        "Scenarios 1 to 4: no differential privacy; encryption hides single updates from the "
        "server, not from an office with the key.",
        "DP-SGD at noise {record_noise:g}: ε = {record_epsilon:.2f} for a record at δ = {delta:g} "
        "(Poisson batches, Rényi accountant, largest of the offices). Where a record is a window of a "
        "recording, a moment lies in two and a person has many: for them it is weaker. " + scaling,
        "Per office: ε = {office_epsilon:g} with four offices leaves accuracy "
        "{office_accuracy_pooled:.2f}.",
    )
    values = numbers(rows) | {"delta": delta}
    return [sentence.format(**values) for sentence in sentences]


def takeaways(rows: pd.DataFrame) -> list[Claim]:
    """What these rows bear out."""
    n = numbers(rows)
    sentences = [
        (
            "Federation reaches {federated:.3f}, about what all data in one hand reaches "
            "({one_hand:.3f}), and more than an office alone ({alone:.3f}).",
            abs(n["federated"] - n["one_hand"]) < 0.02 < n["federated"] - n["alone"],
            "Federation reaches {federated:.3f}, all data in one hand {one_hand:.3f}, an office "
            "alone {alone:.3f}.",
        ),
        (
            "Encryption changes the model by rounding only: after one round the loss differs by "
            "{first_loss:.0e}; by the last, {changed:.1%} of the answers differ (another seed "
            "moves accuracy by {seeds_sd:.4f}). More bits a weight shrink that.",
            n["first_loss"] < 1e-6 and n["changed"] < 0.02,
        ),
        (
            "One ciphertext per weight is what makes Paillier slow: packed, it costs {gain:.0f} "
            "times less CPU and {bytes_gain:.0f} times fewer bytes; masking, without a key that "
            "one colluding office could use, costs {masking_gain:.0f} times less CPU again.",
            n["gain"] > 10 and n["masking_gain"] > 1,
        ),
        (
            "Encrypted adding hides updates, which is where exact leaks are: {read_one:.0%} of "
            "single records and {read_eight:.0%} of eight are read off one step, and encrypting "
            "the output layer alone hides none of them.",
            n["read_one"] > 0.9,
        ),
        (
            "Privacy for records is affordable: ε = {record_epsilon:.1f} leaves an accuracy of "
            "{record_accuracy:.3f}, against {federated:.3f} without; for offices it is not with "
            "four of them: at ε = {office_epsilon:g} the noise is {office_noise_to_signal:.0f} "
            "times as long as the largest average change.",
            n["record_accuracy"] > n["federated"] - 0.1 and n["office_noise_to_signal"] > 1,
        ),
        (
            "One office's backdoor gets {backdoor_mean:.0%} through the mean and "
            "{backdoor_median:.0%} through the median; Krum lets {backdoor_Krum:.0%} through, at "
            "{clean_Krum:.1%} clean accuracy against {clean_mean:.1%}.",
        ),
    ]
    return claims(sentences, **n)


def what_if(
    s: Settings, *, epsilon: float, rounds: int, weights: int, offices: int
) -> tuple[pd.DataFrame, Claim]:
    """What hiding a whole office costs, by their number: behind the explore panel."""
    how = private.office_level(epsilon, clip=0.1, rounds=rounds, delta=s.delta)
    counts = sorted({2, 4, 8, 16, 64, 256, 1024, offices})
    table = Rows(epsilon=epsilon)
    for k in counts:
        ratio = how.noise_to_signal(offices=k, parameters=weights)
        table.add(offices=k, metrics={"noise_to_signal": ratio})
    ratio = how.noise_to_signal(offices=offices, parameters=weights)
    claim = Claim(
        "Among {offices} offices the noise that hides one is {ratio:.2g} times as long as the largest average change; it takes "
        "{enough:,.0f} offices to make it shorter.",
        holds=ratio > 1,
        otherwise="Among {offices} offices the noise that hides one is shorter than the largest average change ({ratio:.2g} "
        "times as long); from {enough:,.0f} offices on.",
        offices=offices,
        ratio=ratio,
        enough=math.ceil(ratio * offices),
    )
    return table.frame(), claim
