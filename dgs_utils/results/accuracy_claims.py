"""Rules over accuracies for the paper's claims, the same for published and for own rows.

A rule takes complete rows (`rows.fill_columns`) and an estimator, which turns contrasts of arms into effects
(`verdicts.published_effects`, `verdicts.measured_effects`). Arms are compared in the same condition.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from dgs_utils.results.published_tables import published_table
from dgs_utils.results.rows import (
    CONDITION_KEYS,
    DATASET_TITLES,
    METHOD_LABELS,
    NEEDS_IPC,
    SET_KEYS,
    SHAPES,
    fill_columns,
    main_series,
    network_title,
)
from dgs_utils.results.verdicts import Contrast, Effect, Estimator

Rule = Callable[[pd.DataFrame, Estimator], list[Effect]]

TABLE1_BASELINES = ("random", "first", "k_center", "herding", "dit", "dm", "idc", "minimax")  # of Table 1
TABLE2_METHODS = ("random", "first", "dit", "minimax", "dgs")  # its random images are the first files
PREDEFINED = ("hill", "ground", "slope", "cliff")  # Fig. 4, from few easy images to many
WOOF, OTHERS = "imagewoof", ("imagenette", "imageidc")

SETTING = [name for name in CONDITION_KEYS if name not in (*NEEDS_IPC, "network", "ipc")]
SAME_POOL = ["generator", "fine_tune_seed", "pool_factor"]


def published_rows(tables: Sequence[int]) -> pd.DataFrame:
    """Return some of the paper's tables as complete rows, one a value, with mean, std and best (the mean)."""
    rows = fill_columns(pd.concat([published_table(number) for number in tables], ignore_index=True))
    series = rows["series"].replace(METHOD_LABELS["first"], METHOD_LABELS["random"])
    return rows.assign(best=rows["mean"], series=series)


def _rows_of(rows: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Return the rows of methods without a cut; of difficulty-guided sampling the main series of each data set."""
    main = {dataset: main_series(part) for dataset, part in rows.groupby("dataset")}
    plain = (rows["method"] != "dgs") & (rows["cut"] == "") | (rows["series"] == rows["dataset"].map(main))
    return rows[rows["method"].isin(methods) & plain]


def _variants(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the rows of difficulty-guided sampling that differ from the main series in one column alone."""
    alike = ["dataset", *(name for name in SET_KEYS if name != column)]
    return rows.merge(_rows_of(rows, ["dgs"])[alike].drop_duplicates(), on=alike)


def _conditions(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for _, part in rows.groupby(CONDITION_KEYS, sort=False, dropna=False):
        yield f"{part['condition'].iloc[0]}, IPC {part['ipc'].iloc[0]}", part


def _settings(rows: pd.DataFrame, columns: Sequence[str] = SETTING) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the parts of rows that agree in some columns, with a name of what distinguishes them."""
    keys = [name for name in columns if rows[name].nunique() > 1]
    for _, part in rows.groupby(list(columns), sort=False, dropna=False):
        names = (DATASET_TITLES.get(value, network_title(str(value))) for value in part[keys].iloc[0])
        yield "".join(f"{name}, " for name in names), part


def _arms(rows: pd.DataFrame, by: str) -> dict:
    """Return the rows of each value of a column that has a single series and condition."""
    return {name: arm for name, arm in rows.groupby(by, sort=False)
            if len(arm[[*CONDITION_KEYS, "series"]].drop_duplicates()) == 1}


def lead(first: str, *rivals: str) -> Rule:
    """Return the rule: a method minus each of its rivals, in every condition; random images must be of the same kind of
    pool.
    """
    def rule(rows: pd.DataFrame, estimate: Estimator) -> list[Effect]:
        contrasts = []
        for name, part in _conditions(_rows_of(rows, [first, *rivals])):
            ours = part[part["method"] == first]
            if ours["series"].nunique() == 1:
                same_pool = (part[SAME_POOL] == ours[SAME_POOL].iloc[0]).all(axis=1)
                others = part[(part["method"] != first) & (same_pool | (part["method"] != "pool_random"))]
                contrasts += [Contrast(name, ((1, ours), (-1, other)), rival)
                              for rival, other in others.groupby("series", sort=False)]
        return estimate(contrasts)
    return rule


def best(column: str, value: object, name_of: Callable = str) -> Rule:
    """Return the rule: one value of a column of choices minus each other one, all else alike, in every condition."""
    def rule(rows: pd.DataFrame, estimate: Estimator) -> list[Effect]:
        arms = [(name, _arms(part, column)) for name, part in _conditions(_variants(rows, column))]
        return estimate([Contrast(name, ((1, of[value]), (-1, of[other])), name_of(other))
                        for name, of in arms for other in of if value in of and other != value])
    return rule


def gains_by_ipc(rows: pd.DataFrame, estimate: Estimator) -> list[Effect]:
    """The gain over Minimax at each higher IPC minus that at each lower one, the mean over networks that have both."""
    contrasts = []
    for prefix, part in _settings(_rows_of(rows, ["dgs", "minimax"])):
        arms = {cell: _arms(runs, "method") for cell, runs in part.groupby(["network", "ipc"], sort=False)}
        gains = {cell: ((1, of["dgs"]), (-1, of["minimax"])) for cell, of in arms.items() if len(of) == 2}
        for low, high in combinations(sorted({ipc for _, ipc in gains}), 2):
            both = [network for network, ipc in gains if ipc == high and (network, low) in gains]
            contrasts += [Contrast(f"{prefix}IPC {high} over {low}", [
                (sign * weight / len(both), arm) for network in both for ipc, sign in ((high, 1), (low, -1))
                for weight, arm in gains[network, ipc]])] if both else []
    return estimate(contrasts)


def mean_gains(rows: pd.DataFrame) -> str:
    """Return the mean gain over Minimax at each IPC as text."""
    means = _rows_of(rows, ["dgs", "minimax"]).pivot_table(index=[*SETTING, "network", "ipc"], columns="method",
                                                           values="best")
    means = (means["dgs"] - means["minimax"]).groupby("ipc").mean()
    texts = ", ".join(f"{value:.1f} at IPC {ipc}" for ipc, value in means.items())
    return f"mean gains over Minimax {texts.replace('-', '−')}"


def over_imagewoof(rows: pd.DataFrame, estimate: Estimator) -> list[Effect]:
    """Accuracies on the other subsets minus those on ImageWoof, of each method evaluated in the same way."""
    # Each subset has a test list and a teacher of its own.
    alike = [name for name in CONDITION_KEYS if name not in ("dataset", "test_list", "teacher")]
    kept, contrasts = _rows_of(rows, TABLE2_METHODS), []
    for (*_, network, _, ipc, _), part in kept.groupby([*alike, "method"], sort=False, dropna=False):
        arms = _arms(part, "dataset")
        contrasts += [Contrast(f"{arms[other]['series'].iloc[0]}, {network_title(network)}, "
                               f"{DATASET_TITLES[other]}, IPC {ipc}", ((1, arms[other]), (-1, arms[WOOF])))
                      for other in OTHERS if {other, WOOF} <= set(arms)]
    return estimate(contrasts)


def same_order_as_imagewoof(rows: pd.DataFrame, estimate: Estimator) -> list[Effect]:
    """Differences of two methods on the other subsets, the better one on ImageWoof first."""
    arms = {cell: _arms(part, "method") for cell, part in _rows_of(rows, TABLE2_METHODS).groupby(
        ["dataset", "network", "ipc", "protocol"], sort=False)}
    pairs = [(setting, pair) for (dataset, *setting), of in arms.items() if dataset == WOOF
             for pair in combinations(of, 2)]
    sides = estimate([Contrast(str(index), ((1, arms[WOOF, *setting][first]), (-1, arms[WOOF, *setting][second])))
                     for index, (setting, (first, second)) in enumerate(pairs)])
    contrasts = []
    for side, (setting, pair) in [(effect.side, pairs[int(effect.name)]) for effect in sides if effect.side]:
        better, worse = pair[::side]
        for dataset in OTHERS:
            of = arms.get((dataset, *setting), {})
            if {better, worse} <= set(of):
                name = " − ".join(of[method]["series"].iloc[0] for method in (better, worse))
                contrasts.append(Contrast(f"{name}, {DATASET_TITLES[dataset]}, IPC {setting[1]}",
                                          ((1, of[better]), (-1, of[worse]))))
    return estimate(contrasts)


def easy_for_few(rows: pd.DataFrame, estimate: Estimator) -> list[Effect]:
    """The trend of accuracy from hill to cliff: up at the lowest IPC, down at the highest, and their difference, which
    is the interaction of IPC and shape. A trend is the least-squares slope over the shapes' ranks, points a rank.
    """
    contrasts = []
    for prefix, part in _settings(_variants(rows, "distribution"), [*SETTING, "network"]):
        arms = {ipc: {shape: arm for shape, arm in _arms(cell, "distribution").items() if shape in PREDEFINED}
                for ipc, cell in part.groupby("ipc")}
        several = [ipc for ipc in sorted(arms) if len(arms[ipc]) > 1]
        ranks = {shape: rank for rank, shape in enumerate(PREDEFINED)
                 if several and shape in arms[several[0]] and shape in arms[several[-1]]}
        if len(several) < 2 or len(ranks) < 2:
            continue
        low, high = several[0], several[-1]
        away = pd.Series(ranks) - np.mean(list(ranks.values()))
        slope = away / (away @ away)
        rise, fall = ([(sign * slope[shape], arms[ipc][shape]) for shape in ranks]
                      for ipc, sign in ((low, 1), (high, -1)))
        contrasts += [Contrast(f"{prefix}rise at IPC {low}", rise), Contrast(f"{prefix}fall at IPC {high}", fall),
                      Contrast(f"{prefix}IPC {low} over {high} (interaction)", [*rise, *fall])]
    return estimate(contrasts)


def shapes_by_ipc(rows: pd.DataFrame) -> str:
    """Return the accuracies of shapes at each IPC as text."""
    texts = []
    for prefix, part in _settings(_variants(rows, "distribution"), [*SETTING, "network"]):
        means = part.pivot_table(index="ipc", columns="distribution", values="best").reindex(columns=SHAPES)
        means = means[means.count(axis=1) > 1]
        texts += [prefix + f"IPC {ipc}: " + ", ".join(f"{shape} {value:.1f}" for shape, value in line.dropna().items())
                 for ipc, line in means.iterrows()]
    return "; ".join(texts)
