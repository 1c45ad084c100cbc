"""Which test images each training got right."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import chdtrc

from dgs_utils.images.tables import read_table

EPOCHS = {"best": "correct_best", "last": "correct"}  # file with the correctness at the epoch of a measure


def read_correct(folder: Path, measure: str = "last") -> dict[int, np.ndarray]:
    """Return which test images the trainings of a 06 folder got right, bool (images,) by training seed.

    Args:
        folder: a 06 folder.
        measure: at which epoch, "last" or "best" (of the tests that count).

    Raises:
        ValueError: the folder does not hold the correctness at that epoch.
    """
    path = Path(folder) / f"{EPOCHS[measure]}.npz"
    if not path.exists():
        raise ValueError(f"{folder} has no {path.name}, which images were right at the {measure} epoch; run notebook "
                         f"06 again, or compare without test images")
    results = read_table(Path(folder) / "results.csv")
    with np.load(path) as packed:
        return {int(seed): np.unpackbits(packed[str(seed)], count=int(n)).astype(bool)
                for seed, n in zip(results["training_seed"], results["n_test"], strict=True)}


def is_kept(rows: pd.DataFrame, measure: str = "best") -> bool:
    """Tell whether the folders of all rows say which images were right; files of rows and older folders do not."""
    return all(folder and (Path(folder) / f"{EPOCHS[measure]}.npz").exists() for folder in rows["folder"].unique())


def correct_of(rows: pd.DataFrame, measure: str = "last") -> np.ndarray:
    """Return the correctness of each row's training, bool (rows, images).

    Args:
        rows: of ``results.csv``, with the 06 ``folder``.
        measure: see `read_correct`.

    Raises:
        ValueError: the trainings were tested on different numbers of images.
    """
    folders = {folder: read_correct(Path(folder), measure) for folder in rows["folder"].unique()}
    found = [folders[folder][seed] for folder, seed in zip(rows["folder"], rows["training_seed"], strict=True)]
    sizes = sorted({len(correct) for correct in found})
    if len(sizes) > 1:
        raise ValueError(f"the runs were tested on {' and '.join(map(str, sizes))} images; "
                         f"compare runs of one test set")
    return np.array(found)


def mcnemar(by_image: np.ndarray) -> float:
    """Return the two-sided p value of McNemar's test that two arms are right as often, on these test images.

    With several trainings the images are the clusters: (Σ D)² / Σ D² follows χ² with one degree of freedom (Durkalski
    et al., Statistics in Medicine 2003), which for one training an arm is McNemar's (b − c)² / (b + c).

    Args:
        by_image: difference of how often the two arms are right, (images,).
    """
    squares = float((by_image**2).sum())
    return float(chdtrc(1, by_image.sum() ** 2 / squares)) if squares > 0 else 1.0
