"""The index of stage 00: class tables of any data set, missing roots, and images that cannot be used."""

import json
from pathlib import Path

import pandas as pd
import pytest
from image_files import index_folder, index_table, link_image, write_classes, write_files, write_images
from PIL import Image

from dgs_utils.images.image_set import ImageSet
from dgs_utils.images.prepare_dataset import index_originals
from dgs_utils.params import validate
from dgs_utils.params.subsets import SUBSETS

WOOF = [row[0] for row in SUBSETS["imagewoof"]]


NETTE = [row[0] for row in SUBSETS["imagenette"]]


def classes_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "classes.csv", dtype={"class": str, "name": str})


def test_subsets_have_their_published_labels_and_indices(tmp_path):
    write_images(tmp_path / "x", *[f"train/{w}/{w}_1.JPEG" for w in reversed(WOOF)], "train/n99999999/1.JPEG",
         *[f"train/{w}/ILSVRC2012_val_1.JPEG" for w in WOOF])
    values = {"dataset": "imagewoof", "split": "imagenet", "root": str(tmp_path / "x"), "base_model": "x.pt",
              "classifier_weights": "IMAGENET1K_V1"}
    (tmp_path / "out").mkdir()
    assert len(index_originals(validate("00_prepare", values), tmp_path / "out")) == 1
    classes = classes_of(tmp_path / "out")
    assert classes["label"].tolist() == list(range(10))
    assert [tuple(row) for row in classes[["class", "index", "name"]].to_numpy()] == SUBSETS["imagewoof"]
    assert classes["condition"].tolist() == classes["index"].tolist()
    assert set(ImageSet.read(tmp_path / "out").classes) == set(WOOF)  # the foreign class is left out
    for model, expected in (("none", list(range(10))), ("train", list(range(10)))):
        index_originals(validate("00_prepare", {**values, "base_model": model}), tmp_path / "out")
        assert classes_of(tmp_path / "out")["condition"].tolist() == expected


def test_some_classes_of_a_subset_keep_their_order(tmp_path):
    write_images(tmp_path / "x", *[f"train/{w}/{i}.JPEG" for w in NETTE for i in range(2)])
    values = {"dataset": "imagenette", "val_per_class": 1, "root": str(tmp_path / "x")}
    table = index_table(tmp_path / "out", classes=[NETTE[5], NETTE[2]], **values)
    assert classes_of(tmp_path / "out")["class"].tolist() == [NETTE[2], NETTE[5]]
    assert table.groupby("class")["label"].unique().to_dict() == {NETTE[2]: [0], NETTE[5]: [1]}
    with pytest.raises(ValueError, match=rf"prepare.classes names {WOOF[0]}, which is no class of imagenette; its"):
        index_table(tmp_path / "out", classes=[WOOF[0]], **values)
    write_images(tmp_path / "y", f"{NETTE[0]}/1.JPEG", "z/1.JPEG")
    with pytest.raises(ValueError, match=rf"class {NETTE[1]} has no images in {tmp_path}/y, where"):
        index_table(tmp_path / "out", **{**values, "root": str(tmp_path / "y")})


def test_a_bound_takes_the_first_images_of_each_class_and_split(tmp_path):
    write_images(tmp_path / "x", *[f"{split}/{name}/{i}.png" for split in ("train", "val") for name in "ab"
                                   for i in (10, 9, 8)[: 3 if split == "train" else 1]])
    values = {"dataset": "folder", "split": "given", "root": str(tmp_path / "x")}
    every = index_table(tmp_path / "out", **values)
    assert "available" not in json.loads((tmp_path / "out" / "dataset.json").read_text())
    few = index_table(tmp_path / "out", images_per_class=2, **values)
    assert set(few["file_name"]) < set(every["file_name"])
    assert [Path(name).name for name in few.query("split == 'train' and `class` == 'b'")["file_name"]] == [
        "8.png", "9.png"]  # natural order
    assert few["split"].value_counts().to_dict() == {"train": 4, "val": 2}
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["available"] == {"train": 6, "val": 2}
    plain, bound = (validate("00_prepare", values | more) for more in ({}, {"images_per_class": 2}))
    assert bound.cache_params() == plain.cache_params() | {"images_per_class": 2}  # without a bound, keys are as before


def test_given_classes_decide_the_order_of_any_other_set(tmp_path):
    write_classes(tmp_path / "x", classes=("1", "2", "10"))
    index_table(tmp_path / "out", dataset="folder", root=str(tmp_path / "x"), val_per_class=1)
    assert classes_of(tmp_path / "out")["class"].tolist() == ["1", "10", "2"]  # as other tools count them
    table = index_table(tmp_path / "out", dataset="folder", root=str(tmp_path / "x"), val_per_class=1,
                        classes=["10", "1"])
    assert table.groupby("class")["label"].first().to_dict() == {"10": 0, "1": 1}
    with pytest.raises(ValueError, match=r"class x has no images in .*; add some, rename one, or leave"):
        index_table(tmp_path / "out", dataset="folder", root=str(tmp_path / "x"), classes=["x"])
    with pytest.raises(ValueError, match=r"prepare.classes names a class twice: 1, 1"):
        index_table(tmp_path / "out", dataset="folder", root=str(tmp_path / "x"), classes=["1", "1"])


def imagenet_root(root: Path, wnids: list[str], val: int = 50) -> Path:
    """Lay out a root as ImageNet's, with two training images a class."""
    return link_image(root, [name for wnid in wnids for name in [
        *(f"train/{wnid}/{wnid}_{i}.JPEG" for i in range(2)),
        *(f"val/{wnid}/ILSVRC2012_val_{i:08}.JPEG" for i in range(val))]])


def test_any_subset_from_an_imagenet_root(tmp_path):
    subsets = {name: [row[0] for row in SUBSETS[name]] for name in ("imagewoof", "imagenette", "imageidc")}
    root = imagenet_root(tmp_path / "imagenet", [*sum(subsets.values(), []), "n00000001"])  # noqa: RUF017
    values = {"split": "imagenet", "root": str(root), "classifier_weights": "IMAGENET1K_V1", "base_model": "x.pt"}
    for name, wnids in subsets.items():
        (tmp_path / name).mkdir()
        warnings = index_originals(validate("00_prepare", {"dataset": name, **values}), tmp_path / name)
        assert len(warnings) == (name != "imageidc")  # whose train counts are not published
        classes = classes_of(tmp_path / name)
        assert classes["class"].tolist() == wnids
        assert classes["condition"].tolist() == classes["index"].tolist() == [row[1] for row in SUBSETS[name]]
        table = pd.read_csv(tmp_path / name / "originals.csv")
        assert table.groupby(["label", "split"]).size().tolist() == [2, 50] * 10
        assert table["file_name"].str.startswith(("train/", "val/")).all()
    (root / "val" / subsets["imageidc"][3] / "ILSVRC2012_val_00000000.JPEG").unlink()
    [warning] = index_originals(validate("00_prepare", {"dataset": "imageidc", **values}), tmp_path / "imageidc")
    assert warning == ("imageidc with split 'imagenet' has 20 train and 499 val images here, unknown train and 500 "
                       "val in the published protocol; the first class that differs is n02107142, with 2 train and 49 "
                       "val here and unknown train and 50 val there")


def test_all_of_imagenet_and_its_hundred_from_an_imagenet_root(tmp_path):
    root = imagenet_root(tmp_path / "imagenet", [row[0] for row in SUBSETS["imagenet1k"]], val=1)
    values = {"split": "imagenet", "root": str(root), "classifier_weights": "IMAGENET1K_V1", "base_model": "x.pt"}
    for name in ("imagenet100", "imagenet1k"):
        (tmp_path / name).mkdir()
        [warning] = index_originals(validate("00_prepare", {"dataset": name, **values}), tmp_path / name)
        count = len(SUBSETS[name])
        assert f"has {2 * count} train and {count} val images here, unknown train and {50 * count} val in" in warning
        classes = classes_of(tmp_path / name)
        assert list(classes[["class", "index", "name"]].itertuples(index=False, name=None)) == SUBSETS[name]
        assert classes["condition"].tolist() == classes["index"].tolist()


def test_any_wnids_from_an_imagenet_root(tmp_path):
    wnids = ["n00000003", WOOF[2], "n00000001"]
    root = imagenet_root(tmp_path / "imagenet", [*wnids, "n00000002"])
    (tmp_path / "index.csv").write_text("class,index,condition\nn00000001,900,900\nn00000003,7,7\n")
    values = {"dataset": "folder", "root": str(root), "classes": wnids, "classifier_weights": "IMAGENET1K_V1",
              "base_model": "x.pt", "class_index": str(tmp_path / "index.csv")}
    for split in ("imagenet", "given"):
        table = index_table(tmp_path / "out", split=split, **values)
        assert table.groupby(["class", "split"]).size().to_dict() == {
            (wnid, part): n for wnid in wnids for part, n in (("train", 2), ("val", 50))}
        classes = classes_of(tmp_path / "out")
        assert classes["class"].tolist() == wnids
        assert classes["index"].tolist() == classes["condition"].tolist() == [7, 258, 900]  # one of them known
    with pytest.raises(ValueError, match=r"class n00000002 is not known by its name to .* IMAGENET1K_V1, which has"):
        index_table(tmp_path / "out", **{**values, "classes": ["n00000002"]}, split="given")


def test_indices_of_other_classes_come_from_a_file(tmp_path):
    values = {"dataset": "folder", "root": str(write_classes(tmp_path / "x")), "val_per_class": 1,
              "classifier_weights": "IMAGENET1K_V1"}
    with pytest.raises(ValueError, match=r"class a is not known by its name to .*; give its index there in prepare"):
        index_table(tmp_path / "out", **values)
    file = tmp_path / "index.csv"
    with pytest.raises(ValueError, match=rf"prepare.class_index is {file}, which does not exist; give a CSV"):
        index_table(tmp_path / "out", class_index=str(file), **values)
    file.write_text("name,index\na,3\n")
    with pytest.raises(ValueError, match=f"{file} has the columns name, index; it needs class and index \\(the output"):
        index_table(tmp_path / "out", class_index=str(file), **values)
    file.write_text("class,index\nb,7\na,3\n")
    index_table(tmp_path / "out", class_index=str(file), **values)
    classes = classes_of(tmp_path / "out")
    assert classes["index"].tolist() == [3, 7]
    assert classes["condition"].tolist() == [0, 1]  # the diffusion model is trained here


def test_missing_roots(tmp_path):
    with pytest.raises(ValueError, match=f"prepare.root is {tmp_path}/none, which does not exist; give a folder"):
        index_table(tmp_path, dataset="folder", root=str(tmp_path / "none"))
    for dataset in ("folder", "imageidc"):
        with pytest.raises(ValueError, match=f"prepare.root is empty and {dataset} cannot be downloaded; give"):
            index_table(tmp_path, dataset=dataset)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=f"{tmp_path}/empty holds no images; it needs one folder of images"):
        index_table(tmp_path, dataset="folder", root=str(tmp_path / "empty"))


def test_animated_images_are_counted(tmp_path):
    write_files(tmp_path / "set", {"a/1.png": 0, "a/2.png": 0})
    frames = [Image.new("RGB", (4, 4), (value, 0, 0)) for value in (0, 200)]
    frames[0].save(tmp_path / "set" / "a" / "3.gif", save_all=True, append_images=frames[1:])
    notes = index_folder(tmp_path / "out", tmp_path / "set")[1]
    assert notes[0] == f"1 of 3 images of {tmp_path}/set have several frames, such as a/3.gif; only the first is used"


def test_missing_test_images_are_told_at_the_start(tmp_path):
    write_files(tmp_path / "set", {"a/1.png": 0, "a/2.png": 0})
    _, [note] = index_folder(tmp_path / "out", tmp_path / "set")
    assert "set has no images for tests" in note
    assert "stage 06 needs a folder val or test there, or prepare.split holdout" in note


def test_an_unreadable_image_is_named_with_its_class_before_any_work(tmp_path):
    write_files(tmp_path / "set", {"a/1.png": 0, "b/2.png": b"", "b/3.png": 0})
    with pytest.raises(ValueError, match=f"^class b: {tmp_path}/set/b/2.png cannot be read as an image .*; replace or"):
        index_folder(tmp_path / "out", tmp_path / "set")
    assert list((tmp_path / "out").iterdir()) == []
