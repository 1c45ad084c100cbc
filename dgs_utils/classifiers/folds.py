"""Folds of the originals for cross-fitted difficulty [B §5].

A scorer finds images of its training set easier than others. So the originals, on which the scorer of stage 00 was
trained, look easier than a pool. With k folds, k scorers are each trained without one of them; an original is scored by
the scorer that was trained without it, and the pool by the mean of all.
"""

import numpy as np
import pandas as pd

from dgs_utils.runtime.seeds import numpy_rng


def assign_folds(table: pd.DataFrame, folds: int, seed: int = 0) -> np.ndarray:
    """Divide the images of every class at random into folds whose sizes differ by one image at most.

    Returns:
        int64 array (N,): the fold, from 0, of each row of ``table`` (file_name, class), whose order does not matter.

    Raises:
        ValueError: a class has fewer images than folds.
    """
    fold = np.empty(len(table), dtype=np.int64)
    for name, part in table.reset_index(drop=True).groupby("class", sort=False):
        if len(part) < folds:
            raise ValueError(f"class {name} has {len(part)} training images for {folds} folds; lower prepare.folds")
        rows = part["file_name"].sort_values().index.to_numpy()
        fold[rows] = numpy_rng("prepare", "folds", seed, str(name)).permutation(len(part)) % folds
    return fold
