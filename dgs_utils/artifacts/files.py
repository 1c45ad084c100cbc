"""Writing files so that nobody ever sees half of one."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` (file or folder) and rename it to ``path`` when the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        if path.is_dir() and partial.is_dir():
            shutil.rmtree(path)  # os.replace cannot put one folder over another
        os.replace(partial, path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented, keys in the given order."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(value, indent=1) + "\n")


def write_csv(path: Path, frame) -> None:
    """Write a `pandas.DataFrame` atomically, without its index; floats round-trip exactly."""
    with atomic(path) as partial:
        frame.to_csv(partial, index=False, lineterminator="\n")
