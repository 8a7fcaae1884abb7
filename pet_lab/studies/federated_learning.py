"""Federated learning among offices: four scenarios, the price of adding, what leaks, what stops it.

UNECE Project on Input Privacy Preservation, final report (2023), section 3.1. Each experiment is a
function from a `Federation` to tidy rows with the column `experiment`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from pet_lab import data, mia, paillier
from pet_lab import federated as fl
from pet_lab.federated import attacks, costs, flower, private, robust
from pet_lab.rows import Claim, Rows, summarise, wide

if TYPE_CHECKING:
    import pandas as pd

LABELS = {
    "accuracy": "accuracy on the office's test windows",
    "accuracy_pooled": "accuracy on all test windows",
    "loss": "loss on the office's test windows",
    "noise_multiplier": "noise multiplier",
    "backdoor_success": "stamped windows taken for the target",
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
    (2, "nothing"): "2: four offices, split",
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

BACKDOOR = attacks.Backdoor(columns=(3, 40, 77, 110), value=5.0, target=5)
DP_TRAINING = fl.LocalTraining(learning_rate=0.05, batch_size=64, clip=1.0)


@dataclass(frozen=True, kw_only=True)
class Federation:
    """What all experiments share; `seed` is the root of every stream but those of keys."""

    windows: fl.Windows
    network: fl.Network
    training: fl.LocalTraining
    rounds: int
    seed: int
    replicates: int

    def divide(self, replicate: int = 0, **how: Any) -> list[fl.Office]:
        """The people divided among the offices; `how` as of `federated.divide`."""
        rng = np.random.default_rng([self.seed, replicate, 77])
        return fl.divide(self.windows, rng=rng, **how)

    def divisions(self, **how: Any) -> Iterator[tuple[int, list[fl.Office], fl.Office]]:
        """A new division for each replicate: (replicate, offices, all in one hand)."""
        for replicate in range(self.replicates):
            offices = self.divide(replicate, **how)
            yield replicate, offices, fl.pooled(offices)

    def train(
        self, offices: Sequence[fl.Office], replicate: int, how: fl.LocalTraining, **more: Any
    ) -> fl.History:
        """Rounds in a plain loop, added in the clear; `more` as of `simulate`, and `rule`."""
        scheme = fl.Plain(self.network.parameters, rule=more.pop("rule", None))
        more = {"rounds": self.rounds, "seed": self.seed + replicate, **more}
        return fl.simulate(
            offices, self.network, how, scheme, **{"evaluate_every": more["rounds"], **more}
        )

    def pooled(self, weights: np.ndarray, everyone: fl.Office) -> dict[str, float]:
        """Accuracy and loss of a model on all test windows."""
        end = self.network.evaluate(weights, everyone.X_test, everyone.y_test)
        return {"accuracy_pooled": end.accuracy, "loss_pooled": end.loss}

    def scheme(self, encrypted: str, key: paillier.PrivateKey, offices: int) -> fl.Scheme:
        """How weights are added: `encrypted` is "nothing", "output layer" or "all layers"."""
        if encrypted == "nothing":
            return fl.Plain(self.network.parameters)
        start = self.network.output_starts if encrypted == "output layer" else 0
        return fl.Paillier.of(key, self.network.parameters, offices=offices, encrypted_from=start)


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


# --- experiments ---------------------------------------------------------------------------------


def scenarios(
    setting: Federation, *, key: paillier.PrivateKey, encrypted_replicates: int, transport: str
) -> pd.DataFrame:
    """The four scenarios of table 3.1, and the fourth with the output layer only.

    One division of the people among the offices; replicates differ in weights and batches. Rows by
    scenario, encrypted, replicate, round and office: accuracy and loss on the office's own test
    windows (round >= 1); at round 0 the totals of a run, for scenario 4 its differences to 2 too.
    """
    if transport not in TRANSPORTS:
        raise ValueError(f"transport is one of {', '.join(TRANSPORTS)}, got {transport!r}.")
    rows, split = Rows(experiment="scenarios", transport=transport), setting.divide()
    twins, everyone = setting.divide(offices=2, same_data=True), fl.pooled(split)
    for replicate in range(setting.replicates):
        runs: dict[int, fl.History] = {}
        for scenario, encrypted in SET_UPS:
            if scenario == 4 and replicate >= encrypted_replicates:
                continue
            offices = twins if scenario == 1 else split
            runs[scenario] = run = TRANSPORTS[transport](
                offices,
                setting.network,
                setting.training,
                setting.scheme(encrypted, key, len(offices)),
                rounds=setting.rounds,
                seed=setting.seed + 1000 * replicate,
                server_starts=scenario == 3,
            )
            results = {
                at: {"accuracy": e.accuracy, "loss": e.loss} for at, e in run.evaluations.items()
            }
            results[0, "all"] = setting.pooled(run.weights, everyone) | run.totals()
            if scenario == 4:
                results[0, "all"] |= _differences(setting.network, runs[2], run, everyone)
            how: dict[str, Any] = {"scenario": scenario, "encrypted": encrypted}
            for (number, office), metrics in sorted(results.items()):
                at = how | {"replicate": replicate, "round": number, "office": office}
                rows.add(**at, metrics=metrics)
    return rows.frame()


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


def comparison(setting: Federation) -> pd.DataFrame:
    """What federation is held against: "centralised", all data in one hand, and "alone".

    The division of `scenarios`, and as many passes as its rounds make. Rows by setting, office and
    replicate: accuracy and loss on all test windows.
    """
    how = replace(setting.training, epochs=setting.training.epochs * setting.rounds)
    rows, offices = Rows(experiment="comparison"), setting.divide()
    everyone = fl.pooled(offices)
    for replicate in range(setting.replicates):
        for k, office in enumerate([everyone, *offices]):
            rng = np.random.default_rng([setting.seed, replicate, k, 5])
            start = setting.network.initial(rng)
            weights = setting.network.train(start, office.X, office.y, how, rng)
            who: dict[str, Any] = {
                "setting": "alone" if k else "centralised",
                "office": office.name,
            }
            rows.add(**who, replicate=replicate, metrics=setting.pooled(weights, everyone))
    return rows.frame()


def transports(setting: Federation, *, key: paillier.PrivateKey, rounds: int) -> pd.DataFrame:
    """Scenarios 2 and 4 over each transport, on the same offices; no rows for 0 rounds.

    Rows by transport and scenario: wall_s, wall_s_round, same_model (1 if every weight equals that
    of the first transport). One thread of linear algebra in all: sums differ by their order.
    """
    rows, offices = Rows(experiment="transports"), setting.divide()
    for scenario, encrypted in [(2, "nothing"), (4, "all layers")] if rounds else []:
        scheme, first = setting.scheme(encrypted, key, len(offices)), None
        args, how = (offices, setting.network, setting.training, scheme), {"seed": setting.seed}
        for name, transport in TRANSPORTS.items():
            with threadpool_limits(limits=1):
                run = transport(*args, rounds=rounds, **how)
            first = run.weights if first is None else first
            metrics = {"wall_s": run.wall_s, "wall_s_round": run.wall_s / rounds}
            metrics["same_model"] = float(np.array_equal(first, run.weights))
            rows.add(transport=name, scenario=scenario, metrics=metrics)
    return rows.frame()


def adding(
    setting: Federation, offices: Sequence[fl.Office], *, key: paillier.PrivateKey, **how: int
) -> pd.DataFrame:
    """One round of adding by every method, on the offices' weights after one round of training.

    `how` is naive_sample and threshold. Rows by method: the fields of `costs.AddingCosts`.
    """
    network, seed, rows = setting.network, setting.seed, Rows(experiment="adding")
    start = network.initial(np.random.default_rng(seed))
    vectors = [
        network.train(start, o.X, o.y, setting.training, np.random.default_rng([seed, k]))
        for k, o in enumerate(offices)
    ]
    measured = costs.every_method(vectors, key=key, output_starts=network.output_starts, **how)
    for method, cost in measured.items():
        rows.add(method=method, metrics=asdict(cost))
    return rows.frame()


def inversions(
    setting: Federation, office: fl.Office, *, batches: Sequence[int] = (1, 2, 4, 8, 12, 16, 64)
) -> pd.DataFrame:
    """Share of records read off an update's first layer: one step on a batch, one epoch on 64.

    Rows by update ("one step", "one epoch") and batch: recovered, relative_error (of hits).
    """
    network, how, rows = setting.network, setting.training, Rows(experiment="inversion")
    for replicate in range(3 * setting.replicates):
        rng = np.random.default_rng([setting.seed, replicate, 11])
        for update, batch in [("one step", b) for b in batches] + [("one epoch", 64)]:
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
            rows.add(update=update, batch=batch, replicate=replicate, metrics=metrics)
    return rows.frame()


def record_privacy(
    setting: Federation, *, noise_multipliers: Sequence[float], delta: float
) -> pd.DataFrame:
    """DP-SGD in every office. Rows by noise_multiplier: epsilon, accuracy_pooled."""
    rows, rounds = Rows(experiment="privacy of records"), setting.rounds
    for replicate, offices, everyone in setting.divisions():
        for z in noise_multipliers:
            how = replace(DP_TRAINING, noise_multiplier=z)
            metrics = setting.pooled(setting.train(offices, replicate, how).weights, everyone)
            metrics["epsilon"] = private.record_epsilon(offices, how, rounds=rounds, delta=delta)
            rows.add(noise_multiplier=float(z), replicate=replicate, metrics=metrics)
    return rows.frame()


def office_privacy(
    setting: Federation,
    *,
    delta: float,
    epsilons: Sequence[float] = (8.0, 50.0),
    offices: Sequence[int] = (4, 16),
) -> pd.DataFrame:
    """Noise that hides a whole office.

    Rows by epsilon and offices: accuracy_pooled, noise_to_signal, noise_multiplier.
    """
    rows, net, rounds = Rows(experiment="privacy of offices"), setting.network, setting.rounds
    for epsilon, k in itertools.product(epsilons, offices):
        how = private.office_level(epsilon, clip=0.1, rounds=rounds, delta=delta)
        ratio = private.noise_to_signal(how, offices=k, parameters=net.parameters)
        noise = {"noise_to_signal": ratio, "noise_multiplier": how.noise_multiplier}
        for replicate, split, everyone in setting.divisions(offices=k):
            rounds_of: dict[str, int] = {"rounds": rounds, "seed": setting.seed + replicate}
            run = private.train_office_level(split, net, setting.training, how, **rounds_of)
            metrics = setting.pooled(run.weights, everyone) | noise
            rows.add(epsilon=float(epsilon), offices=k, replicate=replicate, metrics=metrics)
    return rows.frame()


def membership(setting: Federation, *, noise_multiplier: float = 1.2) -> pd.DataFrame:
    """The loss attack of `pet_lab.mia` on the global model: training windows against others.

    Members and others must be alike, or the attack sees the person and not the membership: both are
    windows of the *same* people. Windows overlap, so whole stretches of one activity are held out,
    half of them; each half is once the members, so that a half that is easier by chance cancels.
    Rows by training ("plain", "DP-SGD") and round: mia_auc, tpr_at_fpr_1_percent (means of both),
    members and others (numbers of windows).
    """
    rows, network = Rows(experiment="membership"), setting.network
    noisy = replace(DP_TRAINING, noise_multiplier=noise_multiplier)
    for replicate, offices, _ in setting.divisions():
        rng = np.random.default_rng([setting.seed, replicate, 17])
        halves, rest = zip(*(o.halves(rng) for o in offices), strict=True)
        sides = fl.pooled(halves), fl.pooled(rest)
        for name, how in (("plain", setting.training), ("DP-SGD", noisy)):
            for length in (setting.rounds, 2 * setting.rounds):
                metrics = {"members": sides[0].n, "others": sides[1].n}
                results = []
                for inside, both in ((halves, sides), (rest, sides[::-1])):
                    w = setting.train(inside, replicate, how, rounds=length).weights
                    scores = [-mia.from_logits(network.logits(w, o.X), o.y).loss for o in both]
                    results.append((mia.auc(*scores), mia.tpr_at_fpr(*scores, fpr=0.01)))
                metrics["mia_auc"], metrics["tpr_at_fpr_1_percent"] = np.mean(results, axis=0)
                rows.add(training=name, round=length, replicate=replicate, metrics=metrics)
    return rows.frame()


def backdoors(setting: Federation, *, poisoned: float) -> pd.DataFrame:
    """A backdoor by one office under each rule of averaging, its change boosted or not.

    Rows by rule, poisoned (share of the office's rows), boost: backdoor_success, accuracy_pooled.
    """
    rows = Rows(experiment="backdoor")
    for replicate, honest, everyone in setting.divisions():
        rng = np.random.default_rng([setting.seed, replicate, 13])
        for share in (0.0, poisoned):
            offices = [BACKDOOR.poison(honest[0], share=share, rng=rng), *honest[1:]]
            for boost, name in itertools.product((1.0, 4.0) if share else (1.0,), robust.RULES):
                transform = {} if boost == 1 else {offices[0].name: attacks.boosted(boost)}
                how = {"rule": robust.RULES[name], "transform": transform}
                weights = setting.train(offices, replicate, setting.training, **how).weights
                metrics = setting.pooled(weights, everyone)
                metrics["backdoor_success"] = BACKDOOR.success(setting.network, weights, everyone)
                at: dict[str, Any] = {"rule": name, "poisoned": float(share), "boost": boost}
                rows.add(**at, replicate=replicate, metrics=metrics)
    return rows.frame()


def skews(
    setting: Federation,
    *,
    offices: Sequence[int],
    skews: Sequence[float],
    participation: float = 1.0,
) -> pd.DataFrame:
    """Accuracy and loss on all test windows by round, number of offices and skew of the labels.

    participation : share of the offices that the server draws for a round
    """
    rows, often = Rows(experiment="skew", participation=participation), max(setting.rounds // 5, 1)
    how = {"participation": participation, "evaluate_every": often}
    for k, skew in itertools.product(offices, skews):
        for replicate, split, everyone in setting.divisions(offices=k, skew=skew):
            # The first office tests on all windows, so that its rows are the pooled test.
            split[0] = replace(split[0], X_test=everyone.X_test, y_test=everyone.y_test)
            run = setting.train(split, replicate, setting.training, **how)
            for (number, office), e in run.evaluations.items():
                if office == split[0].name:
                    metrics = {"accuracy_pooled": e.accuracy, "loss_pooled": e.loss}
                    at: dict[str, Any] = {"offices": k, "skew": float(skew), "round": number}
                    rows.add(**at, replicate=replicate, metrics=metrics)
    return rows.frame()


# --- summaries -----------------------------------------------------------------------------------

INDEX = {
    "transports": ["scenario", "transport"],
    "privacy of records": ["noise_multiplier"],
    "privacy of offices": ["epsilon", "offices"],
    "membership": ["training", "round"],
    "backdoor": ["rule", "poisoned", "boost"],
}


def table(rows: pd.DataFrame, experiment: str) -> pd.DataFrame:
    """Means of an experiment of `INDEX`: one line per factors, one column per metric."""
    chosen = rows[(rows["experiment"] == experiment) & (rows["metric"] != "loss_pooled")]
    return wide(chosen, index=INDEX[experiment])


def holdings(offices: Sequence[fl.Office]) -> pd.DataFrame:
    """One line per office: people, windows to train on and to test, windows of each activity."""
    import pandas as pd

    return pd.DataFrame(
        {
            "office": o.name,
            "people": len(o.users),
            "training windows": o.n,
            "test windows": len(o.y_test),
            **{c.lower(): int((o.y == k).sum()) for k, c in enumerate(fl.CLASSES)},
        }
        for o in offices
    )


def accuracies(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy on all test windows by set-up: scenarios, all data in one hand, each alone."""
    settings = {"centralised": "all data in one hand", "alone": "each office alone (mean)"}
    at_end = rows[rows["experiment"].isin(["scenarios", "comparison"])].copy()
    at_end = at_end[at_end["metric"] == "accuracy_pooled"]
    at_end["set-up"] = _set_up(at_end).fillna(at_end["setting"].map(settings))
    return summarise(at_end, ["set-up"])[["set-up", "mean", "se", "n"]]


def _set_up(rows: pd.DataFrame) -> pd.Series:
    import pandas as pd

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
    return means.assign(**columns)[list(columns)].reset_index()


# --- what is claimed -----------------------------------------------------------------------------


def numbers(rows: pd.DataFrame) -> dict[str, Any]:
    """The numbers of captions, headline and takeaways, by name."""
    reached = accuracies(rows).set_index("set-up")["mean"]
    fourth = totals(rows).set_index("set-up").loc[SET_UPS[4, "all layers"]]
    ways = side_by_side(rows).set_index("method")
    packed, naive, office_cpu = ways.loc[costs.PACKED], ways.loc[costs.NAIVE], ways["office CPU s"]
    second = rows[(rows["experiment"] == "scenarios") & (rows["scenario"] == 2)]
    curve = second[second["metric"] == "accuracy"].groupby("round")["value"].mean()
    loss = wide(second[second["metric"] == "loss"], index="office", columns="round")
    leaks = rows[rows["experiment"] == "inversion"].groupby(["metric", "update", "batch"])["value"]
    read, guesses = leaks.mean()["recovered"], table(rows, "membership")
    least, most = (table(rows, "privacy of records").iloc[k] for k in (0, -1))
    few = table(rows, "privacy of offices").iloc[0]
    attacked = table(rows, "backdoor").query("poisoned > 0 and boost == 1").set_index("rule")
    uneven = rows[(rows["experiment"] == "skew") & (rows["metric"] == "accuracy_pooled")]
    at_end = uneven[uneven["round"] == uneven["round"].max()].groupby(["offices", "skew"])["value"]
    return {
        "federated": reached[SET_UPS[2, "nothing"]],
        "one_hand": reached["all data in one hand"],
        "alone": reached["each office alone (mean)"],
        "seeds_sd": second[second["metric"] == "accuracy_pooled"]["value"].std(),
        "first_round": curve.iloc[0],
        "last_round": curve.iloc[-1],
        "losses_fell": (loss.iloc[:, -1] < loss.iloc[:, 1]).sum(),
        "losses": len(loss),
        "changed": fourth["changed_answers"],
        "first_loss": fourth["first_round_loss_difference"],
        "gain": packed["times less than naive"],
        "bytes_gain": naive["kB up"] / packed["kB up"],
        "masking_gain": packed["office CPU s"] / office_cpu["masking"],
        "read_one_error": leaks.median()["relative_error", "one step", 1],
        **{f"read_{k}": read["one step", b] for k, b in (("one", 1), ("eight", 8), ("64", 64))},
        "read_epoch": read["one epoch", 64],
        "record_noise": most["noise_multiplier"],
        "record_epsilon": most["epsilon"],
        "record_accuracy": most["accuracy_pooled"],
        "record_cost": least["accuracy_pooled"] - most["accuracy_pooled"],
        **{f"office_{k}": few[k] for k in ("epsilon", "noise_to_signal", "accuracy_pooled")},
        "auc": guesses["mia_auc"].max(),
        **{side: guesses[side].mean() for side in ("members", "others")},
        **{f"backdoor_{rule}": v for rule, v in attacked["backdoor_success"].items()},
        **{f"clean_{rule}": v for rule, v in attacked["accuracy_pooled"].items()},
        "skew_least": at_end.mean().min(),
        "skew_most": at_end.mean().max(),
    }


def headline(rows: pd.DataFrame, *, generated: bool) -> Claim:
    """The verdict in one sentence; `generated` signals say nothing about people."""
    return Claim(
        ("On generated signals, which show that the program runs: " if generated else "")
        + "Four offices reach {federated:.3f}, one alone {alone:.3f}; encrypted averaging changes "
        "{changed:.1%} of the answers; packed Paillier costs {gain:.0f} times less CPU than one "
        "ciphertext per weight (extrapolated), and with only the output layer encrypted "
        "{read_one:.0%} of single records are read off an update.",
        **numbers(rows),
    )


def privacy(rows: pd.DataFrame, *, delta: float) -> list[str]:
    """What is guaranteed to whom, epsilon with its assumptions."""
    sentences = (
        "Scenarios 1 to 4: no differential privacy; encryption hides single updates from the "
        "server, not from an office with the key.",
        "DP-SGD at noise {record_noise:g}: ε = {record_epsilon:.2f} for a window at δ = {delta:g} "
        "(Poisson batches, Rényi accountant, largest of the offices). A moment lies in two windows "
        "and a person has many: for them it is weaker. The pooled mean and standard deviation that "
        "scale the features are not charged.",
        "Per office: ε = {office_epsilon:g} with four offices leaves accuracy "
        "{office_accuracy_pooled:.2f}.",
    )
    values = numbers(rows) | {"delta": delta}
    return [sentence.format(**values) for sentence in sentences]


def takeaways(rows: pd.DataFrame) -> list[Claim]:
    """What these rows bear out."""
    n = numbers(rows)
    claims = [
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
            "times less CPU and {bytes_gain:.0f} times fewer bytes; masking costs "
            "{masking_gain:.0f} times less CPU again.",
            n["gain"] > 10 and n["masking_gain"] > 1,
        ),
        (
            "One shared key means that one colluding office is enough; threshold decryption or "
            "masking removes that.",
        ),
        (
            "Encrypted adding hides updates, which is where exact leaks are: {read_one:.0%} of "
            "single records and {read_eight:.0%} of eight are read off one step, and encrypting "
            "the output layer alone hides none of them.",
            n["read_one"] > 0.9,
        ),
        (
            "Privacy for records is affordable: ε = {record_epsilon:.1f} leaves an accuracy of "
            "{record_accuracy:.3f}, against {federated:.3f} without.",
            n["record_accuracy"] > n["federated"] - 0.1,
            "Privacy for records costs much: ε = {record_epsilon:.1f} leaves an accuracy of "
            "{record_accuracy:.3f}, against {federated:.3f} without.",
        ),
        (
            "Privacy for offices is hopeless with four: at ε = {office_epsilon:g} the noise is "
            "{office_noise_to_signal:.0f} times as long as the largest average change.",
            n["office_noise_to_signal"] > 1,
        ),
        (
            "One office's backdoor gets {backdoor_mean:.0%} through the mean and "
            "{backdoor_median:.0%} through the median; Krum lets {backdoor_Krum:.0%} through, at "
            "{clean_Krum:.1%} clean accuracy against {clean_mean:.1%}.",
        ),
    ]
    return [
        Claim(sentence, holds=all(rest[:1]), otherwise="".join(rest[1:]), **n)
        for sentence, *rest in claims
    ]
