"""Results that no experiment file refers to any more."""

import re
import shutil
from pathlib import Path

from filelock import FileLock, Timeout

from dgs_utils.artifacts.manifests import MANIFEST
from dgs_utils.artifacts.places import outputs_root, workspace
from dgs_utils.batch.experiment import read_experiment
from dgs_utils.batch.plan import expand
from dgs_utils.batch.state import LOCK, manifest_in
from dgs_utils.params import STAGES

OURS = re.compile(r".+-([0-9a-f]{8}|[0-9a-f]{12})")  # older kits had shorter keys
MARKS = (MANIFEST, LOCK, "notebook.ipynb")  # a stage folder holds one of these at least


def unreferenced() -> list[Path]:
    """Return the stage folders that no file below ``params`` asks for, directly or as an input of what it asks for.

    Raises:
        ValueError: an experiment file cannot be read, so that nobody can tell what it refers to.
    """
    kept = referenced()
    folders = [folder for stage in STAGES for folder in sorted((outputs_root() / stage).glob("*"))]
    return [folder for folder in folders if _is_stage_folder(folder) and folder not in kept]


def referenced() -> set[Path]:
    """Return the folders of all nodes of all experiment files, and what these were made from."""
    left = []
    for file in sorted((workspace() / "params").glob("*.y*ml")):
        for node in expand(read_experiment(file)):
            left.append(node.folder)
            sources = [item for s in node.inputs.values() for item in (s if isinstance(s, list) else [s])]
            left += [source for source in sources if isinstance(source, Path)]
    kept = set()
    while left:
        folder = left.pop()
        if folder not in kept:
            kept.add(folder)
            left += [outputs_root() / source["folder"] for source in (manifest_in(folder) or {"inputs": []})["inputs"]]
    return kept


def _is_stage_folder(folder: Path) -> bool:
    named = folder.is_dir() and not folder.is_symlink() and OURS.fullmatch(folder.name)
    return bool(named) and any((folder / mark).exists() for mark in MARKS)


def remove(folder: Path) -> bool:
    """Remove a stage folder, its manifest first; return False where a process is working in it."""
    try:
        with FileLock(folder / LOCK, timeout=0):
            (folder / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(folder)
    except Timeout:
        return False
    return True
