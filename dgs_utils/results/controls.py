"""What a result has above its two controls: random real images, and random images of the same pool."""

import numpy as np
import pandas as pd

from dgs_utils.methods import METHODS
from dgs_utils.results.comparisons import compare_rows
from dgs_utils.results.rows import CELL, CONDITION, condition_of, series_of
from dgs_utils.results.summaries import summarise


def with_controls(results: pd.DataFrame) -> pd.DataFrame:
    """Put the two controls of a result beside it [B §2]: random real images, and random ones of the same pool.

    A control is a control only of its own condition, and for generated sets of its own pool and pool size; runs are
    paired by their seeds (`comparisons.compare`). Where there is no such control there is no value.

    Returns:
        `summarise`, with ``random`` and ``pool_random`` (best of the matched runs, percent), and what the result has
        above each with its 95 % interval: ``over_random``, ``over_random_low``, ``over_random_high``, ``over_pool``, ….
    """
    if "series" not in results:
        results = results.assign(series=series_of(results), condition=condition_of(results))
    results = results.reset_index(drop=True)
    pools = _pool_of(results)
    rows = []
    for values, part in results.groupby([*CELL, "series", "condition"], sort=False, dropna=False):
        place = dict(zip(CELL, values, strict=False))
        alike = np.logical_and.reduce([results[name] == place[name] for name in CONDITION])
        same_pool = (alike & (pools != "") & pools.isin(pools[part.index])
                     & (results["pool_factor"] == place["pool_factor"])
                     & (results["cut"] == "")
                     & (results["fine_tune_seed"] == place["fine_tune_seed"]))
        controls = {"random": alike & (results["method"] == "random") & (results["cut"] == ""),
                    "pool_random": same_pool & (results["method"] == "pool_random")}
        rows.append({name: value for control, chosen in controls.items()
                     for name, value in _over(part, results[chosen], control).items()})
    return pd.concat([summarise(results), pd.DataFrame(rows)], axis=1)


def _pool_of(results: pd.DataFrame) -> pd.Series:
    """Return which pool each row's images are of; "" for other images. Older rows only tell generator and seed."""
    known = results["method"].map(lambda name: METHODS[name].source == "pool" if name in METHODS else False)
    generator = results["method"].map(lambda name: (METHODS[name].generator if name in METHODS else "") or "minimax")
    older = generator + " " + results["pool_seed"].astype(str)
    return results["pool"].where(results["pool"] != "", older).where(known, "")


def _over(part: pd.DataFrame, control: pd.DataFrame, name: str) -> dict[str, float]:
    over = f"over_{name.removesuffix('_random')}"
    found = dict.fromkeys((name, over, f"{over}_low", f"{over}_high"), np.nan)
    is_control = part["method"].iloc[0] in ("random", name) and part["cut"].iloc[0] == ""
    if control.empty or control["series"].nunique() > 1 or is_control:
        return found
    compared = compare_rows(part, control)
    return {name: part["best"].mean() - compared.difference, over: compared.difference,
            f"{over}_low": compared.low, f"{over}_high": compared.high}
