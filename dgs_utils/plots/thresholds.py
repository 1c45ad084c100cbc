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

SHOWN_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # λ in the static twin


class Preview(NamedTuple):
    """What a pair of thresholds leads to."""

    sets: dict[str, np.ndarray]  # scores of original, pool and distilled set
    fitting: int  # drawn images that come from the bins that are asked for
    notes: list[str]  # warnings


@dataclass(frozen=True)
class ClassPreview:
    """One class, with difficulties of pool and originals in [0, 1], transformed and sampled with any thresholds."""

    name: str
    title: str
    pool: np.ndarray
    originals: np.ndarray
    params: TransformParams

    @property
    def most(self) -> int:
        """The largest number of images that either threshold may clip."""
        return max(min(default_limit(self.params.ipc), len(self._searched) // 2) - 1, 0)

    @property
    def _searched(self) -> np.ndarray:
        return self.pool if self.params.search_on == "pool" else self.originals

    def search(self, weight: float) -> tuple[int, int]:
        """Return the best thresholds for a λ."""
        with prefix_warnings("", lambda _: None):
            best = search_thresholds(self._searched, default_limit(self.params.ipc), weight, self.params.objective,
                                     self.params.bins)
        return min(best.bottom, self.most), min(best.top, self.most)

    def preview(self, bottom: int, top: int) -> Preview:
        """Return both sets as these thresholds transform them, and a draw of the distilled set."""
        params, notes = self.params, list[str]()
        with prefix_warnings(self.name, notes.append):
            _, _, pool, originals = apply_thresholds(self.pool, self.originals, Thresholds(bottom, top, np.empty(0)),
                                                     params.objective, params.search_on, params.shared_scale)
        drawn = draw(pool, scale_counts(originals, params.ipc, params.bins),
                     numpy_rng("transform", "figure 2", self.name))
        return Preview({"original": originals, "pool": pool, "distilled": pool[drawn.indices]},
                       params.ipc - int(drawn.shortage.sum()), notes)

    def draw(self, rows: Mapping[str, Preview]) -> Figure:
        """Return Figure 2 of this class, with a row a preview."""
        return figure2({self.title: {row: shown.sets for row, shown in rows.items()}}, self.params.ipc,
                       self.params.bins)


def explore_thresholds(pool: pd.DataFrame, originals: pd.DataFrame, params: TransformParams,
                       titles: Mapping[str, str] = {}):
    """Return sliders for bottom, top and λ of any class; every change draws both transformed sets and a sample.

    In a batch run no widget is made. Its static twin shows the class whose pool is farthest from its originals, without
    clipping and with the thresholds that were chosen, and a table says what another λ would choose. ``pool`` and
    ``originals`` have class and score.

    Returns:
        The widget; in a batch run the table; None where there are no thresholds (objective "none").
    """
    if params.objective == "none":
        print("objective is none: difficulties stay as they are, and there are no thresholds to turn")
        return None
    real = dict(list(originals.groupby("class", sort=False)["score"]))
    classes = {name: ClassPreview(name, titles.get(name, name), part.to_numpy(), real[name].to_numpy(), params)
               for name, part in pool.groupby("class", sort=False)["score"]}
    first = max(classes.values(), key=lambda one: abs(difficulty_shift(one.pool, one.originals)))
    return _static_twin(first) if BATCH in os.environ else _sliders(classes, first)


def _pair(bottom: int, top: int) -> str:
    return f"bottom {bottom}, top {top}"


def _static_twin(shown: ClassPreview) -> pd.DataFrame:
    weights = sorted({*SHOWN_WEIGHTS, shown.params.weight})
    pairs = [shown.search(weight) for weight in weights]
    chosen = pairs[weights.index(shown.params.weight)]
    shown.draw({"no clipping": shown.preview(0, 0), _pair(*chosen): shown.preview(*chosen)})
    table = pd.DataFrame(pairs, columns=["bottom", "top"])
    same = (table == table.shift()).all(axis=1)
    table.insert(0, "λ", weights)
    table.insert(0, "class", shown.title)
    return table.assign(**{"compared with the line above": np.where(same, "same thresholds", ""),
                           "images from the bins asked for": [shown.preview(*pair).fitting for pair in pairs]})


def _sliders(classes: Mapping[str, ClassPreview], first: ClassPreview):
    import ipywidgets as widgets

    picked = widgets.Dropdown(options=[(one.title, name) for name, one in classes.items()], value=first.name,
                              description="class")
    pair = [widgets.IntSlider(value, 0, first.most, description=name)
            for name, value in zip(("bottom", "top"), first.search(first.params.weight), strict=True)]
    weight = widgets.FloatSlider(first.params.weight, min=0, max=1, step=0.05, description="λ")
    message, output = widgets.Label(), widgets.Output()
    searching = False

    def redraw(result: str = "") -> None:
        one, thresholds = classes[picked.value], [slider.value for slider in pair]
        preview = one.preview(*thresholds)
        sentence = f"{preview.fitting} of {one.params.ipc} images come from the bins that are asked for"
        message.value = "; ".join(filter(None, [result, sentence, *preview.notes]))
        with output:
            output.clear_output(wait=True)
            show(one.draw({_pair(*thresholds): preview}))

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
