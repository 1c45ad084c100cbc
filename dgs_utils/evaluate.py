"""Stage 06: classifiers trained on a distilled set and tested on real images (§3.1) [F §9].

One node trains one network on one distilled set, `repeats` times with consecutive seeds. Each finished repeat is kept
at once, so that a crash costs one training at the most.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike

from dgs_utils.artifacts.files import atomic, write_csv
from dgs_utils.artifacts.midway import Midway
from dgs_utils.artifacts.parts import is_whole, keep_table, kept
from dgs_utils.artifacts.run import Run
from dgs_utils.classifiers.augmentation import MEAN, STD
from dgs_utils.classifiers.evaluator import Evaluator
from dgs_utils.classifiers.judge import Classifier, load
from dgs_utils.classifiers.networks import build_network
from dgs_utils.classifiers.protocols import PLAIN, PROTOCOLS, augmentation_of
from dgs_utils.classifiers.training import ImageTensors, Outcome, Recipe, Teacher, load_images
from dgs_utils.images.classes import read_classes
from dgs_utils.images.image_sets import ImageSet
from dgs_utils.images.overlap import check_overlap
from dgs_utils.images.pixels import read_header
from dgs_utils.images.tables import read_table
from dgs_utils.results.origin import method_called, origin_of
from dgs_utils.runtime.devices import resolve
from dgs_utils.runtime.parameters import nearest
from dgs_utils.runtime.progress import silent
from dgs_utils.runtime.seeds import torch_seeded

# ---- Images and networks ---------------------------------------------------------------------------------------------

def evaluate_set(train: ImageSet | ImageTensors, test: ImageSet | ImageTensors, network: str = "convnet3",
                 protocol: str = "idc", seeds: Iterable[int] = (0,), *, image_size: int = 0, norm: str = "instance",
                 ipc: int = -1, teacher: Teacher | None = None, method: str = "", pool_seed: int | str = "",
                 selection_seed: int | str = "", device: str = "auto", workers: int = 0, progress: Callable = silent,
                 **settings: Any) -> pd.DataFrame:
    """Train a network on a set and test it on another, once for each seed.

    Args:
        train: the images to train on, as files or uint8 tensors (N, 3, S, S) with labels (N,) from 0.
        test: those to test on, with the same classes.
        network: a name of `networks.NETWORKS`.
        protocol: a name of `protocols.PROTOCOLS`.
        seeds: of the trainings; each names the initial weights and every draw.
        image_size: side in pixels that files are brought to; tensors have theirs.
        norm: "instance" or "batch".
        ipc: images per class that the protocol goes by; −1 = those of the largest class, 0 = the full set.
        teacher: gives soft labels, for protocols that want them (see `teacher_of`).
        method, pool_seed, selection_seed: what made the set, for `results.comparisons`; "" where there is no such seed.
        device: where the training runs.
        workers: threads that read images; 0 = one per core.
        progress: wraps the epochs.
        settings: epochs, epoch_factor, batch_size, learning_rate, evaluations, augment, flip, tiles, precision and
            compile of `recipe_of`.

    Returns:
        One row a training, with the columns of 06's ``results.csv`` that need no folder: method, ipc, pool_seed,
        selection_seed, protocol, label (the family of published numbers), network, norm, image_size, epochs,
        epoch_factor, batch_size, learning_rate, flip, precision, evaluations, augment, steps (batches trained on),
        training_seed, best and last top-1 in percent, best_epoch, n_test.

    Raises:
        ValueError: unknown names, a network that does not suit the size, classes or sizes that differ, a test image
            among those to train on, or a protocol without its teacher.
    """
    size = _size_of(train, test, image_size)
    check_network(network, size, norm)
    if isinstance(train, ImageSet) and isinstance(test, ImageSet):
        if train.classes != test.classes:
            raise ValueError(f"{train.root} has the classes {train.classes} and {test.root} has {test.classes}; "
                             f"read both with the same list of classes")
        check_overlap(train, test)
    labels, classes = _labels_of(train), int(max(_labels_of(train).max(), _labels_of(test).max())) + 1
    planned = int(np.bincount(labels).max()) if ipc < 0 else ipc
    recipe = recipe_of(protocol, planned, classes=classes, **settings)
    if recipe.protocol.temperature and teacher is None:
        raise ValueError(f"protocol {protocol} trains on soft labels; give a teacher, such as teacher_of(judge)")
    where = resolve(device)
    shown = as_tensors(train, size, workers).to(where)
    asked = as_tensors(test, size, workers, recipe.protocol.test_zoom).to(where)
    row = {"method": method, "ipc": planned, "pool_seed": pool_seed, "selection_seed": selection_seed}
    row |= row_of(recipe, protocol, network, norm, size, planned, classes)
    row |= {"flip": settings.get("flip", True), "precision": recipe.precision,
            "augment": settings.get("augment", True),
            "steps": recipe.epochs * -(-len(labels) // recipe.batch_size)}
    evaluator = Evaluator(network, shown, asked, recipe, classes, norm, teacher)
    return pd.DataFrame([row | row_of_outcome(seed, evaluator.train(seed, progress)) for seed in seeds])


def _size_of(train: ImageSet | ImageTensors, test: ImageSet | ImageTensors, image_size: int) -> int:
    """Return the side of the images in pixels: that of the tensors, or what was asked for."""
    sides = {int(images.images.shape[-1]) for images in (train, test) if isinstance(images, ImageTensors)}
    sides |= {image_size} if image_size else set()
    if len(sides) != 1:
        found = f"are {' and '.join(map(str, sorted(sides)))} pixels wide" if sides else "come as files"
        raise ValueError(f"the images {found}; give one image_size that both sets have or are to be brought to")
    return sides.pop()


def _labels_of(images: ImageSet | ImageTensors) -> np.ndarray:
    return images.labels if isinstance(images, ImageSet) else images.labels.cpu().numpy()


def as_tensors(images: ImageSet | ImageTensors, size: int, workers: int = 0, zoom: float = 1.0) -> ImageTensors:
    """Return images as uint8 tensors; files are read by `training.load_images`."""
    return images if isinstance(images, ImageTensors) else load_images(images, size, workers, zoom=zoom)


def check_network(network: str, size: int, norm: str) -> None:
    """Let a network that is unknown or does not suit the size fail before long work."""
    with torch_seeded("evaluate", "trial"):
        build_network(network, 2, size, norm)


def recipe_of(protocol: str, ipc: int, *, classes: int = 10, epochs: int = 0, epoch_factor: float = 1.0,
              batch_size: int = 0, learning_rate: float = 0.0, evaluations: int = 100, augment: bool = True,
              flip: bool = True, tiles: int = 1, precision: str = "fp32", compile: str = "auto") -> Recipe:
    """Return a protocol's recipe with some numbers of one's own.

    Args:
        protocol: a name of `protocols.PROTOCOLS`.
        ipc: images per class; 0: the full set, which is tested every epoch where others are 100 times [F §9.1].
        classes: how many there are.
        epochs: 0 = the protocol's for ``ipc``, times ``epoch_factor``.
        epoch_factor: scales the protocol's epochs.
        batch_size: 0 = the protocol's.
        learning_rate: 0 = the protocol's.
        evaluations: tests during training.
        augment: whether to use the protocol's transforms and CutMix.
        flip: whether a mirrored image still shows its class.
        tiles: the images are mosaics of tiles × tiles crops.
        precision: "fp32" or "bf16".
        compile: "on", "off", or "auto", which runs long trainings through `torch.compile` (`training.compiles_steps`).

    Raises:
        ValueError: an unknown protocol.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"{protocol!r} is no protocol{nearest(protocol, PROTOCOLS)}")
    known = PROTOCOLS[protocol]
    planned = epochs or known.epochs(ipc, epoch_factor, classes)
    return Recipe(
        epochs=planned,
        batch_size=batch_size or known.batch_size(ipc),
        learning_rate=learning_rate or known.learning_rate,
        evaluations=evaluations if ipc or evaluations < 100 else max(evaluations, planned),
        augmentation=augmentation_of(known, flip, tiles) if augment else PLAIN,
        precision=precision,
        protocol=known,
        compile=compile,
    )


def teacher_of(judge: Classifier, index: ArrayLike | None = None) -> Teacher:
    """Return a judge as the teacher of soft labels.

    Args:
        judge: on the device to train on.
        index: shape (classes,), its output of each label; None where label i is output i.
    """
    columns = slice(None) if index is None else torch.tensor(np.asarray(index), device=judge.mean.device)
    size, mean, std = judge.config.crop, judge.mean.new_tensor(MEAN), judge.mean.new_tensor(STD)

    def teach(images: torch.Tensor) -> torch.Tensor:
        pixels = 255 * (images * std[:, None, None] + mean[:, None, None])
        if images.shape[-1] != size:
            pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
        return judge(pixels)[:, columns]

    return teach


def row_of(recipe: Recipe, protocol: str, network: str, norm: str, image_size: int, ipc: int,
           classes: int = 10) -> dict[str, Any]:
    """Return what a row of results says about the training."""
    return {"protocol": protocol, "label": recipe.protocol.label, "network": network, "norm": norm,
            "image_size": image_size, "epochs": recipe.epochs,
            "epoch_factor": recipe.epochs / recipe.protocol.epochs(ipc, 1.0, classes), "batch_size": recipe.batch_size,
            "learning_rate": recipe.learning_rate, "evaluations": recipe.evaluations}


def row_of_outcome(seed: int, outcome: Outcome) -> dict[str, Any]:
    """Return what a row of results says about how one training ended."""
    return {"training_seed": seed, "best": outcome.best, "last": outcome.last, "best_epoch": outcome.best_epoch,
            "n_test": len(outcome.predictions)}


def confusions(labels: np.ndarray, predictions: np.ndarray, names: list[str]) -> pd.DataFrame:
    """Return what is taken for what, a row a pair of classes that occurs: true, predicted, images.

    So names of classes stand in cells only, where a class may be called "true", too.
    """
    pairs = pd.DataFrame({"true": labels, "predicted": predictions}).groupby(["true", "predicted"])
    found = pairs.size().reset_index(name="images")
    return found.assign(**{column: np.array(names, dtype=object)[found[column]] for column in ("true", "predicted")})


# ---- The stage -------------------------------------------------------------------------------------------------------

def describe(run: Run) -> dict[str, Any]:
    """Return what every row of the results says about the distilled set and the teacher (`results.origin`)."""
    prepare = run.inputs["prepare"]
    has_teacher = bool(PROTOCOLS[run.params.protocol].temperature)
    return origin_of(run.inputs["distilled"], prepare, run.inputs.get("teacher", prepare) if has_teacher else None)


def test_list_of(test: ImageSet) -> str:
    """Return eight hex digits of which images a test has: class and file name of each, in any order."""
    names = sorted(map("/".join, zip(test.table["class"], test.table["file_name"], strict=True)))
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:8]


def open_sets(run: Run) -> tuple[ImageSet, ImageSet]:
    """Return the distilled set and the real test set after checking that they go together.

    Warnings go to the run: classes of unequal size, images that are not RGB, or smaller than those of the test.

    Raises:
        ValueError: the network does not suit the image size, a class is missing from either set, or a test image
            is among the training images.
    """
    check_network(run.params.network, run.params.image_size, run.params.norm)
    names = list(read_classes(run.inputs["prepare"])["class"])
    train = ImageSet.read(run.inputs["distilled"], classes=names, warn=run.warn)
    test = ImageSet.read(run.inputs["prepare"], "val", classes=names)
    for images in (train, ImageSet.read(run.inputs["prepare"], "train", classes=names)):
        check_overlap(images, test)
    _warn_about_images(run, train, test)
    return train, test


def _warn_about_images(run: Run, train: ImageSet, test: ImageSet) -> None:
    folder, counts = run.inputs["distilled"], train.table.groupby("class").size()
    if counts.nunique() > 1 and not method_called(describe(run)["method"]).whole:
        run.warn(f"the classes of {folder} hold {counts.min()} to {counts.max()} images; epochs follow the largest")
    with train.class_named():
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


def recipe_of_run(run: Run, ipc: int, tiles: int = 1, classes: int = 10) -> Recipe:
    """Return the recipe of the run's parameters (see `recipe_of`)."""
    names = ("epochs", "epoch_factor", "batch_size", "learning_rate", "evaluations", "augment", "flip", "precision",
             "compile")
    settings = {name: getattr(run.params, name) for name in names}
    return recipe_of(run.params.protocol, ipc, classes=classes, tiles=tiles, **settings)


def open_teacher(run: Run, device: torch.device) -> Teacher | None:
    """Return the run's teacher of the classes at hand, or None where the protocol has hard labels.

    Raises:
        ValueError: it is of other classes, or was trained on a test image.
    """
    if not PROTOCOLS[run.params.protocol].temperature:
        return None
    prepare = run.inputs["prepare"]
    folder = run.inputs.get("teacher", prepare)
    names, known = (list(read_classes(place)["class"]) for place in (prepare, folder))
    if names != known:
        raise ValueError(f"evaluate.teacher is {folder}, which knows the classes {', '.join(known)}, and "
                         f"{prepare} has {', '.join(names)}; train the teacher on the same classes, in the same order")
    if folder != prepare:
        check_overlap(ImageSet.read(folder, "train"), ImageSet.read(prepare, "val"))
    return teacher_of(load(folder / "classifier").to(device), read_classes(folder)["index"])


def evaluate(run: Run, train: ImageSet, test: ImageSet) -> pd.DataFrame:
    """Train and test all repeats on the sets of `open_sets`, and write the results; return ``results.csv``.

    Writes ``results.csv`` (one row a training: everything that tells it apart, best and last top-1 in percent, tests),
    ``curves.csv``, ``per_class.csv`` and ``confusion.csv`` (of the last epoch), ``correct.npz`` (per image, packed
    bits; ``correct_best.npz`` of the best epoch) and ``timing.csv`` (of each training, and whether compiled).
    """
    if run.reused:
        return read_table(run.folder / "results.csv")
    params, device = run.params, resolve(run.params.device)
    row, ipc = describe(run), int(train.table.groupby("class").size().max())
    method = method_called(row["method"])
    planned = 0 if method.whole else ipc
    recipe = recipe_of_run(run, planned, method.tiles, len(test.classes))
    seeds = range(params.seed, params.seed + params.repeats)
    if not all(_is_done(run, seed) for seed in seeds):
        shown = as_tensors(train, params.image_size, params.workers).to(device)
        asked = as_tensors(test, params.image_size, params.workers, recipe.protocol.test_zoom).to(device)
        teacher = open_teacher(run, device)
        evaluator = Evaluator(params.network, shown, asked, recipe, len(test.classes), params.norm, teacher, run.warn)
        for seed in seeds:
            if not _is_done(run, seed):
                _repeat(run, seed, evaluator)
    row |= {"ipc": row["ipc"] or planned}
    row |= row_of(recipe, params.protocol, params.network, params.norm, params.image_size, planned, len(test.classes))
    row |= {"flip": params.flip, "precision": params.precision, "key": run.key, "augment": params.augment,
            "test_list": test_list_of(test), "steps": recipe.epochs * -(-len(train) // recipe.batch_size)}
    run.count = params.repeats
    return _write_results(run, row, seeds, test)


def _paths(run: Run, seed: int) -> tuple[Path, Path]:
    return run.folder / "repeats" / f"{seed}.csv", run.folder / "repeats" / f"{seed}.npy"


def _is_done(run: Run, seed: int) -> bool:
    return all(map(is_whole, _paths(run, seed)))


def _repeat(run: Run, seed: int, evaluator: Evaluator) -> None:
    started, midway = time.perf_counter(), Midway(run.folder / "checkpoints" / f"{seed}.pt")
    outcome = evaluator.train(seed, run.progress, midway)
    seconds = time.perf_counter() - started
    _keep(run, seed, outcome)
    midway.done()
    images = evaluator.recipe.epochs * len(evaluator.train_set.labels)
    _note_time(run, {"training_seed": seed, "seconds": seconds, "images_per_second": images / seconds,
                     "compiled": outcome.compiled})


def _keep(run: Run, seed: int, outcome: Outcome) -> None:
    curve, predictions = _paths(run, seed)
    keep_table(curve, outcome.curve)
    with kept(predictions) as partial, partial.open("wb") as file:
        np.save(file, np.stack([outcome.predictions, outcome.best_predictions]))


def _note_time(run: Run, line: dict[str, Any]) -> None:
    path = run.folder / "timing.csv"
    before = read_table(path) if is_whole(path) else pd.DataFrame()
    keep_table(path, pd.concat([before, pd.DataFrame([line])]))


def _write_results(run: Run, row: dict, seeds: range, test: ImageSet) -> pd.DataFrame:
    rows, curves, per_class, confusion = [], [], [], []
    correct: dict[str, Any] = {}
    correct_best: dict[str, Any] = {}
    for seed in seeds:
        curve, (predictions, best) = read_table(_paths(run, seed)[0]), np.load(_paths(run, seed)[1])
        outcome = Outcome(curve, predictions, best)
        rows.append(row | row_of_outcome(seed, outcome))
        curves.append(curve.assign(training_seed=seed))
        right = np.bincount(test.labels[predictions == test.labels], minlength=len(test.classes))
        shares = 100 * right / np.bincount(test.labels)
        per_class.append(pd.DataFrame({"training_seed": seed, "class": test.classes, "top1": shares}))
        confusion.append(confusions(test.labels, predictions, test.classes).assign(training_seed=seed))
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
