"""Images by difficulty: galleries, pool sheets, mistakes."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dgs_utils.plots.sheets import contact_sheet

# Files, a score for each, and where several generators made them, which one.
ScoredImages = tuple[Sequence[Path], np.ndarray] | tuple[Sequence[Path], np.ndarray, Sequence[str]]


def gallery(rows: Mapping[str, ScoredImages], columns: int = 12) -> Figure:
    """Show images by difficulty, a row a set, easiest left and hardest right, at even steps of rank (Fig. 3).

    Args:
        rows: by row name, image files and their scores; and what generated each, which a letter tells.
        columns: images per row.
    """
    letters = _letters(generator for _, _, *named in rows.values() for generator in (named[0] if named else ()))
    images, captions = {}, {}
    for name, (paths, scores, *named) in rows.items():
        order = np.argsort(scores, kind="stable")
        steps = order[np.linspace(0, len(order) - 1, min(columns, len(order))).round().astype(int)]
        images[name] = [paths[i] for i in steps]
        captions[name] = [_caption(scores[i], letters.get(named[0][i], "") if named else "") for i in steps]
    return contact_sheet(images, captions, _key(letters))


def gallery_slider(rows: Mapping[str, ScoredImages], columns: int = 8):
    """Return widgets that show the images of one row nearest to a difficulty (arguments of `gallery`)."""
    import ipywidgets as widgets
    from IPython.display import display

    def show(row: str, difficulty: float) -> None:
        paths, scores = rows[row][:2]
        nearest = np.argsort(np.abs(scores - difficulty), kind="stable")[:columns]
        figure = gallery({row: ([paths[i] for i in nearest], scores[nearest])}, columns)
        display(figure)
        plt.close(figure)

    return widgets.interactive(show, row=list(rows), difficulty=widgets.FloatSlider(0.5, min=0, max=1, step=0.01))


def sheet_of(metadata: pd.DataFrame, folder: Path, columns: int = 20) -> tuple[dict, dict | None, str]:
    """Return rows, captions and note for `plots.sheets.contact_sheet`: a distilled set by class, from easy to hard.

    Args:
        metadata: of a 05 folder; a letter tells the generator where several made the images.
        folder: that folder.
        columns: images per row at the most, at even steps of rank.
    """
    letters = _letters(metadata.get("generator", ()))
    rows, captions = {}, {}
    for name, part in list(metadata.groupby("class", sort=False))[:10]:
        part = part.sort_values("score", kind="stable") if "score" in part else part
        part = part.iloc[np.unique(np.linspace(0, len(part) - 1, columns).round().astype(int))]
        rows[name] = [folder / file for file in part["file_name"]]
        scores = part["score"] if "score" in part else [None] * len(part)
        made = part["generator"].map(letters) if letters else [""] * len(part)
        captions[name] = [_caption(score, letter) for score, letter in zip(scores, made, strict=True)]
    return rows, captions if any(map(any, captions.values())) else None, _key(letters)


def _letters(generators: Iterable[str]) -> dict[str, str]:
    """Return a short name for each of several generators: A, B, …; nothing for one alone."""
    names = dict.fromkeys(name for name in generators if name)
    return {name: chr(ord("A") + place) if place < 26 else str(place + 1)
            for place, name in enumerate(names)} if len(names) > 1 else {}


def _key(letters: Mapping[str, str]) -> str:
    return ", ".join(f"{letter} {name}" for name, letter in letters.items())


def _caption(score: float | None, letter: str) -> str:
    return f"{'' if score is None else _short(score)} {letter}".strip()


def mistakes(rows: Mapping[str, pd.DataFrame], columns: int = 12) -> Figure:
    """Show the hardest images that the classifier takes for something else.

    Args:
        rows: by row name, a frame with ``path``, ``score`` and ``text`` (what it is → what it is taken for).
        columns: images per row.
    """
    parts = {name: part.nlargest(columns, "score") for name, part in rows.items() if len(part)}
    if not parts:
        figure = plt.figure(figsize=(4, 0.5))
        figure.text(0.5, 0.5, "the classifier makes no mistakes here", ha="center", va="center")
        return figure
    return contact_sheet({name: list(part["path"]) for name, part in parts.items()},
                         {name: [f"{text}\n{_short(score)}" for text, score in zip(part["text"], part["score"],
                                                                                   strict=True)]
                          for name, part in parts.items()}, cell=0.75)


def _short(score: float) -> str:
    return f"{score:.2f}".removeprefix("0") if score < 0.995 else "1.0"
