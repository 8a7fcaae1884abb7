"""Commands on notebooks and their runs."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from pet_lab import files
from pet_lab.cli import options as o
from pet_lab.cli import shared
from pet_lab.cli.shared import app, data_fingerprint, in_words
from pet_lab.workbench import notebooks, runs, sweep
from pet_lab.workbench.runs import RunRecord, RunSpec
from pet_lab.workbench.workspace import Workspace


@app.command("list")
def list_(as_json: o.Json = False) -> None:
    """List the notebooks and how many runs of each are done."""
    ws = Workspace.find()
    items = []
    for name in notebooks.find(ws):
        source = notebooks.path(ws, name)
        item = {"name": name, "title": notebooks.title(source), "claim": notebooks.claim(source)}
        states = [r.state for r in runs.records(ws, name)]
        items.append(item | {s: states.count(s) for s in (runs.DONE, runs.FAILED)})
    shared.print_items(as_json, items, {"notebook": "name", "runs": "done", "title": "title"})


@app.command()
def describe(name: o.Name, as_json: o.Json = False) -> None:
    """Show what a notebook claims, its parameters and its profiles."""
    ws = Workspace.find()
    full = notebooks.resolve(ws, name)
    source = notebooks.path(ws, full)
    params = [vars(p) for p in notebooks.parameters(source).values() if p.name != "out"]
    profiles: dict[str, dict[str, Any]] = {}
    for which in o.Which:
        chosen = sweep.profile(ws, full, which)
        profiles[which.value] = {
            "parameters": dict(chosen.parameters),
            "grid": {k: list(v) for k, v in chosen.grid.items()},
            "runs": len(sweep.plan_profile(ws, full, which)),
        }
    title, claim = notebooks.title(source), notebooks.claim(source)
    if as_json:
        facts = {"name": full, "title": title, "claim": claim}
        shared.print_json({**facts, "parameters": params, "profiles": profiles})
        return
    typer.echo(f"{full}: {title}\n\n{claim}\n")
    rows = [(p["name"], p["type"], json.dumps(p["default"]), p["help"]) for p in params]
    shared.print_table(("parameter", "type", "default", "meaning"), rows)
    for profile_name, content in profiles.items():
        words = in_words({**content["parameters"], **content["grid"]}) or "defaults"
        typer.echo(f"profile {profile_name}: {content['runs']} run(s); {words}")


@app.command()
def run(
    name: o.Name, settings: o.Set = None, timeout: o.Timeout = None, force: o.Force = False
) -> None:
    """Run a notebook once, unless this very run is done and fresh."""
    ws = Workspace.find()
    params = notebooks.parameters(notebooks.path(ws, notebooks.resolve(ws, name)))
    specs = sweep.plan(ws, name, notebooks.parse(params, settings or []))
    records = shared.execute(ws, specs, jobs=1, timeout=timeout, force=force)
    for record in records:
        if record.path.exists():
            word = "done before" if record.skipped else record.state
            typer.echo(f"{word}: {ws.shown(record.path)}")
            if record.ok:
                typer.echo(f"for its report: pet-lab report --run {record.run_id}")
    shared.exit_for(records)


@app.command("sweep")
def sweep_(
    name: o.Name,
    grid: o.Grid = None,
    settings: o.Set = None,
    profile: Annotated[o.Which | None, typer.Option(help="Start from a profile.")] = None,
    jobs: o.Jobs = None,
    executor: o.Executor = "local",
    timeout: o.Timeout = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would run.")] = False,
    force: o.Force = False,
    as_json: o.Json = False,
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
        why = sweep.pending(ws, specs, data_fingerprint=data_fingerprint, force=force)
        items = []
        for s in specs:
            item = {"notebook": s.notebook, "run_id": s.run_id, "parameters": dict(s.parameters)}
            items.append(item | {"why": why.get(s, "done and fresh"), "runs": s in why})
        shown = {
            "run": "run_id",
            "would run": lambda i: "yes" if i["runs"] else "no",
            "why": "why",
            "parameters": lambda i: in_words(
                {k: i["parameters"][k] for k in values or i["parameters"]}
            ),
        }
        shared.print_items(as_json, items, shown)
        if not as_json:
            typer.echo(f"{len(why)} of {len(specs)} runs would be executed.")
        return
    records = shared.execute(ws, specs, jobs=jobs, executor=executor, timeout=timeout, force=force)
    if as_json:
        shared.print_json([shared.record_json(r) for r in records])
    else:
        done = sum(r.ok and not r.skipped for r in records)
        skipped, failed = sum(r.skipped for r in records), sum(not r.ok for r in records)
        counts = f"{done} done now, {skipped} done before, {failed} failed."
        typer.echo(f"{len(records)} runs: {counts}")
        _page(ws, records)
    shared.exit_for(records)


def _page(ws: Workspace, records: Sequence[RunRecord]) -> None:
    """Write the page of a sweep and say where it is; a part that is refused is said, no more."""
    from pet_lab.workbench import report as reports

    try:
        page = reports.build_sweep(ws, records)
    except reports.RefusedReports as error:
        typer.echo(f"pet-lab: {error}", err=True)
        page = next(iter(error.written), None)
    if page:
        typer.echo(f"Page: {ws.shown(page)}")


@app.command()
def status(names: o.Names = None, as_json: o.Json = False) -> None:
    """Show every recorded run and whether it is still fresh."""
    ws = Workspace.find()
    items = []
    for name in shared.chosen_names(ws, names):
        records = runs.records(ws, name)
        vary = runs.varied(records)
        now = runs.fingerprints(ws, name) if records else {}
        for record in records:
            current = runs.current(ws, RunSpec.of(name, record.parameters))
            stale = runs.stale(record, now, data_fingerprint) if current.ok else []
            items.append(
                {
                    **shared.record_json(record),
                    "state": current.state,
                    "stale": stale,
                    "varies": vary,
                }
            )
        for sentence in runs.damaged(ws, name):
            typer.echo(f"pet-lab: {sentence}", err=True)
    if not items and not as_json:
        typer.echo("No runs yet: `pet-lab reproduce` makes those of the quick profile.")
        return
    shown = {
        "notebook": "notebook",
        "run": "run_id",
        "parameters that vary": lambda i: in_words(
            {k: i["parameters"][k] for k in i["varies"] if k in i["parameters"]}
        ),
        "state": "state",
        "wall": lambda i: files.duration(i["wall_s"]),
        "note": lambda i: i["problem"] or ("stale: " + "; ".join(i["stale"]) if i["stale"] else ""),
    }
    shared.print_items(as_json, items, shown)


@app.command()
def forget(run_ids: Annotated[list[str], typer.Argument(metavar="RUN...")]) -> None:
    """Remove runs with their rows and pages; the start of an id is enough where it is unique."""
    ws = Workspace.find()
    for name in runs.forget(ws, run_ids):
        (ws.reports / f"{name.replace('/', '-')}.html").unlink(missing_ok=True)
        typer.echo(f"forgotten: {name}")
