"""Confusion counts of a classifier, for scorers and for students alike."""

from collections.abc import Sequence

import pandas as pd


def count_confusions(true: Sequence[str], predicted: Sequence[str], order: Sequence[str]) -> pd.DataFrame:
    """Count each pair of true and predicted class that occurs.

    Args:
        true, predicted: names of classes, one an image.
        order: all names of classes, in the order of the lines; others follow.

    Returns:
        true, predicted, images. Names are in cells only, since a class may be called "true", too.

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
