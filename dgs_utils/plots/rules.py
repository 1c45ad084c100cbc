"""Figures about rules of selection: what each score × rule has above chance, over IPC and over training."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dgs_utils.plots.differences import draw_interval, half_width_of
from dgs_utils.plots.style import folded, labels_of, looks_of
from dgs_utils.results.comparisons import MARGIN

AXES = {"ipc": "images per class (IPC)", "steps": "training steps"}


def rule_grid(found: pd.DataFrame, margin: float = MARGIN) -> Figure:
    """Show what each score × rule has above random images of its own source: a line a rule, a colour a score.

    IPCs stand side by side, pools (or the originals) and conditions below each other. Points have the 95 % intervals
    of the comparisons, and are filled where zero is outside; the grey band holds differences that do not matter. Wide
    intervals run out of the frame, and a point that is outside is an arrow with its value.

    Args:
        found: rows of `results.rules.rules_over_random`, one or more.
        margin: a smaller difference does not matter, percentage points.
    """
    shown = found.assign(value=found["difference"], left=found["low"], right=found["high"])
    lines, ipcs = list(shown.groupby(["control", "condition"], sort=False)), sorted(shown["ipc"].unique())
    scores = sorted(shown["score"].unique(), key=lambda score: (score == "", list(shown["score"]).index(score)))
    colors = {score: f"C{place}" if score else "0.4" for place, score in enumerate(scores)}
    limit, rules = half_width_of(shown, margin), [list(part["rule"].unique()) for _, part in lines]
    heights = [sum(_room(part, rule) for rule in names) for (_, part), names in zip(lines, rules, strict=True)]
    size = (2.6 + 2.3 * max(len(ipcs), 2), 0.7 + sum(heights) + 0.75 * len(lines))
    figure, axes = plt.subplots(len(lines), len(ipcs), figsize=size, sharex=True, squeeze=False, sharey="row",
                                height_ratios=heights)
    for line, ((control, condition), part), names in zip(axes, lines, rules, strict=True):
        for axis, ipc in zip(line, ipcs, strict=True):
            _draw_rules(axis, part[part["ipc"] == ipc], part, names, colors, limit, margin)
            axis.set_title(f"IPC {ipc or 'all'}")
        line[0].set_title(f"{condition}\n{folded(f'minus {control}', 36)}\n", loc="left")
    figure.supxlabel("best top-1 accuracy above that of random images (points)", fontsize="medium")
    marks = [plt.Line2D([], [], color=color, marker="o", markersize=4, linewidth=1.2) for color in colors.values()]
    figure.legend(marks, [score or "no score" for score in colors], title="score", loc="outside right upper")
    return figure


def _room(part: pd.DataFrame, rule: str) -> float:
    """Return the height of a rule's line in inches: its scores stand below each other."""
    return 0.12 + 0.12 * part.loc[part["rule"] == rule, "score"].nunique()


def _draw_rules(axis: Axes, cells: pd.DataFrame, part: pd.DataFrame, rules: Sequence[str], colors: dict[str, str],
                limit: float, margin: float) -> None:
    """Draw one panel of the grid; a rule's scores have the same places in every panel of a line."""
    axis.axvspan(-margin, margin, color="0.93", zorder=0)
    axis.axvline(0, color="0.5", linewidth=0.8, zorder=1)
    edges = np.cumsum([0, *(_room(part, rule) for rule in rules)])
    for rule, top, bottom in zip(rules, edges, edges[1:], strict=False):
        scores = [score for score in colors if score in set(part.loc[part["rule"] == rule, "score"])]
        places = dict(zip(scores, np.linspace(top, bottom, len(scores) + 2)[1:-1], strict=True))
        for row in cells[cells["rule"] == rule].itertuples():
            is_decided = row.left > 0 or row.right < 0
            draw_interval(axis, row, places[row.score], limit, colors[row.score],
                          markerfacecolor=colors[row.score] if is_decided else "white")
    if cells.empty:
        axis.text(0.5, 0.5, "not run", color="0.5", ha="center", va="center", transform=axis.transAxes,
                  backgroundcolor="white")
    for edge in edges[1:-1]:
        axis.axhline(edge, color="0.9", linewidth=0.6, zorder=0)
    axis.set(xlim=(-limit, limit), yticks=(edges[1:] + edges[:-1]) / 2, yticklabels=rules, ylim=(edges[-1], 0))


def rule_curves(found: pd.DataFrame, x: str) -> Figure:
    """Show how what each rule has above random images changes with IPC or training.

    Bars are the 95 % intervals of the comparisons; the scale follows the points of a source, and bars that reach
    further run out of the frame. Points of one place stand beside each other.

    Args:
        found: rows of `results.rules.over_ipc` or `over_steps`, one or more.
        x: "ipc" or "steps".
    """
    several = found.loc[found["score"] != "", "score"].nunique() > 1
    found = found.assign(line=[f"{rule}, {score}" if several and score else rule
                               for rule, score in zip(found["rule"], found["score"], strict=True)])
    looks = dict(zip(found["line"].unique(), looks_of(found["line"].nunique()), strict=True))
    alike = {"ipc": ["condition"], "steps": ["setting", "ipc"]}[x]
    panels = list(found.groupby(["source", "control", *alike], sort=False))
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    limits = (1.3 * found.groupby("source")["difference"].agg(lambda values: values.abs().max())).clip(lower=2 * MARGIN)
    labels, room, high = labels_of(list(looks))
    size = (1.4 + max(1.0, room) + 2.9 * columns, max(2.8 * rows, 0.6 + high * len(looks)))
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for axis, ((source, control, condition, *ipc), part) in zip(axes.flat, panels, strict=False):
        _draw_curves(axis, part, x, looks)
        title = f"{condition}, IPC {ipc[0]}" if ipc else condition
        axis.set(title=f"{title}\n{folded(f'minus {control}', 36)}", ylim=(-limits[source], limits[source]),
                 xlabel=AXES[x])
    for axis in axes.flat[len(panels):]:
        axis.set_axis_off()
    figure.supylabel("difference in best top-1 accuracy (points)", fontsize="medium")
    handles = [plt.Line2D([], [], linewidth=1, markersize=4, **look) for look in looks.values()]
    figure.legend(handles, labels, loc="outside right center")
    return figure


def _draw_curves(axis: Axes, part: pd.DataFrame, x: str, looks: dict[str, dict]) -> None:
    ticks, names = sorted(part[x].unique()), list(part["line"].unique())
    axis.axhline(0, color="0.5", linewidth=0.8, zorder=1)
    apart = min(0.05, 0.7 / len(names))
    for number, name in enumerate(names):
        line, beside = part[part["line"] == name].sort_values(x), apart * (number - (len(names) - 1) / 2)
        places = np.array([ticks.index(value) for value in line[x]]) + beside
        reach = line["high"] - line["difference"]
        axis.vlines(places, line["difference"] - reach, line["difference"] + reach, color=looks[name]["color"],
                    linewidth=0.6, alpha=0.5)
        axis.plot(places, line["difference"], markersize=4, linewidth=1.1, **looks[name])
    axis.set(xticks=range(len(ticks)), xticklabels=[f"{tick:,}" if x == "steps" else tick or "all" for tick in ticks])
