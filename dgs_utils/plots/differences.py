"""Differences to one arm, with their intervals."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dgs_utils.plots.style import folded, labels_of
from dgs_utils.results.comparisons import MARGIN


def differences_to(comparisons: pd.DataFrame) -> Figure | None:
    """Show how far each rival is below or above one arm: points with 95 % intervals, a panel a condition.

    A point right of zero is a rival that is better; the grey band holds differences that do not matter. Wide intervals
    run out of the frame, and a point that is outside stands at its edge as an arrow with its value.

    Args:
        comparisons: rows of `results.comparisons.compare_with_rivals`, of one arm (``first``).

    Returns:
        The figure, or None where there is nothing to compare.
    """
    if comparisons.empty:
        return None
    shown = comparisons.assign(value=-comparisons["difference"], left=-comparisons["high"], right=-comparisons["low"])
    rivals, panels = list(shown["second"].unique()), list(shown.groupby(["condition", "ipc"], sort=False))
    limit = half_width_of(shown)
    names, room, high = labels_of(rivals)
    size = (max(2.4, room) + 2.3 * len(panels), 1.1 + len(rivals) * max(0.2, high))
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    for axis, ((condition, ipc), part) in zip(axes[0], panels, strict=True):
        axis.axvspan(-part["margin"].iloc[0], part["margin"].iloc[0], color="0.93", zorder=0)
        axis.axvline(0, color="0.5", linewidth=0.8, zorder=1)
        for row in part.itertuples():
            is_decided = not (np.isnan(row.left) or row.left <= 0 <= row.right)
            draw_interval(axis, row, rivals.index(row.second), limit, "C3" if is_decided else "C0")
        axis.set(xlim=(-limit, limit), title=folded(f"{condition}, IPC {ipc or 'all'}", 30), yticks=range(len(rivals)),
                 yticklabels=names)
        axis.set_ylim(len(rivals) - 0.5, -0.5)
    figure.supxlabel(f"best top-1 accuracy minus that of {shown['first'].iloc[0]} (points)", fontsize="medium")
    return figure


def half_width_of(shown: pd.DataFrame, margin: float = MARGIN) -> float:
    """Return a half-width of the frame in which most points lie, with most of what their intervals reach.

    Args:
        shown: value, left, right.
        margin: a smaller difference does not matter; the column ``margin`` counts where there is one.
    """
    margin = shown["margin"].max() if "margin" in shown else margin
    return float(max(3 * margin, 1.3 * np.nanquantile(shown["value"].abs(), 0.8),
                     np.nanquantile(shown[["left", "right"]].abs().max(axis=1).fillna(0), 0.5)))


def draw_interval(axis: Axes, row: Any, place: float, limit: float, color: Any, **look: Any) -> None:
    """Draw ``row.value`` with its interval at a height; a point outside of ± limit is an arrow with its value."""
    if not np.isnan(row.left):
        axis.plot([row.left, row.right], [place, place], color=color, linewidth=1.2, clip_on=True)
    if abs(row.value) <= limit:
        axis.plot(row.value, place, **{"marker": "o", "color": color, "markersize": 4, "linestyle": "", **look})
        return
    edge = np.sign(row.value) * limit
    axis.plot(edge * 0.96, place, ">" if edge > 0 else "<", color=color, markersize=5)
    axis.annotate(f"{row.value:+.0f}".replace("-", "−"), (edge * 0.9, place), va="center", fontsize="small",
                  color=color, ha="right" if edge > 0 else "left", backgroundcolor="white")
