"""Loss curves."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure


def training_curves(curves: pd.DataFrame, x: str, ys: Sequence[str], smooth: float = 0.97) -> Figure:
    """Plot losses over steps, one panel each: every step pale, an exponential average (of weight ``smooth``) strong."""
    figure, axes = plt.subplots(1, len(ys), figsize=(3.2 * len(ys), 2.4), squeeze=False)
    for axis, y in zip(axes[0], ys, strict=True):
        axis.plot(curves[x], curves[y], alpha=0.25, linewidth=0.6)
        axis.plot(curves[x], curves[y].ewm(alpha=1 - smooth).mean(), color="C0")
        axis.set(xlabel=x, title=y)
    return figure
