"""Stage 03: how difficult each image is for a classifier (Eq. 6)."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dgs_utils.classifiers.architectures import DGS
from dgs_utils.classifiers.measures import MEASURES
from dgs_utils.classifiers.pretrained import open_scorer
from dgs_utils.classifiers.published_weights import published_accuracy
from dgs_utils.classifiers.sanity_checks import scorer_sanity_checks
from dgs_utils.classifiers.scorer import Classifier, load_classifier
from dgs_utils.difficulty import held_out
from dgs_utils.difficulty.agreement import agreement, difficulty_columns, mean_ranks
from dgs_utils.difficulty.resumable import cross_fit_scores, read_exact, score_new_images, scores_of_sources
from dgs_utils.difficulty.scoring import is_score_column, score_images
from dgs_utils.difficulty.snapshots import DYNAMICS_COLUMNS, folds_in, scores_from_dynamics
from dgs_utils.images.classes import (
    default_class_names,
    imagenet_names,
    match_class_names,
    model_indices,
    output_names,
    read_classes,
)
from dgs_utils.images.image_set import ImageSet
from dgs_utils.runtime.table_io import read_table
from dgs_utils.selection.mutual_information import mutual_information
from dgs_utils.selection.score_tables import (
    check_names,
    keep_classes,
    read_published_scores,
    read_scores,
    write_published_scores,
)
from dgs_utils.store.manifest import parameter
from dgs_utils.store.partial_results import write_verified_csv
from dgs_utils.store.session import Run

__all__ = ["calibration", "compare_difficulties", "difficulty_columns", "images_to_show", "information",
           "score_images", "score_source"]

SHOWN_CLASSES = 4  # in figures of images

NAMES = ('"classes", the names of its outputs in their order, in config.json in its folder, or in a .json of the same '
         'name beside its weights')


def score_source(run: Run) -> pd.DataFrame:
    """Score the pool's or the originals' training images, and write ``scores.csv``.

    Returns:
        file_name, class, label, score; where a classifier made the scores, also every measure, prediction, confidence,
        with several scorers the difficulty by each, the difficulty otherwise (see `score_images`), and where stage 00
        recorded training dynamics, the scores from these.

    Raises:
        ValueError: no images of a class, a doubled file name, or classifiers that lack a class.
    """
    if run.cached:
        return read_scores(run.folder)
    params, prepare = run.params, run.inputs["prepare"]
    classes = read_classes(prepare)
    if params.source == "originals":
        images = ImageSet.read(prepare, split="train")
    else:
        images = keep_classes(ImageSet.read(run.inputs["pool"]), classes, run.warn)
    check_names(images.table, run.inputs["pool"] if params.source == "pool" else prepare)
    if params.published_scores:
        scores = read_published_scores(images)
    elif params.source == "pool" and parameter(run.inputs["pool"], "generator") == "originals":
        scores = scores_of_sources(images, read_exact(run.inputs["originals"] / "scores.csv"))
    else:
        scores = _score_by_classifiers(run, images, classes)
    if "difficulty_2" in scores and (params.source == "originals" or "originals" in run.inputs):
        originals = scores if params.source == "originals" else read_scores(run.inputs["originals"])
        scores = scores.assign(mean_rank=mean_ranks(scores, originals))
    if params.round_scores:
        rounded = [name for name in scores if name in ("score", "mean_rank", *MEASURES, *DYNAMICS_COLUMNS)
                   or (is_score_column(name) and name.startswith("difficulty_"))]
        scores[rounded] = scores[rounded].round(params.round_scores)
    columns = ["file_name", "class", "label", "score", *filter(is_score_column, scores), "seen", "mean_rank",
               *DYNAMICS_COLUMNS]
    scores = scores[[name for name in columns if name in scores]]
    write_verified_csv(run.folder / "scores.csv", scores)
    pool = next((source for source in run.sources if source["name"] == "pool"), {})
    if pool.get("count"):  # the pool can be extended, and so can its scores
        lines = scores.to_csv(index=False, header=False).splitlines()
        run.record_prefixes(pool["count"], scores.groupby("class").cumcount(), lines)
    write_published_scores(run.folder / "metadata", scores)
    return scores


def _score_by_classifiers(run: Run, images: ImageSet, classes: pd.DataFrame) -> pd.DataFrame:
    """Score images by the scorer of stage 00 (with folds: its scorers) and by ``difficulty.scorers``."""
    params, prepare = run.params, run.inputs["prepare"]
    fold_scorers = [load_classifier(prepare / "folds" / str(i)) for i in range(folds_in(prepare))]
    own = fold_scorers or [load_classifier(prepare / "classifier")]
    others = [open_scorer(text, warn=run.warn) for text in params.scorers]
    index = [classes["index"].to_numpy()]
    index += [_outputs_of_classes(scorer, text, own[0], classes)
              for scorer, text in zip(others, params.scorers, strict=True)]
    if params.source == "originals":
        _check_scorers(run, own, others, index, classes)
    folder = run.folder if params.source == "originals" else run.inputs.get("originals", run.folder)
    fits = params.temperature == "fit"
    temperature = held_out.fitted_temperatures(folder, params.over) if fits else [1.0] * len(index)
    options: dict[str, Any] = {"measure": params.measure, "precision": params.precision, "warn": run.warn,
                               "over": params.over, "alternatives": len(classes) > 1 and any(
                                   scorer.config.num_classes != len(classes) for scorer in (*own, *others))}
    if fold_scorers and params.source == "originals":
        scores = cross_fit_scores(run, images, fold_scorers, others,
                                  options | {"index": index, "temperature": temperature})
    else:
        scores = score_new_images(run, images, scorers=own + others, index=index[:1] * len(own) + index[1:],
                                  temperature=temperature[:1] * len(own) + temperature[1:], folds=len(own), **options)
    return scores.assign(**scores_from_dynamics(run, images, classes["index"]))


def _outputs_of_classes(scorer: Classifier, text: str, own: Classifier, classes: pd.DataFrame) -> np.ndarray:
    """Return the output of each label in another scorer than that of stage 00, ``own``.

    Outputs are found by class name, the scorer's own or ImageNet's where it has 1,000: the name of the class, or the
    name that ``own`` has for it. A scorer without names has the outputs of ``own`` if that has as many and no names
    either, or if this kit trained it.

    Raises:
        ValueError: the output of a class cannot be found.
    """
    outputs, names = scorer.config.num_classes, scorer.config.classes
    same_kind = not own.config.classes or scorer.config.network.startswith(DGS)
    if not names and same_kind and outputs == own.config.num_classes:
        return classes["index"].to_numpy()
    own_names = own.config.classes or default_class_names(own.config.num_classes)
    aliases = {name: own_names[i] for name, i in zip(classes["class"], classes["index"], strict=True) if own_names}
    matches = match_class_names(list(aliases.values()), names or default_class_names(outputs))
    given = {name: matches[alias] for name, alias in aliases.items() if alias in matches}
    return np.array(model_indices(f"scorer {text}", list(classes["class"]), outputs, names, given=given,
                                  cure=f"write {NAMES}"))


def _check_scorers(run: Run, own: list[Classifier], others: list[Classifier], index: list[np.ndarray],
                   classes: pd.DataFrame) -> None:
    """Calibrate scorers on held-out originals, and warn of each whose answers to them say that something is wrong."""
    texts = run.params.scorers
    if run.params.temperature == "fit" and any(scorer.config.network.startswith(DGS) for scorer in others):
        raise ValueError("difficulty.temperature is fit, and difficulty.scorers has a network of this kit, which may "
                         "have seen these images; leave that scorer out, or set difficulty.temperature to none")
    names = ["the scorer of prepare.classifier" if texts else "the scorer", *(f"scorer {text}" for text in texts)]
    answers = held_out.held_out_outputs(run, own, others, index, names)
    held_out.calibrate(run, answers, ["scorer of 00", *(Path(text).name for text in texts)], others)
    known = [held_out.known_accuracy(run.inputs["prepare"], answers.kind)]
    known += [(published_accuracy(*text.rpartition(":")[::2]), "published") for text in texts]
    problems = list(answers.problems)
    for i, scorer in enumerate((own[0], *others)):
        outputs = scorer.config.classes or default_class_names(scorer.config.num_classes)
        problems += scorer_sanity_checks(
            answers.outputs[i], answers.labels, answers.targets[i], list(classes["class"]),
            [imagenet_names().get(name, name) for name in outputs], scorer=names[i],
            index_source=NAMES if i else "prepare.class_index", expected=known[i][0], expected_by=known[i][1])
    for problem in problems:
        run.warn(problem, decides=True)


def calibration(run: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return how far the scorers are calibrated on held-out originals (see `held_out.calibrate`), and the points of
    their reliability diagrams; both empty, with a printed sentence, where no scorer was asked.
    """
    folder = run.folder if run.params.source == "originals" else run.inputs.get("originals", run.folder)
    points = held_out.reliability_of(folder)
    return (read_table(folder / held_out.TABLE).round(3) if len(points) else pd.DataFrame()), points


def compare_difficulties(run: Run, scores: pd.DataFrame) -> pd.DataFrame:
    """Compare the difficulties that the scored images have, in pairs, by `agreement.agreement`; no row, and a printed
    sentence, where there is one difficulty alone.
    """
    if len(difficulty_columns(scores)) < 2:
        print("not known: there is one difficulty alone; difficulty.scorers names more scorers")
        return pd.DataFrame()
    originals = read_scores(run.inputs["originals"]) if "originals" in run.inputs else scores
    return agreement(scores, originals).round(3)


def information(run: Run, scores: pd.DataFrame) -> pd.DataFrame:
    """Estimate the `mutual_information` of images and classes, for the scored images and for the originals.

    Returns:
        One row a set: class_entropy, cross_entropy, information and error, in bits; none, with a printed sentence,
        unless one scorer alone has scored the images.
    """
    sets = {run.params.source: scores}
    if "originals" in run.inputs:
        sets["originals"] = read_scores(run.inputs["originals"])
    if run.params.scorers or not all("cross_entropy" in table for table in sets.values()):
        print("not known: it needs the cross-entropy of one scorer alone")
        return pd.DataFrame()
    return pd.DataFrame({name: mutual_information(table["cross_entropy"], table["class"])._asdict()
                         for name, table in sets.items()}).T.round(3)


def images_to_show(run: Run, scores: pd.DataFrame) -> pd.DataFrame:
    """Return the images of some classes with their scores, of what was scored and of the originals beside it.

    The classes are `SHOWN_CLASSES` from the easiest to the hardest, by their mean scores.

    Returns:
        set ("original", "pool"), class, name, path, score; and where a classifier made the scores, correct, and text:
        what the image is → what the classifier takes it for. Class by class, originals first.
    """
    classes, readable = read_classes(run.inputs["prepare"]), output_names(run.inputs["prepare"])
    classes = classes.assign(name=classes["index"].map(readable))
    ranked = scores.groupby("class", sort=False)["score"].mean().sort_values(kind="stable").index
    names = ranked[np.unique(np.linspace(0, len(ranked) - 1, SHOWN_CLASSES).round().astype(int))]
    sets = {"original" if run.params.source == "originals" else "pool": scores}
    if "originals" in run.inputs:
        sets["original"] = read_scores(run.inputs["originals"])
    roots = {"original": ImageSet.read(run.inputs["prepare"], "train").root}
    if "pool" in run.inputs:
        roots["pool"] = ImageSet.read(run.inputs["pool"]).root
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
