"""Contact sheets and galleries show the images they are given, in order."""

import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dgs_utils import plots
from dgs_utils.plots import contact_sheets


def captions(figure):
    return [text.get_text() for text in figure.axes[0].texts if text.get_text() != "row"]


def test_gallery_goes_from_easiest_to_hardest(images):
    figure = plots.gallery({"row": images}, columns=5)
    places = [image.get_extent()[0] for image in figure.axes[0].images]
    assert places == sorted(places)
    shown = [image.get_array()[0, 0, 0] / 10 for image in figure.axes[0].images]
    order = np.argsort(images["score"].to_numpy())
    assert shown == [order[i] for i in (0, 5, 10, 14, 19)]
    assert captions(figure) == [".00", ".25", ".50", ".70", ".95"]


def test_mistakes_are_the_hardest_first(images):
    figure = plots.gallery({"row": images.assign(text="a → b")}, columns=3, hardest=True)
    assert captions(figure) == ["a → b\n.95", "a → b\n.90", "a → b\n.85"]


def test_a_gallery_of_a_set_goes_from_easy_to_hard_and_does_without_scores(images):
    table = pd.DataFrame({"file_name": [path.name for path in images["path"][:3]], "score": [0.3, 0.1, 0.2]})
    folder = images["path"][0].parent
    scored = plots.scored_images(table, folder)
    assert scored["path"].tolist() == images["path"][:3].tolist()
    figure = plots.gallery({"row": scored})
    assert captions(figure) == [".10", ".20", ".30"]
    assert figure.get_supxlabel() == "below each image: its difficulty"  # one generator, or none named
    plain = plots.gallery({"row": plots.scored_images(table.drop(columns="score"), folder)})
    assert captions(plain) == []
    assert [image.get_array()[0, 0, 0] for image in plain.axes[0].images] == [0, 10, 20]


def test_the_slider_begins_with_the_row_of_the_widest_range(images, monkeypatch):
    rows = {"narrow": images[images["score"].between(0.4, 0.6)], "wide": images}
    row, difficulty, _ = plots.gallery_slider(rows, columns=3).children
    assert (row.value, difficulty.value) == ("wide", 0.5)
    monkeypatch.setenv("DGS_BATCH", "1")
    monkeypatch.setitem(sys.modules, "ipywidgets", None)  # importing it would fail
    assert plots.gallery_slider(rows, columns=3) is None
    figure = plt.figure(plt.get_fignums()[-1])
    assert sorted(text.get_text() for text in figure.axes[0].texts) == [".45", ".50", ".55", "wide"]


def test_mistakes_and_rules_are_named_in_words_or_not_drawn(images, capsys):
    shown = images.assign(**{"class": "n01", "name": "tench", "set": "pool", "text": "tench → eel"})
    wrong = shown["path"].isin(shown["path"][3:5])
    figure = plots.hardest_mistakes(shown.assign(correct=~wrong))
    assert [text.get_text() for text in figure.axes[0].texts][-1] == "tench, pool"
    assert len(figure.axes[0].images) == 2
    assert plots.hardest_mistakes(shown.assign(correct=True)) is None
    assert plots.hardest_mistakes(shown) is None
    table = shown.assign(file_name=[path.name for path in shown["path"]])
    strips = plots.rule_strips({"DGS": table[:2], "Random": table[2:4]}, table["path"][0].parent, {"n01": "tench"})
    assert strips.get_suptitle() == "class tench"
    assert plots.rule_strips({}, table["path"][0].parent) is None
    assert capsys.readouterr().out.count("\n") == 3

pytestmark = pytest.mark.usefixtures("styled")


@pytest.mark.parametrize(("side", "grey"), [(8, 0), (300, 1)])
def test_a_contact_sheet_keeps_pixels_sharp_and_shrinks_without_aliasing(tmp_path, side, grey):
    # Shrunk by picking pixels, a checkerboard of single pixels would turn into stripes of black and white.
    board = (np.indices((side, side)).sum(0) % 2 * 255).astype(np.uint8)
    figure = contact_sheets.contact_sheet({"": [board]}, cell=1.0)
    figure.savefig(tmp_path / "sheet.png")
    drawn = np.asarray(Image.open(tmp_path / "sheet.png").convert("L")).astype(int)
    scale = plt.rcParams["savefig.dpi"] / figure.dpi
    left, bottom, right, top = (int(edge * scale) for edge in figure.axes[0].images[0].get_window_extent().extents)
    assert right - left == pytest.approx(top - bottom, abs=2)  # as square as the image
    inside = drawn[::-1][bottom + 2:top - 2, left + 2:right - 2]
    assert ((inside > 30) & (inside < 225)).mean() == pytest.approx(grey, abs=0.1)
