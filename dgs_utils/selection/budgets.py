"""How many images each class of a distilled set has, where that is not the same number for all."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from dgs_utils.runtime.table_io import read_table

WEIGHTS = ("equal", "difficulty", "confusion")  # or a table of one's own


def share_images(total: int, weights: ArrayLike, most: ArrayLike) -> np.ndarray:
    """Share images among classes in proportion to weights: at least one each, and no more than a class has.

    With the factor λ for which the shares q = min(max(λ · weight, 1), most) sum to the total, each class gets the floor
    of its share, and the images still missing go one each to the largest remainders, the first class first among equal
    ones. Of all whole numbers within these limits, these are nearest to the shares; fractions are exact.

    Args:
        total: images of all classes, at least their number and at most what they have together.
        weights: shape (classes,), not negative, finite, with a positive sum.
        most: shape (classes,), how many images each class has, ≥ 1.

    Returns:
        int64 array of shape (classes,), summing to ``total``.

    Raises:
        ValueError: a total or weights that cannot be met.

    >>> share_images(10, [1, 1, 8], [9, 9, 5]).tolist()
    [3, 2, 5]
    """
    values, most = np.asarray(weights, dtype=np.float64), np.asarray(most, dtype=np.int64)
    if not (np.isfinite(values).all() and (values >= 0).all() and values.any()):
        raise ValueError(f"the weights of classes are {values.tolist()}; give numbers from 0, not all of them 0")
    if not len(most) <= total <= most.sum():
        raise ValueError(f"{total} images cannot be shared among {len(most)} classes that have {most.sum()}; each "
                         f"class gives at least one, and none gives more than it has")
    fixed: dict[int, int] = {}
    while True:
        free = [i for i in range(len(most)) if i not in fixed]
        left, mass = total - sum(fixed.values()), sum((Fraction(values[i]) for i in free), Fraction())
        shares = {i: Fraction(values[i]) * left / mass if mass else Fraction(left, len(free)) for i in free}
        low = {i for i, share in shares.items() if share < 1}
        high = {i for i, share in shares.items() if share > most[i]}
        if not low and not high:
            break
        excess = sum(1 - shares[i] for i in low) - sum(shares[i] - int(most[i]) for i in high)
        fixed |= dict.fromkeys(low, 1) if excess > 0 else {i: int(most[i]) for i in high} if excess < 0 else (
            dict.fromkeys(low, 1) | {i: int(most[i]) for i in high})
    counts = np.array([fixed[i] if i in fixed else int(shares[i]) for i in range(len(most))], dtype=np.int64)
    remainders = sorted(free, key=lambda i: (-(shares[i] % 1), i))
    counts[remainders[: total - counts.sum()]] += 1
    return counts


def class_weights(kind: str, table: pd.DataFrame) -> pd.Series:
    """Return the weight of each class, by name in order of first appearance.

    Args:
        kind: "equal"; "difficulty", the mean score of the class's candidates; "confusion", the share of them that the
            scorer takes for another class; or the path of a table with the columns class and weight.
        table: the candidates: class, score for difficulty, and correct for confusion.

    Raises:
        ValueError: the table cannot be read, or lacks a column or a class.
    """
    by_class = table.groupby("class", sort=False)
    if kind == "equal":
        return by_class.size() * 0 + 1
    if kind == "difficulty":
        return by_class["score"].mean()
    if kind == "confusion":
        return 1 - by_class["correct"].mean()
    if not Path(kind).is_file():
        raise ValueError(f"sample.class_weights is {kind!r}, which is no file; choose {', '.join(WEIGHTS)}, or give a "
                         f"table with the columns class and weight")
    own = read_table(Path(kind))
    if not {"class", "weight"} <= set(own):
        raise ValueError(f"{kind} has the columns {', '.join(own)}; a table of weights has class and weight")
    weights = own.astype({"class": str}).drop_duplicates("class", keep="last").set_index("class")["weight"]
    missing = [name for name in by_class.groups if name not in weights.index]
    if missing:
        raise ValueError(f"{kind} has no weight of class {missing[0]}; give each class one")
    return weights[list(by_class.size().index)]


def class_budgets(table: pd.DataFrame, ipc: int, total: int, kind: str, take_all: bool,
                  warn: Callable[[str], None] = print) -> dict[str, int]:
    """Return how many images are taken of each class.

    Args:
        table: the candidates (see `class_weights`).
        ipc: images per class; the whole set has that many times the number of classes where ``total`` is 0.
        total: images of all classes.
        kind: weights of classes (see there).
        take_all: a class that has fewer than its share gives all it has, with a warning; what it lacks goes to the
            others if the set is shared by total or weights. Without, such a class is an error.
        warn: receives a sentence a short class.

    Raises:
        ValueError: a class that is too short, or a total or weights that cannot be met; the sentence names it.
    """
    weights, sizes = class_weights(kind, table), table.groupby("class", sort=False).size()
    shared = bool(total) or kind != "equal"
    total = total or ipc * len(sizes)
    if total < len(sizes):
        raise ValueError(f"sample.total is {total} for {len(sizes)} classes; give at least one image for each")
    wanted = dict(zip(sizes.index, share_images(total, weights, np.full(len(sizes), total)), strict=True))
    for name, size in sizes.items():
        if wanted[name] > size and not take_all:
            raise ValueError(f"class {name} is to have {wanted[name]} images and has {size}; enlarge the pool, ask for "
                             f"fewer, or set sample.short_classes to take_all")
        if wanted[name] > size:
            warn(f"class {name} has {size} images, fewer than its share of {wanted[name]}; all of them are taken")
    if not shared:
        return {name: min(int(wanted[name]), int(size)) for name, size in sizes.items()}
    return dict(zip(sizes.index, map(int, share_images(min(total, int(sizes.sum())), weights, sizes)), strict=True))
