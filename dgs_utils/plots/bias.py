"""What rules have above random images, over the bias of the pool."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dgs_utils.plots.style import folded
from dgs_utils.results.bias import FEWEST, band
from dgs_utils.results.comparisons import MARGIN


def gain_over_shift(gains: pd.DataFrame, margin: float = MARGIN) -> Figure:
    """Show each rule's gain over how far the pools lie off: a panel a rule, a dot a pool, and its line with 95 % band.

    All panels have one scale; the grey band holds differences that do not matter.

    Args:
        gains: rows of `results.bias.gains_of_pools`, one or more, with or without `with_differences`.
        margin: a smaller difference does not matter, percentage points.
    """
    several = gains.groupby(["condition", "ipc"]).ngroups > 1
    panels = list(gains.groupby(["condition", "ipc", "rule", "score"], sort=False))
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(0.7 + 2.1 * columns, 0.6 + 2.1 * rows), squeeze=False,
                                sharex=True, sharey=True)
    edges = np.linspace(gains["shift"].min(), gains["shift"].max(), 50)
    for axis, ((condition, ipc, rule, _), part) in zip(axes.flat, panels, strict=False):
        axis.axhspan(-margin, margin, color="0.93", zorder=0)
        axis.axhline(0, color="0.5", linewidth=0.8, zorder=1)
        axis.axvline(0, color="0.5", linewidth=0.8, linestyle=":", zorder=1)
        if len(part) >= FEWEST and part["shift"].nunique() > 1:
            middle, low, high = band(part["shift"].to_numpy(), part["gain"].to_numpy(), edges).T
            axis.fill_between(edges, low, high, color="C0", alpha=0.2, linewidth=0)
            axis.plot(edges, middle, color="C0", linewidth=1.2)
        axis.plot(part["shift"], part["gain"], ".", color="0.25", markersize=4)
        axis.set_title("\n".join([folded(rule, 30), *([f"{condition}, IPC {ipc}"] if several else [])]))
    for axis in axes.flat[len(panels):]:
        axis.set_axis_off()
    figure.supxlabel("how much harder the pool is than the originals (Wasserstein-1; below 0: easier)",
                     fontsize="medium")
    figure.supylabel("gain (points)", fontsize="medium")
    return figure
