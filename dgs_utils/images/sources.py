"""Sources of the originals: arrays inside a package, downloads, archives, or a folder. Each ends as a folder of images.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from dgs_utils.artifacts.files import atomic
from dgs_utils.artifacts.parts import is_whole, kept
from dgs_utils.artifacts.places import locate
from dgs_utils.images.archives import bounds_of, is_archive, unpack_all
from dgs_utils.images.download import fetch
from dgs_utils.images.trees import count_images, entries
from dgs_utils.params import PrepareParams

FASTAI = "https://s3.amazonaws.com/fast-ai-imageclas/"
ARCHIVES = {  # (data set, shorter side) -> address, checksum; those of ImageNette are torchvision's too
    ("imagewoof", "full"): (f"{FASTAI}imagewoof2.tgz", "md5:9aafe18bcdb1632c4249a76c458465ba"),
    ("imagewoof", "320"): (f"{FASTAI}imagewoof2-320.tgz", "md5:0f46d997ec2264e97609196c95897a44"),
    ("imagewoof", "160"): (f"{FASTAI}imagewoof2-160.tgz", "md5:3d200a7be99704a0d7509be2a9fbfe15"),
    ("imagenette", "full"): (f"{FASTAI}imagenette2.tgz", "md5:fe2fc210e6bb7c5664d602c3cd71e612"),
    ("imagenette", "320"): (f"{FASTAI}imagenette2-320.tgz", "md5:3df6f0d01a2c9592104656642f5e78a3"),
    ("imagenette", "160"): (f"{FASTAI}imagenette2-160.tgz", "md5:e793b78cc4c9e9a4ccc0c1155377a412"),
}
FASHION = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def open_source(params: PrepareParams, folder: Path, progress: Callable) -> Path:
    """Return the folder with a data set's images; what has no files yet is written into the stage folder.

    Raises:
        ValueError: an unknown root, or a download or archive that failed.
    """
    sources = {"digits": _digits, "fashion": _fashion, "cifar10": _cifar10}
    return sources.get(params.dataset, _files)(params, folder, progress)


def _digits(params: PrepareParams, folder: Path, progress: Callable) -> Path:
    """Write scikit-learn's 1,797 scanned digits (8 × 8 pixels, 17 grey levels) as PNG files."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    return _write_images(folder / "images", images, bunch.target, progress)


def _cifar10(params: PrepareParams, folder: Path, progress: Callable) -> Path:
    """Write CIFAR-10 as PNG files from torchvision's download, or open a root: a folder, or one of two archives."""
    if params.root:
        return _files(params, folder, progress)
    from torchvision.datasets import CIFAR10

    scratch = folder / ".cifar10"
    for split, train in (("train", True), ("val", False)):
        try:
            data = CIFAR10(str(scratch), train=train, download=True)
        except (RuntimeError, OSError) as error:
            raise ValueError(f"CIFAR-10 could not be had ({str(error).splitlines()[0]}); fetch its images elsewhere "
                             f"and point prepare.root at a folder with train and val, or at train.zip and val.zip "
                             f"in one") from None
        _write_images(folder / "images" / split, data.data, np.array(data.classes)[data.targets], progress)
    shutil.rmtree(scratch)
    return folder / "images"


def _fashion(params: PrepareParams, folder: Path, progress: Callable) -> Path:
    """Write Fashion-MNIST as PNG files, from torchvision's download or a local copy of its archives."""
    from torchvision.datasets import FashionMNIST

    scratch = folder / ".fashion"  # torchvision unpacks beside the archives, so it gets a copy
    if params.root:
        archives = list(locate(params.root).rglob("*-ubyte.gz"))
        if len(archives) != 4:
            raise ValueError(f"{locate(params.root)} holds {len(archives)} of the four Fashion-MNIST archives "
                             f"(*-ubyte.gz); point prepare.root at the folder that has them")
        (scratch / "FashionMNIST" / "raw").mkdir(parents=True, exist_ok=True)
        for archive in archives:
            shutil.copy(archive, scratch / "FashionMNIST" / "raw")
    for split, train in (("train", True), ("val", False)):
        try:
            data = FashionMNIST(str(scratch), train=train, download=True)
        except (RuntimeError, OSError) as error:  # no network, or archives that are not the published ones
            raise ValueError(f"Fashion-MNIST could not be had ({str(error).splitlines()[0]}); fetch its four archives "
                             f"(*-ubyte.gz) elsewhere and point prepare.root at their folder") from None
        _write_images(folder / "images" / split, data.data.numpy(), data.targets.numpy(), progress)
    shutil.rmtree(scratch)
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


def _files(params: PrepareParams, folder: Path, progress: Callable) -> Path:
    """Open a folder of images; archives (given, all that the given folder holds, or downloaded) are unpacked first."""
    if params.root:
        root = locate(params.root)
        if not root.exists():
            raise ValueError(f"prepare.root is {root}, which does not exist; give a folder, a .zip or a .tgz")
    elif (params.dataset, params.archive) in ARCHIVES:
        root = fetch(*ARCHIVES[params.dataset, params.archive], progress)
    else:
        raise ValueError(f"prepare.root is empty and {params.dataset} cannot be downloaded; "
                         f"give the folder with its images")
    archives = [root] if root.is_file() else archives_in(root)
    if not archives:
        return root
    target = folder / "images"
    if not is_whole(target):
        with kept(target) as partial:
            partial.mkdir(parents=True)
            unpack_all(list(progress(archives, label="archives")), partial, bounds_of(params))
    return target


def archives_in(root: Path) -> list[Path]:
    """Return the archives in a folder if they are all that it has: beside images, one is somebody's old copy."""
    found = [root / file for file in entries(root)[1] if is_archive(root / file)]
    return [] if found and count_images(root) else found
