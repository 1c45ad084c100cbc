"""What rows of results show, in a headline and three to six sentences."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dgs_utils.methods import METHODS
from dgs_utils.results.comparisons import signed
from dgs_utils.results.result_tables import mean_and_spread
from dgs_utils.results.rows import DATASET_TITLES, SET_KEYS, UNITS, main_series, seed_numbers
from dgs_utils.results.table_layouts import FULL_SET

MAX_LISTED_NAMES = 4  # names in a sentence
POOL_KEYS = ("generator", "bias", "fine_tune_seed", "pool_factor", "variant")  # of the pool, not of the method
CONDITION = ["condition", "ipc"]


def find(rows: pd.DataFrame, comparisons: pd.DataFrame, summary: pd.DataFrame) -> tuple[str, list[str]]:
    """Return the headline and the findings of rows of results (`rows.read_results`), of the comparisons of
    difficulty-guided sampling with their other series, and of their `baselines.add_baseline_differences`.

    Returns:
        The headline, without a full stop; and sentences: what was run, which arm is best, difficulty-guided sampling
        against random images of its pool and against the best other method, what is undecided, and the noise.
    """
    sets = summary[~summary["method"].isin(FULL_SET)]
    best = sets[sets["best"].round(1) == sets.groupby(CONDITION)["best"].transform("max").round(1)]
    headline, sentence = _best(best, summary)
    main = main_series(rows)
    own = summary[summary["series"] == main]
    if len(own) == 1 and main not in set(best["series"]) and _is_of_its_pool(best, own.iloc[0]).all():
        headline += f", {main} {own['best'].iloc[0]:.1f} %"
    sentences = [_what_was_run(rows, summary), sentence]
    if not main:
        sentences.append("Difficulty-guided sampling was not run, so that nothing is compared with it.")
    else:
        sentences += _against_random(summary, comparisons, main)
        sentences += _against_best(comparisons, summary) + _undecided(comparisons)
    return headline, [*sentences, _noise(rows, summary, comparisons)]


def _what_was_run(rows: pd.DataFrame, summary: pd.DataFrame) -> str:
    where = summary.groupby(CONDITION, sort=False).ngroups
    titles = DATASET_TITLES | {"folder": "images of folders"}
    datasets = " and ".join(titles.get(name, name) for name in rows["dataset"].unique())
    first = summary.iloc[0]
    one = f"one condition ({first['condition']}, IPC {first['ipc'] or 'all'})" if where == 1 else f"{where} conditions"
    trainings = f"{len(rows)} training{'s' * (len(rows) > 1)}"
    series = summary["series"].nunique()
    arms = f"{series} arms" if series > 1 else f"one arm, {summary['series'].iloc[0]},"
    return f"{'These are' if len(rows) > 1 else 'This is'} {trainings} of {arms} on {datasets}, in {one}."


def _best(best: pd.DataFrame, summary: pd.DataFrame) -> tuple[str, str]:
    """Return the headline and the sentence on the arms with the highest mean of each condition."""
    if best.empty:
        return "the full set alone", "Only the full set was run, which is no distilled one."
    conditions = best.groupby(CONDITION, sort=False).ngroups
    if conditions == 1:
        names, row = _listed(best["series"], " and "), best.iloc[0]
        alone = summary.groupby(CONDITION)["series"].nunique().max() == 1
        value = mean_and_spread(row["best"], row["std"])
        full = summary.loc[summary["method"].isin(FULL_SET), "best"]
        above = f"; the full set reaches {full.max():.1f} %" if len(full) else ""
        verb = "reaches" if alone else "has the highest mean accuracy," if len(best) == 1 else (
            "have the highest mean accuracy,")
        return (f"{names} {'reaches' if alone else 'best with'} {row['best']:.1f} %",
                f"{names} {verb} {value} % at the best epoch{above}.")
    counts = best["series"].value_counts()
    leaders = list(counts.index[counts == counts.iloc[0]])
    each = " each" if len(leaders) > 1 else ""
    ties = "; equal means count for each" if len(best) > conditions else ""
    arms = _listed([f"{name} in {count}" for name, count in counts.items()])
    return (f"{_listed(leaders, ' and ')} best in {counts.iloc[0]} of {conditions} conditions{each}",
            f"Highest mean accuracy at the best epoch, of {conditions} conditions: {arms}{ties}.")


def _against_random(summary: pd.DataFrame, comparisons: pd.DataFrame, main: str) -> list[str]:
    """Return the sentence on the published variant, on each of its pools, against random images of the same pool."""
    keys = [name for name in SET_KEYS if name not in POOL_KEYS]
    own = summary[keys].eq(summary.loc[summary["series"] == main, keys].iloc[0]).all(axis=1)
    gains = summary[own & summary["over_pool"].notna()]
    if gains.empty:
        return ["Random images of its pool were not run under the same condition, so that nothing shows what the "
                "selection itself adds."]
    named = comparisons[(comparisons["second"] == "Random of pool") & (comparisons["first"] == main)]
    if len(gains) == 1 and len(named) == 1:
        return [_outcome(named.iloc[0])]
    if len(gains) == 1:
        row = gains.iloc[0]
        interval = "without an interval" if np.isnan(row["over_pool_low"]) else (
            f"95 % interval {signed(row['over_pool_low'])} to {signed(row['over_pool_high'])}")
        return [f"{row['series']} is {signed(row['over_pool'])} points from random images of its pool ({interval})."]
    sides = [(gains["over_pool_low"] > 0).sum(), (gains["over_pool_high"] < 0).sum()]
    return [f"In {len(gains)} combinations of pool, IPC and condition, DGS is {signed(gains['over_pool'].min())} to "
            f"{signed(gains['over_pool'].max())} points from random images of the same pool: the 95 % interval is "
            f"above zero in {sides[0]}, below in {sides[1]}, and leaves the rest open."]


def _against_best(comparisons: pd.DataFrame, summary: pd.DataFrame) -> list[str]:
    """Return the sentence on the best other method of each condition, of those that select from the same pool or from
    none.
    """
    if comparisons.empty:
        return ["No other method was run under the same condition."]
    own = summary[summary["series"] == comparisons["first"].iloc[0]].iloc[0]
    rivals = summary[_is_of_its_pool(summary, own) & (summary["method"] != "dgs")].rename(columns={"series": "second"})
    others = comparisons.merge(rivals[[*CONDITION, "second", "best"]], on=[*CONDITION, "second"])
    if others.empty:
        return ["No other method was run under the same condition."]
    rivals = others.loc[others.groupby(CONDITION, sort=False)["best"].idxmax()]
    if len(rivals) == 1:
        return [_outcome(rivals.iloc[0])] if rivals["second"].iloc[0] != "Random of pool" else []
    words = {"better alone": "better by itself", "worse alone": "worse by itself", "no interval": "without an interval"}
    counts = rivals["verdict"].replace(words).value_counts()
    return [f"Against the best other method of each condition, DGS is "
            f"{_listed([f'{verdict} in {count}' for verdict, count in counts.items()])} of {len(rivals)}."]


def _is_of_its_pool(summary: pd.DataFrame, own: pd.Series) -> pd.Series:
    """Return which arms select from the pool of the arm ``own``, or from none."""
    is_of_pool = summary["method"].map(lambda name: name in METHODS and METHODS[name].source == "pool")
    return ~is_of_pool | ((summary["generator"] == own["generator"]) & (summary["bias"] == own["bias"]))


def _outcome(row: pd.Series) -> str:
    """Return the sentence of a comparison, with what becomes of it after Holm's correction."""
    alone = " Not significant after Holm's correction for all comparisons." if row["verdict"].endswith(" alone") else ""
    return row["sentence"] + alone


def _undecided(comparisons: pd.DataFrame) -> list[str]:
    left = comparisons[comparisons["verdict"].isin(["undecided", "no interval"])] if len(comparisons) else comparisons
    if left.empty:
        return []
    names, needed = list(dict.fromkeys(left["second"])), ""
    for unit in UNITS.values():
        counts = left.loc[np.isfinite(left[f"{unit}_needed"]) & (left[f"{unit}_needed"] > left[unit]), f"{unit}_needed"]
        if len(counts) and not needed:
            needed = f"; {counts.min():.0f} {unit} or more would decide a gain of {left['margin'].iloc[0]:g} points"
    listed = f": {_listed(names, ' and ')}" if len(names) <= MAX_LISTED_NAMES else ""
    verb = "is" if len(left) == 1 else "are"
    return [f"{len(left)} of {len(comparisons)} comparisons {verb} undecided{listed}{needed}."]


def _noise(rows: pd.DataFrame, summary: pd.DataFrame, comparisons: pd.DataFrame) -> str:
    test = (f"one test of {summary['n_test'].max():,} images has a binomial error of "
            f"{summary['test_se'].median():.1f} points")
    if not summary["std"].notna().any():
        return f"No arm was run twice, so that there is no spread between runs; {test}."
    repeated = [unit for seed, unit in UNITS.items() if seed_numbers(rows[seed]).nunique() > 1]
    tested = comparisons[comparisons["low"].notna()] if len(comparisons) else comparisons
    fixed = [f"{name}s" for name in ("pool", "selection", "training seed")
             if len(tested) and tested["given"].str.split(", ").map(lambda given, name=name: name in given).all()]
    left_out = f"; the intervals leave out the noise of {' and '.join(fixed)}" if fixed else ""
    return (f"Noise: the runs of an arm have a standard deviation of {summary['std'].median():.1f} points (median), "
            f"and {test}; {' and '.join(repeated)} were repeated{left_out}.")


def _listed(names: Sequence[str], last: str = ", ") -> str:
    """Return names as a list, of many the first ones."""
    names = list(names)
    if len(names) > MAX_LISTED_NAMES:
        return f"{', '.join(names[:MAX_LISTED_NAMES])} and {len(names) - MAX_LISTED_NAMES} more"
    return f"{', '.join(names[:-1])}{last}{names[-1]}" if len(names) > 1 else names[0]
