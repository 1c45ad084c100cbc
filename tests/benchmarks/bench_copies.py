"""Which copies are found, what real images are taken for copies, and how long it takes.

``python tests/benchmarks/bench_copies.py [FOLDER]`` with the folder that has cifar10/val.zip and train.zip, and
FashionMNIST/raw. Times are processor time, beyond decoding. Perceptual hashes of imagehash and imagededup, where they
are installed, seek the same copies, at the number of bits at which at most 1 in 1,000 test images is taken for another.
"""

import gzip
import importlib.util
import io
import os
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))
from image_copies import PLANTED, hash_distances, planted

from dgs_utils.images.near_duplicates import find_pairs


def cifar(folder: Path, split: str) -> np.ndarray:
    with zipfile.ZipFile(folder / "cifar10" / f"{split}.zip") as members:
        names = sorted(name for name in members.namelist() if not name.endswith("/"))
        return np.stack([np.asarray(Image.open(io.BytesIO(members.read(name))).convert("RGB")) for name in names])


def fashion(folder: Path, train: bool) -> np.ndarray:
    name = f"{'train' if train else 't10k'}-images-idx3-ubyte.gz"
    with gzip.open(folder / "FashionMNIST" / "raw" / name) as file:
        return np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28, 1).repeat(3, 3)


def main(folder: Path) -> None:
    sets = {"CIFAR-10": [cifar(folder, split) for split in ("val", "train")],
            "Fashion-MNIST": [fashion(folder, train) for train in (False, True)]}
    for name, (test, train) in sets.items():
        rows = np.random.default_rng(0).permutation(len(test))[:1000]
        bits = {}
        for package in filter(importlib.util.find_spec, ("imagehash", "imagededup")):
            others = hash_distances(test[rows], test, package)
            others[np.arange(len(rows)), rows] = 99
            bits[package] = np.sort(others.min(1))[len(rows) // 1000] - 1
        for kind in PLANTED:
            copies = planted([Image.fromarray(image) for image in test[rows]], kind)
            pairs = find_pairs(copies, test)
            own = pairs[rows[pairs["first"]] == pairs["second"]]
            line = (f"{name}, {kind}: {own['first'].nunique() / len(rows):.1%} of {len(rows):,} found among "
                    f"{len(test):,}, {own[own['same']]['first'].nunique() / len(rows):.1%} as the same")
            for package, most in bits.items():
                theirs = hash_distances(copies, test[rows], package).diagonal() <= most
                line += f"; {theirs.mean():.1%} by {package} at {most:.0f} bits"
            print(line, flush=True)
        for images, others, what in ((test, train, "test against train"), (train, train, "train against train")):
            start = time.process_time()
            pairs = find_pairs(images, None if images is others else others)
            print(f"{name}, {what}, {len(images):,} against {len(others):,}: {pairs['first'].nunique():,} images in "
                  f"{len(pairs):,} pairs, {pairs[pairs['same']]['first'].nunique():,} only saved again; "
                  f"{time.process_time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("DGS_TEST_DATA", "../shared/data")))
