"""How tables are laid out: which cells they show, in which order, and what their lines and columns are called."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from dgs_utils.methods import METHODS
from dgs_utils.params.paper import IPCS
from dgs_utils.results.rows import (
    CELL_KEYS,
    CONDITION_KEYS,
    DATASET_TITLES,
    METHOD_LABELS,
    NEEDS_IPC,
    SET_KEYS,
    format_value,
    network_title,
    sort_rows,
)
from dgs_utils.results.summaries import ABLATIONS, is_ablated, without_ablations


@dataclass(frozen=True)
class TableLayout:
    """How a table arranges its cells."""

    rows: tuple[str, ...]  # columns of a summary; without a published table also all others in which cells differ
    columns: tuple[str, ...]
    compared: str  # the column whose values compete: the best cell of those that agree in the others is bold
    cells: dict[str, list]  # values that are always shown, by summary column; of other columns those that were run
    published: int = 0  # number of the paper's table with the values beside ours
    note: str = ""  # how comparable runs still differ from the published ones; {features} is the network of coresets


POOLS = "How many pools are behind the published values is not known."
FIRST = "The published Random is the first files in order of names; beside it is a seeded draw of ours."
CORESETS = ("K-Center and Herding see the features of {features}; IDC's authors took a ResNetAP-10 trained on the full "
            "set, at its best epoch where ours is at its last, and which one the published rows used is not known.")
TABLE_LAYOUTS: dict[str, TableLayout] = {
    "comparison": TableLayout(("dataset", "series"), ("network", "ipc"), "series", {}),
    **{name: TableLayout(("dataset", "network", name), ("ipc",), name, {"method": ["dgs"]}) for name in ABLATIONS},
    "table1": TableLayout(("ipc", "network"), ("method",), "method", {
        "augment": [True], "dataset": ["imagewoof"], "ipc": IPCS, "network": ["convnet6", "resnet_ap10", "resnet18"],
        "method": ["first", "random", "k_center", "herding", "dit", "dm", "idc", "minimax", "dgs", "full"],
        "distribution": ["", "scale"], "pool_factor": [0, 5],
    }, published=1, note=f"{FIRST} {CORESETS} {POOLS}"),
    "table2": TableLayout(("dataset", "ipc"), ("method",), "method", {
        "augment": [True], "dataset": ["imagenette", "imageidc"], "ipc": IPCS, "network": ["resnet_ap10"],
        "method": ["first", "random", "dit", "minimax", "dgs"], "distribution": ["", "scale"], "pool_factor": [0, 5],
    }, published=2, note=f"{FIRST} {POOLS}"),
    "table3": TableLayout(("distribution",), ("ipc",), "distribution", {
        "augment": [True], "dataset": ["imagewoof"], "ipc": IPCS, "network": ["resnet_ap10"], "method": ["dgs"],
        "distribution": ["hill", "ground", "slope", "cliff", "scale"], "pool_factor": [5],
    }, published=3, note=POOLS),
    "table4": TableLayout(("pool_factor",), ("ipc",), "pool_factor", {
        "augment": [True], "dataset": ["imagewoof"], "ipc": IPCS, "network": ["resnet_ap10"], "method": ["dgs"],
        "distribution": ["scale"], "pool_factor": [2, 3, 4, 5, 6],
    }, published=4, note=POOLS),
}

# The paper's names of methods, with ours in brackets.
PAPER_TITLES = {"first": "Random (first files)", "random": "Random (seeded draw)", "dgs": "Ours (DGS)",
                "full": "Full dataset"}
VALUE_TITLES: dict[str, Callable] = {  # of the values of a column
    "network": network_title, "dataset": lambda name: DATASET_TITLES.get(name, name),
    "method": lambda name: PAPER_TITLES.get(name, METHOD_LABELS.get(name, name)), "cut": lambda cut: cut or "none",
    "distribution": lambda shape: shape.capitalize() if shape.islower() else shape,
    "pool_factor": lambda factor: f"{factor} × IPC" if factor else "all",
}
FULL_SET = {name for name, method in METHODS.items() if method.whole}  # an upper bound that never competes


def cells_shown(summary: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the rows of a summary for table ``name``, the full set once for each IPC.

    An ablation has the sets of difficulty-guided sampling that differ in nothing else (all sets if there are none), the
    comparison only one of them.
    """
    kept = without_ablations(summary) if name == "comparison" else summary
    if name in ABLATIONS and is_ablated(kept, name).any():
        kept = kept[is_ablated(kept, name)]
    for column, values in TABLE_LAYOUTS[name].cells.items():
        kept = kept[kept[column].isin([*values, 0] if column == "ipc" else values)]
    everywhere = sorted(TABLE_LAYOUTS[name].cells.get("ipc", set(kept["ipc"]) - {0})) or [0]
    whole = kept[kept["ipc"] == 0]
    return pd.concat([kept[kept["ipc"] != 0], *(whole.assign(ipc=ipc) for ipc in everywhere)], ignore_index=True)


def distinguishing_columns(cells: pd.DataFrame, layout: TableLayout) -> list[str]:
    """Return the columns beside those of the layout in which the cells of a table differ.

    Columns that depend on the IPC, which the full set does not have, count only if cells would clash without them.
    """
    keys = [*layout.rows, *layout.columns]
    others = [name for name in (CONDITION_KEYS if "series" in keys else CELL_KEYS) if name not in keys]
    varying = [name for name in others if cells[name].nunique() > 1 and name not in NEEDS_IPC]
    clashing = cells.groupby([*keys, *varying])
    return varying + [name for name in others if name in NEEDS_IPC and clashing[name].nunique().max() > 1]


def axis_values(layout: TableLayout, names: tuple[str, ...], shown: pd.DataFrame) -> pd.Index:
    """Return the lines or columns of a table: the layout's fixed values, or else those of the cells."""
    if all(name in layout.cells for name in names):
        index = pd.MultiIndex.from_product([layout.cells[name] for name in names], names=names)
    else:
        keys = list(dict.fromkeys(key for name in names for key in (*(SET_KEYS if name == "series" else ()), name)))
        index = pd.MultiIndex.from_frame(sort_rows(shown, keys)[list(names)].drop_duplicates())
    return index if index.nlevels > 1 else index.get_level_values(0)


def with_titles(text: pd.DataFrame) -> pd.DataFrame:
    """Return a table with readable names of lines and columns."""
    for axis in (0, 1):
        for level in text.axes[axis].names:
            text = text.rename(VALUE_TITLES.get(level, format_value), axis=axis, level=level)
    return text
