"""The workspace, the outputs folder, and relative paths."""

import os
from functools import lru_cache
from pathlib import Path

HUB_DATASETS = "hf://datasets/"  # how the address of a data set of the hub begins
_workspaces: dict[str, Path] = {}  # by current folder; plans of many thousand nodes ask for each

REPO_ROOT = Path(__file__).parents[2]  # the folder around the package: with notebooks and params in a checkout


def workspace() -> Path:
    """Return the folder that relative paths start from.

    That is the nearest folder at or above the current one that holds both ``notebooks`` and ``params`` (so notebooks
    find the same files from JupyterLab and from papermill), else the current folder.
    """
    here = os.getcwd()
    if here not in _workspaces:
        for folder in (Path(here), *Path(here).parents):
            if (folder / "notebooks").is_dir() and (folder / "params").is_dir():
                _workspaces[here] = folder
                break
    return _workspaces.get(here) or Path(here)  # a workspace may be made later


def notebook_path(stage: str) -> Path:
    """Return a stage's notebook: the workspace's, or where that has no notebooks, the one beside the package."""
    own = workspace() / "notebooks" / f"{stage}.ipynb"
    beside = REPO_ROOT / "notebooks" / f"{stage}.ipynb"
    return own if own.parent.is_dir() or not beside.exists() else beside


def outputs_root() -> Path:
    """Return the folder that holds every stage's results: ``$DGS_OUTPUTS``, or ``outputs`` in the workspace."""
    root = os.environ.get("DGS_OUTPUTS") or os.path.join(workspace(), "outputs")
    return _absolute(root, "" if os.path.isabs(root) else os.getcwd())


@lru_cache(8)  # plans of thousands of nodes ask for each of their folders
def _absolute(path: str, here: str) -> Path:
    return Path(here, path)


def display_path(path: Path) -> str:
    """Return a path as short as it can be typed from the current folder."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def resolve_path(path: str | Path) -> Path:
    """Return ``path`` as an absolute path; relative ones start from the workspace, ``outputs/`` from `outputs_root`.

    A path that does not exist in the workspace but beside the package is resolved to that one, so that a plan of a
    checkout can be started anywhere.
    """
    path = Path(os.path.expanduser(path))  # of an unknown user, it stays as it is
    if path.parts[:1] == ("outputs",):
        return outputs_root().joinpath(*path.parts[1:])
    resolved = workspace() / path  # an absolute path stays as it is
    return REPO_ROOT / path if not resolved.exists() and (REPO_ROOT / path).exists() else resolved
