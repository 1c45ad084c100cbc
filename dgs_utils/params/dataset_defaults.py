"""What data sets and the published protocols ask for where an experiment leaves it open.

The digits have numbers of their own, with which the quickstart takes minutes. They never reach other images: these are
seen at the size that they have, or have as published, and trained on for as long as published.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dgs_utils.params.subsets import SUBSETS

MAX_SIDE = 224  # pixels that a classifier sees of images that are larger, as published
QUICKSTART_DATASET = "digits"
OWN_IMAGES = {"dataset": "folder"}  # images of the user's own, as arrays are, too


@dataclass(frozen=True)
class ImageDefaults:
    """How the images of a data set are seen."""

    generated: int  # pixels that a diffusion model makes; 0 = only the user knows
    seen: int  # pixels that a classifier sees; 0 = the size of the images, read from their headers
    channels: int  # of the images that a diffusion model makes
    mirrored: bool = True  # whether a mirrored image still shows its class. One's own images are taken for photographs.


DATASETS = {
    QUICKSTART_DATASET: ImageDefaults(8, 16, 1, mirrored=False),
    "fashion": ImageDefaults(28, 32, 1),
    "cifar10": ImageDefaults(32, 32, 3),
    **dict.fromkeys(SUBSETS, ImageDefaults(256, MAX_SIDE, 3)), "folder": ImageDefaults(0, 0, 3),
}
ARCHIVED = {"160": ImageDefaults(128, 128, 3), "320": ImageDefaults(256, MAX_SIDE, 3)}  # of ImageNet's subsets


def image_defaults(originals: Mapping[str, Any]) -> ImageDefaults:
    """Return how images are seen, by the parameters of the stage 00 that prepares them; missing ones are defaults."""
    dataset = originals.get("dataset", QUICKSTART_DATASET)
    return ARCHIVED.get(originals.get("archive", ""), DATASETS[dataset]) if dataset in SUBSETS else DATASETS[dataset]


def is_quickstart(originals: Mapping[str, Any]) -> bool:
    """Return whether they are the quickstart's images, whose numbers are small."""
    return originals.get("dataset", QUICKSTART_DATASET) == QUICKSTART_DATASET


def default_ema_decay(steps: int) -> float:
    """Return the decay of a moving average of weights that remembers a tenth of a training, at most as published.

    The published 0.9999 suits hundreds of thousands of steps; after a thousand, nine tenths of such an average would
    still be the random weights that it began with.
    """
    return min(0.9999, round(1 - 10 / max(steps, 20), 6))
