"""`pet-lab party`: two data holders and a linker as processes that speak over mutual TLS.

Secrets are read from files or the environment: no key is ever an argument, printed or logged.
"""
# ruff: noqa: PLR0917, B006 - typer reads options from the signature, with [] for "none"

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import msgspec
import numpy as np
import typer

from pet_lab.checks import between, positive, whole
from pet_lab.files import write_atomic
from pet_lab.parties.certificates import Credentials, TestAuthority, load, save
from pet_lab.parties.channel import Options
from pet_lab.parties.errors import PartyError
from pet_lab.parties.state import kept

from . import service
from .disclosure import OutputRules, QueryLog
from .engines import engine_named
from .linker import Linker, Query, combine
from .messages import NO_SESSION
from .protocol import VARIANTS, DataHolder, Link, PsiError, PsiOutcome, Role, Variant, ensure
from .session import check_file, check_variant, run_party
from .tokens import check_upload, tables_for_linkers, whole_numbers

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(
    help="Private set intersection between two data holders and a linker, over mutual TLS.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
Option = typer.Option
ANY_PORT = "127.0.0.1:0"
Folder = Annotated[
    Path | None,
    Option(
        help="Folder with ca.pem, cert.pem, key.pem.",
        envvar="PET_LAB_CREDENTIALS",
        show_envvar=True,
    ),
]
Data = Annotated[Path, Option(help="CSV file; every column is read as text.")]
EngineName = Annotated[
    str, Option("--engine", help="ecdh, ecdh-proved, rsa-3072, rsa-2048, openmined.")
]
Kept = Annotated[Path, Option(help="Session kept by serve or join.")]
Linkers = Annotated[list[str], Option("--linker", help="NAME@HOST:PORT; repeat for shares.")]
Columns = Annotated[list[str], Option("--column", help="Column to send; repeat.")]
Values = Annotated[
    list[str], Option("--value", help="COLUMN:DECIMALS, sent as additive shares; repeat.")
]
Labels = Annotated[
    list[str], Option("--label", help="COLUMN=LABEL, one of all its public labels; repeat.")
]
Bound = Annotated[
    int | None, Option("--value-bound", min=1, help="Clip values to this, as linkers ask.")
]
By = Annotated[list[str], Option("--by", help="PARTY:COLUMN to group by; repeat.")]
Total = Annotated[str | None, Option(help="PARTY:COLUMN to total instead of counting.")]
Separator = Annotated[str, Option(help="Between the fields of the CSV file; found if not given.")]


class UsageError(PsiError):
    """What the command was given is refused, before any other party heard of it."""


@contextlib.contextmanager
def as_usage() -> Iterator[None]:
    """What is refused inside is what the command was given: options, and what they name."""
    try:
        yield
    except (PartyError, ValueError) as error:
        raise UsageError(str(error)) from None


def in_one_sentence(work: Callable[..., None]) -> Callable[..., None]:
    """A refusal is one sentence on stderr; exit status 2 for a UsageError, else 1."""

    @functools.wraps(work)
    def refusing(*args: Any, **options: Any) -> None:
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
        try:
            work(*args, **options)
        except PartyError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(2 if isinstance(error, UsageError) else 1) from None

    return refusing


def _read(path: Path, separator: str) -> pd.DataFrame:
    from pet_lab.data import DataError, read_table

    try:
        return read_table(path, as_text=True, separator=separator or None).frame
    except (OSError, DataError) as error:
        raise PsiError(str(error)) from None


def _holder(
    name: str, data: Path, separator: str, on: Sequence[str]
) -> tuple[DataHolder, dict[str, str]]:
    """The file, its key columns under the names that the parties agreed on, and own -> agreed.

    A key column is written NAME, or OWN=NAME where the file calls it otherwise.
    """
    frame, names = _read(data, separator), {}
    for text in on:
        own, _, agreed = (text, "", "") if text in frame.columns else text.partition("=")
        names[own] = agreed or own
    DataHolder(name, frame).check_columns(names)
    for own, agreed in names.items():
        taken = own != agreed and agreed in frame.columns
        ensure(not taken, f"{name} has a column {agreed!r} beside {own!r}; rename or drop it.")
    return DataHolder(name, frame.rename(columns=names)), names


def _report(**items: Any) -> None:
    """Print one JSON line: what programs that start parties read."""
    typer.echo(json.dumps(items))


def _used() -> dict[str, float]:
    return {"cpu_s": round(time.process_time(), 3), "peak_mib": round(peak_mib(), 1)}


def peak_mib() -> float:
    """Largest memory that this process has held so far, in MiB."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / (1 << 20)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (1 << 20 if sys.platform == "darwin" else 1 << 10)  # macOS counts in bytes


@app.command()
@in_one_sentence
def certificates(
    folder: Annotated[Path, typer.Argument(help="Where to put one folder for each name.")],
    names: Annotated[list[str], typer.Argument(help="Names of the parties and linkers.")],
    days: Annotated[float, Option(help="Days until they expire.")] = 7,
) -> None:
    """Make a test authority and credentials for each name. For tests and demonstrations only."""
    authority = TestAuthority()
    with as_usage():
        positive(days=days)
        issued = {name: authority.issue(name, days=days) for name in names}
    for name, credentials in issued.items():
        save(credentials, folder / name)
    _report(event="certificates", folder=str(folder), names=names)


@app.command("serve")
@app.command("join")
@in_one_sentence
def hold_session(
    ctx: typer.Context,
    data: Data,
    on: Annotated[
        list[str],
        Option(help="Key column, or OWN=NAME where the peer calls it NAME; repeat for several."),
    ],
    peer: Annotated[str, Option(help="Name in the peer's certificate.")],
    address: Annotated[
        str,
        Option(
            "--listen", "--connect", help="HOST:PORT that serve opens (0: any), or that join calls."
        ),
    ] = "",
    credentials: Folder = None,
    engine: EngineName = "ecdh",
    variant: Annotated[str, Option(help=", ".join(VARIANTS))] = "psi",
    state: Annotated[
        Path | None, Option(help="Keep the session here for `send` and `query` (mode 0600).")
    ] = None,
    out: Annotated[Path | None, Option(help="Write the rows of the intersection here.")] = None,
    linkers: Linkers = [],
    columns: Columns = [],
    values: Values = [],
    labels: Labels = [],
    value_bound: Bound = None,
    by: By = [],
    total: Total = None,
    separator: Separator = "",
    timeout: Annotated[float, Option(help="Seconds to wait for a message.")] = 120,
    wait: Annotated[
        float | None, Option(help="Seconds until the peer appears; serve 600, join 60.")
    ] = None,
    delay: Annotated[
        float, Option(help="One-way delay of every message in ms, to study slow lines.")
    ] = 0,
) -> None:
    """Hold one session: serve waits for the peer, join connects to it; then send and query."""
    role: Role = "responder" if ctx.info_name == "serve" else "initiator"
    begun = time.monotonic()
    with as_usage():  # whatever can be wrong here, before the peer or a linker hears anything
        patience = wait if wait is not None else 600 if role == "responder" else 60
        calls = role == "responder" or address
        ensure(calls, "join needs the address of a peer that serves: --connect HOST:PORT.")
        service.host_and_port(address or ANY_PORT)
        positive(timeout=timeout)
        between(0, 1e6, wait=patience, delay=delay)
        mine = load(credentials)
        holder, names = _holder(mine.name, data, separator, on)
        agreed = list(names.values())
        rowless = out is not None and variant == "cardinality"
        ensure(not rowless, "--out needs rows; cardinality returns only a count.")
        speaker = engine_named(engine, strangers=True)
        check_variant(speaker, variant)
        needs_rows = linkers or (out is not None and role == "responder")
        ensure(
            speaker.symmetric or not needs_rows,
            f"The engine {engine} tells the party that joins only, so the other has no rows for "
            "--out or a linker; use ecdh, ecdh-proved or rsa-3072.",
        )
        enriches = variant == "enrichment"
        check_file(holder, on=agreed, columns=columns if enriches else (), unique=enriches)
        useless = bool(columns and not enriches) or bool(values or by or total)
        ensure(linkers or not useless, "Columns, values and queries need a linker; name --linker.")
        ensure(by or not total, "A total is by something; name --by PARTY:COLUMN.")
        remote = _remote(linkers, mine)
        upload = _upload(holder, columns, values, labels, value_bound, remote) if remote else {}
        if by:
            for owner, colon, column in (
                text.partition(":") for text in [*by, *filter(None, [total])]
            ):
                ours = {mine.name: {*columns, *upload["values"]}}
                known = owner == peer or column in ours.get(owner, ())
                ensure(
                    colon and known,
                    f"A query names a column that {mine.name} or {peer} sends, as PARTY:COLUMN; "
                    f"{owner[:40]}:{column[:40]} is none.",
                )
            Query.of(NO_SESSION, by, total)
    for one in remote:
        one.check(wait_s=patience)
    speak = functools.partial(
        run_party,
        speaker,
        holder=holder,
        role=role,
        on=agreed,
        variant=cast(Variant, variant),
        columns=columns if enriches else (),
    )
    options = Options(timeout_s=timeout, delay_s=delay / 1000)
    if role == "responder":
        outcome = service.serve(
            speak,
            peer=peer,
            credentials=mine,
            listen=address or ANY_PORT,
            options=options,
            wait_s=patience,
            started=lambda port: _report(event="listening", port=port),
        )
    else:
        outcome = speak(service.connect(mine, peer, address, options=options, wait_s=patience))
    _report(
        event="session",
        party=outcome.party,
        peer=outcome.peer,
        session=outcome.session.hex(),
        cardinality="not known" if outcome.cardinality is None else outcome.cardinality,
        own_size=outcome.own_size,
        peer_size=outcome.peer_size,
        bytes_sent=sum(s.bytes_sent for s in outcome.stages),
        stage_cpu_s=round(sum(s.cpu_s for s in outcome.stages), 3),
        wall_s=round(time.monotonic() - begun, 3),
        **_used(),
    )
    if state is not None:
        write_atomic(state, _pack_state(outcome, on), secret=True)
    if out is not None and outcome.rows is not None:
        rows = _common_rows(holder, outcome, names).to_csv(index=False)
        write_atomic(out, rows.encode(), secret=True)
    if remote:
        _send(holder, outcome, agreed, remote, upload)
    if by:
        _query(outcome, remote, by, total)


def _common_rows(holder: DataHolder, outcome: PsiOutcome, names: Mapping[str, str]) -> pd.DataFrame:
    """The rows of the intersection, with the columns that the peer handed over for them."""
    rows, positions = outcome.rows, outcome.positions
    assert rows is not None
    assert positions is not None
    own = {agreed: name for name, agreed in names.items()}
    table = holder.frame.iloc[rows].reset_index(drop=True).rename(columns=own)
    if outcome.enriched is None:
        return table
    # Keys are unique in this variant and numbered as they appear: rows ascend as positions do.
    received = outcome.enriched.iloc[np.argsort(positions)].reset_index(drop=True)
    return table.join(
        received.rename(columns=lambda c: f"{outcome.peer}:{c}" if c in table.columns else c)
    )


@app.command()
@in_one_sentence
def linker(
    parties: Annotated[list[str], Option("--party", help="The two parties served.")],
    credentials: Folder = None,
    listen: Annotated[str, Option(help="HOST:PORT; port 0 takes a free one.")] = ANY_PORT,
    min_cell: Annotated[int, Option(help="Smallest count that is shown; 0 = all.")] = 10,
    epsilon: Annotated[float | None, Option(help="Noise per query; none without.")] = None,
    budget: Annotated[float, Option(help="Epsilon of all queries together.")] = 1.0,
    value_bound: Annotated[int | None, Option(help="Largest value of one row.")] = None,
    owner_total_min: Annotated[
        int, Option(help="Smallest group whose exact total its owner gets; 0 = all.")
    ] = 1000,
    exact_sessions: Annotated[
        int, Option(help="Sessions with answers without noise; more only for other files.")
    ] = 1,
    log: Annotated[Path | None, Option(help="Query log, JSON lines; read at start.")] = None,
) -> None:
    """Serve two parties until stopped: match rows, count, total, check what leaves."""
    with as_usage():
        ensure(
            len(parties) == 2,
            f"A linker serves two parties, got {len(parties)}; name both with --party.",
        )
        rules = OutputRules(
            min_cell=min_cell,
            epsilon_per_query=epsilon,
            epsilon_total=budget,
            value_bound=value_bound,
            owner_total_min=owner_total_min,
            exact_sessions=exact_sessions,
        )
        mine = load(credentials)
        service.host_and_port(listen)
        queries = QueryLog.open(log) if log is not None else QueryLog()
        served = Linker((parties[0], parties[1]), rules=rules, log=queries)
    server = service.LinkerServer(served, mine, listen)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    _report(event="listening", port=server.port)
    stop.wait()
    server.close()
    _report(event="stopped", **_used())


@app.command()
@in_one_sentence
def send(
    state: Kept,
    data: Data,
    linkers: Linkers,
    credentials: Folder = None,
    columns: Columns = [],
    values: Values = [],
    labels: Labels = [],
    value_bound: Bound = None,
    separator: Separator = "",
) -> None:
    """Send the tokens of the intersection to one linker, or shares to several."""
    with as_usage():
        mine = load(credentials)
        link, on = _unpack_state(state)
        holder, names = _holder(mine.name, data, separator, on)
        remote = _remote(linkers, mine)
        upload = _upload(holder, columns, values, labels, value_bound, remote)
    for one in remote:
        one.check()
    _send(holder, link, list(names.values()), remote, upload)


@app.command()
@in_one_sentence
def query(
    state: Kept, linkers: Linkers, by: By, credentials: Folder = None, total: Total = None
) -> None:
    """Ask the linkers for a table of counts or totals, and decrypt its labels."""
    with as_usage():
        link = _unpack_state(state)[0]
        remote = _remote(linkers, load(credentials))
        ensure(remote, "A query needs a linker; name it with --linker.")
        Query.of(link.session, by, total)
    _query(link, remote, by, total)


@app.command()
@in_one_sentence
def demo(
    rows: Annotated[int, Option(help="Records of each party; two thirds are common.")] = 1000,
    engine: EngineName = "ecdh",
) -> None:
    """Run two data holders and a linker on loopback ports with made-up data; show the answer."""
    import pandas as pd

    from . import end_to_end

    with as_usage():
        whole(3, rows=rows)
        engine_named(engine)
    rng = np.random.default_rng(1)
    ids = [f"{i:07d}" for i in range(rows + rows // 3)]
    left = pd.DataFrame({"id": ids[:rows], "tariff": rng.choice(["100", "300"], rows)})
    right = pd.DataFrame({"id": ids[rows // 3 :][:rows], "size": rng.choice(["S", "L"], rows)})
    outcome = end_to_end.run(
        DataHolder("statcan", left),
        DataHolder("cbs", right),
        on=["id"],
        by=["cbs:size", "statcan:tariff"],
        columns={"statcan": ["tariff"], "cbs": ["size"]},
        engine=engine,
        separate=True,
    )
    typer.echo(f"{outcome.cardinality} common records; the linker's answer to cbs:")
    typer.echo(outcome.table.to_string(index=False))
    typer.echo(outcome.costs.to_string(index=False))


def _remote(linkers: list[str], credentials: Credentials) -> list[service.RemoteLinker]:
    remote = []
    for text in linkers:
        name, _, address = text.partition("@")
        written = f"A linker is written NAME@HOST:PORT, got {text[:80]!r}."
        ensure(name and address, written)
        service.host_and_port(address)
        remote.append(service.RemoteLinker(name, address, credentials))
    return remote


def _upload(
    holder: DataHolder,
    columns: list[str],
    values: list[str],
    labels: list[str],
    value_bound: int | None,
    linkers: Sequence[service.RemoteLinker],
) -> dict[str, Any]:
    """What `tables_for_linkers` takes beside the session, checked against the whole file."""
    public: dict[str, list[str]] = {}
    for text in labels:
        column, equals, label = text.partition("=")
        ensure(equals, f"A public label is written COLUMN=LABEL, got {text[:80]!r}.")
        public.setdefault(column, []).append(label)
    upload: dict[str, Any] = {
        "columns": columns,
        "values": whole_numbers(holder, values),
        "public": public,
        "linkers": len(linkers),
    }
    check_upload(holder, **upload)
    return upload | {"value_bound": value_bound}


def _send(
    holder: DataHolder,
    link: Link,
    on: list[str],
    linkers: Sequence[service.RemoteLinker],
    upload: dict[str, Any],
) -> None:
    tables = tables_for_linkers(holder, link, on=on, **upload)
    for table, one in zip(tables, linkers, strict=True):
        pairs, sent = one.send(table)
        _report(event="sent", linker=one.name, rows=len(table), pairs=pairs, bytes_sent=sent)


def _query(
    link: Link,
    linkers: Sequence[service.RemoteLinker],
    by: list[str],
    total: str | None,
) -> None:
    asked = Query.of(link.session, by, total)
    answers = []
    for one in linkers if total else linkers[:1]:
        one.wait_until_linked(link.session)
        answers.append(one.ask(asked))
    table = combine(answers, link.link_key)
    rows = json.loads(table.astype(object).where(table.notna(), None).to_json(orient="records"))
    _report(event="answer", table=rows, **_used())


def _pack_state(outcome: PsiOutcome, on: list[str]) -> bytes:
    fields = {f.name: getattr(outcome, f.name) for f in dataclasses.fields(Link)}
    return msgspec.msgpack.encode(
        (on, Link(**fields)), enc_hook=lambda a: a.astype("<i8").tobytes()
    )


def _unpack_state(path: Path) -> tuple[Link, list[str]]:
    def rows(_: type, raw: bytes) -> np.ndarray:
        return np.frombuffer(raw, dtype="<i8").astype(np.int64)

    session = functools.partial(msgspec.msgpack.decode, type=tuple[list[str], Link], dec_hook=rows)
    fix = "name the file that --state named there"
    on, link = kept(path, session, what="a session of serve or join", fix=fix)
    return link, on


if __name__ == "__main__":
    app()
