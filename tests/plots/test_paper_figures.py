"""The paper's four figures show the numbers they are given."""

import numpy as np
import pandas as pd
import pytest
from drawn import bars

from dgs_utils import plots
from dgs_utils.selection.score_tables import sampling_panels
from dgs_utils.selection.targets import predefined_counts


def test_figure_2_counts_and_names_the_mean():
    scores = pd.DataFrame(np.random.default_rng(0).random((120, 2)), columns=["score", "transformed"])
    panels = sampling_panels(scores.assign(**{"class": "n1", "set": ["original", "pool"] * 60}), {"n1": "a"}, 10)["a"]
    figure = plots.figure2({"a": panels, "b": panels}, 10)
    assert [part.get_suptitle() for part in figure.subfigs] == ["class a", "class b"]
    assert {part.get_supxlabel() for part in figure.subfigs} == {"difficulty, from easy (0) to hard (1)"}
    for part in figure.subfigs:
        assert [axis.get_ylabel() for axis in part.axes] == ["images per bin", "", ""] * 2
        shown = [(which, values) for sets in panels.values() for which, values in sets.items()]
        for axis, (which, values) in zip(part.axes, shown, strict=True):
            assert bars(axis) == np.histogram(values, bins=10, range=(0, 1))[0].tolist()
            told = "distilled, IPC 10" if which == "distilled" else f"{which}, 60 images"
            assert axis.get_title() == f"{told}\nmean {values.mean():.2f}"
            assert all(tick == round(tick) for tick in axis.get_yticks())
    assert [text.get_text() for axis in figure.subfigs[0].axes for text in axis.texts] == list(panels)


@pytest.mark.parametrize(("few", "share", "shared"), [(40, "auto", True), (2, "auto", False), (2, "on", True),
                                                      (40, "off", False)])
def test_panels_of_a_class_share_their_scale_where_all_can_be_read(few, share, shared):
    many = np.linspace(0, 0.09, 100)  # all in one interval
    panels = {row: {"original": many, "pool": many, "distilled": many[:few]} for row in ("without", "with")}
    [part] = plots.figure2({"a": panels}, few, share=share).subfigs
    assert (len({axis.get_ylim() for axis in part.axes}) == 1) == shared


def test_figure_3_has_columns_of_one_difficulty_blank_where_a_set_has_no_image(images):
    scores = images["score"]
    rows = {"a": images, "b": images[scores < 0.5], "c": images[scores >= 0.25]}
    figure = plots.figure3(rows, columns=4, depth=1)
    [axis] = figure.axes
    number = {p: score for p, score in zip(range(20), scores, strict=True)}
    columns, lines = {}, {}
    for image in axis.images:
        left, _, bottom, _ = image.get_extent()
        score = number[int(image.get_array()[0, 0, 0]) // 10]
        columns.setdefault(int(left), []).append(score)
        lines.setdefault(int(bottom // 1.35), []).append(int(left))
    heads = [text.get_text().split("\n– ") for text in axis.texts if "\n– " in text.get_text()]
    assert len(heads) == 4
    for column, found in columns.items():
        low, high = map(float, heads[column])
        assert all(low - 0.01 <= score <= high + 0.01 for score in found)
    assert lines == {0: [0, 1, 2, 3], 1: [0, 1, 2], 2: [1, 2, 3]}  # blank where b is never so hard, nor c so easy
    told = [text.get_text() for text in axis.texts if text.get_text().startswith("0.") and "–" not in text.get_text()]
    assert sorted(map(float, told)) == sorted(score for found in columns.values() for score in found)


def test_figure_1_draws_the_boxes_that_a_run_has():
    texts = {"Original data": "9 images", "Image pool": "5 images", "Distilled set": "2 images", "Sampling": "scale"}
    [axis] = plots.figure1(texts).axes
    written = [text.get_text() for text in axis.texts]
    assert {*texts, *texts.values(), "whole process", "pool", "sampling"} <= set(written)
    assert "Fine-tuning" not in written
    assert sum(hasattr(text, "arrow_patch") for text in axis.texts) == 3  # among the four


def test_figure_4_shows_the_tables(styled):
    counts = {name: {ipc: predefined_counts(name, ipc) for ipc in (10, 20)} for name in ("hill", "cliff")}
    figure = plots.figure4(counts)
    assert [bars(axis) for axis in figure.axes] == [
        predefined_counts(name, ipc).tolist() for ipc in (10, 20) for name in ("hill", "cliff")]
    assert [axis.get_title() for axis in figure.axes] == ["Hill, IPC 10", "Cliff, IPC 10", "Hill, IPC 20",
                                                          "Cliff, IPC 20"]
    assert [axis.get_xlabel() for axis in figure.axes] == ["", ""] + ["difficulty bin\n(from easy to hard)"] * 2
    assert [axis.get_ylabel() for axis in figure.axes] == ["images\nper bin", ""] * 2
    figure.draw_without_rendering()
    assert min(axis.xaxis.label.get_window_extent().y0 for axis in figure.axes[2:]) > 3  # pixels above the edge
