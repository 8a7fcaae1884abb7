"""What the commands share: options, exit codes, how things are run and printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from pet_lab.workbench import notebooks, sweep
from pet_lab.workbench.errors import WorkbenchError
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


class Which(StrEnum):
    """Profiles that every notebook has."""

    quick = "quick"
    full = "full"


def complete_notebooks(incomplete: str) -> list[str]:
    """Notebooks for the shell: full names, or last parts where the user began with one."""
    try:
        names = notebooks.find(Workspace.find())
    except WorkbenchError:
        return []
    short = [name.rpartition("/")[2] for name in names]
    return [n for n in dict.fromkeys([*short, *names]) if n.startswith(incomplete)]


def complete_parameters(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Parameters of the notebook that the command line names, with their meaning."""
    name = ctx.params.get("name") or next(iter(ctx.args), "")  # parsing ends at "-p" and no value
    try:
        known = notebooks.parameters(notebooks.path(Workspace.find(), name))
    except WorkbenchError:
        return []
    shown = [(f"{p.name}=", p.help) for p in known.values() if p.name != notebooks.RUNNER_SETS]
    return [pair for pair in shown if pair[0].startswith(incomplete)]


Name = Annotated[str, typer.Argument(autocompletion=complete_notebooks, show_default=False)]
Grid = Annotated[
    list[str] | None,
    typer.Option(
        "--grid",
        metavar="KEY=V1,V2",
        help="Values to combine with the others.",
        autocompletion=complete_parameters,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "-p",
        "--set",
        metavar="KEY=VALUE",
        help="Set a parameter.",
        autocompletion=complete_parameters,
    ),
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
Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME]...", show_default=False, autocompletion=complete_notebooks),
]


def data_fingerprint(name: str, kind: str) -> str | None:
    """Hash of what would be read now of a data set; see `runs.stale`."""
    from pet_lab import data

    return data.fingerprint(name, stand_in=kind == "stand-in")


def chosen_names(ws: Workspace, names: Sequence[str] | None) -> list[str]:
    """Full names of the named notebooks, or of all."""
    return [notebooks.resolve(ws, n) for n in names] if names else notebooks.find(ws)


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
    print_table(heads, rows, width=160)
    print_tally(table)


def print_tally(table: Any) -> None:
    """Print the tally of a scorecard, and its warnings on stderr."""
    from pet_lab.workbench import scorecard as cards

    typer.echo(cards.tally(table)["sentence"])
    for warning in table.attrs.get("warnings", ()):
        typer.echo(f"pet-lab: {warning}.", err=True)
