"""Published values, and which of our rows may stand beside them."""

from pathlib import Path

import pandas as pd

from dgs_utils.images.tables import read_table
from dgs_utils.methods import METHODS
from dgs_utils.results.rows import DATASETS, NETWORKS, PUBLISHED_LABELS

TABLES = Path(__file__).parent / "published"


def published(number: int) -> pd.DataFrame:
    """Return the paper's table ``number`` (1–4) in the kit's own names: dataset, ipc, network, method, …, mean, std."""
    frame = read_table(TABLES / f"table{number}.csv", ("distribution", "pool_size"))
    frame = frame.rename(columns={"model": "network"})
    frame["dataset"] = frame["dataset"].map({v: k for k, v in DATASETS.items()})
    frame["network"] = frame["network"].map({v: k for k, v in NETWORKS.items()})
    names = {method.label: name for name, method in METHODS.items()}
    frame["method"] = frame["method"].replace(PUBLISHED_LABELS).map(names)
    frame["pool_factor"] = frame["pool_size"].str.extract(r"(\d+)", expand=False).fillna("0").astype(int)
    return frame.drop(columns="pool_size")


def is_comparable(summary: pd.DataFrame) -> bool:
    """Return whether all rows were measured as the published ones were: protocol H-A, all its epochs, 224 pixels, the
    500 official validation images [B §1].
    """
    as_published = ((summary["label"] == "H-A") & (summary["epoch_factor"] == 1) & (summary["image_size"] == 224)
                    & (summary["n_test"] == 500))
    return bool(as_published.all())
