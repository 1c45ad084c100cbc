"""Stage 07: figures and tables of everything that has been run.

What rows of results, scores and sets give is computed from frames alone; below stands what reads them from folders.
Drawing itself is in `dgs_utils.plots`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dgs_utils import plots
from dgs_utils.artifacts.manifests import history, input_folder, parameter, read_manifest
from dgs_utils.images.classes import read_classes
from dgs_utils.images.image_sets import ImageSet
from dgs_utils.images.tables import read_table
from dgs_utils.results.bias import gains_by_bias, gains_of_pools
from dgs_utils.results.comparisons import MARGIN, compare_with_rivals
from dgs_utils.results.controls import with_controls
from dgs_utils.results.rows import completed, main_series
from dgs_utils.results.rules import over_ipc, over_steps, rules_over_random
from dgs_utils.results.summaries import summarise, without_ablations
from dgs_utils.results.tables import lay_out
from dgs_utils.runtime.seeds import numpy_rng
from dgs_utils.selection.score_tables import read_scores
from dgs_utils.selection.targets import sampling_panels

# ---- From frames -----------------------------------------------------------------------------------------------------

def tables_of(rows: pd.DataFrame, margin: float = MARGIN) -> dict[str, pd.DataFrame]:
    """Return the tables that rows of results give.

    Args:
        rows: one row a training, as `evaluate.evaluate_set` returns them or ``results.csv`` holds them; of several
            sets, joined.
        margin: a smaller difference does not matter, percentage points.

    Returns:
        By name: "comparison", laid out as text, mean ± standard deviation (one for each protocol where there are
        several: "comparison-idc"); "summary" (`controls.with_controls`); "differences" of difficulty-guided sampling
        to each rival (`comparisons.compare_with_rivals`); "rules" (`rules.rules_over_random`); "gains" of rules by
        the bias of pools (`bias.gains_by_bias`).
    """
    rows = completed(rows)
    summary, main = summarise(rows), main_series(rows)
    protocols = list(summary["protocol"].unique())
    found = {"comparison" if len(protocols) == 1 else f"comparison-{protocol}":
             lay_out(summary[summary["protocol"] == protocol], "comparison") for protocol in protocols}
    rivals = [series for series in summary["series"].unique() if main and series != main]
    return found | {"summary": with_controls(rows), "rules": rules_over_random(rows),
                    "gains": gains_by_bias(gains_of_pools(rows)),
                    "differences": compare_with_rivals(rows, main, rivals, margin=margin)}


def figures_of(rows: pd.DataFrame, margin: float = MARGIN) -> dict[str, Figure]:
    """Return the figures that rows of results give, by name; those that the rows hold too little for are left out.

    Args:
        rows: see `tables_of`.
        margin: a smaller difference does not matter, percentage points.

    Returns:
        "accuracy" of every set; "differences" to difficulty-guided sampling; "accuracy_by_ipc"; and what each score ×
        rule has above random images: "rules", "rules_by_ipc", "rules_by_steps", and "gain_over_shift" of pools of
        known bias.
    """
    rows = completed(rows)
    tables = tables_of(rows, margin)
    by_rule = tables["rules"]
    found = {"accuracy": plots.accuracy_by_method(rows), "differences": plots.differences_to(tables["differences"]),
             "accuracy_by_ipc": plots.accuracy_by_ipc(without_ablations(summarise(rows))),
             "rules": plots.rule_grid(by_rule, margin) if len(by_rule) else None}
    found |= {f"rules_by_{x}": plots.rule_curves(part, x) for x, part in
              (("ipc", over_ipc(by_rule)), ("steps", over_steps(by_rule))) if len(part)}
    gains = gains_of_pools(rows)
    found |= {"gain_over_shift": plots.gain_over_shift(gains, margin)} if len(gains) else {}
    return {name: figure for name, figure in found.items() if figure is not None}


def panels_of(scores: pd.DataFrame, drawn: pd.DataFrame, ipc: int, bins: int = 10,
              titles: Mapping[str, str] | None = None) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Return the scores of Figure 2 for a set that difficulty-guided sampling drew.

    The row with transform shows the set itself; the row without shows what the same draw would take.

    Args:
        scores: class, set ("original", "pool"), score and transformed, both in [0, 1]: one row an image.
        drawn: class and transformed of the distilled set.
        ipc: its images per class.
        bins: of the distribution that it follows.
        titles: the classes that are shown, and what they are called; None for the first two of the set.

    Returns:
        By class (its title), row and set, as `plots.figure2` takes them.
    """
    titles = titles or {name: name for name in drawn["class"].unique()[:2]}
    panels = {}
    for name, title in titles.items():
        sets = scores[scores["class"] == name].groupby("set")
        original, pool = sets.get_group("original"), sets.get_group("pool")
        panel = sampling_panels(original["score"].to_numpy(), pool["score"].to_numpy(),
                                original["transformed"].to_numpy(), pool["transformed"].to_numpy(),
                                ipc, numpy_rng("figures", "figure 2", name), bins)
        panel["with transform"]["distilled"] = drawn.loc[drawn["class"] == name, "transformed"].to_numpy()
        panels[title] = panel
    return panels


def errors_of_judge(scores: pd.DataFrame, classes: pd.DataFrame) -> pd.DataFrame:
    """Return what a judge takes the images of each class for.

    Args:
        scores: class, and prediction (an output of the judge): one row an image.
        classes: class, index (its output) and name (readable).

    Returns:
        true, predicted (readable names; outputs that are none of the classes are "no. 5"), images: every pair that
        occurs, class by class.
    """
    twice = classes["name"].duplicated(keep=False)  # ImageNet has two cranes
    names = classes["name"].where(~twice, classes["name"] + " (" + classes["class"] + ")")
    outputs = dict(zip(classes["index"], names, strict=True))
    taken = [outputs.get(output, f"no. {output}") for output in scores["prediction"].astype(int)]
    pairs = pd.DataFrame({"true": scores["class"].map(dict(zip(classes["class"], names, strict=True))),
                          "predicted": taken})
    counted = pairs.value_counts(sort=False).reset_index(name="images")
    order = {name: place for place, name in enumerate(names)}
    return counted.sort_values(["true", "predicted"], key=lambda column: column.map(order).fillna(len(order)),
                               kind="stable").reset_index(drop=True)


def shares_of_generators(sets: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return which share of the images of each set each generator made.

    Args:
        sets: by name, a frame with generator, one row an image.

    Returns:
        set, generator, share in [0, 1]: every pair, sets as given, generators by name.
    """
    names = sorted({generator for table in sets.values() for generator in table["generator"]})
    shares = {name: table["generator"].value_counts(normalize=True).reindex(names, fill_value=0.0)
              for name, table in sets.items()}
    rows = [(name, generator, share) for name, found in shares.items() for generator, share in found.items()]
    return pd.DataFrame(rows, columns=["set", "generator", "share"])


# ---- The stage: from folders -----------------------------------------------------------------------------------------

def guided_set(samples: Sequence[Path]) -> Path | None:
    """Return the first 05 folder that difficulty-guided sampling wrote, or None."""
    found = [folder for folder in samples if read_manifest(folder)["identity"].get("method") == "dgs"]
    return found[0] if found else None


def sampling_of(distilled: Path, names: Sequence[str] = ()) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Return the scores of Figure 2 (`panels_of`) for a 05 folder that difficulty-guided sampling wrote.

    Args:
        distilled: that folder.
        names: classes; empty for the first two.
    """
    titles, folder = _titles_of(distilled), _input_of(distilled, "transform")
    scores, drawn = read_table(folder / "transformed.csv"), read_table(distilled / "metadata.csv")
    shown = {name: titles[name] for name in names or drawn["class"].unique()[:2]}
    return panels_of(scores, drawn, parameter(distilled, "ipc"), parameter(folder, "bins"), shown)


def images_of(distilled: Path, names: Sequence[str] = (),
                originals: bool = True) -> dict[str, tuple]:
    """Return the images of Figure 3, original and distilled, with their scores, by row name, as `plots.gallery` takes
    them: with what generated each, where the set tells.

    Args:
        distilled: a 05 folder that difficulty-guided sampling wrote.
        names: classes; empty for the first two.
        originals: False leaves the originals out, whose licence may forbid passing them on.
    """
    scored, titles = _scored_originals(distilled), _titles_of(distilled)
    sets = {"distilled": (distilled, read_table(distilled / "metadata.csv"))}
    if originals:
        root = ImageSet.read(_input_of(scored, "prepare"), "train").root
        sets = {"original": (root, read_scores(scored)), **sets}
    rows = {}
    for name in names or list(sets["distilled"][1]["class"].unique()[:2]):
        for which, (root, table) in sets.items():
            part = table[table["class"] == name]
            made = (part["generator"].to_list(),) if "generator" in part else ()
            rows[f"{titles[name]}, {which}"] = ([root / file for file in part["file_name"]], part["score"].to_numpy(),
                                                *made)
    return rows


def sets_of_generators(samples: Sequence[Path], results: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the sets that were taken from a pool of several generators, and first the pool itself, by name.

    Args:
        samples: 05 folders.
        results: rows that name their sets: distilled (folder) and series; others are called by their folders.

    Returns:
        As `shares_of_generators` takes them, the sets of one series together; empty where no pool has several.
    """
    series = {name.rpartition("-")[2]: series for name, series in zip(results["distilled"], results["series"],
                                                                      strict=True)}  # by keys, whatever the titles
    sets: dict[str, list[pd.DataFrame]] = {}
    for folder in samples:
        pool = input_folder(read_manifest(folder), "pool")
        whole = read_table(pool / "metadata.csv") if pool else pd.DataFrame()
        if "generator" in whole and whole["generator"].nunique() > 1:
            sets.setdefault("the pool", [whole])
            name = series.get(folder.name.rpartition("-")[2], folder.name)
            sets.setdefault(name, []).append(read_table(folder / "metadata.csv"))
    return {name: pd.concat(tables) for name, tables in sets.items()}


def judged_images(samples: Sequence[Path]) -> tuple[str, pd.DataFrame] | None:
    """Return what the judge behind some 05 folders takes images for: of the originals, or else of the pool.

    Args:
        samples: 05 folders.

    Returns:
        "originals" or "pool", and `errors_of_judge`; None where no judge's scores stand behind any of them.
    """
    scored: dict[str, Path] = {}
    for folder, manifest in (behind for sample in samples for behind in history(sample)):
        if manifest["stage"] == "03_difficulty":
            scored.setdefault(parameter(folder, "source"), folder)
    for source in ("originals", "pool"):
        scores = read_scores(scored[source]) if source in scored else pd.DataFrame()
        if "prediction" in scores:
            classes = read_classes(_input_of(scored[source], "prepare"))
            return source, errors_of_judge(scores, classes)
    return None


def _scored_originals(distilled: Path) -> Path:
    """Return the 03 folder of the originals that a distilled set was guided by."""
    return _input_of(_input_of(distilled, "transform"), "original_scores")


def _input_of(folder: Path, name: str) -> Path:
    """Return an input folder of a finished stage.

    Raises:
        ValueError: the stage had none, as that of a set which was not drawn by difficulty.
    """
    found = input_folder(read_manifest(folder), name)
    if found is None:
        raise ValueError(f"{folder} was made without the input {name}; give a set that difficulty-guided sampling drew")
    return found


def _titles_of(distilled: Path) -> dict[str, str]:
    """Return the readable name of each class."""
    classes = read_classes(_input_of(_scored_originals(distilled), "prepare"))
    return dict(zip(classes["class"], classes["name"], strict=True))
