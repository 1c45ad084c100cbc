"""Stage 06: classifiers trained on a distilled set and tested on real images (§3.1) [F §9].

One node trains one network on one distilled set, `repeats` times with consecutive seeds. Each finished repeat is saved
at once, so that a crash costs at most one training.
"""

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dgs_utils.classifiers.evaluator import Evaluator
from dgs_utils.classifiers.image_tensors import ImageTensors, load_images
from dgs_utils.classifiers.networks import build_network
from dgs_utils.classifiers.protocols import PROTOCOLS
from dgs_utils.classifiers.recipes import Recipe, recipe_of
from dgs_utils.classifiers.run_teachers import has_soft_labels, label_columns, open_soft_labels, open_teacher
from dgs_utils.classifiers.soft_labels import SoftLabels, Teacher
from dgs_utils.classifiers.test_copies import check_overlap, find_test_copies
from dgs_utils.classifiers.training import Outcome
from dgs_utils.images.classes import read_classes
from dgs_utils.images.image_set import ImageSet
from dgs_utils.images.pixels import read_header
from dgs_utils.params.dataset_defaults import MAX_SIDE
from dgs_utils.params.types import OWN_NORM, is_library_network
from dgs_utils.results.correctness import count_confusions
from dgs_utils.results.provenance_columns import find_method, provenance_row
from dgs_utils.results.tracking import check_tracker, track_evaluation
from dgs_utils.runtime.compiling import compile_switch
from dgs_utils.runtime.devices import resolve_device
from dgs_utils.runtime.progress import no_progress
from dgs_utils.runtime.seeds import torch_seeded
from dgs_utils.runtime.table_io import read_table
from dgs_utils.store.atomic import atomic, write_csv
from dgs_utils.store.checkpoint import Checkpointer
from dgs_utils.store.manifest import parameter
from dgs_utils.store.partial_results import verify_or_remove, write_verified, write_verified_csv
from dgs_utils.store.session import BATCH, Run

# ---- Images and networks ---------------------------------------------------------------------------------------------

def evaluate_set(train: ImageSet | ImageTensors, test: ImageSet | ImageTensors, network: str = "convnet3",
                 protocol: str = "idc", seeds: Iterable[int] = (0,), *, image_size: int = 0, norm: str = "instance",
                 ipc: int = -1, teacher: Teacher | SoftLabels | None = None, method: str = "",
                 pool_seed: int | str = "", selection_seed: int | str = "", device: str = "auto", workers: int = 0,
                 progress: Callable = no_progress, allow_test_images: bool = False, **settings: Any) -> pd.DataFrame:
    """Train a network on a set and test it on another, once for each seed.

    Args:
        train: the images to train on, as files or uint8 tensors (N, 3, S, S) with labels (N,) from 0.
        test: those to test on, with the same classes.
        network: a name that `networks.build_network` takes, such as "resnet18" or "timm:vit_tiny_patch16_224".
        protocol: a name of `protocols.PROTOCOLS`.
        seeds: of the trainings; each names the initial weights and every draw.
        image_size: side in pixels that files are brought to; tensors have theirs.
        norm: "instance" or "batch"; networks of libraries have their own.
        ipc: images per class that the protocol goes by; −1 = their mean, so that a set of unequal classes is trained
            for as many steps as one of equal classes with as many images; 0 = the full set.
        teacher: gives soft labels, for protocols that want them (see `teacher_of`); or `soft_labels.SoftLabels`.
        method, pool_seed, selection_seed: what made the set, for `results.comparisons`; "" where there is no such seed.
        device: where the training runs.
        workers: threads that read images; 0 = one per core.
        progress: wraps the epochs.
        allow_test_images: copies of test images in the set give a warning, as data sets with duplicates of their own
            need it, instead of an error.
        settings: epochs, epoch_factor, batch_size, learning_rate, evaluations, augment, flip, tiles, precision and
            compile of `recipe_of`.

    Returns:
        One row a training, with the columns of 06's ``results.csv`` that need no folder: method, ipc, pool_seed,
        selection_seed, protocol, label (the family of published numbers), network, norm, image_size, epochs,
        epoch_factor, batch_size, learning_rate, flip, precision, evaluations, augment, steps (batches trained on),
        training_seed, best and last top-1 in percent, best_epoch, n_test.

    Raises:
        ValueError: unknown names, a network that does not suit the size, classes or sizes that differ, a copy of
            a test image among those to train on, or a protocol without its teacher.
    """
    size = _common_size(train, test, image_size)
    check_network(network, size, norm)
    if isinstance(train, ImageSet) and isinstance(test, ImageSet):
        if train.classes != test.classes:
            raise ValueError(f"{train.root} has the classes {train.classes} and {test.root} has {test.classes}; "
                             f"read both with the same list of classes")
        if not allow_test_images:
            check_overlap(train, test)
    labels, classes = _labels(train), int(max(_labels(train).max(), _labels(test).max())) + 1
    planned = mean_ipc(len(labels), len(np.unique(labels))) if ipc < 0 else ipc
    recipe = recipe_of(protocol, planned, classes=classes, **settings)
    if recipe.protocol.temperature and teacher is None:
        raise ValueError(f"protocol {protocol} trains on soft labels; give a teacher, such as teacher_of(scorer)")
    on = resolve_device(device)
    train_tensors = as_tensors(train, size, workers).to(on)
    test_tensors = as_tensors(test, size, workers, recipe.protocol.test_zoom).to(on)
    cure = "" if allow_test_images else "take them out, or give allow_test_images=True"
    zoom = recipe.protocol.test_zoom
    if sentence := find_test_copies(train, test, train_tensors, test_tensors, zoom, cure, workers=workers):
        warnings.warn(sentence, stacklevel=2)
    row = {"method": method, "ipc": planned, "pool_seed": pool_seed, "selection_seed": selection_seed}
    row |= training_columns(recipe, protocol, network, norm, size, planned, classes)
    row |= {"flip": settings.get("flip", True), "precision": recipe.precision,
            "augment": settings.get("augment", True),
            "steps": recipe.epochs * -(-len(labels) // recipe.batch_size)}
    evaluator = Evaluator(network, train_tensors, test_tensors, recipe, classes, norm, teacher)
    return pd.DataFrame([row | outcome_columns(seed, evaluator.train(seed, progress)) for seed in seeds])


def mean_ipc(images: int, classes: int) -> int:
    """Return the mean number of images of a class, a whole number of at least 1, half rounded up."""
    return max((2 * images + classes) // (2 * classes), 1)


def _common_size(train: ImageSet | ImageTensors, test: ImageSet | ImageTensors, image_size: int) -> int:
    """Return the side of the images in pixels: that of the tensors, or ``image_size``."""
    sides = {int(images.images.shape[-1]) for images in (train, test) if isinstance(images, ImageTensors)}
    sides |= {image_size} if image_size else set()
    if len(sides) != 1:
        sizes = f"are {' and '.join(map(str, sorted(sides)))} pixels wide" if sides else "come as files"
        raise ValueError(f"the images {sizes}; give one image_size that both sets have or are to be brought to")
    return sides.pop()


def _labels(images: ImageSet | ImageTensors) -> np.ndarray:
    return images.labels if isinstance(images, ImageSet) else images.labels.cpu().numpy()


def as_tensors(images: ImageSet | ImageTensors, size: int, workers: int = 0, zoom: float = 1.0) -> ImageTensors:
    """Return images as uint8 tensors; files are read by `image_tensors.load_images`."""
    return images if isinstance(images, ImageTensors) else load_images(images, size, workers, zoom=zoom)


def check_network(network: str, size: int, norm: str) -> None:
    """Raise ValueError if a network is unknown or does not suit the size, before long work."""
    with torch_seeded("evaluate", "trial"):
        build_network(network, 2, size, norm)


def training_columns(recipe: Recipe, protocol: str, network: str, norm: str, image_size: int, ipc: int,
                     classes: int = 10) -> dict[str, Any]:
    """Return the columns of ``results.csv`` on how a network was trained."""
    norm = OWN_NORM if is_library_network(network) else norm
    return {"protocol": protocol, "label": recipe.protocol.label, "network": network, "norm": norm,
            "image_size": image_size, "epochs": recipe.epochs,
            "epoch_factor": recipe.epochs / recipe.protocol.epochs(ipc, 1.0, classes), "batch_size": recipe.batch_size,
            "learning_rate": recipe.learning_rate, "evaluations": recipe.evaluations}


def outcome_columns(seed: int, outcome: Outcome) -> dict[str, Any]:
    """Return the columns of ``results.csv`` on the outcome of a training."""
    return {"training_seed": seed, "best": outcome.best, "last": outcome.last, "best_epoch": outcome.best_epoch,
            "n_test": len(outcome.predictions)}


# ---- The stage -------------------------------------------------------------------------------------------------------

def describe(run: Run) -> dict[str, Any]:
    """Return what every row of the results says about the distilled set and the teacher."""
    prepare = run.inputs["prepare"]
    has_teacher = bool(PROTOCOLS[run.params.protocol].temperature)
    return provenance_row(run.inputs["distilled"], prepare, run.inputs.get("teacher", prepare) if has_teacher else None)


def test_list_hash(test: ImageSet) -> str:
    """Return eight hex digits that identify a test set: class and file name of each image, in any order."""
    names = sorted(map("/".join, zip(test.table["class"], test.table["file_name"], strict=True)))
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:8]


def open_sets(run: Run) -> tuple[ImageSet, ImageSet]:
    """Return the distilled set and the real test set, after checking that they match.

    Warns of classes of unequal size, and of images that are not RGB or smaller than those of the test.

    Raises:
        ValueError: an unknown tracker, the network does not suit the image size, a class is missing from either set,
            or a test image is among the training images.
    """
    check_tracker(run.params.tracker)
    names = list(read_classes(run.inputs["prepare"])["class"])
    test = ImageSet.read(run.inputs["prepare"], "val", classes=names)
    run.resolve_open("image_size", lambda: test.side(MAX_SIDE))
    check_network(run.params.network, run.params.image_size, run.params.norm)
    train = ImageSet.read(run.inputs["distilled"], classes=names, warn=run.warn)
    originals = ImageSet.read(run.inputs["prepare"], "train", classes=names)
    for images in (originals, *([] if run.params.allow_test_images else [train])):
        check_overlap(images, test)
    _warn_about_images(run, train, test)
    return train, test


def _warn_about_images(run: Run, train: ImageSet, test: ImageSet) -> None:
    folder, counts = run.inputs["distilled"], train.table.groupby("class").size()
    if counts.nunique() > 1 and not find_method(describe(run)["method"]).whole:
        run.warn(f"the classes of {folder} have {counts.min()} to {counts.max()} images; epochs follow their mean")
    with train.naming_class():
        headers = [read_header(path) for path in train.paths]
    colours = json.loads((run.inputs["prepare"] / "dataset.json").read_text())["channels"]
    if any(header.animated for header in headers):
        moving = sum(header.animated for header in headers)
        run.warn(f"{moving} of {len(headers)} images of {folder} have several frames; only the first is used")
    others = [header.mode for header in headers if header.mode != "RGB"]
    if others and colours == 3:
        run.warn(f"{len(others)} of {len(headers)} images of {folder} are {', '.join(sorted(set(others)))}; "
                 f"they are converted to RGB")
    smallest, wanted = min(header.side for header in headers), run.params.image_size
    if smallest < wanted <= min(read_header(path).side for path in test.paths):
        run.warn(f"images of {folder} are as small as {smallest} pixels and are enlarged to {wanted}, "
                 f"but those of the test are not")


def run_recipe(run: Run, ipc: int, tiles: int = 1, classes: int = 10) -> Recipe:
    """Return the recipe of the run's parameters (see `recipe_of`)."""
    names = ("epochs", "epoch_factor", "evaluations", "augment", "precision")
    settings = {name: getattr(run.params, name) for name in names}
    flip = parameter(run.inputs["prepare"], "flip")
    return recipe_of(run.params.protocol, ipc, classes=classes, tiles=tiles, flip=flip, compile=compile_switch(),
                     **settings)


def evaluate(run: Run, train: ImageSet, test: ImageSet) -> pd.DataFrame:
    """Train and test all repeats on the sets of `open_sets`, and write the results; return ``results.csv``.

    Writes ``results.csv`` (one row a training: everything that tells it apart, best and last top-1 in percent, tests),
    ``curves.csv``, ``per_class.csv`` and ``confusion.csv`` (of the last epoch), ``correct.npz`` (per image, packed
    bits; ``correct_best.npz`` of the best epoch), ``timing.csv`` (of each training, and whether compiled), and stored
    soft labels (`soft_labels.soft_labels_file`) where they are asked for and the set has none.
    """
    if run.cached:
        return read_table(run.folder / "results.csv")
    params, device = run.params, resolve_device()
    row, ipc = describe(run), mean_ipc(len(train), train.table["class"].nunique())
    method = find_method(row["method"])
    planned = 0 if method.whole else ipc
    recipe = run_recipe(run, planned, method.tiles, len(test.classes))
    seeds = range(params.seed, params.seed + params.repeats)
    if not (all(_is_done(run, seed) for seed in seeds) and has_soft_labels(run)):
        train_tensors = as_tensors(train, params.image_size).to(device)
        test_tensors = as_tensors(test, params.image_size, zoom=recipe.protocol.test_zoom).to(device)
        cure = "" if params.allow_test_images else "take them out, or set evaluate.allow_test_images to true"
        zoom = recipe.protocol.test_zoom
        if sentence := find_test_copies(train, test, train_tensors, test_tensors, zoom, cure,
                                        lambda: ImageSet.read(run.inputs["prepare"], "train", classes=test.classes)):
            run.warn(sentence, decides=True)
        labels = open_soft_labels(run, train, train_tensors, recipe, row)
        teacher = open_teacher(run, device) if labels is None else labels
        if labels is not None:
            train_tensors = labels.in_order(train_tensors, list(train.table["file_name"]))
        evaluator = Evaluator(params.network, train_tensors, test_tensors, recipe, len(test.classes), params.norm,
                              teacher, run.warn)
        for seed in seeds:
            if not _is_done(run, seed):
                _train_once(run, seed, evaluator)
    row |= {"ipc": planned if row["budget"] else row["ipc"] or planned}
    row |= training_columns(recipe, params.protocol, params.network, params.norm, params.image_size, planned,
                            len(test.classes))
    row |= {"flip": parameter(run.inputs["prepare"], "flip"), "precision": params.precision, "key": run.key,
            "augment": params.augment, "test_list": test_list_hash(test), **label_columns(run, train),
            "steps": recipe.epochs * -(-len(train) // recipe.batch_size)}
    run.count = params.repeats
    results = _write_results(run, row, seeds, test)
    if BATCH not in os.environ and params.tracker:  # else the runner does, with the executed notebook
        try:
            track_evaluation(run.folder, params.tracker)
        except Exception as error:  # each tracker has errors of its own, and the trainings are done
            run.warn(f"{params.tracker} did not take the results ({error}); run the last cells again when it does")
    return results


def _paths(run: Run, seed: int) -> tuple[Path, Path]:
    return run.folder / "repeats" / f"{seed}.csv", run.folder / "repeats" / f"{seed}.npy"


def _is_done(run: Run, seed: int) -> bool:
    return all(map(verify_or_remove, _paths(run, seed)))


def _train_once(run: Run, seed: int, evaluator: Evaluator) -> None:
    started, checkpointer = time.perf_counter(), Checkpointer(run.folder / "checkpoints" / f"{seed}.pt")
    outcome = evaluator.train(seed, run.progress, checkpointer)
    seconds = time.perf_counter() - started
    curve, predictions = _paths(run, seed)
    write_verified_csv(curve, outcome.curve)
    with write_verified(predictions) as partial, partial.open("wb") as file:
        np.save(file, np.stack([outcome.predictions, outcome.best_predictions]))
    checkpointer.clear()
    images = evaluator.recipe.epochs * len(evaluator.train_set.labels)
    line = {"training_seed": seed, "seconds": seconds, "images_per_second": images / seconds,
            "compiled": outcome.compiled}
    path = run.folder / "timing.csv"
    before = read_table(path) if verify_or_remove(path) else pd.DataFrame()
    write_verified_csv(path, pd.concat([before, pd.DataFrame([line])]))


def _write_results(run: Run, row: dict, seeds: range, test: ImageSet) -> pd.DataFrame:
    rows, curves, per_class, confusion = [], [], [], []
    correct: dict[str, Any] = {}
    correct_best: dict[str, Any] = {}
    for seed in seeds:
        curve, (predictions, best) = read_table(_paths(run, seed)[0]), np.load(_paths(run, seed)[1])
        outcome = Outcome(curve, predictions, best)
        rows.append(row | outcome_columns(seed, outcome))
        curves.append(curve.assign(training_seed=seed))
        right = np.bincount(test.labels[predictions == test.labels], minlength=len(test.classes))
        shares = 100 * right / np.bincount(test.labels)
        per_class.append(pd.DataFrame({"training_seed": seed, "class": test.classes, "top1": shares}))
        true, predicted = (np.array(test.classes, dtype=object)[labels] for labels in (test.labels, predictions))
        confusion.append(count_confusions(true, predicted, test.classes).assign(training_seed=seed))
        correct[str(seed)], correct_best[str(seed)] = (np.packbits(p == test.labels) for p in (predictions, best))
    results = pd.DataFrame(rows)
    write_csv(run.folder / "curves.csv", pd.concat(curves))
    write_csv(run.folder / "per_class.csv", pd.concat(per_class))
    write_csv(run.folder / "confusion.csv", pd.concat(confusion))
    for name, bits in (("correct", correct), ("correct_best", correct_best)):
        with atomic(run.folder / f"{name}.npz") as partial, partial.open("wb") as file:
            np.savez(file, **bits)
    write_csv(run.folder / "results.csv", results)
    return results
