"""Splits: held-out, given and ImageNet's, and the published numbers of images."""

import json
import zipfile
from pathlib import Path

import pytest
from image_files import index_table, link_image, write_classes, write_images

from dgs_utils.images.image_set import ImageSet
from dgs_utils.images.prepare_dataset import index_originals
from dgs_utils.params import validate
from dgs_utils.params.subsets import SUBSETS

WOOF = [row[0] for row in SUBSETS["imagewoof"]]


# [F §1.2]: fastai's training images by class in label order, and ImageNet's class that has fewer than 1,300.
FASTAI_TRAIN = {"imagewoof": [943, 949, 921, 932, 941, 580, 942, 940, 949, 928],
                "imagenette": [963, 955, 993, 858, 941, 956, 961, 931, 951, 960]}


FASTAI_VAL = {"imagewoof": 3929, "imagenette": 3925}


FEWER = {"imagewoof": ("n02089973", 754), "imagenette": ("n03000684", 1194)}


# ---- Splits ----------------------------------------------------------------------------------------------------------

def test_holdout_depends_on_the_seed_and_on_nothing_else(tmp_path):
    write_classes(tmp_path / "x", 30)
    write_classes(tmp_path / "y", 30, classes=("b", "c", "a"))

    def held(folder: str, **values) -> dict[str, list[str]]:
        table = index_table(tmp_path / "out", dataset="folder", root=str(tmp_path / folder), val_per_class=8, **values)
        return table[table["split"] == "val"].groupby("class")["file_name"].apply(list).to_dict()

    first = held("x")
    assert {name: len(files) for name, files in first.items()} == {"a": 8, "b": 8}
    assert held("x") == first
    assert held("x", seed=1) != first
    assert [f.split("/")[1] for f in first["a"]] != [f.split("/")[1] for f in first["b"]]
    assert {name: held("y")[name] for name in "ab"} == first  # other classes do not matter
    assert held("x", classes=["b"])["b"] == first["b"]


def test_holdout_needs_enough_images(tmp_path):
    write_classes(tmp_path / "x", 6)
    with pytest.raises(ValueError, match="class a has 6 images, too few to hold out 6; lower"):
        index_table(tmp_path / "out", dataset="folder", root=str(tmp_path / "x"), val_per_class=6)
    with pytest.raises(ValueError, match=f"class a has no val images in {tmp_path}/x under split 'holdout'; choose"):
        index_table(tmp_path / "out", dataset="folder", root=str(tmp_path / "x"), val_per_class=0)


def test_given_split_keeps_the_folders(tmp_path):
    write_images(tmp_path / "x", "train/a/1.png", "train/b/1.png", "val/a/2.png", "val/b/2.png", "test/a/3.png")
    table = index_table(tmp_path / "out", dataset="folder", split="given", root=str(tmp_path / "x"))
    assert table.to_numpy().tolist() == [["train/a/1.png", "train", "a", 0], ["val/a/2.png", "val", "a", 0],
                                         ["train/b/1.png", "train", "b", 1], ["val/b/2.png", "val", "b", 1]]
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["root"] == str(tmp_path / "x")
    assert all(path.exists() for path in ImageSet.read(tmp_path / "out").paths)


def test_given_split_without_val_is_all_train(tmp_path):
    table = index_table(tmp_path / "out", dataset="folder", split="given", root=str(write_classes(tmp_path / "x")))
    assert set(table["split"]) == {"train"}


def test_other_splits_need_val_images_of_each_class(tmp_path):
    write_images(tmp_path / "x", "train/a/1.png", "train/b/1.png", "val/a/2.png")
    with pytest.raises(ValueError, match=r"class b has no val images in .*/x under split 'fastai'; choose another"):
        index_table(tmp_path / "out", dataset="folder", split="fastai", root=str(tmp_path / "x"))
    with pytest.raises(ValueError, match=r"class a has no val images in .*/x under split 'imagenet'; choose another"):
        index_table(tmp_path / "out", dataset="folder", split="imagenet", root=str(tmp_path / "x"))


def test_imagenet_split_goes_by_file_names(tmp_path):
    """fastai shuffled both kinds of images into both folders; the names tell where they came from."""
    write_images(tmp_path / "x", "train/a/a_1.JPEG", "train/a/ILSVRC2012_val_00000007.JPEG", "val/a/a_2.JPEG",
         "val/a/ILSVRC2012_val_00000008.JPEG", "val/a/not_ILSVRC2012_val_1.JPEG")
    table = index_table(tmp_path / "out", dataset="folder", split="imagenet", root=str(tmp_path / "x"))
    assert table.set_index("file_name")["split"].to_dict() == {
        "train/a/a_1.JPEG": "train", "val/a/a_2.JPEG": "train", "val/a/not_ILSVRC2012_val_1.JPEG": "train",
        "train/a/ILSVRC2012_val_00000007.JPEG": "val", "val/a/ILSVRC2012_val_00000008.JPEG": "val"}


# ---- Published counts ------------------------------------------------------------------------------------------------

def fastai_tree(root: Path, dataset: str) -> Path:
    """Lay out files with the names and counts of fastai's full-size archive."""
    short, fewer = FEWER[dataset]
    total_val = FASTAI_VAL[dataset]
    names = []
    for place, (wnid, *_) in enumerate(SUBSETS[dataset]):
        own = fewer if wnid == short else 1300
        files = [f"ILSVRC2012_val_{place:03}{i:05}.JPEG" for i in range(50)] + [f"{wnid}_{i}.JPEG" for i in range(own)]
        train = FASTAI_TRAIN[dataset][place]
        names += [f"train/{wnid}/{f}" for f in files[:train]] + [f"val/{wnid}/{f}" for f in files[train:]]
    assert sum(name.startswith("val/") for name in names) == total_val
    return link_image(root, names)


@pytest.mark.parametrize(("dataset", "official"), [("imagewoof", (12_454, 500)), ("imagenette", (12_894, 500))])
def test_complete_sets_bring_no_warning(tmp_path, dataset, official):
    root = fastai_tree(tmp_path / "x", dataset)
    for split, expected in (("imagenet", official), ("fastai", (sum(FASTAI_TRAIN[dataset]), FASTAI_VAL[dataset]))):
        table = index_table(tmp_path / "out", dataset=dataset, split=split, root=str(root))
        assert tuple((table["split"] == part).sum() for part in ("train", "val")) == expected
    (root / "train" / SUBSETS[dataset][0][0] / "ILSVRC2012_val_00000000.JPEG").unlink()
    warnings = index_originals(validate("00_prepare", {"dataset": dataset, "split": "imagenet", "root": str(root)}),
                               tmp_path / "out")
    assert warnings == [f"{dataset} with split 'imagenet' has {official[0]} train and 499 val images here, "
                        f"{official[0]} train and 500 val in the published protocol; the first class that differs is "
                        f"{SUBSETS[dataset][0][0]}, with 1300 train and 49 val here and 1300 train and 50 val there"]


def test_counts_of_some_classes_are_checked_by_class(tmp_path):
    root = fastai_tree(tmp_path / "x", "imagewoof")
    for split in ("imagenet", "fastai"):
        index_table(tmp_path / "out", dataset="imagewoof", split=split, root=str(root), classes=[WOOF[5], WOOF[0]])
    (root / "train" / WOOF[5] / f"{WOOF[5]}_99.JPEG").unlink()
    values = {"dataset": "imagewoof", "split": "fastai", "root": str(root), "classes": [WOOF[5]]}
    [warning] = index_originals(validate("00_prepare", values), tmp_path / "out")
    assert warning.endswith(f"is {WOOF[5]}, with 579 train and 224 val here and 580 train and 224 val there")
    index_table(tmp_path / "out", **{**values, "classes": [WOOF[0]]})  # nothing is missing there


def test_real_counts_are_the_published_ones(shared_data, tmp_path):
    """The complete ImageWoof at 128 px, by the names in its archives."""
    for part in ("train", "val"):
        with zipfile.ZipFile(shared_data / "imagewoof128" / f"{part}.zip") as archive:
            link_image(tmp_path / "x", archive.namelist())
    for split in ("imagenet", "fastai"):
        index_table(tmp_path / "out", dataset="imagewoof", split=split, root=str(tmp_path / "x"))
