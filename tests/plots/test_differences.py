"""Figures of differences: points, intervals and heat maps of score × rule."""

import itertools

import numpy as np
import pandas as pd
import pytest
from drawn import intervals_of, points_of
from matplotlib.collections import PathCollection
from result_rows import named, rule_grid, runs

from dgs_utils import plots
from dgs_utils.plots import accuracy, differences
from dgs_utils.results.baselines import gains_over_random, with_several_ipcs, with_several_lengths
from dgs_utils.results.comparisons import compare_with_others
from dgs_utils.results.rows import fill_columns
from dgs_utils.results.summaries import summarise

pytestmark = pytest.mark.usefixtures("styled")


def test_differences_are_points_with_the_intervals_of_the_comparisons():
    random = {"method": "random", "distribution": "", "pool_factor": 0}
    results = named(runs([60, 61, 63]), runs([58, 60, 61], **random), runs([20, 21, 24], method="k_center"),
                    runs([60], method="dit"), runs([60, 62, 63], ipc=20), runs([61, 62, 64], ipc=20, **random))
    found = compare_with_others(results, "DGS", ["Random", "K-Center", "DiT"])
    axes = differences.differences_to(found).axes
    assert [axis.get_title() for axis in axes] == ["ResNetAP-10, IPC 10", "ResNetAP-10, IPC 20"]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["Random", "K-Center", "DiT"]
    assert sorted(points_of(axes[0])) == pytest.approx([0, 5 / 3, 119 / 3], abs=1e-9)
    assert axes[0].get_xlim()[1] < 40
    spans = [tuple(ends) for ends in intervals_of(axes[0])]
    first = found.iloc[0]
    assert any(span == pytest.approx((first["low"], first["high"])) for span in spans)
    assert [text.get_text() for text in axes[0].texts] == ["+40"]  # too far away for the scale of the others
    assert differences.differences_to(found.iloc[:0]) is None


def test_intervals_that_leave_the_frame_get_an_arrow_head_at_its_edge():
    ends = {"inside": (-1.0, 3.0), "right": (-1.0, 90.0), "both": (-90.0, 90.0), "alone": (np.nan, np.nan)}
    rows = pd.DataFrame([(name, *pair) for name, pair in ends.items()], columns=["second", "low", "high"])
    rows = rows.assign(first="DGS", condition="ConvNet-3", ipc=10, difference=1.0, margin=2.0, tost_low=0.5,
                       tost_high=1.5, verdict=["as good", "undecided", "undecided", "no interval"])
    figure = differences.differences_to(rows)
    [axis] = figure.axes
    left, right = axis.get_xlim()
    heads = sorted(tuple(point) for marks in axis.collections if isinstance(marks, PathCollection)
                   for point in marks.get_offsets().tolist())
    assert heads == [(left, 2), (right, 1), (right, 2)]
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["as good", "undecided", "no interval"]


def test_rules_are_a_table_of_colours_with_what_each_has_above_random():
    found = pd.DataFrame([("Easiest", "margin", 10, 3.0, 1.0, 5.0), ("Easiest", "margin", 20, -2.0, -5.5, 1.5),
                          ("Hardest", "", 20, -30.0, np.nan, np.nan)],
                         columns=["rule", "score", "ipc", "difference", "low", "high"])
    figure = differences.rule_heatmap(found.assign(control="random of the pool", condition="ConvNet-3"))
    [axis] = [axis for axis in figure.axes if axis.get_title()]
    values = np.ma.filled(axis.collections[0].get_array(), np.nan)
    assert np.array_equal(values, [[3, np.nan, -2], [np.nan, -30, np.nan]], equal_nan=True)
    assert [text.get_text() for text in axis.texts] == ["+3.0*\n±2.0", "−2.0\n±3.5", "−30.0"]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["IPC 10\nmargin", "IPC 20\nno score",
                                                                      "IPC 20\nmargin"]
    low, high = axis.collections[0].get_clim()
    assert low == -high < 0  # as far to either side, whatever lies further


@pytest.mark.parametrize("length", [20, 60, 110])
def test_long_names_of_series_leave_panels_their_width(length):
    names = [" ".join(["DGS", *(["judged"] * (length // 7)), str(number)]) for number in range(8)]
    grid = [runs([50, 51], method=name, ipc=ipc) for name in names for ipc in (10, 50)]
    lines = pd.DataFrame([{"source": "pool", "control": "random", "condition": "ConvNet-3", "rule": name, "ipc": ipc}
                          for name in names for ipc in (10, 50)]).assign(score="", difference=1.0, low=0.0, high=2.0)
    for figure in (accuracy.accuracy_by_ipc(summarise(named(*grid))), differences.rule_curves(lines, "ipc")):
        figure.canvas.draw()
        [axis], [legend] = figure.axes, figure.legends
        panel, key = axis.get_window_extent(), legend.get_window_extent()
        assert panel.width / figure.dpi > 1.8  # inches
        assert panel.x1 <= key.x0 < key.x1 <= figure.bbox.x1
        places = [text.get_window_extent() for text in legend.get_texts()]  # from above
        assert all(upper.y0 >= lower.y1 for upper, lower in itertools.pairwise(places))


def test_long_names_of_conditions_stay_above_their_panels():
    names = [f"ConvNet-3, epoch factor 0.0026666{number}" for number in range(4)]
    shown = pd.DataFrame({"condition": names}).assign(first="DGS", second="Random", ipc=50, difference=1.0, low=0.0,
                                                      high=2.0, tost_low=0.2, tost_high=1.8, verdict="as good",
                                                      margin=2.0)
    results = named(*[runs([50, 51], epoch_factor=factor) for factor in (0.00266667, 0.00533333, 0.0106667)])
    for figure in (differences.differences_to(shown), accuracy.accuracy_by_method(results)):
        figure.canvas.draw()
        titles = [axis.title.get_window_extent() for axis in figure.axes]
        assert len(titles) > 2
        assert not any(a.overlaps(b) for a, b in itertools.pairwise(titles))


def test_the_grid_has_a_line_a_rule_a_colour_a_score_and_ipcs_side_by_side():
    found = gains_over_random(fill_columns(rule_grid()))
    figure = plots.rule_heatmap(found)
    *panels, bar = figure.axes
    assert [axis.get_title() for axis in panels] == [
        f"ResNetAP-10, epoch factor {factor}: best top-1 accuracy\nminus random of the pool" for factor in ("0.1", "1")]
    assert bar.get_ylabel() == "difference (points)"
    places = [(ipc, score) for ipc in (10, 20) for score in ("1 − p(class)", "margin")]
    for axis, factor in zip(panels, (0.1, 1.0), strict=True):
        assert [text.get_text() for text in axis.get_yticklabels()] == ["Easiest", "Hardest", "Moderate"]
        columns = [tuple(text.get_text().removeprefix("IPC ").split("\n")) for text in axis.get_xticklabels()]
        part = found[found["epoch_factor"] == factor]
        cells = {(row.rule, str(row.ipc), row.score or "no score"): row for row in part.itertuples()}
        assert {(str(ipc), score) for ipc, score in places} <= set(columns) == {key[1:] for key in cells}
        shown = np.ma.filled(axis.collections[0].get_array().astype(float), np.nan)
        texts = iter(text.get_text() for text in axis.texts)
        for line, rule in zip(shown, ("Easiest", "Hardest", "Moderate"), strict=True):
            for value, place in zip(line, columns, strict=True):
                row = cells.get((rule, *place))
                assert np.isnan(value) if row is None else value == pytest.approx(row.difference)
                if row is not None:
                    assert ("*" in next(texts)) == (row.low * row.high > 0)


@pytest.mark.parametrize("x", ["ipc", "steps"])
def test_curves_go_through_the_differences(x):
    kept = {"ipc": with_several_ipcs, "steps": with_several_lengths}[x]
    found = kept(gains_over_random(fill_columns(rule_grid())))
    figure = plots.rule_curves(found, x)
    told = "epoch factor {:g}" if x == "ipc" else "IPC {}"
    panels = (0.1, 1.0) if x == "ipc" else (10, 20)
    for axis, panel in zip(figure.axes, panels, strict=True):
        assert axis.get_title() == f"ResNetAP-10, {told.format(panel)}\nminus random of the pool"
        part = found[found["epoch_factor" if x == "ipc" else "ipc"] == panel].sort_values(x)
        curves = sorted(tuple(y for y in line.get_ydata() if not np.isnan(y)) for line in axis.lines
                        if line.get_marker() != "None" and len(line.get_ydata()))
        assert curves == sorted(tuple(curve["difference"]) for _, curve in part.groupby(["rule", "score"]))
        assert [text.get_text() for text in axis.get_xticklabels()] == (
            ["10", "20"] if x == "ipc" else ["400", "4,000"])
    if x == "steps":  # the order turns round
        order = [found[found["steps"] == steps].groupby("rule")["difference"].mean() for steps in (400, 4000)]
        assert order[0]["Easiest"] > order[0]["Hardest"]
        assert order[1]["Easiest"] < order[1]["Hardest"]
