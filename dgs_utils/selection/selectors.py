"""The rules that pick a distilled class out of its candidates, behind one interface.

A selector is a function ``(candidates, ipc) -> indices`` of one class. To add one, write the function here under
``@selector("its_name")`` and give a row of `dgs_utils.methods.METHODS` that name: notebook 05, the experiment files and
the tables then know it.

    @selector("near_half")
    def near_half(candidates, ipc):
        return np.argsort(np.abs(candidates.scores - 0.5), kind="stable")[:ipc]

A rule that has to see all classes at once (S3) is registered with ``whole_set=True``: it takes the list of candidates,
one entry a class, and returns a list of index arrays.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from dgs_utils.runtime.seeds import numpy_rng
from dgs_utils.selection import coresets as coreset
from dgs_utils.selection.targets import draw

SELECTORS: dict[str, "Selector"] = {}


@dataclass(frozen=True)
class Candidates:
    """The images of one class that a selector may choose from, in natural order of their file names.

    What a method does not call for (`dgs_utils.methods.Method.needs`) is None.

    Attributes:
        name: class name.
        size: number of images N.
        rng: NumPy generator named after selection seed, method and class: the only source of chance.
        scores: shape (N,), difficulty in [0, 1]: transformed for ``needs="transformed"``, as measured for "scores".
        confidence: shape (N,), the classifier's largest probability; with "scores".
        correct: shape (N,), bool, whether the classifier's first choice is the class; with "scores".
        counts: shape (bins,), target images per bin of ``scores``; with "transformed".
        quantiles: shape (ipc,), target difficulties, ascending; with "transformed".
        features: shape (N, D), of the difficulty classifier; with "features".
        real_features: shape (M, D), of real images of the class; with "features" and ``whole_set``.
    """

    name: str
    size: int
    rng: np.random.Generator
    scores: np.ndarray | None = None
    confidence: np.ndarray | None = None
    correct: np.ndarray | None = None
    counts: np.ndarray | None = None
    quantiles: np.ndarray | None = None
    features: np.ndarray | None = None
    real_features: np.ndarray | None = None


@dataclass(frozen=True)
class Selector:
    """A registered rule: its function, and whether it works on all classes at once."""

    function: Callable
    whole_set: bool


def selector(name: str, whole_set: bool = False) -> Callable:
    """Register the decorated function as a selector."""
    def register(function: Callable) -> Callable:
        SELECTORS[name] = Selector(function, whole_set)
        return function
    return register


def selection_rng(seed: int, method: str, name: str) -> np.random.Generator:
    """Return the source of chance of one class's selection by a method of `dgs_utils.methods.METHODS`."""
    return numpy_rng("sample", seed, method, name)


def select(name: str, classes: Sequence[Candidates], ipc: int) -> list[np.ndarray]:
    """Choose ``ipc`` images of every class by the rule called ``name``.

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
    found = rule.function(classes, ipc) if rule.whole_set else [rule.function(c, ipc) for c in classes]
    found = [np.asarray(indices, dtype=np.int64) for indices in found]
    for candidates, indices in zip(classes, found, strict=True):
        wanted = candidates.size if name == "all" else ipc
        distinct = set(indices.tolist()) & set(range(candidates.size))
        if len(indices) != wanted or len(distinct) != wanted:
            raise ValueError(f"selector {name!r} returned {len(indices)} indices of class {candidates.name}, of which "
                             f"{len(distinct)} are distinct images; {wanted} of {candidates.size} are wanted")
    return found


# ---- By order and chance ---------------------------------------------------------------------------------------------

@selector("first")
def first(candidates: Candidates, ipc: int) -> np.ndarray:
    """Take the first images: what a generator would have made for this IPC alone."""
    return np.arange(ipc)


@selector("all")
def everything(candidates: Candidates, ipc: int) -> np.ndarray:
    """Take every image (the full data set)."""
    return np.arange(candidates.size)


@selector("random")
def random(candidates: Candidates, ipc: int) -> np.ndarray:
    """Draw uniformly; on the pool, the control that tells what the pool alone brings."""
    return candidates.rng.choice(candidates.size, ipc, replace=False)


# ---- By difficulty ---------------------------------------------------------------------------------------------------

@selector("draw")
def difficulty_guided(candidates: Candidates, ipc: int) -> np.ndarray:
    """Draw by target counts per bin: the published rule [F §8.3]."""
    return draw(candidates.scores, candidates.counts, candidates.rng).indices


@selector("match")
def match(candidates: Candidates, ipc: int) -> np.ndarray:
    """Take the subset whose sorted difficulties are closest to the target's quantiles.

    Minimises the Wasserstein-1 distance exactly, as an assignment of images to quantiles; no bins, no chance.
    """
    cost = np.abs(candidates.quantiles[:, None] - candidates.scores[None, :])
    return linear_sum_assignment(cost)[1]


@selector("easiest")
def easiest(candidates: Candidates, ipc: int) -> np.ndarray:
    """Take the images of lowest difficulty."""
    return np.argsort(candidates.scores, kind="stable")[:ipc]


@selector("hardest")
def hardest(candidates: Candidates, ipc: int) -> np.ndarray:
    """Take the images of highest difficulty."""
    return np.argsort(-candidates.scores, kind="stable")[:ipc]


@selector("middle")
def middle(candidates: Candidates, ipc: int) -> np.ndarray:
    """Take the band around the median difficulty."""
    start = (candidates.size - ipc) // 2
    return np.argsort(candidates.scores, kind="stable")[start : start + ipc]


@selector("confidence")
def confidence(candidates: Candidates, ipc: int) -> np.ndarray:
    """Take correctly classified images by confidence (CaO2's rule): most confident first up to IPC 10, least above.

    Where too few are classified correctly, the others follow in the same order.
    """
    direction = -1 if ipc <= 10 else 1
    return np.lexsort((direction * candidates.confidence, ~candidates.correct))[:ipc]


# ---- By features -----------------------------------------------------------------------------------------------------

@selector("k_center")
def k_center(candidates: Candidates, ipc: int) -> np.ndarray:
    """Take K-Center's greedy centres in the classifier's feature space."""
    return coreset.k_center(candidates.features, ipc)


@selector("herding")
def herding(candidates: Candidates, ipc: int) -> np.ndarray:
    """Take the herding sequence in the classifier's feature space."""
    return coreset.herding(candidates.features, ipc)


@selector("s3", whole_set=True)
def s3(classes: Sequence[Candidates], ipc: int, attraction: float = 0.4, repulsion: float = 0.9,
       sweeps: int = 5) -> list[np.ndarray]:
    """Choose one group of ``ipc`` consecutive images per class, near the real class and far from the other groups.

    Selective subgroup sampling: with c the groups' mean directions and r the real classes', it maximises
    attraction · Σ_i −log(1 − cos(c_i, r_i)) + repulsion · Σ_{i<j} log(1 − cos(c_i, c_j)), starting from the groups
    closest to the real classes, one class at a time (in order of class names), for at most ``sweeps`` rounds.
    """
    groups = [[_direction(c.features[g * ipc : (g + 1) * ipc]) for g in range(c.size // ipc)] for c in classes]
    groups = [np.stack(g) for g in groups]
    pull = [-_log_gap(g @ _direction(c.real_features)) for g, c in zip(groups, classes, strict=True)]
    chosen = [int(np.argmax(p)) for p in pull]
    order = sorted(range(len(classes)), key=lambda i: classes[i].name)
    for _ in range(sweeps):
        before = list(chosen)
        for i in order:
            others = np.stack([groups[j][chosen[j]] for j in order if j != i]) if len(order) > 1 else groups[i][:0]
            push = _log_gap(groups[i] @ others.T).sum(axis=1)
            chosen[i] = int(np.argmax(attraction * pull[i] + repulsion * push))
        if chosen == before:
            break
    return [np.arange(g * ipc, (g + 1) * ipc) for g in chosen]


def _direction(features: np.ndarray) -> np.ndarray:
    """Return the mean direction of feature vectors, of length 1."""
    mean = (features / np.linalg.norm(features, axis=1, keepdims=True)).mean(axis=0)
    return mean / np.linalg.norm(mean)


def _log_gap(cosine: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(1 - cosine, 1e-12))
