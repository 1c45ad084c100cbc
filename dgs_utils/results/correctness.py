"""What classifiers take for what: counts, per-image correctness of trainings, and McNemar's test."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import chdtrc

from dgs_utils.runtime.table_io import read_table

CORRECTNESS_FILES = {"best": "correct_best", "last": "correct"}  # by the epoch of a measure


def read_correctness(folder: Path, measure: str = "last") -> dict[int, np.ndarray]:
    """Return which test images the trainings of a 06 folder classified correctly at the "last" or the "best" epoch (of
    the tests that count), bool (images,) by training seed; raise ValueError if the folder does not say.
    """
    path = Path(folder) / f"{CORRECTNESS_FILES[measure]}.npz"
    if not path.exists():
        raise ValueError(f"{folder} has no {path.name}, which images were right at the {measure} epoch; run notebook "
                         f"06 again, or compare without test images")
    results = read_table(Path(folder) / "results.csv")
    with np.load(path) as packed:
        return {int(seed): np.unpackbits(packed[str(seed)], count=int(n)).astype(bool)
                for seed, n in zip(results["training_seed"], results["n_test"], strict=True)}


def has_correctness(rows: pd.DataFrame) -> bool:
    """Return whether the 06 folders of all rows have the correctness of the best epoch; files of rows have none."""
    file = f"{CORRECTNESS_FILES['best']}.npz"
    return all(folder and (Path(folder) / file).exists() for folder in rows["folder"].unique())


def correctness_of_rows(rows: pd.DataFrame, measure: str = "last") -> np.ndarray:
    """Return the correctness of each row's training, bool (rows, images); raise ValueError for unlike test sets."""
    folders = {folder: read_correctness(Path(folder), measure) for folder in rows["folder"].unique()}
    correct = [folders[folder][seed] for folder, seed in zip(rows["folder"], rows["training_seed"], strict=True)]
    sizes = sorted({len(images) for images in correct})
    if len(sizes) > 1:
        raise ValueError(f"the runs were tested on {' and '.join(map(str, sizes))} images; "
                         f"compare runs of one test set")
    return np.array(correct)


def mcnemar(by_image: np.ndarray) -> float:
    """Return the two-sided p value of McNemar's test that two arms have the same accuracy on these test images.

    Images are the clusters of several trainings: (Σ D)² / Σ D² follows χ² with one degree of freedom (Durkalski et al.,
    Statistics in Medicine 2003); for one training an arm that is McNemar's (b − c)² / (b + c).

    ``by_image`` is the difference of the arms' correctness, (images,).

    >>> round(mcnemar(np.repeat([1, -1, 0], [12, 4, 84])), 4)
    0.0455
    """
    squares = float((by_image**2).sum())
    return float(chdtrc(1, by_image.sum() ** 2 / squares)) if squares > 0 else 1.0


def count_confusions(true: Sequence[str], predicted: Sequence[str], order: Sequence[str]) -> pd.DataFrame:
    """Count each pair of true and predicted class that occurs: true, predicted, images, in the ``order`` of all names.

    Names are in cells only, since a class may be called "true", too.

    >>> count_confusions(["cat", "dog", "cat"], ["cat", "dog", "dog"], ["dog", "cat"])
      true predicted  images
    0  dog       dog       1
    1  cat       dog       1
    2  cat       cat       1
    """
    pairs = pd.DataFrame({"true": list(true), "predicted": list(predicted)}, dtype=object)
    ranks = {name: rank for rank, name in enumerate(order)}
    return pairs.value_counts(sort=False).reset_index(name="images").sort_values(
        ["true", "predicted"], key=lambda column: column.map(ranks).fillna(len(ranks)), kind="stable",
        ignore_index=True)
