"""Comparison of two arms: difference, interval, p values, and one sentence that they support.

With the difference d = A − B in percentage points and its interval, the first of these that applies is the sentence;
m is the margin of differences that do not matter, TOST are two one-sided tests.

=========================================  ===========================================================================
A and B have no runs in common …           no unit and training has an accuracy in both arms
A minus B is d points … no interval        an arm has a single unit and training, or all runs differ by the same
A is d points above (below) B              0 is outside the interval; ", which is within ± m points" if TOST agrees
A is as good as B within ± m points        TOST: the narrower interval, of confidence 2 · confidence − 1, is within ± m
A against B cannot be decided              the interval contains 0 and a gain (≥ m), a loss (≤ −m), or both
=========================================  ===========================================================================

The sentences name the sources without repeats that they are conditional on ("For this pool, …"), the numbers of pools,
selections and trainings, and how many of one of these would decide a gain of m (`random_effects.count_needed`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dgs_utils.results.comparison_design import build_design
from dgs_utils.results.correctness import CORRECTNESS_FILES, correctness_of_rows, mcnemar
from dgs_utils.results.random_effects import (
    count_needed,
    half_width,
    image_component,
    p_equivalent,
    p_value,
    variance_of_difference,
)
from dgs_utils.results.rows import CONDITION_KEYS, UNITS
from dgs_utils.results.sequential import anytime_half_width

MARGIN = 2.0  # percentage points: a smaller difference does not matter


@dataclass(frozen=True)
class Comparison:
    """Difference of two arms, A − B (the model is in `random_effects`).

    What has no number is NaN, as interval and p values where an arm has no repeats, or all runs differ by the same.
    """

    difference: float  # percentage points, as low, high and margin
    low: float  # of the confidence interval
    high: float
    p: float  # two-sided, of no difference
    p_equivalent: float  # of two one-sided tests that the true difference is within ± margin
    pools: int  # numbers of each, in the arm that has more
    selections: int
    trainings: int
    given: str = ""  # sources without repeats that the interval is conditional on: "pool, selection, …"
    margin: float = MARGIN  # smaller differences do not matter
    confidence: float = 0.95
    measure: str = "best"  # which accuracy of each training, "best" or "last"
    pools_needed: float = np.nan  # how many of each would decide a gain of ``margin``
    selections_needed: float = np.nan
    trainings_needed: float = np.nan
    p_images: float = np.nan  # McNemar's test for these images and trainings alone, if correctness was recorded
    tost_low: float = np.nan  # the narrower interval of confidence 2 · confidence − 1, which decides on equivalence
    tost_high: float = np.nan
    # the interval that holds at every number of paired units, for who adds them until it decides (`sequential`)
    anytime_low: float = np.nan
    anytime_high: float = np.nan

    def sentence(self, first: str, second: str) -> str:
        """Return the finding on A (``first``) and B (``second``) as a sentence.

        >>> Comparison(3.0, 1.0, 5.0, 0.01, 0.9, pools=1, selections=1, trainings=3, given="pool").sentence("A", "B")
        'For this pool, A is 3.0 points above B at the best epoch (95 % interval +1.0 to +5.0; 1 pool, 1 selection,
        3 trainings).'
        """
        if self.trainings == 0:
            return f"{first} and {second} have no runs in common, so that they cannot be compared."
        epoch, counts = f"at the {self.measure} epoch", count_runs(self)
        if np.isnan(self.low):
            return (f"{first} minus {second} is {signed(self.difference)} points {epoch}, and {counts} leave no "
                    f"interval: repeat each arm two times or more, until runs differ.")
        interval = f"{100 * self.confidence:.0f} % interval {signed(self.low)} to {signed(self.high)}"
        narrower = (f"{200 * self.confidence - 100:.0f} % interval {signed(self.tost_low)} to "
                    f"{signed(self.tost_high)}")
        fixed = [f"{'these' if name.endswith('s') else 'this'} {name}" for name in self.given.split(", ") if name]
        listed = " and ".join(filter(None, [", ".join(fixed[:-1]), *fixed[-1:]]))
        given = f"For {listed}, " if listed else ""
        is_within, within = self.p_equivalent < 1 - self.confidence, f"within ± {self.margin:g} points"
        if self.low > 0 or self.high < 0:
            side = "above" if self.difference > 0 else "below"
            return (f"{given}{first} is {abs(self.difference):.1f} points {side} {second} {epoch} ({interval}; "
                    f"{counts}){f', which is {within}' if is_within else ''}.")
        if is_within:
            return (f"{given}{first} is as good as {second} {within} {epoch} (two one-sided tests, "
                    f"p = {self.p_equivalent:.2g}; {narrower}; {counts}).")
        loss, gain = self.low <= -self.margin, self.high >= self.margin
        contents = "both a loss and a gain that matter" if loss and gain else (
            f"zero and a {'gain' if gain else 'loss'} that matters")
        needed = [(name, getattr(self, name), getattr(self, f"{name}_needed")) for name in UNITS.values()]
        enough = " or ".join(f"{n:.0f} {name}" for name, present, n in needed if present < n < np.inf)
        more = f" ({enough} would decide a gain of {self.margin:g} points)" if enough else ""
        return (f"{given}{first} against {second} cannot be decided {epoch}: the {interval} contains {contents}; "
                f"{counts}{more}.")


def count_runs(comparison: Any) -> str:
    """Return the numbers of pools, selections and trainings of a `Comparison`, or of such a row, as a text.

    >>> count_runs(Comparison(3.0, 1.0, 5.0, 0.01, 0.9, pools=1, selections=2, trainings=3))
    '1 pool, 2 selections, 3 trainings'
    """
    counts = [(name, getattr(comparison, name)) for name in UNITS.values()]
    return ", ".join(f"{n} {name if n != 1 else name.removesuffix('s')}" for name, n in counts if n)


def signed(value: float, digits: int = 1) -> str:
    """Return a difference with its sign and so many decimals.

    >>> signed(-1.25, 2)
    '−1.25'
    """
    return f"{value:+.{digits}f}".replace("-", "−")


def compare(results: pd.DataFrame, first: str, second: str, by: str = "method", measure: str = "best",
            margin: float = MARGIN, confidence: float = 0.95, images: bool = False) -> pd.DataFrame:
    """Compare two arms in every condition in which both were run.

    Seeds that both arms have are paired; of a kind of seed that they share, runs with other seeds are left out.

    Args:
        results: rows of ``results.csv``, one a training.
        first, second, by: names of arms, and their column: "method", or "series" if a method had several choices.
        measure: which accuracies, in percent: of the "best" or of the "last" epoch of each training.
        margin, confidence: see `Comparison`.
        images: include the test images as a source of noise (from the 06 ``folder`` of each row), and McNemar's test.

    Returns:
        One row a condition: its columns, first, second, the attributes of `Comparison`, and sentence.

    Raises:
        ValueError: an arm has two runs with the same seeds, so its name stands for several arms; an unknown measure.

    >>> results = pd.DataFrame({"method": ["a", "a", "b", "b"], "network": "convnet3", "ipc": 10, "pool_seed": "",
    ...                         "selection_seed": 0, "training_seed": [0, 1, 0, 1], "best": [60.0, 62.0, 55.0, 56.0]})
    >>> compare(results, "a", "b")["difference"].tolist()
    [5.5]
    """
    if measure not in CORRECTNESS_FILES:
        raise ValueError(f"measure is {measure!r}; accuracies are compared at the epochs "
                         f"{' or '.join(CORRECTNESS_FILES)}")
    condition = [name for name in (*CONDITION_KEYS, "condition") if name in results]
    rows = []
    for values, part in results.groupby(condition, sort=False, dropna=False):
        arms = [part[part[by] == name] for name in (first, second)]
        if all(len(arm) for arm in arms):
            comparison = compare_rows(arms[0], arms[1], measure, margin, confidence, images)
            rows.append(dict(zip(condition, values, strict=True)) | vars(comparison)
                        | {"first": first, "second": second, "sentence": comparison.sentence(first, second)})
    return pd.DataFrame(rows, columns=[*condition, "first", "second", *Comparison.__dataclass_fields__, "sentence"])


def compare_rows(first: pd.DataFrame, second: pd.DataFrame, measure: str = "best", margin: float = MARGIN,
                 confidence: float = 0.95, images: bool = False) -> Comparison:
    """Compare the rows of two arms in one condition (see `compare`); rows without an accuracy are left out."""
    options: dict[str, Any] = {"margin": margin, "confidence": confidence, "measure": measure}
    design = build_design(first[first[measure].notna()], second[second[measure].notna()])
    if not all(design.grids):  # an arm has no run to compare
        return Comparison(np.nan, np.nan, np.nan, np.nan, np.nan, 0, 0, 0, **options)
    tables = design.tables([arm[measure].to_numpy(dtype=np.float64) for arm in design.arms])
    difference, components = float(sum(table.mean for table in tables)), variance_of_difference(tables, design.groups)
    given = [*design.unrepeated, "test images"]
    if images:
        correct = design.runs([100.0 * correctness_of_rows(arm, measure) for arm in design.arms])
        given, components = design.unrepeated, [*components, image_component(correct)]
        options["p_images"] = mcnemar(np.asarray(sum(part.mean(0) for part in correct)))
    options |= {**design.counts, "given": ", ".join(given)}
    half = float(half_width(components, confidence)) if design.has_replicates else np.nan
    if np.isnan(half):
        return Comparison(difference, half, half, half, half, **options)
    narrower = float(half_width(components, 2 * confidence - 1))
    options |= {"tost_low": difference - narrower, "tost_high": difference + narrower}
    if len(tables) == 1 and tables[0].units > 1:
        apart = float(anytime_half_width(np.nanmean(tables[0].values, -1), confidence))
        options |= {"anytime_low": difference - apart, "anytime_high": difference + apart}
    needed: dict[str, Any] = {f"{source}_needed": count_needed(components, source, margin, confidence)
                              for source in UNITS.values()}
    return Comparison(difference, difference - half, difference + half, p_value(difference, components),
                      p_equivalent(difference, margin, components), **needed, **options)


def compare_with_others(results: pd.DataFrame, first: str, rivals: Sequence[str], **options) -> pd.DataFrame:
    """Compare a series with each of several others, as one table: `compare`, with ``p_holm`` beside ``p``, and verdict.

    The verdict on the series, which table, figure and findings share, is the first of these that applies: "better" or
    "worse" (p_holm < 1 − confidence); "better alone" or "worse alone" (zero is outside the interval, but not after
    Holm's correction); "as good" (the narrower interval is within ± margin); "undecided"; "no interval".
    """
    parts = [compare(results, first, rival, by="series", **options) for rival in rivals if rival != first]
    parts = [part for part in parts if len(part)]
    if not parts:
        return pd.DataFrame({name: [] for name in ("first", "second", "sentence", "verdict")})
    table = pd.concat(parts, ignore_index=True)
    table.insert(table.columns.get_loc("p") + 1, "p_holm", holm(table["p"]))
    side = np.where(table["difference"] > 0, "better", "worse").astype(object)
    verdict = np.select([table["low"].isna(), table["p_holm"] < 1 - table["confidence"],
                         (table["low"] > 0) | (table["high"] < 0), table["p_equivalent"] < 1 - table["confidence"]],
                        ["no interval", side, side + " alone", "as good"], "undecided")
    return table.assign(verdict=verdict)


def holm(p: Sequence[float]) -> np.ndarray:
    """Return p values corrected for all comparisons of a table (Holm 1979); NaN stay NaN and are not counted.

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(values))
    order = tested[np.argsort(values[tested], kind="stable")]
    corrected = np.full(len(values), np.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)), 1)
    return corrected
