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
    try:
        times = {name: _change_times(f"{folder}/{name}") for name in (*entries, *RECORDS)}
        finished, written = min(times[name][0] for name in RECORDS if times[name]), times[MANIFEST][0]
    except (OSError, LookupError):  # while it is removed
        return []
    expected = dict.fromkeys(RECORDS, 1) | entries
    return [name for name, changed in times.items() if len(changed) < expected[name]
            or max(changed, default=0) > (written if name in RECORDS else finished)]


def _change_times(path: str) -> list[int]:
    """Return when each file at or below a path was changed last, in ns."""
    try:
        status = os.stat(path)
        return [file.st_ctime_ns for _, file in walk_files(path)] if S_ISDIR(status.st_mode) else [status.st_ctime_ns]
    except OSError:  # it is missing, or a link to itself
        return []


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
