"""Partial results, reused only if their checksum matches.

Checksums are recorded as partial results are written: of a single one in a hidden file beside it, of many images in a
list. One that was cut, changed or replaced is named, removed and made again.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dgs_utils.store.atomic import atomic, read_json, remove_path, write_csv, write_json
from dgs_utils.store.hashing import hash_entry, hash_file
from dgs_utils.store.manifest import PARTIAL_CHECKSUMS, read_checksums


@contextmanager
def write_verified(path: Path) -> Iterator[Path]:
    """Yield a temporary path as `atomic` does, and record the checksum of what the block writes there.

    The checksum is written first, beside the one before it, and then the file gets its name, so that a process that is
    killed in between leaves a valid file.
    """
    with atomic(path) as partial:
        yield partial
        known = _read_checksums_of(path)
        write_json(_checksum_file(path), [hash_entry(partial)["sha256"], *known][:2])


def write_verified_csv(path: Path, frame) -> None:
    """Write a `pandas.DataFrame` as `atomic.write_csv` does, and record its checksum."""
    with write_verified(path) as partial:
        write_csv(partial, frame)


def verify_or_remove(path: Path) -> bool:
    """Return whether a partial result exists as it was written; remove it, with one printed line, if it is not."""
    if not path.exists():
        return False
    try:
        valid = hash_entry(path)["sha256"] in _read_checksums_of(path)
    except FileNotFoundError:  # removed by another process of the same training
        return False
    if not valid:
        _remove(path)
    return valid


def record_checksums(folder: Path, files: Iterable[Path], record: str) -> None:
    """Record the checksums of several files of a stage folder together, under a name of their own."""
    checksums = {file.relative_to(folder).as_posix(): hash_file(file)["sha256"] for file in files}
    try:
        write_json(folder / PARTIAL_CHECKSUMS / f"{record}.json", checksums)
    except FileNotFoundError:  # the folder of records went, as another shard has just finished the result
        write_json(folder / PARTIAL_CHECKSUMS / f"{record}.json", checksums)


def known_checksums(folder: Path) -> dict[str, set[str]]:
    """Return the checksums that files of a folder may have, by their relative names.

    They are those of `record_checksums`, and of a folder that was finished before and grows, those of its files then.
    """
    known: dict[str, set[str]] = {}
    for record in sorted((folder / PARTIAL_CHECKSUMS).rglob("[!.]*.json")):
        if isinstance(checksums := read_json(record), dict):
            for name, checksum in checksums.items():
                known.setdefault(name, set()).add(str(checksum))
    for subfolder, files in read_checksums(folder).items():
        for name, entry in files.items():
            known.setdefault(f"{subfolder}/{name}", set()).add(entry["sha256"])
    return known


def remove_corrupt(folder: Path, files: Iterable[Path], known: dict[str, set[str]], unknown: bool = True) -> None:
    """Remove those of a stage folder's files whose checksum is not a known one (`known_checksums`), each with a line.

    Files need not exist. Those without a known checksum stay if not ``unknown``, as another process may be writing.
    """
    for file in files:
        checksums = known.get(file.relative_to(folder).as_posix(), set())
        with suppress(FileNotFoundError):  # another shard has just removed it
            if (checksums or unknown) and file.exists() and hash_file(file)["sha256"] not in checksums:
                _remove(file)


def _remove(path: Path) -> None:
    print(f"{path} is not what was written there; it is made again", flush=True)
    remove_path(path)


def _checksum_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.sums")


def _read_checksums_of(path: Path) -> list[Any]:
    checksums = read_json(_checksum_file(path))
    return checksums if isinstance(checksums, list) else []
