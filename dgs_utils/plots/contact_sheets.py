"""Images in named rows: contact sheets, and galleries by difficulty."""

import os
import string
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from dgs_utils.images.image_set import ImageSet
from dgs_utils.images.pixels import load_rgb
from dgs_utils.plots.live import show
from dgs_utils.store.session import BATCH


def contact_sheet(rows: Mapping[str, Sequence[Path | np.ndarray | None]],
                  captions: Mapping[str, Sequence[str]] | None = None, note: str = "", cell: float = 0.55,
                  heads: Sequence[str] = ()) -> Figure:
    """Show images in named rows.

    Args:
        rows: images by row name: paths, or arrays (H, W) or (H, W, 3), uint8 or float in [0, 1]; None for a blank.
        captions, heads, note: texts under the images, by row name; above the names and each column; below the figure.
        cell: side of an image, inches.
    """
    width = max(map(len, rows.values()))
    name_width = max(1.2, 0.15 + 0.08 * max(len(line) for name in rows for line in name.splitlines() or [""]))
    row_height = 1.35 if captions else 1.05  # in cells
    figure, axis = plt.subplots(figsize=(cell * width + name_width, cell * row_height * len(rows)))  # more are slow
    dpi = figure.dpi if plt.rcParams["savefig.dpi"] == "figure" else plt.rcParams["savefig.dpi"]
    for line, (name, images) in enumerate(rows.items()):
        y = line * row_height + 0.5
        for column, image in enumerate(images):
            if image is None:
                continue
            array = np.asarray(load_rgb(image) if isinstance(image, Path) else image)
            x, (height, breadth) = column + 0.5, 0.46 * np.array(array.shape[:2]) / max(array.shape[:2])
            # Enlarged pixels stay squares; images that must shrink are filtered, or fine texture would alias.
            # `imshow` would fit the axes to each anew, and the layout measure each, though all lie inside.
            shown = AxesImage(axis, cmap="gray", interpolation="hanning" if len(array) > cell * dpi else "nearest",
                              extent=(x - breadth, x + breadth, y + height, y - height), resample=True, in_layout=False)
            shown.set(data=array, clim=(0, 255 if array.dtype == np.uint8 else 1))
            axis.add_image(shown)
            if captions:
                axis.text(x, y + 0.5, captions[name][column], fontsize=6, ha="center", va="top")
        axis.text(-0.15, y, name.strip(), ha="right", va="center", fontsize=8)
    for x, head in zip([-0.15, *(np.arange(width) + 0.5)], heads, strict=False):
        axis.text(x, -0.05, head, fontsize=6, ha="right" if x < 0 else "center", va="bottom")
    axis.set(xlim=(0, width), ylim=(row_height * len(rows), 0), aspect="equal")
    axis.set_axis_off()
    figure.supxlabel(note, fontsize="small")
    return figure


def class_sheet(images: ImageSet, titles: Mapping[str, str] = {}) -> Figure:
    """Show the first images of the first ten classes, a row a class; ``titles`` are their readable names."""
    return contact_sheet({titles.get(name, name): images.of_class(name).paths[:12] for name in images.classes[:10]})


def rows_by_set(shown: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the images of `difficulty.images_to_show` in named rows: a class and a set each."""
    return {f"{name}, {which}": part for (name, which), part in shown.groupby(["name", "set"], sort=False)}


def gallery(rows: Mapping[str, pd.DataFrame], columns: int = 12, hardest: bool = False, title: str = "") -> Figure:
    """Show images by difficulty, a row a set, easiest left and hardest right, at even steps of rank.

    ``rows`` have path, and optionally score in [0, 1], and generator, shown as a letter. With ``hardest`` only these
    are shown, in descending order, with their text (class → prediction).
    """
    parts = {}
    for name, part in rows.items():
        ranked = part.sort_values("score", ascending=not hardest, kind="stable") if "score" in part else part
        count = min(columns, len(part))
        ranks = np.arange(count) if hardest else np.linspace(0, len(part) - 1, count).round().astype(int)
        parts[name] = ranked.iloc[ranks] if hardest else ranked.iloc[ranks].drop(columns="text", errors="ignore")
    generators = sorted({name for part in rows.values() if "generator" in part for name in part["generator"]})
    letters = dict(zip(generators, string.ascii_uppercase + string.digits, strict=False)) if len(generators) > 1 else {}
    captions = {name: [_caption(row, letters) for row in part.to_dict("records")] for name, part in parts.items()}
    with_captions = any(map(any, captions.values()))
    notes = ["below each image: its difficulty"] if any("score" in part for part in parts.values()) else []
    notes += [f"{letter} {name}" for name, letter in letters.items()]
    figure = contact_sheet({name: list(part["path"]) for name, part in parts.items()},
                           captions if with_captions else None, ", ".join(notes), 0.75 if hardest else 0.55)
    figure.suptitle(title, fontsize="medium")
    return figure


def _caption(row: Mapping, letters: Mapping[str, str]) -> str:
    score = row.get("score")
    short = "" if score is None else f"{score:.2f}".removeprefix("0") if score < 0.995 else "1.0"
    return f"{row.get('text', '')}\n{short} {letters.get(row.get('generator', ''), '')}".strip()


def hardest_mistakes(shown: pd.DataFrame) -> Figure | None:
    """Show which of `difficulty.images_to_show` the scorer takes for another class, the hardest first; None, with a
    sentence, where there is nothing.
    """
    wrong = shown[shown["correct"].eq(False)] if "correct" in shown else shown.head(0)
    if wrong.empty:
        print("the scorer recognises all of these images" if "correct" in shown else
              "not drawn: published scores come without the scorer's predictions")
        return None
    return gallery(rows_by_set(wrong), hardest=True)


def scored_images(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Return a table of images with their paths, for `gallery`, from their file_name in a folder."""
    return table.assign(path=[folder / file for file in table["file_name"]])


def set_gallery(table: pd.DataFrame, folder: Path, titles: Mapping[str, str] = {}, columns: int = 20) -> Figure:
    """Show the first ten classes of a set, a row a class, from the easiest to the hardest where scores are known.

    ``table`` has class, file_name (below ``folder``), and score where it is known; ``titles`` are readable names.
    """
    parts = list(table.groupby("class", sort=False))[:10]
    return gallery({titles.get(name, name): scored_images(part, folder) for name, part in parts}, columns)


def rule_strips(choices: Mapping[str, pd.DataFrame], folder: Path, titles: Mapping[str, str] = {}) -> Figure | None:
    """Show what several rules select of one class (`sample.choices_by_rule`), a row a rule, as `set_gallery`; None,
    with a sentence, where there is no rule.
    """
    if not choices:
        print("not drawn: the candidates have no scores that a rule could look at")
        return None
    name = next(iter(choices.values()))["class"].iloc[0]
    return gallery({rule: scored_images(part, folder) for rule, part in choices.items()}, 20,
                   title=f"class {titles.get(name, name)}")


def gallery_slider(rows: Mapping[str, pd.DataFrame], columns: int = 8):
    """Return widgets for the images of one row that are nearest to a difficulty (arguments of `gallery`).

    It begins with the row of the widest range. In a batch run that row's images of difficulty 0.5 are drawn, and None
    is returned.
    """
    first = max(rows, key=lambda name: np.ptp(rows[name]["score"]))

    def draw(row: str, difficulty: float) -> Figure:
        nearest = (rows[row]["score"] - difficulty).abs().to_numpy().argsort(kind="stable")[:columns]
        return gallery({row: rows[row].iloc[nearest]}, columns)

    if BATCH in os.environ:
        draw(first, 0.5)
        return None

    import ipywidgets as widgets

    return widgets.interactive(lambda row, difficulty: show(draw(row, difficulty)),
                               row=widgets.Dropdown(options=list(rows), value=first),
                               difficulty=widgets.FloatSlider(0.5, min=0, max=1, step=0.01))
