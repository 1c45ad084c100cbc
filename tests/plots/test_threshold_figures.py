"""Sliders of thresholds, and their static twin: both show what stage 04 computes."""

import itertools
import json
import sys

import nbformat
import numpy as np
import pandas as pd
import pytest
import small_grid

from dgs_utils import plots
from dgs_utils.params import TransformParams
from dgs_utils.plots import thresholds
from dgs_utils.selection.targets import scale_counts
from dgs_utils.selection.thresholds import search_thresholds
from dgs_utils.selection.transforms import transform_class


def scores_of(seed: int, images: int, easy: dict[str, float]) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.concat([pd.DataFrame({"class": name, "score": rng.beta(a, 3, images)}) for name, a in easy.items()])


POOL, ORIGINALS = scores_of(4, 50, {"a": 1.0, "b": 0.2}), scores_of(1, 90, {"a": 1.0, "b": 1.5})
PARAMS = TransformParams(ipc=10)


def of_class(table: pd.DataFrame, name: str) -> np.ndarray:
    return table.loc[table["class"] == name, "score"].to_numpy()


@pytest.mark.parametrize("settings", [{}, {"shared_scale": True}, {"search_on": "originals"}, {"objective": "paper"}])
def test_a_preview_of_the_chosen_thresholds_is_the_stage_s_result(settings):
    params = TransformParams(ipc=10, **settings)
    shown = thresholds.ClassPreview("b", "b", of_class(POOL, "b"), of_class(ORIGINALS, "b"), params)
    expected = transform_class(shown.pool, shown.originals, 5, objective=params.objective, search_on=params.search_on,
                               shared_scale=params.shared_scale)
    assert shown.search(0.5) == expected.thresholds[:2]
    sets, fitting, _ = shown.preview(*shown.search(0.5))
    np.testing.assert_array_equal(sets["pool"], expected.pool)
    np.testing.assert_array_equal(sets["original"], expected.originals)
    available = np.histogram(expected.pool, 10, (0, 1))[0]
    assert fitting == np.minimum(scale_counts(expected.originals, 10), available).sum()
    assert len(sets["distilled"]) == 10


def test_sliders_search_redraw_and_say_when_nothing_changes():
    box = plots.explore_thresholds(POOL, ORIGINALS, PARAMS, {"b": "bee"})
    knobs, message, _ = box.children
    picked, bottom, top, weight = knobs.children
    assert picked.value == "b"  # its pool is farther from its originals
    assert ("bee", "b") in picked.options
    assert (bottom.value, top.value) == search_thresholds(of_class(POOL, "b"), 5)[:2]
    weight.value = 0.55
    assert message.value.startswith("λ = 0.55: same thresholds; ")
    weight.value = 1.0
    best = search_thresholds(of_class(POOL, "b"), 5, 1.0)[:2]
    assert (bottom.value, top.value) == best
    assert message.value.startswith(f"λ = 1.00: bottom {best[0]}, top {best[1]}; ")
    picked.value = "a"
    assert (bottom.value, top.value) == search_thresholds(of_class(POOL, "a"), 5, 1.0)[:2]
    bottom.value = 0
    shown = thresholds.ClassPreview("a", "a", of_class(POOL, "a"), of_class(ORIGINALS, "a"), PARAMS)
    fitting = shown.preview(0, top.value).fitting
    assert message.value == f"{fitting} of 10 images come from the bins that are asked for"


def test_the_static_twin_makes_no_widget(monkeypatch):
    monkeypatch.setenv("DGS_BATCH", "1")
    monkeypatch.setitem(sys.modules, "ipywidgets", None)  # importing it would fail
    table = plots.explore_thresholds(POOL, ORIGINALS, PARAMS)
    pairs = [tuple(search_thresholds(of_class(POOL, "b"), 5, weight)[:2]) for weight in table["λ"]]
    assert list(zip(table["bottom"], table["top"], strict=True)) == pairs
    same = ["", *("same thresholds" if now == before else "" for before, now in itertools.pairwise(pairs))]
    assert table["compared with the line above"].tolist() == same
    assert "same thresholds" in same


def test_without_thresholds_there_is_nothing_to_turn(capsys):
    assert plots.explore_thresholds(POOL, ORIGINALS, TransformParams(objective="none")) is None
    assert "no thresholds to turn" in capsys.readouterr().out


CELL = """
import os
os.environ.pop("DGS_BATCH", None)  # as in JupyterLab
import numpy as np, pandas as pd
from dgs_utils import plots
from dgs_utils.params import TransformParams
rng = np.random.default_rng(0)
pool, originals = (pd.DataFrame({"class": "a", "score": rng.beta(shape, 3, 60)}) for shape in (0.4, 1))
box = plots.explore_thresholds(pool, originals, TransformParams(ipc=10), {"a": "ant"})
"""


@pytest.mark.slow
def test_sliders_draw_in_a_real_kernel(tmp_path):
    cells = [nbformat.v4.new_code_cell(CELL + "box"), nbformat.v4.new_code_cell(
        "box.children[0].children[1].value = 3\nbox.children[1].value")]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "in.ipynb")
    small_grid.execute(tmp_path / "in.ipynb", tmp_path / "out.ipynb")
    shown, moved = nbformat.read(tmp_path / "out.ipynb", 4).cells
    assert "application/vnd.jupyter.widget-view+json" in json.dumps(shown.outputs)
    assert "of 10 images come from the bins" in moved.outputs[-1]["data"]["text/plain"]
