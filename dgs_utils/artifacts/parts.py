"""Part results: what a stage has on disk before it is finished, and takes up again only where it is what was written.

Checksums are kept as parts are written: of one in a hidden file beside it, of many images in a list. What was cut,
changed, exchanged or put there by somebody else is named, removed and made again; nobody has to delete it by hand.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dgs_utils.artifacts.files import atomic, write_csv, write_json
from dgs_utils.artifacts.manifests import digest, entry_of, read_sums


@contextmanager
def kept(path: Path) -> Iterator[Path]:
    """Yield a temporary path as `files.atomic` does, and keep the checksum of what the block leaves there.

    First the checksum is kept, beside that of an older one, then the name is given: a kill in between costs nothing.
    """
    with atomic(path) as partial:
        yield partial
        write_json(_beside(path), [entry_of(partial)["sha256"], *_read(_beside(path), list)][:2])


def keep_table(path: Path, frame) -> None:
    """Write a `pandas.DataFrame` as `files.write_csv` does, and keep its checksum."""
    with kept(path) as partial:
        write_csv(partial, frame)


def is_whole(path: Path) -> bool:
    """Return whether a part result is there, as it was written; remove it, with one printed line, if it is not."""
    if not path.exists():
        return False
    try:
        whole = entry_of(path)["sha256"] in _read(_beside(path), list)
    except FileNotFoundError:  # removed by another process of the same training
        return False
    if not whole:
        _remove(path)
    return whole


def seal(folder: Path, files: Iterable[Path], record: str) -> None:
    """Keep the checksums of several files of a stage folder together, under a name of their own."""
    sums = {file.relative_to(folder).as_posix(): digest(file)["sha256"] for file in files}
    write_json(folder / "checkpoints" / "sums" / f"{record}.json", sums)


def sealed(folder: Path) -> dict[str, set[str]]:
    """Return the checksums that files of a folder may have, by their relative names.

    They are what `seal` kept, and where the folder was finished before and grows, what was in it then.
    """
    found: dict[str, set[str]] = {}
    for record in sorted((folder / "checkpoints" / "sums").rglob("[!.]*.json")):
        for name, known in _read(record, dict).items():
            found.setdefault(name, set()).add(known)
    for inside in read_sums(folder).values():
        for name, entry in inside.items():
            found.setdefault(name, set()).add(entry["sha256"])
    return found


def drop_damaged(folder: Path, files: Iterable[Path], sums: dict[str, set[str]], unknown: bool = True) -> None:
    """Remove those of some files that are not as `seal` knows them, each with one printed line.

    Args:
        folder: the stage folder.
        files: the files, whether they are there or not.
        sums: what `sealed` returned.
        unknown: whether those go, too, that have no checksum; False where another process may just be writing them.
    """
    for file in files:
        known = sums.get(file.relative_to(folder).as_posix(), set())
        if (known or unknown) and file.exists() and digest(file)["sha256"] not in known:
            _remove(file)


def _remove(path: Path) -> None:
    print(f"{path} is not what was written there; it is made again", flush=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.sums")


def _read(path: Path, kind: type) -> Any:
    """Return the JSON of a file, which tells nothing where it is missing or damaged."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return kind()
    values: Iterable[Any] = found.values() if isinstance(found, dict) else found
    return found if isinstance(found, kind) and all(isinstance(value, str) for value in values) else kind()


