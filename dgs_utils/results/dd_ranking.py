"""DD-Ranking's scores [B §4]."""

import numpy as np
import pandas as pd


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


def robust_scores(summary: pd.DataFrame) -> pd.DataFrame:
    """Return DD-Ranking's scores of each series for which all the runs are there.

    The label-robust score wants the series and the full set under hard labels (protocol idc), and the series and random
    real images under any: soft labels (rded) where both were run with them, else hard ones too. The augmentation-
    robust score wants both with and without augmentation, under hard labels.

    Args:
        summary: one row a cell, with protocol, dataset, network, ipc, method, series, augment and best (percent).

    Returns:
        dataset, network, ipc, series, lrs, ars (NaN where runs are missing); no row where both are.
    """
    cells, place = summary.assign(share=summary["best"] / 100), ["dataset", "network", "ipc"]
    full = cells[(cells["method"] == "full") & (cells["protocol"] == "idc") & cells["augment"]]
    table = cells[~cells["method"].isin(["random", "full"])][[*place, "series"]].drop_duplicates()
    table = table.merge(full.groupby(place[:2])["share"].mean().rename("full").reset_index(), how="left")
    for name, (protocol, augment) in {"hard": ("idc", True), "soft": ("rded", True), "plain": ("idc", False)}.items():
        part = cells[(cells["protocol"] == protocol) & (cells["augment"] == augment)]
        own = part.groupby([*place, "series"])["share"].mean().rename(name)
        random = part[part["method"] == "random"].groupby(place)["share"].mean().rename(f"random_{name}")
        table = table.merge(own.reset_index(), how="left").merge(random.reset_index(), how="left")
    rows = [_robust_scores(row) for row in table.to_dict("records")]
    found = pd.DataFrame(rows, columns=[*place, "series", "lrs", "ars"])
    return found.dropna(subset=["lrs", "ars"], how="all").reset_index(drop=True)


def _robust_scores(row: dict) -> dict:
    soft = [row["soft"], row["random_soft"]]
    lrs = [row["full"], row["hard"], *([row["hard"], row["random_hard"]] if np.isnan(soft).any() else soft)]
    ars = [row[name] for name in ("hard", "random_hard", "plain", "random_plain")]
    return {**row, "lrs": np.nan if np.isnan(lrs).any() else label_robust_score(*lrs),
            "ars": np.nan if np.isnan(ars).any() else augmentation_robust_score(*ars)}


def _scaled(value: float) -> float:
    return float((np.exp(value) - np.exp(-1)) / (np.exp(1) - np.exp(-1)))


def _check_fractions(*values: float) -> None:
    for value in values:
        if not 0 <= value <= 1:
            raise ValueError(f"an accuracy is {value}; DD-Ranking's scores want fractions in [0, 1], not percent")
