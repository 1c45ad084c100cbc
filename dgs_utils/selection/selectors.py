"""The rules that pick a distilled class out of its candidates, behind one interface.

The rules themselves stand in `dgs_utils.selection.rules_by_score` and `dgs_utils.selection.rules_by_features`, what
they are given in `dgs_utils.selection.candidates`.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dgs_utils.methods import RULES
from dgs_utils.runtime.seeds import numpy_rng
from dgs_utils.selection import rules_by_features, rules_by_score  # noqa: F401  (importing them registers the rules)
from dgs_utils.selection.candidates import SELECTORS, Candidates, Selector, selector

__all__ = ["SELECTORS", "Candidates", "Selector", "hardest_removed", "select", "selection_rng", "selector"]


def selection_rng(seed: int, method: str, name: str) -> np.random.Generator:
    """Return the rng of a method's choice within one class, named after the seed, the method and the class."""
    return numpy_rng("sample", seed, method, name)


def select(name: str, classes: Sequence[Candidates], ipc: int, cut: float | None = None, **options) -> list[np.ndarray]:
    """Choose ``ipc`` images of every class by the rule called ``name``.

    Args:
        name: a key of `SELECTORS`.
        classes: the candidates, one entry a class.
        ipc: images per class.
        cut: share of the hardest candidates of a class that is removed before the rule sees them (`hardest_removed`);
            None = the rule's own share, which is 0 for all rules but CCS. IPC images stay.
        options: what the rule takes beyond candidates and IPC.

    Returns:
        One int64 array of indices per class, in the rule's own order; only rule "all" returns more than ``ipc``.

    Raises:
        ValueError: unknown rule, a class with fewer images than ``ipc``, or a rule that breaks its contract.
    """
    if name not in SELECTORS:
        raise ValueError(f"there is no selector {name!r}; choose one of {', '.join(sorted(SELECTORS))}")
    for candidates in classes:
        if candidates.size < ipc:
            raise ValueError(f"class {candidates.name} has {candidates.size} images for ipc {ipc}; "
                             f"generate a larger pool or lower the ipc")
    rule = SELECTORS[name]
    share = rule.cut if cut is None else cut
    kept = [hardest_removed(c.scores, share, ipc) if share else np.arange(c.size) for c in classes]
    if name in RULES and "features" not in RULES[name].needs:  # which are large, and would be copied
        classes = [replace(c, features=None) for c in classes]
    left = [c.only(k) if share else c for c, k in zip(classes, kept, strict=True)]
    found = rule.function(left, ipc, **options) if rule.whole_set else [rule.function(c, ipc, **options) for c in left]
    found = [np.asarray(indices, dtype=np.int64) for indices in found]
    for candidates, indices in zip(left, found, strict=True):
        wanted = candidates.size if name == "all" else ipc
        distinct = np.unique(indices[(indices >= 0) & (indices < candidates.size)]).size
        if len(indices) != wanted or distinct != wanted:
            raise ValueError(f"selector {name!r} returned {len(indices)} indices of class {candidates.name}, of which "
                             f"{distinct} are distinct images; {wanted} of {candidates.size} are wanted")
    return [k[indices] for k, indices in zip(kept, found, strict=True)]


def hardest_removed(scores: np.ndarray, share: float, least: int = 0) -> np.ndarray:
    """Return the indices, ascending, that stay when the hardest ``share`` of a class goes, but ``least`` at the least.

    ⌊share · N⌋ images go; among equally hard ones the later go first.
    """
    stay = max(len(scores) - int(share * len(scores) + 1e-9), min(least, len(scores)))
    return np.sort(np.argsort(scores, kind="stable")[:stay])
