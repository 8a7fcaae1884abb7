"""Experiments on the service as functions from settings to rows: what the notebook argues with."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pet_lab.psi.certificates import TestAuthority, save

from . import clear, costs, sharing, wire
from .audit import Head, verify
from .errors import Cheating, MpcError, PartyLost, Refused
from .service import PERMISSIVE, Owned, Service, same
from .tasks import Column, Task, in_hours

LEVELS = ("north", "south", "west")
X_SCHEMA = {
    "id": Column(kind="key"),
    "region": Column(kind="category", levels=LEVELS),
    "age": Column(kind="number", low=0, high=100),
}
Y_SCHEMA = {
    "id": Column(kind="key"),
    "income": Column(kind="number", decimals=2, low=0, high=5000),
    "ill": Column(kind="number", low=0, high=1),
}
STATISTICS = {"key": "id", "join": "opened", "group": "region", "value": "income"}
LINEAR = {"key": "id", "join": "opened", "target": "income", "predictors": ["age", "region"]}
LOGISTIC = {"key": "id", "join": "opened", "target": "ill", "predictors": ["age"]}
SIZE = {"key": "id", "join": "opened"}


def example(n: int, seed: int) -> dict[str, Owned]:
    """Two made-up files of n records with four fifths of the keys in common.

    px: id, region, age. py: id, income (rises with age by 20 a year), ill (odds rise with age).
    """
    rng = np.random.default_rng(seed)
    people = n + n // 4
    ids = rng.permutation([f"P{i:06}" for i in range(people)])
    age = rng.integers(20, 80, people)
    income = np.clip(1000 + 20 * age + rng.normal(0, 400, people), 0, 5000).round(2)
    ill = (rng.random(people) < 1 / (1 + np.exp(-(age - 50) / 12))).astype(int)
    region = rng.choice(LEVELS, people, p=[0.5, 0.4, 0.1])
    region[n // 4 : n // 4 + 6] = LEVELS * 2  # every region has two people who are in both files
    x = pd.DataFrame({"id": ids, "region": region, "age": age}).iloc[:n]
    y = pd.DataFrame({"id": ids, "income": income, "ill": ill}).iloc[-n:]
    return {
        "px": Owned(x.sample(frac=1, random_state=seed), X_SCHEMA),
        "py": Owned(y.sample(frac=1, random_state=seed + 1), Y_SCHEMA),
    }


def in_the_clear(service: Service, function: str, parameters: Mapping[str, Any]) -> pd.DataFrame:
    """The answer of a trusted third party to the same question."""
    x, y = service.data.values()
    return clear.answer(function, parameters, x.frame, y.frame, {**x.schema, **y.schema})


def measured(service: Service, function: str, parameters: Mapping[str, Any], **terms: Any) -> dict:
    """One task: whether its answer equals the clear one, and its cost a processing party."""
    made = service.compute(function, parameters, **terms)
    want = in_the_clear(service, function, parameters)
    cost = made.costs.mean(numeric_only=True)
    return {
        "function": function,
        "join": str(parameters.get("join", "none")),
        "level": made.task.level,
        "model": made.task.model,
        "parties": made.task.k,
        "records": max(d.rows for d in made.task.inputs),
        "equal": same(made.table, want),
        "gap": _gap(made.table, want),
        **{c: float(cost[c]) for c in ("products", "rounds", "bytes", "cpu_s", "wall_s")},
        "estimated_s": float(made.estimate["seconds"]),
        "estimated_bytes": float(made.estimate["bytes"]),
    }


def _gap(a: pd.DataFrame, b: pd.DataFrame) -> float:
    """Largest relative difference of two answers."""
    x, y = (t.select_dtypes("number").to_numpy(float) for t in (a, b))
    return float(np.nanmax(np.abs(x - y) / np.maximum(np.abs(y), 1e-12))) if x.size else 0.0


def every_function(service: Service, *, iterations: int) -> pd.DataFrame:
    """The catalogue at its levels and joins, each against the clear answer."""
    tasks: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("join_size", SIZE, {}),
        ("joined_statistics", STATISTICS, {}),
        ("joined_statistics", STATISTICS, {"level": "checked"}),
        ("joined_statistics", {**STATISTICS, "join": "hidden"}, {}),
        ("joined_linear_regression", LINEAR, {}),
        ("joined_linear_regression", LINEAR, {"level": "checked"}),
        ("joined_linear_regression", {**LINEAR, "join": "hidden"}, {}),
        ("joined_logistic_regression", {**LOGISTIC, "iterations": iterations}, {}),
    ]
    return pd.DataFrame(measured(service, f, p, **t) for f, p, t in tasks)


def growth(processing: Sequence[Sequence[str]], sizes: Sequence[int], *, seed: int) -> pd.DataFrame:
    """Cost of the same statistics against the number of records and of processing parties."""
    rows = []
    for names in processing:
        with Service(names, example(sizes[0], seed)) as service:
            service.compute("join_size", SIZE)  # the first task also loads mpyc
            for n in sizes:
                for owner, owned in example(n, seed).items():
                    service.load(owner, owned)
                for parameters in (STATISTICS, {**STATISTICS, "join": "hidden"}):
                    rows.append(measured(service, "joined_statistics", parameters))
    return pd.DataFrame(rows)


def slopes(grown: pd.DataFrame) -> pd.DataFrame:
    """Exponent of the growth between the two largest sizes, for each setting."""
    made = {}
    for name, group in grown.groupby("setting"):
        part = group.nlargest(2, "records")
        x = np.log(part["records"].to_numpy(float))
        made[name] = {
            m: float(np.polyfit(x, np.log(part[m].to_numpy(float)), 1)[0])
            for m in ("bytes", "cpu_s")
        }
    return pd.DataFrame(made).T


def on_paper(sizes: Sequence[int], parties: Sequence[int]) -> pd.DataFrame:
    """What larger sizes would cost by the estimate, and whether ten minutes allow it."""
    rows = []
    for k, n, how in itertools.product(parties, sizes, ("opened", "hidden", "aligned")):
        task = paper_task(n, k, how)
        made = costs.estimate(task)
        rows.append(
            {"records": n, "parties": k, "join": how, "products": made.products}
            | {"gigabytes": made.bytes / 1e9, "seconds": made.seconds}
            | {"refused": bool(costs.too_long(task, 600.0))}
        )
    return pd.DataFrame(rows)


def paper_task(n: int, k: int, how: str) -> Task:
    """A task about files of n records that need not exist."""
    from .tasks import DataRef

    names = tuple(f"pp-{i + 1}" for i in range(k))
    refs = tuple(
        DataRef(owner=o, schema=s, rows=n, commitments=("",) * k)
        for o, s in (("px", X_SCHEMA), ("py", Y_SCHEMA))
    )
    return Task(
        function="joined_statistics",
        parameters={**STATISTICS, "join": how},
        inputs=refs,
        output_party="pz",
        processing_parties=names,
        expires=in_hours(1),
    )


def of_five(*, n: int, seed: int) -> pd.DataFrame:
    """Of five parties one sends a wrong share of the answer; of three others one dies."""
    names, rows = [f"pp-{i + 1}" for i in range(5)], []
    with Service(names, example(n, seed)) as service:
        for what, faults, seats in (
            ("a wrong share of the answer, one of five", {"pp-4": ["wrong_result"]}, names),
            ("a party dies in the middle", {"pp-3": ["die"]}, names[:3]),
            ("a party is missing", {}, names[:3]),
        ):
            for name, how in faults.items():
                service.set(name, faults=how)
            rows.append({"attempt": what, **outcome(_size_by(service, seats))})
    return pd.DataFrame(rows)


def _size_by(service: Service, seats: Sequence[str]) -> Callable[[], Any]:
    return lambda: service.compute("join_size", SIZE, processing_parties=list(seats))


def tidy(frame: pd.DataFrame, experiment: str, metrics: Sequence[str]) -> pd.DataFrame:
    """Long rows of one experiment, with every factor that any experiment has."""
    absent: dict[str, Any] = {k: v for k, v in FACTORS.items() if k not in frame}
    made = frame.assign(experiment=experiment, replicate=0, **absent)
    long = made.melt(
        id_vars=["experiment", *FACTORS, "replicate"],
        value_vars=list(metrics),
        var_name="metric",
    )
    return long.assign(value=long["value"].astype(float))


FACTORS: dict[str, str | int] = {
    "function": "none",
    "join": "none",
    "level": "none",
    "model": "none",
    "parties": 3,
    "records": 0,
    "attempt": "none",
    "sharing": "none",
    "coalition": 0,
    "way": "none",
}


# --- refusals and deviations ---------------------------------------------------------------------


def attempts(service: Service) -> pd.DataFrame:
    """Everything that must not work, tried on a running service of three: who said what."""
    pps = service.processing
    base = dict.fromkeys((pps[-1], "pz"), PERMISSIVE)
    only_size = replace(PERMISSIVE, functions=("join_size",))
    tries: list[tuple[str, dict[str, Any], Callable[[], Any]]] = [
        (
            "approved by two of three",
            {"policy": {pps[-1]: only_size}},
            lambda: service.compute("joined_statistics", STATISTICS),
        ),
        (
            "refused by one, and the output party insists",
            {"policy": {pps[-1]: only_size}, "faults": {"pz": ["push"]}},
            lambda: service.compute("joined_statistics", STATISTICS),
        ),
        ("a function that is not listed", {}, lambda: service.compute("median", SIZE)),
        (
            "one processing party",
            {},
            lambda: service.compute("join_size", SIZE, processing_parties=[pps[0]]),
        ),
        (
            "more than the privacy budget",
            {"policy": {pps[-1]: replace(PERMISSIVE, epsilon_total=0.1)}},
            lambda: service.compute("join_size", SIZE, epsilon=0.5),
        ),
        ("after it expired", {}, lambda: service.compute("join_size", SIZE, expires=in_hours(-1))),
        ("ten thousand records in each file", {}, lambda: too_large(service)),
        ("an approval used twice", {}, lambda: replay(service)),
        ("a log that its keeper changed", {}, lambda: tampered(service)),
        ("a log without its end", {}, lambda: tampered(service, cut=True)),
        ("a certificate of another authority", {}, lambda: stranger(service)),
        ("a certificate that has expired", {}, lambda: stranger(service, expired=True)),
        (
            "data changed after the approvals",
            {"faults": {"py": ["change_data"]}},
            lambda: service.compute("joined_statistics", STATISTICS),
        ),
        (
            "a wrong product, level checked",
            {"faults": {pps[1]: ["wrong_product"]}},
            lambda: service.compute("joined_statistics", STATISTICS, level="checked"),
        ),
        (
            "a wrong share of the answer",
            {"faults": {pps[1]: ["wrong_result"]}},
            lambda: service.compute("join_size", SIZE),
        ),
        (
            "a wrong share of an input",
            {"faults": {pps[2]: ["wrong_share"]}},
            lambda: service.compute("join_size", SIZE),
        ),
        ("a task with the excluded party", {}, lambda: service.compute("join_size", SIZE)),
    ]
    rows = []
    for what, setting, run in tries:
        for name, policy in setting.get("policy", {}).items():
            service.set(name, policy=policy)
        for name, faults in setting.get("faults", {}).items():
            service.set(name, faults=faults)
        rows.append({"attempt": what, **outcome(run)})
        for name in setting.get("policy", {}):
            service.set(name, policy=base[name])
        for name in setting.get("faults", {}):
            service.set(name, faults=[])
    return pd.DataFrame(rows)


def outcome(run: Callable[[], Any]) -> dict[str, Any]:
    """What happened: answered, refused, lost, or a deviation with its suspects."""
    try:
        made = run()
    except MpcError as error:
        kind = "refused"
        if isinstance(error, Cheating):
            kind = "deviation found"
        elif isinstance(error, PartyLost):
            kind = "party lost"
        named = error.suspects if isinstance(error, Cheating) else ()
        return {"outcome": kind, "named": ", ".join(named), "said": str(error)}
    suspects = tuple(getattr(made, "suspects", ()))
    return {
        "outcome": "corrected" if suspects else "answered",
        "named": ", ".join(suspects),
        "said": "",
    }


def too_large(service: Service, n: int = 10_000) -> None:
    """Ask about files of n records, and put the small ones back."""
    small = dict(service.data)
    for owner, owned in example(n, 1).items():
        service.load(owner, owned)
    try:
        service.compute("join_size", SIZE)
    finally:
        for owner, owned in small.items():
            service.load(owner, owned)


def replay(service: Service) -> None:
    """Send the approvals of a finished task a second time."""
    made = service.compute("join_size", SIZE)
    entries, _ = service.log(service.processing[0])
    approvals = [e for e in entries if e.kind == "started"][-1].body["approvals"]
    message = {"do": "open", "task": made.task.sha256, "approvals": approvals}
    service.nodes[service.output].order("send", to=service.processing[0], message=message)


def tampered(service: Service, *, cut: bool = False) -> None:
    """Verify a log in which an entry was changed, or from which the end was cut."""
    keeper, witness = service.processing[:2]
    entries, public = service.log(keeper)
    heads = [Head(**e.body) for e in service.log(witness)[0] if e.kind == "witnessed"]
    at = next(i for i, e in enumerate(entries) if e.kind == "approved")
    changed = entries[:at] if cut else [*entries]
    if not cut:
        changed[at] = replace(changed[at], body={**changed[at].body, "purpose": "another"})
    verify(changed, public, [h for h in heads if h.party == keeper])


def stranger(service: Service, *, expired: bool = False) -> None:
    """Knock at a processing party with a certificate that is not valid there.

    Raises
    ------
    Refused
        With what the party wrote in its log.
    """
    authority = service.authority if expired else TestAuthority("another authority")
    with tempfile.TemporaryDirectory() as folder:
        home = save(authority.issue("px", days=-1 if expired else 7), Path(folder) / "px")
        (home / "ca.pem").write_bytes(service.authority.certificate)
        member = next(m for m in service.members if m["name"] == service.processing[0])
        knock = wire.ask(wire.Doors("px", home), wire.Member(**member), {"do": "describe"}, [])
        with ThreadPoolExecutor(1) as pool:  # a notebook has an event loop of its own
            try:
                pool.submit(asyncio.run, knock).result()
            except MpcError:
                last = service.log(member["name"])[0][-1]
                if last.kind == "turned away":
                    raise Refused(f"{member['name']} noted: {last.body['why']}") from None
                raise


# --- coalitions -----------------------------------------------------------------------------------

SHARINGS = ("input in the safe", "numbers being computed", "sums, level all-but-one")


def coalitions(k: int, *, trials: int = 200) -> pd.DataFrame:
    """Share of trials in which a coalition of each size opens a secret, on real shares.

    The safe and sums are additive, K out of K; what is being computed are mpyc's Shamir shares with
    threshold (K - 1) // 2. A coalition does the best it can: it interpolates or adds what it has.
    """
    p, rows = sharing.prime(120), []
    for how, size in itertools.product(SHARINGS, range(1, k + 1)):
        opened = 0
        for _ in range(trials):
            secret = secrets.randbelow(1000)
            if how == SHARINGS[1]:
                shares = sharing.shamir(secret, k, (k - 1) // 2, p)
                guess = sharing.interpolate({i + 1: shares[i] for i in range(size)}, p)
            else:
                shares = [r[0] for r in sharing.split([secret], k, p)]
                guess = sum(shares[:size]) % p
            opened += guess == secret
        rows.append({"sharing": how, "coalition": size, "opened": opened / trials})
    return pd.DataFrame(rows)


def learnt(
    *, k: int, colluders: int, sharing_: str = SHARINGS[0], all_approved: bool = False
) -> pd.DataFrame:
    """What a coalition of processing parties learns, by K, its size and the state of the task."""
    colluders = min(colluders, k)
    threshold = (k - 1) // 2 if sharing_ == SHARINGS[1] else k - 1
    if sharing_ == SHARINGS[1] and k == 2:  # mpyc's threshold would be 0: a share is the secret
        return pd.DataFrame(
            [("numbers being computed", "not offered: two parties have no honest majority")],
            columns=["what", "coalition learns"],
        )
    falls = colluders > threshold
    blocked = "cannot be computed while one of them refuses" if colluders < k else "they approve"
    return pd.DataFrame(
        [
            ("keys they hold", f"{colluders} of {k}"),
            ("keys they need", f"{threshold + 1} of {k}"),
            (
                "the inputs",
                "everything" if falls and _exposed(sharing_, all_approved) else "nothing",
            ),
            ("a task without the others' approval", blocked),
        ],
        columns=["what", "coalition learns"],
    )


def _exposed(how: str, approved: bool) -> bool:
    return approved or how == SHARINGS[0]


# --- the same question four ways ---------------------------------------------------------------


def trusted_third_party(owned: Mapping[str, Owned]) -> dict[str, Any]:
    """Both files go to one party, which joins them."""
    texts = [o.frame.to_csv(index=False).encode() for o in owned.values()]
    begun, cpu = time.monotonic(), time.process_time()
    x, y = (o.frame for o in owned.values())
    table = clear.answer("joined_statistics", STATISTICS, x, y, {**X_SCHEMA, **Y_SCHEMA})
    return {
        "table": table,
        "bytes": float(sum(map(len, texts))),
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.monotonic() - begun,
    }


def with_linkers(owned: Mapping[str, Owned]) -> dict[str, Any]:
    """Private set intersection between the owners, totals by two linkers over shares."""
    from pet_lab.psi import Party
    from pet_lab.psi.processes import run

    x, y = (o.frame.astype(str) for o in owned.values())
    made = run(
        Party("px", x),
        Party("py", y),
        on=["id"],
        by=["px:region"],
        columns={"px": ["region"]},
        total="py:income",
        values={"py": ["income:2"]},
        min_cell=0,
    )
    return {
        "table": made.table,
        "bytes": float(made.costs["bytes_sent"].sum()),
        "cpu_s": float(made.costs["cpu_s"].sum()),
        "wall_s": made.wall_s,
    }
