"""RDED's crops: boxes as torchvision draws them, the choice by an independent loss, mosaics pixel by pixel."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from small_world import CLASSES, make_prepare, open_stage, small_classifier, write_digits

from dgs_utils.images.image_set import ImageSet
from dgs_utils.images.pixels import load_rgb
from dgs_utils.sample import read_source, report, select_images, write_set
from dgs_utils.selection import rded_crops

IPC = 4


@pytest.mark.parametrize(("width", "height"), [(40, 40), (64, 40), (30, 90)])
def test_boxes_are_squares_inside_the_image_of_the_asked_area(width, height):
    rng = np.random.default_rng(0)
    boxes = np.array([rded_crops.square_crop(width, height, rng) for _ in range(4000)])
    left, upper, right, lower = boxes.T
    side = right - left
    assert ((lower - upper) == side).all()
    assert ((left >= 0) & (upper >= 0) & (right <= width) & (lower <= height)).all()
    most = min(width, height) ** 2 / (width * height)  # a square cannot have more of an oblong image
    share = side**2 / (width * height)
    assert share.min() == pytest.approx(0.08, abs=0.01)
    assert share.mean() == pytest.approx((0.08 + most) / 2, abs=0.02)  # the area is uniform
    assert left.max() > 0.7 * (width - side.min())


def test_an_oblong_that_takes_no_square_gives_its_middle():
    assert rded_crops.square_crop(2000, 10, np.random.default_rng(0)) == (995, 0, 1005, 10)


@pytest.fixture
def stage(tmp_path, outputs):
    prepare = make_prepare(write_digits(tmp_path / "real", 0, 30))

    def open_crops(**values):
        return open_stage("05_sample", prepare=str(prepare), method="rded", **{"ipc": IPC} | values)
    return open_crops


def loss_of(pixels: np.ndarray, target: int) -> float:
    """Return the cross-entropy of one crop by hand: normalised, amid zeros, log-sum-exp of the logits."""
    scorer = small_classifier()
    canvas = np.zeros((3, 8, 8), dtype=np.float32)
    canvas[:, 2:6, 2:6] = (pixels.transpose(2, 0, 1) / 255 - 0.5) / 0.5
    logits = scorer.network(scorer.mean.new_tensor(canvas)[None])[0].double().numpy()
    return float(np.log(np.exp(logits).sum()) - logits[target])


def test_best_crops_make_the_mosaics(stage):
    run = stage()
    source = read_source(run)
    chosen = select_images(run, source)
    metadata = write_set(run, source, chosen)
    assert report(chosen, source)["images"].tolist() == [IPC] * 3
    assert len(ImageSet.read(run.folder)) == len(metadata) == 3 * IPC
    for label, name in enumerate(CLASSES):
        part = chosen[chosen["class"] == name]
        assert part["file_name"].is_unique  # one crop of an image at the most
        assert part["loss"].is_monotonic_increasing
        for image in range(IPC):
            mosaic = np.asarray(load_rgb(run.folder / "images" / name / f"{image}.png"))
            assert mosaic.shape == (8, 8, 3)
            for tile, row in enumerate(part.iloc[image::IPC].itertuples()):
                assert (row.image, row.tile) == (image, tile)
                real = load_rgb(source.images.root / row.file_name).crop((row.left, row.upper, row.right, row.lower))
                pixels = np.asarray(real.resize((4, 4), Image.Resampling.BILINEAR))
                up, left = 4 * (tile // 2), 4 * (tile % 2)
                np.testing.assert_array_equal(mosaic[up : up + 4, left : left + 4], pixels)
                assert row.loss == pytest.approx(loss_of(pixels, label), abs=1e-4)
    sources = metadata.set_index("file_name")["source"]
    assert sources["images/1/2.png"].split("|") == chosen[chosen["class"] == "1"]["file_name"].iloc[2::IPC].tolist()


def test_chosen_crops_are_easier_than_random_ones(stage):
    run = stage()
    source = read_source(run)
    chosen, rng = select_images(run, source), np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        files = source.images.of_class(name).paths
        boxes = [rded_crops.square_crop(8, 8, rng) for _ in files]
        others = [loss_of(rded_crops.resized_crop(load_rgb(file), box, 4), label)
                  for file, box in zip(files, boxes, strict=True)]
        assert chosen[chosen["class"] == name]["loss"].max() < np.median(others)


def test_same_seed_same_crops_whatever_the_number_of_threads(stage, monkeypatch):
    frames = [select_images(run, read_source(run)) for run in (stage(), stage(seed=1))]
    monkeypatch.setattr("dgs_utils.images.pixels.reader_threads", lambda workers: 1)
    run = stage()
    frames.insert(1, select_images(run, read_source(run)))
    pd.testing.assert_frame_equal(frames[0], frames[1])
    assert not frames[0].equals(frames[2])


def test_too_few_originals_are_named(stage):
    run = stage(ipc=8)
    with pytest.raises(ValueError, match=r"class 0 has 30 originals, and 2 × 2 crops for ipc 8 take 32; lower"):
        select_images(run, read_source(run))
