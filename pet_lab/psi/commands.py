"""`pet-lab party`: two data holders and a linker as processes that speak over mutual TLS.

Secrets are read from files or the environment: no key is ever an argument, printed or logged.
"""
# ruff: noqa: PLR0917, B006 - typer reads options from the signature, with [] for "none"

from __future__ import annotations

import functools
import json
import logging
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import msgspec
import numpy as np
import typer

from pet_lab.files import write_atomic
from pet_lab.parties.certificates import Credentials, TestAuthority, load, save
from pet_lab.parties.channel import Options
from pet_lab.parties.errors import PartyError

from . import service
from .disclosure import OutputRules, QueryLog
from .engines import engine_named
from .linker import Linker, Query, combine_totals
from .protocol import VARIANTS, DataHolder, PsiError, PsiOutcome, Role, Variant
from .session import run_party
from .tokens import tables_for_linkers

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(
    help="Private set intersection between two data holders and a linker, over mutual TLS.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Folder = Annotated[
    Path | None,
    typer.Option(
        help="Folder with ca.pem, cert.pem, key.pem.",
        envvar="PET_LAB_CREDENTIALS",
        show_envvar=True,
    ),
]
Data = Annotated[Path, typer.Option(help="CSV file; every column is read as text.")]
On = Annotated[list[str], typer.Option(help="Key column; repeat for a key of several columns.")]
Peer = Annotated[str, typer.Option(help="Name in the peer's certificate.")]
EngineName = Annotated[str, typer.Option("--engine", help="ecdh, rsa-3072, rsa-2048, openmined.")]
VariantName = Annotated[str, typer.Option("--variant", help=", ".join(VARIANTS))]
Out = Annotated[Path | None, typer.Option(help="Write the rows of the intersection here.")]
State = Annotated[
    Path | None, typer.Option(help="Keep the session here for `send` and `query` (mode 0600).")
]
Linkers = Annotated[list[str], typer.Option("--linker", help="NAME@HOST:PORT; repeat for shares.")]
Columns = Annotated[list[str], typer.Option("--column", help="Column to send; repeat.")]
Values = Annotated[
    list[str], typer.Option("--value", help="COLUMN:DECIMALS, sent as additive shares; repeat.")
]
Labels = Annotated[
    list[str],
    typer.Option("--label", help="COLUMN=LABEL, one of all its public labels; repeat."),
]
Bound = Annotated[
    int | None, typer.Option("--value-bound", min=1, help="Clip values to this, as linkers ask.")
]
By = Annotated[list[str], typer.Option("--by", help="PARTY:COLUMN to group by; repeat.")]
Total = Annotated[str | None, typer.Option(help="PARTY:COLUMN to total instead of counting.")]
Separator = Annotated[
    str, typer.Option(help="Between the fields of the CSV file; found if not given.")
]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds to wait for a message.")]
Wait = Annotated[float, typer.Option("--wait", help="Seconds to wait for the peer to appear.")]
Listen = Annotated[str, typer.Option(help="HOST:PORT; port 0 takes a free one.")]
Delay = Annotated[
    float, typer.Option(help="One-way delay of every message in ms, to study slow lines.")
]


def _variant(name: str) -> Variant:
    if name not in VARIANTS:
        raise PsiError(f"Variants are {', '.join(VARIANTS)}, got {name[:40]!r}.")
    return cast(Variant, name)


def _read(path: Path, separator: str) -> pd.DataFrame:
    from pet_lab.data import DataError, read_table

    try:
        return read_table(path, as_text=True, separator=separator or None).frame
    except (OSError, DataError) as error:
        raise PsiError(str(error)) from None


def _run(work: Callable[[], None]) -> None:
    """Do the work; a refusal is one sentence on stderr and exit status 1."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        work()
    except PartyError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


def _report(**items: Any) -> None:
    """Print one JSON line: what programs that start parties read."""
    typer.echo(json.dumps(items))


def _used() -> dict[str, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    per_mib = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return {
        "cpu_s": round(used.ru_utime + used.ru_stime, 3),
        "peak_mib": round(used.ru_maxrss / per_mib, 1),
    }


@app.command()
def certificates(
    folder: Annotated[Path, typer.Argument(help="Where to put one folder for each name.")],
    names: Annotated[list[str], typer.Argument(help="Names of the parties and linkers.")],
    days: Annotated[float, typer.Option(help="Days until they expire.")] = 7,
) -> None:
    """Make a test authority and credentials for each name. For tests and demonstrations only."""

    def work() -> None:
        authority = TestAuthority()
        for name in names:
            save(authority.issue(name, days=days), folder / name)
        _report(event="certificates", folder=str(folder), names=names)

    _run(work)


def _hold_session(
    role: Literal["initiator", "responder"],
    *,
    data: Path,
    on: list[str],
    peer: str,
    address: str,
    credentials: Path | None,
    engine: str,
    variant: str,
    state: Path | None,
    out: Path | None,
    linkers: list[str],
    columns: list[str],
    values: list[str],
    labels: list[str],
    value_bound: int | None,
    by: list[str],
    total: str | None,
    separator: str,
    timeout: float,
    wait: float,
    delay: float,
) -> None:
    """One session, then what may follow in the same process: files, uploads, one query."""
    mine, begun = load(credentials), time.monotonic()
    holder = DataHolder(mine.name, _read(data, separator))
    if out is not None and variant == "cardinality":
        raise PsiError("--out needs rows; cardinality returns only a count.")
    speaker = engine_named(engine)
    if not speaker.symmetric and (linkers or (out is not None and role == "responder")):
        raise PsiError(
            f"The engine {engine} tells the party that joins only, so the other has no rows for "
            "--out or a linker; use ecdh or rsa-3072."
        )
    speak = functools.partial(
        run_party,
        speaker,
        holder=holder,
        role=role,
        on=on,
        variant=_variant(variant),
        columns=columns if variant == "enrichment" else (),
    )
    options = Options(timeout_s=timeout, delay_s=delay / 1000)
    more: dict[str, Any] = {"peer": peer, "credentials": mine, "options": options, "wait_s": wait}
    if role == "responder":
        outcome = service.serve(
            speak,
            listen=address,
            started=lambda port: _report(event="listening", port=port),
            **more,
        )
    else:
        outcome = service.join(speak, address=address, **more)
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
    if out is not None and outcome.positions is not None:
        write_atomic(
            out, _common_rows(holder, outcome, on).to_csv(index=False).encode(), secret=True
        )
    if linkers:
        _send(holder, outcome, mine, on, linkers, columns, values, labels, value_bound)
    if by:
        _query(outcome, mine, linkers, by, total)


def _common_rows(holder: DataHolder, outcome: PsiOutcome, on: list[str]) -> pd.DataFrame:
    """The rows of the intersection, with the columns that the peer handed over for them."""
    keys, positions = holder.key_set(on), outcome.positions
    assert positions is not None
    rows = keys.rows_of(positions)
    table = holder.frame.iloc[rows].reset_index(drop=True)
    if outcome.enriched is None:
        return table
    place = np.empty(len(keys), dtype=np.int64)
    place[positions] = np.arange(len(positions))
    received = outcome.enriched.iloc[place[keys.codes[rows]]].reset_index(drop=True)
    return table.join(
        received.rename(columns=lambda c: f"{outcome.peer}:{c}" if c in table.columns else c)
    )


@app.command()
def serve(
    data: Data,
    on: On,
    peer: Peer,
    credentials: Folder = None,
    listen: Listen = "127.0.0.1:0",
    engine: EngineName = "ecdh",
    variant: VariantName = "psi",
    state: State = None,
    out: Out = None,
    linkers: Linkers = [],
    columns: Columns = [],
    values: Values = [],
    labels: Labels = [],
    value_bound: Bound = None,
    by: By = [],
    total: Total = None,
    separator: Separator = "",
    timeout: Timeout = 120,
    wait: Wait = 600,
    delay: Delay = 0,
) -> None:
    """Wait for the peer and hold one session; then, if linkers are named, send and query."""
    given = locals()
    given["address"] = given.pop("listen")
    _run(lambda: _hold_session("responder", **given))


@app.command()
def join(
    data: Data,
    on: On,
    peer: Peer,
    connect: Annotated[str, typer.Option(help="HOST:PORT of the peer that serves.")],
    credentials: Folder = None,
    engine: EngineName = "ecdh",
    variant: VariantName = "psi",
    state: State = None,
    out: Out = None,
    linkers: Linkers = [],
    columns: Columns = [],
    values: Values = [],
    labels: Labels = [],
    value_bound: Bound = None,
    by: By = [],
    total: Total = None,
    separator: Separator = "",
    timeout: Timeout = 120,
    wait: Wait = 60,
    delay: Delay = 0,
) -> None:
    """Connect to the peer and hold one session; then, if linkers are named, send and query."""
    given = locals()
    given["address"] = given.pop("connect")
    _run(lambda: _hold_session("initiator", **given))


@app.command()
def linker(
    parties: Annotated[list[str], typer.Option("--party", help="The two parties served.")],
    credentials: Folder = None,
    listen: Listen = "127.0.0.1:0",
    min_cell: Annotated[int, typer.Option(help="Smallest count that is shown; 0 = all.")] = 10,
    epsilon: Annotated[float | None, typer.Option(help="Noise per query; none without.")] = None,
    budget: Annotated[float, typer.Option(help="Epsilon of all queries together.")] = 1.0,
    value_bound: Annotated[int | None, typer.Option(help="Largest value of one row.")] = None,
    owner_total_min: Annotated[
        int, typer.Option(help="Smallest group whose exact total its owner gets; 0 = all.")
    ] = 1000,
    exact_sessions: Annotated[
        int, typer.Option(help="Sessions with answers without noise; more only for other files.")
    ] = 1,
    log: Annotated[Path | None, typer.Option(help="Query log, JSON lines; read at start.")] = None,
) -> None:
    """Serve two parties until stopped: match rows, count, total, check what leaves."""

    def work() -> None:
        if len(parties) != 2:
            raise PsiError(f"A linker serves two parties, got {len(parties)}.")
        try:
            rules = OutputRules(
                min_cell=min_cell,
                epsilon_per_query=epsilon,
                epsilon_total=budget,
                value_bound=value_bound,
                owner_total_min=owner_total_min,
                exact_sessions=exact_sessions,
            )
        except ValueError as error:
            raise PsiError(str(error)) from None
        queries = QueryLog.open(log) if log is not None else QueryLog()
        served = Linker((parties[0], parties[1]), rules=rules, log=queries)
        server = service.LinkerServer(served, load(credentials), listen)
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        _report(event="listening", port=server.port)
        stop.wait()
        server.close()
        _report(event="stopped", **_used())

    _run(work)


@app.command()
def send(
    state: Annotated[Path, typer.Option(help="Session kept by serve or join.")],
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

    def work() -> None:
        mine = load(credentials)
        outcome, on = _unpack_state(state)
        holder = DataHolder(mine.name, _read(data, separator))
        _send(holder, outcome, mine, on, linkers, columns, values, labels, value_bound)

    _run(work)


@app.command()
def query(
    state: Annotated[Path, typer.Option(help="Session kept by serve or join.")],
    linkers: Linkers,
    by: By,
    credentials: Folder = None,
    total: Total = None,
) -> None:
    """Ask the linkers for a table of counts or totals, and decrypt its labels."""
    _run(lambda: _query(_unpack_state(state)[0], load(credentials), linkers, by, total))


@app.command()
def demo(
    rows: Annotated[int, typer.Option(help="Records of each party; two thirds are common.")] = 1000,
    engine: EngineName = "ecdh",
) -> None:
    """Run two data holders and a linker on loopback ports with made-up data; show the answer."""

    def work() -> None:
        import pandas as pd

        from . import end_to_end

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

    _run(work)


def _split(linker: str) -> tuple[str, str]:
    name, _, address = linker.partition("@")
    if not name or not address:
        raise PsiError(f"A linker is written NAME@HOST:PORT, got {linker[:80]!r}.")
    return name, address


def _send(
    holder: DataHolder,
    outcome: PsiOutcome,
    credentials: Credentials,
    on: list[str],
    linkers: list[str],
    columns: list[str],
    values: list[str],
    labels: list[str],
    value_bound: int | None,
) -> None:
    public: dict[str, list[str]] = {}
    for text in labels:
        column, equals, label = text.partition("=")
        if not equals:
            raise PsiError(f"A public label is written COLUMN=LABEL, got {text[:80]!r}.")
        public.setdefault(column, []).append(label)
    from .end_to_end import whole_numbers

    tables = tables_for_linkers(
        holder,
        outcome,
        on=on,
        columns=columns,
        values=whole_numbers(holder, values),
        public=public,
        value_bound=value_bound,
        linkers=len(linkers),
    )
    for table, one in zip(tables, linkers, strict=True):
        name, address = _split(one)
        pairs, sent = service.send_table(
            table, linker=name, address=address, credentials=credentials
        )
        _report(event="sent", linker=name, rows=len(table), pairs=pairs, bytes_sent=sent)


def _query(
    outcome: PsiOutcome,
    credentials: Credentials,
    linkers: list[str],
    by: list[str],
    total: str | None,
) -> None:
    if not linkers:
        raise PsiError("A query needs a linker; name it with --linker.")
    asked = _checked_query(outcome, by, total)
    answers = []
    for one in linkers if total else linkers[:1]:
        name, address = _split(one)
        service.wait_until_linked(
            outcome.session, linker=name, address=address, credentials=credentials
        )
        answers.append(service.ask(asked, linker=name, address=address, credentials=credentials))
    table = combine_totals(answers, outcome) if total else answers[0].table(outcome.link_key)
    rows = json.loads(table.astype(object).where(table.notna(), None).to_json(orient="records"))
    _report(event="answer", table=rows, **_used())


def _checked_query(outcome: PsiOutcome, by: list[str], total: str | None) -> Query:
    """The query, held to the limits that a linker holds it to."""
    measure = "total" if total else "count"
    fields = {"type": "query", "session": outcome.session, "group_by": by, "measure": measure}
    try:
        return msgspec.convert(fields | {"value": total}, Query)
    except msgspec.ValidationError as error:
        raise PsiError(f"This is not a query that linkers answer: {error}.") from None


class SessionState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A session as `serve` and `join` keep it for `send` and `query`; it holds the link key."""

    on: list[str]
    party: str
    peer: str
    role: Role
    variant: Variant
    session: bytes
    cardinality: int | None
    own_size: int
    peer_size: int
    link_key: bytes
    positions: bytes | None

    def __repr__(self) -> str:
        return f"SessionState(party={self.party!r}, peer={self.peer!r})"


def _pack_state(outcome: PsiOutcome, on: list[str]) -> bytes:
    fields = {name: getattr(outcome, name) for name in SessionState.__struct_fields__[1:-1]}
    positions = None if outcome.positions is None else outcome.positions.astype("<i8").tobytes()
    return msgspec.msgpack.encode(SessionState(on=on, positions=positions, **fields))


def _unpack_state(path: Path) -> tuple[PsiOutcome, list[str]]:
    try:
        state = msgspec.msgpack.decode(path.read_bytes(), type=SessionState)
        fields = msgspec.structs.asdict(state)
        if state.positions is not None:
            fields["positions"] = np.frombuffer(state.positions, dtype="<i8").astype(np.int64)
    except (OSError, ValueError):
        raise PsiError(f"{path.name} is not a session kept by serve or join.") from None
    return PsiOutcome(**{k: v for k, v in fields.items() if k != "on"}), state.on


if __name__ == "__main__":
    app()
