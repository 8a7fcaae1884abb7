"""The experiments of the federated learning notebook, as tidy rows.

Every function returns a DataFrame with factor columns, `replicate`, `metric` and `value`.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pet_lab import mia, paillier
from pet_lab.federated import attacks, flower, masking, private, robust
from pet_lab.federated.aggregation import Ckks, Paillier, Plain, Scheme
from pet_lab.federated.features import Windows
from pet_lab.federated.model import Network, Training
from pet_lab.federated.partition import Office, divide, pooled
from pet_lab.federated.rounds import History, simulate

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "ENCRYPTED",
    "TRANSPORTS",
    "aggregation_costs",
    "alone",
    "backdoors",
    "inversions",
    "membership",
    "office_privacy",
    "record_privacy",
    "scenarios",
    "skews",
    "transports",
]

TRANSPORTS: dict[str, Callable[..., History]] = {
    "loop": simulate,
    "flower": flower.in_process,
    "processes": flower.processes,
}
"""loop: plain Python; flower: its server loop in process; processes: five, over mutual TLS."""

ENCRYPTED = ("nothing", "output layer", "all layers")


def _frame(records: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(records)


def _offices(data: Windows, seed: int, replicate: int, **how: Any) -> list[Office]:
    return divide(data, rng=np.random.default_rng([seed, replicate, 77]), **how)


def _scheme(
    what: str, network: Network, offices: int, key: paillier.PrivateKey | None
) -> Plain | Paillier:
    if what not in ENCRYPTED:
        raise ValueError(f"encrypted is one of {', '.join(ENCRYPTED)}, got {what!r}.")
    if what == "nothing" or key is None:
        return Plain(network.parameters)
    start = network.output_starts if what == "output layer" else 0
    return Paillier.of(key, network.parameters, offices=offices, encrypted_from=start)


def scenarios(
    data: Windows,
    network: Network,
    training: Training,
    *,
    rounds: int,
    seed: int,
    replicates: int,
    key: paillier.PrivateKey,
    encrypted_replicates: int,
    transport: str = "flower",
    skew: float = 0.0,
) -> pd.DataFrame:
    """The four scenarios of the report's table 3.1, and the fourth with the output layer only.

    One division of the people among the offices; replicates differ in weights and batches.

    Returns
    -------
    Rows by scenario, encrypted, transport, replicate, round and office: accuracy and loss on each
    office's own test windows (round >= 1); and with round 0 the totals of a run: pooled accuracy
    and loss, clients, rounds, largest difference to scenario 2 (weight_difference, and
    accuracy_difference in windows), CPU seconds and bytes by step, wall seconds.
    """
    if transport not in TRANSPORTS:
        raise ValueError(f"transport is one of {', '.join(TRANSPORTS)}, got {transport!r}.")
    run, records = TRANSPORTS[transport], []
    split = _offices(data, seed, 0, skew=skew)
    twins = _offices(data, seed, 0, offices=2, same_data=True)
    for replicate in range(replicates):
        plans: list[tuple[int, str, list[Office], bool]] = [
            (1, "nothing", twins, False),
            (2, "nothing", split, False),
            (3, "nothing", split, True),
        ]
        if replicate < encrypted_replicates:
            plans += [(4, "all layers", split, False), (4, "output layer", split, False)]
        everyone = pooled(split)
        second: History | None = None
        for scenario, what, offices, server_starts in plans:
            history = run(
                offices,
                network,
                training,
                _scheme(what, network, len(offices), key),
                rounds=rounds,
                seed=seed + 1000 * replicate,
                server_starts=server_starts,
            )
            factors = {
                "scenario": scenario,
                "encrypted": what,
                "transport": transport,
                "replicate": replicate,
            }
            records += [{**factors, **r} for r in history.frame().to_dict("records")]
            totals = _totals(history, network, everyone)
            if scenario == 2:
                second = history
            if scenario == 4 and second is not None:
                totals["weight_difference"] = float(np.abs(history.weights - second.weights).max())
                before, after = (
                    np.argmax(network.logits(h.weights, everyone.X_test), axis=1)
                    for h in (second, history)
                )
                totals["changed_answers"] = float(np.mean(before != after))
                totals["accuracy_difference"] = float(
                    np.mean(after == everyone.y_test) - np.mean(before == everyone.y_test)
                )
                one, other = (
                    history.evaluations[1, offices[0].name],
                    second.evaluations[1, offices[0].name],
                )
                totals["first_round_loss_difference"] = abs(one.loss - other.loss)
            records += [
                {**factors, "round": 0, "office": "all", "metric": m, "value": v}
                for m, v in totals.items()
            ]
    return _frame(records)


def transports(
    data: Windows,
    network: Network,
    training: Training,
    *,
    key: paillier.PrivateKey,
    rounds: int,
    seed: int,
    names: Sequence[str] = tuple(TRANSPORTS),
) -> pd.DataFrame:
    """Scenarios 2 and 4 over each transport, on the same offices.

    Rows by transport and scenario: wall_s, wall_s_round, same_model (1 if every weight equals that
    of the first transport).
    """
    split, records = _offices(data, seed, 0), []
    for scenario, what in ((2, "nothing"), (4, "all layers")):
        scheme, first = _scheme(what, network, len(split), key), None
        for name in names:
            history = TRANSPORTS[name](split, network, training, scheme, rounds=rounds, seed=seed)
            first = history.weights if first is None else first
            records += [
                {"transport": name, "scenario": scenario, "replicate": 0, "metric": m, "value": v}
                for m, v in (
                    ("wall_s", history.wall_s),
                    ("wall_s_round", history.wall_s / rounds),
                    ("same_model", float(np.array_equal(first, history.weights))),
                )
            ]
    return _frame(records)


def _totals(history: History, network: Network, everyone: Office) -> dict[str, float]:
    end = network.evaluate(history.weights, everyone.X_test, everyone.y_test)
    offices = {o for _, o in history.evaluations}
    return {
        "accuracy_pooled": end.accuracy,
        "loss_pooled": end.loss,
        "clients": len(offices),
        "rounds": max(r for r, _ in history.evaluations),
        "train_cpu_s": history.cost("train_cpu_s"),
        "seal_cpu_s": history.cost("seal_cpu_s"),
        "open_cpu_s": history.cost("open_cpu_s"),
        "add_cpu_s": history.cost("add_cpu_s"),
        "up_bytes_office_round": history.cost("up_bytes")
        / max(sum(c.step == "up_bytes" for c in history.costs), 1),
        "wall_s": history.wall_s,
    }


def alone(
    data: Windows,
    network: Network,
    training: Training,
    *,
    rounds: int,
    seed: int,
    replicates: int,
    skew: float = 0.0,
) -> pd.DataFrame:
    """What federation is held against: all data in one hand, and each office by itself.

    The division of `scenarios`, and as many passes as `rounds` of federation make. Rows by
    setting ("centralised", "alone"), office and replicate; accuracy and loss on all test windows.
    """
    how, records = replace(training, epochs=training.epochs * rounds), []
    offices = _offices(data, seed, 0, skew=skew)
    everyone = pooled(offices)
    for replicate in range(replicates):
        for k, office in enumerate([everyone, *offices]):
            rng = np.random.default_rng([seed, replicate, k, 5])
            weights = network.train(network.initial(rng), office.X, office.y, how, rng)
            got = network.evaluate(weights, everyone.X_test, everyone.y_test)
            records += [
                {
                    "setting": "alone" if k else "centralised",
                    "office": office.name,
                    "replicate": replicate,
                    "metric": m,
                    "value": v,
                }
                for m, v in (("accuracy_pooled", got.accuracy), ("loss_pooled", got.loss))
            ]
    return _frame(records)


def skews(
    data: Windows,
    network: Network,
    training: Training,
    *,
    offices: Sequence[int],
    skews: Sequence[float],
    rounds: int,
    seed: int,
    replicates: int,
) -> pd.DataFrame:
    """Accuracy on all test windows against rounds, number of offices and skew of the labels."""
    records = []
    for replicate in range(replicates):
        for k in offices:
            for skew in skews:
                split = _offices(data, seed, replicate, offices=k, skew=skew)
                everyone = pooled(split)
                # Every office gets the same test, so that its rows are those of the pooled test.
                history = simulate(
                    [replace(o, X_test=everyone.X_test, y_test=everyone.y_test) for o in split[:1]]
                    + split[1:],
                    network,
                    training,
                    Plain(network.parameters),
                    rounds=rounds,
                    seed=seed + replicate,
                    evaluate_every=max(rounds // 5, 1),
                )
                records += [
                    {
                        "offices": k,
                        "skew": float(skew),
                        "round": r,
                        "replicate": replicate,
                        "metric": m,
                        "value": getattr(e, n),
                    }
                    for (r, name), e in history.evaluations.items()
                    if name == split[0].name
                    for m, n in (("accuracy_pooled", "accuracy"), ("loss_pooled", "loss"))
                ]
    return _frame(records)


# --- costs of adding ---------------------------------------------------------------------------


def _cpu(action: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    out = action()
    return out, time.process_time() - start


def naive_phe(
    weights: NDArray[np.float64], *, key: paillier.PrivateKey, offices: int, sample: int
) -> dict[str, float]:
    """One ciphertext per weight by python-paillier, timed on `sample` weights and scaled up."""
    values = [float(v) for v in weights[:sample]]
    public, secret = key.phe.public_key, key.phe
    sealed, seal = _cpu(lambda: [public.encrypt(v) for v in values])
    total, add = _cpu(lambda: [sum([c] * (offices - 1), c) for c in sealed])
    opened, open_ = _cpu(lambda: [secret.decrypt(c) for c in total])
    factor = len(weights) / len(values)
    width = -(-2 * key.public.bits // 8)
    return {
        "seal_cpu_s": seal * factor,
        "open_cpu_s": open_ * factor,
        "add_cpu_s": add * factor,
        "up_bytes": width * len(weights),
        "down_bytes": width * len(weights),
        "error": float(np.abs(np.array(opened) / offices - np.array(values)).max()),
    }


def _scheme_costs(
    scheme: Scheme, vectors: Sequence[NDArray[np.float64]], want: NDArray[np.float64]
) -> dict[str, float]:
    k, server = len(vectors), scheme.public_side()
    sealed, seal = _cpu(lambda: [scheme.seal(v, 1 / k) for v in vectors])

    def work() -> Any:
        for message in sealed:
            server.check(message)
        return server.add(sealed)

    total, add = _cpu(work)
    got, open_ = _cpu(lambda: scheme.open(total, 1.0))
    return {
        "seal_cpu_s": seal / k,
        "open_cpu_s": open_,
        "add_cpu_s": add,
        "up_bytes": float(np.mean([sum(map(len, m)) for m in sealed])),
        "down_bytes": float(sum(map(len, total))),
        "error": float(np.abs(got - want).max()),
    }


def aggregation_costs(
    vectors: Sequence[NDArray[np.float64]],
    *,
    key: paillier.PrivateKey,
    output_starts: int,
    sample: int = 40,
    threshold: int | None = None,
    replicate: int = 0,
) -> pd.DataFrame:
    """One round of adding the offices' weights, by every method, on the same vectors.

    Parameters
    ----------
    vectors : sequence of arrays, one per office, shapes (parameters,)
    key : PrivateKey
        The offices' shared key.
    output_starts : int
        For encryption of the output layer only.
    sample : int
        Weights on which naive python-paillier is timed.
    threshold : int, optional
        Offices that decrypt together; None leaves the threshold variant out.

    Returns
    -------
    Rows by method: seal_cpu_s, open_cpu_s (of one office), add_cpu_s (server), up_bytes, down_bytes
    (of one office), error (largest, of the mean). In the threshold variant opening is the office's
    contribution to the decryption plus combining.
    """
    k, count = len(vectors), len(vectors[0])
    want = np.mean(vectors, axis=0)
    whole = Paillier.of(key, count, offices=k)
    found = {
        "plain": _scheme_costs(Plain(count), vectors, want),
        "Paillier, one weight each (phe)": naive_phe(
            vectors[0], key=key, offices=k, sample=min(sample, count)
        ),
        "Paillier, packed, fresh noise": _scheme_costs(
            replace(whole, noise="fresh"), vectors, want
        ),
        "Paillier, packed, short noise": _scheme_costs(whole, vectors, want),
        "Paillier, output layer only": _scheme_costs(
            replace(whole, encrypted_from=output_starts), vectors, want
        ),
    }
    if importlib.util.find_spec("tenseal"):  # no wheel for every platform
        found["CKKS"] = _scheme_costs(Ckks.generate(count), vectors, want)
    for name, dead in (("masking", ()), ("masking, one drops out", (k,))):
        got = masking.aggregate(vectors, dies_before_masking=dead)
        alive = [v for i, v in enumerate(vectors, 1) if i not in dead]
        found[name] = {
            "seal_cpu_s": got.office_cpu_s,
            "open_cpu_s": 0.0,
            "add_cpu_s": got.server_cpu_s,
            "up_bytes": got.up_bytes,
            "down_bytes": got.down_bytes,
            "error": float(np.abs(got.total / len(alive) - np.mean(alive, axis=0)).max()),
        }
    if threshold is not None:
        name = f"Paillier, {threshold} of {k} decrypt"
        found[name] = _threshold_costs(vectors, want, threshold, key.public.bits)
    return _frame(
        [
            {"method": method, "replicate": replicate, "metric": m, "value": v}
            for method, costs in found.items()
            for m, v in costs.items()
        ]
    )


def _threshold_costs(
    vectors: Sequence[NDArray[np.float64]], want: NDArray[np.float64], threshold: int, bits: int
) -> dict[str, float]:
    k = len(vectors)
    dealt, shares = paillier.deal(k, threshold, bits=bits, for_tests=bits < 2048)
    packing = paillier.Packing(key_bits=bits, max_terms=k, limit=1.0)
    sealed, seal = _cpu(
        lambda: [dealt.public.encrypt(v / k, packing, noise="short").to_bytes() for v in vectors]
    )
    total, add = _cpu(lambda: dealt.public.add(*(dealt.public.read(s) for s in sealed)))
    parts, share_s = _cpu(lambda: [dealt.partial(s, total) for s in shares[:threshold]])
    got, combine = _cpu(lambda: dealt.combine(total, parts))
    size = parts[0].size_bytes(dealt.public)
    return {
        "seal_cpu_s": seal / k,
        "open_cpu_s": share_s / threshold + combine,
        "add_cpu_s": add,
        "up_bytes": float(len(sealed[0]) + size),
        "down_bytes": float(len(total.to_bytes()) + threshold * size),
        "error": float(np.abs(got - want).max()),
    }


# --- leaks and defences ------------------------------------------------------------------------


def inversions(
    office: Office,
    network: Network,
    training: Training,
    *,
    batches: Sequence[int],
    seed: int,
    replicates: int,
    draws: int = 20_000,
) -> pd.DataFrame:
    """Share of records read off an update's first layer: one step on a batch, and one epoch on 64.

    Rows by update ("one step", "one epoch") and batch: recovered, relative_error (of hits).
    """
    records = []
    for replicate in range(replicates):
        rng = np.random.default_rng([seed, replicate, 11])
        for kind, b in [("one step", b) for b in batches] + [("one epoch", 64)]:
            rows = rng.choice(office.n, min(b, office.n), replace=False)
            x, y = office.X[rows], office.y[rows]
            before = network.initial(rng)
            if kind == "one step":
                after = before - training.learning_rate / len(y) * network.gradient(before, x, y)
            else:
                after = network.train(before, x, y, replace(training, batch_size=8), rng)
            change = attacks.secret_columns(network, before - after)
            found = attacks.invert_first_layer(*change, rng=rng, draws=draws)
            share, error = attacks.recovered(x, found)
            records += [
                {"update": kind, "batch": b, "replicate": replicate, "metric": m, "value": v}
                for m, v in (("recovered", share), ("relative_error", error))
                if not np.isnan(v)
            ]
    return _frame(records)


def backdoors(
    data: Windows,
    network: Network,
    training: Training,
    door: attacks.Backdoor,
    *,
    shares: Sequence[float],
    rounds: int,
    seed: int,
    replicates: int,
    boosts: Sequence[float] = (1.0, 4.0),
    offices: int = 4,
) -> pd.DataFrame:
    """A backdoor by one office under each rule of averaging.

    Rows by rule, poisoned (share of the office's rows), boost: backdoor_success, accuracy_pooled.
    """
    records = []
    for replicate in range(replicates):
        split = _offices(data, seed, replicate, offices=offices)
        everyone = pooled(split)
        rng = np.random.default_rng([seed, replicate, 13])
        for share in shares:
            bad = [door.poison(split[0], share=share, rng=rng), *split[1:]]
            for boost in boosts if share else (1.0,):
                for name, rule in robust.RULES.items():
                    tamper = {split[0].name: attacks.boosted(boost)} if boost != 1 else None
                    history = simulate(
                        bad,
                        network,
                        training,
                        Plain(network.parameters, rule=rule),
                        rounds=rounds,
                        seed=seed + replicate,
                        tamper=tamper,
                        evaluate_every=rounds,
                    )
                    end = network.evaluate(history.weights, everyone.X_test, everyone.y_test)
                    records += [
                        {
                            "rule": name,
                            "poisoned": float(share),
                            "boost": float(boost),
                            "replicate": replicate,
                            "metric": m,
                            "value": v,
                        }
                        for m, v in (
                            ("backdoor_success", door.success(network, history.weights, everyone)),
                            ("accuracy_pooled", end.accuracy),
                        )
                    ]
    return _frame(records)


def record_privacy(
    data: Windows,
    network: Network,
    training: Training,
    *,
    noise_multipliers: Sequence[float],
    rounds: int,
    seed: int,
    replicates: int,
    delta: float,
) -> pd.DataFrame:
    """DP-SGD in every office. Rows by noise_multiplier: epsilon, accuracy_pooled."""
    records = []
    for replicate in range(replicates):
        split = _offices(data, seed, replicate)
        everyone = pooled(split)
        for z in noise_multipliers:
            how = replace(training, noise_multiplier=z)
            history = simulate(
                split,
                network,
                how,
                Plain(network.parameters),
                rounds=rounds,
                seed=seed + replicate,
                evaluate_every=rounds,
            )
            end = network.evaluate(history.weights, everyone.X_test, everyone.y_test)
            records += [
                {"noise_multiplier": float(z), "replicate": replicate, "metric": m, "value": v}
                for m, v in (
                    ("epsilon", private.record_epsilon(split, how, rounds=rounds, delta=delta)),
                    ("accuracy_pooled", end.accuracy),
                )
            ]
    return _frame(records)


def office_privacy(
    data: Windows,
    network: Network,
    training: Training,
    *,
    epsilons: Sequence[float],
    offices: Sequence[int],
    clip: float,
    rounds: int,
    seed: int,
    replicates: int,
    delta: float,
) -> pd.DataFrame:
    """Noise that hides a whole office. Rows by epsilon and offices: accuracy_pooled,
    noise_to_signal, noise_multiplier."""
    records = []
    for epsilon in epsilons:
        how = private.office_level(epsilon, clip=clip, rounds=rounds, delta=delta)
        for k in offices:
            for replicate in range(replicates):
                split = _offices(data, seed, replicate, offices=k)
                everyone = pooled(split)
                history = private.train_office_level(
                    split, network, training, how, rounds=rounds, seed=seed + replicate
                )
                end = network.evaluate(history.weights, everyone.X_test, everyone.y_test)
                records += [
                    {
                        "epsilon": float(epsilon),
                        "offices": k,
                        "replicate": replicate,
                        "metric": m,
                        "value": v,
                    }
                    for m, v in (
                        ("accuracy_pooled", end.accuracy),
                        (
                            "noise_to_signal",
                            private.noise_to_signal(how, offices=k, parameters=network.parameters),
                        ),
                        ("noise_multiplier", how.noise_multiplier),
                    )
                ]
    return _frame(records)


def membership(
    data: Windows,
    network: Network,
    training: Training,
    *,
    noisy: Training,
    rounds: Sequence[int],
    seed: int,
    replicates: int,
) -> pd.DataFrame:
    """The loss attack of `pet_lab.mia` on the global model: training windows against others.

    Members and others must be alike, or the attack sees the person and not the membership: both are
    windows of the *same* people, half of which are held out here.

    Rows by training ("plain", "DP-SGD") and round: mia_auc, tpr_at_fpr_1_percent.
    """
    records = []
    for replicate in range(replicates):
        split = _offices(data, seed, replicate)
        rng = np.random.default_rng([seed, replicate, 17])
        inside = [rng.random(o.n) < 0.5 for o in split]
        halves = [replace(o, X=o.X[m], y=o.y[m]) for o, m in zip(split, inside, strict=True)]
        members = pooled(halves)
        others = pooled(
            [replace(o, X=o.X[~m], y=o.y[~m]) for o, m in zip(split, inside, strict=True)]
        )
        for name, how in (("plain", training), ("DP-SGD", noisy)):
            for length in rounds:
                weights = simulate(
                    halves,
                    network,
                    how,
                    Plain(network.parameters),
                    rounds=length,
                    seed=seed + replicate,
                    evaluate_every=length,
                ).weights
                scores = [
                    -mia.from_logits(network.logits(weights, o.X), o.y).loss
                    for o in (members, others)
                ]
                records += [
                    {
                        "training": name,
                        "round": length,
                        "replicate": replicate,
                        "metric": m,
                        "value": v,
                    }
                    for m, v in (
                        ("mia_auc", mia.auc(*scores)),
                        ("tpr_at_fpr_1_percent", mia.tpr_at_fpr(*scores, fpr=0.01)),
                    )
                ]
    return _frame(records)
