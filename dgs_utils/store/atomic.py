"""Atomic writes: a reader sees the old file or the new one, never half of one."""

import ctypes
import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

HOST_NAME = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:24] or "host"


@contextmanager
def atomic(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` (file or folder) and rename it to ``path`` when the block succeeds.

    At any moment there is the old or the new one, also where the process is killed; only of a folder that is replaced
    there is neither for a moment, in which a killed process leaves nothing, as before the first one was written. With
    ``durable`` a file's bytes are on disk before it gets its name, in case the machine crashes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{HOST_NAME}.{os.getpid()}.partial")
    try:
        yield partial
        if durable:
            _fsync(partial)
        if path.is_dir() and partial.is_dir():
            _replace_folder(partial, path)
        else:
            if path.is_dir():  # a folder in a file's place, by damage
                remove_path(path)
            os.replace(partial, path)
        if durable:
            _fsync(path.parent)
    finally:
        remove_path(partial)


def remove_path(path: Path) -> None:
    """Remove a file or a folder; a link, but not where it leads; nothing where there is nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_filesystem(folder: Path) -> None:
    """Flush everything written in a folder's file system to disk.

    After a crash of the machine a file can have its name and not its bytes; so a manifest is written after this.
    """
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                if ctypes.CDLL(None, use_errno=True).syncfs(handle) == 0:  # thousands of files at the cost of a few
                    return
            finally:
                os.close(handle)
    os.sync()


def _fsync(path: Path) -> None:
    with suppress(OSError):  # some file systems cannot for folders
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _replace_folder(new: Path, old: Path) -> None:
    """Put one folder in place of another, which is removed under another name, so that a kill leaves no half of it."""
    aside = new.with_name(f".old{new.name}")
    os.replace(old, aside)
    os.replace(new, old)
    remove_path(aside)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented, keys in the given order."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """Return what a JSON file holds; {} where it is missing or damaged, for notes that decide no result."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}


def write_csv(path: Path, frame) -> None:
    """Write a `pandas.DataFrame` atomically, without its index; floats round-trip exactly."""
    with atomic(path) as partial:
        frame.to_csv(partial, index=False, lineterminator="\n")
