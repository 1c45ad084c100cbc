"""Folds of the originals for cross-fitted difficulty.

A judge that was trained on an image finds it easier than one that was not, so that originals, which the judge of
stage 00 has seen, look easier beside a pool that it has not. With k folds, k judges are each trained without one of
them; an original is scored by the judge that has not seen it, and the pool by the mean of all [B §5].
"""

import numpy as np
import pandas as pd

from dgs_utils.runtime.seeds import numpy_rng


def folds_of(table: pd.DataFrame, folds: int, seed: int = 0) -> np.ndarray:
    """Divide the images of every class at random into folds of equal size, to one image.

    Args:
        table: one row an image: file_name, class.
        folds: number of folds, ≥ 2.
        seed: of the division, which is named after the class, too.

    Returns:
        int64 array (N,): the fold, from 0, of each row. It does not depend on the order of rows.

    Raises:
        ValueError: a class has fewer images than folds.
    """
    found = np.empty(len(table), dtype=np.int64)
    for name, part in table.reset_index(drop=True).groupby("class", sort=False):
        if len(part) < folds:
            raise ValueError(f"class {name} has {len(part)} training images for {folds} folds; lower prepare.folds")
        places = part["file_name"].sort_values().index.to_numpy()
        found[places] = numpy_rng("prepare", "folds", seed, str(name)).permutation(len(part)) % folds
    return found
