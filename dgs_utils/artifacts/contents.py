"""What the user gives, known by what is in it and not by where it lies: digests of files and folders.

Small files are read each time. Large ones, and the files of folders, are read once: their SHA-256 is remembered in one
store beside the results, by path, size and times, and forgotten when any of these changes.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from dgs_utils.artifacts.places import locate, outputs_root

STORE = ".digests.sqlite"
SMALL = 2**20  # bytes of a file that is read each time rather than remembered
WORDS = {"", "train", "none"}  # values of parameters that never name a file
WEIGHTS = {".pt", ".pth", ".safetensors", ".npz"}  # files that may have a description beside them, in JSON

_steady: dict[tuple[str, frozenset[str]], str] | None = None


@contextmanager
def steady() -> Iterator[None]:
    """Look at each file and folder once within the block, as a plan of thousands of nodes wants it."""
    global _steady
    before, _steady = _steady, {} if _steady is None else _steady
    try:
        yield
    finally:
        _steady = before


def identity_of(given: str, only: Iterable[str] = ()) -> str:
    """Return what identifies a parameter's value that may name a file or folder.

    Args:
        given: the value: a path, ``name:path``, or any other text, such as the name of weights on the hub.
        only: class folders that count, where not all do (see `digest_of`).

    Returns:
        "sha256:…" in place of a path that is there; the value itself where it names none.
    """
    if given in WORDS:
        return given
    path = locate(given)
    if os.path.exists(path):
        return f"sha256:{_with_description(path, only)}"
    name, colon, rest = given.partition(":")
    if colon and rest and os.path.exists(locate(rest)):
        return f"{name}:sha256:{_with_description(locate(rest), only)}"
    return given


def _with_description(path: Path, only: Iterable[str]) -> str:
    found, beside = digest_of(path, only), path.with_suffix(".json")
    if path.suffix not in WEIGHTS or not beside.is_file():
        return found
    return hashlib.sha256(f"{found} {digest_of(beside)}".encode()).hexdigest()


def digest_of(path: Path, only: Iterable[str] = ()) -> str:
    """Return the SHA-256 of a file's bytes, or of a folder's relative file names and their contents.

    Hidden files and folders do not count. Links are followed.

    Args:
        path: the file or folder.
        only: where a folder has a subfolder of one of these names, its other subfolders do not count: ten classes of a
            thousand are what they are, whatever happens to the others.
    """
    question = (str(path), frozenset(only))
    if _steady is not None and question in _steady:
        return _steady[question]
    found = _of_folder(Path(path), question[1]) if os.path.isdir(path) else _of_file(Path(path))
    if _steady is not None:
        _steady[question] = found
    return found


def was_named(folder: Path) -> bool:
    """Return whether the content of a folder has been asked for beside these results before, as of one's own data."""
    with _Memory() as memory:
        return memory.knows(os.path.realpath(folder))


def _of_file(path: Path) -> str:
    mark = _mark(os.stat(path))
    if mark[0] <= SMALL:
        return _read(path)
    with _Memory() as memory:
        return memory.files({os.path.realpath(path): mark})[os.path.realpath(path)]


def _of_folder(folder: Path, only: frozenset[str]) -> str:
    top = os.path.realpath(folder)
    marks = {f"{top}/{name}": mark for name, mark in _walk(top, "", only, frozenset())}
    listing = hashlib.sha256(json.dumps(sorted(marks.items())).encode()).hexdigest()
    with _Memory() as memory:
        memory.name(top)
        known = memory.folder(top, listing)
        if not known:
            digests = memory.files(marks)
            lines = sorted(f"{path[len(top) + 1:]} {digest}\n" for path, digest in digests.items())
            known = hashlib.sha256("".join(lines).encode()).hexdigest()
            if all(map(_settled, marks.values())):
                memory.keep_folder(top, listing, known)
    return known


def _walk(top: str, inside: str, only: frozenset[str], above: frozenset) -> Iterator[tuple[str, tuple]]:
    """Yield relative name and mark of every file that counts; ``above`` holds the folders around, against loops."""
    with os.scandir(f"{top}/{inside}" if inside else top) as entries:
        shown = [entry for entry in entries if not entry.name.startswith(".")]
    folders = [entry for entry in shown if entry.is_dir()]
    if only & {entry.name for entry in folders}:
        folders = [entry for entry in folders if entry.name in only]
    for entry in folders:
        name = f"{inside}/{entry.name}" if inside else entry.name
        real = os.path.realpath(entry.path) if entry.is_symlink() else ""
        if not (real and (real in above or top.startswith(real))):
            yield from _walk(top, name, only, above | {real} if real else above)
    for entry in shown:
        if entry.is_file():
            yield f"{inside}/{entry.name}" if inside else entry.name, _mark(entry.stat())


def _mark(status: os.stat_result) -> tuple[int, int, int]:
    """Return size and times in ns; the time of the last change of state tells of a file whose other time was set."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _settled(mark: tuple[int, int, int]) -> bool:
    """Return whether a later change would show in the times: they are further back than the clock's steps are long."""
    newest = max(mark[1:])
    return newest < time.time_ns() - (2 * 10**9 if newest % 10**9 == 0 else 5 * 10**7)


def _read(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Memory:
    """The store: a small data base that any number of processes may use; without it everything is read again."""

    def __enter__(self) -> "_Memory":
        import sqlite3

        self.base: Any = None  # a connection, where one can be opened
        self.errors = sqlite3.Error
        with suppress(sqlite3.Error, OSError):
            outputs_root().mkdir(parents=True, exist_ok=True)
            self.base = sqlite3.connect(outputs_root() / STORE, timeout=60, isolation_level=None)
            self.base.execute("create table if not exists files (path text primary key, mark text, digest text)")
            self.base.execute("create table if not exists folders (path text, listing text, digest text, "
                              "primary key (path, listing))")
        return self

    def __exit__(self, *_: Any) -> None:
        if self.base:
            self.base.close()

    def _ask(self, query: str, values: tuple) -> list[tuple]:
        try:
            with closing(self.base.execute(query, values)) as cursor:
                return cursor.fetchall()
        except (AttributeError, self.errors):
            return []

    def folder(self, path: str, listing: str) -> str:
        """Return the digest of a folder whose files have these names, sizes and times; "" where it is not known."""
        found = self._ask("select digest from folders where path = ? and listing = ?", (path, listing))
        return found[0][0] if found else ""

    def knows(self, path: str) -> bool:
        """Return whether anything is remembered of a folder."""
        return bool(self._ask("select 1 from folders where path = ? limit 1", (path,)))

    def name(self, path: str) -> None:
        """Remember that a folder has been asked for, whatever becomes of its digest."""
        if not self.knows(path):
            self.keep_folder(path, "", "")

    def keep_folder(self, path: str, listing: str, digest: str) -> None:
        """Remember a folder's digest."""
        self._ask("insert or replace into folders values (?, ?, ?)", (path, listing, digest))

    def files(self, marks: dict[str, tuple]) -> dict[str, str]:
        """Return the digests of files with their marks, reading those that are not known."""
        above = os.path.commonpath(map(os.path.dirname, marks)) if marks else ""
        rows = self._ask("select path, mark, digest from files where path >= ? and path < ?",
                         (f"{above}/", f"{above}0"))  # "0" follows "/"
        known = {path: digest for path, mark, digest in rows if path in marks and mark == json.dumps(marks[path])}
        left = [path for path in marks if path not in known]
        with ThreadPoolExecutor(4) as pool:
            fresh = dict(zip(left, pool.map(_read, left), strict=True))
        keep = [(path, json.dumps(marks[path]), digest) for path, digest in fresh.items() if _settled(marks[path])]
        with suppress(AttributeError, self.errors):
            self.base.execute("begin immediate")
            self.base.executemany("insert or replace into files values (?, ?, ?)", keep)
            self.base.execute("commit")
        return known | fresh
