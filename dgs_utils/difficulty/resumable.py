"""Scores of an image set that a killed run resumes, and that a larger pool extends."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from dgs_utils.classifiers.scorer import Classifier, load_classifier
from dgs_utils.difficulty.scoring import hash_of_names, is_score_column, score_images
from dgs_utils.difficulty.snapshots import DYNAMICS_COLUMNS, fold_of_originals
from dgs_utils.images.image_set import ImageSet
from dgs_utils.runtime.table_io import read_table
from dgs_utils.store.partial_results import verify_or_remove, write_verified_csv
from dgs_utils.store.session import Run

BATCH_SIZE = 128  # images per forward pass
BLOCK_IMAGES = 4096  # images whose scores are saved at once, about


def score_new_images(run: Run, images: ImageSet, **options: Any) -> pd.DataFrame:
    """Score the images of a set that are not in ``scores.csv`` yet: all, or those by which a pool was extended.

    Scores in ``scores.csv`` are reused: opening the folder removed whatever was made from other inputs.
    """
    path = run.folder / "scores.csv"
    known = read_exact(path) if verify_or_remove(path) else pd.DataFrame({"file_name": []})
    if len(known):
        first = score_images(ImageSet(images.root, images.table[:1]), **options | {"warn": lambda sentence: None})
        if not set(first) <= {*known, *images.table}:  # another version of the kit made those that are known
            known = known[:0]
    new = images.table[~images.table["file_name"].isin(known["file_name"])]
    if len(new):
        scored = score_in_blocks(ImageSet(images.root, new), run.folder, BATCH_SIZE, run.progress, **options)
        known = pd.concat([known, scored]) if len(known) else scored
    joined = known.drop_duplicates("file_name").set_index("file_name")
    ordered = joined.loc[images.table["file_name"], ["score", *filter(is_score_column, joined)]]
    return images.table.assign(**ordered.set_index(images.table.index))


def cross_fit_scores(run: Run, images: ImageSet, fold_scorers: list[Classifier], others: list[Classifier],
                     options: dict) -> pd.DataFrame:
    """Score every original by the scorer that was trained without it (and ``others``), in blocks.

    Returns:
        What `score_images` returns, with ``seen``: the score by the scorer of 00 that was trained on all originals.
    """
    prepare, size, parts = run.inputs["prepare"], BATCH_SIZE, []
    fold = fold_of_originals(prepare, images)
    for left_out, scorer in enumerate(fold_scorers):
        part = ImageSet(images.root, images.table[fold == left_out])
        parts.append(score_in_blocks(part, run.folder / "checkpoints" / f"fold-{left_out}", size, run.progress,
                                     scorers=[scorer, *others], **options))
    seen = score_in_blocks(images, run.folder / "checkpoints" / "seen", size, run.progress,
                           scorers=[load_classifier(prepare / "classifier"), *others], **options)
    return pd.concat(parts).sort_index().assign(seen=seen["score"])


def score_in_blocks(images: ImageSet, folder: Path, batch_size: int, progress: Callable, **options) -> pd.DataFrame:
    """Score a set as `score_images` does, so that a killed run resumes.

    Blocks of about 4,096 images are written to ``folder/checkpoints``; finished blocks are not computed again.
    """
    step = batch_size * max(1, BLOCK_IMAGES // batch_size)
    bar = iter(progress(range(len(images)), label="images scored", total=len(images)))
    parts = []
    for start in range(0, len(images), step):
        block = ImageSet(images.root, images.table.iloc[start : start + step])
        file = folder / "checkpoints" / f"scores-{start:09d}-{hash_of_names(block)}.csv"
        if verify_or_remove(file):
            scored = read_exact(file)
            for _ in range(len(block)):
                next(bar)
        else:
            scored = score_images(block, batch_size=batch_size, **options,
                                  progress=lambda steps, **_: (s for s, _ in zip(steps, bar, strict=False)))
            scored = scored[["score", *filter(is_score_column, scored)]]
            write_verified_csv(file, scored)
        parts.append(scored)
    for _ in bar:  # lets the progress bar reach its end
        pass
    return images.table.assign(**pd.concat(parts).set_index(images.table.index))


def scores_of_sources(images: ImageSet, originals: pd.DataFrame) -> pd.DataFrame:
    """Give the images of a pool of originals the scores that they have there.

    So no scorer scores, as part of a pool, an image of its training set, where the originals' own scores are
    cross-fitted. The pool has a column source: the originals' file names.

    Raises:
        ValueError: an image comes from none of them.
    """
    known = originals.set_index("file_name")
    missing = images.table.loc[~images.table["source"].isin(known.index), "file_name"]
    if len(missing):
        raise ValueError(f"{images.root / missing.iloc[0]} comes from no image that stage 03 has scored as an "
                         f"original; give 02 and 03 the same folder originals")
    values = known.loc[images.table["source"], list(filter(_is_number_column, known))]
    return images.table.assign(**values.set_index(images.table.index))


def read_exact(path: Path) -> pd.DataFrame:
    """Read scores to the last bit, so that writing them again gives the same bytes."""
    table = read_table(path, everything=True)
    numbers = filter(_is_number_column, table)
    return table.assign(**{name: table[name].map(int if name.startswith("prediction") else float) for name in numbers})


def _is_number_column(column: str) -> bool:
    return column in ("score", "mean_rank", *DYNAMICS_COLUMNS) or is_score_column(column)
