"""How far difficulties agree: by several scorers, over all outputs or the task's, with and without a temperature."""

import warnings
from itertools import combinations

import numpy as np
import pandas as pd

from dgs_utils.runtime.seeds import numpy_rng

TITLES = {"difficulty": "in use", "difficulty_all": "over all outputs", "difficulty_task": "over the task's outputs",
          "difficulty_raw": "without temperature"}


def difficulty_columns(scores: pd.DataFrame) -> dict[str, str]:
    """Return the columns of a frame of scores that are difficulties of their own, with titles."""
    numbered = [name for name in scores if name.startswith("difficulty_") and name.rpartition("_")[2].isdecimal()]
    return {name: title for name, title in TITLES.items() if name in scores} | {
        name: f"scorer {name.rpartition('_')[2]}" for name in numbered}


def mean_ranks(scores: pd.DataFrame, originals: pd.DataFrame) -> np.ndarray:
    """Return the rank-mean difficulty: the mean over scorers of an image's rank among the originals of its class.

    A rank is the share of originals that are easier, straight lines between their difficulties, so that an image's
    depends on no other image of a pool, and how sure a scorer is plays no part.

    Args:
        scores: class, and difficulty_1, difficulty_2 … in [0, 1].
        originals: the same of the originals.

    Returns:
        float64 (N,), in [0, 1].
    """
    columns = [name for name, title in difficulty_columns(scores).items() if title.startswith("scorer ")]
    ranks = np.empty((len(scores), len(columns)))
    for name, rows in scores.reset_index(drop=True).groupby("class", sort=False):
        known = originals[originals["class"] == name]
        for i, column in enumerate(columns):
            values, first = np.unique(known[column], return_index=True)
            shares = ((known[column].rank().to_numpy() - 0.5) / len(known))[first]  # ties have their mean
            inner = (values > 0) & (values < 1)
            points = np.concatenate([[0.0], values[inner], [1.0]]), np.concatenate([[0.0], shares[inner], [1.0]])
            ranks[rows.index, i] = np.interp(rows[column], *points)
    return ranks.mean(axis=1)


def agreement(scores: pd.DataFrame, originals: pd.DataFrame, ipc: int = 0) -> pd.DataFrame:
    """Compare difficulties in pairs: their order, their values, and the sets that difficulty-guided sampling selects.

    Args:
        scores: of the images to choose from: file_name, class and difficulties in [0, 1].
        originals: of the originals, with the same columns of difficulties.
        ipc: images per class of the sets; 0 = a fifth of the smallest class.

    Returns:
        One row a pair: first, second, rank correlation (Spearman's, the mean over classes), mean change, overlap (the
        Jaccard index of the two sets of one seed), and by chance: that with the second difficulty shuffled within
        classes, which leaves the images' random numbers alone in common.

    >>> rng = np.random.default_rng(0)
    >>> table = pd.DataFrame({"file_name": map(str, range(60)), "class": "cat", "difficulty_1": rng.random(60)})
    >>> table["difficulty_2"] = table["difficulty_1"] ** 2
    >>> agreement(table, table).loc[0, "rank correlation"].item()
    1.0
    """
    titles = difficulty_columns(scores)
    names = [name for name in titles if name in originals]
    smallest = int(scores["class"].value_counts().min())
    ipc = ipc or max(1, smallest // 5)
    sets = {name: _selected(scores, originals, name, ipc) for name in names}
    rng, rows = numpy_rng("difficulty", "agreement"), []
    shuffled = {name: _selected(scores.assign(**{name: scores.groupby("class")[name].transform(rng.permutation)}),
                                originals, name, ipc) for name in names}
    for first, second in combinations(names, 2):
        correlations = [part[first].rank().corr(part[second].rank()) for _, part in scores.groupby("class")
                        if part[first].nunique() > 1 and part[second].nunique() > 1]
        rows.append({"first": titles[first], "second": titles[second],
                     "rank correlation": np.mean(correlations) if correlations else np.nan,
                     "mean change": (scores[second] - scores[first]).mean(),
                     "overlap": _overlap(sets[first], sets[second]),
                     "by chance": _overlap(sets[first], shuffled[second])})
    return pd.DataFrame(rows)


def _overlap(one: set[int], other: set[int]) -> float:
    """Return the Jaccard index of two sets of images."""
    return len(one & other) / len(one | other)


def _selected(scores: pd.DataFrame, originals: pd.DataFrame, column: str, ipc: int) -> set[int]:
    """Return the images that difficulty-guided sampling selects by a difficulty, always with the same chance."""
    from dgs_utils.selection.difficulty_guided_sampler import DifficultyGuidedSampler  # scikit-learn takes a second

    sampler = DifficultyGuidedSampler(ipc, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes that fall back to the plain logarithm
        sampler.fit(originals[column].to_numpy(), originals["class"])
        return set(sampler.select(scores[column].to_numpy(), scores["class"], ids=scores["file_name"]).tolist())
