"""DD-Ranking's robust scores (arXiv 2505.13300) [B §4]."""

import numpy as np
import pandas as pd

from dgs_utils.results.rows import SEEDS, seed_numbers

# Runs of one score agree in these; the recipe of each protocol decides the rest.
SCORE_KEYS = ("dataset", "split", "test_list", "prepare_seed", "image_size", "network", "flip", "precision")
EPOCH_TOLERANCE = 0.2  # relative; short trainings are rounded to whole epochs


def robust_score(distilled: float, random: float, other: float, reference: float) -> float:
    """Return a robust score in [0, 1], the mean of two differences on an exponential scale; 0.269 is no better than
    random.

    Accuracies are fractions: of the distilled set with any labels, and of random real images of the same IPC under the
    same recipe. The label-robust score has those of the distilled set and of the full real set with hard labels beside
    them, the augmentation-robust score those of the first two without augmentation.

    >>> round(robust_score(0.4, 0.4, 0.3, 0.3), 3)
    0.269
    """
    for value in (distilled, random, other, reference):
        if not 0 <= value <= 1:
            raise ValueError(f"an accuracy is {value}; DD-Ranking's scores want fractions in [0, 1], not percent")
    mean = (distilled - random + other - reference) / 2
    return float((np.exp(mean) - np.exp(-1)) / (np.exp(1) - np.exp(-1)))


def robust_scores(results: pd.DataFrame) -> pd.DataFrame:
    """Return the robust scores of each training that has all runs for them.

    The label-robust score needs the set and the full set with hard labels (protocol idc), and the set and random real
    images with soft labels (rded), or hard ones if either is missing. The augmentation-robust score needs both with and
    without augmentation. The runs of a score agree in the training seed, in `SCORE_KEYS` and in the relative length of
    training; random images have the series' selection seed, if any. A role with several candidates leaves no score.

    Returns:
        `SCORE_KEYS`, epoch_factor, ipc, series, `rows.SEEDS` (−1: none of a kind), lrs, ars (NaN for missing runs); no
        row without either.
    """
    keys = [name for name in SCORE_KEYS if name in results]
    results = results.assign(**{name: seed_numbers(results[name]).fillna(-1).astype(int) for name in SEEDS})
    rows = []
    for _, runs in results.groupby([*keys, "training_seed"], dropna=False, sort=False):
        ours = runs[~runs["method"].isin(["random", "full"]) & (runs["protocol"] == "idc") & runs["augment"]]
        rows += [row | _robust_scores(row, runs) for row in ours.to_dict("records")]
    scores = pd.DataFrame(rows, columns=[*keys, "epoch_factor", "ipc", "series", *SEEDS, "lrs", "ars"])
    return scores.dropna(subset=["lrs", "ars"], how="all").reset_index(drop=True)


def _robust_scores(row: dict, runs: pd.DataFrame) -> dict[str, float]:
    """Return both scores of one training, from runs that agree with it in `SCORE_KEYS` and the training seed."""
    runs = runs[(runs["epoch_factor"] / row["epoch_factor"] - 1).abs() < EPOCH_TOLERANCE]

    def fraction(protocol: str, augment: bool, ipc: int, **arm: object) -> float:
        wanted = {"protocol": protocol, "augment": augment, "ipc": ipc, **arm}
        best = runs.loc[np.logical_and.reduce([runs[name] == value for name, value in wanted.items()]), "best"]
        return best.iloc[0] / 100 if len(best) == 1 else np.nan

    selection = {"selection_seed": row["selection_seed"]} if row["selection_seed"] >= 0 else {}
    ipc = row["ipc"]
    recipes = {"hard": ("idc", True, ipc), "soft": ("rded", True, ipc), "plain": ("idc", False, ipc)}
    own = {name: fraction(*recipe, **{key: row[key] for key in ("series", *SEEDS)}) for name, recipe in recipes.items()}
    random = {name: fraction(*recipe, method="random", **selection) for name, recipe in recipes.items()}
    labels = "hard" if np.isnan([own["soft"], random["soft"]]).any() else "soft"
    parts = {"lrs": [own[labels], random[labels], own["hard"], fraction("idc", True, 0, method="full")],
             "ars": [own["hard"], random["hard"], own["plain"], random["plain"]]}
    return {name: np.nan if np.isnan(four).any() else robust_score(*four) for name, four in parts.items()}
