"""Published values of the paper's tables, in the kit's own names."""

from pathlib import Path

import pandas as pd

from dgs_utils.methods import METHODS
from dgs_utils.results.rows import DATASET_TITLES, NETWORK_TITLES, PAPER_METHOD_LABELS
from dgs_utils.runtime.table_io import read_table

TABLES = Path(__file__).parent / "published"


def published_table(number: int) -> pd.DataFrame:
    """Return the paper's table ``number`` (1–4) in the kit's own names: dataset, ipc, network, method, …, mean, std.

    >>> published_table(4).query("ipc == 10 and pool_factor == 5")["mean"].tolist()
    [37.4]
    """
    frame = read_table(TABLES / f"table{number}.csv", ("distribution", "pool_size"))
    frame = frame.rename(columns={"model": "network"})
    frame["dataset"] = frame["dataset"].map({v: k for k, v in DATASET_TITLES.items()})
    frame["network"] = frame["network"].map({v: k for k, v in NETWORK_TITLES.items()})
    names = {method.label: name for name, method in METHODS.items()}
    frame["method"] = frame["method"].replace(PAPER_METHOD_LABELS).map(names)
    frame["pool_factor"] = frame["pool_size"].str.extract(r"(\d+)", expand=False).fillna("0").astype(int)
    return frame.drop(columns="pool_size")
