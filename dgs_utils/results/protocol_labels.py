"""Protocol labels: which runs were measured as a family of published numbers, and how others differ [B §1]."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from dgs_utils.classifiers.protocols import PROTOCOLS
from dgs_utils.params import paper
from dgs_utils.params.types import OWN_NORM, is_library_network


def protocol_label(row: Mapping[str, Any]) -> str:
    """Return "H-A", "S-R" or "UAG" for a row measured by all settings of that protocol, else the label with the
    differences, such as "H-A, scaled: 64 px, 30 epochs, 1 test".

    Args:
        row: of ``results.csv``, with protocol and `rows.CONDITION_KEYS`, epochs, n_test and teacher.
    """
    protocol = PROTOCOLS.get(row["protocol"])
    if protocol is None:
        return str(row["label"])
    hard, ipc, tests = not protocol.temperature, int(row["ipc"]), row["evaluations"]
    epochs = protocol.epochs(ipc)
    differs = {
        f"{row['image_size']} px": row["image_size"] != 224,
        f"network {row['network']}": is_library_network(row["network"]),
        f"{row['norm']} norm": row["norm"] not in ("instance" if hard else "batch", OWN_NORM),
        f"{row.get('epochs', 0) or round(epochs * row['epoch_factor'])} epochs": row["epoch_factor"] != 1,
        f"batch {row['batch_size']}": row["batch_size"] != protocol.batch_size(ipc),
        f"learning rate {row['learning_rate']:g}": row["learning_rate"] != protocol.learning_rate,
        f"{tests} test{'s' * (tests != 1)}": hard and protocol.counted_after < 1 and tests != (100 if ipc else epochs),
        "no augmentation": not row["augment"],
        "no flips": not row["flip"],
        f"split {row['split']}": row["split"] != "imagenet",
        f"{row['n_test']} test images": row["n_test"] != paper.TEST_IMAGES,
        f"teacher {row.get('teacher') or 'unknown'}": not hard and row.get("teacher") != paper.TEACHER,
    }
    differences = ", ".join(text for text, is_so in differs.items() if is_so)
    return f"{protocol.label}, scaled: {differences}" if differences else protocol.label


def classifier_name(prepare: Mapping[str, Any]) -> str:
    """Return a name for the classifier of a stage 00, such as `paper.TEACHER`, from the parameters of that stage.

    >>> classifier_name({"classifier": "resnet50", "classifier_weights": "IMAGENET1K_V1"})
    'resnet50 IMAGENET1K_V1'
    """
    name, weights = prepare.get("classifier", ""), prepare.get("classifier_weights", "")
    if weights != "train" or "/" in name:
        return f"{name} {'' if '/' in name else weights}".strip()
    return (f"{name} trained on the subset, {prepare.get('classifier_protocol', 'idc')}, "
            f"{prepare['classifier_epochs']} epochs, {prepare['classifier_size']} px")


def scorer_name(prepare: Mapping[str, Any], scoring: Mapping[str, Any]) -> str:
    """Return a short name for a scorer, such as "convnet3, 3 folds", or "a + b" for the mean of several, from the
    parameters of stages 00 and 03.

    >>> scorer_name({"classifier": "convnet3", "folds": 3}, {"scorers": ["some/where/resnet"]})
    'convnet3, 3 folds + resnet'
    >>> scorer_name({"classifier": "convnet3"}, {"over": "task", "temperature": "fit"})
    "convnet3, task's outputs, calibrated"
    """
    if scoring.get("published_scores"):
        return "published scores"
    weights = prepare.get("classifier_weights", "train")
    own = Path(prepare.get("classifier", "")).name + ("" if weights == "train" else f" {Path(weights).name}")
    own += f", {prepare['folds']} folds" if prepare.get("folds") else ""
    names = " + ".join([own, *(Path(name).name for name in scoring.get("scorers", []))])
    over = ", task's outputs" if scoring.get("over", "all") == "task" else ""
    return names + over + (", calibrated" if scoring.get("temperature", "none") == "fit" else "")


def describe_generation(params: Mapping[str, Mapping[str, Any]]) -> str:
    """Return how a pool was generated, such as "DiT-XL/2, 12000 fine-tuning steps, 50 steps, guidance 4", with every
    setting that differs from `paper.SETTINGS`; "" for images without a generation. ``params`` are by stage.
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
        length = f"{tuning['steps']} fine-tuning steps" if tuning["steps"] else f"{tuning['epochs']} fine-tuning epochs"
        parts.append(length + (" without criteria" if tuning.get("criteria") == "none" else ""))
    parts += [f"{pool['steps']} steps", f"guidance {pool['guidance']:g}"]
    parts += [f"{name} in bf16" for name, stage in (("fine-tuned", tuning), ("sampled", pool))
              if stage.get("precision") == "bf16"]
    stages = {"00_prepare": prepare, "01_fine_tune": tuning, "02_pool": pool}
    parts += [f"{name.replace('_', ' ')} {stages[stage][name]}" for stage, settings in paper.SETTINGS.items()
              for name, value in settings.items() if stages[stage].get(name, value) != value]
    return ", ".join(parts)


def is_comparable(summary: pd.DataFrame) -> bool:
    """Return whether all rows were measured as the published ones: label H-A, trained in fp32 (TF32), and generated
    with the published DiT, fine-tuning, sampling and guidance (`describe_generation`).
    """
    generated = [generation in ("", paper.GENERATION["dit" if method == "dit" else "minimax"])
                 for method, generation in zip(summary["method"], summary["generation"], strict=True)]
    return bool((summary["label"] == "H-A").all() and (summary["precision"] == "fp32").all() and all(generated))
