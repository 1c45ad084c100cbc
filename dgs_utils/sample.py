"""Stage 05: the distilled set, drawn by difficulty or by one of the rivals (§2.2).

A method (`dgs_utils.methods`) says which images are the candidates and which rule (`dgs_utils.selection.select`)
picks among them. The result is an image folder in Hugging Face's layout: ``images/<class>/<file>`` and
``metadata.csv``, with a report of what was wanted and what was found.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from dgs_utils.images.classes import read_classes
from dgs_utils.images.image_set import ImageSet
from dgs_utils.images.pixels import copy_image
from dgs_utils.images.portable_names import class_folders, portable_filename, write_readme
from dgs_utils.methods import METHODS, Method
from dgs_utils.params import PoolParams
from dgs_utils.runtime.seeds import numpy_rng
from dgs_utils.runtime.table_io import read_table
from dgs_utils.selection.histograms import histogram
from dgs_utils.selection.permanent_numbers import permanent_numbers
from dgs_utils.selection.rule_registry import RULE_FUNCTIONS, Candidates
from dgs_utils.selection.score_tables import (
    check_names,
    first_of_class,
    identities_of,
    keep_classes,
    read_scores,
    with_score,
)
from dgs_utils.selection.select import prune_hardest, select, selection_rng
from dgs_utils.selection.targets import Target, class_target, counts_of, counts_to_text, target_report
from dgs_utils.store.atomic import atomic, write_csv
from dgs_utils.store.manifest import MANIFEST, parameter, read_manifest
from dgs_utils.store.session import Run

REAL_IMAGES = 200  # real images a class that S3 takes its centroid from [B §3.3]
COMPARED_CLASSES = 20  # among which is the one that shows how rules differ


# ---- Frames of candidates --------------------------------------------------------------------------------------------

def select_rows(table: pd.DataFrame, method: str, ipc: int, seed: int = 0, *,
                targets: Mapping[str, Target] | None = None, features: ArrayLike | None = None,
                real_features: Mapping[str, np.ndarray] | None = None, cut: float | None = None,
                **options) -> pd.DataFrame:
    """Choose ``ipc`` rows of each class by the rule of a method.

    Args:
        table: one row an image, in the order in which rule "first" takes them: class, and what the rule looks at of
            score, transformed (preferred to score), confidence, correct and mean_probability.
        method: a name of `dgs_utils.methods.METHODS`.
        ipc: images per class.
        seed: of the draw: each image has a number by seed, class and name of its file (`permanent_numbers`), whatever
            the method.
        targets: by class name, for methods that follow one.
        features: shape (N, D), in the order of the table.
        real_features: by class name, shape (M, D), for rules that compare with real images.
        cut: fraction of the hardest rows of a class that are pruned first; None = the rule's own (see `select.select`).
        options: what the rule takes beyond candidates and IPC.

    Returns:
        The chosen rows, class by class, in the rule's own order.

    Raises:
        ValueError: a class with fewer images than ``ipc``.
    """
    columns = {"scores": "transformed" if "transformed" in table else "score", "confidence": "confidence",
               "correct": "correct", "mean_probability": "mean_probability"}
    candidates, indices = [], []
    for name, part in table.reset_index(drop=True).groupby("class", sort=False):
        rows = part.index.to_numpy()
        values = {field: part[column].to_numpy() for field, column in columns.items() if column in part}
        values |= targets[name]._asdict() if targets and name in targets else {}
        values |= {"features": np.asarray(features)[rows]} if features is not None else {}
        values |= {"real_features": real_features[name]} if real_features is not None else {}
        keys = permanent_numbers(seed, name, identities_of(part))
        candidates.append(Candidates(name, len(part), selection_rng(seed, name), keys, **values))
        indices.append(rows)
    chosen = select(METHODS[method].rule_name, candidates, ipc, cut, **options)
    return table.iloc[np.concatenate([rows[picked] for rows, picked in zip(indices, chosen, strict=True)])]


def choices_by_rule(source: "Source", ipc: int, seed: int = 0, name: str = "") -> dict[str, pd.DataFrame]:
    """Return the images of one class of the pool that each rule would select, if its scores and targets are available.

    Args:
        source: the candidates of any method that chooses from a pool.
        ipc: images to take.
        seed: of the draws.
        name: class; "" for that of the first `COMPARED_CLASSES` in which the mean scores of the rules differ most.

    Returns:
        By label of the method, the chosen rows, from the lowest score to the highest. Rules that need
        features are skipped, since they need a classifier; {} where there are no scores.
    """
    table = source.images.table
    if "score" not in table:
        return {}
    if not name:
        compared = [choices_by_rule(source, ipc, seed, other) for other in source.images.classes[:COMPARED_CLASSES]]
        return max(compared, key=lambda rules: np.ptp([rows["score"].mean() for rows in rules.values()]))
    table = table[table["class"] == name]
    available = {"score": True, "prediction": {"correct", "confidence"} <= set(table),
                 "target": name in source.targets, "dynamics": "mean_probability" in table}
    choices = {}
    for method_name, method in METHODS.items():
        needs = method.rule.needs
        if method.source != "pool" or not method.chooses or not all(available.get(need, False) for need in needs):
            continue
        columns = table if "target" in needs else table.drop(columns="transformed", errors="ignore")
        rows = select_rows(columns, method_name, ipc, seed, targets=source.targets)
        choices[method.label] = rows.sort_values("score", kind="stable")
    return choices


class Source(NamedTuple):
    """The candidates of stage 05.

    Attributes:
        images: the candidates, ordered by class and within a class as rule "first" takes them; the table has what
            the method needs (score, transformed, prediction, confidence).
        targets: by class name; empty where the method follows no target.
        notes: warnings of stage 04, by class name.
    """

    images: ImageSet
    targets: dict[str, Target]
    notes: dict[str, str]


def report(chosen: pd.DataFrame, source: Source) -> pd.DataFrame:
    """Compare the chosen images with the target, class by class.

    Returns:
        class, label, images; for methods that look at scores also found (images per bin of the score that the method
        works on); for methods with a target also target, shortage (both per bin), wasserstein (W1 of found difficulties
        to the target's), divergence (KL(found ‖ target) in bits, one image spread over the bins of each) and a note
        where the target could not be met. Lists per bin are texts such as "1 0 2" (`targets.counts_of`).
    """
    scores = source.images.table.groupby("class", sort=False)
    rows = []
    for name, part in chosen.groupby("class", sort=False):
        images = part["image"].nunique() if "image" in part else len(part)
        row = {"class": name, "label": part["label"].iloc[0], "images": images}
        values = part["transformed" if "transformed" in part else "score"].to_numpy() if "score" in part else None
        target = source.targets.get(name)
        if target and values is not None:
            row |= target_report(values, scores.get_group(name)["transformed"], target, source.notes[name])
        elif values is not None:
            row["found"] = counts_to_text(histogram(values))
        rows.append(row)
    return pd.DataFrame(rows)


def shown_columns(report: pd.DataFrame, titles: Mapping[str, str] = {}) -> pd.DataFrame:
    """Return the columns of a `report` that say whether the set is what was wanted, with readable names of classes.

    These are class, images, and where the method follows a target: missing (images that the pool lacks in bins that the
    target asks for), wasserstein, divergence, and note where there is one.
    """
    shown = report[["class", "images"]].replace({"class": dict(titles)})
    if "target" in report:
        shown = shown.assign(missing=counts_of(report["shortage"]).sum(axis=1),
                             **report[["wasserstein", "divergence"]].round(3))
    return shown.assign(note=report["note"]) if report.get("note", pd.Series(dtype=str)).any() else shown


# ---- The stage -------------------------------------------------------------------------------------------------------

def read_source(run: Run) -> Source:
    """Read the candidates of the run's method with their scores and targets, without those that ``cut`` prunes.

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
        size = params.images_read_from("pool")
        _check_prefix(run.inputs["pool"], size)
        images = ImageSet(images.root, first_of_class(images.table, size))
    check_names(images.table, images.root)
    if "target" not in params.needs:
        if "scores" in run.inputs:
            scores = with_score(read_scores(run.inputs["scores"]), method.score, run.inputs["scores"])
            columns = ["score", "prediction", "confidence", "mean_probability"]
            images = _prune_candidates(run, _with_columns(images, scores, columns), params.ipc)
        return Source(images, {}, {})
    folder = run.inputs["transform"]
    scores = read_table(folder / "transformed.csv")
    bins = parameter(folder, "bins")
    pool, real = (scores[scores["set"] == set_name] for set_name in ("pool", "original"))
    columns = ["score", "transformed", *(["prediction"] if params.cut_errors else [])]
    images = _prune_candidates(run, _with_columns(images, pool, columns), params.ipc)
    real = _prune_candidates(run, ImageSet(folder, real.reset_index(drop=True)), 1).table  # the target is pruned, too
    targets = {name: class_target(part.to_numpy(), params.ipc, params.distribution, bins)
               for name, part in real.groupby("class", sort=False)["transformed"]}
    thresholds = read_table(folder / "thresholds.csv")
    notes = dict(zip(thresholds["class"], thresholds["note"], strict=True))
    return Source(images, targets, notes)


def _check_prefix(pool: Path, count: int) -> None:
    """Raise ValueError if the first ``count`` images a class of a pool of this kit are not such a pool themselves."""
    if (pool / MANIFEST).exists() and (manifest := read_manifest(pool))["stage"] == PoolParams.stage:
        PoolParams.model_construct(**manifest["params"]).check_prefix(count)


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
    return select_rows(source.images.table, name, params.ipc, params.seed, targets=source.targets, features=features,
                       real_features=real, cut=0.0 if params.cut else None, **options)


def _choose_crops(run: Run, images: ImageSet, tiles: int) -> pd.DataFrame:
    """Choose crops by 00's classifier; the distilled images have the size that it sees."""
    from dgs_utils.classifiers.scorer import (
        load_classifier,  # loading torchvision takes seconds, which other methods are spared
    )
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
    real = _real_images(run)
    found = classifier.extract_features(real, scorer, progress=run.progress)
    return features, {name: found[part.index] for name, part in real.table.groupby("class", sort=False)}


def _real_images(run: Run) -> ImageSet:
    """Return up to 200 training images of each class, chosen once and for all by the class's name."""
    images = ImageSet.read(run.inputs["prepare"], split="train")
    parts = []
    for name, part in images.table.groupby("class", sort=False):
        order = numpy_rng("sample", "originals", name).permutation(len(part))[:REAL_IMAGES]
        parts.append(part.iloc[np.sort(order)])
    return ImageSet(images.root, pd.concat(parts, ignore_index=True))


def write_set(run: Run, source: Source, chosen: pd.DataFrame) -> pd.DataFrame:
    """Write the chosen images, ``metadata.csv``, ``report.csv`` and ``README.md``; everything has been checked before.

    Returns:
        The metadata: file_name, class, label, what is known of its place in the pool and of its score, and source: its
        file's name below the root of the originals, of a pool that was given, or of the kit's own pool (for crops see
        `mosaics.write_mosaics`).
    """
    if run.cached:
        return read_table(run.folder / "metadata.csv")
    if run.params.preset[1].source == "crops":
        from dgs_utils.images.mosaics import write_mosaics

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
