"""Commands on what the runs say: reports, scorecard, rows."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pet_lab import files
from pet_lab.cli import options as o
from pet_lab.cli import shared
from pet_lab.cli.shared import FAILED, app, data_fingerprint
from pet_lab.workbench import sweep
from pet_lab.workbench.errors import ParameterError
from pet_lab.workbench.workspace import Workspace

MOST_LOOKS = 6  # of --until-decided; each may take four times the replicates


@app.command()
def report(
    names: o.Names = None,
    profile: Annotated[o.Which | None, typer.Option(help="Whose runs to show.")] = None,
    run_id: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="Report on this one run instead.")
    ] = None,
) -> None:
    """Make the offline HTML reports, one file per notebook, and their index."""
    from pet_lab.workbench import report as reports

    ws = Workspace.find()
    if run_id is None:
        reports.build(ws, shared.chosen_names(ws, names), profile)
        return
    typer.echo(ws.shown(reports.build_run(ws, shared.finished(ws, run_id))))


@app.command()
def scorecard(
    names: o.Names = None,
    profile: Annotated[o.Which | None, typer.Option(help="Whose runs count.")] = None,
    as_json: o.Json = False,
    write: Annotated[
        bool,
        typer.Option("--write", help="Keep full runs in reports/scorecard.csv, rows/ and README."),
    ] = False,
) -> None:
    """Show our number beside every printed one, with a verdict.

    With --write the full runs of the named notebooks, or of all that have them, replace what is
    kept of them: cells in reports/scorecard.csv, a summary of rows and the commit in reports/rows/,
    and the text between README's marks. A run whose sources have changed since is kept as one of
    its commit.
    """
    from pet_lab.workbench import scorecard as cards

    if write and profile is o.Which.quick:
        raise ParameterError("What is kept is of full runs: leave out --profile quick, or --write.")
    ws = Workspace.find()
    chosen = shared.chosen_names(ws, names)
    which = o.Which.full if write else profile
    table = cards.from_runs(ws, which, data_fingerprint=data_fingerprint, stale=write)
    mine = table[table["notebook"].isin(chosen)] if names else table
    if as_json:
        shared.print_json(cards.to_json(mine))
    else:
        shared.print_scorecard(mine)
    if write and _keep(ws, table, chosen) and names:
        raise typer.Exit(FAILED)


def _keep(ws: Workspace, table: Any, names: list[str]) -> bool:
    """Keep full runs, and say of which commit they are; whether some notebook has none to keep."""
    from pet_lab.workbench import evidence

    kept, missing = evidence.keep(ws, table, names, data_fingerprint)
    for name, words in kept.items():
        typer.echo(f"kept: {name}, run at {words}", err=True)
    for name, why in missing.items():
        typer.echo(f"pet-lab: {name} stays as it was kept: {why}", err=True)
    return bool(missing)


@app.command()
def trace(
    names: o.Names = None,
    profile: Annotated[o.Which | None, typer.Option(help="Whose runs to read.")] = None,
) -> None:
    """List each number in a text that no row, parameter or declaration stands behind."""
    from pet_lab.workbench import trace as tracing

    ws = Workspace.find()
    chosen = shared.chosen_names(ws, names)
    documents = [] if names else [d for d in tracing.DOCUMENTS if (ws.root / d).is_file()]
    faults = [fault for name in (*chosen, *documents) for fault in tracing.check(ws, name)]
    done = [record for name in chosen for record in tracing.fresh_runs(ws, name, profile)]
    for record in done:
        faults += tracing.check_run(ws, record)
    for fault in faults:
        typer.echo(fault)
    texts = f"{len(chosen)} notebooks, {len(documents)} documents, {len(done)} runs"
    typer.echo(f"{len(faults)} numbers are unaccounted for in {texts}.", err=True)
    if faults:
        raise typer.Exit(FAILED)


@app.command()
def reproduce(
    names: o.Names = None,
    profile: Annotated[o.Which, typer.Option(help="Named choice of runs.")] = o.Which.quick,
    jobs: o.Jobs = None,
    executor: o.Executor = "local",
    timeout: o.Timeout = None,
    force: o.Force = False,
    until_decided: Annotated[
        bool, typer.Option("--until-decided", help="Go on with further seeds.")
    ] = False,
) -> None:
    """Run a profile of the notebooks (default: of all), report, and print the tally.

    Full runs are kept as by `pet-lab scorecard --write`.
    """
    from pet_lab.workbench import report as reports
    from pet_lab.workbench import scorecard as cards

    ws = Workspace.find()
    chosen = shared.chosen_names(ws, names)
    specs = [spec for name in chosen for spec in sweep.plan_profile(ws, name, profile)]
    how: dict[str, Any] = {"jobs": jobs, "executor": executor, "timeout": timeout}
    records = shared.execute(ws, specs, **how, force=force)
    fresh: dict[str, Any] = {"data_fingerprint": data_fingerprint}
    table = cards.from_runs(ws, profile, sequential=until_decided, **fresh)
    for _ in range(MOST_LOOKS if until_decided else 0):
        mine = table[table["notebook"].isin(chosen)]
        specs = cards.further(ws, mine, profile, **fresh)
        if not specs:
            break
        cells = (mine["verdict"] == "undecided").sum()
        typer.echo(f"{cells} cells are undecided: {len(specs)} runs with further seeds.", err=True)
        records += shared.execute(ws, specs, **how)
        table = cards.from_runs(ws, profile, sequential=True, **fresh)
    refused = False
    try:
        reports.build(ws, chosen, profile)
    except reports.RefusedReports as error:
        typer.echo(f"pet-lab: {error}", err=True)
        refused = True
    if profile is o.Which.full:
        _keep(ws, table, chosen)
    shared.print_tally(table)
    typer.echo("Cell by cell: pet-lab scorecard")
    typer.echo(f"Reports: {ws.shown(ws.reports / 'index.html')}")
    shared.exit_for(records)
    if refused:
        raise typer.Exit(FAILED)


@app.command()
def release(
    run_id: Annotated[str | None, typer.Argument(metavar="[RUN]", show_default=False)] = None,
    context: Annotated[
        str, typer.Option(help="Population, period and unit, in a sentence for readers.")
    ] = "",
    exception: Annotated[
        list[str] | None,
        typer.Option(metavar="TABLE=REASON", help="Let out a table whose records are not known."),
    ] = None,
    sign: Annotated[str, typer.Option(metavar="NAME", help="Sign what was checked.")] = "",
    reason: Annotated[str, typer.Option(help="Why it may leave, with --sign.")] = "",
    verify: Annotated[
        Path | None,
        typer.Option(metavar="PACK", help="Run a pack again instead; RUN is not given."),
    ] = None,
    settings: o.Set = None,
) -> None:
    """Check the outputs of a run by ACRO's rules, and pack what may leave once two have signed."""
    from pet_lab.workbench import release as releases

    if (run_id is None) == (verify is None):
        raise ParameterError("Give a RUN, or a pack with --verify PACK.")
    if verify is not None:
        for note in releases.verify(verify, settings or []):
            typer.echo(f"note: {note}", err=True)
        typer.echo("The pack is whole, and run again the same verdicts come out.")
        return
    ws = Workspace.find()
    record = shared.finished(ws, run_id or "")
    pairs = [e.partition("=") for e in exception or ()]
    if not all(table and words.strip() for table, _, words in pairs):
        raise ParameterError('An exception is a table and a reason: --exception "TABLE=REASON".')
    checked, request, pack = releases.ask(
        ws,
        record,
        context=context,
        exceptions={table: words for table, _, words in pairs},
        sign=sign,
        reason=reason,
    )
    shown = [(v.table, v.verdict, f"{v.withheld} of {v.cells}", v.why) for v in checked.verdicts]
    shared.print_table(("table", "verdict", "cells withheld", "why"), shown)
    typer.echo(
        f"{len(checked.rows)} of {len(checked.whole)} rows may leave; the others and why: ",
        nl=False,
    )
    typer.echo(ws.shown(releases.folder(ws, record) / "withheld.csv"))
    typer.echo(
        f"Sign-offs: {len(request.sign_offs)} of {releases.SIGN_OFFS} (--sign NAME --reason TEXT)."
    )
    if pack:
        typer.echo(f"Packed: {ws.shown(pack)}")
    if not len(checked.rows):
        raise typer.Exit(FAILED)


@app.command()
def rows(
    name: o.Name,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write them to this CSV file.")] = None,
    parquet: Annotated[Path | None, typer.Option("--parquet", help="Or to this file.")] = None,
) -> None:
    """Print the rows of all done runs of a notebook as CSV, or write them to a file."""
    from pet_lab.workbench import results

    frame = results.read(Workspace.find(), name)
    for file in filter(None, (csv, parquet)):
        with files.replacing(file) as stream:
            if file is csv:
                frame.to_csv(stream, index=False)
            else:
                frame.to_parquet(stream, index=False)
        typer.echo(f"{len(frame)} rows: {file}", err=True)
    if not (csv or parquet):
        typer.echo(frame.to_csv(index=False), nl=False)
