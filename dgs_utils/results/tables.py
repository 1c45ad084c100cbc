"""Result tables: mean and spread over runs, laid out as in the paper, with the published value beside ours.

Everything starts from the rows of ``results.csv`` (one a training run). A cell that has not been run stays visibly
empty; published values stand in their own column and are never mixed with measured ones, and only beside runs that they
can be compared with. Rows of different evaluation protocols are never averaged nor put into one table.
"""

from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from dgs_utils.artifacts import atomic, write_csv
from dgs_utils.methods import METHODS
from dgs_utils.results.statistics import SETTING, binomial_error

EMPTY = "–"
NETWORKS = {
    "convnet3": "ConvNet-3", "convnet4": "ConvNet-4", "convnet5": "ConvNet-5", "convnet6": "ConvNet-6",
    "resnet_ap10": "ResNetAP-10", "resnet18": "ResNet-18",
}
DATASETS = {"imagewoof": "ImageWoof", "imagenette": "ImageNette", "imageidc": "ImageIDC", "fashion": "Fashion-MNIST"}
LABELS = {name: method.label for name, method in METHODS.items()}
PUBLISHED_LABELS = {"Ours": "DGS", "Full Dataset": "Full"}

# What one cell of any table stands for: the runs that agree in how they were evaluated (SETTING) and in how their
# pictures were made are averaged.
MAKING = ["method", "distribution", "pool_factor", "objective", "measure", "variant"]
CELL = [*SETTING, *MAKING]
BY_IPC = ("epoch_factor", "batch_size")  # a protocol lets these follow from the IPC; a factor's epochs are whole ones
LATER = {"label": "", "objective": "", "measure": "", "variant": "", "evaluations": 0, "augment": True}  # since when
MAIN = {"distribution": "scale", "pool_factor": 5, "objective": "code", "measure": "difficulty"}  # DGS as published


@dataclass(frozen=True)
class Layout:
    """How a table arranges its cells.

    Attributes:
        rows, columns: names of summary columns. Where there is no published table to hold on to, whatever else tells
            two cells apart is added to the rows.
        compared: the one of these names in which cells compete: the best of those that agree in all others is bold.
        cells: values that are always shown, run or not, by summary column; others appear as they were run.
        published: number of the paper's table whose values are shown beside ours; 0 for none.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    compared: str
    cells: dict[str, list]
    published: int = 0


IPCS = [10, 20, 50]
ABLATIONS = ("distribution", "pool_factor", "objective", "measure")  # of DGS: the summary column that varies
LAYOUTS: dict[str, Layout] = {
    "comparison": Layout(("dataset", "series"), ("network", "ipc"), "series", {}),
    **{name: Layout(("dataset", "network", name), ("ipc",), name, {"method": ["dgs"]}) for name in ABLATIONS},
    "table1": Layout(("ipc", "network"), ("method",), "method", {
        "augment": [True], "dataset": ["imagewoof"], "ipc": IPCS, "network": ["convnet6", "resnet_ap10", "resnet18"],
        "method": ["random", "k_center", "herding", "dit", "dm", "idc", "minimax", "dgs", "full"],
        "distribution": ["", "scale"], "pool_factor": [0, 5],
    }, published=1),
    "table2": Layout(("dataset", "ipc"), ("method",), "method", {
        "augment": [True], "dataset": ["imagenette", "imageidc"], "ipc": IPCS, "network": ["resnet_ap10"],
        "method": ["random", "dit", "minimax", "dgs"], "distribution": ["", "scale"], "pool_factor": [0, 5],
    }, published=2),
    "table3": Layout(("distribution",), ("ipc",), "distribution", {
        "augment": [True], "dataset": ["imagewoof"], "ipc": IPCS, "network": ["resnet_ap10"], "method": ["dgs"],
        "distribution": ["hill", "ground", "slope", "cliff", "scale"], "pool_factor": [5],
    }, published=3),
    "table4": Layout(("pool_factor",), ("ipc",), "pool_factor", {
        "augment": [True], "dataset": ["imagewoof"], "ipc": IPCS, "network": ["resnet_ap10"], "method": ["dgs"],
        "distribution": ["scale"], "pool_factor": [2, 3, 4, 5, 6],
    }, published=4),
}


def read_results(folders: list[Path]) -> pd.DataFrame:
    """Return the rows of several 06 folders' ``results.csv``, one a training run, accuracies in percent.

    Columns that older files lack have their neutral value; ``folder``, ``series`` and ``setting`` (see `series_of` and
    `setting_of`) are added.
    """
    text = {"distribution": str, "objective": str, "measure": str, "variant": str}
    frames = [pd.read_csv(folder / "results.csv", dtype=text, keep_default_na=False) for folder in folders]
    if not frames:
        raise ValueError("no evaluation folders were given; run notebook 06 first or list its folders in evaluations")
    frames = [frame.assign(folder=str(folder), **{name: value for name, value in LATER.items() if name not in frame})
              for frame, folder in zip(frames, folders, strict=True)]
    results = pd.concat(frames, ignore_index=True)
    results = results.drop_duplicates(subset=[*CELL, "pool_seed", "selection_seed", "training_seed", "distilled"])
    return results.assign(series=series_of(results), setting=setting_of(results))


def setting_of(rows: pd.DataFrame) -> np.ndarray:
    """Return a readable name for how each row was evaluated: the network, and all else in which settings differ."""
    place = ["dataset", "protocol", "ipc"]
    within = rows.groupby(place)
    told = [name for name in place[:2] if rows[name].nunique() > 1]
    told += [name for name in SETTING if name not in (*place, "network", *BY_IPC) and within[name].nunique().max() > 1]

    def name_of(row: tuple) -> str:
        others = (DATASETS.get(value, value) if name in ("dataset", "protocol") else f"{_title(name).lower()} {value}"
                  for name, value in zip(told, row[1:], strict=True))
        return ", ".join([NETWORKS.get(row[0], row[0]), *others])

    return np.array([name_of(row) for row in rows[["network", *told]].itertuples(index=False)], dtype=object)


def series_of(rows: pd.DataFrame) -> np.ndarray:
    """Return a readable name for how each row's pictures were made.

    It is the method's label, followed in brackets by what else tells this method's rows apart, such as "DGS (hill)";
    two rows have the same name only if they agree in all of `MAKING`.
    """
    rows = rows.reset_index(drop=True)
    names = np.empty(len(rows), dtype=object)
    for method, part in rows.groupby("method", sort=False):
        told = [name for name in MAKING[1:-1] if part[name].nunique() > 1]
        if part.groupby(told or "method")["variant"].nunique().max() > 1:
            told.append("variant")
        extra = part[told].apply(lambda row: ", ".join(_value(*item) for item in row.items()), axis=1) if told else ""
        names[part.index] = LABELS.get(method, method) + (" (" + extra + ")" if told else "")
    return names


def _value(name: str, value: object) -> str:
    return f"{value} × IPC" if name == "pool_factor" else f"set {value}" if name == "variant" else str(value)


def main_series(results: pd.DataFrame) -> str:
    """Return which series stands for difficulty-guided sampling: the one nearest to the published choices, or ""."""
    ours = results[results["method"] == "dgs"]
    away = sum((ours[name] != value).to_numpy(dtype=int) for name, value in MAIN.items())
    return "" if ours.empty else str(ours["series"].iloc[away.argmin()])


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """Average the runs of each cell.

    Returns:
        One row a cell: the columns of `CELL`, ``series``, ``setting``, ``label`` (of the protocol), ``best`` and
        ``last`` (mean top-1, percent), ``std`` and ``last_std`` (ddof 1, NaN for a single run), ``n`` (runs),
        ``pools``, ``selections``, ``trainings`` (distinct seeds of each kind), ``test_se`` (binomial standard error of
        one test, percentage points), ``optimism`` (mean of best − last), and ``error`` with ``units``: the standard
        error of best over the outermost source of noise that was repeated, and how many of that there are.
    """
    if "series" not in results:
        results = results.assign(series=series_of(results), setting=setting_of(results))
    groups = results.groupby([*CELL, "series", "setting"], sort=False, dropna=False)
    summary = groups.agg(
        label=("label", "first"),
        best=("best", "mean"), std=("best", "std"), last=("last", "mean"),
        last_std=("last", "std"), n=("best", "size"), n_test=("n_test", "max"),
        pools=("pool_seed", "nunique"), selections=("selection_seed", "nunique"),
        trainings=("training_seed", "nunique"),
    ).reset_index()
    summary["test_se"] = binomial_error(summary["best"], summary["n_test"])
    summary["optimism"] = summary["best"] - summary["last"]
    errors = [_error(part) for _, part in groups]
    return summary.assign(error=[error for error, _ in errors], units=[units for _, units in errors])


def _error(runs: pd.DataFrame) -> tuple[float, int]:
    """Return the standard error of a cell's mean: runs that share a pool, or a selection, are not independent."""
    for seed in ("pool_seed", "selection_seed", "training_seed"):
        means = runs.groupby(seed)["best"].mean()
        if len(means) > 1:
            return float(means.std() / np.sqrt(len(means))), len(means)
    return np.nan, 1


def ablations(summary: pd.DataFrame) -> list[str]:
    """Return the names of those ablation tables that have something to compare."""
    return [name for name in ABLATIONS if _swept(summary, name).any()]


def _swept(summary: pd.DataFrame, name: str) -> pd.Series:
    """Tell the rows of DGS that agree in all but ``name`` (and IPC) with other rows: those of an ablation."""
    others = [column for column in CELL if column not in (name, "ipc", *BY_IPC)]
    lines = summary[summary["method"] == "dgs"].groupby(others, dropna=False)[name]
    return (lines.transform("nunique") > 1).reindex(summary.index, fill_value=False)


def with_controls(summary: pd.DataFrame) -> pd.DataFrame:
    """Put the two controls of a result beside it [B §2]: random real pictures, and random ones of the same pool.

    Returns:
        The summary with ``random`` and ``pool_random`` (best, percent; NaN where not run, or no pool was used) and what
        the result has above each: ``over_random``, ``over_pool``.
    """
    def best_of(method: str, keys: list[str]) -> pd.DataFrame:
        found = summary[summary["method"] == method]
        return found.groupby(keys, dropna=False)["best"].mean().rename(method).reset_index()

    pooled = summary["method"].map(lambda method: method in METHODS and METHODS[method].source == "pool")
    table = summary.merge(best_of("random", SETTING), on=SETTING, how="left")
    table = table.merge(best_of("pool_random", SETTING), on=SETTING, how="left")
    table.loc[~pooled.to_numpy(), "pool_random"] = np.nan
    return table.assign(over_random=table["best"] - table["random"], over_pool=table["best"] - table["pool_random"])


def published(number: int) -> pd.DataFrame:
    """Return the paper's table ``number`` (1–4) in the kit's own names: dataset, ipc, network, method, …, mean, std."""
    with (files("dgs_utils.results") / "published" / f"table{number}.csv").open() as file:
        frame = pd.read_csv(file, dtype={"distribution": str, "pool_size": str}).rename(columns={"model": "network"})
    frame["dataset"] = frame["dataset"].map({v: k for k, v in DATASETS.items()})
    frame["network"] = frame["network"].map({v: k for k, v in NETWORKS.items()})
    names = {method.label: name for name, method in METHODS.items()}
    frame["method"] = frame["method"].replace(PUBLISHED_LABELS).map(names)
    frame["pool_factor"] = frame["pool_size"].str.extract(r"(\d+)", expand=False).fillna("0").astype(int)
    return frame.drop(columns="pool_size")


def is_comparable(summary: pd.DataFrame) -> bool:
    """Return whether all rows were measured as the published ones were: protocol H-A, all its epochs, 224 pixels, the
    500 official validation pictures [B §1].
    """
    as_published = ((summary["label"] == "H-A") & (summary["epoch_factor"] == 1) & (summary["image_size"] == 224)
                    & (summary["n_test"] == 500))
    return bool(as_published.all())


def lay_out(summary: pd.DataFrame, name: str, bold: str = "**{}**") -> pd.DataFrame:
    """Arrange cells as table ``name`` of `LAYOUTS`, as text "mean ± std", the best in bold.

    The full set has no IPC; it stands in the line of each. Published values are left out beside runs that they cannot
    be compared with (`is_comparable`).

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
    kept = cells_of(summary, name)
    if not layout.published:
        layout = replace(layout, rows=(*layout.rows, *_telling(kept, layout)))
    places = [*layout.rows, *layout.columns]
    cells = kept.set_index(places)[["best", "std"]].rename(columns={"best": "mean"})
    if cells.index.has_duplicates:
        clash = cells.index[cells.index.duplicated()][0]
        same = kept[[tuple(row) == clash for row in kept[places].itertuples(index=False)]]
        apart = ", ".join(column for column in CELL if same[column].nunique() > 1)
        raise ValueError(f"{name} has several results for {clash}, which differ in {apart}; give 07 only the runs that "
                         f"belong together")
    rows = _axis(layout, layout.rows, kept)
    columns = _axis(layout, layout.columns, kept)
    text = _text_grid(cells, rows, columns, places.index(layout.compared), bold)
    if layout.published and is_comparable(kept):
        paper = published(layout.published).set_index(places)[["mean", "std"]]
        theirs = _text_grid(paper, rows, columns, places.index(layout.compared), "{}")
        text = pd.concat({"measured": text, "published": theirs}, axis=1)
    return _readable(text)


def _telling(kept: pd.DataFrame, layout: Layout) -> list[str]:
    """Return what tells cells of a table apart beside its own rows and columns.

    What follows from the IPC, which the full set has none of, only counts where one place of the table would hold
    several.
    """
    places = [*layout.rows, *layout.columns]
    others = [name for name in (SETTING if "series" in places else CELL) if name not in places]
    varying = [name for name in others if kept[name].nunique() > 1 and name not in BY_IPC]
    clashing = kept.groupby([*places, *varying])
    return varying + [name for name in others if name in BY_IPC and clashing[name].nunique().max() > 1]


def without_ablations(summary: pd.DataFrame) -> pd.DataFrame:
    """Leave out what ablation tables show, but for the one set that stands for the method (`main_series`)."""
    swept = np.logical_or.reduce([_swept(summary, name) for name in ABLATIONS])
    return summary[~swept | (summary["series"] == main_series(summary))]


def cells_of(summary: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the rows of a summary that table ``name`` shows, the full set once for each IPC.

    An ablation shows sets of difficulty-guided sampling that differ in nothing else (all sets where there are none
    such), the comparison only one of them.
    """
    kept = without_ablations(summary) if name == "comparison" else summary
    if name in ABLATIONS and _swept(kept, name).any():
        kept = kept[_swept(kept, name)]
    for column, values in LAYOUTS[name].cells.items():
        kept = kept[kept[column].isin([*values, 0] if column == "ipc" else values)]
    everywhere = sorted(LAYOUTS[name].cells.get("ipc", set(kept["ipc"]) - {0})) or [0]
    whole = kept[kept["ipc"] == 0]
    return pd.concat([kept[kept["ipc"] != 0], *(whole.assign(ipc=ipc) for ipc in everywhere)], ignore_index=True)


def _axis(layout: Layout, names: tuple[str, ...], summary: pd.DataFrame) -> pd.Index:
    """Return the lines or columns of a table: fixed values where the layout gives them, else those that were run."""
    if all(name in layout.cells for name in names):
        return pd.MultiIndex.from_product([layout.cells[name] for name in names], names=names)
    order = {name: place for place, name in enumerate(METHODS)}  # folders of others come last
    keys = [key for name in names for key in (("place", *MAKING) if name == "series" else (name,))]
    found = summary.assign(place=summary["method"].map(order)).sort_values(keys)
    return pd.MultiIndex.from_frame(found[list(names)].drop_duplicates())


def _text_grid(cells: pd.DataFrame, rows: pd.Index, columns: pd.Index, compared: int, bold: str) -> pd.DataFrame:
    values, spread = cells["mean"].to_dict(), cells["std"].to_dict()
    best: dict[tuple, float] = {}
    for key, value in values.items():
        rivals = key[:compared] + key[compared + 1 :]
        best[rivals] = max(value, best.get(rivals, value))

    def text(key: tuple) -> str:
        return _cell(values.get(key), spread.get(key), best.get(key[:compared] + key[compared + 1 :]), bold)

    lines = [[text((*_tuple(row), *_tuple(column))) for column in columns] for row in rows]
    single = [axis.get_level_values(0) if axis.nlevels == 1 else axis for axis in (rows, columns)]
    return pd.DataFrame(lines, *single)


def _tuple(place: object) -> tuple:
    return place if isinstance(place, tuple) else (place,)


def _cell(mean: float | None, std: float | None, best: float | None, bold: str) -> str:
    if mean is None:
        return EMPTY
    text = f"{mean:.1f}" if std is None or np.isnan(std) else f"{mean:.1f} ± {std:.1f}"
    return bold.format(text) if mean == best else text


def _readable(text: pd.DataFrame) -> pd.DataFrame:
    names = {**NETWORKS, **DATASETS, **LABELS}
    return text.rename(index=lambda value: names.get(value, value), columns=lambda value: names.get(value, value))


def write_table(results: pd.DataFrame, name: str, folder: Path) -> dict[str, pd.DataFrame]:
    """Write a table as CSV (a line a cell, with every statistic), Markdown and LaTeX.

    Where the results hold several protocols, each gets files of its own, ``<name>-<protocol>.*``.

    Returns:
        The table of each protocol, laid out as text.
    """
    summary = summarise(results)
    protocols = list(summary["protocol"].unique())
    shown = {}
    for protocol in protocols:
        part = summary[summary["protocol"] == protocol]
        stem = name if len(protocols) == 1 else f"{name}-{protocol}"
        table, words = lay_out(part, name), caption(part, name)
        write_csv(folder / f"{stem}.csv", cells_of(part, name))
        with atomic(folder / f"{stem}.md") as partial:
            partial.write_text(f"{_markdown(table)}\n\n{words}\n")
        with atomic(folder / f"{stem}.tex") as partial:
            latex = _latex(lay_out(part, name, bold=r"\textbf{{{}}}"))
            partial.write_text(latex + f"% {words}\n".replace("±", r"$\pm$"))
        shown[protocol] = table
    return shown


def write_comparisons(comparisons: pd.DataFrame, name: str, folder: Path) -> str:
    """Write comparisons with one method as ``<name>.csv``, and as a table ``<name>.md`` with a line a rival.

    Args:
        comparisons: rows of `statistics.compare_methods` or `statistics.compare_on_pictures`, with one ``first``.
        name: of the files.
        folder: where they go.

    Returns:
        The table: differences in percentage points and their intervals, bold where zero is outside.
    """
    write_csv(folder / f"{name}.csv", comparisons)
    if comparisons.empty:
        return ""
    texts = comparisons.assign(text=[_difference(row) for row in comparisons.itertuples()])
    table = texts.pivot(index="second", columns=["setting", "ipc"], values="text").fillna(EMPTY)
    table = table.reindex(index=texts["second"].unique(), columns=texts.set_index(["setting", "ipc"]).index.unique())
    text = _markdown(table.rename_axis(index=f"{comparisons['first'].iloc[0]} minus"))
    with atomic(folder / f"{name}.md") as partial:
        partial.write_text(f"{text}\n\nPercentage points with 95 % intervals, bold where zero is outside.\n")
    return text


def _difference(found: NamedTuple) -> str:
    if np.isnan(found.low):
        return EMPTY if np.isnan(found.difference) else f"{found.difference:+.1f}"
    text = f"{found.difference:+.1f} ({found.low:+.1f} to {found.high:+.1f})"
    return f"**{text}**" if found.low > 0 or found.high < 0 else text


def caption(summary: pd.DataFrame, name: str = "comparison") -> str:
    """Return one paragraph that tells how the numbers of table ``name`` came about."""
    shown = cells_of(summary, name)
    source = summary if shown.empty else shown
    ranges = [(source[column].min(), source[column].max()) for column in ("n", "pools", "selections", "trainings")]
    counts = [f"{low} to {high}" if low != high else str(low) for low, high in ranges]
    factors = sorted(source["epoch_factor"].unique())
    scaled = "" if factors == [1.0] else f" Epochs are the protocol's × {', '.join(f'{f:g}' for f in factors)}."
    apart = "" if not LAYOUTS[name].published or is_comparable(shown) else (
        " Published values are left out: they were measured by protocol H-A with all its epochs, at 224 pixels, on the "
        "500 official validation pictures.")
    protocol = f"{source['protocol'].iloc[0]}, {source['label'].iloc[0]}"
    return (f"Best top-1 accuracy in percent over the evaluations of a run (protocol {protocol}), "
            f"mean ± standard deviation (ddof 1) of {counts[0]} runs: pool seeds {counts[1]}, selection seeds "
            f"{counts[2]}, training seeds {counts[3]}. The binomial standard error of one test "
            f"({source['n_test'].max()} pictures) is up to {source['test_se'].max():.1f} points.{scaled}{apart}")


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
    heads = [column if isinstance(column, tuple) else (column,) for column in table.columns]
    columns = [" ".join(f"IPC {part}" if name == "ipc" else str(part)
                        for name, part in zip(table.columns.names, head, strict=True)) for head in heads]
    flat = table.set_axis(columns, axis=1)
    flat.index = flat.index.set_names([_title(name) for name in flat.index.names])
    return flat.reset_index()


def _title(name: str) -> str:
    titles = {"ipc": "IPC", "series": "Method", "pool_factor": "Pool size (× IPC)"}
    return titles.get(name, name[:1].upper() + name[1:].replace("_", " "))
