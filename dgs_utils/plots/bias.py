"""What rules have above random images, over the bias of the pool."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from dgs_utils.plots.style import folded
from dgs_utils.results.bias import gains_by_bias
from dgs_utils.results.comparisons import MARGIN


def gain_over_shift(gains: pd.DataFrame, margin: float = MARGIN) -> Figure:
    """Show each rule's gain over how far the pools lie off: a panel a rule, a dot a pool, and the means of each bias.

    Bars are their 95 % intervals, over pools; they may run out of the frame, which follows the dots and is the same for
    all panels. The grey band holds differences that do not matter.

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
    for axis, ((condition, ipc, rule, _), part) in zip(axes.flat, panels, strict=False):
        means = gains_by_bias(part)
        axis.axhspan(-margin, margin, color="0.93", zorder=0)
        axis.axhline(0, color="0.5", linewidth=0.8, zorder=1)
        axis.axvline(0, color="0.5", linewidth=0.8, linestyle=":", zorder=1)
        axis.plot(part["shift"], part["gain"], ".", color="0.5", markersize=3)
        axis.vlines(means["shift"], means["low"], means["high"], color="C0", linewidth=1)
        axis.plot(means["shift"], means["gain"], "o-", color="C0", markersize=4, linewidth=1)
        axis.set_title("\n".join([folded(rule, 30), *([f"{condition}, IPC {ipc}"] if several else [])]))
    room = 0.1 * max(gains["gain"].max() - gains["gain"].min(), 2 * margin)
    axes[0, 0].set_ylim(min(gains["gain"].min(), -margin) - room, max(gains["gain"].max(), margin) + room)
    for axis in axes.flat[len(panels):]:
        axis.set_axis_off()
    figure.supxlabel("how much harder the pool is than the originals (Wasserstein-1; below 0: easier)",
                     fontsize="medium")
    figure.supylabel("gain (points)", fontsize="medium")
    return figure
