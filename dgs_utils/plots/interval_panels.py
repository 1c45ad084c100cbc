"""Points with intervals, in panels: the common part of figures of accuracies and of differences."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import CARETDOWN, CARETLEFT, CARETRIGHT, CARETUP

from dgs_utils.plots.style import panel_grid, wrap_labels


def interval_panels(rows: pd.DataFrame, value: str, category: str, limits: Mapping[str, tuple[float, float]],
                    size: tuple[float, float], *, hues: Mapping[str, Any] | None = None, order: Sequence[str] = (),
                    columns: int = 9, title: str = "", margin: float | None = None,
                    **style: Any) -> tuple[Figure, list[Axes]]:
    """Draw a point and its interval for each row; an arrow head marks an interval that leaves its panel.

    Args:
        rows: panel, ``value``, low, high (NaN: no interval), ``category``, and hue if there are several.
        value, category: columns of the axes; the categories are along x, or with ``order`` lines, from the top.
        limits: of the axis of values, by panel (its title).
        size: inches of a panel; with ``order`` the height is that of a line.
        hues, title: colour of each hue, in the order of the legend (None for seaborn's), and its title.
        margin: half-width of a grey band of differences that do not matter, with a line at zero; None for neither.
        style: of `seaborn.pointplot`; there are so many ``columns`` of panels at the most.
    """
    hue_names = rows["hue"].unique() if "hue" in rows else []
    hues = dict(hues or zip(hue_names, sns.color_palette(n_colors=len(hue_names)), strict=True))
    names = list(order or hues)
    labels, width, high = wrap_labels(names or [""])
    min_height = 1.1 + len(order) * max(size[1], high) if order else 0.6 + high * len(names)
    width = max(1.6, width) + (1.0 if order and len(hues) > 1 else 0)  # for names, and a legend beside them
    figure, axes = panel_grid(len(limits), size[0], 0 if order else size[1], columns, width, min_height,
                           sharey=bool(order) or len(set(limits.values())) == 1)
    marks = ["osD^"[count // 10 % 4] for count in range(len(hues))]  # there are ten colours
    style |= {"hue": "hue", "hue_order": list(hues), "palette": list(hues.values()), "markers": marks} if hues else {}
    style |= {"x": value, "y": category, "order": order, "linestyle": "none"} if order else {"x": category, "y": value}
    dodge = min(0.05 * len(hues), 0.7) if len(hues) > 1 and not order else False
    style = {"dodge": dodge, "markersize": 4, "linewidth": 1, "err_kws": {"linewidth": 1}, "legend": "full"} | style
    for axis, (panel, limit) in zip(axes, limits.items(), strict=True):
        part = rows[rows["panel"] == panel]
        ends = [part.assign(**{value: part[end].fillna(part[value])}) for end in ("low", value, "high")]
        sns.pointplot(pd.concat(ends, ignore_index=True), ax=axis, estimator="median", errorbar=("pi", 100), **style)
        axis.set(xlabel="", ylabel="", title=panel, **{"xlim" if order else "ylim": limit})
        if order:
            axis.set(yticks=range(len(order)), yticklabels=labels)
        _mark_cut(axis, along=0 if order else 1)
        if margin is not None:
            (axis.axvspan if order else axis.axhspan)(-margin, margin, color="0.93", zorder=0)
            (axis.axvline if order else axis.axhline)(0, color="0.5", linewidth=0.8, zorder=1)
    keys = [key for axis in axes if (key := axis.get_legend())]
    if len(hues) > 1:
        figure.legend([*filter(None, keys[0].legend_handles)], list(hues) if order else labels, title=title,
                      loc="outside right upper" if order else "outside right center")
    for key in keys:
        key.remove()
    return figure, axes


def _mark_cut(axis: Axes, along: int) -> None:
    """Put an arrow head at an edge of the axis of values (``along`` 0: x, 1: y) where an interval runs out of it."""
    heads = ((CARETLEFT, CARETRIGHT), (CARETDOWN, CARETUP))[along]
    for line in [line for line in axis.lines if line.get_marker() == "None"]:
        points = np.asarray(line.get_xydata(), dtype=float)
        for edge, head in zip((axis.get_xlim, axis.get_ylim)[along](), heads, strict=True):
            if points[:, along].min() < edge < points[:, along].max():
                at = (points[0, 0], edge) if along else (edge, points[0, 1])
                axis.scatter(at[0], at[1], s=25, color=line.get_color(), marker=head, zorder=3)
