"""Scores of a distilled set without training a student on it, and how far to trust them.

Each looks at features of a network that knows the task; what students learn from pixels may be something else. So a
score ranks sets only where its Kendall's τ with trained students is known, and its interval does not hold 0.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from dgs_utils.classifiers.scorer import Classifier, extract_features
from dgs_utils.difficulty.scoring import outputs_of_labels, score_images
from dgs_utils.images.image_set import ImageSet
from dgs_utils.runtime.seeds import numpy_rng

RANDOM_HALVES = 4  # random halves that the redundancy is a mean of
SETS_NEEDED = 5  # sets, the fewest from which an interval of τ follows


def score_set(images: ImageSet, real: ImageSet, scorer: Classifier, index: ArrayLike | None = None,
              device: str = "auto", batch_size: int = 128, seed: int = 0) -> dict[str, float]:
    """Score a distilled set by the scorer's features, without a training of a student.

    Args:
        images: the set, with labels from 0.
        real: images to test on, with the same classes; not those that results are reported on.
        scorer: whose features are taken.
        index: the scorer's output of each label, shape (classes,); None = by its names of classes (`score_images`).
        device: where the scorer runs.
        batch_size: images per forward pass.
        seed: of the random halves.

    Returns:
        kernel_ridge, linear_probe, redundancy (`score_features`) and recognised (share of the set that the scorer takes
        for its class), in percent.

    Raises:
        ValueError: the classes differ, or a class of one image, which has no halves.
    """
    if images.classes != real.classes:
        raise ValueError(f"{images.root} has the classes {images.classes} and {real.root} has {real.classes}; read "
                         f"both with the same list of classes")
    features = [extract_features(one, scorer, device, batch_size) for one in (images, real)]
    table = score_images(images, scorer, index, batch_size=batch_size, device=device)
    wanted = outputs_of_labels(images, [scorer], index)[0][images.labels]
    recognised = 100 * float((table["prediction"].to_numpy() == wanted).mean())
    return score_features(features[0], images.labels, features[1], real.labels, seed) | {"recognised": recognised}


def score_features(features: ArrayLike, labels: ArrayLike, real_features: ArrayLike, real_labels: ArrayLike,
                   seed: int = 0) -> dict[str, float]:
    """Score a set by features: its own, shape (N, D), and those of real images, (M, D).

    Labels are whole numbers from 0. Features are standardised by those of the set.

    Returns:
        In percent: kernel_ridge, accuracy on the real images of ridge regression (penalty 0.01 of the mean kernel) with
        a Gaussian kernel whose width is the number of features; linear_probe, that of a logistic regression; and
        redundancy, of the same kernel from one random half of each class to the other, the mean of four halvings: the
        more, the less does an image add to others.

    >>> rng = np.random.default_rng(0)
    >>> labels = np.repeat([0, 1], 20)
    >>> x, real = (rng.normal(size=(40, 3)) + 4 * labels[:, None] for _ in range(2))
    >>> score_features(x, labels, real, labels)["linear_probe"]
    100.0
    """
    from sklearn.linear_model import LogisticRegression  # loading takes a second

    x, real = np.asarray(features, dtype=np.float64), np.asarray(real_features, dtype=np.float64)
    labels, real_labels = np.asarray(labels), np.asarray(real_labels)
    sizes = np.bincount(labels)
    if x.ndim != 2 or len(x) != len(labels) or real.shape != (len(real_labels), x.shape[1]):
        raise ValueError(f"features have the shapes {x.shape} and {real.shape} for {len(labels)} and "
                         f"{len(real_labels)} labels; give a row of as many features for each label")
    if sizes[sizes > 0].min() < 2:
        raise ValueError(f"class {int(np.flatnonzero(sizes == 1)[0])} has a single image, and redundancy needs halves; "
                         f"score sets of two images a class or more")
    mean, scale = x.mean(axis=0), x.std(axis=0)
    x, real = ((one - mean) / np.where(scale > 0, scale, 1) for one in (x, real))
    probe = LogisticRegression(max_iter=1000).fit(x, labels)
    return {"kernel_ridge": _kernel_ridge(x, labels, real, real_labels),
            "linear_probe": 100 * float(probe.score(real, real_labels)), "redundancy": _redundancy(x, labels, seed)}


def _kernel_ridge(x: np.ndarray, labels: np.ndarray, real: np.ndarray, real_labels: np.ndarray) -> float:
    """Return the accuracy on ``real``, in percent, of kernel ridge regression of the classes' indicators on ``x``."""
    from sklearn.kernel_ridge import KernelRidge  # loading takes a second

    targets = np.eye(labels.max() + 1)[labels] - 1 / len(np.unique(labels))
    ridge = KernelRidge(alpha=0.01, kernel="rbf", gamma=1 / (2 * x.shape[1])).fit(x, targets)
    return 100 * float((ridge.predict(real).argmax(axis=1) == real_labels).mean())


def _redundancy(x: np.ndarray, labels: np.ndarray, seed: int) -> float:
    accuracies = []
    for split in range(RANDOM_HALVES):
        order = numpy_rng("score set", seed, split).permutation(len(labels))
        ranks = pd.Series(labels[order]).groupby(labels[order]).cumcount().to_numpy()
        halves = order[ranks % 2 == 0], order[ranks % 2 == 1]
        accuracies += [_kernel_ridge(x[one], labels[one], x[other], labels[other])
                       for one, other in (halves, halves[::-1])]
    return float(np.mean(accuracies))


# ---- Trust -----------------------------------------------------------------------------------------------------------

def score_trust(scores: pd.DataFrame, accuracies: ArrayLike, confidence: float = 0.95) -> pd.DataFrame:
    """Say how well scores order sets as trained students do: Kendall's τ-b with its interval.

    The interval is that of Fieller, Hartley and Pearson (1957): artanh τ ± z √(0.437/(n − 4)). It is about other sets
    of the same kind, under the same condition.

    Args:
        scores: one row a set, one column a score.
        accuracies: mean accuracy of students trained on each set, shape (sets,), in percent.
        confidence: of the interval.

    Returns:
        By score: tau, low, high, sets, and sentence. Without an interval, since there are fewer than five sets or a
        score is the same for all, low and high are −1 and 1.

    >>> frame = pd.DataFrame({"probe": range(8)})
    >>> score_trust(frame, [1, 2, 3, 4, 5, 6, 8, 7])["low"].round(2).tolist()
    [0.76]
    """
    from scipy.stats import kendalltau, norm  # loading takes a second

    accuracies = np.asarray(accuracies, dtype=np.float64)
    if accuracies.shape != (len(scores),) or not np.isfinite(accuracies).all():
        raise ValueError(f"accuracies has shape {accuracies.shape} for {len(scores)} sets; give one number for each")
    z, rows = norm.ppf(0.5 + confidence / 2), {}
    for name in scores:
        tau = float(np.nan_to_num(kendalltau(scores[name], accuracies).statistic))
        low, high = -1.0, 1.0
        if len(scores) >= SETS_NEEDED and scores[name].nunique() > 1:
            centre, width = np.arctanh(np.clip(tau, -0.999, 0.999)), z * np.sqrt(0.437 / (len(scores) - 4))
            low, high = map(float, np.tanh([centre - width, centre + width]))
        known = "orders sets as students do" if low > 0 else "orders sets against students" if high < 0 else (
            "may order them either way, and ranks none")
        rows[name] = {"tau": tau, "low": low, "high": high, "sets": len(scores),
                      "sentence": f"{name} {known}: τ {tau:+.2f}, {100 * confidence:.0f} % interval {low:+.2f} to "
                                  f"{high:+.2f}, {len(scores)} sets."}
    return pd.DataFrame.from_dict(rows, orient="index")


def rank_sets(scores: pd.DataFrame, by: str, trust: pd.DataFrame | Mapping[str, Mapping]) -> list:
    """Return the sets of ``scores`` (its index), the best first by one score, if that score may be trusted.

    Args:
        scores: one row a set.
        by: the score.
        trust: what `score_trust` returned of other sets, by which a score of negative τ ranks in reverse.

    Raises:
        ValueError: the interval of the score's τ holds 0, so that it ranks nothing.
    """
    row = trust.loc[by] if isinstance(trust, pd.DataFrame) else trust[by]
    if row["low"] <= 0 <= row["high"]:
        raise ValueError(f"{by} is not known to order sets as trained students do (τ {row['tau']:+.2f}, interval "
                         f"{row['low']:+.2f} to {row['high']:+.2f}); train students on the sets, or measure τ on more")
    return scores[by].sort_values(ascending=bool(row["high"] < 0), kind="stable").index.tolist()
