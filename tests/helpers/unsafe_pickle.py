"""A pickled object that makes a file when it is opened without `weights_only`."""

from pathlib import Path


class MakesFile:
    """Unpickling it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)
