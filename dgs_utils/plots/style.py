"""The style of all figures, and writing them."""

from importlib.resources import files
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from dgs_utils.artifacts.files import atomic


def use_style() -> None:
    """Switch matplotlib to the kit's style sheet."""
    plt.style.use(str(files("dgs_utils.plots") / "dgs.mplstyle"))


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write a figure as ``<name>.pdf`` and ``<name>.png``; no dates go in, so the same figure gives the same bytes."""
    for suffix, metadata in (("pdf", {"CreationDate": None}), ("png", {"Software": None})):
        with atomic(folder / f"{name}.{suffix}") as partial:
            figure.savefig(partial, format=suffix, metadata=metadata)
