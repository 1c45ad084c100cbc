"""Accuracies by method, by images per class, and over epochs."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from dgs_utils.plots.interval_panels import interval_panels
from dgs_utils.plots.style import wrap_text
from dgs_utils.results.random_effects import t_critical
from dgs_utils.results.rows import DATASET_TITLES, SET_KEYS, sort_rows
from dgs_utils.results.summaries import summarise


def _with_ends(summary: pd.DataFrame) -> pd.DataFrame:
    """Return a summary with panel (its condition), and low and high: 95 % intervals (t) over the outermost repeated
    source of noise, clipped to 0 and 100 %.
    """
    half = t_critical(summary["units"] - 1, 0.05) * summary["error"]
    return summary.assign(low=(summary["best"] - half).clip(lower=0), high=(summary["best"] + half).clip(upper=100),
                          panel=[wrap_text(condition, 34) for condition in summary["condition"]])


def accuracy_by_method(results: pd.DataFrame) -> Figure:
    """Show the best top-1 accuracy of each series, a panel a condition: points are means with 95 % intervals (t, over
    the outermost repeated source of noise), small dots single runs, whose range is that of the panel. ``results`` have
    series and condition (`results.rows.fill_columns`).
    """
    summary = _with_ends(sort_rows(summarise(results), SET_KEYS))
    order = list(summary["series"].unique())
    names = {ipc: str(ipc or "all") for ipc in sorted(summary["ipc"].unique(), key=lambda ipc: (ipc == 0, ipc))}
    hues = dict(zip(names.values(), sns.color_palette("Blues", len(names) + 2)[2:] if len(names) > 1 else ["C0"],
                    strict=True))
    dodge = 0.8 - 0.8 / len(names)
    shifts = dict(zip(names, np.linspace(-dodge / 2, dodge / 2, len(names)), strict=True))
    panels = summary.drop_duplicates("condition").set_index("condition")["panel"]
    runs = [results[results["condition"] == condition] for condition in panels.index]
    sizes = [ipc for ipc in names if ipc]
    spans = [0.12 * np.ptp(part["best"]) + 0.5 for part in runs]
    frames = {panel: (part["best"].min() - span, part["best"].max() + span)
              for panel, part, span in zip(panels, runs, spans, strict=True)}
    figure, axes = interval_panels(summary.assign(hue=summary["ipc"].map(names)), "best", "series", frames,
                                   (2.7, 0.1 * (1 + len(names))), hues=hues, order=order, title="IPC", dodge=dodge)
    for axis, part in zip(axes, runs, strict=True):
        # Equal runs are drawn one above the other; seaborn's stripplot draws from NumPy's global random state.
        same = part.groupby(["series", "ipc", part["best"].round(2)])["best"]
        apart = 0.14 * (same.cumcount() - (same.transform("size") - 1) / 2) / len(names)
        axis.plot(part["best"], part["series"].map(order.index) + part["ipc"].map(shifts) + apart, ".", color="0.25",
                  markersize=2.5, zorder=3)
        axis.set_xlabel("best top-1 accuracy (%)")
        if len(sizes) == 1:
            axis.set_title(f"{axis.get_title()}, IPC {sizes[0]}")
    datasets = ", ".join(DATASET_TITLES.get(name, name) for name in results["dataset"].unique())
    figure.suptitle(f"{wrap_text(datasets, 40)}: accuracy of students on real images", fontsize="medium")
    figure.supxlabel("large points: means with 95 % intervals; small dots: single trainings", fontsize="small")
    return figure


def accuracy_by_ipc(summary: pd.DataFrame) -> Figure | None:
    """Show mean best accuracy against images per class, with 95 % intervals (t), a panel a condition with several IPCs.

    Series are dodged so that none hides another. The scale follows the means, as the intervals of two repeats would
    flatten everything else. A dotted line is the full set. ``summary`` is of `results.summaries.summarise`; None if no
    condition has several.
    """
    sized = summary[summary["ipc"] != 0].groupby("condition")["ipc"].nunique()
    summary = summary[summary["condition"].isin(sized[sized > 1].index)]
    if summary.empty:
        return None
    summary = _with_ends(summary).rename(columns={"series": "hue"})
    drawn, full = summary[summary["ipc"] != 0], summary[summary["ipc"] == 0]
    margin = 0.1 * np.ptp(summary["best"]) + 1
    frames = dict.fromkeys(drawn["panel"], (summary["best"].min() - margin, summary["best"].max() + margin))
    figure, axes = interval_panels(drawn, "best", "ipc", frames, (3.2, 3.0))
    for axis, panel in zip(axes, frames, strict=True):
        axis.set_xlabel("images per class (IPC)")
        for row in full[full["panel"] == panel].itertuples():
            axis.axhline(row.best, color="0.4", linestyle=":")
            axis.annotate(row.hue, (0, row.best), xycoords=("axes fraction", "data"), va="bottom", fontsize="small")
    axes[0].set_ylabel("best top-1 accuracy (%)")
    return figure


def accuracy_curves(curves: pd.DataFrame) -> Figure:
    """Plot test accuracy over epochs, a line a training, with a star at the reported test: ``curves`` have epoch, top1
    (%), training_seed, and counts (whether the protocol may report the test).
    """
    figure, axis = plt.subplots(figsize=(4.2, 2.8))
    seeds = "seed " + curves["training_seed"].astype(str)
    sns.lineplot(curves, x="epoch", y="top1", hue=seeds, errorbar=None, ax=axis)
    counting = curves[curves["counts"]]
    best = counting.loc[counting.groupby("training_seed")["top1"].idxmax()]
    sns.scatterplot(best, x="epoch", y="top1", hue=seeds, marker="*", s=80, legend=False, ax=axis)
    axis.set(xlabel="epoch", ylabel="top-1 accuracy (%)")
    axis.locator_params(axis="x", integer=True)  # there are no half epochs
    axis.legend(title="")
    return figure
