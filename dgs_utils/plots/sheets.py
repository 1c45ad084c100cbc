"""Contact sheets: images in named rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

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
    pitch = 1.35 if captions else 1.05  # from row to row, in cells
    figure, axis = plt.subplots(figsize=(cell * width + 1.2, cell * pitch * len(rows)))  # one for all: axes are slow
    dpi = figure.dpi if plt.rcParams["savefig.dpi"] == "figure" else plt.rcParams["savefig.dpi"]
    for line, (name, images) in enumerate(rows.items()):
        for place, image in enumerate(images):
            array = np.asarray(load_rgb(image) if isinstance(image, Path) else image)
            height, breadth = 0.46 * np.array(array.shape[:2]) / max(array.shape[:2])
            x, y = place + 0.5, line * pitch + 0.5
            # Enlarged pixels stay squares; images that must shrink are filtered, or fine texture would alias.
            # `imshow` would fit the axes to each anew, and the layout measure each, though all lie inside.
            shown = AxesImage(axis, cmap="gray", interpolation="hanning" if len(array) > cell * dpi else "nearest",
                              extent=(x - breadth, x + breadth, y + height, y - height), resample=True, in_layout=False)
            shown.set(data=array, clim=(0, 255 if array.dtype == np.uint8 else 1))
            axis.add_image(shown)
            if captions:
                axis.text(x, y + 0.5, captions[name][place], fontsize=6, ha="center", va="top")
        axis.text(-0.15, line * pitch + 0.5, name, ha="right", va="center", fontsize=8)
    axis.set(xlim=(0, width), ylim=(pitch * len(rows), 0), aspect="equal")
    axis.set_axis_off()
    if note:
        figure.supxlabel(note, fontsize="small")
    return figure
