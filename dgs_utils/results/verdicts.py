"""Verdicts on the paper's sentences, by rule.

An `Effect` is a number that is above 0 if the sentence is right, with a side: +1 for the claimed side, −1 for the
other, 0 for undecided. The side of a published number is its sign. An own number has a side only if its 95 % interval
excludes 0 after Holm's correction within the claim, and if several sets were drawn: trainings of one set do not decide
a sentence about a method. Of n effects, k on the claimed side, j on the other:

=======================================  =========================================================================
holds, holds in all n                    k = n
holds in k of n, contradicted in j       0 < k < n
contradicted, contradicted in j of n     k = 0 < j
cannot be decided                        k = j = 0
cannot be decided: …                     n = 0; the text names the missing input
=======================================  =========================================================================

A sentence about *most* cases holds if 2k > n, and is contradicted if 2j ≥ n. "with …" gives the numbers of runs or
classes of own numbers, and "for this pool" means a single one.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import NamedTuple

import numpy as np
import pandas as pd

from dgs_utils.results.comparisons import Comparison, compare_rows, count_runs, holm, signed
from dgs_utils.results.random_effects import VarianceComponent, half_width, p_value
from dgs_utils.results.rows import SEEDS, seed_numbers

MAX_LISTED = 9  # effects that are listed; of more, the smallest and the largest
ERROR_RATE = 0.05
UNDECIDED = "cannot be decided"
PUBLISHED_REPEATS = 3  # trainings behind a published number; its ± is their standard deviation, ddof 0


@dataclass(frozen=True)
class Effect:
    """One number of a claim (see the module)."""

    name: str  # the case, such as "ResNet-18, IPC 10"; "" for a single one
    value: float
    side: int
    low: float = np.nan  # of the 95 % interval; NaN for none
    high: float = np.nan
    clear: bool | None = None  # whether a published number exceeds the spreads (±) of its parts together
    rival: str = ""  # the other arm of a difference, for cases with several
    counts: str = ""  # of runs, such as "1 pool, 3 trainings"

    def text(self, digits: int) -> str:
        """Return name, value and interval with so many decimals.

        >>> Effect("IPC 10", 1.25, 1, 0.5, 2.0).text(1)
        'IPC 10: +1.2 (+0.5 to +2.0)'
        """
        name = ", ".join(part for part in (self.name, f"over {self.rival}" if self.rival else "") if part)
        interval = "" if np.isnan(self.low) else f" ({signed(self.low, digits)} to {signed(self.high, digits)})"
        return f"{name}: {signed(self.value, digits)}{interval}".removeprefix(": ")


class Finding(NamedTuple):
    """The effects of a claim as text, and the verdict."""

    numbers: str
    verdict: str


def decide(effects: Sequence[Effect], needed: str = "", most: bool = False, digits: int = 1) -> Finding:
    """Return the finding on a sentence about every case, or about ``most``.

    The least favourable rival of each case counts; ``needed`` names the missing input if there are no effects.

    >>> decide([Effect("a", 1.0, 1), Effect("b", -2.0, -1)])
    Finding(numbers='a: +1.0; b: −2.0', verdict='holds in 1 of 2, contradicted in 1')
    """
    if not effects:
        return Finding("", f"{UNDECIDED}: {needed}")
    rivals = list(dict.fromkeys(effect.rival for effect in effects if effect.rival))
    cases: dict[object, list[Effect]] = {}
    for index, effect in enumerate(effects):
        cases.setdefault(effect.name if effect.rival else index, []).append(effect)
    worst = [replace(min(case, key=lambda effect: (effect.side, effect.value)),
                     clear=None if case[0].clear is None else all(effect.clear for effect in case))
             for case in cases.values()]
    texts = [effect.text(digits) for effect in worst]
    if len(worst) > MAX_LISTED:
        values = [effect.value for effect in worst]
        texts = [f"from {texts[np.argmin(values)]} to {texts[np.argmax(values)]}"]
    verdict = _verdict(len(worst), sum(e.side > 0 for e in worst), sum(e.side < 0 for e in worst), most)
    return Finding("; ".join([*texts, f"rivals: {', '.join(rivals)}"] if len(rivals) > 1 else texts),
                   verdict + _support(worst))


def _verdict(total: int, right: int, wrong: int, most: bool) -> str:
    if most and 2 * right > total:
        return f"holds: {right} of {total}"
    if most:
        return f"contradicted: {right} of {total}" if 2 * wrong >= total else UNDECIDED
    if right == total:
        return "holds" if total == 1 else f"holds in all {total}"
    if right:
        return f"holds in {right} of {total}" + (f", contradicted in {wrong}" if wrong else "")
    return "contradicted" if wrong == total else f"contradicted in {wrong} of {total}" if wrong else UNDECIDED


def _support(effects: Sequence[Effect]) -> str:
    """Return the numbers of runs of own effects, and how many published ones exceed their spreads."""
    counts = dict.fromkeys(effect.counts for effect in effects if effect.counts)
    clear = [effect.clear for effect in effects if effect.clear is not None and effect.side > 0]
    one_pool = any(effect.counts.startswith("1 pool") and effect.side for effect in effects)
    return ((" for this pool," if one_pool else "") + (f" with {' or '.join(counts)}" if counts else "")
            + (f"; {sum(clear)} beyond the spreads" if clear else ""))


# ---- From accuracies to effects --------------------------------------------------------------------------------------

class Contrast(NamedTuple):
    """A weighted sum of accuracies that is above 0 if the sentence is right: weights and the rows of each arm."""

    name: str
    parts: Sequence[tuple[float, pd.DataFrame]]
    rival: str = ""


Estimator = Callable[[Iterable[Contrast]], list[Effect]]


def published_effects(contrasts: Iterable[Contrast], tested: bool = False) -> list[Effect]:
    """Return the effects of rows with mean and std (±); if ``tested``, with intervals, taking each ± as the spread of
    `PUBLISHED_REPEATS` independent trainings, and with sides by these.
    """
    effects, p_values = [], []
    for name, parts, rival in contrasts:
        value = round(sum(weight * arm["mean"].item() for weight, arm in parts), 9)
        spreads = [abs(weight) * arm["std"].item() for weight, arm in parts]
        components = [VarianceComponent("trainings", np.square(spread) / (PUBLISHED_REPEATS - 1), PUBLISHED_REPEATS)
                      for spread in spreads]
        half = float(half_width(components)) if tested else np.nan
        p_values.append(p_value(value, components) if tested else 0.0)
        effects.append(Effect(name, value, int(np.sign(value)), value - half, value + half, rival=rival,
                            clear=None if tested else abs(value) > sum(spreads)))
    return [replace(effect, side=effect.side * (p < ERROR_RATE))
            for effect, p in zip(effects, holm(p_values), strict=True)]


def measured_effects(contrasts: Iterable[Contrast]) -> list[Effect]:
    """Return the effects of rows with one training each, in percentage points, by `comparisons.compare_rows`: of two
    arms, or of longer sums against 0, run by run. Contrasts without common runs are left out.
    """
    compared = [(contrast, _compared(contrast.parts)) for contrast in contrasts]
    compared = [(contrast, comparison) for contrast, comparison in compared if comparison.trainings]
    p_values = holm([comparison.p for _, comparison in compared])
    # One set may be good or bad by chance, so that only several have a side.
    has_sets = ["selection" not in found.given.split(", ") and (found.pools, found.selections) not in ((1, 0), (1, 1))
                for _, found in compared]
    sides = [int(np.sign(found.difference)) * (p < ERROR_RATE) * several
             for (_, found), p, several in zip(compared, p_values, has_sets, strict=True)]
    return [Effect(contrast.name, found.difference, side, found.low, found.high, rival=contrast.rival,
                   counts=count_runs(found)) for (contrast, found), side in zip(compared, sides, strict=True)]


def _compared(parts: Sequence[tuple[float, pd.DataFrame]]) -> Comparison:
    if [weight for weight, _ in parts] == [1, -1]:
        return compare_rows(parts[0][1], parts[1][1])
    tables = [pd.DataFrame({name: seed_numbers(arm[name]) for name in SEEDS}).dropna(axis="columns", how="all").assign(
        **{f"part {index}": weight * arm["best"]}) for index, (weight, arm) in enumerate(parts)]
    runs = reduce(pd.merge, tables)  # by the seeds that both have: the first images of a pool meet all selections of it
    sums = pd.DataFrame({name: runs.get(name, -1) for name in SEEDS}).assign(best=runs.filter(like="part ").sum(axis=1))
    return compare_rows(sums, sums.assign(best=0.0))
