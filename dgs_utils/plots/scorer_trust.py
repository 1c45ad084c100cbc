"""How far a scorer can be trusted: reliability diagrams, and difficulties that are taken otherwise."""

from collections.abc import Mapping

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from dgs_utils.plots.style import panel_grid


def reliability_diagram(points: pd.DataFrame) -> Figure | None:
    """Show how often a scorer is right where it is how sure, a panel for each scorer and what its softmax is over.

    Args:
        points: of `held_out.reliability_of`: scorer, over, temperature, images, confidence, accuracy.

    Returns:
        The figure; None where there are no points.
    """
    if not len(points):
        return None
    panels = list(points.groupby(["scorer", "over"], sort=False))
    figure, axes = panel_grid(len(panels), 2.6, 2.4, columns=4, room=1.2, sharex=True, sharey=True)
    for axis, ((scorer, over), rows) in zip(axes, panels, strict=True):
        axis.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--", label="calibrated")
        for color, (temperature, part) in zip(("C0", "C3"), rows.groupby("temperature", sort=False), strict=False):
            name = "as it is" if temperature == 1 else "at its temperature"
            axis.plot(part["confidence"], part["accuracy"], color=color, linewidth=1, label=name)
            axis.scatter(part["confidence"], part["accuracy"], 3 + 60 * part["images"] / part["images"].sum(), color)
        axis.set(title=f"{scorer}\nover {'all outputs' if over == 'all' else 'those of the task'}", xlim=(0, 1),
                 ylim=(0, 1))
    labels = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(labels.values(), labels.keys(), loc="outside right upper")
    figure.supxlabel("how sure the scorer is", fontsize="medium")
    figure.supylabel("how often it is right", fontsize="medium")
    return figure


def difficulty_otherwise(scores: pd.DataFrame, titles: Mapping[str, str]) -> Figure | None:
    """Show the distribution of difficulty in use beside the others that the scores have.

    Args:
        scores: one row an image.
        titles: of the columns with difficulties, by `agreement.difficulty_columns`.

    Returns:
        The figure; None, with a printed sentence, where there is one difficulty alone.
    """
    if len(titles) < 2:
        print("not drawn: the scorer has no outputs but those of the task, and no other difficulty is known")
        return None
    figure, (axis,) = panel_grid(1, 4.2, 2.8)
    for style, (column, title) in zip(("-", *["--", ":", "-."] * 3), titles.items(), strict=False):
        sns.ecdfplot(scores, x=column, label=f"{title}, mean {scores[column].mean():.3f}", ax=axis, linestyle=style)
    axis.set(xlabel="difficulty", ylabel="share of images", xlim=(0, 1), ylim=(0, 1))
    axis.legend(loc="lower right", fontsize="small")
    return figure
