"""What the commands share: exit codes, how things are found, run and printed."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer

from pet_lab.workbench import notebooks, runs, sweep
from pet_lab.workbench.errors import ParameterError
from pet_lab.workbench.progress import Printer
from pet_lab.workbench.runs import RunRecord, RunSpec
from pet_lab.workbench.workspace import Workspace

FAILED, USAGE, MISSING, STOPPED = 1, 2, 3, 130

app = typer.Typer(
    name="pet-lab",
    help="Run, sweep, score and report experiments on privacy-enhancing technologies.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def data_fingerprint(name: str, kind: str) -> str | None:
    """Hash of what would be read now of a data set; see `runs.stale`."""
    from pet_lab import data

    return data.fingerprint(name, stand_in=kind == "stand-in")


def chosen_names(ws: Workspace, names: Sequence[str] | None) -> list[str]:
    """Full names of the named notebooks, or of all."""
    return [notebooks.resolve(ws, n) for n in names] if names else notebooks.find(ws)


def finished(ws: Workspace, run_id: str) -> RunRecord:
    """The record of a run that is done, by the start of its id."""
    record = runs.load(runs.by_id(ws, run_id))
    if record is None or not record.ok:
        raise ParameterError(f"Run {run_id} is not finished; `pet-lab status` says more.")
    return record


def execute(ws: Workspace, specs: Sequence[RunSpec], **how: Any) -> list[RunRecord]:
    """Execute runs with progress on stderr; Ctrl-C ends the command, and it says how to resume."""
    how |= {"progress": Printer(), "data_fingerprint": data_fingerprint}
    try:
        return sweep.execute(ws, specs, **how)
    except KeyboardInterrupt as stop:  # printed here: typer itself ends silently
        typer.echo(f"pet-lab: {stop or 'stopped; the same command resumes'}", err=True)
        sys.unraisablehook = lambda _: None  # of event loops that the stop left half made
        raise typer.Exit(STOPPED) from None


def record_json(record: RunRecord) -> dict[str, Any]:
    """What `--json` prints of a run."""
    stored = record.to_json()
    keep = ("notebook", "run_id", "parameters", "state", "wall_s", "cpu_s", "started", "profile")
    return {**{k: stored[k] for k in keep}, "skipped": record.skipped, "problem": record.problem}


def exit_for(records: Sequence[RunRecord]) -> None:
    """Say what failed, and end with the exit code for it; return where nothing did."""
    failed = [r for r in records if not r.ok]
    if not failed:
        return
    for r in failed:
        typer.echo(f"{r.notebook} {r.run_id} {r.state}: {r.problem}", err=True)
    missing = all(r.error and r.error.get("name") == "DataMissing" for r in failed)
    raise typer.Exit(MISSING if missing else FAILED)


def in_words(parameters: Mapping[str, Any]) -> str:
    """Parameters as `name=value` on one line."""
    return ", ".join(f"{name}={json.dumps(value)}" for name, value in parameters.items())


def print_json(value: Any) -> None:
    """Print indented JSON."""
    # NaN is not JSON: a number that was not measured is null.
    clean = json.loads(json.dumps(value, default=str), parse_constant=lambda _: None)
    typer.echo(json.dumps(clean, indent=1, ensure_ascii=False))


def print_items(as_json: bool, items: Sequence[Any], columns: Mapping[str, Any]) -> None:
    """The items as JSON, or a table of `columns`: head -> key of an item, or what to show of it."""
    if as_json:
        print_json(items)
    else:
        shown = [[c(i) if callable(c) else i[c] for c in columns.values()] for i in items]
        print_table([*columns], shown)


def print_table(heads: Sequence[str], rows: Iterable[Sequence[Any]], width: int = 0) -> None:
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


def print_scorecard(table: Any) -> None:
    """Print a line for each printed cell that was run, and the tally."""
    from pet_lab.workbench.published import where_text

    colours = dict.fromkeys(("reproduced", "compatible"), "green")
    colours |= {"differs": "red", "undecided": "yellow"}
    rows = []
    for row in table[table["verdict"] != "not run"].to_dict("records"):
        ours = "" if row["ours"] != row["ours"] else f"{row['ours']:.6g}"
        se = "" if row["se"] != row["se"] else f"{row['se']:.2g}"
        verdict = row["verdict"] + (" (print is inconsistent)" if row["inconsistent"] else "")
        colour = colours.get(row["verdict"], "default")
        cells = (row["table"], where_text(row["where"]), row["metric"], row["as"], row["published"])
        rows.append((*cells, ours, se, f"[{colour}]{verdict}[/]"))
    heads = ("table", "where", "metric", "as", "printed", "ours", "± se", "verdict")
    print_table(heads, rows, width=160)
    print_tally(table)


def print_tally(table: Any) -> None:
    """Print the tally of a scorecard, and its warnings on stderr."""
    from pet_lab.workbench import scorecard as cards

    typer.echo(cards.tally(table)["sentence"])
    for warning in table.attrs.get("warnings", ()):
        typer.echo(f"pet-lab: {warning}.", err=True)
