"""Arguments and options that several commands take, and what a shell completes them with."""

from enum import StrEnum
from typing import Annotated

import typer

from pet_lab.workbench import notebooks
from pet_lab.workbench.errors import WorkbenchError
from pet_lab.workbench.workspace import Workspace


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
Executor = Annotated[
    str, typer.Option("--executor", metavar="local|dask:ADDRESS", help="Where runs execute.")
]
Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME]...", show_default=False, autocompletion=complete_notebooks),
]
