"""A shared computation service that nobody controls alone (report, chapter 4, paragraphs 109-133).

Two owners with made-up files, an output party, and three or five processing parties, each a process
of its own. Measured: whether every function gives the answer of the clear data, what coalitions of
real shares open, what a task costs by size, parties and round trip, and that every attempt that
must not work is stopped. Shares and keys come from the system's generator, the files from the seed.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import os
import secrets
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from msgspec.structs import replace

from pet_lab import enclave, shares
from pet_lab.checks import between, distinct, require, whole
from pet_lab.data import DataError, open_pair
from pet_lab.mpc import catalogue, clear, costs, messages
from pet_lab.mpc.errors import Cheating, TaskError
from pet_lab.mpc.service import PERMISSIVE, Owned, Result, Service, heads
from pet_lab.mpc.tasks import ColumnSchema, DataRef, Task, check_table, in_hours
from pet_lab.parties import blocking
from pet_lab.parties.certificates import TestAuthority
from pet_lab.parties.errors import PartyError, PeerLost, Refused
from pet_lab.parties.log import verify
from pet_lab.psi import end_to_end
from pet_lab.psi.protocol import DataHolder
from pet_lab.rows import NOBODY, Claim, Rows, wide

from .deviating.__main__ import Faults, Send

TEXT = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
SCHEMAS = msgspec.convert(TEXT["columns"], dict[str, dict[str, ColumnSchema]])
LABELS, DATA, FACTORS = TEXT["labels"], TEXT["data"], TEXT["factors"]
MOST_SECONDS = 600.0  # of a task on own files
THREE = ("pp-1", "pp-2", "pp-3")
LEVELS = SCHEMAS["px"]["region"].levels
SHARINGS = ("input in the safe", "numbers being computed", "sums, level all-but-one")
DEVIATING = "pet_lab.studies.deviating"


@dataclass(frozen=True, kw_only=True)
class OwnTask:
    """Two files of a user's own with their declared columns, and which column is asked by which.

    question  key, group and value, as the function of the catalogue takes them
    """

    data: dict[str, Owned]
    question: dict[str, str]
    provenance: list[dict[str, Any]]
    reading: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How large the experiments are; the seed is the root of the made-up files."""

    records: int  # in each file
    sizes: Sequence[int]  # records in each file, for the growth of the cost
    many_parties: int
    iterations: int  # gradient steps of the logistic regression
    trials_per_coalition: int
    round_trips_ms: Sequence[float]
    seed: int
    own: OwnTask | None = None  # a user's files and question, in place of the made-up ones

    def __post_init__(self) -> None:
        whole(8, records=self.records)  # two matches in each region
        whole(3, many_parties=self.many_parties)
        whole(1, iterations=self.iterations, trials_per_coalition=self.trials_per_coalition)
        distinct(least=2, sizes=self.sizes)
        distinct(round_trips_ms=self.round_trips_ms)
        whole(8, sizes=min(self.sizes))
        whole(8, sizes=max(self.sizes))
        for milliseconds in self.round_trips_ms:
            between(0, 10_000, round_trips_ms=milliseconds)
        whole(0, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class ServiceStudy:
    """What the experiments gave: tidy rows, and what cannot be a number."""

    rows: pd.DataFrame
    decisions: pd.DataFrame  # party, its first answer, its answer under another policy
    answers: pd.DataFrame  # the same statistics by the service and in the clear
    fixed: Result  # a task of outsiders
    mixed: Result  # a task of users
    attempts: pd.DataFrame  # attempt, outcome, named, reason: what must not work
    audited: pd.DataFrame  # a verdict on each party's log


def parameters(function: str, join: str = "opened", **more: Any) -> dict[str, Any]:
    """What the study asks a function of the catalogue for."""
    return {"key": "id", "join": join, **TEXT["parameters"][function], **more}


SIZE, STATISTICS = parameters("join_size"), parameters("joined_statistics")
HIDDEN = {**STATISTICS, "join": "hidden"}


def own_task(left: str, right: str, *, columns: str, group: str, value: str) -> OwnTask | None:
    """A user's two files, checked against the columns declared for them; None without files.

    `columns` is the path of a TOML with the tables [px] and [py], as in the study's own TOML; one
    column of each, of the same name, is the key.
    """
    given = [name for name in (left, right, columns, group, value) if name]
    if not given:
        return None
    all_five = "Own files take left, right, columns, group and value together; "
    require(len(given) == 5, f"{all_five}{', '.join(given)} alone is not enough.", DataError)
    try:
        text = (Path(os.environ.get("PET_LAB_FOLDER", "")) / columns).read_text("utf-8")
        declared = msgspec.convert(tomllib.loads(text), dict[str, dict[str, ColumnSchema]])
    except (OSError, ValueError, msgspec.MsgspecError, TaskError) as error:
        raise DataError(f"The declaration of the columns cannot be read: {error}") from None
    require(
        set(declared) == {"px", "py"},
        f"The columns are declared in tables [px] and [py], got {', '.join(declared) or 'none'}.",
        DataError,
    )
    keys, numbers = [], []
    for schema in declared.values():
        keys.append([name for name, column in schema.items() if column.kind == "key"])
        numbers += [name for name, column in schema.items() if column.kind == "number"]
    one = "Declare one key in each file, of the same name in both."
    require(keys[0] == keys[1] and len(keys[0]) == 1, one, DataError)
    others = [[c for c in schema if c not in keys[0]] for schema in declared.values()]
    pair = open_pair(
        left, right, on=keys[0], left_columns=others[0], right_columns=others[1], numbers=numbers
    )
    assert pair is not None, "both files are named"
    data = {
        owner: Owned(frame, declared[owner])
        for owner, frame in zip(("px", "py"), (pair.left, pair.right), strict=True)
    }
    for owned in data.values():
        check_table(owned.frame, owned.schema)
    question = {"key": keys[0][0], "group": group, "value": value}
    refs = [
        DataRef(owner=owner, schema=dict(o.schema), rows=len(o.frame), commitments=("",) * 3)
        for owner, o in data.items()
    ]
    task = paper_task(1, 3, "hidden").with_data(*refs)
    task = replace(task, parameters={**HIDDEN, **question})
    catalogue.check(task)
    require(not (why := costs.too_long(task, MOST_SECONDS)), why, DataError)
    return OwnTask(data=data, question=question, provenance=pair.provenance, reading=pair.reading)


def simulate(settings: Settings) -> ServiceStudy:
    """Run all experiments; a user's own question is asked in the first ones."""
    rows, made_up = Rows(**FACTORS), example(settings.records, settings.seed)
    own = settings.own
    owned, question = (own.data, own.question) if own else (made_up, {})
    statistics = {**STATISTICS, **question}
    with Service(THREE, owned, module=DEVIATING) as service:
        # A task that one of three refuses, then the same under another policy of that party.
        service.set_policy("pp-3", replace(PERMISSIVE, functions=("join_size",)))
        first = service.decisions("joined_statistics", statistics)
        service.set_policy("pp-3", PERMISSIVE)
        fixed = service.compute("joined_statistics", statistics)
        for asked in TEXT["catalogue"]:
            if own and "regression" in asked["function"]:
                continue  # a user's question is a table
            steps = {"iterations": settings.iterations} if "logistic" in asked["function"] else {}
            measure(rows, "catalogue", service, question, **asked, **steps)
        if own:  # what must not work, and costs, are of the made-up files
            service.load(made_up)
            for join in ("opened", "hidden"):
                measure(rows, "four ways of MPC", service, join=join)
        attempts, audited = [tried(service, "three")], service.audit()
    with Service(("px", "py", "pz"), owned) as users:
        mixed = users.compute("joined_statistics", {**statistics, "join": "hidden"})
        measure(rows, "mixed model", users, question, join="hidden")
    owned = made_up
    many = tuple(f"pp-{i + 1}" for i in range(settings.many_parties))
    for names in (THREE, many):  # cost against the number of records and of processing parties
        with Service(names, example(settings.sizes[0], settings.seed)) as service:
            service.compute("join_size", SIZE)  # the first task also loads mpyc
            for n, join in itertools.product(settings.sizes, ("opened", "hidden")):
                service.load(example(n, settings.seed))
                measure(rows, "growth", service, join=join)
    for ms in settings.round_trips_ms:  # every message is delayed by half a round trip
        with Service(THREE, owned, delay_s=ms / 2000) as service:
            service.compute("join_size", SIZE)
            for join in ("opened", "hidden"):
                measure(rows, "network", service, join=join, round_trip_ms=ms)
    on_paper(rows, [1000, 10_000, 100_000], [3, settings.many_parties])
    for k in (3, settings.many_parties):
        coalitions(rows, k, settings.trials_per_coalition)
    five = [f"pp-{i + 1}" for i in range(5)]
    with Service(five, example(12, settings.seed), module=DEVIATING) as service:
        attempts.append(tried(service, "five"))
    table = pd.concat(attempts, ignore_index=True)
    for name, outcome, named, _ in table.itertuples(index=False):
        metrics = {"stopped": outcome != "answered", "named": named != ""}
        rows.add(experiment="attempts", attempt=name, metrics=metrics)
    four_ways(rows, made_up, "four ways of MPC" if own else "catalogue")
    asked_of = own.data if own else made_up
    expected, ends = (
        in_the_clear(asked_of, "joined_statistics", statistics),
        (", service", ", clear"),
    )
    decisions = pd.DataFrame([first, fixed.decisions], ["first", "then"]).T
    return ServiceStudy(
        rows=rows.frame(),
        decisions=decisions.reset_index(names="party"),
        answers=fixed.table.merge(expected, on=statistics["group"], suffixes=ends),
        fixed=fixed,
        mixed=mixed,
        attempts=table,
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
        "px": Owned(x.sample(frac=1, random_state=seed), SCHEMAS["px"]),
        "py": Owned(y.sample(frac=1, random_state=seed + 1), SCHEMAS["py"]),
    }


# --- answers and costs ----------------------------------------------------------------------------


def contributions(rows: pd.DataFrame) -> pd.DataFrame:
    """Who stands behind the rows of a user's own files, for the checks of a release.

    No row is an answer: those on the files measure a task that read every record, all others are of
    made-up files, of shares, or estimates.
    """
    of_files = rows["experiment"].isin(["catalogue", "mixed model"])
    units = rows["records"].astype(float).where(of_files, NOBODY)
    return rows.assign(units=units).drop(columns=["replicate", "value"])


def in_the_clear(data: Mapping[str, Owned], function: str, asked: dict[str, Any]) -> pd.DataFrame:
    """The answer of a trusted third party to the same question."""
    x, y = data.values()
    return clear.answer(function, asked, x.frame, y.frame, {**x.schema, **y.schema})


def measure(
    rows: Rows,
    experiment: str,
    service: Service,
    question: Mapping[str, str] | None = None,
    *,
    round_trip_ms: float = 0,
    **settings: Any,
) -> None:
    """One task: whether its answer is the clear one, and its cost a processing party."""
    function = settings.pop("function", "joined_statistics")
    level = settings.pop("level", "majority")
    asked = parameters(function, **settings)
    asked |= {name: given for name, given in (question or {}).items() if name in asked}
    result = service.compute(function, asked, level=level)
    expected = in_the_clear(service.data, function, asked)
    x, y = (t.select_dtypes("number").to_numpy(float) for t in (result.table, expected))
    rows.add(
        experiment=experiment,
        function=function,
        join=asked["join"],
        level=level,
        model=result.task.model,
        parties=result.task.k,
        records=max(d.rows for d in result.task.inputs),
        round_trip_ms=round_trip_ms,
        metrics={
            "equal": clear.same(result.table, expected),
            "gap": np.nanmax(np.abs(x - y) / np.maximum(np.abs(y), 1e-12)),
            **result.costs[["products", "rounds", "bytes", "cpu_s", "wall_s"]].mean(),
            "estimated_s": result.estimate.seconds,
            "estimated_bytes": result.estimate.bytes,
            "answer_s": result.wall_s,
        },
    )


def paper_task(n: int, k: int, join: str) -> Task:
    """A task about files of n records that need not exist."""
    x, y = (
        DataRef(owner=owner, schema=schema, rows=n, commitments=("",) * k)
        for owner, schema in SCHEMAS.items()
    )
    return Task(
        function="joined_statistics",
        parameters=parameters("joined_statistics", join),
        inputs=(x, y),
        output_party="pz",
        processing_parties=tuple(f"pp-{i + 1}" for i in range(k)),
        expires=in_hours(1),
    )


def on_paper(rows: Rows, sizes: Sequence[int], parties: Sequence[int]) -> None:
    """What larger sizes would cost by the estimate, and whether ten minutes allow it."""
    for k, n, join in itertools.product(parties, sizes, ("opened", "hidden", "aligned")):
        task = paper_task(n, k, join)
        cost, refused = costs.estimate(task), bool(costs.too_long(task, 600.0))
        metrics = {"products": cost.products, "gigabytes": cost.bytes / 1e9}
        metrics |= {"seconds": cost.seconds, "refused": refused}
        rows.add(experiment="on paper", join=join, parties=k, records=n, metrics=metrics)


def joined(inputs: Mapping[str, bytes]) -> bytes:
    """The program of the enclave: statistics by region of the owners' files, all of them CSV."""
    frames = {name: pd.read_csv(io.BytesIO(raw)) for name, raw in inputs.items()}
    data = {name: Owned(frame, SCHEMAS[name]) for name, frame in frames.items()}
    return in_the_clear(data, "joined_statistics", STATISTICS).to_csv(index=False).encode()


def four_ways(rows: Rows, owned: Mapping[str, Owned], experiment: str = "catalogue") -> None:
    """Total income by region four ways; what MPC costs, all parties together, is in the rows."""
    x, y = (o.frame for o in owned.values())
    cpu = time.process_time()
    table = in_the_clear(owned, "joined_statistics", STATISTICS)
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
    mpc = rows.frame().query(
        "experiment == @experiment and function == 'joined_statistics' and level == 'majority' "
        "and metric in ['bytes', 'cpu_s']"
    )
    for join, group in mpc.groupby("join", sort=False):
        of_all = group.set_index("metric")["value"] * group["parties"].iloc[0]
        rows.add(experiment="four ways", way=f"MPC of three, {join} join", metrics=of_all.to_dict())
    cpu = time.process_time()
    files = {name: o.frame.to_csv(index=False).encode() for name, o in owned.items()}
    session = enclave.compute(joined, files)
    assert clear.same(pd.read_csv(io.BytesIO(session.output)), table)
    cost = {"bytes": sum(session.sizes.values()), "cpu_s": time.process_time() - cpu}
    rows.add(experiment="four ways", way="attested enclave, simulated", metrics=cost)


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
        at: dict[str, Any] = {"sharing": sharing, "coalition": size, "parties": k}
        rows.add(experiment="coalitions", **at, metrics={"opened": opened / trials})


def learnt(
    *, k: int, colluders: int, sharing: str = SHARINGS[0], all_approved: bool = False
) -> tuple[pd.DataFrame, Claim]:
    """What a coalition of processing parties learns, by K, its size and the state of the task."""
    colluders, computing = min(colluders, k), sharing == SHARINGS[1]
    threshold = (k - 1) // 2 if computing else k - 1
    exposed = colluders > threshold and (all_approved or sharing == SHARINGS[0])
    blocked = "cannot be computed while one of them refuses" if colluders < k else "they approve"
    lines = {
        "keys they hold": f"{colluders} of {k}",
        "keys they need": f"{threshold + 1} of {k}",
        "the inputs": "everything" if exposed else "nothing",
        "a task without the others' approval": blocked,
    }
    if computing and k == 2:  # mpyc's threshold would be 0: a share is the secret
        lines = {sharing: "not offered: two parties have no honest majority"}
    claim = Claim(
        "{n} of {k} parties that collude learn everything about the inputs.",
        holds=exposed,
        otherwise="{n} of {k} parties that collude learn nothing about the inputs; it takes {needed}"
        "{approved}.",
        n=colluders,
        k=k,
        needed=threshold + 1,
        approved="" if all_approved or not computing else ", and the approval of all",
    )
    return pd.DataFrame(lines.items(), columns=["what", "coalition learns"]), claim


# --- what must not work ---------------------------------------------------------------------------


def attempt(
    service: Service,
    *,
    function: str = "join_size",
    policy: Mapping[str, Any] | None = None,
    fault: Sequence[str] = ("",),
    **terms: Any,
) -> Result:
    """Try a task while pp-3 has another policy, or a party misbehaves: (party, fault)."""
    party, *faults = fault
    if policy:
        service.set_policy("pp-3", replace(PERMISSIVE, **policy))
    if faults:
        service.order(party, Faults(tuple(faults)))
    try:
        return service.compute(function, parameters(function), **terms)
    finally:
        if policy:
            service.set_policy("pp-3", PERMISSIVE)
        if faults and service.processes[party].alive:
            service.order(party, Faults())


def too_large(service: Service, *, n: int) -> None:
    """Ask about files of n records, and put the small ones back."""
    small = dict(service.data)
    service.load(example(n, 1))
    try:
        service.compute("join_size", SIZE)
    finally:
        service.load(small)


def replay(service: Service) -> None:
    """Send the approvals of a finished task a second time."""
    result, party = service.compute("join_size", SIZE), service.processing[0]
    started = [e for e in service.log(party)[0] if e.kind == "started"][-1]
    request = {"do": "open", "task": result.task.sha256, "approvals": started.body["approvals"]}
    service.order(service.output, Send(party, request))


def tampered(service: Service, *, cut: bool = False) -> None:
    """Verify a log in which an entry was changed, or from which the end was cut."""
    keeper, witness = service.processing[:2]
    entries, public = service.log(keeper)
    at = next(i for i, e in enumerate(entries) if e.kind == "approved")
    other = replace(entries[at], body={**entries[at].body, "purpose": "another"})
    changed = entries[:at] if cut else [*entries[:at], other, *entries[at + 1 :]]
    verify(changed, keeper, public, heads(service.log(witness)[0], keeper))


def stranger(service: Service, *, expired: bool = False) -> None:
    """Knock with a certificate that is not valid; Refused with what the party wrote in its log."""
    authority = service.authority if expired else TestAuthority("another authority")
    issued = authority.issue("px", days=-1 if expired else 7)
    credentials = dataclasses.replace(issued, ca=service.authority.certificate)
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


def tried(service: Service, parties: str) -> pd.DataFrame:
    """What came of each attempt with so many parties: answered, refused, lost, or a deviation."""
    acts = {f.__name__: f for f in (attempt, too_large, replay, tampered, stranger)}
    lines = []
    for case in TEXT["attempts"][parties]:
        how = {"act": "attempt", **case}
        name, act = how.pop("attempt"), acts[how.pop("act")]
        try:
            suspects, reason = getattr(act(service, **how), "suspects", ()), ""
            outcome = "corrected" if suspects else "answered"
        except PartyError as error:
            suspects, reason = getattr(error, "suspects", ()), str(error)
            kinds: dict[type, str] = {Cheating: "deviation found", PeerLost: "party lost"}
            outcome = kinds.get(type(error), "refused")
        lines.append((name, outcome, ", ".join(suspects), reason))
    return pd.DataFrame(lines, columns=["attempt", "outcome", "named", "reason"])


# --- what is shown --------------------------------------------------------------------------------


def shown(rows: pd.DataFrame, experiment: str) -> pd.DataFrame:
    """The table of an experiment, with the columns and names that the study's TOML gives it."""
    how = {"columns": "metric", **TEXT["shown"][experiment]}
    part = rows[rows["experiment"] == experiment]
    if "metric" in how:
        part = part[part["metric"] == how["metric"]]
    table = wide(part, index=how["index"], columns=how["columns"])
    names = how.get("names", {c: c for c in table.columns.drop(how["index"])})
    table = table[[*how["index"], *names]]
    flags = dict.fromkeys({"equal", "refused"} & set(table), bool)
    return table.astype(flags).rename(columns=names)


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
    task, users = result.task, sorted({*result.task.owners, result.task.output_party})
    outsiders = [p for p in task.processing_parties if p not in users]
    roles = dict.fromkeys(outsiders, "processor")
    roles |= dict.fromkeys(users, "user" if outsiders else "user and processor")
    columns = [task.owners, outsiders, [task.output_party]] if outsiders else [users]
    return {"columns": columns, "roles": roles, "title": f"{task.model} model"}


def exponents(rows: pd.DataFrame, metric: str) -> tuple[float, float]:
    """Smallest and largest exponent of the growth between the two largest sizes."""
    part = rows.query("experiment == 'growth' and metric == @metric")
    last = part.pivot_table("value", "records", ["parties", "join"]).tail(2)
    slopes = np.diff(np.log(last.to_numpy()), axis=0) / np.diff(np.log(last.index))
    return float(slopes.min()), float(slopes.max())


def requirements() -> pd.DataFrame:
    """The respondents' requirements, held against this service: status, test, why."""
    return pd.DataFrame(TEXT["requirements"])


def ways(rows: pd.DataFrame) -> pd.DataFrame:
    """The same question four ways: cost of all parties together, and whom one must trust."""
    return pd.DataFrame(TEXT["ways"]).merge(shown(rows, "four ways"), on="way", how="left")


def _exact(rows: pd.DataFrame) -> pd.Series:
    part = rows.query("experiment == 'catalogue' and metric == 'equal'")
    return part.loc[~part["function"].str.contains("logistic"), "value"]


def headline(rows: pd.DataFrame, *, own: bool = False) -> Claim:
    """The verdict in one sentence; `own`: the tasks are of a user's files, the attempts are not."""
    exact, stopped = _exact(rows), shown(rows, "attempts")["stopped"]
    yours, made_up = (" on your files", ", on made-up files,") if own else ("", "")
    return Claim(
        f"{{equal:g}} of {{exact}} exact tasks{yours} equal the clear answer, {{stopped:g}} of {{attempts}} "
        f"forbidden attempts of our own{made_up} were stopped or corrected (wrong products at level checked "
        "only); by our own reading {met} of {wanted} requirements are met, {unmet} are not.",
        equal=exact.sum(),
        exact=len(exact),
        stopped=stopped.sum(),
        attempts=len(stopped),
        met=(requirements()["status"] == "met").sum(),
        wanted=len(requirements()),
        unmet=(requirements()["status"] == "not met").sum(),
    )


def takeaways(rows: pd.DataFrame, *, own: bool = False) -> list[Claim]:
    """What the rows bear out; `own`: the tasks are of a user's files, all else is of made-up ones."""
    yours, made_up = (" on your files", "On made-up files, ") if own else ("", "")
    leaks = shown(rows, "coalitions").query("parties == 3 and coalition == 2")
    safe, computed = (leaks[sharing].item() for sharing in SHARINGS[:2])
    exact, tasks = _exact(rows), shown(rows, "catalogue").set_index("level")
    products = tasks.query("function == 'joined_statistics' and join == 'opened'")["products"]
    tries = shown(rows, "attempts").set_index("attempt")
    named = tries["named"]
    low, high = exponents(rows, "products")
    paper = shown(rows, "on paper").query("records == 10_000 and parties == 3")
    seconds = paper.set_index("join")["estimated s"]
    return [
        Claim(
            "No approval, no computation is technical here: of random secrets in the safe, two of "
            "three parties opened {safe:.0%}. During the computation the bar is lower: they opened "
            "{computed:.0%} of what they compute on.",
            holds=safe == 0 and computed == 1,
            safe=safe,
            computed=computed,
        ),
        Claim(
            f"{{equal:g}} of {{n}} tasks{yours or ' other than the logistic regression'} give exactly the clear "
            "answer; the check against wrong products makes {ratio:.1f} times the products.",
            holds=exact.all(),
            equal=exact.sum(),
            n=len(exact),
            ratio=products["checked"] / products["majority"],
        ),
        Claim(
            f"{made_up}{{stopped:g}} of {{n}} forbidden attempts were stopped or corrected, {{named:g}} with a "
            "name. A wrong input share names its user, a wrong accusation its owner; a wrong "
            "product at level checked, or one wrong share of an answer among three, stops the task "
            "without a name; among five the wrong answer is corrected. At level majority a wrong "
            "product goes unnoticed, and was not tried.",
            holds=tries["stopped"].all()
            and named["a wrong share of an input"]
            and named["an owner accuses an honest party"]
            and not named["a wrong product, level checked"],
            stopped=tries["stopped"].sum(),
            n=len(tries),
            named=named.sum(),
        ),
        Claim(
            f"Scale is the honest limit (paragraph 129): products grow{' on made-up files' * own} with exponent "
            "{low:.1f} to {high:.1f} of the records. For 10,000 records a set intersection first is "
            "{times:,.0f} times cheaper than an opened join, and tells both owners who is in both.",
            holds=seconds["opened"] > 100 * seconds["aligned"],
            low=low,
            high=high,
            times=seconds["opened"] / seconds["aligned"],
        ),
    ]
