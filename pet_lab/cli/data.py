"""Commands on data sets: `pet-lab data`."""

from pathlib import Path
from typing import Annotated

import typer

from pet_lab.cli import options as o
from pet_lab.cli import shared
from pet_lab.cli.shared import FAILED, MISSING, app

data_app = typer.Typer(help="Real data sets: where they are, and how they get here.")
app.add_typer(data_app, name="data", no_args_is_help=True)


@data_app.command("list")
def data_list(as_json: o.Json = False) -> None:
    """List the registered data sets and where they are."""
    from pet_lab import data

    heads = ("name", "rows", "licence", "state", "title")
    shared.print_items(as_json, data.listing(), {head: head for head in heads})


@data_app.command("fetch")
def data_fetch(names: o.Names = None) -> None:
    """Download data sets (default: all) into the cache; their content is checked."""
    from pet_lab import data

    for name in names or list(data.REGISTRY):
        data.fetch(name)
        typer.echo(f"{name}: here, and as registered.")


@data_app.command("verify")
def data_verify(names: o.Names = None, as_json: o.Json = False) -> None:
    """Read data sets anew and compare their content with what is registered."""
    from pet_lab import data

    checks = [data.verify(name) for name in names or list(data.REGISTRY)]
    if as_json:
        shared.print_json([{**vars(v), "ok": v.ok} for v in checks])
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
def data_check(file: Path, as_json: o.Json = False) -> None:
    """Read your own table and show what the reader decided, column by column."""
    from pet_lab import data

    reading = data.read_table(file)
    columns = [vars(column) for column in reading.columns]
    facts = {"file": file.name, "rows": len(reading.frame), "decisions": list(reading.decisions)}
    if as_json:
        shared.print_json(facts | {"sha256": reading.sha256, "columns": columns})
        return
    typer.echo(f"{file.name}: {len(reading.frame)} rows, {len(columns)} columns.")
    typer.echo("\n".join(reading.decisions))
    table = [tuple(column.values()) for column in columns]
    shared.print_table(("column", "kind", "missing", "decision"), table)
