"""Lists of images: reading them, and the natural order of file names."""

import re
from pathlib import Path

import pandas as pd


def natural_key(name: str) -> str:
    """Return a sort key that puts ``2.png`` before ``10.png``: every number padded to the same width.

    The name itself follows, so that ``1.png`` and ``01.png`` have an order too.
    """
    return re.sub(r"\d+", lambda number: number[0].zfill(20), name) + "\0" + name


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV file about images; names stay text, even where a class is called 007 or NA."""
    text = {"class": str, "file_name": str, "name": str}
    return pd.read_csv(path, dtype=text, keep_default_na=False, na_values=[""])
