"""Folders that last as long as the process that made them.

Each holds a locked file. A process that is killed leaves its folder behind and its lock free, by which the next one
knows that it may sweep it.
"""

import fcntl
import os
import shutil
import tempfile
import time
import weakref
from contextlib import suppress
from pathlib import Path

from dgs_utils.artifacts.places import outputs_root

LOCK = "owner"
KERNEL = "dgs-kernel-"
RUN = "run-"
YOUNG = 86_400  # seconds
LONGEST = 107 - len("/k-ipc-5")  # bytes of a folder in which there are to be sockets


class Scratch:
    """A folder of this process's own, in a place where those of processes that are gone are swept first.

    Args:
        place: where it is made.
        prefix: how its name begins.
        keep: whether it stays for reading, until another process sweeps it; else it goes with this object.

    Attributes:
        path: the folder.
    """

    def __init__(self, place: Path, prefix: str, keep: bool = False):
        place.mkdir(parents=True, exist_ok=True)
        sweep(place, prefix)
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
        self._owner = (self.path / f".{LOCK}").open("w")
        fcntl.flock(self._owner, fcntl.LOCK_EX)
        os.replace(self.path / f".{LOCK}", self.path / LOCK)  # nobody sees it unlocked

        if not keep:
            weakref.finalize(self, self.remove_folder, self.path)

    @staticmethod
    def remove_folder(path: Path) -> None:
        """Remove a folder that nobody needs any more."""
        shutil.rmtree(path, ignore_errors=True)


def sweep(place: Path, prefix: str) -> None:
    """Remove the folders in a place whose owners are gone."""
    for folder in place.glob(f"{prefix}*"):
        with suppress(OSError):  # it has an owner, or is another user's
            if not (folder / LOCK).exists() and time.time() - folder.stat().st_mtime < YOUNG:
                continue  # it is just being made; where its owner ended meanwhile, it goes tomorrow
            with (folder / LOCK).open("a") as owner:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


def run_folder() -> Scratch:
    """Return a folder for Snakemake's own files, where a cluster's machines see it too; the caller removes it."""
    return Scratch(outputs_root() / ".snakemake", RUN, keep=True)


def kernel_folder() -> Scratch:
    """Return a folder for a kernel's sockets: the temporary one, or ``/tmp`` where its name is too long for them.

    Raises:
        ValueError: neither will do.
    """
    places = [Path(tempfile.gettempdir()), Path("/tmp")]
    for place in places:
        if len(os.fsencode(place)) + len(f"/{KERNEL}12345678") <= LONGEST and os.access(place, os.W_OK):
            return Scratch(place, KERNEL)
    raise ValueError(f"the temporary folder {places[0]} has too long a name for sockets, and /tmp cannot be written; "
                     f"set TMPDIR to a folder whose name has at most {LONGEST - len(KERNEL) - 9} bytes")
