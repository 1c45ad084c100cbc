"""Difficulty-guided sampling as one object for arrays, with scikit-learn's conventions.

It does what stages 04 and 05 do, by the same functions: `transform_class`, `class_target` and `select`.
"""

from collections import Counter
from collections.abc import Hashable, Iterable
from numbers import Integral
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from dgs_utils.params.base import did_you_mean
from dgs_utils.selection.histograms import check_scores
from dgs_utils.selection.permanent_numbers import permanent_numbers
from dgs_utils.selection.rule_registry import Candidates
from dgs_utils.selection.select import select, selection_rng
from dgs_utils.selection.targets import PREDEFINED, Target, class_target, target_report
from dgs_utils.selection.thresholds import Objective
from dgs_utils.selection.transforms import TransformedClass, default_limit, prefix_warnings, transform_class, warn
from dgs_utils.store.grouped_warnings import group_warnings

RULES = ("draw", "match", "low_discrepancy")


class DifficultyGuidedSampler(BaseEstimator):
    """Choose images of a pool so that their difficulties are distributed as the originals' are.

    Args:
        ipc: images per class, ≥ 1.
        distribution: "scale" (the originals' own), or a predefined one: hill, ground, slope, cliff, uniform.
        rule: "draw" (by counts per bin, as published), or without chance "match" (closest to the target's quantiles) or
            "low_discrepancy" (an order of which every prefix follows the target).
        objective: "code" (what made the published numbers), "paper" (Eqs. 7–9) or "none" (no logarithm).
        weight: λ of Eq. 9, in [0, 1].
        bins: number of equal bins of difficulty, ≥ 2.
        limit: thresholds tried are below this, ≥ 1; None = ipc // 2, as published.
        search_on: set that thresholds are searched on, "pool" (as published) or "originals".
        shared_scale: both sets are stretched over the pool's bounds, instead of each over its own.
        random_state: seed of the draw, int ≥ 0 (the same as ``sample.seed``); a `numpy.random.Generator` or
            `RandomState`, from which a seed is drawn; None for another draw each time.

    Attributes:
        classes_: list of the originals' labels, in order of first appearance.
        scores_: the originals' scores by class, each of shape (M,).
        thresholds_: `Thresholds` by class.
        counts_: images wanted per bin by class, each int64 of shape (bins,), summing to ``ipc``.
        report_: a frame with one row a class: class, target, images, pool_images, original_images, bottom, top,
            shortage, divergence, note, found and wasserstein (see `target_report`). Print it in full by
            ``report_.to_string()``; a narrow terminal shows target, found and wasserstein.

    `fit` sets the first two, `select` the others, since thresholds are searched on the pool.

    >>> originals, pool = np.linspace(0, 1, 40) ** 2, np.linspace(0, 1, 100) ** 3
    >>> sampler = DifficultyGuidedSampler(ipc=5, random_state=0).fit(originals, ["cat"] * 40)
    >>> sampler.select(pool, ["cat"] * 100).shape
    (5,)
    >>> sampler.counts_["cat"].tolist()
    [0, 0, 0, 0, 0, 1, 0, 1, 1, 2]
    """

    def __init__(self, ipc: int = 10, *, distribution: str = "scale", rule: str = "draw", objective: Objective = "code",
                 weight: float = 0.5, bins: int = 10, limit: int | None = None,
                 search_on: Literal["pool", "originals"] = "pool", shared_scale: bool = False,
                 random_state: int | np.random.Generator | np.random.RandomState | None = None):
        self.ipc = ipc
        self.distribution = distribution
        self.rule = rule
        self.objective = objective
        self.weight = weight
        self.bins = bins
        self.limit = limit
        self.search_on = search_on
        self.shared_scale = shared_scale
        self.random_state = random_state

    def fit(self, original_scores: ArrayLike, original_labels: Iterable[Hashable]) -> "DifficultyGuidedSampler":
        """Take the originals' difficulties, and forget what an earlier pool led to.

        Args:
            original_scores: shape (M,), each in [0, 1].
            original_labels: M labels of any hashable kind.

        Raises:
            ValueError: a bad parameter, score or label.
        """
        self._check_parameters()
        scores, indices = _by_class(original_scores, original_labels, "original")
        for name in ("thresholds_", "counts_", "report_"):
            self.__dict__.pop(name, None)
        self.classes_, self.scores_ = list(indices), {label: scores[rows] for label, rows in indices.items()}
        return self

    def select(self, pool_scores: ArrayLike, pool_labels: Iterable[Hashable],
               ids: Iterable[Hashable] | None = None) -> np.ndarray:
        """Choose ``ipc`` images of each class.

        Args:
            pool_scores: shape (N,), each in [0, 1], by the scorer that scored the originals.
            pool_labels: N labels, those of the originals.
            ids: N texts or numbers by which an image of a class is known for ever, such as file names without suffix;
                None = its place in its class. Chance goes with them: images that keep their id are drawn again from a
                pool that has grown, or that was scored a little otherwise.

        Returns:
            int64 array of shape (classes · ipc,), indices into the pool: class by class in the order of ``classes_``,
            in the rule's own order within a class.

        Raises:
            sklearn.exceptions.NotFittedError: `fit` has not been called.
            ValueError: a bad parameter, score or label, a class without originals, or one with fewer images in the
                pool than ``ipc``; the sentence names it.
        """
        check_is_fitted(self, "scores_")
        self._check_parameters()
        scores, indices = _by_class(pool_scores, pool_labels, "pool")
        self._check_classes(indices)
        classes = {label: self._prepare(label, scores[indices[label]]) for label in self.classes_}
        for line in group_warnings(note for *_, notes in classes.values() for note in notes):
            warn(line)
        seed, streams = self._seed(), _stream_names(self.classes_)
        names = _ids_by_class(ids, indices, len(np.asarray(pool_scores)))
        candidates = [Candidates(str(label), len(scaled.pool), selection_rng(seed, streams[label]),
                                 permanent_numbers(seed, streams[label], names[label]), scores=scaled.pool,
                                 **target._asdict())
                      for label, (scaled, target, _) in classes.items()]
        chosen = dict(zip(classes, select(self.rule, candidates, self.ipc), strict=True))
        self.thresholds_ = {label: scaled.thresholds for label, (scaled, *_) in classes.items()}
        self.counts_ = {label: target.counts for label, (_, target, _) in classes.items()}
        rows = pd.DataFrame([
            {"class": label, "images": self.ipc, "pool_images": len(scaled.pool),
             "original_images": len(scaled.originals), "bottom": scaled.thresholds.bottom, "top": scaled.thresholds.top,
             **target_report(scaled.pool[chosen[label]], scaled.pool, target,
                             "; ".join(note.removeprefix(f"class {label}: ") for note in notes))}
            for label, (scaled, target, notes) in classes.items()])
        first, last = ["class", "target"], ["found", "wasserstein"]  # a narrow terminal shows the ends of a frame
        self.report_ = rows[[*first, *rows.columns.drop([*first, *last]), *last]]
        return np.concatenate([indices[label][chosen[label]] for label in classes])

    def _prepare(self, label: Hashable, pool: np.ndarray) -> tuple[TransformedClass, Target, list[str]]:
        """Return a class's transformed scores, its target, and the warnings of both."""
        notes: list[str] = []
        with prefix_warnings(f"class {label}", notes.append):
            scaled = transform_class(pool, self.scores_[label], default_limit(self.ipc, self.limit or 0), self.weight,
                                     self.objective, self.bins, self.search_on, self.shared_scale)
        target = class_target(scaled.originals, self.ipc, self.distribution, bins=self.bins)
        return scaled, target, notes

    def _check_parameters(self) -> None:
        """Raise ValueError for a parameter that no selection could use."""
        choices = {"distribution": ("scale", *PREDEFINED), "rule": RULES, "objective": get_args(Objective),
                   "search_on": ("pool", "originals")}
        for name, valid in choices.items():
            value = getattr(self, name)
            if value not in valid:
                raise ValueError(f"{name} is {value!r}{did_you_mean(str(value), valid)}")
        for name, least in (("ipc", 1), ("bins", 2), ("limit", 1)):
            value = getattr(self, name)
            if not (isinstance(value, Integral) and int(value) >= least) and not (name == "limit" and value is None):
                raise ValueError(f"{name} is {value!r}; give a whole number of at least {least}")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight is {self.weight!r}; give a number from 0 to 1")
        if isinstance(self.random_state, Integral) and self.random_state < 0:
            raise ValueError(f"random_state is {self.random_state}; give a seed of at least 0")

    def _check_classes(self, indices: dict[Hashable, np.ndarray]) -> None:
        for label in indices:
            if label not in self.scores_:
                raise ValueError(f"class {label!r} of the pool has no originals, so it has no target; "
                                 f"leave its images out, or fit with originals of it")
        for label in self.classes_:
            if len(indices.get(label, ())) < self.ipc:
                raise ValueError(f"class {label!r} has {len(indices.get(label, ()))} images in the pool for ipc "
                                 f"{self.ipc}; generate a larger pool or lower the ipc")

    def _seed(self) -> int:
        """Return the seed of `random_state`."""
        if isinstance(self.random_state, np.random.RandomState):
            return int(self.random_state.randint(2**31))
        if isinstance(self.random_state, Integral):
            return int(self.random_state)
        return int(np.random.default_rng(self.random_state).integers(2**63))


def _by_class(scores: ArrayLike, labels: Iterable[Hashable], which: str) -> tuple[np.ndarray, dict[Any, np.ndarray]]:
    """Return checked scores (N,), and by label, in order of first appearance, the indices (n,) of its scores."""
    checked = check_scores(scores, f"{which}_scores")
    names = labels.tolist() if hasattr(labels, "tolist") else list(labels)  # NumPy would turn ("a", 1) into texts
    if len(names) != len(checked):
        raise ValueError(f"{which}_scores has {len(checked)} entries and {which}_labels has {len(names)}; "
                         f"give one label per score")
    indices: dict[Any, list[int]] = {}
    for index, name in enumerate(names):
        try:
            indices.setdefault(name, []).append(index)
        except TypeError:
            raise ValueError(f"{which}_labels[{index}] is {name!r}, which is not hashable; give a text, a number or a "
                             f"tuple") from None
        if name != name:
            raise ValueError(f"{which}_labels[{index}] is {name!r}, which no class is equal to; name its class")
    return checked, {name: np.array(rows, dtype=np.int64) for name, rows in indices.items()}


def _ids_by_class(ids: Iterable[Hashable] | None, indices: dict[Any, np.ndarray], size: int) -> dict[Any, list[str]]:
    """Return the ids of each class's images as texts, their places in the class where there are no ids."""
    if ids is None:
        return {label: list(map(str, range(len(rows)))) for label, rows in indices.items()}
    texts = [str(one) for one in ids]
    if len(texts) != size:
        raise ValueError(f"pool_scores has {size} entries and ids has {len(texts)}; give one id per score")
    names = {label: [texts[row] for row in rows] for label, rows in indices.items()}
    for label, own in names.items():
        if len(set(own)) < len(own):
            raise ValueError(f"class {label!r} has two images with the id {Counter(own).most_common(1)[0][0]!r}; give "
                             f"each an id of its own")
    return names


def _stream_names(labels: list[Hashable]) -> dict[Hashable, str]:
    """Return a name for each class's draw: its text, as in stage 05, or where two classes share that, its repr."""
    texts = Counter(map(str, labels))
    return {label: str(label) if texts[str(label)] == 1 else repr(label) for label in labels}
