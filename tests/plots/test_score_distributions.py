"""Histograms of scores, and bars beside their target."""

import pandas as pd
from drawn import bars

from dgs_utils import plots


def test_histograms_are_fractions_of_each_set():
    table = pd.DataFrame({"class": "a", "set": ["pool"] * 4 + ["original"] * 2,
                          "score": [0.05, 0.05, 0.05, 0.95, 0.05, 0.95]})
    heights = bars(plots.score_histograms(table).axes[0])
    assert sorted(h for h in heights if h) == [0.25, 0.5, 0.5, 0.75]


def test_bars_are_found_images_and_the_line_is_the_target(capsys):
    report = pd.DataFrame({"class": ["a", "b"], "target": ["1 0 2", "3 0 0"], "found": ["0 1 2", "3 0 0"]})
    figure = plots.target_bars(report, {"a": "ant"})
    assert [axis.get_title() for axis in figure.axes] == ["ant", "b"]
    for axis, target, found in zip(figure.axes, ([1, 0, 2], [3, 0, 0]), ([0, 1, 2], [3, 0, 0]), strict=True):
        *drawn, line = axis.patches
        assert [bar.get_height() for bar in drawn] == found
        assert line.get_data().values.tolist() == target
    assert plots.target_bars(report[["class", "found"]]) is None
    assert "follows no target" in capsys.readouterr().out


def test_a_figure_that_cannot_be_drawn_says_why(capsys):
    assert plots.in_sample_shift(pd.DataFrame({"score": [0.1]})) is None
    assert "prepare.folds" in capsys.readouterr().out
