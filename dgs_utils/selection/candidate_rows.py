"""Frames of candidates: choosing rows by a method, what each rule would take, and reports of what was chosen."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from dgs_utils.images.image_set import ImageSet
from dgs_utils.methods import METHODS
from dgs_utils.selection.histograms import histogram
from dgs_utils.selection.permanent_numbers import permanent_numbers
from dgs_utils.selection.rule_registry import Candidates
from dgs_utils.selection.score_tables import identities_of
from dgs_utils.selection.select import select, selection_rng
from dgs_utils.selection.targets import Target, counts_of, counts_to_text, target_report

COMPARED_CLASSES = 20  # among which is the one that shows how rules differ


def select_rows(table: pd.DataFrame, method: str, ipc: int | Mapping[str, int], seed: int = 0, *,
                targets: Mapping[str, Target] | None = None, features: ArrayLike | None = None,
                real_features: Mapping[str, np.ndarray] | None = None, cut: float | None = None,
                **options) -> pd.DataFrame:
    """Choose ``ipc`` rows of each class by the rule of a method.

    Args:
        table: one row an image, in the order in which rule "first" takes them: class, and what the rule looks at of
            score, transformed (preferred to score), confidence, correct and mean_probability.
        method: a name of `dgs_utils.methods.METHODS`.
        ipc: images per class, or by class name.
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
    counts = [ipc[one.name] for one in candidates] if isinstance(ipc, Mapping) else ipc
    chosen = select(METHODS[method].rule_name, candidates, counts, cut, **options)
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
    table, ipc = table[table["class"] == name], source.budgets.get(name, ipc)
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
    """The candidates of stage 05."""

    # The candidates, ordered by class and within a class as rule "first" takes them; the table has what the method
    # needs (score, transformed, prediction, confidence).
    images: ImageSet
    targets: dict[str, Target]  # by class name; empty where the method follows no target
    notes: dict[str, str]  # warnings of stage 04, by class name
    budgets: Mapping[str, int] = MappingProxyType({})  # images to take, by class name; empty where that is IPC for each
    repeated: Mapping[str, int] = MappingProxyType({})  # left out, by class name; empty where not looked for


def report(chosen: pd.DataFrame, source: Source) -> pd.DataFrame:
    """Compare the chosen images with the target, class by class.

    Returns:
        class, label, images; repeated (images left out since they show a picture once more) where these were looked
        for; for methods that look at scores also found (images per bin of the score that the method
        works on); for methods with a target also target, shortage (both per bin), wasserstein (W1 of found difficulties
        to the target's), divergence (KL(found ‖ target) in bits, one image spread over the bins of each) and a note
        where the target could not be met. Lists per bin are texts such as "1 0 2" (`targets.counts_of`).
    """
    scores = source.images.table.groupby("class", sort=False)
    rows = []
    for name, part in chosen.groupby("class", sort=False):
        images = part["image"].nunique() if "image" in part else len(part)
        row = {"class": name, "label": part["label"].iloc[0], "images": images}
        row |= {"repeated": source.repeated[name]} if source.repeated else {}
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

    These are class, images, repeated where such were left out, and where the method follows a target: missing (images
    that the pool lacks in bins that the target asks for), wasserstein, divergence, and note where there is one.
    """
    shown = report[["class", "images", *(["repeated"] if "repeated" in report else [])]]
    shown = shown.replace({"class": dict(titles)})
    if "target" in report:
        shown = shown.assign(missing=counts_of(report["shortage"]).sum(axis=1),
                             **report[["wasserstein", "divergence"]].round(3))
    return shown.assign(note=report["note"]) if report.get("note", pd.Series(dtype=str)).any() else shown
