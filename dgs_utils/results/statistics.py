"""Statistics that hold up in review: what a ± is, whether A beats B, which noise is whose, how many pools it takes.

Accuracies are in percent and differences in percentage points, except in the two DD-Ranking scores, whose formulas want
fractions. Three sources of noise are told apart by their seeds: pool, selection and training [B §4].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

SEEDS = ["pool_seed", "selection_seed", "training_seed"]  # from the outermost source of noise to the innermost
UNITS = dict(zip(SEEDS, ("pools", "selections", "trainings"), strict=True))
# Runs that differ in any of these are never compared.
SETTING = ["protocol", "dataset", "split", "image_size", "epoch_factor", "batch_size", "learning_rate", "augment",
           "flip", "precision", "evaluations", "network", "norm", "ipc"]


# ---- A single test --------------------------------------------------------------------------------------------------

def binomial_error(accuracy, n_test):
    """Return the standard error of top-1 accuracies (percent) that comes from testing on ``n_test`` pictures only."""
    share = accuracy / 100
    return 100 * np.sqrt(share * (1 - share) / n_test)


# ---- A against B -----------------------------------------------------------------------------------------------------

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
    sides = [side.assign(**{name: _numbers(side[name]) for name in SEEDS}) for side in (first, second)]
    shared = [name for name in SEEDS if all(side[name].notna().all() for side in sides)]
    means = [side.groupby(shared)[measure].mean() for side in sides]
    pairs = pd.concat(means, axis=1, join="inner", keys=["first", "second"])
    if pairs.empty:
        return Comparison(np.nan, np.nan, np.nan, np.nan, 0, UNITS[shared[0]], confidence)
    several = [name for name in shared if pairs.index.get_level_values(name).nunique() > 1]
    outer = several[0] if several else shared[-1]
    units = pairs.groupby(level=outer).mean()
    return compare_paired(units["first"], units["second"], confidence=confidence, unit=UNITS[outer])


def _numbers(seeds: pd.Series) -> pd.Series:
    """Return seeds as numbers, NaN where a method has none of that kind."""
    return pd.to_numeric(seeds, errors="coerce")


# ---- The same test pictures ------------------------------------------------------------------------------------------

def read_correct(folder: Path) -> np.ndarray:
    """Return which test pictures each training of a 06 folder got right: bool (trainings, pictures)."""
    results = pd.read_csv(Path(folder) / "results.csv")
    with np.load(Path(folder) / "correct.npz") as packed:
        rows = [np.unpackbits(packed[str(seed)], count=int(n))
                for seed, n in zip(results["training_seed"], results["n_test"], strict=True)]
    return np.array(rows, dtype=bool)


def bootstrap_pictures(first: np.ndarray, second: np.ndarray, resamples: int = 5000, confidence: float = 0.95,
                       seed: int = 0) -> Comparison:
    """Compare two methods by resampling test pictures, the same for both, and the trainings of each.

    Args:
        first, second: bool (trainings, pictures), as `read_correct` returns; trainings may differ in number.
        resamples: number of bootstrap samples.
        confidence: of the percentile interval.
        seed: of the bootstrap.
    """
    first, second = _same_pictures(np.atleast_2d(first), np.atleast_2d(second))
    rng, pictures = np.random.default_rng(seed), first.shape[1]
    draws = np.empty(resamples)
    for i in range(resamples):
        chosen = rng.integers(pictures, size=pictures)
        shares = [side.mean(0)[chosen].mean() for side in
                  (side[rng.integers(len(side), size=len(side))] for side in (first, second))]
        draws[i] = 100 * (shares[0] - shares[1])
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    difference = 100 * (first.mean() - second.mean())
    return Comparison(float(difference), float(low), float(high), np.nan, pictures, "test pictures", confidence)


def compare_on_pictures(results: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Compare two series on the same test pictures in every setting in which both were run (`bootstrap_pictures`).

    What this resamples are pictures and trainings; `compare_methods` answers for other pools and selections too.

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
            found = bootstrap_pictures(*(np.concatenate([read_correct(folder) for folder in side]) for side in sides))
            rows.append({"setting": setting, "ipc": ipc, "first": first, "second": second,
                         "difference": found.difference, "low": found.low, "high": found.high,
                         "sentence": found.sentence(first, second)})
    return pd.DataFrame(rows, columns=["setting", "ipc", "first", "second", "difference", "low", "high", "sentence"])


def _same_pictures(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if first.shape[-1] != second.shape[-1]:
        raise ValueError(f"the two were tested on {first.shape[-1]} and {second.shape[-1]} pictures; "
                         f"compare results of the same dataset and split")
    return first, second


# ---- Where the noise comes from --------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Components:
    """Random-effects estimate of a nested design: pools, selections within a pool, trainings within a selection.

    Attributes:
        mean: grand mean.
        error: standard error of the grand mean, over the outermost level that was repeated.
        std: standard deviation that each level adds, by its plural name. NaN where it was not repeated: what it adds is
            then part of the next outer level that was, or of none. 0 where its estimate came out negative.
        levels: number of each.
    """

    mean: float
    error: float
    std: dict[str, float]
    levels: dict[str, int]


def variance_components(results: pd.DataFrame, measure: str = "best") -> Components:
    """Split the spread of one method's runs into what pools, selections and trainings add, by analysis of variance.

    Args:
        results: rows of one method in one setting, with `SEEDS`; each pool needs the same number of selections, and
            each selection the same number of trainings.
        measure: column with accuracies.

    Raises:
        ValueError: an unbalanced grid, or the same three seeds twice.
    """
    frame = results[[*SEEDS, measure]].assign(**{name: _numbers(results[name]).fillna(-1) for name in SEEDS})
    if frame.duplicated(SEEDS).any():
        seeds = frame[frame.duplicated(SEEDS)].iloc[0][SEEDS]
        raise ValueError(f"two rows have {', '.join(f'{name} {seed:.0f}' for name, seed in seeds.items())}; "
                         f"give the runs of one method in one setting")
    pools = frame.groupby("pool_seed")["selection_seed"].nunique()
    selections = frame.groupby(["pool_seed", "selection_seed"]).size()
    if pools.nunique() > 1 or selections.nunique() > 1:
        raise ValueError(f"the grid is not balanced: {pools.min()} to {pools.max()} selections a pool and "
                         f"{selections.min()} to {selections.max()} trainings a selection; run the missing ones")
    shape = (len(pools), int(pools.iloc[0]), int(selections.iloc[0]))
    grid = frame.sort_values(SEEDS)[measure].to_numpy(dtype=np.float64).reshape(shape)
    return _nested_components(grid)


def _nested_components(grid: np.ndarray) -> Components:
    """Estimate from expected mean squares: E[MS] of a level is that of the level within plus (cells below) · σ²."""
    squares, below = [], grid
    for axis in (2, 1, 0):  # trainings, selections, pools
        n = below.shape[axis]
        means = below.mean(axis, keepdims=True)
        copies = grid.size // below.size  # runs behind each of these means
        groups = below.size // n
        squares.append(copies * ((below - means) ** 2).sum() / (groups * (n - 1)) if n > 1 else np.nan)
        below = means
    std, within, size = {}, 0.0, 1
    for name, square, n in zip(("trainings", "selections", "pools"), squares, grid.shape[::-1], strict=True):
        std[name] = float(np.sqrt(max(square - within, 0) / size)) if n > 1 else np.nan
        within = square if n > 1 else within
        size *= n
    repeated = [square for square, n in zip(squares, grid.shape[::-1], strict=True) if n > 1]
    error = float(np.sqrt(repeated[-1] / grid.size)) if repeated else np.nan
    order = ("pools", "selections", "trainings")
    return Components(float(grid.mean()), error, {name: std[name] for name in order},
                      dict(zip(order, grid.shape, strict=True)))


def sources_of_noise(results: pd.DataFrame, measure: str = "best", gain: float = 2.0) -> pd.DataFrame:
    """Return where the spread of each series comes from, in every setting with several pools or selections.

    Args:
        results: rows of ``results.csv`` with ``series``.
        measure: column with accuracies.
        gain: see `pools_needed`, percentage points.

    Returns:
        One row a setting and series: setting, ipc, series, mean, error, and for pools, selections and trainings the
        number and what that level adds to the standard deviation; pools_for_gain is how many pools an arm needs
        for that gain if each were trained on as here (NaN with a single pool), note why a grid could not be analysed.
    """
    setting = [name for name in (*SETTING, "setting") if name in results]
    rows = []
    for (*values, series), part in results.groupby([*setting, "series"], sort=False):
        if max(_numbers(part[name]).nunique() for name in SEEDS[:2]) < 2:
            continue
        place = dict(zip(setting, values, strict=True))
        row = {"setting": place.get("setting", place["network"]), "ipc": place["ipc"], "series": series}
        try:
            found = variance_components(part, measure)
        except ValueError as error:
            rows.append(row | {"mean": part[measure].mean(), "note": str(error)})
            continue
        between = found.error * np.sqrt(found.levels["pools"]) if found.levels["pools"] > 1 else np.nan
        rows.append(row | {"mean": found.mean, "error": found.error, "note": ""}
                    | {name: count for name, count in found.levels.items()}
                    | {f"std_{name}": value for name, value in found.std.items()}
                    | {"pools_for_gain": np.nan if np.isnan(between) else pools_needed(between, gain)})
    return pd.DataFrame(rows)


def pools_needed(std: float, gain: float = 2.0, power: float = 0.8, level: float = 0.05, paired: bool = False) -> int:
    """Return how many pools a two-sided t test needs to find a gain (by the noncentral t distribution).

    Args:
        std: standard deviation between pools (of the differences, if paired), percentage points.
        gain: true difference, percentage points.
        power: probability of finding it.
        level: significance level.
        paired: both methods share the pools; otherwise each arm has pools of its own, and the number is per arm.
    """
    if std == 0:
        return 2
    for n in range(2, 100_000):
        freedom = n - 1 if paired else 2 * n - 2
        shift = gain / std * np.sqrt(n if paired else n / 2)
        limit = stats.t.ppf(1 - level / 2, freedom)
        if stats.nct.sf(limit, freedom, shift) + stats.nct.cdf(-limit, freedom, shift) >= power:
            return n
    raise ValueError(f"a gain of {gain} with a deviation of {std} needs more than 100,000 pools")


# ---- DD-Ranking ------------------------------------------------------------------------------------------------------

def label_robust_score(real_hard: float, distilled_hard: float, distilled: float, random: float,
                       weight: float = 0.5) -> float:
    """Return DD-Ranking's label-robust score in [0, 1] (arXiv 2505.13300); 0.269 is no better than random [B §4].

    Args:
        real_hard: accuracy of the full real set with hard labels, as a fraction.
        distilled_hard: accuracy of the distilled set with hard labels.
        distilled: accuracy of the distilled set with any labels.
        random: accuracy of random real pictures of the same IPC under the same recipe.
        weight: of the gain over random; the rest weighs the loss to the full set.
    """
    _check_fractions(real_hard, distilled_hard, distilled, random)
    return _scaled(weight * (distilled - random) - (1 - weight) * (real_hard - distilled_hard))


def augmentation_robust_score(distilled: float, random: float, distilled_plain: float, random_plain: float,
                              weight: float = 0.5) -> float:
    """Return DD-Ranking's augmentation-robust score in [0, 1], from accuracies (fractions) with and without (plain)
    augmentation of the distilled set and of random real pictures.
    """
    _check_fractions(distilled, random, distilled_plain, random_plain)
    return _scaled(weight * (distilled - random) + (1 - weight) * (distilled_plain - random_plain))


def robust_scores(summary: pd.DataFrame) -> pd.DataFrame:
    """Return DD-Ranking's scores of each series for which all the runs are there.

    The label-robust score wants the series and the full set under hard labels (protocol idc), and the series and random
    real pictures under any: soft labels (rded) where both were run with them, else hard ones too. The augmentation-
    robust score wants both with and without augmentation, under hard labels.

    Args:
        summary: one row a cell, with protocol, dataset, network, ipc, method, series, augment and best (percent).

    Returns:
        dataset, network, ipc, series, lrs, ars (NaN where runs are missing); no row where both are.
    """
    cells, place = summary.assign(share=summary["best"] / 100), ["dataset", "network", "ipc"]
    full = cells[(cells["method"] == "full") & (cells["protocol"] == "idc") & cells["augment"]]
    table = cells[~cells["method"].isin(["random", "full"])][[*place, "series"]].drop_duplicates()
    table = table.merge(full.groupby(place[:2])["share"].mean().rename("full").reset_index(), how="left")
    for name, (protocol, augment) in {"hard": ("idc", True), "soft": ("rded", True), "plain": ("idc", False)}.items():
        part = cells[(cells["protocol"] == protocol) & (cells["augment"] == augment)]
        own = part.groupby([*place, "series"])["share"].mean().rename(name)
        random = part[part["method"] == "random"].groupby(place)["share"].mean().rename(f"random_{name}")
        table = table.merge(own.reset_index(), how="left").merge(random.reset_index(), how="left")
    rows = [_robust_scores(row) for row in table.to_dict("records")]
    found = pd.DataFrame(rows, columns=[*place, "series", "lrs", "ars"])
    return found.dropna(subset=["lrs", "ars"], how="all").reset_index(drop=True)


def _robust_scores(row: dict) -> dict:
    soft = [row["soft"], row["random_soft"]]
    lrs = [row["full"], row["hard"], *([row["hard"], row["random_hard"]] if np.isnan(soft).any() else soft)]
    ars = [row[name] for name in ("hard", "random_hard", "plain", "random_plain")]
    return {**row, "lrs": np.nan if np.isnan(lrs).any() else label_robust_score(*lrs),
            "ars": np.nan if np.isnan(ars).any() else augmentation_robust_score(*ars)}


def _scaled(value: float) -> float:
    return float((np.exp(value) - np.exp(-1)) / (np.exp(1) - np.exp(-1)))


def _check_fractions(*values: float) -> None:
    for value in values:
        if not 0 <= value <= 1:
            raise ValueError(f"an accuracy is {value}; DD-Ranking's scores want fractions in [0, 1], not percent")
