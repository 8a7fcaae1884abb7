"""`pet-lab party`: two data holders and a linker as processes that speak over mutual TLS.

Secrets are read from files or the environment: no key is ever an argument, printed or logged.
"""
# ruff: noqa: PLR0917, B006 - typer reads options from the signature, with [] for "none"

from __future__ import annotations

import io
import json
import logging
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, cast

import numpy as np
import typer

from .certificates import Credentials, TestAuthority, load, save, write_private
from .disclosure import OutputRules, QueryLog
from .ecdh import EcdhEngine
from .linker import Linker, Query, combine_totals
from .protocol import VARIANTS, Outcome, Party, PsiEngine, PsiError, Variant
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
By = Annotated[list[str], typer.Option("--by", help="PARTY:COLUMN to group by; repeat.")]
Total = Annotated[str | None, typer.Option(help="PARTY:COLUMN to total instead of counting.")]
Separator = Annotated[str, typer.Option(help="Between the fields of the CSV file.")]
Timeout = Annotated[float, typer.Option("--timeout", help="Longest silence of the peer, seconds.")]
Wait = Annotated[float, typer.Option("--wait", help="Longest wait for the peer, seconds.")]


def engine_named(name: str) -> PsiEngine:
    """The engine a name stands for; the oracle is not among them: it protects nothing."""
    if name == "ecdh":
        return EcdhEngine()
    if name in ("rsa-3072", "rsa-2048", "rsa-4096"):
        from .rsa_blind import RsaEngine

        return RsaEngine(int(name[4:]))
    if name == "openmined":
        from .openmined import OpenMinedEngine

        return OpenMinedEngine()
    raise PsiError(f"Engines are ecdh, rsa-3072, rsa-2048 and openmined, got {name[:40]!r}.")


def _variant(name: str) -> Variant:
    if name not in VARIANTS:
        raise PsiError(f"Variants are {', '.join(VARIANTS)}, got {name[:40]!r}.")
    return cast(Variant, name)


def _read(path: Path, separator: str) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, sep=separator)
    except (OSError, ValueError) as error:
        raise PsiError(f"{path.name} cannot be read as CSV: {error}.") from None


def _run(work: Callable[[], None]) -> None:
    """Do the work; a refusal is one sentence on stderr and exit status 1."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        work()
    except PsiError as error:
        typer.echo(str(error), err=True)
        _leave(1)
    _leave(0)


def _leave(status: int) -> None:
    # A call that hangs in Flight's C++ threads would keep the interpreter from ending.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _say(**items: Any) -> None:
    typer.echo(json.dumps(items))


def _report(outcome: Outcome, begun: float) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    _say(
        event="session",
        party=outcome.party,
        peer=outcome.peer,
        session=outcome.session.hex(),
        cardinality=outcome.cardinality,
        own_size=outcome.own_size,
        peer_size=outcome.peer_size,
        bytes_sent=sum(s.bytes_sent for s in outcome.stages),
        stage_cpu_s=round(sum(s.cpu_s for s in outcome.stages), 3),
        cpu_s=round(used.ru_utime + used.ru_stime, 3),
        wall_s=round(time.monotonic() - begun, 3),
        peak_mib=round(used.ru_maxrss / 1024, 1),
    )


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
        _say(event="certificates", folder=str(folder), names=names)

    _run(work)


def _after(
    outcome: Outcome,
    party: Party,
    credentials: Credentials,
    on: list[str],
    state: Path | None,
    out: Path | None,
    linkers: list[str],
    columns: list[str],
    values: list[str],
    by: list[str],
    total: str | None,
) -> None:
    """What may follow a session in the same process: files, uploads, one query."""
    if state is not None:
        write_private(state, _pack_state(outcome, on))
    if out is not None:
        if outcome.positions is None:
            raise PsiError("The cardinality variant tells no rows to write.")
        rows = party.key_set(on).rows_of(outcome.positions)
        party.frame.iloc[rows].to_csv(out, index=False)
    if linkers:
        _send(party, outcome, credentials, on, linkers, columns, values)
    if by:
        _query(outcome, credentials, linkers, by, total)


@app.command()
def serve(
    data: Data,
    on: On,
    peer: Peer,
    credentials: Folder = None,
    listen: Annotated[
        str, typer.Option(help="HOST:PORT; port 0 takes a free one.")
    ] = "127.0.0.1:0",
    engine: EngineName = "ecdh",
    variant: VariantName = "psi",
    state: State = None,
    out: Out = None,
    linkers: Linkers = [],
    columns: Columns = [],
    values: Values = [],
    by: By = [],
    total: Total = None,
    separator: Separator = ",",
    timeout: Timeout = 120,
    wait: Wait = 600,
) -> None:
    """Wait for the peer and hold one session; then, if linkers are named, send and query."""

    def work() -> None:
        from . import flight

        mine, begun = load(credentials), time.monotonic()
        party = Party(mine.name, _read(data, separator))
        outcome = flight.serve(
            party,
            peer=peer,
            engine=engine_named(engine),
            credentials=mine,
            on=on,
            listen=listen,
            variant=_variant(variant),
            columns=columns if variant == "enrichment" else (),
            timeout_s=timeout,
            wait_s=wait,
            started=lambda port: _say(event="listening", port=port),
        )
        _report(outcome, begun)
        _after(outcome, party, mine, on, state, out, linkers, columns, values, by, total)

    _run(work)


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
    by: By = [],
    total: Total = None,
    separator: Separator = ",",
    timeout: Timeout = 120,
    wait: Wait = 60,
) -> None:
    """Connect to the peer and hold one session; then, if linkers are named, send and query."""

    def work() -> None:
        from . import flight

        mine, begun = load(credentials), time.monotonic()
        party = Party(mine.name, _read(data, separator))
        outcome = flight.join(
            party,
            peer=peer,
            engine=engine_named(engine),
            credentials=mine,
            address=connect,
            on=on,
            variant=_variant(variant),
            columns=columns if variant == "enrichment" else (),
            timeout_s=timeout,
            wait_s=wait,
        )
        _report(outcome, begun)
        _after(outcome, party, mine, on, state, out, linkers, columns, values, by, total)

    _run(work)


@app.command()
def linker(
    parties: Annotated[list[str], typer.Option("--party", help="The two parties served.")],
    credentials: Folder = None,
    listen: Annotated[
        str, typer.Option(help="HOST:PORT; port 0 takes a free one.")
    ] = "127.0.0.1:0",
    min_cell: Annotated[int, typer.Option(help="Smallest count that is shown; 0 = all.")] = 10,
    epsilon: Annotated[float | None, typer.Option(help="Noise per query; none without.")] = None,
    budget: Annotated[float, typer.Option(help="Epsilon of all queries together.")] = 1.0,
    value_bound: Annotated[int | None, typer.Option(help="Largest value of one row.")] = None,
    adds_noise: Annotated[bool, typer.Option(help="Off for all linkers of shares but one.")] = True,
    log: Annotated[Path | None, typer.Option(help="Query log, JSON lines; read at start.")] = None,
) -> None:
    """Serve two parties until stopped: match rows, count, total, check what leaves."""

    def work() -> None:
        from . import flight

        if len(parties) != 2:
            raise PsiError(f"A linker serves two parties, got {len(parties)}.")
        try:
            rules = OutputRules(
                min_cell=min_cell,
                epsilon_per_query=epsilon,
                epsilon_total=budget,
                value_bound=value_bound,
            )
        except ValueError as error:
            raise PsiError(str(error)) from None
        queries = QueryLog.open(log) if log is not None else QueryLog()
        served = Linker((parties[0], parties[1]), rules=rules, log=queries, add_noise=adds_noise)
        server = flight.LinkerServer(served, load(credentials), listen)
        stop = threading.Event()

        def on_signal(signum: int, frame: FrameType | None) -> None:
            stop.set()

        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)
        _say(event="listening", port=server.port)
        while not stop.wait(0.2):
            pass
        server.stop()
        used = resource.getrusage(resource.RUSAGE_SELF)
        _say(
            event="stopped",
            cpu_s=round(used.ru_utime + used.ru_stime, 3),
            peak_mib=round(used.ru_maxrss / 1024, 1),
        )

    _run(work)


@app.command()
def send(
    state: Annotated[Path, typer.Option(help="Session kept by serve or join.")],
    data: Data,
    linkers: Linkers,
    credentials: Folder = None,
    columns: Columns = [],
    values: Values = [],
    separator: Separator = ",",
) -> None:
    """Send the tokens of the intersection to one linker, or shares to several."""

    def work() -> None:
        mine = load(credentials)
        outcome, on = _unpack_state(state)
        party = Party(mine.name, _read(data, separator))
        _send(party, outcome, mine, on, linkers, columns, values)

    _run(work)


@app.command()
def query(
    state: Annotated[Path, typer.Option(help="Session kept by serve or join.")],
    linkers: Linkers,
    by: By,
    credentials: Folder = None,
    total: Total = None,
) -> None:
    """Ask the linkers for a table of counts or totals, and open its labels."""
    _run(lambda: _query(_unpack_state(state)[0], load(credentials), linkers, by, total))


@app.command()
def demo(
    rows: Annotated[int, typer.Option(help="Records of each party; two thirds are common.")] = 1000,
    engine: EngineName = "ecdh",
) -> None:
    """Run two data holders and a linker on loopback ports with made-up data; show the answer."""

    def work() -> None:
        import pandas as pd

        from . import processes

        engine_named(engine)
        rng = np.random.default_rng(1)
        ids = [f"{i:07d}" for i in range(rows + rows // 3)]
        left = pd.DataFrame({"id": ids[:rows], "tariff": rng.choice(["100", "300"], rows)})
        right = pd.DataFrame({"id": ids[rows // 3 :][:rows], "size": rng.choice(["S", "L"], rows)})
        made = processes.run(
            Party("statcan", left),
            Party("cbs", right),
            on=["id"],
            by=["cbs:size", "statcan:tariff"],
            columns={"statcan": ["tariff"], "cbs": ["size"]},
            engine=engine,
        )
        typer.echo(f"{made.cardinality} common records; the linker's answer to cbs:")
        typer.echo(made.table.to_string(index=False))
        typer.echo(made.costs.to_string(index=False))

    _run(work)


def _split(linker: str) -> tuple[str, str]:
    name, _, address = linker.partition("@")
    if not name or not address:
        raise PsiError(f"A linker is written NAME@HOST:PORT, got {linker[:80]!r}.")
    return name, address


def _send(
    party: Party,
    outcome: Outcome,
    credentials: Credentials,
    on: list[str],
    linkers: list[str],
    columns: list[str],
    values: list[str],
) -> None:
    import pandas as pd

    from . import flight

    numbers = {}
    for value in values:
        column, _, decimals = value.partition(":")
        if column not in party.frame.columns or not decimals.isdecimal() or len(decimals) > 1:
            raise PsiError(
                f"A value is written COLUMN:DECIMALS with a known column, got {value[:80]!r}."
            )
        read = pd.to_numeric(party.frame[column], errors="coerce").to_numpy(dtype=float)
        if not np.isfinite(read).all():
            raise PsiError(f"Column {column} holds entries that are no numbers.")
        numbers[column] = np.rint(read * 10 ** int(decimals)).astype(np.int64)
    made = tables_for_linkers(
        party, outcome, on=on, columns=columns, values=numbers, linkers=len(linkers)
    )
    for table, one in zip(made, linkers, strict=True):
        name, address = _split(one)
        pairs, sent = flight.send_table(
            table, linker=name, address=address, credentials=credentials
        )
        _say(event="sent", linker=name, rows=len(table), pairs=pairs, bytes_sent=sent)


def _query(
    outcome: Outcome, credentials: Credentials, linkers: list[str], by: list[str], total: str | None
) -> None:
    from . import flight

    asked = Query(
        session=outcome.session,
        group_by=tuple(by),
        measure="total" if total else "count",
        value=total,
    )
    answers = []
    for one in linkers if total else linkers[:1]:
        name, address = _split(one)
        flight.wait_until_linked(
            outcome.session, linker=name, address=address, credentials=credentials
        )
        answers.append(flight.ask(asked, linker=name, address=address, credentials=credentials))
    table = combine_totals(answers, outcome) if total else answers[0].table(outcome.link_key)
    rows = json.loads(table.astype(object).where(table.notna(), None).to_json(orient="records"))
    used = resource.getrusage(resource.RUSAGE_SELF)
    _say(event="answer", table=rows, cpu_s=round(used.ru_utime + used.ru_stime, 3))


def _pack_state(outcome: Outcome, on: list[str]) -> bytes:
    buffer = io.BytesIO()
    facts = {k: getattr(outcome, k) for k in ("party", "peer", "role", "variant", "cardinality")}
    facts |= {"own_size": outcome.own_size, "peer_size": outcome.peer_size, "on": on}
    positions = outcome.positions if outcome.positions is not None else np.empty(0, dtype=np.int64)
    np.savez(
        buffer,
        facts=np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8),
        session=np.frombuffer(outcome.session, dtype=np.uint8),
        link_key=np.frombuffer(outcome.link_key, dtype=np.uint8),
        positions=positions,
    )
    return buffer.getvalue()


def _unpack_state(path: Path) -> tuple[Outcome, list[str]]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            facts = json.loads(stored["facts"].tobytes())
            on = facts.pop("on")
            known = facts["variant"] != "cardinality"
            outcome = Outcome(
                **facts,
                session=stored["session"].tobytes(),
                link_key=stored["link_key"].tobytes(),
                positions=stored["positions"] if known else None,
            )
    except (OSError, ValueError, KeyError, TypeError):
        raise PsiError(f"{path.name} is not a session kept by serve or join.") from None
    return outcome, on


if __name__ == "__main__":
    app()
