"""Which runs have earned the name of a family of published numbers, and may stand beside them [B §1]."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from dgs_utils.classifiers.protocols import PROTOCOLS

OFFICIAL = 500  # validation images of ten ImageNet classes
PUBLISHED_GENERATION = {  # of the paper's pools [F §3, §5]
    "dit": "DiT-XL/2, 50 steps, guidance 4",
    "minimax": "DiT-XL/2, 12000 fine-tuning steps, 50 steps, guidance 4",
}
PUBLISHED_SETTINGS: dict[str, dict[str, Any]] = {  # of the same, by stage; a pool tells those in which it differs
    "00_prepare": {"autoencoder": "sd-vae-ft-mse"},
    "01_fine_tune": {"batch_size": 8, "learning_rate": 0.001, "ema_decay": 0.9999, "scaled_blocks": 0,
                     "memory_size": 64, "weight_representative": 0.002, "weight_diverse": 0.008, "sampled_step": 0},
    "02_pool": {"solver": "ancestral", "cache": "none", "guidance_channels": 0, "guidance_interval": [0.0, 1.0]},
}
TEACHER = "resnet18 trained on the subset, rded, 300 epochs, 224 px"  # of family S-R [B §3.1]


def earned_label(row: Mapping[str, Any]) -> str:
    """Return the label of a row of results: "H-A" or "S-R" where everything that defines that family holds, else with
    what differs, such as "H-A, scaled: 64 px, 30 epochs, 1 test".

    Args:
        row: of ``results.csv``, with protocol and `rows.CONDITION`, epochs, n_test and teacher.
    """
    protocol = PROTOCOLS.get(row["protocol"])
    if protocol is None:
        return str(row["label"])
    hard, ipc = not protocol.temperature, int(row["ipc"])
    epochs = protocol.epochs(ipc)
    tests = row["evaluations"]
    differs = {
        f"{row['image_size']} px": row["image_size"] != 224,
        f"{row['norm']} norm": row["norm"] != ("instance" if hard else "batch"),
        f"{row.get('epochs', 0) or round(epochs * row['epoch_factor'])} epochs": row["epoch_factor"] != 1,
        f"batch {row['batch_size']}": row["batch_size"] != protocol.batch_size(ipc),
        f"learning rate {row['learning_rate']:g}": row["learning_rate"] != protocol.learning_rate,
        f"{tests} test{'s' * (tests != 1)}": hard and tests != (100 if ipc else epochs),
        "no augmentation": not row["augment"],
        "no flips": not row["flip"],
        f"split {row['split']}": row["split"] != "imagenet",
        f"{row['n_test']} test images": row["n_test"] != OFFICIAL,
        f"teacher {row.get('teacher') or 'unknown'}": not hard and row.get("teacher") != TEACHER,
    }
    found = [text for text, is_so in differs.items() if is_so]
    return f"{protocol.label}, scaled: {', '.join(found)}" if found else protocol.label


def classifier_name(prepare: Mapping[str, Any]) -> str:
    """Return what a stage 00's classifier is, such as `TEACHER`.

    Args:
        prepare: parameters of stage 00.
    """
    name, weights = prepare.get("classifier", ""), prepare.get("classifier_weights", "")
    if weights != "train" or "/" in name:
        return f"{name} {'' if '/' in name else weights}".strip()
    return (f"{name} trained on the subset, {prepare.get('classifier_protocol', 'idc')}, "
            f"{prepare['classifier_epochs']} epochs, {prepare['classifier_size']} px")


def judge_name(prepare: Mapping[str, Any], scoring: Mapping[str, Any]) -> str:
    """Return a short name for what said how difficult images are, such as "convnet3, 3 folds", or "a + b" where the
    mean of several did.

    Args:
        prepare: parameters of stage 00.
        scoring: those of stage 03; empty where the judge was used without.
    """
    if scoring.get("published_scores"):
        return "published scores"
    weights = prepare.get("classifier_weights", "train")
    own = Path(prepare.get("classifier", "")).name + ("" if weights == "train" else f" {Path(weights).name}")
    own += f", {prepare['folds']} folds" if prepare.get("folds") else ""
    return " + ".join([own, *(Path(name).name for name in scoring.get("classifiers", []))])


def generation_of(params: Mapping[str, Mapping[str, Any]]) -> str:
    """Return how a pool was made, such as "DiT-XL/2, 12000 fine-tuning steps, 50 steps, guidance 4"; "" for none.

    Args:
        params: of the stages behind a set, by name of stage.
    """
    pool, prepare = params.get("02_pool"), params.get("00_prepare", {})
    if pool is None or pool["generator"] == "folder":
        return ""
    if pool["generator"] == "originals":
        return f"originals, drawn with β {pool['bias']:g}"
    size = prepare.get("dit_size") or "a DiT of its own size"
    parts = [f"{size} trained here" if prepare.get("base_model") == "train" else size]
    tuning = {} if pool["generator"] == "dit" else params.get("01_fine_tune", {})
    if tuning:
        plain = " without criteria" if tuning.get("criteria") == "none" else ""
        parts.append(f"{tuning['steps'] or tuning['epochs']} fine-tuning {'steps' if tuning['steps'] else 'epochs'}"
                     f"{plain}")
    parts += [f"{pool['steps']} steps", f"guidance {pool['guidance']:g}"]
    parts += [f"{name} in bf16" for name, part in (("fine-tuned", tuning), ("sampled", pool))
              if part.get("precision") == "bf16"]
    behind = {"00_prepare": prepare, "01_fine_tune": tuning, "02_pool": pool}
    parts += [f"{name.replace('_', ' ')} {behind[stage][name]}" for stage, settings in PUBLISHED_SETTINGS.items()
              for name, value in settings.items() if behind[stage].get(name, value) != value]
    return ", ".join(parts)


def is_comparable(summary: pd.DataFrame) -> bool:
    """Return whether all rows were measured as the published ones were: label H-A earned, trained in fp32 (TF32), and
    generated by a DiT, fine-tuning, sampling and guidance as published (see `generation_of`).
    """
    generated = [generation in ("", PUBLISHED_GENERATION["dit" if method == "dit" else "minimax"])
                 for method, generation in zip(summary["method"], summary["generation"], strict=True)]
    return bool((summary["label"] == "H-A").all() and (summary["precision"] == "fp32").all() and all(generated))
