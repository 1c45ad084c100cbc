"""A figure that is drawn anew, in place, while something runs: in JupyterLab, and where papermill runs the notebook."""

import time
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
from IPython.display import display
from matplotlib.figure import Figure

SHARE = 0.03  # of the time goes into drawing, at the most


class LiveFigure:
    """Draws every now and then, so seldom that drawing hardly costs time.

    Args:
        draw: makes the figure from whatever is passed on.
        seconds: the least time between two drawings.
    """

    def __init__(self, draw: Callable[[Any], Figure], seconds: float = 5.0):
        self.draw, self.seconds = draw, seconds
        self.place = None
        self.due = time.monotonic() + seconds

    def __call__(self, content: Callable[[], Any]) -> None:
        """Draw ``content()`` if it is time to."""
        started = time.monotonic()
        if started < self.due:
            return
        figure = self.draw(content())
        if self.place is None:
            self.place = display(figure, display_id=True)
        else:
            self.place.update(figure)
        plt.close(figure)  # else the notebook would show it once more below the cell
        taken = time.monotonic() - started
        self.due = time.monotonic() + max(self.seconds, taken / SHARE)
