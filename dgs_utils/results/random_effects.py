"""Random-effects model of a difference between two arms: pools, selections, trainings and test images.

The accuracy of a run is the mean of its arm plus random effects of its pool, its selection and its training. Selections
are nested in pools; training seeds (initial weights, order) are crossed with both. Runs are arranged in tables of units
by trainings whose means add up to the difference; a unit is the outermost repeated source (pool or selection), and its
variance includes everything nested in it. Arms that share units and trainings give one table of differences, in which
the shared effects cancel; other arms give a table each.

Source k contributes a mean square Vₖ with νₖ degrees of freedom. The interval is d ± √Σ t²(νₖ) Vₖ: P(z² ≤ x) is concave
in x, so its coverage is at least nominal for all true components, zero included (Banerjee, Sankhyā 1960). The usual
Satterthwaite degrees of freedom would cover 91 % in the worst case of one and two of them, and 87 % of one and many.
Variance that two sources share is subtracted once, with the smaller weight t²; with the larger, three pools × two
trainings would have 92 % coverage, and ten × two 87 %. The interval is conditional on every source without repeats:
this pool, this selection, these test images.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, special

POWER = 0.8  # with which a gain is to be decided


@dataclass(frozen=True)
class VarianceComponent:
    """Contribution of one source of noise to the variance of a difference."""

    source: str  # "pools", "selections", "trainings" or "test images"
    variance: np.ndarray  # float64 (...), squared percentage points
    count: int  # of units; the degrees of freedom are one less
    shared: tuple["VarianceComponent", ...] = ()  # the parts of it that other sources contain, too

    @property
    def exclusive(self) -> np.ndarray:
        """The variance that no other source contains, at least 0, (...)."""
        return np.maximum(self.variance - sum(part.variance for part in self.shared), 0)

    def squared_half_width(self, p: float) -> np.ndarray:
        """Return its part of the squared half-width of an interval of confidence 1 − ``p``, (...)."""
        shared = sum(_squared_t(max(self.count, part.count), p) * part.variance for part in self.shared)
        return np.maximum(_squared_t(self.count, p) * self.variance - shared, 0)


def _squared_t(count: int, p: float) -> float:
    return float(t_critical(count - 1, p)) ** 2


def t_critical(freedom, p: float):
    """Return the two-sided critical value of Student's t at level ``p``, for one or many degrees of freedom.

    >>> round(float(t_critical(2, 0.05)), 3)
    4.303
    """
    return -special.stdtrit(freedom, p / 2)  # scipy.stats has the same, but takes a second to load


@dataclass(frozen=True)
class UnitTable:
    """Part of a difference: units by trainings; one row where only trainings were repeated."""

    values: np.ndarray  # percentage points, float64 (..., units, trainings), NaN for missing runs
    source: str  # what a row is, "pools" or "selections"

    @property
    def units(self) -> int:
        """Number of units."""
        return self.values.shape[-2]

    @property
    def mean(self) -> np.ndarray:
        """Mean over units of the mean of each unit, (...)."""
        return np.nanmean(np.nanmean(self.values, -1), -1)


def variance_of_difference(tables: Sequence[UnitTable], groups: Sequence[Sequence[int]]) -> list[VarianceComponent]:
    """Return the variance of Σ mean(table), source by source.

    The variance between trainings contains the noise of single units, which the variance between units contains, too
    (``shared``). In grids with missing runs it is counted twice, which errs on the safe side. Tables have independent
    units; ``groups`` are indices of those that share their trainings.
    """
    components = [VarianceComponent(table.source, np.nanmean(table.values, -1).var(-1, ddof=1) / table.units,
                                    table.units) for table in tables if table.units > 1]
    for group in groups:
        members = [tables[index] for index in group]
        by_training = np.asarray(sum(np.nanmean(table.values, -2) for table in members))
        complete = ~np.isnan(by_training).reshape(-1, by_training.shape[-1]).any(0)
        if complete.sum() > 1:
            shared = tuple(VarianceComponent(table.source, _interaction(table.values), table.units)
                           for table in members)
            variance = by_training[..., complete].var(-1, ddof=1) / complete.sum()
            components.append(VarianceComponent("trainings", variance, int(complete.sum()), shared))
    return components


def _interaction(values: np.ndarray) -> np.ndarray:
    """Return what the residual of rows and columns adds to the variance of a table's mean; 0 for a single row and for
    missing values.
    """
    rows, columns = values.shape[-2:]
    if rows < 2 or columns < 2 or np.isnan(values).any():
        return np.zeros(values.shape[:-2])
    rest = (values - values.mean(-1, keepdims=True) - values.mean(-2, keepdims=True)
            + values.mean((-2, -1), keepdims=True))
    return (rest**2).sum((-2, -1)) / ((rows - 1) * (columns - 1)) / (rows * columns)


def image_component(tables: Sequence[np.ndarray]) -> VarianceComponent:
    """Return the variance component of the sampled test images, from the correctness of the runs of each `UnitTable`, 0
    to 100, or their differences: float64 (runs, images).
    """
    by_image = np.asarray(sum(table.mean(0) for table in tables))
    count = len(by_image)
    noise = tuple(VarianceComponent("runs", _interaction(table), len(table)) for table in tables)
    return VarianceComponent("test images", np.asarray(by_image.var(ddof=1) / count), count, noise)


def half_width(components: Sequence[VarianceComponent], confidence: float = 0.95) -> np.ndarray:
    """Return the half-width of the interval of a difference, (...); NaN where all components are zero.

    >>> paired = UnitTable(np.array([[1.0, 2.0, 3.0]]), "selections")  # differences of three trainings
    >>> round(float(half_width(variance_of_difference([paired], [[0]]))), 2)
    2.48
    """
    total = _squared_half_width(components, 1 - confidence)
    return np.sqrt(np.where(total > 1e-18, total, np.nan))


def _squared_half_width(components: Sequence[VarianceComponent], p: float) -> np.ndarray:
    return np.asarray(sum(component.squared_half_width(p) for component in components))


def p_value(distance: float, components: Sequence[VarianceComponent]) -> float:
    """Return the two-sided p value of a difference at ``distance`` from the null hypothesis: 1 − the confidence of the
    interval that ends there.
    """
    distance = abs(distance)
    if np.isnan(distance) or np.isnan(half_width(components)):
        return np.nan
    if distance <= half_width(components, 1e-9):
        return 1.0
    if distance >= half_width(components, 1 - 1e-15):
        return 0.0
    power = optimize.brentq(lambda power: float(_squared_half_width(components, 10.0**power)) - distance**2, -30.0, 0.0)
    return float(10.0**power)


def p_equivalent(difference: float, margin: float, components: Sequence[VarianceComponent]) -> float:
    """Return the p value of two one-sided tests that the true difference lies within ± ``margin``."""
    if abs(difference) >= margin:
        return 1.0
    return max(p_value(margin - difference, components), p_value(margin + difference, components)) / 2


def count_needed(components: Sequence[VarianceComponent], source: str, gain: float,
                 confidence: float = 0.95) -> float:
    """Return how many units of ``source`` would decide a gain with a power of `POWER`, all else as it is.

    Components count as known: the variance of a source is inversely proportional to its count. The number is from 2 to
    10,000; NaN for a source without repeats; inf where 10,000 are too few.
    """
    if not any(component.source == source for component in components) or np.isnan(half_width(components)):
        return np.nan

    def enough(count: int) -> bool:
        scaled = [_with_count(component, count) if component.source == source else component
                  for component in components]
        error = float(np.sqrt(sum(component.exclusive for component in scaled)))
        return float(half_width(scaled, confidence)) + special.ndtri(POWER) * error <= gain

    counts = range(2, 10_001)
    index = bisect_left(counts, True, key=enough)
    return float(counts[index]) if index < len(counts) else np.inf


def _with_count(component: VarianceComponent, count: int) -> VarianceComponent:
    """Return a component as it would be with another number of units."""
    shared = tuple(replace(part, variance=part.variance * component.count / count) for part in component.shared)
    return replace(component, variance=component.variance * component.count / count, count=count, shared=shared)
