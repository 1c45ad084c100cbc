"""Figures of results and images. Every function takes plain arrays or frames and returns a matplotlib Figure.

The figures about difficulty (the paper's Figures 2–4) are in `dgs_utils.plots.difficulty`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dgs_utils.artifacts.manifests import input_folder, parameter, read_manifest
from dgs_utils.images.classes import read_classes
from dgs_utils.images.image_sets import ImageSet
from dgs_utils.images.tables import read_table
from dgs_utils.runtime.seeds import numpy_rng
from dgs_utils.selection.score_tables import read_scores
from dgs_utils.selection.targets import sampling_panels

# ---- What Figures 2 and 3 are made of --------------------------------------------------------------------------------

def guided_set(samples: Sequence[Path]) -> Path | None:
    """Return the first 05 folder that difficulty-guided sampling wrote, or None."""
    found = [folder for folder in samples if read_manifest(folder)["identity"].get("method") == "dgs"]
    return found[0] if found else None


def sampling_of(distilled: Path, names: Sequence[str] = ()) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Return the scores of Figure 2 for a set that difficulty-guided sampling drew.

    The row with transform shows the set itself; the row without shows what the same draw would take.

    Args:
        distilled: its 05 folder.
        names: classes; empty for the first two.

    Returns:
        By class (its readable name), row and set, as `plots_difficulty.figure2` takes them.
    """
    titles, folder = _titles_of(distilled), input_folder(read_manifest(distilled), "transform")
    ipc, bins = parameter(distilled, "ipc"), parameter(folder, "bins")
    scores, drawn = read_table(folder / "transformed.csv"), read_table(distilled / "metadata.csv")
    panels = {}
    for name in names or list(drawn["class"].unique()[:2]):
        sets = scores[scores["class"] == name].groupby("set")
        arrays = [sets.get_group(which)[column].to_numpy() for column in ("score", "transformed")
                  for which in ("original", "pool")]
        panel = sampling_panels(*arrays, ipc, numpy_rng("figures", "figure 2", name), bins)
        panel["with transform"]["distilled"] = drawn.loc[drawn["class"] == name, "transformed"].to_numpy()
        panels[titles[name]] = panel
    return panels


def images_of(distilled: Path, names: Sequence[str] = (),
                originals: bool = True) -> dict[str, tuple[list[Path], np.ndarray]]:
    """Return the images of Figure 3, original and distilled, with their scores, by row name.

    Args:
        distilled: a 05 folder that difficulty-guided sampling wrote.
        names: classes; empty for the first two.
        originals: False leaves the originals out, whose licence may forbid passing them on.
    """
    scored, titles = _scored_originals(distilled), _titles_of(distilled)
    sets = {"distilled": (distilled, read_table(distilled / "metadata.csv"))}
    if originals:
        root = ImageSet.read(input_folder(read_manifest(scored), "prepare"), "train").root
        sets = {"original": (root, read_scores(scored)), **sets}
    rows = {}
    for name in names or list(sets["distilled"][1]["class"].unique()[:2]):
        for which, (root, table) in sets.items():
            part = table[table["class"] == name]
            rows[f"{titles[name]}, {which}"] = ([root / file for file in part["file_name"]], part["score"].to_numpy())
    return rows


def _scored_originals(distilled: Path) -> Path:
    """Return the 03 folder of the originals that a distilled set was guided by."""
    return input_folder(read_manifest(input_folder(read_manifest(distilled), "transform")), "original_scores")


def _titles_of(distilled: Path) -> dict[str, str]:
    """Return the readable name of each class."""
    classes = read_classes(input_folder(read_manifest(_scored_originals(distilled)), "prepare"))
    return dict(zip(classes["class"], classes["name"], strict=True))
