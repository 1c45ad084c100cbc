"""Results that no experiment asks for any more, and their removal."""

import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgs_utils.params import STAGES
from dgs_utils.store.atomic import remove_path
from dgs_utils.store.hashing import RESERVED_VALUES
from dgs_utils.store.lock import LOCK, emptying_lock, runner_lock
from dgs_utils.store.manifest import MANIFEST, VOLATILE, find_manifest, read_checksums
from dgs_utils.store.node import Node, input_folders
from dgs_utils.store.paths import outputs_root
from dgs_utils.store.status import cached_manifest, finished_results, made_from, requested_by

RESULT_NAME = re.compile(r".+-[0-9a-f]{12}")
MARKER_FILES = (MANIFEST, LOCK, "notebook.ipynb")  # a stage folder holds one of these at least


@dataclass(frozen=True)
class Unreferenced:
    """A result that no experiment file refers to.

    Attributes:
        folder: its folder.
        asked: the command that asked for it: the file, and what --set changed; () for one that was made by hand.
    """

    folder: Path
    asked: tuple[str, ...]

    @property
    def reason(self) -> str:
        """Why it is kept without --all: no experiment file could ask for it again; "" where one asked."""
        if not self.asked:
            return "made by hand"
        return f"asked for by --set {' --set '.join(self.asked[1:])}" if self.asked[1:] else ""


def unreferenced(wanted: Iterable[Node]) -> list[Unreferenced]:
    """Return the stage folders that are neither of some nodes nor what these were made from."""
    kept = referenced(wanted)
    return [Unreferenced(folder, requested_by(folder)) for folder in stage_folders() if folder not in kept]


def stage_folders() -> list[Path]:
    """Return the folders of results below the outputs folder; links and folders of other names are left out."""
    stages = [outputs_root() / stage for stage in STAGES if not (outputs_root() / stage).is_symlink()]
    return [folder for stage in stages for folder in sorted(stage.glob("*"))
            if RESULT_NAME.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink()
            and any((folder / marker).exists() for marker in MARKER_FILES)]


def referenced(wanted: Iterable[Node]) -> set[Path]:
    """Return the folders of nodes, and of all that these were made from.

    Where a node names data that does not exist now, what was made from it earlier is kept.
    """
    left: list[Path] = []
    absent: set[tuple[str, str, str]] = set()
    for node in wanted:
        left += [node.folder, *input_folders(node)]
        absent |= _absent_data(node)
    if absent:
        results = finished_results()
        left += made_from([folder for folder, manifest in results.items() if _names(manifest, absent)], results)
    kept: set[Path] = set()
    while left:
        folder = left.pop()
        if folder not in kept:
            kept.add(folder)
            manifest = cached_manifest(folder) or {"inputs": []}
            left += [outputs_root() / source["folder"] for source in manifest["inputs"]]
    return kept


def _absent_data(node: Node) -> set[tuple[str, str, str]]:
    """Return stage, parameter and value of what a node names and no file is: a name, or data that has been moved.

    Paths in ``params`` are returned in both ways that they can be written.
    """
    return {(node.stage, name, text) for name, content in node.external_content.items()
            for value, now in zip(_as_list(getattr(node.params, name)), _as_list(content), strict=True)
            if value == now and value not in RESERVED_VALUES for text in (value, value.removeprefix("params/"))}


def _as_list(value: Any) -> list:
    return value if isinstance(value, list) else [value]


def _names(manifest: Mapping[str, Any], absent: set[tuple[str, str, str]]) -> bool:
    """Return whether a result was made when there was a file of one of these names."""
    return any((manifest["stage"], name, path) in absent for name, entry in manifest["given"].items()
               if isinstance(entry, dict) for path in _as_list(entry.get("path")) if isinstance(path, str))


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
