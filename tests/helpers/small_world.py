"""A small real data set with everything stages 03–05 need: digit scans, a quickly trained classifier, a "pool"."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits

from dgs_utils.classifiers.networks import build_network
from dgs_utils.classifiers.preprocessing import ResizeCrop
from dgs_utils.classifiers.scorer import Classifier, ClassifierConfig
from dgs_utils.difficulty import score_source
from dgs_utils.params import validate
from dgs_utils.store import atomic as files
from dgs_utils.store import session as run
from dgs_utils.transform import read_sets, transform_sets

CLASSES = ("0", "1", "2")
BATCH = 20  # scans that the scorer below learns from at a step


@contextmanager
def outputs_below(root: Path) -> Iterator[None]:
    """Let stages inside the block land below a folder, for fixtures that live longer than a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DGS_OUTPUTS", str(root / "outputs"))
        yield


def write_digits(root: Path, start: int, stop: int, classes=CLASSES) -> Path:
    """Write the start-th to stop-th scan of each class as ``root/<class>/<i>.png``."""
    bunch = load_digits()
    for name in classes:
        (root / name).mkdir(parents=True)
        scans = bunch.images[bunch.target == int(name)][start:stop]
        for i, scan in enumerate(np.round(scans * 255 / 16).astype(np.uint8)):
            Image.fromarray(scan).save(root / name / f"{i}.png")
    return root


@cache
def small_classifier(classes: int = 3, steps: int = 30) -> Classifier:
    """Train a ConvNet-3 at 8 pixels on scans that no test uses otherwise, some at a time; takes about a second."""
    bunch = load_digits()
    config = ClassifierConfig("dgs:convnet3", classes, ResizeCrop(8, 8, (0.5,) * 3, (0.5,) * 3), "batch")
    torch.manual_seed(0)
    network = build_network("convnet3", classes, 8, "batch")
    scorer = Classifier(network, config)
    keep = bunch.target < classes
    pixels = torch.from_numpy(np.round(bunch.images[keep][-200:] * 255 / 16)).unsqueeze(1).repeat(1, 3, 1, 1)
    targets = torch.from_numpy(bunch.target[keep][-200:])
    network.train().requires_grad_(True)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9)
    for _ in range(steps):
        batch = torch.randperm(len(pixels))[:BATCH]
        optimiser.zero_grad()
        F.cross_entropy(scorer(pixels[batch]), targets[batch]).backward()
        optimiser.step()
    return Classifier(network, config)


def open_stage(stage: str, **values) -> run.Run:
    """Open a stage with parameters, as a notebook does."""
    return run.open_node(validate(stage, values))


def make_prepare(root: Path, classes=CLASSES, val: int = 0) -> Path:
    """Write a finished 00 folder over the images in ``root``, the first ``val`` a class held out, and return it."""
    run = open_stage("00_prepare", dataset="folder", root=str(root), base_model="none")
    table = pd.DataFrame({"class": classes, "index": range(len(classes)), "name": classes})
    table.insert(0, "label", range(len(classes)))
    files.write_csv(run.folder / "classes.csv", table)
    rows = [(f"{name}/{file.name}", "val" if place < val else "train", name, label)
            for label, name in enumerate(classes) for place, file in enumerate(sorted((root / name).iterdir()))]
    originals = pd.DataFrame(rows, columns=["file_name", "split", "class", "label"])
    files.write_csv(run.folder / "originals.csv", originals)
    files.write_json(run.folder / "dataset.json",
                         {"dataset": "folder", "root": str(root), "channels": 1, "split": "holdout"})
    small_classifier(len(classes)).save(run.folder / "classifier")
    run.finish()
    return run.folder


def make_pool(root: Path, prepare: Path, classes=CLASSES) -> Path:
    """Write a finished 02 folder with the images in ``root`` and return it."""
    run = open_stage("02_pool", generator="folder", root=str(root), prepare=str(prepare))
    rows = []
    for label, name in enumerate(classes):
        (run.folder / "images" / name).mkdir(parents=True)
        for file in sorted((root / name).iterdir()):
            target = run.folder / "images" / name / file.name
            target.write_bytes(file.read_bytes())
            rows.append((f"images/{name}/{file.name}", name, label, int(file.stem)))
    table = pd.DataFrame(rows, columns=["file_name", "class", "label", "index"]).assign(generator=root.name)
    files.write_csv(run.folder / "metadata.csv", table)
    run.finish()
    return run.folder


def make_world(root: Path, classes=CLASSES, val: int = 0, change: Callable = lambda pool: None,
               **scoring: str) -> dict[str, Path]:
    """Write finished folders of 00, 02, 03 (twice) and 04 over real scans, 25 images a class in the pool, for IPC 5.

    ``change`` may change the folder of the pool's images before; ``scoring`` are parameters of 03.
    """
    prepare = make_prepare(write_digits(root / "originals", 0, 60, classes), classes, val)
    change(write_digits(root / "pool", 60, 90, classes))
    folders = {"prepare": prepare, "pool": make_pool(root / "pool", prepare, classes)}
    for source, inputs in (("originals", ()), ("pool", ("pool", "originals"))):
        run = open_stage("03_difficulty", source=source, prepare=str(prepare), **scoring,
                         **{n: str(folders[n]) for n in inputs})
        score_source(run)
        run.finish()
        folders["scores" if source == "pool" else "originals"] = run.folder
    run = open_stage("04_transform", pool_scores=str(folders["scores"]), original_scores=str(folders["originals"]),
                     ipc=5)
    transform_sets(run, read_sets(run))
    run.finish()
    return folders | {"transform": run.folder}
