"""Figures about difficulty show the numbers they are given."""

import matplotlib
import nbformat
import numpy as np
import pandas as pd
import pytest
import small_grid
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from dgs_utils import plots
from dgs_utils.selection.targets import predefined_counts, sampling_panels


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture
def images(tmp_path):
    """Twenty images whose grey value tells their number, and shuffled scores."""
    for i in range(20):
        Image.new("L", (4, 4), i * 10).save(tmp_path / f"{i}.png")
    scores = np.random.default_rng(0).permutation(20) / 20
    return [tmp_path / f"{i}.png" for i in range(20)], scores


def captions(figure):
    return [text.get_text() for text in figure.axes[0].texts if text.get_text() != "row"]


def bars(axis):
    return [patch.get_height() for patch in axis.patches]


def test_gallery_goes_from_easiest_to_hardest(images):
    figure = plots.gallery({"row": images}, columns=5)
    places = [image.get_extent()[0] for image in figure.axes[0].images]
    assert places == sorted(places)
    shown = [image.get_array()[0, 0, 0] / 10 for image in figure.axes[0].images]
    order = np.argsort(images[1])
    assert shown == [order[i] for i in (0, 5, 10, 14, 19)]
    assert captions(figure) == [".00", ".25", ".50", ".70", ".95"]


def test_mistakes_are_the_hardest_first(images):
    table = pd.DataFrame({"path": images[0], "score": images[1], "text": ["a → b"] * 20})
    figure = plots.mistakes({"row": table}, columns=3)
    assert captions(figure) == ["a → b\n.95", "a → b\n.90", "a → b\n.85"]
    assert "no mistakes" in plots.mistakes({"row": table.head(0)}).texts[0].get_text()


def test_figure_2_counts_and_names_the_mean():
    rng = np.random.default_rng(0)
    scores = [rng.random(60) for _ in range(4)]
    panels = sampling_panels(*scores, ipc=10, rng=rng)
    figure = plots.figure2({"a": panels, "b": panels})
    assert len(figure.axes) == 12
    for axis, (row, which) in zip(figure.axes[:3], [("without transform", s) for s in panels["without transform"]],
                                  strict=True):
        values = panels[row][which]
        assert bars(axis) == np.histogram(values, bins=10, range=(0, 1))[0].tolist()
        assert axis.get_title() == f"a {which}\nmean {values.mean():.2f}"
    assert sum(bars(figure.axes[2])) == 10
    assert all(tick == round(tick) for axis in figure.axes for tick in axis.get_yticks())


def test_objective_map_marks_the_choice():
    surface = np.array([[1.0, np.inf], [0.5, 2.0]])
    axis = plots.objective_map({"a": surface}, {"a": (1, 0)}).axes[0]
    assert axis.lines[0].get_xydata().tolist() == [[0.5, 1.5]]
    assert axis.get_title() == "a: bottom 1, top 0"
    assert np.ma.getmaskarray(axis.collections[0].get_array()).ravel().tolist() == [False, True, False, False]


def test_target_and_found_stand_side_by_side():
    target, found = np.array([[1, 0, 2], [0, 3, 0]]), np.array([[0, 1, 2], [1, 1, 1]])
    figure = plots.target_and_found(["a", "b"], target, found)
    axis = figure.axes[0]
    boxes = [np.array([path.get_extents().bounds for path in drawn.get_paths()]) for drawn in axis.collections[:2]]
    for shown, counts in zip(boxes, (target, found), strict=True):
        _, foot, width, height = shown.reshape(2, 3, 4).transpose(2, 0, 1)
        np.testing.assert_allclose(height, 0.85 * counts / 3)
        assert foot.tolist() == [[2, 2, 2], [1, 1, 1]]
        np.testing.assert_allclose(width, 0.4)
    assert (boxes[0][:, 0] + boxes[0][:, 2] <= boxes[1][:, 0] + 1e-9).all()  # side by side
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"]
    assert axis.get_yticks().tolist() == [2, 1]
    assert axis.get_title() == "images per bin, 3 at the most"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["target", "found"]


def test_figure_4_shows_the_tables():
    counts = {name: {ipc: predefined_counts(name, ipc) for ipc in (10, 20)} for name in ("hill", "cliff")}
    figure = plots.figure4(counts)
    assert [bars(axis) for axis in figure.axes] == [
        predefined_counts(name, ipc).tolist() for ipc in (10, 20) for name in ("hill", "cliff")]


def test_histograms_are_fractions_of_each_set():
    table = pd.DataFrame({"class": "a", "set": ["pool"] * 4 + ["original"] * 2,
                          "score": [0.05, 0.05, 0.05, 0.95, 0.05, 0.95]})
    heights = bars(plots.score_histograms(table).axes[0])
    assert sorted(h for h in heights if h) == [0.25, 0.5, 0.5, 0.75]


def test_sheet_of_a_distilled_set_goes_from_easy_to_hard(tmp_path):
    table = pd.DataFrame({"class": ["a"] * 3 + ["b"] * 2, "file_name": list("pqrst"),
                          "score": [0.3, 0.1, 0.2, 1.0, 0.5]})
    rows, captions, note = plots.sheet_of(table, tmp_path)
    assert note == ""  # one generator, or none named
    assert [path.name for path in rows["a"]] == ["q", "r", "p"]
    assert captions == {"a": [".10", ".20", ".30"], "b": [".50", "1.0"]}
    assert plots.sheet_of(table.drop(columns="score"), tmp_path)[1] is None


def test_moving_the_weight_searches_anew_and_redraws():
    drawn = []

    def redraw(bottom, top):
        drawn.append((bottom, top))
        return plt.figure()

    box = plots.sliders(redraw, lambda weight: (1, 2) if weight < 0.9 else (3, 0), limit=5)
    bottom, top, weight = box.children[0].children
    assert (bottom.value, top.value) == (1, 2)
    weight.value = 1.0
    assert (bottom.value, top.value) == (3, 0)
    assert drawn[0] == (1, 2)
    assert drawn[-1] == (3, 0)
    bottom.value = 0
    assert drawn[-1] == (0, 0)


SHOWN = ["""
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from dgs_utils import plots

plots.use_style()
drawn, draw = [], Figure.draw
Figure.draw = lambda *arguments: drawn.append(1) or draw(*arguments)
""", "figure, axis = plt.subplots()", "len(drawn)"]


def test_a_notebook_draws_a_figure_when_it_shows_it_and_only_then(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in SHOWN])
    nbformat.write(notebook, tmp_path / "shown.ipynb")
    small_grid.execute(tmp_path / "shown.ipynb", tmp_path / "executed.ipynb")
    _, cell, count = nbformat.read(tmp_path / "executed.ipynb", 4).cells
    assert ["image/png" in output["data"] for output in cell.outputs] == [True]
    assert count.outputs[0]["data"]["text/plain"] == "2"  # to lay it out, and then to draw it


def test_a_figure_is_saved_as_it_is_laid_out_and_drawn_once_a_file(tmp_path, styled, monkeypatch):
    def figure():
        return plots.transformed_histograms({"original": np.linspace(0, 1, 30)}, "a title above all")

    expected, drawn, draw = figure(), [], Figure.draw
    expected.draw_without_rendering()
    monkeypatch.setattr(Figure, "draw", lambda *arguments: drawn.append(1) or draw(*arguments))
    saved = figure()
    plots.save(saved, tmp_path, "first")
    assert len(drawn) == 2
    assert saved.axes[0].get_position().bounds == expected.axes[0].get_position().bounds
    plots.save(saved, tmp_path, "second")
    for suffix in ("pdf", "png"):
        assert (tmp_path / f"first.{suffix}").read_bytes() == (tmp_path / f"second.{suffix}").read_bytes()
