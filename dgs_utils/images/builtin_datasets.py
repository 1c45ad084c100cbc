"""Built-in data sets: arrays inside a package, torchvision's downloads, fastai's archives, or a root of the user."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from dgs_utils.images import hub_datasets
from dgs_utils.images.download import fetch
from dgs_utils.params import PrepareParams
from dgs_utils.store.atomic import atomic
from dgs_utils.store.partial_results import verify_or_remove, write_verified
from dgs_utils.store.paths import HUB_DATASETS, resolve_path

DOWNLOADS = ".download"  # folder of what torchvision downloads, in a stage folder until it is written as images
FASTAI = "https://s3.amazonaws.com/fast-ai-imageclas/"
FASTAI_ARCHIVES = {  # (data set, shorter side) -> address, checksum; those of ImageNette are torchvision's too
    ("imagewoof", "full"): (f"{FASTAI}imagewoof2.tgz", "md5:9aafe18bcdb1632c4249a76c458465ba"),
    ("imagewoof", "320"): (f"{FASTAI}imagewoof2-320.tgz", "md5:0f46d997ec2264e97609196c95897a44"),
    ("imagewoof", "160"): (f"{FASTAI}imagewoof2-160.tgz", "md5:3d200a7be99704a0d7509be2a9fbfe15"),
    ("imagenette", "full"): (f"{FASTAI}imagenette2.tgz", "md5:fe2fc210e6bb7c5664d602c3cd71e612"),
    ("imagenette", "320"): (f"{FASTAI}imagenette2-320.tgz", "md5:3df6f0d01a2c9592104656642f5e78a3"),
    ("imagenette", "160"): (f"{FASTAI}imagenette2-160.tgz", "md5:e793b78cc4c9e9a4ccc0c1155377a412"),
}
FASHION = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def open_dataset(params: PrepareParams, folder: Path, progress: Callable, warn: Callable[[str], None]) -> Path:
    """Return the folder with a data set's images, which are written into the stage folder if they are no files yet.

    Raises:
        ValueError: an unknown root, or a download or archive that failed.
    """
    if params.dataset == "digits":
        return _write_digits(folder, progress)
    if params.dataset == "fashion":
        return _write_fashion(params, folder, progress)
    if params.dataset == "cifar10" and not params.root:
        cure = "its images elsewhere and point prepare.root at a folder with train and val, or at train.zip and val.zip"
        return _write_torchvision("CIFAR10", "CIFAR-10", folder, progress, f"{cure} in one")
    return _open_files(params, folder, progress, warn)


def _write_digits(folder: Path, progress: Callable) -> Path:
    """Write scikit-learn's 1,797 scanned digits (8 × 8 pixels, 17 grey levels) as PNG files."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    return _write_images(folder / "images", images, bunch.target, progress)


def _write_fashion(params: PrepareParams, folder: Path, progress: Callable) -> Path:
    """Write Fashion-MNIST from torchvision's download or a local copy of its archives."""
    if params.root:
        root = resolve_path(params.root)
        archives = list(root.rglob("*-ubyte.gz"))
        if len(archives) != 4:
            raise ValueError(f"{root} holds {len(archives)} of the four Fashion-MNIST archives (*-ubyte.gz); point "
                             f"prepare.root at the folder that has them")
        raw = folder / DOWNLOADS / "FashionMNIST" / "raw"  # torchvision unpacks beside the archives, so it gets a copy
        raw.mkdir(parents=True, exist_ok=True)
        for archive in archives:
            shutil.copy(archive, raw)
    return _write_torchvision("FashionMNIST", "Fashion-MNIST", folder, progress,
                              "its four archives (*-ubyte.gz) elsewhere and point prepare.root at their folder")


def _write_torchvision(name: str, title: str, folder: Path, progress: Callable, cure: str) -> Path:
    """Write train and test images of one of torchvision's data sets as PNG files; CIFAR-10's classes by name."""
    from torchvision import datasets

    for split, train in (("train", True), ("val", False)):
        try:
            data = getattr(datasets, name)(str(folder / DOWNLOADS), train=train, download=True)
        except (RuntimeError, OSError) as error:  # no network, or archives that are not the published ones
            raise ValueError(f"{title} could not be downloaded ({str(error).splitlines()[0]}); fetch {cure}") from None
        labels = np.asarray(data.targets)
        labels = labels if name == "FashionMNIST" else np.array(data.classes)[labels]
        _write_images(folder / "images" / split, np.asarray(data.data), labels, progress)
    shutil.rmtree(folder / DOWNLOADS)
    return folder / "images"


def _write_images(root: Path, images: np.ndarray, labels: np.ndarray, progress: Callable) -> Path:
    if root.is_dir():
        return root
    with atomic(root) as partial:
        for label in np.unique(labels):
            (partial / str(label)).mkdir(parents=True)
        numbers = pd.Series(labels).groupby(labels).cumcount()
        for image, label, number in progress(list(zip(images, labels, numbers, strict=True)), label="images"):
            Image.fromarray(image).save(partial / str(label) / f"{number}.png")
    return root


def _open_files(params: PrepareParams, folder: Path, progress: Callable, warn: Callable[[str], None]) -> Path:
    """Open a folder of images; an archive, or all of a folder that holds nothing else, is unpacked first.

    Images of the hub, of parquet files and of webdataset archives are written as files.
    """
    target, column = folder / "images", ""
    if params.root.startswith(HUB_DATASETS):
        root, column = hub_datasets.download(params.root, folder)
    elif params.root:
        root = resolve_path(params.root)
        if not root.exists():
            raise ValueError(f"prepare.root is {root}, which does not exist; give a folder, a .zip or a .tgz, or "
                             f"{HUB_DATASETS}OWNER/NAME")
    elif (params.dataset, params.archive) in FASTAI_ARCHIVES:
        root = fetch(*FASTAI_ARCHIVES[params.dataset, params.archive], progress)
    else:
        raise ValueError(f"prepare.root is empty and {params.dataset} cannot be downloaded; "
                         f"give the folder with its images")
    if not (params.root.startswith(HUB_DATASETS) or hub_datasets.needs_writing(root)):
        return root  # beside images, an archive is an old copy
    if not verify_or_remove(target):
        with write_verified(target) as partial:
            partial.mkdir(parents=True)
            hub_datasets.write_files(root, partial, params.class_folders(), column, progress, warn)
    return target
