"""Accuracies: by method, by images per class, over epochs, by class."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dgs_utils.methods import METHODS
from dgs_utils.plots.shapes import colour_table
from dgs_utils.plots.style import folded, labels_of, looks_of
from dgs_utils.results.effects import t_limit
from dgs_utils.results.summaries import summarise


def accuracy_by_method(results: pd.DataFrame) -> Figure:
    """Show best top-1 accuracy of each series, a panel a condition: points for means with 95 % intervals (t, over the
    outermost source of noise that was repeated), small dots for single runs.

    The scale follows the runs; intervals that reach further run out of the frame.
    """
    summary = summarise(results)
    places = {name: place for place, name in enumerate(METHODS)}  # a foreign folder's set comes last
    order = list(summary.assign(place=summary["method"].map(places)).sort_values("place", kind="stable")[
        "series"].unique())
    ipcs = sorted(summary["ipc"].unique(), key=lambda ipc: (ipc == 0, ipc))
    shifts = dict(zip(ipcs, 0.6 * (np.arange(len(ipcs)) - (len(ipcs) - 1) / 2) / max(len(ipcs), 2), strict=True))
    panels = summary.groupby("condition", sort=False)
    labels, room, high = labels_of(order)
    size = (max(1.6, room) + 2.7 * len(panels), max(2.4, 0.9 + len(order) * max(0.1 * (1 + len(ipcs)), high)))
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    for axis, (title, part) in zip(axes[0], panels, strict=True):
        runs = results[results["condition"] == title]
        for color, ipc in zip(_shades(len(ipcs)), ipcs, strict=True):
            _draw_means(axis, part[part["ipc"] == ipc], runs[runs["ipc"] == ipc], order, shifts[ipc], color,
                        str(ipc or "all"))
        span = np.ptp(runs["best"])
        axis.set(xlabel="best top-1 accuracy (%)", title=folded(title, 34),
                 yticks=range(len(order)), yticklabels=labels,
                 xlim=(runs["best"].min() - 0.12 * span - 0.5, runs["best"].max() + 0.12 * span + 0.5))
        axis.set_ylim(len(order) - 0.5, -0.5)
    if len(ipcs) > 1:
        entries = [axis.get_legend_handles_labels() for axis in axes[0]]
        handles = {label: handle for pairs in entries for handle, label in zip(*pairs, strict=True)}
        names = [str(ipc or "all") for ipc in ipcs]
        figure.legend([handles[name] for name in names], names, title="IPC", loc="outside right upper")
    return figure


def _shades(count: int) -> list:
    return list(plt.get_cmap("Blues")(np.linspace(0.45, 0.95, count))) if count > 1 else ["C0"]


def _draw_means(axis: Axes, cells: pd.DataFrame, runs: pd.DataFrame, order: list[str], shift: float, color: object,
                label: str) -> None:
    """Draw the means of one IPC with intervals, and the runs behind them."""
    heights = [order.index(name) + shift for name in cells["series"]]
    reach = (t_limit(cells["units"] - 1, 0.05) * cells["error"]).fillna(0)
    axis.errorbar(cells["best"], heights, xerr=reach, fmt="o", color=color, markersize=4.5, linewidth=1.1, label=label)
    axis.plot(runs["best"], [order.index(name) + shift for name in runs["series"]], ".", color="0.25", markersize=2.5,
              zorder=3)


def accuracy_by_ipc(summary: pd.DataFrame) -> Figure | None:
    """Show mean best accuracy against images per class, with 95 % intervals (t), a panel a condition that has several.

    An interval is over the outermost source of noise that was repeated, and ends at 0 and 100 %. Series stand beside
    each other so that none hides another, and the scale follows the means: two repeats make intervals that would
    flatten everything else, so these run out of the frame. The full set is a line across. None where no condition
    has several.
    """
    sized = summary[summary["ipc"] != 0].groupby("condition")["ipc"].nunique()
    summary = summary[summary["condition"].isin(sized[sized > 1].index)]
    if summary.empty:
        return None
    panels = summary.groupby("condition", sort=False)
    names, ipcs = list(summary["series"].unique()), sorted(set(summary["ipc"]) - {0})
    looks = dict(zip(names, looks_of(len(names)), strict=True))
    places = np.arange(len(names)) - (len(names) - 1) / 2
    shift = dict(zip(names, 0.12 * (ipcs[-1] - ipcs[0]) * places / len(names), strict=True))
    labels, room, high = labels_of(names)
    size = (1.2 + max(1.0, room) + 3.2 * len(panels), max(3.0, 0.5 + high * len(names)))
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    for axis, (title, shown) in zip(axes[0], panels, strict=True):
        for series, part in shown.groupby("series", sort=False):
            if (part["ipc"] == 0).all():
                axis.axhline(part["best"].mean(), color="0.4", linestyle=":", label=series)
                continue
            part = part.sort_values("ipc")
            half = (t_limit(part["units"] - 1, 0.05) * part["error"]).fillna(0)
            ends = np.stack([np.minimum(half, part["best"]), np.minimum(half, 100 - part["best"])])
            axis.errorbar(part["ipc"] + shift[series], part["best"], yerr=ends, markersize=3.5, capsize=2,
                          linewidth=1, elinewidth=0.7, label=series, **looks[series])
        axis.set(xlabel="images per class (IPC)", title=title, xticks=ipcs)
    margin = 0.1 * np.ptp(summary["best"]) + 1
    axes[0, 0].set(ylabel="best top-1 accuracy (%)",
                   ylim=(summary["best"].min() - margin, summary["best"].max() + margin))
    entries = [axis.get_legend_handles_labels() for axis in axes[0]]
    handles = {label: handle for pairs in entries for handle, label in zip(*pairs, strict=True)}
    figure.legend([handles[name] for name in names], labels, loc="outside right center")
    return figure


def accuracy_curves(curves: pd.DataFrame) -> Figure:
    """Plot test accuracy over epochs, a line a training; a star marks the best test, which the protocol reports."""
    figure, axis = plt.subplots(figsize=(4.2, 2.8))
    for place, (seed, curve) in enumerate(curves.groupby("training_seed")):
        counting = curve[curve["counts"]]  # the protocol's choice among tests
        best = counting.loc[counting["top1"].idxmax()]
        axis.plot(curve["epoch"], curve["top1"], color=f"C{place}", label=f"seed {seed}")
        axis.plot(best["epoch"], best["top1"], "*", color=f"C{place}", markersize=8)
    axis.set(xlabel="epoch", ylabel="top-1 accuracy (%)")
    axis.legend()
    return figure


def accuracy_by_class(per_class: pd.DataFrame, confusion: pd.DataFrame) -> Figure:
    """Show accuracy per class (mean and single runs) beside the confusion matrix, summed over runs, rows in percent.

    Args:
        per_class: training_seed, class, top1.
        confusion: training_seed, true, predicted, images; pairs that never occurred may be missing.
    """
    names = list(dict.fromkeys(per_class["class"].astype(str)))
    matrix = confusion.pivot_table("images", "true", "predicted", "sum").reindex(index=names, columns=names).fillna(0)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4), width_ratios=(1, 1.25))
    runs = per_class.assign(place=per_class["class"].astype(str).map({name: i + 0.5 for i, name in enumerate(names)}))
    means = runs.groupby("place")["top1"].mean()
    left.barh(means.index, means, 0.8, color="C0", alpha=0.75)
    left.plot(runs["top1"], runs["place"], "o", color="0.15", markersize=3, linestyle="")
    left.set(xlabel="top-1 accuracy (%)", ylim=(len(names), 0))
    left.set_yticks(np.arange(len(names)) + 0.5, names)
    mesh = colour_table(right, 100 * matrix.div(matrix.sum(axis=1), axis=0), names, names, len(names) <= 12)
    figure.colorbar(mesh, ax=right, label="% of the true class")
    right.set(xlabel="predicted", ylabel="true")
    return figure
