"""Difficulty-guided sampling of images in Python, without stage folders: scored, transformed and drawn by one object.

It puts `score_images` before `DifficultyGuidedSampler`. Images come as folders, arrays or data sets of `datasets`.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch.utils.data import Dataset

from dgs_utils.classifiers.image_tensors import ImageTensors
from dgs_utils.classifiers.pretrained import open_scorer
from dgs_utils.classifiers.scorer import Classifier
from dgs_utils.difficulty.scoring import score_images
from dgs_utils.images.image_set import ImageSet, in_order
from dgs_utils.images.pixels import to_rgb
from dgs_utils.selection.difficulty_guided_sampler import DifficultyGuidedSampler


class DGSPipeline(BaseEstimator):
    """Choose images of a pool whose difficulties for a scorer are distributed as the originals' are.

    Images are given as a folder with a sub-folder per class, an `ImageSet`, an `ImageTensors`, a data set of `datasets`
    with a column of images and one of classes, one of torch whose items are a PIL image and a label (as torchvision's
    `ImageFolder`), or uint8 arrays (N, S, S) or (N, S, S, 3), or a list of PIL images, with one label each. Pool and
    originals are matched by the names of their classes.

    Args:
        scorer: a classifier, or a string that `open_scorer` takes, such as "resnet18:IMAGENET1K_V1".
        ipc: images per class, ≥ 1.
        sampler: a `DifficultyGuidedSampler` with further settings; its ipc and random_state are those given here. None
            for the published ones.
        index: the scorer's output of each class, in the order of `classes_`; None to find it by names (`score_images`).
        measure: of difficulty, a key of `measures.MEASURES`.
        batch_size: images per forward pass.
        device: where the scorer runs.
        random_state: see `DifficultyGuidedSampler`.

    Attributes:
        classes_: names of the originals' classes, in label order; labels_: their labels by name.
        scorer_: the opened scorer.
        sampler_: the fitted sampler; after `select` with thresholds_, counts_ and report_.
        original_scores_, pool_scores_: frames of `score_images`, one row an image in the order that they were given.
        selected_: the rows of pool_scores_ that were chosen.

    >>> from sklearn.datasets import load_digits
    >>> import dgs_utils as dgs
    >>> digits, classes = (load_digits().images * 15).astype("uint8"), load_digits().target
    >>> originals = dgs.ImageTensors.from_arrays(digits[:100], classes[:100])
    >>> scorer, _ = dgs.train_scorer(originals, originals, "convnet3", size=8, epochs=2)
    >>> pipeline = DGSPipeline(scorer, ipc=2, random_state=0).fit(originals)
    >>> chosen = pipeline.select(digits[100:400], classes[100:400])
    >>> chosen.shape, pipeline.selected_["class"].nunique()
    ((20,), 10)
    """

    def __init__(self, scorer: Classifier | str, ipc: int = 10, *, sampler: DifficultyGuidedSampler | None = None,
                 index: Any = None, measure: str = "difficulty", batch_size: int = 128, device: str = "auto",
                 random_state: int | np.random.Generator | np.random.RandomState | None = None):
        self.scorer = scorer
        self.ipc = ipc
        self.sampler = sampler
        self.index = index
        self.measure = measure
        self.batch_size = batch_size
        self.device = device
        self.random_state = random_state

    def fit(self, originals: Any, y: Iterable[Hashable] | None = None) -> "DGSPipeline":
        """Score the originals.

        Args:
            originals: images, see the class.
            y: their labels, where the images have none.

        Raises:
            ValueError: a bad parameter, image or label, or a class that the scorer has no output for.
        """
        settings = (self.sampler or DifficultyGuidedSampler()).get_params()
        sampler = DifficultyGuidedSampler(**settings | {"ipc": self.ipc, "random_state": self.random_state})
        sampler.fit([0.5], ["any"])  # checks the parameters before the scorer runs
        if not isinstance(self.scorer, str | Classifier):
            raise ValueError(f"scorer is a {type(self.scorer).__name__}; give a classifier of this kit or its name; "
                             f"probabilities of others go through difficulty_scores to DifficultyGuidedSampler")
        self.scorer_ = open_scorer(self.scorer) if isinstance(self.scorer, str) else self.scorer
        with _as_image_set(originals, y, "originals") as images:
            names = images.table.drop_duplicates("label").set_index("label")["class"]
            self.labels_, self.classes_ = {name: label for label, name in names.items()}, list(names.sort_index())
            self.original_scores_ = self._scored(images)
        self.sampler_ = sampler.fit(self.original_scores_["score"], self.original_scores_["class"])
        for name in ("pool_scores_", "selected_"):
            self.__dict__.pop(name, None)
        return self

    def select(self, pool: Any, y: Iterable[Hashable] | None = None,
               ids: Iterable[Hashable] | None = None) -> np.ndarray:
        """Choose ``ipc`` images of each class from a pool.

        Args:
            pool: images, see the class.
            y: their labels, where the images have none.
            ids: a name of each image, in the order of the pool, that it keeps in other pools
                (see `DifficultyGuidedSampler.select`).

        Returns:
            int64 array of shape (classes · ipc,): positions in the pool as it was given; in a folder, in the order of
            ``pool_scores_``.

        Raises:
            sklearn.exceptions.NotFittedError: `fit` has not been called.
            ValueError: a bad image or label, or a class without originals or with fewer images than ``ipc``.
        """
        check_is_fitted(self, "sampler_")
        with _as_image_set(pool, y, "pool") as images:
            for name in images.classes:
                if name not in self.labels_:
                    raise ValueError(f"class {name!r} of the pool has no originals; leave its images out, or fit with "
                                     f"originals of it")
            table = in_order(images.table.assign(label=images.table["class"].map(self.labels_)))
            self.pool_scores_ = self._scored(ImageSet(images.root, table))
        chosen = self.sampler_.select(self.pool_scores_["score"], self.pool_scores_["class"], ids)
        self.selected_ = self.pool_scores_.iloc[chosen]
        return chosen

    def _scored(self, images: ImageSet) -> pd.DataFrame:
        scores = score_images(images, self.scorer_, self.index, self.measure, self.batch_size, device=self.device)
        return scores.sort_values("position").drop(columns="position").reset_index(drop=True)


# ---- Images of any kind ----------------------------------------------------------------------------------------------

@contextmanager
def _as_image_set(images: Any, y: Iterable[Hashable] | None, what: str) -> Iterator[ImageSet]:
    """Yield images as files, with their position; those in memory as PNG in a folder that goes afterwards."""
    if isinstance(images, str | Path):
        images = ImageSet.read(Path(images))
    if isinstance(images, ImageSet):
        yield ImageSet(images.root, images.table.assign(position=range(len(images))))
        return
    pairs = _dataset_pairs(images, what) if hasattr(images, "features") else _array_pairs(images, y, what)
    with TemporaryDirectory() as folder:
        rows = []
        for position, (image, label) in enumerate(pairs):
            to_rgb(image).save(f"{folder}/{position}.png")
            rows.append((f"{position}.png", label, position))
        table = pd.DataFrame(rows, columns=["file_name", "label", "position"])
        yield ImageSet(Path(folder), in_order(_with_names(table, images)))


def _with_names(table: pd.DataFrame, images: Any) -> pd.DataFrame:
    """Return a table with the names of classes, and labels from 0: whole numbers keep theirs, names are sorted."""
    kinds = [feature for feature in (getattr(images, "features", None) or {}).values() if hasattr(feature, "int2str")]
    of_torch = isinstance(images, Dataset) and getattr(images, "classes", None)
    labels = table["label"].tolist()
    if all(isinstance(label, int) and label >= 0 for label in labels):
        return table.assign(**{"class": [
            kinds[0].int2str(label) if kinds else of_torch[label] if of_torch else str(label) for label in labels]})
    names = sorted({str(label) for label in labels})
    return table.assign(**{"class": list(map(str, labels)), "label": [names.index(str(label)) for label in labels]})


def _array_pairs(images: Any, y: Iterable[Hashable] | None, what: str) -> Iterator[tuple[Image.Image, Hashable]]:
    """Yield image and label of arrays, tensors or PIL images."""
    if isinstance(images, Mapping):
        raise ValueError(f"the {what} are several: {', '.join(map(str, images))}; give one of them")
    if isinstance(images, ImageTensors):
        images, y = images.images.permute(0, 2, 3, 1).cpu().numpy(), images.labels.tolist()
    if isinstance(images, Dataset):
        yield from ((_to_image(image, what), label) for image, label in map(images.__getitem__, range(len(images))))
        return
    if y is None:
        raise ValueError(f"the {what} come without labels; give y, one for each image")
    labels = np.asarray(y).tolist()
    if len(labels) != len(images) or not labels:
        raise ValueError(f"the {what} are {len(images)} images with {len(labels)} labels; give one label for each")
    for image, label in zip(images, labels, strict=True):
        yield _to_image(image, what), label


def _to_image(image: Any, what: str) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim < 2 or pixels.shape[2:] not in ((), (3,)):
        raise ValueError(f"an image of the {what} is {pixels.dtype} of shape {pixels.shape}; give uint8 of shape "
                         f"(S, S) or (S, S, 3), PIL images or a folder")
    return Image.fromarray(pixels)


def _dataset_pairs(dataset: Any, what: str) -> Iterator[tuple[Image.Image, Hashable]]:
    """Yield image and label of a data set of `datasets`, by its columns of images and of classes."""
    kinds = {name: type(feature).__name__ for name, feature in (dataset.features or {}).items()}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel"] or [
        name for name in ("label", "labels", "class") if name in kinds]
    if len(images) != 1 or len(labels) != 1:
        raise ValueError(f"the {what} have the columns {', '.join(kinds) or 'of no known kind'}, of which one must "
                         f"hold images and one classes; keep those by select_columns, or name them with cast_column")
    for row in dataset.select_columns([images[0], labels[0]]):
        yield row[images[0]], row[labels[0]]
