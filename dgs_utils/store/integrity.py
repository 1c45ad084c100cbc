"""Which files of a finished result are not what its stage wrote, and which of its inputs hold something else by now.

`damaged_files` reads only what was changed since the stage finished, as the system's times of change show: the
checksums of single files and the manifest are written last. (A disk that loses bits by itself changes no time, and
`verify` reads every byte.)
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from stat import S_ISDIR
from typing import Any

from dgs_utils.store.hashing import hash_entry, walk_files
from dgs_utils.store.manifest import CHECKSUMS, MANIFEST, RUN_INPUTS, damaged_records, read_checksums, read_manifest

RECORDS = (CHECKSUMS, RUN_INPUTS, MANIFEST)  # in the order in which they are written


def damaged_files(folder: Path, entries: dict[str, int]) -> list[str]:
    """Return the files and records of a finished folder that are missing, or were changed and are not what they were.

    Files that were added do no harm. What was read and is as it was, such as a copied result, is not read again.
    ``entries`` are those of the manifest, each with the number of its files.
    """
    if not (touched := _touched(folder, entries)):
        return []
    manifest = read_manifest(folder)
    damaged = damaged_records(folder, manifest) if set(RECORDS) & set(touched) else []
    damaged += [name for name, right in checksums_of(folder, manifest)
                if name.partition("/")[0] in touched and hash_or_none(folder / name)["sha256"] != right]
    for name in () if damaged else RECORDS:
        with suppress(OSError):  # another user's; the change time becomes now, and nothing else changes
            status = os.stat(folder / name)
            os.utime(folder / name, ns=(status.st_atime_ns, status.st_mtime_ns))
    return damaged


def _touched(folder: Path, entries: dict[str, int]) -> list[str]:
    """Return the entries and records of which files are missing or were changed since the stage finished."""
    expected, top = dict.fromkeys(RECORDS, 1) | entries, str(folder)
    times = {name: _last_change(f"{top}/{name}") for name in expected}
    written, finished = times[MANIFEST][1], min((times[name][1] for name in RECORDS if times[name][0]), default=0)
    if not written:  # while it is removed
        return []
    return [name for name, (files, changed) in times.items() if files < expected[name]
            or changed > (written if name in RECORDS else finished)]


def _last_change(path: str) -> tuple[int, int]:
    """Return how many files are at or below a path, and when one was changed last, in ns; 0 for none."""
    try:
        status = os.stat(path)
        if not S_ISDIR(status.st_mode):
            return 1, status.st_ctime_ns
        changed = [file.st_ctime_ns for _, file in walk_files(path)]
        return len(changed), max(changed, default=0)
    except OSError:  # it is missing, or a link to itself
        return 0, 0


def checksums_of(folder: Path, manifest: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield names and SHA-256 of what a manifest names, as single files where their hashes are known."""
    checksums = read_checksums(folder, manifest)
    for name, entry in manifest["files"].items():
        if name in checksums:
            yield from ((f"{name}/{file}", known["sha256"]) for file, known in checksums[name].items())
        else:
            yield name, entry["sha256"]


def hash_or_none(path: Path) -> dict[str, Any]:
    """Return SHA-256 and size of a file or a folder; no hash where it cannot be read."""
    try:
        return hash_entry(path)
    except OSError:
        return {"sha256": "", "bytes": 0}
