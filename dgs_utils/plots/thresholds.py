"""Notebook 04's knobs: what two thresholds and λ make of one class, and of the set that is drawn from it (Eqs. 7–9)."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dgs_utils.params import TransformParams
from dgs_utils.plots.live import show
from dgs_utils.plots.paper_figures import figure2
from dgs_utils.runtime.seeds import numpy_rng
from dgs_utils.selection.targets import difficulty_shift, draw, scale_counts
from dgs_utils.selection.thresholds import Thresholds, search_thresholds
from dgs_utils.selection.transforms import apply_thresholds, default_limit, prefix_warnings
from dgs_utils.store.session import BATCH

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # λ in the static twin


class Preview(NamedTuple):
    """What a pair of thresholds leads to.

    Attributes:
        sets: scores of original, pool and distilled set by name.
        fitting: number of drawn images that come from the bins that are asked for.
        notes: warnings.
    """

    sets: dict[str, np.ndarray]
    fitting: int
    notes: list[str]


@dataclass(frozen=True)
class ClassPreview:
    """One class, transformed and sampled with any thresholds.

    Attributes:
        name: class.
        pool, originals: its difficulties, each in [0, 1].
        params: those of stage 04.
    """

    name: str
    pool: np.ndarray
    originals: np.ndarray
    params: TransformParams

    @property
    def searched(self) -> np.ndarray:
        """The difficulties on which thresholds are searched."""
        return self.pool if self.params.search_on == "pool" else self.originals

    @property
    def most(self) -> int:
        """The largest number of images that either threshold may clip."""
        return max(min(default_limit(self.params.ipc), len(self.searched) // 2) - 1, 0)

    def search(self, weight: float) -> tuple[int, int]:
        """Return the best thresholds for a λ."""
        with prefix_warnings("", lambda _: None):
            best = search_thresholds(self.searched, default_limit(self.params.ipc), weight, self.params.objective,
                                     self.params.bins)
        return min(best.bottom, self.most), min(best.top, self.most)

    def preview(self, bottom: int, top: int) -> Preview:
        """Return both sets as these thresholds transform them, and a draw of the distilled set."""
        params, notes = self.params, list[str]()
        with prefix_warnings(self.name, notes.append):
            _, _, pool, originals = apply_thresholds(self.pool, self.originals, Thresholds(bottom, top, np.empty(0)),
                                                     params.objective, params.search_on, params.shared_scale)
        counts = scale_counts(originals, params.ipc, params.bins)
        drawn = draw(pool, counts, numpy_rng("transform", "figure 2", self.name))
        return Preview({"original": originals, "pool": pool, "distilled": pool[drawn.indices]},
                       params.ipc - int(drawn.shortage.sum()), notes)


def explore_thresholds(pool: pd.DataFrame, originals: pd.DataFrame, params: TransformParams,
                       titles: Mapping[str, str] = {}):
    """Return sliders for bottom, top and λ of any class; every change draws both transformed sets and a sample.

    In a batch run no widget is made. Its static twin shows the class whose pool is farthest from its originals, without
    clipping and with the thresholds that were chosen, and a table says what another λ would choose.

    Args:
        pool: class and score, one row an image of the pool.
        originals: the same of the originals.
        params: those of stage 04.
        titles: readable names of classes.

    Returns:
        The widget; in a batch run the table; None where there are no thresholds (objective "none").
    """
    if params.objective == "none":
        print("objective is none: difficulties stay as they are, and there are no thresholds to turn")
        return None
    real = dict(list(originals.groupby("class", sort=False)["score"]))
    classes = {name: ClassPreview(name, part.to_numpy(), real[name].to_numpy(), params)
               for name, part in pool.groupby("class", sort=False)["score"]}
    first = max(classes.values(), key=lambda one: abs(difficulty_shift(one.pool, one.originals)))
    if BATCH in os.environ:
        return _static_twin(first, titles.get(first.name, first.name))
    return _sliders(classes, first.name, titles)


def _draw(title: str, rows: Mapping[str, Preview], params: TransformParams) -> Figure:
    return figure2({title: {row: preview.sets for row, preview in rows.items()}}, params.ipc, params.bins)


def _pair(bottom: int, top: int) -> str:
    return f"bottom {bottom}, top {top}"


def _static_twin(shown: ClassPreview, title: str) -> pd.DataFrame:
    weights = sorted({*WEIGHTS, shown.params.weight})
    pairs = [shown.search(weight) for weight in weights]
    chosen = pairs[weights.index(shown.params.weight)]
    _draw(title, {"no clipping": shown.preview(0, 0), _pair(*chosen): shown.preview(*chosen)}, shown.params)
    changes = ["same thresholds" if pair == before else "" for before, pair in zip([None, *pairs], pairs, strict=False)]
    return pd.DataFrame({"class": title, "λ": weights, "bottom": [bottom for bottom, _ in pairs],
                         "top": [top for _, top in pairs], "compared with the line above": changes,
                         "images from the bins asked for": [shown.preview(*pair).fitting for pair in pairs]})


def _sliders(classes: Mapping[str, ClassPreview], first: str, titles: Mapping[str, str]):
    import ipywidgets as widgets

    names = [(titles.get(name, name), name) for name in classes]
    shown = classes[first]
    picked = widgets.Dropdown(options=names, value=first, description="class")
    pair = [widgets.IntSlider(value, 0, shown.most, description=name)
            for name, value in zip(("bottom", "top"), shown.search(shown.params.weight), strict=True)]
    weight = widgets.FloatSlider(shown.params.weight, min=0, max=1, step=0.05, description="λ")
    message, output = widgets.Label(), widgets.Output()
    searching = False

    def redraw(found: str = "") -> None:
        one = classes[picked.value]
        preview = one.preview(*(slider.value for slider in pair))
        sentence = f"{preview.fitting} of {one.params.ipc} images come from the bins that are asked for"
        message.value = "; ".join(filter(None, [found, sentence, *preview.notes]))
        with output:
            output.clear_output(wait=True)
            row = _pair(*(slider.value for slider in pair))
            show(_draw(titles.get(one.name, one.name), {row: preview}, one.params))

    def search(change: Mapping) -> None:
        nonlocal searching
        before, best = tuple(slider.value for slider in pair), classes[picked.value].search(weight.value)
        searching = True  # each slider that is moved would draw
        for slider, value in zip(pair, best, strict=True):
            slider.max = classes[picked.value].most
            slider.value = value
        searching = False
        same = change["owner"] is weight and before == best
        redraw(f"λ = {weight.value:.2f}: {'same thresholds' if same else _pair(*best)}")

    for slider in pair:
        slider.observe(lambda _: None if searching else redraw(), "value")
    for knob in (picked, weight):
        knob.observe(search, "value")
    redraw()
    return widgets.VBox([widgets.HBox([picked, *pair, weight]), message, output])
