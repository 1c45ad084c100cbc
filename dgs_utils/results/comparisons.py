"""Comparing two ways of making a set, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from dgs_utils.images.tables import read_table
from dgs_utils.results.rows import SEEDS, SETTING, UNITS, numbers_of


def binomial_error(accuracy, n_test):
    """Return the standard error of top-1 accuracies (percent) that comes from testing on ``n_test`` images only."""
    share = accuracy / 100
    return 100 * np.sqrt(share * (1 - share) / n_test)


@dataclass(frozen=True)
class Comparison:
    """How far A is above B.

    Attributes:
        difference: mean of A − B, percentage points.
        low, high: confidence interval; NaN for a single pair, and where all pairs differ by exactly the same.
        p: two-sided p-value of no difference (paired t test); NaN as above, and for bootstrap intervals.
        n: independent pairs behind it.
        unit: what a pair is: "pools", "selections" or "trainings".
        confidence: of the interval.
    """

    difference: float
    low: float
    high: float
    p: float
    n: int
    unit: str = "trainings"
    confidence: float = 0.95

    @property
    def distinguishable(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0

    def sentence(self, first: str, second: str) -> str:
        """Return the finding as a plain sentence about A (``first``) and B (``second``)."""
        if self.n < 2:
            unit = self.unit.removesuffix("s") if self.n == 1 else self.unit
            return f"{first} and {second} have {self.n} {unit} in common, and a comparison needs two or more."
        if np.isnan(self.low):
            return (f"{first} minus {second} is {self.difference:+.1f} points in each of {self.n} {self.unit}, "
                    f"which leaves no interval.")
        interval = f"{100 * self.confidence:.0f} % interval {self.low:+.1f} to {self.high:+.1f}"
        if not self.distinguishable:
            return f"{first} and {second} are not distinguishable with {self.n} {self.unit} ({interval})."
        side = "above" if self.difference > 0 else "below"
        return f"{first} is {abs(self.difference):.1f} points {side} {second} with {self.n} {self.unit} ({interval})."


def compare_paired(first: Sequence[float], second: Sequence[float], confidence: float = 0.95,
                   unit: str = "trainings") -> Comparison:
    """Compare values that were measured in pairs, such as accuracies of two methods with the same seeds.

    Args:
        first, second: accuracies in percent, shape (n,), pair by pair.
        confidence: of the interval, by Student's t.
        unit: what a pair is, for the sentence.

    Raises:
        ValueError: unequal lengths, or no pair.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(f"a paired comparison needs as many values on either side, not {len(first)} and {len(second)}")
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    mean, n = float(differences.mean()), len(differences)
    if n < 2 or np.ptp(differences) < 1e-9:  # equal differences, as coarse accuracies give, tell nothing of the noise
        return Comparison(mean, np.nan, np.nan, np.nan, n, unit, confidence)
    test = stats.ttest_1samp(differences, 0)
    interval = test.confidence_interval(confidence)
    return Comparison(mean, float(interval.low), float(interval.high), float(test.pvalue), n, unit, confidence)


def compare_methods(results: pd.DataFrame, first: str, second: str, measure: str = "best",
                    confidence: float = 0.95, by: str = "method") -> pd.DataFrame:
    """Compare two methods in every setting in which both were run.

    Runs are paired by the seeds that both methods have. The pairs' unit is the outermost source of noise of which there
    are several: with several pools, what happens within a pool is averaged, since it is not independent.

    Args:
        results: rows of ``results.csv``.
        first, second: names of methods.
        measure: column with accuracies in percent.
        confidence: of the intervals.
        by: column in which the names stand: "method", or "series" where a method was run with several choices.

    Returns:
        One row a setting: its columns, first, second, difference, low, high, p, n, unit, confidence, sentence.
    """
    setting = [name for name in (*SETTING, "setting") if name in results]
    rows = []
    for values, part in results.groupby(setting, sort=False):
        sides = [part[part[by] == name] for name in (first, second)]
        if all(len(side) for side in sides):
            found = _compare_sides(*sides, measure, confidence)
            rows.append(dict(zip(setting, values, strict=True)) | {"first": first, "second": second} | vars(found) | {
                "sentence": found.sentence(first, second)})
    names = [*setting, "first", "second", *Comparison.__dataclass_fields__, "sentence"]
    return pd.DataFrame(rows, columns=names)


def _compare_sides(first: pd.DataFrame, second: pd.DataFrame, measure: str, confidence: float) -> Comparison:
    sides = [side.assign(**{name: numbers_of(side[name]) for name in SEEDS}) for side in (first, second)]
    shared = [name for name in SEEDS if all(side[name].notna().all() for side in sides)]
    means = [side.groupby(shared)[measure].mean() for side in sides]
    pairs = pd.concat(means, axis=1, join="inner", keys=["first", "second"])
    if pairs.empty:
        return Comparison(np.nan, np.nan, np.nan, np.nan, 0, UNITS[shared[0]], confidence)
    several = [name for name in shared if pairs.index.get_level_values(name).nunique() > 1]
    outer = several[0] if several else shared[-1]
    units = pairs.groupby(level=outer).mean()
    return compare_paired(units["first"], units["second"], confidence=confidence, unit=UNITS[outer])


def read_correct(folder: Path) -> np.ndarray:
    """Return which test images each training of a 06 folder got right: bool (trainings, images)."""
    results = read_table(Path(folder) / "results.csv")
    with np.load(Path(folder) / "correct.npz") as packed:
        rows = [np.unpackbits(packed[str(seed)], count=int(n))
                for seed, n in zip(results["training_seed"], results["n_test"], strict=True)]
    return np.array(rows, dtype=bool)


def bootstrap_images(first: np.ndarray, second: np.ndarray, resamples: int = 5000, confidence: float = 0.95,
                       seed: int = 0) -> Comparison:
    """Compare two methods by resampling test images, the same for both, and the trainings of each.

    Args:
        first, second: bool (trainings, images), as `read_correct` returns; trainings may differ in number.
        resamples: number of bootstrap samples.
        confidence: of the percentile interval.
        seed: of the bootstrap.
    """
    first, second = _same_images(np.atleast_2d(first), np.atleast_2d(second))
    rng, images = np.random.default_rng(seed), first.shape[1]
    draws = np.empty(resamples)
    for i in range(resamples):
        chosen = rng.integers(images, size=images)
        shares = [side.mean(0)[chosen].mean() for side in
                  (side[rng.integers(len(side), size=len(side))] for side in (first, second))]
        draws[i] = 100 * (shares[0] - shares[1])
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    difference = 100 * (first.mean() - second.mean())
    return Comparison(float(difference), float(low), float(high), np.nan, images, "test images", confidence)


def compare_on_images(results: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Compare two series on the same test images in every setting in which both were run (`bootstrap_images`).

    What this resamples are images and trainings; `compare_methods` answers for other pools and selections too.

    Args:
        results: rows of ``results.csv`` with ``series``, ``setting`` and the 06 ``folder``.
        first, second: names of series.

    Returns:
        One row a setting: setting, ipc, first, second, difference, low, high (percentage points), sentence.
    """
    rows = []
    for (setting, ipc), part in results.groupby(["setting", "ipc"], sort=False):
        sides = [part.loc[part["series"] == name, "folder"].unique() for name in (first, second)]
        if all(len(side) for side in sides):
            found = bootstrap_images(*(np.concatenate([read_correct(folder) for folder in side]) for side in sides))
            rows.append({"setting": setting, "ipc": ipc, "first": first, "second": second,
                         "difference": found.difference, "low": found.low, "high": found.high,
                         "sentence": found.sentence(first, second)})
    return pd.DataFrame(rows, columns=["setting", "ipc", "first", "second", "difference", "low", "high", "sentence"])


def _same_images(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if first.shape[-1] != second.shape[-1]:
        raise ValueError(f"the two were tested on {first.shape[-1]} and {second.shape[-1]} images; "
                         f"compare results of the same dataset and split")
    return first, second
