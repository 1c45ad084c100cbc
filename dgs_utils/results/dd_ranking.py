"""DD-Ranking's scores [B §4]."""

import numpy as np
import pandas as pd

from dgs_utils.results.rows import SEEDS, numbers_of

# What the runs of one score agree in; the recipe of each protocol decides the rest.
ALIKE = ("dataset", "split", "test_list", "prepare_seed", "image_size", "network", "flip", "precision")
ROUNDING = 0.2  # of epochs to whole ones, where a small share of a protocol's is trained


def label_robust_score(real_hard: float, distilled_hard: float, distilled: float, random: float,
                       weight: float = 0.5) -> float:
    """Return DD-Ranking's label-robust score in [0, 1] (arXiv 2505.13300); 0.269 is no better than random [B §4].

    Args:
        real_hard: accuracy of the full real set with hard labels, as a fraction.
        distilled_hard: accuracy of the distilled set with hard labels.
        distilled: accuracy of the distilled set with any labels.
        random: accuracy of random real images of the same IPC under the same recipe.
        weight: of the gain over random; the rest weighs the loss to the full set.
    """
    _check_fractions(real_hard, distilled_hard, distilled, random)
    return _scaled(weight * (distilled - random) - (1 - weight) * (real_hard - distilled_hard))


def augmentation_robust_score(distilled: float, random: float, distilled_plain: float, random_plain: float,
                              weight: float = 0.5) -> float:
    """Return DD-Ranking's augmentation-robust score in [0, 1], from accuracies (fractions) with and without (plain)
    augmentation of the distilled set and of random real images.
    """
    _check_fractions(distilled, random, distilled_plain, random_plain)
    return _scaled(weight * (distilled - random) + (1 - weight) * (distilled_plain - random_plain))


def robust_scores(results: pd.DataFrame) -> pd.DataFrame:
    """Return DD-Ranking's scores of each training for which all the others are there.

    The label-robust score wants the set and the full set under hard labels (protocol idc), and the set and random real
    images under any: soft labels (rded) where both were run with them, else hard ones too. The augmentation-robust
    score wants both with and without augmentation, under hard labels.

    Nothing is averaged: the trainings of one score have one training seed and agree in `ALIKE` and in how many epochs
    of their protocol they had. Its sets are of one series, pool and selection, its random images of that selection seed
    where the series has such a seed. Two candidates for one role leave no score.

    Args:
        results: rows, one a training (see `rows.read_results`).

    Returns:
        `ALIKE`, epoch_factor, ipc, series, `rows.SEEDS` (−1: none of a kind), lrs, ars (NaN where trainings are
        missing); no row where both are.
    """
    alike = [name for name in ALIKE if name in results]
    results = results.assign(**{name: numbers_of(results[name]).fillna(-1).astype(int) for name in SEEDS})
    rows = []
    for _, runs in results.groupby([*alike, "training_seed"], dropna=False, sort=False):
        ours = runs[~runs["method"].isin(["random", "full"]) & (runs["protocol"] == "idc") & runs["augment"]]
        rows += [{**row, **_robust_scores(row, runs)} for row in ours.to_dict("records")]
    found = pd.DataFrame(rows, columns=[*alike, "epoch_factor", "ipc", "series", *SEEDS, "lrs", "ars"])
    return found.dropna(subset=["lrs", "ars"], how="all").reset_index(drop=True)


def _robust_scores(row: dict, runs: pd.DataFrame) -> dict[str, float]:
    """Return both scores of one training, from those that agree with it in `ALIKE` and the training seed."""
    runs = runs[(runs["epoch_factor"] / row["epoch_factor"] - 1).abs() < ROUNDING]

    def share(protocol: str, augment: bool, ipc: int, who: dict) -> float:
        is_so = (runs["protocol"] == protocol) & (runs["augment"] == augment) & (runs["ipc"] == ipc)
        found = runs.loc[is_so & np.logical_and.reduce([runs[name] == value for name, value in who.items()]), "best"]
        return found.iloc[0] / 100 if len(found) == 1 else np.nan

    drawn = {"selection_seed": row["selection_seed"]} if row["selection_seed"] >= 0 else {}
    ipc, who = row["ipc"], {name: row[name] for name in ("series", *SEEDS)}
    places = {"hard": ("idc", True, ipc), "soft": ("rded", True, ipc), "plain": ("idc", False, ipc)}
    own = {name: share(*place, who) for name, place in places.items()}
    random = {name: share(*place, {"method": "random", **drawn}) for name, place in places.items()}
    labels = "hard" if np.isnan([own["soft"], random["soft"]]).any() else "soft"
    lrs = [share("idc", True, 0, {"method": "full"}), own["hard"], own[labels], random[labels]]
    ars = [own["hard"], random["hard"], own["plain"], random["plain"]]
    return {"lrs": np.nan if np.isnan(lrs).any() else label_robust_score(*lrs),
            "ars": np.nan if np.isnan(ars).any() else augmentation_robust_score(*ars)}


def _scaled(value: float) -> float:
    return float((np.exp(value) - np.exp(-1)) / (np.exp(1) - np.exp(-1)))


def _check_fractions(*values: float) -> None:
    for value in values:
        if not 0 <= value <= 1:
            raise ValueError(f"an accuracy is {value}; DD-Ranking's scores want fractions in [0, 1], not percent")
