"""Gain of each rule over random images of its pool, against the difficulty shift of pools of known bias [B §5].

Each pool, drawn independently, is one point. Gains are averaged over the pools of one β; whether they change with the
shift is tested by ranks over all pools, as gains are neither linear in it nor equally noisy.
"""

import numpy as np
import pandas as pd

from dgs_utils.methods import METHODS
from dgs_utils.results.baselines import rule_names, score_titles
from dgs_utils.results.comparisons import holm
from dgs_utils.results.random_effects import t_critical
from dgs_utils.results.rows import CONDITION_KEYS, main_series

MIN_POOLS = 5  # of a trend: with four, no order of ranks has a p below 0.05
PAIRING_KEYS = [*CONDITION_KEYS, "pool_factor", "pool"]  # and the training seed
RULE_KEYS = ["condition", "ipc", "rule", "score"]


def pool_gains(results: pd.DataFrame) -> pd.DataFrame:
    """Return the gain of each rule over random images of each pool that was drawn from the originals.

    Returns:
        One row a rule and pool of generator "originals" with such a baseline, in conditions with pools of several β:
        condition; ipc; rule (readable); is_main, of the rule nearest to difficulty-guided sampling as published; score,
        "" for rules without one; bias (β); pool; shift (`targets.difficulty_shift`, positive for harder pools); gain,
        percentage points, the mean over common trainings.
    """
    selects = {name for name, method in METHODS.items() if method.source == "pool" and method.chooses}
    rows = results[(results["bias"] != "") & results["method"].isin(selects)].reset_index(drop=True)
    shifts = rows.assign(shift=pd.to_numeric(rows.get("shift", np.nan), errors="coerce"))
    rows["shift"] = shifts.groupby("pool")["shift"].transform("mean")
    rows = rows.assign(rule=rule_names(rows, bias=""), score=score_titles(rows))
    rule_and_score = rows["rule"] + "\n" + rows["score"]
    rows["is_main"] = rule_and_score.isin(rule_and_score[rows["series"] == main_series(rows)])
    is_baseline = (rows["method"] == "pool_random") & (rows["cut"] == "")
    paired = [*PAIRING_KEYS, "training_seed"]
    baseline = rows[is_baseline].groupby(paired, dropna=False)["best"].mean().rename("baseline").reset_index()
    gains = rows[~is_baseline].merge(baseline, on=paired)
    gains["gain"] = gains["best"] - gains["baseline"]
    columns = ["condition", "ipc", "rule", "is_main", "score", "bias", "pool", "shift"]
    cell = list(dict.fromkeys([*PAIRING_KEYS, *columns]))
    for keys in ([*cell, "training_seed"], cell):  # first over selections
        gains = gains.groupby(keys, sort=False, dropna=False)["gain"].mean().reset_index()
    gains = gains[[*columns, "gain"]].dropna(subset="shift")
    return gains[gains.groupby(["condition", "ipc"])["bias"].transform("nunique") > 1].reset_index(drop=True)


def add_differences_to_dgs(gains: pd.DataFrame) -> pd.DataFrame:
    """Return `pool_gains`, followed by those of difficulty-guided sampling minus those of each other rule: the random
    images of each pool cancel.
    """
    keys = ["condition", "ipc", "pool"]
    ours = gains[gains["is_main"]].rename(columns={"rule": "ours", "gain": "own"})[[*keys, "ours", "own"]]
    others = gains[~gains["is_main"]].merge(ours, on=keys)
    others = others.assign(rule=others["ours"] + " minus " + others["rule"], gain=others["own"] - others["gain"],
                           score="")
    return pd.concat([gains, others[gains.columns]], ignore_index=True)


def gains_by_bias(gains: pd.DataFrame) -> pd.DataFrame:
    """Return the mean gain of each rule on the pools of each bias, from `pool_gains`, also with differences to DGS.

    Returns:
        One row a rule, condition, IPC and β, the easiest pools first: these; pools, their number; shift, their mean;
        gain, percentage points, with low and high by Student's t over pools (NaN for a single one); confidence.
    """
    means = gains.groupby([*RULE_KEYS, "bias"], sort=False).agg(
        pools=("gain", "size"), shift=("shift", "mean"), gain=("gain", "mean"), std=("gain", "std")).reset_index()
    half = t_critical(means["pools"] - 1, 1 - 0.95) * means["std"] / np.sqrt(means["pools"])
    means = means.assign(low=means["gain"] - half, high=means["gain"] + half, confidence=0.95)
    means["order"] = means.groupby(RULE_KEYS, sort=False).ngroup()
    return means.sort_values(["order", "shift"]).drop(columns=["order", "std"]).reset_index(drop=True)


def gain_trends(gains: pd.DataFrame) -> pd.DataFrame:
    """Test whether the gain of each rule changes with the shift of its pools, in a monotone way.

    Returns:
        One row a rule of a condition and IPC with `MIN_POOLS` pools or more, of several shifts: these; pools, their
        number; tau, Kendall's rank correlation of gain and shift; p of its being 0, and p_holm for all rows together.
    """
    from scipy.stats import kendalltau  # takes a second to load, which other results do not need

    rows = [{**dict(zip(RULE_KEYS, names, strict=True)), "pools": len(part),
             **dict(zip(("tau", "p"), kendalltau(part["shift"], part["gain"]), strict=True))}
            for names, part in gains.groupby(RULE_KEYS, sort=False)
            if len(part) >= MIN_POOLS and part["shift"].nunique() > 1]
    trends = pd.DataFrame(rows, columns=[*RULE_KEYS, "pools", "tau", "p"])
    return trends.assign(p_holm=holm(trends["p"]))
