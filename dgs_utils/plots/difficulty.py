"""Figures about difficulty: the paper's Figures 2–4, and what notebooks 03–05 show besides.

Every function takes plain arrays or frames and returns a matplotlib Figure.
"""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from dgs_utils.plots.shapes import score_bars
from dgs_utils.plots.style import labels_of

COLORS = {"original": "C0", "pool": "C1", "distilled": "C2"}


def score_histograms(scores: pd.DataFrame, bins: int = 10) -> Figure:
    """Show how difficulty is distributed, a panel a class, as fractions of each set.

    Args:
        scores: columns class, set ("original", "pool") and score.
        bins: number of equal bins.
    """
    classes = list(dict.fromkeys(scores["class"]))
    figure, axes = _grid(len(classes), 2.1, 1.7)
    for axis, name in zip(axes, classes, strict=False):
        sets = {which: part["score"] for which, part in scores[scores["class"] == name].groupby("set")}
        shown = [which for which in ("original", "pool") if which in sets]
        axis.hist([sets[which] for which in shown], bins=bins, range=(0, 1), label=shown,
                  weights=[np.full(len(sets[which]), 1 / len(sets[which])) for which in shown],
                  color=[COLORS[which] for which in shown], alpha=0.75, edgecolor="black", linewidth=0.5)
        axis.set(title=name, xlabel="difficulty", ylabel="")
    figure.legend(*axes[0].get_legend_handles_labels(), title="set", loc="outside right upper")
    return figure


def figure2(panels: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]], bins: int = 10) -> Figure:
    """Show the difficulty distributions of original, pool and distilled set, without and with transform (Fig. 2).

    Args:
        panels: by class name, by row name ("without transform", "with transform"), by set name (original, pool,
            distilled): scores in [0, 1].
        bins: number of equal bins.
    """
    rows, sets = list(next(iter(panels.values()))), ("original", "pool", "distilled")
    columns = [(name, which) for name in panels for which in sets]
    figure, axes = plt.subplots(len(rows), len(columns), figsize=(1.9 * len(columns), 1.7 * len(rows)), squeeze=False,
                                sharex=True)
    for line, row in zip(axes, rows, strict=True):
        for axis, (name, which) in zip(line, columns, strict=True):
            scores = panels[name][row][which]
            score_bars(axis, scores, bins, COLORS[which])
            axis.set(title=f"{name} {which}\nmean {np.mean(scores):.2f}", ylabel="", xlabel="difficulty", xlim=(0, 1))
        line[0].set_ylabel(row)
    return figure


def objective_map(surfaces: Mapping[str, np.ndarray], chosen: Mapping[str, tuple[int, int]]) -> Figure:
    """Show the objective of Eq. 9 over (bottom, top), a panel a class; grey is infinite, the cross is the choice.

    Args:
        surfaces: by class name, shape (limit, limit), indexed [bottom, top].
        chosen: by class name, (bottom, top).
    """
    figure, axes = _grid(len(surfaces), 2.3, 2.0)
    for axis, (name, surface) in zip(axes, surfaces.items(), strict=False):
        axis.set_facecolor("0.85")
        finite = np.where(np.isfinite(surface), surface, np.nan)
        figure.colorbar(axis.pcolormesh(finite, cmap="viridis_r"), ax=axis)
        bottom, top = chosen[name]
        axis.plot(top + 0.5, bottom + 0.5, marker="x", color="C3", markersize=9, markeredgewidth=2)
        ticks = np.arange(0, len(surface), max(1, len(surface) // 5))
        axis.set(title=f"{name}: bottom {bottom}, top {top}", xlabel="top", ylabel="bottom", aspect="equal",
                 ylim=(len(surface), 0))
        axis.set_xticks(ticks + 0.5, ticks)
        axis.set_yticks(ticks + 0.5, ticks)
    return figure


def transformed_histograms(sets: Mapping[str, np.ndarray], title: str = "", bins: int = 10) -> Figure:
    """Show transformed difficulties of several sets side by side, in counts.

    Args:
        sets: transformed scores by set name (original, pool, distilled).
        title: above the figure.
        bins: number of equal bins.
    """
    figure, axes = plt.subplots(1, len(sets), figsize=(2.9 * len(sets), 2.0), sharex=True, squeeze=False)
    for axis, (name, scores) in zip(axes[0], sets.items(), strict=True):
        score_bars(axis, scores, bins, COLORS.get(name, "C3"))
        axis.set(title=f"{name} (mean {np.mean(scores):.2f})", xlabel="transformed difficulty", ylabel="")
    figure.suptitle(title, fontsize=9)
    return figure


def compare_targets(targets: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Compare target counts per bin under several settings, a row a class; all rows have one scale.

    Args:
        targets: by class name, by setting: images per bin.
    """
    settings, feet = list(next(iter(targets.values()))), range(len(targets), 0, -1)
    tables = [np.array([counts[setting] for counts in targets.values()]) for setting in settings]
    bins, width, highest = tables[0].shape[1], 0.8 / len(settings), max(table.max() for table in tables)
    labels, room, line = labels_of(list(targets))
    figure, axis = plt.subplots(figsize=(4.6 + room, 0.9 + max(0.4, line) * len(targets)))
    for place, (setting, table) in enumerate(zip(settings, tables, strict=True)):
        boxes = [[(left, foot), (left, top), (left + width, top), (left + width, foot)]
                 for foot, counts in zip(feet, table / max(highest, 1), strict=True)
                 for left, top in zip(np.arange(bins) + place * width - 0.4, foot + 0.85 * counts, strict=True)]
        axis.add_collection(PolyCollection(boxes, facecolor=f"C{place}", label=setting))  # a patch a bar would be slow
    axis.hlines(feet, -0.5, bins - 0.5, color="0.7", linewidth=0.6)
    axis.set(xlim=(-0.5, bins - 0.5), ylim=(0.9, len(targets) + 1), xlabel="bin", yticks=feet, yticklabels=labels,
             title=f"images per bin, {highest} at the most")
    axis.locator_params(axis="x", integer=True)  # there are no half bins
    axis.tick_params(axis="y", length=0)
    axis.spines[["left", "bottom"]].set_visible(False)
    figure.legend(loc="outside right upper")
    return figure


def target_and_found(names: Sequence[str], target: np.ndarray, found: np.ndarray) -> Figure:
    """Compare the images that each bin should have with those it got, a row a class.

    Args:
        names: class names.
        target: shape (classes, bins).
        found: shape (classes, bins).
    """
    return compare_targets({name: {"target": t, "found": f} for name, t, f in zip(names, target, found, strict=True)})


def figure4(counts: Mapping[str, Mapping[int, np.ndarray]]) -> Figure:
    """Show predefined distributions, a column a shape and a row an IPC (Fig. 4).

    Args:
        counts: by name of the shape, by IPC: images per bin.
    """
    ipcs = list(next(iter(counts.values())))
    figure, axes = plt.subplots(len(ipcs), len(counts), figsize=(1.9 * len(counts), 1.4 * len(ipcs)), squeeze=False,
                                sharex=True, sharey="row")
    for column, (name, tables) in enumerate(counts.items()):
        for axis, (ipc, table) in zip(axes[:, column], tables.items(), strict=True):
            axis.bar(np.arange(len(table)), table)
            axis.set(ylabel=f"IPC {ipc}" if column == 0 else "", title=name if ipc == ipcs[0] else "")
            axis.locator_params(integer=True)  # there are no half bins or images
    for axis in axes[-1]:
        axis.set_xlabel("bin")
    figure.align_ylabels(axes[:, 0])
    return figure


def sliders(redraw: Callable[[int, int], Figure], search: Callable[[float], tuple[int, int]], limit: int,
            weight: float = 0.5):
    """Return widgets for bottom, top and λ; moving λ searches anew, and any change redraws at once.

    Args:
        redraw: makes the figure of a pair (bottom, top).
        search: returns the best pair for a λ.
        limit: thresholds are below this.
        weight: λ to begin with.
    """
    import ipywidgets as widgets
    from IPython.display import display

    most = max(limit - 1, 1)
    bottom, top = (widgets.IntSlider(min(value, most), 0, most, description=name)
                   for name, value in zip(("bottom", "top"), search(weight), strict=True))
    lam = widgets.FloatSlider(weight, min=0, max=1, step=0.05, description="λ")

    def on_weight(change: dict) -> None:
        bottom.value, top.value = (min(value, most) for value in search(change["new"]))

    def show(bottom: int, top: int) -> None:
        figure = redraw(bottom, top)
        display(figure)
        plt.close(figure)

    lam.observe(on_weight, "value")
    return widgets.VBox([widgets.HBox([bottom, top, lam]), widgets.interactive_output(show, {"bottom": bottom,
                                                                                             "top": top})])


def _grid(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with one panel for each of ``count`` things, up to five in a row."""
    columns = min(count, 5)
    lines = -(-count // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(width * columns + 0.4, height * lines), squeeze=False)
    for axis in axes.flat[count:]:
        axis.set_axis_off()
    return figure, list(axes.flat[:count])
