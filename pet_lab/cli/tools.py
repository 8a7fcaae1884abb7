"""Commands beside the workbench: parties, JupyterLab, the state of this machine."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from pet_lab import __version__
from pet_lab.cli.shared import FAILED, app
from pet_lab.workbench import notebooks, workspace
from pet_lab.workbench.errors import WorkspaceError
from pet_lab.workbench.workspace import Workspace


@app.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
def party(ctx: typer.Context) -> None:
    """Private set intersection as processes of their own: data holders and a linker."""
    from pet_lab.psi import commands  # a group of commands, loaded only when it is asked for

    code = commands.app(args=ctx.args, prog_name="pet-lab party", standalone_mode=False)
    raise typer.Exit(code or 0)


@app.command()
def init(folder: Path) -> None:
    """Make a workspace in FOLDER: the notebooks, and the data that stands in for real data."""
    ws = workspace.init(folder, version=__version__)
    typer.echo(f"{len(notebooks.find(ws))} notebooks in {folder}: change there, and `pet-lab lab`.")


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
    if getattr(os, "geteuid", lambda: 1)() == 0 and not _root_allowed(more or []):
        raise WorkspaceError(
            "JupyterLab does not start for root: run this as another user, or, in a container, "
            "`pet-lab lab -- --allow-root`."
        )
    ws = Workspace.find()
    workspace.keep_outputs_out_of_git(ws)
    command = [sys.executable, "-m", "jupyterlab", f"--port={port}", "--ServerApp.ip=127.0.0.1"]
    command += [
        f"--ServerApp.root_dir={ws.root}",
        "--LabApp.default_url=/lab/tree/notebooks/README.md",
        "--FileContentsManager.post_save_hook=pet_lab.workbench.workspace.after_save",
    ]
    # An office machine is often offline: never ask the network for a newer JupyterLab.
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    command += ["--no-browser"] * (not browser) + (more or [])
    # Markdown opens as a page with links, not as source; no question about news at the start.
    settings = str(Path(__file__).resolve().parents[1] / "workbench" / "jupyter")
    path = os.pathsep.join(filter(None, (settings, os.environ.get("JUPYTER_CONFIG_PATH"))))
    environment = os.environ | {"JUPYTER_CONFIG_PATH": path}
    if os.name == "posix":  # JupyterLab takes this process over, and with it every signal
        os.execve(command[0], command, environment)  # noqa: S606
    raise typer.Exit(subprocess.run(command, check=False, env=environment).returncode)  # noqa: S603


def _root_allowed(options: Sequence[str]) -> bool:
    """Whether an option or a file of Jupyter's settings lets root start the server."""
    from jupyter_core.paths import jupyter_config_path

    files = (Path(folder) / "jupyter_server_config.json" for folder in jupyter_config_path())
    texts = [f.read_text(errors="replace") for f in files if f.is_file()]
    return any("allow-root" in o or "allow_root" in o for o in (*options, *texts))


@app.command()
def doctor() -> None:
    """Check this machine: environment, kernel, folders, data, browser."""
    from pet_lab import data
    from pet_lab.workbench import health

    ws = Workspace.find()
    checks = health.check(ws)
    for item in data.listing():
        ok = item["ok"] is not False  # where it is absent a stand-in serves
        fix = f"`pet-lab data fetch {item['name']}`, or `pet-lab data import FILE`"
        note = f": a stand-in is used; for the real data {fix}" if ok else ": not as registered"
        state = item["state"] + ("" if item["ok"] else note)
        checks.append(health.MachineCheck(f"data {item['name']}", ok, state, fix))
    for c in checks:
        fix = "" if c.ok else f"; {c.fix}"
        typer.echo(f"{'ok  ' if c.ok else 'FIX '} {c.what}: {c.state}{fix}")
    if not all(c.ok for c in checks):
        raise typer.Exit(FAILED)
