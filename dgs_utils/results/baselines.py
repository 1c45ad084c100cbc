"""Differences to the two baselines: random real images, and random images of the same pool [B §2, §5]."""

from itertools import product

import numpy as np
import pandas as pd

from dgs_utils.methods import METHODS, SCORES
from dgs_utils.results.comparisons import compare_rows
from dgs_utils.results.rows import CELL_KEYS, CONDITION_KEYS, condition_names, series_names, with_names
from dgs_utils.results.summaries import summarise

BASELINE_COLUMNS = {"pool": "over_pool", "originals": "over_random"}  # by source of images
COMPUTE_KEYS = ("epoch_factor", "evaluations")  # of conditions that differ only in the length of training


def add_baseline_differences(results: pd.DataFrame) -> pd.DataFrame:
    """Return `summaries.summarise` with the difference of each cell to its two baselines.

    A baseline has the same condition; random images of the pool have the same pool and pool size, too. Runs are paired
    by their seeds (`comparisons.compare`).

    Returns:
        The summary, with random and pool_random (best of the paired runs, percent), and the differences over_random,
        over_random_low, over_random_high, over_pool, … (95 % intervals); NaN without such a baseline.
    """
    results = with_names(results).reset_index(drop=True)
    pools, plain = _pools_of(results), results["cut"] == ""
    rows = []
    for values, part in results.groupby([*CELL_KEYS, "series", "condition"], sort=False, dropna=False):
        cell = dict(zip(CELL_KEYS, values, strict=False))
        alike = plain & np.logical_and.reduce([results[name] == cell[name] for name in CONDITION_KEYS])
        same_pool = (pools != "") & pools.isin(pools[part.index])
        for name in ("pool_factor", "fine_tune_seed"):
            same_pool &= results[name] == cell[name]
        baselines = {"random": alike, "pool_random": alike & same_pool}
        rows.append({column: value for name, mask in baselines.items() for column, value in
                     _difference(part, results[mask & (results["method"] == name)], name).items()})
    return pd.concat([summarise(results), pd.DataFrame(rows)], axis=1)


def _pools_of(results: pd.DataFrame) -> pd.Series:
    """Return the pool of each row's images, "" for other images; rows without a hash go by generator and seed."""
    is_pool = results["method"].map(lambda name: METHODS[name].source == "pool" if name in METHODS else False)
    generator = results["method"].map(lambda name: (METHODS[name].generator if name in METHODS else "") or "minimax")
    by_seed = generator + " " + results["pool_seed"].astype(str)
    return results["pool"].where(results["pool"] != "", by_seed).where(is_pool, "")


def _difference(part: pd.DataFrame, baseline: pd.DataFrame, name: str) -> dict[str, float]:
    over = f"over_{name.removesuffix('_random')}"
    columns = (name, over, f"{over}_low", f"{over}_high")
    is_baseline = part["method"].iloc[0] in ("random", name) and part["cut"].iloc[0] == ""
    if baseline.empty or baseline["series"].nunique() > 1 or is_baseline:
        return dict.fromkeys(columns, np.nan)
    gain = compare_rows(part, baseline)
    values = (part["best"].mean() - gain.difference, gain.difference, gain.low, gain.high)
    return dict(zip(columns, values, strict=True))


def gains_over_random(results: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy gain of each score × rule over random images of its own source, in each condition.

    Returns:
        One row a cell that has such a baseline: `CELL_KEYS`; condition, and setting, the same without the length of
        training; source ("pool" or "originals"); control, a name for the baseline, such as "random of the pool BigGAN";
        rule, a name for rule and choices; score, "" for rules without one; steps of training (0: unknown); best (mean,
        percent); and difference, low and high of `add_baseline_differences`, percentage points.
    """
    summary = add_baseline_differences(results)
    steps = results.assign(steps=results.get("steps", 0)).groupby(CELL_KEYS, dropna=False, sort=False)["steps"].max()
    setting = condition_names(summary.assign(**dict.fromkeys(COMPUTE_KEYS, 0)))
    summary = summary.assign(steps=steps.to_numpy(), setting=setting)
    gains = summary[[name in METHODS and METHODS[name].chooses for name in summary["method"]]].reset_index(drop=True)
    gains = gains.assign(source=[METHODS[name].source for name in gains["method"]], score=score_titles(gains))
    for (source, column), (name, end) in product(BASELINE_COLUMNS.items(), (("difference", ""), ("low", "_low"),
                                                                            ("high", "_high"))):
        gains.loc[gains["source"] == source, name] = gains[f"{column}{end}"]
    generators = gains.loc[gains["source"] == "pool", "generator"]
    pool_names = generators.map("random of the pool {}".format) if generators.nunique() > 1 else "random of the pool"
    gains["control"] = "random originals"
    gains.loc[generators.index, "control"] = pool_names
    is_random = np.array([METHODS[name].rule_name == "random" for name in gains["method"]], dtype=bool)
    gains = gains[gains["difference"].notna() | is_random].reset_index(drop=True)
    gains = gains.assign(rule=rule_names(gains))[gains["difference"].notna()]  # with names that differ from baselines'
    order = [*BASELINE_COLUMNS, *METHODS]  # pools first
    columns = [*CELL_KEYS, "condition", "setting", "source", "control", "rule", "score", "steps", "best", "difference",
               "low", "high"]
    return gains[columns].sort_values(["source", "method"], key=lambda names: names.map(order.index),
                                      kind="stable").reset_index(drop=True)


def rule_names(rows: pd.DataFrame, **constant: str) -> np.ndarray:
    """Return a readable name of each row's rule and of its other choices but score, generator and ``constant``."""
    rows, names = rows.assign(measure="", **constant), np.empty(len(rows), dtype=object)
    for indices in rows.groupby("generator").indices.values():
        names[indices] = series_names(rows.iloc[indices])
    return names


def score_titles(rows: pd.DataFrame) -> list[str]:
    """Return the score of each row's rule or cut, "" for rules without one."""
    uses = [bool({"score", "target"} & {*METHODS[method].rule.needs}) or cut not in ("", "duplicates")
            for method, cut in zip(rows["method"], rows["cut"], strict=True)]
    return [SCORES.get(measure, measure) if used else "" for measure, used in zip(rows["measure"], uses, strict=True)]


def with_several_ipcs(gains: pd.DataFrame) -> pd.DataFrame:
    """Return the gains of conditions with several IPCs."""
    return gains[gains.groupby(["control", "condition"], dropna=False)["ipc"].transform("nunique") > 1]


def with_several_lengths(gains: pd.DataFrame) -> pd.DataFrame:
    """Return the gains of conditions with several numbers of training steps, all else alike."""
    trained, keys = gains[gains["steps"] > 0], [name for name in CONDITION_KEYS if name not in COMPUTE_KEYS]
    return trained[trained.groupby(["control", *keys], dropna=False)["steps"].transform("nunique") > 1]
