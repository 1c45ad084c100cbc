"""Figures of a check-up."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from dgs_utils.plots.contact_sheets import contact_sheet
from dgs_utils.plots.style import panel_grid

KINDS = {"pool": "again in the pool", "original": "among the originals", "test": "among the test images"}
SHOWN_PAIRS, SHOWN_CLASSES = 12, 20


def copies_sheet(pairs: pd.DataFrame, roots: Mapping[str, Path]) -> Figure:
    """Show pairs of images that show one picture: two rows a set, at even steps from the most to the least alike.

    Args:
        pairs: of `copies.find_copies`.
        roots: folder of each set, by name.
    """
    rows: dict[str, list[Path | None]] = {}
    captions: dict[str, list[str]] = {}
    for kind, part in pairs.groupby("other_set", sort=False):
        ranked = part.sort_values("likeness", ascending=False, kind="stable")
        steps = np.linspace(0, len(ranked) - 1, min(SHOWN_PAIRS, len(ranked))).round().astype(int)
        shown = ranked.iloc[np.unique(steps)]
        first, second = f"pool ({len(part)} pair{'s'[: len(part) > 1]})", f"{KINDS[kind]}"
        first = first if first not in rows else f"{first} "
        blank = [None] * (SHOWN_PAIRS // 2 - len(shown))  # a narrow sheet has no room for its texts
        rows[first] = [*(roots["pool"] / name for name in shown["file_name"]), *blank]
        rows[second] = [roots[kind] / name for name in shown["other"]]
        captions[first] = [""] * len(shown)
        captions[second] = [f"{value:.2f}{' mirrored' if turned else ''}".removeprefix("0")
                            for value, turned in zip(shown["likeness"], shown["mirrored"], strict=True)]
    return contact_sheet(rows, captions, "below each pair: the correlation of edges after one was laid over the other",
                         0.75)


def coverage_panels(coverage: pd.DataFrame) -> Figure:
    """Show each measure of each class as a point, on the interval of as many real images.

    Args:
        coverage: class, measure, pool, real_low, real and real_high (`PoolCheck.coverage`); the first are shown.
    """
    coverage = coverage[coverage["class"].isin(list(dict.fromkeys(coverage["class"]))[:SHOWN_CLASSES])]
    measures = list(dict.fromkeys(coverage["measure"]))
    figure, axes = panel_grid(len(measures), 2.0, 0.25 * coverage["class"].nunique() + 0.9, len(measures), 1.2,
                              sharey=True)
    for axis, measure in zip(axes, measures, strict=True):
        part = coverage[coverage["measure"] == measure]
        axis.hlines(part["class"], part["real_low"], part["real_high"], color="C0", linewidth=6, alpha=0.35,
                    label="as many real images (5 to 95 %)")
        axis.plot(part["pool"], part["class"], "o", color="C1", label="pool")
        axis.locator_params(axis="x", nbins=3)
        axis.set(xlabel=measure, xlim=(0, 1.05 * max(1, part[["pool", "real_high"]].max().max())))
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def effective_curves(effective: pd.DataFrame) -> Figure:
    """Show the effective number of images over the number of images, of all classes together and within a class.

    Args:
        effective: of `vendi.effective_numbers`.
    """
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 2.6))
    parts = (effective[effective["class"] == ""], effective[effective["class"] != ""])
    for axis, part, title in zip(axes, parts, ("all classes together", "within a class"), strict=True):
        if len(part):
            sns.lineplot(part, x="images", y="effective", hue="set", hue_order=["original", "pool"],
                         palette={"original": "C0", "pool": "C1"}, marker="o", errorbar=("pi", 100), ax=axis)
            axis.get_legend().set_title("")
        axis.set(title=title, xlabel="images", ylabel="effective number", ylim=(0, 1.05 * axis.get_ylim()[1]))
    return figure
