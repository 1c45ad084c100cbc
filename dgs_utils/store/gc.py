"""Results that no experiment asks for any more, and their removal."""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dgs_utils.params import STAGES
from dgs_utils.store.atomic import remove_path
from dgs_utils.store.hashing import names_file
from dgs_utils.store.lock import LOCK, emptying_lock, runner_lock
from dgs_utils.store.manifest import MANIFEST, VOLATILE, find_manifest, read_checksums
from dgs_utils.store.node import Node, input_folders
from dgs_utils.store.paths import outputs_root
from dgs_utils.store.status import cached_manifest, requested_by

RESULT_NAME = re.compile(r".+-[0-9a-f]{12}")
MARKER_FILES = (MANIFEST, LOCK, "notebook.ipynb")  # a stage folder holds one of these at least


def unreferenced(wanted: Iterable[Node]) -> dict[Path, str]:
    """Return the stage folders that are neither of some nodes nor what these were made from.

    Each comes with why it is kept without --all, as a phrase: no experiment file could ask for it again, or its data is
    missing now, so that no file can ask for it just now; "" for all others.
    """
    kept = _sources(folder for node in wanted for folder in (node.folder, *input_folders(node)))
    return {folder: _reason(folder) for folder in stage_folders() if folder not in kept}


def _sources(folders: Iterable[Path]) -> dict[Path, dict[str, Any]]:
    """Return some folders, and all that they were made from, with their manifests (see `status.cached_manifest`)."""
    left, sources = list(folders), dict[Path, dict[str, Any]]()
    while left:
        if (folder := left.pop()) not in sources:
            sources[folder] = cached_manifest(folder) or {"given": {}, "inputs": []}
            left += [outputs_root() / source["folder"] for source in sources[folder]["inputs"]]
    return sources


def _reason(folder: Path) -> str:
    if not (asked := requested_by(folder)):
        return "made by hand"
    if changes := asked[1:]:
        return f"asked for by --set {' --set '.join(changes)}"
    for manifest in _sources([folder]).values():
        for entry in manifest["given"].values():
            paths, contents = ([value] if isinstance(value, str) else value
                               for value in (entry["path"], entry["content"]))
            for path, content in zip(paths, contents, strict=True):
                if content != path and not names_file(path):  # it named a file then
                    return f"made from {path}, now missing"
    return ""


def stage_folders() -> list[Path]:
    """Return the folders of results below the outputs folder; links and folders of other names are left out."""
    stages = [outputs_root() / stage for stage in STAGES if not (outputs_root() / stage).is_symlink()]
    return [folder for stage in stages for folder in sorted(stage.glob("*"))
            if RESULT_NAME.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink()
            and any((folder / marker).exists() for marker in MARKER_FILES)]


def foreign_files(folder: Path) -> list[str]:
    """Return what was put into a finished folder beside what its stage wrote."""
    manifest = find_manifest(folder)
    if manifest is None:
        return []
    foreign = {entry.name for entry in folder.iterdir() if entry.name not in {*manifest["files"], *VOLATILE}}
    for name, files in read_checksums(folder, manifest).items():
        foreign |= {f"{name}/{path.relative_to(folder / name).as_posix()}" for path in (folder / name).rglob("*")
                    if path.is_file() and path.relative_to(folder / name).as_posix() not in files}
    return sorted(name for name in foreign if not any(part.startswith(".") for part in name.split("/")))


def remove(folder: Path) -> str:
    """Remove a stage folder, its manifest first; return "" or why it is kept, as a phrase."""
    if foreign := foreign_files(folder):
        return f"it holds {foreign[0]}, which no stage wrote"
    with runner_lock(folder) as runner, emptying_lock(folder) as session:
        if runner or session:
            return "a process is working in it"
        remove_path(folder / MANIFEST)
        shutil.rmtree(folder)
    return ""
