"""Rules that look at order, chance, or one score an image [B §5]."""

import numpy as np

from dgs_utils.selection.permanent_numbers import weighted_order
from dgs_utils.selection.rule_registry import RULE_FUNCTIONS, Candidates, selection_rule
from dgs_utils.selection.targets import draw

STRATA = 50  # bins of coverage-centric selection

# ---- By order, chance and rank ---------------------------------------------------------------------------------------

RULE_FUNCTIONS.update({
    "first": lambda candidates, ipc: np.arange(ipc),  # what a generator would have made for this IPC alone
    "all": lambda candidates, ipc: np.arange(candidates.size),  # the full data set
    "random": lambda candidates, ipc: candidates.draw(ipc),  # of the pool, the control for the effect of the pool alone
    "easiest": lambda candidates, ipc: np.argsort(candidates.scores, kind="stable")[:ipc],
    "hardest": lambda candidates, ipc: np.argsort(-candidates.scores, kind="stable")[:ipc],
    "middle": lambda candidates, ipc: score_window(candidates.scores, ipc, 0.5),  # the band around the median score
    # By target counts per bin, the published rule [F §8.3].
    "draw": lambda candidates, ipc: draw(candidates.scores, candidates.counts, keys=candidates.keys).indices,
})


@selection_rule("cad")
def compute_aware(candidates: Candidates, ipc: int, compute: float = 0.0) -> np.ndarray:
    """Take a band of the order by score, the harder the more compute the evaluation has: from 0 (little) to 1."""
    return score_window(candidates.scores, ipc, compute)


def score_window(values: np.ndarray, k: int, position: float) -> np.ndarray:
    """Return the indices of ``k`` neighbours in ascending order of values, from the lowest (0) to the highest (1)."""
    start = int(position * (len(values) - k))  # 0.5 of an odd number of starts: the lower one
    return np.argsort(values, kind="stable")[start : start + k]


# ---- By a target distribution ----------------------------------------------------------------------------------------

@selection_rule("match")
def match(candidates: Candidates, ipc: int) -> np.ndarray:
    """Take the subset whose sorted difficulties are closest to the target's quantiles.

    Minimises the Wasserstein-1 distance exactly; no bins, no chance. In the order of scores no match crosses another,
    so that the least cost of the first quantiles among the first images follows from that of one quantile less.
    """
    order = np.argsort(candidates.scores, kind="stable")
    scores, best, improves = candidates.scores[order], np.zeros(candidates.size + 1), []
    for quantile in candidates.quantiles:
        cost = scores - quantile
        np.add(np.abs(cost, out=cost), best[:-1], out=cost)  # with this image as the quantile's
        np.minimum.accumulate(cost, out=best[1:])
        best[0] = np.inf
        improves.append(np.packbits(cost < best[:-1]))
    chosen, end = np.empty(ipc, dtype=np.int64), candidates.size
    for rank in reversed(range(ipc)):
        end = np.flatnonzero(np.unpackbits(improves[rank], count=end))[-1]
        chosen[rank] = order[end]
    return chosen


@selection_rule("low_discrepancy")
def low_discrepancy(candidates: Candidates, ipc: int) -> np.ndarray:
    """Take images in one order of which every prefix follows the target, so that sets of all IPCs nest.

    With F the target's distribution function and C(x) how many chosen images are not harder than x, each step takes the
    image that leaves the least ∫(C − nF)² dx, the first of equally good ones. The mean over images drawn from F would
    grow this integral by V = ∫F(1 − F) dx ≤ ¼ a step, so that the Wasserstein-1 distance of the first n images to the
    target is at most √(V/n) + (√g₁ + … + √gₙ)/n, where g is the mean distance of the target's difficulties from the
    nearest image left (by Minkowski's inequality).
    """
    scores, reference = candidates.scores, np.sort(candidates.reference)
    grid = np.unique(np.concatenate([scores, reference]))
    widths, places = np.diff(grid), np.searchsorted(grid, scores)
    wanted = np.searchsorted(reference, grid[:-1], side="right") / len(reference)
    excess, taken, chosen = np.zeros(len(widths)), np.zeros(len(scores), dtype=bool), np.empty(ipc, dtype=np.int64)
    for step in range(ipc):
        excess -= wanted
        below, above = (np.concatenate([[0], np.cumsum(widths * np.square(excess + one))]) for one in (0, 1))
        cost = np.where(taken, np.inf, below[places] + above[-1] - above[places])
        chosen[step] = image = np.argmax(cost <= cost.min() + 1e-12)
        taken[image] = True
        excess[places[image] :] += 1
    return chosen


# ---- By the score ----------------------------------------------------------------------------------------------------

@selection_rule("ccs")  # of what is left without the hardest 30 %, as published for keeping a tenth
@selection_rule("stratified")
def stratified(candidates: Candidates, ipc: int) -> np.ndarray:
    """Spread the choice over equal-width bins of the score: coverage-centric selection (Zheng et al., 2023).

    50 bins cover the scores from lowest to highest. In ascending order of size (the easier first of equal ones), each
    bin gives what it has, or an equal share of what is still to be taken, rounded down; inside a bin, chance decides.
    """
    low, high = candidates.scores.min(), candidates.scores.max()
    members = np.zeros(candidates.size, dtype=np.int64)
    if high > low:
        members = np.minimum((STRATA * ((candidates.scores - low) / (high - low))).astype(np.int64), STRATA - 1)
    sizes, chosen, missing = np.bincount(members, minlength=STRATA), [], ipc
    for done, which in enumerate(np.argsort(sizes, kind="stable")):
        taken = min(sizes[which], missing // (STRATA - done))
        chosen.append(candidates.draw(taken, np.flatnonzero(members == which)))
        missing -= taken
    return np.concatenate(chosen)


# ---- By training dynamics --------------------------------------------------------------------------------------------

@selection_rule("dual")
def dual(candidates: Candidates, ipc: int) -> np.ndarray:
    """Draw one after the other in proportion to score × a Beta density of the mean probability (Cho et al., 2025).

    The more images are removed, the more the density favours sure ones: with the anchor, the mean probability of the
    ten images of highest score, and r, the share that is not taken, b = 15 (1 − anchor)(1 − r⁴) and a = 16 − b. Images
    of score 0 follow when there are no others.
    """
    mean = np.clip(candidates.mean_probability, 1e-6, 1 - 1e-6)
    anchor = mean[np.argsort(-candidates.scores, kind="stable")[:10]].mean()
    b = 15 * (1 - anchor) * (1 - (1 - ipc / candidates.size) ** 4)
    scored = candidates.scores > 0
    weights = (15 - b) * np.log(mean) + (b - 1) * np.log1p(-mean) + np.log(np.where(scored, candidates.scores, 1))
    return weighted_order(np.where(scored, weights, -1e9), keys=candidates.keys)[:ipc]


# ---- By the scorer's confidence --------------------------------------------------------------------------------------

@selection_rule("confidence")
def confidence(candidates: Candidates, ipc: int) -> np.ndarray:
    """Take correctly classified images by confidence (CaO2's rule): most confident first up to IPC 10, least above.

    Where too few are classified correctly, the others follow in the same order.
    """
    direction = -1 if ipc <= 10 else 1
    return np.lexsort((direction * candidates.confidence, ~candidates.correct))[:ipc]
