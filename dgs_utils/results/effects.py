"""How sure a difference of two arms is: a random-effects model of pools, selections, trainings and test images.

A run's accuracy is its arm's mean, plus what its pool, its selection and its training add by chance. Selections are
nested in pools; a training seed (initial weights, order) is crossed with both, since it is used for every set. Runs are
arranged in tables of units by trainings, whose means add up to the difference; a unit is the outermost thing of which
there are several, and its scatter holds everything nested in it. What the arms share is one table, of differences, so
that it cancels; what only one of them has is a table of its own, and counts in full.

Each source's share of the difference's variance is a mean square Vₖ with νₖ degrees of freedom. The interval is
d ± √Σ t²(νₖ) Vₖ: since P(z² ≤ x) is a concave function of x, it covers at least as often as it claims, whatever the
true components are, zero included (Banerjee, Sankhyā 1960). With Satterthwaite's degrees of freedom, the usual choice,
it would cover 91 % in the worst case of one and two of them, and 87 % of one and many. Of what was not repeated
nothing is known, and the interval holds for what was used: for this pool, this selection, these test images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats


@dataclass(frozen=True)
class Term:
    """What one source of noise adds to the variance of a difference.

    Attributes:
        source: "pools", "selections", "trainings" or "test images".
        variance: share of the variance, float64 (...), squared percentage points.
        count: units behind it; its degrees of freedom are one less.
    """

    source: str
    variance: np.ndarray
    count: int


@dataclass(frozen=True)
class Table:
    """Part of a difference: units by trainings.

    Attributes:
        values: percentage points, float64 (..., units, trainings), NaN where a run is missing; one row where nothing
            outside of trainings was repeated.
        source: what a row is, "pools" or "selections".
    """

    values: np.ndarray
    source: str

    @property
    def units(self) -> int:
        """How many units, such as pools, there are."""
        return self.values.shape[-2]

    @property
    def mean(self) -> np.ndarray:
        """Return the mean over units of each unit's mean, (...)."""
        return np.nanmean(np.nanmean(self.values, -1), -1)


def terms_of(tables: Sequence[Table], groups: Sequence[Sequence[int]]) -> list[Term]:
    """Return the variance of Σ mean(table), source by source.

    A difference of trainings that all units share holds, beside what the seeds add, each unit's own noise, which the
    scatter of the units holds already; it is taken off, down to zero. In grids with missing runs it stays, so that
    these err on the safe side.

    Args:
        tables: as above, of independent units.
        groups: which tables have their trainings in common, by place: all of them where both arms have the same
            training seeds, else one group an arm.
    """
    terms = [Term(table.source, np.nanmean(table.values, -1).var(-1, ddof=1) / table.units, table.units)
             for table in tables if table.units > 1]
    for group in groups:
        members = [tables[place] for place in group]
        by_training = sum(np.nanmean(table.values, -2) for table in members)
        known = ~np.isnan(by_training).reshape(-1, by_training.shape[-1]).any(0)
        if known.sum() > 1:
            variance = by_training[..., known].var(-1, ddof=1) / known.sum()
            counted = sum(_interaction(table.values) for table in members)
            terms.append(Term("trainings", np.maximum(variance - counted, 0), int(known.sum())))
    return terms


def _interaction(values: np.ndarray) -> np.ndarray | float:
    """Return what the residual of rows and columns adds to the variance of a table's mean; 0 for a single row, or
    where values are missing.
    """
    rows, columns = values.shape[-2:]
    if rows < 2 or columns < 2 or np.isnan(values).any():
        return 0.0
    rest = (values - values.mean(-1, keepdims=True) - values.mean(-2, keepdims=True)
            + values.mean((-2, -1), keepdims=True))
    return (rest**2).sum((-2, -1)) / ((rows - 1) * (columns - 1)) / (rows * columns)


def image_term(tables: Sequence[np.ndarray]) -> Term:
    """Return what testing on these images and no others adds.

    Args:
        tables: of each `Table` what its runs got right, 0 to 100, differences included: float64 (runs, images).
    """
    by_image = sum(table.mean(0) for table in tables)
    count = len(by_image)
    counted = sum(_interaction(table) for table in tables)  # of a run's own luck, which the other sources hold
    return Term("test images", np.maximum(by_image.var(ddof=1) / count - counted, 0), count)


def half_width(terms: Sequence[Term], confidence: float = 0.95) -> np.ndarray:
    """Return how far the interval reaches on either side of the difference, (...); NaN where no term is above zero."""
    total = sum(stats.t.ppf((1 + confidence) / 2, term.count - 1) ** 2 * term.variance for term in terms)
    return np.sqrt(np.where(np.asarray(total) > 1e-18, total, np.nan))


def p_value(distance: float, terms: Sequence[Term]) -> float:
    """Return the two-sided p value of a difference that is ``distance`` away: 1 − the confidence of the interval that
    ends just there.
    """
    distance = abs(distance)
    if np.isnan(distance) or np.isnan(half_width(terms)):
        return np.nan
    if distance <= half_width(terms, 1e-9):
        return 1.0
    lowest = -30.0  # of log10 p
    if distance >= half_width(terms, 1 - 1e-15):
        return 0.0
    found = optimize.brentq(lambda power: _half_at(terms, 10.0**power) - distance, lowest, 0.0)
    return float(10.0**found)


def _half_at(terms: Sequence[Term], p: float) -> float:
    total = sum(stats.t.isf(p / 2, term.count - 1) ** 2 * float(term.variance) for term in terms)
    return float(np.sqrt(total))


def p_equivalent(difference: float, margin: float, terms: Sequence[Term]) -> float:
    """Return the p value of two one-sided tests that the true difference lies within ± ``margin``."""
    if abs(difference) >= margin:
        return 1.0
    return max(p_value(margin - difference, terms), p_value(margin + difference, terms)) / 2


def count_needed(terms: Sequence[Term], source: str, gain: float, confidence: float = 0.95,
                 power: float = 0.8) -> float:
    """Return how many units of ``source`` would decide a gain with the given power, all else as it is.

    Components are taken for known: what a source adds falls as one over its count, and the interval must leave out zero
    although the difference comes out low.

    Returns:
        The number, from 2; NaN where the source was not repeated; inf where 10,000 would not do.
    """
    if not any(term.source == source for term in terms) or np.isnan(half_width(terms)):
        return np.nan

    def enough(count: int) -> bool:
        scaled = [Term(source, term.variance * term.count / count, count) if term.source == source else term
                  for term in terms]
        error = float(np.sqrt(sum(term.variance for term in scaled)))
        return float(half_width(scaled, confidence)) + stats.norm.ppf(power) * error <= gain

    few, many = 1, 10_000
    if not enough(many):
        return np.inf
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return float(many)
