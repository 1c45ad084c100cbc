"""Content hashes of files and folders, with one rule for both: hidden entries do not count, and links are followed.

A folder's hash is that of its files' relative names and hashes, in order, wherever the folder is. Hashes of the user's
large files and folders are cached in one SQLite file beside the results, by path, size and times.
"""

import hashlib
import json
import os
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from dgs_utils.store.paths import HUB_DATASETS, outputs_root, resolve_path

STORE_NAME = ".digests.sqlite"
UNCACHED_MAX_BYTES = 2**20  # a file of up to so many bytes is read each time
RESERVED_VALUES = {"", "train", "none"}  # values of parameters that never name a file
WEIGHT_SUFFIXES = {".pt", ".pth", ".safetensors", ".npz", ".ckpt", ".bin", ".tar"}  # with a description beside, in JSON
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,10})\b")  # in the name of published weights, which identifies them
CREATE_TABLE = ("create table if not exists hashes (path text, signature text, hash text, checksum text, "
                "primary key (path, signature))")  # of files and folders; the checksum is of the other columns

_cache: dict[tuple[str, frozenset[str]], str] | None = None


@contextmanager
def hash_cache() -> Iterator[None]:
    """Hash each file and folder once within the block, for a plan of thousands of nodes."""
    global _cache
    before, _cache = _cache, {} if _cache is None else _cache
    try:
        yield
    finally:
        _cache = before


# ---- Files and folders -----------------------------------------------------------------------------------------------

def walk_files(folder: Path | str, only: Iterable[str] = ()) -> Iterator[tuple[str, os.stat_result]]:
    """Yield relative name and status of every file in a folder and below, in no order.

    Where a folder has a subfolder of a name in ``only``, its other subfolders do not count: ten classes of a thousand
    are the same, whatever happens to the others.
    """
    yield from _walk(str(folder), "", frozenset(only), frozenset())


def _walk(top: str, inside: str, only: frozenset[str], links: frozenset[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the files of one folder; ``links`` are the targets of the links on the way, against loops."""
    with os.scandir(f"{top}/{inside}") as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    folders = {entry.name for entry in visible if entry.is_dir()}
    counted = only & folders or folders
    for entry in visible:
        if entry.name in counted:
            target = os.path.realpath(entry.path) if entry.is_symlink() else ""
            if not target or not (target in links or f"{os.path.realpath(top)}/".startswith(f"{target}/")):
                yield from _walk(top, f"{inside}{entry.name}/", only, links | {target} if target else links)
        elif entry.name not in folders and entry.is_file():
            yield f"{inside}{entry.name}", entry.stat()


def hash_file(path: Path) -> dict[str, Any]:
    """Return SHA-256 and size of a file."""
    return {"sha256": _read_hash(path), "bytes": path.stat().st_size}


def hash_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return SHA-256 and size of each file in a folder and below, by relative name, in order."""
    return {name: hash_file(folder / name) for name in sorted(name for name, _ in walk_files(folder))}


def hash_entry(path: Path) -> dict[str, Any]:
    """Return SHA-256 and size of a file, or of a folder with all files in it."""
    return hash_file(path) if path.is_file() else combine_hashes(hash_files(path))


def combine_hashes(files: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return SHA-256, size and number of files of a folder, from those of its files by relative name."""
    return {"sha256": _hash_listing({name: entry["sha256"] for name, entry in files.items()}),
            "bytes": sum(entry["bytes"] for entry in files.values()), "files": len(files)}


def _hash_listing(hashes: Mapping[str, str]) -> str:
    return hashlib.sha256("".join(sorted(f"{name} {value}\n" for name, value in hashes.items())).encode()).hexdigest()


def _read_hash(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- The user's own files and folders --------------------------------------------------------------------------------

def content_id(value: str, only: Iterable[str] = ()) -> str:
    """Return what identifies a parameter's value: "sha256:…" in place of a path that exists, else the value itself.

    It may be a path, ``name:path``, ``path@name``, or any other text, such as the name of weights on the hub; ``only``
    are the class folders that count, where not all do (see `walk_files`).
    """
    if value in RESERVED_VALUES or value.startswith(HUB_DATASETS):
        return value
    path = resolve_path(value)
    if os.path.exists(path):
        return f"sha256:{_hash_with_description(path, only)}"
    file, at, name = value.rpartition("@")
    if at and os.path.isfile(resolve_path(file)):
        return f"{content_id(file)}@{name}"
    name, colon, rest = value.rpartition(":")
    content = content_id(rest, only) if colon and rest else rest
    return f"{name}:{content}" if content != rest else value


def names_file(value: str) -> bool:
    """Return whether a value names a file or folder that exists, in one of the forms of `content_id`."""
    file, at, _ = value.rpartition("@")
    rest = value.rpartition(":")[2]
    return (os.path.exists(resolve_path(value)) or bool(at and os.path.isfile(resolve_path(file)))
            or (rest not in ("", value) and names_file(rest)))


def _hash_with_description(path: Path, only: Iterable[str]) -> str:
    """Return the hash of a file or folder; of weights, together with a JSON beside them and the hash in their name."""
    content, description = hash_path(path, only), path.with_suffix(".json")
    if path.suffix not in WEIGHT_SUFFIXES:
        return content
    more = [name for name in HASH_IN_NAME.findall(path.name) if not content.startswith(name)]
    more += [hash_path(description)] if description.is_file() else []
    return hashlib.sha256(" ".join([content, *more]).encode()).hexdigest() if more else content


def hash_path(path: Path, only: Iterable[str] = ()) -> str:
    """Return the SHA-256 of a file, or of a folder (see `walk_files` for ``only``), from the cache where it has it."""
    question = (str(path), frozenset(only))
    if _cache is not None and question in _cache:
        return _cache[question]
    content = _hash_folder(Path(path), question[1]) if os.path.isdir(path) else _hash_large_file(Path(path))
    if _cache is not None:
        _cache[question] = content
    return content


def _hash_large_file(path: Path) -> str:
    status = os.stat(path)
    if status.st_size <= UNCACHED_MAX_BYTES:
        return _read_hash(path)
    real = os.path.realpath(path)
    return _hash_cached({real: stat_signature(status)})[real]


def _hash_folder(folder: Path, only: frozenset[str]) -> str:
    top = os.path.realpath(folder)
    signatures = {f"{top}/{name}": stat_signature(status) for name, status in walk_files(top, only)}
    signature = hashlib.sha256(json.dumps(sorted(signatures.items())).encode()).hexdigest()
    rows = list(select_rows("path = ?", top))
    if content := next((value for _, other, value in rows if other == signature), ""):
        return content
    if not rows:
        insert_rows([(top, "", "")])  # so that it is registered, whatever becomes of its hash
    hashes = _hash_cached(signatures)
    content = _hash_listing({path[len(top) + 1:]: value for path, value in hashes.items()})
    if all(map(is_stable, signatures.values())):
        insert_rows([(top, signature, content)])
    return content


def _hash_cached(signatures: dict[str, tuple[int, int, int]]) -> dict[str, str]:
    """Return the hashes of files by path, reading those that are not cached with their signature."""
    above = os.path.commonpath(map(os.path.dirname, signatures)) if signatures else ""
    wanted = {path: json.dumps(signature) for path, signature in signatures.items()}
    rows = select_rows("path >= ? and path < ?", f"{above}/", f"{above}0")  # "0" follows "/"
    hashes = {path: value for path, signature, value in rows if wanted.get(path) == signature}
    missing = [path for path in wanted if path not in hashes]
    with ThreadPoolExecutor(4) as pool:
        hashes |= zip(missing, pool.map(_read_hash, missing), strict=True)
    insert_rows([(path, wanted[path], hashes[path]) for path in missing if is_stable(signatures[path])])
    return hashes


def is_registered(folder: Path) -> bool:
    """Return whether an experiment or a notebook beside these results has named a folder before."""
    return any(select_rows("path = ?", os.path.realpath(folder)))


def stat_signature(status: os.stat_result) -> tuple[int, int, int]:
    """Return size, modification time and change time in ns; the last shows an edit whose other time was set back."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def is_stable(signature: tuple[int, int, int]) -> bool:
    """Return whether a later change would show in the times, which are older than the clock's steps are long."""
    newest = max(signature[1:])
    return newest < time.time_ns() - (2 * 10**9 if newest % 10**9 == 0 else 5 * 10**7)


def _row_checksum(path: str, signature: str, content: str) -> str:
    return hashlib.sha256(json.dumps([path, signature, content]).encode()).hexdigest()[:16]


def _database() -> sqlite3.Connection:
    outputs_root().mkdir(parents=True, exist_ok=True)
    base = sqlite3.connect(outputs_root() / STORE_NAME, timeout=60)  # any number of processes may use it
    try:
        base.execute(CREATE_TABLE)
    except sqlite3.Error:
        base.close()
        raise
    return base


def select_rows(condition: str, *values: str) -> Iterator[tuple[str, str, str]]:
    """Yield rows of the SQLite file: path, signature, hash. None is there where it cannot be read, or is damaged."""
    with suppress(sqlite3.Error, OSError), closing(_database()) as base:
        for row in base.execute(f"select * from hashes where {condition}", values):
            if row[3] == _row_checksum(*row[:3]):
                yield row[:3]


def insert_rows(rows: list[tuple[str, str, str]]) -> None:
    """Write rows to the SQLite file, if there are any and it can be written."""
    with suppress(sqlite3.Error, OSError), closing(_database()) as base, base:
        base.executemany("insert or replace into hashes values (?, ?, ?, ?)",
                         [(*row, _row_checksum(*row)) for row in rows])
