"""Figures of results and pictures. Every function takes plain arrays or frames and returns a matplotlib Figure.

The figures about difficulty (the paper's Figures 2–4) are in `dgs_utils.plots.difficulty`.
"""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from dgs_utils.artifacts import atomic, input_folder, read_manifest
from dgs_utils.images.image_sets import ImageSet, load_rgb, read_classes, read_table
from dgs_utils.methods import METHODS
from dgs_utils.runtime.seeds import numpy_rng
from dgs_utils.selection.score_tables import read_scores
from dgs_utils.selection.targets import sampling_panels


def use_style() -> None:
    """Switch matplotlib to the kit's style sheet."""
    plt.style.use(str(files("dgs_utils.plots") / "dgs.mplstyle"))


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write a figure as ``<name>.pdf`` and ``<name>.png``; no dates go in, so the same figure gives the same bytes."""
    for suffix, metadata in (("pdf", {"CreationDate": None}), ("png", {"Software": None})):
        with atomic(folder / f"{name}.{suffix}") as partial:
            figure.savefig(partial, format=suffix, metadata=metadata)


def contact_sheet(rows: dict[str, Sequence[Path | np.ndarray]], captions: dict[str, Sequence[str]] | None = None,
                  cell: float = 0.55) -> Figure:
    """Show pictures in named rows.

    Args:
        rows: pictures by row name: paths, or arrays (H, W) or (H, W, 3), uint8 or float in [0, 1].
        captions: a short text under each picture, by row name.
        cell: side of a picture in inches.
    """
    width = max(len(pictures) for pictures in rows.values())
    height = cell * (1.35 if captions else 1.05)
    figure, axes = plt.subplots(len(rows), width, figsize=(cell * width + 1.2, height * len(rows)), squeeze=False)
    dpi = figure.dpi if plt.rcParams["savefig.dpi"] == "figure" else plt.rcParams["savefig.dpi"]
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        for axis in line:
            axis.set_axis_off()
        for place, picture in enumerate(pictures):
            array = np.asarray(load_rgb(picture)) if isinstance(picture, Path) else np.asarray(picture)
            # Enlarged pixels stay squares; pictures that must shrink are filtered, or fine texture would alias.
            line[place].imshow(array, cmap="gray", vmin=0, vmax=255 if array.dtype == np.uint8 else 1,
                               interpolation="hanning" if len(array) > cell * dpi else "nearest")
            if captions:
                line[place].set_title(captions[name][place], fontsize=6, pad=1.5, y=-0.28)
        line[0].text(-0.15, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=8)
    return figure


def training_curves(curves: pd.DataFrame, x: str, ys: Sequence[str], smooth: float = 0.97) -> Figure:
    """Plot losses over steps, one panel each: every step pale, an exponential average (of weight ``smooth``) strong."""
    figure, axes = plt.subplots(1, len(ys), figsize=(3.2 * len(ys), 2.4), squeeze=False)
    for axis, y in zip(axes[0], ys, strict=True):
        axis.plot(curves[x], curves[y], alpha=0.25, linewidth=0.6)
        axis.plot(curves[x], curves[y].ewm(alpha=1 - smooth).mean(), color="C0")
        axis.set(xlabel=x, title=y)
    return figure


def accuracy_by_method(results: pd.DataFrame) -> Figure:
    """Show best top-1 accuracy of each series, a panel a setting: bars for the mean, dots for single runs."""
    places = {name: place for place, name in enumerate(METHODS)}  # a foreign folder's set comes last
    order = results.assign(place=results["method"].map(places)).sort_values("place", kind="stable")["series"].unique()
    ipcs = results["ipc"].replace(0, "all").astype(str)
    data = results.assign(Method=results["series"], IPC=ipcs)
    shades = sorted(data["IPC"].unique(), key=lambda ipc: (ipc == "all", len(ipc), ipc))
    panels = data.groupby("setting", sort=False)
    height = max(3.0, 0.7 + 0.09 * len(order) * (1 + len(shades)))
    figure, axes = plt.subplots(1, len(panels), figsize=(1.2 + 2.9 * len(panels), height), sharey=True, squeeze=False)
    for axis, (title, part) in zip(axes[0], panels, strict=True):
        options = {"data": part, "x": "best", "y": "Method", "order": order, "hue": "IPC", "hue_order": shades,
                   "ax": axis}
        sns.barplot(**options, errorbar=None, palette=sns.color_palette("Blues_d", len(shades)), alpha=0.75)
        sns.stripplot(**options, palette=["0.15"] * len(shades), dodge=True, jitter=False, size=3, legend=False)
        axis.set(xlabel="best top-1 accuracy (%)", ylabel="", title=title)
        axis.get_legend().remove()
    if len(shades) > 1:
        figure.legend(*axes[0, 0].get_legend_handles_labels(), title="IPC", loc="outside right upper")
    return figure


def accuracy_by_ipc(summary: pd.DataFrame) -> Figure | None:
    """Show mean best accuracy against images per class, with 95 % intervals (t), a panel a setting that has several.

    An interval is over the outermost source of noise that was repeated, and ends at 0 and 100 %. Series stand beside
    each other so that none hides another, and the scale follows the means: two repeats make intervals that would
    flatten everything else, so these run out of the frame. The full set is a line across. None where no setting
    has several.
    """
    from scipy import stats

    sized = summary[summary["ipc"] != 0].groupby("setting")["ipc"].nunique()
    summary = summary[summary["setting"].isin(sized[sized > 1].index)]
    if summary.empty:
        return None
    panels = summary.groupby("setting", sort=False)
    names, ipcs = list(summary["series"].unique()), sorted(set(summary["ipc"]) - {0})
    looks = dict(zip(names, _looks(len(names)), strict=True))
    places = np.arange(len(names)) - (len(names) - 1) / 2
    shift = dict(zip(names, 0.12 * (ipcs[-1] - ipcs[0]) * places / len(names), strict=True))
    size = (2.2 + 3.2 * len(panels), max(3.0, 0.5 + 0.17 * len(names)))
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    for axis, (title, shown) in zip(axes[0], panels, strict=True):
        for series, part in shown.groupby("series", sort=False):
            if (part["ipc"] == 0).all():
                axis.axhline(part["best"].mean(), color="0.4", linestyle=":", label=series)
                continue
            part = part.sort_values("ipc")
            half = (stats.t.ppf(0.975, (part["units"] - 1).clip(lower=1)) * part["error"]).fillna(0)
            ends = np.stack([np.minimum(half, part["best"]), np.minimum(half, 100 - part["best"])])
            axis.errorbar(part["ipc"] + shift[series], part["best"], yerr=ends, markersize=3.5, capsize=2,
                          linewidth=1, elinewidth=0.7, label=series, **looks[series])
        axis.set(xlabel="images per class (IPC)", title=title, xticks=ipcs)
    margin = 0.1 * np.ptp(summary["best"]) + 1
    axes[0, 0].set(ylabel="best top-1 accuracy (%)",
                   ylim=(summary["best"].min() - margin, summary["best"].max() + margin))
    entries = [axis.get_legend_handles_labels() for axis in axes[0]]
    handles = {label: handle for pairs in entries for handle, label in zip(*pairs, strict=True)}
    figure.legend([handles[name] for name in names], names, loc="outside right center")
    return figure


def _looks(count: int) -> list[dict]:
    """Return colours and markers that tell ``count`` lines apart, the first ten by colour alone."""
    colors = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    return [{"color": colors[place % len(colors)], "marker": "osD^"[place // len(colors) % 4]}
            for place in range(count)]


def accuracy_curves(curves: pd.DataFrame) -> Figure:
    """Plot test accuracy over epochs, a line a training; a star marks the best test, which the protocol reports."""
    figure, axis = plt.subplots(figsize=(4.2, 2.8))
    for place, (seed, curve) in enumerate(curves.groupby("training_seed")):
        counting = curve[curve["counts"]]  # the protocol's choice among tests
        best = counting.loc[counting["top1"].idxmax()]
        axis.plot(curve["epoch"], curve["top1"], color=f"C{place}", label=f"seed {seed}")
        axis.plot(best["epoch"], best["top1"], "*", color=f"C{place}", markersize=8)
    axis.set(xlabel="epoch", ylabel="top-1 accuracy (%)")
    axis.legend()
    return figure


def accuracy_by_class(per_class: pd.DataFrame, confusion: pd.DataFrame) -> Figure:
    """Show accuracy per class (mean and single runs) beside the confusion matrix, summed over runs, rows in percent."""
    names = list(dict.fromkeys(per_class["class"].astype(str)))
    matrix = confusion.groupby("true", sort=False)[names].sum()
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4), width_ratios=(1, 1.25))
    sns.barplot(per_class.astype({"class": str}), x="top1", y="class", errorbar=None, color="C0", alpha=0.75, ax=left)
    sns.stripplot(per_class.astype({"class": str}), x="top1", y="class", color="0.15", size=3, jitter=False, ax=left)
    left.set(xlabel="top-1 accuracy (%)", ylabel="")
    shares = 100 * matrix.div(matrix.sum(axis=1), axis=0)
    sns.heatmap(shares, cmap="Blues", vmin=0, vmax=100, annot=len(names) <= 12, fmt=".0f", annot_kws={"size": 6},
                cbar_kws={"label": "% of the true class"}, ax=right)
    right.set(xlabel="predicted", ylabel="true")
    return figure


# ---- What Figures 2 and 3 are made of --------------------------------------------------------------------------------

def guided_set(samples: Sequence[Path]) -> Path | None:
    """Return the first 05 folder that difficulty-guided sampling wrote, or None."""
    found = [folder for folder in samples if read_manifest(folder)["identity"].get("method") == "dgs"]
    return found[0] if found else None


def sampling_of(distilled: Path, names: Sequence[str] = ()) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Return the scores of Figure 2 for a set that difficulty-guided sampling drew.

    The row with transform shows the set itself; the row without shows what the same draw would take.

    Args:
        distilled: its 05 folder.
        names: classes; empty for the first two.

    Returns:
        By class (its readable name), row and set, as `plots_difficulty.figure2` takes them.
    """
    manifest, titles = read_manifest(distilled), _titles_of(distilled)
    folder = input_folder(manifest, "transform")
    scores, drawn = read_table(folder / "transformed.csv"), read_table(distilled / "metadata.csv")
    panels = {}
    for name in names or list(drawn["class"].unique()[:2]):
        sets = scores[scores["class"] == name].groupby("set")
        arrays = [sets.get_group(which)[column].to_numpy() for column in ("score", "transformed")
                  for which in ("original", "pool")]
        panel = sampling_panels(*arrays, manifest["params"]["ipc"], numpy_rng("figure 2", name),
                                read_manifest(folder)["params"]["bins"])
        panel["with transform"]["distilled"] = drawn.loc[drawn["class"] == name, "transformed"].to_numpy()
        panels[titles[name]] = panel
    return panels


def pictures_of(distilled: Path, names: Sequence[str] = (),
                originals: bool = True) -> dict[str, tuple[list[Path], np.ndarray]]:
    """Return the pictures of Figure 3, original and distilled, with their scores, by row name.

    Args:
        distilled: a 05 folder that difficulty-guided sampling wrote.
        names: classes; empty for the first two.
        originals: False leaves the originals out, whose licence may forbid passing them on.
    """
    scored, titles = _scored_originals(distilled), _titles_of(distilled)
    sets = {"distilled": (distilled, read_table(distilled / "metadata.csv"))}
    if originals:
        root = ImageSet.read(input_folder(read_manifest(scored), "prepare"), "train").root
        sets = {"original": (root, read_scores(scored)), **sets}
    rows = {}
    for name in names or list(sets["distilled"][1]["class"].unique()[:2]):
        for which, (root, table) in sets.items():
            part = table[table["class"] == name]
            rows[f"{titles[name]}, {which}"] = ([root / file for file in part["file_name"]], part["score"].to_numpy())
    return rows


def _scored_originals(distilled: Path) -> Path:
    """Return the 03 folder of the originals that a distilled set was guided by."""
    return input_folder(read_manifest(input_folder(read_manifest(distilled), "transform")), "original_scores")


def _titles_of(distilled: Path) -> dict[str, str]:
    """Return the readable name of each class."""
    classes = read_classes(input_folder(read_manifest(_scored_originals(distilled)), "prepare"))
    return dict(zip(classes["class"], classes["name"], strict=True))
