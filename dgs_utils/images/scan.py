"""Scan of a folder: which of its files are images, and how many of which other kind there are.

Every file below a folder is an image or is counted as something else. Hidden files and those of systems and editors
(``.ipynb_checkpoints``, ``__MACOSX``, ``Thumbs.db`` …) are neither images nor classes. The kit's own files in a stage
folder or a published set are ignored.
"""

import mimetypes
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from dgs_utils.images.pixels import image_suffixes, is_image
from dgs_utils.store.filenames import check_relative
from dgs_utils.store.lock import LOCK, LOCK_INFO
from dgs_utils.store.manifest import RUN_INPUTS, VOLATILE, read_run_inputs

SYSTEM = {"__macosx", "__pycache__", "@eadir", "@tmp", "@recycle", "#recycle", "#snapshot", "$recycle.bin",
          "lost+found", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
PUBLISHED = {"metadata.csv", "README.md", "manifests"}  # files by which a published set is recognised
OWN = VOLATILE | {"manifests", "README.md", "thresholds.csv", "results.csv", "losses.csv", "report.csv",
                  "croissant.json", ".card"}
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")


@dataclass
class FolderScan:
    """The files below a folder, as sorted paths relative to it with ``/`` between parts."""

    root: Path
    images: list[str] = field(default_factory=list)  # visible image files
    others: list[str] = field(default_factory=list)  # other visible files
    folders: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # visible ones in each; "": root
    skipped: Counter = field(default_factory=Counter)  # hidden files, broken links, and links in a circle

    def below(self, folder: str) -> "FolderScan":
        """Return the part below one of the folders, relative to that; skipped files are still those of the whole."""
        if not folder:
            return self
        start = len(folder) + 1
        inside = defaultdict(list, {name[start:]: names for name, names in self.folders.items()
                                    if f"{name}/".startswith(f"{folder}/")})
        images, others = ([name[start:] for name in names if name.startswith(f"{folder}/")]
                          for names in (self.images, self.others))
        return FolderScan(self.root / folder, images, others, inside, self.skipped)


def scan_folder(root: Path, classes: Collection[str] = ()) -> FolderScan:
    """Scan a folder; folders beside those of ``classes``, if any, are not, so that ten of a thousand are quick.

    Links to folders are followed, unless they lead to a folder above.
    """
    scan = FolderScan(root)
    _scan(scan, "", (os.path.realpath(root),), frozenset(classes))
    scan.images.sort()
    scan.others.sort()
    for name in scan.images + scan.others:
        if not name.isascii():  # bytes that are no text cannot be written into a table
            check_relative(name, f"{root}: a file")
    return scan


def _scan(scan: FolderScan, folder: str, above: tuple[str, ...], classes: frozenset[str]) -> None:
    entries = _entries(scan.root / folder)
    scan.folders[folder] = [entry.name for entry in entries if not is_hidden(entry.name) and _is_folder(entry)]
    whole = any(entry.name.startswith("metadata.") for entry in entries)
    wanted = set() if whole else {name for name in scan.folders[folder] if to_nfc(name) in classes}
    for entry in entries:
        name = f"{folder}/{entry.name}" if folder else entry.name
        if is_hidden(entry.name):
            inside = os.walk(entry.path) if entry.is_dir(follow_symlinks=False) else [("", [], [entry.name])]
            scan.skipped["hidden"] += sum(len(files) for _, _, files in inside)
        elif _is_folder(entry):
            real = os.path.realpath(entry.path) if entry.is_symlink() else f"{above[-1]}/{entry.name}"
            if real in above:
                scan.skipped["links in a circle"] += 1
            elif not wanted or entry.name in wanted:
                _scan(scan, name, (*above, real), frozenset() if wanted else classes)
        elif not (os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file()):
            scan.skipped["broken links" if entry.is_symlink() else "no files"] += 1
        else:
            (scan.images if looks_like_image(Path(entry.path)) else scan.others).append(name)


def list_folder(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of the visible folders, and of the visible files, directly in a folder; sorted."""
    folders, files = list[str](), list[str]()
    for entry in _entries(folder):
        if not is_hidden(entry.name):
            (folders if _is_folder(entry) else files).append(entry.name)
    return folders, files


def count_images(folder: Path, enough: int = 1) -> int:
    """Return how many images there are anywhere below a folder, at most ``enough``."""
    folders, files = list_folder(folder)
    count = len(list(islice((file for file in files if looks_like_image(folder / file)), enough)))
    for inner in folders:
        count += count_images(folder / inner, enough - count) if count < enough else 0
    return count


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name belongs to a system or an editor, not to a data set."""
    return name.startswith((".", "~$")) or name.lower() in SYSTEM


def looks_like_image(path: Path) -> bool:
    """Return whether a file is an image: by its suffix, or by its first bytes where the suffix has no other meaning."""
    if path.suffix.lower() in image_suffixes():
        return True
    return mimetypes.guess_type(path.name) == (None, None) and is_image(path)


def _entries(folder: Path) -> list[os.DirEntry]:
    """Return the entries of a folder by name, without the kit's own files in a stage folder or a published set."""
    with os.scandir(folder) as iterator:
        entries = {entry.name: entry for entry in sorted(iterator, key=lambda entry: entry.name)}
    if entries.keys() >= PUBLISHED or (RUN_INPUTS in entries and read_run_inputs(folder)):
        entries = {name: entry for name, entry in entries.items()
                   if name not in OWN and not name.startswith((LOCK, LOCK_INFO))}
    return list(entries.values())


def _is_folder(entry: os.DirEntry) -> bool:
    """Return whether an entry is a folder, or a link to one; False for a link that leads to itself."""
    return entry.is_dir() if not entry.is_symlink() else os.path.isdir(entry.path)


def to_nfc(name: str) -> str:
    """Return a name with each accented letter as one character; some systems store letter and accent apart."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def suffix_of(name: str) -> str:
    """Return a file's suffix in small letters, or "no suffix"."""
    return Path(name).suffix.lower() or "no suffix"


def format_counts(counts: Counter) -> str:
    """Return counts as a phrase, most frequent first.

    >>> format_counts(Counter({".txt": 1, "hidden": 8}))
    '9 skipped (hidden 8, .txt 1)'
    """
    kinds = sorted(((kind, count) for kind, count in counts.items() if count), key=lambda pair: (-pair[1], pair[0]))
    return f"{sum(counts.values())} skipped ({', '.join(f'{kind} {count}' for kind, count in kinds)})"
