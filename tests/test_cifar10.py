"""CIFAR-10 by name: from archives of its images, and from the batches that torchvision downloads."""

import io
import pickle
import zipfile

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10

from dgs_utils.images.datasets import index_originals
from dgs_utils.images.image_sets import ImageSet
from dgs_utils.images.pixels import load_rgb
from dgs_utils.params import validate

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def index(folder, **values):
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
    train, val = index(tmp_path / "out", root=str(tmp_path / "root"))
    assert train.classes == val.classes == CLASSES
    assert len(train) == len(val) == 30


def test_torchvisions_batches_become_images_in_class_folders(some, tmp_path, monkeypatch):
    """The reader is torchvision's own; the batches hold real images in the published layout, but fewer."""
    for name in ("train_list", "test_list"):
        monkeypatch.setattr(CIFAR10, name, [[file, None] for file, _ in getattr(CIFAR10, name)])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": None})
    pixels = {split: np.stack([np.asarray(Image.open(io.BytesIO(content))) for _, content in images])
              for split, images in some.items()}
    folder = tmp_path / "out" / ".cifar10" / CIFAR10.base_folder
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
    assert not (tmp_path / "out" / ".cifar10").exists()


def test_without_a_network_it_is_told_where_the_images_may_come_from(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens
    with pytest.raises(ValueError, match=r"CIFAR-10 could not be had \(.*\); fetch its images elsewhere and point"):
        index(tmp_path / "out")
