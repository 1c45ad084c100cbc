"""Pools of known bias: what rules have above random images of the same pool, against how far that lies off [B §5].

Each pool is one point, and a rule's points one line, so that what a few pools of one β cannot tell, all pools tell
together. Lines are fitted by least squares; pools are drawn independently, which is what their intervals rest on.
"""

import numpy as np
import pandas as pd
from scipy import stats

from dgs_utils.methods import METHODS
from dgs_utils.results.comparisons import holm
from dgs_utils.results.rows import CONDITION, main_series
from dgs_utils.results.rules import names_of_rules, scores_of

FEWEST = 4  # pools that a line is fitted to: with three there is one degree of freedom
ALIKE = [*CONDITION, "pool_factor", "pool"]  # what a rule and its control have in common, beside the training seed
LINE = ["condition", "ipc", "rule", "score"]


def gains_of_pools(results: pd.DataFrame) -> pd.DataFrame:
    """Return what each rule has above random images of each pool that was drawn from the originals.

    Args:
        results: rows of ``results.csv``, one a training (see `rows.read_results`), of any pools.

    Returns:
        One row a rule and pool of generator "originals" that has such a control: condition; ipc; rule, readable, and
        whether it is_main, the nearest to difficulty-guided sampling as published; score, "" where the rule looks at
        none; bias (β); pool; shift, the Wasserstein-1 distance of its difficulties from the originals', above 0 for
        harder ones (see `targets.shift`); gain, percentage points, the mean over trainings that both have.
    """
    rows = results[(results["bias"] != "") & results["method"].map(_chooses)].reset_index(drop=True)
    known = rows.assign(shift=pd.to_numeric(rows.get("shift", np.nan), errors="coerce"))
    rows["shift"] = known.groupby("pool")["shift"].transform("mean")
    rows = rows.assign(rule=names_of_rules(rows, bias=""), score=scores_of(rows))
    rows["is_main"] = rows["rule"].isin(rows.loc[rows["series"] == main_series(rows), "rule"])
    is_control = (rows["method"] == "pool_random") & (rows["cut"] == "")
    paired = [*ALIKE, "training_seed"]
    control = rows[is_control].groupby(paired, dropna=False)["best"].mean().rename("control").reset_index()
    rows = rows[~is_control].merge(control, on=paired)
    rows["gain"] = rows["best"] - rows["control"]
    told = ["condition", "ipc", "rule", "is_main", "score", "bias", "pool", "shift"]
    by_training = rows.groupby([*ALIKE, *(name for name in told if name not in ALIKE), "training_seed"], sort=False,
                               dropna=False)["gain"].mean().reset_index()
    found = by_training.groupby([*ALIKE, *(name for name in told if name not in ALIKE)], sort=False,
                                dropna=False)["gain"].mean().reset_index()
    return found[[*told, "gain"]].dropna(subset="shift").reset_index(drop=True)


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


def trends_of(gains: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """Return the line of each rule's gain over the shift of its pools, where there are enough of them.

    Args:
        gains: of `gains_of_pools`, with or without `with_differences`.
        confidence: of the intervals.

    Returns:
        One row a rule of a condition and IPC, whose gains are percentage points: pools, how many; shift of the easiest
        pool, and ``easiest`` with ``easiest_low`` and ``easiest_high``, the line there; the same ``alike`` at shift 0
        (NaN where all pools lie on one side) and ``hardest``; slope, points for a shift of 0.1, with slope_low and
        slope_high; p of its being 0, and p_holm for all lines together; confidence.
    """
    lines = [{**dict(zip(LINE, names, strict=True)), "pools": len(part), **_line(part, confidence)}
             for names, part in gains.groupby(LINE, sort=False)
             if len(part) >= FEWEST and part["shift"].nunique() > 1]
    found = pd.DataFrame(lines)
    return found.assign(p_holm=holm(found["p"]), confidence=confidence) if lines else found


def _line(part: pd.DataFrame, confidence: float) -> dict[str, float]:
    shift, gain = part["shift"].to_numpy(dtype=float), part["gain"].to_numpy(dtype=float)
    fit = stats.linregress(shift, gain)
    reach = stats.t.ppf((1 + confidence) / 2, len(shift) - 2)
    found = {"slope": fit.slope / 10, "slope_low": (fit.slope - reach * fit.stderr) / 10,
             "slope_high": (fit.slope + reach * fit.stderr) / 10, "p": fit.pvalue}
    places = {"easiest": shift.min(), "alike": 0.0 if shift.min() <= 0 <= shift.max() else np.nan,
              "hardest": shift.max()}
    heights = band(shift, gain, np.array([*places.values()]), confidence)
    for name, (middle, low, high) in zip(places, heights, strict=True):
        found |= {name: middle, f"{name}_low": low, f"{name}_high": high}
    return found | {"easiest_shift": shift.min(), "hardest_shift": shift.max()}


def band(shift: np.ndarray, gain: np.ndarray, at: np.ndarray, confidence: float = 0.95) -> np.ndarray:
    """Return a line by least squares and the interval of its height at some places: (places, 3), middle, low, high.

    Args:
        shift, gain: (n,) the points, n ≥ 3.
        at: (places,) on the axis of shift.
        confidence: of the intervals.
    """
    fit = stats.linregress(shift, gain)
    off, middle = at - shift.mean(), fit.intercept + fit.slope * at
    noise = np.sqrt(np.sum((gain - fit.intercept - fit.slope * shift) ** 2) / (len(shift) - 2))
    spread = np.sum((shift - shift.mean()) ** 2)
    half = stats.t.ppf((1 + confidence) / 2, len(shift) - 2) * noise * np.sqrt(1 / len(shift) + off ** 2 / spread)
    return np.stack([middle, middle - half, middle + half], axis=1)
