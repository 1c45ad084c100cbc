"""Score × rule: how far what each rule takes is above random images of the same source [B §5]."""

import numpy as np
import pandas as pd

from dgs_utils.methods import METHODS, SCORES
from dgs_utils.results.controls import with_controls
from dgs_utils.results.rows import CELL, CONDITION, condition_of, series_of

CONTROLS = {"pool": "over_pool", "originals": "over_random"}  # of each source: columns of `controls.with_controls`
BY_COMPUTE = ("epoch_factor", "evaluations")  # tell conditions apart that differ in nothing but how long is trained


def rules_over_random(results: pd.DataFrame) -> pd.DataFrame:
    """Return what each score × rule has above random images of its own source, in each condition.

    Args:
        results: rows of ``results.csv``, one a training (see `rows.read_results`).

    Returns:
        One row a cell that has such a control: the columns of `rows.CELL`; condition, and setting, the same but for how
        long was trained; source ("pool" or "originals"); control, what it is compared with, such as "random of the pool
        BigGAN"; rule, readable, with what else tells its sets apart; score, readable, "" where the rule looks at none;
        steps of training (0: not known); best (mean, percent); and difference with low and high, percentage points, as
        `controls.with_controls` compares them.
    """
    behind = with_controls(results)
    chosen = behind["method"].map(lambda name: name in METHODS and METHODS[name].chooses)
    steps = results.assign(steps=results.get("steps", 0)).groupby(CELL, dropna=False, sort=False)["steps"].max()
    behind = behind.assign(steps=steps.to_numpy(), setting=condition_of(behind.assign(**dict.fromkeys(BY_COMPUTE, 0))))
    shown = behind[chosen].reset_index(drop=True)
    source = shown["method"].map(lambda name: METHODS[name].source).to_numpy(dtype=object)
    found = {name: np.select([source == which for which in CONTROLS], [shown[f"{column}{end}"].to_numpy()
                                                                      for column in CONTROLS.values()], np.nan)
             for name, end in (("difference", ""), ("low", "_low"), ("high", "_high"))}
    shown = shown.assign(source=source, control=_controls_of(shown), score=scores_of(shown), **found)
    is_random = shown["method"].map(lambda name: METHODS[name].selector == "random")
    shown = shown[shown["difference"].notna() | is_random].reset_index(drop=True)
    shown = shown.assign(rule=names_of_rules(shown))[shown["difference"].notna()]  # named beside their controls
    columns = [*CELL, "condition", "setting", "source", "control", "rule", "score", "steps", "best", *found]
    order = [*CONTROLS, *METHODS]  # pools first
    return shown[columns].sort_values(["source", "method"], key=lambda names: names.map(order.index),
                                      kind="stable").reset_index(drop=True)


def _controls_of(rows: pd.DataFrame) -> list[str]:
    """Return what each row is compared with; a pool is called by its generator where rows are of several."""
    is_pool = rows["method"].map(lambda name: METHODS[name].source == "pool")
    several = rows.loc[is_pool, "generator"].nunique() > 1
    return [f"random of the pool {generator if several else ''}".strip() if of_pool else "random originals"
            for of_pool, generator in zip(is_pool, rows["generator"], strict=True)]


def names_of_rules(rows: pd.DataFrame, **apart: str) -> np.ndarray:
    """Return a readable name of each row's rule and of what else tells its sets apart.

    Scores and generators have columns of their own, and so has what is ``apart``.
    """
    rows, names = rows.assign(measure="", **apart), np.empty(len(rows), dtype=object)
    for places in rows.groupby("generator").indices.values():
        names[places] = series_of(rows.iloc[places])
    return names


def scores_of(rows: pd.DataFrame) -> list[str]:
    """Return the score that each row's rule, or the cut before it, goes by."""
    looks = [bool({"score", "target"} & {*METHODS[method].rule.needs}) or cut != ""
             for method, cut in zip(rows["method"], rows["cut"], strict=True)]
    return [SCORES.get(measure, measure) if used else "" for measure, used in zip(rows["measure"], looks, strict=True)]


def over_ipc(found: pd.DataFrame) -> pd.DataFrame:
    """Return those rows of `rules_over_random` whose control and condition have several IPCs."""
    return _varying(found, ["control", "condition"], "ipc")


def over_steps(found: pd.DataFrame) -> pd.DataFrame:
    """Return those rows of `rules_over_random` that were trained for several numbers of steps, all else alike."""
    alike = [name for name in CONDITION if name not in BY_COMPUTE]
    return _varying(found[found["steps"] > 0], ["control", *alike], "steps")


def _varying(found: pd.DataFrame, alike: list[str], name: str) -> pd.DataFrame:
    return found[found.groupby(alike, dropna=False)[name].transform("nunique") > 1]
