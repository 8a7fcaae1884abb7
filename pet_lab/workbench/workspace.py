"""Where things are: one folder with notebooks, runs, reports and data."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pet_lab.workbench.errors import NoWorkspace

MARK = ".pet-lab"  # of a workspace made by `init`
# What a front end adds to a notebook's metadata once its kernel has answered.
LEARNT = "codemirror_mode file_extension mimetype nbconvert_exporter pygments_lexer version"
_NAMED_PET_LAB = re.compile(r"""^\s*name\s*=\s*["']pet[-_]lab["']""", re.MULTILINE)


@dataclass(frozen=True)
class Workspace:
    """The folders of one checkout; nothing is created by looking.

    root  folder that holds `notebooks/`; beside it `pyproject.toml` in a checkout, `.pet-lab` in
          what `init` made
    """

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root).resolve())

    @property
    def notebooks(self) -> Path:
        """Notebooks and their sweep.toml files, by group."""
        return self.root / "notebooks"

    @property
    def runs(self) -> Path:
        """One folder per run: `<notebook>/<run id>/`."""
        return self.root / "papermill_runs"

    @property
    def reports(self) -> Path:
        """HTML reports and the committed scorecard.csv."""
        return self.root / "reports"

    @property
    def data(self) -> Path:
        """Shipped and generated data, and the download cache."""
        return self.root / "data"

    @property
    def published(self) -> Path:
        """Printed numbers as TOML: of this workspace, or those that ship with the package.

        A workspace of the user's own keeps them in `published/` beside its `notebooks/`.
        """
        own = [self.root / "published", self.root / "pet_lab" / "published"]
        packaged = Path(__file__).resolve().parents[1] / "published"
        return next((folder for folder in own if folder.is_dir()), packaged)

    def shown(self, path: Path) -> str:
        """A path as a user types it in the workspace; in full where it lies outside."""
        return (
            path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)
        )

    @classmethod
    def find(cls, start: str | Path | None = None) -> Workspace:
        """The workspace around `start` (default: the working directory).

        Looks at the variable PET_LAB_HOME, then upwards from `start` for a folder with `notebooks/`
        and a `.pet-lab` or a pyproject.toml that names pet-lab, then at the checkout the package
        lives in; a WorkspaceError if none of them is a workspace.
        """
        home = os.environ.get("PET_LAB_HOME")
        if home:
            if not (Path(home) / "notebooks").is_dir():
                raise NoWorkspace(
                    f"PET_LAB_HOME (or --workspace) is {home}, but there is no folder notebooks/ "
                    "in it; make one, or name a folder that has it."
                )
            return cls(Path(home))
        here = Path(start or Path.cwd()).resolve()
        checkout = Path(__file__).resolve().parents[2]
        for folder in (here, *here.parents, checkout):
            if _is_workspace(folder):
                return cls(folder)
        raise NoWorkspace(
            f"No pet_lab workspace at or above {here}: make one with `pet-lab init FOLDER` and "
            "change into it, change into a checkout, or set PET_LAB_HOME."
        )


def init(folder: Path, *, version: str) -> Workspace:
    """A workspace in `folder`, with the notebooks and the stand-in data that ship with the package.

    WorkspaceError where there are notebooks already, or nothing is shipped.
    """
    package = Path(__file__).resolve().parents[1]
    homes = (package / "shipped", package.parent)  # of a wheel, of a checkout
    shipped = next((home for home in homes if (home / "notebooks").is_dir()), None)
    ws = Workspace(folder)
    if shipped is None or ws.notebooks.exists():
        why = "has notebooks/ already" if shipped else "cannot be filled: the package ships none"
        raise NoWorkspace(f"{folder} {why}; name a folder that `init` may make.")
    skipped = shutil.ignore_patterns(".*", "__pycache__", "cache")
    for part in (ws.data, ws.notebooks):
        shutil.copytree(shipped / part.name, part, ignore=skipped, dirs_exist_ok=True)
    (ws.root / MARK).write_text(f"pet-lab {version}\n", encoding="utf-8")
    return ws


def keep_outputs_out_of_git(ws: Workspace) -> None:
    """Let git see this checkout's notebooks without outputs, so that saving one changes nothing.

    Sets the filter that .gitattributes names, in this clone only; does nothing where there is no
    clone, or no nbstripout.
    """
    if not ((ws.root / ".gitattributes").is_file() and importlib.util.find_spec("nbstripout")):
        return
    learnt = " ".join(f"metadata.language_info.{key}" for key in LEARNT.split())
    strip = f'"{Path(sys.executable).as_posix()}" -m nbstripout --keep-id --extra-keys "{learnt}"'
    _git(ws.root, "config", "filter.nbstripout.clean", strip)


def after_save(model: Mapping[str, Any], os_path: str, **_: Any) -> None:
    """JupyterLab's hook: git calls a file of another size modified, until it is added once more."""
    path = Path(os_path)
    if model["type"] == "notebook" and _git(path.parent, "diff", "--quiet", "--", path.name):
        _git(path.parent, "add", "--update", "--", path.name)


def _git(folder: Path, *words: str) -> bool:
    command = ["git", "-C", str(folder), *words]
    try:
        return not subprocess.run(command, check=False, capture_output=True).returncode  # noqa: S603
    except OSError:  # there is none
        return False


def _is_workspace(folder: Path) -> bool:
    if (folder / MARK).is_file() and (folder / "notebooks").is_dir():
        return True
    project = folder / "pyproject.toml"
    if not ((folder / "notebooks").is_dir() and project.is_file()):
        return False
    return bool(_NAMED_PET_LAB.search(project.read_text(encoding="utf-8", errors="replace")))
