"""Selection of a distilled class from its candidates, by any rule of the registry."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dgs_utils.methods import RULES, Rule
from dgs_utils.runtime.seeds import numpy_rng
from dgs_utils.selection import feature_rules, score_rules  # noqa: F401  (importing them registers the rules)
from dgs_utils.selection.rule_registry import RULE_FUNCTIONS, Candidates


def selection_rng(seed: int, name: str) -> np.random.Generator:
    """Return the rng of a choice within one class, named after the seed and the class: all rules share its chance."""
    return numpy_rng("sample", seed, name)


def select(name: str, classes: Sequence[Candidates], ipc: int | Sequence[int], cut: float | None = None,
           **options) -> list[np.ndarray]:
    """Choose ``ipc`` images of every class by a rule.

    Args:
        name: a key of `RULE_FUNCTIONS`.
        classes: the candidates, one entry a class.
        ipc: images per class, or how many of each one.
        cut: share of the hardest candidates of a class that is removed before the rule (`prune_hardest`), of which
            IPC stay; None = the rule's own share, which is 0 for all but CCS.
        options: further arguments of the rule.

    Returns:
        One int64 array of indices per class, in the rule's own order; only rule "all" returns more than ``ipc``.

    Raises:
        ValueError: unknown rule, a class with fewer images than ``ipc``, or a rule that returns anything but as many
            different images as are wanted.

    >>> scores = np.array([0.9, 0.1, 0.5, 0.3])
    >>> candidates = Candidates("cat", 4, selection_rng(0, "cat"), scores=scores)
    >>> select("easiest", [candidates], ipc=2)
    [array([1, 3])]
    """
    if name not in RULE_FUNCTIONS:
        raise ValueError(f"there is no selection rule {name!r}; choose one of {', '.join(sorted(RULE_FUNCTIONS))}")
    counts = list(ipc) if isinstance(ipc, Sequence) else [ipc] * len(classes)
    for candidates, count in zip(classes, counts, strict=True):
        if candidates.size < count:
            raise ValueError(f"class {candidates.name} has {candidates.size} images for ipc {count}; "
                             f"generate a larger pool or lower the ipc")
    rule, function = RULES.get(name, Rule(name)), RULE_FUNCTIONS[name]
    share = rule.cut if cut is None else cut
    kept = [prune_hardest(c.scores, share, count) if share else np.arange(c.size)
            for c, count in zip(classes, counts, strict=True)]
    if name in RULES and "features" not in rule.needs:  # which are large, and would be copied
        classes = [replace(c, features=None) for c in classes]
    left = [c.subset(k) if share else c for c, k in zip(classes, kept, strict=True)]
    chosen = function(left, ipc, **options) if rule.whole_set else [
        function(c, count, **options) for c, count in zip(left, counts, strict=True)]
    chosen = [np.asarray(indices, dtype=np.int64) for indices in chosen]
    for candidates, indices, count in zip(left, chosen, counts, strict=True):
        wanted = candidates.size if name == "all" else count
        distinct = np.unique(indices[(indices >= 0) & (indices < candidates.size)]).size
        if len(indices) != wanted or distinct != wanted:
            raise ValueError(f"selection rule {name!r} returned {len(indices)} indices of class {candidates.name}, of "
                             f"which {distinct} are distinct images; {wanted} of {candidates.size} are wanted")
    return [k[indices] for k, indices in zip(kept, chosen, strict=True)]


def prune_hardest(scores: np.ndarray, share: float, least: int = 0) -> np.ndarray:
    """Return the indices, ascending, that stay without the hardest ``share`` of a class, at least ``least``.

    ⌊share · N⌋ images go; among equally hard ones the later go first.
    """
    stay = max(len(scores) - int(share * len(scores) + 1e-9), min(least, len(scores)))
    return np.sort(np.argsort(scores, kind="stable")[:stay])
