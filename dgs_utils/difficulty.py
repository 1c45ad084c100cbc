"""Stage 03: how difficult each image is for a classifier (Eq. 6).

Difficulty is 1 − the probability of the image's own class among all classes that the classifier knows. Other measures
share the interface; each is mapped onto [0, 1], 0 the easiest, so that every later stage works with it.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from safetensors.torch import load_file

from dgs_utils.artifacts.files import atomic
from dgs_utils.artifacts.manifests import chain, parameter
from dgs_utils.artifacts.parts import is_whole, keep_table, kept
from dgs_utils.artifacts.run import Run
from dgs_utils.classifiers.judge import Classifier, load, open_judge, read_batches
from dgs_utils.images.classes import read_classes
from dgs_utils.images.image_sets import ImageSet
from dgs_utils.images.tables import read_table, row_at
from dgs_utils.methods import DYNAMIC
from dgs_utils.runtime.devices import autocast, resolve
from dgs_utils.runtime.halving import Halving
from dgs_utils.runtime.parameters import nearest
from dgs_utils.runtime.progress import silent
from dgs_utils.selection import dynamics
from dgs_utils.selection.dynamics import Dynamics
from dgs_utils.selection.judgement import doubts_about
from dgs_utils.selection.measures import MEASURES, all_measures, difficulty_scores
from dgs_utils.selection.score_tables import check_names, keep_classes, read_scores

BLOCK = 4096  # images after which progress is safe on disk, about
HELD = 1024  # images that are held in memory while the judge's snapshots look at them one after the other
SCORED = [*MEASURES, "prediction", "confidence"]  # what is found of every image
FROM_DYNAMICS = [*DYNAMIC, "mean_probability"]  # and with training dynamics


# ---- Images and judges -----------------------------------------------------------------------------------------------

def score_images(images: ImageSet, judges: Classifier | Sequence[Classifier], index: ArrayLike | None = None,
                 measure: str = "difficulty", batch_size: int = 128, precision: str = "fp32", device: str = "auto",
                 workers: int = 0, progress: Callable = silent,
                 warn: Callable[[str], None] = warnings.warn) -> pd.DataFrame:
    """Score every image of a set, in a stream: memory does not grow with the set.

    Args:
        images: the images, with labels from 0.
        judges: one or more classifiers; scores are their mean. They are moved to the device.
        index: shape (classes,), the judges' output of each label; None where label i is output i.
        measure: a key of `measures.MEASURES`.
        batch_size: images per forward pass.
        precision: "fp32" or "bf16".
        device: where the judges run.
        workers: threads that read images; 0 = one per core.
        progress: wraps the batches.
        warn: takes a sentence where a batch does not fit into a GPU's memory and is halved.

    Returns:
        ``images.table`` with score in [0, 1] (that of ``measure``), every measure under its own name, and the first
        judge's prediction (output index) and confidence (its largest probability).

    Raises:
        ValueError: an unknown measure, a class that a judge has no output for, or an unreadable image.
    """
    if measure not in MEASURES:
        raise ValueError(f"measure is {measure!r}{nearest(measure, MEASURES)}")
    judges = [judges] if isinstance(judges, Classifier) else list(judges)
    targets = _targets(images, judges, index)
    where = resolve(device)
    judges = [judge.on(where) for judge in judges]
    batches = read_batches(images.root, images.table["file_name"].to_numpy(), judges, batch_size, workers)
    parts, start, halving = [], 0, Halving("batch_size", batch_size, warn)
    with images.class_named():
        for pixels in progress(batches, label="images scored", total=-(-len(images) // batch_size)):

            def scored(rows: range, pixels: list[torch.Tensor] = pixels, start: int = start) -> np.ndarray:
                part, own = slice(rows.start, rows.stop), slice(start + rows.start, start + rows.stop)
                return _score_batch([batch[part] for batch in pixels], targets[own], judges, precision)

            parts += halving(scored, range(len(pixels[0])))
            start += len(pixels[0])
    return _with_scores(images, np.concatenate(parts), measure)


def _targets(images: ImageSet, judges: Sequence[Classifier], index: ArrayLike | None) -> np.ndarray:
    """Return the judges' output of every image, (N,) int64."""
    labels = images.labels
    targets = labels if index is None else np.asarray(index)[labels]
    for judge in judges:
        if targets.max() >= judge.config.num_classes:
            name = images.table["class"].iloc[targets.argmax()]
            raise ValueError(f"class {name} has index {targets.max()}, and classifier {judge.config.network} has "
                             f"{judge.config.num_classes} outputs; correct classes.csv through prepare.class_index, or "
                             f"choose a classifier of the same classes")
    return targets


@torch.inference_mode()
def _score_batch(pixels: list[torch.Tensor], target: np.ndarray, judges: list[Classifier],
                 precision: str) -> np.ndarray:
    """Return float64 (n, columns of `SCORED`): the judges' mean of every measure, and what the first one says."""
    outputs = []
    for judge, batch in zip(judges, pixels, strict=True):
        with autocast(judge.mean.device, precision):
            outputs.append(judge(judge.send(batch)).double().cpu().numpy())
    found = [all_measures(logits, target) for logits in outputs]
    means = [np.mean([measures[name] for measures in found], axis=0) for name in MEASURES]
    prediction = outputs[0].argmax(axis=1)
    return np.stack([*means, prediction, 1 - difficulty_scores(outputs[0], prediction)], axis=1)


def _with_scores(images: ImageSet, scored: np.ndarray, measure: str) -> pd.DataFrame:
    columns = dict(zip(SCORED, scored.T, strict=True))
    columns["prediction"] = columns["prediction"].astype(int)
    return images.table.assign(score=columns[measure], **columns)


# ---- The stage -------------------------------------------------------------------------------------------------------

def score_in_blocks(images: ImageSet, folder: Path, batch_size: int, progress: Callable, **options) -> pd.DataFrame:
    """Score a set as `score_images` does, so that a killed run resumes.

    Blocks of about 4,096 images are written to ``folder/checkpoints`` as they finish; blocks found there are not
    computed again.
    """
    step = batch_size * max(1, BLOCK // batch_size)
    bar = iter(progress(range(0, len(images), batch_size), label="images scored",
                        total=-(-len(images) // batch_size)))
    parts = []
    for start in range(0, len(images), step):
        block = ImageSet(images.root, images.table.iloc[start : start + step])
        file = folder / "checkpoints" / f"scores-{start:09d}-{_hash_of(block)}.npy"
        if is_whole(file):
            found = np.load(file)
            for _ in range(0, len(block), batch_size):
                next(bar)
        else:
            scored = score_images(block, batch_size=batch_size, **options,
                                  progress=lambda batches, **_: (b for b, _ in zip(batches, bar, strict=False)))
            found = scored[SCORED].to_numpy(dtype=np.float64)
            with kept(file) as unfinished, unfinished.open("wb") as stream:
                np.save(stream, found)
        parts.append(found)
    for _ in bar:  # lets the progress bar reach its end
        pass
    return _with_scores(images, np.concatenate(parts), options.get("measure", "difficulty"))


def _hash_of(images: ImageSet) -> str:
    return hashlib.sha256("\n".join(images.table["file_name"]).encode()).hexdigest()[:8]


def score_source(run: Run) -> pd.DataFrame:
    """Carry out stage 03: score the pool's or the originals' training images and write ``scores.csv``.

    Returns:
        file_name, class, label, score, and where a classifier made the scores, every measure, prediction, confidence,
        and where 00 kept its training dynamics, the scores from these.

    Raises:
        ValueError: no images of a class, a doubled file name, or classifiers that lack a class.
    """
    if run.reused:
        return read_scores(run.folder)
    params, prepare = run.params, run.inputs["prepare"]
    classes = read_classes(prepare)
    if params.source == "originals":
        images = ImageSet.read(prepare, split="train")
    else:
        images = keep_classes(ImageSet.read(run.inputs["pool"]), classes, run.warn)
    check_names(images.table, run.inputs[params.source] if params.source == "pool" else prepare)
    if params.published_scores:
        scores = read_metadata(images)
    elif params.source == "pool" and parameter(run.inputs["pool"], "generator") == "originals":
        scores = scores_of_sources(images, _exactly(run.inputs["originals"] / "scores.csv"))
    else:
        fold_judges = [load(prepare / "folds" / str(i)) for i in range(folds_in(prepare))]
        judges = fold_judges or [load(prepare / "classifier")]
        judges += [open_judge(text, judges[0].config.crop, run.warn) for text in params.classifiers]
        options = {"index": classes["index"], "measure": params.measure, "precision": params.precision,
                   "device": params.device, "workers": params.workers, "warn": run.warn}
        if fold_judges and params.source == "originals":
            scores = score_left_out(run, images, fold_judges, judges[len(fold_judges) :], options)
        else:
            scores = score_what_is_new(run, images, judges=judges, **options)
        scores = scores.assign(**scores_from_dynamics(run, images, classes["index"]))
        if params.source == "originals":
            right = scores["prediction"].to_numpy() == classes["index"].to_numpy()[images.labels]
            for doubt in doubts_about(scores.assign(correct=right), judges[0].config.num_classes):
                run.warn(doubt)
    if params.round_scores:
        rounded = [name for name in ("score", *MEASURES, *FROM_DYNAMICS) if name in scores]
        scores[rounded] = scores[rounded].round(params.round_scores)
    columns = ["file_name", "class", "label", "score", *SCORED, "seen", *FROM_DYNAMICS]
    scores = scores[[name for name in columns if name in scores]]
    keep_table(run.folder / "scores.csv", scores)
    _note_growth(run, scores)
    write_metadata(run.folder / "metadata", scores)
    return scores


def scores_of_sources(images: ImageSet, originals: pd.DataFrame) -> pd.DataFrame:
    """Give the images of a pool of originals the scores that they have there.

    So no judge scores again, as part of a pool, what it has seen in training, where the originals' own scores come from
    judges that had not.

    Args:
        images: the pool, with a column source: the originals' file names.
        originals: their scores.

    Returns:
        As `score_images`.

    Raises:
        ValueError: an image comes from none of them.
    """
    known = originals.set_index("file_name")
    missing = images.table.loc[~images.table["source"].isin(known.index), "file_name"]
    if len(missing):
        raise ValueError(f"{images.root / missing.iloc[0]} comes from no image that stage 03 has scored as an "
                         f"original; give 02 and 03 the same folder originals")
    found = known.loc[images.table["source"], [name for name in ("score", *SCORED, *FROM_DYNAMICS) if name in known]]
    return images.table.assign(**{name: column.to_numpy() for name, column in found.items()})


def score_what_is_new(run: Run, images: ImageSet, **options: Any) -> pd.DataFrame:
    """Score the images of a set that have no scores yet: all of them, or those that a pool has grown by.

    What ``scores.csv`` holds counts, since opening the folder took away what was made from anything else.
    """
    path = run.folder / "scores.csv"
    known = _exactly(path) if is_whole(path) else pd.DataFrame({"file_name": []})
    new = ~images.table["file_name"].isin(known["file_name"])
    if not set(SCORED) <= set(known) or not len(known):
        return score_in_blocks(images, run.folder, run.params.batch_size, run.progress, **options)
    parts = [known]
    if new.any():
        part = ImageSet(images.root, images.table[new].reset_index(drop=True))
        parts.append(score_in_blocks(part, run.folder, run.params.batch_size, run.progress, **options))
    scored = pd.concat(parts).drop_duplicates("file_name").set_index("file_name")
    ordered = scored.loc[images.table["file_name"], ["score", *(name for name in scored if name in SCORED)]]
    return images.table.assign(**{name: column.to_numpy() for name, column in ordered.items()})


def _exactly(path: Path) -> pd.DataFrame:
    """Read scores to the last bit, so that writing them again gives the same bytes."""
    table = read_table(path, everything=True)
    numbers = {"score", *SCORED, *FROM_DYNAMICS} & set(table)
    return table.assign(**{name: table[name].map(int if name == "prediction" else float) for name in numbers})


def _note_growth(run: Run, scores: pd.DataFrame) -> None:
    """Let the manifest tell what the scores of each beginning of the pool are, where that can grow."""
    source = next((source for source in run.sources if source["name"] == "pool"), {})
    if not source.get("count"):
        return
    lines, places = scores.to_csv(index=False, header=False).splitlines(), scores.groupby("class").cumcount()
    levels: dict[int, list[str]] = {}
    for place, line in zip(places, lines, strict=True):
        levels.setdefault(int(place), []).append(line)
    run.count, run.chain = source["count"], chain("\n".join(sorted(levels[place])) for place in sorted(levels))


def folds_in(prepare: Path) -> int:
    """Return how many folds the judges of a 00 folder leave out; 0 where one judge has seen all originals."""
    return read_table(prepare / "folds.csv")["fold"].nunique() if (prepare / "folds.csv").exists() else 0


def _folds_of(prepare: Path, images: ImageSet) -> np.ndarray:
    """Return the fold that each original is in."""
    return images.table["file_name"].map(read_table(prepare / "folds.csv").set_index("file_name")["fold"]).to_numpy()


def score_left_out(run: Run, images: ImageSet, fold_judges: list[Classifier], others: list[Classifier],
                   options: dict) -> pd.DataFrame:
    """Score every original by the judge that was trained without it (and ``others``), in blocks.

    Returns:
        What `score_images` returns, with ``seen``: the score by the judge of 00 that was trained on all originals.
    """
    prepare, size, parts = run.inputs["prepare"], run.params.batch_size, []
    fold = _folds_of(prepare, images)
    for left_out, judge in enumerate(fold_judges):
        part = ImageSet(images.root, images.table[fold == left_out])
        parts.append(score_in_blocks(part, run.folder / "checkpoints" / f"fold-{left_out}", size, run.progress,
                                     judges=[judge, *others], **options))
    seen = score_in_blocks(images, run.folder / "checkpoints" / "seen", size, run.progress,
                           judges=[load(prepare / "classifier"), *others], **options)
    return pd.concat(parts).sort_index().assign(seen=seen["score"])


# ---- Training dynamics -----------------------------------------------------------------------------------------------

def scores_from_dynamics(run: Run, images: ImageSet, index: ArrayLike) -> dict[str, np.ndarray]:
    """Return what `dynamics.dynamics_scores` makes of the judge's training; {} where 00 kept nothing of it.

    Of an original, stage 00 has seen to it; with folds, that judge counts which was trained without it. Of the pool,
    the judge's snapshots, or those of all judges, say it now.
    """
    prepare = run.inputs["prepare"]
    file = prepare / dynamics.FILE
    if not file.exists():
        return {}
    if run.params.source == "pool":
        return dynamics.dynamics_scores(_observe_pool(run, images, np.asarray(index)[images.labels]))
    found, known = dynamics.read_dynamics(file)
    found = dynamics.in_order_of(images.table["file_name"], found, known, file)
    return dynamics.dynamics_scores(found.by(_folds_of(prepare, images)) if folds_in(prepare) else found)


def _observe_pool(run: Run, images: ImageSet, targets: np.ndarray) -> Dynamics:
    """Return the pool's dynamics, and keep them in ``dynamics.safetensors``; what that holds is not made again."""
    path, names = run.folder / dynamics.FILE, images.table["file_name"]
    known, parts = list[str](), []
    if is_whole(path):
        found, known = dynamics.read_dynamics(path)
        parts.append(found)
    new = ~names.isin(known).to_numpy()
    if new.any():
        part = ImageSet(images.root, images.table[new].reset_index(drop=True))
        parts.append(_observe_in_blocks(run, part, targets[new]))
    found = dynamics.in_order_of(names, dynamics.joined(parts, axis=2), [*known, *names[new]], path)
    dynamics.write_dynamics(path, found, list(names))
    return found


def _observe_in_blocks(run: Run, images: ImageSet, targets: np.ndarray) -> Dynamics:
    """Let every snapshot look at images, block by block; blocks that a stopped run finished are not looked at again."""
    prepare, params = run.inputs["prepare"], run.params
    names = [f"folds/{i}" for i in range(folds_in(prepare))] or ["classifier"]
    epochs = range(1, dynamics.read_dynamics(prepare / dynamics.FILE)[0].own.shape[1] + 1)
    judge = load(prepare / names[0]).on(resolve(params.device))
    blocks = range(0, len(images), HELD)
    bar = iter(run.progress(range(len(blocks) * len(names) * len(epochs)), label="snapshots"))
    found = []
    for start in blocks:
        block = ImageSet(images.root, images.table.iloc[start : start + HELD])
        file = run.folder / "checkpoints" / f"dynamics-{start:09d}-{_hash_of(block)}.safetensors"
        if not is_whole(file):
            batches = read_batches(block.root, block.table["file_name"].to_numpy(), [judge], params.batch_size,
                                   params.workers)
            with block.class_named():
                pixels = [batch for batch, in batches]
            own = targets[start : start + HELD]
            seen = [dynamics.joined([_look(judge, dynamics.snapshot_of(prepare, name, epoch), pixels, own,
                                           params.precision) for epoch, _ in zip(epochs, bar, strict=False)], axis=1)
                    for name in names]
            dynamics.write_dynamics(file, dynamics.joined(seen, axis=0))
        found.append(dynamics.read_dynamics(file)[0])
    for _ in bar:  # lets the progress bar reach its end
        pass
    return dynamics.joined(found, axis=2)


@torch.inference_mode()
def _look(judge: Classifier, snapshot: Path, pixels: list[torch.Tensor], targets: np.ndarray,
          precision: str) -> Dynamics:
    """Return what a judge says of images with the weights that it had after some epoch."""
    judge.network.load_state_dict(load_file(snapshot))
    outputs = []
    for batch in pixels:
        with autocast(judge.mean.device, precision):
            outputs.append(judge(judge.send(batch)).float().cpu())
    return dynamics.observe(torch.cat(outputs), targets)


# ---- Something to look at --------------------------------------------------------------------------------------------

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
    known: dict[str, float] = {}
    for parent in images.table["file_name"].str.rpartition("/")[0].unique():
        path = images.root / parent / "metadata.jsonl"
        if not path.exists():
            raise ValueError(f"{path} does not exist; score these images with a classifier, or add the file")
        table = read_table(path, ["score"])
        for column in ("file_name", "score"):
            if column not in table:
                raise ValueError(f"{path} has no {column} in any line; make the file anew")
        for place, (file, score) in enumerate(zip(table["file_name"], table["score"], strict=True)):
            name, where = f"{parent}/{file}".removeprefix("/"), row_at(path, place)
            if not file or not score:
                raise ValueError(f"{where} has no {'score' if file else 'file_name'}; make the file anew")
            if name in known:
                raise ValueError(f"{path} lists {file} twice; keep one line of it")
            if not _is_score(score):
                raise ValueError(f"{where}: the score of {file} is {score}, and difficulty lies in [0, 1]; score the "
                                 f"images again")
            known[name] = float(score)
    scores = images.table["file_name"].map(known)
    if scores.isna().any():
        raise ValueError(f"{images.root / images.table['file_name'][scores.isna()].iloc[0]} has no score in its "
                         f"folder's metadata.jsonl; score the images again")
    others = known.keys() - set(images.table["file_name"])  # of another split, or gone
    gone = [name for name in others if not (images.root / name).exists()]
    if gone:
        raise ValueError(f"{images.root / min(gone)} has a score and no image; restore it or remove its line")
    return images.table.assign(score=scores)


def _is_score(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False


def write_metadata(folder: Path, scores: pd.DataFrame) -> None:
    """Write scores in the published form: ``folder/<class>/metadata.jsonl`` with file_name, label and score."""
    with atomic(folder) as unfinished:
        for name, rows in scores.groupby("class", sort=False):
            (unfinished / name).mkdir(parents=True)
            lines = [json.dumps({"file_name": file.rpartition("/")[2], "label": int(label), "score": float(score)})
                     for file, label, score in rows[["file_name", "label", "score"]].itertuples(index=False)]
            (unfinished / name / "metadata.jsonl").write_text("\n".join(lines) + "\n")
