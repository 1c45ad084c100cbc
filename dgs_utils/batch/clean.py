"""Results that no experiment file refers to any more."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dgs_utils.artifacts.contents import WORDS
from dgs_utils.artifacts.manifests import MANIFEST, VOLATILE, read_manifest, read_sums
from dgs_utils.artifacts.nodes import Node
from dgs_utils.artifacts.opening import worker
from dgs_utils.artifacts.places import outputs_root, workspace
from dgs_utils.batch.experiment import read_experiment
from dgs_utils.batch.plan import expand
from dgs_utils.batch.state import LOCK, asked_for, manifest_in
from dgs_utils.params import STAGES

OURS = re.compile(r".+-([0-9a-f]{8}|[0-9a-f]{12})")  # older kits had shorter keys
MARKS = (MANIFEST, LOCK, "notebook.ipynb")  # a stage folder holds one of these at least


@dataclass(frozen=True)
class Left:
    """A result that no file below ``params`` refers to.

    Attributes:
        folder: its folder.
        asked: the command that asked for it: the file, and what --set changed; () for one that was made by hand.
    """

    folder: Path
    asked: tuple[str, ...]

    @property
    def apart(self) -> str:
        """Why it is kept unless everything is to go: nobody can write it down in a file; "" where a file asked."""
        if not self.asked:
            return "made by hand"
        return f"asked for by --set {' --set '.join(self.asked[1:])}" if self.asked[1:] else ""


def unreferenced() -> list[Left]:
    """Return the stage folders that no file below ``params`` asks for, directly or as an input of what it asks for.

    Raises:
        ValueError: there is no experiment file, or one cannot be read, so that nobody can tell what is wanted.
    """
    kept = referenced()
    return [Left(folder, asked_for(folder)) for folder in stage_folders() if folder not in kept]


def stage_folders() -> list[Path]:
    """Return the folders of results below the outputs folder; links, and folders of other names, are not ours."""
    stages = [outputs_root() / stage for stage in STAGES if not (outputs_root() / stage).is_symlink()]
    return [folder for stage in stages for folder in sorted(stage.glob("*")) if _is_stage_folder(folder)]


def referenced() -> set[Path]:
    """Return the folders of all nodes of all experiment files, and what these were made from.

    Where an experiment names data that is not there now, what was made from it is kept.
    """
    files = sorted((workspace() / "params").glob("*.y*ml"))
    if not files:
        raise ValueError(f"{workspace() / 'params'} holds no experiment file, so nobody can tell which results are "
                         f"wanted; run dgs clean in the folder that holds params")
    left, absent = [], set()
    for file in files:
        for node in expand(read_experiment(file)):
            left.append(node.folder)
            sources = [item for s in node.inputs.values() for item in (s if isinstance(s, list) else [s])]
            left += [source for source in sources if isinstance(source, Path)]
            absent |= _absent(node)
    left += _made_from(absent) if absent else []
    kept = set()
    while left:
        folder = left.pop()
        if folder not in kept:
            kept.add(folder)
            left += [outputs_root() / source["folder"] for source in (manifest_in(folder) or {"inputs": []})["inputs"]]
    return kept


def _absent(node: Node) -> set[tuple[str, str, str]]:
    """Return stage, parameter and value of what a node names and no file is: a name, or data that lies elsewhere now.

    Where a path in ``params`` starts is settled by where the data is, so that both ways of writing it are returned.
    """
    found = set()
    for name, content in node.given.items():
        for item, now in zip(_items(getattr(node.params, name)), _items(content), strict=True):
            if item == now and item not in WORDS:
                found |= {(node.stage, name, item), (node.stage, name, item.removeprefix("params/"))}
    return found


def _items(value: Any) -> list:
    return value if isinstance(value, list) else [value]


def _made_from(absent: set[tuple[str, str, str]]) -> list[Path]:
    """Return all results that were made when files of these names were there, directly or by way of others."""
    found: set[str] = set()
    folders = stage_folders()
    for _ in STAGES:  # as many steps as the road has
        for folder in folders:
            here = manifest_in(folder)
            if here and (_names(folder, here["stage"], absent) or any(s["folder"] in found for s in here["inputs"])):
                found.add(folder.relative_to(outputs_root()).as_posix())
    return [outputs_root() / name for name in found]


def _names(folder: Path, stage: str, absent: set[tuple[str, str, str]]) -> bool:
    if not any(stage == other for other, _, _ in absent):
        return False
    given = read_manifest(folder).get("given")
    return isinstance(given, dict) and any(
        (stage, name, path) in absent for name, entry in given.items() if isinstance(entry, dict)
        for path in _items(entry.get("path")) if isinstance(path, str))


def _is_stage_folder(folder: Path) -> bool:
    named = folder.is_dir() and not folder.is_symlink() and OURS.fullmatch(folder.name)
    return bool(named) and any((folder / mark).exists() for mark in MARKS)


def strangers_in(folder: Path) -> list[str]:
    """Return what somebody put into a finished folder beside what its stage wrote."""
    if not manifest_in(folder):
        return []
    files, sums = read_manifest(folder)["files"], read_sums(folder)
    found = {entry.name for entry in folder.iterdir() if entry.name not in {*files, *VOLATILE}}
    for name in files.keys() & sums.keys():
        found |= {path.relative_to(folder).as_posix() for path in (folder / name).rglob("*") if path.is_file()
                  } - sums[name].keys()
    return sorted(name for name in found if not name.startswith("."))


def remove(folder: Path) -> str:
    """Remove a stage folder, its manifest first; return "" or why it is kept, as the middle of a sentence."""
    if strangers := strangers_in(folder):
        return f"it holds {strangers[0]}, which no stage wrote"
    try:
        with FileLock(folder / LOCK, timeout=0):
            if worker(folder):
                return "a process is working in it"
            (folder / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(folder)
    except Timeout:
        return "a process is working in it"
    return ""
