"""The paper's four figures, of one's own run."""

import itertools
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from dgs_utils.plots.contact_sheets import contact_sheet
from dgs_utils.plots.score_distributions import HISTOGRAM_STYLE, SET_COLORS

PIPELINE, POOL, SAMPLING = "#55A868", "#4C72B0", "#DD8452"  # green, blue and orange, as in the paper
BOXES = {  # of Figure 1: column, line and colour; keys are their titles
    "Original data": (0, 1, PIPELINE), "Image pool": (2, 1, PIPELINE), "Distilled set": (4, 1, PIPELINE),
    "Classification": (5, 1, PIPELINE), "Diffusion model": (0, 0, POOL), "Fine-tuning": (1, 0, POOL),
    "Generation": (2, 0, POOL), "Given images": (2, 0, POOL), "Biased draw": (2, 0, POOL),
    "Difficulty": (2, 2, SAMPLING), "Logarithm": (3, 2, SAMPLING), "Sampling": (4, 2, SAMPLING),
}
ARROWS = [("Original data", "Image pool"), ("Image pool", "Distilled set"), ("Distilled set", "Classification"),
          ("Original data", "Fine-tuning"), ("Diffusion model", "Fine-tuning"), ("Fine-tuning", "Generation"),
          ("Generation", "Image pool"), ("Given images", "Image pool"), ("Biased draw", "Image pool"),
          ("Original data", "Biased draw"), ("Image pool", "Difficulty"), ("Original data", "Difficulty"),
          ("Difficulty", "Logarithm"), ("Logarithm", "Sampling"), ("Sampling", "Distilled set")]
MIN_SHARED_HEIGHT = 0.15  # fraction of the tallest bar that the tallest of every panel must have for a shared scale


def figure1(texts: Mapping[str, str]) -> Figure:
    """Draw the pipeline in green, with the generation of the pool in blue and sampling in orange (Fig. 1); boxes of
    `BOXES` without a text, such as "1,297 images", are left out.
    """
    figure, axis = plt.subplots(figsize=(10.4, 3.9))
    boxes = {}
    for title, text in texts.items():
        x, y, color = BOXES[title]
        boxes[title] = axis.add_patch(plt.Rectangle((x - 0.42, y - 0.34), 0.84, 0.68, facecolor=(color, 0.22),
                                                    edgecolor=color))
        axis.text(x, y + 0.22, title, ha="center", va="center", weight="bold")
        axis.text(x, y - 0.08, text, ha="center", va="center", fontsize=7)
    for start, end in [pair for pair in ARROWS if boxes.keys() >= set(pair)]:
        (*begin, color), (*finish, other) = BOXES[start], BOXES[end]  # branches have the colour of their target
        axis.annotate("", finish, begin, arrowprops={
            "arrowstyle": "-|>", "color": color if other == PIPELINE else other, "patchA": boxes[start],
            "patchB": boxes[end], "shrinkA": 0, "shrinkB": 0, "linewidth": 2.5 if begin[1] == finish[1] else 1.5})
    for y, name, color in ((1, "whole process", PIPELINE), (0, "pool", POOL), (2, "sampling", SAMPLING)):
        axis.text(-0.6, y, name, rotation=90, ha="center", va="center", color=color, weight="bold")
    axis.set(xlim=(-0.75, 5.5), ylim=(-0.45, 2.45))
    axis.set_axis_off()
    return figure


def figure2(panels: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]], ipc: int, bins: int = 10,
            share: str = "auto") -> Figure:
    """Show the difficulty distributions of original, pool and distilled set, without and with transform (Fig. 2).

    ``panels`` are of `score_tables.sampling_panels`: scores in [0, 1] by class, row and set. With ``share`` "on" the
    panels of a class have one scale, with "off" each its own, with "auto" one where all can be read.
    """
    rows = list(next(iter(panels.values())))
    figure = plt.figure(figsize=(0.4 + 4.6 * len(panels), 0.9 + 1.75 * len(rows)))
    for part, (name, sets) in zip(figure.subfigures(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        highest = [np.histogram(scores, bins, (0, 1))[0].max() for row in sets.values() for scores in row.values()]
        one_scale = share == "on" or (share == "auto" and min(highest) >= MIN_SHARED_HEIGHT * max(highest))
        axes = part.subplots(len(rows), len(sets[rows[0]]), sharex=True, sharey=one_scale, squeeze=False)
        for line, row in zip(axes, rows, strict=True):
            for axis, (which, scores) in zip(line, sets[row].items(), strict=True):
                sns.histplot(x=scores, bins=bins, color=SET_COLORS[which], ax=axis, **HISTOGRAM_STYLE)
                label = f"{which}, IPC {ipc}" if which == "distilled" else f"{which}, {len(scores):,} images"
                axis.set_title(f"{label}\nmean {np.mean(scores):.2f}", fontsize="small")
                axis.set(xlim=(0, 1), ylabel="")
                axis.locator_params(axis="y", integer=True)  # there are no half images
            line[0].set_ylabel("images per bin", fontsize="small")
            if name == next(iter(panels)):
                line[0].annotate(row, (-0.62, 0.5), xycoords="axes fraction", rotation=90, va="center", ha="center",
                                 weight="bold")
        part.suptitle(f"class {name}", fontsize="large", weight="bold")
        part.supxlabel("difficulty, from easy (0) to hard (1)", fontsize="medium")
    return figure


def figure3(rows: Mapping[str, pd.DataFrame], columns: int = 10, depth: int = 2) -> Figure:
    """Show images of several sets, with their difficulty below, in columns of one difficulty (Fig. 3).

    A column is an interval of difficulty, the same for all sets and blank if a set has no image in it. Intervals have
    the same number of images, all sets together, and show up to ``depth`` images of each set, those nearest to the
    middle.

    ``rows`` have path and score in [0, 1], a line an image, by name; with many equal scores there are fewer columns.
    """
    levels = np.linspace(0, 1, 101)
    together = pd.concat([part["score"].quantile(levels) for part in rows.values()])  # each set counts alike
    edges = np.unique(together.quantile(np.linspace(0, 1, columns + 1)).round(3))  # as fine as captions are
    edges = edges if len(edges) > 1 else edges.repeat(2)
    images, captions = {}, {}
    for name, part in rows.items():
        interval = np.clip(np.searchsorted(edges, part["score"], "right") - 1, 0, len(edges) - 2)
        distance = (part["score"] - (edges[interval] + edges[interval + 1]) / 2).abs()
        nearest = part.assign(interval=interval, distance=distance).sort_values("distance", kind="stable")
        nearest = nearest.assign(line=nearest.groupby("interval").cumcount()).query("line < @depth")
        for line, shown in nearest.set_index("interval").groupby("line"):
            key = f"{name}{' ' * line}"  # one name for all lines of a set
            images[key] = [shown["path"].get(column) for column in range(len(edges) - 1)]
            captions[key] = [f"{shown['score'].get(column, np.nan):.3f}" for column in range(len(edges) - 1)]
    heads = [f"{low:.3f}\n– {high:.3f}" for low, high in itertools.pairwise(edges)]
    note = "below each image: its difficulty; blank: the set has no (further) image there"
    return contact_sheet(images, captions, note, heads=["difficulty\ninterval", *heads])


def figure4(counts: Mapping[str, Mapping[int, np.ndarray]]) -> Figure:
    """Show predefined sampling distributions, a column a shape and a row an IPC (Fig. 4): images per bin by both."""
    table = pd.DataFrame([(name.capitalize(), ipc, interval, count) for name, by_ipc in counts.items()
                          for ipc, shares in by_ipc.items() for interval, count in enumerate(shares)],
                         columns=["shape", "IPC", "interval", "count"])
    with plt.rc_context({"figure.constrained_layout.use": False}):  # seaborn lays out its grid
        grid = sns.catplot(table, x="interval", y="count", col="shape", row="IPC", kind="bar", sharey="row", height=1.6,
                           aspect=1.25, color="C0")
    grid.set_titles("{col_name}, IPC {row_name}").set_axis_labels("difficulty bin\n(from easy to hard)",
                                                                   "images\nper bin")
    for axis in grid.axes.flat:
        axis.locator_params(axis="y", integer=True)  # there are no half images
    grid.tight_layout()  # once more, for labels of two lines
    return grid.figure
