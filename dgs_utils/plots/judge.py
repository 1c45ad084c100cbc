"""Figures about the judge: where it errs, and what having seen the originals does to their difficulty."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dgs_utils.plots.shapes import colour_table

MOST = 15  # classes in a figure; of more, those that the judge recognises least
OTHERS = "other classes"


def shift_of_originals(scores: pd.DataFrame) -> Figure:
    """Show how much easier originals look to a judge that was trained on them: shares of images up to each score.

    Args:
        scores: one row an original: score, by a judge that was trained without it, and seen, by one trained with it.
    """
    figure, axis = plt.subplots(figsize=(4, 2.6))
    for column, name in (("seen", "seen in training"), ("score", "left out of training")):
        axis.ecdf(scores[column], label=f"{name}, mean {scores[column].mean():.3f}")
    axis.set(xlabel="difficulty", ylabel="share of originals", xlim=(0, 1), ylim=(0, 1))
    axis.legend(title="", loc="lower right")
    return figure


def judge_errors(errors: pd.DataFrame, title: str = "") -> Figure:
    """Show which share of each class the judge recognises, and what it takes the other images for.

    Args:
        errors: true, predicted, images: each pair of names once (see `figures.errors_of_judge`).
        title: above the figure.
    """
    matrix = errors.pivot_table("images", "true", "predicted", "sum", fill_value=0, sort=False)
    sizes, right = matrix.sum(axis=1), errors[errors["true"] == errors["predicted"]].set_index("true")["images"]
    shares = 100 * right.reindex(matrix.index, fill_value=0) / sizes
    names = list(shares.index if len(shares) <= MOST else shares.sort_values(kind="stable").index[:MOST])
    # Beside the classes at hand, up to four that one in a hundred images or more is taken for.
    others = matrix.drop(columns=matrix.index, errors="ignore").sum().sort_values(ascending=False, kind="stable")
    columns = [*names, *others.index[others >= 0.01 * sizes.sum()][:4]]
    shown = matrix.reindex(index=names, columns=columns, fill_value=0)
    shown = shown.assign(**{OTHERS: sizes[names] - shown.sum(axis=1)}) if len(matrix.columns.union(names)) > len(
        columns) else shown
    width = 0.4 * shown.shape[1]
    figure, (left, axis) = plt.subplots(1, 2, figsize=(3.4 + width, 1.5 + 0.25 * len(names)), sharey=True,
                                        width_ratios=(2, width))
    left.barh(np.arange(len(names)) + 0.5, shares[names], 0.7, color="C0")
    left.set(xlim=(0, 100), xlabel="recognised (%)", title=f"{right.sum() / sizes.sum():.1%} of {sizes.sum():,} images")
    colour_table(axis, 100 * shown.div(sizes[names], axis=0), list(shares[names].index), list(shown), True, 7)
    axis.set(xlabel="taken for (% of the class)", ylabel="",
             title=f"the {MOST} of {len(shares)} classes recognised least" if len(shares) > MOST else "")
    figure.suptitle(title, fontsize="medium")
    return figure
