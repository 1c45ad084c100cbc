"""Heat maps: tables with numbers, confusion matrices, and the objective of thresholds."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dgs_utils.plots.style import panel_grid, wrap_labels

MAX_CLASSES = 25  # of a confusion matrix; of more classes, those with the lowest accuracy
OTHERS = "other classes"


def annotated_heatmap(axis: Axes, values: pd.DataFrame, **style: Any) -> None:
    """Draw a frame as colours with numbers, grey for missing ones; ``style`` is of `seaborn.heatmap`."""
    axis.set_facecolor("0.9")
    defaults = {"vmin": 0, "cmap": "Blues", "annot": True, "fmt": ".0f", "annot_kws": {"size": 7}, "linewidths": 0.5,
             "xticklabels": True, "yticklabels": wrap_labels(values.index)[0], "cbar": False}
    sns.heatmap(values, ax=axis, **defaults | style)
    axis.tick_params(axis="y", rotation=0, length=0)
    axis.set(xlabel="", ylabel="")


def objective_map(surfaces: Mapping[str, np.ndarray], chosen: Mapping[str, tuple[int, int]],
                  titles: Mapping[str, str] = {}) -> Figure:
    """Show the objective of Eq. 9, (limit, limit) and indexed [bottom, top], a panel a class; infinite values are grey,
    a cross is the chosen (bottom, top). ``titles`` are readable names of classes.
    """
    figure, axes = panel_grid(len(surfaces), 2.5, 2.2)
    for axis, (name, surface) in zip(axes, surfaces.items(), strict=True):
        ticks = max(1, len(surface) // 5)
        annotated_heatmap(axis, pd.DataFrame(np.where(np.isfinite(surface), surface, np.nan)), annot=False,
                          cmap="viridis_r", square=True, vmin=None, linewidths=0, xticklabels=ticks, yticklabels=ticks,
                          cbar=True, cbar_kws={"label": "objective (bits)"})
        bottom, top = chosen[name]
        axis.plot(top + 0.5, bottom + 0.5, marker="x", color="C3", markersize=9, markeredgewidth=2)
        axis.set(title=f"{titles.get(name, name)}\nbottom {bottom}, top {top}", xlabel="top (hardest clipped)",
                 ylabel="bottom (easiest)")
    return figure


def table_heatmaps(tables: Mapping[str, pd.DataFrame], xlabel: str = "difficulty bin, from easy (0) to hard",
                   content: str = "images per bin", column: float = 0.24) -> Figure:
    """Show tables with the same lines side by side, by title, as colours of one scale with numbers; ``content`` of the
    cells is part of the title, ``column`` the width of one in inches.
    """
    frames = list(tables.values())
    _, room, high = wrap_labels(frames[0].index)
    size = (0.7 + column * frames[0].shape[1], 1.0 + max(0.24, high) * len(frames[0]))
    figure, axes = panel_grid(len(frames), *size, len(frames), room, sharey=True)
    for axis, (title, table) in zip(axes, tables.items(), strict=True):
        annotated_heatmap(axis, table, vmax=max(1, *(frame.to_numpy().max() for frame in frames)))
        axis.set(title=f"{title}: {content}", xlabel=xlabel)
    return figure


def confusion_matrix(errors: pd.DataFrame, title: str = "", runs: pd.DataFrame | None = None,
                     titles: Mapping[str, str] = {}) -> Figure:
    """Show the accuracy of each class as bars, beside the confusion matrix in percent of the class.

    ``errors`` are counts of each pair of names (`figures.scorer_confusion`), once or once a training; ``runs`` have
    class and top1 (%) of each class in each training, drawn as dots, in the order of the lines.
    """
    matrix = errors.pivot_table("images", "true", "predicted", "sum", fill_value=0, sort=False)
    if runs is not None:
        matrix = matrix.reindex(runs["class"].unique(), fill_value=0)
    sizes = matrix.sum(axis=1)
    right = pd.Series({name: matrix.get(name, sizes * 0)[name] for name in matrix.index})
    shares = 100 * right / sizes
    names = list(shares.index if len(shares) <= MAX_CLASSES else shares.sort_values(kind="stable").index[:MAX_CLASSES])
    # Beside the classes of the set, up to four outputs that 1 % of the images or more are taken for.
    others = matrix.drop(columns=matrix.index, errors="ignore").sum().sort_values(ascending=False, kind="stable")
    columns = [*names, *others.index[others >= 0.01 * sizes.sum()][:4]]
    shown = matrix.reindex(index=names, columns=columns, fill_value=0)
    if len(matrix.columns.union(names)) > len(columns):
        shown = shown.assign(**{OTHERS: sizes[names] - shown.sum(axis=1)})
    width = max(0.32 * shown.shape[1], 1.8)  # room for the label of its axis
    figure, (left, axis) = plt.subplots(1, 2, figsize=(4 + width, 1.7 + 0.25 * len(names)), sharey=True,
                                        width_ratios=(2, width))
    left.barh(np.arange(len(names)) + 0.5, shares[names], 0.7, color="C0")
    if runs is not None:
        dots = runs[runs["class"].isin(names)]
        left.plot(dots["top1"], dots["class"].map(names.index) + 0.5, "o", color="0.15", markersize=3)
    left.set(xlim=(0, 100), xlabel="accuracy (%)", ylabel="true class",
             title=f"{right.sum() / sizes.sum():.1%} of {sizes.sum():,} images")
    annotated_heatmap(axis, (100 * shown.div(sizes[names], axis=0)).rename(index=titles, columns=titles), vmax=100)
    selected = f"the {MAX_CLASSES} of {len(shares)} classes with the lowest accuracy"
    axis.set(xlabel="prediction (% of the class)", title=selected if len(shares) > MAX_CLASSES else "")
    figure.suptitle(title, fontsize="medium")
    return figure
