"""Notebook 03: how difficult each image is for a classifier (Eq. 6).

Difficulty is 1 − the probability of the image's own class among all classes that the classifier knows. Other measures
share the interface; each is mapped onto [0, 1], 0 the easiest, so that every later stage works with it.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dgs_utils.artifacts.files import atomic, write_csv
from dgs_utils.artifacts.run import Run
from dgs_utils.classifiers import judge as classifiers
from dgs_utils.images.classes import read_classes
from dgs_utils.images.image_sets import ImageSet
from dgs_utils.runtime.devices import autocast, resolve
from dgs_utils.runtime.progress import silent
from dgs_utils.selection.measures import MEASURES, difficulty_scores
from dgs_utils.selection.score_tables import check_names, keep_classes, read_scores

BLOCK = 4096  # images after which progress is safe on disk, about


# ---- Scoring images ------------------------------------------------------------------------------------------------

def score_images(images: ImageSet, judges: list[classifiers.Classifier], index: np.ndarray, folder: Path,
                 measure: str = "difficulty", batch_size: int = 128, precision: str = "fp32", device: str = "auto",
                 workers: int = 0, progress: Callable = silent) -> pd.DataFrame:
    """Score every image of a set, in a stream: memory does not grow with the set, and a killed run resumes.

    Blocks of about 4,096 images are written to ``folder/checkpoints`` as they finish; blocks found there are not
    computed again.

    Args:
        images: the images, with labels from 0.
        judges: one or more classifiers; scores are their mean.
        index: shape (classes,), the classifiers' output index of each label.
        folder: where blocks go.
        measure: a key of `MEASURES`.
        batch_size: images per forward pass.
        precision: "fp32" or "bf16".
        device: where the classifiers run.
        workers: threads that read images; 0 = one per core.
        progress: wraps an iterable as `artifacts.run.Run.progress` does.

    Returns:
        ``images.table`` with score, and the first classifier's prediction (output index) and confidence (its largest
        probability).
    """
    where = resolve(device)
    judges = [judge.to(where, memory_format=torch.channels_last) for judge in judges]
    score = partial(_score_batch, judges=judges, measure=MEASURES[measure], precision=precision)
    targets = index[images.labels]
    names = images.table["file_name"].to_numpy()
    step = batch_size * max(1, BLOCK // batch_size)
    starts = range(0, len(images), step)
    batches = iter(progress(range(0, len(images), batch_size), label="images scored",
                            total=-(-len(images) // batch_size)))
    parts = []
    for start in starts:
        stop = min(start + step, len(images))
        file = folder / "checkpoints" / f"scores-{start:09d}.npy"
        if file.exists():
            part = np.load(file)
            for _ in range(start, stop, batch_size):
                next(batches)
        else:
            pixels = classifiers.read_batches(images.root, names[start:stop], judges, batch_size, workers)
            part = np.concatenate([score(found, targets[begin : begin + batch_size])
                                   for found, begin in zip(pixels, batches, strict=False)])
            with atomic(file) as unfinished, unfinished.open("wb") as stream:
                np.save(stream, part)
        parts.append(part)
    for _ in batches:  # lets the progress bar reach its end
        pass
    scored = np.concatenate(parts)
    return images.table.assign(score=scored[:, 0], prediction=scored[:, 1].astype(int), confidence=scored[:, 2])


@torch.inference_mode()
def _score_batch(pixels: list[torch.Tensor], target: np.ndarray, judges: list[classifiers.Classifier],
                 measure: Callable, precision: str) -> np.ndarray:
    """Return float64 (n, 3): mean score, and the first classifier's prediction and confidence."""
    outputs = []
    for judge, batch in zip(judges, pixels, strict=True):
        with autocast(judge.mean.device, precision):
            batch = batch.to(judge.mean.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
            outputs.append(judge(batch).double().cpu().numpy())
    scores = np.mean([measure(logits, target) for logits in outputs], axis=0)
    prediction = outputs[0].argmax(axis=1)
    return np.stack([scores, prediction, 1 - difficulty_scores(outputs[0], prediction)], axis=1)


# ---- The stage -------------------------------------------------------------------------------------------------------

def score_source(run: Run) -> pd.DataFrame:
    """Carry out stage 03: score the pool's or the originals' training images and write ``scores.csv``.

    Returns:
        file_name, class, label, score, and prediction and confidence where a classifier made the scores.

    Raises:
        ValueError: no images of a class, a doubled file name, or classifiers that lack a class.
    """
    params, prepare = run.params, run.inputs["prepare"]
    classes = read_classes(prepare)
    if params.source == "originals":
        images = ImageSet.read(prepare, split="train")
    else:
        images = keep_classes(ImageSet.read(run.inputs["pool"]), classes, run.warn)
    check_names(images.table, run.inputs[params.source] if params.source == "pool" else prepare)
    if params.published_scores:
        scores = read_metadata(images)
    else:
        judges = [classifiers.load(prepare / "classifier")]
        judges += [classifiers.named(text, judges[0].config.crop) for text in params.classifiers]
        index = classes["index"].to_numpy()
        for judge in judges:
            if index.max() >= judge.config.num_classes:
                raise ValueError(f"class {classes['class'][index.argmax()]} has index {index.max()}, and classifier "
                                 f"{judge.config.network} has {judge.config.num_classes} outputs; correct classes.csv "
                                 f"through prepare.class_index, or choose a classifier of the same classes")
        scores = score_images(images, judges, index, run.folder, params.measure, params.batch_size, params.precision,
                              params.device, params.workers, run.progress)
    if params.round_scores:
        scores["score"] = scores["score"].round(params.round_scores)
    kept = ["file_name", "class", "label", "score", "prediction", "confidence"]
    scores = scores[[name for name in kept if name in scores]]
    write_csv(run.folder / "scores.csv", scores)
    write_metadata(run.folder / "metadata", scores)
    return scores


def images_to_show(run: Run, scores: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Return the images of some classes with their scores, of what was scored and of the originals beside it.

    Args:
        run: the stage.
        scores: what `score_source` returned.
        names: class names.

    Returns:
        set ("original", "pool"), class, name, path, score; and where a classifier made the scores, correct, and text:
        what the image is → what the classifier takes it for. Class by class, originals first.
    """
    classes = read_classes(run.inputs["prepare"])
    readable = dict(zip(classes["index"], classes["name"], strict=True))
    sets = {"original" if run.params.source == "originals" else "pool": scores}
    if "originals" in run.inputs:
        sets["original"] = read_scores(run.inputs["originals"])
    roots = {"original": ImageSet.read(run.inputs["prepare"], "train").root, "pool": run.inputs.get("pool")}
    parts = []
    for which, table in sets.items():
        part = table[table["class"].isin(names)].merge(classes[["class", "index", "name"]], on="class")
        part = part.assign(set=which, path=[roots[which] / file for file in part["file_name"]])
        if "prediction" in part:
            taken = part["prediction"].map(readable).fillna(part["prediction"].map("no. {}".format))
            part = part.assign(correct=part["prediction"] == part["index"],
                               text=part["index"].map(readable) + " → " + taken)
        parts.append(part)
    return pd.concat(parts).sort_values(["label", "set"], kind="stable").reset_index(drop=True)


# ---- Published score files -------------------------------------------------------------------------------------------

def read_metadata(images: ImageSet) -> pd.DataFrame:
    """Take scores from the published form: a ``metadata.jsonl`` beside each class's images [F §6].

    Its lines hold file_name (within the folder), label (ignored: classes come from the class table) and score.

    Returns:
        ``images.table`` with a column score.

    Raises:
        ValueError: a folder without the file, a damaged line, an image without score, or a score for no image.
    """
    parents = images.table["file_name"].str.rpartition("/")[0]
    known = {}
    for parent in parents.unique():
        path = images.root / parent / "metadata.jsonl"
        if not path.exists():
            raise ValueError(f"{path} does not exist; score these images with a classifier, or add the file")
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            try:
                row = json.loads(line)
                name, score = f"{parent}/{row['file_name']}".removeprefix("/"), float(row["score"])
            except (json.JSONDecodeError, KeyError, TypeError, ValueError):
                raise ValueError(f"{path}, line {number} is not a JSON object with file_name and score; "
                                 f"make the file anew") from None
            if name in known:
                raise ValueError(f"{path} lists {row['file_name']} twice; keep one line of it")
            if not 0 <= score <= 1:
                raise ValueError(f"{path}, line {number}: the score of {row['file_name']} is {score}, and difficulty "
                                 f"lies in [0, 1]; score the images again")
            known[name] = score
    scores = images.table["file_name"].map(known)
    if scores.isna().any():
        raise ValueError(f"{images.root / images.table['file_name'][scores.isna()].iloc[0]} has no score in its "
                         f"folder's metadata.jsonl; score the images again")
    others = known.keys() - set(images.table["file_name"])  # of another split, or gone
    gone = [name for name in others if not (images.root / name).exists()]
    if gone:
        raise ValueError(f"{images.root / min(gone)} has a score and no image; restore it or remove its line")
    return images.table.assign(score=scores)


def write_metadata(folder: Path, scores: pd.DataFrame) -> None:
    """Write scores in the published form: ``folder/<class>/metadata.jsonl`` with file_name, label and score."""
    with atomic(folder) as unfinished:
        for name, rows in scores.groupby("class", sort=False):
            (unfinished / name).mkdir(parents=True)
            lines = [json.dumps({"file_name": file.rpartition("/")[2], "label": int(label), "score": float(score)})
                     for file, label, score in rows[["file_name", "label", "score"]].itertuples(index=False)]
            (unfinished / name / "metadata.jsonl").write_text("\n".join(lines) + "\n")
