"""Where results lie: the workspace, the outputs folder, and relative paths."""

import os
from pathlib import Path


def workspace() -> Path:
    """Return the folder that relative paths start from.

    That is the nearest folder at or above the current one that holds both ``notebooks`` and ``params`` (so notebooks
    find the same files from JupyterLab and from papermill), else the current folder.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir() and (folder / "params").is_dir():
            return folder
    return here


def outputs_root() -> Path:
    """Return the folder that holds every stage's results: ``$DGS_OUTPUTS``, or ``outputs`` in the workspace."""
    return Path(os.environ.get("DGS_OUTPUTS") or workspace() / "outputs").absolute()


def locate(path: str | Path) -> Path:
    """Return ``path`` as an absolute path; relative ones start from the workspace, ``outputs/`` from `outputs_root`."""
    path = Path(path).expanduser()
    if path.parts[:1] == ("outputs",):
        return outputs_root().joinpath(*path.parts[1:])
    return path if path.is_absolute() else workspace() / path
