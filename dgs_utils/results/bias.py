"""Pools of known bias: what rules have above random images of the same pool, against how far that lies off [B §5].

Each pool is one point. Gains are averaged over the pools of one β, and whether they rise or fall with the shift is told
by ranks, over all pools together: gains are neither straight lines nor equally noisy at all shifts. Pools are drawn
independently, which is what the intervals rest on.
"""

import numpy as np
import pandas as pd

from dgs_utils.methods import METHODS
from dgs_utils.results.comparisons import holm
from dgs_utils.results.effects import t_limit
from dgs_utils.results.rows import CONDITION, main_series
from dgs_utils.results.rules import names_of_rules, scores_of

FEWEST = 5  # pools of a trend: with four, no order of ranks has a p below 0.05
ALIKE = [*CONDITION, "pool_factor", "pool"]  # what a rule and its control have in common, beside the training seed
LINE = ["condition", "ipc", "rule", "score"]


def gains_of_pools(results: pd.DataFrame) -> pd.DataFrame:
    """Return what each rule has above random images of each pool that was drawn from the originals.

    Args:
        results: rows of ``results.csv``, one a training (see `rows.read_results`), of any pools.

    Returns:
        One row a rule and pool of generator "originals" that has such a control, where pools of several β were run:
        condition; ipc; rule, readable, and whether it is_main, the nearest to difficulty-guided sampling as published;
        score, "" where the rule looks at none; bias (β); pool; shift, the Wasserstein-1 distance of its difficulties
        from the originals', above 0 for harder ones (see `targets.shift`); gain, percentage points, the mean over
        trainings that both have.
    """
    rows = results[(results["bias"] != "") & results["method"].map(_chooses)].reset_index(drop=True)
    known = rows.assign(shift=pd.to_numeric(rows.get("shift", np.nan), errors="coerce"))
    rows["shift"] = known.groupby("pool")["shift"].transform("mean")
    rows = rows.assign(rule=names_of_rules(rows, bias=""), score=scores_of(rows))
    named = rows["rule"] + "\n" + rows["score"]
    rows["is_main"] = named.isin(named[rows["series"] == main_series(rows)])
    is_control = (rows["method"] == "pool_random") & (rows["cut"] == "")
    paired = [*ALIKE, "training_seed"]
    control = rows[is_control].groupby(paired, dropna=False)["best"].mean().rename("control").reset_index()
    rows = rows[~is_control].merge(control, on=paired)
    rows["gain"] = rows["best"] - rows["control"]
    told = ["condition", "ipc", "rule", "is_main", "score", "bias", "pool", "shift"]
    cell = list(dict.fromkeys([*ALIKE, *told]))
    for keys in ([*cell, "training_seed"], cell):  # first over selections
        rows = rows.groupby(keys, sort=False, dropna=False)["gain"].mean().reset_index()
    found = rows[[*told, "gain"]].dropna(subset="shift")
    return found[found.groupby(["condition", "ipc"])["bias"].transform("nunique") > 1].reset_index(drop=True)


def _chooses(name: str) -> bool:
    return name in METHODS and METHODS[name].source == "pool" and METHODS[name].chooses


def with_differences(gains: pd.DataFrame) -> pd.DataFrame:
    """Return gains, and after them what difficulty-guided sampling has above each other rule, pool by pool.

    Args:
        gains: of `gains_of_pools`; those of each pool share its random images, which drop out.
    """
    place = ["condition", "ipc", "pool"]
    ours = gains[gains["is_main"]].rename(columns={"rule": "ours", "gain": "own"})[[*place, "ours", "own"]]
    found = gains[~gains["is_main"]].merge(ours, on=place)
    found = found.assign(rule=found["ours"] + " minus " + found["rule"], gain=found["own"] - found["gain"], score="")
    return pd.concat([gains, found[gains.columns]], ignore_index=True)


def gains_by_bias(gains: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """Return what each rule gains on average on the pools of each bias.

    Args:
        gains: of `gains_of_pools`, with or without `with_differences`.
        confidence: of the intervals.

    Returns:
        One row a rule, condition, IPC and β: these; pools, how many; shift, their mean; gain, percentage points, with
        low and high, by Student's t over pools (NaN for a single one); confidence. The easiest pools first.
    """
    found = gains.groupby([*LINE, "bias"], sort=False).agg(
        pools=("gain", "size"), shift=("shift", "mean"), gain=("gain", "mean"), std=("gain", "std")).reset_index()
    half = t_limit(found["pools"] - 1, 1 - confidence) * found["std"] / np.sqrt(found["pools"])
    found = found.assign(low=found["gain"] - half, high=found["gain"] + half, confidence=confidence).drop(columns="std")
    order = {name: place for place, name in enumerate(gains.groupby(LINE, sort=False).groups)}
    places = [order[names] for names in found[LINE].itertuples(index=False, name=None)]
    return found.assign(place=places).sort_values(["place", "shift"]).drop(columns="place").reset_index(drop=True)


def trends_of(gains: pd.DataFrame) -> pd.DataFrame:
    """Tell whether each rule's gain rises or falls with the shift of its pools, whatever the shape.

    Args:
        gains: of `gains_of_pools`, with or without `with_differences`.

    Returns:
        One row a rule of a condition and IPC that has `FEWEST` pools or more, of several shifts: these; pools, how
        many; tau, Kendall's rank correlation of gain and shift; p of its being 0, and p_holm for all of them together.
    """
    from scipy.stats import kendalltau  # loading takes a second, which results of other pools are spared

    lines = [{**dict(zip(LINE, names, strict=True)), "pools": len(part),
              **dict(zip(("tau", "p"), kendalltau(part["shift"], part["gain"]), strict=True))}
             for names, part in gains.groupby(LINE, sort=False)
             if len(part) >= FEWEST and part["shift"].nunique() > 1]
    found = pd.DataFrame(lines, columns=[*LINE, "pools", "tau", "p"])
    return found.assign(p_holm=holm(found["p"]))
