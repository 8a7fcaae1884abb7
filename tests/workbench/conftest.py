"""Small workspaces with tiny notebooks, made on the spot."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_notebooks import BODY, IMPORTS, PARAMETERS, ROWS, WRITE, build_workspace, notebook_text

from pet_lab.workbench.workspace import Workspace

__all__ = ["BODY", "IMPORTS", "PARAMETERS", "ROWS", "WRITE", "build_workspace", "notebook_text"]


@pytest.fixture
def make_workspace(tmp_path: Path) -> Callable[..., Workspace]:
    """Factory: `make_workspace({"group/name": notebook_text(...) or (cells, ...)}, sweep={...})`.

    `sweep` maps a group to the text of its sweep.toml. A tuple of cells gets the usual parameters.
    """
    return build_workspace(tmp_path)
