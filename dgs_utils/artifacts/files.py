"""Writing files so that nobody ever sees half of one."""

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

HOST = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:24] or "host"


@contextmanager
def atomic(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` (file or folder) and rename it to ``path`` when the block succeeds.

    At any moment there is the old or the new one, also where the process is killed. One exception: a system other than
    Linux cannot exchange two folders, so that between two renames the old one has another name, which `recover` knows.

    Args:
        path: file or folder.
        durable: whether a file's bytes are on disk before it gets its name, in case that the machine goes down.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{HOST}.{os.getpid()}.partial")
    try:
        yield partial
        if durable:
            _flush(partial)
        if path.is_dir() and partial.is_dir():
            _replace_folder(partial, path)
        else:
            os.replace(partial, path)
        if durable:
            _flush(path.parent)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)


def settle(folder: Path) -> None:
    """Put on disk all that was written in a folder, so that what is written next never outlives it.

    After a crash of the machine a file can have its name and not its bytes; so a manifest comes after this.
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


def _flush(path: Path) -> None:
    with suppress(OSError):  # some file systems cannot for folders
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _replace_folder(new: Path, old: Path) -> None:
    """Put one folder in place of another, which takes its name; at once where the system can exchange them."""
    if _exchange(new, old):
        return
    aside = old.with_name(f"{new.name.removesuffix('.partial')}.aside")
    os.replace(old, aside)  # os.replace cannot put one folder over another; `recover` finds it after a crash
    os.replace(new, old)
    shutil.rmtree(aside)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two folders by Linux's renameat2; return whether that was possible."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        call, here, exchange = ctypes.CDLL(None, use_errno=True).renameat2, -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    except (OSError, AttributeError):
        return False
    return call(here, os.fsencode(first), here, os.fsencode(second), ctypes.c_uint(exchange)) == 0


def recover(folder: Path) -> None:
    """Give folders back their names that a crash left aside, in a system that cannot exchange two at once."""
    for aside in folder.rglob(".*.aside"):
        path = aside.with_name(aside.name[1:].removesuffix(".aside").rsplit(".", 2)[0])
        if path.exists():
            shutil.rmtree(aside)
        else:
            os.replace(aside, path)


def write_json(path: Path, value: Any, durable: bool = False) -> None:
    """Write JSON atomically, indented, keys in the given order (``durable``: see `atomic`)."""
    with atomic(path, durable) as partial:
        partial.write_text(json.dumps(value, indent=1) + "\n")


def write_csv(path: Path, frame) -> None:
    """Write a `pandas.DataFrame` atomically, without its index; floats round-trip exactly."""
    with atomic(path) as partial:
        frame.to_csv(partial, index=False, lineterminator="\n")
