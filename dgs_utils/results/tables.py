"""Result tables: mean and spread over runs, laid out as in the paper, with the published value beside ours.

Everything starts from the rows of ``results.csv`` (one a training run). A cell that has not been run stays visibly
empty; published values stand in their own column and are never mixed with measured ones, and only beside runs that they
can be compared with. Rows of different evaluation protocols are never averaged nor put into one table.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dgs_utils.artifacts.files import atomic, write_csv
from dgs_utils.methods import METHODS
from dgs_utils.results.bias import LINE, gains_by_bias, trends_of
from dgs_utils.results.comparisons import signed
from dgs_utils.results.labels import is_comparable
from dgs_utils.results.published_values import published
from dgs_utils.results.rows import BY_IPC, CELL, CONDITION, DATASETS, LABELS, MAKING, NETWORKS, shortest, title_of
from dgs_utils.results.summaries import ABLATIONS, summarise, swept, without_ablations

EMPTY = "–"


@dataclass(frozen=True)
class Layout:
    """How a table arranges its cells.

    Attributes:
        rows, columns: names of summary columns. Where there is no published table to hold on to, whatever else tells
            two cells apart is added to the rows.
        compared: the one of these names in which cells compete: the best of those that agree in all others is bold.
        cells: values that are always shown, run or not, by summary column; others appear as they were run.
        published: number of the paper's table whose values are shown beside ours; 0 for none.
        note: how runs as published still differ from the published ones; {features} stands for what coresets saw.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    compared: str
    cells: dict[str, list]
    published: int = 0
    note: str = ""


IPCS = [10, 20, 50]
POOLS = "How many pools are behind the published values, and which noise their ± covers, is not known."
FIRST = "The published Random is the first files in order of names, ours a seeded draw."
CORESETS = ("K-Center and Herding see the features of {features}; IDC's authors took a ResNetAP-10 trained on the full "
            "set, at its best epoch where ours is at its last, and which one the published rows used is not known.")
LAYOUTS: dict[str, Layout] = {
    "comparison": Layout(("dataset", "series"), ("network", "ipc"), "series", {}),
    **{name: Layout(("dataset", "network", name), ("ipc",), name, {"method": ["dgs"]}) for name in ABLATIONS},
    "table1": Layout(("ipc", "network"), ("method",), "method", {
        "augment": [True], "dataset": ["imagewoof"], "ipc": IPCS, "network": ["convnet6", "resnet_ap10", "resnet18"],
        "method": ["first", "random", "k_center", "herding", "dit", "dm", "idc", "minimax", "dgs", "full"],
        "distribution": ["", "scale"], "pool_factor": [0, 5],
    }, published=1, note=f"{FIRST} {CORESETS} {POOLS}"),
    "table2": Layout(("dataset", "ipc"), ("method",), "method", {
        "augment": [True], "dataset": ["imagenette", "imageidc"], "ipc": IPCS, "network": ["resnet_ap10"],
        "method": ["first", "random", "dit", "minimax", "dgs"], "distribution": ["", "scale"], "pool_factor": [0, 5],
    }, published=2, note=f"{FIRST} {POOLS}"),
    "table3": Layout(("distribution",), ("ipc",), "distribution", {
        "augment": [True], "dataset": ["imagewoof"], "ipc": IPCS, "network": ["resnet_ap10"], "method": ["dgs"],
        "distribution": ["hill", "ground", "slope", "cliff", "scale"], "pool_factor": [5],
    }, published=3, note=POOLS),
    "table4": Layout(("pool_factor",), ("ipc",), "pool_factor", {
        "augment": [True], "dataset": ["imagewoof"], "ipc": IPCS, "network": ["resnet_ap10"], "method": ["dgs"],
        "distribution": ["scale"], "pool_factor": [2, 3, 4, 5, 6],
    }, published=4, note=POOLS),
}


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
    others = [name for name in (CONDITION if "series" in places else CELL) if name not in places]
    varying = [name for name in others if kept[name].nunique() > 1 and name not in BY_IPC]
    clashing = kept.groupby([*places, *varying])
    return varying + [name for name in others if name in BY_IPC and clashing[name].nunique().max() > 1]


def cells_of(summary: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the rows of a summary that table ``name`` shows, the full set once for each IPC.

    An ablation shows sets of difficulty-guided sampling that differ in nothing else (all sets where there are none
    such), the comparison only one of them.
    """
    kept = without_ablations(summary) if name == "comparison" else summary
    if name in ABLATIONS and swept(kept, name).any():
        kept = kept[swept(kept, name)]
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
    text = text.rename(index={"": "none"}, level="cut") if "cut" in text.index.names else text
    return text.rename(index=lambda value: names.get(value, shortest(value)),
                       columns=lambda value: names.get(value, shortest(value)))


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
    """Write comparisons with one arm as ``<name>.csv``, and as a table and sentences ``<name>.md``.

    Args:
        comparisons: rows of `comparisons.compare_with_rivals`.
        name: of the files.
        folder: where they go.

    Returns:
        What the Markdown file says: differences in percentage points and their intervals, bold where zero is outside
        for all comparisons together; then a sentence a comparison, with its p values.
    """
    write_csv(folder / f"{name}.csv", comparisons)
    if comparisons.empty:
        return ""
    texts = comparisons.assign(text=[_difference(row) for row in comparisons.itertuples()])
    table = texts.pivot(index="second", columns=["condition", "ipc"], values="text").fillna(EMPTY)
    table = table.reindex(index=texts["second"].unique(), columns=texts.set_index(["condition", "ipc"]).index.unique())
    known = int(comparisons["p"].notna().sum())
    told = comparisons.iloc[0]
    note = (f"Percentage points, by the accuracy at the {told['measure']} epoch of each training, with "
            f"{100 * told['confidence']:.0f} % intervals; bold where zero is outside after Holm's correction for "
            f"{known} comparisons.")
    lines = [f"* {row.condition}, IPC {row.ipc}: {row.sentence}{_p_values(row)}" for row in comparisons.itertuples()]
    grid = _markdown(table.rename_axis(index=f"{told['first']} minus"))
    text = "\n\n".join([grid, note, "\n".join(lines)]) + "\n"
    with atomic(folder / f"{name}.md") as partial:
        partial.write_text(text)
    return text


def write_gains(gains: pd.DataFrame, name: str, folder: Path) -> str:
    """Write what rules have above others on pools of each bias as ``<name>.csv``, and as a table ``<name>.md``.

    Args:
        gains: rows of `bias.gains_of_pools`, with or without `bias.with_differences`.
        name: of the files.
        folder: where they go.

    Returns:
        What the Markdown file says: a line a rule, the means of each β from the easiest pools to the hardest, and how
        gains go with the shift, bold where that is told from chance for all lines together.
    """
    means, trends = gains_by_bias(gains), trends_of(gains)
    write_csv(folder / f"{name}.csv", means.merge(trends.drop(columns="pools"), on=LINE, how="left"))
    if means.empty:
        return ""
    told = means.iloc[0]
    shifts = means.groupby("bias")["shift"].mean().sort_values()
    taus = {tuple(names): _bold(signed(tau, 2), p_holm < 1 - told["confidence"])
            for *names, tau, p_holm in trends[[*LINE, "tau", "p_holm"]].itertuples(index=False)}
    several, lines = means.groupby(["condition", "ipc"]).ngroups > 1, []
    for names, part in means.groupby(LINE, sort=False):
        condition, ipc, rule, _ = names
        cells = {row.bias: _interval(row.gain, row.low, row.high) for row in part.itertuples()}
        lines.append([f"{condition}, IPC {ipc}: {rule}" if several else rule,
                      *(cells.get(bias, EMPTY) for bias in shifts.index), taus.get(names, EMPTY)])
    heads = [f"β {bias}, shift {signed(shift, 2)}".replace("β -", "β −") for bias, shift in shifts.items()]
    table = pd.DataFrame(lines, columns=["Rule", *heads, "τ"]).set_index("Rule")
    place = "" if several else f"{told['condition']}, IPC {told['ipc']}: "
    least, most = means["pools"].min(), means["pools"].max()
    note = (f"{place}percentage points of best top-1 accuracy above random images of the same pool, or as named; means "
            f"of {least if least == most else f'{least} to {most}'} pools of each β with "
            f"{100 * told['confidence']:.0f} % intervals over pools. Shift: how much harder a pool is than the "
            f"originals (Wasserstein-1). τ: Kendall's rank correlation of gain and shift over all pools, bold where it "
            f"is not 0 after Holm's correction for {len(trends)} lines.")
    text = f"{_markdown(table)}\n\n{note}\n"
    with atomic(folder / f"{name}.md") as partial:
        partial.write_text(text)
    return text


def _difference(found: Any) -> str:
    return _bold(_interval(found.difference, found.low, found.high), found.p_holm < 1 - found.confidence)


def _interval(value: float, low: float, high: float) -> str:
    if np.isnan(low):
        return EMPTY if np.isnan(value) else signed(value)
    return f"{signed(value)} ({signed(low)} to {signed(high)})"


def _bold(text: str, is_bold: bool) -> str:
    return f"**{text}**" if is_bold else text


def _p_values(found: Any) -> str:
    if np.isnan(found.p):
        return ""
    images = "" if np.isnan(found.p_images) else f"; on these images and trainings alone, McNemar {found.p_images:.2g}"
    return f" p = {found.p:.2g}, Holm {found.p_holm:.2g}{images}."


def caption(summary: pd.DataFrame, name: str = "comparison") -> str:
    """Return one paragraph that tells how the numbers of table ``name`` came about."""
    shown = cells_of(summary, name)
    source = summary if shown.empty else shown
    ranges = [(source[column].min(), source[column].max()) for column in ("n", "pools", "selections", "trainings")]
    counts = [f"{low} to {high}" if low != high else str(low) for low, high in ranges]
    factors = sorted(source["epoch_factor"].unique())
    scaled = "" if factors == [1.0] else f" Epochs are the protocol's × {', '.join(f'{f:g}' for f in factors)}."
    seen = " or of ".join(sorted(set(shown["features"]) - {""})) or "a classifier that these rows do not tell"
    note = LAYOUTS[name].note.format(features=seen)
    apart = "" if not LAYOUTS[name].published else f" {note}" if is_comparable(shown) else (
        " Published values are left out: they were measured by protocol H-A with all its epochs and tests, in fp32, at "
        "224 pixels, on the 500 official validation images, with DiT-XL/2, 12,000 steps of fine-tuning, 50 steps of "
        "sampling and guidance 4.")
    protocol = f"{source['protocol'].iloc[0]}, {_labels(source['label'])}"
    return (f"Best top-1 accuracy in percent over the evaluations of a run (protocol {protocol}), "
            f"mean ± standard deviation (ddof 1) of {counts[0]} runs: pool seeds {counts[1]}, selection seeds "
            f"{counts[2]}, training seeds {counts[3]}. The binomial standard error of one test "
            f"({source['n_test'].max()} images) is up to {source['test_se'].max():.1f} points.{scaled}{apart}")


def _labels(labels: pd.Series) -> str:
    """Return the labels of a table as one, with alternatives where they differ: "H-A, scaled: 40 or 30 epochs"."""
    distinct = list(dict.fromkeys(labels))
    families, differences = zip(*(label.split(", scaled: ") for label in distinct if ", scaled: " in label),
                                strict=True) if any(", scaled: " in label for label in distinct) else ((), ())
    parts = [text.split(", ") for text in differences]
    if len(families) < len(distinct) or len(set(families)) > 1 or len(set(map(len, parts))) > 1:
        return "; ".join(distinct)
    merged = [" or ".join(dict.fromkeys(same)) for same in zip(*parts, strict=True)]
    return f"{families[0]}, scaled: {', '.join(merged)}"


def _markdown(table: pd.DataFrame) -> str:
    # pandas' own writer wants tabulate and pads every cell, which would change each committed table.
    flat = _flat(table)
    lines = [list(flat.columns), ["---"] * flat.shape[1], *flat.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(value) for value in line) + " |" for line in lines)


def _latex(table: pd.DataFrame) -> str:
    escapes = str.maketrans({**{sign: f"\\{sign}" for sign in "&%_#"}, "±": r"$\pm$", EMPTY: "--"})
    flat = _flat(table).rename(columns=lambda name: name.translate(escapes))
    flat = flat.map(lambda value: str(value).translate(escapes))  # pandas would escape the marks of bold, too
    return flat.to_latex(index=False, column_format="l" * flat.shape[1])


def _flat(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with one header line and its row names as ordinary columns."""
    heads = [column if isinstance(column, tuple) else (column,) for column in table.columns]
    columns = [" ".join(f"IPC {part}" if name == "ipc" else str(part)
                        for name, part in zip(table.columns.names, head, strict=True)) for head in heads]
    flat = table.set_axis(columns, axis=1)
    flat.index = flat.index.set_names([title_of(name) for name in flat.index.names])
    return flat.reset_index()


