"""Stage 06: classifiers trained on a distilled set and tested on real pictures (§3.1) [F §9].

One node trains one network on one distilled set, `repeats` times with consecutive seeds. Each finished repeat is kept
at once, so that a crash costs one training at the most.
"""

import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dgs_utils.artifacts import MANIFEST, Run, atomic, input_folder, read_manifest, write_csv
from dgs_utils.augment import Augmentation
from dgs_utils.data import ImageSet, read_classes
from dgs_utils.device import resolve
from dgs_utils.networks import build
from dgs_utils.seeds import named_seed
from dgs_utils.training import Outcome, Pictures, Recipe, epochs_for, load_pictures, train_classifier


def describe(run: Run) -> dict:
    """Return what every row of the results says about the distilled set, read from manifests.

    Keys: method, distribution, pool_factor, ipc, pool_seed, selection_seed, dataset, split, distilled.
    """
    folder, prepare = run.inputs["distilled"], run.inputs["prepare"]
    source = json.loads((prepare / "dataset.json").read_text())
    row = {"method": folder.name, "distribution": "", "pool_factor": 0, "ipc": 0, "pool_seed": "", "selection_seed": ""}
    if (folder / MANIFEST).exists():
        manifest = read_manifest(folder)
        identity = manifest["identity"]
        row |= {name: identity.get(name, default) for name, default in row.items()}
        row["selection_seed"] = identity.get("seed", "")
        pool = input_folder(manifest, "pool")
        row["pool_seed"] = read_manifest(pool)["params"]["seed"] if pool else ""
    return row | {"dataset": source["dataset"], "split": source["split"], "distilled": folder.name}


def open_sets(run: Run) -> tuple[ImageSet, ImageSet]:
    """Return the distilled set and the real test set after checking that they go together.

    Raises:
        ValueError: a class is missing from either, or a test picture is among the training pictures.
    """
    names = list(read_classes(run.inputs["prepare"])["class"])
    train = ImageSet.read(run.inputs["distilled"], classes=names)
    test = ImageSet.read(run.inputs["prepare"], "val", classes=names)
    counts = train.table.groupby("class").size()
    if counts.nunique() > 1 and describe(run)["method"] != "full":
        run.warn(f"the classes of {run.inputs['distilled']} hold {counts.min()} to {counts.max()} pictures; "
                 f"epochs follow the largest")
    if "source" in train.table:
        shared = set(train.table["source"]) & set(test.table["file_name"])
        if shared:
            raise ValueError(f"the test picture {min(shared)} is in the distilled set {run.inputs['distilled']}; "
                             f"draw that set again from the train split")
    return train, test


def recipe_of(run: Run, ipc: int) -> Recipe:
    """Return the protocol's recipe for ``ipc`` images per class, with this run's own sizes."""
    params = run.params
    epochs = params.epochs or epochs_for(ipc, params.epoch_factor)
    augmentation = Augmentation(flip=0.5 if params.flip else 0.0)
    return Recipe(epochs, params.batch_size, params.learning_rate, params.evaluations, augmentation, params.precision)


def evaluate(run: Run) -> pd.DataFrame:
    """Train and test all repeats, and write the results; return ``results.csv``.

    Writes ``results.csv`` (one row a training: everything that tells it apart, best and last top-1 in percent, tests),
    ``curves.csv``, ``per_class.csv`` and ``confusion.csv`` (of the last epoch), ``correct.npz`` (per picture, packed
    bits) and ``timing.csv``.

    Raises:
        ValueError: the sets do not go together (see `open_sets`), or the network does not suit the picture size.
    """
    params, device = run.params, resolve(run.params.device)
    train, test = open_sets(run)
    names = test.classes
    build(params.network, len(names), params.image_size, params.norm)  # an unsuitable network fails before long work
    ipc = int(train.table.groupby("class").size().max())
    row = describe(run)
    recipe = recipe_of(run, 0 if row["method"] == "full" else ipc)
    seeds = range(params.seed, params.seed + params.repeats)
    if not all(_is_done(run, seed) for seed in seeds):
        pictures = [load_pictures(part, params.image_size, params.workers).to(device) for part in (train, test)]
        for seed in seeds:
            if not _is_done(run, seed):
                _repeat(run, seed, *pictures, recipe, len(names))
    row |= {"ipc": row["ipc"] or ipc, "protocol": params.protocol, "network": params.network, "norm": params.norm,
            "image_size": params.image_size, "epochs": recipe.epochs,
            "epoch_factor": recipe.epochs / epochs_for(0 if row["method"] == "full" else ipc)}
    return _write_results(run, row, seeds, test)


def _paths(run: Run, seed: int) -> tuple[Path, Path]:
    return run.folder / "repeats" / f"{seed}.csv", run.folder / "repeats" / f"{seed}.npy"


def _is_done(run: Run, seed: int) -> bool:
    return all(path.exists() for path in _paths(run, seed))


def _repeat(run: Run, seed: int, train: Pictures, test: Pictures, recipe: Recipe, classes: int) -> None:
    params = run.params
    torch.manual_seed(named_seed("network weights", seed))
    network = build(params.network, classes, params.image_size, params.norm).to(train.images.device)
    started = time.perf_counter()
    outcome = train_classifier(network, train, test, recipe, seed, run.progress)
    seconds = time.perf_counter() - started
    _keep(run, seed, outcome)
    _note_time(run, seed, seconds, recipe.epochs * len(train.labels) / seconds)


def _keep(run: Run, seed: int, outcome: Outcome) -> None:
    curve, predictions = _paths(run, seed)
    write_csv(curve, outcome.curve)
    with atomic(predictions) as partial, partial.open("wb") as file:
        np.save(file, outcome.predictions)


def _note_time(run: Run, seed: int, seconds: float, images_per_second: float) -> None:
    path = run.folder / "timing.csv"
    before = pd.read_csv(path) if path.exists() else pd.DataFrame()
    line = pd.DataFrame([{"training_seed": seed, "seconds": seconds, "images_per_second": images_per_second}])
    write_csv(path, pd.concat([before, line]))


def _write_results(run: Run, row: dict, seeds: range, test: ImageSet) -> pd.DataFrame:
    rows, curves, per_class, confusion, correct = [], [], [], [], {}
    for seed in seeds:
        curve, predictions = pd.read_csv(_paths(run, seed)[0]), np.load(_paths(run, seed)[1])
        outcome = Outcome(curve, predictions)
        best_epoch = int(curve.loc[curve["top1"].idxmax(), "epoch"])
        rows.append(row | {"training_seed": seed, "best": outcome.best, "last": outcome.last, "best_epoch": best_epoch,
                           "n_test": len(test)})
        curves.append(curve.assign(training_seed=seed))
        matrix = np.zeros((len(test.classes),) * 2, dtype=np.int64)
        np.add.at(matrix, (test.labels, predictions), 1)  # rows: true class
        shares = 100 * matrix.diagonal() / matrix.sum(1)
        per_class.append(pd.DataFrame({"training_seed": seed, "class": test.classes, "top1": shares}))
        confusion.append(pd.DataFrame(matrix, columns=test.classes).assign(training_seed=seed, true=test.classes))
        correct[str(seed)] = np.packbits(predictions == test.labels)
    results = pd.DataFrame(rows)
    write_csv(run.folder / "curves.csv", pd.concat(curves))
    write_csv(run.folder / "per_class.csv", pd.concat(per_class))
    write_csv(run.folder / "confusion.csv", pd.concat(confusion))
    with atomic(run.folder / "correct.npz") as partial, partial.open("wb") as file:
        np.savez(file, **correct)
    write_csv(run.folder / "results.csv", results)
    return results
