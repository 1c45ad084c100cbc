"""Figures are drawn and saved once."""

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import small_grid
from matplotlib.figure import Figure

from dgs_utils import plots


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")

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
        return plots.figure2({"a title above all": {"with transform": {"original": np.linspace(0, 1, 30)}}}, 10)

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
