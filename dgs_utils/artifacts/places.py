"""Where results lie: the workspace, the outputs folder, and relative paths."""

import os
from functools import lru_cache
from pathlib import Path

_workspaces: dict[str, Path] = {}  # by current folder; plans of many thousand nodes ask for each


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
    return _workspaces.get(here) or Path(here)  # where there is none yet, one may be made later


def outputs_root() -> Path:
    """Return the folder that holds every stage's results: ``$DGS_OUTPUTS``, or ``outputs`` in the workspace."""
    return _absolute(os.environ.get("DGS_OUTPUTS") or f"{workspace()}/outputs", os.getcwd())


@lru_cache(maxsize=64)
def _absolute(path: str, here: str) -> Path:
    return Path(here) / path


def locate(path: str | Path) -> Path:
    """Return ``path`` as an absolute path; relative ones start from the workspace, ``outputs/`` from `outputs_root`."""
    path = Path(path).expanduser()
    if path.parts[:1] == ("outputs",):
        return outputs_root().joinpath(*path.parts[1:])
    return path if path.is_absolute() else workspace() / path
