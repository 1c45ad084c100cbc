"""The style of all figures, and writing them."""

import textwrap
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dgs_utils.store.atomic import atomic

INLINE_BACKENDS = ("inline", "module://matplotlib_inline.backend_inline")  # names of the backend of notebooks


def use_style() -> None:
    """Switch matplotlib to the kit's style sheet; in a notebook, figures are drawn once, when they are shown."""
    plt.style.use(str(files("dgs_utils.plots") / "dgs.mplstyle"))
    if plt.get_backend() in INLINE_BACKENDS:  # after each cell pyplot would draw them, and then the notebook once more
        plt.switch_backend(plt.get_backend())  # now, as with the first figure pyplot would make the hook again
        plt.uninstall_repl_displayhook()


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write a figure as ``<name>.pdf`` and ``<name>.png``; no dates go in, so the same figure gives the same bytes.

    It is laid out once, for both and for the notebook that shows it: what is added later gets no room of its own.
    """
    with plt.rc_context({"figure.constrained_layout.use": False}):  # no engine at all: with one, saving draws twice
        if engine := figure.get_layout_engine():
            engine.execute(figure)
            figure.set_layout_engine(None)
        for suffix, metadata in (("pdf", {"CreationDate": None}), ("png", {"Software": None})):
            with atomic(folder / f"{name}.{suffix}") as partial:
                figure.savefig(partial, format=suffix, metadata=metadata)


def panel_grid(count: int, width: float, height: float, columns: int = 5, room: float = 0.4, least: float = 0.0,
               **shared: Any) -> tuple[Figure, list[Axes]]:
    """Return a figure with ``count`` panels in at most so many columns; sizes in inches."""
    columns = min(count, columns)
    lines = -(-count // columns)
    size = (width * columns + room, max(height * lines, least))
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, **shared)
    for axis in axes.flat[count:]:
        axis.set_axis_off()
    return figure, list(axes.flat[:count])


def wrap_text(text: str, width: int) -> str:
    """Return a text in lines of some characters; joined names of generators may break at each plus.

    >>> wrap_text("BigGAN+cSAGAN+DDPM", 12).splitlines()
    ['BigGAN +', 'cSAGAN +', 'DDPM']
    """
    return textwrap.fill(text.replace("+", " + "), width, break_on_hyphens=False) if len(text) > width else text


def wrap_labels(names: Iterable) -> tuple[list[str], float, float]:
    """Return names as wrapped labels, and the width and height in inches of the largest."""
    labels = [wrap_text(str(name), 64) for name in names]
    lines = [label.splitlines() or [""] for label in labels]
    return labels, 0.08 * max(len(line) for label in lines for line in label), 0.17 * max(map(len, lines))
