"""Stage 05: the distilled set, drawn by difficulty or by one of the rivals (§2.2).

A method (`dgs_utils.methods`) says which images are the candidates and which rule (`dgs_utils.selection.select`)
picks among them. The result is an image folder in Hugging Face's layout: ``images/<class>/<file>`` and
``metadata.csv``, with a report of what was wanted and what was found.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from dgs_utils.images.classes import read_classes
from dgs_utils.images.image_set import ImageSet, in_order, load_squares
from dgs_utils.images.pixels import copy_image
from dgs_utils.images.portable_names import class_folders, portable_filename, write_readme
from dgs_utils.methods import Method
from dgs_utils.params import PoolParams
from dgs_utils.runtime.table_io import read_table
from dgs_utils.selection.budgets import class_budgets
from dgs_utils.selection.candidate_rows import Source, report, select_rows
from dgs_utils.selection.candidate_rows import choices_by_rule as choices_by_rule  # for notebook 05, as the next
from dgs_utils.selection.candidate_rows import shown_columns as shown_columns
from dgs_utils.selection.rule_registry import RULE_FUNCTIONS
from dgs_utils.selection.score_tables import (
    check_names,
    first_of_class,
    keep_classes,
    read_scores,
    share_of_class,
    with_score,
)
from dgs_utils.selection.select import prune_hardest
from dgs_utils.selection.targets import class_target
from dgs_utils.store.atomic import atomic, write_csv
from dgs_utils.store.manifest import MANIFEST, parameter, read_manifest
from dgs_utils.store.session import Run

REAL_IMAGES = 200  # real images a class that S3 takes its centroid from [B §3.3]


# ---- The stage -------------------------------------------------------------------------------------------------------

def read_source(run: Run) -> Source:
    """Read the candidates of the run's method with their scores and targets, without those that are pruned.

    Raises:
        ValueError: a class without images, an image without score, a doubled file name, scores that lack what the
            method needs, or a class with too few images left.
    """
    params, (_, method) = run.params, run.params.preset
    if method.source != "crops" and method.rule_name not in RULE_FUNCTIONS:
        raise ValueError(f"method {params.method} needs the rule {method.rule_name!r}, which is not registered")
    if method.source != "pool":
        images = ImageSet.read(run.inputs["prepare"], split="train")
        # "First files" are the first in plain order of names (0, 1, 10, 11, …), as published [F §10.1].
        images = ImageSet(images.root, images.table.sort_values(["label", "file_name"]).reset_index(drop=True))
    else:
        images = keep_classes(ImageSet.read(run.inputs["pool"]), read_classes(run.inputs["prepare"]), run.warn)
        size, pool = params.images_read_from("pool"), run.inputs["pool"]
        if (pool / MANIFEST).exists() and (manifest := read_manifest(pool))["stage"] == PoolParams.stage:
            PoolParams.model_construct(**manifest["params"]).check_prefix(size)
        images = ImageSet(images.root, first_of_class(images.table, size))
    check_names(images.table, images.root)
    images = ImageSet(images.root, share_of_class(images.table, params.pool_share, params.seed))
    images, repeated = _drop_duplicates(run, images) if params.drop_duplicates else (images, {})
    if "target" not in params.needs:
        if "scores" in run.inputs:
            scores = with_score(read_scores(run.inputs["scores"]), method.score, run.inputs["scores"])
            columns = ["score", "prediction", "confidence", "mean_probability"]
            images = _prune_candidates(run, _with_columns(images, scores, columns), _least(run))
        return Source(images, {}, {}, _budgets(run, images), repeated)
    folder = run.inputs["transform"]
    scores, bins = read_table(folder / "transformed.csv"), parameter(folder, "bins")
    pool, real = (scores[scores["set"] == set_name] for set_name in ("pool", "original"))
    columns = ["score", "transformed", *(["prediction"] if "prediction" in params.needs else [])]
    images = _prune_candidates(run, _with_columns(images, pool, columns), _least(run))
    budgets = _budgets(run, images)
    real = _prune_candidates(run, ImageSet(folder, real.reset_index(drop=True)), 1).table  # the target is pruned, too
    targets = {name: class_target(part.to_numpy(), budgets.get(name, params.ipc), params.distribution, bins)
               for name, part in real.groupby("class", sort=False)["transformed"]}
    notes = read_table(folder / "thresholds.csv").set_index("class")["note"].to_dict()
    return Source(images, targets, notes, budgets, repeated)


def _drop_duplicates(run: Run, images: ImageSet) -> tuple[ImageSet, dict[str, int]]:
    """Return the images without those that show a picture of their class once more, and how many these are by class.

    Of each group (`near_duplicates.group_pairs`) the first by name is kept, with numbers in their order, so that images
    that are added later do not change which.

    Raises:
        ValueError: a class with too few images left.
    """
    from dgs_utils.images.near_duplicates import SIDE, find_pairs, group_pairs  # loading torch takes seconds

    table, sorted_images = images.table, ImageSet(images.root, in_order(images.table))
    squares = run.progress(load_squares(sorted_images, SIDE), label="images compared", total=len(images))
    pairs, classes = find_pairs(np.stack(list(squares))), sorted_images.labels
    within = pairs[classes[pairs["first"]] == classes[pairs["second"]]]
    is_first = group_pairs(within, len(images)) == np.arange(len(images))
    kept = table[table["file_name"].isin(sorted_images.table["file_name"][is_first])].reset_index(drop=True)
    before, after = (part["class"].value_counts() for part in (table, kept))
    for name, count in after.items():
        if count < min(_least(run), before[name]):
            raise ValueError(f"class {name} has {count} different images among {before[name]} in {images.root}, and "
                             f"{run.params.ipc} are needed; lower sample.ipc, enlarge the pool, or unset "
                             f"sample.drop_duplicates")
    return ImageSet(images.root, kept), {name: int(before[name] - after[name]) for name in images.classes}


def _least(run: Run) -> int:
    """Return how many images are left of a class at the least."""
    return 1 if run.params.has_budgets else run.params.ipc


def _budgets(run: Run, images: ImageSet) -> dict[str, int]:
    """Return how many images are taken of each class, {} where that is IPC."""
    params = run.params
    return class_budgets(images.table, params.ipc, params.total, params.class_weights,
                         params.short_classes == "take_all", run.warn) if params.has_budgets else {}


def _prune_candidates(run: Run, images: ImageSet, min_count: int) -> ImageSet:
    """Return the images that ``cut`` and ``cut_errors`` leave, with a column correct where predictions are known.

    Raises:
        ValueError: the scorer's predictions or its confidence are not known, and ``cut_errors`` or the rule needs them;
            or it recognises fewer than ``min_count`` images of a class.
    """
    params, table = run.params, images.table
    if "prediction" in params.needs and not {"prediction"} <= set(table):
        folder = run.inputs.get("scores", run.inputs.get("transform"))
        raise ValueError(f"sample.method {params.preset[0]} needs the classifier's predictions, and {folder} has "
                         f"published scores; run notebook 03 with published_scores = False")
    if "prediction" in table:
        index = read_classes(run.inputs["prepare"]).set_index("class")["index"]
        table = table.assign(correct=table["prediction"] == table["class"].map(index))
    kept = []
    for name, part in table.groupby("class", sort=False):
        part = part[part["correct"]] if params.cut_errors else part
        if len(part) < min_count and params.cut_errors:
            raise ValueError(f"class {name} has {len(part)} images that the scorer recognises, in {images.root}, and "
                             f"{min_count} are needed; lower sample.ipc, enlarge the pool, or unset sample.cut_errors")
        kept.append(part.iloc[prune_hardest(part["score"].to_numpy(), params.cut, min_count)])
    return ImageSet(images.root, pd.concat(kept, ignore_index=True))


def _with_columns(images: ImageSet, scores: pd.DataFrame, columns: list[str]) -> ImageSet:
    """Add columns of a score table to an image set, by file name."""
    columns = [name for name in columns if name in scores]  # published scores come without prediction
    table = images.table.drop(columns=columns, errors="ignore")
    table = table.merge(scores[["file_name", *columns]], on="file_name", how="left", validate="one_to_one")
    unscored = table["file_name"][table["score"].isna()]
    if len(unscored):
        raise ValueError(f"{images.root / unscored.iloc[0]} has no score; run notebooks 03 and 04 for this pool and "
                         f"ipc, with the same pool_factor")
    return ImageSet(images.root, table)


def select_images(run: Run, source: Source) -> pd.DataFrame:
    """Choose the distilled set by the run's method.

    Returns:
        The chosen rows of ``source.images.table``, class by class, in the rule's own order; for crops, what
        `rded_crops.choose_crops` returns.

    Raises:
        ValueError: a class with fewer images than IPC, or scores that lack what the rule needs.
    """
    params, (name, method) = run.params, run.params.preset
    if method.source == "crops":
        return _choose_crops(run, source.images, method.tiles)
    features, real = _features(run, source.images, method) if "features" in params.needs else (None, None)
    options = {"compute": params.compute} if "compute" in method.uses else {}
    return select_rows(source.images.table, name, source.budgets or params.ipc, params.seed, targets=source.targets,
                       features=features, real_features=real, cut=0.0 if params.cut else None, **options)


def _choose_crops(run: Run, images: ImageSet, tiles: int) -> pd.DataFrame:
    """Choose crops by 00's classifier; the distilled images have the size that it sees."""
    from dgs_utils.classifiers.scorer import load_classifier  # loading torchvision takes seconds
    from dgs_utils.selection.rded_crops import choose_crops

    params, scorer = run.params, load_classifier(run.inputs["prepare"] / "classifier")
    index = read_classes(run.inputs["prepare"])["index"].to_numpy()
    return choose_crops(images, scorer, index, params.ipc, params.seed, tiles, run.progress)


def _features(run: Run, images: ImageSet, method: Method) -> tuple[np.ndarray, dict[str, np.ndarray] | None]:
    """Return the candidates' features, and those of real images where the rule compares them.

    They are those of the classifier that ``sample.features`` names or had trained, at the size that it has, or of 00's.
    """
    from dgs_utils.classifiers import scorer as classifier  # loading torchvision takes seconds
    from dgs_utils.classifiers.pretrained import open_scorer

    named = run.params.features and "trained" not in run.inputs
    scorer = (open_scorer(run.params.features, warn=run.warn) if named else
             classifier.load_classifier(run.inputs.get("trained", run.inputs["prepare"]) / "classifier"))
    features = classifier.extract_features(images, scorer, progress=run.progress)
    if not method.rule.whole_set:
        return features, None
    real = real_images(run)
    found = classifier.extract_features(real, scorer, progress=run.progress)
    return features, {name: found[part.index] for name, part in real.table.groupby("class", sort=False)}


def real_images(run: Run) -> ImageSet:
    """Return up to 200 training images of each class, chosen once and for all by the class's name."""
    return ImageSet.read(run.inputs["prepare"], split="train").sample_each_class(REAL_IMAGES, "sample", "originals")


def write_set(run: Run, source: Source, chosen: pd.DataFrame) -> pd.DataFrame:
    """Write the chosen images, ``metadata.csv``, ``report.csv`` and ``README.md``; everything has been checked before.

    Returns:
        The metadata: file_name, class, label, what is known of its place in the pool and of its score, and source: its
        file's name below the root of the originals, of a pool that was given, or of the kit's own pool (for crops see
        `rded_crops.write_mosaics`).
    """
    if run.cached:
        return read_table(run.folder / "metadata.csv")
    if run.params.preset[1].source == "crops":
        from dgs_utils.selection.rded_crops import write_mosaics

        metadata = write_mosaics(source.images, chosen, run.folder, run.progress)
    else:
        metadata = _copy(run, source.images, chosen)
    write_csv(run.folder / "report.csv", report(chosen, source))
    write_csv(run.folder / "metadata.csv", metadata)
    write_readme(run.folder)
    return metadata


def _copy(run: Run, images: ImageSet, chosen: pd.DataFrame) -> pd.DataFrame:
    """Copy the chosen images, so that any viewer shows them as they were scored, and return their metadata."""
    folders, files = chosen["class"].map(class_folders(images.classes)), chosen["file_name"].str.rpartition("/")[2]
    names = "images/" + folders + "/" + files.map(portable_filename)
    doubled = names.duplicated(keep=False)  # same name in two subfolders of the originals
    names[doubled] = [f"{Path(name).parent.as_posix()}/{n}-{Path(name).name}" for n, name in enumerate(names[doubled])]
    known = ("class", "label", "index", "score", "transformed", "prediction", "confidence", "generator")
    kept = [name for name in known if name in chosen]
    copies = []
    with atomic(run.folder / "images") as partial, images.naming_class():
        for old, new in run.progress(list(zip(chosen["file_name"], names, strict=True)), label="images"):
            target = partial / Path(new).relative_to("images")
            target.parent.mkdir(parents=True, exist_ok=True)
            copies.append(copy_image(images.root / old, target).relative_to(partial))
    source = chosen["source" if "pool" in run.inputs and "source" in chosen else "file_name"]
    written = [f"images/{copy.as_posix()}" for copy in copies]
    return chosen[kept].assign(file_name=written, source=source)[["file_name", *kept, "source"]]
