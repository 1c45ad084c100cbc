"""Rows of results for tests: one base row, and changes of it."""

import itertools

import numpy as np
import pandas as pd
from scipy import stats

from dgs_utils.results.rows import condition_names, series_names

BASE = {"protocol": "idc", "dataset": "imagewoof", "split": "imagenet", "image_size": 224, "epoch_factor": 1.0,
        "batch_size": 64, "learning_rate": 0.01, "augment": True, "flip": True, "precision": "fp32",
        "evaluations": 100, "norm": "instance", "label": "H-A", "objective": "code", "measure": "difficulty",
        "judge": "", "variant": "a1", "test_list": "", "prepare_seed": "", "fine_tune_seed": "", "pool": "",
        "teacher": "", "soft_labels": "", "features": "", "generator": "", "cut": "", "compute": "",
        "budget": "", "bias": "",
        "generation": "DiT-XL/2, 12000 fine-tuning steps, 50 steps, guidance 4",
        "network": "resnet_ap10", "ipc": 10, "method": "dgs", "distribution": "scale", "pool_factor": 5, "pool_seed": 0,
        "selection_seed": 0, "training_seed": 0, "distilled": "a", "best": 50.0, "last": 49.0, "n_test": 500}


def rows(*changes: dict) -> pd.DataFrame:
    return pd.DataFrame([{**BASE, **change} for change in changes])


def runs(accuracies, **cell) -> pd.DataFrame:
    """Return one row a training run of the same cell."""
    return rows(*[{**cell, "training_seed": seed, "best": best} for seed, best in enumerate(accuracies)])


def named(*frames: pd.DataFrame) -> pd.DataFrame:
    results = pd.concat(frames, ignore_index=True)
    return results.assign(series=series_names(results), condition=condition_names(results))


def arm(method: str, accuracies: list, **cell) -> list[dict]:
    return [{"method": method, "variant": method, "selection_seed": 0, **cell, "training_seed": seed, "best": best}
            for seed, best in enumerate(accuracies)]


def by_hand(accuracies: list, control: list) -> tuple[float, float, float]:
    """Return difference and interval of paired trainings of one pool and selection."""
    gaps = np.subtract(accuracies, control)
    half = stats.t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / len(gaps) ** 0.5
    return gaps.mean(), gaps.mean() - half, gaps.mean() + half


POOL = {"pool": "p1"}
RANDOM, EASY, MARGIN, HARD = [50, 52, 51], [53, 54, 55], [49, 53, 52], [50, 58, 45]


def rule_grid() -> pd.DataFrame:
    """Two scores, two rules, two IPCs and two lengths of training, all in one pool; Moderate for one IPC alone."""
    parts = []
    for ipc, (factor, steps) in itertools.product((10, 20), ((0.1, 400), (1.0, 4000))):
        place = {"ipc": ipc, "epoch_factor": factor, "steps": steps, **POOL}
        turn = 1 if steps == 400 else -1
        parts += arm("pool_random", RANDOM, measure="", **place)
        for score, more in (("difficulty", 0), ("margin", 1)):
            parts += arm("easiest", np.add(RANDOM, [3 * turn + more, 3 * turn, 3 * turn]), measure=score, **place)
            parts += arm("hardest", np.add(RANDOM, [-3 * turn, -3 * turn, 1 + more - 3 * turn]),
                         measure=score, **place)
        parts += arm("moderate", HARD, **place) if ipc == 10 else []
    return rows(*parts)


GAIN_POOLS = [("-3", 0, 0.21), ("-3", 1, 0.19), ("0", 0, 0.01), ("0", 1, -0.01), ("3", 0, -0.13), ("3", 1, -0.12)]
GAIN_BASELINE = [50.0, 52.0]
GAINS = {"dgs": lambda shift, seed: 10 * shift + seed, "easiest": lambda shift, seed: -20 * shift - 2 * seed,
         "none": lambda shift, seed: 1 + 3 * shift}


def gain_rows() -> pd.DataFrame:
    """Three rules on six pools, two trainings each; only what follows a target knows how far its pool lies off."""
    parts = []
    for bias, seed, shift in GAIN_POOLS:
        place = {"bias": bias, "pool": f"p{bias}{seed}", "pool_seed": seed, "pool_factor": 0, "generator": "originals",
                 "variant": "v"}
        arms = {"pool_random": {"measure": "", "objective": "", "distribution": ""},
                "dgs": {"shift": shift}, "easiest": {"objective": "", "distribution": ""},
                "none": {"objective": "none", "shift": shift}}
        for name, changes in arms.items():
            for training, base in enumerate(GAIN_BASELINE):
                gain = GAINS[name](shift, training) if name in GAINS else 0
                parts.append({"shift": "", **place, "method": "dgs" if name == "none" else name, **changes,
                              "training_seed": training, "best": base + gain})
    return rows(*parts)
