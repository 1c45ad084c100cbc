"""The originals: class tables, splits, archives, and the published counts, from tiny trees with the real names."""

import gzip
import hashlib
import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import FashionMNIST

from dgs_utils.images.archives import unpack
from dgs_utils.images.datasets import index_originals
from dgs_utils.images.image_sets import ImageSet
from dgs_utils.images.sources import FASHION
from dgs_utils.params import validate
from dgs_utils.params.subsets import SUBSETS

WOOF = [row[0] for row in SUBSETS["imagewoof"]]
NETTE = [row[0] for row in SUBSETS["imagenette"]]
# [F §1.2]: fastai's training images by class in label order, and ImageNet's class that has fewer than 1,300.
FASTAI_TRAIN = {"imagewoof": [943, 949, 921, 932, 941, 580, 942, 940, 949, 928],
                "imagenette": [963, 955, 993, 858, 941, 956, 961, 931, 951, 960]}
FASTAI_VAL = {"imagewoof": 3929, "imagenette": 3925}
FEWER = {"imagewoof": ("n02089973", 754), "imagenette": ("n03000684", 1194)}


def tree(root: Path, *names: str) -> Path:
    """Write one-pixel images under their names."""
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (1, 1), i % 256).save(root / name, format="PNG")
    return root


def many(root: Path, names: list[str]) -> Path:
    """Put one image under many names, as links."""
    root.mkdir(parents=True, exist_ok=True)
    Image.new("L", (1, 1)).save(root.parent / "one.png")
    for folder in {name.rsplit("/", 1)[0] for name in names}:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        os.link(root.parent / "one.png", root / name)
    return root


def index(folder: Path, **values) -> pd.DataFrame:
    """Carry out `index_originals` and return its table of images; warned is of skipped or missing files at most."""
    folder.mkdir(exist_ok=True)
    harmless = (" skipped (", "has no images for tests", "images of test are left out")
    warnings = index_originals(validate("00_prepare", values), folder)
    assert [warning for warning in warnings if not any(part in warning for part in harmless)] == []
    return pd.read_csv(folder / "originals.csv", dtype={"class": str})


def classes_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "classes.csv", dtype={"class": str, "name": str})


def simple(root: Path, per_class: int = 6, classes=("a", "b")) -> Path:
    return tree(root, *[f"{c}/{i}.png" for c in classes for i in range(per_class)])


# ---- Digits and Fashion-MNIST ----------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    index(folder)
    return folder


def test_digits_are_scikit_learn_s(digits):
    bunch = load_digits()
    images = ImageSet.read(digits)
    assert len(images) == 1797
    assert images.classes == [str(i) for i in range(10)]
    assert json.loads((digits / "dataset.json").read_text()) == {"dataset": "digits", "root": "images", "channels": 1,
                                                                "split": "holdout"}
    for label in range(10):
        scans = np.round(bunch.images[bunch.target == label] * 255 / 16)
        found = [np.asarray(Image.open(path)) for path in images.of_class(str(label)).paths]
        np.testing.assert_array_equal(np.stack(found), scans)


def test_digits_hold_out_fifty_a_class_by_seed(digits, tmp_path):
    table = pd.read_csv(digits / "originals.csv")
    assert table.groupby("class")["split"].apply(lambda s: (s == "val").sum()).tolist() == [50] * 10
    assert len(ImageSet.read(digits, "train")) == 1297
    assert len(ImageSet.read(digits, "val")) == 500
    classes = classes_of(digits)
    assert classes.columns.tolist() == ["label", "class", "index", "condition", "name"]
    assert (classes[["label", "index", "condition"]].to_numpy() == np.arange(10)[:, None]).all()


def test_an_index_is_made_anew_over_images_that_are_there(digits):
    before = {name: (digits / name).read_bytes() for name in ("originals.csv", "classes.csv", "dataset.json")}
    stamp = (digits / "images" / "3" / "5.png").stat().st_mtime_ns
    index(digits)
    assert {name: (digits / name).read_bytes() for name in before} == before
    assert (digits / "images" / "3" / "5.png").stat().st_mtime_ns == stamp


def shortened(archive: Path, count: int, target: Path) -> bytes:
    """Write an archive of Fashion-MNIST with its first images or labels alone; return their bytes."""
    header, size = (16, 28 * 28) if "images" in archive.name else (8, 1)
    with gzip.open(archive) as file:
        kind, content = file.read(header), file.read(count * size)
    target.write_bytes(gzip.compress(kind[:4] + count.to_bytes(4, "big") + kind[8:] + content))
    return content


def test_fashion_mnist_from_local_archives(shared_data, tmp_path, monkeypatch):
    """Its first images, in archives that torchvision takes for the published ones: to write 70,000 files takes long."""
    archives, counts = tmp_path / "archives", {"train": 2000, "t10k": 500}
    archives.mkdir()
    contents = {name: shortened(shared_data / "FashionMNIST" / "raw" / name, counts[name.split("-")[0]],
                                archives / name) for name, _ in FashionMNIST.resources}
    sums = [(name, hashlib.md5((archives / name).read_bytes()).hexdigest()) for name in contents]
    monkeypatch.setattr(FashionMNIST, "resources", sums)
    table = index(tmp_path / "out", dataset="fashion", split="given", root=str(archives))
    for split, part in (("train", "train"), ("val", "t10k")):
        labels = list(contents[f"{part}-labels-idx1-ubyte.gz"])
        found = table[table["split"] == split].groupby("class").size()
        assert found.to_dict() == {str(label): labels.count(label) for label in range(10)}
    first = contents["t10k-labels-idx1-ubyte.gz"][0]
    with Image.open(tmp_path / "out" / "images" / "val" / str(first) / "0.png") as image:
        assert image.tobytes() == contents["t10k-images-idx3-ubyte.gz"][:28 * 28]
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["classes.csv", "dataset.json", "images",
                                                                    "originals.csv"]
    assert classes_of(tmp_path / "out")["name"].tolist() == list(FASHION)


def test_fashion_mnist_needs_its_four_archives(tmp_path):
    (tmp_path / "train-labels-idx1-ubyte.gz").touch()
    with pytest.raises(ValueError, match=rf"{tmp_path} holds 1 of the four Fashion-MNIST archives .*point"):
        index(tmp_path / "out", dataset="fashion", root=str(tmp_path))


def test_fashion_mnist_without_a_network_or_with_other_archives(shared_data, tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens
    sentence = r"Fashion-MNIST could not be had \(.*\); fetch its four archives \(\*-ubyte.gz\) elsewhere and point"
    with pytest.raises(ValueError, match=sentence):
        index(tmp_path / "out", dataset="fashion", split="given")
    (tmp_path / "damaged").mkdir()
    for archive in (shared_data / "FashionMNIST" / "raw").glob("*.gz"):
        (tmp_path / "damaged" / archive.name).write_bytes(archive.read_bytes()[:1000])
    with pytest.raises(ValueError, match=sentence):
        index(tmp_path / "out", dataset="fashion", split="given", root=str(tmp_path / "damaged"))
    assert not (tmp_path / "out" / "originals.csv").exists()


# ---- Splits ----------------------------------------------------------------------------------------------------------

def test_holdout_depends_on_the_seed_and_on_nothing_else(tmp_path):
    simple(tmp_path / "x", 30)
    simple(tmp_path / "y", 30, classes=("b", "c", "a"))

    def held(folder: str, **values) -> dict[str, list[str]]:
        table = index(tmp_path / "out", dataset="folder", root=str(tmp_path / folder), val_per_class=8, **values)
        return table[table["split"] == "val"].groupby("class")["file_name"].apply(list).to_dict()

    first = held("x")
    assert {name: len(files) for name, files in first.items()} == {"a": 8, "b": 8}
    assert held("x") == first
    assert held("x", seed=1) != first
    assert [f.split("/")[1] for f in first["a"]] != [f.split("/")[1] for f in first["b"]]
    assert {name: held("y")[name] for name in "ab"} == first  # other classes do not matter
    assert held("x", classes=["b"])["b"] == first["b"]


def test_holdout_needs_enough_images(tmp_path):
    simple(tmp_path / "x", 6)
    with pytest.raises(ValueError, match="class a has 6 images, too few to hold out 6; lower"):
        index(tmp_path / "out", dataset="folder", root=str(tmp_path / "x"), val_per_class=6)
    with pytest.raises(ValueError, match=f"class a has no val images in {tmp_path}/x under split 'holdout'; choose"):
        index(tmp_path / "out", dataset="folder", root=str(tmp_path / "x"), val_per_class=0)


def test_given_split_keeps_the_folders(tmp_path):
    tree(tmp_path / "x", "train/a/1.png", "train/b/1.png", "val/a/2.png", "val/b/2.png", "test/a/3.png")
    table = index(tmp_path / "out", dataset="folder", split="given", root=str(tmp_path / "x"))
    assert table.to_numpy().tolist() == [["train/a/1.png", "train", "a", 0], ["val/a/2.png", "val", "a", 0],
                                         ["train/b/1.png", "train", "b", 1], ["val/b/2.png", "val", "b", 1]]
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["root"] == str(tmp_path / "x")
    assert all(path.exists() for path in ImageSet.read(tmp_path / "out").paths)


def test_given_split_without_val_is_all_train(tmp_path):
    table = index(tmp_path / "out", dataset="folder", split="given", root=str(simple(tmp_path / "x")))
    assert set(table["split"]) == {"train"}


def test_other_splits_need_val_images_of_each_class(tmp_path):
    tree(tmp_path / "x", "train/a/1.png", "train/b/1.png", "val/a/2.png")
    with pytest.raises(ValueError, match=r"class b has no val images in .*/x under split 'fastai'; choose another"):
        index(tmp_path / "out", dataset="folder", split="fastai", root=str(tmp_path / "x"))
    with pytest.raises(ValueError, match=r"class a has no val images in .*/x under split 'imagenet'; choose another"):
        index(tmp_path / "out", dataset="folder", split="imagenet", root=str(tmp_path / "x"))


def test_imagenet_split_goes_by_file_names(tmp_path):
    """fastai shuffled both kinds of images into both folders; the names tell where they came from."""
    tree(tmp_path / "x", "train/a/a_1.JPEG", "train/a/ILSVRC2012_val_00000007.JPEG", "val/a/a_2.JPEG",
         "val/a/ILSVRC2012_val_00000008.JPEG", "val/a/not_ILSVRC2012_val_1.JPEG")
    table = index(tmp_path / "out", dataset="folder", split="imagenet", root=str(tmp_path / "x"))
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
    return many(root, names)


@pytest.mark.parametrize(("dataset", "official"), [("imagewoof", (12_454, 500)), ("imagenette", (12_894, 500))])
def test_complete_sets_bring_no_warning(tmp_path, dataset, official):
    root = fastai_tree(tmp_path / "x", dataset)
    for split, expected in (("imagenet", official), ("fastai", (sum(FASTAI_TRAIN[dataset]), FASTAI_VAL[dataset]))):
        table = index(tmp_path / "out", dataset=dataset, split=split, root=str(root))
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
        index(tmp_path / "out", dataset="imagewoof", split=split, root=str(root), classes=[WOOF[5], WOOF[0]])
    (root / "train" / WOOF[5] / f"{WOOF[5]}_99.JPEG").unlink()
    values = {"dataset": "imagewoof", "split": "fastai", "root": str(root), "classes": [WOOF[5]]}
    [warning] = index_originals(validate("00_prepare", values), tmp_path / "out")
    assert warning.endswith(f"is {WOOF[5]}, with 579 train and 224 val here and 580 train and 224 val there")
    index(tmp_path / "out", **{**values, "classes": [WOOF[0]]})  # nothing is missing there


def test_real_counts_are_the_published_ones(shared_data, tmp_path):
    """The complete ImageWoof at 128 px, by the names in its archives."""
    for part in ("train", "val"):
        with zipfile.ZipFile(shared_data / "imagewoof128" / f"{part}.zip") as archive:
            many(tmp_path / "x", archive.namelist())
    for split in ("imagenet", "fastai"):
        index(tmp_path / "out", dataset="imagewoof", split=split, root=str(tmp_path / "x"))


# ---- Classes ---------------------------------------------------------------------------------------------------------

def test_subsets_have_their_published_labels_and_indices(tmp_path):
    tree(tmp_path / "x", *[f"train/{w}/{w}_1.JPEG" for w in reversed(WOOF)], "train/n99999999/1.JPEG",
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
    tree(tmp_path / "x", *[f"train/{w}/{i}.JPEG" for w in NETTE for i in range(2)])
    values = {"dataset": "imagenette", "val_per_class": 1, "root": str(tmp_path / "x")}
    table = index(tmp_path / "out", classes=[NETTE[5], NETTE[2]], **values)
    assert classes_of(tmp_path / "out")["class"].tolist() == [NETTE[2], NETTE[5]]
    assert table.groupby("class")["label"].unique().to_dict() == {NETTE[2]: [0], NETTE[5]: [1]}
    with pytest.raises(ValueError, match=rf"prepare.classes names {WOOF[0]}, which is no class of imagenette; its"):
        index(tmp_path / "out", classes=[WOOF[0]], **values)
    with pytest.raises(ValueError, match=rf"class {NETTE[1]} has no images in {tmp_path}/y, where"):
        index(tmp_path / "out", **{**values, "root": str(tree(tmp_path / "y", f"{NETTE[0]}/1.JPEG", "z/1.JPEG"))})


def test_given_classes_decide_the_order_of_any_other_set(tmp_path):
    simple(tmp_path / "x", classes=("1", "2", "10"))
    index(tmp_path / "out", dataset="folder", root=str(tmp_path / "x"), val_per_class=1)
    assert classes_of(tmp_path / "out")["class"].tolist() == ["1", "10", "2"]  # as other tools count them
    table = index(tmp_path / "out", dataset="folder", root=str(tmp_path / "x"), val_per_class=1, classes=["10", "1"])
    assert table.groupby("class")["label"].first().to_dict() == {"10": 0, "1": 1}
    with pytest.raises(ValueError, match=r"class x has no images in .*; add some, rename one, or leave"):
        index(tmp_path / "out", dataset="folder", root=str(tmp_path / "x"), classes=["x"])
    with pytest.raises(ValueError, match=r"prepare.classes names a class twice: 1, 1"):
        index(tmp_path / "out", dataset="folder", root=str(tmp_path / "x"), classes=["1", "1"])


def imagenet_root(root: Path, wnids: list[str], val: int = 50) -> Path:
    """Lay out a root as ImageNet's, with two training images a class."""
    return many(root, [name for wnid in wnids for name in [
        *(f"train/{wnid}/{wnid}_{i}.JPEG" for i in range(2)),
        *(f"val/{wnid}/ILSVRC2012_val_{i:08}.JPEG" for i in range(val))]])


def test_any_subset_from_an_imagenet_root(tmp_path):
    subsets = {name: [row[0] for row in rows] for name, rows in SUBSETS.items()}
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


def test_any_wnids_from_an_imagenet_root(tmp_path):
    wnids = ["n00000003", WOOF[2], "n00000001"]
    root = imagenet_root(tmp_path / "imagenet", [*wnids, "n00000002"])
    (tmp_path / "index.csv").write_text("class,index\nn00000001,900\nn00000003,7\n")
    values = {"dataset": "folder", "root": str(root), "classes": wnids, "classifier_weights": "IMAGENET1K_V1",
              "base_model": "x.pt", "class_index": str(tmp_path / "index.csv")}
    for split in ("imagenet", "given"):
        table = index(tmp_path / "out", split=split, **values)
        assert table.groupby(["class", "split"]).size().to_dict() == {
            (wnid, part): n for wnid in wnids for part, n in (("train", 2), ("val", 50))}
        classes = classes_of(tmp_path / "out")
        assert classes["class"].tolist() == wnids
        assert classes["index"].tolist() == classes["condition"].tolist() == [7, 258, 900]  # one of them known
    with pytest.raises(ValueError, match="class n00000002 has no known index in the pre-trained model; give prepare"):
        index(tmp_path / "out", **{**values, "classes": ["n00000002"]}, split="given")


def test_indices_of_other_classes_come_from_a_file(tmp_path):
    values = {"dataset": "folder", "root": str(simple(tmp_path / "x")), "val_per_class": 1,
              "classifier_weights": "IMAGENET1K_V1"}
    with pytest.raises(ValueError, match=r"class a has no known index in the pre-trained model; give prepare"):
        index(tmp_path / "out", **values)
    file = tmp_path / "index.csv"
    with pytest.raises(ValueError, match=rf"prepare.class_index is {file}, which does not exist; give a CSV"):
        index(tmp_path / "out", class_index=str(file), **values)
    file.write_text("name,index\na,3\n")
    with pytest.raises(ValueError, match=f"{file} has the columns name, index; it needs class and index"):
        index(tmp_path / "out", class_index=str(file), **values)
    file.write_text("class,index\nb,7\na,3\n")
    index(tmp_path / "out", class_index=str(file), **values)
    classes = classes_of(tmp_path / "out")
    assert classes["index"].tolist() == [3, 7]
    assert classes["condition"].tolist() == [0, 1]  # the diffusion model is trained here


# ---- Archives --------------------------------------------------------------------------------------------------------

def pack(source: Path, archive: Path, top: str = "") -> Path:
    files = sorted(f for f in source.rglob("*") if f.is_file())
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as target:
            for file in files:
                target.write(file, f"{top}{file.relative_to(source)}")
    else:
        with tarfile.open(archive, "w:gz") as target:
            for file in files:
                target.add(file, f"{top}{file.relative_to(source)}")
    return archive


@pytest.mark.parametrize("top", ["", "imagewoof2/"])
@pytest.mark.parametrize("name", ["x.zip", "x.tgz"])
def test_an_archive_is_unpacked_into_the_stage_folder(tmp_path, name, top):
    source = tree(tmp_path / "x", "train/a/1.png", "train/b/1.png", "val/a/2.png", "val/b/2.png")
    (source / "noisy_labels.csv").write_text("path\n")
    archive = pack(source, tmp_path / name, top)
    table = index(tmp_path / "out", dataset="folder", split="given", root=str(archive))
    assert table["file_name"].tolist() == [top + n for n in ("train/a/1.png", "val/a/2.png", "train/b/1.png",
                                                             "val/b/2.png")]
    assert table["split"].tolist() == ["train", "val"] * 2
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["root"] == "images"
    assert [path.read_bytes() for path in ImageSet.read(tmp_path / "out").paths] == [
        (source / n.removeprefix(top)).read_bytes() for n in table["file_name"]]
    archive.unlink()
    archive.touch()  # not opened again: its images are there
    index(tmp_path / "out", dataset="folder", split="given", root=str(archive))


def test_one_folder_around_class_folders_is_looked_through(tmp_path):
    archive = pack(simple(tmp_path / "x"), tmp_path / "pets.zip", "pets/")
    table = index(tmp_path / "out", dataset="folder", root=str(archive), val_per_class=1)
    assert table["class"].unique().tolist() == ["a", "b"]
    assert all(path.exists() for path in ImageSet.read(tmp_path / "out").paths)
    simple(tmp_path / "y", classes=("only",))
    table = index(tmp_path / "one", dataset="folder", root=str(tmp_path / "y"), val_per_class=1)
    assert table["class"].unique().tolist() == ["only"]


def test_a_folder_of_archives_is_unpacked_whole(tmp_path):
    for split in ("train", "val"):
        pack(tree(tmp_path / split, f"a/{split}.png"), tmp_path / "in.zip", f"{split}/")
        (tmp_path / "archives").mkdir(exist_ok=True)
        (tmp_path / "in.zip").rename(tmp_path / "archives" / f"{split}.zip")
    table = index(tmp_path / "out", dataset="folder", split="given", root=str(tmp_path / "archives"))
    assert table["file_name"].tolist() == ["train/a/train.png", "val/a/val.png"]


def test_real_archives(shared_data, tmp_path):
    values = {"dataset": "imagewoof", "root": str(shared_data / "imagewoof320-sample")}
    (tmp_path / "out").mkdir()
    [warning] = index_originals(validate("00_prepare", {**values, "split": "fastai"}), tmp_path / "out")
    assert "has 80 train and 40 val images here, 9025 train and 3929 val in the published protocol" in warning
    table = pd.read_csv(tmp_path / "out" / "originals.csv")
    assert table.groupby(["label", "split"]).size().tolist() == [8, 4] * 10


def tar_with(member: str, content: bytes = b"x", link: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as target:
        info = tarfile.TarInfo(member)
        if link:
            info.type, info.linkname = tarfile.SYMTYPE, link
        info.size = 0 if link else len(content)
        target.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_with(member: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        target.writestr("train/a/1.png", b"fine")
        target.writestr(member, b"x")
    return buffer.getvalue()


@pytest.mark.parametrize("content", [zip_with("../evil.png"), zip_with("a/../../evil.png"), tar_with("../evil.png"),
                                     tar_with("a/../../evil.png"), tar_with("a/b.png", link="../../../secret")],
                         ids=["zip", "zip-deep", "tar", "tar-deep", "tar-link"])
def test_members_outside_the_folder_are_refused(tmp_path, content):
    archive, target = tmp_path / "in" / "archive", tmp_path / "out"
    archive.parent.mkdir()
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=f"{archive}(: a member is .*evil.png'|.* holds a/b.png, which is a link)"):
        unpack(archive, target)
    outside = [f for f in tmp_path.rglob("*") if f.is_file() and not f.is_relative_to(target) and f != archive]
    assert outside == []
    with pytest.raises(ValueError, match="archive"):
        index(tmp_path / "stage", dataset="folder", root=str(archive))
    assert list((tmp_path / "stage").iterdir()) == []  # not even half of it


def test_absolute_members_are_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(zip_with(f"{tmp_path}/evil.png"))
    (tmp_path / "a.tgz").write_bytes(tar_with(f"{tmp_path}/evil.png"))
    for name in ("a.zip", "a.tgz"):
        with pytest.raises(ValueError, match=rf"{name}: a member is .*/evil\.png', an absolute path; give"):
            unpack(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "evil.png").exists()


def damaged(content: bytes) -> list[bytes]:
    middle = len(content) // 2
    return [b"", b"no archive", content[:middle], content[:middle] + bytes(40) + content[middle + 40:]]


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("name", ["x.zip", "x.tgz"])
def test_damaged_archives_are_told(tmp_path, name, place):
    noise = np.random.default_rng(0).bytes(3000)
    (tmp_path / "x" / "a").mkdir(parents=True)
    (tmp_path / "x" / "a" / "1.png").write_bytes(noise)
    archive = pack(tmp_path / "x", tmp_path / name)
    archive.write_bytes(damaged(archive.read_bytes())[place])
    with pytest.raises(ValueError, match=f"{archive} cannot be unpacked .*; delete it and fetch it again"):
        index(tmp_path / "out", dataset="folder", root=str(archive))
    assert list((tmp_path / "out").iterdir()) == []


# ---- Roots and downloads ---------------------------------------------------------------------------------------------

def test_missing_roots(tmp_path):
    with pytest.raises(ValueError, match=f"prepare.root is {tmp_path}/none, which does not exist; give a folder"):
        index(tmp_path, dataset="folder", root=str(tmp_path / "none"))
    for dataset in ("folder", "imageidc"):
        with pytest.raises(ValueError, match=f"prepare.root is empty and {dataset} cannot be downloaded; give"):
            index(tmp_path, dataset=dataset)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=f"{tmp_path}/empty holds no images; it needs one folder of images"):
        index(tmp_path, dataset="folder", root=str(tmp_path / "empty"))
