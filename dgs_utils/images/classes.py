"""Class tables: which classes a data set has, in which order, and what other models call them."""

from pathlib import Path

import pandas as pd

from dgs_utils.artifacts.names import check_name
from dgs_utils.images.tables import read_table
from dgs_utils.params import SUBSETS

__all__ = ["SUBSETS", "read_classes"]



def read_classes(prepare: Path) -> pd.DataFrame:
    """Return a 00 folder's class table: label, class (folder name), index (in the difficulty classifier's output),
    condition (label of the diffusion model), name.

    Raises:
        ValueError: a class's name cannot be that of a folder.
    """
    table = read_table(prepare / "classes.csv")
    for name in table["class"]:
        check_name(name, f"{prepare / 'classes.csv'}: a class")
    return table
