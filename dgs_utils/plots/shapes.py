"""What several figures are made of: histograms of scores, and tables as colours."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from numpy.typing import ArrayLike


def score_bars(axis: Axes, scores: ArrayLike, bins: int, color: str) -> None:
    """Draw how many scores of [0, 1] are in each of ``bins`` equal bins."""
    axis.hist(np.asarray(scores), bins=bins, range=(0, 1), color=color, alpha=0.75, edgecolor="black", linewidth=0.5)
    axis.locator_params(axis="y", integer=True)  # there are no half images


def colour_table(axis: Axes, shares: ArrayLike, rows: list[str], columns: list[str], write: bool,
                 size: int = 6) -> QuadMesh:
    """Show a table of percentages as colours, and as numbers where ``write``; return what a colour bar takes."""
    shares = np.asarray(shares, dtype=float)
    mesh = axis.pcolormesh(shares, cmap="Blues", vmin=0, vmax=100)
    axis.set_ylim(len(rows), 0)
    axis.set_xticks(np.arange(len(columns)) + 0.5, columns)
    if max(map(len, columns)) > 3:
        for label in axis.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axis.spines[:].set_visible(False)
    if write:
        for (row, column), share in np.ndenumerate(shares):
            axis.text(column + 0.5, row + 0.5, f"{share:.0f}", ha="center", va="center", fontsize=size, in_layout=False,
                      color="white" if share > 60 else "0.15")
    return mesh
