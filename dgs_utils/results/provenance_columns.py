"""Provenance columns of a result row: how its distilled set was made, from the manifests of all stages behind it."""

import hashlib
import json
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dgs_utils.methods import METHODS, Method
from dgs_utils.results.protocol_labels import classifier_name, describe_generation, scorer_name
from dgs_utils.runtime.table_io import read_table
from dgs_utils.store.lineage import input_folder, lineage
from dgs_utils.store.manifest import read_manifest
from dgs_utils.store.node import input_key

Manifests = list[tuple[Path, dict[str, Any]]]  # of a folder and of all stages behind it, the last stage first

EXCLUDED_FROM_VARIANT = {"method", "distribution", "pool_factor", "ipc", "objective", "shared_scale", "measure",
                         "score", "cut", "cut_errors", "drop_duplicates", "compute", "bias", "total",
                         "class_weights", "short_classes", "seed"}  # columns of their own
SCORER_PARAMS = {"classifier", "classifier_weights", "classifier_size", "classifier_epochs", "classifier_protocol",
                 "folds", "dynamics", "class_index"}  # of stage 00


def provenance_row(folder: Path, prepare: Path, teacher: Path | None = None) -> dict[str, Any]:
    """Return the provenance columns of a distilled set.

    ``folder`` is the set, an image folder of any origin; ``prepare`` the 00 folder of its test images; ``teacher`` that
    of the soft labels' teacher, None for hard labels.

    Returns:
        Choices: method, distribution, pool_factor, ipc (0 for all images), objective (of 04, with "shared scale"),
        measure (score of rule or cut), judge (`scorer_name`), rule, cut ("duplicates", "errors" and the fraction of
        the hardest that were removed), compute, budget (how images are shared among classes), bias (β of a pool of
        originals), features (of its rule).
        Seeds: pool_seed, selection_seed, prepare_seed, fine_tune_seed.
        Images: pool (hash of what decided them), generator, generation (`describe_generation`), shift (mean difficulty
        shift of the pool against the originals), dataset, split, distilled (folder), originals and per_class (training
        images of the full set, and of a class on average), teacher and teacher_top1.
        variant: eight hex digits of everything else that decided the set but seeds; runs of unlike sets are never
        averaged. Choices that do not apply are "".
    """
    made = list(lineage(folder))
    behind = [*made, *lineage(prepare)]
    params = {one["stage"]: one["params"] for _, one in reversed(behind)} | {"03_difficulty": own_scoring(made)}
    chosen = made[0][1]["identity"] if made else {}
    method, uses_scorer = chosen.get("method", folder.name), _uses_scorer(made)
    images, fine_tuning, pool, scoring, transform = (params.get(stage, {}) for stage in (
        "00_prepare", "01_fine_tune", "02_pool", "03_difficulty", "04_transform"))
    pool_folder = next((behind for behind, manifest in made if manifest["stage"] == "02_pool"), None)
    preset = METHODS[method].score if scoring.get("measure") and method in METHODS else ""
    cuts = ("duplicates" if chosen.get("drop_duplicates") else "", "errors" if chosen.get("cut_errors") else "",
            str(chosen.get("cut") or ""))
    distribution = chosen.get("distribution", "")
    source, originals = json.loads((prepare / "dataset.json").read_text()), read_table(prepare / "originals.csv")
    train = originals[originals["split"] == "train"]
    return {
        "method": method,
        "distribution": distribution if isinstance(distribution, str) else " ".join(map(str, distribution)),
        "pool_factor": chosen.get("pool_factor", 0), "ipc": chosen.get("ipc", 0),
        "pool_seed": pool.get("seed", ""), "selection_seed": chosen.get("seed", ""),
        "prepare_seed": images.get("seed", ""), "fine_tune_seed": fine_tuning.get("seed", ""),
        "objective": transform.get("objective", "") + (", shared scale" if transform.get("shared_scale") else ""),
        "measure": chosen.get("score", "") or preset or scoring.get("measure", ""),
        "judge": scorer_name(images, scoring) if uses_scorer else "", "rule": find_method(method).rule_name,
        "cut": ", ".join(filter(None, cuts)), "compute": str(chosen.get("compute", "")),
        "budget": _budget_of(chosen),
        "bias": f"{pool['bias']:g}" if pool.get("generator") == "originals" else "",
        "pool": _hash(_identities(list(lineage(pool_folder)))) if pool_folder else "",  # seeds included
        "generator": pool_generator(pool_folder) if pool_folder else "",
        "shift": _shift_of(made), "generation": describe_generation(params), "features": _features_of(made),
        **_teacher_columns(teacher), "originals": len(train),
        "per_class": round(len(train) / max(train["class"].nunique(), 1), 4),
        "dataset": source["dataset"], "split": source["split"], "distilled": folder.name,
        "variant": _hash(["" if made else input_key(folder), _identities(behind, EXCLUDED_FROM_VARIANT, uses_scorer)]),
    }


def own_scoring(made: Manifests) -> dict[str, Any]:
    """Return the parameters of the 03 that scored a set's pool, not of one that this pool was drawn by; {} for none."""
    return min((manifest["params"] for _, manifest in made if manifest["stage"] == "03_difficulty"),
               key=lambda params: params.get("source") != "pool", default={})


def _budget_of(chosen: Mapping[str, Any]) -> str:
    """Return how a set's images are shared among classes, such as "150 images, by difficulty"; "" for IPC of each."""
    kind, _, content = chosen.get("class_weights", "").partition(":")  # of a table of one's own, its hash
    parts = {f"{chosen.get('total')} images": chosen.get("total"),
             f"by {f'weights {content[:8]}' if content else kind}": kind,
             "short classes whole": chosen.get("short_classes")}
    return ", ".join(text for text, is_so in parts.items() if is_so)


def find_method(name: str) -> Method:
    """Return a method by name; other sets count as whole images."""
    return METHODS.get(name, Method(name, "originals", rule_name=""))


def pool_generator(pool: Path) -> str:
    """Return the generator of a 02 folder's images, such as "minimax" or a folder's name; "one+two" for several."""
    return "+".join(read_table(pool / "metadata.csv")["generator"].unique())


def _uses_scorer(made: Manifests) -> bool:
    """Return whether a set or a pool depends on the scorer of stage 00."""
    first = made[0][1]["identity"] if made else {}
    crops = first.get("method") in METHODS and METHODS[first["method"]].source == "crops"
    features = "features" in first and not first["features"]
    return any(manifest["stage"] == "03_difficulty" for _, manifest in made) or features or crops


def _identities(made: Manifests, excluded: Set[str] = frozenset(), uses_scorer: bool | None = None) -> list[tuple]:
    """Return what decided each stage's result, without the scorer where nothing depends on it."""
    is_scored = _uses_scorer(made) if uses_scorer is None else uses_scorer
    left_out = excluded if is_scored else excluded | SCORER_PARAMS
    return [(manifest["stage"], {name: value for name, value in manifest["identity"].items() if name not in left_out})
            for _, manifest in made]


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def _shift_of(made: Manifests) -> float | str:
    """Return the mean difficulty shift of the pool of a set's transform, to four digits; "" where unknown."""
    transform = input_folder(made[0][1], "transform") if made else None
    table = read_table(transform / "thresholds.csv") if transform else pd.DataFrame()
    return round(float(table["shift"].mean()), 4) if "shift" in table else ""


def _features_of(made: Manifests) -> str:
    """Return the network behind a rule's features, such as "resnet50 IMAGENET1K_V1"; "" for rules without features."""
    manifest = made[0][1] if made else {}
    method = METHODS.get(manifest.get("identity", {}).get("method"))
    if manifest.get("stage") != "05_sample" or not method or "features" not in method.rule.needs:
        return ""
    trained, named = input_folder(manifest, "trained"), manifest["identity"].get("features", "")
    trainer = trained or (None if named else input_folder(manifest, "prepare"))
    return classifier_name(read_manifest(trainer)["params"]) if trainer else named


def _teacher_columns(folder: Path | None) -> dict[str, Any]:
    """Return the name of the teacher, and its test accuracy after the last epoch if stage 00 trained it, else NaN."""
    if folder is None:
        return {"teacher": "", "teacher_top1": np.nan}
    curve = folder / "classifier_curve.csv"
    tested = read_table(curve)["top1"] if curve.exists() else pd.Series(dtype=float)
    return {"teacher": classifier_name(read_manifest(folder)["params"]),
            "teacher_top1": tested.iloc[-1] if len(tested) else np.nan}
