"""Figures about judges and rules of selection: what a judge that has seen the originals makes of them."""

import lazy_loader
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

sns = lazy_loader.load("seaborn")  # loading takes half a second


def shift_of_originals(scores: pd.DataFrame) -> Figure:
    """Show how much easier originals look to a judge that was trained on them: shares of images up to each score.

    Args:
        scores: one row an original: score, by a judge that was trained without it, and seen, by one trained with it.
    """
    figure, axis = plt.subplots(figsize=(4, 2.6))
    for column, name in (("seen", "seen in training"), ("score", "left out of training")):
        sns.ecdfplot(x=scores[column], ax=axis, label=f"{name}, mean {scores[column].mean():.3f}")
    axis.set(xlabel="difficulty", ylabel="share of originals", xlim=(0, 1), ylim=(0, 1))
    axis.legend(title="", loc="lower right")
    return figure
