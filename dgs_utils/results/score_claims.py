"""Rules over difficulty scores for the paper's claims.

The paper shows these distributions in Figs. 2 and 3 for two classes and gives no numbers. Most rules take one number a
class, with intervals over classes, for the given pools.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from dgs_utils.results.random_effects import t_critical
from dgs_utils.results.verdicts import ERROR_RATE, UNDECIDED, Effect, Finding, decide
from dgs_utils.selection.histograms import divergence, histogram
from dgs_utils.selection.targets import difficulty_shift, scale_counts

DRAWN_SET_NEEDED = "folders of stages 04 and 05 of a set that difficulty-guided sampling drew are needed"
SEVERAL_SIZES_NEEDED = "folders of stage 04 with the same pool in several sizes are needed"
FEATURES = "features of the images (not only their difficulty) are needed"


def class_numbers(scores: pd.DataFrame, sets: pd.DataFrame) -> pd.DataFrame:
    """Return the numbers of each class of each transform that claims are about.

    Args:
        scores, sets: as in `claims.ClaimInputs`; score and transformed in [0, 1].

    Returns:
        transform, class, scored, and (those marked * also with _after, on the transformed scales):
        easier*: difficulty of the originals minus that of the pool (Wasserstein-1, negative for harder pools).
        off*: its absolute value.
        divergence*: KL divergence of the pool's histogram from the uniform one, bits.
        empty*: number of empty intervals of the pool.
        shortage*: images that a scaled distribution asks for and the pool lacks; unmet*: intervals with a shortage.
        altered: Wasserstein-1 distance between the originals' difficulties before and after.
        ends: fraction of originals in the first or last interval, the smaller of both, minus that of an even spread.
        nearer: distance of the pool to the originals minus that of the set, if there is a set.
        varied: number of intervals that the set fills, minus the expected number for random images of the pool.
    """
    from scipy import stats  # here, because it takes a while to import

    drawn = dict(list(sets.groupby(["transform", "class"], sort=False))) if len(sets) else {}
    lines = []
    for key, part in scores.groupby(["transform", "class"], sort=False):
        scored, ipc, bins = part[["scored", "ipc", "bins"]].iloc[0]
        (original, after), (pool, pool_after) = (part.loc[part["set"] == which, ["score", "transformed"]].to_numpy().T
                                                 for which in ("original", "pool"))
        line = {"transform": key[0], "class": key[1], "scored": scored,
                "altered": abs(difficulty_shift(after, original)),
                "ends": min(histogram(original, bins)[[0, -1]]) / len(original) - 1 / bins}
        line |= _pool_numbers(pool, original, ipc, bins)
        line |= {f"{name}_after": value for name, value in _pool_numbers(pool_after, after, ipc, bins).items()}
        if key in drawn:
            chosen = drawn[key]["score"].to_numpy()
            line["nearer"] = line["off"] - abs(difficulty_shift(chosen, original))
            by_chance = 1 - stats.hypergeom.pmf(0, len(pool), histogram(pool, bins), len(chosen))
            line["varied"] = (histogram(chosen, bins) > 0).sum() - by_chance.sum()
        lines.append(line)
    return pd.DataFrame(lines)


def _pool_numbers(pool: np.ndarray, original: np.ndarray, ipc: int, bins: int) -> dict[str, float]:
    counts, tilt = histogram(pool, bins), difficulty_shift(pool, original)
    shortage = np.maximum(scale_counts(original, ipc, bins) - counts, 0)
    return {"easier": -tilt, "off": abs(tilt), "divergence": float(divergence(counts, np.ones(bins))),
            "empty": int((counts == 0).sum()), "shortage": int(shortage.sum()), "unmet": int((shortage > 0).sum())}


def mean_over_classes(what: str, column: str, minus: str = "") -> Callable[[pd.DataFrame], Finding]:
    """Return the rule that a column of `class_numbers`, or its difference to another, is above 0 on average.

    The interval is Student's over classes; a class of several transforms counts once, by its mean. ``what`` names the
    number in the table.
    """
    def rule(numbers: pd.DataFrame) -> Finding:
        if column not in numbers:
            return decide([], DRAWN_SET_NEEDED)
        by_class = numbers.dropna(subset=column).groupby("class", sort=False).mean(numeric_only=True)
        values = by_class[column] - (by_class[minus] if minus else 0)
        mean, error, pools = values.mean(), values.sem(), numbers["scored"].nunique()
        half = float(t_critical(len(values) - 1, ERROR_RATE) * error) if error > 0 else np.nan
        counts = f"{pools} pool{'s' if pools > 1 else ''}, {len(values)} classes"
        side = int(np.sign(mean)) * (abs(mean) > half)
        finding = decide([Effect("", mean, side, mean - half, mean + half, counts=counts)], digits=2)
        before, after = by_class[column].mean(), by_class[minus].mean() if minus else np.nan
        means = f"{before:.2f} before, {after:.2f} after, difference " if minus else ""
        return finding._replace(numbers=f"{what} {means}{finding.numbers}, above 0 in {int((values > 0).sum())} of "
                                        f"{len(values)} classes")
    return rule


def classes_differ(scores: pd.DataFrame) -> Finding:
    """Test whether the difficulty of originals differs between classes (Kruskal and Wallis).

    The effect is the fraction of the variance of ranks that is between classes. Of several scorers the first counts.
    """
    from scipy import stats  # here, because it takes a while to import

    if scores.empty:
        return decide([], DRAWN_SET_NEEDED)
    first = scores[(scores["set"] == "original") & (scores["transform"] == scores["transform"].iloc[0])]
    classes = [part.to_numpy() for _, part in first.groupby("class")["score"]]
    if len(classes) < 2 or first["score"].nunique() < 2:
        return decide([], DRAWN_SET_NEEDED)
    test = stats.kruskal(*classes)
    means = [part.mean() for part in classes]
    finding = decide([Effect("", test.statistic / (len(first) - 1), int(test.pvalue < ERROR_RATE),
                          counts=f"{len(classes)} classes, {len(first)} images")], digits=2)
    return finding._replace(numbers=f"mean difficulty of a class from {min(means):.2f} to {max(means):.2f}, between "
                                 f"classes {finding.numbers} of the variance of ranks")


def _several_sizes(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of pools that were used in several sizes, with an identifier of the pool as ``pool``."""
    if frame.empty:
        return frame
    frame = frame.assign(pool=frame["scored"] + " " + frame["ipc"].astype(str) + " " + frame["reading"])
    return frame[frame.groupby("pool")["pool_factor"].transform("nunique") > 1]


def thresholds_move(thresholds: pd.DataFrame) -> Finding:
    """Count the classes whose thresholds differ between sizes of a pool; nothing in it is random."""
    several = _several_sizes(thresholds)
    classes = [part for _, part in several.groupby(["pool", "class"])] if len(several) else []
    moved = [len(part[["bottom", "top"]].drop_duplicates()) > 1 for part in classes]
    finding = decide([Effect("", 1.0, 1 if has_moved else -1) for has_moved in moved], SEVERAL_SIZES_NEEDED)
    return finding._replace(numbers=f"of {len(moved)} classes {sum(moved)} have other thresholds, and "
                          f"{sum(part['target'].nunique() > 1 for part in classes)} another target" if moved else "")


def variety_by_size(scores: pd.DataFrame) -> Finding:
    """Report how many intervals of difficulty pools of each size fill, and how many images each has.

    Both grow with the size whatever the images show, so diversity and redundancy stay undecided.
    """
    several, sizes = _several_sizes(scores), []
    pools = several[several["set"] == "pool"] if len(several) else several
    for size, part in pools.groupby("pool_factor") if len(pools) else ():
        counts = np.array([histogram(scored["score"].to_numpy(), int(scored["bins"].iloc[0]))
                           for _, scored in part.groupby(["transform", "class"])])
        sizes.append(f"{(counts > 0).sum(1).mean():.1f} and {counts.sum() / (counts > 0).sum():.1f} at {size} × IPC")
    numbers = f"filled intervals of difficulty and images in each {', '.join(sizes)}" if sizes else ""
    return Finding(numbers, f"{UNDECIDED}: {FEATURES}{'' if sizes else f', and {SEVERAL_SIZES_NEEDED}'}")
