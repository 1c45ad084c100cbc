"""Outputs of the scorers for held-out originals, from which their calibration and their sanity checks are read.

With `prepare.folds`, an original is held out of the scorer that was trained without its fold. A network of torchvision
or timm that stage 00 did not train has all training images held out, as far as is known here. Else only the test images
are: they may tell how far the scorer is calibrated, and nothing that is selected may depend on them.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from dgs_utils.classifiers.architectures import DGS
from dgs_utils.classifiers.calibration import calibration_error, fit_temperature, reliability
from dgs_utils.classifiers.measures import difficulty_scores
from dgs_utils.classifiers.published_weights import published_accuracy
from dgs_utils.classifiers.sanity_checks import better_preparation, other_preparations
from dgs_utils.classifiers.scorer import Classifier, read_batches
from dgs_utils.classifiers.softmax import Softmax
from dgs_utils.difficulty.snapshots import fold_of_originals
from dgs_utils.images.image_set import ImageSet
from dgs_utils.params.difficulty import NOTHING_HELD_OUT
from dgs_utils.params.types import OVERS, Over
from dgs_utils.runtime.devices import resolve_device
from dgs_utils.runtime.progress import count_processed
from dgs_utils.runtime.table_io import read_table
from dgs_utils.store.manifest import parameter
from dgs_utils.store.partial_results import verify_or_remove, write_verified, write_verified_csv
from dgs_utils.store.session import Run

FILE = "held_out.safetensors"
TABLE = "calibration.csv"
MAX_IMAGES = 2000  # about
MAX_PREPARED = 256  # of them are prepared in other ways, too
BATCH_SIZE = 128
CLEAN = ("cross-fitted", "training")  # kinds of images that a temperature may be fitted to


class HeldOut(NamedTuple):
    """What scorers answer for held-out originals."""

    kind: str  # "cross-fitted" or "training" images, or "test" images; "seen" where there are no others
    labels: np.ndarray  # int64 (N,)
    # Of each scorer its logits, float32 (N, its outputs); with folds of the one that left the image out.
    outputs: list[np.ndarray]
    targets: list[np.ndarray]  # of each scorer the output of each label, int64 (labels,)
    problems: list[str]  # sentences on scorers that another preprocessing suits better


def held_out_outputs(run: Run, own: Sequence[Classifier], others: Sequence[Classifier],
                     index: Sequence[np.ndarray], names: Sequence[str]) -> HeldOut:
    """Return what scorers answer for held-out originals, at most about `MAX_IMAGES`, drawn by name; kept in `FILE`.

    Args:
        run: the stage.
        own: the scorer of stage 00, or those of its folds.
        others: more scorers.
        index: the output of each label in the first of ``own`` and in each of ``others``.
        names: of these, for sentences.
    """
    path = run.folder / FILE
    if not verify_or_remove(path):
        kind, images = _held_out_images(run.inputs["prepare"], own)
        fold = fold_of_originals(run.inputs["prepare"], images) if len(own) > 1 else np.zeros(len(images), dtype=int)
        outputs = _outputs(run, images, own, others, fold)
        problems = [problem for scorer, name, targets in zip((own[0], *others), names, index, strict=True)
                    if not scorer.config.network.startswith(DGS)
                    for problem in _other_preparations(run, images, scorer, name, targets)]
        arrays = {"labels": images.labels} | {f"outputs_{i}": array for i, array in enumerate(outputs)}
        arrays |= {f"targets_{i}": np.ascontiguousarray(array, dtype=np.int64) for i, array in enumerate(index)}
        with write_verified(path) as partial:
            # One entry, as safetensors writes several in an order that changes from run to run.
            save_file(arrays, partial, metadata={"images": json.dumps({"kind": kind, "problems": problems})})
    return read_held_out(path)


def read_held_out(path: Path) -> HeldOut:
    """Read what `held_out_outputs` kept."""
    with safe_open(path, framework="numpy") as file:
        scorers = range(sum(name.startswith("targets_") for name in set(file.keys())))
        outputs, targets = ([file.get_tensor(f"{name}_{i}") for i in scorers] for name in ("outputs", "targets"))
        images = json.loads(file.metadata()["images"])
        return HeldOut(images["kind"], file.get_tensor("labels"), outputs, targets, images["problems"])


def _held_out_images(prepare: Path, own: Sequence[Classifier]) -> tuple[str, ImageSet]:
    """Return what kind of originals are held out, and a sample of them, the same share of each class."""
    trained = parameter(prepare, "classifier_weights") == "train" or own[0].config.network.startswith(DGS)
    tests = "val" in set(read_table(prepare / "originals.csv")["split"])
    kind = "cross-fitted" if len(own) > 1 else "training" if not trained else "test" if tests else "seen"
    images = ImageSet.read(prepare, "val" if kind == "test" else "train")
    most = max(1, MAX_IMAGES // max(len(images.classes), 1))
    return kind, images.sample_each_class(most, "difficulty", "held out")


@torch.inference_mode()
def _outputs(run: Run, images: ImageSet, own: Sequence[Classifier], others: Sequence[Classifier],
             fold: np.ndarray) -> list[np.ndarray]:
    """Return the logits of the image's own scorer, by its fold, and of each of the others."""
    device, parts, start = resolve_device(), list[list[np.ndarray]](), 0
    scorers = [scorer.on(device) for scorer in (*own, *others)]
    batches = read_batches(images.root, images.table["file_name"].to_numpy(), scorers, BATCH_SIZE)
    with images.naming_class():
        for pixels in count_processed(batches, lambda pixels: pixels[0], run.progress, "held out", len(images)):
            rows = fold[start : start + len(pixels[0])]
            answers = [scorer(scorer.send(batch)).float().cpu().numpy()
                       for scorer, batch in zip(scorers, pixels, strict=True)]
            mine = np.stack(answers[: len(own)])[rows, np.arange(len(rows))]
            parts.append([mine, *answers[len(own):]])
            start += len(rows)
    return [np.concatenate(columns) for columns in zip(*parts, strict=True)]


@torch.inference_mode()
def _other_preparations(run: Run, images: ImageSet, scorer: Classifier, name: str, index: np.ndarray) -> list[str]:
    """Return the sentence on a preprocessing that suits a scorer better, from some images."""
    rows = np.unique(np.linspace(0, len(images) - 1, MAX_PREPARED).round().astype(int))
    some = ImageSet(images.root, images.table.iloc[rows].reset_index(drop=True))
    parts = list[dict[str, np.ndarray]]()
    for pixels, in read_batches(some.root, some.table["file_name"].to_numpy(), [scorer], BATCH_SIZE):
        ways = {"": pixels} | other_preparations(scorer, pixels)
        parts.append({way: scorer(scorer.send(seen)).float().cpu().numpy()
                      for way, seen in run.progress(list(ways.items()), label="other preprocessing")})
    outputs = {way: np.concatenate([part[way] for part in parts]) for way in parts[0]}
    return better_preparation(outputs.pop(""), outputs, some.labels, index, name) if len(outputs) > 1 else []


def known_accuracy(prepare: Path, kind: str) -> tuple[float, str]:
    """Return the accuracy that is known of the scorer of a 00 folder and by whom, for `scorer_sanity_checks`."""
    network, weights = (parameter(prepare, name) for name in ("classifier", "classifier_weights"))
    if weights != "train":
        return published_accuracy(network, weights), "published"
    curves = sorted((prepare / "folds").glob("*.csv")) if kind == "cross-fitted" else [prepare / "classifier_curve.csv"]
    tables = [read_table(file) for file in curves if kind in ("cross-fitted", "test") and file.is_file()]
    last = [table["top1"].iloc[-1] / 100 for table in tables if len(table)]
    return (float(np.mean(last)) if last else 0.0), "own"


# ---- Calibration -----------------------------------------------------------------------------------------------------

def calibrate(run: Run, held_out: HeldOut, names: Sequence[str], others: Sequence[Classifier] = ()) -> pd.DataFrame:
    """Return how far scorers are calibrated on held-out originals, and write it to `TABLE`.

    Args:
        run: the stage.
        held_out: of `held_out_outputs`.
        names: of the scorers.
        others: the scorers after the first; one of this kit may have seen all but the test images.

    Returns:
        One row a scorer and what its softmax is over ("all" outputs, "task" if these are fewer): held_out (what the
        images are to this scorer, as in `HeldOut`), images, recognised, difficulty (mean), ece, the fields of
        `calibration.Temperature`, and ece_fitted, the error at that temperature.

    Raises:
        ValueError: a temperature is asked for, and no image is held out but the test images.
    """
    if run.params.temperature == "fit" and held_out.kind not in CLEAN:
        raise ValueError(NOTHING_HELD_OUT)
    kinds = [held_out.kind, *("test" if held_out.kind == "test" else "seen" if scorer.config.network.startswith(DGS)
                              else "training" for scorer in others)]
    rows: list[dict[str, Any]] = []
    for name, kind, outputs, index in zip(names, kinds, held_out.outputs, held_out.targets, strict=True):
        for over in OVERS if 1 < len(index) < outputs.shape[1] else OVERS[:1]:
            softmax = Softmax(index, over)
            targets = softmax.targets(held_out.labels)
            fitted = fit_temperature(softmax.logits(outputs), targets)
            errors = [calibration_error(*_answers(Softmax(index, over, value), outputs, held_out.labels))
                      for value in (1.0, fitted.value)]
            difficulty = difficulty_scores(softmax.logits(outputs), targets, from_="logits")
            right = softmax.predictions(outputs) == index[held_out.labels]
            rows.append({"scorer": name, "over": over, "held_out": kind, "images": fitted.images,
                         "recognised": right.mean(), "difficulty": difficulty.mean(), "ece": errors[0],
                         "temperature": fitted.value, "estimate": fitted.estimate, "low": fitted.low,
                         "high": fitted.high, "ece_fitted": errors[1]})
    table = pd.DataFrame(rows)
    write_verified_csv(run.folder / TABLE, table)
    return table


def fitted_temperatures(folder: Path, over: str) -> list[float]:
    """Return the temperature of each scorer, from the originals' folder.

    Raises:
        ValueError: nothing was fitted there.
    """
    if not (folder / TABLE).is_file():
        raise ValueError(f"{folder} has no {TABLE}, the temperatures of its scorers; run notebook 03 for the originals "
                         f"again")
    table = read_table(folder / TABLE)
    each = table.groupby((table["over"] == "all").cumsum(), sort=False)  # a scorer's rows begin with that over all
    return [float(rows.sort_values("over", key=lambda names: names != over)["temperature"].iloc[0]) for _, rows in each]


def reliability_of(folder: Path) -> pd.DataFrame:
    """Return the points of reliability diagrams, from the originals' folder.

    Returns:
        `calibration.reliability` of each scorer, over, and temperature (1, and the fitted one where it is another);
        empty, with a printed sentence, where no scorer was asked.
    """
    if not (folder / TABLE).is_file():
        print("not known: no outputs of a scorer for held-out originals were kept")
        return pd.DataFrame()
    held_out, table, parts = read_held_out(folder / FILE), read_table(folder / TABLE), []
    for i, row in zip((table["over"] == "all").cumsum() - 1, table.itertuples(), strict=True):
        for value in dict.fromkeys((1.0, float(row.temperature))):
            softmax = Softmax(held_out.targets[i], cast(Over, row.over), value)
            answers = _answers(softmax, held_out.outputs[i], held_out.labels)
            parts.append(reliability(*answers).assign(scorer=row.scorer, over=row.over, temperature=value))
    return pd.concat(parts, ignore_index=True)


def _answers(softmax: Softmax, outputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how sure a scorer is of each image, and whether it is right."""
    logits = softmax.logits(outputs)
    first = logits.argmax(axis=1)
    return 1 - difficulty_scores(logits, first, from_="logits"), first == softmax.targets(labels)
