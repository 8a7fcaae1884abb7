"""The command line: `pet-lab`. A thin shell; like a notebook, it may see both halves.

Exit codes: 0 all good, 1 some runs or reports failed, 2 usage, 3 data missing, 130 stopped (the
same command resumes). Results go to stdout, progress to stderr.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import click
import typer

from pet_lab import __version__, files
from pet_lab.workbench import notebooks, runs, sweep
from pet_lab.workbench.errors import NotebookError, ParameterError, WorkbenchError
from pet_lab.workbench.runs import RunRecord, RunSpec
from pet_lab.workbench.workspace import Workspace

FAILED, USAGE, MISSING, STOPPED = 1, 2, 3, 130
# What a disk, a folder's rights or a wrong path cause: mended by the user, not by us.
FILE_ERRORS = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    *(errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG),
)

app = typer.Typer(
    name="pet-lab",
    help="Run, sweep, score and report experiments on privacy-enhancing technologies.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Real data sets: where they are, and how they get here.")
app.add_typer(data_app, name="data", no_args_is_help=True)


class Which(StrEnum):
    """Profiles that every notebook has."""

    quick = "quick"
    full = "full"


Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Set = Annotated[
    list[str] | None, typer.Option("-p", "--set", metavar="KEY=VALUE", help="Set a parameter.")
]
Jobs = Annotated[
    int | None,
    typer.Option("--jobs", "-j", min=1, help="Runs at a time; if not given, as many as cores."),
]
Timeout = Annotated[
    float | None, typer.Option("--timeout", min=0.1, metavar="SECONDS", help="Stop longer runs.")
]
Force = Annotated[bool, typer.Option("--force", help="Run also what is done and fresh.")]
ExecutorOption = Annotated[
    str, typer.Option("--executor", metavar="local|dask:ADDRESS", help="Where runs execute.")
]
Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", show_default=False)]


# --- runs ----------------------------------------------------------------------------------------


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the notebooks and how many runs of each are done."""
    ws = Workspace.find()
    items = []
    for name in notebooks.find(ws):
        source = notebooks.path(ws, name)
        item = {"name": name, "title": notebooks.title(source), "claim": notebooks.claim(source)}
        states = [r.state for r in runs.records(ws, name)]
        items.append(item | {s: states.count(s) for s in (runs.DONE, runs.FAILED)})
    _print(as_json, items, {"notebook": "name", "runs": "done", "title": "title"})


@app.command()
def describe(name: str, as_json: Json = False) -> None:
    """Show what a notebook claims, its parameters and its profiles."""
    ws = Workspace.find()
    full = notebooks.resolve(ws, name)
    source = notebooks.path(ws, full)
    params = [vars(p) for p in notebooks.parameters(source).values() if p.name != "out"]
    profiles: dict[str, dict[str, Any]] = {}
    for which in Which:
        chosen = sweep.profile(ws, full, which)
        profiles[which.value] = {
            "parameters": dict(chosen.parameters),
            "grid": {k: list(v) for k, v in chosen.grid.items()},
            "runs": len(sweep.plan_profile(ws, full, which)),
        }
    title, claim = notebooks.title(source), notebooks.claim(source)
    if as_json:
        facts = {"name": full, "title": title, "claim": claim}
        _print_json({**facts, "parameters": params, "profiles": profiles})
        return
    typer.echo(f"{full}: {title}\n\n{claim}\n")
    rows = [(p["name"], p["type"], json.dumps(p["default"]), p["help"]) for p in params]
    _print_table(("parameter", "type", "default", "meaning"), rows)
    for profile_name, content in profiles.items():
        words = _shown({**content["parameters"], **content["grid"]}) or "defaults"
        typer.echo(f"profile {profile_name}: {content['runs']} run(s); {words}")


@app.command()
def run(name: str, settings: Set = None, timeout: Timeout = None, force: Force = False) -> None:
    """Run a notebook once, unless this very run is done and fresh."""
    ws = Workspace.find()
    params = notebooks.parameters(notebooks.path(ws, notebooks.resolve(ws, name)))
    specs = sweep.plan(ws, name, notebooks.parse(params, settings or []))
    records = _execute(ws, specs, jobs=1, timeout=timeout, force=force)
    for record in records:
        if record.path is not None and record.path.exists():
            word = "done before" if record.skipped else record.state
            typer.echo(f"{word}: {ws.shown(record.path)}")
            if record.ok:
                typer.echo(f"for its report: pet-lab report --run {record.run_id}")
    _exit_for(records)


@app.command("sweep")
def sweep_(
    name: str,
    grid: Annotated[
        list[str] | None,
        typer.Option("--grid", metavar="KEY=V1,V2", help="Values to combine with the others."),
    ] = None,
    settings: Set = None,
    profile: Annotated[Which | None, typer.Option(help="Start from a profile.")] = None,
    jobs: Jobs = None,
    executor: ExecutorOption = "local",
    timeout: Timeout = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would run.")] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Run a notebook for every combination of a grid; done and fresh runs are skipped."""
    ws = Workspace.find()
    params = notebooks.parameters(notebooks.path(ws, notebooks.resolve(ws, name)))
    fixed = notebooks.parse(params, settings or [])
    values = notebooks.parse_grid(params, grid or [])
    if profile:
        specs = sweep.plan_profile(ws, name, profile, fixed, values)
    else:
        specs = sweep.plan(ws, name, fixed, values)
    if dry_run:
        why = sweep.pending(ws, specs, data_fingerprint=_data_fingerprint, force=force)
        items = []
        for s in specs:
            item = {"notebook": s.notebook, "run_id": s.run_id, "parameters": dict(s.parameters)}
            items.append(item | {"why": why.get(s, "done and fresh"), "runs": s in why})
        shown = {
            "run": "run_id",
            "would run": lambda i: "yes" if i["runs"] else "no",
            "why": "why",
            "parameters": lambda i: _shown(
                {k: i["parameters"][k] for k in values or i["parameters"]}
            ),
        }
        _print(as_json, items, shown)
        if not as_json:
            typer.echo(f"{len(why)} of {len(specs)} runs would be executed.")
        return
    records = _execute(ws, specs, jobs=jobs, executor=executor, timeout=timeout, force=force)
    if as_json:
        _print_json([_record_json(r) for r in records])
    else:
        done = sum(r.ok and not r.skipped for r in records)
        skipped, failed = sum(r.skipped for r in records), sum(not r.ok for r in records)
        counts = f"{done} done now, {skipped} done before, {failed} failed."
        typer.echo(f"{len(records)} runs: {counts}")
    _exit_for(records)


@app.command()
def status(names: Names = None, as_json: Json = False) -> None:
    """Show every recorded run and whether it is still fresh."""
    ws = Workspace.find()
    items = []
    for name in _chosen(ws, names):
        records = runs.records(ws, name)
        now = runs.fingerprints(ws, name) if records else {}
        for record in records:
            current = runs.current(ws, RunSpec.of(name, record.parameters))
            stale = runs.stale(record, now, _data_fingerprint) if current.ok else []
            items.append({**_record_json(record), "state": current.state, "stale": stale})
        for sentence in runs.damaged(ws, name):
            typer.echo(f"pet-lab: {sentence}", err=True)
    if not items and not as_json:
        typer.echo("No runs yet: `pet-lab reproduce` makes those of the quick profile.")
        return
    shown = {
        "notebook": "notebook",
        "run": "run_id",
        "state": "state",
        "wall": lambda i: files.duration(i["wall_s"]),
        "note": lambda i: i["problem"] or ("stale: " + "; ".join(i["stale"]) if i["stale"] else ""),
    }
    _print(as_json, items, shown)


# --- reports -------------------------------------------------------------------------------------


@app.command()
def report(
    names: Names = None,
    profile: Annotated[Which | None, typer.Option(help="Whose runs to show.")] = None,
    run_id: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="Report on this one run instead.")
    ] = None,
) -> None:
    """Make the offline HTML reports, one file per notebook, and their index."""
    from pet_lab.workbench import report as reports

    ws = Workspace.find()
    if run_id is None:
        reports.build(ws, _chosen(ws, names), profile)
        return
    matches = [r for r in runs.records(ws) if r.run_id.startswith(run_id) and r.ok]
    if len(matches) != 1:
        word = "No finished run has" if not matches else f"{len(matches)} runs have"
        raise ParameterError(f"{word} the id {run_id!r}; `pet-lab status` lists them.")
    typer.echo(ws.shown(reports.build_run(ws, matches[0])))


@app.command()
def scorecard(
    profile: Annotated[Which | None, typer.Option(help="Whose runs count.")] = None,
    as_json: Json = False,
    write: Annotated[
        bool, typer.Option("--write", help="Also write reports/scorecard.csv.")
    ] = False,
) -> None:
    """Show our number beside every printed one, with a verdict."""
    from pet_lab.workbench import scorecard as cards

    ws = Workspace.find()
    table = cards.from_runs(ws, profile, data_fingerprint=_data_fingerprint)
    if write:
        cards.write(table, ws.reports / "scorecard.csv")
    if as_json:
        _print_json(cards.to_json(table))
    else:
        _print_scorecard(table)


@app.command()
def reproduce(
    names: Names = None,
    profile: Annotated[Which, typer.Option(help="Named choice of runs.")] = Which.quick,
    jobs: Jobs = None,
    executor: ExecutorOption = "local",
    timeout: Timeout = None,
    force: Force = False,
) -> None:
    """Run a profile of the notebooks (default: of all), report, and print the scorecard."""
    from pet_lab.workbench import report as reports
    from pet_lab.workbench import scorecard as cards

    ws = Workspace.find()
    chosen = _chosen(ws, names)
    specs = [spec for name in chosen for spec in sweep.plan_profile(ws, name, profile)]
    records = _execute(ws, specs, jobs=jobs, executor=executor, timeout=timeout, force=force)
    refused = False
    try:
        reports.build(ws, chosen, profile)
    except reports.RefusedReports as error:
        typer.echo(f"pet-lab: {error}", err=True)
        refused = True
    table = cards.from_runs(ws, profile, data_fingerprint=_data_fingerprint)
    if profile is Which.full and names is None:
        cards.write(table, ws.reports / "scorecard.csv")
    _print_scorecard(table)
    typer.echo(f"Reports: {ws.shown(ws.reports / 'index.html')}")
    _exit_for(records)
    if refused:
        raise typer.Exit(FAILED)


@app.command()
def rows(
    name: str,
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


# --- data ----------------------------------------------------------------------------------------


@data_app.command("list")
def data_list(as_json: Json = False) -> None:
    """List the registered data sets and where they are."""
    from pet_lab import data

    heads = ("name", "rows", "licence", "state", "title")
    _print(as_json, data.listing(), {head: head for head in heads})


@data_app.command("fetch")
def data_fetch(names: Names = None) -> None:
    """Download data sets (default: all) into the cache; their content is checked."""
    from pet_lab import data

    for name in names or list(data.REGISTRY):
        data.fetch(name)
        typer.echo(f"{name}: here, and as registered.")


@data_app.command("verify")
def data_verify(names: Names = None, as_json: Json = False) -> None:
    """Read data sets anew and compare their content with what is registered."""
    from pet_lab import data

    checks = [data.verify(name) for name in names or list(data.REGISTRY)]
    if as_json:
        _print_json([{**vars(v), "ok": v.ok} for v in checks])
    for v in [] if as_json else checks:
        typer.echo(f"{v.name}: {'as registered' if v.ok else '; '.join(v.problems)} ({v.where})")
    if any(v.where == "absent" for v in checks):
        raise typer.Exit(MISSING)
    if not all(v.ok for v in checks):
        raise typer.Exit(FAILED)


@data_app.command("import")
def data_import(
    file: Path, name: Annotated[str | None, typer.Option(help="Which data set it is.")] = None
) -> None:
    """Take a data set from a file, zip or folder; it is recognised by its content."""
    from pet_lab import data

    typer.echo(f"{data.import_file(file, name)}: imported.")


@data_app.command("check")
def data_check(file: Path, as_json: Json = False) -> None:
    """Read your own table and show what the reader decided, column by column."""
    from pet_lab import data

    reading = data.read_table(file)
    columns = [vars(column) for column in reading.columns]
    facts = {"file": file.name, "rows": len(reading.frame), "decisions": list(reading.decisions)}
    if as_json:
        _print_json(facts | {"sha256": reading.sha256, "columns": columns})
        return
    typer.echo(f"{file.name}: {len(reading.frame)} rows, {len(columns)} columns.")
    typer.echo("\n".join(reading.decisions))
    table = [tuple(column.values()) for column in columns]
    _print_table(("column", "kind", "missing", "decision"), table)


# --- parties -------------------------------------------------------------------------------------


@app.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
def party(ctx: typer.Context) -> None:
    """Private set intersection as processes of their own: data holders and a linker."""
    from pet_lab.psi import commands  # a group of commands, loaded only when it is asked for

    code = commands.app(args=ctx.args, prog_name="pet-lab party", standalone_mode=False)
    raise typer.Exit(code or 0)


# --- by hand -------------------------------------------------------------------------------------


@app.command()
def lab(
    browser: Annotated[bool, typer.Option(help="Open a browser window.")] = True,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on the loopback address.")
    ] = 8888,
    more: Annotated[
        list[str] | None, typer.Argument(metavar="-- OPTION...", help="Passed on to JupyterLab.")
    ] = None,
) -> None:
    """Open JupyterLab on the start page that links the notebooks."""
    import subprocess

    ws = Workspace.find()
    command = [sys.executable, "-m", "jupyterlab", f"--port={port}", "--ServerApp.ip=127.0.0.1"]
    command += [
        f"--ServerApp.root_dir={ws.root}",
        "--LabApp.default_url=/lab/tree/notebooks/README.md",
    ]
    # An office machine is often offline: never ask the network for a newer JupyterLab.
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    command += ["--no-browser"] * (not browser) + (more or [])
    # Markdown opens as a page with links, not as source; no question about news at the start.
    settings = str(Path(__file__).resolve().parent / "workbench" / "jupyter")
    path = os.pathsep.join(filter(None, (settings, os.environ.get("JUPYTER_CONFIG_PATH"))))
    environment = os.environ | {"JUPYTER_CONFIG_PATH": path}
    raise typer.Exit(subprocess.run(command, check=False, env=environment).returncode)  # noqa: S603


@app.command()
def doctor() -> None:
    """Check this machine: environment, kernel, folders, data, browser."""
    from pet_lab import data
    from pet_lab.workbench import health

    ws = Workspace.find()
    checks = health.check(ws)
    for item in data.listing():
        ok = bool(item["ok"]) or item["kind"] == "stand-in"
        state = (
            item["state"] if item["ok"] else "absent" + (": stand-in used" if item["kind"] else "")
        )
        fix = f"run `pet-lab data fetch {item['name']}`, or `pet-lab data import FILE`"
        checks.append(health.MachineCheck(f"data {item['name']}", ok, state, fix))
    for c in checks:
        fix = "" if c.ok else f"; {c.fix}"
        typer.echo(f"{'ok  ' if c.ok else 'FIX '} {c.what}: {c.state}{fix}")
    if not all(c.ok for c in checks):
        raise typer.Exit(FAILED)


# --- shared by the commands ----------------------------------------------------------------------


def _data_fingerprint(name: str, kind: str) -> str | None:
    from pet_lab import data

    return data.fingerprint(name, stand_in=kind == "stand-in")


def _chosen(ws: Workspace, names: Sequence[str] | None) -> list[str]:
    return [notebooks.resolve(ws, n) for n in names] if names else notebooks.find(ws)


def _execute(ws: Workspace, specs: Sequence[RunSpec], **how: Any) -> list[RunRecord]:
    how |= {"progress": sweep.print_progress, "data_fingerprint": _data_fingerprint}
    try:
        return sweep.execute(ws, specs, **how)
    except KeyboardInterrupt as stop:  # printed here: typer itself ends silently
        typer.echo(f"pet-lab: {stop or 'stopped; the same command resumes'}", err=True)
        raise typer.Exit(STOPPED) from None


def _record_json(record: RunRecord) -> dict[str, Any]:
    stored = record.to_json()
    keep = ("notebook", "run_id", "parameters", "state", "wall_s", "cpu_s", "started", "profile")
    return {**{k: stored[k] for k in keep}, "skipped": record.skipped, "problem": record.problem}


def _exit_for(records: Sequence[RunRecord]) -> None:
    failed = [r for r in records if not r.ok]
    if not failed:
        return
    for r in failed:
        typer.echo(f"{r.notebook} {r.run_id} {r.state}: {r.problem}", err=True)
    missing = all(r.error and r.error.get("name") == "DataMissing" for r in failed)
    raise typer.Exit(MISSING if missing else FAILED)


def _shown(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={json.dumps(value)}" for name, value in parameters.items())


def _print_json(value: Any) -> None:
    # NaN is not JSON: a number that was not measured is null.
    clean = json.loads(json.dumps(value, default=str), parse_constant=lambda _: None)
    typer.echo(json.dumps(clean, indent=1, ensure_ascii=False))


def _print(as_json: bool, items: Sequence[Any], columns: Mapping[str, Any]) -> None:
    """The items as JSON, or a table of `columns`: head -> key of an item, or what to show of it."""
    if as_json:
        _print_json(items)
    else:
        shown = [[c(i) if callable(c) else i[c] for c in columns.values()] for i in items]
        _print_table([*columns], shown)


def _print_table(heads: Sequence[str], rows: Iterable[Sequence[Any]], width: int = 0) -> None:
    """Plain text; with a `width` (where this is no terminal) cells may hold rich's markup."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*heads, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*map(str, row))
    tty = sys.stdout.isatty()
    if width:
        Console(width=None if tty else width).print(table)
    else:
        Console(soft_wrap=not tty, markup=False).print(table)


def _print_scorecard(table: Any) -> None:
    from pet_lab.workbench import scorecard as cards
    from pet_lab.workbench.published import where_text

    colours = {
        "reproduced": "green",
        "compatible": "green",
        "differs": "red",
        "undecided": "yellow",
    }
    rows = []
    for row in table[table["verdict"] != "not run"].to_dict("records"):
        ours = "" if row["ours"] != row["ours"] else f"{row['ours']:.6g}"
        se = "" if row["se"] != row["se"] else f"{row['se']:.2g}"
        verdict = row["verdict"] + (" (print is inconsistent)" if row["inconsistent"] else "")
        colour = colours.get(row["verdict"], "default")
        cells = (row["table"], where_text(row["where"]), row["metric"], row["as"], row["published"])
        rows.append((*cells, ours, se, f"[{colour}]{verdict}[/]"))
    heads = ("table", "where", "metric", "as", "printed", "ours", "± se", "verdict")
    _print_table(heads, rows, width=160)
    typer.echo(cards.tally(table)["sentence"])


def _problem(error: Exception) -> tuple[str, int] | None:
    """One sentence and the exit code of a user-fixable error; None for a defect of ours."""
    if isinstance(error, (NotebookError, ParameterError)):
        return str(error), USAGE
    if isinstance(error, WorkbenchError):
        return str(error), FAILED
    if type(error).__module__ == "pet_lab.data.errors":  # not imported: pandas comes with it
        codes = {"DataMissing": MISSING, "UnknownData": USAGE}
        return str(error), codes.get(type(error).__name__, FAILED)
    if isinstance(error, OSError) and error.errno in FILE_ERRORS:
        return files.why(error, Path(error.filename or "A file").name), FAILED
    return None


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"pet-lab {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    workspace: Annotated[
        Path | None,
        typer.Option(help="A folder of your own: notebooks/, and published/ beside it."),
    ] = None,
) -> None:
    """Run, sweep, score and report experiments on privacy-enhancing technologies."""
    if workspace is not None:
        os.environ["PET_LAB_HOME"] = str(workspace.resolve())


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of the console script: ends with SystemExit.

    A user-fixable error is one sentence on stderr, never a traceback.
    """
    try:
        code = app(args=None if args is None else list(args), standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except Exception as error:
        problem = _problem(error)
        if problem is None:
            raise
        words, code = problem
        typer.echo(f"pet-lab: {words}", err=True)
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
