"""Images: class tables against other sources, the centre crop against arithmetic, image folders of every kind."""

import json
import shutil
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dgs_utils.images.classes import read_classes
from dgs_utils.images.image_sets import ImageSet, load_squares
from dgs_utils.images.layouts import find_images
from dgs_utils.images.pixels import center_crop, load_rgb, map_files
from dgs_utils.images.tables import natural_key
from dgs_utils.params.subsets import SUBSETS

# [F §1.1]: ImageNet index and wnid in label order.
PUBLISHED = {
    "imagewoof": {193: "n02096294", 182: "n02093754", 258: "n02111889", 162: "n02088364", 155: "n02086240",
                  167: "n02089973", 159: "n02087394", 273: "n02115641", 207: "n02099601", 229: "n02105641"},
    "imagenette": {0: "n01440764", 217: "n02102040", 482: "n02979186", 491: "n03000684", 497: "n03028079",
                   566: "n03394916", 569: "n03417042", 571: "n03425413", 574: "n03445777", 701: "n03888257"},
    "imageidc": {452: "n02869837", 64: "n01749939", 374: "n02488291", 236: "n02107142", 993: "n13037406",
                 176: "n02091831", 882: "n04517823", 904: "n04589890", 503: "n03062245", 74: "n01773797"},
}


def image(path: Path, value: int = 0, size: tuple[int, int] = (4, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value,) * 3).save(path)
    return path


# ---- Class tables ----------------------------------------------------------------------------------------------------

def test_subsets_are_the_published_ones_in_label_order():
    found = {name: [(index, wnid) for wnid, index, _ in table] for name, table in SUBSETS.items()}
    assert found == {name: list(table.items()) for name, table in PUBLISHED.items()}


def test_subsets_agree_with_torchvision_s_class_names():
    names = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    for _, index, name in sum(SUBSETS.values(), []):  # noqa: RUF017
        theirs = names[index].lower()
        assert name.lower() in theirs or theirs in name.lower()


def test_indices_sort_as_their_wnids():
    """ImageNet's 1,000 classes are numbered in the order of their wnids."""
    table = sorted((wnid, index) for rows in SUBSETS.values() for wnid, index, _ in rows)
    indices = [index for _, index in table]
    assert indices == sorted(indices)
    assert len(set(indices)) == len(indices) == 30


# ---- Centre crop -----------------------------------------------------------------------------------------------------

def halve(pixels: np.ndarray) -> np.ndarray:
    """Average neighbours along the first side, which is even, and round half up."""
    return np.floor((pixels[0::2] + pixels[1::2]) / 2 + 0.5)


def plain_crop(image: Image.Image, size: int) -> np.ndarray:
    """Crop as [F §3.5] words it: halve (box), scale the shorter side (bicubic), cut the middle."""
    pixels = np.asarray(image).astype(float)
    while min(pixels.shape[:2]) >= 2 * size:
        pixels = halve(halve(pixels.swapaxes(0, 1)).swapaxes(0, 1))
    height, width = pixels.shape[:2]
    short = min(height, width)
    height, width = round(height * size / short), round(width * size / short)
    scaled = np.asarray(Image.fromarray(pixels.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC))
    top, left = (height - size) // 2, (width - size) // 2
    return scaled[top:top + size, left:left + size]


@pytest.mark.parametrize("size", [8, 17, 32])
@pytest.mark.parametrize("shape", [(32, 32), (64, 48), (48, 64), (128, 256), (256, 128), (20, 48), (300, 20), (8, 8),
                                   (4, 12), (12, 4), (256, 320), (36, 100)])
def test_center_crop_equals_arithmetic(shape, size):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape[::-1], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    found = np.asarray(center_crop(image, size)).astype(int)
    assert found.shape == (size, size, 3)
    assert np.abs(found - plain_crop(image, size)).max() <= 2  # Pillow rounds after each side, whichever comes first


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 200), height=st.integers(1, 200), size=st.integers(1, 48),
       mode=st.sampled_from(["RGB", "L"]))
def test_center_crop_of_any_size(width, height, size, mode):
    colour = (10, 120, 250) if mode == "RGB" else 77
    found = center_crop(Image.new(mode, (width, height), colour), size)
    assert found.size == (size, size)
    assert found.mode == mode
    assert found.getcolors() == [(size * size, colour)]


@settings(max_examples=40, deadline=None)
@given(short=st.integers(8, 70), longer=st.integers(1, 60), size=st.integers(4, 16), wide=st.booleans())
def test_center_crop_takes_the_middle(short, longer, size, wide):
    """Values are places along the longer side, so that the crop's mean is the middle, to a pixel of the result."""
    long = short + longer
    ramp = np.broadcast_to(np.arange(long, dtype=np.uint8), (short, long))
    found = np.asarray(center_crop(Image.fromarray(ramp if wide else ramp.T.copy()), size)).astype(float)
    found = found if wide else found.T
    assert found.mean() == pytest.approx((long - 1) / 2, abs=1.5 * short / size + 1)
    assert np.abs(found - found[:1]).max() <= 1
    span = found[0, -1] - found[0, 0]  # as much as the shorter side
    assert span == pytest.approx(short * (size - 1) / size, abs=2 * short / size + 1)


def test_a_image_of_the_right_size_is_left_alone():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(center_crop(Image.fromarray(pixels), 16)), pixels)
    wide = np.random.default_rng(0).integers(0, 256, (16, 21, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(center_crop(Image.fromarray(wide), 16)), wide[:, 2:18])


def test_center_crop_of_real_photographs(shared_data):
    with zipfile.ZipFile(shared_data / "imagewoof320-sample" / "sample.zip") as archive:
        for name in archive.namelist()[::12]:
            image = Image.open(archive.open(name)).convert("RGB")
            image = image.crop((0, 0, *(side // 4 * 4 for side in image.size)))  # halves evenly, twice
            for size in (256, 128, 64):
                found = np.asarray(center_crop(image, size)).astype(int)
                assert np.abs(found - plain_crop(image, size)).max() <= 2


def test_center_crop_needs_a_size():
    with pytest.raises(ValueError, match="size is 0; an image needs at least 1 pixel a side"):
        center_crop(Image.new("RGB", (4, 4)), 0)


# ---- Reading images ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1", "CMYK", "LA"])
def test_images_of_any_mode_are_read_as_rgb(tmp_path, mode):
    file = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new("RGB", (3, 2), (255, 255, 255)).convert(mode).save(file)
    found = load_rgb(file)
    assert (found.mode, found.size) == ("RGB", (3, 2))
    assert np.asarray(found).min() >= 250


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: b"no image", lambda data: data[:len(data) // 2]])
def test_unreadable_images_are_named(tmp_path, damage):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for name in ("a.png", "a.jpg"):
        Image.fromarray(pixels).save(tmp_path / name)
        (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
        with pytest.raises(ValueError, match=rf"{tmp_path / name} cannot be read as an image .*; replace or remove"):
            load_rgb(tmp_path / name)


def test_missing_images_are_named(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path}/a.png does not exist; restore the image or list"):
        load_rgb(tmp_path / "a.png")


# ---- Image sets ------------------------------------------------------------------------------------------------------

@settings(max_examples=60)
@given(st.lists(st.integers(0, 10**40), min_size=1, unique=True), st.sampled_from(["", "img_", "n01_"]))
def test_natural_order_is_that_of_the_numbers(numbers, prefix):
    names = [f"{prefix}{n}.png" for n in numbers]
    assert sorted(names, key=natural_key) == [f"{prefix}{n}.png" for n in sorted(numbers)]


@given(st.text(max_size=12), st.text(max_size=12))
def test_natural_order_never_ties(first, second):
    assert (natural_key(first) == natural_key(second)) == (first == second)


def test_class_folders(tmp_path):
    for name in ("b/10.png", "b/9.PNG", "a/x.jpg", "a/2.jpeg", "a/10.webp", "10/1.bmp", "9/0.png"):
        image(tmp_path / name)
    (tmp_path / "a" / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "top.png").touch()
    notes = []
    images = ImageSet.read(tmp_path, warn=notes.append)
    assert notes == [f"{tmp_path}: 7 images used, 2 skipped (.txt 1, images outside class folders 1)",
                     f"1 folders of {tmp_path} hold no images, and so are no classes: empty"]
    assert len(images) == 7
    assert images.classes == ["10", "9", "a", "b"]  # in the order of characters, as torchvision's ImageFolder has it
    assert images.table["file_name"].tolist() == ["10/1.bmp", "9/0.png", "a/2.jpeg", "a/10.webp", "a/x.jpg", "b/9.PNG",
                                                  "b/10.png"]
    assert images.labels.tolist() == [0, 1, 2, 2, 2, 3, 3]
    assert images.labels.dtype == np.int64
    assert images.paths[0] == tmp_path / "10" / "1.bmp"


def test_given_classes_decide_labels_and_leave_out_the_rest(tmp_path):
    for name in ("a/0.png", "b/0.png", "c/0.png", "c/1.png"):
        image(tmp_path / name)
    images = ImageSet.read(tmp_path, classes=["c", "a"])
    assert images.classes == ["c", "a"]
    assert images.table[["class", "label"]].to_numpy().tolist() == [["c", 0], ["c", 0], ["a", 1]]
    with pytest.raises(ValueError, match=f"class d has no images in {tmp_path}, where classes are called a, b, c; add"):
        ImageSet.read(tmp_path, classes=["a", "d"])


def test_only_wanted_class_folders_are_listed(tmp_path):
    for name in ("a/0.png", "b/0.png", "c/0.png"):
        image(tmp_path / name)
    for wanted, found in ((["c", "a"], {"a", "c"}), (["c", "d"], {"c"}), ([], set("abc")), (None, set("abc"))):
        listing = find_images(tmp_path, wanted)
        assert listing.root == tmp_path
        assert set(listing.table["class"]) == found


def test_one_class_of_a_set(tmp_path):
    for name in ("a/0.png", "b/0.png", "b/1.png"):
        image(tmp_path / name)
    part = ImageSet.read(tmp_path).of_class("b")
    assert part.table["file_name"].tolist() == ["b/0.png", "b/1.png"]
    assert part.labels.tolist() == [1, 1]  # its label in the whole set
    assert part.table.index.tolist() == [0, 1]


def write_listing(folder: Path, kind: str, rows: list[dict]) -> None:
    """Write a list of images and the images."""
    for row in rows:
        image(folder / row.get("file_name", "a.png"))
    if kind == "metadata.csv":
        pd.DataFrame(rows).to_csv(folder / kind, index=False)
    else:
        (folder / kind).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("kind", ["metadata.csv", "metadata.jsonl"])
@pytest.mark.parametrize(("rows", "names", "labels"), [
    # a column class, whose labels are kept
    ([{"file_name": "x/2.png", "class": "b", "label": 0}, {"file_name": "x/1.png", "class": "a", "label": 1}],
     ["b", "a"], [0, 1]),
    # a column class without labels
    ([{"file_name": "2.png", "class": "007"}, {"file_name": "1.png", "class": "0010"}], ["0010", "007"], [0, 1]),
    # the class as the label's text
    ([{"file_name": "2.png", "label": "cat"}, {"file_name": "1.png", "label": "ant"}], ["ant", "cat"], [0, 1]),
    # the class as the file's folder
    ([{"file_name": "images/b/2.png"}, {"file_name": "images/a/1.png"}], ["a", "b"], [0, 1]),
    # the class as the file's folder, in the order of the labels, whatever these count
    ([{"file_name": "b/2.png", "label": 0}, {"file_name": "a/1.png", "label": 1}], ["b", "a"], [0, 1]),
    ([{"file_name": "b/2.png", "label": 193}, {"file_name": "a/1.png", "label": 207}], ["b", "a"], [0, 1]),
    # labels that go across folders
    ([{"file_name": "part1/2.png", "label": 3}, {"file_name": "part2/1.png", "label": 3},
      {"file_name": "part2/3.png", "label": 10}], ["3", "10"], [0, 0, 1]),
    ([{"file_name": "part1/2.png", "label": 3}, {"file_name": "part2/1.png", "label": 3}], ["3"], [0, 0]),
    # numbers alone
    ([{"file_name": "2.png", "label": 0}, {"file_name": "1.png", "label": 1}], ["0", "1"], [0, 1]),
    # numbers, and a folder that says nothing about the class
    ([{"file_name": "train/2.png", "label": 1}, {"file_name": "train/1.png", "label": 0}], ["0", "1"], [0, 1]),
])
def test_hugging_face_folders(tmp_path, kind, rows, names, labels):
    write_listing(tmp_path, kind, rows)
    images = ImageSet.read(tmp_path)
    assert images.classes == names
    assert images.labels.tolist() == labels
    expected = {row["file_name"]: str(row.get("class", row["file_name"])) for row in rows}
    assert set(images.table["file_name"]) == set(expected)
    if "class" in rows[0]:
        assert {row["file_name"]: row["class"] for row in images.table.to_dict("records")} == expected


def test_further_columns_are_kept(tmp_path):
    write_listing(tmp_path, "metadata.csv", [{"file_name": "a/1.png", "class": "a", "score": 0.25, "seed": 3}])
    assert ImageSet.read(tmp_path).table[["score", "seed"]].to_numpy().tolist() == [[0.25, 3]]


def test_class_names_that_look_like_missing_values_are_names(tmp_path):
    write_listing(tmp_path, "metadata.csv", [{"file_name": "1.png", "class": "null"},
                                             {"file_name": "2.png", "class": "nan"}])
    assert ImageSet.read(tmp_path).classes == ["nan", "null"]


@pytest.mark.parametrize("kind", ["metadata.csv", "metadata.jsonl"])
def test_listings_without_the_needed_columns(tmp_path, kind):
    write_listing(tmp_path, kind, [{"name": "a.png", "class": "a"}])
    with pytest.raises(ValueError, match=f"{tmp_path}/{kind} has no column file_name, but .*; add one"):
        ImageSet.read(tmp_path)
    write_listing(tmp_path, kind, [{"file_name": "a.png", "score": 1}])
    with pytest.raises(ValueError, match=f"{tmp_path}/{kind} tells no class: add a column class, or put the images"):
        ImageSet.read(tmp_path)


def test_a_stage_00_folder(tmp_path):
    root = tmp_path / "images"
    for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png"):
        image(root / name)
    prepare = tmp_path / "00"
    prepare.mkdir()
    pd.DataFrame({"file_name": ["b/0.png", "a/1.png", "a/0.png", "b/1.png"], "split": ["train", "val", "train", "val"],
                  "class": ["b", "a", "a", "b"], "label": [0, 1, 1, 0]}).to_csv(prepare / "originals.csv", index=False)
    pd.DataFrame({"label": [0, 1], "class": ["b", "a"], "index": [5, 7], "condition": [5, 7],
                  "name": ["bee", "ant"]}).to_csv(prepare / "classes.csv", index=False)
    for where in (str(root), "../images"):
        (prepare / "dataset.json").write_text(json.dumps({"root": where}))
        train, val, both = (ImageSet.read(prepare, split) for split in ("train", "val", ""))
        assert train.table["file_name"].tolist() == ["b/0.png", "a/0.png"]
        assert val.table["file_name"].tolist() == ["b/1.png", "a/1.png"]
        assert both.classes == ["b", "a"]
        assert both.labels.tolist() == [0, 0, 1, 1]
        assert all(path.exists() for path in both.paths)
    assert read_classes(prepare)["class"].tolist() == ["b", "a"]
    assert ImageSet.read(prepare, "val", classes=["a"]).labels.tolist() == [0]
    with pytest.raises(ValueError, match=f"{prepare} holds no images of split test"):
        ImageSet.read(prepare, "test")


def test_folders_without_images(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path} holds no images; it needs one folder of images per class, train"):
        ImageSet.read(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path}/none is not a folder; give the folder that holds one sub-folder"):
        ImageSet.read(tmp_path / "none")
    image(tmp_path / "flat.png")
    with pytest.raises(ValueError, match="holds 1 images without class folders and no list of their classes; it needs"):
        ImageSet.read(tmp_path)


def test_order_does_not_depend_on_the_file_system(tmp_path):
    names = [f"{c}/{i}.png" for c in "ab" for i in (1, 10, 2)] + ["a/01.png"]
    for folder, order in (("x", names), ("y", names[::-1])):
        for name in order:
            image(tmp_path / folder / name)
    tables = [ImageSet.read(tmp_path / folder).table for folder in "xy"]
    pd.testing.assert_frame_equal(*tables)


# ---- Loading ---------------------------------------------------------------------------------------------------------

def test_squares_come_in_table_order(tmp_path):
    for i in range(30):
        image(tmp_path / f"c{i % 3}" / f"{i}.png", value=8 * i, size=(9 + i % 4, 9))
    images = ImageSet.read(tmp_path)
    squares = list(load_squares(images, 8, workers=3))
    assert [int(square[0, 0, 0]) // 8 for square in squares] == [int(path.stem) for path in images.paths]
    assert {(square.shape, square.dtype.name) for square in squares} == {((8, 8, 3), "uint8")}
    assert next(load_squares(images, 4, crop=lambda image, size: image.crop((0, 0, 1, size)))).shape == (4, 1, 3)


@settings(max_examples=20, deadline=None)
@given(items=st.lists(st.integers(), max_size=40), workers=st.integers(1, 4))
def test_map_files_keeps_the_order(items, workers):
    assert list(map_files(lambda x: 2 * x, iter(items), workers)) == [2 * x for x in items]


def test_map_files_never_runs_far_ahead():
    started, lock = [], threading.Lock()

    def note(item):
        with lock:
            started.append(item)
        return item

    results = map_files(note, range(1000), workers=2)
    for _ in range(5):
        next(results)
    time.sleep(0.05)
    assert len(started) <= 5 + 4 * 2 + 2
    results.close()


def test_map_files_hands_errors_on():
    def fail(item):
        if item == 3:
            raise ValueError("the fourth")
        return item

    results = map_files(fail, range(10), workers=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="the fourth"):
        next(results)


def test_a_image_that_vanished_is_named_while_loading(tmp_path):
    for i in range(3):
        image(tmp_path / "a" / f"{i}.png")
    images = ImageSet.read(tmp_path)
    shutil.move(tmp_path / "a" / "1.png", tmp_path / "gone.png")
    with pytest.raises(ValueError, match=f"{tmp_path}/a/1.png does not exist"):
        list(load_squares(images, 4))
