"""Where things are: one folder with notebooks, runs, reports and data."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from pet_lab.workbench.errors import WorkspaceError

_NAMED_PET_LAB = re.compile(r"""^\s*name\s*=\s*["']pet[-_]lab["']""", re.MULTILINE)


@dataclass(frozen=True)
class Workspace:
    """The folders of one checkout; nothing is created by looking.

    root  folder that holds `notebooks/`; a checkout also has `pyproject.toml`
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
        and a pyproject.toml that names pet-lab, then at the checkout the package lives in; a
        WorkspaceError if none of them is a workspace.
        """
        home = os.environ.get("PET_LAB_HOME")
        if home:
            if not (Path(home) / "notebooks").is_dir():
                raise WorkspaceError(
                    f"PET_LAB_HOME (or --workspace) is {home}, but there is no folder notebooks/ "
                    "in it; make one, or name a folder that has it."
                )
            return cls(Path(home))
        here = Path(start or Path.cwd()).resolve()
        checkout = Path(__file__).resolve().parents[2]
        for folder in (here, *here.parents, checkout):
            if _is_workspace(folder):
                return cls(folder)
        raise WorkspaceError(
            f"No pet_lab workspace at or above {here}: expected a folder with notebooks/ and a "
            "pyproject.toml named pet-lab; change into the checkout or set PET_LAB_HOME."
        )


def _is_workspace(folder: Path) -> bool:
    project = folder / "pyproject.toml"
    if not ((folder / "notebooks").is_dir() and project.is_file()):
        return False
    return bool(_NAMED_PET_LAB.search(project.read_text(encoding="utf-8", errors="replace")))
