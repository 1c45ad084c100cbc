"""Training curves, in a figure that is redrawn during training, in JupyterLab and under papermill."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import display
from matplotlib.figure import Figure

MAX_DRAW_FRACTION = 0.03  # of the time goes into drawing, at the most


def training_curves(curves: pd.DataFrame, x: str, ys: Sequence[str], smooth: float = 0.97) -> Figure:
    """Plot losses over steps, a panel each: single steps pale, an exponential average (of weight ``smooth``) strong."""
    figure, axes = plt.subplots(1, len(ys), figsize=(3.2 * len(ys), 2.4), squeeze=False)
    for axis, y in zip(axes[0], ys, strict=True):
        axis.plot(curves[x], curves[y], alpha=0.25, linewidth=0.6)
        axis.plot(curves[x], curves[y].ewm(alpha=1 - smooth).mean(), color="C0")
        axis.set(xlabel=x, title=y)
        axis.locator_params(axis="x", integer=True)  # there are no half steps
    return figure


def loss_curves(losses: pd.DataFrame) -> Figure:
    """Plot the parts of the loss of fine-tuning that were used: the diffusion loss's two, and the two criteria."""
    parts = [name for name in ("mse", "vb", "representative", "diverse") if (losses[name] != 0).any()]
    return training_curves(losses, "step", parts)


def show(figure: Figure) -> None:
    """Show a figure below the cell, once."""
    display(figure)
    plt.close(figure)


class LiveFigure:
    """A figure that ``draw`` makes of a content from time to time, in at most `MAX_DRAW_FRACTION` of it."""

    def __init__(self, draw: Callable[[Any], Figure], seconds: float = 5.0):
        self.draw, self.seconds = draw, seconds
        self.display_handle = None
        self.next_draw_at = time.monotonic() + seconds

    def __call__(self, content: Callable[[], Any]) -> None:
        """Draw ``content()`` if the next drawing is due."""
        started = time.monotonic()
        if started < self.next_draw_at:
            return
        figure = self.draw(content())
        if self.display_handle is None:
            self.display_handle = display(figure, display_id=True)
        else:
            self.display_handle.update(figure)
        plt.close(figure)  # else the notebook would show it once more below the cell
        self.next_draw_at = time.monotonic() + max(self.seconds, (time.monotonic() - started) / MAX_DRAW_FRACTION)
