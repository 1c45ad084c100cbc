"""Contact sheets: images in named rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from dgs_utils.images.pixels import load_rgb


def contact_sheet(rows: Mapping[str, Sequence[Path | np.ndarray]],
                  captions: Mapping[str, Sequence[str]] | None = None, note: str = "", cell: float = 0.55) -> Figure:
    """Show images in named rows.

    Args:
        rows: images by row name: paths, or arrays (H, W) or (H, W, 3), uint8 or float in [0, 1].
        captions: a short text under each image, by row name.
        note: below all of them.
        cell: side of an image in inches.
    """
    width = max(len(images) for images in rows.values())
    height = cell * (1.35 if captions else 1.05)
    figure, axes = plt.subplots(len(rows), width, figsize=(cell * width + 1.2, height * len(rows)), squeeze=False)
    dpi = figure.dpi if plt.rcParams["savefig.dpi"] == "figure" else plt.rcParams["savefig.dpi"]
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for axis in line:
            axis.set_axis_off()
        for place, image in enumerate(images):
            array = np.asarray(load_rgb(image)) if isinstance(image, Path) else np.asarray(image)
            # Enlarged pixels stay squares; images that must shrink are filtered, or fine texture would alias.
            line[place].imshow(array, cmap="gray", vmin=0, vmax=255 if array.dtype == np.uint8 else 1,
                               interpolation="hanning" if len(array) > cell * dpi else "nearest")
            if captions:
                line[place].set_title(captions[name][place], fontsize=6, pad=1.5, y=-0.28)
        line[0].text(-0.15, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=8)
    if note:
        figure.supxlabel(note, fontsize="small")
    return figure
