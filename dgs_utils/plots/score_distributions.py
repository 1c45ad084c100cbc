"""Distributions of difficulty scores, beside those of the paper (`paper_figures`)."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from dgs_utils.plots.style import panel_grid
from dgs_utils.selection.targets import counts_of

SET_COLORS = {"original": "C0", "pool": "C1", "distilled": "C2"}
HISTOGRAM_STYLE = {"binrange": (0, 1), "edgecolor": "black", "linewidth": 0.5}


def score_histograms(scores: pd.DataFrame) -> Figure:
    """Show histograms of difficulty as fractions of each set, a panel a class: ``scores`` have class, set ("original",
    "pool"), score in [0, 1], and optionally name, the class in words.
    """
    column = "name" if "name" in scores else "class"
    sets = [which for which in SET_COLORS if which in set(scores["set"])]
    with plt.rc_context({"figure.constrained_layout.use": False}):  # seaborn lays out its grid
        grid = sns.displot(scores, x="score", hue="set", hue_order=sets, palette=SET_COLORS, col=column,
                           col_wrap=min(5, scores[column].nunique()), height=1.9, aspect=1.2, bins=10,
                           stat="proportion", common_norm=False, multiple="dodge", **HISTOGRAM_STYLE)
    return grid.set_titles("{col_name}").set_axis_labels("difficulty", "fraction of the set").figure


def in_sample_shift(scores: pd.DataFrame) -> Figure | None:
    """Show how much easier originals look to a scorer that was trained on them: shares of images up to each score, by a
    scorer that was trained without the image, and up to seen, by one trained with it. None, with a printed sentence,
    where one scorer alone has scored the images.
    """
    if "seen" not in scores:
        print("not drawn: it needs source = \"originals\" and prepare.folds, and so scorers that left images out")
        return None
    figure, axis = plt.subplots(figsize=(4, 2.6))
    for column, name in (("seen", "seen in training"), ("score", "left out of training")):
        sns.ecdfplot(scores, x=column, label=f"{name}, mean {scores[column].mean():.3f}", ax=axis)
    axis.set(xlabel="difficulty", ylabel="share of originals", xlim=(0, 1), ylim=(0, 1))
    axis.legend(loc="lower right")
    return figure


def target_bars(report: pd.DataFrame, titles: Mapping[str, str] = {}) -> Figure | None:
    """Show how many images of each bin a distilled set has, beside the target, a panel for each of the first ten
    classes of `sample.report`; None, with a printed sentence, where the method follows no target.
    """
    if "target" not in report:
        print("not drawn: this method follows no target")
        return None
    report = report.head(10)
    figure, axes = panel_grid(len(report), 2.1, 1.6, sharex=True, sharey=True)
    for axis, name, target, found in zip(axes, report["class"], counts_of(report["target"]), counts_of(report["found"]),
                                         strict=True):
        bins = np.arange(len(target) + 1)
        axis.bar(bins[:-1] + 0.5, found, 0.9, color=SET_COLORS["distilled"], label="found")
        axis.stairs(target, bins, color="black", linewidth=1.2, label="target", baseline=None)
        axis.set(title=titles.get(name, name), xlim=(0, len(target)), xticks=[0, len(target)],
                 xticklabels=["easy", "hard"])
        for tick, side in zip(axis.get_xticklabels(), ("left", "right"), strict=False):  # none above other panels
            tick.set(horizontalalignment=side)
        axis.locator_params(axis="y", integer=True)  # there are no half images
    figure.supxlabel("bins of transformed difficulty", fontsize="medium")
    figure.supylabel("images", fontsize="medium")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper")
    return figure
