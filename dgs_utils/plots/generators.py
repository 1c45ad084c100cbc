"""Figures about generators, where several made one pool."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from dgs_utils.plots.style import labels_of, looks_of


def generator_shares(shares: pd.DataFrame) -> Figure:
    """Show which share of the images of each set, and of the pool, each generator made.

    Args:
        shares: set, generator and share in [0, 1], as `figures.shares_of_generators` returns them.
    """
    table = shares.pivot_table("share", "set", "generator", fill_value=0, sort=False)
    names, room, high = labels_of(table.index)
    figure, axis = plt.subplots(figsize=(4.4 + room, 1.2 + max(0.26, high) * len(table)))
    left = pd.Series(0.0, table.index)
    for (name, column), look in zip(table.items(), looks_of(table.shape[1]), strict=True):
        bars = axis.barh(table.index, 100 * column, 0.75, left=left, color=look["color"], label=name)
        axis.bar_label(bars, [f"{share:.0%}" if share >= 0.06 else "" for share in column], label_type="center",
                       fontsize="small", color="white")
        left += 100 * column
    axis.set(xlim=(0, 100), xlabel="share of the images (%)", yticks=range(len(table)), yticklabels=names,
             ylim=(len(table) - 0.5, -0.5))  # the first on top
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", title="generator", ncols=3)
    return figure
