"""Heat maps show the tables they are given."""

import numpy as np
import pandas as pd
import pytest

from dgs_utils import plots


def test_objective_map_marks_the_choice():
    surface = np.array([[1.0, np.inf], [0.5, 2.0]])
    axis = plots.objective_map({"a": surface}, {"a": (1, 0)}).axes[0]
    assert axis.lines[0].get_xydata().tolist() == [[0.5, 1.5]]
    assert axis.get_title() == "a\nbottom 1, top 0"
    assert np.ma.getmaskarray(axis.collections[0].get_array()).ravel().tolist() == [False, True, False, False]


def test_target_and_found_stand_side_by_side():
    target, found = np.array([[1, 0, 2], [0, 3, 0]]), np.array([[0, 1, 2], [1, 1, 1]])
    tables = {name: pd.DataFrame(counts, ["a", "b"]) for name, counts in (("target", target), ("found", found))}
    axes = plots.table_heatmaps(tables).axes
    for axis, counts, name in zip(axes, (target, found), ("target", "found"), strict=True):
        shown = axis.collections[0]
        np.testing.assert_array_equal(shown.get_array(), counts)
        assert shown.get_clim() == (0, 3)  # one scale
        assert [text.get_text() for text in axis.texts] == [str(n) for n in counts.ravel()]
        assert (axis.get_title(), axis.get_xlabel()) == (f"{name}: images per bin",
                                                            "difficulty bin, from easy (0) to hard")
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["a", "b"]

pytestmark = pytest.mark.usefixtures("styled")


def test_figure_of_errors_shows_recognised_shares_and_where_the_others_go():
    errors = pd.DataFrame([("a", "a", 8), ("a", "b", 2), ("b", "a", 5), ("b", "no. 7", 5)],
                          columns=["true", "predicted", "images"])
    shares, matrix = plots.confusion_matrix(errors).axes
    assert [bar.get_width() for bar in shares.patches] == [80, 0]
    assert [text.get_text() for text in matrix.get_xticklabels()] == ["a", "b", "no. 7"]
    assert [text.get_text() for text in matrix.texts] == ["80", "20", "0", "50", "0", "50"]
    many = pd.DataFrame({"true": [f"{i}" for i in range(40) for _ in range(2)],
                         "predicted": [name for i in range(40) for name in (f"{i}", f"{(i + 1) % 40}")],
                         "images": [n for i in range(40) for n in (i + 1, 100)]})
    shares, matrix = plots.confusion_matrix(many).axes
    assert [text.get_text() for text in shares.get_yticklabels()] == [f"{i}" for i in range(25)]
    assert matrix.get_title() == "the 25 of 40 classes with the lowest accuracy"
    assert matrix.get_xticklabels()[-1].get_text() == "other classes"
