"""The command line: `pet-lab`. A thin shell; like a notebook, it may see both halves.

Exit codes: 0 all good, 1 some runs or reports failed, 2 usage, 3 data missing, 130 stopped (the
same command resumes). Results go to stdout, progress to stderr.
"""

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import click
import typer

from pet_lab import __version__, files
from pet_lab.cli import data, experiments, reports, tools  # noqa: F401  (each adds commands)
from pet_lab.cli.shared import FAILED, MISSING, USAGE, app
from pet_lab.workbench.errors import NotebookError, NoWorkspace, ParameterError, WorkbenchError

# What a disk, a folder's rights or a wrong path cause: mended by the user, not by us.
FILE_ERRORS = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    *(errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG),
)


def _problem(error: Exception) -> tuple[str, int] | None:
    """One sentence and the exit code of a user-fixable error; None for a defect of ours."""
    if isinstance(error, (NotebookError, ParameterError, NoWorkspace)):
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
