"""The style of all figures, and writing them."""

import textwrap
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from dgs_utils.artifacts.files import atomic

INLINE = ("inline", "module://matplotlib_inline.backend_inline")  # names of the backend of notebooks


def use_style() -> None:
    """Switch matplotlib to the kit's style sheet; in a notebook, figures are drawn once, when they are shown."""
    plt.style.use(str(files("dgs_utils.plots") / "dgs.mplstyle"))
    if plt.get_backend() in INLINE:  # after each cell pyplot would draw them, and then the notebook once more
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


def looks_of(count: int) -> list[dict]:
    """Return colours and markers that tell ``count`` lines apart, the first ten by colour alone."""
    colors = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    return [{"color": colors[place % len(colors)], "marker": "osD^"[place // len(colors) % 4]}
            for place in range(count)]


def folded(text: str, width: int) -> str:
    """Return a text in lines of some characters; the joined names of generators can break at each plus."""
    return textwrap.fill(text.replace("+", " + "), width, break_on_hyphens=False) if len(text) > width else text


def labels_of(names: Sequence[str]) -> tuple[list[str], float, float]:
    """Return names as labels of an axis' lines, and the inches that the widest and the highest of them takes."""
    labels = [folded(name, 64) for name in names]
    lines = [label.splitlines() for label in labels]
    return labels, 0.08 * max(len(line) for label in lines for line in label), 0.17 * max(map(len, lines))
