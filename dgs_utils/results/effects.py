"""How sure a difference of two arms is: a random-effects model of pools, selections, trainings and test images.

A run's accuracy is its arm's mean, plus what its pool, its selection and its training add by chance. Selections are
nested in pools; a training seed (initial weights, order) is crossed with both, since it is used for every set. Runs are
arranged in tables of units by trainings, whose means add up to the difference; a unit is the outermost thing of which
there are several, and its scatter holds everything nested in it. What the arms share is one table, of differences, so
that it cancels; what only one of them has is a table of its own, and counts in full.

Each source's share of the difference's variance is a mean square Vₖ with νₖ degrees of freedom. The interval is
d ± √Σ t²(νₖ) Vₖ: since P(z² ≤ x) is a concave function of x, it covers at least as often as it claims, whatever the
true components are, zero included (Banerjee, Sankhyā 1960). With Satterthwaite's degrees of freedom, the usual choice,
it would cover 91 % in the worst case of one and two of them, and 87 % of one and many. What two sources both hold is
taken off once, at the smaller of their weights t²: at the larger, three pools × two trainings would be covered 92 %,
and ten × two 87 %. Of what was not repeated nothing is known, and the interval holds for what was used: for this pool,
this selection, these test images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, special


@dataclass(frozen=True)
class Term:
    """What one source of noise adds to the variance of a difference.

    Attributes:
        source: "pools", "selections", "trainings" or "test images".
        variance: share of the variance, float64 (...), squared percentage points.
        count: units behind it; its degrees of freedom are one less.
        held: what of it other sources hold, too.
    """

    source: str
    variance: np.ndarray
    count: int
    held: tuple["Term", ...] = ()

    @property
    def own(self) -> np.ndarray:
        """Return the share of the variance that no other source holds, down to zero, (...)."""
        return np.maximum(self.variance - sum(part.variance for part in self.held), 0)

    def square(self, p: float) -> np.ndarray:
        """Return what it adds to the square of the half width of an interval of confidence 1 − ``p``, (...)."""
        held = sum(_weight(max(self.count, part.count), p) * part.variance for part in self.held)
        return np.maximum(_weight(self.count, p) * self.variance - held, 0)


def _weight(count: int, p: float) -> float:
    return float(t_limit(count - 1, p)) ** 2


def t_limit(freedom, p: float):
    """Return what |Student's t| exceeds with probability ``p``, for one or many degrees of freedom; NaN for none."""
    return -special.stdtrit(freedom, p / 2)  # scipy.stats has the same, but takes a second to load


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
    scatter of the units holds already. In grids with missing runs it is counted twice, so that these err on the safe
    side.

    Args:
        tables: as above, of independent units.
        groups: which tables have their trainings in common, by place: all of them where both arms have the same
            training seeds, else one group an arm.
    """
    terms = [Term(table.source, np.nanmean(table.values, -1).var(-1, ddof=1) / table.units, table.units)
             for table in tables if table.units > 1]
    for group in groups:
        members = [tables[place] for place in group]
        by_training = np.asarray(sum(np.nanmean(table.values, -2) for table in members))
        known = ~np.isnan(by_training).reshape(-1, by_training.shape[-1]).any(0)
        if known.sum() > 1:
            held = tuple(Term(table.source, _interaction(table.values), table.units) for table in members)
            variance = by_training[..., known].var(-1, ddof=1) / known.sum()
            terms.append(Term("trainings", variance, int(known.sum()), held))
    return terms


def _interaction(values: np.ndarray) -> np.ndarray:
    """Return what the residual of rows and columns adds to the variance of a table's mean; 0 for a single row, or
    where values are missing.
    """
    rows, columns = values.shape[-2:]
    if rows < 2 or columns < 2 or np.isnan(values).any():
        return np.zeros(values.shape[:-2])
    rest = (values - values.mean(-1, keepdims=True) - values.mean(-2, keepdims=True)
            + values.mean((-2, -1), keepdims=True))
    return (rest**2).sum((-2, -1)) / ((rows - 1) * (columns - 1)) / (rows * columns)


def image_term(tables: Sequence[np.ndarray]) -> Term:
    """Return what testing on these images and no others adds.

    Args:
        tables: of each `Table` what its runs got right, 0 to 100, differences included: float64 (runs, images).
    """
    by_image = np.asarray(sum(table.mean(0) for table in tables))
    count = len(by_image)
    luck = tuple(Term("runs", _interaction(table), len(table)) for table in tables)  # which the other sources hold
    return Term("test images", np.asarray(by_image.var(ddof=1) / count), count, luck)


def half_width(terms: Sequence[Term], confidence: float = 0.95) -> np.ndarray:
    """Return how far the interval reaches on either side of the difference, (...); NaN where no term is above zero."""
    total = _square(terms, 1 - confidence)
    return np.sqrt(np.where(total > 1e-18, total, np.nan))


def _square(terms: Sequence[Term], p: float) -> np.ndarray:
    return np.asarray(sum(term.square(p) for term in terms))


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
    found = optimize.brentq(lambda power: float(_square(terms, 10.0**power)) - distance**2, lowest, 0.0)
    return float(10.0**found)


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
        scaled = [_with_count(term, count) if term.source == source else term for term in terms]
        error = float(np.sqrt(sum(term.own for term in scaled)))
        return float(half_width(scaled, confidence)) + special.ndtri(power) * error <= gain

    few, many = 1, 10_000
    if not enough(many):
        return np.inf
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return float(many)


def _with_count(term: Term, count: int) -> Term:
    """Return what a source would add if there were so many of it."""
    held = tuple(replace(part, variance=part.variance * term.count / count) for part in term.held)
    return replace(term, variance=term.variance * term.count / count, count=count, held=held)
