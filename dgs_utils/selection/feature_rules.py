"""Selection rules on features of the images [B §5], by the functions of `dgs_utils.selection.coresets`."""

from collections.abc import Sequence

import numpy as np

from dgs_utils.selection import coresets
from dgs_utils.selection.rule_registry import RULE_FUNCTIONS, Candidates, selection_rule
from dgs_utils.selection.score_rules import score_window

RELIABLE = 0.5  # least probability of the class for "reliable × far"
ATTRACTION, REPULSION, SWEEPS = 0.4, 0.9, 5  # of S3

RULE_FUNCTIONS.update({
    "k_center": lambda candidates, ipc: coresets.k_center(candidates.features, ipc),
    "herding": lambda candidates, ipc: coresets.herding(candidates.features, ipc),
    "facility_location": lambda candidates, ipc: coresets.facility_location(candidates.features, ipc),
    "d2": lambda candidates, ipc: coresets.graph_density(candidates.features, candidates.scores, ipc),
    # Images nearest to one of IPC k-means centres (Sorscher et al., 2022) are advised where data are few, and those
    # farthest from all of them where data are many.
    "prototypes_near": lambda candidates, ipc: np.argsort(_to_prototypes(candidates, ipc), kind="stable")[:ipc],
    "prototypes_far": lambda candidates, ipc: np.argsort(-_to_prototypes(candidates, ipc), kind="stable")[:ipc],
})


@selection_rule("moderate")
def moderate(candidates: Candidates, ipc: int) -> np.ndarray:
    """Take the images whose distance to the class centre is around the median (Moderate coreset; Xia et al., 2023)."""
    features = coresets.check_features(candidates.features, ipc)
    return score_window(coresets.distances_to_centres(features, coresets.mean_of(features)[None]), ipc, 0.5)


def _to_prototypes(candidates: Candidates, k: int) -> np.ndarray:
    """Return each image's distance to the nearest of ``k`` k-means centres, to 9 digits of the largest."""
    features = coresets.check_features(candidates.features, k)
    distances = coresets.distances_to_centres(features, coresets.k_means(features, k, candidates.rng))
    grain = max(distances.max() * 1e-9, np.finfo(float).tiny)  # images at equal distances count as equally far
    return np.round(distances / grain) * grain


@selection_rule("reliable_far")
def reliable_far(candidates: Candidates, ipc: int) -> np.ndarray:
    """Take images recognised with probability `RELIABLE` or more first, by score × distance to those taken.

    In the spirit of Pool-Select-Refine, whose score is the entropy of the prediction.
    """
    reliable = candidates.correct & (candidates.confidence >= RELIABLE)  # confidence is then the class's
    return coresets.reliable_far(candidates.features, candidates.scores, reliable, ipc)


@selection_rule("s3")
def s3(classes: Sequence[Candidates], ipc: int) -> list[np.ndarray]:
    """Choose one group of ``ipc`` consecutive images per class, near the real class and far from the other groups.

    Selective subgroup sampling: with c the groups' mean directions and r the real classes', it maximises
    0.4 · Σ_i −log(1 − cos(c_i, r_i)) + 0.9 · Σ_{i<j} log(1 − cos(c_i, c_j)), starting from the groups
    closest to the real classes, one class at a time (in order of class names), for at most five rounds.
    """
    groups = [np.stack([_direction(c.features[g * ipc : (g + 1) * ipc]) for g in range(c.size // ipc)])
              for c in classes]
    pull = [-_log_gap(g @ _direction(c.real_features)) for g, c in zip(groups, classes, strict=True)]
    chosen = [int(np.argmax(p)) for p in pull]
    order = sorted(range(len(classes)), key=lambda i: classes[i].name)
    for _ in range(SWEEPS):
        before = list(chosen)
        for i in order:
            others = np.stack([groups[j][chosen[j]] for j in order if j != i]) if len(order) > 1 else groups[i][:0]
            push = _log_gap(groups[i] @ others.T).sum(axis=1)
            chosen[i] = int(np.argmax(ATTRACTION * pull[i] + REPULSION * push))
        if chosen == before:
            break
    return [np.arange(g * ipc, (g + 1) * ipc) for g in chosen]


def _direction(features: np.ndarray) -> np.ndarray:
    """Return the mean direction of feature vectors, of length 1, or 0 where they point nowhere together."""
    return _unit(_unit(features).mean(axis=0))


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


def _log_gap(cosine: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(1 - cosine, 1e-12))
