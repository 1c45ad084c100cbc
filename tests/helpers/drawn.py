"""What figures show: bars, points and intervals."""

import numpy as np


def intervals_of(axis) -> list[list[float]]:
    """Return the ends of each interval that seaborn drew, sideways, line by line."""
    return [sorted(line.get_xdata()) for line in axis.lines if line.get_marker() in ("", "None", None)
            and len(line.get_xdata()) == 2 and np.ptp(line.get_ydata()) == 0]


def points_of(axis, size=4) -> list[float]:
    """Return where points stand that a figure draws for means, from the top."""
    return [x for line in axis.lines if line.get_marker() == "o" for x in line.get_xdata() if not np.isnan(x)]


def bars(axis):
    return [patch.get_height() for patch in axis.patches]
