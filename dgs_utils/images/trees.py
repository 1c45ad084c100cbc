"""Folders from anywhere: which of their files are images, and how many of which other kind there are.

Every file below a folder is either an image or counted as something else. Hidden files and what systems and editors
leave behind (``.ipynb_checkpoints``, ``__MACOSX``, ``Thumbs.db`` …) are neither images nor classes. What this kit keeps
beside the images of a stage folder or a published set is no stranger's file, and so neither counted nor told.
"""

import mimetypes
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from dgs_utils.artifacts.manifests import BEGUN, VOLATILE, read_begun
from dgs_utils.artifacts.names import check_relative
from dgs_utils.artifacts.opening import HOLDER, LOCK
from dgs_utils.images.pixels import image_suffixes, is_image

SYSTEM = {"__macosx", "__pycache__", "@eadir", "@tmp", "@recycle", "#recycle", "#snapshot", "$recycle.bin",
          "lost+found", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
PUBLISHED = {"metadata.csv", "images.parquet", "manifests"}  # marks of a published set
OWN = VOLATILE | {"images.parquet", "manifests", "README.md", "thresholds.csv", "results.csv", "losses.csv",
                  "report.csv"}
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")


@dataclass
class Tree:
    """The files below a folder.

    Attributes:
        images: images, relative to the folder, with ``/`` between parts, sorted.
        others: visible files that are no images, likewise.
        skipped: what else there is: files that are hidden, links that lead nowhere or in a circle.
    """

    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    skipped: Counter = field(default_factory=Counter)


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name belongs to a system or an editor, not to a data set."""
    return name.startswith((".", "~$")) or name.lower() in SYSTEM


def looks_like_image(path: Path) -> bool:
    """Return whether a file is an image: by its suffix, or by its first bytes where the suffix tells no other kind."""
    if path.suffix.lower() in image_suffixes():
        return True
    kind = mimetypes.guess_type(path.name)
    return kind == (None, None) and is_image(path)


def entries(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of the visible folders, and of the visible files, directly in a folder; sorted."""
    folders, files = list[str](), list[str]()
    for entry in listed(folder):
        if not is_hidden(entry.name):
            (folders if is_folder(entry) else files).append(entry.name)
    return folders, files


def listed(folder: Path) -> list[os.DirEntry]:
    """Return what lies directly in a folder, by name; without what the kit keeps there where the folder is its own."""
    with os.scandir(folder) as found:
        there = {entry.name: entry for entry in sorted(found, key=lambda entry: entry.name)}
    if there.keys() >= PUBLISHED or (BEGUN in there and read_begun(folder)):
        there = {name: entry for name, entry in there.items()
                 if name not in OWN and not name.startswith((LOCK, HOLDER))}
    return list(there.values())


def count_images(folder: Path, enough: int = 1) -> int:
    """Return how many images there are anywhere below a folder, ``enough`` at the most."""
    folders, files = entries(folder)
    count = 0
    for file in files:
        count += looks_like_image(folder / file)
        if count >= enough:
            return count
    for inner in folders:
        count += count_images(folder / inner, enough - count)
        if count >= enough:
            return count
    return count


def walk(root: Path, below: Iterable[str] = ("",)) -> Tree:
    """Return the files below some folders of ``root`` ("" for all of it).

    Links to folders are followed, unless they lead to a folder that they lie in.
    """
    tree = Tree()
    for start in below:
        _walk(root, start, tree, (os.path.realpath(root / start),))
    tree.images.sort()
    tree.others.sort()
    for name in tree.images + tree.others:
        if not name.isascii():  # bytes that are no text have no place in a table
            check_relative(name, f"{root}: a file")
    return tree


def _walk(root: Path, place: str, tree: Tree, above: tuple[str, ...]) -> None:
    for entry in listed(root / place):
        name = f"{place}/{entry.name}" if place else entry.name
        if is_hidden(entry.name):
            tree.skipped["hidden"] += count_files(entry)
        elif is_folder(entry):
            real = os.path.realpath(entry.path) if entry.is_symlink() else f"{above[-1]}/{entry.name}"
            if real in above:
                tree.skipped["links in a circle"] += 1
            else:
                _walk(root, name, tree, (*above, real))
        elif not (os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file()):
            tree.skipped["broken links" if entry.is_symlink() else "no files"] += 1
        else:
            (tree.images if looks_like_image(Path(entry.path)) else tree.others).append(name)


def is_folder(entry: os.DirEntry) -> bool:
    """Return whether an entry is a folder, or a link to one; False for a link that leads to itself."""
    return entry.is_dir() if not entry.is_symlink() else os.path.isdir(entry.path)


def count_files(entry: os.DirEntry) -> int:
    """Return how many files an entry stands for: those in a folder and below, or one; links are not followed."""
    if not entry.is_dir(follow_symlinks=False):
        return 1
    return sum(len(files) for _, _, files in os.walk(entry.path))


def kind_of(name: str) -> str:
    """Return the kind under which a file is counted: its suffix in small letters."""
    return Path(name).suffix.lower() or "no suffix"


def told(counts: Counter) -> str:
    """Return counts as a phrase, such as "9 skipped (hidden 8, .txt 1)", the most frequent kind first."""
    kinds = sorted(((kind, count) for kind, count in counts.items() if count), key=lambda pair: (-pair[1], pair[0]))
    return f"{sum(counts.values())} skipped ({', '.join(f'{kind} {count}' for kind, count in kinds)})"
