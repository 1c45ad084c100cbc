"""Where a distilled set comes from, as rows of results tell it: read from the manifests of all that went into it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dgs_utils.artifacts.manifests import MANIFEST, history, input_folder, read_manifest
from dgs_utils.artifacts.nodes import key_of
from dgs_utils.images.tables import read_table
from dgs_utils.methods import METHODS, Method
from dgs_utils.results.labels import classifier_name, generation_of, judge_name

TOLD = {"method", "distribution", "pool_factor", "ipc", "objective", "shared_scale", "measure", "score", "cut",
        "cut_errors", "compute", "bias", "seed"}  # columns of their own
JUDGES = {"classifier", "classifier_weights", "classifier_size", "classifier_epochs", "classifier_protocol", "folds",
          "dynamics", "class_index"}  # parameters of stage 00 that no set depends on which no judge has looked at


def origin_of(folder: Path, prepare: Path, teacher: Path | None = None) -> dict[str, Any]:
    """Return what every row of the results says about a distilled set.

    Args:
        folder: the set: an image folder of any origin.
        prepare: the 00 folder whose images it is tested on.
        teacher: the 00 folder of the soft labels' teacher; None for hard labels.

    Returns:
        method, distribution, pool_factor, ipc (0 for methods that take every image), prepare_seed, fine_tune_seed,
        pool_seed and selection_seed ("" where there was no such draw), dataset, split, distilled, objective (of 04, and
        whether the scale was shared), measure (the score that rule or cut went by), judge (see `labels.judge_name`; ""
        where none has looked at the images), rule, cut ("errors" and the share of the hardest that were left out),
        compute, bias (β of a pool of originals), pool (what decided its images, as a hash), generator (see
        `generator_of`; "" where there is no pool), shift (by how much the pool is harder than the originals, the mean
        over the classes, where 04 was told), generation (how it was made), features (whose its rule looked at, "" for
        none), teacher and teacher_top1 (see `_teacher_row`), and variant: eight hex digits of everything else that
        decided the set, seeds left out, so that runs of unlike sets are never averaged.
    """
    source = json.loads((prepare / "dataset.json").read_text())
    row: dict[str, Any] = {"method": folder.name, "distribution": "", "pool_factor": 0, "ipc": 0, "pool_seed": "",
                           "selection_seed": ""}
    steps = list(history(folder))
    made = [(manifest["stage"], manifest) for _, manifest in steps]
    if made:
        identity = made[0][1]["identity"]
        row |= {name: identity.get(name, default) for name, default in row.items()}
        row["selection_seed"] = identity.get("seed", "")
    told = {stage: manifest["params"] for stage, manifest in reversed(made) if "02" <= stage < "05"}
    behind = [*made, *((manifest["stage"], manifest) for _, manifest in history(prepare))]
    params = {stage: manifest["params"] for stage, manifest in reversed(behind)}
    row |= {"pool_seed": params.get("02_pool", {}).get("seed", ""),
            "prepare_seed": params.get("00_prepare", {}).get("seed", ""),
            "fine_tune_seed": params.get("01_fine_tune", {}).get("seed", "")}
    row |= {"objective": _objective_of(told), "measure": _score_of(row["method"], made, told),
            "judge": judge_name(params["00_prepare"], told.get("03_difficulty", {})) if _is_judged(made) else "",
            "rule": method_called(row["method"]).selector, "cut": _cut_of(made),
            "compute": str(made[0][1]["identity"].get("compute", "")) if made else "",
            "bias": bias_of(params.get("02_pool", {}))}
    pool = next((place for place, manifest in steps if manifest["stage"] == "02_pool"), None)
    row |= {"pool": _hash(_deciding(pool)) if pool else "", "generator": generator_of(pool) if pool else "",
            "shift": _shift_of(folder), "generation": generation_of(params), "features": _features_of(made),
            **_teacher_row(teacher)}
    own = _without([(stage, manifest["identity"]) for stage, manifest in behind],
                   TOLD if _is_judged(made) else TOLD | JUDGES)
    variant = _hash(["" if made else key_of(folder), own])
    return row | {"dataset": source["dataset"], "split": source["split"], "distilled": folder.name, "variant": variant}


def _is_judged(made: list[tuple[str, dict[str, Any]]]) -> bool:
    """Tell whether the judge of stage 00 had a part in a set or a pool, by the manifests of all that went into it."""
    first = made[0][1]["identity"] if made else {}
    crops = first.get("method") in METHODS and METHODS[first["method"]].source == "crops"
    features = "features" in first and not (first["features"] or first.get("features_network"))
    return any(stage == "03_difficulty" for stage, _ in made) or features or crops


def _deciding(pool: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return what decided the images of a 02 folder, seeds included: the identity of each stage behind it."""
    made = [(manifest["stage"], manifest) for _, manifest in history(pool)]
    return _without([(stage, manifest["identity"]) for stage, manifest in made], set() if _is_judged(made) else JUDGES)


def _without(identities: list[tuple[str, dict[str, Any]]], names: set[str]) -> list[tuple[str, dict[str, Any]]]:
    return [(stage, {name: value for name, value in identity.items() if name not in names})
            for stage, identity in identities]


def _hash(told: object) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]


def _objective_of(told: dict[str, dict[str, Any]]) -> str:
    """Return by which objective 04 searched its thresholds, such as "code", or "code, shared scale"."""
    transform = told.get("04_transform", {})
    return transform.get("objective", "") + (", shared scale" if transform.get("shared_scale") else "")


def bias_of(pool: dict) -> str:
    """Return β of a pool that was drawn from the originals, such as "2"; "" for any other."""
    return f"{pool['bias']:g}" if pool.get("generator") == "originals" else ""


def generator_of(pool: Path) -> str:
    """Return what made the images of a 02 folder, such as "minimax", "originals" or a folder's name; "one+two" where
    several did.
    """
    return "+".join(read_table(pool / "metadata.csv")["generator"].unique())


def _shift_of(folder: Path) -> float | str:
    """Return how far the pool that a set was drawn from lies from the originals, to four digits; "" where unknown."""
    if not (folder / MANIFEST).exists():
        return ""
    transform = input_folder(read_manifest(folder), "transform")
    table = read_table(transform / "thresholds.csv") if transform else pd.DataFrame()
    return round(float(table["shift"].mean()), 4) if "shift" in table else ""


def _features_of(made: list) -> str:
    """Return whose features a set's rule looked at, such as "resnet50 IMAGENET1K_V1"; "" where it looked at none."""
    manifest = made[0][1] if made else {}
    method = METHODS.get(manifest.get("identity", {}).get("method"))
    if manifest.get("stage") != "05_sample" or not method or "features" not in method.rule.needs:
        return ""
    trainer = input_folder(manifest, "trained") or input_folder(manifest, "prepare")
    named = manifest["identity"].get("features", "")
    return named or (classifier_name(read_manifest(trainer)["params"]) if trainer else "")


def _teacher_row(folder: Path | None) -> dict[str, Any]:
    """Return what a row says of the teacher: what it is, and the percent of the test images that it got right.

    A trained one is named as in "resnet18 trained on the subset, rded, 300 epochs, 224 px"; its accuracy is that after
    its last epoch, as stage 00 tested it. Of one that came from elsewhere 00 knows none, and hard labels have no
    teacher: NaN.
    """
    if folder is None:
        return {"teacher": "", "teacher_top1": np.nan}
    params, curve = read_manifest(folder)["params"], folder / "classifier_curve.csv"
    tested = read_table(curve)["top1"] if curve.exists() else pd.Series(dtype=float)
    return {"teacher": classifier_name(params), "teacher_top1": tested.iloc[-1] if len(tested) else np.nan}


def _score_of(method: str, made: list, told: dict) -> str:
    """Return which score a set's rule or cut went by: stage 05's own, that of the preset, or the measure of 03."""
    own = made[0][1]["identity"].get("score", "") if made else ""
    measure = told.get("03_difficulty", {}).get("measure", "")
    return own or (METHODS[method].score if measure and method in METHODS else "") or measure


def _cut_of(made: list) -> str:
    """Return what was left out before the choice, such as "0.3", "errors", or "errors, 0.3"."""
    identity = made[0][1]["identity"] if made else {}
    parts = ["errors" if identity.get("cut_errors") else "", str(identity.get("cut", ""))]
    return ", ".join(part for part in parts if part)


def method_called(name: str) -> Method:
    """Return what is known of a set's method; of a folder that the kit did not make, that its images are whole."""
    return METHODS.get(name, Method(name, "originals", selector=""))
