"""Built-in data sets: scikit-learn's digits, Fashion-MNIST, and CIFAR-10 as torchvision reads them or from archives."""

import gzip
import hashlib
import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from image_files import index_table
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, FashionMNIST

from dgs_utils.images.builtin_datasets import FASHION
from dgs_utils.images.image_set import ImageSet
from dgs_utils.images.pixels import load_rgb
from dgs_utils.images.prepare_dataset import index_originals
from dgs_utils.params import validate

# ---- Digits ----------------------------------------------------------------------------------------------------------

def classes_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "classes.csv", dtype={"class": str, "name": str})


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    index_table(folder)
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
    index_table(digits)
    assert {name: (digits / name).read_bytes() for name in before} == before
    assert (digits / "images" / "3" / "5.png").stat().st_mtime_ns == stamp


# ---- Fashion-MNIST ---------------------------------------------------------------------------------------------------

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
    table = index_table(tmp_path / "out", dataset="fashion", split="given", root=str(archives))
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
        index_table(tmp_path / "out", dataset="fashion", root=str(tmp_path))


def test_fashion_mnist_without_a_network_or_with_other_archives(shared_data, tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens
    sentence = r"Fashion-MNIST could not be downloaded \(.*\); fetch its four archives \(\*-ubyte.gz\) elsewhere"
    with pytest.raises(ValueError, match=sentence):
        index_table(tmp_path / "out", dataset="fashion", split="given")
    (tmp_path / "damaged").mkdir()
    for archive in (shared_data / "FashionMNIST" / "raw").glob("*.gz"):
        (tmp_path / "damaged" / archive.name).write_bytes(archive.read_bytes()[:1000])
    with pytest.raises(ValueError, match=sentence):
        index_table(tmp_path / "out", dataset="fashion", split="given", root=str(tmp_path / "damaged"))
    assert not (tmp_path / "out" / "originals.csv").exists()


# ---- CIFAR-10 --------------------------------------------------------------------------------------------------------

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def index_cifar10(folder, **values):
    folder.mkdir()
    index_originals(validate("00_prepare", {"dataset": "cifar10", "split": "given", "channels": 3, **values}), folder)
    return ImageSet.read(folder, "train"), ImageSet.read(folder, "val")


@pytest.fixture
def some(shared_data):
    """The first three images of every class of both splits: name, bytes."""
    found = {}
    for split in ("train", "val"):
        with zipfile.ZipFile(shared_data / "cifar10" / f"{split}.zip") as archive:
            names = [n for c in CLASSES for n in sorted(n for n in archive.namelist() if f"/{c}/" in n)[:3]]
            found[split] = [(name, archive.read(name)) for name in names]
    return found


def test_two_archives_are_a_root(some, tmp_path):
    (tmp_path / "root").mkdir()
    for split, images in some.items():
        with zipfile.ZipFile(tmp_path / "root" / f"{split}.zip", "w") as archive:
            for name, content in images:
                archive.writestr(name, content)
    train, val = index_cifar10(tmp_path / "out", root=str(tmp_path / "root"))
    assert train.classes == val.classes == CLASSES
    assert len(train) == len(val) == 30


def test_torchvisions_batches_become_images_in_class_folders(some, tmp_path, monkeypatch):
    """The reader is torchvision's own; the batches hold real images in the published layout, but fewer."""
    for name in ("train_list", "test_list"):
        monkeypatch.setattr(CIFAR10, name, [[file, None] for file, _ in getattr(CIFAR10, name)])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": None})
    pixels = {split: np.stack([np.asarray(Image.open(io.BytesIO(content))) for _, content in images])
              for split, images in some.items()}
    folder = tmp_path / "out" / ".download" / CIFAR10.base_folder
    folder.mkdir(parents=True)
    labels = np.repeat(np.arange(10), 3)
    parts = np.array_split(np.arange(30), 5)
    batches = {file: ("train", part) for (file, _), part in zip(CIFAR10.train_list, parts, strict=True)}
    for file, (split, part) in (batches | {"test_batch": ("val", np.arange(30))}).items():
        rows = pixels[split][part].transpose(0, 3, 1, 2).reshape(len(part), -1)
        (folder / file).write_bytes(pickle.dumps({"data": rows, "labels": labels[part].tolist()}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": CLASSES}))
    params = validate("00_prepare", {"dataset": "cifar10", "split": "given", "channels": 3})
    index_originals(params, tmp_path / "out")
    for split in ("train", "val"):
        images = ImageSet.read(tmp_path / "out", split)
        assert images.classes == CLASSES
        for image, path in zip(pixels[split], images.paths, strict=True):
            np.testing.assert_array_equal(np.asarray(load_rgb(path)), image)
    assert not (tmp_path / "out" / ".download").exists()


def test_without_a_network_it_is_told_where_the_images_may_come_from(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens
    with pytest.raises(ValueError, match=r"CIFAR-10 could not be downloaded \(.*\); fetch its images elsewhere"):
        index_cifar10(tmp_path / "out")
