"""Figures of accuracy: what is averaged, and what the intervals are."""

import itertools

import numpy as np
import pytest
from drawn import intervals_of, points_of
from result_rows import named, rows, runs
from scipy import stats

from dgs_utils.plots import accuracy
from dgs_utils.results.summaries import summarise

pytestmark = pytest.mark.usefixtures("styled")


FULL = {"method": "full", "ipc": 0, "distribution": "", "pool_factor": 0}


def test_points_are_means_of_one_series_and_condition_each():
    results = named(runs([40, 50]), runs([60, 64], objective="paper"), runs([80], protocol="rded", label="S-R"))
    figure = accuracy.accuracy_by_method(results)
    axes = figure.axes
    assert [axis.get_title() for axis in axes] == ["ResNetAP-10, idc, IPC 10", "ResNetAP-10, rded, IPC 10"]
    assert figure.get_suptitle() == "ImageWoof: accuracy of students on real images"
    assert [points_of(axis) for axis in axes] == [[45, 62], [80]]
    half = stats.t.ppf(0.975, 1) * 5  # of two trainings, 40 and 50
    assert [pytest.approx([max(45 - half, 0), min(45 + half, 100)])] == intervals_of(axes[0])[:1]
    dots = [x for line in axes[0].lines if line.get_marker() == "." for x in line.get_xdata()]
    assert sorted(dots) == [40, 50, 60, 64]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["DGS (code)", "DGS (paper)"]
    low, high = axes[0].get_xlim()
    assert 35 < low < 40 < 64 < high < 70  # the runs are seen, from their own smallest to their own largest


def test_intervals_are_over_pools_and_end_at_100_percent():
    grid = rows(*[{"ipc": ipc, "pool_seed": pool, "training_seed": seed, "best": 60 + ipc / 2 + 8 * pool + seed}
                  for ipc in (10, 50) for pool in range(2) for seed in range(3)])
    [axis] = accuracy.accuracy_by_ipc(summarise(named(grid, runs([97, 99], **FULL)))).axes
    half = stats.t.ppf(0.975, 1) * 8 / 2  # deviation 8/√2 of two pool means, over √2
    upright = [line.get_ydata() for line in axis.lines if len(line.get_xdata()) == 2 and np.ptp(line.get_xdata()) == 0]
    for ipc, ends in zip((10, 50), upright, strict=True):
        mean = 60 + ipc / 2 + 4 + 1
        assert sorted(ends) == pytest.approx([mean - half, min(mean + half, 100)])
    assert [line.get_ydata()[0] for line in axis.lines if len(set(line.get_ydata())) == 1][-1] == 98  # the full set
    assert [label.get_text() for label in axis.get_xticklabels()] == ["10", "50"]


def test_lines_that_cross_every_ipc_stay_apart_and_in_the_frame():
    series = {f"m{place}": 50 + place / 10 for place in range(12)}
    grid = [runs([best, best + 1], method=name, ipc=ipc) for name, best in series.items() for ipc in (10, 50)]
    lonely = runs([10, 90], network="convnet6")  # one IPC: no panel, and no hand in the scale
    figure = accuracy.accuracy_by_ipc(summarise(named(*grid, lonely)))
    [axis] = figure.axes
    lines = [line for line in axis.lines if line.get_marker() in tuple("osD^") and len(line.get_xdata()) == 2]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 12
    assert len({line.get_xdata()[0] for line in lines}) == 12
    low, high = axis.get_ylim()
    assert 40 < low < 50
    assert 52 < high < 60
    [legend] = figure.legends
    figure.canvas.draw()
    assert legend.get_window_extent().x0 >= axis.get_window_extent().x1
    assert [text.get_text() for text in legend.get_texts()] == list(series)


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
