"""Result tables: mean and spread over runs, laid out as in the paper, with the published value beside ours.

Everything starts from the rows of ``results.csv`` (one a training run). A cell that has not been run stays visibly
empty; published values stand in their own column and are never mixed with measured ones. Rows of different evaluation
protocols are never averaged nor put into one table.
"""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd

from dgs_utils.artifacts import atomic, write_csv
from dgs_utils.methods import METHODS

EMPTY = "–"
NETWORKS = {
    "convnet3": "ConvNet-3", "convnet4": "ConvNet-4", "convnet5": "ConvNet-5", "convnet6": "ConvNet-6",
    "resnet_ap10": "ResNetAP-10", "resnet18": "ResNet-18",
}
DATASETS = {"imagewoof": "ImageWoof", "imagenette": "ImageNette", "imageidc": "ImageIDC"}
LABELS = {name: method.label for name, method in METHODS.items()}
PUBLISHED_LABELS = {"Ours": "DGS", "Full Dataset": "Full"}

# What one cell of any table stands for; the runs that agree in all of these are averaged.
CELL = ["protocol", "dataset", "split", "image_size", "epoch_factor", "batch_size", "learning_rate", "flip",
        "precision", "network", "norm", "ipc", "method", "distribution", "pool_factor"]


@dataclass(frozen=True)
class Layout:
    """How a table arranges its cells.

    Attributes:
        rows, columns: names of summary columns.
        cells: values that are always shown, run or not, by summary column; others appear as they were run.
        published: number of the paper's table whose values are shown beside ours; 0 for none.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: dict[str, list]
    published: int = 0


IPCS = [10, 20, 50]
LAYOUTS: dict[str, Layout] = {
    "comparison": Layout(("dataset", "network", "ipc"), ("method",), {}),
    "table1": Layout(("ipc", "network"), ("method",), {
        "dataset": ["imagewoof"], "ipc": IPCS, "network": ["convnet6", "resnet_ap10", "resnet18"],
        "method": ["random", "k_center", "herding", "dit", "dm", "idc", "minimax", "dgs", "full"],
        "distribution": ["", "scale"], "pool_factor": [0, 5],
    }, published=1),
    "table2": Layout(("dataset", "ipc"), ("method",), {
        "dataset": ["imagenette", "imageidc"], "ipc": IPCS, "network": ["resnet_ap10"],
        "method": ["random", "dit", "minimax", "dgs"], "distribution": ["", "scale"], "pool_factor": [0, 5],
    }, published=2),
    "table3": Layout(("distribution",), ("ipc",), {
        "dataset": ["imagewoof"], "ipc": IPCS, "network": ["resnet_ap10"], "method": ["dgs"],
        "distribution": ["hill", "ground", "slope", "cliff", "scale"], "pool_factor": [5],
    }, published=3),
    "table4": Layout(("pool_factor",), ("ipc",), {
        "dataset": ["imagewoof"], "ipc": IPCS, "network": ["resnet_ap10"], "method": ["dgs"],
        "distribution": ["scale"], "pool_factor": [2, 3, 4, 5, 6],
    }, published=4),
}


def read_results(folders: list[Path]) -> pd.DataFrame:
    """Return the rows of several 06 folders' ``results.csv``, one a training run, accuracies in percent."""
    frames = [pd.read_csv(folder / "results.csv", dtype={"distribution": str}, keep_default_na=False)
              for folder in folders]
    if not frames:
        raise ValueError("no evaluation folders were given; run notebook 06 first or list its folders in evaluations")
    results = pd.concat(frames, ignore_index=True)
    return results.drop_duplicates(subset=[*CELL, "pool_seed", "selection_seed", "training_seed", "distilled"])


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """Average the runs of each cell.

    Returns:
        One row a cell: the columns of `CELL`, ``best`` and ``last`` (mean top-1, percent), ``std`` (of best, ddof 1,
        NaN for a single run), ``n`` (runs), ``pools``, ``selections``, ``trainings`` (distinct seeds of each kind),
        ``test_se`` (binomial standard error of one test, percentage points) and ``optimism`` (mean of best − last).
    """
    groups = results.groupby(CELL, sort=False, dropna=False)
    summary = groups.agg(
        best=("best", "mean"), std=("best", "std"), last=("last", "mean"), n=("best", "size"), n_test=("n_test", "max"),
        pools=("pool_seed", "nunique"), selections=("selection_seed", "nunique"),
        trainings=("training_seed", "nunique"),
    ).reset_index()
    share = summary["best"] / 100
    summary["test_se"] = 100 * np.sqrt(share * (1 - share) / summary["n_test"])
    summary["optimism"] = summary["best"] - summary["last"]
    return summary


def published(number: int) -> pd.DataFrame:
    """Return the paper's table ``number`` (1–4) in the kit's own names: dataset, ipc, network, method, …, mean, std."""
    with (files("dgs_utils") / "published" / f"table{number}.csv").open() as file:
        frame = pd.read_csv(file, dtype={"distribution": str, "pool_size": str}).rename(columns={"model": "network"})
    frame["dataset"] = frame["dataset"].map({v: k for k, v in DATASETS.items()})
    frame["network"] = frame["network"].map({v: k for k, v in NETWORKS.items()})
    names = {method.label: name for name, method in METHODS.items()}
    frame["method"] = frame["method"].replace(PUBLISHED_LABELS).map(names)
    frame["pool_factor"] = frame["pool_size"].str.extract(r"(\d+)", expand=False).fillna("0").astype(int)
    return frame.drop(columns="pool_size")


def lay_out(summary: pd.DataFrame, name: str, bold: str = "**{}**") -> pd.DataFrame:
    """Arrange cells as table ``name`` of `LAYOUTS`, as text "mean ± std", best of each line in bold.

    Args:
        summary: as returned by `summarise`, of one protocol.
        name: key of `LAYOUTS`.
        bold: format that marks the best cell of a line.

    Raises:
        ValueError: the rows come from more than one protocol, or several results claim the same cell.
    """
    layout = LAYOUTS[name]
    if summary["protocol"].nunique() > 1:
        raise ValueError(f"{name} mixes the protocols {', '.join(summary['protocol'].unique())}; make one table each")
    kept = summary
    for column, values in layout.cells.items():
        kept = kept[kept[column].isin(values)]
    cells = kept.set_index([*layout.rows, *layout.columns])[["best", "std"]].rename(columns={"best": "mean"})
    if cells.index.has_duplicates:
        clash = cells.index[cells.index.duplicated()][0]
        raise ValueError(f"{name} has several results for {clash}; give 07 only the runs that belong together")
    rows = _axis(layout, layout.rows, kept)
    columns = _axis(layout, layout.columns, kept)
    text = _text_grid(cells, rows, columns, bold)
    if layout.published:
        paper = published(layout.published).set_index([*layout.rows, *layout.columns])[["mean", "std"]]
        theirs = _text_grid(paper, rows, columns, "{}")
        text = pd.concat({"measured": text, "published": theirs}, axis=1)
    return _readable(text)


def _axis(layout: Layout, names: tuple[str, ...], summary: pd.DataFrame) -> pd.MultiIndex:
    """Return the lines or columns of a table: fixed values where the layout gives them, else those that were run."""
    if all(name in layout.cells for name in names):
        return pd.MultiIndex.from_product([layout.cells[name] for name in names], names=names)
    run = summary[list(names)].drop_duplicates()
    order = {name: place for place, name in enumerate(METHODS)}
    key = (lambda column: column.map(order)) if names == ("method",) else None
    return pd.MultiIndex.from_frame(run.sort_values(list(names), key=key))


def _text_grid(cells: pd.DataFrame, rows: pd.MultiIndex, columns: pd.MultiIndex, bold: str) -> pd.DataFrame:
    values = cells["mean"].to_dict()
    spread = cells["std"].to_dict()
    lines = []
    for row in rows:
        keys = [(*row, *column) if len(row) + len(column) > 1 else row[0] for column in columns]
        best = max((values[key] for key in keys if key in values), default=np.nan)
        lines.append([_cell(values.get(key), spread.get(key), best, bold) for key in keys])
    single = [axis.get_level_values(0) if axis.nlevels == 1 else axis for axis in (rows, columns)]
    return pd.DataFrame(lines, *single)


def _cell(mean: float | None, std: float | None, best: float, bold: str) -> str:
    if mean is None:
        return EMPTY
    text = f"{mean:.1f}" if std is None or np.isnan(std) else f"{mean:.1f} ± {std:.1f}"
    return bold.format(text) if mean == best else text


def _readable(text: pd.DataFrame) -> pd.DataFrame:
    names = {**NETWORKS, **DATASETS, **LABELS}
    return text.rename(index=lambda value: names.get(value, value), columns=lambda value: names.get(value, value))


def write_table(results: pd.DataFrame, name: str, folder: Path) -> pd.DataFrame:
    """Write a table as CSV (tidy, with every statistic), Markdown and LaTeX, and return it laid out as text.

    Where the results hold several protocols, each gets files of its own, ``<name>-<protocol>.*``.
    """
    summary = summarise(results)
    protocols = list(summary["protocol"].unique())
    shown = []
    for protocol in protocols:
        part = summary[summary["protocol"] == protocol]
        stem = name if len(protocols) == 1 else f"{name}-{protocol}"
        table = lay_out(part, name)
        write_csv(folder / f"{stem}.csv", part)
        with atomic(folder / f"{stem}.md") as partial:
            partial.write_text(f"{_markdown(table)}\n\n{caption(part)}\n")
        with atomic(folder / f"{stem}.tex") as partial:
            partial.write_text(_latex(lay_out(part, name, bold=r"\textbf{{{}}}")))
        shown.append(table)
    return pd.concat(dict(zip(protocols, shown, strict=True))) if len(shown) > 1 else shown[0]


def caption(summary: pd.DataFrame) -> str:
    """Return one sentence that tells how the numbers of a table came about."""
    ranges = [(summary[name].min(), summary[name].max()) for name in ("n", "pools", "selections", "trainings")]
    counts = [f"{low} to {high}" if low != high else str(low) for low, high in ranges]
    factors = sorted(summary["epoch_factor"].unique())
    scaled = "" if factors == [1.0] else f" Epochs are the protocol's × {', '.join(f'{f:g}' for f in factors)}."
    return (f"Best top-1 accuracy in percent over the evaluations of a run (protocol {summary['protocol'].iloc[0]}), "
            f"mean ± standard deviation (ddof 1) of {counts[0]} runs: pool seeds {counts[1]}, selection seeds "
            f"{counts[2]}, training seeds {counts[3]}. The binomial standard error of one test "
            f"({summary['n_test'].max()} pictures) is up to {summary['test_se'].max():.1f} points.{scaled}")


def _markdown(table: pd.DataFrame) -> str:
    flat = _flat(table)
    lines = [list(flat.columns), ["---"] * flat.shape[1], *flat.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(value) for value in line) + " |" for line in lines)


def _latex(table: pd.DataFrame) -> str:
    flat = _flat(table)
    escape = str.maketrans({"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#"})
    lines = [" & ".join(str(value).translate(escape).replace("±", r"$\pm$").replace(EMPTY, "--") for value in line)
             for line in [list(flat.columns), *flat.to_numpy().tolist()]]
    body = " \\\\\n".join([lines[0] + r" \\ \midrule" + "\n" + lines[1] if len(lines) > 1 else lines[0], *lines[2:]])
    return f"\\begin{{tabular}}{{{'l' * flat.shape[1]}}}\n\\toprule\n{body} \\\\\n\\bottomrule\n\\end{{tabular}}\n"


def _flat(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with one header line and its row names as ordinary columns."""
    columns = [" ".join(str(part) for part in (c if isinstance(c, tuple) else (c,))) for c in table.columns]
    flat = table.set_axis(columns, axis=1)
    flat.index = flat.index.set_names([_title(name) for name in flat.index.names])
    return flat.reset_index()


def _title(name: str) -> str:
    return {"ipc": "IPC", "pool_factor": "Pool size (× IPC)"}.get(name, name.capitalize())
