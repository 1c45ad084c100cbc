"""Comparing two arms: difference, interval, p values, and one sentence that says what they allow to say.

These are all the sentences on arms A and B, with the difference d = A − B in percentage points, its interval from low
to high, the margin m below which differences do not matter, and E = "at the best epoch" or "at the last epoch". Of
those whose condition holds the first is said. Behind each stands how many pools, selections and trainings it rests on,
and before it, from the third on, what it only holds for, since that was not repeated: "For this pool, …".

    A and B have no runs in common, so that they cannot be compared.
        No unit and training has an accuracy in both arms, where they share their seeds, or none in one of the arms.
    A minus B is d points E, and … leave no interval: repeat each arm two times or more, until runs differ.
        An arm has a single unit and training, or all runs differ by the same, as identical arms do.
    A is d points above B E.
        low > 0; with "below", high < 0. "…, which is within ± m points" where two one-sided tests (TOST) say so, too.
    A is as good as B within ± m points E.
        The p value of TOST is below 1 − confidence: the interval of confidence 2 · confidence − 1 lies within ± m.
    A against B cannot be decided E: the interval …
        "holds both a loss and a gain that matter": low ≤ −m and high ≥ m.
        "holds no difference, and a gain that matters": high ≥ m alone; "a loss that matters": low ≤ −m alone.
        There is no third case: an interval within ± m passes TOST. "n trainings would decide a gain of m points" where
        `effects.count_needed` finds that more trainings, selections or pools would.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dgs_utils.results.correctness import EPOCHS, correct_of, mcnemar
from dgs_utils.results.designs import arrange
from dgs_utils.results.effects import count_needed, half_width, image_term, p_equivalent, p_value, terms_of
from dgs_utils.results.rows import CONDITION, UNITS

MARGIN = 2.0  # percentage points: a smaller difference does not matter


@dataclass(frozen=True)
class Comparison:
    """How far A is above B (see `dgs_utils.results.effects` for the model).

    Attributes:
        difference: A − B, percentage points.
        low, high: confidence interval; NaN where nothing of an arm was repeated, or all runs differ by the same.
        p: two-sided p value of no difference; NaN as above.
        p_equivalent: of two one-sided tests that the true difference is within ± margin.
        pools, selections, trainings: how many of each stand behind it, in the arm that has more.
        given: what the interval only holds for, since it was not repeated: "pool", "selection", …, a list.
        margin: differences below it do not matter, percentage points.
        confidence: of the interval.
        measure: which accuracy of each training was compared, that of its "best" or of its "last" epoch.
        pools_needed, selections_needed, trainings_needed: how many of each would decide a gain of ``margin``, all else
            as it is (`count_needed`).
        p_images: McNemar's test on these images and trainings alone; NaN where correctness was not kept.
    """

    difference: float
    low: float
    high: float
    p: float
    p_equivalent: float
    pools: int
    selections: int
    trainings: int
    given: str = ""
    margin: float = MARGIN
    confidence: float = 0.95
    measure: str = "best"
    pools_needed: float = np.nan
    selections_needed: float = np.nan
    trainings_needed: float = np.nan
    p_images: float = np.nan

    @property
    def counts(self) -> str:
        """What stands behind the difference, such as "1 pool, 2 selections, 3 trainings"."""
        counts = [(name, getattr(self, name)) for name in UNITS.values()]
        return ", ".join(f"{n} {name if n != 1 else name.removesuffix('s')}" for name, n in counts if n)

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0

    def sentence(self, first: str, second: str) -> str:
        """Return the finding as a plain sentence about A (``first``) and B (``second``)."""
        if self.trainings == 0:
            return f"{first} and {second} have no runs in common, so that they cannot be compared."
        epoch = f"at the {self.measure} epoch"
        if np.isnan(self.low):
            return (f"{first} minus {second} is {signed(self.difference)} points {epoch}, and {self.counts} leave no "
                    f"interval: repeat each arm two times or more, until runs differ.")
        interval = f"{100 * self.confidence:.0f} % interval {signed(self.low)} to {signed(self.high)}"
        given = f"For {self._given}, " if self.given else ""
        is_within, within = self.p_equivalent < 1 - self.confidence, f"within ± {self.margin:g} points"
        if self.decided:
            side = "above" if self.difference > 0 else "below"
            return (f"{given}{first} is {abs(self.difference):.1f} points {side} {second} {epoch} ({interval}; "
                    f"{self.counts}){f', which is {within}' if is_within else ''}.")
        if is_within:
            return (f"{given}{first} is as good as {second} {within} {epoch} (two one-sided tests, "
                    f"p = {self.p_equivalent:.2g}; {interval}; {self.counts}).")
        return (f"{given}{first} against {second} cannot be decided {epoch}: the {interval} {self._holds}; "
                f"{self.counts}{self._decisive}.")

    @property
    def _given(self) -> str:
        names = [f"{'these' if name.endswith('s') else 'this'} {name}" for name in self.given.split(", ")]
        return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)

    @property
    def _holds(self) -> str:
        loss, gain = self.low <= -self.margin, self.high >= self.margin
        if loss and gain:
            return "holds both a loss and a gain that matter"
        return f"holds no difference, and a {'gain' if gain else 'loss'} that matters"

    @property
    def _decisive(self) -> str:
        needed = [(name, getattr(self, name), getattr(self, f"{name}_needed")) for name in UNITS.values()]
        enough = " or ".join(f"{n:.0f} {name}" for name, present, n in needed if present < n < np.inf)
        return f" ({enough} would decide a gain of {self.margin:g} points)" if enough else ""


def signed(value: float, digits: int = 1) -> str:
    """Return a difference with its sign, to so many decimals."""
    return f"{value:+.{digits}f}".replace("-", "−")


def compare(results: pd.DataFrame, first: str, second: str, by: str = "method", measure: str = "best",
            margin: float = MARGIN, confidence: float = 0.95, images: bool = False) -> pd.DataFrame:
    """Compare two arms in every condition in which both were run.

    Seeds that both arms have are paired, and where they have some in common, the others are left out; what only one arm
    has counts in full.

    Args:
        results: rows of ``results.csv``, one a training.
        first, second: names of arms.
        by: column in which the names stand: "method", or "series" where a method was run with several choices.
        measure: which accuracies, in percent: those of the "best" epoch of each training, or of its "last".
        margin: see `Comparison`.
        confidence: of the intervals.
        images: count the test images as a source of noise, too, from the 06 ``folder`` of each row, and add McNemar's
            test; without, the interval holds for these test images.

    Returns:
        One row a condition: its columns, first, second, the attributes of `Comparison`, and sentence.

    Raises:
        ValueError: an arm has two runs of the same seeds, so that its name stands for several arms; or an unknown
            measure.
    """
    if measure not in EPOCHS:
        raise ValueError(f"measure is {measure!r}; accuracies are compared at the epochs {' or '.join(EPOCHS)}")
    condition = [name for name in (*CONDITION, "condition") if name in results]
    rows = []
    for values, part in results.groupby(condition, sort=False, dropna=False):
        sides = [part[part[by] == name] for name in (first, second)]
        if all(len(side) for side in sides):
            found = compare_rows(sides[0], sides[1], measure, margin, confidence, images)
            rows.append(dict(zip(condition, values, strict=True)) | {"first": first, "second": second} | vars(found) | {
                "sentence": found.sentence(first, second)})
    return pd.DataFrame(rows, columns=[*condition, "first", "second", *Comparison.__dataclass_fields__, "sentence"])


def compare_rows(first: pd.DataFrame, second: pd.DataFrame, measure: str = "best", margin: float = MARGIN,
                 confidence: float = 0.95, images: bool = False) -> Comparison:
    """Compare the rows of two arms in one condition; see `compare`. Rows without an accuracy are no runs."""
    design = arrange(first[first[measure].notna()], second[second[measure].notna()])
    if design.is_empty:
        return Comparison(np.nan, np.nan, np.nan, np.nan, np.nan, 0, 0, 0, margin=margin, confidence=confidence,
                          measure=measure)
    tables = design.tables([side[measure].to_numpy(dtype=np.float64) for side in design.sides])
    difference, terms = float(sum(table.mean for table in tables)), terms_of(tables, design.groups)
    given, p_images = [*design.given, "test images"], np.nan
    if images:
        parts = design.runs([100.0 * correct_of(side, measure) for side in design.sides])
        given, terms = design.given, [*terms, image_term(parts)]
        p_images = mcnemar(np.asarray(sum(part.mean(0) for part in parts)))
    half = float(half_width(terms, confidence)) if design.is_repeated else np.nan
    known = not np.isnan(half)
    needed: dict[str, Any] = {f"{name}_needed": count_needed(terms, name, margin, confidence) if known else np.nan
                              for name in UNITS.values()}
    return Comparison(difference, difference - half, difference + half, p_value(difference, terms) if known else np.nan,
                      p_equivalent(difference, margin, terms) if known else np.nan, **design.counts,
                      given=", ".join(given), margin=margin, confidence=confidence, measure=measure, **needed,
                      p_images=p_images)


def compare_with_rivals(results: pd.DataFrame, first: str, rivals: Sequence[str], **options) -> pd.DataFrame:
    """Compare a series with each of several others, as one table: `compare`, with ``p_holm`` beside ``p``."""
    parts = [compare(results, first, rival, by="series", **options) for rival in rivals if rival != first]
    parts = [part for part in parts if len(part)]
    if not parts:
        return pd.DataFrame({name: [] for name in ("first", "second", "sentence")})
    table = pd.concat(parts, ignore_index=True)
    table.insert(table.columns.get_loc("p") + 1, "p_holm", holm(table["p"]))
    return table


def holm(p: Sequence[float]) -> np.ndarray:
    """Return p values that hold for all comparisons of a table together (Holm 1979); NaN stay NaN and do not count."""
    values = np.asarray(p, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    corrected = np.full(len(values), np.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)), 1)
    return corrected
