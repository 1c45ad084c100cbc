"""Figures of results: what is averaged, what the intervals are, and that unlike runs get panels of their own."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats
from test_tables import rows, runs

from dgs_utils.plots import accuracy, differences, rules, sheets
from dgs_utils.results.comparisons import compare_with_rivals
from dgs_utils.results.rows import condition_of, series_of
from dgs_utils.results.summaries import summarise

pytestmark = pytest.mark.usefixtures("styled")


def named(*frames: pd.DataFrame) -> pd.DataFrame:
    results = pd.concat(frames, ignore_index=True)
    return results.assign(series=series_of(results), condition=condition_of(results))


FULL = {"method": "full", "ipc": 0, "distribution": "", "pool_factor": 0}


def test_points_are_means_of_one_series_and_condition_each():
    results = named(runs([40, 50]), runs([60, 64], objective="paper"), runs([80], protocol="rded", label="S-R"))
    axes = accuracy.accuracy_by_method(results).axes
    assert [axis.get_title() for axis in axes] == ["ResNetAP-10, idc", "ResNetAP-10, rded"]
    means = [[x for container in axis.containers for x in container.lines[0].get_xdata()] for axis in axes]
    assert means == [[45, 62], [80]]
    [segments] = [bars.get_segments() for bars in axes[0].containers[0].lines[2]]
    half = stats.t.ppf(0.975, 1) * 5  # of two trainings, 40 and 50
    assert segments[0][:, 0].tolist() == pytest.approx([45 - half, 45 + half])
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["DGS (code)", "DGS (paper)"]
    low, high = axes[0].get_xlim()
    assert 35 < low < 40 < 64 < high < 70  # the runs are seen, from their own smallest to their own largest


def test_differences_are_points_with_the_intervals_of_the_comparisons():
    random = {"method": "random", "distribution": "", "pool_factor": 0}
    results = named(runs([60, 61, 63]), runs([58, 60, 61], **random), runs([20, 21, 24], method="k_center"),
                    runs([60], method="dit"), runs([60, 62, 63], ipc=20), runs([61, 62, 64], ipc=20, **random))
    found = compare_with_rivals(results, "DGS", ["Random", "K-Center", "DiT"])
    axes = differences.differences_to(found).axes
    assert [axis.get_title() for axis in axes] == ["ResNetAP-10, IPC 10", "ResNetAP-10, IPC 20"]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["Random", "K-Center", "DiT"]
    points = {line.get_ydata()[0]: line.get_xdata()[0] for line in axes[0].lines if line.get_marker() == "o"}
    assert points == pytest.approx({0: -5 / 3, 2: 0 - 0.0})
    spans = {tuple(line.get_xdata()) for line in axes[0].lines if len(line.get_xdata()) == 2}
    first = found.iloc[0]
    assert (-first["high"], -first["low"]) in spans
    assert [text.get_text() for text in axes[0].texts] == ["−40"]  # too far away for the scale of the others
    assert differences.differences_to(found.iloc[:0]) is None


def test_intervals_are_over_pools_and_end_at_100_percent():
    grid = rows(*[{"ipc": ipc, "pool_seed": pool, "training_seed": seed, "best": 60 + ipc / 2 + 8 * pool + seed}
                  for ipc in (10, 50) for pool in range(2) for seed in range(3)])
    [axis] = accuracy.accuracy_by_ipc(summarise(named(grid, runs([97, 99], **FULL)))).axes
    [container] = axis.containers
    (segments,) = [bars.get_segments() for bars in container.lines[2]]
    half = stats.t.ppf(0.975, 1) * 8 / 2  # deviation 8/√2 of two pool means, over √2
    for ipc, segment in zip((10, 50), segments, strict=True):
        mean = 60 + ipc / 2 + 4 + 1
        assert segment[:, 1].tolist() == pytest.approx([mean - half, min(mean + half, 100)])
    assert [line.get_ydata()[0] for line in axis.lines if len(set(line.get_ydata())) == 1][-1] == 98  # the full set
    assert axis.get_xticks().tolist() == [10, 50]


def test_lines_that_cross_every_ipc_stay_apart_and_in_the_frame():
    series = {f"m{place}": 50 + place / 10 for place in range(12)}
    grid = [runs([best, best + 1], method=name, ipc=ipc) for name, best in series.items() for ipc in (10, 50)]
    lonely = runs([10, 90], network="convnet6")  # one IPC: no panel, and no hand in the scale
    figure = accuracy.accuracy_by_ipc(summarise(named(*grid, lonely)))
    [axis] = figure.axes
    lines = [container.lines[0] for container in axis.containers]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 12
    assert len({line.get_xdata()[0] for line in lines}) == 12
    low, high = axis.get_ylim()
    assert 40 < low < 50
    assert 52 < high < 60
    [legend] = figure.legends
    figure.canvas.draw()
    assert legend.get_window_extent().x0 >= axis.get_window_extent().x1
    assert [text.get_text() for text in legend.get_texts()] == list(series)


@pytest.mark.parametrize("length", [20, 60, 110])
def test_long_names_of_series_leave_panels_their_width(length):
    names = [" ".join(["DGS", *(["judged"] * (length // 7)), str(number)]) for number in range(8)]
    grid = [runs([50, 51], method=name, ipc=ipc) for name in names for ipc in (10, 50)]
    lines = pd.DataFrame([{"source": "pool", "control": "random", "condition": "ConvNet-3", "rule": name, "ipc": ipc}
                          for name in names for ipc in (10, 50)]).assign(score="", difference=1.0, low=0.0, high=2.0)
    for figure in (accuracy.accuracy_by_ipc(summarise(named(*grid))), rules.rule_curves(lines, "ipc")):
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
                                                      high=2.0, margin=2.0)
    results = named(*[runs([50, 51], epoch_factor=factor) for factor in (0.00266667, 0.00533333, 0.0106667)])
    for figure in (differences.differences_to(shown), accuracy.accuracy_by_method(results)):
        figure.canvas.draw()
        titles = [axis.title.get_window_extent() for axis in figure.axes]
        assert len(titles) > 2
        assert not any(a.overlaps(b) for a, b in itertools.pairwise(titles))


def test_without_several_ipcs_there_is_nothing_to_plot_against_them():
    assert accuracy.accuracy_by_ipc(summarise(named(runs([40, 50]), runs([97], **FULL)))) is None


def test_many_series_have_room():
    many = named(*[runs([50, 60], method=f"m{place}", ipc=ipc) for place in range(20) for ipc in (10, 20)])
    figure = accuracy.accuracy_by_method(many)
    figure.canvas.draw()
    labels = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert not any(a.overlaps(b) for a, b in itertools.pairwise(labels))
    [legend] = figure.legends
    assert legend.get_window_extent().x0 >= figure.axes[-1].get_window_extent().x1


@pytest.mark.parametrize(("side", "grey"), [(8, 0), (300, 1)])
def test_a_contact_sheet_keeps_pixels_sharp_and_shrinks_without_aliasing(tmp_path, side, grey):
    # Shrunk by picking pixels, a checkerboard of single pixels would turn into stripes of black and white.
    board = (np.indices((side, side)).sum(0) % 2 * 255).astype(np.uint8)
    figure = sheets.contact_sheet({"": [board]}, cell=1.0)
    figure.savefig(tmp_path / "sheet.png")
    drawn = np.asarray(Image.open(tmp_path / "sheet.png").convert("L")).astype(int)
    scale = plt.rcParams["savefig.dpi"] / figure.dpi
    left, bottom, right, top = (int(edge * scale) for edge in figure.axes[0].images[0].get_window_extent().extents)
    assert right - left == pytest.approx(top - bottom, abs=2)  # as square as the image
    inside = drawn[::-1][bottom + 2:top - 2, left + 2:right - 2]
    assert ((inside > 30) & (inside < 225)).mean() == pytest.approx(grey, abs=0.1)
