"""Result tables: mean and spread over runs, laid out as in the paper, with the published values beside comparable ones.

Tables are made from the rows of ``results.csv`` (one a training). Cells without runs stay empty; published values have
columns of their own; rows of different protocols are never averaged nor put into one table.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from dgs_utils.params import paper
from dgs_utils.results.protocol_labels import is_comparable
from dgs_utils.results.published_tables import published_table
from dgs_utils.results.rows import CELL_KEYS, DATASET_TITLES, column_title
from dgs_utils.results.summaries import summarise
from dgs_utils.results.table_layouts import (
    FULL_SET,
    TABLE_LAYOUTS,
    TableLayout,
    axis_values,
    cells_shown,
    distinguishing_columns,
    with_titles,
)
from dgs_utils.store.atomic import atomic, write_csv

EMPTY_CELL = "–"
FILE_STEMS = {"comparison": "accuracy"}  # of tables whose files have other names


def layout_table(summary: pd.DataFrame, name: str, bold: str = "**{}**") -> pd.DataFrame:
    """Arrange cells as table ``name`` of `TABLE_LAYOUTS`, as text "mean ± std".

    The full set has no IPC: it is repeated for each. The paper's tables have the best distilled set in bold, ± in the
    paper's meaning, published values beside comparable runs (`is_comparable`), and the spread over all noise in columns
    of its own. Other tables have no bold cells: the verdict on a difference is that of `reports.write_differences`.

    ``summary`` is of `summaries.summarise`; ``bold`` is the format of the best cell of a line of the paper's tables.

    Raises:
        ValueError: the rows are of several protocols, or several results claim the same cell.
    """
    layout = TABLE_LAYOUTS[name]
    if summary["protocol"].nunique() > 1:
        raise ValueError(f"{name} mixes the protocols {', '.join(summary['protocol'].unique())}; make one table each")
    shown = cells_shown(summary, name)
    if not layout.published:
        layout = replace(layout, rows=(*layout.rows, *distinguishing_columns(shown, layout)))
    _check_unique(shown, layout, name)

    def arranged(cells: pd.DataFrame, texts: Sequence[str]) -> pd.DataFrame:
        grid = cells.assign(text=texts).pivot(index=list(layout.rows), columns=list(layout.columns), values="text")
        return grid.fillna(EMPTY_CELL).reindex(index=axis_values(layout, layout.rows, shown),
                                               columns=axis_values(layout, layout.columns, shown),
                                               fill_value=EMPTY_CELL)

    if not layout.published:
        return with_titles(arranged(shown, _accuracies(shown, "std", layout, "{}")))
    parts = {"measured": arranged(shown, _accuracies(shown, "set_std", layout, bold))}
    if is_comparable(shown):
        values = published_table(layout.published).rename(columns={"mean": "best"})
        printed = arranged(values, _accuracies(values, "std", layout, bold))
        parts["published"] = printed.loc[:, (printed != EMPTY_CELL).any()]
    parts["all noise"] = arranged(shown, [EMPTY_CELL if np.isnan(std) else f"± {std:.1f} (n {n})"
                                          for std, n in zip(shown["std"], shown["n"], strict=True)])
    text = pd.concat({half: with_titles(part) for half, part in parts.items()}, axis=1)
    return _with_ratios(text, shown) if name == "table1" else text


def _check_unique(cells: pd.DataFrame, layout: TableLayout, name: str) -> None:
    keys = [*layout.rows, *layout.columns]
    repeated = cells[cells.duplicated(keys, keep=False)]
    if len(repeated):
        key, same = next(iter(repeated.groupby(keys, sort=False, dropna=False)))
        apart = ", ".join(column for column in CELL_KEYS if same[column].nunique() > 1)
        raise ValueError(f"{name} has several results for {key}, which differ in {apart}; give 07 only the runs that "
                         f"belong together")


def _with_ratios(text: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Return Table 1 with each IPC as a share of the run's own full set, or as printed where its size is unknown."""
    per_class = cells["per_class"].max()
    ratios = {ipc: 100 * ipc / per_class if per_class > 0 else printed
              for ipc, printed in paper.PRINTED_RATIOS.items()}
    return text.rename(index={ipc: f"{ipc} ({ratio:.1f} %)" for ipc, ratio in ratios.items()}, level="ipc").rename_axis(
        index={"ipc": "IPC (ratio)"})


def _accuracies(cells: pd.DataFrame, spread: str, layout: TableLayout, bold: str) -> list[str]:
    """Return the text of each cell, "mean ± spread"; the best distilled set of those that compete is bold."""
    rivals = [name for name in (*layout.rows, *layout.columns) if name != layout.compared]
    competing = cells.assign(best=cells["best"].where(~cells["method"].isin(FULL_SET)))
    is_best = competing["best"] == competing.groupby(rivals)["best"].transform("max")
    return [(bold if marked else "{}").format(mean_and_spread(mean, std))
            for mean, std, marked in zip(cells["best"], cells[spread], is_best, strict=True)]


def mean_and_spread(mean: float, std: float) -> str:
    """Return "mean ± std", or the mean alone of a single run."""
    return f"{mean:.1f}" if np.isnan(std) else f"{mean:.1f} ± {std:.1f}"


def write_table(results: pd.DataFrame, name: str, folder: Path) -> dict[str, pd.DataFrame]:
    """Write a table as CSV (a line a cell, with every statistic), Markdown and LaTeX.

    The files are ``<name>.*``, those of "comparison" ``accuracy.*``; results of several protocols give files for each,
    ``<name>-<protocol>.*``. Return the table of each protocol, as text.
    """
    summary = summarise(results)
    protocols = list(summary["protocol"].unique())
    shown = {}
    for protocol in protocols:
        part = summary[summary["protocol"] == protocol]
        stem = FILE_STEMS.get(name, name) + ("" if len(protocols) == 1 else f"-{protocol}")
        table, words = layout_table(part, name), caption(part, name)
        write_csv(folder / f"{stem}.csv", cells_shown(part, name))
        sizes = bytes_table(part) if name == "comparison" else pd.DataFrame()
        with atomic(folder / f"{stem}.md") as partial:
            partial.write_text(f"{markdown(table)}\n\n{words}\n" + (f"\n{markdown(sizes)}\n" if len(sizes) else ""))
        with atomic(folder / f"{stem}.tex") as partial:
            latex = _latex(layout_table(part, name, bold=r"\textbf{{{}}}"))
            partial.write_text(latex + f"% {words}\n".replace("±", r"$\pm$"))
        shown[protocol] = table
    return shown


def bytes_table(summary: pd.DataFrame) -> pd.DataFrame:
    """Return accuracies beside the bytes of images and stored soft labels, smallest first, for cells that have them.

    Sets that are compared under one budget of bytes stand beside each other, whatever their IPC.
    """
    shown = summary[summary["bytes"] > 0].sort_values("bytes", kind="stable")
    spreads = {name: [mean_and_spread(*pair) for pair in zip(shown[name], shown[std], strict=True)]
               for name, std in (("best", "std"), ("last", "last_std"))}
    labels = shown["soft_labels"].replace("", "none stored")
    return pd.DataFrame({"condition": shown["condition"], "IPC": shown["ipc"], "soft labels": labels,
                         "KiB of images and labels": (shown["bytes"] / 1024).map("{:,.1f}".format), **spreads}
                        ).set_index(pd.Index(shown["series"], name="series"))


def caption(summary: pd.DataFrame, name: str = "comparison") -> str:
    """Return one paragraph on how the numbers of table ``name`` were measured."""
    shown, layout = cells_shown(summary, name), TABLE_LAYOUTS[name]
    source = summary if shown.empty else shown
    counts = {column: _range(source[column]) for column in ("n", "pools", "selections", "trainings", "set_trainings")}
    factors = sorted(source["epoch_factor"].unique())
    scaled = "" if factors == [1.0] else f" Epochs are the protocol's × {', '.join(f'{f:g}' for f in factors)}."
    seeds = (f"pool seeds {counts['pools']}, selection seeds {counts['selections']}, training seeds "
             f"{counts['trainings']}")
    spread = f"mean ± standard deviation (ddof 1) of {counts['n']} runs: {seeds}."
    if layout.published:
        spread = (f"mean ± standard deviation (ddof 0) over the n = {counts['set_trainings']} trainings of one set, "
                  f"the root mean square where there are several sets. All noise: standard deviation (ddof 1) over all "
                  f"n runs of a cell: {seeds}.")
    protocol = f"{source['protocol'].iloc[0]}, {_labels(source['label'])}"
    return (f"Best top-1 accuracy in percent over the evaluations of a run (protocol {protocol}), {spread} The "
            f"binomial standard error of one test ({source['n_test'].max()} images) is up to "
            f"{source['test_se'].max():.1f} points.{scaled}{_beside_the_paper(shown, name)}")


def _range(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"{low} to {high}" if low != high else str(low)


def _beside_the_paper(shown: pd.DataFrame, name: str) -> str:
    """Return the part of a caption on published values: why they are left out, or how ours still differ."""
    layout = TABLE_LAYOUTS[name]
    if not layout.published:
        return ""
    if not is_comparable(shown):
        return (" Published values are left out: they were measured by protocol H-A with all its epochs and tests, in "
                "fp32, at 224 pixels, on the 500 official validation images, with DiT-XL/2, 12,000 steps of "
                "fine-tuning, 50 steps of sampling and guidance 4.")
    sizes = shown[shown["originals"] > 0].groupby("dataset", sort=False)["originals"].max().astype(int)
    epochs = ", ".join(f"{paper.epochs_of_fine_tuning(images):.1f} epochs of {DATASET_TITLES.get(dataset, dataset)}'s "
                       f"{images:,} images" for dataset, images in sizes.items())
    steps = f" 12,000 steps of fine-tuning are {epochs}; the paper says 8." if epochs else ""
    ratios = "" if name != "table1" else " Ratios are as printed." if not shown["per_class"].max() > 0 else (
        " Ratios are IPC over the images that a class of the run's own training set has; the paper prints 0.8, 1.6 and "
        "3.8 %, which no one size of a class gives for 10, 20 and 50 images.")
    networks = " or of ".join(sorted(set(shown["features"]) - {""})) or "a classifier that these rows do not name"
    return (f" The published ± is over 3 repeats, most likely trainings of one set, with the ddof 0 of the published "
            f"evaluator.{ratios}{steps} {layout.note.format(features=networks)}")


def _labels(labels: pd.Series) -> str:
    """Return the labels of a table as one, with alternatives: "H-A, scaled: 40 or 30 epochs"."""
    distinct = list(dict.fromkeys(labels))
    families, differences = zip(*(label.split(", scaled: ") for label in distinct if ", scaled: " in label),
                                strict=True) if any(", scaled: " in label for label in distinct) else ((), ())
    parts = [text.split(", ") for text in differences]
    if len(families) < len(distinct) or len(set(families)) > 1 or len(set(map(len, parts))) > 1:
        return "; ".join(distinct)
    merged = [" or ".join(dict.fromkeys(same)) for same in zip(*parts, strict=True)]
    return f"{families[0]}, scaled: {', '.join(merged)}"


def markdown(table: pd.DataFrame) -> str:
    """Return a table in Markdown (pandas' own writer needs the package tabulate, and pads cells).

    >>> print(markdown(pd.DataFrame({"a": [1]}, index=pd.Index(["x"], name="set"))))
    | Set | a |
    | --- | --- |
    | x | 1 |
    """
    flat = _flat(table)
    lines = [list(flat.columns), ["---"] * flat.shape[1], *flat.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(value) for value in line) + " |" for line in lines)


def _latex(table: pd.DataFrame) -> str:
    escapes = str.maketrans({**{sign: f"\\{sign}" for sign in "&%_#"}, "±": r"$\pm$", EMPTY_CELL: "--"})
    flat = _flat(table).rename(columns=lambda name: name.translate(escapes))
    flat = flat.map(lambda value: str(value).translate(escapes))  # pandas would escape the marks of bold, too
    return flat.to_latex(index=False, column_format="l" * flat.shape[1])


def _flat(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with one header line and its row names as ordinary columns."""
    heads = [column if isinstance(column, tuple) else (column,) for column in table.columns]
    columns = [" ".join(f"IPC {part}" if name == "ipc" else str(part)
                        for name, part in zip(table.columns.names, head, strict=True)) for head in heads]
    flat = table.set_axis(columns, axis=1)
    flat.index = flat.index.set_names([column_title(name) for name in flat.index.names])
    return flat.reset_index()
