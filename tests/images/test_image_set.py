"""Image sets: classes and labels of folders, order, and pixels in table order."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torchvision
from image_files import index_folder, write_files, write_image

from dgs_utils.images.classes import read_classes
from dgs_utils.images.image_set import ImageSet, load_squares
from dgs_utils.images.imagefolder import find_images


def test_class_folders(tmp_path):
    for name in ("b/10.png", "b/9.PNG", "a/x.jpg", "a/2.jpeg", "a/10.webp", "10/1.bmp", "9/0.png"):
        write_image(tmp_path / name)
    (tmp_path / "a" / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "top.png").touch()
    notes = []
    images = ImageSet.read(tmp_path, warn=notes.append)
    assert notes == [f"{tmp_path}: 7 images used, 2 skipped (.txt 1, images outside class folders 1)",
                     f"1 folders of {tmp_path} contain no images and are not classes: empty"]
    assert len(images) == 7
    assert images.classes == ["10", "9", "a", "b"]  # in the order of characters, as torchvision's ImageFolder has it
    assert images.table["file_name"].tolist() == ["10/1.bmp", "9/0.png", "a/2.jpeg", "a/10.webp", "a/x.jpg", "b/9.PNG",
                                                  "b/10.png"]
    assert images.labels.tolist() == [0, 1, 2, 2, 2, 3, 3]
    assert images.labels.dtype == np.int64
    assert images.paths[0] == tmp_path / "10" / "1.bmp"


def test_given_classes_decide_labels_and_leave_out_the_rest(tmp_path):
    for name in ("a/0.png", "b/0.png", "c/0.png", "c/1.png"):
        write_image(tmp_path / name)
    images = ImageSet.read(tmp_path, classes=["c", "a"])
    assert images.classes == ["c", "a"]
    assert images.table[["class", "label"]].to_numpy().tolist() == [["c", 0], ["c", 0], ["a", 1]]
    with pytest.raises(ValueError, match=f"class d has no images in {tmp_path}, where classes are called a, b, c; add"):
        ImageSet.read(tmp_path, classes=["a", "d"])


def test_only_wanted_class_folders_are_listed(tmp_path):
    for name in ("a/0.png", "b/0.png", "c/0.png"):
        write_image(tmp_path / name)
    for wanted, found in ((["c", "a"], {"a", "c"}), (["c", "d"], {"c"}), ([], set("abc")), (None, set("abc"))):
        listing = find_images(tmp_path, wanted)
        assert listing.root == tmp_path
        assert set(listing.table["class"]) == found


def test_one_class_of_a_set(tmp_path):
    for name in ("a/0.png", "b/0.png", "b/1.png"):
        write_image(tmp_path / name)
    part = ImageSet.read(tmp_path).of_class("b")
    assert part.table["file_name"].tolist() == ["b/0.png", "b/1.png"]
    assert part.labels.tolist() == [1, 1]  # its label in the whole set
    assert part.table.index.tolist() == [0, 1]


def test_a_stage_00_folder(tmp_path):
    root = tmp_path / "images"
    for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png"):
        write_image(root / name)
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
    write_image(tmp_path / "flat.png")
    with pytest.raises(ValueError, match="holds 1 images without class folders and no list of their classes; it needs"):
        ImageSet.read(tmp_path)


def test_order_does_not_depend_on_the_file_system(tmp_path):
    names = [f"{c}/{i}.png" for c in "ab" for i in (1, 10, 2)] + ["a/01.png"]
    for folder, order in (("x", names), ("y", names[::-1])):
        for name in order:
            write_image(tmp_path / folder / name)
    tables = [ImageSet.read(tmp_path / folder).table for folder in "xy"]
    pd.testing.assert_frame_equal(*tables)


def test_squares_come_in_table_order(tmp_path):
    for i in range(30):
        write_image(tmp_path / f"c{i % 3}" / f"{i}.png", value=8 * i, size=(9 + i % 4, 9))
    images = ImageSet.read(tmp_path)
    squares = list(load_squares(images, 8, workers=3))
    assert [int(square[0, 0, 0]) // 8 for square in squares] == [int(path.stem) for path in images.paths]
    assert {(square.shape, square.dtype.name) for square in squares} == {((8, 8, 3), "uint8")}
    assert next(load_squares(images, 4, crop=lambda image, size: image.crop((0, 0, 1, size)))).shape == (4, 1, 3)


def test_a_image_that_vanished_is_named_while_loading(tmp_path):
    for i in range(3):
        write_image(tmp_path / "a" / f"{i}.png")
    images = ImageSet.read(tmp_path)
    shutil.move(tmp_path / "a" / "1.png", tmp_path / "gone.png")
    with pytest.raises(ValueError, match=f"{tmp_path}/a/1.png does not exist"):
        list(load_squares(images, 4))


def test_labels_are_those_of_other_tools(tmp_path):
    write_files(tmp_path, {f"{name}/1.png": 0 for name in [*map(str, range(11)), "nan", "NA", "Zebra", "ant"]})
    theirs = torchvision.datasets.ImageFolder(tmp_path)
    ours = ImageSet.read(tmp_path)
    assert ours.classes == theirs.classes
    assert ours.labels.tolist() == theirs.targets


@pytest.mark.parametrize("names", [["nan", "None", "NA", "null", "true", "1e5"], [str(i) for i in range(11)]])
def test_classes_that_look_like_something_else_stay_names(tmp_path, names):
    write_files(tmp_path / "set", {f"{name}/{i}.png": i for name in names for i in range(3)})
    table, _ = index_folder(tmp_path / "out", tmp_path / "set", split="holdout", val_per_class=1)
    assert set(table["class"]) == set(names)
    assert ImageSet.read(tmp_path / "out", "val").classes == sorted(names)
    rows = "".join(f"{name}/{i}.png,{name}\n" for name in names for i in range(3))
    write_files(tmp_path / "set", {"metadata.csv": f"file_name,class\n{rows}"})
    assert ImageSet.read(tmp_path / "set", warn=print).classes == sorted(names)
