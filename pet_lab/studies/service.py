"""A shared computation service that nobody controls alone (report, chapter 4, paragraphs 109-133).

Two owners with made-up files, an output party, and three or five processing parties, each a process
of its own. Measured: whether every function gives the answer of the clear data, what coalitions of
real shares open, what a task costs by size, parties and round trip, and that every attempt that
must not work is stopped. Shares and keys come from the system's generator, the files from the seed.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import secrets
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from msgspec.structs import replace

from pet_lab import shares
from pet_lab.mpc import clear, costs, messages
from pet_lab.mpc.errors import Cheating
from pet_lab.mpc.policy import Policy
from pet_lab.mpc.service import PERMISSIVE, Owned, Result, Service, heads
from pet_lab.mpc.tasks import ColumnSchema, DataRef, Task, in_hours
from pet_lab.parties import blocking
from pet_lab.parties.certificates import TestAuthority
from pet_lab.parties.errors import PartyError, PeerLost, Refused
from pet_lab.parties.log import verify
from pet_lab.psi import end_to_end
from pet_lab.psi.protocol import DataHolder
from pet_lab.rows import Claim, Rows, wide

from .deviating.__main__ import Faults, Send

LABELS = {
    "bytes": "bytes sent by a party",
    "cpu_s": "CPU time of a party (s)",
    "wall_s": "time to the answer (s)",
    "records": "records in each file",
    "parties": "processing parties",
    "round_trip_ms": "round trip (ms)",
}
THREE = ("pp-1", "pp-2", "pp-3")
USERS = ("px", "py", "pz")
LEVELS = ("north", "south", "west")
X_SCHEMA = {
    "id": ColumnSchema(kind="key"),
    "region": ColumnSchema(kind="category", levels=LEVELS),
    "age": ColumnSchema(kind="number", low=0, high=100),
}
Y_SCHEMA = {
    "id": ColumnSchema(kind="key"),
    "income": ColumnSchema(kind="number", decimals=2, low=0, high=5000),
    "ill": ColumnSchema(kind="number", low=0, high=1),
}
SIZE = {"key": "id", "join": "opened"}
STATISTICS = {**SIZE, "group": "region", "value": "income"}
LINEAR = {**SIZE, "target": "income", "predictors": ["age", "region"]}
LOGISTIC = {**SIZE, "target": "ill", "predictors": ["age"]}
HIDDEN = {"join": "hidden"}
FACTORS: dict[str, Any] = {
    **dict.fromkeys(("function", "join", "level", "model"), "none"),
    **{"parties": 3, "records": 0, "attempt": "none", "sharing": "none", "coalition": 0},
    **{"way": "none", "round_trip_ms": 0},
}
SHARINGS = ("input in the safe", "numbers being computed", "sums, level all-but-one")
DEVIATING = "pet_lab.studies.deviating"
DATA = {
    "name": "two made-up files",
    "sha256": "",
    "kind": "generated",
    "licence": "CC0-1.0",
    "citation": "pet_lab.studies.service.example",
}


@dataclass(frozen=True, kw_only=True)
class ServiceStudy:
    """What the experiments gave: tidy rows, and what cannot be a number.

    owned      the two files
    decisions  party, its first answer, its answer under another policy
    answers    the same statistics by the service and in the clear
    fixed, mixed  a task of outsiders, and one of users, with their messages
    attempts   attempt, outcome, named, reason: what must not work
    audited    a verdict on each party's log
    """

    rows: pd.DataFrame
    owned: Mapping[str, Owned]
    decisions: pd.DataFrame
    answers: pd.DataFrame
    fixed: Result
    mixed: Result
    attempts: pd.DataFrame
    audited: pd.DataFrame


def simulate(
    *,
    records: int,
    sizes: Sequence[int],
    many_parties: int,
    iterations: int,
    trials_per_coalition: int,
    round_trips_ms: Sequence[float],
    seed: int,
) -> ServiceStudy:
    """Run all experiments.

    Parameters
    ----------
    records : records in each file
    sizes : records in each file, for the growth of the cost
    many_parties : the larger number of processing parties
    iterations : gradient steps of the logistic regression
    trials_per_coalition : secrets that each coalition tries to open
    round_trips_ms : round trips of the simulated networks
    seed : root of the made-up files
    """
    rows, owned = Rows(**FACTORS), example(records, seed)
    many = [f"pp-{i + 1}" for i in range(many_parties)]
    with Service(THREE, owned, module=DEVIATING) as service:
        decisions, fixed = two_of_three(service)
        catalogue(rows, service, iterations)
        attempts = forbidden(service)
        audited = service.audit()
        answers = fixed.table.merge(
            in_the_clear(service, "joined_statistics", STATISTICS),
            on="region",
            suffixes=(", service", ", clear"),
        )
    with Service(USERS, owned) as users:
        mixed = users.compute("joined_statistics", {**STATISTICS, **HIDDEN})
        measure(rows, "mixed model", users, "joined_statistics", {**STATISTICS, **HIDDEN})
    growth(rows, [THREE, many], sizes, seed)
    networks(rows, owned, round_trips_ms)
    on_paper(rows, [1000, 10_000, 100_000], [3, many_parties])
    for k in (3, many_parties):
        coalitions(rows, k, trials_per_coalition)
    attempts = pd.concat([attempts, of_five(n=12, seed=seed)], ignore_index=True)
    for one in attempts.to_dict("records"):
        metrics = {"stopped": one["outcome"] != "answered", "named": bool(one["named"])}
        rows.add(experiment="attempts", attempt=one["attempt"], metrics=metrics)
    four_ways(rows, owned)
    return ServiceStudy(
        rows=rows.frame(),
        owned=owned,
        decisions=decisions,
        answers=answers,
        fixed=fixed,
        mixed=mixed,
        attempts=attempts,
        audited=audited,
    )


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


# --- answers and costs ----------------------------------------------------------------------------


def two_of_three(service: Service) -> tuple[pd.DataFrame, Result]:
    """A task that one of three refuses, then the same under another policy of that party."""
    service.set_policy("pp-3", replace(PERMISSIVE, functions=("join_size",)))
    first = service.decisions("joined_statistics", STATISTICS)
    refused = outcome(lambda: service.compute("joined_statistics", STATISTICS))
    service.set_policy("pp-3", PERMISSIVE)
    result = service.compute("joined_statistics", STATISTICS)
    assert refused["outcome"] == "refused"
    decisions = {"party": THREE, "first": first.values(), "then": result.decisions.values()}
    return pd.DataFrame(decisions), result


def in_the_clear(service: Service, function: str, parameters: Mapping[str, Any]) -> pd.DataFrame:
    """The answer of a trusted third party to the same question."""
    x, y = service.data.values()
    return clear.answer(function, parameters, x.frame, y.frame, {**x.schema, **y.schema})


def measure(
    rows: Rows,
    experiment: str,
    service: Service,
    function: str,
    parameters: Mapping[str, Any],
    *,
    round_trip_ms: float = 0,
    **terms: Any,
) -> None:
    """One task: whether its answer is the clear one, and its cost a processing party."""
    result = service.compute(function, parameters, **terms)
    expected = in_the_clear(service, function, parameters)
    cost = result.costs.mean(numeric_only=True)
    rows.add(
        experiment=experiment,
        function=function,
        join=str(parameters.get("join", "none")),
        level=result.task.level,
        model=result.task.model,
        parties=result.task.k,
        records=max(d.rows for d in result.task.inputs),
        round_trip_ms=round_trip_ms,
        metrics={
            "equal": clear.same(result.table, expected),
            "gap": _gap(result.table, expected),
            **{c: cost[c] for c in ("products", "rounds", "bytes", "cpu_s", "wall_s")},
            "estimated_s": result.estimate.seconds,
            "estimated_bytes": result.estimate.bytes,
            "answer_s": result.wall_s,
        },
    )


def _gap(a: pd.DataFrame, b: pd.DataFrame) -> float:
    """Largest relative difference of two answers."""
    x, y = (t.select_dtypes("number").to_numpy(float) for t in (a, b))
    return float(np.nanmax(np.abs(x - y) / np.maximum(np.abs(y), 1e-12))) if x.size else 0.0


def catalogue(rows: Rows, service: Service, iterations: int) -> None:
    """Every function at its levels and joins."""
    for function, parameters, level in (
        ("join_size", SIZE, "majority"),
        ("joined_statistics", STATISTICS, "majority"),
        ("joined_statistics", STATISTICS, "checked"),
        ("joined_statistics", {**STATISTICS, **HIDDEN}, "majority"),
        ("joined_linear_regression", LINEAR, "majority"),
        ("joined_linear_regression", LINEAR, "checked"),
        ("joined_linear_regression", {**LINEAR, **HIDDEN}, "majority"),
        ("joined_logistic_regression", {**LOGISTIC, "iterations": iterations}, "majority"),
    ):
        measure(rows, "catalogue", service, function, parameters, level=level)


def growth(
    rows: Rows, processing: Sequence[Sequence[str]], sizes: Sequence[int], seed: int
) -> None:
    """Cost of the same statistics against the number of records and of processing parties."""
    for names in processing:
        with Service(names, example(sizes[0], seed)) as service:
            service.compute("join_size", SIZE)  # the first task also loads mpyc
            for n in sizes:
                for owner, owned in example(n, seed).items():
                    service.load(owner, owned)
                for parameters in (STATISTICS, {**STATISTICS, **HIDDEN}):
                    measure(rows, "growth", service, "joined_statistics", parameters)


def networks(rows: Rows, owned: Mapping[str, Owned], round_trips_ms: Sequence[float]) -> None:
    """The same statistics with every message delayed by half a round trip."""
    for ms in round_trips_ms:
        with Service(THREE, owned, delay_s=ms / 2000) as service:
            service.compute("join_size", SIZE)
            for more in ({}, HIDDEN):
                parameters = {**STATISTICS, **more}
                measure(rows, "network", service, "joined_statistics", parameters, round_trip_ms=ms)


def on_paper(rows: Rows, sizes: Sequence[int], parties: Sequence[int]) -> None:
    """What larger sizes would cost by the estimate, and whether ten minutes allow it."""
    for k, n, join in itertools.product(parties, sizes, ("opened", "hidden", "aligned")):
        task = paper_task(n, k, join)
        cost = costs.estimate(task)
        rows.add(
            experiment="on paper",
            join=join,
            parties=k,
            records=n,
            metrics={
                "products": cost.products,
                "gigabytes": cost.bytes / 1e9,
                "seconds": cost.seconds,
                "refused": bool(costs.too_long(task, 600.0)),
            },
        )


def paper_task(n: int, k: int, join: str) -> Task:
    """A task about files of n records that need not exist."""
    refs = [
        DataRef(owner=owner, schema=schema, rows=n, commitments=("",) * k)
        for owner, schema in (("px", X_SCHEMA), ("py", Y_SCHEMA))
    ]
    return Task(
        function="joined_statistics",
        parameters={**STATISTICS, "join": join},
        inputs=(refs[0], refs[1]),
        output_party="pz",
        processing_parties=tuple(f"pp-{i + 1}" for i in range(k)),
        expires=in_hours(1),
    )


def four_ways(rows: Rows, owned: Mapping[str, Owned]) -> None:
    """Total income by region four ways; what MPC costs, all parties together, is in the rows."""
    x, y = (o.frame for o in owned.values())
    cpu = time.process_time()
    table = clear.answer("joined_statistics", STATISTICS, x, y, {**X_SCHEMA, **Y_SCHEMA})
    size = sum(len(frame.to_csv(index=False).encode()) for frame in (x, y))
    cost = {"bytes": size, "cpu_s": time.process_time() - cpu}
    rows.add(experiment="four ways", way="trusted third party", metrics=cost)
    linked = end_to_end.run(  # px asks: exact totals of small groups are not for their owner
        DataHolder("py", y.astype(str)),
        DataHolder("px", x.astype(str)),
        on=["id"],
        by=["px:region"],
        columns={"px": ["region"]},
        total="py:income",
        values={"py": ["income:2"]},
        min_cell=0,
        separate=True,
    )
    totals = linked.table.set_index("region")["total"].astype(float) / 100
    assert (totals - table.set_index("region")["sum"]).abs().max() < 1e-6
    cost = {c: linked.costs[n].sum() for c, n in (("bytes", "bytes_sent"), ("cpu_s", "cpu_s"))}
    rows.add(experiment="four ways", way="set intersection, two linkers", metrics=cost)
    mpc = _part(rows.frame(), "catalogue").query(
        "function == 'joined_statistics' and level == 'majority' and metric in ['bytes', 'cpu_s']"
    )
    for join, group in mpc.groupby("join", sort=False):
        of_all = group.set_index("metric")["value"] * group["parties"].iloc[0]
        rows.add(experiment="four ways", way=f"MPC of three, {join} join", metrics=of_all.to_dict())


# --- coalitions -----------------------------------------------------------------------------------


def coalitions(rows: Rows, k: int, trials: int) -> None:
    """Share of trials in which a coalition of each size opens a secret, on real shares.

    The safe and sums are additive, K out of K; what is being computed are mpyc's Shamir shares with
    threshold (K - 1) // 2. A coalition does the best it can: it interpolates or adds what it has.
    """
    p, points = shares.mersenne_prime(120), range(1, k + 1)
    for sharing, size in itertools.product(SHARINGS, range(1, k + 1)):
        opened = 0
        for _ in range(trials):
            secret = secrets.randbelow(1000)
            if sharing == SHARINGS[1]:
                held = shares.shamir_split(secret, points, needed=(k - 1) // 2 + 1, modulus=p)
                guess = shares.interpolate({x: held[x] for x in points[:size]}, p)
            else:
                guess = sum(r[0] for r in shares.additive_split([secret], k, p)[:size]) % p
            opened += guess == secret
        rows.add(
            experiment="coalitions",
            sharing=sharing,
            coalition=size,
            parties=k,
            metrics={"opened": opened / trials},
        )


def learnt(
    *, k: int, colluders: int, sharing: str = SHARINGS[0], all_approved: bool = False
) -> pd.DataFrame:
    """What a coalition of processing parties learns, by K, its size and the state of the task."""
    columns = ["what", "coalition learns"]
    if sharing == SHARINGS[1] and k == 2:  # mpyc's threshold would be 0: a share is the secret
        line = ("numbers being computed", "not offered: two parties have no honest majority")
        return pd.DataFrame([line], columns=columns)
    colluders = min(colluders, k)
    threshold = (k - 1) // 2 if sharing == SHARINGS[1] else k - 1
    exposed = colluders > threshold and (all_approved or sharing == SHARINGS[0])
    blocked = "cannot be computed while one of them refuses" if colluders < k else "they approve"
    lines = [
        ("keys they hold", f"{colluders} of {k}"),
        ("keys they need", f"{threshold + 1} of {k}"),
        ("the inputs", "everything" if exposed else "nothing"),
        ("a task without the others' approval", blocked),
    ]
    return pd.DataFrame(lines, columns=columns)


# --- what must not work ---------------------------------------------------------------------------


def outcome(run: Callable[[], Any]) -> dict[str, str]:
    """What came of an attempt: answered, refused, lost, or a deviation with its suspects."""
    try:
        result = run()
    except Cheating as error:
        named = ", ".join(error.suspects)
        return {"outcome": "deviation found", "named": named, "reason": str(error)}
    except PartyError as error:
        kind = "party lost" if isinstance(error, PeerLost) else "refused"
        return {"outcome": kind, "named": "", "reason": str(error)}
    suspects = ", ".join(getattr(result, "suspects", ()))
    return {"outcome": "corrected" if suspects else "answered", "named": suspects, "reason": ""}


def attempt(
    service: Service,
    function: str = "join_size",
    parameters: Mapping[str, Any] = SIZE,
    *,
    policy: Policy | None = None,
    fault: tuple[str, str] | None = None,
    **terms: Any,
) -> Callable[[], Result]:
    """A task to try while pp-3 has another policy, or a party misbehaves: (party, fault)."""

    def run() -> Result:
        _set(service, policy, fault)
        try:
            return service.compute(function, parameters, **terms)
        finally:
            _set(service, policy and PERMISSIVE, fault and fault[:1])

    return run


def _set(service: Service, policy: Policy | None, fault: tuple[str, ...] | None) -> None:
    if policy is not None:
        service.set_policy("pp-3", policy)
    if fault is not None and service.processes[fault[0]].alive:
        service.order(fault[0], Faults(faults=fault[1:]))


def forbidden(service: Service) -> pd.DataFrame:
    """Everything that must not work, tried on a running service of three."""
    only_size = replace(PERMISSIVE, functions=("join_size",))
    poor = replace(PERMISSIVE, epsilon_total=0.1)
    ask = functools.partial(attempt, service)
    statistics = functools.partial(ask, "joined_statistics", STATISTICS)
    return _tried(
        {
            "approved by two of three": statistics(policy=only_size),
            "refused by one, and the output party insists": statistics(
                policy=only_size, fault=("pz", "push")
            ),
            "a function that is not listed": ask("median"),
            "one processing party": ask(processing_parties=list(service.processing[:1])),
            "more than the privacy budget": ask(policy=poor, epsilon=0.5),
            "after it expired": ask(expires=in_hours(-1)),
            "ten thousand records in each file": lambda: too_large(service),
            "an approval used twice": lambda: replay(service),
            "a log that its keeper changed": lambda: tampered(service),
            "a log without its end": lambda: tampered(service, cut=True),
            "a certificate of another authority": lambda: stranger(service),
            "a certificate that has expired": lambda: stranger(service, expired=True),
            "data changed after the approvals": statistics(fault=("py", "change_data")),
            "a wrong product, level checked": statistics(
                level="checked", fault=("pp-2", "wrong_product")
            ),
            "a wrong share of the answer": ask(fault=("pp-2", "wrong_result")),
            "a wrong share of an input": ask(fault=("pp-3", "wrong_share")),
            "a task with the excluded party": ask(),
        }
    )


def _tried(attempts: Mapping[str, Callable[[], Any]]) -> pd.DataFrame:
    return pd.DataFrame({"attempt": what, **outcome(run)} for what, run in attempts.items())


def of_five(*, n: int, seed: int) -> pd.DataFrame:
    """Of five parties one sends a wrong share of the answer; one dies; then an owner lies."""
    names = [f"pp-{i + 1}" for i in range(5)]
    with Service(names, example(n, seed), module=DEVIATING) as service:
        three = functools.partial(attempt, service, processing_parties=names[:3])
        return _tried(
            {
                "a wrong share of the answer, one of five": attempt(
                    service, fault=("pp-4", "wrong_result")
                ),
                "a party dies in the middle": three(fault=("pp-3", "die")),
                "a party is missing": three(),
                "an owner accuses an honest party": attempt(
                    service,
                    processing_parties=[*names[:2], names[4]],
                    fault=("px", "wrong_check_value"),
                ),
            }
        )


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
    result, party = service.compute("join_size", SIZE), service.processing[0]
    started = [e for e in service.log(party)[0] if e.kind == "started"][-1]
    request = {"do": "open", "task": result.task.sha256, "approvals": started.body["approvals"]}
    service.order(service.output, Send(to=party, message=request))


def tampered(service: Service, *, cut: bool = False) -> None:
    """Verify a log in which an entry was changed, or from which the end was cut."""
    keeper, witness = service.processing[:2]
    entries, public = service.log(keeper)
    at = next(i for i, e in enumerate(entries) if e.kind == "approved")
    other = replace(entries[at], body={**entries[at].body, "purpose": "another"})
    changed = entries[:at] if cut else [*entries[:at], other, *entries[at + 1 :]]
    verify(changed, keeper, public, heads(service.log(witness)[0], keeper))


def stranger(service: Service, *, expired: bool = False) -> None:
    """Knock at a processing party with a certificate that is not valid there.

    Raises
    ------
    Refused
        With what the party wrote in its log.
    """
    authority = service.authority if expired else TestAuthority("another authority")
    credentials = dataclasses.replace(
        authority.issue("px", days=-1 if expired else 7), ca=service.authority.certificate
    )
    member = service.members[service.processing[0]]
    try:
        with blocking.connect(credentials, member.name, member.host, member.port) as line:
            line.send(messages.Describe())
            line.receive(messages.Description)
    except PartyError:
        last = service.log(member.name)[0][-1]
        if last.kind == "turned away":
            raise Refused(f"{member.name} noted: {last.body['why']}") from None
        raise


# --- what is shown --------------------------------------------------------------------------------


def _part(rows: pd.DataFrame, experiment: str) -> pd.DataFrame:
    return rows[rows["experiment"] == experiment]


def schemas(owned: Mapping[str, Owned]) -> pd.DataFrame:
    """The columns of both files, as everybody may know them."""
    lines = [
        (owner, name, c.kind, ", ".join(c.levels) or (f"{c.low:g} to {c.high:g}" if c.high else ""))
        for owner, file in owned.items()
        for name, c in file.schema.items()
    ]
    return pd.DataFrame(lines, columns=["file", "column", "kind", "values"])


def places(result: Result) -> dict[str, Any]:
    """Who stands where in the picture of a task's messages, and in which role."""
    task, users = result.task, {*result.task.owners, result.task.output_party}
    outsiders = [p for p in task.processing_parties if p not in users]
    roles = {
        name: "user and processor" if name in task.processing_parties else "user" for name in users
    } | dict.fromkeys(outsiders, "processor")
    columns = [task.owners, outsiders, [task.output_party]] if outsiders else [sorted(users)]
    return {
        "columns": columns,
        "roles": dict(sorted(roles.items())),
        "title": f"{task.model} model",
    }


def opened(rows: pd.DataFrame) -> pd.DataFrame:
    """Share of secrets that a coalition opened: one line a coalition, one column a sharing."""
    part = _part(rows, "coalitions")
    return wide(part, index=["parties", "coalition"], columns="sharing")


def functions(rows: pd.DataFrame) -> pd.DataFrame:
    """Every function of the catalogue: whether exact, and its cost a party."""
    table = wide(_part(rows, "catalogue"), index=["function", "join", "level"])
    names = {
        "equal": "equal to the clear answer",
        "gap": "largest relative gap",
        "cpu_s": "CPU s a party",
    }
    columns = ["function", "join", "level", *names, "products", "rounds", "bytes"]
    return table[columns].astype({"equal": bool}).rename(columns=names)


def grown(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the growth experiment, for the picture."""
    return _part(rows, "growth")


def growth_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Measured cost of one party beside the estimate made before the run."""
    table = wide(grown(rows), index=["parties", "records", "join"])
    columns = ["products", "bytes", "estimated_bytes", "cpu_s", "wall_s", "estimated_s"]
    return table[["parties", "records", "join", *columns]]


def exponents(rows: pd.DataFrame, metric: str) -> tuple[float, float]:
    """Smallest and largest exponent of the growth between the two largest sizes."""
    part = grown(rows).query("metric == @metric")
    slopes = []
    for _, group in part.groupby(["parties", "join"]):
        last = group.sort_values("records").tail(2)
        slopes.append(np.polyfit(np.log(last["records"]), np.log(last["value"]), 1)[0])
    return float(min(slopes)), float(max(slopes))


def network_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Seconds from request to answer, by round trip and join."""
    part = _part(rows, "network").query("metric == 'answer_s'")
    table = wide(part, index="round_trip_ms", columns="join")
    return table.rename(columns={j: f"{j} join (s)" for j in ("opened", "hidden")})


def paper_table(rows: pd.DataFrame) -> pd.DataFrame:
    """The plan on paper."""
    table = wide(_part(rows, "on paper"), index=["parties", "records", "join"])
    return table.astype({"refused": bool}).rename(
        columns={
            "seconds": "estimated s",
            "gigabytes": "GB a party",
            "refused": "refused at ten minutes",
        }
    )


def ways(rows: pd.DataFrame) -> pd.DataFrame:
    """The same question four ways: cost of all parties together, and whom one must trust."""
    trust = _text("ways").set_index("way")
    cost = wide(_part(rows, "four ways"), index="way").set_index("way")
    return trust.join(cost.rename(columns={"cpu_s": "CPU s, all parties"})).reset_index()


def requirements() -> pd.DataFrame:
    """The respondents' requirements, held against this service: status, test, why."""
    return _text("requirements")


def _text(table: str) -> pd.DataFrame:
    text = Path(__file__).with_suffix(".toml").read_text("utf-8")
    return pd.DataFrame(tomllib.loads(text)[table])


def headline(rows: pd.DataFrame) -> Claim:
    """The verdict in one sentence."""
    exact, stopped = _exact(rows), _part(rows, "attempts").query("metric == 'stopped'")["value"]
    status = requirements()["status"]
    return Claim(
        "{equal} of {exact} exact tasks equal the clear answer, {stopped} of {attempts} forbidden "
        "attempts were stopped or corrected; {met} of {wanted} requirements are met, {unmet} are "
        "not.",
        equal=int(exact.sum()),
        exact=len(exact),
        stopped=int(stopped.sum()),
        attempts=len(stopped),
        met=int((status == "met").sum()),
        wanted=len(status),
        unmet=int((status == "not met").sum()),
    )


def _exact(rows: pd.DataFrame) -> pd.Series:
    part = _part(rows, "catalogue").query("metric == 'equal'")
    return part.loc[~part["function"].str.contains("logistic"), "value"]


def takeaways(rows: pd.DataFrame) -> list[Claim]:
    """What the rows bear out."""
    leaks = opened(rows).set_index(["parties", "coalition"])
    safe, computed = (leaks.loc[(3, 2), s] for s in SHARINGS[:2])
    exact = _exact(rows)
    cost = wide(_part(rows, "catalogue"), index=["function", "join", "level"]).set_index("level")
    plain = cost.query("function == 'joined_statistics' and join == 'opened'")["products"]
    tried = wide(_part(rows, "attempts"), index="attempt").set_index("attempt")
    low, high = exponents(rows, "products")
    paper = paper_table(rows).query("records == 10_000 and parties == 3").set_index("join")
    seconds = paper["estimated s"]
    network = network_table(rows)
    status = requirements()["status"].value_counts()
    return [
        Claim(
            "No approval, no computation is technical here: of what waits in the safe, two of "
            "three parties opened {safe:.0%}. During the computation the bar is lower: they opened "
            "{computed:.0%} of what they compute on.",
            holds=bool(safe == 0 and computed == 1),
            safe=safe,
            computed=computed,
        ),
        Claim(
            "{equal} of {n} tasks other than the logistic regression give exactly the clear "
            "answer; the check against wrong products makes {ratio:.1f} times the products.",
            holds=bool(exact.all()),
            equal=int(exact.sum()),
            n=len(exact),
            ratio=plain["checked"] / plain["majority"],
        ),
        Claim(
            "{stopped} of {n} forbidden attempts were stopped or corrected, {named} with a name. A "
            "wrong input share names its user, a wrong accusation its owner; a wrong product, or "
            "one wrong share of an answer among three, stops the task without a name; among five "
            "the wrong answer is corrected.",
            holds=bool(tried["stopped"].all())
            and bool(tried.loc["a wrong share of an input", "named"])
            and bool(tried.loc["an owner accuses an honest party", "named"])
            and not tried.loc["a wrong product, level checked", "named"],
            stopped=int(tried["stopped"].sum()),
            n=len(tried),
            named=int(tried["named"].sum()),
        ),
        Claim(
            "Scale is the honest limit (paragraph 129): products grow with exponent {low:.1f} to "
            "{high:.1f} of the records. For 10,000 records a set intersection first is "
            "{times:,.0f} times cheaper than an opened join, and tells both owners who is in both.",
            holds=bool(seconds["opened"] > 100 * seconds["aligned"]),
            low=low,
            high=high,
            times=seconds["opened"] / seconds["aligned"],
        ),
        Claim(
            "A network of {slow:g} ms round trip takes a task with opened join from {first:.1f} s "
            "at {fast:g} ms to {last:.1f} s: every exchange of messages and every round waits.",
            holds=len(network) > 1,
            otherwise="At {fast:g} ms round trip a task with opened join takes {first:.1f} s.",
            fast=network["round_trip_ms"].iloc[0],
            slow=network["round_trip_ms"].iloc[-1],
            first=network["opened join (s)"].iloc[0],
            last=network["opened join (s)"].iloc[-1],
        ),
        Claim(
            "{people} requirements are no matter of technology, and {unmet} are not met, such as "
            "an outside review, a common standard or probabilistic linkage.",
            people=status["organisational"],
            unmet=status["not met"],
        ),
    ]
